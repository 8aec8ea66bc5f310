//! Which pages may connect (RFC 6454, RFC 6455 §10.2), and by which names this host may be called.
//!
//! A browser lets any page open a WebSocket to any host and sends the cookies along; what tells such a page from ours
//! is the header `Origin`, which a page cannot set. A client that is no browser sends what it likes, or nothing:
//! against those only a token helps.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The origins that are allowed; all of them where none is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Origins as operators write them: `https://app.example`, with its port where that is not the scheme's own, or
    /// `null`.
    ///
    /// # Errors
    /// The first that is no origin.
    pub fn new(origins: &[String]) -> Result<Self, &str> {
        let normal = origins.iter().map(|origin| normal(origin).ok_or(origin.as_str()));
        normal.collect::<Result<_, _>>().map(Self)
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request with these headers `Origin` may upgrade. Without one it comes from no browser, which always
    /// sends it; with several, nobody can tell which page it was.
    pub fn admit<'a>(&self, mut headers: impl Iterator<Item = &'a [u8]>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        match (headers.next(), headers.next()) {
            (None, _) => true,
            (Some(origin), None) => self.name(origin).is_some(),
            (Some(_), Some(_)) => false,
        }
    }

    /// The origin that `header` is, if it is one that is named.
    pub fn name(&self, header: &[u8]) -> Option<&str> {
        let origin = normal(str::from_utf8(header).ok()?)?;
        self.0.iter().find(|named| **named == origin).map(String::as_str)
    }
}

/// An origin in the form in which browsers send it: lower case, without the scheme's own port (RFC 6454 §6.2).
fn normal(origin: &str) -> Option<String> {
    let origin = origin.to_ascii_lowercase();
    if origin == "null" {
        return Some(origin);
    }
    let (scheme, authority) = origin.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "\0",
    };
    let authority = authority.strip_suffix(own_port).unwrap_or(authority);
    (is_scheme && is_authority(authority)).then(|| format!("{scheme}://{authority}"))
}

/// Whether `text` is a host with or without a port: what is left of a URL when nothing else is in it.
fn is_authority(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
}

/// The names by which this host may be called; any where none is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Hosts as operators write them: `chat.example`, which is so at any port, or `chat.example:3000`.
    ///
    /// # Errors
    /// The first that is no host.
    pub fn new(hosts: &[String]) -> Result<Self, &str> {
        match hosts.iter().find(|host| !is_authority(host)) {
            Some(wrong) => Err(wrong),
            None => Ok(Self(hosts.iter().map(|host| host.to_ascii_lowercase()).collect())),
        }
    }

    /// Whether a request for the host in `header` is for us. A page whose name was made to point here (DNS rebinding)
    /// has its own.
    pub fn admit(&self, header: Option<&[u8]>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Some(host) = header.and_then(|header| str::from_utf8(header).ok()) else { return false };
        let host = host.to_ascii_lowercase();
        self.0.iter().any(|ours| *ours == host || ours == without_port(&host))
    }

    /// Whether a request for the host in `header` may read what is served beside WebSockets. Scrapers and probes call
    /// hosts by their addresses, or by no name at all; a page of a browser that was made to point here has a name.
    pub fn admit_reader(&self, header: Option<&[u8]>) -> bool {
        let Some(host) = header else { return true };
        self.admit(header) || str::from_utf8(host).is_ok_and(|host| is_address(without_port(host)))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether `name` is this host's own or an address, which no name service has a say in.
fn is_address(name: &str) -> bool {
    let inside = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || inside.map_or_else(|| name.parse::<Ipv4Addr>().is_ok(), |name| name.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn origins(named: &[&str]) -> Origins {
        let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
        Origins::new(&named).unwrap()
    }

    #[test]
    fn without_a_list_every_page_may_connect() {
        let any = Origins::default();
        assert!(any.admit([&b"https://evil.example"[..], b"null"].into_iter()));
        assert!(any.admit(std::iter::empty()));
    }

    #[test]
    fn with_a_list_other_pages_may_not_and_programs_that_are_no_browsers_may() {
        let ours = origins(&["https://App.example", "http://localhost:8080"]);
        for origin in ["https://app.example", "HTTPS://APP.EXAMPLE", "https://app.example:443", "http://localhost:8080"]
        {
            assert!(ours.admit([origin.as_bytes()].into_iter()), "{origin}");
        }
        for origin in [
            "null",
            "",
            "https://evil.example",
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil",
            "https://xapp.example",
            "https://app.example/",
            "https://app.example, https://evil.example",
            "app.example",
            "https://evil@app.example",
            "https://app.example\u{e9}",
            "*",
            "http://localhost",
            "http://localhost:80",
        ] {
            assert!(!ours.admit([origin.as_bytes()].into_iter()), "{origin}");
        }
        assert!(!ours.admit([&b"\xff"[..]].into_iter()));
        assert!(ours.admit(std::iter::empty()));
        let twice = [&b"https://app.example"[..], b"https://app.example"];
        assert!(!ours.admit(twice.into_iter()), "two headers");
    }

    #[test]
    fn pages_without_an_origin_of_their_own_are_named_null() {
        assert!(origins(&["null"]).admit([&b"null"[..]].into_iter()));
        assert!(!origins(&["null"]).admit([&b"https://app.example"[..]].into_iter()));
    }

    #[test]
    fn what_is_no_origin_is_not_taken_for_one() {
        for wrong in
            ["", "app.example", "https://", "https://app.example/", "https://a b", "*", "https://*.example", "://a"]
        {
            assert_eq!(Origins::new(&[wrong.to_owned()]), Err(wrong));
        }
    }

    #[test]
    fn a_host_is_known_by_its_name_whatever_its_port() {
        let ours = Hosts::new(&["Chat.example".to_owned(), "[::1]:3000".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        for host in ["chat.example", "CHAT.example:3000", "[::1]:3000", "10.0.0.1:80"] {
            assert!(ours.admit(Some(host.as_bytes())), "{host}");
        }
        for host in ["evil.example", "chat.example.evil", "chat.example:x", "[::1]", "[::1]:3001", "", "xchat.example"]
        {
            assert!(!ours.admit(Some(host.as_bytes())), "{host}");
        }
        assert!(!ours.admit(None) && !ours.admit(Some(b"\xff")));
        assert!(Hosts::default().admit(None));
        assert_eq!(Hosts::new(&["http://a/".to_owned()]), Err("http://a/"));
    }

    #[test]
    fn whoever_calls_the_host_by_an_address_is_no_page_whose_name_was_made_to_point_here() {
        let ours = Hosts::new(&["chat.example".to_owned()]).unwrap();
        for host in
            ["chat.example:3001", "127.0.0.1", "10.0.0.7:3001", "[::1]", "[2001:db8::1]:80", "localhost:1", "LOCALHOST"]
        {
            assert!(ours.admit_reader(Some(host.as_bytes())), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:3001", "127.1", "::1", "[evil]", "localhost.evil", "", "1"]
        {
            assert!(!ours.admit_reader(Some(host.as_bytes())), "{host}");
        }
        assert!(ours.admit_reader(None) && !ours.admit_reader(Some(b"\xff")));
        assert!(Hosts::default().admit_reader(Some(b"evil.example")));
    }
}
