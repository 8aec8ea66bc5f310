//! What watchers are told, as messages.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::snapshot::{RoomRest, Snapshot};
use super::tables::{FollowedRoom, LogEntry, RoomEdge, is_own};
use super::{Moment, Said, Told, WatchTable};
use crate::breaks::{Break, is_on};
use crate::protocol::cursor::{Cursor, Version};
use crate::protocol::frame;
use crate::protocol::message::Detail;
use crate::protocol::message::write::{write_integer, write_json_string, write_text, write_timestamp};
use crate::protocol::timestamp::Timestamp;
use crate::protocol::user_id::UserId;

/// Changes that are told in one message, or in several where they are too many.
#[derive(Debug, Default)]
pub struct Backlog {
    users: VecDeque<Arc<Told>>,
    rooms: VecDeque<RoomChange>,
    /// The cursor of its last message.
    cursor: Version,
}

/// What happened in one room.
#[derive(Debug)]
struct RoomChange {
    /// What the watcher knew of it before.
    before: RoomEdge,
    count: usize,
    joined: VecDeque<Arc<Told>>,
    left: VecDeque<UserId>,
    is_truncated: bool,
}

impl Backlog {
    /// The user is watched no more, and a member of no watched room.
    pub fn forget_user(&mut self, user: &UserId) {
        self.users.retain(|told| told.user.id != *user);
    }

    /// The room is watched no more.
    pub fn forget_room(&mut self, room: u32) {
        self.rooms.retain(|change| change.before.room != room);
    }

    /// Bytes of its lists, about; the presences to which they point are not in them.
    pub fn held_bytes(&self) -> usize {
        let of_room = |change: &RoomChange| {
            change.joined.len() * size_of::<Arc<Told>>() + change.left.len() * size_of::<UserId>()
        };
        self.users.len() * size_of::<Arc<Told>>()
            + self.rooms.len() * size_of::<RoomChange>()
            + self.rooms.iter().map(of_room).sum::<usize>()
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.rooms.is_empty()
    }
}

impl WatchTable {
    /// Writes the next message of a state; true when it was the last.
    pub(super) fn write_state(
        &mut self,
        watcher: u32,
        snapshot: &mut Snapshot,
        timestamp: &Timestamp,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut is_last = false;
        frame::write_text(out, |out| {
            let mut message =
                Message::begin(out, self.terms.bounds.message_bytes, "PRESENCE_STATE", &snapshot.id, timestamp);
            self.write_state_users(watcher, snapshot, &mut message);
            message.begin_rooms();
            if snapshot.users_written == snapshot.users.len() {
                self.write_state_rooms(watcher, snapshot, &mut message);
                is_last = snapshot.rooms_written == snapshot.rooms.len();
            }
            let cursor = Cursor { process: self.terms.process, version: snapshot.cursor.unwrap_or_default() };
            message.end(Some(snapshot.since.is_none()), is_last.then_some(cursor));
        });
        is_last
    }

    fn write_state_users(&mut self, watcher: u32, snapshot: &mut Snapshot, message: &mut Message<'_>) {
        while let Some(&user) = snapshot.users.get(snapshot.users_written) {
            if let Some(edge) = self.watchers[watcher].edge(user) {
                let record = &mut self.users[user];
                let told =
                    record.seen_at(edge.slot).filter(|told| snapshot.since.is_none_or(|since| told.version > since));
                if told.is_some_and(|told| !message.add(told.json())) {
                    return;
                }
                record.clean(edge.slot);
            }
            snapshot.users_written += 1;
        }
    }

