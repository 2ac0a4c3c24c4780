//! The doorbell of a worker: whoever gives a worker something to do rings it, and a sleeping worker wakes.
//!
//! Always true:
//! - whatever was written before [`Doorbell::ring`] is either seen by the recheck that the owner makes after
//!   [`Doorbell::announce_sleep`], or the owner is woken: no wake-up is lost;
//! - one announced sleep causes at most one call of [`Wake::wake`], however many peers ring;
//! - ringing a worker that is awake costs a fence and a read, and never a system call.
//!
//! Rung by peers' tasks, disks, host threads and the coordinator; the owner side is called by the worker's driver only.
//!
//! Why the orderings suffice. Ringer: write data (W1), fence (F1), read `asleep` (R1). Owner: write `asleep` (W2),
//! fence (F2), read data (R2). Both fences are `SeqCst`, so one comes first in their single total order. If F1 comes
//! first, R2 sees W1: the recheck finds the data. If F2 comes first, R1 sees W2: the ringer wakes the owner. The data
//! themselves need no ordering here: the fences order even relaxed accesses.
//!
//! Every change of `asleep` is a read-modify-write, which acts on the newest value; so all changes form one chain that
//! everybody agrees on, of several ringers one wins, and a stale `true` from an earlier sleep wakes nobody. A winner may
//! be slow: its `wake` can arrive after the owner has woken by itself, or even during the owner's next sleep. That costs
//! one spurious turn of the owner's loop. A [`Wake`] must be sticky for the same reason: it can come between the owner's
//! last look at the flag and its park.

use std::sync::Arc;
use sync::{AtomicBool, Ordering, fence};

/// The atomics, exchanged for loom's by `--cfg loom` so that its model checker sees every access.
mod sync {
    #[cfg(loom)]
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};
    #[cfg(not(loom))]
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

/// Wakes a parked worker; each driver has its own way.
///
/// Must be sticky: a wake that comes just before the park makes that park return at once. Must be short, must not
/// panic, and may be called from any thread.
pub trait Wake: Send + Sync + 'static {
    /// Wakes the parked worker.
    fn wake(&self);
}

struct Bell {
    /// True from the owner's announcement until the first ring after it, or until the owner cancels.
    asleep: AtomicBool,
    wake: Box<dyn Wake>,
}

/// The doorbell of one worker. Clones ring the same bell.
#[derive(Clone)]
pub struct Doorbell {
    bell: Arc<Bell>,
}

impl Doorbell {
    /// A doorbell whose owner is awake and can be woken by `wake`.
    pub fn new(wake: impl Wake) -> Self {
        Doorbell { bell: Arc::new(Bell { asleep: AtomicBool::new(false), wake: Box::new(wake) }) }
    }

    /// Tells the owner that something has changed. Call it after the change is written.
    ///
    /// Wakes the owner when it sleeps and nobody has woken it yet. Never blocks.
    #[inline]
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        // Reading first keeps the cache line shared while the owner is awake, which is the common case by far.
        if self.bell.asleep.load(Ordering::Relaxed) && self.bell.asleep.swap(false, Ordering::AcqRel) {
            self.bell.wake.wake();
        }
    }

    /// Owner: announces that it is about to park. It must then look at all of its inputs, blocked outputs, mailbox
    /// and stop flag once more, and either park or call [`Doorbell::cancel_sleep`].
    pub fn announce_sleep(&self) {
        self.bell.asleep.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
    }

    /// Owner: takes the announcement back, after the recheck found something or a timer ended the sleep.
    pub fn cancel_sleep(&self) {
        self.bell.asleep.swap(false, Ordering::AcqRel);
    }

    /// Owner: true while the announced sleep has been ended neither by a ring nor by the owner.
    ///
    /// A `false` caused by a ring also makes visible what the ringer wrote before it.
    pub fn is_asleep(&self) -> bool {
        self.bell.asleep.load(Ordering::Acquire)
    }
}

