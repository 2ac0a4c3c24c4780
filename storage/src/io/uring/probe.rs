//! Tells whether io_uring can be used here and, where it cannot, why and what cures it.
//!
//! Pure but for [`open_ring`]: facts in, a verdict out.
#![expect(clippy::disallowed_methods, reason = "asks the kernel about itself, which is no file of ours")]

use io_uring::{IoUring, Probe, opcode};
use std::fmt;
use std::io;

/// Submission entries of the ring: how many operations are in flight at most.
pub(super) const RING_ENTRIES: u32 = 256;

/// Operations without which the disk does not run, by their names in the kernel's headers.
const NEEDED: [(u8, &str); 8] = [
    (opcode::OpenAt::CODE, "OPENAT"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::RenameAt::CODE, "RENAMEAT"),
    (opcode::UnlinkAt::CODE, "UNLINKAT"),
    (opcode::MkDirAt::CODE, "MKDIRAT"),
];

/// Why io_uring cannot be used; its text names the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UringUnavailable {
    /// The kernel does not know the system call, or hides it.
    NoSystemCall {
        /// Release of the kernel, such as `4.18.0`.
        release: String,
    },
    /// The kernel lacks operations that came after io_uring itself.
    MissingOperations {
        /// Their names.
        missing: Vec<&'static str>,
        /// Release of the kernel.
        release: String,
    },
    /// The setting `kernel.io_uring_disabled` forbids it.
    Disabled {
        /// Its value: 1 forbids it to processes without privileges, 2 to all.
        level: u32,
    },
    /// A seccomp filter or a security module refuses the system call.
    Refused {
        /// The error number.
        errno: i32,
    },
    /// The kernel could not charge or allocate the ring's memory.
    NoMemory {
        /// The soft limit RLIMIT_MEMLOCK in bytes, unless unlimited.
        memlock_bytes: Option<u64>,
    },
    /// Anything else, such as too many open files.
    Other {
        /// The error number.
        errno: i32,
    },
}

