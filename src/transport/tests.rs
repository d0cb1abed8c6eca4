//! Whole transports over loopback sockets, and hand-made peers that misbehave.

mod calls;
mod members;
mod snapshots;
mod strangers;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use raft::eraftpb::{Entry as RaftEntry, Message, MessageType};
use wal::fs::MemFs;

use self::snapshots::TestSinks;
use super::frame::{Decoder, Encoded, MAX_PAYLOAD};
use super::*;
use crate::key::{Attempt, Key};

/// Far above anything that happens in time, far below a person's patience.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long is looked for something that must not happen.
const A_WHILE: Duration = Duration::from_millis(200);
const CLUSTER: u64 = 0xc1;
const MIB: usize = 1 << 20;

// ---- helpers: nodes ----

struct Node {
    id: u64,
    transport: Transport,
    inbox: Receiver<Inbound>,
    address: SocketAddr,
    gate: Arc<Gate>,
    sinks: Arc<TestSinks>,
}

fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn settings(id: u64, election_timeout: Duration) -> Settings {
    Settings {
        peer_url: format!("http://127.0.0.1:{id}"),
        client_url: format!("http://clients-of-{id}:1"),
        heartbeat_interval: election_timeout / 5,
        election_timeout,
        bulk_queue_bytes: 16 << 20,
        max_entry_bytes: 1 << 20,
    }
}

fn logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

/// A gate of one's own, whose incarnation is the id. Members 1 to 9 are in the book.
fn gate(id: u64) -> Arc<Gate> {
    let fs = Arc::new(MemFs::new());
    let gate = Gate::open(fs, Path::new("pins"), id, u128::from(id), CLUSTER).unwrap();
    gate.set_book((1..10).map(|id| (id, None)).collect(), BTreeSet::new());
    Arc::new(gate)
}

impl Node {
    fn on(id: u64, listener: TcpListener, peers: &[(u64, String)], timeout: Duration) -> Self {
        Self::with(gate(id), Arc::default(), settings(id, timeout), listener, peers)
    }

    fn with(
        gate: Arc<Gate>,
        sinks: Arc<TestSinks>,
        mut settings: Settings,
        listener: TcpListener,
        peers: &[(u64, String)],
    ) -> Self {
        let address = listener.local_addr().unwrap();
        settings.peer_url = format!("http://{address}");
        let (tx, inbox) = unbounded();
        let (id, shared_gate, stored) = (gate.id(), Arc::clone(&gate), Arc::clone(&sinks));
        let transport =
            Transport::start(settings, listener, peers, shared_gate, stored, tx, logger()).unwrap();
        Self { id, transport, inbox, address, gate, sinks }
    }

    fn start(id: u64, peers: &[(u64, String)]) -> Self {
        Self::on(id, bind().0, peers, Duration::from_secs(5))
    }

    fn wait_connected(&self, to: u64) {
        eventually(&format!("{} connects to {to}", self.id), || {
            self.transport.peers().iter().any(|peer| peer.id == to && peer.link.connected)
        });
    }

