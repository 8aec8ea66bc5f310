//! The body of the fuzz target `connection`.

use std::sync::Arc;

use super::core::Limits;
use super::sessions::{Sessions, Terms};
use super::virtual_driver::VirtualDriver;
use crate::config::Config;
use crate::metrics::ShardMetrics;
use crate::presence::change::NameHasher;
use crate::protocol::session_id::SessionIds;

const UPGRADE: &[u8] = b"GET /?userId=ana HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Rollcall's own sessions on one shard, with the same ids each time.
pub fn rehearsed_sessions(config: &Config, metrics: &Arc<ShardMetrics>) -> Sessions {
    let ids = SessionIds::new(&[7; 32], 7);
    Sessions::new(0, Terms::new(config, 1, 7, 0), NameHasher::default(), ids, Arc::clone(metrics))
}

/// Whatever bytes a connection sends and however they are cut, it is answered the same, and nothing is left of it.
///
/// The first byte says how they are cut; with its top bit they are the whole stream, else what follows an upgrade.
pub fn fuzz(data: &[u8]) {
    let Some((&pace, stream)) = data.split_first() else { return };
    let prefix = if pace & 0x80 == 0 { UPGRADE } else { b"" };
    let whole = conversation(prefix, stream, usize::MAX);
    let pieces = conversation(prefix, stream, usize::from(pace & 0x7f).max(1));
    assert_eq!(whole, pieces);
}

/// What a peer hears that sends `stream` in pieces of `piece` bytes, and whether it was told the end.
fn conversation(prefix: &[u8], stream: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let config = Config { max_message: 2048, max_frames: 8, ..Config::default() };
    let metrics = Arc::new(ShardMetrics::default());
    let sessions = rehearsed_sessions(&config, &metrics);
    let mut driver = VirtualDriver::new(sessions, Limits::new(&config), Arc::clone(&metrics));
    let peer = driver.connect(None);
    driver.send(peer, prefix);
    for bytes in stream.chunks(piece) {
        driver.send(peer, bytes);
    }
    // A head that never ends is refused in the end, a peer that is told the end has time to go.
    driver.end(peer);
    assert!(driver.peers[peer].closed && driver.core.is_empty());
    assert_eq!(metrics.connections_current.get() + metrics.users_current.get() + metrics.sockets_current.get(), 0);
    assert_eq!((metrics.queued_bytes.get(), metrics.panics_total.get()), (0, 0));
    let Some(peer) = driver.peers.pop() else { return Default::default() };
    (peer.received, peer.told_end)
}
