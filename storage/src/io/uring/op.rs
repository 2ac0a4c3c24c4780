//! One operation on its way through the ring: the entry that asks for its next step, and what the kernel's answer
//! means for it.
//!
//! Always true:
//! - memory that an entry points to is on the heap and owned by its [`Op`], so it stays in place while the `Op` is
//!   kept, wherever the `Op` itself is moved;
//! - a failed sync or close is never repeated; reads and writes continue until they are complete.

use super::super::DIRECT_BYTES;
use super::super::local::{DIR_MODE, FILE_MODE, expect_random_reads};
use super::super::rules::zeroed;
use super::super::{FileId, OpenMode, Reply};
use super::direct::Buffer;
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
    Open {
        path: CString,
        mode: OpenMode,
    },
    Read {
        file: FileId,
        fd: RawFd,
        offset: u64,
        buffer: Vec<u8>,
        filled: usize,
    },
    Write {
        file: FileId,
        fd: RawFd,
        offset: u64,
        data: Vec<u8>,
        written: usize,
    },
    /// A read of `bytes` bytes at `offset`, widened to what direct I/O wants; `buffer` holds that from `start` on.
    ReadDirect {
        file: FileId,
        fd: RawFd,
        offset: u64,
        bytes: usize,
        start: u64,
        buffer: Buffer,
        filled: usize,
    },
    /// A write of `data`, which is aligned and copied to the start of `buffer`.
    WriteDirect {
        file: FileId,
        fd: RawFd,
        offset: u64,
        data: Vec<u8>,
        buffer: Buffer,
        written: usize,
    },
    SyncData {
        file: FileId,
        fd: RawFd,
    },
    Truncate {
        file: FileId,
        fd: RawFd,
        bytes: u64,
    },
    Close {
        fd: RawFd,
    },
    Rename {
        from: CString,
        to: CString,
    },
    Unlink {
        path: CString,
        is_dir: bool,
    },
    CreateDir {
        path: CString,
    },
    OpenDir {
        path: CString,
    },
    SyncDir {
        dir: OwnedFd,
    },
}

/// What follows from an answer of the kernel.
pub(super) enum Step {
    /// The operation wants another entry.
    Again,
    /// A file was opened.
    Opened(OwnedFd, OpenMode),
    /// Direct I/O is refused: the operation is to be done without it.
    NotDirect,
    /// The operation is over.
    Over(io::Result<Reply>),
}

