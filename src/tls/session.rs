//! One TLS connection, sans-IO.
//!
//! What came from the socket goes into [`Session::receive`]; plaintext comes out. What is to be said goes into
//! [`Session::write`], which is given the way to the socket. An idle session keeps no buffer: a record is kept only
//! while it is not whole, ciphertext only while the socket does not take it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedConnectionCommon, UnbufferedStatus,
};
use rustls::{HandshakeKind, ProtocolVersion};

/// The most plaintext in one record (RFC 8446 §5.1).
const RECORD_BYTES: usize = 16 * 1024;

/// What a record adds to its plaintext at most, with a key update before it: a first guess, no limit.
const RECORD_OVERHEAD: usize = 128;

/// The most that is kept of what is not whole: a record of full size, or the longest of a client's certificates.
const INCOMPLETE_BYTES_MAX: usize = 32 * 1024;

/// Ciphertext of the session's own (handshake, key updates, alerts) that may wait before no more is to be read.
const OWED_BYTES_MAX: usize = 16 * 1024;

/// Bytes on the heap of an established session without buffers, measured: rustls's state and its keys.
const ESTABLISHED_BYTES: usize = 2_700;

/// The byte with which a client's first record begins: `handshake` (RFC 8446 §5.1).
pub const HANDSHAKE_RECORD: u8 = 0x16;

/// Which end of the connection a session is.
pub trait Side {
    /// What rustls keeps for it.
    type Data;
    /// Whether it gives out session tickets: what it says after a handshake of TLS 1.3 is nothing else.
    const SENDS_TICKETS: bool;

    /// Takes the next step on what has come.
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// What both ends have in common.
    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const SENDS_TICKETS: bool = true;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &UnbufferedConnectionCommon<ServerConnectionData> {
        self
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const SENDS_TICKETS: bool = false;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &UnbufferedConnectionCommon<ClientConnectionData> {
        self
    }
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It agrees on keys.
    Handshake,
    /// Data goes both ways.
    Established,
    /// The peer has said that nothing more comes (close_notify, RFC 8446 §6.1).
    PeerClosed,
    /// It met what is no TLS, or not as it should be; nothing more is read or said.
    Failed(Failure),
}

/// Why a session failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// What came first begins no TLS record: plain HTTP, as a rule.
    NotTls,
    /// Broken records, nothing in common, a certificate that is missing or not trusted.
    Tls,
    /// A panic below was caught: a bug, which costs this connection alone.
    Fault,
}

/// One TLS connection.
pub struct Session<S> {
    side: S,
    phase: Phase,
    /// Whether we have said that nothing more comes.
    said_close: bool,
    /// What came and is not whole yet.
    incoming: Vec<u8>,
    /// Ciphertext that the socket did not take.
    outgoing: Vec<u8>,
    /// Whether the handshake has just ended: what a server of TLS 1.3 says then is a ticket.
    begins: bool,
    /// Whether `outgoing` is a ticket that goes out with the next write: a packet less for each connection.
    defers: bool,
    /// How many bytes of the next write's start `outgoing` stands for; 0 when all of it is the session's own.
    encrypted: usize,
}

/// A server's end.
pub type ServerSession = Session<UnbufferedServerConnection>;

/// A client's end.
pub type ClientSession = Session<UnbufferedClientConnection>;

impl<S> fmt::Debug for Session<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl<S: Side> Session<S> {
    /// A session that has said nothing yet.
    pub fn new(side: S) -> Self {
        Self {
            side,
            phase: Phase::Handshake,
            said_close: false,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            begins: false,
            defers: false,
            encrypted: 0,
        }
    }

