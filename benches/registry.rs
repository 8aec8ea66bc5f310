//! The registry of users: what a connection's coming, saying and going cost its partition.

// What the macros make cannot be documented.
#![allow(missing_docs)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rollcall::presence::change::{
    ConnectionKey, EndCause, Happening, Moment, NameHasher, Posts, Predecessor, PresenceEvent, SessionKey, UserRef,
};
use rollcall::presence::partition::{Partition, PartitionTerms};
use rollcall::protocol::cursor::Version;
use rollcall::protocol::message::MetadataUpdate;
use rollcall::protocol::status::Status;
use rollcall::protocol::user_id::UserId;

const USERS: u32 = 100_000;

fn key(index: u32) -> ConnectionKey {
    ConnectionKey { shard: 0, index, generation: 1 }
}

const AT: Moment = Moment { elapsed_ms: 1_000, unix_ms: 1_800_000_000_000 };

fn empty() -> Partition {
    let terms = PartitionTerms {
        partitions: 1,
        grace_ms: 10_000,
        resume_ms: 30_000,
        sessions_max: 1_000_000,
        last_seen_max: 1_000_000,
        connections_max: u32::MAX,
        oldest_yields: true,
        status_rate: None,
        began: Version(0),
    };
    Partition::new(terms)
}

/// Hands an event to the partition; nobody is there to be told.
fn handle(partition: &mut Partition, event: PresenceEvent) {
    partition.handle(AT, event, &mut Posts::default());
}

fn opened(hasher: &NameHasher, connection: u32, user: u32) -> Option<PresenceEvent> {
    let id = UserId::parse(&format!("{user:08x}-0000-4000-8000-000000000000")).ok()?;
    let (user, session) = (UserRef { hash: hasher.user(&id), id }, SessionKey(u64::from(connection) << 32));
    let (user, status) = (Box::new(user), Some(Status::Online));
    let what = Happening::Opened { user, session, status, predecessor: Predecessor::None, opened_ms: 0 };
    Some(PresenceEvent { connection: key(connection), what })
}

fn ended(connection: u32) -> PresenceEvent {
    let what = Happening::Ended { cause: EndCause::Asked, heard_unix_ms: AT.unix_ms, ended_ms: AT.elapsed_ms };
    PresenceEvent { connection: key(connection), what }
}

/// A partition of so many users, each with one connection of the same number.
fn filled(hasher: &NameHasher) -> Partition {
    let mut partition = empty();
    for event in (0..USERS).filter_map(|user| opened(hasher, user, user)) {
        handle(&mut partition, event);
    }
    partition
}

fn registry(criterion: &mut Criterion) {
    let hasher = NameHasher::default();
    let mut group = criterion.benchmark_group("registry");
    group.throughput(Throughput::Elements(u64::from(USERS)));
    group.sample_size(20);
    group.bench_function("open 100,000 users", |bencher| {
        bencher.iter_batched(
            || (0..USERS).filter_map(|user| opened(&hasher, user, user)).collect::<Vec<_>>(),
            |events| {
                let mut partition = empty();
                events.into_iter().for_each(|event| handle(&mut partition, event));
                partition
            },
            BatchSize::LargeInput,
        );
    });
    group.sample_size(100);
    group.throughput(Throughput::Elements(1));
    let mut partition = filled(&hasher);
    let mut turn = 0_u32;
    group.bench_function("update one of 100,000", |bencher| {
        bencher.iter(|| {
            turn = turn.wrapping_add(7919);
            let status = if turn.is_multiple_of(2) { Status::Away } else { Status::Busy };
            let what = Happening::Updated { status, metadata: MetadataUpdate::Keep };
            handle(&mut partition, PresenceEvent { connection: key(turn % USERS), what });
        });
    });
    let (mut crowded, mut opened_last) = (filled(&hasher), USERS);
    for connection in USERS..USERS + 10_000 {
        opened(&hasher, connection, 0).into_iter().for_each(|event| handle(&mut crowded, event));
        opened_last = connection;
    }
    group.bench_function("open and end the 10,001st of one user", |bencher| {
        bencher.iter_batched(
            || opened(&hasher, opened_last + 1, 0),
            |event| {
                event.into_iter().for_each(|event| handle(&mut crowded, event));
                handle(&mut crowded, ended(opened_last + 1));
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, registry);
criterion_main!(benches);
