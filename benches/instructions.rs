//! Instructions counted under valgrind: a heartbeat, a PRESENCE_UPDATE and an upgrade, from the bytes that a read
//! brought to the bytes that a write takes, through the core as the driver goes through it.
//!
//! Unlike times, counts repeat on a machine that does other things as well. `tests/instructions` holds them against
//! `benches/instructions.tsv`; each is of [`STEPS`] steps, so that what is done once a millisecond has its share.

// What the macros make cannot be documented, and names itself in full.
#![allow(missing_docs, unused_qualifications)]

use std::hint::black_box;
use std::sync::Arc;

use gungraun::{LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use rollcall::config::Config;
use rollcall::metrics::ShardMetrics;
use rollcall::protocol::frame::unmask;
use rollcall::shard::core::{Input, Limits, Output};
use rollcall::shard::fuzz::rehearsed_sessions;
use rollcall::shard::sessions::Sessions;
use rollcall::shard::virtual_driver::VirtualDriver;

/// Steps of one count, and connections that take one each: at 200,000 heartbeats a second, those of a millisecond.
const STEPS: usize = 200;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const HEARTBEAT: &[u8] = br#"{"type":"HEARTBEAT","timestamp":"2026-11-25T03:54:45.123Z"}"#;
const UPDATE: &[u8] = br#"{"type":"PRESENCE_UPDATE","payload":{"status":"away"}}"#;
const UPDATE_WITH_METADATA: &[u8] = br#"{"type":"PRESENCE_UPDATE","id":7,"payload":{"status":"busy","metadata":{"device":"phone","text":"in a meeting until four","battery":0.83,"rooms":["a","b"]}}}"#;

/// Connections of one shard, and what each sends next.
struct World {
    driver: VirtualDriver<Sessions>,
    reads: Vec<Vec<u8>>,
}

impl World {
    /// A shard with the defaults, its connections accepted, and the requests that upgrade them.
    fn accepted() -> Self {
        let (config, metrics) = (Config::default(), Arc::new(ShardMetrics::default()));
        let sessions = rehearsed_sessions(&config, &metrics);
        let mut driver = VirtualDriver::new(sessions, Limits::new(&config), metrics);
        for _ in 0..=STEPS {
            driver.connect(None);
        }
        let reads = (0..=STEPS).map(request).collect();
        let mut world = Self { driver, reads };
        world.step(STEPS);
        world
    }

    /// Open connections, each of which sends `text` next; one of them has sent it before.
    fn open(text: &[u8]) -> Self {
        let mut world = Self::accepted().steps();
        world.reads = (0..=STEPS).map(|_| text_frame(text)).collect();
        world.step(STEPS);
        world.driver.now.unix_ms += 1;
        world.driver.now.elapsed_ns += 1_000_000;
        world
    }

    /// Each connection but the last sends what it sends next.
    fn steps(mut self) -> Self {
        for index in 0..STEPS {
            self.step(index);
        }
        self
    }

    /// What the driver does between a read and the write of its answer, socket and clock aside.
    fn step(&mut self, index: usize) {
        let Self { driver, reads } = self;
        let connection = driver.peers[index].connection;
        let core = &mut driver.core;
        core.appetite(connection);
        core.handle(driver.now, Input::Received { connection, bytes: &mut reads[index] });
        while let Some(output) = core.poll_output() {
            if let Output::Write { connection, bytes, .. } = output {
                let taken = black_box(bytes).len();
                core.sent(driver.now, connection, taken);
            }
        }
    }
}

fn request(index: usize) -> Vec<u8> {
    format!(
        "GET /?userId=00000000-0000-4000-8000-{index:012x} HTTP/1.1\r\nHost: 127.0.0.1:3000\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

fn text_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = match u8::try_from(text.len()) {
        Ok(length @ 0..=125) => vec![0x81, 0x80 | length],
        _ => [&[0x81, 0xfe][..], &u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes()].concat(),
    };
    frame.extend_from_slice(&MASK);
    let start = frame.len();
    frame.extend_from_slice(text);
    unmask(&mut frame[start..], MASK, 0);
    frame
}

#[library_benchmark]
#[bench::all(World::open(HEARTBEAT))]
fn heartbeats(world: World) -> World {
    world.steps()
}

#[library_benchmark]
#[bench::status(World::open(UPDATE))]
#[bench::metadata(World::open(UPDATE_WITH_METADATA))]
fn presence_updates(world: World) -> World {
    world.steps()
}

#[library_benchmark]
#[bench::all(World::accepted())]
fn upgrades(world: World) -> World {
    world.steps()
}

library_benchmark_group!(name = core, benchmarks = [heartbeats, presence_updates, upgrades]);

main!(config = LibraryBenchmarkConfig::default().valgrind_args(["--cache-sim=no"]), library_benchmark_groups = core);
