//! One thread of the load: its own poll, descriptor table, connections and pace.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use core_affinity::CoreId;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::cli::{Mode, Settings};
use super::connection::{Connection, Context, End, Tally, Window};
use super::failure::Failure;
use super::measure;
use super::pace::{ChangePace, ConnectPace, HeartbeatPace};
use crate::sys;

const EVENTS: usize = 1024;
const READ_BYTES: usize = 64 * 1024;
/// Connects, heartbeats and changes that one turn sends at most before it looks at what came.
const TURN_CONNECTS: usize = 64;
const TURN_HEARTBEATS: usize = 256;
const TURN_CHANGES: usize = 256;
/// Events and sends between two looks at the clock: some 20 µs of work, at 25 ns a look.
const CLOCK_EVERY: usize = 8;
/// How long a thread sleeps at most before it looks whether the run goes on.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// How often connections are searched for those that wait too long.
const SWEEP_EVERY_NS: u64 = 1_000_000_000;
/// How long the connections' ends may take after the run.
const CLOSE_NS_MAX: u64 = 5_000_000_000;
/// How long nothing must have been seen before all has been that will be: longer than any server gathers changes.
const SEEN_QUIET_NS: u64 = 1_500_000_000;
const TIMER: Token = Token(usize::MAX);

/// What one thread shows while it runs: it alone writes, the run's thread reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Cells {
    /// Its thread id, 0 until it runs.
    pub thread_id: AtomicU64,
    /// Each of its connections opened or failed; the run may start.
    pub ready: AtomicBool,
    /// As [`Tally::opened`].
    pub opened: AtomicU64,
    /// As [`Tally::open`].
    pub open: AtomicU64,
    /// As [`Tally::answered`].
    pub answered: AtomicU64,
    /// As [`Sight::deliveries`](super::watch::Sight::deliveries).
    pub deliveries: AtomicU64,
    /// As [`Sight::presences`](super::watch::Sight::presences).
    pub presences: AtomicU64,
    /// As [`Sight::bytes`](super::watch::Sight::bytes).
    pub seen_bytes: AtomicU64,
    /// Failures of all kinds.
    pub failures: AtomicU64,
}

/// What the run's thread and all workers share.
#[derive(Debug)]
pub struct Run {
    epoch: Instant,
    start_ns: AtomicU64,
    from_ns: AtomicU64,
    until_ns: AtomicU64,
    /// One for each worker.
    pub cells: Vec<Cells>,
}

impl Run {
    /// A run of `threads` workers that has not begun.
    pub fn new(threads: usize) -> Self {
        Self {
            epoch: Instant::now(),
            start_ns: AtomicU64::new(u64::MAX),
            from_ns: AtomicU64::new(u64::MAX),
            until_ns: AtomicU64::new(u64::MAX),
            cells: (0..threads).map(|_| Cells::default()).collect(),
        }
    }

    /// Nanoseconds since the run's epoch.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Lets the load begin.
    pub fn begin(&self, window: Window) {
        self.from_ns.store(window.from_ns, Relaxed);
        self.until_ns.store(window.until_ns, Relaxed);
        self.start_ns.store(window.start_ns, Release);
    }

    /// Ends the load now, whether it has begun or not.
    pub fn end(&self) {
        let now_ns = self.now_ns();
        self.until_ns.fetch_min(now_ns, Relaxed);
    }

    fn window(&self) -> Window {
        // Written last and read first: whoever sees the start sees the rest.
        let start_ns = self.start_ns.load(Acquire);
        Window { start_ns, from_ns: self.from_ns.load(Relaxed), until_ns: self.until_ns.load(Relaxed) }
    }
}

/// Runs worker `number` until the run has ended and its connections are closed.
pub fn run(number: usize, settings: Arc<Settings>, run: &Run) -> anyhow::Result<Tally> {
    if let Some(&core) = settings.cores.get(number % settings.cores.len().max(1))
        && !core_affinity::set_for_current(CoreId { id: core })
    {
        anyhow::bail!("this process may not run on core {core}; see --pin");
    }
    // Before the first descriptor of its own is made: what is made earlier means something else in the new table.
    if let Err(error) = sys::own_descriptor_table(&[]) {
        super::check_descriptors(settings.connections, 1)
            .with_context(|| format!("no thread can have a descriptor table of its own here ({error})"))?;
    }
    let mut worker = Worker::new(number, settings, run)?;
    run.cells[number].thread_id.store(measure::own_thread_id()?, Relaxed);
    while worker.turn()? {}
    Ok(worker.context.tally)
}

/// What a worker is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its connections are being opened.
    Connecting,
    /// All are; the other threads' may not be.
    Ready,
    /// Heartbeats are sent.
    Running,
    /// The last answers are waited for.
    Draining { deadline_ns: u64 },
    /// The connections' ends are waited for.
    Closing { deadline_ns: u64 },
}

