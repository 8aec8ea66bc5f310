//! Two worlds from one seed that differ in nothing but what an invisible user does: nobody else can tell which is
//! which.
//!
//! In one world the hidden user is invisible and acts: it connects, changes its metadata, comes into rooms and leaves
//! them, resumes, is lost. In its twin the user is not there at all, or went invisible at the same moment and does
//! nothing more, or said DISCONNECT at that moment. Whatever any other connection is sent, and when, must be the same
//! to the byte. Session ids alone are masked: each is random by itself.
//!
//! Nothing goes wrong here and nothing is drawn while the worlds live: what all do is a script, time passes in even
//! ticks, and mail takes one of them. So what differs comes from the server.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use rollcall::auth::authority::Authority;
use rollcall::config::Config;
use rollcall::metrics::ShardMetrics;
use rollcall::presence::change::NameHasher;
use rollcall::protocol::session_id::SessionIds;
use rollcall::protocol::status::Status;
use rollcall::protocol::user_id::UserId;
use rollcall::shard::core::{Application, Limits};
use rollcall::shard::exchange::Mail;
use rollcall::shard::gate::Gate;
use rollcall::shard::sessions::{Sessions, Terms};
use rollcall::shard::virtual_driver::VirtualDriver;

use super::wire;

const BEGAN_UNIX_MS: u64 = 1_795_582_739_706;

const TICK_MS: u64 = 10;

const TICKS: usize = 700;

/// When the hidden user goes invisible, if it was seen before.
const HIDES: usize = 150;

/// From when on it may do what only an invisible user hides: what it said has reached its partition.
const HIDDEN: usize = HIDES + 5;

/// When it does nothing more, so that all that is late is told.
const HUSHES: usize = TICKS - 150;

/// Connections of the hidden user. The first is there from the beginning to the end, where it is an anchor.
const HIDDEN_DEVICES: usize = 3;

const HIDDEN_USER: &str = "hidden";

/// What stands in a message for the last cursor of whoever sends it.
const CURSOR: &str = "@cursor";

/// How the twin of the world differs from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twin {
    /// The hidden user was never there.
    Absent,
    /// It has gone invisible and does nothing more.
    Still,
    /// It said DISCONNECT instead.
    Gone,
}

/// A device may be connected at most once at a time.
#[derive(Clone, Debug)]
struct Device {
    user: String,
    shard: usize,
}

#[derive(Clone, Debug)]
enum What {
    /// With what stands behind the userId in the query, and whether the last session is named.
    Connect(String, bool),
    Say(String),
    /// The connection is lost.
    Lose,
    /// The hidden user goes invisible, or says DISCONNECT in the twin.
    Hide,
}

/// Which of the worlds it happens in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Both,
    /// Only where the hidden user acts.
    Acted,
}

#[derive(Clone, Debug)]
struct Step {
    device: usize,
    what: What,
    place: Where,
}

/// What a seed makes of both worlds.
struct Script {
    config: Config,
    hasher: NameHasher,
    shards: usize,
    twin: Twin,
    devices: Vec<Device>,
    /// What happens in each tick, in this order.
    ticks: Vec<Vec<Step>>,
}

/// One message or more, with the tick in which it came.
type Heard = Vec<(usize, Vec<u8>)>;

