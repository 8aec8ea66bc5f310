//! `rollcall load`: opens many connections to a server, sends heartbeats, checks every answer and measures; and has
//! them watch each other, and measures how soon each sees what changed.
//!
//! | module | holds |
//! | --- | --- |
//! | [`cli`] | flags → settings |
//! | [`worker`] | one thread: its poll, descriptor table, connections, pace |
//! | [`connection`] | one connection's life, its socket |
//! | [`client`] | bytes ↔ requests, frames, answers; sans-IO |
//! | [`secure`] | how TLS is spoken, where it is |
//! | [`watch`] | who watches whom, what is changed and seen; sans-IO |
//! | [`pace`] | when things are due; no clock |
//! | [`failure`] | what can go wrong, counted |
//! | [`measure`] | CPU and memory of processes |
//! | [`report`] | the table and the JSON |
//!
//! A run: connect at a bounded rate; look at the server's memory; load for `--warm-up`; look at counters and CPU
//! clocks; load for `--duration`; look again; wait for the answers that are still due; close; report.

pub mod cli;
pub mod client;
pub mod connection;
pub mod failure;
pub mod measure;
pub mod pace;
pub mod report;
pub mod secure;
pub mod watch;
pub mod worker;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use cli::{Mode, Settings};
use connection::{Tally, Window};
use failure::Failure;
use measure::{Cpu, Memory};
use report::{Counts, Report, Server};
use worker::Run;

use crate::sys;

/// How often the run's thread looks at the workers.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const SECOND_NS: u64 = 1_000_000_000;
/// What servers get to settle between the last connect and the look at their memory.
const SETTLE: Duration = Duration::from_millis(500);
/// Descriptors of a thread that are no connections: stdio, poll, timer, files of `/proc`, and some to spare.
const DESCRIPTORS_SPARE: usize = 32;

/// Runs `rollcall load` with what stood behind it on the command line.
///
/// The exit code is 0 if nothing failed, 1 if a connection or an answer did (the report says which), and clap's own
/// for wrong flags and `--help`. An error is what made the run itself impossible.
pub fn run(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let settings = match Settings::parse(arguments) {
        Ok(settings) => Arc::new(settings),
        Err(error) => {
            error.print().context("the help could not be printed")?;
            return Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)));
        }
    };
    check_descriptors(settings.connections, settings.threads)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    // The first Ctrl-C ends the run early, with its report; the second one ends the process.
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 130, Arc::clone(&interrupted))?;
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&interrupted))?;
    let outcome = load(&settings, &interrupted)?;
    io::stdout().write_all(outcome.report.as_bytes()).context("the report could not be written")?;
    Ok(if outcome.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Refuses what the limit on descriptors would break half-way. Each of `tables` descriptor tables gets its share.
fn check_descriptors(connections: usize, tables: usize) -> anyhow::Result<()> {
    let max = sys::raise_descriptor_limit().context("the limit on descriptors cannot be read")?;
    let usable = usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(DESCRIPTORS_SPARE).max(1);
    if connections.div_ceil(tables) > usable {
        bail!(
            "{connections} connections in {tables} descriptor tables are more than the {usable} that each can hold: \
             use --threads {} or raise the limit with ulimit -n",
            connections.div_ceil(usable),
        );
    }
    Ok(())
}

/// A look at counters and CPU clocks.
struct Sample {
    at_ns: u64,
    counts: Counts,
    own: Cpu,
    /// Absent where no process was given or it has ended.
    server: Option<Cpu>,
}

/// What a run ends with.
struct Outcome {
    report: String,
    failed: bool,
}

/// Does the run.
fn load(settings: &Arc<Settings>, interrupted: &AtomicBool) -> anyhow::Result<Outcome> {
    let before = settings.server_pid.map(Memory::of_process).transpose()?;
    let run = Run::new(settings.threads);
    thread::scope(|scope| {
        let mut workers = Vec::with_capacity(settings.threads);
        for number in 0..settings.threads {
            let (settings, run) = (Arc::clone(settings), &run);
            let started = thread::Builder::new()
                .name(format!("load-{number}"))
                .spawn_scoped(scope, move || worker::run(number, settings, run));
            match started {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    run.end();
                    return Err(error).context("a thread could not be started");
                }
            }
        }
        let observer = Observer { settings, run: &run, interrupted, workers: &workers };
        let observed = observer.observe();
        run.end();
        let mut tally = Tally::new()?;
        for worker in workers {
            tally.merge(&worker.join().map_err(|_| anyhow!("a thread of the load panicked"))??)?;
        }
        tally.sight.conclude(|sent_ns| observed.first.at_ns <= sent_ns && sent_ns < observed.last.at_ns);
        tally.failures.add(Failure::Unseen, tally.sight.unseen);
        if observed.connected == 0 && settings.mode != Mode::Churn {
            let cause = tally.failures.connect_error().map(|error| format!(" ({error})")).unwrap_or_default();
            bail!("no connection to {} could be opened{cause}: is the server running there?", settings.target.url);
        }
        let server = observed.server(settings, before);
        let report = Report {
            settings,
            tally: &tally,
            connect_ns: tally.last_opened_ns.saturating_sub(observed.began_ns),
            connected: observed.connected,
            window_ns: observed.last.at_ns.saturating_sub(observed.first.at_ns),
            counts: observed.last.counts.since(&observed.first.counts),
            own_cpu: observed.last.own.since(&observed.first.own),
            server,
        };
        let text = if settings.json { report.json() + "\n" } else { report.table() };
        Ok(Outcome { report: text, failed: tally.failures.total() > 0 })
    })
}

