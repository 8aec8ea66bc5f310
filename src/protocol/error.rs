//! Every way a peer can be wrong, by what it costs: an ERROR message, the connection, or the request.

use std::fmt;

use super::close::CloseCode;
use super::name::NameError;

/// A message that is wrong. Costs an ERROR; the connection stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// Not JSON, or JSON of a kind that this protocol does not take.
    #[error(
        "The message is not valid JSON (duplicate keys, lone surrogates, integers outside 64 bits and floats that are not finite are invalid too)."
    )]
    NotJson,
    /// JSON, but no object.
    #[error("The message must be a JSON object.")]
    NotAnObject,
    /// No `type`.
    #[error("The field `type` is missing.")]
    TypeMissing,
    /// A `type` that this protocol does not have.
    #[error(
        "The field `type` names no message that clients send: HEARTBEAT, PRESENCE_UPDATE, WATCH, UNWATCH, JOIN, LEAVE, CLIENT_STATE, AUTH and DISCONNECT are known."
    )]
    TypeUnknown,
    /// A field of the wrong JSON type, or a required one that is missing.
    #[error("The field `{field}` must be {}.", .field.expected())]
    FieldType {
        /// Which field.
        field: Field,
    },
    /// A status that is none of the known ones.
    #[error("The field `payload.status` must be online, away, busy or invisible.")]
    StatusUnknown,
    /// Metadata that is neither an object nor null.
    #[error("The field `payload.metadata` must be an object or null.")]
    MetadataNotAnObject,
    /// Metadata whose text is too long.
    #[error("The field `payload.metadata` is {bytes} bytes as JSON without spaces; the limit is 4096.")]
    MetadataTooLarge {
        /// The length of its text, re-serialised without spaces.
        bytes: usize,
    },
    /// Metadata with objects or arrays inside each other too often.
    #[error("The field `payload.metadata` is nested deeper than 16, itself being depth 1.")]
    MetadataTooDeep,
    /// An `id` that cannot be echoed.
    #[error("The field `id` must be an integer or a string of at most 64 bytes.")]
    BadId,
    /// A userId that cannot be one.
    #[error("The field `{field}` {error}.")]
    BadUserId {
        /// Where it stands.
        field: Field,
        /// What is wrong with it.
        error: NameError,
    },
    /// A room's name that cannot be one.
    #[error("The field `{field}` {error}.")]
    BadRoom {
        /// Where it stands.
        field: Field,
        /// What is wrong with it.
        error: NameError,
    },
    /// A `detail` that is none of the known ones.
    #[error("The field `{field}` must be full or count.")]
    DetailUnknown {
        /// Where it stands.
        field: Field,
    },
    /// With what the message names, the connection would watch more users than `watched_users_max`.
    #[error("A connection may watch at most {max} users; nothing changed.")]
    TooManyUsers {
        /// The limit in force.
        max: u32,
    },
    /// With what the message names, the connection would watch or be in more rooms than `rooms_max`.
    #[error("A connection may watch at most {max} rooms and be in at most {max}; nothing changed.")]
    TooManyRooms {
        /// The limit in force.
        max: u32,
    },
    /// What the token does not grant.
    #[error("Your token does not grant this.")]
    Forbidden,
    /// A token in AUTH that is not accepted; what was granted before stays.
    #[error("{reason}")]
    BadToken {
        /// Why, as a sentence.
        reason: &'static str,
    },
    /// A newer token that grants less than what was watched and joined; what it does not grant was left.
    #[error("Your new token does not grant all that you watched and were in; what it does not grant was left.")]
    Narrowed,
    /// What the message asks to keep is more than `memory_limit` leaves room for. No fault of the client's.
    #[error("The server is full: `memory_limit` leaves no room for more; try again later.")]
    ServerFull,
    /// More messages than `message_rate` allows. This one was not read.
    #[error("More messages than the server takes of one connection: this one was thrown away. Send fewer.")]
    RateLimited,
}

