//! The protocol in both directions, and the socket itself.

use super::protocol::{answer_line, read_answer, read_request, request_line};
use super::*;
use crate::error::Error;
use crate::job::Running;
use proptest::prelude::*;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn commands() -> impl Strategy<Value = Command> {
    let job = || any::<Option<String>>();
    let dir = || any::<Option<String>>().prop_map(|dir| dir.map(PathBuf::from));
    prop_oneof![
        Just(Command::Jobs {}),
        job().prop_map(|job| Command::Checkpoint { job }),
        (job(), dir()).prop_map(|(job, dir)| Command::Savepoint { job, dir }),
        (job(), any::<bool>(), dir()).prop_map(|(job, drain, dir)| Command::Stop { job, drain, dir }),
        job().prop_map(|job| Command::Cancel { job }),
    ]
}

fn answers() -> impl Strategy<Value = Result<Answer, String>> {
    let report =
        (any::<String>(), any::<(u64, u64)>()).prop_map(|(name, (records_read, restarts))| JobReport {
            status: name.clone(),
            name,
            tasks: 3,
            records_read,
            checkpoints_completed: 4,
            checkpoints_failed: 5,
            restarts,
        });
    prop_oneof![
        prop::collection::vec(report, 0..3).prop_map(|jobs| Ok(Answer::Jobs { jobs })),
        any::<u64>().prop_map(|id| Ok(Answer::Checkpoint { id })),
        any::<String>().prop_map(|path| Ok(Answer::Savepoint { path: path.into() })),
        Just(Ok(Answer::Cancelled {})),
        any::<String>().prop_map(Err),
    ]
}

proptest! {
    #[test]
    fn prop_every_request_is_one_line_and_read_back(command in commands()) {
        let line = request_line(&command);
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert_eq!(read_request(line.trim_end_matches('\n').as_bytes()), Ok(command));
    }

    #[test]
    fn prop_every_answer_is_one_line_and_read_back(answer in answers()) {
        let line = answer_line(&answer);
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert_eq!(read_answer(line.trim_end_matches('\n').as_bytes()), Ok(answer));
    }

    #[test]
    fn prop_any_line_is_understood_or_refused(line in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = (read_request(&line), read_answer(&line));
    }
}

#[test]
fn lines_are_as_documented() {
    let lines = [
        (Command::Jobs {}, r#"{"version":1,"command":"jobs"}"#),
        (Command::Checkpoint { job: None }, r#"{"version":1,"command":"checkpoint"}"#),
        (
            Command::Savepoint { job: None, dir: Some("/saved".into()) },
            r#"{"version":1,"command":"savepoint","dir":"/saved"}"#,
        ),
        (
            Command::Stop { job: None, drain: false, dir: Some("/saved".into()) },
            r#"{"version":1,"command":"stop","drain":false,"dir":"/saved"}"#,
        ),
        (Command::Cancel { job: Some("a".into()) }, r#"{"version":1,"command":"cancel","job":"a"}"#),
    ];
    for (command, line) in lines {
        assert_eq!(request_line(&command).trim_end(), line);
    }
    assert_eq!(
        answer_line(&Ok(Answer::Checkpoint { id: 7 })).trim_end(),
        r#"{"version":1,"ok":"checkpoint","id":7}"#
    );
    assert_eq!(answer_line(&Err("why".into())).trim_end(), r#"{"version":1,"error":"why"}"#);
}

#[test]
fn other_versions_and_unknown_wishes_are_refused() {
    let refuse = |line: &str| read_request(line.as_bytes()).unwrap_err();
    assert!(refuse(r#"{"version":2,"command":"jobs"}"#).contains("version 2"));
    assert!(refuse(r#"{"command":"jobs"}"#).contains("version"));
    assert!(refuse(r#"{"version":1,"command":"explode"}"#).contains("explode"));
    assert!(refuse(r#"{"version":1,"command":"cancel","when":"later"}"#).contains("when"));
}

fn open(path: &Path) -> Result<ControlSocket, Error> {
    ControlSocket::open(path, Running::default())
}

#[test]
fn the_socket_is_private_answers_and_goes_with_its_engine() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("control");
    let socket = open(&path).unwrap();
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(call(&path, &Command::Jobs {}).unwrap(), Answer::Jobs { jobs: vec![] });
    let refused = call(&path, &Command::Checkpoint { job: None }).unwrap_err();
    assert!(matches!(&refused, RemoteError::Refused(why) if why.contains("no job")), "{refused}");
    // An idle connection does not hold up the end. It has had an answer, so it is being served and not merely queued.
    let mut idle = UnixStream::connect(&path).unwrap();
    idle.write_all(request_line(&Command::Jobs {}).as_bytes()).unwrap();
    let mut answered = String::new();
    BufReader::new(&idle).read_line(&mut answered).unwrap();
    assert!(answered.contains("\"jobs\":[]"), "{answered}");
    drop(socket);
    assert!(!path.exists());
    assert_eq!(idle.read(&mut [0; 8]).unwrap(), 0);
    assert!(matches!(call(&path, &Command::Jobs {}), Err(RemoteError::NoEngine { .. })));
}

#[test]
fn a_stale_socket_is_replaced_but_nothing_else_is() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("control");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = open(&path).unwrap();
    let message = open(&path).err().unwrap().to_string();
    assert!(message.contains("listens there already") && message.contains("control"), "{message}");
    assert!(call(&path, &Command::Jobs {}).is_ok());

    // Taken by another process since: not ours to remove.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a file").unwrap();
    drop(first);
    assert_eq!(fs::read(&path).unwrap(), b"a file");
    assert!(open(&path).err().unwrap().to_string().contains("no socket"));
    assert!(open(&dir.path().join("missing/control")).is_err());
}

#[test]
fn a_line_beyond_the_limit_is_refused_and_the_connection_closed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("control");
    let _socket = open(&path).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(&vec![b' '; LINE_BYTES_MAX + 1]).unwrap();
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("at most 65536 bytes"), "{line}");
    line.clear();
    assert_eq!(reader.read_line(&mut line).unwrap_or(0), 0);
}

#[test]
fn one_connection_carries_many_requests_and_too_many_connections_are_told() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("control");
    let _socket = open(&path).unwrap();
    let ask = |stream: &UnixStream, line: &str| {
        (&*stream).write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    };
    let jobs = request_line(&Command::Jobs {});
    let streams: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for stream in &streams {
        assert!(ask(stream, &jobs).contains("\"jobs\":[]"));
        assert!(ask(stream, "nonsense\n").contains("\"error\""));
        assert!(ask(stream, &jobs).contains("\"jobs\":[]"));
    }
    let mut ninth = BufReader::new(UnixStream::connect(&path).unwrap());
    let mut answer = String::new();
    ninth.read_line(&mut answer).unwrap();
    assert!(answer.contains("try again later"), "{answer}");
}
