//! One real member: what it refuses to start on, and what its clients cannot do to it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_raftexample");

/// A lone member in a process of its own; killed when dropped.
struct Member {
    process: Child,
    client: SocketAddr,
}

impl Member {
    /// Starts it on ports that are free now, in a shell that runs `before` first, and waits until
    /// it is ready. A port that someone else takes in between is a reason to try again.
    fn start(directory: &Path, before: &str) -> Self {
        for _ in 0..10 {
            let [client, peer] = free_addresses();
            let flags = format!("--listen {client} --cluster http://{peer} --data-dir data");
            if let Some(member) = Self::start_with(directory, before, client, &flags) {
                return member;
            }
        }
        panic!("no member became ready");
    }

    /// `None` when it ended, or never became ready.
    fn start_with(directory: &Path, before: &str, client: SocketAddr, flags: &str) -> Option<Self> {
        let process = Command::new("/bin/sh")
            .args(["-c", &format!("{before} exec {BINARY} {flags}")])
            .current_dir(directory)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut member = Self { process, client };
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && member.process.try_wait().unwrap().is_none() {
            if member.ask("GET", "/_ready", b"") == Some(200) {
                return Some(member);
            }
            std::thread::yield_now();
        }
        None
    }

    /// The status of the answer, if there is one.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Option<u16> {
        self.answer(method, path, body)?.get(9..12)?.parse().ok()
    }

    /// The whole answer, head and body.
    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Option<String> {
        let mut socket = TcpStream::connect(self.client).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body)).ok()?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).ok()?;
        String::from_utf8(answer).ok()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn free_addresses() -> [SocketAddr; 2] {
    let bound = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    bound.map(|listener| listener.local_addr().unwrap())
}

fn try_to_start(directory: &Path, id: u64) -> Output {
    let [client, one] = free_addresses();
    let [two, _] = free_addresses();
    Command::new(BINARY)
        .args(["--id", &id.to_string(), "--listen", &client.to_string(), "--data-dir", "data"])
        .args(["--cluster", &format!("http://{one},http://{two}")])
        .current_dir(directory)
        .output()
        .unwrap()
}

fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else if path.file_name().is_some_and(|name| name != "LOCK") {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

/// A data directory that holds one acknowledged write.
fn used_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let member = Member::start(directory.path(), "");
    assert_eq!(member.ask("PUT", "/k", b"v"), Some(204));
    drop(member);
    directory
}

fn flip(file: &Path, offset: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// Each directory that cannot be used is refused in one line with its exit code, and not a byte
/// in it changes.
#[test]
fn unusable_directories_are_refused_and_left_alone() {
    type Spoil = fn(&Path);
    let table: [(&str, u64, i32, &str, Spoil); 6] = [
        ("another member's", 2, 3, "belongs to member 1", |_| ()),
        ("a damaged log", 1, 3, ".wal is corrupt at offset", |data| {
            let segment = fs::read_dir(data.join("wal")).unwrap().next().unwrap().unwrap().path();
            flip(&segment, 600);
        }),
        ("a damaged identity", 1, 3, "identity fails its checksum", |data| {
            flip(&data.join("identity"), 20);
        }),
        ("a lost identity", 1, 3, "no identity file", |data| {
            fs::remove_file(data.join("identity")).unwrap();
        }),
        ("Go's", 1, 3, "left by Go's raftexample", |data| {
            fs::remove_dir_all(data).unwrap();
            fs::create_dir(data).unwrap();
            fs::write(data.join("0000000000000000-0000000000000000.wal"), "go").unwrap();
        }),
        ("someone else's", 1, 3, "holds notes.txt", |data| {
            fs::remove_dir_all(data).unwrap();
            fs::create_dir(data).unwrap();
            fs::write(data.join("notes.txt"), "mine").unwrap();
        }),
    ];
    for (what, id, code, expected, spoil) in table {
        let directory = used_directory();
        spoil(&directory.path().join("data"));
        let before = contents(directory.path());
        let output = try_to_start(directory.path(), id);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{what}: {text}");
        assert!(text.contains(expected), "{what}: {text}");
        assert_eq!(text.lines().count(), 1, "{what}: {text}");
        assert!(contents(directory.path()) == before, "{what}: something changed on disk");
    }
}

/// Who a member is, and where its peers look for it, stands in its directory: no flag but that one
/// is needed to go on, and a wrong one does not matter.
#[test]
fn a_directory_alone_starts_its_member_again() {
    let directory = used_directory();
    for flags in ["", "--cluster http://127.0.0.1:1,http://127.0.0.1:2"] {
        let [client, _] = free_addresses();
        let flags = format!("--listen {client} --data-dir data {flags}");
        let member = Member::start_with(directory.path(), "", client, &flags);
        assert_eq!(member.expect(&flags).ask("GET", "/k", b""), Some(200), "{flags}");
    }
}

/// A second process on the same directory is told who holds it.
#[test]
fn a_directory_in_use_is_refused_with_its_holder() {
    let directory = tempfile::tempdir().unwrap();
    let member = Member::start(directory.path(), "");
    let output = try_to_start(directory.path(), 1);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("process {}", member.process.id())), "{text}");
    assert_eq!(member.ask("GET", "/_ready", b""), Some(200));
}

