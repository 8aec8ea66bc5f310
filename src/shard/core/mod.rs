//! A connection's life, without sockets and clocks: values in, values out.
//!
//! The driver's part of the bargain, for each thing that happens:
//! 1. [`Core::handle`] it, with the time.
//! 2. Do what [`Core::poll_output`] says until it says `None`. After each [`Output::Write`], say with
//!    [`Core::sent`] how much the socket took, before anything else.
//! 3. Sleep until [`Core::deadline_ms`], unless something happens before; then handle [`Input::Tick`].
//!
//! What the messages mean is an [`Application`]'s business.

mod admission;
mod connection;
mod limits;
mod rates;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod watch_tests;
pub mod wheel;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use admission::Admission;
use connection::{Connection, Due, Peer, Phase};
pub use limits::Limits;
use rates::{AddressRates, ConnectionRates};
use wheel::Wheel;

use super::{ConnectionId, Now};
use crate::metrics::ShardMetrics;
use crate::protocol::address::{AddressKey, is_in};
use crate::protocol::assembly::{self, Event, Message};
use crate::protocol::close::CloseCode;
use crate::protocol::error::{Refusal, Violation};
use crate::protocol::frame::{self, Kind};
use crate::protocol::handshake::{self, Refused, Request, Upgrade};
use crate::protocol::plain::{PlainPath, PlainRequest};
use crate::protocol::{forwarded, proxy};
use crate::rate::Taken;
use crate::slab::{Beside, Slab};

/// What may be held of a message that comes in pieces when memory is full: short ones, cut by chance, still pass.
const HELD_BYTES_WHEN_FULL: usize = 1024;

/// What the buffer of a step's output keeps of its size between steps.
const OUT_BYTES_KEPT: usize = 256 * 1024;

/// Connections that one tick looks at; what is due beyond that waits for the next turn.
const DUE_BUDGET: usize = 256;

/// Bytes of messages after which a step of deliveries ends, however few they are.
const DELIVERED_BYTES: usize = 64 * 1024;

/// What is done with a connection's upgrade and messages. One for each shard.
pub trait Application {
    /// What is kept for each open connection, inline in its record.
    type Session;
    /// What goes to the same application on other shards: one value a destination and turn.
    type Mail: Send + 'static;

    /// Judges a request to upgrade before anything is answered.
    fn admit(&mut self, _now: Now, _connection: ConnectionId, _upgrade: &Upgrade<'_>) -> Admission {
        Admission::Open
    }

    /// Whether a request for this host, as its header says, may read more than whether the server is well.
    fn admits_reader(&self, _host: Option<&[u8]>) -> bool {
        true
    }

    /// Opens the connection of a request that was granted, when the response 101 has been appended to `out`; what opens
    /// the conversation is appended behind it.
    ///
    /// # Errors
    /// The close with which the connection ends at once. It never counts as open.
    fn open(
        &mut self,
        now: Now,
        connection: ConnectionId,
        upgrade: &Upgrade<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Opened<Self::Session>, Close>;

    /// Where the client of a connection is that [`Application::open`] has just taken; told where addresses are counted.
    fn came_from(&mut self, _now: Now, _connection: ConnectionId, _address: AddressKey) {}

    /// A connection has ended of which [`Application::came_from`] told.
    fn gone_from(&mut self, _now: Now, _connection: ConnectionId, _address: AddressKey) {}

    /// Takes a whole message; answers are appended to `out` as frames.
    fn message(
        &mut self,
        now: Now,
        connection: ConnectionId,
        session: &mut Self::Session,
        message: Message<'_>,
        out: &mut Vec<u8>,
    ) -> Verdict;

    /// A message was too long for the memory that is left, and thrown away as it came; answered like
    /// [`Application::message`].
    fn overflow(&mut self, now: Now, out: &mut Vec<u8>);

    /// Whether a connection counts as open already. One that does not comes to it by [`Verdict::Admit`].
    fn counts(&self, _connection: ConnectionId) -> bool {
        true
    }

    /// When [`Application::session_due`] is due for a connection, in milliseconds since the shard began.
    fn session_deadline_ms(&self, _connection: ConnectionId) -> Option<u64> {
        None
    }

    /// A connection's time has come; the close with which it ends, unless it goes on after all.
    fn session_due(&mut self, _now: Now, _connection: ConnectionId) -> Option<Close> {
        None
    }
    /// A message came that is over the connection's rate, and was thrown away; answered like [`Application::message`].
    fn over_rate(&mut self, _now: Now, _out: &mut Vec<u8>) {}

    /// Whether `memory_limit` leaves room for what grows, from now on.
    fn set_memory_full(&mut self, full: bool);

    /// Bytes that the application holds, beside the sessions.
    fn held_bytes(&self) -> usize;

    /// The connection has ended, however it came to that.
    fn ended(&mut self, now: Now, connection: ConnectionId, session: Self::Session, ending: Ending);

    /// Time has passed, perhaps past [`Application::deadline_ms`].
    fn tick(&mut self, _now: Now) {}

    /// When [`Application::tick`] or [`Application::next_action`] is due next, in milliseconds since the shard began.
    fn deadline_ms(&self) -> Option<u64> {
        None
    }

    /// A step begins, in which `out` is empty: what was shared in the last one can be shared no longer.
    fn begin_step(&mut self, _now: Now) {}

    /// What is to be done about some connection of its own accord, if anything is due by `now`.
    fn next_action(&mut self, _now: Now) -> Option<Action> {
        None
    }

    /// Says what [`Action::Deliver`] was asked for, appending it to `out` as frames. Nothing else waits for the socket.
    fn deliver(
        &mut self,
        _now: Now,
        _connection: ConnectionId,
        _session: &mut Self::Session,
        _out: &mut Vec<u8>,
    ) -> Delivery {
        Delivery::Nothing
    }

    /// What [`Action::Attend`] was asked for: the session, if the connection is still open.
    fn attend(&mut self, _now: Now, _connection: ConnectionId, _session: Option<&mut Self::Session>) {}

    /// A connection whose socket was busy when [`Action::Deliver`] was asked for has nothing waiting any more.
    fn writable(&mut self, _now: Now, _connection: ConnectionId, _session: &mut Self::Session) {}

    /// Takes what the application of another shard sent.
    fn receive(&mut self, _now: Now, _mail: Self::Mail) {}

    /// The turn ends: what it has to say to other shards is gathered. [`Application::take_mail`] follows, for each.
    fn gather_mail(&mut self) {}

    /// What is to be sent to `shard`, if anything.
    fn take_mail(&mut self, _shard: usize) -> Option<Self::Mail> {
        None
    }

    /// `shard` has no room: what waits for it keeps waiting, and is asked for again.
    fn hold_mail(&mut self, _shard: usize) {}

    /// Takes back what `shard` turned out to have no room for; it is asked for again.
    fn return_mail(&mut self, _shard: usize, _mail: Self::Mail) {}
}

/// How an upgraded connection begins.
#[derive(Debug)]
pub struct Opened<Session> {
    /// What the application keeps for it.
    pub session: Session,
    /// How long it may be without a complete message, in milliseconds; 0 for ever.
    pub silence_ms: u32,
    /// Whether nothing is read from it until [`Action::Release`].
    pub hold: bool,
}

/// How a connection came to its end, as far as others care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Who wanted it.
    pub cause: Cause,
    /// When a byte was last read from it, in milliseconds since the shard began.
    pub heard_ms: u64,
}

