//! The records of the watch table: flat, linked by index.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::frames::Backlog;
use super::snapshot::Snapshot;
use super::{ConnectionKey, Depth, NameHash, RoomRef, Told, UserRef, WatcherId};
use crate::presence::change::ByUserId;
use crate::protocol::cursor::Version;
use crate::protocol::message::Detail;
use crate::protocol::user_id::UserId;

/// What an index takes for each entry, on the average of its doublings.
pub const INDEX_ENTRY_BYTES: usize = 8;

/// What it takes that one watches a user: an edge of the watcher's and an entry of the user's, with the room to grow
/// of the latter.
pub const EDGE_BYTES: usize = size_of::<Edge>() + 2 * size_of::<u32>();

const _: () = assert!(EDGE_BYTES <= 24, "10,000 watchers of 1,000 users each take 24 bytes a pair at most");

/// What it takes that a user is a member of a watched room: an entry of an ordered table, at the average fullness of
/// its nodes, and one of the user's.
const MEMBER_BYTES: usize = size_of::<(ByUserId, MemberEntry)>() * 3 / 2 + size_of::<u32>() * 2;

/// Entries of a log that are not worth a look at who was told.
const LOG_MIN: usize = 64;

/// A user that is watched here, or is in a room that is.
#[derive(Debug)]
pub struct FollowedUser {
    pub user: UserRef,
    /// What others may see of it; none until it was told.
    pub told: Option<Arc<Told>>,
    /// What its own connections see instead.
    pub own: Option<Arc<Told>>,
    /// Who watches it: see [`watcher_of`].
    pub watchers: Vec<u32>,
    /// The watched rooms that it is in.
    pub rooms: Vec<u32>,
    /// Answers of its partition that have not come.
    pub asked: u32,
    /// Whether its partition tells of it.
    pub is_followed: bool,
    /// Whether the first of those answers has come since.
    pub is_answered: bool,
}

/// The bit of a user's entry for a watcher that says that the watcher is to be told.
const DIRTY: u32 = 1 << 31;

/// The bit that says that the watcher is a connection of the user's own.
const OWN: u32 = 1 << 30;

/// The watcher that an entry of [`FollowedUser::watchers`] stands for.
pub fn watcher_of(entry: u32) -> u32 {
    entry & !(DIRTY | OWN)
}

/// Whether an entry's watcher is to be told.
pub fn is_dirty(entry: u32) -> bool {
    entry & DIRTY != 0
}

/// Whether an entry's watcher is a connection of the user's own.
pub fn is_own(entry: u32) -> bool {
    entry & OWN != 0
}

/// The entry, to be told.
pub fn dirty(entry: u32) -> u32 {
    entry | DIRTY
}

impl FollowedUser {
    pub fn new(user: UserRef) -> Self {
        Self {
            user,
            told: None,
            own: None,
            watchers: Vec::new(),
            rooms: Vec::new(),
            asked: 0,
            is_followed: false,
            is_answered: false,
        }
    }

    /// Adds a watcher and returns its slot.
    pub fn watch(&mut self, watcher: u32, is_own: bool) -> u32 {
        self.watchers.push(watcher | if is_own { OWN } else { 0 });
        (self.watchers.len() - 1) as u32
    }

    /// Takes out the watcher at `slot`; returns the entry that is there now, if another one moved there.
    pub fn unwatch(&mut self, slot: u32) -> Option<u32> {
        self.watchers.swap_remove(slot as usize);
        if self.watchers.len() < self.watchers.capacity() / 4 {
            self.watchers.shrink_to(self.watchers.len() * 2);
        }
        self.watchers.get(slot as usize).copied()
    }

    /// Forgets what the user's own connections saw if others see the user since: a room's partition may tell that
    /// before the user's own does.
    pub fn forget_stale_own(&mut self) {
        if let Some(told) = self.told.as_ref().filter(|told| !told.is_offline())
            && self.own.as_ref().is_some_and(|own| own.version < told.version)
        {
            self.own = None;
        }
    }

    /// What the watcher at `slot` sees.
    pub fn seen_at(&self, slot: u32) -> Option<&Arc<Told>> {
        let entry = self.watchers.get(slot as usize).copied().unwrap_or_default();
        self.own.as_ref().filter(|_| is_own(entry)).or(self.told.as_ref())
    }

    /// The watcher at `slot` is to be told; false when it was to be already.
    pub fn dirty(&mut self, slot: u32) -> bool {
        let Some(entry) = self.watchers.get_mut(slot as usize) else { return false };
        !is_dirty(std::mem::replace(entry, dirty(*entry)))
    }

    /// The watcher at `slot` has been told; false when it was not to be.
    pub fn clean(&mut self, slot: u32) -> bool {
        let Some(entry) = self.watchers.get_mut(slot as usize) else { return false };
        let was_dirty = is_dirty(*entry);
        *entry &= !DIRTY;
        was_dirty
    }

