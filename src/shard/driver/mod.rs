//! A shard's thread: poll, sockets, the clock. It feeds the core and does what the core says; what is said on the
//! connections it does not know.

pub mod clock;
pub mod handovers;
pub mod inbox;
pub mod listener;
pub mod socket;
pub mod tls_socket;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};

use self::clock::Clock;
use self::handovers::Handovers;
use self::inbox::{Address, ControlOrder, Inbox};
use self::listener::{Accepted, Listener};
use self::socket::{Socket, Transfer, Transport};
use super::core::{Appetite, Application, Core, Input, Output};
use super::{ConnectionId, Now};
use crate::metrics::{DROP_TLS, ShardMetrics};
use crate::protocol::error::Refusal;
use crate::protocol::plain::PlainRequest;
use crate::rate::Seldom;

/// The token under which each shard's waker is registered, by whoever made its poll.
pub const WAKER: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);

/// Answers between two readings of the clock.
const ANSWERS_PER_CLOCK: u32 = 64;

/// Deliveries that are made before they are written: what they take in the core's buffer is bounded by that.
const DELIVERIES_PER_STEP: usize = 32;

/// Handshakes that may wait for their turn: beyond that nobody is accepted, and a wave waits in the kernel, where it
/// costs less and does not grow old against `handshake_timeout`.
const HANDSHAKES_WAITING_MAX: usize = 1024;

/// How long a turn has lasted when it goes on to the next kind of work, in nanoseconds: what is left of each is for the
/// next turn, and something of each is done in every one. Budgets by count do not do that: a thousand events are a
/// thousand heartbeats, or a thousand ends, which cost far more, and kernels differ in what a write costs.
mod until {
    /// Mail of other shards, which may be a thousand questions.
    pub const MAIL_NS: u64 = 1_000_000;
    /// Connections that have more to say than their share of a turn: all others wait behind them.
    pub const READY_NS: u64 = 500_000;
    /// What poll told of.
    pub const EVENTS_NS: u64 = 2_000_000;
    /// Handshakes of TLS and new connections.
    pub const NEWCOMERS_NS: u64 = 2_500_000;
    /// Last looks at connections whose time is up.
    pub const LOOKS_NS: u64 = 3_000_000;
    /// Deliveries.
    pub const DELIVERIES_NS: u64 = 3_500_000;
}

/// Events, new connections or last looks between two looks at the clock.
const PER_CLOCK: usize = 16;

/// Connections that are closed in one turn while draining.
const DRAIN_BUDGET: usize = 64;

/// How often a shard looks at what all of them hold, in milliseconds, beside before it accepts.
const WEIGH_MS: u64 = 10;

/// How soon mail is offered again to an inbox that was full, in milliseconds.
const MAIL_RETRY_MS: u64 = 1;

/// A plain request that a shard hands to control.
#[derive(Debug)]
pub struct PlainHandover {
    /// The shard that asks.
    pub shard: usize,
    /// Whose request it is.
    pub connection: ConnectionId,
    /// The request.
    pub request: PlainRequest,
}

/// Hands a plain request to control; false when control takes no more now.
pub type HandOver = Box<dyn FnMut(PlainHandover) -> bool + Send>;

/// What a shard is made of. All of it but the poll, the inbox and the addresses is made on the shard's own thread.
pub struct ShardParts<A: Application, T: Transport> {
    /// Which of the shards.
    pub shard: usize,
    /// With the inbox's waker registered under [`WAKER`].
    pub poll: Poll,
    /// What other threads send.
    pub inbox: Inbox<A::Mail>,
    /// Where mail for each shard goes; the own address among them is not used.
    pub addresses: Vec<Address<A::Mail>>,
    /// To control.
    pub hand_over: HandOver,
    /// The listening socket.
    pub listener: Listener,
    /// The connections.
    pub core: Core<A, T>,
    /// What lies between the core and all sockets.
    pub transport: T::Shared,
    /// The clock that the core was begun with.
    pub clock: Clock,
    /// The cells of every shard; this one writes its own.
    pub metrics: Vec<Arc<ShardMetrics>>,
    /// The budgets and sizes of a turn.
    pub turn: TurnLimits,
}

