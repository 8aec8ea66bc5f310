//! JSON, whatever it means: the parser's tape read without recursion, and text put between quotes.
//!
//! The tape is simd-json's: each value as a node, containers as a node that counts the nodes inside it, which follow.
//! An object's members are its keys and values by turns.

use std::collections::HashSet;
use std::hash::RandomState;

use simd_json::Node;

/// Up to so many keys, comparing each with each costs less than hashing them.
const COMPARED_KEYS_MAX: usize = 16;

/// The members of one object: its keys with the nodes of their values.
pub(crate) struct Members<'tape, 'text> {
    nodes: &'tape [Node<'text>],
}

impl<'tape, 'text> Members<'tape, 'text> {
    /// The members of the object that begins at the first of `nodes`; none where that is no object.
    pub(crate) fn of(nodes: &'tape [Node<'text>]) -> Self {
        let nodes = match nodes.split_first() {
            Some((Node::Object { count, .. }, rest)) => rest.get(..*count).unwrap_or_default(),
            _ => &[],
        };
        Self { nodes }
    }
}

impl<'tape, 'text> Iterator for Members<'tape, 'text> {
    type Item = (&'text str, &'tape [Node<'text>]);

    fn next(&mut self) -> Option<Self::Item> {
        let (Node::String(key), rest) = self.nodes.split_first()? else {
            return None;
        };
        let (value, rest) = split_value(rest)?;
        self.nodes = rest;
        Some((key, value))
    }
}

/// The items of one array: the nodes of each.
pub(crate) struct Items<'tape, 'text> {
    nodes: &'tape [Node<'text>],
}

impl<'tape, 'text> Items<'tape, 'text> {
    /// The items of the array that begins at the first of `nodes`; none where that is no array.
    pub(crate) fn of(nodes: &'tape [Node<'text>]) -> Self {
        let nodes = match nodes.split_first() {
            Some((Node::Array { count, .. }, rest)) => rest.get(..*count).unwrap_or_default(),
            _ => &[],
        };
        Self { nodes }
    }
}

impl<'tape, 'text> Iterator for Items<'tape, 'text> {
    type Item = &'tape [Node<'text>];

    fn next(&mut self) -> Option<Self::Item> {
        let (value, rest) = split_value(self.nodes)?;
        self.nodes = rest;
        Some(value)
    }
}

/// The value that `nodes` begin with, and what follows it.
fn split_value<'tape, 'text>(nodes: &'tape [Node<'text>]) -> Option<(&'tape [Node<'text>], &'tape [Node<'text>])> {
    let value_nodes = match nodes.first()? {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        Node::String(_) | Node::Static(_) => 1,
    };
    nodes.split_at_checked(value_nodes)
}

/// Whether any object of the tape has a key twice, escapes resolved. In time proportional to the tape: each node is
/// met once as itself and at most once as some object's member, and keys that are many are hashed, with a key of
/// the process's own (`hash_keys`) that keeps peers from choosing collisions.
pub(crate) fn has_duplicate_keys(tape: &[Node<'_>], hash_keys: &RandomState) -> bool {
    tape.iter().enumerate().any(|(index, node)| match node {
        Node::Object { len: 0 | 1, .. } => false,
        Node::Object { len, .. } => {
            let members = Members::of(tape.get(index..).unwrap_or_default());
            if *len <= COMPARED_KEYS_MAX { repeats_compared(members) } else { repeats_hashed(members, *len, hash_keys) }
        }
        _ => false,
    })
}

fn repeats_compared(members: Members<'_, '_>) -> bool {
    let mut seen = [""; COMPARED_KEYS_MAX];
    for (index, (key, _)) in members.enumerate() {
        let (before, rest) = seen.split_at_mut(index);
        if before.contains(&key) {
            return true;
        }
        if let Some(place) = rest.first_mut() {
            *place = key;
        }
    }
    false
}

fn repeats_hashed(mut members: Members<'_, '_>, len: usize, hash_keys: &RandomState) -> bool {
    let mut seen = HashSet::with_capacity_and_hasher(len, hash_keys.clone());
    members.any(|(key, _)| !seen.insert(key))
}

/// Hands `text` to `write`, piece by piece, as JSON has it between its quotes (RFC 8259 §7), in the shortest form.
///
/// Escaped is what must be, and what would mean something else to a page that holds the JSON inside a script: `<`, with
/// which `</script>` and `<!--` begin (HTML §13.2.5.4), and the line ends of JavaScript, U+2028 and U+2029.
pub(crate) fn escape(text: &str, mut write: impl FnMut(&str)) {
    let mut rest = text;
    while let Some(place) = rest.bytes().position(|byte| MAY_BE_ESCAPED[usize::from(byte)]) {
        let (plain, special) = rest.split_at(place);
        write(plain);
        let mut after = special.chars();
        let character = after.next().unwrap_or_default();
        write(match character {
            '"' => "\\\"",
            '\\' => "\\\\",
            '<' => "\\u003c",
            '\u{2028}' => "\\u2028",
            '\u{2029}' => "\\u2029",
            '\0'..='\x1f' => CONTROL_ESCAPES[character as usize],
            _ => &special[..character.len_utf8()],
        });
        rest = after.as_str();
    }
    write(rest);
}

/// Whether a character that is escaped may begin with a byte; 0xe2 begins U+2028 and U+2029, and some that are not.
static MAY_BE_ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = matches!(byte as u8, 0..=0x1f | b'"' | b'\\' | b'<' | 0xe2);
        byte += 1;
    }
    table
};

