//! One connection's record: its phase, and what it keeps only while something is incomplete.

use std::net::IpAddr;

use super::Limits;
use crate::protocol::address::is_in;
use crate::protocol::assembly::Assembly;
use crate::protocol::error::Refusal;

/// One connection. An idle one owns nothing on the heap.
#[derive(Debug)]
pub struct Connection<S, Session> {
    pub socket: S,
    /// When a byte was last read from it.
    pub heard_ms: u64,
    pub extra: Option<Box<Extra>>,
    pub phase: Phase<Session>,
    pub generation: u32,
}

/// Where a connection stands, named for what it waits for.
#[derive(Debug)]
pub enum Phase<Session> {
    /// For the end of the request's head.
    Handshake {
        /// When it was accepted.
        since_ms: u64,
        peer: Peer,
    },
    /// For what the application makes of its request to upgrade; nothing is read meanwhile.
    Admission {
        /// When the application was asked.
        since_ms: u64,
    },
    /// For control's answer to a plain request.
    Answering {
        /// When control was asked.
        since_ms: u64,
    },
    /// For messages, until it has been silent too long.
    Open {
        /// When the last complete message came, or it opened.
        message_ms: u64,
        /// How long it may be without one; 0 for ever.
        silence_ms: u32,
        /// How long after `heard_ms` it was sent a Ping; 0 when it was not, since then.
        probed_after_ms: u32,
        session: Session,
    },
    /// For the peer's end.
    Closing {
        /// When the last word was said.
        since_ms: u64,
        /// Whether the peer's close frame may still come, rather than only its end.
        awaits_close: bool,
    },
}

/// Who is at the other end, as far as is known before the request.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// What it is answered whatever it asks, control's pages aside.
    pub refusal: Option<Refusal>,
    /// Whether a PROXY header must come before all else, and has not.
    pub owes_proxy_header: bool,
    /// Whether its forwarding headers are read.
    pub is_trusted: bool,
}

impl Peer {
    /// The peer that connects from `address`.
    pub fn connecting(address: IpAddr, refusal: Option<Refusal>, limits: &Limits) -> Self {
        let owes_proxy_header = is_in(&limits.proxy_protocol_from, address);
        Self { refusal, owes_proxy_header, is_trusted: is_in(&limits.trusted_proxies, address) }
    }
}

/// What is kept of a connection only while there is something of it.
#[derive(Debug, Default)]
pub struct Extra {
    /// The part of a request's head that has come.
    pub head: Vec<u8>,
    /// The part of a message that has come.
    pub assembly: Option<Box<Assembly>>,
    /// When the first byte of that part came.
    pub message_began_ms: Option<u64>,
    /// Bytes that were read and not handled: the turn's budget was used up.
    pub unread: Vec<u8>,
    /// Bytes that the socket did not take; those before `sent` it took later.
    pub pending: Vec<u8>,
    sent: usize,
    /// How many of the pending bytes, the foremost, are a delivery: what its peer did not ask for does not keep
    /// its messages from being read.
    delivery_bytes: usize,
    /// When the socket last took a byte.
    progress_ms: u64,
    /// Whether reading stopped because too much is pending.
    pub held: bool,
    /// Whether reading stopped because the application said so.
    pub is_held_by_application: bool,
    /// Whether the application waits for the socket to take all that is pending.
    pub is_awaited: bool,
    /// How many bytes the shard's sum counts for this.
    pub counted_bytes: usize,
}

impl Extra {
    pub fn pending_bytes(&self) -> usize {
        self.pending.len() - self.sent
    }

    /// Those of the pending bytes that answer the peer's own messages.
    pub fn answer_bytes(&self) -> usize {
        self.pending_bytes() - self.delivery_bytes
    }

    /// Bytes that this holds, itself included.
    pub fn held_bytes(&self) -> usize {
        let assembly = self.assembly.as_ref().map_or(0, |assembly| size_of::<Assembly>() + assembly.held_bytes());
        size_of::<Self>() + self.head.capacity() + assembly + self.unread.capacity() + self.pending.capacity()
    }

    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
            && self.assembly.is_none()
            && self.unread.is_empty()
            && self.pending_bytes() == 0
            && !self.held
            && !self.is_held_by_application
    }
}

/// What is to be done about a connection at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Its request did not come in time.
    HandshakeTimeout,
    /// Nothing has arrived for a while: ask whether anybody is there.
    Probe,
    /// Nobody answered.
    Unresponsive,
    /// No complete message for so long.
    Silent { after_ms: u32 },
    /// A message began and did not end.
    SlowMessage,
    /// The socket takes nothing.
    SendTimeout,
    /// What the application itself waits for.
    Session,
    /// The close has waited long enough.
    Forget,
}

