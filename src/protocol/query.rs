//! What a client says of itself in the address that it opens: `ws://host:3000/?userId=ana&status=away`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::name::NameError;
use super::status::Status;
use super::user_id::UserId;

/// The query of a WebSocket upgrade, read as browsers write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// `userId`: whom the connection speaks for.
    pub user_id: UserId,
    /// `status`: the status to begin with; absent means online.
    pub status: Option<Status>,
    /// `heartbeatTimeout`: the silence the client asks to be granted, in milliseconds. Any integer, negative ones too:
    /// moving it to the operator's bounds is the caller's. What 64 bits do not hold is the nearest that they do.
    pub heartbeat_timeout_ms: Option<i64>,
    /// `session`: the session that the client would go on with. Any text: whether it is one of the user's is not asked
    /// here. Empty where the bytes, decoded, are no text, for no session has that name.
    pub session: Option<Box<str>>,
}

/// What is wrong with a query. The sentence is the close frame's reason, so it has at most 120 bytes (RFC 6455 §5.5
/// leaves 123).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuery {
    /// No `userId`.
    #[error("The query parameter userId is missing.")]
    UserIdMissing,
    /// A `userId` that cannot be one.
    #[error("The query parameter userId {0}.")]
    UserId(NameError),
    /// A `userId` whose bytes, decoded, are no text.
    #[error("The query parameter userId must be UTF-8, percent-encoded.")]
    UserIdNotUtf8,
    /// A `userId` other than the one that was proven.
    #[error("The query parameter userId is not the token's sub.")]
    UserIdOther,
    /// A `status` that is none.
    #[error("The query parameter status must be online, away, busy or invisible.")]
    Status,
    /// A `heartbeatTimeout` that is no integer.
    #[error("The query parameter heartbeatTimeout must be an integer, in milliseconds.")]
    HeartbeatTimeout,
    /// A parameter of ours given more than once: which one was meant is not for the server to guess.
    #[error("The query parameter {parameter} must be given only once.")]
    Repeated {
        /// The parameter's name.
        parameter: &'static str,
    },
}

impl Query {
    /// Reads `query`, the text after the `?`, still percent-encoded.
    ///
    /// The encoding is that of HTML forms (WHATWG URL, `application/x-www-form-urlencoded`): `+` is a space, and a `%`
    /// that no two hexadecimal digits follow is itself. Parameters that the protocol does not have are ignored.
    ///
    /// # Errors
    /// The first thing that is wrong, from left to right; a missing `userId` last.
    pub fn parse(query: &str) -> Result<Self, InvalidQuery> {
        Self::parse_for(query, None)
    }

    /// Reads `query` likewise where `proven` is who the client is known to be: `userId` may be left out then.
    ///
    /// # Errors
    /// As [`Query::parse`]; [`InvalidQuery::UserIdOther`] last.
    pub fn parse_for(query: &str, proven: Option<&UserId>) -> Result<Self, InvalidQuery> {
        let mut user_id = None;
        let mut status = None;
        let mut heartbeat_timeout_ms = None;
        let mut session = None;

        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A name that is no text is none of ours.
            match decode(name).as_deref() {
                Some("userId") => set_once(&mut user_id, "userId", parse_user_id(value)?)?,
                Some("status") => set_once(&mut status, "status", parse_status(value)?)?,
                Some("heartbeatTimeout") => {
                    set_once(&mut heartbeat_timeout_ms, "heartbeatTimeout", parse_heartbeat_timeout(value)?)?;
                }
                Some("session") => set_once(&mut session, "session", parse_session(value))?,
                _ => {}
            }
        }
        let user_id = match (user_id, proven) {
            (Some(given), Some(proven)) if given != *proven => return Err(InvalidQuery::UserIdOther),
            (Some(given), _) => given,
            (None, proven) => proven.cloned().ok_or(InvalidQuery::UserIdMissing)?,
        };
        Ok(Self { user_id, status, heartbeat_timeout_ms, session })
    }
}