/// What was seen while the workers worked.
struct Observed {
    began_ns: u64,
    connected: u64,
    /// The server's CPU time while they connected.
    connect_cpu: Option<Cpu>,
    memory: Option<Memory>,
    first: Sample,
    last: Sample,
}

impl Observed {
    fn server(&self, settings: &Settings, before: Option<Memory>) -> Option<Server> {
        let (first, last) = (self.first.server.as_ref()?, self.last.server.as_ref()?);
        Some(Server {
            pid: settings.server_pid?,
            cpu: last.since(first),
            connect_cpu: self.connect_cpu.clone()?,
            before: before?,
            connected: self.memory?,
        })
    }
}

/// The run's thread while the workers work: says when, looks, shows progress.
struct Observer<'a, 'scope> {
    settings: &'a Settings,
    run: &'a Run,
    interrupted: &'a AtomicBool,
    workers: &'a [ScopedJoinHandle<'scope, anyhow::Result<Tally>>],
}

impl Observer<'_, '_> {
    fn observe(&self) -> Observed {
        let began_ns = self.run.now_ns();
        let cpu_before = self.server_cpu();
        let mut progress = Progress::new(began_ns);
        self.wait(&mut progress, u64::MAX, || self.run.cells.iter().all(|cells| cells.ready.load(Relaxed)));
        let connected = self.sum(|cells| cells.opened.load(Relaxed));
        let connect_cpu = self.server_cpu().zip(cpu_before).map(|(cpu, before)| cpu.since(&before));
        let memory = if self.settings.mode == Mode::Churn { None } else { self.settled_memory() };

        let start_ns = self.run.now_ns();
        let from_ns = start_ns.saturating_add(nanoseconds(self.settings.warm_up));
        let until_ns = from_ns.saturating_add(nanoseconds(self.settings.duration));
        let nothing_to_do = connected == 0 && self.settings.mode != Mode::Churn;
        if !nothing_to_do && !self.is_over() {
            self.run.begin(Window { start_ns, from_ns, until_ns });
        }
        self.wait(&mut progress, from_ns, || nothing_to_do);
        let first = self.sample();
        self.wait(&mut progress, until_ns, || nothing_to_do);
        let last = self.sample();
        let memory = memory.or_else(|| self.settings.server_pid.and_then(|pid| Memory::of_process(pid).ok()));
        Observed { began_ns, connected, connect_cpu, memory, first, last }
    }

    /// Waits until `until_ns`, or `done`, or the run is over before its time.
    fn wait(&self, progress: &mut Progress, until_ns: u64, done: impl Fn() -> bool) {
        while !done() && !self.is_over() {
            let left_ns = until_ns.saturating_sub(self.run.now_ns());
            if left_ns == 0 {
                return;
            }
            thread::sleep(LOOK_EVERY.min(Duration::from_nanos(left_ns)));
            if !self.settings.quiet {
                progress.show(self);
            }
        }
    }

    /// Whether somebody interrupted it or a worker has ended, which it does early only if it failed.
    fn is_over(&self) -> bool {
        self.interrupted.load(Relaxed) || self.workers.iter().any(ScopedJoinHandle::is_finished)
    }

    fn settled_memory(&self) -> Option<Memory> {
        let pid = self.settings.server_pid?;
        thread::sleep(SETTLE);
        Memory::of_process(pid).ok()
    }

