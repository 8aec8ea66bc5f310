//! The rooms of one partition: who is in them, and which shards are told of it.
//!
//! A user's partition says when the user comes into a room and leaves it, as far as others may see, and how it is
//! while it is there. A step costs the same however many are in a room, but for the logarithm of their order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use super::change::{
    ByUserId, Depth, Moment, Post, Posts, RoomEvent, RoomNews, RoomQuestion, RoomRef, RoomState, Told,
};
use super::clock::VersionClock;
use super::index::Index;
use crate::breaks::{Break, is_on};
use crate::protocol::cursor::Version;
use crate::protocol::user_id::UserId;
use crate::slab::Slab;

/// How often a count is told at most, in milliseconds.
pub const COUNT_INTERVAL_MS: u64 = 1_000;

/// What is the same for all partitions of a process.
#[derive(Clone, Debug)]
pub struct RoomTerms {
    /// How many partitions there are.
    pub partitions: usize,
    /// Members beyond which a room is told by its count alone.
    pub detail_limit: usize,
    /// How long it is remembered who left, in milliseconds.
    pub history_ms: u64,
    /// Departures that one partition remembers at most; older ones are forgotten first.
    pub departures_max: usize,
    /// When the process began to serve.
    pub began: Version,
}

/// The rooms whose hash falls to this partition.
#[derive(Debug)]
pub struct Rooms {
    terms: RoomTerms,
    clock: VersionClock,
    rooms: Slab<Room>,
    rooms_by_hash: Index,
    members: Slab<Member>,
    members_by_hash: Index,
    /// Rooms in which something happened that was not told yet.
    news: Vec<u32>,
    /// When which room's count may be told again, the earliest first: by the hash of the room.
    counts: BinaryHeap<Reverse<(u64, u64)>>,
    /// Rooms from which somebody left, in the order of the leaving, each with the time of it.
    departures: VecDeque<(u64, u32)>,
    /// What is not known any more has at most this version.
    floor: Version,
    /// For each shard, how many rooms it follows here.
    ties: Vec<u32>,
    /// For each partition, how many members it told of.
    sources: Vec<u32>,
}

#[derive(Debug)]
struct Room {
    room: RoomRef,
    /// Who is in it, in order of userId, each with the version of the joining.
    members: BTreeMap<ByUserId, Version>,
    followers: Vec<Follower>,
    /// Who left, in order: what they were with it would be a presence each that nobody else holds any more.
    left: VecDeque<(Version, UserId)>,
    /// Departures up to this version may have been forgotten.
    left_floor: Version,
    /// When somebody last came or went.
    version: Version,
    /// What happened since followers were told.
    events: Vec<RoomEvent>,
    /// When the count was last told, in milliseconds since the process began to serve.
    counted_ms: u64,
    has_news: bool,
    /// Whether the count waits to be told.
    count_waits: bool,
    is_truncated: bool,
    /// Whether its followers know that.
    truncation_told: bool,
}

#[derive(Clone, Copy, Debug)]
struct Follower {
    shard: u32,
    depth: Depth,
}

/// A user that is in some room of this partition.
#[derive(Debug)]
struct Member {
    told: Arc<Told>,
    rooms: Vec<u32>,
}

impl Rooms {
    /// A partition without rooms.
    pub fn new(terms: RoomTerms) -> Self {
        Self {
            ties: vec![0; terms.partitions],
            sources: vec![0; terms.partitions],
            clock: VersionClock::new(terms.began),
            terms,
            rooms: Slab::default(),
            rooms_by_hash: Index::default(),
            members: Slab::default(),
            members_by_hash: Index::default(),
            news: Vec::new(),
            counts: BinaryHeap::new(),
            departures: VecDeque::new(),
            floor: Version::default(),
        }
    }

    /// A user came into a room, or left it.
    pub fn member(&mut self, at: Moment, room: &RoomRef, told: Arc<Told>, is_member: bool) {
        if is_member { self.join(at, room, told) } else { self.leave(at, room, &told) }
    }

    /// A member's presence changed.
    pub fn member_told(&mut self, told: &Arc<Told>) {
        let Some(member) = self.find_member(told) else { return };
        if self.members[member].told.version >= told.version {
            return;
        }
        self.renew(member, told);
    }

    /// Tells a shard of a room, now and from now on.
    pub fn follow(&mut self, at: Moment, question: RoomQuestion, posts: &mut Posts) {
        let RoomQuestion { shard, room, depth, since } = question;
        let room = self.room_for(&room);
        // What is told from now on must not repeat what the answer holds already.
        self.tell(at, room, posts);
        let record = &mut self.rooms[room];
        match record.followers.iter_mut().find(|follower| follower.shard == shard) {
            Some(follower) => follower.depth = follower.depth.max(depth),
            None => {
                record.followers.push(Follower { shard, depth });
                self.ties[shard as usize] += 1;
            }
        }
        let state = self.state(at, room, Some(depth), since);
        posts.send(shard as usize, Post::RoomState(Box::new(state)));
    }

