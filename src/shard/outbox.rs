//! What waits for another shard's inbox.
//!
//! A send never blocks and never drops. While the inbox is full, what waits is folded to what still matters: of each
//! connection its state, of each user and member the newest. So it is bounded by what there is, not by how often it
//! changed; connections that were lost meanwhile, with what their clients may come back to, are all kept.

use std::collections::HashMap;
use std::sync::Arc;

use crate::breaks::{Break, is_on};
use crate::presence::change::{
    ConnectionKey, EndCause, Happening, Post, Predecessor, PresenceEvent, RoomEvent, RoomNews, RoomRef,
};
use crate::protocol::message::MetadataUpdate;

/// Places for posts that are kept while nothing waits; what a full inbox made of more is given back.
const POSTS_KEPT: usize = 1024;

/// Posts for one shard, in the order in which they were made.
#[derive(Debug, Default)]
pub struct Outbox {
    posts: Vec<Option<Post>>,
    /// While the inbox is full: where in `posts` what stands.
    folded: Option<Folded>,
    /// Empty places in `posts`.
    holes: usize,
    /// Whether mail is to be sent though nothing waits.
    is_forced: bool,
}

#[derive(Debug, Default)]
struct Folded {
    connections: HashMap<ConnectionKey, Positions>,
    /// By the hash of the user: the last connection that came and went while it waited.
    visits: HashMap<u64, ConnectionKey>,
    others: HashMap<Subject, usize>,
}

/// Where the posts of one connection stand.
#[derive(Clone, Debug, Default)]
struct Positions {
    opened: Option<usize>,
    updated: Option<usize>,
    /// By the hash of the room.
    rooms: Vec<(u64, usize)>,
    ended: Option<usize>,
}

/// What a post is about, where a later one of the same takes its place. Hashes stand for names: what they point to is
/// compared before it is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(u64),
    Member {
        room: u64,
        user: u64,
    },
    MemberTold(u64),
    Room(u64),
    /// That a connection from some address opened.
    Address(ConnectionKey),
    RoomAnew(u64),
}

impl Outbox {
    /// Adds what was made last.
    pub fn push(&mut self, post: Post) {
        match &mut self.folded {
            None => self.posts.push(Some(post)),
            Some(_) => self.fold(post),
        }
    }

    /// Has mail be sent though nothing waits: it tells how far this shard has come.
    pub fn force(&mut self) {
        self.is_forced = true;
    }

    /// Takes all that waits, to be sent.
    pub fn take(&mut self) -> Option<Vec<Post>> {
        self.folded = None;
        self.holes = 0;
        let posts: Vec<Post> = self.posts.drain(..).flatten().collect();
        if self.posts.capacity() > POSTS_KEPT {
            self.posts = Vec::new();
        }
        (std::mem::take(&mut self.is_forced) || !posts.is_empty()).then_some(posts)
    }

