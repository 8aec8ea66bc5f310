//! A connection's life, as its peer sees it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::metrics::ShardMetrics;
use crate::protocol::assembly::Message;
use crate::protocol::error::InvalidMessage;
use crate::protocol::frame::unmask;
use crate::shard::fuzz::rehearsed_sessions;
use crate::shard::sessions::Sessions;
use crate::shard::virtual_driver::VirtualDriver;

const HEARTBEAT: &str = r#"{"type":"HEARTBEAT"}"#;

pub struct World {
    pub driver: VirtualDriver<Sessions>,
    pub metrics: Arc<ShardMetrics>,
}

impl World {
    pub fn new(config: &Config) -> Self {
        let metrics = Arc::new(ShardMetrics::default());
        let sessions = rehearsed_sessions(config, &metrics);
        let driver = VirtualDriver::new(sessions, Limits::new(config), Arc::clone(&metrics));
        Self { driver, metrics }
    }

    /// A client that has its CONNECT; what it was sent so far is put away.
    pub fn client(&mut self, query: &str) -> usize {
        let peer = self.driver.connect(None);
        self.driver.send(peer, upgrade(query).as_bytes());
        let received = String::from_utf8_lossy(&self.driver.peers[peer].received).into_owned();
        assert!(received.starts_with("HTTP/1.1 101 ") && received.contains(r#"{"type":"CONNECT","#), "{received}");
        self.driver.peers[peer].received.clear();
        peer
    }

    pub fn say(&mut self, peer: usize, text: &str) {
        self.driver.send(peer, &frame(0x81, text.as_bytes()));
    }

    /// What a client was sent since this was last asked.
    pub fn heard(&mut self, peer: usize) -> Vec<Heard> {
        parse(&std::mem::take(&mut self.driver.peers[peer].received))
    }

    fn assert_closed(&mut self, peer: usize, code: u16) {
        let heard = self.heard(peer);
        assert!(matches!(heard.last(), Some(Heard::Close(closed, _)) if *closed == code), "{code}: {heard:?}");
        assert!(self.driver.peers[peer].told_end);
        self.driver.pass(2_000);
        assert!(self.driver.peers[peer].closed);
    }

    fn assert_nothing_left(&mut self) {
        assert!(self.driver.core.is_empty());
        // The grace, the time in which sessions can be resumed, and that in which it is known who left a room.
        self.driver.pass(310_000);
        assert_eq!(self.driver.core.deadline_ms(), None);
        assert!(self.driver.core.application_mut().is_empty());
        let metrics = &self.metrics;
        assert_eq!(metrics.connections_current.get() + metrics.sockets_current.get() + metrics.users_current.get(), 0);
        assert_eq!((metrics.queued_bytes.get(), metrics.panics_total.get()), (0, 0));
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Text(String),
    Ping,
    Pong(Vec<u8>),
    Close(u16, String),
}

impl Heard {
    fn is_type(&self, name: &str) -> bool {
        matches!(self, Self::Text(text) if text.contains(&format!(r#""type":"{name}""#)))
    }
}

pub fn upgrade(query: &str) -> String {
    format!(
        "GET /?{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        0..=125 => bytes.push(0x80 | payload.len() as u8),
        _ => {
            bytes.push(0xfe);
            bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[1, 2, 3, 4]);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    unmask(&mut bytes[start..], [1, 2, 3, 4], 0);
    bytes
}

fn parse(mut bytes: &[u8]) -> Vec<Heard> {
    let mut heard = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match second {
            126 => (u16::from_be_bytes([rest[0], rest[1]]) as usize, &rest[2..]),
            length => (*length as usize, rest),
        };
        let (payload, rest) = rest.split_at(length);
        heard.push(match first & 0x0f {
            1 => Heard::Text(String::from_utf8(payload.to_vec()).unwrap()),
            8 if payload.is_empty() => Heard::Close(0, String::new()),
            8 => Heard::Close(
                u16::from_be_bytes([payload[0], payload[1]]),
                String::from_utf8(payload[2..].to_vec()).unwrap(),
            ),
            9 => Heard::Ping,
            _ => Heard::Pong(payload.to_vec()),
        });
        bytes = rest;
    }
    heard
}

#[test]
fn messages_are_answered_in_their_order() {
    let mut world = World::new(&Config::default());
    let ana = world.client("userId=ana");
    let mut bytes = Vec::new();
    for id in 0..600 {
        bytes.extend(frame(0x81, format!(r#"{{"type":"HEARTBEAT","id":{id}}}"#).as_bytes()));
    }
    world.driver.send(ana, &bytes);
    let heard = world.heard(ana);
    assert_eq!(heard.len(), 600);
    for (id, heard) in heard.iter().enumerate() {
        assert!(matches!(heard, Heard::Text(text) if text.contains(&format!(r#""id":{id},"#))), "{heard:?}");
    }
}

#[test]
fn a_disconnect_is_answered_before_the_close_and_ends_the_user() {
    let mut world = World::new(&Config::default());
    let ana = world.client("userId=ana&status=away");
    assert_eq!((world.metrics.users_current.get(), world.metrics.users_by_status[1].get()), (1, 1));
    let mut bytes = frame(0x81, HEARTBEAT.as_bytes());
    bytes.extend(frame(0x81, br#"{"type":"DISCONNECT","id":1}"#));
    bytes.extend(frame(0x81, HEARTBEAT.as_bytes()));
    world.driver.send(ana, &bytes);
    let heard = world.heard(ana);
    assert!(heard[0].is_type("HEARTBEAT_ACK") && heard[1].is_type("ACK"));
    assert!(matches!(heard[2..], [Heard::Close(1000, _)]));
    assert_eq!(world.metrics.users_current.get(), 0);
    world.driver.send(ana, &frame(0x88, &[3, 232]));
    assert!(world.driver.peers[ana].closed);
    world.assert_nothing_left();
}

#[test]
fn a_close_is_echoed_with_its_code_and_a_close_without_one_without() {
    let mut world = World::new(&Config::default());
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    world.driver.send(ana, &frame(0x88, &[0x0f, 0xa0, b'x']));
    world.driver.send(bob, &frame(0x88, b""));
    assert_eq!(world.heard(ana), [Heard::Close(4000, String::new())]);
    assert_eq!(world.heard(bob), [Heard::Close(0, String::new())]);
    assert_eq!(world.metrics.errors_total.get(), 0);
    world.driver.end(ana);
    world.driver.pass(2_000);
    world.assert_nothing_left();
}

#[test]
fn whoever_sends_no_message_for_the_heartbeat_timeout_is_closed_though_it_answers_pings() {
    let mut world = World::new(&Config::default());
    let ana = world.client("userId=ana");
    for _ in 0..7 {
        world.driver.pass(10_000);
        world.driver.send(ana, &frame(0x8a, b""));
    }
    assert_eq!(world.heard(ana), []);
    world.driver.pass(4_900);
    assert_eq!(world.heard(ana), []);
    world.driver.pass(200);
    world.assert_closed(ana, 4408);
    world.assert_nothing_left();
}

#[test]
fn a_bad_message_is_a_sign_of_life_too() {
    let mut world = World::new(&Config::default());
    let ana = world.client("userId=ana&heartbeatTimeout=5000");
    for _ in 0..6 {
        world.driver.pass(4_000);
        world.say(ana, "no JSON");
    }
    assert_eq!(world.heard(ana).len(), 6);
    world.driver.pass(5_200);
    world.assert_closed(ana, 4408);
}

#[test]
fn a_half_open_peer_is_found_by_a_ping_and_one_that_answers_stays() {
    let config = Config { heartbeat_timeout: Duration::ZERO, ..Config::default() };
    let mut world = World::new(&config);
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    world.driver.pass(45_100);
    assert_eq!((world.heard(ana), world.heard(bob)), (vec![Heard::Ping], vec![Heard::Ping]));
    world.driver.send(bob, &frame(0x8a, b""));
    world.driver.pass(10_100);
    world.assert_closed(ana, 4408);
    assert_eq!(world.heard(bob), []);
    world.driver.pass(35_000);
    assert_eq!(world.heard(bob), [Heard::Ping]);
}

#[test]
fn nobody_is_cut_whose_bytes_wait_in_the_kernel() {
    let mut world = World::new(&Config::default());
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    world.driver.peers[ana].in_kernel = frame(0x81, HEARTBEAT.as_bytes());
    world.driver.jump(600_000);
    assert!(world.heard(ana).iter().any(|heard| heard.is_type("HEARTBEAT_ACK")));
    world.driver.pass(200);
    assert!(!world.driver.peers[ana].told_end);
    world.assert_closed(bob, 4408);
}

#[test]
fn a_request_that_does_not_come_in_time_is_refused() {
    let mut world = World::new(&Config::default());
    let drip = world.driver.connect(None);
    for byte in b"GET / HTT" {
        world.driver.send(drip, &[*byte]);
        world.driver.pass(1_000);
    }
    assert_eq!(world.driver.peers[drip].received, b"");
    world.driver.pass(1_100);
    assert!(world.driver.peers[drip].received.starts_with(b"HTTP/1.1 408 "));
    world.driver.pass(2_100);
    world.assert_nothing_left();
}

#[test]
fn a_message_that_does_not_end_is_a_violation_though_pings_come_between() {
    let mut world = World::new(&Config::default());
    let ana = world.client("userId=ana&heartbeatTimeout=600000");
    world.driver.send(ana, &frame(0x01, b"{"));
    for _ in 0..30 {
        world.driver.send(ana, &frame(0x89, b"p"));
        world.driver.pass(1_000);
    }
    world.driver.pass(200);
    world.assert_closed(ana, 1008);
    // The time is counted anew for each message.
    let bob = world.client("userId=bob&heartbeatTimeout=600000");
    for _ in 0..40 {
        world.driver.send(bob, &frame(0x01, br#"{"type":"#));
        world.driver.pass(1_000);
        world.driver.send(bob, &frame(0x80, br#""HEARTBEAT"}"#));
    }
    assert_eq!(world.heard(bob).len(), 40);
}

#[test]
fn twenty_bad_messages_in_a_row_end_a_connection_and_a_good_one_counts_anew() {
    let mut world = World::new(&Config::default());
    let ana = world.client("userId=ana");
    for _ in 0..19 {
        world.say(ana, "[]");
    }
    world.say(ana, HEARTBEAT);
    for _ in 0..19 {
        world.say(ana, "[]");
    }
    let heard = world.heard(ana);
    assert_eq!(heard.iter().filter(|heard| heard.is_type("ERROR")).count(), 38);
    world.say(ana, "[]");
    assert_eq!(parse(&world.driver.peers[ana].received).len(), 1);
    world.assert_closed(ana, 1008);
    assert_eq!(world.metrics.errors_total.get(), 39);
}

#[test]
fn whoever_takes_no_answers_is_no_longer_read_and_goes_on_when_it_does() {
    let config = Config { send_queue: 4096, ..Config::default() };
    let mut world = World::new(&config);
    let ana = world.client("userId=ana");
    world.driver.peers[ana].room = 0;
    let heartbeats = frame(0x81, HEARTBEAT.as_bytes()).repeat(1_000);
    world.driver.send(ana, &heartbeats);
    let queued = world.metrics.queued_bytes.get();
    assert!((4096..4096 + 128).contains(&queued), "{queued}");
    assert!(!world.driver.peers[ana].in_kernel.is_empty());
    world.driver.make_room(ana, 100);
    assert_eq!(world.metrics.queued_bytes.get(), queued - 100);
    world.driver.make_room(ana, usize::MAX);
    assert_eq!(world.heard(ana).len(), 1_000);
    assert_eq!(world.metrics.queued_bytes.get(), 0);
}

#[test]
fn whoever_takes_no_byte_for_the_send_timeout_is_dropped() {
    let mut world = World::new(&Config::default());
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    for peer in [ana, bob] {
        world.driver.peers[peer].room = 10;
        world.say(peer, HEARTBEAT);
    }
    for _ in 0..59 {
        world.driver.pass(1_000);
        world.driver.make_room(bob, 1);
        world.say(bob, HEARTBEAT);
        world.say(ana, HEARTBEAT);
    }
    assert!(!world.driver.peers[ana].closed);
    world.driver.pass(1_200);
    assert!(world.driver.peers[ana].closed && !world.driver.peers[bob].closed);
    assert_eq!(world.metrics.drops[0].get(), 1);
}

#[test]
fn whoever_takes_its_answers_slowly_is_not_taken_for_silent_while_it_is_not_read() {
    let config = Config { send_queue: 4096, ..Config::default() };
    let mut world = World::new(&config);
    let ana = world.client("userId=ana");
    world.driver.peers[ana].room = 0;
    // Frames of 32 bytes, so that no read cuts one: a cut one would have its own time.
    let heartbeat = frame(0x81, format!("{HEARTBEAT:26}").as_bytes());
    world.driver.send(ana, &heartbeat.repeat(1_000));
    for _ in 0..170 {
        world.driver.pass(1_000);
        world.driver.make_room(ana, 1);
    }
    assert!(!world.driver.peers[ana].told_end && !world.driver.peers[ana].in_kernel.is_empty());
    // Once it is read again, its silence counts from its last message, to the tick.
    world.driver.make_room(ana, usize::MAX);
    assert_eq!(world.heard(ana).len(), 1_000);
    world.driver.pass(54_000);
    assert_eq!(world.heard(ana), [Heard::Ping]);
    world.driver.pass(1_200);
    world.assert_closed(ana, 4408);
    world.assert_nothing_left();
}

#[test]
fn what_is_held_is_reckoned_to_the_byte_and_given_back() {
    let (offline_grace, resume_window) = (Duration::ZERO, Duration::ZERO);
    let config = Config { offline_grace, resume_window, last_seen_capacity: 0, ..Config::default() };
    let mut world = World::new(&config);
    let empty = world.driver.core.held_bytes();
    let ana = world.client("userId=ana");
    let idle = world.driver.core.held_bytes();
    world.driver.send(ana, &frame(0x01, &[b' '; 5_000]));
    assert!(world.driver.core.held_bytes() >= idle + 5_000);
    world.driver.send(ana, &frame(0x80, HEARTBEAT.as_bytes()));
    assert_eq!(world.driver.core.held_bytes(), idle);
    world.driver.peers[ana].room = 0;
    world.say(ana, HEARTBEAT);
    assert!(world.driver.core.held_bytes() > idle);
    world.driver.make_room(ana, usize::MAX);
    assert_eq!(world.driver.core.held_bytes(), idle);
    world.say(ana, r#"{"type":"PRESENCE_UPDATE","payload":{"status":"away","metadata":{"a":"bcdef"}}}"#);
    let with_short = world.driver.core.held_bytes();
    assert!(with_short > idle);
    world.say(ana, r#"{"type":"PRESENCE_UPDATE","payload":{"status":"away","metadata":{"a":"bcdefgh"}}}"#);
    assert_eq!(world.driver.core.held_bytes(), with_short + 2);
    world.say(ana, r#"{"type":"PRESENCE_UPDATE","payload":{"status":"away","metadata":null}}"#);
    assert_eq!(world.driver.core.held_bytes(), idle);
    world.say(ana, r#"{"type":"WATCH","payload":{"users":["bob","eve"],"rooms":["lobby"]}}"#);
    world.say(ana, r#"{"type":"JOIN","payload":{"room":"den"}}"#);
    assert!(world.driver.core.held_bytes() > idle);
    world.driver.end(ana);
    world.driver.pass(310_000);
    assert_eq!(world.driver.core.held_bytes(), empty);
}

#[test]
fn when_memory_is_full_nothing_grows_and_all_else_goes_on() {
    let mut world = World::new(&Config::default());
    let ana = world.client("userId=ana");
    world.driver.core.set_memory_full(true);
    world.say(ana, r#"{"type":"PRESENCE_UPDATE","id":1,"payload":{"status":"away","metadata":{"a":1}}}"#);
    world.driver.send(ana, &frame(0x01, &[b' '; 1_500]));
    world.driver.send(ana, &frame(0x80, HEARTBEAT.as_bytes()));
    world.say(ana, r#"{"type":"PRESENCE_UPDATE","id":2,"payload":{"status":"busy","metadata":null}}"#);
    let heard = world.heard(ana);
    assert!(heard[..2].iter().all(|heard| matches!(heard, Heard::Text(text) if text.contains("SERVER_FULL"))));
    assert!(heard[2].is_type("ACK") && heard.len() == 3, "{heard:?}");
    assert_eq!(world.metrics.users_by_status[2].get(), 1);
    world.driver.core.set_memory_full(false);
    world.driver.send(ana, &frame(0x01, &[b' '; 1_500]));
    world.driver.send(ana, &frame(0x80, HEARTBEAT.as_bytes()));
    assert!(world.heard(ana)[0].is_type("HEARTBEAT_ACK"));
}

#[test]
fn a_request_is_handed_to_control_and_its_answer_ends_the_connection() {
    let mut world = World::new(&Config::default());
    let probe = world.driver.connect(Some(Refusal::Full));
    world.driver.send(probe, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let [(connection, _)] = world.driver.handed_over[..] else { panic!("{:?}", world.driver.handed_over) };
    world.driver.step(Input::Response { connection, bytes: b"HTTP/1.1 200 OK\r\n\r\n".to_vec() });
    assert_eq!(world.driver.peers[probe].received, b"HTTP/1.1 200 OK\r\n\r\n");
    assert!(world.driver.peers[probe].told_end);
    world.driver.end(probe);
    world.assert_nothing_left();
}

#[test]
fn over_the_limit_a_request_is_read_and_then_refused() {
    let mut world = World::new(&Config::default());
    let late = world.driver.connect(Some(Refusal::Full));
    world.driver.send(late, upgrade("userId=ana").as_bytes());
    let received = String::from_utf8(world.driver.peers[late].received.clone()).unwrap();
    assert!(received.starts_with("HTTP/1.1 503 ") && received.contains("Retry-After: "), "{received}");
    assert_eq!(world.metrics.connections_total.get(), 0);
}

#[test]
fn an_invalid_query_is_upgraded_and_closed_and_never_counts() {
    let mut world = World::new(&Config::default());
    for query in ["", "userId=", "userId=a&userId=b", "userId=a&heartbeatTimeout=x", "userId=a&status=offline"] {
        let peer = world.driver.connect(None);
        world.driver.send(peer, upgrade(query).as_bytes());
        let received = std::mem::take(&mut world.driver.peers[peer].received);
        let end = handshake::head_end(&received, 0, 8192).unwrap().unwrap();
        assert!(received.starts_with(b"HTTP/1.1 101 "));
        assert!(matches!(&parse(&received[end..])[..], [Heard::Close(1002, reason)] if !reason.is_empty()));
        world.driver.end(peer);
    }
    assert_eq!((world.metrics.connections_total.get(), world.metrics.errors_total.get()), (0, 5));
    world.assert_nothing_left();
}

#[test]
fn whoever_closes_before_it_could_read_why_it_is_closed_is_told_all_the_same() {
    let mut world = World::new(&Config::default());
    let early = world.driver.connect(None);
    let bytes = [upgrade("userId=").as_bytes(), &frame(0x88, &[3, 232])].concat();
    world.driver.send(early, &bytes);
    let received = std::mem::take(&mut world.driver.peers[early].received);
    let end = handshake::head_end(&received, 0, 8192).unwrap().unwrap();
    assert!(matches!(&parse(&received[end..])[..], [Heard::Close(1002, _)]));
    let slow = world.client("userId=ana");
    world.driver.peers[slow].room = 0;
    world.driver.send(slow, &frame(0x82, b"binary"));
    world.driver.send(slow, &frame(0x88, &[3, 232]));
    assert!(!world.driver.peers[slow].closed);
    world.driver.make_room(slow, usize::MAX);
    world.assert_closed(slow, 1003);
    world.driver.end(early);
    world.assert_nothing_left();
}

#[test]
fn what_is_late_for_one_connection_never_reaches_the_next_in_its_slot() {
    let mut world = World::new(&Config::default());
    let ana = world.client("userId=ana");
    let late = world.driver.peers[ana].connection;
    world.driver.end(ana);
    let bob = world.client("userId=bob");
    assert_eq!(world.driver.peers[bob].connection.index, late.index);
    world.driver.step(Input::Received { connection: late, bytes: &mut frame(0x88, b"") });
    world.driver.step(Input::Ended { connection: late, failed: true });
    world.driver.step(Input::Writable(late));
    world.driver.step(Input::Looked(late));
    world.driver.step(Input::Resume(late));
    world.driver.step(Input::Response { connection: late, bytes: vec![1] });
    assert!(!world.driver.peers[bob].closed && world.driver.peers[bob].received.is_empty());
    assert_eq!(world.driver.core.appetite(late), Appetite::Nothing);
}

#[test]
fn draining_tells_everyone_and_takes_nobody_new() {
    let mut world = World::new(&Config::default());
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    let knocking = world.driver.connect(None);
    world.driver.step(Input::Drain);
    assert!(world.driver.core.drain(world.driver.now, 1));
    world.driver.act();
    while world.driver.core.drain(world.driver.now, 1) {
        world.driver.act();
    }
    world.driver.act();
    assert!(world.driver.peers[knocking].received.starts_with(b"HTTP/1.1 503 "));
    let late = world.driver.connect(None);
    world.driver.send(late, upgrade("userId=cleo").as_bytes());
    assert!(world.driver.peers[late].received.starts_with(b"HTTP/1.1 503 "));
    world.driver.send(ana, &frame(0x88, &[3, 233]));
    assert!(world.driver.peers[ana].closed);
    world.assert_closed(bob, 1001);
    world.driver.pass(2_000);
    world.assert_nothing_left();
}

#[test]
fn everything_in_one_readable_event_is_taken_in_order() {
    let mut world = World::new(&Config::default());
    let peer = world.driver.connect(None);
    let mut bytes = upgrade("userId=ana").into_bytes();
    bytes.extend(frame(0x89, b"ping"));
    bytes.extend(frame(0x81, HEARTBEAT.as_bytes()));
    bytes.extend(frame(0x81, br#"{"type":"PRESENCE_UPDATE","id":"u","payload":{"status":"busy"}}"#));
    bytes.extend(frame(0x88, &[3, 232]));
    bytes.extend(frame(0x81, HEARTBEAT.as_bytes()));
    world.driver.send(peer, &bytes);
    world.driver.end(peer);
    let received = std::mem::take(&mut world.driver.peers[peer].received);
    let heard = parse(&received[handshake::head_end(&received, 0, 8192).unwrap().unwrap()..]);
    assert!(heard[0].is_type("CONNECT"));
    assert_eq!(heard[1], Heard::Pong(b"ping".to_vec()));
    assert!(heard[2].is_type("HEARTBEAT_ACK") && heard[3].is_type("ACK"));
    assert_eq!(heard[4..], [Heard::Close(1000, String::new())]);
    world.assert_nothing_left();
}

#[test]
fn a_request_may_be_as_large_as_the_operator_says_however_it_is_cut() {
    let mut world = World::new(&Config { max_request: 2048, ..Config::default() });
    let padded = |bytes: usize| {
        let plain = upgrade("userId=ana");
        plain.replacen("\r\n", &format!("\r\nX: {}\r\n", "x".repeat(bytes - plain.len() - 5)), 1)
    };
    for piece in [1, 700, 4096] {
        for (bytes, status) in [(2048, "101"), (2049, "431")] {
            let peer = world.driver.connect(None);
            for part in padded(bytes).as_bytes().chunks(piece) {
                world.driver.send(peer, part);
            }
            let answer = String::from_utf8_lossy(&world.driver.peers[peer].received).into_owned();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{piece} {bytes}: {answer}");
        }
    }
}

#[test]
fn over_its_rate_a_connection_is_told_and_then_closed_and_a_pause_forgives_it() {
    let config = Config { message_rate: 10, message_burst: 3, ..Config::default() };
    let mut world = World::new(&config);
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    for peer in [ana, bob] {
        let heartbeats = frame(0x81, HEARTBEAT.as_bytes()).repeat(6);
        world.driver.send(peer, &heartbeats);
        let heard = world.heard(peer);
        assert!(heard[..3].iter().all(|heard| heard.is_type("HEARTBEAT_ACK")), "{heard:?}");
        assert!(
            heard[3..].iter().all(|heard| matches!(heard, Heard::Text(text) if text.contains("RATE_LIMITED"))),
            "{heard:?}"
        );
        assert_eq!(heard.len(), 6);
    }
    world.driver.pass(400);
    world.say(ana, HEARTBEAT);
    assert!(world.heard(ana)[0].is_type("HEARTBEAT_ACK"));
    for _ in 0..5 {
        world.say(bob, HEARTBEAT);
    }
    world.assert_closed(bob, 4429);
    assert_eq!(world.metrics.errors[InvalidMessage::RateLimited.cell()].get(), 9);
    let bob = world.client("userId=bob");
    world.say(bob, HEARTBEAT);
    assert!(world.heard(bob)[0].is_type("HEARTBEAT_ACK"));
}

#[test]
fn pings_and_pongs_count_and_a_close_never_does() {
    let mut world = World::new(&Config { message_rate: 1, message_burst: 2, ..Config::default() });
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    world.driver.send(ana, &[frame(0x89, b"1"), frame(0x8a, b""), frame(0x89, b"2"), frame(0x89, b"3")].concat());
    assert_eq!(world.heard(ana), [Heard::Pong(b"1".to_vec())]);
    world.driver.send(ana, &frame(0x88, &[3, 232]));
    assert_eq!(world.heard(ana), [Heard::Close(1000, String::new())]);
    world.driver.send(bob, &frame(0x8a, b"").repeat(5));
    world.assert_closed(bob, 4429);
}

#[test]
fn an_address_has_so_many_upgrades_a_second_and_each_64_counts_as_one() {
    let mut world = World::new(&Config { upgrade_rate_per_address: 2, ..Config::default() });
    let mut ask = |address: &str, target: &str| {
        let peer = world.driver.connect_from(address.parse().unwrap(), None);
        world.driver.send(peer, target.as_bytes());
        let answer = std::mem::take(&mut world.driver.peers[peer].received);
        (String::from_utf8_lossy(&answer).lines().next().map(|line| line[9..12].to_owned()), answer)
    };
    let status = |status: &str| Some(status.to_owned());
    let upgrade = upgrade("userId=ana");
    for address in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        assert_eq!(ask(address, &upgrade).0, status("101"));
        assert_eq!(ask(address, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n").0, None);
    }
    assert_eq!(ask("::ffff:192.0.2.1", &upgrade).0, status("101"));
    assert_eq!(ask("2001:db8::ffff:2", &upgrade).0, status("101"));
    for address in ["192.0.2.1", "2001:db8::3"] {
        let (refused, answer) = ask(address, &upgrade);
        assert_eq!(refused, status("429"));
        assert!(String::from_utf8_lossy(&answer).contains("\r\nRetry-After: "));
    }
    assert_eq!(ask("2001:db8:0:1::1", &upgrade).0, status("101"));
    assert_eq!(world.metrics.refusals[Refusal::UpgradeRate.cell()].get(), 2);
    world.driver.pass(500);
    let again = world.driver.connect_from("192.0.2.1".parse().unwrap(), None);
    world.driver.send(again, upgrade.as_bytes());
    assert!(world.driver.peers[again].received.starts_with(b"HTTP/1.1 101 "));
}

#[test]
fn an_address_has_so_many_connections_and_the_newest_goes() {
    let mut world = World::new(&Config { connections_per_address: 2, ..Config::default() });
    let mut open = |address: &str| {
        let peer = world.driver.connect_from(address.parse().unwrap(), None);
        world.driver.send(peer, upgrade("userId=ana").as_bytes());
        world.driver.pass(0);
        let received = std::mem::take(&mut world.driver.peers[peer].received);
        let heard = parse(&received[handshake::head_end(&received, 0, 8192).unwrap().unwrap()..]);
        assert!(heard[0].is_type("CONNECT"));
        (peer, heard.into_iter().nth(1))
    };
    let (first, _) = open("192.0.2.1");
    assert_eq!([open("192.0.2.1").1, open("192.0.2.2").1], [None, None]);
    let reason = "too many connections from this address".to_owned();
    assert_eq!(open("::ffff:192.0.2.1").1, Some(Heard::Close(4429, reason)));
    world.driver.end(first);
    let again = world.driver.connect_from("192.0.2.1".parse().unwrap(), None);
    world.driver.send(again, upgrade("userId=ana").as_bytes());
    world.driver.pass(100);
    assert!(!world.driver.peers[again].told_end);
    assert_eq!((world.metrics.limited[0].get(), world.metrics.connections_current.get()), (1, 3));
    for peer in 0..world.driver.peers.len() {
        world.driver.end(peer);
    }
    world.driver.pass(60_000);
    assert!(world.driver.core.application_mut().is_empty());
}

#[test]
fn a_user_has_so_many_connections_and_the_oldest_goes() {
    let mut world = World::new(&Config { connections_per_user: 2, ..Config::default() });
    let peers: Vec<usize> = (0..3)
        .map(|_| {
            world.driver.pass(100);
            world.client("userId=ana&status=away")
        })
        .collect();
    world.driver.pass(0);
    world.assert_closed(peers[0], 4409);
    assert!(peers[1..].iter().all(|&peer| !world.driver.peers[peer].told_end));
    assert_eq!((world.metrics.limited[1].get(), world.metrics.connections_current.get()), (1, 2));
}

fn behind_a_proxy() -> Config {
    Config {
        proxy_protocol_from: vec!["10.0.0.0/8".parse().unwrap()],
        trusted_proxies: vec!["10.1.0.0/16".parse().unwrap(), "198.51.100.0/24".parse().unwrap()],
        upgrade_rate_per_address: 1,
        ..Config::default()
    }
}

/// What whoever connects from `address` is answered to `bytes` that come one by one.
fn answer(world: &mut World, address: &str, bytes: &[u8]) -> String {
    let peer = world.driver.connect_from(address.parse().unwrap(), None);
    for byte in bytes {
        world.driver.send(peer, &[*byte]);
    }
    String::from_utf8_lossy(&world.driver.peers[peer].received).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_proxy_header_tells_whose_connection_it_is() {
    let mut world = World::new(&behind_a_proxy());
    let upgrade = upgrade("userId=ana");
    let through = |client: &str| format!("PROXY TCP4 {client} 192.0.2.9 5000 3000\r\n{upgrade}");
    assert!(answer(&mut world, "10.0.0.1", through("192.0.2.1").as_bytes()).contains("101"));
    assert!(answer(&mut world, "10.0.0.2", through("192.0.2.1").as_bytes()).contains("429"));
    assert!(answer(&mut world, "10.0.0.1", through("192.0.2.2").as_bytes()).contains("101"));
    assert!(answer(&mut world, "192.0.2.1", upgrade.as_bytes()).contains("429"));
    let local = [&b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0"[..], upgrade.as_bytes()].concat();
    assert!(answer(&mut world, "10.0.0.7", &local).contains("101"));
}

#[test]
fn a_proxy_header_is_required_where_it_is_said_and_refused_elsewhere() {
    let mut world = World::new(&behind_a_proxy());
    let upgrade = upgrade("userId=ana");
    let through = format!("PROXY TCP4 192.0.2.1 192.0.2.9 5000 3000\r\n{upgrade}");
    let binary = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[1; 12], upgrade.as_bytes()].concat();
    for (address, bytes, refusal) in [
        ("10.0.0.1", upgrade.as_bytes(), Refusal::ProxyHeaderRequired),
        ("::ffff:10.0.0.1", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", Refusal::ProxyHeaderRequired),
        ("10.0.0.1", b"PROXY TCP4 192.0.2.1\r\n", Refusal::ProxyHeaderRequired),
        ("192.0.2.1", through.as_bytes(), Refusal::ProxyHeaderUnasked),
        ("11.0.0.1", through.as_bytes(), Refusal::ProxyHeaderUnasked),
        ("192.0.2.1", &binary, Refusal::ProxyHeaderUnasked),
        ("192.0.2.1", b"\r\n\r\n\0\r\nQUIT\n", Refusal::ProxyHeaderUnasked),
        // Almost a header, and an empty head.
        ("192.0.2.1", b"\r\n\r\n\0\r\nQUIT\r", Refusal::BadRequest),
        ("192.0.2.1", b"\r\n\r\nGET", Refusal::BadRequest),
    ] {
        let before = world.metrics.refusals[refusal.cell()].get();
        assert!(answer(&mut world, address, bytes).contains(" 400 "), "{address}");
        let peer = world.driver.connect_from(address.parse().unwrap(), None);
        world.driver.send(peer, bytes);
        assert!(world.driver.peers[peer].received.starts_with(b"HTTP/1.1 400 "));
        assert_eq!(world.metrics.refusals[refusal.cell()].get(), before + 2, "{address}");
    }
    assert_eq!(world.metrics.connections_total.get(), 0);
}

#[test]
fn a_proxy_header_that_does_not_end_is_refused_in_time() {
    let mut world = World::new(&behind_a_proxy());
    let peer = world.driver.connect_from("10.0.0.1".parse().unwrap(), None);
    world.driver.send(peer, b"PROXY TCP4 192.0.2.1");
    world.driver.pass(9_900);
    assert!(world.driver.peers[peer].received.is_empty());
    world.driver.pass(300);
    assert!(world.driver.peers[peer].received.starts_with(b"HTTP/1.1 408 "));
    world.driver.pass(2_100);
    world.assert_nothing_left();
}

#[test]
fn forwarding_headers_are_read_from_trusted_proxies_alone() {
    let mut world = World::new(&behind_a_proxy());
    let mut ask = |address: &str, header: &str| {
        let head = upgrade("userId=ana").replacen("\r\n", &format!("\r\n{header}\r\n"), 1);
        answer(&mut world, address, head.as_bytes())
    };
    assert!(ask("198.51.100.1", "X-Forwarded-For: 192.0.2.1").contains("101"));
    assert!(ask("198.51.100.2", "Forwarded: for=192.0.2.1").contains("429"));
    assert!(ask("198.51.100.1", "X-Forwarded-For: 192.0.2.2").contains("101"));
    assert!(ask("203.0.113.1", "X-Forwarded-For: 192.0.2.3").contains("101"));
    assert!(ask("203.0.113.1", "X-Forwarded-For: 192.0.2.4").contains("429"));
    assert!(ask("198.51.100.1", "Forwarded: for=192.0.2.5\r\nX-Forwarded-For: 192.0.2.6").contains("400"));
    assert_eq!(world.metrics.refusals[Refusal::ForwardedTwice.cell()].get(), 1);
}

#[test]
fn a_proxy_header_and_a_forwarding_header_go_together() {
    let mut world = World::new(&behind_a_proxy());
    for (client, expected) in [("192.0.2.1", "101"), ("192.0.2.2", "101"), ("192.0.2.1", "429")] {
        let head = upgrade("userId=ana").replacen("\r\n", &format!("\r\nX-Forwarded-For: {client}\r\n"), 1);
        let bytes = format!("PROXY TCP4 10.1.0.1 192.0.2.9 5000 3000\r\n{head}");
        assert!(answer(&mut world, "10.0.0.1", bytes.as_bytes()).contains(expected), "{client}");
    }
}

/// An application that has a fault.
struct Faulty;

impl Application for Faulty {
    type Session = ();
    type Mail = ();

    fn open(&mut self, _: Now, _: ConnectionId, _: &Upgrade<'_>, _: &mut Vec<u8>) -> Result<Opened<()>, Close> {
        Ok(Opened { session: (), silence_ms: 0, hold: false })
    }

    fn message(&mut self, _: Now, _: ConnectionId, (): &mut (), message: Message<'_>, out: &mut Vec<u8>) -> Verdict {
        frame::write(out, Kind::Text, &message.payload);
        assert_ne!(&*message.payload, b"trip", "the fault");
        Verdict::Continue
    }

    fn overflow(&mut self, _: Now, _: &mut Vec<u8>) {}

    fn set_memory_full(&mut self, _: bool) {}

    fn held_bytes(&self) -> usize {
        0
    }

    fn ended(&mut self, _: Now, _: ConnectionId, (): (), _: Ending) {}
}

#[test]
fn a_panic_costs_one_connection_and_nobody_else() {
    let metrics = Arc::new(ShardMetrics::default());
    let limits = Limits::new(&Config::default());
    let mut driver = VirtualDriver::new(Faulty, limits, Arc::clone(&metrics));
    let (ana, bob) = (driver.connect(None), driver.connect(None));
    for peer in [ana, bob] {
        driver.send(peer, upgrade("").as_bytes());
        driver.peers[peer].received.clear();
    }
    let mut bytes = frame(0x81, b"well");
    bytes.extend(frame(0x81, b"trip"));
    driver.send(ana, &bytes);
    driver.send(bob, &frame(0x81, b"well"));
    assert_eq!(parse(&driver.peers[ana].received), [Heard::Close(1011, "internal fault".to_owned())]);
    assert_eq!(parse(&driver.peers[bob].received), [Heard::Text("well".to_owned())]);
    assert_eq!((metrics.panics_total.get(), metrics.connections_current.get()), (1, 1));
    driver.pass(2_100);
    assert!(driver.peers[ana].closed && !driver.peers[bob].closed);
}

/// An application that reads nothing from a connection for a while.
struct Holding {
    until_ms: u64,
    held: Option<ConnectionId>,
}

impl Application for Holding {
    type Session = ();
    type Mail = ();

    fn open(&mut self, _: Now, id: ConnectionId, _: &Upgrade<'_>, _: &mut Vec<u8>) -> Result<Opened<()>, Close> {
        self.held = Some(id);
        Ok(Opened { session: (), silence_ms: 5_000, hold: true })
    }

    fn message(&mut self, _: Now, _: ConnectionId, (): &mut (), _: Message<'_>, _: &mut Vec<u8>) -> Verdict {
        Verdict::Continue
    }

    fn overflow(&mut self, _: Now, _: &mut Vec<u8>) {}

    fn set_memory_full(&mut self, _: bool) {}

    fn held_bytes(&self) -> usize {
        0
    }

    fn ended(&mut self, _: Now, _: ConnectionId, (): (), _: Ending) {}

    fn deadline_ms(&self) -> Option<u64> {
        self.held.map(|_| self.until_ms)
    }

    fn next_action(&mut self, now: Now) -> Option<Action> {
        (now.elapsed_ms() >= self.until_ms).then(|| self.held.take().map(Action::Release))?
    }
}

#[test]
fn who_is_not_read_from_is_not_silent_and_has_its_time_from_then_on() {
    let metrics = Arc::new(ShardMetrics::default());
    let application = Holding { until_ms: 8_000, held: None };
    let mut driver = VirtualDriver::new(application, Limits::new(&Config::default()), metrics);
    let peer = driver.connect(None);
    driver.send(peer, upgrade("").as_bytes());
    driver.peers[peer].received.clear();
    driver.pass(11_900);
    assert_eq!(parse(&driver.peers[peer].received), []);
    driver.pass(300);
    assert_eq!(parse(&driver.peers[peer].received), [Heard::Close(4408, "no message for 5 s".to_owned())]);
}
