//! The service against a small HTTP server of the tests' own.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicUsize;

use crossbeam_channel::unbounded;

use super::*;
use crate::protocol::handshake::{Request, parse};

/// Generous: no test waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

const OOPS: &str = "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n";
const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";

/// A server that keeps what it was asked.
struct Operator {
    url: String,
    asked: Receiver<String>,
    count: Arc<AtomicUsize>,
}

impl Operator {
    /// Answers everybody with `answer`, a whole response; nobody where it is empty.
    fn answering(answer: &'static str) -> Self {
        Self::deciding(move |_| answer)
    }

    /// Answers a request of this head with what `decide` says, a whole response; not where that is empty.
    fn deciding(decide: impl Fn(&str) -> &'static str + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/check?a=b", listener.local_addr().unwrap());
        let (sender, asked) = unbounded();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (sender, counted, decide) = (sender.clone(), Arc::clone(&counted), decide.clone());
                thread::spawn(move || Self::serve(socket.unwrap(), &sender, &counted, &decide));
            }
        });
        Self { url, asked, count }
    }

    fn serve(
        mut socket: TcpStream,
        asked: &Sender<String>,
        count: &AtomicUsize,
        decide: &impl Fn(&str) -> &'static str,
    ) {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|length| length > 0) {}
            if head.is_empty() {
                return;
            }
            count.fetch_add(1, Ordering::SeqCst);
            let answer = decide(&head);
            if asked.send(head).is_err() {
                return;
            }
            if answer.is_empty() {
                thread::park();
            }
            if socket.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
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
    assert_eq!(denial(UNAUTHORIZED), denied);
    assert_eq!(denial("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"), denied);
    assert_eq!(denial("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"allow\":false}"), denied);
    let expired = Some((Denial::Expired, Outcome::Denied));
    assert_eq!(denial("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"exp\":1}"), expired);
}