    /// What waits, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Post> {
        self.posts.iter().flatten()
    }

    /// Bytes of what waits, what it points to aside.
    pub fn held_bytes(&self) -> usize {
        self.posts.len() * size_of::<Option<Post>>()
    }

    /// The inbox has no room: what waits, and what comes until it is taken, is folded.
    pub fn hold(&mut self) {
        if self.folded.is_none() {
            let posts = self.posts.drain(..).flatten().collect();
            self.give_back(posts);
        }
    }

    /// Takes back what the inbox had no room for after all. Nothing was added since it was taken.
    pub fn give_back(&mut self, posts: Vec<Post>) {
        debug_assert!(self.posts.is_empty());
        self.folded = Some(Folded::default());
        for post in posts {
            self.fold(post);
        }
    }

    fn fold(&mut self, mut post: Post) {
        if is_on(Break::NothingFolded) {
            return self.posts.push(Some(post));
        }
        if let Post::Presence(event) = post {
            self.fold_event(event);
            return self.close_holes();
        }
        if is_on(Break::FullInboxDrops) && matches!(post, Post::Told(_)) {
            return;
        }
        // Of a connection that came and went while this waited, its address need not be told.
        if let Post::Address { connection, opened: false, .. } = post
            && let Some(earlier) =
                self.folded.as_mut().and_then(|folded| folded.others.remove(&Subject::Address(connection)))
        {
            self.clear(earlier);
            return self.close_holes();
        }
        if let Post::RoomState(state) = &post {
            self.part_news(&state.room.clone(), state.answers.is_none());
        }
        if let Some(subject) = subject_of(&post)
            && let Some(earlier) = self.take_earlier(subject, &post)
        {
            absorb(&mut post, earlier);
        }
        self.posts.push(Some(post));
        self.close_holes();
    }

    /// Takes out the post about `subject` that waits, if it is about the same as `post`, which stands for it from now
    /// on.
    fn take_earlier(&mut self, subject: Subject, post: &Post) -> Option<Post> {
        let position = self.posts.len();
        let earlier = self.folded.as_mut()?.others.insert(subject, position)?;
        let is_same = is_about_the_same(self.posts.get(earlier)?.as_ref()?, post);
        if is_same { self.clear(earlier) } else { None }
    }

    /// What happened in a room before a state of it was made is told before that, and what happens later behind it. A
    /// state that begins anew says it all.
    fn part_news(&mut self, room: &RoomRef, begins_anew: bool) {
        let subject = Subject::Room(room.hash().0);
        let earlier = self.folded.as_mut().and_then(|folded| folded.others.remove(&subject));
        let is_same = |earlier: &usize| {
            let earlier = self.posts.get(*earlier).and_then(Option::as_ref);
            matches!(earlier, Some(Post::RoomNews(news)) if news.room == *room)
        };
        if let Some(earlier) = earlier.filter(|earlier| begins_anew && is_same(earlier)) {
            self.clear(earlier);
        }
    }

    fn fold_event(&mut self, mut event: PresenceEvent) {
        let connection = event.connection;
        let mut at =
            self.folded.as_ref().and_then(|folded| folded.connections.get(&connection)).cloned().unwrap_or_default();
        let position = self.posts.len();
        match &mut event.what {
            Happening::Opened { .. } => at.opened = Some(position),
            Happening::Updated { metadata, .. } => {
                let earlier = at.updated.replace(position).and_then(|earlier| self.clear(earlier));
                if let Some(Post::Presence(PresenceEvent {
                    what: Happening::Updated { metadata: earlier, .. }, ..
                })) = earlier
                    && *metadata == MetadataUpdate::Keep
                {
                    *metadata = earlier;
                }
            }
            Happening::Abandoned(_) => {
                for earlier in at.updated.take().into_iter().chain(at.rooms.drain(..).map(|(_, earlier)| earlier)) {
                    self.clear(earlier);
                }
            }
            Happening::Joined(room) | Happening::Left(room) => {
                let hash = room.hash().0;
                match at.rooms.iter_mut().find(|(other, _)| *other == hash) {
                    Some((_, earlier)) => {
                        let earlier = std::mem::replace(earlier, position);
                        self.clear(earlier);
                    }
                    None => at.rooms.push((hash, position)),
                }
            }
            Happening::Ended { .. } => {
                at.ended = Some(position);
                self.forget_earlier_visit(connection, &at);
            }
        }
        if let Some(folded) = &mut self.folded {
            if at.ended.is_some() && at.opened.is_none() {
                folded.connections.remove(&connection);
            } else {
                folded.connections.insert(connection, at);
            }
        }
        self.posts.push(Some(Post::Presence(event)));
    }

    /// Of a user's connections that came and went while this waited, the last is enough, where the one before it left
    /// nothing to return to.
    fn forget_earlier_visit(&mut self, connection: ConnectionKey, at: &Positions) {
        let opened = at.opened.and_then(|position| self.posts.get(position)?.as_ref());
        let Some(Post::Presence(PresenceEvent { what: Happening::Opened { user, .. }, .. })) = opened else { return };
        let hash = user.hash.0;
        let Some(folded) = &mut self.folded else { return };
        let earlier = folded.visits.insert(hash, connection).and_then(|earlier| folded.connections.remove(&earlier));
        let Some(Positions { opened, updated, rooms, ended }) = earlier.filter(|at| self.is_without_trace(at)) else {
            return;
        };
        for position in [opened, updated, ended].into_iter().flatten().chain(rooms.into_iter().map(|(_, at)| at)) {
            self.clear(position);
        }
    }

    /// Whether a connection took nobody's place, and nobody can take its own.
    fn is_without_trace(&self, at: &Positions) -> bool {
        let happening = |position: Option<usize>| match self.posts.get(position?)?.as_ref()? {
            Post::Presence(event) => Some(&event.what),
            _ => None,
        };
        let is_fresh = match happening(at.opened) {
            Some(Happening::Opened { predecessor: Predecessor::Unnamed, status, .. }) => status.is_some(),
            Some(Happening::Opened { predecessor, .. }) => *predecessor == Predecessor::None,
            _ => false,
        };
        is_fresh && matches!(happening(at.ended), Some(Happening::Ended { cause: EndCause::Asked, .. }))
    }

    fn clear(&mut self, position: usize) -> Option<Post> {
        let post = self.posts.get_mut(position)?.take()?;
        self.holes += 1;
        Some(post)
    }

    /// Closes up when half is holes: a step's share of that stays constant.
    fn close_holes(&mut self) {
        const HOLES_WORTH_CLOSING: usize = 64;
        if self.holes < HOLES_WORTH_CLOSING || self.holes * 2 < self.posts.len() {
            return;
        }
        let mut moved = vec![0; self.posts.len()];
        let mut next = 0;
        for (position, post) in self.posts.iter().enumerate() {
            moved[position] = next;
            next += usize::from(post.is_some());
        }
        self.posts.retain(Option::is_some);
        self.holes = 0;
        let Some(folded) = &mut self.folded else { return };
        for at in folded.connections.values_mut() {
            let rooms = at.rooms.iter_mut().map(|(_, position)| position);
            for position in [&mut at.opened, &mut at.updated, &mut at.ended].into_iter().flatten().chain(rooms) {
                *position = moved[*position];
            }
        }
        for position in folded.others.values_mut() {
            *position = moved[*position];
        }
    }
}

