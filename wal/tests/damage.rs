//! Files that someone else changed: every truncation, every flipped byte, every vanished file.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics and reports")]

mod common;

use std::path::{Path, PathBuf};

use common::{DIR, Model, Step, create, entry, open, save, script, take};
use wal::{
    Error,
    fs::{Access, Fs, Loss, MemFs, read_file},
};

struct Log {
    fs: MemFs,
    models: Vec<Model>,
    /// Oldest first.
    segments: Vec<PathBuf>,
}

impl Log {
    fn of(steps: &[Step]) -> Log {
        let fs = MemFs::new();
        let mut wal = create(&fs).unwrap();
        steps.iter().for_each(|step| take(&mut wal, step).unwrap());
        let mut segments: Vec<_> =
            fs.list(Path::new(DIR)).unwrap().iter().map(|name| Path::new(DIR).join(name)).collect();
        segments.sort();
        Log { fs, models: Model::through(steps), segments }
    }

    fn last(&self) -> &Path {
        self.segments.last().unwrap()
    }

    fn copy(&self) -> MemFs {
        self.fs.crash(Loss::Everything)
    }

    fn bytes(&self, path: &Path) -> Vec<u8> {
        read_file(&self.fs, path, 1 << 20).unwrap()
    }

    /// How many of the steps a log holds that opens at all; a cut log is written to, to see that
    /// its end is clean.
    fn held(&self, fs: &MemFs) -> Result<usize, Error> {
        let (mut wal, _) = open(fs)?;
        let at = self.models.iter().rposition(|model| model.is(&wal));
        let at = at.unwrap_or_else(|| panic!("{wal:?} was never saved"));
        let mut next = self.models[at].clone();
        let term = next.hard_state.term;
        let step = save(None, [entry(next.last_index() + 1, term, 1)], None);
        next.apply(&step);
        take(&mut wal, &step).unwrap();
        drop(wal);
        let (wal, opened) = open(&fs.crash(Loss::Everything)).unwrap();
        assert!(next.is(&wal) && opened.torn.is_none(), "{wal:?}, {opened:?}");
        Ok(at)
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) {
    match result {
        Err(Error::Corrupt { .. } | Error::Foreign { .. } | Error::Missing { .. }) => {}
        other => panic!("not refused: {other:?}"),
    }
}

/// A newest segment cut anywhere behind its head holds a prefix of whole batches; cut before that,
/// or an older one cut anywhere, the log is refused.
#[test]
fn every_truncation_gives_a_prefix_or_a_refusal() {
    let log = Log::of(&script()[..5]);
    assert_eq!(log.segments.len(), 2);
    for path in &log.segments {
        let bytes = log.bytes(path);
        let mut prefixes = std::collections::BTreeSet::new();
        for length in 0..bytes.len() {
            let fs = log.copy();
            fs.open(path, Access::ReadWrite).unwrap().set_size(length as u64).unwrap();
            let is_head_whole = length >= 1024;
            let is_behind_end = bytes[length..].iter().all(|&byte| byte == 0) && length % 512 == 0;
            if path == log.last() && is_head_whole {
                prefixes.insert(log.held(&fs).unwrap());
            } else if is_behind_end && length >= 1024 {
                // The zeros behind a seal carry nothing.
                assert_eq!(log.held(&fs).unwrap(), 5);
            } else {
                refused(open(&fs));
            }
        }
        if path == log.last() {
            println!("prefixes of {prefixes:?} steps");
            assert!(prefixes.len() > 1 && prefixes.last() == Some(&5));
        }
    }
}

/// A flip anywhere is refused, but in the last batch, which may look torn, and in space that was
/// never written, which may look like a torn batch of which only that sector arrived.
#[test]
fn every_flipped_byte_is_refused_or_costs_the_last_batch_alone() {
    let steps = &script()[..5];
    let log = Log::of(steps);
    for path in &log.segments {
        let bytes = log.bytes(path);
        let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let end = end.next_multiple_of(512);
        let mut n_held = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            for mask in [0x01, 0x80, 0xff, byte.max(1)] {
                let fs = log.copy();
                let file = fs.open(path, Access::ReadWrite).unwrap();
                file.write_all_at(at as u64, &[byte ^ mask]).unwrap();
                match log.held(&fs) {
                    Ok(held) => {
                        // The last batch has one sector, so a flip in it is always seen.
                        let is_unwritten = path == log.last() && at >= end + 512;
                        assert!(is_unwritten, "offset {at} of {path:?} was believed");
                        assert_eq!(held, steps.len());
                        n_held += 1;
                    }
                    error => refused(error),
                }
            }
        }
        println!("{n_held} flips in unwritten space of {path:?}");
    }
}

