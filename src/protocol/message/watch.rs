//! Whom and what a client wants to be told of.
//!
//! Nothing here is a limit: what a message may name is bounded by its size, what a connection may watch by the engine.

use simd_json::Node;

use super::json::{Items, Members};
use crate::protocol::cursor::Since;
use crate::protocol::error::{Field, InvalidMessage};
use crate::protocol::room_name::RoomName;
use crate::protocol::user_id::UserId;

/// What a WATCH names, in the order in which it is named. Twice is harmless, and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The users to be told of.
    pub users: Vec<UserId>,
    /// The rooms to be told of.
    pub rooms: Vec<WatchedRoom>,
    /// What the client has seen; none where it wants everything.
    pub since: Option<Since>,
}

/// A room to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedRoom {
    /// Which room.
    pub room: RoomName,
    /// How much of it.
    pub detail: Detail,
}

/// How much a watcher of a room is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Who is in it. What a room without `detail` is watched with.
    #[default]
    Full,
    /// How many are in it.
    Count,
}

/// What an UNWATCH names, in the order in which it is named. Twice is harmless, and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwatch {
    /// The users to be told of no more.
    pub users: Vec<UserId>,
    /// The rooms to be told of no more.
    pub rooms: Vec<RoomName>,
}

impl Watch {
    /// Reads the members of a WATCH's payload.
    pub(super) fn read(payload: Members<'_, '_>) -> Result<Self, InvalidMessage> {
        let (mut users, mut rooms, mut since) = (None, None, None);
        for (key, value) in payload {
            match key {
                "users" => users = Some(value),
                "rooms" => rooms = Some(value),
                "since" => since = Some(value),
                _ => {}
            }
        }
        Ok(Self {
            users: read_list(users, Field::Users, read_user)?,
            rooms: read_list(rooms, Field::Rooms, read_watched_room)?,
            since: since.map(read_since).transpose()?,
        })
    }
}

impl Detail {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Count => "count",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Full, Self::Count].into_iter().find(|detail| detail.as_str() == word)
    }
}

impl Unwatch {
    /// Reads the members of an UNWATCH's payload. A room may be named as WATCH names it; its detail is not looked at.
    pub(super) fn read(payload: Members<'_, '_>) -> Result<Self, InvalidMessage> {
        let (mut users, mut rooms) = (None, None);
        for (key, value) in payload {
            match key {
                "users" => users = Some(value),
                "rooms" => rooms = Some(value),
                _ => {}
            }
        }
        Ok(Self {
            users: read_list(users, Field::Users, read_user)?,
            rooms: read_list(rooms, Field::Rooms, |value, index| Ok(read_named_room(value, index)?.0))?,
        })
    }
}

/// The room that a JOIN's or LEAVE's payload names.
pub(super) fn read_room(mut payload: Members<'_, '_>) -> Result<Box<RoomName>, InvalidMessage> {
    let room = payload.find(|(key, _)| *key == "room").map(|(_, value)| value);
    room_name(room.unwrap_or_default(), Field::Room).map(Box::new)
}

