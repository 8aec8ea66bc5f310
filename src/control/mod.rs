//! The control thread: plain HTTP, health, the metrics text, and the process's signals.
//!
//! It has a poll, a listener and a descriptor table apart from the shards', and reads of them nothing but their
//! cells: whatever is asked here, the shards do not notice. Requests for its pages that came to the WebSocket
//! port reach it through its inbox, and their answers go back as bytes.

pub mod access;
pub mod connection;
pub mod exposition;
pub mod health;
pub mod http;
pub mod line;
pub mod pages;
pub mod process;
pub mod reload;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Receiver;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::SIGHUP;
use signal_hook_mio::v1_0::Signals;

use self::access::ControlAccess;
use self::connection::{Connection, Driven};
use self::health::Lifecycle;
use self::line::Line;
use self::pages::{Now, Pages};
use self::reload::{AccessReload, KeyReload};
use crate::metrics::ShardMetrics;
use crate::protocol::plain::PlainRequest;
use crate::shard::ConnectionId;

/// The token under which whoever makes the control thread's poll registers the waker of its inbox.
pub const WAKER_TOKEN: Token = Token(0);

const LISTENER_TOKEN: Token = Token(1);

const SIGNALS_TOKEN: Token = Token(2);

/// Connections' tokens begin here: place + [`CONNECTIONS_MAX`] × how many were accepted before, so that a late
/// event never reaches the next owner of a place.
const FIRST_CONNECTION_TOKEN: usize = 3;

/// The most connections to the control port. Over it, one that waits between two requests makes room.
const CONNECTIONS_MAX: usize = 256;

/// The most connections accepted in one turn.
const TURN_ACCEPTS: usize = 64;

/// The most messages taken from the inbox in one turn.
const TURN_MESSAGES: usize = 256;

/// Descriptors set aside, so that where the shards share the table, the port answers also when they have taken it all.
const RESERVE: usize = 4;

/// How long to wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What shards and the server tell the control thread. After sending, wake it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// A request for a page came to the WebSocket port. Answered by [`ControlParts::answer`].
    Request {
        /// The shard that holds the connection.
        shard: usize,
        /// The connection, which ends with the answer.
        connection: ConnectionId,
        /// What is asked.
        request: PlainRequest,
    },
    /// The process ends: return from [`run`].
    Stop,
}

/// What the control thread is made of. Every descriptor in it belongs to the thread's own table.
pub struct ControlParts {
    /// Its poll, with the waker registered as [`WAKER_TOKEN`].
    pub poll: Poll,
    /// Listens on the control port; need not be non-blocking.
    pub listener: std::net::TcpListener,
    /// The signals to hear.
    pub signals: Signals,
    /// Messages from shards and the server.
    pub inbox: Receiver<ControlMessage>,
    /// What the server says about itself.
    pub lifecycle: Arc<Lifecycle>,
    /// The cells of all shards, shard k at k.
    pub shards: Vec<Arc<ShardMetrics>>,
    /// Certificate and key, where TLS is spoken.
    pub keys: Option<KeyReload>,
    /// Takes the answer to a [`ControlMessage::Request`]: its shard, its connection, and the bytes, which end
    /// with the response. Must not block.
    pub answer: Box<dyn FnMut(usize, ConnectionId, Vec<u8>) + Send>,
    /// What is asked of those who come to the control port.
    pub access: Arc<ControlAccess>,
    /// Called with the number of each signal that is heard; equal ones in quick succession may come as one. SIGHUP has
    /// `keys` and `access` read anew before it comes here. Must not block.
    pub on_signal: Box<dyn FnMut(i32) + Send>,
}

/// Serves until [`ControlMessage::Stop`], through the server's start and drain alike.
///
/// # Errors
/// When the poll fails, or takes neither the listener nor the signals. Nothing that a peer does ends it.
pub fn run(parts: ControlParts) -> io::Result<()> {
    let mut control = Control::new(parts)?;
    let mut events = Events::with_capacity(FIRST_CONNECTION_TOKEN + CONNECTIONS_MAX);
    loop {
        control.refill();
        let timeout = control.timeout();
        match control.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
            result => result?,
        }
        let now = clock();
        for event in &events {
            control.handle(event, now);
        }
        if control.empty_inbox(now) == Inbox::Stopped {
            return Ok(());
        }
        control.accept(now);
        control.drive_unfinished(now);
        control.expire(now);
        if let Some(keys) = &mut control.keys {
            keys.look(now.monotonic);
        }
        control.access.look(now.monotonic);
    }
}

