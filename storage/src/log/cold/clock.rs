//! Which page leaves memory next: CLOCK, the second-chance approximation of least recently used (Corbató, "A paging
//! experiment with the Multics system", 1968).
//!
//! One byte for each page: was it used since the hand last passed, do announced keys need it. A hit costs one load, and a store
//! only for the first use after the hand has passed.
//!
//! Always true: a victim was allowed and not held; a page used since the hand passed it survives that hand's next visit.
//!
//! Pure: knows pages by number only; whether one is in memory at all is part of what the caller allows.

/// The page was used since the hand passed.
const USED: u8 = 1;
/// The page is held.
const HELD: u8 = 2;

/// Use of pages, by page number.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    pages: Vec<u8>,
    /// The page that the hand looks at next.
    hand: usize,
}

impl Clock {
    /// A page is used.
    #[inline(always)]
    pub fn touch(&mut self, page: u32) {
        match self.pages.get_mut(page as usize) {
            Some(state) if *state & USED != 0 => {}
            Some(state) => *state |= USED,
            None => self.lengthen(page, USED),
        }
    }

    /// A page is used, and held until [`Clock::release`]; true if it was not held before.
    #[inline(always)]
    pub fn hold(&mut self, page: u32) -> bool {
        match self.pages.get_mut(page as usize) {
            Some(state) if *state == USED | HELD => false,
            Some(state) => {
                let was_free = *state & HELD == 0;
                *state = USED | HELD;
                was_free
            }
            None => {
                self.lengthen(page, USED | HELD);
                true
            }
        }
    }

    /// True for a page that is held.
    #[inline(always)]
    pub fn is_held(&self, page: u32) -> bool {
        self.pages.get(page as usize).is_some_and(|state| state & HELD != 0)
    }

    /// Ends a [`Clock::hold`].
    pub fn release(&mut self, page: u32) {
        if let Some(state) = self.pages.get_mut(page as usize) {
            *state &= !HELD;
        }
    }

    /// The next page that `may_go`, of those numbered below `pages` and not held. None where it is not found among the
    /// next `visits` that the hand passes.
    pub fn victim(&mut self, pages: u32, visits: usize, mut may_go: impl FnMut(u32) -> bool) -> Option<u32> {
        if pages == 0 {
            return None;
        }
        if self.pages.len() < pages as usize {
            self.pages.resize(pages as usize, 0);
        }
        for _ in 0..visits {
            if self.hand >= pages as usize {
                self.hand = 0;
            }
            let page = self.hand;
            self.hand += 1;
            let state = &mut self.pages[page];
            if *state & HELD != 0 {
                continue;
            }
            if *state & USED != 0 {
                *state = 0;
            } else if may_go(page as u32) {
                return Some(page as u32);
            }
        }
        None
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.pages.capacity()
    }

    #[cold]
    fn lengthen(&mut self, page: u32, state: u8) {
        self.pages.resize((page as usize + 1).next_power_of_two(), 0);
        self.pages[page as usize] = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const PAGES: u32 = 12;

    #[derive(Clone, Debug)]
    enum Step {
        Touch(u32),
        Hold(u32),
        Release(u32),
        Evict { allowed: BTreeSet<u32> },
    }

    fn step() -> impl Strategy<Value = Step> {
        let page = || 0..PAGES;
        prop_oneof![
            3 => page().prop_map(Step::Touch),
            1 => page().prop_map(Step::Hold),
            1 => page().prop_map(Step::Release),
            3 => prop::collection::btree_set(page(), 0..12).prop_map(|allowed| Step::Evict { allowed }),
        ]
    }

    proptest! {
        #[test]
        fn prop_the_victim_is_the_first_allowed_free_page_unused_since_the_hand_passed(
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut clock = Clock::default();
            let (mut used, mut held) = (BTreeSet::new(), BTreeSet::new());
            let mut hand = 0;
            for step in steps {
                match step {
                    Step::Touch(page) => {
                        clock.touch(page);
                        used.insert(page);
                    }
                    Step::Hold(page) => {
                        prop_assert_eq!(clock.hold(page), held.insert(page));
                        used.insert(page);
                    }
                    Step::Release(page) => {
                        clock.release(page);
                        held.remove(&page);
                    }
                    Step::Evict { allowed } => {
                        let mut expected = None;
                        for _ in 0..2 * PAGES {
                            let page = hand;
                            hand = (hand + 1) % PAGES;
                            if !held.contains(&page) && !used.remove(&page) && allowed.contains(&page) {
                                expected = Some(page);
                                break;
                            }
                        }
                        prop_assert_eq!(
                            clock.victim(PAGES, 2 * PAGES as usize, |page| allowed.contains(&page)), expected
                        );
                    }
                }
                prop_assert!((0..PAGES).all(|page| clock.is_held(page) == held.contains(&page)));
            }
        }
    }

    #[test]
    fn a_page_used_between_two_visits_stays_while_the_others_go() {
        let mut clock = Clock::default();
        let mut left: BTreeSet<u32> = (0..4).collect();
        for _ in 0..3 {
            clock.touch(2);
            let victim = clock.victim(4, 8, |page| left.contains(&page)).expect("three others");
            left.remove(&victim);
        }
        assert_eq!(left, BTreeSet::from([2]));
    }

    #[test]
    fn the_search_ends_after_so_many_visits() {
        let mut clock = Clock::default();
        let mut asked = 0;
        let mut refuse = |_| {
            asked += 1;
            false
        };
        assert_eq!(clock.victim(1_000, 10, &mut refuse), None);
        assert_eq!(clock.victim(0, 10, &mut refuse), None);
        assert_eq!(asked, 10);
    }
}
