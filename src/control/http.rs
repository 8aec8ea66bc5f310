//! HTTP/1.0 and 1.1 for plain pages: bytes → requests, answers → bytes (RFC 9110, RFC 9112). Sans-IO.
//!
//! Reading is strict, so that nothing between us and a client can read the same bytes otherwise: lines end in
//! CRLF, no folded headers, no blank before a colon, and no request with a body is served, whichever way the
//! body is announced. No page takes one.

use std::io::Write;
use std::sync::Arc;

use super::access::ControlAccess;
use crate::protocol::handshake::path_after_authority;
use crate::protocol::plain::{Method, PlainPath, PlainRequest};
use crate::protocol::timestamp::Timestamp;

/// The most bytes of a request's head, its last empty line included.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// The most headers of a request.
pub const HEADERS_MAX: usize = 100;

/// What becomes of the connection after an answer (RFC 9112 §9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// It ends, and the answer says so.
    Close,
    /// It stays, as HTTP/1.1 assumes.
    Keep,
    /// It stays because a client of HTTP/1.0 asked for it, and the answer says so.
    KeepAsAsked,
}

/// A request that has an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub plain: PlainRequest,
    /// What becomes of the connection.
    pub persistence: Persistence,
    /// The page that may read the answer in a browser, where one asks.
    pub reader: Option<Reader>,
}

/// A page of another origin that may read an answer in its browser
/// (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Its origin.
    pub origin: String,
    /// Whether its browser asks only whether it may.
    pub asks_first: bool,
}

/// A request that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// Whether the answer must have no body, because it is one to HEAD.
    pub without_body: bool,
    /// What becomes of the connection. It ends whenever it is not certain where the next request begins.
    pub persistence: Persistence,
}

impl Refused {
    fn and_close(refusal: Refusal) -> Self {
        Self { refusal, without_body: false, persistence: Persistence::Close }
    }

    /// The answer to a request that did not come in time.
    pub fn timeout() -> Self {
        Self::and_close(Refusal::Timeout)
    }

    /// The answer to a connection for which there is no place.
    pub fn busy() -> Self {
        Self::and_close(Refusal::Busy)
    }
}

/// Why a request has no page for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No HTTP request, or one that contradicts itself.
    #[error("The request is not valid HTTP/1.1.")]
    BadRequest,
    /// GET or HEAD with a body.
    #[error("A request for a page must not have a body.")]
    Body,
    /// A page that needs a key.
    #[error("A key is needed here: Authorization: Bearer, with a key of control_keys_file.")]
    Unauthorized,
    /// A host that is not in `allowed_hosts`, and no address.
    #[error("This is not the host that the request is for.")]
    Host,
    /// A path without a page.
    #[error("There is no such page: /health, /health/live, /health/ready and /metrics are here.")]
    NotFound,
    /// A method that pages do not take.
    #[error("Pages take GET and HEAD.")]
    MethodNotAllowed,
    /// The head did not come in time.
    #[error("The request took too long to arrive.")]
    Timeout,
    /// The request line alone is longer than [`HEAD_BYTES_MAX`].
    #[error("The request line is longer than 8 KiB.")]
    UriTooLong,
    /// The head is longer than [`HEAD_BYTES_MAX`] or has more than [`HEADERS_MAX`] headers.
    #[error("The request's headers are larger than 8 KiB or more than 100.")]
    HeadersTooLarge,
    /// Every connection that the control port may have is at work.
    #[error("Too many connections to the control port; try again later.")]
    Busy,
    /// HTTP of another version than 1.0 and 1.1.
    #[error("HTTP/1.1 and HTTP/1.0 are spoken here.")]
    VersionNotSupported,
}

impl Refusal {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::Body => 400,
            Self::Unauthorized => 401,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::UriTooLong => 414,
            Self::Host => 421,
            Self::HeadersTooLarge => 431,
            Self::Busy => 503,
            Self::VersionNotSupported => 505,
        }
    }
}

