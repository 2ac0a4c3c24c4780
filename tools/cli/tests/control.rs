//! The commands that drive a running engine, and how a job's program starts from what they leave.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thalweg::connector::{CollectSink, Ingress, PushSource};
use thalweg::{Dataflow, DriverChoice, Engine, EngineBuilder, JobStatus, RestartStrategy};

fn thalweg(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thalweg"));
    command.args(arguments).env("THALWEG_CONTROL_SOCKET", socket).output().unwrap()
}

/// What a command that succeeds prints, without the newline.
fn output(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn failure(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn engine(dir: &Path) -> EngineBuilder {
    Engine::builder()
        .workers(1)
        .parallelism(2)
        .pin(false)
        .driver(DriverChoice::Threads)
        .restart_strategy(RestartStrategy::None)
        .checkpoint_dir(dir.join("checkpoints"))
        .control_socket(dir.join("control"))
}

/// A job that counts what is pushed by its last digit.
fn counting(sink: &CollectSink<(u64, u64)>) -> (Ingress<u64>, Dataflow) {
    let (ingress, source) = PushSource::channel(64);
    let flow = Dataflow::new("digits");
    flow.source("in", source).key_by(|n: &u64| n % 10).count("count").sink("out", sink.clone());
    (ingress, flow)
}

/// Waits until `condition` holds, which it does soon or never.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(120), "in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_running_job_is_watched_checkpointed_saved_and_cancelled() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("control");
    let engine = engine(dir.path()).build().unwrap();
    assert_eq!(output(thalweg(&socket, &["jobs"])), "the engine runs no job");
    assert!(failure(thalweg(&socket, &["checkpoint"])).contains("runs no job"));

    let (ingress, flow) = counting(&CollectSink::new());
    let job = engine.run(flow).unwrap();
    (0..100).for_each(|n| ingress.push(n).unwrap());
    let read =
        || job.metrics().tasks.iter().filter(|task| task.is_source).map(|task| task.records_in).sum::<u64>();
    wait_until("all is read", || read() == 100);

    assert!(output(thalweg(&socket, &["checkpoint"])).ends_with("is complete"));
    let jobs = output(thalweg(&socket, &["jobs"]));
    assert!(jobs.contains("digits: running") && jobs.contains("100 records read"), "{jobs}");
    let json: serde_json::Value =
        serde_json::from_str(&output(thalweg(&socket, &["jobs", "--json"]))).unwrap();
    assert_eq!((&json[0]["name"], &json[0]["checkpoints_completed"]), (&"digits".into(), &1.into()));
    assert!(failure(thalweg(&socket, &["savepoint"])).contains("execution.checkpointing.savepoint-dir"));
    assert!(failure(thalweg(&socket, &["checkpoint", "--job", "other"])).contains("\"digits\""));

    let saved =
        PathBuf::from(output(thalweg(&socket, &["savepoint", dir.path().join("saved").to_str().unwrap()])));
    let verified = output(thalweg(&socket, &["checkpoints", "verify", saved.to_str().unwrap()]));
    assert!(verified.contains("savepoint") && verified.contains("is sound"), "{verified}");
    let listed =
        output(thalweg(&socket, &["checkpoints", "list", dir.path().join("saved").to_str().unwrap()]));
    assert!(listed.contains("savepoint ") && listed.contains("complete"), "{listed}");
    let exported =
        output(thalweg(&socket, &["checkpoints", "export", saved.to_str().unwrap(), "--operator", "count"]));
    assert_eq!(exported.lines().count(), 10);
    assert!(exported.lines().all(|line| line.ends_with("\"value\":10}")), "{exported}");

    let chk = dir.path().join("checkpoints/digits/chk-1");
    let refused = failure(thalweg(&socket, &["checkpoints", "dispose", chk.to_str().unwrap()]));
    assert!(refused.contains("is a checkpoint of job"), "{refused}");
    output(thalweg(&socket, &["checkpoints", "dispose", saved.to_str().unwrap()]));
    assert!(!saved.exists());

    assert_eq!(job.status(), JobStatus::Running);
    assert_eq!(output(thalweg(&socket, &["cancel"])), "cancelled");
    assert_eq!(job.status(), JobStatus::Cancelled);
    assert!(failure(thalweg(&socket, &["cancel"])).contains("has ended"));
    assert!(output(thalweg(&socket, &["jobs"])).contains("digits: cancelled"));
    drop(engine);
    assert!(failure(thalweg(&socket, &["jobs"])).contains("no engine listens"));
}

#[test]
fn a_job_that_was_stopped_with_a_savepoint_goes_on_from_it_by_settings() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("control");
    let sink = CollectSink::new();
    let (ingress, flow) = counting(&sink);
    let engine_before = engine(dir.path()).build().unwrap();
    let job = engine_before.run(flow).unwrap();
    (0..50).for_each(|n| ingress.push(n).unwrap());
    wait_until("all is read", || job.metrics().tasks.iter().map(|task| task.records_in).sum::<u64>() >= 50);
    let saved_in = dir.path().join("saved");
    let saved = output(thalweg(&socket, &["stop", "--savepoint-path", saved_in.to_str().unwrap()]));
    assert_eq!(job.status(), JobStatus::Finished);
    let counts = |sink: &CollectSink<(u64, u64)>| {
        let mut records = sink.collected();
        records.sort_unstable();
        records
    };
    assert_eq!(counts(&sink).len(), 50);
    drop((ingress, engine_before));

    // Another directory of checkpoints, and only the setting to say where to start from.
    let elsewhere = TempDir::new().unwrap();
    let sink = CollectSink::new();
    let (ingress, flow) = counting(&sink);
    let property = format!("execution.state-recovery.path={saved}");
    let builder = engine(elsewhere.path()).property(&property).unwrap();
    let engine_after = builder.build().unwrap();
    let job = engine_after.run(flow).unwrap();
    (0..10).for_each(|n| ingress.push(n).unwrap());
    drop(ingress);
    job.wait().unwrap();
    assert_eq!(counts(&sink), (0..10).map(|digit| (digit, 6)).collect::<Vec<_>>());
}

