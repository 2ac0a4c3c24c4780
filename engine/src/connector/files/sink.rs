//! The file sink: output files that become visible exactly once, with the checkpoints that contain them.
//!
//! A file goes through the names told in [`super::layout`]. Recovery, in [`FileSink::writer`], brings the directory back
//! to what the checkpoint names: it publishes the finished files that the manifest lists, cuts the in-progress file to
//! its length, and removes what no state names. Each of its steps can be repeated after a crash.

use super::encoder::{Csv, Encoder, Ndjson, Text};
use super::layout::{Layout, Parsed, PartRef, failed, length_of, lost, publish, rename, sync_dir, unsynced};
use super::open_file::{OpenFile, answer, finish_now};
use super::part::Part;
use super::writer::{FileWriter, Rolling, Unfinished, read_committable};
use crate::connector::{BoxError, ConnectorContext, Sink};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use thalweg_storage::StoreError;
use thalweg_storage::io::{DiskHandle, OpenMode, create_dir_durably};
use thalweg_storage::manifest::Committable;

/// An exactly-once sink that writes files to a directory.
///
/// Final files are called `part-<subtask>-<sequence>.<extension>`; sequences rise, so that the files of a subtask, sorted
/// by name, hold its records in order. A file is finished when it reaches [`FileSink::roll_bytes`], at the first checkpoint
/// after [`FileSink::roll_interval`], and at the end; it becomes visible when the checkpoint that lists it is complete.
/// Files whose names begin with a dot are work in progress; leave them alone. Move final files away only once a later
/// checkpoint than the one that published them is complete.
///
/// Two sinks need two directories, or two prefixes.
pub struct FileSink<E> {
    layout: Arc<Layout>,
    encoder: E,
    rolling: Rolling,
    unfinished: Unfinished,
}

impl<E: Clone> Clone for FileSink<E> {
    fn clone(&self) -> Self {
        FileSink {
            layout: Arc::clone(&self.layout),
            encoder: self.encoder.clone(),
            rolling: self.rolling,
            unfinished: Arc::clone(&self.unfinished),
        }
    }
}

impl FileSink<Csv<()>> {
    /// One CSV row per record, without a header.
    pub fn csv<T: Serialize + 'static>(dir: impl Into<PathBuf>) -> FileSink<Csv<T>> {
        FileSink::with_encoder(dir, Csv::new())
    }

    /// One line of text per record.
    pub fn lines<T: Display + 'static>(dir: impl Into<PathBuf>) -> FileSink<Text<T>> {
        FileSink::with_encoder(dir, Text::new())
    }

    /// One JSON value per line and record.
    pub fn ndjson<T: Serialize + 'static>(dir: impl Into<PathBuf>) -> FileSink<Ndjson<T>> {
        FileSink::with_encoder(dir, Ndjson::new())
    }
}

impl<T: Serialize + 'static> FileSink<Csv<T>> {
    /// Starts each file with a row of column names.
    pub fn with_header(mut self, names: &[&str]) -> Self {
        self.encoder.set_header(names);
        self
    }
}

impl<E: Encoder> FileSink<E> {
    /// Records in an encoding of your own.
    pub fn with_encoder(dir: impl Into<PathBuf>, encoder: E) -> Self {
        let extension = encoder.extension().to_owned();
        FileSink {
            layout: Arc::new(Layout { dir: dir.into(), prefix: "part".into(), extension }),
            encoder,
            rolling: Rolling { bytes: 128 << 20, interval: Duration::from_secs(60) },
            unfinished: Unfinished::default(),
        }
    }

    /// Finishes a file once it holds this many bytes; 128 MiB by default.
    pub fn roll_bytes(mut self, bytes: u64) -> Self {
        self.rolling.bytes = bytes.max(1);
        self
    }

    /// Finishes a file at the first checkpoint this long after its beginning; 60 s by default, zero for each checkpoint.
    pub fn roll_interval(mut self, interval: Duration) -> Self {
        self.rolling.interval = interval;
        self
    }

    /// Begins file names with `prefix` instead of `part`. The prefix is part of the output's identity: a job that
    /// restores keeps it.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.layout).prefix = prefix.into();
        self
    }
}

/// What a file writer needs to continue: its open file, and the number of the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, postcard_schema::Schema)]
pub struct FileSinkState {
    pub(super) next_sequence: u64,
    pub(super) in_progress: Option<PartRef>,
}

thalweg_storage::data!(FileSinkState);

impl<E: Encoder> Sink for FileSink<E> {
    type Record = E::Record;
    type State = FileSinkState;
    type Writer = FileWriter<E>;

