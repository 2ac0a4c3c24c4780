//! Settings from files, the environment and the command line reach a real job's process, and the stronger place counts.

use std::fs;
use thalweg::remote::{Answer, Command, call};
use thalweg_tests::clicks::Clicks;
use thalweg_tests::support::wait_until;

#[test]
fn a_jobs_process_takes_settings_from_file_environment_and_command_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = dir.path().join("job.yaml");
    let text = "thalweg:\n  driver: threads\n  workers: 7\n  pin: false\nstate.backend.type: rocksdb\nparallelism.default: 5\n";
    fs::write(&config, text).expect("a writable directory");
    let config = config.to_str().expect("a path in UTF-8");
    let clicks = Clicks::new(dir.path().join("job"), &["--clicks", "2000", "--users", "50"])
        .confined(|command| _ = command.env("THALWEG_WORKERS", "3").env("THALWEG_PARALLELISM_DEFAULT", "4"));

    let wrong = clicks.run(&["--config", config, "-D", "thalweg.workres=2"]);
    assert!(
        !wrong.status.success() && wrong.errors.contains("did you mean `thalweg.workers`?"),
        "{}",
        wrong.said()
    );

    let ended = clicks.succeed(&["--config", config, "-D", "thalweg.workers=2"]);
    let says =
        |what: &str| assert!(ended.lines.iter().any(|line| line.contains(what)), "{what}: {}", ended.said());
    // Workers by the command line, the driver and the backend by the file.
    says("2 workers on threads");
    says("users in ");
    says("verified: ");
    clicks.assert_exactly_once();
}

#[test]
fn a_jobs_process_that_was_stopped_over_its_socket_goes_on_from_the_savepoint() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (socket, saved) = (dir.path().join("control"), dir.path().join("saved"));
    let control = ["--control-socket", socket.to_str().expect("a path in UTF-8")];
    let clicks = Clicks::new(dir.path().join("job"), &["--driver", "threads", "--workers", "2"]);
    clicks.succeed(&["--prepare", "--clicks", "200000", "--users", "1000"]);
    let mut running = clicks.start(&[&control[..], &["--rate", "20000"]].concat());
    let read = || match call(&socket, &Command::Jobs {}) {
        Ok(Answer::Jobs { jobs }) => jobs.first().map_or(0, |job| job.records_read),
        _ => 0,
    };
    wait_until("some clicks have been read", || read() > 1000);
    let stop = Command::Stop { job: Some("clicks".into()), drain: false, dir: Some(saved.clone()) };
    let Ok(Answer::Savepoint { path }) = call(&socket, &stop) else { panic!("the job does not stop") };
    assert!(path.starts_with(&saved) && path.join("MANIFEST").exists(), "{}", path.display());
    while running.next_line().is_some() {}
    let stopped = running.end();
    assert!(
        stopped.status.success() && stopped.said().contains("stopped with a savepoint"),
        "{}",
        stopped.said()
    );

    let ended = clicks.succeed(&[]);
    assert!(ended.lines.iter().any(|line| line.starts_with("restored checkpoint ")), "{}", ended.said());
    clicks.assert_exactly_once();
}
