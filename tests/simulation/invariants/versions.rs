//! Whatever a watcher is told was true at some time, is never older than what it was told before, and is news if it is
//! told as news. Others never see what only the user's own connections may.

use crate::client::Client;
use crate::model::{Model, Presence, Seen};

pub fn check(client: &mut Client, user: usize, told: &Presence, is_change: bool, model: &Model) -> Result<(), String> {
    let is_own = user == client.user;
    if told.status == Seen::Invisible && !is_own {
        return Err("an invisible user is seen by others".into());
    }
    let view = &mut client.view;
    let history = if is_own { &model.users[user].own } else { &model.users[user].public };
    // Of those who are only seen in rooms, what one room tells may overtake what another does, once they were gone.
    // They are until the WATCH that names them is answered: what comes before may have been made before it.
    let is_watched = (view.users & view.held_users) >> user & 1 == 1;
    let floor = if is_watched { view.floor[user] as usize } else { 0 };
    let known = view.known[user].map(|known| known as usize);
    let search = |from: usize| history.iter().skip(from).position(|presence| presence == told).map(|at| from + at);
    // News is newer than what is known; the same content may have been there before. What was known from an earlier
    // connection may be more than its cursor claims, and than this connection's shard has heard: no news before it is.
    let is_known_here = view.told_here >> user & 1 == 1;
    let known_here = known.filter(|_| is_known_here).map_or(0, |known| known + 1);
    view.told_here |= 1 << user;
    let newer = if is_change { search(known_here.max(floor)) } else { search(floor) };
    // What a state told on the way, as of a room's member, or who left a room and came back, may come once more; and
    // what the own connections see, when their shard has not been asked for it before.
    let told_by_state = std::mem::replace(&mut view.by_state[user], !is_change);
    let is_member = view.room.iter().any(|room| room.members >> user & 1 == 1);
    let known_again = known.filter(|_| told_by_state || is_member || is_own);
    // Told once more, it says nothing about what came in between.
    let known_again = known_again.filter(|&known| is_change && history[known] == *told);
    let anyhow = if is_watched { None } else { search(0) };
    let found = known_again.or(newer).or(anyhow);
    let Some(found) = found else {
        // A connection whose place another took is its user's no more: for its last moment it sees what others see.
        let record = &model.users[user];
        if is_own && client.is_replaced && record.public.contains(told) {
            view.known[user].get_or_insert(record.own.len() as u32 - 1);
            return Ok(());
        }
        let known = known.map(|known| history[known]);
        return Err(match search(0) {
            None => format!("user {user} never was {told:?}; it was {:?}", history.last()),
            Some(_) if known.as_ref() == Some(told) => format!("user {user} is told as {told:?} again"),
            Some(at) => format!("user {user} goes back to {told:?}, number {at}, from {known:?}, number {floor}"),
        });
    };
    // The same content may have been there before, and what a connection is told first says no more than that its shard
    // has come as far as the earliest such moment.
    let certain = if is_known_here { found } else { search(0).unwrap_or(found) };
    view.known[user] = Some(certain as u32);
    view.floor[user] = found.max(floor) as u32;
    Ok(())
}
