//! One connection of the load, from connect to its end: what it waits for, and what its socket takes and brings.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::net::TcpStream;
use rustls::client::UnbufferedClientConnection;
use socket2::{Domain, Protocol, Socket, Type};

use super::cli::{Mode, Settings};
use super::client::{self, Checker, Frame};
use super::failure::{Failure, Failures};
use super::pace::HeartbeatPace;
use super::watch::{self, Seen, Sight, Topology};
use crate::sys;
use crate::tls::session::{ClientSession, Phase};

/// Bytes that may wait for one socket: far more than heartbeats of a peer that reads at all.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// The longest time a histogram tells apart.
pub const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// When the load runs, in nanoseconds since the run's epoch; all at the end of time until that is known.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// From here on heartbeats are sent.
    pub start_ns: u64,
    /// From here on they are measured.
    pub from_ns: u64,
    /// From here on no more are due.
    pub until_ns: u64,
}

impl Window {
    /// Whether what was due at `due_ns` is measured.
    pub fn contains(&self, due_ns: u64) -> bool {
        (self.from_ns..self.until_ns).contains(&due_ns)
    }
}

/// What one thread's connections did.
#[derive(Debug)]
pub struct Tally {
    /// Connections that got as far as CONNECT (or 101, where no CONNECT is expected).
    pub opened: u64,
    /// Those of them that are open now.
    pub open: u64,
    /// Connections between connect and open now.
    pub in_flight: u64,
    /// When the last of them opened.
    pub last_opened_ns: u64,
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats answered; in churn, connections opened.
    pub answered: u64,
    /// Heartbeats sent over open connections and not answered yet.
    pub outstanding: u64,
    /// Pings answered.
    pub pings: u64,
    /// Nanoseconds from connect to open.
    pub connect_latency: Histogram<u64>,
    /// Nanoseconds from when a heartbeat was due (closed loop: sent) to its answer; churn: from connect to open.
    pub latency: Histogram<u64>,
    /// Open loop: nanoseconds from when a heartbeat was due to when this program sent it.
    pub lag: Histogram<u64>,
    /// What went wrong.
    pub failures: Failures,
    /// What was changed and seen.
    pub sight: Sight,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        Ok(Self {
            opened: 0,
            open: 0,
            in_flight: 0,
            last_opened_ns: 0,
            sent: 0,
            answered: 0,
            outstanding: 0,
            pings: 0,
            connect_latency: histogram()?,
            latency: histogram()?,
            lag: histogram()?,
            failures: Failures::default(),
            sight: Sight::new()?,
        })
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        self.opened += other.opened;
        self.open += other.open;
        self.in_flight += other.in_flight;
        self.last_opened_ns = self.last_opened_ns.max(other.last_opened_ns);
        self.sent += other.sent;
        self.answered += other.answered;
        self.outstanding += other.outstanding;
        self.pings += other.pings;
        self.connect_latency.add(&other.connect_latency)?;
        self.latency.add(&other.latency)?;
        self.lag.add(&other.lag)?;
        self.failures.merge(&other.failures);
        self.sight.merge(&other.sight)
    }
}

/// What the connections of one thread share.
#[derive(Debug)]
pub struct Context {
    /// What the run was told.
    pub settings: Arc<Settings>,
    /// When the load runs.
    pub window: Window,
    /// The time as of the last look at the clock.
    pub now_ns: u64,
    /// When heartbeats of an open loop are due.
    pub pace: HeartbeatPace,
    /// What the connections did.
    pub tally: Tally,
    checker: Checker,
    heartbeat: Vec<u8>,
    /// What one read of TLS brought.
    plaintext: Vec<u8>,
    /// Who watches whom.
    pub topology: Topology,
    /// What is written next, where it is not the same for all.
    scratch: Vec<u8>,
}

