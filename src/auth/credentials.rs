//! Where in a request to upgrade a token may stand: `Authorization: Bearer` (RFC 6750 §2.1), beside `rollcall.v1` in
//! `Sec-WebSocket-Protocol`, which is what browsers can do, or the query's `token`.

use crate::protocol::denial::Denial;
use crate::protocol::handshake::{SUBPROTOCOL, Upgrade};
use crate::protocol::query;

/// The token of a request; `None` where there is none.
///
/// # Errors
/// [`Denial::Several`] when there are tokens in several places, or several in one; [`Denial::Malformed`] when one is
/// not text.
pub fn token(upgrade: &Upgrade<'_>) -> Result<Option<String>, Denial> {
    let bearer = bearer(upgrade)?.map(str::to_owned);
    let offered = offered(upgrade)?.map(str::to_owned);
    let asked = query::token(upgrade.query).map_err(|invalid| match invalid {
        query::InvalidToken::Repeated => Denial::Several,
        query::InvalidToken::NotUtf8 => Denial::Malformed,
    })?;
    let mut given = [bearer, offered, asked].into_iter().flatten();
    let token = given.next();
    if given.next().is_some() { Err(Denial::Several) } else { Ok(token) }
}

/// The token of a header `Authorization: Bearer`. Other schemes are for somebody on the way, a proxy perhaps.
fn bearer<'a>(upgrade: &Upgrade<'a>) -> Result<Option<&'a str>, Denial> {
    only(upgrade.header("authorization").filter_map(|value| bearer_token(value).transpose()))
}

/// The token of an `Authorization` value of the scheme Bearer, whose name has no case (RFC 9110 §11.1).
///
/// # Errors
/// [`Denial::Malformed`] when it is not ASCII text.
pub fn bearer_token(value: &[u8]) -> Result<Option<&str>, Denial> {
    let Some((scheme, token)) = value.split_at_checked(7) else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Ok(None);
    }
    let token = str::from_utf8(token).map_err(|_| Denial::Malformed)?;
    Ok(Some(token.trim_ascii()))
}

/// The subprotocol that has the form of a token, where [`SUBPROTOCOL`] is offered with it.
fn offered<'a>(upgrade: &Upgrade<'a>) -> Result<Option<&'a str>, Denial> {
    let offers = || {
        let lists = upgrade.header("sec-websocket-protocol").filter_map(|value| str::from_utf8(value).ok());
        lists.flat_map(|list| list.split(',')).map(str::trim_ascii)
    };
    if !offers().any(|offer| offer == SUBPROTOCOL) {
        return Ok(None);
    }
    only(offers().filter(|offer| looks_like_a_token(offer)).map(Ok))
}

/// Whether `text` is three parts of base64url: no subprotocol that people name is.
fn looks_like_a_token(text: &str) -> bool {
    let is_base64url =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let mut parts = text.split('.');
    let whole = parts.by_ref().take(3).filter(|part| is_base64url(part)).count() == 3 && parts.next().is_none();
    // Every header begins with `{"`.
    whole && text.starts_with("ey")
}

fn only<'a>(mut given: impl Iterator<Item = Result<&'a str, Denial>>) -> Result<Option<&'a str>, Denial> {
    let first = given.next().transpose()?;
    if given.next().is_some() { Err(Denial::Several) } else { Ok(first) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::protocol::handshake::{Request, parse};

    fn given(target: &str, headers: &str) -> Result<Option<String>, Denial> {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        let Ok(Request::Upgrade(upgrade)) = parse(head.as_bytes()) else { panic!("refused: {head}") };
        token(&upgrade)
    }

    fn found(target: &str, headers: &str) -> Option<String> {
        given(target, headers).unwrap()
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        for header in
            ["Authorization: Bearer a.b.c\r\n", "authorization: bEARER a.b.c\r\n", "AUTHORIZATION:Bearer  a.b.c \r\n"]
        {
            assert_eq!(found("/", header).as_deref(), Some("a.b.c"), "{header}");
        }
        for header in [
            "Authorization: Basic YTpi\r\n",
            "Authorization: Bearer\r\n",
            "Authorization:\r\n",
            "X-Authorization: Bearer a\r\n",
        ] {
            assert_eq!(found("/", header), None, "{header}");
        }
    }

    #[test]
    fn a_token_beside_our_subprotocol_is_found_in_any_order() {
        for offer in [
            "Sec-WebSocket-Protocol: rollcall.v1, eyJh.eyJz.c2ln\r\n",
            "Sec-WebSocket-Protocol: eyJh.eyJz.c2ln,rollcall.v1\r\n",
            "Sec-WebSocket-Protocol: rollcall.v1\r\nSec-WebSocket-Protocol: graphql-ws,eyJh.eyJz.c2ln\r\n",
        ] {
            assert_eq!(found("/", offer).as_deref(), Some("eyJh.eyJz.c2ln"), "{offer}");
        }
        for offer in [
            "Sec-WebSocket-Protocol: eyJh.eyJz.c2ln\r\n",
            "Sec-WebSocket-Protocol: rollcall.v1\r\n",
            "Sec-WebSocket-Protocol: rollcall.v1, v10.stomp, a.b.c, eyJh.eyJz, eyJh.eyJz.c2ln.x, eyJh.ey!z.c2ln\r\n",
        ] {
            assert_eq!(found("/", offer), None, "{offer}");
        }
    }

    /// As many offers and blanks as a head can carry: each is looked at once (CVE-2021-32640 was not so).
    #[test]
    fn an_endless_list_of_offers_is_gone_through_once() {
        for filling in [" ", ",", " ,", "ey.ey.", "\t"] {
            let filling = filling.repeat(7_500 / filling.len());
            let offer = format!("Sec-WebSocket-Protocol: rollcall.v1,{filling},eyJh.eyJz.c2ln\r\n");
            assert_eq!(found("/", &offer).as_deref(), Some("eyJh.eyJz.c2ln"), "{filling:.8}");
        }
    }

    #[test]
    fn a_token_in_the_query_is_decoded() {
        assert_eq!(found("/?userId=ana&token=a%2Eb.c", "").as_deref(), Some("a.b.c"));
        assert_eq!(found("/ws?tok%65n=a", "").as_deref(), Some("a"));
        assert_eq!(found("/?Token=a", ""), None);
    }

    #[test]
    fn two_tokens_are_one_too_many_wherever_they_stand() {
        let (bearer, offer) = ("Authorization: Bearer a\r\n", "Sec-WebSocket-Protocol: rollcall.v1,eyJh.eyJz.c2ln\r\n");
        for (target, headers) in [
            ("/?token=a", bearer.to_owned()),
            ("/?token=a", offer.to_owned()),
            ("/?token=a&token=a", String::new()),
            ("/", format!("{bearer}{offer}")),
            ("/", format!("{bearer}{bearer}")),
            ("/", "Sec-WebSocket-Protocol: rollcall.v1,eyJh.eyJz.c2ln,eyJh.eyJz.c2ln\r\n".to_owned()),
        ] {
            assert_eq!(given(target, &headers), Err(Denial::Several), "{target} {headers}");
        }
        assert!(found("/?token=a", "Authorization: Basic YTpi\r\n").is_some());
    }
}
