//! Asks a running engine to do something.

use super::protocol::{Answer, Command, LINE_BYTES_MAX, read_answer, request_line};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Why an engine did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// No engine listens there.
    #[error(
        "no engine listens at {path} ({source}): is it running, and with the setting `thalweg.control.socket`?",
        path = path.display()
    )]
    NoEngine {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The connection broke off; what was asked for may have been done or not.
    #[error("the connection to the engine at {path} broke off ({source}); look at its jobs before asking again", path = path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The engine answers in a way that this side does not understand.
    #[error("{0}")]
    Protocol(String),
    /// The engine has said why it did not do it.
    #[error("{0}")]
    Refused(String),
}

/// Sends `command` to the engine that listens at `socket`, and waits until it is done.
///
/// # Errors
/// See [`RemoteError`].
pub fn call(socket: &Path, command: &Command) -> Result<Answer, RemoteError> {
    let mut stream = UnixStream::connect(socket)
        .map_err(|source| RemoteError::NoEngine { path: socket.to_owned(), source })?;
    let broken = |source| RemoteError::Broken { path: socket.to_owned(), source };
    stream.write_all(request_line(command).as_bytes()).map_err(broken)?;
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream).take(LINE_BYTES_MAX as u64 + 1);
    reader.read_until(b'\n', &mut line).map_err(broken)?;
    if line.pop() != Some(b'\n') {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    read_answer(&line).map_err(RemoteError::Protocol)?.map_err(RemoteError::Refused)
}
