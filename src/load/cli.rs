//! What the operator asked of `rollcall load`: flags in, [`Settings`] out.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::secure::{self, Trust};

/// How many connections one source address gets by default: past some 14,000 the kernel's search for a free port
/// falls from 25,000 a second to 370.
const CONNECTIONS_PER_ADDRESS: usize = 10_000;
/// How many connections one thread gets by default: its descriptor table commonly ends at 20,000.
const CONNECTIONS_PER_THREAD: usize = 15_000;
/// How many source addresses churn gets by default: a port just used cannot be used again for a second.
const CHURN_ADDRESSES: usize = 8;

/// What the connections do once they are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each sends a heartbeat each interval, whether or not the last was answered; latency counts from when it was due.
    Open,
    /// Each sends the next heartbeat as soon as the last is answered.
    Closed,
    /// They are held, and pings are answered.
    Idle,
    /// Each is closed as soon as CONNECT has come, and opened anew.
    Churn,
    /// Each watches users and a room; some change, and all see it. Heartbeats go on as in the open loop.
    Watch,
}

impl Mode {
    const ALL: [Self; 5] = [Self::Open, Self::Closed, Self::Idle, Self::Churn, Self::Watch];

    /// Its name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Churn => "churn",
            Self::Watch => "watch",
        }
    }
}

/// What the server's answers are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// CONNECT with the right userId first, then one HEARTBEAT_ACK a heartbeat.
    Rollcall,
    /// No first message, then the same payload back.
    Echo,
    /// No first message, then one text or binary message of any content a heartbeat.
    AnyFrame,
}

impl Expect {
    const ALL: [Self; 3] = [Self::Rollcall, Self::Echo, Self::AnyFrame];

    /// Its name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rollcall => "rollcall",
            Self::Echo => "echo",
            Self::AnyFrame => "any-frame",
        }
    }
}

/// How rooms are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomDetail {
    /// By name.
    Full,
    /// By the count alone.
    Count,
}

impl RoomDetail {
    const ALL: [Self; 2] = [Self::Full, Self::Count];

    /// Its name in flags and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Count => "count",
        }
    }
}

/// What the connections of [`Mode::Watch`] watch, and how often what they watch changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchSettings {
    /// Users that each watches.
    pub users: usize,
    /// Connections that change, the first ones of all; whom the others watch. At least 1, and as many as `users`.
    pub changers: usize,
    /// Rooms among which the connections are spread, each a member of one and watching it; 0 for none.
    pub rooms: usize,
    /// How they watch them.
    pub room_detail: RoomDetail,
    /// Changes a second, over all who change; 0 for none.
    pub change_rate: u64,
    /// Changes that are due at a time; at least 1.
    pub burst: u64,
}

/// What a heartbeat looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatForm {
    /// The type alone: 20 bytes.
    Compact,
    /// With a timestamp, as most clients write it: 59 bytes.
    Timestamp,
}

impl HeartbeatForm {
    const ALL: [Self; 2] = [Self::Compact, Self::Timestamp];

    fn name(self) -> &'static str {
        match self {
            Self::Compact => "compact",
            Self::Timestamp => "timestamp",
        }
    }

    /// The text on the wire.
    pub fn text(self) -> &'static [u8] {
        match self {
            Self::Compact => br#"{"type":"HEARTBEAT"}"#,
            Self::Timestamp => br#"{"type":"HEARTBEAT","timestamp":"2026-11-25T03:54:45.123Z"}"#,
        }
    }
}

/// Where the connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The URL as given.
    pub url: String,
    /// The server's socket.
    pub address: SocketAddr,
    /// Host and port, for the `Host` header.
    pub authority: String,
    /// Path and query up to the value of `userId`, which comes last: `/?userId=`.
    pub path_start: String,
    /// Whose certificate the server must show; none where TLS is not spoken.
    pub name: Option<ServerName<'static>>,
}

