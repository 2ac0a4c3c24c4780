//! [`Scoped`]: a key that names more than the user's key, such as a namespace or the number of a chunk.
//!
//! Always true:
//! - a scoped key lies in the key group of the key that it scopes, so both move together when a job is rescaled;
//! - the hash of the *zero* scope, the one whose encoding is all zeros (0, `false`, empty text), is that of
//!   the plain key: who announces the plain key announces that row too.

use crate::codec::{Data, DecodeError, Schema};
use crate::key_group::KeyGroups;

/// `key` with a `scope` within it.
///
/// Scopes nest: `Scoped<Scoped<K, N>, u32>` is a chunk of the state of key K in namespace N.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scoped<Q, X> {
    /// What is scoped: the user's key, or a scoped key itself.
    pub key: Q,
    /// What of it is meant.
    pub scope: X,
}

impl<Q: Data, X: Data> Scoped<Q, X> {
    /// `scope` of `key`.
    pub fn new(key: Q, scope: X) -> Self {
        Scoped { key, scope }
    }

    /// The [`Data::group_hash`] of `scope` within a key whose own is `hash`: without hashing that key again.
    #[inline(always)]
    pub fn hash_within(hash: u64, scope: &X, groups: KeyGroups) -> u64 {
        let scope_hash = scope.key_hash() ^ zero_hash::<X>();
        if scope_hash == 0 {
            return hash;
        }
        // Turned, so that key and scope of one type are not the same the other way round.
        let mut mixed = (hash.rotate_left(32) ^ scope_hash).wrapping_mul(0x9fb2_1c65_1e98_df25);
        mixed ^= mixed >> 29;
        mixed = mixed.wrapping_mul(0x1656_6791_9e37_79f9);
        groups.moved_to(mixed ^ mixed >> 32, groups.group_of(hash))
    }
}

/// The hash of the value whose encoding is all zeros; any number for a type without one.
#[inline(always)]
fn zero_hash<X: Data>() -> u64 {
    const ZEROS: [u8; 64] = [0; 64];
    X::decode(&mut &ZEROS[..X::FIXED_BYTES.unwrap_or(64).min(64)]).map_or(0, |zero| zero.key_hash())
}

impl<Q: Data, X: Data> Data for Scoped<Q, X> {
    const FIXED_BYTES: Option<usize> = match (Q::FIXED_BYTES, X::FIXED_BYTES) {
        (Some(key), Some(scope)) => Some(key + scope),
        _ => None,
    };

    fn schema() -> Schema {
        <(Q, X)>::schema()
    }

    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        self.key.encode(out);
        self.scope.encode(out);
    }

    #[inline]
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Scoped { key: Q::decode(input)?, scope: X::decode(input)? })
    }

    #[inline]
    fn encode_fixed(&self, out: &mut [u8]) {
        let (key, scope) = out.split_at_mut(Q::FIXED_BYTES.unwrap_or(0));
        self.key.encode_fixed(key);
        self.scope.encode_fixed(scope);
    }

    #[inline(always)]
    fn group_hash(&self, groups: KeyGroups) -> u64 {
        Self::hash_within(self.key.group_hash(groups), &self.scope, groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn scopes_of_one_key_share_its_group_and_differ_in_hash() {
        for count in [1, 7, 77, 128, 32_768] {
            let groups = KeyGroups::new(count);
            let mut hashes = HashSet::new();
            for key in 0..50u64 {
                for namespace in 0..10u64 {
                    for chunk in 0..20u32 {
                        let scoped = Scoped::new(Scoped::new(key, namespace), chunk);
                        let hash = scoped.group_hash(groups);
                        assert_eq!(groups.group_of(hash), groups.group_of(key.key_hash()));
                        assert!(hashes.insert(hash), "{scoped:?} has a hash of its own");
                    }
                }
            }
        }
    }

    #[test]
    fn the_zero_scope_has_the_hash_of_the_key() {
        let groups = KeyGroups::new(128);
        let key = "user".to_owned();
        let hash = key.key_hash();
        assert_eq!(Scoped::new(key.clone(), 0u32).group_hash(groups), hash);
        assert_eq!(Scoped::new(key.clone(), ()).group_hash(groups), hash);
        assert_eq!(Scoped::new(key.clone(), String::new()).group_hash(groups), hash);
        assert_eq!(Scoped::new(key.clone(), (0i64, 0i64)).group_hash(groups), hash);
        assert_eq!(Scoped::new(Scoped::new(key.clone(), 0u64), 0u32).group_hash(groups), hash);
        assert_ne!(Scoped::new(key, 1u32).group_hash(groups), hash);
    }

    proptest! {
        #[test]
        fn prop_a_scoped_key_is_encoded_as_key_and_scope(key: u64, scope: (u32, String), number: u16) {
            let mut bytes = Vec::new();
            Scoped::new(key, scope.clone()).encode(&mut bytes);
            let mut parts = Vec::new();
            (key, scope.clone()).encode(&mut parts);
            prop_assert_eq!(&bytes, &parts);
            prop_assert_eq!(Scoped::decode(&mut &bytes[..]), Ok(Scoped::new(key, scope)));
            let fixed = Scoped::new(key, number);
            let mut bytes = [0; 10];
            fixed.encode_fixed(&mut bytes);
            prop_assert_eq!(Scoped::decode(&mut &bytes[..]), Ok(fixed));
        }
    }
}
