//! When to look at which connection again: a timer wheel (Varghese & Lauck, "Hashed and Hierarchical Timing
//! Wheels", 1987, scheme 6) of one level.
//!
//! An entry stays where it is while its connection lives on; when it comes due, the core looks at the connection and
//! files it anew or ends it. So hearing from a connection costs the wheel nothing. What is due beyond the wheel's
//! horizon comes up early and is filed again, for the same price.
//!
//! Slots are lists linked through 12 bytes an entry: filing, moving and removing take no search and no allocation.

use crate::slab::NONE;

/// Slots of the wheel: with a tick of 100 ms a horizon of 102 s, beyond every default.
const SLOTS: u64 = 1024;

/// Links of one page.
const PAGE_LINKS: usize = 4096;

/// Entries, named by small integers, each filed under at most one due time. Times are milliseconds of one clock.
#[derive(Debug)]
pub struct Wheel {
    tick_ms: u64,
    /// The tick whose slot is being emptied; entries are filed under later ticks only.
    current: u64,
    heads: Vec<u32>,
    /// A bit for each slot that is not empty.
    occupied: [u64; (SLOTS / 64) as usize],
    pages: Vec<Box<[Link]>>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
    /// The tick under which the entry is filed, modulo 2^32; [`NONE`] while it is not filed.
    tick: u32,
}

const VACANT: Link = Link { next: NONE, previous: NONE, tick: NONE };

const _: () = assert!(size_of::<Link>() == 12);

impl Wheel {
    /// The bytes that an entry takes, filed or not.
    pub const ENTRY_BYTES: usize = size_of::<Link>();

    /// An empty wheel at `now_ms` whose entries come due in steps of `tick_ms`, at least 1.
    pub fn new(tick_ms: u64, now_ms: u64) -> Self {
        let tick_ms = tick_ms.max(1);
        Self {
            tick_ms,
            current: now_ms / tick_ms,
            heads: vec![NONE; SLOTS as usize],
            occupied: [0; (SLOTS / 64) as usize],
            pages: Vec::new(),
        }
    }

