//! What every disk does alike: how completions run, which offsets are accepted, and how misuse and poison are
//! reported. A caller sees the same errors whichever disk it was given.

use super::{Completion, FileId, Reply};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `done`. A completion must not panic; if one does, the thread that serves everybody else survives it.
pub(super) fn complete(done: Completion, answer: io::Result<Reply>) {
    if catch_unwind(AssertUnwindSafe(|| done(answer))).is_err() {
        tracing::error!("the completion of a disk request panicked: whoever waits for it may wait for ever");
    }
}

/// Checks that `bytes` bytes at `offset` end within the largest file that `off_t` can describe.
///
/// io_uring gives offset `u64::MAX` a meaning of its own (the file's position), so such a value must never reach it.
pub(super) fn check_range(offset: u64, bytes: usize) -> io::Result<()> {
    let end = offset.checked_add(bytes as u64);
    if end.is_some_and(|end| i64::try_from(end).is_ok()) {
        Ok(())
    } else {
        let message = format!("{bytes} bytes at offset {offset} reach beyond the largest file");
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }
}

/// A zeroed buffer of `bytes` bytes, or `OutOfMemory` in place of an abort.
pub(super) fn zeroed(bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    buffer.resize(bytes, 0);
    Ok(buffer)
}

/// The answer to a request on a file that was never opened here, or is closed.
pub(super) fn not_open(file: FileId) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("file {} is not open", file.0))
}

/// The answer to each request but `Close` on a file whose sync failed.
///
/// After a failed sync the kernel forgets which pages were dirty, so a second sync would succeed without having
/// written them: only writing everything anew, to another file, helps.
pub(super) fn poisoned() -> io::Error {
    io::Error::other(
        "an earlier sync of this file failed, so what was written to it may be lost: write it anew to another file",
    )
}
