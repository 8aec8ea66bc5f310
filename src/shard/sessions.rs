//! What Rollcall's messages do: the [`Application`] of the product.
//!
//! A connection's messages are answered here, and what they say about its user goes to the user's partition; what is
//! to be told of others comes from the [`Exchange`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::core::{Action, Admission, Application, Cause, Close, Delivery, Ending, Opened, Verdict};
use super::exchange::{Exchange, ExchangeTerms, Mail};
use super::gate::{Entry, Gate, close, may_join, may_watch_room};
use super::{ConnectionId, Now};
use crate::auth::{Grant, Reach};
use crate::config::Config;
use crate::metrics::ShardMetrics;
use crate::presence::bounds::Bounds;
use crate::presence::change::{
    ConnectionKey, EndCause, Happening, NameHash, NameHasher, Post, Predecessor, PresenceEvent, RoomRef, SessionKey,
    Surplus, UserRef,
};
use crate::presence::watch::{Refused, Said, Watched};
use crate::protocol::address::AddressKey;
use crate::protocol::assembly::Message;
use crate::protocol::close::CloseCode;
use crate::protocol::error::InvalidMessage;
use crate::protocol::frame::write_text;
use crate::protocol::handshake::Upgrade;
use crate::protocol::message::{
    ClientMessage, ConnectFields, MessageId, MetadataUpdate, Parsed, Parser, Unwatch, Watch, write_ack, write_connect,
    write_error, write_heartbeat_ack,
};
use crate::protocol::query::{InvalidQuery, Query};
use crate::protocol::room_name::RoomName;
use crate::protocol::session_id::{SessionId, SessionIds};
use crate::protocol::status::Status;
use crate::protocol::timestamp::Timestamp;
use crate::protocol::user_id::UserId;
use crate::slab::NONE;

/// Bad messages in a row after which a connection is closed with 1008.
pub const BAD_MESSAGES_MAX: u8 = 20;

/// How long CONNECT waits for what becomes of the session that was named, in milliseconds.
const RESUME_ANSWER_MS: u64 = 1_000;

/// What is kept for each open connection.
#[derive(Debug)]
pub struct Session {
    /// The hash of its user, which says where the user lives.
    user: NameHash,
    /// What it watches and which rooms it is in; [`NONE`] while that is nothing.
    watcher: u32,
    bad_in_a_row: u8,
    /// Whether CONNECT waits for what becomes of the session that was named.
    is_opening: bool,
}

/// What a connection has from the first, because its token says so.
#[derive(Debug, Default)]
struct Standing {
    watching: Vec<UserId>,
    rooms: Vec<RoomName>,
}

/// What is the same for all sessions of a process.
#[derive(Clone, Debug)]
pub struct Terms {
    silence: Duration,
    silence_min: Duration,
    silence_max: Duration,
    reconnect_min: Duration,
    reconnect_max: Duration,
    exchange: ExchangeTerms,
}

impl Terms {
    /// The terms that `config` sets for `shards` shards. `process` names the process to those who keep cursors, and
    /// `began_unix_ms` is when it began to serve.
    pub fn new(config: &Config, shards: usize, process: u32, began_unix_ms: u64) -> Self {
        Self {
            silence: config.heartbeat_timeout,
            silence_min: config.heartbeat_timeout_min,
            silence_max: config.heartbeat_timeout_max,
            reconnect_min: config.reconnect_min,
            reconnect_max: config.reconnect_max,
            exchange: ExchangeTerms::new(config, shards, process, began_unix_ms),
        }
    }

    /// The same with other bounds.
    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.exchange = self.exchange.with_bounds(bounds);
        self
    }

    /// How long a connection may be without a message, in milliseconds: what it asked for, within the bounds, or
    /// else the operator's own value.
    fn silence_ms(&self, asked_ms: Option<i64>) -> u32 {
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        match asked_ms {
            None => ms(self.silence),
            Some(asked_ms) => {
                let asked_ms = u32::try_from(asked_ms.max(0)).unwrap_or(u32::MAX);
                asked_ms.clamp(ms(self.silence_min), ms(self.silence_max).max(ms(self.silence_min)))
            }
        }
    }
}

/// The sessions of one shard, and the partition that lives with them.
pub struct Sessions {
    parser: Parser,
    gate: Gate,
    state: State,
}