    fn check(&self, disk: &DiskHandle) -> Result<(), BoxError> {
        let Layout { dir, prefix, .. } = &*self.layout;
        if prefix.is_empty() || prefix.starts_with('.') || prefix.contains('/') {
            return Err(
                format!("{prefix:?} cannot begin the names of output files: use letters and digits").into()
            );
        }
        let unusable = |error: &dyn Display| -> BoxError {
            format!(
                "output directory {} cannot be written: {error}: check the path and its permissions",
                dir.display()
            )
            .into()
        };
        let sync =
            |dir: &Path| disk.sync_dir(dir).wait().map_err(|error| StoreError::io("syncing", dir, error));
        create_dir_durably(disk, dir, &sync).map_err(|error| unusable(&error))?;
        let probe = dir.join(format!(".{prefix}-probe"));
        match disk.remove(&probe).wait() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(&error)),
            _ => {}
        }
        let file = disk.open(&probe, OpenMode::CreateNew).wait().map_err(|error| unusable(&error))?;
        drop(OpenFile::new(disk, file));
        disk.remove(&probe).wait().map_err(|error| unusable(&error))
    }

    fn writer(
        &self,
        context: ConnectorContext,
        restored: Vec<FileSinkState>,
        committables: Vec<Committable>,
    ) -> Result<FileWriter<E>, BoxError> {
        self.await_earlier_writers(&context);
        let disk = &context.disk;
        let mut writer = FileWriter::new(
            disk.clone(),
            Arc::clone(&self.layout),
            (context.subtask, context.attempt.0),
            self.encoder.clone(),
            self.rolling,
            Arc::clone(&self.unfinished),
        );
        crash_point!("file_sink.before_recovery");
        let finished = committables.iter().map(read_committable).collect::<Result<Vec<_>, _>>()?;
        finish_now(publish(disk.clone(), Arc::clone(&self.layout), finished))?;
        writer.next_sequence = restored.iter().map(|state| state.next_sequence).max().unwrap_or(0);
        let mut named = HashSet::new();
        for part in restored.iter().filter_map(|state| state.in_progress) {
            named.insert(part.name);
            let file = self.reopen(disk, part)?;
            let mut part = Part::resume(disk, &self.layout, part, file);
            if part.name.subtask == context.subtask && writer.open.is_none() {
                writer.open = Some(part);
            } else {
                // The open file of a subtask that no longer exists ends here; the next checkpoint lists it.
                part.finish();
                writer.finished.push_back(part);
            }
        }
        let entries = disk.list(&self.layout.dir).wait();
        let entries =
            entries.map_err(|error| failed("listing output directory", &self.layout.dir, &error))?;
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            match self.layout.parse(&entry.name) {
                // Another run's output under this subtask's numbers stays; this one counts on behind it.
                Some(Parsed::Final { subtask, sequence }) if subtask == context.subtask => {
                    writer.next_sequence = writer.next_sequence.max(sequence + 1);
                }
                Some(Parsed::InProgress(name) | Parsed::Pending(name))
                    if name.subtask % context.parallelism.max(1) == context.subtask
                        && !named.contains(&name) =>
                {
                    let path = self.layout.dir.join(&entry.name);
                    crash_point!("file_sink.before_remove");
                    disk.remove(&path).wait().map_err(|error| failed("removing", &path, &error))?;
                    crash_point!("file_sink.after_remove");
                }
                _ => {}
            }
        }
        let synced = disk.sync_dir(&self.layout.dir).wait();
        synced.map_err(|error| unsynced(&self.layout.dir, &error))?;
        crash_point!("file_sink.after_recovery");
        Ok(writer)
    }
}

impl<E: Encoder> FileSink<E> {
    /// A write or rename of an earlier attempt that is still under way must not meet the files as recovered.
    fn await_earlier_writers(&self, context: &ConnectorContext) {
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let is_own = |subtask: u32| subtask % context.parallelism.max(1) == context.subtask;
        let own: Vec<_> = unfinished.extract_if(.., |(subtask, _)| is_own(*subtask)).collect();
        drop(unfinished);
        for (_, flow) in own {
            // The attempt has failed already; how its last requests ended changes nothing.
            drop(finish_now(flow));
        }
    }

    /// Opens a restored in-progress file and cuts it to the length that the checkpoint names.
    fn reopen(&self, disk: &DiskHandle, part: PartRef) -> Result<OpenFile, BoxError> {
        let (disk, layout) = (disk.clone(), Arc::clone(&self.layout));
        finish_now(Box::pin(async move {
            let path = layout.in_progress(part.name);
            let bytes = match length_of(&disk, &path).await? {
                Some(bytes) => bytes,
                // The file was finished after the checkpoint.
                None => {
                    let pending = layout.pending(part.name);
                    let Some(bytes) = length_of(&disk, &pending).await? else {
                        let published = layout.published(part.name);
                        return Err(match length_of(&disk, &published).await? {
                            Some(_) => lost(part, &published, "was published by a later checkpoint"),
                            None => lost(part, &path, "is gone"),
                        });
                    };
                    rename(&disk, &pending, &path).await?;
                    sync_dir(&disk, &layout.dir).await?;
                    bytes
                }
            };
            if bytes < part.bytes {
                return Err(lost(part, &path, &format!("has {bytes} bytes")));
            }
            let opened = answer(disk.open(&path, OpenMode::ReadWrite)).await;
            let file =
                OpenFile::new(&disk, opened.map_err(|error| failed("opening output file", &path, &error))?);
            crash_point!("file_sink.before_truncate");
            let length = if broken!(TruncationSkipped) { bytes } else { part.bytes };
            let truncated = answer(disk.truncate(file.id, length)).await;
            truncated.map_err(|error| failed("truncating output file", &path, &error))?;
            crash_point!("file_sink.after_truncate");
            answer(disk.sync_data(file.id))
                .await
                .map_err(|error| failed("syncing output file", &path, &error))?;
            crash_point!("file_sink.after_truncate_sync");
            Ok(file)
        }))
    }
}
