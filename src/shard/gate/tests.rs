//! Who is let in, as peers see it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::auth::key_ring::KeyRing;
use crate::auth::keys::KeySet;
use crate::auth::service::Service;
use crate::config::{Config, DefaultReach};
use crate::metrics::RECEIVED_TYPES;
use crate::protocol::frame::unmask;
use crate::protocol::message::Parser;
use crate::shard::core::{Input, Limits};
use crate::shard::fuzz::sessions_behind;
use crate::shard::sessions::Sessions;
use crate::shard::virtual_driver::VirtualDriver;

const SECRET: &[u8] = b"a secret of forty bytes, for tests only!";
/// Where the virtual driver's clock begins, in seconds since 1970.
const NOW_S: u64 = 1_795_582_739;

/// A client's frame that holds `message`.
fn frame(message: &Value) -> Vec<u8> {
    let mut payload = message.to_string().into_bytes();
    let mut frame = vec![0x81];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0xfe);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[1, 2, 3, 4]);
    unmask(&mut payload, [1, 2, 3, 4], 0);
    frame.extend_from_slice(&payload);
    frame
}

struct World {
    driver: VirtualDriver<Sessions>,
    metrics: Arc<ShardMetrics>,
}

impl World {
    /// A shard that takes tokens signed with [`SECRET`].
    fn with_tokens(config: &Config) -> Self {
        let authority = Authority::open(config).unwrap();
        let keys = Some(KeyRing::fixed(KeySet::from_secret(SECRET).unwrap()));
        Self::new(config, Authority { keys, required: config.auth_required.unwrap_or(true), ..authority })
    }

    fn new(config: &Config, authority: Authority) -> Self {
        let metrics = Arc::new(ShardMetrics::default());
        let gate = Gate::new(authority, Arc::new(|| {}), Arc::clone(&metrics));
        let sessions = sessions_behind(gate, config, &metrics);
        let driver = VirtualDriver::new(sessions, Limits::new(config), Arc::clone(&metrics));
        Self { driver, metrics }
    }

    /// A peer that sends a request to upgrade.
    fn ask(&mut self, target: &str, headers: &str) -> usize {
        let peer = self.driver.connect(None);
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        self.driver.send(peer, head.as_bytes());
        peer
    }

    /// A peer whose request was answered with this status, and the rest of the answer.
    fn answered(&mut self, target: &str, headers: &str, status: u16) -> (usize, String) {
        let peer = self.ask(target, headers);
        (peer, self.answer(peer, status))
    }

    fn answer(&mut self, peer: usize, status: u16) -> String {
        let received = std::mem::take(&mut self.driver.peers[peer].received);
        let text = String::from_utf8_lossy(&received).into_owned();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {text}");
        let end = received.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        if status == 101 {
            self.driver.peers[peer].received = received[end..].to_vec();
        }
        text
    }

    fn say(&mut self, peer: usize, message: &Value) {
        self.driver.send(peer, &frame(message));
    }

    fn auth(&mut self, peer: usize, token: &str) {
        self.say(peer, &json!({"type": "AUTH", "id": 7, "payload": {"token": token}}));
    }

    /// The frames that a peer was sent, by opcode.
    fn frames(&mut self, peer: usize) -> Vec<(u8, Vec<u8>)> {
        let received = std::mem::take(&mut self.driver.peers[peer].received);
        let mut bytes = &received[..];
        let mut frames = Vec::new();
        while let [first, second, rest @ ..] = bytes {
            let (length, rest) = match second {
                126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                length => (usize::from(*length), rest),
            };
            let (payload, rest) = rest.split_at(length);
            bytes = rest;
            frames.push((first & 0x0f, payload.to_vec()));
        }
        frames
    }

    /// The types of the messages that a peer was sent, ERRORs by their code, a close by its number.
    fn heard(&mut self, peer: usize) -> Vec<String> {
        let mut heard = Vec::new();
        for (opcode, payload) in self.frames(peer) {
            heard.push(match opcode {
                8 => u16::from_be_bytes([payload[0], payload[1]]).to_string(),
                9 => continue,
                _ => {
                    let message: Value = serde_json::from_slice(&payload).unwrap();
                    let code = message["payload"]["code"].as_str();
                    code.unwrap_or_else(|| message["type"].as_str().unwrap()).to_owned()
                }
            });
        }
        heard
    }

