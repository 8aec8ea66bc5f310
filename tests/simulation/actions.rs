//! What clients do: each action of a plan, at random, and what they do without being asked.

use rollcall::protocol::status::Status;

use super::client::{Awaited, Said, Stage, Watch};
use super::invariants::ghosts;
use super::invariants::view::bits;
use super::link::{Cut, Wish};
use super::model::{Metadata, Predecessor};
use super::plan::{ACTIONS, Action};
use super::wire;
use super::world::{World, trace};

impl World {
    /// Some client does something.
    pub fn act_somehow(&mut self) {
        let client = self.some_client();
        if self.clients[client].stage != Stage::Open || self.is_leaving(client) {
            return;
        }
        let total: u32 = self.plan.weights.iter().sum();
        let mut chosen = self.rng.u32(..total);
        let action = ACTIONS.into_iter().zip(self.plan.weights).find(|(_, weight)| {
            let is_it = chosen < *weight;
            chosen = chosen.saturating_sub(*weight);
            is_it
        });
        if let Some((action, _)) = action {
            self.steps += 1;
            self.act_as(client, action);
        }
    }

    fn act_as(&mut self, client: usize, action: Action) {
        match action {
            Action::Status => self.update(client, false),
            Action::Metadata => self.update(client, true),
            Action::Join => self.join(client),
            Action::Leave => self.leave(client),
            Action::Watch => self.watch_some(client),
            Action::Unwatch => self.unwatch_some(client),
            Action::ClientState => {
                let active = !self.clients[client].active;
                self.set_active(client, active);
            }
            Action::Disconnect => self.disconnect(client),
            Action::Close => self.close(client),
            Action::End => self.cut(client, Cut::End),
            Action::Reset => self.cut(client, Cut::Reset),
            Action::Vanish => self.cut(client, Cut::Vanished),
            Action::Mute => self.clients[client].is_mute = true,
            Action::Violate => self.violate(client),
            Action::Garbage => self.say(client, "{\"type\":", (None, Awaited::Error("NOT_JSON")), Said::Other),
            Action::Ping => self.write(client, wire::PING, b"?"),
            Action::Burst => {
                for _ in 0..self.rng.u32(5..60) {
                    let action =
                        [Action::Status, Action::Metadata, Action::Join, Action::Leave, Action::Watch, Action::Ping];
                    let action = action[self.rng.usize(..action.len())];
                    let allowed = ACTIONS.iter().position(|other| *other == action);
                    if allowed.is_some_and(|allowed| self.plan.weights[allowed] > 0) {
                        self.steps += 1;
                        self.act_as(client, action);
                    }
                }
            }
            Action::Slow => self.clients[client].is_slow = !self.clients[client].is_slow,
            Action::Steal => self.steal(client),
        }
    }

    fn some_client(&mut self) -> usize {
        let clients = self.clients.len();
        let is_hot = self.rng.u32(..100) < self.plan.hot_percent;
        if is_hot { self.rng.usize(..clients.min(4)) } else { self.rng.usize(..clients) }
    }

    fn some_users(&mut self) -> u64 {
        let most = self.plan.names_max.min(self.plan.users);
        let mut users = 0;
        for _ in 0..self.rng.usize(0..=most) {
            let is_hot = self.rng.u32(..100) < self.plan.hot_percent;
            let among = if is_hot { self.plan.users.min(4) } else { self.plan.users };
            users |= 1 << self.rng.usize(..among);
        }
        users
    }

    fn some_rooms(&mut self) -> u64 {
        let mut rooms = 0;
        for _ in 0..self.rng.usize(0..=self.plan.rooms.min(3)) {
            rooms |= 1 << self.rng.usize(..self.plan.rooms);
        }
        rooms
    }

    fn some_status(&mut self) -> Status {
        let allowed: Vec<usize> = (0..4).filter(|index| self.plan.statuses >> index & 1 == 1).collect();
        Status::ALL[allowed[self.rng.usize(..allowed.len())]]
    }

    /// Whether a client has said that it goes, or is told to.
    pub fn is_leaving(&self, client: usize) -> bool {
        let socket = &self.sockets[self.clients[client].socket as usize];
        socket.wish != Wish::Stay || socket.cut != Cut::None || socket.told_end || socket.closed
    }

