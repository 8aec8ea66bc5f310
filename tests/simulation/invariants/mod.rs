//! What must always hold, each in a file of its own.

pub mod counters;
pub mod ghosts;
pub mod inactive;
pub mod memory;
pub mod nothing_left;
pub mod outbox;
pub mod resume;
pub mod versions;
pub mod view;