/// All but the parser, which is borrowed while what it parsed is acted on.
#[derive(Debug)]
struct State {
    shard: u32,
    terms: Terms,
    hasher: NameHasher,
    session_ids: SessionIds,
    exchange: Exchange,
    /// Connections whose CONNECT waits for what becomes of the session that they named.
    openings: HashMap<ConnectionKey, Opening>,
    /// The same in the order of their patience's end.
    opening_order: VecDeque<(u64, ConnectionKey)>,
    /// Rooms that connections are in because they took another's place, until they have been looked at.
    adopted: HashMap<ConnectionKey, Vec<RoomRef>>,
    /// What is to be done of the shard's own accord.
    actions: VecDeque<Action>,
    clock: WrittenClock,
    now: Now,
    /// Whether `memory_limit` leaves no room for what grows.
    memory_full: bool,
    metrics: Arc<ShardMetrics>,
}

/// A connection whose CONNECT waits.
#[derive(Debug)]
struct Opening {
    user: UserRef,
    session_id: SessionId,
    status: Option<Status>,
    silence_ms: u32,
    /// Whether its session was resumed, once that is known.
    resumed: Option<bool>,
    standing: Standing,
}

impl Sessions {
    /// The sessions of shard `shard`, which come in by `gate`. `hasher` is the same for all of them.
    pub fn new(
        shard: usize,
        terms: Terms,
        gate: Gate,
        hasher: NameHasher,
        session_ids: SessionIds,
        metrics: Arc<ShardMetrics>,
    ) -> Self {
        let state = State {
            shard: shard as u32,
            exchange: Exchange::new(shard, terms.exchange.clone()),
            terms,
            hasher,
            session_ids,
            openings: HashMap::new(),
            opening_order: VecDeque::new(),
            adopted: HashMap::new(),
            actions: VecDeque::new(),
            clock: WrittenClock::default(),
            now: Now::default(),
            memory_full: false,
            metrics,
        };
        Self { parser: Parser::new(), gate, state }
    }

    /// The gate, for tests of it.
    #[cfg(test)]
    pub fn gate_mut(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// What this shard knows with the others together.
    pub fn exchange(&self) -> &Exchange {
        &self.state.exchange
    }

    /// Whether nothing is left of anybody who connected.
    pub fn is_empty(&self) -> bool {
        self.state.exchange.is_empty() && self.state.openings.is_empty() && self.state.actions.is_empty()
    }
}

impl Application for Sessions {
    type Session = Session;
    type Mail = Mail;

    fn admit(&mut self, now: Now, connection: ConnectionId, upgrade: &Upgrade<'_>) -> Admission {
        self.gate.admit(now, connection, upgrade)
    }

    fn admits_reader(&self, host: Option<&[u8]>) -> bool {
        self.gate.admits_reader(host)
    }

