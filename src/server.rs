//! Config → threads → run → drain.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, anyhow};
use aws_lc_rs::rand;
use core_affinity::CoreId;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::{Poll, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use crate::auth::authority::Authority;
use crate::config::{Config, ControlPages, LogFormat, Named};
use crate::control::access::ControlAccess;
use crate::control::health::{Lifecycle, Stage};
use crate::control::reload::KeyReload;
use crate::control::{self, ControlMessage, ControlParts};
use crate::host;
use crate::metrics::ShardMetrics;
use crate::presence::change::NameHasher;
use crate::protocol::session_id::SessionIds;
use crate::shard::core::{Application, Core, Limits};
use crate::shard::driver::clock::{self, Clock};
use crate::shard::driver::handovers::PLAIN_REQUESTS_MAX;
use crate::shard::driver::inbox::{Address, ControlOrder, Inbox, inbox};
use crate::shard::driver::listener::{ListenOptions, Listener, claim};
use crate::shard::driver::socket::{Socket, Transport};
use crate::shard::driver::tls_socket::{TlsShared, TlsSocket};
use crate::shard::driver::{self, HandOver, Shard, ShardParts, TurnLimits};
use crate::shard::gate::Gate;
pub use crate::shard::gate::Wake;
use crate::shard::sessions::{Sessions, Terms};
use crate::sys;
use crate::tls::ServerConfig;
use crate::tls::keys::{KeyFiles, KeyPaths, ServerKeys};

/// The signals that are heard: two that stop, one that reads files anew.
const SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];

/// Room in control's inbox for what all shards hand over.
const CONTROL_INBOX: usize = 1024;

/// Orders of control's own beside the answers it gives.
const ORDERS_SPARE: usize = 8;

/// The most bytes that an idle connection takes in its shard's table: a cache line.
const CONNECTION_BYTES_MAX: usize = 64;

// In debug builds mio's sockets carry a check of their own.
const _: () = assert!(cfg!(debug_assertions) || Core::<Sessions, Socket>::CONNECTION_BYTES <= CONNECTION_BYTES_MAX);
const _: () = assert!(cfg!(debug_assertions) || Core::<Sessions, TlsSocket>::CONNECTION_BYTES <= CONNECTION_BYTES_MAX);

/// What the shards of one server are made of; [`Sessions`] for Rollcall itself.
pub trait Service: Clone + Send + 'static {
    /// What one shard runs.
    type Application: Application;

    /// The application of shard `shard` of `shards`, made on that shard's thread. `wake` has the shard ask it what it
    /// wants done.
    fn application(&self, shard: usize, shards: usize, metrics: Arc<ShardMetrics>, wake: Wake) -> Self::Application;

    /// The operator asks that files be read anew. Must not block.
    fn reload(&self) {}

    /// Changes to the limits that `config` sets, if the service needs other ones.
    fn limits(&self, config: &Config) -> Limits {
        Limits::new(config)
    }
}

/// Rollcall's own service.
#[derive(Clone)]
struct Presence {
    config: Config,
    authority: Authority,
    /// What names the process to those who keep cursors.
    process: u32,
    began_unix_ms: u64,
    hasher: NameHasher,
    secret: [u8; 32],
}

impl Service for Presence {
    type Application = Sessions;

    fn application(&self, shard: usize, shards: usize, metrics: Arc<ShardMetrics>, wake: Wake) -> Sessions {
        let terms = Terms::new(&self.config, shards, self.process, self.began_unix_ms);
        let session_ids = SessionIds::new(&self.secret, fastrand::u64(..));
        let gate = Gate::new(self.authority.clone(), wake, Arc::clone(&metrics));
        Sessions::new(shard, terms, gate, self.hasher.clone(), session_ids, metrics)
    }

    fn reload(&self) {
        self.authority.reload();
    }
}

