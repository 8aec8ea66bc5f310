//! The client's side of the wire, sans-IO: request bytes out, response head and frames in, and the check of answers.

use data_encoding::BASE64;
use tungstenite::handshake::derive_accept_key;

use super::cli::{Expect, Target};
use super::failure::Failure;

/// The mask of every frame. A random one (RFC 6455 §5.3) guards proxies against scripts in browsers; a constant one
/// lets frames be built once.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Bytes of a response head at most.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Header lines of a response at most.
const HEADERS_MAX: usize = 64;
/// Payload of one server frame at most; none of ours comes near.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// Opcodes (RFC 6455 §11.8).
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const CONNECT_START: &[u8] = br#"{"type":"CONNECT","userId":""#;
const TIMESTAMP_START: &[u8] = br#"","timestamp":""#;
const PAYLOAD_START: &[u8] = br#"","payload":{"#;
const ERROR_START: &[u8] = br#"{"type":"ERROR""#;
const ACK_START: &[u8] = br#"{"type":"HEARTBEAT_ACK","timestamp":""#;
const ACK_END: &[u8] = br#""}"#;
const TIMESTAMP_BYTES: usize = 24;

/// The userId of connection `index`, shaped like a UUID and distinct for each index.
pub fn user_id(prefix: &[u8; 8], index: usize) -> [u8; 36] {
    let mut id = *b"00000000-0000-4000-8000-000000000000";
    id[..8].copy_from_slice(prefix);
    let mut rest = index;
    for digit in id[24..].iter_mut().rev() {
        *digit = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    id
}

/// The `Sec-WebSocket-Key` of connection `index`: 16 bytes in base64 (RFC 6455 §4.1), distinct for each index.
pub fn key(index: usize) -> String {
    let mut nonce = *b"rollcall________";
    nonce[8..].copy_from_slice(&(index as u64).to_be_bytes());
    BASE64.encode(&nonce)
}

/// Appends the upgrade request of connection `index`.
pub fn write_request(out: &mut Vec<u8>, target: &Target, user_id: &[u8; 36], index: usize) {
    for part in [
        b"GET ",
        target.path_start.as_bytes(),
        user_id,
        b" HTTP/1.1\r\nHost: ",
        target.authority.as_bytes(),
        b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ",
        key(index).as_bytes(),
        b"\r\n\r\n",
    ] {
        out.extend_from_slice(part);
    }
}

/// Appends a whole masked frame (RFC 6455 §5.2). `payload` is shorter than 64 KiB.
fn write_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(FIN | opcode);
    match u8::try_from(payload.len()) {
        Ok(length @ 0..=125) => out.push(0x80 | length),
        _ => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends a text message.
pub fn write_text(out: &mut Vec<u8>, payload: &[u8]) {
    write_frame(out, TEXT, payload);
}

/// Appends the answer to a ping of `payload`, which is at most 125 bytes.
pub fn write_pong(out: &mut Vec<u8>, payload: &[u8]) {
    write_frame(out, PONG, payload);
}

/// Appends a close frame of `code` without a reason.
pub fn write_close(out: &mut Vec<u8>, code: u16) {
    write_frame(out, CLOSE, &code.to_be_bytes());
}

/// Reads the head of the response to connection `index`'s request: its length, or `None` while it is not whole.
pub fn parse_head(bytes: &[u8], index: usize) -> Result<Option<usize>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        _ => return Err(Failure::Response),
    };
    match response.code {
        Some(101) => {}
        Some(503) => return Err(Failure::Unavailable),
        _ => return Err(Failure::Response),
    }
    let has = |name: &str, value: &[u8], exact: bool| {
        response.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case(name)
                && if exact { header.value == value } else { header.value.eq_ignore_ascii_case(value) }
        })
    };
    let accept = derive_accept_key(key(index).as_bytes());
    if !has("Upgrade", b"websocket", false) || !has("Connection", b"upgrade", false) {
        return Err(Failure::Response);
    }
    if has("Sec-WebSocket-Accept", accept.as_bytes(), true) { Ok(Some(length)) } else { Err(Failure::AcceptKey) }
}

/// What a server's frame means to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole message, text or binary.
    Message {
        /// It was sent as text.
        text: bool,
        /// Its content.
        payload: &'a [u8],
    },
    /// To be answered by a pong of the same content.
    Ping(&'a [u8]),
    /// An answer to a ping, or unasked.
    Pong,
    /// The end, with the code that came; 1005 stands for none (RFC 6455 §7.1.5).
    Close(u16),
}