    /// Whom the messages that a peer was sent name as changed: users, and rooms with their counts.
    fn changes(&mut self, peer: usize) -> Vec<String> {
        let mut changes = Vec::new();
        for (_, payload) in self.frames(peer) {
            let message: Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(message["type"], "PRESENCE_CHANGE");
            let of = |kind: &str| message["payload"][kind].as_array().unwrap().clone();
            changes.extend(of("users").iter().map(|user| user["userId"].as_str().unwrap().to_owned()));
            let room = |room: &Value| format!("{} {}", room["room"].as_str().unwrap(), room["count"]);
            changes.extend(of("rooms").iter().map(room));
        }
        changes
    }

    fn denials(&self, denial: Denial) -> u64 {
        self.metrics.auth_denials[denial.cell()].get()
    }

    fn assert_nobody(&self) {
        let metrics = &self.metrics;
        assert_eq!(
            metrics.connections_total.get() + metrics.connections_current.get() + metrics.users_current.get(),
            0
        );
    }

    /// Everybody goes, and nothing is left of them.
    fn end(mut self) {
        for peer in 0..self.driver.peers.len() {
            self.driver.end(peer);
        }
        // The grace, the time in which sessions can be resumed, and that in which it is known who left a room.
        self.driver.pass(310_000);
        assert!(self.driver.core.is_empty());
        let metrics = &self.metrics;
        assert_eq!(metrics.connections_current.get() + metrics.sockets_current.get() + metrics.users_current.get(), 0);
        assert_eq!(metrics.panics_total.get(), 0);
        assert!(self.driver.core.application_mut().is_empty());
        assert_eq!(self.driver.core.application_mut().gate_mut().held_bytes(), 0);
    }
}

