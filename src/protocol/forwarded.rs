//! The client's address as HTTP proxies tell it: `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! A client may send these headers itself, and each proxy adds what it saw at their end. So they are read only where
//! the peer is a proxy that the operator trusts, and from there backwards only as far as such proxies vouch for them.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::address::is_in;
use super::handshake::Upgrade;

/// `Forwarded` and `X-Forwarded-For` name different clients: one of them is not the proxy's word. Or quotes in
/// `Forwarded` are not where they belong: by one left open a client would have what the proxy adds taken for a part of
/// what it sent itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contradiction;

/// The client whose request a proxy of `trusted` passed on: the last hop that is none of `trusted`, or else the first
/// one. `None` where the proxy names nobody.
///
/// # Errors
/// [`Contradiction`].
pub fn client(upgrade: &Upgrade<'_>, trusted: &[IpNet]) -> Result<Option<IpAddr>, Contradiction> {
    let (mut standard, mut customary) = (None, None);
    for value in upgrade.header("forwarded") {
        let client = standard.get_or_insert(Client::default());
        if !has_sound_quotes(value) {
            return Err(Contradiction);
        }
        elements(value).for_each(|element| client.pass(named_for(element), trusted));
    }
    for value in upgrade.header("x-forwarded-for") {
        let client = customary.get_or_insert(Client::default());
        value.split(|&byte| byte == b',').for_each(|hop| client.pass(address(hop), trusted));
    }
    match (standard, customary) {
        (Some(standard), Some(customary)) if standard != customary => Err(Contradiction),
        (standard, customary) => Ok(standard.or(customary).and_then(|client| client.0)),
    }
}

/// What the hops so far, from the first on, say of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Client(Option<IpAddr>);

impl Client {
    /// One hop more; `None` for one that does not say where it is.
    fn pass(&mut self, hop: Option<IpAddr>, trusted: &[IpNet]) {
        match hop {
            // It vouches for whom the hops before it named.
            Some(hop) if is_in(trusted, hop) => self.0 = self.0.or(Some(hop)),
            hop => self.0 = hop,
        }
    }
}

/// The elements of one `Forwarded` header (RFC 7239 §4): between commas that are in no quotes.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quotes = Quotes::default();
    value.split(move |&byte| {
        let is_comma = byte == b',' && !quotes.are_open;
        quotes.pass(byte);
        is_comma
    })
}

/// Where a place in a header stands to its quotes.
#[derive(Default)]
struct Quotes {
    are_open: bool,
    is_escaped: bool,
}

/// Whether quotes are where RFC 7239 §4 has them: around the whole of a value, blanks aside. If a client left one open,
/// that with which the proxy begins a value would end it, and what follows would stand outside.
fn has_sound_quotes(value: &[u8]) -> bool {
    let mut quotes = Quotes::default();
    let are_in_place = value.iter().enumerate().all(|(place, &byte)| {
        let were_open = quotes.are_open;
        quotes.pass(byte);
        match (were_open, quotes.are_open) {
            (false, true) => value[..place].trim_ascii_end().ends_with(b"="),
            (true, false) => matches!(value.get(place + 1), None | Some(b',' | b';' | b' ' | b'\t')),
            _ => true,
        }
    });
    are_in_place && !quotes.are_open
}

impl Quotes {
    fn pass(&mut self, byte: u8) {
        if byte == b'"' && !self.is_escaped {
            self.are_open = !self.are_open;
        }
        self.is_escaped = self.are_open && byte == b'\\' && !self.is_escaped;
    }
}

/// The address in the parameter `for` of an element, which may be there once.
///
/// Addresses hold no semicolon, so that one in quotes only makes pieces that are no `for`, or no address.
fn named_for(element: &[u8]) -> Option<IpAddr> {
    let mut values = element.split(|&byte| byte == b';').filter_map(|pair| {
        let (name, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        name.trim_ascii().eq_ignore_ascii_case("for").then_some(value)
    });
    let value = values.next().filter(|_| values.next().is_none())?;
    let value = value.trim_ascii();
    address(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value).as_bytes())
}

