//! Looking says what opening does, of every log that can be thought of, and changes nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics and reports")]

mod common;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use common::{DIR, Model, Step, create, deferred, entry, installed, open, save, script, take};
use wal::{
    Entry, Error, HardState, Marker, Torn,
    fs::{Access, DiskFs, Fs, LockError, Loss, MemFs, Op, read_file},
    inspect::{self, Event, FrameKind, Report},
};

/// What a reader makes of the events: the records of every batch applied in order, by the test's
/// own understanding of them.
#[derive(Debug, Default)]
struct Read {
    model: Option<Model>,
    n_batches: usize,
    n_seals: usize,
    segments: Vec<(PathBuf, u64)>,
}

impl Read {
    fn see(&mut self, event: Event<'_>) {
        match event {
            Event::Segment(segment) => {
                assert_eq!((segment.cluster, segment.node), (0xc1, 3));
                self.segments.push((segment.path.to_owned(), segment.bytes));
                self.model.get_or_insert_with(|| Model {
                    base: (segment.base_index, segment.base_term),
                    ..Model::default()
                });
            }
            Event::Frame(frame) => {
                let model = self.model.as_mut().unwrap();
                let entries: Vec<_> = frame
                    .entries()
                    .map(|record| Entry {
                        index: record.index,
                        term: record.term,
                        is_conf_change: record.is_conf_change,
                        payload: record.payload.to_vec().into(),
                    })
                    .collect();
                let (marker, hard_state) = (frame.marker, frame.hard_state);
                match frame.kind {
                    FrameKind::Batch => {
                        model.apply(&Step::Save { marker, entries, hard_state });
                        self.n_batches += 1;
                    }
                    FrameKind::Head => {
                        assert!(entries.is_empty());
                        model.marker = marker;
                        model.hard_state = hard_state.unwrap();
                    }
                    FrameKind::Seal => self.n_seals += 1,
                }
            }
            other => panic!("{other:?}"),
        }
    }

    /// Whether what was read is this, but for what was released.
    fn is(&self, expected: &Model) -> bool {
        let Some(read) = &self.model else { return false };
        let first = read.base.0 + 1;
        let kept = expected.entries.iter().filter(|entry| entry.index >= first);
        kept.eq(read.entries.iter())
            && (read.hard_state, read.marker) == (expected.hard_state, expected.marker)
            && read.last_index() == expected.last_index()
    }
}

fn look(fs: &MemFs) -> (Report, Read) {
    let mut read = Read::default();
    let before = fs.count(Op::Any);
    let report = inspect::log(fs, Path::new(DIR), &mut |event| {
        read.see(event);
        ControlFlow::Continue(())
    });
    assert_eq!(fs.count(Op::Any), before, "looking changed something");
    (report.unwrap(), read)
}

