//! The one table of knobs: [`Config`], its defaults, `--help`, the three sources and tuning.md all follow from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use super::kinds::{
    Address, AutoSwitch, Choice, Count, FilePath, InvalidValue, Kind, List, Named, Networks, Size, Switch, Text, Time,
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A knob: its names, its bounds, and the way to its field in [`Config`].
#[derive(Debug)]
pub struct Knob {
    /// The file's key, the heading in tuning.md, and the field of [`Config`]; snake_case.
    pub name: &'static str,
    /// The heading under which it is shown.
    pub group: Group,
    /// What it does, in a sentence or two.
    pub help: &'static str,
    /// The kind of its values as it follows "is not", as in `a duration`.
    pub noun: &'static str,
    /// How a value may look; empty where the range says it all.
    pub example: &'static str,
    /// What `--help` shows in place of a value.
    pub placeholder: &'static str,
    /// Whether the file writes its values in quotes.
    pub quoted: bool,
    /// Whether the flag alone means `true`.
    pub is_switch: bool,
    /// Whether the file may write it as an array.
    pub is_list: bool,
    /// The values that are allowed, in words.
    pub range: fn() -> String,
    /// Reads a value into its field.
    pub set: fn(&mut Config, &str) -> Result<(), InvalidValue>,
    /// Writes its field's value as `set` reads it.
    pub print: fn(&Config) -> String,
}

impl Knob {
    /// Its flag without the dashes in front, as in `heartbeat-timeout`.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Its environment variable, as in `ROLLCALL_HEARTBEAT_TIMEOUT`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_uppercase())
    }

    /// Its default, as the sources would write it.
    pub fn default(&self) -> String {
        (self.print)(&DEFAULTS)
    }
}

/// What the names of all environment variables of Rollcall begin with.
pub const VARIABLE_PREFIX: &str = "ROLLCALL_";

/// The headings under which knobs are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Listeners and their sockets.
    Network,
    /// Encryption, and clients' certificates.
    Tls,
    /// Who is let in, and whom each may see.
    Access,
    /// Who counts as alive, and for how long.
    StayingAlive,
    /// Who is told what of whom, and when.
    Presence,
    /// What one connection, or all together, may take.
    Limits,
    /// Threads and what each does in one turn of its loop.
    Shards,
    /// How connections and the process end.
    Shutdown,
    /// What is logged, and how.
    Logs,
}

impl Group {
    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Network => "Network",
            Self::Tls => "TLS",
            Self::Access => "Access",
            Self::StayingAlive => "Staying alive",
            Self::Presence => "Presence",
            Self::Limits => "Limits",
            Self::Shards => "Shards and turns",
            Self::Shutdown => "Shutdown",
            Self::Logs => "Logs",
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl Named for LogFormat {
    const ALL: &'static [Self] = &[Self::Text, Self::Json];

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Which of a user's connections ends when there is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yields {
    /// The one that has been open for the longest: who comes last is where the user is.
    Oldest,
    /// The one that was opened last: whoever was there first stays.
    Newest,
}

impl Named for Yields {
    const ALL: &'static [Self] = &[Self::Oldest, Self::Newest];

    fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Newest => "newest",
        }
    }
}

/// The least important lines that are still logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What needs an operator.
    Error,
    /// What an operator should look at some day.
    Warn,
    /// Starts, stops and settings.
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl Named for LogLevel {
    const ALL: &'static [Self] = &[Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How somebody is refused whose token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthRefusal {
    /// 401 before the upgrade.
    Status,
    /// Upgrade, then close 4401: a browser shows a page nothing of a refused upgrade.
    Close,
}

impl Named for AuthRefusal {
    const ALL: &'static [Self] = &[Self::Status, Self::Close];

    fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Close => "close",
        }
    }
}

/// What follows when `auth_url` gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthFailure {
    /// Nobody is let in.
    Closed,
    /// Everybody is, as `userId` says.
    Open,
}

impl Named for AuthFailure {
    const ALL: &'static [Self] = &[Self::Closed, Self::Open];

    fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// Whom a client may see that was not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultReach {
    /// Everybody.
    All,
    /// Nobody.
    None,
}

impl Named for DefaultReach {
    const ALL: &'static [Self] = &[Self::All, Self::None];

    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::None => "none",
        }
    }
}

/// Which pages of the control port need no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlPages {
    /// `/health…` and `/metrics`.
    All,
    /// `/health…`.
    Health,
    /// None.
    None,
}

impl Named for ControlPages {
    const ALL: &'static [Self] = &[Self::All, Self::Health, Self::None];

    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Health => "health",
            Self::None => "none",
        }
    }
}

const fn time(min: Duration, max: Duration) -> Time {
    Time { min, max, or_zero: false }
}

const fn time_or_zero(min: Duration, max: Duration) -> Time {
    Time { min, max, or_zero: true }
}

const fn count(min: usize, max: usize) -> Count {
    Count { min, max }
}

const fn size(min: usize, max: usize) -> Size {
    Size { min, max }
}

/// Makes [`Config`], its defaults and [`KNOBS`] of one list. A knob's doc comment is its help text.
macro_rules! knobs {
    ($(
        $group:ident {
            $( $(#[doc = $help:literal])+ $name:ident: $kind:ty = $bounds:expr, $default:expr; )+
        }
    )+) => {
        /// The value in force of every knob. Made by [`crate::config::resolve`], or [`Config::default`] in tests.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $($( $(#[doc = $help])+ pub $name: <$kind as Kind>::Value, )+)+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($( $name: $default, )+)+ }
            }
        }

        /// Every knob, group by group in the order in which they are shown.
        pub static KNOBS: &[Knob] = &[$($(
            Knob {
                name: stringify!($name),
                group: Group::$group,
                help: concat!($($help),+).trim_ascii(),
                noun: <$kind as Kind>::NOUN,
                example: <$kind as Kind>::EXAMPLE,
                placeholder: <$kind as Kind>::PLACEHOLDER,
                quoted: <$kind as Kind>::QUOTED,
                is_switch: <$kind as Kind>::IS_SWITCH,
                is_list: <$kind as Kind>::IS_LIST,
                range: || { let kind: $kind = $bounds; kind.range() },
                set: |config, text| {
                    let kind: $kind = $bounds;
                    config.$name = kind.parse(text)?;
                    Ok(())
                },
                print: |config| { let kind: $kind = $bounds; kind.print(&config.$name) },
            },
        )+)+];
    };
}

static DEFAULTS: LazyLock<Config> = LazyLock::new(Config::default);

