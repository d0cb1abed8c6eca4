//! The network between members, in the hands of a test.
//!
//! Each member is known to the others by an address of ours, and so whatever they say to each
//! other passes here. A connection's head tells who dialled; what it carries in each direction is
//! then a path from one member to another, and each path can be cut on its own, streams that are
//! open included.
//!
//! Invariants:
//! - X1 Bytes arrive in order and without a hole, or their connection ends: what loses a byte is
//!   reset when the path is healed at the latest. No TCP would do otherwise.
//! - X2 What arrives here while its path is not open does not pass, be its stream old or new.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::rng::Rng;

/// A head beyond this is no head of a member's.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How much is moved at once.
const CHUNK: usize = 64 << 10;
/// How long a member may take to be connected to; it listens on this machine or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a path does with what is sent along it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Delivers it.
    Open,
    /// Delivers it once the path is healed, as TCP does after an outage: late.
    Held,
    /// Drops it, and resets the connection when the path is healed.
    Swallowed,
    /// Resets every connection, and those that are made meanwhile.
    Reset,
    /// Delivers it later by 25 to 125 ms for each of its parts, in order.
    Delayed,
    /// Ends the receiver's side of every connection; the sender is told nothing, and what it sends
    /// is dropped, as behind a machine that lost its connections in a restart.
    HalfOpen,
}

impl Path {
    /// Nothing passes, and the sender is not told.
    fn is_cut(self) -> bool {
        matches!(self, Path::Held | Path::Swallowed | Path::HalfOpen)
    }
}

/// Addresses for members, and the paths between those who are reached there. Numbered from 0.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    acceptors: Vec<JoinHandle<()>>,
}

/// How long a delayed part is on its way at least, and how much longer it can be.
const DELAY: Duration = Duration::from_millis(25);
const JITTER_MILLIS: u64 = 100;

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    n_bytes_lost: AtomicU64,
    n_delays: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// By sender and receiver.
    paths: Vec<Vec<Path>>,
    connections: Vec<Arc<Connection>>,
    is_closing: bool,
}

#[derive(Debug)]
struct Connection {
    dialler: usize,
    listener: usize,
    ends: [TcpStream; 2],
    /// It is not whole any more, and ends when its paths are healed (X1).
    has_lost: AtomicBool,
    has_ended: AtomicBool,
    /// One end is gone, and the other does not know.
    is_half_open: AtomicBool,
}

