//! Request head → upgrade, plain request or refusal (RFC 6455 §4, RFC 9112).
//!
//! A head is parsed once, when it is whole: parsing each piece anew is quadratic.

use tungstenite::handshake::derive_accept_key;

use super::error::Refusal;
use super::plain::{Method, PlainPath, PlainRequest};

/// The most headers of a request.
pub const HEADERS_MAX: usize = 100;

/// The subprotocol that is selected when a client offers it.
pub const SUBPROTOCOL: &str = "rollcall.v1";

/// The seconds after which a refused client may try again, as `Retry-After` tells them.
const RETRY_AFTER_SECONDS: u32 = 5;

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// To become a WebSocket.
    Upgrade(Upgrade<'a>),
    /// One of the pages that control answers.
    Plain {
        /// What is asked.
        request: PlainRequest,
        /// The header `Host`; HTTP/1.0 may leave it out.
        host: Option<&'a [u8]>,
    },
}

/// A valid request to become a WebSocket. Only [`parse`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade<'a> {
    /// What follows `?` in the request's target; empty where there is none.
    pub query: &'a str,
    /// The whole request, from its first line to the empty line at its end.
    head: &'a [u8],
    key: &'a str,
    offers_subprotocol: bool,
}

impl<'a> Upgrade<'a> {
    /// The request's target: its path and query as they were written.
    pub fn target(&self) -> &'a str {
        let line = self.head.split(|&byte| byte == b'\r').next().unwrap_or_default();
        let target = str::from_utf8(line).ok().and_then(|line| line.split(' ').nth(1));
        target.and_then(origin_form).unwrap_or_default()
    }

    /// Every header: its name as it was written, and its value without the blanks around it.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        // `parse` found no folded line and no bare line feed, so that each line is a header.
        let lines = self.head.split(|&byte| byte == b'\n').skip(1);
        lines.filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let (name, value) = line.split_at(colon);
            Some((str::from_utf8(name).ok()?, value[1..].trim_ascii()))
        })
    }

    /// The values of the headers of that name, whose case does not matter.
    pub fn header(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().filter(move |(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A request that is refused, and what its response must say beside the refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The methods that the target allows, for 405.
    allow: &'static str,
    /// Whether the response must have no body, as for HEAD.
    without_body: bool,
    /// What is said in place of the refusal's own sentence.
    detail: Option<&'static str>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, allow: "GET", without_body: false, detail: None }
    }
}

impl Refused {
    /// The refusal of a request with this method.
    pub fn to(method: Method, refusal: Refusal) -> Self {
        Self { without_body: method == Method::Head, ..refusal.into() }
    }

    /// A refusal that says `detail` in place of its own sentence.
    pub fn with_detail(refusal: Refusal, detail: &'static str) -> Self {
        Self { detail: Some(detail), ..refusal.into() }
    }
}

/// Where the head at the start of `bytes` ends, the empty line included; `None` while it is not whole.
///
/// `searched` bytes were searched before and held no end. A head has at most `bytes_max`, its last empty line included.
///
/// # Errors
/// [`Refusal::UriTooLong`] or [`Refusal::HeadersTooLarge`] when the first `bytes_max` bytes hold no end.
pub fn head_end(bytes: &[u8], searched: usize, bytes_max: usize) -> Result<Option<usize>, Refusal> {
    let start = searched.saturating_sub(3);
    let limited = &bytes[..bytes.len().min(bytes_max)];
    let end = limited[start.min(limited.len())..].windows(4).position(|window| window == b"\r\n\r\n");
    match end {
        Some(position) => Ok(Some(start + position + 4)),
        None if bytes.len() < bytes_max => Ok(None),
        None if limited.windows(2).any(|window| window == b"\r\n") => Err(Refusal::HeadersTooLarge),
        None => Err(Refusal::UriTooLong),
    }
}

/// Reads a whole head: what [`head_end`] found, and nothing behind it.
///
/// # Errors
/// Why the request is not served, as RFC 6455 §4.2 and RFC 9112 have it.
pub fn parse(head: &[u8]) -> Result<Request<'_>, Refused> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut slots);
    match request.parse(head) {
        Ok(httparse::Status::Complete(end)) if end == head.len() && !has_bare_line_feed(head) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadersTooLarge.into()),
        Ok(_) | Err(_) => return Err(Refusal::BadRequest.into()),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::BadRequest.into());
    };
    let without_body = method == "HEAD";
    let refuse = |refusal, allow| Err(Refused { refusal, allow, without_body, detail: None });

    let Some(target) = origin_form(target) else { return refuse(Refusal::BadRequest, "GET") };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = Headers(request.headers);
    let upgrades = path == "/" || path == "/ws";
    let plain = PlainPath::from_path(path);
    if !upgrades && plain.is_none() {
        return refuse(Refusal::NotFound, "GET");
    }
    let (method, allow) = match (method, plain) {
        ("GET", _) => (Method::Get, "GET"),
        ("HEAD", Some(_)) => (Method::Head, "GET, HEAD"),
        (_, Some(_)) => return refuse(Refusal::MethodNotAllowed, "GET, HEAD"),
        (_, None) => return refuse(Refusal::MethodNotAllowed, "GET"),
    };
    if headers.announce_body() {
        return refuse(Refusal::Body, allow);
    }
    if headers.count("host") > 1 || version == 1 && headers.count("host") == 0 {
        return refuse(Refusal::BadRequest, allow);
    }
    if let Some(path) = plain {
        return Ok(Request::Plain { request: PlainRequest { method, path }, host: headers.values("host").next() });
    }
    let asks = headers.have_token("upgrade", "websocket") && headers.have_token("connection", "upgrade");
    if !asks || headers.only("sec-websocket-version") != Some("13") {
        return refuse(Refusal::UpgradeRequired, allow);
    }
    if version != 1 {
        return refuse(Refusal::BadRequest, allow);
    }
    let Some(key) = headers.only("sec-websocket-key").filter(|key| is_key(key)) else {
        return refuse(Refusal::BadKey, allow);
    };
    let offers_subprotocol = headers.items("sec-websocket-protocol").any(|offer| offer == SUBPROTOCOL.as_bytes());
    Ok(Request::Upgrade(Upgrade { query, head: head.trim_ascii_start(), key, offers_subprotocol }))
}