/// Who wanted a connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The client, and it said so: a normal close, its own or one that it asked for.
    Asked,
    /// Nobody was there any more, and the server has waited long enough.
    Silent,
    /// Nobody, or a fault: the client may well come back.
    Lost,
}

/// What an application does of its own accord.
#[derive(Debug)]
pub enum Action {
    /// Have [`Application::deliver`] say something, as soon as nothing else waits for the socket.
    Deliver(ConnectionId),
    /// Have [`Application::attend`] look at it, or learn that it has gone.
    Attend(ConnectionId),
    /// Read on in a connection that was held.
    Release(ConnectionId),
    /// Ask [`Application::admit`] anew about a request that waits for it.
    Admit(ConnectionId),
    /// Close it.
    Close(ConnectionId, Close),
}

/// What [`Application::deliver`] had to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing after all.
    Nothing,
    /// What it appended.
    Appended,
    /// The same as another connection was told in this step: this part of `out`.
    Shared(Range<usize>),
}

/// A close that the server decides on.
#[derive(Debug)]
pub struct Close {
    /// Its code.
    pub code: CloseCode,
    /// Its reason; cut to the 123 bytes that a close frame holds.
    pub reason: String,
}

impl Close {
    /// A close with this code and reason.
    pub fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// What becomes of a connection after a message.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on.
    Continue,
    /// It goes on, but nothing more is read from it until [`Action::Release`].
    Hold,
    /// It goes on, and counts as open from now on.
    Admit {
        /// How long it may be without a complete message, in milliseconds; 0 for ever.
        silence_ms: u32,
        /// Whether nothing more is read from it until [`Action::Release`].
        hold: bool,
    },
    /// It goes on, perhaps with another [`Application::session_deadline_ms`]. It was so much work that what follows
    /// waits for the next turn.
    Reschedule,
    /// It is closed, after what was answered.
    Close(Close),
}

/// What the driver tells the core, one at a time.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes in the shard's read buffer; unmasked in place, not kept.
    Received {
        /// From whom.
        connection: ConnectionId,
        /// What; none where something came that means nothing yet.
        bytes: &'a mut [u8],
    },
    /// The driver came back for what [`Appetite::Unread`] told of.
    Resume(ConnectionId),
    /// The peer will send nothing more, or the socket failed.
    Ended {
        /// Whose.
        connection: ConnectionId,
        /// Whether the socket failed, as by a reset, rather than came to its end.
        failed: bool,
    },
    /// The socket takes bytes again.
    Writable(ConnectionId),
    /// The look that [`Output::Look`] asked for has been had.
    Looked(ConnectionId),
    /// What control answers to [`Output::Plain`]: a whole HTTP response.
    Response {
        /// To whom.
        connection: ConnectionId,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Control takes no plain request now.
    Unanswered(ConnectionId),
    /// The driver cannot hear what the peer asks: it is refused, if it has not been heard yet.
    Refused {
        /// Who.
        connection: ConnectionId,
        /// Why.
        refusal: Refusal,
    },
    /// From now on nobody is served any more; see [`Core::drain`].
    Drain,
    /// Only time has passed.
    Tick,
}

/// What the core tells the driver to do.
#[derive(Debug)]
pub enum Output<'a, S> {
    /// Write these bytes, then say with [`Core::sent`] how many the socket took.
    Write {
        /// To whom.
        connection: ConnectionId,
        /// The connection's socket.
        socket: &'a mut S,
        /// What.
        bytes: &'a [u8],
        /// Whether [`Output::ShutdownWrite`] follows once the socket has taken all: both may go into one packet.
        is_last: bool,
    },
    /// Say to the peer that nothing more will come.
    ShutdownWrite(&'a mut S),
    /// Close: the connection is forgotten.
    Close(S),
    /// Before a connection is ended for its silence: read what lies in its socket, write what waits for it, then
    /// handle [`Input::Looked`]. So nobody is cut whose bytes wait in the kernel.
    Look(ConnectionId),
    /// The connection wants to be read again.
    Ready(ConnectionId),
    /// A request for control.
    Plain {
        /// Whose; the answer is [`Input::Response`].
        connection: ConnectionId,
        /// For what.
        request: PlainRequest,
    },
}

/// What a connection wants of a driver that would read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appetite {
    /// Bytes.
    Read,
    /// [`Input::Resume`]: bytes that were read before wait for their turn.
    Unread,
    /// A look at the bytes in its socket, which stay there: [`Core::look_for_proxy_header`] says how many to drop.
    ProxyHeader,
    /// Nothing now; [`Output::Ready`] will say when.
    Nothing,
}

enum Effect<S> {
    Write { connection: ConnectionId, bytes: Range<usize>, is_delivery: bool },
    WritePending(ConnectionId),
    ShutdownWrite(ConnectionId),
    Close(S),
    Look(ConnectionId),
    Ready(ConnectionId),
    Plain { connection: ConnectionId, request: PlainRequest },
}

/// All connections of one shard. `S` is the driver's own value for each, which the core keeps and hands back.
pub struct Core<A: Application, S> {
    application: A,
    limits: Limits,
    metrics: Arc<ShardMetrics>,
    connections: Slab<Connection<S, A::Session>>,
    wheel: Wheel,
    /// What each connection may still send, where that is limited.
    message_rates: Option<ConnectionRates>,
    /// How many upgrades each address still has, where that is limited.
    upgrade_rates: Option<AddressRates>,
    /// Where each connection's client is, where something of addresses is limited.
    addresses: Option<Beside<AddressKey>>,
    /// What is to be written in this step; empty between steps.
    out: Vec<u8>,
    effects: VecDeque<Effect<S>>,
    /// The write that the driver is doing: what was handed out and not yet told by [`Core::sent`].
    writing: Option<Writing>,
    next_generation: u32,
    open: usize,
    queued_bytes: usize,
    /// Bytes that connections hold beside their records.
    extra_bytes: usize,
    /// Answers that went out since the driver last asked.
    answered: u64,
    /// While draining, the slot that is closed next.
    draining: Option<u32>,
    /// A connection that is to be told more, once what it was told in the last step has been written.
    put_off: Option<ConnectionId>,
}

