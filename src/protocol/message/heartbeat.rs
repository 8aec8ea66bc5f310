//! The message that nearly all messages are, recognised without parsing.

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x8080_8080_8080_8080;

/// Whether `text` is surely a HEARTBEAT without `id`: an object of `type` and perhaps `timestamp`, in either order, as
/// the JSON writers of clients write it.
///
/// A no says nothing: the text is then for the parser, which also takes what this is too simple for.
pub(crate) fn is_plain_heartbeat(text: &[u8]) -> bool {
    let Some(members) = text.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")) else {
        return false;
    };
    let rest = match after_type(members) {
        Some([]) => return true,
        Some(rest) => after_comma(rest).and_then(after_timestamp),
        None => after_timestamp(members).and_then(after_comma).and_then(after_type),
    };
    rest.is_some_and(<[u8]>::is_empty)
}

fn after_type(text: &[u8]) -> Option<&[u8]> {
    after_spaces(text.strip_prefix(br#""type":"#)?).strip_prefix(br#""HEARTBEAT""#)
}

/// Takes a timestamp of any text that stands for itself: clients' timestamps are not read.
fn after_timestamp(text: &[u8]) -> Option<&[u8]> {
    let value = after_spaces(text.strip_prefix(br#""timestamp":"#)?).strip_prefix(b"\"")?;
    value.get(plain_length(value)..)?.strip_prefix(b"\"")
}

fn after_comma(text: &[u8]) -> Option<&[u8]> {
    text.strip_prefix(b",").map(after_spaces)
}

fn after_spaces(mut text: &[u8]) -> &[u8] {
    while let Some(rest) = text.strip_prefix(b" ") {
        text = rest;
    }
    text
}

/// How many bytes at the start of `text` are ASCII that stands for itself inside JSON's quotes: no quote, no
/// backslash, no control character. Eight at a time, because this is most of a heartbeat.
fn plain_length(text: &[u8]) -> usize {
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let specials = special_bytes(u64::from_le_bytes(*word));
        if specials != 0 {
            return index * 8 + specials.trailing_zeros() as usize / 8;
        }
    }
    let spaces_above = (ONES << 8) * u64::from(b' ');
    let is_plain = |byte: &&u8| special_bytes(spaces_above | u64::from(**byte)) == 0;
    words.len() * 8 + rest.iter().take_while(is_plain).count()
}

/// Marks the bytes of `word` that do not stand for themselves, by their top bits. The lowest mark is exact; above it,
/// borrows may set more.
fn special_bytes(word: u64) -> u64 {
    let quotes = word ^ (ONES * b'"' as u64);
    let backslashes = word ^ (ONES * b'\\' as u64);
    let below = (quotes.wrapping_sub(ONES) & !quotes)
        | (backslashes.wrapping_sub(ONES) & !backslashes)
        | (word.wrapping_sub(ONES * 0x20) & !word);
    (below | word) & TOPS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::protocol::message::{ClientMessage, Parser};

    fn is_heartbeat_to_the_parser(text: &[u8]) -> bool {
        let mut text = text.to_vec();
        let parsed = Parser::new().parse_any(&mut text);
        parsed.id.is_none() && parsed.body == Ok(ClientMessage::Heartbeat)
    }

    #[test]
    fn heartbeats_as_clients_write_them_are_recognised() {
        for text in [
            r#"{"type":"HEARTBEAT"}"#,
            r#"{"type": "HEARTBEAT"}"#,
            r#"{"type":"HEARTBEAT","timestamp":"2026-11-25T03:54:45.123"}"#,
            r#"{"type":"HEARTBEAT","timestamp":"2026-11-25T03:54:45.123456Z"}"#,
            r#"{"type": "HEARTBEAT", "timestamp": "2026-11-25T03:54:45.123+01:00"}"#,
            r#"{"timestamp":"2026-11-25T03:54:45.123","type":"HEARTBEAT"}"#,
            r#"{"timestamp":"","type":"HEARTBEAT"}"#,
        ] {
            assert!(is_plain_heartbeat(text.as_bytes()), "{text}");
            assert!(is_heartbeat_to_the_parser(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn whatever_is_not_surely_a_heartbeat_is_left_to_the_parser() {
        for text in [
            "",
            "{",
            "}",
            "{}",
            r#"{"type":"HEARTBEAT",}"#,
            r#"{,"type":"HEARTBEAT"}"#,
            r#"{"type":"HEARTBEAT""timestamp":""}"#,
            r#"{"type":"HEARTBEAT","type":"HEARTBEAT"}"#,
            r#"{"timestamp":"","timestamp":"","type":"HEARTBEAT"}"#,
            r#"{"timestamp":"","type":"HEARTBEAT","timestamp":""}"#,
            r#"{"type":"HEARTBEAT","timestamp":"","type":"HEARTBEAT"}"#,
            r#"{"type":"HEARTBEAT","timestamp":""}"#.trim_end_matches('}'),
            r#"{"type":"HEARTBEAT","timestamp":"a\"}"#,
            r#"{"type":"HEARTBEAT","timestamp":"a\u0000"}"#,
            "{\"type\":\"HEARTBEAT\",\"timestamp\":\"a\nb\"}",
            r#"{"type":"HEARTBEAT","timestamp":"é"}"#,
            r#"{"type":"HEARTBEAT","timestamp":"","id":1}"#,
            r#"{"type":"HEARTBEAT","id":1}"#,
            r#"{"timestamp":""}"#,
            r#"{"type":"DISCONNECT"}"#,
        ] {
            assert!(!is_plain_heartbeat(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn each_byte_at_each_place_is_told_apart() {
        for length in 0..=24 {
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'x'; length];
                    text[place] = byte;
                    let is_plain = matches!(byte, b' '..=0x7f) && byte != b'"' && byte != b'\\';
                    assert_eq!(plain_length(&text), if is_plain { length } else { place }, "{byte:#x} at {place}");
                }
            }
        }
    }

    /// Texts that are heartbeats or nearly so.
    fn near_heartbeats() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            8 => Just(r#""type":"HEARTBEAT""#.to_owned()),
            2 => Just(r#""type": "HEARTBEAT""#.to_owned()),
            8 => "\"timestamp\":[ ]{0,2}\"[0-9T:.Z-]{0,30}\"",
            2 => "\"timestamp\": \"\\PC{0,30}\"",
            4 => Just(",".to_owned()),
            2 => Just(", ".to_owned()),
            1 => "[ \\t\\n{}\\[\\]\",:\\\\]",
            1 => Just(r#""id":1"#.to_owned()),
        ];
        prop::collection::vec(piece, 1..5).prop_map(|pieces| format!("{{{}}}", pieces.concat()).into_bytes())
    }

    proptest! {
        #[test]
        fn what_is_recognised_is_a_heartbeat_to_the_parser(
            mut text in near_heartbeats(),
            changes in prop::collection::vec(
                (any::<Index>(), 0..3, prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\'), Just(b' ')]),
                0..3,
            ),
        ) {
            for (place, kind, byte) in changes {
                if text.is_empty() {
                    break;
                }
                let place = place.index(text.len());
                match kind {
                    0 => text[place] = byte,
                    1 => text.insert(place, byte),
                    _ => drop(text.remove(place)),
                }
            }
            if is_plain_heartbeat(&text) {
                prop_assert!(is_heartbeat_to_the_parser(&text), "{}", String::from_utf8_lossy(&text));
            }
        }
    }
}
