//! What a connection may do: whom it speaks for, until when, and whom it may see.

use std::fmt;

use super::claims::{Claims, RoomClaim};
use crate::config::DefaultReach;
use crate::protocol::room_name::RoomName;
use crate::protocol::user_id::UserId;

/// What separates patterns inside [`Patterns`]: no name has control characters.
const SEPARATOR: u8 = b'\0';

/// What a verified token or the operator's service allows. Only [`crate::auth`] makes one.
#[derive(Debug)]
pub struct Grant {
    user_id: Option<UserId>,
    /// When it ends, in seconds since 1970; `None` where only the service vouched and named no end.
    pub expires_s: Option<u64>,
    /// Whom it may see; `None` for everybody, which costs nothing to keep.
    pub reach: Option<Box<Reach>>,
    /// Users to be watched from the first.
    pub watching: Vec<UserId>,
    /// Rooms to be in from the first.
    pub rooms: Vec<RoomName>,
}

impl Grant {
    /// The grant that `claims` amount to. What they leave open is `default`.
    pub(super) fn new(claims: Claims, default: DefaultReach) -> Self {
        let Claims { subject, expires_s, watch, rooms, watching, in_rooms, .. } = claims;
        let reach = Reach::new(watch.as_deref(), rooms.as_deref(), default);
        Self { user_id: subject, expires_s, reach, watching, rooms: in_rooms }
    }

    /// The user; `None` where the service vouched for the request as it was.
    pub fn user_id(&self) -> Option<&UserId> {
        self.user_id.as_ref()
    }

    /// The grant of somebody whom nobody vouched for, where that is allowed.
    pub(crate) fn of_nobody(default: DefaultReach) -> Self {
        Self::new(Claims::default(), default)
    }
}

/// How much of a room a connection may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoomAccess {
    /// Nothing: not even whether there is such a room.
    None,
    /// How many are in it.
    Count,
    /// Who is in it.
    Full,
}

/// Whom a connection may watch and which rooms it may join.
#[derive(Clone, PartialEq, Eq)]
pub struct Reach {
    /// `None` for everybody.
    watch: Option<Patterns>,
    /// `None` for all rooms.
    rooms: Option<RoomPatterns>,
}

#[derive(Clone, PartialEq, Eq)]
struct RoomPatterns {
    full: Patterns,
    count: Patterns,
}

impl Reach {
    fn new(watch: Option<&[Box<str>]>, rooms: Option<&[RoomClaim]>, default: DefaultReach) -> Option<Box<Self>> {
        let unsaid = |said: bool| !said && default == DefaultReach::All;
        if unsaid(watch.is_some()) && unsaid(rooms.is_some()) {
            return None;
        }
        let watch =
            (!unsaid(watch.is_some())).then(|| Patterns::new(watch.unwrap_or_default().iter().map(|name| &**name)));
        let rooms = (!unsaid(rooms.is_some())).then(|| {
            let of = |access| {
                let claims = rooms.unwrap_or_default().iter().filter(move |room| room.access == access);
                Patterns::new(claims.map(|room| &*room.pattern))
            };
            RoomPatterns { full: of(RoomAccess::Full), count: of(RoomAccess::Count) }
        });
        Some(Box::new(Self { watch, rooms }))
    }

    /// Whether the presence of `user_id` may be watched. Who may not be is to look like somebody who is offline.
    pub fn may_watch(&self, user_id: &str) -> bool {
        self.watch.as_ref().is_none_or(|patterns| patterns.match_name(user_id))
    }

    /// How much of the room of that name may be seen; the most of what its patterns say.
    pub fn room(&self, name: &str) -> RoomAccess {
        match &self.rooms {
            None => RoomAccess::Full,
            Some(rooms) if rooms.full.match_name(name) => RoomAccess::Full,
            Some(rooms) if rooms.count.match_name(name) => RoomAccess::Count,
            Some(_) => RoomAccess::None,
        }
    }

    /// The bytes that it takes, itself included.
    pub fn held_bytes(&self) -> usize {
        let rooms = self.rooms.as_ref().map_or(0, |rooms| rooms.full.len() + rooms.count.len());
        size_of::<Self>() + self.watch.as_ref().map_or(0, Patterns::len) + rooms
    }
}

/// Tells how much there is of it alone: patterns name users.
impl fmt::Debug for Reach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Reach({} bytes)", self.held_bytes())
    }
}

/// Names, and beginnings of names: those that ended with `*`.
#[derive(Clone, PartialEq, Eq)]
struct Patterns {
    names: Sorted,
    /// None of them begins with another: so of those that are not after a name only the last can be its beginning.
    beginnings: Sorted,
}

