//! Names of files and directories below a job's checkpoint directory.
//!
//! Names carry the ids they were made for, so that ids are never used again even where nothing but a name is left of
//! them. A number is written in one way only: decimal, no sign, no leading zero.

use crate::ids::{AttemptId, CheckpointId};
use crate::manifest::is_relative_path;

/// The directory of segments.
pub const SHARED: &str = "shared";
/// The manifest within a checkpoint's directory.
pub const MANIFEST: &str = "MANIFEST";
/// A manifest that is being written.
pub(super) const MANIFEST_TEMPORARY: &str = "MANIFEST.tmp";
/// The file whose lock the job's engine holds.
pub const LOCK: &str = "LOCK";

/// Path, below the job's directory, of the segment that `subtask` of `vertex` writes for `checkpoint`.
pub fn segment_path(attempt: AttemptId, checkpoint: CheckpointId, vertex: u32, subtask: u32) -> String {
    format!("{SHARED}/seg-a{attempt}-c{checkpoint}-{vertex}-{subtask}")
}

/// Path, below the job's directory, of the file of in-flight data that `subtask` of `vertex` writes for `checkpoint`.
pub fn channel_path(attempt: AttemptId, checkpoint: CheckpointId, vertex: u32, subtask: u32) -> String {
    format!("chk-{checkpoint}/channel-a{attempt}-{vertex}-{subtask}")
}

/// Path, below the job's directory, of the scratch file of `subtask` of `vertex`: what its tables cannot hold in memory until
/// the next snapshot. No checkpoint names it; what a crash leaves of it goes when the directory is opened again. A task
/// with several tables adds to the name.
pub fn scratch_path(attempt: AttemptId, vertex: u32, subtask: u32) -> String {
    format!("{SHARED}/scratch-a{attempt}-{vertex}-{subtask}")
}

/// Name, within the directory of savepoints, of the directory of a savepoint.
pub fn savepoint_dir(job: &str, id: CheckpointId) -> String {
    format!("savepoint-{job}-{id}")
}

/// Name of the segment that the task of this name writes for a savepoint, below the savepoint's directory.
pub fn savepoint_segment(attempt: AttemptId, task: &str) -> String {
    format!("seg-a{attempt}-{task}")
}

/// Name of a checkpoint's directory.
pub fn checkpoint_dir(id: CheckpointId) -> String {
    format!("chk-{id}")
}

/// Name of the empty directory that makes an attempt's number durable.
pub(super) fn attempt_dir(id: AttemptId) -> String {
    format!("attempt-{id}")
}

pub(super) fn parse_checkpoint_dir(name: &str) -> Option<CheckpointId> {
    number(name.strip_prefix("chk-")?).map(CheckpointId)
}

/// True for a name that [`savepoint_dir`] makes.
pub(super) fn is_savepoint_dir(name: &str) -> bool {
    let id = name.strip_prefix("savepoint-").and_then(|rest| rest.rsplit_once('-'));
    id.is_some_and(|(_, id)| number(id).is_some())
}

pub(super) fn parse_attempt_dir(name: &str) -> Option<AttemptId> {
    number(name.strip_prefix("attempt-")?).map(AttemptId)
}

/// The ids in a segment's file name.
pub(super) fn parse_segment(name: &str) -> Option<(AttemptId, CheckpointId)> {
    let mut parts = name.strip_prefix("seg-a")?.splitn(3, '-');
    let attempt = number(parts.next()?)?;
    let checkpoint = number(parts.next()?.strip_prefix('c')?)?;
    parts.next().map(|_| (AttemptId(attempt), CheckpointId(checkpoint)))
}

/// True for the name of a scratch file.
pub(super) fn is_scratch(name: &str) -> bool {
    let attempt = name.strip_prefix("scratch-a").and_then(|rest| rest.split_once('-'));
    attempt.is_some_and(|(attempt, _)| number(attempt).is_some())
}

/// True for a path that names a segment or a file of in-flight data: what the store may delete when a manifest or a
/// task named it. A manifest from elsewhere could as well name the lock or another manifest.
pub(super) fn is_data_file(path: &str) -> bool {
    match path.split_once('/') {
        Some((dir, file)) if is_relative_path(path) && !file.contains('/') => {
            dir == SHARED && parse_segment(file).is_some()
                || parse_checkpoint_dir(dir).is_some() && file != MANIFEST && file != MANIFEST_TEMPORARY
        }
        _ => false,
    }
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|n: &u64| n.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_names_are_read_back() {
        let (attempt, checkpoint) = (AttemptId(3), CheckpointId(41));
        let segment = segment_path(attempt, checkpoint, 2, 7);
        assert_eq!(segment, "shared/seg-a3-c41-2-7");
        assert_eq!(parse_segment(segment.strip_prefix("shared/").unwrap()), Some((attempt, checkpoint)));
        assert_eq!(parse_checkpoint_dir(&checkpoint_dir(checkpoint)), Some(checkpoint));
        assert_eq!(parse_attempt_dir(&attempt_dir(attempt)), Some(attempt));
        assert_eq!(channel_path(attempt, checkpoint, 2, 7), "chk-41/channel-a3-2-7");
        let scratch = scratch_path(attempt, 2, 7);
        assert!(is_scratch(scratch.strip_prefix("shared/").unwrap()) && !is_data_file(&scratch));
    }

    #[test]
    fn other_names_are_not_taken_for_ours() {
        for name in
            ["chk-", "chk-x", "chk--1", "chk-+1", "chk-01", "chk-1x", "chk-18446744073709551616", "xchk-1"]
        {
            assert_eq!(parse_checkpoint_dir(name), None, "{name}");
        }
        for name in ["seg-a1", "seg-a1-2-3-4", "seg-a1-c2", "seg-a-c2-1-1", "seg-a1-c-1-1", "seg-b1-c2-3-4"] {
            assert_eq!(parse_segment(name), None, "{name}");
        }
        for name in ["scratch", "scratch-a", "scratch-a1", "scratch-ax-1", "seg-a1-c2-3-4", "xscratch-a1-2-3"]
        {
            assert!(!is_scratch(name), "{name}");
        }
    }

    #[test]
    fn only_segments_and_in_flight_data_are_data_files() {
        for path in ["shared/seg-a1-c2-3-4", "chk-2/channel-a1-3-4"] {
            assert!(is_data_file(path), "{path}");
        }
        for path in [
            "LOCK",
            "attempt-1",
            "shared",
            "shared/notes",
            "chk-2",
            "chk-2/MANIFEST",
            "chk-2/MANIFEST.tmp",
            "chk-2/a/b",
            "shared/../LOCK",
            "/shared/seg-a1-c2-3-4",
            "other/seg-a1-c2-3-4",
        ] {
            assert!(!is_data_file(path), "{path}");
        }
    }
}
