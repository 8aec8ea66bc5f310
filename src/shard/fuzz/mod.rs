//! The bodies of the fuzz targets `connection` and `tls`, and of `presence` in a module of its own.

mod presence;
mod shards;
mod wire;

pub use presence::fuzz as fuzz_presence;

use std::convert::Infallible;
use std::sync::Arc;

use super::core::Limits;
use super::gate::Gate;
use super::sessions::{Sessions, Terms};
use super::virtual_driver::VirtualDriver;
use crate::auth::authority::Authority;
use crate::config::Config;
use crate::metrics::ShardMetrics;
use crate::presence::bounds::Bounds;
use crate::presence::change::NameHasher;
use crate::protocol::session_id::SessionIds;
use crate::tls::rehearsal;
use crate::tls::session::{ClientSession, Phase, ServerSession};

const UPGRADE: &[u8] = b"GET /?userId=ana HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Rollcall's own sessions on one shard, with the same ids each time.
pub fn rehearsed_sessions(config: &Config, metrics: &Arc<ShardMetrics>) -> Sessions {
    let authority = Authority::open(config).unwrap_or_else(|error| unreachable!("{error}"));
    let gate = Gate::new(authority, Arc::new(|| {}), Arc::clone(metrics));
    sessions_behind(gate, config, metrics)
}

/// Those of one of several shards; `names` is the same for all of them.
fn sessions_of(
    shard: usize,
    shards: usize,
    names: &NameHasher,
    config: &Config,
    bounds: Bounds,
    metrics: &Arc<ShardMetrics>,
) -> Sessions {
    let authority = Authority::open(config).unwrap_or_else(|error| unreachable!("{error}"));
    let gate = Gate::new(authority, Arc::new(|| {}), Arc::clone(metrics));
    let ids = SessionIds::new(&[7; 32], shard as u64);
    let terms = Terms::new(config, shards, 7, 0).with_bounds(bounds);
    Sessions::new(shard, terms, gate, names.clone(), ids, Arc::clone(metrics))
}

/// Likewise, where `gate` says who is let in.
pub fn sessions_behind(gate: Gate, config: &Config, metrics: &Arc<ShardMetrics>) -> Sessions {
    let ids = SessionIds::new(&[7; 32], 7);
    Sessions::new(0, Terms::new(config, 1, 7, 0), gate, NameHasher::default(), ids, Arc::clone(metrics))
}

/// Whatever bytes a connection sends and however they are cut, it is answered the same, and nothing is left of it. When
/// it is told of presence is not looked at: that takes time, of which passes more the more pieces there are.
///
/// The first byte says how they are cut; with its top bit they are the whole stream, else what follows an upgrade.
pub fn fuzz(data: &[u8]) {
    let Some((&pace, stream)) = data.split_first() else { return };
    let prefix = if pace & 0x80 == 0 { UPGRADE } else { b"" };
    let answers = |piece| {
        let (heard, is_told_end) = conversation(prefix, stream, piece, usize::MAX);
        (without_presence(heard), is_told_end)
    };
    assert_eq!(answers(usize::MAX), answers(usize::from(pace & 0x7f).max(1)));
}

/// What a peer heard, but PRESENCE_STATE and PRESENCE_CHANGE.
fn without_presence(mut heard: Vec<u8>) -> Vec<u8> {
    let head = heard.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = head.filter(|_| heard.starts_with(b"HTTP/1.1 101 ")) else { return heard };
    let mut frames = heard.split_off(end + 4);
    while let Some((first, payload)) = wire::take_frame(&mut frames) {
        if !payload.starts_with(br#"{"type":"PRESENCE_"#) {
            heard.push(first);
            heard.extend(payload);
        }
    }
    assert!(frames.is_empty(), "a frame is not whole");
    heard
}

/// Under TLS a connection hears and says what it would without, however its records are cut and however slowly its peer
/// takes them; where a byte of them was changed it says the beginning of that, and nothing else.
///
/// The first byte says how the stream is cut on the wire, and with its top bit that it is no TLS at all; the second
/// how much of it goes into a record; the third how many bytes the peer's socket takes at a time; the fourth and fifth
/// which byte of the stream is changed (none where the fourth has its top bit).
pub fn fuzz_tls(data: &[u8]) {
    let Some((&[pace, size, room, high, low], stream)) = data.split_first_chunk() else { return };
    let piece = usize::from(pace & 0x7f).max(1);
    if pace & 0x80 != 0 {
        let mut raw = Secured::new();
        raw.send(stream, piece);
        return raw.end();
    }
    let changed = (high & 0x80 == 0).then(|| usize::from(u16::from_be_bytes([high, low])));
    let stream: Vec<u8> = UPGRADE.iter().chain(stream).copied().collect();
    let (plain, _) = conversation(b"", &stream, usize::MAX, usize::MAX);
    // Who watches is told when there is room and time: what is heard then depends on cuts, under TLS or not.
    let is_timeless = [(1, usize::MAX), (usize::MAX, 0)]
        .iter()
        .all(|(piece, room)| conversation(b"", &stream, *piece, *room).0 == plain);
    let mut secured = Secured::new();
    secured.room = usize::from(room).max(1);
    secured.driver.peers[0].room = secured.room;
    secured.changed = changed;
    secured.converse(&stream, usize::from(size).max(1), piece);
    if is_timeless && changed.is_some_and(|changed| changed < secured.sent) {
        assert!(plain.starts_with(&secured.heard));
    } else if is_timeless {
        assert!(plain == secured.heard);
    }
    secured.end();
}

