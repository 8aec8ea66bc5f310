//! The codecs: frames and their masks, messages, the request to upgrade, and what is written in answer.

// What the macros make cannot be documented.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rollcall::config::Config;
use rollcall::protocol::assembly;
use rollcall::protocol::frame::{unmask, write_text};
use rollcall::protocol::handshake;
use rollcall::protocol::message::{Parser, write_heartbeat_ack};
use rollcall::protocol::query::Query;
use rollcall::protocol::timestamp::Timestamp;
use rollcall::shard::core::Limits;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const HEARTBEAT: &[u8] = br#"{"type":"HEARTBEAT","timestamp":"2026-11-25T03:54:45.123Z"}"#;
/// A heartbeat that only the full parser knows.
const HEARTBEAT_WITH_ID: &[u8] = br#"{"type":"HEARTBEAT","id":12345}"#;
const UPDATE: &[u8] = br#"{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{"device":"phone","text":"in a meeting until four","battery":0.83,"rooms":["a","b"]}}}"#;
const REQUEST: &[u8] = b"GET /?userId=00000000-0000-4000-8000-000000000001&status=away HTTP/1.1\r\n\
    Host: 127.0.0.1:3000\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn frames(criterion: &mut Criterion) {
    let limits = Limits::new(&Config::default()).messages;
    let mut group = criterion.benchmark_group("frames");
    let mut frame = vec![0x81, 0x80 | HEARTBEAT.len() as u8];
    frame.extend_from_slice(&MASK);
    frame.extend_from_slice(HEARTBEAT);
    unmask(&mut frame[6..], MASK, 0);
    group.bench_function("read a heartbeat's", |bencher| {
        bencher.iter_batched_ref(
            || frame.clone(),
            |frame| assembly::next(&mut None, &mut &mut frame[..], &limits).is_ok(),
            BatchSize::SmallInput,
        );
    });
    for bytes in [59, 4096] {
        let mut payload = vec![b'x'; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("unmask {bytes} bytes"), |bencher| {
            bencher.iter(|| unmask(black_box(&mut payload), MASK, 0));
        });
    }
    group.finish();
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("messages");
    let mut parser = Parser::new();
    for (name, text) in
        [("heartbeat", HEARTBEAT), ("heartbeat with id", HEARTBEAT_WITH_ID), ("update with metadata", UPDATE)]
    {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("parse {name}"), |bencher| {
            bencher.iter_batched_ref(|| text.to_vec(), |text| parser.parse(text).body.is_ok(), BatchSize::SmallInput);
        });
    }
    let timestamp = Timestamp::from_unix_ms(1_795_582_739_706);
    let mut out = Vec::new();
    group.throughput(Throughput::Elements(1));
    group.bench_function("write HEARTBEAT_ACK", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_text(&mut out, |out| write_heartbeat_ack(out, &timestamp, None));
            out.len()
        });
    });
    group.bench_function("write a timestamp", |bencher| {
        bencher.iter(|| Timestamp::from_unix_ms(black_box(1_795_582_739_706)));
    });
    group.finish();
}

fn upgrades(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("upgrades");
    let mut out = Vec::new();
    group.bench_function("parse, and write 101", |bencher| {
        bencher.iter(|| {
            let Ok(handshake::Request::Upgrade(upgrade)) = handshake::parse(black_box(REQUEST)) else { return 0 };
            out.clear();
            handshake::write_switching_protocols(&mut out, &upgrade);
            out.len()
        });
    });
    group.bench_function("parse the query", |bencher| {
        bencher.iter(|| Query::parse(black_box("userId=00000000-0000-4000-8000-000000000001&status=away")).is_ok());
    });
    group.finish();
}

criterion_group!(benches, frames, messages, upgrades);
criterion_main!(benches);
