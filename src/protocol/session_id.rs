//! Session ids: unforgeable, bound to a user, and nothing is kept for them.
//!
//! An id is 16 bytes that never come twice and the first 16 bytes of an HMAC-SHA-256 (RFC 2104) over them and the
//! userId, as 43 characters of base64url (RFC 4648 §5).

use aws_lc_rs::{constant_time, hmac};
use data_encoding::BASE64URL_NOPAD;

use super::user_id::UserId;

const NONCE_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const TEXT_BYTES: usize = 43;

/// Issues session ids and knows its own again. Those with the same secret know each other's.
#[derive(Clone, Debug)]
pub struct SessionIds {
    key: hmac::Key,
    nonces: fastrand::Rng,
}

/// One session's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId {
    text: [u8; TEXT_BYTES],
    key: u64,
}

impl SessionIds {
    /// Ids under `secret`, which nobody else may know; `seed` must differ between issuers with the same secret.
    pub fn new(secret: &[u8; 32], seed: u64) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), nonces: fastrand::Rng::with_seed(seed) }
    }

    /// A new id for a session of `user_id`.
    pub fn issue(&mut self, user_id: &UserId) -> SessionId {
        let nonce = self.nonces.u128(..).to_ne_bytes();
        let mut bytes = [0; NONCE_BYTES + TAG_BYTES];
        bytes[..NONCE_BYTES].copy_from_slice(&nonce);
        bytes[NONCE_BYTES..].copy_from_slice(&self.tag(&nonce, user_id));
        let mut text = [0; TEXT_BYTES];
        BASE64URL_NOPAD.encode_mut(&bytes, &mut text);
        SessionId { text, key: key_of(&nonce) }
    }

    /// The key of the session whose id `text` is, if it was issued to `user_id` under this secret.
    pub fn genuine_key(&self, text: &str, user_id: &UserId) -> Option<u64> {
        if text.len() != TEXT_BYTES {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let (nonce, tag) = bytes.split_first_chunk::<NONCE_BYTES>()?;
        constant_time::verify_slices_are_equal(tag, &self.tag(nonce, user_id)).ok()?;
        Some(key_of(nonce))
    }

    fn tag(&self, nonce: &[u8; NONCE_BYTES], user_id: &UserId) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(nonce);
        context.update(user_id.as_str().as_bytes());
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&context.sign().as_ref()[..TAG_BYTES]);
        tag
    }
}

impl SessionId {
    /// The id as clients see it.
    pub fn as_str(&self) -> &str {
        // base64url is ASCII.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }

    /// What tells the session from all others of this process.
    pub fn key(&self) -> u64 {
        self.key
    }
}

/// Half of a nonce is enough to tell apart what the tag has shown to be genuine.
fn key_of(nonce: &[u8; NONCE_BYTES]) -> u64 {
    nonce.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_id_is_genuine_for_its_user_and_its_secret_alone() {
        let (ana, bob) = (UserId::parse("ana").unwrap(), UserId::parse("bob").unwrap());
        let mut ids = SessionIds::new(&[7; 32], 1);
        let id = ids.issue(&ana);
        assert_eq!(id.as_str().len(), 43);
        assert_eq!(ids.genuine_key(id.as_str(), &ana), Some(id.key()));
        assert!(SessionIds::new(&[7; 32], 2).genuine_key(id.as_str(), &ana).is_some());
        assert_eq!(ids.genuine_key(id.as_str(), &bob), None);
        assert_eq!(SessionIds::new(&[8; 32], 1).genuine_key(id.as_str(), &ana), None);
        assert_eq!(ids.genuine_key("", &ana), None);
        for position in 0..id.as_str().len() {
            let mut forged = id.as_str().to_owned().into_bytes();
            forged[position] = if forged[position] == b'A' { b'B' } else { b'A' };
            assert_eq!(ids.genuine_key(&String::from_utf8(forged).unwrap(), &ana), None);
        }
        assert_ne!(ids.issue(&ana), id);
    }
}