    fn open(
        &mut self,
        now: Now,
        connection: ConnectionId,
        upgrade: &Upgrade<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Opened<Session>, Close> {
        self.state.set_now(now);
        match self.gate.take_entry() {
            Entry::Denied(denial) => Err(close(denial)),
            Entry::Unasked => self.enter(now, connection, upgrade.query, None, out),
            Entry::Granted(grant) => self.enter(now, connection, upgrade.query, Some(grant), out),
            Entry::AwaitsToken => {
                if let Err(invalid) = Query::parse(upgrade.query)
                    && invalid != InvalidQuery::UserIdMissing
                {
                    return Err(Close::new(CloseCode::Protocol, invalid.to_string()));
                }
                self.gate.await_token(now, connection, upgrade.query);
                // Nobody's, and nobody asks before AUTH.
                let user = NameHash(0);
                let session = Session { user, watcher: NONE, bad_in_a_row: 0, is_opening: false };
                Ok(Opened { session, silence_ms: 0, hold: false })
            }
        }
    }

    fn came_from(&mut self, now: Now, connection: ConnectionId, address: AddressKey) {
        self.state.set_now(now);
        self.state.tell_address(connection, address, true);
    }

    fn gone_from(&mut self, now: Now, connection: ConnectionId, address: AddressKey) {
        self.state.set_now(now);
        self.state.tell_address(connection, address, false);
    }

    fn message(
        &mut self,
        now: Now,
        connection: ConnectionId,
        session: &mut Session,
        mut message: Message<'_>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        self.state.set_now(now);
        let Parsed { id, body } = self.parser.parse(&mut message.payload);
        match body {
            Ok(ClientMessage::Authenticate { token }) => {
                self.state.metrics.received[RECEIVED_AUTH].increment();
                self.authenticate(now, connection, session, &token.0, id.as_ref(), out)
            }
            _ if self.gate.awaited(connection).is_some() => {
                self.state.metrics.received[RECEIVED_INVALID].increment();
                Verdict::Close(self.gate.close_unasked())
            }
            Ok(body) if !self.gate.allows(connection, &body) => {
                self.state.answer_forbidden(session, &body, id.as_ref(), out)
            }
            Ok(body) => self.state.act(connection, session, body, id.as_ref(), out),
            Err(invalid) => self.state.answer_invalid(session, &invalid, id.as_ref(), out),
        }
    }

    fn overflow(&mut self, now: Now, out: &mut Vec<u8>) {
        self.state.set_now(now);
        self.state.metrics.received[RECEIVED_INVALID].increment();
        self.state.answer_error(&InvalidMessage::ServerFull, None, out);
    }

    fn over_rate(&mut self, now: Now, out: &mut Vec<u8>) {
        self.state.clock.set(now);
        self.state.metrics.received[RECEIVED_INVALID].increment();
        self.state.answer_error(&InvalidMessage::RateLimited, None, out);
    }

    fn set_memory_full(&mut self, full: bool) {
        self.state.memory_full = full;
    }

    fn held_bytes(&self) -> usize {
        self.state.exchange.held_bytes() + self.gate.held_bytes()
    }

    fn counts(&self, connection: ConnectionId) -> bool {
        self.gate.awaited(connection).is_none()
    }

    fn session_deadline_ms(&self, connection: ConnectionId) -> Option<u64> {
        self.gate.deadline_ms(connection)
    }

    fn session_due(&mut self, now: Now, connection: ConnectionId) -> Option<Close> {
        self.gate.due(now, connection)
    }

    fn ended(&mut self, now: Now, connection: ConnectionId, session: Session, ending: Ending) {
        self.state.set_now(now);
        if self.counts(connection) {
            self.state.ended(connection, &session, ending);
        }
        self.gate.forget(connection);
    }

    fn tick(&mut self, now: Now) {
        self.state.set_now(now);
        self.state.exchange.tick(now.moment());
        self.state.give_up_waiting();
        self.state.publish();
    }

    fn deadline_ms(&self) -> Option<u64> {
        if !self.state.actions.is_empty() || self.state.exchange.has_tidings() {
            return Some(0);
        }
        let opening = self.state.opening_order.front().map(|&(due_ms, _)| due_ms);
        [opening, self.state.exchange.deadline_ms()].into_iter().flatten().min()
    }

    fn begin_step(&mut self, now: Now) {
        self.state.set_now(now);
        self.state.exchange.flush(now.moment());
        self.state.exchange.watch.begin_step();
    }

    fn next_action(&mut self, now: Now) -> Option<Action> {
        self.state.set_now(now);
        let answered = self.gate.next_answered().map(Action::Admit);
        answered.or_else(|| self.state.next_action())
    }

    fn deliver(&mut self, now: Now, connection: ConnectionId, session: &mut Session, out: &mut Vec<u8>) -> Delivery {
        self.state.set_now(now);
        self.state.deliver(connection, session, out)
    }

    fn attend(&mut self, now: Now, connection: ConnectionId, session: Option<&mut Session>) {
        self.state.set_now(now);
        self.state.adopt_rooms(connection, session, self.gate.reach(connection));
    }

    fn writable(&mut self, _now: Now, connection: ConnectionId, session: &mut Session) {
        if session.is_opening {
            self.state.actions.push_back(Action::Deliver(connection));
        }
        self.state.exchange.watch.writable(session.watcher);
    }

    fn receive(&mut self, now: Now, mail: Mail) {
        self.state.set_now(now);
        self.state.exchange.receive(now.moment(), mail);
        self.state.publish();
    }

    fn gather_mail(&mut self) {
        self.state.exchange.flush(self.state.now.moment());
        let (exchange, metrics) = (&self.state.exchange, &self.state.metrics);
        metrics.watchers_current.set(exchange.watch.watchers() as u64);
        metrics.watched_users_current.set(exchange.watch.edges() as u64);
        metrics.rooms_current.set(exchange.rooms.rooms() as u64);
        metrics.room_members_current.set(exchange.rooms.members() as u64);
    }

    fn take_mail(&mut self, shard: usize) -> Option<Mail> {
        let at = self.state.now.moment();
        self.state.exchange.take_mail(at, shard)
    }

    fn hold_mail(&mut self, shard: usize) {
        self.state.exchange.hold_mail(shard);
    }

    fn return_mail(&mut self, shard: usize, mail: Mail) {
        self.state.exchange.return_mail(shard, mail);
    }
}

impl Sessions {
    /// Opens the connection of whoever `query` names, or of whom the grant says.
    fn enter(
        &mut self,
        now: Now,
        connection: ConnectionId,
        query: &str,
        mut grant: Option<Grant>,
        out: &mut Vec<u8>,
    ) -> Result<Opened<Session>, Close> {
        let proven = grant.as_ref().and_then(Grant::user_id);
        let query = Query::parse_for(query, proven).map_err(|invalid| match invalid {
            InvalidQuery::UserIdOther => close(self.gate.deny_other()),
            invalid => Close::new(CloseCode::Protocol, invalid.to_string()),
        })?;
        self.gate.grant(now, connection, grant.as_mut());
        let standing = grant.map(|grant| Standing { watching: grant.watching, rooms: grant.rooms });
        Ok(self.state.connect(connection, query, standing.unwrap_or_default(), out))
    }