/// Takes one connection's bytes as they come and gives its requests, in order.
///
/// ```text
///  pending:  | a request that was cut … | what follows it
///            0          scanned
/// ```
#[derive(Debug)]
pub struct RequestReader {
    access: Arc<ControlAccess>,
    pending: Vec<u8>,
    /// Bytes at the start of `pending` that were looked at and hold no end of a head.
    /// 0 <= `scanned` <= `pending.len()`, and less than [`HEAD_BYTES_MAX`].
    scanned: usize,
    /// Whether an empty line before the present request was skipped already.
    skipped_line: bool,
    ended: bool,
}

impl RequestReader {
    /// A reader for a new connection, of which `access` is asked.
    pub fn new(access: Arc<ControlAccess>) -> Self {
        Self { access, pending: Vec::new(), scanned: 0, skipped_line: false, ended: false }
    }

    /// Takes bytes from the peer; they wait until [`Self::next_request`] comes to them. What comes after the
    /// last request is thrown away.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !self.ended {
            self.pending.extend_from_slice(bytes);
        }
    }

    /// The next request, or why there is none; `None` until more bytes have come.
    /// After one with [`Persistence::Close`] nothing more is read.
    pub fn next_request(&mut self) -> Option<Result<Request, Refused>> {
        let outcome = match self.head_length()? {
            Ok(length) => {
                let outcome = parse(&self.pending[..length], &self.access);
                self.pending.drain(..length);
                self.scanned = 0;
                self.skipped_line = false;
                outcome
            }
            Err(refusal) => Err(Refused::and_close(refusal)),
        };
        let (Ok(Request { persistence, .. }) | Err(Refused { persistence, .. })) = outcome;
        if persistence == Persistence::Close {
            self.end();
        }
        Some(outcome)
    }

    /// Reads nothing more.
    pub fn end(&mut self) {
        *self = Self { ended: true, ..Self::new(Arc::clone(&self.access)) };
    }

    /// Whether the last request was read.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether a request has begun and not ended.
    pub fn is_inside_request(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The length of the head at the start of what is pending, or why there will be none; `None` while it is cut.
    /// Every byte is looked at once, and judged by those before it alone: however the bytes were cut, the outcome
    /// is the same.
    fn head_length(&mut self) -> Option<Result<usize, Refusal>> {
        // RFC 9112 §2.2: an empty line before a request is skipped; some clients send one after a body.
        if !self.skipped_line && self.scanned <= 1 && self.pending.starts_with(b"\r\n") {
            self.pending.drain(..2);
            self.scanned = 0;
            self.skipped_line = true;
        }
        while let Some(&byte) = self.pending.get(self.scanned) {
            let before = &self.pending[..self.scanned];
            let after_return = before.last() == Some(&b'\r');
            let is_text = byte >= b' ' && byte != 0x7f || byte == b'\t';
            let is_second_empty_line = self.skipped_line && self.scanned == 0 && byte == b'\r';
            if after_return != (byte == b'\n') || !(is_text || matches!(byte, b'\r' | b'\n')) || is_second_empty_line {
                return Some(Err(Refusal::BadRequest));
            }
            if byte == b'\n' && before.ends_with(b"\r\n\r") {
                return Some(Ok(self.scanned + 1));
            }
            if self.scanned + 1 == HEAD_BYTES_MAX {
                let in_first_line = !before.contains(&b'\n');
                return Some(Err(if in_first_line { Refusal::UriTooLong } else { Refusal::HeadersTooLarge }));
            }
            self.scanned += 1;
        }
        None
    }
}

