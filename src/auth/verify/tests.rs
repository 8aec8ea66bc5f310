//! Tokens that others made: PyPI's PyJWT and npm's jose (tests/foreign/tokens has what made them).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use serde_json::Value;

use super::super::keys::{InvalidKeys, JwksOrigin};
use super::super::{Reach, RoomAccess};
use super::*;

fn made_by(maker: &str) -> Value {
    let text = match maker {
        "pyjwt" => include_str!("../../../tests/foreign/tokens/pyjwt.json"),
        _ => include_str!("../../../tests/foreign/tokens/jose.json"),
    };
    serde_json::from_str(text).unwrap()
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().fold(value, |value, name| &value[*name]).as_str().unwrap()
}

fn secret(made: &Value) -> KeySet {
    KeySet::from_secret(text(made, &["secret"]).as_bytes()).unwrap()
}

fn pem(made: &Value, kind: &str) -> KeySet {
    KeySet::from_pem(text(made, &["pem", kind])).unwrap()
}

fn jwks(made: &Value) -> KeySet {
    KeySet::from_jwks(made["jwks"].to_string().as_bytes(), JwksOrigin::Network).unwrap()
}

fn terms() -> TokenTerms {
    TokenTerms {
        audience: vec!["rollcall".to_owned()],
        issuers: vec!["https://issuer.example".to_owned(), "https://other.example".to_owned()],
        leeway_s: 30,
        default_reach: DefaultReach::All,
    }
}

fn verify(made: &Value, token: &str, keys: &KeySet) -> Result<Grant, Denial> {
    terms().verify(token, keys, made["now"].as_u64().unwrap())
}

#[test]
fn each_algorithm_holds_for_tokens_of_both_makers() {
    for maker in ["pyjwt", "jose"] {
        let made = made_by(maker);
        for (algorithm, keys) in [
            ("HS256", secret(&made)),
            ("RS256", pem(&made, "rsa")),
            ("ES256", pem(&made, "ec")),
            ("EdDSA", pem(&made, "ed")),
        ] {
            let grant = verify(&made, text(&made, &["accepted", algorithm]), &keys).unwrap();
            assert_eq!(grant.user_id().unwrap().as_str(), "ana", "{maker} {algorithm}");
            assert_eq!(grant.expires_s, Some(made["now"].as_u64().unwrap() + 3600));
        }
        for (algorithm, kid) in [("RS256", ""), ("RS256", " with kid"), ("ES256", " with kid"), ("EdDSA", " with kid")]
        {
            let token = text(&made, &["accepted", &format!("{algorithm}{kid}")]);
            assert!(verify(&made, token, &jwks(&made)).is_ok(), "{maker} {algorithm}{kid}");
        }
    }
    let made = made_by("jose");
    assert!(verify(&made, text(&made, &["accepted", "Ed25519"]), &pem(&made, "curve")).is_ok());
    assert!(verify(&made, text(&made, &["accepted", "Ed25519 with kid"]), &jwks(&made)).is_ok());
}

#[test]
fn a_token_of_another_algorithm_than_its_keys_is_refused_for_it() {
    let made = made_by("pyjwt");
    let kinds = [
        ("HS256", secret(&made)),
        ("RS256", pem(&made, "rsa")),
        ("ES256", pem(&made, "ec")),
        ("EdDSA", pem(&made, "ed")),
    ];
    for (algorithm, _) in &kinds {
        for (other, keys) in &kinds {
            let verdict = verify(&made, text(&made, &["accepted", algorithm]), keys);
            assert_eq!(verdict.err(), (algorithm != other).then_some(Denial::Algorithm), "{algorithm} by {other}");
        }
    }
}

