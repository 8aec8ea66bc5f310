//! The pages: what each tells, and what it is told from.

use std::sync::Arc;
use std::time::Instant;

use super::exposition;
use super::health::{Condition, Lifecycle};
use super::http::{Persistence, Request, Response, write_permission, write_response};
use super::process::ProcessReader;
use crate::metrics::ShardMetrics;
use crate::protocol::plain::{PlainPath, PlainRequest};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock, for deadlines and uptime.
    pub monotonic: Instant,
    /// The wall clock, in milliseconds since 1970, for what people read and for the shards' turns.
    pub unix_ms: u64,
}

/// Everything that pages are made of.
pub struct Pages {
    lifecycle: Arc<Lifecycle>,
    shards: Vec<Arc<ShardMetrics>>,
    process: ProcessReader,
    started: Instant,
    /// Requests that came to the control port itself.
    control_requests: u64,
    /// The metrics text, and the turn's clock at which it was made: requests of one turn share it, so that a
    /// flood of them costs one text a turn.
    metrics: Option<(Instant, String)>,
}

impl Pages {
    /// Pages about `shards`; the uptime counts from `started`.
    pub fn new(lifecycle: Arc<Lifecycle>, shards: Vec<Arc<ShardMetrics>>, started: Instant) -> Self {
        Self { lifecycle, shards, process: ProcessReader::new(), started, control_requests: 0, metrics: None }
    }

    /// Appends the answer to a request that came to the WebSocket port. Its connection ends with it.
    pub fn write_for_shard(&mut self, out: &mut Vec<u8>, request: PlainRequest, now: Now) {
        let request = Request { plain: request, persistence: Persistence::Close, reader: None };
        self.write(out, &request, now);
    }

    /// Appends the answer to a request that came to the control port.
    pub fn write_for_control(&mut self, out: &mut Vec<u8>, request: &Request, now: Now) {
        if write_permission(out, request, now.unix_ms).is_none() {
            self.control_requests += 1;
            self.write(out, request, now);
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, request: &Request, now: Now) {
        let path = request.plain.path;
        match path {
            PlainPath::Metrics => {
                let body = self.metrics(now.monotonic).as_bytes();
                let response = Response { status: 200, content_type: exposition::CONTENT_TYPE, body };
                write_response(out, &response, request, now.unix_ms);
            }
            PlainPath::Health | PlainPath::HealthLive | PlainPath::HealthReady => {
                let condition = Condition::of(&self.lifecycle, &self.shards, now.unix_ms).for_page(path);
                let uptime = now.monotonic.saturating_duration_since(self.started);
                let body = condition.json(now.unix_ms, uptime.as_secs());
                let response =
                    Response { status: condition.status(), content_type: "application/json", body: body.as_bytes() };
                write_response(out, &response, request, now.unix_ms);
            }
        }
    }

    fn metrics(&mut self, turn: Instant) -> &str {
        let text = match self.metrics.take() {
            Some((made, text)) if made == turn => text,
            stale => {
                let mut text = stale.map(|(_, text)| text).unwrap_or_default();
                text.clear();
                let mut process = self.process.read();
                if self.lifecycle.shards_own_descriptors() {
                    let sockets: u64 = self.shards.iter().map(|shard| shard.sockets_current.get()).sum();
                    process.open_descriptors = process.open_descriptors.map(|own| own + sockets);
                }
                exposition::write(&mut text, &self.shards, &process, self.control_requests);
                text
            }
        };
        &self.metrics.insert((turn, text)).1
    }
}
