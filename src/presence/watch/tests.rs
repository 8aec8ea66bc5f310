//! What one shard's watchers are told where partitions tell it out of order.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::protocol::message::WatchedRoom;
use crate::protocol::status::PresenceStatus;

/// Shard 0 of two, and one watcher on it.
struct World {
    table: WatchTable,
    hasher: NameHasher,
    watcher: u32,
    at: Moment,
}

impl World {
    fn new() -> Self {
        let terms = WatchTerms {
            partitions: 2,
            change_interval_ms: 50,
            cursor_slack_ms: 1_000,
            history_ms: 300_000,
            users_max: 1_000,
            rooms_max: 100,
            process: 7,
            began: Version::default(),
            bounds: Bounds::default(),
        };
        let at = Moment { elapsed_ms: 1_000, unix_ms: 1_000_000 };
        Self { table: WatchTable::new(0, terms), hasher: NameHasher::default(), watcher: NONE, at }
    }

    fn user(&self, name: &str) -> UserRef {
        let id = UserId::parse(name).unwrap();
        UserRef { hash: self.hasher.user(&id), id }
    }

    fn told(&self, name: &str, version: u64, status: PresenceStatus) -> Arc<Told> {
        Arc::new(Told::new(self.user(name), Version(version), status, None, Some(version), None))
    }

    fn room(&self, name: &str) -> RoomRef {
        RoomRef::new(RoomName::parse(name).unwrap(), &self.hasher)
    }

    /// A connection of ana's watches users and a room.
    fn watch(&mut self, users: &[&str], room: &str, detail: Detail) {
        let room = WatchedRoom { room: RoomName::parse(room).unwrap(), detail };
        let users = users.iter().map(|name| self.user(name).id).collect();
        self.ask(&Watch { users, rooms: vec![room], since: None });
    }

    fn ask(&mut self, request: &Watch) {
        let (connection, ana) = (ConnectionKey { shard: 0, index: 0, generation: 0 }, self.user("ana").hash);
        let (at, hasher, posts) = (self.at, &self.hasher, &mut Posts::default());
        self.table.watch(at, connection, ana, &mut self.watcher, request, None, false, hasher, posts).unwrap();
    }

    fn user_told(&mut self, told: Arc<Told>, own: Option<Arc<Told>>, answers: u32) {
        self.table.user_told(self.at, UserNews { told, own, answers }, &mut Posts::default());
    }

    /// The connection watches a room no more.
    fn unwatch(&mut self, room: &str) {
        let request = Unwatch { users: Vec::new(), rooms: vec![RoomName::parse(room).unwrap()] };
        self.table.unwatch(self.watcher, &request, &self.hasher, &mut Posts::default());
    }

    /// The room's partition answers, or begins anew.
    fn room_told(&mut self, room: &str, answers: Option<Depth>, members: &[Arc<Told>]) {
        let state = RoomState {
            room: self.room(room),
            version: Version(9),
            count: members.len(),
            members: members.iter().map(|member| (Arc::clone(member), member.version)).collect(),
            is_truncated: false,
            left: Vec::new(),
            since: None,
            forgot: false,
            answers,
        };
        self.table.room_state(self.at, state, &mut Posts::default());
    }

    /// The room's partition tells that so many are there.
    fn counted(&mut self, room: &str, count: usize) {
        self.happened(room, count, Vec::new());
    }

    /// The room's partition tells what happened, and how many are there since.
    fn happened(&mut self, room: &str, count: usize, events: Vec<RoomEvent>) {
        let (room, version) = (self.room(room), Version(10));
        let news = RoomNews { room, version, count, is_truncated: false, events };
        self.table.room_news(self.at, &news, &mut Posts::default());
    }

    fn pass(&mut self, ms: u64) {
        self.at.elapsed_ms += ms;
        self.at.unix_ms += ms;
        self.table.tick(self.at);
    }

