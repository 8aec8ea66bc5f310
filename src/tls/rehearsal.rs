//! Both ends of TLS with a key that is no secret: for tests, fuzz targets and benches.

use std::sync::{Arc, LazyLock};

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig};

use super::provider;

const CERTIFICATE: &[u8] = include_bytes!("../../fuzz/tls/certificate.pem");
const KEY: &[u8] = include_bytes!("../../fuzz/tls/key.pem");
const NAME: &str = "rollcall.test";

type Configs = (Arc<ServerConfig>, Arc<ClientConfig>);

static CONFIGS: LazyLock<Result<Configs, Error>> = LazyLock::new(make);

fn make() -> Result<Configs, Error> {
    let pem = |error: rustls::pki_types::pem::Error| Error::General(error.to_string());
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).map_err(pem)?;
    let key = PrivateKeyDer::from_pem_slice(KEY).map_err(pem)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone())?;
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.ticketer = Ticketer::new()?;
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    Ok((Arc::new(server), Arc::new(client)))
}

/// A server's and a client's end that trust each other, nothing said yet.
///
/// # Panics
/// When the key that belongs to the project is of no use.
pub fn sides() -> (UnbufferedServerConnection, UnbufferedClientConnection) {
    let sides = CONFIGS.clone().and_then(|(server, client)| {
        let name = ServerName::try_from(NAME).map_err(|error| Error::General(error.to_string()))?;
        Ok((UnbufferedServerConnection::new(server)?, UnbufferedClientConnection::new(client, name)?))
    });
    match sides {
        Ok(sides) => sides,
        Err(error) => panic!("the project's own key is of no use: {error}"),
    }
}
