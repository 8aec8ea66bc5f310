//! The bytes that virtual clients send and hear: the upgrade, frames, JSON. Read by code that is not the server's.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Appends a request to upgrade with `query`.
pub fn write_upgrade(out: &mut Vec<u8>, query: &str) {
    out.extend_from_slice(b"GET /?");
    out.extend_from_slice(query.as_bytes());
    out.extend_from_slice(
        b" HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
}

/// The first byte of a frame that is a whole text message.
pub const TEXT: u8 = 0x81;
/// The first byte of a Pong.
pub const PONG: u8 = 0x8a;
/// The first byte of a Ping.
pub const PING: u8 = 0x89;
/// The first byte of a close frame.
pub const CLOSE: u8 = 0x88;

/// Appends a frame as clients send it, masked.
pub fn write_frame(out: &mut Vec<u8>, first: u8, payload: &[u8], mask: [u8; 4]) {
    out.push(first);
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// A frame from the server: its first byte, where its payload lies in what it was read from, and where it ends.
pub struct Frame {
    pub first: u8,
    pub start: usize,
    pub end: usize,
}

/// The frame with which `bytes` begin, if it is whole. Err where a server must not send such a one.
pub fn read_frame(bytes: &[u8]) -> Result<Option<Frame>, String> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if second & 0x80 != 0 {
        return Err("a frame from the server is masked".into());
    }
    let (start, length) = match (second, rest) {
        (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        (127, rest) if rest.len() >= 8 => {
            let length = rest[..8].iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
            (10, length)
        }
        (126 | 127, _) => return Ok(None),
        (short, _) => (2, usize::from(*short)),
    };
    if !matches!(first, 0x81 | 0x88 | 0x89 | 0x8a) {
        return Err(format!("a frame from the server begins with {first:#x}"));
    }
    Ok((bytes.len() >= start + length).then_some(Frame { first: *first, start, end: start + length }))
}

/// A message from the server.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message<'a> {
    #[serde(rename = "type")]
    pub kind: &'a str,
    pub id: Option<u32>,
    #[allow(dead_code, reason = "that it can be read is what is checked")]
    pub timestamp: &'a str,
    #[serde(rename = "userId", borrow, default)]
    pub user_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub payload: Option<Payload<'a>>,
}

/// What a message's payload may hold, whatever its type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload<'a> {
    #[serde(borrow, default)]
    pub users: Vec<Presence<'a>>,
    #[serde(borrow, default)]
    pub rooms: Vec<Room<'a>>,
    pub cursor: Option<&'a str>,
    pub complete: Option<bool>,
    pub protocol: Option<u32>,
    #[serde(rename = "sessionId")]
    pub session_id: Option<&'a str>,
    pub resumed: Option<bool>,
    #[serde(rename = "heartbeatTimeout")]
    #[allow(dead_code, reason = "that it can be read is what is checked")]
    pub heartbeat_timeout: Option<u64>,
    #[allow(dead_code, reason = "that it can be read is what is checked")]
    pub reconnect: Option<IgnoredAny>,
    pub code: Option<&'a str>,
    #[allow(dead_code, reason = "that it can be read is what is checked")]
    pub message: Option<IgnoredAny>,
}

/// A presence.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presence<'a> {
    #[serde(rename = "userId", borrow)]
    pub user_id: Cow<'a, str>,
    pub status: &'a str,
    pub metadata: Option<Metadata>,
    pub since: Option<&'a str>,
    #[serde(rename = "lastSeen")]
    pub last_seen: Option<&'a str>,
}

/// The metadata that virtual clients set: a number that never comes twice, and some padding.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub n: u32,
    #[serde(rename = "pad")]
    _pad: Option<IgnoredAny>,
}

/// A room in a state or a change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Room<'a> {
    #[serde(borrow)]
    pub room: Cow<'a, str>,
    pub count: usize,
    #[serde(borrow)]
    pub members: Option<Vec<Presence<'a>>>,
    #[serde(borrow)]
    pub joined: Option<Vec<Presence<'a>>>,
    #[serde(borrow)]
    pub left: Option<Vec<Cow<'a, str>>>,
    pub truncated: Option<bool>,
}

/// The milliseconds since 1970 that a timestamp `2026-11-25T03:54:45.123Z` names.
pub fn unix_ms(text: &str) -> Option<u64> {
    let bytes: &[u8; 24] = text.as_bytes().try_into().ok()?;
    let number = |from: usize, to: usize| {
        bytes[from..to]
            .iter()
            .try_fold(0_i64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second, ms) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 23)?);
    // Days since 1970 (Hinnant, "chrono-Compatible Low-Level Date Algorithms": days_from_civil).
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) as u64 * 1_000 + ms as u64)
}
