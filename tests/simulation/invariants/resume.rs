//! A client is told that its session was resumed when it was, and only then.

use crate::client::Client;
use crate::link::Socket;

pub fn check(client: &Client, socket: &Socket) -> Result<(), String> {
    let (told, truth) = (client.resumed, socket.resumed.unwrap_or(false));
    if told != Some(truth) {
        return Err(format!("CONNECT says resumed {told:?}, but it is {truth}: {socket:?}"));
    }
    Ok(())
}
