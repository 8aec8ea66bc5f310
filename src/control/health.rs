//! Whether the server is well: its stage of life, and whether its shards turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::metrics::ShardMetrics;
use crate::protocol::plain::PlainPath;
use crate::protocol::timestamp::Timestamp;

/// How long one turn of a shard may take before `/health` tells of it. A turn lasts microseconds to milliseconds.
const TURN_MS_MAX: u64 = 1_000;

/// The server's stages of life, in the order in which it goes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Not every shard listens yet.
    Starting = 0,
    /// New connections are taken.
    Serving = 1,
    /// No new connections are taken, and those that are there come to their end.
    Draining = 2,
}

/// What the server tells control of itself. Set by the server, read at each request.
#[derive(Debug, Default)]
pub struct Lifecycle {
    stage: AtomicU8,
    shards_own_descriptors: AtomicBool,
    /// 0 for none.
    memory_limit: AtomicU64,
}

impl Lifecycle {
    /// A server that starts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on to `stage`. Never back: a shard that is late to serve does not undo that the server drains.
    pub fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Relaxed);
    }

    /// The stage now.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Relaxed) {
            0 => Stage::Starting,
            1 => Stage::Serving,
            _ => Stage::Draining,
        }
    }

    /// Says that the shards' sockets are in descriptor tables of their own, so that whoever counts control's
    /// table counts none of them. Not so until said.
    pub fn set_shards_own_descriptors(&self) {
        self.shards_own_descriptors.store(true, Relaxed);
    }

    /// Says how many bytes connections may hold in all.
    pub fn set_memory_limit(&self, bytes: u64) {
        self.memory_limit.store(bytes, Relaxed);
    }

    /// How many bytes connections may hold in all; without end until said.
    pub fn memory_limit(&self) -> u64 {
        match self.memory_limit.load(Relaxed) {
            0 => u64::MAX,
            bytes => bytes,
        }
    }

    /// Whether the shards' sockets are in descriptor tables of their own.
    pub fn shards_own_descriptors(&self) -> bool {
        self.shards_own_descriptors.load(Relaxed)
    }
}

/// How the server is, as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Serves, and every shard turns or sleeps.
    Ok,
    /// Not every shard listens yet.
    Starting,
    /// On its way to its end.
    Draining,
    /// Serves, but what connections hold has reached `memory_limit`: nobody new is taken.
    Degraded,
    /// Serves, but a shard has been inside one turn for more than a second.
    Stalled,
}

impl Condition {
    /// The condition at `stage`, by the turns that `shards` are in at `now_unix_ms` and by what they hold.
    pub fn of(lifecycle: &Lifecycle, shards: &[Arc<ShardMetrics>], now_unix_ms: u64) -> Self {
        let held_bytes = || shards.iter().map(|shard| shard.held_bytes.get()).sum::<u64>();
        match lifecycle.stage() {
            Stage::Starting => Self::Starting,
            Stage::Draining => Self::Draining,
            Stage::Serving if shards.iter().any(|shard| is_stalled(shard, now_unix_ms)) => Self::Stalled,
            Stage::Serving if held_bytes() >= lifecycle.memory_limit() => Self::Degraded,
            Stage::Serving => Self::Ok,
        }
    }

    /// The condition as `path` judges it: `/health/live` asks for nothing but an answer.
    pub fn for_page(self, path: PlainPath) -> Self {
        if path == PlainPath::HealthLive { Self::Ok } else { self }
    }

    /// The word in the answer's `status`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Starting => "STARTING",
            Self::Draining => "DRAINING",
            Self::Degraded => "DEGRADED",
            Self::Stalled => "STALLED",
        }
    }

    /// The HTTP status: 200 while those who are connected are served, else 503.
    pub fn status(self) -> u16 {
        if matches!(self, Self::Ok | Self::Degraded) { 200 } else { 503 }
    }

    /// The body of the answer: `{"status":"OK","timestamp":"…Z","uptime":12}`, the uptime in whole seconds.
    pub fn json(self, now_unix_ms: u64, uptime_seconds: u64) -> String {
        format!(
            "{{\"status\":\"{}\",\"timestamp\":\"{}\",\"uptime\":{uptime_seconds}}}",
            self.word(),
            Timestamp::from_unix_ms(now_unix_ms).as_str()
        )
    }
}