knobs! {
    Network {
        /// Address of the WebSocket port. The default takes IPv4 and IPv6; port 0 lets the kernel choose.
        listen: Address = Address, SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 3000);
        /// Address of the control port: health, metrics. Where others reach it, give it keys (control_keys_file).
        control_listen: Address = Address, SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3001);
        /// Connections that may wait in each listener's queue to be accepted; the kernel caps it at net.core.somaxconn.
        backlog: Count = count(1, 65_535), 4096;
        /// Send answers at once instead of waiting to fill a packet (TCP_NODELAY).
        tcp_nodelay: Switch = Switch, true;
        /// Receive buffer of each connection in the kernel (SO_RCVBUF); 0 lets the kernel grow and shrink it.
        socket_receive_buffer: Size = size(0, 64 * MIB), 0;
        /// Send buffer of each connection in the kernel (SO_SNDBUF); 0 lets the kernel grow and shrink it.
        socket_send_buffer: Size = size(0, 64 * MIB), 0;
        /// Quiet time after which the kernel asks whether the peer's host is there (SO_KEEPALIVE); 0 turns it off.
        tcp_keepalive: Time = time_or_zero(SECOND, 9 * HOUR), Duration::ZERO;
        /// How long sent data may stay unacknowledged before the kernel gives up (TCP_USER_TIMEOUT); 0 as it likes.
        tcp_user_timeout: Time = time_or_zero(SECOND, DAY), Duration::ZERO;
        /// Networks whose connections must begin with a PROXY header, version 1 or 2; from all others it is refused.
        proxy_protocol_from: Networks = Networks, Vec::new();
        /// Networks of proxies whose X-Forwarded-For or Forwarded tells the client's address; others' are ignored.
        trusted_proxies: Networks = Networks, Vec::new();
    }
    Tls {
        /// PEM file of the server's certificate, then those between it and its authority. With it both ports speak TLS.
        tls_certificate: FilePath = FilePath, None;
        /// PEM file of the certificate's private key.
        tls_key: FilePath = FilePath, None;
        /// PEM file of authorities. With it a client on the WebSocket port must show a certificate of one of them.
        tls_client_ca: FilePath = FilePath, None;
    }
    Access {
        /// File with the secret that tokens are signed with by HS256, at least 32 bytes.
        jwt_hmac_secret_file: FilePath = FilePath, None;
        /// File with the public keys, in PEM, that tokens are signed for by RS256, ES256 or EdDSA.
        jwt_public_key: FilePath = FilePath, None;
        /// JWK Set with the keys of tokens: a file, or one URL that is fetched.
        jwt_jwks: Text = Text, None;
        /// How often a JWK Set is fetched anew that has a URL.
        jwks_refresh: Time = time(SECOND, DAY), Duration::from_secs(600);
        /// Of these at least one must be in a token's aud; empty refuses tokens that have one.
        jwt_audience: List = List, Vec::new();
        /// Of these a token's iss must be one; empty takes any.
        jwt_issuer: List = List, Vec::new();
        /// How far the clocks of issuers and server may be apart.
        jwt_leeway: Time = time(Duration::ZERO, HOUR), Duration::from_secs(30);
        /// URL of a service that is asked, with a request's headers, whether to let the client in.
        auth_url: Text = Text, None;
        /// How long an answer of auth_url is waited for.
        auth_timeout: Time = time(Duration::from_millis(10), MINUTE), Duration::from_secs(5);
        /// Whether clients are let in while auth_url answers nobody: open or closed.
        auth_failure: Choice<AuthFailure> = Choice::any(), AuthFailure::Closed;
        /// Threads that ask auth_url; each has one request under way.
        auth_threads: Count = count(1, 256), 8;
        /// Clients that may wait for one of those threads; those above it are told to come again later.
        auth_queue: Count = count(1, 1_048_576), 1024;
        /// Bytes for answers of auth_url that may be remembered, by their Cache-Control: max-age.
        auth_cache: Size = size(0, 1024 * MIB), 16 * MIB;
        /// File with the authorities, in PEM, to trust for auth_url and jwt_jwks; empty for the host's own.
        auth_ca: FilePath = FilePath, None;
        /// Whether a client needs a token; auto: as soon as a key of tokens or auth_url is given.
        auth_required: AutoSwitch = AutoSwitch, None;
        /// How a client is refused: with status 401, or by upgrading and close 4401, which a page can see.
        auth_refusal: Choice<AuthRefusal> = Choice::any(), AuthRefusal::Status;
        /// How long a client without a token may take to send one as AUTH, its first message; 0 refuses it at once.
        auth_message_timeout: Time = time_or_zero(Duration::from_millis(100), MINUTE), Duration::from_secs(10);
        /// Whom clients may see whose token has no claims watch and rooms: all or none.
        default_reach: Choice<DefaultReach> = Choice::any(), DefaultReach::All;
        /// Pages that may connect, by their origin, as in https://app.example; empty for any.
        allowed_origins: List = List, Vec::new();
        /// Names by which this host may be called, as in chat.example; empty for any.
        allowed_hosts: List = List, Vec::new();
        /// File with keys of the control port, a line each: read KEY or write KEY.
        control_keys_file: FilePath = FilePath, None;
        /// Pages of the control port that need no key: all, health or none.
        control_open_pages: Choice<ControlPages> = Choice::any(), ControlPages::All;
        /// Pages that may read the control port from a browser, by their origin; empty for none.
        control_cors_origins: List = List, Vec::new();
        /// Whether the WebSocket port serves /metrics.
        public_metrics: Switch = Switch, true;
        /// Say at start what is open to others than this host without authentication or TLS.
        open_warning: Switch = Switch, true;
    }
    StayingAlive {
        /// A connection without a complete message for so long is ended with 4408; 0 turns it off.
        heartbeat_timeout: Time = time_or_zero(SECOND, DAY), Duration::from_secs(75);
        /// The shortest heartbeat timeout that a client may ask for; shorter wishes are moved to it.
        heartbeat_timeout_min: Time = time(SECOND, DAY), Duration::from_secs(5);
        /// The longest heartbeat timeout that a client may ask for; longer wishes are moved to it.
        heartbeat_timeout_max: Time = time(SECOND, DAY), Duration::from_secs(600);
        /// A connection from which nothing at all came for so long is sent a Ping; 0 turns it off.
        probe_after: Time = time_or_zero(Duration::from_millis(100), DAY), Duration::from_secs(45);
        /// How long after that Ping something must have arrived, or the connection is ended with 4408.
        probe_timeout: Time = time(Duration::from_millis(100), HOUR), Duration::from_secs(10);
        /// The shortest wait before coming back that clients are told for ends that nobody announced.
        reconnect_min: Time = time(Duration::ZERO, HOUR), Duration::from_secs(1);
        /// The longest such wait; each client chooses at random between the two.
        reconnect_max: Time = time(Duration::ZERO, HOUR), Duration::from_secs(5);
    }
    Presence {
        /// Changes are gathered for so long after the first of them, into one message a watcher.
        change_interval: Time = time(Duration::ZERO, MINUTE), Duration::from_millis(50);
        /// A user whose connection ended without saying so stays as it was for so long; 0 turns it off.
        offline_grace: Time = time(Duration::ZERO, HOUR), Duration::from_secs(10);
        /// How long after its end a session may be resumed by its sessionId; 0 turns it off.
        resume_window: Time = time(Duration::ZERO, HOUR), Duration::from_secs(30);
        /// Sessions of the whole process that are kept beyond offline_grace; the oldest are forgotten first.
        resume_sessions_max: Count = count(0, 1_000_000_000), 1_000_000;
        /// How far cursors lie behind the clock: what is sent twice for it is harmless.
        cursor_slack: Time = time(Duration::ZERO, MINUTE), SECOND;
        /// How long it is remembered who left a room; who brings an older cursor is told everything.
        history: Time = time(SECOND, DAY), Duration::from_secs(300);
        /// Members beyond which a room is told by its count alone.
        room_detail_limit: Count = count(1, 1_000_000), 1_000;
        /// Users that one connection may watch.
        watched_users_max: Count = count(0, 1_000_000), 1_000;
        /// Rooms that one connection may watch, and as many that it may be in.
        rooms_max: Count = count(0, 65_536), 100;
        /// Users of the whole process that are offline of whom it is known when they were last seen.
        last_seen_capacity: Count = count(0, 1_000_000_000), 1_000_000;
    }
    Limits {
        /// Connections of the whole process, above which new ones get 503; 0 for as many as descriptors allow.
        max_connections: Count = count(0, 1_000_000_000), 0;
        /// Bytes that connections may hold in all, above which new ones get 503 and nothing grows; 0 for four fifths of
        /// what the host or its cgroup allows.
        memory_limit: Size = size(0, 1 << 40), 0;
        /// The largest message that a client may send; a larger one ends its connection with 1009.
        max_message: Size = size(KIB, 16 * MIB), 64 * KIB;
        /// The largest request, its line and its headers; a larger one gets 431, or 414 where that is its line.
        max_request: Size = size(KIB, 64 * KIB), 8 * KIB;
        /// Frames into which one message may be cut.
        max_frames: Count = count(1, 1_048_576), 256;
        /// Bytes that may wait for one connection's socket; while more wait, nothing more is read from it.
        send_queue: Size = size(4 * KIB, 16 * MIB), 64 * KIB;
        /// Time from accepting a connection to the end of its HTTP request.
        handshake_timeout: Time = time(Duration::from_millis(100), Duration::from_secs(300)), Duration::from_secs(10);
        /// Time from a message's first byte to its last.
        message_timeout: Time = time(Duration::from_millis(100), HOUR), Duration::from_secs(30);
        /// A connection that takes no byte for so long while something waits for it is ended.
        send_timeout: Time = time(Duration::from_millis(100), HOUR), Duration::from_secs(60);
        /// Messages, Pings and Pongs a second that a connection may send for good; 0 for no such limit.
        message_rate: Count = count(0, 1_000_000), 0;
        /// How many of them it may send at once; so many more again, and it is closed with 4429.
        message_burst: Count = count(1, 1_000_000), 100;
        /// Upgrades a second from one IPv4 address or IPv6 /64, beyond which they get 429; 0 for no such limit.
        upgrade_rate_per_address: Count = count(0, 1_000_000), 0;
        /// Connections that one IPv4 address or IPv6 /64 may have, beyond which new ones are closed with 4429; 0 for no
        /// such limit.
        connections_per_address: Count = count(0, 1_000_000_000), 0;
        /// Connections that one user may have; 0 for no such limit.
        connections_per_user: Count = count(0, 1_000_000), 0;
        /// Which of a user's connections ends when there is one too many: the oldest with 4409, the newest with 4429.
        connection_that_yields: Choice<Yields> = Choice::any(), Yields::Oldest;
        /// Status changes a second of one user; what comes faster is put off, and the newest wins; 0 for no such limit.
        status_rate_per_user: Count = count(0, 1_000_000), 0;
    }
    Shards {
        /// Threads that serve connections; 0 for one per core that this process may use.
        shards: Count = count(0, 1024), 0;
        /// Pin each shard's thread to one core.
        pin: Switch = Switch, true;
        /// Give each shard a descriptor table of its own (Linux), so that the limit per process holds per shard.
        own_descriptor_tables: Switch = Switch, true;
        /// Events that one poll may return.
        event_batch: Count = count(1, 65_536), 1024;
        /// The buffer into which a shard reads, one for all its connections.
        read_buffer: Size = size(4 * KIB, MIB), 64 * KIB;
        /// Batches of messages from other threads that may wait for a shard.
        inbox_capacity: Count = count(16, 1_048_576), 1024;
        /// Connections that a shard accepts in one turn of its loop.
        turn_accepts: Count = count(1, 65_536), 64;
        /// TLS handshakes that a shard goes on with in one turn of its loop; others wait.
        turn_handshakes: Count = count(1, 65_536), 4;
        /// Messages of one connection that a shard handles in one turn of its loop.
        turn_messages: Count = count(1, 65_536), 256;
        /// Presence messages that a shard sends in one turn of its loop, so that a storm of them delays no answers.
        turn_deliveries: Count = count(1, 65_536), 256;
        /// The grain of all timeouts: they are noticed up to so much late.
        timer_tick: Time = time(Duration::from_millis(10), SECOND), Duration::from_millis(100);
    }
    Shutdown {
        /// How long SIGTERM waits for connections to end before the process does; 0 ends at once.
        drain_timeout: Time = time(Duration::ZERO, HOUR), Duration::from_secs(10);
        /// How long a closed connection may take to answer with its own close before its socket is closed.
        close_timeout: Time = time(Duration::from_millis(100), MINUTE), Duration::from_secs(2);
    }
    Logs {
        /// How log lines are written.
        log_format: Choice<LogFormat> = Choice::any(), LogFormat::Text;
        /// The least important lines that are still logged.
        log_level: Choice<LogLevel> = Choice::any(), LogLevel::Info;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique() {
        let names: HashSet<&str> = KNOBS.iter().map(|knob| knob.name).collect();
        assert_eq!(names.len(), KNOBS.len());
    }

    #[test]
    fn every_default_lies_in_its_own_range_and_reads_as_itself() {
        for knob in KNOBS {
            let mut config = Config::default();
            assert_eq!((knob.set)(&mut config, &knob.default()), Ok(()), "{}", knob.name);
            assert_eq!(config, Config::default(), "{}", knob.name);
        }
    }

    #[test]
    fn each_kind_tells_what_is_malformed_from_what_is_out_of_range() {
        use InvalidValue::{Malformed, OutOfRange};
        let cases: [(&str, &str, Result<(), InvalidValue>); 55] = [
            ("auth_required", "auto", Ok(())),
            ("auth_required", "false", Ok(())),
            ("auth_required", "on", Err(Malformed)),
            ("jwt_public_key", "", Ok(())),
            ("jwt_public_key", "a b/ключ.pem", Ok(())),
            ("jwt_public_key", "a\"b", Err(Malformed)),
            ("jwt_jwks", "a\\b", Err(Malformed)),
            ("jwt_issuer", "https://a, b", Ok(())),
            ("jwt_issuer", "a,,b", Err(Malformed)),
            ("jwt_issuer", "a,", Err(Malformed)),
            ("jwt_issuer", " ", Err(Malformed)),
            ("listen", "127.0.0.1:0", Ok(())),
            ("listen", "localhost:3000", Err(Malformed)),
            ("listen", "3000", Err(Malformed)),
            ("listen", "[::]:65536", Err(Malformed)),
            ("tls_key", "", Ok(())),
            ("tls_key", "/etc/rollcall/key.pem", Ok(())),
            ("tls_key", "a\"b", Err(Malformed)),
            ("trusted_proxies", "", Ok(())),
            ("trusted_proxies", "10.0.0.0/8, 192.0.2.7 ,2001:db8::/32,::1", Ok(())),
            ("trusted_proxies", "10.0.0.0/33", Err(Malformed)),
            ("trusted_proxies", "10.0.0.1,", Err(Malformed)),
            ("trusted_proxies", "proxy.example", Err(Malformed)),
            ("trusted_proxies", "10.0.0.1:80", Err(Malformed)),
            ("pin", "false", Ok(())),
            ("pin", "yes", Err(Malformed)),
            ("backlog", "1", Ok(())),
            ("backlog", "65535", Ok(())),
            ("backlog", "0", Err(OutOfRange)),
            ("backlog", "65536", Err(OutOfRange)),
            ("backlog", "-1", Err(OutOfRange)),
            ("backlog", "99999999999999999999", Err(OutOfRange)),
            ("backlog", "1e3", Err(Malformed)),
            ("backlog", "-", Err(Malformed)),
            ("max_message", "1KiB", Ok(())),
            ("max_message", "16777216", Ok(())),
            ("max_message", "1023B", Err(OutOfRange)),
            ("max_message", "16777217", Err(OutOfRange)),
            ("max_message", "99999999999999999999MiB", Err(OutOfRange)),
            ("max_message", "64KB", Err(Malformed)),
            ("heartbeat_timeout", "0", Ok(())),
            ("heartbeat_timeout", "1s", Ok(())),
            ("heartbeat_timeout", "1d", Ok(())),
            ("heartbeat_timeout", "999ms", Err(OutOfRange)),
            ("heartbeat_timeout", "86400001ms", Err(OutOfRange)),
            ("heartbeat_timeout", "75", Err(Malformed)),
            ("heartbeat_timeout_min", "0", Err(OutOfRange)),
            ("probe_after", "0s", Ok(())),
            ("drain_timeout", "0", Ok(())),
            ("reconnect_min", "0ms", Ok(())),
            ("log_format", "json", Ok(())),
            ("log_format", "xml", Err(Malformed)),
            ("log_level", "trace", Ok(())),
            ("log_level", "INFO", Err(Malformed)),
            ("log_level", "", Err(Malformed)),
        ];
        for (name, text, expected) in cases {
            let knob = KNOBS.iter().find(|knob| knob.name == name).unwrap();
            assert_eq!((knob.set)(&mut Config::default(), text), expected, "{name} = {text}");
        }
    }

    #[test]
    fn a_refused_value_leaves_the_field_as_it_was() {
        let mut config = Config::default();
        for knob in KNOBS {
            // No kind takes control characters.
            assert!((knob.set)(&mut config, "nonsense\0").is_err(), "{}", knob.name);
        }
        assert_eq!(config, Config::default());
    }
}