impl fmt::Display for UringUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSystemCall { release } if has_system_call(release) => write!(
                f,
                "Linux {release} answers ENOSYS to io_uring_setup although its release has it: it was built without \
                 CONFIG_IO_URING, or a sandbox (gVisor, a seccomp profile) hides it; run outside the sandbox, or \
                 allow io_uring_setup, io_uring_enter and io_uring_register in its profile"
            ),
            Self::NoSystemCall { release } => {
                write!(f, "Linux {release} has no io_uring: use Linux 5.15 or newer")
            }
            Self::MissingOperations { missing, release } => write!(
                f,
                "io_uring of Linux {release} lacks the operations {}: use Linux 5.15 or newer",
                missing.join(", ")
            ),
            Self::Disabled { level: 1 } => write!(
                f,
                "kernel.io_uring_disabled is 1, which forbids io_uring to processes without CAP_SYS_ADMIN: run \
                 `sysctl kernel.io_uring_disabled=0`, or run as a member of the group kernel.io_uring_group (should \
                 the process be one already, a seccomp profile refuses io_uring)"
            ),
            Self::Disabled { level } => write!(
                f,
                "kernel.io_uring_disabled is {level}, which forbids io_uring to every process: run `sysctl \
                 kernel.io_uring_disabled=0`"
            ),
            Self::Refused { errno } => write!(
                f,
                "the system call is refused ({}) although kernel.io_uring_disabled allows it, as the default \
                 seccomp profiles of Docker and containerd do: allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the container's seccomp profile, or in the policy of the security module \
                 (SELinux, AppArmor)",
                io::Error::from_raw_os_error(*errno)
            ),
            Self::NoMemory { memlock_bytes: Some(bytes) } => write!(
                f,
                "there is no memory for the ring; kernels before 5.12 charge it to RLIMIT_MEMLOCK, which is {} KiB \
                 here: raise it (`ulimit -l`, LimitMEMLOCK= of a systemd unit, `docker run --ulimit memlock=`); newer \
                 kernels charge it to the memory cgroup: raise that limit",
                bytes / 1024
            ),
            Self::NoMemory { memlock_bytes: None } => write!(
                f,
                "there is no memory for the ring although RLIMIT_MEMLOCK is unlimited: raise the memory limit of the \
                 cgroup, or free memory"
            ),
            Self::Other { errno } => {
                write!(f, "setting up a ring failed: {}", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

impl std::error::Error for UringUnavailable {}

impl From<UringUnavailable> for io::Error {
    fn from(reason: UringUnavailable) -> Self {
        io::Error::new(io::ErrorKind::Unsupported, format!("io_uring cannot be used: {reason}"))
    }
}

/// What was observed when a ring was set up and tried.
#[derive(Debug)]
pub(super) struct Facts {
    /// The first error number of setup, registration and first use; `None` when all went well.
    pub(super) errno: Option<i32>,
    /// Names of needed operations that the kernel lacks.
    pub(super) missing: Vec<&'static str>,
    /// The setting `kernel.io_uring_disabled`; absent before Linux 6.6.
    pub(super) disabled: Option<u32>,
    /// Soft limit RLIMIT_MEMLOCK, unless unlimited.
    pub(super) memlock_bytes: Option<u64>,
    /// Release of the kernel.
    pub(super) release: String,
}

/// Judges the facts.
pub(super) fn classify(facts: Facts) -> Result<(), UringUnavailable> {
    use rustix::io::Errno;
    let Facts { errno, missing, disabled, memlock_bytes, release } = facts;
    let Some(errno) = errno else {
        return if missing.is_empty() {
            Ok(())
        } else {
            Err(UringUnavailable::MissingOperations { missing, release })
        };
    };
    let code = Errno::from_raw_os_error(errno);
    Err(if code == Errno::NOSYS {
        UringUnavailable::NoSystemCall { release }
    } else if code == Errno::PERM || code == Errno::ACCESS {
        match disabled {
            Some(level) if level > 0 => UringUnavailable::Disabled { level },
            _ => UringUnavailable::Refused { errno },
        }
    } else if code == Errno::NOMEM {
        UringUnavailable::NoMemory { memlock_bytes }
    } else {
        UringUnavailable::Other { errno }
    })
}

/// Sets up a ring, looks up its operations and runs one that does nothing. The flag tells whether the kernel
/// truncates files through the ring (since 6.9).
pub(super) fn open_ring() -> Result<(IoUring, bool), UringUnavailable> {
    let mut missing = Vec::new();
    let tried = try_ring(&mut missing);
    let facts = Facts {
        errno: tried.as_ref().err().map(|error| error.raw_os_error().unwrap_or(0)),
        missing,
        disabled: std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
        memlock_bytes: rustix::process::getrlimit(rustix::process::Resource::Memlock).current,
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
    };
    classify(facts)?;
    tried.map_err(|error| UringUnavailable::Other { errno: error.raw_os_error().unwrap_or(0) })
}

fn try_ring(missing: &mut Vec<&'static str>) -> io::Result<(IoUring, bool)> {
    let mut ring = IoUring::builder().dontfork().build(RING_ENTRIES)?;
    let mut probe = Probe::new();
    match ring.submitter().register_probe(&mut probe) {
        Ok(()) => {}
        // Before 5.6 a ring could not be asked: the empty probe says that everything is missing.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
        Err(error) => return Err(error),
    }
    missing.extend(NEEDED.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name));
    run_nothing(&mut ring)?;
    Ok((ring, probe.is_supported(opcode::Ftruncate::CODE)))
}

/// Runs one empty operation: a profile may allow the setup of a ring and refuse its use.
#[expect(unsafe_code, reason = "entries of a ring are pushed by an unsafe call")]
fn run_nothing(ring: &mut IoUring) -> io::Result<()> {
    let entry = opcode::Nop::new().build();
    // SAFETY: the operation names no memory and no file.
    unsafe { ring.submission().push(&entry) }.map_err(|_| io::Error::other("a new ring is full"))?;
    while ring.completion().next().is_none() {
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// True where a kernel of this release has io_uring, which came with 5.1.
fn has_system_call(release: &str) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (5, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    fn facts(errno: Option<Errno>) -> Facts {
        Facts {
            errno: errno.map(Errno::raw_os_error),
            missing: Vec::new(),
            disabled: Some(0),
            memlock_bytes: Some(64 * 1024),
            release: "6.8.0-generic".to_owned(),
        }
    }

    fn message(facts: Facts) -> String {
        classify(facts).expect_err("the facts forbid io_uring").to_string()
    }

    #[test]
    fn a_ring_that_ran_with_every_operation_is_usable() {
        assert_eq!(classify(facts(None)), Ok(()));
    }

    #[test]
    fn an_old_kernel_is_told_apart_from_a_sandbox_by_its_release() {
        let old = message(Facts { release: "4.18.0-553.el8".to_owned(), ..facts(Some(Errno::NOSYS)) });
        assert!(old.contains("Linux 4.18.0-553.el8 has no io_uring") && old.contains("5.15"), "{old}");
        let first = message(Facts { release: "5.0.21".to_owned(), ..facts(Some(Errno::NOSYS)) });
        assert!(first.contains("has no io_uring"), "{first}");
        let hidden = message(facts(Some(Errno::NOSYS)));
        assert!(hidden.contains("sandbox") && hidden.contains("CONFIG_IO_URING"), "{hidden}");
    }

    #[test]
    fn a_refusal_names_the_sysctl_where_it_is_set_and_seccomp_where_not() {
        for level in [1, 2] {
            let set = Facts { disabled: Some(level), ..facts(Some(Errno::PERM)) };
            assert_eq!(classify(set), Err(UringUnavailable::Disabled { level }));
        }
        let set = message(Facts { disabled: Some(2), ..facts(Some(Errno::PERM)) });
        assert!(set.contains("sysctl kernel.io_uring_disabled=0"), "{set}");
        let group = message(Facts { disabled: Some(1), ..facts(Some(Errno::PERM)) });
        assert!(group.contains("kernel.io_uring_group"), "{group}");
        for disabled in [None, Some(0)] {
            let seccomp = message(Facts { disabled, ..facts(Some(Errno::PERM)) });
            assert!(seccomp.contains("seccomp"), "{seccomp}");
        }
        let module = message(facts(Some(Errno::ACCESS)));
        assert!(module.contains("SELinux"), "{module}");
    }

    #[test]
    fn missing_memory_names_the_present_limit() {
        let limited = message(facts(Some(Errno::NOMEM)));
        assert!(limited.contains("RLIMIT_MEMLOCK, which is 64 KiB"), "{limited}");
        let unlimited = message(Facts { memlock_bytes: None, ..facts(Some(Errno::NOMEM)) });
        assert!(unlimited.contains("cgroup") && unlimited.contains("unlimited"), "{unlimited}");
    }

    #[test]
    fn missing_operations_are_listed_by_name() {
        let lacking =
            Facts { missing: vec!["RENAMEAT", "MKDIRAT"], release: "5.10.0".to_owned(), ..facts(None) };
        let lacking = message(lacking);
        assert!(lacking.contains("Linux 5.10.0 lacks the operations RENAMEAT, MKDIRAT"), "{lacking}");
    }

    #[test]
    fn an_unforeseen_error_keeps_its_number() {
        let errno = Errno::MFILE.raw_os_error();
        assert_eq!(classify(facts(Some(Errno::MFILE))), Err(UringUnavailable::Other { errno }));
    }

    #[test]
    fn an_error_of_io_keeps_the_reason() {
        let error = io::Error::from(UringUnavailable::Disabled { level: 2 });
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("kernel.io_uring_disabled is 2"), "{error}");
    }
}
