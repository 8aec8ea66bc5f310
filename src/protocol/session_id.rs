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

/// One session's id, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId([u8; TEXT_BYTES]);

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
        SessionId(text)
    }

    /// Whether `text` is an id that was issued to `user_id` under this secret.
    pub fn is_genuine(&self, text: &str, user_id: &UserId) -> bool {
        let Ok(bytes) = BASE64URL_NOPAD.decode(text.as_bytes()) else { return false };
        let Some((nonce, tag)) = bytes.split_first_chunk::<NONCE_BYTES>() else { return false };
        constant_time::verify_slices_are_equal(tag, &self.tag(nonce, user_id)).is_ok()
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
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
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
        assert!(ids.is_genuine(id.as_str(), &ana));
        assert!(SessionIds::new(&[7; 32], 2).is_genuine(id.as_str(), &ana));
        assert!(!ids.is_genuine(id.as_str(), &bob));
        assert!(!SessionIds::new(&[8; 32], 1).is_genuine(id.as_str(), &ana));
        assert!(!ids.is_genuine("", &ana));
        for position in 0..id.as_str().len() {
            let mut forged = id.as_str().to_owned().into_bytes();
            forged[position] = if forged[position] == b'A' { b'B' } else { b'A' };
            assert!(!ids.is_genuine(&String::from_utf8(forged).unwrap(), &ana));
        }
        assert_ne!(ids.issue(&ana), id);
    }
}
