//! What a token or the operator's service says (RFC 7519 §4), strictly: a claim of the wrong type is a refusal, never
//! an absence.

use std::hash::RandomState;

use simd_json::{Buffers, Node, StaticNode, Tape};

use super::grant::RoomAccess;
use crate::protocol::message::json::{Items, Members, has_duplicate_keys};
use crate::protocol::room_name::RoomName;
use crate::protocol::user_id::UserId;

/// The last second of the year 9999: times beyond it are mistakes, mostly milliseconds.
const SECONDS_MAX: u64 = 253_402_300_799;

/// What is said; `None` and empty lists where nothing is.
#[derive(Debug, Default)]
pub struct Claims {
    /// `iss`.
    pub issuer: Option<Box<str>>,
    /// `sub`: a userId.
    pub subject: Option<UserId>,
    /// `aud`, one or several.
    pub audience: Option<Vec<Box<str>>>,
    /// `exp`, in whole seconds since 1970.
    pub expires_s: Option<u64>,
    /// `nbf`, likewise.
    pub not_before_s: Option<u64>,
    /// `watch`: patterns of userIds.
    pub watch: Option<Vec<Box<str>>>,
    /// `rooms`: patterns of rooms, each with how much of it may be seen.
    pub rooms: Option<Vec<RoomClaim>>,
    /// `watching`: userIds.
    pub watching: Vec<UserId>,
    /// `in`: rooms.
    pub in_rooms: Vec<RoomName>,
    /// `allow`, which only the service says.
    pub allow: Option<bool>,
}

/// One of `rooms`: a pattern alone grants all of the room, `{"room": pattern, "access": "count"}` its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomClaim {
    /// The room's name, or its beginning with `*` behind it.
    pub pattern: Box<str>,
    /// How much of it may be seen.
    pub access: RoomAccess,
}

