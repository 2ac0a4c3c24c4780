//! Names of output files, and the durable steps from one name to the next.
//!
//! | name | meaning |
//! |---|---|
//! | `.part-00001-000007.csv.3.inprogress` | being written; subtask 1, sequence 7, begun by attempt 3 |
//! | `.part-00001-000007.csv.3.pending`    | finished and durable; waits for its checkpoint |
//! | `part-00001-000007.csv`               | committed |
//!
//! Always true: a final name appears only by a rename of a finished file, and never replaces another file. The attempt
//! keeps the files of an attempt that failed apart from those of the next.

use super::open_file::{Flow, OpenFile, answer};
use crate::connector::{BoxError, OutputLost};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_storage::io::{DiskHandle, OpenMode};

/// Identity of one output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, postcard_schema::Schema)]
pub(super) struct PartName {
    pub subtask: u32,
    pub sequence: u64,
    pub attempt: u64,
}

/// An output file of a known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, postcard_schema::Schema)]
pub(super) struct PartRef {
    pub name: PartName,
    pub bytes: u64,
}

thalweg_storage::data!(PartRef);

/// What the name of a file in the output directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    InProgress(PartName),
    Pending(PartName),
    Final { subtask: u32, sequence: u64 },
}

/// Where a sink's files are and what they are called.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub dir: PathBuf,
    pub prefix: String,
    pub extension: String,
}

impl Layout {
    fn base(&self, name: PartName) -> String {
        format!("{}-{:05}-{:06}.{}", self.prefix, name.subtask, name.sequence, self.extension)
    }

    pub fn in_progress(&self, name: PartName) -> PathBuf {
        self.dir.join(format!(".{}.{}.inprogress", self.base(name), name.attempt))
    }

    pub fn pending(&self, name: PartName) -> PathBuf {
        self.dir.join(format!(".{}.{}.pending", self.base(name), name.attempt))
    }

    pub fn published(&self, name: PartName) -> PathBuf {
        self.dir.join(self.base(name))
    }

    /// Reads a file's name; `None` for a foreign file.
    pub fn parse(&self, file: &str) -> Option<Parsed> {
        let base = |base: &str| {
            let (_, numbers) =
                base.strip_suffix(&self.extension)?.strip_suffix('.')?.split_at_checked(self.prefix.len())?;
            let (subtask, sequence) = numbers.strip_prefix('-')?.split_once('-')?;
            base.starts_with(&self.prefix).then_some((subtask.parse().ok()?, sequence.parse().ok()?))
        };
        let parsed = match file.strip_prefix('.') {
            Some(hidden) => {
                let (rest, stage) = hidden.rsplit_once('.')?;
                let (rest, attempt) = rest.rsplit_once('.')?;
                let (subtask, sequence) = base(rest)?;
                let name = PartName { subtask, sequence, attempt: attempt.parse().ok()? };
                match stage {
                    "inprogress" => Parsed::InProgress(name),
                    "pending" => Parsed::Pending(name),
                    _ => return None,
                }
            }
            None => {
                let (subtask, sequence) = base(file)?;
                Parsed::Final { subtask, sequence }
            }
        };
        // Only what this layout itself would have written is its own: `part-1-07.csv` is not.
        let written = match parsed {
            Parsed::InProgress(name) => self.in_progress(name),
            Parsed::Pending(name) => self.pending(name),
            Parsed::Final { subtask, sequence } => self.published(PartName { subtask, sequence, attempt: 0 }),
        };
        (written == self.dir.join(file)).then_some(parsed)
    }
}

/// An error of the disk that fails the attempt; all output that counts is covered by the latest checkpoint.
pub(super) fn failed(action: &str, path: &Path, error: &io::Error) -> BoxError {
    format!(
        "{action} {} failed: {error}: output since the latest completed checkpoint may have been lost; the job has to \
         continue from that checkpoint. Check the disk's space and health",
        path.display()
    )
    .into()
}

/// Length of a file, if it exists.
pub(super) async fn length_of(disk: &DiskHandle, path: &Path) -> Result<Option<u64>, BoxError> {
    let file = match answer(disk.open(path, OpenMode::Read)).await {
        Ok(file) => OpenFile::new(disk, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("opening", path, &error)),
    };
    answer(disk.length(file.id)).await.map(Some).map_err(|error| failed("measuring", path, &error))
}

pub(super) async fn rename(disk: &DiskHandle, from: &Path, to: &Path) -> Result<(), BoxError> {
    answer(disk.rename(from, to)).await.map_err(|error| failed("renaming", from, &error))
}

/// Makes the names in a directory of output durable. A failure is for good: names may be lost that a second try would call durable.
pub(super) async fn sync_dir(disk: &DiskHandle, dir: &Path) -> Result<(), BoxError> {
    answer(disk.sync_dir(dir)).await.map_err(|error| unsynced(dir, &error))
}

/// A directory of output could not be synced.
pub(super) fn unsynced(dir: &Path, error: &io::Error) -> BoxError {
    OutputLost(format!(
        "syncing directory {} failed: {error}: names of output files may have been lost, which a second try would not \
         tell. Check the disk's health before the job goes on",
        dir.display()
    ))
    .into()
}

/// Gives finished files their final names, durably. Again, perhaps: what is published already stays as it is.
pub(super) fn publish(disk: DiskHandle, layout: Arc<Layout>, parts: Vec<PartRef>) -> Flow<()> {
    Box::pin(async move {
        for part in &parts {
            publish_one(&disk, &layout, *part).await?;
        }
        if !parts.is_empty() {
            sync_dir(&disk, &layout.dir).await?;
            crash_point!("file_sink.after_publish_dir_sync");
        }
        Ok(())
    })
}

async fn publish_one(disk: &DiskHandle, layout: &Layout, part: PartRef) -> Result<(), BoxError> {
    let published = layout.published(part.name);
    let present = length_of(disk, &published).await?;
    // A crash may have undone the rename to `.pending`; its bytes were durable before.
    for finished in [layout.pending(part.name), layout.in_progress(part.name)] {
        let Some(bytes) = length_of(disk, &finished).await? else { continue };
        if bytes != part.bytes {
            return Err(lost(part, &finished, &format!("has {bytes} bytes")));
        }
        if present.is_some() {
            let (published, finished) = (published.display(), finished.display());
            return Err(format!(
                "output file {published} exists already and is not this job's: move it away, so that {finished} can \
                 take its name"
            )
            .into());
        }
        crash_point!("file_sink.before_publish_rename");
        rename(disk, &finished, &published).await?;
        crash_point!("file_sink.after_publish_rename");
        return Ok(());
    }
    match present {
        Some(bytes) if bytes == part.bytes => Ok(()),
        Some(bytes) => Err(lost(part, &published, &format!("has {bytes} bytes"))),
        None => Err(lost(part, &published, "is gone")),
    }
}

/// Output that a checkpoint names is not there.
pub(super) fn lost(part: PartRef, path: &Path, what: &str) -> BoxError {
    OutputLost(format!(
        "output has been lost: {} {what}, while the checkpoint names {} bytes of it: put the file back, and move output \
         away only once a later checkpoint is complete",
        path.display(),
        part.bytes
    ))
    .into()
}
