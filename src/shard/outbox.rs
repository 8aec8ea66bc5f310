//! What waits for another shard's inbox.
//!
//! A send never blocks and never drops. While the inbox is full, what waits is folded: of each connection only what
//! still matters is kept, so that it is bounded by the connections that changed and not by how often they did.

use std::collections::HashMap;

use crate::presence::change::{ConnectionKey, PresenceEvent};
use crate::protocol::message::MetadataUpdate;

/// Events for one partition, in the order in which they happened.
#[derive(Debug, Default)]
pub struct Outbox {
    events: Vec<Option<PresenceEvent>>,
    /// While the inbox is full: where a connection's events stand in `events`.
    folded: Option<HashMap<ConnectionKey, Positions>>,
    /// Empty places in `events`.
    holes: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Positions {
    opened: Option<usize>,
    updated: Option<usize>,
}

impl Outbox {
    /// Adds what happened last.
    pub fn push(&mut self, event: PresenceEvent) {
        match &mut self.folded {
            None => self.events.push(Some(event)),
            Some(_) => self.fold(event),
        }
    }

    /// Takes all that waits, to be sent.
    pub fn take(&mut self) -> Option<Vec<PresenceEvent>> {
        self.folded = None;
        self.holes = 0;
        if self.events.is_empty() {
            return None;
        }
        Some(self.events.drain(..).flatten().collect()).filter(|events: &Vec<_>| !events.is_empty())
    }

    /// The inbox has no room: what waits, and what comes until it is taken, is folded.
    pub fn hold(&mut self) {
        if self.folded.is_none() {
            let events = self.events.drain(..).flatten().collect();
            self.give_back(events);
        }
    }

    /// Takes back what the inbox had no room for after all. Nothing was added since it was taken.
    pub fn give_back(&mut self, events: Vec<PresenceEvent>) {
        debug_assert!(self.events.is_empty());
        self.folded = Some(HashMap::new());
        for event in events {
            self.fold(event);
        }
    }

    fn fold(&mut self, mut event: PresenceEvent) {
        let connection = event.connection();
        let mut at = self.folded.as_ref().and_then(|folded| folded.get(&connection)).copied().unwrap_or_default();
        match &mut event {
            PresenceEvent::Opened { .. } => at.opened = Some(self.events.len()),
            PresenceEvent::Updated { metadata, .. } => {
                let earlier = at.updated.replace(self.events.len()).and_then(|position| self.clear(position));
                if let (MetadataUpdate::Keep, Some(PresenceEvent::Updated { metadata: earlier, .. })) =
                    (&metadata, earlier)
                {
                    *metadata = earlier;
                }
            }
            PresenceEvent::Ended { .. } => {
                for position in [at.opened, at.updated].into_iter().flatten() {
                    self.clear(position);
                }
                if let Some(folded) = &mut self.folded {
                    folded.remove(&connection);
                }
                // Nobody has heard of a connection that opened and ended while it waited.
                if at.opened.is_none() {
                    self.events.push(Some(event));
                }
                return self.close_holes();
            }
        }
        if let Some(folded) = &mut self.folded {
            folded.insert(connection, at);
        }
        self.events.push(Some(event));
        self.close_holes();
    }

    fn clear(&mut self, position: usize) -> Option<PresenceEvent> {
        let event = self.events.get_mut(position)?.take()?;
        self.holes += 1;
        Some(event)
    }

