//! Any bytes in the place of a PROXY header.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rollcall::protocol::proxy::fuzz(data));