    /// Takes AUTH: the first message of a connection that is nobody's yet, or a newer token for one that is.
    fn authenticate(
        &mut self,
        now: Now,
        connection: ConnectionId,
        session: &mut Session,
        token: &str,
        id: Option<&MessageId<'_>>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        if !self.gate.takes_tokens() {
            return self.state.answer_invalid(session, &InvalidMessage::TypeUnknown, id, out);
        }
        let verdict = self.gate.authenticate(now, token);
        if let Some(query) = self.gate.awaited(connection) {
            let query = query.to_owned();
            let granted = verdict.map_err(close);
            return match granted.and_then(|grant| self.enter(now, connection, &query, Some(grant), out)) {
                Err(close) => Verdict::Close(close),
                Ok(Opened { session: entered, silence_ms, hold }) => {
                    *session = entered;
                    self.state.acknowledge(id, out);
                    Verdict::Admit { silence_ms, hold }
                }
            };
        }
        let renewed = verdict.and_then(|grant| {
            let user = grant.user_id().map(|user_id| self.state.hasher.user(user_id));
            if user == Some(session.user) { Ok(grant) } else { Err(self.gate.deny_other()) }
        });
        match renewed {
            Ok(mut grant) => {
                self.gate.renew(now, connection, &mut grant);
                session.bad_in_a_row = 0;
                self.state.acknowledge(id, out);
                let standing = Standing { watching: grant.watching, rooms: grant.rooms };
                if let Some(reach) = self.gate.reach(connection)
                    && self.state.narrow(connection, session, reach, &standing)
                {
                    self.state.answer_error(&InvalidMessage::Narrowed, None, out);
                }
                Verdict::Reschedule
            }
            Err(denial) => {
                let invalid = InvalidMessage::BadToken { reason: denial.sentence() };
                match self.state.answer_invalid(session, &invalid, id, out) {
                    Verdict::Continue => Verdict::Reschedule,
                    verdict => verdict,
                }
            }
        }
    }
}

impl State {
    fn set_now(&mut self, now: Now) {
        self.now = now;
        self.clock.set(now);
    }

    fn key(&self, connection: ConnectionId) -> ConnectionKey {
        ConnectionKey { shard: self.shard, index: connection.index, generation: connection.generation }
    }

    /// Opens a connection: tells its user's partition, and answers CONNECT unless that has to wait for the partition.
    fn connect(
        &mut self,
        connection: ConnectionId,
        query: Query,
        standing: Standing,
        out: &mut Vec<u8>,
    ) -> Opened<Session> {
        let Query { user_id, status, heartbeat_timeout_ms, session } = query;
        let silence_ms = self.terms.silence_ms(heartbeat_timeout_ms);
        let session_id = self.session_ids.issue(&user_id);
        let predecessor = match session {
            None => Predecessor::Unnamed,
            Some(text) => match self.session_ids.genuine_key(&text, &user_id) {
                Some(key) => Predecessor::Session(SessionKey(key)),
                None => Predecessor::None,
            },
        };
        let user = UserRef { hash: self.hasher.user(&user_id), id: user_id };
        let (hash, key) = (user.hash, self.key(connection));
        let opening = Opening { user: user.clone(), session_id, status, silence_ms, resumed: None, standing };
        let mut waits = matches!(predecessor, Predecessor::Session(_));
        let opening = if waits { self.openings.insert(key, opening) } else { Some(opening) };
        let session = SessionKey(session_id.key());
        let (user, opened_ms) = (Box::new(user), self.now.elapsed_ms());
        self.tell(hash, connection, Happening::Opened { user, session, status, predecessor, opened_ms });
        self.hear_tidings();
        let mut session = Session { user: hash, watcher: NONE, bad_in_a_row: 0, is_opening: false };
        if let Some(opening) = opening.or_else(|| self.take_decided(key)) {
            self.write_connect(&opening, out);
            waits = self.take_standing(connection, &mut session, opening.standing, out);
        } else {
            session.is_opening = true;
            self.opening_order.push_back((self.now.elapsed_ms() + RESUME_ANSWER_MS, key));
        }
        Opened { session, silence_ms, hold: waits }
    }