    fn sample(&self) -> Sample {
        Sample {
            at_ns: self.run.now_ns(),
            counts: Counts {
                answered: self.sum(|cells| cells.answered.load(Relaxed)),
                deliveries: self.sum(|cells| cells.deliveries.load(Relaxed)),
                presences: self.sum(|cells| cells.presences.load(Relaxed)),
                seen_bytes: self.sum(|cells| cells.seen_bytes.load(Relaxed)),
            },
            server: self.server_cpu(),
            own: Cpu::of_own_threads(self.run.cells.iter().map(|cells| cells.thread_id.load(Relaxed))),
        }
    }

    fn server_cpu(&self) -> Option<Cpu> {
        self.settings.server_pid.and_then(|pid| Cpu::of_process(pid).ok())
    }

    fn sum(&self, value: impl Fn(&worker::Cells) -> u64) -> u64 {
        self.run.cells.iter().map(value).sum()
    }
}

/// A line each second on stderr.
struct Progress {
    shown_ns: u64,
    opened: u64,
    answered: u64,
    deliveries: u64,
}

impl Progress {
    fn new(now_ns: u64) -> Self {
        Self { shown_ns: now_ns, opened: 0, answered: 0, deliveries: 0 }
    }

    fn show(&mut self, observer: &Observer<'_, '_>) {
        let now_ns = observer.run.now_ns();
        let elapsed_ns = now_ns.saturating_sub(self.shown_ns);
        if elapsed_ns < SECOND_NS {
            return;
        }
        let opened = observer.sum(|cells| cells.opened.load(Relaxed));
        let answered = observer.sum(|cells| cells.answered.load(Relaxed));
        let per_second = |count: u64| (u128::from(count) * u128::from(SECOND_NS) / u128::from(elapsed_ns)) as u64;
        let deliveries = observer.sum(|cells| cells.deliveries.load(Relaxed));
        let told = match observer.settings.mode {
            Mode::Watch => format!("{} deliveries a second, ", per_second(deliveries - self.deliveries)),
            _ => String::new(),
        };
        let line = format!(
            "{} open, {} opened a second, {told}{} answers a second, {} failures\n",
            observer.sum(|cells| cells.open.load(Relaxed)),
            per_second(opened - self.opened),
            if observer.settings.mode == Mode::Churn { 0 } else { per_second(answered - self.answered) },
            observer.sum(|cells| cells.failures.load(Relaxed)),
        );
        // Whoever closed stderr wants no progress.
        let _ = io::stderr().write_all(line.as_bytes());
        *self = Self { shown_ns: now_ns, opened, answered, deliveries };
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::io::Read;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::atomic::AtomicU64;

    use tungstenite::handshake::derive_accept_key;

    use super::*;

    const ACK: &str = r#"{"type":"HEARTBEAT_ACK","timestamp":"2026-11-25T03:54:45.123Z"}"#;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let header = if length < 126 { vec![first, length] } else { vec![first, 126, 0, length] };
        [&header[..], payload].concat()
    }

    /// A frame of the client: its opcode.
    fn read_frame(stream: &mut TcpStream) -> io::Result<u8> {
        let mut header = [0; 6];
        stream.read_exact(&mut header)?;
        stream.read_exact(&mut vec![0; usize::from(header[1] & 0x7f)])?;
        Ok(header[0] & 0x0f)
    }

