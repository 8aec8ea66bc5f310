//! A virtual client: a device of one user that connects again and again, and believes what it is told.

use rollcall::protocol::status::Status;

use super::invariants::{inactive, versions, view};
use super::model::{Connection, Metadata, Model, Presence, Seen};
use super::wire::{self, Message};

/// What one message from a client asked for, as the model must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Status(Status, Metadata),
    Join(usize),
    Leave(usize),
    Other,
}

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It will connect at this time, in milliseconds.
    Away(u64),
    /// It has a socket and has not been told CONNECT.
    Opening,
    Open,
    /// It has heard or said the last word.
    Closing,
}

/// What a message of a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// A HEARTBEAT_ACK.
    Heartbeat,
    /// An ACK.
    Ack,
    /// An ACK that says that the server tells no changes from now on.
    Inactive,
    /// An ACK or TOO_MANY_ROOMS.
    Join,
    /// An ERROR with this code.
    Error(&'static str),
}

/// A WATCH that was not answered whole.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    pub id: u32,
    pub users: u64,
    pub rooms: u64,
    /// Of the rooms those by count alone.
    pub counted: u64,
    pub since: bool,
}

/// What a client believes of a room.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoomView {
    pub count: usize,
    /// A bit a user.
    pub members: u64,
    pub truncated: bool,
}

/// What a client believes, and what for.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The users and rooms that it watches: a bit each.
    pub users: u64,
    pub rooms: u64,
    /// Of the rooms those by count alone.
    pub counted: u64,
    /// What it has been told the state of.
    pub held_users: u64,
    pub held_rooms: u64,
    /// For each user, which of the presences in the model's list it was told last; none yet.
    pub known: Vec<Option<u32>>,
    /// For each user, which presence was the last that this connection was told.
    pub floor: Vec<u32>,
    /// The users that this connection has been told of at all.
    pub told_here: u64,
    /// For each user, whether a state told it last.
    pub by_state: Vec<bool>,
    pub room: Vec<RoomView>,
    pub cursor: Option<String>,
}

/// A state of which not all has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub id: Option<u32>,
    pub complete: bool,
    /// The rooms that it has mentioned.
    pub mentioned: u64,
}

/// See the module.
pub struct Client {
    pub user: usize,
    pub stage: Stage,
    pub socket: Connection,
    /// The session of its last CONNECT, and which connection's it was.
    pub session: Option<(String, Connection)>,
    pub view: View,
    pub active: bool,
    /// Whether the server has acknowledged that the client is not looked at.
    pub is_quiet: bool,
    /// The status it said last, for updates of metadata alone.
    pub status: Status,
    pub awaited: std::collections::VecDeque<(Option<u32>, Awaited)>,
    pub watches: Vec<Watch>,
    pub progress: Option<Progress>,
    /// What it has read and not understood yet.
    pub buffer: Vec<u8>,
    pub has_head: bool,
    /// Whether it reads little at a time.
    pub is_slow: bool,
    /// Whether it sends no more heartbeats.
    pub is_mute: bool,
    pub beat_ms: u64,
    pub next_beat_ms: u64,
    /// Pongs to send.
    pub pongs: u32,
    pub close_heard: Option<u16>,
    /// Whether another connection has taken its place, and it has yet to hear of that.
    pub is_replaced: bool,
    pub resumed: Option<bool>,
    /// Changes that it was told.
    pub changes: u64,
    /// A shorter message had room for whatever came next, so that nothing was left over.
    roomy_bytes: usize,
}

/// Names of users and rooms, and back.
pub struct Names {
    pub users: Vec<String>,
    pub rooms: Vec<String>,
}

impl Names {
    fn find(names: &[String], name: &str) -> Option<usize> {
        let digits = name.bytes().skip(1).take_while(u8::is_ascii_digit);
        let index = digits.fold(0, |index, digit| index * 10 + usize::from(digit - b'0'));
        (names.get(index)? == name).then_some(index)
    }

    pub fn user(&self, name: &str) -> Result<usize, String> {
        Self::find(&self.users, name).ok_or_else(|| format!("nobody is called {name:?}"))
    }

    pub fn room(&self, name: &str) -> Result<usize, String> {
        Self::find(&self.rooms, name).ok_or_else(|| format!("no room is called {name:?}"))
    }
}

