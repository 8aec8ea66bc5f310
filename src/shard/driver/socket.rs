//! A connection's socket.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// A connection's socket, as the core keeps it for the driver.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// Whether poll tells when it takes bytes again: asked for only once it has refused some.
    awaits_writable: bool,
    /// Whether it is among those that are read on in the next turn.
    pub is_put_aside: bool,
    /// Whether it counts for `max_connections`: nobody does who was accepted only to be refused.
    pub is_admitted: bool,
}

/// How much a socket did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// So many bytes.
    Bytes(usize),
    /// None now: poll will tell.
    WouldBlock,
    /// The peer has ended its side.
    End,
    /// None any more.
    Failed,
}

impl Socket {
    /// Has poll tell under `token` when `stream` can be read; `is_admitted` unless it is to be refused.
    ///
    /// # Errors
    /// When the kernel does not take one more descriptor into the set.
    pub fn register(mut stream: TcpStream, is_admitted: bool, registry: &Registry, token: Token) -> io::Result<Self> {
        registry.register(&mut stream, token, Interest::READABLE)?;
        Ok(Self { stream, awaits_writable: false, is_put_aside: false, is_admitted })
    }

    /// Reads what is there, up to the size of `buffer`.
    pub fn read(&mut self, buffer: &mut [u8]) -> Transfer {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Transfer::End,
                Ok(count) => return Transfer::Bytes(count),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Transfer::WouldBlock,
                    _ => return Transfer::Failed,
                },
            }
        }
    }

    /// Writes what the socket takes of `bytes`; where that is not all, has poll tell when it takes more.
    pub fn write(&mut self, bytes: &[u8], registry: &Registry, token: Token) -> Transfer {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.stream.write(&bytes[taken..]) {
                Ok(count) => taken += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock if self.await_writable(registry, token) => break,
                    _ => return Transfer::Failed,
                },
            }
        }
        Transfer::Bytes(taken)
    }

    /// Says to the peer that nothing more will come.
    pub fn shutdown_write(&self) {
        // The peer may be gone already; then its end is what poll tells next.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn await_writable(&mut self, registry: &Registry, token: Token) -> bool {
        if !self.awaits_writable {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.awaits_writable = registry.reregister(&mut self.stream, token, both).is_ok();
        }
        self.awaits_writable
    }
}
