//! The runner: starts the processes, hears signals and clients, and decides who runs.
//!
//! Everything here lives on one thread, so its state is plain cells. Threads exist only below, in
//! `group` and `output`, for what blocks: waiting for processes, reading pipes, the terminal.
//!
//! Refuses to bring back what ended by itself; it says how a person can.
//!
//! Invariants:
//! S1 a process has at most one run at a time, and the next starts only after the last is gone.
//! S2 once closing, nothing is started.
//! S3 the runner returns only when no run is left.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::Failure;
use super::control::{MAX_MESSAGE_BYTES, Reply, Request, Row, SOCKET_NAME};
use super::group::{Ending, Group, adopt_orphans};
use super::lock::{Lock, Recorded};
use super::output::Printer;
use super::procfile::Entry;

/// The exit code of a broken invariant, as everywhere in this program.
const BROKEN: u8 = 70;
/// How long clients whose answer is ready have to take it before the runner goes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause after a connection could not be accepted, which more haste would not cure.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the runner runs, and how.
pub(super) struct Config {
    pub(super) entries: Vec<Entry>,
    /// Set on top of the runner's own environment.
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) lock: Lock,
    /// From SIGTERM to SIGKILL.
    pub(super) grace: Duration,
    /// ` -f FILE` where a person has to type it to reach this runner.
    pub(super) option: String,
}

/// Runs the processes in the working directory until all are to end.
pub(super) fn run(config: Config) -> Result<ExitCode, Failure> {
    let could_not = |what: &str, error: io::Error| Failure::CouldNot(format!("{what}: {error}"));
    adopt_orphans().map_err(|error| could_not("orphans cannot be adopted", error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| could_not("the event loop cannot start", error))?;
    let supervisor = Rc::new(Supervisor::new(config)?);
    let local = LocalSet::new();
    let result = local.block_on(&runtime, Rc::clone(&supervisor).main());
    // Names are taken back in the order that lets a successor start, and the connections, which
    // the local set holds, close after that (C2).
    fs::remove_file(SOCKET_NAME).ok();
    supervisor.lock.borrow_mut().take();
    drop(local);
    result
}

struct Supervisor {
    members: Vec<Member>,
    environment: Vec<(OsString, OsString)>,
    /// None once the runner has given the directory up.
    lock: RefCell<Option<Lock>>,
    grace: Duration,
    option: String,
    printer: Printer,
    closing: Cell<bool>,
    /// Requests that were read and not yet answered.
    n_asking: watch::Sender<usize>,
    close_asked: Notify,
    all_ended_alone: Notify,
    panicked: Notify,
}

/// A process of the Procfile and its current or last run.
struct Member {
    entry: Entry,
    seat: usize,
    state: RefCell<State>,
    /// Counts runs; the current or last one has this number.
    n_started: Cell<u32>,
    /// The number of the last run that is gone.
    n_ended: watch::Sender<u32>,
    /// Held by the one client command that stops and starts this process at a time (S1).
    busy: Mutex<()>,
}

enum State {
    Up { group: Rc<Group>, asked: Asked },
    Down { how: How, asked: Asked },
}

/// Whether a person asked for the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    /// Politely, and a process that complies has stopped, whatever its exit code.
    Stop,
    Kill,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Stopped,
    Ended(Ending),
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            How::Stopped => f.write_str("stopped"),
            How::Ended(ending) => ending.fmt(f),
        }
    }
}

impl Supervisor {
    fn new(config: Config) -> Result<Supervisor, Failure> {
        let width = config.entries.iter().map(|entry| entry.name.len()).max().unwrap_or_default();
        let printer = Printer::open(width)
            .map_err(|error| Failure::CouldNot(format!("no thread for output: {error}")))?;
        let members = config.entries.into_iter().enumerate().map(|(seat, entry)| Member {
            entry,
            seat,
            state: RefCell::new(State::Down { how: How::Stopped, asked: Asked::No }),
            n_started: Cell::new(0),
            n_ended: watch::Sender::new(0),
            busy: Mutex::new(()),
        });
        Ok(Supervisor {
            members: members.collect(),
            environment: config.environment,
            lock: RefCell::new(Some(config.lock)),
            grace: config.grace,
            option: config.option,
            printer,
            closing: Cell::new(false),
            n_asking: watch::Sender::new(0),
            close_asked: Notify::new(),
            all_ended_alone: Notify::new(),
            panicked: Notify::new(),
        })
    }