/// Reads a whole head, and nothing behind it.
fn parse(head: &[u8], access: &ControlAccess) -> Result<Request, Refused> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut slots);
    let refusal = match parsed.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => None,
        Err(httparse::Error::TooManyHeaders) => Some(Refusal::HeadersTooLarge),
        Err(httparse::Error::Version) if names_a_version(head) => Some(Refusal::VersionNotSupported),
        _ => Some(Refusal::BadRequest),
    };
    let without_body = parsed.method == Some("HEAD");
    let close = |refusal| Err(Refused { refusal, without_body, persistence: Persistence::Close });
    if let Some(refusal) = refusal {
        return close(refusal);
    }
    let (Some(method), Some(target), Some(minor_version)) = (parsed.method, parsed.path, parsed.version) else {
        return close(Refusal::BadRequest);
    };
    let headers = Headers(parsed.headers);
    let Some(path) = origin_form(target) else { return close(Refusal::BadRequest) };
    // RFC 9112 §3.2: one Host, which HTTP/1.0 may leave out.
    if headers.count("host") > 1 || minor_version == 1 && headers.count("host") == 0 {
        return close(Refusal::BadRequest);
    }
    let Some(has_body) = headers.announce_body(minor_version) else { return close(Refusal::BadRequest) };
    let origin = access.origin(headers.values("origin"));
    // Such a question has no credentials, and its answer is but which headers the real one may have.
    let asks_first = method == "OPTIONS" && origin.is_some() && headers.count("access-control-request-method") == 1;
    let reader = origin.map(|origin| Reader { origin: origin.to_owned(), asks_first });
    let method = if asks_first { Some(Method::Head) } else { Method::from_name(method) };
    if has_body && method.is_some() {
        return close(Refusal::Body);
    }
    let persistence = if has_body { Persistence::Close } else { headers.persistence(minor_version) };
    let refuse = |refusal| Err(Refused { refusal, without_body, persistence });
    match (PlainPath::from_path(path), method) {
        (None, _) => refuse(Refusal::NotFound),
        (Some(_), None) => refuse(Refusal::MethodNotAllowed),
        (Some(path), Some(_)) if !access.knows_host(path, headers.values("host").next()) => refuse(Refusal::Host),
        (Some(path), Some(_)) if !asks_first && !access.admit(path, headers.values("authorization")) => {
            refuse(Refusal::Unauthorized)
        }
        (Some(path), Some(method)) => Ok(Request { plain: PlainRequest { method, path }, persistence, reader }),
    }
}

/// Whether the first line is a request line, of whatever version of HTTP.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ').skip(2);
    let (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None) = (words.next(), words.next()) else {
        return false;
    };
    major.is_ascii_digit() && minor.is_ascii_digit()
}

/// The target's path and query, without the scheme and authority that a request through a proxy may have
/// (RFC 9112 §3.2).
fn origin_form(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    path_after_authority(rest).filter(|_| is_http)
}

struct Headers<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'b> Headers<'_, 'b> {
    fn values(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }

    fn count(&self, name: &str) -> usize {
        self.values(name).count()
    }

    /// Whether a body follows; `None` where readers could disagree about it (RFC 9112 §6.1, §6.3).
    fn announce_body(&self, minor_version: u8) -> Option<bool> {
        let is_coded = self.count("transfer-encoding") > 0;
        let mut lengths = self.values("content-length");
        let Some(length) = lengths.next() else {
            // HTTP/1.0 has no transfer codings.
            return (!is_coded || minor_version == 1).then_some(is_coded);
        };
        let is_certain =
            lengths.next().is_none() && !is_coded && !length.is_empty() && length.iter().all(u8::is_ascii_digit);
        is_certain.then(|| length.iter().any(|&digit| digit != b'0'))
    }

    fn persistence(&self, minor_version: u8) -> Persistence {
        let has_option = |option: &str| {
            self.values("connection")
                .flat_map(|value| value.split(|&byte| byte == b','))
                .any(|item| item.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
        };
        match minor_version {
            _ if has_option("close") => Persistence::Close,
            1 => Persistence::Keep,
            _ if has_option("keep-alive") => Persistence::KeepAsAsked,
            _ => Persistence::Close,
        }
    }
}

/// The answer to a request: all of it but what the connection decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The body, also where only its headers are asked for.
    pub body: &'a [u8],
}

