//! How the load speaks TLS: whom it trusts, which version, and whether sessions are resumed.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::tls::{ALPN, keys, provider};

/// Whose certificates are taken.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those that come from the authorities in a PEM file.
    Authorities(PathBuf),
    /// Everybody's. The handshake is made as ever.
    Anybody,
}

/// A client that trusts so.
///
/// # Errors
/// A sentence that says what is wrong with the authorities.
pub fn config(trust: &Trust, is_old: bool, resumes: bool) -> Result<Arc<ClientConfig>, String> {
    let version = if is_old { &TLS12 } else { &TLS13 };
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[version]).map_err(|error| error.to_string())?;
    let mut config = match trust {
        Trust::Authorities(path) => {
            let text = fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
            let roots = keys::authorities(path, &text).map_err(|error| error.to_string())?;
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::Anybody => {
            let verifier = Arc::new(TakesAnybody(provider()));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// Takes any certificate; that the server holds its key is checked all the same.
#[derive(Debug)]
struct TakesAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
