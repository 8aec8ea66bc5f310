//! The body of the fuzz target `presence`: a few clients of a few users on one to three shards, who do what a script
//! says.
//!
//! The first byte says where users and rooms live, the second how many shards there are, how large a room is told by
//! name, and which bounds are small; then come steps of three bytes each: what is done, by which client, and how.

mod truth;
mod view;

use std::collections::VecDeque;

use self::truth::{STATUSES, Truth};
use self::view::View;
use super::shards::{Shards, Way};
use super::wire;
use crate::config::Config;
use crate::presence::bounds::Bounds;
use crate::presence::change::NameHasher;
use crate::shard::core::Input;

const USERS: usize = 3;
const ROOMS: usize = 3;

/// Three users have four clients each.
const CLIENTS: usize = 12;

/// Steps of a script; what follows is ignored.
const STEPS_MAX: usize = 256;

/// The metadata of who has none.
const METADATA_NONE: u32 = 0;

/// The place of online in [`STATUSES`].
const ONLINE: usize = 2;

/// How often clients say that they are there, in milliseconds.
const BEAT_MS: u64 = 20_000;

/// What a script does, by the first byte of a step.
const ACTIONS: [fn(&mut World, usize, u8); 16] = [
    World::connect,
    World::watch,
    World::update,
    World::join,
    World::pass,
    World::connect,
    World::watch,
    World::update,
    World::unwatch,
    World::set_active,
    World::end,
    World::make_room,
    World::set_way,
    World::carry,
    World::say_something_else,
    World::set_mute,
];

/// Whatever its clients do, and however late its shards hear of each other: everybody is told what was asked for and
/// nothing else, believes what is true when all is quiet, and leaves nothing behind.
pub fn fuzz(data: &[u8]) {
    let Some((&[names, setting], script)) = data.split_first_chunk() else { return };
    let mut world = World::new(names, setting);
    for step in script.chunks_exact(3).take(STEPS_MAX) {
        ACTIONS[usize::from(step[0]) % ACTIONS.len()](&mut world, usize::from(step[1]), step[2]);
        world.hear();
    }
    world.come_to_rest();
    world.check();
    world.leave(script);
}

/// A connection of a client.
struct Line {
    client: usize,
    shard: usize,
    peer: usize,
    view: View,
    /// Whether it says nothing of its own accord.
    is_mute: bool,
    /// Whether its client is done with it.
    is_left: bool,
}

/// See the module.
struct World {
    shards: Shards,
    room_detail_limit: u32,
    /// Every connection that there was, as in [`Truth::connections`].
    lines: Vec<Line>,
    /// The last connection of each client.
    clients: [Option<usize>; CLIENTS],
    truth: Truth,
    /// Whether mail has been anything but punctual, so that words may have been heard in another order.
    was_late: bool,
    next_id: u32,
    next_metadata: u32,
}

impl World {
    fn new(names: u8, setting: u8) -> Self {
        let room_detail_limit = if setting & 4 == 0 { 1_000 } else { 2 };
        let config = Config { room_detail_limit, send_queue: 4_096, ..Config::default() };
        let mut bounds = Bounds::default();
        if setting & 8 != 0 {
            bounds.message_bytes = 2_048;
        }
        if setting & 16 != 0 {
            (bounds.log_entries, bounds.departures) = (1, 1);
        }
        Self {
            shards: Shards::new(
                &config,
                bounds,
                &NameHasher::rehearsed(names.into()),
                1 + usize::from(setting & 3) % 3,
            ),
            room_detail_limit: room_detail_limit as u32,
            lines: Vec::new(),
            clients: [None; CLIENTS],
            truth: Truth::default(),
            was_late: false,
            next_id: 0,
            next_metadata: METADATA_NONE,
        }
    }

