//! The system calls that neither std nor a crate of ours wraps: the only `unsafe` of the project.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// How a thread came by a descriptor table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// `close_range` with `CLOSE_RANGE_UNSHARE` (Linux 5.9), which container profiles allow.
    CloseRange,
    /// `unshare(CLONE_FILES)`.
    Unshare,
}

/// Gives the calling thread a descriptor table of its own and closes in it all but stdio and `keep`.
///
/// Afterwards a descriptor's number means something else on this thread than on others: no value that owns a
/// descriptor may be handed to or from it, apart from those in `keep`.
///
/// # Errors
/// When the kernel, or a container's profile, allows neither way; the table is then shared as before.
pub fn own_descriptor_table(keep: &[RawFd]) -> io::Result<Split> {
    let mut kept: Vec<u32> = keep.iter().filter_map(|&descriptor| u32::try_from(descriptor).ok()).collect();
    kept.extend([0, 1, 2]);
    kept.sort_unstable();
    kept.dedup();
    let mut gaps = Vec::with_capacity(kept.len() + 1);
    let mut first = 0;
    for &descriptor in &kept {
        if first < descriptor {
            gaps.push((first, descriptor - 1));
        }
        first = descriptor + 1;
    }
    // The last gap is unbounded, and the one in which descriptors of other threads lie: split there.
    if close_range(first, u32::MAX, libc::CLOSE_RANGE_UNSHARE).is_ok() {
        for (from, to) in gaps {
            close_range(from, to, 0)?;
        }
        return Ok(Split::CloseRange);
    }
    // SAFETY: unshare with CLONE_FILES takes no pointers; it copies the table of this thread alone.
    if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let open: Vec<RawFd> = fs::read_dir("/proc/thread-self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open {
        if u32::try_from(descriptor).is_ok_and(|number| kept.binary_search(&number).is_err()) {
            // SAFETY: the table is this thread's copy, in which nothing owns the descriptors that are not in
            // `keep`: they are duplicates of other threads' and closing them here closes none of theirs. The
            // directory's own descriptor is closed already, and closing it again is refused with EBADF.
            unsafe { libc::close(descriptor) };
        }
    }
    Ok(Split::Unshare)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: no pointers are passed. What is closed is closed in this thread's own table: the first call
    // splits it off, and the later ones follow only when that succeeded.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps `signals` from being delivered to the calling thread, and to threads that it starts from now on.
///
/// # Errors
/// When a number is no signal's.
pub fn block_signals(signals: &[i32]) -> io::Result<()> {
    change_signal_mask(libc::SIG_BLOCK, signals)
}

/// Lets `signals` be delivered to the calling thread again.
///
/// # Errors
/// When a number is no signal's.
pub fn unblock_signals(signals: &[i32]) -> io::Result<()> {
    change_signal_mask(libc::SIG_UNBLOCK, signals)
}

fn change_signal_mask(how: libc::c_int, signals: &[i32]) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set behind the pointer before sigaddset and pthread_sigmask read it;
    // the old mask is not asked for, so a null pointer is right.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            if libc::sigaddset(set.as_mut_ptr(), signal) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// The CPU time that the calling thread has used, in nanoseconds; 0 where the kernel does not tell.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec that the call fills.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return 0;
    }
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Receives what a socket has, up to the size of `buffer` (recv(2)).
///
/// Unlike the C library's own `recv` this is no cancellation point: no thread here is ever cancelled, and two locked
/// instructions a call are spared.
///
/// # Errors
/// What the kernel says.
pub fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<usize> {
    let null = std::ptr::null::<libc::c_void>();
    let (fd, at, size) = (socket.as_raw_fd(), buffer.as_mut_ptr(), buffer.len());
    // SAFETY: the pointer and the length describe `buffer`, which outlives the call; nulls say that the peer's address
    // is not wanted.
    transferred(unsafe { libc::syscall(libc::SYS_recvfrom, fd, at, size, 0, null, null) })
}

/// Sends what a socket takes of `bytes` (send(2)); a peer that has gone is an error and no signal. As [`receive`].
///
/// # Errors
/// What the kernel says.
pub fn send(socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
    let null = std::ptr::null::<libc::c_void>();
    let (fd, at, size) = (socket.as_raw_fd(), bytes.as_ptr(), bytes.len());
    // SAFETY: the pointer and the length describe `bytes`, which outlives the call; null and 0 are no address.
    transferred(unsafe { libc::syscall(libc::SYS_sendto, fd, at, size, libc::MSG_NOSIGNAL, null, 0) })
}

