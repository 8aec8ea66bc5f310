//! A load that watches: what its connections ask to be told, what they change, and what they see of it; sans-IO.
//!
//! Each change carries its number and the time it was sent in its metadata, so that whoever sees it knows how old it
//! is, and at the end it can be said who has not seen the last change of whom.

use std::io::Write as _;

use hdrhistogram::Histogram;

use super::cli::{RoomDetail, WatchSettings};
use super::client;
use super::connection::LATENCY_NS_MAX;

/// Users that one WATCH names at most: a message of 39 bytes each stays below the server's 64 KiB.
const USERS_PER_WATCH: usize = 1500;

/// The `id` of a connection's last WATCH.
const LAST_ID: &str = "last";
const STATE_START: &[u8] = br#"{"type":"PRESENCE_STATE""#;
const LAST_STATE_START: &[u8] = br#"{"type":"PRESENCE_STATE","id":"last""#;
const CHANGE_START: &[u8] = br#"{"type":"PRESENCE_CHANGE""#;
const CURSOR: &[u8] = br#""cursor":""#;
/// Where a cursor stands at the latest: so many bytes before a state's end.
const CURSOR_BYTES_FROM_END: usize = 64;
const MARK: &[u8] = br#""load":["#;
const TRUNCATED: &[u8] = br#""truncated":true"#;

const STATUSES: [&str; 3] = ["online", "away", "busy"];

/// What a user is who has not changed yet.
const NOBODY: u32 = u32::MAX;

/// Changes beyond this are not told apart any more.
const CHANGES_MAX: usize = 1 << 24;

/// Who watches whom, of `connections` whose first ones change.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    settings: WatchSettings,
}

impl Topology {
    /// The topology that `settings` ask for.
    pub fn new(settings: WatchSettings) -> Self {
        Self { settings }
    }

    /// The users that connection `index` watches: those that follow it in the ring of all that change.
    pub fn watched(&self, index: usize) -> impl Iterator<Item = usize> + use<> {
        let WatchSettings { users, changers, .. } = self.settings;
        (0..users).map(move |offset| (index + 1 + offset) % changers)
    }

    /// The room that connection `index` is in and watches, if there are any.
    pub fn room(&self, index: usize) -> Option<usize> {
        index.checked_rem(self.settings.rooms)
    }

    /// Adds connection `index` to those who are to see each user; its room's members by name too, if `names_members`.
    fn count_views(&self, index: usize, names_members: bool, expected: &mut [u32]) {
        for user in self.watched(index) {
            expected[user] += 1;
        }
        let Some(room) = self.room(index).filter(|_| names_members) else { return };
        let WatchSettings { users, changers, rooms, .. } = self.settings;
        // Who is watched already is seen once all the same.
        let is_watched = |user: usize| (user + changers - (index + 1) % changers) % changers < users;
        for user in (room..changers).step_by(rooms).filter(|&user| !is_watched(user)) {
            expected[user] += 1;
        }
    }
}

