//! XXH3-64 (seed 0) of inputs of exactly 4, 8 and 9 to 16 bytes, written out so that it inlines into a loop over keys.
//!
//! Always true: equal to the library's result for the same bytes. That function chooses by length among many paths; here the
//! one that a fixed length needs is all there is. After the XXH3 specification (Yann Collet, xxHash 0.8), sections for 4–8 and 9–16 bytes.

/// Bytes 8..56 of the default secret, as little-endian words.
const SECRET: [u64; 6] = [
    0x1cad_21f7_2c81_017c,
    0xdb97_9083_e96d_d4de,
    0x1f67_b3b7_a4a4_4072,
    0x78e5_c0cc_4ee6_79cb,
    0x2172_ffcc_7dd0_5a82,
    0x8e24_43f7_7446_08b8,
];

#[inline(always)]
fn mix_4_to_8(input: u64, bytes: u64) -> u64 {
    const PRIME: u64 = 0x9fb2_1c65_1e98_df25;
    let mut hash = input ^ SECRET[0] ^ SECRET[1];
    hash ^= hash.rotate_left(49) ^ hash.rotate_left(24);
    hash = hash.wrapping_mul(PRIME);
    hash ^= (hash >> 35).wrapping_add(bytes);
    hash = hash.wrapping_mul(PRIME);
    hash ^ hash >> 28
}

/// The hash of the 4 little-endian bytes of `input`.
#[inline(always)]
pub(super) fn hash_4(input: u32) -> u64 {
    mix_4_to_8(u64::from(input) | u64::from(input) << 32, 4)
}

/// The hash of the 8 little-endian bytes of `input`.
#[inline(always)]
pub(super) fn hash_8(input: u64) -> u64 {
    mix_4_to_8(input.rotate_left(32), 8)
}

/// The hash of 9 to 16 bytes, of which `first` are the first 8 and `last` the last 8, overlapping.
#[inline(always)]
pub(super) fn hash_9_to_16(first: u64, last: u64, bytes: usize) -> u64 {
    let low = first ^ SECRET[2] ^ SECRET[3];
    let high = last ^ SECRET[4] ^ SECRET[5];
    let product = u128::from(low) * u128::from(high);
    let mut hash = (bytes as u64)
        .wrapping_add(low.swap_bytes())
        .wrapping_add(high)
        .wrapping_add(product as u64 ^ (product >> 64) as u64);
    hash ^= hash >> 37;
    hash = hash.wrapping_mul(0x1656_6791_9e37_79f9);
    hash ^ hash >> 32
}

/// The hash of `input`, whose length is known when this is compiled.
#[inline(always)]
pub(super) fn hash_short(input: &[u8]) -> u64 {
    match (input.first_chunk::<8>(), input.last_chunk::<8>()) {
        (Some(only), _) if input.len() == 8 => hash_8(u64::from_le_bytes(*only)),
        (Some(first), Some(last)) if input.len() <= 16 => {
            hash_9_to_16(u64::from_le_bytes(*first), u64::from_le_bytes(*last), input.len())
        }
        _ => match input.first_chunk::<4>() {
            Some(only) if input.len() == 4 => hash_4(u32::from_le_bytes(*only)),
            _ => super::hash_bytes(input),
        },
    }
}
