//! This shard's part of what all shards know together: its partition of the users and of the rooms, who on it watches
//! whom, and the posts that pass between these and those of other shards.

use std::collections::VecDeque;
use std::time::Duration;

use super::outbox::Outbox;
use crate::config::{Config, Yields};
use crate::presence::address::Addresses;
use crate::presence::bounds::Bounds;
use crate::presence::change::{ConnectionKey, Moment, Post, Posts, RoomRef, Surplus};
use crate::presence::partition::{Partition, PartitionTerms};
use crate::presence::room::{RoomTerms, Rooms};
use crate::presence::watch::{WatchTable, WatchTerms};
use crate::protocol::cursor::Version;
use crate::rate::Rate;

/// How often a shard tells those that follow its users or rooms how far it has come, in milliseconds: whenever the
/// wall clock shows a multiple of it, and what it says is that multiple. Mail that goes in between says no more, else
/// cursors would tell whether anybody did anything whom nobody may see.
const HORIZON_MS: u64 = 500;

/// What is the same for the exchanges of all shards of a process.
#[derive(Clone, Debug)]
pub struct ExchangeTerms {
    partition: PartitionTerms,
    rooms: RoomTerms,
    watch: WatchTerms,
    /// Connections that one address may have; 0 for no such limit.
    address_connections_max: usize,
}

impl ExchangeTerms {
    /// The terms that `config` sets for `shards` shards. `process` names the process to those who keep cursors, and
    /// `began_unix_ms` is when it began to serve.
    pub fn new(config: &Config, shards: usize, process: u32, began_unix_ms: u64) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (history_ms, bounds) = (ms(config.history), Bounds::default());
        let began = Version::at_ms(began_unix_ms);
        Self {
            partition: PartitionTerms {
                partitions: shards,
                grace_ms: ms(config.offline_grace),
                resume_ms: ms(config.resume_window),
                sessions_max: config.resume_sessions_max.div_ceil(shards),
                last_seen_max: config.last_seen_capacity.div_ceil(shards),
                connections_max: match config.connections_per_user {
                    0 => u32::MAX,
                    connections => u32::try_from(connections).unwrap_or(u32::MAX),
                },
                oldest_yields: config.connection_that_yields == Yields::Oldest,
                status_rate: Rate::new(config.status_rate_per_user, config.status_rate_per_user),
                began,
            },
            address_connections_max: config.connections_per_address,
            rooms: RoomTerms {
                partitions: shards,
                detail_limit: config.room_detail_limit,
                history_ms,
                departures_max: bounds.departures,
                began,
            },
            watch: WatchTerms {
                partitions: shards,
                change_interval_ms: ms(config.change_interval),
                cursor_slack_ms: ms(config.cursor_slack),
                history_ms,
                users_max: config.watched_users_max,
                rooms_max: config.rooms_max,
                process,
                began,
                bounds,
            },
        }
    }

    /// The same with other bounds.
    pub(super) fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.rooms.departures_max = bounds.departures;
        self.watch.bounds = bounds;
        self
    }

    /// Users that one connection may watch.
    pub fn watched_users_max(&self) -> usize {
        self.watch.users_max
    }

    /// Rooms that one connection may watch.
    pub fn rooms_max(&self) -> usize {
        self.watch.rooms_max
    }
}

/// What one shard sends another, once a turn at most.
#[derive(Debug)]
pub struct Mail {
    /// Who sends it.
    from: u32,
    /// Up to which version all about the sender's users has been sent, this mail included.
    users_until: Version,
    /// The same for the sender's rooms.
    rooms_until: Version,
    posts: Vec<Post>,
}

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    shard: usize,
    /// The users that live here.
    pub partition: Partition,
    /// The rooms that live here.
    pub rooms: Rooms,
    /// Who on this shard watches whom.
    pub watch: WatchTable,
    /// How many connections addresses have whose hash falls to this partition, where that is limited.
    addresses: Option<Addresses>,
    outboxes: Vec<Outbox>,
    /// When each shard is to be told next how far this one has come, in milliseconds since the process began to serve.
    telling_ms: Vec<u64>,
    posts: Posts,
    /// Connections whose session's fate has been told, and whether it was resumed.
    opened: VecDeque<(ConnectionKey, bool)>,
    /// Connections whose place another took.
    replaced: VecDeque<ConnectionKey>,
    /// Connections that are one too many.
    too_many: VecDeque<(ConnectionKey, Surplus)>,
    /// Connections that are in rooms because they took another's place.
    adopted: VecDeque<(ConnectionKey, Vec<RoomRef>)>,
}

