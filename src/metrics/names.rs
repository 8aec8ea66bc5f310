//! Every metric's name, type, unit and help, each once. The exposition reads them from here.

/// The types of the Prometheus text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Counts of observations in buckets.
    Histogram,
}

impl Kind {
    /// The word after the name in a `# TYPE` line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One family of the metrics text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name that samples begin with.
    pub name: &'static str,
    /// What the values are.
    pub kind: Kind,
    /// What is counted, or the base unit that is measured.
    pub unit: &'static str,
    /// The label that tells the family's samples apart (`le` of histograms aside); `None` where there is one sample.
    pub label: Option<&'static str>,
    /// One sentence for operators. Neither line feeds nor backslashes, which the text format would have to escape.
    pub help: &'static str,
}

/// Makes a constant of each row, and [`METRICS`] of all.
macro_rules! table {
    ($($identifier:ident: $kind:ident, $name:literal, $label:expr, $unit:literal, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $identifier: Metric =
                Metric { name: $name, kind: Kind::$kind, unit: $unit, label: $label, help: $help };
        )+

        /// Every metric, in the order of the text.
        pub const METRICS: &[Metric] = &[$($identifier),+];
    };
}

table! {
    WS_CONNECTIONS_TOTAL: Counter, "ws_connections_total", None, "connections",
        "WebSocket connections that were answered CONNECT.";
    WS_CONNECTIONS_CURRENT: Gauge, "ws_connections_current", None, "connections",
        "Open WebSocket connections.";
    WS_MESSAGES_TOTAL: Counter, "ws_messages_total", None, "messages",
        "Messages from clients, of all types.";
    WS_ERRORS_TOTAL: Counter, "ws_errors_total", None, "errors",
        "Whatever got an ERROR message or an abnormal close.";
    WS_CLIENTS_CURRENT: Gauge, "ws_clients_current", None, "users",
        "Users with at least one open connection.";
    WS_MESSAGE_SIZE_BYTES: Histogram, "ws_message_size_bytes", None, "bytes",
        "Payload of messages from clients.";
    WS_LATENCY_SECONDS: Histogram, "ws_latency_seconds", None, "seconds",
        "Time from the read that completed a message to the write that took its answer.";

    USERS: Gauge, "rollcall_users", Some("status"), "users",
        "Users with at least one open connection, by status.";
    WATCHERS: Gauge, "rollcall_watchers", None, "connections",
        "Open connections that watch something or are in a room.";
    WATCHED_USERS: Gauge, "rollcall_watched_users", None, "pairs",
        "Pairs of a connection and a user that it watches.";
    ROOMS: Gauge, "rollcall_rooms", None, "rooms",
        "Rooms that somebody is in, watches, or has lately left.";
    ROOM_MEMBERS: Gauge, "rollcall_room_members", None, "pairs",
        "Pairs of a room and a user in it.";
    MESSAGES_RECEIVED_TOTAL: Counter, "rollcall_messages_received_total", Some("type"), "messages",
        "Messages from clients, by type.";
    MESSAGES_SENT_TOTAL: Counter, "rollcall_messages_sent_total", Some("type"), "messages",
        "Messages to clients, by type.";
    CLOSES_TOTAL: Counter, "rollcall_closes_total", Some("code"), "closes",
        "WebSocket closes, by the code that was sent or echoed.";
    ERRORS_TOTAL: Counter, "rollcall_errors_total", Some("code"), "messages",
        "ERROR messages, by code.";
    REFUSALS_TOTAL: Counter, "rollcall_refusals_total", Some("reason"), "requests",
        "Requests on the WebSocket port that were neither upgraded nor answered with a page, by reason.";
    AUTH_DENIALS_TOTAL: Counter, "rollcall_auth_denials_total", Some("reason"), "clients",
        "Clients that were not let in, or whose token ended, by reason.";
    AUTH_REQUESTS_TOTAL: Counter, "rollcall_auth_requests_total", Some("outcome"), "questions",
        "Questions to auth_url, by outcome.";
    AUTH_REQUEST_SECONDS: Histogram, "rollcall_auth_request_seconds", None, "seconds",
        "Time from a question to auth_url to its answer, the wait in its queue included.";
    CONNECTIONS_DROPPED_TOTAL: Counter, "rollcall_connections_dropped_total", Some("reason"), "connections",
        "Connections that ended without a closing handshake, by reason.";
    TLS_HANDSHAKES_TOTAL: Counter, "rollcall_tls_handshakes_total", Some("result"), "handshakes",
        "TLS handshakes on the WebSocket port that have ended, by result.";
    LIMITED_TOTAL: Counter, "rollcall_limited_total", Some("limit"), "events",
        "Connections ended and status changes put off by a limit of their user's or address's, by limit.";
    BYTES_RECEIVED_TOTAL: Counter, "rollcall_bytes_received_total", None, "bytes",
        "Bytes read from sockets of the WebSocket port; with TLS what was in their records.";
    BYTES_SENT_TOTAL: Counter, "rollcall_bytes_sent_total", None, "bytes",
        "Bytes that sockets of the WebSocket port took; with TLS what was in their records.";
    SHARD_CONNECTIONS: Gauge, "rollcall_shard_connections", Some("shard"), "connections",
        "Open WebSocket connections of a shard.";
    SHARD_SOCKETS: Gauge, "rollcall_shard_sockets", Some("shard"), "sockets",
        "Sockets that a shard holds, whatever they wait for.";
    SHARD_TURN_SECONDS: Histogram, "rollcall_shard_turn_seconds", Some("shard"), "seconds",
        "Wall time of a shard's turns, from poll's return to the turn's end.";
    SHARD_TURN_CPU_SECONDS: Histogram, "rollcall_shard_turn_cpu_seconds", Some("shard"), "seconds",
        "CPU time of a shard's turns, the poll that began each included.";
    HELD_BYTES: Gauge, "rollcall_held_bytes", Some("shard"), "bytes",
        "Bytes that a shard's connections and users hold, as memory_limit counts them.";
    INBOX_DEPTH: Gauge, "rollcall_inbox_depth", Some("shard"), "messages",
        "Messages in a shard's inbox when it was last emptied.";
    QUEUED_BYTES: Gauge, "rollcall_queued_bytes", Some("shard"), "bytes",
        "Bytes that wait for a shard's sockets.";
    PROBES_TOTAL: Counter, "rollcall_probes_total", None, "pings",
        "Pings sent to connections on which nothing had arrived.";
    HTTP_REQUESTS_TOTAL: Counter, "rollcall_http_requests_total", None, "requests",
        "Plain HTTP requests for a page, on the WebSocket port and on the control port.";
    PANICS_TOTAL: Counter, "rollcall_panics_total", None, "panics",
        "Panics caught while one connection's input was handled; each is a bug.";
    ACCEPT_DESCRIPTORS_EXHAUSTED_TOTAL: Counter, "rollcall_accept_descriptors_exhausted_total", None, "accepts",
        "Times that accept on the WebSocket port found no file descriptor left.";
    BUILD_INFO: Gauge, "rollcall_build_info", Some("version"), "builds",
        "Always 1; the label tells which build runs.";

    PROCESS_CPU_SECONDS_TOTAL: Counter, "process_cpu_seconds_total", None, "seconds",
        "User and system CPU time of all threads.";
    PROCESS_RESIDENT_MEMORY_BYTES: Gauge, "process_resident_memory_bytes", None, "bytes",
        "Resident memory.";
    PROCESS_VIRTUAL_MEMORY_BYTES: Gauge, "process_virtual_memory_bytes", None, "bytes",
        "Virtual memory.";
    PROCESS_OPEN_FDS: Gauge, "process_open_fds", None, "descriptors",
        "Open file descriptors: the control thread's table, and the sockets of shards with tables of their own.";
    PROCESS_MAX_FDS: Gauge, "process_max_fds", None, "descriptors",
        "The most open file descriptors that one table may have.";
    PROCESS_START_TIME_SECONDS: Gauge, "process_start_time_seconds", None, "seconds",
        "When the process started, in seconds since 1970.";
    PROCESS_THREADS: Gauge, "process_threads", None, "threads",
        "Threads of the process.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_stands_once_and_the_protocols_own_come_first() {
        let names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
        assert_eq!(
            names[..7],
            [
                "ws_connections_total",
                "ws_connections_current",
                "ws_messages_total",
                "ws_errors_total",
                "ws_clients_current",
                "ws_message_size_bytes",
                "ws_latency_seconds"
            ]
        );
        assert!(METRICS[..7].iter().all(|metric| metric.label.is_none()));
    }

    #[test]
    fn names_follow_the_conventions_of_their_type_and_unit() {
        for Metric { name, kind, unit, help, .. } in METRICS {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            if matches!(*unit, "bytes" | "seconds") {
                assert!(name.trim_end_matches("_total").contains(unit), "{name} is in {unit}");
            }
            assert!(help.ends_with('.') && !help.contains(['\n', '\\']), "{name}");
        }
    }
}
