//! What the log hands out: prepared files and deletions, run in time, late, at once, or never.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics and reports")]

mod common;

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread::{self, ScopedJoinHandle},
};

use common::{DIR, Hands, Model, OPTIONS, Random, Step, create, entry, open, save, take};
use wal::{
    Doomed, Error, Preparation, Prepared, Wal,
    fs::{DiskFs, Fault, Fs, Loss, MemFs, Op},
};

fn names(fs: &dyn Fs, dir: &Path) -> Vec<String> {
    let names = fs.list(dir).unwrap();
    let mut names: Vec<_> = names.into_iter().map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Entries `first..=last` of one segment each, and a marker for the last of them.
fn segments(wal: &mut Wal, first: u64, last: u64) {
    for index in first..=last {
        take(wal, &save(None, [entry(index, 1, 1500)], Some((1, 0, index)))).unwrap();
    }
    take(wal, &save(Some((last, 1)), [], None)).unwrap();
}

/// The loop hands these to other threads.
#[test]
fn what_is_handed_out_can_be_sent() {
    fn is_send<T: Send + 'static>() {}
    is_send::<Doomed>();
    is_send::<Preparation>();
    is_send::<Prepared>();
}

/// The scripts of the crash tests reach what they are there for.
#[test]
fn the_scripts_rotate_into_prepared_files_and_delete_late() {
    for (steps, n_prepared, n_late) in [(common::deferred(), 3, 4), (common::installed(), 1, 1)] {
        let fs = MemFs::new();
        let mut wal = create(&fs).unwrap();
        let mut hands = Hands::default();
        let (mut prepared, mut late, mut forgotten) = (0, 0, None);
        for step in &steps {
            let allocations = fs.count(Op::Allocate);
            let before = wal.n_segments();
            hands.take(&mut wal, step).unwrap();
            if matches!(step, Step::Save { .. }) && wal.n_segments() > before {
                prepared += u64::from(fs.count(Op::Allocate) == allocations);
                late += u64::from(forgotten.is_some());
            }
            forgotten = hands.doomed.as_ref().map(Doomed::n_segments);
        }
        assert_eq!((prepared, late), (n_prepared, n_late), "{steps:#?}");
    }
}

/// Until a deletion runs the disk holds the longer log; the next one then includes what an
/// earlier one, which never ran, had left.
#[test]
fn a_deletion_that_never_ran_is_found_again_or_included_in_the_next() {
    let fs = MemFs::new();
    let mut wal = create(&fs).unwrap();
    segments(&mut wal, 2, 6);
    let before = names(&fs, Path::new(DIR));
    let n_operations = fs.count(Op::Any);

    let dropped = wal.release(3).unwrap().unwrap();
    assert_eq!((dropped.n_segments(), wal.first_index()), (2, 4));
    drop(dropped);
    assert!(wal.release(3).unwrap().is_none());
    assert_eq!(fs.count(Op::Any), n_operations, "a release does nothing on disk");
    let (again, opened) = open(&fs.crash(Loss::Everything)).unwrap();
    assert_eq!((again.first_index(), again.last_index()), (2, 6));
    assert!(opened.leftovers.is_empty());

    let doomed = wal.release(5).unwrap().unwrap();
    assert_eq!(doomed.n_segments(), 2);
    segments(&mut wal, 7, 8);
    let released = doomed.delete().unwrap();
    assert_eq!((released.n_segments, released.bytes), (4, 4 * OPTIONS.segment_bytes));
    assert!(names(&fs, Path::new(DIR)).iter().all(|name| !before[..4].contains(name)));
    let (again, _) = open(&fs.crash(Loss::Everything)).unwrap();
    assert_eq!((again.first_index(), again.last_index()), (6, 8));
}

/// A log opened anew survives the deletion that its predecessor had handed out.
#[test]
fn a_deletion_may_outlive_its_log() {
    let fs = MemFs::new();
    let mut wal = create(&fs).unwrap();
    segments(&mut wal, 2, 6);
    let doomed = wal.release(4).unwrap().unwrap();
    drop(wal);
    let (mut wal, _) = open(&fs).unwrap();
    assert_eq!(doomed.delete().unwrap().n_segments, 3);
    assert_eq!(wal.release(4).unwrap().unwrap().delete().unwrap().n_segments, 0);
    segments(&mut wal, 7, 7);
    let (wal, _) = open(&fs.crash(Loss::Everything)).unwrap();
    assert_eq!((wal.first_index(), wal.last_index()), (5, 7));
}

/// D2: nothing is written behind a deletion that failed, nor is it tried again.
#[test]
fn a_failed_deletion_latches() {
    for nth in 0.. {
        let fs = MemFs::new();
        let mut wal = create(&fs).unwrap();
        segments(&mut wal, 2, 6);
        let (first, second) = (wal.release(3).unwrap().unwrap(), wal.release(4).unwrap().unwrap());
        fs.inject(Op::Any, nth, Fault::Error(5));
        if first.delete().is_ok() {
            assert!(nth > 4);
            break;
        }
        assert!(matches!(second.delete(), Err(Error::Latched(why)) if why.contains("os error 5")));
        assert!(matches!(
            take(&mut wal, &save(None, [entry(7, 1, 1)], None)),
            Err(Error::Latched(_))
        ));
        assert!(wal.wants_segment().is_none());
        drop(wal);
        let (wal, _) = open(&fs.crash(Loss::Everything)).unwrap();
        assert!([2, 4].contains(&wal.first_index()), "{wal:?}");
    }
}

/// One file at a time and one order for each segment, however the earlier one ended.
#[test]
fn a_segment_is_asked_for_once() {
    let fs = MemFs::new();
    let mut wal = create(&fs).unwrap();
    let next = |wal: &mut Wal| {
        let index = wal.last_index() + 1;
        segments(wal, index, index);
    };
    next(&mut wal);
    // Dropped: the segment is created without it, and the next one asked for.
    drop(wal.wants_segment().unwrap());
    assert!(wal.wants_segment().is_none());
    next(&mut wal);
    // Late: it serves the segment after, and none is asked for meanwhile.
    let late = wal.wants_segment().unwrap();
    next(&mut wal);
    assert!(wal.wants_segment().is_none());
    let late = late.run().unwrap();
    assert!(wal.wants_segment().is_none());
    wal.supply(late);
    assert!(wal.wants_segment().is_none());
    let allocations = fs.count(Op::Allocate);
    next(&mut wal);
    assert_eq!(fs.count(Op::Allocate), allocations);
    assert!(names(&fs, Path::new(DIR)).iter().all(|name| name.ends_with(".wal")));
    // Not supplied: left until the log is opened.
    drop(wal.wants_segment().unwrap().run().unwrap());
    assert_eq!(
        names(&fs, Path::new(DIR)).last().unwrap(),
        "0000000000000005-0000000000000000.wal.tmp"
    );
    drop(wal);
    let (mut wal, opened) = open(&fs).unwrap();
    assert_eq!(opened.leftovers.len(), 1);
    assert!(names(&fs, Path::new(DIR)).iter().all(|name| name.ends_with(".wal")));
    assert!(wal.wants_segment().is_some());
}

/// D3: a full disk is the log's business only when it rotates.
#[test]
fn a_failed_preparation_changes_nothing() {
    for (op, code) in [(Op::Any, 28), (Op::Write, 28), (Op::Allocate, 28), (Op::Sync, 5)] {
        for nth in 0.. {
            let fs = MemFs::new();
            let mut wal = create(&fs).unwrap();
            segments(&mut wal, 2, 2);
            let before = names(&fs, Path::new(DIR));
            fs.inject(op, nth, Fault::Error(code));
            match wal.wants_segment().unwrap().run() {
                Ok(_) => break,
                Err(error) => assert!(matches!(error, Error::Io { .. })),
            }
            assert_eq!(names(&fs, Path::new(DIR)), before, "what failed is removed");
            segments(&mut wal, 3, 3);
            let prepared = wal.wants_segment().unwrap().run().unwrap();
            wal.supply(prepared);
            segments(&mut wal, 4, 4);
            let (wal, _) = open(&fs.crash(Loss::Everything)).unwrap();
            assert_eq!((wal.n_segments(), wal.last_index()), (3, 4));
        }
    }
}

/// A file of one log is no file of another.
#[test]
#[should_panic(expected = "another log")]
fn a_file_prepared_for_another_log_is_refused() {
    let mut other = create(&MemFs::new()).unwrap();
    let mut wal = create(&MemFs::new()).unwrap();
    wal.supply(other.wants_segment().unwrap().run().unwrap());
}

/// The retention by bytes: what is asked for is just enough, and what must stay is not asked for.
#[test]
fn the_release_point_leaves_no_more_than_asked_for() {
    let fs = MemFs::new();
    let mut wal = create(&fs).unwrap();
    segments(&mut wal, 2, 6);
    take(&mut wal, &save(None, [entry(7, 1, 9000)], Some((1, 0, 7)))).unwrap();
    let size = OPTIONS.segment_bytes;
    let large = 512 + 512 + (9000 + 24 + 56 + 32_u64).next_multiple_of(512);
    assert_eq!(wal.bytes(), 5 * size + large);
    let cases = [
        (u64::MAX, 0),
        (wal.bytes(), 0),
        (wal.bytes() - 1, 2),
        (large + 4 * size - 1, 3),
        (large + size, 5),
        (large, 6),
        (0, 6),
    ];
    for (max_bytes, point) in cases {
        assert_eq!(wal.release_point(max_bytes), point, "{max_bytes}");
    }
    assert_eq!(wal.release(5).unwrap().unwrap().n_segments(), 4);
    assert_eq!(wal.bytes(), size + large);

    // The newest overwrites back to 8: none of those begun behind it can be the oldest.
    take(&mut wal, &save(None, [entry(8, 1, 10)], None)).unwrap();
    take(&mut wal, &save(None, [entry(9, 1, 3500)], None)).unwrap();
    take(&mut wal, &save(None, [entry(8, 2, 10)], Some((2, 0, 7)))).unwrap();
    assert_eq!((wal.n_segments(), wal.release_point(0)), (5, 7));
}

/// Saving goes on while files are prepared and segments deleted, and power fails in the middle.
#[test]
fn threads_that_prepare_and_delete_do_not_disturb_the_log() {
    let steps: Vec<_> = (2..40)
        .map(|index| {
            let marker = (index > 2).then_some((index - 1, 1));
            save(marker, [entry(index, 1, 1000)], Some((1, 0, index)))
        })
        .collect();
    let models = Model::through(&steps);
    let mut random = Random::from_env();
    for stop in (0..).step_by(3) {
        let fs = MemFs::new();
        let mut wal = create(&fs).unwrap();
        fs.inject(Op::Any, stop, Fault::Stop);
        let done = live(&mut wal, &steps);
        for loss in [Loss::Everything, Loss::Nothing, Loss::Some(random.next())] {
            let (mut wal, _) = open(&fs.crash(loss)).unwrap();
            let is = |model: &Model| {
                Model { released: model.hard_state.commit, ..model.clone() }.is(&wal)
            };
            assert!(models[done..].iter().take(2).any(is), "{wal:?} after {done} steps");
            let last = wal.last_index();
            segments(&mut wal, last + 1, last + 3);
        }
        if done == steps.len() {
            break;
        }
    }

    let dir = tempfile::tempdir().unwrap();
    let (dir, fs) = (dir.path().join("wal"), Arc::new(DiskFs));
    let mut first = wal::Batch::new();
    first.set_marker(models[0].marker.unwrap());
    first.set_hard_state(models[0].hard_state);
    let mut wal = Wal::create(fs.clone(), &dir, OPTIONS, &mut first).unwrap();
    assert_eq!(live(&mut wal, &steps), steps.len());
    drop(wal);
    let (wal, _) = Wal::open(fs, &dir, OPTIONS, &|| false).unwrap();
    assert_eq!(wal.last_index(), 39);
}

/// Saves as far as it gets, as a node does, while other threads do what is handed out.
fn live(wal: &mut Wal, steps: &[Step]) -> usize {
    let (files, prepared) = mpsc::channel();
    thread::scope(|scope| {
        let mut deleting: Option<ScopedJoinHandle<'_, _>> = None;
        for (done, step) in steps.iter().enumerate() {
            if let Some(preparation) = wal.wants_segment() {
                let files = files.clone();
                scope.spawn(move || preparation.run().map(|file| files.send(file).unwrap()));
            }
            prepared.try_iter().for_each(|file| wal.supply(file));
            let covered = wal.marker().map_or(0, |marker| marker.index);
            let through = wal.release_point(3 * OPTIONS.segment_bytes).min(covered);
            if deleting.as_ref().is_none_or(ScopedJoinHandle::is_finished)
                && let Ok(Some(doomed)) = wal.release(through)
            {
                deleting = Some(scope.spawn(|| doomed.delete()));
            }
            if take(wal, step).is_err() {
                return done;
            }
        }
        steps.len()
    })
}
