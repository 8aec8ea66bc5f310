//! Several shards, their clients and a clock, all virtual but the code under test, all from one seed.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use fastrand::Rng;
use rollcall::auth::authority::Authority;
use rollcall::metrics::ShardMetrics;
use rollcall::presence::change::NameHasher;
use rollcall::protocol::room_name::RoomName;
use rollcall::protocol::session_id::SessionIds;
use rollcall::protocol::user_id::UserId;
use rollcall::shard::core::{Appetite, Application, Cause, Core, Ending, Input, Limits, Output};
use rollcall::shard::gate::Gate;
use rollcall::shard::sessions::{Sessions, Terms as SessionTerms};
use rollcall::shard::{ConnectionId, Now};

use super::client::{Client, Names, Said, Stage};
use super::invariants::{counters, ghosts, memory, nothing_left, outbox, resume, view};
use super::link::{Cut, Letter, Link, Socket, Wish, fold};
use super::model::{Connection, End, Event, Model, Predecessor, Terms};
use super::observed::{Observed, Seen};
use super::plan::Plan;

/// When the world begins, by its wall clock.
const BEGAN_UNIX_MS: u64 = 1_795_582_739_706;

/// How many deliveries are made before they are written.
const DELIVERIES_PER_STEP: usize = 64;

/// How much one read takes.
const READ_BYTES: usize = 16 * 1024;

/// How long a shard waits for what became of a session, in milliseconds.
const RESUME_ANSWER_MS: u64 = 1_000;

/// How long it may take until a count has been told, in milliseconds: each of two waits for up to a second.
const COUNTS_TOLD_MS: u64 = 2_500;

/// Every how many rounds it is looked at what waits for full inboxes.
const OUTBOXES_CHECKED_ROUNDS: u64 = 16;

/// Rounds after which the world should have come to rest.
const ROUNDS_MAX: u64 = 400_000;

/// What went wrong.
#[derive(Debug)]
pub struct Fault(pub String);

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self(what)
    }
}

/// One shard with its virtual driver.
pub struct Shard {
    pub core: Core<Observed, Connection>,
    pub metrics: Arc<ShardMetrics>,
    /// The socket of each slot.
    slots: Vec<Connection>,
    accepts: Vec<Connection>,
    readable: Vec<Connection>,
    full: Vec<Connection>,
    ready: VecDeque<ConnectionId>,
    looks: Vec<ConnectionId>,
    openings: Vec<Connection>,
    /// Connections that the application counts.
    open: u64,
    stalled_until_ms: u64,
}

/// See the module.
pub struct World {
    pub plan: Plan,
    pub rng: Rng,
    pub now: Now,
    skew_ms: i64,
    pub shards: Vec<Shard>,
    pub sockets: Vec<Socket>,
    pub clients: Vec<Client>,
    links: Vec<Link>,
    pub names: Names,
    room_partitions: Vec<usize>,
    pub model: Model,
    /// Events handled: actions of clients, bytes and mail that arrive, timers.
    pub steps: u64,
    /// Whether clients act and things go wrong.
    pub is_wild: bool,
    /// Sockets with something for their client.
    heard: Vec<Connection>,
    vanished: Vec<Connection>,
    buffer: Vec<u8>,
    replies: Vec<Event>,
    pub next_id: u32,
    pub next_metadata: u32,
    pub trace: Option<VecDeque<String>>,
    rounds: u64,
}

macro_rules! trace {
    ($world:expr, $($what:tt)+) => {
        if $world.trace.is_some() {
            let line = format!($($what)+);
            $world.note(line);
        }
    };
}
pub(crate) use trace;

