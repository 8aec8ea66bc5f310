//! A token becomes a [`Grant`] (RFC 7515 §5.2, RFC 7519 §7.2): its form, its key, its signature, then its claims.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::Algorithm;
use simd_json::Node;

use super::claims::{self, Claims, with_tape};
use super::grant::Grant;
use super::keys::{KeySet, algorithm};
use crate::config::{Config, DefaultReach};
use crate::protocol::denial::Denial;
use crate::protocol::message::json::Members;

/// The longest token.
pub const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// The longest header of a token, decoded: it is read before anything is proven.
const HEADER_BYTES_MAX: usize = 4 * 1024;

/// Keys that one token is tried with. Whoever signs with more keys than that at a time names them by `kid`.
const CANDIDATES_MAX: usize = 4;

/// What a token's claims are held to.
#[derive(Clone, Debug)]
pub struct TokenTerms {
    /// Of these at least one must be in `aud`; without any, a token with `aud` is for somebody else.
    pub audience: Vec<String>,
    /// Of these `iss` must be one; without any, it is not looked at.
    pub issuers: Vec<String>,
    /// How far the clocks of issuer and server may be apart.
    pub leeway_s: u64,
    /// What a grant that names nobody allows.
    pub default_reach: DefaultReach,
}

impl TokenTerms {
    /// The terms that `config` sets.
    pub fn new(config: &Config) -> Self {
        Self {
            audience: config.jwt_audience.clone(),
            issuers: config.jwt_issuer.clone(),
            leeway_s: config.jwt_leeway.as_secs(),
            default_reach: config.default_reach,
        }
    }

    /// What `token` allows at `now_s`, in seconds since 1970.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(&self, token: &str, keys: &KeySet, now_s: u64) -> Result<Grant, Denial> {
        let token = Token::split(token).ok_or(Denial::Malformed)?;
        let header = token.header()?;
        let mut candidates = keys.candidates(header.algorithm, header.key_id.as_deref()).peekable();
        if candidates.peek().is_none() {
            let confused = keys.has_id(header.key_id.as_deref());
            return Err(if confused { Denial::Algorithm } else { Denial::UnknownKey });
        }
        let key = candidates.take(CANDIDATES_MAX).find(|key| key.signed(token.message.as_bytes(), token.signature));
        let key = key.ok_or(Denial::Signature)?;
        let claims = token.claims()?;
        self.check(&claims, key.issuer(), now_s)?;
        Ok(Grant::new(claims, self.default_reach))
    }

    fn check(&self, claims: &Claims, key_issuer: Option<&str>, now_s: u64) -> Result<(), Denial> {
        let issuer = claims.issuer.as_deref();
        let accepted =
            self.issuers.is_empty() || issuer.is_some_and(|issuer| self.issuers.iter().any(|ours| ours == issuer));
        // A key signs for its own issuer alone, whatever others use the same `kid`.
        if !accepted || key_issuer.is_some() && key_issuer != issuer {
            return Err(Denial::Issuer);
        }
        let for_us = match &claims.audience {
            Some(audience) => audience.iter().any(|theirs| self.audience.iter().any(|ours| **ours == **theirs)),
            None => self.audience.is_empty(),
        };
        if !for_us {
            return Err(Denial::Audience);
        }
        let (Some(expires_s), Some(_)) = (claims.expires_s, &claims.subject) else { return Err(Denial::Claims) };
        if has_expired(expires_s, self.leeway_s, now_s) {
            return Err(Denial::Expired);
        }
        if claims.not_before_s.is_some_and(|not_before_s| not_before_s > now_s.saturating_add(self.leeway_s)) {
            return Err(Denial::NotYetValid);
        }
        Ok(())
    }
}

/// Whether what ends at `expires_s` has ended: it must not be used on or after it (RFC 7519 §4.1.4).
pub fn has_expired(expires_s: u64, leeway_s: u64, now_s: u64) -> bool {
    now_s >= expires_s.saturating_add(leeway_s)
}

/// A compact JWS in its parts (RFC 7515 §7.1), none of them looked at.
pub(super) struct Token<'a> {
    message: &'a str,
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

/// What of a header matters before the signature holds.
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<Box<str>>,
}

impl<'a> Token<'a> {
    pub(super) fn split(token: &'a str) -> Option<Self> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        (!payload.contains('.')).then_some(Self { message, header, payload, signature })
    }

    pub(super) fn header_text(&self) -> Option<Vec<u8>> {
        BASE64URL_NOPAD.decode(self.header.as_bytes()).ok().filter(|text| text.len() <= HEADER_BYTES_MAX)
    }

    pub(super) fn claims_text(&self) -> Option<Vec<u8>> {
        BASE64URL_NOPAD.decode(self.payload.as_bytes()).ok()
    }

    fn header(&self) -> Result<Header, Denial> {
        let mut text = self.header_text().ok_or(Denial::Malformed)?;
        with_tape(&mut text, |tape| {
            let Some(Node::Object { .. }) = tape.first() else { return Err(Denial::Malformed) };
            let (mut name, mut key_id) = (None, None);
            for (member, value) in Members::of(tape) {
                match (member, value.first()) {
                    ("alg", Some(Node::String(text))) => name = Some(*text),
                    ("kid", Some(Node::String(text))) => key_id = Some(Box::from(*text)),
                    // An extension that must be understood, and is not (RFC 7515 §4.1.11).
                    ("alg" | "kid" | "crit", _) => return Err(Denial::Malformed),
                    _ => {}
                }
            }
            let name = name.ok_or(Denial::Malformed)?;
            Ok(Header { algorithm: algorithm(name).ok_or(Denial::Algorithm)?, key_id })
        })
        .unwrap_or(Err(Denial::Malformed))
    }

    /// Only once the signature holds.
    fn claims(&self) -> Result<Claims, Denial> {
        claims::read(&mut self.claims_text().ok_or(Denial::Malformed)?).map_err(|_| Denial::Claims)
    }
}

/// The body of the fuzz target `tokens`: whatever bytes a token is made of, it is refused or grants what its key
/// signed.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    const NOW_S: u64 = 1_795_578_885;
    let secret = [b's'; 32];
    let (Ok(keys), Some((&kind, rest))) = (KeySet::from_secret(&secret), data.split_first()) else { return };
    let terms = TokenTerms { audience: Vec::new(), issuers: Vec::new(), leeway_s: 0, default_reach: DefaultReach::All };
    match kind % 3 {
        // The whole token: without the secret nothing gets in.
        0 => {
            let Ok(text) = str::from_utf8(rest) else { return };
            assert!(terms.verify(text, &keys, NOW_S).is_err());
        }
        // The claims, signed as they are.
        1 => {
            let message = format!("eyJhbGciOiJIUzI1NiJ9.{}", BASE64URL_NOPAD.encode(rest));
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
            let signature = BASE64URL_NOPAD.encode(aws_lc_rs::hmac::sign(&key, message.as_bytes()).as_ref());
            match terms.verify(&format!("{message}.{signature}"), &keys, NOW_S) {
                Ok(grant) => assert!(grant.user_id().is_some() && grant.expires_s.is_some_and(|end| end > NOW_S)),
                Err(denial) => assert!(!matches!(denial, Denial::Signature | Denial::Algorithm | Denial::UnknownKey)),
            }
        }
        // A JWK Set and a PEM file.
        _ => {
            let _ = KeySet::from_jwks(rest, super::keys::JwksOrigin::Network);
            if let Ok(text) = str::from_utf8(rest) {
                let _ = KeySet::from_pem(text);
            }
        }
    }
}

#[cfg(test)]
mod tests;
