//! What the coordinator needs of a job's graph: a fresh set of tasks for each attempt.

use crate::control::{ReportSink, TaskId};
use crate::task::Task;
use std::sync::Arc;
use thalweg_storage::AttemptId;
use thalweg_storage::manifest::{EdgeState, Manifest};

/// Builds the tasks of an attempt.
pub trait Deploy: Send {
    /// Builds all tasks of `attempt`, with the state of `restore` where given. Runs on the control thread and may
    /// wait for the disk. `reports` is where the tasks send their acknowledgements.
    ///
    /// # Errors
    /// The attempt fails as if a task had failed.
    fn deploy(
        &mut self,
        attempt: AttemptId,
        restore: Option<&Manifest>,
        reports: Arc<dyn ReportSink>,
    ) -> Result<Deployment, DeployError>;
}

/// The tasks of one attempt.
pub struct Deployment {
    /// Each task with its worker, an index into the job's workers.
    pub tasks: Vec<(usize, TaskId, Box<dyn Task>)>,
    /// The operators, in the order in which manifests list them.
    pub operators: Vec<DeployedOperator>,
    /// The edges, in any order.
    pub edges: Vec<EdgeState>,
    /// In-flight records restored.
    pub restored_records: u64,
}

/// One operator of a deployed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeployedOperator {
    /// Its stable uid.
    pub uid: Arc<str>,
    /// Number of its subtasks.
    pub parallelism: u32,
}

/// Why an attempt could not be deployed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operator}{sep}{message}", operator = operator.as_deref().unwrap_or(""), sep = if operator.is_some() { ": " } else { "" })]
pub struct DeployError {
    /// What went wrong, and what to do about it.
    pub message: String,
    /// True when another attempt can't help, such as a checkpoint that does not fit the job.
    pub fatal: bool,
    /// Uid of the operator, where one is to blame.
    pub operator: Option<String>,
}
