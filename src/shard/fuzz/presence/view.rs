//! What one virtual client is told and comes to believe, as the protocol has clients do.

use std::collections::VecDeque;

use super::super::wire::{self, Json, Object};
use super::truth::Truth;
use super::{METADATA_NONE, ROOMS, USERS, room_named, user_named};

const PRESENCE: &[&str] = &["userId", "status", "metadata", "since", "lastSeen"];
const MESSAGE: &[&str] = &["type", "id", "userId", "timestamp", "payload"];

/// A presence that was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    status: String,
    metadata: u32,
    since: Option<String>,
    last_seen: Option<String>,
}

/// A user or room that is watched.
#[derive(Clone, Debug)]
struct Interest {
    /// Of a room: whether by count alone.
    is_counted: bool,
    /// The last WATCH that named it, if that was not answered whole.
    asked: Option<u32>,
    /// Whether its state has been told.
    is_told: bool,
    /// Whether it is watched on this connection.
    is_live: bool,
    /// Up to where it was told on an earlier one, until it is told on this one.
    until: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Room {
    count: u32,
    members: [Option<Presence>; USERS],
    is_truncated: bool,
}

/// A WATCH that was not answered whole, and what its state has told so far.
#[derive(Clone, Debug)]
struct Asked {
    id: u32,
    users: Vec<usize>,
    rooms: Vec<usize>,
    has_cursor: bool,
    told_users: [bool; USERS],
    told_rooms: [bool; ROOMS],
}

/// See the module.
#[derive(Clone, Debug)]
pub struct View {
    user: usize,
    users: [Option<Presence>; USERS],
    rooms: [Room; ROOMS],
    watched_users: [Option<Interest>; USERS],
    watched_rooms: [Option<Interest>; ROOMS],
    cursor: Option<String>,
    /// The `sessionId` of the last CONNECT.
    pub session: Option<String>,
    /// What CONNECT said of the session that was named.
    pub resumed: Option<bool>,
    /// Whether a close frame came.
    is_closed: bool,
    has_head: bool,
    buffer: Vec<u8>,
    /// Types and ids of the answers to come.
    awaited: VecDeque<(&'static str, Option<u32>)>,
    asked: VecDeque<Asked>,
    /// What a state that nobody asked for has told so far.
    unasked: Option<Asked>,
    /// Users and rooms that this connection ever named.
    named_users: [bool; USERS],
    named_rooms: [bool; ROOMS],
    /// The CLIENT_STATE that said that nobody looks, if it is the last.
    put_aside: Option<u32>,
    /// Whether it was acknowledged.
    is_quiet: bool,
}

impl View {
    /// Of a client of `user` that was told nothing.
    pub fn new(user: usize) -> Self {
        Self {
            user,
            users: [const { None }; USERS],
            rooms: Default::default(),
            watched_users: [const { None }; USERS],
            watched_rooms: [const { None }; ROOMS],
            cursor: None,
            session: None,
            resumed: None,
            is_closed: false,
            has_head: false,
            buffer: Vec::new(),
            awaited: VecDeque::new(),
            asked: VecDeque::new(),
            unasked: None,
            named_users: [false; USERS],
            named_rooms: [false; ROOMS],
            put_aside: None,
            is_quiet: false,
        }
    }

    /// The same client's view as it begins its next connection: it remembers what it was told whole, and until when.
    pub fn reconnected(&self) -> Self {
        let keep = |interest: &Option<Interest>| {
            let interest = interest.clone().filter(|interest| interest.is_told)?;
            let until = interest.until.or_else(|| self.cursor.clone());
            until.is_some().then_some(Interest { asked: None, is_live: false, until, ..interest })
        };
        let mut view = Self::new(self.user);
        view.watched_users = self.watched_users.each_ref().map(keep);
        view.watched_rooms = self.watched_rooms.each_ref().map(keep);
        (view.users, view.rooms) = (self.users.clone(), self.rooms.clone());
        (view.cursor, view.session) = (self.cursor.clone(), self.session.clone());
        view
    }

    /// Whether CONNECT came.
    pub fn is_open(&self) -> bool {
        self.resumed.is_some()
    }

    /// Expects an answer.
    pub fn expect(&mut self, kind: &'static str, id: Option<u32>) {
        self.awaited.push_back((kind, id));
    }

    /// The client says whether it is looked at.
    pub fn set_active(&mut self, active: bool, id: u32) {
        self.put_aside = (!active).then_some(id);
        self.is_quiet = false;
    }

    /// Whether the client said last that nobody looks.
    pub fn is_put_aside(&self) -> bool {
        self.put_aside.is_some()
    }

