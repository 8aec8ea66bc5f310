//! Who decides about connections, as `config` says it: the same for all shards.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};

use super::key_ring::{KeyRing, KeySources};
use super::origin::{Hosts, Origins};
use super::service::Service;
use super::verify::TokenTerms;
use crate::config::{AuthRefusal, Config};

/// What all shards know of who may connect.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Pages that may connect.
    pub origins: Origins,
    /// Names of this host.
    pub hosts: Hosts,
    /// The keys of tokens, where there are any.
    pub keys: Option<Arc<KeyRing>>,
    /// What tokens are held to.
    pub terms: TokenTerms,
    /// The operator's service, where there is one.
    pub service: Option<Service>,
    /// Whether a client must be known.
    pub required: bool,
    /// How clients are refused.
    pub refusal: AuthRefusal,
    /// How long AUTH may take as the first message; zero where it is not taken.
    pub message_timeout: Duration,
}

impl Authority {
    /// Reads keys, and starts the threads that ask others.
    ///
    /// # Errors
    /// What is wrong with a knob or its file, as a sentence.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let keys = KeySources::new(config)?.map(KeyRing::start).transpose()?;
        let service = Service::start(config)?;
        let required = config.auth_required.unwrap_or(keys.is_some() || service.is_some());
        if required && keys.is_none() && service.is_none() {
            bail!(
                "auth_required keeps everybody out without jwt_hmac_secret_file, jwt_public_key, jwt_jwks or auth_url"
            );
        }
        Ok(Self { keys, service, required, ..Self::open(config)? })
    }

    /// The authority that asks for nothing but the right origin and host.
    ///
    /// # Errors
    /// An origin or a host that is none.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let origins = Origins::new(&config.allowed_origins);
        let hosts = Hosts::new(&config.allowed_hosts);
        Ok(Self {
            origins: origins
                .map_err(|wrong| anyhow!("allowed_origins: {wrong:?} is no origin, as https://app.example is"))?,
            hosts: hosts.map_err(|wrong| anyhow!("allowed_hosts: {wrong:?} is no host, as chat.example is"))?,
            keys: None,
            terms: TokenTerms::new(config),
            service: None,
            required: false,
            refusal: config.auth_refusal,
            message_timeout: config.auth_message_timeout,
        })
    }

    /// Reads the keys anew, soon. Does not block.
    pub fn reload(&self) {
        if let Some(keys) = &self.keys {
            keys.reload();
        }
    }
}
