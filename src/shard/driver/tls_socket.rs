//! A connection's socket under TLS: what the core gives is encrypted on its way out, what comes is decrypted.

use std::io;
use std::sync::Arc;

use mio::{Registry, Token};
use rustls::HandshakeKind;
use rustls::server::UnbufferedServerConnection;

use super::socket::{Socket, Transfer, Transport};
use crate::metrics::ShardMetrics;
use crate::tls::ServerConfig;
use crate::tls::session::{Failure, Phase, ServerSession};

// Places among `TLS_RESULTS`.
const FULL: usize = 0;
const RESUMED: usize = 1;
const FAILED: usize = 2;
const NOT_TLS: usize = 3;
const ABANDONED: usize = 4;

/// A socket under TLS, as the core keeps it for the driver: as small as a plain one.
#[derive(Debug)]
pub struct TlsSocket(Box<Inner>);

#[derive(Debug)]
struct Inner {
    socket: Socket,
    token: Token,
    session: ServerSession,
    /// Bytes of this connection in [`TlsShared::held_bytes`].
    counted_bytes: usize,
    /// Whether the end of its handshake has been counted.
    is_counted: bool,
    /// Why it cannot go on, until the driver has been told.
    verdict: Option<Transfer>,
    /// While it waits for its turn to go on with its handshake: whether the peer's end was told of.
    awaited_turn: Option<bool>,
    /// Whether it is not read until the socket has taken what it is owed.
    is_held: bool,
    /// Whether our side ends as soon as the socket has taken all.
    ends: bool,
}

/// What all TLS connections of a shard share.
#[derive(Debug)]
pub struct TlsShared {
    keys: Arc<ServerConfig>,
    metrics: Arc<ShardMetrics>,
    /// What the last read brought.
    plaintext: Vec<u8>,
    /// The records of one write.
    record: Vec<u8>,
    /// What a session has to say of its own.
    reply: Vec<u8>,
    held_bytes: usize,
}

impl TlsShared {
    /// Connections are served with `keys`, and counted in `metrics`.
    pub fn new(keys: Arc<ServerConfig>, metrics: Arc<ShardMetrics>) -> Self {
        Self { keys, metrics, plaintext: Vec::new(), record: Vec::new(), reply: Vec::new(), held_bytes: 0 }
    }
}

impl Transport for TlsSocket {
    type Shared = TlsShared;

    fn new(socket: Socket, token: Token, shared: &mut TlsShared) -> io::Result<Self> {
        let side = UnbufferedServerConnection::new(Arc::clone(&shared.keys)).map_err(io::Error::other)?;
        let mut inner = Inner {
            socket,
            token,
            session: ServerSession::new(side),
            counted_bytes: 0,
            is_counted: false,
            verdict: None,
            awaited_turn: None,
            is_held: false,
            ends: false,
        };
        inner.count_bytes(shared);
        Ok(Self(Box::new(inner)))
    }

    fn socket(&self) -> &Socket {
        &self.0.socket
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.0.socket
    }

    fn read(&mut self, buffer: &mut [u8], registry: &Registry, shared: &mut TlsShared) -> Transfer {
        let inner = &mut *self.0;
        shared.plaintext.clear();
        if let Some(verdict) = inner.verdict.take() {
            return verdict;
        }
        match inner.session.phase() {
            Phase::PeerClosed => return Transfer::End,
            // The peer has been told; what it still sends is thrown away.
            Phase::Failed(_) => return inner.socket.read_bytes(buffer),
            Phase::Handshake | Phase::Established => {}
        }
        if inner.session.owes_too_much() {
            inner.is_held = true;
            return Transfer::WouldBlock;
        }
        let transfer = inner.socket.read_bytes(buffer);
        if let Transfer::Bytes(count) = transfer {
            // What came whole before a failure is heard before the failure is.
            inner.verdict = inner.receive(&mut buffer[..count], registry, shared);
            inner.count_bytes(shared);
        }
        transfer
    }

    fn received<'a>(_: &'a mut [u8], shared: &'a mut TlsShared) -> &'a mut [u8] {
        &mut shared.plaintext
    }

    fn write(
        &mut self,
        bytes: &[u8],
        is_last: bool,
        registry: &Registry,
        token: Token,
        shared: &mut TlsShared,
    ) -> Transfer {
        let Inner { socket, session, .. } = &mut *self.0;
        let send = |bytes: &[u8]| match is_last {
            true => taken(socket.write_last(bytes, registry, token)),
            false => send(socket, bytes, registry, token),
        };
        let had_failed = matches!(session.phase(), Phase::Failed(_));
        let written = session.write(bytes, &mut shared.record, send);
        self.0.count_bytes(shared);
        match written {
            _ if self.0.session.phase() == Phase::Failed(Failure::Fault) && !had_failed => {
                shared.metrics.panics_total.increment();
                Transfer::Failed
            }
            Ok(taken) => Transfer::Bytes(taken),
            Err(transfer) => transfer,
        }
    }

