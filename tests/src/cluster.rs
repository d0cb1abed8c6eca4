//! Members as real processes on real ports and files: started, killed, restarted, asked.
//!
//! Ports lie below those the kernel gives to outgoing connections, so that nothing takes the port of
//! a member that is down. Another test can still win one between our choice and the member's bind;
//! then the whole start is repeated with other ports.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::binary;
use crate::http::Client;
use crate::rng::{Rng, fresh_seed};

/// For a cluster that elects within a few seconds, on a machine that is busy with other tests.
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_STARTS: usize = 5;
const POLL: Duration = Duration::from_millis(20);
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
const TAIL_LINES: usize = 20;
/// Above the registered services people run, below the ports of outgoing connections on any system.
const PORTS: std::ops::Range<u16> = 10_240..32_768;

/// A cluster of processes, numbered from 0. Dropping it kills them; after a panic it shows them first.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    directory: TempDir,
    flags: Vec<String>,
}

#[derive(Debug)]
struct Member {
    peer: SocketAddr,
    client: SocketAddr,
    process: Process,
}

#[derive(Debug)]
enum Process {
    NotStarted,
    Running(Child),
    Ended(ExitStatus),
}

impl Cluster {
    /// Starts `n` members and waits until all are ready.
    pub fn start(n: usize) -> Cluster {
        Cluster::start_with(n, &[])
    }

    /// As [`Cluster::start`], with more flags for every member.
    ///
    /// # Panics
    ///
    /// When the members do not become ready; they are shown.
    pub fn start_with(n: usize, flags: &[&str]) -> Cluster {
        for _ in 1..MAX_STARTS {
            let mut cluster = Cluster::place(n, flags);
            if cluster.try_start() {
                return cluster;
            }
        }
        let mut cluster = Cluster::place(n, flags);
        assert!(cluster.try_start(), "members ended by themselves at {MAX_STARTS} starts");
        cluster
    }

    /// How many members there are, running or not.
    pub fn n_members(&self) -> usize {
        self.members.len()
    }

    /// Where a member serves clients.
    pub fn address(&self, member: usize) -> SocketAddr {
        self.members[member].client
    }

    /// A new connection to a member.
    pub fn client(&self, member: usize) -> Client {
        Client::new(self.address(member))
    }

    /// The member that says it leads, by its own status; none while nobody does.
    pub fn leader(&self) -> Option<usize> {
        (0..self.n_members()).find(|&member| {
            self.status(member).is_ok_and(|status| status["role"].as_str() == Some("leader"))
        })
    }

    /// A member's `/_status`.
    pub fn status(&self, member: usize) -> Result<serde_json::Value, String> {
        if !matches!(self.members[member].process, Process::Running(_)) {
            return Err("not running".to_owned());
        }
        let mut client = self.client(member).with_timeout(STATUS_TIMEOUT);
        let answer = client.get("/_status").map_err(|failure| failure.to_string())?;
        serde_json::from_slice(&answer.body)
            .map_err(|_| format!("{}: {}", answer.status, answer.text()))
    }

    /// Ends a member as a power cut would (SIGKILL) and reaps it.
    ///
    /// # Panics
    ///
    /// When it is not running, also when it ended by itself: nobody told it to.
    pub fn kill(&mut self, member: usize) {
        self.assert_running(member);
        self.reap(member, |child| child.kill().and_then(|()| child.wait()));
    }

    /// Kills every member that runs.
    pub fn kill_all(&mut self) {
        for member in 0..self.n_members() {
            if matches!(self.members[member].process, Process::Running(_)) {
                self.kill(member);
            }
        }
    }

    /// Asks a member to end (SIGTERM) and waits until it has.
    ///
    /// # Panics
    ///
    /// When it is not running or still runs after `timeout`.
    pub fn terminate(&mut self, member: usize, timeout: Duration) -> ExitStatus {
        self.assert_running(member);
        self.reap(member, |child| {
            let pid = Pid::from_raw(child.id() as i32).expect("a child has a pid");
            kill_process(pid, Signal::TERM)?;
            let deadline = Instant::now() + timeout;
            loop {
                match child.try_wait()? {
                    Some(status) => return Ok(status),
                    None if Instant::now() > deadline => return Err(io::ErrorKind::TimedOut.into()),
                    None => thread::sleep(POLL),
                }
            }
        })
    }

    /// Starts a member that is down, on its own directory and ports; it need not be ready yet.
    ///
    /// # Panics
    ///
    /// When it runs, or its process cannot be created.
    pub fn restart(&mut self, member: usize) {
        let running = matches!(self.members[member].process, Process::Running(_));
        assert!(!running, "member {} runs already", member + 1);
        let child = self.command(member).spawn();
        let child = child.unwrap_or_else(|error| panic!("member {}: {error}", member + 1));
        self.members[member].process = Process::Running(child);
    }

    /// Starts every member that is down and waits until all are ready.
    pub fn restart_all(&mut self) {
        for member in 0..self.n_members() {
            if !matches!(self.members[member].process, Process::Running(_)) {
                self.restart(member);
            }
        }
        self.wait_all_ready();
    }

    /// Waits until a member says that it is ready.
    pub fn wait_ready(&self, member: usize) {
        let what = format!("member {} is ready", member + 1);
        self.eventually(&what, READY_TIMEOUT, || self.readiness(member));
    }

    /// Waits until every member says that it is ready.
    pub fn wait_all_ready(&self) {
        (0..self.n_members()).for_each(|member| self.wait_ready(member));
    }