    /// Whether the watcher at `slot` is to be told.
    pub fn is_dirty_at(&self, slot: u32) -> bool {
        self.watchers.get(slot as usize).is_some_and(|&entry| is_dirty(entry))
    }

    pub fn leave(&mut self, room: u32) {
        if let Some(position) = self.rooms.iter().position(|&other| other == room) {
            self.rooms.swap_remove(position);
        }
    }
}

/// A room that is watched here.
#[derive(Debug)]
pub struct FollowedRoom {
    pub room: RoomRef,
    /// How much of it its partition was asked to tell; none before it was asked.
    pub depth: Option<Depth>,
    /// Whether an answer has come.
    pub is_live: bool,
    /// Whether `members` are all who are in it.
    pub has_members: bool,
    pub is_truncated: bool,
    /// When somebody last came or went.
    pub version: Version,
    pub count: usize,
    /// The count that those who watch it alone are told, and since when.
    pub released_count: usize,
    pub released_ms: u64,
    /// Whether a newer count waits to be told.
    pub count_waits: bool,
    pub members: BTreeMap<ByUserId, MemberEntry>,
    /// Who is offline, as their own partitions have told, and has not left yet, as the room's has.
    pub early: Vec<Arc<Told>>,
    pub watchers: Vec<u32>,
    /// Whose questions have not been answered, and which, in order.
    pub waiting: VecDeque<(WatcherId, u32)>,
    pub log: VecDeque<LogEntry>,
    /// How many entries came before those in the log.
    log_start: u64,
    /// The length at which the log is looked through for what everybody was told.
    pub trim_at: usize,
    /// What [`FollowedRoom::kept_bytes`] was when it was counted.
    pub counted_bytes: usize,
}

/// A member of a watched room.
#[derive(Clone, Copy, Debug)]
pub struct MemberEntry {
    pub user: u32,
    /// When it came.
    pub joined: Version,
}

/// What happened in a watched room, and to whom: presences would be held here that nobody else holds any more.
#[derive(Clone, Debug)]
pub enum LogEntry {
    Joined(UserId),
    /// Somebody left, whose presence had this version.
    Left(UserId, Version),
    Changed(UserId),
}

impl FollowedRoom {
    pub fn new(room: RoomRef) -> Self {
        Self {
            room,
            depth: None,
            is_live: false,
            has_members: false,
            is_truncated: false,
            version: Version::default(),
            count: 0,
            released_count: 0,
            released_ms: 0,
            count_waits: false,
            members: BTreeMap::new(),
            early: Vec::new(),
            watchers: Vec::new(),
            waiting: VecDeque::new(),
            log: VecDeque::new(),
            log_start: 0,
            trim_at: 0,
            counted_bytes: 0,
        }
    }

    pub fn watch(&mut self, watcher: u32) -> u32 {
        self.watchers.push(watcher);
        (self.watchers.len() - 1) as u32
    }

    pub fn unwatch(&mut self, slot: u32) -> Option<u32> {
        self.watchers.swap_remove(slot as usize);
        self.watchers.get(slot as usize).copied()
    }

    /// Bytes of its members and of what happened in it, about.
    pub fn kept_bytes(&self) -> usize {
        self.members.len() * MEMBER_BYTES + self.log.len() * size_of::<LogEntry>()
    }

