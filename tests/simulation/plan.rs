//! What is drawn for a run from its seed: the knobs, how many there are of what, how often what happens. Whole kinds of
//! action and of fault are off in a run, so that the others meet more often.

use std::time::Duration;

use fastrand::Rng;
use rollcall::config::Config;
use rollcall::presence::bounds::Bounds;

/// A run's circumstances.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shards: usize,
    pub users: usize,
    pub clients: usize,
    pub rooms: usize,
    pub config: Config,
    /// How often each of [`ACTIONS`] is chosen, against the others.
    pub weights: [u32; ACTIONS.len()],
    pub faults: Faults,
    /// Of 100 choices of a client, a user or a room, how many fall to the first few.
    pub hot_percent: u32,
    /// What names end with: some need escapes.
    pub suffix: &'static str,
    /// Bytes by which some metadata are longer.
    pub padding: usize,
    pub bounds: Bounds,
    /// Of 100 connections that come back, how many name their session.
    pub resume_percent: u32,
    /// Of 100 connections, how many say their status.
    pub status_percent: u32,
    /// Of 100 connections that come back, how many bring their cursor.
    pub since_percent: u32,
    /// The longest time for which a client stays away, in milliseconds.
    pub away_ms: u64,
    /// Pieces of mail that wait for one shard at most.
    pub inbox_capacity: usize,
    /// Deliveries in one turn at most.
    pub deliveries: usize,
    /// What a socket takes before its peer reads, in bytes.
    pub socket_bytes: usize,
    /// Statuses that clients choose from, as a mask over [`rollcall::protocol::status::Status::ALL`].
    pub statuses: u8,
    /// The most that clients watch or join in one message.
    pub names_max: usize,
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Status,
    Metadata,
    Join,
    Leave,
    Watch,
    Unwatch,
    ClientState,
    Disconnect,
    Close,
    End,
    Reset,
    Vanish,
    Mute,
    Violate,
    Garbage,
    Ping,
    Burst,
    Slow,
    Steal,
}

pub const ACTIONS: [Action; 19] = [
    Action::Status,
    Action::Metadata,
    Action::Join,
    Action::Leave,
    Action::Watch,
    Action::Unwatch,
    Action::ClientState,
    Action::Disconnect,
    Action::Close,
    Action::End,
    Action::Reset,
    Action::Vanish,
    Action::Mute,
    Action::Violate,
    Action::Garbage,
    Action::Ping,
    Action::Burst,
    Action::Slow,
    Action::Steal,
];

/// How often each action is chosen when it is not off.
const USUAL_WEIGHTS: [u32; ACTIONS.len()] = [30, 12, 14, 10, 20, 8, 6, 3, 3, 4, 4, 2, 1, 1, 2, 2, 3, 3, 2];

/// Actions that are never off: without them there is nothing to see.
const ALWAYS_ON: [Action; 2] = [Action::Status, Action::Watch];