/// Appends the response that makes the connection a WebSocket (RFC 6455 §4.2.2).
pub fn write_switching_protocols(out: &mut Vec<u8>, upgrade: &Upgrade<'_>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(derive_accept_key(upgrade.key.as_bytes()).as_bytes());
    if upgrade.offers_subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(SUBPROTOCOL.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends the response of a refused request; the connection ends with it.
pub fn write_refusal(out: &mut Vec<u8>, refused: &Refused) {
    let Refused { refusal, allow, without_body, detail } = *refused;
    let status = refusal.status();
    let phrase = match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    };
    let more = match status {
        // RFC 6750 §3.
        401 => "WWW-Authenticate: Bearer realm=\"rollcall\"\r\nConnection: close\r\n".to_owned(),
        405 => format!("Allow: {allow}\r\nConnection: close\r\n"),
        426 => "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n".to_owned(),
        429 | 503 => format!("Retry-After: {RETRY_AFTER_SECONDS}\r\nConnection: close\r\n"),
        _ => "Connection: close\r\n".to_owned(),
    };
    let body = detail.map_or_else(|| format!("{refusal}\n"), |detail| format!("{detail}\n"));
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n{more}\r\n"
    );
    out.extend_from_slice(head.as_bytes());
    if !without_body {
        out.extend_from_slice(body.as_bytes());
    }
}

