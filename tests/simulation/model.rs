//! The truth: what the protocol says that every user is, computed slowly and simply from what clients did.
//!
//! The model is told what happened in the order in which it reached each user's partition, which is what links decide,
//! and reckons from the protocol's rules alone. It keeps every presence that others were ever to see of a user.

use rollcall::protocol::status::Status;

/// A connection: the number of its socket in the world.
pub type Connection = u32;

/// The order in which statuses decide.
const PRECEDENCE: [Status; 4] = [Status::Invisible, Status::Busy, Status::Online, Status::Away];

/// How late the end of a plain client's predecessor may be heard of, in milliseconds.
const LATE_END_MS: u64 = 1_000;

/// Among how many of a user's online connections, those that spoke last, a return is looked for.
const RETURNS_SEARCHED: usize = 16;

/// The knobs that the truth depends on.
#[derive(Clone, Debug)]
pub struct Terms {
    pub grace_ms: u64,
    pub resume_ms: u64,
    /// Sessions that one partition keeps.
    pub sessions_max: usize,
    /// Users gone of whom one partition knows when they were last seen.
    pub last_seen_max: usize,
    /// Whether the wall clock is set back now and then, so that of two times of it nobody knows which is the later.
    pub is_clock_set: bool,
}

/// Whose place a connection takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    Unnamed,
    Session(Connection),
    Nobody,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Asked,
    Silent,
    Lost,
}

/// What becomes of metadata; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    Keep,
    Set(u32),
}

/// What happened, on its way to where it matters.
#[derive(Clone, Debug)]
pub enum Event {
    Opened {
        connection: Connection,
        user: usize,
        status: Option<Status>,
        predecessor: Predecessor,
        opened_ms: u64,
    },
    Updated {
        connection: Connection,
        user: usize,
        status: Status,
        metadata: Metadata,
    },
    Joined {
        connection: Connection,
        user: usize,
        room: usize,
    },
    Left {
        connection: Connection,
        user: usize,
        room: usize,
    },
    Ended {
        connection: Connection,
        user: usize,
        end: End,
        heard_unix_ms: u64,
        ended_ms: u64,
    },
    Abandoned {
        connection: Connection,
        user: usize,
        status: Status,
    },
    /// To a shard: what became of a named session.
    Answered {
        connection: Connection,
        resumed: bool,
    },
    /// To a shard: a connection's place was taken.
    Replaced {
        connection: Connection,
    },
}

impl Event {
    /// Which connection it is about.
    pub fn connection(&self) -> Connection {
        let (Self::Opened { connection, .. }
        | Self::Updated { connection, .. }
        | Self::Joined { connection, .. }
        | Self::Left { connection, .. }
        | Self::Ended { connection, .. }
        | Self::Abandoned { connection, .. }
        | Self::Answered { connection, .. }
        | Self::Replaced { connection }) = self;
        *connection
    }
}

/// A presence as others are told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    pub status: Seen,
    pub metadata: u32,
    pub since: Option<u64>,
    pub last_seen: Option<u64>,
}

/// A status as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Offline,
    Online,
    Away,
    Busy,
    Invisible,
}

pub const NEVER_SEEN: Presence = Presence { status: Seen::Offline, metadata: 0, since: None, last_seen: None };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Grace,
    Kept,
}

#[derive(Clone, Debug)]
struct Place {
    connection: Connection,
    status: Status,
    metadata: u32,
    rooms: u64,
    order: u64,
    phase: Phase,
    opened_ms: u64,
    ended_ms: u64,
    /// The order of ends and of keepings.
    stamp: u64,
    plain: bool,
}

/// One user.
#[derive(Clone, Debug)]
pub struct User {
    pub partition: usize,
    places: Vec<Place>,
    /// What others were to see, in order, never two of the same in a row.
    pub public: Vec<Presence>,
    /// What its own connections were to see.
    pub own: Vec<Presence>,
    /// When the user was last heard, while others saw it online.
    heard_unix_ms: u64,
    /// When it was last heard while they did not.
    heard_unseen_unix_ms: u64,
    own_since: u64,
    /// When it went, among those of its partition; 0 while it is there or forgotten.
    gone: u64,
    /// The rooms in which others see it.
    pub rooms: u64,
}

/// What one user is at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub status: Option<Status>,
    metadata: u32,
    pub is_open: bool,
}