fn look_alone(fs: &MemFs, path: &Path) -> Report {
    inspect::segment(fs, path, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn segments(fs: &MemFs) -> Vec<PathBuf> {
    let names = fs.list(Path::new(DIR)).unwrap();
    let mut paths: Vec<_> = names.iter().map(|name| Path::new(DIR).join(name)).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    paths.sort();
    paths
}

/// Where the log ends: its newest segment, and the sector behind the last that is not zeros.
fn end(fs: &MemFs) -> (PathBuf, u64) {
    let path = segments(fs).pop().unwrap();
    let bytes = read_file(fs, &path, 1 << 20).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    (path, end.next_multiple_of(512) as u64)
}

/// A log, what it held after each step, and where it ended then.
struct Log {
    fs: MemFs,
    models: Vec<Model>,
    ends: Vec<(PathBuf, u64)>,
}

impl Log {
    fn of(steps: &[Step]) -> Log {
        let fs = MemFs::new();
        let mut wal = create(&fs).unwrap();
        let mut ends = vec![end(&fs)];
        for step in steps {
            take(&mut wal, step).unwrap();
            ends.push(end(&fs));
        }
        Log { fs, models: Model::through(steps), ends }
    }

    fn copy(&self) -> MemFs {
        self.fs.crash(Loss::Everything)
    }

    /// What the log held when it ended at or before this place.
    fn before(&self, path: &Path, offset: u64) -> Option<&Model> {
        let at = self.ends.iter().rposition(|(segment, end)| {
            segment.as_path() < path || (segment == path && *end <= offset)
        });
        at.map(|at| &self.models[at])
    }
}

/// Both say the same of a log, and what looking calls whole is what opening keeps, or what was
/// there before the damage.
fn same_verdict(log: &Log, fs: &MemFs, damage: Option<(&Path, u64)>) -> &'static str {
    let (report, read) = look(fs);
    let opened = open(&fs.crash(Loss::Nothing));
    match (&report.verdict, &opened) {
        (Ok(sound), Ok((wal, opened))) => {
            assert_eq!((&sound.torn, &sound.unsealed), (&opened.torn, &opened.sealed));
            assert_eq!(report.leftovers, opened.leftovers);
            assert_eq!(sound.markers(), wal.markers());
            assert_eq!(sound.term(wal.last_index()), wal.term(wal.last_index()));
            let kept = report.kept.as_ref().unwrap();
            assert_eq!(kept.hard_state, wal.hard_state());
            assert_eq!((kept.first_index, kept.last_index), (wal.first_index(), wal.last_index()));
            assert!(log.models.iter().any(|model| model.is(wal) && read.is(model)));
            if let Some(Torn { path, offset, .. }) = &opened.torn {
                assert_eq!((&kept.path, kept.offset), (path, *offset));
                return "torn";
            }
            "sound"
        }
        (Err(looked), Err(opened)) => {
            assert_eq!(format!("{looked:?}"), format!("{opened:?}"));
            if let (Error::Corrupt { .. }, Some((path, offset))) = (looked, damage) {
                let expected = log.before(path, offset);
                let kept = report.kept.as_ref();
                let state = |model: &Model| (model.last_index(), model.hard_state);
                assert_eq!(
                    kept.map(|kept| (kept.last_index, kept.hard_state)),
                    expected.map(state),
                    "{looked}"
                );
                // Only a seal is missed when more has been shown already.
                let is_seal = looked.to_string().contains("the seal is missing although");
                assert!(is_seal || expected.is_none_or(|model| read.is(model)), "{looked}");
            }
            "refused"
        }
        (looked, opened) => panic!("looking says {looked:?}, opening {opened:?}"),
    }
}

/// The same steps as the tests of damage, so that the two enumerate the same logs.
#[test]
fn every_flipped_byte_is_judged_as_by_opening() {
    let log = Log::of(&script()[..5]);
    let paths = segments(&log.fs);
    assert!(paths.len() > 1);
    let mut counts = std::collections::BTreeMap::new();
    for path in &paths {
        for (at, byte) in read_file(&log.fs, path, 1 << 20).unwrap().into_iter().enumerate() {
            for mask in [0x01, 0x80, 0xff, byte.max(1)] {
                let (fs, at) = (log.copy(), at as u64);
                let file = fs.open(path, Access::ReadWrite).unwrap();
                file.write_all_at(at, &[byte ^ mask]).unwrap();
                *counts.entry(same_verdict(&log, &fs, Some((path, at)))).or_insert(0) += 1;
            }
        }
    }
    println!("{counts:?}");
    assert!(counts["refused"] > 1000 && counts["torn"] > 0);
}

#[test]
fn every_truncation_and_zeroed_sector_is_judged_as_by_opening() {
    let steps = [&script()[..5], &[save(None, [entry(8, 3, 600)], None)]].concat();
    let log = Log::of(&steps);
    let mut counts = std::collections::BTreeMap::new();
    for path in segments(&log.fs) {
        let length = read_file(&log.fs, &path, 1 << 20).unwrap().len() as u64;
        for at in 0..length {
            let fs = log.copy();
            fs.open(&path, Access::ReadWrite).unwrap().set_size(at).unwrap();
            *counts.entry(same_verdict(&log, &fs, Some((&path, at)))).or_insert(0) += 1;
        }
        for at in (0..length).step_by(512) {
            let fs = log.copy();
            let file = fs.open(&path, Access::ReadWrite).unwrap();
            file.write_all_at(at, &[0; 512]).unwrap();
            *counts.entry(same_verdict(&log, &fs, Some((&path, at)))).or_insert(0) += 1;
        }
    }
    println!("{counts:?}");
    assert_eq!(counts.len(), 3);
}

/// Files that went, and names that are not a log's. A gap leaves what is before it.
#[test]
fn vanished_and_strange_files_are_judged_as_by_opening() {
    let log = Log::of(&script()[..9]);
    let paths = segments(&log.fs);
    assert!(paths.len() > 3);
    for (nth, path) in paths.iter().enumerate() {
        let fs = log.copy();
        fs.remove_file(path).unwrap();
        assert_eq!(same_verdict(&log, &fs, None), "refused");
        if nth > 0 {
            assert_eq!(look(&fs).0.kept.unwrap().path, paths[nth - 1]);
        }
    }
    for strange in ["x.wal", "0000000000000009-0000000000000001.wal"] {
        let fs = log.copy();
        fs.create_new(&Path::new(DIR).join(strange)).unwrap();
        assert_eq!(same_verdict(&log, &fs, None), "refused");
    }
    let fs = log.copy();
    fs.create_new(&Path::new(DIR).join("0000000000000099-0000000000000000.wal.tmp")).unwrap();
    assert_eq!(same_verdict(&log, &fs, None), "sound");
}

/// Every state that a crash leaves, every log that the scripts pass through.
#[test]
fn what_a_crash_leaves_is_judged_as_by_opening() {
    for steps in [script(), deferred(), installed()] {
        let models = Model::through(&steps);
        let mut counts = std::collections::BTreeMap::new();
        for at in 0.. {
            let fs = MemFs::new();
            let mut wal = create(&fs).unwrap();
            let log = Log { fs: fs.clone(), models: models.clone(), ends: Vec::new() };
            fs.inject(Op::Any, fs.count(Op::Any) + at, wal::fs::Fault::Stop);
            let mut hands = common::Hands::default();
            let ended = steps.iter().try_for_each(|step| hands.take(&mut wal, step));
            for loss in [Loss::Everything, Loss::Nothing, Loss::Some(at)] {
                *counts.entry(same_verdict(&log, &fs.crash(loss), None)).or_insert(0) += 1;
            }
            if ended.is_ok() {
                break;
            }
        }
        println!("{counts:?}");
        assert!(counts["sound"] > 10 && counts["torn"] > 0 && !counts.contains_key("refused"));
    }
}

/// A segment alone is judged by what is in it: whole ones are sound although nothing of what came
/// before them is at hand, and a flip in any of their batches is found where it is.
#[test]
fn a_segment_alone_is_judged_by_itself() {
    for steps in [script(), deferred(), installed()] {
        let log = Log::of(&steps);
        let (_, read) = look(&log.fs);
        let mut n_alone = 0;
        for (path, _) in &read.segments {
            let report = look_alone(&log.fs, path);
            let sound = report.verdict.unwrap();
            assert_eq!(sound.unsealed.as_deref(), (*path == end(&log.fs).0).then_some(&**path));
            let elsewhere = Path::new("/copy");
            let bytes = read_file(&log.fs, path, 1 << 20).unwrap();
            let fs = log.copy();
            fs.create_new(elsewhere).unwrap().write_all_at(0, &bytes).unwrap();
            assert!(look_alone(&fs, elsewhere).verdict.is_ok(), "under any name");
            n_alone += 1;
            let file = fs.open(path, Access::ReadWrite).unwrap();
            file.write_all_at(1024 + 60, &[bytes[1024 + 60] ^ 1]).unwrap();
            match look_alone(&fs, path).verdict {
                Err(Error::Corrupt { path: damaged, offset: 1024, .. }) => {
                    assert_eq!(damaged, *path);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(n_alone > 1);
    }
}

/// Found by thought: a segment that overwrites what stands in the one before it holds, alone,
/// entries from below its own beginning, and later a marker for the entry before those.
#[test]
fn a_segment_alone_may_reach_back_behind_its_beginning() {
    let steps = [
        save(None, [entry(2, 1, 100), entry(3, 1, 1500)], Some((1, 2, 2))),
        save(None, [entry(4, 1, 1000)], None),
        save(None, [entry(5, 1, 1000)], None),
        save(None, [entry(3, 2, 100)], Some((2, 2, 2))),
        save(Some((2, 1)), [entry(4, 2, 100)], Some((2, 2, 4))),
    ];
    let log = Log::of(&steps);
    assert_eq!(same_verdict(&log, &log.fs, None), "sound");
    let newest = end(&log.fs).0;
    let report = look_alone(&log.fs, &newest);
    let sound = report.verdict.unwrap();
    assert_eq!((sound.term(3), sound.term(4), sound.term(5)), (Some(2), Some(2), None));
    let kept = report.kept.unwrap();
    assert_eq!((kept.first_index, kept.last_index), (3, 4));
    assert_eq!(kept.hard_state, HardState { term: 2, vote: 2, commit: 4 });
    assert_eq!(sound.markers().last(), Some(&Marker { index: 2, term: 1, checksum: 2 ^ 1 }));
}

/// Whoever has seen enough says so.
#[test]
fn looking_can_be_broken_off() {
    let log = Log::of(&script()[..5]);
    let mut n_seen = 0;
    let report = inspect::log(&log.fs, Path::new(DIR), &mut |_| {
        n_seen += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(report, Err(Error::Interrupted)));
    assert_eq!(n_seen, 1);
}

/// A lock that is held is told with its holder, one that is not keeps others out meanwhile, and
/// none is made.
#[test]
fn a_lock_is_respected_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("LOCK");
    assert!(DiskFs.lock_out(&path).unwrap().is_none());
    assert!(!path.exists());
    let lock = DiskFs.lock(&path).unwrap();
    let refused = DiskFs.lock_out(&path);
    assert!(
        matches!(refused, Err(LockError::Held { pid: Some(pid) }) if pid == std::process::id())
    );
    drop(lock);
    std::fs::write(&path, "old\n").unwrap();
    let looking = (DiskFs.lock_out(&path).unwrap(), DiskFs.lock_out(&path).unwrap());
    assert!(matches!(looking, (Some(_), Some(_))), "any number may look");
    assert!(matches!(DiskFs.lock(&path), Err(LockError::Held { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"old\n");
    drop(looking);
    DiskFs.lock(&path).unwrap();
}
