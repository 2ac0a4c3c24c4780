//! What every benchmark reports: the machine, medians with their spread, rows as JSON lines.
//!
//! A row goes to standard output and to the end of `target/bench/<scenario>.jsonl` or another file; each run of the program first writes a row that
//! describes the machine, which holds for the rows below it.

use crate::Result;
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where a benchmark ran.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name for itself.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Name and release of the kernel.
    pub kernel: String,
    /// Memory of the machine.
    pub memory_bytes: u64,
}

impl Machine {
    /// Describes this machine.
    ///
    /// # Errors
    /// The kernel did not say which cores this process may use.
    pub fn describe() -> Result<Machine> {
        let uname = rustix::system::uname();
        let memory = rustix::system::sysinfo();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Ok(Machine {
            cpu: cpu_model(&cpuinfo).unwrap_or_else(|| uname.machine().to_string_lossy().into_owned()),
            cores: allowed_cores()?.len(),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            memory_bytes: memory.totalram as u64 * u64::from(memory.mem_unit),
        })
    }
}

/// Numbers of the cores that this process may use, rising.
///
/// # Errors
/// The kernel did not say.
pub fn allowed_cores() -> Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)
        .map_err(|error| format!("cannot ask which cores this process may use: {error}"))?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// The model name in the text of `/proc/cpuinfo`; other architectures than x86 have none there.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Several runs of one measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// `(max - min) / median`: zero for one run.
    pub spread: f64,
}

/// Sums up runs; nothing if there were none.
pub fn summarise(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (&min, &max) = (sorted.first()?, sorted.last()?);
    let median = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
    Some(Summary { median, spread: (max - min) / median })
}

/// The rows of one scenario.
pub struct Report {
    file: File,
}

impl Report {
    /// Opens the scenario's file, or `json` instead, behind the rows that are there already, and writes the machine's row.
    ///
    /// # Errors
    /// The file could not be opened or written.
    pub fn open(scenario: &str, json: Option<&Path>) -> Result<Report> {
        let path = match json {
            Some(path) => path.to_owned(),
            None => target_folder().join("bench").join(format!("{scenario}.jsonl")),
        };
        let open = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            File::options().create(true).append(true).open(&path)
        };
        let file = open().map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        let mut report = Report { file };
        report.row(&MachineRow { machine: Machine::describe()?, unix_s: unix_s() })?;
        Ok(report)
    }

    /// Writes one row.
    ///
    /// # Errors
    /// Standard output or the file could not be written.
    pub fn row(&mut self, row: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(row)?;
        line.push('\n');
        std::io::stdout().write_all(line.as_bytes())?;
        self.file.write_all(line.as_bytes())?;
        Ok(())
    }
}

#[derive(Serialize)]
struct MachineRow {
    machine: Machine,
    unix_s: u64,
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// How fast one run was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Records per second, over all workers.
    pub records_per_s: f64,
    /// Records per second of processor time, of all threads of the process.
    pub records_per_cpu_s: f64,
}

/// Processor time that all threads of this process have used.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Processor time that this thread has used.
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Keeps this thread, and those that it starts from now on, on one core.
///
/// # Errors
/// The process may not use the core.
pub fn pin_thread(core: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| format!("cannot stay on core {core}: {error}").into())
}

/// Resident memory of this process: now, and the highest since [`reset_resident_max`].
///
/// # Errors
/// `/proc/self/status` is missing or has no such lines.
pub fn resident_bytes() -> Result<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name| status_bytes(&status, name).ok_or_else(|| format!("no {name} in /proc/self/status"));
    Ok((field("VmRSS")?, field("VmHWM")?))
}

/// The bytes of a line such as `VmRSS:   12 kB`.
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Makes the highest resident memory of this process start again at the present one, as `proc(5)` describes.
///
/// # Errors
/// The kernel refused.
pub fn reset_resident_max() -> Result<()> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// A folder for the checkpoints of one run, removed when dropped.
pub struct CheckpointFolder(pub PathBuf);

impl CheckpointFolder {
    /// Makes a folder of this process below `target/bench`.
    ///
    /// # Errors
    /// It could not be made.
    pub fn create(scenario: &str) -> Result<CheckpointFolder> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{scenario}-{}-{count}", std::process::id());
        let path = target_folder().join("bench").join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(CheckpointFolder(path))
    }
}

impl Drop for CheckpointFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("thalweg-bench: {} is left over: {error}", self.0.display());
        }
    }
}

/// Cargo's target folder: the one that the environment names, else the workspace's.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_runs_lies_between_the_middle_two() {
        assert_eq!(summarise(&[4.0, 1.0, 3.0, 2.0]), Some(Summary { median: 2.5, spread: 1.2 }));
    }

    #[test]
    fn one_run_has_no_spread_and_no_run_has_no_summary() {
        assert_eq!(summarise(&[7.0]), Some(Summary { median: 7.0, spread: 0.0 }));
        assert_eq!(summarise(&[]), None);
    }

    #[test]
    fn the_processor_is_named_as_the_kernel_names_it() {
        let text = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU @ 2.00GHz\nprocessor\t: 1\n";
        assert_eq!(cpu_model(text).as_deref(), Some("Some CPU @ 2.00GHz"));
        assert_eq!(cpu_model("processor\t: 0\n"), None);
    }

    #[test]
    fn resident_memory_is_read_from_the_kernels_lines() {
        assert_eq!(status_bytes("VmHWM:\t   20 kB\nVmRSS:\t   12 kB\n", "VmRSS"), Some(12 << 10));
        assert_eq!(status_bytes("VmHWM:\t   20 kB\n", "VmRSS"), None);
        let (now, max) = resident_bytes().expect("a figure");
        assert!(now > 0 && max > 0, "{now} {max}");
    }

    #[test]
    fn this_machine_has_a_core_and_memory() {
        let machine = Machine::describe().expect("a description");
        assert!(
            machine.cores >= 1 && machine.memory_bytes > 1 << 20 && !machine.cpu.is_empty(),
            "{machine:?}"
        );
    }
}
