//! Writers, and what must be there afterwards.
//!
//! Each key is written once, so that what must be read needs no reasoning about order:
//! acknowledged, its value; refused, nothing; unknown, either, but the same on every member.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::http::{Client, Failure, Response};
use crate::rng::Rng;

/// Between the writes of one writer: every one of them is read from every member afterwards.
const WRITE_EVERY: Duration = Duration::from_millis(5);
/// A member may still be catching up, or electing, when it is first read.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Reads that wait together share a round of the quorum.
const N_READERS: usize = 12;
/// Keys that one request fills: as many as it may.
const BATCH: u64 = 128;
/// Enough that one request is made while another is committed.
const BATCH_WRITERS: u64 = 8;
/// How many wrong values a failure shows.
const MAX_SHOWN: usize = 10;

/// What a writer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Acknowledged,
    /// It never will be.
    Refused,
    /// It may be.
    Unknown,
}

/// One write of a key that nobody else writes.
#[derive(Debug)]
pub struct Put {
    path: String,
    value: String,
    /// What its writer was told.
    pub outcome: Outcome,
}

/// Writers that go on until they are stopped. Dropping it stops them too.
#[derive(Debug)]
pub struct Load {
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    n_acknowledged: Arc<AtomicUsize>,
    stops: Vec<Sender<()>>,
    writers: Vec<JoinHandle<Vec<Put>>>,
}

impl Load {
    /// Starts writers that put one new key after the other on random members.
    pub fn start(n_writers: u64, targets: Vec<SocketAddr>, rng: &mut Rng) -> Load {
        let targets = Arc::new(Mutex::new(targets));
        let n_acknowledged = Arc::new(AtomicUsize::new(0));
        let mut stops = Vec::new();
        let mut start = |number| {
            // Dropping the sender stops the writer, also when the test panics.
            let (stop, stopped) = channel::<()>();
            stops.push(stop);
            let (targets, count) = (Arc::clone(&targets), Arc::clone(&n_acknowledged));
            let rng = Rng::new(rng.draw());
            thread::spawn(move || write(number, &targets, &count, rng, &stopped))
        };
        let writers = (0..n_writers).map(&mut start).collect();
        Load { targets, n_acknowledged, stops, writers }
    }

    /// Sends every further write to these.
    pub fn retarget(&self, targets: Vec<SocketAddr>) {
        *self.targets.lock().expect("no writer panics with it") = targets;
    }

    /// How many writes were acknowledged until now.
    pub fn n_acknowledged(&self) -> usize {
        self.n_acknowledged.load(Ordering::SeqCst)
    }

    /// Ends the writers; gives every write there was.
    pub fn stop(self) -> Vec<Put> {
        drop(self.stops);
        let joined = |writer: JoinHandle<_>| {
            writer.join().expect("a writer reports, whatever it is answered")
        };
        self.writers.into_iter().flat_map(joined).collect()
    }
}

/// How many of the writes had this outcome.
pub fn count(writes: &[Put], outcome: Outcome) -> usize {
    writes.iter().filter(|write| write.outcome == outcome).count()
}

fn write(
    number: u64,
    targets: &Mutex<Vec<SocketAddr>>,
    n_acknowledged: &AtomicUsize,
    mut rng: Rng,
    stop: &Receiver<()>,
) -> Vec<Put> {
    let mut clients: Vec<(SocketAddr, Client)> = Vec::new();
    let mut writes = Vec::new();
    while stop.recv_timeout(WRITE_EVERY) == Err(RecvTimeoutError::Timeout) {
        let address = {
            let targets = targets.lock().expect("no writer panics with it");
            targets[rng.below(targets.len() as u64) as usize]
        };
        let known = clients.iter().position(|(known, _)| *known == address);
        let position = known.unwrap_or_else(|| {
            clients.push((address, Client::new(address)));
            clients.len() - 1
        });
        let path = format!("/writer-{number}/{}", writes.len());
        let value = format!("{:016x} by {number} at {address}", rng.draw());
        let outcome = outcome(&clients[position].1.put(&path, value.as_bytes()));
        n_acknowledged.fetch_add(usize::from(outcome == Outcome::Acknowledged), Ordering::SeqCst);
        writes.push(Put { path, value, outcome });
    }
    writes
}

fn outcome(answer: &Result<Response, Failure>) -> Outcome {
    match answer {
        Ok(answer) => match answer.status {
            204 => Outcome::Acknowledged,
            503 => Outcome::Refused,
            504 => Outcome::Unknown,
            other => panic!("a well-formed write was answered {other}: {}", answer.text()),
        },
        Err(Failure::NotSent(_)) => Outcome::Refused,
        Err(Failure::Unknown(_)) => Outcome::Unknown,
    }
}

/// Reads every key from every member, and compares with what its writer was told.
///
/// # Panics
///
/// When one value is wrong, or two members disagree; the first few are shown.
pub fn assert_kept(addresses: &[SocketAddr], writes: &[Put]) {
    let found = read_everywhere(addresses, writes);
    let mut wrong = Vec::new();
    for (number, write) in writes.iter().enumerate() {
        let values: Vec<_> = found.iter().map(|values| values[number].as_deref()).collect();
        let is_right = |value: &Option<&str>| match (write.outcome, value) {
            (Outcome::Acknowledged, value) => *value == Some(&write.value),
            (Outcome::Refused, value) => value.is_none(),
            (Outcome::Unknown, value) => value.is_none_or(|value| value == write.value),
        };
        if !values.iter().all(is_right) || values.iter().any(|value| *value != values[0]) {
            wrong.push(format!("{write:?} is {values:?}"));
        }
    }
    let shown = wrong.len().min(MAX_SHOWN);
    assert!(wrong.is_empty(), "{} wrong values:\n{}", wrong.len(), wrong[..shown].join("\n"));
}

