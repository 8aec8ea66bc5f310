//! The metrics text (Prometheus text format 0.0.4): a pure function over the shards' cells.

use std::fmt::{Display, Write};
use std::sync::Arc;

use super::process::ProcessFigures;
use crate::metrics::cell::{BUCKETS, Counter, Histogram};
use crate::metrics::names::{self, Metric};
use crate::metrics::{AUTH_OUTCOMES, DROP_REASONS, LIMITS, RECEIVED_TYPES, SENT_TYPES, ShardMetrics, TLS_RESULTS};
use crate::protocol::close::CLOSE_CODES;
use crate::protocol::denial::DENIALS;
use crate::protocol::error::{ERROR_CODES, REFUSALS};
use crate::protocol::status::Status;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The label of closes with a code that only a peer chose.
const OTHER_CODE: &str = "other";

const NANOSECONDS_PER_SECOND: f64 = 1e9;

/// Appends the text of all metrics. `control_requests` were asked of the control port itself.
///
/// Cells are read one by one while their shards go on: two families may differ by what happened in between, but
/// a histogram's buckets and its count always agree. A `process_…` family without a figure is left out.
pub fn write(out: &mut String, shards: &[Arc<ShardMetrics>], process: &ProcessFigures, control_requests: u64) {
    let sum = |cell: fn(&ShardMetrics) -> u64| shards.iter().map(|shard| cell(shard)).sum::<u64>();
    let mut text = Text(out);

    text.single(&names::WS_CONNECTIONS_TOTAL, sum(|shard| shard.connections_total.get()));
    text.single(&names::WS_CONNECTIONS_CURRENT, sum(|shard| shard.connections_current.get()));
    text.single(&names::WS_MESSAGES_TOTAL, sum(|shard| shard.received.iter().map(Counter::get).sum()));
    text.single(&names::WS_ERRORS_TOTAL, sum(|shard| shard.errors_total.get()));
    text.single(&names::WS_CLIENTS_CURRENT, sum(|shard| shard.users_current.get()));
    text.family(&names::WS_MESSAGE_SIZE_BYTES);
    text.histogram(&names::WS_MESSAGE_SIZE_BYTES, "", &Summed::of(shards, |shard| &shard.message_size_bytes, 1.0));
    text.family(&names::WS_LATENCY_SECONDS);
    let latency = Summed::of(shards, |shard| &shard.latency_ns, NANOSECONDS_PER_SECOND);
    text.histogram(&names::WS_LATENCY_SECONDS, "", &latency);

    text.family(&names::USERS);
    for (index, status) in Status::ALL.into_iter().enumerate() {
        let users: u64 = shards.iter().map(|shard| shard.users_by_status[index].get()).sum();
        text.labelled(&names::USERS, status.as_str(), users);
    }
    text.single(&names::WATCHERS, sum(|shard| shard.watchers_current.get()));
    text.single(&names::WATCHED_USERS, sum(|shard| shard.watched_users_current.get()));
    text.single(&names::ROOMS, sum(|shard| shard.rooms_current.get()));
    text.single(&names::ROOM_MEMBERS, sum(|shard| shard.room_members_current.get()));
    text.by_cell(&names::MESSAGES_RECEIVED_TOTAL, RECEIVED_TYPES, shards, |shard| &shard.received);
    text.by_cell(&names::MESSAGES_SENT_TOTAL, SENT_TYPES, shards, |shard| &shard.sent);
    let codes = CLOSE_CODES.iter().map(|code| code.number().to_string()).chain([OTHER_CODE.to_owned()]);
    text.by_cell(&names::CLOSES_TOTAL, codes, shards, |shard| &shard.closes);
    text.by_cell(&names::ERRORS_TOTAL, ERROR_CODES.map(|(code, _)| code), shards, |shard| &shard.errors);
    text.by_cell(&names::REFUSALS_TOTAL, REFUSALS.map(|(_, _, reason)| reason), shards, |shard| &shard.refusals);
    let denials = DENIALS.map(|(_, reason, _)| reason);
    text.by_cell(&names::AUTH_DENIALS_TOTAL, denials, shards, |shard| &shard.auth_denials);
    text.by_cell(&names::AUTH_REQUESTS_TOTAL, AUTH_OUTCOMES, shards, |shard| &shard.auth_requests);
    text.family(&names::AUTH_REQUEST_SECONDS);
    let auth_requests = Summed::of(shards, |shard| &shard.auth_request_ns, NANOSECONDS_PER_SECOND);
    text.histogram(&names::AUTH_REQUEST_SECONDS, "", &auth_requests);
    text.by_cell(&names::CONNECTIONS_DROPPED_TOTAL, DROP_REASONS, shards, |shard| &shard.drops);
    text.by_cell(&names::TLS_HANDSHAKES_TOTAL, TLS_RESULTS, shards, |shard| &shard.tls_handshakes);
    text.by_cell(&names::LIMITED_TOTAL, LIMITS, shards, |shard| &shard.limited);
    text.single(&names::BYTES_RECEIVED_TOTAL, sum(|shard| shard.bytes_received_total.get()));
    text.single(&names::BYTES_SENT_TOTAL, sum(|shard| shard.bytes_sent_total.get()));
    text.by_shard(&names::SHARD_CONNECTIONS, shards, |shard| shard.connections_current.get());
    text.by_shard(&names::SHARD_SOCKETS, shards, |shard| shard.sockets_current.get());
    text.times_by_shard(&names::SHARD_TURN_SECONDS, shards, |shard| &shard.turn_ns);
    text.times_by_shard(&names::SHARD_TURN_CPU_SECONDS, shards, |shard| &shard.turn_cpu_ns);
    text.by_shard(&names::HELD_BYTES, shards, |shard| shard.held_bytes.get());
    text.by_shard(&names::INBOX_DEPTH, shards, |shard| shard.inbox_depth.get());
    text.by_shard(&names::QUEUED_BYTES, shards, |shard| shard.queued_bytes.get());
    text.single(&names::PROBES_TOTAL, sum(|shard| shard.probes_total.get()));
    text.single(&names::HTTP_REQUESTS_TOTAL, sum(|shard| shard.http_requests_total.get()) + control_requests);
    text.single(&names::PANICS_TOTAL, sum(|shard| shard.panics_total.get()));
    let exhausted = sum(|shard| shard.accept_descriptors_exhausted_total.get());
    text.single(&names::ACCEPT_DESCRIPTORS_EXHAUSTED_TOTAL, exhausted);
    text.family(&names::BUILD_INFO);
    text.labelled(&names::BUILD_INFO, env!("CARGO_PKG_VERSION"), 1);

    text.known(&names::PROCESS_CPU_SECONDS_TOTAL, process.cpu_seconds);
    text.known(&names::PROCESS_RESIDENT_MEMORY_BYTES, process.resident_bytes);
    text.known(&names::PROCESS_VIRTUAL_MEMORY_BYTES, process.virtual_bytes);
    text.known(&names::PROCESS_OPEN_FDS, process.open_descriptors);
    text.known(&names::PROCESS_MAX_FDS, process.descriptors_max);
    text.known(&names::PROCESS_START_TIME_SECONDS, process.start_time_seconds);
    text.known(&names::PROCESS_THREADS, process.threads);
}

