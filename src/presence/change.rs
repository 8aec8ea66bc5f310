//! The words between layers: what shards and partitions tell each other.
//!
//! A user lives in the partition of the user's hash, a room in that of its own. A connection's shard tells the user's
//! partition what happened to the connection; the partition tells the shards that follow the user what others may
//! see of it, and the partitions of the user's rooms who is in them; these tell the shards that follow the rooms.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, RandomState};
use std::sync::Arc;

use crate::protocol::address::AddressKey;
use crate::protocol::cursor::Version;
use crate::protocol::message::{Metadata, MetadataUpdate, PresenceFields, write_presence};
use crate::protocol::room_name::RoomName;
use crate::protocol::status::{PresenceStatus, Status};
use crate::protocol::user_id::UserId;

/// What time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the process began to serve, the same on every shard, never backwards: for deadlines.
    pub elapsed_ms: u64,
    /// Milliseconds since the Unix epoch, as the wall clock has it: for what people read.
    pub unix_ms: u64,
}

/// One connection among those of all shards. Never tells a later connection of the same slot for an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionKey {
    /// The shard that accepted it.
    pub shard: u32,
    /// Its slot there.
    pub index: u32,
    /// Which of the slot's owners it is.
    pub generation: u32,
}

/// What names a session among those of all partitions: unforgeable as long as its text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey(pub u64);

/// The keyed hash of a name: the same on every shard of this process, unknown outside, gone with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameHash(pub u64);

impl NameHash {
    /// The partition of `partitions` in which what is named so lives.
    ///
    /// Sixteen bits from the middle decide: a partition's own tables go by the lowest and the highest, which must
    /// not be the same for all that it holds.
    pub fn partition(self, partitions: usize) -> usize {
        let middle = (self.0 >> 20) as u16;
        (usize::from(middle) * partitions) >> 16
    }
}

/// Makes [`NameHash`]es. Clones make the same ones.
///
/// SipHash with a random key, so that nobody can choose names that meet in one bucket or one partition.
#[derive(Clone, Debug, Default)]
pub struct NameHasher(HashKey);

#[derive(Clone, Debug)]
enum HashKey {
    Random(RandomState),
    Known(u64),
}

impl Default for HashKey {
    fn default() -> Self {
        Self::Random(RandomState::new())
    }
}

impl NameHasher {
    /// A hasher whose hashes follow from `seed`, for tests that must be repeatable.
    #[doc(hidden)]
    pub fn rehearsed(seed: u64) -> Self {
        Self(HashKey::Known(seed))
    }

    /// The hash of `user_id`.
    pub fn user(&self, user_id: &UserId) -> NameHash {
        self.hash(user_id.as_str())
    }

    /// The hash of an address.
    pub fn address(&self, address: AddressKey) -> NameHash {
        self.hash(address)
    }

    /// The hash of `room`.
    pub fn room(&self, room: &RoomName) -> NameHash {
        self.hash(room.as_str())
    }

    fn hash(&self, name: impl Hash) -> NameHash {
        NameHash(match &self.0 {
            HashKey::Random(state) => state.hash_one(name),
            HashKey::Known(seed) => BuildHasherDefault::<DefaultHasher>::default().hash_one((seed, name)),
        })
    }
}

/// A user as named from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRef {
    /// The name.
    pub id: UserId,
    /// Its hash.
    pub hash: NameHash,
}

/// A room, kept once for all that refer to it.
#[derive(Clone, Debug)]
pub struct RoomRef(Arc<NamedRoom>);

#[derive(Debug)]
struct NamedRoom {
    name: RoomName,
    hash: NameHash,
}

impl RoomRef {
    /// The room called `name`.
    pub fn new(name: RoomName, hasher: &NameHasher) -> Self {
        let hash = hasher.room(&name);
        Self(Arc::new(NamedRoom { name, hash }))
    }

    /// Its name.
    pub fn name(&self) -> &RoomName {
        &self.0.name
    }

    /// The hash of its name.
    pub fn hash(&self) -> NameHash {
        self.0.hash
    }
}

impl PartialEq for RoomRef {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash && self.0.name == other.0.name
    }
}

impl Eq for RoomRef {}

/// What may be told of a user: kept once for all whom it is told to, its JSON written once.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose presence it is.
    pub user: UserRef,
    /// When it last changed. Of two of one user the larger is the newer.
    pub version: Version,
    /// How the user is.
    pub status: PresenceStatus,
    /// The presence as messages carry it: a JSON object.
    json: Box<str>,
}

impl Told {
    /// The presence of `user` as of `version`.
    pub fn new(
        user: UserRef,
        version: Version,
        status: PresenceStatus,
        metadata: Option<&Metadata>,
        since_unix_ms: Option<u64>,
        last_seen_unix_ms: Option<u64>,
    ) -> Self {
        let mut json = Vec::with_capacity(128);
        let user_id = user.id.as_str();
        write_presence(&mut json, &PresenceFields { user_id, status, metadata, since_unix_ms, last_seen_unix_ms });
        let json = String::from_utf8(json).unwrap_or_default().into_boxed_str();
        Self { user, version, status, json }
    }

