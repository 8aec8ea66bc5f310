//! What the kernel says about this process, from `/proc` (proc(5)). Elsewhere than on Linux it says nothing.

use std::fs;

/// Clock ticks a second in `/proc`: `USER_HZ`, 100 on every architecture that this builds for.
const TICKS_PER_SECOND: f64 = 100.0;

/// The figures of one moment; `None` where the kernel does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// User and system time of all threads, those that ended included.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Virtual memory.
    pub virtual_bytes: Option<u64>,
    /// Threads now.
    pub threads: Option<u64>,
    /// Open descriptors of the calling thread's table.
    pub open_descriptors: Option<u64>,
    /// The most descriptors that one table may have.
    pub descriptors_max: Option<u64>,
    /// Seconds since 1970 at which the process started.
    pub start_time_seconds: Option<f64>,
}

/// Reads the figures.
#[derive(Debug)]
pub struct ProcessReader {
    start_time_seconds: Option<f64>,
}

impl ProcessReader {
    /// A reader for this process. Reads the time of boot once: the file it stands in is long on large machines.
    pub fn new() -> Self {
        let start_time_seconds = fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|text| boot_time_seconds(&text))
            .zip(fs::read_to_string("/proc/self/stat").ok().and_then(|text| ticks(&text, STAT_START_TIME)))
            .map(|(boot, start)| boot + start / TICKS_PER_SECOND);
        Self { start_time_seconds }
    }

    /// The figures now. No folder is listed: that costs seconds where a million descriptors are open.
    pub fn read(&self) -> ProcessFigures {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        ProcessFigures {
            cpu_seconds: ticks(&stat, STAT_USER_TIME)
                .zip(ticks(&stat, STAT_SYSTEM_TIME))
                .map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            resident_bytes: number_after(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: number_after(&status, "VmSize:").map(|kib| kib * 1024),
            threads: number_after(&status, "Threads:"),
            open_descriptors: open_descriptors(),
            descriptors_max: number_after(&limits, "Max open files"),
            start_time_seconds: self.start_time_seconds,
        }
    }
}

impl Default for ProcessReader {
    fn default() -> Self {
        Self::new()
    }
}

/// How many descriptors the calling thread's table holds: since Linux 6.2 that is the size of its folder
/// (`/proc/self/fd` is the first thread's, which may have another table). Before, the size was 0.
fn open_descriptors() -> Option<u64> {
    let count = fs::metadata("/proc/thread-self/fd").ok()?.len();
    (count > 0).then_some(count)
}

/// Where the fields of `/proc/self/stat` stand among those after the command's name: utime, stime, starttime.
const STAT_USER_TIME: usize = 11;
const STAT_SYSTEM_TIME: usize = 12;
const STAT_START_TIME: usize = 19;

/// A time of `/proc/self/stat`, in clock ticks. The command's name may hold blanks and brackets, so fields are
/// counted behind its last one.
fn ticks(stat: &str, field: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(field)?.parse().ok()
}

fn boot_time_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The first word of what follows `key` at the start of a line, where it is a number.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::File;

    use super::*;

    #[test]
    fn a_commands_name_may_hold_blanks_and_brackets() {
        let stat = "42 (a) b (c) R 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 17 18 1234 20";
        assert_eq!(ticks(stat, STAT_USER_TIME), Some(250.0));
        assert_eq!(ticks(stat, STAT_SYSTEM_TIME), Some(50.0));
        assert_eq!(ticks(stat, STAT_START_TIME), Some(1234.0));
        assert_eq!(ticks("42 (a", STAT_USER_TIME), None);
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            20000     1048576     files\n";
        assert_eq!(number_after(limits, "Max open files"), Some(20_000));
        assert_eq!(number_after(&limits.replace("20000", "unlimited"), "Max open files"), None);
        assert_eq!(number_after("", "VmRSS:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_figures_and_a_new_file_counts() {
        let reader = ProcessReader::new();
        let before = reader.read();
        assert!(before.resident_bytes.unwrap() > 100_000);
        assert!(before.virtual_bytes.unwrap() >= before.resident_bytes.unwrap());
        assert!(before.threads.unwrap() >= 1);
        assert!(before.descriptors_max.unwrap() > 3);
        assert!(before.cpu_seconds.unwrap() >= 0.0);
        let now_seconds = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let start_time_seconds = before.start_time_seconds.unwrap();
        assert!(start_time_seconds < now_seconds + 2.0 && start_time_seconds > now_seconds - 86_400.0);
        // Other tests open files at the same time, so only the order of magnitude can be told.
        let files: Vec<File> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        if let (Some(before), Some(after)) = (before.open_descriptors, reader.read().open_descriptors) {
            assert!(after + 100 > before + files.len() as u64, "{before} {after}");
        }
    }
}
