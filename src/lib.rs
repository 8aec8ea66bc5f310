//! Rollcall, a WebSocket presence server: it knows who is online right now, and tells those who asked.
//!
//! The map of the house, in reading order. Each module may use those above it, never those below;
//! `tests/tidy.rs` holds the arrows.
//!
//! | module | holds | never touches |
//! | --- | --- | --- |
//! | [`config`] | the table of knobs and where their values come from | anything else |
//! | [`breaks`] | faults that tests turn on | anything else |
//! | [`host`] | what the host allows | anything else |
//! | [`stamp`] | whether a file has changed | anything else |
//! | [`rate`] | how often something may happen | anything else |
//! | [`sys`] | the system calls that nobody wraps; the only `unsafe` | anything else |
//! | [`slab`] | storage that grows in pages | anything but `sys` |
//! | [`protocol`] | bytes ↔ HTTP upgrade ↔ frames ↔ typed messages | sockets, clocks, threads |
//! | [`tls`] | ciphertext ↔ plaintext; keys from files, and when they change | anything but `stamp` |
//! | [`metrics`] | single-writer cells, and the name of every metric | sockets, clocks, threads |
//! | [`presence`] | who is online | sockets, clocks, threads |
//! | [`auth`] | a token, or the operator's own service → who may connect, and whom each may see | connections |
//! | [`shard`] core | a connection's life: limits, heartbeats, what to send; the wheel | sockets, clocks |
//! | [`shard`] driver | mio, sockets, the clock; feeds the core, writes what it says | the meaning of messages |
//! | [`control`] | plain HTTP, health, the metrics text | connections |
//! | [`cli`] | the command line, as far as it needs no server | anything but `config` |
//! | [`server`] | config → threads → run → drain | – |
//! | [`load`] | the load generator: a client of the above, which knows none of it but `protocol` | the server |

pub mod auth;
#[doc(hidden)]
pub mod breaks;
pub mod cli;
pub mod config;
pub mod control;
pub mod host;
pub mod load;
pub mod metrics;
pub mod presence;
pub mod protocol;
pub mod rate;
pub mod server;
pub mod shard;
pub mod slab;
pub mod stamp;
pub mod sys;
pub mod tls;
