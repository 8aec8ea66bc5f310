//! Any bytes in the place of a message.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rollcall::protocol::message::fuzz(data));
