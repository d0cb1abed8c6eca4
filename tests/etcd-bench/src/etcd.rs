//! etcd as it comes: three members with default settings, every write synced to disk, and the load on
//! them over gRPC, one client and one channel a connection.

use std::cell::RefCell;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, Error, KvClient, StatusResponse};
use tokio::task::JoinSet;

use crate::keys::{KeySpace, Values};
use crate::members::{self, Members, Seat};
use crate::mix::{Mix, Operation};
use crate::round::{Failure, Pace, Recorder, Round, Window};

/// For a question that a healthy member answers at once.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);
const LEADER_POLL: Duration = Duration::from_millis(50);
const FILL_CONNECTIONS: u16 = 64;
/// etcd gives up on a write after 7 s by default: one unanswered this long is lost.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// One level's load.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) mix: Mix,
    pub(crate) connections: u16,
    pub(crate) window: Window,
    pub(crate) keys: KeySpace,
    pub(crate) values: Values,
}

/// Where a member serves clients.
pub(crate) fn endpoint(seat: &Seat) -> String {
    format!("http://127.0.0.1:{}", seat.client_port)
}

/// Starts three members of this etcd.
pub(crate) async fn start(etcd: &Path, directory: &Path) -> Result<Members, Failure> {
    let command = |seat: &Seat, seats: &[Seat]| {
        let peer = |seat: &Seat| format!("http://127.0.0.1:{}", seat.peer_port);
        let cluster: Vec<_> =
            seats.iter().map(|seat| format!("m{}={}", seat.id, peer(seat))).collect();
        let mut command = Command::new(etcd);
        command
            .args(["--name", &format!("m{}", seat.id)])
            .arg("--data-dir")
            .arg(&seat.data_dir)
            .args(["--listen-peer-urls", &peer(seat)])
            .args(["--initial-advertise-peer-urls", &peer(seat)])
            .args(["--listen-client-urls", &endpoint(seat)])
            .args(["--advertise-client-urls", &endpoint(seat)])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--initial-cluster-state", "new"])
            .stdin(Stdio::null());
        // Variables stand for flags; what the caller's shell exports is not what we measure.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        command
    };
    let is_ready = async |seats: &[Seat]| {
        let endpoints: Vec<_> = seats.iter().map(endpoint).collect();
        all_follow_a_leader(&endpoints).await
    };
    members::start_until(directory, command, is_ready).await
}

/// Whether every endpoint answers and follows a leader.
async fn all_follow_a_leader(endpoints: &[String]) -> bool {
    for endpoint in endpoints {
        match status(endpoint).await {
            Ok(status) if status.leader() != 0 => {}
            _ => return false,
        }
    }
    true
}

/// The endpoint of the member that leads.
pub(crate) async fn find_leader(endpoints: &[String]) -> Result<String, Failure> {
    let deadline = Instant::now() + LEADER_TIMEOUT;
    loop {
        let mut problem = String::from("nobody leads");
        for endpoint in endpoints {
            match status(endpoint).await {
                Ok(status) => {
                    let id = status.header().map(|header| header.member_id());
                    if id == Some(status.leader()) {
                        return Ok(endpoint.clone());
                    }
                }
                Err(error) => problem = format!("{endpoint}: {error}"),
            }
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("no leader after {LEADER_TIMEOUT:?}: {problem}")));
        }
        tokio::time::sleep(LEADER_POLL).await;
    }
}

async fn status(endpoint: &str) -> Result<StatusResponse, Error> {
    let options =
        ConnectOptions::new().with_connect_timeout(QUESTION_TIMEOUT).with_timeout(QUESTION_TIMEOUT);
    Client::connect([endpoint], Some(options)).await?.status().await
}

async fn connect(leader: &str) -> Result<KvClient, Failure> {
    let client = Client::connect([leader], None).await;
    let client =
        client.map_err(|error| Failure::new(format!("cannot connect to {leader}: {error}")))?;
    Ok(client.kv_client())
}

impl Load {
    /// One round, after every key was written once if any is read.
    pub(crate) async fn run(&self, leader: &str) -> Result<Round, Failure> {
        if self.mix.reads() {
            self.fill(leader).await?;
        }
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            clients.push(connect(leader).await?);
        }
        let recorder = Rc::new(RefCell::new(Recorder::start(self.window, Pace::Closed)));
        let mut tasks = JoinSet::new();
        for (number, client) in (0..self.connections).zip(clients) {
            let (mix, keys, values) = (self.mix, self.keys, self.values.clone());
            let recorder = recorder.clone();
            tasks.spawn_local(async move {
                let asker = Asker { client, keys, values };
                asker.drive(number, &mix, &recorder).await;
            });
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        let timeout = self.window.warm_up + self.window.length + STALL_TIMEOUT;
        if tokio::time::timeout(timeout, all).await.is_err() {
            return Err(Failure::new(format!(
                "{} of {} connections got no answer for {STALL_TIMEOUT:?}",
                tasks.len(),
                self.connections,
            )));
        }
        let recorder = Rc::into_inner(recorder).expect("every task that shared it has ended");
        recorder.into_inner().finish()
    }

    async fn fill(&self, leader: &str) -> Result<(), Failure> {
        let mut tasks = JoinSet::new();
        for number in 0..FILL_CONNECTIONS {
            let client = connect(leader).await?;
            let mut asker = Asker { client, keys: self.keys, values: self.values.clone() };
            let keys = (number.into()..self.keys.n_keys()).step_by(FILL_CONNECTIONS.into());
            tasks.spawn_local(async move {
                for key in keys {
                    asker.put(key).await?;
                }
                Ok(())
            });
        }
        let failed = |reason| Failure::new(format!("cannot fill: {reason}"));
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        }
        Ok(())
    }
}

/// One connection.
struct Asker {
    client: KvClient,
    keys: KeySpace,
    values: Values,
}

impl Asker {
    /// Asks until the round is over.
    async fn drive(mut self, number: u16, mix: &Mix, recorder: &RefCell<Recorder>) {
        let (mut draws, mut walk) = (mix.draws(number), self.keys.walk(number));
        let mut sent = Instant::now();
        loop {
            let operation = draws.draw();
            let key = walk.pick();
            let answer = match operation {
                Operation::Put => self.put(key).await,
                Operation::Get => self.get(key).await,
                Operation::Stale | Operation::Cas => Err("only put and get are asked here".into()),
            };
            let now = Instant::now();
            let goes_on = match answer {
                Ok(()) => recorder.borrow_mut().succeeded(operation, sent, now),
                Err(reason) => recorder.borrow_mut().failed(now, || reason),
            };
            if !goes_on {
                return;
            }
            sent = now;
        }
    }

    async fn put(&mut self, key: u64) -> Result<(), String> {
        let name = self.keys.name(key);
        let value = self.values.of(&name);
        self.client.put(name, value, None).await.map_err(|error| format!("put: {error}"))?;
        Ok(())
    }

    /// A linearizable read, which is etcd's default.
    async fn get(&mut self, key: u64) -> Result<(), String> {
        let name = self.keys.name(key);
        let answer = self.client.get(name.as_str(), None).await;
        let answer = answer.map_err(|error| format!("get: {error}"))?;
        let value = answer.kvs().first().map(|found| found.value());
        let is_right = |value: &[u8]| {
            value.len() == self.values.n_bytes() && self.values.holds(&name, 0, value)
        };
        if value.is_some_and(is_right) {
            Ok(())
        } else {
            Err(format!("get {name} gave another value than was written there, or none"))
        }
    }
}
