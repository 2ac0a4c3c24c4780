//! Other stores beside ours: builds the package in `bench/compare`, which the workspace does not know, and talks to its processes.
//!
//! Always true: a process gets its limit of memory before it allocates anything worth mentioning, since it waits for its orders; and it
//! ends when its [`Peer`] is dropped.

use crate::Result;
use crate::cgroup::MemoryLimit;
use crate::report::{Summary, summarise, target_folder};
use crate::spec::{PeerFigures, PeerKind, PeerLoaded, PeerSpec, PeerTask};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// All other stores.
pub const KINDS: [PeerKind; 2] = [PeerKind::Rocksdb, PeerKind::Fjall];

/// Name of the program that the package makes.
const PROGRAM: &str = "thalweg-bench-compare";

/// Builds the program, which takes long the first time: RocksDB is half a million lines of C++.
///
/// # Errors
/// The build failed. The message says what Debian packages it needs.
pub fn build() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("compare");
    let target = target_folder().join("compare");
    eprintln!("thalweg-bench: building {} (RocksDB takes many minutes the first time)", package.display());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "--quiet"])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("cannot run cargo to build {}: {error}", package.display()))?;
    if !status.success() {
        let needs =
            "RocksDB needs a C++ compiler and libclang: on Debian, `apt-get install g++ libclang-dev`";
        return Err(format!("{} could not be built ({status}). {needs}", package.display()).into());
    }
    Ok(target.join("release").join(PROGRAM))
}

/// A process with a store.
pub struct Peer {
    pub loaded: PeerLoaded,
    /// The limit of its memory, if the system granted one.
    pub limit_bytes: Option<u64>,
    process: Process,
}

impl Peer {
    /// Starts `program`, limits its memory to `limit_bytes` where that is given and the system permits it, and waits until
    /// the store holds its keys.
    ///
    /// # Errors
    /// The process could not be started, or has failed.
    pub fn start(program: &Path, spec: &PeerSpec, limit_bytes: Option<u64>) -> Result<Peer> {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        let limit = limit_bytes.and_then(|bytes| {
            MemoryLimit::of_process(child.id(), bytes)
                .inspect_err(|error| {
                    eprintln!("thalweg-bench: {:?} runs without a limit of memory: {error}", spec.kind);
                })
                .ok()
        });
        let input = child.stdin.take().expect("it was piped");
        let output = BufReader::new(child.stdout.take().expect("it was piped"));
        let limited = limit.as_ref().map(MemoryLimit::bytes);
        let mut process = Process { child, input: Some(input), output, limit };
        let loaded = process.ask(spec)?;
        Ok(Peer { loaded, limit_bytes: limited, process })
    }

    /// Lets it measure.
    ///
    /// # Errors
    /// The process has failed; it says why on standard error.
    pub fn run(&mut self, task: &PeerTask) -> Result<PeerFigures> {
        self.process.ask(task)
    }
}

struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    limit: Option<MemoryLimit>,
}

impl Process {
    fn ask<T: DeserializeOwned>(&mut self, question: &impl Serialize) -> Result<T> {
        let mut line = serde_json::to_string(question)?;
        line.push('\n');
        let input = self.input.as_mut().expect("open until the process is dropped");
        let mut answer = String::new();
        let asked = input.write_all(line.as_bytes()).and_then(|()| self.output.read_line(&mut answer));
        if asked.is_err() || answer.is_empty() {
            let status = self.child.wait()?;
            return Err(format!("the other store's process has ended: {status}").into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input is its order to end.
        drop(self.input.take());
        if let Err(error) = self.child.wait() {
            eprintln!("thalweg-bench: the other store's process cannot be waited for: {error}");
        }
        // Only an empty control group can be removed.
        drop(self.limit.take());
    }
}

/// The columns of another store, beside ours.
#[derive(Debug, Serialize)]
pub struct PeerRow {
    pub name: String,
    pub settings: String,
    pub memory_bytes: u64,
    /// Limit by control group; absent where the system refuses one or none was wanted.
    pub memory_limit_bytes: Option<u64>,
    pub resident_bytes_max: u64,
    pub records_per_s: f64,
    pub spread: f64,
    /// Our records per second as a multiple of its; median of neighbouring runs.
    pub ratio: f64,
    pub ratio_spread: f64,
    /// As `ratio`, per second of processor time.
    pub cpu_ratio: f64,
    pub samples: Vec<PeerFigures>,
}

impl PeerRow {
    /// Sums up runs of `peer`; `ours` has the records per second and per processor second of the run beside each, of which
    /// there is at least one.
    pub fn new(peer: &Peer, memory_bytes: u64, ours: &[(f64, f64)], samples: Vec<PeerFigures>) -> PeerRow {
        let speed = |figures: &PeerFigures| figures.records as f64 / figures.seconds;
        let cpu_speed = |figures: &PeerFigures| figures.records as f64 / figures.cpu_seconds;
        let of = |values: Vec<f64>| summarise(&values).unwrap_or(Summary { median: 0.0, spread: 0.0 });
        let records_per_s = of(samples.iter().map(speed).collect());
        let ratio = of(ours.iter().zip(&samples).map(|(ours, figures)| ours.0 / speed(figures)).collect());
        let cpu_ratio =
            of(ours.iter().zip(&samples).map(|(ours, figures)| ours.1 / cpu_speed(figures)).collect());
        PeerRow {
            name: peer.loaded.name.clone(),
            settings: peer.loaded.settings.clone(),
            memory_bytes,
            memory_limit_bytes: peer.limit_bytes,
            resident_bytes_max: samples.iter().map(|f| f.resident_bytes_max).max().unwrap_or(0),
            records_per_s: records_per_s.median,
            spread: records_per_s.spread,
            ratio: ratio.median,
            ratio_spread: ratio.spread,
            cpu_ratio: cpu_ratio.median,
            samples,
        }
    }
}
