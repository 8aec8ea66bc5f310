//! Who may use the control port: pages that need no key, keys, and pages of browsers that may read it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use parking_lot::{Mutex, RwLock};

use crate::auth::control_keys::{ControlKeys, Scope};
use crate::auth::credentials::bearer_token;
use crate::auth::origin::{Hosts, Origins};
use crate::config::{CONTROL_KEYS_VARIABLE, Config, ControlPages};
use crate::protocol::plain::PlainPath;
use crate::stamp::Stamp;

/// What is asked of those who use the control port.
#[derive(Debug)]
pub struct ControlAccess {
    /// All that are in force. They change while connections are open, and hold for those too.
    keys: RwLock<ControlKeys>,
    /// The file as it was when it was last read, whatever came of it.
    seen: Mutex<Option<Stamp>>,
    /// Those of the environment, which stay.
    lasting: ControlKeys,
    /// Where the others are.
    file: Option<PathBuf>,
    open_pages: ControlPages,
    /// Whether only this host can reach the port; then a port without keys is open to it.
    is_local: bool,
    origins: Origins,
    hosts: Hosts,
}

impl ControlAccess {
    /// What `config` and the environment ask.
    ///
    /// # Errors
    /// A file or a variable without keys, or an origin that is none, as a sentence.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let given = env::var_os(CONTROL_KEYS_VARIABLE).filter(|value| !value.is_empty());
        let lasting = given.map(|value| ControlKeys::from_variable(&value)).transpose();
        let lasting = lasting.context(CONTROL_KEYS_VARIABLE)?.unwrap_or_default();
        let file = config.control_keys_file.clone();
        let origins = Origins::new(&config.control_cors_origins);
        let hosts = Hosts::new(&config.allowed_hosts);
        // Before it is read: what changes meanwhile is seen the next time.
        let seen = file.as_deref().and_then(Stamp::of);
        Ok(Self {
            keys: RwLock::new(all_keys(file.as_deref(), &lasting)?),
            seen: Mutex::new(seen),
            lasting,
            file,
            open_pages: config.control_open_pages,
            is_local: config.control_listen.ip().is_loopback(),
            origins: origins.map_err(|wrong| anyhow!("control_cors_origins: {wrong:?} is no origin"))?,
            hosts: hosts.map_err(|wrong| anyhow!("allowed_hosts: {wrong:?} is no host"))?,
        })
    }

    /// Whether a request with these headers `Authorization` may see `page`.
    pub fn admit<'a>(&self, page: PlainPath, mut authorization: impl Iterator<Item = &'a [u8]>) -> bool {
        let is_open = match self.open_pages {
            ControlPages::All => true,
            ControlPages::Health => page != PlainPath::Metrics,
            ControlPages::None => false,
        };
        if is_open || self.keys.read().is_empty() && self.is_local {
            return true;
        }
        let (Some(header), None) = (authorization.next(), authorization.next()) else { return false };
        let key = bearer_token(header).ok().flatten();
        key.and_then(|key| self.keys.read().scope(key.as_bytes())) >= Some(Scope::Read)
    }

    /// Whether a request for the host in this header may see `page`: any may see whether the server is well.
    pub fn knows_host(&self, page: PlainPath, host: Option<&[u8]>) -> bool {
        page != PlainPath::Metrics || self.hosts.admit_reader(host)
    }

    /// Reads the file of keys anew, where there is one. If it is of no use, the keys in force stay, and a line in the
    /// log says why.
    pub fn reload(&self) {
        let Some(path) = &self.file else { return };
        *self.seen.lock() = Stamp::of(path);
        match all_keys(Some(path), &self.lasting) {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "the keys of the control port were read anew");
                *self.keys.write() = keys;
            }
            Err(error) => {
                tracing::error!("the new keys of the control port are of no use; the old ones stay: {error:#}");
            }
        }
    }

    /// Whether the file of keys has changed since it was last read. A file that is gone has changed.
    pub fn has_changed(&self) -> bool {
        self.file.as_deref().and_then(Stamp::of) != *self.seen.lock()
    }

    /// Whether there is a file of keys that may change.
    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Which of the pages that may read answers in a browser sent a request with these headers `Origin`.
    pub fn origin<'a>(&self, mut headers: impl Iterator<Item = &'a [u8]>) -> Option<&str> {
        match (headers.next(), headers.next()) {
            (Some(origin), None) => self.origins.name(origin),
            _ => None,
        }
    }
}