    /// Tells a shard of a room no more.
    pub fn unfollow(&mut self, shard: u32, room: &RoomRef) {
        let Some(room) = self.find(room) else { return };
        let followers = &mut self.rooms[room].followers;
        if let Some(position) = followers.iter().position(|follower| follower.shard == shard) {
            followers.swap_remove(position);
            self.ties[shard as usize] -= 1;
            self.tidy(room);
        }
    }

    /// Tells of all that happened and was not told yet.
    pub fn flush(&mut self, at: Moment, posts: &mut Posts) {
        for room in std::mem::take(&mut self.news) {
            if self.rooms.get(room).is_some_and(|room| room.has_news) {
                self.tell(at, room, posts);
                self.tidy(room);
            }
        }
    }

    /// Whether [`Rooms::flush`] has something to tell.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Does what is due by now.
    pub fn tick(&mut self, at: Moment, posts: &mut Posts) {
        while let Some(&Reverse((due_ms, hash))) = self.counts.peek()
            && due_ms <= at.elapsed_ms
        {
            self.counts.pop();
            let waits = self.rooms_by_hash.find(hash, |room| self.rooms[room].room.hash().0 == hash);
            if let Some(room) = waits.filter(|&room| self.rooms[room].count_waits) {
                self.rooms[room].count_waits = false;
                self.tell_count(at, room, posts);
            }
        }
        while let Some(&(left_ms, _)) = self.departures.front()
            && left_ms + self.terms.history_ms <= at.elapsed_ms
        {
            self.forget_departure();
        }
    }

    /// When [`Rooms::tick`] has something to do next, in milliseconds since the process began to serve.
    pub fn deadline_ms(&self) -> Option<u64> {
        let count = self.counts.peek().map(|&Reverse((due_ms, _))| due_ms);
        let departure = self.departures.front().map(|&(left_ms, _)| left_ms + self.terms.history_ms);
        [count, departure].into_iter().flatten().min()
    }

    /// How many rooms `shard` follows here.
    pub fn ties(&self, shard: usize) -> u32 {
        self.ties[shard]
    }

    /// How many members `partition` told of.
    pub fn sources(&self, partition: usize) -> u32 {
        self.sources[partition]
    }

    /// A version that no later one is at or below.
    pub fn horizon(&mut self, at: Moment) -> Version {
        self.clock.horizon(at.unix_ms)
    }

    /// How many rooms there are: those that somebody is in, watches, or has lately left.
    pub fn rooms(&self) -> usize {
        self.rooms.len()
    }

    /// Pairs of a room and a user in it.
    pub fn members(&self) -> usize {
        self.sources.iter().map(|&members| members as usize).sum()
    }

    /// How many are in a room, as others see it.
    pub fn count(&self, room: &RoomRef) -> usize {
        self.find(room).map_or(0, |room| self.rooms[room].members.len())
    }

    /// Bytes that rooms and their members hold, about.
    pub fn held_bytes(&self) -> usize {
        let memberships: u32 = self.sources.iter().sum();
        self.rooms.len() * Slab::<Room>::ENTRY_BYTES
            + self.members.len() * Slab::<Member>::ENTRY_BYTES
            + memberships as usize * MEMBERSHIP_BYTES
            + self.departures.len() * size_of::<(u64, u32, Version, UserId)>()
    }