    /// How many things have happened in it.
    pub fn happened(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    pub fn note(&mut self, entry: LogEntry) {
        if self.has_members {
            self.log.push_back(entry);
        }
    }

    /// What happened since `told` things had; none where that is known no more.
    pub fn since(&self, told: u64) -> Option<impl Iterator<Item = &LogEntry>> {
        let known = told.checked_sub(self.log_start)?;
        Some(self.log.iter().skip(known as usize))
    }

    /// Nobody can be told what happened so far but by a state.
    pub fn forget_log(&mut self) {
        self.log_start += self.log.len() as u64 + 1;
        self.log.clear();
        self.trim_at = 0;
    }

    /// Forgets what came before `told` things had happened, and what would be more than `most` and than the members.
    pub fn trim(&mut self, told: u64, most: usize) {
        while self.log_start < told && self.log.pop_front().is_some() {
            self.log_start += 1;
        }
        let limit = most.max(self.members.len());
        while self.log.len() > limit {
            self.log.pop_front();
            self.log_start += 1;
        }
        self.trim_at = (self.log.len() * 2).clamp(LOG_MIN.min(limit), limit + 1);
    }

    /// A member's presence is this one now.
    pub fn refresh_member(&mut self, told: &Arc<Told>) {
        if let Some(entry) = self.members.remove(&told.user.id) {
            self.members.insert(ByUserId(Arc::clone(told)), entry);
        }
    }

    /// The room's partition will tell that a user, who is offline, has left.
    pub fn expect_leave(&mut self, told: &Arc<Told>) {
        self.forget_early(&told.user.id);
        self.early.push(Arc::clone(told));
    }

    pub fn forget_early(&mut self, id: &UserId) {
        self.early.retain(|gone| gone.user.id != *id);
    }

    /// Whether a watcher of it is told of leavings before the room's partition tells of them.
    pub fn is_ahead_for(&self, edge: &RoomEdge) -> bool {
        !self.early.is_empty() && self.names_members_to(edge)
    }

    /// Whether a state of it can be made for one who watches it with `detail`.
    pub fn can_be_told(&self, detail: Detail) -> bool {
        self.is_live && (detail == Detail::Count || self.has_members || self.is_truncated)
    }

    pub fn has_member(&self, id: &UserId) -> bool {
        self.members.contains_key(id)
    }

    /// Whether a watcher of it is told by name.
    pub fn names_members_to(&self, edge: &RoomEdge) -> bool {
        edge.detail == Detail::Full && !self.is_truncated
    }

    /// The count that a watcher of it is told.
    pub fn count_for(&self, edge: &RoomEdge) -> usize {
        if self.names_members_to(edge) { self.members.len() } else { self.released_count }
    }

    /// Whether a watcher of it has something to be told.
    pub fn has_news_for(&self, edge: &RoomEdge) -> bool {
        if self.names_members_to(edge) {
            return self.has_members && edge.told < self.happened();
        }
        edge.counted != self.released_count || edge.detail == Detail::Full && !edge.truncation_told
    }
}

/// That a watcher watches a user.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    pub user: u32,
    /// Where the watcher stands among the user's.
    pub slot: u32,
}

/// That a watcher watches a room.
#[derive(Clone, Copy, Debug)]
pub struct RoomEdge {
    pub room: u32,
    /// Where the watcher stands among the room's.
    pub slot: u32,
    pub detail: Detail,
    /// How many of the things that happened in the room the watcher was told.
    pub told: u64,
    /// The count that it was told last.
    pub counted: usize,
    /// Whether it knows that the room is too large to be told by name.
    pub truncation_told: bool,
}

impl RoomEdge {
    pub fn new(room: u32, slot: u32, detail: Detail) -> Self {
        Self { room, slot, detail, told: 0, counted: 0, truncation_told: false }
    }

    /// The watcher has been told everything about the room.
    pub fn catch_up(&mut self, room: &FollowedRoom) {
        self.told = room.happened();
        self.counted = room.count_for(self);
        self.truncation_told = room.is_truncated;
    }
}

/// A connection that watches something, or is in a room.
#[derive(Debug)]
pub struct Watcher {
    pub connection: ConnectionKey,
    /// Whose connection it is.
    pub user: NameHash,
    /// Which of the slot's owners it is.
    pub stamp: u32,
    pub is_active: bool,
    /// Whether it stands among those that are told at once.
    pub is_ready: bool,
    /// Whether it stands among those whose changes are gathered.
    pub is_due: bool,
    /// Whether nothing is read from it until it has been told a state.
    pub is_held: bool,
    /// What it watches, in order of `user`.
    pub users: Vec<Edge>,
    pub rooms: Vec<RoomEdge>,
    /// The rooms that it is in.
    pub joined: Vec<RoomRef>,
    /// The users that changed since it was told.
    pub pending: Vec<u32>,
    /// The states that it asked for and was not told, in order.
    pub snapshots: VecDeque<Snapshot>,
    /// The rest of changes that did not fit into one message; nothing else is told before it.
    pub backlog: Option<Box<Backlog>>,
    /// The cursor that it was given last.
    pub told_until: Version,
    /// What [`Watcher::owed_bytes`] was when it was counted.
    pub counted_bytes: usize,
}

impl Watcher {
    pub fn new(connection: ConnectionKey, user: NameHash, stamp: u32) -> Self {
        Self {
            connection,
            user,
            stamp,
            is_active: true,
            is_ready: false,
            is_due: false,
            is_held: false,
            users: Vec::new(),
            rooms: Vec::new(),
            joined: Vec::new(),
            pending: Vec::new(),
            snapshots: VecDeque::new(),
            backlog: None,
            told_until: Version::default(),
            counted_bytes: 0,
        }
    }

    /// Bytes of what it is still to be told, presences aside.
    pub fn owed_bytes(&self) -> usize {
        let states: usize = self.snapshots.iter().map(Snapshot::held_bytes).sum();
        states + self.backlog.as_ref().map_or(0, |backlog| backlog.held_bytes())
    }

    pub fn edge(&self, user: u32) -> Option<Edge> {
        let position = self.users.binary_search_by_key(&user, |edge| edge.user).ok()?;
        Some(self.users[position])
    }

    pub fn room_edge(&self, room: u32) -> Option<&RoomEdge> {
        self.rooms.iter().find(|edge| edge.room == room)
    }
}
