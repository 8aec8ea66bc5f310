//! What signatures are held against. A key has one algorithm, which the token cannot choose: so a public key is never
//! taken for an HMAC secret, and `none` is no algorithm at all.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use simd_json::Node;

use super::claims::{InvalidClaims, list, with_tape};
use crate::protocol::message::json::Members;

/// The shortest HMAC secret: as long as the hash's output (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// RSA moduli that are taken, in bytes: 2048 to 8192 bits (RFC 7518 §3.3 asks for 2048 or more).
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The keys of one moment.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Keys that were given and cannot be used: of another algorithm, or for another purpose.
    left_out: usize,
}

/// A key with what it is for.
pub struct Key {
    algorithm: Algorithm,
    decoding: DecodingKey,
    /// `kid`; without one it is tried for every token of its algorithm.
    id: Option<Box<str>>,
    /// The one issuer that it signs for; `None` for whichever is configured.
    issuer: Option<Box<str>>,
}

/// Tells what it is for, never what it is.
impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Key").field("algorithm", &self.algorithm).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a text holds no keys, as operators read it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// An HMAC secret that can be guessed.
    #[error(
        "the secret has {bytes} bytes; HS256 needs at least {SECRET_BYTES_MIN}, as `openssl rand -hex 32` makes them"
    )]
    ShortSecret {
        /// Its length without the line feed at its end.
        bytes: usize,
    },
    /// No PEM block with a public key.
    #[error("there is no PEM block `PUBLIC KEY`")]
    NoPem,
    /// A PEM block with something else.
    #[error("the PEM block `{label}` is not a public key")]
    NotPublic {
        /// What it says it is.
        label: String,
    },
    /// A public key of another kind than ours, or none at all.
    #[error("the public key is neither RSA of 2048 to 8192 bits, nor ECDSA on P-256, nor Ed25519")]
    Unsupported,
    /// Not a JWK Set.
    #[error("not a JWK Set (RFC 7517 §5): {0}")]
    NotJwks(&'static str),
    /// A JWK Set without a key that can be used.
    #[error("the JWK Set has no key for HS256, RS256, ES256 or EdDSA signatures")]
    NoneUsable,
}

/// Where a JWK Set came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwksOrigin {
    /// A file of the operator's, which may hold secrets.
    File,
    /// Another host. A secret that it gives to everybody is none.
    Network,
}

impl KeySet {
    /// A secret shared with the issuer, for HS256. One line feed at its end is not part of it.
    ///
    /// # Errors
    /// [`InvalidKeys::ShortSecret`].
    pub fn from_secret(secret: &[u8]) -> Result<Self, InvalidKeys> {
        let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        Key::secret(secret, None, None).map(Self::of).ok_or(InvalidKeys::ShortSecret { bytes: secret.len() })
    }

    /// Public keys in PEM (RFC 7468), one after the other, for RS256, ES256 or EdDSA by their kind.
    ///
    /// # Errors
    /// [`InvalidKeys`].
    pub fn from_pem(text: &str) -> Result<Self, InvalidKeys> {
        let mut keys = Vec::new();
        for block in text.split("-----BEGIN ").skip(1) {
            let label = block.split("-----").next().unwrap_or_default();
            if !matches!(label, "PUBLIC KEY" | "RSA PUBLIC KEY") {
                return Err(InvalidKeys::NotPublic { label: label.chars().take(40).collect() });
            }
            let block = format!("-----BEGIN {block}");
            keys.push(Key::from_pem(block.as_bytes()).ok_or(InvalidKeys::Unsupported)?);
        }
        if keys.is_empty() { Err(InvalidKeys::NoPem) } else { Ok(Self { keys, left_out: 0 }) }
    }

    /// A JWK Set (RFC 7517 §5). Keys for other purposes and of other algorithms are left out. A member `iss` in a key,
    /// which is ours, binds it to that issuer.
    ///
    /// # Errors
    /// [`InvalidKeys`].
    pub fn from_jwks(text: &[u8], origin: JwksOrigin) -> Result<Self, InvalidKeys> {
        with_tape(&mut text.to_vec(), |tape| {
            let Some(Node::Object { .. }) = tape.first() else { return Err(InvalidKeys::NotJwks("it is no object")) };
            let keys = Members::of(tape).find(|(name, _)| *name == "keys").map(|(_, value)| value);
            let keys = keys.ok_or(InvalidKeys::NotJwks("it has no `keys`"))?;
            let read = list("keys", keys, |node| Ok::<_, InvalidClaims>(Key::from_jwk(node, origin)));
            let read = read.map_err(|_| InvalidKeys::NotJwks("its `keys` are no list"))?;
            let given = read.len();
            let keys: Vec<Key> = read.into_iter().flatten().collect();
            if keys.is_empty() {
                return Err(InvalidKeys::NoneUsable);
            }
            Ok(Self { left_out: given - keys.len(), keys })
        })
        .unwrap_or(Err(InvalidKeys::NotJwks("it is no valid JSON")))
    }

    /// This set and `other` as one.
    pub fn and(mut self, mut other: Self) -> Self {
        self.keys.append(&mut other.keys);
        Self { left_out: self.left_out + other.left_out, keys: self.keys }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys were given that cannot be used.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The keys that a token of this algorithm and `kid` may be signed with, those of that very `kid` first.
    pub(super) fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        let fits = move |key: &&Key| key.algorithm == algorithm;
        let named = self.keys.iter().filter(fits).filter(move |key| id.is_some() && key.id.as_deref() == id);
        let unnamed = self.keys.iter().filter(fits).filter(move |key| id.is_none() || key.id.is_none());
        named.chain(unnamed)
    }

