//! What a run found, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::cli::{Mode, Settings};
use super::connection::Tally;
use super::failure::Failure;
use super::measure::{Cpu, Memory};

/// Past this share of the measured time a thread is taken to have been the limit.
const SATURATED_PERCENT: f64 = 95.0;
/// Below this share the server's busiest thread is taken to have had time left.
const IDLE_PERCENT: f64 = 90.0;

/// Fewer connections than this say nothing about the kernel's memory.
const KERNEL_CONNECTIONS_MIN: u64 = 1000;

/// What was counted from one look to another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Heartbeats answered; in churn, connections opened.
    pub answered: u64,
    /// Watch: messages that told of changes.
    pub deliveries: u64,
    /// Watch: changes in them.
    pub presences: u64,
    /// Watch: bytes of their frames.
    pub seen_bytes: u64,
}

impl Counts {
    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            answered: self.answered.saturating_sub(before.answered),
            deliveries: self.deliveries.saturating_sub(before.deliveries),
            presences: self.presences.saturating_sub(before.presences),
            seen_bytes: self.seen_bytes.saturating_sub(before.seen_bytes),
        }
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Report<'a> {
    /// What it was told.
    pub settings: &'a Settings,
    /// What all threads' connections did.
    pub tally: &'a Tally,
    /// Nanoseconds from the first connect to the last connection that opened before the load began.
    pub connect_ns: u64,
    /// Connections that opened before the load began.
    pub connected: u64,
    /// Nanoseconds between the two looks at counters and clocks that bound the measured window.
    pub window_ns: u64,
    /// What was counted between them.
    pub counts: Counts,
    /// CPU time of the load's own threads between them.
    pub own_cpu: Cpu,
    /// The server's, where its process was given and lived to the end.
    pub server: Option<Server>,
}

/// What the server's process took.
#[derive(Debug)]
pub struct Server {
    /// Its process.
    pub pid: u32,
    /// CPU time in the measured window.
    pub cpu: Cpu,
    /// CPU time from the first connect until all were connected; in churn, of no meaning.
    pub connect_cpu: Cpu,
    /// Memory before the first connect.
    pub before: Memory,
    /// Memory once all were connected; in churn, at the end.
    pub connected: Memory,
}

/// Whether the load rather than the server bounded what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The load's busiest thread had no time left and the server's had.
    Load,
    /// The load's had time left, or the server's had none.
    NotLoad,
    /// The load's had no time left, and nothing is known of the server.
    Unknown,
}

