//! Who on this shard watches whom, and what each must be told.
//!
//! Presence is state, not a stream: of each watcher is kept which users and rooms changed since it was told, and a
//! message of their newest state is made when nothing else waits for its socket. So a slow watcher costs no queue, and
//! is told less often, never less.
//!
//! ```text
//!   watcher ── edges, sorted by user ──► followed user ◄── members ── followed room
//!      └── the users that changed          └── its watchers            └── a log of what happened
//! ```
//!
//! A user that changes is noted with each of its watchers; what happens in a room is noted in the room's log alone, and
//! each of its watchers keeps how far it was told.

mod frames;
mod snapshot;
mod tables;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use snapshot::{Snapshot, SnapshotRoom};
use tables::{
    Edge, FollowedRoom, FollowedUser, LogEntry, MemberEntry, RoomEdge, Watcher, is_dirty, is_own, watcher_of,
};

use super::bounds::Bounds;
use super::change::{
    ByUserId, ConnectionKey, Depth, Moment, NameHash, NameHasher, Post, Posts, RoomEvent, RoomNews, RoomQuestion,
    RoomRef, RoomState, Told, UserNews, UserRef,
};
use super::index::Index;
use super::room::COUNT_INTERVAL_MS;
use crate::breaks::{Break, is_on};
use crate::protocol::cursor::{Cursor, Since, Version};
use crate::protocol::message::{Detail, MessageId, Unwatch, Watch};
use crate::protocol::room_name::RoomName;
use crate::protocol::timestamp::Timestamp;
use crate::protocol::user_id::UserId;
use crate::slab::{NONE, Slab};

/// States that one watcher may have asked for and not been told; beyond, nothing more is read from it.
const SNAPSHOTS_MAX: usize = 8;

/// What is the same for all shards of a process.
#[derive(Clone, Debug)]
pub struct WatchTerms {
    /// How many partitions there are.
    pub partitions: usize,
    /// How long changes are gathered after the first of them, in milliseconds.
    pub change_interval_ms: u64,
    /// How far a cursor lies behind what has been told, in milliseconds.
    pub cursor_slack_ms: u64,
    /// How long it is remembered who left a room, in milliseconds: older cursors get everything.
    pub history_ms: u64,
    /// Users that one connection may watch.
    pub users_max: usize,
    /// Rooms that one connection may watch, and as many that it may be in.
    pub rooms_max: usize,
    /// The process, as cursors name it.
    pub process: u32,
    /// A version that this process made no earlier one than.
    pub began: Version,
    /// How much is kept and told at once.
    pub bounds: Bounds,
}

/// A watcher that may have gone: its slot, and which of the slot's owners it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WatcherId {
    index: u32,
    stamp: u32,
}

/// The watchers of one shard, and what they watch.
#[derive(Debug)]
pub struct WatchTable {
    terms: WatchTerms,
    shard: u32,
    users: Slab<FollowedUser>,
    users_by_hash: Index,
    rooms: Slab<FollowedRoom>,
    rooms_by_hash: Index,
    watchers: Slab<Watcher>,
    /// Watchers that have something to be told at once.
    ready: VecDeque<WatcherId>,
    /// Watchers whose changes are gathered, and until when, in that order.
    due: VecDeque<(u64, WatcherId)>,
    /// Connections that are read again.
    released: Vec<ConnectionKey>,
    /// When which room's count may be told again, the earliest first.
    counts: BinaryHeap<Reverse<(u64, u32)>>,
    /// For each partition, how many users and how many rooms are followed there, of which it has told how they are.
    follows: Vec<(u32, u32)>,
    /// For each partition, up to which version it has told all about users, and about rooms.
    watermarks: Vec<(Version, Version)>,
    /// Messages of this step that others may be told as well.
    shared: Vec<(Box<[u32]>, Range<usize>)>,
    scratch: Vec<u32>,
    stamp: u32,
    /// Counts the questions that rooms' partitions were asked, so that each finds its answer.
    questions: u32,
    /// Pairs of a watcher and a user.
    edges: usize,
    /// Bytes of presences that are kept, about.
    told_bytes: usize,
    /// Bytes of what is kept of rooms, and of what watchers are still to be told: see [`WatchTable::recount_room`] and
    /// [`WatchTable::recount_watcher`].
    counted_bytes: usize,
}

/// Why a message is refused whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// More users would be watched than may be.
    TooManyUsers,
    /// More rooms would be watched, or joined, than may be.
    TooManyRooms,
    /// There is no memory for more.
    Full,
}

/// What comes of a WATCH that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The state will follow.
    Continue,
    /// The state will follow, and until then nothing more is to be read: too many wait already.
    Hold,
}

/// What was appended for a watcher.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    Nothing,
    /// A PRESENCE_STATE.
    State,
    /// A PRESENCE_CHANGE.
    Change,
    /// The same PRESENCE_CHANGE as another watcher was told in this step: this part of the output.
    Shared(Range<usize>),
}

impl WatchTable {
    /// The table of `shard`, with nobody in it.
    pub fn new(shard: u32, terms: WatchTerms) -> Self {
        Self {
            follows: vec![(0, 0); terms.partitions],
            watermarks: vec![Default::default(); terms.partitions],
            terms,
            shard,
            users: Slab::default(),
            users_by_hash: Index::default(),
            rooms: Slab::default(),
            rooms_by_hash: Index::default(),
            watchers: Slab::default(),
            ready: VecDeque::new(),
            due: VecDeque::new(),
            released: Vec::new(),
            counts: BinaryHeap::new(),
            shared: Vec::new(),
            scratch: Vec::new(),
            stamp: 0,
            questions: 0,
            edges: 0,
            told_bytes: 0,
            counted_bytes: 0,
        }
    }

    /// The watcher for a connection of the user with hash `user`; `watcher` is its number, or [`NONE`] before it has
    /// one.
    fn watcher_for(&mut self, connection: ConnectionKey, user: NameHash, watcher: &mut u32) -> u32 {
        if *watcher == NONE {
            self.stamp = self.stamp.wrapping_add(1);
            *watcher = self.watchers.insert(Watcher::new(connection, user, self.stamp));
        }
        *watcher
    }