enum Writing {
    Out { bytes: Range<usize>, is_delivery: bool },
    Pending,
}

impl<A: Application, S> Core<A, S> {
    /// The bytes that a connection takes in the shard's table, its session and the driver's value included.
    pub const CONNECTION_BYTES: usize = Slab::<Connection<S, A::Session>>::ENTRY_BYTES;

    /// A shard without connections.
    pub fn new(now: Now, application: A, limits: Limits, metrics: Arc<ShardMetrics>) -> Self {
        Self {
            application,
            wheel: Wheel::new(limits.timer_tick_ms, now.elapsed_ms()),
            message_rates: limits.message_rate.map(ConnectionRates::new),
            upgrade_rates: limits.upgrade_rate.map(AddressRates::new),
            addresses: (limits.upgrade_rate.is_some() || limits.counts_addresses).then(Beside::default),
            limits,
            metrics,
            connections: Slab::default(),
            out: Vec::new(),
            effects: VecDeque::new(),
            writing: None,
            next_generation: 0,
            open: 0,
            queued_bytes: 0,
            extra_bytes: 0,
            answered: 0,
            draining: None,
            put_off: None,
        }
    }

    /// Takes in a connection that was accepted from `address`; what it sends first must be a request, or a PROXY header
    /// where `proxy_protocol_from` says so.
    ///
    /// With `refusal` it is answered with that, unless what it asks for is one of control's pages.
    ///
    /// # Errors
    /// What `socket` fails with, which makes the driver's value for the connection that is to be; nothing is kept.
    pub fn accept<E>(
        &mut self,
        now: Now,
        address: IpAddr,
        refusal: Option<Refusal>,
        socket: impl FnOnce(ConnectionId) -> Result<S, E>,
    ) -> Result<ConnectionId, E> {
        let connection = ConnectionId { index: self.connections.next_index(), generation: self.next_generation };
        let socket = socket(connection)?;
        self.next_generation = self.next_generation.wrapping_add(1);
        let refusal = refusal.or(self.draining.map(|_| Refusal::Draining));
        let now_ms = now.elapsed_ms();
        let phase = Phase::Handshake { since_ms: now_ms, peer: Peer::connecting(address, refusal, &self.limits) };
        let generation = connection.generation;
        self.connections.insert(Connection { socket, heard_ms: now_ms, extra: None, phase, generation });
        self.set_address(connection, address);
        self.wheel.schedule(connection.index, now_ms + self.limits.handshake_timeout_ms);
        self.metrics.sockets_current.set(self.connections.len() as u64);
        Ok(connection)
    }

    /// The driver's value for a connection.
    pub fn socket_mut(&mut self, connection: ConnectionId) -> Option<&mut S> {
        self.get_mut(connection).map(|record| &mut record.socket)
    }

