//! The words between layers: what a connection's shard tells a user's partition.

use std::hash::{BuildHasher, RandomState};

use crate::protocol::message::MetadataUpdate;
use crate::protocol::status::Status;
use crate::protocol::user_id::UserId;

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

/// The keyed hash of a userId: the same on every shard of this process, unknown outside, gone with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserHash(pub u64);

impl UserHash {
    /// The partition of `partitions` in which the user lives.
    ///
    /// Sixteen bits from the middle decide: a partition's own tables go by the lowest and the highest, which must
    /// not be the same for all of its users.
    pub fn partition(self, partitions: usize) -> usize {
        let middle = (self.0 >> 20) as u16;
        (usize::from(middle) * partitions) >> 16
    }
}

/// Makes [`UserHash`]es. Clones make the same ones.
///
/// SipHash with a random key, so that nobody can choose userIds that meet in one bucket or one partition.
#[derive(Clone, Debug, Default)]
pub struct UserHasher(RandomState);

impl UserHasher {
    /// The hash of `user_id`.
    pub fn hash(&self, user_id: &UserId) -> UserHash {
        UserHash(self.0.hash_one(user_id.as_str()))
    }
}

/// What happened to one connection of a user, in the order in which it happened to that connection.
#[derive(Debug)]
pub enum PresenceEvent {
    /// The connection was answered CONNECT.
    Opened {
        /// Which connection.
        connection: ConnectionKey,
        /// Whose.
        user_id: UserId,
        /// The hash of `user_id`.
        hash: UserHash,
        /// Its first status.
        status: Status,
    },
    /// The connection said what its presence is.
    Updated {
        /// Which connection.
        connection: ConnectionKey,
        /// Its status from now on.
        status: Status,
        /// What becomes of its metadata.
        metadata: MetadataUpdate,
    },
    /// The connection ended.
    Ended {
        /// Which connection.
        connection: ConnectionKey,
    },
}

impl PresenceEvent {
    /// The connection that this is about.
    pub fn connection(&self) -> ConnectionKey {
        match *self {
            Self::Opened { connection, .. } | Self::Updated { connection, .. } | Self::Ended { connection } => {
                connection
            }
        }
    }
}