#[test]
fn a_public_key_is_never_taken_for_a_secret() {
    let made = made_by("pyjwt");
    let forged = made["refused"]["HS256 with the RSA key's PEM for a secret"][1].as_str().unwrap();
    assert_eq!(verify(&made, forged, &pem(&made, "rsa")).unwrap_err(), Denial::Algorithm);
    assert_eq!(verify(&made, forged, &jwks(&made)).unwrap_err(), Denial::Algorithm);
    let all = pem(&made, "rsa").and(secret(&made)).and(jwks(&made));
    assert_eq!(verify(&made, forged, &all).unwrap_err(), Denial::Signature);
}

#[test]
fn whatever_is_wrong_is_told_by_its_name() {
    let made = made_by("pyjwt");
    let mut refused = 0;
    // The secret, and beside it every other key that there is.
    for keys in [secret(&made), secret(&made).and(pem(&made, "rsa")).and(jwks(&made))] {
        for (name, case) in made["refused"].as_object().unwrap() {
            let denial = verify(&made, case[1].as_str().unwrap(), &keys).expect_err(name);
            assert_eq!(denial.label(), case[0].as_str().unwrap(), "{name}");
            refused += 1;
        }
    }
    assert!(refused > 80, "{refused}");
}

#[test]
fn a_key_signs_for_its_own_issuer_alone() {
    let made = made_by("pyjwt");
    let keys = jwks(&made);
    assert!(verify(&made, text(&made, &["accepted", "ES256 with kid"]), &keys).is_ok());
    assert!(verify(&made, text(&made, &["accepted", "ES256 of the other issuer"]), &keys).is_ok());
    let forged = text(&made, &["accepted", "ES256 of another issuer's key"]);
    assert_eq!(verify(&made, forged, &keys).unwrap_err(), Denial::Issuer);
}

#[test]
fn a_key_that_nobody_has_is_told_from_one_that_does_not_fit() {
    let made = made_by("jose");
    let foreign = jwks(&made_by("pyjwt"));
    let verdict = verify(&made, text(&made, &["accepted", "ES256 with kid"]), &foreign);
    assert_eq!(verdict.unwrap_err(), Denial::UnknownKey);
    let verdict = verify(&made, text(&made, &["accepted", "ES256"]), &foreign);
    assert_eq!(verdict.unwrap_err(), Denial::Signature);
    assert_eq!(verify(&made, text(&made, &["accepted", "ES256"]), &KeySet::default()).unwrap_err(), Denial::UnknownKey);
}

#[test]
fn audience_and_issuer_are_asked_for_only_where_they_are_configured() {
    let made = made_by("pyjwt");
    let now_s = made["now"].as_u64().unwrap();
    let keys = secret(&made);
    let with = |terms: &TokenTerms, name: &str| terms.verify(text(&made, &["accepted", name]), &keys, now_s).err();
    assert_eq!(with(&terms(), "audience in a list"), None);
    assert_eq!(with(&terms(), "no audience"), Some(Denial::Audience));
    assert_eq!(with(&terms(), "no issuer"), Some(Denial::Issuer));
    let open = TokenTerms { audience: Vec::new(), issuers: Vec::new(), ..terms() };
    assert_eq!(with(&open, "no audience"), None);
    // RFC 7519 §4.1.3: a token that is for somebody is not for whoever has no name.
    assert_eq!(with(&open, "HS256"), Some(Denial::Audience));
    assert_eq!(with(&TokenTerms { issuers: Vec::new(), ..terms() }, "no issuer"), None);
}

#[test]
fn times_hold_to_the_second_and_the_leeway_is_added() {
    let made = made_by("pyjwt");
    let (now_s, keys) = (made["now"].as_u64().unwrap(), secret(&made));
    let at = |now_s: u64| terms().verify(text(&made, &["accepted", "HS256"]), &keys, now_s).err();
    assert_eq!(at(now_s + 3600 + 29), None);
    assert_eq!(at(now_s + 3600 + 30), Some(Denial::Expired));
    assert_eq!(at(u64::MAX), Some(Denial::Expired));
    let early = made["refused"]["not valid yet"][1].as_str().unwrap();
    assert!(terms().verify(early, &keys, now_s + 1).is_ok());
    assert_eq!(terms().verify(early, &keys, 0).unwrap_err(), Denial::NotYetValid);
}

