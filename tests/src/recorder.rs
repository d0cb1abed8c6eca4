//! Clients that write down everything they do.
//!
//! Each has one member that it asks, one operation at a time, and waits no longer than a member
//! may take: an answer that does not come leaves the operation pending. All of them use the same
//! few keys, so that they meet, and other ones after a while, so that no key's history is long.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::history::{Action, Answer, End, Op};
use crate::http::{Client, Failure, Response};
use crate::rng::Rng;

/// Between two operations of one client: what the machine can do beside its other tests.
const PAUSE: Duration = Duration::from_millis(3);
/// How many keys are in use at one moment.
const N_KEYS: u64 = 4;
/// How many operations there are before other keys are used. A key's share of them is what a search
/// has to order.
const OPS_PER_ROUND: u64 = 1_200;
/// A frozen member does not answer, and a member answers by its own timeout, which is shorter.
const CLIENT_TIMEOUT: Duration = Duration::from_millis(1_200);
/// How long a member may take to answer again once nothing is wrong any more.
const FINAL_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of the client that reads everything on the first member at the end.
const FIRST_READER: usize = 1_000;

/// The flags for members that are asked like this.
pub const MEMBER_FLAGS: [&str; 2] = ["--request-timeout", "800ms"];

/// Clients that go on until they are stopped. Dropping it stops them too.
#[derive(Debug)]
pub struct Recorder {
    begin: Instant,
    stops: Vec<Sender<()>>,
    clients: Vec<JoinHandle<Vec<Op>>>,
    addresses: Vec<SocketAddr>,
}

/// What the clients share.
#[derive(Debug)]
struct Shared {
    begin: Instant,
    n_ops: AtomicU64,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).expect("no test runs for centuries")
    }
}

impl Recorder {
    /// Starts so many clients for each member.
    pub fn start(addresses: Vec<SocketAddr>, clients_per_member: usize, rng: &mut Rng) -> Recorder {
        let begin = Instant::now();
        let shared = Arc::new(Shared { begin, n_ops: AtomicU64::new(0) });
        let mut stops = Vec::new();
        let mut start = |number: usize| {
            let (stop, stopped) = channel::<()>();
            stops.push(stop);
            let member = number % addresses.len();
            let http = Client::new(addresses[member]).with_timeout(CLIENT_TIMEOUT);
            let mut client = Asker {
                number,
                member,
                http,
                shared: Arc::clone(&shared),
                rng: Rng::new(rng.draw()),
                indexes: HashMap::new(),
                n_written: 0,
            };
            thread::spawn(move || client.run(&stopped))
        };
        let clients = (0..clients_per_member * addresses.len()).map(&mut start).collect();
        Recorder { begin, stops, clients, addresses }
    }

