//! Which page leaves memory next: CLOCK, the second-chance approximation of least recently used (Corbató, "A paging
//! experiment with the Multics system", 1968).
//!
//! One byte for each page: is it in memory, was it used since the hand last passed, how many hold it there. A hit costs one
//! load, and a store only for the first use after the hand has passed, so pages in use do not dirty each other's cache
//! lines.
//!
//! Always true: a victim was resident, unpinned and allowed; a page used since the hand passed it survives that hand's next
//! visit.
//!
//! Pure: driven by the page store, which calls it for pages that come, are used, are held and go.

/// The page is in memory.
const RESIDENT: u8 = 1;
/// The page was used since the hand passed.
const USED: u8 = 2;
/// One holder; the count takes the upper six bits.
const PIN: u8 = 4;
/// All bits of the count.
const PINS: u8 = !(RESIDENT | USED);

/// The residence of pages, by page number.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    pages: Vec<u8>,
    /// The page that the hand looks at next.
    hand: usize,
    resident: usize,
}

impl Clock {
    /// Number of pages in memory.
    pub fn resident(&self) -> usize {
        self.resident
    }

    /// True for a page in memory.
    #[inline(always)]
    pub fn is_resident(&self, page: u32) -> bool {
        self.pages.get(page as usize).is_some_and(|state| state & RESIDENT != 0)
    }

    /// True for a page that somebody holds.
    pub fn is_pinned(&self, page: u32) -> bool {
        self.pages.get(page as usize).is_some_and(|state| state & PINS != 0)
    }

    /// A page has come into memory, and counts as used.
    pub fn insert(&mut self, page: u32) {
        let state = self.state(page);
        let came = *state & RESIDENT == 0;
        *state |= RESIDENT | USED;
        self.resident += usize::from(came);
    }

    /// A page has left memory. Pins stay: they hold what will be read again.
    pub fn remove(&mut self, page: u32) {
        let state = self.state(page);
        let went = *state & RESIDENT != 0;
        *state &= PINS;
        self.resident -= usize::from(went);
    }

    /// A page in memory is used.
    #[inline(always)]
    pub fn touch(&mut self, page: u32) {
        if let Some(state) = self.pages.get_mut(page as usize)
            && *state & USED == 0
        {
            *state |= USED;
        }
    }

    /// Holds a page in memory, or the place for one that is being read, until [`Clock::unpin`]. False, and nothing done,
    /// where 63 hold it already.
    pub fn pin(&mut self, page: u32) -> bool {
        let state = self.state(page);
        let room = *state & PINS != PINS;
        if room {
            *state += PIN;
        }
        room
    }

    /// Ends one [`Clock::pin`] that was granted.
    pub fn unpin(&mut self, page: u32) {
        let state = self.state(page);
        debug_assert!(*state & PINS != 0, "page {page} is held by nobody");
        *state -= PIN;
    }

    /// The next victim among resident, unpinned pages that `may_go`; the caller evicts it and calls [`Clock::remove`], or leaves
    /// it. None where two rounds found nothing.
    pub fn victim(&mut self, mut may_go: impl FnMut(u32) -> bool) -> Option<u32> {
        for _ in 0..2 * self.pages.len() {
            let page = self.hand;
            self.hand = if page + 1 < self.pages.len() { page + 1 } else { 0 };
            let state = &mut self.pages[page];
            if *state & (RESIDENT | PINS) != RESIDENT {
                continue;
            }
            if *state & USED != 0 {
                *state &= !USED;
            } else if may_go(page as u32) {
                return Some(page as u32);
            }
        }
        None
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.pages.capacity()
    }

