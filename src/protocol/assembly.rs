//! Frames → whole messages, within limits (RFC 6455 §5.4).
//!
//! A frame that is whole in what was read is handed on where it lies. Only what is cut is kept, in an [`Assembly`]
//! that exists no longer than something is incomplete. Memory grows by bytes received, never by a length announced.

use std::mem;
use std::ops::{Deref, DerefMut};

use super::close::may_be_sent;
use super::error::Violation;
use super::frame::{CONTROL_BYTES_MAX, HEADER_BYTES_MAX, Header, Kind, unmask};

/// What messages may be like.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes of a message, its fragments together.
    pub message_bytes_max: usize,
    /// The most frames of a message.
    pub frames_max: u32,
    /// Whether binary messages are taken.
    pub binary: bool,
    /// The most bytes that are held of a message that comes in pieces. What would be more is thrown away as it comes,
    /// and told as [`Event::Overflow`] when it has ended.
    pub held_bytes_max: usize,
}

/// Bytes of a message: in the read buffer where the message came whole, else its own.
#[derive(Debug)]
pub enum Payload<'a> {
    /// Unmasked in place in what was read.
    InPlace(&'a mut [u8]),
    /// Put together from pieces.
    Assembled(Vec<u8>),
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::InPlace(bytes) => bytes,
            Self::Assembled(bytes) => bytes,
        }
    }
}

impl DerefMut for Payload<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::InPlace(bytes) => bytes,
            Self::Assembled(bytes) => bytes,
        }
    }
}

/// A whole message.
#[derive(Debug)]
pub struct Message<'a> {
    /// Whether it is binary; otherwise it is text, and valid UTF-8.
    pub is_binary: bool,
    /// Its bytes, unmasked.
    pub payload: Payload<'a>,
}

/// What a peer said, whole.
#[derive(Debug)]
pub enum Event<'a> {
    /// A message.
    Message(Message<'a>),
    /// A valid message of which more than [`Limits::held_bytes_max`] would have had to be held.
    Overflow,
    /// Wants a Pong with the same payload.
    Ping(Payload<'a>),
    /// Answers a Ping, or came unasked.
    Pong,
    /// The closing handshake; the code where there was one, valid to be sent back.
    Close(Option<u16>),
}

/// What is kept of a peer's stream between two reads, while something is incomplete.
#[derive(Debug, Default)]
pub struct Assembly {
    /// The bytes of a header that is not whole: `header[..header_bytes]`, `0 <= header_bytes < HEADER_BYTES_MAX`.
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: usize,
    /// The frame whose payload is being received, and how much of it is here.
    frame: Option<(Header, u64)>,
    /// The message in progress: the kind of its first frame.
    message_kind: Option<Kind>,
    /// How many of its bytes have come.
    message_bytes: usize,
    /// Those bytes, unless they were too many to hold.
    message: Vec<u8>,
    overflowed: bool,
    frames: u32,
    control: Vec<u8>,
    utf8: Utf8,
}

impl Assembly {
    /// Whether a message has begun and not ended. Control frames may come in between.
    pub fn in_message(&self) -> bool {
        self.message_kind.is_some()
    }

    /// Bytes that are held beside the struct itself.
    pub fn held_bytes(&self) -> usize {
        self.message.capacity() + self.control.capacity()
    }

    fn is_idle(&self) -> bool {
        self.message_kind.is_none() && self.frame.is_none() && self.header_bytes == 0
    }

    /// Takes from the front of `input` until something is whole or `input` is empty.
    fn advance(&mut self, input: &mut &mut [u8], limits: &Limits) -> Result<Option<Event<'static>>, Violation> {
        loop {
            if self.frame.is_none() && !self.receive_header(input, limits)? {
                return Ok(None);
            }
            let Some((header, received)) = self.frame else { return Ok(None) };
            let piece = take(input, usize::try_from(header.payload_bytes - received).unwrap_or(usize::MAX));
            unmask(piece, header.mask, received);
            if header.kind.is_control() {
                self.control.extend_from_slice(piece);
            } else {
                if self.message_kind == Some(Kind::Text) {
                    self.utf8.push(piece)?;
                }
                self.hold(piece, limits);
            }
            let received = received + piece.len() as u64;
            if received < header.payload_bytes {
                self.frame = Some((header, received));
                return Ok(None);
            }
            self.frame = None;
            if header.kind.is_control() {
                return control_event(header.kind, Payload::Assembled(mem::take(&mut self.control))).map(Some);
            }
            if header.is_final {
                let kind = self.message_kind.take();
                self.frames = 0;
                mem::take(&mut self.utf8).finish()?;
                self.message_bytes = 0;
                let payload = Payload::Assembled(mem::take(&mut self.message));
                if mem::take(&mut self.overflowed) {
                    return Ok(Some(Event::Overflow));
                }
                return Ok(Some(Event::Message(Message { is_binary: kind == Some(Kind::Binary), payload })));
            }
        }
    }

    fn hold(&mut self, piece: &[u8], limits: &Limits) {
        self.message_bytes += piece.len();
        if self.message_bytes > limits.held_bytes_max {
            self.overflowed = true;
            self.message = Vec::new();
        } else if !self.overflowed {
            self.message.extend_from_slice(piece);
        }
    }

    /// Takes bytes of a header; true when it is whole and its frame has begun.
    fn receive_header(&mut self, input: &mut &mut [u8], limits: &Limits) -> Result<bool, Violation> {
        let fits = input.len().min(HEADER_BYTES_MAX - self.header_bytes);
        let have = self.header_bytes + fits;
        self.header[self.header_bytes..have].copy_from_slice(&input[..fits]);
        let Some(header) = Header::parse(&self.header[..have])? else {
            self.header_bytes = have;
            take(input, fits);
            return Ok(false);
        };
        take(input, header.header_bytes - self.header_bytes);
        self.header_bytes = 0;
        check(&header, self.message_kind, self.message_bytes, self.frames, limits)?;
        if !header.kind.is_control() {
            self.message_kind = self.message_kind.or(Some(header.kind));
            self.frames += 1;
        }
        self.frame = Some((header, 0));
        Ok(true)
    }
}