/// Why the query holds no token that could be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidToken {
    /// `token` more than once.
    Repeated,
    /// Bytes that, decoded, are no text.
    NotUtf8,
}

/// The query's `token`, decoded; `None` where there is none. [`Query`] does not hold it, so that nothing shows it.
///
/// # Errors
/// [`InvalidToken`].
pub fn token(query: &str) -> Result<Option<String>, InvalidToken> {
    let mut token = None;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(name).as_deref() == Some("token") {
            let value = decode(value).ok_or(InvalidToken::NotUtf8)?.into_owned();
            if token.replace(value).is_some() {
                return Err(InvalidToken::Repeated);
            }
        }
    }
    Ok(token)
}

/// The text that `encoded` stands for; none where its bytes are not UTF-8.
fn decode(encoded: &str) -> Option<Cow<'_, str>> {
    if !encoded.contains('+') {
        return percent_decode_str(encoded).decode_utf8().ok();
    }
    // Before the percent signs: `%2B` is a plus that stays one.
    let spaced = encoded.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
}

fn set_once<T>(place: &mut Option<T>, parameter: &'static str, value: T) -> Result<(), InvalidQuery> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(InvalidQuery::Repeated { parameter }),
    }
}

fn parse_user_id(value: &str) -> Result<UserId, InvalidQuery> {
    let name = decode(value).ok_or(InvalidQuery::UserIdNotUtf8)?;
    UserId::parse(&name).map_err(InvalidQuery::UserId)
}

fn parse_status(value: &str) -> Result<Status, InvalidQuery> {
    decode(value).and_then(|word| Status::parse(&word)).ok_or(InvalidQuery::Status)
}

fn parse_heartbeat_timeout(value: &str) -> Result<i64, InvalidQuery> {
    let text = decode(value).ok_or(InvalidQuery::HeartbeatTimeout)?;
    let digits = text.strip_prefix('-').unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidQuery::HeartbeatTimeout);
    }
    // What is left to fail is the size.
    Ok(text.parse().unwrap_or(if text.starts_with('-') { i64::MIN } else { i64::MAX }))
}

fn parse_session(value: &str) -> Box<str> {
    decode(value).as_deref().unwrap_or_default().into()
}

