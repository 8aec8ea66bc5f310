//! The bytes of virtual clients: an upgrade and masked frames to the server, frames and JSON from it.

use std::hash::RandomState;

use simd_json::BorrowedValue;
use simd_json::prelude::{ValueAsArray, ValueAsObject, ValueAsScalar, ValueObjectAccess};

use crate::protocol::message::json::has_duplicate_keys;

/// The first byte of a frame that is a whole text message.
pub const TEXT: u8 = 0x81;
/// The first byte of a whole binary message.
pub const BINARY: u8 = 0x82;
/// The first byte of a close frame.
pub const CLOSE: u8 = 0x88;
/// The first byte of a Ping.
pub const PING: u8 = 0x89;
/// The first byte of a Pong.
pub const PONG: u8 = 0x8a;

/// A request to upgrade with `query`.
pub fn upgrade(query: &str) -> String {
    format!(
        "GET /?{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A frame as clients send it, masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Takes the frame with which `bytes` begin out of them, if it is whole: its first byte, and its payload.
pub fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let &[first, second, ..] = &bytes[..] else { return None };
    assert!(second & 0x80 == 0, "a frame from the server is not masked");
    assert!(matches!(first, TEXT | CLOSE | PING | PONG), "a frame from the server begins with {first:#x}");
    let (start, length) = match second {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => unreachable!("a message is smaller than 64 KiB"),
        short => (2, usize::from(short)),
    };
    if bytes.len() < start + length {
        return None;
    }
    let payload = bytes[start..start + length].to_vec();
    bytes.drain(..start + length);
    Some((first, payload))
}

/// A message, or what stands in one.
pub struct Json<'text>(BorrowedValue<'text>);

impl<'text> Json<'text> {
    /// The text of a message, which must be JSON that names nothing twice.
    pub fn read(text: &'text mut [u8]) -> Self {
        let mut copy = text.to_vec();
        let Ok(tape) = simd_json::to_tape(&mut copy) else {
            panic!("not JSON: {}", String::from_utf8_lossy(text));
        };
        assert!(!has_duplicate_keys(&tape.0, &RandomState::new()));
        let Ok(value) = simd_json::to_borrowed_value(text) else { unreachable!("it was JSON a moment ago") };
        Self(value)
    }

    /// The object itself, which may have these fields and no others.
    pub fn object(&self, fields: &[&str]) -> Object<'_, 'text> {
        Object::of(&self.0, fields)
    }
}

/// An object.
#[derive(Clone, Copy)]
pub struct Object<'json, 'text>(&'json BorrowedValue<'text>);

impl<'json, 'text> Object<'json, 'text> {
    fn of(value: &'json BorrowedValue<'text>, fields: &[&str]) -> Self {
        let Some(object) = value.as_object() else { panic!("an object is expected: {value:?}") };
        let unknown = object.keys().find(|key| !fields.contains(&&***key));
        assert_eq!(unknown, None, "an unknown field");
        Self(value)
    }

    /// The object in a field.
    pub fn object(self, name: &str, fields: &[&str]) -> Option<Self> {
        self.0.get(name).map(|value| Object::of(value, fields))
    }

    /// The objects of the list in a field.
    pub fn objects(self, name: &str, fields: &[&str]) -> Option<Vec<Self>> {
        let Some(list) = self.0.get(name)?.as_array() else { panic!("{name} is a list") };
        Some(list.iter().map(|value| Object::of(value, fields)).collect())
    }

    /// The texts of the list in a field.
    pub fn texts(self, name: &str) -> Option<Vec<&'json str>> {
        let Some(list) = self.0.get(name)?.as_array() else { panic!("{name} is a list") };
        Some(list.iter().map(|value| value.as_str().unwrap_or_else(|| panic!("{name} holds texts"))).collect())
    }

    /// The text in a field.
    pub fn text(self, name: &str) -> Option<&'json str> {
        self.0.get(name).map(|value| value.as_str().unwrap_or_else(|| panic!("{name} is a text")))
    }

    /// The number in a field.
    pub fn number(self, name: &str) -> Option<u32> {
        let number = |value: &BorrowedValue<'_>| value.as_u32().unwrap_or_else(|| panic!("{name} is a number"));
        self.0.get(name).map(number)
    }

    /// What is true or not in a field.
    pub fn truth(self, name: &str) -> Option<bool> {
        self.0.get(name).map(|value| value.as_bool().unwrap_or_else(|| panic!("{name} is true or false")))
    }
}
