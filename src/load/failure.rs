//! Every way a connection of the load can fail, and how often each happened.

use std::collections::BTreeMap;
use std::io;

/// Why a connection or an answer was not what it should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens there.
    ConnectRefused,
    /// The connect failed otherwise: no free port or descriptor, no route.
    Connect,
    /// No TLS came about, or it broke.
    Tls,
    /// 503: the server takes no more.
    Unavailable,
    /// The response to the upgrade request is not 101 with its headers.
    Response,
    /// `Sec-WebSocket-Accept` does not fit the key.
    AcceptKey,
    /// The first message is not CONNECT with the right userId.
    FirstMessage,
    /// Connect to CONNECT, or WATCH to its state, took longer than `--answer-timeout`.
    HandshakeTimeout,
    /// A frame that a server may not send, or that this program does not take.
    Frame,
    /// A message that does not answer a heartbeat, or that nothing asked for.
    WrongAnswer,
    /// The server sent ERROR.
    ErrorMessage,
    /// The server closed with a close frame; codes are counted apart.
    Closed,
    /// The connection ended without a close frame.
    Ended,
    /// The connection was reset or failed otherwise.
    Reset,
    /// The server took no bytes for so long that a mebibyte of heartbeats waited.
    Stalled,
    /// Churn: the server did not end a connection that was closed.
    CloseTimeout,
    /// A heartbeat of the measured window was not answered within `--answer-timeout` of its end.
    Unanswered,
    /// Watch: the last change of a user was not seen by one who watches it, and is there.
    Unseen,
}

impl Failure {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 18] = [
        Self::ConnectRefused,
        Self::Connect,
        Self::Tls,
        Self::Unavailable,
        Self::Response,
        Self::AcceptKey,
        Self::FirstMessage,
        Self::HandshakeTimeout,
        Self::Frame,
        Self::WrongAnswer,
        Self::ErrorMessage,
        Self::Closed,
        Self::Ended,
        Self::Reset,
        Self::Stalled,
        Self::CloseTimeout,
        Self::Unanswered,
        Self::Unseen,
    ];

    /// Its key in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Unavailable => "unavailable",
            Self::Response => "response",
            Self::AcceptKey => "accept_key",
            Self::FirstMessage => "first_message",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Frame => "frame",
            Self::WrongAnswer => "wrong_answer",
            Self::ErrorMessage => "error_message",
            Self::Closed => "closed",
            Self::Ended => "ended",
            Self::Reset => "reset",
            Self::Stalled => "stalled",
            Self::CloseTimeout => "close_timeout",
            Self::Unanswered => "unanswered",
            Self::Unseen => "unseen",
        }
    }

    /// What a connect's error counts as.
    pub fn of_connect(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::ConnectionRefused { Self::ConnectRefused } else { Self::Connect }
    }
}

/// How often each failure happened, and which close codes came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    counts: [u64; Failure::ALL.len()],
    closes: BTreeMap<u16, u64>,
    /// The first error of the operating system at a connect: says more than its kind.
    connect_error: Option<String>,
}

impl Failures {
    /// Counts `times` of one failure.
    pub fn add(&mut self, failure: Failure, times: u64) {
        self.counts[failure as usize] += times;
    }

    /// Counts a connect that the operating system refused with `error`.
    pub fn add_connect(&mut self, error: &io::Error) {
        self.add(Failure::of_connect(error), 1);
        self.connect_error.get_or_insert_with(|| error.to_string());
    }

    /// Counts a close frame of the server, unasked or in answer to ours.
    pub fn add_close(&mut self, code: u16) {
        *self.closes.entry(code).or_default() += 1;
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum += count;
        }
        for (&code, count) in &other.closes {
            *self.closes.entry(code).or_default() += count;
        }
        if self.connect_error.is_none() {
            self.connect_error.clone_from(&other.connect_error);
        }
    }

    /// How often one happened.
    pub fn count(&self, failure: Failure) -> u64 {
        self.counts[failure as usize]
    }

    /// How many there were in all.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Close codes from the server with how often each came, those in answer to our own close included.
    pub fn closes(&self) -> &BTreeMap<u16, u64> {
        &self.closes
    }

    /// The operating system's words for the first connect that failed.
    pub fn connect_error(&self) -> Option<&str> {
        self.connect_error.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_place_and_a_name_of_its_own() {
        for (index, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, index);
            assert_eq!(Failure::ALL.iter().filter(|other| other.name() == failure.name()).count(), 1);
        }
    }

    #[test]
    fn threads_add_up() {
        let mut first = Failures::default();
        first.add(Failure::Closed, 2);
        first.add_close(1001);
        let mut second = first.clone();
        second.add_connect(&io::Error::from(io::ErrorKind::ConnectionRefused));
        first.merge(&second);
        assert_eq!((first.count(Failure::Closed), first.count(Failure::ConnectRefused), first.total()), (4, 1, 5));
        assert_eq!(first.closes().get(&1001), Some(&2));
        assert_eq!(first.connect_error(), Some("connection refused"));
    }
}
