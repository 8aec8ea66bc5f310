//! Who is let in at one shard, and what each connection that was let in may do.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::core::{Admission, Close};
use super::{ConnectionId, Now};
use crate::auth::authority::Authority;
use crate::auth::credentials;
use crate::auth::key_ring::KeyView;
use crate::auth::service::{Answer, Question};
use crate::auth::{Grant, Reach, RoomAccess};
use crate::config::AuthRefusal;
use crate::metrics::ShardMetrics;
use crate::protocol::close::CloseCode;
use crate::protocol::denial::Denial;
use crate::protocol::error::Refusal;
use crate::protocol::handshake::{Refused, Upgrade};
use crate::protocol::message::{ClientMessage, Detail};
use crate::protocol::query::{InvalidQuery, Query};
use crate::protocol::room_name::RoomName;
use crate::slab::Companion;

/// Wakes a shard, from any thread. Does not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// What is kept of a connection that has to be, or was, authenticated.
#[derive(Debug)]
enum Access {
    /// AUTH has not come.
    Awaited {
        /// Until then it must have come, in milliseconds since the shard began.
        until_ms: u64,
        /// The query of its request.
        query: Box<str>,
    },
    /// The connection is somebody's.
    Granted {
        /// When that ends, likewise; `None` never.
        until_ms: Option<u64>,
        /// Whom it may see.
        reach: Option<Box<Reach>>,
    },
}

impl Access {
    /// Bytes that it holds beside itself.
    fn extra_bytes(&self) -> usize {
        match self {
            Self::Awaited { query, .. } => query.len(),
            Self::Granted { reach, .. } => reach.as_ref().map_or(0, |reach| reach.held_bytes()),
        }
    }
}

/// How a request that was admitted goes on.
#[derive(Debug)]
pub enum Entry {
    /// As whoever it says it is: nobody asks.
    Unasked,
    /// As this says.
    Granted(Grant),
    /// It is closed, as it was told by `auth_refusal`.
    Denied(Denial),
    /// It is nobody's until AUTH has come.
    AwaitsToken,
}

/// One shard's gate.
pub struct Gate {
    authority: Authority,
    keys: Option<KeyView>,
    /// What `auth_url` answers, as it comes; the other end goes with each question.
    answers: Receiver<(ConnectionId, Answer)>,
    answering: Sender<(ConnectionId, Answer)>,
    wake: Wake,
    /// An answer whose connection is about to be admitted.
    answered: Option<(ConnectionId, Answer)>,
    /// How the connection goes on that was admitted last, until it is opened.
    entry: Entry,
    /// By the index of the connection.
    accesses: Companion<Access>,
    /// Bytes of what accesses hold beside themselves.
    extra_bytes: usize,
    metrics: Arc<ShardMetrics>,
}

impl Gate {
    /// The gate of a shard that `wake` wakes.
    pub fn new(authority: Authority, wake: Wake, metrics: Arc<ShardMetrics>) -> Self {
        let (answering, answers) = unbounded();
        Self {
            keys: authority.keys.clone().map(KeyView::new),
            authority,
            answers,
            answering,
            wake,
            answered: None,
            entry: Entry::Unasked,
            accesses: Companion::default(),
            extra_bytes: 0,
            metrics,
        }
    }

    /// Judges a request to upgrade.
    pub fn admit(&mut self, now: Now, connection: ConnectionId, upgrade: &Upgrade<'_>) -> Admission {
        if let Some((_, answer)) = self.answered.take_if(|(asked, _)| *asked == connection) {
            return self.settle(upgrade, answer.verdict);
        }
        if !self.authority.origins.admit(upgrade.header("origin")) {
            return Admission::Refuse(Refusal::Origin.into());
        }
        if !self.authority.hosts.admit(upgrade.header("host").next()) {
            return Admission::Refuse(Refusal::Host.into());
        }
        if !self.has_authentication() {
            self.entry = Entry::Unasked;
            return Admission::Open;
        }
        match credentials::token(upgrade) {
            Err(denial) => self.deny(denial),
            Ok(Some(token)) if self.keys.is_some() => {
                let verdict = self.verify(now, &token);
                self.settle(upgrade, verdict)
            }
            Ok(_) if self.authority.service.is_some() => self.ask(connection, upgrade),
            Ok(_) if !self.authority.required => {
                // Who leaves the token out sees no more than who has one that grants nothing.
                self.entry = Entry::Granted(Grant::of_nobody(self.authority.terms.default_reach));
                Admission::Open
            }
            Ok(_) if self.authority.message_timeout.is_zero() => self.deny(Denial::Missing),
            Ok(_) => {
                self.entry = Entry::AwaitsToken;
                Admission::Open
            }
        }
    }

