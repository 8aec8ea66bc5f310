//! Bytes ↔ HTTP upgrade ↔ frames ↔ typed messages. Sans-IO: no sockets, no clocks, no threads.

pub mod address;
pub mod assembly;
pub mod close;
pub mod cursor;
pub mod denial;
pub mod error;
pub mod forwarded;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod name;
pub mod plain;
pub mod proxy;
pub mod query;
pub mod room_name;
pub mod session_id;
pub mod status;
pub mod timestamp;
pub mod user_id;
