//! Clients that take their time, many of them in one thread: each holds a connection in its own
//! way, does a little now and then, and comes back when it is cut off.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::http::Client;

/// Between two little things that one client does.
const PACE: Duration = Duration::from_secs(1);
/// In how many parts the crowd does them, one after the other.
const N_PARTS: usize = 20;
/// What the clients ask for that do not read it.
const BIG: &str = "/big-for-slow-readers";
const BIG_BYTES: usize = 1 << 20;

/// How a client holds its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A head, a byte at a time.
    Head,
    /// A body, a byte at a time.
    Body,
    /// Large answers that it does not read.
    Reader,
    /// Nothing more after one request.
    Idle,
    /// A watch that it does not read.
    Watcher,
}

impl Way {
    /// A third each of heads and bodies, and of those that ask and do not read.
    fn of(number: usize) -> Way {
        const LAST: [Way; 3] = [Way::Reader, Way::Idle, Way::Watcher];
        match number % 3 {
            0 => Way::Head,
            1 => Way::Body,
            _ => LAST[number / 3 % LAST.len()],
        }
    }

    /// What it says first.
    fn begin(self) -> String {
        match self {
            Way::Head => "PUT /slow-head HTTP/1.1\r\nX-Slow: ".into(),
            Way::Body => "PUT /slow-body HTTP/1.1\r\nContent-Length: 100000\r\n\r\n".into(),
            Way::Reader => format!("GET {BIG}?consistency=stale HTTP/1.1\r\n\r\n").repeat(4),
            Way::Idle => "GET /_version HTTP/1.1\r\n\r\n".into(),
            Way::Watcher => "GET /_watch?prefix=slow HTTP/1.1\r\n\r\n".into(),
        }
    }

    /// Whether something to read means that it was answered, and so has to begin again.
    fn ends_with_an_answer(self) -> bool {
        matches!(self, Way::Head | Way::Body)
    }
}

/// Slow clients that go on until this is dropped.
#[derive(Debug)]
pub struct Crowd {
    stop: Option<Sender<()>>,
    /// What it took until the member had accepted them all, and began to answer them.
    pub attached_after: Duration,
    n_begun: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Connects them all to one member.
    ///
    /// # Panics
    ///
    /// When the member does not take them all, or what they read cannot be written.
    pub fn start(address: SocketAddr, n_clients: usize) -> Crowd {
        allow_open_files(n_clients as u64 + 1024);
        let answer = Client::new(address).put(BIG, &vec![b'.'; BIG_BYTES]);
        assert!(matches!(&answer, Ok(answer) if answer.status == 204), "{answer:?}");
        let begin = |number| SlowClient::begin(address, Way::of(number)).expect("it connects");
        let connecting = Instant::now();
        let clients: Vec<_> = (0..n_clients).map(begin).collect();
        // Whoever comes now comes behind all of them.
        let answer = Client::new(address).get("/_version");
        assert!(matches!(&answer, Ok(answer) if answer.status == 200), "{answer:?}");
        let attached_after = connecting.elapsed();
        let (stop, stopped) = channel();
        let n_begun = Arc::new(AtomicUsize::new(n_clients));
        let count = Arc::clone(&n_begun);
        let thread = thread::spawn(move || go_on(address, clients, &count, &stopped));
        Crowd { stop: Some(stop), attached_after, n_begun, thread: Some(thread) }
    }

    /// How many connections there were, those that were begun again included.
    pub fn n_begun(&self) -> usize {
        self.n_begun.load(Ordering::SeqCst)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || thread::panicking(), "the crowd panicked");
    }
}

fn go_on(
    address: SocketAddr,
    mut clients: Vec<SlowClient>,
    n_begun: &AtomicUsize,
    stop: &Receiver<()>,
) {
    for part in (0..N_PARTS).cycle() {
        if stop.recv_timeout(PACE / N_PARTS as u32) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        for client in clients.iter_mut().skip(part).step_by(N_PARTS) {
            if client.go_on().is_ok() {
                continue;
            }
            // Whoever is refused tries again next time.
            if let Ok(again) = SlowClient::begin(address, client.way) {
                *client = again;
                n_begun.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

#[derive(Debug)]
struct SlowClient {
    way: Way,
    stream: TcpStream,
}

impl SlowClient {
    fn begin(address: SocketAddr, way: Way) -> io::Result<SlowClient> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(way.begin().as_bytes())?;
        stream.set_nonblocking(true)?;
        Ok(SlowClient { way, stream })
    }

    /// Does the little that it does; fails when the connection is over.
    fn go_on(&mut self) -> io::Result<()> {
        match self.stream.peek(&mut [0]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if self.way.ends_with_an_answer() => return Err(io::ErrorKind::Other.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        match self.way {
            Way::Head | Way::Body => self.stream.write_all(b"x"),
            // An empty line before the next request means nothing, and finds out who has gone.
            Way::Reader | Way::Watcher => self.stream.write_all(b"\r\n"),
            Way::Idle => Ok(()),
        }
    }
}

/// Each client is an open file, and the usual limit is meant for shells.
fn allow_open_files(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the limit can be raised up to the hard one");
}