    /// A client connects, again perhaps: with a status (three bits; none where there is no such), on a shard (two
    /// bits), with its last session and with what it remembers (a bit each).
    fn connect(&mut self, client: usize, how: u8) {
        let client = client % CLIENTS;
        let (user, shard) = (client % USERS, usize::from(how >> 3 & 3) % self.shards.len());
        let status = Some(usize::from(how & 7)).filter(|status| *status < STATUSES.len());
        let before = self.clients[client];
        let session = before.filter(|_| how & 0x20 != 0).and_then(|line| self.lines[line].view.session.clone());
        let mut query = format!("userId=u{user}");
        if let Some(status) = status {
            query += &format!("&status={}", STATUSES[status]);
        }
        if let Some(session) = &session {
            query += &format!("&session={session}");
        }
        let is_plain = session.is_none() && status.is_none();
        let may_return = is_plain && self.truth.connections.iter().any(|said| said.user == user);
        let is_certain = session.is_none() && !may_return && !self.was_late;
        let view = match before.filter(|_| how & 0x40 != 0) {
            Some(line) => self.lines[line].view.reconnected(),
            None => View::new(user),
        };
        let peer = self.shards.drivers[shard].connect(None);
        self.clients[client] = Some(self.lines.len());
        let (is_mute, is_left) = (false, false);
        self.lines.push(Line { client, shard, peer, view, is_mute, is_left });
        self.truth.open(user, status.unwrap_or(ONLINE), is_certain);
        self.send(self.lines.len() - 1, wire::upgrade(&query).as_bytes());
        self.hear();
        if let Some(before) = before.filter(|_| session.is_some() && status.is_none() && !self.was_late) {
            self.resume(before);
        }
    }

    /// The last connection has named the session of `before`, and mail is punctual.
    fn resume(&mut self, before: usize) {
        let line = self.lines.len() - 1;
        let earlier = self.truth.connections[before];
        let said = &mut self.truth.connections[line];
        match self.lines[line].view.resumed {
            Some(true) => *said = earlier,
            Some(false) => said.is_certain = true,
            None => {}
        }
    }

    /// A client watches users (three bits) and rooms (three bits), by count alone or up from a cursor (a bit each).
    fn watch(&mut self, client: usize, what: u8) {
        let Some(line) = self.line_of(client) else { return };
        let id = self.id();
        let view = &mut self.lines[line].view;
        let payload = view.watch(id, what & 7, what >> 3 & 7, what & 0x40 != 0, what & 0x80 != 0);
        self.say(line, "WATCH", Some(id), &payload);
    }

    /// A client watches users and rooms no more.
    fn unwatch(&mut self, client: usize, what: u8) {
        let Some(line) = self.line_of(client) else { return };
        let payload = self.lines[line].view.unwatch(what & 7, what >> 3 & 7);
        self.ask(line, "UNWATCH", "ACK", &payload);
    }

    /// A client says its status (two bits) and what becomes of its metadata (two bits).
    fn update(&mut self, client: usize, what: u8) {
        let Some(line) = self.line_of(client) else { return };
        self.next_metadata += 1;
        let metadata = [None, Some(METADATA_NONE), Some(self.next_metadata), Some(self.next_metadata)];
        let kind = usize::from(what >> 2 & 3);
        let pad = if kind == 3 { 1_500 } else { 0 };
        self.say_status(line, usize::from(what & 3), metadata[kind], pad);
    }