    fn write_state_rooms(&mut self, watcher: u32, snapshot: &mut Snapshot, message: &mut Message<'_>) {
        while let Some(asked) = snapshot.rooms.get_mut(snapshot.rooms_written) {
            let record = &self.rooms[asked.room];
            let begins = asked.rest.is_none();
            if begins && !message.has_room(room_bytes(record)) {
                return;
            }
            for (told, _) in asked.names.iter_mut().filter(|_| begins) {
                // The answer may be older than what has been told since.
                let newest =
                    self.find_user(told.user.hash, &told.user.id).and_then(|user| self.users[user].told.as_ref());
                if let Some(newest) = newest.filter(|newest| newest.version > told.version) {
                    *told = Arc::clone(newest);
                }
            }
            let Some(edge) = self.watchers[watcher].rooms.iter_mut().find(|edge| edge.room == asked.room) else {
                snapshot.rooms_written += 1;
                continue;
            };
            let since = snapshot.since;
            let is_named = edge.detail == Detail::Full;
            if begins && since.is_some() && record.names_members_to(edge) && record.since(asked.happened).is_none() {
                // The state had begun before the room began anew, too late to say that it tells everything.
                snapshot.cursor = Some(Version::default());
                snapshot.rooms_written += 1;
                let room = asked.room;
                self.restart(watcher, room);
                continue;
            }
            if record.is_ahead_for(edge) {
                snapshot.cursor = Some(Version::default());
            }
            let rest = asked.rest.get_or_insert_with(|| {
                edge.catch_up(record);
                RoomRest {
                    count: record.count_for(edge),
                    is_truncated: record.is_truncated && is_named,
                    members: members_to_tell(record, edge, since, &std::mem::take(&mut asked.names)),
                    left: left_to_tell(record, edge, since, asked.happened, std::mem::take(&mut asked.left)),
                }
            });
            if !is_named {
                // Since its first part was told the room has been watched anew, for its count alone.
                rest.members.clear();
                rest.left.clear();
            }
            // A count is told a while after it was true, so a cursor does not say which one is known.
            let is_worth_telling = !rest.is_empty()
                || begins
                    && (since.is_none()
                        || record.version > since.unwrap_or_default()
                        || !record.names_members_to(edge));
            if is_worth_telling {
                let named = (is_named && (since.is_none() || !rest.members.is_empty())).then_some("members");
                let list = (named, &mut rest.members);
                if !message.add_room(record, rest.count, list, &mut rest.left, rest.is_truncated) {
                    return;
                }
            }
            snapshot.rooms_written += 1;
        }
    }

    /// Writes the next message of what changed for a watcher, if anything did.
    pub(super) fn deliver_change(
        &mut self,
        at: Moment,
        watcher: u32,
        timestamp: &Timestamp,
        out: &mut Vec<u8>,
    ) -> Said {
        let waiting = self.watchers[watcher].backlog.take();
        let is_first = waiting.is_none();
        let mut backlog = match waiting {
            Some(backlog) => backlog,
            None => {
                if !self.describe_news(watcher) {
                    return Said::Nothing;
                }
                if let Some(shared) = self.find_shared() {
                    self.catch_up(watcher);
                    self.watchers[watcher].told_until = self.cursor_for(at, watcher);
                    return Said::Shared(shared);
                }
                let backlog = self.gather(at, watcher);
                if !self.watchers[watcher].snapshots.is_empty() {
                    // A room must be told anew, and whatever else changed is told with its state first.
                    self.make_ready(watcher);
                }
                Box::new(backlog)
            }
        };
        if !is_first {
            backlog.users.retain(|told| !self.is_overtaken(watcher, told));
        }
        if backlog.is_empty() {
            self.watchers[watcher].told_until = backlog.cursor;
            self.make_ready_for_more(watcher);
            return Said::Nothing;
        }
        let start = out.len();
        let told_until = self.watchers[watcher].told_until;
        frame::write_text(out, |out| {
            let mut message = Message::begin(out, self.terms.bounds.message_bytes, "PRESENCE_CHANGE", &[], timestamp);
            while let Some(told) = backlog.users.front()
                && message.add(told.json())
            {
                backlog.users.pop_front();
            }
            message.begin_rooms();
            if backlog.users.is_empty() {
                self.write_changed_rooms(&mut backlog, &mut message);
            }
            let version = if backlog.is_empty() { backlog.cursor } else { told_until };
            message.end(None, Some(Cursor { process: self.terms.process, version }));
        });
        if backlog.is_empty() {
            self.watchers[watcher].told_until = backlog.cursor;
            if is_first && !self.scratch.is_empty() {
                self.shared.push((std::mem::take(&mut self.scratch).into_boxed_slice(), start..out.len()));
            }
        } else {
            self.watchers[watcher].backlog = Some(backlog);
        }
        self.make_ready_for_more(watcher);
        Said::Change
    }