/// Takes the next whole thing from the front of `input`; `None` when `input` is used up.
///
/// `kept` is what the last read left; it is there again afterwards only while something is incomplete.
///
/// # Errors
/// The first [`Violation`] in the stream; the stream cannot be read on after it.
pub fn next<'a>(
    kept: &mut Option<Box<Assembly>>,
    input: &mut &'a mut [u8],
    limits: &Limits,
) -> Result<Option<Event<'a>>, Violation> {
    if kept.is_none() {
        if input.is_empty() {
            return Ok(None);
        }
        if let Some(header) = Header::parse(input)?
            && header.is_final
            && header.payload_bytes <= (input.len() - header.header_bytes) as u64
        {
            check(&header, None, 0, 0, limits)?;
            take(input, header.header_bytes);
            let payload = take(input, header.payload_bytes as usize);
            let is_ascii = unmask(payload, header.mask, 0);
            return match header.kind {
                Kind::Text if !is_ascii && std::str::from_utf8(payload).is_err() => Err(Violation::InvalidUtf8),
                Kind::Text | Kind::Binary => {
                    let is_binary = header.kind == Kind::Binary;
                    Ok(Some(Event::Message(Message { is_binary, payload: Payload::InPlace(payload) })))
                }
                control => control_event(control, Payload::InPlace(payload)).map(Some),
            };
        }
    }
    let assembly = kept.get_or_insert_default();
    let event = assembly.advance(input, limits)?;
    if assembly.is_idle() {
        *kept = None;
    }
    Ok(event)
}

/// Judges a frame by what came before it.
fn check(
    header: &Header,
    message_kind: Option<Kind>,
    message_bytes: usize,
    frames: u32,
    limits: &Limits,
) -> Result<(), Violation> {
    match (header.kind, message_kind) {
        (kind, _) if kind.is_control() => return Ok(()),
        (Kind::Continuation, None) => return Err(Violation::NothingToContinue),
        (Kind::Text | Kind::Binary, Some(_)) => return Err(Violation::MessageUnfinished),
        (Kind::Binary, None) if !limits.binary => return Err(Violation::Binary),
        _ => {}
    }
    if frames >= limits.frames_max {
        return Err(Violation::TooManyFrames { frames_max: limits.frames_max });
    }
    if header.payload_bytes > (limits.message_bytes_max - message_bytes) as u64 {
        return Err(Violation::TooBig { bytes_max: limits.message_bytes_max });
    }
    Ok(())
}

fn control_event(kind: Kind, payload: Payload<'_>) -> Result<Event<'_>, Violation> {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
    match kind {
        Kind::Ping => Ok(Event::Ping(payload)),
        Kind::Pong => Ok(Event::Pong),
        _ => match *payload {
            [] => Ok(Event::Close(None)),
            [_] => Err(Violation::InvalidCloseCode),
            [high, low, ref reason @ ..] => {
                let code = u16::from_be_bytes([high, low]);
                if !may_be_sent(code) {
                    return Err(Violation::InvalidCloseCode);
                }
                std::str::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
                Ok(Event::Close(Some(code)))
            }
        },
    }
}

/// Takes at most `count` bytes from the front of `input`.
fn take<'a>(input: &mut &'a mut [u8], count: usize) -> &'a mut [u8] {
    let count = count.min(input.len());
    let (front, rest) = mem::take(input).split_at_mut(count);
    *input = rest;
    front
}

