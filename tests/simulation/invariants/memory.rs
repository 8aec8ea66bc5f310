//! What waits is bounded.

/// A message of presence is made when nothing else waits, so what waits for one socket is at most the answers, one
/// answer beyond their limit, and one such message.
pub fn check_pending(pending: u64, sockets: u64, send_queue: u64) -> Result<(), String> {
    let most = sockets * (send_queue + 2 * 64 * 1024);
    if pending > most {
        return Err(format!("{pending} bytes wait for {sockets} sockets"));
    }
    Ok(())
}
