//! The users of one partition: their connections, and the status that these make together.
//!
//! Every step costs the same however many connections a user has: a user keeps one list of connections a status,
//! the newest first, so that the head of the first list that is not empty decides.

use super::change::{ConnectionKey, PresenceEvent, UserHash};
use super::index::Index;
use crate::protocol::message::{Metadata, MetadataUpdate};
use crate::protocol::status::Status;
use crate::protocol::user_id::UserId;
use crate::slab::{NONE, Slab};

/// Statuses in the order in which they decide: invisible if any connection says invisible, else busy, else online,
/// else away.
const PRECEDENCE: [Status; 4] = [Status::Invisible, Status::Busy, Status::Online, Status::Away];

/// The users whose hash falls to this partition.
#[derive(Debug, Default)]
pub struct Partition {
    users: Slab<User>,
    places: Slab<Place>,
    users_by_hash: Index,
    places_by_connection: Index,
    users_by_status: [usize; PRECEDENCE.len()],
    /// Bytes on the heap that records point to: metadata and long userIds.
    pointed_bytes: usize,
}

/// What an index takes for each entry, on the average of its doublings.
const INDEX_ENTRY_BYTES: usize = 8;

#[derive(Debug)]
struct User {
    id: UserId,
    hash: UserHash,
    /// The newest place of each status, in the order of [`PRECEDENCE`].
    newest: [u32; PRECEDENCE.len()],
    /// What these lists make of the user.
    status: Status,
}

/// What one connection says of its user.
#[derive(Debug)]
struct Place {
    metadata: Option<Box<Metadata>>,
    connection: ConnectionKey,
    user: u32,
    /// The neighbours in the user's list of this status.
    newer: u32,
    older: u32,
    status: Status,
}

const _: () = assert!(Slab::<User>::ENTRY_BYTES <= 72);
const _: () = assert!(Slab::<Place>::ENTRY_BYTES <= 40);

/// What others may be told of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence<'a> {
    /// The status that the user's connections make together.
    pub status: Status,
    /// The metadata of the connection that decided the status.
    pub metadata: Option<&'a Metadata>,
}

impl Partition {
    /// Takes in what happened to a connection.
    ///
    /// An update or an end of a connection that is not known is without effect.
    pub fn handle(&mut self, event: PresenceEvent) {
        match event {
            PresenceEvent::Opened { connection, user_id, hash, status } => {
                self.opened(connection, user_id, hash, status);
            }
            PresenceEvent::Updated { connection, status, metadata } => self.updated(connection, status, metadata),
            PresenceEvent::Ended { connection } => self.ended(connection),
        }
    }

    fn opened(&mut self, connection: ConnectionKey, user_id: UserId, hash: UserHash, status: Status) {
        let known = self.users_by_hash.find(hash.0, |user| self.users[user].id == user_id);
        let user = known.unwrap_or_else(|| {
            self.pointed_bytes += user_id.heap_bytes();
            let user = self.users.insert(User { id: user_id, hash, newest: [NONE; PRECEDENCE.len()], status });
            self.users_by_status[rank(status)] += 1;
            self.users_by_hash.insert(hash.0, user, |other| self.users[other].hash.0);
            user
        });
        let place = Place { metadata: None, connection, user, newer: NONE, older: NONE, status };
        let place = self.places.insert(place);
        self.places_by_connection.insert(key_hash(connection), place, |other| key_hash(self.places[other].connection));
        self.link(place);
        self.decide(user);
    }

    fn updated(&mut self, connection: ConnectionKey, status: Status, metadata: MetadataUpdate) {
        let Some(place) = self.place_of(connection) else { return };
        let user = self.places[place].user;
        self.unlink(place);
        self.places[place].status = status;
        match metadata {
            MetadataUpdate::Keep => {}
            MetadataUpdate::Clear => self.set_metadata(place, None),
            MetadataUpdate::Replace(metadata) => self.set_metadata(place, Some(Box::new(metadata))),
        }
        self.link(place);
        self.decide(user);
    }