    /// Has a connection watch and be in what its token says, as if it had asked; true while reading waits for that.
    fn take_standing(
        &mut self,
        connection: ConnectionId,
        session: &mut Session,
        standing: Standing,
        out: &mut Vec<u8>,
    ) -> bool {
        let Standing { watching, rooms } = standing;
        for room in rooms {
            self.join(connection, session, room, None, out);
        }
        if watching.is_empty() {
            return false;
        }
        let request = Watch { users: watching, rooms: Vec::new(), since: None };
        matches!(self.watch(connection, session, &request, None, out), Verdict::Hold)
    }

    /// The opening of a connection whose session's fate is known already, as where its partition is this shard's.
    fn take_decided(&mut self, key: ConnectionKey) -> Option<Opening> {
        self.openings.get(&key)?.resumed?;
        self.openings.remove(&key)
    }

    fn write_connect(&self, opening: &Opening, out: &mut Vec<u8>) {
        let fields = ConnectFields {
            user_id: &opening.user.id,
            timestamp: &self.clock.timestamp,
            session_id: opening.session_id.as_str(),
            resumed: opening.resumed == Some(true),
            heartbeat_timeout_ms: u64::from(opening.silence_ms),
            reconnect_min_ms: self.terms.reconnect_min.as_millis() as u64,
            reconnect_max_ms: self.terms.reconnect_max.as_millis() as u64,
        };
        write_text(out, |out| write_connect(out, &fields));
        self.metrics.sent[SENT_CONNECT].increment();
    }

    /// Does what a valid message asks for, and answers it.
    fn act(
        &mut self,
        connection: ConnectionId,
        session: &mut Session,
        message: ClientMessage,
        id: Option<&MessageId<'_>>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        session.bad_in_a_row = 0;
        match message {
            ClientMessage::Heartbeat => {
                self.metrics.received[RECEIVED_HEARTBEAT].increment();
                self.metrics.sent[SENT_HEARTBEAT_ACK].increment();
                match id {
                    None => out.extend_from_slice(self.clock.heartbeat_ack()),
                    Some(_) => write_text(out, |out| write_heartbeat_ack(out, &self.clock.timestamp, id)),
                }
                Verdict::Continue
            }
            ClientMessage::PresenceUpdate { status, metadata } => {
                self.metrics.received[RECEIVED_PRESENCE_UPDATE].increment();
                if self.memory_full && matches!(metadata, MetadataUpdate::Replace(_)) {
                    self.answer_error(&InvalidMessage::ServerFull, id, out);
                    return Verdict::Continue;
                }
                self.tell(session.user, connection, Happening::Updated { status, metadata });
                self.acknowledge(id, out);
                Verdict::Continue
            }
            ClientMessage::Disconnect => {
                self.metrics.received[RECEIVED_DISCONNECT].increment();
                self.acknowledge(id, out);
                Verdict::Close(Close::new(CloseCode::Normal, "as asked"))
            }
            ClientMessage::Watch(watch) => {
                self.metrics.received[RECEIVED_WATCH].increment();
                self.watch(connection, session, &watch, id, out)
            }
            ClientMessage::Unwatch(unwatch) => {
                self.metrics.received[RECEIVED_UNWATCH].increment();
                self.unwatch(session, &unwatch);
                self.acknowledge(id, out);
                Verdict::Continue
            }
            ClientMessage::Join { room } => {
                self.metrics.received[RECEIVED_JOIN].increment();
                self.join(connection, session, *room, id, out);
                Verdict::Continue
            }
            ClientMessage::Leave { room } => {
                self.metrics.received[RECEIVED_LEAVE].increment();
                let room = RoomRef::new(*room, &self.hasher);
                self.exchange.watch.leave(session.watcher, &room);
                // It may be in rooms that it took over and this shard has not heard of: the partition knows.
                self.tell(session.user, connection, Happening::Left(room));
                self.acknowledge(id, out);
                Verdict::Continue
            }
            ClientMessage::ClientState { active } => {
                self.metrics.received[RECEIVED_CLIENT_STATE].increment();
                let key = self.key(connection);
                self.exchange.watch.set_active(key, session.user, &mut session.watcher, active);
                self.acknowledge(id, out);
                Verdict::Continue
            }
            // Taken before.
            ClientMessage::Authenticate { .. } => Verdict::Continue,
        }
    }

    /// Refuses what the connection's token does not grant: always the same, whether there is such a user or room or
    /// not.
    fn answer_forbidden(
        &self,
        session: &mut Session,
        message: &ClientMessage,
        id: Option<&MessageId<'_>>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        session.bad_in_a_row = 0;
        let cell = if matches!(message, ClientMessage::Join { .. }) { RECEIVED_JOIN } else { RECEIVED_WATCH };
        self.metrics.received[cell].increment();
        self.answer_error(&InvalidMessage::Forbidden, id, out);
        Verdict::Continue
    }

