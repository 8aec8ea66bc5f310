//! Users that change their status faster than others are told: what they say is put off, and the newest wins.
//!
//! Nothing is refused. A change that is put off is made when the user's bucket has one again, so that whoever watches
//! sees the state that lasts and not each step towards it.

use std::collections::{HashMap, VecDeque};

use crate::protocol::message::MetadataUpdate;
use crate::protocol::status::Status;
use crate::rate::{Bucket, Rate};

/// How many buckets there are at least before those that are full again are looked for.
const BUCKETS_WORTH_SWEEPING: usize = 1024;

/// What a place says.
#[derive(Debug, PartialEq)]
pub struct Saying {
    /// Its status from now on.
    pub status: Status,
    /// What becomes of its metadata.
    pub metadata: MetadataUpdate,
}

impl Saying {
    fn metadata_bytes(&self) -> usize {
        match &self.metadata {
            MetadataUpdate::Replace(metadata) => metadata.as_str().len(),
            MetadataUpdate::Keep | MetadataUpdate::Clear => 0,
        }
    }

    /// This after `earlier`: the newest wins, and metadata that it keeps is what the earlier one made of it.
    fn after(self, earlier: Option<Self>) -> Self {
        match (self.metadata, earlier) {
            (MetadataUpdate::Keep, Some(earlier)) => Self { status: self.status, metadata: earlier.metadata },
            (metadata, _) => Self { status: self.status, metadata },
        }
    }
}

/// The pace of the users of one partition; users and places are named by their slots.
#[derive(Debug)]
pub struct Pace {
    rate: Rate,
    buckets: HashMap<u32, Bucket>,
    sweep_at: usize,
    /// What was put off, by place, with the user.
    put_off: HashMap<u32, (u32, Saying)>,
    /// When what was put off is looked at, in order; places that have said it since are passed over.
    due: VecDeque<(u64, u32)>,
    /// Bytes of metadata that was put off.
    metadata_bytes: usize,
    /// How often something was put off.
    count: u64,
}