struct Worker<'a> {
    run: &'a Run,
    number: usize,
    context: Context,
    stage: Stage,
    poll: Poll,
    events: Events,
    timer: sys::Timer,
    /// What the timer is set to; 0 where it is not.
    timer_ns: u64,
    buffer: Vec<u8>,
    slots: Vec<Option<Connection>>,
    /// Slots to connect, the next one last.
    free: Vec<usize>,
    connect_pace: ConnectPace,
    connects: u64,
    /// Open loop: the slots in the order of their turns.
    order: Vec<usize>,
    heartbeats: u64,
    /// Watch: the slots of those that change.
    changers: Vec<usize>,
    change_pace: ChangePace,
    changes: u64,
    swept_ns: u64,
}

impl<'a> Worker<'a> {
    fn new(number: usize, settings: Arc<Settings>, run: &'a Run) -> anyhow::Result<Self> {
        let threads = settings.threads;
        let share = (settings.connections + threads - 1 - number) / threads;
        let poll = Poll::new().context("no poll could be made")?;
        let timer = sys::Timer::new().context("no timer could be made")?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let now_ns = run.now_ns();
        let mut context = Context::new(Arc::clone(&settings))?;
        context.now_ns = now_ns;
        let stage = if settings.mode == Mode::Churn { Stage::Ready } else { Stage::Connecting };
        run.cells[number].ready.store(stage == Stage::Ready, Relaxed);
        Ok(Self {
            run,
            number,
            context,
            stage,
            poll,
            events: Events::with_capacity(EVENTS),
            timer,
            timer_ns: 0,
            buffer: vec![0; READ_BYTES],
            slots: (0..share).map(|_| None).collect(),
            free: (0..share).rev().collect(),
            connect_pace: ConnectPace::new(now_ns, settings.connect_rate, number, threads),
            connects: 0,
            order: Vec::new(),
            heartbeats: 0,
            changers: Vec::new(),
            change_pace: ChangePace::new(u64::MAX, 0, 1, 0, 1),
            changes: 0,
            swept_ns: now_ns,
        })
    }

    /// Does what is due, waits, handles what came. False once all is done.
    fn turn(&mut self) -> anyhow::Result<bool> {
        self.look_at_clock();
        self.context.window = self.run.window();
        self.advance();
        if self.stage == Stage::Running && matches!(self.context.settings.mode, Mode::Open | Mode::Watch) {
            self.send_due();
            self.change_due();
        }
        if self.connects_now() {
            self.connect_due();
        }
        if matches!(self.stage, Stage::Closing { .. }) && self.slots.iter().all(Option::is_none) {
            return Ok(false);
        }
        let timeout = self.timeout()?;
        self.wait(timeout)?;
        if self.context.now_ns.saturating_sub(self.swept_ns) >= SWEEP_EVERY_NS {
            self.sweep();
        }
        self.publish();
        Ok(true)
    }

    fn look_at_clock(&mut self) {
        self.context.now_ns = self.run.now_ns();
    }

    /// Goes on to the next stage if the time has come.
    fn advance(&mut self) {
        let Window { start_ns, until_ns, .. } = self.context.window;
        let now_ns = self.context.now_ns;
        match self.stage {
            Stage::Connecting if self.free.is_empty() && self.context.tally.in_flight == 0 => {
                self.stage = Stage::Ready;
                self.run.cells[self.number].ready.store(true, Relaxed);
            }
            Stage::Connecting | Stage::Ready if until_ns <= now_ns => self.drain(),
            Stage::Ready if start_ns <= now_ns => self.start(),
            Stage::Running if until_ns <= now_ns && self.nothing_due() => self.drain(),
            Stage::Draining { deadline_ns } if self.is_drained() || deadline_ns <= now_ns => {
                self.close_all();
            }
            Stage::Closing { deadline_ns } if deadline_ns <= now_ns => {
                for slot in 0..self.slots.len() {
                    self.finish(slot, End::Orderly);
                }
            }
            _ => {}
        }
    }

    fn start(&mut self) {
        let Window { start_ns, .. } = self.context.window;
        let settings = Arc::clone(&self.context.settings);
        self.stage = Stage::Running;
        match settings.mode {
            Mode::Idle => {}
            Mode::Churn => {
                self.connect_pace = ConnectPace::new(start_ns, settings.connect_rate, self.number, settings.threads);
            }
            Mode::Open | Mode::Watch => {
                self.order = self.open_slots();
                for (position, &slot) in self.order.iter().enumerate() {
                    if let Some(connection) = &mut self.slots[slot] {
                        connection.set_position(u32::try_from(position).unwrap_or(u32::MAX));
                    }
                }
                let interval_ns = u64::try_from(settings.interval.as_nanos()).unwrap_or(u64::MAX);
                let (count, threads) = (self.order.len(), settings.threads);
                self.context.pace = HeartbeatPace::new(start_ns, interval_ns, count, self.number, threads);
                if settings.mode == Mode::Watch {
                    self.begin_changes();
                }
            }
            Mode::Closed => {
                for (count, slot) in self.open_slots().into_iter().enumerate() {
                    if count % CLOCK_EVERY == 0 {
                        self.look_at_clock();
                    }
                    self.send_heartbeat(slot);
                }
            }
        }
    }

