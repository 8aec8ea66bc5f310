//! Storage that grows in pages and never moves what it holds.
//!
//! A table that doubles stalls its shard while everything is copied; a page more costs the same at a thousand
//! entries and at ten million. Entries are named by a 4-byte index.

use crate::sys;

/// Entries of one page. A page of 64-byte records is 64 KiB.
const PAGE_ENTRIES: usize = 1024;

/// Where a list of vacant entries ends, and what no index ever is.
pub const NONE: u32 = u32::MAX;

/// Values of one type, each at an index of its own that stays its own until it is removed.
#[derive(Debug)]
pub struct Slab<T> {
    pages: Vec<Vec<Entry<T>>>,
    vacant: u32,
    len: usize,
}

#[derive(Debug)]
enum Entry<T> {
    Vacant { next: u32 },
    Occupied(T),
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), vacant: NONE, len: 0 }
    }
}

impl<T> Slab<T> {
    /// The bytes that one value takes here.
    pub const ENTRY_BYTES: usize = size_of::<Entry<T>>();

    /// The index at which the next value will be stored.
    pub fn next_index(&self) -> u32 {
        if self.vacant == NONE { self.index_end() } else { self.vacant }
    }

    /// Stores `value` at an index that was vacant.
    pub fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.vacant != NONE {
            let index = self.vacant;
            let entry = &mut self.pages[index as usize / PAGE_ENTRIES][index as usize % PAGE_ENTRIES];
            if let Entry::Vacant { next } = *entry {
                self.vacant = next;
            }
            *entry = Entry::Occupied(value);
            return index;
        }
        if self.pages.last().is_none_or(|page| page.len() == PAGE_ENTRIES) {
            self.pages.push(Vec::with_capacity(PAGE_ENTRIES));
        }
        let page = self.pages.len() - 1;
        let index = page * PAGE_ENTRIES + self.pages[page].len();
        self.pages[page].push(Entry::Occupied(value));
        index as u32
    }

    /// Takes out the value at `index`, if one is there.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let entry = self.pages.get_mut(index as usize / PAGE_ENTRIES)?.get_mut(index as usize % PAGE_ENTRIES)?;
        if matches!(entry, Entry::Vacant { .. }) {
            return None;
        }
        let Entry::Occupied(value) = std::mem::replace(entry, Entry::Vacant { next: self.vacant }) else { return None };
        self.vacant = index;
        self.len -= 1;
        Some(value)
    }

    /// The value at `index`, if one is there.
    pub fn get(&self, index: u32) -> Option<&T> {
        match self.pages.get(index as usize / PAGE_ENTRIES)?.get(index as usize % PAGE_ENTRIES)? {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant { .. } => None,
        }
    }

    /// The value at `index`, if one is there.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.pages.get_mut(index as usize / PAGE_ENTRIES)?.get_mut(index as usize % PAGE_ENTRIES)? {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant { .. } => None,
        }
    }

    /// Has the processor fetch the value at `index` into its caches, ahead of its use.
    pub fn prefetch(&self, index: u32) {
        if let Some(page) = self.pages.get(index as usize / PAGE_ENTRIES)
            && let Some(entry) = page.get(index as usize % PAGE_ENTRIES)
        {
            sys::prefetch(entry);
        }
    }

    /// How many values are stored.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// An index past every one in use: where a walk over all entries ends.
    pub fn index_end(&self) -> u32 {
        self.pages.last().map_or(0, |page| ((self.pages.len() - 1) * PAGE_ENTRIES + page.len()) as u32)
    }
}

/// Values of one type that are kept for some of another [`Slab`]'s, at the same indices. Pages without any are given
/// back.
#[derive(Debug)]
pub struct Companion<T> {
    pages: Vec<Option<Page<T>>>,
    held_pages: usize,
}

#[derive(Debug)]
struct Page<T> {
    entries: Box<[Option<T>]>,
    len: usize,
}

impl<T> Default for Companion<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), held_pages: 0 }
    }
}

impl<T> Companion<T> {
    /// Stores `value` at `index`; what was there comes out.
    pub fn insert(&mut self, index: u32, value: T) -> Option<T> {
        let (page, entry) = place(index);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| {
            self.held_pages += 1;
            Page { entries: (0..PAGE_ENTRIES).map(|_| None).collect(), len: 0 }
        });
        let before = page.entries[entry].replace(value);
        page.len += usize::from(before.is_none());
        before
    }

    /// Takes out the value at `index`, if one is there.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let (page, entry) = place(index);
        let slot = self.pages.get_mut(page)?;
        let page = slot.as_mut()?;
        let value = page.entries[entry].take()?;
        page.len -= 1;
        if page.len == 0 {
            *slot = None;
            self.held_pages -= 1;
        }
        Some(value)
    }

    /// The value at `index`, if one is there.
    pub fn get(&self, index: u32) -> Option<&T> {
        let (page, entry) = place(index);
        self.pages.get(page)?.as_ref()?.entries[entry].as_ref()
    }

    /// The value at `index`, if one is there.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (page, entry) = place(index);
        self.pages.get_mut(page)?.as_mut()?.entries[entry].as_mut()
    }

    /// Bytes of the pages that hold values.
    pub fn held_bytes(&self) -> usize {
        self.held_pages * PAGE_ENTRIES * size_of::<Option<T>>()
    }
}

