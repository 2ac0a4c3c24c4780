//! The lines of a control socket, version 1.
//!
//! A connection carries any number of requests, each answered before the next is read. A request or answer is one line: a JSON
//! object, at most 64 KiB long, and a newline. Both name the protocol's version.
//!
//! | request | meaning | answer |
//! |---|---|---|
//! | `{"version":1,"command":"jobs"}` | the engine's jobs | `{"version":1,"ok":"jobs","jobs":[…]}` |
//! | `{"version":1,"command":"checkpoint"}` | take a checkpoint now | `{"version":1,"ok":"checkpoint","id":7}` |
//! | `{"version":1,"command":"savepoint","dir":"/saved"}` | take a savepoint; `dir` may be left out where the settings name one | `{"version":1,"ok":"savepoint","path":"/saved/savepoint-clicks-8"}` |
//! | `{"version":1,"command":"stop","drain":false,"dir":"/saved"}` | stop the job with a savepoint | as of `savepoint` |
//! | `{"version":1,"command":"cancel"}` | cancel the job | `{"version":1,"ok":"cancelled"}` |
//!
//! All but `jobs` take `"job":"name"`, which must be the running job's. An answer is given when the work is done, or is
//! `{"version":1,"error":"why not"}`. Fields that are not known are refused, so that no wish is dropped silently.
//!
//! Pure.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Version of the protocol.
pub const PROTOCOL_VERSION: u32 = 1;

/// A line is at most this long, without its newline.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// What a running engine is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Command {
    /// Say which jobs there are.
    Jobs {},
    /// Take a checkpoint now.
    Checkpoint {
        /// The job; the running one where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
    },
    /// Take a savepoint now. The job goes on.
    Savepoint {
        /// The job; the running one where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
        /// Where it gets its directory; that of the settings where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dir: Option<PathBuf>,
    },
    /// Stop the job with a savepoint.
    Stop {
        /// The job; the running one where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
        /// Whether sources end first, as if there were no more input.
        #[serde(default)]
        drain: bool,
        /// Where the savepoint gets its directory; that of the settings where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dir: Option<PathBuf>,
    },
    /// Cancel the job.
    Cancel {
        /// The job; the running one where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ok", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Answer {
    /// The engine's jobs.
    Jobs {
        /// At most one.
        jobs: Vec<JobReport>,
    },
    /// A checkpoint is complete.
    Checkpoint {
        /// Its id.
        id: u64,
    },
    /// A savepoint is complete, and the job has stopped if that was asked for.
    Savepoint {
        /// Its directory.
        path: PathBuf,
    },
    /// The job has ended.
    Cancelled {},
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// Its name.
    pub name: String,
    /// Running, restarting, finished …; of a failed job with the reason.
    pub status: String,
    /// Number of tasks.
    pub tasks: usize,
    /// Records that sources have read since the attempt began.
    pub records_read: u64,
    /// Completed checkpoints since the job was started.
    pub checkpoints_completed: u64,
    /// Failed checkpoints since the job was started.
    pub checkpoints_failed: u64,
    /// Restarts since the job was started.
    pub restarts: u64,
}

#[derive(Serialize, Deserialize)]
struct Request<'a> {
    version: u32,
    #[serde(flatten)]
    command: std::borrow::Cow<'a, Command>,
}

#[derive(Serialize)]
struct Good<'a> {
    version: u32,
    #[serde(flatten)]
    answer: &'a Answer,
}

#[derive(Serialize, Deserialize)]
struct Bad {
    version: u32,
    error: String,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A request as a line, with its newline.
pub(super) fn request_line(command: &Command) -> String {
    let command = std::borrow::Cow::Borrowed(command);
    line(&Request { version: PROTOCOL_VERSION, command })
}

/// An answer as a line, with its newline.
pub(super) fn answer_line(answer: &Result<Answer, String>) -> String {
    match answer {
        Ok(answer) => line(&Good { version: PROTOCOL_VERSION, answer }),
        Err(error) => {
            // What does not fit is cut, so that the limit holds for everything.
            let error = error.chars().take(LINE_BYTES_MAX / 16).collect();
            line(&Bad { version: PROTOCOL_VERSION, error })
        }
    }
}

fn line(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("plain data with text for keys");
    line.push('\n');
    line
}

/// What a line asks for.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read_request(line: &[u8]) -> Result<Command, String> {
    check_version(line, "request")?;
    // The version is taken off first: with it, `deny_unknown_fields` would refuse it.
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(line).map_err(|error| format!("this is no request: {error}"))?;
    fields.remove("version");
    serde_json::from_value(fields.into()).map_err(|error| format!("this is no request: {error}"))
}

/// What a line answers.
///
/// # Errors
/// The inner one is the engine's; the outer one says why the line is no answer.
pub(super) fn read_answer(line: &[u8]) -> Result<Result<Answer, String>, String> {
    check_version(line, "answer")?;
    if let Ok(Bad { error, .. }) = serde_json::from_slice(line) {
        return Ok(Err(error));
    }
    let answer: Answer =
        serde_json::from_slice(line).map_err(|error| format!("this is no answer: {error}"))?;
    Ok(Ok(answer))
}

fn check_version(line: &[u8], what: &str) -> Result<(), String> {
    match serde_json::from_slice::<Version>(line) {
        Ok(Version { version: PROTOCOL_VERSION }) => Ok(()),
        Ok(Version { version }) => Err(format!(
            "the {what} has version {version} of the protocol, this side has {PROTOCOL_VERSION}: use the command line that \
             belongs to the engine"
        )),
        Err(error) => Err(format!("this is no {what} of the protocol: {error}")),
    }
}
