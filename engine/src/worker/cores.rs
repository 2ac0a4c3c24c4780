//! Which cores the workers run on: what affinity and cgroup quota allow, and whether pinning makes sense there.
//!
//! Always true:
//! - a worker is pinned only to a core that the process may use, and no two workers of one engine to the same one;
//! - with more workers than cores, or than the quota pays for, nothing is pinned: the system schedules them better.
//!
//! The parsers are pure; [`Allowed::detect`] reads the files.
#![cfg_attr(
    not(test),
    expect(
        clippy::disallowed_methods,
        reason = "asks the kernel about this process, before there is a disk"
    )
)]

use std::path::Path;

/// What this process may use of the machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Allowed {
    /// Numbers of the cores in the affinity mask, rising. Empty where the system does not say.
    pub(super) cores: Vec<usize>,
    /// Cores' worth of time per period that the cgroup grants; `None` without a limit.
    pub(super) quota: Option<f64>,
}

/// Where each worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Worker `i` on core `cores[i]`.
    Pinned(Vec<usize>),
    /// Wherever the system puts it, and why.
    Unpinned(String),
}

impl Placement {
    /// The cores of pinned workers.
    pub(super) fn cores(&self) -> &[usize] {
        match self {
            Placement::Pinned(cores) => cores,
            Placement::Unpinned(_) => &[],
        }
    }

    /// The core of worker `index`, where it has one.
    pub(super) fn core_of(&self, index: usize) -> Option<usize> {
        self.cores().get(index).copied()
    }
}

/// How many workers this process can run at once: the cores of its affinity mask, or fewer where a cgroup grants less
/// time. At least one.
pub fn available_cores() -> usize {
    let allowed = Allowed::detect();
    let cores = match allowed.cores.len() {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    allowed.quota.map_or(cores, |quota| cores.min(quota.ceil() as usize)).max(1)
}

impl Allowed {
    /// Asks the system.
    pub(super) fn detect() -> Self {
        Allowed {
            cores: affinity(),
            quota: quota(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")),
        }
    }

    /// Chooses where `workers` workers run.
    pub(super) fn place(&self, workers: usize, pin: bool) -> Placement {
        if !pin {
            return Placement::Unpinned("pinning is switched off".to_owned());
        }
        if workers > self.cores.len() {
            return Placement::Unpinned(format!(
                "{workers} workers share the {} cores of the affinity mask",
                self.cores.len()
            ));
        }
        if let Some(quota) = self.quota.filter(|quota| *quota < workers as f64) {
            return Placement::Unpinned(format!("the cgroup grants {quota} cores to {workers} workers"));
        }
        Placement::Pinned(self.cores[..workers].to_vec())
    }
}

/// Cores of the calling thread's affinity mask; a worker's thread inherits it.
#[cfg(target_os = "linux")]
fn affinity() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(not(target_os = "linux"))]
fn affinity() -> Vec<usize> {
    Vec::new()
}

/// Pins the calling thread to `core`.
///
/// # Errors
/// The system refused, for instance because the core went offline or out of the cpuset; the thread runs on unpinned.
#[cfg(target_os = "linux")]
pub(super) fn pin_to(core: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Pins nothing: this system has no affinity masks.
#[cfg(not(target_os = "linux"))]
pub(super) fn pin_to(_core: usize) -> std::io::Result<()> {
    Ok(())
}

/// The tightest CPU quota on the way from this process's cgroup up to the root, in either version of the hierarchy.
fn quota(membership: &Path, root: &Path) -> Option<f64> {
    let membership = std::fs::read_to_string(membership).ok()?;
    let read = |dir: &Path, file: &str| std::fs::read_to_string(dir.join(file)).ok();
    let mut tightest: Option<f64> = None;
    let mut consider = |quota: Option<f64>| {
        tightest = match (tightest, quota) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    };
    for member in parse_membership(&membership) {
        for dir in Path::new(&member.path).ancestors() {
            let below = dir.strip_prefix("/").unwrap_or(dir);
            match member.version {
                Version::V2 => {
                    consider(read(&root.join(below), "cpu.max").and_then(|text| parse_cpu_max(&text)))
                }
                Version::V1 => {
                    for mount in ["cpu", "cpu,cpuacct"] {
                        let dir = root.join(mount).join(below);
                        let texts = read(&dir, "cpu.cfs_quota_us").zip(read(&dir, "cpu.cfs_period_us"));
                        consider(texts.and_then(|(quota, period)| parse_cfs(&quota, &period)));
                    }
                }
            }
        }
    }
    tightest
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// One line of `/proc/self/cgroup` that concerns CPU time.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    version: Version,
    path: String,
}

/// Parses `/proc/self/cgroup`: lines `hierarchy:controllers:path`. The unified hierarchy is number 0 without
/// controllers; of the older ones only the one with `cpu` matters.
fn parse_membership(text: &str) -> Vec<Member> {
    let member = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let version = match (hierarchy, controllers) {
            ("0", "") => Version::V2,
            (_, controllers) if controllers.split(',').any(|name| name == "cpu") => Version::V1,
            _ => return None,
        };
        Some(Member { version, path: path.to_owned() })
    };
    text.lines().filter_map(member).collect()
}

/// Parses `cpu.max` of cgroup v2, `quota period` in microseconds or `max period`, into cores.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    parse_cfs(quota, period)
}