    fn write_changed_rooms(&self, backlog: &mut Backlog, message: &mut Message<'_>) {
        while let Some(change) = backlog.rooms.front_mut() {
            let record = &self.rooms[change.before.room];
            let joined = (!change.joined.is_empty()).then_some("joined");
            let list = (joined, &mut change.joined);
            if !message.add_room(record, change.count, list, &mut change.left, change.is_truncated) {
                return;
            }
            backlog.rooms.pop_front();
        }
    }

    /// Whether something newer than `told` is to be told later, or the watcher is to know of the user no more.
    fn is_overtaken(&self, watcher: u32, told: &Told) -> bool {
        let Some(user) = self.find_user(told.user.hash, &told.user.id) else { return true };
        let record = &self.users[user];
        match self.watchers[watcher].edge(user) {
            Some(edge) => record.is_dirty_at(edge.slot),
            None => record.told.as_ref().is_some_and(|newest| newest.version > told.version),
        }
    }

    /// Notes what is left of a backlog as not told, for one that is not to be told on: what is told to it before may be
    /// newer.
    pub(super) fn put_back(&mut self, watcher: u32, backlog: Backlog) {
        for told in backlog.users {
            let Some(user) = self.find_user(told.user.hash, &told.user.id) else { continue };
            if let Some(edge) = self.watchers[watcher].edge(user) {
                if self.users[user].dirty(edge.slot) {
                    self.watchers[watcher].pending.push(user);
                }
            } else {
                let rooms = &self.users[user].rooms;
                let seen_in = |edge: &&RoomEdge| edge.detail == Detail::Full && rooms.contains(&edge.room);
                if let Some(room) = self.watchers[watcher].rooms.iter().find(seen_in).map(|edge| edge.room) {
                    self.restart(watcher, room);
                }
            }
        }
        for RoomChange { before, joined, left, .. } in backlog.rooms {
            if joined.is_empty() && left.is_empty() {
                let edges = &mut self.watchers[watcher].rooms;
                if let Some(edge) = edges.iter_mut().find(|edge| edge.room == before.room) {
                    edge.counted = before.counted;
                    edge.truncation_told = before.truncation_told;
                }
            } else {
                self.restart(watcher, before.room);
            }
        }
    }

    /// Whether a watcher has changes that it was not told.
    pub(super) fn has_news(&self, watcher: u32) -> bool {
        let record = &self.watchers[watcher];
        record.is_active
            && (!record.pending.is_empty()
                || record.backlog.is_some()
                || record.rooms.iter().any(|edge| self.rooms[edge.room].has_news_for(edge)))
    }

    /// Forgets of a watcher's changes those that it has been told by a state.
    pub(super) fn drop_told(&mut self, watcher: u32) {
        let mut pending = std::mem::take(&mut self.watchers[watcher].pending);
        pending.retain(|&user| {
            let edge = self.watchers[watcher].edge(user);
            edge.is_some_and(|edge| self.users[user].is_dirty_at(edge.slot))
        });
        self.watchers[watcher].pending = pending;
    }