/// The budgets and sizes of a shard's turn.
#[derive(Clone, Debug)]
pub struct TurnLimits {
    /// Events that one poll returns at most.
    pub event_batch: usize,
    /// Bytes that one read takes at most; also what one connection may have read in one turn.
    pub read_buffer_bytes: usize,
    /// Connections that are accepted in one turn at most.
    pub accepts: usize,
    /// Messages that the application sends of its own accord in one turn at most.
    pub deliveries: usize,
    /// Handshakes of TLS that are gone on with in one turn at most.
    pub handshakes: usize,
    /// Connections of all shards together beyond which new ones are refused; 0 for no such limit.
    pub connections_max: usize,
    /// Bytes that the connections of all shards may hold together.
    pub memory_limit: u64,
    /// How long draining may take.
    pub drain_timeout: Duration,
}

/// A shard at work.
pub struct Shard<A: Application, T: Transport> {
    parts: ShardParts<A, T>,
    metrics: Arc<ShardMetrics>,
    buffer: Vec<u8>,
    /// Connections that were put aside with something left to read, each once.
    ready: VecDeque<ConnectionId>,
    /// Connections whose handshake has something to go on with, in the order in which it came.
    handshakes: VecDeque<ConnectionId>,
    /// Connections that are looked at before they are ended.
    looks: Vec<ConnectionId>,
    accepting: Accepting,
    /// Answers that left since the clock was last read.
    unclocked: u32,
    /// When the clock was last read for latencies.
    clocked_ns: u64,
    handovers: Handovers,
    /// Of connections that could not be taken: each would be a line.
    complaints: Seldom,
    mail_waits: bool,
    memory_full: bool,
    /// In which [`WEIGH_MS`] the shard last looked at what all hold.
    weighed: u64,
    drain_deadline_ms: Option<u64>,
    /// The thread's CPU time when the last turn ended.
    cpu_ns: u64,
    /// Whether draining has somebody left to tell.
    drains_on: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// Poll will tell when somebody waits.
    Idle,
    /// Somebody may wait.
    Due,
    /// Never again: the shard drains.
    Ended,
}

impl<A: Application, T: Transport> Shard<A, T> {
    /// A shard that is ready to run.
    ///
    /// # Errors
    /// When the listener cannot be registered.
    pub fn new(mut parts: ShardParts<A, T>) -> io::Result<Self> {
        parts.listener.register(parts.poll.registry(), LISTENER)?;
        Ok(Self {
            metrics: Arc::clone(&parts.metrics[parts.shard]),
            buffer: vec![0; parts.turn.read_buffer_bytes],
            ready: VecDeque::new(),
            handshakes: VecDeque::new(),
            looks: Vec::new(),
            accepting: Accepting::Idle,
            unclocked: 0,
            clocked_ns: 0,
            handovers: Handovers::default(),
            complaints: Seldom::default(),
            mail_waits: false,
            memory_full: false,
            weighed: 0,
            cpu_ns: clock::thread_cpu_ns(),
            drain_deadline_ms: None,
            drains_on: false,
            parts,
        })
    }