impl Context {
    /// For a run of `settings` that has not begun.
    pub fn new(settings: Arc<Settings>) -> anyhow::Result<Self> {
        let text = settings.heartbeat.text();
        let mut heartbeat = Vec::new();
        client::write_text(&mut heartbeat, text);
        Ok(Self {
            window: Window { start_ns: u64::MAX, from_ns: u64::MAX, until_ns: u64::MAX },
            now_ns: 0,
            pace: HeartbeatPace::new(u64::MAX, 0, 1, 0, 1),
            tally: Tally::new()?,
            checker: Checker::new(settings.expect, text),
            heartbeat,
            plaintext: Vec::new(),
            topology: Topology::new(settings.watch),
            scratch: Vec::new(),
            settings,
        })
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// As it should.
    Orderly,
    /// The operating system refused the connect.
    Connect(io::Error),
    /// Otherwise.
    Failed(Failure),
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For the handshake of TCP.
    Connecting,
    /// For the handshake of TLS.
    Securing,
    /// For the response to its upgrade request.
    Upgrading,
    /// For CONNECT.
    FirstMessage,
    /// For the state of what it watches.
    Snapshot,
    /// For answers.
    Open,
    /// For the server's end, our close frame being sent.
    Closing,
}

/// What few connections need, and those seldom.
#[derive(Debug, Default)]
struct Rare {
    /// The start of a head or frame whose rest has not come.
    partial: Vec<u8>,
    /// What the kernel has not taken.
    unsent: Vec<u8>,
}

/// One connection. Small, because the load holds as many as the server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    state: State,
    /// Its number among all of the run: its userId and key follow from it.
    index: u32,
    /// Its place in the open loop's turn.
    position: u32,
    sent: u32,
    answered: u32,
    /// When the last heartbeat was sent; before it is open, when the connect began; after it, when the close was sent.
    at_ns: u64,
    rare: Option<Box<Rare>>,
    tls: Option<Box<ClientSession>>,
}

impl Connection {
    /// Begins the connect of connection `index`. The socket is to be registered for reading and writing.
    pub fn connect(index: usize, context: &mut Context) -> io::Result<Self> {
        let address = context.settings.target.address;
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if let Some(local) = context.settings.local_address(index) {
            sys::bind_address_no_port(&socket)?;
            socket.bind(&SocketAddr::V4(SocketAddrV4::new(local, 0)).into())?;
        }
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        context.tally.in_flight += 1;
        Ok(Self {
            stream: TcpStream::from_std(socket.into()),
            state: State::Connecting,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            position: 0,
            sent: 0,
            answered: 0,
            at_ns: context.now_ns,
            rare: None,
            tls: None,
        })
    }

    /// Handles what the poll said. `buffer` is any thread's; nothing stays in it.
    pub fn ready(&mut self, event: &Event, buffer: &mut [u8], context: &mut Context) -> Result<(), End> {
        if self.state == State::Connecting {
            self.connected(context)?;
        } else if event.is_writable() && (self.rare.is_some() || self.tls.is_some()) {
            self.flush()?;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(event.is_read_closed() || event.is_error(), buffer, context)?;
        }
        Ok(())
    }

    /// Sends a heartbeat.
    pub fn send_heartbeat(&mut self, context: &mut Context) -> Result<(), End> {
        self.sent = self.sent.wrapping_add(1);
        self.at_ns = context.now_ns;
        context.tally.sent += 1;
        context.tally.outstanding += 1;
        self.write(&context.heartbeat)
    }

    /// Sends change `number` of the run, its own `turn`-th.
    pub fn send_change(&mut self, number: u32, turn: u64, context: &mut Context) -> Result<(), End> {
        context.tally.sight.sent(number, self.index, context.now_ns);
        let mut frame = std::mem::take(&mut context.scratch);
        frame.clear();
        watch::write_change(&mut frame, number, turn, context.now_ns);
        let written = self.write(&frame);
        context.scratch = frame;
        written
    }

    /// Its number among all of the run.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// Sends a close frame and ends this side; the server's end is waited for.
    pub fn close(&mut self, context: &mut Context) -> Result<(), End> {
        self.leave(context);
        self.state = State::Closing;
        self.at_ns = context.now_ns;
        let mut frame = Vec::new();
        client::write_close(&mut frame, 1000);
        self.write(&frame)?;
        self.shut_when_sent();
        Ok(())
    }

    /// Takes this connection out of the counts of those that are there: it ends, or is being closed.
    pub fn leave(&mut self, context: &mut Context) {
        match self.state {
            State::Connecting | State::Securing | State::Upgrading | State::FirstMessage | State::Snapshot => {
                context.tally.in_flight -= 1;
            }
            State::Open => {
                context.tally.open -= 1;
                context.tally.outstanding -= u64::from(self.sent.wrapping_sub(self.answered));
            }
            State::Closing => {}
        }
    }