    async fn main(self: Rc<Self>) -> Result<ExitCode, Failure> {
        let no_signals = |e| Failure::CouldNot(format!("signals cannot be received: {e}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
        let listener = bind().map_err(|error| {
            Failure::CouldNot(format!("the socket {SOCKET_NAME} cannot be made: {error}"))
        })?;

        for index in 0..self.members.len() {
            if let Err(line) = self.start_run(index) {
                // The groups that did start are killed as the supervisor is dropped (G2).
                self.close(Signal::KILL);
                self.all_ended().await;
                return Err(Failure::CouldNot(line));
            }
        }
        let n = self.members.len();
        self.printer.note(format_args!(
            "{n} process{} started; 'raftexample cluster status{}' in another terminal; \
             Ctrl-C stops all",
            if n == 1 { "" } else { "es" },
            self.option
        ));
        let server = Rc::clone(&self);
        self.spawn(server.serve(listener));

        let mut code = ExitCode::SUCCESS;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = self.close_asked.notified() => {}
            () = self.printer.closed() => code = ExitCode::from(1),
            () = self.panicked.notified() => code = ExitCode::from(BROKEN),
            () = self.all_ended_alone.notified() => {
                self.printer.note("every process has ended by itself; nothing is left to run");
                code = ExitCode::from(1);
            }
        }
        if self.members.iter().any(|member| member.up().is_some()) {
            self.printer.note("stopping all; Ctrl-C again kills");
        }
        if code != ExitCode::from(BROKEN) {
            self.close(Signal::TERM);
            tokio::select! {
                () = self.all_ended() => {}
                () = sleep(self.grace) => {}
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                () = self.panicked.notified() => code = ExitCode::from(BROKEN),
            }
        }
        if code != ExitCode::from(BROKEN) {
            self.close(Signal::KILL);
            tokio::select! {
                () = self.all_ended() => {}
                () = self.panicked.notified() => code = ExitCode::from(BROKEN),
            }
        }
        if code == ExitCode::from(BROKEN) {
            // Whoever was to see a run to its end may be no more: dropping the groups kills (G2).
            return Ok(code);
        }
        let mut n_asking_rx = self.n_asking.subscribe();
        // A client that does not read its answer is not waited for.
        timeout(ANSWER_TIMEOUT, n_asking_rx.wait_for(|n| *n == 0)).await.ok();
        self.printer.flush().await;
        Ok(code)
    }

    /// Starts a task whose panic ends the runner: half a runner would leave people guessing.
    fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        struct Alarm(Rc<Supervisor>);
        impl Drop for Alarm {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.panicked.notify_one();
                }
            }
        }
        let alarm = Alarm(Rc::clone(self));
        spawn_local(async move {
            let _alarm = alarm;
            task.await;
        });
    }

    // -- runs

    /// Starts a process that is down. The error is a line for people.
    fn start_run(self: &Rc<Self>, index: usize) -> Result<i32, String> {
        let member = &self.members[index];
        let name = &member.entry.name;
        assert!(member.up().is_none(), "S1: {name} runs");
        if self.closing.get() {
            return Err(format!("{name} is not started: the cluster is stopping"));
        }
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &member.entry.command])
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .env("PORT", member.entry.port.to_string());
        let (printer, label, seat) = (self.printer.clone(), name.clone(), member.seat);
        let group = Group::start(command, move |pipe| printer.pump(pipe, &label, seat))
            .map_err(|error| format!("{name} cannot be started: {error}"))?;
        let group = Rc::new(group);
        let pid = group.pid();
        member.n_started.update(|n| n + 1);
        *member.state.borrow_mut() = State::Up { group: Rc::clone(&group), asked: Asked::No };
        self.record();
        self.spawn(Rc::clone(self).watch_run(index, group));
        Ok(pid)
    }

    /// Sees one run to its end, and says how it ended.
    async fn watch_run(self: Rc<Self>, index: usize, group: Rc<Group>) {
        group.leader_ended().await;
        // What the shell left behind gets the same chance as on `stop`: it may be the node itself.
        if self.members[index].asked() == Asked::No {
            group.signal(Signal::TERM);
        }
        if timeout(self.grace, group.gone()).await.is_err() {
            group.signal(Signal::KILL);
        }
        let ending = group.gone().await;
        let member = &self.members[index];
        let asked = member.asked();
        let how = match (asked, ending) {
            (Asked::Stop, Ending::Code(_) | Ending::Signal(SIGTERM)) => How::Stopped,
            _ => How::Ended(ending),
        };
        *member.state.borrow_mut() = State::Down { how, asked };
        self.record();

        let name = &member.entry.name;
        let n_up = self.members.iter().filter(|member| member.up().is_some()).count();
        if self.closing.get() {
            self.printer.note(format_args!("{name} {how}"));
        } else {
            self.printer.note(format_args!(
                "{name} {how}, pid {}; {n_up} still running; \
                 'raftexample cluster start{} {name}' brings it back",
                group.pid(),
                self.option
            ));
            let alone = |member: &Member| member.asked() == Asked::No;
            if n_up == 0 && self.members.iter().all(alone) {
                self.all_ended_alone.notify_one();
            }
        }
        member.n_ended.send_replace(member.n_started.get());
    }

    /// Writes down what runs, for the case that nobody can ask this runner any more.
    fn record(&self) {
        let running = self.members.iter().filter_map(|member| {
            member.up().map(|group| Recorded::now(&member.entry.name, group.pid()))
        });
        if let Some(lock) = &*self.lock.borrow()
            && let Err(error) = lock.record(running.collect())
        {
            // The record only improves a message after a `kill -9`; the cluster need not stop.
            self.printer.note(format_args!("the lock file cannot be written: {error}"));
        }
    }

    /// Signals everything that runs, and keeps anything else from starting (S2).
    fn close(&self, signal: Signal) {
        self.closing.set(true);
        let asked = if signal == Signal::KILL { Asked::Kill } else { Asked::Stop };
        for member in &self.members {
            member.end(asked);
        }
    }

    async fn all_ended(&self) {
        for member in &self.members {
            member.ended().await;
        }
    }

    // -- clients

    async fn serve(self: Rc<Self>, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.spawn(Rc::clone(&self).converse(stream)),
                Err(error) => {
                    self.printer.note(format_args!("a command could not connect: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// One request, one reply. A peer that breaks off or talks nonsense is left alone.
    async fn converse(self: Rc<Self>, mut stream: UnixStream) {
        let mut line = String::new();
        let mut reader = BufReader::new((&mut stream).take(MAX_MESSAGE_BYTES));
        if reader.read_line(&mut line).await.is_err() {
            return;
        }
        let Ok(request) = serde_json::from_str::<Request>(&line) else { return };
        let asking = Asking::new(&self);
        let stops_all = matches!(request, Request::StopAll);
        let reply = self.answer(request).await;
        let mut bytes = serde_json::to_vec(&reply).expect("a reply is strings and numbers");
        bytes.push(b'\n');
        // The work is done whether or not somebody is left to hear of it.
        stream.write_all(&bytes).await.ok();
        drop(asking);
        if stops_all {
            // C2: the connection closes with the runner.
            std::future::pending().await
        }
    }

    async fn answer(self: &Rc<Self>, request: Request) -> Reply {
        match request {
            Request::Status => Reply::Status(self.members.iter().map(Member::row).collect()),
            Request::StopAll => {
                let n = self.members.iter().filter(|member| member.up().is_some()).count();
                self.close(Signal::TERM);
                self.close_asked.notify_one();
                self.all_ended().await;
                Reply::Done(vec![format!("{n} process{} stopped", if n == 1 { "" } else { "es" })])
            }
            Request::Stop(names) => self.end_each(names, Asked::Stop).await,
            Request::Kill(names) => self.end_each(names, Asked::Kill).await,
            Request::Start(names) => self.start_each(names, false).await,
            Request::Restart(names) => self.start_each(names, true).await,
        }
    }

    /// Ends several processes at once.
    async fn end_each(self: &Rc<Self>, names: Vec<String>, asked: Asked) -> Reply {
        let indexes = match self.find(&names) {
            Ok(indexes) => indexes,
            Err(line) => return Reply::Unknown(line),
        };
        let was_up: Vec<bool> =
            indexes.iter().map(|&index| self.members[index].up().is_some()).collect();
        let tasks: Vec<_> = indexes
            .iter()
            .map(|&index| {
                let supervisor = Rc::clone(self);
                spawn_local(async move {
                    let member = &supervisor.members[index];
                    if asked == Asked::Kill {
                        // Not behind `busy`: a kill is also the way out of a slow stop.
                        member.end(Asked::Kill);
                        member.ended().await;
                    } else {
                        let _busy = member.busy.lock().await;
                        supervisor.stop(index).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            if task.await.is_err() {
                return Reply::Failed("the runner broke; see its terminal".to_owned());
            }
        }
        let lines = indexes.iter().zip(was_up).map(|(&index, was_up)| {
            let member = &self.members[index];
            match (&*member.state.borrow(), was_up) {
                (State::Down { how, .. }, true) => format!("{} {how}", member.entry.name),
                (State::Down { how, .. }, false) => {
                    format!("{} was down already ({how})", member.entry.name)
                }
                (State::Up { .. }, _) => format!("{} ended and was started", member.entry.name),
            }
        });
        Reply::Done(lines.collect())
    }

    /// Starts several processes in turn, each stopped first if it runs and `stop_first` is set.
    /// In turn, because a restart of one member after the other keeps a majority.
    async fn start_each(self: &Rc<Self>, names: Vec<String>, stop_first: bool) -> Reply {
        let indexes = match self.find(&names) {
            Ok(indexes) => indexes,
            Err(line) => return Reply::Unknown(line),
        };
        let mut lines = Vec::new();
        for index in indexes {
            let member = &self.members[index];
            let name = &member.entry.name;
            let _busy = member.busy.lock().await;
            let verb = match member.up() {
                Some(group) if !stop_first && member.asked() == Asked::No => {
                    lines.push(format!("{name} runs already, pid {}", group.pid()));
                    continue;
                }
                Some(_) if stop_first => {
                    self.stop(index).await;
                    "restarted"
                }
                // It is being killed: it starts when it is gone.
                Some(_) => {
                    member.ended().await;
                    "started"
                }
                None => "started",
            };
            match self.start_run(index) {
                Ok(pid) => {
                    let line = format!("{name} {verb}, pid {pid}");
                    self.printer.note(&line);
                    lines.push(line);
                }
                Err(line) => {
                    lines.push(line);
                    return Reply::Failed(lines.join("; "));
                }
            }
        }
        Reply::Done(lines)
    }

    /// Ends a run politely, then not. The caller holds `busy`.
    async fn stop(&self, index: usize) {
        let member = &self.members[index];
        member.end(Asked::Stop);
        if timeout(self.grace, member.ended()).await.is_err() {
            self.printer.note(format_args!(
                "{} did not stop in {}; killing it",
                member.entry.name,
                humantime::format_duration(self.grace)
            ));
            member.end(Asked::Kill);
            member.ended().await;
        }
    }

    /// The places of the named processes, each once; or a line that names those there are.
    fn find(&self, names: &[String]) -> Result<Vec<usize>, String> {
        let mut indexes = Vec::new();
        for name in names {
            let Some(index) = self.members.iter().position(|member| member.entry.name == *name)
            else {
                let known: Vec<&str> =
                    self.members.iter().map(|member| member.entry.name.as_str()).collect();
                return Err(format!("no process '{name}'; there are {}", known.join(", ")));
            };
            if !indexes.contains(&index) {
                indexes.push(index);
            }
        }
        Ok(indexes)
    }
}

const SIGTERM: i32 = Signal::TERM.as_raw();

impl Member {
    fn up(&self) -> Option<Rc<Group>> {
        match &*self.state.borrow() {
            State::Up { group, .. } => Some(Rc::clone(group)),
            State::Down { .. } => None,
        }
    }

    fn asked(&self) -> Asked {
        match &*self.state.borrow() {
            State::Up { asked, .. } | State::Down { asked, .. } => *asked,
        }
    }

    /// Signals the current run, if there is one, and remembers that a person wanted its end.
    /// SIGTERM is sent once: programs take a second one for impatience.
    fn end(&self, wanted: Asked) {
        if let State::Up { group, asked } = &mut *self.state.borrow_mut() {
            match (*asked, wanted) {
                (_, Asked::Kill) => group.signal(Signal::KILL),
                (Asked::No, Asked::Stop) => group.signal(Signal::TERM),
                (_, Asked::No) | (Asked::Stop | Asked::Kill, Asked::Stop) => return,
            }
            *asked = wanted;
        }
    }

    /// Returns once the run that is current now is gone and accounted for.
    async fn ended(&self) {
        let run = self.n_started.get();
        // The counter only grows, so a successor started meanwhile is not waited for.
        let mut n_ended_rx = self.n_ended.subscribe();
        n_ended_rx.wait_for(|n| *n >= run).await.expect("the member owns the sender");
    }

    fn row(&self) -> Row {
        let (pid, state, uptime) = match &*self.state.borrow() {
            State::Up { group, asked } => {
                let state = if *asked == Asked::No { "running" } else { "stopping" };
                (Some(group.pid()), state.to_owned(), Some(group.uptime().as_secs()))
            }
            State::Down { how, .. } => (None, how.to_string(), None),
        };
        Row {
            name: self.entry.name.clone(),
            pid,
            state,
            restarts: self.n_started.get().saturating_sub(1),
            uptime_seconds: uptime,
        }
    }
}

/// Counts a request as unanswered while it exists.
struct Asking(Rc<Supervisor>);

impl Asking {
    fn new(supervisor: &Rc<Supervisor>) -> Asking {
        supervisor.n_asking.send_modify(|n| *n += 1);
        Asking(Rc::clone(supervisor))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.n_asking.send_modify(|n| *n -= 1);
    }
}

/// The lock is held, so a socket that is there has nobody behind it.
fn bind() -> io::Result<UnixListener> {
    match fs::remove_file(SOCKET_NAME) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(SOCKET_NAME)?;
    // Who may connect may kill.
    fs::set_permissions(SOCKET_NAME, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