    /// Takes what came from the socket. The plaintext in it is appended to `plaintext`, and what is to be sent for it
    /// to `reply`, which goes into [`Session::owe`]. A client's first flight comes of receiving nothing.
    ///
    /// `bytes` is decrypted in place; what is left there is of no use.
    pub fn receive(&mut self, bytes: &mut [u8], plaintext: &mut Vec<u8>, reply: &mut Vec<u8>) {
        if matches!(self.phase, Phase::PeerClosed | Phase::Failed(_)) {
            return;
        }
        let begins = self.phase == Phase::Handshake && self.side.common().protocol_version().is_none();
        let is_tls = |first: Option<&u8>| first.is_none_or(|first| *first == HANDSHAKE_RECORD);
        let foreign = begins && !is_tls(self.incoming.first().or(bytes.first()));
        let rest = self.guarded(Err(Failure::Fault), |session| {
            if session.incoming.is_empty() {
                return session.advance(bytes, plaintext, reply).map(|used| bytes[used..].to_vec());
            }
            let mut whole = std::mem::take(&mut session.incoming);
            whole.extend_from_slice(bytes);
            let used = session.advance(&mut whole, plaintext, reply)?;
            // Bytes that come one by one are appended in place; only what remains of more is moved.
            Ok(if used == 0 { whole } else { whole[used..].to_vec() })
        });
        match rest {
            Ok(rest) if rest.len() <= INCOMPLETE_BYTES_MAX => self.incoming = rest,
            Ok(_) | Err(Failure::Tls) if foreign => self.phase = Phase::Failed(Failure::NotTls),
            Ok(_) => self.phase = Phase::Failed(Failure::Tls),
            Err(failure) => self.phase = Phase::Failed(failure),
        }
    }

    /// Has the session's own ciphertext sent, behind what waits already. `send` says how much the socket took; less
    /// than all means that it takes no more for now.
    ///
    /// # Errors
    /// What `send` fails with.
    pub fn owe<E>(&mut self, bytes: &[u8], send: impl FnOnce(&[u8]) -> Result<usize, E>) -> Result<(), E> {
        let begins = std::mem::take(&mut self.begins);
        if bytes.is_empty() {
            return Ok(());
        }
        let is_held_up = !self.outgoing.is_empty() && !std::mem::take(&mut self.defers);
        self.outgoing.extend_from_slice(bytes);
        if begins
            && self.phase == Phase::Established
            && self.side.common().protocol_version() == Some(ProtocolVersion::TLSv1_3)
        {
            self.defers = true;
        } else if !is_held_up {
            self.flush(send)?;
        }
        Ok(())
    }