impl Pace {
    /// Users may change as `rate` has it.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: HashMap::new(),
            sweep_at: BUCKETS_WORTH_SWEEPING,
            put_off: HashMap::new(),
            due: VecDeque::new(),
            metadata_bytes: 0,
            count: 0,
        }
    }

    /// What `place` of `user` says, given back when it may say so now; else it is put off.
    pub fn offer(&mut self, now_ms: u64, user: u32, place: u32, saying: Saying) -> Option<Saying> {
        let earlier = self.take_put_off(place);
        let is_queued = earlier.is_some();
        let saying = saying.after(earlier);
        if self.take(now_ms, user) {
            return Some(saying);
        }
        self.count += 1;
        self.metadata_bytes += saying.metadata_bytes();
        self.put_off.insert(place, (user, saying));
        if !is_queued {
            self.queue(now_ms, place);
        }
        None
    }

    /// The next place that may now say what was put off, and what that is.
    pub fn next_due(&mut self, now_ms: u64) -> Option<(u32, Saying)> {
        while let Some(&(due_ms, place)) = self.due.front()
            && due_ms <= now_ms
        {
            self.due.pop_front();
            let Some(&(user, _)) = self.put_off.get(&place) else { continue };
            if self.take(now_ms, user) {
                return self.take_put_off(place).map(|saying| (place, saying));
            }
            // Another place of the user's was first.
            self.queue(now_ms, place);
        }
        None
    }

    /// When [`Pace::next_due`] has something to look at.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.due.front().map(|&(due_ms, _)| due_ms)
    }

    /// What was put off for `place`, which says no more of its own accord: said now, or thrown away.
    pub fn take_put_off(&mut self, place: u32) -> Option<Saying> {
        let (_, saying) = self.put_off.remove(&place)?;
        self.metadata_bytes -= saying.metadata_bytes();
        Some(saying)
    }

    /// How often something was put off since this was last asked.
    pub fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }

    /// The user is gone, and its slot another's.
    pub fn forget(&mut self, user: u32) {
        self.buckets.remove(&user);
    }

    /// Bytes that this takes.
    pub fn held_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<(u32, Bucket)>()
            + self.put_off.capacity() * size_of::<(u32, (u32, Saying))>()
            + self.due.capacity() * size_of::<(u64, u32)>()
            + self.metadata_bytes
    }

    fn queue(&mut self, now_ms: u64, place: u32) {
        self.due.push_back((now_ms + self.rate.interval_ms(), place));
    }

    fn take(&mut self, now_ms: u64, user: u32) -> bool {
        let now_ns = now_ms * 1_000_000;
        if self.buckets.len() >= self.sweep_at {
            self.buckets.retain(|_, bucket| !bucket.is_full(now_ns));
            self.sweep_at = (self.buckets.len() * 2).max(BUCKETS_WORTH_SWEEPING);
        }
        self.buckets.entry(user).or_default().take(self.rate, now_ns)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn saying(status: Status, clears: bool) -> Saying {
        Saying { status, metadata: if clears { MetadataUpdate::Clear } else { MetadataUpdate::Keep } }
    }

    #[test]
    fn what_comes_too_fast_is_put_off_and_the_newest_wins() {
        let mut pace = Pace::new(Rate::new(2, 2).unwrap());
        assert!(pace.offer(0, 1, 10, saying(Status::Away, false)).is_some());
        assert!(pace.offer(0, 1, 10, saying(Status::Online, false)).is_some());
        assert!(pace.offer(0, 1, 10, saying(Status::Busy, true)).is_none());
        assert!(pace.offer(100, 1, 10, saying(Status::Away, false)).is_none());
        assert!(pace.offer(100, 2, 20, saying(Status::Away, false)).is_some());
        assert_eq!((pace.deadline_ms(), pace.next_due(499)), (Some(500), None));
        assert_eq!(pace.next_due(500), Some((10, saying(Status::Away, true))));
        assert_eq!((pace.deadline_ms(), pace.next_due(5_000)), (None, None));
    }

    #[test]
    fn a_place_that_ends_takes_what_was_put_off_with_it() {
        let mut pace = Pace::new(Rate::new(1, 1).unwrap());
        assert!(pace.offer(0, 1, 10, saying(Status::Away, false)).is_some());
        assert!(pace.offer(0, 1, 10, saying(Status::Busy, false)).is_none());
        assert_eq!(pace.take_put_off(10), Some(saying(Status::Busy, false)));
        assert_eq!(pace.next_due(10_000), None);
    }

    #[test]
    fn buckets_that_are_full_again_are_swept_out() {
        let mut pace = Pace::new(Rate::new(1_000, 1).unwrap());
        for user in 0..100_000 {
            assert!(pace.offer(u64::from(user), user, user, saying(Status::Away, false)).is_some());
            assert!(pace.buckets.len() <= BUCKETS_WORTH_SWEEPING);
        }
    }

    proptest! {
        #[test]
        fn the_last_word_is_said_in_the_end_and_none_before_its_time(
            steps in prop::collection::vec((0_u64..300, 0_u32..6, 0_usize..3, any::<bool>()), 0..200),
        ) {
            let statuses = [Status::Online, Status::Away, Status::Busy];
            let mut pace = Pace::new(Rate::new(5, 3).unwrap());
            let (mut said, mut wanted) = (BTreeMap::new(), BTreeMap::new());
            let mut told: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
            let mut say = |now_ms, place: u32, saying: Saying| {
                told.entry(place / 2).or_default().push(now_ms);
                let cleared = said.get(&place).is_some_and(|&(_, cleared)| cleared) && saying.metadata == MetadataUpdate::Keep;
                said.insert(place, (saying.status, cleared || saying.metadata == MetadataUpdate::Clear));
            };
            let mut now_ms = 0;
            for (pause_ms, place, status, clears) in steps {
                now_ms += pause_ms;
                while let Some((place, saying)) = pace.next_due(now_ms) {
                    say(now_ms, place, saying);
                }
                let cleared = wanted.get(&place).is_some_and(|&(_, cleared)| cleared);
                wanted.insert(place, (statuses[status], cleared || clears));
                if let Some(saying) = pace.offer(now_ms, place / 2, place, saying(statuses[status], clears)) {
                    say(now_ms, place, saying);
                }
            }
            while let Some(due_ms) = pace.deadline_ms() {
                now_ms = due_ms.max(now_ms);
                while let Some((place, saying)) = pace.next_due(now_ms) {
                    say(now_ms, place, saying);
                }
            }
            prop_assert_eq!(&said, &wanted);
            for times in told.values() {
                // A burst of three and five a second: any four lie 200 ms apart at least.
                prop_assert!(times.windows(4).all(|four| four[3] - four[0] >= 200), "{times:?}");
            }
        }
    }
}