/// Reads each item of the array that `value` is, with its place; none where there is no value.
fn read_list<T>(
    value: Option<&[Node<'_>]>,
    field: Field,
    read: impl Fn(&[Node<'_>], u32) -> Result<T, InvalidMessage>,
) -> Result<Vec<T>, InvalidMessage> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let Some(Node::Array { len, .. }) = value.first() else { return Err(InvalidMessage::FieldType { field }) };
    let mut list = Vec::with_capacity(*len);
    for (item, index) in Items::of(value).zip(0..) {
        list.push(read(item, index)?);
    }
    Ok(list)
}

fn read_user(value: &[Node<'_>], index: u32) -> Result<UserId, InvalidMessage> {
    let field = Field::User(index);
    UserId::parse(string(value, field)?).map_err(|error| InvalidMessage::BadUserId { field, error })
}

fn read_watched_room(value: &[Node<'_>], index: u32) -> Result<WatchedRoom, InvalidMessage> {
    let (room, detail) = read_named_room(value, index)?;
    let field = Field::RoomDetail(index);
    let detail = match detail {
        None => Detail::default(),
        Some(value) => Detail::parse(string(value, field)?).ok_or(InvalidMessage::DetailUnknown { field })?,
    };
    Ok(WatchedRoom { room, detail })
}

/// The name that an item of `rooms` is or has, and the `detail` beside it.
fn read_named_room<'tape, 'text>(
    value: &'tape [Node<'text>],
    index: u32,
) -> Result<(RoomName, Option<&'tape [Node<'text>]>), InvalidMessage> {
    match value.first() {
        Some(Node::String(_)) => Ok((room_name(value, Field::RoomItem(index))?, None)),
        Some(Node::Object { .. }) => {
            let (mut room, mut detail) = (None, None);
            for (key, value) in Members::of(value) {
                match key {
                    "room" => room = Some(value),
                    "detail" => detail = Some(value),
                    _ => {}
                }
            }
            Ok((room_name(room.unwrap_or_default(), Field::RoomItemName(index))?, detail))
        }
        _ => Err(InvalidMessage::FieldType { field: Field::RoomItem(index) }),
    }
}

fn room_name(value: &[Node<'_>], field: Field) -> Result<RoomName, InvalidMessage> {
    RoomName::parse(string(value, field)?).map_err(|error| InvalidMessage::BadRoom { field, error })
}

fn read_since(value: &[Node<'_>]) -> Result<Since, InvalidMessage> {
    string(value, Field::Since).map(Since::parse)
}

fn string<'text>(value: &[Node<'text>], field: Field) -> Result<&'text str, InvalidMessage> {
    match value.first() {
        Some(Node::String(text)) => Ok(text),
        _ => Err(InvalidMessage::FieldType { field }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::{ClientMessage, Parser};
    use super::*;
    use crate::protocol::cursor::{Cursor, Version};
    use crate::protocol::name::NameError;

    fn body(kind: &str, payload: &str) -> Result<ClientMessage, InvalidMessage> {
        let mut text = format!(r#"{{"payload":{payload},"type":"{kind}"}}"#).into_bytes();
        Parser::new().parse(&mut text).body
    }

    fn watch(payload: &str) -> Result<Watch, InvalidMessage> {
        match body("WATCH", payload)? {
            ClientMessage::Watch(watch) => Ok(*watch),
            other => panic!("{other:?}"),
        }
    }

    fn unwatch(payload: &str) -> Result<Unwatch, InvalidMessage> {
        match body("UNWATCH", payload)? {
            ClientMessage::Unwatch(unwatch) => Ok(*unwatch),
            other => panic!("{other:?}"),
        }
    }

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    #[test]
    fn users_and_rooms_are_read_in_order_and_kept_if_named_twice() {
        let read = watch(
            r#"{"rooms":["b",{"room":"a"},{"detail":"count","room":"b","x":[1]},{"room":"c","detail":"full"}],
                "x":{"users":[1]},"users":["bob","\u0061na","bob"]}"#,
        );
        let rooms = [("b", Detail::Full), ("a", Detail::Full), ("b", Detail::Count), ("c", Detail::Full)];
        let expected = Watch {
            users: ["bob", "ana", "bob"].map(user).to_vec(),
            rooms: rooms.map(|(name, detail)| WatchedRoom { room: room(name), detail }).to_vec(),
            since: None,
        };
        assert_eq!(read, Ok(expected));
        let read = unwatch(r#"{"rooms":["b",{"room":"a","detail":7},"b"],"since":7,"users":["ana"]}"#);
        assert_eq!(read, Ok(Unwatch { users: vec![user("ana")], rooms: ["b", "a", "b"].map(room).to_vec() }));
    }

    #[test]
    fn a_message_may_name_nothing() {
        for payload in ["{}", r#"{"users":[]}"#, r#"{"rooms":[],"users":[]}"#, r#"{"Users":["ana"]}"#] {
            assert_eq!(watch(payload), Ok(Watch { users: vec![], rooms: vec![], since: None }), "{payload}");
            assert_eq!(unwatch(payload), Ok(Unwatch { users: vec![], rooms: vec![] }), "{payload}");
        }
    }

    #[test]
    fn since_is_a_cursor_or_a_text_that_nobody_can_read() {
        let cursor = Cursor { process: 7, version: Version::at_ms(1_795_578_885_123) };
        let since = |text: &str| watch(&json!({ "since": text }).to_string()).map(|watch| watch.since);
        assert_eq!(since(cursor.to_text().as_str()), Ok(Some(Since::Readable(cursor))));
        for text in ["", "0", "A-\u{0}", &"A".repeat(64), &"A".repeat(65)] {
            assert_eq!(since(text), Ok(Some(Since::Unreadable)), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let wrong_type = |field| InvalidMessage::FieldType { field };
        let bad_user = |index, error| InvalidMessage::BadUserId { field: Field::User(index), error };
        let bad_room = |field, error| InvalidMessage::BadRoom { field, error };
        for (payload, error, sentence) in [
            ("[]", wrong_type(Field::Payload), "The field `payload` must be an object."),
            (r#"{"users":null}"#, wrong_type(Field::Users), "The field `payload.users` must be an array."),
            (r#"{"users":"ana"}"#, wrong_type(Field::Users), "The field `payload.users` must be an array."),
            (r#"{"users":{}}"#, wrong_type(Field::Users), "The field `payload.users` must be an array."),
            (r#"{"users":["a",7]}"#, wrong_type(Field::User(1)), "The field `payload.users[1]` must be a string."),
            (r#"{"users":[["a"]]}"#, wrong_type(Field::User(0)), "The field `payload.users[0]` must be a string."),
            (
                r#"{"users":["a","b",""]}"#,
                bad_user(2, NameError::Empty),
                "The field `payload.users[2]` must not be empty.",
            ),
            (
                r#"{"users":["a\u0085"]}"#,
                bad_user(0, NameError::ControlCharacter),
                "The field `payload.users[0]` must not contain control characters.",
            ),
            (r#"{"rooms":null}"#, wrong_type(Field::Rooms), "The field `payload.rooms` must be an array."),
            (
                r#"{"rooms":["a",[]]}"#,
                wrong_type(Field::RoomItem(1)),
                "The field `payload.rooms[1]` must be a string or an object.",
            ),
            (
                r#"{"rooms":[""]}"#,
                bad_room(Field::RoomItem(0), NameError::Empty),
                "The field `payload.rooms[0]` must not be empty.",
            ),
            (
                r#"{"rooms":[{"room":"a"},{}]}"#,
                wrong_type(Field::RoomItemName(1)),
                "The field `payload.rooms[1].room` must be a string.",
            ),
            (
                r#"{"rooms":[{"room":""}]}"#,
                bad_room(Field::RoomItemName(0), NameError::Empty),
                "The field `payload.rooms[0].room` must not be empty.",
            ),
        ] {
            assert_eq!(watch(payload), Err(error), "{payload}");
            assert_eq!(unwatch(payload), Err(error), "{payload}");
            assert_eq!(error.to_string(), sentence);
        }
        let too_long = format!(r#"{{"users":["{}"]}}"#, "a".repeat(129));
        assert_eq!(watch(&too_long), Err(bad_user(0, NameError::TooLong)));
        for (payload, error, sentence) in [
            (r#"{"since":null}"#, wrong_type(Field::Since), "The field `payload.since` must be a string."),
            (r#"{"since":0}"#, wrong_type(Field::Since), "The field `payload.since` must be a string."),
            (
                r#"{"rooms":["a",{"room":"b","detail":null}]}"#,
                wrong_type(Field::RoomDetail(1)),
                "The field `payload.rooms[1].detail` must be a string.",
            ),
            (
                r#"{"rooms":["a",{"room":"b","detail":"Full"}]}"#,
                InvalidMessage::DetailUnknown { field: Field::RoomDetail(1) },
                "The field `payload.rooms[1].detail` must be full or count.",
            ),
        ] {
            assert_eq!(watch(payload), Err(error), "{payload}");
            assert!(unwatch(payload).is_ok(), "{payload}");
            assert_eq!(error.to_string(), sentence);
        }
    }

    #[test]
    fn of_several_errors_users_come_before_rooms_and_rooms_before_since() {
        for (payload, field) in [
            (r#"{"since":1,"rooms":1,"users":1}"#, Field::Users),
            (r#"{"since":1,"rooms":1,"users":[1,2]}"#, Field::User(0)),
            (r#"{"since":1,"rooms":[{"detail":1},2]}"#, Field::RoomItemName(0)),
            (r#"{"since":1,"rooms":[{"detail":1,"room":"a"},2]}"#, Field::RoomDetail(0)),
        ] {
            assert_eq!(watch(payload), Err(InvalidMessage::FieldType { field }), "{payload}");
        }
    }

    #[test]
    fn a_join_and_a_leave_name_one_room() {
        for kind in ["JOIN", "LEAVE"] {
            let read = |payload: &str| match body(kind, payload)? {
                ClientMessage::Join { room } if kind == "JOIN" => Ok(*room),
                ClientMessage::Leave { room } if kind == "LEAVE" => Ok(*room),
                other => panic!("{other:?}"),
            };
            assert_eq!(read(r#"{"x":1,"room":"lobby"}"#), Ok(room("lobby")));
            for payload in ["null", "[]", r#""lobby""#] {
                assert_eq!(read(payload), Err(InvalidMessage::FieldType { field: Field::Payload }), "{payload}");
            }
            for payload in ["{}", r#"{"room":1}"#, r#"{"room":{"room":"a"}}"#, r#"{"rooms":["a"]}"#] {
                assert_eq!(read(payload), Err(InvalidMessage::FieldType { field: Field::Room }), "{payload}");
            }
            let error = InvalidMessage::BadRoom { field: Field::Room, error: NameError::Empty };
            assert_eq!(read(r#"{"room":""}"#), Err(error));
            assert_eq!(error.to_string(), "The field `payload.room` must not be empty.");
        }
    }

    /// What a watch means by the rules, read from serde_json's values; none where anything is wrong.
    fn understood(payload: &Value) -> Option<Watch> {
        let list = |key: &str| match payload.get(key) {
            None => Some(Vec::new()),
            Some(value) => value.as_array().cloned(),
        };
        let users = list("users")?.iter().map(|value| UserId::parse(value.as_str()?).ok()).collect::<Option<_>>()?;
        let rooms = list("rooms")?;
        let rooms = rooms.iter().map(|value| {
            let (name, detail) = match value {
                Value::String(name) => (name.as_str(), None),
                value => (value.get("room")?.as_str()?, value.get("detail")),
            };
            let detail = match detail.map(Value::as_str) {
                None | Some(Some("full")) => Detail::Full,
                Some(Some("count")) => Detail::Count,
                Some(_) => return None,
            };
            Some(WatchedRoom { room: RoomName::parse(name).ok()?, detail })
        });
        let rooms = rooms.collect::<Option<_>>()?;
        let since = match payload.get("since") {
            None => None,
            Some(value) => Some(Since::parse(value.as_str()?)),
        };
        Some(Watch { users, rooms, since })
    }

    /// Rarely anything but what is asked for.
    fn values(good: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        prop_oneof![
            40 => good,
            1 => prop::sample::select(vec![json!(null), json!(7), json!(""), json!([]), json!({}), json!(["a", {}])]),
        ]
    }

    fn payloads() -> impl Strategy<Value = Value> {
        let name = || values("[a-c]{1,3}|\\PC{1,40}|[\\x01é]{1,2}".prop_map(Value::from));
        let detail = values(prop::sample::select(vec!["full", "full", "count", "count", "half"]).prop_map(Value::from));
        let fields = (prop::option::of(name()), prop::option::of(detail));
        let named = fields.prop_map(|(room, detail)| {
            let fields = [("room", room), ("detail", detail)];
            fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect::<Value>()
        });
        let users = values(prop::collection::vec(name(), 0..6).prop_map(Value::from));
        let rooms = values(prop::collection::vec(prop_oneof![name(), values(named)], 0..6).prop_map(Value::from));
        let since = values("[A-Za-z0-9_-]{16}|\\PC{0,70}".prop_map(Value::from));
        (prop::option::of(users), prop::option::of(rooms), prop::option::of(since)).prop_map(|(users, rooms, since)| {
            let fields = [("users", users), ("rooms", rooms), ("since", since)];
            fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
        })
    }

    proptest! {
        #[test]
        fn any_watch_is_understood_as_by_another_parser(payload in payloads()) {
            let (read, expected) = (watch(&payload.to_string()), understood(&payload));
            prop_assert_eq!(read.clone().ok(), expected, "{} gives {:?}", payload, read);
            let mut without_the_rest = payload;
            let Some(fields) = without_the_rest.as_object_mut() else { return Ok(()) };
            fields.remove("since");
            for room in fields.get_mut("rooms").and_then(Value::as_array_mut).into_iter().flatten() {
                room.as_object_mut().map(|room| room.remove("detail"));
            }
            let expected = understood(&without_the_rest).map(|watch| Unwatch {
                users: watch.users,
                rooms: watch.rooms.into_iter().map(|watched| watched.room).collect(),
            });
            prop_assert_eq!(unwatch(&without_the_rest.to_string()).ok(), expected);
        }
    }
}
