//! From a hash to a slab's index, growing in pieces.

use hashbrown::HashTable;

/// How many tables share the entries. Each doubles by itself, so that at a million entries a growth moves about
/// four thousand and not all.
const SEGMENTS: usize = 256;

/// Indices found by the hash of what they name; the keys live in the records.
#[derive(Debug)]
pub struct Index {
    segments: Vec<HashTable<u32>>,
}

impl Default for Index {
    fn default() -> Self {
        Self { segments: (0..SEGMENTS).map(|_| HashTable::new()).collect() }
    }
}

impl Index {
    /// The index under `hash` for which `is_it` holds.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.segments[segment(hash)].find(hash, |&index| is_it(index)).copied()
    }

    /// Adds `index` under `hash`, which is not there yet; `hash_of` tells the hash of those that are.
    pub fn insert(&mut self, hash: u64, index: u32, hash_of: impl Fn(u32) -> u64) {
        self.segments[segment(hash)].insert_unique(hash, index, |&other| hash_of(other));
    }

    /// Takes out `index`, which stands under `hash`.
    pub fn remove(&mut self, hash: u64, index: u32) {
        if let Ok(entry) = self.segments[segment(hash)].find_entry(hash, |&other| other == index) {
            entry.remove();
        }
    }

    /// How many indices there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.segments.iter().map(HashTable::len).sum()
    }
}

/// hashbrown takes a hash's lowest bits for the place and its highest seven for the tag: the segment is in between.
fn segment(hash: u64) -> usize {
    (hash >> 40) as usize % SEGMENTS
}
