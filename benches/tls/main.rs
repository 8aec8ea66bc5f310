//! What rustls's own server pays for a full handshake: the yardstick of Rollcall's.
//!
//! `tls CERTIFICATE KEY [COUNT]` shakes hands in memory, by rustls's ordinary API and with Rollcall's configuration,
//! and prints the microseconds of CPU of the server's part of each (TLS 1.3). `benches/tls/run` sets it beside
//! Rollcall, of which CPU is measured too: a clock would also count the time in which somebody else had the core.

#![allow(clippy::print_stdout)]

use std::env::args;
use std::io::{Read, Write};
use std::sync::Arc;

use anyhow::{Context, bail};
use rollcall::load::secure::{self, Trust};
use rollcall::sys::thread_cpu_ns;
use rollcall::tls::keys::{KeyFiles, KeyPaths};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};

/// Handshakes that are made before any is measured.
const WARM_UP: usize = 100;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [certificate, key, count @ ..] = &arguments[..] else { bail!("usage: tls CERTIFICATE KEY [COUNT]") };
    let count: usize = count.first().map_or(Ok(2000), |count| count.parse()).context("COUNT is a number")?;
    let paths = KeyPaths { certificate: certificate.into(), key: key.into(), client_ca: None };
    let (_, keys) = KeyFiles::open(paths)?;
    let client = secure::config(&Trust::Anybody, false, false).map_err(anyhow::Error::msg)?;
    let name = ServerName::try_from("rollcall.test")?;

    let mut spent_ns = 0;
    for round in 0..WARM_UP + count {
        let mut client = ClientConnection::new(Arc::clone(&client), name.clone())?;
        let mut wire = Vec::new();
        client.write_tls(&mut wire)?;
        let began_ns = thread_cpu_ns();
        let mut server = ServerConnection::new(Arc::clone(&keys.clients))?;
        let mut here_ns = thread_cpu_ns() - began_ns;
        while !wire.is_empty() {
            let began_ns = thread_cpu_ns();
            let mut incoming = &wire[..];
            while server.read_tls(&mut incoming)? > 0 {}
            server.process_new_packets()?;
            let mut answer = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answer)?;
            }
            here_ns += thread_cpu_ns() - began_ns;
            wire.clear();
            let mut incoming = &answer[..];
            while client.read_tls(&mut incoming)? > 0 {}
            client.process_new_packets()?;
            while client.wants_write() {
                client.write_tls(&mut wire)?;
            }
        }
        check(&mut client, &mut server)?;
        if round >= WARM_UP {
            spent_ns += here_ns;
        }
    }
    println!("{:.1}", spent_ns as f64 / 1e3 / count as f64);
    Ok(())
}

/// One word from end to end: the keys are the same.
fn check(client: &mut ClientConnection, server: &mut ServerConnection) -> anyhow::Result<()> {
    client.writer().write_all(b"word")?;
    let mut wire = Vec::new();
    client.write_tls(&mut wire)?;
    server.read_tls(&mut &wire[..])?;
    server.process_new_packets()?;
    let mut heard = [0; 4];
    server.reader().read_exact(&mut heard)?;
    if &heard == b"word" { Ok(()) } else { bail!("what was heard is not what was said") }
}