    fn watch(
        &mut self,
        connection: ConnectionId,
        session: &mut Session,
        request: &Watch,
        id: Option<&MessageId<'_>>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let (at, key, is_full) = (self.now.moment(), self.key(connection), self.memory_full);
        let hasher = &self.hasher;
        let watched = self.exchange.with_watch(at, |table, posts| {
            table.watch(at, key, session.user, &mut session.watcher, request, id, is_full, hasher, posts)
        });
        match watched {
            Ok(Watched::Continue) => Verdict::Continue,
            Ok(Watched::Hold) => Verdict::Hold,
            Err(refused) => {
                self.answer_refused(refused, id, out);
                Verdict::Continue
            }
        }
    }

    fn unwatch(&mut self, session: &Session, request: &Unwatch) {
        let hasher = &self.hasher;
        self.exchange.with_watch(self.now.moment(), |table, posts| {
            table.unwatch(session.watcher, request, hasher, posts);
        });
    }

    fn join(
        &mut self,
        connection: ConnectionId,
        session: &mut Session,
        room: RoomName,
        id: Option<&MessageId<'_>>,
        out: &mut Vec<u8>,
    ) {
        let room = RoomRef::new(room, &self.hasher);
        let key = self.key(connection);
        match self.exchange.watch.join(key, session.user, &mut session.watcher, &room, self.memory_full) {
            Ok(()) => {
                // It may have left a room that this shard hears of as taken over only now: the partition knows.
                self.tell(session.user, connection, Happening::Joined(room));
                self.acknowledge(id, out);
            }
            Err(refused) => self.answer_refused(refused, id, out),
        }
    }

    /// Notes the rooms that a connection is in because it took another's place, if it is still there. Those that its
    /// own token does not grant it leaves, whatever that of the other granted.
    fn adopt_rooms(&mut self, connection: ConnectionId, session: Option<&mut Session>, reach: Option<&Reach>) {
        let key = self.key(connection);
        let Some(mut rooms) = self.adopted.remove(&key) else { return };
        let Some(session) = session else { return };
        if let Some(reach) = reach {
            let joined = self.exchange.watch.joined(session.watcher);
            let (kept, left) =
                rooms.into_iter().partition(|room| may_join(reach, room.name()) || joined.contains(room));
            rooms = kept;
            for room in left {
                self.tell(session.user, connection, Happening::Left(room));
            }
        }
        self.exchange.watch.adopt(key, session.user, &mut session.watcher, rooms);
    }

    /// Has a connection watch and be in nothing that is neither within `reach` nor in `standing`; true where there was
    /// anything.
    fn narrow(&mut self, connection: ConnectionId, session: &Session, reach: &Reach, standing: &Standing) -> bool {
        let table = &self.exchange.watch;
        let users = table.watched_users(session.watcher);
        let users = users.filter(|user| !reach.may_watch(user.as_str()) && !standing.watching.contains(user));
        let rooms = table.watched_rooms(session.watcher);
        let rooms = rooms.filter(|(room, detail)| !may_watch_room(reach, room, *detail)).map(|(room, _)| room);
        let unwatch = Unwatch { users: users.cloned().collect(), rooms: rooms.cloned().collect() };
        let joined = table.joined(session.watcher).iter();
        let left = joined.filter(|room| !may_join(reach, room.name()) && !standing.rooms.contains(room.name()));
        let left: Vec<RoomRef> = left.cloned().collect();
        self.unwatch(session, &unwatch);
        for room in &left {
            self.exchange.watch.leave(session.watcher, room);
            self.tell(session.user, connection, Happening::Left(room.clone()));
        }
        !(unwatch.users.is_empty() && unwatch.rooms.is_empty() && left.is_empty())
    }

    fn ended(&mut self, connection: ConnectionId, session: &Session, ending: Ending) {
        let key = self.key(connection);
        if session.is_opening {
            self.openings.remove(&key);
        }
        if session.watcher != NONE {
            self.exchange.with_watch(self.now.moment(), |table, posts| table.ended(session.watcher, posts));
        }
        let cause = match ending.cause {
            Cause::Asked => EndCause::Asked,
            Cause::Silent => EndCause::Silent,
            Cause::Lost => EndCause::Lost,
        };
        let (ended_ms, quiet_ms) = (self.now.elapsed_ms(), self.now.elapsed_ms().saturating_sub(ending.heard_ms));
        let heard_unix_ms = self.now.unix_ms.saturating_sub(quiet_ms);
        self.tell(session.user, connection, Happening::Ended { cause, heard_unix_ms, ended_ms });
    }

