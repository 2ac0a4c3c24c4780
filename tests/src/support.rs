//! What whole-engine tests share: an exactly-once sink that a test can stop, and watchdogs.
//!
//! Always true: nothing here waits by sleeping for a guessed time; a wait ends with its condition or with the
//! watchdog's panic.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thalweg::clock::Nanos;
use thalweg::connector::{BoxError, ConnectorContext, MemorySink, Sink, SinkSnapshot, SinkWriter};
use thalweg::job::EngineBuilder;
use thalweg::{CheckpointId, Data, Engine, Error, JobHandle, RestartStrategy};
use thalweg_storage::io::Notify;
use thalweg_storage::manifest::{Committable, Manifest};

/// No test waits longer than this for anything.
pub const WATCHDOG: Duration = Duration::from_secs(120);

/// The seed that `THALWEG_SEED` says to replay.
///
/// # Panics
/// It is no number.
pub fn replayed_seed() -> Option<u64> {
    number("THALWEG_SEED")
}

/// The seeds of a test that runs by `count` of them: the one to replay, or `THALWEG_RUNS` times as many.
///
/// # Panics
/// What either says is no number.
pub fn seeds(count: u64) -> Range<u64> {
    replayed_seed().map_or_else(|| 0..count * number("THALWEG_RUNS").unwrap_or(1), |seed| seed..seed + 1)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}: not a number")))
}

/// Waits until `condition` holds.
///
/// # Panics
/// The watchdog's time has passed; names `what`.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < WATCHDOG, "in vain: waiting until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How the job ended.
///
/// # Panics
/// It does not end: a hang.
pub fn outcome(job: &JobHandle) -> Result<(), Error> {
    job.wait_timeout(WATCHDOG).unwrap_or_else(|| panic!("the job hangs: {:#?}", job.metrics()))
}

/// The text of the failure of a job that has to fail.
///
/// # Panics
/// It ends in another way, or not at all.
pub fn failure(job: &JobHandle) -> String {
    match outcome(job) {
        Err(Error::JobFailed(message)) => message,
        other => panic!("the job should have failed, but: {other:?}"),
    }
}

/// An engine of two workers that fits anywhere and gives up at the first failure.
pub fn small_engine() -> EngineBuilder {
    Engine::builder().workers(2).pin(false).restart_strategy(RestartStrategy::None)
}

/// All files below `dir` with their contents' length, by path relative to it, sorted.
///
/// # Panics
/// The directory cannot be read.
pub fn files_below(dir: &Path) -> Vec<(String, u64)> {
    fn visit(root: &Path, dir: &Path, into: &mut Vec<(String, u64)>) {
        for entry in std::fs::read_dir(dir).expect("a readable directory") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                visit(root, &path, into);
            } else {
                let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                into.push((name, path.metadata().expect("a file that stays").len()));
            }
        }
    }
    let mut files = Vec::new();
    visit(dir, dir, &mut files);
    files.sort();
    files
}

/// Path of the newest manifest of the job whose checkpoints lie in `job_dir`.
///
/// # Panics
/// There is none.
pub fn newest_manifest_path(job_dir: &Path) -> PathBuf {
    let checkpoint = |entry: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
        let entry = entry.expect("a readable entry");
        let id = entry.file_name().to_string_lossy().strip_prefix("chk-")?.parse().ok()?;
        entry.path().join("MANIFEST").exists().then_some(id)
    };
    let ids = std::fs::read_dir(job_dir).expect("a job's directory").filter_map(checkpoint);
    let newest = ids.max().expect("a completed checkpoint");
    job_dir.join(format!("chk-{newest}")).join("MANIFEST")
}

/// The newest manifest of the job whose checkpoints lie in `job_dir`.
///
/// # Panics
/// There is none, or it is damaged.
pub fn newest_manifest(job_dir: &Path) -> Manifest {
    let path = newest_manifest_path(job_dir);
    let bytes = std::fs::read(&path).expect("a readable manifest");
    thalweg_storage::manifest::decode(&path, &bytes).expect("an intact manifest")
}

#[derive(Default)]
struct Gate {
    closed: AtomicBool,
    holds_prepared: AtomicBool,
    taken: AtomicU64,
    micros_per_record: AtomicU64,
    taken_at_prepare: Mutex<Vec<(CheckpointId, u64)>>,
    wakers: Mutex<Vec<Arc<dyn Notify>>>,
}

/// An exactly-once sink into memory that can be stopped, slowed down, and kept from preparing its output.
///
/// While stopped, each writer takes the one record that it cannot refuse, and no more.
pub struct GatedSink<T> {
    inner: MemorySink<T>,
    gate: Arc<Gate>,
}