/// Found by review: clients that took every file descriptor ended the member at its log's next
/// segment. Here they hold what they can get while a writer drives the log into
/// its second one.
#[test]
fn clients_cannot_take_the_last_file() {
    let directory = tempfile::tempdir().unwrap();
    let member = Member::start(directory.path(), "ulimit -n 256;");
    let mut writer = TcpStream::connect(member.client).unwrap();
    writer.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut put = |key: &str, value: &[u8]| {
        let length = value.len();
        let head = format!("PUT /{key} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(value)).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(writer.read(&mut byte).unwrap(), 1, "no answer to {key}");
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&answer));
    };
    put("first", b"");
    let mut idle = Vec::new();
    for _ in 0..300 {
        let mut socket = TcpStream::connect(member.client).unwrap();
        // One that was refused at once may be gone already.
        socket.write_all(b"GET /k HTTP/1.1\r\n").ok();
        idle.push(socket);
    }
    let value = vec![b'x'; 1 << 20];
    for n in 0..70 {
        put(&n.to_string(), &value);
    }
    assert!(fs::read_dir(directory.path().join("data/wal")).unwrap().count() > 1);
}

/// A leader's stages, in order.
const STAGES: [&str; 6] = ["queue", "append", "sync", "quorum", "apply", "reply"];

/// Where the time of this very write went, in milliseconds, as its answer says.
fn server_timing(answer: &str) -> Vec<(String, f64)> {
    let mut headers = answer.lines().filter_map(|line| line.split_once(": "));
    let (_, stages) = headers.find(|(name, _)| *name == "Server-Timing").expect(answer);
    let stages = stages.split(", ").map(|stage| {
        let (name, took) = stage.split_once(";dur=").unwrap();
        (name.to_owned(), took.parse().unwrap())
    });
    stages.collect()
}

/// A slow write can be asked where it was slow. What it says is no more than its client saw, no
/// answer has it unasked, and the histograms have the same stages.
#[test]
fn a_traced_write_says_where_its_time_went() {
    let directory = tempfile::tempdir().unwrap();
    let member = Member::start(directory.path(), "");
    let txn: &[u8] = br#"{"then": [{"op": "put", "key": "k", "value": ""}]}"#;
    let traced = [
        ("PUT", "/k?trace=1", &b"v"[..], "204"),
        ("PUT", "/_kv/k?cas=0&trace=1", b"w", "412"),
        ("POST", "/_txn?trace=1", txn, "200"),
        ("DELETE", "/_kv/k?trace=1", b"", "204"),
        ("DELETE", "/_kv/k?trace=1", b"", "404"),
    ];
    for (method, path, body, status) in traced {
        let begun = Instant::now();
        let answer = member.answer(method, path, body).unwrap();
        let whole = begun.elapsed().as_secs_f64() * 1e3;
        assert_eq!(answer.get(9..12), Some(status), "{method} {path}: {answer}");
        let stages = server_timing(&answer);
        let names: Vec<&str> = stages.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, STAGES, "{method} {path}");
        let sum: f64 = stages.iter().map(|(_, took)| took).sum();
        // Each is rounded to a thousandth.
        assert!(sum > 0.0 && sum <= whole + 0.003, "{method} {path}: {stages:?} in {whole} ms");
    }
    for untraced in ["/k", "/k?ack=none"] {
        let answer = member.answer("PUT", untraced, b"v").unwrap();
        assert!(answer.contains("204") && !answer.contains("Server-Timing"), "{answer}");
    }
    let metrics = member.answer("GET", "/_metrics", b"").unwrap();
    for stage in STAGES {
        // The first write that is not traced is one of the sample.
        let line = format!("raft_proposal_stage_seconds_count{{stage=\"{stage}\"}} 6");
        assert!(metrics.lines().any(|found| found == line), "no {line:?} in\n{metrics}");
    }
    assert!(!metrics.contains("stage=\"forward\""), "a lone member leads:\n{metrics}");
}
