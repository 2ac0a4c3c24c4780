//! The engine's side of the control socket: one thread that accepts, and one per connection.
//!
//! Always true:
//! - the socket's name appears with mode 0600 and at once, by a rename, in place of one that nobody listens at any more;
//! - a name that another process has taken since is left alone when this one goes;
//! - after [`ControlSocket`] is dropped no thread of it is left.

use super::protocol::{Answer, Command, JobReport, LINE_BYTES_MAX, answer_line, read_request};
use crate::control::StopMode;
use crate::coordinator::JobStatus;
use crate::error::Error;
use crate::job::{JobHandle, Running};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thalweg_storage::threads;

/// Connections at once; a further one is told so and closed.
const CONNECTIONS_MAX: usize = 8;
/// A connection without a request is closed after this long.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// An answer that is not taken is given up after this long.
const WRITE_MAX: Duration = Duration::from_secs(5);
/// A cancelled job is waited for this long before the answer says that it is still ending.
const CANCEL_MAX: Duration = Duration::from_secs(60);

/// An open control socket.
pub(in crate::job) struct ControlSocket {
    path: PathBuf,
    /// Device and inode of the socket.
    identity: (u64, u64),
    /// Ends the accepting thread when it is dropped.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// A connection that is being served.
struct Connection {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

impl ControlSocket {
    /// Listens at `path` for commands to the job in `running`.
    ///
    /// # Errors
    /// [`Error::ControlSocket`]: something else is there, an engine listens there already, or the system refuses.
    pub fn open(path: &Path, running: Running) -> Result<Self, Error> {
        let failed = |message: String| Error::ControlSocket { path: path.to_owned(), message };
        let (listener, identity) = listen(path).map_err(failed)?;
        let system = |error: io::Error| failed(error.to_string());
        listener.set_nonblocking(true).map_err(system)?;
        let (stop, stopped) = UnixStream::pair().map_err(system)?;
        let accepting = move || accept(&listener, &stopped, &running);
        let thread = threads::spawn("thalweg-socket".to_owned(), accepting).map_err(system)?;
        Ok(ControlSocket { path: path.to_owned(), identity, stop: Some(stop), thread: Some(thread) })
    }
}

#[expect(clippy::disallowed_methods, reason = "a socket is no file of a disk: it holds no data")]
impl Drop for ControlSocket {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the control socket stays");
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Binds a socket under another name, makes it private, and gives it its name.
#[expect(clippy::disallowed_methods, reason = "a socket is no file of a disk: it holds no data")]
fn listen(path: &Path) -> Result<(UnixListener, (u64, u64)), String> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err("something is there that is no socket: remove it, or choose another path".to_owned());
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err("an engine listens there already: choose another path for each".to_owned());
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.to_string()),
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).map_err(|error| {
        format!("{error}; the directory must exist, and the path have less than 100 bytes")
    })?;
    let named = || -> io::Result<(u64, u64)> {
        std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o600))?;
        let found = std::fs::symlink_metadata(&temporary)?;
        std::fs::rename(&temporary, path)?;
        Ok((found.dev(), found.ino()))
    };
    named().map(|identity| (listener, identity)).map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        error.to_string()
    })
}

/// Accepts connections until the other end of `stopped` is closed.
fn accept(listener: &UnixListener, stopped: &UnixStream, running: &Running) {
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => {
                tracing::warn!(%error, "the control socket is given up");
                break;
            }
            Ok(_) if !fds[1].revents().is_empty() => break,
            Ok(_) => {}
        }
        let Ok((mut stream, _)) = listener.accept() else { continue };
        connections.retain(|connection| !connection.thread.is_finished());
        if connections.len() >= CONNECTIONS_MAX {
            let busy = format!("{CONNECTIONS_MAX} commands are being served already; try again later");
            let _ = stream.set_write_timeout(Some(WRITE_MAX));
            let _ = stream.write_all(answer_line(&Err(busy)).as_bytes());
            continue;
        }
        match serve_on_thread(stream, running) {
            Ok(connection) => connections.push(connection),
            Err(error) => tracing::warn!(%error, "a connection to the control socket cannot be served"),
        }
    }
    for connection in &connections {
        let _ = connection.stream.shutdown(Shutdown::Both);
    }
    for connection in connections {
        let _ = connection.thread.join();
    }
}

fn serve_on_thread(stream: UnixStream, running: &Running) -> io::Result<Connection> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(WRITE_MAX))?;
    let (served, running) = (stream.try_clone()?, Arc::clone(running));
    let thread = threads::spawn("thalweg-socket".to_owned(), move || {
        // Whoever asked has gone: there is nobody to tell.
        let _ = serve(&served, &running);
        let _ = served.shutdown(Shutdown::Both);
    })?;
    Ok(Connection { stream, thread })
}

/// Answers one request after another.
fn serve(mut stream: &UnixStream, running: &Running) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let read = reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        let whole = line.pop() == Some(b'\n');
        let answer = match whole {
            true => read_request(&line).and_then(|command| execute(command, running)),
            false => Err(format!("a request is one line of at most {LINE_BYTES_MAX} bytes")),
        };
        stream.write_all(answer_line(&answer).as_bytes())?;
        if !whole {
            return Ok(());
        }
    }
}

fn execute(command: Command, running: &Running) -> Result<Answer, String> {
    let of = |name: Option<&str>| {
        // Not held while the job works: other commands go on.
        let job = running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let job = job.ok_or("the engine runs no job")?;
        match name {
            Some(name) if name != job.name() => {
                Err(format!("there is no job {name:?}: the engine runs {:?}", job.name()))
            }
            _ if job.status().is_terminal() => Err(format!("the job {:?} has ended", job.name())),
            _ => Ok(job),
        }
    };
    let text = |error: Error| error.to_string();
    match command {
        Command::Jobs {} => {
            let job = running.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Ok(Answer::Jobs { jobs: job.iter().map(report).collect() })
        }
        Command::Checkpoint { job } => {
            let id = of(job.as_deref())?.checkpoint().map_err(text)?;
            Ok(Answer::Checkpoint { id: id.0 })
        }
        Command::Savepoint { job, dir } => {
            let path = of(job.as_deref())?.savepoint(dir.as_deref()).map_err(text)?;
            Ok(Answer::Savepoint { path })
        }
        Command::Stop { job, drain, dir } => {
            let mode = if drain { StopMode::Drain } else { StopMode::Suspend };
            let path = of(job.as_deref())?.stop_with_savepoint(dir.as_deref(), mode).map_err(text)?;
            Ok(Answer::Savepoint { path })
        }
        Command::Cancel { job } => {
            let job = of(job.as_deref())?;
            job.cancel();
            match job.wait_timeout(CANCEL_MAX) {
                Some(_) => Ok(Answer::Cancelled {}),
                None => Err(format!("the job {:?} is still being cancelled", job.name())),
            }
        }
    }
}

fn report(job: &JobHandle) -> JobReport {
    let metrics = job.metrics();
    let status = match job.status() {
        JobStatus::Failed(cause) => format!("failed: {cause}"),
        other => format!("{other:?}").to_lowercase(),
    };
    JobReport {
        name: job.name().to_owned(),
        status,
        tasks: metrics.tasks.len(),
        records_read: metrics.tasks.iter().filter(|task| task.is_source).map(|task| task.records_in).sum(),
        checkpoints_completed: metrics.checkpoints.completed,
        checkpoints_failed: metrics.checkpoints.failed,
        restarts: metrics.checkpoints.restarts,
    }
}
