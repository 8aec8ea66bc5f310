//! The operator's own service: asked with a request's headers, it answers whether to let the client in, and with what
//! claims.
//!
//! It is asked on threads of their own, as `auth_threads` says, with a queue that is bounded: no shard ever waits.
//!
//! ```text
//! GET auth_url              200, 204   let in; a body holds claims in JSON, `{"allow": false}` among them
//! the client's headers      401, 403   not let in
//! X-Forwarded-Uri …         all else   a failure
//! X-Rollcall-User-Id
//! ```
//!
//! A failure lets nobody in, for it may be the client's own doing: 431 for its many headers, or a queue that it fills.
//! `auth_failure=open` changes that only while [`health_check`] finds that the service answers nobody.

mod health_check;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use aws_lc_rs::digest;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::Response;
use ureq::{Agent, Body};

use self::health_check::HealthCheck;
use super::claims::{self, Claims};
use super::grant::Grant;
use super::outgoing;
use super::verify::has_expired;
use crate::config::{AuthFailure, Config, DefaultReach};
use crate::protocol::denial::Denial;
use crate::protocol::handshake::Upgrade;
use crate::protocol::query::Query;
use crate::rate::Seldom;

/// The most bytes of an answer's body.
const BODY_BYTES_MAX: u64 = 256 * 1024;

/// What a remembered answer takes beside its body.
const CACHED_BYTES: usize = 200;

/// The longest time for which an answer is remembered, whatever it asks for.
const CACHE_TIME_MAX: Duration = Duration::from_secs(60 * 60);

/// All but what RFC 3986 §2.3 has nobody encode.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Headers that are not the client's to say to the service:
/// - about its connection to us (RFC 9110 §7.6.1), or what we say ourselves;
/// - those that ask for another status, or for a part of the answer (§13, §14);
/// - those by which frameworks take a request for one to another path or by another method, and CGI programs take a
///   proxy of the client's choice (CVE-2016-5385).
const NOT_PASSED_ON: [&str; 31] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-rewrite-url",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-extensions",
];

/// What the service is asked: what a client said in its request.
pub struct Question {
    headers: Vec<(Box<str>, Box<[u8]>)>,
}

impl Question {
    /// The question that a request is.
    pub fn new(upgrade: &Upgrade<'_>) -> Self {
        let passed_on = upgrade.headers().filter(|(name, _)| {
            let name = name.to_ascii_lowercase();
            // To CGI and all that descends from it, `X_Forwarded_Uri` is `X-Forwarded-Uri`.
            let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            // So servers tell services of requests; X-Original-URI is nginx's custom.
            let is_ours = ["x-forwarded-", "x-original-", "x-rollcall-"].iter().any(|ours| name.starts_with(ours));
            is_plain && !is_ours && !NOT_PASSED_ON.contains(&name.as_str())
        });
        let mut headers: Vec<_> = passed_on.map(|(name, value)| (Box::from(name), Box::from(value))).collect();
        let mut say = |name: &str, value: &[u8]| headers.push((Box::from(name), Box::from(value)));
        say("X-Forwarded-Method", b"GET");
        say("X-Forwarded-Uri", upgrade.target().as_bytes());
        if let Some(host) = upgrade.header("host").next() {
            say("X-Forwarded-Host", host);
        }
        // Readers of queries differ (what separates, which of two counts), so that it is said as it was read here.
        if let Ok(query) = Query::parse(upgrade.query) {
            let user_id = utf8_percent_encode(query.user_id.as_str(), ENCODED).to_string();
            say("X-Rollcall-User-Id", user_id.as_bytes());
        }
        Self { headers }
    }

    /// A question in which no client has a word.
    fn of_nobody() -> Self {
        let headers = [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/")];
        Self { headers: headers.map(|(name, value)| (Box::from(name), Box::from(value.as_bytes()))).into() }
    }

    /// What tells it from other questions.
    fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for (name, value) in &self.headers {
            for part in [name.as_bytes(), value] {
                context.update(&(part.len() as u64).to_le_bytes());
                context.update(part);
            }
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }
}

/// How a question was settled, in the order of [`crate::metrics::AUTH_OUTCOMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service let the client in.
    Allowed,
    /// It did not.
    Denied,
    /// It gave no answer in time, or none that is one.
    Failed,
    /// An answer of before was still good.
    Cached,
    /// The queue was full, and the service not asked.
    Full,
}

/// What came of a question.
#[derive(Debug)]
pub struct Answer {
    /// What the client may do, or why it is not let in.
    pub verdict: Result<Grant, Denial>,
    /// How it was settled.
    pub outcome: Outcome,
    /// From the question to this.
    pub took: Duration,
}

/// Takes an answer to whom it is for. Must not block.
pub type Reply = Box<dyn FnOnce(Answer) + Send>;

/// The service, for those who ask.
#[derive(Clone, Debug)]
pub struct Service {
    jobs: Sender<Job>,
    terms: ServiceTerms,
    /// Nothing is sent: that the last of them is dropped ends the health check.
    _checks: Sender<Infallible>,
}

