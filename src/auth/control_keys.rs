//! Who may use the control port: bearer keys, each for reading or for writing.

use std::ffi::OsStr;
use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

/// The shortest key: 128 bits in base64url have 22 characters.
pub const KEY_BYTES_MIN: usize = 22;

const DIGEST_BYTES: usize = 32;

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To look.
    Read,
    /// To change things, and to look.
    Write,
}

/// The keys that are known. Only their digests are kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ControlKeys(Vec<(Scope, [u8; DIGEST_BYTES])>);

/// Tells how many there are alone.
impl fmt::Debug for ControlKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ControlKeys({})", self.0.len())
    }
}

/// Why a text holds no keys. The keys themselves are not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidControlKeys {
    /// A line that is not `read KEY` or `write KEY`.
    #[error("line {line} is neither `read KEY` nor `write KEY`")]
    Line {
        /// Which, counted from 1.
        line: usize,
    },
    /// A key that can be guessed, or that no header can carry.
    #[error(
        "the key in line {line} must have at least {KEY_BYTES_MIN} characters, all of them letters, digits or -._~+/=, \
         as `openssl rand -hex 32` makes them"
    )]
    Key {
        /// Which, counted from 1.
        line: usize,
    },
    /// No key at all.
    #[error("there is no key")]
    Empty,
    /// Not UTF-8.
    #[error("the keys are not UTF-8")]
    NotText,
}

impl ControlKeys {
    /// Reads a file of keys: `read KEY` or `write KEY` in a line. Empty lines and those that begin with `#` say
    /// nothing.
    ///
    /// # Errors
    /// [`InvalidControlKeys`].
    pub fn parse(text: &str) -> Result<Self, InvalidControlKeys> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (scope, key) = line.split_once([' ', '\t']).ok_or(InvalidControlKeys::Line { line: line_number })?;
            let scope = match scope {
                "read" => Scope::Read,
                "write" => Scope::Write,
                _ => return Err(InvalidControlKeys::Line { line: line_number }),
            };
            let key = key.trim();
            // RFC 6750 §2.1: what a bearer token may consist of.
            let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
            if key.len() < KEY_BYTES_MIN || !key.bytes().all(is_sign) {
                return Err(InvalidControlKeys::Key { line: line_number });
            }
            keys.push((scope, digest_of(key.as_bytes())));
        }
        if keys.is_empty() { Err(InvalidControlKeys::Empty) } else { Ok(Self(keys)) }
    }

    /// Reads keys as an environment variable holds them: as in a file, with commas or line feeds between them.
    ///
    /// # Errors
    /// [`InvalidControlKeys`]; its lines are counted from comma to comma.
    pub fn from_variable(value: &OsStr) -> Result<Self, InvalidControlKeys> {
        let text = value.to_str().ok_or(InvalidControlKeys::NotText)?;
        Self::parse(&text.replace(',', "\n"))
    }

    /// These keys and `others`.
    pub fn and(mut self, others: &Self) -> Self {
        self.0.extend_from_slice(&others.0);
        self
    }

    /// How many keys are known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `key` is good for; `None` where it is not known.
    ///
    /// Digests are compared, each of them to its end and all of them: how long it takes tells neither how much of a key
    /// was right nor which key it was.
    pub fn scope(&self, key: &[u8]) -> Option<Scope> {
        let given = digest_of(key);
        self.0.iter().fold(None, |found, (scope, known)| {
            let is_known = verify_slices_are_equal(known, &given).is_ok();
            found.max(is_known.then_some(*scope))
        })
    }
}

fn digest_of(key: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut bytes = [0; DIGEST_BYTES];
    bytes.copy_from_slice(digest(&SHA256, key).as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::ffi::OsStrExt;

    use super::*;

    const READER: &str = "reader-0123456789abcdefghij";
    const WRITER: &str = "writer-0123456789abcdefghij";

    #[test]
    fn a_key_has_its_scope_and_what_is_not_a_key_has_none() {
        let text = format!("# operators\n\nread {READER}\r\nwrite\t {WRITER}  \n");
        let keys = ControlKeys::parse(&text).unwrap();
        assert_eq!(keys.scope(READER.as_bytes()), Some(Scope::Read));
        assert_eq!(keys.scope(WRITER.as_bytes()), Some(Scope::Write));
        for wrong in ["", "read", "reader-0123456789abcdefghi", "Reader-0123456789abcdefghij", "# operators"] {
            assert_eq!(keys.scope(wrong.as_bytes()), None, "{wrong}");
        }
        assert!(Scope::Write > Scope::Read);
    }

    #[test]
    fn a_key_in_both_scopes_may_write() {
        let keys = ControlKeys::parse(&format!("write {READER}\nread {READER}")).unwrap();
        assert_eq!(keys.scope(READER.as_bytes()), Some(Scope::Write));
    }

    #[test]
    fn keys_of_a_variable_stand_between_commas_and_beside_those_of_a_file() {
        let keys = ControlKeys::from_variable(OsStr::new(&format!("read {READER}, write {WRITER}"))).unwrap();
        assert_eq!(keys.scope(READER.as_bytes()), Some(Scope::Read));
        assert_eq!(keys.scope(WRITER.as_bytes()), Some(Scope::Write));
        let both = ControlKeys::parse("read another-0123456789abcdefghij").unwrap().and(&keys);
        assert_eq!((both.len(), both.scope(WRITER.as_bytes())), (3, Some(Scope::Write)));
        assert_eq!(both.scope(b"another-0123456789abcdefghij"), Some(Scope::Read));
        let second = InvalidControlKeys::Line { line: 2 };
        assert_eq!(ControlKeys::from_variable(OsStr::new(&format!("read {READER},{WRITER}"))), Err(second));
        assert_eq!(ControlKeys::from_variable(OsStr::from_bytes(b"read \xff")), Err(InvalidControlKeys::NotText));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_never_by_its_key() {
        let cases = [
            ("", InvalidControlKeys::Empty),
            ("# only\n\n", InvalidControlKeys::Empty),
            (READER, InvalidControlKeys::Line { line: 1 }),
            ("admin reader-0123456789abcdefghij", InvalidControlKeys::Line { line: 1 }),
            ("\nread short", InvalidControlKeys::Key { line: 2 }),
            ("read reader-0123456789abcdef ghij", InvalidControlKeys::Key { line: 1 }),
            ("read reader-0123456789abcdefghíj", InvalidControlKeys::Key { line: 1 }),
        ];
        for (text, expected) in cases {
            assert_eq!(ControlKeys::parse(text), Err(expected), "{text}");
            assert!(!expected.to_string().contains("reader"));
        }
        assert!(!format!("{:?}", ControlKeys::parse(&format!("read {READER}")).unwrap()).contains("reader"));
    }

    /// What is compared are digests, so that even a comparison that stopped at the first wrong byte would tell
    /// nothing that helps to guess: a key that is nearly right is as far away as any other.
    #[test]
    fn a_guess_that_is_nearly_right_is_no_nearer() {
        let keys = ControlKeys::parse(&format!("read {READER}")).unwrap();
        let (_, known) = keys.0[0];
        for length in 0..READER.len() {
            let guess = digest_of(format!("{}x", &READER[..length]).as_bytes());
            let same = known.iter().zip(&guess).take_while(|(known, guess)| known == guess).count();
            assert!(same < 4, "{same} bytes are the same when {length} are right");
        }
    }
}