impl Client {
    /// A client of `user`, in a world of so many users and rooms, where shorter messages than `roomy_bytes` had room
    /// for whatever came next.
    pub fn new(user: usize, users: usize, rooms: usize, roomy_bytes: usize) -> Self {
        let view =
            View { known: vec![None; users], floor: vec![0; users], by_state: vec![false; users], ..View::default() };
        Self {
            user,
            stage: Stage::Away(0),
            socket: 0,
            session: None,
            view: View { room: vec![RoomView::default(); rooms], ..view },
            active: true,
            is_quiet: false,
            status: Status::Online,
            awaited: Default::default(),
            watches: Vec::new(),
            progress: None,
            buffer: Vec::new(),
            has_head: false,
            is_slow: false,
            is_mute: false,
            beat_ms: 20_000,
            next_beat_ms: 0,
            pongs: 0,
            close_heard: None,
            is_replaced: false,
            resumed: None,
            changes: 0,
            roomy_bytes,
        }
    }

    /// A new connection begins. The view is kept if it is to be brought up to date, else forgotten.
    pub fn begin(&mut self, socket: Connection, keeps_view: bool) {
        // A room of which half a state came is not known any more.
        if let Some(progress) = self.progress.take().filter(|progress| progress.complete) {
            self.view.held_rooms &= !progress.mentioned;
        }
        self.stage = Stage::Opening;
        self.socket = socket;
        self.active = true;
        self.is_quiet = false;
        self.awaited.clear();
        self.watches.clear();
        self.buffer.clear();
        self.has_head = false;
        self.is_mute = false;
        self.pongs = 0;
        self.close_heard = None;
        self.is_replaced = false;
        self.resumed = None;
        self.view.floor.fill(0);
        self.view.told_here = 0;
        // What it was told on the last connection may be news on this one.
        self.view.by_state.fill(true);
        if !keeps_view {
            self.view.known.fill(None);
            self.view.room.fill(RoomView::default());
            self.view.cursor = None;
            (self.view.held_users, self.view.held_rooms) = (0, 0);
            (self.view.users, self.view.rooms, self.view.counted) = (0, 0, 0);
        }
    }

    /// Whether everything it asked for has been answered.
    pub fn is_answered(&self) -> bool {
        self.awaited.is_empty() && self.watches.is_empty() && self.progress.is_none()
    }

