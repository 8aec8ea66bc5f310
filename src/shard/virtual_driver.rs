//! A driver without sockets and clocks: what tests, fuzz targets and benches run a [`Core`] with.
//!
//! A peer may speak TLS: then what it is sent and sends is ciphertext.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::core::{Appetite, Application, Core, Input, Limits, Output};
use super::{ConnectionId, Now};
use crate::metrics::ShardMetrics;
use crate::protocol::error::Refusal;
use crate::protocol::plain::PlainRequest;
use crate::tls::session::{Phase, ServerSession};

/// A core with peers that are nothing but bytes.
pub struct VirtualDriver<A: Application> {
    /// The core.
    pub core: Core<A, usize>,
    /// What time it is; set freely, forwards.
    pub now: Now,
    /// The peers, in the order in which they came.
    pub peers: Vec<Peer>,
    /// Plain requests that were handed over.
    pub handed_over: Vec<(ConnectionId, PlainRequest)>,
    ready: Vec<ConnectionId>,
}

/// One peer's end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Which connection it is to the core.
    pub connection: ConnectionId,
    /// What it was sent.
    pub received: Vec<u8>,
    /// What it sent and the core has not read: what lies in the kernel.
    pub in_kernel: Vec<u8>,
    /// How many bytes its socket still takes.
    pub room: usize,
    /// The server's end of TLS with it.
    pub tls: Option<Box<ServerSession>>,
    /// Whether it was told that nothing more comes.
    pub told_end: bool,
    /// Whether its socket was closed.
    pub closed: bool,
}

/// How many deliveries are made before they are written.
const DELIVERIES_PER_STEP: usize = 16;

/// How many bytes one read takes at most.
const READ_BYTES: usize = 4096;

impl<A: Application> VirtualDriver<A> {
    /// A driver with nobody connected, at a time well after the epochs.
    pub fn new(application: A, limits: Limits, metrics: Arc<ShardMetrics>) -> Self {
        let now = Now { elapsed_ns: 1_000_000_000, unix_ms: 1_795_582_739_706 };
        let core = Core::new(now, application, limits, metrics);
        Self { core, now, peers: Vec::new(), handed_over: Vec::new(), ready: Vec::new() }
    }

    /// A peer connects from this host; returns its number.
    pub fn connect(&mut self, refusal: Option<Refusal>) -> usize {
        self.connect_from(Ipv4Addr::LOCALHOST.into(), refusal)
    }

    /// A peer connects from `address`; returns its number.
    pub fn connect_from(&mut self, address: IpAddr, refusal: Option<Refusal>) -> usize {
        let peer = self.peers.len();
        let accepted = self.core.accept(self.now, address, refusal, |_| Ok::<_, Infallible>(peer));
        let Ok(connection) = accepted;
        let (received, in_kernel) = (Vec::new(), Vec::new());
        let (room, tls) = (usize::MAX, None);
        self.peers.push(Peer { connection, received, in_kernel, room, tls, told_end: false, closed: false });
        peer
    }

    /// A peer sends bytes, and the core reads what it wants of them.
    pub fn send(&mut self, peer: usize, bytes: &[u8]) {
        self.peers[peer].in_kernel.extend_from_slice(bytes);
        self.read(peer);
        self.settle();
    }

    /// A peer ends its side.
    pub fn end(&mut self, peer: usize) {
        if !self.peers[peer].closed {
            let connection = self.peers[peer].connection;
            self.step(Input::Ended { connection, failed: false });
        }
    }

    /// A peer's socket takes `room` bytes more from now on.
    pub fn make_room(&mut self, peer: usize, room: usize) {
        self.peers[peer].room = room;
        self.peers[peer].pay_debts();
        let connection = self.peers[peer].connection;
        self.step(Input::Writable(connection));
        self.settle();
    }

    /// Time passes, in steps as the core asks for them.
    pub fn pass(&mut self, ms: u64) {
        let end_ms = self.now.elapsed_ms() + ms;
        while let Some(due_ms) = self.core.deadline_ms().filter(|&due_ms| due_ms <= end_ms) {
            self.jump(due_ms.saturating_sub(self.now.elapsed_ms()));
        }
        self.jump(end_ms - self.now.elapsed_ms());
    }

    /// Time passes at once, as when the process was stopped.
    pub fn jump(&mut self, ms: u64) {
        self.now.elapsed_ns += ms * 1_000_000;
        self.now.unix_ms += ms;
        self.step(Input::Tick);
        self.settle();
    }

    /// Handles `input` and does what the core then wants.
    pub fn step(&mut self, input: Input<'_>) {
        self.core.handle(self.now, input);
        self.act();
    }

