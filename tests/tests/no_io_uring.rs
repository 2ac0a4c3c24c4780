//! Runs where io_uring is refused, as in most containers: on plain threads, saying why, with the same guarantees.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use thalweg_tests::clicks::{Clicks, Random};

/// Kills that must each be followed by a restore from a newer checkpoint.
const KILLS: usize = 20;

/// What the kernel calls this architecture in `seccomp_data` (linux/audit.h).
const AUDIT_ARCH: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

/// A filter that answers every io_uring system call with EPERM, as Docker's profile does, and allows all others.
fn filter() -> Vec<libc::sock_filter> {
    let instruction = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let jump_if = |value, jt, jf| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, jt, jf);
    let answer = |value| instruction(libc::BPF_RET | libc::BPF_K, value, 0, 0);
    vec![
        // Of `seccomp_data`: the architecture at offset 4, then the number of the call at 0.
        load(4),
        jump_if(AUDIT_ARCH, 0, 4),
        load(0),
        jump_if(libc::SYS_io_uring_setup as u32, 3, 0),
        jump_if(libc::SYS_io_uring_enter as u32, 2, 0),
        jump_if(libc::SYS_io_uring_register as u32, 1, 0),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ]
}

/// Refuses io_uring to the process that `command` starts. Needs no privilege.
#[expect(unsafe_code, reason = "a filter is installed between fork and exec")]
fn without_io_uring(command: &mut Command) {
    let mut filter = filter();
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: both calls only read their arguments; `program` points to `filter`, which outlives the call.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
        };
        if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: `install` makes two system calls and allocates nothing, so it may run in a forked child.
    unsafe { command.pre_exec(install) };
}

/// Allows the process that `command` starts 64 KiB of locked memory, the default of old distributions.
#[expect(unsafe_code, reason = "a limit is set between fork and exec")]
fn with_little_locked_memory(command: &mut Command) {
    let limit = libc::rlimit { rlim_cur: 64 * 1024, rlim_max: 64 * 1024 };
    let install = move || {
        // SAFETY: the call reads `limit`, which outlives it.
        match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: `install` makes one system call and allocates nothing, so it may run in a forked child.
    unsafe { command.pre_exec(install) };
}

/// Runs a small job with `confine`: it must succeed on threads and say why. Forced to glommio it must fail and say why.
fn falls_back_to_threads(confine: fn(&mut Command), why: &[&str]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clicks = Clicks::new(dir.path(), &[]).confined(confine);
    clicks.succeed(&["--prepare", "--clicks", "100000", "--users", "1000"]);
    let forced = clicks.run(&["--driver", "glommio"]);
    assert_eq!(forced.status.code(), Some(1), "{}", forced.said());
    assert!(forced.errors.contains("the glommio driver cannot run here"), "{}", forced.said());
    let ended = clicks.succeed(&[]);
    assert!(ended.lines[0].contains("workers on threads"), "{}", ended.said());
    assert!(ended.lines[1].starts_with("glommio is not used: "), "{}", ended.said());
    for part in why {
        let named = ended.lines[1].contains(part) && forced.errors.contains(part);
        assert!(named, "no {part:?}: {}\n{}", ended.said(), forced.said());
    }
    clicks.assert_exactly_once();
}

#[test]
fn where_seccomp_refuses_io_uring_the_job_runs_on_threads_and_says_why() {
    falls_back_to_threads(without_io_uring, &["seccomp", "allow io_uring_setup"]);
}

#[test]
fn where_locked_memory_is_short_the_job_runs_on_threads_and_says_why() {
    falls_back_to_threads(with_little_locked_memory, &["RLIMIT_MEMLOCK allows 64 KiB", "ulimit -l"]);
}

#[test]
fn killed_without_io_uring_every_total_appears_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = ["--workers", "2", "--checkpoint-interval", "50ms"];
    let clicks = Clicks::new(dir.path(), &options).confined(without_io_uring);
    clicks.succeed(&["--prepare", "--clicks", "3000000", "--users", "20000"]);
    clicks.kill_at_random(&mut Random::seeded("without io_uring"), KILLS);
    let ended = clicks.succeed(&[]);
    assert!(ended.lines.iter().any(|line| line.starts_with("verified: ")), "{}", ended.said());
    clicks.assert_exactly_once();
}
