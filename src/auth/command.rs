//! `rollcall token`: makes tokens to try things with, and says what a server would make of one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::{Arg, ArgMatches, Command, value_parser};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::claims;
use super::keys::{JwksOrigin, KeySet};
use super::verify::{Token, TokenTerms};
use crate::config::{DefaultReach, parse_duration};

const SECRET: &str = "jwt-hmac-secret-file";
const PRIVATE_KEY: &str = "jwt-private-key";
const PUBLIC_KEY: &str = "jwt-public-key";
const JWKS: &str = "jwt-jwks";
const AUDIENCE: &str = "jwt-audience";
const ISSUER: &str = "jwt-issuer";
const LEEWAY: &str = "jwt-leeway";

/// Does what the arguments behind `rollcall token` ask for, and returns how to exit: 1 where a token would be refused.
///
/// # Errors
/// When a file cannot be read or holds no key, as a sentence.
pub fn run(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            error.print().context("the help could not be printed")?;
            return Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)));
        }
    };
    let now_s = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let (text, accepted) = match matches.subcommand() {
        Some(("make", matches)) => (make(matches, now_s)? + "\n", true),
        Some((_, matches)) => explain(matches, now_s)?,
        None => bail!("say `make` or `explain`"),
    };
    // Whoever reads may have gone away; that is no fault to speak of.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(if accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn command() -> Command {
    let list = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("LIST").value_delimiter(',').help(help)
    };
    let text = |name: &'static str, help: &'static str| Arg::new(name).long(name).value_name("TEXT").help(help);
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    let duration = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("DURATION").default_value(default).value_parser(duration).help(help)
    };
    Command::new("rollcall token")
        .about("Makes and explains tokens, to try a server's authentication with")
        .no_binary_name(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("make")
                .about("Makes a token and writes it to standard output")
                .arg(
                    Arg::new("user")
                        .long("user")
                        .value_name("USER")
                        .required(true)
                        .help("Whom it is for: the claim sub"),
                )
                .arg(file(SECRET, "Sign with this secret, as HS256"))
                .arg(
                    file(PRIVATE_KEY, "Sign with this private key (PEM, PKCS#8), as RS256, ES256 or EdDSA by its kind")
                        .conflicts_with(SECRET),
                )
                .arg(duration("for", "1h", "How long it is good"))
                .arg(text(AUDIENCE, "The claim aud"))
                .arg(text(ISSUER, "The claim iss"))
                .arg(text("kid", "The header's kid, the name of the key"))
                .arg(list("watch", "The claim watch: userIds, with * at their end or without"))
                .arg(list("rooms", "The claim rooms; NAME:count grants numbers alone"))
                .arg(list("watching", "The claim watching: userIds to be watched from the first"))
                .arg(list("in", "The claim in: rooms to be in from the first")),
        )
        .subcommand(
            Command::new("explain")
                .about("Says what is in a token, and what a server with these knobs would make of it now")
                .arg(Arg::new("token").value_name("TOKEN").help("The token; without it, standard input is read"))
                .arg(file(SECRET, "As the server's knob"))
                .arg(file(PUBLIC_KEY, "As the server's knob"))
                .arg(file(JWKS, "As the server's knob, but a file alone"))
                .arg(list(AUDIENCE, "As the server's knob"))
                .arg(list(ISSUER, "As the server's knob"))
                .arg(duration(LEEWAY, "30s", "As the server's knob")),
        )
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|_| "a duration is written 500ms, 45s, 10m, 1h or 1d".to_owned())
}

/// A claim's value.
#[derive(Serialize)]
#[serde(untagged)]
enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Object(BTreeMap<&'static str, String>),
}