/// Holds the parser to its promises over any bytes. The body of the fuzz target, and of a test over its corpus.
///
/// # Panics
/// When a promise does not hold.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Ok(query) = str::from_utf8(data) else { return };
    match Query::parse(query) {
        Ok(parsed) => {
            // Written anew, with each byte of the name encoded, it must mean the same.
            let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let mut again = format!("userId={}", encode(parsed.user_id.as_str()));
            if let Some(status) = parsed.status {
                again.push_str("&status=");
                again.push_str(status.as_str());
            }
            if let Some(heartbeat_timeout_ms) = parsed.heartbeat_timeout_ms {
                again.push_str(&format!("&heartbeatTimeout={heartbeat_timeout_ms}"));
            }
            if let Some(session) = &parsed.session {
                again.push_str(&format!("&session={}", encode(session)));
            }
            assert_eq!(Query::parse(&again), Ok(parsed));
        }
        Err(error) => {
            let reason = error.to_string();
            assert!(reason.len() <= 120 && reason.is_ascii(), "{reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn user_id(query: &str) -> Result<String, InvalidQuery> {
        Query::parse(query).map(|query| query.user_id.as_str().to_owned())
    }

    fn heartbeat_timeout_ms(value: &str) -> Result<Option<i64>, InvalidQuery> {
        Query::parse(&format!("userId=ana&heartbeatTimeout={value}")).map(|query| query.heartbeat_timeout_ms)
    }

    #[test]
    fn a_user_id_alone_is_enough() {
        let query = Query::parse("userId=ana").unwrap();
        assert_eq!(query.user_id.as_str(), "ana");
        assert_eq!((query.status, query.heartbeat_timeout_ms, query.session), (None, None, None));
    }

    #[test]
    fn a_user_id_is_decoded_as_browsers_encode_it() {
        assert_eq!(user_id("userId=ana+mar%C3%ADa").unwrap(), "ana maría");
        assert_eq!(user_id("userId=ana%20b").unwrap(), "ana b");
        assert_eq!(user_id("userId=1%2B1").unwrap(), "1+1");
        assert_eq!(user_id("userId=%26%3d%25").unwrap(), "&=%");
        assert_eq!(user_id("userId=a=b").unwrap(), "a=b");
        assert_eq!(user_id("user%49d=ana").unwrap(), "ana");
        assert_eq!(user_id("userId=maría").unwrap(), "maría");
    }

    #[test]
    fn a_percent_sign_without_two_digits_is_itself() {
        assert_eq!(user_id("userId=100%").unwrap(), "100%");
        assert_eq!(user_id("userId=%zz%4").unwrap(), "%zz%4");
    }

    #[test]
    fn a_missing_or_invalid_user_id_is_named() {
        for query in ["", "&", "=", "userid=ana", "user=ana", "status=away", "userId%3Dana"] {
            assert_eq!(user_id(query), Err(InvalidQuery::UserIdMissing), "{query:?}");
        }
        assert_eq!(user_id("userId"), Err(InvalidQuery::UserId(NameError::Empty)));
        assert_eq!(user_id("userId="), Err(InvalidQuery::UserId(NameError::Empty)));
        assert_eq!(user_id("userId=a%00"), Err(InvalidQuery::UserId(NameError::ControlCharacter)));
        assert_eq!(user_id("userId=a%C2%85"), Err(InvalidQuery::UserId(NameError::ControlCharacter)));
        assert_eq!(user_id("userId=%ff"), Err(InvalidQuery::UserIdNotUtf8));
        assert_eq!(user_id("userId=+%ff"), Err(InvalidQuery::UserIdNotUtf8));
        assert_eq!(user_id(&format!("userId={}", "a".repeat(129))), Err(InvalidQuery::UserId(NameError::TooLong)));
        assert!(user_id(&format!("userId={}", "%61".repeat(128))).is_ok());
    }

    #[test]
    fn a_parameter_given_twice_is_refused_even_with_the_same_value() {
        for (query, parameter) in [
            ("userId=ana&userId=ana", "userId"),
            ("userId=ana&user%49d=bob", "userId"),
            ("status=away&userId=ana&status=away", "status"),
            ("userId=ana&heartbeatTimeout=1&heartbeatTimeout=1", "heartbeatTimeout"),
            ("session=&userId=ana&session=a", "session"),
        ] {
            assert_eq!(Query::parse(query), Err(InvalidQuery::Repeated { parameter }), "{query}");
        }
    }

    #[test]
    fn unknown_parameters_are_ignored_whatever_they_hold() {
        assert_eq!(user_id("&&v=1&v=2&%ff=%ff&token&=x&userId=ana&Status=x&").unwrap(), "ana");
    }

    #[test]
    fn a_proven_user_need_not_be_named_and_must_not_be_another() {
        let ana = UserId::parse("ana").unwrap();
        for query in ["", "userId=ana", "status=away"] {
            assert_eq!(Query::parse_for(query, Some(&ana)).unwrap().user_id, ana, "{query}");
        }
        assert_eq!(Query::parse_for("userId=bob", Some(&ana)), Err(InvalidQuery::UserIdOther));
        assert_eq!(Query::parse_for("userId=", Some(&ana)), Err(InvalidQuery::UserId(NameError::Empty)));
    }

    #[test]
    fn a_token_is_decoded_and_stands_once() {
        assert_eq!(token("userId=ana&token=a%2eb+c"), Ok(Some("a.b c".to_owned())));
        assert_eq!(token("tok%65n="), Ok(Some(String::new())));
        assert_eq!(token("Token=a&xtoken=b"), Ok(None));
        assert_eq!(token("token=a&token=a"), Err(InvalidToken::Repeated));
        assert_eq!(token("token=%ff"), Err(InvalidToken::NotUtf8));
    }

    #[test]
    fn a_status_is_one_of_four_words() {
        for (query, status) in [
            ("online", Status::Online),
            ("away", Status::Away),
            ("bus%79", Status::Busy),
            ("invisible", Status::Invisible),
        ] {
            assert_eq!(Query::parse(&format!("userId=ana&status={query}")).unwrap().status, Some(status));
        }
        for value in ["", "Away", "offline", "away+", "%ff"] {
            assert_eq!(Query::parse(&format!("userId=ana&status={value}")), Err(InvalidQuery::Status), "{value:?}");
        }
    }

    #[test]
    fn a_heartbeat_timeout_is_any_integer() {
        assert_eq!(heartbeat_timeout_ms("30000"), Ok(Some(30_000)));
        assert_eq!(heartbeat_timeout_ms("0030000"), Ok(Some(30_000)));
        assert_eq!(heartbeat_timeout_ms("0"), Ok(Some(0)));
        assert_eq!(heartbeat_timeout_ms("-5"), Ok(Some(-5)));
        assert_eq!(heartbeat_timeout_ms("9223372036854775808"), Ok(Some(i64::MAX)));
        assert_eq!(heartbeat_timeout_ms(&"9".repeat(4000)), Ok(Some(i64::MAX)));
        assert_eq!(heartbeat_timeout_ms(&format!("-{}", "9".repeat(4000))), Ok(Some(i64::MIN)));
        for value in ["", "-", "--1", "+1", "%2B1", "1.5", "1e3", "30s", " 1", "1+", "0x10", "%ff", "٣"] {
            assert_eq!(heartbeat_timeout_ms(value), Err(InvalidQuery::HeartbeatTimeout), "{value:?}");
        }
    }

    #[test]
    fn a_session_is_any_text_and_never_an_error() {
        for (value, session) in [("abc-_9", "abc-_9"), ("", ""), ("a+b%2B%00", "a b+\0"), ("%ff", ""), ("a%ff+", "")] {
            let query = Query::parse(&format!("session={value}&userId=ana")).unwrap();
            assert_eq!(query.session.as_deref(), Some(session), "{value:?}");
        }
        assert_eq!(Query::parse("userId=ana&session").unwrap().session.as_deref(), Some(""));
        assert_eq!(Query::parse("userId=ana&Session=a&sessionId=b").unwrap().session, None);
    }

    #[test]
    fn each_reason_fits_a_close_frame_and_names_its_parameter() {
        for (error, parameter) in [
            (InvalidQuery::UserIdMissing, "userId"),
            (InvalidQuery::UserId(NameError::Empty), "userId"),
            (InvalidQuery::UserId(NameError::TooLong), "userId"),
            (InvalidQuery::UserId(NameError::ControlCharacter), "userId"),
            (InvalidQuery::UserIdNotUtf8, "userId"),
            (InvalidQuery::UserIdOther, "userId"),
            (InvalidQuery::Status, "status"),
            (InvalidQuery::HeartbeatTimeout, "heartbeatTimeout"),
            (InvalidQuery::Repeated { parameter: "heartbeatTimeout" }, "heartbeatTimeout"),
        ] {
            let reason = error.to_string();
            assert!(reason.len() <= 120 && reason.contains(parameter), "{reason}");
        }
    }

    proptest! {
        #[test]
        fn an_encoded_name_comes_back(name in "\\PC{1,32}") {
            let query = format!("userId={}", utf8_percent_encode(&name, NON_ALPHANUMERIC));
            prop_assert_eq!(user_id(&query), Ok(name));
        }

        #[test]
        fn any_query_is_read_or_refused(
            query in "((userId|status|heartbeatTimeout|session)=|[&=%+]|%[0-9a-fA-F]{2}|away|-?[0-9]{1,20}|\\PC){0,12}",
        ) {
            fuzz(query.as_bytes());
        }

        #[test]
        fn any_bytes_are_read_or_refused(data: Vec<u8>) {
            fuzz(&data);
        }
    }
}