    /// The next event that `pick` wants; the others are dropped with their permits.
    fn next<T>(&self, what: &str, mut pick: impl FnMut(Inbound) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.inbox.recv_deadline(deadline) {
                Ok(inbound) => {
                    if let Some(picked) = pick(inbound) {
                        return picked;
                    }
                }
                Err(error) => panic!("node {} waits for {what}: {error}", self.id),
            }
        }
    }

    fn next_frame(&self) -> Frame {
        self.next("a frame", |inbound| match inbound {
            Inbound::Frame { frame, .. } => Some(frame),
            _ => None,
        })
    }

    /// Everything but what heads say that is there or comes within a while.
    fn rest(&self) -> Vec<Inbound> {
        let mut rest = Vec::new();
        loop {
            match self.inbox.recv_timeout(A_WHILE) {
                Ok(Inbound::Met { .. }) => {}
                Ok(inbound) => rest.push(inbound),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return rest,
            }
        }
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn pair() -> (Node, Node) {
    let ((one, one_url), (two, two_url)) = (bind(), bind());
    let one = Node::on(1, one, &[(2, two_url)], Duration::from_secs(5));
    let two = Node::on(2, two, &[(1, one_url)], Duration::from_secs(5));
    one.wait_connected(2);
    two.wait_connected(1);
    (one, two)
}

// ---- helpers: frames ----

fn heartbeat(from: u64, to: u64, commit: u64) -> Frame {
    let mut message = Message { from, to, commit, term: 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    Frame::Raft(message)
}

fn large(from: u64, to: u64, commit: u64) -> Frame {
    let Frame::Raft(mut message) = heartbeat(from, to, commit) else { unreachable!() };
    message.context = vec![7; MIB].into();
    Frame::Raft(message)
}

fn append(from: u64, to: u64, index: u64, size: usize) -> Frame {
    let mut message = Message { from, to, index, term: 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    let entry = RaftEntry { data: vec![1; size].into(), index: index + 1, ..Default::default() };
    message.entries = vec![entry].into();
    Frame::Raft(message)
}

fn key(sequence: u64) -> Key {
    Key { node: 1, nonce: 1, sequence }
}

fn forward(sequence: u64, size: usize) -> Frame {
    Frame::Forward { term: 1, key: key(sequence), data: vec![0; size].into() }
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut encoded = Encoded::default();
    frame.encode(frame.payload_len(), &mut encoded).unwrap();
    encoded.into_bytes().into()
}

fn commit(frame: &Frame) -> u64 {
    match frame {
        Frame::Raft(message) => message.commit,
        other => panic!("{other:?}"),
    }
}

// ---- helpers: hand-made peers ----

fn head(from: u64, to: u64) -> Vec<(String, String)> {
    let head = Head {
        cluster: CLUSTER,
        from,
        to,
        incarnation: 5,
        pins: BTreeMap::new(),
        peer_url: "http://127.0.0.1:9".into(),
        client_url: format!("http://clients-of-{from}:1"),
    };
    let headers = head.to_headers().unwrap();
    let line = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    headers.iter().map(line).collect()
}

fn with(mut head: Vec<(String, String)>, name: &str, value: &str) -> Vec<(String, String)> {
    let field = head.iter_mut().find(|(other, _)| other == name).unwrap();
    field.1 = value.to_owned();
    head
}

fn head_text(first: &str, fields: &[(String, String)]) -> String {
    let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("{first}\r\n{}transfer-encoding: chunked\r\n\r\n", fields.collect::<String>())
}

/// One end of a stream, in bytes.
struct Raw {
    socket: BufReader<TcpStream>,
    first_line: String,
    decoder: Decoder,
    chunk: Bytes,
}

impl Raw {
    fn new(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let socket = BufReader::new(socket);
        let (decoder, chunk) = (Decoder::default(), Bytes::new());
        Self { socket, first_line: String::new(), decoder, chunk }
    }

    /// Opens a stream to a node and writes `body` before it looks at the answer.
    fn dial(node: &Node, path: &str, head: &[(String, String)], body: &[u8]) -> Self {
        let mut raw = Self::new(TcpStream::connect(node.address).unwrap());
        let head = head_text(&format!("POST {path} HTTP/1.1\r\nhost: a"), head);
        raw.socket.get_mut().write_all(head.as_bytes()).unwrap();
        if !body.is_empty() {
            raw.write(body).unwrap();
        }
        raw.read_head();
        raw
    }

    fn dial_lane(node: &Node, from: u64, lane: &str) -> Self {
        let path = format!("/raft/stream/{lane}");
        let raw = Self::dial(node, &path, &head(from, node.id), &[]);
        assert_eq!(raw.status(), 200);
        raw
    }

    /// Both of a node's streams to this listener, bulk first, not answered yet.
    fn accept_both(listener: &TcpListener) -> [Self; 2] {
        let mut both = [(); 2].map(|()| Self::accept(listener));
        both.sort_by_key(|raw| !raw.first_line.contains("bulk"));
        assert!(both[0].first_line.starts_with("POST /raft/stream/bulk HTTP/1.1"));
        assert!(both[1].first_line.starts_with("POST /raft/stream/control HTTP/1.1"));
        both
    }

    fn accept(listener: &TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let mut accepted = None;
        eventually("somebody dials", || {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let socket = accepted.unwrap().0;
        socket.set_nonblocking(false).unwrap();
        let mut raw = Self::new(socket);
        raw.read_head();
        raw
    }

    fn answer(&mut self, head: &[(String, String)]) {
        let head = head_text("HTTP/1.1 200 OK", head);
        self.socket.get_mut().write_all(head.as_bytes()).unwrap();
    }

    fn read_head(&mut self) {
        self.socket.read_line(&mut self.first_line).unwrap();
        let mut line = String::new();
        while !matches!(line.as_str(), "\r\n") {
            line.clear();
            assert_ne!(self.socket.read_line(&mut line).unwrap(), 0, "no whole head");
        }
    }

    /// The next connection whose request begins so; the others are left open and unanswered.
    fn accept_request(listener: &TcpListener, first: &str) -> (Self, Vec<Self>) {
        let mut others = Vec::new();
        loop {
            let raw = Self::accept(listener);
            if raw.first_line.starts_with(first) {
                return (raw, others);
            }
            others.push(raw);
        }
    }

    /// Sends a whole request whose body has this length, and only `body` of it.
    fn request(
        address: SocketAddr,
        first: &str,
        head: &[(String, String)],
        len: usize,
        body: &[u8],
    ) -> Self {
        let mut raw = Self::new(TcpStream::connect(address).unwrap());
        let fields = head.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields = fields.collect::<String>();
        let head = format!("{first} HTTP/1.1\r\nhost: a\r\n{fields}content-length: {len}\r\n\r\n");
        raw.socket.get_mut().write_all(&[head.as_bytes(), body].concat()).unwrap();
        raw
    }

    /// Answers with a status and a body.
    fn answer_whole(&mut self, status: &str, head: &[(String, String)], body: &str) {
        let fields = head.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields = fields.collect::<String>();
        let len = body.len();
        let text = format!("HTTP/1.1 {status}\r\n{fields}content-length: {len}\r\n\r\n{body}");
        self.socket.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn ask_for_the_body(&mut self) {
        self.socket.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    }

    fn status(&self) -> u16 {
        self.first_line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        self.socket.get_mut().write_all(&chunk)
    }

    fn read_chunk(&mut self) -> Bytes {
        let mut line = String::new();
        self.socket.read_line(&mut line).unwrap();
        let len = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut chunk = vec![0; len + 2];
        self.socket.read_exact(&mut chunk).unwrap();
        chunk.truncate(len);
        chunk.into()
    }

    fn read_frame(&mut self) -> Frame {
        loop {
            if let Some(arrived) = self.decoder.next(&mut self.chunk).unwrap() {
                return arrived.decode().unwrap();
            }
            self.chunk = self.read_chunk();
        }
    }

    /// Reads to the end of the connection: what was left in it.
    fn read_end(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => {}
            // Closed with something of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection stays open: {error}"),
        }
        rest
    }
}

/// A node with id 1 whose only peer is a hand-made member 2.
fn node_and_fake(election_timeout: Duration) -> (Node, TcpListener) {
    let (fake, url) = bind();
    (Node::on(1, bind().0, &[(2, url)], election_timeout), fake)
}

// ---- frames between two transports ----

/// What the transport is for: frames of one lane arrive in the order they were sent, both ways.
#[test]
fn frames_arrive_in_order_on_each_lane() {
    const COUNT: u64 = 2000;
    let (one, two) = pair();
    for (from, to) in [(&one, &two), (&two, &one)] {
        for nth in 0..COUNT {
            from.transport.send(to.id, append(from.id, to.id, nth, 100));
            from.transport.send(to.id, heartbeat(from.id, to.id, nth));
        }
    }
    for (from, to) in [(&two, &one), (&one, &two)] {
        let (mut appends, mut heartbeats) = (0, 0);
        while (appends, heartbeats) != (COUNT, COUNT) {
            let Frame::Raft(message) = to.next_frame() else { unreachable!() };
            assert_eq!((message.from, message.to), (from.id, to.id));
            if message.msg_type == MessageType::MsgAppend {
                assert_eq!(message.index, appends);
                appends += 1;
            } else {
                assert_eq!(message.commit, heartbeats);
                heartbeats += 1;
            }
        }
    }
    for node in [one, two] {
        node.transport.shutdown();
    }
}

/// All kinds pass, and a head tells where clients reach its sender.
#[test]
fn every_kind_of_frame_arrives() {
    let (one, two) = pair();
    let verdict =
        Frame::Verdict { key: key(3), refusal: VerdictKind::TooLarge, term: 2, leader: 1 };
    for frame in [forward(1, MIB), verdict, append(1, 2, 0, 3 * MIB)] {
        one.transport.send(2, frame.clone());
        assert!(two.next_frame() == frame);
    }
    let (three, _) = node_and_fake(Duration::from_secs(5));
    drop(Raw::dial_lane(&three, 9, "bulk"));
    let url = three.next("a client URL", |inbound| match inbound {
        Inbound::Met { peer: 9, incarnation: 5, client_url, .. } => Some(client_url),
        _ => None,
    });
    assert_eq!(url, "http://clients-of-9:1");
}

/// A snapshot has a request of its own; on a stream it would hold up everything behind it.
#[test]
fn snapshots_do_not_travel_on_streams() {
    let (one, two) = pair();
    let mut message = Message { from: 1, to: 2, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    one.transport.send(2, Frame::Raft(message));
    one.transport.send(2, heartbeat(1, 2, 1));
    one.transport.send(2, append(1, 2, 1, 1));
    for _ in 0..2 {
        let Frame::Raft(message) = two.next_frame() else { unreachable!() };
        assert_ne!(message.msg_type, MessageType::MsgSnapshot);
    }
}

// ---- heads ----

/// A member of another cluster, or a stray, must not get a word in (L1, H2).
#[test]
fn the_listener_refuses_wrong_heads_and_delivers_nothing() {
    let node = Node::start(1, &[]);
    let good = || head(2, 1);
    let control = "/raft/stream/control";
    let table = [
        (control, with(good(), "x-raft-cluster", "00000000000000c2"), 412, "cluster"),
        (control, with(good(), "x-raft-to", "3"), 412, "member 1, not 3"),
        (control, with(good(), "x-raft-version", "2"), 412, "version 1"),
        (control, with(good(), "x-raft-from", "1"), 412, "itself"),
        (control, with(good(), "x-raft-from", "0"), 400, "x-raft-from"),
        (control, with(good(), "x-raft-incarnation", "5"), 400, "x-raft-incarnation"),
        (control, vec![], 400, "x-raft-version"),
        ("/raft/stream/other", good(), 404, "members of a cluster"),
        ("/", good(), 404, "members of a cluster"),
    ];
    for (path, head, status, reason) in table {
        let mut raw = Raw::dial(&node, path, &head, &encoded(&heartbeat(2, 1, 6)));
        assert_eq!(raw.status(), status, "{path} {head:?}");
        let text = String::from_utf8(raw.read_end()).unwrap();
        assert!(text.contains(reason), "{path} {head:?}: {text:?}");
    }
    let mut get = Raw::new(TcpStream::connect(node.address).unwrap());
    get.socket.get_mut().write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    get.read_head();
    assert_eq!(get.status(), 404);

    let body = encoded(&heartbeat(2, 1, 7));
    let raw = Raw::dial(&node, control, &good(), &body);
    assert_eq!((raw.status(), commit(&node.next_frame())), (200, 7));
    assert!(node.rest().iter().all(|inbound| !matches!(inbound, Inbound::Frame { .. })));
}

/// The dialler judges as well, before it writes anything (P1), and says so once.
#[test]
fn the_dialler_refuses_wrong_answers() {
    let good = || head(2, 1);
    let table = [
        (with(good(), "x-raft-cluster", "00000000000000c2"), 412, "cluster"),
        (with(good(), "x-raft-to", "3"), 412, "member 1, not 3"),
        (with(good(), "x-raft-from", "3"), 412, "this is member 3"),
        (with(good(), "x-raft-version", "2"), 412, "version 1"),
        (with(good(), "x-raft-incarnation", "x"), 400, "x-raft-incarnation"),
    ];
    for (answer, expected, reason) in table {
        let (node, fake) = node_and_fake(Duration::from_secs(5));
        for raw in &mut Raw::accept_both(&fake) {
            node.transport.send(2, forward(1, 10));
            node.transport.send(2, heartbeat(1, 2, 1));
            raw.answer(&answer);
            assert_eq!(raw.read_end(), b"", "wrote to {answer:?}");
        }
        // Both lanes are refused alike, and the next attempts as well.
        for mut raw in Raw::accept_both(&fake) {
            raw.answer(&answer);
            raw.read_end();
        }
        let mut refusals = 0;
        for inbound in node.rest() {
            match inbound {
                Inbound::Distrusted { peer: 2, status, message } => {
                    assert_eq!(status, expected);
                    assert!(message.contains(reason), "{message}");
                    refusals += 1;
                }
                Inbound::Unsent { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(refusals, 1);
        let status = &node.transport.peers()[0];
        assert!(!status.link.connected && status.last_error.as_ref().unwrap().contains("refused"));
    }
}

/// A refusal by status carries the peer's reason to the node.
#[test]
fn a_refusal_is_told_with_its_reason() {
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    let mut raw = Raw::accept(&fake);
    raw.answer_whole("410 Gone", &head(2, 1), "removed\n");
    let refusal = node.next("a refusal", |inbound| match inbound {
        Inbound::Refused { peer, status, message } => Some((peer, status, message)),
        _ => None,
    });
    assert_eq!(refusal, (2, 410, "removed".to_owned()));
}

/// Between connecting and the peer's head nothing waits: a stream starts empty (P1).
#[test]
fn nothing_is_written_before_the_answer_and_a_stream_starts_empty() {
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    let [mut bulk, mut control] = Raw::accept_both(&fake);
    node.transport.send(2, forward(1, 10));
    node.transport.send(2, append(1, 2, 0, 10));
    node.transport.send(2, heartbeat(1, 2, 1));
    assert!(matches!(node.rest()[..], [Inbound::Unsent { attempt }] if attempt.key == key(1)));
    bulk.answer(&head(2, 1));
    control.answer(&head(2, 1));
    node.wait_connected(2);
    node.transport.send(2, forward(2, 10));
    node.transport.send(2, heartbeat(1, 2, 2));
    assert_eq!(bulk.read_frame(), forward(2, 10));
    assert_eq!(control.read_frame(), heartbeat(1, 2, 2));
}

// ---- receiving ----

/// After a sender has dialled again, nothing it had said before may surface (L2): the old stream
/// here has frames read and ready, waiting for room.
#[test]
fn a_newer_stream_silences_the_older_one() {
    let node = Node::start(1, &[]);
    let mut old = Raw::dial_lane(&node, 2, "control");
    let mut writer = Raw::new(old.socket.get_ref().try_clone().unwrap());
    let writing = thread::spawn(move || {
        // Ends with an error when the stream is replaced.
        (0..60).try_for_each(|nth| writer.write(&encoded(&large(2, 1, nth))))
    });
    let mut held = Vec::new();
    for nth in 0..3 {
        held.push(node.next("a frame of the old stream", |inbound| match &inbound {
            Inbound::Frame { frame, .. } if commit(frame) == nth => Some(inbound),
            _ => None,
        }));
    }
    let mut new = Raw::dial_lane(&node, 2, "control");
    drop(held);
    new.write(&encoded(&heartbeat(2, 1, 100))).unwrap();
    assert_eq!(commit(&node.next_frame()), 100);
    old.read_end();
    assert!(writing.join().unwrap().is_err());
    // Another lane, and another sender, are not concerned.
    for (from, lane) in [(2, "bulk"), (3, "control")] {
        let _other = Raw::dial_lane(&node, from, lane);
        new.write(&encoded(&heartbeat(2, 1, 101))).unwrap();
        assert_eq!(commit(&node.next_frame()), 101);
    }
}

/// A loop that does not keep up costs a bounded amount of memory (L3), also when the sender dials
/// again and again; the rest waits at the sender.
#[test]
fn a_slow_loop_holds_its_senders_back() {
    let node = Node::start(1, &[]);
    let mut held = Vec::new();
    for round in 0..3 {
        let raw = Raw::dial_lane(&node, 2, "control");
        let mut writer = Raw::new(raw.socket.get_ref().try_clone().unwrap());
        let writing = thread::spawn(move || {
            (0..20).try_for_each(|nth| writer.write(&encoded(&large(2, 1, nth))))
        });
        held.extend(node.rest());
        assert_eq!(held.len(), 3, "frames of 1 MiB in a budget of 4 MiB");
        if round == 2 {
            held.clear();
            let first = commit(&node.next_frame());
            let rest = (first + 1..20).all(|nth| commit(&node.next_frame()) == nth);
            assert!(first == 0 && rest && writing.join().unwrap().is_ok());
        }
    }
}

/// What waits for room is a frame as it arrived, not what it becomes once decoded (L3): one that
/// cannot be decoded breaks its stream only when there is room for it.
#[test]
fn what_finds_no_room_is_not_decoded() {
    let node = Node::on(1, bind().0, &[], Duration::from_millis(100));
    let mut raw = Raw::dial_lane(&node, 2, "control");
    let undecodable = [&31_u32.to_le_bytes()[..], &[2], &[0; 31]].concat();
    let whole_budget = encoded(&forward(1, MAX_PAYLOAD - 32));
    raw.write(&[whole_budget, undecodable].concat()).unwrap();
    let held = node.next("the first frame", |inbound| match inbound {
        Inbound::Frame { permit, .. } => Some(permit),
        _ => None,
    });
    for _ in 0..3 {
        assert_eq!(raw.read_chunk(), &b"."[..]);
    }
    drop(held);
    raw.read_end();
}

/// A frame larger than the whole budget must still get through.
#[test]
fn the_largest_frame_passes_each_lane() {
    let node = Node::start(1, &[]);
    for lane in ["bulk", "control"] {
        let mut raw = Raw::dial_lane(&node, 2, lane);
        for _ in 0..2 {
            let frame = forward(1, MAX_PAYLOAD - 32);
            assert_eq!(frame.payload_len(), MAX_PAYLOAD);
            raw.write(&encoded(&frame)).unwrap();
            assert!(node.next_frame() == frame);
        }
    }
}

/// What cannot be trusted to be a frame of that member ends its stream.
#[test]
fn bad_frames_break_their_stream() {
    let node = Node::start(1, &[]);
    let oversize = [&(MAX_PAYLOAD as u32 + 1).to_le_bytes()[..], &[2]].concat();
    let table = [
        ("from another member", encoded(&heartbeat(3, 1, 0))),
        ("to another member", encoded(&heartbeat(2, 3, 0))),
        ("above the cap", oversize),
        ("of an unknown kind", vec![0, 0, 0, 0, 9]),
        ("not decodable", vec![1, 0, 0, 0, 1, 0xff]),
    ];
    for (what, bytes) in table {
        let mut raw = Raw::dial_lane(&node, 2, "control");
        raw.write(&encoded(&heartbeat(2, 1, 7))).unwrap();
        raw.write(&bytes).unwrap();
        raw.read_end();
        assert_eq!(commit(&node.next_frame()), 7);
        assert!(node.rest().is_empty(), "a frame {what} was delivered");
    }
}

/// The sender knows by it that somebody reads.
#[test]
fn the_listener_echoes() {
    let node = Node::on(1, bind().0, &[], Duration::from_millis(100));
    let mut raw = Raw::dial_lane(&node, 2, "control");
    for _ in 0..3 {
        assert_eq!(raw.read_chunk(), &b"."[..]);
    }
}

// ---- breaks ----

/// Raft must hear of lost appends, once per break, and every Forward must be accounted for
/// (P2, Q3, T3).
#[test]
fn a_broken_bulk_stream_reports_once_and_returns_what_waited() {
    const COUNT: u64 = 16;
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    let [mut bulk, mut control] = Raw::accept_both(&fake);
    bulk.answer(&head(2, 1));
    control.answer(&head(2, 1));
    node.wait_connected(2);
    for nth in 0..COUNT {
        // More than any socket takes while nobody reads.
        node.transport.send(2, forward(nth, MIB));
    }
    node.transport.send(2, append(1, 2, 0, 10));
    drop(bulk);
    let mut next = None;
    let mut unreachable = 0;
    while next != Some(COUNT) {
        node.next("every Forward back", |inbound| match inbound {
            Inbound::Unsent { attempt: Attempt { key, .. } } => {
                assert!(next.is_none_or(|next| next == key.sequence), "{next:?} {key:?}");
                next = Some(key.sequence + 1);
                Some(())
            }
            Inbound::Unreachable { peer: 2 } => {
                unreachable += 1;
                Some(())
            }
            Inbound::Met { .. } => None,
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(unreachable, 1);
    // The next stream starts empty, and its break is a break of its own.
    let mut again = Raw::accept(&fake);
    again.answer(&head(2, 1));
    node.wait_connected(2);
    node.transport.send(2, forward(99, 1));
    assert_eq!(again.read_frame(), forward(99, 1));
    drop(again);
    let rest = node.rest();
    assert!(matches!(rest[..], [Inbound::Unreachable { peer: 2 }]), "{rest:?}");
    // The control lane carries nothing that raft would have to be told of.
    drop(control);
    assert!(node.rest().is_empty());
}

/// Nothing waits for a peer that is away or unknown.
#[test]
fn forwards_to_nobody_come_back() {
    let (fake, url) = bind();
    drop(fake);
    let node = Node::start(1, &[(2, url)]);
    for to in [2, 3] {
        node.transport.send(to, forward(to, 1));
        node.transport.send(to, append(1, to, 0, 1));
        node.transport.send(to, heartbeat(1, to, 0));
        let rest = node.rest();
        let back = matches!(rest[..], [Inbound::Unsent { attempt }] if attempt.key == key(to));
        assert!(back, "{rest:?}");
    }
    eventually("the error is shown", || node.transport.peers()[0].last_error.is_some());
}

/// A peer whose host vanished sends no end of stream: silence is the only sign (P3).
#[test]
fn a_silent_peer_is_dialled_again() {
    let (node, fake) = node_and_fake(Duration::from_millis(100));
    let mut first = Raw::accept_both(&fake);
    first.iter_mut().for_each(|raw| raw.answer(&head(2, 1)));
    node.wait_connected(2);
    let mut second = Raw::accept_both(&fake);
    let rest = std::iter::from_fn(|| node.inbox.try_recv().ok());
    let breaks = rest.filter(|inbound| matches!(inbound, Inbound::Unreachable { .. })).count();
    assert_eq!(breaks, 1);
    second.iter_mut().for_each(|raw| raw.answer(&head(2, 1)));
    node.wait_connected(2);
    // One that does not even answer is given up as well.
    drop((first, second));
    let _unanswered = Raw::accept_both(&fake);
    Raw::accept_both(&fake);
}

/// A peer that echoes and does not read is as good as gone (P3).
#[test]
fn a_peer_that_does_not_read_is_dialled_again() {
    let (node, fake) = node_and_fake(Duration::from_millis(100));
    let [mut bulk, mut control] = Raw::accept_both(&fake);
    bulk.answer(&head(2, 1));
    control.answer(&head(2, 1));
    node.wait_connected(2);
    let echoing = thread::spawn(move || {
        while control.write(b".").is_ok() && bulk.write(b".").is_ok() {
            for nth in 0..4 {
                node.transport.send(2, large(1, 2, nth));
            }
            thread::sleep(Duration::from_millis(20));
        }
        (node, bulk)
    });
    let again = Raw::accept(&fake);
    assert!(again.first_line.contains("control"), "{}", again.first_line);
    let (node, _bulk) = echoing.join().unwrap();
    let error = node.transport.peers()[0].last_error.clone().unwrap();
    assert!(error.contains("nothing could be written"), "{error}");
}

/// A restarted member must be back within an election, on both of its lines.
#[test]
fn a_restarted_peer_is_reached_again() {
    let (one, two) = pair();
    let address = two.address;
    two.transport.shutdown();
    eventually("the loss is noticed", || !one.transport.peers()[0].link.connected);
    let peers = [(1, format!("http://{}", one.address))];
    let listener = TcpListener::bind(address).unwrap();
    let two = Node::on(2, listener, &peers, Duration::from_secs(5));
    let started = Instant::now();
    one.wait_connected(2);
    two.wait_connected(1);
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());
    one.transport.send(2, heartbeat(1, 2, 5));
    assert_eq!(commit(&two.next_frame()), 5);
}

// ---- peers, start and end ----

/// The address book changes while the node runs.
#[test]
fn peers_are_added_moved_and_removed() {
    let node = Node::start(1, &[]);
    let ((here, here_url), (there, there_url)) = (bind(), bind());
    // Its own entry is not a peer.
    node.transport.set_peers(&[(1, "http://127.0.0.1:1".into()), (2, here_url.clone())]);
    for mut raw in Raw::accept_both(&here) {
        raw.answer(&head(2, 1));
        // Kept open by the node alone.
        std::mem::forget(raw);
    }
    node.wait_connected(2);
    node.transport.set_peers(&[(2, there_url.clone())]);
    let mut moved = Raw::accept_both(&there);
    moved.iter_mut().for_each(|raw| raw.answer(&head(2, 1)));
    node.wait_connected(2);
    assert_eq!(node.transport.peers()[0].url, there_url);
    node.transport.send(2, heartbeat(1, 2, 3));
    assert_eq!(moved[1].read_frame(), heartbeat(1, 2, 3));
    // The same list changes nothing.
    node.transport.set_peers(&[(2, there_url)]);
    assert!(node.transport.peers()[0].link.connected);
    node.transport.set_peers(&[]);
    assert!(node.transport.peers().is_empty());
    moved.iter_mut().for_each(|raw| drop(raw.read_end()));
}

/// A leader that stops has just told its successor to campaign: that must leave.
#[test]
fn shutdown_lets_control_frames_leave_and_joins() {
    let (one, two) = pair();
    for nth in 0..1000 {
        one.transport.send(2, heartbeat(1, 2, nth));
    }
    let address = one.address;
    one.transport.shutdown();
    assert!((0..1000).all(|nth| commit(&two.next_frame()) == nth));
    assert!(TcpStream::connect(address).is_err(), "somebody still listens");
}

/// A peer that does not answer must not hold up a stopping node.
#[test]
fn shutdown_does_not_wait_for_a_stuck_peer() {
    let (node, fake) = node_and_fake(Duration::from_secs(1));
    let mut both = Raw::accept_both(&fake);
    both.iter_mut().for_each(|raw| raw.answer(&head(2, 1)));
    node.wait_connected(2);
    let started = Instant::now();
    node.transport.send(2, large(1, 2, 1));
    node.transport.shutdown();
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(both);
}

/// Settings that cannot work are refused, not found out under load.
#[test]
fn wrong_settings_are_refused() {
    let start = |change: fn(&mut Settings)| {
        let mut settings = settings(1, Duration::from_secs(1));
        change(&mut settings);
        let (gate, sinks) = (gate(1), Arc::<TestSinks>::default());
        let started =
            Transport::start(settings, bind().0, &[], gate, sinks, unbounded().0, logger());
        started.err().unwrap()
    };
    let window = start(|settings| settings.max_entry_bytes = 2 << 20);
    assert!(window.to_string().contains("window"), "{window}");
    let url = start(|settings| settings.client_url = "http://a b".into());
    assert!(url.to_string().contains("client URL"), "{url}");
}

// ---- the door ----

/// Out of file descriptors, accepting fails for a while: the door must open again (L4).
#[test]
fn accepting_survives_errors() {
    let (listener, _) = bind();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (inbox, _inbound) = unbounded();
    let settings = settings(1, Duration::from_secs(1));
    let sinks = Arc::<TestSinks>::default();
    let shared = Arc::new(Shared::new(settings, gate(1), sinks, inbox, logger()));
    let client = thread::spawn(move || {
        let mut raw = Raw::new(TcpStream::connect(address).unwrap());
        raw.socket.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        raw.read_head();
        raw.status()
    });
    let started = Instant::now();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut failures = 0;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let listening = listener::listen(shared, async || {
            if failures < 3 {
                failures += 1;
                return Err(io::Error::from_raw_os_error(24));
            }
            listener.accept().await
        });
        let served = tokio::task::spawn_blocking(|| client.join().unwrap());
        tokio::select! {
            never = listening => match never {},
            status = served => assert_eq!(status.unwrap(), 404),
        }
    });
    assert!(started.elapsed() >= Duration::from_millis(300), "it does not back off");
}

/// Not a test: how fast appends of one 128-byte entry pass, one by one and in raft's own batches.
#[test]
#[ignore = "a measurement"]
fn measure_appends() {
    let (one, two) = pair();
    for (entries, messages) in [(1, 400_000_u64), (64, 20_000)] {
        let started = Instant::now();
        let window = 1024;
        thread::scope(|scope| {
            let (ack, acks) = unbounded();
            scope.spawn(|| {
                let ack = ack;
                for _ in 0..messages {
                    two.next_frame();
                    // Nobody counts the last ones.
                    ack.send(()).ok();
                }
            });
            for nth in 0..messages {
                if nth >= window {
                    acks.recv().unwrap();
                }
                let Frame::Raft(mut message) = append(1, 2, nth * entries, 128) else {
                    unreachable!()
                };
                let entry = message.entries[0].clone();
                message.entries = vec![entry; entries as usize].into();
                one.transport.send(2, Frame::Raft(message));
            }
        });
        let seconds = started.elapsed().as_secs_f64();
        let rate = messages as f64 / seconds;
        #[expect(clippy::print_stderr, reason = "a measurement is for people")]
        {
            eprintln!(
                "{entries} entries: {rate:.0} appends/s, {:.0} entries/s",
                rate * entries as f64
            );
        }
    }
    let mut round_trips = Vec::new();
    for nth in 0..20_000 {
        let started = Instant::now();
        one.transport.send(2, heartbeat(1, 2, nth));
        two.next_frame();
        two.transport.send(1, heartbeat(2, 1, nth));
        one.next_frame();
        round_trips.push(started.elapsed());
    }
    round_trips.sort();
    #[expect(clippy::print_stderr, reason = "a measurement is for people")]
    {
        eprintln!("round trip: median {:?}, 99% {:?}", round_trips[10_000], round_trips[19_800]);
    }
}