#[derive(Clone, Debug)]
struct ServiceTerms {
    deadline: Duration,
    failure: AuthFailure,
    default_reach: DefaultReach,
    leeway_s: u64,
    /// Whether it answers nobody, as far as [`health_check`] knows.
    is_down: Arc<AtomicBool>,
}

struct Job {
    question: Question,
    asked: Instant,
    reply: Reply,
}

impl Service {
    /// Starts the threads; `None` where `config` names no service.
    ///
    /// # Errors
    /// When `auth_url` is no URL, or there is nobody to trust for HTTPS.
    pub fn start(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(url) = &config.auth_url else { return Ok(None) };
        let https = outgoing::check_url(url).context("auth_url")?;
        let agent = outgoing::agent(config.auth_ca.as_deref(), https, config.auth_threads)?;
        let terms = ServiceTerms::new(config);
        let (jobs, waiting) = bounded(config.auth_queue);
        let cache = Arc::new(Mutex::new(Cache::new(config.auth_cache)));
        let complaints = Arc::new(Mutex::new(Seldom::default()));
        let (checks, ended) = bounded(0);
        if terms.failure == AuthFailure::Open {
            let is_down = Arc::clone(&terms.is_down);
            let check =
                HealthCheck { agent: agent.clone(), url: url.clone(), deadline: terms.deadline, is_down, ended };
            thread::Builder::new()
                .name("auth-check".to_owned())
                .spawn(move || check.run())
                .context("the thread that checks auth_url cannot be started")?;
        }
        let began = Instant::now();
        for index in 0..config.auth_threads {
            let worker = Worker {
                agent: agent.clone(),
                url: url.clone(),
                terms: terms.clone(),
                cache: Arc::clone(&cache),
                complaints: Arc::clone(&complaints),
                began,
                jobs: waiting.clone(),
            };
            thread::Builder::new()
                .name(format!("auth-{index}"))
                .spawn(move || worker.run())
                .context("a thread that asks auth_url cannot be started")?;
        }
        Ok(Some(Self { jobs, terms, _checks: checks }))
    }

    /// A service whose questions nobody answers but the test.
    #[cfg(test)]
    pub fn rehearsed(config: &Config) -> (Self, impl Fn(Result<&str, Denial>) + use<>) {
        let terms = ServiceTerms::new(config);
        let default_reach = terms.default_reach;
        let (jobs, waiting) = bounded::<Job>(config.auth_queue);
        let answer = move |said: Result<&str, Denial>| {
            let Ok(job) = waiting.try_recv() else { return };
            let claims = |text: &str| claims::read(&mut text.as_bytes().to_vec()).unwrap_or_default();
            let verdict = said.map(|text| Grant::new(claims(text), default_reach));
            let outcome = if verdict.is_ok() { Outcome::Allowed } else { Outcome::Denied };
            (job.reply)(Answer { verdict, outcome, took: Duration::from_millis(5) });
        };
        (Self { jobs, terms, _checks: bounded(0).0 }, answer)
    }

    /// Asks; `reply` is called with the answer on another thread.
    ///
    /// # Errors
    /// The answer, where the queue is full and the service is not asked.
    pub fn ask(&self, question: Question, reply: Reply) -> Result<(), Box<Answer>> {
        let job = Job { question, asked: Instant::now(), reply };
        self.jobs.try_send(job).map_err(|_| Box::new(self.terms.failed(Outcome::Full, Duration::ZERO)))
    }
}

impl ServiceTerms {
    fn new(config: &Config) -> Self {
        Self {
            deadline: config.auth_timeout,
            failure: config.auth_failure,
            default_reach: config.default_reach,
            leeway_s: config.jwt_leeway.as_secs(),
            is_down: Arc::default(),
        }
    }

    /// What follows when the service says nothing.
    fn failed(&self, outcome: Outcome, took: Duration) -> Answer {
        let lets_in = self.failure == AuthFailure::Open && self.is_down.load(Ordering::Relaxed);
        let verdict = if lets_in { Ok(Grant::of_nobody(self.default_reach)) } else { Err(Denial::Unavailable) };
        Answer { verdict, outcome, took }
    }
}

struct Worker {
    agent: Agent,
    url: String,
    terms: ServiceTerms,
    cache: Arc<Mutex<Cache>>,
    /// A line for each failure would let clients fill the log.
    complaints: Arc<Mutex<Seldom>>,
    began: Instant,
    jobs: Receiver<Job>,
}

/// What the service said, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    /// Let in, with these claims; empty for none.
    Allowed(Arc<[u8]>),
    Denied,
}

impl Worker {
    fn run(self) {
        while let Ok(Job { question, asked, reply }) = self.jobs.recv() {
            // Whatever an answer did to us, the next one is asked for.
            let settled = catch_unwind(AssertUnwindSafe(|| self.settle(&question, asked)));
            let (verdict, outcome) = settled.unwrap_or_else(|_| {
                let Answer { verdict, outcome, .. } = self.terms.failed(Outcome::Failed, Duration::ZERO);
                (verdict, outcome)
            });
            reply(Answer { verdict, outcome, took: asked.elapsed() });
        }
    }