fn make(matches: &ArgMatches, now_s: u64) -> anyhow::Result<String> {
    let one = |name: &str| matches.get_one::<String>(name).cloned();
    let many = |name: &str| matches.get_many::<String>(name).map(|values| values.cloned().collect::<Vec<_>>());
    let lasts = matches.get_one::<Duration>("for").copied().unwrap_or_default();
    let mut claims = BTreeMap::new();
    claims.insert("iat", Value::Number(now_s));
    claims.insert("exp", Value::Number(now_s + lasts.as_secs()));
    for (claim, argument) in [("sub", "user"), ("aud", AUDIENCE), ("iss", ISSUER)] {
        if let Some(text) = one(argument) {
            claims.insert(claim, Value::Text(text));
        }
    }
    for claim in ["watch", "watching", "in"] {
        if let Some(names) = many(claim) {
            claims.insert(claim, Value::List(names.into_iter().map(Value::Text).collect()));
        }
    }
    if let Some(rooms) = many("rooms") {
        let rooms = rooms.into_iter().map(|room| match room.strip_suffix(":count") {
            Some(room) => Value::Object(BTreeMap::from([("access", "count".to_owned()), ("room", room.to_owned())])),
            None => Value::Text(room),
        });
        claims.insert("rooms", Value::List(rooms.collect()));
    }
    let (algorithm, key) = signing_key(matches)?;
    let header = Header { kid: one("kid"), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, &claims, &key).context("the key does not sign")
}

fn signing_key(matches: &ArgMatches) -> anyhow::Result<(Algorithm, EncodingKey)> {
    if let Some(path) = matches.get_one::<PathBuf>(SECRET) {
        let secret = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        KeySet::from_secret(&secret).with_context(|| path.display().to_string())?;
        return Ok((Algorithm::HS256, EncodingKey::from_secret(secret.trim_ascii_end())));
    }
    let Some(path) = matches.get_one::<PathBuf>(PRIVATE_KEY) else {
        bail!("name a key with --{SECRET} or --{PRIVATE_KEY}");
    };
    let pem = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let ed = EncodingKey::from_ed_pem(&pem).map(|key| (Algorithm::EdDSA, key));
    let ec = || EncodingKey::from_ec_pem(&pem).map(|key| (Algorithm::ES256, key));
    let rsa = || EncodingKey::from_rsa_pem(&pem).map(|key| (Algorithm::RS256, key));
    let key = ed.or_else(|_| ec()).or_else(|_| rsa());
    key.ok().with_context(|| format!("{} has no private key in PEM (PKCS#8)", path.display()))
}

/// The explanation, and whether the token is accepted.
fn explain(matches: &ArgMatches, now_s: u64) -> anyhow::Result<(String, bool)> {
    let token = match matches.get_one::<String>("token") {
        Some(token) => token.clone(),
        None => {
            let mut token = String::new();
            io::stdin().read_to_string(&mut token).context("standard input cannot be read")?;
            token
        }
    };
    let token = token.trim();
    let parts = Token::split(token).and_then(|parts| Some((parts.header_text()?, parts.claims_text()?)));
    let Some((header, claims)) = parts else {
        return Ok(("refused: not three parts of base64url with dots between them\n".to_owned(), false));
    };
    let mut text = format!("header: {}\n", String::from_utf8_lossy(&header).escape_debug());
    text.push_str(&format!("claims: {}\n", String::from_utf8_lossy(&claims).escape_debug()));
    match claims::read(&mut claims.clone()) {
        Err(error) => text.push_str(&format!("        {error}\n")),
        Ok(claims) => {
            if let Some(expires_s) = claims.expires_s {
                text.push_str(&format!("        exp is {}\n", from_now(expires_s, now_s)));
            }
            if let Some(not_before_s) = claims.not_before_s {
                text.push_str(&format!("        nbf is {}\n", from_now(not_before_s, now_s)));
            }
        }
    }
    let keys = verifying_keys(matches)?;
    if keys.is_empty() {
        text.push_str("the signature was not looked at: name a key\n");
        return Ok((text, false));
    }
    let many =
        |name: &str| matches.get_many::<String>(name).map(|values| values.cloned().collect()).unwrap_or_default();
    let terms = TokenTerms {
        audience: many(AUDIENCE),
        issuers: many(ISSUER),
        leeway_s: matches.get_one::<Duration>(LEEWAY).map_or(0, Duration::as_secs),
        default_reach: DefaultReach::All,
    };
    match terms.verify(token, &keys, now_s) {
        Ok(grant) => {
            let user = grant.user_id().map_or("nobody", |user| user.as_str());
            text.push_str(&format!("accepted for {user}\n"));
            Ok((text, true))
        }
        Err(denial) => {
            text.push_str(&format!("refused ({}): {}\n", denial.label(), denial.sentence()));
            Ok((text, false))
        }
    }
}