fn clock() -> Now {
    let unix_ms = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
    Now { monotonic: Instant::now(), unix_ms }
}

/// How the inbox was left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inbox {
    Empty,
    HasMore,
    Stopped,
}

/// A connection and the token of its events.
struct Place {
    token: Token,
    connection: Connection,
}

struct Control {
    poll: Poll,
    listener: TcpListener,
    signals: Signals,
    inbox: Receiver<ControlMessage>,
    keys: Option<KeyReload>,
    answer: Box<dyn FnMut(usize, ConnectionId, Vec<u8>) + Send>,
    on_signal: Box<dyn FnMut(i32) + Send>,
    access: AccessReload,
    pages: Pages,
    places: Vec<Option<Place>>,
    accepted: usize,
    /// Connections that have more to do than their share of a turn.
    unfinished: Vec<Token>,
    /// Whether accept may have more connections; its event comes but once.
    may_accept: bool,
    /// Until when accept rests after a failure.
    accept_pause: Option<Instant>,
    inbox_has_more: bool,
    reserve: Vec<File>,
}

impl Control {
    fn new(parts: ControlParts) -> io::Result<Self> {
        let ControlParts { poll, listener, mut signals, inbox, lifecycle, shards, keys, answer, access, on_signal } =
            parts;
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        poll.registry().register(&mut listener, LISTENER_TOKEN, Interest::READABLE)?;
        poll.registry().register(&mut signals, SIGNALS_TOKEN, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            signals,
            inbox,
            keys,
            answer,
            on_signal,
            access: AccessReload::new(access),
            pages: Pages::new(lifecycle, shards, Instant::now()),
            places: Vec::new(),
            accepted: 0,
            unfinished: Vec::new(),
            may_accept: false,
            accept_pause: None,
            // A message may have come before the poll could tell.
            inbox_has_more: true,
            reserve: Vec::new(),
        })
    }

    /// How long poll may sleep; `None` until something happens.
    fn timeout(&self) -> Option<Duration> {
        let can_accept = self.may_accept && self.accept_pause.is_none();
        if can_accept || self.inbox_has_more || !self.unfinished.is_empty() {
            return Some(Duration::ZERO);
        }
        let deadlines = self.places.iter().flatten().map(|place| place.connection.deadline());
        let look = self.keys.as_ref().map(KeyReload::next_look);
        let next = deadlines.chain(self.accept_pause).chain(look).chain(self.access.next_look()).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn handle(&mut self, event: &Event, now: Now) {
        match event.token() {
            // The inbox is emptied in each turn.
            WAKER_TOKEN => {}
            LISTENER_TOKEN => self.may_accept = true,
            SIGNALS_TOKEN => {
                for signal in self.signals.pending() {
                    if signal == SIGHUP {
                        if let Some(keys) = &mut self.keys {
                            keys.reload();
                        }
                        self.access.access().reload();
                    }
                    (self.on_signal)(signal);
                }
            }
            token => self.drive(token, now),
        }
    }

    fn empty_inbox(&mut self, now: Now) -> Inbox {
        let mut left = Inbox::HasMore;
        for _ in 0..TURN_MESSAGES {
            match self.inbox.try_recv() {
                Ok(ControlMessage::Request { shard, connection, request }) => {
                    let mut bytes = Vec::new();
                    self.pages.write_for_shard(&mut bytes, request, now);
                    (self.answer)(shard, connection, bytes);
                }
                Ok(ControlMessage::Stop) => return Inbox::Stopped,
                Err(_) => {
                    left = Inbox::Empty;
                    break;
                }
            }
        }
        self.inbox_has_more = left == Inbox::HasMore;
        left
    }

    fn accept(&mut self, now: Now) {
        if self.accept_pause.is_some_and(|until| now.monotonic < until) || !self.may_accept {
            return;
        }
        let was_failing = self.accept_pause.take().is_some();
        for _ in 0..TURN_ACCEPTS {
            match self.accept_once() {
                Ok((socket, peer)) => {
                    let line = Line::new(socket, peer, self.keys.as_ref().map(KeyReload::operators));
                    let access = self.access.access();
                    self.admit(Connection::new(line, access, now.monotonic), now);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {
                        self.may_accept = false;
                        return;
                    }
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    // No descriptor or no memory is left, or the socket's end was told here (accept(2)). At once
                    // again would spin; later there may be room, the more so when an idle connection goes.
                    _ => {
                        if !was_failing {
                            tracing::warn!(%error, "the control port cannot accept connections; it tries again");
                        }
                        self.end_idlest(now);
                        self.accept_pause = Some(now.monotonic + ACCEPT_PAUSE);
                        return;
                    }
                },
            }
        }
    }

    fn accept_once(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        match self.listener.accept() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                self.reserve.pop().map(drop).map_or(Err(error), |()| self.listener.accept())
            }
            accepted => accepted,
        }
    }

    /// Fills up the reserve as soon as there are descriptors again.
    fn refill(&mut self) {
        while self.reserve.len() < RESERVE
            && let Ok(file) = File::open("/dev/null")
        {
            self.reserve.push(file);
        }
    }

    fn admit(&mut self, mut connection: Connection, now: Now) {
        let free = self.places.iter().position(Option::is_none);
        let index = match free {
            Some(index) => index,
            None if self.places.len() < CONNECTIONS_MAX => {
                self.places.push(None);
                self.places.len() - 1
            }
            None => match self.end_idlest(now) {
                Some(index) => index,
                None => return connection.turn_away(now),
            },
        };
        let token = Token(FIRST_CONNECTION_TOKEN + index + CONNECTIONS_MAX * self.accepted);
        self.accepted = (self.accepted + 1) % (usize::MAX / CONNECTIONS_MAX / 2);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(connection.socket_mut(), token, interest).is_ok() {
            self.places[index] = Some(Place { token, connection });
        }
    }

    /// Ends the connection that would be the first to end for want of requests, the oldest among equals.
    /// Returns its place; `None` where all are at work.
    fn end_idlest(&mut self, now: Now) -> Option<usize> {
        loop {
            let idle = self.places.iter().enumerate().filter_map(|(index, place)| {
                let place = place.as_ref().filter(|place| place.connection.is_idle())?;
                Some((place.connection.deadline(), place.token, index))
            });
            let (_, token, index) = idle.min_by_key(|(deadline, token, _)| (*deadline, token.0 / CONNECTIONS_MAX))?;
            // Its request may have come since poll returned.
            self.drive(token, now);
            if self.places[index].as_ref().is_none_or(|place| place.connection.is_idle()) {
                self.places[index] = None;
                return Some(index);
            }
        }
    }

    /// Lets a connection do what it can, and drops it when it is over.
    fn drive(&mut self, token: Token, now: Now) {
        self.with_place(token, |connection, pages| connection.drive(pages, now));
    }

    fn drive_unfinished(&mut self, now: Now) {
        for token in std::mem::take(&mut self.unfinished) {
            self.drive(token, now);
        }
    }

    fn expire(&mut self, now: Now) {
        let due = |place: &&Place| place.connection.deadline() <= now.monotonic;
        let tokens: Vec<Token> = self.places.iter().flatten().filter(due).map(|place| place.token).collect();
        for token in tokens {
            self.with_place(token, |connection, pages| connection.expire(pages, now));
        }
    }

    /// Does `action` with the connection that has `token`, if it is still there.
    fn with_place(&mut self, token: Token, action: impl FnOnce(&mut Connection, &mut Pages) -> Driven) {
        let index = (token.0 - FIRST_CONNECTION_TOKEN) % CONNECTIONS_MAX;
        let Some(slot) = self.places.get_mut(index) else { return };
        let Some(place) = slot.as_mut().filter(|place| place.token == token) else { return };
        match action(&mut place.connection, &mut self.pages) {
            Driven::Waits => {}
            Driven::Unfinished if self.unfinished.contains(&token) => {}
            Driven::Unfinished => self.unfinished.push(token),
            Driven::Over => *slot = None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpStream;
    use std::thread::{self, JoinHandle};

    use crossbeam_channel::{Sender, bounded, unbounded};
    use mio::Waker;
    use signal_hook::consts::{SIGUSR1, SIGUSR2};

    use super::health::Stage;
    use super::*;
    use crate::protocol::plain::{Method, PlainPath};

    /// Generous: no test waits for it unless something is broken.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A control thread on a port of its own, stopped when dropped.
    struct Server {
        address: SocketAddr,
        lifecycle: Arc<Lifecycle>,
        shards: Vec<Arc<ShardMetrics>>,
        inbox: Sender<ControlMessage>,
        waker: Waker,
        answers: Receiver<(usize, ConnectionId, Vec<u8>)>,
        heard: Receiver<i32>,
        thread: Option<JoinHandle<io::Result<()>>>,
    }

    impl Server {
        fn start(signals: &[i32]) -> Self {
            let (mut server, parts) = Self::prepare(signals);
            server.thread = Some(thread::spawn(move || run(parts)));
            server
        }

        /// Everything but the thread.
        fn prepare(signals: &[i32]) -> (Self, ControlParts) {
            let poll = Poll::new().unwrap();
            let waker = Waker::new(poll.registry(), WAKER_TOKEN).unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let signals = Signals::new(signals).unwrap();
            let lifecycle = Arc::new(Lifecycle::new());
            lifecycle.advance(Stage::Serving);
            let shards: Vec<Arc<ShardMetrics>> = (0..2).map(|_| Arc::default()).collect();
            let (sender, inbox) = bounded(4 * TURN_MESSAGES);
            let (answer_sender, answers) = unbounded();
            let (signal_sender, heard) = unbounded();
            let parts = ControlParts {
                poll,
                listener,
                signals,
                inbox,
                lifecycle: Arc::clone(&lifecycle),
                shards: shards.clone(),
                keys: None,
                answer: Box::new(move |shard, connection, bytes| {
                    answer_sender.send((shard, connection, bytes)).unwrap();
                }),
                access: Arc::new(ControlAccess::new(&crate::config::Config::default()).unwrap()),
                on_signal: Box::new(move |signal| signal_sender.send(signal).unwrap()),
            };
            (Self { address, lifecycle, shards, inbox: sender, waker, answers, heard, thread: None }, parts)
        }

        fn tell(&self, message: ControlMessage) {
            self.inbox.send(message).unwrap();
            self.waker.wake().unwrap();
        }

        fn connect(&self) -> Client {
            let socket = TcpStream::connect(self.address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            Client(BufReader::new(socket))
        }

        /// The status line and the body of one GET.
        fn get(&self, path: &str) -> (String, String) {
            let mut client = self.connect();
            client.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
            let answer = client.receive(true);
            (answer.status, answer.body)
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            // After a failure the thread may hang as well, and the failure would go unsaid.
            if let Some(thread) = self.thread.take().filter(|_| !thread::panicking()) {
                self.tell(ControlMessage::Stop);
                thread.join().unwrap().unwrap();
            }
        }
    }

    struct Client(BufReader<TcpStream>);

    struct Answer {
        status: String,
        headers: BTreeSet<String>,
        body: String,
    }

    impl Client {
        fn send(&mut self, text: &str) {
            self.0.get_mut().write_all(text.as_bytes()).unwrap();
        }

        fn receive(&mut self, with_body: bool) -> Answer {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                assert!(self.0.read_line(&mut line).unwrap() > 0, "the connection ended after {lines:?}");
                match line.strip_suffix("\r\n").unwrap() {
                    "" => break,
                    line => lines.push(line.to_owned()),
                }
            }
            let length = lines.iter().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            let mut body = vec![0; if with_body { length.parse().unwrap() } else { 0 }];
            self.0.read_exact(&mut body).unwrap();
            let status = lines.remove(0);
            Answer { status, headers: lines.into_iter().collect(), body: String::from_utf8(body).unwrap() }
        }

        fn assert_ended(&mut self) {
            assert_eq!(self.0.read(&mut [0]).unwrap(), 0);
        }
    }

    const OK: &str = "HTTP/1.1 200 OK";
    const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable";

    #[test]
    fn one_connection_serves_many_requests_also_pipelined_and_head() {
        let server = Server::start(&[]);
        let mut client = server.connect();
        for _ in 0..3 {
            client.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
            let answer = client.receive(true);
            assert_eq!(answer.status, OK);
            assert!(answer.body.starts_with("{\"status\":\"OK\",\"timestamp\":\"20"));
        }
        let requests: Vec<String> = ["GET /metrics", "HEAD /metrics", "GET /no", "PUT /health", "GET /health/ready"]
            .iter()
            .map(|line| format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .collect();
        client.send(&requests.concat());
        let metrics = client.receive(true);
        assert!(metrics.body.contains("\nws_connections_current 0\n"));
        assert!(metrics.headers.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"));
        assert_eq!(client.receive(false).status, OK);
        assert_eq!(client.receive(true).status, "HTTP/1.1 404 Not Found");
        let not_allowed = client.receive(true);
        assert_eq!(not_allowed.status, "HTTP/1.1 405 Method Not Allowed");
        assert!(not_allowed.headers.contains("Allow: GET, HEAD"));
        client.send("GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert_eq!(client.receive(true).status, OK);
        let last = client.receive(true);
        assert!(last.headers.contains("Connection: close"));
        client.assert_ended();
    }

    #[test]
    fn http_1_0_ends_after_one_answer_unless_asked_to_stay() {
        let server = Server::start(&[]);
        let mut client = server.connect();
        client.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert!(client.receive(true).headers.contains("Connection: keep-alive"));
        client.send("GET /health HTTP/1.0\r\n\r\n");
        assert!(client.receive(true).headers.contains("Connection: close"));
        client.assert_ended();
    }

    #[test]
    fn a_request_that_is_half_sent_keeps_nobody_waiting() {
        let server = Server::start(&[]);
        let mut slow = server.connect();
        slow.send("GET /health HTTP/1.1\r\nHo");
        assert_eq!(server.get("/health").0, OK);
        slow.send("st: x\r\n\r\n");
        assert_eq!(slow.receive(true).status, OK);
    }

    #[test]
    fn a_request_with_a_body_is_refused_and_the_body_is_not_read_as_a_request() {
        let server = Server::start(&[]);
        let mut client = server.connect();
        let smuggled = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        client
            .send(&format!("GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len()));
        assert_eq!(client.receive(true).status, "HTTP/1.1 400 Bad Request");
        client.assert_ended();
    }

    #[test]
    fn beyond_the_most_connections_the_idle_make_room() {
        let server = Server::start(&[]);
        let mut clients: Vec<Client> = (0..CONNECTIONS_MAX + 44).map(|_| server.connect()).collect();
        for client in &mut clients[44..] {
            client.send("GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(client.receive(true).status, OK);
        }
        clients[0].assert_ended();
        clients[43].assert_ended();
    }

    #[test]
    fn beyond_the_most_connections_those_at_work_are_not_ended() {
        let server = Server::start(&[]);
        let mut busy: Vec<Client> = (0..CONNECTIONS_MAX).map(|_| server.connect()).collect();
        for client in &mut busy {
            client.send("GET /health/live HTTP/1.1\r\n");
        }
        // The refusal may be lost to a reset, but not each time.
        let began = Instant::now();
        loop {
            let mut line = String::new();
            if server.connect().0.read_line(&mut line).is_ok() && line.starts_with(UNAVAILABLE) {
                break;
            }
            assert!(began.elapsed() < PATIENCE);
        }
        let served = busy.iter_mut().filter_map(|client| {
            client.0.get_mut().write_all(b"Host: x\r\n\r\n").ok()?;
            let mut line = String::new();
            client.0.read_line(&mut line).ok().filter(|_| line.starts_with(OK))
        });
        assert_eq!(served.count(), CONNECTIONS_MAX);
    }

    #[test]
    fn a_connection_whose_request_has_come_makes_no_room() {
        let (server, parts) = Server::prepare(&[]);
        let mut control = Control::new(parts).unwrap();
        let mut client = server.connect();
        let began = Instant::now();
        while control.places.is_empty() {
            assert!(began.elapsed() < PATIENCE);
            control.may_accept = true;
            control.accept(clock());
        }
        client.send("GET /health HTTP/1.1\r\n");
        assert_eq!(control.end_idlest(clock()), None);
        assert!(control.places[0].is_some());
    }

    #[test]
    fn an_inbox_longer_than_a_turn_takes_is_emptied_after_one_wake() {
        let server = Server::start(&[]);
        let request = PlainRequest { method: Method::Get, path: PlainPath::HealthLive };
        for index in 0..3 * TURN_MESSAGES as u32 {
            let connection = ConnectionId { index, generation: 0 };
            server.inbox.send(ControlMessage::Request { shard: 0, connection, request }).unwrap();
        }
        server.waker.wake().unwrap();
        for index in 0..3 * TURN_MESSAGES as u32 {
            let (_, connection, _) = server.answers.recv_timeout(PATIENCE).unwrap();
            assert_eq!(connection.index, index);
        }
    }

    #[test]
    fn health_follows_the_servers_stage_and_the_shards_turns() {
        let server = Server::start(&[]);
        assert_eq!(server.get("/health/ready").0, OK);
        server.shards[1].turn_began_ms.set(1);
        let (status, body) = server.get("/health");
        assert!(status == UNAVAILABLE && body.contains("\"STALLED\""), "{body}");
        assert_eq!(server.get("/health/ready").0, UNAVAILABLE);
        assert_eq!(server.get("/health/live").0, OK);
        server.shards[1].turn_began_ms.set(0);
        assert_eq!(server.get("/health").0, OK);
        server.lifecycle.advance(Stage::Draining);
        let (status, body) = server.get("/health");
        assert!(status == UNAVAILABLE && body.contains("\"DRAINING\""), "{body}");
        assert_eq!(server.get("/health/live").0, OK);
        assert_eq!(server.get("/metrics").0, OK);
    }

    #[test]
    fn requests_from_shards_are_answered_with_the_bytes_of_one_response() {
        let server = Server::start(&[]);
        let connection = ConnectionId { index: 7, generation: 3 };
        let request =
            |method, path| ControlMessage::Request { shard: 1, connection, request: PlainRequest { method, path } };
        server.shards[0].connections_current.set(12);
        server.tell(request(Method::Get, PlainPath::Metrics));
        server.tell(request(Method::Head, PlainPath::Health));
        let (shard, answered, bytes) = server.answers.recv_timeout(PATIENCE).unwrap();
        assert_eq!((shard, answered), (1, connection));
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with(OK) && text.contains("\r\nConnection: close\r\n"));
        assert!(text.contains("\nws_connections_current 12\n"));
        let (_, _, bytes) = server.answers.recv_timeout(PATIENCE).unwrap();
        assert!(bytes.starts_with(OK.as_bytes()) && bytes.ends_with(b"\r\n\r\n"));
    }

    #[test]
    fn requests_to_the_control_port_are_counted_and_sockets_of_other_tables_too() {
        let server = Server::start(&[]);
        server.shards[0].http_requests_total.add(5);
        server.shards[0].sockets_current.set(1_000_000);
        assert!(server.get("/metrics").1.contains("\nrollcall_http_requests_total 6\n"));
        let open = || -> Option<u64> {
            let (_, text) = server.get("/metrics");
            text.lines().find_map(|line| line.strip_prefix("process_open_fds "))?.parse().ok()
        };
        // Kernels before Linux 6.2 do not tell how many are open.
        if let Some(own) = open() {
            assert!(own < 1_000_000);
            server.lifecycle.set_shards_own_descriptors();
            assert!(open().unwrap() > 1_000_000);
        }
    }

    #[test]
    fn each_signal_is_told_and_the_port_answers_on() {
        let server = Server::start(&[SIGUSR1, SIGUSR2]);
        for signal in [SIGUSR1, SIGUSR2, SIGUSR1] {
            signal_hook::low_level::raise(signal).unwrap();
            assert_eq!(server.heard.recv_timeout(PATIENCE), Ok(signal));
        }
        assert_eq!(server.get("/health").0, OK);
    }
}
