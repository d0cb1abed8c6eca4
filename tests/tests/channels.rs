//! The promises of the channel API, on running nodes: the original's four tests, and what its
//! users wished it had.
#![allow(clippy::unwrap_used, reason = "this whole crate is a test")]
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftnode::membership::{Book, Change, ChangeOptions, Changed, Founder, MemberRole};
use raftnode::{
    Channels, Commit, Config, Consistency, Handle, Node, Outcome, Read, Refusal, SnapshotPolicy,
    SnapshotTaken, Status,
};
use tempfile::TempDir;

/// Members of one cluster in this process, on ports that the system chose.
fn start(n: u64, directory: &TempDir) -> Vec<(Node, Channels)> {
    start_with(n, directory, |_| ())
}

/// A snapshot after every few entries, and no log kept before it.
const EAGER: SnapshotPolicy = SnapshotPolicy {
    entries: 4,
    bytes: 0,
    proportional: false,
    keep: 1,
    catchup_entries: 0,
    retain_bytes: 0,
};

fn eager(config: &mut Config) {
    (config.snapshots, config.wal_segment_bytes) = (EAGER, 64 << 10);
}

fn start_with(n: u64, directory: &TempDir, adjust: fn(&mut Config)) -> Vec<(Node, Channels)> {
    let listeners: Vec<TcpListener> =
        (0..n).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let founder = |(id, listener): (u64, &TcpListener)| Founder { id, url: url_of(listener) };
    let founders: Vec<Founder> = (1..).zip(&listeners).map(founder).collect();
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    (1..)
        .zip(listeners)
        .map(|(id, listener)| {
            let path = directory.path().join(id.to_string());
            let mut config = Config::new(id, founders.clone(), path);
            adjust(&mut config);
            Node::start_on(config, listener, &logger, &AtomicBool::new(false)).unwrap()
        })
        .collect()
}

fn hasty(config: &mut Config) {
    config.heartbeat_interval = Duration::from_millis(10);
    config.election_timeout = Duration::from_millis(50);
}

/// A node with an empty directory that joins those in `book`, on `listener`.
fn join(id: u64, book: &Book, listener: TcpListener, directory: &TempDir) -> (Node, Channels) {
    let member = |(id, url): (u64, &str)| Founder { id, url: url.to_owned() };
    let own = url_of(&listener);
    let known = book.members.iter().map(|(id, known)| (*id, &*known.url));
    let founders = known.filter(|known| known.0 != id).chain([(id, &*own)]).map(member).collect();
    let path = directory.path().join(id.to_string());
    let config = Config { join: true, snapshots: EAGER, ..Config::new(id, founders, path) };
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    Node::start_on(config, listener, &logger, &AtomicBool::new(false)).unwrap()
}