/// An address, with or without a port; one of IPv6 may stand in brackets (RFC 7239 §6).
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_ascii();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::handshake::{self, Request};

    fn told(lines: &[&str]) -> Result<Option<IpAddr>, Contradiction> {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let head = format!(
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
        );
        let Ok(Request::Upgrade(upgrade)) = handshake::parse(head.as_bytes()) else { panic!("{head}") };
        client(&upgrade, &trusted)
    }

    fn address(text: &str) -> Result<Option<IpAddr>, Contradiction> {
        Ok(Some(text.parse().unwrap()))
    }

    #[test]
    fn the_last_hop_that_is_not_trusted_is_the_client() {
        for (hops, client) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, 10.0.0.1", "192.0.2.1"),
            ("192.0.2.6, 192.0.2.1,10.0.0.1 , 10.0.0.2", "192.0.2.1"),
            ("10.0.0.9, 192.0.2.1", "192.0.2.1"),
            ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
            ("nonsense, 192.0.2.1", "192.0.2.1"),
            ("nonsense, 10.0.0.1", "10.0.0.1"),
            ("192.0.2.1:1234", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:80, fd00::1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(told(&[&format!("X-Forwarded-For: {hops}")]), address(client), "{hops}");
        }
    }

    #[test]
    fn a_proxy_that_names_nobody_leaves_it_at_that() {
        for lines in [&[][..], &["X-Forwarded-For: 192.0.2.1, unknown"], &["Forwarded: for=_hidden"], &["Forwarded:"]] {
            assert_eq!(told(lines), Ok(None), "{lines:?}");
        }
    }

    #[test]
    fn headers_of_one_name_are_one_list() {
        assert_eq!(told(&["X-Forwarded-For: 192.0.2.6", "x-forwarded-for: 192.0.2.1"]), address("192.0.2.1"));
        assert_eq!(told(&["Forwarded: for=192.0.2.1", "FORWARDED: for=10.0.0.1"]), address("192.0.2.1"));
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_has_it() {
        for (value, client) in [
            ("for=192.0.2.43", "192.0.2.43"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("by=203.0.113.43; for = \"192.0.2.60:80\"", "192.0.2.60"),
            ("for=192.0.2.6, for=192.0.2.1;host=\"a,b\", for=10.0.0.1", "192.0.2.1"),
            ("for=192.0.2.1;host=\"\\\",for=192.0.2.9\"", "192.0.2.1"),
        ] {
            assert_eq!(told(&[&format!("Forwarded: {value}")]), address(client), "{value}");
        }
        for value in ["for=192.0.2.1;for=192.0.2.2", "proto=https"] {
            assert_eq!(told(&[&format!("Forwarded: {value}")]), Ok(None), "{value}");
        }
    }

    #[test]
    fn a_quote_that_the_client_leaves_open_does_not_swallow_what_the_proxy_adds() {
        for sent in ["for=192.0.2.6;host=\"x", "for=192.0.2.6;\"", "for=192.0.2.6;host=\"\\", "for=\"192.0.2.6", "\""] {
            for added in [
                "for=192.0.2.1",
                "for=\"[2001:db8::1]:4711\"",
                // The client's own Host, by a proxy that does not escape it, and by one that does.
                "for=192.0.2.1;host=\"a\"b\"",
                "for=\"192.0.2.1\";host=\"a\\\"b\"",
            ] {
                let lines = format!("Forwarded: {sent}, {added}");
                assert_eq!(told(&[&lines]), Err(Contradiction), "{lines}");
            }
        }
    }

    #[test]
    fn two_headers_that_disagree_are_believed_neither() {
        assert_eq!(told(&["Forwarded: for=192.0.2.1", "X-Forwarded-For: 192.0.2.1"]), address("192.0.2.1"));
        assert_eq!(told(&["Forwarded: for=192.0.2.6", "X-Forwarded-For: 192.0.2.1"]), Err(Contradiction));
        assert_eq!(told(&["Forwarded: for=unknown", "X-Forwarded-For: 192.0.2.1"]), Err(Contradiction));
    }

    proptest! {
        /// By the slowest way: from the end, past all that are trusted.
        #[test]
        fn it_agrees_with_walking_backwards(hops in prop::collection::vec(prop_oneof![
            (0_u8..4).prop_map(|last| format!("192.0.2.{last}")),
            (0_u8..4).prop_map(|last| format!("10.0.0.{last}")),
            Just("unknown".to_owned()),
        ], 1..8)) {
            let parsed: Vec<Option<IpAddr>> = hops.iter().map(|hop| hop.parse().ok()).collect();
            let mut expected = None;
            for hop in parsed.iter().rev() {
                expected = hop.or(expected);
                if hop.is_none_or(|hop| !hop.to_string().starts_with("10.")) {
                    break;
                }
            }
            prop_assert_eq!(told(&[&format!("X-Forwarded-For: {}", hops.join(","))]), Ok(expected));
            let elements: Vec<String> = hops.iter().map(|hop| format!("for={hop}")).collect();
            prop_assert_eq!(told(&[&format!("Forwarded: {}", elements.join(", "))]), Ok(expected));
        }
    }
}
