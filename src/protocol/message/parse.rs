//! JSON text to a message, or to the one thing that is wrong with it.

use std::hash::RandomState;
use std::mem;

use simd_json::{Buffers, Node, StaticNode, Tape};

use super::heartbeat::is_plain_heartbeat;
use super::json::{Members, has_duplicate_keys};
use super::watch::{Unwatch, Watch, read_room};
use super::{ClientMessage, MESSAGE_ID_BYTES_MAX, MessageId, Metadata, MetadataUpdate, Parsed, Token};
use crate::protocol::error::{Field, InvalidMessage};
use crate::protocol::status::Status;

/// Texts up to this length, the default of `max_message`, are parsed with memory that is kept for the next: less than
/// 8 MiB of it if they are nothing but brackets. For a longer one memory is made and given back, so that one large
/// message does not weigh on its shard for good.
const KEPT_TEXT_BYTES_MAX: usize = 64 * 1024;

/// Reads messages. One serves a whole shard: it keeps memory between messages, and nothing else.
pub struct Parser {
    buffers: Buffers,
    /// Empty between messages.
    tape: Tape<'static>,
    metadata_text: String,
    hash_keys: RandomState,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser that holds little memory yet.
    pub fn new() -> Self {
        Self {
            // No limit of depth: the tape is built and read without recursion, and what it takes is bounded by the
            // text's length.
            buffers: Buffers::with_max_depth(0, usize::MAX),
            tape: Tape(Vec::new()),
            metadata_text: String::new(),
            hash_keys: RandomState::new(),
        }
    }

    /// Reads the message that `text` is, a whole one in valid UTF-8. The text is scratch space afterwards, but for what
    /// the result borrows from it.
    ///
    /// Of several errors the first of these is told: not JSON, not an object, `id`, `type`, `payload`, `status`,
    /// `metadata` (its type, its depth, its length), `users` and `rooms` from their first item on, `since`. With the
    /// first two, and when `id` is the error, there is no id to answer with.
    pub fn parse<'a>(&mut self, text: &'a mut [u8]) -> Parsed<'a> {
        if is_plain_heartbeat(text) {
            return Parsed { id: None, body: Ok(ClientMessage::Heartbeat) };
        }
        if text.len() > KEPT_TEXT_BYTES_MAX {
            return Self::new().parse_any(text);
        }
        self.parse_any(text)
    }

    /// [`parse`](Self::parse) without its short way for the heartbeats that most messages are.
    pub(crate) fn parse_any<'a>(&mut self, text: &'a mut [u8]) -> Parsed<'a> {
        let mut tape = mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed = match simd_json::fill_tape(text, &mut self.buffers, &mut tape) {
            Ok(()) => self.read(&tape.0),
            Err(_) => Err(InvalidMessage::NotJson),
        };
        self.tape = tape.reset();
        parsed.unwrap_or_else(|error| Parsed { id: None, body: Err(error) })
    }

    /// Fails with the errors that leave no id to answer with.
    fn read<'a>(&mut self, tape: &[Node<'a>]) -> Result<Parsed<'a>, InvalidMessage> {
        if has_duplicate_keys(tape, &self.hash_keys) {
            return Err(InvalidMessage::NotJson);
        }
        let Some(Node::Object { .. }) = tape.first() else {
            return Err(InvalidMessage::NotAnObject);
        };
        let (mut id, mut kind, mut payload) = (None, None, None);
        for (key, value) in Members::of(tape) {
            match key {
                "id" => id = Some(read_id(value)?),
                "type" => kind = value.first(),
                "payload" => payload = Some(value),
                _ => {}
            }
        }
        Ok(Parsed { id, body: self.read_body(kind, payload) })
    }

    fn read_body(
        &mut self,
        kind: Option<&Node<'_>>,
        payload: Option<&[Node<'_>]>,
    ) -> Result<ClientMessage, InvalidMessage> {
        match kind {
            Some(Node::String("HEARTBEAT")) => Ok(ClientMessage::Heartbeat),
            Some(Node::String("PRESENCE_UPDATE")) => self.read_presence_update(members(payload)?),
            Some(Node::String("DISCONNECT")) => Ok(ClientMessage::Disconnect),
            Some(Node::String("WATCH")) => {
                Watch::read(members(payload)?).map(|watch| ClientMessage::Watch(Box::new(watch)))
            }
            Some(Node::String("UNWATCH")) => {
                Unwatch::read(members(payload)?).map(|unwatch| ClientMessage::Unwatch(Box::new(unwatch)))
            }
            Some(Node::String("JOIN")) => read_room(members(payload)?).map(|room| ClientMessage::Join { room }),
            Some(Node::String("LEAVE")) => read_room(members(payload)?).map(|room| ClientMessage::Leave { room }),
            Some(Node::String("CLIENT_STATE")) => read_client_state(members(payload)?),
            Some(Node::String("AUTH")) => read_authenticate(members(payload)?),
            Some(Node::String(_)) => Err(InvalidMessage::TypeUnknown),
            Some(_) => Err(InvalidMessage::FieldType { field: Field::Type }),
            None => Err(InvalidMessage::TypeMissing),
        }
    }

    fn read_presence_update(&mut self, payload: Members<'_, '_>) -> Result<ClientMessage, InvalidMessage> {
        let (mut status, mut metadata) = (None, None);
        for (key, value) in payload {
            match key {
                "status" => status = value.first(),
                "metadata" => metadata = Some(value),
                _ => {}
            }
        }
        let Some(Node::String(word)) = status else {
            return Err(InvalidMessage::FieldType { field: Field::Status });
        };
        Ok(ClientMessage::PresenceUpdate {
            status: Status::parse(word).ok_or(InvalidMessage::StatusUnknown)?,
            metadata: self.read_metadata(metadata)?,
        })
    }

    fn read_metadata(&mut self, value: Option<&[Node<'_>]>) -> Result<MetadataUpdate, InvalidMessage> {
        let Some(nodes) = value else {
            return Ok(MetadataUpdate::Keep);
        };
        match nodes.first() {
            Some(Node::Static(StaticNode::Null)) => Ok(MetadataUpdate::Clear),
            Some(Node::Object { .. }) => {
                Metadata::from_object(nodes, &mut self.metadata_text).map(MetadataUpdate::Replace)
            }
            _ => Err(InvalidMessage::MetadataNotAnObject),
        }
    }
}

/// The members of a payload that must be there.
fn members<'tape, 'text>(payload: Option<&'tape [Node<'text>]>) -> Result<Members<'tape, 'text>, InvalidMessage> {
    match payload {
        Some(nodes @ [Node::Object { .. }, ..]) => Ok(Members::of(nodes)),
        _ => Err(InvalidMessage::FieldType { field: Field::Payload }),
    }
}