    fn begin_changes(&mut self) {
        let watch = self.context.settings.watch;
        let threads = self.context.settings.threads;
        let changes = |slot: &usize| slot * threads + self.number < watch.changers;
        self.changers = self.order.iter().copied().filter(changes).collect();
        let threads = threads.min(watch.changers);
        let start_ns = self.context.window.start_ns;
        self.change_pace = ChangePace::new(start_ns, watch.change_rate, watch.burst, self.number, threads);
    }

    /// When the next change is due, if one of this run is.
    fn change_due_ns(&self) -> Option<u64> {
        if self.changers.is_empty() {
            return None;
        }
        self.change_pace.due_ns(self.changes).filter(|&due_ns| due_ns < self.context.window.until_ns)
    }

    fn change_due(&mut self) {
        for count in 1..=TURN_CHANGES {
            if self.change_due_ns().is_none_or(|due_ns| due_ns > self.context.now_ns) {
                return;
            }
            let (turn, place) = (self.changes / self.changers.len() as u64, self.changes % self.changers.len() as u64);
            let slot = self.changers[place as usize];
            let number = u32::try_from(self.change_pace.overall(self.changes)).unwrap_or(u32::MAX);
            self.changes += 1;
            let Some(connection) = self.slots[slot].as_mut().filter(|connection| connection.is_open()) else {
                continue;
            };
            if let Err(end) = connection.send_change(number, turn, &mut self.context) {
                self.finish(slot, end);
            }
            if count % CLOCK_EVERY == 0 {
                self.look_at_clock();
            }
        }
    }

    fn open_slots(&self) -> Vec<usize> {
        let is_open = |slot: &usize| self.slots[*slot].as_ref().is_some_and(Connection::is_open);
        (0..self.slots.len()).filter(is_open).collect()
    }

    /// When the open loop's next heartbeat is due, if it is one of this run.
    fn heartbeat_due_ns(&self) -> Option<u64> {
        if self.order.is_empty() || self.context.tally.open == 0 {
            return None;
        }
        Some(self.context.pace.due_ns(self.heartbeats)).filter(|&due_ns| due_ns < self.context.window.until_ns)
    }

    fn nothing_due(&self) -> bool {
        self.heartbeat_due_ns().is_none() && self.change_due_ns().is_none()
    }

    fn send_due(&mut self) {
        for count in 1..=TURN_HEARTBEATS {
            let Some(due_ns) = self.heartbeat_due_ns().filter(|&due_ns| due_ns <= self.context.now_ns) else {
                return;
            };
            let slot = self.order[self.context.pace.position(self.heartbeats)];
            self.heartbeats += 1;
            if due_ns >= self.context.window.from_ns {
                self.context.tally.lag.saturating_record(self.context.now_ns - due_ns);
            }
            self.send_heartbeat(slot);
            if count % CLOCK_EVERY == 0 {
                self.look_at_clock();
            }
        }
    }

    fn send_heartbeat(&mut self, slot: usize) {
        let Some(connection) = self.slots[slot].as_mut().filter(|connection| connection.is_open()) else {
            return;
        };
        if let Err(end) = connection.send_heartbeat(&mut self.context) {
            self.finish(slot, end);
        }
    }

    fn connects_now(&self) -> bool {
        match self.stage {
            Stage::Connecting => true,
            Stage::Running => self.context.settings.mode == Mode::Churn,
            _ => false,
        }
    }

    /// When the next connect is due, if one may begin.
    fn connect_due_ns(&self) -> Option<u64> {
        let settings = &self.context.settings;
        let in_flight_max = (settings.connects_in_flight / settings.threads).max(1) as u64;
        let may = self.connects_now() && !self.free.is_empty() && self.context.tally.in_flight < in_flight_max;
        may.then(|| self.connect_pace.due_ns(self.connects))
    }

    fn connect_due(&mut self) {
        for _ in 0..TURN_CONNECTS {
            if self.connect_due_ns().is_none_or(|due_ns| due_ns > self.context.now_ns) {
                return;
            }
            let Some(slot) = self.free.pop() else {
                return;
            };
            self.connects += 1;
            self.look_at_clock();
            if let Err(error) = self.connect(slot) {
                self.finish(slot, End::Connect(error));
            }
        }
    }

