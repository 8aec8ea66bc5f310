//! Who is online, and who must be told. Sans-IO: no sockets, no clocks, no threads.
//!
//! A user lives in one [`partition`], wherever the user's connections are, a [`room`] in that of its own hash; each
//! shard keeps in [`watch`] who on it watches whom. [`change`] holds the words in which they tell each other.

pub mod address;
pub mod bounds;
pub mod change;
mod clock;
mod gone;
mod index;
pub mod pace;
pub mod partition;
pub mod room;
pub mod watch;
