//! The server's messages as JSON text, appended to the bytes that leave.

use std::io::Write;

use super::MessageId;
use super::json::escape;
use crate::protocol::error::InvalidMessage;
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

/// Appends CONNECT, the first message on every accepted connection.
pub fn write_connect(out: &mut Vec<u8>, fields: &ConnectFields<'_>) {
    out.reserve(320);
    write_text(out, r#"{"type":"CONNECT","userId":"#);
    write_string(out, fields.user_id.as_str());
    write_timestamp(out, fields.timestamp);
    write_text(out, r#","payload":{"protocol":1,"sessionId":"#);
    write_string(out, fields.session_id);
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

fn write_id(out: &mut Vec<u8>, id: Option<&MessageId<'_>>) {
    let Some(id) = id else { return };
    write_text(out, r#","id":"#);
    match id {
        MessageId::Text(text) => write_string(out, text),
        MessageId::Unsigned(integer) => write_integer(out, *integer),
        MessageId::Signed(integer) => {
            if *integer < 0 {
                write_text(out, "-");
            }
            write_integer(out, integer.unsigned_abs());
        }
    }
}

fn write_timestamp(out: &mut Vec<u8>, timestamp: &Timestamp) {
    write_text(out, r#","timestamp":""#);
    out.extend_from_slice(timestamp.as_bytes());
    write_text(out, "\"");
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    write_text(out, "\"");
    escape(text, |piece| write_text(out, piece));
    write_text(out, "\"");
}

/// The decimal digits, without the machinery of `fmt`: ids are on the path of every message that has one.
fn write_integer(out: &mut Vec<u8>, mut value: u64) {
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

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

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
        ];
        for (field, expected) in [("type", "a string"), ("payload", "an object"), ("payload.status", "a string")] {
            errors.push(InvalidMessage::FieldType { field, expected });
        }
        errors
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
