//! Decides how much of a channel a consumer may see, from the order in which it reads the two rings.
//!
//! A producer publishes an announcement before it pushes beyond its cut. A consumer therefore reads the data ring's end
//! first and drains the side ring after: every cut at or below the end it has read is then among the announcements drained.
//! The reverse order, or an end read after the drain, could show data beyond a cut that is still unseen.
//!
//! Always true: no batch at or beyond an announced cut becomes visible before the announcement has been drained.

/// One look at one channel: [`Look::begin`], drain the side ring, [`Look::end`].
///
/// ```
/// use thalweg::ring::Look;
/// let mut look = Look::begin(3); // the data ring held batches 0..3; meanwhile the producer pushes 3, announces 4, pushes 4
/// look.announced(4);
/// let seen = look.end(5);
/// assert_eq!((seen.end, seen.again), (4, true)); // batch 4 needs another look: a later cut may lie in front of it
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Look {
    end: u64,
    cut: Option<u64>,
}

/// What a look has made visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visible {
    /// Batches below this position may be seen; it never falls from one look to the next.
    pub end: u64,
    /// There is more in the data ring: look again, from the beginning.
    pub again: bool,
}

impl Look {
    /// Begins a look. `pushed` is the end of the data ring, read now: batches taken so far plus those in the ring.
    pub fn begin(pushed: u64) -> Look {
        Look { end: pushed, cut: None }
    }

    /// An announcement was drained from the side ring.
    pub fn announced(&mut self, cut: u64) {
        self.cut = self.cut.max(Some(cut));
    }

    /// True when the end of the data ring must be read again before [`Look::end`]; otherwise pass what `begin` was given.
    ///
    /// The batches below an announced cut were pushed before it, so reading again shows them all.
    pub fn rereads(&self) -> bool {
        self.cut.is_some()
    }

    /// Ends the look, the side ring having been found empty. `pushed` is the end of the data ring, read again.
    ///
    /// # Panics
    /// When `pushed` lies below an announced cut: the data ring was not read again, or an announcement overtook its data.
    pub fn end(self, pushed: u64) -> Visible {
        let end = self.end.max(self.cut.unwrap_or(0));
        assert!(pushed >= end, "{pushed} batches pushed, but {end} announced");
        if broken!(SeesBeyondCut) {
            return Visible { end: pushed, again: false };
        }
        Visible { end, again: pushed > end }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn without_an_announcement_exactly_what_was_pushed_before_the_drain_is_visible() {
        let look = Look::begin(7);
        assert!(!look.rereads());
        assert_eq!(look.end(7), Visible { end: 7, again: false });
    }

    #[test]
    fn an_announcement_makes_everything_below_its_cut_visible() {
        let mut look = Look::begin(2);
        look.announced(6);
        assert!(look.rereads());
        assert_eq!(look.end(6), Visible { end: 6, again: false });
    }

    #[test]
    fn a_cut_below_what_was_seen_hides_nothing() {
        let mut look = Look::begin(9);
        look.announced(4);
        assert_eq!(look.end(9), Visible { end: 9, again: false });
    }

    #[test]
    fn of_several_announcements_the_furthest_counts() {
        let mut look = Look::begin(0);
        look.announced(3);
        look.announced(5);
        assert_eq!(look.end(5).end, 5);
    }

    #[test]
    fn what_was_pushed_after_the_announcement_needs_another_look() {
        let mut look = Look::begin(2);
        look.announced(3);
        assert_eq!(look.end(8), Visible { end: 3, again: true });
    }

    #[test]
    #[should_panic(expected = "announced")]
    fn an_announcement_that_overtook_its_data_is_refused() {
        let mut look = Look::begin(2);
        look.announced(4);
        look.end(3);
    }
}

/// The model: a producer and a consumer over a data ring and a side ring whose indices are as weakly ordered as rtrb's (a
/// release store by the producer, an acquire load by the consumer), under every interleaving and every outcome of weak
/// memory that loom explores.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use loom::thread;

