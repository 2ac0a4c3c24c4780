//! The input of the benchmarks: numbers 0, 1, 2 …, scattered over keys. Both sides of a comparison take it from here.

/// The finaliser of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): a bijection that scatters
/// consecutive numbers evenly.
#[inline(always)]
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The key of a number: uniform over `0..keys`. `keys` is at least 1.
#[inline(always)]
pub fn key_of(number: u64, keys: u64) -> u64 {
    mix(number) % keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_follows_the_published_sequence() {
        // First outputs of splitmix64 with seed 0: the state rises by the constant that `mix` adds.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        assert_eq!(mix(0x9E37_79B9_7F4A_7C15), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0_u32; 10];
        for number in 0..10_000 {
            counts[key_of(number, 10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