    fn connect(&mut self, slot: usize) -> io::Result<()> {
        let index = slot * self.context.settings.threads + self.number;
        let connection = self.slots[slot].insert(Connection::connect(index, &mut self.context)?);
        self.poll.registry().register(connection.source(), Token(slot), Interest::READABLE | Interest::WRITABLE)
    }

    fn timeout(&mut self) -> io::Result<Duration> {
        let due_ns = match self.stage {
            Stage::Running if matches!(self.context.settings.mode, Mode::Open | Mode::Watch) => {
                [self.heartbeat_due_ns(), self.change_due_ns()].into_iter().flatten().min()
            }
            _ => self.connect_due_ns(),
        };
        let Some(due_ns) = due_ns else {
            return Ok(SLEEP_MAX);
        };
        let left = Duration::from_nanos(due_ns.saturating_sub(self.context.now_ns));
        if left < SLEEP_MAX && !left.is_zero() && self.timer_ns != due_ns {
            self.timer.set(left)?;
            self.timer_ns = due_ns;
        }
        Ok(if left.is_zero() { Duration::ZERO } else { SLEEP_MAX })
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        if let Err(error) = self.poll.poll(&mut self.events, Some(timeout)) {
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        // Out of `self` while connections end, which changes it.
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for (count, event) in events.iter().enumerate() {
            if count % CLOCK_EVERY == 0 {
                self.look_at_clock();
            }
            let Some(Some(connection)) = self.slots.get_mut(event.token().0) else {
                continue;
            };
            if let Err(end) = connection.ready(event, &mut self.buffer, &mut self.context) {
                self.finish(event.token().0, end);
            }
        }
        self.events = events;
        Ok(())
    }

    /// Ends what waits too long for its handshake or its end.
    fn sweep(&mut self) {
        self.swept_ns = self.context.now_ns;
        for slot in 0..self.slots.len() {
            let Some(failure) = self.slots[slot].as_ref().and_then(|connection| connection.overdue(&self.context))
            else {
                continue;
            };
            // After the run nobody waits for it, and a server that closed by itself has been counted.
            let harmless = failure == Failure::CloseTimeout && !self.connects_now();
            self.finish(slot, if harmless { End::Orderly } else { End::Failed(failure) });
        }
    }

    fn finish(&mut self, slot: usize, end: End) {
        if let Some(mut connection) = self.slots[slot].take() {
            connection.leave(&mut self.context);
        }
        match end {
            End::Orderly => {}
            End::Connect(error) => self.context.tally.failures.add_connect(&error),
            End::Failed(failure) => self.context.tally.failures.add(failure, 1),
        }
        if self.context.settings.mode == Mode::Churn {
            self.free.push(slot);
        }
    }

    fn drain(&mut self) {
        let wait_ns = u64::try_from(self.context.settings.answer_timeout.as_nanos()).unwrap_or(u64::MAX);
        self.stage = Stage::Draining { deadline_ns: self.context.now_ns.saturating_add(wait_ns) };
        let seen_ns = &mut self.context.tally.sight.seen_ns;
        *seen_ns = self.context.now_ns.max(*seen_ns);
    }

    fn is_drained(&self) -> bool {
        let Tally { outstanding, in_flight, sight, .. } = &self.context.tally;
        let all_seen = self.context.settings.mode != Mode::Watch
            || self.context.now_ns.saturating_sub(sight.seen_ns) >= SEEN_QUIET_NS;
        *outstanding == 0 && *in_flight == 0 && all_seen
    }

    fn close_all(&mut self) {
        let unanswered = self.context.tally.outstanding;
        self.context.tally.failures.add(Failure::Unanswered, unanswered);
        self.stage = Stage::Closing { deadline_ns: self.context.now_ns.saturating_add(CLOSE_NS_MAX) };
        for slot in 0..self.slots.len() {
            let Some(connection) = self.slots[slot].as_mut().filter(|connection| !connection.is_closing()) else {
                continue;
            };
            if connection.is_open() && self.context.settings.mode == Mode::Watch {
                self.context.tally.sight.expect(&self.context.topology, connection.index());
            }
            if let Err(end) = connection.close(&mut self.context) {
                self.finish(slot, end);
            }
        }
    }

    fn publish(&self) {
        let (cells, tally) = (&self.run.cells[self.number], &self.context.tally);
        cells.opened.store(tally.opened, Relaxed);
        cells.open.store(tally.open, Relaxed);
        cells.answered.store(tally.answered, Relaxed);
        cells.deliveries.store(tally.sight.deliveries, Relaxed);
        cells.presences.store(tally.sight.presences, Relaxed);
        cells.seen_bytes.store(tally.sight.bytes, Relaxed);
        cells.failures.store(tally.failures.total(), Relaxed);
    }
}