impl World {
    /// The world of a seed, with nobody connected.
    pub fn new(seed: u64, keeps_trace: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::draw(&mut rng);
        let now = Now { elapsed_ns: 1_000_000_000, unix_ms: BEGAN_UNIX_MS };
        let hasher = NameHasher::rehearsed(rng.u64(..));
        let shards = plan.shards;
        let secret = [7; 32];
        let named = |kind: char, index: usize| format!("{kind}{index}{}", plan.suffix);
        let names = Names {
            users: (0..plan.users).map(|index| named('u', index)).collect(),
            rooms: (0..plan.rooms).map(|index| named('r', index)).collect(),
        };
        let terms = Terms {
            grace_ms: plan.config.offline_grace.as_millis() as u64,
            resume_ms: plan.config.resume_window.as_millis() as u64,
            sessions_max: plan.config.resume_sessions_max.div_ceil(shards),
            last_seen_max: plan.config.last_seen_capacity.div_ceil(shards),
            is_clock_set: plan.faults.clock_step > 0,
        };
        let partition_of = |name: &String| UserId::parse(name).map_or(0, |id| hasher.user(&id).partition(shards));
        let partitions = names.users.iter().map(partition_of).collect();
        let room_partition =
            |name: &String| RoomName::parse(name).map_or(0, |room| hasher.room(&room).partition(shards));
        let room_partitions = names.rooms.iter().map(room_partition).collect();
        let authority = Authority::open(&plan.config).expect("origins and hosts that are none");
        let shard = |shard: usize| {
            let metrics = Arc::new(ShardMetrics::default());
            let terms = SessionTerms::new(&plan.config, shards, 7, BEGAN_UNIX_MS).with_bounds(plan.bounds);
            let ids = SessionIds::new(&secret, seed ^ shard as u64);
            // Whoever waits for an answer from elsewhere would need a wake; nobody is asked here.
            let gate = Gate::new(authority.clone(), Arc::new(|| {}), Arc::clone(&metrics));
            let inner = Sessions::new(shard, terms, gate, hasher.clone(), ids, Arc::clone(&metrics));
            let observed = Observed { inner, seen: Vec::new() };
            Shard {
                core: Core::new(now, observed, Limits::new(&plan.config), Arc::clone(&metrics)),
                metrics,
                slots: Vec::new(),
                accepts: Vec::new(),
                readable: Vec::new(),
                full: Vec::new(),
                ready: VecDeque::new(),
                looks: Vec::new(),
                openings: Vec::new(),
                open: 0,
                stalled_until_ms: 0,
            }
        };
        let clients = (0..plan.clients).map(|_| {
            // Some users have many clients.
            let user = if rng.u32(..100) < plan.hot_percent {
                rng.usize(..plan.users.min(3))
            } else {
                rng.usize(..plan.users)
            };
            let roomy_bytes = plan.bounds.message_bytes.saturating_sub(plan.padding + 512);
            Client::new(user, plan.users, plan.rooms, roomy_bytes)
        });
        Self {
            clients: clients.collect(),
            shards: (0..shards).map(shard).collect(),
            links: (0..shards * shards).map(|_| Link::default()).collect(),
            room_partitions,
            model: Model::new(terms, partitions, shards),
            plan,
            rng,
            now,
            skew_ms: 0,
            sockets: Vec::new(),
            names,
            steps: 0,
            is_wild: true,
            heard: Vec::new(),
            vanished: Vec::new(),
            buffer: Vec::with_capacity(READ_BYTES),
            replies: Vec::new(),
            next_id: 0,
            next_metadata: 0,
            trace: keeps_trace.then(VecDeque::new),
            rounds: 0,
        }
    }

    /// Adds a line to the trace.
    pub fn note(&mut self, line: String) {
        let at = self.now.elapsed_ms();
        if let Some(trace) = &mut self.trace {
            if trace.len() > 40_000 {
                trace.pop_front();
            }
            trace.push_back(format!("{at:>9} ms  {line}"));
        }
    }

    /// What led here, as far as it is kept.
    pub fn traced(&self) -> impl Iterator<Item = &String> {
        self.trace.iter().flatten()
    }

    pub fn now_ms(&self) -> u64 {
        self.now.elapsed_ms()
    }

    /// Whether something that goes wrong `thousandths` of the time does so now.
    pub fn chance(&mut self, thousandths: u32) -> bool {
        self.is_wild && thousandths > 0 && self.rng.u32(..1_000) < thousandths
    }

    /// Lives on until `steps` more have been made.
    pub fn run(&mut self, steps: u64) -> Result<(), Fault> {
        let end = self.steps + steps;
        while self.steps < end {
            self.advance_wildly();
            for _ in 0..self.rng.u32(..3) {
                self.act_somehow();
            }
            self.round()?;
        }
        Ok(())
    }

    /// Heals everything, and demands that all is as it should be when it has come to rest.
    pub fn heal(&mut self) -> Result<(), Fault> {
        trace!(self, "-- heals");
        self.is_wild = false;
        for client in 0..self.clients.len() {
            self.calm(client);
        }
        let grace_ms = self.model.terms.grace_ms;
        self.rest(grace_ms + 5_000)?;
        // Those who had fallen silent before are found out now and then; it is no rest until that has been told.
        for _ in 0..100 {
            let quiet_ms = self.now_ms() - self.model.changed_ms;
            if quiet_ms >= COUNTS_TOLD_MS {
                break;
            }
            self.rest(COUNTS_TOLD_MS - quiet_ms)?;
        }
        self.check_rest()?;
        trace!(self, "-- is at rest");
        self.is_wild = true;
        Ok(())
    }

