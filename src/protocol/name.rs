//! What users and rooms have in common: what a name may be, and how it is kept.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU8;

/// The longest name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 128;

/// What fits beside the length byte. A UUID has 36 bytes.
const INLINE_BYTES_MAX: usize = 39;

/// Why a text cannot be a name. The sentences leave the subject out: what the text was is for the caller to name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No byte at all.
    #[error("must not be empty")]
    Empty,
    /// More than [`NAME_BYTES_MAX`] bytes.
    #[error("must not be longer than {NAME_BYTES_MAX} bytes of UTF-8")]
    TooLong,
    /// U+0000 to U+001F or U+007F to U+009F.
    #[error("must not contain control characters")]
    ControlCharacter,
}

/// 1 to 128 bytes of UTF-8 without control characters, in order of bytes.
///
/// Up to 39 bytes are held in place; a longer name costs an allocation of its own length. A length is never 0, which
/// leaves the byte's 0 to tell the variants apart: no tag is needed beside it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// The name, then zeros, so that equal names are equal bytes.
    Inline {
        length: NonZeroU8,
        bytes: [u8; INLINE_BYTES_MAX],
    },
    Heap(Box<str>),
}

// Of a million users, each is named once: what this costs is part of what a user costs.
const _: () = assert!(size_of::<Name>() == 40);

impl Name {
    /// Takes `text` as it is: nothing is trimmed, folded or normalised.
    pub(super) fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        // Unicode's category Cc is exactly U+0000 to U+001F and U+007F to U+009F.
        if text.chars().any(char::is_control) {
            return Err(NameError::ControlCharacter);
        }
        let Some(length) = u8::try_from(text.len()).ok().and_then(NonZeroU8::new) else {
            return Err(NameError::Empty);
        };
        let mut bytes = [0; INLINE_BYTES_MAX];
        Ok(match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Self::Inline { length, bytes }
            }
            None => Self::Heap(text.into()),
        })
    }

    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Heap(name) => name.len(),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            // `parse` put UTF-8 there; to check it again is what not being `unsafe` costs.
            Self::Inline { .. } => str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Self::Heap(name) => name,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => bytes.get(..usize::from(length.get())).unwrap_or_default(),
            Self::Heap(name) => name.as_bytes(),
        }
    }

    /// Tells `kind` and the length alone: names are personal, and Debug output ends in logs.
    pub(super) fn write_debug(&self, kind: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{kind}({} bytes)", self.as_bytes().len())
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_of_1_to_128_bytes_is_given_back_as_it_was() {
        for length in 1..=NAME_BYTES_MAX {
            let text = "a".repeat(length);
            let name = Name::parse(&text).unwrap();
            assert_eq!(name.as_str(), text);
            assert_eq!(name.heap_bytes(), if length > INLINE_BYTES_MAX { length } else { 0 });
        }
        assert_eq!(Name::parse("").err(), Some(NameError::Empty));
        assert_eq!(Name::parse(&"a".repeat(NAME_BYTES_MAX + 1)).err(), Some(NameError::TooLong));
    }

    #[test]
    fn the_limit_counts_bytes_not_characters() {
        assert!(Name::parse(&"é".repeat(64)).is_ok());
        assert_eq!(Name::parse(&"é".repeat(65)).err(), Some(NameError::TooLong));
    }

    #[test]
    fn control_characters_are_refused_and_their_neighbours_taken() {
        for code in (0..=0x1f).chain(0x7f..=0x9f) {
            let text = format!("ana{}", char::from_u32(code).unwrap());
            assert_eq!(Name::parse(&text).err(), Some(NameError::ControlCharacter), "{code:#x}");
        }
        for code in [0x20, 0x7e, 0xa0, 0x2028, 0x10_ffff] {
            let text = char::from_u32(code).unwrap().to_string();
            assert_eq!(Name::parse(&text).unwrap().as_str(), text, "{code:#x}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_given_back(text in "([\\x00\\x7f\\x{85}]|\\PC{0,6}){0,30}") {
            match Name::parse(&text) {
                Ok(name) => prop_assert_eq!(name.as_str(), &text),
                Err(NameError::Empty) => prop_assert!(text.is_empty()),
                Err(NameError::TooLong) => prop_assert!(text.len() > NAME_BYTES_MAX),
                Err(NameError::ControlCharacter) => prop_assert!(text.chars().any(char::is_control)),
            }
        }

        #[test]
        fn names_are_alike_and_in_order_as_their_texts_are(
            texts in prop::collection::vec("[ab]{1,3}|a{37,42}b?|\\PC{1,12}", 2..8),
        ) {
            let names: Vec<Name> = texts.iter().map(|text| Name::parse(text).unwrap()).collect();
            for (name, text) in names.iter().zip(&texts) {
                for (other_name, other_text) in names.iter().zip(&texts) {
                    prop_assert_eq!(name == other_name, text == other_text);
                    prop_assert_eq!(name.cmp(other_name), text.as_bytes().cmp(other_text.as_bytes()));
                }
            }
            let distinct: HashSet<&String> = texts.iter().collect();
            // Each from a text of its own, so that nothing but the name can make two alike.
            let again = texts.iter().map(|text| Name::parse(text).unwrap());
            prop_assert_eq!(names.iter().cloned().chain(again).collect::<HashSet<_>>().len(), distinct.len());
        }
    }
}
