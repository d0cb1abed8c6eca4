//! Each rule of the index, broken on the way to the disk and on the way back.
//!
//! These tests live inside the crate because no public call writes what breaks a rule.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use crate::{
    Batch, Error, HardState, Marker, Options, Wal,
    fs::{Fault, Fs, Loss, MemFs, Op},
    index::MAX_NUMBER,
    record::{FrameHeader, Kind},
    replay::replay,
    segment::{Name, file_name, parse_name},
};

const DIR: &str = "/wal";
const OPTIONS: Options = Options { cluster: 1, node: 1, segment_bytes: 1 << 16 };

fn batch(
    marker: Option<(u64, u64)>,
    entries: &[(u64, u64)],
    hard_state: Option<(u64, u64, u64)>,
) -> Batch {
    let mut batch = Batch::new();
    if let Some((index, term)) = marker {
        batch.set_marker(Marker { index, term, checksum: 0 });
    }
    for &(index, term) in entries {
        batch.push_entry(index, term, false, &[b"payload"]);
    }
    if let Some((term, vote, commit)) = hard_state {
        batch.set_hard_state(HardState { term, vote, commit });
    }
    batch
}

/// Entries 5 of term 2, 6 to 8 of term 3, committed through 6; vote for 2 in term 4; marker (5, 2).
fn log(fs: &MemFs) -> Wal {
    let mut first = batch(Some((4, 2)), &[], Some((2, 0, 4)));
    let mut wal = Wal::create(Arc::new(fs.clone()), Path::new(DIR), OPTIONS, &mut first).unwrap();
    wal.save(&mut batch(None, &[(5, 2), (6, 3), (7, 3), (8, 3)], Some((3, 1, 5)))).unwrap();
    wal.save(&mut batch(Some((5, 2)), &[], Some((4, 2, 6)))).unwrap();
    wal
}

fn reopen(fs: &MemFs) -> Result<Wal, Error> {
    Wal::open(Arc::new(fs.clone()), Path::new(DIR), OPTIONS, &|| false).map(|(wal, _)| wal)
}

/// Writes a frame that is valid in all but what it says.
fn forge(fs: &MemFs, batch: &mut Batch) {
    let names: Vec<_> = fs.list(Path::new(DIR)).unwrap();
    let names: Vec<_> = names
        .iter()
        .filter_map(|name| match parse_name(name) {
            Name::Segment { sequence, first_index } => Some((sequence, first_index)),
            _ => None,
        })
        .collect();
    let found = replay(fs, Path::new(DIR), &names, &OPTIONS, &|| false).unwrap();
    let tail = found.segments.last().unwrap();
    let end = found.end;
    let (_, bytes) = batch.finish(Kind::Batch, end.sequence, end.previous, tail.seed);
    tail.file.write_all_at(end.offset, bytes).unwrap();
}

