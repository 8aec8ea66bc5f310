//! Keys that change while the server runs: read at start, on SIGHUP, and where they come from another host every
//! `jwks_refresh`, or soon after a token named a key that is not known.
//!
//! A thread of its own reads them; the shards look at a number that says whether there is something new.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use ureq::Agent;

use super::keys::{JwksOrigin, KeySet};
use super::outgoing;
use crate::config::Config;

/// The largest file or answer that keys are read from.
const KEYS_BYTES_MAX: u64 = 1024 * 1024;

/// How long a request for the JWK Set may take.
const FETCH_TIME_MAX: Duration = Duration::from_secs(10);

/// The least time between two requests for the JWK Set, whoever names keys that are not known.
const FETCH_PAUSE: Duration = Duration::from_secs(30);

/// How soon a JWK Set that has never been had is asked for again.
const FIRST_FETCH_PAUSE: Duration = Duration::from_secs(2);

/// Where keys come from.
#[derive(Clone, Debug)]
pub struct KeySources {
    secret: Option<PathBuf>,
    public_key: Option<PathBuf>,
    jwks: Option<Jwks>,
    refresh: Duration,
    authorities: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Jwks {
    File(PathBuf),
    Url { url: String, https: bool },
}

impl KeySources {
    /// The sources that `config` names; `None` where it names none.
    ///
    /// # Errors
    /// When `jwt_jwks` looks like a URL and is none.
    pub fn new(config: &Config) -> anyhow::Result<Option<Self>> {
        let jwks = match config.jwt_jwks.as_deref() {
            Some(url) if url.contains("://") => {
                let https = outgoing::check_url(url).context("jwt_jwks")?;
                Some(Jwks::Url { url: url.to_owned(), https })
            }
            Some(path) => Some(Jwks::File(PathBuf::from(path))),
            None => None,
        };
        let (secret, public_key) = (config.jwt_hmac_secret_file.clone(), config.jwt_public_key.clone());
        if secret.is_none() && public_key.is_none() && jwks.is_none() {
            return Ok(None);
        }
        let (refresh, authorities) = (config.jwks_refresh, config.auth_ca.clone());
        Ok(Some(Self { secret, public_key, jwks, refresh, authorities }))
    }

    /// The keys of all files.
    fn read_files(&self) -> anyhow::Result<KeySet> {
        let mut keys = KeySet::default();
        if let Some(path) = &self.secret {
            let read = KeySet::from_secret(&read(path, "jwt_hmac_secret_file")?);
            keys = keys.and(read.with_context(|| told(path, "jwt_hmac_secret_file"))?);
        }
        if let Some(path) = &self.public_key {
            let text = String::from_utf8_lossy(&read(path, "jwt_public_key")?).into_owned();
            keys = keys.and(KeySet::from_pem(&text).with_context(|| told(path, "jwt_public_key"))?);
        }
        if let Some(Jwks::File(path)) = &self.jwks {
            let read = KeySet::from_jwks(&read(path, "jwt_jwks")?, JwksOrigin::File);
            keys = keys.and(read.with_context(|| told(path, "jwt_jwks"))?);
        }
        Ok(keys)
    }
}

fn told(path: &Path, knob: &str) -> String {
    format!("{}, the file of {knob}", path.display())
}

fn read(path: &Path, knob: &str) -> anyhow::Result<Vec<u8>> {
    let size = fs::metadata(path).with_context(|| format!("cannot read {}", told(path, knob)))?.len();
    if size > KEYS_BYTES_MAX {
        bail!("{} is larger than {KEYS_BYTES_MAX} bytes", told(path, knob));
    }
    fs::read(path).with_context(|| format!("cannot read {}", told(path, knob)))
}

/// The keys in force, shared by all shards.
#[derive(Debug)]
pub struct KeyRing {
    /// Grows with each change.
    version: AtomicU64,
    /// `None` until a JWK Set that must be fetched has been had.
    current: Mutex<Option<Arc<KeySet>>>,
    /// Whether the operator asks that everything be read anew, rather than somebody named a key that is not known.
    reload: AtomicBool,
    /// Wakes the thread.
    wishes: Sender<()>,
}

impl KeyRing {
    /// Reads the files, and starts the thread that keeps the keys fresh.
    ///
    /// # Errors
    /// When a file holds no keys. A JWK Set of another host is waited for by those who need it, not here.
    pub fn start(sources: KeySources) -> anyhow::Result<Arc<Self>> {
        let (wishes, wished) = bounded(1);
        let files = sources.read_files()?;
        let fetches = match &sources.jwks {
            Some(Jwks::Url { url, https }) => {
                Some((outgoing::agent(sources.authorities.as_deref(), *https, 1)?, url.clone()))
            }
            _ => None,
        };
        tell(&files);
        let current = fetches.is_none().then(|| Arc::new(files));
        let ring = Arc::new(Self::new(current, wishes));
        let thread = ring.clone();
        thread::Builder::new()
            .name("auth-keys".to_owned())
            .spawn(move || thread.keep_fresh(&sources, fetches.as_ref(), &wished))
            .context("the thread that keeps keys fresh cannot be started")?;
        Ok(ring)
    }

