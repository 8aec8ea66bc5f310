//! What each connection and each address of a shard may still do.

use std::collections::HashMap;

use crate::protocol::address::AddressKey;
use crate::rate::{Bucket, Rate, Taken};
use crate::slab::Beside;

/// A bucket for each connection of a shard, by its slot.
#[derive(Debug)]
pub struct ConnectionRates {
    rate: Rate,
    buckets: Beside<Bucket>,
}

impl ConnectionRates {
    /// Full buckets for all.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: Beside::default() }
    }

    /// Fills the bucket of a connection that is new in its slot.
    pub fn fill(&mut self, index: u32) {
        *self.buckets.at(index) = Bucket::default();
    }

    /// Takes one out of a connection's bucket, owing it where there is none.
    pub fn owe(&mut self, index: u32, now_ns: u64) -> Taken {
        self.buckets.at(index).owe(self.rate, now_ns)
    }

    /// Bytes that the buckets take.
    pub fn held_bytes(&self) -> usize {
        self.buckets.held_bytes()
    }
}

/// Addresses of one generation.
const GENERATION_ADDRESSES: usize = 32 * 1024;

/// A bucket for each address that lately took from it.
///
/// Bounded: there are two generations, and when the young one is full the old one is forgotten. So at least
/// [`GENERATION_ADDRESSES`] others must come before an address gets a full bucket before its time.
#[derive(Debug)]
pub struct AddressRates {
    rate: Rate,
    young: HashMap<AddressKey, Bucket>,
    old: HashMap<AddressKey, Bucket>,
}

impl AddressRates {
    /// Full buckets for all.
    pub fn new(rate: Rate) -> Self {
        let generation = || HashMap::with_capacity(GENERATION_ADDRESSES);
        Self { rate, young: generation(), old: generation() }
    }

    /// Takes one out of an address's bucket, if there is one.
    pub fn take(&mut self, address: AddressKey, now_ns: u64) -> bool {
        if let Some(bucket) = self.young.get_mut(&address) {
            return bucket.take(self.rate, now_ns);
        }
        let mut bucket = self.old.get(&address).copied().unwrap_or_default();
        let has_one = bucket.take(self.rate, now_ns);
        if self.young.len() == GENERATION_ADDRESSES {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(address, bucket);
        has_one
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const MS: u64 = 1_000_000;

    fn address(number: u32) -> AddressKey {
        AddressKey::from(IpAddr::from(Ipv4Addr::from_bits(number)))
    }

    #[test]
    fn connections_and_addresses_have_buckets_of_their_own() {
        let rate = Rate::new(1, 1).unwrap();
        let mut connections = ConnectionRates::new(rate);
        for index in [0, 5_000] {
            connections.fill(index);
            assert_eq!((connections.owe(index, 0), connections.owe(index, 0)), (Taken::Within, Taken::Over));
        }
        assert_eq!(connections.held_bytes(), 5 * 8 * 1024);
        connections.fill(5_000);
        assert_eq!(connections.owe(5_000, 0), Taken::Within);
        let mut addresses = AddressRates::new(rate);
        assert!(addresses.take(address(1), 0) && addresses.take(address(2), 0));
        assert!(!addresses.take(address(1), 0) && addresses.take(address(1), 1_000 * MS));
    }

    #[test]
    fn addresses_are_remembered_for_at_least_a_generation_and_bounded_by_two() {
        let mut addresses = AddressRates::new(Rate::new(1, 1).unwrap());
        assert!(addresses.take(address(0), 0));
        for other in 1..GENERATION_ADDRESSES as u32 {
            assert!(addresses.take(address(other), 0));
        }
        assert!(!addresses.take(address(0), 0));
        for other in 0..5 * GENERATION_ADDRESSES as u32 {
            addresses.take(address(other), 0);
        }
        assert!(addresses.young.len() + addresses.old.len() <= 2 * GENERATION_ADDRESSES);
        assert!(addresses.take(address(0), 0));
    }
}
