//! A few clients on a few shards who watch each other: each believes what is true when all is quiet.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rollcall::shard::fuzz_presence(data));