/// Why a text holds no claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClaims {
    /// Not JSON, or JSON with a key twice.
    #[error("the claims are not valid JSON")]
    NotJson,
    /// JSON, but no object.
    #[error("the claims are not a JSON object")]
    NotAnObject,
    /// A claim of the wrong type, or with a value that it cannot have.
    #[error("the claim `{claim}` must be {expected}")]
    Claim {
        /// Its name.
        claim: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

/// Reads the claims in `text`, which is scratch space afterwards. Claims that nobody here knows are ignored.
///
/// # Errors
/// [`InvalidClaims`].
pub fn read(text: &mut [u8]) -> Result<Claims, InvalidClaims> {
    with_tape(text, |tape| {
        let Some(Node::Object { .. }) = tape.first() else { return Err(InvalidClaims::NotAnObject) };
        let mut claims = Claims::default();
        for (name, value) in Members::of(tape) {
            claims.take(name, value)?;
        }
        Ok(claims)
    })
    .unwrap_or(Err(InvalidClaims::NotJson))
}

/// Reads JSON as the protocol has it (no key twice), without recursion; `None` where it is none.
pub(super) fn with_tape<T>(text: &mut [u8], read: impl FnOnce(&[Node<'_>]) -> T) -> Option<T> {
    let mut tape = Tape(Vec::new());
    simd_json::fill_tape(text, &mut Buffers::with_max_depth(0, usize::MAX), &mut tape).ok()?;
    (!has_duplicate_keys(&tape.0, &RandomState::new())).then(|| read(&tape.0))
}

impl Claims {
    fn take(&mut self, name: &str, value: &[Node<'_>]) -> Result<(), InvalidClaims> {
        match name {
            "iss" => self.issuer = Some(text("iss", value)?.into()),
            "sub" => self.subject = Some(user_id("sub", value.first(), "a userId")?),
            "aud" => self.audience = Some(audience(value)?),
            "exp" => self.expires_s = Some(seconds("exp", value)?),
            "nbf" => self.not_before_s = Some(seconds("nbf", value)?),
            // Nothing hangs on it, but whoever got it wrong has other things wrong.
            "iat" => drop(seconds("iat", value)?),
            "watch" => self.watch = Some(list("watch", value, |node| pattern("watch", node))?),
            "rooms" => self.rooms = Some(rooms(value)?),
            "watching" => {
                self.watching = list("watching", value, |node| user_id("watching", node.first(), "a list of userIds"))?;
            }
            "in" => self.in_rooms = list("in", value, room)?,
            "allow" => match value.first() {
                Some(Node::Static(StaticNode::Bool(allow))) => self.allow = Some(*allow),
                _ => return Err(InvalidClaims::Claim { claim: "allow", expected: "true or false" }),
            },
            _ => {}
        }
        Ok(())
    }
}

fn text<'a>(claim: &'static str, value: &[Node<'a>]) -> Result<&'a str, InvalidClaims> {
    match value.first() {
        Some(Node::String(text)) => Ok(text),
        _ => Err(InvalidClaims::Claim { claim, expected: "a string" }),
    }
}

/// A NumericDate (RFC 7519 §2), of which we take whole seconds alone.
fn seconds(claim: &'static str, value: &[Node<'_>]) -> Result<u64, InvalidClaims> {
    let seconds = match value.first() {
        Some(Node::Static(StaticNode::U64(seconds))) => Some(*seconds),
        Some(Node::Static(StaticNode::I64(seconds))) => u64::try_from(*seconds).ok(),
        _ => None,
    };
    let expected = "a whole number of seconds since 1970, before the year 10000";
    seconds.filter(|seconds| *seconds <= SECONDS_MAX).ok_or(InvalidClaims::Claim { claim, expected })
}

fn user_id(claim: &'static str, node: Option<&Node<'_>>, expected: &'static str) -> Result<UserId, InvalidClaims> {
    match node {
        Some(Node::String(text)) => UserId::parse(text).ok(),
        _ => None,
    }
    .ok_or(InvalidClaims::Claim { claim, expected })
}

fn audience(value: &[Node<'_>]) -> Result<Vec<Box<str>>, InvalidClaims> {
    match value.first() {
        Some(Node::String(audience)) => Ok(vec![(*audience).into()]),
        _ => list("aud", value, |node| text("aud", node).map(Box::from)),
    }
    .map_err(|_| InvalidClaims::Claim { claim: "aud", expected: "a string or a list of strings" })
}

/// A name or its beginning; both are bounded as names are.
fn pattern(claim: &'static str, value: &[Node<'_>]) -> Result<Box<str>, InvalidClaims> {
    let expected = "a list of names, each with `*` at its end or without";
    user_id(claim, value.first(), expected).map(|name| name.as_str().into())
}

fn room(value: &[Node<'_>]) -> Result<RoomName, InvalidClaims> {
    match value.first() {
        Some(Node::String(text)) => RoomName::parse(text).ok(),
        _ => None,
    }
    .ok_or(InvalidClaims::Claim { claim: "in", expected: "a list of rooms" })
}

fn rooms(value: &[Node<'_>]) -> Result<Vec<RoomClaim>, InvalidClaims> {
    let expected = "a list of rooms, each a name or {\"room\": name, \"access\": \"full\" or \"count\"}";
    let wrong = InvalidClaims::Claim { claim: "rooms", expected };
    list("rooms", value, |node| match node.first() {
        Some(Node::Object { .. }) => {
            let (mut name, mut access) = (None, None);
            for (key, value) in Members::of(node) {
                match (key, value.first()) {
                    ("room", _) => name = Some(pattern("rooms", value)?),
                    ("access", Some(Node::String("full"))) => access = Some(RoomAccess::Full),
                    ("access", Some(Node::String("count"))) => access = Some(RoomAccess::Count),
                    // What is not understood might be meant to narrow the grant.
                    _ => return Err(wrong),
                }
            }
            name.zip(access).map(|(pattern, access)| RoomClaim { pattern, access }).ok_or(wrong)
        }
        _ => pattern("rooms", node).map(|pattern| RoomClaim { pattern, access: RoomAccess::Full }),
    })
    .map_err(|_| wrong)
}

/// The elements of an array, each read by `read` from its nodes.
pub(super) fn list<'tape, 'text, T>(
    claim: &'static str,
    value: &'tape [Node<'text>],
    read: impl FnMut(&'tape [Node<'text>]) -> Result<T, InvalidClaims>,
) -> Result<Vec<T>, InvalidClaims> {
    let Some(Node::Array { .. }) = value.first() else {
        return Err(InvalidClaims::Claim { claim, expected: "a list" });
    };
    Items::of(value).map(read).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Claims, InvalidClaims> {
        read(&mut text.to_owned().into_bytes())
    }

    /// The name of the claim that is refused.
    fn wrong(text: &str) -> &'static str {
        match parse(text) {
            Err(InvalidClaims::Claim { claim, .. }) => claim,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn each_claim_is_read() {
        let claims = parse(
            r#"{"iss":"i","sub":"ana","aud":["a","b"],"exp":1795578885,"nbf":0,"iat":1,"jti":[],"x":{},
            "watch":["bob","team-*"],"rooms":["r*",{"access":"count","room":"lobby"}],"watching":["bob"],"in":["r1"]}"#,
        )
        .unwrap();
        assert_eq!(claims.issuer.as_deref(), Some("i"));
        assert_eq!(claims.subject.unwrap().as_str(), "ana");
        assert_eq!(claims.audience.unwrap(), ["a".into(), "b".into()]);
        assert_eq!((claims.expires_s, claims.not_before_s), (Some(1_795_578_885), Some(0)));
        assert_eq!(claims.watch.unwrap(), ["bob".into(), "team-*".into()]);
        let rooms: Vec<_> = claims.rooms.unwrap().into_iter().map(|room| (room.pattern, room.access)).collect();
        assert_eq!(rooms, [("r*".into(), RoomAccess::Full), ("lobby".into(), RoomAccess::Count)]);
        assert_eq!(claims.watching[0].as_str(), "bob");
        assert_eq!(claims.in_rooms[0].as_str(), "r1");
        assert_eq!(parse(r#"{"aud":"a"}"#).unwrap().audience.unwrap(), ["a".into()]);
    }

    #[test]
    fn a_time_of_the_wrong_type_is_refused_and_never_absent() {
        for claim in ["exp", "nbf", "iat"] {
            for value in [
                "\"1795578885\"",
                "null",
                "-1",
                "1795578885.0",
                "1795578885.5",
                "1e9",
                "true",
                "[]",
                "[1795578885]",
                "{}",
                "253402300800",
                "1795578885123",
                "18446744073709551615",
                "-9223372036854775808",
            ] {
                assert_eq!(wrong(&format!("{{\"{claim}\":{value}}}")), claim, "{value}");
            }
            // Beyond what JSON's reader takes for a number at all.
            for value in ["18446744073709551616", "1e999", "NaN", "Infinity", "0x10"] {
                assert_eq!(parse(&format!("{{\"{claim}\":{value}}}")).unwrap_err(), InvalidClaims::NotJson, "{value}");
            }
            assert!(parse(&format!("{{\"{claim}\":253402300799}}")).is_ok());
        }
    }

    #[test]
    fn a_name_of_the_wrong_type_is_refused() {
        for value in ["null", "1", "true", "[\"ana\"]", "{}", "\"\"", "\"a\\u0000b\"", "1.5"] {
            assert_eq!(wrong(&format!("{{\"sub\":{value}}}")), "sub", "{value}");
        }
        for value in ["null", "1", "[\"i\"]", "{}"] {
            assert_eq!(wrong(&format!("{{\"iss\":{value}}}")), "iss", "{value}");
        }
        for value in ["null", "1", "{}", "[1]", "[null]", "[[\"a\"]]", "{\"0\":\"a\"}"] {
            assert_eq!(wrong(&format!("{{\"aud\":{value}}}")), "aud", "{value}");
        }
    }

    #[test]
    fn a_list_of_the_wrong_type_is_refused() {
        for claim in ["watch", "rooms", "watching", "in"] {
            for value in ["null", "\"*\"", "1", "{}", "[1]", "[null]", "[[\"a\"]]", "[\"a\",\"\"]", "[\"a\\u0000b\"]"] {
                assert_eq!(wrong(&format!("{{\"{claim}\":{value}}}")), claim, "{value}");
            }
        }
        for room in [
            "{}",
            r#"{"room":"a"}"#,
            r#"{"access":"count"}"#,
            r#"{"room":"a","access":"Count"}"#,
            r#"{"room":"a","access":1}"#,
            r#"{"room":"a","access":"count","until":1}"#,
            r#"{"room":["a"],"access":"full"}"#,
        ] {
            assert_eq!(wrong(&format!("{{\"rooms\":[{room}]}}")), "rooms", "{room}");
        }
    }

    #[test]
    fn an_array_is_no_object_of_claims() {
        for text in ["[]", r#"["i","ana",[],1795578885]"#, "null", "\"exp\"", "1"] {
            assert_eq!(parse(text).unwrap_err(), InvalidClaims::NotAnObject, "{text}");
        }
        for text in ["", "{", "{\"exp\":1,\"exp\":2}", "{\"exp\":1,\"\\u0065xp\":2}", "{\"a\":\"\\ud800\"}"] {
            assert_eq!(parse(text).unwrap_err(), InvalidClaims::NotJson, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(\\{\"(exp|sub|aud|rooms|in)\":|[\\[\\]{},:]|-?[0-9]{1,20}|\"\\PC{0,4}\"){0,12}") {
            let _ = parse(&text);
        }

        #[test]
        fn whole_seconds_come_back(seconds in 0..=SECONDS_MAX) {
            let claims = parse(&format!("{{\"exp\":{seconds}}}"));
            prop_assert_eq!(claims.unwrap().expires_s, Some(seconds));
        }
    }
}