fn token(claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

fn token_of(user: &str, lasts_s: u64) -> String {
    token(&json!({"sub": user, "exp": NOW_S + lasts_s}))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn silent_is_fine() -> Config {
    Config { heartbeat_timeout: Duration::ZERO, probe_after: Duration::ZERO, ..strict() }
}

fn strict() -> Config {
    Config { auth_message_timeout: Duration::ZERO, ..Config::default() }
}

#[test]
fn a_token_lets_its_user_in_who_need_not_be_named() {
    let mut world = World::with_tokens(&strict());
    for target in ["/?userId=ana", "/", "/ws?status=away"] {
        let (peer, _) = world.answered(target, &bearer(&token_of("ana", 60)), 101);
        assert_eq!(world.heard(peer), ["CONNECT"], "{target}");
    }
    let (peer, _) = world.answered(&format!("/?token={}", token_of("ana", 60)), "", 101);
    assert_eq!(world.heard(peer), ["CONNECT"]);
    assert_eq!((world.metrics.connections_current.get(), world.metrics.users_current.get()), (4, 1));
    world.end();
}

#[test]
fn a_token_beside_the_subprotocol_is_taken_and_never_echoed() {
    let mut world = World::with_tokens(&strict());
    let token = token_of("ana", 60);
    let offer = format!("Sec-WebSocket-Protocol: rollcall.v1, {token}\r\n");
    let (peer, answer) = world.answered("/", &offer, 101);
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: rollcall.v1\r\n") && !answer.contains(&token), "{answer}");
    assert_eq!(world.heard(peer), ["CONNECT"]);
    world.end();
}

#[test]
fn who_is_not_let_in_gets_401_before_the_upgrade_and_counts_for_nobody() {
    let mut world = World::with_tokens(&strict());
    let good = token_of("ana", 60);
    let cases = [
        ("/?userId=ana", String::new(), Denial::Missing),
        ("/?userId=ana", bearer("a.b.c"), Denial::Malformed),
        ("/?userId=bob", bearer(&good), Denial::Subject),
        ("/?userId=ana", bearer(&token(&json!({"sub": "ana", "exp": NOW_S - 31}))), Denial::Expired),
        ("/?userId=ana&token=x", bearer(&good), Denial::Several),
        ("/?userId=ana", bearer(&format!("{good}x")), Denial::Signature),
    ];
    for (target, headers, denial) in cases {
        let (_, answer) = world.answered(target, &headers, 401);
        assert!(
            answer.contains("\r\nWWW-Authenticate: Bearer ") && answer.ends_with(&format!("{}\n", denial.sentence()))
        );
        assert!(!answer.contains("Sec-WebSocket-Accept"));
        assert_eq!(world.denials(denial), 1, "{denial:?}");
    }
    assert_eq!(world.metrics.refusals[Refusal::Unauthorized.cell()].get(), 6);
    world.assert_nobody();
    world.end();
}

#[test]
fn by_knob_a_page_is_told_by_a_close_why_it_is_not_let_in() {
    let mut world = World::with_tokens(&Config { auth_refusal: AuthRefusal::Close, ..strict() });
    let (peer, _) = world.answered("/?userId=ana", "", 101);
    assert_eq!(world.heard(peer), ["4401"]);
    world.assert_nobody();
    assert_eq!(world.denials(Denial::Missing), 1);
    world.end();
}

#[test]
fn what_else_is_wrong_with_the_query_is_told_as_ever() {
    let mut world = World::with_tokens(&strict());
    let (peer, _) = world.answered("/?status=x", &bearer(&token_of("ana", 60)), 101);
    assert_eq!(world.heard(peer), ["1002"]);
    world.end();
}

#[test]
fn auth_may_come_as_the_first_message_and_until_then_nobody_is_there() {
    let mut world = World::with_tokens(&Config { probe_after: Duration::ZERO, ..Config::default() });
    let (peer, _) = world.answered("/?status=busy", "", 101);
    assert!(world.heard(peer).is_empty());
    world.assert_nobody();
    world.driver.pass(9_000);
    world.auth(peer, &token_of("ana", 60));
    assert_eq!(world.heard(peer), ["CONNECT", "ACK"]);
    assert_eq!((world.metrics.connections_current.get(), world.metrics.users_current.get()), (1, 1));
    assert_eq!(world.metrics.users_by_status[2].get(), 1, "as the query said");
    world.say(peer, &json!({"type": "HEARTBEAT"}));
    assert_eq!(world.heard(peer), ["HEARTBEAT_ACK"]);
    // From now on its silence is judged as everybody's, and its token's end is known.
    world.driver.pass(30_000);
    world.say(peer, &json!({"type": "HEARTBEAT"}));
    world.driver.pass(50_000);
    assert_eq!(world.heard(peer), ["HEARTBEAT_ACK"]);
    world.driver.pass(600);
    assert_eq!(world.heard(peer), ["4401"]);
    world.end();
}

#[test]
fn a_first_message_that_is_not_auth_or_not_in_time_ends_the_connection() {
    let mut world = World::with_tokens(&Config::default());
    let (late, _) = world.answered("/?userId=ana", "", 101);
    world.driver.pass(9_900);
    assert!(world.heard(late).is_empty());
    world.driver.pass(200);
    assert_eq!(world.heard(late), ["4401"]);
    for message in [json!({"type": "HEARTBEAT"}), json!({"type": "AUTH"}), json!([])] {
        let (peer, _) = world.answered("/?userId=ana", "", 101);
        world.say(peer, &message);
        assert_eq!(world.heard(peer), ["4401"], "{message}");
    }
    assert_eq!(world.denials(Denial::Late), 4);
    let (peer, _) = world.answered("/?userId=ana", "", 101);
    world.auth(peer, "a.b.c");
    assert_eq!(world.heard(peer), ["4401"]);
    let (peer, _) = world.answered("/?userId=bob", "", 101);
    world.auth(peer, &token_of("ana", 60));
    assert_eq!(world.heard(peer), ["4401"]);
    assert_eq!((world.denials(Denial::Malformed), world.denials(Denial::Subject)), (1, 1));
    world.assert_nobody();
    world.end();
}

#[test]
fn a_token_that_ends_closes_its_connection_unless_it_is_renewed_in_time() {
    let mut world = World::with_tokens(&silent_is_fine());
    let (ana, _) = world.answered("/", &bearer(&token_of("ana", 60)), 101);
    let (bob, _) = world.answered("/", &bearer(&token_of("bob", 60)), 101);
    world.driver.pass(40_000);
    world.auth(ana, &token_of("ana", 120));
    assert_eq!(world.heard(ana), ["CONNECT", "ACK"]);
    // The leeway of 30 s counts here too.
    world.driver.pass(50_500);
    assert_eq!(world.heard(bob), ["CONNECT", "4401"]);
    assert!(world.heard(ana).is_empty());
    world.driver.pass(60_000);
    assert_eq!(world.heard(ana), ["4401"]);
    assert_eq!(world.denials(Denial::Expired), 2);
    world.end();
}

#[test]
fn a_renewal_that_ends_sooner_holds_too() {
    let mut world = World::with_tokens(&strict());
    let (ana, _) = world.answered("/", &bearer(&token_of("ana", 3600)), 101);
    world.auth(ana, &token(&json!({"sub": "ana", "exp": NOW_S - 20})));
    assert_eq!(world.heard(ana), ["CONNECT", "ACK"]);
    world.driver.pass(10_100);
    assert_eq!(world.heard(ana), ["4401"]);
    world.end();
}

#[test]
fn a_renewal_that_is_not_accepted_costs_an_error_and_changes_nothing() {
    let mut world = World::with_tokens(&strict());
    let (ana, _) = world.answered("/", &bearer(&token_of("ana", 60)), 101);
    world.auth(ana, &token_of("bob", 600));
    world.auth(ana, "a.b.c");
    assert_eq!(world.heard(ana), ["CONNECT", "BAD_TOKEN", "BAD_TOKEN"]);
    assert_eq!((world.denials(Denial::Subject), world.denials(Denial::Malformed)), (1, 1));
    world.driver.pass(50_000);
    world.say(ana, &json!({"type": "HEARTBEAT"}));
    assert_eq!(world.heard(ana), ["HEARTBEAT_ACK"]);
    world.driver.pass(41_000);
    assert_eq!(world.heard(ana), ["4401"]);
    world.end();
}

#[test]
fn what_a_token_does_not_grant_is_forbidden_whether_it_is_there_or_not() {
    let mut world = World::with_tokens(&strict());
    let lobby = json!({"room": "lobby-*", "access": "count"});
    let claims = json!({"sub": "ana", "exp": NOW_S + 60, "watch": ["bob", "team-*"], "rooms": ["r1", lobby]});
    let (ana, _) = world.answered("/", &bearer(&token(&claims)), 101);
    // Somebody who is there, and may not be seen.
    world.answered("/", &bearer(&token_of("eve", 60)), 101);
    world.heard(ana);
    let count = |room: &str| json!({"room": room, "detail": "count"});
    for (kind, payload, answer) in [
        ("WATCH", json!({"users": ["bob", "team-1"], "rooms": ["r1", count("lobby-1")]}), "PRESENCE_STATE"),
        ("WATCH", json!({"users": ["bob", "eve"]}), "FORBIDDEN"),
        ("WATCH", json!({"users": ["nobody"]}), "FORBIDDEN"),
        ("WATCH", json!({"rooms": ["lobby-1"]}), "FORBIDDEN"),
        ("WATCH", json!({"rooms": [count("attic")]}), "FORBIDDEN"),
        ("WATCH", json!({}), "PRESENCE_STATE"),
        ("JOIN", json!({"room": "r1"}), "ACK"),
        ("JOIN", json!({"room": "lobby-1"}), "FORBIDDEN"),
        ("JOIN", json!({"room": "attic"}), "FORBIDDEN"),
        ("UNWATCH", json!({"users": ["eve"]}), "ACK"),
        ("LEAVE", json!({"room": "attic"}), "ACK"),
    ] {
        world.say(ana, &json!({"type": kind, "id": 1, "payload": payload}));
        assert_eq!(world.heard(ana), [answer], "{kind} {payload}");
    }
    // A newer token bounds what is asked from then on.
    world.auth(ana, &token(&json!({"sub": "ana", "exp": NOW_S + 60, "watch": []})));
    world.say(ana, &json!({"type": "WATCH", "payload": {"users": ["bob"]}}));
    world.say(ana, &json!({"type": "JOIN", "id": 1, "payload": {"room": "attic"}}));
    assert_eq!(world.heard(ana), ["ACK", "NARROWED", "FORBIDDEN", "ACK"]);
    world.end();
}

#[test]
fn what_a_newer_token_does_not_grant_is_watched_no_more_and_left() {
    let mut world = World::with_tokens(&silent_is_fine());
    let busy = json!({"type": "PRESENCE_UPDATE", "payload": {"status": "busy"}});
    let online = json!({"type": "PRESENCE_UPDATE", "payload": {"status": "online"}});
    let (bob, _) = world.answered("/", &bearer(&token_of("bob", 60)), 101);
    let (eve, _) = world.answered("/", &bearer(&token_of("eve", 60)), 101);
    let (ana, _) = world.answered("/", &bearer(&token_of("ana", 60)), 101);
    world.say(bob, &json!({"type": "WATCH", "payload": {"rooms": ["r1", "attic"]}}));
    for room in ["r1", "attic", "cellar"] {
        world.say(ana, &json!({"type": "JOIN", "payload": {"room": room}}));
        world.say(eve, &json!({"type": "JOIN", "payload": {"room": room}}));
    }
    let count = json!({"room": "cellar", "detail": "count"});
    world.say(ana, &json!({"type": "WATCH", "payload": {"users": ["bob", "eve"], "rooms": ["r1", "attic", count]}}));
    world.driver.pass(2_000);
    for peer in [ana, bob, eve] {
        world.heard(peer);
    }
    // As much as before is no reason to say anything; `watching` and `in` count as granted.
    let claims = json!({"sub": "ana", "exp": NOW_S + 60, "watch": ["bob"], "watching": ["eve"], "rooms": ["*"]});
    world.auth(ana, &token(&claims));
    assert_eq!(world.heard(ana), ["ACK"]);
    let lobby = json!({"room": "*", "access": "count"});
    let claims = json!({"sub": "ana", "exp": NOW_S + 60, "watch": ["bob"], "rooms": ["r1", lobby], "in": ["cellar"]});
    world.auth(ana, &token(&claims));
    assert_eq!(world.heard(ana), ["ACK", "NARROWED"]);
    world.driver.pass(2_000);
    assert!(world.changes(ana).is_empty(), "who leaves a room is not told of it");
    assert_eq!(world.changes(bob), ["attic 1"], "r1 is granted, the cellar taken for the client");
    // In r1, which is granted, eve is seen still; alone no more.
    world.say(eve, &busy);
    world.driver.pass(2_000);
    assert_eq!(world.changes(ana), ["eve"]);
    world.say(eve, &json!({"type": "LEAVE", "payload": {"room": "r1"}}));
    world.driver.pass(2_000);
    assert_eq!(world.changes(ana), ["r1 1"]);
    world.say(eve, &online);
    world.say(eve, &json!({"type": "LEAVE", "payload": {"room": "attic"}}));
    world.driver.pass(2_000);
    assert!(world.changes(ana).is_empty(), "neither eve nor the attic");
    world.say(eve, &json!({"type": "LEAVE", "payload": {"room": "cellar"}}));
    world.say(bob, &busy);
    world.driver.pass(2_000);
    assert_eq!(world.changes(ana), ["bob", "cellar 1"]);
    // The same again changes nothing.
    world.auth(ana, &token(&claims));
    assert_eq!(world.heard(ana), ["ACK"]);
    world.end();
}

#[test]
fn a_session_is_resumed_without_the_rooms_that_its_new_token_does_not_grant() {
    let mut world = World::with_tokens(&silent_is_fine());
    let (bob, _) = world.answered("/", &bearer(&token_of("bob", 60)), 101);
    world.say(bob, &json!({"type": "WATCH", "payload": {"rooms": ["r1", "attic"]}}));
    let (first, _) = world.answered("/", &bearer(&token_of("ana", 60)), 101);
    let connect = String::from_utf8_lossy(&world.driver.peers[first].received).into_owned();
    let (_, session) = connect.split_once("\"sessionId\":\"").unwrap();
    let session = session.split('"').next().unwrap().to_owned();
    for room in ["r1", "attic"] {
        world.say(first, &json!({"type": "JOIN", "payload": {"room": room}}));
    }
    world.driver.end(first);
    world.driver.pass(2_000);
    world.heard(bob);
    let narrow = token(&json!({"sub": "ana", "exp": NOW_S + 60, "rooms": ["r1"]}));
    for (target, left) in [(format!("/?session={session}"), ["attic 0", "r1 0"]), ("/".to_owned(), ["", ""])] {
        let (again, _) = world.answered(&target, &bearer(&narrow), 101);
        world.driver.pass(2_000);
        assert_eq!(world.heard(again), ["CONNECT"]);
        assert_eq!(world.changes(bob).concat(), left[0], "at once");
        world.say(again, &json!({"type": "LEAVE", "payload": {"room": "r1"}}));
        world.driver.pass(2_000);
        assert_eq!(world.changes(bob).concat(), left[1], "when asked");
        world.driver.end(again);
    }
    world.end();
}

#[test]
fn a_token_may_watch_and_join_for_its_client_from_the_first() {
    let mut world = World::with_tokens(&Config::default());
    let claims = json!({"sub": "ana", "exp": NOW_S + 60, "watching": ["bob"], "in": ["r1"], "watch": []});
    let (bob, _) = world.answered("/", &bearer(&token_of("bob", 60)), 101);
    world.say(bob, &json!({"type": "WATCH", "payload": {"rooms": ["r1"]}}));
    world.heard(bob);
    // In the request, and in AUTH.
    let (ana, _) = world.answered("/", &bearer(&token(&claims)), 101);
    let (late, _) = world.answered("/", "", 101);
    world.auth(late, &token(&claims));
    world.driver.pass(1_000);
    assert_eq!(world.heard(ana), ["CONNECT", "PRESENCE_STATE"]);
    assert_eq!(world.heard(late), ["CONNECT", "ACK", "PRESENCE_STATE"]);
    assert_eq!(world.heard(bob), ["PRESENCE_CHANGE"], "ana is in the room");
    world.say(bob, &json!({"type": "PRESENCE_UPDATE", "payload": {"status": "busy"}}));
    world.driver.pass(1_000);
    assert_eq!(world.heard(ana), ["PRESENCE_CHANGE"]);
    // What the token took for the client it need not grant for the asking.
    world.say(ana, &json!({"type": "WATCH", "payload": {"users": ["bob"]}}));
    world.say(ana, &json!({"type": "HEARTBEAT"}));
    assert_eq!(world.heard(ana), ["FORBIDDEN", "HEARTBEAT_ACK"]);
    world.end();
}

#[test]
fn where_tokens_are_not_required_a_client_is_whom_it_says_and_a_bad_token_is_still_refused() {
    let mut world = World::with_tokens(&Config { auth_required: Some(false), ..Config::default() });
    let (peer, _) = world.answered("/?userId=ana", "", 101);
    assert_eq!(world.heard(peer), ["CONNECT"]);
    world.answered("/?userId=ana", &bearer("a.b.c"), 401);
    // It may say later who it is, and then its token's end counts.
    world.auth(peer, &token_of("bob", 60));
    world.auth(peer, &token_of("ana", 10));
    assert_eq!(world.heard(peer), ["BAD_TOKEN", "ACK"]);
    world.driver.pass(41_000);
    assert_eq!(world.heard(peer), ["4401"]);
    world.end();
}

#[test]
fn who_leaves_the_token_out_sees_no_more_than_who_has_one_that_grants_nothing() {
    let config = Config { auth_required: Some(false), default_reach: DefaultReach::None, ..Config::default() };
    let mut world = World::with_tokens(&config);
    let (peer, _) = world.answered("/?userId=eve", "", 101);
    world.say(peer, &json!({"type": "WATCH", "payload": {"users": ["ana"]}}));
    assert_eq!(world.heard(peer), ["CONNECT", "FORBIDDEN"]);
    world.end();
}

#[test]
fn whoever_takes_no_answers_is_held_to_its_time_all_the_same() {
    let mut world = World::with_tokens(&silent_is_fine());
    let (ana, _) = world.answered("/", &bearer(&token_of("ana", 10)), 101);
    let mut world_of_nobody =
        World::with_tokens(&Config { auth_message_timeout: Duration::from_secs(10), ..silent_is_fine() });
    let (nobody, _) = world_of_nobody.answered("/?userId=ana", "", 101);
    for (world, peer) in [(&mut world, ana), (&mut world_of_nobody, nobody)] {
        world.driver.make_room(peer, 0);
        let ping = [&[0x89, 0xfd, 0, 0, 0, 0][..], &[b'x'; 125]].concat();
        for _ in 0..600 {
            world.driver.send(peer, &ping);
        }
        for _ in 0..45 {
            world.driver.pass(1_000);
            world.driver.make_room(peer, 1);
        }
        assert!(world.driver.peers[peer].closed);
        assert_eq!(world.metrics.connections_current.get(), 0);
    }
    world.end();
    world_of_nobody.end();
}

#[test]
fn without_authentication_nothing_is_kept_and_auth_is_unknown() {
    let config = Config::default();
    let mut world = World::new(&config, Authority::open(&config).unwrap());
    let (peer, _) = world.answered("/?userId=ana&token=x", &bearer("a.b.c"), 101);
    world.auth(peer, "a.b.c");
    assert_eq!(world.heard(peer), ["CONNECT", "TYPE_UNKNOWN"]);
    assert_eq!(world.driver.core.application_mut().gate_mut().held_bytes(), 0);
    world.end();
}

#[test]
fn pages_and_hosts_that_are_not_named_are_refused_before_anything_else() {
    let config = Config {
        allowed_origins: vec!["https://app.example".to_owned()],
        allowed_hosts: vec!["chat.example".to_owned()],
        ..strict()
    };
    let mut world = World::with_tokens(&config);
    let token = bearer(&token_of("ana", 60));
    for origin in ["", "Origin: https://app.example\r\n"] {
        world.answered("/", &format!("{token}{origin}"), 101);
    }
    for origin in [
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        "Origin:\r\n",
        "Origin: https://app.example\r\nOrigin: https://app.example\r\n",
    ] {
        world.answered("/", &format!("{token}{origin}"), 403);
    }
    assert_eq!(world.metrics.refusals[Refusal::Origin.cell()].get(), 4);
    world.end();
    let mut other = World::with_tokens(&Config { allowed_hosts: vec!["other.example".to_owned()], ..strict() });
    other.answered("/", &token, 421);
    assert_eq!(other.metrics.refusals[Refusal::Host.cell()].get(), 1);
    other.end();
}

#[test]
fn metrics_are_not_served_on_this_port_when_they_are_not_public() {
    let mut world = World::with_tokens(&Config { public_metrics: false, ..strict() });
    for (request, body) in [("GET /metrics", true), ("HEAD /metrics?a", false)] {
        let peer = world.driver.connect(None);
        world.driver.send(peer, format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!(world.answer(peer, 404).contains("There is nothing here"), body);
    }
    let peer = world.driver.connect(None);
    world.driver.send(peer, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(world.driver.handed_over.len(), 1);
    world.end();
}

#[test]
fn metrics_are_read_from_a_page_only_by_a_name_of_this_host() {
    let mut world = World::with_tokens(&Config { allowed_hosts: vec!["chat.example".to_owned()], ..strict() });
    let peer = world.driver.connect(None);
    world.driver.send(peer, b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert!(world.answer(peer, 421).contains("This is not the host"));
    assert_eq!(world.driver.handed_over.len(), 0);
    for request in [
        "GET /metrics HTTP/1.1\r\nHost: chat.example",
        "GET /metrics HTTP/1.1\r\nHost: 10.0.0.1:3000",
        "GET /metrics HTTP/1.0",
        "GET /health/ready HTTP/1.1\r\nHost: evil.example",
    ] {
        let peer = world.driver.connect(None);
        world.driver.send(peer, format!("{request}\r\n\r\n").as_bytes());
        assert_eq!(std::mem::take(&mut world.driver.handed_over).len(), 1, "{request}");
    }
    world.end();
}

#[test]
fn one_token_of_a_connection_is_verified_in_a_turn() {
    let mut world = World::with_tokens(&strict());
    let (peer, _) = world.answered("/", &bearer(&token_of("ana", 100)), 101);
    let connection = world.driver.peers[peer].connection;
    let auth = RECEIVED_TYPES.iter().position(|name| *name == "AUTH").unwrap();
    let mut bytes = Vec::new();
    for token in ["wrong", &token_of("ana", 100), "wrong"] {
        bytes.extend(frame(&json!({"type": "AUTH", "id": 7, "payload": {"token": token}})));
    }
    world.driver.step(Input::Received { connection, bytes: &mut bytes });
    for verified in 1..=3 {
        assert_eq!(world.metrics.received[auth].get(), verified);
        world.driver.step(Input::Resume(connection));
    }
    assert_eq!(world.heard(peer), ["CONNECT", "BAD_TOKEN", "ACK", "BAD_TOKEN"]);
    world.end();
}

/// A shard that asks the operator's service, and what answers the next question that waits.
fn with_service(config: &Config) -> (World, impl Fn(Result<&str, Denial>) + use<>) {
    let (service, answer) = Service::rehearsed(config);
    let authority = Authority { service: Some(service), required: true, ..Authority::open(config).unwrap() };
    (World::new(config, authority), answer)
}

#[test]
fn the_service_is_waited_for_and_what_came_meanwhile_is_not_lost() {
    let (mut world, answer) = with_service(&Config::default());
    let ana = world.ask("/?userId=ana", "Cookie: a\r\n");
    world.say(ana, &json!({"type": "HEARTBEAT"}));
    world.say(ana, &json!({"type": "HEARTBEAT"}));
    assert!(world.driver.peers[ana].received.is_empty());
    world.assert_nobody();
    answer(Ok("{}"));
    world.driver.jump(1);
    world.answer(ana, 101);
    assert_eq!(world.heard(ana), ["CONNECT", "HEARTBEAT_ACK", "HEARTBEAT_ACK"]);
    assert_eq!(world.metrics.auth_requests[0].get(), 1);
    assert_eq!(world.metrics.auth_request_ns.sum(), 5_000_000);
    world.end();
}

#[test]
fn frames_that_came_with_the_request_wait_with_it() {
    let (mut world, answer) = with_service(&Config::default());
    let peer = world.driver.connect(None);
    let head = "GET /?userId=bob HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let heartbeat = [&[0x81, 0x80 | 20, 0, 0, 0, 0][..], br#"{"type":"HEARTBEAT"}"#].concat();
    world.driver.send(peer, &[head.as_bytes(), &heartbeat[..]].concat());
    answer(Ok("{}"));
    world.driver.jump(1);
    world.answer(peer, 101);
    assert_eq!(world.heard(peer), ["CONNECT", "HEARTBEAT_ACK"]);
    world.end();
}

#[test]
fn what_the_service_says_no_to_is_refused() {
    let (mut world, answer) = with_service(&Config::default());
    let denied = world.ask("/?userId=ana", "");
    let other = world.ask("/?userId=ana", "");
    let unknown = world.ask("/?userId=ana", "");
    answer(Err(Denial::Denied));
    answer(Ok(r#"{"sub":"bob"}"#));
    answer(Err(Denial::Unavailable));
    world.driver.jump(1);
    assert!(world.answer(denied, 401).ends_with("You are not let in.\n"));
    assert!(world.answer(other, 401).ends_with("The token is for another userId.\n"));
    assert!(world.answer(unknown, 503).contains("\r\nRetry-After: "));
    world.assert_nobody();
    world.end();
}

#[test]
fn a_claim_of_the_service_names_the_user_and_ends_the_connection() {
    let (mut world, answer) = with_service(&Config::default());
    let ana = world.ask("/", "");
    answer(Ok(&format!(r#"{{"sub":"ana","exp":{}}}"#, NOW_S + 5)));
    world.driver.jump(1);
    world.answer(ana, 101);
    assert_eq!(world.heard(ana), ["CONNECT"]);
    world.driver.pass(36_000);
    assert_eq!(world.heard(ana), ["4401"]);
    world.end();
}

#[test]
fn an_answer_that_comes_too_late_is_for_nobody() {
    let (mut world, answer) = with_service(&Config::default());
    let gone = world.ask("/?userId=ana", "");
    world.driver.end(gone);
    let slow = world.ask("/?userId=ana", "");
    world.driver.pass(10_100);
    world.answer(slow, 408);
    let next = world.ask("/?userId=ana", "");
    answer(Ok("{}"));
    answer(Ok("{}"));
    world.driver.jump(1);
    assert!(world.driver.peers[next].received.is_empty(), "its own answer has not come");
    answer(Err(Denial::Denied));
    world.driver.jump(1);
    world.answer(next, 401);
    world.assert_nobody();
    world.end();
}

#[test]
fn a_stop_does_not_wait_for_the_service() {
    let (mut world, _questions) = with_service(&Config::default());
    let ana = world.ask("/?userId=ana", "");
    world.driver.step(Input::Drain);
    while world.driver.core.drain(world.driver.now, 16) {}
    world.driver.act();
    world.answer(ana, 503);
    world.end();
}

#[test]
fn a_full_queue_is_a_failure_at_once() {
    let (mut world, _questions) = with_service(&Config { auth_queue: 1, ..Config::default() });
    let waits = world.ask("/?userId=ana", "");
    world.answered("/?userId=bob", "", 503);
    assert!(world.driver.peers[waits].received.is_empty());
    assert_eq!(world.metrics.auth_requests[4].get(), 1);
    world.end();
}

#[test]
fn tokens_are_shown_by_nothing() {
    let token = token_of("ana", 60);
    let text = json!({"type": "AUTH", "payload": {"token": token}}).to_string();
    assert!(!format!("{:?}", Parser::new().parse(&mut text.into_bytes())).contains(&token));
}