    /// Whether nobody is in any room, nobody follows one, and nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.members.is_empty()
    }

    fn join(&mut self, at: Moment, room: &RoomRef, told: Arc<Told>) {
        let room = self.room_for(room);
        let source = told.user.hash.partition(self.terms.partitions);
        let member = self.find_member(&told).unwrap_or_else(|| {
            let hash = told.user.hash.0;
            let member = self.members.insert(Member { told: Arc::clone(&told), rooms: Vec::new() });
            self.members_by_hash.insert(hash, member, |other| self.members[other].told.user.hash.0);
            member
        });
        if self.members[member].told.version < told.version {
            self.renew(member, &told);
        }
        if self.members[member].rooms.contains(&room) {
            return;
        }
        self.members[member].rooms.push(room);
        self.sources[source] += 1;
        let version = self.clock.next(at.unix_ms);
        let told = Arc::clone(&self.members[member].told);
        let record = &mut self.rooms[room];
        record.members.insert(ByUserId(Arc::clone(&told)), version);
        record.version = version;
        if record.members.len() > self.terms.detail_limit {
            record.is_truncated = true;
        }
        self.note(room, Some(RoomEvent::Joined(told, version)));
    }

    fn leave(&mut self, at: Moment, room: &RoomRef, told: &Arc<Told>) {
        let (Some(room), Some(member)) = (self.find(room), self.find_member(told)) else { return };
        let Some(position) = self.members[member].rooms.iter().position(|&joined| joined == room) else { return };
        self.members[member].rooms.swap_remove(position);
        self.sources[told.user.hash.partition(self.terms.partitions)] -= 1;
        let version = self.clock.next(at.unix_ms);
        let record = &mut self.rooms[room];
        if !is_on(Break::CountDrift) {
            record.members.remove(&told.user.id);
        }
        record.version = version;
        record.left.push_back((version, told.user.id.clone()));
        self.departures.push_back((at.elapsed_ms, room));
        self.note(room, Some(RoomEvent::Left(Arc::clone(told))));
        if self.members[member].rooms.is_empty() {
            self.members_by_hash.remove(told.user.hash.0, member);
            self.members.remove(member);
        }
        if self.departures.len() > self.terms.departures_max {
            self.forget_departure();
        }
    }

    /// A member is told of anew, in all its rooms.
    fn renew(&mut self, member: u32, told: &Arc<Told>) {
        self.members[member].told = Arc::clone(told);
        for position in 0..self.members[member].rooms.len() {
            let room = self.members[member].rooms[position];
            let record = &mut self.rooms[room];
            // The key holds the presence: the userId in it is the same.
            if let Some(joined) = record.members.remove(&told.user.id) {
                record.members.insert(ByUserId(Arc::clone(told)), joined);
            }
            let is_of_interest = !record.is_truncated && record.follows(Depth::Full);
            if is_of_interest {
                self.note(room, Some(RoomEvent::Changed(Arc::clone(told))));
            }
        }
    }

    /// Something happened in a room, and is told with the next flush.
    fn note(&mut self, room: u32, event: Option<RoomEvent>) {
        let record = &mut self.rooms[room];
        if !record.is_truncated && record.follows(Depth::Full) {
            record.events.extend(event);
        }
        if !std::mem::replace(&mut record.has_news, true) {
            self.news.push(room);
        }
    }

    /// Tells a room's followers what happened since they were told.
    fn tell(&mut self, at: Moment, room: u32, posts: &mut Posts) {
        let record = &mut self.rooms[room];
        if !std::mem::take(&mut record.has_news) {
            return;
        }
        let events = std::mem::take(&mut record.events);
        if record.is_truncated {
            let falls = record.members.len() * 10 < self.terms.detail_limit * 9;
            if falls {
                record.is_truncated = false;
                record.truncation_told = false;
                // Who only followed the count since cannot be told by departures.
                record.left_floor = record.left_floor.max(record.version);
                for shard in record.shards(Depth::Full) {
                    let state = self.state(at, room, None, None);
                    posts.send(shard as usize, Post::RoomState(Box::new(state)));
                }
            } else if !std::mem::replace(&mut record.truncation_told, true) {
                let news = Arc::new(record.news(Vec::new()));
                for shard in record.shards(Depth::Full) {
                    posts.send(shard as usize, Post::RoomNews(Arc::clone(&news)));
                }
            }
        } else if !events.is_empty() {
            let news = Arc::new(record.news(events));
            for shard in record.shards(Depth::Full) {
                posts.send(shard as usize, Post::RoomNews(Arc::clone(&news)));
            }
        }
        let record = &self.rooms[room];
        if record.is_truncated && !record.followers.is_empty() || record.follows(Depth::Count) {
            self.tell_count(at, room, posts);
        }
    }

    /// Tells those who follow a room's count, or puts it off until it may be told again.
    fn tell_count(&mut self, at: Moment, room: u32, posts: &mut Posts) {
        let record = &mut self.rooms[room];
        if record.count_waits {
            return;
        }
        let due_ms = record.counted_ms + COUNT_INTERVAL_MS;
        if record.counted_ms > 0 && at.elapsed_ms < due_ms {
            record.count_waits = true;
            self.counts.push(Reverse((due_ms, record.room.hash().0)));
            return;
        }
        record.counted_ms = at.elapsed_ms.max(1);
        let news = Arc::new(record.news(Vec::new()));
        for follower in record.followers.iter().filter(|follower| record.is_truncated || follower.depth == Depth::Count)
        {
            posts.send(follower.shard as usize, Post::RoomNews(Arc::clone(&news)));
        }
    }

    fn state(&self, at: Moment, room: u32, answers: Option<Depth>, since: Option<Version>) -> RoomState {
        let record = &self.rooms[room];
        let depth = answers.unwrap_or(Depth::Full);
        let named = match depth {
            Depth::Count => 0,
            Depth::Full if record.is_truncated => self.terms.detail_limit,
            Depth::Full => record.members.len(),
        };
        let members = record.members.iter().take(named).map(|(member, &version)| (Arc::clone(&member.0), version));
        let history_began = Version::at_ms(at.unix_ms.saturating_sub(self.terms.history_ms));
        let forgot = since.is_some_and(|since| since < record.left_floor || since < history_began);
        let mut left = Vec::new();
        if let Some(since) = since.filter(|_| !forgot && depth == Depth::Full) {
            let recent = record.left.iter().rev().take_while(|(version, _)| *version > since);
            left.extend(recent.map(|(_, id)| id).filter(|id| !record.members.contains_key(*id)).cloned());
            left.sort();
            left.dedup();
        }
        RoomState {
            room: record.room.clone(),
            version: record.version,
            count: record.members.len(),
            members: members.collect(),
            is_truncated: record.is_truncated,
            left,
            since,
            forgot,
            answers,
        }
    }

    /// The departure that is the longest ago is known no more.
    fn forget_departure(&mut self) {
        let Some((_, room)) = self.departures.pop_front() else { return };
        let Some(record) = self.rooms.get_mut(room) else { return };
        if let Some((version, _)) = record.left.pop_front() {
            record.left_floor = record.left_floor.max(version);
        }
        self.tidy(room);
    }

    /// Lets go of a room of which there is nothing to know.
    fn tidy(&mut self, room: u32) {
        let record = &self.rooms[room];
        if record.members.is_empty() && record.followers.is_empty() && record.left.is_empty() && !record.has_news {
            self.floor = self.floor.max(record.version);
            self.rooms_by_hash.remove(record.room.hash().0, room);
            self.rooms.remove(room);
        }
    }

    fn find(&self, room: &RoomRef) -> Option<u32> {
        self.rooms_by_hash.find(room.hash().0, |index| self.rooms[index].room == *room)
    }

    fn room_for(&mut self, room: &RoomRef) -> u32 {
        if let Some(known) = self.find(room) {
            return known;
        }
        let index = self.rooms.insert(Room {
            room: room.clone(),
            members: BTreeMap::new(),
            followers: Vec::new(),
            left: VecDeque::new(),
            left_floor: self.floor,
            version: self.floor,
            events: Vec::new(),
            counted_ms: 0,
            has_news: false,
            count_waits: false,
            is_truncated: false,
            truncation_told: false,
        });
        self.rooms_by_hash.insert(room.hash().0, index, |other| self.rooms[other].room.hash().0);
        index
    }

    fn find_member(&self, told: &Told) -> Option<u32> {
        self.members_by_hash.find(told.user.hash.0, |index| self.members[index].told.user.id == told.user.id)
    }
}

