//! A shard: one thread, its connections, its partition of the users.
//!
//! [`core`] decides and [`driver`] acts: what a peer's bytes mean for a connection is settled without a socket or a
//! clock, and the sockets are served without knowing what is said on them. [`sessions`] is what Rollcall's own
//! messages do; another [`core::Application`] in its place makes another server of the same engine.

pub mod core;
pub mod driver;
pub mod exchange;
#[doc(hidden)]
pub mod fuzz;
pub mod gate;
pub mod outbox;
pub mod sessions;
#[doc(hidden)]
pub mod virtual_driver;

#[doc(hidden)]
pub use fuzz::{fuzz, fuzz_presence, fuzz_tls};

use crate::presence::change::Moment;

/// One connection of a shard. A later connection in the same slot has another generation, so that what is late for
/// one never reaches the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The slot.
    pub index: u32,
    /// Which of the slot's owners.
    pub generation: u32,
}

/// What time it is: read by the driver, given to everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since the process began to serve, the same on every shard, never backwards: for deadlines and
    /// latencies.
    pub elapsed_ns: u64,
    /// Milliseconds since the Unix epoch, as the wall clock has it: for what people read.
    pub unix_ms: u64,
}

impl Now {
    /// Milliseconds since the process began to serve.
    pub fn elapsed_ms(self) -> u64 {
        self.elapsed_ns / 1_000_000
    }

    /// The same in the words of presence.
    pub fn moment(self) -> Moment {
        Moment { elapsed_ms: self.elapsed_ms(), unix_ms: self.unix_ms }
    }
}