    /// What a model leaves as it should be, or breaks.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Protocol {
        Whole,
        /// The consumer drains the side ring before it reads the data ring's end.
        SideRingFirst,
        /// The data ring's end as read after the drain is what becomes visible.
        SeesAllAfterTheDrain,
        /// The data ring's end is not read again after an announcement.
        NotReadAgain,
        /// The producer pushes beyond the cut before it announces it.
        AnnouncesLate,
        /// The producer publishes the data ring's end without release: a consumer may see the batch and not the
        /// announcement in front of it.
        RelaxedPush,
        /// The consumer reads the data ring's end without acquire, to the same effect.
        RelaxedRead,
        /// The producer publishes the side ring's end without release: a consumer may see the announcement and not the data in
        /// front of it.
        RelaxedAnnouncement,
    }

    /// One data ring of counted batches, one side ring of cuts.
    #[derive(Default)]
    struct Rings {
        pushed: AtomicU64,
        announced: AtomicUsize,
        cuts: [AtomicU64; 2],
    }

    impl Rings {
        fn push(&self, protocol: Protocol) {
            let release =
                if protocol == Protocol::RelaxedPush { Ordering::Relaxed } else { Ordering::Release };
            self.pushed.store(self.pushed.load(Ordering::Relaxed) + 1, release);
        }

        fn announce(&self, cut: u64, protocol: Protocol) {
            let at = self.announced.load(Ordering::Relaxed);
            self.cuts[at].store(cut, Ordering::Relaxed);
            let relaxed = protocol == Protocol::RelaxedAnnouncement;
            self.announced.store(at + 1, if relaxed { Ordering::Relaxed } else { Ordering::Release });
        }

        fn end(&self, protocol: Protocol) -> u64 {
            let relaxed = protocol == Protocol::RelaxedRead;
            self.pushed.load(if relaxed { Ordering::Relaxed } else { Ordering::Acquire })
        }
    }

    /// The consumer's side: what it has drained and what it may see.
    #[derive(Default)]
    struct Consumer {
        drained: Vec<u64>,
        visible: u64,
    }

    impl Consumer {
        fn drain(&mut self, rings: &Rings, mut each: impl FnMut(u64)) {
            while self.drained.len() < rings.announced.load(Ordering::Acquire) {
                let cut = rings.cuts[self.drained.len()].load(Ordering::Relaxed);
                self.drained.push(cut);
                each(cut);
            }
        }

        fn look(&mut self, rings: &Rings, protocol: Protocol) {
            if protocol == Protocol::SideRingFirst {
                self.drain(rings, |_| {});
                self.visible = rings.end(protocol);
                return;
            }
            let end = rings.end(protocol);
            let mut look = Look::begin(end);
            self.drain(rings, |cut| look.announced(cut));
            let rereads = look.rereads() && protocol != Protocol::NotReadAgain;
            let again = if rereads { rings.end(protocol) } else { end };
            let seen = look.end(again);
            self.visible = if protocol == Protocol::SeesAllAfterTheDrain { again } else { seen.end };
        }
    }

    /// The producer pushes a batch, announces cut 1, pushes another, announces cut 2, pushes a third. The consumer looks
    /// `looks` times, and must always know of every cut at or below what it sees, unless that is the very end of what it sees.
    fn model(looks: usize, protocol: Protocol) {
        loom::model(move || {
            let rings = Arc::new(Rings::default());
            let theirs = Arc::clone(&rings);
            let producer = thread::spawn(move || {
                for cut in 1..=2 {
                    theirs.push(protocol);
                    if protocol == Protocol::AnnouncesLate {
                        theirs.push(protocol);
                        theirs.announce(2 * cut - 1, protocol);
                    } else {
                        theirs.announce(cut, protocol);
                    }
                }
                theirs.push(protocol);
            });
            // Without it loom finds nothing to try after the first execution.
            thread::yield_now();
            let cuts = if protocol == Protocol::AnnouncesLate { [1, 3] } else { [1, 2] };
            let mut consumer = Consumer::default();
            for _ in 0..looks {
                let before = consumer.visible;
                consumer.look(&rings, protocol);
                assert!(consumer.visible >= before, "what was visible has gone");
                let unseen = cuts.iter().find(|cut| !consumer.drained.contains(cut));
                assert!(
                    unseen.is_none_or(|cut| consumer.visible <= *cut),
                    "{} batches are visible, beyond an unseen cut",
                    consumer.visible
                );
            }
            producer.join().unwrap();
            if protocol == Protocol::Whole {
                // One look may stop at an announced cut; the next shows the rest.
                consumer.look(&rings, protocol);
                consumer.look(&rings, protocol);
                assert_eq!((consumer.visible, consumer.drained.len()), (3, 2));
            }
        });
    }

    #[test]
    fn one_look_never_shows_data_beyond_an_unseen_cut() {
        model(1, Protocol::Whole);
    }

    #[test]
    fn further_looks_show_ever_more_and_nothing_beyond_an_unseen_cut() {
        model(3, Protocol::Whole);
    }

    #[test]
    #[should_panic(expected = "beyond an unseen cut")]
    fn reading_the_side_ring_first_shows_data_beyond_an_unseen_cut() {
        model(1, Protocol::SideRingFirst);
    }

    #[test]
    #[should_panic(expected = "beyond an unseen cut")]
    fn seeing_all_that_is_there_after_the_drain_shows_data_beyond_an_unseen_cut() {
        model(1, Protocol::SeesAllAfterTheDrain);
    }

    #[test]
    #[should_panic(expected = "announced")]
    fn an_announcement_without_another_read_of_the_end_is_noticed() {
        model(1, Protocol::NotReadAgain);
    }

    #[test]
    #[should_panic(expected = "beyond an unseen cut")]
    fn pushing_beyond_the_cut_before_it_is_announced_is_noticed() {
        model(1, Protocol::AnnouncesLate);
    }

    #[test]
    #[should_panic(expected = "beyond an unseen cut")]
    fn a_push_without_release_overtakes_the_announcement_in_front_of_it() {
        model(1, Protocol::RelaxedPush);
    }

    #[test]
    #[should_panic(expected = "beyond an unseen cut")]
    fn reading_the_end_without_acquire_misses_the_announcement_in_front_of_it() {
        model(1, Protocol::RelaxedRead);
    }

    #[test]
    #[should_panic(expected = "announced")]
    fn an_announcement_without_release_overtakes_its_data() {
        model(1, Protocol::RelaxedAnnouncement);
    }
}
