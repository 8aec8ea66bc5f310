//! The timer wheel: what filing, hearing nothing and coming due cost with many entries in it.

// What the macros make cannot be documented.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rollcall::shard::core::wheel::Wheel;

const TICK_MS: u64 = 100;
/// As many as one shard's connections in a busy server.
const ENTRIES: u32 = 100_000;
const HORIZON_MS: u64 = 75_000;

/// A wheel whose entries come due evenly over the horizon.
fn filled() -> Wheel {
    let mut wheel = Wheel::new(TICK_MS, 0);
    for entry in 0..ENTRIES {
        wheel.schedule(entry, due_ms(entry));
    }
    wheel
}

fn due_ms(entry: u32) -> u64 {
    // Not in the order of the entries, so that neighbours in a slot are none in memory.
    1 + u64::from(entry.wrapping_mul(2_654_435_761)) % HORIZON_MS
}

fn wheel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wheel");
    group.throughput(Throughput::Elements(u64::from(ENTRIES)));
    group.bench_function("file 100,000", |bencher| bencher.iter_with_large_drop(filled));
    group.bench_function("pop and file anew 100,000", |bencher| {
        bencher.iter_batched_ref(
            filled,
            |wheel| {
                let mut popped = 0;
                while let Some(entry) = wheel.pop(HORIZON_MS + TICK_MS) {
                    wheel.schedule(entry, 3 * HORIZON_MS);
                    popped += 1;
                }
                popped
            },
            BatchSize::LargeInput,
        );
    });
    group.throughput(Throughput::Elements(1));
    let mut wheel = filled();
    let mut turn = 0_u32;
    group.bench_function("move one", |bencher| {
        bencher.iter(|| {
            turn = turn.wrapping_add(7919);
            wheel.schedule(turn % ENTRIES, due_ms(turn));
        });
    });
    group.bench_function("deadline", |bencher| bencher.iter(|| black_box(&wheel).next_due_ms()));
    group.finish();
}

criterion_group!(benches, wheel);
criterion_main!(benches);
