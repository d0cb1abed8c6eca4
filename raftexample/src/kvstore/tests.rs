use std::time::{Duration, Instant};

use raftnode::machine::{Command as Entry, StateMachine};
use raftnode::testing::FakeNode;
use raftnode::{Config, Outcome, Restore, Unknown};

use super::*;
use crate::command::{self, Command, Compare, Conditions, Envelope, Op, Test, Txn};
use crate::testing::encode;

/// A machine that is stepped by hand: one entry after the other, each shown.
struct Stepped {
    machine: KvStore,
    store: Store,
    last_index: u64,
}

impl Stepped {
    fn new() -> Self {
        let (mut machine, store) = KvStore::new();
        machine.restore(&mut io::empty(), 1, 1).unwrap();
        Self { machine, store, last_index: 1 }
    }

    fn apply(&mut self, data: &Bytes) -> Answer {
        self.last_index += 1;
        let entry = Entry { index: self.last_index, term: 2, data };
        let answer = self.machine.apply(entry).unwrap();
        self.machine.show(self.last_index, 2);
        answer
    }

    fn respond(&mut self, command: Command) -> Response {
        let answer = self.apply(&encode(&Envelope { keyed: None, command }));
        assert_eq!((answer.index, answer.term), (self.last_index, 2));
        answer.response
    }

    fn put(&mut self, key: &'static str, value: &'static str) {
        assert_eq!(self.respond(put(key, value, None)), Response::Put);
    }

    fn txn(&mut self, txn: Txn) -> Response {
        self.respond(Command::Txn(txn))
    }

    /// All keys with their values and mod indexes.
    fn all(&self) -> Vec<(String, String, u64)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let one = |(key, value): (&Key, &Arc<Value>)| {
            (text(key.as_bytes()), text(&value.bytes), value.mod_index)
        };
        self.store.load().map.iter().map(one).collect()
    }
}

fn put(key: &'static str, value: &'static str, cas: Option<u64>) -> Command {
    Command::Put { key: key.into(), value: value.into(), cas }
}

fn delete(key: &'static str, cas: Option<u64>) -> Command {
    Command::Delete { key: key.into(), cas }
}

fn keyed(idempotency_key: &[u8], cas: Option<u64>, key: &[u8], value: &[u8]) -> Bytes {
    let conditions = Conditions { idempotency_key: Some(idempotency_key), cas };
    let mut command = command::begin_put(&conditions, key, value.len());
    command.extend_from_slice(value);
    command.freeze()
}

fn owned(expected: &[(&str, &str, u64)]) -> Vec<(String, String, u64)> {
    let one =
        |(key, value, index): &(&str, &str, u64)| (key.to_string(), value.to_string(), *index);
    expected.iter().map(one).collect()
}

/// The table of conditions, row by row: what they compare with, and that a mismatch changes
/// nothing.
#[test]
fn conditions_hold_or_nothing_happens() {
    let mismatch = |mod_index| Response::CasMismatch { mod_index };
    let table = [
        (put("there", "new", Some(2)), Response::Put),
        (put("there", "new", Some(0)), mismatch(2)),
        (put("there", "new", Some(3)), mismatch(2)),
        (put("absent", "new", Some(0)), Response::Put),
        (put("absent", "new", Some(2)), mismatch(0)),
        (put("absent", "new", Some(u64::MAX)), mismatch(0)),
        (delete("there", None), Response::Deleted),
        (delete("there", Some(2)), Response::Deleted),
        (delete("there", Some(0)), mismatch(2)),
        (delete("there", Some(1)), mismatch(2)),
        (delete("absent", None), Response::NotFound),
        (delete("absent", Some(0)), Response::NotFound),
        (delete("absent", Some(2)), mismatch(0)),
    ];
    for (command, expected) in table {
        let mut stepped = Stepped::new();
        stepped.put("there", "old");
        assert_eq!(stepped.respond(command.clone()), expected, "{command:?}");
        let left = match expected {
            Response::Put if command == put("absent", "new", Some(0)) => {
                owned(&[("absent", "new", 3), ("there", "old", 2)])
            }
            Response::Put => owned(&[("there", "new", 3)]),
            Response::Deleted => owned(&[]),
            _ => owned(&[("there", "old", 2)]),
        };
        assert_eq!(stepped.all(), left, "{command:?}");
    }
}