    /// Encrypts and sends. Returns how many bytes of `plaintext` are done with; what is left must begin the next
    /// write, since some of it may be encrypted already and wait for the socket. So whoever writes knows that
    /// something waits for as long as it does.
    ///
    /// Where nothing can be said, because there are no keys or no more, it is taken and thrown away: it must not go
    /// out in clear. `record` is scratch space.
    ///
    /// # Errors
    /// What `send` fails with.
    pub fn write<E>(
        &mut self,
        plaintext: &[u8],
        record: &mut Vec<u8>,
        mut send: impl FnMut(&[u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        if !self.can_write() {
            return Ok(plaintext.len());
        }
        let mut taken = if self.defers { 0 } else { self.flush(&mut send)?.min(plaintext.len()) };
        while (self.outgoing.is_empty() || self.defers) && taken < plaintext.len() {
            let end = plaintext.len().min(taken + RECORD_BYTES);
            record.clear();
            if std::mem::take(&mut self.defers) {
                record.append(&mut self.outgoing);
                self.outgoing = Vec::new();
            }
            if !self.guarded(false, |session| session.encrypt(&plaintext[taken..end], record)) {
                return Ok(plaintext.len());
            }
            let sent = send(record)?;
            if sent < record.len() {
                self.outgoing.extend_from_slice(&record[sent..]);
                self.encrypted = end - taken;
                break;
            }
            taken = end;
        }
        Ok(taken)
    }

    /// Sends what waits. Returns how many bytes of the next write it has done with.
    ///
    /// # Errors
    /// What `send` fails with.
    pub fn flush<E>(&mut self, send: impl FnOnce(&[u8]) -> Result<usize, E>) -> Result<usize, E> {
        if self.outgoing.is_empty() {
            return Ok(0);
        }
        self.defers = false;
        let sent = send(&self.outgoing)?;
        if sent == self.outgoing.len() {
            self.outgoing = Vec::new();
            return Ok(std::mem::take(&mut self.encrypted));
        }
        self.outgoing.drain(..sent);
        // One byte at least stays, so that the writer knows that something waits. Ciphertext is longer than plaintext.
        let done = sent.min(self.encrypted.saturating_sub(1));
        self.encrypted -= done;
        Ok(done)
    }

    /// Says that nothing more will be said (close_notify), once; appended to `reply`.
    pub fn close(&mut self, reply: &mut Vec<u8>) {
        if !self.can_write() || std::mem::replace(&mut self.said_close, true) {
            return;
        }
        self.guarded((), |session| {
            let Self { side, incoming, .. } = session;
            let status = side.process(incoming);
            if let UnbufferedStatus { state: Ok(ConnectionState::WriteTraffic(mut traffic)), .. } = status {
                append(reply, RECORD_OVERHEAD, |space| needs(traffic.queue_close_notify(space)));
            }
        });
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether keys are still being agreed on.
    pub fn is_handshaking(&self) -> bool {
        self.side.common().is_handshaking()
    }

    /// Which kind of handshake was made, once that is known.
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.side.common().handshake_kind()
    }

    /// Whether ciphertext waits for the socket that no write stands for: it is to be sent by [`Session::flush`].
    pub fn owes(&self) -> bool {
        self.waits() && self.encrypted == 0
    }

    /// Whether ciphertext waits for the socket.
    pub fn waits(&self) -> bool {
        !self.outgoing.is_empty() && !self.defers
    }

    /// Whether so much is owed that the peer must first read before it is read.
    pub fn owes_too_much(&self) -> bool {
        self.outgoing.len() > OWED_BYTES_MAX + RECORD_BYTES
    }

    /// Bytes that it holds on the heap.
    pub fn held_bytes(&self) -> usize {
        ESTABLISHED_BYTES + self.incoming.capacity() + self.outgoing.capacity()
    }

    fn can_write(&self) -> bool {
        matches!(self.phase, Phase::Established | Phase::PeerClosed) && !self.said_close
    }

    /// Does a step in which foreign code works on what a peer sent. A panic there is the end of this session, and of
    /// nothing else: what it left half done is not looked at again.
    fn guarded<R>(&mut self, otherwise: R, step: impl FnOnce(&mut Self) -> R) -> R {
        catch_unwind(AssertUnwindSafe(|| step(self))).unwrap_or_else(|_| {
            self.phase = Phase::Failed(Failure::Fault);
            otherwise
        })
    }

    /// Takes every step that `bytes` allows; returns how many of them are done with.
    fn advance(&mut self, bytes: &mut [u8], plaintext: &mut Vec<u8>, reply: &mut Vec<u8>) -> Result<usize, Failure> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.side.process(&mut bytes[used..]);
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        plaintext.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(reply, RECORD_OVERHEAD, |space| needs(data.encode(space)));
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.phase = Phase::PeerClosed,
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => {
                    if self.phase == Phase::Handshake && !self.side.common().is_handshaking() {
                        self.phase = Phase::Established;
                        self.begins = S::SENDS_TICKETS;
                    }
                    return Ok(used + discard);
                }
                // Early data is never offered.
                Ok(_) => return Err(Failure::Tls),
                Err(_) => {
                    // After the close_notify nothing more is said, not even that.
                    if !self.said_close {
                        self.append_alerts(&mut bytes[used..], reply);
                    }
                    return Err(Failure::Tls);
                }
            }
            used += discard;
        }
    }

    /// Appends what is to be told of a failure. The bytes that failed are shown again, for rustls knows how far it
    /// came in them; only while it has something to say, for then it says that before it looks at them.
    fn append_alerts(&mut self, bytes: &mut [u8], reply: &mut Vec<u8>) {
        while self.side.common().wants_write() {
            let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(mut data)), .. } = self.side.process(bytes)
            else {
                return;
            };
            append(reply, RECORD_OVERHEAD, |space| needs(data.encode(space)));
        }
    }

    /// Appends `plaintext` as records; false where the keys may not be used any more.
    fn encrypt(&mut self, plaintext: &[u8], record: &mut Vec<u8>) -> bool {
        // What is kept must be shown also when nothing is read: rustls knows how far it came in it.
        let Self { side, incoming, .. } = self;
        loop {
            match side.process(incoming).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let space = plaintext.len() + RECORD_OVERHEAD;
                    return append(record, space, |space| needs(traffic.encrypt(plaintext, space)));
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(record, RECORD_OVERHEAD, |space| needs(data.encode(space)));
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                _ => return false,
            }
        }
    }
}

