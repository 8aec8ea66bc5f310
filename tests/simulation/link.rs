//! What lies between: the sockets between clients and shards, and the mail between shards.

use std::collections::{HashMap, VecDeque};

use rollcall::protocol::status::Status;
use rollcall::shard::ConnectionId;
use rollcall::shard::exchange::Mail;

use super::client::Said;
use super::model::{Connection, End, Event, Metadata, Predecessor};

/// How a peer's side of a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It is there.
    None,
    /// It said that it sends no more, once all that it sent has been read.
    End,
    /// It was reset.
    Reset,
    /// It is gone and nobody was told.
    Vanished,
}

/// A connection between a client and a shard.
#[derive(Debug)]
pub struct Socket {
    pub shard: usize,
    pub client: usize,
    pub user: usize,
    pub connection: ConnectionId,
    /// What the server's kernel holds and the server has not read.
    pub in_kernel: Vec<u8>,
    /// What the client's kernel holds and the client has not read.
    pub to_client: Vec<u8>,
    /// How many bytes it takes before the client reads.
    pub capacity: usize,
    pub cut: Cut,
    /// Whether the server was told of the cut.
    pub is_cut_told: bool,
    /// Whether the server has said that nothing more comes.
    pub told_end: bool,
    /// Whether the server closed it.
    pub closed: bool,
    /// Whether the server waits for it to take more.
    pub is_full: bool,
    /// Whether it is among those that have something for the server.
    pub is_readable: bool,
    /// Whether it is among those that have something for the client.
    pub is_heard: bool,
    /// The messages that the client sent whole and the application has not taken.
    pub said: VecDeque<Said>,
    /// When it last took a byte of the server's.
    pub taken_ms: u64,
    /// When a byte last came into the server's kernel.
    pub byte_ms: u64,
    /// When a whole message last did.
    pub message_ms: u64,
    /// When it last spoke after having been quiet for too long.
    pub late_ms: Option<u64>,
    /// For how long it may be without a message.
    pub silence_ms: u64,
    /// How it is to end, by what its client did.
    pub wish: Wish,
    /// Whether the application counts it as open.
    pub is_open: bool,
    /// Whether another took its place.
    pub is_replaced: bool,
    /// What it says of itself when it opens.
    pub hello: (Option<Status>, Predecessor),
    /// While its session's fate is not known: since when.
    pub opening_ms: Option<u64>,
    /// Whether it took its session's place, as far as its shard knows.
    pub resumed: Option<bool>,
}

/// How a client means its connection to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It does not.
    Stay,
    /// With DISCONNECT or a normal close.
    Done,
    /// With another close, or a violation.
    Broken,
}

/// Mail on its way, with what the model makes of it.
#[derive(Debug)]
pub struct Letter {
    pub arrives_ms: u64,
    pub mail: Mail,
    pub events: Vec<Event>,
}

/// The way from one shard to another: what was sent arrives in order.
#[derive(Debug, Default)]
pub struct Link {
    /// What waits at the sender, as the model has it.
    pub outbox: Vec<Event>,
    /// Whether what waits is folded: the inbox was full.
    pub is_held: bool,
    /// The most that may wait to be told to connections of what became of their places.
    pub tidings: usize,
    pub letters: VecDeque<Letter>,
}

/// Whether a connection took nobody's place, and nobody can take its own.
fn is_without_trace(events: &[Event], connection: Connection) -> bool {
    let mut events = events.iter().filter(|event| event.connection() == connection);
    let is_fresh = matches!(
        events.next(),
        Some(
            Event::Opened { predecessor: Predecessor::Nobody, .. }
                | Event::Opened { predecessor: Predecessor::Unnamed, status: Some(_), .. }
        )
    );
    is_fresh && matches!(events.next_back(), Some(Event::Ended { end: End::Asked, .. }))
}

/// Folds events as a full inbox has mail folded: of each connection what it said last.
pub fn fold(events: Vec<Event>) -> Vec<Event> {
    let mut folded: Vec<Event> = Vec::with_capacity(events.len());
    let mut visits: HashMap<usize, Connection> = HashMap::new();
    for mut event in events {
        match &mut event {
            Event::Updated { connection, metadata, .. } => {
                let is_same =
                    |other: &Event| matches!(other, Event::Updated { connection: one, .. } if one == connection);
                if let Some(earlier) = folded.iter().position(is_same)
                    && let Event::Updated { metadata: earlier, .. } = folded.remove(earlier)
                    && *metadata == Metadata::Keep
                {
                    *metadata = earlier;
                }
            }
            Event::Joined { connection, room, .. } | Event::Left { connection, room, .. } => {
                folded.retain(|other| match other {
                    Event::Joined { connection: one, room: other, .. }
                    | Event::Left { connection: one, room: other, .. } => one != connection || other != room,
                    _ => true,
                });
            }
            Event::Abandoned { connection, .. } => folded.retain(|other| match other {
                Event::Updated { connection: one, .. }
                | Event::Joined { connection: one, .. }
                | Event::Left { connection: one, .. } => one != connection,
                _ => true,
            }),
            Event::Ended { connection, user, .. } => {
                let opened =
                    |other: &Event| matches!(other, Event::Opened { connection: one, .. } if one == connection);
                if folded.iter().any(opened)
                    && let Some(earlier) = visits.insert(*user, *connection)
                    && is_without_trace(&folded, earlier)
                {
                    folded.retain(|other| other.connection() != earlier);
                }
            }
            _ => {}
        }
        folded.push(event);
    }
    folded
}
