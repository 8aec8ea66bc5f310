//! A whole connection fed any bytes, cut anywhere: it behaves the same.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rollcall::shard::fuzz(data));