/// A field of a message, displayed as its path: `payload.rooms[3].detail`. The numbers are places in arrays, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `type`.
    Type,
    /// `payload`.
    Payload,
    /// `payload.status`.
    Status,
    /// `payload.active`.
    Active,
    /// `payload.since`.
    Since,
    /// `payload.token`.
    Token,
    /// `payload.users`.
    Users,
    /// An item of `payload.users`.
    User(u32),
    /// `payload.room`.
    Room,
    /// `payload.rooms`.
    Rooms,
    /// An item of `payload.rooms`.
    RoomItem(u32),
    /// The `room` of an item of `payload.rooms`.
    RoomItemName(u32),
    /// The `detail` of an item of `payload.rooms`.
    RoomDetail(u32),
}

impl Field {
    /// What the field must be, with its article.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Payload => "an object",
            Self::Users | Self::Rooms => "an array",
            Self::RoomItem(_) => "a string or an object",
            Self::Active => "true or false",
            Self::Type
            | Self::Status
            | Self::Since
            | Self::Token
            | Self::User(_)
            | Self::Room
            | Self::RoomItemName(_)
            | Self::RoomDetail(_) => "a string",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type => formatter.write_str("type"),
            Self::Payload => formatter.write_str("payload"),
            Self::Status => formatter.write_str("payload.status"),
            Self::Active => formatter.write_str("payload.active"),
            Self::Since => formatter.write_str("payload.since"),
            Self::Token => formatter.write_str("payload.token"),
            Self::Users => formatter.write_str("payload.users"),
            Self::User(index) => write!(formatter, "payload.users[{index}]"),
            Self::Room => formatter.write_str("payload.room"),
            Self::Rooms => formatter.write_str("payload.rooms"),
            Self::RoomItem(index) => write!(formatter, "payload.rooms[{index}]"),
            Self::RoomItemName(index) => write!(formatter, "payload.rooms[{index}].room"),
            Self::RoomDetail(index) => write!(formatter, "payload.rooms[{index}].detail"),
        }
    }
}

/// Every ERROR code with the sentence of the README's table, in the order of the metric's cells.
pub const ERROR_CODES: [(&str, &str); 20] = [
    ("NOT_JSON", "the message is not valid JSON"),
    ("NOT_AN_OBJECT", "the message is JSON, but not an object"),
    ("TYPE_MISSING", "the field `type` is missing"),
    ("TYPE_UNKNOWN", "`type` names no message that clients send"),
    ("FIELD_TYPE", "a field is missing or of the wrong type"),
    ("STATUS_UNKNOWN", "`payload.status` is none of online, away, busy and invisible"),
    ("METADATA_NOT_AN_OBJECT", "`payload.metadata` is neither an object nor null"),
    ("METADATA_TOO_LARGE", "`payload.metadata` is larger than 4096 bytes"),
    ("METADATA_TOO_DEEP", "`payload.metadata` is nested deeper than 16"),
    ("BAD_ID", "`id` is neither an integer nor a string of at most 64 bytes"),
    ("BAD_USER_ID", "a userId is empty, longer than 128 bytes or has control characters"),
    ("BAD_ROOM", "a room's name is empty, longer than 128 bytes or has control characters"),
    ("DETAIL_UNKNOWN", "`detail` of a room is neither full nor count"),
    ("TOO_MANY_USERS", "the connection would watch more users than it may; nothing changed"),
    ("TOO_MANY_ROOMS", "the connection would watch or be in more rooms than it may; nothing changed"),
    ("FORBIDDEN", "the token does not grant what the message asks for; nothing changed"),
    ("BAD_TOKEN", "the token of AUTH is not accepted; what was granted before stays"),
    ("SERVER_FULL", "the server has no memory for what the message asks it to keep"),
    ("NARROWED", "the new token of AUTH grants less; what was watched or joined beyond it was left"),
    ("RATE_LIMITED", "the message is over `message_rate` and was thrown away unread"),
];

impl InvalidMessage {
    /// The place of this error in [`ERROR_CODES`] and among the metric's cells.
    pub fn cell(&self) -> usize {
        match self {
            Self::NotJson => 0,
            Self::NotAnObject => 1,
            Self::TypeMissing => 2,
            Self::TypeUnknown => 3,
            Self::FieldType { .. } => 4,
            Self::StatusUnknown => 5,
            Self::MetadataNotAnObject => 6,
            Self::MetadataTooLarge { .. } => 7,
            Self::MetadataTooDeep => 8,
            Self::BadId => 9,
            Self::BadUserId { .. } => 10,
            Self::BadRoom { .. } => 11,
            Self::DetailUnknown { .. } => 12,
            Self::TooManyUsers { .. } => 13,
            Self::TooManyRooms { .. } => 14,
            Self::Forbidden => 15,
            Self::BadToken { .. } => 16,
            Self::ServerFull => 17,
            Self::Narrowed => 18,
            Self::RateLimited => 19,
        }
    }

