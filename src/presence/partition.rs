//! The users of one partition: their connections, and what others may see of them.
//!
//! Every step costs the same however many connections a user has: a user keeps one list of connections a status,
//! the newest first, so that the head of the first list that is not empty decides.
//!
//! A connection that ended without saying so stays in its user's lists for a grace, so that a return disturbs nobody;
//! then it is kept for a while longer, without effect, for a client that names its session.

use std::collections::VecDeque;
use std::sync::Arc;

use super::change::{
    ConnectionKey, EndCause, Happening, Moment, Post, Posts, Predecessor, PresenceEvent, RoomRef, SessionKey, Surplus,
    Told, UserNews, UserRef,
};
use super::clock::VersionClock;
use super::gone::{Gone, GoneLinks};
use super::index::Index;
use super::pace::{Pace, Saying};
use crate::breaks::{Break, is_on};
use crate::protocol::cursor::Version;
use crate::protocol::message::{Metadata, MetadataUpdate};
use crate::protocol::status::{PresenceStatus, Status};
use crate::rate::Rate;
use crate::slab::{NONE, Slab};

/// Statuses in the order in which they decide: invisible if any connection says so, else busy, else online, else away.
const PRECEDENCE: [Status; 4] = [Status::Invisible, Status::Busy, Status::Online, Status::Away];

/// How much later than its successor a connection's end may be heard of, in milliseconds: the two may have been on
/// different shards, whose messages overtake each other.
const LATE_END_MS: i32 = 1_000;

/// Among how many of a user's online connections, those that spoke last, one that is back is looked for.
const RETURNS_SEARCHED: usize = 16;

/// What is due of each kind that one tick does at most; the rest is due at the next.
const DUE_BUDGET: usize = 256;

/// What is the same for all partitions of a process.
#[derive(Clone, Debug)]
pub struct PartitionTerms {
    /// How many partitions there are.
    pub partitions: usize,
    /// How long a connection that ended without saying so still counts, in milliseconds.
    pub grace_ms: u64,
    /// How long after its end a session may be resumed, in milliseconds.
    pub resume_ms: u64,
    /// Sessions that are kept beyond their grace; the oldest are forgotten first.
    pub sessions_max: usize,
    /// Users that are offline of whom it is kept when they were last seen; the oldest are forgotten first.
    pub last_seen_max: usize,
    /// Connections that one user may have.
    pub connections_max: u32,
    /// Whether it is the oldest of a user's connections that ends when there is one too many, or the newest.
    pub oldest_yields: bool,
    /// How often one user may change its status, where that is limited.
    pub status_rate: Option<Rate>,
    /// When the process began to serve.
    pub began: Version,
}

/// The users whose hash falls to this partition.
#[derive(Debug)]
pub struct Partition {
    terms: PartitionTerms,
    clock: VersionClock,
    users: Slab<User>,
    places: Slab<Place>,
    users_by_hash: Index,
    places_by_connection: Index,
    places_by_session: Index,
    /// Users with an open connection, by what they are.
    users_by_status: [usize; PRECEDENCE.len()],
    /// Places in their grace, in the order in which it ends.
    graces: VecDeque<Pending>,
    /// Places beyond it that may still be resumed, in the order in which they may no more.
    kept: VecDeque<Pending>,
    kept_count: usize,
    /// Users that others saw online before, the longest gone first.
    gone: Gone,
    /// What is not known any more has at most this version.
    floor: Version,
    /// Counts what places say, so that the newest among equals is known.
    order: u32,
    /// Counts ends, so that what was due for one is not done to the next in its slot.
    stamp: u32,
    /// For each shard, how many users it follows here and how many memberships its rooms were told of.
    ties: Vec<u32>,
    /// Rooms that a user came into or left in this step, as far as connections go.
    crossings: Vec<(RoomRef, bool)>,
    /// What users say faster than others are told, where that is limited.
    pace: Option<Pace>,
    /// Bytes on the heap that records point to.
    pointed_bytes: usize,
}

/// What an index takes for each entry, on the average of its doublings.
const INDEX_ENTRY_BYTES: usize = 8;

#[derive(Debug)]
struct User {
    user: UserRef,
    /// The newest place of each status, in the order of [`PRECEDENCE`]; of those that count.
    newest: [u32; PRECEDENCE.len()],
    /// When what others may see last changed, or what is known of it no more has at most this version.
    version: Version,
    /// When the status that others see began.
    since_unix_ms: u64,
    /// While others see the user offline, when they are told that it was last seen; else when a connection of its
    /// that has ended was last heard.
    heard_unix_ms: u64,
    gone: GoneLinks,
    extra: Option<Box<UserExtra>>,
    /// Its places, those included that no longer count.
    places: u32,
    /// Those of them that are open.
    open: u32,
    /// What others see.
    status: PresenceStatus,
    /// Whether they have seen it online, as far as is remembered.
    was_seen: bool,
}

/// What few users have.
#[derive(Debug)]
struct UserExtra {
    /// The shards that are told of it.
    followers: Vec<u32>,
    /// The rooms that its places are in, each with how many of them are.
    rooms: Vec<(RoomRef, u32)>,
    /// The place in its grace that ended last.
    ended_newest: u32,
    /// While invisible: what its own connections see.
    own: Option<Own>,
    /// When a connection was last heard that ended while others saw the user offline: what they are told once they have
    /// seen it again, by a connection in its grace, and that is over too.
    heard_unseen_unix_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Own {
    version: Version,
    since_unix_ms: u64,
}

/// What one connection says of its user.
#[derive(Debug)]
struct Place {
    extra: Option<Box<PlaceExtra>>,
    session: SessionKey,
    connection: ConnectionKey,
    user: u32,
    /// The neighbours in the user's list of this status.
    newer: u32,
    older: u32,
    /// When it last said its status or metadata, as the partition counts.
    order: u32,
    /// When it opened, in milliseconds modulo 2^32.
    opened_ms: u32,
    status: Status,
    phase: Phase,
    /// Whether it said nothing so far that a place taken late could contradict, and named no predecessor.
    is_plain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The connection is there.
    Open,
    /// It ended, and counts.
    Grace,
    /// It ended, and counts no more; it may be resumed.
    Kept,
}

/// What few places have.
#[derive(Debug, Default)]
struct PlaceExtra {
    metadata: Option<Arc<Metadata>>,
    rooms: Vec<RoomRef>,
    ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    stamp: u32,
    ended_ms: u64,
    /// The neighbours among the user's places in their grace, in the order of their ends.
    newer: u32,
    older: u32,
}

/// What is due for a place that ended.
#[derive(Clone, Copy, Debug)]
struct Pending {
    due_ms: u64,
    place: u32,
    stamp: u32,
}

const _: () = assert!(Slab::<User>::ENTRY_BYTES <= 120);
const _: () = assert!(Slab::<Place>::ENTRY_BYTES <= 56);

/// What a user's connections make of it at one time.
#[derive(Clone, Debug)]
struct View {
    /// What its connections say; none where none counts.
    status: Option<Status>,
    metadata: Option<Arc<Metadata>>,
    is_open: bool,
}

impl View {
    /// What others may see.
    fn seen(&self) -> PresenceStatus {
        match self.status {
            None | Some(Status::Invisible) => PresenceStatus::Offline,
            Some(status) => status.into(),
        }
    }
}

impl Partition {
    /// A partition without users.
    pub fn new(terms: PartitionTerms) -> Self {
        Self {
            ties: vec![0; terms.partitions],
            pace: terms.status_rate.map(Pace::new),
            clock: VersionClock::new(terms.began),
            terms,
            users: Slab::default(),
            places: Slab::default(),
            users_by_hash: Index::default(),
            places_by_connection: Index::default(),
            places_by_session: Index::default(),
            users_by_status: [0; PRECEDENCE.len()],
            graces: VecDeque::new(),
            kept: VecDeque::new(),
            kept_count: 0,
            gone: Gone::default(),
            floor: Version::default(),
            order: 0,
            stamp: 0,
            crossings: Vec::new(),
            pointed_bytes: 0,
        }
    }