    /// Whether a request for this host, as its header says, may read more than whether the server is well.
    pub fn admits_reader(&self, host: Option<&[u8]>) -> bool {
        self.authority.hosts.admit_reader(host)
    }

    /// How the connection goes on that was just admitted.
    pub fn take_entry(&mut self) -> Entry {
        std::mem::replace(&mut self.entry, Entry::Unasked)
    }

    /// A connection whose question has been answered: it is to be admitted now.
    pub fn next_answered(&mut self) -> Option<ConnectionId> {
        let (connection, answer) = self.answers.try_recv().ok()?;
        self.count(&answer);
        self.answered = Some((connection, answer));
        Some(connection)
    }

    /// What the token in AUTH allows.
    ///
    /// # Errors
    /// Why it is not accepted, which is counted.
    pub fn authenticate(&mut self, now: Now, token: &str) -> Result<Grant, Denial> {
        self.verify(now, token).map_err(|denial| self.counted(denial))
    }

    /// Whether tokens are taken at all.
    pub fn takes_tokens(&self) -> bool {
        self.keys.is_some()
    }

    /// Keeps that a connection has to say who it is, by AUTH.
    pub fn await_token(&mut self, now: Now, connection: ConnectionId, query: &str) {
        let timeout_ms = u64::try_from(self.authority.message_timeout.as_millis()).unwrap_or(u64::MAX);
        let until_ms = now.elapsed_ms().saturating_add(timeout_ms);
        self.keep(connection, Access::Awaited { until_ms, query: query.into() });
    }

    /// Keeps what a connection may do; nothing is kept where nobody is asked who they are.
    pub fn grant(&mut self, now: Now, connection: ConnectionId, grant: Option<&mut Grant>) {
        if !self.has_authentication() {
            return;
        }
        let (expires_s, reach) = grant.map_or((None, None), |grant| (grant.expires_s, grant.reach.take()));
        let until_ms = expires_s.map(|expires_s| self.end_ms(now, expires_s));
        self.keep(connection, Access::Granted { until_ms, reach });
    }

    /// Replaces what a connection may do by what a newer token of the same user grants.
    pub fn renew(&mut self, now: Now, connection: ConnectionId, grant: &mut Grant) {
        if let Some(Access::Granted { .. }) = self.accesses.get(connection.index) {
            self.grant(now, connection, Some(grant));
        }
    }

    /// Whom a connection may see; `None` for everybody.
    pub fn reach(&self, connection: ConnectionId) -> Option<&Reach> {
        match self.accesses.get(connection.index) {
            Some(Access::Granted { reach, .. }) => reach.as_deref(),
            _ => None,
        }
    }

    /// Counts a token that is another user's than the connection's.
    pub fn deny_other(&self) -> Denial {
        self.counted(Denial::Subject)
    }

    /// The query of a connection that has not said yet who it is; `None` for all others.
    pub fn awaited(&self, connection: ConnectionId) -> Option<&str> {
        match self.accesses.get(connection.index) {
            Some(Access::Awaited { query, .. }) => Some(query),
            _ => None,
        }
    }

    /// Whether a connection may do what `message` asks for. It hangs on its token alone: a user that may not be seen is
    /// not told apart from one who is offline.
    pub fn allows(&self, connection: ConnectionId, message: &ClientMessage) -> bool {
        let Some(reach) = self.reach(connection) else { return true };
        match message {
            ClientMessage::Watch(watch) => {
                watch.users.iter().all(|user_id| reach.may_watch(user_id.as_str()))
                    && watch.rooms.iter().all(|watched| may_watch_room(reach, &watched.room, watched.detail))
            }
            ClientMessage::Join { room } => may_join(reach, room),
            _ => true,
        }
    }

    /// When [`Gate::due`] is due for a connection.
    pub fn deadline_ms(&self, connection: ConnectionId) -> Option<u64> {
        match self.accesses.get(connection.index)? {
            Access::Awaited { until_ms, .. } => Some(*until_ms),
            Access::Granted { until_ms, .. } => *until_ms,
        }
    }

    /// The close of a connection whose time has come.
    pub fn due(&mut self, now: Now, connection: ConnectionId) -> Option<Close> {
        if self.deadline_ms(connection).is_none_or(|until_ms| now.elapsed_ms() < until_ms) {
            return None;
        }
        let denial = if self.awaited(connection).is_some() { Denial::Late } else { Denial::Expired };
        Some(close(self.counted(denial)))
    }

    /// The close of a connection whose first message was not AUTH.
    pub fn close_unasked(&mut self) -> Close {
        close(self.counted(Denial::Late))
    }

