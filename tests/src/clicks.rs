//! Runs the `clicks` example as a child process, kills it, and checks what it leaves behind.
//!
//! Always true: the checks here share no code with the example or the engine; a child that is started here is dead when
//! its [`Running`] is dropped.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// No single step of a child takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// A whole round of kills takes no longer.
const KILLING_MAX: Duration = Duration::from_secs(600);
/// Environment variable that repeats a run's random choices.
const SEED_VARIABLE: &str = "THALWEG_SEED";

/// The example's binary, as new as the sources: that of the build under way, else built now.
pub fn example() -> &'static Path {
    static EXAMPLE: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLE.get_or_init(|| {
        // `target/<profile>/deps/<test>`
        let test = std::env::current_exe().expect("a test knows its own path");
        let profile_dir = test.ancestors().nth(2).expect("a test lies in target/<profile>/deps");
        let binary = profile_dir.join("examples").join(format!("clicks{}", std::env::consts::EXE_SUFFIX));
        if built_after_sources(&binary) {
            return binary;
        }
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let target = profile_dir.parent().expect("a profile lies in the target folder");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "thalweg", "--example", "clicks", "--profile", profile])
            .arg("--target-dir")
            .arg(target)
            .current_dir(workspace())
            .status()
            .expect("cargo starts");
        assert!(status.success(), "building the clicks example failed");
        assert!(binary.exists(), "cargo has not built {}", binary.display());
        binary
    })
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

fn built_after_sources(binary: &Path) -> bool {
    let Ok(built) = binary.metadata().and_then(|data| data.modified()) else { return false };
    let sources = ["engine/src", "engine/examples", "storage/src", "engine/Cargo.toml", "Cargo.lock"];
    sources.iter().all(|source| newest(&workspace().join(source)) <= built)
}

/// When the newest file below `path` was changed.
fn newest(path: &Path) -> SystemTime {
    let own = path.metadata().and_then(|data| data.modified()).expect("a source can be looked at");
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| newest(&entry.path())).fold(own, SystemTime::max)
}

/// A small random number generator (SplitMix64) whose seed is printed.
pub struct Random(u64);

impl Random {
    /// Always the same numbers for a seed.
    pub fn of_seed(seed: u64) -> Self {
        Random(seed)
    }

    /// Seeded by `THALWEG_SEED`, or by the time.
    pub fn seeded(test: &str) -> Self {
        let seed = match std::env::var(SEED_VARIABLE) {
            Ok(seed) => seed.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE} is no number: {seed}")),
            Err(_) => SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64),
        };
        println!("{test}: {SEED_VARIABLE}={seed}");
        Random(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Changes how a child is started, such as by a limit that it inherits.
type Confine = Box<dyn Fn(&mut Command) + Send + Sync>;

/// The example in one directory.
pub struct Clicks {
    dir: PathBuf,
    options: Vec<String>,
    confine: Confine,
}

/// What a child said, and how it ended.
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Lines of its standard output.
    pub lines: Vec<String>,
    /// Its standard error.
    pub errors: String,
}

impl Ended {
    /// All that it said, for messages of failed assertions.
    pub fn said(&self) -> String {
        format!("{}\n{}\n{}", self.status, self.lines.join("\n"), self.errors)
    }
}

impl Clicks {
    /// The example in `dir`, with options for every start.
    pub fn new(dir: impl Into<PathBuf>, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Clicks { dir: dir.into(), options, confine: Box::new(|_| {}) }
    }

    /// Starts every child by way of `confine`.
    pub fn confined(mut self, confine: impl Fn(&mut Command) + Send + Sync + 'static) -> Self {
        self.confine = Box::new(confine);
        self
    }

