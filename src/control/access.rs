//! Who may use the control port: pages that need no key, keys, and pages of browsers that may read it.

use std::fs;

use anyhow::{Context, anyhow};

use crate::auth::control_keys::{ControlKeys, Scope};
use crate::auth::credentials::bearer_token;
use crate::auth::origin::Origins;
use crate::config::{Config, ControlPages};
use crate::protocol::plain::PlainPath;

/// What is asked of those who use the control port.
#[derive(Clone, Debug)]
pub struct ControlAccess {
    keys: ControlKeys,
    open_pages: ControlPages,
    /// Whether only this host can reach the port; then a port without keys is open to it.
    is_local: bool,
    origins: Origins,
}

impl ControlAccess {
    /// What `config` asks.
    ///
    /// # Errors
    /// A file without keys, or an origin that is none, as a sentence.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let keys = match &config.control_keys_file {
            None => ControlKeys::default(),
            Some(path) => {
                let told = || format!("{}, the file of control_keys_file", path.display());
                let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", told()))?;
                ControlKeys::parse(&text).with_context(told)?
            }
        };
        let origins = Origins::new(&config.control_cors_origins);
        Ok(Self {
            keys,
            open_pages: config.control_open_pages,
            is_local: config.control_listen.ip().is_loopback(),
            origins: origins.map_err(|wrong| anyhow!("control_cors_origins: {wrong:?} is no origin"))?,
        })
    }

    /// Whether a request with these headers `Authorization` may see `page`.
    pub fn admit<'a>(&self, page: PlainPath, mut authorization: impl Iterator<Item = &'a [u8]>) -> bool {
        let is_open = match self.open_pages {
            ControlPages::All => true,
            ControlPages::Health => page != PlainPath::Metrics,
            ControlPages::None => false,
        };
        if is_open || self.keys.is_empty() && self.is_local {
            return true;
        }
        let (Some(header), None) = (authorization.next(), authorization.next()) else { return false };
        let key = bearer_token(header).ok().flatten();
        key.and_then(|key| self.keys.scope(key.as_bytes())) >= Some(Scope::Read)
    }

    /// Which of the pages that may read answers in a browser sent a request with these headers `Origin`.
    pub fn origin<'a>(&self, mut headers: impl Iterator<Item = &'a [u8]>) -> Option<&str> {
        match (headers.next(), headers.next()) {
            (Some(origin), None) => self.origins.name(origin),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const KEY: &str = "reader-0123456789abcdefghij";

    fn access(config: Config, keys: &str) -> ControlAccess {
        let keys = if keys.is_empty() { ControlKeys::default() } else { ControlKeys::parse(keys).unwrap() };
        ControlAccess { keys, ..ControlAccess::new(&config).unwrap() }
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
