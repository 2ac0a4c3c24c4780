//! What the kernel knows of this process: time, memory, bytes moved to and from disks.

use crate::Result;
use std::time::Duration;

/// Processor time of all threads.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Keeps this thread, and those that it starts from now on, on one core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Resident memory, now and at its highest.
pub fn resident_bytes() -> Result<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| number(&status, name).map(|kilobytes| kilobytes << 10);
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// Bytes read from and written to disks so far, by the kernel's `/proc/self/io`.
pub fn io_bytes() -> Result<(u64, u64)> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    Ok((number(&io, "read_bytes:")?, number(&io, "write_bytes:")?))
}

/// The first number behind `name` at the start of a line.
fn number(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name}"))?;
    Ok(line.split_whitespace().next().ok_or_else(|| format!("{name} has no value"))?.parse()?)
}
