//! Who a connection speaks for.

use std::fmt;
use std::num::NonZeroU8;

/// The longest userId, in bytes of UTF-8.
pub const USER_ID_BYTES_MAX: usize = 128;

/// What fits beside the length byte. A UUID has 36 bytes.
const INLINE_BYTES_MAX: usize = 39;

/// The name of a user: 1 to 128 bytes of UTF-8 without control characters. Only [`UserId::parse`] makes one.
///
/// Up to 39 bytes are held in place; a longer one costs an allocation of its own length.
#[derive(Clone, PartialEq, Eq)]
pub struct UserId(Storage);

// Of a million users, each is named once: what this costs is part of what a user costs.
const _: () = assert!(size_of::<UserId>() == 40);

/// A length is never 0, which leaves the byte's 0 to tell the variants apart: no tag is needed beside it.
#[derive(Clone, PartialEq, Eq)]
enum Storage {
    /// The name, then zeros, so that equal names are equal bytes.
    Inline {
        length: NonZeroU8,
        bytes: [u8; INLINE_BYTES_MAX],
    },
    Heap(Box<str>),
}

/// Why a text cannot be a userId. The sentences leave the subject out: what the text was is for the caller to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    /// No byte at all.
    #[error("must not be empty")]
    Empty,
    /// More than [`USER_ID_BYTES_MAX`] bytes.
    #[error("must not be longer than {USER_ID_BYTES_MAX} bytes of UTF-8")]
    TooLong,
    /// U+0000 to U+001F or U+007F to U+009F.
    #[error("must not contain control characters")]
    ControlCharacter,
}

impl UserId {
    /// Takes `text` as it is: nothing is trimmed, folded or normalised, so two spellings are two users.
    ///
    /// # Errors
    /// When `text` is empty, longer than [`USER_ID_BYTES_MAX`] bytes, or has a control character.
    pub fn parse(text: &str) -> Result<Self, UserIdError> {
        if text.len() > USER_ID_BYTES_MAX {
            return Err(UserIdError::TooLong);
        }
        // Unicode's category Cc is exactly U+0000 to U+001F and U+007F to U+009F.
        if text.chars().any(char::is_control) {
            return Err(UserIdError::ControlCharacter);
        }
        let Some(length) = u8::try_from(text.len()).ok().and_then(NonZeroU8::new) else {
            return Err(UserIdError::Empty);
        };
        let mut bytes = [0; INLINE_BYTES_MAX];
        Ok(Self(match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Storage::Inline { length, bytes }
            }
            None => Storage::Heap(text.into()),
        }))
    }

    /// The bytes that the name takes beside the value itself.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Storage::Inline { .. } => 0,
            Storage::Heap(name) => name.len(),
        }
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // `parse` put UTF-8 there; to check it again is what not being `unsafe` costs.
            Storage::Inline { length, bytes } => {
                bytes.get(..usize::from(length.get())).and_then(|name| str::from_utf8(name).ok()).unwrap_or_default()
            }
            Storage::Heap(name) => name,
        }
    }
}

/// Tells the length alone: userIds are personal, and Debug output ends in logs.
impl fmt::Debug for UserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UserId({} bytes)", self.as_str().len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_of_1_to_128_bytes_is_given_back_as_it_was() {
        for length in 1..=USER_ID_BYTES_MAX {
            let name = "a".repeat(length);
            assert_eq!(UserId::parse(&name).unwrap().as_str(), name);
        }
        assert_eq!(UserId::parse(""), Err(UserIdError::Empty));
        assert_eq!(UserId::parse(&"a".repeat(USER_ID_BYTES_MAX + 1)), Err(UserIdError::TooLong));
    }

    #[test]
    fn the_limit_counts_bytes_not_characters() {
        assert!(UserId::parse(&"é".repeat(64)).is_ok());
        assert_eq!(UserId::parse(&"é".repeat(65)), Err(UserIdError::TooLong));
    }

    #[test]
    fn control_characters_are_refused_and_their_neighbours_taken() {
        for code in (0..=0x1f).chain(0x7f..=0x9f) {
            let name = format!("ana{}", char::from_u32(code).unwrap());
            assert_eq!(UserId::parse(&name), Err(UserIdError::ControlCharacter), "{code:#x}");
        }
        for code in [0x20, 0x7e, 0xa0, 0x2028, 0x10_ffff] {
            let name = char::from_u32(code).unwrap().to_string();
            assert_eq!(UserId::parse(&name).unwrap().as_str(), name, "{code:#x}");
        }
    }

    #[test]
    fn debug_output_does_not_tell_the_name() {
        assert_eq!(format!("{:?}", UserId::parse("ana").unwrap()), "UserId(3 bytes)");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_given_back(text in "([\\x00\\x7f\\x{85}]|\\PC{0,6}){0,30}", other in "\\PC{0,3}") {
            match UserId::parse(&text) {
                Ok(user_id) => {
                    prop_assert_eq!(user_id.as_str(), &text);
                    prop_assert_eq!(&user_id, &UserId::parse(&text).unwrap());
                    if let Ok(other_id) = UserId::parse(&other) {
                        prop_assert_eq!(user_id == other_id, text == other);
                    }
                }
                Err(UserIdError::Empty) => prop_assert!(text.is_empty()),
                Err(UserIdError::TooLong) => prop_assert!(text.len() > USER_ID_BYTES_MAX),
                Err(UserIdError::ControlCharacter) => prop_assert!(text.chars().any(char::is_control)),
            }
        }
    }
}