/// The keys of the file at `path`, and those beside it.
fn all_keys(path: Option<&Path>, lasting: &ControlKeys) -> anyhow::Result<ControlKeys> {
    let Some(path) = path else { return Ok(lasting.clone()) };
    let told = || format!("{}, the file of control_keys_file", path.display());
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", told()))?;
    Ok(ControlKeys::parse(&text).with_context(told)?.and(lasting))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const KEY: &str = "reader-0123456789abcdefghij";

    fn access(config: Config, keys: &str) -> ControlAccess {
        let keys = if keys.is_empty() { ControlKeys::default() } else { ControlKeys::parse(keys).unwrap() };
        ControlAccess { keys: RwLock::new(keys), ..ControlAccess::new(&config).unwrap() }
    }

    fn open(pages: ControlPages, address: &str) -> Config {
        Config { control_open_pages: pages, control_listen: address.parse().unwrap(), ..Config::default() }
    }

    fn admits(access: &ControlAccess, page: PlainPath, authorization: &[&str]) -> bool {
        access.admit(page, authorization.iter().map(|header| header.as_bytes()))
    }

    #[test]
    fn a_page_that_is_not_open_needs_a_key_and_the_right_one() {
        let access = access(open(ControlPages::Health, "0.0.0.0:0"), &format!("read {KEY}"));
        assert!(admits(&access, PlainPath::HealthReady, &[]));
        assert!(admits(&access, PlainPath::Metrics, &[&format!("bearer {KEY}")]));
        for wrong in [&[][..], &["Bearer x"], &[KEY], &["Basic eDp4"], &[&format!("Bearer {KEY}x"), ""]] {
            assert!(!admits(&access, PlainPath::Metrics, wrong), "{wrong:?}");
        }
        let twice = format!("Bearer {KEY}");
        assert!(!admits(&access, PlainPath::Metrics, &[&twice, &twice]));
    }

    #[test]
    fn without_keys_only_this_host_sees_what_is_not_open() {
        assert!(admits(&access(open(ControlPages::None, "127.0.0.1:0"), ""), PlainPath::Metrics, &[]));
        assert!(!admits(&access(open(ControlPages::None, "0.0.0.0:0"), ""), PlainPath::Health, &[]));
        assert!(admits(&access(open(ControlPages::All, "0.0.0.0:0"), ""), PlainPath::Metrics, &[]));
        let keyed = access(open(ControlPages::None, "127.0.0.1:0"), &format!("write {KEY}"));
        assert!(!admits(&keyed, PlainPath::Health, &[]));
    }

    #[test]
    fn keys_that_change_in_their_file_hold_for_whoever_is_there_and_a_file_of_no_use_changes_nothing() {
        let path = env::temp_dir().join(format!("rollcall-control-keys-{}", std::process::id()));
        let other = "other-0123456789abcdefghij";
        fs::write(&path, format!("read {KEY}")).unwrap();
        let config = Config { control_keys_file: Some(path.clone()), ..open(ControlPages::None, "127.0.0.1:0") };
        let access = ControlAccess::new(&config).unwrap();
        let admitted = || [KEY, other].map(|key| admits(&access, PlainPath::Metrics, &[&format!("Bearer {key}")]));
        assert_eq!((admitted(), access.has_changed()), ([true, false], false));
        fs::write(&path, format!("read {KEY}\nread short")).unwrap();
        assert!(access.has_changed());
        access.reload();
        assert_eq!((admitted(), access.has_changed()), ([true, false], false), "read once");
        fs::write(&path, format!("write {other}")).unwrap();
        access.reload();
        assert_eq!(admitted(), [false, true]);
        fs::remove_file(&path).unwrap();
        assert!(access.has_changed());
        access.reload();
        assert_eq!((admitted(), access.has_changed()), ([false, true], false));
        assert!(ControlAccess::new(&config).is_err());
    }

    #[test]
    fn a_page_in_a_browser_reads_only_where_it_is_named() {
        let config = Config { control_cors_origins: vec!["https://console.example".to_owned()], ..Config::default() };
        let access = access(config, "");
        let named = |headers: &[&str]| access.origin(headers.iter().map(|header| header.as_bytes())).is_some();
        assert!(named(&["https://console.example"]));
        for wrong in [&[][..], &["null"], &["https://evil.example"], &["https://console.example", "null"]] {
            assert!(!named(wrong), "{wrong:?}");
        }
    }
}