    /// Keys that never change, for tests and fuzz targets.
    pub fn fixed(keys: KeySet) -> Arc<Self> {
        Arc::new(Self::new(Some(Arc::new(keys)), bounded(1).0))
    }

    fn new(current: Option<Arc<KeySet>>, wishes: Sender<()>) -> Self {
        Self { version: AtomicU64::new(1), current: Mutex::new(current), reload: AtomicBool::new(false), wishes }
    }

    /// Reads everything anew, soon. What cannot be read leaves what was. Does not block.
    pub fn reload(&self) {
        self.reload.store(true, Ordering::SeqCst);
        // Where a wish waits already, the thread looks at the switch when it takes that one.
        let _ = self.wishes.try_send(());
    }

    fn replace(&self, keys: KeySet) {
        *self.current.lock() = Some(Arc::new(keys));
        self.version.fetch_add(1, Ordering::Release);
    }

    fn keep_fresh(&self, sources: &KeySources, fetches: Option<&(Agent, String)>, wished: &Receiver<()>) {
        let mut next = fetches.map(|_| Instant::now());
        let mut last_fetch: Option<Instant> = None;
        loop {
            let wish = match next {
                Some(at) => wished.recv_deadline(at),
                None => wished.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let is_due = match wish {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => true,
                Ok(()) => self.reload.swap(false, Ordering::SeqCst),
            };
            if !is_due {
                let soonest = last_fetch.map_or_else(Instant::now, |last| last + FETCH_PAUSE);
                next = next.map(|at| at.min(soonest));
                continue;
            }
            match sources.read_files().and_then(|files| Self::fetch(files, fetches)) {
                Ok(keys) => {
                    tell(&keys);
                    self.replace(keys);
                }
                Err(error) => tracing::warn!(error = %format_args!("{error:#}"), "the keys of tokens stay as they are"),
            }
            last_fetch = Some(Instant::now());
            let has_keys = self.current.lock().is_some();
            let pause = if has_keys { sources.refresh } else { FIRST_FETCH_PAUSE };
            next = fetches.map(|_| Instant::now() + pause);
        }
    }

    fn fetch(files: KeySet, fetches: Option<&(Agent, String)>) -> anyhow::Result<KeySet> {
        let Some((agent, url)) = fetches else { return Ok(files) };
        let text = outgoing::get(agent, url, KEYS_BYTES_MAX, FETCH_TIME_MAX)
            .context("the JWK Set of jwt_jwks cannot be fetched")?;
        Ok(files.and(KeySet::from_jwks(&text, JwksOrigin::Network).context("jwt_jwks")?))
    }
}

fn tell(keys: &KeySet) {
    tracing::info!(keys = keys.len(), left_out = keys.left_out(), "keys of tokens are read");
}

/// One shard's look at the ring.
#[derive(Clone, Debug)]
pub struct KeyView {
    ring: Arc<KeyRing>,
    version: u64,
    keys: Option<Arc<KeySet>>,
}

impl KeyView {
    /// A look at `ring`, which sees its changes.
    pub fn new(ring: Arc<KeyRing>) -> Self {
        Self { ring, version: 0, keys: None }
    }

    /// The keys in force; `None` while they have not been had yet. A lock is taken only when they have changed.
    pub fn keys(&mut self) -> Option<&KeySet> {
        let version = self.ring.version.load(Ordering::Acquire);
        if version != self.version {
            self.keys.clone_from(&self.ring.current.lock());
            self.version = version;
        }
        self.keys.as_deref()
    }

    /// A token named a key that is not known: perhaps there is a new one.
    pub fn wish_for_more(&self) {
        let _ = self.ring.wishes.try_send(());
    }
}