/// Serves presence as `config` says, until a signal ends it and everybody has been told.
///
/// # Errors
/// What keeps the server from starting or going on, as sentences for the operator.
pub fn run(config: &Config) -> anyhow::Result<()> {
    prepare(config)?;
    let mut secret = [0; 32];
    rand::fill(&mut secret).map_err(|_| anyhow!("the kernel gives no random numbers"))?;
    let authority = Authority::start(config)?;
    let (process, began_unix_ms) = (fastrand::u32(..), clock::unix_ms());
    let (config_of_all, hasher) = (config.clone(), NameHasher::default());
    serve(config, &Presence { config: config_of_all, authority, process, began_unix_ms, hasher, secret })
}

/// What must be before any thread begins: each inherits which signals are blocked.
fn prepare(config: &Config) -> anyhow::Result<()> {
    begin_log(config);
    report_panics();
    sys::block_signals(&SIGNALS).context("signals cannot be blocked")
}

/// Serves `service` as `config` says; [`run`] for Rollcall itself.
///
/// # Errors
/// What keeps the server from starting or going on, as sentences for the operator.
pub fn serve<S: Service>(config: &Config, service: &S) -> anyhow::Result<()> {
    prepare(config)?;
    let signals = Signals::new(SIGNALS).context("signals cannot be heard")?;
    let descriptors = sys::raise_descriptor_limit().context("the limit of descriptors cannot be raised")?;

    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let shards = shard_count(config, &cores);
    let keys = open_keys(config)?;
    let shard_keys = keys.as_ref().map(|(_, keys)| Arc::clone(&keys.clients));
    let (claimed, listen) = claim_address(config)?;
    let control_listener = TcpListener::bind(config.control_listen).with_context(|| {
        format!("cannot listen on {}, the address of control_listen; is it served already?", config.control_listen)
    })?;
    let control_address = control_listener.local_addr().context("the control port has no address")?;
    let access = Arc::new(ControlAccess::new(config)?);

    let metrics: Vec<_> = (0..shards).map(|_| Arc::new(ShardMetrics::default())).collect();
    let lifecycle = Arc::new(Lifecycle::new());
    lifecycle.set_memory_limit(memory_limit(config));
    let control_poll = Poll::new().context("the control thread gets no epoll")?;
    let control_waker = Arc::new(waker(&control_poll, control::WAKER_TOKEN)?);
    let (control_sender, control_inbox) = bounded(CONTROL_INBOX);
    let mut addresses = Vec::with_capacity(shards);
    let mut ends = Vec::with_capacity(shards);
    for _ in 0..shards {
        let poll = Poll::new().context("a shard gets no epoll")?;
        let waker = waker(&poll, driver::WAKER)?;
        let (address, inbox) = inbox::<MailOf<S>>(config.inbox_capacity, PLAIN_REQUESTS_MAX + ORDERS_SPARE, waker);
        addresses.push(address);
        ends.push((poll, inbox));
    }
    let event_descriptors = config.own_descriptor_tables.then(event_descriptors);
    // A shard that closed its copy of a waker would wake nobody, or write into whatever took the number.
    let event_descriptors = event_descriptors.filter(|found| found.len() > shards);
    if config.own_descriptor_tables && event_descriptors.is_none() {
        tracing::warn!(
            "the shards share the process's descriptor table: /proc does not tell which descriptors must stay"
        );
    }

    let clock = Clock::start();
    let (ready_sender, ready) = bounded(shards);
    let mut threads = Vec::with_capacity(shards);
    for (shard, (poll, inbox)) in ends.into_iter().enumerate() {
        let start = ShardStart {
            shard,
            shards,
            config: config.clone(),
            service: service.clone(),
            core: config.pin.then(|| cores.get(shard % cores.len().max(1)).copied()).flatten(),
            listen,
            poll,
            inbox,
            addresses: addresses.clone(),
            hand_over: hand_over(control_sender.clone(), Arc::clone(&control_waker)),
            metrics: metrics.clone(),
            clock,
            keys: shard_keys.clone(),
            event_descriptors: event_descriptors.clone(),
        };
        let ready_sender = ready_sender.clone();
        let thread = thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || run_shard(start, &ready_sender))
            .context("a shard's thread cannot be started")?;
        threads.push(thread);
    }
    let control_thread = start_control(ControlStart {
        poll: control_poll,
        listener: control_listener,
        signals,
        inbox: control_inbox,
        lifecycle: Arc::clone(&lifecycle),
        shards: metrics,
        addresses,
        keys,
        access,
        reload: Box::new({
            let service = service.clone();
            move || service.reload()
        }),
    })?;
    let mut tables = Vec::with_capacity(shards);
    for _ in 0..shards {
        tables.push(ready.recv().context("a shard ended while it started")??);
    }
    let own_descriptor_tables = tables.iter().all(|table| *table == Table::Own);
    if own_descriptor_tables {
        lifecycle.set_shards_own_descriptors();
    }
    drop(claimed);
    lifecycle.advance(Stage::Serving);
    tracing::info!(
        listen = %listen,
        control = %control_address,
        shards,
        pinned = config.pin && !cores.is_empty(),
        descriptors_per_table = descriptors,
        own_descriptor_tables,
        tls = shard_keys.is_some(),
        max_connections = config.max_connections,
        memory_limit = memory_limit(config),
        max_message = config.max_message,
        heartbeat_timeout_ms = config.heartbeat_timeout.as_millis() as u64,
        metrics_on_the_websocket_port = config.public_metrics,
        version = env!("CARGO_PKG_VERSION"),
        "rollcall is listening",
    );
    if config.open_warning {
        let open = open_to_others(config, listen.ip(), control_address.ip());
        if !open.is_empty() {
            tracing::warn!(
                "open to other hosts: {}; guard them, or say open_warning=false if they are meant to be open",
                open.join(", ")
            );
        }
    }

    for thread in threads {
        thread.join().map_err(|_| anyhow!("a shard ended by a fault"))?;
    }
    tracing::info!("every connection is closed");
    let _ = control_sender.send(ControlMessage::Stop);
    control_waker.wake().context("the control thread cannot be woken")?;
    control_thread.join().map_err(|_| anyhow!("the control thread ended by a fault"))
}