/// All that a run is told. Every number is within its bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the connections go.
    pub target: Target,
    /// How many connections.
    pub connections: usize,
    /// Connects a second, over all threads; 0 is as fast as `connects_in_flight` lets it.
    pub connect_rate: u64,
    /// Connections that may be between connect and CONNECT at a time, over all threads.
    pub connects_in_flight: usize,
    /// Threads, each with a poll and a descriptor table of its own.
    pub threads: usize,
    /// Cores for the threads, in turn; empty where they are not pinned.
    pub cores: Vec<usize>,
    /// How long is measured.
    pub duration: Duration,
    /// How long the load runs before that.
    pub warm_up: Duration,
    /// What the connections do.
    pub mode: Mode,
    /// Open loop: time between two heartbeats of a connection.
    pub interval: Duration,
    /// How long a handshake may take, and how long answers may take at the end.
    pub answer_timeout: Duration,
    /// The server's process, whose CPU and memory are read.
    pub server_pid: Option<u32>,
    /// The report is JSON.
    pub json: bool,
    /// No progress on stderr.
    pub quiet: bool,
    /// The first eight bytes of every userId.
    pub users_prefix: [u8; 8],
    /// How many loopback addresses the connections come from; 0 leaves the source to the kernel.
    pub local_addresses: usize,
    /// What a heartbeat looks like.
    pub heartbeat: HeartbeatForm,
    /// What answers are held against.
    pub expect: Expect,
    /// How TLS is spoken, where it is.
    pub tls: Option<Arc<ClientConfig>>,
    /// What [`Mode::Watch`] does.
    pub watch: WatchSettings,
}

impl Settings {
    /// Reads what stands behind `rollcall load`. The error prints itself, `--help` among them.
    pub fn parse(arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut command = command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        Self::from_matches(&matches)
            .map_err(|sentence| command.error(clap::error::ErrorKind::ValueValidation, sentence))
    }

    fn from_matches(matches: &ArgMatches) -> Result<Self, String> {
        let url = matches.get_one::<String>("url").ok_or("the URL is missing")?;
        let target = target(url, matches.get_flag("allow-remote"))?;
        let tls = target.name.is_some().then(|| tls(matches)).transpose()?;
        let connections = number(matches, "connections")?;
        let mode: Mode = *matches.get_one("mode").ok_or("--mode is missing")?;
        let addresses_needed = connections.div_ceil(CONNECTIONS_PER_ADDRESS);
        let local_addresses = match (target.address.ip(), number(matches, "local-addresses").ok()) {
            (IpAddr::V4(address), given) if address.is_loopback() => given.unwrap_or(if mode == Mode::Churn {
                CHURN_ADDRESSES.max(addresses_needed)
            } else {
                addresses_needed
            }),
            (_, None) => 0,
            (address, Some(_)) => {
                return Err(format!("--local-addresses needs a target in 127.0.0.0/8, and {address} is not"));
            }
        };
        let watch = watch_settings(matches, mode, connections)?;
        let threads = number(matches, "threads").unwrap_or(connections.div_ceil(CONNECTIONS_PER_THREAD));
        Ok(Self {
            target,
            connections,
            connect_rate: number(matches, "rate-connect")? as u64,
            connects_in_flight: number(matches, "connects-in-flight")?,
            threads: threads.min(connections),
            cores: matches.get_many("pin").map(|cores| cores.copied().collect()).unwrap_or_default(),
            duration: duration(matches, "duration")?,
            warm_up: duration(matches, "warm-up")?,
            mode,
            interval: duration(matches, "interval")?,
            answer_timeout: duration(matches, "answer-timeout")?,
            server_pid: matches.get_one("server-pid").copied(),
            json: matches.get_flag("json"),
            quiet: matches.get_flag("quiet"),
            users_prefix: *matches.get_one("users-prefix").ok_or("--users-prefix is missing")?,
            local_addresses,
            heartbeat: *matches.get_one("heartbeat").ok_or("--heartbeat is missing")?,
            expect: *matches.get_one("expect").ok_or("--expect is missing")?,
            tls,
            watch,
        })
    }

    /// The address that connection `index` comes from: 127.0.0.2 and up, in turn.
    pub fn local_address(&self, index: usize) -> Option<Ipv4Addr> {
        let turn = index.checked_rem(self.local_addresses)?;
        let first = u32::from(Ipv4Addr::new(127, 0, 0, 2));
        Some(Ipv4Addr::from(first.saturating_add(u32::try_from(turn).ok()?)))
    }
}