impl Network {
    /// Gives each of these, which need not listen yet, another address to be reached at.
    ///
    /// # Panics
    ///
    /// When this machine has no free port.
    pub fn before(members: &[SocketAddr]) -> Network {
        let state = State { paths: Vec::new(), connections: Vec::new(), is_closing: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            n_bytes_lost: AtomicU64::new(0),
            n_delays: AtomicU64::new(0),
        });
        let mut network = Network { shared, addresses: Vec::new(), acceptors: Vec::new() };
        for &behind in members {
            network.add(behind);
        }
        network
    }

    /// Gives one more, with the next number, another address to be reached at.
    ///
    /// # Panics
    ///
    /// When this machine has no free port.
    pub fn add(&mut self, behind: SocketAddr) -> SocketAddr {
        let member = self.addresses.len();
        self.change(|state| {
            state.paths.iter_mut().for_each(|paths| paths.push(Path::Open));
            state.paths.push(vec![Path::Open; member + 1]);
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        self.addresses.push(address);
        let shared = Arc::clone(&self.shared);
        self.acceptors.push(thread::spawn(move || accept(&shared, &listener, member, behind)));
        address
    }

    /// Where each member is to be reached by the others.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Sets what becomes of all that one member sends to another.
    pub fn set(&self, from: usize, to: usize, path: Path) {
        self.change(|state| state.paths[from][to] = path);
    }

    /// Sets all paths from and to a member.
    pub fn isolate(&self, member: usize, path: Path) {
        self.change(|state| {
            for other in (0..state.paths.len()).filter(|other| *other != member) {
                (state.paths[member][other], state.paths[other][member]) = (path, path);
            }
        });
    }

    /// Opens every path.
    pub fn heal(&self) {
        self.change(|state| state.paths.iter_mut().flatten().for_each(|path| *path = Path::Open));
    }

    /// How many bytes were lost on the way: a cut that lost none may have cut nothing.
    pub fn n_bytes_lost(&self) -> u64 {
        self.shared.n_bytes_lost.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.lock();
        change(&mut state);
        state.reap();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.change(|state| state.is_closing = true);
        for address in &self.addresses {
            // Wakes the acceptor, unless it has ended by itself.
            drop(TcpStream::connect(address));
        }
        for acceptor in self.acceptors.drain(..) {
            // One that panicked has said so.
            let _ended = acceptor.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panics holds no half-made change.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lose(&self, n_bytes: usize) {
        self.n_bytes_lost.fetch_add(n_bytes as u64, Ordering::Relaxed);
    }

    /// Waits until the path does not hold what it is given any more, nor delays it; tells what
    /// becomes of it.
    fn gate(&self, from: usize, to: usize, connection: &Connection) -> Path {
        let mut until = None;
        let mut state = self.lock();
        loop {
            if state.is_closing || connection.has_ended() {
                return Path::Reset;
            }
            match state.paths[from][to] {
                Path::Held => {}
                Path::Delayed => {
                    let until = *until.get_or_insert_with(|| Instant::now() + self.delay());
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Path::Open;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
                    continue;
                }
                path => return path,
            }
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Another one each time.
    fn delay(&self) -> Duration {
        let n = self.n_delays.fetch_add(1, Ordering::Relaxed);
        DELAY + Duration::from_millis(Rng::new(n).below(JITTER_MILLIS))
    }
}

impl State {
    /// Ends the connections that may not be there any more.
    fn reap(&mut self) {
        let Self { paths, connections, is_closing } = self;
        connections.retain(|connection| {
            let both = [
                (connection.dialler, connection.listener),
                (connection.listener, connection.dialler),
            ];
            let both = both.map(|(from, to)| paths[from][to]);
            // What the dialler sends arrives at the second end, what the listener sends at the first.
            for (end, path) in [1, 0].into_iter().zip(both) {
                if path == Path::HalfOpen {
                    connection.end_half(end);
                }
            }
            let has_lost = connection.has_lost.load(Ordering::Relaxed);
            let is_over = has_lost && !both.iter().any(|path| path.is_cut());
            let ends = *is_closing || is_over || both.contains(&Path::Reset);
            if ends {
                connection.end();
            }
            !ends
        });
    }
}

impl Connection {
    fn new(dialler: usize, listener: usize, ends: [TcpStream; 2]) -> Arc<Connection> {
        let [has_lost, has_ended, is_half_open] = [false; 3].map(AtomicBool::new);
        Arc::new(Connection { dialler, listener, ends, has_lost, has_ended, is_half_open })
    }

    fn is_half_open(&self) -> bool {
        self.is_half_open.load(Ordering::Relaxed)
    }

    /// Ends one end, without the other's learning of it.
    fn end_half(&self, end: usize) {
        self.has_lost.store(true, Ordering::Relaxed);
        if !self.is_half_open.swap(true, Ordering::Relaxed) {
            // It may have ended already.
            let _ended = self.ends[end].shutdown(Shutdown::Both);
        }
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
        for end in &self.ends {
            // It has ended already.
            let _ended = end.shutdown(Shutdown::Both);
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener, member: usize, behind: SocketAddr) {
    for dialled in listener.incoming() {
        if shared.lock().is_closing {
            return;
        }
        let Ok(dialled) = dialled else { continue };
        let shared = Arc::clone(shared);
        // Ends with its connection, which the network ends at the latest.
        thread::spawn(move || {
            // A connection that breaks is nothing to report: that is what networks do.
            let _broken = serve(&shared, dialled, member, behind);
        });
    }
}

fn serve(
    shared: &Arc<Shared>,
    mut dialled: TcpStream,
    member: usize,
    behind: SocketAddr,
) -> io::Result<()> {
    dialled.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    let (head, dialler) = read_head(&mut dialled, shared.lock().paths.len())?;
    dialled.set_read_timeout(None)?;
    dialled.set_nodelay(true)?;
    // Nothing of the dialler reaches a member that it cannot reach: not even the connection.
    let waiting = Connection::new(dialler, member, [dialled.try_clone()?, dialled.try_clone()?]);
    // It has only this end.
    waiting.is_half_open.store(true, Ordering::Relaxed);
    if !register(shared, &waiting) {
        return Ok(());
    }
    if shared.gate(dialler, member, &waiting) != Path::Open {
        shared.lose(head.len());
        waiting.has_lost.store(true, Ordering::Relaxed);
        // The path may have been healed since.
        shared.lock().reap();
        return Ok(());
    }
    let Ok(mut listening) = TcpStream::connect_timeout(&behind, CONNECT_TIMEOUT) else {
        waiting.end();
        return Ok(());
    };
    listening.set_nodelay(true)?;
    let ends = [dialled.try_clone()?, listening.try_clone()?];
    let connection = Connection::new(dialler, member, ends);
    {
        let mut state = shared.lock();
        if waiting.has_ended() {
            return Ok(());
        }
        state.connections.retain(|other| !Arc::ptr_eq(other, &waiting));
        state.connections.push(Arc::clone(&connection));
    }
    listening.write_all(&head)?;
    let back = {
        let (shared, connection) = (Arc::clone(shared), Arc::clone(&connection));
        let ends = (listening.try_clone()?, dialled.try_clone()?);
        thread::spawn(move || pump(&shared, &connection, ends, (member, dialler)))
    };
    pump(shared, &connection, (dialled, listening), (dialler, member));
    // The other direction ends when its connection does, which pump sees to.
    let _ended = back.join();
    shared.lock().connections.retain(|other| !Arc::ptr_eq(other, &connection));
    Ok(())
}

/// False when it may not be there at all.
fn register(shared: &Shared, connection: &Arc<Connection>) -> bool {
    let mut state = shared.lock();
    state.connections.push(Arc::clone(connection));
    state.reap();
    !connection.has_ended()
}

/// Moves bytes along a path until the connection ends.
fn pump(
    shared: &Shared,
    connection: &Connection,
    (mut source, mut sink): (TcpStream, TcpStream),
    (from, to): (usize, usize),
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let n_read = match source.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n_read) => n_read,
        };
        match shared.gate(from, to, connection) {
            Path::Open if sink.write_all(&buffer[..n_read]).is_ok() => {}
            Path::Open if !connection.is_half_open() => break,
            Path::Open | Path::Swallowed | Path::HalfOpen => {
                // Its dialler must not learn of it before the path is healed.
                shared.lose(n_read);
                connection.has_lost.store(true, Ordering::Relaxed);
                shared.lock().reap();
                drain(shared, &mut source, &mut buffer);
                connection.end();
                return;
            }
            Path::Held | Path::Delayed | Path::Reset => {
                shared.lose(n_read);
                break;
            }
        }
    }
    // Its dialler, or its listener, does not know that the other is gone.
    if !connection.is_half_open() {
        connection.end();
    }
}

/// Swallows what comes, until the connection is ended by whoever heals the path.
fn drain(shared: &Shared, source: &mut TcpStream, buffer: &mut [u8]) {
    while let Ok(n_read) = source.read(buffer) {
        if n_read == 0 {
            return;
        }
        shared.lose(n_read);
    }
}

/// The head's bytes, and which of `n` members it says it is from.
fn read_head(stream: &mut TcpStream, n: usize) -> io::Result<(Vec<u8>, usize)> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let n_read = stream.read(&mut buffer)?;
        if n_read == 0 || head.len() > MAX_HEAD_BYTES {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..n_read]);
    }
    let text = String::from_utf8_lossy(&head);
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    let mut from = fields.filter(|(name, _)| name.eq_ignore_ascii_case("x-raft-from"));
    let id = from.next().and_then(|(_, id)| id.trim().parse::<usize>().ok());
    match id.and_then(|id| id.checked_sub(1)).filter(|member| *member < n) {
        Some(member) => Ok((head, member)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        network: Network,
        near: TcpStream,
        far: TcpStream,
    }

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nX-Raft-From: 1\r\n\r\n";

    fn dial(network: &Network) -> TcpStream {
        let mut near = TcpStream::connect(network.addresses()[1]).unwrap();
        near.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        near.write_all(HEAD).unwrap();
        near
    }

    /// Member 1 has dialled member 2.
    fn pair(listener: &TcpListener) -> Pair {
        let behind = listener.local_addr().unwrap();
        let network = Network::before(&[behind, behind]);
        let near = dial(&network);
        let (mut far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        expect(&mut far, HEAD);
        Pair { network, near, far }
    }

    fn expect(stream: &mut TcpStream, bytes: &[u8]) {
        let mut found = vec![0; bytes.len()];
        stream.read_exact(&mut found).unwrap();
        assert_eq!(found, bytes);
    }

    /// The stream ends, by a reset or in good order, without another byte.
    fn expect_end(stream: &mut TcpStream) {
        assert!(!matches!(stream.read(&mut [0]), Ok(1)), "another byte");
    }

    fn expect_nothing(stream: &mut TcpStream) {
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let kind = stream.read(&mut [0]).unwrap_err().kind();
        assert!(matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{kind}");
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }

    /// Each way of cutting does to an open stream what it says, and to one direction only.
    #[test]
    fn open_streams_are_cut_each_way_on_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();

        let Pair { network, mut near, mut far } = pair(&listener);
        network.set(0, 1, Path::Held);
        near.write_all(b"late").unwrap();
        far.write_all(b"back").unwrap();
        expect(&mut near, b"back");
        expect_nothing(&mut far);
        network.heal();
        expect(&mut far, b"late");
        near.write_all(b"more").unwrap();
        expect(&mut far, b"more");

        let Pair { network, mut near, mut far } = pair(&listener);
        network.set(0, 1, Path::Swallowed);
        near.write_all(b"gone").unwrap();
        expect_nothing(&mut far);
        far.write_all(b"back").unwrap();
        expect(&mut near, b"back");
        expect_nothing(&mut near);
        assert_eq!(network.n_bytes_lost(), 4);
        network.heal();
        expect_end(&mut far);
        expect_end(&mut near);

        let Pair { network, mut near, mut far } = pair(&listener);
        network.isolate(1, Path::Reset);
        expect_end(&mut far);
        expect_end(&mut near);
        drop(network);
    }

    /// The receiver's end is gone, and the sender goes on talking until the path is healed.
    #[test]
    fn a_half_open_stream_ends_for_its_receiver_only() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for (from, to) in [(0, 1), (1, 0)] {
            let Pair { network, mut near, mut far } = pair(&listener);
            let (sender, receiver) =
                if from == 0 { (&mut near, &mut far) } else { (&mut far, &mut near) };
            network.set(from, to, Path::HalfOpen);
            expect_end(receiver);
            sender.write_all(b"gone").unwrap();
            expect_nothing(sender);
            sender.write_all(b"gone").unwrap();
            network.heal();
            expect_end(sender);
        }
        let Pair { network, .. } = pair(&listener);
        network.set(0, 1, Path::HalfOpen);
        let mut near = dial(&network);
        expect_nothing(&mut near);
        network.heal();
        expect_end(&mut near);
    }

    /// What is delayed arrives late and in order; and at once when the path is healed.
    #[test]
    fn delayed_parts_arrive_late_and_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Pair { network, mut near, mut far } = pair(&listener);
        network.set(0, 1, Path::Delayed);
        let begun = Instant::now();
        for part in [b"one ", b"two "] {
            near.write_all(part).unwrap();
        }
        expect(&mut far, b"one two ");
        assert!(begun.elapsed() >= DELAY, "{:?}", begun.elapsed());
        network.heal();
        near.write_all(b"three").unwrap();
        expect(&mut far, b"three");
        assert_eq!(network.n_bytes_lost(), 0);
    }

    /// Who comes later has paths of its own.
    #[test]
    fn one_more_has_its_own_paths() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Pair { mut network, mut near, mut far } = pair(&listener);
        let third = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = network.add(third.local_addr().unwrap());
        network.isolate(2, Path::Reset);
        let mut dialled = TcpStream::connect(address).unwrap();
        dialled.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        dialled.write_all(HEAD).unwrap();
        expect_end(&mut dialled);
        near.write_all(b"on").unwrap();
        expect(&mut far, b"on");
        network.heal();
        let mut dialled = TcpStream::connect(address).unwrap();
        dialled.write_all(HEAD).unwrap();
        let (mut far, _) = third.accept().unwrap();
        expect(&mut far, HEAD);
    }

    /// Nobody connects through a cut; what waited at a held path goes on when it is healed.
    #[test]
    fn new_connections_are_cut_as_well() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Pair { network, .. } = pair(&listener);
        for path in [Path::Reset, Path::Swallowed] {
            network.set(0, 1, path);
            let mut near = dial(&network);
            if path == Path::Swallowed {
                expect_nothing(&mut near);
                network.heal();
            }
            expect_end(&mut near);
        }
        network.set(0, 1, Path::Held);
        let mut near = dial(&network);
        expect_nothing(&mut near);
        network.heal();
        let (mut far, _) = listener.accept().unwrap();
        expect(&mut far, HEAD);
        far.write_all(b"hello").unwrap();
        expect(&mut near, b"hello");
    }

    /// Without the network its members cannot be left talking.
    #[test]
    fn a_dropped_network_ends_every_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Pair { network, mut near, mut far } = pair(&listener);
        drop(network);
        expect_end(&mut far);
        expect_end(&mut near);
    }
}