    /// Closes up when half is holes: a step's share of that stays constant.
    fn close_holes(&mut self) {
        const HOLES_WORTH_CLOSING: usize = 64;
        if self.holes < HOLES_WORTH_CLOSING || self.holes * 2 < self.events.len() {
            return;
        }
        self.events.retain(Option::is_some);
        self.holes = 0;
        let mut folded = HashMap::<_, Positions>::new();
        for (position, event) in self.events.iter().enumerate() {
            match event {
                Some(PresenceEvent::Opened { connection, .. }) => {
                    folded.entry(*connection).or_default().opened = Some(position);
                }
                Some(PresenceEvent::Updated { connection, .. }) => {
                    folded.entry(*connection).or_default().updated = Some(position);
                }
                Some(PresenceEvent::Ended { .. }) | None => {}
            }
        }
        self.folded = Some(folded);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::presence::change::{UserHash, UserHasher};
    use crate::presence::partition::Partition;
    use crate::protocol::status::Status;
    use crate::protocol::user_id::UserId;

    const STATUSES: [Status; 3] = [Status::Busy, Status::Online, Status::Away];

    #[derive(Clone, Debug)]
    enum Step {
        Open(u32, usize),
        Update(u32, usize, bool),
        End(u32),
        /// The inbox has room, or not.
        Flush(bool),
    }

    fn key(index: u32) -> ConnectionKey {
        ConnectionKey { shard: 0, index, generation: 0 }
    }

    fn user(index: u32) -> UserId {
        UserId::parse(&format!("user-{}", index % 3)).unwrap()
    }

    fn event(step: &Step, hash: impl Fn(&UserId) -> UserHash) -> Option<PresenceEvent> {
        Some(match *step {
            Step::Open(index, status) => {
                let (user_id, hash) = (user(index), hash(&user(index)));
                PresenceEvent::Opened { connection: key(index), user_id, hash, status: STATUSES[status] }
            }
            Step::Update(index, status, clears) => PresenceEvent::Updated {
                connection: key(index),
                status: STATUSES[status],
                metadata: if clears { MetadataUpdate::Clear } else { MetadataUpdate::Keep },
            },
            Step::End(index) => PresenceEvent::Ended { connection: key(index) },
            Step::Flush(_) => return None,
        })
    }

    fn flush(outbox: &mut Outbox, partition: &mut Partition, has_room: bool) {
        if !has_room && is_found_full_before_taking(outbox) {
            return outbox.hold();
        }
        match outbox.take() {
            Some(events) if has_room => events.into_iter().for_each(|event| partition.handle(event)),
            Some(events) => outbox.give_back(events),
            None => {}
        }
    }

    /// Both ways to find the inbox full are tried: before taking, and after.
    fn is_found_full_before_taking(outbox: &Outbox) -> bool {
        outbox.events.len().is_multiple_of(2)
    }

    proptest! {
        #[test]
        fn what_arrives_late_and_folded_leads_to_the_same_presence(steps in prop::collection::vec(prop_oneof![
            (0_u32..200, 0_usize..3).prop_map(|(index, status)| Step::Open(index, status)),
            (0_u32..200, 0_usize..3, any::<bool>()).prop_map(|(index, status, clears)| Step::Update(index, status, clears)),
            (0_u32..200).prop_map(Step::End),
            any::<bool>().prop_map(Step::Flush),
        ], 0..400)) {
            let hasher = UserHasher::default();
            let (mut direct, mut late) = (Partition::default(), Partition::default());
            let mut outbox = Outbox::default();
            let mut open = std::collections::BTreeSet::new();
            for step in steps {
                let valid = match step {
                    Step::Open(index, _) => open.insert(index),
                    Step::Update(index, ..) => open.contains(&index),
                    Step::End(index) => open.remove(&index),
                    Step::Flush(has_room) => {
                        flush(&mut outbox, &mut late, has_room);
                        false
                    }
                };
                if let Some(happened) = event(&step, |id| hasher.hash(id)).filter(|_| valid) {
                    direct.handle(happened);
                    outbox.push(event(&step, |id| hasher.hash(id)).unwrap());
                }
            }
            flush(&mut outbox, &mut late, true);
            prop_assert!(outbox.take().is_none());
            for index in 0..3 {
                let (id, hash) = (user(index), hasher.hash(&user(index)));
                prop_assert_eq!(direct.presence(&id, hash), late.presence(&id, hash));
            }
        }
    }

    #[test]
    fn what_waits_is_bounded_by_the_connections_that_changed() {
        let mut outbox = Outbox::default();
        outbox.push(event(&Step::Open(1, 0), |_| UserHash(1)).unwrap());
        let taken = outbox.take().unwrap();
        outbox.give_back(taken);
        for round in 0..100_000_u32 {
            outbox.push(event(&Step::Update(1, (round % 3) as usize, false), |_| UserHash(1)).unwrap());
            outbox.push(event(&Step::Open(2 + round, 0), |_| UserHash(1)).unwrap());
            outbox.push(event(&Step::End(2 + round), |_| UserHash(1)).unwrap());
            assert!(outbox.events.len() < 200);
        }
        assert_eq!(outbox.take().map(|events| events.len()), Some(2));
    }
}
