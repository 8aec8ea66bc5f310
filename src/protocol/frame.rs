//! Frames: headers, masks, control frames (RFC 6455 §5).
//!
//! tungstenite knows the header's layout; what a server must refuse, it does not check, so that is here.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::close::CloseCode;
use super::error::Violation;

/// The most bytes that a frame's header can have: 2, a length of 8, a mask of 4.
pub const HEADER_BYTES_MAX: usize = 14;

/// The most bytes that a control frame can carry (RFC 6455 §5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// What a client's frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// More of the message that is being received.
    Continuation,
    /// The first or only frame of a text message.
    Text,
    /// The first or only frame of a binary message.
    Binary,
    /// The closing handshake.
    Close,
    /// Wants a Pong with the same payload.
    Ping,
    /// Answers a Ping, or came unasked.
    Pong,
}

impl Kind {
    /// Whether this is a control frame, which may stand between the fragments of a message (§5.5).
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A client's frame header that has passed every check which needs no knowledge of earlier frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// Whether the message ends with this frame.
    pub is_final: bool,
    /// The key its payload is masked with.
    pub mask: [u8; 4],
    /// The payload's length; its top bit is not set.
    pub payload_bytes: u64,
    /// The header's own length: 6, 8 or 14.
    pub header_bytes: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` when more bytes are needed to know it.
    ///
    /// What is judged depends only on the bytes judged so far, in their order, so that however a stream is cut
    /// the same violation is found: the first two bytes, then the length.
    ///
    /// # Errors
    /// The [`Violation`] that a client's frame commits by itself.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        match Self::parse_short_text(bytes) {
            None => Self::parse_any(bytes),
            header => Ok(header),
        }
    }

    /// The header that nearly all frames have, known without the codec: a whole text message's of at most 125 bytes.
    fn parse_short_text(bytes: &[u8]) -> Option<Self> {
        let &[0x81, length @ 0x80..=0xfd, first, second, third, fourth, ..] = bytes else { return None };
        let mask = [first, second, third, fourth];
        Some(Self { kind: Kind::Text, is_final: true, mask, payload_bytes: u64::from(length & 0x7f), header_bytes: 6 })
    }

    fn parse_any(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let &[first, second, ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Violation::ReservedBits);
        }
        if !matches!(first & 0x0f, 0..=2 | 8..=10) {
            return Err(Violation::ReservedOpcode);
        }
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        if first & 0x08 != 0 {
            if first & 0x80 == 0 {
                return Err(Violation::ControlFragmented);
            }
            if second & 0x7f > 125 {
                return Err(Violation::ControlTooLong);
            }
        }
        match (second & 0x7f, bytes) {
            (126, &[_, _, high, _, ..]) if high == 0 && bytes[3] < 126 => return Err(Violation::LengthNotMinimal),
            (127, &[_, _, high, _, _, _, _, _, _, _, ..]) if high & 0x80 != 0 => return Err(Violation::LengthTopBit),
            (127, &[_, _, 0, 0, 0, 0, 0, 0, _, _, ..]) => return Err(Violation::LengthNotMinimal),
            _ => {}
        }
        let mut cursor = Cursor::new(bytes);
        // An error here could only be a reserved opcode, and those were refused above.
        let Ok(Some((header, payload_bytes))) = FrameHeader::parse(&mut cursor) else { return Ok(None) };
        let Some(mask) = header.mask else { return Ok(None) };
        let kind = match header.opcode {
            OpCode::Data(Data::Continue) => Kind::Continuation,
            OpCode::Data(Data::Text) => Kind::Text,
            OpCode::Control(Control::Close) => Kind::Close,
            OpCode::Control(Control::Ping) => Kind::Ping,
            OpCode::Control(Control::Pong) => Kind::Pong,
            OpCode::Data(_) | OpCode::Control(_) => Kind::Binary,
        };
        let header_bytes = cursor.position() as usize;
        Ok(Some(Self { kind, is_final: header.is_final, mask, payload_bytes, header_bytes }))
    }
}

/// Applies the mask to `payload`, whose first byte is the `offset`th of its frame (RFC 6455 §5.3).
///
/// Returns whether all of what came out is ASCII, which is seen in passing.
pub fn unmask(payload: &mut [u8], mask: [u8; 4], offset: u64) -> bool {
    let mut mask = mask;
    mask.rotate_left((offset % 4) as usize);
    let word = u32::from_ne_bytes(mask);
    let wide = u64::from(word) << 32 | u64::from(word);
    let (blocks, rest) = payload.as_chunks_mut::<8>();
    let mut seen = 0;
    for block in blocks {
        let plain = u64::from_ne_bytes(*block) ^ wide;
        seen |= plain;
        *block = plain.to_ne_bytes();
    }
    let (words, rest) = rest.as_chunks_mut::<4>();
    for bytes in words {
        let plain = u32::from_ne_bytes(*bytes) ^ word;
        seen |= u64::from(plain);
        *bytes = plain.to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
        seen |= u64::from(*byte);
    }
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    seen & TOPS == 0
}

/// Appends a server's frame header, unmasked and final, for `payload_bytes` of payload.
pub fn write_header(out: &mut Vec<u8>, kind: Kind, payload_bytes: usize) {
    let opcode = match kind {
        Kind::Continuation => OpCode::Data(Data::Continue),
        Kind::Text => OpCode::Data(Data::Text),
        Kind::Binary => OpCode::Data(Data::Binary),
        Kind::Close => OpCode::Control(Control::Close),
        Kind::Ping => OpCode::Control(Control::Ping),
        Kind::Pong => OpCode::Control(Control::Pong),
    };
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let written = header.format(payload_bytes as u64, out);
    debug_assert!(written.is_ok(), "a Vec takes every byte");
}

/// Appends one server's frame with `payload`.
pub fn write(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    write_header(out, kind, payload.len());
    out.extend_from_slice(payload);
}

/// Appends one text frame whose payload `fill` writes behind the header.
///
/// Room is left for the header of 126 to 65,535 bytes, the commonest; for others the payload is moved.
pub fn write_text(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    const ROOM: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0; ROOM]);
    fill(out);
    let payload_bytes = out.len() - start - ROOM;
    write_header(out, Kind::Text, payload_bytes);
    let header_start = start + ROOM + payload_bytes;
    let mut header = [0; HEADER_BYTES_MAX];
    let header_bytes = out.len() - header_start;
    header[..header_bytes].copy_from_slice(&out[header_start..]);
    if header_bytes == ROOM {
        out.truncate(header_start);
        out[start..start + ROOM].copy_from_slice(&header[..ROOM]);
    } else {
        out.copy_within(start + ROOM..header_start, start + header_bytes);
        out[start..start + header_bytes].copy_from_slice(&header[..header_bytes]);
        out.truncate(start + header_bytes + payload_bytes);
    }
}

/// Appends a close frame; `reason` is cut at a character's border so that the frame holds it.
pub fn write_close(out: &mut Vec<u8>, code: CloseCode, reason: &str) {
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    write_header(out, Kind::Close, 2 + end);
    out.extend_from_slice(&code.number().to_be_bytes());
    out.extend_from_slice(&reason.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn masked(first: u8, length: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first, length[0] | 0x80];
        bytes.extend_from_slice(&length[1..]);
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes
    }

    #[test]
    fn what_the_codec_does_not_check_is_refused() {
        let cases: [(Vec<u8>, Violation); 9] = [
            (masked(0xc1, &[0]), Violation::ReservedBits),
            (masked(0x91, &[0]), Violation::ReservedBits),
            (masked(0x83, &[0]), Violation::ReservedOpcode),
            (vec![0x81, 0x00], Violation::Unmasked),
            (masked(0x09, &[0]), Violation::ControlFragmented),
            (masked(0x89, &[126, 0, 126]), Violation::ControlTooLong),
            (masked(0x81, &[126, 0, 125]), Violation::LengthNotMinimal),
            (masked(0x81, &[127, 0, 0, 0, 0, 0, 0, 255, 255]), Violation::LengthNotMinimal),
            (masked(0x81, &[127, 0x80, 0, 0, 0, 0, 0, 0, 0]), Violation::LengthTopBit),
        ];
        for (bytes, violation) in cases {
            assert_eq!(Header::parse(&bytes), Err(violation), "{bytes:02x?}");
        }
    }

    #[test]
    fn lengths_at_the_borders_of_their_forms_are_read() {
        for (length, bytes) in [
            (125, masked(0x81, &[125])),
            (126, masked(0x81, &[126, 0, 126])),
            (65_535, masked(0x81, &[126, 255, 255])),
            (65_536, masked(0x81, &[127, 0, 0, 0, 0, 0, 1, 0, 0])),
            (i64::MAX as u64, masked(0x81, &[127, 127, 255, 255, 255, 255, 255, 255, 255])),
        ] {
            let header = Header::parse(&bytes).unwrap().unwrap();
            assert_eq!((header.payload_bytes, header.header_bytes), (length, bytes.len()));
            for end in 0..bytes.len() {
                assert_eq!(Header::parse(&bytes[..end]), Ok(None));
            }
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        write_close(&mut out, CloseCode::Protocol, &"ä".repeat(100));
        assert_eq!(out[1], 124);
        assert_eq!(std::str::from_utf8(&out[4..]).unwrap(), "ä".repeat(61));
    }

    #[test]
    fn text_frames_of_all_three_forms_of_length_are_whole() {
        for size in [0, 1, 125, 126, 65_535, 65_536] {
            let mut out = vec![7];
            write_text(&mut out, |out| out.resize(out.len() + size, b'x'));
            let mut expected = vec![7];
            write(&mut expected, Kind::Text, &vec![b'x'; size]);
            assert_eq!(out, expected);
        }
    }

    proptest! {
        #[test]
        fn the_short_way_finds_what_the_codec_finds(
            first in prop_oneof![Just(0x81_u8), any::<u8>()],
            rest in prop::collection::vec(any::<u8>(), 0..16),
        ) {
            let bytes = [&[first], &rest[..]].concat();
            prop_assert_eq!(Header::parse(&bytes), Header::parse_any(&bytes));
        }

        #[test]
        fn unmasking_in_pieces_is_unmasking_at_once(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            mask in any::<[u8; 4]>(),
            cut in 0_usize..200,
        ) {
            let cut = cut.min(payload.len());
            let expected: Vec<u8> = payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]).collect();
            let mut pieces = payload.clone();
            let (head, tail) = pieces.split_at_mut(cut);
            prop_assert_eq!(unmask(head, mask, 0), expected[..cut].is_ascii());
            prop_assert_eq!(unmask(tail, mask, cut as u64), expected[cut..].is_ascii());
            prop_assert_eq!(&pieces, &expected);
        }

        #[test]
        fn one_byte_beyond_ascii_is_seen_wherever_it_is(
            size in 1_usize..70,
            place in any::<prop::sample::Index>(),
            mask in any::<[u8; 4]>(),
        ) {
            let mut payload = vec![b'x'; size];
            unmask(&mut payload, mask, 0);
            payload[place.index(size)] ^= 0x80;
            prop_assert!(!unmask(&mut payload, mask, 0));
        }
    }
}
