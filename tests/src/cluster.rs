//! Members as real processes on real ports and files: started, killed, restarted, asked.
//!
//! Ports lie below those the kernel gives to outgoing connections, so that nothing takes the port of
//! a member that is down. Another test can still win one between our choice and the member's bind;
//! then the whole start is repeated with other ports.
//!
//! Founders come first, with the ids 1 to n; members that join later take the next ids. Ids never
//! return, so neither do these numbers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::binary;
use crate::http::{Client, Response};
use crate::proxy::Network;
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
    plan: Plan,
    network: Option<Network>,
}

/// What the members of a cluster are started with.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// For every member.
    pub flags: Vec<String>,
    /// What the members say to each other passes a [`Network`].
    pub is_networked: bool,
    /// The name of a deliberate defect that every member has.
    pub defect: Option<&'static str>,
    /// The disks of the members can be told to fail: see [`Cluster::set_faults`].
    pub is_faulty: bool,
    /// The directory that holds a founder's data directory, where it is not the cluster's.
    pub disks: BTreeMap<usize, PathBuf>,
    /// The members are killed when the thread that starts them ends, however it does, where
    /// [`can_bind`].
    pub is_bound: bool,
}

#[derive(Debug)]
struct Member {
    peer: SocketAddr,
    client: SocketAddr,
    /// Every flag but `--port` and `--data-dir`.
    flags: Vec<String>,
    process: Process,
    /// The directory that holds its data directory, when it is not the cluster's.
    disk: Option<PathBuf>,
    /// How its disk fails, from its next start on.
    faults: String,
    /// Where its last run begins in its log.
    run: u64,
}

#[derive(Debug)]
enum Process {
    NotStarted,
    Running(Child),
    Ended(ExitStatus),
}

