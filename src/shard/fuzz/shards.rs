//! Several shards on virtual drivers, and the mail between them, which comes when and as a script says.

use std::collections::VecDeque;
use std::sync::Arc;

use super::sessions_of;
use crate::config::Config;
use crate::metrics::ShardMetrics;
use crate::presence::bounds::Bounds;
use crate::presence::change::NameHasher;
use crate::shard::core::{Application, Limits};
use crate::shard::exchange::Mail;
use crate::shard::sessions::Sessions;
use crate::shard::virtual_driver::VirtualDriver;

/// Letters that an inbox has room for while nobody empties it.
const INBOX_LETTERS: usize = 4;

/// Rounds of mail, or steps without any time between them, after which all should have come to rest.
const ROUNDS_MAX: u32 = 1_000;

/// How mail gets from one shard to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// At once.
    Open,
    /// It lies in the inbox until it is carried.
    Slow,
    /// The inbox says that it has no room.
    Full,
    /// The inbox says that it has room, and has none.
    Refusing,
}

impl Way {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Open, Self::Slow, Self::Full, Self::Refusing];
}

/// From one shard to another.
struct Link {
    way: Way,
    letters: VecDeque<Mail>,
}

/// See the module.
pub struct Shards {
    /// The shards; all have the same time.
    pub drivers: Vec<VirtualDriver<Sessions>>,
    metrics: Vec<Arc<ShardMetrics>>,
    /// By sender, then by receiver.
    links: Vec<Link>,
}

impl Shards {
    /// So many shards; `names` says which of them a user and a room fall to.
    pub fn new(config: &Config, bounds: Bounds, names: &NameHasher, shards: usize) -> Self {
        let metrics: Vec<_> = (0..shards).map(|_| Arc::new(ShardMetrics::default())).collect();
        let driver = |(shard, metrics): (usize, &Arc<ShardMetrics>)| {
            let sessions = sessions_of(shard, shards, names, config, bounds, metrics);
            VirtualDriver::new(sessions, Limits::new(config), Arc::clone(metrics))
        };
        let drivers = metrics.iter().enumerate().map(driver).collect();
        let links = (0..shards * shards).map(|_| Link { way: Way::Open, letters: VecDeque::new() }).collect();
        Self { drivers, metrics, links }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.drivers.len()
    }

    /// Mail from one shard to another goes this way from now on.
    pub fn set_way(&mut self, from: usize, to: usize, way: Way) {
        let link = from * self.len() + to;
        self.links[link].way = way;
        self.settle();
    }

    /// All mail goes at once from now on.
    pub fn open_every_way(&mut self) {
        for link in &mut self.links {
            link.way = Way::Open;
        }
        self.settle();
    }

    /// Brings the letter that has lain in an inbox for the longest.
    pub fn carry(&mut self, from: usize, to: usize) {
        let link = from * self.len() + to;
        if let Some(mail) = self.links[link].letters.pop_front() {
            self.receive(to, mail);
            self.settle();
        }
    }

    /// Time passes, with all that is due on the way.
    pub fn pass(&mut self, ms: u64) {
        let end_ms = self.now_ms() + ms;
        // What waits for an inbox is due at once, again and again.
        let is_open = self.links.iter().all(|link| link.way == Way::Open);
        let least_ms = if is_open { 0 } else { ms / 64 + 1 };
        let mut still = 0;
        loop {
            let due_ms = self.drivers.iter().filter_map(|driver| driver.core.deadline_ms()).min();
            let due_ms = due_ms.unwrap_or(u64::MAX).max(self.now_ms() + least_ms);
            if due_ms > end_ms {
                return self.stop(end_ms - self.now_ms());
            }
            still = if due_ms > self.now_ms() { 0 } else { still + 1 };
            assert!(still < ROUNDS_MAX, "what is due at once gets done");
            self.stop(due_ms - self.now_ms());
        }
    }

    /// Time passes at once, as when the process was stopped.
    pub fn stop(&mut self, ms: u64) {
        for driver in &mut self.drivers {
            driver.jump(ms);
        }
        self.settle();
    }

    /// Sends the mail that the last step made, and does what comes of it.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            for shard in 0..self.len() {
                self.send_mail(shard);
            }
            if !self.bring_mail() {
                return;
            }
        }
        unreachable!("mail makes mail without an end");
    }

    /// Nothing is left: nobody, no byte that waits, nothing that is due.
    pub fn assert_nothing_left(&mut self) {
        assert!(self.links.iter().all(|link| link.letters.is_empty()));
        for (driver, metrics) in self.drivers.iter_mut().zip(&self.metrics) {
            assert!(driver.core.is_empty() && driver.core.application_mut().is_empty(), "somebody is left");
            assert_eq!(driver.core.deadline_ms(), None);
            let gauges = [
                &metrics.connections_current,
                &metrics.users_current,
                &metrics.sockets_current,
                &metrics.watchers_current,
                &metrics.watched_users_current,
                &metrics.rooms_current,
                &metrics.room_members_current,
                &metrics.queued_bytes,
            ];
            assert_eq!(gauges.map(|gauge| gauge.get()), [0; 8]);
            assert_eq!(metrics.panics_total.get(), 0);
        }
    }

    /// What time it is, in milliseconds since the shards began.
    pub fn now_ms(&self) -> u64 {
        self.drivers[0].now.elapsed_ms()
    }

    fn send_mail(&mut self, from: usize) {
        let shards = self.len();
        let sender = self.drivers[from].core.application_mut();
        sender.gather_mail();
        for to in (0..shards).filter(|&to| to != from) {
            let link = &mut self.links[from * shards + to];
            if link.way == Way::Full || link.letters.len() >= INBOX_LETTERS {
                sender.hold_mail(to);
            } else if let Some(mail) = sender.take_mail(to) {
                if link.way == Way::Refusing {
                    sender.return_mail(to, mail);
                } else {
                    link.letters.push_back(mail);
                }
            }
        }
    }

    /// Brings the mail whose way is open; true where there was any.
    fn bring_mail(&mut self) -> bool {
        let mut is_any = false;
        for link in 0..self.links.len() {
            while self.links[link].way == Way::Open
                && let Some(mail) = self.links[link].letters.pop_front()
            {
                is_any = true;
                self.receive(link % self.len(), mail);
            }
        }
        is_any
    }

    fn receive(&mut self, shard: usize, mail: Mail) {
        let driver = &mut self.drivers[shard];
        let now = driver.now;
        driver.core.application_mut().receive(now, mail);
        driver.jump(0);
    }
}
