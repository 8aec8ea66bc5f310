//! What a client says of its user, and what is told of one.

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
    /// There, and offline to everybody else.
    Invisible,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Online, Self::Away, Self::Busy, Self::Invisible];

    /// The status that `word` names on the wire, in lower case; none for any other word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        PresenceStatus::from(self).as_str()
    }
}

/// The status of a user, as a watcher is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceStatus {
    /// There, and to be talked to.
    Online,
    /// There, but not looking.
    Away,
    /// There, and not to be disturbed.
    Busy,
    /// Without a connection, or never seen, or not to be seen.
    Offline,
    /// Not to be seen: told to the user's own connections alone.
    Invisible,
}

impl PresenceStatus {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Away => "away",
            Self::Busy => "busy",
            Self::Offline => "offline",
            Self::Invisible => "invisible",
        }
    }
}

impl From<Status> for PresenceStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Online => Self::Online,
            Status::Away => Self::Away,
            Status::Busy => Self::Busy,
            Status::Invisible => Self::Invisible,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_is_named_by_its_word_and_by_no_other() {
        let words = Status::ALL.map(Status::as_str);
        assert_eq!(words, ["online", "away", "busy", "invisible"]);
        assert_eq!(words.map(Status::parse), Status::ALL.map(Some));
        for word in ["", "Online", "ONLINE", "offline", "online ", "busyy"] {
            assert_eq!(Status::parse(word), None, "{word:?}");
        }
        assert_eq!(PresenceStatus::Offline.as_str(), "offline");
    }
}
