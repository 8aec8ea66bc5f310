//! Who may connect, and whom each may see: a token, or the operator's own service, becomes a [`Grant`].
//!
//! | module | holds |
//! | --- | --- |
//! | [`credentials`] | where in a request a token may stand |
//! | [`verify`] | token → [`Grant`]: signature first, then every claim |
//! | [`keys`] | what signatures are held against; each key with its one algorithm |
//! | [`claims`] | what a token or the service says, strictly typed |
//! | [`grant`] | what a connection may do; only this module makes one |
//! | [`origin`] | which pages and which names of the host may be used |
//! | [`control_keys`] | who may use the control port |
//! | [`key_ring`] | keys that change while the server runs |
//! | [`authority`] | all of it as one server has it |
//! | [`service`] | the threads that ask `auth_url` |
//! | [`outgoing`] | HTTP requests of the server's own |
//! | [`command`] | `rollcall token` |
//!
//! Nothing of a token is used before its signature holds, but for the header's `alg` and `kid`, which choose among the
//! operator's own keys.

pub mod authority;
pub mod claims;
pub mod command;
pub mod control_keys;
pub mod credentials;
pub mod grant;
pub mod key_ring;
pub mod keys;
pub mod origin;
pub mod outgoing;
pub mod service;
pub mod verify;

pub use grant::{Grant, Reach, RoomAccess};
#[doc(hidden)]
pub use verify::fuzz;
