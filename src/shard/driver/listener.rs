//! Accepting, and refusing when there is no room.

use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Descriptors set aside for those who must be told that no descriptor is left.
const RESERVE: usize = 8;

/// How long accepting rests when the reserve too is used up, in milliseconds.
const REST_MS: u64 = 100;

/// A shard's own listening socket, among those of all shards on one port (SO_REUSEPORT).
#[derive(Debug)]
pub struct Listener {
    /// None once it was closed.
    socket: Option<TcpListener>,
    reserve: Vec<File>,
    /// Set while accepting rests.
    resting_until_ms: Option<u64>,
}

/// What came of one try to accept.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, and from where.
    Connection(TcpStream, SocketAddr),
    /// A connection, accepted with a descriptor of the reserve: it must be refused.
    OnReserve(TcpStream, SocketAddr),
    /// Nobody waits.
    Nobody,
    /// No descriptor is left; accepting rests.
    Resting,
}

/// How listening sockets are made.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Connections that the kernel keeps for accept; it caps this at net.core.somaxconn.
    pub backlog: i32,
    /// TCP_NODELAY. Accepted sockets inherit this and the following options.
    pub nodelay: bool,
    /// SO_RCVBUF; 0 leaves it to the kernel.
    pub receive_buffer_bytes: usize,
    /// SO_SNDBUF; 0 leaves it to the kernel.
    pub send_buffer_bytes: usize,
    /// SO_KEEPALIVE and the quiet time before its first probe; zero turns it off.
    pub keepalive: Duration,
    /// TCP_USER_TIMEOUT; zero leaves it to the kernel.
    pub user_timeout: Duration,
}

impl Listener {
    /// Listens on `address`, which other shards of this process share.
    ///
    /// # Errors
    /// What the kernel says when it cannot be had.
    pub fn bind(address: SocketAddr, options: &ListenOptions) -> io::Result<Self> {
        let socket = tcp_socket(address)?;
        socket.set_reuse_port(true)?;
        // The buffers before listen: they decide the window scale of the connections to come.
        if options.receive_buffer_bytes > 0 {
            socket.set_recv_buffer_size(options.receive_buffer_bytes)?;
        }
        if options.send_buffer_bytes > 0 {
            socket.set_send_buffer_size(options.send_buffer_bytes)?;
        }
        if !options.keepalive.is_zero() {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(options.keepalive))?;
        }
        if !options.user_timeout.is_zero() {
            socket.set_tcp_user_timeout(Some(options.user_timeout))?;
        }
        socket.set_tcp_nodelay(options.nodelay)?;
        socket.bind(&address.into())?;
        socket.listen(options.backlog)?;
        socket.set_nonblocking(true)?;
        let mut listener =
            Self { socket: Some(TcpListener::from_std(socket.into())), reserve: Vec::new(), resting_until_ms: None };
        listener.refill();
        Ok(listener)
    }

    /// Has poll tell under `token` when somebody waits.
    ///
    /// # Errors
    /// When the kernel does not take one more descriptor into the set.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.as_mut().map_or(Ok(()), |socket| registry.register(socket, token, Interest::READABLE))
    }

    /// Listens no longer.
    pub fn close(&mut self) {
        self.socket = None;
    }

    /// Accepts one connection.
    ///
    /// # Errors
    /// What is neither a want of descriptors nor of connections; the next try may succeed.
    pub fn accept(&mut self, now_ms: u64) -> io::Result<Accepted> {
        match self.accept_once() {
            Err(error) if is_want_of_descriptors(&error) => {
                let again = self.reserve.pop().map(drop).map(|()| self.accept_once());
                if let Some(Ok(Some((stream, address)))) = again {
                    return Ok(Accepted::OnReserve(stream, address));
                }
                self.refill();
                // The kernel looks for a descriptor first, and only then whether anybody waits.
                if let Some(Ok(None)) = again {
                    return Ok(Accepted::Nobody);
                }
                self.resting_until_ms = Some(now_ms + REST_MS);
                Ok(Accepted::Resting)
            }
            Ok(Some((stream, address))) => Ok(Accepted::Connection(stream, address)),
            Ok(None) => Ok(Accepted::Nobody),
            Err(error) => Err(error),
        }
    }

    /// Whether accepting rests at `now_ms`; when it has rested enough it does so no longer.
    pub fn rests(&mut self, now_ms: u64) -> bool {
        if self.resting_until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
            self.resting_until_ms = None;
        }
        self.resting_until_ms.is_some()
    }

    /// When accepting has rested enough, if it rests.
    pub fn resting_until_ms(&self) -> Option<u64> {
        self.resting_until_ms
    }

    /// A descriptor was closed: the reserve is filled up first.
    pub fn refill(&mut self) {
        while self.reserve.len() < RESERVE {
            match File::open("/dev/null") {
                Ok(file) => self.reserve.push(file),
                Err(_) => return,
            }
        }
    }

    /// Whether the reserve lacks a descriptor.
    pub fn lacks_reserve(&self) -> bool {
        self.reserve.len() < RESERVE
    }

    fn accept_once(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let Some(socket) = &self.socket else { return Ok(None) };
        match socket.accept() {
            Ok(accepted) => Ok(Some(accepted)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Takes `address` for this process, and returns it with the port that it got; nobody is taken in.
///
/// Sockets that share a port by SO_REUSEPORT would also share it with those of another process of the same user;
/// so the first socket asks for the port alone, and only when it has it, lets others of this process in. As long as it
/// is kept, nobody else can claim the port.
///
/// # Errors
/// What the kernel says when somebody else serves there, or it cannot be had.
pub fn claim(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = tcp_socket(address)?;
    socket.bind(&address.into())?;
    // SO_REUSEADDR is needed where connections of an earlier process linger. By it two that start at once may both have
    // bound the port; but the kernel lets only one listen. A port of its own choice is nobody else's.
    let may_be_bound_by_others = address.port() != 0;
    if may_be_bound_by_others {
        socket.listen(0)?;
        socket.set_reuse_address(false)?;
    }
    socket.set_reuse_port(true)?;
    if may_be_bound_by_others {
        socket.shutdown(Shutdown::Read)?;
    }
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, bound))
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn is_want_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net;

    use super::*;

    #[test]
    fn a_port_is_claimed_once_and_shared_by_those_who_have_it() {
        let options = ListenOptions {
            backlog: 16,
            nodelay: true,
            receive_buffer_bytes: 0,
            send_buffer_bytes: 0,
            keepalive: Duration::ZERO,
            user_timeout: Duration::ZERO,
        };
        // The kernel's choice is free for whoever asks next.
        let (_, address) = claim("127.0.0.1:0".parse().unwrap()).unwrap();
        let (claimed, address) = claim(address).unwrap();
        assert_eq!(claim(address).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        assert!(net::TcpStream::connect(address).is_err(), "nobody listens yet");
        let listeners: Vec<Listener> = (0..2).map(|_| Listener::bind(address, &options).unwrap()).collect();
        assert_eq!(claim(address).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        drop(claimed);
        assert_eq!(claim(address).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        let _client = net::TcpStream::connect(address).unwrap();
        let accepted = listeners.into_iter().filter_map(|mut listener| listener.accept(0).ok());
        assert_eq!(accepted.filter(|accepted| matches!(accepted, Accepted::Connection(..))).count(), 1);
    }
}
