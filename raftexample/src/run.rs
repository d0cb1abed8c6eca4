//! A node's life: from its settings to its exit code.
//!
//! The client port is taken first, before anything is written. The node starts on a thread of
//! its own, so that a signal is heard while it replays its log; clients are let in once it is
//! there. It ends by a signal, by its own error, or by a bug's panic, and each has its exit code.

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raftnode::defects::{Defect, has};
use raftnode::{Config, Error, Handle, Node};
use slog::{Logger, crit, info, o, warn};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::cli::{self, Settings};
use crate::httpapi::{Api, BodyBudget, Crowd, Metrics, Server, ServerLimits};
use crate::kvstore;
use crate::logging::{self, Format};
use crate::watch::KEEP_ALIVE;

/// It could not start: a port, a lock, a directory that is not writable.
const CANNOT_START: u8 = 1;
/// The data directory is corrupt or another's.
const CORRUPT: u8 = 3;
/// A write or a sync failed.
const DISK: u8 = 4;
/// This member no longer has what it acknowledged.
const LOST: u8 = 5;
/// A rule of the program's own was broken.
const BUG: u8 = 70;
/// It was told a second time to stop, and did not wait.
const HURRIED: u8 = 130;

/// How long answers may still leave when all requests are over, and when the node itself failed.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Runs a member until it ends.
#[must_use]
pub fn run(settings: Settings) -> ExitCode {
    exit_on_panic(settings.log_format);
    let (logger, guard) = logging::start(settings.log_level, settings.log_format);
    let logger = logger.new(o!("id" => settings.id));
    let format = settings.log_format;
    let crowd = Crowd::default();
    let waiting = crowd.clone();
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || waiting.before_sleep())
        .build()
        .map_err(|error| Failure::start("cannot start the client port's runtime", &error))
        .and_then(|runtime| runtime.block_on(live(settings, crowd, logger)));
    // Whatever was logged comes before the last words.
    drop(guard);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(format);
            ExitCode::from(failure.code)
        }
    }
}

/// Why a process ends with another code than 0.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn start(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::new(CANNOT_START, format!("{what}: {error}"))
    }

    /// In the form that whoever reads standard error expects.
    fn print(&self, format: Format) {
        match format {
            Format::Json => {
                crit!(logging::last_words(format), "{}", self.message; "exit_code" => self.code);
            }
            Format::Term => {
                // Nobody is left to tell when standard error is closed.
                writeln!(io::stderr().lock(), "raftexample: {}", self.message).ok();
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            _ if has(Defect::OneExitCode) => CANNOT_START,
            Error::Config(_) => cli::USAGE,
            Error::Listen { .. } | Error::Locked { .. } | Error::Unusable { .. } => CANNOT_START,
            Error::Foreign { .. } | Error::Corrupt(_) | Error::ClusterLost(_) => CORRUPT,
            Error::Disk(_) => DISK,
            Error::LostData(_) | Error::Wiped(_) => LOST,
            Error::Invariant(_) => BUG,
            Error::Interrupted | Error::Removed(_) => 0,
        };
        Self::new(code, error.to_string())
    }
}

