//! The one place of a shard that reads the clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::shard::Now;
use crate::sys;

/// A shard's clock. Copies tell the same time: those of all shards count from one beginning, so that what one says
/// of time means the same to another.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self { began: Instant::now() }
    }

    /// What time it is.
    pub fn now(&self) -> Now {
        Now { elapsed_ns: self.elapsed_ns(), unix_ms: unix_ms() }
    }

    /// Nanoseconds since the clock began, never backwards.
    pub fn elapsed_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

/// Nanoseconds of CPU time that the calling thread has used.
pub fn thread_cpu_ns() -> u64 {
    sys::thread_cpu_ns()
}

/// Milliseconds since the Unix epoch; 0 where the wall clock stands before it.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
