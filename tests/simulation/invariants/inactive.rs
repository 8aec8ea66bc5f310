//! A client at which nobody looks is told of no change, once that was acknowledged.

use crate::client::Client;

pub fn check(client: &Client) -> Result<(), String> {
    if client.is_quiet && !client.active {
        return Err("a change for a client at which nobody looks".into());
    }
    Ok(())
}
