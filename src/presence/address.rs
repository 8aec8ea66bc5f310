//! How many connections each address has, over all shards.
//!
//! An address is counted in the partition of its hash. The shard of a connection tells it after the upgrade and after
//! the end, so that a burst within one such hop passes, and is closed then.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::protocol::address::AddressKey;

/// How many tables share the addresses, so that no growth moves more than a small part of them.
const SEGMENTS: usize = 256;

/// The connections of the addresses whose hash falls to this partition.
#[derive(Debug)]
pub struct Addresses {
    connections_max: u32,
    hasher: RandomState,
    segments: Vec<HashTable<(AddressKey, u32)>>,
    len: usize,
}

impl Addresses {
    /// Nobody; an address may have up to `connections_max` connections.
    pub fn new(connections_max: usize) -> Self {
        let segments = (0..SEGMENTS).map(|_| HashTable::new()).collect();
        let connections_max = u32::try_from(connections_max).unwrap_or(u32::MAX);
        Self { connections_max, hasher: RandomState::new(), segments, len: 0 }
    }

    /// A connection from `address` opened; false when it is one too many. It counts until it ends all the same.
    pub fn opened(&mut self, address: AddressKey) -> bool {
        let hash = self.hasher.hash_one(address);
        let segment = &mut self.segments[segment_of(hash)];
        let hash_of = |&(address, _): &(AddressKey, u32)| self.hasher.hash_one(address);
        let mut entry = segment.entry(hash, |&(known, _)| known == address, hash_of).or_insert_with(|| {
            self.len += 1;
            (address, 0)
        });
        let (_, connections) = entry.get_mut();
        *connections += 1;
        *connections <= self.connections_max
    }

    /// A connection from `address` ended.
    pub fn ended(&mut self, address: AddressKey) {
        let hash = self.hasher.hash_one(address);
        let segment = &mut self.segments[segment_of(hash)];
        let Ok(mut entry) = segment.find_entry(hash, |&(known, _)| known == address) else { return };
        let (_, connections) = entry.get_mut();
        *connections -= 1;
        if *connections == 0 {
            entry.remove();
            self.len -= 1;
        }
    }

    /// Bytes that the addresses take, on the average of their tables' doublings.
    pub fn held_bytes(&self) -> usize {
        self.len * size_of::<(AddressKey, u32)>() * 3 / 2
    }

    /// Whether no address has a connection.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// hashbrown takes a hash's lowest bits for the place and its highest seven for the tag: the segment is in between.
fn segment_of(hash: u64) -> usize {
    (hash >> 40) as usize % SEGMENTS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn address(number: u32) -> AddressKey {
        AddressKey::from(IpAddr::from(Ipv4Addr::from_bits(number)))
    }

    #[test]
    fn one_too_many_is_told_and_counts_until_it_ends() {
        let mut addresses = Addresses::new(2);
        assert!(addresses.opened(address(1)) && addresses.opened(address(1)) && addresses.opened(address(2)));
        assert!(!addresses.opened(address(1)));
        addresses.ended(address(1));
        assert!(!addresses.opened(address(1)));
        addresses.ended(address(1));
        addresses.ended(address(1));
        assert!(addresses.opened(address(1)));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map_of_counts(steps in prop::collection::vec((any::<bool>(), 0_u32..40), 0..400)) {
            let (mut addresses, mut model) = (Addresses::new(3), BTreeMap::<u32, u32>::new());
            for (opens, number) in steps {
                let connections = model.entry(number).or_default();
                if opens {
                    *connections += 1;
                    prop_assert_eq!(addresses.opened(address(number)), *connections <= 3);
                } else if *connections > 0 {
                    *connections -= 1;
                    addresses.ended(address(number));
                }
                prop_assert_eq!(addresses.is_empty(), model.values().all(|&connections| connections == 0));
            }
            let known = model.values().filter(|&&connections| connections > 0).count();
            prop_assert_eq!(addresses.held_bytes(), known * 24);
        }
    }
}