/// What others than this host can use without showing who they are, or without encryption.
fn open_to_others(config: &Config, listen: IpAddr, control: IpAddr) -> Vec<&'static str> {
    let mut open = Vec::new();
    let knows_tokens = config.jwt_hmac_secret_file.is_some()
        || config.jwt_public_key.is_some()
        || config.jwt_jwks.is_some()
        || config.auth_url.is_some();
    if !listen.is_loopback() {
        if !config.auth_required.unwrap_or(knows_tokens) {
            open.push("the WebSocket port without authentication (jwt_public_key, auth_url)");
        }
        if config.tls_certificate.is_none() {
            open.push("the WebSocket port without TLS (tls_certificate)");
        }
        if config.public_metrics {
            open.push("/metrics on the WebSocket port (public_metrics)");
        }
    }
    if !control.is_loopback() {
        if config.control_open_pages != ControlPages::None {
            open.push("pages of the control port without a key (control_open_pages)");
        }
        // Keys are sent over it.
        if config.tls_certificate.is_none() {
            open.push("the control port without TLS (tls_certificate)");
        }
    }
    open
}

type MailOf<S> = <<S as Service>::Application as Application>::Mail;

/// Whose descriptor table a shard has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Own,
    Shared,
}

/// What goes to a shard's thread. None of it owns a descriptor but the poll and the wakers, which all tables share.
struct ShardStart<S: Service> {
    shard: usize,
    shards: usize,
    config: Config,
    service: S,
    core: Option<CoreId>,
    listen: SocketAddr,
    poll: Poll,
    inbox: Inbox<MailOf<S>>,
    addresses: Vec<Address<MailOf<S>>>,
    hand_over: HandOver,
    metrics: Vec<Arc<ShardMetrics>>,
    clock: Clock,
    keys: Option<Arc<ServerConfig>>,
    /// None where the table is not to be split.
    event_descriptors: Option<Vec<RawFd>>,
}