    /// Puts into `scratch` what determines a watcher's next message; empty where nobody else can get the same. False
    /// when there is nothing to be told.
    fn describe_news(&mut self, watcher: u32) -> bool {
        let mut key = std::mem::take(&mut self.scratch);
        key.clear();
        let record = &self.watchers[watcher];
        let mut sees_own = false;
        for &user in &record.pending {
            key.push(user);
            let has_own = self.users[user].own.is_some();
            sees_own |=
                has_own && record.edge(user).is_some_and(|edge| is_own(self.users[user].watchers[edge.slot as usize]));
        }
        for edge in &record.rooms {
            let room = &self.rooms[edge.room];
            if room.has_news_for(edge) {
                let flags = u32::from(edge.detail == Detail::Full) | u32::from(edge.truncation_told) << 1;
                key.extend([u32::MAX, edge.room, (edge.told >> 32) as u32, edge.told as u32, flags]);
            }
        }
        let has_news = !key.is_empty();
        if sees_own || self.is_ahead_of_rooms(watcher) {
            key.clear();
        }
        self.scratch = key;
        has_news
    }

    fn find_shared(&self) -> Option<Range<usize>> {
        let key = Some(&self.scratch[..]).filter(|key| !key.is_empty())?;
        if is_on(Break::SharedTooWidely) {
            return self.shared.last().map(|(_, shared)| shared.clone());
        }
        let (_, shared) = self.shared.iter().rev().find(|(other, _)| **other == *key)?;
        Some(shared.clone())
    }

    /// Takes together what a watcher is to be told, and notes that it was.
    fn gather(&mut self, at: Moment, watcher: u32) -> Backlog {
        let mut backlog = Backlog { cursor: self.cursor_for(at, watcher), ..Backlog::default() };
        let mut restarts = Vec::new();
        let record = &self.watchers[watcher];
        let mut named: HashSet<&UserId> = HashSet::new();
        let has_rooms = !record.rooms.is_empty();
        for &user in &record.pending {
            let seen = record.edge(user).and_then(|edge| self.users[user].seen_at(edge.slot));
            if let Some(told) = seen {
                backlog.users.push_back(Arc::clone(told));
                if has_rooms {
                    named.insert(&self.users[user].user.id);
                }
            }
        }
        for edge in &record.rooms {
            let room = &self.rooms[edge.room];
            if !room.has_news_for(edge) {
                continue;
            }
            if !room.names_members_to(edge) {
                let is_truncated = room.is_truncated && edge.detail == Detail::Full && !edge.truncation_told;
                let (joined, left) = (VecDeque::new(), VecDeque::new());
                let count = room.released_count;
                backlog.rooms.push_back(RoomChange { before: *edge, count, joined, left, is_truncated });
                continue;
            }
            let Some(net) = net_of(room, edge.told) else {
                restarts.push(edge.room);
                continue;
            };
            for told in net.changed {
                if named.insert(&told.user.id) {
                    backlog.users.push_back(Arc::clone(told));
                }
            }
            if !net.joined.is_empty() || !net.left.is_empty() {
                let change = RoomChange {
                    before: *edge,
                    count: room.members.len(),
                    joined: net.joined.into_iter().cloned().collect(),
                    left: net.left.into_iter().cloned().collect(),
                    is_truncated: false,
                };
                backlog.rooms.push_back(change);
            }
        }
        drop(named);
        if !restarts.is_empty() {
            // What a room's new state will say is not claimed before, and others with the same changes may lack it too.
            backlog.cursor = record.told_until;
            self.scratch.clear();
        }
        self.catch_up(watcher);
        if !restarts.is_empty() {
            backlog.cursor = self.watchers[watcher].told_until;
        }
        for room in restarts {
            self.restart(watcher, room);
        }
        backlog
    }