/// Both gates must hold: a bug must not reach the disk, and what is on a disk may come from one.
#[test]
fn a_broken_rule_panics_on_save_and_is_corrupt_on_replay() {
    let cases = [
        ("W1", "the term falls", batch(None, &[], Some((3, 0, 6)))),
        ("W2", "the vote changes", batch(None, &[], Some((4, 3, 6)))),
        ("W2", "the vote is withdrawn", batch(None, &[], Some((4, 0, 6)))),
        ("W3", "the commit index falls", batch(None, &[], Some((4, 2, 5)))),
        ("W3", "the commit index passes the log", batch(None, &[], Some((4, 2, 9)))),
        ("W3", "the cut log is too short", batch(None, &[(7, 4)], Some((4, 2, 8)))),
        ("W3", "a marker is not committed", batch(Some((8, 3)), &[], Some((4, 2, 7)))),
        ("W4", "a gap", batch(None, &[(10, 4)], None)),
        ("W4", "a gap in the batch", batch(None, &[(9, 4), (11, 4)], None)),
        ("W4", "a batch that goes back", batch(None, &[(9, 4), (9, 4)], None)),
        ("W4", "a gap behind a marker", batch(Some((20, 4)), &[(22, 4)], None)),
        ("W5", "a committed entry again", batch(None, &[(6, 4)], None)),
        ("W5", "an entry below a marker", batch(Some((8, 3)), &[(8, 4)], None)),
        ("W5", "an entry at the base", batch(None, &[(4, 4)], None)),
        ("W6", "the term falls along the log", batch(None, &[(9, 2)], None)),
        ("W6", "the term falls in the batch", batch(None, &[(9, 4), (10, 3)], None)),
        ("W6", "an entry of a later term", batch(None, &[(9, 5)], None)),
        ("W6", "an overwrite of an earlier term", batch(None, &[(7, 2)], None)),
        ("W7", "an older marker", batch(Some((4, 2)), &[], None)),
        ("W7", "a marker of an older term", batch(Some((20, 1)), &[], None)),
        ("W7", "a marker of a later term", batch(Some((20, 5)), &[], None)),
        ("W8", "a marker against a committed entry", batch(Some((6, 2)), &[], None)),
        ("W8", "a marker against the newest one", batch(Some((5, 3)), &[], None)),
        ("W11", "an index beyond counting", batch(None, &[(u64::MAX, 4)], None)),
        ("W11", "a marker beyond counting", batch(Some((u64::MAX, 4)), &[], None)),
        ("W11", "a term beyond counting", batch(None, &[], Some((u64::MAX, 2, 6)))),
    ];
    for (rule, case, mut bad) in cases {
        let fs = MemFs::new();
        let mut wal = log(&fs);
        let writes = fs.count(Op::Any);
        let panic = catch_unwind(AssertUnwindSafe(|| wal.save(&mut bad))).expect_err(case);
        let message = panic.downcast_ref::<String>().expect(case);
        assert!(message.starts_with(rule), "{case}: {message}");
        assert_eq!(fs.count(Op::Any), writes, "{case}: reached the disk");
        drop(wal);

        forge(&fs, &mut bad);
        match reopen(&fs) {
            Err(Error::Corrupt { reason, .. }) if reason.starts_with(rule) => {}
            other => panic!("{case}: {other:?}"),
        }
    }
}

/// A frame or a segment numbered so high that the next one could not be was counted by nobody: it
/// is refused where it is read, not where the sum would overflow.
#[test]
fn what_could_not_be_counted_on_is_not_read() {
    for (sequence, is_read) in [(MAX_NUMBER - 1, true), (MAX_NUMBER, false), (u64::MAX, false)] {
        let mut head = Batch::new();
        let (_, frame) = head.finish(Kind::Head, sequence, 7, 7);
        assert_eq!(FrameHeader::decode(frame, 7).is_some(), is_read, "{sequence}");
        for numbers in [(sequence, 1), (1, sequence)] {
            let name = file_name(numbers.0, numbers.1);
            let is_segment = matches!(parse_name(name.as_ref()), Name::Segment { .. });
            assert_eq!(is_segment, is_read, "{name}");
        }
    }
}

/// The neighbours of the cases above that raft does produce.
#[test]
fn what_raft_may_do_is_saved_and_replayed() {
    let cases = [
        ("nothing new", batch(None, &[], Some((4, 2, 6))), 8, 6),
        ("a term without a vote", batch(None, &[], Some((5, 0, 6))), 8, 6),
        ("a term with another vote", batch(None, &[], Some((5, 9, 6))), 8, 6),
        ("entries and their term at once", batch(None, &[(9, 7)], Some((7, 0, 9))), 9, 9),
        ("an overwrite", batch(None, &[(7, 4)], None), 7, 6),
        ("an overwrite that is committed", batch(None, &[(7, 4)], Some((4, 2, 7))), 7, 7),
        ("a marker within the log", batch(Some((6, 3)), &[], None), 8, 6),
        ("a marker that commits", batch(Some((8, 3)), &[], None), 8, 8),
        ("the same marker again", batch(Some((5, 2)), &[], None), 8, 6),
        ("a marker of another term", batch(Some((7, 4)), &[], Some((4, 2, 7))), 7, 7),
        ("a marker far ahead", batch(Some((90, 4)), &[(91, 4)], Some((4, 2, 90))), 91, 90),
    ];
    for (case, mut good, last_index, commit) in cases {
        let fs = MemFs::new();
        let mut wal = log(&fs);
        wal.save(&mut good).unwrap();
        assert_eq!((wal.last_index(), wal.hard_state().commit), (last_index, commit), "{case}");
        drop(wal);
        let wal = reopen(&fs).unwrap();
        assert_eq!((wal.last_index(), wal.hard_state().commit), (last_index, commit), "{case}");
    }
}