    /// Takes in what happened to a connection; what others must be told of it goes to `posts`.
    ///
    /// What is told of a connection that is not known, but for its opening, is without effect.
    pub fn handle(&mut self, at: Moment, event: PresenceEvent, posts: &mut Posts) {
        let PresenceEvent { connection, what } = event;
        if let Happening::Opened { user, session, status, predecessor, opened_ms } = what {
            return self.opened(at, connection, *user, session, status, predecessor, opened_ms as u32, posts);
        }
        let found = self.places_by_connection.find(key_hash(connection), |place| {
            let place = &self.places[place];
            place.connection == connection && place.phase == Phase::Open
        });
        let Some(place) = found else { return };
        let user = self.places[place].user;
        let before = self.view(user);
        match what {
            Happening::Opened { .. } => {}
            Happening::Abandoned(status) => {
                self.take_put_off(place);
                for room in self.with_extra(place, |extra| std::mem::take(&mut extra.rooms)) {
                    self.leave(user, &room);
                }
                self.say(place, status, MetadataUpdate::Clear);
            }
            Happening::Updated { status, metadata } => {
                self.places[place].is_plain = false;
                let saying = Saying { status, metadata };
                let now = match &mut self.pace {
                    Some(pace) => pace.offer(at.elapsed_ms, user, place, saying),
                    None => Some(saying),
                };
                if let Some(Saying { status, metadata }) = now {
                    self.say(place, status, metadata);
                }
            }
            Happening::Joined(room) => self.join(place, room),
            Happening::Left(room) => {
                let was_in = self.with_extra(place, |extra| {
                    let position = extra.rooms.iter().position(|joined| *joined == room);
                    position.map(|position| extra.rooms.swap_remove(position)).is_some()
                });
                if was_in {
                    self.leave(user, &room);
                } else {
                    // What it means to leave it can only be in by taking a place.
                    self.places[place].is_plain = false;
                }
            }
            Happening::Ended { cause, heard_unix_ms, ended_ms } => {
                self.say_what_was_put_off(place);
                let heard = if before.seen() == PresenceStatus::Offline {
                    &mut self.user_extra(user).heard_unseen_unix_ms
                } else {
                    &mut self.users[user].heard_unix_ms
                };
                *heard = heard_unix_ms.max(*heard);
                self.ended(at, place, cause, ended_ms, posts);
            }
        }
        self.settle(at, user, &before, posts);
    }

    /// Does what is due by now, up to a bound.
    pub fn tick(&mut self, at: Moment, posts: &mut Posts) {
        for _ in 0..DUE_BUDGET {
            let Some(Pending { place, stamp, .. }) =
                self.graces.pop_front_if(|pending| pending.due_ms <= at.elapsed_ms)
            else {
                break;
            };
            if self.is_pending(place, stamp, Phase::Grace) {
                let user = self.places[place].user;
                let before = self.view(user);
                self.unlink_ended(place);
                self.keep(at, place);
                self.settle(at, user, &before, posts);
            }
        }
        for _ in 0..DUE_BUDGET {
            if self.kept.front().is_none_or(|pending| pending.due_ms > at.elapsed_ms) {
                break;
            }
            self.forget_oldest_session();
        }
        for _ in 0..DUE_BUDGET {
            let Some((place, saying)) = self.pace.as_mut().and_then(|pace| pace.next_due(at.elapsed_ms)) else { break };
            let user = self.places[place].user;
            let before = self.view(user);
            self.say(place, saying.status, saying.metadata);
            self.settle(at, user, &before, posts);
        }
    }

    /// When [`Partition::tick`] has something to do next, in milliseconds since the process began to serve.
    pub fn deadline_ms(&self) -> Option<u64> {
        let due_ms = |queue: &VecDeque<Pending>| queue.front().map(|pending| pending.due_ms);
        let pace = self.pace.as_ref().and_then(Pace::deadline_ms);
        [due_ms(&self.graces), due_ms(&self.kept), pace].into_iter().flatten().min()
    }

    /// Tells `shard` of a user, now and from now on.
    pub fn follow(&mut self, shard: u32, user: UserRef, posts: &mut Posts) {
        let user = self.user_for(user);
        let followers = &mut self.user_extra(user).followers;
        let is_new = !followers.contains(&shard);
        if is_new {
            followers.push(shard);
            self.pointed_bytes += FOLLOWER_BYTES;
            self.ties[shard as usize] += 1;
        }
        let told = if is_new { self.told(user) } else { self.told_to_followers(user) };
        let news = UserNews { told, own: self.own_told(user, shard), answers: 1 };
        posts.send(shard as usize, Post::Told(news));
    }

    /// Tells `shard` of a user no more.
    pub fn unfollow(&mut self, shard: u32, user: &UserRef) {
        let Some(user) = self.find(user) else { return };
        let Some(extra) = &mut self.users[user].extra else { return };
        if let Some(position) = extra.followers.iter().position(|&follower| follower == shard) {
            extra.followers.swap_remove(position);
            self.pointed_bytes -= FOLLOWER_BYTES;
            self.ties[shard as usize] -= 1;
            self.tidy(user);
        }
    }

    /// How many users `shard` follows here, and how many memberships its rooms were told of.
    pub fn ties(&self, shard: usize) -> u32 {
        self.ties[shard]
    }

    /// How many status changes were put off since this was last asked.
    pub fn take_put_off_count(&mut self) -> u64 {
        self.pace.as_mut().map_or(0, Pace::take_count)
    }

    /// A version that no later one is at or below.
    pub fn horizon(&mut self, at: Moment) -> Version {
        self.clock.horizon(at.unix_ms)
    }

    /// Bytes that users and their places hold.
    pub fn held_bytes(&self) -> usize {
        self.users.len() * (Slab::<User>::ENTRY_BYTES + INDEX_ENTRY_BYTES)
            + self.places.len() * (Slab::<Place>::ENTRY_BYTES + 2 * INDEX_ENTRY_BYTES)
            + (self.graces.len() + self.kept.len()) * size_of::<Pending>()
            + self.pace.as_ref().map_or(0, Pace::held_bytes)
            + self.pointed_bytes
    }

    /// How many users have an open connection.
    pub fn users(&self) -> usize {
        self.users_by_status.iter().sum()
    }

    /// How many of them have `status`.
    pub fn users_with(&self, status: Status) -> usize {
        self.users_by_status[rank(status)]
    }

    /// What others may see of a user.
    pub fn seen(&self, user: &UserRef) -> Option<Arc<Told>> {
        self.find(user).map(|user| self.told(user))
    }