/// A shard's thread, from its start to its end.
fn run_shard<S: Service>(start: ShardStart<S>, ready: &Sender<anyhow::Result<Table>>) {
    let shard = start.shard;
    or_end_process(&format!("shard {shard}"), || match start.keys.clone() {
        None => start_and_serve::<S, Socket>(start, (), ready),
        Some(keys) => {
            let shared = TlsShared::new(keys, Arc::clone(&start.metrics[shard]));
            start_and_serve::<S, TlsSocket>(start, shared, ready)
        }
    });
}

/// Does a thread's work. Half a server is worse than a restart: where the work cannot go on, the process ends.
fn or_end_process(name: &str, work: impl FnOnce() -> io::Result<()>) {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(thread = name, %error, "a thread cannot go on; the process ends");
            process::exit(1);
        }
        Err(_) => {
            tracing::error!(thread = name, "a thread met a fault of the server's; the process ends");
            process::abort();
        }
    }
}

/// Says when the shard is ready, or why it is not, and serves until its end.
fn start_and_serve<S: Service, T: Transport>(
    start: ShardStart<S>,
    transport: T::Shared,
    ready: &Sender<anyhow::Result<Table>>,
) -> io::Result<()> {
    match make_shard::<S, T>(start, transport) {
        Ok((shard, table)) => {
            let _ = ready.send(Ok(table));
            shard.run()
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            Ok(())
        }
    }
}

fn make_shard<S: Service, T: Transport>(
    start: ShardStart<S>,
    transport: T::Shared,
) -> anyhow::Result<(Shard<S::Application, T>, Table)> {
    let ShardStart { shard, shards, config, service, .. } = start;
    if let Some(core) = start.core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(shard, core = core.id, "the shard cannot be pinned to its core and runs where it may");
    }
    let mut table = Table::Shared;
    if let Some(mut keep) = start.event_descriptors {
        keep.push(start.poll.as_raw_fd());
        match sys::own_descriptor_table(&keep) {
            Ok(_) => table = Table::Own,
            Err(error) => {
                tracing::warn!(shard, %error, "the shard shares the process's descriptor table: the kernel gives it none");
            }
        }
    }
    let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
    let options = ListenOptions {
        backlog,
        nodelay: config.tcp_nodelay,
        receive_buffer_bytes: config.socket_receive_buffer,
        send_buffer_bytes: config.socket_send_buffer,
        keepalive: config.tcp_keepalive,
        user_timeout: config.tcp_user_timeout,
    };
    let listener = Listener::bind(start.listen, &options)
        .with_context(|| format!("shard {shard} cannot listen on {}", start.listen))?;
    let metrics = Arc::clone(&start.metrics[shard]);
    let clock = start.clock;
    let own = start.addresses[shard].clone();
    // Where there is no room for the order, the shard will look around for what takes the room.
    let wake: Wake = Arc::new(move || drop(own.order(ControlOrder::LookAround)));
    let application = service.application(shard, shards, Arc::clone(&metrics), wake);
    let core = Core::new(clock.now(), application, service.limits(&config).share(shards), metrics);
    let parts = ShardParts {
        shard,
        poll: start.poll,
        inbox: start.inbox,
        addresses: start.addresses,
        hand_over: start.hand_over,
        listener,
        core,
        transport,
        clock,
        metrics: start.metrics,
        turn: TurnLimits {
            event_batch: config.event_batch,
            read_buffer_bytes: config.read_buffer,
            accepts: config.turn_accepts,
            deliveries: config.turn_deliveries,
            handshakes: config.turn_handshakes,
            connections_max: config.max_connections,
            memory_limit: memory_limit(&config),
            drain_timeout: config.drain_timeout,
        },
    };
    let shard = Shard::new(parts).with_context(|| format!("shard {shard} cannot watch its listener"))?;
    Ok((shard, table))
}