    fn writable(&mut self, registry: &Registry, shared: &mut TlsShared) -> bool {
        let inner = &mut *self.0;
        if inner.session.owes() {
            let Inner { socket, session, token, .. } = inner;
            // A socket that fails says so again when it is read.
            let _ = session.flush(|bytes| send(socket, bytes, registry, *token));
            inner.count_bytes(shared);
        }
        if inner.ends && !inner.session.waits() {
            inner.ends = false;
            inner.socket.end_writing();
        }
        inner.is_held && !inner.session.owes_too_much() && std::mem::take(&mut inner.is_held)
    }

    fn shutdown_write(&mut self, registry: &Registry, shared: &mut TlsShared) {
        self.0.say_close(registry, shared);
        if self.0.session.waits() {
            self.0.ends = true;
        } else {
            self.0.socket.end_writing();
        }
    }

    fn close(mut self, registry: &Registry, shared: &mut TlsShared) {
        // The peer's close is answered (RFC 5246 §7.2.1), as far as the socket takes it.
        if self.0.session.phase() == Phase::PeerClosed {
            self.0.say_close(registry, shared);
        }
        if !self.0.is_counted {
            shared.metrics.tls_handshakes[ABANDONED].increment();
        }
        shared.held_bytes -= self.0.counted_bytes;
    }

    fn is_costly(&self) -> bool {
        self.0.session.phase() == Phase::Handshake
    }

    fn await_turn(&mut self, ends: bool) -> bool {
        let before = self.0.awaited_turn;
        self.0.awaited_turn = Some(ends || before == Some(true));
        before.is_none()
    }

    fn take_turn(&mut self) -> bool {
        self.0.awaited_turn.take() == Some(true)
    }

    fn has_more_to_say(&self) -> bool {
        self.0.verdict.is_some() || self.0.session.phase() == Phase::PeerClosed
    }

    fn set_keys(shared: &mut TlsShared, keys: Arc<ServerConfig>) {
        shared.keys = keys;
    }

    fn held_bytes(shared: &TlsShared) -> usize {
        shared.held_bytes
    }
}

impl Inner {
    /// Takes what came, and sends what the session says to it. `Some` where the connection cannot go on.
    fn receive(&mut self, bytes: &mut [u8], registry: &Registry, shared: &mut TlsShared) -> Option<Transfer> {
        let Self { socket, token, session, .. } = self;
        let TlsShared { plaintext, reply, metrics, .. } = shared;
        reply.clear();
        session.receive(bytes, plaintext, reply);
        if session.phase() == Phase::Failed(Failure::Fault) {
            metrics.panics_total.increment();
            return Some(Transfer::Failed);
        }
        if let Err(transfer) = session.owe(reply, |bytes| send(socket, bytes, registry, *token)) {
            return Some(transfer);
        }
        let failure = match session.phase() {
            Phase::Failed(failure) => Some(failure),
            _ => None,
        };
        let is_unheard = session.is_handshaking();
        let result = match failure {
            _ if !is_unheard && session.handshake_kind() == Some(HandshakeKind::Resumed) => RESUMED,
            _ if !is_unheard => FULL,
            Some(Failure::NotTls) => NOT_TLS,
            Some(Failure::Tls | Failure::Fault) => FAILED,
            None => return None,
        };
        if !std::mem::replace(&mut self.is_counted, true) {
            metrics.tls_handshakes[result].increment();
        }
        failure.map(|_| if is_unheard { Transfer::Unheard } else { Transfer::Broken })
    }

    fn say_close(&mut self, registry: &Registry, shared: &mut TlsShared) {
        let Self { socket, token, session, .. } = self;
        shared.reply.clear();
        session.close(&mut shared.reply);
        // A socket that fails says so again when it is read, if it is.
        let _ = session.owe(&shared.reply, |bytes| taken(socket.write_last(bytes, registry, *token)));
    }

    fn count_bytes(&mut self, shared: &mut TlsShared) {
        let held_bytes = size_of::<Self>() + self.session.held_bytes();
        shared.held_bytes = shared.held_bytes + held_bytes - std::mem::replace(&mut self.counted_bytes, held_bytes);
    }
}

/// Has the socket take what it will; an error where it takes nothing any more.
fn send(socket: &mut Socket, bytes: &[u8], registry: &Registry, token: Token) -> Result<usize, Transfer> {
    taken(socket.write_bytes(bytes, registry, token))
}

fn taken(transfer: Transfer) -> Result<usize, Transfer> {
    match transfer {
        Transfer::Bytes(taken) => Ok(taken),
        other => Err(other),
    }
}