    /// Tells the partition of a user what happened to one of the user's connections.
    fn tell(&mut self, user: NameHash, connection: ConnectionId, what: Happening) {
        let event = PresenceEvent { connection: self.key(connection), what };
        let partition = user.partition(self.exchange.shards());
        self.exchange.post(self.now.moment(), partition, Post::Presence(event));
        if partition == self.shard as usize {
            self.publish();
        }
    }

    /// Tells the partition of an address that one of its connections opened or ended.
    fn tell_address(&mut self, connection: ConnectionId, address: AddressKey, opened: bool) {
        let partition = self.hasher.address(address).partition(self.exchange.shards());
        let post = Post::Address { connection: self.key(connection), address, opened };
        self.exchange.post(self.now.moment(), partition, post);
    }

    /// Takes in what partitions told of this shard's connections.
    fn hear_tidings(&mut self) {
        let mut too_late = Vec::new();
        while let Some((key, resumed)) = self.exchange.next_opened() {
            match self.openings.get_mut(&key).filter(|opening| opening.resumed.is_none()) {
                Some(opening) => {
                    opening.resumed = Some(resumed);
                    self.actions.push_back(Action::Deliver(connection_of(key)));
                }
                // Who has gone, or waits no longer, needs no answer, and has not taken over the rooms that came with
                // it.
                None => too_late.push(key),
            }
        }
        while let Some((key, rooms)) = self.exchange.next_adopted() {
            if too_late.contains(&key) {
                continue;
            }
            self.adopted.entry(key).or_default().extend(rooms);
            self.actions.push_back(Action::Attend(connection_of(key)));
        }
        while let Some(key) = self.exchange.next_replaced() {
            let close = Close::new(CloseCode::Replaced, "another connection took this session's place");
            self.actions.push_back(Action::Close(connection_of(key), close));
        }
        while let Some((key, surplus)) = self.exchange.next_too_many() {
            let (limit, code, reason) = match surplus {
                Surplus::OfAddress => {
                    (LIMITED_ADDRESS, CloseCode::RateLimited, "too many connections from this address")
                }
                Surplus::NewestOfUser => (LIMITED_USER, CloseCode::RateLimited, "too many connections of this user"),
                Surplus::OldestOfUser => {
                    (LIMITED_USER, CloseCode::Replaced, "a newer connection took this one's place")
                }
            };
            self.metrics.limited[limit].increment();
            self.actions.push_back(Action::Close(connection_of(key), Close::new(code, reason)));
        }
    }

    /// Those who have waited long enough for what becomes of their session begin anew.
    fn give_up_waiting(&mut self) {
        // What has just come may be what they wait for.
        self.hear_tidings();
        while let Some(&(due_ms, key)) = self.opening_order.front()
            && due_ms <= self.now.elapsed_ms()
        {
            self.opening_order.pop_front();
            let Some(opening) = self.openings.get_mut(&key).filter(|opening| opening.resumed.is_none()) else {
                continue;
            };
            opening.resumed = Some(false);
            let (user, status) = (opening.user.hash, opening.status.unwrap_or(Status::Online));
            let connection = connection_of(key);
            self.tell(user, connection, Happening::Abandoned(status));
            self.actions.push_back(Action::Deliver(connection));
        }
    }

    fn next_action(&mut self) -> Option<Action> {
        self.hear_tidings();
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        let watch = &mut self.exchange.watch;
        if let Some(key) = watch.next_released() {
            return Some(Action::Release(connection_of(key)));
        }
        watch.next_due(self.now.moment()).map(|key| Action::Deliver(connection_of(key)))
    }

    fn deliver(&mut self, connection: ConnectionId, session: &mut Session, out: &mut Vec<u8>) -> Delivery {
        if session.is_opening {
            let Some(opening) = self.take_decided(self.key(connection)) else { return Delivery::Nothing };
            session.is_opening = false;
            self.write_connect(&opening, out);
            if !self.take_standing(connection, session, opening.standing, out) {
                self.actions.push_back(Action::Release(connection));
            }
            return Delivery::Appended;
        }
        let at = self.now.moment();
        match self.exchange.watch.deliver(at, session.watcher, &self.clock.timestamp, out) {
            Said::Nothing => Delivery::Nothing,
            Said::State => {
                self.metrics.sent[SENT_PRESENCE_STATE].increment();
                Delivery::Appended
            }
            Said::Change => {
                self.metrics.sent[SENT_PRESENCE_CHANGE].increment();
                Delivery::Appended
            }
            Said::Shared(bytes) => {
                self.metrics.sent[SENT_PRESENCE_CHANGE].increment();
                Delivery::Shared(bytes)
            }
        }
    }