impl Report<'_> {
    /// Whether the load rather than the server bounded what was measured.
    pub fn limit(&self) -> Limit {
        if self.percent(self.own_cpu.busiest_ns()) <= SATURATED_PERCENT {
            return Limit::NotLoad;
        }
        match &self.server {
            None => Limit::Unknown,
            Some(server) if self.percent(server.cpu.busiest_ns()) < IDLE_PERCENT => Limit::Load,
            Some(_) => Limit::NotLoad,
        }
    }

    /// What is counted: heartbeats' answers, connections opened, or messages that told of changes.
    fn unit(&self) -> &'static str {
        match self.settings.mode {
            Mode::Churn => "connection",
            Mode::Watch => "delivery",
            Mode::Open | Mode::Closed | Mode::Idle => "message",
        }
    }

    /// How many of the unit.
    fn count(&self) -> u64 {
        if self.settings.mode == Mode::Watch { self.counts.deliveries } else { self.counts.answered }
    }

    fn percent(&self, cpu_ns: u64) -> f64 {
        ratio(cpu_ns as f64 * 100.0, self.window_ns as f64)
    }

    fn per_second(&self) -> f64 {
        ratio(self.count() as f64 * 1e9, self.window_ns as f64)
    }

    fn us_per_message(&self, cpu_ns: u64) -> Option<f64> {
        (self.count() > 0).then(|| cpu_ns as f64 / 1e3 / self.count() as f64)
    }

    fn us_per_connect(&self, server: &Server) -> Option<f64> {
        let connects = self.settings.mode != Mode::Churn && self.connected > 0;
        connects.then(|| server.connect_cpu.total_ns() as f64 / 1e3 / self.connected as f64)
    }

    fn connects_per_second(&self) -> f64 {
        ratio(self.connected as f64 * 1e9, self.connect_ns as f64)
    }

    /// The kernel's share; `None` for so few connections that what else the machine does would drown them.
    fn kernel_bytes_per_connection(&self, server: &Server) -> Option<f64> {
        let bytes = self.bytes_per_connection(server.before.kernel_bytes, server.connected.kernel_bytes);
        bytes.filter(|_| self.connected >= KERNEL_CONNECTIONS_MIN)
    }

    fn bytes_per_connection(&self, before: u64, after: u64) -> Option<f64> {
        let holds = self.settings.mode != Mode::Churn && self.connected > 0;
        holds.then(|| (after as f64 - before as f64) / self.connected as f64)
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let (settings, tally) = (self.settings, self.tally);
        let mut rows: Vec<(String, String)> = vec![
            ("target".to_owned(), format!("{}, answers held against {}", settings.target.url, settings.expect.name())),
            (
                "load".to_owned(),
                format!("{}, {} connections, {} threads", settings.mode.name(), settings.connections, settings.threads),
            ),
        ];
        let mut row = |name: &str, text: String| rows.push((name.to_owned(), text));
        if settings.mode != Mode::Churn {
            row("connected", format!("{} in {:.2} s", self.connected, self.connect_ns as f64 / 1e9));
            row("connect rate", format!("{:.0} a second", self.connects_per_second()));
            row("connect latency", latency_text(&tally.connect_latency));
        }
        if settings.mode != Mode::Idle {
            let what = match settings.mode {
                Mode::Churn => "connections opened",
                Mode::Watch => "deliveries",
                Mode::Open | Mode::Closed | Mode::Idle => "answers",
            };
            let seconds = self.window_ns as f64 / 1e9;
            row("throughput", format!("{:.0} {what} a second over {seconds:.2} s", self.per_second()));
            if settings.mode == Mode::Watch {
                self.watch_rows(&mut row);
            }
            let name = if settings.mode == Mode::Watch { "heartbeat latency" } else { "latency" };
            row(name, latency_text(&tally.latency));
        }
        if matches!(settings.mode, Mode::Open | Mode::Watch) {
            row("sent late by", latency_text(&tally.lag));
        }
        row("pings answered", tally.pings.to_string());
        row("failures", self.failures_text());
        let closes: Vec<String> =
            tally.failures.closes().iter().map(|(code, count)| format!("{code}: {count}")).collect();
        if !closes.is_empty() {
            row("close codes", closes.join(", "));
        }
        if let Some(server) = &self.server {
            let cpu = &server.cpu;
            let busy = (self.percent(cpu.total_ns()), self.percent(cpu.busiest_ns()));
            let waited = self.percent(cpu.waited_ns);
            let text = format!("{:.1} % of a core, busiest thread {:.1} %, waited {waited:.1} %", busy.0, busy.1);
            row("server CPU", text);
            if let Some(us) = self.us_per_message(cpu.total_ns()) {
                row("server CPU cost", format!("{us:.3} µs a {}", self.unit()));
            }
            let coarse = (self.us_per_message(cpu.user_ns_coarse), self.us_per_message(cpu.system_ns_coarse));
            if let (Some(user), Some(system)) = coarse {
                row("  by ticks", format!("user {user:.2} µs, system {system:.2} µs a {}", self.unit()));
            }
            if let Some(us) = self.us_per_connect(server) {
                row("  to connect", format!("{us:.3} µs a connection"));
            }
            let (before, after) = (server.before, server.connected);
            let resident = (before.resident_bytes as f64 / 1024.0, after.resident_bytes as f64 / 1024.0);
            row("server memory", format!("{:.0} KiB before, {:.0} KiB connected", resident.0, resident.1));
            if let Some(bytes) = self.bytes_per_connection(before.resident_bytes, after.resident_bytes) {
                row("  user space", format!("{bytes:.0} bytes a connection"));
            }
            if let Some(bytes) = self.kernel_bytes_per_connection(server) {
                row("  kernel", format!("about {bytes:.0} bytes a connection: both ends of it, whole machine"));
            }
        }
        let own = self.percent(self.own_cpu.busiest_ns());
        let waited = self.percent(self.own_cpu.waited_ns);
        row("load CPU", format!("busiest thread {own:.1} %, waited for a core {waited:.1} %"));
        match self.limit() {
            Limit::NotLoad => {}
            Limit::Load => row("limit", "THE LOAD, not the server: these figures are a lower bound".to_owned()),
            Limit::Unknown => row("limit", "perhaps the load: --server-pid tells".to_owned()),
        }
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        rows.iter().map(|(name, text)| format!("{name:<width$}  {text}\n")).collect()
    }

    fn watch_rows(&self, row: &mut dyn FnMut(&str, String)) {
        let (watch, sight, counts) = (self.settings.watch, &self.tally.sight, self.counts);
        let rooms = match watch.rooms {
            0 => "no rooms".to_owned(),
            rooms => format!("one of {rooms} rooms ({})", watch.room_detail.name()),
        };
        row("each watches", format!("{} of {} users, {rooms}", watch.users, watch.changers));
        row("watch latency", latency_text(&sight.watch_latency));
        let each = ratio(counts.presences as f64, counts.deliveries as f64);
        let bytes = ratio(counts.seen_bytes as f64, counts.deliveries as f64);
        row("  of which", format!("{each:.2} changes and {bytes:.0} bytes a delivery"));
        let (rate, burst) = (watch.change_rate, watch.burst);
        row("changes", format!("{} sent, {rate} a second, {burst} at a time", sight.sent));
        row("fan-out latency", latency_text(&sight.fan_out));
        row("  to the last", latency_text(&sight.to_the_last));
        row("  superseded", format!("{} by a newer change before they were seen", sight.superseded));
    }

    fn failures_text(&self) -> String {
        let failures = &self.tally.failures;
        let counted = Failure::ALL.into_iter().filter(|&failure| failures.count(failure) > 0);
        let kinds: Vec<String> =
            counted.map(|failure| format!("{} {}", failures.count(failure), failure.name())).collect();
        let mut text = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
        if let Some(error) = failures.connect_error() {
            let _ = write!(text, " ({error})");
        }
        text
    }

    /// One JSON object in one line. Names end in their units; what does not apply or is not known is null.
    pub fn json(&self) -> String {
        let (settings, tally) = (self.settings, self.tally);
        let failures = Failure::ALL.into_iter().fold(Object::new(), |object, failure| {
            object.raw(failure.name(), tally.failures.count(failure).to_string())
        });
        let closes = tally
            .failures
            .closes()
            .iter()
            .fold(Object::new(), |object, (code, count)| object.raw(&code.to_string(), count.to_string()));
        let connect_error = tally.failures.connect_error().map(string);
        let limit = match self.limit() {
            Limit::Load => Some("true".to_owned()),
            Limit::NotLoad => Some("false".to_owned()),
            Limit::Unknown => None,
        };
        Object::new()
            .raw("target", string(&settings.target.url))
            .raw("mode", string(settings.mode.name()))
            .raw("expect", string(settings.expect.name()))
            .raw("heartbeat_bytes", settings.heartbeat.text().len().to_string())
            .raw("connections", settings.connections.to_string())
            .raw("threads", settings.threads.to_string())
            .raw(
                "connect",
                Object::new()
                    .raw("opened", self.connected.to_string())
                    .number("seconds", Some(self.connect_ns as f64 / 1e9))
                    .number("per_second", (self.connect_ns > 0).then(|| self.connects_per_second()))
                    .raw("latency_us", latency_json(&tally.connect_latency))
                    .end(),
            )
            .number("window_seconds", Some(self.window_ns as f64 / 1e9))
            .raw("unit", string(self.unit()))
            .raw("count", self.count().to_string())
            .number("per_second", Some(self.per_second()))
            .raw("latency_us", latency_json(&tally.latency))
            .raw("sent_late_us", latency_json(&tally.lag))
            .raw("opened_overall", tally.opened.to_string())
            .raw("sent_overall", tally.sent.to_string())
            .raw("answered_overall", tally.answered.to_string())
            .raw("pings_answered", tally.pings.to_string())
            .raw("watch", if settings.mode == Mode::Watch { self.watch_json() } else { null() })
            .raw("failures_total", tally.failures.total().to_string())
            .raw("failures", failures.end())
            .raw("connect_error", connect_error.unwrap_or_else(null))
            .raw("closes", closes.end())
            .raw(
                "load",
                Object::new()
                    .number("cpu_percent", Some(self.percent(self.own_cpu.total_ns())))
                    .number("busiest_thread_percent", Some(self.percent(self.own_cpu.busiest_ns())))
                    .number("waited_percent", Some(self.percent(self.own_cpu.waited_ns)))
                    .raw("was_the_limit", limit.unwrap_or_else(null))
                    .end(),
            )
            .raw("server", self.server.as_ref().map_or_else(null, |server| self.server_json(server)))
            .end()
    }

    fn watch_json(&self) -> String {
        let (watch, sight, counts) = (self.settings.watch, &self.tally.sight, self.counts);
        let per_delivery = |count: u64| (counts.deliveries > 0).then(|| count as f64 / counts.deliveries as f64);
        Object::new()
            .raw("users_each", watch.users.to_string())
            .raw("changers", watch.changers.to_string())
            .raw("rooms", watch.rooms.to_string())
            .raw("room_detail", string(watch.room_detail.name()))
            .raw("change_rate", watch.change_rate.to_string())
            .raw("change_burst", watch.burst.to_string())
            .raw("changes_sent_overall", sight.sent.to_string())
            .raw("deliveries", counts.deliveries.to_string())
            .raw("presences", counts.presences.to_string())
            .raw("bytes", counts.seen_bytes.to_string())
            .number("presences_per_delivery", per_delivery(counts.presences))
            .number("bytes_per_delivery", per_delivery(counts.seen_bytes))
            .raw("watch_latency_us", latency_json(&sight.watch_latency))
            .raw("fan_out_latency_us", latency_json(&sight.fan_out))
            .raw("to_the_last_latency_us", latency_json(&sight.to_the_last))
            .raw("deliveries_overall", sight.deliveries.to_string())
            .raw("superseded_overall", sight.superseded.to_string())
            .raw("unseen_overall", sight.unseen.to_string())
            .end()
    }

    fn server_json(&self, server: &Server) -> String {
        let (before, after) = (server.before, server.connected);
        Object::new()
            .raw("pid", server.pid.to_string())
            .raw("cpu_ns", server.cpu.total_ns().to_string())
            .number("cpu_us_per_unit", self.us_per_message(server.cpu.total_ns()))
            .number("connect_cpu_us_per_connection", self.us_per_connect(server))
            .number("cpu_percent", Some(self.percent(server.cpu.total_ns())))
            .number("busiest_thread_percent", Some(self.percent(server.cpu.busiest_ns())))
            .number("waited_percent", Some(self.percent(server.cpu.waited_ns)))
            .number("user_us_per_unit_coarse", self.us_per_message(server.cpu.user_ns_coarse))
            .number("system_us_per_unit_coarse", self.us_per_message(server.cpu.system_ns_coarse))
            .raw("resident_bytes_before", before.resident_bytes.to_string())
            .raw("resident_bytes_connected", after.resident_bytes.to_string())
            .number("user_bytes_per_connection", self.bytes_per_connection(before.resident_bytes, after.resident_bytes))
            .number("kernel_bytes_per_connection_both_ends_approximate", self.kernel_bytes_per_connection(server))
            .end()
    }
}

