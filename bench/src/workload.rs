//! The input of the benchmarks: numbers 0, 1, 2 …, scattered over keys, evenly or by Zipf's law. Both sides of a comparison, also
//! those in other processes, take it from here.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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

/// How often each key is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// All alike.
    Uniform,
    /// By Zipf's law with exponent 0.99, as the Yahoo! Cloud Serving Benchmark does.
    Zipf,
}

/// Exponent of [`Access::Zipf`].
const ZIPF_EXPONENT: f64 = 0.99;

/// Ranks become keys by this prime factor, so that popular keys are no neighbours. No number of keys has it for a divisor.
const SCATTER: u64 = (1 << 61) - 1;

/// An endless sequence of keys, the same for the same arguments.
#[derive(Clone, Debug)]
pub struct Keys {
    keys: u64,
    number: u64,
    zipf: Option<Zipf>,
}

impl Keys {
    /// Keys below `keys`, which is at least 1 and below 2³². `seed` tells one sequence from another.
    pub fn new(access: Access, keys: u64, seed: u64) -> Self {
        assert!((1..1 << 32).contains(&keys), "{keys} keys");
        let zipf = (access == Access::Zipf).then(|| Zipf::new(keys));
        Keys { keys, number: seed << 40, zipf }
    }

    /// Replaces all of `batch` by the keys that come next.
    pub fn fill(&mut self, batch: &mut [u64]) {
        for key in batch {
            let random = mix(self.number);
            self.number += 1;
            *key = match &self.zipf {
                None => random % self.keys,
                Some(zipf) => zipf.rank(random) * (SCATTER % self.keys) % self.keys,
            };
        }
    }
}

/// Writes the first value of `key` to all of `value`, which has at least 8 bytes: a count of zero, then bytes of which about half
/// compress away.
pub fn fill_value(key: u64, value: &mut [u8]) {
    let (count, rest) = value.split_at_mut(COUNT_BYTES);
    count.fill(0);
    let random_bytes = rest.len() / 2;
    for (index, word) in rest[..random_bytes].chunks_mut(8).enumerate() {
        let random = mix(mix(key).wrapping_add(index as u64)).to_le_bytes();
        word.copy_from_slice(&random[..word.len()]);
    }
    rest[random_bytes..].fill(b'.');
}

/// Bytes of the count at the front of a value.
const COUNT_BYTES: usize = 8;

/// Adds one to the count at the front of a value.
#[inline(always)]
pub fn bump(value: &mut [u8]) {
    let (count, _) = value.split_first_chunk_mut::<COUNT_BYTES>().expect("a value has at least 8 bytes");
    *count = (u64::from_le_bytes(*count) + 1).to_le_bytes();
}

/// Ranks by Zipf's law, by the approximate inverse of Gray et al., "Quickly generating billion-record synthetic databases", SIGMOD 1994,
/// section 3.2: ranks 0 and 1 have their exact shares, the others follow a power law.
#[derive(Clone, Debug)]
struct Zipf {
    ranks: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
    second: f64,
}

impl Zipf {
    fn new(ranks: u64) -> Self {
        let zeta_two = zeta(ranks.min(2));
        let zeta = zeta(ranks);
        let n = ranks as f64;
        Zipf {
            ranks: n,
            alpha: 1.0 / (1.0 - ZIPF_EXPONENT),
            zeta,
            eta: (1.0 - (2.0 / n).powf(1.0 - ZIPF_EXPONENT)) / (1.0 - zeta_two / zeta),
            second: 1.0 + 0.5_f64.powf(ZIPF_EXPONENT),
        }
    }

    /// The rank, from 0 for the most popular, for 64 random bits.
    #[inline]
    fn rank(&self, random: u64) -> u64 {
        let uniform = (random >> 11) as f64 * (1.0 / (1_u64 << 53) as f64);
        let share = uniform * self.zeta;
        if share < 1.0 {
            return 0;
        }
        if share < self.second {
            return 1;
        }
        let rank = self.ranks * (self.eta * uniform - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.ranks as u64 - 1)
    }
}

