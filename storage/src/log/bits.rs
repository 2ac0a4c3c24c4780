//! One bit for each row of a page, with no memory until one is set.

/// A set of slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits(Box<[u64]>);

impl Bits {
    /// True when `slot` is in the set.
    #[inline(always)]
    pub fn get(&self, slot: u32) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 != 0)
    }

    /// The address of the bit of `slot`, for loading it ahead; need not be valid.
    #[inline(always)]
    pub fn address(&self, slot: u32) -> *const u8 {
        self.0.as_ptr().wrapping_add(slot as usize / 64).cast()
    }

    /// Adds `slot`; returns the bytes of memory that this has taken, seldom any.
    #[inline(always)]
    pub fn set(&mut self, slot: u32) -> usize {
        let word = slot as usize / 64;
        let taken = if word < self.0.len() { 0 } else { self.lengthen(word) };
        self.0[word] |= 1 << (slot % 64);
        taken
    }

    /// Takes `slot` out.
    #[inline(always)]
    pub fn unset(&mut self, slot: u32) {
        if let Some(word) = self.0.get_mut(slot as usize / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// Takes all out and gives the memory back; returns its bytes.
    pub fn clear(&mut self) -> usize {
        let bytes = self.bytes();
        self.0 = Box::default();
        bytes
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.0.len() * size_of::<u64>()
    }

    #[cold]
    fn lengthen(&mut self, word: usize) -> usize {
        let before = self.bytes();
        // Rows come in order, so a page's bits grow by doubling, up to 512 bytes.
        let words = (word + 1).next_power_of_two();
        let mut longer = Vec::with_capacity(words);
        longer.extend_from_slice(&self.0);
        longer.resize(words, 0);
        self.0 = longer.into();
        self.bytes() - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_that_were_set() {
        let mut bits = Bits::default();
        let taken: usize = [3, 64, 4_095, 70].iter().map(|slot| bits.set(*slot)).sum();
        bits.unset(70);
        bits.unset(5);
        let found: Vec<u32> = (0..5_000).filter(|slot| bits.get(*slot)).collect();
        assert_eq!(found, [3, 64, 4_095]);
        assert_eq!((bits.bytes(), taken), (512, 512));
        assert_eq!(bits.clear(), 512);
        assert_eq!((bits.get(3), bits.bytes()), (false, 0));
    }
}
