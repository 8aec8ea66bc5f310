//! Rollcall's server over the allocator that a feature names, or the C library's.

use std::process::ExitCode;

use rollcall::cli::{self, Command};
use rollcall::server;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "snmalloc")]
#[global_allocator]
static ALLOCATOR: snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1), std::env::vars_os()) {
        Ok(Command::Serve { config, .. }) if server::run(&config).is_ok() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
