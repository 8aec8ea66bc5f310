//! The binary: arguments, subcommand, exit code.
//!
//! The allocator is the C library's: `benches/allocators/run` finds it the smallest of four by a sixth, and within
//! 2 % of the fastest where connections are opened. Records live in pages, so that little is left to it; tuning.md has
//! the figures.

use std::io::Write;
use std::process::ExitCode;

use rollcall::cli::{self, Command};
use rollcall::{auth, load, server};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1), std::env::vars_os()) {
        Ok(Command::Serve { print: Some(text), .. }) => {
            // Whoever reads may have gone away; that is no fault to speak of.
            let _ = write!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Ok(Command::Serve { config, print: None }) => match server::run(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Ok(Command::Load(arguments)) => load::run(arguments).unwrap_or_else(|error| fail(&error)),
        Ok(Command::Token(arguments)) => auth::command::run(arguments).unwrap_or_else(|error| fail(&error)),
        Err(error) => {
            let _ = if error.exit_code() == 0 {
                writeln!(std::io::stdout(), "{error}")
            } else {
                writeln!(std::io::stderr(), "{error}")
            };
            ExitCode::from(error.exit_code())
        }
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "rollcall: {error:#}");
    ExitCode::FAILURE
}
