//! What everybody ought to believe of users and rooms, reckoned from what their connections said.
//!
//! Who takes whose place, and in what order words reached a partition that mail was late for, it does not know. A
//! connection that may be concerned is uncertain, and says anew what it is before beliefs are compared.

use super::{METADATA_NONE, ROOMS, USERS};

/// Statuses by the word, the one that decides first.
pub const STATUSES: [&str; 4] = ["invisible", "busy", "online", "away"];

/// One connection, as it made itself known.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    /// Whose it is.
    pub user: usize,
    /// Its place in [`STATUSES`].
    pub status: usize,
    /// The number in its metadata.
    pub metadata: u32,
    /// The rooms that it is in.
    pub rooms: [bool; ROOMS],
    /// When it said its status, among all.
    pub order: u32,
    /// Whether this is how the server knows it.
    pub is_certain: bool,
    /// Whether it counts.
    pub is_there: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Truth {
    /// Every connection that there was.
    pub connections: Vec<Said>,
    order: u32,
}

impl Truth {
    /// A connection of `user` that has just opened with this status.
    pub fn open(&mut self, user: usize, status: usize, is_certain: bool) {
        self.order += 1;
        let (metadata, rooms) = (METADATA_NONE, [false; ROOMS]);
        let said = Said { user, status, metadata, rooms, order: self.order, is_certain, is_there: true };
        self.connections.push(said);
    }

    /// A connection said its status, and metadata if it did.
    pub fn update(&mut self, connection: usize, status: usize, metadata: Option<u32>) {
        self.order += 1;
        let said = &mut self.connections[connection];
        (said.status, said.order) = (status, self.order);
        said.metadata = metadata.unwrap_or(said.metadata);
    }

    /// The connections of which the server may know something else, in the order in which they said their status.
    pub fn uncertain(&self) -> Vec<usize> {
        let said = self.connections.iter().enumerate();
        let mut found: Vec<usize> =
            said.filter(|(_, said)| said.is_there && !said.is_certain).map(|(connection, _)| connection).collect();
        found.sort_by_key(|&connection| self.connections[connection].order);
        found
    }

    /// Status and metadata of a user, as the user's own connections see it, or everybody else.
    pub fn seen(&self, user: usize, by_own: bool) -> (&'static str, u32) {
        let there = self.connections.iter().filter(|said| said.is_there && said.user == user);
        match there.min_by_key(|said| (said.status, u32::MAX - said.order)) {
            Some(said) if said.status != 0 || by_own => (STATUSES[said.status], said.metadata),
            _ => ("offline", METADATA_NONE),
        }
    }

    /// Who is in a room.
    pub fn members(&self, room: usize) -> [bool; USERS] {
        std::array::from_fn(|user| {
            let is_in = self.connections.iter().any(|said| said.is_there && said.user == user && said.rooms[room]);
            is_in && self.seen(user, false).0 != "offline"
        })
    }
}
