//! One operation on its way through the ring: the entry that asks for its next step, and what the kernel's answer
//! means for it.
//!
//! Always true:
//! - memory that an entry points to is on the heap and owned by its [`Op`], so it stays in place while the `Op` is
//!   kept, wherever the `Op` itself is moved;
//! - a failed sync or close is never repeated; reads and writes continue until they are complete.

use super::super::local::{DIR_MODE, FILE_MODE, expect_random_reads};
use super::super::{FileId, OpenMode, Reply};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use rustix::fs::{AtFlags, CWD, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Most bytes of one entry: far below the kernel's own limit of 2 GiB less one page.
const ENTRY_BYTES_MAX: usize = 1 << 30;

/// An operation. Operations on a file name it twice: by id for the owner, by descriptor for the kernel.
pub(super) enum Op {
    Open { path: CString, mode: OpenMode },
    Read { file: FileId, fd: RawFd, offset: u64, buffer: Vec<u8>, filled: usize },
    Write { file: FileId, fd: RawFd, offset: u64, data: Vec<u8>, written: usize },
    SyncData { file: FileId, fd: RawFd },
    Truncate { file: FileId, fd: RawFd, bytes: u64 },
    Close { fd: RawFd },
    Rename { from: CString, to: CString },
    Unlink { path: CString, is_dir: bool },
    CreateDir { path: CString },
    OpenDir { path: CString },
    SyncDir { dir: OwnedFd },
}

/// What follows from an answer of the kernel.
pub(super) enum Step {
    /// The operation wants another entry.
    Again,
    /// A file was opened.
    Opened(OwnedFd),
    /// The operation is over.
    Over(io::Result<Reply>),
}

impl Op {
    /// The file that must stay open until this operation is over.
    pub(super) fn file(&self) -> Option<FileId> {
        match self {
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::SyncData { file, .. }
            | Op::Truncate { file, .. } => Some(*file),
            _ => None,
        }
    }

    /// The entry that asks for the next step. It points into the memory of this `Op`.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let cwd = Fd(CWD.as_raw_fd());
        match self {
            Op::Open { path, mode } => {
                let flags = OFlags::CLOEXEC
                    | match mode {
                        OpenMode::Read | OpenMode::ReadRandom => OFlags::RDONLY,
                        OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
                        OpenMode::ReadWrite => OFlags::RDWR,
                    };
                opcode::OpenAt::new(cwd, path.as_ptr())
                    .flags(flags.bits().cast_signed())
                    .mode(FILE_MODE)
                    .build()
            }
            Op::Read { fd, offset, buffer, filled, .. } => {
                let rest = &mut buffer[*filled..];
                let bytes = rest.len().min(ENTRY_BYTES_MAX) as u32;
                opcode::Read::new(Fd(*fd), rest.as_mut_ptr(), bytes).offset(*offset + *filled as u64).build()
            }
            Op::Write { fd, offset, data, written, .. } => {
                let rest = &data[*written..];
                let bytes = rest.len().min(ENTRY_BYTES_MAX) as u32;
                opcode::Write::new(Fd(*fd), rest.as_ptr(), bytes).offset(*offset + *written as u64).build()
            }
            Op::SyncData { fd, .. } => opcode::Fsync::new(Fd(*fd)).flags(FsyncFlags::DATASYNC).build(),
            Op::Truncate { fd, bytes, .. } => opcode::Ftruncate::new(Fd(*fd), *bytes).build(),
            Op::Close { fd } => opcode::Close::new(Fd(*fd)).build(),
            Op::Rename { from, to } => opcode::RenameAt::new(cwd, from.as_ptr(), cwd, to.as_ptr()).build(),
            Op::Unlink { path, is_dir } => {
                let flags = if *is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                opcode::UnlinkAt::new(cwd, path.as_ptr()).flags(flags.bits().cast_signed()).build()
            }
            Op::CreateDir { path } => opcode::MkDirAt::new(cwd, path.as_ptr()).mode(DIR_MODE).build(),
            Op::OpenDir { path } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                opcode::OpenAt::new(cwd, path.as_ptr()).flags(flags.bits().cast_signed()).build()
            }
            Op::SyncDir { dir } => opcode::Fsync::new(Fd(dir.as_raw_fd())).build(),
        }
    }

    /// Takes in the kernel's answer to the last entry: a count or a descriptor, or an error number below zero.
    pub(super) fn advance(&mut self, answer: i32) -> Step {
        if let Some(errno) = error_of(answer) {
            let repeatable = !matches!(self, Op::SyncData { .. } | Op::SyncDir { .. } | Op::Close { .. });
            return if errno == Errno::INTR && repeatable {
                Step::Again
            } else {
                Step::Over(Err(errno.into()))
            };
        }
        match self {
            Op::Open { mode, .. } => {
                let fd = owned(answer);
                if *mode == OpenMode::ReadRandom {
                    expect_random_reads(&fd);
                }
                Step::Opened(fd)
            }
            Op::OpenDir { .. } => {
                *self = Op::SyncDir { dir: owned(answer) };
                Step::Again
            }
            Op::Read { buffer, filled, .. } => {
                *filled += answer as usize;
                if answer > 0 && *filled < buffer.len() {
                    return Step::Again;
                }
                buffer.truncate(*filled);
                Step::Over(Ok(Reply::Bytes(std::mem::take(buffer))))
            }
            Op::Write { data, written, .. } => {
                *written += answer as usize;
                if *written == data.len() {
                    Step::Over(Ok(Reply::Bytes(std::mem::take(data))))
                } else if answer == 0 {
                    Step::Over(Err(io::ErrorKind::WriteZero.into()))
                } else {
                    Step::Again
                }
            }
            _ => Step::Over(Ok(Reply::Done)),
        }
    }
}

