//! A limit on the memory of one process, page cache included: a control group below the one that this process is in.
//!
//! Always true: the group is removed with its [`MemoryLimit`], once its process has ended.
//!
//! Both versions of the kernel's interface are known: `memory.max` of version 2 and `memory.limit_in_bytes` of version 1.

use crate::Result;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A control group of one process.
pub struct MemoryLimit {
    path: PathBuf,
    bytes: u64,
}

/// Where a new group goes, and the name of the file that limits its memory.
#[derive(Debug, PartialEq, Eq)]
struct Home {
    path: PathBuf,
    limit: &'static str,
}

impl MemoryLimit {
    /// Moves the process `id` into a new group that may use `bytes` bytes.
    ///
    /// # Errors
    /// The system has no control groups or does not permit new ones; the process is where it was.
    pub fn of_process(id: u32, bytes: u64) -> Result<MemoryLimit> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let memberships = std::fs::read_to_string("/proc/self/cgroup")?;
        let home = home(&memberships, &std::fs::read_to_string("/proc/mounts")?)
            .ok_or("no control group for memory is mounted")?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = home.path.join(format!("thalweg-bench-{}-{count}", std::process::id()));
        let refused = |error| format!("{} cannot be made: {error}", path.display());
        std::fs::create_dir(&path).map_err(refused)?;
        let limit = MemoryLimit { path, bytes };
        let write = |file: &str, value: u64| {
            let path = limit.path.join(file);
            std::fs::write(&path, value.to_string())
                .map_err(|error| format!("{} cannot be written: {error}", path.display()))
        };
        write(home.limit, bytes)?;
        write("cgroup.procs", u64::from(id))?;
        Ok(limit)
    }

    /// The limit.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.path) {
            eprintln!("thalweg-bench: the control group {} is left over: {error}", self.path.display());
        }
    }
}

/// The group of a process with these `/proc/self/cgroup` lines, under the mounts of `/proc/mounts`.
fn home(memberships: &str, mounts: &str) -> Option<Home> {
    let mounts: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    let below = |point: &str, group: &str| Path::new(point).join(group.trim_start_matches('/'));
    let version_1 = memberships.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let has_memory = |list: &str| list.split(',').any(|name| name == "memory");
        let mount = mounts.iter().find(|m| m.len() > 3 && m[2] == "cgroup" && has_memory(m[3]))?;
        has_memory(controllers).then(|| Home { path: below(mount[1], group), limit: "memory.limit_in_bytes" })
    });
    version_1.or_else(|| {
        let group = memberships.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mount = mounts.iter().find(|mount| mount.len() > 2 && mount[2] == "cgroup2")?;
        Some(Home { path: below(mount[1], group), limit: "memory.max" })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_version_1_is_found_by_its_controller() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n";
        let found = home("4:memory:/a/b\n3:cpu:/\n0::/\n", mounts);
        let path = PathBuf::from("/sys/fs/cgroup/memory/a/b");
        assert_eq!(found, Some(Home { path, limit: "memory.limit_in_bytes" }));
    }

    #[test]
    fn a_group_of_version_2_is_found_where_version_1_has_no_memory() {
        let found = home("0::/user.slice\n", "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
        let path = PathBuf::from("/sys/fs/cgroup/user.slice");
        assert_eq!(found, Some(Home { path, limit: "memory.max" }));
    }

    #[test]
    fn without_a_mount_there_is_no_group() {
        assert_eq!(home("4:memory:/a\n0::/\n", "proc /proc proc rw 0 0\n"), None);
    }
}
