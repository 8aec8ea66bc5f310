//! Nobody stays online who is gone, past its time; nobody is cut who is there.

use crate::link::{Cut, Socket, Wish};
use crate::model::End;

/// How long a client may say nothing at all, in milliseconds: `probe_after` and `probe_timeout`.
const PROBED_MS: u64 = 55_000;

/// How long a client may take nothing of what waits for it, in milliseconds: `send_timeout`.
const SEND_TIMEOUT_MS: u64 = 60_000;

/// A client that has vanished must have been found out by now.
pub fn is_in_time(socket: &Socket, now_ms: u64, slack_ms: u64) -> Result<(), String> {
    let mut due_ms = (socket.byte_ms + PROBED_MS).min(socket.message_ms + socket.silence_ms);
    // Who does not take its answers is not read, and is judged by what it takes alone.
    if socket.to_client.len() >= socket.capacity {
        due_ms = due_ms.max(socket.taken_ms + SEND_TIMEOUT_MS);
    }
    if now_ms > due_ms + slack_ms {
        return Err(format!("a ghost: gone since {} ms, and {now_ms} ms is late: {socket:?}", socket.byte_ms));
    }
    Ok(())
}

/// Whether nothing has come for longer than may be.
pub fn is_too_quiet(socket: &Socket, now_ms: u64) -> bool {
    now_ms >= socket.byte_ms + PROBED_MS || now_ms >= socket.message_ms + socket.silence_ms
}

/// A connection ended as its client meant it, or as its client deserved.
pub fn end_is_deserved(socket: &Socket, end: End, now_ms: u64, slack_ms: u64) -> Result<(), String> {
    // What comes too late may not be heard any more.
    let is_late = socket.late_ms.is_some_and(|late_ms| now_ms <= late_ms + slack_ms);
    let is_quiet = is_late || is_too_quiet(socket, now_ms);
    // Who does not take its answers is not read, and may have spoken.
    let is_unread = socket.to_client.len() >= socket.capacity / 2;
    let is_deserved = match end {
        End::Asked => socket.wish == Wish::Done,
        End::Silent => is_quiet || is_unread,
        End::Lost => socket.wish == Wish::Broken || socket.is_replaced || socket.cut != Cut::None || is_unread,
    };
    if !is_deserved {
        return Err(format!("it ended as {end:?} at {now_ms} ms, slack {slack_ms}: {socket:?}"));
    }
    Ok(())
}
