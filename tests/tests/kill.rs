//! Kills a real process, over and over, and demands every result exactly once.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use thalweg_tests::clicks::{Clicks, Ended, Random};

/// Kills that must each be followed by a restore from a newer checkpoint.
const KILLS: usize = 20;

/// A process that keeps a core busy until it is dropped.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        let child = Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        Busy(child.expect("a shell starts"))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // It never ends by itself, so both can only succeed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of the ways to run the example.
struct Killing<'a> {
    driver: &'a str,
    mode: &'a str,
    /// Where state lives.
    state: &'a [&'a str],
    users: &'a str,
    kills: usize,
}

impl Killing<'_> {
    /// Returns what the last run, through the end of the input, had to say.
    fn every_total_appears_once(&self) -> Ended {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let driver_and_mode = ["--driver", self.driver, "--mode", self.mode];
        let options =
            [&driver_and_mode, &["--workers", "2", "--checkpoint-interval", "50ms"], self.state].concat();
        let clicks = Clicks::new(dir.path(), &options);
        clicks.succeed(&["--prepare", "--clicks", "3000000", "--users", self.users]);
        let mut random = Random::seeded(&options.join(" "));
        let restored = clicks.kill_at_random(&mut random, self.kills);
        // The rest at full speed, through the end of the input.
        let ended = clicks.succeed(&[]);
        assert!(ended.lines.iter().any(|line| line.starts_with("restored checkpoint ")), "{}", ended.said());
        clicks.assert_exactly_once();
        let verdict = clicks.succeed(&["--verify"]);
        let line = verdict.lines.iter().find(|line| line.starts_with("verified: ")).expect("a verdict");
        let restores = line.rsplit(", ").next().and_then(|last| last.strip_suffix(" restores"));
        let restores: usize = restores.and_then(|number| number.parse().ok()).expect("a number of restores");
        assert!(restores > restored.len(), "{line}: {} restores were seen", restored.len() + 1);
        let again = clicks.succeed(&[]);
        assert!(again.lines[0].starts_with("complete already"), "{}", again.said());
        ended
    }
}

fn killed_at_random_moments_every_total_appears_once(driver: &str, mode: &str) {
    Killing { driver, mode, state: &[], users: "20000", kills: KILLS }.every_total_appears_once();
}

#[test]
fn killed_on_glommio_every_total_appears_once() {
    killed_at_random_moments_every_total_appears_once("glommio", "unaligned");
}

#[test]
fn killed_on_threads_beside_a_busy_process_every_total_appears_once() {
    let _busy = Busy::start();
    killed_at_random_moments_every_total_appears_once("threads", "unaligned");
}

#[test]
fn killed_with_aligned_checkpoints_every_total_appears_once() {
    killed_at_random_moments_every_total_appears_once("auto", "aligned");
}

#[test]
fn killed_with_state_in_logs_every_total_appears_once() {
    let state = ["--state-backend", "log"];
    Killing { driver: "auto", mode: "unaligned", state: &state, users: "20000", kills: KILLS }
        .every_total_appears_once();
}

#[test]
fn killed_with_more_state_than_memory_every_total_appears_once() {
    let state = ["--state-backend", "log", "--state-memory", "1mb"];
    let ended = Killing { driver: "auto", mode: "unaligned", state: &state, users: "1000000", kills: 5 }
        .every_total_appears_once();
    let reads = ended.lines.iter().find_map(|line| line.split_once(" page reads, ")?.0.rsplit(' ').next());
    let reads: u64 = reads.expect("a number of page reads").replace(',', "").parse().expect("a number");
    assert!(reads > 0, "{}", ended.said());
}

#[test]
fn a_killed_preparation_starts_again_cleanly() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clicks = Clicks::new(dir.path(), &[]);
    let prepare = ["--prepare", "--clicks", "2000000", "--users", "1000"];
    let running = clicks.start(&prepare);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !dir.path().join("input.unfinished").join("clicks-03.ndjson").exists() {
        assert!(Instant::now() < deadline, "the preparation does not begin");
        thread::yield_now();
    }
    running.kill();
    assert!(!dir.path().join("input").exists(), "an unfinished log has its final name");
    clicks.succeed(&prepare);
    let lines = |file: &str| {
        let log = std::fs::read_to_string(dir.path().join("input").join(file)).expect("the log is there");
        assert!(log.ends_with("}\n"));
        log.lines().count()
    };
    let files = ["clicks-00.ndjson", "clicks-01.ndjson", "clicks-02.ndjson", "clicks-03.ndjson"];
    assert_eq!(files.map(lines), [500_000; 4]);
}

#[test]
fn a_changed_output_is_not_verified() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clicks = Clicks::new(dir.path(), &[]);
    clicks.succeed(&["--prepare", "--clicks", "1000", "--users", "10"]);
    let incomplete = clicks.run(&["--verify"]);
    assert!(incomplete.errors.contains("the job is not complete"), "{}", incomplete.said());
    assert_eq!(incomplete.status.code(), Some(1));
    clicks.succeed(&[]);
    let output = dir.path().join("output");
    let part = std::fs::read_dir(&output).expect("there is output").next().expect("a file").expect("a file");
    let rows = std::fs::read_to_string(part.path()).expect("a file of text");
    let (first, rest) = rows.split_once('\n').expect("a row");
    let damaged =
        [rest.to_owned(), format!("{first}\n{rows}"), format!("{rest}{first}\n"), format!("{rows}1,")];
    for text in damaged {
        std::fs::write(part.path(), text).expect("a file can be written");
        let ended = clicks.run(&["--verify"]);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.said());
        assert!(ended.lines.iter().any(|line| line.starts_with("NOT verified")), "{}", ended.said());
    }
    std::fs::write(part.path(), &rows).expect("a file can be written");
    clicks.succeed(&["--verify"]);
    // The totals of a user may lie in files of several subtasks, as after a change of the parallelism.
    std::fs::write(part.path(), rest).expect("a file can be written");
    let other = output.join("part-00009-000000.csv");
    std::fs::write(&other, format!("{first}\n")).expect("a file can be written");
    clicks.succeed(&["--verify"]);
    std::fs::write(&other, format!("{first}\n{rest}")).expect("a file can be written");
    assert_eq!(clicks.run(&["--verify"]).status.code(), Some(1));
    std::fs::remove_file(&other).expect("a file can be removed");
    std::fs::write(part.path(), &rows).expect("a file can be written");
    clicks.succeed(&["--verify"]);
    std::fs::write(output.join(".part-00000-000009.csv.3.inprogress"), "").expect("a file can be written");
    assert_eq!(clicks.run(&["--verify"]).status.code(), Some(1));
}
