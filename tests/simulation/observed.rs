//! Rollcall's sessions, watched from outside: what the core tells them, in its order.

use rollcall::protocol::assembly::Message;
use rollcall::protocol::handshake::Upgrade;
use rollcall::shard::core::{Action, Admission, Application, Close, Delivery, Ending, Opened, Verdict};
use rollcall::shard::exchange::Mail;
use rollcall::shard::sessions::{Session, Sessions};
use rollcall::shard::{ConnectionId, Now};

/// What the application was told.
#[derive(Clone, Copy, Debug)]
pub enum Seen {
    /// A connection was upgraded.
    Opened(ConnectionId),
    /// A whole message came; whether it was answered with an ERROR.
    Message(ConnectionId, bool),
    /// A connection ended.
    Ended(ConnectionId, Ending),
    /// Time passed.
    Ticked,
}

/// See the module.
pub struct Observed {
    pub inner: Sessions,
    pub seen: Vec<Seen>,
}

impl Application for Observed {
    type Session = Session;
    type Mail = Mail;

    fn admit(&mut self, now: Now, connection: ConnectionId, upgrade: &Upgrade<'_>) -> Admission {
        self.inner.admit(now, connection, upgrade)
    }

    fn open(
        &mut self,
        now: Now,
        connection: ConnectionId,
        upgrade: &Upgrade<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Opened<Session>, Close> {
        let opened = self.inner.open(now, connection, upgrade, out)?;
        self.seen.push(Seen::Opened(connection));
        Ok(opened)
    }

    fn message(
        &mut self,
        now: Now,
        connection: ConnectionId,
        session: &mut Session,
        message: Message<'_>,
        out: &mut Vec<u8>,
    ) -> Verdict {
        let start = out.len();
        let verdict = self.inner.message(now, connection, session, message, out);
        // Behind a frame's header, which is 2 or 4 bytes.
        let answer = &out[start.min(out.len())..];
        let is_error = answer.get(2..).is_some_and(|answer| {
            answer.starts_with(br#"{"type":"ERROR""#)
                || answer.get(2..).is_some_and(|answer| answer.starts_with(br#"{"type":"ERROR""#))
        });
        self.seen.push(Seen::Message(connection, is_error));
        verdict
    }

    fn overflow(&mut self, now: Now, out: &mut Vec<u8>) {
        self.inner.overflow(now, out);
    }

    fn counts(&self, connection: ConnectionId) -> bool {
        self.inner.counts(connection)
    }

    fn session_deadline_ms(&self, connection: ConnectionId) -> Option<u64> {
        self.inner.session_deadline_ms(connection)
    }

    fn session_due(&mut self, now: Now, connection: ConnectionId) -> Option<Close> {
        self.inner.session_due(now, connection)
    }

    fn set_memory_full(&mut self, full: bool) {
        self.inner.set_memory_full(full);
    }

    fn held_bytes(&self) -> usize {
        self.inner.held_bytes()
    }

    fn ended(&mut self, now: Now, connection: ConnectionId, session: Session, ending: Ending) {
        self.inner.ended(now, connection, session, ending);
        self.seen.push(Seen::Ended(connection, ending));
    }

    fn tick(&mut self, now: Now) {
        self.inner.tick(now);
        self.seen.push(Seen::Ticked);
    }

    fn deadline_ms(&self) -> Option<u64> {
        self.inner.deadline_ms()
    }

    fn begin_step(&mut self, now: Now) {
        self.inner.begin_step(now);
    }

    fn next_action(&mut self, now: Now) -> Option<Action> {
        self.inner.next_action(now)
    }

    fn deliver(&mut self, now: Now, connection: ConnectionId, session: &mut Session, out: &mut Vec<u8>) -> Delivery {
        self.inner.deliver(now, connection, session, out)
    }

    fn attend(&mut self, now: Now, connection: ConnectionId, session: Option<&mut Session>) {
        self.inner.attend(now, connection, session);
    }

    fn writable(&mut self, now: Now, connection: ConnectionId, session: &mut Session) {
        self.inner.writable(now, connection, session);
    }

    fn receive(&mut self, now: Now, mail: Mail) {
        self.inner.receive(now, mail);
    }

    fn gather_mail(&mut self) {
        self.inner.gather_mail();
    }

    fn take_mail(&mut self, shard: usize) -> Option<Mail> {
        self.inner.take_mail(shard)
    }

    fn hold_mail(&mut self, shard: usize) {
        self.inner.hold_mail(shard);
    }

    fn return_mail(&mut self, shard: usize, mail: Mail) {
        self.inner.return_mail(shard, mail);
    }
}
