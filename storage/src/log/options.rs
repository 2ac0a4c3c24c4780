//! What a log-structured table needs from outside.

use crate::io::DiskHandle;
use std::fmt;
use std::path::PathBuf;

/// Settings of one [`super::LogTable`].
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct LogOptions {
    /// The disk on which segments and the scratch file lie; without one, all pages stay in memory.
    pub disk: Option<DiskHandle>,
    /// The directory of the job's checkpoints, below which segments are read back.
    pub job_dir: Option<PathBuf>,
    /// A file of the table's own for pages that leave memory before a checkpoint has them.
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