impl Patterns {
    fn new<'a>(patterns: impl Iterator<Item = &'a str>) -> Self {
        let (mut beginnings, mut names): (Vec<&str>, Vec<&str>) = patterns.partition(|pattern| pattern.ends_with('*'));
        names.sort_unstable();
        names.dedup();
        beginnings.iter_mut().for_each(|pattern| *pattern = &pattern[..pattern.len() - 1]);
        beginnings.sort_unstable();
        beginnings.dedup_by(|after, kept| after.starts_with(&**kept));
        Self { names: Sorted::of(&names), beginnings: Sorted::of(&beginnings) }
    }

    fn match_name(&self, name: &str) -> bool {
        self.names.last_up_to(name) == Some(name)
            || self.beginnings.last_up_to(name).is_some_and(|beginning| name.starts_with(beginning))
    }

    fn len(&self) -> usize {
        self.names.0.len() + self.beginnings.0.len()
    }
}

/// Texts in their order, each with [`SEPARATOR`] behind it: a claim may hold thousands, and a WATCH asks for as many.
#[derive(Clone, PartialEq, Eq)]
struct Sorted(Box<str>);

impl Sorted {
    fn of(texts: &[&str]) -> Self {
        Self(texts.iter().flat_map(|text| [text, "\0"]).collect::<String>().into_boxed_str())
    }

    /// The last of the texts that is not after `name`.
    fn last_up_to(&self, name: &str) -> Option<&str> {
        let bytes = self.0.as_bytes();
        // Those before `low` are not after it, those from `high` on are.
        let (mut low, mut high, mut found) = (0, bytes.len(), None);
        while low < high {
            let is_end = |byte: &u8| *byte == SEPARATOR;
            let middle = low + (high - low) / 2;
            let start = low + bytes[low..middle].iter().rposition(is_end).map_or(0, |end| end + 1);
            let end = start + bytes[start..].iter().position(is_end)?;
            let text = self.0.get(start..end)?;
            if text <= name {
                (low, found) = (end + 1, Some(text));
            } else {
                high = start;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn reach(claims: &str, default: DefaultReach) -> Option<Box<Reach>> {
        let claims = super::super::claims::read(&mut claims.to_owned().into_bytes()).unwrap();
        Grant::new(claims, default).reach
    }

    #[test]
    fn without_claims_everybody_is_seen_and_nothing_kept() {
        assert!(reach("{}", DefaultReach::All).is_none());
        let nobody = reach("{}", DefaultReach::None).unwrap();
        assert!(!nobody.may_watch("ana"));
        assert_eq!(nobody.room("lobby"), RoomAccess::None);
    }

    #[test]
    fn a_claim_bounds_its_own_kind_and_leaves_the_other_to_the_default() {
        let watch = reach(r#"{"watch":["ana"]}"#, DefaultReach::All).unwrap();
        assert!(watch.may_watch("ana") && !watch.may_watch("bob") && watch.room("lobby") == RoomAccess::Full);
        let rooms = reach(r#"{"rooms":["lobby"]}"#, DefaultReach::All).unwrap();
        assert!(rooms.may_watch("bob") && rooms.room("attic") == RoomAccess::None);
        let watch = reach(r#"{"watch":["*"]}"#, DefaultReach::None).unwrap();
        assert!(watch.may_watch("bob") && watch.room("lobby") == RoomAccess::None);
        let nobody = reach(r#"{"watch":[],"rooms":[]}"#, DefaultReach::All).unwrap();
        assert!(!nobody.may_watch("bob") && !nobody.may_watch("") && nobody.room("lobby") == RoomAccess::None);
    }

    #[test]
    fn a_star_at_the_end_is_any_end_and_elsewhere_itself() {
        let reach = reach(r#"{"watch":["team-*","a*b","ana"]}"#, DefaultReach::All).unwrap();
        for seen in ["team-", "team-1", "a*b", "ana"] {
            assert!(reach.may_watch(seen), "{seen}");
        }
        for unseen in ["team", "Team-1", "axb", "an", "anas", "xteam-1", ""] {
            assert!(!reach.may_watch(unseen), "{unseen}");
        }
    }

    #[test]
    fn a_room_is_as_open_as_the_most_open_of_its_patterns() {
        let claims = r#"{"rooms":[{"room":"*","access":"count"},"team-*",{"room":"team-1","access":"count"}]}"#;
        let reach = reach(claims, DefaultReach::None).unwrap();
        assert_eq!(reach.room("team-1"), RoomAccess::Full);
        assert_eq!(reach.room("lobby"), RoomAccess::Count);
    }

    #[test]
    fn debug_output_names_nobody() {
        let reach = reach(r#"{"watch":["ana"]}"#, DefaultReach::All).unwrap();
        assert!(!format!("{reach:?}").contains("ana"));
    }

    proptest! {
        #[test]
        fn patterns_match_as_a_slow_model_does(
            patterns in prop::collection::vec("[abé*]{1,4}", 0..12), name in "[abé*]{0,5}",
        ) {
            let model = patterns.iter().any(|pattern| {
                let signs: Vec<char> = pattern.chars().collect();
                let letters: Vec<char> = name.chars().collect();
                let (last, before) = signs.split_last().unwrap();
                if *last == '*' { letters.len() >= before.len() && letters[..before.len()] == *before } else { letters == signs }
            });
            prop_assert_eq!(Patterns::new(patterns.iter().map(String::as_str)).match_name(&name), model);
        }
    }
}
