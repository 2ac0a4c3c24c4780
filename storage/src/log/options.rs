//! What a log-structured table needs from outside.

use crate::io::DiskHandle;
use std::fmt;
use std::path::PathBuf;

/// Settings of one [`super::LogTable`].
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct LogOptions {
    /// The disk on which segments and the scratch file lie; without one, all pages stay in memory. A worker's has a
    /// [`crate::io::Notify`] that wakes it: then it asks [`crate::table::StateTable::ready`] again.
    pub disk: Option<DiskHandle>,
    /// The directory of the job's checkpoints, below which segments are read back.
    pub job_dir: Option<PathBuf>,
    /// For pages that leave memory before a checkpoint has them: a file whose name begins with this, such as
    /// [`crate::checkpoint::names::scratch_path`] below the job's directory; each state adds to it. Without one such pages stay
    /// in memory.
    pub scratch: Option<PathBuf>,
    /// Most bytes of pages in memory; none means no limit. Index and metadata are counted apart.
    pub memory_bytes: Option<usize>,
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions")
            .field("disk", &self.disk.is_some())
            .field("job_dir", &self.job_dir)
            .field("scratch", &self.scratch)
            .field("memory_bytes", &self.memory_bytes)
            .finish()
    }
}
