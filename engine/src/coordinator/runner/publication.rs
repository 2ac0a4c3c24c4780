//! The runner's part about checkpoints and savepoints on disk: their begin, and their publication.
//!
//! Always true: a savepoint that stops the job stands as a checkpoint in the job's directory before anybody hears that it is
//! complete.

use super::Runner;
use crate::control::SnapshotKind;
use crate::coordinator::assemble::{assemble, edges_of};
use crate::coordinator::event::{Acknowledged, Event};
use std::path::Path;
use thalweg_storage::StoreError;
use thalweg_storage::manifest::{Manifest, ManifestKind, Origin};

impl Runner {
    pub(super) fn begin(&mut self, savepoint_root: Option<&Path>) -> Option<Event> {
        let backend = self.backend.as_mut()?;
        crash_point!("trigger.before_begin");
        let begun = match savepoint_root {
            Some(root) => backend.begin_savepoint(root).map(|(id, dir)| (id, Some(dir.into()))),
            None => backend.begin().map(|id| (id, None)),
        };
        crash_point!("trigger.after_begin");
        Some(match begun {
            Ok((id, dir)) => Event::Begun { id, unix_ms: self.clock.unix_ms(), dir },
            Err(error) => Event::BeginFailed(error.to_string()),
        })
    }

    pub(super) fn publish(&mut self, acknowledged: Acknowledged) -> Option<Event> {
        let Acknowledged { id, kind, attempt, triggered_unix_ms, snapshots } = acknowledged;
        crash_point!("publish.before_manifest");
        let backend = self.backend.as_mut()?;
        let (operators, channels) = match assemble(&self.operators, snapshots) {
            Ok(parts) => parts,
            Err(message) => return Some(Event::PublishFailed { id, message, outcome_unknown: false }),
        };
        let mut manifest = Manifest {
            job: self.job.clone(),
            checkpoint: id,
            attempt,
            triggered_unix_ms,
            max_parallelism: self.max_parallelism,
            kind: if kind.is_savepoint() { ManifestKind::Savepoint } else { ManifestKind::Checkpoint },
            origin: None,
            operators,
            edges: edges_of(&self.edges, &channels),
            channels,
        };
        if let SnapshotKind::Savepoint { dir, stop } = &kind {
            if let Err(error) = backend.publish_savepoint(&manifest) {
                // Whatever became of it, nothing depends on it yet.
                let message = error.to_string();
                return Some(Event::PublishFailed { id, message, outcome_unknown: false });
            }
            tracing::info!(job = self.job, savepoint = %dir.display(), "a savepoint is complete");
            if stop.is_none() || broken!(StopLeavesNoCheckpoint) {
                let core = &self.core;
                crash_point!("savepoint.before_id_given_back");
                if let Err(error) = backend.discard(id, &[], &|path| core.in_use(path)) {
                    tracing::warn!(job = self.job, %error, "the directory of a savepoint's id remains");
                }
                crash_point!("savepoint.after_id_given_back");
                return Some(Event::Published(id));
            }
            // Sinks commit what it lists, so from now on the job must go on from it and from nothing older.
            let text = dir.to_string_lossy().into_owned();
            manifest.kind = ManifestKind::Checkpoint;
            manifest.origin = Some(Origin { root: text.clone(), dir: text, claimed: false });
            crash_point!("stop.before_checkpoint");
        }
        let core = &self.core;
        Some(match backend.publish(&manifest, self.retained, &|path| core.in_use(path)) {
            Ok(manifest_bytes) => {
                crash_point!("publish.after_manifest");
                tracing::debug!(
                    job = self.job,
                    checkpoint = id.0,
                    manifest_bytes,
                    "a checkpoint is complete"
                );
                Event::Published(id)
            }
            Err(error) => Event::PublishFailed {
                id,
                outcome_unknown: matches!(error, StoreError::OutcomeUnknown { .. }),
                message: error.to_string(),
            },
        })
    }
}
