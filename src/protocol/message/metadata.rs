//! What a client attaches to its presence: any JSON object, within limits.

use std::fmt::{self, Write};
use std::hash::RandomState;

use simd_json::{Node, StaticNode};

use super::super::error::InvalidMessage;
use super::json::{escape, has_duplicate_keys};

/// The longest metadata, in bytes of its text without spaces.
pub const METADATA_BYTES_MAX: usize = 4096;

/// How deep objects and arrays may be nested, the metadata itself being depth 1.
pub const METADATA_DEPTH_MAX: usize = 16;

/// A JSON object as text without spaces, ready to stand inside a message: at most [`METADATA_BYTES_MAX`] bytes, at most
/// [`METADATA_DEPTH_MAX`] deep. Its members are in the order they were sent in, its strings without control characters
/// but tab and line ends, and harmless inside a page's script, and its numbers in their shortest form: 64-bit integers
/// as such, anything else as the nearest float.
#[derive(Clone, PartialEq, Eq)]
pub struct Metadata(Box<str>);

impl Metadata {
    /// The object whose nodes these are, the first being its own. `text` is scratch space.
    ///
    /// # Errors
    /// When it is too deep or, all else being well, too large; or when keys are the same without control characters.
    pub(super) fn from_object(object: &[Node<'_>], text: &mut String) -> Result<Self, InvalidMessage> {
        text.clear();
        let mut dropped_bytes = 0;
        let mut is_cleaned = false;
        let mut open = OpenContainers::new();

        for node in object {
            open.write_separator(text);
            match node {
                Node::Object { len, .. } => open.begin(Kind::Object, *len * 2, text)?,
                Node::Array { len, .. } => open.begin(Kind::Array, *len, text)?,
                Node::String(string) => is_cleaned |= write_string(string, text),
                Node::Static(value) => write_static(value, text),
            }
            open.end_those_complete(text);
            // Too large already: the length is all that is still asked for.
            if text.len() > METADATA_BYTES_MAX {
                dropped_bytes += text.len();
                text.clear();
            }
        }
        let bytes = dropped_bytes + text.len();
        if bytes > METADATA_BYTES_MAX {
            return Err(InvalidMessage::MetadataTooLarge { bytes });
        }
        if is_cleaned && has_duplicates(text) {
            return Err(InvalidMessage::NotJson);
        }
        Ok(Self(text.as_str().into()))
    }

    /// The object's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Tells the length alone: metadata is personal, and Debug output ends in logs.
impl fmt::Debug for Metadata {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Metadata({} bytes)", self.0.len())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
}

/// A container whose end was not written yet.
#[derive(Clone, Copy)]
struct Container {
    kind: Kind,
    /// Its own nodes, keys and values each counted, those inside its values not.
    nodes: usize,
    /// Those of them still to come.
    nodes_left: usize,
}

/// The containers around the next node, outermost first.
struct OpenContainers {
    stack: [Container; METADATA_DEPTH_MAX],
    depth: usize,
}

impl OpenContainers {
    fn new() -> Self {
        Self { stack: [Container { kind: Kind::Array, nodes: 0, nodes_left: 0 }; METADATA_DEPTH_MAX], depth: 0 }
    }

    fn innermost(&mut self) -> Option<&mut Container> {
        self.depth.checked_sub(1).and_then(|index| self.stack.get_mut(index))
    }

    /// Writes what stands between the node before and the next one, and counts that one.
    fn write_separator(&mut self, text: &mut String) {
        let Some(container) = self.innermost() else { return };
        let is_value_of_key = container.kind == Kind::Object && container.nodes_left % 2 == 1;
        if is_value_of_key {
            text.push(':');
        } else if container.nodes_left < container.nodes {
            text.push(',');
        }
        container.nodes_left = container.nodes_left.saturating_sub(1);
    }

    fn begin(&mut self, kind: Kind, nodes: usize, text: &mut String) -> Result<(), InvalidMessage> {
        let place = self.stack.get_mut(self.depth).ok_or(InvalidMessage::MetadataTooDeep)?;
        *place = Container { kind, nodes, nodes_left: nodes };
        self.depth += 1;
        text.push(if kind == Kind::Object { '{' } else { '[' });
        Ok(())
    }

    fn end_those_complete(&mut self, text: &mut String) {
        while let Some(Container { kind, nodes_left: 0, .. }) = self.innermost() {
            text.push(if *kind == Kind::Object { '}' } else { ']' });
            self.depth -= 1;
        }
    }
}

/// Writes a string without what nobody should be shown; whether there was something.
fn write_string(string: &str, text: &mut String) -> bool {
    // Most strings are letters and blanks, which are quicker to look at as bytes.
    if string.bytes().all(|byte| IS_PLAIN[usize::from(byte)]) {
        text.push('"');
        text.push_str(string);
        text.push('"');
        return false;
    }
    let is_clean = !string.contains(is_removed);
    text.push('"');
    if is_clean {
        escape(string, |piece| text.push_str(piece));
    } else {
        string.split(is_removed).for_each(|part| escape(part, |piece| text.push_str(piece)));
    }
    text.push('"');
    !is_clean
}

/// Whether a byte belongs to characters alone that are neither removed nor escaped.
static IS_PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = matches!(byte as u8, b' '..=b'~') && !matches!(byte as u8, b'"' | b'\\' | b'<');
        byte += 1;
    }
    table
};

