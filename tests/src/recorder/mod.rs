//! Clients that write down everything they do.
//!
//! Some stay with one member and some move; each does one operation at a time, and waits no longer
//! than a member may take: an answer that does not come leaves the operation pending. All of them
//! use the same few keys, so that they meet, and other ones after a while, so that no key's history
//! is long.
//!
//! - R1 What is written is written once: a value is a number that no other operation of the
//!   recording has, and a removal carries such a number as its idempotency key. So the log tells
//!   of each operation whether it is in there.

mod asker;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::asker::{Asker, end, path};
use crate::history::{Action, End, Op};
use crate::http::Client;
use crate::rng::Rng;

/// How many keys are in use at one moment.
const N_KEYS: u64 = 4;
/// How many operations there are before other keys are used. A key's share of them is what a search
/// has to order.
const OPS_PER_TURN: u64 = 800;
/// A frozen member does not answer, and a member answers by its own timeout, which is shorter.
const CLIENT_TIMEOUT: Duration = Duration::from_millis(1_200);
/// How long a member may take to answer again once nothing is wrong any more.
const FINAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections read everything at the end, for each member.
const FINAL_READERS: usize = 2;

/// The number of the first client that reads everything on a member at the end.
const FIRST_READER: usize = 1_000;

/// The flags for members that are asked like this.
pub const MEMBER_FLAGS: [&str; 2] = ["--request-timeout", "800ms"];

/// Who asks, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// How many clients stay with each member.
    pub bound_per_member: usize,
    /// How many clients go from member to member.
    pub movers: usize,
    /// How many operations they begin in a second, all together, while nothing is wrong.
    pub per_second: u32,
}

/// An operation, and the number by which the log knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// What was asked and answered.
    pub op: Op,
    /// The value that it writes, or the number in its idempotency key; none of a read (R1).
    pub number: Option<u64>,
}

/// The members that can be asked: their numbers and addresses.
pub type Targets = Vec<(usize, SocketAddr)>;

/// Clients that go on until they are stopped. Dropping it stops them too.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    stops: Vec<Sender<()>>,
    clients: Vec<JoinHandle<Vec<Recorded>>>,
}

/// What the clients share.
#[derive(Debug)]
struct Shared {
    begin: Instant,
    n_ops: AtomicU64,
    targets: RwLock<Targets>,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).expect("no test runs for centuries")
    }

    /// The member in this place, counted around.
    fn target(&self, place: usize) -> (usize, SocketAddr) {
        let targets = self.targets.read().unwrap_or_else(PoisonError::into_inner);
        targets[place % targets.len()]
    }
}

impl Recorder {
    /// Starts clients.
    pub fn start(targets: Targets, load: Load, rng: &mut Rng) -> Recorder {
        let n_bound = load.bound_per_member * targets.len();
        let n_clients = n_bound + load.movers;
        let shared = Arc::new(Shared {
            begin: Instant::now(),
            n_ops: AtomicU64::new(0),
            targets: RwLock::new(targets),
        });
        let every = Duration::from_secs(1) * n_clients as u32 / load.per_second;
        let mut stops = Vec::new();
        let mut start = |number: usize| {
            let (stop, stopped) = channel::<()>();
            stops.push(stop);
            let (shared, rng) = (Arc::clone(&shared), Rng::new(rng.draw()));
            let mut client = Asker::new(number, number >= n_bound, every, shared, rng);
            thread::spawn(move || client.run(&stopped))
        };
        let clients = (0..n_clients).map(&mut start).collect();
        Recorder { shared, stops, clients }
    }

    /// Has the clients ask others from their next operation on.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn retarget(&self, targets: Targets) {
        assert!(!targets.is_empty(), "somebody must be asked");
        *self.shared.targets.write().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    /// How many operations were begun.
    pub fn n_begun(&self) -> u64 {
        self.shared.n_ops.load(Ordering::Relaxed)
    }

    /// Ends the clients.
    pub fn stop(self) -> Recording {
        let Recorder { shared, stops, clients } = self;
        drop(stops);
        let joined = |client: JoinHandle<_>| {
            client.join().expect("a client reports, whatever it is answered")
        };
        let history = clients.into_iter().flat_map(joined).collect();
        let lasted = shared.begin.elapsed();
        Recording { history, lasted, shared }
    }
}

/// What was recorded, on a clock that still runs.
#[derive(Debug)]
pub struct Recording {
    /// Everything that was asked, in no order.
    pub history: Vec<Recorded>,
    /// How long the clients asked.
    pub lasted: Duration,
    shared: Arc<Shared>,
}

impl Recording {
    /// The time on the recording's clock.
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// The operations alone.
    pub fn ops(&self) -> Vec<Op> {
        self.history.iter().map(|recorded| recorded.op.clone()).collect()
    }

    /// Reads every key on every one of these members.
    ///
    /// # Errors
    ///
    /// A member does not answer although nothing is wrong.
    pub fn read_all(&mut self, targets: &[(usize, SocketAddr)]) -> Result<(), String> {
        let mut keys: Vec<_> = self.history.iter().map(|recorded| &*recorded.op.key).collect();
        keys.sort_unstable();
        keys.dedup();
        let share = keys.len().div_ceil(FINAL_READERS).max(1);
        let read: Vec<_> = thread::scope(|scope| {
            let shared = &self.shared;
            let readers = targets
                .iter()
                .flat_map(|target| keys.chunks(share).map(move |keys| (*target, keys)));
            let start = |(number, (target, keys))| {
                scope.spawn(move || read_all(FIRST_READER + number, target, keys, shared))
            };
            let readers: Vec<_> = readers.enumerate().map(start).collect();
            let join = |reader: thread::ScopedJoinHandle<'_, _>| {
                reader.join().expect("a reader gives up, it does not panic")
            };
            readers.into_iter().map(join).collect()
        });
        for ops in read {
            self.history.extend(ops?.into_iter().map(|op| Recorded { op, number: None }));
        }
        Ok(())
    }
}

fn read_all(
    client: usize,
    (member, address): (usize, SocketAddr),
    keys: &[&str],
    shared: &Shared,
) -> Result<Vec<Op>, String> {
    let mut http = Client::new(address);
    let deadline = Instant::now() + FINAL_TIMEOUT;
    let mut ops = Vec::new();
    for &key in keys {
        loop {
            let call = shared.now();
            let answer = http.request("GET", &path(key), &[], b"");
            let end = end(Action::Get, false, &answer, shared);
            if matches!(end, End::Answered { .. }) {
                let (key, action) = (key.to_owned(), Action::Get);
                ops.push(Op { client, member, key, action, call, end });
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("GET {key} at member {}: {answer:?}", member + 1));
            }
        }
    }
    Ok(ops)
}