/// Reads certificate and key, where there are any.
fn open_keys(config: &Config) -> anyhow::Result<Option<(KeyFiles, ServerKeys)>> {
    let (Some(certificate), Some(key)) = (config.tls_certificate.clone(), config.tls_key.clone()) else {
        return Ok(None);
    };
    let paths = KeyPaths { certificate, key, client_ca: config.tls_client_ca.clone() };
    KeyFiles::open(paths).map(Some).context("TLS cannot be spoken")
}

/// What the control thread begins with.
struct ControlStart<Mail> {
    poll: Poll,
    listener: TcpListener,
    signals: Signals,
    inbox: Receiver<ControlMessage>,
    lifecycle: Arc<Lifecycle>,
    shards: Vec<Arc<ShardMetrics>>,
    addresses: Vec<Address<Mail>>,
    keys: Option<(KeyFiles, ServerKeys)>,
    access: Arc<ControlAccess>,
    /// Has the service read its files anew.
    reload: Box<dyn Fn() + Send>,
}

fn start_control<Mail: Send + 'static>(start: ControlStart<Mail>) -> anyhow::Result<thread::JoinHandle<()>> {
    let ControlStart { poll, listener, signals, inbox, lifecycle, shards, addresses, keys, access, reload } = start;
    let answering = addresses.clone();
    let draining = Arc::clone(&lifecycle);
    let keyed = addresses.clone();
    let tell_shards = move |keys: &Arc<ServerConfig>| {
        let told = |address: &&Address<Mail>| address.order(ControlOrder::Keys(Arc::clone(keys))).is_ok();
        keyed.iter().filter(told).count() == keyed.len()
    };
    let mut stopping = false;
    let parts = ControlParts {
        poll,
        listener,
        signals,
        inbox,
        lifecycle,
        shards,
        keys: keys.map(|(files, keys)| KeyReload::new(files, keys, Box::new(tell_shards))),
        answer: Box::new(move |shard, connection, bytes| {
            // There is room: a shard hands over no more requests than its inbox holds answers. A shard that has
            // ended needs none.
            let _ = answering[shard].order(ControlOrder::Response { connection, bytes });
        }),
        access,
        on_signal: Box::new(move |signal| {
            if signal == SIGHUP {
                return reload();
            }
            if stopping {
                tracing::warn!(signal, "a second signal: the process ends at once");
                process::exit(128 + signal);
            }
            stopping = true;
            tracing::info!(signal, "stopping: every connection is closed with 1001");
            draining.advance(Stage::Draining);
            for address in &addresses {
                let _ = address.order(ControlOrder::Drain);
            }
        }),
    };
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            or_end_process("control", || {
                sys::unblock_signals(&SIGNALS)?;
                control::run(parts)
            });
        })
        .context("the control thread cannot be started")
}

/// How a shard hands a plain request to control.
fn hand_over(control: Sender<ControlMessage>, waker: Arc<Waker>) -> HandOver {
    Box::new(move |handover| {
        let driver::PlainHandover { shard, connection, request } = handover;
        let sent = control.try_send(ControlMessage::Request { shard, connection, request });
        match sent {
            Ok(()) => waker.wake().is_ok(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    })
}

fn waker(poll: &Poll, token: mio::Token) -> anyhow::Result<Waker> {
    Waker::new(poll.registry(), token).context("no waker can be made: are there descriptors left?")
}

/// One shard for each core that this process may use, unless the operator says how many.
fn shard_count(config: &Config, cores: &[CoreId]) -> usize {
    if config.shards > 0 {
        return config.shards;
    }
    // The first knows cgroup quotas and the mask, the second the mask alone.
    let usable = thread::available_parallelism().map_or(1, usize::from);
    if cores.is_empty() { usable } else { usable.min(cores.len()) }
}

/// The bytes that connections may hold: what the operator says, or four fifths of what the host allows.
fn memory_limit(config: &Config) -> u64 {
    match config.memory_limit as u64 {
        0 => host::memory_bytes().map_or(u64::MAX, |bytes| bytes / 5 * 4),
        bytes => bytes,
    }
}

/// Takes the address for this process; where there is no IPv6, `[::]` is 0.0.0.0.
fn claim_address(config: &Config) -> anyhow::Result<(socket2::Socket, SocketAddr)> {
    let claimed = claim(config.listen);
    let lacks_ipv6 = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
    };
    let claimed = match claimed {
        Err(error) if lacks_ipv6(&error) && config.listen.ip() == std::net::Ipv6Addr::UNSPECIFIED => {
            tracing::warn!("there is no IPv6 here: listening on 0.0.0.0 instead of [::]");
            claim((std::net::Ipv4Addr::UNSPECIFIED, config.listen.port()).into())
        }
        other => other,
    };
    claimed.with_context(|| format!("cannot listen on {}, the address of listen; is it served already?", config.listen))
}

/// The numbers of this process's eventfds: the wakers, which every table keeps. mio does not tell them.
fn event_descriptors() -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            let is_event = target.to_str()?.starts_with("anon_inode:[eventfd");
            is_event.then(|| entry.file_name().to_str()?.parse().ok())?
        })
        .collect()
}

