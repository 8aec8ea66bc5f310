//! What Rollcall's messages do: the [`Application`] of the product.
//!
//! A connection's messages are answered here, and what they say about its user goes to the user's partition: this
//! shard's own, or by mail to another's.

use std::sync::Arc;
use std::time::Duration;

use super::core::{Application, Close, Ending, Opened, Verdict};
use super::outbox::Outbox;
use super::{ConnectionId, Now};
use crate::config::Config;
use crate::metrics::ShardMetrics;
use crate::presence::change::{ConnectionKey, PresenceEvent, UserHasher};
use crate::presence::partition::Partition;
use crate::protocol::assembly::Message;
use crate::protocol::close::CloseCode;
use crate::protocol::error::InvalidMessage;
use crate::protocol::frame::write_text;
use crate::protocol::handshake::Upgrade;
use crate::protocol::message::{
    ClientMessage, ConnectFields, MessageId, MetadataUpdate, Parsed, Parser, write_ack, write_connect, write_error,
    write_heartbeat_ack,
};
use crate::protocol::query::Query;
use crate::protocol::session_id::SessionIds;
use crate::protocol::status::Status;
use crate::protocol::timestamp::Timestamp;

/// Bad messages in a row after which a connection is closed with 1008.
pub const BAD_MESSAGES_MAX: u8 = 20;

/// What is kept for each open connection.
#[derive(Debug)]
pub struct Session {
    /// Where its user lives.
    partition: u16,
    bad_in_a_row: u8,
}

/// What is the same for all sessions of a process.
#[derive(Clone, Debug)]
pub struct Terms {
    silence: Duration,
    silence_min: Duration,
    silence_max: Duration,
    reconnect_min: Duration,
    reconnect_max: Duration,
}

impl Terms {
    /// The terms that `config` sets.
    pub fn new(config: &Config) -> Self {
        Self {
            silence: config.heartbeat_timeout,
            silence_min: config.heartbeat_timeout_min,
            silence_max: config.heartbeat_timeout_max,
            reconnect_min: config.reconnect_min,
            reconnect_max: config.reconnect_max,
        }
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
    state: State,
}

/// All but the parser, which is borrowed while what it parsed is acted on.
#[derive(Debug)]
struct State {
    shard: u32,
    terms: Terms,
    hasher: UserHasher,
    session_ids: SessionIds,
    partition: Partition,
    outboxes: Vec<Outbox>,
    clock: WrittenClock,
    /// Whether `memory_limit` leaves no room for metadata.
    memory_full: bool,
    metrics: Arc<ShardMetrics>,
}

impl Sessions {
    /// The sessions of shard `shard` of `shards`. `hasher` is the same for all of them.
    pub fn new(
        shard: usize,
        shards: usize,
        terms: Terms,
        hasher: UserHasher,
        session_ids: SessionIds,
        metrics: Arc<ShardMetrics>,
    ) -> Self {
        let state = State {
            shard: shard as u32,
            terms,
            hasher,
            session_ids,
            partition: Partition::default(),
            outboxes: (0..shards).map(|_| Outbox::default()).collect(),
            clock: WrittenClock::default(),
            memory_full: false,
            metrics,
        };
        Self { parser: Parser::new(), state }
    }
}

impl Application for Sessions {
    type Session = Session;
    type Mail = Vec<PresenceEvent>;

    fn open(
        &mut self,
        now: Now,
        connection: ConnectionId,
        upgrade: &Upgrade<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Opened<Session>, Close> {
        let query =
            Query::parse(upgrade.query).map_err(|invalid| Close::new(CloseCode::Protocol, invalid.to_string()))?;
        self.state.clock.set(now);
        Ok(self.state.connect(connection, query, out))
    }

    fn message(
        &mut self,
        now: Now,
        connection: ConnectionId,
        session: &mut Session,
        mut message: Message<'_>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        self.state.clock.set(now);
        let Parsed { id, body } = self.parser.parse(&mut message.payload);
        match body {
            Ok(body) => self.state.act(connection, session, body, id.as_ref(), out),
            Err(invalid) => self.state.answer_invalid(session, &invalid, id.as_ref(), out),
        }
    }

    fn overflow(&mut self, now: Now, out: &mut Vec<u8>) {
        self.state.clock.set(now);
        self.state.metrics.received[RECEIVED_INVALID].increment();
        self.state.answer_error(&InvalidMessage::ServerFull, None, out);
    }

    fn set_memory_full(&mut self, full: bool) {
        self.state.memory_full = full;
    }

    fn held_bytes(&self) -> usize {
        self.state.partition.held_bytes()
    }

    fn ended(&mut self, _now: Now, connection: ConnectionId, session: Session, _ending: Ending) {
        let connection = self.state.key(connection);
        self.state.tell(usize::from(session.partition), PresenceEvent::Ended { connection });
    }

    fn receive(&mut self, _now: Now, mail: Vec<PresenceEvent>) {
        for event in mail {
            self.state.partition.handle(event);
        }
        self.state.publish();
    }

    fn take_mail(&mut self, shard: usize) -> Option<Vec<PresenceEvent>> {
        self.state.outboxes[shard].take()
    }

    fn hold_mail(&mut self, shard: usize) {
        self.state.outboxes[shard].hold();
    }

    fn return_mail(&mut self, shard: usize, mail: Vec<PresenceEvent>) {
        self.state.outboxes[shard].give_back(mail);
    }
}

impl State {
    fn key(&self, connection: ConnectionId) -> ConnectionKey {
        ConnectionKey { shard: self.shard, index: connection.index, generation: connection.generation }
    }