    /// Tries until `attempt` succeeds and returns what it gave.
    ///
    /// # Panics
    ///
    /// When the deadline passes, with the last reason; the members are then shown.
    pub fn eventually<T>(
        &self,
        what: &str,
        within: Duration,
        mut attempt: impl FnMut() -> Result<T, String>,
    ) -> T {
        let deadline = Instant::now() + within;
        loop {
            match attempt() {
                Ok(value) => return value,
                Err(reason) if Instant::now() > deadline => {
                    panic!("not within {within:?}: {what}: {reason}")
                }
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    /// Every member's state, status and last words.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (number, member) in self.members.iter().enumerate() {
            let process = match &member.process {
                Process::NotStarted => "not started".to_owned(),
                Process::Running(child) => format!("pid {}", child.id()),
                Process::Ended(status) => status.to_string(),
            };
            let status = match self.status(number) {
                Ok(status) => status.to_string(),
                Err(reason) => reason,
            };
            // Writing to a string cannot fail.
            let _written = writeln!(
                text,
                "--- member {} ({}): {process}; {status}",
                number + 1,
                member.client
            );
            let log = fs::read(self.log(number)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<_> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
                let _written = writeln!(text, "    {line}");
            }
        }
        text
    }

    /// A member's log, all its runs one after the other.
    pub fn log(&self, member: usize) -> PathBuf {
        self.directory.path().join(format!("member-{}.log", member + 1))
    }

    /// A member's data directory.
    pub fn data_dir(&self, member: usize) -> PathBuf {
        self.directory.path().join(format!("member-{}", member + 1))
    }

    fn place(n: usize, flags: &[&str]) -> Cluster {
        let mut ports = free_ports(2 * n).into_iter();
        let mut next = || SocketAddr::from((Ipv4Addr::LOCALHOST, ports.next().expect("2n ports")));
        let members = (0..n)
            .map(|_| Member { peer: next(), client: next(), process: Process::NotStarted })
            .collect();
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Cluster { members, directory, flags: flags.iter().map(|&flag| flag.to_owned()).collect() }
    }

    /// False when a member ended before it was ready, as it does when its port was taken meanwhile.
    fn try_start(&mut self) -> bool {
        for member in 0..self.n_members() {
            self.restart(member);
        }
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            for member in 0..self.n_members() {
                if self.ended(member).is_some() {
                    return false;
                }
            }
            match (0..self.n_members()).try_for_each(|member| self.readiness(member)) {
                Ok(()) => return true,
                Err(reason) => assert!(Instant::now() < deadline, "never ready: {reason}"),
            }
            thread::sleep(POLL);
        }
    }

    fn command(&self, member: usize) -> Command {
        let urls: Vec<_> = self.members.iter().map(|m| format!("http://{}", m.peer)).collect();
        let open = |path: PathBuf| -> File {
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let mut command = Command::new(binary::raftexample());
        command
            .args(["--id", &(member + 1).to_string()])
            .args(["--cluster", &urls.join(",")])
            .args(["--port", &self.address(member).port().to_string()])
            .arg("--data-dir")
            .arg(self.data_dir(member))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(open(self.log(member)))
            .stderr(open(self.log(member)));
        // Variables stand for flags; what the caller's shell exports is not under test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAFTEXAMPLE_") {
                command.env_remove(name);
            }
        }
        command
    }

    fn readiness(&self, member: usize) -> Result<(), String> {
        let mut client = self.client(member).with_timeout(STATUS_TIMEOUT);
        match client.get("/_ready") {
            Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
            Ok(answer) => Err(format!("{}: {}", answer.status, answer.text())),
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// Reaps a member that ended by itself.
    fn ended(&mut self, member: usize) -> Option<ExitStatus> {
        let process = &mut self.members[member].process;
        if let Process::Running(child) = process {
            let status = child.try_wait().expect("a child that was not reaped can be waited for");
            if let Some(status) = status {
                *process = Process::Ended(status);
            }
        }
        match process {
            Process::Ended(status) => Some(*status),
            _ => None,
        }
    }

    /// Panics unless the member runs, also when it ended unasked.
    pub fn assert_running(&mut self, member: usize) {
        if let Some(status) = self.ended(member) {
            panic!("member {} is down: {status}", member + 1);
        }
    }

    fn reap(
        &mut self,
        member: usize,
        end: impl FnOnce(&mut Child) -> io::Result<ExitStatus>,
    ) -> ExitStatus {
        let process = &mut self.members[member].process;
        let Process::Running(child) = process else {
            panic!("member {} is not running", member + 1);
        };
        let status = end(child).unwrap_or_else(|error| panic!("member {}: {error}", member + 1));
        *process = Process::Ended(status);
        status
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            // Nothing more can be done for the reader when standard error is closed.
            let _closed = io::stderr().write_all(self.describe().as_bytes());
        }
        for member in &mut self.members {
            if let Process::Running(child) = &mut member.process {
                // Both fail only for a child that has ended and was reaped.
                let _ended = child.kill();
                let _reaped = child.wait();
            }
        }
    }
}

/// Ports nobody listens on now.
fn free_ports(n: usize) -> Vec<u16> {
    let mut rng = Rng::new(fresh_seed());
    // Held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    let mut ports = Vec::new();
    while ports.len() < n {
        let port = PORTS.start + rng.below(u64::from(PORTS.end - PORTS.start)) as u16;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push(listener);
            ports.push(port);
        }
    }
    ports
}
