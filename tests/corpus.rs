//! The seeds of each fuzz target, as a plain test; and what fuzzing found, where `FUZZ_CORPUS` names a folder of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, DirEntry};
use std::panic::catch_unwind;
use std::path::Path;

/// Runs `fuzz` over every seed of `target`, and names those that break its promises.
fn run_seeds(target: &str, fuzz: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let entries = |folder: &Path| -> Vec<DirEntry> { fs::read_dir(folder).unwrap().map(Result::unwrap).collect() };
    let mut inputs = entries(&folder);
    let seeds = inputs.len();
    let found = std::env::var_os("FUZZ_CORPUS").map(|corpus| Path::new(&corpus).join(target));
    inputs.extend(found.filter(|folder| folder.is_dir()).map(|folder| entries(&folder)).unwrap_or_default());
    let mut broken = Vec::new();
    for entry in inputs {
        let path = entry.path();
        let data = fs::read(&path).unwrap();
        if catch_unwind(|| fuzz(&data)).is_err() {
            broken.push(path.file_name().unwrap().to_owned());
        }
    }
    assert!(seeds >= 20, "only {seeds} seeds in {}", folder.display());
    assert!(broken.is_empty(), "of {seeds} seeds of {target}, these break a promise: {broken:?}");
}

#[test]
fn handshake() {
    run_seeds("handshake", rollcall::protocol::handshake::fuzz);
}

#[test]
fn frames() {
    run_seeds("frames", rollcall::protocol::assembly::fuzz);
}

#[test]
fn messages() {
    run_seeds("messages", rollcall::protocol::message::fuzz);
}

#[test]
fn tokens() {
    run_seeds("tokens", rollcall::auth::fuzz);
}

#[test]
fn configuration() {
    run_seeds("configuration", rollcall::config::fuzz);
}

#[test]
fn proxy() {
    run_seeds("proxy", rollcall::protocol::proxy::fuzz);
}

#[test]
fn connection() {
    run_seeds("connection", rollcall::shard::fuzz);
}

#[test]
fn tls() {
    run_seeds("tls", rollcall::shard::fuzz_tls);
}

#[test]
fn presence() {
    run_seeds("presence", rollcall::shard::fuzz_presence);
}