/// What a membership takes in the room's table, at the average fullness of its nodes, and in the member's.
const MEMBERSHIP_BYTES: usize = size_of::<(ByUserId, Version)>() * 3 / 2 + size_of::<u32>() * 2;

impl Room {
    fn follows(&self, depth: Depth) -> bool {
        self.followers.iter().any(|follower| follower.depth == depth)
    }

    fn shards(&self, depth: Depth) -> Vec<u32> {
        self.followers.iter().filter(|follower| follower.depth == depth).map(|follower| follower.shard).collect()
    }

    fn news(&self, events: Vec<RoomEvent>) -> RoomNews {
        RoomNews {
            room: self.room.clone(),
            version: self.version,
            count: self.members.len(),
            is_truncated: self.is_truncated,
            events,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::presence::change::{NameHasher, UserRef};
    use crate::protocol::room_name::RoomName;
    use crate::protocol::status::PresenceStatus;

    #[test]
    fn who_left_is_remembered_by_name_and_counted_and_forgotten() {
        let (hasher, id) = (NameHasher::default(), UserId::parse("ana").unwrap());
        let terms =
            RoomTerms { partitions: 1, detail_limit: 10, history_ms: 1_000, departures_max: 8, began: Version(0) };
        let (mut rooms, mut posts) = (Rooms::new(terms), Posts::default());
        let user = UserRef { hash: hasher.user(&id), id };
        let told = Arc::new(Told::new(user, Version(1), PresenceStatus::Online, None, Some(1), None));
        let room = RoomRef::new(RoomName::parse("lobby").unwrap(), &hasher);
        let mut at = Moment { elapsed_ms: 1_000, unix_ms: 1_000_000 };

        rooms.member(at, &room, Arc::clone(&told), true);
        rooms.member(at, &room, Arc::clone(&told), false);
        rooms.flush(at, &mut posts);
        assert_eq!(Arc::strong_count(&told), 1, "what the user was is kept by nobody");
        let departure = size_of::<(u64, u32, Version, UserId)>();
        assert_eq!(rooms.held_bytes(), Slab::<Room>::ENTRY_BYTES + departure);

        at.elapsed_ms += 1_000;
        at.unix_ms += 1_000;
        rooms.tick(at, &mut posts);
        assert_eq!((rooms.held_bytes(), rooms.is_empty()), (0, true));
    }
}
