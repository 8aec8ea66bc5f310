//! What a watcher believes equals the truth when all is quiet, and never contradicts itself before.

use crate::client::{Client, RoomView, Stage, Watch};
use crate::model::{Model, NEVER_SEEN, Presence, Seen};

/// At rest: everything that the client watches is as the model says.
pub fn check(client: &Client, model: &Model, detail_limit: usize) -> Result<(), String> {
    if client.stage != Stage::Open {
        return Err(format!("it is {:?}", client.stage));
    }
    if !client.is_answered() {
        return Err(format!("{:?}, {:?}, {:?} wait", client.awaited, client.watches, client.progress));
    }
    if !client.active {
        return Ok(());
    }
    let view = &client.view;
    for user in bits(view.users) {
        check_user(client, model, user).map_err(|error| format!("watched {error}"))?;
    }
    for room in bits(view.rooms) {
        let truth = model.members(room);
        let count = truth.count_ones() as usize;
        let record = &view.room[room];
        let error = |what: &str| Err(format!("room {room} {what}: {record:?}, but it is {truth:b}, {count}"));
        if record.count != count {
            return error("is counted wrong");
        }
        if view.counted >> room & 1 == 1 {
            continue;
        }
        if count > detail_limit && !record.truncated || count * 10 < detail_limit * 9 && record.truncated {
            return error("is truncated or not");
        }
        if record.truncated {
            continue;
        }
        if record.members != truth {
            return error("has other members");
        }
        for user in bits(truth) {
            check_user(client, model, user).map_err(|error| format!("in room {room} {error}"))?;
        }
    }
    Ok(())
}

fn check_user(client: &Client, model: &Model, user: usize) -> Result<(), String> {
    let record = &model.users[user];
    let history = if user == client.user { &record.own } else { &record.public };
    let Some(known) = client.view.known[user] else { return Err(format!("user {user} was never told")) };
    let is_same = |presence: &Presence| *presence == history[known as usize];
    let truth = history.last().copied().unwrap_or(NEVER_SEEN);
    // Who was forgotten is as one who was never seen, for those who ask from then on. Who was told before, however
    // often the user came and was forgotten meanwhile, is told nothing by an answer that there is nothing new to know.
    let is_forgotten = truth == NEVER_SEEN && history.len() > 1;
    if is_same(&truth) || is_forgotten && history[known as usize].status == Seen::Offline {
        return Ok(());
    }
    Err(format!("user {user} is believed {:?} but is {truth:?}", history[known as usize]))
}

/// A state has told of every user that it was asked for, and of every room.
pub fn state_told_all(client: &Client, watch: &Watch, complete: bool, mentioned: u64) -> Result<(), String> {
    // What was given up since is not told.
    let (users, rooms) = (watch.users & client.view.users, watch.rooms & client.view.rooms);
    if let Some(user) = bits(users).find(|&user| client.view.known[user].is_none()) {
        return Err(format!("the state lacks user {user}"));
    }
    let later = client.watches.iter().fold(0, |rooms, watch| rooms | watch.rooms);
    let lacking = if complete { rooms & !mentioned & !later } else { 0 };
    if lacking != 0 {
        return Err(format!("the state lacks rooms {lacking:b}"));
    }
    Ok(())
}

/// Nobody is told that nothing changed.
pub fn change_says_something(users: usize, rooms: usize) -> Result<(), String> {
    if users + rooms == 0 { Err("a change without changes".into()) } else { Ok(()) }
}

/// A user stands once in a list.
pub fn is_new_in_list(list: &mut u64, user: usize) -> Result<(), String> {
    if *list >> user & 1 == 1 {
        return Err(format!("user {user} stands twice in one list"));
    }
    *list |= 1 << user;
    Ok(())
}

/// Who comes was not there, who leaves was; and something is said.
pub fn come_and_go(before: &RoomView, joined: u64, left: u64, truncated: bool, count: usize) -> Result<(), String> {
    if joined & before.members != 0 {
        return Err(format!("{joined:b} came, but {:b} were there", before.members));
    }
    if left & !before.members != 0 {
        return Err(format!("{left:b} left, but {:b} were there", before.members));
    }
    if joined | left == 0 && count == before.count && truncated == before.truncated {
        return Err("a room is told as it was".into());
    }
    Ok(())
}

/// A room that is told by name has as many members as are counted.
pub fn names_as_many_as_it_counts(room: &RoomView) -> Result<(), String> {
    if !room.truncated && room.members.count_ones() as usize != room.count {
        return Err(format!("{room:?}"));
    }
    Ok(())
}

pub fn bits(mask: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |bit| mask >> bit & 1 == 1)
}
