//! How often something may happen: token buckets of 8 bytes.
//!
//! A bucket is the time at which it will be full again: its level follows from `now`, nothing has to be refilled, and
//! one that is full is the same as none.

/// So many at once, and so many a second for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What one costs, in nanoseconds of refilling.
    interval_ns: u64,
    burst: u64,
}

const ONCE_A_SECOND: Rate = Rate { interval_ns: 1_000_000_000, burst: 1 };

impl Rate {
    /// `burst` at once and `per_second` for good; `None` where `per_second` is 0, which stands for no limit.
    pub fn new(per_second: usize, burst: usize) -> Option<Self> {
        (per_second > 0).then(|| Self { interval_ns: 1_000_000_000 / per_second as u64, burst: burst.max(1) as u64 })
    }

    /// The share of one in `sharers` among whom it is spread evenly; at least one at once.
    pub fn share(self, sharers: usize) -> Self {
        let sharers = sharers.max(1) as u64;
        Self { interval_ns: self.interval_ns.saturating_mul(sharers), burst: self.burst.div_ceil(sharers) }
    }

    /// How long one takes to come, in milliseconds, rounded up.
    pub fn interval_ms(self) -> u64 {
        self.interval_ns.div_ceil(1_000_000)
    }

    /// How long an empty bucket takes to fill, in nanoseconds.
    pub fn burst_ns(self) -> u64 {
        self.interval_ns.saturating_mul(self.burst)
    }
}

/// One bucket: when it will be full again, in nanoseconds of a clock that never runs backwards. The default is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket(u64);

/// What a bucket had for one who took from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Enough.
    Within,
    /// Nothing; it is owed.
    Over,
    /// Nothing, and as much as the bucket holds is owed already.
    FarOver,
}

impl Bucket {
    /// Takes one, owing it where there is none.
    pub fn owe(&mut self, rate: Rate, now_ns: u64) -> Taken {
        let full_ns = self.0.max(now_ns).saturating_add(rate.interval_ns);
        let level_ns = full_ns - now_ns;
        if level_ns > rate.burst_ns().saturating_mul(2) {
            return Taken::FarOver;
        }
        self.0 = full_ns;
        if level_ns > rate.burst_ns() { Taken::Over } else { Taken::Within }
    }

    /// Whether it is as good as none.
    pub fn is_full(self, now_ns: u64) -> bool {
        self.0 <= now_ns
    }

    /// Takes one if there is one.
    pub fn take(&mut self, rate: Rate, now_ns: u64) -> bool {
        let full_ns = self.0.max(now_ns).saturating_add(rate.interval_ns);
        let has_one = full_ns - now_ns <= rate.burst_ns();
        if has_one {
            self.0 = full_ns;
        }
        has_one
    }
}

/// What is said once a second at most however often it happens, such as a line of the log that clients can cause.
#[derive(Debug, Default)]
pub struct Seldom {
    bucket: Bucket,
    unsaid: u64,
}

impl Seldom {
    /// How many went unsaid since the last one that was said, where it is time for one more.
    pub fn say(&mut self, now_ns: u64) -> Option<u64> {
        if self.bucket.take(ONCE_A_SECOND, now_ns) {
            return Some(std::mem::take(&mut self.unsaid));
        }
        self.unsaid += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_burst_passes_and_then_one_each_interval() {
        let rate = Rate::new(10, 3).unwrap();
        let mut bucket = Bucket::default();
        let mut at = |ms: u64| bucket.take(rate, ms * MS);
        assert_eq!(
            [at(0), at(0), at(0), at(0), at(99), at(100), at(100)],
            [true, true, true, false, false, true, false]
        );
        assert_eq!([at(1_000), at(1_000), at(1_000), at(1_000)], [true, true, true, false]);
    }

    #[test]
    fn what_is_owed_must_be_made_up_for_and_no_more_than_a_burst_can_be_owed() {
        let rate = Rate::new(10, 2).unwrap();
        let mut bucket = Bucket::default();
        let mut at = |ms: u64| bucket.owe(rate, ms * MS);
        use Taken::{FarOver, Over, Within};
        assert_eq!([at(0), at(0), at(0), at(0), at(0), at(0)], [Within, Within, Over, Over, FarOver, FarOver]);
        assert_eq!([at(100), at(100)], [Over, FarOver]);
        assert_eq!([at(400), at(400), at(10_000)], [Within, Over, Within]);
    }

    #[test]
    fn no_rate_is_no_limit_and_a_share_lets_at_least_one_pass() {
        assert_eq!(Rate::new(0, 5), None);
        assert_eq!(Rate::new(8, 8).map(|rate| rate.share(4)), Rate::new(2, 2));
        assert_eq!(Rate::new(1, 1).unwrap().share(8), Rate { interval_ns: 8_000 * MS, burst: 1 });
    }

    #[test]
    fn what_happens_often_is_said_once_a_second_with_how_many_went_unsaid() {
        let mut seldom = Seldom::default();
        let mut at = |ms: u64| seldom.say(ms * MS);
        assert_eq!(
            [at(0), at(1), at(999), at(1_000), at(1_001), at(5_000)],
            [Some(0), None, None, Some(2), None, Some(1)]
        );
    }

    proptest! {
        /// A bucket that is refilled step by step, in whole tokens and what is left of one.
        #[test]
        fn it_agrees_with_a_bucket_that_is_refilled(
            per_second in 1_usize..1_000, burst in 1_usize..20, pauses_ms in prop::collection::vec(0_u64..500, 0..200),
        ) {
            let rate = Rate::new(per_second, burst).unwrap();
            let (mut bucket, mut level_ns, mut now_ns) = (Bucket::default(), rate.burst_ns(), 0);
            for pause_ms in pauses_ms {
                now_ns += pause_ms * MS;
                level_ns = rate.burst_ns().min(level_ns + pause_ms * MS);
                let has_one = level_ns >= rate.interval_ns;
                prop_assert_eq!(bucket.take(rate, now_ns), has_one);
                level_ns -= if has_one { rate.interval_ns } else { 0 };
            }
        }
    }
}
