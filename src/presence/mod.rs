//! Who is online. Sans-IO: no sockets, no clocks, no threads.
//!
//! A user lives in one [`partition`], wherever the user's connections are; [`change`] holds the words in which
//! connections' shards tell it what happened.

pub mod change;
mod index;
pub mod partition;