    /// Opens a connection: answers CONNECT and tells its user's partition.
    fn connect(&mut self, connection: ConnectionId, query: Query, out: &mut Vec<u8>) -> Opened<Session> {
        let silence_ms = self.terms.silence_ms(query.heartbeat_timeout_ms);
        let session_id = self.session_ids.issue(&query.user_id);
        let fields = ConnectFields {
            user_id: &query.user_id,
            timestamp: &self.clock.timestamp,
            session_id: session_id.as_str(),
            resumed: false,
            heartbeat_timeout_ms: u64::from(silence_ms),
            reconnect_min_ms: self.terms.reconnect_min.as_millis() as u64,
            reconnect_max_ms: self.terms.reconnect_max.as_millis() as u64,
        };
        write_text(out, |out| write_connect(out, &fields));
        self.metrics.sent[SENT_CONNECT].increment();
        let hash = self.hasher.hash(&query.user_id);
        let partition = hash.partition(self.outboxes.len());
        let (connection, status) = (self.key(connection), query.status.unwrap_or(Status::Online));
        self.tell(partition, PresenceEvent::Opened { connection, user_id: query.user_id, hash, status });
        Opened { session: Session { partition: partition as u16, bad_in_a_row: 0 }, silence_ms, hold: false }
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
                let connection = self.key(connection);
                self.tell(usize::from(session.partition), PresenceEvent::Updated { connection, status, metadata });
                self.acknowledge(id, out);
                Verdict::Continue
            }
            ClientMessage::Disconnect => {
                self.metrics.received[RECEIVED_DISCONNECT].increment();
                self.acknowledge(id, out);
                Verdict::Close(Close::new(CloseCode::Normal, "as asked"))
            }
            ClientMessage::Watch(_) => self.count_and_acknowledge(RECEIVED_WATCH, id, out),
            ClientMessage::Unwatch(_) => self.count_and_acknowledge(RECEIVED_UNWATCH, id, out),
            ClientMessage::Join { .. } => self.count_and_acknowledge(RECEIVED_JOIN, id, out),
            ClientMessage::Leave { .. } => self.count_and_acknowledge(RECEIVED_LEAVE, id, out),
            ClientMessage::ClientState { .. } => self.count_and_acknowledge(RECEIVED_CLIENT_STATE, id, out),
        }
    }

    fn count_and_acknowledge(&self, cell: usize, id: Option<&MessageId<'_>>, out: &mut Vec<u8>) -> Verdict {
        self.metrics.received[cell].increment();
        self.acknowledge(id, out);
        Verdict::Continue
    }

    /// Answers a message that has no other answer, if it asked for one.
    fn acknowledge(&self, id: Option<&MessageId<'_>>, out: &mut Vec<u8>) {
        if let Some(id) = id {
            self.metrics.sent[SENT_ACK].increment();
            write_text(out, |out| write_ack(out, &self.clock.timestamp, id));
        }
    }

    /// Tells the partition of a user what happened to one of the user's connections.
    fn tell(&mut self, partition: usize, event: PresenceEvent) {
        if partition == self.shard as usize {
            self.partition.handle(event);
            self.publish();
        } else {
            self.outboxes[partition].push(event);
        }
    }

    fn publish(&self) {
        self.metrics.users_current.set(self.partition.users() as u64);
        for (cell, status) in self.metrics.users_by_status.iter().zip(Status::ALL) {
            cell.set(self.partition.users_with(status) as u64);
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

    fn answer_error(&self, error: &InvalidMessage, id: Option<&MessageId<'_>>, out: &mut Vec<u8>) {
        self.metrics.errors[error.cell()].increment();
        self.metrics.errors_total.increment();
        self.metrics.sent[SENT_ERROR].increment();
        write_text(out, |out| write_error(out, &self.clock.timestamp, error, id));
    }
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

// Places in `metrics::RECEIVED_TYPES` and `metrics::SENT_TYPES`.
const RECEIVED_HEARTBEAT: usize = 0;
const RECEIVED_PRESENCE_UPDATE: usize = 1;
const RECEIVED_DISCONNECT: usize = 2;
const RECEIVED_WATCH: usize = 3;
const RECEIVED_UNWATCH: usize = 4;
const RECEIVED_JOIN: usize = 5;
const RECEIVED_LEAVE: usize = 6;
const RECEIVED_CLIENT_STATE: usize = 7;
const RECEIVED_INVALID: usize = 8;
const SENT_CONNECT: usize = 0;
const SENT_HEARTBEAT_ACK: usize = 1;
const SENT_ACK: usize = 2;
const SENT_ERROR: usize = 3;