#[test]
fn what_is_no_answer_is_a_failure_and_keeps_clients_out_unless_told_otherwise() {
    for answer in [
        OOPS,
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
}

/// Whether a request is a client's, not the health check's.
fn is_of_a_client(head: &str) -> bool {
    head.to_lowercase().contains("x-rollcall-user-id: ana\r\n")
}

fn open(operator: &Operator) -> Config {
    Config { auth_failure: AuthFailure::Open, default_reach: DefaultReach::None, ..config(&operator.url) }
}

fn wait_until_down(service: &Service, is_down: bool) {
    let began = Instant::now();
    while service.terms.is_down.load(Ordering::Relaxed) != is_down {
        assert!(began.elapsed() < PATIENCE, "the health check has not seen that the service is down: {is_down}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_failure_that_may_be_the_clients_own_doing_lets_nobody_in() {
    for answer in [
        OOPS,
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let operator = Operator::deciding(move |head| if is_of_a_client(head) { answer } else { UNAUTHORIZED });
        let service = Service::start(&open(&operator)).unwrap().unwrap();
        assert!(!is_of_a_client(&operator.asked.recv_timeout(PATIENCE).unwrap()), "the health check comes first");
        let answer = ask(&service, question(""));
        assert_eq!((answer.verdict.unwrap_err(), answer.outcome), (Denial::Unavailable, Outcome::Failed));
    }
}

#[test]
fn while_the_service_answers_nobody_clients_come_in_where_the_operator_said_so() {
    let is_well = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&is_well);
    let operator = Operator::deciding(move |head| match is_of_a_client(head) || switch.load(Ordering::SeqCst) {
        true if head.to_lowercase().contains("cookie: slow") => "",
        true => UNAUTHORIZED,
        false => OOPS,
    });
    let service = Service::start(&Config { auth_queue: 1, ..open(&operator) }).unwrap().unwrap();
    wait_until_down(&service, true);
    let answer = ask(&service, question(""));
    assert_eq!((answer.verdict.unwrap_err(), answer.outcome), (Denial::Denied, Outcome::Denied), "an answer is one");
    assert!(!is_of_a_client(&operator.asked.recv_timeout(PATIENCE).unwrap()));
    assert!(is_of_a_client(&operator.asked.recv_timeout(PATIENCE).unwrap()));

    let fill = || service.ask(question("Cookie: slow\r\n"), Box::new(|_| {}));
    assert!(fill().is_ok());
    while !is_of_a_client(&operator.asked.recv_timeout(PATIENCE).unwrap()) {}
    assert!(fill().is_ok(), "one may wait");
    let answer = fill().unwrap_err();
    let grant = answer.verdict.unwrap();
    assert!(grant.user_id().is_none() && !grant.reach.unwrap().may_watch("bob"));
    assert_eq!(answer.outcome, Outcome::Full);

    is_well.store(true, Ordering::SeqCst);
    wait_until_down(&service, false);
    let answer = fill().unwrap_err();
    assert_eq!((answer.verdict.unwrap_err(), answer.outcome), (Denial::Unavailable, Outcome::Full));
}

#[test]
fn a_failure_of_a_service_that_answers_nobody_lets_clients_in_where_the_operator_said_so() {
    let operator = Operator::answering(OOPS);
    let service = Service::start(&open(&operator)).unwrap().unwrap();
    wait_until_down(&service, true);
    let answer = ask(&service, question(""));
    let grant = answer.verdict.unwrap();
    assert!(grant.user_id().is_none() && !grant.reach.unwrap().may_watch("bob"));
    assert_eq!(answer.outcome, Outcome::Failed);
}

#[test]
fn the_health_check_ends_with_the_service_and_there_is_none_where_failures_let_nobody_in() {
    let operator = Operator::answering(UNAUTHORIZED);
    let service = Service::start(&open(&operator)).unwrap().unwrap();
    let checks = |service: &Service| Arc::strong_count(&service.terms.is_down);
    assert_eq!(checks(&service), 3, "the service's, its thread's and the health check's");
    let is_down = Arc::clone(&service.terms.is_down);
    drop(service);
    let began = Instant::now();
    while Arc::strong_count(&is_down) > 1 {
        assert!(began.elapsed() < PATIENCE, "a thread goes on");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(checks(&Service::start(&config(&operator.url)).unwrap().unwrap()), 2);
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
        X_Forwarded_User: root\r\nIf-None-Match: \"evil\"\r\nRange: bytes=0-0\r\nX-Rollcall-User-Id: evil\r\n\
        X-Original-URL: /evil\r\nX-Original-URI: /evil\r\nProxy: evil\r\nX-HTTP-Method-Override: EVIL\r\n\
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
        "x-rollcall-user-id: ana\r\n",
        "x-forwarded-method: get\r\n",
        "x-forwarded-host: chat.example\r\n",
        "host: 127.0.0.1",
    ] {
        assert!(head.contains(said), "{said} in {head}");
    }
    for unsaid in
        ["evil", "root", "bytes=", "10.0.0.1", "trailers", "upgrade", "sec-websocket-key", "\r\nhost: chat.example"]
    {
        assert!(!head.contains(unsaid), "{unsaid} in {head}");
    }
}

#[test]
fn the_service_is_told_for_whom_the_client_would_speak_as_it_is_read_here() {
    let operator = Operator::answering("HTTP/1.1 204 No Content\r\n\r\n");
    let service = Service::start(&config(&operator.url)).unwrap().unwrap();
    let user_id = |query: &str| {
        let head = format!("{}\r\n", UPGRADE.replace("userId=ana", query));
        let Ok(Request::Upgrade(upgrade)) = parse(head.as_bytes()) else { panic!("refused") };
        let _ = ask(&service, Question::new(&upgrade));
        let asked = operator.asked.recv_timeout(PATIENCE).unwrap();
        let mut lines = asked.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(name, _)| name.eq_ignore_ascii_case("x-rollcall-user-id")).map(|(_, value)| value.to_owned())
    };
    assert_eq!(user_id("userId=a+b%2F%C3%A9~").as_deref(), Some("a%20b%2F%C3%A9~"));
    // Others take the last of these for the userId: a semicolon separates, a blank before a name is nothing.
    assert_eq!(user_id("userId=ana&a=1;userId=bob&+userId=bob").as_deref(), Some("ana"));
    for said_by_none in ["", "userId=ana&userId=bob", "userId=ana&user%49d=bob"] {
        assert_eq!(user_id(said_by_none), None, "{said_by_none}");
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