    /// Forgets a connection that has ended.
    pub fn forget(&mut self, connection: ConnectionId) {
        let forgotten = self.accesses.remove(connection.index);
        self.extra_bytes -= forgotten.as_ref().map_or(0, Access::extra_bytes);
    }

    /// Bytes that are held for connections here.
    pub fn held_bytes(&self) -> usize {
        self.accesses.held_bytes() + self.extra_bytes
    }

    /// Keeps `access` for a connection, in place of what was kept.
    fn keep(&mut self, connection: ConnectionId, access: Access) {
        self.extra_bytes += access.extra_bytes();
        let before = self.accesses.insert(connection.index, access);
        self.extra_bytes -= before.as_ref().map_or(0, Access::extra_bytes);
    }

    fn has_authentication(&self) -> bool {
        self.keys.is_some() || self.authority.service.is_some()
    }

    fn verify(&mut self, now: Now, token: &str) -> Result<Grant, Denial> {
        let view = self.keys.as_mut().ok_or(Denial::Unavailable)?;
        let keys = view.keys().ok_or(Denial::Unavailable)?;
        let verdict = self.authority.terms.verify(token, keys, now.unix_ms / 1000);
        if matches!(verdict, Err(Denial::UnknownKey)) {
            view.wish_for_more();
        }
        verdict
    }

    fn ask(&mut self, connection: ConnectionId, upgrade: &Upgrade<'_>) -> Admission {
        let Some(service) = &self.authority.service else { return self.deny(Denial::Unavailable) };
        let (answering, wake) = (self.answering.clone(), Arc::clone(&self.wake));
        let reply = Box::new(move |answer| {
            // A shard that has ended needs no answer.
            let _ = answering.send((connection, answer));
            wake();
        });
        match service.ask(Question::new(upgrade), reply) {
            Ok(()) => Admission::Wait,
            Err(answer) => {
                self.count(&answer);
                self.settle(upgrade, answer.verdict)
            }
        }
    }

    /// Lets a request in that has a grant for the user it names.
    fn settle(&mut self, upgrade: &Upgrade<'_>, verdict: Result<Grant, Denial>) -> Admission {
        match verdict {
            Err(denial) => self.deny(denial),
            Ok(grant) if names_another(upgrade.query, &grant) => self.deny(Denial::Subject),
            Ok(grant) => {
                self.entry = Entry::Granted(grant);
                Admission::Open
            }
        }
    }

    fn deny(&mut self, denial: Denial) -> Admission {
        self.counted(denial);
        if self.authority.refusal == AuthRefusal::Close {
            self.entry = Entry::Denied(denial);
            return Admission::Open;
        }
        let refusal = match denial {
            Denial::Unavailable => Refusal::AuthUnavailable,
            _ => Refusal::Unauthorized,
        };
        Admission::Refuse(Refused::with_detail(refusal, denial.sentence()))
    }

    /// When what ends at `expires_s` ends, with what clocks may be apart, in milliseconds since the shard began.
    fn end_ms(&self, now: Now, expires_s: u64) -> u64 {
        let end_unix_ms = expires_s.saturating_add(self.authority.terms.leeway_s).saturating_mul(1000);
        now.elapsed_ms().saturating_add(end_unix_ms.saturating_sub(now.unix_ms))
    }

    fn count(&self, answer: &Answer) {
        self.metrics.auth_requests[answer.outcome as usize].increment();
        let took_ns = u64::try_from(answer.took.as_nanos()).unwrap_or(u64::MAX);
        self.metrics.auth_request_ns.observe(took_ns);
    }

    fn counted(&self, denial: Denial) -> Denial {
        self.metrics.auth_denials[denial.cell()].increment();
        denial
    }
}

/// Whether so much of a room may be watched.
pub fn may_watch_room(reach: &Reach, room: &RoomName, detail: Detail) -> bool {
    let needed = match detail {
        Detail::Full => RoomAccess::Full,
        Detail::Count => RoomAccess::Count,
    };
    reach.room(room.as_str()) >= needed
}

/// Whether a connection may be in a room.
pub fn may_join(reach: &Reach, room: &RoomName) -> bool {
    reach.room(room.as_str()) == RoomAccess::Full
}

/// The close that tells a client why it is not let in.
pub fn close(denial: Denial) -> Close {
    let code = if denial == Denial::Unavailable { CloseCode::Internal } else { CloseCode::Unauthorized };
    Close::new(code, denial.sentence())
}

/// Whether `query` names another user than the one who was granted. What else is wrong with it is for others to say.
fn names_another(query: &str, grant: &Grant) -> bool {
    matches!(Query::parse_for(query, grant.user_id()), Err(InvalidQuery::UserIdOther))
}

#[cfg(test)]
mod tests;