impl thalweg_storage::io::Notify for Doorbell {
    fn notify(&self) {
        self.ring();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Clone, Default)]
    struct CountWakes(Arc<AtomicUsize>);

    impl CountWakes {
        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl Wake for CountWakes {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn ringing_an_awake_owner_wakes_nobody() {
        let wakes = CountWakes::default();
        let bell = Doorbell::new(wakes.clone());
        bell.ring();
        bell.announce_sleep();
        bell.cancel_sleep();
        bell.ring();
        assert_eq!(wakes.count(), 0);
    }

    #[test]
    fn the_first_ring_of_a_sleep_wakes_and_later_ones_do_not() {
        let wakes = CountWakes::default();
        let bell = Doorbell::new(wakes.clone());
        for sleeps in 1..=3 {
            bell.announce_sleep();
            assert!(bell.is_asleep());
            bell.ring();
            bell.clone().ring();
            assert!(!bell.is_asleep());
            assert_eq!(wakes.count(), sleeps);
        }
    }

    #[test]
    fn a_completed_disk_request_rings_through_notify() {
        let wakes = CountWakes::default();
        let bell = Doorbell::new(wakes.clone());
        bell.announce_sleep();
        thalweg_storage::io::Notify::notify(&bell);
        assert_eq!(wakes.count(), 1);
    }
}

/// The model: every interleaving and every outcome of weak memory that loom explores, with data as weakly ordered as
/// can be. Run with `RUSTFLAGS="--cfg loom" cargo test -p thalweg --release doorbell`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::atomic::AtomicUsize;
    use loom::sync::{Condvar, Mutex};
    use loom::thread;

    /// What a driver parks on: a token, sticky as the contract of `Wake` demands.
    struct Parking {
        token: Mutex<bool>,
        changed: Condvar,
        wakes: AtomicUsize,
    }

    impl Parking {
        fn new() -> Self {
            Parking { token: Mutex::new(false), changed: Condvar::new(), wakes: AtomicUsize::new(0) }
        }

        fn park(&self) {
            let mut token = self.token.lock().unwrap();
            while !*token {
                token = self.changed.wait(token).unwrap();
            }
            *token = false;
        }
    }

    impl Wake for Arc<Parking> {
        fn wake(&self) {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            *self.token.lock().unwrap() = true;
            self.changed.notify_one();
        }
    }

    fn bell() -> (Doorbell, Arc<Parking>) {
        let parking = Arc::new(Parking::new());
        (Doorbell::new(Arc::clone(&parking)), parking)
    }

    fn peer(bell: &Doorbell, data: &Arc<AtomicUsize>, items: usize) -> thread::JoinHandle<()> {
        let (bell, data) = (bell.clone(), Arc::clone(data));
        thread::spawn(move || {
            for item in 1..=items {
                data.store(item, Ordering::Relaxed);
                bell.ring();
            }
        })
    }

    /// The loop of a driver: returns how many sleeps it announced. A lost wake-up parks for ever, which loom reports as
    /// a deadlock.
    fn run_until(bell: &Doorbell, parking: &Parking, done: impl Fn() -> bool) -> usize {
        let mut sleeps = 0;
        while !done() {
            bell.announce_sleep();
            sleeps += 1;
            if !done() {
                parking.park();
            }
            bell.cancel_sleep();
        }
        sleeps
    }

    #[test]
    fn data_written_before_a_ring_are_never_slept_through() {
        loom::model(|| {
            let (bell, parking) = bell();
            let data = Arc::new(AtomicUsize::new(0));
            let peer = peer(&bell, &data, 1);
            let sleeps = run_until(&bell, &parking, || data.load(Ordering::Relaxed) == 1);
            peer.join().unwrap();
            assert!(parking.wakes.load(Ordering::Relaxed) <= sleeps);
        });
    }

    #[test]
    fn the_second_item_of_a_peer_ends_the_second_sleep() {
        loom::model(|| {
            let (bell, parking) = bell();
            let data = Arc::new(AtomicUsize::new(0));
            let peer = peer(&bell, &data, 2);
            let first = run_until(&bell, &parking, || data.load(Ordering::Relaxed) >= 1);
            let second = run_until(&bell, &parking, || data.load(Ordering::Relaxed) == 2);
            peer.join().unwrap();
            assert!(parking.wakes.load(Ordering::Relaxed) <= first + second);
        });
    }

    #[test]
    fn two_ringers_lose_nothing_and_wake_at_most_once_per_sleep() {
        let mut model = loom::model::Builder::new();
        // Three threads: two preemptions per execution keep the search to seconds.
        model.preemption_bound = Some(2);
        model.check(|| {
            let (bell, parking) = bell();
            let data = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
            let peers = [peer(&bell, &data[0], 1), peer(&bell, &data[1], 1)];
            let sleeps =
                run_until(&bell, &parking, || data.iter().all(|item| item.load(Ordering::Relaxed) == 1));
            for peer in peers {
                peer.join().unwrap();
            }
            assert!(parking.wakes.load(Ordering::Relaxed) <= sleeps);
        });
    }

    #[test]
    fn two_rings_during_one_sleep_wake_once() {
        loom::model(|| {
            let (bell, parking) = bell();
            bell.announce_sleep();
            let data = Arc::new(AtomicUsize::new(0));
            let peers = [peer(&bell, &data, 1), peer(&bell, &data, 1)];
            for peer in peers {
                peer.join().unwrap();
            }
            assert_eq!(parking.wakes.load(Ordering::Relaxed), 1);
        });
    }

    /// The protocol written out, so that a part of it can be left away; loom must then find the lost wake-up.
    fn protocol(ringer_fences: bool, owner_fences: bool, owner_rechecks: bool) {
        loom::model(move || {
            let asleep = Arc::new(AtomicBool::new(false));
            let data = Arc::new(AtomicUsize::new(0));
            let parking = Arc::new(Parking::new());
            let (their_asleep, their_data, owner) =
                (Arc::clone(&asleep), Arc::clone(&data), Arc::clone(&parking));
            let peer = thread::spawn(move || {
                their_data.store(1, Ordering::Relaxed);
                if ringer_fences {
                    fence(Ordering::SeqCst);
                }
                if their_asleep.load(Ordering::Relaxed) && their_asleep.swap(false, Ordering::AcqRel) {
                    owner.wake();
                }
            });
            while data.load(Ordering::Relaxed) == 0 {
                asleep.swap(true, Ordering::AcqRel);
                if owner_fences {
                    fence(Ordering::SeqCst);
                }
                if owner_rechecks && data.load(Ordering::Relaxed) == 1 {
                    break;
                }
                parking.park();
            }
            peer.join().unwrap();
        });
    }

    #[test]
    fn the_protocol_with_all_of_its_parts_holds() {
        protocol(true, true, true);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_the_ringers_fence_a_wake_up_is_lost() {
        protocol(false, true, true);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_the_owners_fence_a_wake_up_is_lost() {
        protocol(true, false, true);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_the_recheck_a_wake_up_is_lost() {
        protocol(true, true, false);
    }
}