fn error_of(answer: i32) -> Option<Errno> {
    (answer < 0).then(|| Errno::from_raw_os_error(answer.saturating_neg()))
}

#[expect(unsafe_code, reason = "the kernel answers an open with a bare descriptor")]
fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: this is the answer of a successful open, so the descriptor is open; it is taken from its completion
    // once, so nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: usize) -> Op {
        Op::Read { file: FileId(1), fd: -1, offset: 0, buffer: vec![0; bytes], filled: 0 }
    }

    fn over(step: Step) -> io::Result<Reply> {
        match step {
            Step::Over(answer) => answer,
            Step::Again => panic!("the operation goes on"),
            Step::Opened(_) => panic!("the operation opened a file"),
        }
    }

    #[test]
    fn a_short_read_goes_on_until_it_is_full_or_the_file_ends() {
        let mut full = read(10);
        assert!(matches!(full.advance(4), Step::Again));
        assert!(matches!(over(full.advance(6)), Ok(Reply::Bytes(b)) if b.len() == 10));
        let mut ended = read(10);
        assert!(matches!(ended.advance(4), Step::Again));
        assert!(matches!(over(ended.advance(0)), Ok(Reply::Bytes(b)) if b.len() == 4));
    }

    #[test]
    fn a_short_write_goes_on_and_a_write_of_nothing_fails() {
        let mut op = Op::Write { file: FileId(1), fd: -1, offset: 0, data: vec![7; 10], written: 0 };
        assert!(matches!(op.advance(9), Step::Again));
        let error = over(op.advance(0)).expect_err("no progress");
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn an_interruption_repeats_a_read_and_never_a_sync() {
        let interrupted = -Errno::INTR.raw_os_error();
        assert!(matches!(read(10).advance(interrupted), Step::Again));
        let mut sync = Op::SyncData { file: FileId(1), fd: -1 };
        assert_eq!(over(sync.advance(interrupted)).expect_err("failed").kind(), io::ErrorKind::Interrupted);
    }
}
