//! The server's messages as JSON text, appended to the bytes that leave.

use std::io::Write;

use super::json::escape;
use super::{MessageId, Metadata};
use crate::protocol::error::InvalidMessage;
use crate::protocol::status::PresenceStatus;
use crate::protocol::timestamp::Timestamp;
use crate::protocol::user_id::UserId;

/// What CONNECT says. Times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct ConnectFields<'a> {
    /// Whom the server takes the client for.
    pub user_id: &'a UserId,
    /// The server's time.
    pub timestamp: &'a Timestamp,
    /// The session's name, unforgeable.
    pub session_id: &'a str,
    /// Whether the session was one before.
    pub resumed: bool,
    /// The silence after which the server ends the connection; 0 is never.
    pub heartbeat_timeout_ms: u64,
    /// The shortest wait before coming back after an end that nobody announced.
    pub reconnect_min_ms: u64,
    /// The longest such wait.
    pub reconnect_max_ms: u64,
}

/// What is told of one user. What is none is left out.
#[derive(Clone, Copy, Debug)]
pub struct PresenceFields<'a> {
    /// Whose presence it is.
    pub user_id: &'a str,
    /// How the user is.
    pub status: PresenceStatus,
    /// What the user's client attached.
    pub metadata: Option<&'a Metadata>,
    /// When the status began, in milliseconds since 1970.
    pub since_unix_ms: Option<u64>,
    /// When the user was last heard, in milliseconds since 1970: for those who are offline.
    pub last_seen_unix_ms: Option<u64>,
}