/// Judges UTF-8 as it arrives: a violation is found at the byte that makes it one (RFC 6455 §8.1).
#[derive(Debug, Default)]
struct Utf8 {
    /// The start of a character whose end has not arrived: `cut[..cut_bytes]`, at most three bytes.
    cut: [u8; 4],
    cut_bytes: usize,
}

impl Utf8 {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while let (1.., [first, rest @ ..]) = (self.cut_bytes, bytes) {
            self.cut[self.cut_bytes] = *first;
            self.cut_bytes += 1;
            bytes = rest;
            match std::str::from_utf8(&self.cut[..self.cut_bytes]) {
                Ok(_) => self.cut_bytes = 0,
                Err(error) if error.error_len().is_some() => return Err(Violation::InvalidUtf8),
                Err(_) => {}
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(Violation::InvalidUtf8),
            Err(error) => {
                let cut = &bytes[error.valid_up_to()..];
                self.cut[..cut.len()].copy_from_slice(cut);
                self.cut_bytes = cut.len();
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<(), Violation> {
        if self.cut_bytes == 0 { Ok(()) } else { Err(Violation::InvalidUtf8) }
    }
}

/// The body of the fuzz target `frames`: whatever the bytes and however they are cut, the same is heard.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Some((&pace, stream)) = data.split_first() else { return };
    for binary in [false, true] {
        let limits = Limits { message_bytes_max: 1024, frames_max: 8, binary, held_bytes_max: usize::MAX };
        let whole = heard(stream, usize::MAX, &limits);
        assert_eq!(whole, heard(stream, 1, &limits));
        assert_eq!(whole, heard(stream, usize::from(pace).max(1), &limits));
    }
}

/// What is heard of `stream` when it arrives in pieces of `piece` bytes.
fn heard(stream: &[u8], piece: usize, limits: &Limits) -> Vec<String> {
    let mut kept = None;
    let mut heard = Vec::new();
    for chunk in stream.chunks(piece) {
        let mut chunk = chunk.to_vec();
        let mut input = &mut chunk[..];
        loop {
            match next(&mut kept, &mut input, limits) {
                Ok(Some(Event::Message(message))) => {
                    let kind = if message.is_binary { "binary" } else { "text" };
                    heard.push(format!("{kind} {:?}", &*message.payload));
                }
                Ok(Some(Event::Ping(payload))) => heard.push(format!("ping {:?}", &*payload)),
                Ok(Some(event)) => heard.push(format!("{event:?}")),
                Ok(None) => break,
                Err(violation) => {
                    heard.push(format!("{violation:?}"));
                    return heard;
                }
            }
        }
        assert!(input.is_empty(), "what is not heard is kept");
        if let Some(assembly) = &kept {
            assert!(assembly.message.len() <= limits.message_bytes_max);
        }
    }
    heard
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { message_bytes_max: 16, frames_max: 3, binary: false, held_bytes_max: usize::MAX };

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first, 0x80 | payload.len() as u8, 9, 8, 7, 6];
        let mut payload = payload.to_vec();
        unmask(&mut payload, [9, 8, 7, 6], 0);
        bytes.extend_from_slice(&payload);
        bytes
    }

    fn heard_however_cut(frames: &[Vec<u8>]) -> Vec<String> {
        let stream = frames.concat();
        let whole = heard(&stream, usize::MAX, &LIMITS);
        for piece in 1..stream.len() {
            assert_eq!(heard(&stream, piece, &LIMITS), whole, "in pieces of {piece}");
        }
        whole
    }

    #[test]
    fn control_frames_may_stand_between_fragments() {
        let heard = heard_however_cut(&[frame(0x01, b"a"), frame(0x89, b"p"), frame(0x80, b"b"), frame(0x8a, b"")]);
        assert_eq!(heard, ["ping [112]", "text [97, 98]", "Pong"]);
    }

    #[test]
    fn fragments_are_held_against_the_limits_together() {
        let heard = heard_however_cut(&[frame(0x01, &[b'a'; 10]), frame(0x80, &[b'a'; 7])]);
        assert_eq!(heard, ["TooBig { bytes_max: 16 }"]);
        let heard = heard_however_cut(&[frame(0x81, &[b'a'; 16])]);
        assert_eq!(heard.len(), 1);
        assert!(heard[0].starts_with("text"));
    }