/// Appends what connection `index` sends once it is open: a JOIN and a WATCH, or several.
pub fn write_requests(out: &mut Vec<u8>, topology: &Topology, users_prefix: &[u8; 8], index: usize) {
    let prefix = String::from_utf8_lossy(users_prefix);
    let room = topology.room(index).map(|room| format!("{prefix}-room-{room}"));
    if let Some(room) = &room {
        client::write_text(out, format!(r#"{{"type":"JOIN","payload":{{"room":"{room}"}}}}"#).as_bytes());
    }
    let mut users = topology.watched(index).peekable();
    let detail = topology.settings.room_detail.name();
    let rooms = room.map(|room| format!(r#"{{"room":"{room}","detail":"{detail}"}}"#)).unwrap_or_default();
    loop {
        let mut names = Vec::new();
        for user in users.by_ref().take(USERS_PER_WATCH) {
            let comma: &[u8] = if names.is_empty() { b"\"" } else { b",\"" };
            for part in [comma, &client::user_id(users_prefix, user), b"\""] {
                names.extend_from_slice(part);
            }
        }
        let is_last = users.peek().is_none();
        let (id, rooms) = if is_last { (LAST_ID, &rooms[..]) } else { ("more", "") };
        let head = format!(r#"{{"type":"WATCH","id":"{id}","payload":{{"rooms":[{rooms}],"users":["#);
        client::write_text(out, &[head.as_bytes(), &names, b"]}}"].concat());
        if is_last {
            return;
        }
    }
}

/// Appends change `number` of the run, a user's own `turn`-th, sent at `now_ns`. No two in a row are of one status.
pub fn write_change(out: &mut Vec<u8>, number: u32, turn: u64, now_ns: u64) {
    let status = STATUSES[(turn as usize + 1) % STATUSES.len()];
    let mut text = [0; 128];
    let mut rest = &mut text[..];
    // Far more room than the longest numbers take.
    let _ = write!(
        rest,
        r#"{{"type":"PRESENCE_UPDATE","payload":{{"status":"{status}","metadata":{{"load":[{number},{now_ns}]}}}}}}"#
    );
    let left = rest.len();
    client::write_text(out, &text[..text.len() - left]);
}

/// What a message means to a connection that watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A part of a state.
    State {
        /// Whether it is the last of the last one that was asked for.
        is_last: bool,
    },
    /// What changed.
    Change,
    /// Neither.
    Other,
}

/// Tells what a message is.
pub fn classify(payload: &[u8]) -> Seen {
    if payload.starts_with(CHANGE_START) {
        Seen::Change
    } else if payload.starts_with(STATE_START) {
        let end = &payload[payload.len().saturating_sub(CURSOR_BYTES_FROM_END)..];
        Seen::State { is_last: payload.starts_with(LAST_STATE_START) && find(end, CURSOR).is_some() }
    } else {
        Seen::Other
    }
}

/// One change: who made it, when, and what became of it.
#[derive(Clone, Copy, Debug)]
struct Change {
    user: u32,
    /// How many have seen it.
    seen: u32,
    sent_ns: u64,
    last_seen_ns: u64,
}

const NO_CHANGE: Change = Change { user: NOBODY, seen: 0, sent_ns: 0, last_seen_ns: 0 };

/// What one thread's connections changed and saw.
#[derive(Debug)]
pub struct Sight {
    /// PRESENCE_CHANGE messages.
    pub deliveries: u64,
    /// Changes in them, and in states that came unasked.
    pub presences: u64,
    /// Bytes of the deliveries' frames.
    pub bytes: u64,
    /// Changes sent.
    pub sent: u64,
    /// Nanoseconds from a WATCH to the end of its state.
    pub watch_latency: Histogram<u64>,
    /// Nanoseconds from when a change was sent to when it was seen, each time that it was.
    pub fan_out: Histogram<u64>,
    /// Nanoseconds from when a change was sent to when the last who is to see it did; without those that a newer one
    /// took the place of.
    pub to_the_last: Histogram<u64>,
    /// Times that a change was not seen because a newer one of its user took its place.
    pub superseded: u64,
    /// Times that the last change of a user was not seen.
    pub unseen: u64,
    /// When something was seen last.
    pub seen_ns: u64,
    changes: Vec<Change>,
    /// How many are to see each user.
    expected: Vec<u32>,
    /// Whether some room was too large to be told by name.
    is_truncated: bool,
    /// The last frame that was read by itself, and the changes in it: most are told to many.
    frame: Vec<u8>,
    marks: Vec<(u32, u64)>,
}

impl Sight {
    /// Nothing yet.
    pub fn new() -> anyhow::Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3);
        Ok(Self {
            deliveries: 0,
            presences: 0,
            bytes: 0,
            sent: 0,
            watch_latency: histogram()?,
            fan_out: histogram()?,
            to_the_last: histogram()?,
            superseded: 0,
            unseen: 0,
            seen_ns: 0,
            changes: Vec::new(),
            expected: Vec::new(),
            is_truncated: false,
            frame: Vec::new(),
            marks: Vec::new(),
        })
    }

    /// A change was sent.
    pub fn sent(&mut self, number: u32, user: u32, now_ns: u64) {
        self.sent += 1;
        if let Some(change) = self.change_mut(number) {
            change.user = user;
            change.sent_ns = now_ns;
        }
    }

    /// Whether `bytes` are the same frame as was seen last; then it has been seen once more.
    pub fn sees_again(&mut self, bytes: &[u8], now_ns: u64, is_measured: impl Fn(u64) -> bool) -> bool {
        let is_same = !bytes.is_empty() && bytes == self.frame;
        if is_same {
            self.deliveries += 1;
            self.bytes += bytes.len() as u64;
            self.note(now_ns, is_measured);
        }
        is_same
    }

    /// Takes in what a message of `kind` tells; it came in `frame_bytes` bytes.
    pub fn see(&mut self, kind: Seen, payload: &[u8], frame: &[u8], now_ns: u64, is_measured: impl Fn(u64) -> bool) {
        self.marks.clear();
        self.frame.clear();
        let mut rest = payload;
        while let Some(at) = find(rest, MARK) {
            rest = &rest[at + MARK.len()..];
            self.marks.extend(read_mark(rest));
        }
        self.is_truncated |= find(payload, TRUNCATED).is_some();
        if kind == Seen::Change {
            self.deliveries += 1;
            self.bytes += frame.len() as u64;
            self.frame.extend_from_slice(frame);
        }
        self.note(now_ns, is_measured);
    }

    /// At the end: connection `index`, which is there still, is to have seen everything.
    pub fn expect(&mut self, topology: &Topology, index: usize) {
        self.expected.resize(topology.settings.changers, 0);
        let names_members = topology.settings.room_detail == RoomDetail::Full && !self.is_truncated;
        topology.count_views(index, names_members, &mut self.expected);
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        self.deliveries += other.deliveries;
        self.presences += other.presences;
        self.bytes += other.bytes;
        self.sent += other.sent;
        self.watch_latency.add(&other.watch_latency)?;
        self.fan_out.add(&other.fan_out)?;
        self.changes.resize(self.changes.len().max(other.changes.len()), NO_CHANGE);
        for (sum, change) in self.changes.iter_mut().zip(&other.changes) {
            sum.user = sum.user.min(change.user);
            sum.seen += change.seen;
            sum.sent_ns = sum.sent_ns.max(change.sent_ns);
            sum.last_seen_ns = sum.last_seen_ns.max(change.last_seen_ns);
        }
        self.expected.resize(self.expected.len().max(other.expected.len()), 0);
        for (sum, expected) in self.expected.iter_mut().zip(&other.expected) {
            *sum += expected;
        }
        Ok(())
    }

    /// Judges all threads' changes together.
    pub fn conclude(&mut self, is_measured: impl Fn(u64) -> bool) {
        let mut is_newest = vec![true; self.expected.len()];
        for change in self.changes.iter().rev() {
            let Some(&expected) = self.expected.get(change.user as usize) else { continue };
            let missed = u64::from(expected.saturating_sub(change.seen));
            if std::mem::take(&mut is_newest[change.user as usize]) {
                self.unseen += missed;
            } else {
                self.superseded += missed;
            }
            if missed == 0 && expected > 0 && is_measured(change.sent_ns) {
                self.to_the_last.saturating_record(change.last_seen_ns.saturating_sub(change.sent_ns));
            }
        }
    }

    /// The changes in `marks` have been seen.
    fn note(&mut self, now_ns: u64, is_measured: impl Fn(u64) -> bool) {
        self.seen_ns = now_ns;
        self.presences += self.marks.len() as u64;
        let marks = std::mem::take(&mut self.marks);
        for &(number, sent_ns) in &marks {
            if is_measured(sent_ns) {
                self.fan_out.saturating_record(now_ns.saturating_sub(sent_ns));
            }
            if let Some(change) = self.change_mut(number) {
                change.seen += 1;
                change.sent_ns = sent_ns;
                change.last_seen_ns = now_ns;
            }
        }
        self.marks = marks;
    }

    fn change_mut(&mut self, number: u32) -> Option<&mut Change> {
        let index = number as usize;
        if index >= CHANGES_MAX {
            return None;
        }
        if index >= self.changes.len() {
            self.changes.resize(index + 1, NO_CHANGE);
        }
        self.changes.get_mut(index)
    }
}

/// Reads `NUMBER,NANOSECONDS]`.
fn read_mark(text: &[u8]) -> Option<(u32, u64)> {
    let end = text.iter().take(40).position(|&byte| byte == b']')?;
    let (number, sent_ns) = str::from_utf8(&text[..end]).ok()?.split_once(',')?;
    Some((number.parse().ok()?, sent_ns.parse().ok()?))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SETTINGS: WatchSettings =
        WatchSettings { users: 2, changers: 4, rooms: 2, room_detail: RoomDetail::Full, change_rate: 1, burst: 1 };

    fn change(marks: &[(u32, u64)]) -> Vec<u8> {
        let user = |(number, sent_ns)| format!(r#"{{"userId":"a","metadata":{{"load":[{number},{sent_ns}]}}}}"#);
        let users: Vec<String> = marks.iter().map(|&mark| user(mark)).collect();
        let users = users.join(",");
        format!(r#"{{"type":"PRESENCE_CHANGE","timestamp":"","payload":{{"users":[{users}],"rooms":[]}}}}"#)
            .into_bytes()
    }

    fn see(sight: &mut Sight, marks: &[(u32, u64)], now_ns: u64) {
        let payload = change(marks);
        if !sight.sees_again(&payload, now_ns, |_| true) {
            sight.see(classify(&payload), &payload, &payload, now_ns, |_| true);
        }
    }

    #[test]
    fn each_user_is_watched_by_those_before_it_and_by_its_room() {
        let topology = Topology::new(SETTINGS);
        assert_eq!(topology.watched(3).collect::<Vec<_>>(), [0, 1]);
        let mut expected = [0; 4];
        for index in 0..6 {
            topology.count_views(index, true, &mut expected);
        }
        let sees =
            |index: usize, user: usize| topology.watched(index).any(|watched| watched == user) || index % 2 == user % 2;
        let slow = [0, 1, 2, 3].map(|user| (0..6).filter(|&index| sees(index, user)).count() as u32);
        assert_eq!(expected, slow);
    }

    #[test]
    fn all_may_be_watched_by_all() {
        let topology = Topology::new(WatchSettings { users: 4, rooms: 0, ..SETTINGS });
        let mut expected = [0; 4];
        for index in 0..9 {
            topology.count_views(index, true, &mut expected);
        }
        assert_eq!(expected, [9; 4]);
    }

    #[test]
    fn requests_are_json_that_names_all() {
        let mut out = Vec::new();
        let topology = Topology::new(WatchSettings { users: 3000, changers: 4000, ..SETTINGS });
        write_requests(&mut out, &topology, b"00000000", 7);
        let mut texts = Vec::new();
        let mut rest = &out[..];
        while !rest.is_empty() {
            let (start, length) = match rest[1] & 0x7f {
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                short => (2, usize::from(short)),
            };
            let payload: Vec<u8> = rest[start + 4..][..length]
                .iter()
                .zip(client::MASK.iter().cycle())
                .map(|(byte, mask)| byte ^ mask)
                .collect();
            texts.push(serde_json::from_slice::<serde_json::Value>(&payload).unwrap());
            rest = &rest[start + 4 + length..];
        }
        let named = |text: &serde_json::Value| text["payload"]["users"].as_array().unwrap().len();
        assert_eq!(texts[0]["payload"]["room"], "00000000-room-1");
        assert_eq!((named(&texts[1]), named(&texts[2])), (1500, 1500));
        assert_eq!((texts[1]["id"].as_str(), texts[2]["id"].as_str()), (Some("more"), Some("last")));
        assert_eq!(texts[2]["payload"]["rooms"][0]["detail"], "full");
    }

    #[test]
    fn the_end_of_the_last_state_is_known() {
        let end = br#"{"type":"PRESENCE_STATE","id":"last","payload":{"users":[],"cursor":"AAAA","complete":true}}"#;
        let piece = br#"{"type":"PRESENCE_STATE","id":"last","payload":{"users":[],"complete":true}}"#;
        let unasked = br#"{"type":"PRESENCE_STATE","payload":{"users":[],"cursor":"AAAA","complete":true}}"#;
        assert_eq!(classify(end), Seen::State { is_last: true });
        assert_eq!(classify(piece), Seen::State { is_last: false });
        assert_eq!(classify(unasked), Seen::State { is_last: false });
        assert_eq!(classify(br#"{"type":"HEARTBEAT_ACK"}"#), Seen::Other);
    }

    #[test]
    fn what_took_a_changes_place_is_told_from_what_was_lost() {
        let mut sight = Sight::new().unwrap();
        let topology = Topology::new(WatchSettings { users: 1, changers: 1, rooms: 0, ..SETTINGS });
        for (number, sent_ns) in [(0, 100), (1, 200), (2, 300)] {
            sight.sent(number, 0, sent_ns);
        }
        for index in 0..2 {
            sight.expect(&topology, index);
        }
        see(&mut sight, &[(0, 100)], 150);
        see(&mut sight, &[(0, 100)], 160);
        see(&mut sight, &[(2, 300)], 400);
        let mut all = Sight::new().unwrap();
        all.merge(&sight).unwrap();
        all.conclude(|_| true);
        assert_eq!((all.deliveries, all.presences, all.sent), (3, 3, 3));
        assert_eq!((all.superseded, all.unseen), (2, 1));
        assert_eq!((all.to_the_last.len(), all.to_the_last.max(), all.fan_out.max()), (1, 60, 100));
    }

    #[test]
    fn no_two_changes_in_a_row_are_of_one_status() {
        let text = |turn| {
            let mut out = Vec::new();
            write_change(&mut out, 9, turn, 1_000);
            let payload = out[6..].iter().zip(client::MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            String::from_utf8(payload).unwrap()
        };
        assert_eq!(text(0), r#"{"type":"PRESENCE_UPDATE","payload":{"status":"away","metadata":{"load":[9,1000]}}}"#);
        assert!((1..9).all(|turn| text(turn) != text(turn - 1)));
    }
}
