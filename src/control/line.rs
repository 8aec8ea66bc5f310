//! What a connection to the control port is heard and answered over: its socket, plain or under TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::server::UnbufferedServerConnection;

use crate::tls::ServerConfig;
use crate::tls::session::{HANDSHAKE_RECORD, Phase, ServerSession};

const READ_BYTES: usize = 4096;

/// A socket, plain or under TLS.
#[derive(Debug)]
pub struct Line {
    socket: TcpStream,
    security: Security,
    chunk: Box<[u8; READ_BYTES]>,
    plaintext: Vec<u8>,
    scratch: Vec<u8>,
}

/// What the line is.
#[derive(Debug)]
enum Security {
    Plain,
    /// The first byte will tell: no HTTP request begins as a TLS record does.
    Undecided {
        keys: Arc<ServerConfig>,
        /// Whether plain HTTP is answered as well: to probes and scrapers on this host, where nobody listens in.
        may_be_plain: bool,
    },
    Tls(Box<ServerSession>),
}

/// What was heard.
#[derive(Debug)]
pub enum Heard<'a> {
    /// Bytes of requests; none where what came is not whole yet.
    Bytes(&'a [u8]),
    /// The peer's end, or what makes it the end.
    End,
}

impl Line {
    /// A line to `peer`, under TLS where there are `keys`.
    pub fn new(socket: TcpStream, peer: SocketAddr, keys: Option<Arc<ServerConfig>>) -> Self {
        let may_be_plain = peer.ip().to_canonical().is_loopback();
        let security = keys.map_or(Security::Plain, |keys| Security::Undecided { keys, may_be_plain });
        let chunk = Box::new([0; READ_BYTES]);
        Self { socket, security, chunk, plaintext: Vec::new(), scratch: Vec::new() }
    }

    /// The socket, for the poll.
    pub fn socket_mut(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// What the socket says, `WouldBlock` when nothing is there.
    pub fn read(&mut self) -> io::Result<Heard<'_>> {
        if let Security::Tls(session) = &mut self.security {
            if session.phase() == Phase::PeerClosed {
                return Ok(Heard::End);
            }
            flush(&mut self.socket, session)?;
        }
        let length = self.socket.read(&mut self.chunk[..])?;
        let Some(first) = self.chunk[..length].first() else { return Ok(Heard::End) };
        if let Security::Undecided { keys, may_be_plain } = &self.security {
            self.security = if *first == HANDSHAKE_RECORD {
                let side = UnbufferedServerConnection::new(Arc::clone(keys)).map_err(io::Error::other)?;
                Security::Tls(Box::new(ServerSession::new(side)))
            } else if *may_be_plain {
                Security::Plain
            } else {
                return Ok(Heard::End);
            };
        }
        let Security::Tls(session) = &mut self.security else { return Ok(Heard::Bytes(&self.chunk[..length])) };
        self.plaintext.clear();
        self.scratch.clear();
        session.receive(&mut self.chunk[..length], &mut self.plaintext, &mut self.scratch);
        session.owe(&self.scratch, |bytes| send(&mut self.socket, bytes))?;
        if matches!(session.phase(), Phase::Failed(_)) || session.owes_too_much() {
            return Ok(Heard::End);
        }
        Ok(Heard::Bytes(&self.plaintext))
    }

    /// Writes what the socket takes; what is left must begin the next write.
    ///
    /// # Errors
    /// What the socket says, `WouldBlock` when it takes nothing.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.security {
            Security::Plain => self.socket.write(bytes),
            // Nothing goes out in clear to somebody who has not said that it may.
            Security::Undecided { .. } => Ok(bytes.len()),
            Security::Tls(session) => {
                match session.write(bytes, &mut self.scratch, |record| send(&mut self.socket, record))? {
                    0 if !bytes.is_empty() => Err(ErrorKind::WouldBlock.into()),
                    taken => Ok(taken),
                }
            }
        }
    }

    /// Says to the peer that nothing more will come.
    ///
    /// # Errors
    /// What the socket says.
    pub fn end(&mut self) -> io::Result<()> {
        if let Security::Tls(session) = &mut self.security {
            self.scratch.clear();
            session.close(&mut self.scratch);
            session.owe(&self.scratch, |bytes| send(&mut self.socket, bytes))?;
        }
        self.socket.shutdown(Shutdown::Write)
    }
}

fn flush(socket: &mut TcpStream, session: &mut ServerSession) -> io::Result<()> {
    if session.owes() {
        session.flush(|bytes| send(socket, bytes))?;
    }
    Ok(())
}

/// How many bytes the socket takes.
fn send(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.write(&bytes[sent..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