/// Whether the shard has been inside one turn for more than a second. Asleep in poll it is in none.
fn is_stalled(shard: &ShardMetrics, now_unix_ms: u64) -> bool {
    let began_ms = shard.turn_began_ms.get();
    began_ms != 0 && now_unix_ms.saturating_sub(began_ms) > TURN_MS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_795_578_885_123;

    fn at(stage: Stage) -> Lifecycle {
        let lifecycle = Lifecycle::new();
        lifecycle.advance(stage);
        lifecycle
    }

    #[test]
    fn whoever_holds_too_much_is_degraded_and_still_answers_well() {
        let lifecycle = at(Stage::Serving);
        let shards = shards([0, 0]);
        shards[0].held_bytes.set(600);
        shards[1].held_bytes.set(400);
        lifecycle.set_memory_limit(1_001);
        assert_eq!(Condition::of(&lifecycle, &shards, NOW_MS), Condition::Ok);
        lifecycle.set_memory_limit(1_000);
        assert_eq!(Condition::of(&lifecycle, &shards, NOW_MS), Condition::Degraded);
        assert_eq!(Condition::Degraded.status(), 200);
    }

    fn shards(turns_began_ms: [u64; 2]) -> Vec<Arc<ShardMetrics>> {
        turns_began_ms
            .into_iter()
            .map(|began_ms| {
                let shard = ShardMetrics::default();
                shard.turn_began_ms.set(began_ms);
                Arc::new(shard)
            })
            .collect()
    }

    #[test]
    fn only_a_serving_server_is_well() {
        let asleep = shards([0, 0]);
        for (stage, word, status) in
            [(Stage::Starting, "STARTING", 503), (Stage::Serving, "OK", 200), (Stage::Draining, "DRAINING", 503)]
        {
            let condition = Condition::of(&at(stage), &asleep, NOW_MS);
            assert_eq!((condition.word(), condition.status()), (word, status));
        }
    }

    #[test]
    fn a_turn_of_more_than_a_second_is_a_stall_and_sleep_is_none() {
        for (began_ms, condition) in [
            (0, Condition::Ok),
            (NOW_MS - 1_000, Condition::Ok),
            (NOW_MS - 1_001, Condition::Stalled),
            // The wall clock was set back during the turn.
            (NOW_MS + 5_000, Condition::Ok),
        ] {
            assert_eq!(Condition::of(&at(Stage::Serving), &shards([0, began_ms]), NOW_MS), condition, "{began_ms}");
        }
    }

    #[test]
    fn a_stalled_or_draining_server_is_alive() {
        for condition in [Condition::Stalled, Condition::Draining, Condition::Starting] {
            assert_eq!(condition.for_page(PlainPath::HealthLive), Condition::Ok);
            assert_eq!(condition.for_page(PlainPath::HealthReady), condition);
            assert_eq!(condition.for_page(PlainPath::Health), condition);
        }
    }

    #[test]
    fn the_stage_never_goes_back() {
        let lifecycle = Lifecycle::new();
        assert_eq!(lifecycle.stage(), Stage::Starting);
        lifecycle.advance(Stage::Draining);
        lifecycle.advance(Stage::Serving);
        assert_eq!(lifecycle.stage(), Stage::Draining);
    }

    #[test]
    fn the_body_has_status_timestamp_and_uptime() {
        assert_eq!(
            Condition::Stalled.json(NOW_MS, 12),
            r#"{"status":"STALLED","timestamp":"2026-11-25T03:54:45.123Z","uptime":12}"#
        );
    }
}