    /// Starts the example with further options.
    pub fn start(&self, options: &[&str]) -> Running {
        let mut command = Command::new(example());
        // To the example it would be a setting.
        command.env_remove(SEED_VARIABLE);
        command.arg("--dir").arg(&self.dir).arg("--no-progress").args(&self.options).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        (self.confine)(&mut command);
        let mut child = command.spawn().expect("the example starts");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut stderr = child.stderr.take().expect("stderr is a pipe");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Nobody listens when the test has failed already.
                let _ = sender.send(line);
            }
        });
        let errors = thread::spawn(move || {
            let mut text = String::new();
            // What could be read before an error is all there is to show.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Running { child, lines, said: Vec::new(), errors: Some(errors) }
    }

    /// Starts the example with further options and waits for its end.
    pub fn run(&self, options: &[&str]) -> Ended {
        let mut running = self.start(options);
        while running.next_line().is_some() {}
        running.end()
    }

    /// As [`Clicks::run`]; the example must succeed.
    pub fn succeed(&self, options: &[&str]) -> Ended {
        let ended = self.run(options);
        assert!(ended.status.success(), "{options:?}: {}", ended.said());
        ended
    }

    /// Kills the running example at random moments until `kills` of them were each followed by a restore from a
    /// checkpoint newer than any restored before. Returns what was restored from, in order.
    pub fn kill_at_random(&self, random: &mut Random, kills: usize) -> Vec<u64> {
        let deadline = Instant::now() + KILLING_MAX;
        let mut restored: Vec<u64> = Vec::new();
        let mut starts = 0;
        while restored.len() < kills {
            assert!(Instant::now() < deadline, "only {restored:?} restored in {starts} starts");
            // Mostly slow, so that the input lasts; sometimes fast, so that much is in flight.
            let rate = if random.below(6) == 0 { 400_000 } else { 5_000 + random.below(45_000) }.to_string();
            let mut running = self.start(&["--rate", &rate]);
            starts += 1;
            // Mostly while it counts, sometimes while it starts or restores. The sleeps are the random moments.
            let mut moment = random.below(400);
            if starts == 1 || random.below(4) > 0 {
                running.line_that(|line| line.starts_with("restored ") || line.starts_with("started "));
                moment += 60;
            }
            thread::sleep(Duration::from_millis(moment));
            let ended = running.kill();
            let number = |line: &String| line.strip_prefix("restored checkpoint ")?.parse().ok();
            let newest = restored.last().copied().unwrap_or(0);
            match ended.lines.iter().find_map(number) {
                Some(checkpoint) if checkpoint > newest => restored.push(checkpoint),
                Some(checkpoint) => {
                    assert_eq!(
                        checkpoint,
                        newest,
                        "the restored checkpoint is an older one: {}",
                        ended.said()
                    )
                }
                None => {
                    let afresh = ended.lines.iter().any(|line| line.starts_with("started "));
                    assert!(!afresh || newest == 0, "checkpoint {newest} was forgotten: {}", ended.said());
                }
            }
        }
        println!("{} kills, restored from {restored:?}", starts);
        restored
    }

    /// Checks that each user's totals are 1, 2, … n, each once and in order, n being the user's clicks in the input;
    /// and that no unfinished file is left. For jobs whose parallelism has not changed.
    pub fn assert_exactly_once(&self) {
        let mut expected: HashMap<u64, u64> = HashMap::new();
        for file in files(&self.dir.join("input")) {
            for line in read(&file).lines().filter(|line| line.contains(r#""logged_in":true"#)) {
                let user = line.split_once(r#""user":"#).and_then(|(_, rest)| rest.split_once(','));
                *expected.entry(user.expect("a line has a user").0.parse().expect("a user")).or_default() +=
                    1;
            }
        }
        let mut counted: HashMap<u64, u64> = HashMap::new();
        // Sorted by name the files of each subtask are in order, and each user is in one subtask.
        for file in files(&self.dir.join("output")) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            assert!(name.starts_with("part-") && name.ends_with(".csv"), "{name} is left behind");
            for row in read(&file).lines() {
                let (user, total) = row.split_once(',').expect("a row has two fields");
                let (user, total): (u64, u64) =
                    (user.parse().expect("a user"), total.parse().expect("a total"));
                let last = counted.insert(user, total).unwrap_or(0);
                assert_eq!(total, last + 1, "{name}: user {user} has total {total} after {last}");
            }
        }
        assert_eq!(counted.len(), expected.len(), "users counted and expected");
        for (user, clicks) in expected {
            assert_eq!(counted.get(&user), Some(&clicks), "clicks of user {user}");
        }
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The files of `dir`, sorted by name; not those of the example's own that begin with a dot and hold no data.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a directory can be read").path()).collect();
    files.retain(|file| !file.ends_with(".recipe"));
    files.sort();
    files
}

/// A child that runs.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    errors: Option<thread::JoinHandle<String>>,
}

impl Running {
    /// The next line of its standard output; `None` when it has ended.
    pub fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.said.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("the example has been silent for {PATIENCE:?} after {:?}", self.said)
            }
        }
    }

    /// Waits for a line.
    pub fn line_that(&mut self, fits: impl Fn(&str) -> bool) -> String {
        while let Some(line) = self.next_line() {
            if fits(&line) {
                return line;
            }
        }
        panic!("the example ended too early: {}", self.finish().said());
    }

    /// Kills it with SIGKILL. It must not have ended before.
    pub fn kill(mut self) -> Ended {
        let before = self.child.try_wait().expect("a child can be waited for");
        self.child.kill().expect("a child can be killed");
        let ended = self.finish();
        assert!(before.is_none(), "the example ended by itself: {}", ended.said());
        ended
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        self.finish()
    }

    fn finish(&mut self) -> Ended {
        let status = self.child.wait().expect("a child can be waited for");
        self.said.extend(self.lines.iter());
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        Ended { status, lines: std::mem::take(&mut self.said), errors }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail for a child that has ended, as they should have nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