fn read_client_state(mut payload: Members<'_, '_>) -> Result<ClientMessage, InvalidMessage> {
    let active = payload.find(|(key, _)| *key == "active").and_then(|(_, value)| value.first());
    match active {
        Some(Node::Static(StaticNode::Bool(active))) => Ok(ClientMessage::ClientState { active: *active }),
        _ => Err(InvalidMessage::FieldType { field: Field::Active }),
    }
}

fn read_authenticate(mut payload: Members<'_, '_>) -> Result<ClientMessage, InvalidMessage> {
    let token = payload.find(|(key, _)| *key == "token").and_then(|(_, value)| value.first());
    match token {
        Some(Node::String(token)) => Ok(ClientMessage::Authenticate { token: Token(Box::from(*token)) }),
        _ => Err(InvalidMessage::FieldType { field: Field::Token }),
    }
}

fn read_id<'a>(value: &[Node<'a>]) -> Result<MessageId<'a>, InvalidMessage> {
    match value.first() {
        Some(Node::String(text)) if text.len() <= MESSAGE_ID_BYTES_MAX => Ok(MessageId::Text(text)),
        // `-0` comes as signed too.
        Some(Node::Static(StaticNode::I64(integer))) => {
            Ok(u64::try_from(*integer).map_or(MessageId::Signed(*integer), MessageId::Unsigned))
        }
        Some(Node::Static(StaticNode::U64(integer))) => Ok(MessageId::Unsigned(*integer)),
        _ => Err(InvalidMessage::BadId),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::collections::HashSet;
    use std::fmt;

    use proptest::prelude::*;
    use proptest::sample::Index;
    use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
    use serde_json::Value;

    use super::*;

    const HEARTBEAT: Result<ClientMessage, InvalidMessage> = Ok(ClientMessage::Heartbeat);

    /// Parses with a parser that has other messages behind it, and compares with a new one.
    fn with_parsed<T>(text: impl AsRef<[u8]>, check: impl FnOnce(Parsed<'_>) -> T) -> T {
        let mut parser = Parser::new();
        for before in [
            r#"{"type":"HEARTBEAT","id":"before"}"#,
            "[[[",
            r#"{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{"before":[1]}}}"#,
        ] {
            parser.parse(&mut before.as_bytes().to_vec());
        }
        let mut used = text.as_ref().to_vec();
        let mut unused = used.clone();
        let parsed = parser.parse(&mut used);
        assert_eq!(parsed, Parser::new().parse_any(&mut unused));
        check(parsed)
    }

    fn body(text: impl AsRef<[u8]>) -> Result<ClientMessage, InvalidMessage> {
        with_parsed(text, |parsed| parsed.body)
    }

    fn is_json(text: impl AsRef<[u8]>) -> bool {
        body(text) != Err(InvalidMessage::NotJson)
    }

    fn presence_update(payload: &str) -> Result<ClientMessage, InvalidMessage> {
        body(format!(r#"{{"type":"PRESENCE_UPDATE","payload":{payload}}}"#))
    }

    fn field_type(field: Field) -> InvalidMessage {
        InvalidMessage::FieldType { field }
    }

    #[test]
    fn each_type_is_known_by_its_name() {
        assert_eq!(body(r#"{"type":"HEARTBEAT"}"#), HEARTBEAT);
        assert_eq!(body("\t{ \"type\"\r\n:\"\\u0048EARTBEAT\" } "), HEARTBEAT);
        assert_eq!(body(r#"{"type":"DISCONNECT"}"#), Ok(ClientMessage::Disconnect));
        assert_eq!(
            presence_update(r#"{"status":"away"}"#),
            Ok(ClientMessage::PresenceUpdate { status: Status::Away, metadata: MetadataUpdate::Keep })
        );
        for kind in ["", "heartbeat", "HEARTBEAT ", "CONNECT", "ACK", "PRESENCE_STATE", "PRESENCE_CHANGE"] {
            assert_eq!(body(format!(r#"{{"type":"{kind}"}}"#)), Err(InvalidMessage::TypeUnknown), "{kind:?}");
        }
        for kind in ["null", "1", "1.5", "true", "{}", r#"["HEARTBEAT"]"#] {
            assert_eq!(body(format!(r#"{{"type":{kind}}}"#)), Err(field_type(Field::Type)), "{kind}");
        }
        for text in ["{}", r#"{"Type":"HEARTBEAT"}"#, r#"{"payload":{"type":"HEARTBEAT"}}"#] {
            assert_eq!(body(text), Err(InvalidMessage::TypeMissing), "{text}");
        }
    }

    #[test]
    fn a_token_is_a_string_and_is_not_shown() {
        let auth = |payload: &str| body(format!(r#"{{"type":"AUTH","payload":{payload}}}"#));
        let message = auth(r#"{"token":"a.b\u002ec","x":1}"#).unwrap();
        assert_eq!(message, ClientMessage::Authenticate { token: Token("a.b.c".into()) });
        assert_eq!(format!("{message:?}"), "Authenticate { token: Token(5 bytes) }");
        for payload in ["{}", r#"{"token":null}"#, r#"{"token":1}"#, r#"{"token":["a"]}"#] {
            assert_eq!(auth(payload), Err(field_type(Field::Token)), "{payload}");
        }
        for payload in ["null", "[]", "\"a.b.c\""] {
            assert_eq!(auth(payload), Err(field_type(Field::Payload)), "{payload}");
        }
    }

    #[test]
    fn fields_that_a_message_does_not_define_are_ignored() {
        for fields in [
            r#""x":1"#,
            r#""timestamp":null"#,
            r#""timestamp":{"a":[]}"#,
            r#""payload":null"#,
            r#""payload":[{"status":7}]"#,
            r#""payload":{"metadata":1}"#,
            r#""x":{"id":null,"type":7},"y":[[{"z":{}}]]"#,
        ] {
            assert_eq!(body(format!(r#"{{{fields},"type":"HEARTBEAT"}}"#)), HEARTBEAT, "{fields}");
            assert_eq!(body(format!(r#"{{"type":"DISCONNECT",{fields}}}"#)), Ok(ClientMessage::Disconnect), "{fields}");
        }
        assert!(presence_update(r#"{"x":{"status":1},"status":"busy","type":null}"#).is_ok());
    }

    #[test]
    fn json_that_is_no_object_is_told_apart_from_no_json() {
        for text in
            ["[]", r#"["HEARTBEAT"]"#, r#"[{"type":"HEARTBEAT"}]"#, "null", "true", "false", "1", "-1.5", "\"\"", " 0 "]
        {
            assert_eq!(body(text), Err(InvalidMessage::NotAnObject), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "\n",
            "\0",
            "{",
            "}",
            "[",
            "]",
            "\"",
            "\\",
            ",",
            ":",
            "{]",
            "[}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "[,]",
            "[1,]",
            "[1 2]",
            "{\"a\" 1}",
            "{a:1}",
            "{'a':1}",
            "{1:1}",
            "{\"a\":1 \"b\":2}",
            "{}{}",
            "{} x",
            "{}]",
            "{}\0",
            "[1]//",
            "/**/{}",
            "{\"a\":1}\"",
            "\"a\"b",
            "[\"a\"b]",
            "[\"a\"\"b\"]",
            "\u{feff}{}",
            "tru",
            "truee",
            "nul",
            "nulll",
            "fals",
            "True",
            "NaN",
            "Infinity",
            "-Infinity",
            "undefined",
            "[NaN]",
            "{\"a\":-Infinity}",
        ] {
            assert_eq!(body(text), Err(InvalidMessage::NotJson), "{text:?}");
        }
        assert_eq!(body(b"{\"a\":\"\xff\"}"), Err(InvalidMessage::NotJson));
        assert_eq!(body(b"{\"a\":\"\xed\xa0\x80\"}"), Err(InvalidMessage::NotJson));
    }

    #[test]
    fn only_the_numbers_of_json_are_taken() {
        for number in [
            "01",
            "-01",
            "00",
            "-",
            "+1",
            "1.",
            "-1.",
            ".5",
            "-.5",
            "1.e5",
            "1e",
            "1e+",
            "1E-",
            "1.5e",
            "0x10",
            "1_000",
            "1e1.5",
            "--1",
            "1-",
            "1a",
            "0e",
            "1.5.5",
            "1,5e",
            "٣",
            "1e5e5",
            "0.5x",
            "12345678901234567890x",
            "1 2",
        ] {
            assert!(!is_json(format!(r#"{{"a":{number}}}"#)), "{number}");
            assert!(!is_json(format!("[{number}]")), "{number}");
            assert!(!is_json(number), "{number}");
        }
        for number in [
            "0",
            "-0",
            "-0.0",
            "1.5",
            "1E5",
            "1e+05",
            "1e-0",
            "0e0",
            "0E99999999999999999999",
            "1e-99999999999999999999",
        ] {
            assert!(is_json(format!(r#"{{"a":{number}}}"#)), "{number}");
            assert!(is_json(number), "{number}");
        }
    }

    #[test]
    fn integers_beyond_64_bits_and_floats_beyond_finite_are_no_json() {
        for number in [
            "-9223372036854775809",
            "18446744073709551616",
            "-18446744073709551616",
            "-18446744073709551617",
            "100000000000000000000",
            "36893488147419103232",
            "340282366920938463463374607431768211456",
            "1e309",
            "1e400",
            "-1e400",
            "1.8e308",
            "0.1e310",
            "1e99999999999999999999",
        ] {
            assert!(!is_json(format!(r#"{{"type":"HEARTBEAT","x":[{number}]}}"#)), "{number}");
        }
        assert!(!is_json(format!("[{}]", "9".repeat(5000))));
        assert!(!is_json(format!("[{}.5]", "9".repeat(5000))));
        for number in
            ["-9223372036854775808", "18446744073709551615", "1.7976931348623157e308", "18446744073709551616.0"]
        {
            assert!(is_json(format!(r#"{{"type":"HEARTBEAT","x":[{number}]}}"#)), "{number}");
        }
        assert!(is_json(format!("[0.{}]", "9".repeat(5000))));
    }

    #[test]
    fn a_surrogate_without_its_other_half_is_no_json() {
        for escape in [
            r"\ud800",
            r"\udfff",
            r"\udc00\ud800",
            r"\ud800\ud800",
            r"\ud800x",
            r"\ud800\n",
            r"\ud800\u0041",
            r"\ud83d\\ude00",
            r"\ud800\udc0",
            r"\ud800 \udc00",
        ] {
            for padding in ["", "x".repeat(30).as_str(), "x".repeat(61).as_str()] {
                assert!(!is_json(format!(r#"{{"a":"{padding}{escape}"}}"#)), "{escape}");
                assert!(!is_json(format!(r#"{{"{padding}{escape}":1}}"#)), "{escape}");
            }
        }
        assert!(is_json(r#"{"a":"\ud83d\ude00\uD83D\uDE00"}"#));
    }

    #[test]
    fn only_the_escapes_of_json_are_taken() {
        for byte in 0x20..0x7f_u8 {
            let is_escape = b"\"\\/bfnrt".contains(&byte);
            assert_eq!(is_json([b"{\"a\":\"\\", &[byte][..], b"x\"}"].concat()), is_escape, "{:?}", byte as char);
        }
        for escape in [r"\u", r"\u1", r"\u12", r"\u123", r"\u123g", r"\u+123", r"\u 123", r"\x41", r"\U0041"] {
            assert!(!is_json(format!(r#"{{"a":"{escape}"}}"#)), "{escape}");
        }
    }

    #[test]
    fn control_characters_in_strings_must_be_escaped() {
        for byte in 0..0x20_u8 {
            for padding in [0, 31, 63, 64, 100] {
                let text = [&b"{\"a\":\""[..], &b"x".repeat(padding), &[byte], b"\"}"].concat();
                assert!(!is_json(text), "{byte:#x} after {padding}");
            }
        }
        assert!(is_json("{\"a\":\"\u{7f}\u{85}\u{2028}\"}"));
    }

    #[test]
    fn only_four_characters_are_space_between_values() {
        for code in (0..=0xff).chain([0x1680, 0x2003, 0x2028, 0x3000, 0xfeff]) {
            let space = char::from_u32(code).unwrap();
            let is_space = matches!(space, ' ' | '\t' | '\n' | '\r');
            assert_eq!(is_json(format!("{{\"a\"{space}:1}}")), is_space, "{code:#x} after a key");
            if !space.is_ascii_digit() {
                assert_eq!(is_json(format!("[1{space}]")), is_space, "{code:#x} after a number");
            }
            assert_eq!(is_json(format!("{space}{{}}")), is_space, "{code:#x} at the start");
            assert_eq!(is_json(format!("{{}}{space}")), is_space, "{code:#x} at the end");
        }
    }

    #[test]
    fn a_key_given_twice_anywhere_is_no_json() {
        for text in [
            r#"{"type":"HEARTBEAT","type":"HEARTBEAT"}"#,
            r#"{"type":"HEARTBEAT","\u0074ype":"HEARTBEAT"}"#,
            r#"{"type":"HEARTBEAT","x":[{"a":1,"a":1}]}"#,
            r#"{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{"a":{"b":1,"b":2}}}}"#,
            r#"[{"a":1,"a":1}]"#,
            r#"{"id":null,"x":{"a":1,"a":1}}"#,
        ] {
            assert_eq!(body(text), Err(InvalidMessage::NotJson), "{text}");
        }
    }

    #[test]
    fn depth_alone_is_no_error_and_costs_no_stack() {
        let (open, close) = ("[".repeat(30_000), "]".repeat(30_000));
        assert_eq!(body(&open), Err(InvalidMessage::NotJson));
        assert_eq!(body(format!("{open}{close}")), Err(InvalidMessage::NotAnObject));
        assert_eq!(body(format!(r#"{{"type":"HEARTBEAT","x":{open}{close}}}"#)), HEARTBEAT);
        assert_eq!(
            presence_update(&format!(r#"{{"status":"busy","metadata":{{"x":{open}{close}}}}}"#)),
            Err(InvalidMessage::MetadataTooDeep)
        );
        let objects = format!("{}1{}", r#"{"":"#.repeat(10_000), "}".repeat(10_000));
        assert_eq!(body(format!(r#"{{"type":"HEARTBEAT","x":{objects}}}"#)), HEARTBEAT);
        assert_eq!(
            body(format!(r#"{{"type":"HEARTBEAT","x":{}"#, r#"{"":"#.repeat(10_000))),
            Err(InvalidMessage::NotJson)
        );
    }

    #[test]
    fn an_id_is_an_integer_or_a_string_of_at_most_64_bytes() {
        let longest = "é".repeat(32);
        for (json, id) in [
            ("0".to_owned(), MessageId::Unsigned(0)),
            ("-0".to_owned(), MessageId::Unsigned(0)),
            ("-7".to_owned(), MessageId::Signed(-7)),
            (i64::MIN.to_string(), MessageId::Signed(i64::MIN)),
            (u64::MAX.to_string(), MessageId::Unsigned(u64::MAX)),
            (r#""""#.to_owned(), MessageId::Text("")),
            (r#""a\"\u0000\ud83d\ude00""#.to_owned(), MessageId::Text("a\"\0😀")),
            (format!("\"{longest}\""), MessageId::Text(&longest)),
            (format!("\"{}\"", r"\u00e9".repeat(32)), MessageId::Text(&longest)),
        ] {
            with_parsed(format!(r#"{{"type":"HEARTBEAT","id":{json}}}"#), |parsed| {
                assert_eq!(parsed, Parsed { id: Some(id), body: HEARTBEAT });
            });
        }
        let too_long = format!("\"{}\"", "a".repeat(65));
        for json in ["null", "true", "1.0", "1e3", "-0.0", "{}", "[]", "[1]", &too_long] {
            with_parsed(format!(r#"{{"id":{json},"type":"HEARTBEAT"}}"#), |parsed| {
                assert_eq!(parsed, Parsed { id: None, body: Err(InvalidMessage::BadId) }, "{json}");
            });
        }
    }

    #[test]
    fn a_bad_message_with_a_good_id_is_answered_by_it() {
        for text in
            [r#"{"id":7}"#, r#"{"type":"X","id":7}"#, r#"{"type":null,"id":7}"#, r#"{"id":7,"type":"PRESENCE_UPDATE"}"#]
        {
            with_parsed(text, |parsed| {
                assert_eq!(parsed.id, Some(MessageId::Unsigned(7)), "{text}");
                assert!(parsed.body.is_err(), "{text}");
            });
        }
    }

    #[test]
    fn of_several_errors_the_first_in_order_is_told() {
        let deep = "[".repeat(16) + &"]".repeat(16);
        for (text, error) in [
            (r#"{"id":null,"a":1,"a":1}"#.to_owned(), InvalidMessage::NotJson),
            (r#"[{"id":null}]"#.to_owned(), InvalidMessage::NotAnObject),
            (r#"{"type":null,"id":null}"#.to_owned(), InvalidMessage::BadId),
            (r#"{"id":null}"#.to_owned(), InvalidMessage::BadId),
            (r#"{"type":"X","payload":1}"#.to_owned(), InvalidMessage::TypeUnknown),
            (r#"{"payload":[],"type":"PRESENCE_UPDATE"}"#.to_owned(), field_type(Field::Payload)),
            (r#"{"type":"PRESENCE_UPDATE","payload":{"metadata":1}}"#.to_owned(), field_type(Field::Status)),
            (
                r#"{"type":"PRESENCE_UPDATE","payload":{"metadata":1,"status":"x"}}"#.to_owned(),
                InvalidMessage::StatusUnknown,
            ),
            (
                format!(
                    r#"{{"type":"PRESENCE_UPDATE","payload":{{"status":"busy","metadata":{{"a":"{}","b":{deep}}}}}}}"#,
                    "x".repeat(5000)
                ),
                InvalidMessage::MetadataTooDeep,
            ),
        ] {
            assert_eq!(body(&text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_presence_update_needs_an_object_with_a_status() {
        let missing = body(r#"{"type":"PRESENCE_UPDATE"}"#);
        assert_eq!(missing, Err(field_type(Field::Payload)));
        for payload in ["null", "1", "\"busy\"", "[]", r#"[{"status":"busy"}]"#] {
            assert_eq!(presence_update(payload), Err(field_type(Field::Payload)), "{payload}");
        }
        for payload in ["{}", r#"{"status":null}"#, r#"{"status":1}"#, r#"{"status":["busy"]}"#, r#"{"Status":"busy"}"#]
        {
            assert_eq!(presence_update(payload), Err(field_type(Field::Status)), "{payload}");
        }
        for payload in [r#"{"status":""}"#, r#"{"status":"BUSY"}"#, r#"{"status":"offline"}"#] {
            assert_eq!(presence_update(payload), Err(InvalidMessage::StatusUnknown), "{payload}");
        }
    }

    #[test]
    fn a_client_is_active_or_not() {
        let client_state = |payload: &str| body(format!(r#"{{"type":"CLIENT_STATE","payload":{payload}}}"#));
        for active in [true, false] {
            let read = client_state(&format!(r#"{{"x":null,"active":{active}}}"#));
            assert_eq!(read, Ok(ClientMessage::ClientState { active }));
        }
        assert_eq!(body(r#"{"type":"CLIENT_STATE"}"#), Err(field_type(Field::Payload)));
        for payload in ["{}", r#"{"active":null}"#, r#"{"active":"true"}"#, r#"{"active":1}"#, r#"{"active":[true]}"#] {
            assert_eq!(client_state(payload), Err(field_type(Field::Active)), "{payload}");
        }
        assert_eq!(field_type(Field::Active).to_string(), "The field `payload.active` must be true or false.");
    }

    #[test]
    fn metadata_is_kept_cleared_or_replaced() {
        let update = |metadata: &str| match presence_update(&format!(r#"{{"status":"busy"{metadata}}}"#))? {
            ClientMessage::PresenceUpdate { status: Status::Busy, metadata } => Ok(metadata),
            other => panic!("{other:?}"),
        };
        assert_eq!(update(""), Ok(MetadataUpdate::Keep));
        assert_eq!(update(r#","metadata":null"#), Ok(MetadataUpdate::Clear));
        match update(r#","metadata": { "a" : [ 1 ] }"#) {
            Ok(MetadataUpdate::Replace(metadata)) => assert_eq!(metadata.as_str(), r#"{"a":[1]}"#),
            other => panic!("{other:?}"),
        }
        for metadata in ["1", "\"a\"", "true", "[]", "[{}]"] {
            assert_eq!(update(&format!(r#","metadata":{metadata}"#)), Err(InvalidMessage::MetadataNotAnObject));
        }
        let large = format!(r#","metadata":{{"a":"{}"}}"#, "x".repeat(80_000));
        assert_eq!(update(&large), Err(InvalidMessage::MetadataTooLarge { bytes: 80_008 }));
    }

    /// A JSON value as serde_json reads it, if no object in it has a key twice.
    struct NoDuplicates;

    impl<'de> Deserialize<'de> for NoDuplicates {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Any;
            impl<'de> Visitor<'de> for Any {
                type Value = NoDuplicates;
                fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                    formatter.write_str("JSON")
                }
                fn visit_unit<E>(self) -> Result<NoDuplicates, E> {
                    Ok(NoDuplicates)
                }
                fn visit_bool<E>(self, _: bool) -> Result<NoDuplicates, E> {
                    Ok(NoDuplicates)
                }
                fn visit_i64<E>(self, _: i64) -> Result<NoDuplicates, E> {
                    Ok(NoDuplicates)
                }
                fn visit_u64<E>(self, _: u64) -> Result<NoDuplicates, E> {
                    Ok(NoDuplicates)
                }
                fn visit_f64<E>(self, _: f64) -> Result<NoDuplicates, E> {
                    Ok(NoDuplicates)
                }
                fn visit_str<E>(self, _: &str) -> Result<NoDuplicates, E> {
                    Ok(NoDuplicates)
                }
                fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NoDuplicates, A::Error> {
                    while items.next_element::<NoDuplicates>()?.is_some() {}
                    Ok(NoDuplicates)
                }
                fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<NoDuplicates, A::Error> {
                    let mut keys = HashSet::new();
                    while let Some((key, _)) = members.next_entry::<String, NoDuplicates>()? {
                        if !keys.insert(key) {
                            return Err(A::Error::custom("a key given twice"));
                        }
                    }
                    Ok(NoDuplicates)
                }
            }
            deserializer.deserialize_any(Any)
        }
    }

    /// Whether JSON, known to be such, has an integer that 64 bits do not hold: serde_json makes a float of it.
    fn has_huge_integer(json: &str) -> bool {
        let mut is_in_string = false;
        let mut is_escaped = false;
        let outside: String = json
            .chars()
            .filter(|&character| {
                let was_in_string = is_in_string;
                if is_escaped {
                    is_escaped = false;
                } else if is_in_string && character == '\\' {
                    is_escaped = true;
                } else if character == '"' {
                    is_in_string = !is_in_string;
                }
                !was_in_string
            })
            .collect();
        outside
            .split(|character: char| !matches!(character, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'))
            .filter(|number| number.bytes().any(|byte| byte.is_ascii_digit()) && !number.contains(['.', 'e', 'E']))
            .any(|number| number.parse::<i64>().is_err() && number.parse::<u64>().is_err())
    }

    fn is_json_to_serde(text: &[u8]) -> bool {
        str::from_utf8(text)
            .is_ok_and(|text| serde_json::from_str::<NoDuplicates>(text).is_ok() && !has_huge_integer(text))
    }

    /// JSON text and what is nearly JSON: values with the spellings that writers do not use.
    fn near_json() -> impl Strategy<Value = String> {
        let string = prop_oneof![
            4 => "\"[a-c]?\"",
            2 => "\"[\\PC&&[^\"\\\\]]{0,6}\"",
            1 => "\"(\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}|\\\\u(d83d|D83D)|\\\\u(de00|DE00)|[ab]){0,5}\"",
        ];
        let number = prop_oneof![
            "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?",
            "-?[1-9][0-9]{15,20}",
            "-?[1-9][0-9]{0,24}\\.[0-9]{1,25}",
        ];
        let leaf = prop_oneof![string.clone(), string.clone(), number, "(true|false|null)"];
        leaf.prop_recursive(6, 40, 5, move |inner| {
            let space = "[ \\n\\t\\r]{0,2}";
            let member = (string.clone(), space, inner.clone())
                .prop_map(|(key, space, value)| format!("{key}{space}:{space}{value}"));
            prop_oneof![
                (prop::collection::vec(inner, 0..5), space)
                    .prop_map(|(items, space)| format!("[{}]", items.join(&format!("{space},{space}")))),
                (prop::collection::vec(member, 0..5), space)
                    .prop_map(|(members, space)| format!("{{{space}{}{space}}}", members.join(","))),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn what_is_json_is_what_another_parser_takes(
            json in near_json(),
            changes in prop::collection::vec((any::<Index>(), 0..4, prop_oneof![
                any::<u8>(), prop::sample::select(&b"\"\\{}[]:,.-+eEu0159 \n\x00\x1f\x7f"[..])
            ]), 0..4),
        ) {
            let mut text = json.into_bytes();
            for (place, kind, byte) in changes {
                if text.is_empty() {
                    break;
                }
                let place = place.index(text.len());
                match kind {
                    0 => text[place] = byte,
                    1 => text.insert(place, byte),
                    2 => drop(text.remove(place)),
                    _ => text.truncate(place),
                }
            }
            prop_assert_eq!(is_json(&text), is_json_to_serde(&text), "{}", String::from_utf8_lossy(&text));
        }

        #[test]
        fn metadata_means_the_same_to_another_parser(json in near_json()) {
            let json = format!("{{\"a\":{json}}}");
            if !is_json_to_serde(json.as_bytes()) {
                return Ok(());
            }
            let update = presence_update(&format!(r#"{{"status":"online","metadata":{json}}}"#));
            let Some(before) = shown(serde_json::from_str(&json).unwrap()) else {
                prop_assert_eq!(update, Err(InvalidMessage::NotJson));
                return Ok(());
            };
            let Ok(ClientMessage::PresenceUpdate { metadata: MetadataUpdate::Replace(metadata), .. }) = update else {
                return Err(TestCaseError::fail(format!("{json} gives {update:?}")));
            };
            let after: Value = serde_json::from_str(metadata.as_str()).unwrap();
            prop_assert!(is_same(&before, &after), "{} became {}", json, metadata.as_str());
        }

        #[test]
        fn any_object_is_read_as_another_parser_reads_it(
            id in prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), any::<u64>().prop_map(Value::from),
                "\\PC{0,40}".prop_map(Value::from), any::<f32>().prop_map(Value::from)],
            kind in "(HEARTBEAT|DISCONNECT|PRESENCE_UPDATE|[A-Z]{0,3})",
            status in "(online|away|busy|invisible|[a-z]{0,2})",
        ) {
            let json = serde_json::json!({ "id": id, "type": kind, "payload": { "status": status } });
            let is_id = id.is_i64() || id.is_u64() || id.as_str().is_some_and(|text| text.len() <= 64);
            with_parsed(json.to_string(), |parsed| {
                let echoed = parsed.id.map(|id| match id {
                    MessageId::Text(text) => Value::from(text),
                    MessageId::Signed(integer) => Value::from(integer),
                    MessageId::Unsigned(integer) => Value::from(integer),
                });
                prop_assert_eq!(echoed, is_id.then_some(id));
                let expected = match (kind.as_str(), status.as_str()) {
                    _ if !is_id => Err(InvalidMessage::BadId),
                    ("HEARTBEAT", _) => HEARTBEAT,
                    ("DISCONNECT", _) => Ok(ClientMessage::Disconnect),
                    ("PRESENCE_UPDATE", word @ ("online" | "away" | "busy" | "invisible")) => Ok(ClientMessage::PresenceUpdate {
                        status: Status::parse(word).unwrap(),
                        metadata: MetadataUpdate::Keep,
                    }),
                    ("PRESENCE_UPDATE", _) => Err(InvalidMessage::StatusUnknown),
                    _ => Err(InvalidMessage::TypeUnknown),
                };
                prop_assert_eq!(parsed.body, expected);
                Ok(())
            })?;
        }
    }

    /// `value` without what metadata loses; `None` where that makes two keys one.
    fn shown(value: Value) -> Option<Value> {
        let kept = |text: String| -> String {
            text.chars().filter(|&sign| !sign.is_control() || "\t\n\r".contains(sign)).collect()
        };
        Some(match value {
            Value::String(text) => Value::String(kept(text)),
            Value::Array(items) => Value::Array(items.into_iter().map(shown).collect::<Option<_>>()?),
            Value::Object(members) => {
                let len = members.len();
                let members = members.into_iter().map(|(key, value)| Some((kept(key), shown(value)?)));
                let members = members.collect::<Option<serde_json::Map<_, _>>>()?;
                return (members.len() == len).then_some(Value::Object(members));
            }
            other => other,
        })
    }

    /// Equality but for what serde_json's float parser rounds, and for `-0`, an integer to us and a float to it.
    fn is_same(left: &Value, right: &Value) -> bool {
        match (left, right) {
            (Value::Array(left), Value::Array(right)) => {
                left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right))
            }
            (Value::Object(left), Value::Object(right)) => {
                left.len() == right.len()
                    && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| is_same(left, right)))
            }
            (Value::Number(left), Value::Number(right)) if left.is_f64() => {
                let (left, right) = (left.as_f64().unwrap(), right.as_f64().unwrap());
                (left - right).abs() <= left.abs() * 1e-15
            }
            _ => left == right,
        }
    }
}