fn transferred(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Has the processor fetch `value` into its caches while the caller goes on; of no effect elsewhere than on x86-64.
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(value).cast::<i8>();
        // SAFETY: a prefetch reads nothing that the program sees and faults on no address; both lie in `value`.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(first);
            _mm_prefetch::<_MM_HINT_T0>(first.add(size_of::<T>().saturating_sub(1)));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Raises the soft limit of descriptors of this process to the hard one, and returns the limit now in force.
///
/// # Errors
/// When the limit can be neither read nor set.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit that the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live rlimit that the call reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

/// Makes a later `bind` to port 0 choose the address only, and `connect` the port (ip(7), `IP_BIND_ADDRESS_NO_PORT`).
///
/// Without it `bind` looks for a port that is free towards every peer, which ends at 28,000 connections an address.
pub fn bind_address_no_port(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `on`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A timer of nanoseconds as a descriptor for a poll (timerfd_create(2)): epoll's own timeout counts milliseconds.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes numbers and no pointers.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above made the descriptor, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable once, `after` from now; replaces what was set. No read is needed in between.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            // Zero in both would unset the timer.
            tv_nsec: libc::c_long::from(after.subsec_nanos().max(1)),
        };
        let interval = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: interval, it_value: value };
        // SAFETY: `setting` outlives the call, and null is allowed where the old setting is not wanted.
        let result = unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &raw const setting, std::ptr::null_mut()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::File;
    use std::thread;

    use super::*;

    fn is_open(descriptor: RawFd) -> bool {
        fs::symlink_metadata(format!("/proc/thread-self/fd/{descriptor}")).is_ok()
    }

    #[test]
    fn a_split_table_holds_what_was_kept_and_leaves_the_others_alone() {
        let (kept, dropped) = (File::open("/dev/null").unwrap(), File::open("/dev/null").unwrap());
        let (kept_number, dropped_number) = (kept.as_raw_fd(), dropped.as_raw_fd());
        thread::spawn(move || {
            own_descriptor_table(&[kept_number]).unwrap();
            assert!(is_open(0) && is_open(kept_number));
            assert!(!is_open(dropped_number));
        })
        .join()
        .unwrap();
        assert!(is_open(kept_number) && is_open(dropped_number));
    }

    #[test]
    fn the_descriptor_limit_is_raised_to_the_hard_one() {
        let limit = raise_descriptor_limit().unwrap();
        let text = fs::read_to_string("/proc/self/limits").unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers, [limit, limit]);
    }

    #[test]
    fn what_is_sent_is_received_and_a_peer_that_has_gone_is_an_error() {
        use std::os::unix::net::UnixStream;
        let (left, right) = UnixStream::pair().unwrap();
        let mut buffer = [0; 8];
        assert_eq!(send(&left, b"abc").unwrap(), 3);
        assert_eq!(receive(&right, &mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], b"abc");
        right.set_nonblocking(true).unwrap();
        assert_eq!(receive(&right, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert_eq!(receive(&right, &mut buffer).unwrap(), 0);
        assert_eq!(send(&right, b"abc").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_timer_wakes_its_poll_each_time_it_is_set_without_being_read() {
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        let timer = Timer::new().unwrap();
        let descriptor = timer.as_raw_fd();
        let mut source = mio::unix::SourceFd(&descriptor);
        poll.registry().register(&mut source, mio::Token(1), mio::Interest::READABLE).unwrap();
        for after in [Duration::from_micros(300), Duration::ZERO, Duration::from_millis(2)] {
            timer.set(after).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert_eq!(events.iter().count(), 1, "{after:?}");
        }
    }

    #[test]
    fn a_socket_bound_without_a_port_gets_one_when_it_connects() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        bind_address_no_port(&socket).unwrap();
        socket.bind(&"127.0.0.3:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        let address = |socket: &socket2::Socket| socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(address(&socket).port(), 0);
        socket.connect(&listener.local_addr().unwrap().into()).unwrap();
        assert_ne!(address(&socket).port(), 0);
        assert_eq!(address(&socket).ip().to_string(), "127.0.0.3");
    }
}