    /// Notes that a watcher has been told everything.
    fn catch_up(&mut self, watcher: u32) {
        let mut pending = std::mem::take(&mut self.watchers[watcher].pending);
        for user in pending.drain(..) {
            if let Some(edge) = self.watchers[watcher].edge(user) {
                self.users[user].clean(edge.slot);
            }
        }
        if is_on(Break::OfflineToldTwice) {
            let edges = self.watchers[watcher].users.iter().map(|edge| edge.user);
            let is_gone = |user: &u32| self.users[*user].told.as_ref().is_some_and(|told| told.is_offline());
            pending.extend(edges.filter(is_gone).take(1));
        }
        let record = &mut self.watchers[watcher];
        // What it needed in a storm it does not need at rest.
        if pending.capacity() <= PENDING_KEPT {
            record.pending = pending;
        }
        for edge in &mut record.rooms {
            let room = &self.rooms[edge.room];
            edge.catch_up(room);
        }
    }
}

/// How large a list of changed users a watcher keeps at rest.
const PENDING_KEPT: usize = 4;

/// The members of a room that a state tells.
fn members_to_tell(
    room: &FollowedRoom,
    edge: &RoomEdge,
    since: Option<Version>,
    names: &[(Arc<Told>, Version)],
) -> VecDeque<Arc<Told>> {
    if edge.detail == Detail::Count {
        return VecDeque::new();
    }
    let is_told = |told: &Told, joined: Version| since.is_none_or(|since| told.version > since || joined > since);
    if room.is_truncated {
        let is_named = |(told, joined): &&(Arc<Told>, Version)| !told.is_offline() && is_told(told, *joined);
        return names.iter().filter(is_named).map(|(told, _)| Arc::clone(told)).collect();
    }
    let members = room.members.iter().filter(|(member, entry)| is_told(&member.0, entry.joined));
    members.map(|(member, _)| Arc::clone(&member.0)).collect()
}

/// Who is to be told to have left a room: of those who `left` before its partition answered, and those who did since,
/// whoever is not back.
fn left_to_tell(
    room: &FollowedRoom,
    edge: &RoomEdge,
    since: Option<Version>,
    happened: u64,
    mut left: Vec<UserId>,
) -> VecDeque<UserId> {
    if since.is_none() || edge.detail == Detail::Count {
        return VecDeque::new();
    }
    for entry in room.since(happened).into_iter().flatten() {
        if let LogEntry::Left(id, _) = entry
            && !left.contains(id)
            && !is_on(Break::StaleSnapshot)
        {
            left.push(id.clone());
        }
    }
    left.into_iter().filter(|id| !room.has_member(id)).collect()
}

/// What happened in a room, taken together.
struct Net<'a> {
    joined: Vec<&'a Arc<Told>>,
    left: Vec<&'a UserId>,
    changed: Vec<&'a Arc<Told>>,
}

/// What happened in a room after `told` things had, taken together; none where that is known no more.
fn net_of(room: &FollowedRoom, told: u64) -> Option<Net<'_>> {
    /// Whether the user was a member before, and as what if it then left.
    struct Course {
        was_member: bool,
        known: Option<Version>,
    }
    let mut order = Vec::new();
    let mut courses: HashMap<&UserId, Course> = HashMap::new();
    for entry in room.since(told)? {
        let (id, was_member, known) = match entry {
            LogEntry::Joined(id) => (id, false, None),
            LogEntry::Left(id, version) => (id, true, Some(*version)),
            LogEntry::Changed(id) => (id, true, None),
        };
        courses.entry(id).or_insert_with(|| {
            order.push(id);
            Course { was_member, known }
        });
    }
    let mut net = Net { joined: Vec::new(), left: Vec::new(), changed: Vec::new() };
    for id in order {
        let course = &courses[id];
        let member = room.members.get_key_value(id).map(|(member, _)| &member.0);
        match (course.was_member, member) {
            // Who left and came back as it was has been there all along.
            (true, Some(told)) if course.known == Some(told.version) => {}
            (true, Some(told)) => net.changed.push(told),
            (false, Some(told)) => net.joined.push(told),
            (true, None) => net.left.push(id),
            (false, None) => {}
        }
    }
    Some(net)
}

/// The most bytes that a name takes in a list: escapes make six bytes of one.
fn escaped_bytes(name: &str) -> usize {
    name.len() * 6 + 3
}