/// Appends CONNECT, the first message on every accepted connection.
pub fn write_connect(out: &mut Vec<u8>, fields: &ConnectFields<'_>) {
    out.reserve(320);
    write_text(out, r#"{"type":"CONNECT","userId":"#);
    write_json_string(out, fields.user_id.as_str());
    write_timestamp(out, fields.timestamp);
    write_text(out, r#","payload":{"protocol":1,"sessionId":"#);
    write_json_string(out, fields.session_id);
    write_text(out, r#","resumed":"#);
    write_text(out, if fields.resumed { "true" } else { "false" });
    write_text(out, r#","heartbeatTimeout":"#);
    write_integer(out, fields.heartbeat_timeout_ms);
    write_text(out, r#","reconnect":{"min":"#);
    write_integer(out, fields.reconnect_min_ms);
    write_text(out, r#","max":"#);
    write_integer(out, fields.reconnect_max_ms);
    write_text(out, "}}}");
}

/// Appends HEARTBEAT_ACK, the answer to HEARTBEAT, with the heartbeat's `id` if it had one.
pub fn write_heartbeat_ack(out: &mut Vec<u8>, timestamp: &Timestamp, id: Option<&MessageId<'_>>) {
    write_text(out, r#"{"type":"HEARTBEAT_ACK""#);
    write_id(out, id);
    write_timestamp(out, timestamp);
    write_text(out, "}");
}

/// Appends ACK, the answer to a message with an `id` that has no other.
pub fn write_ack(out: &mut Vec<u8>, timestamp: &Timestamp, id: &MessageId<'_>) {
    write_text(out, r#"{"type":"ACK""#);
    write_id(out, Some(id));
    write_timestamp(out, timestamp);
    write_text(out, "}");
}

/// Appends ERROR, the answer to a message that is wrong, with the message's `id` if it had one that can be echoed.
pub fn write_error(out: &mut Vec<u8>, timestamp: &Timestamp, error: &InvalidMessage, id: Option<&MessageId<'_>>) {
    write_text(out, r#"{"type":"ERROR""#);
    write_id(out, id);
    write_timestamp(out, timestamp);
    write_text(out, r#","payload":{"code":""#);
    write_text(out, error.code());
    write_text(out, r#"","message":""#);
    // The sentences are ASCII that needs no escapes, and writing to a Vec does not fail.
    let _ = write!(out, "{error}");
    write_text(out, r#""}}"#);
}

/// Appends a presence, the object by which messages tell of a user.
pub fn write_presence(out: &mut Vec<u8>, fields: &PresenceFields<'_>) {
    write_text(out, r#"{"userId":"#);
    write_json_string(out, fields.user_id);
    write_text(out, r#","status":""#);
    write_text(out, fields.status.as_str());
    write_text(out, "\"");
    if let Some(metadata) = fields.metadata {
        write_text(out, r#","metadata":"#);
        write_text(out, metadata.as_str());
    }
    if let Some(unix_ms) = fields.since_unix_ms {
        write_text(out, r#","since":""#);
        write_text(out, Timestamp::from_unix_ms(unix_ms).as_str());
        write_text(out, "\"");
    }
    if let Some(unix_ms) = fields.last_seen_unix_ms {
        write_text(out, r#","lastSeen":""#);
        write_text(out, Timestamp::from_unix_ms(unix_ms).as_str());
        write_text(out, "\"");
    }
    write_text(out, "}");
}

/// Appends the member `id` of a message, a comma before it; nothing where there is no id.
pub(crate) fn write_id(out: &mut Vec<u8>, id: Option<&MessageId<'_>>) {
    let Some(id) = id else { return };
    write_text(out, r#","id":"#);
    match id {
        MessageId::Text(text) => write_json_string(out, text),
        MessageId::Unsigned(integer) => write_integer(out, *integer),
        MessageId::Signed(integer) => {
            if *integer < 0 {
                write_text(out, "-");
            }
            write_integer(out, integer.unsigned_abs());
        }
    }
}

/// Appends the member `timestamp` of a message, a comma before it.
pub(crate) fn write_timestamp(out: &mut Vec<u8>, timestamp: &Timestamp) {
    write_text(out, r#","timestamp":""#);
    out.extend_from_slice(timestamp.as_bytes());
    write_text(out, "\"");
}

/// Appends `text` between quotes, escaped where it must be.
pub(crate) fn write_json_string(out: &mut Vec<u8>, text: &str) {
    write_text(out, "\"");
    escape(text, |piece| write_text(out, piece));
    write_text(out, "\"");
}

/// Appends the decimal digits, without the machinery of `fmt`: ids are on the path of every message that has one.
pub(crate) fn write_integer(out: &mut Vec<u8>, mut value: u64) {
    // u64::MAX has 20 digits.
    let mut digits = [b'0'; 20];
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        count += 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[digits.len() - count..]);
}

/// Appends `text`, which is JSON already.
pub(crate) fn write_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::{ClientMessage, MetadataUpdate, Parser};
    use super::*;
    use crate::protocol::error::{ERROR_CODES, Field};
    use crate::protocol::name::NameError;

    const TIME: &str = "2026-11-25T03:54:45.123Z";

    fn timestamp() -> Timestamp {
        Timestamp::from_unix_ms(1_795_578_885_123)
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        // What is there already stays: a frame's header is.
        let mut out = b"before".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    fn metadata(json: &str) -> Metadata {
        let text = format!(r#"{{"type":"PRESENCE_UPDATE","payload":{{"status":"busy","metadata":{json}}}}}"#);
        match Parser::new().parse(&mut text.into_bytes()).body {
            Ok(ClientMessage::PresenceUpdate { metadata: MetadataUpdate::Replace(metadata), .. }) => metadata,
            other => panic!("{other:?}"),
        }
    }

    fn every_error() -> Vec<InvalidMessage> {
        let mut errors = vec![
            InvalidMessage::NotJson,
            InvalidMessage::NotAnObject,
            InvalidMessage::TypeMissing,
            InvalidMessage::TypeUnknown,
            InvalidMessage::StatusUnknown,
            InvalidMessage::MetadataNotAnObject,
            InvalidMessage::MetadataTooLarge { bytes: usize::MAX },
            InvalidMessage::MetadataTooDeep,
            InvalidMessage::BadId,
            InvalidMessage::Forbidden,
            InvalidMessage::BadToken { reason: "The token has expired." },
            InvalidMessage::TooManyUsers { max: u32::MAX },
            InvalidMessage::TooManyRooms { max: u32::MAX },
            InvalidMessage::ServerFull,
            InvalidMessage::Narrowed,
            InvalidMessage::RateLimited,
        ];
        let index = u32::MAX;
        for field in [
            Field::Type,
            Field::Payload,
            Field::Status,
            Field::Active,
            Field::Since,
            Field::Users,
            Field::User(index),
            Field::Room,
            Field::Rooms,
            Field::RoomItem(index),
            Field::RoomItemName(index),
            Field::RoomDetail(index),
        ] {
            errors.push(InvalidMessage::FieldType { field });
            errors.push(InvalidMessage::DetailUnknown { field });
            for error in [NameError::Empty, NameError::TooLong, NameError::ControlCharacter] {
                errors.push(InvalidMessage::BadUserId { field, error });
                errors.push(InvalidMessage::BadRoom { field, error });
            }
        }
        errors
    }

    #[test]
    fn a_presence_has_its_fields_in_order_and_only_those_that_are_there() {
        let metadata = metadata(r#"{"a":[1]}"#);
        let nothing = PresenceFields {
            user_id: "ana \"b\\",
            status: PresenceStatus::Offline,
            metadata: None,
            since_unix_ms: None,
            last_seen_unix_ms: None,
        };
        let since = PresenceFields {
            status: PresenceStatus::Invisible,
            metadata: Some(&metadata),
            since_unix_ms: Some(1_795_578_885_123),
            ..nothing
        };
        let last_seen =
            PresenceFields { since_unix_ms: Some(0), last_seen_unix_ms: Some(1_795_578_885_123), ..nothing };
        for (fields, rest) in [
            (nothing, r#""status":"offline""#),
            (since, r#""status":"invisible","metadata":{"a":[1]},"since":"TIME""#),
            (last_seen, r#""status":"offline","since":"1970-01-01T00:00:00.000Z","lastSeen":"TIME""#),
        ] {
            let expected = format!(r#"{{"userId":"ana \"b\\",{}}}"#, rest.replace("TIME", TIME));
            assert_eq!(written(|out| write_presence(out, &fields)), expected);
        }
    }

    #[test]
    fn messages_have_their_fields_in_order() {
        let id = MessageId::Text("7");
        for (text, expected) in [
            (
                written(|out| {
                    write_connect(
                        out,
                        &ConnectFields {
                            user_id: &UserId::parse("ana \"b\\").unwrap(),
                            timestamp: &timestamp(),
                            session_id: "s-1",
                            resumed: false,
                            heartbeat_timeout_ms: 75_000,
                            reconnect_min_ms: 1000,
                            reconnect_max_ms: u64::MAX,
                        },
                    );
                }),
                concat!(
                    r#"{"type":"CONNECT","userId":"ana \"b\\","timestamp":"TIME","#,
                    r#""payload":{"protocol":1,"sessionId":"s-1","#,
                    r#""resumed":false,"heartbeatTimeout":75000,"reconnect":{"min":1000,"max":18446744073709551615}}}"#
                ),
            ),
            (
                written(|out| write_heartbeat_ack(out, &timestamp(), None)),
                r#"{"type":"HEARTBEAT_ACK","timestamp":"TIME"}"#,
            ),
            (
                written(|out| write_heartbeat_ack(out, &timestamp(), Some(&id))),
                r#"{"type":"HEARTBEAT_ACK","id":"7","timestamp":"TIME"}"#,
            ),
            (written(|out| write_ack(out, &timestamp(), &id)), r#"{"type":"ACK","id":"7","timestamp":"TIME"}"#),
            (
                written(|out| write_error(out, &timestamp(), &InvalidMessage::TypeMissing, None)),
                concat!(
                    r#"{"type":"ERROR","timestamp":"TIME","payload":{"code":"TYPE_MISSING","#,
                    r#""message":"The field `type` is missing."}}"#
                ),
            ),
            (
                written(|out| write_error(out, &timestamp(), &InvalidMessage::TypeMissing, Some(&id))),
                concat!(
                    r#"{"type":"ERROR","id":"7","timestamp":"TIME","payload":{"code":"TYPE_MISSING","#,
                    r#""message":"The field `type` is missing."}}"#
                ),
            ),
        ] {
            assert_eq!(text, expected.replace("TIME", TIME));
        }
    }

    #[test]
    fn the_sentence_of_each_error_needs_no_escapes() {
        let cells: BTreeSet<usize> = every_error().iter().map(InvalidMessage::cell).collect();
        assert!(cells.into_iter().eq(0..ERROR_CODES.len()), "an error code has no error here");
        for error in every_error() {
            let sentence = error.to_string();
            assert!(
                sentence.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'),
                "{sentence}"
            );
            let message: Value =
                serde_json::from_str(&written(|out| write_error(out, &timestamp(), &error, None))).unwrap();
            assert_eq!(
                message,
                json!({ "type": "ERROR", "timestamp": TIME, "payload": { "code": error.code(), "message": sentence } })
            );
        }
    }

    proptest! {
        #[test]
        fn any_presence_is_read_by_another_parser_as_it_was(
            user_id in "\\PC{1,32}",
            status in prop::sample::select(vec![
                PresenceStatus::Online, PresenceStatus::Away, PresenceStatus::Busy, PresenceStatus::Offline,
                PresenceStatus::Invisible,
            ]),
            attached in prop::option::of(prop::collection::btree_map("\\PC{0,4}", any::<i64>(), 0..4)),
            since_unix_ms: Option<u64>,
            last_seen_unix_ms: Option<u64>,
        ) {
            let metadata = attached.as_ref().map(|attached| metadata(&json!(attached).to_string()));
            let fields = PresenceFields {
                user_id: &user_id,
                status,
                metadata: metadata.as_ref(),
                since_unix_ms,
                last_seen_unix_ms,
            };
            let mut expected = json!({ "userId": user_id, "status": status.as_str() });
            let time = |unix_ms: Option<u64>| unix_ms.map(|unix_ms| json!(Timestamp::from_unix_ms(unix_ms).as_str()));
            for (key, value) in [
                ("metadata", attached.map(|attached| json!(attached))),
                ("since", time(since_unix_ms)),
                ("lastSeen", time(last_seen_unix_ms)),
            ] {
                if let Some(value) = value {
                    expected[key] = value;
                }
            }
            let read: Value = serde_json::from_str(&written(|out| write_presence(out, &fields))).unwrap();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn any_text_and_integer_is_echoed_as_another_parser_reads_it(
            text in "([\\x00-\\x22\\\\]|\\PC){0,16}",
            signed: i64,
            unsigned in any::<u64>().prop_flat_map(|value| (0..64_u32).prop_map(move |shift| value >> shift)),
        ) {
            for (id, echoed) in [
                (MessageId::Text(&text), json!(text)),
                (MessageId::Signed(signed), json!(signed)),
                (MessageId::Signed(i64::MIN), json!(i64::MIN)),
                (MessageId::Signed(0), json!(0)),
                (MessageId::Unsigned(unsigned), json!(unsigned)),
            ] {
                let message: Value = serde_json::from_str(&written(|out| write_ack(out, &timestamp(), &id))).unwrap();
                prop_assert_eq!(message, json!({ "type": "ACK", "id": echoed, "timestamp": TIME }));
            }
        }
    }
}