    /// The code of the ERROR message.
    pub fn code(&self) -> &'static str {
        ERROR_CODES[self.cell()].0
    }
}

/// The peer broke RFC 6455 or a limit of the server's. Costs the peer its connection, nobody else anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A frame without a mask (RFC 6455 §5.1).
    #[error("a client's frames must be masked")]
    Unmasked,
    /// RSV1, RSV2 or RSV3 set, though no extension was negotiated (§5.2).
    #[error("a reserved bit is set, and no extension was negotiated")]
    ReservedBits,
    /// An opcode that RFC 6455 reserves (§5.2).
    #[error("the frame's opcode is reserved")]
    ReservedOpcode,
    /// A length in more bytes than it needs (§5.2).
    #[error("the frame's length is not in its shortest form")]
    LengthNotMinimal,
    /// A 64-bit length with its top bit set (§5.2).
    #[error("the frame's length has its top bit set")]
    LengthTopBit,
    /// A control frame in fragments (§5.4).
    #[error("control frames must not be fragmented")]
    ControlFragmented,
    /// A control frame of more than 125 bytes (§5.5).
    #[error("control frames carry at most 125 bytes")]
    ControlTooLong,
    /// A continuation frame with nothing to continue (§5.4).
    #[error("a continuation frame has nothing to continue")]
    NothingToContinue,
    /// A new message before the last one's end (§5.4).
    #[error("a new message began before the last one ended")]
    MessageUnfinished,
    /// A close frame of one byte, or with a code that must not be sent (§5.5.1, §7.4).
    #[error("the close frame's code is invalid")]
    InvalidCloseCode,
    /// A binary message where only text is spoken.
    #[error("messages must be text, not binary")]
    Binary,
    /// Text, or a close frame's reason, that is not UTF-8 (§8.1).
    #[error("text must be UTF-8")]
    InvalidUtf8,
    /// A message larger than `max_message`.
    #[error("the message is larger than {bytes_max} bytes")]
    TooBig {
        /// The limit in force.
        bytes_max: usize,
    },
    /// A message in more frames than `max_frames`.
    #[error("the message comes in more than {frames_max} frames")]
    TooManyFrames {
        /// The limit in force.
        frames_max: u32,
    },
    /// A message whose last byte did not come within `message_timeout` of its first.
    #[error("the message took longer than {seconds} s to arrive")]
    TooSlow {
        /// The limit in force, in whole seconds, rounded up.
        seconds: u64,
    },
}

impl Violation {
    /// The code of the close frame (RFC 6455 §7.4.1).
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Binary => CloseCode::Unsupported,
            Self::InvalidUtf8 => CloseCode::InvalidUtf8,
            Self::TooBig { .. } => CloseCode::TooBig,
            Self::TooManyFrames { .. } | Self::TooSlow { .. } => CloseCode::Policy,
            _ => CloseCode::Protocol,
        }
    }
}

