//! Bounds that no knob moves.

/// How much there is at most of what grows. Small ones are for tests: what lies beyond a bound is rarely met elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The bytes of a message of presence that its lists and what comes before them may fill. One user's presence must
    /// fit, and what begins a room.
    pub message_bytes: usize,
    /// What happened in a watched room is kept up to so many entries, or as many as it has members, for those who were
    /// not told; who comes later is told anew.
    pub log_entries: usize,
    /// Departures from rooms that one partition remembers; older ones are forgotten first.
    pub departures: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // Below 64 KiB with what ends the message.
            message_bytes: 64 * 1024 - 256,
            log_entries: 4_096,
            departures: 262_144,
        }
    }
}