impl Member {
    fn new(peer: SocketAddr, client: SocketAddr, flags: Vec<String>) -> Self {
        let (process, faults) = (Process::NotStarted, String::new());
        Self { peer, client, flags, process, disk: None, faults, run: 0 }
    }
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
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Cluster::start_as(n, &Plan { flags, ..Plan::default() })
    }

    /// As [`Cluster::start`], with whatever is planned.
    ///
    /// # Panics
    ///
    /// When the members do not become ready; they are shown.
    pub fn start_as(n: usize, plan: &Plan) -> Cluster {
        for _ in 1..MAX_STARTS {
            let mut cluster = Cluster::place_as(n, plan);
            if cluster.try_start() {
                return cluster;
            }
        }
        let mut cluster = Cluster::place_as(n, plan);
        assert!(cluster.try_start(), "members ended by themselves at {MAX_STARTS} starts");
        cluster
    }

    /// What is between the members.
    ///
    /// # Panics
    ///
    /// When the plan was without it.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the cluster was planned with a network")
    }

    /// How many members there are, running or not, removed ones included.
    pub fn n_members(&self) -> usize {
        self.members.len()
    }

    /// The members whose processes run.
    pub fn running(&self) -> Vec<usize> {
        let runs = |&member: &usize| matches!(self.members[member].process, Process::Running(_));
        (0..self.n_members()).filter(runs).collect()
    }

    /// Gives a member that does not run yet its place: the next id, ports, and the flags to join
    /// through those that run.
    pub fn place_joiner(&mut self) -> usize {
        let running = self.running().into_iter();
        let others: Vec<_> =
            running.map(|other| format!("{}={}", id(other), self.peer_url(other))).collect();
        self.place_joiner_with(&format!("NEW=http://HOST:PORT,{}", others.join(",")))
    }

    /// As [`Cluster::place_joiner`], with a `--cluster` in which `NEW` stands for its id and
    /// `HOST:PORT` for its peer address, as a member prints it.
    pub fn place_joiner_with(&mut self, template: &str) -> usize {
        let (member, ports) = (self.n_members(), self.free_ports(2));
        let [listen, client] =
            [ports[0], ports[1]].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let peer = self.network.as_mut().map_or(listen, |network| network.add(listen));
        let cluster = template
            .replace("NEW", &id(member).to_string())
            .replace("HOST:PORT", &peer.to_string());
        let mut flags = ["--join", "--id", &id(member).to_string(), "--cluster", &cluster]
            .map(str::to_owned)
            .to_vec();
        if self.network.is_some() {
            flags.extend(["--peer-listen".to_owned(), listen.to_string()]);
        }
        flags.extend_from_slice(&self.plan.flags);
        self.members.push(Member::new(peer, client, flags));
        member
    }

    /// Has a member's disk fail as a script says, from its next start on; see `wal::fs::FaultFs`.
    ///
    /// # Panics
    ///
    /// When the plan was without it.
    pub fn set_faults(&mut self, member: usize, script: &str) {
        assert!(self.plan.is_faulty, "the cluster was not planned with faults");
        script.clone_into(&mut self.members[member].faults);
    }

    /// Leaves everything where it is when this is dropped, and tells where.
    pub fn keep(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }

    /// The directory of the logs and of the members' directories.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts a member's data directory elsewhere, before its first start.
    pub fn set_disk(&mut self, member: usize, directory: PathBuf) {
        self.members[member].disk = Some(directory);
    }

    /// Starts a new member that joins in one step, and waits until it votes.
    pub fn join(&mut self) -> usize {
        let member = self.place_joiner();
        self.restart(member);
        self.wait_voter(member);
        member
    }

    /// Where a member is reached by the others.
    pub fn peer_url(&self, member: usize) -> String {
        format!("http://{}", self.members[member].peer)
    }

    /// Where a member serves clients.
    pub fn address(&self, member: usize) -> SocketAddr {
        self.members[member].client
    }

    /// Whether a member's flags name another one, by an address that is still its.
    pub fn is_told_of(&self, member: usize, other: usize) -> bool {
        let url = self.peer_url(other);
        let names = |flag: &String| flag.split([',', '=']).any(|part| part == url);
        self.members[member].flags.iter().any(names)
    }

    /// A new connection to a member.
    pub fn client(&self, member: usize) -> Client {
        Client::new(self.address(member))
    }

    /// One request on a connection of its own.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    pub fn ask(&self, member: usize, method: &str, path: &str, body: &str) -> Response {
        let answer = self.client(member).request(method, path, &[], body.as_bytes());
        answer.unwrap_or_else(|failure| panic!("{method} {path} at {}: {failure}", id(member)))
    }

    /// One of a member's metrics, by its whole name.
    pub fn metric(&self, member: usize, name: &str) -> Result<f64, String> {
        let mut client = self.client(member).with_timeout(STATUS_TIMEOUT);
        let answer = client.get("/_metrics").map_err(|failure| failure.to_string())?;
        let text = answer.text();
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
        let value = values.find_map(|rest| rest.strip_prefix(' ')?.parse().ok());
        value.ok_or_else(|| format!("no {name} in {text}"))
    }

    /// Writes until these members have let go of the log that they have now. What is let go are
    /// whole segments of 64 MiB, so this takes a hundred large writes or two.
    pub fn compact(&self, members: &[usize]) {
        let value = vec![b'.'; 1 << 20];
        let last = self.metric(self.wait_leader(), "raft_last_index").unwrap_or_default();
        let mut client = self.client(members[0]);
        self.eventually("the log is compacted", READY_TIMEOUT, || {
            let answer = client.put("/compact", &value).map_err(|failure| failure.to_string())?;
            for &member in members {
                let first = self.metric(member, "raft_first_index")?;
                if first <= last {
                    return Err(format!("{first} is first at {}; {}", id(member), answer.status));
                }
            }
            Ok(())
        });
    }

    /// The member that says it leads, by its own status; none while nobody does.
    pub fn leader(&self) -> Option<usize> {
        (0..self.n_members()).find(|&member| {
            self.status(member).is_ok_and(|status| status["role"].as_str() == Some("leader"))
        })
    }

    /// The member that leads, as soon as one does.
    pub fn wait_leader(&self) -> usize {
        let nobody = || self.leader().ok_or_else(|| "nobody leads".to_owned());
        self.eventually("somebody leads", READY_TIMEOUT, nobody)
    }

    /// The membership as a member knows it: role by id.
    pub fn roles(&self, member: usize) -> Result<BTreeMap<u64, String>, String> {
        let status = self.status(member)?;
        let members = status["members"].as_array().ok_or("no members")?;
        let role = |member: &serde_json::Value| {
            Some((member["id"].as_u64()?, member["role"].as_str()?.to_owned()))
        };
        Ok(members.iter().filter_map(role).collect())
    }

    /// Waits until a member is ready and knows itself to be a voter.
    pub fn wait_voter(&self, member: usize) {
        self.wait_ready(member);
        let what = format!("member {} votes", id(member));
        self.eventually(&what, READY_TIMEOUT, || {
            let roles = self.roles(member)?;
            match roles.get(&id(member)).map(String::as_str) {
                Some("voter") => Ok(()),
                _ => Err(format!("roles are {roles:?}")),
            }
        });
    }

    /// Removes a member through another one, and waits until its process has ended well.
    ///
    /// # Panics
    ///
    /// When it is not removed, or ends with anything but 0.
    pub fn remove(&mut self, member: usize, through: usize) {
        let path = format!("/_members/{}", id(member));
        let answer = self.ask(through, "DELETE", &path, "");
        assert_eq!(answer.status, 204, "DELETE {path}: {}", answer.text());
        let status = self.wait_exit(member, READY_TIMEOUT);
        assert_eq!(status.code(), Some(0), "member {}: {}", id(member), self.said(member));
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

    /// Kills whatever still runs, also when something ended by itself.
    pub fn halt(&mut self) {
        for member in &mut self.members {
            if let Process::Running(child) = &mut member.process {
                // Both fail only for a child that has ended and was reaped.
                let _ended = child.kill();
                if let Ok(status) = child.wait() {
                    member.process = Process::Ended(status);
                }
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
        self.signal(member, Signal::TERM);
        self.wait_exit(member, timeout)
    }

    /// Stops a member's process (SIGSTOP): it neither answers nor notices.
    pub fn freeze(&self, member: usize) {
        self.signal(member, Signal::STOP);
    }

    /// Lets a frozen member go on.
    pub fn thaw(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    fn signal(&self, member: usize, signal: Signal) {
        let sent = kill_process(self.pid(member), signal);
        sent.unwrap_or_else(|error| panic!("member {}: {error}", id(member)));
    }

    /// The process of a member that runs.
    pub fn pid(&self, member: usize) -> Pid {
        let Process::Running(child) = &self.members[member].process else {
            panic!("member {} is not running", id(member));
        };
        Pid::from_child(child)
    }

    /// Waits until a member has ended by itself.
    ///
    /// # Panics
    ///
    /// When it still runs after `timeout`.
    pub fn wait_exit(&mut self, member: usize, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            match self.ended(member) {
                Some(status) => return status,
                None if Instant::now() > deadline => {
                    panic!("member {} still runs after {timeout:?}", id(member))
                }
                None => thread::sleep(POLL),
            }
        }
    }

    /// Deletes the data directory of a member that is down.
    pub fn wipe(&self, member: usize) {
        let path = self.data_dir(member);
        fs::remove_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Starts a member that is down with nothing but its data directory and client port.
    pub fn restart_bare(&mut self, member: usize) {
        let flags = std::mem::take(&mut self.members[member].flags);
        self.restart(member);
        self.members[member].flags = flags;
    }

    /// Starts a member that is down, on its own directory and ports; it need not be ready yet.
    ///
    /// # Panics
    ///
    /// When it runs, or its process cannot be created.
    pub fn restart(&mut self, member: usize) {
        let running = matches!(self.members[member].process, Process::Running(_));
        assert!(!running, "member {} runs already", id(member));
        let run = fs::metadata(self.log(member)).map_or(0, |log| log.len());
        let child = self.command(member).spawn();
        let child = child.unwrap_or_else(|error| panic!("member {}: {error}", id(member)));
        let started = &mut self.members[member];
        (started.process, started.run) = (Process::Running(child), run);
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
        let what = format!("member {} is ready", id(member));
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
        self.directory.path().join(format!("member-{}.log", id(member)))
    }

    /// What a member has said since it was last started.
    pub fn said(&self, member: usize) -> String {
        let log = fs::read(self.log(member)).unwrap_or_default();
        let run = usize::try_from(self.members[member].run).expect("a log fits into memory");
        String::from_utf8_lossy(log.get(run..).unwrap_or_default()).into_owned()
    }

    /// A member's data directory.
    pub fn data_dir(&self, member: usize) -> PathBuf {
        let disk = self.members[member].disk.as_deref().unwrap_or(self.directory.path());
        disk.join(format!("member-{}", id(member)))
    }

    /// Gives members their places and starts none of them.
    pub fn place(n: usize, flags: &[&str]) -> Cluster {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Cluster::place_as(n, &Plan { flags, ..Plan::default() })
    }

    /// As [`Cluster::place`], with whatever is planned.
    pub fn place_as(n: usize, plan: &Plan) -> Cluster {
        let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let ports = free_ports(2 * n);
        let listens: Vec<_> = ports[..n].iter().copied().map(address).collect();
        let network = plan.is_networked.then(|| Network::before(&listens));
        let peers = network.as_ref().map_or(&listens[..], Network::addresses).to_vec();
        let urls: Vec<_> = peers.iter().map(|peer| format!("http://{peer}")).collect();
        let founder = |(member, &port): (usize, &u16)| {
            let own = ["--id", &id(member).to_string(), "--cluster", &urls.join(",")];
            let mut flags: Vec<_> = own.into_iter().map(str::to_owned).collect();
            if network.is_some() {
                flags.extend(["--peer-listen".to_owned(), listens[member].to_string()]);
            }
            flags.extend_from_slice(&plan.flags);
            let (peer, client) = (peers[member], address(port));
            let disk = plan.disks.get(&member).cloned();
            Member { disk, ..Member::new(peer, client, flags) }
        };
        let members = ports[n..].iter().enumerate().map(founder).collect();
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Cluster { members, directory, plan: plan.clone(), network }
    }

    /// Free ports that no member has, be it down.
    fn free_ports(&self, n: usize) -> Vec<u16> {
        let taken = |port: &u16| {
            self.members.iter().any(|m| m.peer.port() == *port || m.client.port() == *port)
        };
        loop {
            let ports = free_ports(n);
            if !ports.iter().any(taken) {
                return ports;
            }
        }
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
        let open = |path: PathBuf| -> File {
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let program = match self.plan.defect {
            Some(_) => binary::with_defects(),
            None if self.plan.is_faulty => binary::with_faults(),
            None => binary::raftexample(),
        };
        let mut command = Command::new(program);
        if self.plan.is_bound && can_bind() {
            command = Command::new(BIND[0]);
            command.args(&BIND[1..]).arg(program);
        }
        command
            .args(["--port", &self.address(member).port().to_string()])
            .arg("--data-dir")
            .arg(self.data_dir(member))
            .args(&self.members[member].flags)
            .stdin(Stdio::null())
            .stdout(open(self.log(member)))
            .stderr(open(self.log(member)));
        // Variables stand for flags; what the caller's shell exports is not under test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAFTEXAMPLE_") {
                command.env_remove(name);
            }
        }
        if let Some(defect) = self.plan.defect {
            command.env("RAFTEXAMPLE_DEFECT", defect);
        }
        if self.plan.is_faulty {
            command.env("RAFTEXAMPLE_FAULTS", &self.members[member].faults);
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

    /// How a member ended, if it has.
    pub fn ended(&mut self, member: usize) -> Option<ExitStatus> {
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
            panic!("member {} is down: {status}", id(member));
        }
    }

    fn reap(
        &mut self,
        member: usize,
        end: impl FnOnce(&mut Child) -> io::Result<ExitStatus>,
    ) -> ExitStatus {
        let process = &mut self.members[member].process;
        let Process::Running(child) = process else {
            panic!("member {} is not running", id(member));
        };
        let status = end(child).unwrap_or_else(|error| panic!("member {}: {error}", id(member)));
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
        self.halt();
    }
}

/// Becomes the program that follows, which the kernel kills when who started it is gone: also one
/// that is frozen, which no other signal would end.
const BIND: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];

/// Whether members can be made to end with whoever starts them.
pub fn can_bind() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let mut probe = Command::new(BIND[0]);
        probe.args(&BIND[1..]).arg("true").stdin(Stdio::null());
        probe.output().is_ok_and(|output| output.status.success())
    })
}

/// The id of a member that is numbered from 0.
pub fn id(member: usize) -> u64 {
    member as u64 + 1
}

/// Ports nobody listens on now.
pub(crate) fn free_ports(n: usize) -> Vec<u16> {
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