/// One histogram, or the sum of the shards' own, as it was read.
struct Summed {
    /// Upper bounds in the unit of the cells; empty where there is no shard.
    bounds: &'static [u64],
    counts: [u64; BUCKETS + 1],
    sum: u64,
    /// How much of the cells' unit is one of the text's.
    scale: f64,
}

impl Summed {
    fn of(shards: &[Arc<ShardMetrics>], cells: fn(&ShardMetrics) -> &Histogram, scale: f64) -> Self {
        let mut summed = Self { bounds: &[], counts: [0; BUCKETS + 1], sum: 0, scale };
        for shard in shards {
            let histogram = cells(shard);
            summed.bounds = histogram.bounds();
            for (bucket, count) in summed.counts.iter_mut().enumerate() {
                *count += histogram.count_in(bucket);
            }
            summed.sum = summed.sum.wrapping_add(histogram.sum());
        }
        summed
    }
}

/// Appends lines. Writing to a `String` cannot fail, so what `write!` returns is ignored.
struct Text<'a>(&'a mut String);

impl Text<'_> {
    fn family(&mut self, metric: &Metric) {
        let Metric { name, kind, help, .. } = metric;
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {}\n", kind.word());
    }

    /// A sample with the metric's own label. No label's value needs escapes: none holds quotes or backslashes.
    fn labelled(&mut self, metric: &Metric, label_value: impl Display, value: impl Display) {
        let label = metric.label.unwrap_or_default();
        let _ = writeln!(self.0, "{}{{{label}=\"{label_value}\"}} {value}", metric.name);
    }

    fn single(&mut self, metric: &Metric, value: impl Display) {
        self.family(metric);
        let _ = writeln!(self.0, "{} {value}", metric.name);
    }

    fn known(&mut self, metric: &Metric, value: Option<impl Display>) {
        if let Some(value) = value {
            self.single(metric, value);
        }
    }

    fn times_by_shard(&mut self, metric: &Metric, shards: &[Arc<ShardMetrics>], cell: fn(&ShardMetrics) -> &Histogram) {
        self.family(metric);
        for (index, shard) in shards.iter().enumerate() {
            let times = Summed::of(std::slice::from_ref(shard), cell, NANOSECONDS_PER_SECOND);
            self.histogram(metric, &format!("shard=\"{index}\""), &times);
        }
    }

    fn by_shard(&mut self, metric: &Metric, shards: &[Arc<ShardMetrics>], cell: fn(&ShardMetrics) -> u64) {
        self.family(metric);
        for (index, shard) in shards.iter().enumerate() {
            self.labelled(metric, index, cell(shard));
        }
    }

    /// A sample for each of `label_values`, which stand in the order of the cells.
    fn by_cell<const CELLS: usize>(
        &mut self,
        metric: &Metric,
        label_values: impl IntoIterator<Item = impl Display>,
        shards: &[Arc<ShardMetrics>],
        cells: fn(&ShardMetrics) -> &[Counter; CELLS],
    ) {
        self.family(metric);
        for (index, label_value) in label_values.into_iter().enumerate() {
            self.labelled(metric, label_value, shards.iter().map(|shard| cells(shard)[index].get()).sum::<u64>());
        }
    }

    /// The samples of one histogram; `labels` beside `le`, empty for none.
    fn histogram(&mut self, metric: &Metric, labels: &str, summed: &Summed) {
        let name = metric.name;
        let (before_le, around) = match labels {
            "" => (String::new(), String::new()),
            _ => (format!("{labels},"), format!("{{{labels}}}")),
        };
        let mut count = 0;
        for (bound, in_bucket) in summed.bounds.iter().zip(summed.counts) {
            count += in_bucket;
            let bound = *bound as f64 / summed.scale;
            let _ = writeln!(self.0, "{name}_bucket{{{before_le}le=\"{bound}\"}} {count}");
        }
        count += summed.counts[BUCKETS];
        let sum = summed.sum as f64 / summed.scale;
        let _ = write!(
            self.0,
            "{name}_bucket{{{before_le}le=\"+Inf\"}} {count}\n{name}_sum{around} {sum}\n{name}_count{around} {count}\n"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::metrics::names::{Kind, METRICS};

    const FIGURES: ProcessFigures = ProcessFigures {
        cpu_seconds: Some(1.25),
        resident_bytes: Some(1 << 20),
        virtual_bytes: Some(1 << 30),
        threads: Some(4),
        open_descriptors: Some(17),
        descriptors_max: Some(20_000),
        start_time_seconds: Some(1_795_578_885.12),
    };

    fn text_of(shards: &[Arc<ShardMetrics>], process: &ProcessFigures) -> String {
        let mut out = String::new();
        write(&mut out, shards, process, 0);
        out
    }

    /// A shard in which every cell holds something, `seed` telling shards apart.
    fn busy_shard(seed: u64) -> Arc<ShardMetrics> {
        let shard = ShardMetrics::default();
        shard.connections_total.add(10 * seed);
        shard.connections_current.set(3 * seed);
        shard.sockets_current.set(4 * seed);
        shard.users_current.set(2 * seed);
        shard.errors_total.add(seed);
        let arrays = [
            &shard.received[..],
            &shard.sent,
            &shard.errors,
            &shard.closes,
            &shard.refusals,
            &shard.drops,
            &shard.limited,
        ];
        for cells in arrays {
            for (index, cell) in cells.iter().enumerate() {
                cell.add(seed * (index as u64 + 1));
            }
        }
        for value in [1, 64, 1_500_000, 40_000_000, 3_000_000_000] {
            shard.message_size_bytes.observe_many(value, seed);
            shard.latency_ns.observe_many(value, seed);
            shard.turn_ns.observe_many(value, seed);
        }
        shard.http_requests_total.add(seed);
        Arc::new(shard)
    }

    #[derive(Default)]
    struct Family {
        has_help: bool,
        kind: String,
        samples: Vec<(String, BTreeMap<String, String>, f64)>,
    }

    /// Reads the text as strictly as the format is written: every line is known, every family is declared once
    /// with HELP then TYPE, and its samples follow at once and are distinct.
    fn read_strictly(text: &str) -> BTreeMap<String, Family> {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        let mut seen = BTreeSet::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && !families.contains_key(name), "{line}");
                name.clone_into(&mut current);
                families.insert(current.clone(), Family { has_help: true, ..Family::default() });
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current);
                let family = families.get_mut(name).unwrap();
                assert!(family.has_help && family.kind.is_empty() && family.samples.is_empty());
                kind.clone_into(&mut family.kind);
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(seen.insert(series.to_owned()), "{series} is there twice");
                let (name, labels) = match series.split_once('{') {
                    Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
                    None => (series, ""),
                };
                let labels: BTreeMap<String, String> = labels
                    .split(',')
                    .filter(|label| !label.is_empty())
                    .map(|label| {
                        let (key, value) = label.split_once('=').unwrap();
                        let value = value.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
                        assert!(!value.contains(['"', '\\']) && !value.is_empty());
                        (key.to_owned(), value.to_owned())
                    })
                    .collect();
                let family = families.get_mut(&current).unwrap();
                let base = match family.kind.as_str() {
                    "histogram" => ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap(),
                    _ => name,
                };
                assert_eq!(base, current, "{line}");
                let value: f64 = value.parse().unwrap();
                assert!(value.is_finite() && value >= 0.0);
                family.samples.push((name.to_owned(), labels, value));
            }
        }
        families
    }

    fn value(families: &BTreeMap<String, Family>, family: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let samples = &families[family].samples;
        samples.iter().find(|(sample, labels, _)| sample == name && *labels == wanted).unwrap().2
    }

    #[test]
    fn every_metric_of_the_table_is_declared_and_has_samples_with_its_label() {
        let families = read_strictly(&text_of(&[busy_shard(1), busy_shard(2)], &FIGURES));
        assert_eq!(families.len(), METRICS.len());
        for metric in METRICS {
            let family = &families[metric.name];
            assert_eq!(family.kind, metric.kind.word());
            assert!(!family.samples.is_empty(), "{}", metric.name);
            for (_, labels, _) in &family.samples {
                let own: Vec<&str> = labels.keys().map(String::as_str).filter(|key| *key != "le").collect();
                assert_eq!(own, metric.label.into_iter().collect::<Vec<_>>(), "{}", metric.name);
            }
        }
    }

    #[test]
    fn buckets_are_cumulative_and_agree_with_the_count() {
        let families = read_strictly(&text_of(&[busy_shard(1), busy_shard(2)], &FIGURES));
        for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Histogram) {
            let mut series: BTreeMap<Option<String>, Vec<(f64, f64)>> = BTreeMap::new();
            for (name, labels, value) in &families[metric.name].samples {
                if name.ends_with("_bucket") {
                    let bound = labels["le"].parse().unwrap();
                    series.entry(labels.get("shard").cloned()).or_default().push((bound, *value));
                }
            }
            for (shard, buckets) in series {
                assert_eq!(buckets.len(), BUCKETS + 1);
                assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
                let labels: Vec<(&str, &str)> = shard.iter().map(|shard| ("shard", shard.as_str())).collect();
                let count = value(&families, metric.name, &format!("{}_count", metric.name), &labels);
                assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, count));
            }
        }
    }

    #[test]
    fn sums_are_over_the_shards_and_times_are_in_seconds() {
        let shards = [busy_shard(1), busy_shard(2)];
        let mut text = String::new();
        write(&mut text, &shards, &FIGURES, 5);
        let families = read_strictly(&text);
        let single = |name| value(&families, name, name, &[]);
        assert_eq!(single("ws_connections_total"), 30.0);
        assert_eq!(single("ws_connections_current"), 9.0);
        assert_eq!(single("ws_messages_total"), 165.0);
        assert_eq!(single("ws_errors_total"), 3.0);
        assert_eq!(single("ws_clients_current"), 6.0);
        assert_eq!(single("rollcall_http_requests_total"), 8.0);
        let latency = |name, labels: &[_]| value(&families, "ws_latency_seconds", name, labels);
        assert_eq!(latency("ws_latency_seconds_count", &[]), 15.0);
        assert_eq!(latency("ws_latency_seconds_sum", &[]), 3.0 * 3.041_500_065);
        assert_eq!(latency("ws_latency_seconds_bucket", &[("le", "0.00001")]), 6.0);
        assert_eq!(latency("ws_latency_seconds_bucket", &[("le", "0.0025")]), 9.0);
        assert_eq!(latency("ws_latency_seconds_bucket", &[("le", "1")]), 12.0);
        let size = |name, labels: &[_]| value(&families, "ws_message_size_bytes", name, labels);
        assert_eq!(size("ws_message_size_bytes_bucket", &[("le", "64")]), 6.0);
        let by = |name, label, of| value(&families, name, name, &[(label, of)]);
        assert_eq!(by("rollcall_messages_received_total", "type", "PRESENCE_UPDATE"), 6.0);
        assert_eq!(by("rollcall_messages_sent_total", "type", "ERROR"), 12.0);
        assert_eq!(by("rollcall_closes_total", "code", "1000"), 3.0);
        assert_eq!(by("rollcall_closes_total", "code", "4408"), 30.0);
        assert_eq!(by("rollcall_closes_total", "code", "4409"), 33.0);
        assert_eq!(by("rollcall_closes_total", "code", "other"), 3.0 * (CLOSE_CODES.len() + 1) as f64);
        assert_eq!(by("rollcall_errors_total", "code", "BAD_ID"), 30.0);
        let (_, _, reason) = REFUSALS[REFUSALS.len() - 1];
        assert_eq!(by("rollcall_refusals_total", "reason", reason), 3.0 * REFUSALS.len() as f64);
        assert_eq!(by("rollcall_connections_dropped_total", "reason", DROP_REASONS[1]), 6.0);
        assert_eq!(by("rollcall_limited_total", "limit", LIMITS[2]), 9.0);
        assert_eq!(by("rollcall_shard_sockets", "shard", "1"), 8.0);
        assert_eq!(by("rollcall_build_info", "version", env!("CARGO_PKG_VERSION")), 1.0);
    }

    #[test]
    fn figures_that_the_kernel_does_not_tell_are_left_out() {
        let families = read_strictly(&text_of(&[busy_shard(1)], &ProcessFigures::default()));
        assert!(families.keys().all(|name| !name.starts_with("process_")));
    }

    #[test]
    fn a_server_without_shards_has_a_valid_text() {
        let families = read_strictly(&text_of(&[], &FIGURES));
        assert_eq!(value(&families, "ws_latency_seconds", "ws_latency_seconds_count", &[]), 0.0);
    }
}
