//! A connection's socket, and what may lie between it and the core.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::tls::ServerConfig;

/// What lies between the core and a socket: nothing, or TLS. The core is given plaintext and gives plaintext.
///
/// A shard is compiled for each, so that a plain connection costs nothing for what it does not use.
pub trait Transport: Sized {
    /// What all connections of a shard share of it.
    type Shared;

    /// Takes over a socket that was registered under `token`.
    ///
    /// # Errors
    /// When there is no memory, or no random number, for what the connection needs.
    fn new(socket: Socket, token: Token, shared: &mut Self::Shared) -> io::Result<Self>;

    /// The socket below.
    fn socket(&self) -> &Socket;

    /// The socket below.
    fn socket_mut(&mut self) -> &mut Socket;

    /// Reads what is there, up to the size of `buffer`. Says how many bytes the kernel gave; what they are to the
    /// core is in [`Transport::received`], and may be nothing at all.
    fn read(&mut self, buffer: &mut [u8], registry: &Registry, shared: &mut Self::Shared) -> Transfer;

    /// What the last read brought, which left `buffer`.
    fn received<'a>(buffer: &'a mut [u8], shared: &'a mut Self::Shared) -> &'a mut [u8];

    /// Writes what the socket takes of `bytes`; where that is not all, poll tells when it takes more, and the next
    /// write begins with what is left. Where it is the last, [`Transport::shutdown_write`] follows.
    fn write(
        &mut self,
        bytes: &[u8],
        is_last: bool,
        registry: &Registry,
        token: Token,
        shared: &mut Self::Shared,
    ) -> Transfer;

    /// Poll has told that the socket takes bytes again. True when the connection is to be read, which had to wait.
    fn writable(&mut self, registry: &Registry, shared: &mut Self::Shared) -> bool;

    /// Says to the peer that nothing more will come.
    fn shutdown_write(&mut self, registry: &Registry, shared: &mut Self::Shared);

    /// The connection is over: the socket closes with this value.
    fn close(self, registry: &Registry, shared: &mut Self::Shared);

    /// Whether reading it now would begin what is costly, and has a budget of its own.
    fn is_costly(&self) -> bool;

    /// Notes that a costly read is to be made, and whether the peer's end is to be found by it; false when one was
    /// noted before.
    fn await_turn(&mut self, ends: bool) -> bool;

    /// A costly read is made now. Whether the peer's end is to be found by it.
    fn take_turn(&mut self) -> bool;

    /// Whether the next read says something although the socket may have nothing.
    fn has_more_to_say(&self) -> bool;

    /// From now on new connections are served with these keys.
    fn set_keys(shared: &mut Self::Shared, keys: Arc<ServerConfig>);

    /// Bytes that it holds for all connections of the shard.
    fn held_bytes(shared: &Self::Shared) -> usize;
}

impl Transport for Socket {
    type Shared = ();

    fn new(socket: Socket, _: Token, (): &mut ()) -> io::Result<Self> {
        Ok(socket)
    }

    fn socket(&self) -> &Socket {
        self
    }

    fn socket_mut(&mut self) -> &mut Socket {
        self
    }

    fn read(&mut self, buffer: &mut [u8], _: &Registry, (): &mut ()) -> Transfer {
        self.read_bytes(buffer)
    }

    fn received<'a>(buffer: &'a mut [u8], (): &'a mut ()) -> &'a mut [u8] {
        buffer
    }

    fn write(&mut self, bytes: &[u8], is_last: bool, registry: &Registry, token: Token, (): &mut ()) -> Transfer {
        if is_last { self.write_last(bytes, registry, token) } else { self.write_bytes(bytes, registry, token) }
    }

    fn writable(&mut self, _: &Registry, (): &mut ()) -> bool {
        false
    }

    fn shutdown_write(&mut self, _: &Registry, (): &mut ()) {
        self.end_writing();
    }

    fn close(self, _: &Registry, (): &mut ()) {}

    fn is_costly(&self) -> bool {
        false
    }

    fn await_turn(&mut self, _: bool) -> bool {
        false
    }

    fn take_turn(&mut self) -> bool {
        false
    }

    fn has_more_to_say(&self) -> bool {
        false
    }

    fn set_keys((): &mut (), _: Arc<ServerConfig>) {}

    fn held_bytes((): &()) -> usize {
        0
    }
}

use crate::sys;

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
    /// The peer did not come as far as to say anything: the connection is to be refused, unheard.
    Unheard,
    /// The peer has broken what protects the connection; it has been told.
    Broken,
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
    pub fn read_bytes(&mut self, buffer: &mut [u8]) -> Transfer {
        loop {
            match sys::receive(&self.stream, buffer) {
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

    /// Copies what is there into `buffer`, up to its size, and leaves it there.
    pub fn peek(&self, buffer: &mut [u8]) -> Transfer {
        loop {
            match self.stream.peek(buffer) {
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
    pub fn write_bytes(&mut self, bytes: &[u8], registry: &Registry, token: Token) -> Transfer {
        let mut taken = 0;
        while taken < bytes.len() {
            match sys::send(&self.stream, &bytes[taken..]) {
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

    /// Writes what the socket takes of `bytes`, the last before [`Socket::end_writing`]: both go into one packet.
    pub fn write_last(&mut self, bytes: &[u8], registry: &Registry, token: Token) -> Transfer {
        match SockRef::from(&self.stream).send_with_flags(bytes, libc::MSG_MORE) {
            Ok(taken) if taken == bytes.len() => Transfer::Bytes(taken),
            // Poll is to tell of the rest; a socket that fails says so again.
            Ok(taken) => match self.write_bytes(&bytes[taken..], registry, token) {
                Transfer::Bytes(more) => Transfer::Bytes(taken + more),
                other => other,
            },
            Err(_) => self.write_bytes(bytes, registry, token),
        }
    }

    /// Says to the peer that nothing more will come.
    pub fn end_writing(&self) {
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