    /// Serves until everybody has been drained.
    ///
    /// # Errors
    /// When poll fails, which is a fault of this program or the end of the kernel's memory.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(self.parts.turn.event_batch);
        // Where the last turn left off among the events.
        let mut left_off = None;
        loop {
            if left_off.is_none() {
                let timeout = self.timeout();
                self.metrics.turn_began_ms.set(0);
                match self.parts.poll.poll(&mut events, timeout) {
                    Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                    _ => self.parts.inbox.wake_up(),
                }
            }
            let now = self.parts.clock.now();
            self.metrics.turn_began_ms.set(now.unix_ms);
            self.clocked_ns = now.elapsed_ns;

            self.empty_inbox(now);
            // Who floods has one share for each poll, however many turns its events take.
            if left_off.is_none() {
                self.serve_ready(now);
            }
            left_off = self.serve_events(now, &events, left_off.unwrap_or(0));
            self.serve_handshakes(now);
            self.accept(now);
            self.tick(now);
            self.deliver(now);
            if self.drain(now) {
                return Ok(());
            }
            self.send_mail();
            self.read_clock();
            self.end_turn(now);
        }
    }

    /// Publishes what the turn cost, and what is held at its end.
    fn end_turn(&mut self, began: Now) {
        self.metrics.turn_ns.observe(self.clocked_ns - began.elapsed_ns);
        let before_ns = std::mem::replace(&mut self.cpu_ns, clock::thread_cpu_ns());
        self.metrics.turn_cpu_ns.observe(self.cpu_ns - before_ns);
        let held_bytes = self.parts.core.held_bytes() + T::held_bytes(&self.parts.transport);
        self.metrics.held_bytes.set(held_bytes as u64);
    }

    /// How long poll may sleep.
    fn timeout(&mut self) -> Option<Duration> {
        let now_ms = self.parts.clock.elapsed_ns() / 1_000_000;
        let due_now = self.drains_on
            || !self.ready.is_empty()
            || !self.handshakes.is_empty()
            || !self.looks.is_empty()
            || self.accepting == Accepting::Due && !self.parts.listener.rests(now_ms);
        if due_now || !self.parts.inbox.fall_asleep() {
            return Some(Duration::ZERO);
        }
        let rest = (self.accepting == Accepting::Due).then(|| self.parts.listener.resting_until_ms()).flatten();
        let wake_ms = [
            self.parts.core.deadline_ms(),
            rest,
            self.drain_deadline_ms,
            self.mail_waits.then_some(now_ms + MAIL_RETRY_MS),
        ];
        let wake_ms = wake_ms.into_iter().flatten().min()?;
        // poll counts whole milliseconds and mio rounds up, so nothing is woken for just before it is due.
        Some(Duration::from_millis(wake_ms.saturating_sub(now_ms)))
    }

    fn empty_inbox(&mut self, now: Now) {
        self.metrics.inbox_depth.set(self.parts.inbox.depth() as u64);
        while let Some(order) = self.parts.inbox.next_order() {
            match order {
                ControlOrder::Response { connection, bytes } => {
                    self.handovers.remove(connection);
                    self.step(now, Input::Response { connection, bytes });
                }
                ControlOrder::Keys(keys) => T::set_keys(&mut self.parts.transport, keys),
                // Each turn asks the application what it wants done.
                ControlOrder::LookAround => {}
                ControlOrder::Drain => self.begin_drain(now),
            }
        }
        // What is there when the turn begins; what comes meanwhile waits for the next.
        for _ in 0..self.parts.inbox.depth() {
            let Some(mail) = self.parts.inbox.next_mail() else { break };
            self.parts.core.application_mut().receive(now, mail);
            if self.has_lasted(now, until::MAIL_NS) {
                break;
            }
        }
    }

    /// Whether the turn that began at `began` has lasted so long.
    fn has_lasted(&self, began: Now, ns: u64) -> bool {
        self.parts.clock.elapsed_ns() - began.elapsed_ns >= ns
    }

    /// Serves the events from the place `from` on; the place at which the next turn goes on, if any are left.
    fn serve_events(&mut self, now: Now, events: &Events, from: usize) -> Option<usize> {
        let mut ahead = events.iter().skip(from + 1);
        for (place, event) in events.iter().enumerate().skip(from) {
            let looks_at_clock = place > from && (place - from).is_multiple_of(PER_CLOCK);
            if looks_at_clock && self.has_lasted(now, until::EVENTS_NS) {
                return Some(place);
            }
            if let Some(next) = ahead.next() {
                self.parts.core.prefetch(connection_of(next.token()));
            }
            match event.token() {
                WAKER => {}
                LISTENER => self.accepting = self.accepting.woken(),
                token => self.serve(now, connection_of(token), event),
            }
        }
        None
    }

    fn serve(&mut self, now: Now, connection: ConnectionId, event: &Event) {
        if event.is_writable() {
            self.resume_writing(now, connection);
        }
        let tells_of_reading = event.is_readable() || event.is_read_closed() || event.is_error();
        if tells_of_reading && !self.is_put_aside(connection) {
            let ends = event.is_read_closed() || event.is_error();
            let owes_proxy_header = self.owes_proxy_header(connection);
            if !owes_proxy_header && self.defer_handshake(connection, ends) {
                return;
            }
            self.read(now, connection, ends);
            // The rest of its PROXY header will not come.
            if owes_proxy_header && ends && self.owes_proxy_header(connection) {
                self.step(now, Input::Ended { connection, failed: event.is_error() });
            }
        }
    }

    /// Has a connection wait for its part of the turn's handshakes, if reading it is one: a wave of them must not keep
    /// those waiting who are connected.
    fn defer_handshake(&mut self, connection: ConnectionId, ends: bool) -> bool {
        let Some(socket) = self.parts.core.socket_mut(connection).filter(|socket| socket.is_costly()) else {
            return false;
        };
        if socket.await_turn(ends) {
            self.handshakes.push_back(connection);
        }
        true
    }

    fn owes_proxy_header(&mut self, connection: ConnectionId) -> bool {
        self.parts.core.appetite(connection) == Appetite::ProxyHeader
    }

    fn resume_writing(&mut self, now: Now, connection: ConnectionId) {
        let registry = self.parts.poll.registry();
        if let Some(socket) = self.parts.core.socket_mut(connection)
            && socket.writable(registry, &mut self.parts.transport)
        {
            self.put_aside(connection);
        }
        self.step(now, Input::Writable(connection));
    }

    /// Goes on with as many handshakes as a turn may.
    fn serve_handshakes(&mut self, now: Now) {
        for _ in 0..self.parts.turn.handshakes {
            let Some(connection) = self.handshakes.pop_front() else { return };
            if let Some(socket) = self.parts.core.socket_mut(connection) {
                let ends = socket.take_turn();
                self.read(now, connection, ends);
            }
            if self.has_lasted(now, until::NEWCOMERS_NS) {
                return;
            }
        }
    }

    fn serve_ready(&mut self, now: Now) {
        for count in 0..self.ready.len() {
            // Each has much to say, which may be signatures to verify; who is left is first in a later turn.
            if count > 0 && self.has_lasted(now, until::READY_NS) {
                return;
            }
            let Some(connection) = self.ready.pop_front() else { return };
            if let Some(socket) = self.parts.core.socket_mut(connection) {
                socket.socket_mut().is_put_aside = false;
            }
            // Whether its end was told of is not remembered: reading until nothing is left finds it.
            self.read(now, connection, true);
        }
    }

    /// Has a connection read on in the next turn: its share of this one is used up.
    fn put_aside(&mut self, connection: ConnectionId) {
        let Some(socket) = self.parts.core.socket_mut(connection) else { return };
        if !std::mem::replace(&mut socket.socket_mut().is_put_aside, true) {
            self.ready.push_back(connection);
        }
    }

    fn is_put_aside(&mut self, connection: ConnectionId) -> bool {
        self.parts.core.socket_mut(connection).is_some_and(|socket| socket.socket().is_put_aside)
    }

    /// Reads a connection until nothing is left or its share of the turn is used up.
    ///
    /// A short read means that nothing is left, unless the peer's end follows it: of that no second event tells.
    fn read(&mut self, now: Now, connection: ConnectionId, until_end: bool) {
        let mut left = self.buffer.len();
        loop {
            match self.parts.core.appetite(connection) {
                Appetite::Nothing => return,
                Appetite::Unread => {
                    self.step(now, Input::Resume(connection));
                    return self.put_aside(connection);
                }
                Appetite::ProxyHeader => {
                    if !self.drop_proxy_header(now, connection) || self.defer_handshake(connection, until_end) {
                        return;
                    }
                    continue;
                }
                Appetite::Read => {}
            }
            if left == 0 {
                return self.put_aside(connection);
            }
            let Some(socket) = self.parts.core.socket_mut(connection) else { return };
            let transport = &mut self.parts.transport;
            match socket.read(&mut self.buffer[..left], self.parts.poll.registry(), transport) {
                Transfer::Bytes(count) => {
                    let bytes = T::received(&mut self.buffer[..count], transport);
                    self.parts.core.handle(now, Input::Received { connection, bytes });
                    self.act(now);
                    // Put aside where the core left some of it for the next turn.
                    let is_drained = count < left && !until_end && !self.has_more_to_say(connection);
                    if is_drained || self.is_put_aside(connection) {
                        return;
                    }
                    left -= count;
                }
                Transfer::WouldBlock => return,
                Transfer::End => return self.step(now, Input::Ended { connection, failed: false }),
                Transfer::Failed => return self.step(now, Input::Ended { connection, failed: true }),
                Transfer::Unheard => {
                    self.step(now, Input::Refused { connection, refusal: Refusal::Tls });
                }
                Transfer::Broken => {
                    self.metrics.drops[DROP_TLS].increment();
                    return self.step(now, Input::Ended { connection, failed: false });
                }
            }
        }
    }

    fn has_more_to_say(&mut self, connection: ConnectionId) -> bool {
        self.parts.core.socket_mut(connection).is_some_and(|socket| socket.has_more_to_say())
    }

    /// Takes the PROXY header out of a connection's socket; false when there is nothing more to read now.
    fn drop_proxy_header(&mut self, now: Now, connection: ConnectionId) -> bool {
        let Some(socket) = self.parts.core.socket_mut(connection) else { return false };
        match socket.socket().peek(&mut self.buffer) {
            Transfer::Bytes(count) => {
                let dropped = self.parts.core.look_for_proxy_header(now, connection, &self.buffer[..count]);
                self.act(now);
                // They were seen there, so that one read takes them all.
                if dropped > 0
                    && let Some(socket) = self.parts.core.socket_mut(connection)
                    && socket.socket_mut().read_bytes(&mut self.buffer[..dropped]) != Transfer::Bytes(dropped)
                {
                    self.step(now, Input::Ended { connection, failed: true });
                }
                !self.owes_proxy_header(connection)
            }
            Transfer::WouldBlock => false,
            ended => {
                self.step(now, Input::Ended { connection, failed: ended == Transfer::Failed });
                false
            }
        }
    }

    fn accept(&mut self, now: Now) {
        if self.accepting != Accepting::Due
            || self.handshakes.len() >= HANDSHAKES_WAITING_MAX
            || self.parts.listener.rests(now.elapsed_ms())
        {
            return;
        }
        self.weigh();
        for count in 1..=self.parts.turn.accepts {
            if count > PER_CLOCK && self.has_lasted(now, until::NEWCOMERS_NS) {
                return;
            }
            match self.parts.listener.accept(now.elapsed_ms()) {
                Ok(Accepted::Connection(stream, address)) => {
                    let refusal = match self.is_full() {
                        true => Some(Refusal::Full),
                        false => self.memory_full.then_some(Refusal::Memory),
                    };
                    self.welcome(now, stream, address.ip(), refusal);
                }
                Ok(Accepted::OnReserve(stream, address)) => {
                    self.metrics.accept_descriptors_exhausted_total.increment();
                    self.welcome(now, stream, address.ip(), Some(Refusal::NoDescriptor));
                }
                Ok(Accepted::Nobody) => {
                    self.accepting = Accepting::Idle;
                    return;
                }
                Ok(Accepted::Resting) => {
                    self.metrics.accept_descriptors_exhausted_total.increment();
                    return;
                }
                // Whoever was accepted is gone already (ECONNABORTED and its like); the next one need not be.
                Err(_) => {}
            }
        }
    }

    fn welcome(&mut self, now: Now, stream: mio::net::TcpStream, address: IpAddr, refusal: Option<Refusal>) {
        let registry = self.parts.poll.registry();
        let (core, transport) = (&mut self.parts.core, &mut self.parts.transport);
        let is_admitted = refusal.is_none();
        let accepted = core.accept(now, address, refusal, |id| {
            let token = token_of(id);
            T::new(Socket::register(stream, is_admitted, registry, token)?, token, transport)
        });
        match accepted {
            Ok(_) => self.count_admitted(i64::from(is_admitted)),
            Err(error) => {
                if let Some(unsaid) = self.complaints.say(now.elapsed_ns) {
                    let why = "the kernel takes no more descriptors into epoll";
                    tracing::warn!(%error, unsaid, "a connection was dropped: {why}");
                }
            }
        }
    }

    fn count_admitted(&self, change: i64) {
        self.metrics.admitted_current.set(self.metrics.admitted_current.get().saturating_add_signed(change));
    }

    /// Whether `max_connections` are open, by what the shards have published.
    fn is_full(&self) -> bool {
        let connections_max = self.parts.turn.connections_max;
        connections_max > 0
            && self.parts.metrics.iter().map(|shard| shard.admitted_current.get()).sum::<u64>()
                >= connections_max as u64
    }

    /// Compares what all shards have published that they hold with what they may.
    fn weigh(&mut self) {
        let held_bytes: u64 = self.parts.metrics.iter().map(|shard| shard.held_bytes.get()).sum();
        let full = held_bytes >= self.parts.turn.memory_limit;
        if full != self.memory_full {
            self.memory_full = full;
            self.parts.core.set_memory_full(full);
        }
    }

    fn tick(&mut self, now: Now) {
        let tick = now.elapsed_ms() / WEIGH_MS;
        if std::mem::replace(&mut self.weighed, tick) != tick {
            self.weigh();
        }
        if self.parts.core.deadline_ms().is_some_and(|due_ms| due_ms <= now.elapsed_ms()) {
            self.step(now, Input::Tick);
        }
        for count in 1.. {
            let Some(connection) = self.looks.pop() else { return };
            self.resume_writing(now, connection);
            self.read(now, connection, true);
            self.step(now, Input::Looked(connection));
            if count % PER_CLOCK == 0 && self.has_lasted(now, until::LOOKS_NS) {
                return;
            }
        }
    }

    /// Lets the application say what is due of its own accord; what is beyond the turn's budget stays due.
    fn deliver(&mut self, now: Now) {
        for _ in 0..self.parts.turn.deliveries.div_ceil(DELIVERIES_PER_STEP) {
            let wants_more = self.parts.core.deliver(now, DELIVERIES_PER_STEP);
            self.act(now);
            if !wants_more || self.has_lasted(now, until::DELIVERIES_NS) {
                return;
            }
        }
    }

    fn begin_drain(&mut self, now: Now) {
        if self.accepting == Accepting::Ended {
            return;
        }
        // Who is in the kernel's queue already is told, rather than reset when the listener closes.
        self.accepting = Accepting::Due;
        self.parts.core.handle(now, Input::Drain);
        self.accept(now);
        self.accepting = Accepting::Ended;
        self.parts.listener.close();
        let drain_ms = u64::try_from(self.parts.turn.drain_timeout.as_millis()).unwrap_or(u64::MAX);
        self.drain_deadline_ms = Some(now.elapsed_ms().saturating_add(drain_ms));
    }

    /// Goes on with draining; true when it has come to its end.
    fn drain(&mut self, now: Now) -> bool {
        let Some(deadline_ms) = self.drain_deadline_ms else { return false };
        self.drains_on = self.parts.core.drain(now, DRAIN_BUDGET);
        self.act(now);
        self.parts.core.is_empty() || now.elapsed_ms() >= deadline_ms
    }

    fn send_mail(&mut self) {
        self.mail_waits = false;
        self.parts.core.application_mut().gather_mail();
        for shard in 0..self.parts.addresses.len() {
            let (application, address) = (self.parts.core.application_mut(), &self.parts.addresses[shard]);
            if address.is_full() {
                application.hold_mail(shard);
                self.mail_waits = true;
            } else if let Some(mail) = application.take_mail(shard)
                && let Err(mail) = address.send(mail)
            {
                application.return_mail(shard, mail);
                self.mail_waits = true;
            }
        }
    }

    fn step(&mut self, now: Now, input: Input<'_>) {
        self.parts.core.handle(now, input);
        self.act(now);
    }

    /// Does all that the core wants done.
    fn act(&mut self, now: Now) {
        while let Some(output) = self.parts.core.poll_output() {
            let registry = self.parts.poll.registry();
            match output {
                Output::Write { connection, socket, bytes, is_last } => {
                    let (token, transport) = (token_of(connection), &mut self.parts.transport);
                    let taken = match socket.write(bytes, is_last, registry, token, transport) {
                        Transfer::Bytes(count) => Some(count),
                        _ => None,
                    };
                    self.parts.core.sent(now, connection, taken.unwrap_or(0));
                    if taken.is_none() {
                        self.parts.core.handle(now, Input::Ended { connection, failed: true });
                    }
                    self.unclocked += 1;
                    if self.unclocked >= ANSWERS_PER_CLOCK {
                        self.read_clock();
                    }
                }
                Output::ShutdownWrite(socket) => socket.shutdown_write(registry, &mut self.parts.transport),
                Output::Close(socket) => {
                    let was_admitted = socket.socket().is_admitted;
                    socket.close(registry, &mut self.parts.transport);
                    self.count_admitted(-i64::from(was_admitted));
                    if self.parts.listener.lacks_reserve() {
                        self.parts.listener.refill();
                    }
                }
                Output::Look(connection) => self.looks.push(connection),
                Output::Ready(connection) => self.put_aside(connection),
                Output::Plain { connection, request } => {
                    let handover = PlainHandover { shard: self.parts.shard, connection, request };
                    if self.handovers.have_room_for(request.path) && (self.parts.hand_over)(handover) {
                        self.handovers.add(connection, request.path);
                    } else {
                        self.parts.core.handle(now, Input::Unanswered(connection));
                    }
                }
            }
        }
    }

    /// Reads the clock for the answers that have left since it was last read.
    fn read_clock(&mut self) {
        self.unclocked = 0;
        let answered = self.parts.core.take_answered();
        let before_ns = std::mem::replace(&mut self.clocked_ns, self.parts.clock.elapsed_ns());
        if answered > 0 {
            self.metrics.latency_ns.observe_many(self.clocked_ns - before_ns, answered);
        }
    }
}

impl Accepting {
    fn woken(self) -> Self {
        if self == Self::Ended { Self::Ended } else { Self::Due }
    }
}

fn token_of(connection: ConnectionId) -> Token {
    Token((connection.generation as usize) << 32 | connection.index as usize)
}

fn connection_of(token: Token) -> ConnectionId {
    ConnectionId { index: token.0 as u32, generation: (token.0 >> 32) as u32 }
}
