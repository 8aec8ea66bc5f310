//! How much a watcher has seen: versions of what it watches, and the text in which it keeps one.

use data_encoding::BASE64URL_NOPAD;

const CURSOR_BYTES: usize = 12;
const TEXT_BYTES: usize = 16;

/// The low bits of a version count within a millisecond.
const COUNTER_BITS: u32 = 16;

/// When something changed last, by a hybrid clock: milliseconds since 1970 in the upper 48 bits, a counter within the
/// millisecond in the lower 16. Of two versions of one thing the larger is the newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// The first version of the millisecond `unix_ms`; of the last one that 48 bits hold where it lies beyond.
    pub fn at_ms(unix_ms: u64) -> Self {
        Self(unix_ms.min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS)
    }

    /// The millisecond that it belongs to, since 1970.
    pub fn unix_ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }
}

/// Up to where a watcher has been told everything. Clients keep it as an opaque text and bring it in WATCH's `since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The nonce of the process that gave it: versions of another process are not ours to compare with.
    pub process: u32,
    /// Every change up to this version has been sent.
    pub version: Version,
}

impl Cursor {
    /// The cursor that `text` is; none where it is no text of [`to_text`](Self::to_text).
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != TEXT_BYTES {
            return None;
        }
        let mut bytes = [0; CURSOR_BYTES];
        BASE64URL_NOPAD.decode_mut(text.as_bytes(), &mut bytes).ok()?;
        let (process, version) = bytes.split_first_chunk::<4>()?;
        Some(Self {
            process: u32::from_be_bytes(*process),
            version: Version(u64::from_be_bytes(*version.first_chunk::<8>()?)),
        })
    }

    /// The text that clients keep: its 12 bytes, big-endian, in base64url (RFC 4648 §5).
    pub fn to_text(self) -> CursorText {
        let mut bytes = [0; CURSOR_BYTES];
        bytes[..4].copy_from_slice(&self.process.to_be_bytes());
        bytes[4..].copy_from_slice(&self.version.0.to_be_bytes());
        let mut text = [0; TEXT_BYTES];
        BASE64URL_NOPAD.encode_mut(&bytes, &mut text);
        CursorText(text)
    }
}

/// A [`Cursor`] as clients see it. It needs no escapes in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorText([u8; TEXT_BYTES]);

impl CursorText {
    /// The 16 characters, all ASCII.
    pub fn as_str(&self) -> &str {
        // base64url is ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// What a WATCH says that its client has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// A cursor of ours by its form. Whether this process gave it is for its reader to compare.
    Readable(Cursor),
    /// Any other text: it counts as a cursor from the future.
    Unreadable,
}

impl Since {
    /// Reads `text`, whatever it is.
    pub fn parse(text: &str) -> Self {
        Cursor::parse(text).map_or(Self::Unreadable, Self::Readable)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_is_twelve_bytes_in_base64url() {
        let cursor = Cursor { process: 0xffef_be00, version: Version(0x0102_0304_0506_0708) };
        assert_eq!(cursor.to_text().as_str(), "_---AAECAwQFBgcI");
        assert_eq!(Since::parse("_---AAECAwQFBgcI"), Since::Readable(cursor));
    }

    #[test]
    fn any_other_text_is_unreadable() {
        for text in [
            "",
            "_---AAECAwQFBgc",
            "_---AAECAwQFBgcIA",
            "_---AAECAwQFBgcIAAAA",
            "_---AAECAwQFBgc=",
            "_--+AAECAwQFBgcI",
            " _---AAECAwQFBgc",
            "_---AAECAwQFBg\0I",
            "éééééééé",
            &"A".repeat(64),
            &"A".repeat(60_000),
        ] {
            assert_eq!(Since::parse(text), Since::Unreadable, "{text:?}");
        }
    }

    #[test]
    fn a_version_is_a_millisecond_and_a_place_in_it() {
        let version = Version::at_ms(1_795_578_885_123);
        assert_eq!((version.unix_ms(), version.0 & 0xffff), (1_795_578_885_123, 0));
        let last_of_it = Version(version.0 | 0xffff);
        assert_eq!(last_of_it.unix_ms(), 1_795_578_885_123);
        assert!(version < last_of_it && last_of_it < Version::at_ms(1_795_578_885_124));
        assert_eq!(Version::at_ms(u64::MAX).unix_ms(), (1 << 48) - 1);
    }

    proptest! {
        #[test]
        fn any_cursor_comes_back(process: u32, version: u64) {
            let cursor = Cursor { process, version: Version(version) };
            prop_assert_eq!(Cursor::parse(cursor.to_text().as_str()), Some(cursor));
        }

        #[test]
        fn what_is_readable_is_written_no_other_way(text in "[A-Za-z0-9_-]{16}|[A-Za-z0-9_=+/-]{14,18}|\\PC{0,16}") {
            if let Some(cursor) = Cursor::parse(&text) {
                let again = cursor.to_text();
                prop_assert_eq!(again.as_str(), text);
            }
        }
    }
}
