//! What the kernel alone costs: a raw epoll program that answers the same bytes as Rollcall and does nothing else.
//!
//! Edge-triggered, 1,024 events a wait, one read and one write a message, nothing allocated and nothing parsed on
//! that path. It is the yardstick for Rollcall's CPU time per heartbeat: both are run on the same core, under the
//! same load program, in turn. Its calls are those that std makes for a socket: recv and send.
//!
//! - The first read of a connection is taken for a whole upgrade request. It is answered with 101, the right
//!   `Sec-WebSocket-Accept` (one SHA-1, as every server must) and a CONNECT of the same size as Rollcall's, which names
//!   the request's userId (two searches in 250 bytes). The load generator's checks hold against it as they are.
//! - Each later read is answered with one HEARTBEAT_ACK of constant text, whatever the read brought.
//! - With `--fan-out` a message is told by one letter of its type: a WATCH is answered with an empty state, and a
//!   PRESENCE_UPDATE makes one frame of the size of Rollcall's PRESENCE_CHANGE, which goes to every connection in one
//!   write each, without a look at anything else.
//! - It holds on to nothing but a byte per descriptor. It is no server: it has no limits and trusts its peer.
//!
//! ```text
//! cargo build --release --example floor
//! target/release/examples/floor --listen 127.0.0.1:3900 --core 0
//! ```

// A yardstick for the kernel must not measure a library: it calls libc as C would. It is no part of the crate.
#![allow(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::RawFd;
use std::process::ExitCode;

/// How many events one `epoll_wait` brings at most.
const EVENTS: usize = 1024;
/// The highest descriptor plus one that the state table knows.
const DESCRIPTORS_MAX: usize = 1 << 20;
/// Bytes of the one read buffer.
const READ_BYTES: usize = 64 * 1024;
/// What the kernel allows at most under its default `net.core.somaxconn`.
const BACKLOG: libc::c_int = 4096;

/// The whole answer to a heartbeat: FIN and text, 63 bytes without a mask.
const HEARTBEAT_ACK: &[u8; 65] = b"\x81\x3f{\"type\":\"HEARTBEAT_ACK\",\"timestamp\":\"2026-11-25T03:54:45.123Z\"}";

const RESPONSE_START: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
const CONNECT_START: &[u8] = b"{\"type\":\"CONNECT\",\"userId\":\"";
/// A session id of 43 characters, which is what 32 bytes are in base64url.
const CONNECT_END: &[u8] = b"\",\"timestamp\":\"2026-11-25T03:54:45.123Z\",\"payload\":{\"protocol\":1,\
\"sessionId\":\"0123456789abcdefghijABCDEFGHIJ0123456789abc\",\"resumed\":false,\"heartbeatTimeout\":75000,\
\"reconnect\":{\"min\":1000,\"max\":5000}}}";

/// What the next read of a descriptor is.
const UPGRADE: u8 = 0;
const HEARTBEAT: u8 = 1;
/// With `--fan-out`.
const MESSAGE: u8 = 2;

/// The answer to a WATCH whose `id` is "last", unmasked.
const STATE: &[u8] = b"{\"type\":\"PRESENCE_STATE\",\"id\":\"last\",\"timestamp\":\"2026-11-25T03:54:45.123Z\",\
\"payload\":{\"users\":[],\"rooms\":[],\"cursor\":\"0123456789abcdef\",\"complete\":true}}";

/// What a change is told with, but for its status and metadata, which stand where the parts meet.
const CHANGE_START: &[u8] = b"{\"type\":\"PRESENCE_CHANGE\",\"timestamp\":\"2026-11-25T03:54:45.123Z\",\
\"payload\":{\"users\":[{\"userId\":\"00000000-0000-4000-8000-000000000000\",";
const CHANGE_END: &[u8] = b",\"since\":\"2026-11-25T03:54:45.123Z\"}],\"rooms\":[],\"cursor\":\"0123456789abcdef\"}}";
/// Where a message's type begins, and where the status begins that a PRESENCE_UPDATE of the load program says.
const TYPE_AT: usize = 9;
const STATUS_AT: usize = 37;

fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)).and_then(|(listen, core, fan_out)| serve(listen, core, fan_out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("floor: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Reads `--listen ADDRESS:PORT` (IPv4), `--core N` and `--fan-out`.
fn arguments(mut given: impl Iterator<Item = String>) -> Result<(SocketAddrV4, Option<usize>, bool), String> {
    let mut listen = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3900);
    let mut core = None;
    let mut fan_out = false;
    while let Some(name) = given.next() {
        if name == "--fan-out" {
            fan_out = true;
            continue;
        }
        let value = given.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--listen" => match value.parse() {
                Ok(SocketAddr::V4(address)) => listen = address,
                _ => return Err(format!("--listen must be an IPv4 address and a port, not {value}")),
            },
            "--core" => core = Some(value.parse().map_err(|_| format!("--core must be a number, not {value}"))?),
            _ => return Err(format!("{name} is unknown: --listen ADDRESS:PORT, --core N and --fan-out are the flags")),
        }
    }
    Ok((listen, core, fan_out))
}

/// Turns a negative result into the sentence of what failed.
fn checked(result: libc::c_int, what: &str) -> Result<libc::c_int, String> {
    if result < 0 { Err(format!("{what}: {}", io::Error::last_os_error())) } else { Ok(result) }
}

fn serve(listen: SocketAddrV4, core: Option<usize>, fan_out: bool) -> Result<(), String> {
    if let Some(core) = core {
        if core >= libc::CPU_SETSIZE as usize {
            return Err(format!("--core {core} is past the last core that can be named"));
        }
        // SAFETY: an all-zero cpu_set_t is the empty set, `core` is inside it, and it outlives the call.
        let result = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
        };
        checked(result, "cannot run on that core")?;
    }
    let listener = listen_on(listen)?;
    // SAFETY: takes a flag.
    let epoll = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }, "epoll_create1")?;
    watch(epoll, listener, libc::EPOLLIN | libc::EPOLLET)?;

    let mut state = vec![UPGRADE; DESCRIPTORS_MAX];
    let upgraded = if fan_out { MESSAGE } else { HEARTBEAT };
    let mut buffer = vec![0u8; READ_BYTES];
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    loop {
        // SAFETY: `events` has room for EVENTS of them.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), EVENTS as libc::c_int, -1) };
        let Ok(count) = usize::try_from(count) else {
            continue;
        };
        for event in &events[..count] {
            let (fd, happened) = (event.u64 as RawFd, event.events);
            if fd == listener {
                accept_all(epoll, listener, &mut state);
            } else {
                answer(fd, happened, &mut state, upgraded, &mut buffer);
            }
        }
    }
}

fn listen_on(address: SocketAddrV4) -> Result<RawFd, String> {
    let on: libc::c_int = 1;
    let name = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: the pointers and lengths describe `on` and `name`, which outlive the calls.
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let listener = checked(libc::socket(libc::AF_INET, kind, 0), "socket")?;
        let (value, size) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        checked(libc::setsockopt(listener, libc::SOL_SOCKET, libc::SO_REUSEADDR, value, size), "SO_REUSEADDR")?;
        let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        checked(libc::bind(listener, (&raw const name).cast(), size), "bind")?;
        checked(libc::listen(listener, BACKLOG), "listen").map(|_| listener)
    }
}

fn watch(epoll: RawFd, fd: RawFd, events: libc::c_int) -> Result<(), String> {
    let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
    // SAFETY: `event` outlives the call.
    checked(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) }, "epoll_ctl").map(|_| ())
}