    /// Whether nothing is left: no session, nobody but those of whom it is kept when they were last seen.
    pub fn is_empty(&self) -> bool {
        self.users.len() == self.gone.len() && self.places.is_empty() && self.kept_count == 0
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one event, and where its consequences go")]
    fn opened(
        &mut self,
        at: Moment,
        connection: ConnectionKey,
        user: UserRef,
        session: SessionKey,
        status: Option<Status>,
        predecessor: Predecessor,
        opened_ms: u32,
        posts: &mut Posts,
    ) {
        let user = self.user_for(user);
        let before = self.view(user);
        let heir = match predecessor {
            Predecessor::Session(key) => self.resumable(at, user, key),
            Predecessor::Unnamed if status.is_none() => {
                Some(self.users[user].extra.as_ref().map_or(NONE, |extra| extra.ended_newest))
                    .filter(|&place| place != NONE)
            }
            Predecessor::Unnamed | Predecessor::None => None,
        };
        if let Predecessor::Session(_) = predecessor {
            posts.send(connection.shard as usize, Post::Opened { connection, resumed: heir.is_some() });
        }
        match heir {
            Some(place) => {
                if is_on(Break::ResumeThatFlaps) && self.places[place].phase != Phase::Kept {
                    self.unlink(place);
                    self.settle(at, user, &before, posts);
                    let before = self.view(user);
                    self.link(place);
                    self.settle(at, user, &before, posts);
                }
                self.take_over(place, connection, session, posts);
                self.places[place].opened_ms = opened_ms;
                if let Some(status) = status {
                    self.say(place, status, MetadataUpdate::Keep);
                }
            }
            None => {
                self.order = self.order.wrapping_add(1);
                let place = self.places.insert(Place {
                    extra: None,
                    session,
                    connection,
                    user,
                    newer: NONE,
                    older: NONE,
                    order: self.order,
                    opened_ms,
                    status: status.unwrap_or(Status::Online),
                    phase: Phase::Open,
                    is_plain: predecessor == Predecessor::Unnamed && status.is_none(),
                });
                self.index_place(place);
                self.users[user].places += 1;
                self.users[user].open += 1;
                self.link(place);
            }
        }
        self.hold_to_limit(at, user, connection, posts);
        self.settle(at, user, &before, posts);
    }

    /// Ends one of the user's connections where `newest` is one too many. It counts no more from now on, so that the
    /// next one that opens ends another.
    ///
    /// Looks at all of the user's places that count, which this very limit bounds.
    fn hold_to_limit(&mut self, at: Moment, user: u32, newest: ConnectionKey, posts: &mut Posts) {
        if self.users[user].open <= self.terms.connections_max {
            return;
        }
        let age_ms = |place: u32| ms_between(self.places[place].opened_ms, at.elapsed_ms as u32);
        let open = self.counting_places(user).filter(|&place| self.places[place].phase == Phase::Open);
        let found = if self.terms.oldest_yields {
            let others = open.filter(|&place| self.places[place].connection != newest);
            others.max_by_key(|&place| age_ms(place)).map(|place| (place, Surplus::OldestOfUser))
        } else {
            let mut same = open.filter(|&place| self.places[place].connection == newest);
            same.next().map(|place| (place, Surplus::NewestOfUser))
        };
        let Some((yielding, surplus)) = found else { return };
        let connection = self.places[yielding].connection;
        posts.send(connection.shard as usize, Post::TooMany(connection, surplus));
        self.users[user].open -= 1;
        self.uncount(yielding);
        self.remove_place(yielding);
    }

    /// The user's places that count, list by list.
    fn counting_places(&self, user: u32) -> impl Iterator<Item = u32> {
        let lists = self.users[user].newest.into_iter();
        lists.flat_map(|newest| {
            let older = |place: &u32| self.places.get(*place).map(|place| place.older);
            std::iter::successors(Some(newest), older).filter(|&place| place != NONE)
        })
    }

    /// The place of `user`'s session, if it may be resumed.
    fn resumable(&self, at: Moment, user: u32, session: SessionKey) -> Option<u32> {
        let place = self.places_by_session.find(session.0, |place| self.places[place].session == session)?;
        let ended = self.places[place].extra.as_ref().and_then(|extra| extra.ended);
        let in_time = ended.is_none_or(|ended| at.elapsed_ms < ended.ended_ms + self.terms.resume_ms);
        (self.places[place].user == user && in_time).then_some(place)
    }

    /// Gives a place to another connection, whatever has become of its own.
    fn take_over(&mut self, place: u32, connection: ConnectionKey, session: SessionKey, posts: &mut Posts) {
        let user = self.places[place].user;
        match self.places[place].phase {
            Phase::Open => {
                self.say_what_was_put_off(place);
                let replaced = self.places[place].connection;
                posts.send(replaced.shard as usize, Post::Replaced(replaced));
                self.users[user].open -= 1;
            }
            Phase::Grace => self.unlink_ended(place),
            Phase::Kept => {
                self.kept_count -= 1;
                self.link(place);
                for room in self.rooms_of(place) {
                    self.enter(user, room);
                }
            }
        }
        self.with_extra(place, |extra| extra.ended = None);
        self.rename_place(place, connection, session);
        self.places[place].phase = Phase::Open;
        self.places[place].is_plain = false;
        self.users[user].open += 1;
        let rooms = self.rooms_of(place);
        if !rooms.is_empty() {
            posts.send(connection.shard as usize, Post::Rooms { connection, rooms });
        }
    }

    fn ended(&mut self, at: Moment, place: u32, cause: EndCause, ended_ms: u64, posts: &mut Posts) {
        let user = self.places[place].user;
        match cause {
            EndCause::Asked => {
                self.users[user].open -= 1;
                self.uncount(place);
                self.remove_place(place);
            }
            EndCause::Silent if !is_on(Break::GraceForTheSilent) => {
                self.users[user].open -= 1;
                self.mark_ended(place, ended_ms);
                self.keep(at, place);
            }
            EndCause::Lost | EndCause::Silent => {
                if let Some(successor) = self.plain_successor(at, user, place) {
                    return self.give_back(place, successor, posts);
                }
                self.users[user].open -= 1;
                let stamp = self.mark_ended(place, ended_ms);
                if self.terms.grace_ms == 0 || is_on(Break::MissingGrace) {
                    return self.keep(at, place);
                }
                self.places[place].phase = Phase::Grace;
                self.link_ended(place);
                file(&mut self.graces, Pending { due_ms: ended_ms + self.terms.grace_ms, place, stamp });
            }
        }
    }

    /// The user's connection that opened just before the end of `place` was heard of, and would have taken its place.
    ///
    /// Whether that end came first cannot be told by the time at which a shard saw it; that the other was there before
    /// this one came can.
    fn plain_successor(&self, at: Moment, user: u32, place: u32) -> Option<u32> {
        let came_ms = self.places[place].opened_ms;
        let newest = self.users[user].newest[rank(Status::Online)];
        let online = std::iter::successors(Some(newest), |&place| Some(self.places.get(place)?.older));
        let is_returned = |&index: &u32| {
            self.places.get(index).filter(|_| index != place).is_some_and(|other| {
                let is_new = ms_between(other.opened_ms, at.elapsed_ms as u32) < LATE_END_MS;
                let came_later = ms_between(came_ms, other.opened_ms) > 0;
                other.is_plain && other.phase == Phase::Open && is_new && came_later
            })
        };
        online.take(RETURNS_SEARCHED).find(is_returned)
    }

    /// Gives the place of a connection that was lost to one that is back, with the rooms that this has joined already.
    fn give_back(&mut self, place: u32, successor: u32, posts: &mut Posts) {
        let Place { connection, session, user, opened_ms, .. } = self.places[successor];
        for room in self.rooms_of(successor) {
            self.join(place, room);
        }
        self.uncount(successor);
        self.remove_place(successor);
        self.users[user].open -= 1;
        self.rename_place(place, connection, session);
        self.places[place].opened_ms = opened_ms;
        let rooms = self.rooms_of(place);
        if !rooms.is_empty() {
            posts.send(connection.shard as usize, Post::Rooms { connection, rooms });
        }
    }

    fn mark_ended(&mut self, place: u32, ended_ms: u64) -> u32 {
        self.stamp = self.stamp.wrapping_add(1);
        let ended = Ended { stamp: self.stamp, ended_ms, newer: NONE, older: NONE };
        self.with_extra(place, |extra| extra.ended = Some(ended));
        self.stamp
    }

    /// A place counts no more, but may be resumed for a while.
    fn keep(&mut self, at: Moment, place: u32) {
        self.uncount(place);
        self.places[place].phase = Phase::Kept;
        let Some(Ended { stamp, ended_ms, .. }) = self.ended_of(place) else { return };
        let due_ms = ended_ms + self.terms.resume_ms;
        self.kept_count += 1;
        if due_ms <= at.elapsed_ms {
            self.kept_count -= 1;
            return self.remove_place(place);
        }
        file(&mut self.kept, Pending { due_ms, place, stamp });
        while self.kept_count > self.terms.sessions_max && !self.kept.is_empty() {
            self.forget_oldest_session();
        }
    }

    fn forget_oldest_session(&mut self) {
        let Some(Pending { place, stamp, .. }) = self.kept.pop_front() else { return };
        if self.is_pending(place, stamp, Phase::Kept) {
            self.kept_count -= 1;
            let user = self.places[place].user;
            self.remove_place(place);
            self.tidy(user);
        }
    }

    fn is_pending(&self, place: u32, stamp: u32, phase: Phase) -> bool {
        let ended = self.places.get(place).filter(|place| place.phase == phase).and_then(|place| place.extra.as_ref());
        ended.and_then(|extra| extra.ended).is_some_and(|ended| ended.stamp == stamp)
    }

    /// Sets what a place says.
    fn say(&mut self, place: u32, status: Status, metadata: MetadataUpdate) {
        self.unlink(place);
        self.order = self.order.wrapping_add(1);
        self.places[place].order = self.order;
        self.places[place].status = status;
        self.places[place].is_plain = false;
        match metadata {
            MetadataUpdate::Keep => {}
            MetadataUpdate::Clear => self.with_extra(place, |extra| extra.metadata = None),
            MetadataUpdate::Replace(metadata) => {
                self.with_extra(place, |extra| extra.metadata = Some(Arc::new(metadata)));
            }
        }
        self.link(place);
    }

    fn take_put_off(&mut self, place: u32) -> Option<Saying> {
        self.pace.as_mut()?.take_put_off(place)
    }

    /// What a place was not allowed to say yet it says now, since it will not be asked again.
    fn say_what_was_put_off(&mut self, place: u32) {
        if let Some(Saying { status, metadata }) = self.take_put_off(place) {
            self.say(place, status, metadata);
        }
    }

    /// Changes what few places have, and reckons what it takes.
    fn with_extra<T>(&mut self, place: u32, change: impl FnOnce(&mut PlaceExtra) -> T) -> T {
        let place = &mut self.places[place];
        self.pointed_bytes -= place.pointed_bytes();
        let result = change(place.extra.get_or_insert_default());
        if place.extra.as_ref().is_some_and(|extra| extra.is_empty()) {
            place.extra = None;
        }
        self.pointed_bytes += place.pointed_bytes();
        result
    }

    /// What few users have, made if need be.
    fn user_extra(&mut self, user: u32) -> &mut UserExtra {
        let extra = &mut self.users[user].extra;
        if extra.is_none() {
            self.pointed_bytes += size_of::<UserExtra>();
        }
        extra.get_or_insert_default()
    }

    /// A place counts no more: neither for its user's status nor in rooms.
    fn uncount(&mut self, place: u32) {
        self.unlink(place);
        let user = self.places[place].user;
        for room in self.rooms_of(place) {
            self.leave(user, &room);
        }
    }

    fn remove_place(&mut self, place: u32) {
        self.take_put_off(place);
        self.unindex_place(place);
        let Some(place) = self.places.remove(place) else { return };
        self.pointed_bytes -= place.pointed_bytes();
        self.users[place.user].places -= 1;
    }

    fn index_place(&mut self, place: u32) {
        let Place { connection, session, .. } = self.places[place];
        let key = key_hash(connection);
        self.places_by_connection.insert(key, place, |other| key_hash(self.places[other].connection));
        self.places_by_session.insert(session.0, place, |other| self.places[other].session.0);
    }

    fn unindex_place(&mut self, place: u32) {
        self.places_by_connection.remove(key_hash(self.places[place].connection), place);
        self.places_by_session.remove(self.places[place].session.0, place);
    }

    fn rename_place(&mut self, place: u32, connection: ConnectionKey, session: SessionKey) {
        self.unindex_place(place);
        self.places[place].connection = connection;
        self.places[place].session = session;
        self.index_place(place);
    }

    fn rooms_of(&self, place: u32) -> Vec<RoomRef> {
        self.places[place].extra.as_ref().map(|extra| extra.rooms.clone()).unwrap_or_default()
    }

    fn ended_of(&self, place: u32) -> Option<Ended> {
        self.places[place].extra.as_ref().and_then(|extra| extra.ended)
    }

    /// A place is in a room from now on.
    fn join(&mut self, place: u32, room: RoomRef) {
        let user = self.places[place].user;
        let is_new = self.with_extra(place, |extra| {
            let is_new = !extra.rooms.contains(&room);
            if is_new {
                extra.rooms.push(room.clone());
            }
            is_new
        });
        if is_new {
            self.enter(user, room);
        }
    }

    /// One more of the user's places is in the room.
    fn enter(&mut self, user: u32, room: RoomRef) {
        let rooms = &mut self.user_extra(user).rooms;
        match rooms.iter_mut().find(|(entered, _)| *entered == room) {
            Some((_, places)) => *places += 1,
            None => {
                rooms.push((room.clone(), 1));
                self.crossings.push((room, true));
            }
        }
    }

    /// One less of the user's places is in the room.
    fn leave(&mut self, user: u32, room: &RoomRef) {
        let Some(extra) = &mut self.users[user].extra else { return };
        let Some(position) = extra.rooms.iter().position(|(entered, _)| entered == room) else { return };
        extra.rooms[position].1 -= 1;
        if extra.rooms[position].1 == 0 {
            extra.rooms.swap_remove(position);
            self.crossings.push((room.clone(), false));
        }
    }

    /// What the user's places make of it.
    fn view(&self, user: u32) -> View {
        let User { newest, open, .. } = &self.users[user];
        let mut decided = newest.iter().position(|&place| place != NONE);
        if is_on(Break::WrongPrecedence) {
            decided = newest.iter().rposition(|&place| place != NONE);
        }
        let metadata = decided.and_then(|rank| self.places[newest[rank]].extra.as_ref()?.metadata.clone());
        View { status: decided.map(|rank| PRECEDENCE[rank]), metadata, is_open: *open > 0 }
    }

    /// Tells of what has changed since `before`, and lets go of what nobody needs.
    fn settle(&mut self, at: Moment, user: u32, before: &View, posts: &mut Posts) {
        let after = self.view(user);
        if let Some(status) = before.status.filter(|_| before.is_open) {
            self.users_by_status[rank(status)] -= 1;
        }
        if let Some(status) = after.status.filter(|_| after.is_open) {
            self.users_by_status[rank(status)] += 1;
        }
        let (was, is) = (before.seen(), after.seen());
        let metadata_changed = before.metadata != after.metadata;
        let is_news = was != is || is != PresenceStatus::Offline && metadata_changed;
        if is_news {
            self.change(at, user, was, is, after.status == Some(Status::Invisible));
        }
        let is_own_news = self.change_own(at, user, before, &after, metadata_changed);
        if is_on(Break::InvisibleMovesVersion) && is_own_news {
            self.users[user].version = self.clock.next(at.unix_ms);
        }
        self.tell_rooms(user, was, is, is_news, posts);
        if is_news || is_own_news {
            self.tell_followers(user, is_news, posts);
        }
        self.tidy(user);
    }

    /// Notes that what others may see has changed.
    fn change(&mut self, at: Moment, user: u32, was: PresenceStatus, is: PresenceStatus, hides: bool) {
        let version = self.clock.next(at.unix_ms);
        let record = &mut self.users[user];
        record.version = version;
        record.status = is;
        if was == is {
            return;
        }
        record.since_unix_ms = at.unix_ms;
        record.was_seen = true;
        if is == PresenceStatus::Offline {
            if hides {
                record.heard_unix_ms = at.unix_ms;
            }
            self.gone.push(&mut self.users, user);
            while self.gone.len() > self.terms.last_seen_max {
                self.forget_longest_gone(user);
            }
        } else if was == PresenceStatus::Offline {
            if let Some(extra) = &mut record.extra {
                record.heard_unix_ms = record.heard_unix_ms.max(std::mem::take(&mut extra.heard_unseen_unix_ms));
            }
            self.gone.remove(&mut self.users, user);
        }
    }

    /// Notes what the user's own connections see instead; true where that has changed.
    fn change_own(&mut self, at: Moment, user: u32, before: &View, after: &View, metadata_changed: bool) -> bool {
        let was_invisible = before.status == Some(Status::Invisible);
        if after.status != Some(Status::Invisible) {
            if let Some(extra) = &mut self.users[user].extra {
                extra.own = None;
                extra.heard_unseen_unix_ms = 0;
            }
            return false;
        }
        if was_invisible && !metadata_changed {
            return false;
        }
        let version = self.clock.next(at.unix_ms);
        let extra = self.user_extra(user);
        let since_unix_ms = extra.own.filter(|_| was_invisible).map_or(at.unix_ms, |own| own.since_unix_ms);
        extra.own = Some(Own { version, since_unix_ms });
        true
    }

    fn tell_followers(&self, user: u32, is_news: bool, posts: &mut Posts) {
        let Some(extra) = &self.users[user].extra else { return };
        if extra.followers.is_empty() {
            return;
        }
        let told = self.told_to_followers(user);
        for &shard in &extra.followers {
            let own = self.own_told(user, shard);
            if is_news || own.is_some() {
                posts.send(shard as usize, Post::Told(UserNews { told: Arc::clone(&told), own, answers: 0 }));
            }
        }
    }

    /// Tells the partitions of the user's rooms who is in them, and how.
    fn tell_rooms(&mut self, user: u32, was: PresenceStatus, is: PresenceStatus, is_news: bool, posts: &mut Posts) {
        let crossings = std::mem::take(&mut self.crossings);
        let rooms = self.users[user].extra.as_ref().map_or(&[][..], |extra| &extra.rooms);
        if rooms.is_empty() && crossings.is_empty() {
            return;
        }
        let (was_seen, is_seen) = (was != PresenceStatus::Offline, is != PresenceStatus::Offline);
        let told = self.told(user);
        let partitions = self.terms.partitions;
        let mut members: Vec<(RoomRef, bool)> = Vec::new();
        match (was_seen, is_seen) {
            (true, true) => members.extend(crossings.iter().cloned()),
            (false, true) => members.extend(rooms.iter().map(|(room, _)| (room.clone(), true))),
            (true, false) => {
                let entered = |room: &RoomRef| crossings.iter().any(|(crossed, is_in)| *is_in && crossed == room);
                members.extend(rooms.iter().filter(|(room, _)| !entered(room)).map(|(room, _)| (room.clone(), false)));
                members.extend(crossings.iter().filter(|(_, is_in)| !is_in).cloned());
            }
            (false, false) if is_on(Break::InvisibleCounted) && self.users[user].open > 0 => {
                members.extend(crossings.iter().filter(|(_, is_in)| *is_in).cloned());
            }
            (false, false) => {}
        }
        if is_news && was_seen && is_seen {
            let mut tell: Vec<usize> = rooms.iter().map(|(room, _)| room.hash().partition(partitions)).collect();
            tell.sort_unstable();
            tell.dedup();
            for partition in tell {
                posts.send(partition, Post::MemberTold(Arc::clone(&told)));
            }
        }
        for (room, is_member) in members {
            let partition = room.hash().partition(partitions);
            if is_member {
                self.ties[partition] += 1;
            } else {
                self.ties[partition] -= 1;
            }
            posts.send(partition, Post::Member { room, told: Arc::clone(&told), is_member });
        }
        self.crossings = crossings;
        self.crossings.clear();
    }

    fn told(&self, user: u32) -> Arc<Told> {
        self.told_as_of(user, self.floor)
    }

    /// What shards are told that know the user already. That others were forgotten since is no news of this one: it
    /// would show when its own connections are told something that nobody else may see.
    fn told_to_followers(&self, user: u32) -> Arc<Told> {
        self.told_as_of(user, self.users[user].version)
    }

    /// `unseen` is the version of a user whom nobody has seen, as far as is remembered.
    fn told_as_of(&self, user: u32, unseen: Version) -> Arc<Told> {
        let record = &self.users[user];
        let name = record.user.clone();
        if record.status != PresenceStatus::Offline {
            let metadata = self.view(user).metadata;
            let since = Some(record.since_unix_ms);
            return Arc::new(Told::new(name, record.version, record.status, metadata.as_deref(), since, None));
        }
        if !record.was_seen {
            return Arc::new(Told::new(name, unseen, PresenceStatus::Offline, None, None, None));
        }
        let (since, last_seen) = (Some(record.since_unix_ms), Some(record.heard_unix_ms));
        Arc::new(Told::new(name, record.version, PresenceStatus::Offline, None, since, last_seen))
    }

    /// What the user's own connections on `shard` see, where that differs from what others may.
    fn own_told(&self, user: u32, shard: u32) -> Option<Arc<Told>> {
        let record = &self.users[user];
        let own = record.extra.as_ref()?.own?;
        let view = self.view(user);
        let status = PresenceStatus::Invisible;
        let is_there = record.newest.iter().any(|&newest| self.any_open_on(newest, shard));
        let told = || {
            let since = Some(own.since_unix_ms);
            Told::new(record.user.clone(), own.version, status, view.metadata.as_deref(), since, None)
        };
        is_there.then(|| Arc::new(told()))
    }

    fn any_open_on(&self, newest: u32, shard: u32) -> bool {
        let mut next = newest;
        while let Some(place) = self.places.get(next) {
            if place.phase == Phase::Open && place.connection.shard == shard {
                return true;
            }
            next = place.older;
        }
        false
    }

    fn find(&self, user: &UserRef) -> Option<u32> {
        self.users_by_hash.find(user.hash.0, |index| self.users[index].user.id == user.id)
    }

    fn user_for(&mut self, user: UserRef) -> u32 {
        if let Some(known) = self.find(&user) {
            return known;
        }
        self.pointed_bytes += user.id.heap_bytes();
        let hash = user.hash.0;
        let index = self.users.insert(User {
            user,
            newest: [NONE; PRECEDENCE.len()],
            version: self.floor,
            since_unix_ms: 0,
            heard_unix_ms: 0,
            gone: GoneLinks::default(),
            extra: None,
            places: 0,
            open: 0,
            status: PresenceStatus::Offline,
            was_seen: false,
        });
        self.users_by_hash.insert(hash, index, |other| self.users[other].user.hash.0);
        index
    }

    /// The user that is gone for the longest is as one who was never seen; `busy` is looked after by the caller.
    fn forget_longest_gone(&mut self, busy: u32) {
        let Some(user) = self.gone.pop_oldest(&mut self.users) else { return };
        let record = &mut self.users[user];
        self.floor = self.floor.max(record.version);
        record.was_seen = false;
        record.heard_unix_ms = 0;
        if user != busy {
            self.tidy(user);
        }
    }

    /// Lets go of a user, or of parts of it, of whom there is nothing to know.
    fn tidy(&mut self, user: u32) {
        let record = &mut self.users[user];
        if record.extra.as_ref().is_some_and(|extra| extra.is_empty()) {
            record.extra = None;
            self.pointed_bytes -= size_of::<UserExtra>();
        }
        if record.places == 0 && record.extra.is_none() && !record.was_seen {
            self.users_by_hash.remove(record.user.hash.0, user);
            self.pointed_bytes -= record.user.id.heap_bytes();
            self.users.remove(user);
            if let Some(pace) = &mut self.pace {
                pace.forget(user);
            }
        }
    }

    /// Puts a place into its user's list of its status, by the order in which places spoke.
    fn link(&mut self, place: u32) {
        let Place { user, status, order, .. } = self.places[place];
        let rank = rank(status);
        let (mut newer, mut older) = (NONE, self.users[user].newest[rank]);
        // What has just spoken comes first; only what counts again after a while has a way to go.
        while older != NONE && self.places[older].order.wrapping_sub(order).cast_signed() > 0 {
            (newer, older) = (older, self.places[older].older);
        }
        self.places[place].newer = newer;
        self.places[place].older = older;
        if older != NONE {
            self.places[older].newer = place;
        }
        if newer == NONE {
            self.users[user].newest[rank] = place;
        } else {
            self.places[newer].older = place;
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

    /// Puts a place before its user's other places in their grace.
    fn link_ended(&mut self, place: u32) {
        let user = self.places[place].user;
        let extra = self.user_extra(user);
        let older = std::mem::replace(&mut extra.ended_newest, place);
        self.set_ended(place, |ended| ended.older = older);
        self.set_ended(older, |ended| ended.newer = place);
    }

    fn unlink_ended(&mut self, place: u32) {
        let user = self.places[place].user;
        let Some(Ended { newer, older, .. }) = self.ended_of(place) else { return };
        if newer == NONE
            && let Some(extra) = &mut self.users[user].extra
        {
            extra.ended_newest = older;
        }
        self.set_ended(newer, |ended| ended.older = older);
        self.set_ended(older, |ended| ended.newer = newer);
    }

    fn set_ended(&mut self, place: u32, set: impl FnOnce(&mut Ended)) {
        let ended = self.places.get_mut(place).and_then(|place| place.extra.as_mut()?.ended.as_mut());
        if let Some(ended) = ended {
            set(ended);
        }
    }
}

/// Puts what is due into its place: ends are heard of out of order, though seldom and not by much.
fn file(queue: &mut VecDeque<Pending>, pending: Pending) {
    let before = queue.iter().rposition(|other| other.due_ms <= pending.due_ms);
    queue.insert(before.map_or(0, |before| before + 1), pending);
}

/// What an entry of a user's followers takes, with its share of the list.
const FOLLOWER_BYTES: usize = 8;

impl Default for UserExtra {
    fn default() -> Self {
        Self { followers: Vec::new(), rooms: Vec::new(), ended_newest: NONE, own: None, heard_unseen_unix_ms: 0 }
    }
}

impl UserExtra {
    fn is_empty(&self) -> bool {
        self.followers.is_empty()
            && self.rooms.is_empty()
            && self.ended_newest == NONE
            && self.own.is_none()
            && self.heard_unseen_unix_ms == 0
    }
}

impl Place {
    fn pointed_bytes(&self) -> usize {
        let Some(extra) = &self.extra else { return 0 };
        let metadata = extra.metadata.as_ref().map_or(0, |metadata| size_of::<Metadata>() + metadata.as_str().len());
        size_of::<PlaceExtra>() + metadata + extra.rooms.len() * size_of::<RoomRef>()
    }
}

impl PlaceExtra {
    fn is_empty(&self) -> bool {
        self.metadata.is_none() && self.rooms.is_empty() && self.ended.is_none()
    }
}

impl AsMut<GoneLinks> for User {
    fn as_mut(&mut self) -> &mut GoneLinks {
        &mut self.gone
    }
}

/// How long after `from_ms` it is at `to_ms`, both in milliseconds since the process began to serve, modulo 2^32.
/// Negative where it is before, as what another shard saw may be.
fn ms_between(from_ms: u32, to_ms: u32) -> i32 {
    to_ms.wrapping_sub(from_ms) as i32
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

    use super::super::change::NameHasher;
    use super::*;
    use crate::protocol::message::{ClientMessage, Parser};
    use crate::protocol::room_name::RoomName;
    use crate::protocol::user_id::UserId;

    const TERMS: PartitionTerms = PartitionTerms {
        partitions: 2,
        grace_ms: 10_000,
        resume_ms: 30_000,
        sessions_max: 100,
        last_seen_max: 100,
        connections_max: u32::MAX,
        oldest_yields: true,
        status_rate: None,
        began: Version(0),
    };

    /// A partition, the time, and what it posted.
    struct World {
        partition: Partition,
        at: Moment,
        posts: Posts,
        hasher: NameHasher,
    }

    impl World {
        fn new(terms: PartitionTerms) -> Self {
            let at = Moment { elapsed_ms: 1_000, unix_ms: 1_000_000 };
            Self { partition: Partition::new(terms), at, posts: Posts::default(), hasher: NameHasher::default() }
        }

        fn user(&self, name: &str) -> UserRef {
            let id = UserId::parse(name).unwrap();
            UserRef { hash: self.hasher.user(&id), id }
        }

        fn room(&self, name: &str) -> RoomRef {
            RoomRef::new(RoomName::parse(name).unwrap(), &self.hasher)
        }

        fn open(&mut self, index: u32, name: &str, status: Option<Status>, predecessor: Predecessor) {
            let (user, session) = (Box::new(self.user(name)), SessionKey(u64::from(index)));
            let opened_ms = self.at.elapsed_ms;
            self.happen(index, Happening::Opened { user, session, status, predecessor, opened_ms });
        }

        fn happen(&mut self, index: u32, what: Happening) {
            let event = PresenceEvent { connection: key(index), what };
            self.partition.handle(self.at, event, &mut self.posts);
        }

        fn update(&mut self, index: u32, status: Status) {
            self.happen(index, Happening::Updated { status, metadata: MetadataUpdate::Keep });
        }

        /// A connection ends that was last heard 7 ms ago.
        fn end(&mut self, index: u32, cause: EndCause) {
            let (heard_unix_ms, ended_ms) = (self.at.unix_ms - 7, self.at.elapsed_ms);
            self.happen(index, Happening::Ended { cause, heard_unix_ms, ended_ms });
        }

        fn pass(&mut self, ms: u64) {
            let end_ms = self.at.elapsed_ms + ms;
            while let Some(due_ms) = self.partition.deadline_ms().filter(|&due_ms| due_ms <= end_ms) {
                self.set(due_ms);
                self.partition.tick(self.at, &mut self.posts);
            }
            self.set(end_ms);
        }

        fn set(&mut self, elapsed_ms: u64) {
            self.at.unix_ms += elapsed_ms - self.at.elapsed_ms;
            self.at.elapsed_ms = elapsed_ms;
        }

        fn json(&self, name: &str) -> String {
            let seen = self.partition.seen(&self.user(name));
            seen.map_or_else(String::new, |told| told.json().to_owned())
        }

        /// What shard 1 was told of users since this was last asked: their JSON, the own view behind a slash.
        fn told(&mut self) -> Vec<String> {
            let of = |post| match post {
                (1, Post::Told(UserNews { told, own, .. })) => {
                    let own = own.map(|own| format!(" / {}", own.json())).unwrap_or_default();
                    Some(format!("{}{own}", told.json()))
                }
                _ => None,
            };
            self.posts.take().filter_map(of).collect()
        }

        /// Which connections were told that they are one too many since this was last asked.
        fn too_many(&mut self) -> Vec<(u32, Surplus)> {
            let of = |post| match post {
                (_, Post::TooMany(connection, surplus)) => Some((connection.index, surplus)),
                _ => None,
            };
            self.posts.take().filter_map(of).collect()
        }

        /// What the partition of a room was told of it since this was last asked.
        fn members(&mut self) -> Vec<(String, bool)> {
            let of = |post| match post {
                (_, Post::Member { room, is_member, .. }) => Some((room.name().as_str().to_owned(), is_member)),
                _ => None,
            };
            self.posts.take().filter_map(of).collect()
        }
    }

    fn key(index: u32) -> ConnectionKey {
        ConnectionKey { shard: index % 2, index, generation: 1 }
    }

    fn metadata(number: usize) -> Metadata {
        let mut text =
            format!(r#"{{"type":"PRESENCE_UPDATE","payload":{{"status":"away","metadata":{{"n":{number}}}}}}}"#)
                .into_bytes();
        match Parser::new().parse(&mut text).body {
            Ok(ClientMessage::PresenceUpdate { metadata: MetadataUpdate::Replace(metadata), .. }) => metadata,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_connection_too_many_ends_the_oldest_which_counts_no_more_at_once() {
        let mut world = World::new(PartitionTerms { connections_max: 2, ..TERMS });
        for index in 1..=5 {
            world.open(index, "ana", Some(Status::Busy), Predecessor::None);
            world.pass(10);
        }
        let oldest = |index| (index, Surplus::OldestOfUser);
        assert_eq!(world.too_many(), [oldest(1), oldest(2), oldest(3)]);
        assert_eq!(world.partition.places.len(), 2);
        world.end(1, EndCause::Lost);
        world.update(2, Status::Away);
        assert_eq!(world.json("ana").matches("busy").count(), 1);
        // Who speaks is not the older for it, and who took another's place is the newest.
        world.update(4, Status::Online);
        world.end(4, EndCause::Lost);
        world.open(6, "ana", None, Predecessor::Unnamed);
        assert_eq!(world.too_many(), []);
        world.open(7, "ana", Some(Status::Away), Predecessor::None);
        assert_eq!(world.too_many(), [oldest(5)]);
        world.open(8, "bob", None, Predecessor::None);
        assert_eq!(world.too_many(), []);
    }

    #[test]
    fn where_the_newest_yields_those_that_are_there_stay() {
        let mut world = World::new(PartitionTerms { connections_max: 1, oldest_yields: false, ..TERMS });
        world.open(1, "ana", Some(Status::Away), Predecessor::None);
        world.open(2, "ana", Some(Status::Busy), Predecessor::None);
        assert_eq!(world.too_many(), [(2, Surplus::NewestOfUser)]);
        assert!(world.json("ana").contains("away"));
        world.end(2, EndCause::Lost);
        world.end(1, EndCause::Asked);
        assert!(world.json("ana").contains("offline"));
        world.open(3, "ana", None, Predecessor::Unnamed);
        assert_eq!(world.too_many(), []);
    }

    #[test]
    fn a_user_that_changes_too_fast_is_told_of_in_time_and_as_it_is_then() {
        let mut world = World::new(PartitionTerms { status_rate: Rate::new(1, 1), ..TERMS });
        world.open(1, "ana", None, Predecessor::None);
        let ana = world.user("ana");
        world.partition.follow(1, ana, &mut world.posts);
        world.told();
        for status in [Status::Busy, Status::Away, Status::Online, Status::Away] {
            world.update(1, status);
        }
        let told = world.told();
        assert!(told.len() == 1 && told[0].contains("busy"), "{told:?}");
        assert_eq!(world.partition.take_put_off_count(), 3);
        world.pass(999);
        assert!(world.told().is_empty());
        world.pass(1);
        let told = world.told();
        assert!(told.len() == 1 && told[0].contains("away"), "{told:?}");
        // Its last word counts while its return is waited for.
        world.update(1, Status::Busy);
        world.update(1, Status::Online);
        world.end(1, EndCause::Lost);
        assert!(world.json("ana").contains("online"));
        world.pass(60_000);
        assert!(world.partition.places.is_empty() && world.partition.deadline_ms().is_none());
    }

    #[test]
    fn a_return_within_the_grace_is_told_to_nobody_and_the_end_of_the_grace_is() {
        let mut world = World::new(TERMS);
        let ana = world.user("ana");
        world.open(0, "ana", Some(Status::Away), Predecessor::Unnamed);
        world.partition.follow(1, ana, &mut world.posts);
        let first = r#"{"userId":"ana","status":"away","since":"1970-01-01T00:16:40.000Z"}"#;
        assert_eq!(world.told(), [first]);
        world.end(0, EndCause::Lost);
        assert_eq!(world.partition.users(), 0);
        world.pass(9_999);
        world.open(2, "ana", None, Predecessor::Unnamed);
        world.pass(60_000);
        assert_eq!((world.told(), world.json("ana")), (vec![], first.to_owned()));
        world.end(2, EndCause::Lost);
        world.pass(9_999);
        assert_eq!(world.told(), [""; 0]);
        world.pass(1);
        let gone = r#"{"userId":"ana","status":"offline","since":"1970-01-01T00:17:59.999Z","lastSeen":"1970-01-01T00:17:49.992Z"}"#;
        assert_eq!(world.told(), [gone]);
    }

    #[test]
    fn who_says_goodbye_or_was_silent_has_no_grace_and_ends_alone() {
        for cause in [EndCause::Asked, EndCause::Silent] {
            let mut world = World::new(TERMS);
            world.open(0, "ana", None, Predecessor::Unnamed);
            world.open(2, "ana", Some(Status::Busy), Predecessor::Unnamed);
            world.end(2, cause);
            assert!(world.json("ana").contains("online"));
            world.end(0, EndCause::Lost);
            world.open(4, "ana", Some(Status::Busy), Predecessor::None);
            world.end(4, cause);
            assert!(world.json("ana").contains("online"), "the other one is in its grace");
            world.pass(10_000);
            assert!(world.json("ana").contains("offline"));
            world.pass(30_000);
            assert!(world.partition.places.is_empty());
        }
    }

    #[test]
    fn a_session_is_resumed_with_all_it_had_while_it_is_there_or_kept() {
        for (wait_ms, resumes) in [(None, true), (Some(9_000), true), (Some(29_999), true), (Some(30_000), false)] {
            let mut world = World::new(TERMS);
            let (ana, lobby) = (world.user("ana"), world.room("lobby"));
            world.open(0, "ana", None, Predecessor::Unnamed);
            let update = Happening::Updated { status: Status::Busy, metadata: MetadataUpdate::Replace(metadata(1)) };
            world.happen(0, update);
            world.happen(0, Happening::Joined(lobby.clone()));
            world.partition.follow(1, ana, &mut world.posts);
            if let Some(wait_ms) = wait_ms {
                world.end(0, EndCause::Lost);
                world.pass(wait_ms);
            }
            let was_told_gone = world.told().last().unwrap().contains("offline");
            assert_eq!(was_told_gone, wait_ms.is_some_and(|wait_ms| wait_ms >= 10_000));
            world.open(2, "ana", None, Predecessor::Session(SessionKey(0)));
            let posts: Vec<Post> = world.posts.take().map(|(_, post)| post).collect();
            let opened = posts.iter().find_map(|post| match post {
                Post::Opened { connection, resumed } => Some((*connection, *resumed)),
                _ => None,
            });
            assert_eq!(opened, Some((key(2), resumes)), "{wait_ms:?}");
            let replaced = posts.iter().any(|post| matches!(post, Post::Replaced(old) if *old == key(0)));
            assert_eq!(replaced, wait_ms.is_none());
            let rooms = posts.iter().any(|post| matches!(post, Post::Rooms { rooms, .. } if *rooms == [lobby.clone()]));
            assert_eq!(rooms, resumes);
            let changes = posts.iter().filter(|post| matches!(post, Post::Told(_))).count();
            assert_eq!(changes, usize::from(was_told_gone));
            assert_eq!(world.json("ana").contains(r#""busy","metadata":{"n":1}"#), resumes);
            world.open(4, "ana", None, Predecessor::Session(SessionKey(0)));
            assert!(world.posts.take().any(|(_, post)| matches!(post, Post::Opened { resumed: false, .. })));
        }
    }

    #[test]
    fn a_session_that_said_goodbye_and_one_of_another_user_are_not_resumed() {
        let mut world = World::new(TERMS);
        world.open(0, "ana", None, Predecessor::Unnamed);
        world.open(2, "bob", None, Predecessor::Session(SessionKey(0)));
        assert!(world.posts.take().any(|(_, post)| matches!(post, Post::Opened { resumed: false, .. })));
        world.end(0, EndCause::Asked);
        world.open(4, "ana", None, Predecessor::Session(SessionKey(0)));
        assert!(world.posts.take().any(|(_, post)| matches!(post, Post::Opened { resumed: false, .. })));
    }

    #[test]
    fn an_end_that_is_heard_of_after_the_return_gives_its_place_to_it() {
        let mut world = World::new(TERMS);
        let lobby = world.room("lobby");
        world.open(0, "ana", Some(Status::Busy), Predecessor::Unnamed);
        world.happen(0, Happening::Joined(lobby.clone()));
        world.pass(1);
        world.open(1, "ana", None, Predecessor::Unnamed);
        world.pass(999);
        world.members();
        world.end(0, EndCause::Lost);
        world.pass(60_000);
        assert_eq!((world.partition.users_with(Status::Busy), world.members()), (1, vec![]));
        world.update(1, Status::Away);
        assert!(world.json("ana").contains("away"));
        // Too late, or with a word of its own, it is another connection.
        world.open(2, "ana", None, Predecessor::Unnamed);
        world.pass(1_001);
        world.end(1, EndCause::Lost);
        assert_eq!(world.partition.users_with(Status::Online), 1);
        world.pass(10_000);
        assert_eq!(world.members(), [("lobby".to_owned(), false)]);
    }

    #[test]
    fn a_return_is_found_beside_other_connections_and_keeps_the_rooms_that_it_has_joined() {
        let mut world = World::new(TERMS);
        world.open(0, "ana", Some(Status::Busy), Predecessor::Unnamed);
        world.happen(0, Happening::Joined(world.room("lobby")));
        world.pass(1);
        world.open(1, "ana", None, Predecessor::Unnamed);
        world.happen(1, Happening::Joined(world.room("den")));
        world.open(2, "ana", Some(Status::Online), Predecessor::Unnamed);
        world.members();
        world.end(0, EndCause::Lost);
        world.pass(60_000);
        assert_eq!((world.partition.users_with(Status::Busy), world.members()), (1, vec![]));
        world.end(1, EndCause::Asked);
        let mut left = world.members();
        left.sort();
        assert_eq!(left, [("den".to_owned(), false), ("lobby".to_owned(), false)]);
        assert_eq!(world.partition.users_with(Status::Online), 1);
    }

    #[test]
    fn who_was_there_before_is_not_the_return_of_who_came_and_was_lost() {
        let mut world = World::new(TERMS);
        world.open(0, "ana", None, Predecessor::Unnamed);
        world.pass(500);
        world.open(1, "ana", Some(Status::Busy), Predecessor::Unnamed);
        world.end(1, EndCause::Lost);
        world.pass(9_999);
        assert!(world.json("ana").contains("busy"));
        world.pass(1);
        assert!(world.json("ana").contains("online"));
    }

    #[test]
    fn the_invisible_are_as_offline_as_they_were() {
        let mut world = World::new(TERMS);
        let ana = world.user("ana");
        world.partition.follow(1, ana.clone(), &mut world.posts);
        let never = r#"{"userId":"ana","status":"offline"}"#;
        assert_eq!(world.told(), [never]);
        world.open(0, "ana", Some(Status::Invisible), Predecessor::Unnamed);
        world.end(0, EndCause::Asked);
        assert_eq!((world.told(), world.json("ana")), (vec![], never.to_owned()));
        // Her own connection sees it, where she is online others see her leave.
        world.open(1, "ana", None, Predecessor::Unnamed);
        world.happen(1, Happening::Joined(world.room("lobby")));
        assert_eq!(world.told().len(), 1);
        world.pass(500);
        world.open(3, "ana", Some(Status::Invisible), Predecessor::Unnamed);
        let hidden = r#"{"userId":"ana","status":"offline","since":"1970-01-01T00:16:40.500Z","lastSeen":"1970-01-01T00:16:40.500Z"}"#;
        let own = r#"{"userId":"ana","status":"invisible","since":"1970-01-01T00:16:40.500Z"}"#;
        assert_eq!(world.told(), [format!("{hidden} / {own}")]);
        world.pass(500);
        world.end(1, EndCause::Asked);
        world.happen(3, Happening::Joined(world.room("lobby")));
        assert_eq!(world.members(), []);
        world.end(3, EndCause::Lost);
        world.pass(60_000);
        assert_eq!((world.told(), world.json("ana")), (vec![], hidden.to_owned()));
    }

    #[test]
    fn who_is_seen_by_a_grace_alone_was_last_seen_when_it_was_last_heard() {
        let mut world = World::new(TERMS);
        world.open(0, "ana", Some(Status::Invisible), Predecessor::Unnamed);
        world.open(1, "ana", Some(Status::Online), Predecessor::Unnamed);
        world.end(0, EndCause::Lost);
        world.pass(400);
        world.end(1, EndCause::Lost);
        world.pass(9_600);
        assert!(world.json("ana").contains("online"), "{}", world.json("ana"));
        world.pass(400);
        let gone = r#"{"userId":"ana","status":"offline","since":"1970-01-01T00:16:50.400Z","lastSeen":"1970-01-01T00:16:40.393Z"}"#;
        assert_eq!(world.json("ana"), gone);
        world.pass(60_000);
        assert!(world.partition.users[0].extra.is_none());
    }

    #[test]
    fn a_member_leaves_its_rooms_while_it_is_invisible() {
        let mut world = World::new(TERMS);
        world.open(0, "ana", None, Predecessor::Unnamed);
        for room in ["lobby", "lobby", "den"] {
            world.happen(0, Happening::Joined(world.room(room)));
        }
        assert_eq!(world.members(), [("lobby".to_owned(), true), ("den".to_owned(), true)]);
        world.update(0, Status::Invisible);
        assert_eq!(world.members(), [("lobby".to_owned(), false), ("den".to_owned(), false)]);
        world.happen(0, Happening::Left(world.room("den")));
        assert_eq!(world.members(), []);
        world.update(0, Status::Online);
        assert_eq!(world.members(), [("lobby".to_owned(), true)]);
        assert_eq!((0..2).map(|shard| world.partition.ties(shard)).sum::<u32>(), 1);
        world.end(0, EndCause::Lost);
        assert_eq!(world.members(), []);
        world.pass(10_000);
        assert_eq!(world.members(), [("lobby".to_owned(), false)]);
        assert_eq!((0..2).map(|shard| world.partition.ties(shard)).sum::<u32>(), 0);
    }

    #[test]
    fn who_is_gone_the_longest_is_forgotten_first_as_if_never_seen() {
        let mut world = World::new(PartitionTerms { last_seen_max: 2, ..TERMS });
        for (index, name) in ["ana", "bob", "eve"].into_iter().enumerate() {
            world.open(index as u32, name, None, Predecessor::Unnamed);
            world.end(index as u32, EndCause::Asked);
            world.pass(10);
        }
        assert!(world.json("ana").is_empty() && world.json("bob").contains("lastSeen"));
        world.partition.follow(1, world.user("ana"), &mut world.posts);
        let floor = world.partition.seen(&world.user("ana")).unwrap().version;
        assert!(floor > Version::default() && floor < world.partition.seen(&world.user("bob")).unwrap().version);
    }

    #[test]
    fn what_own_connections_alone_are_told_does_not_tell_that_others_were_forgotten() {
        let mut world = World::new(PartitionTerms { last_seen_max: 0, ..TERMS });
        let ana = world.user("ana");
        let versions = |world: &mut World| -> Vec<Version> {
            let version = |post| match post {
                Post::Told(news) => Some(news.told.version),
                _ => None,
            };
            world.posts.take().filter_map(|(_, post)| version(post)).collect()
        };
        world.partition.follow(1, ana.clone(), &mut world.posts);
        world.open(1, "ana", Some(Status::Invisible), Predecessor::Unnamed);
        assert_eq!(versions(&mut world), [Version::default(); 2]);
        world.open(0, "bob", None, Predecessor::Unnamed);
        world.end(0, EndCause::Asked);
        world.happen(
            1,
            Happening::Updated { status: Status::Invisible, metadata: MetadataUpdate::Replace(metadata(1)) },
        );
        world.partition.follow(1, ana.clone(), &mut world.posts);
        assert_eq!(versions(&mut world), [Version::default(); 2]);
        // Whoever follows her from now on may have been told what is known no more.
        world.partition.follow(0, ana, &mut world.posts);
        assert!(versions(&mut world)[0] > Version::default());
    }

    #[test]
    fn of_who_is_forgotten_it_is_not_known_when_it_was_heard_though_somebody_watches() {
        let mut world = World::new(PartitionTerms { last_seen_max: 1, ..TERMS });
        world.partition.follow(1, world.user("ana"), &mut world.posts);
        for (index, name) in ["ana", "bob", "ana"].into_iter().enumerate() {
            world.open(index as u32, name, None, Predecessor::Unnamed);
            if index < 2 {
                world.end(index as u32, EndCause::Asked);
            }
        }
        // What another shard tells late was heard before what it has been told of.
        let (heard_unix_ms, ended_ms) = (world.at.unix_ms - 500, world.at.elapsed_ms);
        world.happen(2, Happening::Ended { cause: EndCause::Asked, heard_unix_ms, ended_ms });
        assert!(world.json("ana").contains(r#""lastSeen":"1970-01-01T00:16:39.5"#), "{}", world.json("ana"));
    }

    #[test]
    fn kept_sessions_are_bounded() {
        let mut world = World::new(PartitionTerms { sessions_max: 3, ..TERMS });
        for index in 0..10 {
            world.open(index, "ana", None, Predecessor::None);
            world.end(index, EndCause::Silent);
        }
        assert_eq!((world.partition.places.len(), world.partition.kept_count), (3, 3));
        world.open(20, "ana", None, Predecessor::Session(SessionKey(9)));
        assert!(world.posts.take().any(|(_, post)| matches!(post, Post::Opened { resumed: true, .. })));
    }

    #[test]
    fn an_event_of_a_connection_that_is_not_known_changes_nothing() {
        let mut world = World::new(TERMS);
        world.end(0, EndCause::Lost);
        world.update(0, Status::Away);
        assert!(world.partition.users() == 0 && world.partition.is_empty());
    }

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
            let mut world = World::new(PartitionTerms { last_seen_max: 0, ..TERMS });
            let mut model = Model::default();
            for step in steps {
                model.clock += 1;
                match step {
                    Step::Open(index, owner, status) if !model.connections.contains_key(&key(index)) => {
                        model.connections.insert(key(index), (owner, status, None, model.clock));
                        world.open(index, &format!("user-{owner}"), Some(status), Predecessor::None);
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
                        world.happen(index, Happening::Updated { status, metadata });
                    }
                    Step::End(index) => {
                        model.connections.remove(&key(index));
                        world.end(index, EndCause::Asked);
                    }
                }
                for owner in 0..4 {
                    let user = world.partition.find(&world.user(&format!("user-{owner}")));
                    let seen = user.map(|user| world.partition.view(user));
                    let seen = seen.map(|seen| (seen.status.unwrap(), seen.metadata.map(|metadata| metadata.as_str().to_owned())));
                    let expected = model.presence(owner);
                    let expected = expected.map(|(status, number)| (status, number.map(|n| format!(r#"{{"n":{n}}}"#))));
                    prop_assert_eq!(seen, expected);
                }
                for status in PRECEDENCE {
                    let expected = (0..4).filter(|&owner| model.presence(owner).is_some_and(|(is, _)| is == status));
                    prop_assert_eq!(world.partition.users_with(status), expected.count());
                }
            }
            for index in 0..12 {
                world.end(index, EndCause::Asked);
            }
            let partition = &world.partition;
            prop_assert_eq!((partition.users(), partition.held_bytes(), partition.is_empty()), (0, 0, true));
            let indices = [&partition.users_by_hash, &partition.places_by_connection, &partition.places_by_session];
            prop_assert!(indices.into_iter().all(|index| index.len() == 0));
        }
    }
}