/// Each test against a key that is there and one that is not.
#[test]
fn compares_choose_the_branch() {
    let table = [
        ("there", Test::ModIndex(2), true),
        ("there", Test::ModIndex(0), false),
        ("absent", Test::ModIndex(0), true),
        ("absent", Test::ModIndex(2), false),
        ("there", Test::Value("old".into()), true),
        ("there", Test::Value("".into()), false),
        ("absent", Test::Value("".into()), false),
        ("there", Test::Absent, false),
        ("absent", Test::Absent, true),
    ];
    for (key, test, holds) in table {
        let mut stepped = Stepped::new();
        stepped.put("there", "old");
        let certain = Compare { key: "there".into(), test: Test::ModIndex(2) };
        let compare = vec![certain, Compare { key: key.into(), test: test.clone() }];
        let then = vec![Op::Put { key: "yes".into(), value: "".into() }];
        let otherwise = vec![Op::Delete { key: "no".into() }];
        let results =
            if holds { vec![TxnResult::Put] } else { vec![TxnResult::Deleted { existed: false }] };
        let expected = Response::Txn(TxnAnswer { succeeded: holds, results });
        assert_eq!(stepped.txn(Txn { compare, then, otherwise }), expected, "{key} {test:?}");
        assert_eq!(stepped.all().len(), 1 + usize::from(holds));
    }
}

/// K6: compares see the state before, gets what their own txn did so far, and all of it bears one
/// index.
#[test]
fn a_txn_is_one_change() {
    let mut stepped = Stepped::new();
    stepped.put("a", "old");
    let get = |key: &'static str| Op::Get { key: key.into() };
    let put =
        |key: &'static str, value: &'static str| Op::Put { key: key.into(), value: value.into() };
    let answer = stepped.txn(Txn {
        compare: vec![Compare { key: "b".into(), test: Test::Absent }],
        then: vec![
            get("a"),
            put("a", "new"),
            get("a"),
            Op::Delete { key: "a".into() },
            get("a"),
            Op::Delete { key: "a".into() },
            put("b", "1"),
            put("b", "2"),
        ],
        otherwise: vec![],
    });
    let value = |bytes: &'static str, mod_index| Value { bytes: bytes.into(), mod_index };
    let results = vec![
        TxnResult::Got(Some(value("old", 2))),
        TxnResult::Put,
        TxnResult::Got(Some(value("new", 3))),
        TxnResult::Deleted { existed: true },
        TxnResult::Got(None),
        TxnResult::Deleted { existed: false },
        TxnResult::Put,
        TxnResult::Put,
    ];
    assert_eq!(answer, Response::Txn(TxnAnswer { succeeded: true, results }));
    assert_eq!(stepped.all(), owned(&[("b", "2", 3)]));
}

/// What is kept is no part of the entry, whose buffer would stay with it.
#[test]
fn values_have_memory_of_their_own() {
    let set = |key: &'static str| Op::Put { key: key.into(), value: "a value".into() };
    let compare = |test| vec![Compare { key: "none".into(), test }];
    let (then, otherwise) = (vec![set("a"), set("b")], vec![set("a"), set("b")]);
    let absent = Txn { compare: compare(Test::Absent), then, ..Txn::default() };
    let present = Txn { compare: compare(Test::ModIndex(7)), otherwise, ..Txn::default() };
    for command in [put("a", "a value", None), Command::Txn(absent), Command::Txn(present)] {
        let mut stepped = Stepped::new();
        let entry = encode(&Envelope { keyed: None, command });
        stepped.apply(&entry);
        let map = stepped.store.load().map;
        assert!(!map.is_empty());
        for value in map.values() {
            assert_eq!(value.bytes, "a value");
            assert!(!entry.as_ptr_range().contains(&value.bytes.as_ptr()));
        }
    }
}