    /// Takes in a WATCH. Its answer comes by [`WatchTable::deliver`].
    ///
    /// # Errors
    /// When it would pass a limit; then nothing has changed.
    #[expect(clippy::too_many_arguments, reason = "one message, who sent it, and where its consequences go")]
    pub fn watch(
        &mut self,
        at: Moment,
        connection: ConnectionKey,
        user: NameHash,
        watcher: &mut u32,
        request: &Watch,
        id: Option<&MessageId<'_>>,
        is_full: bool,
        hasher: &NameHasher,
        posts: &mut Posts,
    ) -> Result<Watched, Refused> {
        let mut users: Vec<UserRef> =
            request.users.iter().map(|id| UserRef { hash: hasher.user(id), id: id.clone() }).collect();
        users.sort_unstable_by(|one, other| (one.hash.0, &one.id).cmp(&(other.hash.0, &other.id)));
        users.dedup();
        let named = request.rooms.iter().enumerate();
        let mut rooms: Vec<(usize, RoomRef, Detail)> =
            named.map(|(place, watched)| (place, RoomRef::new(watched.room.clone(), hasher), watched.detail)).collect();
        // Of one that is named twice the last holds; what is told keeps the order of what was asked.
        rooms.sort_unstable_by(|(place, room, _), (other_place, other, _)| {
            (room.hash().0, room.name(), other_place).cmp(&(other.hash().0, other.name(), place))
        });
        rooms.dedup_by(|(_, earlier, _), (_, last, _)| earlier == last);
        rooms.sort_unstable_by_key(|(place, ..)| *place);
        let rooms: Vec<(RoomRef, Detail)> = rooms.into_iter().map(|(_, room, detail)| (room, detail)).collect();
        self.check(*watcher, &users, &rooms, is_full)?;

        let watcher = self.watcher_for(connection, user, watcher);
        let since = request.since.as_ref().and_then(|since| self.known_since(at, since));
        let mut snapshot = Snapshot::new(id, since);
        let mut edges = Vec::new();
        for user in users {
            snapshot.users.push(self.watch_user(watcher, user, &mut edges, posts));
        }
        self.edges += edges.len();
        let watched = &mut self.watchers[watcher].users;
        watched.reserve_exact(edges.len());
        watched.append(&mut edges);
        watched.sort_unstable_by_key(|edge| edge.user);
        for (room, detail) in rooms {
            let room = self.watch_room(watcher, room, detail, since, posts);
            snapshot.rooms.push(room);
        }
        let record = &mut self.watchers[watcher];
        record.snapshots.push_back(snapshot);
        let verdict = if record.snapshots.len() < SNAPSHOTS_MAX {
            Watched::Continue
        } else {
            record.is_held = true;
            Watched::Hold
        };
        self.recount_watcher(watcher);
        self.wake_if_ready(watcher);
        Ok(verdict)
    }

    /// Takes in an UNWATCH.
    pub fn unwatch(&mut self, watcher: u32, request: &Unwatch, hasher: &NameHasher, posts: &mut Posts) {
        if self.watchers.get(watcher).is_none() {
            return;
        }
        for id in &request.users {
            if let Some(user) = self.find_user(hasher.user(id), id) {
                self.unwatch_user(watcher, user, posts);
            }
        }
        for name in &request.rooms {
            if let Some(room) = self.find_room(hasher.room(name), name) {
                self.unwatch_room(watcher, room, posts);
            }
        }
        self.recount_watcher(watcher);
        self.wake_if_ready(watcher);
    }

    /// The users that a watcher watches.
    pub fn watched_users(&self, watcher: u32) -> impl Iterator<Item = &UserId> {
        let edges = self.watchers.get(watcher).map(|record| &record.users[..]).unwrap_or_default();
        edges.iter().map(|edge| &self.users[edge.user].user.id)
    }

    /// The rooms that a watcher watches, each with how much of it is told.
    pub fn watched_rooms(&self, watcher: u32) -> impl Iterator<Item = (&RoomName, Detail)> {
        let edges = self.watchers.get(watcher).map(|record| &record.rooms[..]).unwrap_or_default();
        edges.iter().map(|edge| (self.rooms[edge.room].room.name(), edge.detail))
    }

    /// The rooms that a watcher's connection is in, as far as this shard has heard.
    pub fn joined(&self, watcher: u32) -> &[RoomRef] {
        self.watchers.get(watcher).map(|record| &record.joined[..]).unwrap_or_default()
    }

    /// Notes that a connection is in a room.
    ///
    /// # Errors
    /// When it is in as many as it may be, or there is no memory for more.
    pub fn join(
        &mut self,
        connection: ConnectionKey,
        user: NameHash,
        watcher: &mut u32,
        room: &RoomRef,
        is_full: bool,
    ) -> Result<(), Refused> {
        if let Some(record) = self.watchers.get(*watcher) {
            if record.joined.contains(room) {
                return Ok(());
            }
            if record.joined.len() >= self.terms.rooms_max {
                return Err(Refused::TooManyRooms);
            }
        }
        if is_full {
            return Err(Refused::Full);
        }
        let watcher = self.watcher_for(connection, user, watcher);
        self.watchers[watcher].joined.push(room.clone());
        Ok(())
    }

    /// Notes that a connection is in a room no more.
    pub fn leave(&mut self, watcher: u32, room: &RoomRef) {
        let Some(record) = self.watchers.get_mut(watcher) else { return };
        if let Some(position) = record.joined.iter().position(|joined| joined == room) {
            record.joined.swap_remove(position);
        }
    }

    /// Notes that a connection is in rooms because it took another's place.
    pub fn adopt(&mut self, connection: ConnectionKey, user: NameHash, watcher: &mut u32, rooms: Vec<RoomRef>) {
        let watcher = self.watcher_for(connection, user, watcher);
        let joined = &mut self.watchers[watcher].joined;
        for room in rooms {
            if !joined.contains(&room) {
                joined.push(room);
            }
        }
    }