/// What encoding came to: its length, or how much space it needs; `None` when it cannot be done.
type Encoded = Result<usize, Option<usize>>;

fn needs<E: Into<Refused>>(result: Result<usize, E>) -> Encoded {
    result.map_err(|error| error.into().0)
}

struct Refused(Option<usize>);

impl From<EncodeError> for Refused {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => Self(Some(required_size)),
            EncodeError::AlreadyEncoded => Self(None),
        }
    }
}

impl From<EncryptError> for Refused {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => Self(Some(required_size)),
            EncryptError::EncryptExhausted => Self(None),
        }
    }
}

/// Appends what `encode` writes, with more space than the first guess where it asks for it; false when it cannot.
fn append(out: &mut Vec<u8>, guess: usize, mut encode: impl FnMut(&mut [u8]) -> Encoded) -> bool {
    let start = out.len();
    let mut space = guess;
    loop {
        out.resize(start + space, 0);
        match encode(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return true;
            }
            Err(Some(required)) if required > space => space = required,
            Err(_) => {
                out.truncate(start);
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::convert::Infallible;

    use super::*;
    use crate::tls::rehearsal;

    /// Two ends and the wire between them.
    struct Pair {
        server: ServerSession,
        client: ClientSession,
        to_server: Vec<u8>,
        to_client: Vec<u8>,
    }

    impl Pair {
        /// Two ends that have not met.
        fn apart() -> Self {
            let (server, client) = rehearsal::sides();
            let mut pair = Self {
                server: Session::new(server),
                client: Session::new(client),
                to_server: Vec::new(),
                to_client: Vec::new(),
            };
            pair.client.receive(&mut [], &mut Vec::new(), &mut pair.to_server);
            pair
        }

        fn established() -> Self {
            let mut pair = Self::apart();
            while !pair.to_server.is_empty() {
                assert_eq!(pair.serve(), b"");
                pair.take();
            }
            assert_eq!((pair.server.phase(), pair.client.phase()), (Phase::Established, Phase::Established));
            pair
        }

        /// What the server hears of what is on the wire.
        fn serve(&mut self) -> Vec<u8> {
            let mut plaintext = Vec::new();
            self.server.receive(&mut std::mem::take(&mut self.to_server), &mut plaintext, &mut self.to_client);
            plaintext
        }

        /// What the client hears.
        fn take(&mut self) -> Vec<u8> {
            let mut plaintext = Vec::new();
            self.client.receive(&mut std::mem::take(&mut self.to_client), &mut plaintext, &mut self.to_server);
            plaintext
        }

        fn ask(&mut self, plaintext: &[u8]) {
            let wire = &mut self.to_server;
            let written = self.client.write(plaintext, &mut Vec::new(), |record| send(wire, record, usize::MAX));
            assert_eq!(written, Ok(plaintext.len()));
        }

        /// The server writes to a socket that takes `room` bytes.
        fn answer(&mut self, plaintext: &[u8], room: usize) -> usize {
            let mut left = room;
            let wire = &mut self.to_client;
            let Ok(taken) = self.server.write(plaintext, &mut Vec::new(), |record| {
                let sent = send(wire, record, left)?;
                left -= sent;
                Ok::<_, Infallible>(sent)
            });
            taken
        }
    }

    fn send(wire: &mut Vec<u8>, bytes: &[u8], room: usize) -> Result<usize, Infallible> {
        let taken = bytes.len().min(room);
        wire.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    #[test]
    fn both_ends_hear_what_was_said_and_an_idle_session_keeps_no_buffer() {
        let mut pair = Pair::established();
        pair.ask(b"hello");
        assert_eq!(pair.serve(), b"hello");
        let long = vec![7; 50_000];
        assert_eq!(pair.answer(&long, usize::MAX), long.len());
        assert_eq!(pair.take(), long);
        assert_eq!(pair.server.held_bytes(), ESTABLISHED_BYTES);
        pair.client.close(&mut pair.to_server);
        assert_eq!(pair.serve(), b"");
        assert_eq!(pair.server.phase(), Phase::PeerClosed);
        assert_eq!(pair.answer(b"still heard", usize::MAX), 11);
        assert_eq!(pair.take(), b"still heard");
    }

    #[test]
    fn a_socket_that_takes_little_is_owed_one_record_and_its_writer_knows() {
        let answer: Vec<u8> = (0..100_000_u32).map(|index| (index % 251) as u8).collect();
        for room in [1, 7, 1000, 16_000, 16_384 + 22, 20_000] {
            let mut pair = Pair::established();
            let (mut done, mut heard) = (0, Vec::new());
            while done < answer.len() {
                done += pair.answer(&answer[done..], room);
                assert_eq!(pair.server.waits(), done < answer.len() && pair.server.encrypted > 0);
                assert!(pair.server.outgoing.len() <= RECORD_BYTES + RECORD_OVERHEAD);
                heard.extend(pair.take());
                assert!(heard.len() <= done.next_multiple_of(RECORD_BYTES), "{room}");
            }
            assert!(!pair.server.waits());
            assert_eq!(heard, answer, "{room}");
        }
    }

    #[test]
    fn nothing_is_said_in_clear_before_there_are_keys_nor_after_the_close() {
        let mut pair = Pair::apart();
        assert_eq!(pair.answer(b"HTTP/1.1 408 Request Timeout", usize::MAX), 28);
        assert_eq!(pair.to_client, b"");
        let mut pair = Pair::established();
        pair.server.close(&mut pair.to_client);
        let close = pair.to_client.len();
        assert_eq!((pair.answer(b"late", usize::MAX), pair.to_client.len()), (4, close));
        pair.server.close(&mut pair.to_client);
        assert_eq!(pair.to_client.len(), close);
        pair.take();
        assert_eq!(pair.client.phase(), Phase::PeerClosed);
    }

    #[test]
    fn what_is_no_tls_is_told_from_what_is_wrong_in_it() {
        for (bytes, failure) in [
            (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], Failure::NotTls),
            (b"\x16\x03\x01\x00\x05hello", Failure::Tls),
            (b"\x16\x03\x01\xff\xffhello", Failure::Tls),
        ] {
            let mut pair = Pair::apart();
            pair.to_server = bytes.to_vec();
            assert_eq!(pair.serve(), b"");
            assert_eq!(pair.server.phase(), Phase::Failed(failure));
            // Whatever comes then changes nothing.
            pair.to_server = vec![0x16; 100_000];
            assert_eq!(pair.serve(), b"");
            assert!(!pair.server.waits() && pair.server.incoming.is_empty());
        }
    }

    #[test]
    fn what_came_before_a_broken_record_is_heard_and_the_peer_is_told() {
        let mut pair = Pair::established();
        pair.ask(b"heard");
        let begin = pair.to_server.len();
        pair.ask(b"broken");
        pair.to_server[begin + 7] ^= 1;
        pair.ask(b"not heard");
        assert_eq!(pair.serve(), b"heard");
        assert_eq!(pair.server.phase(), Phase::Failed(Failure::Tls));
        assert!(!pair.to_client.is_empty());
        pair.take();
        assert_eq!(pair.client.phase(), Phase::Failed(Failure::Tls));
    }

    #[test]
    fn a_handshake_that_never_ends_is_bounded() {
        let mut pair = Pair::apart();
        // A client hello of 65,000 bytes, in records of 1,000.
        let mut hello = vec![1, 0, 0xfd, 0xe8];
        hello.resize(65_004, 0);
        let mut sent = 0;
        for piece in hello.chunks(1000) {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            pair.to_server = [&[0x16, 3, 1, length[0], length[1]], piece].concat();
            sent += piece.len();
            pair.serve();
            assert!(pair.server.held_bytes() <= ESTABLISHED_BYTES + 2 * INCOMPLETE_BYTES_MAX);
            if pair.server.phase() != Phase::Handshake {
                break;
            }
        }
        assert_eq!(pair.server.phase(), Phase::Failed(Failure::Tls));
        assert!(sent <= INCOMPLETE_BYTES_MAX + 1000);
    }

    #[test]
    fn a_key_update_cut_anywhere_is_answered_whatever_is_written_meanwhile() {
        let mut update = Vec::new();
        for cut in 0..40 {
            let mut pair = Pair::established();
            update.clear();
            match pair.client.side.process(&mut []).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => traffic.refresh_traffic_keys().unwrap(),
                _ => panic!("nothing can be written"),
            }
            pair.client.receive(&mut [], &mut Vec::new(), &mut update);
            pair.to_server = update[..cut.min(update.len())].to_vec();
            pair.serve();
            assert_eq!(pair.answer(b"meanwhile", usize::MAX), 9);
            pair.to_server = update[cut.min(update.len())..].to_vec();
            pair.ask(b"under new keys");
            assert_eq!(pair.serve(), b"under new keys");
            assert_eq!(pair.answer(b"then", usize::MAX), 4);
            assert_eq!(pair.take(), b"meanwhilethen");
        }
        assert!((20..40).contains(&update.len()));
    }

    #[test]
    fn a_ticket_goes_out_with_the_first_answer_or_with_the_last_word() {
        for first in [&b"answer"[..], b""] {
            let mut pair = Pair::apart();
            let mut sent = Vec::new();
            while !pair.to_server.is_empty() {
                pair.serve();
                let reply = std::mem::take(&mut pair.to_client);
                let Pair { server, to_client, .. } = &mut pair;
                let owed = server.owe(&reply, |bytes| {
                    sent.push(bytes.len());
                    send(to_client, bytes, usize::MAX)
                });
                assert_eq!(owed, Ok(()));
                pair.take();
            }
            assert_eq!((sent.len(), pair.server.waits(), pair.server.owes()), (1, false, false));
            let ticket = pair.server.outgoing.len();
            assert!(ticket > 100);
            if first.is_empty() {
                let (mut close, wire) = (Vec::new(), &mut pair.to_client);
                pair.server.close(&mut close);
                assert_eq!(pair.server.owe(&close, |bytes| send(wire, bytes, usize::MAX)), Ok(()));
                assert_eq!(pair.to_client.len(), ticket + close.len());
            } else {
                assert_eq!(pair.answer(first, 1), 0);
                assert!(pair.server.waits());
                assert_eq!(pair.answer(first, usize::MAX), first.len());
            }
            assert_eq!(pair.server.outgoing.capacity(), 0);
            assert_eq!(pair.take(), first);
        }
    }

    /// A server whose TLS has a bug.
    struct Faulty(UnbufferedServerConnection);

    impl Side for Faulty {
        type Data = ServerConnectionData;

        const SENDS_TICKETS: bool = true;

        fn process<'c, 'i>(&'c mut self, _: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
            panic!("a bug");
        }

        fn common(&self) -> &UnbufferedConnectionCommon<ServerConnectionData> {
            &self.0
        }
    }

    #[test]
    fn a_panic_is_the_end_of_that_session_alone() {
        let mut session = Session::new(Faulty(rehearsal::sides().0));
        session.receive(&mut [HANDSHAKE_RECORD], &mut Vec::new(), &mut Vec::new());
        assert_eq!(session.phase(), Phase::Failed(Failure::Fault));
        let mut session = Session::new(Faulty(rehearsal::sides().0));
        session.phase = Phase::Established;
        let sent = session.write(b"word", &mut Vec::new(), |_| Err(()));
        assert_eq!((sent, session.phase()), (Ok(4), Phase::Failed(Failure::Fault)));
        session.close(&mut Vec::new());
    }

    #[test]
    fn records_cut_anywhere_are_heard_once() {
        let mut pair = Pair::established();
        for _ in 0..3 {
            pair.ask(b"again");
        }
        let wire = std::mem::take(&mut pair.to_server);
        let mut heard = Vec::new();
        for byte in wire {
            pair.to_server = vec![byte];
            heard.extend(pair.serve());
        }
        assert_eq!(heard, b"againagainagain");
        assert_eq!(pair.server.incoming.capacity(), 0);
    }
}
