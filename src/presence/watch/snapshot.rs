//! States that were asked for and not told yet.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Told;
use crate::protocol::cursor::Version;
use crate::protocol::message::MessageId;
use crate::protocol::message::write::write_id;
use crate::protocol::user_id::UserId;

/// A PRESENCE_STATE, while it waits for partitions or for the socket.
#[derive(Debug)]
pub struct Snapshot {
    /// The `id` of its WATCH as the message carries it, the comma before it included; empty where there was none.
    pub id: Box<[u8]>,
    /// Only what changed after it is told; none where everything is.
    pub since: Option<Version>,
    pub users: Vec<u32>,
    pub rooms: Vec<SnapshotRoom>,
    /// How many of the users are known to have been told of by their partitions.
    pub checked: usize,
    /// How many of the users have been written.
    pub users_written: usize,
    /// How many of the rooms have been written whole.
    pub rooms_written: usize,
    /// The cursor of its last message, once its first was made: what changed since then is told afterwards.
    pub cursor: Option<Version>,
    is_unasked: bool,
}

/// A room in a state.
#[derive(Debug)]
pub struct SnapshotRoom {
    pub room: u32,
    /// The question that its partition has not answered.
    pub awaits: Option<u32>,
    /// How many things had happened in the room when its partition answered.
    pub happened: u64,
    /// Of a room that is too large to be told by name, the first of its members, each with the version of the joining.
    pub names: Vec<(Arc<Told>, Version)>,
    /// Who left since the cursor.
    pub left: Vec<UserId>,
    /// What is still to be written of it, once that has begun.
    pub rest: Option<RoomRest>,
}

/// What is still to be written of a room, as it was when its first part was: what happens meanwhile is a change, told
/// when the state has been.
#[derive(Debug)]
pub struct RoomRest {
    pub count: usize,
    pub is_truncated: bool,
    pub members: VecDeque<Arc<Told>>,
    pub left: VecDeque<UserId>,
}

impl RoomRest {
    /// Whether nobody is to be named any more.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.left.is_empty()
    }
}

impl Snapshot {
    /// The state that a WATCH asks for.
    pub fn new(id: Option<&MessageId<'_>>, since: Option<Version>) -> Self {
        let mut written = Vec::new();
        write_id(&mut written, id);
        Self {
            id: written.into_boxed_slice(),
            since,
            users: Vec::new(),
            rooms: Vec::new(),
            checked: 0,
            users_written: 0,
            rooms_written: 0,
            cursor: None,
            is_unasked: false,
        }
    }

    /// The state of a room that nobody asked for.
    pub fn restart(room: u32) -> Self {
        Self { rooms: vec![SnapshotRoom::new(room, None)], is_unasked: true, ..Self::new(None, None) }
    }

    /// Bytes of its lists, about; the presences to which they point are not in them.
    pub fn held_bytes(&self) -> usize {
        self.users.len() * size_of::<u32>() + self.rooms.iter().map(SnapshotRoom::held_bytes).sum::<usize>()
    }

    /// Whether it is a state that nobody asked for.
    pub fn is_unasked(&self) -> bool {
        self.is_unasked
    }

    /// Whether it is the unasked state of `room`, and has not begun.
    pub fn restarts(&self, room: u32) -> bool {
        self.is_unasked && self.cursor.is_none() && self.rooms.iter().any(|restarted| restarted.room == room)
    }

    /// The user is watched no more.
    pub fn forget_user(&mut self, user: u32) {
        if let Some(position) = self.users.iter().position(|&other| other == user) {
            self.users.remove(position);
            self.checked -= usize::from(position < self.checked);
            self.users_written -= usize::from(position < self.users_written);
        }
    }

    /// The room is watched no more.
    pub fn forget_room(&mut self, room: u32) {
        if let Some(position) = self.rooms.iter().position(|other| other.room == room) {
            self.rooms.remove(position);
            self.rooms_written -= usize::from(position < self.rooms_written);
        }
    }
}

impl SnapshotRoom {
    pub fn new(room: u32, awaits: Option<u32>) -> Self {
        Self { room, awaits, happened: 0, names: Vec::new(), left: Vec::new(), rest: None }
    }

    fn held_bytes(&self) -> usize {
        let rest = self.rest.as_ref().map_or((0, 0), |rest| (rest.members.len(), rest.left.len()));
        size_of::<Self>()
            + self.names.len() * size_of::<(Arc<Told>, Version)>()
            + rest.0 * size_of::<Arc<Told>>()
            + (self.left.len() + rest.1) * size_of::<UserId>()
    }
}