/// The definition behind the parser, `--help` and completions.
pub fn command() -> Command {
    let value = |name: &'static str, value_name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value_name).help(help)
    };
    let count = |name, default: &'static str, low: i64, high: i64, help| {
        value(name, "COUNT", help).default_value(default).value_parser(value_parser!(i64).range(low..=high))
    };
    let optional_count =
        |name, low: i64, high: i64, help| value(name, "COUNT", help).value_parser(value_parser!(i64).range(low..=high));
    let time = |name, default: &'static str, low, high, help| {
        value(name, "DURATION", help).default_value(default).value_parser(move |text: &str| bounded(text, low, high))
    };
    const DAY: Duration = Duration::from_secs(86_400);
    const MILLISECOND: Duration = Duration::from_millis(1);
    Command::new("rollcall load")
        .no_binary_name(true)
        .about("Opens many connections to a server, sends heartbeats, checks every answer and measures.")
        .arg(Arg::new("url").value_name("URL").required(true).help("Where to: ws://127.0.0.1:3000/ or wss://…"))
        .arg(count("connections", "1000", 1, 10_000_000, "How many connections"))
        .arg(count("rate-connect", "5000", 0, 1_000_000, "Connects a second; 0 is as fast as they come"))
        .arg(count("connects-in-flight", "512", 1, 65_536, "Connections between connect and CONNECT at a time"))
        .arg(optional_count("threads", 1, 1024, "Threads; by default one for each 15,000 connections"))
        .arg(
            value("pin", "CORE,…", "Cores for the threads, in turn")
                .value_delimiter(',')
                .value_parser(|text: &str| text.parse::<usize>().map_err(|_| "a core is a number, as in 1 or 1,2")),
        )
        .arg(time("duration", "10s", Duration::from_millis(100), DAY, "How long is measured"))
        .arg(time("warm-up", "1s", Duration::ZERO, DAY, "How long the load runs before that"))
        .arg(
            value("mode", "MODE", "What the connections do: open, closed, idle, churn or watch")
                .default_value(Mode::Open.name())
                .value_parser(|text: &str| one_of(text, &Mode::ALL, Mode::name)),
        )
        .arg(time("interval", "15s", MILLISECOND, DAY, "Open loop: time between heartbeats of a connection"))
        .arg(time("answer-timeout", "10s", MILLISECOND, DAY, "How long a handshake or the last answers may take"))
        .arg(
            value("server-pid", "PID", "The server's process: its CPU and memory are measured")
                .value_parser(value_parser!(u32).range(1..)),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("The report as JSON"))
        .arg(Arg::new("quiet").long("quiet").action(ArgAction::SetTrue).help("No progress on stderr"))
        .arg(
            value("users-prefix", "TEXT", "The first 1 to 8 characters of every userId, so that two loads differ")
                .default_value("00000000")
                .value_parser(users_prefix),
        )
        .arg(optional_count(
            "local-addresses",
            1,
            1000,
            "Loopback addresses to come from, 127.0.0.2 and up; by default one for each 10,000 connections, 8 for churn",
        ))
        .arg(
            value("heartbeat", "FORM", "What is sent: compact (20 bytes) or timestamp (59 bytes)")
                .default_value(HeartbeatForm::Timestamp.name())
                .value_parser(|text: &str| one_of(text, &HeartbeatForm::ALL, HeartbeatForm::name)),
        )
        .arg(
            value("expect", "WHAT", "What answers must be: rollcall, echo (the same bytes) or any-frame")
                .default_value(Expect::Rollcall.name())
                .value_parser(|text: &str| one_of(text, &Expect::ALL, Expect::name)),
        )
        .arg(count("watch-users", "100", 0, 1_000_000, "Watch: users that each connection watches"))
        .arg(optional_count("changers", 1, 10_000_000, "Watch: connections that change; by default all of them"))
        .arg(count("rooms", "0", 0, 1_000_000, "Watch: rooms, each connection in one and watching it"))
        .arg(
            value("room-detail", "DETAIL", "Watch: how rooms are watched, full or count")
                .default_value(RoomDetail::Full.name())
                .value_parser(|text: &str| one_of(text, &RoomDetail::ALL, RoomDetail::name)),
        )
        .arg(count("rate-change", "10", 0, 1_000_000, "Watch: changes a second"))
        .arg(count("change-burst", "1", 1, 1_000_000, "Watch: changes that are made at a time"))
        .arg(
            value("tls-ca", "FILE", "wss: PEM file of the authorities that the server's certificate must come from")
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new("tls-insecure")
                .long("tls-insecure")
                .action(ArgAction::SetTrue)
                .conflicts_with("tls-ca")
                .help("wss: takes any certificate"),
        )
        .arg(
            Arg::new("tls-resume")
                .long("tls-resume")
                .action(ArgAction::SetTrue)
                .help("wss: connections resume the sessions of others; without it every handshake is full"),
        )
        .arg(
            value("tls-version", "VERSION", "wss: 1.3 or 1.2")
                .default_value("1.3")
                .value_parser(["1.2", "1.3"]),
        )
        .arg(
            Arg::new("allow-remote")
                .long("allow-remote")
                .action(ArgAction::SetTrue)
                .help("Allows a target that is not loopback; only for hosts that are yours"),
        )
}