/// Control characters (U+0000 to U+001F, U+007F to U+009F) but those that text is laid out with.
fn is_removed(character: char) -> bool {
    character.is_control() && !matches!(character, '\t' | '\n' | '\r')
}

/// Whether `text`, which is JSON, has an object with a key twice.
fn has_duplicates(text: &str) -> bool {
    let mut bytes = text.as_bytes().to_vec();
    simd_json::to_tape(&mut bytes).is_ok_and(|tape| has_duplicate_keys(&tape.0, &RandomState::new()))
}

fn write_static(value: &StaticNode, text: &mut String) {
    // Writing to a String does not fail.
    let _ = match value {
        StaticNode::Null => text.write_str("null"),
        StaticNode::Bool(true) => text.write_str("true"),
        StaticNode::Bool(false) => text.write_str("false"),
        StaticNode::I64(integer) => write!(text, "{integer}"),
        StaticNode::U64(integer) => write!(text, "{integer}"),
        // Debug is the shortest text that reads back as the same float, and is JSON for all that are finite; Display
        // never writes an exponent, and would make 309 bytes of 1e308.
        StaticNode::F64(float) => write!(text, "{float:?}"),
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The same JSON from a writer that knows no pages.
    fn for_pages(json: &str) -> String {
        json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
    }

    fn metadata(json: &str) -> Result<String, InvalidMessage> {
        let mut json = json.to_owned().into_bytes();
        let tape = simd_json::to_tape(&mut json).unwrap();
        Metadata::from_object(&tape.0, &mut String::new()).map(|metadata| metadata.as_str().to_owned())
    }

    fn nested(depth: usize) -> String {
        // Objects and arrays by turns.
        (1..depth).fold("{}".to_owned(), |inner, level| {
            if level % 2 == 1 && level < depth - 1 { format!("[{inner}]") } else { format!("{{\"a\":{inner}}}") }
        })
    }

    #[test]
    fn the_text_has_no_spaces_and_the_order_it_came_in() {
        for (json, text) in [
            ("{ }", "{}"),
            (
                r#" { "b" : [ 1 , { } , [ ] , [ [ ] , "x" ] ] , "a" : { "c" : null , "d" : true } } "#,
                r#"{"b":[1,{},[],[[],"x"]],"a":{"c":null,"d":true}}"#,
            ),
            (r#"{"a":{"b":{"c":false}},"d":0}"#, r#"{"a":{"b":{"c":false}},"d":0}"#),
            (r#"{"\u0061\/\n\"":"\u00e9\ud83d\ude00"}"#, "{\"a/\\n\\\"\":\"é😀\"}"),
        ] {
            assert_eq!(metadata(json).unwrap(), text);
        }
    }

    #[test]
    fn what_is_shown_holds_no_control_characters_and_ends_no_script() {
        for (json, text) in [
            (r#"{"a":"\u0000b\u001b[31m\u007f\u0085c\t\r\n"}"#, r#"{"a":"b[31mc\t\r\n"}"#),
            (r#"{"\u0007bell":[{"\u0007":"\u0007"}]}"#, r#"{"bell":[{"":""}]}"#),
            (r#"{"a":"</script><!--"}"#, r#"{"a":"\u003c/script>\u003c!--"}"#),
            (r#"{"<\u2028":"\u2029"}"#, r#"{"\u003c\u2028":"\u2029"}"#),
        ] {
            assert_eq!(metadata(json).unwrap(), text);
        }
    }

    #[test]
    fn keys_that_only_control_characters_tell_apart_are_the_same_key() {
        assert_eq!(metadata(r#"{"a":1,"a\u0001":2}"#), Err(InvalidMessage::NotJson));
        assert_eq!(metadata(r#"{"b":[{"\u0080":1,"":2}]}"#), Err(InvalidMessage::NotJson));
        assert!(metadata(r#"{"a":"\u0001","b":{"a":"\u0001"}}"#).is_ok());
    }

    #[test]
    fn numbers_keep_their_value() {
        for (number, text) in [
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551615", "18446744073709551615"),
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("1.0", "1.0"),
            ("1E2", "100.0"),
            ("0.1", "0.1"),
            ("1e-7", "1e-7"),
            ("1e21", "1e21"),
            ("5e-324", "5e-324"),
            ("1.7976931348623157e308", "1.7976931348623157e308"),
            ("1e-400", "0.0"),
            ("9007199254740993.0", "9007199254740992.0"),
        ] {
            assert_eq!(metadata(&format!("{{\"n\":{number}}}")).unwrap(), format!("{{\"n\":{text}}}"));
        }
    }

    #[test]
    fn sixteen_deep_is_taken_and_seventeen_is_not() {
        assert_eq!(metadata(&nested(16)).unwrap(), nested(16));
        assert_eq!(metadata(&nested(17)), Err(InvalidMessage::MetadataTooDeep));
        let beside = format!("{{\"a\":[[]],\"b\":{}}}", nested(15));
        assert_eq!(metadata(&beside).unwrap(), beside);
    }

    #[test]
    fn the_limit_of_4096_bytes_is_that_of_the_text_without_spaces() {
        // {"a":""} has 8 bytes.
        let at_limit = format!("{{\"a\":\"{}\"}}", "x".repeat(4088));
        assert_eq!(metadata(&at_limit).unwrap(), at_limit);
        assert!(metadata(&format!("{}{at_limit}", " ".repeat(5000))).is_ok());
        let over = at_limit.replacen('x', "xy", 1);
        assert_eq!(metadata(&over), Err(InvalidMessage::MetadataTooLarge { bytes: 4097 }));
        // A short text may be long without its exponents.
        let short = format!("{{\"a\":[{}]}}", vec!["1e15"; 300].join(","));
        assert!(short.len() < METADATA_BYTES_MAX);
        assert_eq!(metadata(&short), Err(InvalidMessage::MetadataTooLarge { bytes: 8 + 300 * 19 - 1 }));
    }

    #[test]
    fn the_length_told_is_the_whole_length() {
        let items: Vec<String> = (0..3000).map(|index| format!("{{\"k\":\"{index}\"}}")).collect();
        let json = format!("{{\"a\":[{}]}}", items.join(","));
        assert_eq!(metadata(&json), Err(InvalidMessage::MetadataTooLarge { bytes: json.len() }));
    }

    #[test]
    fn too_deep_goes_before_too_large() {
        let json = format!("{{\"a\":\"{}\",\"b\":{}}}", "x".repeat(5000), nested(16));
        assert_eq!(metadata(&json), Err(InvalidMessage::MetadataTooDeep));
    }

    /// JSON without floats, whose text serde_json writes as we do.
    fn objects() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            "([\t\n\r -\\x22\\\\<\u{2028}]|\\PC){0,12}".prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(12, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("\\PC{0,4}", inner, 0..6).prop_map(|map| map.into_iter().collect()),
            ]
        });
        prop::collection::btree_map("\\PC{0,4}", value, 0..6).prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn any_object_is_written_as_another_writer_does(object in objects()) {
            let compact = for_pages(&serde_json::to_string(&object).unwrap());
            let spaced = serde_json::to_string_pretty(&object).unwrap();
            match metadata(&spaced) {
                Ok(text) => prop_assert_eq!(text, compact),
                Err(error) => prop_assert_eq!(error, InvalidMessage::MetadataTooLarge { bytes: compact.len() }),
            }
        }

        #[test]
        fn any_finite_float_keeps_its_bits(bits: u64) {
            let float = f64::from_bits(bits);
            prop_assume!(float.is_finite());
            for json in [format!("{{\"n\":{float:?}}}"), format!("{{\"n\":{float:e}}}")] {
                // An exponent of 0 is still an exponent: `{:e}` never writes an integer.
                let text = metadata(&json).unwrap();
                let number = text.strip_prefix("{\"n\":").unwrap().strip_suffix('}').unwrap();
                prop_assert_eq!(number.parse::<f64>().unwrap().to_bits(), bits, "{} became {}", json, text);
                prop_assert_eq!(metadata(&text).unwrap(), text);
            }
        }

        #[test]
        fn any_decimal_becomes_the_nearest_float(
            digits in "-?(0|[1-9][0-9]{0,25})\\.[0-9]{1,25}([eE][+-]?[0-9]{1,3})?",
        ) {
            let nearest: f64 = digits.parse().unwrap();
            if nearest.is_infinite() {
                return Ok(());
            }
            prop_assert_eq!(metadata(&format!("{{\"n\":{digits}}}")).unwrap(), format!("{{\"n\":{nearest:?}}}"));
        }
    }
}
