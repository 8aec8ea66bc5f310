//! Any text in the place of the configuration file.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rollcall::config::fuzz(data));