impl<S, Session> Connection<S, Session> {
    /// What is due next for this connection, and when. `session_deadline_ms` tells the application's own deadline.
    pub fn due(&self, limits: &Limits, session_deadline_ms: impl Fn() -> Option<u64>) -> (u64, Due) {
        let extra = self.extra.as_deref();
        let stalled = extra.filter(|extra| extra.pending_bytes() > 0);
        let stalled = stalled.map(|extra| (extra.progress_ms + limits.send_timeout_ms, Due::SendTimeout));
        // While reading rests by our own choice, what the peer says waits in the kernel: what it takes judges it alone.
        let held = extra.filter(|extra| extra.held).and(stalled);
        match self.phase {
            Phase::Handshake { since_ms, .. } | Phase::Admission { since_ms } => {
                (since_ms + limits.handshake_timeout_ms, Due::HandshakeTimeout)
            }
            Phase::Answering { since_ms } => (since_ms + limits.handshake_timeout_ms, Due::Forget),
            Phase::Closing { since_ms, .. } => (since_ms + limits.close_timeout_ms, Due::Forget),
            Phase::Open { message_ms, silence_ms, probed_after_ms, .. } => {
                let session = session_deadline_ms().map(|due_ms| (due_ms, Due::Session));
                if let Some(held) = held {
                    // A token ends whether or not its client takes its answers.
                    return session
                        .into_iter()
                        .fold(held, |first, other| if other.0 < first.0 { other } else { first });
                }
                let probe = match (limits.probe_after_ms, probed_after_ms) {
                    (0, 0) => None,
                    (after_ms, 0) => Some((self.heard_ms + after_ms, Due::Probe)),
                    (_, after_ms) => {
                        Some((self.heard_ms + u64::from(after_ms) + limits.probe_timeout_ms, Due::Unresponsive))
                    }
                };
                // Nor is it silent while the application keeps it from being heard.
                let is_heard = extra.is_none_or(|extra| !extra.is_held_by_application);
                let silent = (silence_ms > 0 && is_heard)
                    .then(|| (message_ms + u64::from(silence_ms), Due::Silent { after_ms: silence_ms }));
                let slow = extra.filter(|extra| extra.assembly.is_some()).and_then(|extra| extra.message_began_ms);
                let slow = slow.map(|began_ms| (began_ms + limits.message_timeout_ms, Due::SlowMessage));
                // With everything switched off nothing is ever due; the far future stands for that.
                [probe, silent, slow, stalled, session]
                    .into_iter()
                    .flatten()
                    .min_by_key(|(due_ms, _)| *due_ms)
                    .unwrap_or((u64::MAX / 2, Due::Probe))
            }
        }
    }

    /// Bytes that wait for the socket.
    pub fn pending_bytes(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.pending_bytes())
    }

    /// Those of them that answer the peer's own messages.
    pub fn answer_bytes(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.answer_bytes())
    }

    /// The socket and the bytes that wait for it.
    pub fn socket_and_pending(&mut self) -> (&mut S, &[u8]) {
        let pending = self.extra.as_ref().map_or(&[][..], |extra| &extra.pending[extra.sent..]);
        (&mut self.socket, pending)
    }

    /// Keeps `bytes` for the socket; nothing else is kept for it yet, unless an answer follows a delivery of the
    /// same step.
    pub fn queue(&mut self, bytes: &[u8], is_delivery: bool, now_ms: u64) {
        let extra = self.extra.get_or_insert_default();
        extra.pending.extend_from_slice(bytes);
        if is_delivery {
            extra.delivery_bytes += bytes.len();
        }
        extra.progress_ms = now_ms;
    }

    /// Lets go of `taken` bytes that the socket took, and returns how many still wait.
    pub fn dequeue(&mut self, taken: usize, now_ms: u64) -> usize {
        let Some(extra) = &mut self.extra else { return 0 };
        if taken > 0 {
            extra.progress_ms = now_ms;
        }
        extra.sent += taken;
        extra.delivery_bytes = extra.delivery_bytes.saturating_sub(taken);
        let left = extra.pending_bytes();
        if left == 0 {
            extra.pending = Vec::new();
            extra.sent = 0;
        } else if extra.sent > extra.pending.len() / 2 {
            extra.pending.drain(..extra.sent);
            extra.sent = 0;
        }
        left
    }

    /// Whether reading had stopped because too much was pending; it has no longer.
    pub fn take_held(&mut self) -> bool {
        self.extra.as_mut().is_some_and(|extra| std::mem::take(&mut extra.held))
    }

    /// The bytes that were read and not handled.
    pub fn take_unread(&mut self) -> Option<Vec<u8>> {
        let unread = std::mem::take(&mut self.extra.as_mut()?.unread);
        Some(unread).filter(|unread| !unread.is_empty())
    }
}