/// Every key's value by a linearizable read, for each member.
fn read_everywhere(addresses: &[SocketAddr], writes: &[Put]) -> Vec<Vec<Option<String>>> {
    let n_readers = (N_READERS / addresses.len()).max(1);
    let share = writes.len().div_ceil(n_readers).max(1);
    thread::scope(|scope| {
        let read_member = |&address: &SocketAddr| -> Vec<_> {
            let reader = |share| scope.spawn(move || read_share(address, share));
            writes.chunks(share).map(reader).collect()
        };
        let readers: Vec<_> = addresses.iter().map(read_member).collect();
        let joined = |readers: Vec<thread::ScopedJoinHandle<'_, Vec<_>>>| {
            let values = readers.into_iter().map(|reader| reader.join().expect("all can be read"));
            values.flatten().collect()
        };
        readers.into_iter().map(joined).collect()
    })
}

fn read_share(address: SocketAddr, writes: &[Put]) -> Vec<Option<String>> {
    let mut client = Client::new(address);
    writes.iter().map(|write| read(&mut client, &write.path)).collect()
}

/// A linearizable read, tried until it is answered; `None` when the key is absent.
///
/// # Panics
///
/// When it is not answered in time.
pub fn read(client: &mut Client, path: &str) -> Option<String> {
    let deadline = Instant::now() + READ_TIMEOUT;
    loop {
        let answer = client.get(path);
        match &answer {
            Ok(answer) if answer.status == 200 => return Some(answer.text()),
            Ok(answer) if answer.status == 404 => return None,
            // The server itself waits inside its deadline, so this repeats without haste.
            _ => assert!(Instant::now() < deadline, "GET {path}: {answer:?}"),
        }
    }
}

/// A store that is filled with keys by number, each with a value of one size.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    /// How many keys.
    pub n_keys: u64,
    /// How many bytes in each value.
    pub value_bytes: usize,
}

impl Fill {
    /// Writes every key once, on several connections.
    ///
    /// # Panics
    ///
    /// When a write is not acknowledged.
    pub fn write(self, address: SocketAddr, n_connections: u64) {
        thread::scope(|scope| {
            for connection in 0..n_connections {
                let keys = (connection..self.n_keys).step_by(n_connections as usize);
                scope.spawn(move || {
                    let mut client = Client::new(address);
                    for number in keys {
                        let answer = client.put(&Fill::path(number), &self.value(number));
                        let answered = matches!(&answer, Ok(answer) if answer.status == 204);
                        assert!(answered, "PUT {}: {answer:?}", Fill::path(number));
                    }
                });
            }
        });
    }

    /// As [`Fill::write`], from this key on and many to a request, as fast as a cluster takes them.
    ///
    /// # Panics
    ///
    /// When a request is not answered with success.
    pub fn write_in_batches(self, address: SocketAddr, first: u64) {
        let next = AtomicU64::new(first);
        let writer = || {
            let mut client = Client::new(address);
            loop {
                let begin = next.fetch_add(BATCH, Ordering::Relaxed);
                if begin >= self.n_keys {
                    return;
                }
                let body = self.batch(begin..self.n_keys.min(begin + BATCH));
                let answer = client.request("POST", "/_txn", &[], body.as_bytes());
                let answered = matches!(&answer, Ok(answer) if answer.status == 200);
                assert!(answered, "POST /_txn from key {begin}: {answer:?}");
            }
        };
        thread::scope(|scope| (0..BATCH_WRITERS).for_each(|_| drop(scope.spawn(writer))));
    }

    fn batch(self, keys: Range<u64>) -> String {
        let put = |number| {
            let value = BASE64_STANDARD.encode(self.value(number));
            let key = Fill::path(number);
            format!(r#"{{"op":"put","key":"{}","value":"{value}"}}"#, &key[1..])
        };
        let puts: Vec<_> = keys.map(put).collect();
        format!(r#"{{"compare":[],"then":[{}],"else":[]}}"#, puts.join(","))
    }

    /// Reads every key whose number divides by `every` with linearizable reads.
    ///
    /// # Panics
    ///
    /// When one is not what was written.
    pub fn assert_there(self, address: SocketAddr, every: usize) {
        let mut client = Client::new(address);
        (0..self.n_keys).step_by(every).for_each(|number| self.assert_key(&mut client, number));
    }

    /// Reads one key.
    ///
    /// # Panics
    ///
    /// When it is not what was written.
    pub fn assert_key(self, client: &mut Client, number: u64) {
        let found = read(client, &Fill::path(number));
        let expected = String::from_utf8(self.value(number)).expect("values are text");
        assert_eq!(found, Some(expected), "{}: {client:?}", Fill::path(number));
    }

    /// As `raftexample bench` names them.
    pub fn path(number: u64) -> String {
        format!("/k{number:08}")
    }

    fn value(self, number: u64) -> Vec<u8> {
        let mut value = format!("{number} ").into_bytes();
        value.resize(self.value_bytes.max(value.len()), b'.');
        value
    }
}