/// The most bytes that a room takes with nobody in its lists.
fn room_bytes(room: &FollowedRoom) -> usize {
    escaped_bytes(room.room.name().as_str()) + 125
}

/// A message that is being written: lists of presences, then what ends it.
struct Message<'a> {
    out: &'a mut Vec<u8>,
    /// The end of the output that the lists may fill.
    end: usize,
    /// Whether the present list has an entry already.
    has_entry: bool,
}

impl<'a> Message<'a> {
    /// Begins a message of which `bytes` are there for its lists and what comes before them.
    fn begin(out: &'a mut Vec<u8>, bytes: usize, kind: &str, id: &[u8], timestamp: &Timestamp) -> Self {
        let end = out.len() + bytes;
        write_text(out, r#"{"type":""#);
        write_text(out, kind);
        write_text(out, "\"");
        out.extend_from_slice(id);
        write_timestamp(out, timestamp);
        write_text(out, r#","payload":{"users":["#);
        Self { out, end, has_entry: false }
    }

    /// Adds an entry to the present list; false when there is no room for it.
    fn add(&mut self, json: &str) -> bool {
        if !self.has_room(json.len() + 1) {
            return false;
        }
        self.separate();
        write_text(self.out, json);
        true
    }

    fn begin_rooms(&mut self) {
        write_text(self.out, r#"],"rooms":["#);
        self.has_entry = false;
    }

    /// Adds a room with what of its lists there is room for, which is taken out of them; true when that is all.
    fn add_room(
        &mut self,
        room: &FollowedRoom,
        count: usize,
        list: (Option<&str>, &mut VecDeque<Arc<Told>>),
        left: &mut VecDeque<UserId>,
        is_truncated: bool,
    ) -> bool {
        let (name, presences) = list;
        let first = presences.front().map(|told| told.json().len() + 1);
        let first = first.or_else(|| left.front().map(|id| escaped_bytes(id.as_str())));
        if !self.has_room(room_bytes(room) + first.unwrap_or_default()) {
            return false;
        }
        self.separate();
        write_text(self.out, r#"{"room":"#);
        write_json_string(self.out, room.room.name().as_str());
        write_text(self.out, r#","count":"#);
        write_integer(self.out, count as u64);
        if let Some(name) = name {
            write_text(self.out, ",\"");
            write_text(self.out, name);
            write_text(self.out, "\":[");
            self.has_entry = false;
            while let Some(told) = presences.front() {
                if !self.add(told.json()) {
                    break;
                }
                presences.pop_front();
            }
            write_text(self.out, "]");
        }
        if presences.is_empty()
            && let Some(id) = left.front()
            && self.has_room(escaped_bytes(id.as_str()))
        {
            write_text(self.out, r#","left":["#);
            self.has_entry = false;
            while let Some(id) = left.front()
                && self.has_room(escaped_bytes(id.as_str()))
            {
                self.separate();
                write_json_string(self.out, id.as_str());
                left.pop_front();
            }
            write_text(self.out, "]");
        }
        if is_truncated {
            write_text(self.out, r#","truncated":true"#);
        }
        write_text(self.out, "}");
        self.has_entry = true;
        presences.is_empty() && left.is_empty()
    }

    fn end(self, complete: Option<bool>, cursor: Option<Cursor>) {
        write_text(self.out, "]");
        if let Some(cursor) = cursor {
            write_text(self.out, r#","cursor":""#);
            write_text(self.out, cursor.to_text().as_str());
            write_text(self.out, "\"");
        }
        match complete {
            Some(true) => write_text(self.out, r#","complete":true"#),
            Some(false) => write_text(self.out, r#","complete":false"#),
            None => {}
        }
        write_text(self.out, "}}");
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.out.len() + bytes <= self.end
    }

    fn separate(&mut self) {
        if std::mem::replace(&mut self.has_entry, true) {
            write_text(self.out, ",");
        }
    }
}