impl<T> Clone for GatedSink<T> {
    fn clone(&self) -> Self {
        GatedSink { inner: self.inner.clone(), gate: Arc::clone(&self.gate) }
    }
}

impl<T: Data> GatedSink<T> {
    /// A sink that takes what comes.
    pub fn open() -> Self {
        GatedSink { inner: MemorySink::new(), gate: Arc::default() }
    }

    /// A sink that is stopped.
    pub fn stopped() -> Self {
        let sink = Self::open();
        sink.stop();
        sink
    }

    /// Takes nothing more.
    pub fn stop(&self) {
        self.gate.closed.store(true, Ordering::SeqCst);
    }

    /// Takes what comes from now on.
    pub fn release(&self) {
        self.gate.closed.store(false, Ordering::SeqCst);
        self.wake();
    }

    /// Whether output that was prepared is reported as not yet durable, so that no checkpoint can complete.
    pub fn hold_prepared(&self, hold: bool) {
        self.gate.holds_prepared.store(hold, Ordering::SeqCst);
        self.wake();
    }

    /// Keeps the worker busy for this long with each record.
    pub fn with_work_per_record(self, work: Duration) -> Self {
        self.gate.micros_per_record.store(work.as_micros() as u64, Ordering::SeqCst);
        self
    }

    /// Records taken so far, over all attempts.
    pub fn taken(&self) -> u64 {
        self.gate.taken.load(Ordering::SeqCst)
    }

    /// For each `prepare`: its checkpoint, and how many records the sink had taken.
    pub fn taken_at_prepare(&self) -> Vec<(CheckpointId, u64)> {
        self.gate.taken_at_prepare.lock().expect("no panic under the lock").clone()
    }

    /// Committed records of each subtask, in order of commitment.
    pub fn committed(&self) -> Vec<Vec<T>> {
        self.inner.committed()
    }

    fn wake(&self) {
        for waker in self.gate.wakers.lock().expect("no panic under the lock").iter() {
            waker.notify();
        }
    }
}

impl<T: Data> Sink for GatedSink<T> {
    type Record = T;
    type State = ();
    type Writer = GatedWriter<T>;

    fn writer(
        &self,
        context: ConnectorContext,
        restored: Vec<()>,
        committables: Vec<Committable>,
    ) -> Result<GatedWriter<T>, BoxError> {
        self.gate.wakers.lock().expect("no panic under the lock").push(Arc::clone(&context.waker));
        let inner = self.inner.writer(context, restored, committables)?;
        Ok(GatedWriter { inner, gate: Arc::clone(&self.gate), refused: false })
    }
}

/// Writes one subtask of a [`GatedSink`].
pub struct GatedWriter<T: Data> {
    inner: <MemorySink<T> as Sink>::Writer,
    gate: Arc<Gate>,
    refused: bool,
}

impl<T: Data> GatedWriter<T> {
    fn is_open(&self) -> bool {
        !self.gate.closed.load(Ordering::SeqCst)
    }
}

impl<T: Data> SinkWriter for GatedWriter<T> {
    type Record = T;
    type State = ();

    fn write(&mut self, now: Nanos, record: T) -> Result<bool, BoxError> {
        let work = Duration::from_micros(self.gate.micros_per_record.load(Ordering::Relaxed));
        let begin = Instant::now();
        while begin.elapsed() < work {
            std::hint::spin_loop();
        }
        self.gate.taken.fetch_add(1, Ordering::SeqCst);
        self.inner.write(now, record)?;
        self.refused = !self.is_open();
        Ok(!self.refused)
    }

    fn poll(&mut self, now: Nanos) -> Result<bool, BoxError> {
        self.inner.poll(now)?;
        self.refused &= !self.is_open();
        Ok(!self.refused)
    }

    fn prepare(&mut self, checkpoint: CheckpointId, end: bool) -> Result<SinkSnapshot<()>, BoxError> {
        let mut log = self.gate.taken_at_prepare.lock().expect("no panic under the lock");
        log.push((checkpoint, self.gate.taken.load(Ordering::SeqCst)));
        self.inner.prepare(checkpoint, end)
    }

    fn prepared(&mut self, checkpoint: CheckpointId) -> Result<bool, BoxError> {
        Ok(!self.gate.holds_prepared.load(Ordering::SeqCst) && self.inner.prepared(checkpoint)?)
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        self.inner.commit(committables)
    }

    fn committed(&self) -> bool {
        self.inner.committed()
    }

    fn has_unprepared(&self) -> bool {
        self.inner.has_unprepared()
    }
}
