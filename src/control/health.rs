//! Whether the server is well: its stage of life, and whether its shards turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

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
    /// Serves, but a shard has been inside one turn for more than a second.
    Stalled,
}

impl Condition {
    /// The condition at `stage`, by the turns that `shards` are in at `now_unix_ms`.
    pub fn of(stage: Stage, shards: &[Arc<ShardMetrics>], now_unix_ms: u64) -> Self {
        match stage {
            Stage::Starting => Self::Starting,
            Stage::Draining => Self::Draining,
            Stage::Serving if shards.iter().any(|shard| is_stalled(shard, now_unix_ms)) => Self::Stalled,
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
            Self::Stalled => "STALLED",
        }
    }

    /// The HTTP status: 200 when all is well, else 503.
    pub fn status(self) -> u16 {
        if self == Self::Ok { 200 } else { 503 }
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
            let condition = Condition::of(stage, &asleep, NOW_MS);
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
            assert_eq!(Condition::of(Stage::Serving, &shards([0, began_ms]), NOW_MS), condition, "{began_ms}");
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
