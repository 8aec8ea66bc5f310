//! Any bytes in the place of frames.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rollcall::protocol::assembly::fuzz(data));
