//! HTTP requests of the server's own, to the operator's service and for the JWK Set. They block, so they are made on
//! threads of their own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// How much of an answer's head is read.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// What makes requests: it keeps connections open between them. Follows no redirects, and takes no proxy from the
/// environment: the operator named the host, and nobody else is to be told what the request holds.
///
/// # Errors
/// When there are no authorities to trust for HTTPS.
pub fn agent(authorities: Option<&Path>, https: bool, threads: usize) -> anyhow::Result<Agent> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("rollcall/", env!("CARGO_PKG_VERSION")))
        .accept("application/json")
        .max_response_header_size(HEAD_BYTES_MAX)
        .max_idle_connections(threads)
        .max_idle_connections_per_host(threads);
    if https {
        let roots = match authorities {
            Some(path) => from_file(path)?,
            None => from_host()?,
        };
        config = config.tls_config(
            TlsConfig::builder()
                .root_certs(RootCerts::new_with_certs(&roots))
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .build(),
        );
    }
    Ok(Agent::new_with_config(config.build()))
}

/// Whether `url` is one that can be asked: `http` or `https` with a host, and no user or fragment. The second is
/// whether it is HTTPS.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> anyhow::Result<bool> {
    let uri: Uri = url.parse().map_err(|_| anyhow!("{url:?} is no URL"))?;
    let authority = uri.authority().context("the URL has no host")?;
    if authority.as_str().contains('@') {
        bail!("the URL has a user or a password in it");
    }
    match uri.scheme_str() {
        Some("http") => Ok(false),
        Some("https") => Ok(true),
        _ => bail!("the URL begins with neither http:// nor https://"),
    }
}

/// Gets `url`, at most `bytes_max` bytes of it, within `deadline`.
///
/// # Errors
/// When it cannot be had, as a sentence.
pub fn get(agent: &Agent, url: &str, bytes_max: u64, deadline: Duration) -> anyhow::Result<Vec<u8>> {
    let request = agent.get(url).config().timeout_global(Some(deadline)).build();
    let mut answer = request.call()?;
    let status = answer.status().as_u16();
    if status != 200 {
        bail!("the answer's status is {status}");
    }
    Ok(answer.body_mut().with_config().limit(bytes_max).read_to_vec()?)
}

fn from_file(path: &Path) -> anyhow::Result<Vec<Certificate<'static>>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}, the file of auth_ca", path.display()))?;
    let items = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = items.collect();
    if certificates.is_empty() {
        bail!("{}, the file of auth_ca, has no PEM block `CERTIFICATE`", path.display());
    }
    Ok(certificates)
}

fn from_host() -> anyhow::Result<Vec<Certificate<'static>>> {
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        bail!("the host has no list of authorities to trust for HTTPS; name a file of them with auth_ca");
    }
    Ok(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_plain_addresses_of_hosts_are_asked() {
        assert!(!check_url("http://127.0.0.1:8080/auth?a=b").unwrap());
        assert!(check_url("https://auth.example/check").unwrap());
        for url in
            ["", "auth.example", "/auth", "ftp://a/", "file:///etc/passwd", "https://u:p@a/", "http://", "http://a b"]
        {
            assert!(check_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn authorities_are_read_from_pem() {
        let folder = std::env::temp_dir();
        let path = folder.join(format!("rollcall-auth-ca-{}", std::process::id()));
        fs::write(&path, "no PEM").unwrap();
        assert!(agent(Some(&path), true, 1).is_err());
        fs::remove_file(&path).unwrap();
        assert!(agent(Some(&path), true, 1).is_err());
        assert!(agent(Some(&path), false, 1).is_ok(), "without HTTPS nothing is read");
    }
}
