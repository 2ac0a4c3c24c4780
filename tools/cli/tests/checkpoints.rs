//! The commands about checkpoints, on what a job and a checkpoint store have written, sound and damaged.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thalweg::connector::{CollectSink, FileSink, GeneratorSource};
use thalweg::{Dataflow, DriverChoice, Engine, JobStatus};
use thalweg_storage::Data;
use thalweg_storage::checkpoint::{CheckpointStore, names, payload_crc32};
use thalweg_storage::io::{DiskHandle, OpenMode, StdDisk};
use thalweg_storage::manifest::{ChannelOrigin, ChannelState, EdgeState, Payload};

fn thalweg(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thalweg")).args(arguments).output().unwrap()
}

fn checkpoints(command: &str, dir: &Path, options: &[&str]) -> Output {
    let dir = dir.to_str().unwrap();
    thalweg(&[&["checkpoints", command, dir], options].concat())
}

/// What a command that succeeds prints.
fn output(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command says that fails, on both streams.
fn failure(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn json(output_of: Output) -> Value {
    let text = output(output_of);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn assert_says(text: &str, says: &[&str]) {
    for what in says {
        assert!(text.contains(what), "{what:?} is not in:\n{text}");
    }
}

/// Runs a job to its end that counts 1,000 numbers by their last digit; the directory of its last checkpoint.
fn counted(dir: &Path) -> PathBuf {
    let checkpoints = dir.join("checkpoints");
    let builder = Engine::builder().workers(1).parallelism(2).pin(false).driver(DriverChoice::Threads);
    let engine = builder.checkpoint_dir(&checkpoints).build().unwrap();
    let flow = Dataflow::new("digits");
    flow.source("numbers", GeneratorSource::new(Some(1000), |n| n))
        .key_by(|n: &u64| n % 10)
        .count("count")
        .sink("write", FileSink::csv::<(u64, u64)>(dir.join("out")));
    engine.run(flow).unwrap().wait().unwrap();
    newest(&checkpoints.join("digits"))
}

/// Leaves a checkpoint of a job that reads numbers without end; its directory.
fn stopped_midway(dir: &Path) -> PathBuf {
    let builder = Engine::builder().workers(1).parallelism(2).pin(false).driver(DriverChoice::Threads);
    let engine = builder.checkpoint_dir(dir).build().unwrap();
    let flow = Dataflow::new("endless");
    let numbers = flow.source("numbers", GeneratorSource::new(None, |n| n));
    numbers.with_rate_limit(1000.0).filter("even", |n| n % 2 == 0).sink("collect", CollectSink::new());
    let job = engine.run(flow).unwrap();
    let begun = Instant::now();
    while job.status() != JobStatus::Running {
        assert!(begun.elapsed() < Duration::from_secs(120), "the job does not start: {:?}", job.status());
        std::thread::yield_now();
    }
    job.checkpoint().unwrap();
    newest(&dir.join("endless"))
}

fn newest(job_dir: &Path) -> PathBuf {
    let id = |path: &PathBuf| -> Option<u64> {
        let name = path.file_name()?.to_str()?.strip_prefix("chk-")?;
        path.join("MANIFEST").exists().then(|| name.parse().ok())?
    };
    let paths = fs::read_dir(job_dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| id(path).is_some()).max_by_key(|path| id(path)).unwrap()
}

#[test]
fn the_checkpoints_of_a_job_are_listed_from_any_directory_above_them() {
    let dir = TempDir::new().unwrap();
    let chk = counted(dir.path());
    let id = chk.file_name().unwrap().to_str().unwrap().strip_prefix("chk-").unwrap().to_owned();
    for at in [chk.clone(), chk.parent().unwrap().to_owned(), dir.path().join("checkpoints")] {
        let text = output(checkpoints("list", &at, &[]));
        assert_says(&text, &["complete", &format!("chk-{id}"), "checkpoint"]);
        let document = json(checkpoints("list", &at, &["--json"]));
        let listed = document.as_array().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0]["id"].to_string(), id);
        assert_eq!(listed[0]["job"], "digits");
        assert!(listed[0]["bytes"].as_u64().unwrap() > 0 && listed[0]["files"].as_u64().unwrap() > 1);
    }
    assert_says(&output(checkpoints("list", &dir.path().join("out"), &[])), &["no checkpoint or savepoint"]);
    assert_says(&failure(checkpoints("list", &dir.path().join("nowhere"), &[])), &["error:", "nowhere"]);
}

#[test]
fn inspect_shows_operators_states_positions_and_committables() {
    let dir = TempDir::new().unwrap();
    let chk = counted(dir.path());
    let text = output(checkpoints("inspect", &chk, &["--groups"]));
    assert_says(
        &text,
        &[
            "of job \"digits\"",
            "operator \"numbers\": parallelism 2",
            "operator \"count\": parallelism 2",
            "operator \"write\": parallelism 2",
            "u64 by u64",
            "group ",
            "committable of checkpoint",
            "no data in flight",
        ],
    );
    let document = json(checkpoints("inspect", &chk, &["--json"]));
    let operators = document["operators"].as_array().unwrap();
    let count = operators.iter().find(|operator| operator["uid"] == "count").unwrap();
    let state = &count["keyed_states"][0];
    assert_eq!((&state["kind"], &state["key_type"]), (&"value".into(), &"u64".into()));
    let rows = |group: &Value| group["rows"].as_u64().unwrap();
    assert_eq!(state["groups"].as_array().unwrap().iter().map(rows).sum::<u64>(), 10);
    let write = operators.iter().find(|operator| operator["uid"] == "write").unwrap();
    // One of each subtask, unless the output of one was committed by the checkpoint before.
    let subtasks = write["subtasks"].as_array().unwrap();
    let listed = |subtask: &Value| subtask["committables"].as_array().unwrap().len();
    assert!((1..=2).contains(&subtasks.iter().map(listed).sum::<usize>()), "{write}");
    assert!(subtasks.iter().all(|subtask| listed(subtask) <= 1 && subtask["finished"] == true), "{write}");
}

#[test]
fn export_prints_every_key_once_with_its_value() {
    let dir = TempDir::new().unwrap();
    let chk = counted(dir.path());
    let text = output(checkpoints("export", &chk, &["--operator", "count"]));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut counts: Vec<(u64, u64)> =
        lines.iter().map(|line| (line["key"].as_u64().unwrap(), line["value"].as_u64().unwrap())).collect();
    counts.sort_unstable();
    assert_eq!(counts, (0..10).map(|digit| (digit, 100)).collect::<Vec<_>>());
    let all = output(checkpoints("export", &chk, &[]));
    assert_says(&all, &[r#""operator":"write","state":"writer","kind":"operator","subtask":1,"value":{"#]);
    assert_says(&failure(checkpoints("export", &chk, &["--operator", "sum"])), &["\"sum\"", "numbers, "]);
    assert_says(&failure(checkpoints("export", &chk, &["--state", "median"])), &["no state \"median\""]);
}

#[test]
fn verify_accepts_a_sound_checkpoint_and_names_file_and_offset_of_each_damage() {
    let dir = TempDir::new().unwrap();
    let chk = counted(dir.path());
    assert_says(&output(checkpoints("verify", &chk, &[])), &["is sound", "every byte checked"]);
    let document = json(checkpoints("verify", &chk, &["--json"]));
    assert_eq!((&document["sound"], &document["problems"]), (&true.into(), &serde_json::json!([])));

    let shared = chk.parent().unwrap().join("shared");
    let segments: Vec<PathBuf> = fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap().path()).collect();
    let sound = fs::read(&segments[0]).unwrap();
    for at in [0, sound.len() / 2, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x10;
        fs::write(&segments[0], damaged).unwrap();
        let text = failure(checkpoints("verify", &chk, &[]));
        assert_says(&text, &[segments[0].to_str().unwrap(), "is damaged", "another checkpoint"]);
        let document: Value =
            serde_json::from_slice(&checkpoints("verify", &chk, &["--json"]).stdout).unwrap();
        assert_eq!(document["sound"], false);
        assert!(document["problems"][0]["offset"].as_u64().unwrap() <= at as u64);
    }
    fs::remove_file(&segments[0]).unwrap();
    assert_says(&failure(checkpoints("verify", &chk, &[])), &[segments[0].to_str().unwrap(), "opening"]);
    fs::write(&segments[0], sound).unwrap();
    fs::write(chk.join("left-over"), "x").unwrap();
    assert_says(&output(checkpoints("verify", &chk, &[])), &["extra: ", "left-over", "is sound"]);

    let manifest = chk.join("MANIFEST");
    let mut bytes = fs::read(&manifest).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    assert_says(&failure(checkpoints("verify", &chk, &[])), &["error:", "MANIFEST", "body crc"]);
    let listed = checkpoints("list", chk.parent().unwrap(), &[]);
    assert_says(&failure(listed), &["damaged", "MANIFEST"]);
}

#[test]
fn data_in_flight_is_shown_per_edge_and_verified() {
    let dir = TempDir::new().unwrap();
    let chk = counted(dir.path());
    let disk = DiskHandle::new(StdDisk::start(1).unwrap());
    let mut store = CheckpointStore::open(disk.clone(), &dir.path().join("checkpoints"), "digits").unwrap();
    let mut manifest = store.load(*store.completed().last().unwrap()).unwrap();
    let (attempt, id) = (store.next_attempt().unwrap(), store.begin().unwrap());
    let path = names::channel_path(attempt, id, 1, 0);
    let file = disk.open(store.dir().join(&path), OpenMode::CreateNew).wait().unwrap();
    let data: Vec<u8> = (1..6u64).flat_map(u64::to_le_bytes).collect();
    disk.write(file, 0, data.clone()).wait().unwrap();
    disk.sync_data(file).wait().unwrap();
    disk.close(file).wait().unwrap();
    let (bytes, crc32) = (data.len() as u64, payload_crc32(&data));
    let in_file = Payload::File { path: path.clone(), offset: 0, bytes, crc32, file_bytes: bytes };
    manifest.attempt = attempt;
    manifest.checkpoint = id;
    let parts = [
        (ChannelOrigin::Consumer, 5, in_file),
        (
            ChannelOrigin::Producer,
            2,
            Payload::Inline([6u64, 7].into_iter().flat_map(u64::to_le_bytes).collect()),
        ),
    ];
    for (origin, records, data) in parts {
        let edge = "numbers -> count".to_owned();
        let (producer, consumer, generation) = (0, 0, 0);
        manifest.channels.push(ChannelState { edge, producer, consumer, generation, origin, records, data });
    }
    let name = "numbers -> count".to_owned();
    manifest.edges = vec![EdgeState { name, record: u64::schema(), key: None, producers: 1, consumers: 1 }];
    store.publish(&manifest, 10, &|_| true).unwrap();
    let job_dir = store.dir().to_owned();
    drop(store);

    let newer = newest(&job_dir);
    assert_ne!(newer, chk);
    let text = output(checkpoints("inspect", &newer, &[]));
    assert_says(&text, &["numbers -> count: 5 records captured and 2 held back, 56 B in 2 parts"]);
    let document = json(checkpoints("inspect", &newer, &["--json"]));
    assert_eq!(document["in_flight"][0]["records"], 5);
    output(checkpoints("verify", &newer, &[]));
    let exported = output(checkpoints("export", &newer, &[]));
    let values: Vec<u64> = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["kind"] == "in-flight" && line["edge"] == "numbers -> count")
        .map(|line| line["value"].as_u64().unwrap())
        .collect();
    assert_eq!(values, [1, 2, 3, 4, 5, 6, 7]);
    fs::write(job_dir.join(&path), [9; 40]).unwrap();
    assert_says(&failure(checkpoints("verify", &newer, &[])), &[&path, "payload crc"]);
}

#[test]
fn a_directory_that_is_no_checkpoint_is_told_with_the_ones_below_it() {
    let dir = TempDir::new().unwrap();
    let chk = counted(dir.path());
    let message = failure(checkpoints("inspect", &dir.path().join("checkpoints"), &[]));
    assert_says(&message, &["error:", "no checkpoint itself", chk.to_str().unwrap()]);
}

#[test]
fn the_positions_of_sources_that_go_on_are_shown_and_exported() {
    let dir = TempDir::new().unwrap();
    let chk = stopped_midway(dir.path());
    let text = output(checkpoints("inspect", &chk, &[]));
    assert_says(
        &text,
        &["operator \"numbers\"", "GeneratorSplit version 1 { next: u64, step: u64 }): 1 element"],
    );
    let document = json(checkpoints("inspect", &chk, &["--json"]));
    for (index, subtask) in document["operators"][0]["subtasks"].as_array().unwrap().iter().enumerate() {
        let position = &subtask["operator_state"][0]["value"];
        assert_eq!(position["step"], 2);
        assert_eq!(position["next"].as_u64().unwrap() % 2, index as u64);
    }
    let exported = output(checkpoints("export", &chk, &[]));
    assert_says(&exported, &[r#"{"operator":"numbers","state":"#, r#""subtask":1,"value":{"next":"#]);
    output(checkpoints("verify", &chk, &[]));
}

#[test]
fn settings_are_explained_and_files_of_them_checked() {
    assert_says(&output(thalweg(&["config", "reference"])), &["`execution.checkpointing.interval`"]);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("app.yaml");
    fs::write(&file, "execution.checkpointing:\n  interval: 1s\n  dir: chk\n").unwrap();
    output(thalweg(&["config", "check", file.to_str().unwrap()]));
    fs::write(&file, "execution.checkpointing:\n  intervall: 1s\n").unwrap();
    let message = failure(thalweg(&["config", "check", file.to_str().unwrap()]));
    assert_says(&message, &["app.yaml:2:3", "did you mean `execution.checkpointing.interval`"]);
}