fn accept_all(epoll: RawFd, listener: RawFd, state: &mut [u8]) {
    let on: libc::c_int = 1;
    loop {
        // SAFETY: null is allowed where the peer's address is not wanted.
        let fd = unsafe {
            let none = std::ptr::null_mut();
            libc::accept4(listener, none, none.cast(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
        };
        let Ok(index) = usize::try_from(fd) else {
            return;
        };
        // SAFETY: the pointer and the length describe `on`, which outlives the call.
        unsafe {
            let (value, size) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
            libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, value, size);
        }
        match state.get_mut(index) {
            Some(next) if watch(epoll, fd, libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET).is_ok() => *next = UPGRADE,
            _ => close(fd),
        }
    }
}

/// One read and one write; after the peer's end, which brings no second edge, it reads on to 0.
fn answer(fd: RawFd, happened: u32, state: &mut [u8], upgraded: u8, buffer: &mut [u8]) {
    let ending = happened & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0;
    loop {
        // SAFETY: the pointer and the length describe `buffer`.
        let count = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match usize::try_from(count) {
            Ok(0) => {
                state[fd as usize] = UPGRADE;
                return close(fd);
            }
            Ok(count) => {
                let next = &mut state[fd as usize];
                if *next == HEARTBEAT {
                    write(fd, HEARTBEAT_ACK);
                } else if *next == MESSAGE {
                    hear(fd, &mut buffer[..count], state);
                } else {
                    *next = upgraded;
                    upgrade(fd, &buffer[..count]);
                }
            }
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => return close(fd),
        }
        if !ending {
            return;
        }
    }
}

/// What each message of a read asks for, by the letter that its type begins with. The start of one that came in pieces
/// is taken for all of it, and its rest is left.
fn hear(fd: RawFd, mut bytes: &mut [u8], state: &[u8]) {
    while bytes.len() > 1 {
        let (start, length) = match bytes[1] & 0x7f {
            126 if bytes.len() > 3 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            short => (2, usize::from(short)),
        };
        let end = (start + 4 + length).min(bytes.len());
        let (message, rest) = bytes.split_at_mut(end);
        bytes = rest;
        if message.len() < start + 4 + TYPE_AT || message[0] & 0x0f != 1 {
            continue;
        }
        let (head, payload) = message.split_at_mut(start + 4);
        for (byte, mask) in payload.iter_mut().zip(head[start..].iter().cycle()) {
            *byte ^= mask;
        }
        match payload.get(TYPE_AT) {
            Some(b'W') => write(fd, &framed(&[STATE])),
            Some(b'P') if payload.len() > STATUS_AT + 2 => {
                let said = &payload[STATUS_AT..payload.len() - 2];
                let frame = framed(&[CHANGE_START, said, CHANGE_END]);
                let connected = state.iter().enumerate().filter(|(_, state)| **state == MESSAGE);
                connected.for_each(|(watcher, _)| write(watcher as RawFd, &frame));
            }
            Some(b'H') => write(fd, HEARTBEAT_ACK),
            _ => {}
        }
    }
}

/// A text frame of 126 bytes or more.
fn framed(parts: &[&[u8]]) -> Vec<u8> {
    let payload = parts.concat();
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0x81, 126, length[0], length[1]], &payload[..]].concat()
}

/// 101 and CONNECT in one write, from one array on the stack.
fn upgrade(fd: RawFd, request: &[u8]) {
    let key = after(request, b"Sec-WebSocket-Key: ", b'\r');
    let user_id = after(request, b"userId=", b' ');
    let accept = tungstenite::handshake::derive_accept_key(key);
    let payload = CONNECT_START.len() + user_id.len() + CONNECT_END.len();
    let mut out = [0u8; 1024];
    let mut length = 0;
    let header = [0x81, 126, (payload >> 8) as u8, payload as u8];
    for part in [RESPONSE_START, accept.as_bytes(), b"\r\n\r\n", &header, CONNECT_START, user_id, CONNECT_END] {
        let Some(room) = out.get_mut(length..length + part.len()) else {
            return;
        };
        room.copy_from_slice(part);
        length += part.len();
    }
    write(fd, &out[..length]);
}

/// What stands between `name` and the next `end`; empty where there is none.
fn after<'a>(request: &'a [u8], name: &[u8], end: u8) -> &'a [u8] {
    let Some(at) = request.windows(name.len()).position(|window| window == name) else {
        return &[];
    };
    let value = &request[at + name.len()..];
    let length = value.iter().position(|&byte| byte == end).unwrap_or(value.len());
    &value[..length]
}

/// What the kernel does not take is lost: with one answer of 65 bytes in flight it takes all.
fn write(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the pointer and the length describe `bytes`; a closed peer is an error here, not a signal.
    unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
}

fn close(fd: RawFd) {
    // SAFETY: the descriptor is this program's own and is not used after this.
    unsafe { libc::close(fd) };
}
