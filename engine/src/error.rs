//! The engine's error type.

use thalweg_storage::StoreError;

/// Why an engine could not be built, or a job not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting has a value that cannot be used. Nothing was started.
    #[error("setting `{key}`: {message}")]
    Config {
        /// The setting.
        key: &'static str,
        /// What is wrong with it and what would be right.
        message: String,
    },
    /// The workers could not be started. Nothing runs.
    #[error("{0}")]
    Workers(String),
    /// The dataflow was written with a mistake. Nothing was started.
    #[error("dataflow `{job}`: {message}")]
    Dataflow {
        /// The job.
        job: String,
        /// The mistake.
        message: String,
    },
    /// A source or sink cannot work. Nothing was started.
    #[error("operator `{operator}`: {message}")]
    Connector {
        /// The operator's chain.
        operator: String,
        /// What is wrong.
        message: String,
    },
    /// The checkpoint directory cannot be used. Nothing was started.
    #[error("checkpoints: {0}")]
    Checkpoints(#[from] StoreError),
    /// The engine runs a job already.
    #[error("the engine runs a job already: wait for it, or build another engine")]
    Busy,
    /// The job has failed for good. Its completed checkpoints are kept.
    #[error("the job failed: {0}")]
    JobFailed(String),
    /// The job was cancelled. Its completed checkpoints are kept.
    #[error("the job was cancelled")]
    Cancelled,
    /// A checkpoint that was asked for did not complete. The job goes on.
    #[error("the checkpoint did not complete: {0}")]
    CheckpointFailed(String),
    /// A savepoint that was asked for is not complete, or the job did not stop with it. The message says which; unless it
    /// says otherwise the job goes on.
    #[error("the savepoint failed: {0}")]
    SavepointFailed(String),
    /// The job cannot start from what it was told to start from. Nothing was started.
    #[error("cannot start from {path}: {source}", path = path.display())]
    Restore {
        /// The path that was given.
        path: std::path::PathBuf,
        /// What is wrong with it and what would be right.
        #[source]
        source: StoreError,
    },
}

/// An error of user or connector code.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The error of a sink whose prepared or checkpointed output is gone: the job must stop, since a restart would hide
/// the loss. Any other error of a writer restarts the attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OutputLost(pub String);

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFailure {
    /// Uid of the operator that failed, or the name of its chain.
    pub operator: String,
    /// The partition (subtask index).
    pub partition: u32,
    /// The error's or panic's message.
    pub message: String,
    /// True when the job must stop instead of restarting: output may have been lost, or the checkpoint that is being
    /// restored is damaged or does not fit.
    pub fatal: bool,
}