/// A request that is not upgraded, with the HTTP status that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No HTTP request, or one that contradicts itself.
    #[error("The request is not valid HTTP/1.1.")]
    BadRequest,
    /// An upgrade request with a body.
    #[error("A request to upgrade must not have a body.")]
    Body,
    /// `Sec-WebSocket-Key` missing, doubled, or not 16 bytes in base64 (RFC 6455 §4.2.1).
    #[error("The header Sec-WebSocket-Key must be there once, and hold 16 bytes in base64.")]
    BadKey,
    /// A path that is served neither here nor by control.
    #[error("There is nothing here: connect a WebSocket to / or /ws.")]
    NotFound,
    /// A method other than GET where only GET is served.
    #[error("Only GET is served here.")]
    MethodNotAllowed,
    /// The request line is longer than the whole head may be.
    #[error("The request line is longer than `max_request`.")]
    UriTooLong,
    /// The head is longer than `max_request` or has more than 100 headers.
    #[error("The request's headers are larger than `max_request` or more than 100.")]
    HeadersTooLarge,
    /// `GET /` without an upgrade, or another version of the protocol (RFC 6455 §4.4).
    #[error("Connect with a WebSocket client, version 13.")]
    UpgradeRequired,
    /// The head did not come within `handshake_timeout`.
    #[error("The request took too long to arrive.")]
    Timeout,
    /// `max_connections` are open.
    #[error("The server is full; try again later.")]
    Full,
    /// What connections hold has reached `memory_limit`.
    #[error("The server has no memory for another connection; try again later.")]
    Memory,
    /// No file descriptor is left for another connection.
    #[error("The server has no descriptor left; try again later.")]
    NoDescriptor,
    /// The server stops.
    #[error("The server is stopping; try again later.")]
    Draining,
    /// No TLS came about in which a request could be heard, nor the answer.
    #[error("The TLS handshake failed.")]
    Tls,
    /// No token where one is needed, or one that is not accepted; the response says which.
    #[error("A valid token is needed.")]
    Unauthorized,
    /// A page of an origin that is not in `allowed_origins`.
    #[error("This page may not connect here.")]
    Origin,
    /// A host that is not in `allowed_hosts`.
    #[error("This is not the host that the request is for.")]
    Host,
    /// Neither the keys of tokens nor `auth_url` can be had.
    #[error("Who you are cannot be verified now; try again later.")]
    AuthUnavailable,
    /// More upgrades from one address than `upgrade_rate_per_address`.
    #[error("Too many connections from this address; try again later.")]
    UpgradeRate,
    /// No PROXY header, or an invalid one, from a network of `proxy_protocol_from`.
    #[error("A connection from here must begin with a PROXY header.")]
    ProxyHeaderRequired,
    /// A PROXY header from elsewhere.
    #[error("A PROXY header is not taken from here.")]
    ProxyHeaderUnasked,
    /// Two forwarding headers that name different clients, or one that cannot be read.
    #[error("The header Forwarded cannot be read, or names another client than X-Forwarded-For.")]
    ForwardedTwice,
}

/// Every refusal with its HTTP status and the label that `rollcall_refusals_total{reason}` gives it, in
/// the order of the metric's cells.
pub const REFUSALS: [(Refusal, u16, &str); 22] = [
    (Refusal::BadRequest, 400, "bad_request"),
    (Refusal::Body, 400, "body"),
    (Refusal::BadKey, 400, "bad_key"),
    (Refusal::NotFound, 404, "not_found"),
    (Refusal::MethodNotAllowed, 405, "method_not_allowed"),
    (Refusal::UriTooLong, 414, "uri_too_long"),
    (Refusal::HeadersTooLarge, 431, "headers_too_large"),
    (Refusal::UpgradeRequired, 426, "upgrade_required"),
    (Refusal::Timeout, 408, "timeout"),
    (Refusal::Full, 503, "full"),
    (Refusal::Memory, 503, "memory"),
    (Refusal::NoDescriptor, 503, "no_descriptor"),
    (Refusal::Draining, 503, "draining"),
    (Refusal::Tls, 400, "tls"),
    (Refusal::Unauthorized, 401, "unauthorized"),
    (Refusal::Origin, 403, "origin"),
    (Refusal::Host, 421, "host"),
    (Refusal::AuthUnavailable, 503, "auth_unavailable"),
    (Refusal::UpgradeRate, 429, "upgrade_rate"),
    (Refusal::ProxyHeaderRequired, 400, "proxy_header_required"),
    (Refusal::ProxyHeaderUnasked, 400, "proxy_header_unasked"),
    (Refusal::ForwardedTwice, 400, "forwarded_twice"),
];

impl Refusal {
    /// The place of this refusal in [`REFUSALS`] and among the metric's cells.
    pub fn cell(self) -> usize {
        self as usize
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        REFUSALS[self.cell()].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_stands_at_its_own_cell() {
        for (index, (refusal, status, _)) in REFUSALS.iter().enumerate() {
            assert_eq!(refusal.cell(), index);
            assert_eq!(refusal.status(), *status);
        }
    }
}