#[test]
fn claims_of_ours_become_what_a_connection_may_do() {
    let made = made_by("pyjwt");
    let grant = verify(&made, text(&made, &["accepted", "claims of ours"]), &secret(&made)).unwrap();
    let reach: &Reach = grant.reach.as_deref().unwrap();
    assert!(reach.may_watch("bob") && reach.may_watch("team-7") && !reach.may_watch("eve"));
    assert_eq!(
        ["r1", "lobby-2", "attic"].map(|room| reach.room(room)),
        [RoomAccess::Full, RoomAccess::Count, RoomAccess::None]
    );
    assert_eq!((grant.watching[0].as_str(), grant.rooms[0].as_str()), ("bob", "r1"));
}

#[test]
fn keys_that_are_not_for_us_are_left_out_or_refused() {
    let made = made_by("pyjwt");
    assert_eq!((jwks(&made).len(), jwks(&made).left_out()), (4, 4));
    for (name, pem) in made["other_pem"].as_object().unwrap() {
        assert_eq!(KeySet::from_pem(pem.as_str().unwrap()).unwrap_err(), InvalidKeys::Unsupported, "{name}");
    }
    let private = InvalidKeys::NotPublic { label: "PRIVATE KEY".to_owned() };
    assert_eq!(KeySet::from_pem(text(&made, &["private_pem", "rsa"])).unwrap_err(), private);
    assert_eq!(KeySet::from_pem("no PEM").unwrap_err(), InvalidKeys::NoPem);
    let broken = text(&made, &["pem", "ec"]).replacen('A', "B", 9);
    assert_eq!(KeySet::from_pem(&broken).unwrap_err(), InvalidKeys::Unsupported);
    assert_eq!(KeySet::from_secret(&[b's'; 31]).unwrap_err(), InvalidKeys::ShortSecret { bytes: 31 });
    assert!(KeySet::from_secret(&[&[b's'; 31][..], b"\r\n"].concat()).is_err());
}

#[test]
fn several_keys_in_one_file_are_all_tried() {
    let (python, node) = (made_by("pyjwt"), made_by("jose"));
    let both = format!("old\n{}\nnew\n{}", text(&python, &["pem", "ec"]), text(&node, &["pem", "ec"]));
    let keys = KeySet::from_pem(&both).unwrap();
    assert_eq!(keys.len(), 2);
    for made in [python, node] {
        assert!(verify(&made, text(&made, &["accepted", "ES256"]), &keys).is_ok());
    }
}