/// What was asked for is no failure: neither a stop nor, of the cluster's, a removal.
fn verdict(ended: Result<(), Error>, logger: &Logger) -> Result<(), Failure> {
    match ended {
        Ok(()) | Err(Error::Interrupted) => Ok(()),
        Err(Error::Removed(why)) => {
            info!(logger, "this member was removed, for good"; "why" => why);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn live(settings: Settings, crowd: Crowd, logger: Logger) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let server = Server::bind(settings.listen).map_err(|error| {
        let what = format!("cannot listen for clients on {}", settings.listen);
        Failure::new(
            CANNOT_START,
            format!("{what}: {error}; stop what listens there or choose another --port"),
        )
    })?;
    let address = server.address();
    let max_connections = fit_open_files(settings.max_connections, &logger)?;

    let Some((node, channels)) = start(settings.config(address), &mut signals, &logger).await?
    else {
        return Ok(());
    };
    warn_if_exposed(address, node.peer_address(), &logger);
    let handle = channels.handle.clone();
    let (store_handle, store, applier) = kvstore::start(channels)
        .map_err(|error| Failure::start("cannot start the applier", &error))?;
    let mut node = on_a_thread("join", move || node.join())?;
    let mut applier = on_a_thread("join-applier", move || applier.join())?;

    let listener = server.listen().map_err(|error| {
        Failure::start(format_args!("cannot listen for clients on {address}"), &error)
    })?;
    info!(logger, "serving clients"; "address" => %address, "version" => cli::VERSION);
    let api = Arc::new(Api {
        metrics: Metrics::new(handle.metrics()),
        handle: store_handle,
        store,
        request_timeout: settings.request_timeout,
        max_value_bytes: settings.max_value_bytes,
        bodies: BodyBudget::default(),
        crowd,
        stuck_after: settings.election_timeout * 2,
        watch_keep_alive: KEEP_ALIVE,
    });
    let limits = ServerLimits::new(max_connections);
    let (stop, stopped) = watch::channel(());
    let serving = tokio::spawn(api.run(listener, limits, stopped, logger.clone()));

    let (mut node_ended, mut applier_ended) = (None, None);
    tokio::select! {
        name = signals.next() => info!(logger, "stopping"; "signal" => name),
        ended = &mut node => node_ended = Some(ended),
        ended = &mut applier => applier_ended = Some(ended),
    }
    let asked = node_ended.is_none() && applier_ended.is_none();
    let requests = if asked { settings.request_timeout } else { Duration::ZERO };
    let patience = requests + LAST_ANSWERS;
    stop_all(&handle, stop);
    let ending = async {
        // Connections end with their last answer; those that do not are cut.
        if tokio::time::timeout(patience, serving).await.is_err() {
            warn!(logger, "cutting client connections that did not end");
        }
        let node_ended = match node_ended {
            Some(ended) => ended,
            None => node.await,
        };
        let applier_ended = match applier_ended {
            Some(ended) => ended,
            None => applier.await,
        };
        (node_ended, applier_ended)
    };
    tokio::select! {
        name = signals.next() => {
            Err(Failure::new(HURRIED, format!("told again to stop, by {name}: not waiting")))
        }
        (node_ended, applier_ended) = ending => {
            // The applier's end stops the node, so its reason is the first one.
            match applier_ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Failure::new(BUG, error.to_string())),
                Err(_) => return Err(Failure::new(BUG, "the applier panicked")),
            }
            let node_ended = node_ended.unwrap_or_else(|_| {
                Err(Error::Invariant("the thread that waits for the node is gone".into()))
            });
            verdict(node_ended, &logger)?;
            info!(logger, "stopped");
            Ok(())
        }
    }
}

/// Starts the node; `None` when a signal came first.
async fn start(
    config: Config,
    signals: &mut Signals,
    logger: &Logger,
) -> Result<Option<(Node, raftnode::Channels)>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut starting = {
        let (stop, logger) = (Arc::clone(&stop), logger.clone());
        on_a_thread("start", move || Node::start(config, &logger, &stop))?
    };
    let started = tokio::select! {
        started = &mut starting => started,
        name = signals.next() => {
            info!(logger, "stopping while starting"; "signal" => name);
            stop.store(true, Ordering::SeqCst);
            let ended = tokio::select! {
                ended = &mut starting => ended,
                name = signals.next() => {
                    let message = format!("told again to stop, by {name}: not waiting");
                    return Err(Failure::new(HURRIED, message));
                }
            };
            if let Ok(Ok((node, channels))) = ended {
                drop(channels);
                verdict(node.join(), logger)?;
            }
            return Ok(None);
        }
    };
    match started {
        Ok(Ok(running)) => Ok(Some(running)),
        Ok(Err(error)) => verdict(Err(error), logger).map(|()| None),
        Err(_) => Err(Failure::new(BUG, "the thread that starts the node is gone")),
    }
}

