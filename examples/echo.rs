//! An echo server on Rollcall's engine: the same protocol and shard code, with another application in it.
//!
//! The Autobahn suite speaks to this one, because its cases want their messages back.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use rollcall::cli::{self, Command};
use rollcall::config::Config;
use rollcall::metrics::ShardMetrics;
use rollcall::protocol::assembly::{self, Message};
use rollcall::protocol::frame::{self, Kind};
use rollcall::protocol::handshake::Upgrade;
use rollcall::server::{self, Service, Wake};
use rollcall::shard::core::{Application, Close, Ending, Limits, Opened, Verdict};
use rollcall::shard::{ConnectionId, Now};

/// Sends every message back.
struct Echo;

impl Application for Echo {
    type Session = ();
    type Mail = ();

    fn open(&mut self, _: Now, _: ConnectionId, _: &Upgrade<'_>, _: &mut Vec<u8>) -> Result<Opened<()>, Close> {
        Ok(Opened { session: (), silence_ms: 0, hold: false })
    }

    fn message(&mut self, _: Now, _: ConnectionId, (): &mut (), message: Message<'_>, out: &mut Vec<u8>) -> Verdict {
        frame::write(out, if message.is_binary { Kind::Binary } else { Kind::Text }, &message.payload);
        Verdict::Continue
    }

    fn overflow(&mut self, _: Now, _: &mut Vec<u8>) {}

    fn set_memory_full(&mut self, _: bool) {}

    fn held_bytes(&self) -> usize {
        0
    }

    fn ended(&mut self, _: Now, _: ConnectionId, (): (), _: Ending) {}
}

#[derive(Clone)]
struct EchoService;

impl Service for EchoService {
    type Application = Echo;

    fn application(&self, _: usize, _: usize, _: Arc<ShardMetrics>, _: Wake) -> Echo {
        Echo
    }

    fn limits(&self, config: &Config) -> Limits {
        let limits = Limits::new(config);
        // Autobahn's largest message has 16 MiB, its most fragmented one 65,536 frames.
        let messages =
            assembly::Limits { message_bytes_max: 16 << 20, frames_max: 1 << 20, binary: true, ..limits.messages };
        Limits { messages, ..limits }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let ended = match cli::parse(arguments, std::iter::empty()) {
        Ok(Command::Serve { config, .. }) => server::serve(&config, &EchoService),
        Ok(Command::Load(_) | Command::Token(_)) => Err(anyhow::anyhow!("this one only serves")),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