    /// Whether anybody looks at the client: if not, it is told of changes only when somebody does again.
    pub fn set_active(&mut self, connection: ConnectionKey, user: NameHash, watcher: &mut u32, is_active: bool) {
        if *watcher == NONE && is_active {
            return;
        }
        let watcher = self.watcher_for(connection, user, watcher);
        self.watchers[watcher].is_active = is_active;
        if is_active && !is_on(Break::InactiveMissesChange) {
            self.make_ready(watcher);
        }
        if !is_active && let Some(backlog) = self.watchers[watcher].backlog.take() {
            self.put_back(watcher, *backlog);
            self.recount_watcher(watcher);
        }
    }

    /// A connection ended: it watches nothing any more.
    pub fn ended(&mut self, watcher: u32, posts: &mut Posts) {
        let Some(record) = self.watchers.get_mut(watcher) else { return };
        let (users, rooms) = (std::mem::take(&mut record.users), std::mem::take(&mut record.rooms));
        self.edges -= users.len();
        self.counted_bytes -= record.counted_bytes;
        for Edge { user, slot } in users {
            self.remove_from_user(user, slot);
            if !is_on(Break::LeakedWatch) {
                self.let_go_of_user(user, posts);
            }
        }
        for RoomEdge { room, slot, .. } in rooms {
            self.remove_from_room(room, slot);
            self.let_go_of_room(room, posts);
        }
        self.watchers.remove(watcher);
    }

    /// A partition told how a user is.
    pub fn user_told(&mut self, at: Moment, news: UserNews, posts: &mut Posts) {
        let Some(user) = self.find_user(news.told.user.hash, &news.told.user.id) else { return };
        let record = &mut self.users[user];
        record.asked = record.asked.saturating_sub(news.answers);
        if news.answers > 0 && !std::mem::replace(&mut record.is_answered, true) {
            self.follows[record.user.hash.partition(self.terms.partitions)].0 += 1;
        }
        let version = |own: &Option<Arc<Told>>| own.as_ref().map(|own| own.version);
        let own_before = version(&record.own);
        // What nobody asked for is told because something happened, though the user is now as before: while mail waits,
        // one that came, went and was forgotten folds to that. Whoever was told in between by another shard, and came
        // here with an older cursor, must hear of it. News of own connections alone has no newer version for others.
        let is_unasked = news.answers == 0;
        let is_as_before = |known: &Arc<Told>| known.version < news.told.version && known.json() == news.told.json();
        let came_back = is_unasked && record.told.as_ref().is_some_and(is_as_before);
        record.own = news.own;
        record.forget_stale_own();
        let own_changed = own_before != version(&record.own);
        let is_news = self.renew(at, user, &news.told);
        if !is_news && (own_changed || came_back) {
            self.mark_watchers(at, user, !came_back);
        }
        // Only an answer can be what a state waits for: a mere change is no reason to look at every watcher.
        if news.answers > 0 {
            for position in 0..self.users[user].watchers.len() {
                let watcher = watcher_of(self.users[user].watchers[position]);
                self.wake_if_ready(watcher);
            }
        }
        self.let_go_of_user(user, posts);
    }

    /// A partition told how a room is.
    pub fn room_state(&mut self, at: Moment, state: RoomState, posts: &mut Posts) {
        let RoomState { room, version, count, members, is_truncated, left, forgot, answers, .. } = state;
        let Some(room) = self.find_room(room.hash(), room.name()) else { return };
        let record = &mut self.rooms[room];
        // Before the first answer comes only what was told of an earlier following.
        if !record.is_live && answers.is_none() {
            return;
        }
        let waiting = answers.and_then(|_| record.waiting.pop_front());
        let was_told = (record.can_be_told(Detail::Count), record.can_be_told(Detail::Full));
        if !std::mem::replace(&mut record.is_live, true) {
            self.follows[record.room.hash().partition(self.terms.partitions)].1 += 1;
        }
        record.version = version;
        let names_all = answers.is_none_or(|depth| depth == Depth::Full) && !is_truncated;
        let begins_anew = answers.is_none();
        if names_all && (begins_anew || !self.rooms[room].has_members) {
            self.install(at, room, &members, posts);
        }
        self.set_truncated(at, room, is_truncated, count, posts);
        self.set_count(at, room, count);
        if begins_anew {
            for position in 0..self.rooms[room].watchers.len() {
                let watcher = self.rooms[room].watchers[position];
                self.restart(watcher, room);
            }
        }
        if let Some((id, question)) = waiting
            && self.is_current(id)
        {
            let names = if is_truncated { members } else { Vec::new() };
            for (told, _) in &names {
                if let Some(user) = self.find_user(told.user.hash, &told.user.id) {
                    self.renew(at, user, told);
                    self.let_go_of_user(user, posts);
                }
            }
            for snapshot in &mut self.watchers[id.index].snapshots {
                // Where the room was unwatched meanwhile, nobody awaits it.
                let Some(asked) = snapshot.rooms.iter_mut().find(|asked| asked.awaits == Some(question)) else {
                    continue;
                };
                asked.awaits = None;
                asked.happened = self.rooms[room].happened();
                asked.names = names;
                asked.left = left;
                for gone in &self.rooms[room].early {
                    if !asked.left.contains(&gone.user.id) {
                        asked.left.push(gone.user.id.clone());
                    }
                }
                if forgot {
                    snapshot.since = None;
                }
                break;
            }
            self.recount_watcher(id.index);
            self.wake_if_ready(id.index);
        }
        // Who asked while an answer was on its way waits for the same one.
        if was_told != (self.rooms[room].can_be_told(Detail::Count), self.rooms[room].can_be_told(Detail::Full)) {
            for position in 0..self.rooms[room].watchers.len() {
                let watcher = self.rooms[room].watchers[position];
                self.wake_if_ready(watcher);
            }
        }
        self.let_go_of_room(room, posts);
    }

