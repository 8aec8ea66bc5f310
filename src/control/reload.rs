//! Files that change while the server runs: looked at each second and at SIGHUP. Certificates are given to shards as
//! values; the keys of the control port never leave its thread.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::access::ControlAccess;
use crate::tls::ServerConfig;
use crate::tls::keys::{KeyFiles, ServerKeys};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Gives keys to all shards; false when one had no room for them, so that all are to be told again.
pub type TellShards = Box<dyn FnMut(&Arc<ServerConfig>) -> bool + Send>;

/// The keys in force, and where new ones come from.
pub struct KeyReload {
    files: KeyFiles,
    keys: ServerKeys,
    tell_shards: TellShards,
    /// Whether a shard has not been told of `keys`.
    untold: bool,
    next_look: Option<Instant>,
}

impl fmt::Debug for KeyReload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyReload").field("files", &self.files).finish_non_exhaustive()
    }
}

impl KeyReload {
    /// Begins with `keys`, which were read from `files` and which the shards have.
    pub fn new(files: KeyFiles, keys: ServerKeys, tell_shards: TellShards) -> Self {
        Self { files, keys, tell_shards, untold: false, next_look: None }
    }

    /// What new connections of operators are served with.
    pub fn operators(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.keys.operators)
    }

    /// When [`Self::look`] is due.
    pub fn next_look(&self) -> Instant {
        self.next_look.unwrap_or_else(Instant::now)
    }

    /// Reads the files if they have changed, when it is time to look.
    pub fn look(&mut self, now: Instant) {
        if self.next_look.is_some_and(|next| now < next) {
            return;
        }
        self.next_look = Some(now + LOOK_EVERY);
        if self.files.have_changed() {
            self.reload();
        } else if self.untold {
            self.tell();
        }
    }

    /// Reads the files. If they are of no use, what is in force stays, and a line in the log says why.
    pub fn reload(&mut self) {
        match self.files.load() {
            Ok(keys) => {
                self.keys = keys;
                self.tell();
                tracing::info!("certificate and key were read anew; connections from now on get them");
            }
            Err(error) => tracing::error!(%error, "the new certificate or key is of no use; the old one stays"),
        }
    }

    fn tell(&mut self) {
        self.untold = !(self.tell_shards)(&self.keys.clients);
    }
}

/// The keys of the control port, which change when their file does.
#[derive(Debug)]
pub struct AccessReload {
    access: Arc<ControlAccess>,
    next_look: Option<Instant>,
}

impl AccessReload {
    /// Looks after the keys of `access` from now on.
    pub fn new(access: Arc<ControlAccess>) -> Self {
        Self { access, next_look: None }
    }

    /// What is asked of those who come to the control port.
    pub fn access(&self) -> Arc<ControlAccess> {
        Arc::clone(&self.access)
    }

    /// When [`Self::look`] is due; never without a file.
    pub fn next_look(&self) -> Option<Instant> {
        self.access.has_file().then(|| self.next_look.unwrap_or_else(Instant::now))
    }

    /// Reads the file if it has changed, when it is time to look.
    pub fn look(&mut self, now: Instant) {
        if self.next_look.is_some_and(|next| now < next) {
            return;
        }
        self.next_look = Some(now + LOOK_EVERY);
        if self.access.has_changed() {
            self.access.reload();
        }
    }
}