/// K6: what its gets find is bounded, and a txn that finds more leaves no trace.
#[test]
fn a_txn_that_finds_too_much_changes_nothing() {
    let mut stepped = Stepped::new();
    let half = Bytes::from(vec![7; MAX_RESULT_BYTES / 2]);
    let set = |key: &'static str, value: &Bytes| Op::Put { key: key.into(), value: value.clone() };
    let get = |key: &'static str| Op::Get { key: key.into() };
    let one_more = Bytes::from_static(b"x");
    let then = vec![set("half", &half), set("x", &one_more)];
    stepped.txn(Txn { then, ..Txn::default() });
    let then = vec![set("new", &half), get("half"), get("new"), get("x"), set("newer", &one_more)];
    let txn = Txn { then, ..Txn::default() };
    assert_eq!(stepped.txn(txn.clone()), Response::TooLarge);
    assert_eq!(stepped.store.load().map.len(), 2);
    let fits =
        Txn { then: txn.then.into_iter().filter(|op| *op != get("x")).collect(), ..Txn::default() };
    assert!(matches!(stepped.txn(fits), Response::Txn(_)));
    assert_eq!(stepped.store.load().map.len(), 4);
}

/// K7: a retry is given the first answer, whatever happened since and whatever the answer was; and
/// a key that stands for something else is no retry.
#[test]
fn a_repeated_command_is_given_its_first_answer() {
    let mut stepped = Stepped::new();
    let first = stepped.apply(&keyed(b"one", None, b"k", b"v"));
    let failed = stepped.apply(&keyed(b"two", Some(9), b"k", b"w"));
    assert_eq!(failed.response, Response::CasMismatch { mod_index: 2 });
    stepped.put("k", "later");
    assert_eq!(stepped.apply(&keyed(b"one", None, b"k", b"v")), first);
    assert_eq!(stepped.apply(&keyed(b"two", Some(9), b"k", b"w")), failed);
    assert_eq!(stepped.all(), owned(&[("k", "later", 4)]));
    let others = [
        keyed(b"one", None, b"k", b"w"),
        keyed(b"one", Some(4), b"k", b"v"),
        keyed(b"one", None, b"l", b"v"),
        command::delete(&Conditions { idempotency_key: Some(b"one"), cas: None }, b"k"),
    ];
    for other in others {
        let answer = stepped.apply(&other);
        assert_eq!((answer.index, answer.response), (stepped.last_index, Response::KeyReused));
    }
    assert_eq!(stepped.all(), owned(&[("k", "later", 4)]));
    // A refusal to reuse the key does not take its place.
    assert_eq!(stepped.apply(&keyed(b"one", None, b"k", b"v")), first);
}

/// K7 and K8: retries are recognised behind a snapshot as before it.
#[test]
fn a_restored_state_knows_what_was_repeated() {
    let mut stepped = Stepped::new();
    let first = stepped.apply(&keyed(b"one", None, b"k", b"v"));
    let mut state = Vec::new();
    stepped.machine.capture()(&mut state).unwrap();
    let mut other = Stepped::new();
    other.apply(&keyed(b"two", None, b"gone", b"v"));
    other.machine.restore(&mut &state[..], 9, 2).unwrap();
    other.last_index = 9;
    other.machine.show(9, 2);
    assert_eq!(other.all(), owned(&[("k", "v", 2)]), "the old state is gone");
    assert_eq!(other.apply(&keyed(b"one", None, b"k", b"v")), first);
    assert_eq!(other.apply(&keyed(b"two", None, b"gone", b"v")).index, 11);
    assert_eq!(other.all(), owned(&[("gone", "v", 11), ("k", "v", 2)]));
}

/// K4: a restored state is not shown by itself: until the member has applied what it had committed,
/// readers see what they saw. No test noticed when it was.
#[test]
fn a_restored_state_is_not_shown_by_itself() {
    let mut stepped = Stepped::new();
    stepped.put("new", "v");
    let mut state = Vec::new();
    stepped.machine.capture()(&mut state).unwrap();
    let mut other = Stepped::new();
    other.put("old", "v");
    other.machine.restore(&mut &state[..], 9, 2).unwrap();
    assert_eq!(other.all(), owned(&[("old", "v", 2)]));
    other.machine.show(9, 2);
    assert_eq!(other.all(), owned(&[("new", "v", 2)]));
}

/// The promise, as it is worded: within the last so many keyed commands, and no further.
#[test]
fn the_oldest_keys_are_forgotten() {
    let mut stepped = Stepped::new();
    let retry = |n: usize| keyed(&n.to_be_bytes(), None, b"k", b"");
    for n in 0..MAX_ONCE_KEYS {
        assert_eq!(stepped.apply(&retry(n)).index, n as u64 + 2);
    }
    assert_eq!(stepped.apply(&retry(0)).index, 2, "forgotten too early");
    assert_eq!(stepped.apply(&retry(MAX_ONCE_KEYS)).index, stepped.last_index);
    assert_eq!(stepped.apply(&retry(1)).index, 3, "forgotten too early");
    assert_eq!(stepped.apply(&retry(0)).index, stepped.last_index, "remembered too long");
    assert_eq!(stepped.apply(&retry(1)).index, stepped.last_index, "remembered too long");
}