/// All users.
pub struct Model {
    pub terms: Terms,
    pub users: Vec<User>,
    /// For each partition, the users with an open connection by status, in the order of [`Status::ALL`].
    pub by_status: Vec<[u64; 4]>,
    /// When anything was last different than before, in milliseconds.
    pub changed_ms: u64,
    now_ms: u64,
    counter: u64,
}

impl Model {
    pub fn new(terms: Terms, partitions: Vec<usize>, shards: usize) -> Self {
        let users = partitions.into_iter().map(|partition| User {
            partition,
            places: Vec::new(),
            public: vec![NEVER_SEEN],
            own: vec![NEVER_SEEN],
            heard_unix_ms: 0,
            heard_unseen_unix_ms: 0,
            own_since: 0,
            gone: 0,
            rooms: 0,
        });
        Self { terms, users: users.collect(), by_status: vec![[0; 4]; shards], changed_ms: 0, now_ms: 0, counter: 0 }
    }

    /// An event reaches the partition of its user; what follows from it goes to `replies`.
    pub fn apply(&mut self, elapsed_ms: u64, unix_ms: u64, event: &Event, replies: &mut Vec<Event>) {
        self.counter += 1;
        self.now_ms = elapsed_ms;
        let order = self.counter;
        let (Event::Opened { connection, user, .. }
        | Event::Updated { connection, user, .. }
        | Event::Joined { connection, user, .. }
        | Event::Left { connection, user, .. }
        | Event::Ended { connection, user, .. }
        | Event::Abandoned { connection, user, .. }) = *event
        else {
            return;
        };
        let before = self.view(user);
        let place = |places: &[Place]| {
            places.iter().position(|place| place.connection == connection && place.phase == Phase::Open)
        };
        if let Event::Opened { status, predecessor, opened_ms, .. } = *event {
            self.open(elapsed_ms, opened_ms, user, connection, status, predecessor, replies);
            return self.settle(unix_ms, user, before);
        }
        let Some(index) = place(&self.users[user].places) else { return };
        let record = &mut self.users[user].places[index];
        match *event {
            Event::Updated { status, metadata, .. } => {
                (record.status, record.order, record.plain) = (status, order, false);
                if let Metadata::Set(metadata) = metadata {
                    record.metadata = metadata;
                }
            }
            Event::Abandoned { status, .. } => {
                (record.status, record.order, record.plain) = (status, order, false);
                (record.metadata, record.rooms) = (0, 0);
            }
            Event::Joined { room, .. } => record.rooms |= 1 << room,
            Event::Left { room, .. } => {
                record.plain &= record.rooms >> room & 1 == 1;
                record.rooms &= !(1 << room);
            }
            Event::Ended { end, heard_unix_ms, ended_ms, .. } => {
                let record = &mut self.users[user];
                let heard = match before.seen() {
                    Seen::Offline => &mut record.heard_unseen_unix_ms,
                    _ => &mut record.heard_unix_ms,
                };
                *heard = heard_unix_ms.max(*heard);
                self.end(elapsed_ms, user, index, end, ended_ms);
            }
            _ => {}
        }
        self.settle(unix_ms, user, before);
    }

    /// Time passes for a partition.
    pub fn tick(&mut self, elapsed_ms: u64, unix_ms: u64, partition: usize) {
        self.now_ms = elapsed_ms;
        let (grace_ms, resume_ms) = (self.terms.grace_ms, self.terms.resume_ms);
        for user in self.users.iter_mut().filter(|user| user.partition == partition) {
            user.places.retain(|place| place.phase != Phase::Kept || elapsed_ms < place.ended_ms + resume_ms);
        }
        // Of graces that end in the same millisecond the one whose end was heard of first ends first.
        let is_due = |place: &Place| place.phase == Phase::Grace && place.ended_ms + grace_ms <= elapsed_ms;
        let first_due = |users: &[User]| {
            let users = users.iter().enumerate().filter(|(_, user)| user.partition == partition);
            let due = users.flat_map(|(number, user)| {
                let places = user.places.iter().enumerate().filter(|(_, place)| is_due(place));
                places.map(move |(index, place)| ((place.ended_ms, place.stamp), number, index))
            });
            due.min()
        };
        while let Some((_, user, index)) = first_due(&self.users) {
            let before = self.view(user);
            self.keep(elapsed_ms, user, index);
            self.settle(unix_ms, user, before);
        }
    }