fn url_of(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

/// What a node shows once it is as it should be.
fn until(handle: &Handle, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
    let until = deadline();
    loop {
        let status = handle.status();
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < until, "not in time: {what}: {status:?}");
        std::thread::yield_now();
    }
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn propose(handle: &Handle, data: &str) -> Outcome {
    handle.propose(Bytes::copy_from_slice(data.as_bytes()), deadline()).unwrap().wait()
}

/// A consumer that keeps every command in order; its snapshots are these commands, line by line.
fn consume(channels: Channels) -> (Handle, Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (commits, applied, log) = (channels.commits, channels.applied, Arc::clone(&seen));
    let thread = std::thread::spawn(move || {
        for commit in commits {
            match commit {
                Commit::Restore(mut restore) => {
                    let mut text = String::new();
                    restore.state.read_to_string(&mut text).unwrap();
                    *log.lock().unwrap() = text.lines().map(str::to_owned).collect();
                    applied.report(restore.index);
                }
                Commit::Snapshot(request) => {
                    let lines = log.lock().unwrap().clone();
                    request.capture(move |out| {
                        lines.iter().try_for_each(|line| writeln!(out, "{line}"))
                    });
                }
                Commit::Entries(entries) => {
                    for item in entries.items {
                        log.lock().unwrap().push(String::from_utf8_lossy(&item.data).into_owned());
                        let index = item.index;
                        item.answer(index.to_string().into());
                    }
                    applied.report(entries.last_index);
                }
            }
        }
    });
    (channels.handle, seen, thread)
}

/// A node that was started again has all that was applied before.
fn comes_back(node: Node, channels: Channels, before: &[String]) {
    let (handle, seen, thread) = consume(channels);
    let read = handle.read(Consistency::Linearizable, 0, deadline()).unwrap().wait();
    assert!(matches!(read, Read::Ready { .. }), "{read:?}");
    assert_eq!(*seen.lock().unwrap(), before);
    stop(vec![(node, handle, thread)]);
}

fn stop(parts: Vec<(Node, Handle, JoinHandle<()>)>) {
    for (_, handle, _) in &parts {
        handle.shutdown();
    }
    for (node, handle, thread) in parts {
        node.join().unwrap();
        drop(handle);
        thread.join().unwrap();
    }
}

/// The original's TestProposeOnCommit: a consumer that proposes while it consumes must not stop
/// the cluster. Three members each propose again whatever they see, a hundred times.
#[test]
fn proposing_on_commit_does_not_block() {
    let directory = TempDir::new().unwrap();
    let mut parts = Vec::new();
    for (node, channels) in start(3, &directory) {
        let handle = channels.handle.clone();
        let (commits, applied) = (channels.commits, channels.applied);
        let proposer = handle.clone();
        let thread = std::thread::spawn(move || {
            let mut rounds = 0;
            let mut pending = Vec::new();
            for commit in commits {
                match commit {
                    Commit::Restore(restore) => applied.report(restore.index),
                    Commit::Snapshot(_) => {}
                    Commit::Entries(entries) => {
                        let last = entries.last_index;
                        for item in entries.items {
                            let data = item.data.clone();
                            item.answer(Bytes::new());
                            if rounds < 100 {
                                rounds += 1;
                                // Refused once the cluster stops; until then, taken.
                                pending.extend(proposer.propose(data, deadline()));
                            }
                        }
                        applied.report(last);
                    }
                }
            }
            assert_eq!(rounds, 100, "the cluster stopped before 100 rounds");
        });
        parts.push((node, handle, thread));
    }
    let outcomes: Vec<Outcome> =
        parts.iter().map(|(_, handle, _)| propose(handle, "seed")).collect();
    assert!(outcomes.iter().all(|o| matches!(o, Outcome::Applied { .. })), "{outcomes:?}");
    // Everything that was proposed on the way is committed once a later proposal is applied
    // everywhere and each consumer has seen its hundred.
    let settled = |handle: &Handle| {
        let index = match propose(handle, "settle") {
            Outcome::Applied { index, .. } => index,
            other => panic!("{other:?}"),
        };
        index > 300
    };
    let until = deadline();
    while !settled(&parts[0].1) {
        assert!(Instant::now() < until, "the cluster does not settle");
    }
    for (_, handle, _) in &parts {
        let read = handle.read(Consistency::Linearizable, 0, deadline()).unwrap().wait();
        assert!(matches!(read, Read::Ready { .. }), "{read:?}");
    }
    stop(parts);
}

/// The original's TestCloseProposerBeforeReplay: a node whose owner leaves at once ends cleanly.
#[test]
fn leaving_before_replay_ends_the_node() {
    let directory = TempDir::new().unwrap();
    for (node, channels) in start(1, &directory) {
        let Channels { handle, commits, applied } = channels;
        drop((handle, applied));
        node.join().unwrap();
        // What was queued is still there, and then the channel says that it is closed.
        assert!(commits.iter().count() <= 4);
    }
}

/// The original's TestCloseProposerInflight: leaving with a commit under way ends cleanly, and
/// what was acknowledged had reached the consumer.
#[test]
fn leaving_with_commits_under_way_ends_the_node() {
    let directory = TempDir::new().unwrap();
    let (node, channels) = start(1, &directory).remove(0);
    let (handle, seen, thread) = consume(channels);
    let first = propose(&handle, "foo");
    assert!(matches!(first, Outcome::Applied { .. }), "{first:?}");
    let second = handle.propose("bar".into(), deadline()).unwrap();
    drop(handle);
    node.join().unwrap();
    thread.join().unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.first().map(String::as_str), Some("foo"));
    let applied = matches!(second.wait(), Outcome::Applied { .. });
    assert!(!applied || seen.contains(&"bar".to_owned()), "acknowledged but never handed over");
}

