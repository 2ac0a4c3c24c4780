//! The engine's settings for a backend, for all scenarios that run the engine.

use crate::Result;
use crate::store::Backend;
use thalweg::EngineBuilder;
use thalweg::config::StateBackend;

/// Makes an engine keep keyed state in `backend`.
///
/// # Errors
/// The engine has no such backend.
pub fn backend(builder: EngineBuilder, backend: Backend) -> Result<EngineBuilder> {
    match backend {
        Backend::Hashmap => Ok(builder.state_backend(StateBackend::HashMap)),
        Backend::Log => Ok(builder.state_backend(StateBackend::Log)),
    }
}
