//! TLS without sockets: ciphertext in, plaintext and ciphertext out (RFC 8446, RFC 5246), by rustls's unbuffered API.
//!
//! [`session`] is one connection, of a server or of a client; [`keys`] makes a server's configuration of PEM files and
//! notices when they change. Whoever has a socket feeds the one and is told of the other.

pub mod keys;
#[doc(hidden)]
pub mod rehearsal;
pub mod session;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// A server's side: certificate, key, and how clients are told apart.
pub use rustls::ServerConfig;

/// The one protocol that is spoken inside (RFC 7301): WebSocket upgrades are HTTP/1.1.
pub const ALPN: &[u8] = b"http/1.1";

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    // SHA-256 has instructions of its own where SHA-384 has none, which is a sixth of a handshake; so those suites go
    // first that end in it.
    provider.cipher_suites.sort_by_key(|suite| !suite.suite().as_str().is_some_and(|name| name.ends_with("SHA256")));
    Arc::new(provider)
});

/// The algorithms of the one crypto library of this program.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}