    /// Answers a message that has no other answer, if it asked for one.
    fn acknowledge(&self, id: Option<&MessageId<'_>>, out: &mut Vec<u8>) {
        if let Some(id) = id {
            self.metrics.sent[SENT_ACK].increment();
            write_text(out, |out| write_ack(out, &self.clock.timestamp, id));
        }
    }

    fn publish(&mut self) {
        self.metrics.limited[LIMITED_STATUS].add(self.exchange.partition.take_put_off_count());
        let partition = &self.exchange.partition;
        self.metrics.users_current.set(partition.users() as u64);
        for (cell, status) in self.metrics.users_by_status.iter().zip(Status::ALL) {
            cell.set(partition.users_with(status) as u64);
        }
    }

    fn answer_invalid(
        &mut self,
        session: &mut Session,
        invalid: &InvalidMessage,
        id: Option<&MessageId<'_>>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        self.metrics.received[RECEIVED_INVALID].increment();
        session.bad_in_a_row += 1;
        if session.bad_in_a_row == BAD_MESSAGES_MAX {
            return Verdict::Close(Close::new(CloseCode::Policy, "twenty bad messages in a row"));
        }
        self.answer_error(invalid, id, out);
        Verdict::Continue
    }

    fn answer_refused(&self, refused: Refused, id: Option<&MessageId<'_>>, out: &mut Vec<u8>) {
        let max = |max: usize| u32::try_from(max).unwrap_or(u32::MAX);
        let error = match refused {
            Refused::TooManyUsers => InvalidMessage::TooManyUsers { max: max(self.terms.exchange.watched_users_max()) },
            Refused::TooManyRooms => InvalidMessage::TooManyRooms { max: max(self.terms.exchange.rooms_max()) },
            Refused::Full => InvalidMessage::ServerFull,
        };
        self.answer_error(&error, id, out);
    }

    fn answer_error(&self, error: &InvalidMessage, id: Option<&MessageId<'_>>, out: &mut Vec<u8>) {
        self.metrics.errors[error.cell()].increment();
        self.metrics.errors_total.increment();
        self.metrics.sent[SENT_ERROR].increment();
        write_text(out, |out| write_error(out, &self.clock.timestamp, error, id));
    }
}

fn connection_of(key: ConnectionKey) -> ConnectionId {
    ConnectionId { index: key.index, generation: key.generation }
}

/// The wall clock as text, written once a millisecond, and the commonest answer that holds it.
#[derive(Debug)]
struct WrittenClock {
    unix_ms: u64,
    timestamp: Timestamp,
    /// HEARTBEAT_ACK without `id`, as a frame; empty until it is asked for in this millisecond.
    heartbeat_ack: Vec<u8>,
}

impl Default for WrittenClock {
    fn default() -> Self {
        Self { unix_ms: 0, timestamp: Timestamp::from_unix_ms(0), heartbeat_ack: Vec::new() }
    }
}

impl WrittenClock {
    fn set(&mut self, now: Now) {
        if self.unix_ms != now.unix_ms {
            self.unix_ms = now.unix_ms;
            self.timestamp = Timestamp::from_unix_ms(now.unix_ms);
            self.heartbeat_ack.clear();
        }
    }

    fn heartbeat_ack(&mut self) -> &[u8] {
        if self.heartbeat_ack.is_empty() {
            let timestamp = &self.timestamp;
            write_text(&mut self.heartbeat_ack, |out| write_heartbeat_ack(out, timestamp, None));
        }
        &self.heartbeat_ack
    }
}

// Places in `metrics::LIMITS`.
const LIMITED_ADDRESS: usize = 0;
const LIMITED_USER: usize = 1;
const LIMITED_STATUS: usize = 2;

// Places in `metrics::RECEIVED_TYPES` and `metrics::SENT_TYPES`.
const RECEIVED_HEARTBEAT: usize = 0;
const RECEIVED_PRESENCE_UPDATE: usize = 1;
const RECEIVED_DISCONNECT: usize = 2;
const RECEIVED_WATCH: usize = 3;
const RECEIVED_UNWATCH: usize = 4;
const RECEIVED_JOIN: usize = 5;
const RECEIVED_LEAVE: usize = 6;
const RECEIVED_CLIENT_STATE: usize = 7;
const RECEIVED_AUTH: usize = 8;
const RECEIVED_INVALID: usize = 9;
const SENT_CONNECT: usize = 0;
const SENT_HEARTBEAT_ACK: usize = 1;
const SENT_ACK: usize = 2;
const SENT_ERROR: usize = 3;
const SENT_PRESENCE_STATE: usize = 4;
const SENT_PRESENCE_CHANGE: usize = 5;