/// U+0000 to U+001F.
const CONTROL_ESCAPES: [&str; 32] = [
    "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004", "\\u0005", "\\u0006", "\\u0007", "\\b", "\\t", "\\n",
    "\\u000b", "\\f", "\\r", "\\u000e", "\\u000f", "\\u0010", "\\u0011", "\\u0012", "\\u0013", "\\u0014", "\\u0015",
    "\\u0016", "\\u0017", "\\u0018", "\\u0019", "\\u001a", "\\u001b", "\\u001c", "\\u001d", "\\u001e", "\\u001f",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    /// The same JSON from a writer that knows no pages.
    fn for_pages(json: &str) -> String {
        json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
    }

    fn has_duplicates(text: &str) -> bool {
        let mut text = text.to_owned().into_bytes();
        has_duplicate_keys(&simd_json::to_tape(&mut text).unwrap().0, &RandomState::new())
    }

    #[test]
    fn a_key_given_twice_is_found_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"":1,"":1}"#,
            r#"[[{"b":{"a":1,"b":2,"a":3}}]]"#,
            r#"{"a":{"b":1},"c":[{"d":1},{"e":1,"e":1}]}"#,
            r#"{"a":{"x":{},"y":[{}]},"b":1,"a":{}}"#,
        ] {
            assert!(has_duplicates(text), "{text}");
        }
    }

    #[test]
    fn a_key_may_come_again_in_another_object_or_as_a_value() {
        for text in [
            "{}",
            "[]",
            "1",
            r#"["a","a"]"#,
            r#"{"a":{"a":{"a":"a"}}}"#,
            r#"[{"a":1},{"a":1}]"#,
            r#"{"a":"b","b":"a"}"#,
            r#"{"a":["b","b"],"b":{"a":1},"A":1}"#,
        ] {
            assert!(!has_duplicates(text), "{text}");
        }
    }

    #[test]
    fn keys_are_told_apart_on_both_sides_of_the_limit_of_comparing() {
        for len in [2, 15, 16, 17, 18, 10_000] {
            let mut members: Vec<String> = (0..len).map(|index| format!("\"key{index}\":[{index}]")).collect();
            assert!(!has_duplicates(&format!("{{{}}}", members.join(","))), "{len}");
            members[len - 1] = "\"key0\":null".to_owned();
            assert!(has_duplicates(&format!("{{{}}}", members.join(","))), "{len}");
        }
    }

    proptest! {
        #[test]
        fn escaped_text_is_read_back_as_it_was(text in "([\\x00-\\x22\\\\\\x7f/<\u{2028}\u{2029}]|\\PC){0,40}") {
            let mut json = String::from("\"");
            escape(&text, |piece| json.push_str(piece));
            json.push('"');
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text.clone());
            prop_assert_eq!(&json, &for_pages(&serde_json::to_string(&text).unwrap()));
            let means_more = ['<', '\u{2028}', '\u{2029}'];
            prop_assert!(!json.contains(means_more));
        }
    }
}
