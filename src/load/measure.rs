//! CPU time and memory of processes, read from `/proc` (proc(5)).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};

/// Ticks a second in `/proc/PID/stat`: `USER_HZ`, 100 on every architecture that Rust's std knows.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time that the threads of a process have had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Nanoseconds by thread id, by the scheduler's own clock; the thread that runs right now lags by a tick at most.
    pub threads_ns: BTreeMap<u64, u64>,
    /// Nanoseconds in which a thread could have run and another one had the core, all threads together.
    pub waited_ns: u64,
    /// Nanoseconds in user space, by ticks of 10 ms.
    pub user_ns_coarse: u64,
    /// Nanoseconds in the kernel, by ticks of 10 ms.
    pub system_ns_coarse: u64,
}

impl Cpu {
    /// What `pid` has had so far. Fails when there is no such process.
    pub fn of_process(pid: u32) -> anyhow::Result<Self> {
        let tasks = Path::new("/proc").join(pid.to_string()).join("task");
        let mut cpu = Self::default();
        let entries = fs::read_dir(&tasks).with_context(|| format!("process {pid} cannot be read; has it ended?"))?;
        for entry in entries {
            let path = entry?.path();
            // A thread may end between the listing and the look at it.
            let (Ok(exact), Ok(ticks)) =
                (fs::read_to_string(path.join("schedstat")), fs::read_to_string(path.join("stat")))
            else {
                continue;
            };
            let thread = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let (user, system) = parse_stat(&ticks).ok_or_else(|| anyhow!("{} is malformed", path.display()))?;
            let (had_ns, waited_ns) = parse_schedstat(&exact).unwrap_or_default();
            cpu.threads_ns.insert(thread.unwrap_or_default(), had_ns);
            cpu.waited_ns += waited_ns;
            cpu.user_ns_coarse += user * (1_000_000_000 / TICKS_PER_SECOND);
            cpu.system_ns_coarse += system * (1_000_000_000 / TICKS_PER_SECOND);
        }
        Ok(cpu)
    }

    /// What some threads of this process have had.
    pub fn of_own_threads(threads: impl Iterator<Item = u64>) -> Self {
        let mut cpu = Self::default();
        for thread in threads {
            let exact = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
            let (had_ns, waited_ns) = parse_schedstat(&exact).unwrap_or_default();
            cpu.threads_ns.insert(thread, had_ns);
            cpu.waited_ns += waited_ns;
        }
        cpu
    }

    /// What was had since `before`. A thread that has ended since is left out.
    pub fn since(&self, before: &Self) -> Self {
        let grown = |(&thread, &now_ns): (&u64, &u64)| {
            let before_ns = before.threads_ns.get(&thread).copied().unwrap_or_default();
            (thread, now_ns.saturating_sub(before_ns))
        };
        Self {
            threads_ns: self.threads_ns.iter().map(grown).collect(),
            waited_ns: self.waited_ns.saturating_sub(before.waited_ns),
            user_ns_coarse: self.user_ns_coarse.saturating_sub(before.user_ns_coarse),
            system_ns_coarse: self.system_ns_coarse.saturating_sub(before.system_ns_coarse),
        }
    }

    /// All threads together.
    pub fn total_ns(&self) -> u64 {
        self.threads_ns.values().sum()
    }

    /// The thread that had most.
    pub fn busiest_ns(&self) -> u64 {
        self.threads_ns.values().copied().max().unwrap_or_default()
    }
}

/// Memory of the server and of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident bytes of the process.
    pub resident_bytes: u64,
    /// The kernel's small objects and the buffers of its TCP sockets: of the whole machine, so of both ends of
    /// each loopback connection, and of whatever else runs.
    pub kernel_bytes: u64,
}

