//! What one shard's watchers are told where partitions tell it out of order.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::protocol::message::WatchedRoom;
use crate::protocol::status::PresenceStatus;

const AT: Moment = Moment { elapsed_ms: 1_000, unix_ms: 1_000_000 };

/// Shard 0 of two, and one watcher on it.
struct World {
    table: WatchTable,
    hasher: NameHasher,
    watcher: u32,
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
        };
        Self { table: WatchTable::new(0, terms), hasher: NameHasher::default(), watcher: NONE }
    }

    fn user(&self, name: &str) -> UserRef {
        let id = UserId::parse(name).unwrap();
        UserRef { hash: self.hasher.user(&id), id }
    }

    fn told(&self, name: &str, version: u64, status: PresenceStatus) -> Arc<Told> {
        Arc::new(Told::new(self.user(name), Version(version), status, None, Some(version), None))
    }

    /// A connection of ana's watches a user and a room.
    fn watch(&mut self, user: &str, room: &str) {
        let room = WatchedRoom { room: RoomName::parse(room).unwrap(), detail: Detail::Full };
        let request = Watch { users: vec![self.user(user).id], rooms: vec![room], since: None };
        let (connection, ana) = (ConnectionKey { shard: 0, index: 0, generation: 0 }, self.user("ana").hash);
        let (hasher, posts) = (&self.hasher, &mut Posts::default());
        self.table.watch(AT, connection, ana, &mut self.watcher, &request, None, false, hasher, posts).unwrap();
    }

    fn user_told(&mut self, told: Arc<Told>, own: Option<Arc<Told>>, answers: u32) {
        self.table.user_told(AT, UserNews { told, own, answers }, &mut Posts::default());
    }

    /// The room's partition answers, with one member.
    fn room_told(&mut self, room: &str, member: Arc<Told>) {
        let version = member.version;
        let state = RoomState {
            room: RoomRef::new(RoomName::parse(room).unwrap(), &self.hasher),
            version,
            count: 1,
            members: vec![(member, version)],
            is_truncated: false,
            left: Vec::new(),
            since: None,
            forgot: false,
            answers: Some(Depth::Full),
        };
        self.table.room_state(AT, state, &mut Posts::default());
    }

    fn deliver(&mut self) -> String {
        let mut out = Vec::new();
        self.table.deliver(AT, self.watcher, &Timestamp::from_unix_ms(AT.unix_ms), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

#[test]
fn who_is_seen_again_in_a_room_is_invisible_to_its_own_connections_no_more() {
    let mut world = World::new();
    world.watch("ana", "lobby");
    world.user_told(
        world.told("ana", 2, PresenceStatus::Offline),
        Some(world.told("ana", 3, PresenceStatus::Invisible)),
        1,
    );
    world.room_told("lobby", world.told("ana", 4, PresenceStatus::Online));
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