/// Parses `cpu.cfs_quota_us` and `cpu.cfs_period_us` of cgroup v1 into cores; a quota of -1 is none.
fn parse_cfs(quota: &str, period: &str) -> Option<f64> {
    let quota: u64 = quota.trim().parse().ok()?;
    let period: u64 = period.trim().parse().ok()?;
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_max_with_a_quota_is_cores_and_max_is_none() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max(""), None);
        assert_eq!(parse_cpu_max("100000 0"), None);
    }

    #[test]
    fn cfs_quota_of_minus_one_is_none() {
        assert_eq!(parse_cfs("200000\n", "100000\n"), Some(2.0));
        assert_eq!(parse_cfs("-1\n", "100000\n"), None);
        assert_eq!(parse_cfs("junk", "100000"), None);
    }

    #[test]
    fn membership_keeps_the_unified_hierarchy_and_the_one_with_cpu() {
        let text = "9:name=systemd:/\n5:devices:/\n4:cpuset:/x\n3:cpu,cpuacct:/docker/ab:cd\n0::/user.slice/a\nnonsense\n";
        let member = |version, path: &str| Member { version, path: path.to_owned() };
        assert_eq!(
            parse_membership(text),
            [member(Version::V1, "/docker/ab:cd"), member(Version::V2, "/user.slice/a")]
        );
    }

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_tightest_quota_among_the_ancestors_counts() {
        let dir = tempfile::tempdir().unwrap();
        let membership = dir.path().join("cgroup");
        write(&membership, "0::/slice/service\n");
        write(&dir.path().join("cpu.max"), "max 100000\n");
        write(&dir.path().join("slice/cpu.max"), "50000 100000\n");
        write(&dir.path().join("slice/service/cpu.max"), "400000 100000\n");
        assert_eq!(quota(&membership, dir.path()), Some(0.5));
    }

    #[test]
    fn the_older_hierarchy_is_read_too() {
        let dir = tempfile::tempdir().unwrap();
        let membership = dir.path().join("cgroup");
        write(&membership, "3:cpu,cpuacct:/docker/ab\n0::/\n");
        write(&dir.path().join("cpu,cpuacct/docker/ab/cpu.cfs_quota_us"), "300000\n");
        write(&dir.path().join("cpu,cpuacct/docker/ab/cpu.cfs_period_us"), "100000\n");
        assert_eq!(quota(&membership, dir.path()), Some(3.0));
    }

    #[test]
    fn without_cgroup_files_there_is_no_quota() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(quota(&dir.path().join("absent"), dir.path()), None);
        let membership = dir.path().join("cgroup");
        write(&membership, "0::/\n");
        assert_eq!(quota(&membership, dir.path()), None);
    }

    #[test]
    fn workers_are_pinned_to_the_cores_of_the_mask() {
        let allowed = Allowed { cores: vec![2, 5, 7], quota: None };
        assert_eq!(allowed.place(2, true), Placement::Pinned(vec![2, 5]));
        assert_eq!(allowed.place(2, true).core_of(1), Some(5));
    }

    #[test]
    fn too_many_workers_or_too_small_a_quota_pins_nothing() {
        let unpinned = |placement| matches!(placement, Placement::Unpinned(_));
        let roomy = Allowed { cores: vec![0, 1], quota: Some(2.0) };
        let tight = Allowed { cores: vec![0, 1], quota: Some(1.5) };
        assert!(!unpinned(roomy.place(2, true)));
        assert!(unpinned(roomy.place(2, false)));
        assert!(unpinned(roomy.place(3, true)));
        assert!(unpinned(tight.place(2, true)));
        assert!(!unpinned(tight.place(1, true)));
    }

    #[test]
    fn this_process_may_use_some_core() {
        assert!(available_cores() >= 1);
    }
}