/// Appends `response` to `request`, its body only for GET.
pub fn write_response(out: &mut Vec<u8>, response: &Response<'_>, request: &Request, now_unix_ms: u64) {
    let more = match &request.reader {
        None => String::new(),
        Some(reader) => format!("Access-Control-Allow-Origin: {}\r\nVary: Origin\r\n", reader.origin),
    };
    let without_body = request.plain.method == Method::Head;
    write_message(out, response, &more, without_body, request.persistence, now_unix_ms);
}

/// Appends the answer to a browser that asks whether a page of `reader` may ask; `None` where it does not ask that.
pub fn write_permission(out: &mut Vec<u8>, request: &Request, now_unix_ms: u64) -> Option<()> {
    let Reader { origin, .. } = request.reader.as_ref().filter(|reader| reader.asks_first)?;
    let more = format!(
        "Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\nAccess-Control-Allow-Methods: {}\r\n\
         Access-Control-Allow-Headers: Authorization\r\nAccess-Control-Max-Age: 600\r\n",
        Method::ALLOWED
    );
    let response = Response { status: 200, content_type: "text/plain; charset=utf-8", body: b"" };
    write_message(out, &response, &more, true, request.persistence, now_unix_ms);
    Some(())
}

/// Appends the answer to a request that has no page for one.
pub fn write_refusal(out: &mut Vec<u8>, refused: &Refused, now_unix_ms: u64) {
    let Refused { refusal, without_body, persistence } = *refused;
    let body = format!("{refusal}\n");
    let response =
        Response { status: refusal.status(), content_type: "text/plain; charset=utf-8", body: body.as_bytes() };
    let allow = format!("Allow: {}\r\n", Method::ALLOWED);
    let more = match refusal {
        Refusal::MethodNotAllowed => allow.as_str(),
        Refusal::Busy => "Retry-After: 5\r\n",
        Refusal::Unauthorized => "WWW-Authenticate: Bearer realm=\"rollcall control\"\r\n",
        _ => "",
    };
    write_message(out, &response, more, without_body, persistence, now_unix_ms);
}

/// `more` are headers, each with its line's end. Writing to a `Vec` cannot fail, so what `write!` returns is ignored.
fn write_message(
    out: &mut Vec<u8>,
    response: &Response<'_>,
    more: &str,
    without_body: bool,
    persistence: Persistence,
    now_unix_ms: u64,
) {
    let Response { status, content_type, body } = response;
    let connection = match persistence {
        Persistence::Close => "Connection: close\r\n",
        Persistence::Keep => "",
        Persistence::KeepAsAsked => "Connection: keep-alive\r\n",
    };
    let _ = write!(
        out,
        "HTTP/1.1 {status} {}\r\nDate: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\n{more}{connection}\r\n",
        phrase(*status),
        imf_fixdate(now_unix_ms),
        body.len(),
    );
    if !without_body {
        out.extend_from_slice(body);
    }
}

