//! What must hold of any message, for the fuzz target and for a test over its corpus.

use super::heartbeat::is_plain_heartbeat;
use super::write::write_json_string;
use super::{
    ClientMessage, METADATA_BYTES_MAX, MetadataUpdate, Parsed, Parser, write_ack, write_error, write_heartbeat_ack,
};
use crate::protocol::cursor::Since;
use crate::protocol::error::InvalidMessage;
use crate::protocol::timestamp::Timestamp;

/// Holds the parser and the writers to their promises over any bytes.
///
/// # Panics
/// When a promise does not hold.
pub fn fuzz(data: &[u8]) {
    let mut parser = Parser::new();
    let mut first = data.to_vec();
    let parsed = parser.parse_any(&mut first);

    let mut second = data.to_vec();
    assert_eq!(parser.parse(&mut second), parsed, "a kept parser and the short way change nothing");
    if is_plain_heartbeat(data) {
        assert_eq!(parsed, Parsed { id: None, body: Ok(ClientMessage::Heartbeat) });
    }
    if let Ok(ClientMessage::PresenceUpdate { metadata: MetadataUpdate::Replace(metadata), .. }) = &parsed.body {
        check_metadata(&mut parser, metadata.as_str());
    }
    if let Ok(message) = &parsed.body {
        check_names(&mut parser, message);
    }
    check_answers(&mut parser, &parsed);
}

