//! The header by which a proxy tells whose connection it passes on: HAProxy's PROXY protocol, versions 1 and 2
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
//!
//! Whether it must be there is the operator's word and never guessed (§2 there): a client that could choose would
//! choose its own address.

use std::net::IpAddr;

use proxy_header::{ParseConfig, Protocol};

/// The most bytes of a header. The protocol lets version 2 announce 64 KiB; what proxies send is below one.
pub const HEADER_BYTES_MAX: usize = 4096;

/// The most bytes of a header of version 1, its line's end included (§2.1).
const TEXT_BYTES_MAX: usize = 107;

/// What a header of version 1 begins with.
const TEXT_SIGNATURE: &[u8] = b"PROXY ";

/// What a header of version 2 begins with (§2.2).
const BINARY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// From how many bytes on [`is_announced_by`] always knows.
pub const SIGNATURE_BYTES_MAX: usize = BINARY_SIGNATURE.len();

/// The bytes of version 2 before its addresses.
const BINARY_HEAD_BYTES: usize = 16;

/// Version 2 and the command LOCAL: the proxy speaks for itself.
const LOCAL: u8 = 0x20;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it has; what follows them is the client's.
    pub bytes: usize,
    /// The client's address; `None` where the proxy names none, and speaks for itself or for what is not TCP over IP.
    pub client: Option<IpAddr>,
}

/// Bytes that are no header, or one that the protocol forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidHeader;

/// Reads the header at the start of `bytes`; `None` while it is not whole.
///
/// # Errors
/// [`InvalidHeader`], as soon as no more bytes could make it one.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    let end = if begins_like(bytes, TEXT_SIGNATURE) {
        text_end(bytes)?
    } else if begins_like(bytes, BINARY_SIGNATURE) {
        binary_end(bytes)?
    } else {
        return Err(InvalidHeader);
    };
    let Some(end) = end else { return Ok(None) };
    let header = &bytes[..end];
    let client = if header[0] == TEXT_SIGNATURE[0] { text_client(header)? } else { binary_client(header)? };
    Ok(Some(Header { bytes: end, client }))
}

/// Whether `bytes` begin as a header does, and as no request can; `None` while they may come to.
pub fn is_announced_by(bytes: &[u8]) -> Option<bool> {
    let signatures = [TEXT_SIGNATURE, BINARY_SIGNATURE];
    match signatures.iter().find(|signature| begins_like(bytes, signature)) {
        Some(signature) if bytes.len() < signature.len() => None,
        begun => Some(begun.is_some()),
    }
}