    /// Takes in what happened. Drain [`Core::poll_output`] after it.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        match input {
            Input::Received { connection, bytes } => {
                self.metrics.bytes_received_total.add(bytes.len() as u64);
                self.receive(now, connection, bytes, true);
            }
            Input::Resume(connection) => {
                let Some(mut bytes) = self.get_mut(connection).and_then(Connection::take_unread) else { return };
                self.receive(now, connection, &mut bytes, false);
            }
            Input::Ended { connection, failed } => self.peer_ended(now, connection, failed),
            Input::Writable(connection) => {
                if self.get_mut(connection).is_some_and(|connection| connection.pending_bytes() > 0) {
                    self.effects.push_back(Effect::WritePending(connection));
                }
            }
            Input::Looked(connection) => self.judge(now, connection, true),
            Input::Response { connection, bytes } => self.respond(now, connection, &bytes),
            Input::Unanswered(connection) => self.leave_unheard(now, connection, Refusal::Full),
            Input::Refused { connection, refusal } => {
                let phase = self.get_mut(connection).map(|record| &record.phase);
                if matches!(phase, Some(Phase::Handshake { .. })) {
                    self.leave_unheard(now, connection, refusal);
                }
            }
            Input::Drain => self.draining = Some(self.draining.unwrap_or(0)),
            Input::Tick => self.tick(now),
        }
    }

    /// What the driver must do next; `None` when it has done all.
    pub fn poll_output(&mut self) -> Option<Output<'_, S>> {
        loop {
            let Some(effect) = self.effects.pop_front() else {
                self.out.clear();
                self.out.shrink_to(OUT_BYTES_KEPT);
                return None;
            };
            match effect {
                // What an earlier effect of this step wrote may not have been taken whole.
                Effect::Write { connection, bytes, .. } if self.pending_bytes(connection) > 0 => {
                    self.queue_behind(connection, bytes);
                }
                Effect::Write { connection, bytes, is_delivery } if self.is_current(connection) => {
                    self.writing = Some(Writing::Out { bytes: bytes.clone(), is_delivery });
                    let record = &mut self.connections[connection.index];
                    let is_last = matches!(record.phase, Phase::Closing { .. });
                    return Some(Output::Write {
                        connection,
                        socket: &mut record.socket,
                        bytes: &self.out[bytes],
                        is_last,
                    });
                }
                Effect::WritePending(connection) if self.is_current(connection) => {
                    let record = &self.connections[connection.index];
                    if record.pending_bytes() > 0 {
                        self.writing = Some(Writing::Pending);
                        let is_last = matches!(record.phase, Phase::Closing { .. });
                        let (socket, bytes) = self.connections[connection.index].socket_and_pending();
                        return Some(Output::Write { connection, socket, bytes, is_last });
                    }
                }
                // Of what was written in one step the last may wait, though what came before was taken whole.
                Effect::ShutdownWrite(connection)
                    if self.is_current(connection) && self.pending_bytes(connection) == 0 =>
                {
                    return Some(Output::ShutdownWrite(&mut self.connections[connection.index].socket));
                }
                Effect::Close(socket) => return Some(Output::Close(socket)),
                Effect::Look(connection) => return Some(Output::Look(connection)),
                Effect::Ready(connection) => return Some(Output::Ready(connection)),
                Effect::Plain { connection, request } => return Some(Output::Plain { connection, request }),
                Effect::Write { .. } | Effect::WritePending(_) | Effect::ShutdownWrite(_) => {}
            }
        }
    }

    /// The socket took `taken` bytes of the [`Output::Write`] just handed out.
    pub fn sent(&mut self, now: Now, connection: ConnectionId, taken: usize) {
        self.sent_inner(now, connection, taken);
        self.settle(connection);
    }

    fn sent_inner(&mut self, now: Now, connection: ConnectionId, taken: usize) {
        let Some(writing) = self.writing.take() else { return };
        self.metrics.bytes_sent_total.add(taken as u64);
        let record = &mut self.connections[connection.index];
        match writing {
            Writing::Out { bytes, is_delivery } => {
                if taken < bytes.len() {
                    let rest = bytes.start + taken..bytes.end;
                    self.queued_bytes += rest.len();
                    record.queue(&self.out[rest], is_delivery, now.elapsed_ms());
                    self.metrics.queued_bytes.set(self.queued_bytes as u64);
                    self.wheel.hasten(connection.index, now.elapsed_ms() + self.limits.send_timeout_ms);
                    return;
                }
            }
            Writing::Pending => {
                self.queued_bytes -= taken;
                self.metrics.queued_bytes.set(self.queued_bytes as u64);
                let left = record.dequeue(taken, now.elapsed_ms());
                if record.answer_bytes() < self.limits.send_queue_bytes / 2 && record.take_held() {
                    self.effects.push_back(Effect::Ready(connection));
                    let (due_ms, _) = record.due(&self.limits, || self.application.session_deadline_ms(connection));
                    self.wheel.schedule(connection.index, due_ms.max(now.elapsed_ms()));
                }
                if left > 0 {
                    return;
                }
                let was_awaited = record.extra.as_mut().is_some_and(|extra| std::mem::take(&mut extra.is_awaited));
                if was_awaited && let Phase::Open { session, .. } = &mut record.phase {
                    self.application.writable(now, connection, session);
                }
            }
        }
        if matches!(record.phase, Phase::Closing { .. }) {
            self.effects.push_back(Effect::ShutdownWrite(connection));
        }
    }

    /// Has the processor fetch a connection's record, which the driver is about to ask for.
    pub fn prefetch(&self, connection: ConnectionId) {
        self.connections.prefetch(connection.index);
    }

    /// What the connection wants of a driver that would read it. Asked before each read.
    pub fn appetite(&mut self, connection: ConnectionId) -> Appetite {
        let send_queue_bytes = self.limits.send_queue_bytes;
        let Some(record) = self.get_mut(connection) else { return Appetite::Nothing };
        match &record.phase {
            Phase::Admission { .. } => return Appetite::Nothing,
            Phase::Handshake { peer: Peer { owes_proxy_header: true, .. }, .. } => return Appetite::ProxyHeader,
            _ => {}
        }
        let Some(extra) = &mut record.extra else { return Appetite::Read };
        if matches!(record.phase, Phase::Open { .. }) {
            if extra.is_held_by_application {
                return Appetite::Nothing;
            }
            if extra.answer_bytes() >= send_queue_bytes {
                extra.held = true;
                return Appetite::Nothing;
            }
        }
        if extra.unread.is_empty() { Appetite::Read } else { Appetite::Unread }
    }

    /// Looks for the PROXY header in the `bytes` that lie in a connection's socket, and says how many of them to take
    /// out and drop: 0 while the header is not whole, or when it is none. Drain [`Core::poll_output`] after it.
    ///
    /// What follows the header is not for this layer to read: it may be encrypted.
    pub fn look_for_proxy_header(&mut self, now: Now, connection: ConnectionId, bytes: &[u8]) -> usize {
        let Some(record) = self.connections.get_mut(connection.index) else { return 0 };
        let Phase::Handshake { peer, .. } = &mut record.phase else { return 0 };
        if record.generation != connection.generation || !peer.owes_proxy_header {
            return 0;
        }
        match proxy::read(bytes) {
            Ok(None) => 0,
            Ok(Some(header)) => {
                peer.owes_proxy_header = false;
                if let Some(client) = header.client {
                    peer.is_trusted = is_in(&self.limits.trusted_proxies, client);
                    self.set_address(connection, client);
                }
                self.metrics.bytes_received_total.add(header.bytes as u64);
                header.bytes
            }
            Err(proxy::InvalidHeader) => {
                let start = self.out.len();
                self.refuse(now, connection, &Refusal::ProxyHeaderRequired.into());
                self.write_out(connection, start);
                0
            }
        }
    }

    /// When [`Input::Tick`] is due, in milliseconds since the shard began.
    pub fn deadline_ms(&self) -> Option<u64> {
        let put_off = self.put_off.map(|_| 0);
        [self.wheel.next_due_ms(), self.application.deadline_ms(), put_off].into_iter().flatten().min()
    }

    /// Does up to `budget` of what the application wants done of its own accord, fewer where messages are long; true
    /// when it may want more. Drain [`Core::poll_output`] after it.
    pub fn deliver(&mut self, now: Now, budget: usize) -> bool {
        self.application.begin_step(now);
        if let Some(connection) = self.put_off.take() {
            self.deliver_one(now, connection);
        }
        let start = self.out.len();
        for _ in 0..budget {
            if self.out.len() - start >= DELIVERED_BYTES {
                return true;
            }
            match self.application.next_action(now) {
                None => return false,
                // Whether its socket takes the first is not known yet.
                Some(Action::Deliver(connection)) if self.was_told_in_this_step(connection) => {
                    self.put_off = Some(connection);
                    return true;
                }
                Some(Action::Deliver(connection)) => self.deliver_one(now, connection),
                Some(Action::Attend(connection)) => {
                    let record = self.connections.get_mut(connection.index);
                    let record = record.filter(|record| record.generation == connection.generation);
                    let session = record.and_then(|record| match &mut record.phase {
                        Phase::Open { session, .. } => Some(session),
                        _ => None,
                    });
                    self.application.attend(now, connection, session);
                }
                Some(Action::Release(connection)) => self.release(now, connection),
                Some(Action::Admit(connection)) => self.readmit(now, connection),
                Some(Action::Close(connection, close)) => {
                    if self.get_mut(connection).is_some_and(|record| matches!(record.phase, Phase::Open { .. })) {
                        let start = self.out.len();
                        self.close(now, connection, &close);
                        self.write_out(connection, start);
                        self.settle(connection);
                    }
                }
            }
        }
        true
    }

    /// Closes up to `budget` connections because the server stops; true while there are more to close.
    /// Drain [`Core::poll_output`] after it.
    pub fn drain(&mut self, now: Now, budget: usize) -> bool {
        let Some(mut index) = self.draining else { return false };
        let end = self.connections.index_end();
        for _ in 0..budget {
            if index >= end {
                break;
            }
            self.drain_one(now, index);
            index += 1;
        }
        self.draining = Some(index);
        index < end
    }

    /// Bytes that the connections hold, and the application for them: what `memory_limit` is held against.
    pub fn held_bytes(&self) -> usize {
        self.connections.len() * (Self::CONNECTION_BYTES + Wheel::ENTRY_BYTES)
            + self.extra_bytes
            + self.addresses.as_ref().map_or(0, Beside::held_bytes)
            + self.message_rates.as_ref().map_or(0, ConnectionRates::held_bytes)
            + self.application.held_bytes()
    }

    /// Whether `memory_limit` leaves room for what grows, from now on.
    pub fn set_memory_full(&mut self, full: bool) {
        self.limits.messages.held_bytes_max = if full { HELD_BYTES_WHEN_FULL } else { usize::MAX };
        self.application.set_memory_full(full);
    }

    /// Connections that are held, whatever they wait for.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether no connection is left.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Answers that went out since this was last asked.
    pub fn take_answered(&mut self) -> u64 {
        std::mem::take(&mut self.answered)
    }

    /// The application.
    pub fn application_mut(&mut self) -> &mut A {
        &mut self.application
    }

    fn is_current(&self, connection: ConnectionId) -> bool {
        self.connections.get(connection.index).is_some_and(|record| record.generation == connection.generation)
    }

    fn get_mut(&mut self, connection: ConnectionId) -> Option<&mut Connection<S, A::Session>> {
        self.connections.get_mut(connection.index).filter(|record| record.generation == connection.generation)
    }

    fn was_told_in_this_step(&self, connection: ConnectionId) -> bool {
        let is_told =
            |effect: &Effect<S>| matches!(effect, Effect::Write { connection: told, .. } if *told == connection);
        self.effects.iter().any(is_told)
    }

    fn deliver_one(&mut self, now: Now, connection: ConnectionId) {
        let Some(record) = self.connections.get_mut(connection.index) else { return };
        let Phase::Open { session, .. } = &mut record.phase else { return };
        if record.generation != connection.generation {
            return;
        }
        if let Some(extra) = record.extra.as_mut().filter(|extra| extra.pending_bytes() > 0) {
            extra.is_awaited = true;
            return;
        }
        let start = self.out.len();
        let bytes = match self.application.deliver(now, connection, session, &mut self.out) {
            Delivery::Nothing => return,
            Delivery::Appended => start..self.out.len(),
            Delivery::Shared(bytes) => bytes,
        };
        self.effects.push_back(Effect::Write { connection, bytes, is_delivery: true });
    }

    /// Reads on in a connection that the application held. From now on it may be silent for as long as ever.
    fn release(&mut self, now: Now, connection: ConnectionId) {
        let Some(record) = self.get_mut(connection) else { return };
        let Some(extra) = &mut record.extra else { return };
        if !std::mem::take(&mut extra.is_held_by_application) {
            return;
        }
        if let Phase::Open { message_ms, silence_ms: silence_ms @ 1.., .. } = &mut record.phase {
            *message_ms = now.elapsed_ms();
            let due_ms = *message_ms + u64::from(*silence_ms);
            self.wheel.hasten(connection.index, due_ms);
        }
        self.effects.push_back(Effect::Ready(connection));
        self.settle(connection);
    }

    /// Takes bytes; `fresh` when they have just arrived, and did not wait for their turn.
    fn receive(&mut self, now: Now, connection: ConnectionId, bytes: &mut [u8], fresh: bool) {
        let Some(record) = self.get_mut(connection) else { return };
        if fresh {
            record.heard_ms = now.elapsed_ms();
        }
        let start = self.out.len();
        // A panic while one connection's input is handled costs that connection alone. Nothing that others rely on
        // is left half done: the record is looked up anew, and what it was about to say is taken back.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.receive_inner(now, connection, bytes)));
        if outcome.is_err() {
            self.metrics.panics_total.increment();
            self.out.truncate(start);
            self.close(now, connection, &Close::new(CloseCode::Internal, "internal fault"));
        }
        self.write_out(connection, start);
        self.settle(connection);
    }

    fn receive_inner(&mut self, now: Now, connection: ConnectionId, bytes: &mut [u8]) {
        match self.connections[connection.index].phase {
            Phase::Handshake { peer, .. } => self.receive_head(now, connection, bytes, peer),
            Phase::Open { .. } => self.receive_frames(now, connection, bytes),
            Phase::Closing { awaits_close: true, .. } => self.receive_last(connection, bytes),
            // Nobody reads meanwhile; what was read before the driver asked waits like the rest.
            Phase::Admission { .. } => {
                let extra = self.connections[connection.index].extra.get_or_insert_default();
                extra.unread.extend_from_slice(bytes);
            }
            Phase::Answering { .. } | Phase::Closing { .. } => {}
        }
    }

    /// Takes bytes of a request's head; when it is whole, answers it.
    fn receive_head(&mut self, now: Now, connection: ConnectionId, bytes: &mut [u8], peer: Peer) {
        let record = &mut self.connections[connection.index];
        let mut kept = record.extra.as_mut().map(|extra| std::mem::take(&mut extra.head)).unwrap_or_default();
        let searched = kept.len();
        if searched > 0 {
            kept.extend_from_slice(bytes);
        }
        let so_far = if searched > 0 { &kept } else { &*bytes };
        let end = match proxy::is_announced_by(so_far) {
            Some(true) => Err(Refusal::ProxyHeaderUnasked),
            // The signature of version 2 begins with what ends a head: none is looked for until it is ruled out.
            None => Ok(None),
            Some(false) => {
                let searched = if searched < proxy::SIGNATURE_BYTES_MAX { 0 } else { searched };
                handshake::head_end(so_far, searched, self.limits.request_bytes_max)
            }
        };
        let end = match end {
            Ok(Some(end)) => end,
            Ok(None) => {
                record.extra.get_or_insert_default().head = if searched > 0 { kept } else { bytes.to_vec() };
                return;
            }
            Err(refusal) => return self.refuse(now, connection, &refusal.into()),
        };
        let all = if searched > 0 { &mut kept[..] } else { bytes };
        let (head, rest) = all.split_at_mut(end);
        let head = &*head;
        match (handshake::parse(head), peer.refusal) {
            (Ok(Request::Upgrade(_)), Some(refusal)) => self.refuse(now, connection, &refusal.into()),
            (Ok(Request::Upgrade(upgrade)), None) => match self.take_upgrade(now, connection, &upgrade, peer) {
                Ok(()) => self.request_upgrade(now, connection, &upgrade, head, rest),
                Err(refusal) => self.refuse(now, connection, &refusal.into()),
            },
            (Ok(Request::Plain { request: PlainRequest { method, path: PlainPath::Metrics }, .. }), _)
                if !self.limits.public_metrics =>
            {
                self.refuse(now, connection, &Refused::to(method, Refusal::NotFound));
            }
            (Ok(Request::Plain { request: PlainRequest { method, path: PlainPath::Metrics }, host }), _)
                if !self.application.admits_reader(host) =>
            {
                self.refuse(now, connection, &Refused::to(method, Refusal::Host));
            }
            (Ok(Request::Plain { request, .. }), _) => {
                self.connections[connection.index].phase = Phase::Answering { since_ms: now.elapsed_ms() };
                self.wheel.hasten(connection.index, now.elapsed_ms() + self.limits.handshake_timeout_ms);
                self.metrics.http_requests_total.increment();
                self.effects.push_back(Effect::Plain { connection, request });
            }
            (Err(refused), _) => self.refuse(now, connection, &refused),
        }
    }

    /// Takes one of the upgrades that the client's address still has, before anybody is asked who the client is.
    fn take_upgrade(
        &mut self,
        now: Now,
        connection: ConnectionId,
        upgrade: &Upgrade<'_>,
        peer: Peer,
    ) -> Result<(), Refusal> {
        if peer.is_trusted {
            let client = forwarded::client(upgrade, &self.limits.trusted_proxies);
            if let Some(client) = client.map_err(|_| Refusal::ForwardedTwice)? {
                self.set_address(connection, client);
            }
        }
        let address = self.address(connection);
        let has_one = self.upgrade_rates.as_mut().is_none_or(|rates| rates.take(address, now.elapsed_ns));
        if has_one { Ok(()) } else { Err(Refusal::UpgradeRate) }
    }

    fn set_address(&mut self, connection: ConnectionId, address: IpAddr) {
        if let Some(addresses) = &mut self.addresses {
            *addresses.at(connection.index) = address.into();
        }
    }

    /// Where a connection's client is; the default where nobody asks.
    fn address(&mut self, connection: ConnectionId) -> AddressKey {
        self.addresses.as_mut().map(|addresses| *addresses.at(connection.index)).unwrap_or_default()
    }

    fn upgrade(&mut self, now: Now, connection: ConnectionId, upgrade: &Upgrade<'_>) {
        handshake::write_switching_protocols(&mut self.out, upgrade);
        match self.application.open(now, connection, upgrade, &mut self.out) {
            Ok(Opened { session, silence_ms, hold }) => {
                let record = &mut self.connections[connection.index];
                if hold {
                    record.extra.get_or_insert_default().is_held_by_application = true;
                }
                let message_ms = now.elapsed_ms();
                let counts = self.application.counts(connection);
                record.phase = Phase::Open { message_ms, silence_ms, probed_after_ms: 0, session };
                if counts {
                    self.open += 1;
                    self.metrics.connections_total.increment();
                    self.metrics.connections_current.set(self.open as u64);
                }
                if let Some(rates) = &mut self.message_rates {
                    rates.fill(connection.index);
                }
                if self.limits.counts_addresses {
                    let address = self.address(connection);
                    self.application.came_from(now, connection, address);
                }
                self.file(now, connection.index);
            }
            Err(close) => self.close(now, connection, &close),
        }
    }

    fn receive_frames(&mut self, now: Now, connection: ConnectionId, bytes: &mut [u8]) {
        let start = self.out.len();
        let record = &mut self.connections[connection.index];
        let mut kept = record.extra.as_mut().and_then(|extra| extra.assembly.take());
        let pending = record.answer_bytes();
        let mut is_held = record.extra.as_ref().is_some_and(|extra| extra.is_held_by_application);
        let Phase::Open { message_ms, silence_ms, probed_after_ms, session } = &mut record.phase else { return };
        *probed_after_ms = 0;
        let mut input = bytes;
        let mut budget = self.limits.turn_messages;
        let mut begins_anew = false;
        loop {
            if is_held || budget == 0 || pending + self.out.len() - start >= self.limits.send_queue_bytes {
                break;
            }
            budget -= 1;
            // Every event but a close takes one.
            let owe = |rates: &mut Option<ConnectionRates>| {
                rates.as_mut().map_or(Taken::Within, |rates| rates.owe(connection.index, now.elapsed_ns))
            };
            let end = match assembly::next(&mut kept, &mut input, &self.limits.messages) {
                Ok(None) => break,
                Ok(Some(Event::Message(message))) => {
                    *message_ms = now.elapsed_ms();
                    begins_anew = true;
                    let taken = owe(&mut self.message_rates);
                    if taken != Taken::Within {
                        if taken == Taken::FarOver {
                            return self.end(now, connection, End::too_many_messages());
                        }
                        self.application.over_rate(now, &mut self.out);
                        continue;
                    }
                    self.metrics.message_size_bytes.observe(message.payload.len() as u64);
                    let before = self.out.len();
                    let verdict = self.application.message(now, connection, session, message, &mut self.out);
                    self.answered += u64::from(self.out.len() > before);
                    match verdict {
                        Verdict::Continue => None,
                        Verdict::Hold => {
                            is_held = true;
                            None
                        }
                        Verdict::Admit { silence_ms: granted_ms, hold } => {
                            *silence_ms = granted_ms;
                            is_held = hold;
                            self.open += 1;
                            self.metrics.connections_total.increment();
                            self.metrics.connections_current.set(self.open as u64);
                            let silent_ms = (granted_ms > 0).then(|| now.elapsed_ms() + u64::from(granted_ms));
                            let due_ms = [silent_ms, self.application.session_deadline_ms(connection)];
                            due_ms.into_iter().flatten().for_each(|due| self.wheel.hasten(connection.index, due));
                            None
                        }
                        Verdict::Reschedule => {
                            budget = 0;
                            if let Some(due_ms) = self.application.session_deadline_ms(connection) {
                                self.wheel.hasten(connection.index, due_ms);
                            }
                            None
                        }
                        Verdict::Close(close) => Some(End::Close(close)),
                    }
                }
                Ok(Some(Event::Overflow)) => {
                    *message_ms = now.elapsed_ms();
                    begins_anew = true;
                    match owe(&mut self.message_rates) {
                        Taken::Within => {
                            self.application.overflow(now, &mut self.out);
                            None
                        }
                        Taken::Over => {
                            self.application.over_rate(now, &mut self.out);
                            None
                        }
                        Taken::FarOver => Some(End::too_many_messages()),
                    }
                }
                Ok(Some(Event::Ping(payload))) => match owe(&mut self.message_rates) {
                    Taken::Within => {
                        frame::write(&mut self.out, Kind::Pong, &payload);
                        None
                    }
                    Taken::Over => None,
                    Taken::FarOver => Some(End::too_many_messages()),
                },
                Ok(Some(Event::Pong)) => (owe(&mut self.message_rates) == Taken::FarOver).then(End::too_many_messages),
                Ok(Some(Event::Close(code))) => Some(End::Echo(code)),
                Err(violation) => Some(End::Violation(violation)),
            };
            if let Some(end) = end {
                return self.end(now, connection, end);
            }
            begins_anew |= kept.as_ref().is_none_or(|assembly| !assembly.in_message());
        }
        if kept.is_none() && input.is_empty() && record.extra.is_none() && !is_held {
            return;
        }
        let extra = record.extra.get_or_insert_default();
        extra.is_held_by_application = is_held;
        if kept.is_none() {
            extra.message_began_ms = None;
        } else if begins_anew || extra.message_began_ms.is_none() {
            extra.message_began_ms = Some(now.elapsed_ms());
            self.wheel.hasten(connection.index, now.elapsed_ms() + self.limits.message_timeout_ms);
        }
        extra.assembly = kept;
        if !input.is_empty() {
            extra.unread = input.to_vec();
            if !is_held {
                self.effects.push_back(Effect::Ready(connection));
            }
        }
    }

    /// Reads on in a connection that the server closes, until the peer's close frame.
    fn receive_last(&mut self, connection: ConnectionId, bytes: &mut [u8]) {
        let record = &mut self.connections[connection.index];
        let mut kept = record.extra.as_mut().and_then(|extra| extra.assembly.take());
        let mut input = bytes;
        let finished = loop {
            match assembly::next(&mut kept, &mut input, &self.limits.messages) {
                Ok(None) => break false,
                Ok(Some(Event::Close(_))) => break true,
                Ok(Some(_)) => {}
                Err(_) => {
                    if let Phase::Closing { awaits_close, .. } = &mut record.phase {
                        *awaits_close = false;
                    }
                    return;
                }
            }
        };
        if let Some(assembly) = kept {
            record.extra.get_or_insert_default().assembly = Some(assembly);
        }
        if !finished {
            return;
        }
        let is_told = self.out.is_empty() && self.pending_bytes(connection) == 0;
        match &mut self.connections[connection.index].phase {
            // Why it is closed waits to be written; its socket then goes with the peer's or in time.
            Phase::Closing { awaits_close, .. } if !is_told => *awaits_close = false,
            _ => self.remove(connection),
        }
    }

    /// Ends a connection for what its peer sent.
    fn end(&mut self, now: Now, connection: ConnectionId, end: End) {
        match end {
            End::Close(close) => self.close(now, connection, &close),
            End::Violation(violation) => {
                self.close(now, connection, &Close::new(violation.close_code(), violation.to_string()));
                // What follows a violation cannot be read as frames.
                if let Phase::Closing { awaits_close, .. } = &mut self.connections[connection.index].phase {
                    *awaits_close = false;
                }
            }
            End::Echo(code) => {
                let number = code.unwrap_or(CloseCode::Normal.number());
                frame::write(&mut self.out, Kind::Close, code.map(u16::to_be_bytes).as_ref().map_or(&[], |code| code));
                self.metrics.closes[CloseCode::cell(number)].increment();
                let cause = if code == Some(CloseCode::Normal.number()) { Cause::Asked } else { Cause::Lost };
                self.begin_closing(now, connection, false, cause);
            }
        }
    }

    /// Appends a close frame and begins to close.
    fn close(&mut self, now: Now, connection: ConnectionId, close: &Close) {
        frame::write_close(&mut self.out, close.code, &close.reason);
        self.metrics.closes[CloseCode::cell(close.code.number())].increment();
        if close.code.is_abnormal() {
            self.metrics.errors_total.increment();
        }
        let cause = match close.code {
            CloseCode::Normal => Cause::Asked,
            CloseCode::Silent => Cause::Silent,
            _ => Cause::Lost,
        };
        self.begin_closing(now, connection, true, cause);
    }

    /// Appends an HTTP response that refuses, and begins to close.
    fn refuse(&mut self, now: Now, connection: ConnectionId, refused: &Refused) {
        handshake::write_refusal(&mut self.out, refused);
        self.metrics.refusals[refused.refusal.cell()].increment();
        self.begin_closing(now, connection, false, Cause::Lost);
    }

    /// What was to be said has been said: from here on the connection no longer counts, and what the peer still
    /// sends is read and thrown away, so that no reset overtakes the reason (RFC 6455 §7.1.1).
    fn begin_closing(&mut self, now: Now, connection: ConnectionId, awaits_close: bool, cause: Cause) {
        let record = &mut self.connections[connection.index];
        let ending = Ending { cause, heard_ms: record.heard_ms };
        let closing = Phase::Closing { since_ms: now.elapsed_ms(), awaits_close };
        if let Phase::Open { session, .. } = std::mem::replace(&mut record.phase, closing) {
            self.end_session(now, connection, session, ending);
        }
        if let Some(extra) = &mut self.connections[connection.index].extra {
            extra.unread = Vec::new();
            extra.head = Vec::new();
            extra.is_awaited = false;
            if std::mem::take(&mut extra.held) | std::mem::take(&mut extra.is_held_by_application) {
                self.effects.push_back(Effect::Ready(connection));
            }
        }
        self.wheel.hasten(connection.index, now.elapsed_ms() + self.limits.close_timeout_ms);
    }

    /// A connection's session ends: it is open no longer, if it was.
    fn end_session(&mut self, now: Now, connection: ConnectionId, session: A::Session, ending: Ending) {
        if self.application.counts(connection) {
            self.open -= 1;
            self.metrics.connections_current.set(self.open as u64);
        }
        if self.limits.counts_addresses {
            let address = self.address(connection);
            self.application.gone_from(now, connection, address);
        }
        self.application.ended(now, connection, session, ending);
    }

    /// Hands over what was appended to the output since `start`, behind what waits already.
    fn write_out(&mut self, connection: ConnectionId, start: usize) {
        if start == self.out.len() {
            return;
        }
        let record = self.connections.get_mut(connection.index);
        let Some(record) = record.filter(|record| record.generation == connection.generation) else { return };
        match &mut record.extra {
            Some(extra) if extra.pending_bytes() > 0 => {
                self.queue_behind(connection, start..self.out.len());
                self.out.truncate(start);
            }
            _ => {
                let bytes = start..self.out.len();
                self.effects.push_back(Effect::Write { connection, bytes, is_delivery: false });
            }
        }
    }

    /// Keeps a part of the output for a connection, behind what waits for its socket already.
    fn queue_behind(&mut self, connection: ConnectionId, bytes: Range<usize>) {
        let Some(extra) = &mut self.connections[connection.index].extra else { return };
        self.queued_bytes += bytes.len();
        extra.pending.extend_from_slice(&self.out[bytes]);
        self.metrics.queued_bytes.set(self.queued_bytes as u64);
        self.settle(connection);
    }

    fn pending_bytes(&self, connection: ConnectionId) -> usize {
        let record = self.connections.get(connection.index).filter(|record| record.generation == connection.generation);
        record.map_or(0, Connection::pending_bytes)
    }

    /// Reckons what a connection holds beside its record, and gives it back when that is nothing.
    fn settle(&mut self, connection: ConnectionId) {
        let Some(record) = self.connections.get_mut(connection.index) else { return };
        let Some(extra) = &mut record.extra else { return };
        let held_bytes = if extra.is_empty() { 0 } else { extra.held_bytes() };
        self.extra_bytes = self.extra_bytes + held_bytes - std::mem::replace(&mut extra.counted_bytes, held_bytes);
        if held_bytes == 0 {
            record.extra = None;
        }
    }

    fn respond(&mut self, now: Now, connection: ConnectionId, bytes: &[u8]) {
        let Some(record) = self.get_mut(connection) else { return };
        if matches!(record.phase, Phase::Answering { .. }) {
            let start = self.out.len();
            self.out.extend_from_slice(bytes);
            self.begin_closing(now, connection, false, Cause::Lost);
            self.write_out(connection, start);
        }
    }

    fn leave_unheard(&mut self, now: Now, connection: ConnectionId, refusal: Refusal) {
        let start = self.out.len();
        self.refuse(now, connection, &refusal.into());
        self.write_out(connection, start);
    }

    fn peer_ended(&mut self, now: Now, connection: ConnectionId, failed: bool) {
        let Some(record) = self.get_mut(connection) else { return };
        let ending = Ending { cause: Cause::Lost, heard_ms: record.heard_ms };
        let session = match std::mem::replace(&mut record.phase, Phase::Answering { since_ms: 0 }) {
            Phase::Open { session, .. } => Some(session),
            _ => None,
        };
        if let Some(session) = session {
            self.end_session(now, connection, session, ending);
            if failed {
                self.metrics.drops[DROP_PEER_RESET].increment();
            }
        }
        self.remove(connection);
    }

    /// Forgets a connection and hands its socket back to be closed.
    fn remove(&mut self, connection: ConnectionId) {
        self.wheel.cancel(connection.index);
        let Some(record) = self.connections.remove(connection.index) else { return };
        self.queued_bytes -= record.pending_bytes();
        self.extra_bytes -= record.extra.as_ref().map_or(0, |extra| extra.counted_bytes);
        self.metrics.queued_bytes.set(self.queued_bytes as u64);
        self.metrics.sockets_current.set(self.connections.len() as u64);
        self.effects.push_back(Effect::Close(record.socket));
    }

    fn tick(&mut self, now: Now) {
        self.application.tick(now);
        for _ in 0..DUE_BUDGET {
            let Some(index) = self.wheel.pop(now.elapsed_ms()) else { return };
            if let Some(record) = self.connections.get(index) {
                let connection = ConnectionId { index, generation: record.generation };
                self.judge(now, connection, false);
            }
        }
    }

    /// Does what is due for a connection, or files it for when something will be.
    fn judge(&mut self, now: Now, connection: ConnectionId, looked: bool) {
        let Some(record) = self.connections.get_mut(connection.index) else { return };
        if record.generation != connection.generation {
            return;
        }
        let (due_ms, due) = record.due(&self.limits, || self.application.session_deadline_ms(connection));
        if due_ms > now.elapsed_ms() {
            return self.wheel.schedule(connection.index, due_ms);
        }
        let start = self.out.len();
        match due {
            Due::Probe => {
                if let Phase::Open { probed_after_ms, .. } = &mut record.phase {
                    let after_ms = now.elapsed_ms() - record.heard_ms;
                    *probed_after_ms = u32::try_from(after_ms).unwrap_or(u32::MAX).max(1);
                }
                self.metrics.probes_total.increment();
                frame::write(&mut self.out, Kind::Ping, &[]);
                self.file(now, connection.index);
            }
            Due::Forget => return self.remove(connection),
            _ if !looked => return self.effects.push_back(Effect::Look(connection)),
            Due::HandshakeTimeout => self.refuse(now, connection, &Refusal::Timeout.into()),
            Due::Silent { after_ms } => {
                let reason = format!("no message for {} s", after_ms.div_ceil(1000));
                self.close(now, connection, &Close::new(CloseCode::Silent, reason));
            }
            Due::Session => match self.application.session_due(now, connection) {
                Some(close) => self.close(now, connection, &close),
                None => self.file(now, connection.index),
            },
            Due::Unresponsive => {
                self.close(now, connection, &Close::new(CloseCode::Silent, "no answer to a ping"));
            }
            Due::SlowMessage => {
                let seconds = self.limits.message_timeout_ms.div_ceil(1000);
                self.end(now, connection, End::Violation(Violation::TooSlow { seconds }));
            }
            Due::SendTimeout => {
                self.metrics.drops[DROP_SEND_TIMEOUT].increment();
                self.metrics.errors_total.increment();
                return self.peer_ended(now, connection, false);
            }
        }
        self.write_out(connection, start);
    }

    /// Files a connection for when something is due for it next.
    fn file(&mut self, now: Now, index: u32) {
        let record = &self.connections[index];
        let connection = ConnectionId { index, generation: record.generation };
        let (due_ms, _) = record.due(&self.limits, || self.application.session_deadline_ms(connection));
        self.wheel.schedule(index, due_ms.max(now.elapsed_ms()));
    }

    fn drain_one(&mut self, now: Now, index: u32) {
        let Some(record) = self.connections.get(index) else { return };
        let connection = ConnectionId { index, generation: record.generation };
        let start = self.out.len();
        match record.phase {
            Phase::Open { .. } => self.close(now, connection, &Close::new(CloseCode::GoingAway, "server stopping")),
            Phase::Handshake { .. } | Phase::Admission { .. } => {
                self.refuse(now, connection, &Refusal::Draining.into());
            }
            Phase::Answering { .. } | Phase::Closing { .. } => {}
        }
        self.write_out(connection, start);
    }
}

/// How a connection ends by what its peer sent.
enum End {
    Close(Close),
    Violation(Violation),
    /// The peer closed, with this code if any.
    Echo(Option<u16>),
}

impl End {
    fn too_many_messages() -> Self {
        Self::Close(Close::new(CloseCode::RateLimited, "too many messages"))
    }
}

const DROP_SEND_TIMEOUT: usize = 0;
const DROP_PEER_RESET: usize = 1;