/// What a post is about, if a later one of the same takes its place.
fn subject_of(post: &Post) -> Option<Subject> {
    match post {
        Post::Told(news) => Some(Subject::User(news.told.user.hash.0)),
        Post::Member { room, told, .. } => Some(Subject::Member { room: room.hash().0, user: told.user.hash.0 }),
        Post::MemberTold(told) => Some(Subject::MemberTold(told.user.hash.0)),
        Post::RoomNews(news) => Some(Subject::Room(news.room.hash().0)),
        Post::Address { connection, opened: true, .. } => Some(Subject::Address(*connection)),
        Post::RoomState(state) if state.answers.is_none() => Some(Subject::RoomAnew(state.room.hash().0)),
        _ => None,
    }
}

fn is_about_the_same(one: &Post, other: &Post) -> bool {
    match (one, other) {
        (Post::Told(one), Post::Told(other)) => one.told.user == other.told.user,
        (Post::Member { room: one_room, told: one, .. }, Post::Member { room, told, .. }) => {
            one_room == room && one.user == told.user
        }
        (Post::MemberTold(one), Post::MemberTold(other)) => one.user == other.user,
        (Post::RoomNews(one), Post::RoomNews(other)) => one.room == other.room,
        (Post::RoomState(one), Post::RoomState(other)) => one.room == other.room,
        _ => false,
    }
}

/// Has `post` say what `earlier` said and it does not.
fn absorb(post: &mut Post, earlier: Post) {
    match (post, earlier) {
        (Post::Told(news), Post::Told(earlier)) => {
            news.answers += earlier.answers;
            // The answer to the first who asks may have a later version than what is told of own connections alone.
            if news.told.version < earlier.told.version {
                news.told = earlier.told;
            }
        }
        (Post::RoomNews(news), Post::RoomNews(earlier)) if !earlier.events.is_empty() => {
            let events = if news.is_truncated { Vec::new() } else { net_events(&earlier.events, &news.events) };
            let RoomNews { room, version, count, is_truncated, .. } = &**news;
            let (room, version, count, is_truncated) = (room.clone(), *version, *count, *is_truncated);
            *news = Arc::new(RoomNews { room, version, count, is_truncated, events });
        }
        _ => {}
    }
}