    #[test]
    fn endless_empty_fragments_are_a_violation() {
        let heard = heard_however_cut(&[frame(0x01, b""), frame(0x00, b""), frame(0x00, b""), frame(0x00, b"")]);
        assert_eq!(heard, ["TooManyFrames { frames_max: 3 }"]);
    }

    #[test]
    fn a_length_announced_allocates_nothing() {
        let limits = Limits { message_bytes_max: 1 << 40, ..LIMITS };
        let mut bytes = vec![0x81, 0xff, 0, 0, 0, 64, 0, 0, 0, 0, 1, 2, 3, 4, b'x'];
        let mut kept = None;
        assert!(matches!(next(&mut kept, &mut &mut bytes[..], &limits), Ok(None)));
        assert!(kept.is_some_and(|assembly| assembly.held_bytes() < 1024));
    }

    #[test]
    fn what_is_too_much_to_hold_is_judged_and_thrown_away() {
        let limits = Limits { held_bytes_max: 4, ..LIMITS };
        let long =
            [frame(0x01, b"abc"), frame(0x80, b"def"), frame(0x81, b"whole"), frame(0x01, b"abc"), frame(0x80, b"d")];
        assert_eq!(heard(&long.concat(), usize::MAX, &limits)[..2], ["Overflow", "text [119, 104, 111, 108, 101]"]);
        assert_eq!(heard(&long.concat(), usize::MAX, &limits)[2], "text [97, 98, 99, 100]");
        let invalid = [frame(0x01, b"abcdef"), frame(0x80, &[0xff])];
        assert_eq!(heard(&invalid.concat(), usize::MAX, &limits), ["InvalidUtf8"]);
        let too_big = [frame(0x01, b"abcdefghij"), frame(0x80, b"klmnopq")];
        assert_eq!(heard(&too_big.concat(), 1, &limits), ["TooBig { bytes_max: 16 }"]);
    }

    #[test]
    fn a_character_cut_between_fragments_is_whole_and_an_invalid_one_is_found_at_its_byte() {
        assert_eq!(heard_however_cut(&[frame(0x01, &[0xc3]), frame(0x80, &[0xa4])]), ["text [195, 164]"]);
        assert_eq!(heard_however_cut(&[frame(0x01, &[0xc3]), frame(0x80, b"")]), ["InvalidUtf8"]);
        let mut kept = None;
        // The frame is not whole, yet F4 90 can begin no character.
        let mut cut = frame(0x81, &[0xf4, 0x90, 0x80, 0x80]);
        cut.truncate(8);
        assert!(matches!(next(&mut kept, &mut &mut cut[..], &LIMITS), Err(Violation::InvalidUtf8)));
    }

    #[test]
    fn messages_must_begin_and_end_in_turn() {
        assert_eq!(heard_however_cut(&[frame(0x80, b"x")]), ["NothingToContinue"]);
        assert_eq!(heard_however_cut(&[frame(0x01, b"x"), frame(0x81, b"y")]), ["MessageUnfinished"]);
        assert_eq!(heard_however_cut(&[frame(0x82, b"x")]), ["Binary"]);
    }

    #[test]
    fn close_frames_are_held_to_their_codes() {
        assert_eq!(heard_however_cut(&[frame(0x88, b"")]), ["Close(None)"]);
        assert_eq!(heard_however_cut(&[frame(0x88, &[3, 232, b'x'])]), ["Close(Some(1000))"]);
        assert_eq!(heard_however_cut(&[frame(0x88, &[3])]), ["InvalidCloseCode"]);
        assert_eq!(heard_however_cut(&[frame(0x88, &[3, 237])]), ["InvalidCloseCode"]);
        assert_eq!(heard_however_cut(&[frame(0x88, &[3, 232, 0xff])]), ["InvalidUtf8"]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_heard_the_same_however_cut(data in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&data);
        }

        #[test]
        fn frames_near_the_valid_are_heard_the_same_however_cut(
            frames in prop::collection::vec(
                (prop::sample::select(vec![0x81_u8, 0x01, 0x80, 0x00, 0x89, 0x8a, 0x88, 0x82, 0xc1]), ".{0,12}"),
                0..8,
            ),
            pace in any::<u8>(),
        ) {
            let mut data = vec![pace];
            data.extend(frames.iter().flat_map(|(first, text)| frame(*first, text.as_bytes())));
            fuzz(&data);
        }
    }
}