    fn deliver(&mut self) -> String {
        let mut out = Vec::new();
        self.table.begin_step();
        self.table.deliver(self.at, self.watcher, &Timestamp::from_unix_ms(self.at.unix_ms), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Whatever the watcher is told until nothing is due.
    fn deliver_what_is_due(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.table.next_due(self.at).map(|_| self.deliver()))
            .filter(|said| !said.is_empty())
            .collect()
    }
}

#[test]
fn who_is_seen_again_in_a_room_is_invisible_to_its_own_connections_no_more() {
    let mut world = World::new();
    world.watch(&["ana"], "lobby", Detail::Full);
    world.user_told(
        world.told("ana", 2, PresenceStatus::Offline),
        Some(world.told("ana", 3, PresenceStatus::Invisible)),
        1,
    );
    world.room_told("lobby", Some(Depth::Full), &[world.told("ana", 4, PresenceStatus::Online)]);
    let state = world.deliver();
    assert!(state.matches(r#""status":"online""#).count() == 2 && !state.contains("invisible"), "{state}");
    // What her partition told before comes late, and changes nothing.
    world.user_told(
        world.told("ana", 2, PresenceStatus::Offline),
        Some(world.told("ana", 3, PresenceStatus::Invisible)),
        0,
    );
    assert_eq!(world.deliver(), "");
}

#[test]
fn a_count_is_told_a_second_after_the_last_one_of_its_room_whatever_waits_for_others() {
    let mut world = World::new();
    for room in ["first", "second"] {
        world.watch(&[], room, Detail::Count);
        world.room_told(room, Some(Depth::Count), &[]);
        world.deliver();
        world.counted(room, 1);
        assert!(world.deliver().contains(r#""count":1"#));
        world.pass(300);
    }
    world.counted("second", 2);
    world.counted("first", 2);
    assert_eq!(world.deliver(), "");
    world.pass(400);
    let change = world.deliver();
    assert!(change.contains(r#""room":"first","count":2"#) && !change.contains("second"), "{change}");
    world.pass(300);
    assert!(world.deliver().contains(r#""room":"second","count":2"#));
}

#[test]
fn what_was_told_of_a_room_that_was_let_go_of_is_not_taken_for_the_answer_to_one_who_watches_it_anew() {
    let mut world = World::new();
    world.watch(&[], "lobby", Detail::Full);
    world.room_told("lobby", Some(Depth::Full), &[]);
    world.deliver();
    world.unwatch("lobby");
    world.watch(&[], "lobby", Detail::Full);
    let [bob, eve] = ["bob", "eve"].map(|name| world.told(name, 2, PresenceStatus::Online));
    world.room_told("lobby", None, std::slice::from_ref(&bob));
    world.happened("lobby", 2, vec![RoomEvent::Joined(Arc::clone(&eve), Version(3))]);
    assert_eq!(world.deliver(), "");
    // The partition hears that the room is let go of, then bob leaves it, then it hears of the new question.
    world.room_told("lobby", Some(Depth::Full), &[eve]);
    let state = world.deliver();
    assert!(state.contains(r#""count":1,"members":[{"userId":"eve""#) && !state.contains("bob"), "{state}");
}

#[test]
fn who_is_as_before_is_told_anew_where_it_was_another_meanwhile() {
    let mut world = World::new();
    let never_seen = |world: &World, version| {
        Arc::new(Told::new(world.user("bob"), Version(version), PresenceStatus::Offline, None, None, None))
    };
    world.watch(&["bob"], "lobby", Detail::Full);
    world.room_told("lobby", Some(Depth::Full), &[]);
    world.user_told(never_seen(&world, 1), None, 1);
    assert!(world.deliver().contains(r#""users":[{"userId":"bob","status":"offline"}]"#));

    // That others were forgotten moves the version of whom nothing is known for those who ask; what bob's own may see
    // moves none.
    world.user_told(never_seen(&world, 2), None, 1);
    let own = world.told("bob", 3, PresenceStatus::Invisible);
    world.user_told(never_seen(&world, 2), Some(own), 0);
    world.pass(50);
    assert_eq!(world.deliver(), "");

    world.user_told(never_seen(&world, 5), None, 0);
    world.pass(50);
    assert!(world.deliver().contains(r#""users":[{"userId":"bob","status":"offline"}]"#));
}

#[test]
fn who_left_and_came_back_while_an_inbox_was_full_is_told_to_who_saw_it_leave_elsewhere() {
    let mut world = World::new();
    let bob = world.told("bob", 2, PresenceStatus::Online);
    world.watch(&[], "lobby", Detail::Full);
    world.room_told("lobby", Some(Depth::Full), std::slice::from_ref(&bob));
    assert!(world.deliver().contains("bob"));
    // That he left was folded away; nobody here is told anything.
    let began = Version::at_ms(world.at.unix_ms);
    world.happened("lobby", 1, vec![RoomEvent::Joined(Arc::clone(&bob), Version(began.0 + 1))]);
    world.pass(50);
    assert_eq!(world.deliver(), "");

    let room = WatchedRoom { room: RoomName::parse("lobby").unwrap(), detail: Detail::Full };
    let since = Some(Since::Readable(Cursor { process: 7, version: began }));
    world.ask(&Watch { users: Vec::new(), rooms: vec![room], since });
    world.room_told("lobby", Some(Depth::Full), &[]);
    let state = world.deliver();
    assert!(state.contains(r#""members":[{"userId":"bob""#), "{state}");
}

#[test]
fn a_member_who_is_as_before_is_told_anew_where_it_was_another_meanwhile() {
    let mut world = World::new();
    let online = |world: &World, version| {
        Arc::new(Told::new(world.user("bob"), Version(version), PresenceStatus::Online, None, Some(2), None))
    };
    world.watch(&[], "lobby", Detail::Full);
    let bob = online(&world, 2);
    world.room_told("lobby", Some(Depth::Full), &[bob]);
    assert!(world.deliver().contains("bob"));
    // What he was in between was folded away.
    let bob = online(&world, 4);
    world.happened("lobby", 1, vec![RoomEvent::Changed(bob)]);
    world.pass(50);
    assert!(world.deliver().contains(r#""users":[{"userId":"bob","status":"online""#));
}

#[test]
fn what_a_users_own_connection_asks_holds_up_nobody_else() {
    let mut world = World::new();
    world.watch(&["bob"], "lobby", Detail::Count);
    world.user_told(world.told("bob", 1, PresenceStatus::Offline), None, 1);
    world.room_told("lobby", Some(Depth::Count), &[]);
    world.deliver();

    let (bob, connection) = (world.user("bob"), ConnectionKey { shard: 0, index: 1, generation: 0 });
    let request = Watch { users: vec![bob.id], rooms: Vec::new(), since: None };
    let (mut own, posts) = (NONE, &mut Posts::default());
    world.table.watch(world.at, connection, bob.hash, &mut own, &request, None, false, &world.hasher, posts).unwrap();
    world.watch(&["bob"], "lobby", Detail::Count);
    assert!(world.deliver().contains(r#""userId":"bob""#));

    world.watcher = own;
    assert_eq!(world.deliver(), "");
    let invisible = world.told("bob", 2, PresenceStatus::Invisible);
    world.user_told(world.told("bob", 1, PresenceStatus::Offline), Some(invisible), 1);
    assert!(world.deliver().contains(r#""status":"invisible""#));
}

/// More members than one message has room for.
fn crowd(world: &World) -> Vec<Arc<Told>> {
    (0..600).map(|member| world.told(&format!("{member:0>120}"), 2, PresenceStatus::Online)).collect()
}

#[test]
fn a_room_whose_state_is_told_in_part_and_then_watched_for_its_count_alone_ends_there() {
    let mut world = World::new();
    world.watch(&[], "lobby", Detail::Full);
    world.room_told("lobby", Some(Depth::Full), &crowd(&world));
    let first = world.deliver();
    assert!(first.contains(r#""members":"#) && !first.contains(r#""cursor""#));
    world.watch(&[], "lobby", Detail::Count);
    let rest = world.deliver();
    assert!(rest.contains(r#""rooms":[],"cursor""#), "{rest}");
    let counted = world.deliver();
    assert!(counted.contains(r#""rooms":[{"room":"lobby","count":600}],"cursor""#), "{counted}");
    assert_eq!(world.deliver(), "");
}

#[test]
fn a_state_in_several_messages_counts_whom_it_names_whoever_leaves_meanwhile() {
    let mut world = World::new();
    let members = crowd(&world);
    world.watch(&[], "lobby", Detail::Full);
    world.room_told("lobby", Some(Depth::Full), &members);
    let named = |state: &str| state.matches(r#""userId""#).count();
    let mut state = world.deliver();
    assert!((1..600).contains(&named(&state)));
    world.happened("lobby", 599, vec![RoomEvent::Left(Arc::clone(&members[0]))]);
    while !state.contains(r#""cursor""#) {
        let piece = world.deliver();
        assert!(piece.contains(r#""count":600"#), "{piece}");
        state.push_str(&piece);
    }
    assert_eq!(named(&state), 600);
    world.pass(50);
    let change = world.deliver();
    assert!(change.contains(r#""count":599,"left":["000"#), "{change}");
}

#[test]
fn who_comes_back_for_a_count_is_not_told_everything_where_another_is_told_the_names() {
    let mut world = World::new();
    let watcher = world.watcher;
    world.watch(&[], "lobby", Detail::Full);
    let bob = world.told("bob", 2, PresenceStatus::Online);
    world.room_told("lobby", Some(Depth::Full), std::slice::from_ref(&bob));
    world.deliver();
    world.happened("lobby", 0, vec![RoomEvent::Left(bob)]);

    world.watcher = watcher;
    let room = WatchedRoom { room: RoomName::parse("lobby").unwrap(), detail: Detail::Count };
    let since = Some(Since::Readable(Cursor { process: 7, version: Version::at_ms(world.at.unix_ms) }));
    world.ask(&Watch { users: Vec::new(), rooms: vec![room], since });
    let state = world.deliver();
    assert!(state.contains(r#""complete":false"#) && !state.contains("bob"), "{state}");
}

/// The members of a crowd, watched by name, who have been told of and have all changed since.
fn changed_crowd(world: &mut World) -> Vec<String> {
    let names: Vec<String> = crowd(world).iter().map(|told| told.user.id.as_str().to_owned()).collect();
    let users: Vec<&str> = names.iter().map(String::as_str).collect();
    world.watch(&users, "lobby", Detail::Count);
    world.room_told("lobby", Some(Depth::Count), &[]);
    for member in crowd(world) {
        world.user_told(member, None, 1);
    }
    assert!(world.deliver_what_is_due().last().is_some_and(|state| state.contains(r#""complete":true"#)));
    for name in &names {
        world.user_told(world.told(name, 3, PresenceStatus::Busy), None, 0);
    }
    names
}

#[test]
fn who_changes_between_two_messages_of_a_state_is_told_once() {
    let mut world = World::new();
    let names = changed_crowd(&mut world);
    let users: Vec<&str> = names.iter().map(String::as_str).collect();
    world.watch(&users, "lobby", Detail::Count);
    let first = world.deliver();
    let name = names.iter().find(|&name| first.contains(name)).unwrap();
    world.user_told(world.told(name, 4, PresenceStatus::Away), None, 0);
    world.pass(50);
    let rest = world.deliver_what_is_due();
    assert_eq!(rest.iter().map(|said| said.matches(r#""status":"away""#).count()).sum::<usize>(), 1, "{rest:?}");
}

#[test]
fn a_state_that_was_asked_for_in_the_midst_of_a_change_follows_it() {
    let mut world = World::new();
    changed_crowd(&mut world);
    world.pass(50);
    assert!(world.table.next_due(world.at).is_some());
    let first = world.deliver();
    assert!(first.contains(r#""type":"PRESENCE_CHANGE""#), "{first}");
    world.watch(&[], "lobby", Detail::Count);
    let rest = world.deliver_what_is_due();
    let (state, changes) = rest.split_last().unwrap();
    assert!(state.contains(r#""type":"PRESENCE_STATE""#), "{state}");
    assert!(!changes.is_empty() && changes.iter().all(|said| said.contains("PRESENCE_CHANGE")), "{changes:?}");
}

#[test]
fn one_who_is_not_looked_at_in_the_midst_of_a_change_is_told_the_newest_of_the_rest_later() {
    let mut world = World::new();
    let names = changed_crowd(&mut world);
    world.pass(50);
    let first = world.deliver();
    let (connection, ana) = (ConnectionKey { shard: 0, index: 0, generation: 0 }, world.user("ana").hash);
    world.table.set_active(connection, ana, &mut world.watcher, false);
    let name = names.iter().find(|&name| !first.contains(name)).unwrap();
    world.user_told(world.told(name, 4, PresenceStatus::Away), None, 0);
    assert_eq!(world.deliver_what_is_due(), Vec::<String>::new());
    world.table.set_active(connection, ana, &mut world.watcher, true);
    let told = first + &world.deliver_what_is_due().concat();
    assert_eq!(told.matches(r#""userId""#).count(), names.len());
    assert_eq!(told.matches(r#""status":"away""#).count(), 1);
}

#[test]
fn a_state_that_was_asked_for_is_told_though_one_that_nobody_looks_at_waits_before_it() {
    let mut world = World::new();
    world.watch(&[], "lobby", Detail::Full);
    world.room_told("lobby", Some(Depth::Full), &[]);
    world.deliver();
    let (connection, ana) = (ConnectionKey { shard: 0, index: 0, generation: 0 }, world.user("ana").hash);
    world.table.set_active(connection, ana, &mut world.watcher, false);
    world.room_told("lobby", None, &[]);
    for is_truncated in [true, false] {
        let news = RoomNews { room: world.room("lobby"), version: Version(10), count: 0, is_truncated, events: vec![] };
        world.table.room_news(world.at, &news, &mut Posts::default());
    }
    assert_eq!(world.deliver_what_is_due(), Vec::<String>::new());

    world.ask(&Watch { users: vec![world.user("bob").id], rooms: Vec::new(), since: None });
    world.user_told(world.told("bob", 1, PresenceStatus::Online), None, 1);
    let told = world.deliver_what_is_due().concat();
    assert!(told.contains("bob") && told.contains(r#""complete":true"#), "{told}");
}

#[test]
fn what_is_kept_for_those_who_were_not_told_is_counted_until_they_are() {
    let mut world = World::new();
    let members = crowd(&world);
    world.watch(&[], "lobby", Detail::Full);
    world.room_told("lobby", Some(Depth::Full), &[]);
    assert!(world.deliver().contains(r#""members":[]"#));
    let at_rest = world.table.held_bytes();

    let joined = members.iter().map(|told| RoomEvent::Joined(Arc::clone(told), told.version)).collect();
    world.happened("lobby", members.len(), joined);
    let with_log = world.table.held_bytes();
    let left = members.iter().map(|told| RoomEvent::Left(Arc::clone(told))).collect();
    world.happened("lobby", 0, left);
    let users = members.len() * (Slab::<FollowedUser>::ENTRY_BYTES + tables::INDEX_ENTRY_BYTES);
    let told: usize = members.iter().map(|told| told.held_bytes()).sum();
    assert!(with_log > at_rest + users + told + members.len() * 48, "{with_log}, {at_rest}");
    assert!(members.iter().all(|told| Arc::strong_count(told) == 1), "a log keeps no presences");
    world.pass(50);
    assert_eq!(world.deliver_what_is_due(), Vec::<String>::new());

    world.room_told("lobby", None, &members);
    let told = world.table.held_bytes();
    world.deliver();
    assert!(world.table.held_bytes() > told + members.len() / 3 * 8, "the rest of a state");
    while !world.deliver().is_empty() {}
    world.unwatch("lobby");
    world.table.ended(world.watcher, &mut Posts::default());
    assert_eq!((world.table.held_bytes(), world.table.is_empty()), (0, true));
}

#[test]
fn what_rooms_were_still_to_tell_of_is_told_when_somebody_looks_again() {
    let mut world = World::new();
    world.watch(&[], "hall", Detail::Full);
    world.room_told("hall", Some(Depth::Full), &[]);
    assert!(world.deliver().contains("hall"));
    changed_crowd(&mut world);
    let bob = world.told("bob", 2, PresenceStatus::Online);
    world.happened("hall", 1, vec![RoomEvent::Joined(bob, Version(2))]);
    world.counted("lobby", 5);
    world.pass(50);
    let first = world.deliver();
    assert!(!first.contains("bob") && !first.contains("lobby"), "{first}");
    let (connection, ana) = (ConnectionKey { shard: 0, index: 0, generation: 0 }, world.user("ana").hash);
    world.table.set_active(connection, ana, &mut world.watcher, false);
    assert_eq!(world.deliver_what_is_due(), Vec::<String>::new());
    world.table.set_active(connection, ana, &mut world.watcher, true);
    let told = world.deliver_what_is_due().concat();
    assert_eq!(told.matches(r#"{"room":"lobby","count":5}"#).count(), 1, "{told}");
    assert_eq!(told.matches(r#"{"room":"hall","count":1,"members":[{"userId":"bob""#).count(), 1, "{told}");
}
