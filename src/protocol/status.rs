//! What a client says of its user.

/// The status of one connection, as its client said it.
///
/// Offline is no status: it is what is said of a user without connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// There, and to be talked to.
    Online,
    /// There, but not looking.
    Away,
    /// There, and not to be disturbed.
    Busy,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Online, Self::Away, Self::Busy];

    /// The status that `word` names on the wire, in lower case; none for any other word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Away => "away",
            Self::Busy => "busy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_is_named_by_its_word_and_by_no_other() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        for word in ["", "Online", "ONLINE", "offline", "online ", "busyy"] {
            assert_eq!(Status::parse(word), None, "{word:?}");
        }
    }
}