impl Op {
    /// The file that must stay open until this operation is over.
    pub(super) fn file(&self) -> Option<FileId> {
        match self {
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::ReadDirect { file, .. }
            | Op::WriteDirect { file, .. }
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
                        OpenMode::CreateNew | OpenMode::CreateDirect => {
                            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL
                        }
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
            Op::ReadDirect { fd, bytes, offset, start, buffer, filled, .. } => {
                let widened = (*offset + *bytes as u64).next_multiple_of(DIRECT_BYTES as u64) - *start;
                let rest = &mut buffer.bytes_mut()[*filled..widened as usize];
                let bytes = rest.len().min(ENTRY_BYTES_MAX) as u32;
                opcode::Read::new(Fd(*fd), rest.as_mut_ptr(), bytes).offset(*start + *filled as u64).build()
            }
            Op::WriteDirect { fd, offset, data, buffer, written, .. } => {
                let rest = &buffer.bytes()[*written..data.len()];
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

    /// The same operation through the page cache, from its start, and the buffer that it does not need any more.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn without_direct(self) -> Result<(Op, Buffer), (Op, io::Error)> {
        match self {
            Op::ReadDirect { file, fd, offset, bytes, buffer, start, filled } => match zeroed(bytes) {
                Ok(plain) => Ok((Op::Read { file, fd, offset, buffer: plain, filled: 0 }, buffer)),
                Err(error) => Err((Op::ReadDirect { file, fd, offset, bytes, buffer, start, filled }, error)),
            },
            Op::WriteDirect { file, fd, offset, data, buffer, .. } => {
                Ok((Op::Write { file, fd, offset, data, written: 0 }, buffer))
            }
            _ => unreachable!("only direct I/O is refused"),
        }
    }

    /// The buffer of a direct transfer that is over.
    pub(super) fn into_buffer(self) -> Option<Buffer> {
        match self {
            Op::ReadDirect { buffer, .. } | Op::WriteDirect { buffer, .. } => Some(buffer),
            _ => None,
        }
    }

    /// Takes in the kernel's answer to the last entry: a count or a descriptor, or an error number below zero.
    pub(super) fn advance(&mut self, answer: i32) -> Step {
        if let Some(errno) = error_of(answer) {
            let repeatable = !matches!(self, Op::SyncData { .. } | Op::SyncDir { .. } | Op::Close { .. });
            let is_direct = matches!(self, Op::ReadDirect { .. } | Op::WriteDirect { .. });
            return if errno == Errno::INTR && repeatable {
                Step::Again
            } else if errno == Errno::INVAL && is_direct {
                Step::NotDirect
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
                Step::Opened(fd, *mode)
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
            Op::ReadDirect { offset, bytes, start, buffer, filled, .. } => {
                *filled += answer as usize;
                let head = (*offset - *start) as usize;
                // What is no multiple of a block ends at the end of the file.
                if answer > 0 && *filled < head + *bytes && filled.is_multiple_of(DIRECT_BYTES) {
                    return Step::Again;
                }
                let found = &buffer.bytes()[head.min(*filled)..(head + *bytes).min(*filled)];
                Step::Over(copied(found).map(Reply::Bytes))
            }
            Op::WriteDirect { data, written, .. } => {
                *written += answer as usize;
                if *written == data.len() {
                    Step::Over(Ok(Reply::Bytes(std::mem::take(data))))
                } else if answer == 0 {
                    Step::Over(Err(io::ErrorKind::WriteZero.into()))
                } else if written.is_multiple_of(DIRECT_BYTES) {
                    Step::Again
                } else {
                    Step::NotDirect
                }
            }
            _ => Step::Over(Ok(Reply::Done)),
        }
    }
}

fn copied(found: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(found.len()).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    bytes.extend_from_slice(found);
    Ok(bytes)
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
    use super::super::direct::Pool;
    use super::*;

    fn read(bytes: usize) -> Op {
        Op::Read { file: FileId(1), fd: -1, offset: 0, buffer: vec![0; bytes], filled: 0 }
    }

    fn over(step: Step) -> io::Result<Reply> {
        match step {
            Step::Over(answer) => answer,
            Step::Again => panic!("the operation goes on"),
            Step::Opened(..) => panic!("the operation opened a file"),
            Step::NotDirect => panic!("direct I/O was refused"),
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

    fn direct_read(offset: u64, bytes: usize) -> Op {
        let buffer = Pool::default().take(2 * DIRECT_BYTES).expect("memory");
        let start = offset / DIRECT_BYTES as u64 * DIRECT_BYTES as u64;
        Op::ReadDirect { file: FileId(1), fd: -1, offset, bytes, start, buffer, filled: 0 }
    }

    #[test]
    fn a_direct_read_ends_with_what_was_asked_for_or_with_the_file() {
        let length = |answer: Step| match over(answer) {
            Ok(Reply::Bytes(bytes)) => bytes.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(length(direct_read(4_100, 50).advance(8_192)), 50);
        assert_eq!(
            length(direct_read(4_000, 4_000).advance(4_096 + 1_000)),
            96 + 1_000,
            "in the second block"
        );
        assert_eq!(length(direct_read(4_000, 4_000).advance(3_000)), 0, "before what was asked for");
        let mut twice = direct_read(4_000, 4_000);
        assert!(matches!(twice.advance(4_096), Step::Again));
        assert_eq!(length(twice.advance(4_096)), 4_000);
        let mut ended = direct_read(4_000, 4_000);
        assert!(matches!(ended.advance(4_096), Step::Again));
        assert_eq!(length(ended.advance(0)), 96);
    }

    #[test]
    fn a_direct_transfer_that_is_refused_or_cut_within_a_block_is_done_anew_without() {
        let mut read = direct_read(5, 10);
        assert!(matches!(read.advance(-Errno::INVAL.raw_os_error()), Step::NotDirect));
        let (op, _) = read.without_direct().ok().expect("memory");
        assert!(matches!(op, Op::Read { offset: 5, filled: 0, buffer, .. } if buffer.len() == 10));
        let buffer = Pool::default().take(DIRECT_BYTES).expect("memory");
        let data = vec![7; 2 * DIRECT_BYTES];
        let mut write = Op::WriteDirect { file: FileId(1), fd: -1, offset: 0, data, buffer, written: 0 };
        assert!(matches!(write.advance(4_096), Step::Again));
        assert!(matches!(write.advance(10), Step::NotDirect));
        let (op, _) = write.without_direct().ok().expect("memory");
        assert!(matches!(op, Op::Write { written: 0, data, .. } if data.len() == 2 * DIRECT_BYTES));
        assert!(matches!(over(direct_read(0, 1).advance(-Errno::IO.raw_os_error())), Err(_)));
    }

    #[test]
    fn an_interruption_repeats_a_read_and_never_a_sync() {
        let interrupted = -Errno::INTR.raw_os_error();
        assert!(matches!(read(10).advance(interrupted), Step::Again));
        let mut sync = Op::SyncData { file: FileId(1), fd: -1 };
        assert_eq!(over(sync.advance(interrupted)).expect_err("failed").kind(), io::ErrorKind::Interrupted);
    }
}
