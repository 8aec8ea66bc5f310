//! When all have gone and every window has passed, nothing is left.

use rollcall::shard::sessions::Sessions;

/// `remembers` where it is kept when users were last seen.
pub fn check(sessions: &Sessions, connections: usize, held_bytes: usize, remembers: bool) -> Result<(), String> {
    let exchange = sessions.exchange();
    if connections != 0 {
        return Err(format!("{connections} connections are left"));
    }
    if !exchange.rooms.is_empty() || !exchange.watch.is_empty() {
        return Err(format!("rooms or watchers are left: {:?}, {:?}", exchange.rooms, exchange.watch));
    }
    if remembers {
        return Ok(());
    }
    if !sessions.is_empty() || held_bytes != 0 {
        return Err(format!("{held_bytes} bytes are left: {exchange:?}"));
    }
    Ok(())
}
