//! Asks, before the first glommio executor starts, whether io_uring works here, and says why not and what would help.
//!
//! Always true: [`explain`] is pure; [`probe`] leaves nothing behind. An executor that starts without this check reports
//! less and later.
#![cfg_attr(
    not(test),
    expect(clippy::disallowed_methods, reason = "asks the kernel about itself, before there is a disk")
)]

use io_uring::{IoUring, Probe, opcode};

/// Smallest soft limit on locked memory with which a glommio executor starts, in bytes.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;

/// The operations that glommio submits.
const OPERATIONS: [(&str, u8); 24] = [
    ("NOP", opcode::Nop::CODE),
    ("READV", opcode::Readv::CODE),
    ("WRITEV", opcode::Writev::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("READ_FIXED", opcode::ReadFixed::CODE),
    ("WRITE_FIXED", opcode::WriteFixed::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("POLL_REMOVE", opcode::PollRemove::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("TIMEOUT_REMOVE", opcode::TimeoutRemove::CODE),
    ("ACCEPT", opcode::Accept::CODE),
    ("LINK_TIMEOUT", opcode::LinkTimeout::CODE),
    ("CONNECT", opcode::Connect::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("STATX", opcode::Statx::CODE),
    ("READ", opcode::Read::CODE),
    ("WRITE", opcode::Write::CODE),
    ("SEND", opcode::Send::CODE),
    ("RECV", opcode::Recv::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
];

/// Why io_uring cannot be used, and what would change that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}; {cure}")]
pub struct Unavailable {
    /// What stands in the way.
    pub cause: String,
    /// What to change.
    pub cure: String,
}

impl Unavailable {
    fn new(cause: impl Into<String>, cure: impl Into<String>) -> Self {
        Unavailable { cause: cause.into(), cure: cure.into() }
    }
}

/// What the system says about itself; decides between the causes of one error number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Kernel release, such as `6.8.0-45-generic`.
    pub(super) kernel: String,
    /// `kernel.io_uring_disabled`, where the kernel has it.
    pub(super) io_uring_disabled: Option<u8>,
    /// True when a seccomp filter applies to this process.
    pub(super) seccomp: bool,
    /// Soft limit on locked memory in bytes; `None` without a limit.
    pub(super) memlock_bytes: Option<u64>,
}

impl Facts {
    fn gather() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Facts {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled").trim().parse().ok(),
            seccomp: parse_seccomp(&read("/proc/self/status")),
            memlock_bytes: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
        }
    }

    /// True for kernels that have io_uring at all (5.1). An unreadable release counts as new.
    fn kernel_has_io_uring(&self) -> bool {
        let mut numbers =
            self.kernel.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) => (major, minor) >= (5, 1),
            _ => true,
        }
    }
}

/// Finds `Seccomp: 2` (a filter) in `/proc/self/status`.
fn parse_seccomp(status: &str) -> bool {
    status.lines().filter_map(|line| line.strip_prefix("Seccomp:")).any(|mode| mode.trim() == "2")
}

/// Tries everything that a glommio executor needs of io_uring.
///
/// # Errors
/// [`Unavailable`] with cause and cure: run on plain threads, or pass it on where glommio was asked for by name.
pub(super) fn probe() -> Result<(), Unavailable> {
    let facts = Facts::gather();
    let failed = |error: std::io::Error| explain(error.raw_os_error().unwrap_or(0), &facts);
    let ring = IoUring::new(8).map_err(failed)?;
    let mut supported = Probe::new();
    ring.submitter().register_probe(&mut supported).map_err(failed)?;
    check_operations(|code| supported.is_supported(code), &facts)?;
    check_memlock(&facts)
}

fn check_operations(is_supported: impl Fn(u8) -> bool, facts: &Facts) -> Result<(), Unavailable> {
    let missing: Vec<&str> =
        OPERATIONS.iter().filter(|(_, code)| !is_supported(*code)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Unavailable::new(
        format!("io_uring of kernel {} lacks {}", facts.kernel, missing.join(", ")),
        "run a kernel of 5.8 or later",
    ))
}

fn check_memlock(facts: &Facts) -> Result<(), Unavailable> {
    match facts.memlock_bytes {
        Some(bytes) if bytes < MEMLOCK_BYTES_MIN => Err(Unavailable::new(
            format!(
                "RLIMIT_MEMLOCK allows {} KiB of locked memory, a glommio executor needs {} KiB",
                bytes / 1024,
                MEMLOCK_BYTES_MIN / 1024
            ),
            "raise it: `ulimit -l 8192`, LimitMEMLOCK= in a systemd unit, or --ulimit memlock= in a container",
        )),
        _ => Ok(()),
    }
}

/// Names the cause and the cure of `errno`, which setting up or probing a ring returned.
pub(super) fn explain(errno: i32, facts: &Facts) -> Unavailable {
    const SECCOMP_CURE: &str = "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile \
                                (containers: --security-opt seccomp=profile.json)";
    match errno {
        libc::ENOSYS if !facts.kernel_has_io_uring() => Unavailable::new(
            format!("kernel {} has no io_uring", facts.kernel),
            "run a kernel of 5.8 or later",
        ),
        libc::ENOSYS if facts.seccomp => Unavailable::new("a seccomp filter hides io_uring", SECCOMP_CURE),
        libc::ENOSYS => Unavailable::new(
            format!("kernel {} was built without io_uring, or a sandbox hides it", facts.kernel),
            "run a kernel with CONFIG_IO_URING, outside the sandbox",
        ),
        libc::EPERM | libc::EACCES if facts.io_uring_disabled == Some(2) => Unavailable::new(
            "kernel.io_uring_disabled=2 forbids io_uring to everybody",
            "set `sysctl kernel.io_uring_disabled=0`",
        ),
        libc::EPERM | libc::EACCES if facts.io_uring_disabled == Some(1) => Unavailable::new(
            "kernel.io_uring_disabled=1 forbids io_uring to this user",
            "set `sysctl kernel.io_uring_disabled=0`, or join the group kernel.io_uring_group, or grant CAP_SYS_ADMIN",
        ),
        libc::EPERM | libc::EACCES if facts.seccomp => {
            Unavailable::new("a seccomp filter forbids io_uring", SECCOMP_CURE)
        }
        libc::EPERM | libc::EACCES => Unavailable::new(
            "a security policy forbids io_uring to this process",
            "allow it there (SELinux: the io_uring permissions; AppArmor: the io_uring rule)",
        ),
        libc::ENOMEM => Unavailable::new(
            match facts.memlock_bytes {
                Some(bytes) => format!("no memory for a ring: RLIMIT_MEMLOCK allows {} KiB", bytes / 1024),
                None => "no memory for a ring".to_owned(),
            },
            "raise RLIMIT_MEMLOCK (`ulimit -l 8192`), or the memory limit of the container",
        ),
        libc::EMFILE | libc::ENFILE => {
            Unavailable::new("no file descriptor is left for a ring", "raise RLIMIT_NOFILE (`ulimit -n`)")
        }
        errno => Unavailable::new(
            format!(
                "setting up io_uring on kernel {} failed: {}",
                facts.kernel,
                std::io::Error::from_raw_os_error(errno)
            ),
            "run on plain threads, or on a kernel of 5.8 or later",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts { kernel: "6.8.0-45-generic".to_owned(), ..Facts::default() }
    }

    #[test]
    fn a_sysctl_is_named_before_seccomp() {
        let both = Facts { io_uring_disabled: Some(2), seccomp: true, ..facts() };
        assert!(explain(libc::EPERM, &both).cause.contains("kernel.io_uring_disabled=2"));
        let group = Facts { io_uring_disabled: Some(1), ..facts() };
        assert!(explain(libc::EPERM, &group).cure.contains("kernel.io_uring_group"));
        let filter = Facts { io_uring_disabled: Some(0), seccomp: true, ..facts() };
        assert!(explain(libc::EPERM, &filter).cause.contains("seccomp"));
        assert!(explain(libc::EPERM, &facts()).cause.contains("security policy"));
    }

    #[test]
    fn a_missing_system_call_is_an_old_kernel_or_a_filter() {
        let old = Facts { kernel: "4.19.0".to_owned(), seccomp: true, ..Facts::default() };
        assert!(explain(libc::ENOSYS, &old).cause.contains("4.19.0 has no io_uring"));
        assert!(explain(libc::ENOSYS, &Facts { seccomp: true, ..facts() }).cause.contains("seccomp"));
        assert!(explain(libc::ENOSYS, &facts()).cause.contains("built without"));
    }

    #[test]
    fn limits_are_named_with_their_cure() {
        let small = Facts { memlock_bytes: Some(64 * 1024), ..facts() };
        assert!(explain(libc::ENOMEM, &small).cause.contains("64 KiB"));
        assert!(explain(libc::EMFILE, &facts()).cure.contains("ulimit -n"));
        assert!(explain(libc::EINVAL, &facts()).cause.contains("6.8.0-45-generic"));
    }

    #[test]
    fn too_little_locked_memory_is_found_before_an_executor_starts() {
        let refusal = check_memlock(&Facts { memlock_bytes: Some(64 * 1024), ..facts() }).unwrap_err();
        assert!(refusal.to_string().contains("RLIMIT_MEMLOCK allows 64 KiB"), "{refusal}");
        assert!(refusal.cure.contains("ulimit -l"));
        assert_eq!(check_memlock(&Facts { memlock_bytes: Some(MEMLOCK_BYTES_MIN), ..facts() }), Ok(()));
        assert_eq!(check_memlock(&facts()), Ok(()));
    }

    #[test]
    fn missing_operations_are_listed() {
        let refusal = check_operations(|code| code != opcode::Statx::CODE, &facts()).unwrap_err();
        assert!(refusal.cause.contains("lacks STATX"), "{refusal}");
        assert_eq!(check_operations(|_| true, &facts()), Ok(()));
    }

    #[test]
    fn only_a_filter_counts_as_seccomp() {
        assert!(parse_seccomp("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!parse_seccomp("Name:\tx\nSeccomp:\t0\n"));
    }

    #[test]
    fn the_probe_agrees_with_starting_an_executor() {
        let executor =
            glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound).io_memory(64 << 10).make();
        assert_eq!(probe().is_ok(), executor.is_ok());
    }
}