    fn state(&mut self, page: u32) -> &mut u8 {
        let index = page as usize;
        if index >= self.pages.len() {
            self.pages.resize(index + 1, 0);
        }
        &mut self.pages[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// The rule as sets: who is in memory, who was used, who is held.
    #[derive(Default)]
    struct Model {
        resident: BTreeSet<u32>,
        used: BTreeSet<u32>,
        pins: BTreeMap<u32, u32>,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32),
        Remove(u32),
        Touch(u32),
        Pin(u32),
        Unpin(u32),
        Evict { odd_stay: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        let page = || 0u32..12;
        prop_oneof![
            3 => page().prop_map(Step::Insert),
            1 => page().prop_map(Step::Remove),
            3 => page().prop_map(Step::Touch),
            1 => page().prop_map(Step::Pin),
            1 => page().prop_map(Step::Unpin),
            3 => any::<bool>().prop_map(|odd_stay| Step::Evict { odd_stay }),
        ]
    }

    proptest! {
        #[test]
        fn prop_a_victim_is_resident_unheld_allowed_and_was_passed_over_while_in_use(
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let (mut clock, mut model) = (Clock::default(), Model::default());
            for step in steps {
                match step {
                    Step::Insert(page) => {
                        clock.insert(page);
                        model.resident.insert(page);
                        model.used.insert(page);
                    }
                    Step::Remove(page) => {
                        clock.remove(page);
                        model.resident.remove(&page);
                        model.used.remove(&page);
                    }
                    Step::Touch(page) if model.resident.contains(&page) => {
                        clock.touch(page);
                        model.used.insert(page);
                    }
                    Step::Pin(page) => {
                        prop_assert!(clock.pin(page));
                        *model.pins.entry(page).or_default() += 1;
                        if model.pins[&page] > 20 {
                            clock.unpin(page);
                            *model.pins.get_mut(&page).unwrap() -= 1;
                        }
                    }
                    Step::Unpin(page) if model.pins.get(&page).is_some_and(|pins| *pins > 0) => {
                        clock.unpin(page);
                        *model.pins.get_mut(&page).unwrap() -= 1;
                    }
                    Step::Touch(_) | Step::Unpin(_) => {}
                    Step::Evict { odd_stay } => {
                        let held = |page: &u32| model.pins.get(page).is_some_and(|pins| *pins > 0);
                        let may_go = |page: u32| !(odd_stay && page % 2 == 1);
                        let eligible: Vec<u32> = model.resident.iter().copied()
                            .filter(|page| !held(page) && may_go(*page)).collect();
                        let before = clock.hand;
                        match clock.victim(may_go) {
                            None => prop_assert!(eligible.is_empty()),
                            Some(victim) => {
                                prop_assert!(eligible.contains(&victim));
                                // The used were passed over once; all eligible unused ones between hand and victim would
                                // have been taken first.
                                let turn = |page: u32| (page as usize + clock.pages.len() - before) % clock.pages.len();
                                let unused: Vec<u32> = eligible.iter().copied()
                                    .filter(|page| !model.used.contains(page)).collect();
                                match unused.iter().copied().min_by_key(|page| turn(*page)) {
                                    Some(first) => prop_assert_eq!(victim, first),
                                    None => prop_assert_eq!(Some(victim),
                                        eligible.iter().copied().min_by_key(|page| turn(*page))),
                                }
                                clock.remove(victim);
                                model.resident.remove(&victim);
                            }
                        }
                        model.used = (0..12).filter(|page| {
                            clock.pages.get(*page as usize).is_some_and(|state| state & USED != 0)
                        }).collect();
                    }
                }
                prop_assert_eq!(clock.resident(), model.resident.len());
                for page in 0..12 {
                    prop_assert_eq!(clock.is_resident(page), model.resident.contains(&page));
                    prop_assert_eq!(clock.is_pinned(page), model.pins.get(&page).is_some_and(|pins| *pins > 0));
                }
            }
        }
    }

    #[test]
    fn a_page_used_between_two_visits_stays_while_the_others_go() {
        let mut clock = Clock::default();
        (0..4).for_each(|page| clock.insert(page));
        let mut gone = Vec::new();
        for _ in 0..3 {
            clock.touch(2);
            let victim = clock.victim(|_| true).expect("three others");
            clock.remove(victim);
            gone.push(victim);
        }
        assert_eq!(gone, [0, 1, 3]);
    }

    #[test]
    fn the_sixty_fourth_holder_of_a_page_is_refused() {
        let mut clock = Clock::default();
        clock.insert(0);
        assert!((0..63).all(|_| clock.pin(0)));
        assert!(!clock.pin(0));
        assert!(clock.is_resident(0) && clock.victim(|_| true).is_none());
        (0..63).for_each(|_| clock.unpin(0));
        assert_eq!(clock.victim(|_| true), Some(0));
    }
}
