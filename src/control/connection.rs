//! One connection to the control port: its line, what it waits for and until when.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::access::ControlAccess;
use super::http::{Refused, RequestReader, write_refusal};
use super::line::{Heard, Line};
use super::pages::{Now, Pages};

/// How long a request may take from its first byte to its last, and a new connection to its first byte.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a connection may stay between two requests.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// How long a peer may take for the answers that wait for it: the metrics of 64 shards at 10 KB/s.
const RESPONSE_TIME_MAX: Duration = Duration::from_secs(30);

/// How long the peer's end is waited for after ours (RFC 9112 §9.6): were the socket closed while bytes of the
/// peer's are unread, the kernel would send a reset, which can overtake the answer.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);

/// While so many bytes of answers wait, no further request is answered.
const RESPONSE_BYTES_ENOUGH: usize = 64 * 1024;

/// The most answers and the most reads of one turn, so that one connection cannot keep the others waiting.
const TURN_STEPS: usize = 32;

/// What a connection waits for.
///
/// ```text
///  Idle ──► Request ──► Response ──► Linger
///   ▲  └──────────────────▲  │
///   └────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a request.
    Request,
    /// Room in the kernel's buffer for the rest of the answers.
    Response,
    /// The peer's end, after ours.
    Linger,
}

/// What becomes of a connection after it was driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driven {
    /// It waits for an event or its deadline.
    Waits,
    /// Its share of this turn is used up; there is more to do.
    Unfinished,
    /// It is over: drop it.
    Over,
}

/// A connection to the control port.
#[derive(Debug)]
pub struct Connection {
    line: Line,
    reader: RequestReader,
    /// Answers, of which the first `written` bytes are the kernel's already.
    answers: Vec<u8>,
    written: usize,
    phase: Phase,
    deadline: Instant,
}

impl Connection {
    /// A connection that was accepted at `now`, of which `access` is asked.
    pub fn new(line: Line, access: Arc<ControlAccess>, now: Instant) -> Self {
        Self {
            line,
            reader: RequestReader::new(access),
            answers: Vec::new(),
            written: 0,
            phase: Phase::Idle,
            deadline: now + REQUEST_TIME_MAX,
        }
    }

    /// The socket, for the poll.
    pub fn socket_mut(&mut self) -> &mut TcpStream {
        self.line.socket_mut()
    }

    /// When [`Self::expire`] is due.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether nothing is under way, so that it can be ended to make room for others.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Does whatever can be done without waiting: writes answers, answers requests, reads.
    pub fn drive(&mut self, pages: &mut Pages, now: Now) -> Driven {
        match self.try_drive(pages, now) {
            Ok(driven) => driven,
            // A reset, or whatever else makes the socket useless: nobody is there to be told.
            Err(_) => Driven::Over,
        }
    }

    /// Its deadline has come: a request that is cut is answered 408, everything else ends.
    pub fn expire(&mut self, pages: &mut Pages, now: Now) -> Driven {
        if self.phase != Phase::Request {
            return Driven::Over;
        }
        write_refusal(&mut self.answers, &Refused::timeout(), now.unix_ms);
        self.reader.end();
        self.drive(pages, now)
    }

    /// Tells the peer that there is no place for it, as far as that goes without waiting.
    pub fn turn_away(mut self, now: Now) {
        write_refusal(&mut self.answers, &Refused::busy(), now.unix_ms);
        let _ = self.line.write(&self.answers);
        let _ = self.line.end();
    }