#[test]
fn cancel_with_savepoint_leaves_one_and_ends_the_job() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("control");
    let engine = engine(dir.path()).savepoint_dir(dir.path().join("saved")).build().unwrap();
    let (_ingress, flow) = counting(&CollectSink::new());
    let job = engine.run(flow).unwrap();
    wait_until("it runs", || job.status() == JobStatus::Running);
    let first = output(thalweg(&socket, &["savepoint"]));
    assert!(first.starts_with(dir.path().join("saved").to_str().unwrap()), "{first}");
    let path = output(thalweg(&socket, &["cancel", "-s", dir.path().join("last").to_str().unwrap()]));
    assert!(Path::new(&path).join("MANIFEST").exists());
    assert!(job.status().is_terminal());
}

/// As a job's program that uses the helper is run.
fn run(arguments: &[&str], flow: impl FnOnce() -> Dataflow) -> ExitCode {
    let arguments = ["job", "run"].iter().chain(arguments).map(OsString::from);
    thalweg::cli::run(arguments, flow)
}

#[test]
fn a_jobs_program_is_configured_by_file_and_properties_and_starts_from_a_savepoint() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("control");
    let (ingress, flow) = counting(&CollectSink::new());
    let before = engine(dir.path()).build().unwrap();
    let job = before.run(flow).unwrap();
    (0..20).for_each(|n| ingress.push(n).unwrap());
    wait_until("all is read", || job.metrics().tasks.iter().map(|task| task.records_in).sum::<u64>() >= 20);
    let saved = output(thalweg(&socket, &["stop", "-p", dir.path().join("saved").to_str().unwrap()]));
    drop((ingress, before));

    let config = dir.path().join("job.yaml");
    let chk = dir.path().join("other-checkpoints");
    let text = format!(
        "execution.checkpointing.dir: {}\nthalweg:\n  driver: threads\n  workers: 2\n  pin: false\nparallelism.default: 9\n",
        chk.display()
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let sink = CollectSink::new();
    let pushed = |sink: &CollectSink<(u64, u64)>| {
        let (ingress, flow) = counting(sink);
        std::thread::spawn(move || (0..10).for_each(|n| ingress.push(n).unwrap()));
        flow
    };
    let property = ["--config", config, "-D", "parallelism.default=2"];
    let code = run(&[&property[..], &["-s", &saved, "--claim-mode", "no-claim"]].concat(), || pushed(&sink));
    assert_eq!(code, ExitCode::SUCCESS);
    let mut records = sink.collected();
    records.sort_unstable();
    assert_eq!(records, (0..10).map(|digit| (digit, 3)).collect::<Vec<_>>());
    assert!(chk.join("digits").exists());

    let nothing = || unreachable!("no job is made of wrong arguments");
    assert_eq!(run(&["--config", "missing.yaml"], nothing), ExitCode::FAILURE);
    assert_eq!(run(&["-D", "thalweg.workres=2"], nothing), ExitCode::FAILURE);
    assert_eq!(run(&["--claim-mode", "claim"], nothing), ExitCode::from(2));
    assert_eq!(
        run(&["-s", "/nowhere", "--config", config], || pushed(&CollectSink::new())),
        ExitCode::FAILURE
    );
}
