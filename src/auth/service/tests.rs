//! The service against a small HTTP server of the tests' own.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::unbounded;

use super::*;
use crate::protocol::handshake::{Request, parse};

/// Generous: no test waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that gives the same answer to everybody, and keeps what it was asked.
struct Operator {
    url: String,
    asked: Receiver<String>,
    count: Arc<AtomicUsize>,
}

impl Operator {
    /// Answers with `answer`, a whole response; never where it is empty.
    fn answering(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/check?a=b", listener.local_addr().unwrap());
        let (sender, asked) = unbounded();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let mut reader = BufReader::new(socket.try_clone().unwrap());
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|length| length > 0) {}
                    if head.is_empty() {
                        break;
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    if sender.send(head).is_err() {
                        return;
                    }
                    if answer.is_empty() {
                        thread::park();
                    }
                    socket.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        Self { url, asked, count }
    }

    fn asked(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

const UPGRADE: &str = "GET /ws?userId=ana HTTP/1.1\r\nHost: chat.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn question(headers: &str) -> Question {
    let head = format!("{UPGRADE}{headers}\r\n");
    let Ok(Request::Upgrade(upgrade)) = parse(head.as_bytes()) else { panic!("refused") };
    Question::new(&upgrade)
}

fn config(url: &str) -> Config {
    // One thread, since the operator here serves one connection at a time.
    Config {
        auth_url: Some(url.to_owned()),
        auth_threads: 1,
        auth_timeout: Duration::from_secs(10),
        ..Config::default()
    }
}

fn ask(service: &Service, question: Question) -> Answer {
    let (sender, answers) = unbounded();
    let asked = service.ask(question, Box::new(move |answer| sender.send(answer).unwrap()));
    match asked {
        Ok(()) => answers.recv_timeout(PATIENCE).unwrap(),
        Err(answer) => *answer,
    }
}

fn settled(answer: &'static str, change: impl FnOnce(&mut Config)) -> Answer {
    let operator = Operator::answering(answer);
    let mut config = config(&operator.url);
    change(&mut config);
    ask(&Service::start(&config).unwrap().unwrap(), question(""))
}

fn denial(answer: &'static str) -> Option<(Denial, Outcome)> {
    let Answer { verdict, outcome, .. } = settled(answer, |_| {});
    verdict.err().map(|denial| (denial, outcome))
}

#[test]
fn a_client_is_let_in_with_the_claims_that_the_service_answers() {
    let answer = settled(
        "HTTP/1.1 200 OK\r\nContent-Length: 71\r\n\r\n{\"sub\":\"ana\",\"exp\":9999999999,\"watch\":[\"bob\"],\
         \"in\":[\"r1\"],\"allow\":true}",
        |_| {},
    );
    let grant = answer.verdict.unwrap();
    assert_eq!((grant.user_id().unwrap().as_str(), grant.expires_s), ("ana", Some(9_999_999_999)));
    assert!(!grant.reach.unwrap().may_watch("eve"));
    assert_eq!(answer.outcome, Outcome::Allowed);
    for empty in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\r\n"] {
        let grant = settled(empty, |_| {}).verdict.unwrap();
        assert!(grant.user_id().is_none() && grant.expires_s.is_none() && grant.reach.is_none());
    }
}

