//! Threads beside the workers, kept off the workers' cores where there are others.
//!
//! Always true:
//! - a helper runs on the cores of the process's first thread without those that are reserved, or on all of them where every core
//!   is reserved; never on the one core of a pinned worker only because that has started it;
//! - where the system refuses an affinity, a thread keeps what it has.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// What the process's engines use.
static CORES: Mutex<Cores> = Mutex::new(Cores { reserved: Vec::new(), helpers: Vec::new() });

struct Cores {
    /// A core is listed once for each engine that has reserved it.
    reserved: Vec<usize>,
    helpers: Vec<system::Id>,
}

fn cores() -> MutexGuard<'static, Cores> {
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cores {
    /// Moves all helpers to the cores that are spare now.
    fn settle(&self) {
        self.helpers.iter().for_each(|helper| system::allow(*helper, &self.reserved));
    }
}

/// Starts a helper. Dropping the handle lets it run on.
///
/// # Errors
/// The system refuses another thread.
pub fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name).spawn(move || {
        let _helper = Helper::register();
        run();
    })
}

/// The calling thread is a helper as long as this lives.
struct Helper(system::Id);

impl Helper {
    fn register() -> Self {
        let id = system::current();
        let mut cores = cores();
        cores.helpers.push(id);
        system::allow(id, &cores.reserved);
        Helper(id)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        cores().helpers.retain(|helper| *helper != self.0);
    }
}

/// Cores that helpers avoid as long as this lives.
#[derive(Debug)]
pub struct Reservation(Vec<usize>);

/// Moves all helpers of the process, running or not yet started, away from these cores, unless there are no others.
pub fn reserve(numbers: &[usize]) -> Reservation {
    let mut cores = cores();
    cores.reserved.extend_from_slice(numbers);
    cores.settle();
    Reservation(numbers.to_vec())
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut cores = cores();
        for number in &self.0 {
            let at = cores.reserved.iter().position(|reserved| reserved == number);
            cores.reserved.swap_remove(at.expect("it was listed when it was reserved"));
        }
        cores.settle();
    }
}

/// Runs `work` on all cores of the process, reserved or not: the calling thread, and what that starts by other means than
/// [`spawn`]. For helpers, while the workers wait for what they do.
pub fn on_all_cores<R>(work: impl FnOnce() -> R) -> R {
    struct Return(system::Id);
    impl Drop for Return {
        fn drop(&mut self) {
            let cores = cores();
            if cores.helpers.contains(&self.0) {
                system::allow(self.0, &cores.reserved);
            }
        }
    }
    let own = system::current();
    let helps = cores().helpers.contains(&own);
    let _return = helps.then(|| {
        system::allow(own, &[]);
        Return(own)
    });
    work()
}

#[cfg(target_os = "linux")]
mod system {
    use rustix::process::{Pid, getpid};
    use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

    pub type Id = Pid;

    pub fn current() -> Id {
        gettid()
    }

    /// Lets a thread run where the process's first may, but not on reserved cores, unless there are no others.
    pub fn allow(thread: Id, reserved: &[usize]) {
        let Ok(all) = sched_getaffinity(Some(getpid())) else { return };
        let mut spare = all;
        reserved.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| spare.unset(*core));
        let _ = sched_setaffinity(Some(thread), if spare.count() > 0 { &spare } else { &all });
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub type Id = std::thread::ThreadId;

    pub fn current() -> Id {
        std::thread::current().id()
    }

    /// This system has no affinities.
    pub fn allow(_: Id, _: &[usize]) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    use std::sync::mpsc::{Receiver, Sender, channel};

    fn of_this_thread() -> CpuSet {
        sched_getaffinity(None).expect("the system says")
    }

    fn of_the_process() -> CpuSet {
        sched_getaffinity(Some(rustix::process::getpid())).expect("the system says")
    }

    fn numbers(set: &CpuSet) -> Vec<usize> {
        (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
    }

    /// A helper that tells its affinity whenever it is asked.
    fn witness() -> (Sender<()>, Receiver<CpuSet>, JoinHandle<()>) {
        let ((ask, asked), (tell, told)) = (channel(), channel());
        let thread = spawn("witness".to_owned(), move || {
            asked.iter().for_each(|()| tell.send(of_this_thread()).expect("somebody asks"));
        });
        (ask, told, thread.expect("a thread"))
    }

    fn seen(witness: &(Sender<()>, Receiver<CpuSet>, JoinHandle<()>)) -> CpuSet {
        witness.0.send(()).expect("it listens");
        witness.1.recv().expect("it answers")
    }

    /// One test, as reservations are the whole process's.
    #[test]
    fn helpers_avoid_reserved_cores_while_there_are_others() {
        let whole = of_the_process();
        let all = numbers(&whole);
        let early = witness();
        assert_eq!(seen(&early), whole);

        let everything = reserve(&all);
        assert_eq!(seen(&early), whole, "with every core reserved they run everywhere");
        drop(everything);

        // Its own affinity must be no pinned worker's.
        let pinned = std::thread::spawn(move || {
            let mut one = CpuSet::new();
            one.set(all[0]);
            sched_setaffinity(None, &one).expect("a core of the process");
            let reservation = reserve(&all[..1]);
            let late = witness();
            if all.len() > 1 {
                for helper in [&early, &late] {
                    assert_eq!(numbers(&seen(helper)), all[1..]);
                }
                let (tell, told) = channel();
                let busy = spawn("busy".to_owned(), move || {
                    tell.send(on_all_cores(of_this_thread)).expect("somebody asks");
                    tell.send(of_this_thread()).expect("somebody asks");
                });
                busy.expect("a thread").join().expect("it ends");
                assert_eq!(told.recv(), Ok(whole));
                assert_eq!(told.recv().map(|set| numbers(&set)), Ok(all[1..].to_vec()));
            }
            drop(reservation);
            for helper in [early, late] {
                assert_eq!(seen(&helper), whole);
                drop(helper.0);
                helper.2.join().expect("it ends");
            }
        });
        pinned.join().expect("it ends");
    }
}