    /// One connection of a server that sends a ping, and every second answer in two pieces.
    fn serve_one(mut stream: TcpStream, ack: &str, pongs: &AtomicU64) -> io::Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            request.push(byte[0]);
        }
        let text = String::from_utf8(request).unwrap();
        let after = |name: &str| text.split_once(name).unwrap().1.split_whitespace().next().unwrap();
        let accept = derive_accept_key(after("Sec-WebSocket-Key: ").as_bytes());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        let user_id = after("userId=");
        let connect = format!(
            r#"{{"type":"CONNECT","userId":"{user_id}","timestamp":"2026-11-25T03:54:45.123Z","payload":{{"protocol":1}}}}"#
        );
        let first = [head.as_bytes(), &frame(0x81, connect.as_bytes()), &frame(0x89, b"there?")].concat();
        let (start, rest) = first.split_at(head.len() + 9);
        for piece in [start, rest] {
            stream.write_all(piece)?;
            thread::sleep(Duration::from_millis(5));
        }
        let answer = frame(0x81, ack.as_bytes());
        for count in 0.. {
            match read_frame(&mut stream)? {
                1 if count % 2 == 0 => stream.write_all(&answer)?,
                1 => {
                    stream.write_all(&answer[..9])?;
                    thread::sleep(Duration::from_millis(1));
                    stream.write_all(&answer[9..])?;
                }
                10 => {
                    pongs.fetch_add(1, Relaxed);
                }
                8 => return stream.write_all(&frame(0x88, b"\x03\xe8")),
                _ => {}
            }
        }
        Ok(())
    }

    /// A server of as many connections as come, until the test's process ends; and how many pongs it got.
    fn serve(ack: &'static str) -> (SocketAddr, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pongs = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&pongs);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let counter = Arc::clone(&counter);
                thread::spawn(move || serve_one(stream.unwrap(), ack, &counter));
            }
        });
        (address, pongs)
    }

    fn run_against(address: SocketAddr, flags: &str) -> (serde_json::Value, bool) {
        let line = format!("ws://{address}/ --json --quiet --warm-up 0 {flags}");
        let settings = Settings::parse(line.split_whitespace().map(Into::into).collect()).unwrap();
        let outcome = load(&Arc::new(settings), &AtomicBool::new(false)).unwrap();
        (serde_json::from_str(&outcome.report).unwrap(), outcome.failed)
    }

    #[test]
    fn heartbeats_are_answered_in_a_closed_loop_over_two_threads() {
        let (report, failed) = run_against(serve(ACK).0, "--duration 1s --mode closed --connections 5 --threads 2");
        assert!(!failed, "{report}");
        assert_eq!((&report["connect"]["opened"], &report["pings_answered"]), (&5.into(), &5.into()));
        assert_eq!(report["sent_overall"], report["answered_overall"]);
        assert!(report["count"].as_u64() > Some(5), "{report}");
        assert_eq!(report["closes"]["1000"], 5);
    }

    #[test]
    fn an_open_loop_sends_what_is_due_and_counts_each_answer_once() {
        let (report, failed) =
            run_against(serve(ACK).0, "--duration 300ms --mode open --connections 4 --interval 50ms");
        assert!(!failed, "{report}");
        assert_eq!((&report["sent_overall"], &report["latency_us"]["count"]), (&24.into(), &24.into()));
    }

    #[test]
    fn churn_opens_each_connection_anew() {
        let (report, failed) =
            run_against(serve(ACK).0, "--duration 1s --mode churn --connections 2 --rate-connect 100");
        assert!(!failed, "{report}");
        assert!(report["opened_overall"].as_u64() > Some(2), "{report}");
        assert_eq!(report["unit"], "connection");
    }

    #[test]
    fn a_wrong_answer_fails_its_connection() {
        let (address, _) = serve(r#"{"type":"HEARTBEAT_ACK","timestamp":"25 Nov 2026"}"#);
        let (report, failed) = run_against(address, "--duration 100ms --mode closed --connections 3");
        assert!(failed);
        assert_eq!((&report["failures"]["wrong_answer"], &report["failures_total"]), (&3.into(), &3.into()));
    }

    #[test]
    fn nobody_there_is_an_error_that_says_so() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let line = format!("ws://{address}/ --quiet --connections 2");
        let settings = Settings::parse(line.split_whitespace().map(Into::into).collect()).unwrap();
        let error = load(&Arc::new(settings), &AtomicBool::new(false)).err().unwrap();
        assert!(error.to_string().contains("is the server running there?"), "{error}");
    }

    #[test]
    fn an_interrupted_run_still_reports() {
        let (address, pongs) = serve(ACK);
        let line = format!("ws://{address}/ --json --quiet --duration 1h --mode idle --connections 2");
        let settings = Settings::parse(line.split_whitespace().map(Into::into).collect()).unwrap();
        let interrupted = AtomicBool::new(false);
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    if pongs.load(Relaxed) == 2 {
                        break;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                thread::sleep(Duration::from_millis(300));
                interrupted.store(true, Relaxed);
            });
            load(&Arc::new(settings), &interrupted).unwrap()
        });
        assert!(!outcome.failed && outcome.report.contains(r#""mode":"idle""#));
    }

    #[test]
    fn more_connections_than_descriptors_are_refused_with_the_number_of_threads_that_would_do() {
        let usable = usize::try_from(sys::raise_descriptor_limit().unwrap()).unwrap() - DESCRIPTORS_SPARE;
        assert!(check_descriptors(usable * 3, 3).is_ok());
        let error = check_descriptors(usable * 3 + 1, 3).unwrap_err().to_string();
        assert!(error.contains("--threads 4"), "{error}");
    }
}