    /// Files `entry` to come up at `due_ms`, rounded up to a tick; wherever it was filed, it is no longer.
    pub fn schedule(&mut self, entry: u32, due_ms: u64) {
        self.cancel(entry);
        let tick = self.tick_of(due_ms);
        while self.pages.len() <= entry as usize / PAGE_LINKS {
            self.pages.push(vec![VACANT; PAGE_LINKS].into_boxed_slice());
        }
        let slot = (tick % SLOTS) as usize;
        let next = std::mem::replace(&mut self.heads[slot], entry);
        *self.link(entry) = Link { next, previous: NONE, tick: tick as u32 };
        if next != NONE {
            self.link(next).previous = entry;
        }
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// Files `entry` to come up at `due_ms` unless it comes up sooner anyway.
    pub fn hasten(&mut self, entry: u32, due_ms: u64) {
        let tick = self.tick_of(due_ms);
        let filed = self.filed(entry);
        if filed == NONE || self.ahead(filed) > tick - self.current {
            self.schedule(entry, due_ms);
        }
    }

    /// Takes `entry` out, if it is filed.
    pub fn cancel(&mut self, entry: u32) {
        if self.filed(entry) == NONE {
            return;
        }
        let Link { next, previous, tick } = std::mem::replace(self.link(entry), VACANT);
        if next != NONE {
            self.link(next).previous = previous;
        }
        if previous != NONE {
            self.link(previous).next = next;
            return;
        }
        let slot = (u64::from(tick) % SLOTS) as usize;
        self.heads[slot] = next;
        if next == NONE {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
    }

    /// Takes out an entry that has come due by `now_ms`, those of earlier ticks first.
    ///
    /// An entry filed beyond the horizon comes up before it is due.
    pub fn pop(&mut self, now_ms: u64) -> Option<u32> {
        let now = now_ms / self.tick_ms;
        while self.current <= now {
            let head = self.heads[(self.current % SLOTS) as usize];
            if head != NONE {
                self.cancel(head);
                return Some(head);
            }
            if self.current == now {
                break;
            }
            self.current = match self.next_tick() {
                Some(tick) => tick.min(now),
                None => now,
            };
        }
        None
    }

    /// When the next entry comes up, in milliseconds; `None` when nothing is filed.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.next_tick().map(|tick| tick * self.tick_ms)
    }

    /// The first tick from the current one on under which something is filed.
    fn next_tick(&self) -> Option<u64> {
        let start = self.current % SLOTS;
        let words = self.occupied.len() as u64;
        // One word more than there are: the first is looked at twice, its higher bits first, its lower ones last.
        (0..=words).find_map(|step| {
            let word = (start / 64 + step) % words;
            let mask = match step {
                0 => u64::MAX << (start % 64),
                _ if step == words => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let bits = self.occupied[word as usize] & mask;
            let slot = word * 64 + u64::from(bits.trailing_zeros());
            (bits != 0).then(|| self.current + (slot + SLOTS - start) % SLOTS)
        })
    }

    /// The tick under which something due at `due_ms` is filed: after the current one, within the horizon.
    fn tick_of(&self, due_ms: u64) -> u64 {
        let tick = due_ms.div_ceil(self.tick_ms).clamp(self.current + 1, self.current + SLOTS - 1);
        // One tick in 2^32 has the number that stands for "not filed".
        if tick as u32 == NONE { tick + 1 } else { tick }
    }

    /// How many ticks after the current one `tick`, known modulo 2^32, lies.
    fn ahead(&self, tick: u32) -> u64 {
        u64::from(tick.wrapping_sub(self.current as u32))
    }

    fn filed(&self, entry: u32) -> u32 {
        self.pages.get(entry as usize / PAGE_LINKS).map_or(NONE, |page| page[entry as usize % PAGE_LINKS].tick)
    }

    fn link(&mut self, entry: u32) -> &mut Link {
        &mut self.pages[entry as usize / PAGE_LINKS][entry as usize % PAGE_LINKS]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_comes_up_at_its_tick_and_not_before() {
        let mut wheel = Wheel::new(100, 0);
        wheel.schedule(7, 250);
        assert_eq!(wheel.next_due_ms(), Some(300));
        assert_eq!(wheel.pop(299), None);
        assert_eq!(wheel.pop(300), Some(7));
        assert_eq!((wheel.pop(10_000), wheel.next_due_ms()), (None, None));
    }

    #[test]
    fn what_is_due_already_comes_up_with_the_next_tick() {
        let mut wheel = Wheel::new(100, 5_000);
        wheel.schedule(1, 10);
        assert_eq!((wheel.pop(5_099), wheel.pop(5_100)), (None, Some(1)));
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let mut wheel = Wheel::new(100, 0);
        for entry in 0..2_000 {
            wheel.schedule(entry, u64::from(entry) * 40);
        }
        let mut popped: Vec<u32> = std::iter::from_fn(|| wheel.pop(100_000_000)).collect();
        popped.sort_unstable();
        assert_eq!(popped, (0..2_000).collect::<Vec<_>>());
    }

    #[test]
    fn ticks_past_two_to_the_thirty_second_are_told_apart() {
        let start = u64::from(u32::MAX) * 10 - 20;
        let mut wheel = Wheel::new(10, start);
        wheel.schedule(1, start + 100);
        wheel.hasten(1, start + 50);
        wheel.hasten(1, start + 200);
        assert_eq!((wheel.pop(start + 40), wheel.pop(start + 60)), (None, Some(1)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        Hasten(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_sorted_map(steps in prop::collection::vec(prop_oneof![
            (0_u32..20, 0_u64..90_000).prop_map(|(entry, after)| Step::Schedule(entry, after)),
            (0_u32..20, 0_u64..90_000).prop_map(|(entry, after)| Step::Hasten(entry, after)),
            (0_u32..20).prop_map(Step::Cancel),
            (0_u64..40_000).prop_map(Step::Advance),
        ], 0..80)) {
            const TICK_MS: u64 = 100;
            let (mut wheel, mut model, mut now) = (Wheel::new(TICK_MS, 0), BTreeMap::<u32, u64>::new(), 0_u64);
            for step in steps {
                // The model keeps the tick at which an entry must come up, in milliseconds.
                let up = |after: u64, now: u64| (now + after).div_ceil(TICK_MS).max(now / TICK_MS + 1) * TICK_MS;
                match step {
                    Step::Schedule(entry, after) => {
                        wheel.schedule(entry, now + after);
                        model.insert(entry, up(after, now));
                    }
                    Step::Hasten(entry, after) => {
                        wheel.hasten(entry, now + after);
                        let due = model.entry(entry).or_insert(u64::MAX);
                        *due = up(after, now).min(*due);
                    }
                    Step::Cancel(entry) => {
                        wheel.cancel(entry);
                        model.remove(&entry);
                    }
                    Step::Advance(by) => {
                        now += by;
                        let mut popped: Vec<u32> = std::iter::from_fn(|| wheel.pop(now)).collect();
                        popped.sort_unstable();
                        let due: Vec<u32> = model.iter().filter(|(_, due)| **due <= now).map(|(entry, _)| *entry).collect();
                        model.retain(|_, due| *due > now);
                        prop_assert_eq!(popped, due);
                    }
                }
                prop_assert_eq!(wheel.next_due_ms(), model.values().min().copied());
            }
        }
    }
}