fn from_now(seconds: u64, now_s: u64) -> String {
    match seconds.checked_sub(now_s) {
        Some(ahead) => format!("in {ahead} s"),
        None => format!("{} s ago", now_s - seconds),
    }
}

fn verifying_keys(matches: &ArgMatches) -> anyhow::Result<KeySet> {
    let file = |name: &str| -> anyhow::Result<Option<(String, Vec<u8>)>> {
        let Some(path) = matches.get_one::<PathBuf>(name) else { return Ok(None) };
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some((path.display().to_string(), bytes)))
    };
    let mut keys = KeySet::default();
    if let Some((path, bytes)) = file(SECRET)? {
        keys = keys.and(KeySet::from_secret(&bytes).context(path)?);
    }
    if let Some((path, bytes)) = file(PUBLIC_KEY)? {
        keys = keys.and(KeySet::from_pem(&String::from_utf8_lossy(&bytes)).context(path)?);
    }
    if let Some((path, bytes)) = file(JWKS)? {
        keys = keys.and(KeySet::from_jwks(&bytes, JwksOrigin::File).context(path)?);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const NOW_S: u64 = 1_795_578_885;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("rollcall-token-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, content: &str) -> String {
            let path = self.0.join(name);
            fs::write(&path, content).unwrap();
            path.display().to_string()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn matches(arguments: &[&str]) -> ArgMatches {
        command().try_get_matches_from(arguments).unwrap().subcommand().unwrap().1.clone()
    }

    #[test]
    fn what_is_made_is_explained_and_accepted_until_it_ends() {
        let folder = Folder::new("made");
        // The line feed at the end is no part of the secret, here as in the server.
        let secret = folder.file("secret", &format!("{}\n", "s".repeat(32)));
        let flags = ["make", "--user", "ana", "--jwt-hmac-secret-file", &secret, "--for", "10m", "--kid", "k1"];
        let more = ["--watch", "bob,team-*", "--rooms", "lobby:count,r*", "--watching", "bob", "--in", "r1"];
        let token = make(&matches(&[&flags[..], &more].concat()), NOW_S).unwrap();
        let asked = matches(&["explain", &token, "--jwt-hmac-secret-file", &secret]);
        let (text, accepted) = explain(&asked, NOW_S).unwrap();
        assert!(accepted && text.ends_with("accepted for ana\n"), "{text}");
        for part in ["HS256", "k1", "team-*", "count", "exp is in 600 s"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let (text, accepted) = explain(&asked, NOW_S + 630).unwrap();
        assert!(!accepted && text.ends_with("refused (expired): The token has expired.\n"), "{text}");
    }

    #[test]
    fn without_a_key_nothing_is_accepted() {
        let folder = Folder::new("keyless");
        let secret = folder.file("secret", &"s".repeat(32));
        let other = folder.file("other", &"o".repeat(32));
        let token = make(&matches(&["make", "--user", "ana", "--jwt-hmac-secret-file", &secret]), NOW_S).unwrap();
        assert!(!explain(&matches(&["explain", &token]), NOW_S).unwrap().1);
        let (text, accepted) =
            explain(&matches(&["explain", &token, "--jwt-hmac-secret-file", &other]), NOW_S).unwrap();
        assert!(!accepted && text.contains("refused (signature)"), "{text}");
        assert!(!explain(&matches(&["explain", "nonsense"]), NOW_S).unwrap().1);
        assert!(make(&matches(&["make", "--user", "ana"]), NOW_S).is_err());
    }
}