    /// Heartbeats, pongs, and those who come back.
    pub fn keep_alive(&mut self) {
        let now_ms = self.now_ms();
        for client in 0..self.clients.len() {
            let record = &mut self.clients[client];
            match record.stage {
                Stage::Away(until_ms) if self.is_wild && until_ms <= now_ms => self.connect(client),
                Stage::Open => {
                    let beats = !record.is_mute && record.next_beat_ms <= now_ms;
                    let pongs = std::mem::take(&mut record.pongs);
                    if self.is_leaving(client) {
                        continue;
                    }
                    for _ in 0..pongs {
                        self.write(client, wire::PONG, b"");
                    }
                    if beats {
                        let beat_ms = self.clients[client].beat_ms;
                        self.clients[client].next_beat_ms = now_ms + beat_ms;
                        self.say(client, r#"{"type":"HEARTBEAT"}"#, (None, Awaited::Heartbeat), Said::Other);
                    }
                }
                _ => {}
            }
        }
    }

    /// A client connects, in one way or another.
    fn connect(&mut self, client: usize) {
        self.steps += 1;
        let user = self.clients[client].user;
        let status = (self.rng.u32(..100) < self.plan.status_percent).then(|| self.some_status());
        let mut query = format!("userId={}", escape(&self.names.users[user]));
        if let Some(status) = status {
            query += &format!("&status={}", status.as_str());
        }
        let mut predecessor = Predecessor::Unnamed;
        if self.rng.u32(..100) < self.plan.resume_percent
            && let Some((session, connection)) = self.clients[client].session.clone()
        {
            predecessor = Predecessor::Session(connection);
            query += &format!("&session={session}");
        } else if self.rng.u8(..40) == 0 {
            // A session of nobody's, or of another's.
            let other = self.rng.usize(..self.clients.len());
            let foreign = self.clients[other].session.clone().filter(|_| self.clients[other].user != user);
            predecessor = Predecessor::Nobody;
            query += &format!("&session={}", foreign.map_or_else(|| "x".to_owned(), |(session, _)| session));
        }
        let keeps_view = self.clients[client].view.cursor.is_some() && self.rng.u32(..100) < self.plan.since_percent;
        self.open(client, query, (status, predecessor), keeps_view);
    }

    /// A client takes the session of another of its user's.
    fn steal(&mut self, client: usize) {
        let user = self.clients[client].user;
        let other = (0..self.clients.len()).find(|&other| {
            other != client && self.clients[other].user == user && matches!(self.clients[other].stage, Stage::Away(_))
        });
        let Some(thief) = other else { return };
        let Some((session, connection)) = self.clients[client].session.clone() else { return };
        let query = format!("userId={}&session={session}", escape(&self.names.users[user]));
        self.open(thief, query, (None, Predecessor::Session(connection)), false);
    }

    fn open(&mut self, client: usize, mut query: String, hello: (Option<Status>, Predecessor), keeps_view: bool) {
        let shard = self.rng.usize(..self.shards.len());
        let silence_ms = [75_000, 75_000, 5_000, 30_000][self.rng.usize(..4)];
        if silence_ms != 75_000 {
            query += &format!("&heartbeatTimeout={silence_ms}");
        }
        let mut bytes = Vec::with_capacity(320);
        wire::write_upgrade(&mut bytes, &query);
        let socket = self.open_socket(client, shard, hello, silence_ms, bytes);
        trace!(self, "client {client} connects to shard {shard} on socket {socket}: {query}, {hello:?}");
        let now_ms = self.now_ms();
        let record = &mut self.clients[client];
        record.begin(socket, keeps_view);
        record.status = hello.0.unwrap_or(Status::Online);
        record.beat_ms = silence_ms / 4;
        record.next_beat_ms = now_ms + record.beat_ms;
    }

    /// A client has been told CONNECT.
    pub fn begin_conversation(&mut self, client: usize) {
        trace!(self, "client {client} is told CONNECT, resumed {:?}", self.clients[client].resumed);
        let view = &mut self.clients[client].view;
        let (users, rooms, counted) = (view.users, view.rooms, view.counted);
        (view.users, view.rooms, view.counted) = (0, 0, 0);
        let (held_users, held_rooms, cursor) = (view.held_users, view.held_rooms, view.cursor.clone());
        (view.held_users, view.held_rooms) = (0, 0);
        if let Some(cursor) = cursor.filter(|_| users | rooms != 0) {
            let cursor = if self.rng.u8(..30) == 0 { "not-a-cursor".to_owned() } else { cursor };
            let known = (users & held_users, rooms & held_rooms);
            self.watch(client, known.0, known.1, counted & known.1, Some(&cursor));
            let (users, rooms) = (users & !held_users, rooms & !held_rooms);
            if users | rooms != 0 {
                self.watch(client, users, rooms, counted & rooms, None);
            }
        } else if self.rng.bool() {
            self.watch_some(client);
        }
    }

    fn update(&mut self, client: usize, metadata_only: bool) {
        let status = if metadata_only { self.clients[client].status } else { self.some_status() };
        self.clients[client].status = status;
        let (metadata, text) = match self.rng.u8(..6) {
            0 => (Metadata::Set(0), r#","metadata":null"#.to_owned()),
            1..4 if !metadata_only => (Metadata::Keep, String::new()),
            _ => {
                self.next_metadata += 1;
                let n = self.next_metadata;
                let padding = if self.plan.padding > 0 { self.rng.usize(..self.plan.padding) } else { 0 };
                let pad = if padding > 0 { format!(",\"pad\":\"{}\"", "x".repeat(padding)) } else { String::new() };
                (Metadata::Set(n), format!(r#","metadata":{{"n":{n}{pad}}}"#))
            }
        };
        let id = self.id();
        let status_name = status.as_str();
        let message = format!(r#"{{"type":"PRESENCE_UPDATE","id":{id},"payload":{{"status":"{status_name}"{text}}}}}"#);
        self.say(client, &message, (Some(id), Awaited::Ack), Said::Status(status, metadata));
    }

    fn join(&mut self, client: usize) {
        let room = self.rng.usize(..self.plan.rooms);
        let id = self.id();
        let name = quote(&self.names.rooms[room]);
        let message = format!(r#"{{"type":"JOIN","id":{id},"payload":{{"room":{name}}}}}"#);
        self.say(client, &message, (Some(id), Awaited::Join), Said::Join(room));
    }

    fn leave(&mut self, client: usize) {
        let room = self.rng.usize(..self.plan.rooms);
        let id = self.id();
        let name = quote(&self.names.rooms[room]);
        let message = format!(r#"{{"type":"LEAVE","id":{id},"payload":{{"room":{name}}}}}"#);
        self.say(client, &message, (Some(id), Awaited::Ack), Said::Leave(room));
    }

    fn watch_some(&mut self, client: usize) {
        let (users, rooms) = (self.some_users(), self.some_rooms());
        let counted = rooms & self.rng.u64(..) & self.rng.u64(..);
        self.watch(client, users, rooms, counted, None);
    }

    /// Watches users and rooms, those of `counted` by their count alone.
    fn watch(&mut self, client: usize, users: u64, rooms: u64, counted: u64, since: Option<&str>) {
        let id = self.id();
        let user_names: Vec<String> = bits(users).map(|user| quote(&self.names.users[user])).collect();
        let room_names: Vec<String> = bits(rooms)
            .map(|room| {
                let name = quote(&self.names.rooms[room]);
                match counted >> room & 1 {
                    1 => format!(r#"{{"room":{name},"detail":"count"}}"#),
                    _ => name,
                }
            })
            .collect();
        let since_text = since.map(|since| format!(r#","since":"{since}""#)).unwrap_or_default();
        let message = format!(
            r#"{{"type":"WATCH","id":{id},"payload":{{"users":[{}],"rooms":[{}]{since_text}}}}}"#,
            user_names.join(","),
            room_names.join(",")
        );
        let (users_max, rooms_max) = (self.plan.config.watched_users_max, self.plan.config.rooms_max);
        let view = &mut self.clients[client].view;
        let count = |mask: u64| mask.count_ones() as usize;
        let error = if count(rooms) > rooms_max {
            Some("TOO_MANY_ROOMS")
        } else if count(view.users | users) > users_max {
            Some("TOO_MANY_USERS")
        } else if count(view.rooms | rooms) > rooms_max {
            Some("TOO_MANY_ROOMS")
        } else {
            None
        };
        if let Some(code) = error {
            return self.say(client, &message, (Some(id), Awaited::Error(code)), Said::Other);
        }
        let other_detail = (view.counted ^ counted) & rooms & view.rooms;
        view.held_rooms &= !other_detail;
        view.users |= users;
        view.rooms |= rooms;
        view.counted = view.counted & !rooms | counted;
        self.clients[client].watches.push(Watch { id, users, rooms, counted, since: since.is_some() });
        self.say_unanswered(client, &message, Said::Other);
    }

    fn unwatch_some(&mut self, client: usize) {
        let (users, rooms) = (self.some_users(), self.some_rooms());
        let id = self.id();
        let user_names: Vec<String> = bits(users).map(|user| quote(&self.names.users[user])).collect();
        let room_names: Vec<String> = bits(rooms).map(|room| quote(&self.names.rooms[room])).collect();
        let message = format!(
            r#"{{"type":"UNWATCH","id":{id},"payload":{{"users":[{}],"rooms":[{}]}}}}"#,
            user_names.join(","),
            room_names.join(",")
        );
        let record = &mut self.clients[client];
        let view = &mut record.view;
        for mask in [&mut view.users, &mut view.held_users] {
            *mask &= !users;
        }
        for mask in [&mut view.rooms, &mut view.held_rooms, &mut view.counted] {
            *mask &= !rooms;
        }
        for room in bits(rooms) {
            view.room[room] = Default::default();
        }
        for watch in &mut record.watches {
            watch.users &= !users;
            watch.rooms &= !rooms;
        }
        self.say(client, &message, (Some(id), Awaited::Ack), Said::Other);
    }

    fn set_active(&mut self, client: usize, active: bool) {
        let id = self.id();
        let record = &mut self.clients[client];
        record.active = active;
        record.is_quiet &= !active;
        let awaited = if active { Awaited::Ack } else { Awaited::Inactive };
        let message = format!(r#"{{"type":"CLIENT_STATE","id":{id},"payload":{{"active":{active}}}}}"#);
        self.say(client, &message, (Some(id), awaited), Said::Other);
    }

    fn disconnect(&mut self, client: usize) {
        let id = self.id();
        self.say(client, &format!(r#"{{"type":"DISCONNECT","id":{id}}}"#), (Some(id), Awaited::Ack), Said::Other);
        self.socket_of(client).wish = Wish::Done;
    }

    fn close(&mut self, client: usize) {
        let code = [None, Some(1000_u16), Some(1001), Some(4000)][self.rng.usize(..4)];
        let payload = code.map(u16::to_be_bytes);
        self.write(client, wire::CLOSE, payload.as_ref().map_or(&[], |code| code));
        self.socket_of(client).wish = if code == Some(1000) { Wish::Done } else { Wish::Broken };
    }

    fn violate(&mut self, client: usize) {
        let bytes: Vec<u8> = match self.rng.u8(..4) {
            0 => b"\x81\x02{}".to_vec(),
            1 => b"\x82\x80\0\0\0\0".to_vec(),
            2 => b"\x81\x81\0\0\0\0\xff".to_vec(),
            _ => b"\x81\xff\x00\x00\x00\x00\x7f\xff\xff\xff\0\0\0\0".to_vec(),
        };
        self.socket_of(client).wish = Wish::Broken;
        self.put(client, &bytes);
    }

    /// A client's side is gone, and it will be back.
    fn cut(&mut self, client: usize, cut: Cut) {
        trace!(self, "client {client} is cut: {cut:?}");
        let number = self.clients[client].socket;
        let socket = self.socket_of(client);
        socket.cut = cut;
        if cut == Cut::Reset {
            socket.in_kernel.clear();
        }
        match cut {
            Cut::Vanished => self.mourn(number),
            _ => self.rouse(number),
        }
        self.go_away(client);
    }

    fn go_away(&mut self, client: usize) {
        let ms = self.rng.u64(..=self.plan.away_ms);
        let until_ms = self.now_ms() + if self.rng.bool() { ms } else { ms / 50 };
        self.clients[client].stage = Stage::Away(until_ms);
    }

    /// A client has heard the last word.
    pub fn depart(&mut self, client: usize) {
        trace!(self, "client {client} has heard the end: {:?}", self.clients[client].close_heard);
        let number = self.clients[client].socket;
        if self.rng.bool() {
            self.write(client, wire::CLOSE, &[]);
        }
        let socket = self.socket_of(client);
        if socket.cut == Cut::None {
            socket.cut = Cut::End;
        }
        self.rouse(number);
        self.go_away(client);
    }

    /// A client behaves from now on.
    pub fn calm(&mut self, client: usize) {
        self.clients[client].is_slow = false;
        if self.clients[client].stage == Stage::Open
            && !self.is_leaving(client)
            && !self.clients[client].active
            && self.rng.bool()
        {
            self.set_active(client, true);
        }
    }

    /// A client ends what it has and does not come back.
    pub fn leave_for_good(&mut self, client: usize) {
        self.clients[client].is_slow = false;
        match self.clients[client].stage {
            Stage::Open if !self.is_leaving(client) => match self.rng.u8(..5) {
                0 => self.disconnect(client),
                1 => self.close(client),
                2 => self.cut(client, Cut::End),
                3 => self.cut(client, Cut::Reset),
                _ => self.cut(client, Cut::Vanished),
            },
            Stage::Opening => self.cut(client, Cut::End),
            _ => {}
        }
    }

    fn socket_of(&mut self, client: usize) -> &mut super::link::Socket {
        let number = self.clients[client].socket;
        &mut self.sockets[number as usize]
    }

    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// A client says something that is answered in its turn.
    fn say(&mut self, client: usize, text: &str, awaited: (Option<u32>, Awaited), said: Said) {
        self.clients[client].awaited.push_back(awaited);
        self.say_unanswered(client, text, said);
    }

    fn say_unanswered(&mut self, client: usize, text: &str, said: Said) {
        trace!(self, "client {client} says {text}");
        // What is no JSON is a message for the application too.
        self.socket_of(client).said.push_back(said);
        let pieces = if self.chance(self.plan.faults.fragments) { self.rng.usize(2..5) } else { 1 };
        if pieces == 1 {
            return self.write(client, wire::TEXT, text.as_bytes());
        }
        let size = text.len().div_ceil(pieces).max(1);
        let count = text.len().div_ceil(size);
        for (index, piece) in text.as_bytes().chunks(size).enumerate() {
            let first = u8::from(index == 0) | if index + 1 == count { 0x80 } else { 0 };
            self.write(client, first, piece);
            if index + 1 < count && self.rng.u8(..4) == 0 {
                self.write(client, wire::PING, b"");
            }
        }
    }

    fn write(&mut self, client: usize, first: u8, payload: &[u8]) {
        let mut bytes = Vec::with_capacity(payload.len() + 14);
        let mask = self.rng.u32(..).to_ne_bytes();
        wire::write_frame(&mut bytes, first, payload, mask);
        let is_message = first & 0x0f <= 1;
        let now_ms = self.now_ms();
        let socket = self.socket_of(client);
        if ghosts::is_too_quiet(socket, now_ms) {
            socket.late_ms = Some(now_ms);
        }
        if is_message {
            socket.message_ms = now_ms;
        }
        self.put(client, &bytes);
    }

    fn put(&mut self, client: usize, bytes: &[u8]) {
        let (number, now_ms) = (self.clients[client].socket, self.now_ms());
        let socket = self.socket_of(client);
        if socket.closed || socket.cut != Cut::None {
            return;
        }
        socket.byte_ms = now_ms;
        socket.in_kernel.extend_from_slice(bytes);
        self.rouse(number);
    }
}

/// `text` between quotes, as JSON.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `text` as a query has it.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }).collect()
}
