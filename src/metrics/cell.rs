//! Cells that one thread writes and any thread reads.
//!
//! A shard owns its cells: adding is a plain load and a plain store, with no locked instruction and
//! no shared cache line. A scrape reads them as they are and sums the shards.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A sum that only grows. One thread adds, any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the owning thread may call this: two writers would lose each other's sums.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Adds one. Only the owning thread may call this.
    pub fn increment(&self) {
        self.add(1);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A value that goes up and down. One thread sets, any thread reads.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Publishes `value`. Only the owning thread may call this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value as last published.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How many buckets a [`Histogram`] has, the unbounded last one not counted.
pub const BUCKETS: usize = 16;

/// Counts of observations in fixed buckets, as Prometheus histograms are. One thread observes, any thread reads.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64; BUCKETS],
    counts: [Counter; BUCKETS + 1],
    sum: Counter,
}

impl Histogram {
    /// An empty histogram whose bucket `i` counts what is at most `bounds[i]`; `bounds` ascend.
    pub fn new(bounds: &'static [u64; BUCKETS]) -> Self {
        Self { bounds, counts: Default::default(), sum: Counter::default() }
    }

    /// Counts `times` observations of `value`, in the unit of the bounds. Only the owning thread may call this.
    pub fn observe_many(&self, value: u64, times: u64) {
        // From the first on: what is observed often is small.
        let bucket = self.bounds.iter().position(|&bound| value <= bound).unwrap_or(BUCKETS);
        self.counts[bucket].add(times);
        self.sum.add(value.saturating_mul(times));
    }

    /// Counts one observation of `value`, in the unit of the bounds. Only the owning thread may call this.
    pub fn observe(&self, value: u64) {
        self.observe_many(value, 1);
    }

    /// The upper bounds of the buckets, the unbounded last one not among them.
    pub fn bounds(&self) -> &'static [u64; BUCKETS] {
        self.bounds
    }

    /// Observations in bucket `index` alone (not cumulated); index [`BUCKETS`] is the unbounded one.
    pub fn count_in(&self, index: usize) -> u64 {
        self.counts[index].get()
    }

    /// The sum of all observed values, in the unit of the bounds.
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BOUNDS: [u64; BUCKETS] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768];

    #[test]
    fn a_value_on_a_bound_counts_in_that_bucket() {
        let histogram = Histogram::new(&BOUNDS);
        histogram.observe(4);
        histogram.observe(5);
        histogram.observe_many(40_000, 3);
        assert_eq!(histogram.count_in(2), 1);
        assert_eq!(histogram.count_in(3), 1);
        assert_eq!(histogram.count_in(BUCKETS), 3);
        assert_eq!(histogram.sum(), 9 + 120_000);
    }

    #[test]
    fn a_counter_adds_and_a_gauge_replaces() {
        let (counter, gauge) = (Counter::default(), Gauge::default());
        counter.add(2);
        counter.increment();
        gauge.set(9);
        gauge.set(4);
        assert_eq!((counter.get(), gauge.get()), (3, 4));
    }
}
