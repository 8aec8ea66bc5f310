//! Who has been gone for how long: a list through the records themselves, so that it costs no allocation.

use crate::slab::{NONE, Slab};

/// A record's neighbours in the list.
#[derive(Clone, Copy, Debug)]
pub struct GoneLinks {
    longer: u32,
    shorter: u32,
}

impl Default for GoneLinks {
    fn default() -> Self {
        Self { longer: NONE, shorter: NONE }
    }
}

/// Records in the order in which they were put here.
#[derive(Debug)]
pub struct Gone {
    longest: u32,
    shortest: u32,
    len: usize,
}

impl Default for Gone {
    fn default() -> Self {
        Self { longest: NONE, shortest: NONE, len: 0 }
    }
}

impl Gone {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Puts `index`, which is not here, behind all others.
    pub fn push<T: AsMut<GoneLinks>>(&mut self, records: &mut Slab<T>, index: u32) {
        let longer = std::mem::replace(&mut self.shortest, index);
        *records[index].as_mut() = GoneLinks { longer, shorter: NONE };
        match records.get_mut(longer) {
            Some(record) => record.as_mut().shorter = index,
            None => self.longest = index,
        }
        self.len += 1;
    }

    /// Takes `index` out, if it is here.
    pub fn remove<T: AsMut<GoneLinks>>(&mut self, records: &mut Slab<T>, index: u32) {
        let GoneLinks { longer, shorter } = std::mem::take(records[index].as_mut());
        if longer == NONE && self.longest != index {
            return;
        }
        match records.get_mut(longer) {
            Some(record) => record.as_mut().shorter = shorter,
            None => self.longest = shorter,
        }
        match records.get_mut(shorter) {
            Some(record) => record.as_mut().longer = longer,
            None => self.shortest = longer,
        }
        self.len -= 1;
    }

    /// Takes out the one that has been here for the longest.
    pub fn pop_oldest<T: AsMut<GoneLinks>>(&mut self, records: &mut Slab<T>) -> Option<u32> {
        let oldest = Some(self.longest).filter(|&index| index != NONE)?;
        self.remove(records, oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Record(GoneLinks);

    impl AsMut<GoneLinks> for Record {
        fn as_mut(&mut self) -> &mut GoneLinks {
            &mut self.0
        }
    }

    proptest! {
        #[test]
        fn it_is_a_queue_from_which_anyone_may_go(steps in prop::collection::vec((0..3, 0_u32..6), 0..60)) {
            let mut records = Slab::default();
            for _ in 0..6 {
                records.insert(Record::default());
            }
            let (mut gone, mut model) = (Gone::default(), VecDeque::new());
            for (step, index) in steps {
                match step {
                    0 if !model.contains(&index) => {
                        gone.push(&mut records, index);
                        model.push_back(index);
                    }
                    1 => {
                        gone.remove(&mut records, index);
                        model.retain(|&other| other != index);
                    }
                    _ => prop_assert_eq!(gone.pop_oldest(&mut records), model.pop_front()),
                }
                prop_assert_eq!(gone.len(), model.len());
            }
        }
    }
}