fn ratio(dividend: f64, divisor: f64) -> f64 {
    if divisor > 0.0 { dividend / divisor } else { 0.0 }
}

fn us(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

fn latency_text(histogram: &Histogram<u64>) -> String {
    if histogram.is_empty() {
        return "nothing measured".to_owned();
    }
    let quantiles = QUANTILES.map(|(name, quantile)| format!("{name} {}", span(histogram.value_at_quantile(quantile))));
    format!("{}, max {}", quantiles.join(", "), span(histogram.max()))
}

fn span(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000_000 => format!("{:.1} µs", us(nanoseconds)),
        1_000_000..1_000_000_000 => format!("{:.2} ms", us(nanoseconds) / 1e3),
        _ => format!("{:.2} s", us(nanoseconds) / 1e6),
    }
}

fn latency_json(histogram: &Histogram<u64>) -> String {
    if histogram.is_empty() {
        return null();
    }
    let object = Object::new().raw("count", histogram.len().to_string());
    let object = QUANTILES.into_iter().fold(object, |object, (name, quantile)| {
        object.number(&name.replace('.', "_"), Some(us(histogram.value_at_quantile(quantile))))
    });
    object.number("max", Some(us(histogram.max()))).end()
}

fn null() -> String {
    "null".to_owned()
}