/// Of each user the one event that says what `earlier` and then `later` said.
fn net_events(earlier: &[RoomEvent], later: &[RoomEvent]) -> Vec<RoomEvent> {
    let mut positions = HashMap::new();
    let mut events: Vec<RoomEvent> = Vec::with_capacity(earlier.len() + later.len());
    for event in earlier.iter().chain(later) {
        let position = *positions.entry(&event.told().user.id).or_insert(events.len());
        match (events.get_mut(position), event) {
            (None, event) => events.push(event.clone()),
            // Who came and changed is not known yet: it comes as it is now.
            (Some(RoomEvent::Joined(told, _)), RoomEvent::Changed(changed)) => *told = Arc::clone(changed),
            (Some(known), event) => *known = event.clone(),
        }
    }
    events
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::presence::change::{
        Depth, EndCause, Moment, NameHasher, Posts, Predecessor, RoomRef, RoomState, SessionKey, Told, UserNews,
        UserRef,
    };
    use crate::presence::partition::{Partition, PartitionTerms};
    use crate::protocol::address::AddressKey;
    use crate::protocol::cursor::Version;
    use crate::protocol::room_name::RoomName;
    use crate::protocol::status::{PresenceStatus, Status};
    use crate::protocol::user_id::UserId;

    const STATUSES: [Status; 4] = [Status::Busy, Status::Online, Status::Away, Status::Invisible];
    const AT: Moment = Moment { elapsed_ms: 1_000, unix_ms: 1_000_000 };

    #[derive(Clone, Debug)]
    enum Step {
        Open(u32, usize),
        Update(u32, usize, bool),
        Join(u32, usize, bool),
        End(u32, bool),
        /// The inbox has room, or not.
        Flush(bool),
    }

    fn key(index: u32) -> ConnectionKey {
        ConnectionKey { shard: 0, index, generation: 0 }
    }

    fn user(index: u32, hasher: &NameHasher) -> UserRef {
        let id = UserId::parse(&format!("user-{}", index % 3)).unwrap();
        UserRef { hash: hasher.user(&id), id }
    }

    fn room(index: usize, hasher: &NameHasher) -> RoomRef {
        RoomRef::new(RoomName::parse(&format!("room-{index}")).unwrap(), hasher)
    }

    fn event(step: &Step, hasher: &NameHasher) -> Option<PresenceEvent> {
        let (index, what) = match *step {
            Step::Open(index, status) => {
                let (user, session) = (Box::new(user(index, hasher)), SessionKey(u64::from(index)));
                let status = Some(STATUSES[status]);
                let predecessor = Predecessor::None;
                (index, Happening::Opened { user, session, status, predecessor, opened_ms: AT.elapsed_ms })
            }
            Step::Update(index, status, clears) => {
                let metadata = if clears { MetadataUpdate::Clear } else { MetadataUpdate::Keep };
                (index, Happening::Updated { status: STATUSES[status], metadata })
            }
            Step::Join(index, number, true) => (index, Happening::Joined(room(number, hasher))),
            Step::Join(index, number, false) => (index, Happening::Left(room(number, hasher))),
            Step::End(index, asked) => {
                let cause = if asked { EndCause::Asked } else { EndCause::Lost };
                (index, Happening::Ended { cause, heard_unix_ms: 0, ended_ms: 0 })
            }
            Step::Flush(_) => return None,
        };
        Some(PresenceEvent { connection: key(index), what })
    }

    fn flush(outbox: &mut Outbox, partition: &mut Partition, posts: &mut Posts, has_room: bool) {
        if !has_room && is_found_full_before_taking(outbox) {
            return outbox.hold();
        }
        let deliver = |post| match post {
            Post::Presence(event) => partition.handle(AT, event, posts),
            other => panic!("{other:?}"),
        };
        match outbox.take() {
            Some(events) if has_room => events.into_iter().for_each(deliver),
            Some(events) => outbox.give_back(events),
            None => {}
        }
    }

    /// Both ways to find the inbox full are tried: before taking, and after.
    fn is_found_full_before_taking(outbox: &Outbox) -> bool {
        outbox.posts.len().is_multiple_of(2)
    }

    /// Who is in which room, by the posts to the rooms' partitions.
    fn members(posts: &mut Posts) -> Vec<(String, String)> {
        let mut members = Vec::new();
        for (_, post) in posts.take() {
            if let Post::Member { room, told, is_member } = post {
                let member = (room.name().as_str().to_owned(), told.user.id.as_str().to_owned());
                members.retain(|other| *other != member);
                if is_member {
                    members.push(member);
                }
            }
        }
        members.sort();
        members
    }

    #[test]
    fn of_a_connection_that_came_and_went_while_it_waited_the_address_is_not_told() {
        let address = |index, opened| Post::Address { connection: key(index), address: AddressKey::default(), opened };
        let mut outbox = Outbox::default();
        outbox.push(address(1, true));
        assert_eq!(outbox.take().map(|posts| posts.len()), Some(1));
        outbox.hold();
        for index in 2..1_000 {
            outbox.push(address(index, true));
            outbox.push(address(index, false));
        }
        outbox.push(address(1, false));
        outbox.push(address(1_000, true));
        let posts = outbox.take().unwrap();
        let told: Vec<_> = posts
            .iter()
            .map(|post| match post {
                Post::Address { connection, opened, .. } => (connection.index, *opened),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [(1, false), (1_000, true)]);
    }

    proptest! {
        #[test]
        fn what_arrives_late_and_folded_leads_to_the_same_presence(steps in prop::collection::vec(prop_oneof![
            (0_u32..200, 0_usize..4).prop_map(|(index, status)| Step::Open(index, status)),
            (0_u32..200, 0_usize..4, any::<bool>()).prop_map(|(index, status, clears)| Step::Update(index, status, clears)),
            (0_u32..200, 0_usize..3, any::<bool>()).prop_map(|(index, room, joins)| Step::Join(index, room, joins)),
            (0_u32..200, any::<bool>()).prop_map(|(index, asked)| Step::End(index, asked)),
            any::<bool>().prop_map(Step::Flush),
        ], 0..400)) {
            let hasher = NameHasher::default();
            // Without a grace nothing is owed to one who came and went while the inbox was full.
            let terms = PartitionTerms {
                partitions: 1,
                grace_ms: 0,
                resume_ms: 0,
                sessions_max: 0,
                last_seen_max: 0,
                connections_max: u32::MAX,
                oldest_yields: true,
                status_rate: None,
                began: Version(0),
            };
            let (mut direct, mut late) = (Partition::new(terms.clone()), Partition::new(terms));
            let (mut direct_posts, mut late_posts) = (Posts::default(), Posts::default());
            let mut outbox = Outbox::default();
            let mut open = std::collections::BTreeSet::new();
            for step in steps {
                let valid = match step {
                    Step::Open(index, _) => open.insert(index),
                    Step::Update(index, ..) | Step::Join(index, ..) => open.contains(&index),
                    Step::End(index, _) => open.remove(&index),
                    Step::Flush(has_room) => {
                        flush(&mut outbox, &mut late, &mut late_posts, has_room);
                        false
                    }
                };
                if let Some(happened) = event(&step, &hasher).filter(|_| valid) {
                    direct.handle(AT, happened, &mut direct_posts);
                    outbox.push(Post::Presence(event(&step, &hasher).unwrap()));
                }
            }
            flush(&mut outbox, &mut late, &mut late_posts, true);
            prop_assert!(outbox.take().is_none());
            for index in 0..3 {
                let user = user(index, &hasher);
                let status = |partition: &Partition| partition.seen(&user).map(|told| told.status);
                prop_assert_eq!(status(&direct), status(&late));
            }
            for status in STATUSES {
                prop_assert_eq!(direct.users_with(status), late.users_with(status));
            }
            prop_assert_eq!(members(&mut direct_posts), members(&mut late_posts));
        }
    }

    #[test]
    fn what_waits_is_bounded_by_what_there_is() {
        let hasher = NameHasher::default();
        let mut outbox = Outbox::default();
        let push = |outbox: &mut Outbox, step| outbox.push(Post::Presence(event(&step, &hasher).unwrap()));
        push(&mut outbox, Step::Open(0, 0));
        outbox.hold();
        for round in 0..100_000_u32 {
            push(&mut outbox, Step::Update(0, (round % 3) as usize, false));
            push(&mut outbox, Step::Join(0, 0, round % 2 == 0));
            push(&mut outbox, Step::Open(3 + round, 0));
            push(&mut outbox, Step::End(3 + round, true));
            let told = Told::new(user(1, &hasher), Version(u64::from(round)), PresenceStatus::Away, None, None, None);
            outbox.push(Post::Told(UserNews { told: Arc::new(told), own: None, answers: 1 }));
            assert!(outbox.posts.len() < 200);
        }
        let posts = outbox.take().unwrap();
        assert_eq!(posts.len(), 3 + 3 * 2 + 1);
        let told = posts.iter().find_map(|post| match post {
            Post::Told(news) => Some((news.told.version.0, news.answers)),
            _ => None,
        });
        assert_eq!(told, Some((99_999, 100_000)));
    }

    #[test]
    fn what_waits_is_counted_and_its_memory_given_back() {
        let hasher = NameHasher::default();
        let mut outbox = Outbox::default();
        assert_eq!(outbox.held_bytes(), 0);
        outbox.hold();
        for index in 0..2 * POSTS_KEPT as u32 {
            outbox.push(Post::Follow { shard: index, user: user(index, &hasher) });
        }
        assert_eq!(outbox.held_bytes(), 2 * POSTS_KEPT * size_of::<Option<Post>>());
        assert_eq!(outbox.take().unwrap().len(), 2 * POSTS_KEPT);
        assert_eq!((outbox.held_bytes(), outbox.posts.capacity()), (0, 0));
    }

    #[test]
    fn the_answer_to_the_first_who_asks_keeps_its_version() {
        let hasher = NameHasher::default();
        let mut outbox = Outbox::default();
        outbox.hold();
        for (version, answers) in [(5, 1), (2, 0)] {
            let told = Told::new(user(1, &hasher), Version(version), PresenceStatus::Offline, None, None, None);
            outbox.push(Post::Told(UserNews { told: Arc::new(told), own: None, answers }));
        }
        let posts = outbox.take().unwrap();
        let [Post::Told(news)] = &posts[..] else { panic!("{posts:?}") };
        assert_eq!((news.told.version, news.answers), (Version(5), 1));
    }

    #[test]
    fn of_what_happened_in_a_room_the_last_of_each_user_is_told() {
        let hasher = NameHasher::default();
        let told = |index, version| {
            Arc::new(Told::new(user(index, &hasher), Version(version), PresenceStatus::Away, None, None, None))
        };
        let news = |version, events| {
            let (room, version) = (room(0, &hasher), Version(version));
            Post::RoomNews(Arc::new(RoomNews { room, version, count: 1, is_truncated: false, events }))
        };
        let mut outbox = Outbox::default();
        outbox.hold();
        outbox.push(news(1, vec![RoomEvent::Joined(told(0, 1), Version(1)), RoomEvent::Left(told(1, 2))]));
        outbox.push(news(2, vec![RoomEvent::Changed(told(0, 3)), RoomEvent::Joined(told(1, 4), Version(2))]));
        outbox.push(news(3, vec![RoomEvent::Joined(told(2, 5), Version(3)), RoomEvent::Left(told(1, 4))]));
        let posts = outbox.take().unwrap();
        let [Post::RoomNews(news)] = &posts[..] else { panic!("{posts:?}") };
        let events: Vec<(u64, u8)> = news
            .events
            .iter()
            .map(|event| match event {
                RoomEvent::Joined(told, _) => (told.version.0, 1),
                RoomEvent::Left(told) => (told.version.0, 2),
                RoomEvent::Changed(told) => (told.version.0, 3),
            })
            .collect();
        assert_eq!((news.version.0, events), (3, vec![(3, 1), (4, 2), (5, 1)]));
    }
    #[test]
    fn what_happened_in_a_room_before_a_state_of_it_is_told_before_it() {
        let hasher = NameHasher::default();
        let told = |version| Told::new(user(0, &hasher), Version(version), PresenceStatus::Away, None, None, None);
        let news = |version, event| {
            let (room, version, events) = (room(0, &hasher), Version(version), vec![event]);
            Post::RoomNews(Arc::new(RoomNews { room, version, count: 1, is_truncated: false, events }))
        };
        let state = |version, answers| {
            Post::RoomState(Box::new(RoomState {
                room: room(0, &hasher),
                version: Version(version),
                count: 1,
                members: Vec::new(),
                is_truncated: false,
                left: Vec::new(),
                since: None,
                forgot: false,
                answers,
            }))
        };
        let versions = |outbox: &mut Outbox| -> Vec<u64> {
            let version = |post: &Post| match post {
                Post::RoomNews(news) => news.version.0,
                Post::RoomState(state) => state.version.0,
                other => panic!("{other:?}"),
            };
            outbox.take().unwrap().iter().map(version).collect()
        };
        let mut outbox = Outbox::default();
        outbox.hold();
        outbox.push(news(1, RoomEvent::Joined(Arc::new(told(1)), Version(1))));
        outbox.push(state(2, Some(Depth::Full)));
        outbox.push(news(3, RoomEvent::Left(Arc::new(told(1)))));
        outbox.push(news(4, RoomEvent::Joined(Arc::new(told(4)), Version(4))));
        assert_eq!(versions(&mut outbox), [1, 2, 4]);
        // However often it begins anew, the last time is enough.
        outbox.hold();
        for version in (0..300).step_by(2) {
            outbox.push(state(version, None));
            outbox.push(news(version + 1, RoomEvent::Changed(Arc::new(told(version)))));
            assert!(outbox.posts.len() < 200);
        }
        assert_eq!(versions(&mut outbox), [298, 299]);
    }
}