/// Whether a line ends without a carriage return, which proxies may read otherwise than we would (RFC 9112 §2.2).
fn has_bare_line_feed(head: &[u8]) -> bool {
    head.starts_with(b"\n") || head.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r')
}

/// The target without scheme and authority, which a request through a proxy may have (RFC 9112 §3.2.2).
///
/// `None` where others could find another query in it; a fragment is no part of a target.
fn origin_form(target: &str) -> Option<&str> {
    if target.contains('#') {
        return None;
    }
    if target.starts_with('/') {
        return Some(target);
    }
    let rest = target.strip_prefix("http://").or_else(|| target.strip_prefix("ws://"))?;
    path_after_authority(rest)
}

/// The path and query at the end of `rest`, an authority and what follows it; `None` where either is missing: a query
/// right behind the authority, in which a slash would not begin a path, is not taken for one.
pub fn path_after_authority(rest: &str) -> Option<&str> {
    let end = rest.find(['/', '?']).filter(|&end| end > 0)?;
    Some(&rest[end..]).filter(|path| path.starts_with('/'))
}

/// Whether `key` is 16 bytes in base64: 22 characters of its alphabet and two of padding (RFC 6455 §4.1).
fn is_key(key: &str) -> bool {
    key.len() == 24
        && key.ends_with("==")
        && key.as_bytes()[..22].iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

struct Headers<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'b> Headers<'_, 'b> {
    fn values(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    fn count(&self, name: &str) -> usize {
        self.values(name).count()
    }

    /// The value of a header that stands there once and is ASCII text.
    fn only(&self, name: &str) -> Option<&'b str> {
        let mut values = self.values(name);
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        std::str::from_utf8(value).ok().map(str::trim_ascii)
    }

    /// Whether one of the comma-separated lists under `name` holds `token`, in whatever case.
    fn have_token(&self, name: &str, token: &str) -> bool {
        self.items(name).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The items of the comma-separated lists under `name`.
    fn items(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.values(name).flat_map(|value| value.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
    }

    /// Whether a body follows, or might: any transfer coding, or a length other than one plain 0.
    fn announce_body(&self) -> bool {
        self.count("transfer-encoding") > 0 || self.values("content-length").any(|length| length.trim_ascii() != b"0")
    }
}

/// The body of the fuzz target `handshake`: any bytes are served or refused, the same however they are cut.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    const BYTES_MAX: usize = 8 * 1024;
    let whole = head_end(data, 0, BYTES_MAX);
    let mut pieces = Ok(None);
    for have in 1..=data.len() {
        pieces = head_end(&data[..have], have - 1, BYTES_MAX);
        if pieces != Ok(None) {
            break;
        }
    }
    assert_eq!(whole, pieces);
    let Ok(Some(end)) = whole else { return };
    let mut out = Vec::new();
    match parse(&data[..end]) {
        Ok(Request::Upgrade(upgrade)) => {
            write_switching_protocols(&mut out, &upgrade);
            assert_headers_are_those_of_httparse(&data[..end], &upgrade);
            assert!(out.starts_with(b"HTTP/1.1 101 "));
            assert_eq!(head_end(&out, 0, BYTES_MAX), Ok(Some(out.len())));
            let _ = super::query::Query::parse(upgrade.query);
        }
        Ok(Request::Plain { .. }) => {}
        Err(refused) => {
            write_refusal(&mut out, &refused);
            assert!(out.starts_with(format!("HTTP/1.1 {} ", refused.refusal.status()).as_bytes()));
        }
    }
}

fn assert_headers_are_those_of_httparse(head: &[u8], upgrade: &Upgrade<'_>) {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut slots);
    assert!(request.parse(head).is_ok());
    let parsed = request.headers.iter().map(|header| (header.name, header.value));
    assert!(parsed.eq(upgrade.headers()));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const UPGRADE: &str = "GET /?userId=ana HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn refusal(head: &str) -> Refusal {
        parse(head.as_bytes()).unwrap_err().refusal
    }

    #[test]
    fn the_sample_key_of_the_standard_gets_the_sample_answer() {
        let head = format!("{UPGRADE}\r\n");
        let Ok(Request::Upgrade(upgrade)) = parse(head.as_bytes()) else { panic!("refused") };
        assert_eq!(upgrade.query, "userId=ana");
        let mut out = Vec::new();
        write_switching_protocols(&mut out, &upgrade);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    }

    #[test]
    fn everybody_finds_the_same_query_in_a_target() {
        let head = |target: &str| format!("{UPGRADE}\r\n").replace("/?userId=ana", target);
        for target in
            ["http://x?userId=bob&a=/?userId=ana", "http:///?userId=ana", "/?userId=bob#", "http://x#/?userId=ana"]
        {
            assert_eq!(refusal(&head(target)), Refusal::BadRequest, "{target}");
        }
        let head = head("http://x/ws?userId=ana");
        let Ok(Request::Upgrade(upgrade)) = parse(head.as_bytes()) else { panic!("refused") };
        assert_eq!((upgrade.target(), upgrade.query), ("/ws?userId=ana", "userId=ana"));
        assert_eq!(refusal(&format!("\n{UPGRADE}\r\n")), Refusal::BadRequest);
    }

    #[test]
    fn headers_are_told_as_they_were_given() {
        let head = format!("{UPGRADE}Origin:\t https://a \r\nX-Empty:\r\norigin: a:b\r\nX-Raw: \u{e9}\r\n\r\n");
        let Ok(Request::Upgrade(upgrade)) = parse(head.as_bytes()) else { panic!("refused") };
        assert_headers_are_those_of_httparse(head.as_bytes(), &upgrade);
        assert!(upgrade.header("ORIGIN").eq([&b"https://a"[..], b"a:b"]));
        assert!(upgrade.header("x-empty").eq([&b""[..]]));
        assert_eq!(upgrade.target(), "/?userId=ana");
        let head = format!("\r\n{}", format!("{UPGRADE}\r\n").replace("ana", "a:b"));
        let Ok(Request::Upgrade(upgrade)) = parse(head.as_bytes()) else { panic!("refused") };
        assert_headers_are_those_of_httparse(head.as_bytes(), &upgrade);
        assert_eq!(upgrade.target(), "/?userId=a:b");
    }

    #[test]
    fn only_our_subprotocol_is_taken_and_extensions_never() {
        // A client fails the connection when another spelling comes back than it offered.
        for (offer, taken) in [
            ("rollcall.v1", true),
            ("graphql-ws, rollcall.v1", true),
            ("graphql-ws", false),
            ("ROLLCALL.V1", false),
            ("rollcall.v10", false),
        ] {
            let head = format!(
                "{UPGRADE}Sec-WebSocket-Protocol: {offer}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
            );
            let Ok(Request::Upgrade(upgrade)) = parse(head.as_bytes()) else { panic!("refused") };
            let mut out = Vec::new();
            write_switching_protocols(&mut out, &upgrade);
            let response = String::from_utf8(out).unwrap();
            assert_eq!(response.contains("Sec-WebSocket-Protocol: rollcall.v1\r\n"), taken, "{offer}");
            assert!(!response.contains("Extensions"));
        }
    }

    #[test]
    fn what_contradicts_the_standard_is_refused_with_its_own_reason() {
        let without = |line: &str| UPGRADE.replace(line, "") + "\r\n";
        assert_eq!(refusal(&without("Host: x\r\n")), Refusal::BadRequest);
        assert_eq!(refusal(&format!("{UPGRADE}Host: y\r\n\r\n")), Refusal::BadRequest);
        assert_eq!(refusal(&without("Upgrade: websocket\r\n")), Refusal::UpgradeRequired);
        assert_eq!(refusal(&without("Connection: keep-alive, Upgrade\r\n")), Refusal::UpgradeRequired);
        assert_eq!(refusal(&without("Sec-WebSocket-Version: 13\r\n")), Refusal::UpgradeRequired);
        assert_eq!(refusal(&without("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")), Refusal::BadKey);
        assert_eq!(refusal(&format!("{UPGRADE}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")), Refusal::BadKey);
        assert_eq!(
            refusal(&format!("{}\r\n", UPGRADE.replace("nonce", "")).replace("b25jZQ==", "b25jZQ=")),
            Refusal::BadKey
        );
        assert_eq!(refusal(&format!("{UPGRADE}Content-Length: 1\r\n\r\n")), Refusal::Body);
        assert_eq!(refusal(&format!("{UPGRADE}Transfer-Encoding: chunked\r\n\r\n")), Refusal::Body);
        assert_eq!(refusal(&format!("{}\r\n", UPGRADE.replace("GET", "POST"))), Refusal::MethodNotAllowed);
        assert_eq!(refusal(&format!("{}\r\n", UPGRADE.replace("/?", "/no?"))), Refusal::NotFound);
        assert_eq!(refusal(&format!("{}\r\n", UPGRADE.replace("HTTP/1.1", "HTTP/1.0"))), Refusal::BadRequest);
        assert_eq!(refusal(&format!("{}\r\n", UPGRADE.replace("Host: x\r\n", "Host: x\n"))), Refusal::BadRequest);
        assert_eq!(refusal(&format!("{}\r\n", UPGRADE.replace("Host: x", "Host : x"))), Refusal::BadRequest);
        assert_eq!(refusal("nonsense\r\n\r\n"), Refusal::BadRequest);
        assert_eq!(refusal("POST /health HTTP/1.1\r\nHost: x\r\n\r\n"), Refusal::MethodNotAllowed);
    }

    #[test]
    fn a_hundred_headers_are_served_and_one_more_is_not() {
        let more = |count: usize| format!("{UPGRADE}{}\r\n", "A: b\r\n".repeat(count));
        assert!(parse(more(HEADERS_MAX - 5).as_bytes()).is_ok());
        assert_eq!(refusal(&more(HEADERS_MAX - 4)), Refusal::HeadersTooLarge);
    }

    #[test]
    fn a_head_of_so_many_bytes_is_served_and_one_more_is_not() {
        const BYTES_MAX: usize = 8 * 1024;
        let padded = |bytes: usize| {
            let fixed = format!("{UPGRADE}A: \r\n\r\n").len();
            format!("{UPGRADE}A: {}\r\n\r\n", "x".repeat(bytes - fixed))
        };
        let end = |head: &str| head_end(head.as_bytes(), 0, BYTES_MAX);
        assert_eq!(end(&padded(BYTES_MAX)), Ok(Some(BYTES_MAX)));
        assert_eq!(end(&padded(BYTES_MAX + 1)), Err(Refusal::HeadersTooLarge));
        assert_eq!(end(&"G".repeat(BYTES_MAX - 1)), Ok(None));
        assert_eq!(end(&"G".repeat(BYTES_MAX)), Err(Refusal::UriTooLong));
    }

    #[test]
    fn plain_pages_are_recognised_with_their_method() {
        let request = parse(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let metrics = PlainRequest { method: Method::Head, path: PlainPath::Metrics };
        assert_eq!(request, Request::Plain { request: metrics, host: Some(b"x") });
        let request = parse(b"GET /health?x=y HTTP/1.0\r\n\r\n").unwrap();
        let health = PlainRequest { method: Method::Get, path: PlainPath::Health };
        assert_eq!(request, Request::Plain { request: health, host: None });
    }

    #[test]
    fn an_absolute_target_is_served_as_its_path() {
        let head = format!("{}\r\n", UPGRADE.replace("/?userId", "http://x/ws?userId"));
        assert!(matches!(parse(head.as_bytes()), Ok(Request::Upgrade(upgrade)) if upgrade.query == "userId=ana"));
    }
}