/// Answers that are large push out others by their bytes.
#[test]
fn large_answers_push_out_the_oldest_keys() {
    let mut stepped = Stepped::new();
    let value = Bytes::from(vec![7; 1 << 20]);
    stepped.respond(Command::Put { key: "k".into(), value, cas: None });
    let get = Txn { then: vec![Op::Get { key: "k".into() }], ..Txn::default() };
    let retry = |n: usize| command::txn(Some(&n.to_be_bytes()), &get).unwrap();
    let fitting = MAX_ONCE_BYTES / ((1 << 20) + 4096);
    for n in 0..fitting {
        assert_eq!(stepped.apply(&retry(n)).index, n as u64 + 3);
    }
    assert_eq!(stepped.apply(&retry(1)).index, 4, "forgotten too early");
    assert_eq!(stepped.apply(&retry(0)).index, 3, "forgotten too early");
    assert_eq!(stepped.apply(&retry(fitting)).index, stepped.last_index);
    assert_eq!(stepped.apply(&retry(2)).index, 5, "forgotten too early");
    assert_eq!(stepped.apply(&retry(0)).index, stepped.last_index, "remembered too long");
}

/// What is marked as such is passed over, and nothing else happens.
#[test]
fn an_ignorable_command_changes_nothing() {
    let mut stepped = Stepped::new();
    stepped.put("k", "v");
    assert_eq!(stepped.respond(Command::Ignorable(0x9f)), Response::Ignored);
    assert_eq!(stepped.all(), owned(&[("k", "v", 2)]));
}