    /// Gives it its place in the open loop's turn.
    pub fn set_position(&mut self, position: u32) {
        self.position = position;
    }

    /// Whether heartbeats can be sent.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether its close has been sent.
    pub fn is_closing(&self) -> bool {
        self.state == State::Closing
    }

    /// The failure of having waited longer than the run's timeout for the handshake or the server's end.
    pub fn overdue(&self, context: &Context) -> Option<Failure> {
        let timeout_ns = u64::try_from(context.settings.answer_timeout.as_nanos()).unwrap_or(u64::MAX);
        if context.now_ns.saturating_sub(self.at_ns) < timeout_ns {
            return None;
        }
        match self.state {
            State::Connecting | State::Securing | State::Upgrading | State::FirstMessage | State::Snapshot => {
                Some(Failure::HandshakeTimeout)
            }
            State::Closing => Some(Failure::CloseTimeout),
            State::Open => None,
        }
    }

    fn connected(&mut self, context: &Context) -> Result<(), End> {
        if let Some(error) = self.stream.take_error().unwrap_or_else(Some) {
            return Err(End::Connect(error));
        }
        let Settings { target, tls, .. } = &*context.settings;
        let (Some(config), Some(name)) = (tls, &target.name) else { return self.upgrade(context) };
        let side = UnbufferedClientConnection::new(Arc::clone(config), name.clone());
        self.tls = Some(Box::new(ClientSession::new(side.map_err(|_| End::Failed(Failure::Tls))?)));
        self.state = State::Securing;
        self.decrypt(&mut [], &mut Vec::new())
    }

    fn upgrade(&mut self, context: &Context) -> Result<(), End> {
        let index = self.index as usize;
        let mut request = Vec::with_capacity(512);
        client::write_request(&mut request, &context.settings.target, &self.user_id(context), index);
        self.state = State::Upgrading;
        self.write(&request)
    }

    fn user_id(&self, context: &Context) -> [u8; 36] {
        client::user_id(&context.settings.users_prefix, self.index as usize)
    }

    /// A short read means drained; after the peer's end, which brings no second edge, it reads on to 0.
    fn read(&mut self, to_the_end: bool, buffer: &mut [u8], context: &mut Context) -> Result<(), End> {
        loop {
            if self.tls.as_ref().is_some_and(|tls| tls.phase() == Phase::PeerClosed) {
                let is_due = self.state == State::Closing;
                return Err(if is_due { End::Orderly } else { End::Failed(Failure::Ended) });
            }
            match self.stream.read(buffer) {
                Ok(0) if self.state == State::Closing => return Err(End::Orderly),
                Ok(0) => return Err(End::Failed(Failure::Ended)),
                Ok(count) => {
                    if self.tls.is_some() {
                        self.received_records(&mut buffer[..count], context)?;
                    } else {
                        self.received(&buffer[..count], context)?;
                    }
                    if count < buffer.len() && !to_the_end {
                        return Ok(());
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted => {}
                    _ if self.state == State::Closing => return Err(End::Orderly),
                    _ => return Err(End::Failed(Failure::Reset)),
                },
            }
        }
    }

    fn received_records(&mut self, records: &mut [u8], context: &mut Context) -> Result<(), End> {
        let mut plaintext = std::mem::take(&mut context.plaintext);
        plaintext.clear();
        let decrypted = self.decrypt(records, &mut plaintext);
        if decrypted.is_ok() && self.state == State::Securing && self.is_secured() {
            self.upgrade(context)?;
        }
        if !plaintext.is_empty() {
            self.received(&plaintext, context)?;
        }
        context.plaintext = plaintext;
        decrypted
    }

    /// Takes records, and sends what TLS answers of its own.
    fn decrypt(&mut self, records: &mut [u8], plaintext: &mut Vec<u8>) -> Result<(), End> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let mut reply = Vec::new();
        tls.receive(records, plaintext, &mut reply);
        let (stream, state) = (&mut self.stream, self.state);
        tls.owe(&reply, |bytes| send(stream, state, bytes))?;
        if matches!(tls.phase(), Phase::Failed(_)) { Err(End::Failed(Failure::Tls)) } else { Ok(()) }
    }

