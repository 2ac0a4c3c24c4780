//! Random numbers that depend on a seed alone.

/// The generator SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Always the same numbers for a seed.
    pub fn of_seed(seed: u64) -> Self {
        Random(seed)
    }

    /// The numbers of part `index` of what `seed` decides.
    pub fn of_part(seed: u64, index: u64) -> Self {
        let mut parts = Random(seed ^ index.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Random(parts.next_u64())
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}
