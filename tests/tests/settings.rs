//! Settings from files, the environment and the command line reach a real job's process, and the stronger place counts.

use std::fs;
use thalweg_tests::clicks::Clicks;

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