    /// The payload of a WATCH with this `id`. With a cursor it names only what was told until that.
    pub fn watch(&mut self, id: u32, users: u8, rooms: u8, by_count: bool, with_cursor: bool) -> String {
        let is_named = |mask: u8, index: usize| mask >> index & 1 == 1;
        let mut users: Vec<usize> = (0..USERS).filter(|&user| is_named(users, user)).collect();
        let mut rooms: Vec<usize> = (0..ROOMS).filter(|&room| is_named(rooms, room)).collect();
        let mut since = None;
        if with_cursor {
            let told = users.iter().map(|&user| self.told_until(&self.watched_users[user]));
            let told = told.chain(rooms.iter().map(|&room| self.told_until(&self.watched_rooms[room])));
            since = told.flatten().next().map(str::to_owned);
            users.retain(|&user| self.told_until(&self.watched_users[user]) == since.as_deref());
            rooms.retain(|&room| self.told_until(&self.watched_rooms[room]) == since.as_deref());
        }
        for &user in &users {
            (self.named_users[user], self.watched_users[user]) =
                (true, Some(Interest::asked(id, false, self.watched_users[user].take())));
        }
        for &room in &rooms {
            (self.named_rooms[room], self.watched_rooms[room]) =
                (true, Some(Interest::asked(id, by_count, self.watched_rooms[room].take())));
        }
        let named = users.iter().map(|user| format!(r#""u{user}""#)).collect::<Vec<_>>().join(",");
        let detailed = rooms.iter().map(|&room| match &self.watched_rooms[room] {
            Some(Interest { is_counted: true, .. }) => format!(r#"{{"room":"r{room}","detail":"count"}}"#),
            _ => format!(r#""r{room}""#),
        });
        let detailed = detailed.collect::<Vec<_>>().join(",");
        let cursor = since.as_ref().map(|since| format!(r#","since":"{since}""#)).unwrap_or_default();
        let (told_users, told_rooms) = ([false; USERS], [false; ROOMS]);
        self.asked.push_back(Asked { id, users, rooms, has_cursor: since.is_some(), told_users, told_rooms });
        format!(r#"{{"users":[{named}],"rooms":[{detailed}]{cursor}}}"#)
    }

    /// The payload of an UNWATCH.
    pub fn unwatch(&mut self, users: u8, rooms: u8) -> String {
        let users = (0..USERS).filter(|user| users >> user & 1 == 1);
        let rooms = (0..ROOMS).filter(|room| rooms >> room & 1 == 1);
        let forget_user = |user: usize| {
            (self.watched_users[user], self.users[user]) = (None, None);
            format!(r#""u{user}""#)
        };
        let users = users.map(forget_user).collect::<Vec<_>>().join(",");
        let forget_room = |room: usize| {
            (self.watched_rooms[room], self.rooms[room]) = (None, Room::default());
            format!(r#""r{room}""#)
        };
        let rooms = rooms.map(forget_room).collect::<Vec<_>>().join(",");
        format!(r#"{{"users":[{users}],"rooms":[{rooms}]}}"#)
    }

    /// Takes in what the server sent.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if !self.has_head {
            let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else { return };
            assert!(self.buffer.starts_with(b"HTTP/1.1 101 "), "an upgrade is granted");
            self.buffer.drain(..end + 4);
            self.has_head = true;
        }
        while !self.buffer.is_empty() {
            assert!(!self.is_closed, "nothing comes after a close");
            let Some((first, mut payload)) = wire::take_frame(&mut self.buffer) else { return };
            match first {
                wire::TEXT => self.hear_message(Json::read(&mut payload).object(MESSAGE)),
                wire::CLOSE => self.is_closed = true,
                // No message, and may come before CONNECT, after a stop of the process.
                wire::PING => {}
                other => panic!("a frame begins with {other:#x}, and nobody was sent a Ping"),
            }
        }
    }

    /// Nothing that was asked for is owed, and all that is watched is believed to be as it is. `told` holds what others
    /// were told of each user.
    pub fn check(&self, truth: &Truth, detail_limit: u32, told: &mut [Option<Presence>; USERS]) {
        assert!(self.is_open() && !self.is_closed && self.buffer.is_empty());
        assert!(
            self.awaited.is_empty() && self.asked.is_empty() && self.unasked.is_none(),
            "answers are owed: {self:?}"
        );
        for (user, interest) in self.watched_users.iter().enumerate() {
            if interest.as_ref().is_some_and(|interest| interest.is_live) {
                self.check_presence(user, self.users[user].as_ref(), truth, told);
            }
        }
        for (room, interest) in self.watched_rooms.iter().enumerate() {
            let Some(interest) = interest.as_ref().filter(|interest| interest.is_live) else { continue };
            let (believed, members) = (&self.rooms[room], truth.members(room));
            let count = members.iter().filter(|is_in| **is_in).count() as u32;
            assert_eq!(believed.count, count, "room {room} is counted");
            if interest.is_counted {
                continue;
            }
            assert!(believed.is_truncated || count <= detail_limit, "room {room} is too large");
            assert!(!believed.is_truncated || count * 10 >= detail_limit * 9, "room {room} is small again");
            if believed.is_truncated {
                continue;
            }
            assert_eq!(believed.members.each_ref().map(Option::is_some), members, "members of room {room}");
            for (user, presence) in believed.members.iter().enumerate().filter(|(_, presence)| presence.is_some()) {
                self.check_presence(user, presence.as_ref(), truth, told);
            }
        }
    }

    fn check_presence(
        &self,
        user: usize,
        believed: Option<&Presence>,
        truth: &Truth,
        told: &mut [Option<Presence>; USERS],
    ) {
        let Some(believed) = believed else { panic!("user {user} was never told") };
        let seen = truth.seen(user, user == self.user);
        assert_eq!((believed.status.as_str(), believed.metadata), seen, "user {user} to one of user {}", self.user);
        if seen.0 != "invisible" {
            assert_eq!(told[user].get_or_insert(believed.clone()), believed, "all are told the same of user {user}");
        }
    }

    fn told_until<'view>(&'view self, interest: &'view Option<Interest>) -> Option<&'view str> {
        let interest = interest.as_ref().filter(|interest| interest.is_told && interest.asked.is_none())?;
        interest.until.as_deref().or(self.cursor.as_deref())
    }

    fn hear_message(&mut self, message: Object<'_, '_>) {
        let (kind, id) = (message.text("type").unwrap_or_default(), message.number("id"));
        assert_eq!(message.text("timestamp").map(str::len), Some(24));
        assert_eq!(kind == "CONNECT", !self.is_open(), "CONNECT comes first, and once");
        let payload = |fields: &[&str]| match message.object("payload", fields) {
            Some(payload) => payload,
            None => panic!("{kind} has a payload"),
        };
        match kind {
            "CONNECT" => {
                let payload = payload(&["protocol", "sessionId", "resumed", "heartbeatTimeout", "reconnect"]);
                assert_eq!(message.text("userId").map(user_named), Some(self.user));
                self.session = payload.text("sessionId").map(str::to_owned);
                self.resumed = payload.truth("resumed");
            }
            "PRESENCE_STATE" => self.hear_state(id, payload(&["users", "rooms", "cursor", "complete"])),
            "PRESENCE_CHANGE" => {
                assert!(!self.is_quiet, "who is inactive is told nothing unasked");
                self.hear_change(payload(&["users", "rooms", "cursor"]));
            }
            _ => {
                let answer = self.awaited.pop_front();
                assert_eq!(answer, Some((answer.map_or("", |answer| answer.0), id)), "answers come in order");
                assert_eq!(answer.map(|answer| answer.0), Some(kind), "answers come in order");
                self.is_quiet |= id.is_some() && self.put_aside == id;
            }
        }
    }

    fn hear_state(&mut self, id: Option<u32>, state: Object<'_, '_>) {
        let complete = state.truth("complete") == Some(true);
        let mut asked = match id {
            Some(_) => {
                assert!(self.unasked.is_none(), "pieces of two states never mix");
                let asked = self.asked.pop_front().filter(|asked| Some(asked.id) == id);
                asked.unwrap_or_else(|| panic!("the state of {id:?} was not asked for"))
            }
            None if self.is_quiet => panic!("who is inactive is told nothing unasked"),
            None => self.unasked.take().unwrap_or_else(|| Asked::nothing(self.named_rooms.contains(&true))),
        };
        assert!(complete || asked.has_cursor, "what is asked for without a cursor is told whole");
        for (user, presence) in self.presences(state, "users") {
            asked.told_users[user] = true;
            self.users[user] = self.watched_users[user].is_some().then_some(presence);
        }
        for room in state.objects("rooms", &["room", "count", "members", "left", "truncated"]).unwrap_or_default() {
            let index = room.text("room").map_or(ROOMS, room_named);
            assert!(self.named_rooms[index], "a room that was never named");
            if complete && !std::mem::replace(&mut asked.told_rooms[index], true) {
                self.rooms[index].members = Default::default();
            }
            let members = self.presences(room, "members");
            self.move_members(index, room, members);
            self.rooms[index].is_truncated = room.truth("truncated") == Some(true);
        }
        let Some(cursor) = state.text("cursor") else {
            match id {
                Some(_) => self.asked.push_front(asked),
                None => self.unasked = Some(asked),
            }
            return;
        };
        for &user in &asked.users {
            let is_told = asked.told_users[user] || !complete;
            Interest::answered(&mut self.watched_users[user], id, is_told);
        }
        for &room in &asked.rooms {
            let is_told = asked.told_rooms[room] || !complete;
            Interest::answered(&mut self.watched_rooms[room], id, is_told);
        }
        self.keep(cursor);
    }

    fn hear_change(&mut self, change: Object<'_, '_>) {
        let users = self.presences(change, "users");
        let rooms = change.objects("rooms", &["room", "count", "joined", "left", "truncated"]).unwrap_or_default();
        assert!(!users.is_empty() || !rooms.is_empty(), "a change says something");
        for (user, presence) in users {
            assert!(self.named_users[user] || self.named_rooms.contains(&true), "a user that was never named");
            for room in &mut self.rooms {
                if let Some(member) = &mut room.members[user] {
                    *member = presence.clone();
                }
            }
            if self.watched_users[user].is_some() {
                self.users[user] = Some(presence);
            }
        }
        for room in rooms {
            let index = room.text("room").map_or(ROOMS, room_named);
            assert!(self.named_rooms[index], "a room that was never named");
            let joined = self.presences(room, "joined");
            if room.truth("truncated") == Some(true) {
                self.rooms[index] = Room { is_truncated: true, ..Room::default() };
            }
            self.move_members(index, room, joined);
        }
        let Some(cursor) = change.text("cursor") else { panic!("a change has a cursor") };
        self.keep(cursor);
    }

    fn move_members(&mut self, room: usize, told: Object<'_, '_>, come: Vec<(usize, Presence)>) {
        let Some(count) = told.number("count") else { panic!("room {room} has a count") };
        self.rooms[room].count = count;
        for name in told.texts("left").unwrap_or_default() {
            let user = user_named(name);
            assert!(come.iter().all(|(other, _)| *other != user), "who has left is not there");
            self.rooms[room].members[user] = None;
        }
        for (user, presence) in come {
            self.rooms[room].members[user] = Some(presence);
        }
    }

    fn presences(&self, told: Object<'_, '_>, name: &str) -> Vec<(usize, Presence)> {
        let mut presences: Vec<(usize, Presence)> = Vec::new();
        for presence in told.objects(name, PRESENCE).unwrap_or_default() {
            let user = presence.text("userId").map_or(USERS, user_named);
            let text = |name: &str| presence.text(name).map(str::to_owned);
            let status = text("status").unwrap_or_default();
            let metadata = presence.object("metadata", &["n", "pad"]).and_then(|metadata| metadata.number("n"));
            assert!(status != "invisible" || user == self.user, "who is invisible is seen by nobody else");
            assert!(status != "offline" || metadata.is_none(), "offline has no metadata");
            assert!(presences.iter().all(|(other, _)| *other != user), "user {user} stands twice in a list");
            let (since, last_seen) = (text("since"), text("lastSeen"));
            let metadata = metadata.unwrap_or(METADATA_NONE);
            presences.push((user, Presence { status, metadata, since, last_seen }));
        }
        presences
    }

    /// While a state is under way a cursor would claim too much.
    fn keep(&mut self, cursor: &str) {
        if self.asked.is_empty() && self.unasked.is_none() {
            self.cursor = Some(cursor.to_owned());
        }
    }
}

impl Interest {
    /// What comes of it when WATCH names it (again). Who watches it already keeps the detail.
    fn asked(id: u32, is_counted: bool, known: Option<Self>) -> Self {
        let known = known.unwrap_or(Self { is_counted, asked: None, is_told: false, is_live: false, until: None });
        Self { asked: Some(id), is_live: true, ..known }
    }

    /// A state has been told whole. What was given up or asked for anew since may be lacking.
    fn answered(interest: &mut Option<Self>, id: Option<u32>, is_told: bool) {
        if let Some(interest) = interest.as_mut().filter(|interest| interest.asked == id) {
            assert!(is_told, "a state tells of all that was named");
            (interest.asked, interest.is_told, interest.until) = (None, true, None);
        }
    }
}

impl Asked {
    /// A state of a room that is small again, which nobody asked for.
    fn nothing(watches_rooms: bool) -> Self {
        assert!(watches_rooms, "a state that nobody asked for is of a room");
        let (told_users, told_rooms) = ([false; USERS], [false; ROOMS]);
        Self { id: 0, users: Vec::new(), rooms: Vec::new(), has_cursor: false, told_users, told_rooms }
    }
}