    fn ended(&mut self, connection: ConnectionKey) {
        let Some(place) = self.place_of(connection) else { return };
        let user = self.places[place].user;
        self.unlink(place);
        self.places_by_connection.remove(key_hash(connection), place);
        self.set_metadata(place, None);
        self.places.remove(place);
        if !self.decide(user) {
            self.users_by_hash.remove(self.users[user].hash.0, user);
            if let Some(user) = self.users.remove(user) {
                self.users_by_status[rank(user.status)] -= 1;
                self.pointed_bytes -= user.id.heap_bytes();
            }
        }
    }

    fn set_metadata(&mut self, place: u32, metadata: Option<Box<Metadata>>) {
        let bytes = |metadata: &Metadata| size_of::<Metadata>() + metadata.as_str().len();
        self.pointed_bytes += metadata.as_deref().map_or(0, bytes);
        let before = std::mem::replace(&mut self.places[place].metadata, metadata);
        self.pointed_bytes -= before.as_deref().map_or(0, bytes);
    }

    /// Bytes that users and their places hold.
    pub fn held_bytes(&self) -> usize {
        self.users.len() * (Slab::<User>::ENTRY_BYTES + INDEX_ENTRY_BYTES)
            + self.places.len() * (Slab::<Place>::ENTRY_BYTES + INDEX_ENTRY_BYTES)
            + self.pointed_bytes
    }

    /// How many users have a connection.
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// How many of them have `status`.
    pub fn users_with(&self, status: Status) -> usize {
        self.users_by_status[rank(status)]
    }

    /// What the user is, if any connection of the user's is open.
    pub fn presence(&self, user_id: &UserId, hash: UserHash) -> Option<Presence<'_>> {
        let user = self.users_by_hash.find(hash.0, |user| self.users[user].id == *user_id)?;
        let place = &self.places[self.users[user].newest[rank(self.users[user].status)]];
        Some(Presence { status: place.status, metadata: place.metadata.as_deref() })
    }

    fn place_of(&self, connection: ConnectionKey) -> Option<u32> {
        self.places_by_connection.find(key_hash(connection), |place| self.places[place].connection == connection)
    }

    /// Makes the user what its lists say; false when they are empty, and the user is to go.
    fn decide(&mut self, user: u32) -> bool {
        let user = &mut self.users[user];
        let Some(decided) = user.newest.iter().position(|&place| place != NONE) else { return false };
        self.users_by_status[rank(user.status)] -= 1;
        self.users_by_status[decided] += 1;
        user.status = PRECEDENCE[decided];
        true
    }

    fn link(&mut self, place: u32) {
        let (user, rank) = (self.places[place].user, rank(self.places[place].status));
        let older = std::mem::replace(&mut self.users[user].newest[rank], place);
        self.places[place].newer = NONE;
        self.places[place].older = older;
        if older != NONE {
            self.places[older].newer = place;
        }
    }

    fn unlink(&mut self, place: u32) {
        let Place { user, newer, older, status, .. } = self.places[place];
        if newer == NONE {
            self.users[user].newest[rank(status)] = older;
        } else {
            self.places[newer].older = older;
        }
        if older != NONE {
            self.places[older].newer = newer;
        }
    }
}

fn rank(status: Status) -> usize {
    match status {
        Status::Invisible => 0,
        Status::Busy => 1,
        Status::Online => 2,
        Status::Away => 3,
    }
}