/// The original's TestPutAndGetKeyValue, on a store of this test's own: what one member is told
/// can be read on every other.
#[test]
fn what_is_put_on_one_member_is_read_on_all() {
    let directory = TempDir::new().unwrap();
    let mut parts = Vec::new();
    let mut stores = Vec::new();
    for (node, channels) in start(3, &directory) {
        let (handle, seen, thread) = consume(channels);
        stores.push(seen);
        parts.push((node, handle, thread));
    }
    for member in 0..3 {
        let outcome = propose(&parts[member].1, &format!("key-{member}=value"));
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
        for (reader, store) in stores.iter().enumerate() {
            let read = parts[reader].1.read(Consistency::Linearizable, 0, deadline());
            assert!(matches!(read.unwrap().wait(), Read::Ready { .. }));
            let pairs: BTreeMap<String, String> = (store.lock().unwrap().iter())
                .filter_map(|line| line.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            assert_eq!(pairs.get(&format!("key-{member}")).map(String::as_str), Some("value"));
        }
    }
    stop(parts);
}

/// A restarted node hands its consumer the same commands again, in the same order.
#[test]
fn a_restart_replays_what_was_applied() {
    let directory = TempDir::new().unwrap();
    let (node, channels) = start(1, &directory).remove(0);
    let (handle, seen, thread) = consume(channels);
    for n in 0..100 {
        assert!(matches!(propose(&handle, &n.to_string()), Outcome::Applied { .. }));
    }
    let before = seen.lock().unwrap().clone();
    stop(vec![(node, handle, thread)]);

    let config = Config::new(
        1,
        raftnode::membership::parse_cluster("http://127.0.0.1:1").unwrap(),
        directory.path().join("1"),
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let (node, channels) =
        Node::start_on(config, listener, &logger, &AtomicBool::new(false)).unwrap();
    comes_back(node, channels, &before);
}

/// Without a quorum a proposal waits for its deadline and then ends in an honest answer.
#[test]
fn without_a_quorum_the_deadline_answers() {
    let directory = TempDir::new().unwrap();
    let mut members = start(3, &directory);
    members.truncate(1);
    let (node, channels) = members.remove(0);
    let (handle, _, thread) = consume(channels);
    let soon = Instant::now() + Duration::from_millis(300);
    let outcome = handle.propose("lost".into(), soon).unwrap().wait();
    assert_eq!(outcome, Outcome::Refused(Refusal::NoLeader));
    let soon = Instant::now() + Duration::from_millis(300);
    let read = handle.read(Consistency::Linearizable, 0, soon).unwrap().wait();
    assert_eq!(read, Read::Refused(Refusal::NoLeader));
    stop(vec![(node, handle, thread)]);
}

/// The original's TestAddNewNode: a fourth node that is announced, then started to join, gets
/// everything that was committed before it came, and commits what it is offered.
#[test]
fn a_node_added_at_run_time_takes_part() {
    let directory = TempDir::new().unwrap();
    let mut parts = Vec::new();
    for (node, channels) in start(3, &directory) {
        let (handle, _, thread) = consume(channels);
        parts.push((node, handle, thread));
    }
    assert!(matches!(propose(&parts[0].1, "before"), Outcome::Applied { .. }));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let add = Change::Add { id: 4, url: url_of(&listener), wants: MemberRole::Voter };
    let changed = parts[1].1.change(add, ChangeOptions::default(), deadline()).unwrap().wait();
    let Changed::Done { book, .. } = changed else { panic!("{changed:?}") };

    let (node, channels) = join(4, &book, listener, &directory);
    let (handle, seen, thread) = consume(channels);
    // Before, a snapshot may cover what it proposes: then nobody knows what became of it.
    until(&handle, "it has caught up", |status| status.ready);
    let outcome = propose(&handle, "foo");
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    assert_eq!(*seen.lock().unwrap(), ["before", "foo"]);
    until(&handle, "it votes", |status| status.book.voters().any(|id| id == 4));
    parts.push((node, handle, thread));
    stop(parts);
}

/// The original's TestSnapshot: the consumer is asked for a snapshot when it is due, and one that is
/// wished for holds everything proposed before.
#[test]
fn snapshots_are_taken_when_due_and_when_wished() {
    let directory = TempDir::new().unwrap();
    let (node, channels) = start_with(1, &directory, eager).remove(0);
    let (handle, seen, thread) = consume(channels);
    for n in 0..10 {
        assert!(matches!(propose(&handle, &n.to_string()), Outcome::Applied { .. }));
    }
    until(&handle, "a snapshot by itself", |status| status.snapshot_index > 4);
    let Outcome::Applied { index, term, .. } = propose(&handle, "last") else { panic!() };
    let taken = handle.snapshot(deadline()).unwrap().wait();
    assert_eq!(taken, SnapshotTaken::Taken { index, term });
    until(&handle, "it is shown", |status| status.snapshot_index == index);
    let before = seen.lock().unwrap().clone();
    stop(vec![(node, handle, thread)]);

    // All that the next start has is the snapshot.
    let (node, channels) = start_with(1, &directory, eager).remove(0);
    comes_back(node, channels, &before);
}

/// The original's TestProcessMessages: a snapshot that is sent carries the membership as of its
/// index. The change that added the fourth node is in no log any more when it comes, and still it
/// knows all four, with their addresses.
#[test]
fn a_sent_snapshot_carries_the_membership_as_of_its_index() {
    let directory = TempDir::new().unwrap();
    let mut parts = Vec::new();
    for (node, channels) in start_with(3, &directory, eager) {
        let (handle, _, thread) = consume(channels);
        parts.push((node, handle, thread));
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let add = Change::Add { id: 4, url: url_of(&listener), wants: MemberRole::Learner };
    let changed = parts[0].1.change(add, ChangeOptions::default(), deadline()).unwrap().wait();
    let Changed::Done { index, book, .. } = changed else { panic!("{changed:?}") };
    // Long enough for several segments: the log lets go of whole ones.
    let line = "x".repeat(4096);
    let mut n_lines = 0;
    let until_compacted = deadline();
    while parts.iter().any(|(_, handle, _)| handle.status().first_index <= index) {
        assert!(Instant::now() < until_compacted, "the change is not compacted away");
        assert!(matches!(propose(&parts[0].1, &line), Outcome::Applied { .. }));
        n_lines += 1;
    }

    let (node, channels) = join(4, &book, listener, &directory);
    let (handle, seen, thread) = consume(channels);
    let status = until(&handle, "it has the snapshot", |status| status.snapshot_index > index);
    let urls = |book: &Book| -> BTreeMap<u64, String> {
        book.members.iter().map(|(id, member)| (*id, member.url.clone())).collect()
    };
    assert_eq!(urls(&status.book), urls(&book));
    until(&handle, "it has caught up", |status| status.ready);
    let outcome = propose(&handle, "after");
    assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    assert_eq!(seen.lock().unwrap().len(), n_lines + 1);
    parts.push((node, handle, thread));
    stop(parts);
}

/// Whoever asks while the node ends is answered: also in the moment after the loop last looked.
/// Found by a removed member whose last client never heard.
#[test]
fn nobody_waits_for_a_node_that_has_ended() {
    for _ in 0..40 {
        let directory = TempDir::new().unwrap();
        let (node, channels) = start_with(1, &directory, hasty).remove(0);
        let (handle, _, thread) = consume(channels);
        let ask = || {
            let handle = handle.clone();
            std::thread::spawn(move || {
                while let Ok(pending) = handle.read(Consistency::Stale, 0, deadline()) {
                    let answer = pending.wait_timeout(Duration::from_secs(20));
                    answer.expect("the node answers, or its end does");
                }
            })
        };
        let askers: Vec<_> = (0..4).map(|_| ask()).collect();
        until(&handle, "it leads", |status| status.ready);
        handle.shutdown();
        node.join().unwrap();
        askers.into_iter().for_each(|asker| asker.join().unwrap());
        drop(handle);
        thread.join().unwrap();
    }
}
