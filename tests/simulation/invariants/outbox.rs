//! What waits for a full inbox is bounded by what there is, not by how often it changed.
//!
//! Questions and the answers to them are as many as were asked, and are not bounded here: `Follow`, `FollowRoom`, and
//! `RoomState` that answers one.

use std::collections::HashMap;

use rollcall::presence::change::Post;

/// What there is, as far as one shard may have to tell it to another.
pub struct World {
    /// Users that live with the one that tells.
    pub users: usize,
    /// Rooms that live there.
    pub rooms: usize,
    /// Users everywhere.
    pub all_users: usize,
    /// Rooms everywhere.
    pub all_rooms: usize,
    /// Connections that something waits to be told of: those that changed, and those that were lost meanwhile.
    pub connections: usize,
    /// The most that the other shard's connections are to be told of their places: by what opened and ended meanwhile.
    pub tidings: usize,
}

/// What one connection may have to be told of beside its rooms: that it opened, was abandoned, said something, ended.
const OF_A_CONNECTION: usize = 4;

pub fn check<'a>(posts: impl Iterator<Item = &'a Post>, world: &World) -> Result<(), String> {
    let mut connections: HashMap<_, usize> = HashMap::new();
    let (mut told, mut members, mut members_told, mut unfollowed, mut rooms_unfollowed) = (0, 0, 0, 0, 0);
    let (mut news, mut begun, mut answers, mut tidings) = (0, 0, 0, 0);
    for post in posts {
        let count = match post {
            Post::Presence(event) => connections.entry(event.connection).or_default(),
            Post::Told(_) => &mut told,
            Post::Member { .. } => &mut members,
            Post::MemberTold(_) => &mut members_told,
            Post::Unfollow { .. } => &mut unfollowed,
            Post::UnfollowRoom { .. } => &mut rooms_unfollowed,
            Post::RoomNews(_) => &mut news,
            Post::RoomState(state) if state.answers.is_none() => &mut begun,
            Post::RoomState(_) => &mut answers,
            Post::Opened { .. } | Post::Rooms { .. } | Post::Replaced(_) | Post::TooMany(..) => &mut tidings,
            // Addresses are not counted in this world.
            Post::Address { .. } => return Err("an address is told of".into()),
            Post::Follow { .. } | Post::FollowRoom(_) => continue,
        };
        *count += 1;
    }
    let busiest = connections.values().copied().max().unwrap_or(0);
    let bounds = [
        ("connections", connections.len(), world.connections),
        ("posts of one connection", busiest, OF_A_CONNECTION + world.all_rooms),
        ("presences", told, world.users),
        ("memberships", members, world.users * world.all_rooms),
        ("presences of members", members_told, world.users),
        ("users followed no more", unfollowed, world.all_users),
        ("rooms followed no more", rooms_unfollowed, world.all_rooms),
        // What happened in a room stands before a state of it, and what happened later behind.
        ("rooms' news", news, world.rooms + answers),
        ("rooms that begin anew", begun, world.rooms),
        ("connections' tidings", tidings, world.tidings),
    ];
    for (what, count, most) in bounds {
        if count > most {
            return Err(format!("{count} {what} wait for a full inbox, and {most} at most matter"));
        }
    }
    Ok(())
}