/// Spreads the small integers of a key over 64 bits (Knuth's multiplicative hashing). No peer chooses a key.
fn key_hash(connection: ConnectionKey) -> u64 {
    let ConnectionKey { shard, index, generation } = connection;
    let mixed = (u64::from(index) << 32 | u64::from(generation)) ^ u64::from(shard).rotate_left(24);
    let product = u128::from(mixed).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::change::UserHasher;
    use super::*;

    /// What the rules say, by the slowest way: every connection with the time of its last word.
    #[derive(Default)]
    struct Model {
        connections: BTreeMap<ConnectionKey, (usize, Status, Option<usize>, usize)>,
        clock: usize,
    }

    impl Model {
        fn presence(&self, user: usize) -> Option<(Status, Option<usize>)> {
            let of_user = || self.connections.values().filter(move |(owner, ..)| *owner == user);
            PRECEDENCE.iter().find_map(|wanted| {
                let newest = of_user().filter(|(_, status, ..)| status == wanted).max_by_key(|(.., set_at)| *set_at)?;
                Some((newest.1, newest.2))
            })
        }
    }

    fn user(number: usize) -> UserId {
        UserId::parse(&format!("user-{number}")).unwrap()
    }

    fn metadata(number: usize) -> Metadata {
        let mut text =
            format!(r#"{{"type":"PRESENCE_UPDATE","payload":{{"status":"away","metadata":{{"n":{number}}}}}}}"#)
                .into_bytes();
        let mut parser = crate::protocol::message::Parser::new();
        match parser.parse(&mut text).body {
            Ok(crate::protocol::message::ClientMessage::PresenceUpdate {
                metadata: MetadataUpdate::Replace(metadata),
                ..
            }) => metadata,
            other => panic!("{other:?}"),
        }
    }

    fn statuses() -> impl Strategy<Value = Status> {
        prop::sample::select(PRECEDENCE.to_vec())
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open(u32, usize, Status),
        Update(u32, Status, u8),
        End(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0_u32..12, 0_usize..4, statuses()).prop_map(|(key, user, status)| Step::Open(key, user, status)),
            (0_u32..12, statuses(), 0_u8..3).prop_map(|(key, status, metadata)| Step::Update(key, status, metadata)),
            (0_u32..12).prop_map(Step::End),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn a_user_is_what_the_newest_connection_of_the_highest_status_says(steps in steps()) {
            let (mut partition, mut model, hasher) = (Partition::default(), Model::default(), UserHasher::default());
            for step in steps {
                model.clock += 1;
                let key = |index| ConnectionKey { shard: index % 2, index, generation: 1 };
                match step {
                    Step::Open(index, owner, status) if !model.connections.contains_key(&key(index)) => {
                        model.connections.insert(key(index), (owner, status, None, model.clock));
                        let (user_id, connection) = (user(owner), key(index));
                        let hash = hasher.hash(&user_id);
                        partition.handle(PresenceEvent::Opened { connection, user_id, hash, status });
                    }
                    Step::Open(..) => {}
                    Step::Update(index, status, change) => {
                        let number = model.clock;
                        if let Some(entry) = model.connections.get_mut(&key(index)) {
                            let kept = match change { 0 => entry.2, 1 => None, _ => Some(number) };
                            *entry = (entry.0, status, kept, number);
                        }
                        let metadata = match change {
                            0 => MetadataUpdate::Keep,
                            1 => MetadataUpdate::Clear,
                            _ => MetadataUpdate::Replace(metadata(number)),
                        };
                        partition.handle(PresenceEvent::Updated { connection: key(index), status, metadata });
                    }
                    Step::End(index) => {
                        model.connections.remove(&key(index));
                        partition.handle(PresenceEvent::Ended { connection: key(index) });
                    }
                }
                for owner in 0..4 {
                    let id = user(owner);
                    let seen = partition.presence(&id, hasher.hash(&id));
                    let seen = seen.map(|seen| (seen.status, seen.metadata.map(|metadata| metadata.as_str().to_owned())));
                    let expected = model.presence(owner);
                    let expected = expected.map(|(status, number)| (status, number.map(|n| format!(r#"{{"n":{n}}}"#))));
                    prop_assert_eq!(seen, expected);
                }
                for status in PRECEDENCE {
                    let expected = (0..4).filter(|&owner| model.presence(owner).is_some_and(|(is, _)| is == status));
                    prop_assert_eq!(partition.users_with(status), expected.count());
                }
            }
            let left: Vec<_> = model.connections.keys().copied().collect();
            for connection in left {
                partition.handle(PresenceEvent::Ended { connection });
            }
            prop_assert_eq!((partition.users(), partition.held_bytes()), (0, 0));
            prop_assert!(partition.users.is_empty() && partition.places.is_empty());
            prop_assert_eq!((partition.users_by_hash.len(), partition.places_by_connection.len()), (0, 0));
        }
    }

    #[test]
    fn an_event_of_a_connection_that_is_not_known_changes_nothing() {
        let mut partition = Partition::default();
        let connection = ConnectionKey { shard: 0, index: 0, generation: 0 };
        partition.handle(PresenceEvent::Ended { connection });
        partition.handle(PresenceEvent::Updated { connection, status: Status::Away, metadata: MetadataUpdate::Clear });
        assert_eq!(partition.users(), 0);
    }
}
