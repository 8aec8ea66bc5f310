//! Whether a request to upgrade is granted: at once, or when the application has heard from elsewhere.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::connection::Phase;
use super::{Application, Core, Effect, Now};
use crate::protocol::handshake::{self, Refused, Request, Upgrade};
use crate::shard::ConnectionId;

/// What becomes of a request to upgrade, before anything is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is granted; [`Application::open`] follows.
    Open,
    /// It is not known yet: nothing more is read until [`super::Action::Admit`] asks anew.
    Wait,
    /// It is refused, without an upgrade.
    Refuse(Refused),
}

impl<A: Application, S> Core<A, S> {
    /// Has the application judge the request that `head` is; `rest` came behind it and waits with it.
    pub(super) fn request_upgrade(
        &mut self,
        now: Now,
        connection: ConnectionId,
        upgrade: &Upgrade<'_>,
        head: &[u8],
        rest: &mut [u8],
    ) {
        if !self.judge_upgrade(now, connection, upgrade) {
            let record = &mut self.connections[connection.index];
            record.phase = Phase::Admission { since_ms: now.elapsed_ms() };
            let extra = record.extra.get_or_insert_default();
            extra.head = head.to_vec();
            extra.unread = rest.to_vec();
            self.wheel.hasten(connection.index, now.elapsed_ms() + self.limits.handshake_timeout_ms);
        } else if !rest.is_empty() {
            self.receive_inner(now, connection, rest);
        }
    }

    /// Has the application judge a request anew that waits for it.
    pub(super) fn readmit(&mut self, now: Now, connection: ConnectionId) {
        let Some(record) = self.get_mut(connection) else { return };
        let (Phase::Admission { .. }, Some(extra)) = (&record.phase, &mut record.extra) else { return };
        let head = std::mem::take(&mut extra.head);
        let start = self.out.len();
        let judged = catch_unwind(AssertUnwindSafe(|| match handshake::parse(&head) {
            Ok(Request::Upgrade(upgrade)) => self.judge_upgrade(now, connection, &upgrade),
            _ => true,
        }));
        match judged {
            Ok(true) => {
                self.write_out(connection, start);
                self.effects.push_back(Effect::Ready(connection));
            }
            Ok(false) => {
                if let Some(extra) = self.get_mut(connection).and_then(|record| record.extra.as_mut()) {
                    extra.head = head;
                }
            }
            Err(_) => {
                self.metrics.panics_total.increment();
                self.out.truncate(start);
                return self.remove(connection);
            }
        }
        self.settle(connection);
    }

    /// False where the application has to wait.
    fn judge_upgrade(&mut self, now: Now, connection: ConnectionId, upgrade: &Upgrade<'_>) -> bool {
        match self.application.admit(now, connection, upgrade) {
            Admission::Open => self.upgrade(now, connection, upgrade),
            Admission::Refuse(refused) => self.refuse(now, connection, &refused),
            Admission::Wait => return false,
        }
        true
    }
}