    /// A partition told what happened in a room.
    pub fn room_news(&mut self, at: Moment, news: &RoomNews, posts: &mut Posts) {
        let Some(room) = self.find_room(news.room.hash(), news.room.name()) else { return };
        // Before the first answer comes only what was told of an earlier following.
        if !self.rooms[room].is_live {
            return;
        }
        self.rooms[room].version = news.version;
        self.set_truncated(at, room, news.is_truncated, news.count, posts);
        if self.rooms[room].has_members {
            for event in &news.events {
                self.room_event(at, room, event, posts);
            }
        }
        self.set_count(at, room, news.count);
        self.wake_room(at, room);
    }

    /// A partition has told all about users, and about rooms, up to these versions.
    pub fn heard(&mut self, partition: usize, users: Version, rooms: Version) {
        let (heard_users, heard_rooms) = &mut self.watermarks[partition];
        *heard_users = users.max(*heard_users);
        *heard_rooms = rooms.max(*heard_rooms);
    }

    /// Up to which version a partition has told all about users.
    pub fn heard_of_users(&self, partition: usize) -> Version {
        self.watermarks[partition].0
    }

    /// Does what is due by now.
    pub fn tick(&mut self, at: Moment) {
        while let Some(&Reverse((due_ms, room))) = self.counts.peek()
            && due_ms <= at.elapsed_ms
        {
            self.counts.pop();
            // Another room may be there by now, with a time of its own.
            let is_due = |record: &&mut FollowedRoom| {
                record.count_waits && record.released_ms + COUNT_INTERVAL_MS <= at.elapsed_ms
            };
            if let Some(record) = self.rooms.get_mut(room).filter(is_due) {
                record.count_waits = false;
                self.release_count(at, room);
            }
        }
    }

    /// When something is due next, in milliseconds since the process began to serve.
    pub fn deadline_ms(&self) -> Option<u64> {
        if !self.ready.is_empty() || !self.released.is_empty() {
            return Some(0);
        }
        let due = self.due.front().map(|&(due_ms, _)| due_ms);
        let count = self.counts.peek().map(|&Reverse((due_ms, _))| due_ms);
        [due, count].into_iter().flatten().min()
    }

    /// A connection that is to be read again.
    pub fn next_released(&mut self) -> Option<ConnectionKey> {
        self.released.pop()
    }

    /// A connection that has something to be told by now.
    pub fn next_due(&mut self, at: Moment) -> Option<ConnectionKey> {
        while let Some(id) = self.ready.pop_front() {
            if self.is_current(id) {
                self.watchers[id.index].is_ready = false;
                return Some(self.watchers[id.index].connection);
            }
        }
        while let Some(&(due_ms, id)) = self.due.front()
            && due_ms <= at.elapsed_ms
        {
            self.due.pop_front();
            if self.is_current(id) {
                self.watchers[id.index].is_due = false;
                return Some(self.watchers[id.index].connection);
            }
        }
        None
    }

    /// The socket of a watcher that was busy is so no more.
    pub fn writable(&mut self, watcher: u32) {
        if self.watchers.get(watcher).is_some() {
            self.make_ready(watcher);
        }
    }

    /// Messages of the last step cannot be told to others any more.
    pub fn begin_step(&mut self) {
        self.shared.clear();
    }

    /// Appends what a watcher is to be told now, as one frame of less than 64 KiB, to `out`.
    pub fn deliver(&mut self, at: Moment, watcher: u32, timestamp: &Timestamp, out: &mut Vec<u8>) -> Said {
        if self.watchers.get(watcher).is_none() {
            return Said::Nothing;
        }
        let said = self.deliver_next(at, watcher, timestamp, out);
        self.recount_watcher(watcher);
        said
    }

    fn deliver_next(&mut self, at: Moment, watcher: u32, timestamp: &Timestamp, out: &mut Vec<u8>) -> Said {
        // What a message that was too long left over is older than any state.
        if self.watchers[watcher].backlog.is_some() {
            return self.deliver_change(at, watcher, timestamp, out);
        }
        if let Some(position) = self.next_state(watcher)
            && let Some(mut snapshot) = self.watchers[watcher].snapshots.remove(position)
        {
            if !self.is_ready(watcher, &mut snapshot) {
                self.watchers[watcher].snapshots.insert(position, snapshot);
                return Said::Nothing;
            }
            if snapshot.cursor.is_none() && !self.knows_who_left(watcher, &snapshot) {
                snapshot.since = None;
            }
            snapshot.cursor = snapshot.cursor.or_else(|| Some(self.cursor_of_state(at, watcher, &snapshot)));
            let is_last = self.write_state(watcher, &mut snapshot, timestamp, out);
            let record = &mut self.watchers[watcher];
            if is_last {
                record.told_until = snapshot.cursor.unwrap_or_default();
                if std::mem::take(&mut record.is_held) {
                    self.released.push(record.connection);
                }
            } else {
                record.snapshots.insert(position, snapshot);
            }
            // Not only at its end, or who changes until then would be told twice.
            self.drop_told(watcher);
            self.make_ready_for_more(watcher);
            return Said::State;
        }
        if !self.watchers[watcher].is_active {
            return Said::Nothing;
        }
        self.deliver_change(at, watcher, timestamp, out)
    }

    /// Bytes that watchers and what they watch hold, about.
    pub fn held_bytes(&self) -> usize {
        self.users.len() * (Slab::<FollowedUser>::ENTRY_BYTES + tables::INDEX_ENTRY_BYTES)
            + self.rooms.len() * Slab::<FollowedRoom>::ENTRY_BYTES
            + self.watchers.len() * Slab::<Watcher>::ENTRY_BYTES
            + self.edges * tables::EDGE_BYTES
            + self.told_bytes
            + self.counted_bytes
    }

    /// How many watch something, or are in a room.
    pub fn watchers(&self) -> usize {
        self.watchers.len()
    }

    /// Pairs of a watcher and a user that it watches.
    pub fn edges(&self) -> usize {
        self.edges
    }

