//! A whole connection under TLS, its records cut and changed anywhere: what is heard is what was said.

#![no_main]

use std::panic::{PanicHookInfo, set_hook, take_hook};

/// rustls holds assertions that a release has not, and a session of ours ends by itself where rustls panics: that is
/// tried as well, instead of ending the fuzzer.
fn spare_rustls() {
    let ends_the_fuzzer = take_hook();
    set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        if !info.location().is_some_and(|location| location.file().contains("/rustls-")) {
            ends_the_fuzzer(info);
        }
    }));
}

libfuzzer_sys::fuzz_target!(init: spare_rustls(), |data: &[u8]| rollcall::shard::fuzz_tls(data));