    /// Understands what it has read. Err with what was wrong with it.
    pub fn listen(&mut self, model: &Model, names: &Names, mut note: impl FnMut(&[u8])) -> Result<(), String> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut position = 0;
        if !self.has_head {
            let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
                self.buffer = buffer;
                return Ok(());
            };
            if !buffer.starts_with(b"HTTP/1.1 101 ") {
                return Err(format!("an upgrade was refused: {}", String::from_utf8_lossy(&buffer)));
            }
            self.has_head = true;
            position = end + 4;
        }
        while let Some(frame) = wire::read_frame(&buffer[position..])? {
            let payload = &buffer[position + frame.start..position + frame.end];
            if let Some(code) = self.close_heard {
                return Err(format!("frame {:#x} after a close with {code}", frame.first));
            }
            position += frame.end;
            note(payload);
            match frame.first {
                wire::TEXT => {
                    let length = payload.len();
                    if length >= 64 * 1024 {
                        return Err(format!("a message of {length} bytes"));
                    }
                    let message: Message<'_> = serde_json::from_slice(payload)
                        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(payload)))?;
                    self.hear(&message, length, model, names)
                        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(payload)))?;
                }
                wire::CLOSE => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    self.close_heard = Some(code);
                    self.stage = Stage::Closing;
                }
                _ if self.stage == Stage::Opening => return Err("a control frame before CONNECT".into()),
                wire::PING => self.pongs += 1,
                _ => {}
            }
        }
        self.buffer = buffer;
        self.buffer.drain(..position);
        Ok(())
    }

    fn hear(&mut self, message: &Message<'_>, length: usize, model: &Model, names: &Names) -> Result<(), String> {
        let payload = message.payload.as_ref();
        wire::unix_ms(message.timestamp).ok_or("no timestamp")?;
        if (message.kind == "CONNECT") != (self.stage == Stage::Opening) {
            return Err("CONNECT is the first message, once".into());
        }
        match message.kind {
            "CONNECT" => {
                let payload = payload.ok_or("no payload")?;
                let user = message.user_id.as_deref().ok_or("no userId")?;
                if names.user(user)? != self.user
                    || payload.protocol != Some(1)
                    || payload.heartbeat_timeout != Some(self.beat_ms * 4)
                    || payload.reconnect.is_none()
                {
                    return Err("CONNECT for another".into());
                }
                self.resumed = payload.resumed;
                self.session = Some((payload.session_id.ok_or("no sessionId")?.to_owned(), self.socket));
                self.stage = Stage::Open;
            }
            "HEARTBEAT_ACK" => self.answered(message, |awaited| awaited == Awaited::Heartbeat)?,
            "ACK" => {
                let is_quiet = self.awaited.front().is_some_and(|(_, awaited)| *awaited == Awaited::Inactive);
                self.answered(message, |awaited| matches!(awaited, Awaited::Ack | Awaited::Inactive | Awaited::Join))?;
                let is_last = self.awaited.iter().all(|(_, awaited)| *awaited != Awaited::Inactive);
                self.is_quiet |= is_quiet && !self.active && is_last;
            }
            "ERROR" => {
                let code = payload.filter(|payload| payload.message.is_some()).and_then(|payload| payload.code);
                let code = code.ok_or("no code, or no message")?;
                self.answered(message, |awaited| match awaited {
                    Awaited::Error(expected) => code == expected,
                    Awaited::Join => code == "TOO_MANY_ROOMS",
                    _ => false,
                })?;
            }
            "PRESENCE_STATE" => self.hear_state(message, model, names)?,
            "PRESENCE_CHANGE" => {
                let payload = payload.ok_or("no payload")?;
                self.changes += 1;
                inactive::check(self)?;
                view::change_says_something(payload.users.len(), payload.rooms.len())?;
                for presence in &payload.users {
                    self.hear_presence(presence, true, model, names)?;
                }
                for room in &payload.rooms {
                    self.hear_room_change(room, length, model, names)?;
                }
                self.view.cursor = Some(payload.cursor.ok_or("no cursor")?.to_owned());
            }
            other => return Err(format!("a message of type {other}")),
        }
        Ok(())
    }

    fn answered(&mut self, message: &Message<'_>, is_expected: impl Fn(Awaited) -> bool) -> Result<(), String> {
        match self.awaited.pop_front() {
            Some((id, awaited)) if id == message.id && is_expected(awaited) => Ok(()),
            other => Err(format!("{other:?} was awaited")),
        }
    }

    fn hear_state(&mut self, message: &Message<'_>, model: &Model, names: &Names) -> Result<(), String> {
        let payload = message.payload.as_ref().ok_or("no payload")?;
        let complete = payload.complete.ok_or("no `complete`")?;
        let mut progress = match self.progress.take() {
            Some(progress) if progress.id == message.id && progress.complete == complete => progress,
            Some(other) => return Err(format!("{other:?} had not ended")),
            None => Progress { id: message.id, complete, mentioned: 0 },
        };
        let watch = match message.id {
            None if complete && payload.users.is_empty() => None,
            None => return Err("an unasked state is of a room, and complete".into()),
            Some(id) => {
                let watch = self.watches.first().filter(|watch| watch.id == id);
                Some(*watch.ok_or_else(|| format!("it is not the state of {:?}", self.watches.first()))?)
            }
        };
        if !complete && watch.is_none_or(|watch| !watch.since) {
            return Err("an incomplete state for a WATCH without a cursor".into());
        }
        for presence in &payload.users {
            self.hear_presence(presence, false, model, names)?;
        }
        for room in &payload.rooms {
            let index = names.room(&room.room)?;
            let is_first = progress.mentioned >> index & 1 == 0;
            progress.mentioned |= 1 << index;
            if room.joined.is_some() || complete && room.left.is_some() {
                return Err("a room in a state has members, and left only with a cursor".into());
            }
            if is_first && complete {
                self.view.room[index].members = 0;
            }
            let mut members = 0;
            for presence in room.members.iter().flatten() {
                let user = self.hear_presence(presence, false, model, names)?;
                view::is_new_in_list(&mut members, user)?;
            }
            let left = self.read_left(room, members, names)?;
            let record = &mut self.view.room[index];
            record.members = record.members & !left | members;
            record.count = room.count;
            record.truncated = room.truncated.unwrap_or(false);
        }
        if let Some(cursor) = payload.cursor {
            for room in view::bits(progress.mentioned).filter(|&room| self.is_named(room, message.id)) {
                view::names_as_many_as_it_counts(&self.view.room[room])?;
            }
            self.view.cursor = Some(cursor.to_owned());
            if let Some(watch) = watch {
                self.view.held_users |= watch.users;
                self.watches.remove(0);
                // What was asked for with another detail since may have been told by that, and is not known yet.
                let is_otherwise = |later: &Watch| later.rooms & (later.counted ^ watch.counted);
                let unknown = self
                    .watches
                    .iter()
                    .fold(watch.counted ^ self.view.counted, |unknown, later| unknown | is_otherwise(later));
                self.view.held_rooms = self.view.held_rooms & !watch.rooms | watch.rooms & !unknown;
                view::state_told_all(self, &watch, complete, progress.mentioned)?;
            }
        } else {
            self.progress = Some(progress);
        }
        Ok(())
    }

    fn hear_room_change(
        &mut self,
        room: &wire::Room<'_>,
        length: usize,
        model: &Model,
        names: &Names,
    ) -> Result<(), String> {
        let index = names.room(&room.room)?;
        if room.members.is_some() {
            return Err("a room in a change has joined and left, no members".into());
        }
        let before = self.view.room[index];
        let mut joined = 0;
        for presence in room.joined.iter().flatten() {
            let user = self.hear_presence(presence, false, model, names)?;
            view::is_new_in_list(&mut joined, user)?;
        }
        let left = self.read_left(room, joined, names)?;
        let is_watched = self.view.held_rooms >> index & 1 == 1;
        if is_watched {
            view::come_and_go(&before, joined, left, room.truncated == Some(true), room.count)?;
        }
        let record = &mut self.view.room[index];
        record.members = (record.members | joined) & !left;
        record.count = room.count;
        if room.truncated == Some(true) {
            record.truncated = true;
            record.members = 0;
        }
        if is_watched && length < self.roomy_bytes && self.is_named(index, None) {
            view::names_as_many_as_it_counts(&self.view.room[index])?;
        }
        Ok(())
    }

    /// Whether a room is told by name, and no WATCH but that with `id` may have changed that.
    fn is_named(&self, room: usize, id: Option<u32>) -> bool {
        let others = self.watches.iter().filter(|watch| Some(watch.id) != id);
        let is_named = self.view.rooms >> room & 1 == 1 && self.view.counted >> room & 1 == 0;
        is_named && others.fold(0, |rooms, watch| rooms | watch.rooms) >> room & 1 == 0
    }

    fn read_left(&self, room: &wire::Room<'_>, here: u64, names: &Names) -> Result<u64, String> {
        let mut left = 0;
        for name in room.left.iter().flatten() {
            view::is_new_in_list(&mut left, names.user(name)?)?;
        }
        if left & here != 0 {
            return Err("somebody is there and has left".into());
        }
        Ok(left)
    }

    fn hear_presence(
        &mut self,
        presence: &wire::Presence<'_>,
        is_change: bool,
        model: &Model,
        names: &Names,
    ) -> Result<usize, String> {
        let user = names.user(&presence.user_id)?;
        let status = Seen::parse(presence.status).ok_or("an unknown status")?;
        let time = |text: Option<&str>| match text {
            None => Ok(None),
            Some(text) => wire::unix_ms(text).map(Some).ok_or_else(|| format!("{text} is no timestamp")),
        };
        let metadata = presence.metadata.as_ref().map_or(0, |metadata| metadata.n);
        let (since, mut last_seen) = (time(presence.since)?, time(presence.last_seen)?);
        if model.terms.is_clock_set {
            last_seen = last_seen.map(|_| 0);
        }
        let told = Presence { status, metadata, since, last_seen };
        versions::check(self, user, &told, is_change, model)?;
        Ok(user)
    }
}