/// A connection under TLS: a client in front of a whole core.
struct Secured {
    driver: VirtualDriver<Sessions>,
    metrics: Arc<ShardMetrics>,
    client: ClientSession,
    /// Bytes that the client's socket takes at a time.
    room: usize,
    /// The byte of what the client sends that is changed on its way.
    changed: Option<usize>,
    /// Bytes that the client has sent.
    sent: usize,
    /// What the client has heard, decrypted.
    heard: Vec<u8>,
}

impl Secured {
    fn new() -> Self {
        let config = Config { max_message: 2048, max_frames: 8, ..Config::default() };
        let metrics = Arc::new(ShardMetrics::default());
        let sessions = rehearsed_sessions(&config, &metrics);
        let mut driver = VirtualDriver::new(sessions, Limits::new(&config), Arc::clone(&metrics));
        driver.connect(None);
        let (server, client) = rehearsal::sides();
        driver.peers[0].tls = Some(Box::new(ServerSession::new(server)));
        let client = ClientSession::new(client);
        Self { driver, metrics, client, room: usize::MAX, changed: None, sent: 0, heard: Vec::new() }
    }

    /// Shakes hands, then sends `stream` in records of `size` and pieces of `piece` bytes.
    fn converse(&mut self, stream: &[u8], size: usize, piece: usize) {
        let mut flight = Vec::new();
        self.client.receive(&mut [], &mut self.heard, &mut flight);
        while !flight.is_empty() {
            self.send(&flight, piece);
            flight = self.hear();
            while self.driver.peers[0].tls.as_ref().is_some_and(|tls| tls.waits()) && !self.driver.peers[0].closed {
                self.driver.make_room(0, self.room);
                flight.extend(self.hear());
            }
        }
        for bytes in stream.chunks(size) {
            let mut wire = Vec::new();
            let Ok(_) = self.client.write(bytes, &mut Vec::new(), |record| {
                wire.extend_from_slice(record);
                Ok::<_, Infallible>(record.len())
            });
            self.send(&wire, piece);
            self.hear();
        }
        // What waits for a slow peer comes in the end.
        while !self.driver.peers[0].closed && self.driver.peers[0].room < usize::MAX {
            self.driver.make_room(0, usize::MAX);
            self.hear();
        }
    }

    fn send(&mut self, bytes: &[u8], piece: usize) {
        for bytes in bytes.chunks(piece) {
            if self.driver.peers[0].closed {
                return;
            }
            let mut bytes = bytes.to_vec();
            if let Some(byte) = self.changed.and_then(|at| bytes.get_mut(at.checked_sub(self.sent)?)) {
                *byte ^= 1;
            }
            self.sent += bytes.len();
            self.driver.send(0, &bytes);
            self.driver.make_room(0, self.room);
            let tls = self.driver.peers[0].tls.as_ref();
            assert!(tls.is_none_or(|tls| tls.held_bytes() < 128 * 1024), "what is kept is bounded");
        }
    }

    /// Takes what the server has sent; returns what the client says to it.
    fn hear(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.driver.peers[0].received);
        let mut reply = Vec::new();
        self.client.receive(&mut bytes, &mut self.heard, &mut reply);
        assert!(self.changed.is_some() || !matches!(self.client.phase(), Phase::Failed(_)));
        reply
    }

    /// The peer goes: nothing is left of it.
    fn end(mut self) {
        self.driver.end(0);
        assert!(self.driver.peers[0].closed && self.driver.core.is_empty());
        let metrics = &self.metrics;
        assert_eq!(metrics.connections_current.get() + metrics.users_current.get() + metrics.sockets_current.get(), 0);
        assert_eq!((metrics.queued_bytes.get(), metrics.panics_total.get()), (0, 0));
    }
}

/// What a peer hears that sends `stream` in pieces of `piece` bytes, and whether it was told the end. Until it has sent
/// all its socket takes `room` bytes.
fn conversation(prefix: &[u8], stream: &[u8], piece: usize, room: usize) -> (Vec<u8>, bool) {
    let config = Config { max_message: 2048, max_frames: 8, ..Config::default() };
    let metrics = Arc::new(ShardMetrics::default());
    let sessions = rehearsed_sessions(&config, &metrics);
    let mut driver = VirtualDriver::new(sessions, Limits::new(&config), Arc::clone(&metrics));
    let peer = driver.connect(None);
    driver.peers[peer].room = room;
    driver.send(peer, prefix);
    for bytes in stream.chunks(piece) {
        driver.send(peer, bytes);
    }
    driver.make_room(peer, usize::MAX);
    // A head that never ends is refused in the end, a peer that is told the end has time to go.
    driver.end(peer);
    assert!(driver.peers[peer].closed && driver.core.is_empty());
    assert_eq!(metrics.connections_current.get() + metrics.users_current.get() + metrics.sockets_current.get(), 0);
    assert_eq!((metrics.queued_bytes.get(), metrics.panics_total.get()), (0, 0));
    let Some(peer) = driver.peers.pop() else { return Default::default() };
    (peer.received, peer.told_end)
}
