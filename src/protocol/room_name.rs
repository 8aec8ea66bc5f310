//! Where users are together.

use std::fmt;

use super::name::{Name, NameError};

/// The name of a room: what a [`UserId`](super::user_id::UserId) may be, and kept like it. Only [`RoomName::parse`]
/// makes one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomName(Name);

impl RoomName {
    /// Takes `text` as it is: nothing is trimmed, folded or normalised, so two spellings are two rooms.
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

impl fmt::Debug for RoomName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write_debug("RoomName", formatter)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn debug_output_does_not_tell_the_name() {
        assert_eq!(format!("{:?}", RoomName::parse("lobby").unwrap()), "RoomName(5 bytes)");
    }
}