    /// The presence as messages carry it: a JSON object.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Whether others see the user offline.
    pub fn is_offline(&self) -> bool {
        self.status == PresenceStatus::Offline
    }

    /// Bytes that it takes, itself included.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.json.len() + self.user.id.heap_bytes()
    }
}

/// A user in tables that are ordered by userId.
#[derive(Clone, Debug)]
pub struct ByUserId(pub Arc<Told>);

impl Borrow<UserId> for ByUserId {
    fn borrow(&self) -> &UserId {
        &self.0.user.id
    }
}

impl PartialEq for ByUserId {
    fn eq(&self, other: &Self) -> bool {
        self.0.user.id == other.0.user.id
    }
}

impl Eq for ByUserId {}

impl PartialOrd for ByUserId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByUserId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.user.id.cmp(&other.0.user.id)
    }
}

/// What a connection says of an earlier one when it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// Nothing: it takes the place of the user's connection that ended last and is still in its grace.
    Unnamed,
    /// It names this session, which was issued to its user; it waits for [`Post::Opened`].
    Session(SessionKey),
    /// There is none: it named no session of its user's.
    None,
}

/// Why a connection ended, as far as its user's presence cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// Its client was done.
    Asked,
    /// It has been silent for so long that nothing is left to wait for.
    Silent,
    /// Anything else: its client may come back.
    Lost,
}

/// What happened to one connection of a user, in the order in which it happened to that connection.
#[derive(Debug)]
pub struct PresenceEvent {
    /// Which connection.
    pub connection: ConnectionKey,
    /// What.
    pub what: Happening,
}

/// What happened to a connection.
#[derive(Debug)]
pub enum Happening {
    /// It was upgraded.
    Opened {
        /// Whose it is.
        user: Box<UserRef>,
        /// Its session.
        session: SessionKey,
        /// Its first status, where it says one.
        status: Option<Status>,
        /// Whose place it takes.
        predecessor: Predecessor,
        /// When it opened, in milliseconds since the process began to serve.
        opened_ms: u64,
    },
    /// It was told that it took nobody's place, because the answer was late: what it took is given up, and it has this
    /// status.
    Abandoned(Status),
    /// It said what its presence is.
    Updated {
        /// Its status from now on.
        status: Status,
        /// What becomes of its metadata.
        metadata: MetadataUpdate,
    },
    /// It is in a room.
    Joined(RoomRef),
    /// It is in a room no more.
    Left(RoomRef),
    /// It ended.
    Ended {
        /// Why.
        cause: EndCause,
        /// When a byte last came from it, in milliseconds since the Unix epoch.
        heard_unix_ms: u64,
        /// When it ended, in milliseconds since the process began to serve.
        ended_ms: u64,
    },
}

/// How much of a room is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// How many are in it.
    Count,
    /// Who is in it, too.
    Full,
}

/// What a shard asks of a room's partition.
#[derive(Clone, Debug)]
pub struct RoomQuestion {
    /// The shard.
    pub shard: u32,
    /// The room.
    pub room: RoomRef,
    /// What is told of it from now on.
    pub depth: Depth,
    /// Who has left since is wanted too.
    pub since: Option<Version>,
}

/// The answer to a [`RoomQuestion`], and what is told unasked when a room falls below its limit.
#[derive(Debug)]
pub struct RoomState {
    /// The room.
    pub room: RoomRef,
    /// When somebody last came or went.
    pub version: Version,
    /// How many are in it.
    pub count: usize,
    /// Who, in order of userId, each with the version of the joining; the first ones alone where `is_truncated`, none
    /// where counts are followed.
    pub members: Vec<(Arc<Told>, Version)>,
    /// Whether the room is too large to be told by name.
    pub is_truncated: bool,
    /// Who left since the version that was asked for and is not back.
    pub left: Vec<UserId>,
    /// The version that was asked for.
    pub since: Option<Version>,
    /// Whether what happened since then is not known any more.
    pub forgot: bool,
    /// What was asked for; none where nobody asked.
    pub answers: Option<Depth>,
}

/// What happened in a room, in order.
#[derive(Debug)]
pub struct RoomNews {
    /// The room.
    pub room: RoomRef,
    /// When somebody last came or went.
    pub version: Version,
    /// How many are in it.
    pub count: usize,
    /// Whether it is too large to be told by name, from now on.
    pub is_truncated: bool,
    /// What happened; empty where counts are followed, and of rooms that are too large.
    pub events: Vec<RoomEvent>,
}