fn update(status: Status, metadata: Option<u32>) -> What {
    let metadata = metadata.map(|n| format!(r#","metadata":{{"n":{n}}}"#)).unwrap_or_default();
    What::Say(format!(
        r#"{{"type":"PRESENCE_UPDATE","id":"u","payload":{{"status":"{}"{metadata}}}}}"#,
        status.as_str()
    ))
}

fn disconnect() -> What {
    What::Say(r#"{"type":"DISCONNECT","id":"d"}"#.to_owned())
}

/// What is drawn for a script, as it is written.
struct Author {
    rng: Rng,
    users: Vec<String>,
    rooms: Vec<String>,
    /// The hidden user has a connection that stays and says `invisible`, whatever the others say.
    is_anchored: bool,
    /// Every shard follows everybody, so that who is watched by one more shows nowhere.
    is_followed: bool,
}

impl Author {
    fn some_of(&mut self, names: &[String]) -> String {
        let chosen: Vec<String> = names.iter().filter(|_| self.rng.bool()).map(|name| format!("\"{name}\"")).collect();
        chosen.join(",")
    }

    fn room(&mut self) -> String {
        self.rooms[self.rng.usize(..self.rooms.len())].clone()
    }

    fn watch(&mut self) -> What {
        let (users, rooms) = (self.users.clone(), self.rooms.clone());
        let users = self.some_of(&users);
        let rooms = if self.rng.u8(..4) == 0 {
            format!(r#"{{"room":"{}","detail":"count"}}"#, self.room())
        } else {
            self.some_of(&rooms)
        };
        let since = if self.rng.bool() { format!(r#","since":"{CURSOR}""#) } else { String::new() };
        What::Say(format!(r#"{{"type":"WATCH","id":"w","payload":{{"users":[{users}],"rooms":[{rooms}]{since}}}}}"#))
    }

    fn watch_users(&mut self, kind: &str) -> What {
        let users = self.users.clone();
        let users = self.some_of(&users);
        What::Say(format!(r#"{{"type":"{kind}","id":"w","payload":{{"users":[{users}]}}}}"#))
    }

    fn unwatch(&mut self) -> What {
        let (users, rooms) = (self.users.clone(), self.rooms.clone());
        let (users, rooms) = (self.some_of(&users), self.some_of(&rooms));
        What::Say(format!(r#"{{"type":"UNWATCH","id":"x","payload":{{"users":[{users}],"rooms":[{rooms}]}}}}"#))
    }

    fn metadata(&mut self) -> Option<u32> {
        self.rng.bool().then(|| self.rng.u32(1..1_000))
    }

    fn room_message(&mut self, kind: &str) -> What {
        What::Say(format!(r#"{{"type":"{kind}","id":"r","payload":{{"room":"{}"}}}}"#, self.room()))
    }

    fn other(&mut self) -> What {
        let seen = [Status::Online, Status::Away, Status::Busy, Status::Invisible];
        match self.rng.u8(..24) {
            0..5 => {
                let status =
                    if self.rng.u8(..3) == 0 { format!("&status={}", self.status(&seen)) } else { String::new() };
                What::Connect(status, self.rng.u8(..3) == 0)
            }
            5..9 => {
                let (status, metadata) = (seen[self.rng.usize(..seen.len())], self.metadata());
                update(status, metadata)
            }
            9..12 => self.room_message("JOIN"),
            12..14 => self.room_message("LEAVE"),
            14..19 => self.watch(),
            19 => self.unwatch(),
            20 => {
                let active = self.rng.bool();
                What::Say(format!(r#"{{"type":"CLIENT_STATE","id":"c","payload":{{"active":{active}}}}}"#))
            }
            21 => disconnect(),
            22 => What::Lose,
            _ => What::Say(r#"{"type":"HEARTBEAT"}"#.to_owned()),
        }
    }

    fn status(&mut self, among: &[Status]) -> &'static str {
        among[self.rng.usize(..among.len())].as_str()
    }

    /// What the hidden user does on one of its connections.
    fn hidden(&mut self, device: usize) -> What {
        let is_anchor = self.is_anchored && device == 0;
        let may_say_anything = self.is_anchored && device != 0;
        let said = if may_say_anything { &Status::ALL[..] } else { &[Status::Invisible] };
        match self.rng.u8(..20) {
            // Without an anchor each must say what it is, for its predecessor may be forgotten.
            0..4 if may_say_anything && self.rng.bool() => What::Connect(String::new(), self.rng.bool()),
            0..4 if !is_anchor => What::Connect(format!("&status={}", self.status(said)), self.rng.bool()),
            4 if !is_anchor => disconnect(),
            5 if !is_anchor => What::Lose,
            6..11 => self.room_message("JOIN"),
            11..13 => self.room_message("LEAVE"),
            13 => What::Say(r#"{"type":"CLIENT_STATE","id":"c","payload":{"active":false}}"#.to_owned()),
            14 => What::Say(r#"{"type":"CLIENT_STATE","id":"c","payload":{"active":true}}"#.to_owned()),
            15 => What::Say("{".to_owned()),
            // That a room is asked for may show in when its count is told, and that may be anybody.
            16 if self.is_followed => self.watch_users("WATCH"),
            17 if self.is_followed => self.watch_users("UNWATCH"),
            _ => {
                let (status, metadata) = (said[self.rng.usize(..said.len())], self.metadata());
                update(status, metadata)
            }
        }
    }
}

impl Script {
    fn write(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let ms = |ms: u64| Duration::from_millis(ms);
        let config = Config {
            change_interval: ms([0, 10, 50, 50][rng.usize(..4)]),
            offline_grace: ms([0, 300, 2_000][rng.usize(..3)]),
            resume_window: ms([0, 1_000, 30_000][rng.usize(..3)]),
            cursor_slack: ms([1_000, 200][rng.usize(..2)]),
            history: ms([1_000, 300_000][rng.usize(..2)]),
            room_detail_limit: [1, 2, 1_000, 1_000][rng.usize(..4)],
            last_seen_capacity: [0, 3, 1_000_000, 1_000_000][rng.usize(..4)],
            ..Config::default()
        };
        let (shards, hasher) = (rng.usize(1..=3), NameHasher::rehearsed(rng.u64(..)));
        let twin = [Twin::Absent, Twin::Still, Twin::Gone][rng.usize(..3)];
        let is_anchored = twin != Twin::Absent || rng.bool();
        let is_followed = rng.bool();
        let home = |name: &str| UserId::parse(name).map_or(0, |id| hasher.user(&id).partition(shards));
        let mut users: Vec<String> = (0..rng.usize(1..5)).map(|index| format!("u{index}")).collect();
        let rooms = (0..rng.usize(1..4)).map(|index| format!("r{index}")).collect();
        let mut devices: Vec<Device> =
            (0..HIDDEN_DEVICES).map(|_| Device { user: HIDDEN_USER.to_owned(), shard: rng.usize(..shards) }).collect();
        // Elsewhere it is later by the mail that others are told when it was last heard.
        devices[0].shard = home(HIDDEN_USER);
        for _ in 0..rng.usize(2..7) {
            devices.push(Device { user: users[rng.usize(..users.len())].clone(), shard: rng.usize(..shards) });
        }
        let others = HIDDEN_DEVICES..devices.len();
        users.push(HIDDEN_USER.to_owned());
        let mut author = Author { rng, users, rooms, is_anchored, is_followed };
        let mut ticks = vec![Vec::new(); TICKS];
        Self::add_background(&mut author, &mut devices, &mut ticks, shards, home);
        for (tick, steps) in ticks.iter_mut().enumerate() {
            let mut add = |device, what, place| steps.push(Step { device, what, place });
            if author.rng.u8(..3) == 0 || tick == 1 {
                let device = author.rng.usize(others.clone());
                let what = if tick == 1 { What::Connect(String::new(), false) } else { author.other() };
                add(device, what, Where::Both);
            }
            Self::add_hidden(&mut author, twin, tick, &mut add);
        }
        for steps in &mut ticks {
            author.rng.shuffle(steps);
        }
        Self { config, hasher, shards, twin, devices, ticks }
    }

    /// Somebody is on every shard for each partition, and perhaps one of them watches everybody.
    fn add_background(
        author: &mut Author,
        devices: &mut Vec<Device>,
        ticks: &mut [Vec<Step>],
        shards: usize,
        home: impl Fn(&str) -> usize,
    ) {
        let mut numbers = 0..;
        for (shard, to) in (0..shards).flat_map(|shard| (0..shards).map(move |to| (shard, to))) {
            let mut names = numbers.by_ref().map(|number| format!("b{number}"));
            let Some(user) = names.find(|name| home(name) == to) else { continue };
            let device = devices.len();
            devices.push(Device { user, shard });
            let step = |what| Step { device, what, place: Where::Both };
            ticks[1].push(step(What::Connect("&status=online".to_owned(), false)));
            if shard == to && author.is_followed {
                let names = |names: &[String]| {
                    names.iter().fold(String::new(), |mut list, name| {
                        let separator = if list.is_empty() { "" } else { "," };
                        let _ = write!(list, "{separator}\"{name}\"");
                        list
                    })
                };
                let (users, rooms) = (names(&author.users), names(&author.rooms));
                let watch = format!(r#"{{"type":"WATCH","payload":{{"users":[{users}],"rooms":[{rooms}]}}}}"#);
                ticks[2].push(step(What::Say(watch)));
            }
        }
    }

    fn add_hidden(author: &mut Author, twin: Twin, tick: usize, add: &mut impl FnMut(usize, What, Where)) {
        let is_seen_first = twin != Twin::Absent;
        if is_seen_first {
            // In the twin that says DISCONNECT nobody else may be there.
            let devices = if twin == Twin::Gone { 1 } else { HIDDEN_DEVICES };
            match tick {
                3 => (0..devices).for_each(|device| add(device, What::Connect(String::new(), false), Where::Both)),
                5..HIDES if author.rng.u8(..8) == 0 => {
                    let device = author.rng.usize(..devices);
                    let kind = if author.rng.bool() { "JOIN" } else { "LEAVE" };
                    let what = match author.rng.u8(..3) {
                        0 => update(Status::Away, author.metadata()),
                        _ => author.room_message(kind),
                    };
                    add(device, what, Where::Both);
                }
                HIDES if twin == Twin::Still => add(0, update(Status::Invisible, None), Where::Both),
                HIDES => add(0, What::Hide, Where::Both),
                _ => {}
            }
        } else if tick == 3 {
            add(0, What::Connect("&status=invisible".to_owned(), false), Where::Acted);
        }
        let begins = if is_seen_first { HIDDEN } else { 8 };
        if (begins..HUSHES).contains(&tick) && author.rng.u8(..3) == 0 {
            let device = author.rng.usize(..HIDDEN_DEVICES);
            let what = author.hidden(device);
            add(device, what, Where::Acted);
        }
    }
}

/// One of the worlds.
struct Stage<'a> {
    script: &'a Script,
    /// Whether the hidden user acts, or this is the twin.
    is_acted: bool,
    drivers: Vec<VirtualDriver<Sessions>>,
    mail: Vec<(usize, Mail)>,
    /// Of each device, its peer on its shard's driver.
    peers: Vec<Option<usize>>,
    sessions: Vec<String>,
    cursors: Vec<String>,
    heard: Vec<Heard>,
}

impl<'a> Stage<'a> {
    fn new(script: &'a Script, is_acted: bool) -> Self {
        let authority = Authority::open(&script.config).expect("origins and hosts that are none");
        let driver = |shard: usize| {
            let metrics = Arc::new(ShardMetrics::default());
            let terms = Terms::new(&script.config, script.shards, 7, BEGAN_UNIX_MS);
            let ids = SessionIds::new(&[7; 32], shard as u64);
            let gate = Gate::new(authority.clone(), Arc::new(|| {}), Arc::clone(&metrics));
            let sessions = Sessions::new(shard, terms, gate, script.hasher.clone(), ids, Arc::clone(&metrics));
            VirtualDriver::new(sessions, Limits::new(&script.config), metrics)
        };
        let devices = script.devices.len();
        Self {
            script,
            is_acted,
            drivers: (0..script.shards).map(driver).collect(),
            mail: Vec::new(),
            peers: vec![None; devices],
            sessions: vec![String::new(); devices],
            cursors: vec![String::new(); devices],
            heard: vec![Vec::new(); devices],
        }
    }

    fn play(mut self) -> Vec<Heard> {
        let is_acted = self.is_acted;
        for (tick, steps) in self.script.ticks.iter().enumerate() {
            self.drivers.iter_mut().for_each(|driver| driver.jump(TICK_MS));
            for (to, mail) in std::mem::take(&mut self.mail) {
                let now = self.drivers[to].now;
                self.drivers[to].core.application_mut().receive(now, mail);
            }
            self.drivers.iter_mut().for_each(|driver| driver.jump(0));
            for step in steps.iter().filter(|step| step.place == Where::Both || is_acted) {
                self.act(tick, step);
            }
            self.drivers.iter_mut().for_each(|driver| driver.jump(0));
            for driver in &mut self.drivers {
                let application = driver.core.application_mut();
                application.gather_mail();
                let mail = (0..self.script.shards).filter_map(|to| Some((to, application.take_mail(to)?)));
                self.mail.extend(mail);
            }
            for device in 0..self.peers.len() {
                self.listen_and_part(tick, device);
            }
        }
        self.heard
    }

    fn act(&mut self, tick: usize, step: &Step) {
        let Device { user, shard } = &self.script.devices[step.device];
        let driver = &mut self.drivers[*shard];
        let peer = self.peers[step.device].filter(|&peer| !driver.peers[peer].closed && !driver.peers[peer].told_end);
        let hide = if self.is_acted { update(Status::Invisible, None) } else { disconnect() };
        let what = if matches!(step.what, What::Hide) { &hide } else { &step.what };
        match (what, peer) {
            (What::Connect(query, resumes), None) => {
                let mut query = format!("userId={user}{query}");
                if *resumes && !self.sessions[step.device].is_empty() {
                    query += &format!("&session={}", self.sessions[step.device]);
                }
                let mut bytes = Vec::new();
                wire::write_upgrade(&mut bytes, &query);
                let peer = driver.connect(None);
                self.peers[step.device] = Some(peer);
                driver.send(peer, &bytes);
            }
            (What::Say(text), Some(peer)) => {
                let text = text.replace(CURSOR, &self.cursors[step.device]);
                let mut bytes = Vec::new();
                wire::write_frame(&mut bytes, wire::TEXT, text.as_bytes(), [0; 4]);
                driver.send(peer, &bytes);
            }
            (What::Lose, Some(peer)) => {
                driver.end(peer);
                self.listen(tick, step.device);
                self.peers[step.device] = None;
            }
            _ => {}
        }
    }

    fn listen_and_part(&mut self, tick: usize, device: usize) {
        self.listen(tick, device);
        let driver = &self.drivers[self.script.devices[device].shard];
        if self.peers[device].is_some_and(|peer| driver.peers[peer].told_end || driver.peers[peer].closed) {
            self.peers[device] = None;
        }
    }

    /// A device reads what has come for it.
    fn listen(&mut self, tick: usize, device: usize) {
        let Some(peer) = self.peers[device] else { return };
        let received = std::mem::take(&mut self.drivers[self.script.devices[device].shard].peers[peer].received);
        if received.is_empty() {
            return;
        }
        let mut text = String::from_utf8_lossy(&received).into_owned();
        if let Some((from, to)) = value(&text, "\"sessionId\":\"") {
            self.sessions[device] = text[from..to].to_owned();
            text.replace_range(from..to, "…");
        }
        if let Some((from, to)) = value(&text, "\"cursor\":\"") {
            self.cursors[device] = text[from..to].to_owned();
        }
        self.heard[device].push((tick, text.into_bytes()));
    }
}

/// Where in `text` what stands behind the last `key` begins and ends.
fn value(text: &str, key: &str) -> Option<(usize, usize)> {
    let from = text.rfind(key)? + key.len();
    Some((from, from + text[from..].find('"')?))
}

/// What came of a seed: how much was compared, and the first difference.
pub struct Outcome {
    pub heard: usize,
    pub difference: Option<String>,
}

/// Plays both worlds of a seed.
pub fn run(seed: u64) -> Outcome {
    let script = Script::write(seed);
    let acted = Stage::new(&script, true).play();
    let twin = Stage::new(&script, false).play();
    let others = HIDDEN_DEVICES..script.devices.len();
    let heard = others.clone().map(|device| twin[device].len()).sum();
    let first = others.filter_map(|device| {
        let (acted, twin) = (&acted[device], &twin[device]);
        let at = (0..acted.len().max(twin.len())).find(|&at| acted.get(at) != twin.get(at))?;
        let (acted, twin) = (acted.get(at), twin.get(at));
        let tick = [acted, twin].into_iter().flatten().map(|(tick, _)| *tick).min()?;
        Some((tick, device, acted.cloned(), twin.cloned()))
    });
    let difference = first.min_by_key(|(tick, device, ..)| (*tick, *device)).map(|(tick, device, acted, twin)| {
        let Device { user, shard } = &script.devices[device];
        let told = |heard: Option<(usize, Vec<u8>)>| match heard {
            Some((at, bytes)) => format!("in tick {at}: {}", String::from_utf8_lossy(&bytes)),
            None => "nothing more".to_owned(),
        };
        let mut text = format!(
            "twin {:?}, {} shards, device {device} of {user} on shard {shard}, tick {tick}\n",
            script.twin, script.shards
        );
        for (tick, steps) in script.ticks.iter().enumerate().take(tick + 1).skip(tick.saturating_sub(12)) {
            for step in steps.iter().filter(|step| script.devices[step.device].user.starts_with(['u', 'h'])) {
                let _ = writeln!(
                    text,
                    "  tick {tick}, device {} of {}: {:?}, {:?}",
                    step.device, script.devices[step.device].user, step.what, step.place
                );
            }
        }
        let _ = write!(text, "  where the hidden user acts {}\n  in the twin {}", told(acted), told(twin));
        text
    });
    Outcome { heard, difference }
}
