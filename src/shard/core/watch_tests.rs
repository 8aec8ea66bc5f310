//! What watchers are told, as they see it, on one shard.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::Input;
use super::tests::{Heard, World};
use crate::config::Config;

/// What a client was told since this was last asked: type and payload of each message.
fn told(world: &mut World, peer: usize) -> Vec<(String, Value)> {
    let heard = world.heard(peer);
    let text = |heard: &Heard| match heard {
        Heard::Text(text) => Some(serde_json::from_str::<Value>(text).unwrap()),
        _ => None,
    };
    let part = |message: Value| (message["type"].as_str().unwrap().to_owned(), message["payload"].clone());
    heard.iter().filter_map(text).map(part).collect()
}

/// The userIds and statuses of a list of presences.
fn statuses(list: &Value) -> Vec<(String, String)> {
    let words = |presence: &Value| (word(&presence["userId"]), word(&presence["status"]));
    list.as_array().map(|list| list.iter().map(words).collect()).unwrap_or_default()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn pair(user: &str, status: &str) -> (String, String) {
    (user.to_owned(), status.to_owned())
}

fn watch(world: &mut World, peer: usize, payload: &Value) -> Value {
    world.say(peer, &json!({ "type": "WATCH", "payload": payload }).to_string());
    let told = told(world, peer);
    assert_eq!((told.len(), told[0].0.as_str()), (1, "PRESENCE_STATE"), "{told:?}");
    told[0].1.clone()
}

#[test]
fn a_watcher_gets_the_state_then_changes_gathered_then_nothing_more() {
    let mut world = World::new(&Config::default());
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    let state = watch(&mut world, bob, &json!({ "users": ["ana", "eve"], "rooms": [] }));
    let mut users = statuses(&state["users"]);
    users.sort();
    assert_eq!(users, [pair("ana", "online"), pair("eve", "offline")]);
    assert_eq!((&state["rooms"], &state["complete"]), (&json!([]), &json!(true)));
    assert!(state["cursor"].as_str().is_some_and(|cursor| cursor.len() <= 64));

    world.say(ana, r#"{"type":"PRESENCE_UPDATE","payload":{"status":"busy"}}"#);
    world.driver.pass(30);
    world.say(ana, r#"{"type":"PRESENCE_UPDATE","payload":{"status":"away","metadata":{"at":"desk"}}}"#);
    world.driver.pass(19);
    assert_eq!(told(&mut world, bob), []);
    world.driver.pass(1);
    let changes = told(&mut world, bob);
    assert_eq!((changes.len(), changes[0].0.as_str()), (1, "PRESENCE_CHANGE"));
    assert_eq!(statuses(&changes[0].1["users"]), [pair("ana", "away")]);
    assert_eq!(changes[0].1["users"][0]["metadata"], json!({ "at": "desk" }));
    // What changes nothing is told to nobody.
    world.say(ana, r#"{"type":"PRESENCE_UPDATE","payload":{"status":"away"}}"#);
    world.driver.pass(1_000);
    assert_eq!(told(&mut world, bob), []);

    world.say(bob, r#"{"type":"UNWATCH","id":7,"payload":{"users":["ana","nobody"]}}"#);
    assert_eq!(told(&mut world, bob)[0].0, "ACK");
    world.say(ana, r#"{"type":"PRESENCE_UPDATE","payload":{"status":"busy"}}"#);
    world.driver.pass(1_000);
    assert_eq!(told(&mut world, bob), []);
    // Who asked for nothing is told nothing.
    assert_eq!(told(&mut world, ana), []);
}

#[test]
fn rooms_tell_who_comes_goes_and_changes() {
    let mut world = World::new(&Config::default());
    let (ana, bob, eve) = (world.client("userId=ana"), world.client("userId=bob"), world.client("userId=eve"));
    world.say(ana, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    let state = watch(&mut world, bob, &json!({ "rooms": ["lobby", { "room": "lobby2", "detail": "count" }] }));
    assert_eq!(state["rooms"][0]["room"], "lobby");
    assert_eq!(
        (&state["rooms"][0]["count"], statuses(&state["rooms"][0]["members"])),
        (&json!(1), vec![pair("ana", "online")])
    );
    assert_eq!(state["rooms"][1], json!({ "room": "lobby2", "count": 0 }));

    world.say(eve, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    world.say(eve, r#"{"type":"JOIN","payload":{"room":"lobby2"}}"#);
    world.say(ana, r#"{"type":"PRESENCE_UPDATE","payload":{"status":"busy"}}"#);
    world.driver.pass(50);
    let change = &told(&mut world, bob)[0].1;
    assert_eq!(statuses(&change["users"]), [pair("ana", "busy")]);
    assert_eq!(statuses(&change["rooms"][0]["joined"]), [pair("eve", "online")]);
    assert_eq!(
        (&change["rooms"][0]["count"], &change["rooms"][1]),
        (&json!(2), &json!({ "room": "lobby2", "count": 1 }))
    );

    // Leaves and comes back before the watcher is told: not a leave, not a join.
    world.say(ana, r#"{"type":"LEAVE","payload":{"room":"lobby"}}"#);
    world.say(ana, r#"{"type":"PRESENCE_UPDATE","payload":{"status":"away"}}"#);
    world.say(ana, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    world.say(eve, r#"{"type":"DISCONNECT"}"#);
    world.driver.pass(50);
    let change = &told(&mut world, bob)[0].1;
    assert_eq!(statuses(&change["users"]), [pair("ana", "away")]);
    assert_eq!(change["rooms"], json!([{ "room": "lobby", "count": 1, "left": ["eve"] }]));
    world.driver.pass(2_000);
    assert_eq!(told(&mut world, bob)[0].1["rooms"], json!([{ "room": "lobby2", "count": 0 }]));
}

#[test]
fn a_cursor_brings_what_changed_since_and_one_that_is_not_known_brings_all() {
    let mut world = World::new(&Config::default());
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    world.say(ana, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    world.driver.pass(2_000);
    let names = json!({ "users": ["ana", "eve"], "rooms": ["lobby"] });
    let state = watch(&mut world, bob, &names);
    world.driver.end(bob);
    world.driver.pass(2_000);
    let mut since = names.clone();
    since["since"] = state["cursor"].clone();
    let bob = world.client("userId=bob");
    let nothing = watch(&mut world, bob, &since);
    assert_eq!((&nothing["users"], &nothing["rooms"], &nothing["complete"]), (&json!([]), &json!([]), &json!(false)));

    let eve = world.client("userId=eve");
    world.say(eve, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    world.say(ana, r#"{"type":"LEAVE","payload":{"room":"lobby"}}"#);
    let changed = watch(&mut world, bob, &since);
    assert_eq!(statuses(&changed["users"]), [pair("eve", "online")]);
    assert_eq!(statuses(&changed["rooms"][0]["members"]), [pair("eve", "online")]);
    assert_eq!((&changed["rooms"][0]["left"], &changed["complete"]), (&json!(["ana"]), &json!(false)));
    for unknown in ["", "zzzzzzzzzzzzzzzz", "not one of ours"] {
        since["since"] = json!(unknown);
        let all = watch(&mut world, bob, &since);
        assert_eq!((all["users"].as_array().unwrap().len(), &all["complete"]), (2, &json!(true)), "{unknown}");
    }
}

#[test]
fn who_is_inactive_is_told_what_changed_when_active_again() {
    let mut world = World::new(&Config::default());
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    world.say(bob, r#"{"type":"CLIENT_STATE","id":1,"payload":{"active":false}}"#);
    assert_eq!(told(&mut world, bob)[0].0, "ACK");
    watch(&mut world, bob, &json!({ "users": ["ana"] }));
    for status in ["busy", "away", "busy"] {
        world.say(ana, &format!(r#"{{"type":"PRESENCE_UPDATE","payload":{{"status":"{status}"}}}}"#));
        world.driver.pass(1_000);
    }
    assert_eq!(told(&mut world, bob), []);
    world.say(bob, r#"{"type":"CLIENT_STATE","payload":{"active":true}}"#);
    let changes = told(&mut world, bob);
    assert_eq!((changes.len(), statuses(&changes[0].1["users"])), (1, vec![pair("ana", "busy")]));
    world.say(bob, r#"{"type":"CLIENT_STATE","payload":{"active":false}}"#);
    world.say(bob, r#"{"type":"CLIENT_STATE","payload":{"active":true}}"#);
    assert_eq!(told(&mut world, bob), []);
}

#[test]
fn a_slow_watcher_is_told_the_newest_state_and_answered_all_the_while() {
    let mut world = World::new(&Config::default());
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    watch(&mut world, bob, &json!({ "users": ["ana"] }));
    world.driver.peers[bob].room = 10;
    for round in 0..50 {
        let status = if round % 2 == 0 { "busy" } else { "away" };
        let metadata = "x".repeat(4_000);
        world.say(ana, &format!(
            r#"{{"type":"PRESENCE_UPDATE","payload":{{"status":"{status}","metadata":{{"n":{round},"x":"{metadata}"}}}}}}"#
        ));
        world.driver.pass(100);
        world.say(bob, r#"{"type":"HEARTBEAT"}"#);
    }
    assert!(world.metrics.queued_bytes.get() < 10_000);
    world.driver.make_room(bob, usize::MAX);
    world.driver.pass(100);
    let told = told(&mut world, bob);
    let acks = told.iter().filter(|(kind, _)| kind == "HEARTBEAT_ACK").count();
    let changes: Vec<_> = told.iter().filter(|(kind, _)| kind == "PRESENCE_CHANGE").collect();
    assert_eq!((acks, changes.len()), (50, 2));
    assert_eq!(changes[1].1["users"][0]["metadata"]["n"], json!(49));
}

#[test]
fn limits_refuse_a_message_whole() {
    let mut world = World::new(&Config { watched_users_max: 3, rooms_max: 2, ..Config::default() });
    let ana = world.client("userId=ana");
    watch(&mut world, ana, &json!({ "users": ["a", "b", "a"], "rooms": ["r"] }));
    for (payload, code) in [
        (json!({ "users": ["b", "c", "d"] }), "TOO_MANY_USERS"),
        (json!({ "users": ["c"], "rooms": ["s", "t"] }), "TOO_MANY_ROOMS"),
    ] {
        world.say(ana, &json!({ "type": "WATCH", "id": 1, "payload": payload }).to_string());
        let told = told(&mut world, ana);
        assert_eq!((told[0].0.as_str(), &told[0].1["code"]), ("ERROR", &json!(code)));
    }
    let state = watch(&mut world, ana, &json!({ "users": ["b", "c"], "rooms": ["r", "s"] }));
    assert_eq!(state["users"].as_array().unwrap().len(), 2);
    for (room, kind) in [("r", "ACK"), ("s", "ACK"), ("r", "ACK"), ("t", "ERROR")] {
        world.say(ana, &json!({ "type": "JOIN", "id": room, "payload": { "room": room } }).to_string());
        assert_eq!(told(&mut world, ana)[0].0, kind, "{room}");
    }
}

#[test]
fn a_state_that_is_too_large_for_one_message_comes_in_several_and_ends_with_the_cursor() {
    let mut world = World::new(&Config::default());
    let names: Vec<String> = (0..300).map(|number| format!("user-{number:03}")).collect();
    for name in &names {
        let peer = world.client(&format!("userId={name}"));
        let metadata = format!(r#"{{"x":"{}"}}"#, "y".repeat(900));
        world
            .say(peer, &format!(r#"{{"type":"PRESENCE_UPDATE","payload":{{"status":"busy","metadata":{metadata}}}}}"#));
        world.say(peer, r#"{"type":"JOIN","payload":{"room":"hall"}}"#);
    }
    let bob = world.client("userId=bob");
    world.say(bob, &json!({ "type": "WATCH", "payload": { "users": names, "rooms": ["hall"] } }).to_string());
    let told = told(&mut world, bob);
    assert!(
        told.len() > 8
            && told.iter().all(|(kind, payload)| {
                kind == "PRESENCE_STATE" && payload.to_string().len() < 65_536 && payload["complete"] == json!(true)
            })
    );
    let cursors = told.iter().filter(|(_, payload)| payload.get("cursor").is_some()).count();
    assert!(cursors == 1 && told.last().unwrap().1["cursor"].is_string());
    let users: usize = told.iter().map(|(_, payload)| payload["users"].as_array().unwrap().len()).sum();
    let rooms = told.iter().flat_map(|(_, payload)| payload["rooms"].as_array().unwrap().clone());
    let members: usize = rooms.map(|room| room["members"].as_array().unwrap().len()).sum();
    assert_eq!((users, members), (300, 300));
}

#[test]
fn a_room_that_grows_too_large_names_nobody_until_it_is_small_again() {
    let mut world = World::new(&Config { room_detail_limit: 10, ..Config::default() });
    let bob = world.client("userId=bob");
    let peers: Vec<usize> = (0..12).map(|number| world.client(&format!("userId=u{number:02}"))).collect();
    watch(&mut world, bob, &json!({ "rooms": ["hall"] }));
    for &peer in &peers[..10] {
        world.say(peer, r#"{"type":"JOIN","payload":{"room":"hall"}}"#);
    }
    world.driver.pass(50);
    assert_eq!(told(&mut world, bob)[0].1["rooms"][0]["joined"].as_array().unwrap().len(), 10);
    world.say(peers[10], r#"{"type":"JOIN","payload":{"room":"hall"}}"#);
    world.say(peers[11], r#"{"type":"JOIN","payload":{"room":"hall"}}"#);
    world.driver.pass(3_000);
    let changes = told(&mut world, bob);
    let rooms: Vec<_> = changes.iter().map(|(_, payload)| &payload["rooms"]).collect();
    let expected =
        [json!([{ "room": "hall", "count": 11, "truncated": true }]), json!([{ "room": "hall", "count": 12 }])];
    assert!(rooms.into_iter().eq(&expected), "{changes:?}");
    let eve = world.client("userId=eve");
    let state = watch(&mut world, eve, &json!({ "rooms": ["hall"] }));
    assert_eq!(state["rooms"][0]["members"].as_array().unwrap().len(), 10);
    assert_eq!((&state["rooms"][0]["count"], &state["rooms"][0]["truncated"]), (&json!(12), &json!(true)));
    for &peer in &peers[..4] {
        world.say(peer, r#"{"type":"LEAVE","payload":{"room":"hall"}}"#);
    }
    world.driver.pass(3_000);
    let state = told(&mut world, bob).into_iter().find(|(kind, _)| kind == "PRESENCE_STATE").unwrap().1;
    assert_eq!(state["rooms"][0]["members"].as_array().unwrap().len(), 8);
    assert_eq!((&state["rooms"][0].get("truncated"), &state["complete"]), (&None, &json!(true)));
}

#[test]
fn a_connection_that_resumes_closes_the_one_before_it_and_is_told_so() {
    let mut world = World::new(&Config::default());
    let bob = world.client("userId=bob");
    watch(&mut world, bob, &json!({ "users": ["ana"] }));
    let ana = world.driver.connect(None);
    world.driver.send(ana, super::tests::upgrade("userId=ana&status=away").as_bytes());
    let session = |world: &World, peer: usize| {
        let received = String::from_utf8_lossy(&world.driver.peers[peer].received).into_owned();
        let connect: Value = serde_json::from_str(&received[received.find('{').unwrap()..]).unwrap();
        (word(&connect["payload"]["sessionId"]), connect["payload"]["resumed"].clone())
    };
    let (first, resumed) = session(&world, ana);
    assert_eq!(resumed, json!(false));
    world.driver.pass(100);
    assert_eq!(told(&mut world, bob).len(), 1);
    let again = world.driver.connect(None);
    world.driver.send(again, super::tests::upgrade(&format!("userId=ana&session={first}")).as_bytes());
    let (second, resumed) = session(&world, again);
    assert!(resumed == json!(true) && second != first);
    let close = world.driver.peers[ana].received.windows(2).any(|bytes| bytes == 4409_u16.to_be_bytes());
    assert!(close && world.driver.peers[ana].told_end);
    let stale = world.driver.connect(None);
    world.driver.send(stale, super::tests::upgrade(&format!("userId=ana&session={first}")).as_bytes());
    assert_eq!(session(&world, stale).1, json!(false));
    world.driver.end(stale);
    world.driver.pass(100);
    // A stale session is a fresh start, which is a change.
    assert_eq!(told(&mut world, bob).len(), 1);
}

#[test]
fn a_cursor_does_not_claim_what_its_watcher_was_not_told() {
    let mut world = World::new(&Config::default());
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    world.say(ana, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    watch(&mut world, bob, &json!({ "users": ["ana"] }));
    watch(&mut world, bob, &json!({ "rooms": ["lobby"] }));
    for what in
        [r#"{"type":"PRESENCE_UPDATE","payload":{"status":"busy"}}"#, r#"{"type":"LEAVE","payload":{"room":"lobby"}}"#]
    {
        world.driver.pass(5_000);
        let before = watch(&mut world, bob, &json!({}))["cursor"].clone();
        world.say(bob, r#"{"type":"CLIENT_STATE","payload":{"active":false}}"#);
        world.say(ana, what);
        world.driver.pass(10_000);
        assert_eq!(watch(&mut world, bob, &json!({ "users": ["eve"] }))["cursor"], before, "{what}");
        world.say(bob, r#"{"type":"CLIENT_STATE","payload":{"active":true}}"#);
        let changes = told(&mut world, bob);
        assert!(changes.len() == 1 && changes[0].1["cursor"] != before, "{changes:?}");
        assert_ne!(watch(&mut world, bob, &json!({ "users": ["eve"] }))["cursor"], before);
    }
}

#[test]
fn an_inactive_watcher_is_told_of_a_room_that_is_small_again_when_it_is_active() {
    let mut world = World::new(&Config { room_detail_limit: 10, ..Config::default() });
    let bob = world.client("userId=bob");
    let peers: Vec<usize> = (0..11).map(|number| world.client(&format!("userId=u{number:02}"))).collect();
    for &peer in &peers {
        world.say(peer, r#"{"type":"JOIN","payload":{"room":"hall"}}"#);
    }
    watch(&mut world, bob, &json!({ "rooms": ["hall"] }));
    world.driver.pass(5_000);
    let before = watch(&mut world, bob, &json!({}))["cursor"].clone();
    world.say(bob, r#"{"type":"CLIENT_STATE","payload":{"active":false}}"#);
    for &peer in &peers[..4] {
        world.say(peer, r#"{"type":"LEAVE","payload":{"room":"hall"}}"#);
    }
    world.driver.pass(5_000);
    assert_eq!(told(&mut world, bob), []);
    let asked = watch(&mut world, bob, &json!({ "users": ["u00"] }));
    assert_eq!((&asked["users"][0]["userId"], &asked["cursor"]), (&json!("u00"), &before));
    world.say(bob, r#"{"type":"CLIENT_STATE","payload":{"active":true}}"#);
    let told = told(&mut world, bob);
    assert_eq!((told.len(), told[0].0.as_str()), (1, "PRESENCE_STATE"), "{told:?}");
    assert_eq!(told[0].1["rooms"][0]["members"].as_array().unwrap().len(), 7);
}

#[test]
fn who_left_a_room_and_came_back_as_it_was_is_no_news() {
    let mut world = World::new(&Config::default());
    let (ana, bob) = (world.client("userId=ana"), world.client("userId=bob"));
    world.say(ana, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    watch(&mut world, bob, &json!({ "rooms": ["lobby"] }));
    world.say(ana, r#"{"type":"LEAVE","payload":{"room":"lobby"}}"#);
    world.say(ana, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    world.driver.pass(1_000);
    assert_eq!(told(&mut world, bob), []);
    // Which of two connections is in the room changes nothing; what the other says does.
    let other = world.client("userId=ana&status=away");
    world.driver.pass(1_000);
    assert_eq!(told(&mut world, bob), []);
    world.say(ana, r#"{"type":"DISCONNECT"}"#);
    world.say(other, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    world.driver.pass(1_000);
    let changes = told(&mut world, bob);
    assert_eq!((changes.len(), statuses(&changes[0].1["users"])), (1, vec![pair("ana", "away")]));
}

#[test]
fn all_watchers_of_a_room_in_which_too_much_happened_are_told_it_anew() {
    let mut world = World::new(&Config::default());
    let (ana, eve) = (world.client("userId=ana"), world.client("userId=eve"));
    world.say(eve, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    let watchers: Vec<usize> = (0..3).map(|number| world.client(&format!("userId=w{number}"))).collect();
    for &watcher in &watchers {
        watch(&mut world, watcher, &json!({ "users": ["eve"], "rooms": ["lobby"] }));
    }
    for _ in 0..2_100 {
        world.say(ana, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
        world.say(ana, r#"{"type":"LEAVE","payload":{"room":"lobby"}}"#);
    }
    world.say(ana, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    world.say(eve, r#"{"type":"PRESENCE_UPDATE","payload":{"status":"busy"}}"#);
    world.driver.pass(1_000);
    for watcher in watchers {
        let told = told(&mut world, watcher);
        let states: Vec<_> = told.iter().filter(|(kind, _)| kind == "PRESENCE_STATE").collect();
        assert_eq!(states.len(), 1, "{told:?}");
        let mut members = statuses(&states[0].1["rooms"][0]["members"]);
        members.sort();
        assert_eq!(members, [pair("ana", "online"), pair("eve", "busy")]);
    }
}

#[test]
fn what_waits_of_too_much_news_names_nobody_who_is_watched_no_more() {
    let mut world = World::new(&Config::default());
    let names: Vec<String> = (0..60).map(|number| format!("user-{number:03}")).collect();
    let peers: Vec<usize> = names.iter().map(|name| world.client(&format!("userId={name}"))).collect();
    world.say(peers[1], r#"{"type":"JOIN","payload":{"room":"hall"}}"#);
    let bob = world.client("userId=bob");
    watch(&mut world, bob, &json!({ "users": names, "rooms": ["hall"] }));
    for &peer in &peers {
        let metadata = format!(r#"{{"x":"{}"}}"#, "y".repeat(4_000));
        world
            .say(peer, &format!(r#"{{"type":"PRESENCE_UPDATE","payload":{{"status":"busy","metadata":{metadata}}}}}"#));
    }
    world.driver.peers[bob].room = 10;
    world.driver.pass(1_000);
    let queued_bytes = world.metrics.queued_bytes.get();
    assert!(queued_bytes < 65_536, "{queued_bytes} bytes were made for a socket that took none");
    world.say(bob, &json!({ "type": "UNWATCH", "payload": { "users": names } }).to_string());
    world.driver.make_room(bob, usize::MAX);
    world.driver.pass(1_000);
    let told = told(&mut world, bob);
    let users: Vec<_> = told[1..].iter().flat_map(|(_, payload)| statuses(&payload["users"])).collect();
    assert!(users.is_empty() || users == [pair("user-001", "busy")], "{users:?}");
}

#[test]
fn a_room_too_large_to_name_brings_who_joined_since() {
    let mut world = World::new(&Config { room_detail_limit: 10, ..Config::default() });
    let ana = world.client("userId=ana");
    for number in 0..12 {
        let peer = world.client(&format!("userId=u{number:02}"));
        world.say(peer, r#"{"type":"JOIN","payload":{"room":"hall"}}"#);
    }
    let bob = world.client("userId=bob");
    world.driver.pass(5_000);
    let cursor = watch(&mut world, bob, &json!({ "rooms": ["hall"] }))["cursor"].clone();
    world.driver.pass(5_000);
    world.say(ana, r#"{"type":"JOIN","payload":{"room":"hall"}}"#);
    let state = watch(&mut world, bob, &json!({ "rooms": ["hall"], "since": cursor }));
    assert_eq!(state["complete"], json!(false));
    assert_eq!((&state["rooms"][0]["count"], &state["rooms"][0]["truncated"]), (&json!(13), &json!(true)));
    assert_eq!(statuses(&state["rooms"][0]["members"]), [pair("ana", "online")]);
}

#[test]
fn a_count_that_was_not_told_yet_is_told_whatever_the_cursor_says() {
    let mut world = World::new(&Config::default());
    let (ana, bob, eve) = (world.client("userId=ana"), world.client("userId=bob"), world.client("userId=eve"));
    let counted = json!({ "rooms": [{ "room": "lobby", "detail": "count" }] });
    watch(&mut world, bob, &counted);
    for peer in [ana, eve] {
        world.say(peer, r#"{"type":"JOIN","payload":{"room":"lobby"}}"#);
    }
    // The clock is set, and so all that was told before seems long ago.
    world.driver.now.unix_ms += 3_600_000;
    let state = watch(&mut world, bob, &counted);
    assert_eq!(state["rooms"], json!([{ "room": "lobby", "count": 1 }]));
    world.driver.end(bob);
    world.driver.pass(2_000);
    let bob = world.client("userId=bob");
    let since = json!({ "rooms": counted["rooms"], "since": state["cursor"] });
    let state = watch(&mut world, bob, &since);
    assert_eq!((&state["rooms"], &state["complete"]), (&json!([{ "room": "lobby", "count": 2 }]), &json!(false)));
}

#[test]
fn a_close_that_is_taken_in_part_is_taken_whole_before_the_end_though_what_came_before_it_was() {
    let mut world = World::new(&Config::default());
    let bob = world.driver.connect(None);
    world.driver.send(bob, super::tests::upgrade("userId=bob").as_bytes());
    let received = String::from_utf8_lossy(&world.driver.peers[bob].received).into_owned();
    let connect: Value = serde_json::from_str(&received[received.find('{').unwrap()..]).unwrap();
    world.driver.peers[bob].received.clear();
    // Two states in two steps, and with the second the close of a connection that another has replaced.
    for _ in 0..2 {
        let mut bytes = super::tests::frame(0x81, br#"{"type":"WATCH","payload":{"users":["ana"]}}"#);
        let connection = world.driver.peers[bob].connection;
        world.driver.step(Input::Received { connection, bytes: &mut bytes });
    }
    world.driver.core.deliver(world.driver.now, 16);
    world.driver.act();
    let state_bytes = world.driver.peers[bob].received.len();
    world.driver.peers[bob].room = state_bytes + 10;
    let again = world.driver.connect(None);
    let query = format!("userId=bob&session={}", word(&connect["payload"]["sessionId"]));
    world.driver.send(again, super::tests::upgrade(&query).as_bytes());
    assert!(world.driver.peers[bob].received.len() == 2 * state_bytes + 10 && !world.driver.peers[bob].told_end);
    world.driver.make_room(bob, usize::MAX);
    assert!(matches!(world.heard(bob).last(), Some(Heard::Close(4409, _))) && world.driver.peers[bob].told_end);
}
