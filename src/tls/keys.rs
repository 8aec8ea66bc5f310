//! A server's certificate, key and trusted clients: PEM files → [`ServerConfig`], anew whenever they change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoClientAuth, NoServerSessionStorage, ProducesTickets, ServerConfig, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::{Error, RootCertStore};

use super::{ALPN, provider};
use crate::stamp::Stamp;

/// Tickets after a full handshake (TLS 1.3): a client of one connection at a time needs one to come back.
const TICKETS: usize = 1;

/// Why the files make no server. Each says what to look at, and none what is in a file.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file that cannot be read.
    #[error("{} cannot be read: {error}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// A file that is not PEM.
    #[error("{} is not PEM: {error}", .path.display())]
    NotPem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        error: pem::Error,
    },
    /// A file of certificates without one.
    #[error("{} holds no certificate (a section BEGIN CERTIFICATE)", .0.display())]
    NoCertificate(PathBuf),
    /// A key file without a key.
    #[error("{} holds no private key (PKCS #8, PKCS #1 or SEC 1, without a password)", .0.display())]
    NoKey(PathBuf),
    /// A key that belongs to another certificate.
    #[error("the key in {} does not belong to the first certificate in {}", .key.display(), .certificate.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        certificate: PathBuf,
    },
    /// A certificate or a key that is not understood.
    #[error("{} cannot be used: {error}", .path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        error: Error,
    },
    /// Authorities that make no verifier.
    #[error("{} cannot be used: {error}", .path.display())]
    Authorities {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        error: VerifierBuilderError,
    },
    /// No random numbers for the keys of tickets.
    #[error("the keys of session tickets cannot be made: {0}")]
    Tickets(Error),
}

/// Where certificate, key and trusted clients are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPaths {
    /// The server's certificate, then those between it and its authority.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// Authorities of clients' certificates; with them a client without one is refused.
    pub client_ca: Option<PathBuf>,
}

/// What a server speaks TLS with.
#[derive(Clone, Debug)]
pub struct ServerKeys {
    /// For clients.
    pub clients: Arc<ServerConfig>,
    /// For operators: the same, but that nobody is asked for a certificate.
    pub operators: Arc<ServerConfig>,
}

/// Key files that may change while they are in use.
#[derive(Debug)]
pub struct KeyFiles {
    paths: KeyPaths,
    /// As they were when last read, whatever came of it.
    seen: Vec<Option<Stamp>>,
    /// The authorities for whose clients `tickets` are, and the tickets: who is no longer trusted may not resume.
    client_ca: Option<Vec<u8>>,
    tickets: Arc<dyn ProducesTickets>,
    operator_tickets: Arc<dyn ProducesTickets>,
}

impl KeyFiles {
    /// Reads the files at `paths`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(paths: KeyPaths) -> Result<(Self, ServerKeys), KeyError> {
        let tickets = || Ticketer::new().map_err(KeyError::Tickets);
        let mut files =
            Self { paths, seen: Vec::new(), client_ca: None, tickets: tickets()?, operator_tickets: tickets()? };
        let keys = files.load()?;
        Ok((files, keys))
    }

    /// Whether a file has changed since they were last read. A file that is gone has changed.
    pub fn have_changed(&self) -> bool {
        self.stamps() != self.seen
    }

    /// Reads the files anew. Tickets that were given out stay good, unless others are trusted from now on.
    ///
    /// # Errors
    /// [`KeyError`]; nothing has changed then.
    pub fn load(&mut self) -> Result<ServerKeys, KeyError> {
        // Before they are read: what changes meanwhile is seen the next time.
        self.seen = self.stamps();
        let chain = certificates(&self.paths.certificate, &read(&self.paths.certificate)?)?;
        let key = private_key(&self.paths.key, &read(&self.paths.key)?)?;
        let client_ca = self.paths.client_ca.as_deref().map(read).transpose()?;
        let verifier = match (&client_ca, &self.paths.client_ca) {
            (Some(pem), Some(path)) => Some(client_verifier(path, pem)?),
            _ => None,
        };
        let fresh = if client_ca == self.client_ca { None } else { Some(Ticketer::new().map_err(KeyError::Tickets)?) };
        let tickets = fresh.unwrap_or_else(|| Arc::clone(&self.tickets));
        let operators =
            self.server(Arc::new(NoClientAuth), chain.clone(), key.clone_key(), Arc::clone(&self.operator_tickets))?;
        let clients = self.server(verifier.unwrap_or_else(|| Arc::new(NoClientAuth)), chain, key, tickets.clone())?;
        (self.client_ca, self.tickets) = (client_ca, tickets);
        Ok(ServerKeys { clients, operators })
    }

    fn server(
        &self,
        verifier: Arc<dyn ClientCertVerifier>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        tickets: Arc<dyn ProducesTickets>,
    ) -> Result<Arc<ServerConfig>, KeyError> {
        let KeyPaths { certificate, key: key_path, .. } = &self.paths;
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions();
        let config =
            builder.and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, key));
        let mut config = config.map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                KeyError::Mismatch { key: key_path.clone(), certificate: certificate.clone() }
            }
            // rustls says of a key that it does not know no more than this.
            Error::General(_) => KeyError::Unusable { path: key_path.clone(), error },
            error => KeyError::Unusable { path: certificate.clone(), error },
        })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Our order, not the client's: the server has many handshakes to pay for, a client one.
        config.ignore_client_order = true;
        // A session lives in its client's ticket alone: no shard has to remember it, and any can resume it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = tickets;
        config.send_tls13_tickets = TICKETS;
        Ok(Arc::new(config))
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        let KeyPaths { certificate, key, client_ca } = &self.paths;
        [certificate, key].into_iter().chain(client_ca).map(|path| Stamp::of(path)).collect()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KeyError> {
    fs::read(path).map_err(|error| KeyError::Unreadable { path: path.to_owned(), error })
}

/// The certificates in `text`, the content of the file at `path`, in its order.
///
/// # Errors
/// [`KeyError`], also when there is none.
pub fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, KeyError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(KeyError::NoCertificate(path.to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(KeyError::NotPem { path: path.to_owned(), error }),
    }
}

/// The certificates in `text`, the content of the file at `path`, as authorities that are trusted.
///
/// # Errors
/// [`KeyError`].
pub fn authorities(path: &Path, text: &[u8]) -> Result<RootCertStore, KeyError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, text)? {
        roots.add(certificate).map_err(|error| KeyError::Unusable { path: path.to_owned(), error })?;
    }
    Ok(roots)
}

fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, KeyError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => KeyError::NoKey(path.to_owned()),
        error => KeyError::NotPem { path: path.to_owned(), error },
    })
}

fn client_verifier(path: &Path, text: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, KeyError> {
    let roots = Arc::new(authorities(path, text)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    builder.build().map_err(|error| KeyError::Authorities { path: path.to_owned(), error })
}
