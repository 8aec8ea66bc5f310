//! The plain requests of one shard that control has and has not answered: how many there may be.

use crate::protocol::plain::PlainPath;
use crate::shard::ConnectionId;

/// How many there may be: also the room that a shard's inbox needs for the answers.
pub const PLAIN_REQUESTS_MAX: usize = 256;

/// How many of them may be for metrics, the dearest page: whoever asks for it without end does not keep probes from
/// being answered.
const SCRAPES_MAX: usize = 16;

/// Those that are under way.
#[derive(Debug, Default)]
pub struct Handovers {
    count: usize,
    /// The connections of those for metrics.
    scrapes: Vec<ConnectionId>,
}

impl Handovers {
    /// Whether one more, for the page at `path`, may be handed over.
    pub fn have_room_for(&self, path: PlainPath) -> bool {
        self.count < PLAIN_REQUESTS_MAX && (path != PlainPath::Metrics || self.scrapes.len() < SCRAPES_MAX)
    }

    /// One was handed over.
    pub fn add(&mut self, connection: ConnectionId, path: PlainPath) {
        self.count += 1;
        if path == PlainPath::Metrics {
            self.scrapes.push(connection);
        }
    }

    /// The one of this connection was answered.
    pub fn remove(&mut self, connection: ConnectionId) {
        self.count -= 1;
        self.scrapes.retain(|scrape| *scrape != connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(index: usize) -> ConnectionId {
        ConnectionId { index: index as u32, generation: 1 }
    }

    #[test]
    fn scrapes_leave_room_for_probes_and_give_theirs_back() {
        let mut handovers = Handovers::default();
        for index in 0..SCRAPES_MAX {
            assert!(handovers.have_room_for(PlainPath::Metrics));
            handovers.add(connection(index), PlainPath::Metrics);
        }
        assert!(!handovers.have_room_for(PlainPath::Metrics));
        for index in SCRAPES_MAX..PLAIN_REQUESTS_MAX {
            assert!(handovers.have_room_for(PlainPath::HealthLive));
            handovers.add(connection(index), PlainPath::HealthLive);
        }
        assert!(!handovers.have_room_for(PlainPath::HealthLive));
        handovers.remove(connection(SCRAPES_MAX));
        assert!(handovers.have_room_for(PlainPath::Health) && !handovers.have_room_for(PlainPath::Metrics));
        handovers.remove(connection(0));
        assert!(handovers.have_room_for(PlainPath::Metrics));
    }
}