fn tls(matches: &ArgMatches) -> Result<Arc<ClientConfig>, String> {
    let trust = match matches.get_one::<PathBuf>("tls-ca") {
        Some(path) => Trust::Authorities(path.clone()),
        None if matches.get_flag("tls-insecure") => Trust::Anybody,
        None => return Err("a wss:// URL needs --tls-ca FILE, or --tls-insecure".to_owned()),
    };
    let is_old = matches.get_one::<String>("tls-version").is_some_and(|version| version == "1.2");
    secure::config(&trust, is_old, matches.get_flag("tls-resume"))
}

fn watch_settings(matches: &ArgMatches, mode: Mode, connections: usize) -> Result<WatchSettings, String> {
    let changers = number(matches, "changers").unwrap_or(connections);
    let settings = WatchSettings {
        users: number(matches, "watch-users")?,
        changers,
        rooms: number(matches, "rooms")?,
        room_detail: *matches.get_one("room-detail").ok_or("--room-detail is missing")?,
        change_rate: number(matches, "rate-change")? as u64,
        burst: number(matches, "change-burst")? as u64,
    };
    if mode != Mode::Watch {
        return Ok(settings);
    }
    if changers > connections {
        return Err(format!("--changers {changers} are more than the {connections} connections that there are"));
    }
    if settings.users > changers {
        return Err(format!("--watch-users {} are more than the {changers} that change", settings.users));
    }
    if settings.users == 0 && settings.rooms == 0 {
        return Err("with --watch-users 0 and without --rooms there is nothing to watch".to_owned());
    }
    Ok(settings)
}

fn number(matches: &ArgMatches, name: &str) -> Result<usize, String> {
    let given = matches.get_one::<i64>(name).ok_or_else(|| format!("--{name} is missing"))?;
    usize::try_from(*given).map_err(|_| format!("--{name} must not be negative"))
}

fn duration(matches: &ArgMatches, name: &str) -> Result<Duration, String> {
    matches.get_one(name).copied().ok_or_else(|| format!("--{name} is missing"))
}

fn one_of<T: Copy>(text: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, String> {
    let names = || all.iter().map(|&value| name(value)).collect::<Vec<_>>().join(", ");
    all.iter().copied().find(|&value| name(value) == text).ok_or_else(|| format!("it must be one of {}", names()))
}

/// Reads `500ms`, `45s`, `10m`, `1h`, `1d`, `0`.
fn bounded(text: &str, low: Duration, high: Duration) -> Result<Duration, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == "0" => 0,
        _ => return Err("a duration is a number and ms, s, m, h or d, as in 500ms or 10s".to_owned()),
    };
    let duration = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)).map(Duration::from_millis);
    duration
        .filter(|duration| (low..=high).contains(duration))
        .ok_or_else(|| format!("it must be between {low:?} and {high:?}"))
}

