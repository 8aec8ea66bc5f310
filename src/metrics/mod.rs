//! What the server counts about itself: the cells of one shard, and the names under which the sums are told.

pub mod cell;
pub mod names;

use cell::{BUCKETS, Counter, Gauge, Histogram};

use crate::protocol::close::CLOSE_CODES;
use crate::protocol::denial::DENIALS;
use crate::protocol::error::{ERROR_CODES, REFUSALS};
use crate::protocol::status::Status;

/// Bounds of message sizes, in bytes: 64 (a heartbeat is about that) to 1 MiB and beyond.
static SIZE_BOUNDS_BYTES: [u64; BUCKETS] = [
    16,
    32,
    64,
    128,
    256,
    512,
    1 << 10,
    1 << 11,
    1 << 12,
    1 << 13,
    1 << 14,
    1 << 15,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 24,
];

/// Bounds of latencies and turn times, in nanoseconds: 10 µs to 1 s.
static TIME_BOUNDS_NS: [u64; BUCKETS] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
];

/// Types of messages from clients, as `rollcall_messages_received_total{type}` tells them.
pub const RECEIVED_TYPES: [&str; 10] = [
    "HEARTBEAT",
    "PRESENCE_UPDATE",
    "DISCONNECT",
    "WATCH",
    "UNWATCH",
    "JOIN",
    "LEAVE",
    "CLIENT_STATE",
    "AUTH",
    "invalid",
];

/// Types of messages to clients, as `rollcall_messages_sent_total{type}` tells them.
pub const SENT_TYPES: [&str; 6] = ["CONNECT", "HEARTBEAT_ACK", "ACK", "ERROR", "PRESENCE_STATE", "PRESENCE_CHANGE"];

/// Limits of users and addresses, as `rollcall_limited_total{limit}` tells them.
pub const LIMITS: [&str; 3] = ["connections_per_address", "connections_per_user", "status_rate_per_user"];

/// Why an open connection ended without a closing handshake,
/// as `rollcall_connections_dropped_total{reason}` tells them.
pub const DROP_REASONS: [&str; 3] = ["send_timeout", "peer_reset", "tls"];

/// The place among [`DROP_REASONS`] of connections whose peer broke TLS.
pub const DROP_TLS: usize = 2;

/// How TLS handshakes end, as `rollcall_tls_handshakes_total{result}` tells them.
pub const TLS_RESULTS: [&str; 5] = ["full", "resumed", "failed", "not_tls", "abandoned"];

/// How questions to `auth_url` were settled, as `rollcall_auth_requests_total{outcome}` tells them.
pub const AUTH_OUTCOMES: [&str; 5] = ["allowed", "denied", "failed", "cached", "full"];

