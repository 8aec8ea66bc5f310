//! Any bytes in the place of a token, its claims, or its keys.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rollcall::auth::fuzz(data));
