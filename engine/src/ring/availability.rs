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
        Visible { end, again: pushed > end }
    }
}

#[cfg(test)]
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
