//! Snapshots: whole ones, and every way in which one can end.

use http_body_util::BodyExt;

use super::snapshot::{File, LEAST_RATE, MAX_RECEIVING, Moving, Pace, SLICE};
use super::*;

const FILE_LEN: usize = 3 * MIB + 7;

/// Sinks that keep bytes in memory. A file's checksum is the sum of its bytes.
#[derive(Default)]
pub(super) struct TestSinks {
    /// Writing fails once so many bytes were written.
    room: Mutex<Option<usize>>,
    files: Arc<Mutex<Files>>,
    /// While it is locked, sinks take nothing.
    hold: Arc<Mutex<()>>,
}

#[derive(Default)]
struct Files {
    begun: usize,
    stored: Vec<Vec<u8>>,
    abandoned: usize,
}

struct TestSink {
    room: Option<usize>,
    checksum: u64,
    bytes: Vec<u8>,
    files: Arc<Mutex<Files>>,
    hold: Arc<Mutex<()>>,
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

impl SnapshotSinks for TestSinks {
    fn begin(&self, _: u64, len: u64, checksum: u64) -> io::Result<Box<dyn SnapshotSink>> {
        lock(&self.files).begun += 1;
        let room = *lock(&self.room);
        if room == Some(0) {
            return Err(ErrorKind::StorageFull.into());
        }
        let bytes = Vec::with_capacity(usize::try_from(len).unwrap());
        let (files, hold) = (Arc::clone(&self.files), Arc::clone(&self.hold));
        Ok(Box::new(TestSink { room, checksum, bytes, files, hold }))
    }
}

impl SnapshotSink for TestSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        drop(lock(&self.hold));
        self.bytes.extend_from_slice(bytes);
        if self.room.is_some_and(|room| self.bytes.len() > room) {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Received, String> {
        if sum(&self.bytes) != self.checksum {
            return Err("the file fails its checksum".into());
        }
        let bytes = std::mem::take(&mut self.bytes);
        self.checksum = 0;
        lock(&self.files).stored.push(bytes);
        Ok(Received::example())
    }
}

impl Drop for TestSink {
    fn drop(&mut self) {
        if self.checksum != 0 {
            lock(&self.files).abandoned += 1;
        }
    }
}

struct TestSource {
    bytes: Vec<u8>,
    checksum: u64,
    fails_at: Option<u64>,
}

impl SnapshotSource for TestSource {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn checksum(&self) -> u64 {
        self.checksum
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        if self.fails_at.is_some_and(|at| offset >= at) {
            return Err(io::Error::other("a bad block"));
        }
        let rest = &self.bytes[usize::try_from(offset).unwrap()..];
        // Short reads are a file's right.
        let len = rest.len().min(bytes.len()).min(700_000);
        bytes[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

fn file() -> Vec<u8> {
    (0..FILE_LEN).map(|at| (at % 251) as u8 + 1).collect()
}

fn source() -> Box<TestSource> {
    let bytes = file();
    Box::new(TestSource { checksum: sum(&bytes), bytes, fails_at: None })
}

pub(super) fn message(from: u64, to: u64) -> Message {
    let mut message = Message { from, to, term: 3, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    message.mut_snapshot().mut_metadata().index = 42;
    message
}

/// Answers the next snapshot that arrives, and says what it was.
fn take_snapshot(node: &Node, result: Result<(), String>) -> Message {
    node.next("a snapshot", |inbound| match inbound {
        Inbound::Snapshot { message, reply, .. } => {
            let from = message.from;
            assert_eq!(from, message.from);
            reply.send(result.clone()).unwrap();
            Some(*message)
        }
        _ => None,
    })
}

fn next_report(node: &Node) -> Result<(), String> {
    node.next("a report", |inbound| match inbound {
        Inbound::SnapshotReport { result, .. } => Some(result),
        _ => None,
    })
}

/// The only report of the only snapshot, a failure, and its reason.
fn only_failure(node: &Node) -> String {
    let reason = next_report(node).expect_err("it was reported as sent");
    let more = node.rest();
    let another = more.iter().any(|inbound| matches!(inbound, Inbound::SnapshotReport { .. }));
    assert!(!another, "reported twice: {more:?}");
    assert_eq!(node.transport.transfers().0, []);
    reason
}

/// A request's head and its whole body, as a peer makes them.
pub(super) fn raw_request(message: &Message, file: &[u8]) -> (Vec<(String, String)>, Vec<u8>) {
    let mut head = head(2, 1);
    head.push(("x-raft-snapshot-length".into(), file.len().to_string()));
    head.push(("x-raft-snapshot-checksum".into(), format!("{:016x}", sum(file))));
    let message = protobuf::Message::write_to_bytes(message).unwrap();
    let len = u32::try_from(message.len()).unwrap().to_le_bytes();
    (head, [&len[..], &message, file].concat())
}

pub(super) const SNAPSHOT: &str = "POST /raft/snapshot";

/// What it is for: a file arrives whole, with its message, and is reported once the node took it.
#[test]
fn a_snapshot_arrives_and_is_reported() {
    let (one, two) = pair();
    for round in 1..=2 {
        one.transport.send_snapshot(2, message(1, 2), source());
        assert_eq!(take_snapshot(&two, Ok(())), message(1, 2));
        assert_eq!(next_report(&one), Ok(()));
        assert!(lock(&two.sinks.files).stored.iter().all(|stored| *stored == file()));
        assert_eq!(lock(&two.sinks.files).stored.len(), round);
        assert_eq!(lock(&two.sinks.files).abandoned, 0);
    }
    assert!(one.rest().is_empty() && two.rest().is_empty());
    assert_eq!(one.transport.transfers(), (vec![], vec![]));
    eventually("its place is free", || two.transport.transfers() == (vec![], vec![]));
}

/// Whatever fails at the receiver, the sender's node hears of it once.
#[test]
fn failures_of_the_receiver_are_reported_once() {
    // A reason that comes in the middle of the file may be lost with the connection.
    type Change = fn(&Node, &mut TestSource, &mut Message);
    let table: [(&str, Change, &str); 6] = [
        ("no sink", |two, _, _| *lock(&two.sinks.room) = Some(0), ""),
        ("no room", |two, _, _| *lock(&two.sinks.room) = Some(MIB), ""),
        ("checksum", |_, source, _| source.checksum += 1, "fails its checksum"),
        ("bad block", |_, source, _| source.fails_at = Some(1), "a bad block"),
        ("for another", |_, _, message| message.to = 3, ""),
        ("too large", |_, _, message| message.context = vec![1; 64 << 10].into(), "cap"),
    ];
    for (what, change, reason) in table {
        let (one, two) = pair();
        let (mut source, mut message) = (source(), message(1, 2));
        change(&two, &mut source, &mut message);
        one.transport.send_snapshot(2, message, source);
        let told = only_failure(&one);
        assert!(told.contains(reason), "{what}: {told}");
        let rest = two.rest();
        assert!(!rest.iter().any(|i| matches!(i, Inbound::Snapshot { .. })), "{what}: {rest:?}");
        assert_eq!(lock(&two.sinks.files).stored.len(), 0, "{what}");
        eventually("its place is free", || two.transport.transfers().1.is_empty());
        let Files { begun, abandoned, .. } = &*lock(&two.sinks.files);
        let sinks = begun - usize::from(what == "no sink");
        assert_eq!(*abandoned, sinks, "{what}");
    }
}

/// A node that does not take a snapshot, or forgets to say, has not taken it.
#[test]
fn what_the_node_does_not_take_is_a_failure() {
    let (one, two) = pair();
    one.transport.send_snapshot(2, message(1, 2), source());
    take_snapshot(&two, Err("too old by now".into()));
    assert!(only_failure(&one).contains("500: too old by now"));
    one.transport.send_snapshot(2, message(1, 2), source());
    two.next("a snapshot", |inbound| matches!(inbound, Inbound::Snapshot { .. }).then_some(()));
    assert!(only_failure(&one).contains("did not take"));
}

/// Two at once to one peer would only slow each other down; the second fails without harm to the
/// first.
#[test]
fn one_snapshot_moves_to_a_peer_at_a_time() {
    let (one, two) = pair();
    let held = Arc::clone(&two.sinks.hold);
    let held = lock(&held);
    one.transport.send_snapshot(2, message(1, 2), source());
    eventually("it moves", || two.transport.transfers().1.len() == 1);
    eventually("it is shown", || one.transport.transfers().0.iter().any(|t| t.bytes > 0));
    let sending = one.transport.transfers().0[0];
    assert_eq!((sending.peer, sending.index, sending.total), (2, 42, FILE_LEN as u64));
    one.transport.send_snapshot(2, message(1, 2), source());
    assert!(next_report(&one).unwrap_err().contains("another snapshot"));
    drop(held);
    take_snapshot(&two, Ok(()));
    assert_eq!(next_report(&one), Ok(()));
}

/// Receivers are bounded: per sender, and overall.
#[test]
fn receiving_is_bounded() {
    let node = Node::start(1, &[]);
    let from = |id: u64| {
        let (fields, body) = raw_request(&message(id, 1), &[1; 5000]);
        let fields = with(fields, "x-raft-from", &id.to_string());
        Raw::request(node.address, SNAPSHOT, &fields, body.len(), &body[..body.len() - 1])
    };
    let status = |mut raw: Raw| {
        raw.read_head();
        raw.status()
    };
    let first = from(2);
    eventually("one is received", || node.transport.transfers().1.len() == 1);
    assert_eq!(status(from(2)), 503);
    let held = (3..2 + MAX_RECEIVING as u64).map(from).collect::<Vec<_>>();
    eventually("all are received", || node.transport.transfers().1.len() == MAX_RECEIVING);
    assert_eq!(status(from(20)), 503);
    drop((first, held));
    eventually("there is room again", || node.transport.transfers().1.is_empty());
}

/// Wherever a sender vanishes, nothing reaches the node and nothing is left behind.
#[test]
fn a_request_that_is_cut_off_is_abandoned() {
    let node = Node::start(1, &[]);
    let file = vec![1; 5000];
    let (head, body) = raw_request(&message(2, 1), &file);
    let start = body.len() - file.len();
    let mut cuts = (0..=start).chain([body.len() - 1]).collect::<Vec<_>>();
    let mut random = 0x5eed_u64;
    for _ in 0..20 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        cuts.push(start + (random >> 33) as usize % file.len());
    }
    for cut in cuts {
        let mut raw = Raw::request(node.address, SNAPSHOT, &head, body.len(), &body[..cut]);
        raw.socket.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        raw.read_end();
        eventually("its place is free", || node.transport.transfers().1.is_empty());
        let Files { begun, abandoned, .. } = &*lock(&node.sinks.files);
        assert_eq!(begun, abandoned, "cut at {cut}");
    }
    assert!(lock(&node.sinks.files).begun > 10, "the cuts within the file");
    assert!(node.rest().is_empty());
    let mut whole = Raw::request(node.address, SNAPSHOT, &head, body.len(), &body);
    take_snapshot(&node, Ok(()));
    whole.read_head();
    assert_eq!(whole.status(), 204);
}

/// What a request says of itself must fit together before anything is stored.
#[test]
fn malformed_requests_are_refused() {
    let node = Node::start(1, &[]);
    let (good, body) = raw_request(&message(2, 1), b"file");
    let heartbeat = Message { from: 2, to: 1, ..Message::default() };
    let long = Message { context: vec![1; 64 << 10].into(), ..message(2, 1) };
    let table = [
        ("no length", good[..good.len() - 2].to_vec(), body.clone()),
        ("a length that does not fit", with(good.clone(), "x-raft-snapshot-length", "900"), body),
        ("from another", good.clone(), raw_request(&message(3, 1), b"file").1),
        ("to another", good.clone(), raw_request(&message(2, 3), b"file").1),
        ("no snapshot", good.clone(), raw_request(&heartbeat, b"file").1),
        ("too long a message", good, raw_request(&long, b"file").1),
    ];
    for (what, head, body) in table {
        let mut raw = Raw::request(node.address, SNAPSHOT, &head, body.len(), &body);
        raw.read_head();
        assert_eq!(raw.status(), 400, "{what}");
    }
    assert_eq!(lock(&node.sinks.files).begun, 0);
}

/// Wherever the receiver vanishes, the sender's node hears of it once. Nothing is written before
/// the receiver asks for it.
#[test]
fn a_receiver_that_vanishes_is_reported_once() {
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    for cut in [0, 3, 100, MIB, FILE_LEN] {
        node.transport.send_snapshot(2, message(1, 2), source());
        let (mut raw, _others) = Raw::accept_request(&fake, SNAPSHOT);
        raw.ask_for_the_body();
        raw.socket.read_exact(&mut vec![0; cut]).unwrap();
        drop(raw);
        only_failure(&node);
    }
    // A refusal arrives with its reason, since nothing was under way yet: what the sender wrote
    // until it gave up is its head alone.
    node.transport.send_snapshot(2, message(1, 2), source());
    let (mut raw, _others) = Raw::accept_request(&fake, SNAPSHOT);
    raw.answer_whole("503 Busy", &[], "not now");
    let told = only_failure(&node);
    assert!(told.contains("503: not now"), "{told}");
    let mut unasked = Vec::new();
    // However the connection ends, what came before that was read.
    raw.socket.read_to_end(&mut unasked).ok();
    assert!(unasked.is_empty(), "{} bytes were written unasked", unasked.len());
}

/// Silence is the only sign of a host that is gone, in either direction.
#[test]
fn transfers_that_stand_still_are_given_up() {
    let (node, fake) = node_and_fake(Duration::from_millis(20));
    // The sockets hold less than the file: it stands still.
    let large = TestSource { bytes: vec![1; 64 * MIB], checksum: 1, fails_at: None };
    node.transport.send_snapshot(2, message(1, 2), Box::new(large));
    let (mut raw, _others) = Raw::accept_request(&fake, SNAPSHOT);
    raw.ask_for_the_body();
    raw.socket.read_exact(&mut [0; 10]).unwrap();
    assert!(only_failure(&node).contains("nothing moved"));
    let (head, body) = raw_request(&message(2, 1), &file());
    let mut silent = Raw::request(node.address, SNAPSHOT, &head, body.len(), &body[..MIB]);
    silent.read_head();
    assert_eq!(silent.status(), 500);
    eventually("its place is free", || node.transport.transfers().1.is_empty());
}

/// A line of 10 KB a second is slow and honest: whoever is cut off begins anew, so a transfer over
/// it would never end. Who comes in drops is refused.
#[test]
fn a_slow_line_is_no_trickle() {
    let window = Duration::from_secs(10);
    let paces = |bytes: usize, every: Duration| {
        let mut pace = Pace::default();
        (0..10_000).try_for_each(|_| pace.check(bytes, every, window))
    };
    let halting = Duration::from_millis(1450);
    assert_eq!(paces(14_500, halting), Ok(()));
    assert_eq!(paces(1, Duration::from_micros(10)), Ok(()), "nobody was waited for");
    let refused = paces(LEAST_RATE as usize / 2, Duration::from_secs(1)).unwrap_err();
    assert!(refused.starts_with("2048 bytes a second came"), "{refused}");
    // What came before buys nobody time.
    let mut pace = Pace::default();
    assert_eq!(pace.check(MIB, window, window), Ok(()));
    assert!(pace.check(1, window, window).is_err());
}

/// What is counted as sent is what the socket was given in small slices: a piece as it was read
/// takes a slow line longer than a line may stand still.
#[test]
fn pieces_leave_in_slices() {
    let moving = Arc::new(Moving::default());
    let place = moving.take((2, MIB as u64), 1, "sending", &logger()).unwrap();
    let (pieces_tx, pieces) = tokio::sync::mpsc::channel(2);
    let (start, piece) = (Bytes::from_static(b"message"), Bytes::from(file()).slice(..MIB));
    let left = (start.len() + piece.len()) as u64;
    pieces_tx.try_send(Ok(piece.slice(..MIB - 7))).unwrap();
    pieces_tx.try_send(Ok(piece.slice(MIB - 7..))).unwrap();
    let mut body = File::new(start.clone(), pieces, left, place);
    let mut sent = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    while let Some(frame) = runtime.block_on(body.frame()) {
        let slice = frame.unwrap().into_data().unwrap();
        assert!(slice.len() <= SLICE);
        sent.extend_from_slice(&slice);
        assert_eq!(moving.transfers()[0].bytes as usize, sent.len() - start.len());
    }
    assert!(sent == [&start[..], &piece].concat());
}

/// Peers come and go while snapshots move: each is reported all the same.
#[test]
fn a_snapshot_to_a_peer_that_leaves_is_reported_once() {
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    node.transport.send_snapshot(9, message(1, 9), source());
    assert!(only_failure(&node).contains("no such member"));
    node.transport.send_snapshot(2, message(1, 2), source());
    let (_raw, _others) = Raw::accept_request(&fake, SNAPSHOT);
    node.transport.set_peers(&[]);
    assert!(only_failure(&node).contains("removed"));
    // Nobody listens.
    drop(fake);
    let (gone, url) = bind();
    drop(gone);
    node.transport.set_peers(&[(2, url)]);
    node.transport.send_snapshot(2, message(1, 2), source());
    assert!(only_failure(&node).contains("cannot connect"));
}

/// A stopping node still accounts for what it was sending.
#[test]
fn shutdown_reports_what_was_on_its_way() {
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    node.transport.send_snapshot(2, message(1, 2), source());
    let (_raw, _others) = Raw::accept_request(&fake, SNAPSHOT);
    let Node { transport, inbox, .. } = node;
    transport.shutdown();
    let reports = inbox.try_iter().filter(|i| matches!(i, Inbound::SnapshotReport { .. }));
    assert_eq!(reports.count(), 1);
}

/// A late end of one transfer must not free the place of the next.
#[test]
fn a_place_is_left_once() {
    let moving = Arc::new(Moving::default());
    let take = || moving.take((2, 10), 1, "sending", &logger());
    let first = take().unwrap();
    assert!(take().is_none());
    first.leave();
    let _second = take().unwrap();
    drop(first);
    assert_eq!(moving.transfers().len(), 1);
}

/// Not a test: how fast a snapshot of 1 GiB passes over loopback, into nothing and into a file.
#[test]
#[ignore = "a measurement"]
fn measure_snapshots() {
    const LEN: u64 = 1 << 30;
    struct Zeros;
    impl SnapshotSource for Zeros {
        fn len(&self) -> u64 {
            LEN
        }
        fn checksum(&self) -> u64 {
            1
        }
        fn read_at(&mut self, _: u64, bytes: &mut [u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
    }
    struct Writer(Option<std::fs::File>);
    impl SnapshotSink for Writer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
        }
        fn finish(self: Box<Self>) -> Result<Received, String> {
            let synced = self.0.map_or(Ok(()), |file| file.sync_all());
            synced.map(|()| Received::example()).map_err(|error| error.to_string())
        }
    }
    struct Writers(Option<tempfile::TempDir>);
    impl SnapshotSinks for Writers {
        fn begin(&self, _: u64, _: u64, _: u64) -> io::Result<Box<dyn SnapshotSink>> {
            let file = self.0.as_ref().map(|dir| std::fs::File::create(dir.path().join("file")));
            Ok(Box::new(Writer(file.transpose()?)))
        }
    }
    for dir in [None, Some(tempfile::tempdir().unwrap())] {
        let what = if dir.is_some() { "into a file, synced" } else { "into nothing" };
        let (listener, url) = bind();
        let (tx, inbox) = unbounded();
        let settings = settings(2, Duration::from_secs(5));
        let two = Transport::start(
            settings,
            listener,
            &[],
            gate(2),
            Arc::new(Writers(dir)),
            tx,
            logger(),
        );
        let one = Node::start(1, &[(2, url)]);
        one.wait_connected(2);
        let started = Instant::now();
        one.transport.send_snapshot(2, message(1, 2), Box::new(Zeros));
        let taken = inbox.iter().find_map(|inbound| match inbound {
            Inbound::Snapshot { reply, .. } => Some(reply.send(Ok(()))),
            _ => None,
        });
        assert!(taken.unwrap().is_ok() && next_report(&one) == Ok(()));
        let seconds = started.elapsed().as_secs_f64();
        #[expect(clippy::print_stderr, reason = "a measurement is for people")]
        {
            eprintln!("1 GiB {what}: {:.0} MB/s", LEN as f64 / seconds / 1e6);
        }
        two.unwrap().shutdown();
    }
}
