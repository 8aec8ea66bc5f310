//! What clients and server say to each other: JSON text to typed messages, and back.
//!
//! A message is JSON as RFC 8259 has it, with what that leaves open decided: a key may stand once in an object, an
//! escaped surrogate needs its other half, and a number is an integer of 64 bits or a finite float. Depth has no limit
//! of its own beside the message's size: nothing here recurses.

mod fuzz;
mod heartbeat;
pub(crate) mod json;
mod metadata;
mod parse;
mod watch;
pub(crate) mod write;

use std::fmt;

use super::error::InvalidMessage;
use super::room_name::RoomName;
use super::status::Status;

#[doc(hidden)]
pub use fuzz::fuzz;
pub use metadata::{METADATA_BYTES_MAX, METADATA_DEPTH_MAX, Metadata};
pub use parse::Parser;
pub use watch::{Detail, Unwatch, Watch, WatchedRoom};
pub use write::{
    ConnectFields, PresenceFields, write_ack, write_connect, write_error, write_heartbeat_ack, write_presence,
};

/// The longest text that an `id` may be, in bytes of UTF-8, escapes resolved.
pub const MESSAGE_ID_BYTES_MAX: usize = 64;

/// What [`Parser::parse`] found in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// The `id` that the answer carries, an ERROR too. None where there was none, or none that can be echoed.
    pub id: Option<MessageId<'a>>,
    /// The message, or what is wrong with it.
    pub body: Result<ClientMessage, InvalidMessage>,
}

/// An `id`, the client's own name for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageId<'a> {
    /// At most [`MESSAGE_ID_BYTES_MAX`] bytes, escapes resolved; may be empty.
    Text(&'a str),
    /// An integer below 0.
    Signed(i64),
    /// Any other integer. `-0` is 0.
    Unsigned(u64),
}

/// A message that a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// The client is there.
    Heartbeat,
    /// The connection's presence from now on.
    PresenceUpdate {
        /// How the user is.
        status: Status,
        /// What becomes of the metadata.
        metadata: MetadataUpdate,
    },
    /// The client is done.
    Disconnect,
    /// The client wants to be told of users and rooms.
    Watch(Box<Watch>),
    /// The client wants to be told of them no more.
    Unwatch(Box<Unwatch>),
    /// The connection is in a room.
    Join {
        /// Which room.
        room: Box<RoomName>,
    },
    /// The connection is in a room no more.
    Leave {
        /// Which room.
        room: Box<RoomName>,
    },
    /// Whether anybody looks at the client.
    ClientState {
        /// False where nothing is to be told until it is true again.
        active: bool,
    },
    /// The client says who it is.
    Authenticate {
        /// By this.
        token: Token,
    },
}

/// A token in AUTH.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub Box<str>);

/// Tells the length alone: whoever has the token is taken for its user.
impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Token({} bytes)", self.0.len())
    }
}

// Nearly all messages are heartbeats, and each is moved about at the size of the largest.
const _: () = assert!(size_of::<ClientMessage>() <= 32);

/// What a PRESENCE_UPDATE does to the connection's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataUpdate {
    /// Leaves it: the field was absent.
    Keep,
    /// Takes it away: the field was null.
    Clear,
    /// Puts this in its place.
    Replace(Metadata),
}
