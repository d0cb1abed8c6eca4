//! Logs and recordings by hand: what is decided, and what is refused.

use std::sync::Arc;

use bytes::Bytes;
use wal::fs::DiskFs;
use wal::{Batch, HardState, Marker, Options, Wal};

use super::log::{Committed, Said, Write};
use super::{Ledger, MemberLog, resolve};
use crate::history::{Action, Answer, End, Op};
use crate::recorder::Recorded;

const AT: u64 = 1_000;

fn entry(term: u64, hash: u64, said: Said) -> Committed {
    Committed { term, hash, said }
}

fn put(value: u64, expected: Option<u64>) -> Committed {
    let value = Some(Bytes::from(value.to_string()));
    let write = Write { key: Bytes::from("key"), name: None, value, expected };
    entry(1, 0, Said::Write(write))
}

fn delete(number: u64) -> Committed {
    let name = Some(Bytes::from(format!("op-{number}")));
    let write = Write { key: Bytes::from("key"), name, value: None, expected: None };
    entry(1, 0, Said::Write(write))
}

fn ledger(entries: Vec<Committed>) -> Ledger {
    let commit = entries.len() as u64 + 1;
    let log = MemberLog::of((2..).zip(entries).collect(), commit);
    Ledger::join(&[(1, log)]).unwrap()
}

fn recorded(action: Action, number: u64, end: End) -> Recorded {
    let op = Op { client: 0, member: 0, key: "key".into(), action, call: 0, end };
    Recorded { op, number: Some(number) }
}

fn done(index: u64) -> End {
    End::Answered { at: 1, answer: Answer::Done { index: Some(index) } }
}

/// Open ends become what the log makes of them: done, not met, missing, or never.
#[test]
fn open_ends_are_closed_by_the_log() {
    let ledger = ledger(vec![
        put(1, None),
        put(2, Some(7)),
        put(3, Some(2)),
        delete(4),
        delete(4),
        delete(5),
    ]);
    let open = |action, number| recorded(action, number, End::Unknown);
    let mut history = vec![
        open(Action::Put { value: 1 }, 1),
        open(Action::Cas { value: 2, expected: 7 }, 2),
        open(Action::Cas { value: 3, expected: 2 }, 3),
        open(Action::Delete, 4),
        open(Action::Delete, 5),
        open(Action::Put { value: 6 }, 6),
    ];
    let resolved = resolve(&mut history, &ledger, 7, AT).unwrap();
    assert_eq!((resolved.n_found, resolved.n_absent, resolved.n_open), (5, 1, 0));
    let ends: Vec<_> = history.iter().map(|recorded| recorded.op.end).collect();
    let answered = |answer| End::Answered { at: AT, answer };
    let expected = [
        answered(Answer::Done { index: Some(2) }),
        answered(Answer::Mismatch { index: Some(3) }),
        answered(Answer::Done { index: Some(4) }),
        answered(Answer::Done { index: Some(5) }),
        answered(Answer::Missing { index: Some(7) }),
        End::Refused,
    ];
    assert_eq!(ends, expected);
}

/// While an entry is not there, nobody can say that an operation never happened (K2).
#[test]
fn what_a_gap_may_hold_stays_open() {
    let log = MemberLog::of(vec![(2, put(1, None)), (4, put(2, None))], 4);
    let ledger = Ledger::join(&[(1, log)]).unwrap();
    assert_eq!(ledger.missing(5), [3, 5]);
    let mut history = vec![recorded(Action::Put { value: 9 }, 9, End::Unknown)];
    let resolved = resolve(&mut history, &ledger, 4, AT).unwrap();
    assert_eq!((resolved.n_absent, resolved.n_open), (0, 1));
    assert_eq!(history[0].op.end, End::Unknown);
    // What was answered may stand in the gap, and nowhere else.
    let mut history = vec![recorded(Action::Put { value: 9 }, 9, done(3))];
    resolve(&mut history, &ledger, 4, AT).unwrap();
    history[0].op.end = done(2);
    resolve(&mut history, &ledger, 4, AT).unwrap_err();
}