/// Its text must be within the limit, and mean itself.
fn check_metadata(parser: &mut Parser, text: &str) {
    assert!(text.len() <= METADATA_BYTES_MAX, "{} bytes", text.len());
    let message = format!(r#"{{"type":"PRESENCE_UPDATE","payload":{{"status":"away","metadata":{text}}}}}"#);
    let again = parser.parse_any(&mut message.into_bytes()).body;
    match again {
        Ok(ClientMessage::PresenceUpdate { metadata: MetadataUpdate::Replace(metadata), .. }) => {
            assert_eq!(metadata.as_str(), text);
        }
        other => panic!("{text} is read again as {other:?}"),
    }
}

/// What names users and rooms must mean the same when it is written anew, in the plainest way.
fn check_names(parser: &mut Parser, message: &ClientMessage) {
    let (kind, payload) = match message {
        ClientMessage::Watch(watch) => {
            let rooms = watch.rooms.iter().map(|watched| {
                format!(r#"{{"room":{},"detail":"{}"}}"#, quoted(watched.room.as_str()), watched.detail.as_str())
            });
            let since = match watch.since {
                None => String::new(),
                Some(Since::Readable(cursor)) => format!(r#","since":"{}""#, cursor.to_text().as_str()),
                Some(Since::Unreadable) => r#","since":"""#.to_owned(),
            };
            let users = watch.users.iter().map(|user| quoted(user.as_str()));
            ("WATCH", format!(r#""users":[{}],"rooms":[{}]{since}"#, joined(users), joined(rooms)))
        }
        ClientMessage::Unwatch(unwatch) => {
            let users = unwatch.users.iter().map(|user| quoted(user.as_str()));
            let rooms = unwatch.rooms.iter().map(|room| quoted(room.as_str()));
            ("UNWATCH", format!(r#""users":[{}],"rooms":[{}]"#, joined(users), joined(rooms)))
        }
        ClientMessage::Join { room } => ("JOIN", format!(r#""room":{}"#, quoted(room.as_str()))),
        ClientMessage::Leave { room } => ("LEAVE", format!(r#""room":{}"#, quoted(room.as_str()))),
        _ => return,
    };
    let again = format!(r#"{{"type":"{kind}","payload":{{{payload}}}}}"#);
    assert_eq!(parser.parse_any(&mut again.into_bytes()).body.as_ref(), Ok(message));
}

fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    write_json_string(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

/// Each answer must be JSON with the same id. The parser reads it: a server's message is one of unknown type to it.
fn check_answers(parser: &mut Parser, parsed: &Parsed<'_>) {
    let timestamp = Timestamp::from_unix_ms(1_795_578_885_123);
    let id = parsed.id.as_ref();
    let mut answers = Vec::new();

    let mut answer = Vec::new();
    write_heartbeat_ack(&mut answer, &timestamp, id);
    answers.push(answer);
    if let Some(id) = id {
        let mut answer = Vec::new();
        write_ack(&mut answer, &timestamp, id);
        answers.push(answer);
    }
    if let Err(error) = &parsed.body {
        let mut answer = Vec::new();
        write_error(&mut answer, &timestamp, error, id);
        answers.push(answer);
    }
    for mut answer in answers {
        let again = parser.parse_any(&mut answer);
        assert_eq!(again.body, Err(InvalidMessage::TypeUnknown));
        assert_eq!(again.id, parsed.id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn promises_hold_for_messages_of_each_kind() {
        for text in [
            "",
            "{}",
            r#"{"type":"HEARTBEAT"}"#,
            r#"{"type":"HEARTBEAT","id":-0}"#,
            r#"{"type":"HEARTBEAT","id":"\u0000\"\\é"}"#,
            r#"{"type":"DISCONNECT","id":18446744073709551615}"#,
            r#"{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{"a":[1e15,-0,-0.0,"\b\u001f"]}}}"#,
            r#"{"type":"PRESENCE_UPDATE","id":1,"payload":{"status":"busy","metadata":[]}}"#,
            r#"{"type":"WATCH","payload":{"users":["ana","\"\\"],"rooms":["a",{"room":"a","detail":"count"}]}}"#,
            r#"{"type":"WATCH","payload":{"since":"_---AAECAwQFBgcI"}}"#,
            r#"{"type":"WATCH","payload":{"since":"yesterday","rooms":[{"room":"a","detail":"none"}]}}"#,
            r#"{"type":"UNWATCH","payload":{"users":["ana"],"rooms":[{"room":"a"},"b"]}}"#,
            r#"{"type":"JOIN","payload":{"room":"a"}}"#,
            r#"{"type":"LEAVE","payload":{"room":"a"}}"#,
            r#"{"type":"CLIENT_STATE","payload":{"active":false}}"#,
        ] {
            fuzz(text.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn promises_hold_for_any_bytes(data: Vec<u8>) {
            fuzz(&data);
        }

        #[test]
        fn promises_hold_for_pieces_of_messages(pieces in prop::collection::vec(prop_oneof![
            "\\{\"type\":\"(HEARTBEAT|DISCONNECT|PRESENCE_UPDATE|WATCH|UNWATCH|JOIN|CLIENT_STATE|X)\",?",
            "\"(id|payload|metadata|users|rooms|room|detail|since|active)\":|\"status\":\"busy\"",
            "[{}\\[\\],:]",
            "-?[0-9]{1,20}|[0-9]\\.[0-9]e[0-9]{1,3}|\"\\PC{0,8}\"|\"\\\\u[0-9a-f]{4}\"",
        ], 0..24)) {
            fuzz(pieces.concat().as_bytes());
        }

        #[test]
        fn promises_hold_for_messages_with_any_field_at_all(
            id in "-?[0-9]{1,20}|[0-9]\\.[0-9]|null|\"[^\"\\\\]{0,70}\"|\"(\\\\[nt\"]|\\\\u[0-9a-f]{4}){0,5}\"",
            value in "[0-9]{1,3}(e-?|\\.)[0-9]{1,3}|\\[\\{\\},[ ]?\"\\PC{0,4}\"\\]|\\{\"b\":null\\}",
        ) {
            let payload = format!(r#"{{"status":"away","metadata":{{"a":{value}}}}}"#);
            fuzz(format!(r#"{{"type":"PRESENCE_UPDATE","id":{id},"payload":{payload}}}"#).as_bytes());
        }
    }
}
