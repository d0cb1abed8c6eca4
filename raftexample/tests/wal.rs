//! `raftexample wal`, and what a real member does on the same directories: the exit codes of both,
//! and that what one names as damaged the other refuses with the same words.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and reports")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use raftexample::command::{Conditions, begin_put};
use raftnode::{Commit, Config, Node, Outcome, membership};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_raftexample");
/// A member that finds damage says so at once; one that does not would serve.
const REFUSES_WITHIN: Duration = Duration::from_secs(20);
const N_WRITES: usize = 24;

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A data directory with several small segments, of a member that was stopped. The binary has no
/// flag for the size of segments, the library has.
fn used_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    // A port that someone takes in between is a reason to try again.
    for _ in 0..10 {
        let data = directory.path().join("data");
        if write(&data) {
            wait_for_lock(&data);
            return directory;
        }
    }
    panic!("no free port");
}

/// A process that another test starts at this moment has everything that is open here until it is
/// executed, the member's lock too, which the tool would then find held by us.
fn wait_for_lock(data: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while fs::File::open(data.join("LOCK")).unwrap().try_lock().is_err() {
        assert!(Instant::now() < deadline, "somebody keeps the lock of {}", data.display());
        std::thread::yield_now();
    }
}

fn write(data: &Path) -> bool {
    let founders = membership::parse_cluster(&format!("http://{}", free_address())).unwrap();
    let mut config = Config::new(1, founders, data.to_owned());
    config.wal_segment_bytes = 64 << 10;
    config.max_entry_bytes = raftnode::MAX_ENTRY_BYTES;
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let (node, channels) = match Node::start(config, &logger, &AtomicBool::new(false)) {
        Ok(started) => started,
        Err(raftnode::Error::Listen { .. }) => return false,
        Err(error) => panic!("{error}"),
    };
    let handle = channels.handle.clone();
    let applier = std::thread::spawn(move || {
        for commit in channels.commits {
            match commit {
                Commit::Restore(restore) => channels.applied.report(restore.index),
                Commit::Snapshot(request) => request.capture(|_| Ok(())),
                Commit::Entries(entries) => {
                    channels.applied.report(entries.last_index);
                    entries.items.into_iter().for_each(|item| item.answer("done".into()));
                }
            }
        }
    });
    for n in 0..N_WRITES {
        let key = format!("key-{n}");
        let mut put = begin_put(&Conditions::default(), key.as_bytes(), 10_000);
        put.extend_from_slice(&[b'a' + n as u8; 10_000]);
        let outcome = handle.propose(put.freeze(), Instant::now() + Duration::from_secs(20));
        let outcome = outcome.unwrap().wait();
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    }
    handle.shutdown();
    node.join().unwrap();
    applier.join().unwrap();
    true
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Everything in a directory, the lock file included.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

fn wal(directory: &Path, args: &[&str]) -> Output {
    Command::new(BINARY).arg("wal").args(args).current_dir(directory).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn all(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn lines(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn flip(path: &Path, at: u64, bit: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

/// A frame that holds a batch, as the dump has it.
#[derive(Debug, Clone)]
struct Batch {
    path: PathBuf,
    offset: u64,
    bytes: u64,
    /// The entry that is lost first when this batch is.
    first_index: u64,
}

/// The batches of a log, in order.
fn batches(directory: &Path) -> Vec<Batch> {
    let output = wal(directory, &["dump", "--json", "data/wal"]);
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    let mut batches: Vec<Batch> = Vec::new();
    let (mut path, mut last_index) = (PathBuf::new(), 1);
    for line in lines(&output) {
        match line["type"].as_str().unwrap() {
            "segment" => path = line["path"].as_str().unwrap().into(),
            "entry" | "hard_state" | "marker" if line["frame_kind"] == "batch" => {
                let [offset, bytes] = ["offset", "frame_bytes"].map(|f| line[f].as_u64().unwrap());
                let is_new = batches.last().is_none_or(|b| (&b.path, b.offset) != (&path, offset));
                if is_new {
                    let (path, first_index) = (path.clone(), last_index + 1);
                    batches.push(Batch { path, offset, bytes, first_index });
                }
                if line["type"] == "entry" {
                    last_index = line["index"].as_u64().unwrap();
                }
            }
            _ => {}
        }
    }
    batches
}

/// A member that is to refuse its directory; what it says, and its exit code.
fn refusal(directory: &Path) -> (Option<i32>, String) {
    let (client, peer) = (free_address(), free_address());
    let mut process = Command::new(BINARY)
        .args(["--listen", &client.to_string(), "--cluster", &format!("http://{peer}")])
        .args(["--data-dir", "data", "--log-level", "error"])
        .current_dir(directory)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + REFUSES_WITHIN;
    let status = loop {
        match process.try_wait().unwrap() {
            Some(status) => break status.code(),
            None if Instant::now() > deadline => {
                process.kill().unwrap();
                process.wait().unwrap();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status, said)
}

/// A flip of any bit of any batch but the last one of the last segment is damage to what was
/// acknowledged: the member ends with exit code 3 and names the file, the offset of the batch and
/// the entries, and `wal verify` says the same, and what is whole before it. One bit of every batch
/// is flipped here, chosen by a seed; the tests of the log flip every byte of a smaller one.
#[test]
fn a_flipped_bit_in_any_batch_is_refused_by_name() {
    let seed = std::env::var("WAL_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let mut seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("WAL_SEED={seed}");
    let directory = used_directory();
    let batches = batches(directory.path());
    let (_, but_last) = batches.split_last().unwrap();
    let n_segments = fs::read_dir(directory.path().join("data/wal")).unwrap().count();
    assert!(n_segments >= 3 && but_last.len() >= 20, "{n_segments} segments, {but_last:#?}");
    for batch in but_last {
        let image = tempfile::tempdir().unwrap();
        copy(&directory.path().join("data"), &image.path().join("data"));
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (at, bit) = (batch.offset + (seed >> 20) % batch.bytes, (seed >> 10) as u8 % 8);
        flip(&image.path().join(&batch.path), at, bit);
        let before = contents(image.path());
        let (code, said) = refusal(image.path());
        assert_eq!(code, Some(3), "bit {bit} of {at} in {batch:?}: {said}");
        let name = batch.path.file_name().unwrap().to_str().unwrap();
        let (offset, first) = (batch.offset, batch.first_index);
        let place = format!("{name} is corrupt at offset {offset} (entries {first} to ");
        assert!(said.contains(&place), "{place:?} is not in {said}");
        let last = said.split_once(&place).unwrap().1.split_once(')').unwrap().0;
        let last: u64 = last.parse().unwrap_or_else(|_| panic!("{said}"));
        assert!(last >= first, "{said}");

        // Whoever tried to start has written itself into the lock file.
        let lock = image.path().join("data/LOCK");
        let mut after = contents(image.path());
        after.insert(lock.clone(), before[&lock].clone());
        assert!(after == before, "something changed on disk");

        let before = contents(image.path());
        let output = wal(image.path(), &["verify", "--json", "data"]);
        assert_eq!(output.status.code(), Some(3), "{}", all(&output));
        let lines = lines(&output);
        let damage = lines.iter().find(|line| line["judgement"] == "corrupt").unwrap();
        assert!(damage["path"].as_str().unwrap().ends_with(name), "{damage}");
        assert_eq!(damage["offset"], offset);
        assert_eq!((&damage["first_index"], &damage["last_index"]), (&first.into(), &last.into()));
        assert_eq!(damage["kept"]["last_index"], first - 1, "{damage}");
        assert_eq!(lines.last().unwrap()["verdict"], "corrupt");
        assert!(contents(image.path()) == before, "something changed on disk");
    }
}

/// What can be wrong with a directory or a file, and what is said of it, with which code. The last
/// is whether a member refuses to start there with code 3.
#[test]
fn each_case_has_its_exit_code() {
    type Spoil = fn(&Path);
    fn newest(data: &Path) -> PathBuf {
        let files = fs::read_dir(data.join("wal")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "wal")).max().unwrap()
    }
    fn genesis(data: &Path) -> PathBuf {
        data.join("snap/0000000000000001-0000000000000001.snap")
    }
    let table: [(&str, &str, Spoil, i32, &str, bool); 15] = [
        ("whole", "data", |_| (), 0, "data: sound: ", false),
        ("its log", "data/wal", |_| (), 0, "sealed", false),
        (
            "a corrupt snapshot",
            "data",
            |d| flip(&genesis(d), 30, 0),
            3,
            "data: corrupt: 2 faults, 5 files sound",
            true,
        ),
        ("the file", "data/snap", |d| flip(&genesis(d), 30, 0), 3, "fails its checksum", true),
        ("a lost snapshot", "data", |d| fs::remove_file(genesis(d)).unwrap(), 3, "missing", true),
        (
            "a damaged identity",
            "data/identity",
            |d| flip(&d.join("identity"), 9, 0),
            3,
            "format version",
            true,
        ),
        (
            "a vanished segment",
            "data",
            |d| fs::remove_file(newest(d)).unwrap(),
            3,
            "it is missing",
            true,
        ),
        (
            "another's segment",
            "data",
            |d| {
                fs::write(newest(d), "not a log").unwrap();
            },
            3,
            "corrupt",
            true,
        ),
        (
            "another cluster's identity",
            "data",
            |d| {
                fs::write(d.join("identity"), include_bytes!("../../src/golden/identity-v1"))
                    .unwrap();
            },
            3,
            "the identity file names member 7",
            false,
        ),
        (
            "a foreign file",
            "data/notes",
            |d| fs::write(d.join("notes"), "mine").unwrap(),
            1,
            "no file of this program",
            false,
        ),
        ("a foreign directory", ".", |_| (), 1, "holds data", false),
        ("nothing", "data/none", |_| (), 1, "No such file", false),
        (
            "a segment whose first byte is damaged",
            "data/wal/0000000000000001-0000000000000002.wal",
            |d| {
                flip(&d.join("wal/0000000000000001-0000000000000002.wal"), 0, 1);
            },
            3,
            "not a segment of a log",
            true,
        ),
        (
            "a segment of which three bytes are left",
            "data/wal/0000000000000001-0000000000000002.wal",
            |d| {
                let path = d.join("wal/0000000000000001-0000000000000002.wal");
                fs::OpenOptions::new().write(true).open(path).unwrap().set_len(3).unwrap();
            },
            3,
            "corrupt",
            true,
        ),
        (
            "a later version",
            "data/wal/0000000000000001-0000000000000002.wal",
            |d| {
                flip(&d.join("wal/0000000000000001-0000000000000002.wal"), 8, 1);
            },
            1,
            "format version 3, this program reads 1",
            true,
        ),
    ];
    let directory = used_directory();
    for (what, path, spoil, code, expected, is_refused) in table {
        let image = tempfile::tempdir().unwrap();
        copy(&directory.path().join("data"), &image.path().join("data"));
        spoil(&image.path().join("data"));
        let before = contents(image.path());
        for action in [&["verify"][..], &["dump"], &["verify", "--json"], &["dump", "--json"]] {
            let output = wal(image.path(), &[action, &[path]].concat());
            let said = all(&output);
            assert_eq!(output.status.code(), Some(code), "{what}, {action:?}: {said}");
            if action.len() == 1 {
                assert!(said.contains(expected), "{what}, {action:?}: {said}");
            } else {
                assert!(lines(&output).iter().all(|line| line["type"].is_string()), "{what}");
            }
        }
        assert!(contents(image.path()) == before, "{what}: something changed on disk");
        if is_refused {
            let (code, said) = refusal(image.path());
            assert_eq!(code, Some(3), "{what}: {said}");
        }
    }
    for args in [&[][..], &["verify"], &["dump", "--nope", "data"], &["mend", "data"]] {
        let output = wal(directory.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", all(&output));
        assert_eq!(text(&output.stderr).lines().count(), 1, "{args:?}");
    }
}

/// A torn end is no damage: it is said, and what becomes of it. Nothing is cut here; a start does.
#[test]
fn a_torn_end_is_sound() {
    let directory = used_directory();
    let batch = batches(directory.path()).into_iter().rfind(|batch| batch.bytes > 1024).unwrap();
    let segment = directory.path().join(&batch.path);
    let mut bytes = fs::read(&segment).unwrap();
    let at = usize::try_from(batch.offset).unwrap();
    bytes[at + 512..].fill(0);
    fs::write(&segment, bytes).unwrap();
    let before = contents(directory.path());
    let output = wal(directory.path(), &["verify", "data"]);
    let said = all(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for words in [&format!("torn at offset {at}")[..], "never acknowledged", "with a torn end"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(contents(directory.path()) == before);
}

/// A member that runs is not looked into, whichever part of its directory is named, and not
/// disturbed; once it is stopped, everything it wrote is there to be read.
#[test]
fn a_running_member_is_refused_with_its_pid() {
    struct Member(Child);
    impl Drop for Member {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let ask = |client: SocketAddr, request: &str| {
        let mut socket = TcpStream::connect(client).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    let put =
        "PUT /a%20key HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbar";
    let started = (0..10).find_map(|_| {
        let (client, peer) = (free_address(), free_address());
        let process = Command::new(BINARY)
            .args(["--listen", &client.to_string(), "--cluster", &format!("http://{peer}")])
            .args(["--data-dir", "data"])
            .current_dir(directory.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut member = Member(process);
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && member.0.try_wait().unwrap().is_none() {
            if ask(client, put).is_some_and(|answer| answer.starts_with("HTTP/1.1 204")) {
                return Some((member, client));
            }
            std::thread::yield_now();
        }
        None
    });
    let (mut member, client) = started.unwrap();
    let holder = format!("process {}", member.0.id());
    for path in [
        "data",
        "data/wal",
        "data/identity",
        "data/snap",
        "data/wal/0000000000000001-0000000000000002.wal",
    ] {
        let output = wal(directory.path(), &["dump", path]);
        assert_eq!(output.status.code(), Some(1), "{path}: {}", all(&output));
        assert!(text(&output.stderr).contains(&holder), "{path}: {}", all(&output));
        assert!(output.stdout.is_empty(), "{path}");
    }
    assert!(ask(client, put).unwrap().starts_with("HTTP/1.1 204"));
    member.0.kill().unwrap();
    member.0.wait().unwrap();
    let output = wal(directory.path(), &["dump", "data"]);
    assert_eq!(output.status.code(), Some(0), "{}", all(&output));
    assert!(all(&output).contains(r#"put key="a key" value=3 bytes, from member 1"#));
    let output = wal(directory.path(), &["dump", "--json", "data"]);
    let lines = lines(&output);
    let entry = lines.iter().rfind(|line| line["kind"] == "command").unwrap();
    assert_eq!(entry["command"]["key"], "a%20key");
    assert_eq!(entry["command"]["value_bytes"], 3);
}

/// The text and the fields are what scripts read. They are pinned by the log that pins the format.
///
/// `WAL_BLESS=1 cargo test -p raftexample --test wal` writes them anew.
#[test]
fn the_golden_log_is_dumped_as_it_was() {
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wal/tests/golden");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (flags, file) in
        [(&["dump"][..], "wal-dump-v1.txt"), (&["dump", "--json"], "wal-dump-v1.jsonl")]
    {
        let output = wal(&logs, &[flags, &["v1"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", all(&output));
        if std::env::var_os("WAL_BLESS").is_some() {
            fs::create_dir_all(&golden).unwrap();
            fs::write(golden.join(file), &output.stdout).unwrap();
        }
        assert_eq!(text(&output.stdout), fs::read_to_string(golden.join(file)).unwrap(), "{file}");
    }
    let some = wal(&logs, &["dump", "--from-index", "5", "--to-index", "6", "v1"]);
    let entries = text(&some.stdout).lines().filter(|line| line.contains(" batch entry "));
    assert_eq!(entries.count(), 4, "5 and 6 were written twice: {}", all(&some));
}

/// `dump | head` ends when its reader does, and complains to nobody.
#[test]
fn a_reader_may_leave() {
    let directory = used_directory();
    let mut process = Command::new(BINARY)
        .args(["wal", "dump", "data"])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::with_capacity(16, process.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    drop(output);
    let ended = process.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""));
    assert!(line.starts_with("identity: member 1"), "{line}");
}

/// What a full disk has cut off is no dump, and no success; the verdict needs no paper.
#[cfg(target_os = "linux")]
#[test]
fn half_a_dump_is_a_failure() {
    let directory = used_directory();
    let to_a_full_disk = |action: &str| {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(BINARY);
        command.args(["wal", action, "data"]).current_dir(directory.path()).stdout(full);
        let output = command.output().unwrap();
        assert!(text(&output.stderr).contains("cannot write standard output"), "{}", all(&output));
        output.status.code()
    };
    assert_eq!((to_a_full_disk("dump"), to_a_full_disk("verify")), (Some(1), Some(0)));
    flip(&directory.path().join("data/identity"), 9, 0);
    assert_eq!((to_a_full_disk("dump"), to_a_full_disk("verify")), (Some(1), Some(3)));
}

/// Found by review: opening a pipe waits for whoever writes to it.
#[cfg(unix)]
#[test]
fn a_pipe_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Command::new("mkfifo").arg(directory.path().join("pipe")).status().unwrap().success());
    let output = wal(directory.path(), &["verify", "pipe"]);
    assert_eq!(output.status.code(), Some(1), "{}", all(&output));
    assert!(all(&output).contains("neither a file nor a directory"), "{}", all(&output));
}

/// Found by review: while a directory is looked at, its member does not start, and must not be said
/// to run already under the process id of its last life.
#[test]
fn who_looks_is_not_taken_for_the_last_member() {
    let directory = used_directory();
    let lock = directory.path().join("data/LOCK");
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    fs::write(&lock, format!("{}\n", ended.id())).unwrap();
    let looked_at = fs::File::open(&lock).unwrap();
    looked_at.lock_shared().unwrap();
    let output = Command::new(BINARY)
        .args(["--id", "1", "--port", "0", "--data-dir", "data"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", all(&output));
    let said = all(&output);
    assert!(said.contains("in use") && said.contains("wal dump"), "{said}");
    assert!(!said.contains(&format!("process {}", ended.id())), "{said}");
}