/// The store is compared with all that was committed, or the comparison fails; a log that lacks some
/// of it is counted as such (K3).
#[test]
fn a_store_is_compared_with_the_whole_log() {
    let entries = || vec![(2, put(1, None)), (3, put(2, None)), (4, put(3, None))];
    let joined = |logs: &[(u64, MemberLog)]| Ledger::join(logs).unwrap();
    let store = [("key".to_owned(), 4)];

    // One was there all the time, one joined, and one was removed.
    let logs = [
        (1, MemberLog::of(entries(), 4)),
        (2, MemberLog::of(entries().split_off(1), 4)),
        (3, MemberLog::of(entries(), 3)),
    ];
    let compared = joined(&logs).compare(&logs, &store, 4).unwrap();
    assert_eq!((compared.n_logs, compared.n_whole, compared.n_entries), (3, 1, 3));
    assert_eq!(compared.to_string(), "1 of 3 logs whole, 3 entries, 3 in several");
    let compared = joined(&logs[1..]).compare(&logs[1..], &store, 4).unwrap();
    assert_eq!((compared.n_logs, compared.n_whole), (2, 0));
    let why = joined(&logs[..1]).compare(&logs[..1], &store, 4).unwrap_err();
    assert!(why.contains("none is in two"), "{why}");
    let why = joined(&logs).compare(&logs, &[("key".to_owned(), 3)], 4).unwrap_err();
    assert!(why.contains("the store holds"), "{why}");

    for (logs, lost) in
        [(&logs[1..2], "first of them 2"), (&logs[2..], "first of them 4"), (&[], "3 of")]
    {
        let why = joined(logs).compare(logs, &store, 4).unwrap_err();
        assert!(why.contains("no log holds") && why.contains(lost), "{why}");
    }
}

/// Whatever the log contradicts is found.
#[test]
fn answers_that_the_log_contradicts_are_refused() {
    let ledger = ledger(vec![put(1, None), put(2, Some(9)), delete(3)]);
    let mismatch = |index| {
        let answer = Answer::Mismatch { index: Some(index) };
        End::Answered { at: 1, answer }
    };
    let swap = Action::Cas { value: 2, expected: 9 };
    let table = [
        (recorded(Action::Put { value: 1 }, 1, done(2)), None),
        (recorded(Action::Put { value: 1 }, 1, done(3)), Some("the log makes")),
        (recorded(Action::Put { value: 1 }, 1, End::Refused), Some("refused, and yet")),
        (recorded(Action::Put { value: 7 }, 7, done(2)), Some("not in the log")),
        (recorded(Action::Put { value: 7 }, 7, End::Refused), None),
        (recorded(swap, 2, mismatch(3)), None),
        (recorded(swap, 2, done(3)), Some("the log makes")),
        (recorded(Action::Delete, 3, done(4)), None),
    ];
    for (recorded, refusal) in table {
        let told = resolve(&mut [recorded.clone()], &ledger, 4, AT);
        match refusal {
            None => {
                let is_answered = matches!(recorded.op.end, End::Answered { .. });
                assert_eq!(told.unwrap().n_confirmed, usize::from(is_answered));
            }
            Some(refusal) => {
                let why = told.unwrap_err();
                assert!(why.contains(refusal), "{why}");
            }
        }
    }
}

/// What was sent once is there once.
#[test]
fn a_write_that_stands_there_twice_is_refused() {
    let ledger = ledger(vec![put(1, None), put(1, None)]);
    let why = resolve(&mut [], &ledger, 3, AT).unwrap_err();
    assert!(why.contains("twice"), "{why}");
}

/// Members that committed different entries at one index are told of; what one of them has not
/// committed is nobody's business (K1).
#[test]
fn committed_entries_are_the_same_everywhere() {
    let log = |hash, commit| MemberLog::of(vec![(2, entry(1, hash, Said::Nothing))], commit);
    assert!(Ledger::join(&[(1, log(1, 2)), (2, log(1, 2))]).is_ok());
    assert!(Ledger::join(&[(1, log(1, 2)), (2, log(2, 1))]).is_ok());
    let why = Ledger::join(&[(1, log(1, 2)), (2, log(2, 2))]).unwrap_err();
    assert!(why.contains("member 1") && why.contains("index 2"), "{why}");
}

/// Found by an hour of rounds: each segment begins with the newest marker, and one that was there
/// before says nothing of entries that were not committed when the segment before was full.
#[test]
fn a_log_is_read_over_the_ends_of_its_segments() {
    let directory = tempfile::tempdir().unwrap();
    let fs = Arc::new(DiskFs);
    let options = Options { segment_bytes: 4096, ..Options::default() };
    let mut batch = Batch::new();
    batch.set_marker(Marker { index: 1, term: 1, checksum: 7 });
    batch.set_hard_state(HardState { term: 1, vote: 0, commit: 1 });
    let path = directory.path().join("wal");
    let mut wal = Wal::create(fs, &path, options, &mut batch).unwrap();
    for index in 2..=40 {
        // What a new leader adds.
        batch.push_entry(index, 1, false, &[&[0; 4]]);
        batch.set_hard_state(HardState { term: 1, vote: 0, commit: index - 1 });
        wal.save(&mut batch).unwrap();
    }
    assert!(wal.n_segments() > 3);
    drop(wal);
    let mut log = MemberLog::read(&path).unwrap();
    log.committed_to(40);
    assert_eq!(Ledger::join(&[(1, log)]).unwrap().missing(40), Vec::<u64>::new());
}