/// What is lost is named to its last entry, also where only a later commit index tells of that.
#[test]
fn a_later_commit_index_tells_how_far_the_damage_reaches() {
    let steps =
        [save(None, [entry(2, 1, 10), entry(3, 1, 10)], None), save(None, [], Some((1, 2, 3)))];
    let log = Log::of(&steps);
    let fs = log.copy();
    let byte = log.bytes(log.last())[1100];
    let file = fs.open(log.last(), Access::ReadWrite).unwrap();
    file.write_all_at(1100, &[byte ^ 1]).unwrap();
    match open(&fs) {
        Err(Error::Corrupt { offset: 1024, first_index: 2, last_index: Some(3), .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// A whole sector lost from the last batch alone is a torn write; from any other it is damage.
#[test]
fn every_zeroed_sector_is_refused_or_cuts_the_last_batch() {
    let several_segments = [&script()[..5], &[save(None, [entry(8, 3, 600)], None)]].concat();
    let one_segment = [
        save(None, [entry(2, 1, 600)], None),
        save(None, [entry(3, 1, 10)], None),
        save(None, [entry(4, 1, 600)], None),
    ];
    for steps in [&several_segments[..], &one_segment] {
        let log = Log::of(steps);
        assert_eq!(log.segments.len() > 1, steps.len() > 3);
        for path in &log.segments {
            let bytes = log.bytes(path);
            let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
            let last_batch = end.next_multiple_of(512) - 2 * 512;
            for at in (0..end).step_by(512) {
                let fs = log.copy();
                let file = fs.open(path, Access::ReadWrite).unwrap();
                file.write_all_at(at as u64, &[0; 512]).unwrap();
                if path == log.last() && at >= last_batch {
                    assert_eq!(log.held(&fs).unwrap(), steps.len() - 1);
                } else {
                    refused(open(&fs));
                }
            }
        }
    }
}

/// A payload of zeros does not make a whole but damaged batch look torn.
#[test]
fn a_damaged_batch_with_zero_sectors_is_not_torn() {
    let zeros = wal::Entry { payload: vec![0; 3000].into(), ..entry(2, 1, 0) };
    let log = Log::of(&[save(None, [zeros], None)]);
    let fs = log.copy();
    let file = fs.open(log.last(), Access::ReadWrite).unwrap();
    file.write_all_at(1024 + 100, &[1]).unwrap();
    refused(open(&fs));
}

/// No segment can vanish unseen: not the first, not one in the middle, not the newest.
#[test]
fn every_vanished_segment_is_missed() {
    let log = Log::of(&script()[..9]);
    assert!(log.segments.len() > 2);
    for path in &log.segments {
        let fs = log.copy();
        fs.remove_file(path).unwrap();
        let result = open(&fs);
        if path != &log.segments[0] {
            assert!(matches!(result, Err(Error::Missing { .. })), "{path:?}: {result:?}");
        }
        refused(result);
    }
}

/// Segments of another member, cluster or version are told from damage.
#[test]
fn foreign_segments_are_named_as_such() {
    let log = Log::of(&script()[..1]);
    for options in [
        wal::Options { cluster: 9, ..common::OPTIONS },
        wal::Options { node: 9, ..common::OPTIONS },
    ] {
        let fs = std::sync::Arc::new(log.copy());
        let result = wal::Wal::open(fs, Path::new(DIR), options, &|| false);
        assert!(matches!(result, Err(Error::Foreign { .. })));
    }
    let fs = log.copy();
    let file = fs.open(log.last(), Access::ReadWrite).unwrap();
    file.write_all_at(8, &2u32.to_le_bytes()).unwrap();
    let error = open(&fs).unwrap_err().to_string();
    assert!(error.contains("format version 2, this program reads 1"), "{error}");
}

/// A stop flag ends a replay.
#[test]
fn replay_can_be_interrupted() {
    let log = Log::of(&script()[..5]);
    let fs = std::sync::Arc::new(log.copy());
    let result = wal::Wal::open(fs, Path::new(DIR), common::OPTIONS, &|| true);
    assert!(matches!(result, Err(Error::Interrupted)));
}