    /// Everybody leaves, every window passes, and nothing is left.
    pub fn finish(&mut self) -> Result<(), Fault> {
        self.is_wild = false;
        for client in 0..self.clients.len() {
            self.leave_for_good(client);
        }
        let config = &self.plan.config;
        let windows = config.offline_grace + config.resume_window + config.history + config.heartbeat_timeout;
        self.rest(windows.as_millis() as u64 + 80_000)?;
        let remembers = config_remembers(&self.plan);
        for shard in &mut self.shards {
            let connections = shard.core.len();
            let held_bytes = shard.core.held_bytes();
            nothing_left::check(&shard.core.application_mut().inner, connections, held_bytes, remembers)?;
        }
        Ok(())
    }

    /// Lets time pass without faults, from one thing that is due to the next.
    fn rest(&mut self, ms: u64) -> Result<(), Fault> {
        let end_ms = self.now_ms() + ms;
        let rounds = self.rounds;
        while self.now_ms() < end_ms {
            let due_ms = self.next_due_ms().clamp(self.now_ms(), end_ms);
            // Where something is due at once, time passes nevertheless, now and then.
            let step_ms = (due_ms - self.now_ms()).max(u64::from(self.rng.u8(..3) == 0));
            self.pass(step_ms);
            self.round()?;
            if self.rounds - rounds > ROUNDS_MAX {
                return Err(Fault("the world does not come to rest".into()));
            }
        }
        Ok(())
    }

    fn check_rest(&mut self) -> Result<(), Fault> {
        for index in 0..self.shards.len() {
            let shard = &self.shards[index];
            if shard.metrics.queued_bytes.get() > 0 && self.vanished.is_empty() {
                let held = self
                    .sockets
                    .iter()
                    .any(|socket| socket.shard == index && !socket.closed && socket.cut != Cut::None);
                if !held {
                    return Err(Fault(format!("shard {index} has bytes that wait though all is quiet")));
                }
            }
        }
        let limit = self.plan.config.room_detail_limit;
        for (index, client) in self.clients.iter().enumerate() {
            let is_cut = self.sockets.get(client.socket as usize).is_none_or(|socket| socket.cut != Cut::None);
            if matches!(client.stage, Stage::Away(_) | Stage::Closing) || is_cut {
                continue;
            }
            view::check(client, &self.model, limit)
                .map_err(|error| format!("client {index} of user {}: {error}", client.user))?;
        }
        Ok(())
    }