/// The page of an index, and where in it.
fn place(index: u32) -> (usize, usize) {
    (index as usize / PAGE_ENTRIES, index as usize % PAGE_ENTRIES)
}

/// A value for each index of a [`Slab`], the default until it is set: what is kept for some settings alone and would
/// make every entry larger.
#[derive(Debug)]
pub struct Beside<T> {
    pages: Vec<Box<[T]>>,
}

impl<T> Default for Beside<T> {
    fn default() -> Self {
        Self { pages: Vec::new() }
    }
}

impl<T: Copy + Default> Beside<T> {
    /// The value at `index`.
    pub fn at(&mut self, index: u32) -> &mut T {
        let page = index as usize / PAGE_ENTRIES;
        while self.pages.len() <= page {
            self.pages.push(vec![T::default(); PAGE_ENTRIES].into_boxed_slice());
        }
        &mut self.pages[page][index as usize % PAGE_ENTRIES]
    }

    /// Bytes that the values take.
    pub fn held_bytes(&self) -> usize {
        self.pages.len() * PAGE_ENTRIES * size_of::<T>()
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    /// # Panics
    /// When nothing is stored at `index`: the index was kept past its value's end.
    fn index(&self, index: u32) -> &T {
        let Some(value) = self.get(index) else { panic!("no value at index {index}") };
        value
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    /// # Panics
    /// When nothing is stored at `index`: the index was kept past its value's end.
    fn index_mut(&mut self, index: u32) -> &mut T {
        let Some(value) = self.get_mut(index) else { panic!("no value at index {index}") };
        value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pages_are_filled_one_after_another() {
        let mut slab = Slab::default();
        for number in 0..3 * PAGE_ENTRIES as u32 {
            assert_eq!(slab.insert(number), number);
        }
        assert_eq!(slab.remove(5), Some(5));
        assert_eq!((slab.remove(5), slab.get(5)), (None, None));
        assert_eq!(slab.insert(7), 5);
        assert_eq!((slab[5], slab.index_end()), (7, 3 * PAGE_ENTRIES as u32));
    }

    #[test]
    fn a_companion_holds_no_page_that_is_empty() {
        let page_bytes = PAGE_ENTRIES * size_of::<Option<u32>>();
        let mut companion = Companion::default();
        let (first, far) = (3, 5 * PAGE_ENTRIES as u32);
        assert_eq!(
            (companion.insert(far, 1), companion.insert(first, 2), companion.insert(first, 3)),
            (None, None, Some(2))
        );
        assert_eq!(companion.held_bytes(), 2 * page_bytes);
        assert_eq!((companion.remove(first), companion.remove(first)), (Some(3), None));
        assert_eq!((companion.held_bytes(), companion.get(far)), (page_bytes, Some(&1)));
        assert_eq!((companion.remove(far), companion.held_bytes()), (Some(1), 0));
    }

    proptest! {
        #[test]
        fn a_companion_holds_what_a_map_holds(
            steps in prop::collection::vec((any::<bool>(), 1_000_u32..1_050), 0..200),
        ) {
            let (mut companion, mut model) = (Companion::default(), BTreeMap::new());
            for (step, (inserts, index)) in steps.into_iter().enumerate() {
                if inserts {
                    prop_assert_eq!(companion.insert(index, step), model.insert(index, step));
                } else {
                    prop_assert_eq!(companion.remove(index), model.remove(&index));
                }
                for index in 1_000..1_050 {
                    prop_assert_eq!(companion.get(index), model.get(&index));
                    prop_assert_eq!(companion.get_mut(index), model.get_mut(&index));
                }
                let pages: std::collections::BTreeSet<_> = model.keys().map(|index| place(*index).0).collect();
                prop_assert_eq!(companion.held_bytes(), pages.len() * PAGE_ENTRIES * size_of::<Option<usize>>());
            }
        }

        #[test]
        fn it_holds_what_a_map_holds(steps in prop::collection::vec((any::<bool>(), 0_u32..40), 0..200)) {
            let (mut slab, mut model) = (Slab::default(), BTreeMap::new());
            for (inserts, number) in steps {
                if inserts {
                    let next = slab.next_index();
                    let index = slab.insert(number);
                    prop_assert_eq!(index, next);
                    prop_assert_eq!(model.insert(index, number), None);
                } else {
                    prop_assert_eq!(slab.remove(number), model.remove(&number));
                }
                prop_assert_eq!(slab.len(), model.len());
                for index in 0..slab.index_end() {
                    prop_assert_eq!(slab.get(index), model.get(&index));
                }
            }
        }
    }
}