/// A marker keeps a log that holds its entry and empties one that does not.
#[test]
fn a_marker_empties_only_a_log_that_differs() {
    for (marker, first_index) in [((7, 3), 5), ((7, 4), 8), ((9, 4), 10)] {
        let fs = MemFs::new();
        let mut wal = log(&fs);
        wal.save(&mut batch(Some(marker), &[], None)).unwrap();
        assert_eq!(wal.first_index(), first_index);
        assert_eq!(reopen(&fs).unwrap().first_index(), first_index);
    }
}

/// W9 bounds what replay must hold in memory.
#[test]
#[should_panic(expected = "W9")]
fn a_batch_is_bounded() {
    let part = vec![0; 1 << 20];
    let parts: Vec<&[u8]> = vec![&part; 256];
    Batch::new().push_entry(1, 1, false, &parts);
}

/// W10: what no marker covers is needed.
#[test]
#[should_panic(expected = "W10")]
fn only_what_a_marker_covers_is_released() {
    let mut wal = log(&MemFs::new());
    drop(wal.release(6));
}

/// A new log has no entries.
#[test]
#[should_panic(expected = "W4")]
fn a_log_is_not_created_with_entries() {
    let mut first = batch(None, &[(1, 1)], Some((1, 0, 0)));
    drop(Wal::create(Arc::new(MemFs::new()), Path::new(DIR), OPTIONS, &mut first));
}

/// S1 and S2: one batch at a time, each synced once, by whoever comes first.
#[test]
fn a_written_batch_is_synced_once_and_taken_back() {
    let fs = MemFs::new();
    let mut wal = log(&fs);
    let n_syncs = fs.count(Op::Sync);
    assert!(wal.write(&mut Batch::new()).unwrap().is_none());
    let written = wal.write(&mut batch(None, &[(9, 4)], None)).unwrap().unwrap();
    assert_eq!((fs.count(Op::Sync), wal.last_index(), written.has_ended()), (n_syncs, 9, false));
    let lost = fs.crash(Loss::Everything);
    assert_eq!(reopen(&lost).unwrap().last_index(), 8, "it was synced already");

    let elsewhere = written.clone();
    std::thread::spawn(move || elsewhere.sync()).join().unwrap();
    assert!(written.has_ended());
    written.sync();
    wal.synced(written.clone()).unwrap();
    written.sync();
    assert_eq!(fs.count(Op::Sync), n_syncs + 1);
    assert_eq!(reopen(&fs.crash(Loss::Everything)).unwrap().last_index(), 9);

    let next = wal.write(&mut batch(None, &[(10, 4)], None)).unwrap().unwrap();
    let panics = |run: &mut dyn FnMut() -> Result<(), Error>| {
        let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it does it");
        let message = panic.downcast_ref::<&str>().copied().unwrap();
        assert!(message.starts_with("S2"), "{message}");
    };
    panics(&mut || wal.save(&mut batch(None, &[(11, 4)], None)));
    panics(&mut || wal.synced(written.clone()));
    drop(next);
}

/// S1: a sync that has failed, or panicked, is not tried again, and the log is latched by it.
#[test]
fn a_sync_that_failed_elsewhere_latches() {
    let fs = MemFs::new();
    let mut wal = log(&fs);
    let written = wal.write(&mut batch(None, &[(9, 4)], None)).unwrap().unwrap();
    fs.inject(Op::Sync, 0, Fault::Reverted(5));
    written.sync();
    let n_syncs = fs.count(Op::Sync);
    let error = wal.synced(written).unwrap_err();
    assert!(matches!(error, Error::Io { op: "sync", .. }), "{error}");
    let error = wal.save(&mut batch(None, &[(10, 4)], None)).unwrap_err();
    assert!(matches!(error, Error::Latched(_)), "{error}");
    assert_eq!(fs.count(Op::Sync), n_syncs);

    let mut wal = log(&MemFs::new());
    let written = wal.write(&mut batch(None, &[(9, 4)], None)).unwrap().unwrap();
    written.break_lock();
    assert!(written.has_ended());
    let error = wal.synced(written).unwrap_err();
    assert!(error.to_string().contains("it panicked"), "{error}");
}