/// `1 + 1/2^s + … + 1/n^s` for the exponent `s` of [`Access::Zipf`]: the first terms one by one, the rest by the formula of Euler and
/// Maclaurin, whose error is below a billionth here.
fn zeta(n: u64) -> f64 {
    const EXACT: u64 = 1000;
    let term = |i: u64| (i as f64).powf(-ZIPF_EXPONENT);
    let exact: f64 = (1..=n.min(EXACT)).map(term).sum();
    if n <= EXACT {
        return exact;
    }
    let antiderivative = |x: f64| x.powf(1.0 - ZIPF_EXPONENT) / (1.0 - ZIPF_EXPONENT);
    let slope = |i: u64| -ZIPF_EXPONENT * (i as f64).powf(-ZIPF_EXPONENT - 1.0);
    let integral = antiderivative(n as f64) - antiderivative(EXACT as f64);
    exact + integral + (term(n) - term(EXACT)) / 2.0 + (slope(n) - slope(EXACT)) / 12.0
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

    fn counts(access: Access, keys: u64, draws: usize) -> Vec<usize> {
        let mut counts = vec![0; keys as usize];
        let mut batch = vec![0; draws];
        Keys::new(access, keys, 1).fill(&mut batch);
        batch.iter().for_each(|key| counts[*key as usize] += 1);
        counts
    }

    #[test]
    fn the_most_popular_keys_have_the_shares_that_zipfs_law_gives_them() {
        let (keys, draws) = (10_000, 1_000_000);
        let mut counts = counts(Access::Zipf, keys, draws);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let share = |rank: f64| draws as f64 * rank.powf(-ZIPF_EXPONENT) / zeta(keys);
        for rank in [1, 2] {
            let (found, expected) = (counts[rank - 1] as f64, share(rank as f64));
            assert!((found / expected - 1.0).abs() < 0.02, "rank {rank}: {found}, expected {expected}");
        }
        let head: f64 = (1..=100).map(|rank| share(f64::from(rank))).sum();
        let found = counts[..100].iter().sum::<usize>() as f64;
        assert!((found / head - 1.0).abs() < 0.05, "the first hundred: {found}, expected {head}");
    }

    #[test]
    fn uniform_keys_are_all_alike_and_repeatable() {
        let counts = counts(Access::Uniform, 10, 10_000);
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        let mut twice = [[0; 100]; 2];
        twice.iter_mut().for_each(|batch| Keys::new(Access::Zipf, 77, 3).fill(batch));
        assert_eq!(twice[0], twice[1]);
        assert!(twice[0].iter().all(|key| *key < 77));
    }

    #[test]
    fn a_value_counts_and_keeps_the_rest() {
        let mut value = [1; 100];
        fill_value(5, &mut value);
        let before = value;
        bump(&mut value);
        assert_eq!(value[..8], 1_u64.to_le_bytes());
        assert_eq!(value[8..], before[8..]);
        assert!(value[8..54].iter().any(|byte| *byte != value[8]) && value[54..] == [b'.'; 46]);
    }

    #[test]
    fn ranks_become_keys_one_to_one() {
        for keys in [1, 2, 10, 1000, 65_536] {
            let mut seen = vec![false; keys as usize];
            (0..keys).for_each(|rank| seen[(rank * (SCATTER % keys) % keys) as usize] = true);
            assert!(seen.iter().all(|seen| *seen), "{keys} keys");
        }
    }

    #[test]
    fn the_short_sum_of_the_zeta_function_equals_the_long_one() {
        let long: f64 = (1..=100_000).map(|i| f64::from(i).powf(-ZIPF_EXPONENT)).sum();
        assert!((zeta(100_000) - long).abs() < 1e-6, "{} instead of {long}", zeta(100_000));
    }
}
