//! Close codes and their reasons (RFC 6455 §7.4), and what each asks of a client.

/// Why the server closes a connection. The number goes on the wire, the reason beside it.
///
/// 4000 to 4999 are private use (RFC 6455 §7.4.2); the other numbers are the registered ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// The client asked for the end, or ended it itself.
    Normal = 1000,
    /// The server stops.
    GoingAway = 1001,
    /// The peer broke RFC 6455, or its query is invalid.
    Protocol = 1002,
    /// A binary message: the protocol is JSON text.
    Unsupported = 1003,
    /// Text that is not UTF-8.
    InvalidUtf8 = 1007,
    /// Too many bad messages in a row, or a message in too many or too slow fragments.
    Policy = 1008,
    /// A message larger than `max_message`.
    TooBig = 1009,
    /// A fault of the server's own.
    Internal = 1011,
    /// No token came that is accepted, or what it granted has ended.
    Unauthorized = 4401,
    /// Silent too long.
    Silent = 4408,
    /// Another connection took its place: that of its session, or a newer one of its user.
    Replaced = 4409,
    /// More messages than `message_rate`, though it was told, or more connections than one user or address may have.
    RateLimited = 4429,
}

/// What a client should do after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComeBack {
    /// The same would happen again.
    Never,
    /// After a random wait between the two times of CONNECT's `reconnect`.
    AfterWait,
    /// At once.
    AtOnce,
    /// With a new token.
    WithToken,
}

/// Every code that the server itself chooses, in the order of the metric's cells and of the README's table.
pub const CLOSE_CODES: [CloseCode; 12] = [
    CloseCode::Normal,
    CloseCode::GoingAway,
    CloseCode::Protocol,
    CloseCode::Unsupported,
    CloseCode::InvalidUtf8,
    CloseCode::Policy,
    CloseCode::TooBig,
    CloseCode::Internal,
    CloseCode::Unauthorized,
    CloseCode::Silent,
    CloseCode::Replaced,
    CloseCode::RateLimited,
];

impl CloseCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// What a client should do after this code.
    pub fn come_back(self) -> ComeBack {
        match self {
            // Two tabs with one session would take it from each other for ever.
            Self::Normal
            | Self::Protocol
            | Self::Unsupported
            | Self::InvalidUtf8
            | Self::Policy
            | Self::TooBig
            | Self::Replaced => ComeBack::Never,
            Self::GoingAway | Self::Internal | Self::RateLimited => ComeBack::AfterWait,
            Self::Unauthorized => ComeBack::WithToken,
            Self::Silent => ComeBack::AtOnce,
        }
    }

    /// Whether the close says that something went wrong, and so counts in `ws_errors_total`.
    pub fn is_abnormal(self) -> bool {
        !matches!(self, Self::Normal | Self::GoingAway | Self::Replaced)
    }

    /// The place of `number` among the metric's cells; the one past the last for codes that a peer chose.
    pub fn cell(number: u16) -> usize {
        CLOSE_CODES.iter().position(|code| code.number() == number).unwrap_or(CLOSE_CODES.len())
    }
}

/// Whether a peer may send `number` in a close frame (RFC 6455 §7.4.1, §7.4.2 and the IANA registry).
pub fn may_be_sent(number: u16) -> bool {
    matches!(number, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_stand_for_the_absence_of_a_code_may_not_be_sent() {
        for number in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(!may_be_sent(number), "{number}");
        }
        for code in CLOSE_CODES {
            assert!(may_be_sent(code.number()), "{code:?}");
        }
    }

    #[test]
    fn each_code_has_a_cell_of_its_own() {
        for (index, code) in CLOSE_CODES.iter().enumerate() {
            assert_eq!(CloseCode::cell(code.number()), index);
        }
        assert_eq!(CloseCode::cell(3000), CLOSE_CODES.len());
    }
}