/// One thing that happened in a room.
#[derive(Clone, Debug)]
pub enum RoomEvent {
    /// The user is in it, as of this version.
    Joined(Arc<Told>, Version),
    /// The user is in it no more.
    Left(Arc<Told>),
    /// A member's presence changed.
    Changed(Arc<Told>),
}

impl RoomEvent {
    /// Whom it is about.
    pub fn told(&self) -> &Arc<Told> {
        match self {
            Self::Joined(told, _) | Self::Left(told) | Self::Changed(told) => told,
        }
    }
}

/// Why a connection is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surplus {
    /// Its address has as many as it may.
    OfAddress,
    /// Its user has as many as it may, and those that are there stay.
    NewestOfUser,
    /// Its user has more than it may, and this one has been there for the longest.
    OldestOfUser,
}

/// What one shard, with its partition, tells another.
#[derive(Debug)]
pub enum Post {
    /// To a user's partition: what happened to a connection.
    Presence(PresenceEvent),
    /// To a user's partition: tell this shard of the user, now and whenever it changes.
    Follow {
        /// The shard.
        shard: u32,
        /// The user.
        user: UserRef,
    },
    /// To a user's partition: tell this shard of the user no more.
    Unfollow {
        /// The shard.
        shard: u32,
        /// The user.
        user: UserRef,
    },
    /// To a shard that follows a user: how the user is.
    Told(UserNews),
    /// To a connection's shard: what came of [`Predecessor::Session`].
    Opened {
        /// The connection.
        connection: ConnectionKey,
        /// Whether it took the session's place.
        resumed: bool,
    },
    /// To a connection's shard: rooms that it is in because it took another's place.
    Rooms {
        /// The connection.
        connection: ConnectionKey,
        /// The rooms.
        rooms: Vec<RoomRef>,
    },
    /// To a connection's shard: another connection took its place.
    Replaced(ConnectionKey),
    /// To an address's partition: a connection from there opened or ended.
    Address {
        /// The connection.
        connection: ConnectionKey,
        /// Where its client is.
        address: AddressKey,
        /// Whether it opened.
        opened: bool,
    },
    /// To a connection's shard: it is one too many, and does not count any more.
    TooMany(ConnectionKey, Surplus),
    /// To a room's partition: a user is in the room, or no more.
    Member {
        /// The room.
        room: RoomRef,
        /// The user.
        told: Arc<Told>,
        /// Whether the user is in it.
        is_member: bool,
    },
    /// To the partition of some of a user's rooms: how the user is.
    MemberTold(Arc<Told>),
    /// To a room's partition: follow it, and answer.
    FollowRoom(RoomQuestion),
    /// To a room's partition: tell this shard of the room no more.
    UnfollowRoom {
        /// The shard.
        shard: u32,
        /// The room.
        room: RoomRef,
    },
    /// To a shard that follows a room: how it is.
    RoomState(Box<RoomState>),
    /// To a shard that follows a room: what happened in it.
    RoomNews(Arc<RoomNews>),
}

/// What a shard that follows a user is told of it.
#[derive(Clone, Debug)]
pub struct UserNews {
    /// What everybody may see.
    pub told: Arc<Told>,
    /// What the user's own connections see instead.
    pub own: Option<Arc<Told>>,
    /// How many [`Post::Follow`] this answers.
    pub answers: u32,
}

/// What is to be sent, each with the shard that it goes to, in order.
#[derive(Debug, Default)]
pub struct Posts(Vec<(u32, Post)>);

impl Posts {
    /// Adds a post for `shard`.
    pub fn send(&mut self, shard: usize, post: Post) {
        self.0.push((shard as u32, post));
    }

    /// Takes all that were added.
    pub fn take(&mut self) -> std::vec::Drain<'_, (u32, Post)> {
        self.0.drain(..)
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that would meet in one partition if whoever chose them knew how names are hashed.
    #[test]
    fn names_that_meet_under_one_key_scatter_under_another() {
        let (known, secret) = (NameHasher::rehearsed(7), NameHasher::default());
        let names: Vec<String> = (0..100_000).map(|number| format!("user-{number}")).collect();
        let meeting: Vec<&String> = names.iter().filter(|name| known.hash(name).partition(64) == 0).collect();
        assert!(meeting.len() > 1_000);
        let mut partitions = [0_usize; 64];
        for name in &meeting {
            partitions[secret.hash(name).partition(64)] += 1;
        }
        // By chance alone a share eight times the even one is less likely than one in 10^100.
        assert!(partitions.iter().all(|count| *count < meeting.len() / 8), "{partitions:?}");
        assert_eq!(secret.hash("ana"), secret.clone().hash("ana"));
    }

    /// Two processes have two keys.
    #[test]
    fn no_key_is_the_same_as_the_next() {
        assert_ne!(NameHasher::default().hash("ana"), NameHasher::default().hash("ana"));
    }
}