    /// Whether a key of that `kid` has another algorithm, so that a token asks for the wrong one.
    pub(super) fn has_id(&self, id: Option<&str>) -> bool {
        self.keys.iter().any(|key| key.id.is_none() || id.is_none() || key.id.as_deref() == id)
    }

    fn of(key: Key) -> Self {
        Self { keys: vec![key], left_out: 0 }
    }
}

impl Key {
    /// Whether `signature`, in base64url, is this key's over `message`.
    pub(super) fn signed(&self, message: &[u8], signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message, &self.decoding, self.algorithm).unwrap_or(false)
    }

    /// The one issuer that it signs for.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    fn secret(secret: &[u8], id: Option<Box<str>>, issuer: Option<Box<str>>) -> Option<Self> {
        (secret.len() >= SECRET_BYTES_MIN).then(|| Self {
            algorithm: Algorithm::HS256,
            decoding: DecodingKey::from_secret(secret),
            id,
            issuer,
        })
    }

    fn from_pem(block: &[u8]) -> Option<Self> {
        let new = |algorithm, decoding| Self { algorithm, decoding, id: None, issuer: None };
        if let Ok(decoding) = DecodingKey::from_ed_pem(block) {
            ParsedPublicKey::new(&ED25519, decoding.try_get_as_bytes().ok()?).ok()?;
            return Some(new(Algorithm::EdDSA, decoding));
        }
        if let Ok(decoding) = DecodingKey::from_ec_pem(block) {
            ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, decoding.try_get_as_bytes().ok()?).ok()?;
            return Some(new(Algorithm::ES256, decoding));
        }
        let decoding = DecodingKey::from_rsa_pem(block).ok()?;
        let pkcs1 = decoding.try_get_as_bytes().ok()?;
        ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pkcs1).ok()?;
        // The modulus with a few bytes around it. The verification holds a key to its bits; this tells at start.
        (pkcs1.len() > *MODULUS_BYTES.start()).then(|| new(Algorithm::RS256, decoding))
    }

    /// The key that a JWK holds; `None` where it is not for us.
    fn from_jwk(jwk: &[Node<'_>], origin: JwksOrigin) -> Option<Self> {
        let member = |name: &str| Members::of(jwk).find(|(key, _)| *key == name).map(|(_, value)| value);
        // `Err` where there is such a member and it is no text: then nothing of the key is to be trusted.
        let text = |name: &str| match member(name).map(<[Node<'_>]>::first) {
            None => Ok(None),
            Some(Some(Node::String(text))) => Ok(Some(*text)),
            Some(_) => Err(()),
        };
        let bytes = |name: &str| BASE64URL_NOPAD.decode(text(name).ok()??.as_bytes()).ok();
        let algorithm = text("alg").ok()?;
        let named = |ours: &[&str]| algorithm.is_none_or(|algorithm| ours.contains(&algorithm));
        if text("use").ok()?.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        if let Some(operations) = member("key_ops") {
            let mut verifies = false;
            list("key_ops", operations, |node| {
                verifies |= matches!(node.first(), Some(Node::String("verify")));
                Ok(())
            })
            .ok()?;
            if !verifies {
                return None;
            }
        }
        let id: Option<Box<str>> = text("kid").ok()?.map(Box::from);
        let issuer: Option<Box<str>> = text("iss").ok()?.map(Box::from);
        let (algorithm, decoding) = match (text("kty").ok()??, text("crv").ok()?) {
            ("RSA", _) if named(&["RS256"]) => {
                let (modulus, exponent) = (bytes("n")?, bytes("e")?);
                if !MODULUS_BYTES.contains(&modulus.len()) || exponent.is_empty() || exponent.len() > 8 {
                    return None;
                }
                (Algorithm::RS256, DecodingKey::from_rsa_raw_components(&modulus, &exponent))
            }
            ("EC", Some("P-256")) if named(&["ES256"]) => {
                let point = [&[4][..], &bytes("x")?, &bytes("y")?].concat();
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).ok()?;
                (Algorithm::ES256, DecodingKey::from_ec_der(&point))
            }
            ("OKP", Some("Ed25519")) if named(&["EdDSA", "Ed25519"]) => {
                let point = bytes("x")?;
                ParsedPublicKey::new(&ED25519, &point).ok()?;
                (Algorithm::EdDSA, DecodingKey::from_ed_der(&point))
            }
            ("oct", _) if named(&["HS256"]) && origin == JwksOrigin::File => {
                return Self::secret(&bytes("k")?, id, issuer);
            }
            _ => return None,
        };
        Some(Self { algorithm, decoding, id, issuer })
    }
}

/// The algorithm of that name in a token's header; `None` for all that are not taken, `none` among them.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "HS256" => Some(Algorithm::HS256),
        "RS256" => Some(Algorithm::RS256),
        "ES256" => Some(Algorithm::ES256),
        // RFC 9864 §2.2 gives the curve's own name to what RFC 8037 §3.1 called EdDSA.
        "EdDSA" | "Ed25519" => Some(Algorithm::EdDSA),
        _ => None,
    }
}