fn users_prefix(text: &str) -> Result<[u8; 8], String> {
    let fits = (1..=8).contains(&text.len());
    if !fits || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err("it must be 1 to 8 ASCII letters, digits or underscores".to_owned());
    }
    let mut prefix = [b'0'; 8];
    prefix[..text.len()].copy_from_slice(text.as_bytes());
    Ok(prefix)
}

/// Takes `ws://host[:port][/path][?query]`, or the same with `wss`, apart. The host must be loopback unless
/// `allow_remote`.
fn target(url: &str, allow_remote: bool) -> Result<Target, String> {
    let shape = || format!("{url} is no URL of the form ws://HOST:PORT/PATH or wss://HOST:PORT/PATH");
    let secure = url.strip_prefix("wss://");
    let rest = secure.or_else(|| url.strip_prefix("ws://")).ok_or_else(shape)?;
    if !rest.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'#') {
        return Err(format!("{url}: a URL has no blanks, controls or fragment, and other characters are written %xx"));
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || authority.contains('@') {
        return Err(shape());
    }
    let has_port = authority.rfind(':').is_some_and(|colon| colon > authority.rfind(']').unwrap_or(0));
    let port = if secure.is_some() { 443 } else { 80 };
    let with_port = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
    let host = with_port.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let name = secure.map(|_| ServerName::try_from(host).map_err(|_| shape())).transpose()?;
    let addresses: Vec<SocketAddr> =
        with_port.to_socket_addrs().map_err(|error| format!("{authority} cannot be resolved: {error}"))?.collect();
    let usable = |address: &&SocketAddr| allow_remote || address.ip().is_loopback();
    let address = addresses
        .iter()
        .filter(usable)
        .find(|address| address.is_ipv4())
        .or_else(|| addresses.iter().find(usable))
        .copied()
        .ok_or_else(|| {
            format!("{authority} is not a loopback address; --allow-remote if that host is yours to load")
        })?;
    if address.port() == 0 {
        return Err(format!("{url}: no server listens on port 0"));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let joint = match path.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    Ok(Target {
        url: url.to_owned(),
        address,
        authority: authority.to_owned(),
        path_start: format!("{slash}{path}{joint}userId="),
        name,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn parse(line: &str) -> Result<Settings, clap::Error> {
        Settings::parse(line.split_whitespace().map(OsString::from).collect())
    }

    fn error(line: &str) -> String {
        parse(line).expect_err(line).to_string()
    }

    #[test]
    fn defaults_follow_the_number_of_connections() {
        let settings = parse("ws://127.0.0.1:3000/").unwrap();
        assert_eq!((settings.connections, settings.threads, settings.local_addresses), (1000, 1, 1));
        assert_eq!((settings.mode, settings.expect), (Mode::Open, Expect::Rollcall));
        assert_eq!(settings.heartbeat.text().len(), 59);
        assert_eq!(settings.target.path_start, "/?userId=");
        let settings = parse("ws://127.0.0.1:3000 --connections 100000").unwrap();
        assert_eq!((settings.threads, settings.local_addresses), (7, 10));
        assert_eq!(settings.local_address(0), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(settings.local_address(13), Some(Ipv4Addr::new(127, 0, 0, 5)));
        assert_eq!(parse("ws://127.0.0.1:3000 --mode churn").unwrap().local_addresses, 8);
        assert_eq!(parse("ws://127.0.0.1:3000 --connections 2 --threads 9").unwrap().threads, 2);
    }

    #[test]
    fn flags_are_read() {
        let settings = parse(
            "ws://127.0.0.1:3000/ws --connections 5 --rate-connect 0 --threads 2 --pin 1,0 --duration 1500ms \
             --warm-up 0 \
             --mode closed --interval 2s --server-pid 7 --json --quiet --users-prefix ab --local-addresses 3 \
             --heartbeat compact --expect any-frame",
        )
        .unwrap();
        assert_eq!((settings.connections, settings.connect_rate, settings.threads), (5, 0, 2));
        assert_eq!(settings.cores, [1, 0]);
        assert_eq!((settings.duration, settings.warm_up), (Duration::from_millis(1500), Duration::ZERO));
        assert_eq!((settings.mode, settings.interval), (Mode::Closed, Duration::from_secs(2)));
        assert_eq!((settings.server_pid, settings.json, settings.quiet), (Some(7), true, true));
        assert_eq!(&settings.users_prefix, b"ab000000");
        assert_eq!((settings.local_addresses, settings.expect), (3, Expect::AnyFrame));
        assert_eq!(settings.heartbeat.text(), br#"{"type":"HEARTBEAT"}"#);
    }

    #[test]
    fn what_is_watched_is_read() {
        let settings = parse("ws://127.0.0.1:3000 --mode watch").unwrap().watch;
        assert_eq!((settings.users, settings.changers, settings.change_rate), (100, 1000, 10));
        let settings = parse(
            "ws://127.0.0.1:3000 --mode watch --watch-users 7 --changers 8 --rooms 3 --room-detail count \
             --rate-change 50 --change-burst 8",
        );
        let expected = WatchSettings {
            users: 7,
            changers: 8,
            rooms: 3,
            room_detail: RoomDetail::Count,
            change_rate: 50,
            burst: 8,
        };
        assert_eq!(settings.unwrap().watch, expected);
    }

    #[test]
    fn a_target_that_is_not_loopback_needs_permission() {
        assert!(error("ws://192.0.2.1:3000/").contains("--allow-remote"));
        let settings = parse("ws://192.0.2.1:3000/ --allow-remote").unwrap();
        assert_eq!(settings.local_address(0), None);
        assert!(error("ws://192.0.2.1:3000/ --allow-remote --local-addresses 2").contains("127.0.0.0/8"));
        assert_eq!(parse("ws://[::1]:3000/").unwrap().target.address.to_string(), "[::1]:3000");
    }

    #[test]
    fn a_url_keeps_its_path_and_query() {
        for (url, path_start) in [
            ("ws://127.0.0.1:1", "/?userId="),
            ("ws://127.0.0.1:1/ws", "/ws?userId="),
            ("ws://127.0.0.1:1/ws?", "/ws?userId="),
            ("ws://127.0.0.1:1?a=b", "/?a=b&userId="),
            ("ws://127.0.0.1:1/x?status=away", "/x?status=away&userId="),
        ] {
            assert_eq!(target(url, false).unwrap().path_start, path_start, "{url}");
        }
        assert_eq!(target("ws://127.0.0.1/", false).unwrap().address.port(), 80);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, named) in [
            ("", "URL"),
            ("http://127.0.0.1:3000/", "ws://HOST:PORT/PATH"),
            ("wss://127.0.0.1:3000/", "--tls-ca"),
            ("ws://:3000/", "resolved"),
            ("ws://a@127.0.0.1:3000/", "ws://HOST:PORT/PATH"),
            ("ws://127.0.0.1:0/", "port 0"),
            ("ws://127.0.0.1:1/#x", "fragment"),
            ("ws://127.0.0.1:1 --connections 0", "--connections"),
            ("ws://127.0.0.1:1 --connections many", "--connections"),
            ("ws://127.0.0.1:1 --duration 10", "--duration"),
            ("ws://127.0.0.1:1 --duration 99ms", "between 100ms"),
            ("ws://127.0.0.1:1 --duration 99999999999999999999s", "between"),
            ("ws://127.0.0.1:1 --interval 0", "--interval"),
            ("ws://127.0.0.1:1 --mode shut", "open, closed, idle, churn, watch"),
            ("ws://127.0.0.1:1 --mode watch --connections 5 --changers 6 --watch-users 1", "--changers"),
            ("ws://127.0.0.1:1 --mode watch --connections 9 --changers 6 --watch-users 7", "--watch-users"),
            ("ws://127.0.0.1:1 --mode watch --watch-users 0", "nothing to watch"),
            ("ws://127.0.0.1:1 --room-detail names", "full, count"),
            ("ws://127.0.0.1:1 --expect ack", "rollcall, echo, any-frame"),
            ("ws://127.0.0.1:1 --users-prefix a/b", "letters"),
            ("ws://127.0.0.1:1 --users-prefix 123456789", "letters"),
            ("ws://127.0.0.1:1 --pin one", "a core is a number"),
            ("ws://127.0.0.1:1 --conections 1", "--connections"),
        ] {
            let error = error(line);
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }
}