fn string(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

/// A JSON object as it grows.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self(String::from('{'))
    }

    /// Adds a value that is JSON already.
    fn raw(mut self, name: &str, json: String) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&string(name));
        self.0.push(':');
        self.0.push_str(&json);
        self
    }

    /// Adds a number of three decimals; null where it is absent or not finite.
    fn number(self, name: &str, value: Option<f64>) -> Self {
        let json = value.filter(|value| value.is_finite()).map_or_else(null, |value| format!("{value:.3}"));
        self.raw(name, json)
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::io;

    use super::*;

    fn settings(line: &str) -> Settings {
        Settings::parse(line.split_whitespace().map(Into::into).collect()).unwrap()
    }

    fn cpu(threads: &[u64]) -> Cpu {
        Cpu { threads_ns: (1..).zip(threads.iter().copied()).collect(), ..Cpu::default() }
    }

    fn report<'a>(settings: &'a Settings, tally: &'a Tally) -> Report<'a> {
        Report {
            settings,
            tally,
            connect_ns: 2_000_000_000,
            connected: 1000,
            window_ns: 10_000_000_000,
            counts: Counts { answered: 2_000_000, ..Counts::default() },
            own_cpu: cpu(&[9_600_000_000, 100]),
            server: Some(Server {
                pid: 7,
                cpu: cpu(&[4_000_000_000, 1_000_000_000]),
                connect_cpu: cpu(&[30_000_000]),
                before: Memory { resident_bytes: 1_000_000, kernel_bytes: 5_000_000 },
                connected: Memory { resident_bytes: 1_400_000, kernel_bytes: 15_000_000 },
            }),
        }
    }

    #[test]
    fn the_json_is_read_by_a_foreign_parser_and_has_its_figures() {
        let settings = settings("ws://127.0.0.1:3000/ --mode closed");
        let mut tally = Tally::new().unwrap();
        tally.latency.saturating_record(1_000_000);
        tally.failures.add(Failure::Closed, 3);
        tally.failures.add_close(4408);
        tally.failures.add_connect(&io::Error::other("no \"port\"\n"));
        let json: serde_json::Value = serde_json::from_str(&report(&settings, &tally).json()).unwrap();
        assert_eq!(json["per_second"], 200_000.0);
        assert_eq!(json["connect"]["per_second"], 500.0);
        assert_eq!(json["latency_us"]["count"], 1);
        assert!((json["latency_us"]["p99_9"].as_f64().unwrap() - 1000.0).abs() < 2.0);
        assert_eq!(json["sent_late_us"], serde_json::Value::Null);
        assert_eq!(json["failures"]["closed"], 3);
        assert_eq!(json["failures_total"], 4);
        assert_eq!(json["closes"]["4408"], 1);
        assert_eq!(json["connect_error"], "no \"port\"\n");
        assert_eq!(json["server"]["cpu_us_per_unit"], 2.5);
        assert_eq!(json["server"]["connect_cpu_us_per_connection"], 30.0);
        assert_eq!(json["server"]["user_bytes_per_connection"], 400.0);
        assert_eq!(json["server"]["kernel_bytes_per_connection_both_ends_approximate"], 10_000.0);
        assert_eq!(json["load"]["was_the_limit"], true);
    }

    #[test]
    fn the_table_says_the_same() {
        let settings = settings("ws://127.0.0.1:3000/ --mode closed");
        let mut tally = Tally::new().unwrap();
        tally.latency.saturating_record(1_000_000);
        let table = report(&settings, &tally).table();
        for part in ["200000 answers a second", "p99.9 1.00 ms", "none", "2.500 µs a message", "400 bytes", "THE LOAD"]
        {
            assert!(table.contains(part), "{part} in\n{table}");
        }
    }

    #[test]
    fn what_was_watched_is_told() {
        let settings = settings("ws://127.0.0.1:3000/ --mode watch --rooms 3");
        let mut tally = Tally::new().unwrap();
        tally.sight.fan_out.saturating_record(60_000_000);
        let mut report = report(&settings, &tally);
        report.counts = Counts { answered: 7, deliveries: 1_000_000, presences: 1_500_000, seen_bytes: 250_000_000 };
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((json["unit"].as_str(), json["count"].as_u64()), (Some("delivery"), Some(1_000_000)));
        assert_eq!(json["server"]["cpu_us_per_unit"], 5.0);
        assert_eq!(json["watch"]["presences_per_delivery"], 1.5);
        assert_eq!(json["watch"]["bytes_per_delivery"], 250.0);
        let table = report.table();
        for part in ["100000 deliveries", "1.50 changes and 250 bytes", "one of 3 rooms (full)", "p99 60.", "5.000 µs"]
        {
            assert!(table.contains(part), "{part} in\n{table}");
        }
    }

    #[test]
    fn the_limit_is_the_load_only_where_the_server_had_time_left() {
        let settings = settings("ws://127.0.0.1:3000/");
        let tally = Tally::new().unwrap();
        let mut report = report(&settings, &tally);
        assert_eq!(report.limit(), Limit::Load);
        report.server.as_mut().unwrap().cpu = cpu(&[9_000_000_000]);
        assert_eq!(report.limit(), Limit::NotLoad);
        report.server = None;
        assert_eq!(report.limit(), Limit::Unknown);
        report.own_cpu = cpu(&[9_500_000_000]);
        assert_eq!(report.limit(), Limit::NotLoad);
    }

    #[test]
    fn a_run_that_measured_nothing_has_nulls_and_no_division_by_nothing() {
        let settings = settings("ws://127.0.0.1:3000/ --mode churn");
        let tally = Tally::new().unwrap();
        let mut report = report(&settings, &tally);
        (report.window_ns, report.connected, report.connect_ns) = (0, 0, 0);
        report.counts = Counts::default();
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["unit"], "connection");
        assert!(json["server"]["cpu_us_per_unit"].is_null());
        assert!(json["server"]["connect_cpu_us_per_connection"].is_null());
        assert!(json["server"]["user_bytes_per_connection"].is_null());
        assert!(json["latency_us"].is_null());
        assert!(json["connect"]["per_second"].is_null());
        assert_eq!(json["per_second"], 0.0);
        assert!(report.table().contains("nothing measured"));
    }
}