impl Exchange {
    /// The exchange of `shard`.
    pub fn new(shard: usize, terms: ExchangeTerms) -> Self {
        let shards = terms.partition.partitions;
        let address_connections_max = terms.address_connections_max;
        Self {
            shard,
            partition: Partition::new(terms.partition),
            rooms: Rooms::new(terms.rooms),
            watch: WatchTable::new(shard as u32, terms.watch),
            addresses: (address_connections_max > 0).then(|| Addresses::new(address_connections_max)),
            outboxes: (0..shards).map(|_| Outbox::default()).collect(),
            telling_ms: vec![0; shards],
            posts: Posts::default(),
            opened: VecDeque::new(),
            replaced: VecDeque::new(),
            too_many: VecDeque::new(),
            adopted: VecDeque::new(),
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.outboxes.len()
    }

    /// Posts something to a shard, perhaps this one.
    pub fn post(&mut self, at: Moment, shard: usize, post: Post) {
        self.posts.send(shard, post);
        self.route(at);
    }

    /// Has the watch table do something, and posts what follows from it.
    pub fn with_watch<T>(&mut self, at: Moment, act: impl FnOnce(&mut WatchTable, &mut Posts) -> T) -> T {
        let result = act(&mut self.watch, &mut self.posts);
        self.route(at);
        result
    }

    /// Takes what another shard sent.
    pub fn receive(&mut self, at: Moment, mail: Mail) {
        let Mail { from, users_until, rooms_until, posts } = mail;
        for post in posts {
            self.act(at, post);
        }
        self.route(at);
        self.watch.heard(from as usize, users_until, rooms_until);
    }

    /// What is to be sent to `shard`, if anything; [`Exchange::flush`] comes before.
    pub fn take_mail(&mut self, at: Moment, shard: usize) -> Option<Mail> {
        let posts = self.outboxes[shard].take()?;
        self.telling_ms[shard] = at.elapsed_ms + HORIZON_MS - at.unix_ms % HORIZON_MS;
        let users_until = rounded(self.partition.horizon(at), 0);
        // How far the members' partitions have come is heard of a little later.
        let rooms_until = rounded(self.rooms.horizon(at), HORIZON_MS).min(self.rooms_until(at));
        Some(Mail { from: self.shard as u32, users_until, rooms_until, posts })
    }

    /// `shard` has no room: what waits for it keeps waiting.
    pub fn hold_mail(&mut self, shard: usize) {
        self.outboxes[shard].hold();
    }

    /// Takes back what `shard` turned out to have no room for.
    pub fn return_mail(&mut self, shard: usize, mail: Mail) {
        self.outboxes[shard].give_back(mail.posts);
        self.outboxes[shard].force();
    }

    /// What waits for `shard`, in order.
    pub fn waiting(&self, shard: usize) -> impl Iterator<Item = &Post> {
        self.outboxes[shard].waiting()
    }

    /// Posts what rooms have to tell, and says to this shard's own watchers how far it has come.
    pub fn flush(&mut self, at: Moment) {
        self.rooms.flush(at, &mut self.posts);
        self.route(at);
        let (users_until, rooms_until) = (self.partition.horizon(at), self.rooms_until(at));
        self.watch.heard(self.shard, users_until, rooms_until);
    }

    /// Does what is due by now.
    pub fn tick(&mut self, at: Moment) {
        self.partition.tick(at, &mut self.posts);
        self.rooms.tick(at, &mut self.posts);
        self.watch.tick(at);
        self.route(at);
        for shard in 0..self.outboxes.len() {
            if self.is_tied_to(shard) && self.telling_ms[shard] <= at.elapsed_ms {
                self.outboxes[shard].force();
            }
        }
    }

    /// When something is due next, in milliseconds since the process began to serve.
    pub fn deadline_ms(&self) -> Option<u64> {
        // What was done of the shard's own accord, after this turn's flush.
        if self.rooms.has_news() {
            return Some(0);
        }
        let tied = (0..self.outboxes.len()).filter(|&shard| self.is_tied_to(shard));
        let telling = tied.map(|shard| self.telling_ms[shard]).min();
        let parts = [self.partition.deadline_ms(), self.rooms.deadline_ms(), self.watch.deadline_ms()];
        parts.into_iter().chain([telling]).flatten().min()
    }

    /// A connection whose session's fate has been told since this was last asked, and whether it was resumed.
    pub fn next_opened(&mut self) -> Option<(ConnectionKey, bool)> {
        self.opened.pop_front()
    }

    /// A connection whose place another took since this was last asked.
    pub fn next_replaced(&mut self) -> Option<ConnectionKey> {
        self.replaced.pop_front()
    }

    /// A connection that is in rooms because it took another's place, which was told since this was last asked.
    pub fn next_adopted(&mut self) -> Option<(ConnectionKey, Vec<RoomRef>)> {
        self.adopted.pop_front()
    }

    /// A connection that was one too many since this was last asked, and why.
    pub fn next_too_many(&mut self) -> Option<(ConnectionKey, Surplus)> {
        self.too_many.pop_front()
    }

    /// Whether one of [`Exchange::next_opened`], [`Exchange::next_replaced`], [`Exchange::next_adopted`] and
    /// [`Exchange::next_too_many`] has something.
    pub fn has_tidings(&self) -> bool {
        !self.opened.is_empty() || !self.replaced.is_empty() || !self.adopted.is_empty() || !self.too_many.is_empty()
    }

    /// Bytes that all this holds, about.
    pub fn held_bytes(&self) -> usize {
        let addresses = self.addresses.as_ref().map_or(0, Addresses::held_bytes);
        let waiting: usize = self.outboxes.iter().map(Outbox::held_bytes).sum();
        self.partition.held_bytes() + self.rooms.held_bytes() + self.watch.held_bytes() + addresses + waiting
    }

    /// Whether nothing is left: nobody is known, nothing is watched.
    pub fn is_empty(&self) -> bool {
        let no_address = self.addresses.as_ref().is_none_or(Addresses::is_empty);
        no_address && self.partition.is_empty() && self.rooms.is_empty() && self.watch.is_empty() && !self.has_tidings()
    }

    /// Whether `shard` must be told how far this one has come.
    fn is_tied_to(&self, shard: usize) -> bool {
        shard != self.shard && self.partition.ties(shard) + self.rooms.ties(shard) > 0
    }

    /// Up to which version all about rooms has been told: no further than their members' partitions have come here.
    fn rooms_until(&mut self, at: Moment) -> Version {
        let horizon = self.rooms.horizon(at);
        let sources = (0..self.outboxes.len()).filter(|&source| source != self.shard && self.rooms.sources(source) > 0);
        let heard = sources.map(|source| self.watch.heard_of_users(source)).min();
        heard.into_iter().fold(horizon, Version::min)
    }

    /// Brings each post to where it goes, and what follows from it.
    fn route(&mut self, at: Moment) {
        while !self.posts.is_empty() {
            let mut posts = std::mem::take(&mut self.posts);
            for (shard, post) in posts.take() {
                if shard as usize == self.shard {
                    self.act(at, post);
                } else {
                    self.outboxes[shard as usize].push(post);
                }
            }
            // The allocation is kept where nothing followed.
            if self.posts.is_empty() {
                self.posts = posts;
                return;
            }
        }
    }

    fn act(&mut self, at: Moment, post: Post) {
        let posts = &mut self.posts;
        match post {
            Post::Presence(event) => self.partition.handle(at, event, posts),
            Post::Follow { shard, user } => self.partition.follow(shard, user, posts),
            Post::Unfollow { shard, user } => self.partition.unfollow(shard, &user),
            Post::Told(news) => self.watch.user_told(at, news, posts),
            Post::Opened { connection, resumed } => self.opened.push_back((connection, resumed)),
            Post::Rooms { connection, rooms } => self.adopted.push_back((connection, rooms)),
            Post::Replaced(connection) => self.replaced.push_back(connection),
            Post::TooMany(connection, surplus) => self.too_many.push_back((connection, surplus)),
            Post::Address { connection, address, opened } => {
                let Some(addresses) = &mut self.addresses else { return };
                if !opened {
                    addresses.ended(address);
                } else if !addresses.opened(address) {
                    posts.send(connection.shard as usize, Post::TooMany(connection, Surplus::OfAddress));
                }
            }
            Post::Member { room, told, is_member } => self.rooms.member(at, &room, told, is_member),
            Post::MemberTold(told) => self.rooms.member_told(&told),
            Post::FollowRoom(question) => self.rooms.follow(at, question, posts),
            Post::UnfollowRoom { shard, room } => self.rooms.unfollow(shard, &room),
            Post::RoomState(state) => self.watch.room_state(at, *state, posts),
            Post::RoomNews(news) => self.watch.room_news(at, &news, posts),
        }
    }
}

/// The last version before the multiple of [`HORIZON_MS`] that `horizon` has passed, or one `earlier_ms` before.
fn rounded(horizon: Version, earlier_ms: u64) -> Version {
    let passed_ms = Version(horizon.0 + 1).unix_ms().saturating_sub(earlier_ms);
    Version(Version::at_ms(passed_ms / HORIZON_MS * HORIZON_MS).0.saturating_sub(1))
}