/// How often what goes wrong, in thousandths unless it says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// A read of the server's that takes less than there is.
    pub short_read: u32,
    /// A write of the server's that the socket takes less of than it could.
    pub short_write: u32,
    /// An event of a socket that comes a turn later.
    pub late_event: u32,
    /// A turn that a shard misses.
    pub missed_turn: u32,
    /// A tick before anything is due.
    pub early_tick: u32,
    /// A socket that is told to be writable though it was all along.
    pub idle_writable: u32,
    /// Mail that finds an inbox full though it has room.
    pub full_inbox: u32,
    /// Mail that is refused by an inbox that said it had room.
    pub refused_mail: u32,
    /// The longest that mail takes, in milliseconds.
    pub mail_delay_ms: u64,
    /// The wall clock jumps, in a hundred thousand rounds.
    pub clock_step: u32,
    /// A shard stands still for up to `stall_ms`, in a hundred thousand rounds.
    pub stall: u32,
    pub stall_ms: u64,
    /// A message in pieces.
    pub fragments: u32,
    /// A client that reads less than there is.
    pub lazy_read: u32,
    /// Time jumps to what is due next, in thousandths of rounds.
    pub leap: u32,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let shards = [1, 2, 2, 3, 3, 4][rng.usize(..6)];
        let users = rng.usize(2..=24);
        let mut weights = USUAL_WEIGHTS;
        for (weight, action) in weights.iter_mut().zip(ACTIONS) {
            if rng.u32(..100) < 25 && !ALWAYS_ON.contains(&action) {
                *weight = 0;
            } else if rng.u32(..100) < 15 {
                *weight *= 5;
            }
        }
        let mut rate = |on_percent: u32, most: u32| if rng.u32(..100) < on_percent { rng.u32(1..=most) } else { 0 };
        let faults = Faults {
            short_read: rate(50, 300),
            short_write: rate(50, 200),
            late_event: rate(50, 400),
            missed_turn: rate(60, 500),
            early_tick: rate(50, 200),
            idle_writable: rate(30, 100),
            full_inbox: rate(40, 300),
            refused_mail: rate(40, 200),
            mail_delay_ms: u64::from(rate(60, 400)),
            clock_step: rate(25, 200),
            stall: rate(40, 300),
            stall_ms: u64::from(rate(100, 3_000)),
            fragments: rate(40, 200),
            lazy_read: rate(50, 600),
            leap: rate(80, 40),
        };
        let ms = |ms: u64| Duration::from_millis(ms);
        let config = Config {
            change_interval: ms([0, 10, 50, 50, 50, 400][rng.usize(..6)]),
            offline_grace: ms([0, 1_000, 4_000, 10_000, 10_000][rng.usize(..5)]),
            resume_window: ms([0, 3_000, 12_000, 30_000, 30_000][rng.usize(..5)]),
            resume_sessions_max: if rng.u8(..8) == 0 { 0 } else { 1_000_000 },
            cursor_slack: ms([1_000, 1_000, 3_000][rng.usize(..3)]),
            history: ms([5_000, 300_000, 300_000][rng.usize(..3)]),
            room_detail_limit: [1, 2, 4, 8, 1_000, 1_000][rng.usize(..6)],
            watched_users_max: [3, 10, 1_000, 1_000][rng.usize(..4)],
            rooms_max: [2, 5, 100, 100][rng.usize(..4)],
            last_seen_capacity: [0, 3, 1_000_000, 1_000_000][rng.usize(..4)],
            send_queue: [4_096, 16_384, 65_536][rng.usize(..3)],
            turn_messages: [1, 2, 256][rng.usize(..3)],
            ..Config::default()
        };
        let padding = [0, 0, 0, 200, 3_900][rng.usize(..5)];
        let usual = Bounds::default();
        let bounds = Bounds {
            message_bytes: [usual.message_bytes, usual.message_bytes, padding + 1_024, padding + 512][rng.usize(..4)],
            log_entries: [usual.log_entries, usual.log_entries, 1, 6][rng.usize(..4)],
            departures: [usual.departures, usual.departures, 1, 6][rng.usize(..4)],
        };
        Self {
            shards,
            users,
            clients: rng.usize(2..=40),
            rooms: rng.usize(1..=6),
            config,
            weights,
            faults,
            hot_percent: rng.u32(..80),
            suffix: ["", "", "", "", "-\u{e9}", "\"\\ x"][rng.usize(..6)],
            padding,
            bounds,
            resume_percent: [0, 30, 50, 100][rng.usize(..4)],
            status_percent: [0, 10, 30, 60][rng.usize(..4)],
            since_percent: [0, 50, 90, 100][rng.usize(..4)],
            away_ms: [200, 1_000, 9_000, 40_000][rng.usize(..4)],
            inbox_capacity: [1, 2, 16, 1_024][rng.usize(..4)],
            deliveries: [1, 16, 256][rng.usize(..3)],
            socket_bytes: [2_048, 8_192, 65_536, 1 << 20][rng.usize(..4)],
            statuses: [0b1111, 0b1111, 0b0111, 0b1001, 0b0011][rng.usize(..5)],
            names_max: rng.usize(1..=12),
        }
    }
}