    fn try_drive(&mut self, pages: &mut Pages, now: Now) -> io::Result<Driven> {
        for _ in 0..TURN_STEPS {
            if self.answers.len() - self.written < RESPONSE_BYTES_ENOUGH && self.answer(pages, now) {
                continue;
            }
            if !self.flush()? {
                self.enter(Phase::Response, now.monotonic + RESPONSE_TIME_MAX);
                return Ok(Driven::Waits);
            }
            if self.phase == Phase::Response {
                self.enter(Phase::Idle, now.monotonic + IDLE_TIME_MAX);
            }
            if self.reader.has_ended() && self.phase != Phase::Linger {
                self.line.end()?;
                self.enter(Phase::Linger, now.monotonic + LINGER_TIME_MAX);
            }
            match self.line.read() {
                Ok(Heard::End) => return Ok(Driven::Over),
                Ok(Heard::Bytes(bytes)) => self.reader.feed(bytes),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.reader.is_inside_request() {
                        self.enter(Phase::Request, now.monotonic + REQUEST_TIME_MAX);
                    }
                    return Ok(Driven::Waits);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Driven::Unfinished)
    }

    /// Answers one request; `false` when none is whole.
    fn answer(&mut self, pages: &mut Pages, now: Now) -> bool {
        match self.reader.next_request() {
            None => return false,
            Some(Ok(request)) => pages.write_for_control(&mut self.answers, &request, now),
            Some(Err(refused)) => write_refusal(&mut self.answers, &refused, now.unix_ms),
        }
        self.enter(Phase::Response, now.monotonic + RESPONSE_TIME_MAX);
        true
    }

    /// Writes what waits; `false` when the kernel takes no more for now.
    fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.answers.len() {
            match self.line.write(&self.answers[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // The buffer of a scrape is not kept between scrapes.
        self.answers = Vec::new();
        self.written = 0;
        Ok(true)
    }

    /// Enters a phase. Its deadline counts from when it was entered, however often it is found to last.
    fn enter(&mut self, phase: Phase, deadline: Instant) {
        if self.phase != phase {
            self.phase = phase;
            self.deadline = deadline;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Write};
    use std::net::{self, Shutdown, TcpListener};

    use super::*;
    use crate::config::Config;
    use crate::control::health::Lifecycle;
    use crate::metrics::ShardMetrics;

    fn access() -> Arc<ControlAccess> {
        Arc::new(ControlAccess::new(&Config::default()).unwrap())
    }

    /// A connection with its peer, and a clock that stands until it is moved.
    struct World {
        connection: Connection,
        peer: net::TcpStream,
        pages: Pages,
        now: Now,
    }

    impl World {
        fn new(shards: usize) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let (socket, address) = listener.accept().unwrap();
            socket.set_nonblocking(true).unwrap();
            let line = Line::new(TcpStream::from_std(socket), address, None);
            let now = Now { monotonic: Instant::now(), unix_ms: 1_795_578_885_123 };
            let shards = (0..shards).map(|_| Arc::new(ShardMetrics::default())).collect();
            Self {
                connection: Connection::new(line, access(), now.monotonic),
                peer,
                pages: Pages::new(Arc::new(Lifecycle::new()), shards, now.monotonic),
                now,
            }
        }

        fn send(&mut self, text: &str) {
            self.peer.write_all(text.as_bytes()).unwrap();
        }

        fn drive(&mut self) -> Driven {
            self.connection.drive(&mut self.pages, self.now)
        }

        /// Drives until the peer's bytes have come through the kernel and put the connection into `phase`.
        fn drive_until(&mut self, phase: Phase) {
            let began = Instant::now();
            while self.drive() != Driven::Over && self.connection.phase != phase {
                assert!(began.elapsed() < Duration::from_secs(20), "still {:?}", self.connection.phase);
                std::thread::yield_now();
            }
            assert_eq!(self.connection.phase, phase);
        }

        fn seconds_to_deadline(&self) -> u64 {
            self.connection.deadline().duration_since(self.now.monotonic).as_secs()
        }

        /// Moves the clock to the deadline.
        fn expire(&mut self) -> Driven {
            self.now.monotonic = self.connection.deadline();
            self.connection.expire(&mut self.pages, self.now)
        }

        fn read_answer(&mut self) -> String {
            let mut bytes = [0; 4096];
            let length = self.peer.read(&mut bytes).unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        }
    }

    #[test]
    fn a_request_that_does_not_end_is_answered_and_its_time_does_not_grow() {
        let mut world = World::new(1);
        assert_eq!(world.drive(), Driven::Waits);
        world.send("GET /health HTTP/1.1\r\n");
        world.drive_until(Phase::Request);
        assert_eq!(world.seconds_to_deadline(), 10);
        world.now.monotonic += Duration::from_secs(4);
        world.send("Host: x\r\n");
        assert_eq!(world.drive(), Driven::Waits);
        assert_eq!(world.seconds_to_deadline(), 6);
        assert_eq!(world.expire(), Driven::Waits);
        assert!(world.read_answer().starts_with("HTTP/1.1 408 Request Timeout\r\n"));
        assert_eq!(world.read_answer(), "");
        assert_eq!(world.seconds_to_deadline(), 2);
        assert_eq!(world.expire(), Driven::Over);
    }

    #[test]
    fn a_connection_without_a_request_ends_without_an_answer() {
        let mut world = World::new(1);
        assert_eq!((world.drive(), world.seconds_to_deadline()), (Driven::Waits, 10));
        assert_eq!(world.expire(), Driven::Over);
    }

    #[test]
    fn each_answer_begins_the_wait_for_the_next_request_anew() {
        let mut world = World::new(1);
        for _ in 0..3 {
            world.now.monotonic += Duration::from_secs(59);
            world.send("GET /health/live HTTP/1.1\r\nHo");
            world.drive_until(Phase::Request);
            assert!(!world.connection.is_idle());
            world.send("st: x\r\n\r\n");
            world.drive_until(Phase::Idle);
            assert!(world.read_answer().starts_with("HTTP/1.1 200 OK\r\n"));
            assert_eq!(world.seconds_to_deadline(), 60);
            assert!(world.connection.is_idle());
        }
        assert_eq!(world.expire(), Driven::Over);
    }

    #[test]
    fn who_does_not_read_is_owed_a_bounded_heap_and_a_bounded_time() {
        let mut world = World::new(64);
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        world.peer.set_nonblocking(true).unwrap();
        let mut heap_max = 0;
        // The kernel's buffers take some megabytes before they are full: both ways, then nothing moves any more.
        let mut stalled = 0;
        while stalled < 100 {
            let sent = world.peer.write(request.repeat(100).as_bytes());
            let before = world.connection.answers.len() - world.connection.written;
            assert_ne!(world.drive(), Driven::Over);
            let after = world.connection.answers.len() - world.connection.written;
            heap_max = heap_max.max(world.connection.answers.len());
            stalled = if sent.is_err() && before == after { stalled + 1 } else { 0 };
        }
        assert_eq!(world.connection.phase, Phase::Response);
        assert!(heap_max < 2 * 1024 * 1024, "{heap_max}");
        assert_eq!(world.seconds_to_deadline(), 30);
        assert_eq!(world.expire(), Driven::Over);
    }

    #[test]
    fn a_reader_that_is_slow_gets_every_byte_of_its_answers_in_order() {
        let mut world = World::new(64);
        world.send(&"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(80));
        world.send("GET /health/live HTTP/1.0\r\n\r\n");
        let mut peer = world.peer.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        });
        world.drive_until(Phase::Linger);
        let text = reader.join().unwrap();
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 81);
        assert!(text.ends_with("\"uptime\":0}"));
    }

    #[test]
    fn what_is_not_http_is_refused_before_its_end() {
        let mut world = World::new(1);
        world.send("\x16\x03\x01");
        world.drive_until(Phase::Linger);
        assert!(world.read_answer().starts_with("HTTP/1.1 400 Bad Request\r\n"));
        // What comes after the refusal is read and thrown away, so that no reset overtakes it.
        world.send(&"x".repeat(100_000));
        assert_ne!(world.drive(), Driven::Over);
        world.peer.shutdown(Shutdown::Write).unwrap();
        let began = Instant::now();
        while world.drive() != Driven::Over {
            assert!(began.elapsed() < Duration::from_secs(20));
        }
    }
}
