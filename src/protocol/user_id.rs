//! Who a connection speaks for.

use std::fmt;

use super::name::{Name, NameError};

/// The name of a user: 1 to 128 bytes of UTF-8 without control characters, in order of bytes. Only [`UserId::parse`]
/// makes one.
///
/// Up to 39 bytes are held in place; a longer one costs an allocation of its own length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Name);

impl UserId {
    /// Takes `text` as it is: nothing is trimmed, folded or normalised, so two spellings are two users.
    ///
    /// # Errors
    /// When `text` is empty, longer than [`NAME_BYTES_MAX`](super::name::NAME_BYTES_MAX) bytes, or has a control
    /// character.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Name::parse(text).map(Self)
    }

    /// The bytes that the name takes beside the value itself.
    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write_debug("UserId", formatter)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn debug_output_does_not_tell_the_name() {
        assert_eq!(format!("{:?}", UserId::parse("ana").unwrap()), "UserId(3 bytes)");
    }
}