/// Reads the frame at the start of `bytes`: what it is and how long, or `None` while it is not whole.
///
/// Masked, reserved and fragmented frames are failures: none of the servers that this program is for sends them.
pub fn parse_frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, Failure> {
    let &[first, second, ..] = bytes else {
        return Ok(None);
    };
    if first & RESERVED != 0 || first & FIN == 0 || second & 0x80 != 0 {
        return Err(Failure::Frame);
    }
    let (length, start) = match second {
        126 => match bytes.get(2..4) {
            Some(field) => (u64::from(u16::from_be_bytes([field[0], field[1]])), 4),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|field| <[u8; 8]>::try_from(field).ok()) {
            Some(field) => (u64::from_be_bytes(field), 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    let opcode = first & 0x0f;
    if length > PAYLOAD_BYTES_MAX || opcode >= CLOSE && length > 125 {
        return Err(Failure::Frame);
    }
    let end = start + length as usize;
    let Some(payload) = bytes.get(start..end) else {
        return Ok(None);
    };
    let frame = match opcode {
        TEXT | BINARY => Frame::Message { text: opcode == TEXT, payload },
        PING => Frame::Ping(payload),
        PONG => Frame::Pong,
        CLOSE => match payload {
            [] => Frame::Close(1005),
            [_] => return Err(Failure::Frame),
            [high, low, ..] => Frame::Close(u16::from_be_bytes([*high, *low])),
        },
        _ => return Err(Failure::Frame),
    };
    Ok(Some((frame, end)))
}

/// Tells right answers from wrong ones.
#[derive(Debug)]
pub struct Checker {
    expect: Expect,
    /// What an echo server sends back.
    sent: &'static [u8],
    /// An answer as a whole frame: what most reads bring. Rollcall's differ from it in the timestamp alone.
    frame: Vec<u8>,
    /// Where the timestamp stands in `frame`; empty where there is none.
    timestamp: std::ops::Range<usize>,
}

impl Checker {
    /// Expects `expect` of a server that is sent `sent`.
    pub fn new(expect: Expect, sent: &'static [u8]) -> Self {
        let payload = match expect {
            Expect::Rollcall => [ACK_START, b"0000-00-00T00:00:00.000Z", ACK_END].concat(),
            Expect::Echo | Expect::AnyFrame => sent.to_vec(),
        };
        // Unmasked, and both payloads are shorter than 126 bytes.
        let mut frame = vec![FIN | TEXT, payload.len() as u8];
        frame.extend_from_slice(&payload);
        let timestamp = match expect {
            Expect::Rollcall => 2 + ACK_START.len()..frame.len() - ACK_END.len(),
            Expect::Echo | Expect::AnyFrame => 0..0,
        };
        Self { expect, sent, frame, timestamp }
    }

    /// Whether `bytes` are exactly one right answer, frame header included. False may still be several, or other
    /// frames.
    #[inline]
    pub fn is_one_answer(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() != self.frame.len() {
            return false;
        }
        if bytes == self.frame {
            return true;
        }
        let range = self.timestamp.clone();
        if range.is_empty()
            || bytes[..range.start] != self.frame[..range.start]
            || bytes[range.end..] != self.frame[range.end..]
            || !is_timestamp(&bytes[range.clone()])
        {
            return false;
        }
        // Answers of the same millisecond are the same bytes: the next ones are one comparison.
        self.frame[range.clone()].copy_from_slice(&bytes[range]);
        true
    }

    /// Whether a first message is due before anything is sent.
    pub fn has_first_message(&self) -> bool {
        self.expect == Expect::Rollcall
    }

    /// Whether messages that nothing asked for are no failure.
    pub fn takes_unasked(&self) -> bool {
        self.expect == Expect::AnyFrame
    }

    /// Holds the first message against CONNECT for `user_id`.
    pub fn check_first(&self, text: bool, payload: &[u8], user_id: &[u8; 36]) -> Result<(), Failure> {
        if payload.starts_with(ERROR_START) {
            return Err(Failure::ErrorMessage);
        }
        let rest = payload
            .strip_prefix(CONNECT_START)
            .and_then(|rest| rest.strip_prefix(user_id))
            .and_then(|rest| rest.strip_prefix(TIMESTAMP_START))
            .filter(|rest| rest.get(..TIMESTAMP_BYTES).is_some_and(is_timestamp))
            .and_then(|rest| rest[TIMESTAMP_BYTES..].strip_prefix(PAYLOAD_START))
            .filter(|rest| text && ends_two_objects(rest));
        rest.map(|_| ()).ok_or(Failure::FirstMessage)
    }

    /// Holds a message against what a heartbeat is answered with.
    pub fn check_answer(&self, text: bool, payload: &[u8]) -> Result<(), Failure> {
        let right = match self.expect {
            Expect::AnyFrame => true,
            Expect::Echo => payload == self.sent,
            Expect::Rollcall if payload.starts_with(ERROR_START) => return Err(Failure::ErrorMessage),
            Expect::Rollcall => {
                text && payload
                    .strip_prefix(ACK_START)
                    .and_then(|rest| rest.strip_suffix(ACK_END))
                    .is_some_and(is_timestamp)
            }
        };
        if right { Ok(()) } else { Err(Failure::WrongAnswer) }
    }
}

/// Whether `text` is whole behind the start of an object inside an object: what it closes more than it opens.
fn ends_two_objects(text: &[u8]) -> bool {
    let count = |brace: u8| text.iter().filter(|&&byte| byte == brace).count();
    text.ends_with(b"}}") && count(b'}') == count(b'{') + 2
}

/// Whether `text` has the shape of `2026-11-25T03:54:45.123Z`.
fn is_timestamp(text: &[u8]) -> bool {
    const SHAPE: &[u8; TIMESTAMP_BYTES] = b"dddd-dd-ddTdd:dd:dd.dddZ";
    text.len() == SHAPE.len()
        && text
            .iter()
            .zip(SHAPE)
            .all(|(byte, shape)| if *shape == b'd' { byte.is_ascii_digit() } else { byte == shape })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::load::cli::HeartbeatForm;

    const ACK: &[u8] = br#"{"type":"HEARTBEAT_ACK","timestamp":"2026-11-25T03:54:45.123Z"}"#;

    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            0..=125 => frame.push(payload.len() as u8),
            126..=65535 => {
                frame.push(126);
                frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    fn response(accept: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes()
    }

    #[test]
    fn user_ids_are_36_bytes_and_distinct() {
        assert_eq!(&user_id(b"0badcafe", 0xabc), b"0badcafe-0000-4000-8000-000000000abc");
        assert_ne!(user_id(b"00000000", 1), user_id(b"00000000", 2));
        assert_ne!(key(1), key(2));
        assert_eq!(BASE64.decode(key(7).as_bytes()).unwrap().len(), 16);
    }

    #[test]
    fn the_request_is_one_that_a_foreign_parser_takes() {
        let target = Target {
            url: String::new(),
            address: "127.0.0.1:3000".parse().unwrap(),
            authority: "127.0.0.1:3000".to_owned(),
            path_start: "/?userId=".to_owned(),
            name: None,
        };
        let mut bytes = Vec::new();
        write_request(&mut bytes, &target, &user_id(b"00000000", 1), 1);
        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut request = httparse::Request::new(&mut headers);
        assert_eq!(request.parse(&bytes), Ok(httparse::Status::Complete(bytes.len())));
        assert_eq!(request.path, Some("/?userId=00000000-0000-4000-8000-000000000001"));
    }

    #[test]
    fn a_head_cut_anywhere_is_not_whole() {
        let head = response(&derive_accept_key(key(5).as_bytes()));
        for cut in 0..head.len() {
            assert_eq!(parse_head(&head[..cut], 5), Ok(None), "{cut}");
        }
        let whole = [&head[..], b"\x81"].concat();
        assert_eq!(parse_head(&whole, 5), Ok(Some(head.len())));
    }

    #[test]
    fn wrong_heads_are_told_apart() {
        let another = response(&derive_accept_key(key(6).as_bytes()));
        assert_eq!(parse_head(&another, 5), Err(Failure::AcceptKey));
        assert_eq!(parse_head(b"HTTP/1.1 503 Busy\r\n\r\n", 5), Err(Failure::Unavailable));
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n", 5), Err(Failure::Response));
        assert_eq!(parse_head(b"HTTP/1.1 101 OK\r\n\r\n", 5), Err(Failure::Response));
        assert_eq!(parse_head(b"SSH-2.0-x\r\n", 5), Err(Failure::Response));
        let endless = [b"HTTP/1.1 101 OK\r\nX: ".to_vec(), vec![b'a'; HEAD_BYTES_MAX]].concat();
        assert_eq!(parse_head(&endless, 5), Err(Failure::Response));
    }

    #[test]
    fn frames_cut_anywhere_come_out_whole_and_in_order() {
        let long = vec![b'x'; 70_000];
        let expected = [
            Frame::Message { text: true, payload: ACK },
            Frame::Ping(b"hello"),
            Frame::Message { text: false, payload: &long[..300] },
            Frame::Pong,
            Frame::Message { text: true, payload: &long },
            Frame::Close(4408),
        ];
        let stream = [
            server_frame(0x81, ACK),
            server_frame(0x89, b"hello"),
            server_frame(0x82, &long[..300]),
            server_frame(0x8a, b""),
            server_frame(0x81, &long),
            server_frame(0x88, b"\x11\x38silent"),
        ]
        .concat();
        for cut in (0..500).chain(stream.len() - 20..stream.len()) {
            let (mut read, mut from) = (Vec::new(), 0);
            for until in [cut, stream.len()] {
                while let Some((frame, size)) = parse_frame(&stream[from..until]).unwrap() {
                    read.push(frame);
                    from += size;
                }
            }
            assert_eq!(read, expected, "{cut}");
            assert_eq!(from, stream.len());
        }
    }

    #[test]
    fn frames_that_no_server_may_send_are_failures() {
        for bytes in [
            &[0x81, 0x80][..],                       // masked
            &[0xc1, 0x00],                           // RSV1
            &[0x01, 0x00],                           // a fragment
            &[0x83, 0x00],                           // a reserved opcode
            &[0x89, 126, 0, 126],                    // a ping of 126 bytes
            &[0x88, 0x01, 0x03],                     // half a close code
            &[0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], // the top bit of the length
            &[0x81, 127, 0, 0, 0, 0, 0, 0x10, 0, 1], // longer than any of ours
        ] {
            assert_eq!(parse_frame(bytes), Err(Failure::Frame), "{bytes:?}");
        }
        assert_eq!(parse_frame(&[0x88, 0x00]), Ok(Some((Frame::Close(1005), 2))));
    }

    #[test]
    fn client_frames_are_masked() {
        for length in [0, 1, 125, 126, 1000] {
            let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let mut frame = Vec::new();
            write_frame(&mut frame, TEXT, &payload);
            let start = if length < 126 { 2 } else { 4 };
            assert_eq!((frame[0], frame[1]), (0x81, 0x80 | length.min(126) as u8));
            assert_eq!(frame[start..start + 4], MASK);
            let unmasked: Vec<u8> =
                frame[start + 4..].iter().enumerate().map(|(index, byte)| byte ^ MASK[index % 4]).collect();
            assert_eq!(unmasked, payload);
        }
    }

    #[test]
    fn a_heartbeat_ack_is_known_by_its_whole_text() {
        let mut checker = Checker::new(Expect::Rollcall, HeartbeatForm::Timestamp.text());
        let frame = server_frame(0x81, ACK);
        for _ in 0..2 {
            assert!(checker.is_one_answer(&frame));
        }
        assert_eq!(checker.check_answer(true, ACK), Ok(()));
        for at in 0..frame.len() {
            let mut wrong = frame.clone();
            wrong[at] ^= 0x40;
            assert!(!checker.is_one_answer(&wrong), "{at}");
            assert!(at < 2 || checker.check_answer(true, &wrong[2..]).is_err(), "{at}");
        }
        let mut later = frame.clone();
        later[40] = b'9';
        assert!(checker.is_one_answer(&later));
        assert!(!checker.is_one_answer(&frame[..frame.len() - 1]));
        assert!(!checker.is_one_answer(&[&frame[..], &frame[..]].concat()));
        assert_eq!(checker.check_answer(false, ACK), Err(Failure::WrongAnswer));
        let error = br#"{"type":"ERROR","timestamp":"2026-11-25T03:54:45.123Z","payload":{}}"#;
        assert_eq!(checker.check_answer(true, error), Err(Failure::ErrorMessage));
    }

    #[test]
    fn an_echo_is_the_same_bytes_and_any_frame_is_any() {
        let sent = HeartbeatForm::Compact.text();
        let mut echo = Checker::new(Expect::Echo, sent);
        assert!(echo.is_one_answer(&server_frame(0x81, sent)));
        assert_eq!(echo.check_answer(false, sent), Ok(()));
        assert_eq!(echo.check_answer(true, ACK), Err(Failure::WrongAnswer));
        assert!(!echo.has_first_message());
        assert_eq!(Checker::new(Expect::AnyFrame, sent).check_answer(false, b""), Ok(()));
    }

    #[test]
    fn the_first_message_names_the_user() {
        let checker = Checker::new(Expect::Rollcall, HeartbeatForm::Compact.text());
        let (user, other) = (user_id(b"00000000", 1), user_id(b"00000000", 2));
        let connect = [
            CONNECT_START,
            &user,
            br#"","timestamp":"2026-11-25T03:54:45.123Z","payload":{"protocol":1,"reconnect":{"min":1,"max":2}}}"#,
        ]
        .concat();
        assert_eq!(checker.check_first(true, &connect, &user), Ok(()));
        assert_eq!(checker.check_first(true, &connect, &other), Err(Failure::FirstMessage));
        assert_eq!(checker.check_first(false, &connect, &user), Err(Failure::FirstMessage));
        assert_eq!(checker.check_first(true, ACK, &user), Err(Failure::FirstMessage));
        for cut in 0..connect.len() {
            assert_eq!(checker.check_first(true, &connect[..cut], &user), Err(Failure::FirstMessage), "{cut}");
        }
    }
}