    /// Does all that the core wants done.
    pub fn act(&mut self) {
        let mut looks = Vec::new();
        let mut last = Vec::new();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Write { connection, socket, bytes, is_last } => {
                    let peer = &mut self.peers[*socket];
                    assert!(!peer.closed && !peer.told_end, "nothing is written after the end");
                    let taken = peer.write(bytes);
                    // What the socket took a part of only, it is given more of later.
                    last.retain(|told| *told != *socket);
                    if is_last && taken == bytes.len() {
                        last.push(*socket);
                    }
                    self.core.sent(self.now, connection, taken);
                }
                Output::ShutdownWrite(socket) => {
                    last.retain(|told| told != socket);
                    self.peers[*socket].shutdown_write();
                }
                Output::Close(socket) => {
                    last.retain(|told| *told != socket);
                    self.peers[socket].closed = true;
                }
                Output::Look(connection) => looks.push(connection),
                Output::Ready(connection) => self.ready.push(connection),
                Output::Plain { connection, request } => self.handed_over.push((connection, request)),
            }
        }
        // A kernel that was told that more follows may keep what it has.
        assert!(last.is_empty(), "what was said to be the last is followed by the end");
        for connection in looks {
            if let Some(&mut peer) = self.core.socket_mut(connection) {
                self.read(peer);
            }
            self.step(Input::Looked(connection));
        }
    }

    fn settle(&mut self) {
        while self.core.deliver(self.now, DELIVERIES_PER_STEP) {
            self.act();
        }
        self.act();
        while let Some(connection) = self.ready.pop() {
            if let Some(&mut peer) = self.core.socket_mut(connection) {
                self.read(peer);
            }
        }
    }

    fn read(&mut self, peer: usize) {
        let connection = self.peers[peer].connection;
        loop {
            match self.core.appetite(connection) {
                Appetite::Nothing => return,
                Appetite::Unread => self.step(Input::Resume(connection)),
                Appetite::ProxyHeader => {
                    let in_kernel = &mut self.peers[peer].in_kernel;
                    let dropped = self.core.look_for_proxy_header(self.now, connection, in_kernel);
                    in_kernel.drain(..dropped);
                    self.act();
                    if self.core.appetite(connection) == Appetite::ProxyHeader {
                        return;
                    }
                }
                Appetite::Read => {
                    let in_kernel = &mut self.peers[peer].in_kernel;
                    let mut bytes: Vec<u8> = in_kernel.drain(..in_kernel.len().min(READ_BYTES)).collect();
                    if bytes.is_empty() {
                        return;
                    }
                    let phase = self.peers[peer].decrypt(&mut bytes);
                    self.step(Input::Received { connection, bytes: &mut bytes });
                    match phase {
                        Some(Phase::PeerClosed) => return self.step(Input::Ended { connection, failed: false }),
                        Some(Phase::Failed(_)) => {
                            self.step(Input::Refused { connection, refusal: Refusal::Tls });
                            return self.step(Input::Ended { connection, failed: false });
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}

impl Peer {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let Self { tls, received, room, .. } = self;
        let mut send = |bytes: &[u8]| Ok::<_, Infallible>(take(received, room, bytes));
        let Ok(taken) = match tls {
            Some(tls) => tls.write(bytes, &mut Vec::new(), send),
            None => send(bytes),
        };
        taken
    }

    /// Sends what TLS has to say of its own and the socket did not take.
    fn pay_debts(&mut self) {
        let Self { tls, received, room, .. } = self;
        if let Some(tls) = tls.as_mut().filter(|tls| tls.owes()) {
            let Ok(_) = tls.flush(|bytes| Ok::<_, Infallible>(take(received, room, bytes)));
        }
    }

    /// Puts the plaintext into the place of the ciphertext.
    fn decrypt(&mut self, bytes: &mut Vec<u8>) -> Option<Phase> {
        let Self { tls, received, room, .. } = self;
        let tls = tls.as_mut()?;
        let (mut plaintext, mut reply) = (Vec::new(), Vec::new());
        tls.receive(bytes, &mut plaintext, &mut reply);
        let Ok(()) = tls.owe(&reply, |bytes| Ok::<_, Infallible>(take(received, room, bytes)));
        *bytes = plaintext;
        Some(tls.phase())
    }

    fn shutdown_write(&mut self) {
        self.told_end = true;
        let Self { tls, received, room, .. } = self;
        if let Some(tls) = tls {
            let mut close = Vec::new();
            tls.close(&mut close);
            let Ok(()) = tls.owe(&close, |bytes| Ok::<_, Infallible>(take(received, room, bytes)));
        }
    }
}

/// What a socket with so much room takes of `bytes`.
fn take(received: &mut Vec<u8>, room: &mut usize, bytes: &[u8]) -> usize {
    let taken = bytes.len().min(*room);
    *room -= taken;
    received.extend_from_slice(&bytes[..taken]);
    taken
}