    /// Time passes, by a little or by much.
    fn advance_wildly(&mut self) {
        let kind = self.rng.u32(..1_000);
        let ms = if kind < self.plan.faults.leap {
            let leap = self.rng.u64(..20_000);
            self.next_due_ms().saturating_sub(self.now_ms()).min(leap) + self.rng.u64(..100)
        } else if kind < 900 {
            self.rng.u64(..5)
        } else {
            self.rng.u64(..60)
        };
        self.pass(ms);
        let faults = &self.plan.faults;
        if faults.clock_step > 0 && self.rng.u32(..100_000) < faults.clock_step {
            let ms = [50, 2_000, 100_000, 7_200_000][self.rng.usize(..4)];
            let by = self.rng.i64(-ms..=ms);
            self.skew_ms += by;
            trace!(self, "the wall clock jumps by {by} ms");
        }
        let faults = &self.plan.faults;
        if faults.stall > 0 && self.rng.u32(..100_000) < faults.stall {
            let shard = self.rng.usize(..self.shards.len());
            let ms = self.rng.u64(..=self.plan.faults.stall_ms);
            self.shards[shard].stalled_until_ms = self.now_ms() + ms;
            trace!(self, "shard {shard} stands still for {ms} ms");
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.elapsed_ns += ms * 1_000_000;
        self.now.unix_ms = BEGAN_UNIX_MS.saturating_add_signed(self.now_ms() as i64 + self.skew_ms);
    }

    /// When something is due next.
    fn next_due_ms(&self) -> u64 {
        let cores = self.shards.iter().filter_map(|shard| shard.core.deadline_ms());
        let letters = self.links.iter().filter_map(|link| link.letters.front().map(|letter| letter.arrives_ms));
        let clients = self.clients.iter().filter_map(|client| match client.stage {
            Stage::Away(until_ms) => self.is_wild.then_some(until_ms),
            Stage::Open if !client.is_mute => Some(client.next_beat_ms),
            _ => None,
        });
        let has_room = |&socket: &Connection| {
            let socket = &self.sockets[socket as usize];
            !socket.closed && socket.to_client.len() < socket.capacity
        };
        let is_writable = self.shards.iter().any(|shard| shard.full.iter().any(has_room));
        let is_busy = is_writable || !self.heard.is_empty() || self.shards.iter().any(Shard::has_socket_work);
        let now_ms = self.now_ms();
        // Mail that found no room is offered again in a millisecond, as by the driver.
        let held = self.links.iter().any(|link| link.is_held).then_some(now_ms + 1);
        let busy = is_busy.then_some(now_ms);
        cores.chain(letters).chain(clients).chain(held).chain(busy).min().unwrap_or(u64::MAX)
    }

    /// Everybody does once what there is to do.
    fn round(&mut self) -> Result<(), Fault> {
        self.rounds += 1;
        self.keep_alive();
        let first = self.rng.usize(..self.shards.len());
        for offset in 0..self.shards.len() {
            let shard = (first + offset) % self.shards.len();
            let is_stalled = self.is_wild && self.shards[shard].stalled_until_ms > self.now_ms();
            if is_stalled || self.chance(self.plan.faults.missed_turn) {
                continue;
            }
            if self.has_work(shard) || self.chance(self.plan.faults.early_tick) {
                self.turn(shard)?;
            }
        }
        self.hear()?;
        if self.rounds & 63 == 0 {
            let slack_ms = self.slack_ms();
            self.vanished.retain(|&socket| self.sockets[socket as usize].is_open);
            for &socket in &self.vanished {
                ghosts::is_in_time(&self.sockets[socket as usize], self.now_ms(), slack_ms)?;
            }
        }
        Ok(())
    }

    /// How late a shard may be in all that it does.
    fn slack_ms(&self) -> u64 {
        2 * self.plan.faults.stall_ms + 5_000
    }

    fn has_work(&self, shard: usize) -> bool {
        let (record, now_ms) = (&self.shards[shard], self.now_ms());
        record.has_socket_work()
            || !record.full.is_empty()
            || self.arrived(shard)
            || record.core.deadline_ms().is_some_and(|due_ms| due_ms <= now_ms)
            || (0..self.shards.len()).any(|to| {
                let link = &self.links[shard * self.shards.len() + to];
                !link.outbox.is_empty() || link.is_held
            })
    }

    fn arrived(&self, shard: usize) -> bool {
        let now_ms = self.now_ms();
        (0..self.shards.len()).any(|from| {
            let letters = &self.links[from * self.shards.len() + shard].letters;
            letters.front().is_some_and(|letter| letter.arrives_ms <= now_ms)
        })
    }

    /// One turn of a shard, as its driver has it.
    fn turn(&mut self, shard: usize) -> Result<(), Fault> {
        self.empty_inbox(shard)?;
        self.serve_sockets(shard)?;
        self.accept(shard);
        self.tick(shard)?;
        self.deliver(shard)?;
        self.send_mail(shard)?;
        let record = &self.shards[shard];
        counters::check(shard, &record.metrics, record.open, &self.model)?;
        let sockets = record.core.len() as u64;
        memory::check_pending(record.metrics.queued_bytes.get(), sockets, self.plan.config.send_queue as u64)?;
        Ok(())
    }

    fn empty_inbox(&mut self, shard: usize) -> Result<(), Fault> {
        let (shards, now_ms) = (self.shards.len(), self.now_ms());
        let first = self.rng.usize(..shards);
        for offset in 0..shards {
            let from = (first + offset) % shards;
            for _ in 0..self.links[from * shards + shard].letters.len() {
                let letters = &mut self.links[from * shards + shard].letters;
                let Some(letter) = letters.pop_front_if(|letter| letter.arrives_ms <= now_ms) else { break };
                self.steps += 1;
                trace!(self, "shard {shard} takes mail of {from}: {:?}", letter.events);
                self.shards[shard].core.application_mut().receive(self.now, letter.mail);
                for event in letter.events {
                    self.arrive(shard, event);
                }
            }
        }
        Ok(())
    }

    /// An event of the model reaches a shard or its partition.
    fn arrive(&mut self, shard: usize, event: Event) {
        match event {
            Event::Answered { connection, resumed } => {
                let socket = &mut self.sockets[connection as usize];
                if socket.opening_ms.take().is_some() {
                    socket.resumed = Some(resumed);
                }
            }
            Event::Replaced { connection } => self.sockets[connection as usize].is_replaced = true,
            event => {
                self.expect_tidings(shard, &event);
                let mut replies = std::mem::take(&mut self.replies);
                self.model.apply(self.now_ms(), self.now.unix_ms, &event, &mut replies);
                for reply in replies.drain(..) {
                    let (Event::Answered { connection, .. } | Event::Replaced { connection }) = reply else { continue };
                    self.send_event(shard, self.sockets[connection as usize].shard, reply);
                }
                self.replies = replies;
            }
        }
    }

    /// Whoever opens is told whether its session was resumed and which rooms it is in, and whose place it takes is told
    /// so; an end that comes late gives its rooms to who is back.
    fn expect_tidings(&mut self, partition: usize, event: &Event) {
        let shards = self.shards.len();
        let links = &mut self.links[partition * shards..][..shards];
        match event {
            Event::Opened { connection, .. } => {
                links.iter_mut().for_each(|link| link.tidings += 1);
                links[self.sockets[*connection as usize].shard].tidings += 2;
            }
            Event::Ended { .. } => links.iter_mut().for_each(|link| link.tidings += 1),
            _ => {}
        }
    }

    fn send_event(&mut self, from: usize, to: usize, event: Event) {
        if from == to {
            self.arrive(to, event);
        } else {
            self.links[from * self.shards.len() + to].outbox.push(event);
        }
    }

    /// Something happened to a connection on a shard: its user's partition is to know.
    fn tell(&mut self, shard: usize, user: usize, event: Event) {
        trace!(self, "shard {shard}: {event:?}");
        self.send_event(shard, self.model.users[user].partition, event);
    }

    fn serve_sockets(&mut self, shard: usize) -> Result<(), Fault> {
        let mut full = std::mem::take(&mut self.shards[shard].full);
        full.retain(|&socket| {
            let record = &self.sockets[socket as usize];
            record.is_full && !record.closed
        });
        for &socket in &full {
            let record = &mut self.sockets[socket as usize];
            if record.to_client.len() < record.capacity {
                record.is_full = false;
                let connection = record.connection;
                self.step(shard, Input::Writable(connection))?;
            } else {
                self.shards[shard].full.push(socket);
            }
        }
        let readable = std::mem::take(&mut self.shards[shard].readable);
        for &socket in &readable {
            if self.chance(self.plan.faults.late_event) {
                self.shards[shard].readable.push(socket);
                continue;
            }
            self.sockets[socket as usize].is_readable = false;
            let connection = self.sockets[socket as usize].connection;
            if self.chance(self.plan.faults.idle_writable) {
                self.step(shard, Input::Writable(connection))?;
            }
            self.read(shard, connection)?;
        }
        for _ in 0..self.shards[shard].ready.len() {
            let Some(connection) = self.shards[shard].ready.pop_front() else { break };
            self.read(shard, connection)?;
        }
        Ok(())
    }

    /// Reads a connection until it wants no more or nothing is left.
    fn read(&mut self, shard: usize, connection: ConnectionId) -> Result<(), Fault> {
        let mut left = READ_BYTES;
        loop {
            let record = &mut self.shards[shard];
            let Some(&mut socket) = record.core.socket_mut(connection) else { return Ok(()) };
            match record.core.appetite(connection) {
                Appetite::Nothing | Appetite::ProxyHeader => return Ok(()),
                Appetite::Unread => {
                    self.step(shard, Input::Resume(connection))?;
                    self.shards[shard].ready.push_back(connection);
                    return Ok(());
                }
                Appetite::Read => {}
            }
            let is_short = self.chance(self.plan.faults.short_read);
            let peer = &mut self.sockets[socket as usize];
            if peer.in_kernel.is_empty() {
                if matches!(peer.cut, Cut::End | Cut::Reset) && !peer.is_cut_told {
                    peer.is_cut_told = true;
                    let failed = peer.cut == Cut::Reset;
                    self.step(shard, Input::Ended { connection, failed })?;
                }
                return Ok(());
            }
            if left == 0 {
                self.shards[shard].ready.push_back(connection);
                return Ok(());
            }
            let mut count = peer.in_kernel.len().min(left);
            if is_short {
                count = self.rng.usize(1..=count);
            }
            left -= count;
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            buffer.extend(peer.in_kernel.drain(..count));
            self.steps += 1;
            let done = self.step(shard, Input::Received { connection, bytes: &mut buffer });
            self.buffer = buffer;
            done?;
        }
    }

    fn accept(&mut self, shard: usize) {
        for socket in std::mem::take(&mut self.shards[shard].accepts) {
            let record = &mut self.shards[shard];
            let Ok(connection) =
                record.core.accept(self.now, Ipv4Addr::LOCALHOST.into(), None, |_| Ok::<_, Infallible>(socket));
            let index = connection.index as usize;
            if record.slots.len() <= index {
                record.slots.resize(index + 1, 0);
            }
            record.slots[index] = socket;
            let peer = &mut self.sockets[socket as usize];
            peer.connection = connection;
            peer.is_readable = true;
            record.readable.push(socket);
            self.steps += 1;
        }
    }

    fn tick(&mut self, shard: usize) -> Result<(), Fault> {
        let due_ms = self.shards[shard].core.deadline_ms();
        if due_ms.is_some_and(|due_ms| due_ms <= self.now_ms()) || self.chance(self.plan.faults.early_tick) {
            self.steps += 1;
            self.step(shard, Input::Tick)?;
        }
        while let Some(connection) = self.shards[shard].looks.pop() {
            self.step(shard, Input::Writable(connection))?;
            self.read(shard, connection)?;
            self.step(shard, Input::Looked(connection))?;
        }
        Ok(())
    }

    fn deliver(&mut self, shard: usize) -> Result<(), Fault> {
        let per_step = DELIVERIES_PER_STEP.min(self.plan.deliveries);
        for _ in 0..self.plan.deliveries.div_ceil(per_step) {
            let wants_more = self.shards[shard].core.deliver(self.now, per_step);
            self.act(shard)?;
            if !wants_more {
                break;
            }
        }
        Ok(())
    }

    fn send_mail(&mut self, shard: usize) -> Result<(), Fault> {
        let shards = self.shards.len();
        self.shards[shard].core.application_mut().gather_mail();
        for to in 0..shards {
            let waiting: usize = (0..shards).map(|from| self.links[from * shards + to].letters.len()).sum();
            let is_full = waiting >= self.plan.inbox_capacity || self.chance(self.plan.faults.full_inbox);
            let is_refused = self.chance(self.plan.faults.refused_mail);
            let delay_ms = if self.is_wild { self.rng.u64(..=self.plan.faults.mail_delay_ms) } else { 0 };
            let arrives_ms = self.now_ms() + delay_ms;
            let application = self.shards[shard].core.application_mut();
            let link = &mut self.links[shard * shards + to];
            if is_full {
                application.hold_mail(to);
                link.is_held = true;
                if self.rounds.is_multiple_of(OUTBOXES_CHECKED_ROUNDS) {
                    self.check_outbox(shard, to)?;
                }
                continue;
            }
            let Some(mail) = application.take_mail(to) else {
                link.is_held = false;
                if !link.outbox.is_empty() {
                    return Err(Fault(format!("mail for shard {to} is lost: {:?}", link.outbox)));
                }
                continue;
            };
            if is_refused {
                application.return_mail(to, mail);
                link.is_held = true;
                continue;
            }
            link.tidings = 0;
            let mut events = std::mem::take(&mut link.outbox);
            if std::mem::take(&mut link.is_held) {
                events = fold(events);
            }
            let before_ms = link.letters.back().map_or(0, |letter| letter.arrives_ms);
            link.letters.push_back(Letter { arrives_ms: arrives_ms.max(before_ms), mail, events });
        }
        Ok(())
    }

    fn check_outbox(&mut self, from: usize, to: usize) -> Result<(), Fault> {
        let shards = self.shards.len();
        let link = &self.links[from * shards + to];
        let told = fold(link.outbox.clone());
        let told = told.iter().filter(|event| !matches!(event, Event::Answered { .. } | Event::Replaced { .. }));
        let world = outbox::World {
            users: self.model.users.iter().filter(|user| user.partition == from).count(),
            rooms: self.room_partitions.iter().filter(|&&partition| partition == from).count(),
            all_users: self.plan.users,
            all_rooms: self.plan.rooms,
            connections: told.map(Event::connection).collect::<HashSet<_>>().len(),
            tidings: link.tidings,
        };
        let exchange = self.shards[from].core.application_mut().inner.exchange();
        outbox::check(exchange.waiting(to), &world).map_err(|error| format!("from shard {from} to {to}: {error}"))?;
        Ok(())
    }

    fn step(&mut self, shard: usize, input: Input<'_>) -> Result<(), Fault> {
        self.shards[shard].core.handle(self.now, input);
        self.observe(shard)?;
        self.act(shard)
    }

    /// Does all that the core wants done.
    fn act(&mut self, shard: usize) -> Result<(), Fault> {
        let Self { shards, sockets, rng, plan, heard, now, is_wild, .. } = self;
        let record = &mut shards[shard];
        while let Some(output) = record.core.poll_output() {
            match output {
                Output::Write { connection, socket, bytes, .. } => {
                    let number = *socket;
                    let peer = &mut sockets[number as usize];
                    if peer.closed || peer.told_end {
                        return Err(Fault(format!("{} bytes are written after the end to {peer:?}", bytes.len())));
                    }
                    if peer.cut == Cut::Reset {
                        peer.is_cut_told = true;
                        record.core.sent(*now, connection, 0);
                        record.core.handle(*now, Input::Ended { connection, failed: true });
                        continue;
                    }
                    let room = peer.capacity.saturating_sub(peer.to_client.len());
                    let mut taken = bytes.len().min(room);
                    if *is_wild && plan.faults.short_write > 0 && rng.u32(..1_000) < plan.faults.short_write {
                        taken = rng.usize(..=taken);
                    }
                    // Who has gone reads nothing, and what is sent there is nobody's.
                    if peer.cut != Cut::End {
                        peer.to_client.extend_from_slice(&bytes[..taken]);
                    }
                    if peer.cut == Cut::None && taken > 0 && !std::mem::replace(&mut peer.is_heard, true) {
                        heard.push(number);
                    }
                    if taken > 0 {
                        peer.taken_ms = now.elapsed_ms();
                    }
                    if taken < bytes.len() && !std::mem::replace(&mut peer.is_full, true) {
                        record.full.push(number);
                    }
                    record.core.sent(*now, connection, taken);
                }
                Output::ShutdownWrite(socket) => {
                    let number = *socket;
                    let peer = &mut sockets[number as usize];
                    peer.told_end = true;
                    if peer.cut == Cut::None && !std::mem::replace(&mut peer.is_heard, true) {
                        heard.push(number);
                    }
                }
                Output::Close(socket) => {
                    let peer = &mut sockets[socket as usize];
                    peer.closed = true;
                    peer.in_kernel = Vec::new();
                    peer.said = VecDeque::new();
                    if peer.cut == Cut::None && !std::mem::replace(&mut peer.is_heard, true) {
                        heard.push(socket);
                    }
                }
                Output::Look(connection) => record.looks.push(connection),
                Output::Ready(connection) => record.ready.push_back(connection),
                Output::Plain { .. } => return Err(Fault("a plain request came out of nowhere".into())),
            }
        }
        self.observe(shard)
    }

    /// Tells the model what the application was told.
    fn observe(&mut self, shard: usize) -> Result<(), Fault> {
        let mut seen = std::mem::take(&mut self.shards[shard].core.application_mut().seen);
        for seen in seen.drain(..) {
            match seen {
                Seen::Opened(connection) => self.opened(shard, connection),
                Seen::Message(connection, is_refused) => self.said(shard, connection, is_refused)?,
                Seen::Ended(connection, ending) => self.ended(shard, connection, ending)?,
                Seen::Ticked => self.ticked(shard),
            }
        }
        self.shards[shard].core.application_mut().seen = seen;
        Ok(())
    }

    fn opened(&mut self, shard: usize, connection: ConnectionId) {
        let socket = self.shards[shard].slots[connection.index as usize];
        self.shards[shard].open += 1;
        let now_ms = self.now_ms();
        let record = &mut self.sockets[socket as usize];
        record.is_open = true;
        record.message_ms = now_ms;
        let (user, (status, predecessor)) = (record.user, record.hello);
        if matches!(predecessor, Predecessor::Session(_)) {
            record.opening_ms = Some(now_ms);
            self.shards[shard].openings.push(socket);
        }
        self.tell(shard, user, Event::Opened { connection: socket, user, status, predecessor, opened_ms: now_ms });
    }

    fn said(&mut self, shard: usize, connection: ConnectionId, is_refused: bool) -> Result<(), Fault> {
        let socket = self.shards[shard].slots[connection.index as usize];
        let record = &mut self.sockets[socket as usize];
        let user = record.user;
        let Some(said) = record.said.pop_front() else {
            return Err(Fault(format!("socket {socket} was heard to say what it did not say")));
        };
        match said {
            Said::Status(status, metadata) => {
                self.tell(shard, user, Event::Updated { connection: socket, user, status, metadata });
            }
            Said::Join(room) if !is_refused => {
                self.tell(shard, user, Event::Joined { connection: socket, user, room });
            }
            Said::Leave(room) => self.tell(shard, user, Event::Left { connection: socket, user, room }),
            Said::Join(_) | Said::Other => {}
        }
        Ok(())
    }

    fn ended(&mut self, shard: usize, connection: ConnectionId, ending: Ending) -> Result<(), Fault> {
        let socket = self.shards[shard].slots[connection.index as usize];
        self.shards[shard].open -= 1;
        let (ended_ms, slack_ms) = (self.now_ms(), self.slack_ms());
        let record = &mut self.sockets[socket as usize];
        record.is_open = false;
        record.opening_ms = None;
        let end = match ending.cause {
            Cause::Asked => End::Asked,
            Cause::Silent => End::Silent,
            Cause::Lost => End::Lost,
        };
        ghosts::end_is_deserved(record, end, ended_ms, slack_ms)?;
        let user = record.user;
        let heard_unix_ms = self.now.unix_ms - (ended_ms - ending.heard_ms);
        self.tell(shard, user, Event::Ended { connection: socket, user, end, heard_unix_ms, ended_ms });
        Ok(())
    }

    fn ticked(&mut self, shard: usize) {
        let now_ms = self.now_ms();
        self.model.tick(now_ms, self.now.unix_ms, shard);
        let mut openings = std::mem::take(&mut self.shards[shard].openings);
        openings.retain(|&socket| {
            let record = &mut self.sockets[socket as usize];
            let Some(opening_ms) = record.opening_ms else { return false };
            if now_ms < opening_ms + RESUME_ANSWER_MS {
                return true;
            }
            record.opening_ms = None;
            record.resumed = Some(false);
            let (user, status) = (record.user, record.hello.0.unwrap_or(rollcall::protocol::status::Status::Online));
            self.tell(shard, user, Event::Abandoned { connection: socket, user, status });
            false
        });
        self.shards[shard].openings = openings;
    }

    /// Clients read what has come for them.
    fn hear(&mut self) -> Result<(), Fault> {
        let mut heard = std::mem::take(&mut self.heard);
        for &socket in &heard {
            let is_lazy = self.chance(self.plan.faults.lazy_read);
            let peer = &mut self.sockets[socket as usize];
            let number = peer.client;
            let client = &mut self.clients[number];
            if peer.cut != Cut::None || client.socket != socket {
                peer.to_client = Vec::new();
                peer.is_heard = false;
                continue;
            }
            let mut count = peer.to_client.len();
            if self.is_wild && client.is_slow {
                count = if self.rng.u8(..8) == 0 { count.min(self.rng.usize(1..600)) } else { 0 };
            } else if is_lazy {
                count = self.rng.usize(..=count);
            }
            if count > 0 {
                self.steps += 1;
                client.buffer.extend(peer.to_client.drain(..count));
                client.is_replaced = peer.is_replaced;
                let was_opening = client.stage == Stage::Opening;
                let (trace, at) = (&mut self.trace, self.now.elapsed_ms());
                let understood = client.listen(&self.model, &self.names, |payload| {
                    if let Some(trace) = trace {
                        let payload = String::from_utf8_lossy(payload);
                        trace.push_back(format!("{at:>9} ms  client {number} hears {payload}"));
                    }
                });
                understood
                    .map_err(|error| format!("client {number} of user {} on socket {socket}: {error}", client.user))?;
                if was_opening && client.stage != Stage::Opening {
                    resume::check(client, peer).map_err(|error| format!("client {number}: {error}"))?;
                    self.begin_conversation(number);
                }
            }
            let (peer, client) = (&mut self.sockets[socket as usize], &mut self.clients[number]);
            let is_over = peer.to_client.is_empty() && (peer.told_end || peer.closed);
            if peer.to_client.is_empty() && !is_over {
                peer.is_heard = false;
            } else if is_over {
                peer.is_heard = false;
                if client.close_heard.is_none() && peer.wish == Wish::Stay && !peer.is_replaced {
                    return Err(Fault(format!("client {number} was dropped without a word: {peer:?}")));
                }
                self.depart(number);
            } else {
                self.heard.push(socket);
            }
        }
        heard.clear();
        heard.append(&mut self.heard);
        self.heard = heard;
        Ok(())
    }

    /// A socket has something for its shard.
    pub fn rouse(&mut self, socket: Connection) {
        let peer = &mut self.sockets[socket as usize];
        // Who was not accepted yet is read when it is.
        if !std::mem::replace(&mut peer.is_readable, true) {
            self.shards[peer.shard].readable.push(socket);
        }
    }

    /// A client opens a socket, from which `bytes` come first.
    pub fn open_socket(
        &mut self,
        client: usize,
        shard: usize,
        hello: (Option<rollcall::protocol::status::Status>, Predecessor),
        silence_ms: u64,
        bytes: Vec<u8>,
    ) -> Connection {
        let number = self.sockets.len() as Connection;
        let now_ms = self.now_ms();
        self.sockets.push(Socket {
            shard,
            client,
            user: self.clients[client].user,
            connection: ConnectionId { index: u32::MAX, generation: 0 },
            in_kernel: bytes,
            to_client: Vec::new(),
            capacity: self.plan.socket_bytes,
            cut: Cut::None,
            is_cut_told: false,
            told_end: false,
            closed: false,
            is_full: false,
            is_readable: true,
            is_heard: false,
            said: VecDeque::new(),
            taken_ms: now_ms,
            byte_ms: now_ms,
            message_ms: now_ms,
            late_ms: None,
            silence_ms,
            wish: Wish::Stay,
            is_open: false,
            is_replaced: false,
            hello,
            opening_ms: None,
            resumed: None,
        });
        self.shards[shard].accepts.push(number);
        number
    }

    /// The server's peer has vanished; it must be found out.
    pub fn mourn(&mut self, socket: Connection) {
        self.vanished.push(socket);
    }
}

impl Shard {
    fn has_socket_work(&self) -> bool {
        !self.accepts.is_empty() || !self.readable.is_empty() || !self.ready.is_empty()
    }
}

fn config_remembers(plan: &Plan) -> bool {
    plan.config.last_seen_capacity > 0
}