fn begins_like(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

fn text_end(bytes: &[u8]) -> Result<Option<usize>, InvalidHeader> {
    let limited = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    match limited.windows(2).position(|pair| pair == b"\r\n") {
        Some(position) => Ok(Some(position + 2)),
        None if bytes.len() < TEXT_BYTES_MAX => Ok(None),
        None => Err(InvalidHeader),
    }
}

fn binary_end(bytes: &[u8]) -> Result<Option<usize>, InvalidHeader> {
    let Some(&[.., high, low]) = bytes.get(..BINARY_HEAD_BYTES) else { return Ok(None) };
    let end = BINARY_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if end > HEADER_BYTES_MAX {
        return Err(InvalidHeader);
    }
    Ok((bytes.len() >= end).then_some(end))
}

fn text_client(header: &[u8]) -> Result<Option<IpAddr>, InvalidHeader> {
    let line = header.strip_suffix(b"\r\n").unwrap_or(header);
    let mut words = line.split(|&byte| byte == b' ').skip(1);
    // The parser takes what merely begins with this word, and ports with a sign or leading zeros.
    if words.next() == Some(b"UNKNOWN") {
        return Ok(None);
    }
    if words.clone().count() != 4 || !words.skip(2).all(is_port) {
        return Err(InvalidHeader);
    }
    parsed_client(header)
}

fn is_port(word: &[u8]) -> bool {
    word.iter().all(u8::is_ascii_digit) && (word.len() == 1 || !word.starts_with(b"0"))
}

fn binary_client(header: &[u8]) -> Result<Option<IpAddr>, InvalidHeader> {
    // Whatever family and addresses say, they are to be skipped then (§2.2).
    if header[BINARY_SIGNATURE.len()] == LOCAL {
        return Ok(None);
    }
    parsed_client(header)
}

fn parsed_client(header: &[u8]) -> Result<Option<IpAddr>, InvalidHeader> {
    let (parsed, end) = proxy_header::ProxyHeader::parse(header, ParseConfig::default()).map_err(|_| InvalidHeader)?;
    match parsed.proxied_address() {
        _ if end != header.len() => Err(InvalidHeader),
        None => Ok(None),
        Some(address) if address.protocol == Protocol::Stream => Ok(Some(address.source.ip().to_canonical())),
        Some(_) => Err(InvalidHeader),
    }
}

/// The body of the fuzz target `proxy`: any bytes are a header or not, the same however they are cut, and what is read
/// of a header is what a proxy that wrote it would have meant.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    use proxy_header::{ProxiedAddress, ProxyHeader};

    let whole = read(data);
    let pieces = (0..=data.len()).map(|have| read(&data[..have])).find(|read| *read != Ok(None));
    assert_eq!(whole, pieces.unwrap_or(Ok(None)));
    let Ok(Some(header)) = whole else { return };
    assert!(header.bytes <= HEADER_BYTES_MAX.min(data.len()) && is_announced_by(data) == Some(true));
    let Some(client) = header.client else { return };
    let written = ProxyHeader::with_address(ProxiedAddress::stream((client, 1).into(), (client, 2).into()));
    for encode in [ProxyHeader::encode_to_slice_v1, ProxyHeader::encode_to_slice_v2] {
        let mut buffer = [0; 128];
        let bytes = encode(&written, &mut buffer).unwrap_or_default();
        assert_eq!(read(&buffer[..bytes]), Ok(Some(Header { bytes, client: Some(client) })));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut header = BINARY_SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((block.len() as u16).to_be_bytes());
        header.extend_from_slice(block);
        header
    }

    fn client(bytes: &[u8]) -> Result<Option<IpAddr>, InvalidHeader> {
        let header = read(bytes)?.unwrap();
        assert_eq!(header.bytes, bytes.len());
        let mut more = bytes.to_vec();
        more.extend(b"GET / HTTP/1.1\r\n");
        assert_eq!(read(&more), Ok(Some(header)));
        Ok(header.client)
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn version_1_tells_a_client_or_that_it_is_unknown() {
        for (header, expected) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 5000 3000\r\n", address("192.0.2.1")),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", address("255.255.255.255")),
            ("PROXY TCP6 2001:db8::1 ::1 0 1\r\n", address("2001:db8::1")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 1\r\n", address("192.0.2.1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 whatever it says\r\n", None),
        ] {
            assert_eq!(client(header.as_bytes()), Ok(expected), "{header}");
        }
    }

    #[test]
    fn what_is_not_version_1_to_the_letter_is_refused() {
        for header in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 5000 3000 \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 5000 3000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +5000 3000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 05000 3000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2  3000\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 3000\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 5000 3000\r\n",
            "PROXY TCP4 ::1 ::1 5000 3000\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 5000 3000\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 5000 3000\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 5000 3000\n\r\n",
            "proxy TCP4 192.0.2.1 192.0.2.2 5000 3000\r\n",
            "GET / HTTP/1.1\r\n",
            "\r\n\r\n",
        ] {
            let read = read(header.as_bytes());
            // The last one may still become version 2.
            assert!(read == Err(InvalidHeader) || header == "\r\n\r\n" && read == Ok(None), "{header}: {read:?}");
        }
    }

    #[test]
    fn a_line_that_does_not_end_is_refused_at_its_limit() {
        let line = format!("PROXY UNKNOWN {}", "x".repeat(TEXT_BYTES_MAX - 16));
        assert_eq!(client(format!("{line}\r\n").as_bytes()), Ok(None));
        assert_eq!(read(format!("{line}x").as_bytes()), Ok(None));
        assert_eq!(read(format!("{line}x\r\n").as_bytes()), Err(InvalidHeader));
    }

    #[test]
    fn version_2_tells_a_client_and_what_follows_its_addresses_is_skipped() {
        let ipv4 = [192, 0, 2, 1, 192, 0, 2, 2, 1, 2, 3, 4];
        let mut ipv6 = [0; 36];
        (ipv6[0], ipv6[1], ipv6[15]) = (0x20, 0x01, 1);
        assert_eq!(client(&binary(0x21, 0x11, &ipv4)), Ok(address("192.0.2.1")));
        assert_eq!(client(&binary(0x21, 0x21, &ipv6)), Ok(address("2001::1")));
        assert_eq!(client(&binary(0x21, 0x11, &[&ipv4[..], &[4, 0, 1, 0]].concat())), Ok(address("192.0.2.1")));
        assert_eq!(client(&binary(0x21, 0x00, b"")), Ok(None));
        assert_eq!(client(&binary(0x21, 0x31, &[0; 216])), Ok(None));
    }

    #[test]
    fn a_local_connection_is_the_proxys_own_whatever_its_family() {
        for family in [0x00, 0x11, 0x21, 0xff] {
            assert_eq!(client(&binary(0x20, family, b"")), Ok(None));
        }
        assert_eq!(client(&binary(0x20, 0x11, &[7; 12])), Ok(None));
    }

    #[test]
    fn what_version_2_forbids_is_refused() {
        for (command, family, block) in [
            (0x22, 0x11, &[0; 12][..]),
            (0x11, 0x11, &[0; 12]),
            (0x21, 0x11, &[0; 11]),
            (0x21, 0x21, &[0; 12]),
            (0x21, 0x12, &[0; 12]),
            (0x21, 0x41, &[0; 12]),
            (0x21, 0x13, &[0; 12]),
        ] {
            assert_eq!(read(&binary(command, family, block)), Err(InvalidHeader), "{command:x} {family:x}");
        }
        assert!(read(&binary(0x21, 0x00, &[0; HEADER_BYTES_MAX - 16])).is_ok_and(|header| header.is_some()));
        assert_eq!(read(&binary(0x21, 0x00, &[0; HEADER_BYTES_MAX - 15])), Err(InvalidHeader));
        assert_eq!(read(&binary(0x21, 0x00, &[0; HEADER_BYTES_MAX - 15])[..16]), Err(InvalidHeader));
    }

    /// Headers, and what is left of them when some bytes are changed.
    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let text = "PROXY (TCP4|TCP6|UNKNOWN) [0-9a-f:.]{1,15} [0-9a-f:.]{1,15} [0-9]{1,5} [0-9]{1,5}\r\n";
        let head = prop_oneof![
            text.prop_map(String::into_bytes),
            (
                0x20_u8..0x23,
                prop::sample::select(vec![0, 0x11, 0x12, 0x21, 0x31]),
                prop::collection::vec(any::<u8>(), 0..60)
            )
                .prop_map(|(command, family, block)| binary(command, family, &block)),
        ];
        (head, prop::option::of((any::<prop::sample::Index>(), any::<u8>()))).prop_map(|(mut head, change)| {
            if let Some((place, byte)) = change {
                let place = place.index(head.len());
                head[place] = byte;
            }
            head
        })
    }

    proptest! {
        #[test]
        fn headers_and_what_is_almost_one_keep_the_promises_of_fuzzing(header in headers()) {
            fuzz(&header);
        }
    }
}