/// New work is refused from here on; what has been asked is answered.
fn stop_all(handle: &Handle, stop: watch::Sender<()>) {
    drop(stop);
    handle.shutdown();
}

/// Waits for a blocking call without blocking the client port.
fn on_a_thread<T: Send + 'static>(
    name: &str,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<oneshot::Receiver<T>, Failure> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || sender.send(call()).ok())
        .map_err(|error| Failure::start("cannot start a thread", &error))?;
    Ok(receiver)
}

/// The two ways to be told to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::start("cannot listen for signals", &error))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A panic in any thread is a bug, and a node with a bug must not go on without that thread.
fn exit_on_panic(format: Format) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let message = format!("broken invariant: {panic} (thread {name})");
        Failure::new(BUG, message).print(format);
        std::process::exit(i32::from(BUG));
    }));
}

/// Open files that clients must leave: the connections that are being refused, those of the
/// peers, the log's segments, and the next one. A client that could take the last one would end
/// the member at its next segment.
const RESERVED_FILES: u64 = 512;
/// Below this nothing is left to share out.
const MIN_FILES: u64 = 128;

/// Each connection, peer and segment is an open file, and the usual limit is meant for shells:
/// it is raised, and clients get no more of it than they can without harm.
fn fit_open_files(max_connections: u32, logger: &Logger) -> Result<u32, Failure> {
    let limit = raise_open_files(logger);
    if limit < MIN_FILES {
        let message =
            format!("only {limit} files may be open, {MIN_FILES} are needed; raise `ulimit -Hn`");
        return Err(Failure::new(CANNOT_START, message));
    }
    let reserved = RESERVED_FILES.min(limit / 2);
    let fitting = u32::try_from(limit - reserved).unwrap_or(u32::MAX);
    if fitting < max_connections {
        warn!(logger, "fewer client connections than --max-connections, for want of open files";
            "connections" => fitting, "open_files" => limit);
    }
    Ok(max_connections.min(fitting))
}

/// Gives the limit in force.
fn raise_open_files(logger: &Logger) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(logger, "cannot raise the limit of open files";
            "limit" => limit.current, "error" => %error);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Neither port asks who connects.
fn warn_if_exposed(clients: SocketAddr, peers: SocketAddr, logger: &Logger) {
    let exposed = |address: SocketAddr| !address.ip().is_loopback();
    if exposed(clients) || exposed(peers) {
        warn!(logger, "anyone who reaches this machine can read, write and take part; \
            see SECURITY.md"; "client_port" => exposed(clients), "peer_port" => exposed(peers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts and supervisors act on these: the contract's table, row by row.
    #[test]
    fn each_end_has_its_exit_code() {
        let io = || io::Error::other("disk on fire");
        let path = || "d".into();
        let table = [
            (Error::Interrupted, None),
            (Error::Removed("member 4 was removed at index 9".into()), None),
            (Error::Config("bad".into()), Some(2)),
            (Error::Listen { address: "a:1".into(), source: io() }, Some(1)),
            (Error::Locked { path: path(), pid: "7".into() }, Some(1)),
            (Error::Unusable { operation: "read", path: path(), source: io() }, Some(1)),
            (Error::Foreign { path: path(), what: "of another".into() }, Some(3)),
            (Error::Corrupt("torn".into()), Some(3)),
            (Error::Disk("full".into()), Some(4)),
            (Error::ClusterLost("a majority".into()), Some(3)),
            (Error::LostData("its tail".into()), Some(5)),
            (Error::Wiped("another directory".into()), Some(5)),
            (Error::Invariant("N1".into()), Some(70)),
        ];
        let logger = Logger::root(slog::Discard, o!());
        for (error, code) in table {
            let name = error.to_string();
            let failure = verdict(Err(error), &logger).err();
            assert_eq!(failure.map(|failure| failure.code), code, "{name}");
        }
        assert!(verdict(Ok(()), &logger).is_ok());
    }
}