#[test]
fn a_secret_is_taken_from_a_file_and_never_from_the_network() {
    let made = made_by("pyjwt");
    let secret = BASE64URL_NOPAD.encode(text(&made, &["secret"]).as_bytes());
    let set = format!(r#"{{"keys":[{{"kty":"oct","k":"{secret}"}}]}}"#);
    let keys = KeySet::from_jwks(set.as_bytes(), JwksOrigin::File).unwrap();
    assert!(verify(&made, text(&made, &["accepted", "HS256"]), &keys).is_ok());
    assert_eq!(KeySet::from_jwks(set.as_bytes(), JwksOrigin::Network).unwrap_err(), InvalidKeys::NoneUsable);
}

#[test]
fn what_is_no_key_set_says_so() {
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#] {
        let error = KeySet::from_jwks(text.as_bytes(), JwksOrigin::File).unwrap_err();
        assert!(matches!(error, InvalidKeys::NotJwks(_)), "{text}: {error}");
    }
    for keys in ["[]", "[1]", "[[]]", "[{}]", r#"[{"kty":1}]"#, r#"[{"kty":"RSA","n":"AQAB","e":"AQAB"}]"#] {
        let set = format!(r#"{{"keys":{keys}}}"#);
        assert_eq!(KeySet::from_jwks(set.as_bytes(), JwksOrigin::File).unwrap_err(), InvalidKeys::NoneUsable, "{keys}");
    }
}

#[test]
fn one_token_is_not_tried_with_many_keys() {
    let made = made_by("jose");
    let others = (0u8..8).map(|key| KeySet::from_secret(&[key; 32]).unwrap());
    let keys = others.fold(KeySet::default(), KeySet::and).and(secret(&made));
    assert_eq!(verify(&made, text(&made, &["accepted", "HS256"]), &keys).unwrap_err(), Denial::Signature);
}

/// Centrifugo's CVE-2026-32301, and its like: a token that says where its key is, or brings it along.
#[test]
fn a_token_that_names_its_own_key_is_held_against_ours() {
    let made = made_by("jose");
    let key = &made["jwks"]["keys"][1];
    let ours = secret(&made);
    let claims = r#"{"sub":"ana","exp":9999999999,"iss":"http://127.0.0.1:1/","aud":"rollcall"}"#;
    for header in [
        format!(r#"{{"alg":"HS256","jwk":{{"kty":"oct","k":"{}"}}}}"#, BASE64URL_NOPAD.encode(&[b'k'; 32])),
        format!(r#"{{"alg":"ES256","jwk":{key}}}"#),
        r#"{"alg":"HS256","jku":"http://127.0.0.1:1/jwks"}"#.to_owned(),
        r#"{"alg":"HS256","x5u":"http://127.0.0.1:1/pem"}"#.to_owned(),
        r#"{"alg":"HS256","kid":"../../../../dev/null"}"#.to_owned(),
    ] {
        let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let theirs = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[b'k'; 32]);
        let signature = BASE64URL_NOPAD.encode(aws_lc_rs::hmac::sign(&theirs, message.as_bytes()).as_ref());
        let denial = verify(&made, &format!("{message}.{signature}"), &ours).unwrap_err();
        let expected = if header.contains("ES256") { Denial::Algorithm } else { Denial::Signature };
        assert_eq!(denial, expected, "{header}");
    }
}

#[test]
fn what_is_no_token_is_malformed() {
    let made = made_by("pyjwt");
    let keys = secret(&made);
    let token = text(&made, &["accepted", "HS256"]);
    let (header, rest) = token.split_once('.').unwrap();
    for broken in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        rest.to_owned(),
        format!("{token}."),
        format!(".{token}"),
        format!("{header}=.{rest}"),
        format!(" {token}"),
        format!("{header}\n.{rest}"),
        "x".repeat(TOKEN_BYTES_MAX + 1),
        format!("{}.{rest}", BASE64URL_NOPAD.encode(&vec![b' '; HEADER_BYTES_MAX + 1])),
    ] {
        assert_eq!(verify(&made, &broken, &keys).unwrap_err(), Denial::Malformed, "{broken:.60}");
    }
}

proptest! {
    #[test]
    fn a_token_that_was_changed_anywhere_is_refused(place: prop::sample::Index, sign in "[A-Za-z0-9_.-]") {
        let made = made_by("jose");
        let token = text(&made, &["accepted", "ES256"]).to_owned();
        let mut changed = token.clone();
        let place = place.index(token.len());
        changed.replace_range(place..=place, &sign);
        prop_assert_eq!(verify(&made, &changed, &pem(&made, "ec")).is_ok(), changed == token);
    }

    #[test]
    fn promises_hold_for_any_bytes(data: Vec<u8>) {
        fuzz(&data);
    }

    #[test]
    fn promises_hold_for_claims_of_any_kind(
        claims in "\\{(\"(exp|nbf|sub|aud|iss|watch|rooms)\":([0-9]{1,11}|-1|null|\"\\PC{0,3}\"|\\[\\]),){0,3}\"sub\":\"a\"\\}",
    ) {
        fuzz(&[b"\x01", claims.as_bytes()].concat());
    }
}