    /// Ends the clients, reads every key on every member, and gives all that was done.
    ///
    /// # Panics
    ///
    /// When a member does not answer although nothing is wrong.
    pub fn stop(self) -> Vec<Op> {
        let Recorder { begin, stops, clients, addresses } = self;
        drop(stops);
        let joined = |client: JoinHandle<_>| {
            client.join().expect("a client reports, whatever it is answered")
        };
        let mut history: Vec<Op> = clients.into_iter().flat_map(joined).collect();
        let mut keys: Vec<_> = history.iter().map(|op| op.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let shared = Shared { begin, n_ops: AtomicU64::new(0) };
        let last: Vec<_> = thread::scope(|scope| {
            let read = |(member, &address): (usize, &SocketAddr)| {
                let (keys, shared) = (&keys, &shared);
                scope.spawn(move || read_all(member, address, keys, shared))
            };
            let readers: Vec<_> = addresses.iter().enumerate().map(read).collect();
            readers.into_iter().flat_map(|reader| reader.join().expect("all can be read")).collect()
        });
        history.extend(last);
        history
    }
}

fn read_all(member: usize, address: SocketAddr, keys: &[String], shared: &Shared) -> Vec<Op> {
    let client = FIRST_READER + member;
    let mut http = Client::new(address);
    let deadline = Instant::now() + FINAL_TIMEOUT;
    let mut ops = Vec::new();
    for key in keys {
        loop {
            let call = shared.now();
            let answer = http.request("GET", &path(key), &[], b"");
            let end = end(Action::Get, &answer, shared);
            if matches!(end, End::Answered { .. }) {
                let (key, action) = (key.clone(), Action::Get);
                ops.push(Op { client, member, key, action, call, end });
                break;
            }
            assert!(Instant::now() < deadline, "GET {key} at member {}: {answer:?}", member + 1);
        }
    }
    ops
}

struct Asker {
    number: usize,
    member: usize,
    http: Client,
    shared: Arc<Shared>,
    rng: Rng,
    /// Where each key was written when it was last seen; 0 when it was not there.
    indexes: HashMap<String, u64>,
    n_written: u64,
}

impl Asker {
    fn run(&mut self, stop: &Receiver<()>) -> Vec<Op> {
        let mut ops = Vec::new();
        while stop.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
            let round = self.shared.n_ops.fetch_add(1, Ordering::Relaxed) / OPS_PER_ROUND;
            let key = format!("{round}-{}", self.rng.below(N_KEYS));
            let action = self.choose(&key);
            let call = self.shared.now();
            let answer = match action {
                Action::Get => self.http.request("GET", &path(&key), &[], b""),
                Action::Delete => self.http.request("DELETE", &path(&key), &[], b""),
                Action::Put { value } => self.http.put(&path(&key), value.to_string().as_bytes()),
                Action::Cas { value, expected } => {
                    let path = format!("{}?cas={expected}", path(&key));
                    self.http.put(&path, value.to_string().as_bytes())
                }
            };
            let end = end(action, &answer, &self.shared);
            self.learn(&key, end);
            ops.push(Op { client: self.number, member: self.member, key, action, call, end });
        }
        ops
    }

    fn choose(&mut self, key: &str) -> Action {
        match self.rng.below(20) {
            0..9 => Action::Get,
            9..13 => Action::Put { value: self.value() },
            13..18 => {
                let expected = self.indexes.get(key).copied().unwrap_or(0);
                Action::Cas { value: self.value(), expected }
            }
            _ => Action::Delete,
        }
    }

    /// Nobody else's, nor ever again.
    fn value(&mut self) -> u64 {
        self.n_written += 1;
        (self.number as u64 + 1) * 1_000_000 + self.n_written
    }

    fn learn(&mut self, key: &str, end: End) {
        let End::Answered { answer, .. } = end else { return };
        let index = match answer {
            Answer::Found { mod_index, .. } => mod_index,
            Answer::Done { index } => index,
            Answer::Absent | Answer::Missing { .. } => Some(0),
            Answer::Mismatch { .. } => None,
        };
        match index {
            Some(index) => self.indexes.insert(key.to_owned(), index),
            None => self.indexes.remove(key),
        };
    }
}

fn path(key: &str) -> String {
    format!("/_kv/{key}")
}

/// What a client may conclude. A request that was refused, or never sent, has no effect; one that
/// was sent and not answered may have one.
fn end(action: Action, answer: &Result<Response, Failure>, shared: &Shared) -> End {
    let answer = match answer {
        Ok(answer) => answer,
        Err(Failure::NotSent(_)) => return End::Refused,
        Err(Failure::Unknown(_)) => return End::Unknown,
    };
    let number = |name| answer.header(name).and_then(|index| index.parse().ok());
    let index = number("x-raft-index");
    let told = match (action, answer.status) {
        (Action::Put { .. } | Action::Cas { .. } | Action::Delete, 504) => return End::Unknown,
        (Action::Get, 200) => {
            let value = answer.text().parse();
            let value = value.unwrap_or_else(|_| panic!("nobody wrote {:?}", answer.text()));
            Answer::Found { value, mod_index: number("x-raft-mod-index") }
        }
        (Action::Get, 404) => Answer::Absent,
        (Action::Put { .. } | Action::Cas { .. } | Action::Delete, 204) => Answer::Done { index },
        (Action::Cas { .. }, 412) => Answer::Mismatch { index },
        (Action::Delete, 404) => Answer::Missing { index },
        // No request of these is malformed; but whatever is answered like this has no effect.
        (_, 503 | 400..500) => return End::Refused,
        (_, other) => panic!("{action:?} was answered {other}: {}", answer.text()),
    };
    End::Answered { at: shared.now(), answer: told }
}