    /// Who is in a room, as others see it: a bit a user.
    pub fn members(&self, room: usize) -> u64 {
        let is_in = |user: &User| user.rooms >> room & 1;
        self.users.iter().enumerate().map(|(index, user)| is_in(user) << index).sum()
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one event, and where its consequences go")]
    fn open(
        &mut self,
        elapsed_ms: u64,
        opened_ms: u64,
        user: usize,
        connection: Connection,
        status: Option<Status>,
        predecessor: Predecessor,
        replies: &mut Vec<Event>,
    ) {
        let order = self.counter;
        let resume_ms = self.terms.resume_ms;
        let places = &mut self.users[user].places;
        let taken = match predecessor {
            Predecessor::Session(session) => places.iter().position(|place| {
                place.connection == session && (place.phase == Phase::Open || elapsed_ms < place.ended_ms + resume_ms)
            }),
            Predecessor::Unnamed if status.is_none() => (0..places.len())
                .filter(|&index| places[index].phase == Phase::Grace)
                .max_by_key(|&index| places[index].stamp),
            _ => None,
        };
        if let Predecessor::Session(_) = predecessor {
            replies.push(Event::Answered { connection, resumed: taken.is_some() });
        }
        if let Some(index) = taken {
            let place = &mut places[index];
            if place.phase == Phase::Open {
                replies.push(Event::Replaced { connection: place.connection });
            }
            (place.connection, place.phase, place.plain) = (connection, Phase::Open, false);
            place.opened_ms = opened_ms;
            if let Some(status) = status {
                (place.status, place.order) = (status, order);
            }
            return;
        }
        places.push(Place {
            connection,
            status: status.unwrap_or(Status::Online),
            metadata: 0,
            rooms: 0,
            order,
            phase: Phase::Open,
            opened_ms,
            ended_ms: 0,
            stamp: 0,
            plain: predecessor == Predecessor::Unnamed && status.is_none(),
        });
    }

    fn end(&mut self, elapsed_ms: u64, user: usize, index: usize, end: End, ended_ms: u64) {
        let stamp = self.counter;
        let places = &mut self.users[user].places;
        (places[index].ended_ms, places[index].stamp) = (ended_ms, stamp);
        let came_ms = places[index].opened_ms;
        match end {
            End::Asked => drop(places.remove(index)),
            End::Silent => self.keep(elapsed_ms, user, index),
            End::Lost => {
                // Only one of the online ones that spoke last can be the return of a plain client.
                let mut online: Vec<usize> = (0..places.len())
                    .filter(|&other| places[other].status == Status::Online && places[other].phase != Phase::Kept)
                    .collect();
                online.sort_by_key(|&other| std::cmp::Reverse(places[other].order));
                let returned = online.into_iter().take(RETURNS_SEARCHED).find(|&other| {
                    let place = &places[other];
                    let is_new = elapsed_ms < place.opened_ms + LATE_END_MS && place.opened_ms > came_ms;
                    other != index && place.plain && place.phase == Phase::Open && is_new
                });
                if let Some(returned) = returned {
                    places[index].connection = places[returned].connection;
                    places[index].opened_ms = places[returned].opened_ms;
                    places[index].rooms |= places[returned].rooms;
                    places.remove(returned);
                } else if self.terms.grace_ms == 0 {
                    self.keep(elapsed_ms, user, index);
                } else {
                    places[index].phase = Phase::Grace;
                }
            }
        }
    }

    /// A place counts no more, but may be resumed.
    fn keep(&mut self, elapsed_ms: u64, user: usize, index: usize) {
        self.counter += 1;
        let place = &mut self.users[user].places[index];
        (place.phase, place.stamp) = (Phase::Kept, self.counter);
        if place.ended_ms + self.terms.resume_ms <= elapsed_ms {
            self.users[user].places.remove(index);
        }
        let partition = self.users[user].partition;
        loop {
            let resume_ms = self.terms.resume_ms;
            let kept = self.users.iter().enumerate().filter(|(_, user)| user.partition == partition).flat_map(
                |(user, record)| {
                    let is_kept =
                        |place: &&Place| place.phase == Phase::Kept && elapsed_ms < place.ended_ms + resume_ms;
                    record.places.iter().filter(is_kept).map(move |place| (place.ended_ms, place.stamp, user))
                },
            );
            let kept: Vec<(u64, u64, usize)> = kept.collect();
            let Some(&(_, stamp, user)) = kept.iter().min().filter(|_| kept.len() > self.terms.sessions_max) else {
                return;
            };
            self.users[user].places.retain(|place| place.phase != Phase::Kept || place.stamp != stamp);
        }
    }

    pub fn view(&self, user: usize) -> View {
        let places = &self.users[user].places;
        let counting = || places.iter().filter(|place| place.phase != Phase::Kept);
        let status = PRECEDENCE.into_iter().find(|status| counting().any(|place| place.status == *status));
        let deciding = counting().filter(|place| Some(place.status) == status).max_by_key(|place| place.order);
        View {
            status,
            metadata: deciding.map_or(0, |place| place.metadata),
            is_open: places.iter().any(|place| place.phase == Phase::Open),
        }
    }

    fn settle(&mut self, unix_ms: u64, user: usize, before: View) {
        let after = self.view(user);
        let cell = |view: View| {
            let status = view.status.filter(|_| view.is_open)?;
            Status::ALL.iter().position(|other| *other == status)
        };
        let partition = self.users[user].partition;
        if let Some(cell) = cell(before) {
            self.by_status[partition][cell] -= 1;
        }
        if let Some(cell) = cell(after) {
            self.by_status[partition][cell] += 1;
        }
        let record = &mut self.users[user];
        let (was, is) = (before.seen(), after.seen());
        let rooms = record.rooms;
        let counting = record.places.iter().filter(|place| place.phase != Phase::Kept);
        record.rooms = if is == Seen::Offline { 0 } else { counting.fold(0, |rooms, place| rooms | place.rooms) };
        if before != after || rooms != record.rooms {
            self.changed_ms = self.now_ms;
        }
        if was != is || is != Seen::Offline && before.metadata != after.metadata {
            let known = record.public.last().copied().unwrap_or(NEVER_SEEN);
            let since = if was == is { known.since } else { Some(unix_ms) };
            if after.status == Some(Status::Invisible) {
                record.heard_unix_ms = unix_ms;
            }
            let (metadata, last_seen) = match is {
                Seen::Offline => (0, Some(if self.terms.is_clock_set { 0 } else { record.heard_unix_ms })),
                _ => (after.metadata, None),
            };
            record.public.push(Presence { status: is, metadata, since, last_seen });
            if was == Seen::Offline {
                record.gone = 0;
                record.heard_unix_ms = record.heard_unix_ms.max(record.heard_unseen_unix_ms);
            }
            if is == Seen::Offline {
                self.counter += 1;
                record.gone = self.counter;
                self.forget_gone(partition);
            }
        }
        let record = &mut self.users[user];
        if after.status != Some(Status::Invisible) {
            record.heard_unseen_unix_ms = 0;
        }
        let own = match after.status {
            Some(Status::Invisible) => {
                if before.status != Some(Status::Invisible) {
                    record.own_since = unix_ms;
                }
                let since = Some(record.own_since);
                Presence { status: Seen::Invisible, metadata: after.metadata, since, last_seen: None }
            }
            _ => record.public.last().copied().unwrap_or(NEVER_SEEN),
        };
        if record.own.last() != Some(&own) {
            record.own.push(own);
        }
    }

    /// Of those who are gone for the longest it is not known any more when they were last seen.
    fn forget_gone(&mut self, partition: usize) {
        loop {
            let gone = self.users.iter().enumerate().filter(|(_, user)| user.partition == partition && user.gone > 0);
            let gone: Vec<(u64, usize)> = gone.map(|(index, user)| (user.gone, index)).collect();
            let Some(&(_, user)) = gone.iter().min().filter(|_| gone.len() > self.terms.last_seen_max) else { return };
            let record = &mut self.users[user];
            (record.gone, record.heard_unix_ms) = (0, 0);
            record.public.push(NEVER_SEEN);
            if record.own.last().is_some_and(|own| own.status == Seen::Offline) {
                record.own.push(NEVER_SEEN);
            }
        }
    }
}

impl View {
    /// What others may see.
    fn seen(self) -> Seen {
        match self.status {
            None | Some(Status::Invisible) => Seen::Offline,
            Some(Status::Online) => Seen::Online,
            Some(Status::Away) => Seen::Away,
            Some(Status::Busy) => Seen::Busy,
        }
    }
}

impl Seen {
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "offline" => Self::Offline,
            "online" => Self::Online,
            "away" => Self::Away,
            "busy" => Self::Busy,
            "invisible" => Self::Invisible,
            _ => return None,
        })
    }
}