/// The words beside a status. Nobody reads them by machine (RFC 9112 §4).
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// The moment as the header `Date` has it, `Wed, 25 Nov 2026 03:54:45 GMT` (RFC 9110 §5.6.7).
fn imf_fixdate(unix_ms: u64) -> String {
    // 1 January 1970 was a Thursday.
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let iso = Timestamp::from_unix_ms(unix_ms);
    let iso = iso.as_str();
    let field = |from: usize, to: usize| iso.get(from..to).unwrap_or_default();
    let month = field(5, 7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.checked_sub(1)?));
    format!(
        "{}, {} {} {} {} GMT",
        DAYS[(unix_ms / 86_400_000 % 7) as usize],
        field(8, 10),
        month.copied().unwrap_or_default(),
        field(0, 4),
        field(11, 19)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::{Config, ControlPages};

    const NOW_MS: u64 = 1_795_578_885_123;

    type Outcome = Result<Request, Refused>;

    fn read_all(reader: &mut RequestReader) -> Vec<Outcome> {
        std::iter::from_fn(|| reader.next_request()).collect()
    }

    fn access() -> Arc<ControlAccess> {
        Arc::new(ControlAccess::new(&Config::default()).unwrap())
    }

    fn outcomes(bytes: &[u8]) -> Vec<Outcome> {
        let mut reader = RequestReader::new(access());
        reader.feed(bytes);
        read_all(&mut reader)
    }

    fn only(text: &str) -> Outcome {
        let outcomes = outcomes(text.as_bytes());
        assert_eq!(outcomes.len(), 1, "{text:?} gave {outcomes:?}");
        outcomes[0].clone()
    }

    fn get(path: PlainPath, persistence: Persistence) -> Outcome {
        Ok(Request { plain: PlainRequest { method: Method::Get, path }, persistence, reader: None })
    }

    fn closing(refusal: Refusal) -> Outcome {
        Err(Refused::and_close(refusal))
    }

    /// A request for `/health` with `more` headers, each with its line's end.
    fn health(more: &str) -> String {
        format!("GET /health HTTP/1.1\r\nHost: x\r\n{more}\r\n")
    }

    #[test]
    fn connections_stay_or_end_as_the_version_and_the_options_say() {
        for (version, options, persistence) in [
            ("1.1", "", Persistence::Keep),
            ("1.1", "Connection: close\r\n", Persistence::Close),
            ("1.1", "Connection: TE, Close\r\n", Persistence::Close),
            ("1.1", "Connection: keep-alive\r\n", Persistence::Keep),
            ("1.0", "", Persistence::Close),
            ("1.0", "Connection: Keep-Alive\r\n", Persistence::KeepAsAsked),
            ("1.0", "Connection: keep-alive\r\nConnection: close\r\n", Persistence::Close),
        ] {
            let text = format!("GET /health HTTP/{version}\r\nHost: x\r\n{options}\r\n");
            assert_eq!(only(&text), get(PlainPath::Health, persistence), "{text:?}");
        }
    }

    #[test]
    fn pipelined_requests_come_out_in_order_and_nothing_after_the_last() {
        let text = "GET /health HTTP/1.1\r\nHost: x\r\n\r\nHEAD /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n\
                    \r\nGET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n\
                    GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n";
        let metrics = PlainRequest { method: Method::Head, path: PlainPath::Metrics };
        assert_eq!(
            outcomes(text.as_bytes()),
            [
                get(PlainPath::Health, Persistence::Keep),
                Ok(Request { plain: metrics, persistence: Persistence::Keep, reader: None }),
                get(PlainPath::HealthLive, Persistence::Close),
            ]
        );
    }

    #[test]
    fn metrics_are_read_from_a_page_only_by_a_name_of_this_host() {
        let config = Config { allowed_hosts: vec!["chat.example".to_owned()], ..Config::default() };
        let access = Arc::new(ControlAccess::new(&config).unwrap());
        let asked = |text: &str| {
            let mut reader = RequestReader::new(Arc::clone(&access));
            reader.feed(text.as_bytes());
            read_all(&mut reader)
        };
        let refused = Refused { refusal: Refusal::Host, without_body: false, persistence: Persistence::Keep };
        assert_eq!(asked("GET /metrics HTTP/1.1\r\nHost: evil.example:3001\r\n\r\n"), [Err(refused)]);
        for (head, path, persistence) in [
            ("GET /metrics HTTP/1.1\r\nHost: chat.example", PlainPath::Metrics, Persistence::Keep),
            ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:3001", PlainPath::Metrics, Persistence::Keep),
            ("GET /metrics HTTP/1.0", PlainPath::Metrics, Persistence::Close),
            ("GET /health HTTP/1.1\r\nHost: evil.example", PlainPath::Health, Persistence::Keep),
        ] {
            assert_eq!(asked(&format!("{head}\r\n\r\n")), [get(path, persistence)], "{head}");
        }
    }

    /// What every test of the wire below holds against being cut.
    fn corpus() -> Vec<Vec<u8>> {
        let mut corpus: Vec<Vec<u8>> = [
            "GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /no HTTP/1.1\r\nHost: x\r\n\r\nPOST /health HTTP/1.1\r\nHost: x\r\n\r\n",
            "\r\nGET /health HTTP/1.0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
            "\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /health HTTP/1.1\nHost: x\n\n",
            "GET /health HTTP/1.1\r\nHost: x\r\rA: b\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: x\r\n Folded: y\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
            "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /health HTTP/1.1\r\n\r\n",
            "\x16\x03\x01\x02\x00",
        ]
        .into_iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
        corpus.push(vec![b'G'; HEAD_BYTES_MAX + 1]);
        corpus.push(health(&format!("A: {}\r\n", "b".repeat(HEAD_BYTES_MAX))).into_bytes());
        corpus
    }

    #[test]
    fn bytes_cut_anywhere_give_the_same_requests() {
        for bytes in corpus() {
            let whole = outcomes(&bytes);
            for cut in 0..=bytes.len() {
                let mut reader = RequestReader::new(access());
                reader.feed(&bytes[..cut]);
                let mut pieces = read_all(&mut reader);
                reader.feed(&bytes[cut..]);
                pieces.extend(read_all(&mut reader));
                assert_eq!(pieces, whole, "cut at {cut} of {:?}", String::from_utf8_lossy(&bytes));
            }
            let mut reader = RequestReader::new(access());
            let mut single = Vec::new();
            for byte in &bytes {
                reader.feed(&[*byte]);
                single.extend(read_all(&mut reader));
            }
            assert_eq!(single, whole);
        }
    }

    #[test]
    fn a_head_is_bounded_to_the_byte() {
        let padded = |length: usize| {
            let fixed = health("A: \r\n").len();
            health(&format!("A: {}\r\n", "x".repeat(length - fixed)))
        };
        for length in [HEAD_BYTES_MAX - 1, HEAD_BYTES_MAX] {
            assert_eq!(only(&padded(length)), get(PlainPath::Health, Persistence::Keep));
        }
        assert_eq!(only(&padded(HEAD_BYTES_MAX + 1)), closing(Refusal::HeadersTooLarge));
        assert_eq!(outcomes("G".repeat(HEAD_BYTES_MAX - 1).as_bytes()), []);
        assert_eq!(only(&"G".repeat(HEAD_BYTES_MAX)), closing(Refusal::UriTooLong));
    }

    #[test]
    fn an_empty_line_before_a_request_is_skipped_also_when_it_is_cut() {
        let mut reader = RequestReader::new(access());
        for piece in [b"\r", b"\n"] {
            reader.feed(piece);
            assert_eq!(reader.next_request(), None);
        }
        assert!(!reader.is_inside_request());
        reader.feed(health("").as_bytes());
        assert_eq!(reader.next_request(), Some(get(PlainPath::Health, Persistence::Keep)));
    }

    #[test]
    fn headers_are_bounded_in_number() {
        for (count, outcome) in [
            (HEADERS_MAX - 1, get(PlainPath::Health, Persistence::Keep)),
            (HEADERS_MAX, get(PlainPath::Health, Persistence::Keep)),
            (HEADERS_MAX + 1, closing(Refusal::HeadersTooLarge)),
        ] {
            // One of them is Host.
            assert_eq!(only(&health(&"A: b\r\n".repeat(count - 1))), outcome, "{count}");
        }
    }

    #[test]
    fn what_another_reader_could_read_otherwise_ends_the_connection() {
        for more in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 0\r\nContent-Length: 0\r\n",
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x0\r\n",
            "Content-Length:\r\n",
            "Content-Length : 5\r\n",
            "Content-Length: 0\r\n folded: x\r\n",
            " Content-Length: 5\r\n",
            "Host: y\r\n",
            ": x\r\n",
            "no colon\r\n",
            "A: b\rC: d\r\n",
            "A: b\nContent-Length: 5\r\n",
            "A: \0\r\n",
            "A\u{b}: x\r\n",
        ] {
            assert_eq!(only(&health(more)), closing(Refusal::BadRequest), "{more:?}");
        }
        for text in [
            "GET /health HTTP/1.1\r\n\r\n",
            "GET  /health HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /health  HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /health\r\nHost: x\r\n\r\n",
            "GET health HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET ftp://x/health HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET http:///health HTTP/1.1\r\nHost: x\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /health FTP/1.1\r\nHost: x\r\n\r\n",
            "GET /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n",
            "\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n",
            "\r\r\n",
        ] {
            assert_eq!(only(text), closing(Refusal::BadRequest), "{text:?}");
        }
    }

    #[test]
    fn a_page_is_not_asked_for_with_a_body() {
        for more in
            ["Content-Length: 5\r\n", "Content-Length: 99999999999999999999999\r\n", "Transfer-Encoding: chunked\r\n"]
        {
            assert_eq!(only(&format!("{}GET ", health(more))), closing(Refusal::Body), "{more:?}");
        }
        assert_eq!(only(&health("Content-Length: 0\r\n")), get(PlainPath::Health, Persistence::Keep));
    }

    #[test]
    fn refused_requests_without_a_body_leave_the_connection_open() {
        let refused = |refusal, without_body, persistence| Err(Refused { refusal, without_body, persistence });
        for (text, outcome) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", refused(Refusal::NotFound, false, Persistence::Keep)),
            ("HEAD /ws HTTP/1.1\r\nHost: x\r\n\r\n", refused(Refusal::NotFound, true, Persistence::Keep)),
            ("POST /no HTTP/1.1\r\nHost: x\r\n\r\n", refused(Refusal::NotFound, false, Persistence::Keep)),
            (
                "DELETE /health HTTP/1.1\r\nHost: x\r\n\r\n",
                refused(Refusal::MethodNotAllowed, false, Persistence::Keep),
            ),
            ("get /health HTTP/1.1\r\nHost: x\r\n\r\n", refused(Refusal::MethodNotAllowed, false, Persistence::Keep)),
            ("POST /health HTTP/1.0\r\n\r\n", refused(Refusal::MethodNotAllowed, false, Persistence::Close)),
            (
                "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n",
                refused(Refusal::MethodNotAllowed, false, Persistence::Close),
            ),
        ] {
            assert_eq!(only(text), outcome, "{text:?}");
        }
    }

    #[test]
    fn other_versions_are_told_that_they_are() {
        for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9"] {
            let text = format!("GET /health {version}\r\nHost: x\r\n\r\n");
            assert_eq!(only(&text), closing(Refusal::VersionNotSupported), "{version}");
        }
    }

    #[test]
    fn an_absolute_target_is_served_as_its_path() {
        let text = "GET http://x:3001/metrics?a HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(only(text), get(PlainPath::Metrics, Persistence::Keep));
    }

    #[test]
    fn an_answer_to_head_has_the_length_of_a_body_that_does_not_come() {
        let response = Response { status: 200, content_type: "text/plain", body: b"hello" };
        let written = |method, persistence| {
            let mut out = Vec::new();
            let plain = PlainRequest { method, path: PlainPath::Health };
            write_response(&mut out, &response, &Request { plain, persistence, reader: None }, NOW_MS);
            String::from_utf8(out).unwrap()
        };
        let head = "HTTP/1.1 200 OK\r\nDate: Wed, 25 Nov 2026 03:54:45 GMT\r\nContent-Type: text/plain\r\n\
                    Content-Length: 5\r\nCache-Control: no-store\r\n";
        assert_eq!(written(Method::Get, Persistence::Close), format!("{head}Connection: close\r\n\r\nhello"));
        assert_eq!(written(Method::Head, Persistence::Keep), format!("{head}\r\n"));
        assert_eq!(written(Method::Head, Persistence::KeepAsAsked), format!("{head}Connection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn a_refused_method_is_told_the_allowed_ones() {
        let mut out = Vec::new();
        let Err(refused) = only("PUT /metrics HTTP/1.1\r\nHost: x\r\n\r\n") else { panic!("served") };
        write_refusal(&mut out, &refused, NOW_MS);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n") && text.contains("\r\nAllow: GET, HEAD\r\n"));
        assert!(text.ends_with("\r\n\r\nPages take GET and HEAD.\n") && text.contains("\r\nContent-Length: 25\r\n"));
    }

    #[test]
    fn a_page_that_needs_a_key_is_refused_without_one_and_the_connection_stays() {
        let config = Config {
            control_open_pages: ControlPages::None,
            control_listen: "0.0.0.0:0".parse().unwrap(),
            ..Config::default()
        };
        let mut reader = RequestReader::new(Arc::new(ControlAccess::new(&config).unwrap()));
        reader.feed(health("Authorization: Bearer x\r\n").as_bytes());
        let Some(Err(refused)) = reader.next_request() else { panic!("served") };
        assert_eq!((refused.refusal, refused.persistence), (Refusal::Unauthorized, Persistence::Keep));
        let mut out = Vec::new();
        write_refusal(&mut out, &refused, NOW_MS);
        assert!(String::from_utf8(out).unwrap().contains("\r\nWWW-Authenticate: Bearer "));
    }

    #[test]
    fn a_browser_that_asks_first_is_told_what_a_named_page_may() {
        let config = Config { control_cors_origins: vec!["https://console.example".to_owned()], ..Config::default() };
        let access = Arc::new(ControlAccess::new(&config).unwrap());
        let read = |text: String| {
            let mut reader = RequestReader::new(Arc::clone(&access));
            reader.feed(text.as_bytes());
            reader.next_request().unwrap()
        };
        let asking = |origin: &str| {
            let headers = format!("Host: x\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: GET\r\n");
            format!("OPTIONS /metrics HTTP/1.1\r\n{headers}\r\n")
        };
        let request = read(asking("https://console.example")).unwrap();
        let mut out = Vec::new();
        assert!(write_permission(&mut out, &request, NOW_MS).is_some());
        let answer = String::from_utf8(out).unwrap();
        for part in
            ["HTTP/1.1 200 OK\r\n", "Allow-Origin: https://console.example\r\n", "Allow-Headers: Authorization\r\n"]
        {
            assert!(answer.contains(part), "{part} in {answer}");
        }
        assert_eq!(read(asking("https://evil.example")).unwrap_err().refusal, Refusal::MethodNotAllowed);
        let request = read(health("Origin: https://console.example\r\n")).unwrap();
        let mut out = Vec::new();
        assert!(write_permission(&mut out, &request, NOW_MS).is_none());
        write_response(&mut out, &Response { status: 200, content_type: "text/plain", body: b"" }, &request, NOW_MS);
        assert!(
            String::from_utf8(out).unwrap().contains("\r\nAccess-Control-Allow-Origin: https://console.example\r\n")
        );
        assert_eq!(read(health("Origin: https://evil.example\r\n")).unwrap().reader, None);
    }

    #[test]
    fn every_refusal_has_a_status_with_a_phrase() {
        for refusal in [
            Refusal::BadRequest,
            Refusal::Body,
            Refusal::Unauthorized,
            Refusal::Host,
            Refusal::NotFound,
            Refusal::MethodNotAllowed,
            Refusal::Timeout,
            Refusal::UriTooLong,
            Refusal::HeadersTooLarge,
            Refusal::Busy,
            Refusal::VersionNotSupported,
        ] {
            assert!(!phrase(refusal.status()).is_empty(), "{refusal:?}");
        }
    }

    #[test]
    fn dates_are_right_at_the_ends_of_years_and_days() {
        assert_eq!(imf_fixdate(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(imf_fixdate(951_868_799_999), "Tue, 29 Feb 2000 23:59:59 GMT");
        assert_eq!(imf_fixdate(1_798_761_600_000), "Fri, 01 Jan 2027 00:00:00 GMT");
    }
}