fn begin_log(config: &Config) {
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        // A log that nobody reads any more is no reason to end: to complain of it would be written there as well.
        .log_internal_errors(false)
        .with_target(false)
        .with_max_level(config.log_level.name().parse::<tracing::Level>().unwrap_or(tracing::Level::INFO));
    // A second server in one process logs where the first does.
    let _ = match config.log_format {
        LogFormat::Text => log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

/// A panic is logged by its place alone: its message may hold what a peer sent.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a fault of the server's");
    }));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::env;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ALL: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

    #[test]
    fn a_thread_that_cannot_go_on_ends_the_process() {
        const HOW: &str = "TEST_THREAD_ENDS_BY";
        if let Ok(how) = env::var(HOW) {
            let _ = thread::spawn(move || {
                or_end_process("a thread", || {
                    assert_ne!(how, "a fault");
                    if how == "an error" { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
                });
            })
            .join();
            process::exit(42);
        }
        let ended = |how: &str| {
            let name = "server::tests::a_thread_that_cannot_go_on_ends_the_process";
            let mut test = Command::new(env::current_exe().unwrap());
            test.args(["--exact", name]).env(HOW, how).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
        };
        assert_eq!(ended("its end").code(), Some(42));
        assert_eq!(ended("an error").code(), Some(1));
        assert_eq!(ended("a fault").signal(), Some(libc::SIGABRT));
    }

    /// The knobs that are named for what is open.
    fn named(config: &Config, listen: IpAddr, control: IpAddr) -> Vec<&'static str> {
        let open = open_to_others(config, listen, control);
        open.iter().map(|text| text.split_once(" (").unwrap().1.trim_end_matches(')')).collect()
    }

    #[test]
    fn what_others_can_use_is_named_by_the_knob_that_closes_it() {
        let open = Config::default();
        assert_eq!(named(&open, HERE, HERE), Vec::<&str>::new());
        let (client, operator) =
            (["jwt_public_key, auth_url", "tls_certificate", "public_metrics"], "control_open_pages");
        assert_eq!(named(&open, ALL, HERE), client);
        assert_eq!(named(&open, HERE, ALL), [operator, "tls_certificate"]);
        assert_eq!(named(&open, ALL, ALL), [&client[..], &[operator, "tls_certificate"]].concat());
        let closed = Config {
            auth_url: Some("http://127.0.0.1/".to_owned()),
            tls_certificate: Some("certificate.pem".into()),
            public_metrics: false,
            control_open_pages: ControlPages::None,
            ..Config::default()
        };
        assert_eq!(named(&closed, ALL, ALL), Vec::<&str>::new());
        // Who need not show a token need not be who it says it is.
        assert_eq!(named(&Config { auth_required: Some(false), ..closed }, ALL, ALL), [client[0]]);
    }
}