    fn say_status(&mut self, line: usize, status: usize, metadata: Option<u32>, pad: usize) {
        let metadata_text = match metadata {
            None => String::new(),
            Some(METADATA_NONE) => r#","metadata":null"#.to_owned(),
            Some(number) => format!(r#","metadata":{{"n":{number},"pad":"{}"}}"#, "p".repeat(pad)),
        };
        let payload = format!(r#"{{"status":"{}"{metadata_text}}}"#, STATUSES[status]);
        self.truth.update(line, status, metadata);
        self.truth.connections[line].is_certain &= !self.was_late;
        self.ask(line, "PRESENCE_UPDATE", "ACK", &payload);
    }

    /// A client enters or leaves (top bit) a room.
    fn join(&mut self, client: usize, what: u8) {
        let Some(line) = self.line_of(client) else { return };
        self.say_room(line, usize::from(what & 0x7f) % ROOMS, what & 0x80 == 0);
    }

    fn say_room(&mut self, line: usize, room: usize, enters: bool) {
        self.truth.connections[line].rooms[room] = enters;
        self.ask(line, if enters { "JOIN" } else { "LEAVE" }, "ACK", &format!(r#"{{"room":"r{room}"}}"#));
    }

    /// A client says whether anybody looks.
    fn set_active(&mut self, client: usize, what: u8) {
        let Some(line) = self.line_of(client) else { return };
        self.say_active(line, what & 1 == 1);
    }

    fn say_active(&mut self, line: usize, active: bool) {
        self.lines[line].view.set_active(active, self.next_id + 1);
        self.ask(line, "CLIENT_STATE", "ACK", &format!(r#"{{"active":{active}}}"#));
    }

    /// A client says what is no news of anybody.
    fn say_something_else(&mut self, client: usize, what: u8) {
        let Some(line) = self.line_of(client) else { return };
        match what % 6 {
            0 => self.ask(line, "HEARTBEAT", "HEARTBEAT_ACK", "{}"),
            1 => self.ask(line, "WAVE", "ERROR", "{}"),
            2 => self.ask(line, "WATCH", "ERROR", r#"{"users":[""]}"#),
            3 => self.ask(line, "JOIN", "ERROR", r#"{"room":7}"#),
            4 => self.ask(line, "UNWATCH", "ACK", r#"{"users":["nobody"],"rooms":["nowhere"]}"#),
            _ => self.send(line, &wire::frame(wire::BINARY, b"?")),
        }
    }

    /// A client's connection ends, one way or another.
    fn end(&mut self, client: usize, how: u8) {
        if let Some(line) = self.line_of(client) {
            self.end_line(line, how);
        }
    }

    fn end_line(&mut self, line: usize, how: u8) {
        let Line { shard, peer, .. } = self.lines[line];
        match how % 6 {
            0 => self.send(line, &wire::frame(wire::TEXT, br#"{"type":"DISCONNECT"}"#)),
            1 => self.send(line, &wire::frame(wire::CLOSE, &1000_u16.to_be_bytes())),
            2 => self.send(line, &wire::frame(wire::CLOSE, &1001_u16.to_be_bytes())),
            3 => self.send(line, &wire::frame(wire::CLOSE, b"")),
            4 => self.shards.drivers[shard].end(peer),
            _ => {
                let connection = self.shards.drivers[shard].peers[peer].connection;
                self.shards.drivers[shard].step(Input::Ended { connection, failed: true });
            }
        }
        self.lines[line].is_left = true;
        self.shards.stop(0);
    }

    /// The socket of a client takes so much from now on.
    fn make_room(&mut self, client: usize, room: u8) {
        let Some(line) = self.line_of(client) else { return };
        let room = if room == u8::MAX { usize::MAX } else { usize::from(room) * 64 };
        self.make_room_for(line, room);
    }

    fn make_room_for(&mut self, line: usize, room: usize) {
        let Line { shard, peer, .. } = self.lines[line];
        self.shards.drivers[shard].make_room(peer, room);
        self.shards.settle();
    }

    /// A client stops saying that it is there, or begins to.
    fn set_mute(&mut self, client: usize, what: u8) {
        if let Some(line) = self.line_of(client) {
            self.lines[line].is_mute = what & 1 == 1;
        }
    }

    /// How mail goes from one shard to another.
    fn set_way(&mut self, link: usize, way: u8) {
        if let Some((from, to)) = self.link(link) {
            self.was_late = true;
            self.shards.set_way(from, to, Way::ALL[usize::from(way) % Way::ALL.len()]);
        }
    }

    /// Mail that lies in an inbox is taken out.
    fn carry(&mut self, link: usize, letters: u8) {
        if let Some((from, to)) = self.link(link) {
            for _ in 0..1 + letters % 4 {
                self.shards.carry(from, to);
            }
        }
    }

    fn link(&self, link: usize) -> Option<(usize, usize)> {
        let (from, to) = (link % self.shards.len(), link / self.shards.len() % self.shards.len());
        (from != to).then_some((from, to))
    }

    /// Time passes, with the top bit at once.
    fn pass(&mut self, times: usize, how: u8) {
        const MS: [u64; 8] = [1, 10, 49, 50, 500, 1_000, 5_000, 20_000];
        let ms = MS[usize::from(how & 7)] * (1 + times as u64 % 4);
        if how & 0x80 != 0 {
            return self.shards.stop(ms);
        }
        self.live(ms);
    }

    /// Time passes while clients say that they are there.
    fn live(&mut self, ms: u64) {
        let mut left_ms = ms;
        while left_ms > 0 {
            for line in 0..self.lines.len() {
                let Line { is_mute, is_left, .. } = self.lines[line];
                if !is_mute && !is_left && self.is_there(&self.lines[line]) {
                    self.lines[line].view.expect("HEARTBEAT_ACK", None);
                    self.send(line, &wire::frame(wire::TEXT, br#"{"type":"HEARTBEAT"}"#));
                }
            }
            let step_ms = left_ms.min(BEAT_MS);
            self.shards.pass(step_ms);
            self.hear();
            left_ms -= step_ms;
        }
    }

    /// Nothing is late or slow any more, and whoever may be taken for something else says what it is.
    fn come_to_rest(&mut self) {
        self.shards.open_every_way();
        for line in 0..self.lines.len() {
            if !self.is_there(&self.lines[line]) {
                continue;
            }
            self.make_room_for(line, usize::MAX);
            self.lines[line].is_mute = false;
            let is_last = self.clients[self.lines[line].client] == Some(line);
            if !is_last && self.is_there(&self.lines[line]) {
                self.end_line(line, 5);
            }
        }
        // What takes whose place is settled within a second.
        self.live(3_000);
        self.count_those_there();
        for line in self.truth.uncertain() {
            let said = self.truth.connections[line];
            self.say_status(line, said.status, Some(said.metadata), 0);
            for (room, is_in) in said.rooms.into_iter().enumerate() {
                self.say_room(line, room, is_in);
            }
        }
        for line in 0..self.lines.len() {
            if self.is_there(&self.lines[line]) && self.lines[line].view.is_put_aside() {
                self.say_active(line, true);
            }
        }
        // The grace of those who have gone, and then counts, each of two of which waits for up to a second.
        self.live(15_000);
    }

    fn count_those_there(&mut self) {
        for line in 0..self.lines.len() {
            self.truth.connections[line].is_there = self.is_there(&self.lines[line]);
        }
    }

    fn check(&mut self) {
        let mut told = [const { None }; USERS];
        for (line, said) in self.lines.iter().zip(&self.truth.connections) {
            assert_eq!(self.is_there(line), said.is_there, "nobody goes while all is quiet");
            if said.is_there {
                line.view.check(&self.truth, self.room_detail_limit, &mut told);
            }
        }
    }

    /// Everybody leaves in the ways that `script` says.
    fn leave(&mut self, script: &[u8]) {
        let mut ways: VecDeque<u8> = script.iter().copied().collect();
        for line in 0..self.lines.len() {
            if self.is_there(&self.lines[line]) {
                self.end_line(line, ways.pop_back().unwrap_or_default());
            }
        }
        // The grace, the time in which sessions can be resumed, and that in which it is known who left a room.
        self.shards.pass(350_000);
        self.hear();
        self.shards.assert_nothing_left();
    }

    /// The connection of a client, while it is there.
    fn line_of(&self, client: usize) -> Option<usize> {
        self.clients[client % CLIENTS].filter(|&line| self.is_there(&self.lines[line]))
    }

    fn is_there(&self, line: &Line) -> bool {
        let peer = &self.shards.drivers[line.shard].peers[line.peer];
        !line.is_left && !peer.told_end && !peer.closed
    }

    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// Says something that is answered by a message of type `answer`.
    fn ask(&mut self, line: usize, kind: &str, answer: &'static str, payload: &str) {
        let id = self.id();
        self.lines[line].view.expect(answer, Some(id));
        self.say(line, kind, Some(id), payload);
    }

    fn say(&mut self, line: usize, kind: &str, id: Option<u32>, payload: &str) {
        let id = id.map(|id| format!(r#","id":{id}"#)).unwrap_or_default();
        let text = format!(r#"{{"type":"{kind}"{id},"payload":{payload}}}"#);
        // What is said before it is known whose place it took may be overtaken by that.
        self.truth.connections[line].is_certain &= self.lines[line].view.is_open();
        self.send(line, &wire::frame(wire::TEXT, text.as_bytes()));
    }

    fn send(&mut self, line: usize, bytes: &[u8]) {
        let Line { shard, peer, .. } = self.lines[line];
        let driver = &mut self.shards.drivers[shard];
        driver.send(peer, bytes);
        // It is read later, when others have said something else.
        self.truth.connections[line].is_certain &= driver.peers[peer].in_kernel.is_empty();
        self.shards.settle();
    }

    fn hear(&mut self) {
        for Line { shard, peer, view, .. } in &mut self.lines {
            let received = std::mem::take(&mut self.shards.drivers[*shard].peers[*peer].received);
            view.hear(&received);
        }
    }
}

fn user_named(name: &str) -> usize {
    index_of(name, b'u', USERS)
}

fn room_named(name: &str) -> usize {
    index_of(name, b'r', ROOMS)
}

fn index_of(name: &str, kind: u8, count: usize) -> usize {
    match *name.as_bytes() {
        [first, digit @ b'0'..=b'9'] if first == kind && usize::from(digit - b'0') < count => usize::from(digit - b'0'),
        _ => panic!("nothing is called {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts of any bytes at all, the same each time.
    #[test]
    fn promises_hold_for_two_hundred_scripts() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut script = vec![0; rng.usize(2..400)];
            rng.fill(&mut script);
            fuzz(&script);
        }
    }
}