    fn settle(&self, question: &Question, asked: Instant) -> (Result<Grant, Denial>, Outcome) {
        let digest = question.digest();
        if let Some(said) = self.cache.lock().get(&digest, Instant::now())
            && let Ok(verdict) = self.judge(&said)
        {
            return (verdict, Outcome::Cached);
        }
        let left = self.terms.deadline.saturating_sub(asked.elapsed());
        let judged = self.ask(question, left).and_then(|(said, keep)| {
            let verdict = self.judge(&said)?;
            self.cache.lock().put(digest, said, keep, Instant::now());
            Ok(verdict)
        });
        match judged {
            Ok(verdict) => {
                let outcome = if verdict.is_ok() { Outcome::Allowed } else { Outcome::Denied };
                (verdict, outcome)
            }
            Err(error) => {
                let now_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                if let Some(unsaid) = self.complaints.lock().say(now_ns) {
                    tracing::warn!(error = %format_args!("{error:#}"), unsaid, "auth_url gave no answer");
                }
                (self.terms.failed(Outcome::Failed, Duration::ZERO).verdict, Outcome::Failed)
            }
        }
    }

    /// Asks the service itself, and tells for how long the answer may be remembered.
    fn ask(&self, question: &Question, left: Duration) -> anyhow::Result<(Said, Duration)> {
        if left.is_zero() {
            bail!("auth_timeout had passed before it was asked");
        }
        let mut answer = put(&self.agent, &self.url, question, left)?;
        let values = answer.headers().get_all("cache-control").iter().filter_map(|value| value.to_str().ok());
        let keep = keep_for(values);
        let said = match answer.status().as_u16() {
            200 => Said::Allowed(answer.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec()?.into()),
            204 => Said::Allowed(Arc::default()),
            401 | 403 => Said::Denied,
            status => bail!("the answer's status is {status}"),
        };
        Ok((said, keep))
    }

    /// What follows from what was said, now.
    fn judge(&self, said: &Said) -> anyhow::Result<Result<Grant, Denial>> {
        let Said::Allowed(body) = said else { return Ok(Err(Denial::Denied)) };
        let claims = match body.trim_ascii() {
            [] => Claims::default(),
            text => claims::read(&mut text.to_vec())?,
        };
        let now_s = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        Ok(if claims.allow == Some(false) {
            Err(Denial::Denied)
        } else if claims.expires_s.is_some_and(|expires_s| has_expired(expires_s, self.terms.leeway_s, now_s)) {
            Err(Denial::Expired)
        } else {
            Ok(Grant::new(claims, self.terms.default_reach))
        })
    }
}

/// Puts `question` to the service at `url`.
fn put(agent: &Agent, url: &str, question: &Question, deadline: Duration) -> Result<Response<Body>, ureq::Error> {
    let mut request = agent.get(url);
    for (name, value) in &question.headers {
        request = request.header(&**name, &**value);
    }
    request.config().timeout_global(Some(deadline)).build().call()
}

/// For how long an answer with these `Cache-Control` headers may be remembered (RFC 9111 §5.2.2): as long as it says,
/// and not at all where it says nothing.
fn keep_for<'a>(headers: impl Iterator<Item = &'a str>) -> Duration {
    let mut keep = Duration::ZERO;
    for directive in headers.flat_map(|header| header.split(',')).map(str::trim) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Duration::ZERO,
            "max-age" => keep = Duration::from_secs(value.trim_matches('"').parse().unwrap_or(0)),
            _ => {}
        }
    }
    keep.min(CACHE_TIME_MAX)
}

/// Answers that are still good, within a number of bytes. The oldest goes first.
struct Cache {
    bytes_max: usize,
    bytes: usize,
    answers: HashMap<[u8; 32], (Instant, Said)>,
    /// Every answer once, in the order in which they came.
    order: VecDeque<[u8; 32]>,
}

impl Cache {
    fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, answers: HashMap::new(), order: VecDeque::new() }
    }

    fn get(&self, digest: &[u8; 32], now: Instant) -> Option<Said> {
        self.answers.get(digest).filter(|(until, _)| now < *until).map(|(_, said)| said.clone())
    }

    fn put(&mut self, digest: [u8; 32], said: Said, keep: Duration, now: Instant) {
        let cost = Self::cost(&said);
        if keep.is_zero() || cost > self.bytes_max {
            return;
        }
        match self.answers.insert(digest, (now + keep, said)) {
            Some((_, before)) => self.bytes -= Self::cost(&before),
            None => self.order.push_back(digest),
        }
        self.bytes += cost;
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { return };
            if let Some((_, said)) = self.answers.remove(&oldest) {
                self.bytes -= Self::cost(&said);
            }
        }
    }

    fn cost(said: &Said) -> usize {
        CACHED_BYTES + if let Said::Allowed(body) = said { body.len() } else { 0 }
    }
}

#[cfg(test)]
mod tests;