#[test]
fn a_client_is_kept_out_when_the_service_says_so() {
    let denied = Some((Denial::Denied, Outcome::Denied));
    assert_eq!(denial("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"), denied);
    assert_eq!(denial("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), denied);
    assert_eq!(denial("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"allow\":false}"), denied);
    let expired = Some((Denial::Expired, Outcome::Denied));
    assert_eq!(denial("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"exp\":1}"), expired);
}

#[test]
fn what_is_no_answer_is_a_failure_and_keeps_clients_out_unless_told_otherwise() {
    for answer in [
        "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes",
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"exp\":\"1\"}",
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"allow\":1}",
        "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let answer = settled(answer, |config| config.auth_timeout = Duration::from_millis(500));
        assert_eq!((answer.verdict.unwrap_err(), answer.outcome), (Denial::Unavailable, Outcome::Failed));
    }
    let answer = settled("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", |config| {
        config.auth_failure = AuthFailure::Open;
        config.default_reach = DefaultReach::None;
    });
    let grant = answer.verdict.unwrap();
    assert!(grant.user_id().is_none() && !grant.reach.unwrap().may_watch("bob"));
    assert_eq!(answer.outcome, Outcome::Failed);
}

#[test]
fn a_service_that_does_not_answer_is_not_waited_for_beyond_the_deadline() {
    let answer = settled("", |config| config.auth_timeout = Duration::from_millis(100));
    assert_eq!((answer.verdict.unwrap_err(), answer.outcome), (Denial::Unavailable, Outcome::Failed));
    assert!(answer.took >= Duration::from_millis(100));
    // Nobody listens there.
    let answer = settled("", |config| config.auth_url = Some("http://127.0.0.1:1/".to_owned()));
    assert_eq!(answer.outcome, Outcome::Failed);
}

#[test]
fn the_service_is_told_what_the_client_said_and_nothing_that_the_client_made_up_about_itself() {
    let operator = Operator::answering("HTTP/1.1 204 No Content\r\n\r\n");
    let service = Service::start(&config(&operator.url)).unwrap().unwrap();
    let headers = "Cookie: session=1\r\nAuthorization: Bearer abc\r\nX-Forwarded-Host: evil\r\nx-real-ip: 10.0.0.1\r\n\
        X-forwarded-user: root\r\nForwarded: for=evil\r\nTE: trailers\r\nOrigin: https://app.example\r\n\
        Sec-WebSocket-Protocol: rollcall.v1\r\n";
    assert!(ask(&service, question(headers)).verdict.is_ok());
    let head = operator.asked.recv_timeout(PATIENCE).unwrap().to_lowercase();
    assert!(head.starts_with("get /check?a=b http/1.1\r\n"), "{head}");
    for said in [
        "cookie: session=1\r\n",
        "authorization: bearer abc\r\n",
        "origin: https://app.example\r\n",
        "sec-websocket-protocol: rollcall.v1\r\n",
        "x-forwarded-uri: /ws?userid=ana\r\n",
        "x-forwarded-method: get\r\n",
        "x-forwarded-host: chat.example\r\n",
        "host: 127.0.0.1",
    ] {
        assert!(head.contains(said), "{said} in {head}");
    }
    for unsaid in ["evil", "root", "10.0.0.1", "trailers", "upgrade", "sec-websocket-key", "\r\nhost: chat.example"] {
        assert!(!head.contains(unsaid), "{unsaid} in {head}");
    }
}

#[test]
fn an_answer_is_remembered_as_long_as_it_says_for_the_same_question() {
    let operator = Operator::answering("HTTP/1.1 204 No Content\r\nCache-Control: private, max-age=60\r\n\r\n");
    let service = Service::start(&config(&operator.url)).unwrap().unwrap();
    assert_eq!(ask(&service, question("Cookie: a\r\n")).outcome, Outcome::Allowed);
    assert_eq!(ask(&service, question("Cookie: a\r\n")).outcome, Outcome::Cached);
    assert_eq!(ask(&service, question("Cookie: b\r\n")).outcome, Outcome::Allowed);
    assert_eq!(operator.asked(), 2);
    let forgetful = Operator::answering("HTTP/1.1 204 No Content\r\n\r\n");
    let service = Service::start(&config(&forgetful.url)).unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&service, question("Cookie: a\r\n")).outcome, Outcome::Allowed);
    }
    assert_eq!(forgetful.asked(), 2);
}

#[test]
fn nobody_waits_behind_a_full_queue() {
    let operator = Operator::answering("");
    let config = Config { auth_queue: 1, ..config(&operator.url) };
    let service = Service::start(&config).unwrap().unwrap();
    let ignore = || -> Reply { Box::new(|_| {}) };
    assert!(service.ask(question(""), ignore()).is_ok());
    operator.asked.recv_timeout(PATIENCE).unwrap();
    assert!(service.ask(question(""), ignore()).is_ok(), "one may wait");
    let answer = service.ask(question(""), ignore()).unwrap_err();
    assert_eq!((answer.verdict.unwrap_err(), answer.outcome), (Denial::Unavailable, Outcome::Full));
}

#[test]
fn how_long_to_remember_is_what_the_answer_says() {
    let cases: [(&[&str], u64); 9] = [
        (&[], 0),
        (&["max-age=60"], 60),
        (&["private, Max-Age=\"60\""], 60),
        (&["public", "max-age=5"], 5),
        (&["max-age=60, no-store"], 0),
        (&["no-cache"], 0),
        (&["max-age=-1"], 0),
        (&["s-maxage=60"], 0),
        (&["max-age=99999999"], 3600),
    ];
    for (headers, seconds) in cases {
        assert_eq!(keep_for(headers.iter().copied()), Duration::from_secs(seconds), "{headers:?}");
    }
}

#[test]
fn the_cache_keeps_within_its_bytes_and_forgets_the_oldest_first() {
    let now = Instant::now();
    let mut cache = Cache::new(3 * CACHED_BYTES + 10);
    let keep = Duration::from_secs(60);
    for key in 0..4u8 {
        cache.put([key; 32], Said::Denied, keep, now);
    }
    assert_eq!(cache.get(&[0; 32], now), None);
    assert_eq!(cache.get(&[3; 32], now), Some(Said::Denied));
    assert_eq!(cache.get(&[3; 32], now + keep), None, "its time is over");
    cache.put([3; 32], Said::Allowed(vec![0; 10].into()), keep, now);
    assert_eq!((cache.bytes, cache.answers.len(), cache.order.len()), (3 * CACHED_BYTES + 10, 3, 3));
    cache.put([9; 32], Said::Allowed(vec![0; 10_000].into()), keep, now);
    assert_eq!(cache.get(&[9; 32], now), None, "larger than all of it");
    assert_eq!(cache.answers.len(), 3);
}