    /// Whether nobody watches and nothing is followed.
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty() && self.users.is_empty() && self.rooms.is_empty()
    }

    /// Refuses what would pass a limit.
    fn check(
        &self,
        watcher: u32,
        users: &[UserRef],
        rooms: &[(RoomRef, Detail)],
        is_full: bool,
    ) -> Result<(), Refused> {
        if rooms.len() > self.terms.rooms_max {
            return Err(Refused::TooManyRooms);
        }
        let record = self.watchers.get(watcher);
        let is_new_user = |user: &&UserRef| {
            let edge = self.find_user(user.hash, &user.id).and_then(|user| record?.edge(user));
            edge.is_none()
        };
        let is_new_room = |room: &&(RoomRef, Detail)| {
            let found = self.find_room(room.0.hash(), room.0.name());
            found.and_then(|room| record?.room_edge(room)).is_none()
        };
        let new_users = users.iter().filter(is_new_user).count();
        let new_rooms = rooms.iter().filter(is_new_room).count();
        let (watched_users, watched_rooms) = record.map_or((0, 0), |record| (record.users.len(), record.rooms.len()));
        if watched_users + new_users > self.terms.users_max {
            return Err(Refused::TooManyUsers);
        }
        if watched_rooms + new_rooms > self.terms.rooms_max {
            return Err(Refused::TooManyRooms);
        }
        if is_full && new_users + new_rooms > 0 {
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// The version that a WATCH has seen already; none where everything is to be told.
    fn known_since(&self, at: Moment, since: &Since) -> Option<Version> {
        let Since::Readable(Cursor { process, version }) = *since else { return None };
        let history_began = Version::at_ms(at.unix_ms.saturating_sub(self.terms.history_ms));
        let is_known = process == self.terms.process
            && version >= self.terms.began.max(history_began)
            && version <= Version::at_ms(at.unix_ms + 1);
        is_known.then_some(version)
    }

    /// Has a watcher watch a user; where it did not, the new edge goes to `edges`.
    fn watch_user(&mut self, watcher: u32, user: UserRef, edges: &mut Vec<Edge>, posts: &mut Posts) -> u32 {
        let own = self.watchers[watcher].user == user.hash;
        let partition = user.hash.partition(self.terms.partitions);
        let index = self.followed_user(&user);
        if self.watchers[watcher].edge(index).is_none() {
            edges.push(Edge { user: index, slot: self.users[index].watch(watcher, own) });
        }
        let record = &mut self.users[index];
        if !record.is_followed {
            record.is_followed = true;
        } else if !own {
            return index;
        }
        // What the user's own connections see is asked for anew: its partition tells it to those it knows of.
        self.users[index].asked += 1;
        posts.send(partition, Post::Follow { shard: self.shard, user });
        index
    }

    fn watch_room(
        &mut self,
        watcher: u32,
        room: RoomRef,
        detail: Detail,
        since: Option<Version>,
        posts: &mut Posts,
    ) -> SnapshotRoom {
        let partition = room.hash().partition(self.terms.partitions);
        let index = self.followed_room(&room);
        match self.watchers[watcher].rooms.iter_mut().find(|edge| edge.room == index) {
            Some(edge) if edge.detail == detail => {}
            Some(edge) => {
                edge.detail = detail;
                // What is left of a change is told by the state.
                if let Some(backlog) = &mut self.watchers[watcher].backlog {
                    backlog.forget_room(index);
                }
            }
            None => {
                let slot = self.rooms[index].watch(watcher);
                self.watchers[watcher].rooms.push(RoomEdge::new(index, slot, detail));
            }
        }
        let depth = match detail {
            Detail::Full => Depth::Full,
            Detail::Count => Depth::Count,
        };
        let id = self.id_of(watcher);
        let record = &mut self.rooms[index];
        let is_known = record.depth.is_some_and(|followed| followed >= depth)
            && !(record.is_truncated && depth == Depth::Full)
            && (since.is_none() || depth == Depth::Count);
        if is_known {
            return SnapshotRoom::new(index, None);
        }
        self.questions = self.questions.wrapping_add(1);
        record.depth = record.depth.max(Some(depth));
        record.waiting.push_back((id, self.questions));
        posts.send(partition, Post::FollowRoom(RoomQuestion { shard: self.shard, room, depth, since }));
        SnapshotRoom::new(index, Some(self.questions))
    }

    fn unwatch_user(&mut self, watcher: u32, user: u32, posts: &mut Posts) {
        let record = &mut self.watchers[watcher];
        let Ok(position) = record.users.binary_search_by_key(&user, |edge| edge.user) else { return };
        let Edge { slot, .. } = record.users.remove(position);
        record.pending.retain(|&pending| pending != user);
        for snapshot in &mut record.snapshots {
            snapshot.forget_user(user);
        }
        let is_member = record.rooms.iter().any(|edge| self.users[user].rooms.contains(&edge.room));
        if let Some(backlog) = record.backlog.as_mut().filter(|_| !is_member) {
            backlog.forget_user(&self.users[user].user.id);
        }
        self.edges -= 1;
        self.remove_from_user(user, slot);
        self.let_go_of_user(user, posts);
    }

    fn unwatch_room(&mut self, watcher: u32, room: u32, posts: &mut Posts) {
        let record = &mut self.watchers[watcher];
        let Some(position) = record.rooms.iter().position(|edge| edge.room == room) else { return };
        let RoomEdge { slot, .. } = record.rooms.swap_remove(position);
        for snapshot in &mut record.snapshots {
            snapshot.forget_room(room);
        }
        if let Some(backlog) = &mut record.backlog {
            backlog.forget_room(room);
        }
        self.remove_from_room(room, slot);
        self.let_go_of_room(room, posts);
    }

    /// Takes the watcher at `slot` of a user out, and tells the one that moves there its new slot.
    fn remove_from_user(&mut self, user: u32, slot: u32) {
        let Some(moved) = self.users[user].unwatch(slot) else { return };
        let edges = &mut self.watchers[watcher_of(moved)].users;
        if let Ok(position) = edges.binary_search_by_key(&user, |edge| edge.user) {
            edges[position].slot = slot;
        }
    }

    fn remove_from_room(&mut self, room: u32, slot: u32) {
        let Some(moved) = self.rooms[room].unwatch(slot) else { return };
        if let Some(edge) = self.watchers[moved].rooms.iter_mut().find(|edge| edge.room == room) {
            edge.slot = slot;
        }
    }

    /// Follows a user no more whom nobody watches, and forgets one of whom nothing is known by a room either.
    fn let_go_of_user(&mut self, user: u32, posts: &mut Posts) {
        let record = &mut self.users[user];
        if !record.watchers.is_empty() || record.asked > 0 {
            return;
        }
        if std::mem::take(&mut record.is_followed) {
            record.own = None;
            record.is_answered = false;
            let partition = record.user.hash.partition(self.terms.partitions);
            self.follows[partition].0 -= 1;
            posts.send(partition, Post::Unfollow { shard: self.shard, user: record.user.clone() });
        }
        if record.rooms.is_empty() {
            let record = self.users.remove(user);
            if let Some(FollowedUser { user: name, told, .. }) = record {
                self.told_bytes -= told.map_or(0, |told| told.held_bytes());
                self.users_by_hash.remove(name.hash.0, user);
            }
        }
    }

    /// Follows a room no more that nobody watches.
    fn let_go_of_room(&mut self, room: u32, posts: &mut Posts) {
        let record = &self.rooms[room];
        if !record.watchers.is_empty() || !record.waiting.is_empty() {
            return;
        }
        self.drop_members(room, posts);
        let Some(record) = self.rooms.remove(room) else { return };
        self.rooms_by_hash.remove(record.room.hash().0, room);
        let partition = record.room.hash().partition(self.terms.partitions);
        if record.is_live {
            self.follows[partition].1 -= 1;
        }
        posts.send(partition, Post::UnfollowRoom { shard: self.shard, room: record.room });
    }

    /// A presence of a user that may be newer than what is known; true when it is, and was noted with all who see it.
    fn renew(&mut self, at: Moment, user: u32, told: &Arc<Told>) -> bool {
        let record = &mut self.users[user];
        let before = match &record.told {
            Some(known) if known.version >= told.version => return false,
            // Nothing is known of the user but when that was forgotten. Who is there, as before but by a newer version,
            // was another meanwhile, of which another shard may have told who watches here now.
            Some(known) if told.is_offline() && known.json() == told.json() => {
                record.told = Some(Arc::clone(told));
                return false;
            }
            known => known.as_ref().map(|known| known.held_bytes()),
        };
        record.told = Some(Arc::clone(told));
        record.forget_stale_own();
        self.told_bytes += told.held_bytes();
        self.told_bytes -= before.unwrap_or(0);
        if before.is_none() {
            return false;
        }
        self.mark_watchers(at, user, false);
        for position in (0..self.users[user].rooms.len()).rev() {
            let room = self.users[user].rooms[position];
            let record = &mut self.rooms[room];
            if told.is_offline() {
                // That it left may come later, by way of the room: nobody is told of a member that is offline.
                record.members.remove(&told.user.id);
                record.expect_leave(told);
                record.note(LogEntry::Left(told.user.id.clone(), told.version));
                self.users[user].rooms.swap_remove(position);
            } else {
                record.refresh_member(told);
                record.note(LogEntry::Changed(told.user.id.clone()));
            }
            self.trim_log(room);
            self.wake_room(at, room);
        }
        true
    }

    /// Notes with a user's watchers that it changed; with those of the user's own connections alone if `own_only`.
    fn mark_watchers(&mut self, at: Moment, user: u32, own_only: bool) {
        let mut entries = std::mem::take(&mut self.users[user].watchers);
        let lost = usize::from(is_on(Break::LostChange));
        for entry in entries.iter_mut().skip(lost) {
            if is_dirty(*entry) || own_only && !is_own(*entry) {
                continue;
            }
            *entry = tables::dirty(*entry);
            let watcher = watcher_of(*entry);
            self.watchers[watcher].pending.push(user);
            self.make_due(at, watcher);
        }
        self.users[user].watchers = entries;
    }

    fn room_event(&mut self, at: Moment, room: u32, event: &RoomEvent, posts: &mut Posts) {
        match event {
            RoomEvent::Joined(told, version) => {
                let user = self.followed_user(&told.user);
                self.renew(at, user, told);
                self.rooms[room].forget_early(&told.user.id);
                let told = self.newest(user, told);
                if told.is_offline() {
                    self.rooms[room].expect_leave(&told);
                    return self.let_go_of_user(user, posts);
                }
                // Who left and came back while the partition could not tell has been a member all along for those who
                // watch here, and not for who comes from another shard, where it was told to have left.
                if let Some(member) = self.rooms[room].members.get_mut(&told.user.id) {
                    member.joined = member.joined.max(*version);
                    return;
                }
                self.add_member(room, user, *version);
                self.rooms[room].note(LogEntry::Joined(told.user.id.clone()));
            }
            RoomEvent::Left(told) => {
                self.rooms[room].forget_early(&told.user.id);
                let Some((ByUserId(known), MemberEntry { user, .. })) =
                    self.rooms[room].members.remove_entry(&told.user.id)
                else {
                    return;
                };
                self.users[user].leave(room);
                self.rooms[room].note(LogEntry::Left(known.user.id.clone(), known.version));
                self.let_go_of_user(user, posts);
            }
            RoomEvent::Changed(told) => {
                // Who went and came back between two looks of the room's has been a member all along for the room.
                if self.rooms[room].early.iter().any(|gone| gone.user.id == told.user.id) {
                    return self.room_event(at, room, &RoomEvent::Joined(Arc::clone(told), told.version), posts);
                }
                if let Some(user) = self.find_user(told.user.hash, &told.user.id) {
                    self.renew(at, user, told);
                    self.let_go_of_user(user, posts);
                }
            }
        }
        self.trim_log(room);
    }

    fn newest(&self, user: u32, told: &Arc<Told>) -> Arc<Told> {
        Arc::clone(self.users[user].told.as_ref().unwrap_or(told))
    }

    fn add_member(&mut self, room: u32, user: u32, joined: Version) {
        let Some(told) = self.users[user].told.clone() else { return };
        if self.rooms[room].members.insert(ByUserId(told), MemberEntry { user, joined }).is_none() {
            self.users[user].rooms.push(room);
        }
    }

    /// Puts `members` in the place of those who are known in a room.
    fn install(&mut self, at: Moment, room: u32, members: &[(Arc<Told>, Version)], posts: &mut Posts) {
        // Those who stay are found again below: nobody is let go of in between.
        let before = std::mem::take(&mut self.rooms[room].members);
        for MemberEntry { user, .. } in before.values() {
            self.users[*user].leave(room);
        }
        self.rooms[room].early.clear();
        for (told, joined) in members {
            let user = self.followed_user(&told.user);
            self.renew(at, user, told);
            let told = self.newest(user, told);
            if told.is_offline() {
                self.rooms[room].expect_leave(&told);
                self.let_go_of_user(user, posts);
            } else {
                self.add_member(room, user, *joined);
            }
        }
        for MemberEntry { user, .. } in before.into_values() {
            if self.users.get(user).is_some_and(|user| user.rooms.is_empty()) {
                self.let_go_of_user(user, posts);
            }
        }
        let record = &mut self.rooms[room];
        record.has_members = true;
        record.forget_log();
        self.recount_room(room);
    }

    fn drop_members(&mut self, room: u32, posts: &mut Posts) {
        let members = std::mem::take(&mut self.rooms[room].members);
        for MemberEntry { user, .. } in members.into_values() {
            self.users[user].leave(room);
            self.let_go_of_user(user, posts);
        }
        let record = &mut self.rooms[room];
        record.early.clear();
        record.has_members = false;
        record.forget_log();
        self.recount_room(room);
    }

    /// A room is too large to be told by name from now on, or no more.
    fn set_truncated(&mut self, at: Moment, room: u32, is_truncated: bool, count: usize, posts: &mut Posts) {
        if std::mem::replace(&mut self.rooms[room].is_truncated, is_truncated) == is_truncated || !is_truncated {
            return;
        }
        self.drop_members(room, posts);
        // Those who knew the members knew a newer count than was told to those who watch the count alone.
        self.rooms[room].count = count;
        self.rooms[room].count_waits = false;
        self.release_count(at, room);
        for position in 0..self.rooms[room].watchers.len() {
            let watcher = self.rooms[room].watchers[position];
            self.make_ready(watcher);
        }
    }

    /// How many are in a room; those who watch the count alone are told once a second at most.
    fn set_count(&mut self, at: Moment, room: u32, count: usize) {
        let record = &mut self.rooms[room];
        record.count = count;
        if record.count == record.released_count || record.count_waits {
            return;
        }
        let due_ms = record.released_ms + COUNT_INTERVAL_MS;
        if record.released_ms == 0 || due_ms <= at.elapsed_ms {
            return self.release_count(at, room);
        }
        record.count_waits = true;
        self.counts.push(Reverse((due_ms, room)));
    }

    fn release_count(&mut self, at: Moment, room: u32) {
        let record = &mut self.rooms[room];
        record.released_count = record.count;
        record.released_ms = at.elapsed_ms.max(1);
        self.wake_room(at, room);
    }

    /// Has those of a room's watchers told who have something to be told of it.
    fn wake_room(&mut self, at: Moment, room: u32) {
        for position in 0..self.rooms[room].watchers.len() {
            let watcher = self.rooms[room].watchers[position];
            let record = &self.rooms[room];
            let has_news = self.watchers[watcher].room_edge(room).is_some_and(|edge| record.has_news_for(edge));
            if has_news {
                self.make_due(at, watcher);
            }
        }
    }

    /// Forgets what all have been told, and what would be too much to keep for one who was not.
    fn trim_log(&mut self, room: u32) {
        self.recount_room(room);
        let record = &self.rooms[room];
        if record.log.len() < record.trim_at {
            return;
        }
        let edges = record.watchers.iter().filter_map(|&watcher| self.watchers[watcher].room_edge(room));
        let told = edges.filter(|edge| edge.detail == Detail::Full).map(|edge| edge.told).min().unwrap_or(u64::MAX);
        self.rooms[room].trim(told, self.terms.bounds.log_entries);
        self.recount_room(room);
    }

    /// Counts anew what is kept of a room's members, and of what happened in it.
    fn recount_room(&mut self, room: u32) {
        let record = &mut self.rooms[room];
        let bytes = record.kept_bytes();
        self.counted_bytes = self.counted_bytes + bytes - std::mem::replace(&mut record.counted_bytes, bytes);
    }

    /// Counts anew what a watcher is still to be told.
    fn recount_watcher(&mut self, watcher: u32) {
        let record = &mut self.watchers[watcher];
        let bytes = record.owed_bytes();
        self.counted_bytes = self.counted_bytes + bytes - std::mem::replace(&mut record.counted_bytes, bytes);
    }

    /// A watcher is to be told of a room anew.
    fn restart(&mut self, watcher: u32, room: u32) {
        let record = &mut self.watchers[watcher];
        if record.room_edge(room).is_none_or(|edge| edge.detail == Detail::Count) {
            return;
        }
        // One restart is enough until it has been told.
        let is_queued = |snapshot: &Snapshot| snapshot.restarts(room);
        if !record.snapshots.iter().any(is_queued) {
            record.snapshots.push_back(Snapshot::restart(room));
            self.recount_watcher(watcher);
        }
        self.make_ready(watcher);
    }

    /// Up to which version every watcher without news has been told everything.
    fn cursor(&self, at: Moment) -> Version {
        let mut told = Version(Version::at_ms(at.unix_ms).0.saturating_sub(1));
        if is_on(Break::CursorTooNew) {
            return told;
        }
        for (follows, (users, rooms)) in self.follows.iter().zip(&self.watermarks) {
            if follows.0 > 0 {
                told = told.min(*users);
            }
            if follows.1 > 0 {
                told = told.min(*rooms);
            }
        }
        Version::at_ms(told.unix_ms().saturating_sub(self.terms.cursor_slack_ms)).max(self.terms.began)
    }

    /// Whether no cursor says what a watcher knows: it was told that somebody, who is offline, is in a room no more,
    /// and the room's partition may never tell, if the user is back before it hears of that.
    fn is_ahead_of_rooms(&self, watcher: u32) -> bool {
        self.watchers[watcher].rooms.iter().any(|edge| self.rooms[edge.room].is_ahead_for(edge))
    }

    /// The cursor of what a watcher is told now, after which it has been told everything.
    fn cursor_for(&self, at: Moment, watcher: u32) -> Version {
        if self.is_ahead_of_rooms(watcher) { Version::default() } else { self.cursor(at) }
    }

    /// The cursor of a state that is about to be told: what the watcher is still to be told beside it is not claimed.
    fn cursor_of_state(&self, at: Moment, watcher: u32, snapshot: &Snapshot) -> Version {
        let record = &self.watchers[watcher];
        let owes_users = !record.pending.is_empty() && {
            let told: HashSet<u32> = snapshot.users.iter().copied().collect();
            record.pending.iter().any(|user| !told.contains(user))
        };
        let is_told = |room: u32| snapshot.rooms.iter().any(|told| told.room == room);
        let is_owed = |edge: &RoomEdge| !is_told(edge.room) && self.rooms[edge.room].has_news_for(edge);
        let owes_state = record.snapshots.iter().any(Snapshot::is_unasked);
        if owes_users || owes_state || record.rooms.iter().any(is_owed) {
            record.told_until
        } else {
            self.cursor_for(at, watcher)
        }
    }

    /// Which of its states a watcher is told next: what has begun goes on, and of those that it did not ask for none
    /// begins while it is inactive.
    fn next_state(&self, watcher: u32) -> Option<usize> {
        let record = &self.watchers[watcher];
        let has_begun = |state: &Snapshot| state.cursor.is_some();
        let may_begin = |state: &Snapshot| record.is_active || !state.is_unasked();
        record.snapshots.iter().position(has_begun).or_else(|| record.snapshots.iter().position(may_begin))
    }

    fn is_ready(&self, watcher: u32, snapshot: &mut Snapshot) -> bool {
        while let Some(&user) = snapshot.users.get(snapshot.checked) {
            let record = &self.users[user];
            // What the user's own connections ask anew holds nobody else up: that would show that they are there.
            let is_own = self.watchers[watcher].user == record.user.hash;
            let is_awaited = if is_own { record.asked > 0 } else { !record.is_answered };
            if is_awaited || record.told.is_none() {
                return false;
            }
            snapshot.checked += 1;
        }
        snapshot.rooms.iter().all(|asked| {
            let detail = self.watchers[watcher].room_edge(asked.room).map_or(Detail::Count, |edge| edge.detail);
            asked.awaits.is_none() && self.rooms[asked.room].can_be_told(detail)
        })
    }

    /// Whether it is known who left the rooms of a state since their partitions answered, where that is told.
    fn knows_who_left(&self, watcher: u32, snapshot: &Snapshot) -> bool {
        let is_known = |asked: &SnapshotRoom| {
            let edge = self.watchers[watcher].room_edge(asked.room);
            let is_named = edge.is_some_and(|edge| edge.detail == Detail::Full);
            !is_named || self.rooms[asked.room].since(asked.happened).is_some()
        };
        snapshot.since.is_none() || snapshot.rooms.iter().all(is_known)
    }

    /// Has a watcher told if the state that comes next can be made.
    fn wake_if_ready(&mut self, watcher: u32) {
        let Some(position) = self.next_state(watcher) else { return };
        let mut snapshots = std::mem::take(&mut self.watchers[watcher].snapshots);
        let is_ready = snapshots.get_mut(position).is_some_and(|next| self.is_ready(watcher, next));
        self.watchers[watcher].snapshots = snapshots;
        if is_ready {
            self.make_ready(watcher);
        }
    }

    fn make_ready(&mut self, watcher: u32) {
        let id = self.id_of(watcher);
        if !std::mem::replace(&mut self.watchers[watcher].is_ready, true) {
            self.ready.push_back(id);
        }
    }

    /// Has a watcher that was told something told the rest.
    fn make_ready_for_more(&mut self, watcher: u32) {
        if self.has_news(watcher) || !self.watchers[watcher].snapshots.is_empty() {
            self.make_ready(watcher);
        }
    }

    fn make_due(&mut self, at: Moment, watcher: u32) {
        let id = self.id_of(watcher);
        let record = &mut self.watchers[watcher];
        if record.is_active && !record.is_ready && !std::mem::replace(&mut record.is_due, true) {
            self.due.push_back((at.elapsed_ms + self.terms.change_interval_ms, id));
        }
    }

    fn id_of(&self, watcher: u32) -> WatcherId {
        WatcherId { index: watcher, stamp: self.watchers[watcher].stamp }
    }

    fn is_current(&self, id: WatcherId) -> bool {
        self.watchers.get(id.index).is_some_and(|watcher| watcher.stamp == id.stamp)
    }

    fn find_user(&self, hash: NameHash, id: &UserId) -> Option<u32> {
        self.users_by_hash.find(hash.0, |index| self.users[index].user.id == *id)
    }

    fn find_room(&self, hash: NameHash, name: &RoomName) -> Option<u32> {
        self.rooms_by_hash.find(hash.0, |index| self.rooms[index].room.name() == name)
    }

    fn followed_user(&mut self, user: &UserRef) -> u32 {
        if let Some(known) = self.find_user(user.hash, &user.id) {
            return known;
        }
        let index = self.users.insert(FollowedUser::new(user.clone()));
        self.users_by_hash.insert(user.hash.0, index, |other| self.users[other].user.hash.0);
        index
    }

    fn followed_room(&mut self, room: &RoomRef) -> u32 {
        if let Some(known) = self.find_room(room.hash(), room.name()) {
            return known;
        }
        let index = self.rooms.insert(FollowedRoom::new(room.clone()));
        self.rooms_by_hash.insert(room.hash().0, index, |other| self.rooms[other].room.hash().0);
        index
    }
}