    fn is_secured(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_handshaking())
    }

    fn received(&mut self, bytes: &[u8], context: &mut Context) -> Result<(), End> {
        match &mut self.rare {
            None if self.state == State::Open && context.checker.is_one_answer(bytes) => self.answered(context),
            None if self.state == State::Open && Self::sees_again(bytes, context) => Ok(()),
            Some(rare) if !rare.partial.is_empty() => {
                let mut whole = std::mem::take(&mut rare.partial);
                whole.extend_from_slice(bytes);
                self.parse(&whole, context)
            }
            _ => self.parse(bytes, context),
        }
    }

    fn parse(&mut self, mut bytes: &[u8], context: &mut Context) -> Result<(), End> {
        while !bytes.is_empty() {
            let read = match self.state {
                State::Upgrading => self.parse_head(bytes, context)?,
                State::Closing => match client::parse_frame(bytes) {
                    Ok(Some((Frame::Close(code), size))) => {
                        context.tally.failures.add_close(code);
                        Some(size)
                    }
                    Ok(whole) => whole.map(|(_, size)| size),
                    Err(_) => return Ok(()),
                },
                _ => self.parse_frame(bytes, context)?,
            };
            let Some(size) = read else {
                self.rare.get_or_insert_default().partial = bytes.to_vec();
                return Ok(());
            };
            bytes = &bytes[size..];
        }
        if self.rare.as_ref().is_some_and(|rare| rare.unsent.is_empty()) {
            self.rare = None;
        }
        Ok(())
    }

    fn parse_head(&mut self, bytes: &[u8], context: &mut Context) -> Result<Option<usize>, End> {
        let size = client::parse_head(bytes, self.index as usize).map_err(End::Failed)?;
        if size.is_some() {
            self.state = State::FirstMessage;
            if !context.checker.has_first_message() {
                self.opened(context)?;
            }
        }
        Ok(size)
    }

    fn parse_frame(&mut self, bytes: &[u8], context: &mut Context) -> Result<Option<usize>, End> {
        let Some((frame, size)) = client::parse_frame(bytes).map_err(End::Failed)? else {
            return Ok(None);
        };
        match frame {
            Frame::Message { text, payload } if self.state == State::FirstMessage => {
                let user_id = self.user_id(context);
                context.checker.check_first(text, payload, &user_id).map_err(End::Failed)?;
                match context.settings.mode {
                    Mode::Watch => self.watch(context)?,
                    _ => self.opened(context)?,
                }
            }
            Frame::Message { text: true, payload } if self.watches(payload, &bytes[..size], context)? => {}
            Frame::Message { text, payload } => {
                context.checker.check_answer(text, payload).map_err(End::Failed)?;
                self.answered(context)?;
            }
            Frame::Ping(payload) => {
                let mut pong = Vec::new();
                client::write_pong(&mut pong, payload);
                context.tally.pings += 1;
                self.write(&pong)?;
            }
            Frame::Pong => {}
            Frame::Close(code) => {
                context.tally.failures.add(Failure::Closed, 1);
                context.tally.failures.add_close(code);
                self.close(context)?;
            }
        }
        Ok(Some(size))
    }

    fn opened(&mut self, context: &mut Context) -> Result<(), End> {
        let tally = &mut context.tally;
        self.state = State::Open;
        tally.in_flight -= 1;
        tally.open += 1;
        tally.opened += 1;
        tally.last_opened_ns = context.now_ns;
        let elapsed_ns = context.now_ns.saturating_sub(self.at_ns);
        if context.settings.mode == Mode::Watch {
            tally.sight.watch_latency.saturating_record(elapsed_ns);
        } else {
            tally.connect_latency.saturating_record(elapsed_ns);
        }
        if context.settings.mode != Mode::Churn {
            return Ok(());
        }
        tally.answered += 1;
        if context.window.contains(context.now_ns) {
            tally.latency.saturating_record(elapsed_ns);
        }
        self.close(context)
    }

    /// Asks to be told; it is open once it has been.
    fn watch(&mut self, context: &mut Context) -> Result<(), End> {
        context.tally.connect_latency.saturating_record(context.now_ns.saturating_sub(self.at_ns));
        self.state = State::Snapshot;
        self.at_ns = context.now_ns;
        let mut frames = Vec::new();
        watch::write_requests(&mut frames, &context.topology, &context.settings.users_prefix, self.index as usize);
        self.write(&frames)
    }

    /// Takes in a message of what is watched; false when it is none.
    fn watches(&mut self, payload: &[u8], frame: &[u8], context: &mut Context) -> Result<bool, End> {
        if context.settings.mode != Mode::Watch || !matches!(self.state, State::Snapshot | State::Open) {
            return Ok(false);
        }
        let (window, now_ns) = (context.window, context.now_ns);
        match watch::classify(payload) {
            Seen::Other => return Ok(false),
            Seen::State { is_last: true } if self.state == State::Snapshot => self.opened(context)?,
            Seen::State { .. } if self.state == State::Snapshot => {}
            kind => context.tally.sight.see(kind, payload, frame, now_ns, |sent_ns| window.contains(sent_ns)),
        }
        Ok(true)
    }

    /// Whether `bytes` are one frame that was seen just before.
    fn sees_again(bytes: &[u8], context: &mut Context) -> bool {
        let (window, now_ns) = (context.window, context.now_ns);
        context.tally.sight.sees_again(bytes, now_ns, |sent_ns| window.contains(sent_ns))
    }

    fn answered(&mut self, context: &mut Context) -> Result<(), End> {
        if self.answered == self.sent {
            return if context.checker.takes_unasked() { Ok(()) } else { Err(End::Failed(Failure::WrongAnswer)) };
        }
        let due_ns = match context.settings.mode {
            Mode::Open | Mode::Watch => context.pace.due_of_ns(self.position, self.answered),
            _ => self.at_ns,
        };
        self.answered = self.answered.wrapping_add(1);
        context.tally.answered += 1;
        context.tally.outstanding -= 1;
        if context.window.contains(due_ns) {
            context.tally.latency.saturating_record(context.now_ns.saturating_sub(due_ns));
        }
        if context.settings.mode == Mode::Closed && context.now_ns < context.window.until_ns {
            return self.send_heartbeat(context);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let waiting = self.rare.as_ref().map_or(0, |rare| rare.unsent.len());
        let taken = if waiting == 0 { self.write_some(bytes)? } else { 0 };
        if taken < bytes.len() {
            if waiting + bytes.len() > UNSENT_BYTES_MAX {
                return Err(End::Failed(Failure::Stalled));
            }
            self.rare.get_or_insert_default().unsent.extend_from_slice(&bytes[taken..]);
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let (stream, state) = (&mut self.stream, self.state);
        match &mut self.tls {
            None => send(stream, state, bytes),
            Some(tls) => tls.write(bytes, &mut Vec::new(), |record| send(stream, state, record)),
        }
    }

    fn flush(&mut self) -> Result<(), End> {
        if let Some(tls) = self.tls.as_mut().filter(|tls| tls.owes()) {
            let (stream, state) = (&mut self.stream, self.state);
            tls.flush(|bytes| send(stream, state, bytes))?;
        }
        let unsent = self.rare.as_mut().map(|rare| std::mem::take(&mut rare.unsent)).unwrap_or_default();
        if !unsent.is_empty() {
            self.write(&unsent)?;
        }
        if self.state == State::Closing {
            self.shut_when_sent();
        }
        Ok(())
    }

    /// The failure of a shutdown is that of a connection which is gone: the next read says so.
    fn shut_when_sent(&mut self) {
        if self.rare.as_ref().is_none_or(|rare| rare.unsent.is_empty()) {
            let (stream, state) = (&mut self.stream, self.state);
            if let Some(tls) = &mut self.tls {
                let mut close = Vec::new();
                tls.close(&mut close);
                let _ = tls.owe(&close, |bytes| send(stream, state, bytes));
            }
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// The socket, to be registered with a poll.
    pub fn source(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// How many bytes the socket takes.
fn send(stream: &mut TcpStream, state: State, bytes: &[u8]) -> Result<usize, End> {
    loop {
        match stream.write(bytes) {
            Ok(count) => return Ok(count),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(0),
                io::ErrorKind::Interrupted => {}
                _ if state == State::Closing => return Err(End::Orderly),
                _ => return Err(End::Failed(Failure::Reset)),
            },
        }
    }
}