/// Everything one shard counts. Written by that shard's thread alone, read by control.
///
/// The alignment keeps two shards' cells out of each other's cache lines (128: the prefetcher pulls pairs).
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Connections that were answered CONNECT.
    pub connections_total: Counter,
    /// Of those, the ones that have not ended.
    pub connections_current: Gauge,
    /// Sockets held, whatever they wait for.
    pub sockets_current: Gauge,
    /// Of those, the ones that were not accepted only to be refused: what `max_connections` is held against.
    pub admitted_current: Gauge,
    /// Users of this shard's partition with at least one open connection.
    pub users_current: Gauge,
    /// Those users by what they are, in the order of [`Status::ALL`].
    pub users_by_status: [Gauge; Status::ALL.len()],
    /// Connections of this shard that watch something or are in a room.
    pub watchers_current: Gauge,
    /// Pairs of a connection of this shard and a user that it watches.
    pub watched_users_current: Gauge,
    /// Rooms of this shard's partition.
    pub rooms_current: Gauge,
    /// Pairs of such a room and a user in it.
    pub room_members_current: Gauge,
    /// Messages from clients, by [`RECEIVED_TYPES`].
    pub received: [Counter; RECEIVED_TYPES.len()],
    /// Messages to clients, by [`SENT_TYPES`].
    pub sent: [Counter; SENT_TYPES.len()],
    /// Whatever got an ERROR or an abnormal close.
    pub errors_total: Counter,
    /// ERROR messages by code, in the order of [`ERROR_CODES`].
    pub errors: [Counter; ERROR_CODES.len()],
    /// WebSocket closes by the code that was sent (or echoed), in the order of [`CLOSE_CODES`]; the last
    /// cell is for every other code that a peer chose.
    pub closes: [Counter; CLOSE_CODES.len() + 1],
    /// Requests that were not upgraded, in the order of [`REFUSALS`].
    pub refusals: [Counter; REFUSALS.len()],
    /// Clients that were not let in or lost what they were granted, in the order of [`DENIALS`].
    pub auth_denials: [Counter; DENIALS.len()],
    /// Questions to `auth_url`, by [`AUTH_OUTCOMES`].
    pub auth_requests: [Counter; AUTH_OUTCOMES.len()],
    /// Nanoseconds from a question to `auth_url` to its answer.
    pub auth_request_ns: Histogram,
    /// Connections ended without a closing handshake, by [`DROP_REASONS`].
    pub drops: [Counter; DROP_REASONS.len()],
    /// TLS handshakes that have ended, by [`TLS_RESULTS`].
    pub tls_handshakes: [Counter; TLS_RESULTS.len()],
    /// What a limit of a user's or an address's ended or put off, by [`LIMITS`].
    pub limited: [Counter; LIMITS.len()],
    /// Plain HTTP requests handed to control.
    pub http_requests_total: Counter,
    /// Pings sent to connections on which nothing had arrived.
    pub probes_total: Counter,
    /// Bytes read from sockets.
    pub bytes_received_total: Counter,
    /// Bytes that sockets took.
    pub bytes_sent_total: Counter,
    /// Bytes that connections and the partition hold: what `memory_limit` is held against.
    pub held_bytes: Gauge,
    /// Bytes that wait for sockets.
    pub queued_bytes: Gauge,
    /// Messages in the inbox when it was last emptied.
    pub inbox_depth: Gauge,
    /// Panics caught while one connection's input was handled.
    pub panics_total: Counter,
    /// Times that accept found no descriptor (EMFILE, ENFILE).
    pub accept_descriptors_exhausted_total: Counter,
    /// Payload bytes of messages from clients.
    pub message_size_bytes: Histogram,
    /// Nanoseconds from the read that completed a message to the write that took its answer.
    pub latency_ns: Histogram,
    /// Wall nanoseconds from poll's return to the end of the turn.
    pub turn_ns: Histogram,
    /// CPU nanoseconds of a turn, the poll that began it included.
    pub turn_cpu_ns: Histogram,
    /// Unix milliseconds at which the present turn began; 0 while asleep in poll.
    pub turn_began_ms: Gauge,
}

impl Default for ShardMetrics {
    fn default() -> Self {
        Self {
            connections_total: Counter::default(),
            connections_current: Gauge::default(),
            sockets_current: Gauge::default(),
            admitted_current: Gauge::default(),
            users_current: Gauge::default(),
            users_by_status: Default::default(),
            watchers_current: Gauge::default(),
            watched_users_current: Gauge::default(),
            rooms_current: Gauge::default(),
            room_members_current: Gauge::default(),
            received: Default::default(),
            sent: Default::default(),
            errors_total: Counter::default(),
            errors: Default::default(),
            closes: Default::default(),
            refusals: Default::default(),
            auth_denials: Default::default(),
            auth_requests: Default::default(),
            auth_request_ns: Histogram::new(&TIME_BOUNDS_NS),
            drops: Default::default(),
            tls_handshakes: Default::default(),
            limited: Default::default(),
            http_requests_total: Counter::default(),
            probes_total: Counter::default(),
            bytes_received_total: Counter::default(),
            bytes_sent_total: Counter::default(),
            held_bytes: Gauge::default(),
            queued_bytes: Gauge::default(),
            inbox_depth: Gauge::default(),
            panics_total: Counter::default(),
            accept_descriptors_exhausted_total: Counter::default(),
            message_size_bytes: Histogram::new(&SIZE_BOUNDS_BYTES),
            latency_ns: Histogram::new(&TIME_BOUNDS_NS),
            turn_ns: Histogram::new(&TIME_BOUNDS_NS),
            turn_cpu_ns: Histogram::new(&TIME_BOUNDS_NS),
            turn_began_ms: Gauge::default(),
        }
    }
}
