//! A whole connection under TLS, its records cut and changed anywhere: what is heard is what was said.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rollcall::shard::fuzz_tls(data));
