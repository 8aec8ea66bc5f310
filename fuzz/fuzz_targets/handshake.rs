//! Any bytes in the place of a request's head.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rollcall::protocol::handshake::fuzz(data));