impl Memory {
    /// As of now, for process `pid`.
    pub fn of_process(pid: u32) -> anyhow::Result<Self> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        let resident = match &rollup {
            Ok(text) => parse_kilobytes(text, "Rss:"),
            // Only the process's own user may read the exact sum; what `status` says is off by some pages.
            Err(_) => {
                let status = fs::read_to_string(format!("/proc/{pid}/status"));
                let status = status.with_context(|| format!("there is no process {pid}; see --server-pid"))?;
                parse_kilobytes(&status, "VmRSS:")
            }
        };
        let page = parse_kilobytes(&fs::read_to_string("/proc/self/smaps")?, "KernelPageSize:").unwrap_or(4096);
        let slab = parse_kilobytes(&fs::read_to_string("/proc/meminfo")?, "Slab:").unwrap_or_default();
        let pages = parse_sockstat(&fs::read_to_string("/proc/net/sockstat")?).unwrap_or_default();
        Ok(Self {
            resident_bytes: resident.ok_or_else(|| anyhow!("the memory of process {pid} cannot be read"))?,
            kernel_bytes: slab + pages * page,
        })
    }
}

/// The calling thread's id, as `/proc` names it.
pub fn own_thread_id() -> anyhow::Result<u64> {
    let link = fs::read_link("/proc/thread-self").context("/proc/thread-self cannot be read")?;
    let name = link.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    name.ok_or_else(|| anyhow!("/proc/thread-self is {}, which ends in no thread id", link.display()))
}

/// Nanoseconds on a CPU and nanoseconds of waiting for one: the first two fields.
fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Ticks in user space and in the kernel: fields 14 and 15, counted past the name, which may hold anything.
fn parse_stat(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The bytes of the first line that begins with `name` and gives kibibytes.
fn parse_kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Pages in buffers of TCP sockets.
fn parse_sockstat(text: &str) -> Option<u64> {
    let mut words = text.lines().find_map(|line| line.strip_prefix("TCP:"))?.split_whitespace();
    words.find(|&word| word == "mem")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        assert_eq!(parse_schedstat("123456789 49764 1\n"), Some((123_456_789, 49_764)));
        let stat = "77 (a ) b) S 1 77 77 0 -1 4194304 100 0 0 0 250 40 0 0 20 0 3 0 100 1000 50";
        assert_eq!(parse_stat(stat), Some((250, 40)));
        assert_eq!(parse_stat("77 (a"), None);
        let rollup = "5581-7ffc ---p 00000000 00:00 0 [rollup]\nRss:                1234 kB\nPss: 3 kB\n";
        assert_eq!(parse_kilobytes(rollup, "Rss:"), Some(1234 * 1024));
        let sockstat = "sockets: used 13\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 293\nUDP: inuse 0 mem 7\n";
        assert_eq!(parse_sockstat(sockstat), Some(293));
    }

    #[test]
    fn own_cpu_and_memory_can_be_read() {
        let pid = std::process::id();
        let before = Cpu::of_process(pid).unwrap();
        let mut sum = 0u64;
        // A thread's own time is brought up to date once a tick, or when it sleeps.
        let began = std::time::Instant::now();
        while began.elapsed() < std::time::Duration::from_millis(50) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let spent = Cpu::of_process(pid).unwrap().since(&before);
        assert!(spent.total_ns() >= spent.busiest_ns() && spent.busiest_ns() > 0);
        let own = Cpu::of_own_threads([own_thread_id().unwrap()].into_iter());
        assert!(own.total_ns() > 0);
        assert!(Memory::of_process(pid).unwrap().resident_bytes > 100_000);
        assert!(Cpu::of_process(u32::MAX).is_err());
    }

    #[test]
    fn a_thread_that_is_new_counts_from_nothing() {
        let cpu = |threads: &[(u64, u64)]| Cpu { threads_ns: threads.iter().copied().collect(), ..Cpu::default() };
        let spent = cpu(&[(1, 50), (3, 7)]).since(&cpu(&[(1, 20), (2, 9)]));
        assert_eq!(spent, cpu(&[(1, 30), (3, 7)]));
        assert_eq!((spent.total_ns(), spent.busiest_ns()), (37, 30));
    }
}
