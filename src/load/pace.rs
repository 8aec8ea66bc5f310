//! When things are due. Times are nanoseconds since the run's epoch; nothing here reads a clock.

const SECOND_NS: u128 = 1_000_000_000;

/// Evenly spaced connects of one thread among several, which take turns.
#[derive(Clone, Copy, Debug)]
pub struct ConnectPace {
    start_ns: u64,
    /// Connects a second over all threads; 0 is no bound.
    rate: u64,
    thread: u64,
    threads: u64,
}

impl ConnectPace {
    /// The pace of thread `thread` of `threads` (at least 1), from `start_ns` on.
    pub fn new(start_ns: u64, rate: u64, thread: usize, threads: usize) -> Self {
        Self { start_ns, rate, thread: thread as u64, threads: threads.max(1) as u64 }
    }

    /// When this thread's connect number `number`, counted from 0, is due.
    pub fn due_ns(&self, number: u64) -> u64 {
        if self.rate == 0 {
            return self.start_ns;
        }
        let overall = u128::from(number) * u128::from(self.threads) + u128::from(self.thread);
        self.start_ns.saturating_add(saturate(overall * SECOND_NS / u128::from(self.rate)))
    }
}

/// Heartbeats of an open loop: each of `connections` once an interval, evenly spread over it.
///
/// Heartbeat `number` belongs to the connection at position `number % connections`; so the time that a connection's
/// n-th heartbeat was due follows from n, and nothing needs to be kept for those in flight.
#[derive(Clone, Copy, Debug)]
pub struct HeartbeatPace {
    start_ns: u64,
    interval_ns: u64,
    connections: u64,
    /// Shifts this thread's heartbeats against those of the other threads, in parts of the gap between two.
    thread: u64,
    threads: u64,
}

impl HeartbeatPace {
    /// The pace of `connections` (at least 1) connections of thread `thread` of `threads` (at least 1).
    pub fn new(start_ns: u64, interval_ns: u64, connections: usize, thread: usize, threads: usize) -> Self {
        Self {
            start_ns,
            interval_ns,
            connections: connections.max(1) as u64,
            thread: thread as u64,
            threads: threads.max(1) as u64,
        }
    }

    /// When heartbeat `number`, counted from 0, is due.
    pub fn due_ns(&self, number: u64) -> u64 {
        let parts = u128::from(number) * u128::from(self.threads) + u128::from(self.thread);
        let after = parts * u128::from(self.interval_ns) / (u128::from(self.connections) * u128::from(self.threads));
        self.start_ns.saturating_add(saturate(after))
    }

    /// When the heartbeat `turn` (counted from 0) of the connection at `position` is due.
    pub fn due_of_ns(&self, position: u32, turn: u32) -> u64 {
        self.due_ns(u64::from(turn) * self.connections + u64::from(position))
    }

    /// The position of the connection whose turn heartbeat `number` is.
    pub fn position(&self, number: u64) -> usize {
        (number % self.connections) as usize
    }
}

/// Changes that are due in bursts, made by threads that take turns.
#[derive(Clone, Copy, Debug)]
pub struct ChangePace {
    start_ns: u64,
    /// Changes a second over all threads; 0 is none.
    rate: u64,
    burst: u64,
    thread: u64,
    threads: u64,
}

impl ChangePace {
    /// The pace of thread `thread` of the `threads` (at least 1) that change, in bursts of `burst` (at least 1).
    pub fn new(start_ns: u64, rate: u64, burst: u64, thread: usize, threads: usize) -> Self {
        Self { start_ns, rate, burst: burst.max(1), thread: thread as u64, threads: threads.max(1) as u64 }
    }

    /// The number among all of the run of this thread's change `number`, counted from 0.
    pub fn overall(&self, number: u64) -> u64 {
        number * self.threads + self.thread
    }

    /// When this thread's change `number` is due, if any ever is.
    pub fn due_ns(&self, number: u64) -> Option<u64> {
        let before = self.overall(number) / self.burst * self.burst;
        let after = (u128::from(before) * SECOND_NS).checked_div(u128::from(self.rate))?;
        Some(self.start_ns.saturating_add(saturate(after)))
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connects_of_all_threads_together_keep_the_rate() {
        let paces = [0, 1].map(|thread| ConnectPace::new(500, 1000, thread, 2));
        let mut due: Vec<u64> = (0..500).flat_map(|number| paces.map(|pace| pace.due_ns(number))).collect();
        due.sort_unstable();
        let expected: Vec<u64> = (0..1000).map(|number| 500 + number * 1_000_000).collect();
        assert_eq!(due, expected);
    }

    #[test]
    fn without_a_rate_every_connect_is_due_at_once() {
        assert_eq!(ConnectPace::new(7, 0, 0, 1).due_ns(1_000_000), 7);
    }

    #[test]
    fn each_connection_has_its_turn_once_an_interval() {
        let pace = HeartbeatPace::new(1_000, 15_000_000_000, 3, 0, 1);
        assert_eq!(pace.due_of_ns(1, 0), 1_000 + 5_000_000_000);
        assert_eq!(pace.due_of_ns(1, 4), 1_000 + 65_000_000_000);
        assert_eq!((pace.position(4), pace.due_ns(4)), (1, pace.due_of_ns(1, 1)));
    }

    #[test]
    fn threads_share_the_gap_between_two_heartbeats() {
        let [first, second] = [0, 1].map(|thread| HeartbeatPace::new(0, 1_000, 10, thread, 2));
        assert_eq!((first.due_ns(0), second.due_ns(0), first.due_ns(1)), (0, 50, 100));
    }

    #[test]
    fn changes_of_a_burst_are_due_together() {
        let paces = [0, 1].map(|thread| ChangePace::new(500, 100, 4, thread, 2));
        let due = |number: u64| paces[(number % 2) as usize].due_ns(number / 2);
        let due: Vec<u64> = (0..9).filter_map(due).map(|due_ns| (due_ns - 500) / 1_000_000).collect();
        assert_eq!(due, [0, 0, 0, 0, 40, 40, 40, 40, 80]);
        assert_eq!(ChangePace::new(0, 0, 1, 0, 1).due_ns(0), None);
    }

    #[test]
    fn rounding_does_not_add_up() {
        let pace = HeartbeatPace::new(0, 1_000_000_000, 7, 0, 1);
        assert_eq!(pace.due_ns(7 * 86_400), 86_400 * 1_000_000_000);
    }

    #[test]
    fn what_lies_past_the_end_of_time_is_never_due() {
        assert_eq!(HeartbeatPace::new(9, u64::MAX, 1, 0, 1).due_ns(u64::MAX), u64::MAX);
        assert_eq!(ConnectPace::new(9, 1, 0, 1).due_ns(u64::MAX), u64::MAX);
    }
}