/// Pages cover what is there, once, in the order of the bytes.
#[test]
fn keys_are_listed_in_pages() {
    let mut stepped = Stepped::new();
    for key in ["a", "a!", "a/", "a/b", "a/c", "a0", "b", "\u{7f}"] {
        stepped.put(key, "v");
    }
    let list = |prefix: &str, after: Option<&str>, limit| {
        let version = stepped.store.load();
        let (keys, next) = version.list(prefix.as_bytes(), after.map(str::as_bytes), limit);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (keys.iter().map(|(key, _)| text(key)).collect::<Vec<_>>().join(" "), next.map(text))
    };
    let table = [
        ("", None, 100, "a a! a/ a/b a/c a0 b \u{7f}", None),
        ("", None, 8, "a a! a/ a/b a/c a0 b \u{7f}", None),
        ("", None, 7, "a a! a/ a/b a/c a0 b", Some("b")),
        ("a/", None, 100, "a/ a/b a/c", None),
        ("a/", None, 2, "a/ a/b", Some("a/b")),
        ("a/", Some("a/b"), 2, "a/c", None),
        ("a/", Some("a/c"), 2, "", None),
        ("a/", Some("a"), 1, "a/", Some("a/")),
        ("a/", Some("z"), 1, "", None),
        ("a", Some("a/bb"), 1, "a/c", Some("a/c")),
        ("c", None, 1, "", None),
        ("", None, 0, "", None),
    ];
    for (prefix, after, limit, keys, next) in table {
        let expected = (keys.to_owned(), next.map(str::to_owned));
        assert_eq!(list(prefix, after, limit), expected, "{prefix:?} {after:?} {limit}");
    }
    let version = stepped.store.load();
    assert_eq!(version.list(b"a/b", None, 1).0, [(&b"a/b"[..], 5)]);
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn fake() -> (FakeNode, Handle, Store, Applier) {
    let (node, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
    let (handle, store, applier) = start(channels).unwrap();
    (node, handle, store, applier)
}

fn plain_put(value: &[u8]) -> Bytes {
    let mut command = command::begin_put(&Conditions::default(), b"k", value.len());
    command.extend_from_slice(value);
    command.freeze()
}

/// K2: whoever has heard that a put is applied finds it, with its index, and so does a watcher.
#[test]
fn an_answered_put_is_visible() {
    let (_node, handle, store, applier) = fake();
    for value in [&b"first"[..], b"second"] {
        let pending = handle.propose(plain_put(value), soon()).unwrap();
        let Outcome::Applied { index, term, response } = pending.wait() else {
            panic!("not applied");
        };
        assert_eq!(response, Answer { index, term, response: Response::Put });
        let version = store.load();
        assert_eq!((version.applied_index, version.term), (index, 1));
        let expected = Value { bytes: Bytes::copy_from_slice(value), mod_index: index };
        assert_eq!(**version.map.get(&b"k"[..]).unwrap(), expected);
        assert_eq!(store.watch(None, Bytes::new()).unwrap().next_index(), index + 1);
    }
    handle.node().shutdown();
    applier.join().unwrap();
}

/// K3: a command from the future stops the member with its place and the way out: skipping it
/// would make this member's store another one.
#[test]
fn an_unreadable_command_stops_the_applier() {
    let (_node, handle, store, applier) = fake();
    let future = Bytes::from_static(b"\x01\x09\x01\x00k");
    let pending = handle.propose(future, soon()).unwrap();
    assert_eq!(pending.wait(), Outcome::Unknown(Unknown::Stopped));
    let message = applier.join().unwrap_err().to_string();
    assert!(message.contains("index 2") && message.contains("operation 9"), "{message}");
    assert!(store.applied_index() <= 1, "the unreadable command shows");
}

/// K3: a state that cannot be read stops the member with its place: taking it for an empty one
/// would lose keys.
#[test]
fn an_unreadable_state_stops_the_applier() {
    let (node, _handle, _store, applier) = fake();
    let state = Box::new(&b"kvst\x09\0\0\0"[..]);
    node.restore(Restore { index: 9, term: 2, commit_index: 9, state });
    let message = applier.join().unwrap_err().to_string();
    assert!(message.contains("index 9") && message.contains("version 9"), "{message}");
}

/// K4: readers have the version from before a restore, and its history, until all that was known
/// to be committed is applied.
#[test]
fn a_restored_state_is_shown_when_it_is_complete() {
    let (node, handle, store, _applier) = fake();
    handle.propose(plain_put(b"old"), soon()).unwrap().wait();
    let mut state = Vec::new();
    node.capture().unwrap()(&mut state).unwrap();
    let state = Box::new(io::Cursor::new(state));
    node.restore(Restore { index: 5, term: 2, commit_index: 6, state });
    // More than are taken before the applier shows what it may show.
    for _ in 0..40 {
        assert!(node.capture().is_some());
    }
    assert_eq!(store.applied_index(), 2);
    assert!(store.watch(Some(2), Bytes::new()).is_ok());
    handle.propose(plain_put(b"new"), soon()).unwrap().wait();
    assert_eq!((store.applied_index(), store.load().term), (6, 2));
    let compacted = store.watch(Some(2), Bytes::new()).unwrap_err();
    assert_eq!(compacted, Compacted { first_index: 6 });
}

/// Prints what a put costs on the applier, without the channels around it. Run it with
/// `cargo test --release -p raftexample measure_apply -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stderr, reason = "a measurement is read by people")]
fn measure_apply() {
    const KEYS: u64 = 100_000;
    const BATCH: u64 = 64;
    for what in ["plain", "keyed"] {
        let (mut machine, _store) = KvStore::new();
        machine.restore(&mut io::empty(), 1, 1).unwrap();
        for round in 0..4 {
            let puts: Vec<Bytes> = (0..KEYS)
                .map(|n| {
                    let key = format!("key-{:012}", n.wrapping_mul(7_919) % KEYS);
                    let id = format!("{:08x}-{n:027x}", round);
                    let idempotency_key = (what == "keyed").then_some(id.as_bytes());
                    let conditions = Conditions { idempotency_key, cas: None };
                    let mut command = command::begin_put(&conditions, key.as_bytes(), 128);
                    command.extend_from_slice(&[7; 128]);
                    command.freeze()
                })
                .collect();
            let start = Instant::now();
            for (n, data) in (0..).zip(&puts) {
                let index = 2 + round * KEYS + n;
                machine.apply(Entry { index, term: 2, data }).unwrap();
                if index.is_multiple_of(BATCH) {
                    machine.show(index, 2);
                }
            }
            let each = start.elapsed() / KEYS as u32;
            eprintln!("{what} puts, round {round}: {each:?} each, shown every {BATCH}");
        }
    }
}
