//! Long random lives of a log beside a model of it, and the ways in which a disk can say no.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics and reports")]

mod common;

use std::path::Path;

use common::{DIR, Hands, Model, Random, all, create, open, script, step, take};
use wal::{
    Error,
    fs::{Access, Fault, Fs, Loss, MemFs, Op},
};

/// The size of the newest segments' files; older ones may wait to be deleted.
fn size_on_disk(fs: &MemFs, n_segments: usize) -> u64 {
    let mut names = fs.list(Path::new(DIR)).unwrap();
    names.retain(|name| name.to_str().unwrap().ends_with(".wal"));
    names.sort();
    let newest = &names[names.len() - n_segments..];
    let open = |name| fs.open(&Path::new(DIR).join(name), Access::Read).unwrap();
    newest.iter().map(|name| open(name).size().unwrap()).sum()
}

/// Whatever a node does and whenever it stops, the log is what the model says.
#[test]
fn random_lives_match_the_model() {
    let mut random = Random::from_env();
    let (mut n_steps, mut n_crashes, mut n_segments) = (0, 0, 0);
    for _ in 0..120 {
        let mut fs = MemFs::new();
        let mut wal = create(&fs).unwrap();
        let mut model = Model::genesis();
        let mut hands = Hands::default();
        for _ in 0..200 {
            let step = step(&mut random, &model);
            let mut next = model.clone();
            next.apply(&step);
            if random.below(15) == 0 {
                fs.inject(Op::Any, random.below(6), Fault::Stop);
            }
            let is_done = hands.take(&mut wal, &step).is_ok();
            if is_done {
                model = next.clone();
                assert!(model.is(&wal), "{wal:?} is not {model:#?}");
                assert_eq!(wal.bytes(), size_on_disk(&fs, wal.n_segments()));
            }
            n_steps += 1;
            if !is_done || random.below(20) == 0 {
                let seed = random.next();
                fs = fs
                    .crash([Loss::Everything, Loss::Nothing, Loss::Some(seed)][seed as usize % 3]);
                hands = Hands::default();
                wal = open(&fs).unwrap().0;
                assert_eq!(wal.bytes(), size_on_disk(&fs, wal.n_segments()));
                if !model.is(&wal) {
                    assert!(next.is(&wal), "{wal:?} is neither {model:#?} nor {next:#?}");
                    model = next;
                }
                n_crashes += 1;
            }
            n_segments = n_segments.max(wal.n_segments());
        }
    }
    println!("{n_steps} steps, {n_crashes} crashes, at most {n_segments} segments");
    assert!(n_segments > 3);
}

/// Any part of the log can be read, under any bound.
#[test]
fn every_range_and_bound_reads_the_same_entries() {
    let fs = MemFs::new();
    let mut wal = create(&fs).unwrap();
    script()[..5].iter().for_each(|step| take(&mut wal, step).unwrap());
    let all = all(&wal);
    let (first, last) = (wal.first_index(), wal.last_index());
    for low in first..=last {
        for high in low + 1..=last + 1 {
            for bound in (0..2000).step_by(8) {
                let found = wal.entries(low, high, bound).unwrap();
                let expected = &all[(low - first) as usize..][..found.len()];
                assert_eq!(found, expected);
                let size = |n: usize| -> u64 {
                    let expected = &all[(low - first) as usize..][..n];
                    expected.iter().map(|entry| entry.payload.len() as u64 + 24).sum()
                };
                assert!(found.len() == 1 || size(found.len()) <= bound);
                let is_all = low + found.len() as u64 == high;
                assert!(is_all || size(found.len() + 1) > bound);
            }
        }
    }
}

/// A read is verified each time: what changed since the opening is not handed out.
#[test]
fn an_entry_that_changed_on_disk_is_not_returned() {
    let fs = MemFs::new();
    let mut wal = create(&fs).unwrap();
    take(&mut wal, &script()[0]).unwrap();
    let name = fs.list(Path::new(DIR)).unwrap().remove(0);
    let file = fs.open(&Path::new(DIR).join(name), wal::fs::Access::ReadWrite).unwrap();
    let expected = wal.entries(2, 4, u64::MAX).unwrap();
    let mut n_refused = 0;
    for at in 1024..2048 {
        let mut byte = [0];
        file.read_full_at(at, &mut byte).unwrap();
        file.write_all_at(at, &[byte[0] ^ 1]).unwrap();
        match wal.entries(2, 4, u64::MAX) {
            Err(Error::Corrupt { .. }) => n_refused += 1,
            // No frame covers that byte.
            Ok(entries) => assert_eq!(entries, expected, "byte {at}"),
            Err(error) => panic!("byte {at}: {error}"),
        }
        file.write_all_at(at, &byte).unwrap();
    }
    assert!(n_refused > 200, "only {n_refused} bytes are covered");
}

/// After any failed operation nothing is written any more, and a restart finds all that was saved.
#[test]
fn every_failed_operation_latches() {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    let steps = script();
    let models = Model::through(&steps);
    let mut n_latched = 0;
    for (op, code) in [
        (Op::Write, EIO),
        (Op::Write, ENOSPC),
        (Op::Sync, EIO),
        (Op::Allocate, ENOSPC),
        (Op::Any, EIO),
    ] {
        for nth in 0.. {
            let fs = MemFs::new();
            let mut wal = create(&fs).unwrap();
            fs.inject(op, nth, Fault::Error(code));
            let Some(failed) = steps.iter().position(|step| take(&mut wal, step).is_err()) else {
                break;
            };
            let before = fs.count(Op::Any);
            assert!(matches!(take(&mut wal, &steps[failed]), Err(Error::Latched(_))));
            assert!(matches!(wal.release(0), Err(Error::Latched(_))));
            assert!(matches!(wal.entries(2, 3, 0), Err(Error::Latched(_))));
            assert_eq!(fs.count(Op::Any), before, "something was tried again");
            drop(wal);
            let (wal, _) = open(&fs.crash(Loss::Everything)).unwrap();
            assert!(models[failed..=failed + 1].iter().any(|model| model.is(&wal)), "{wal:?}");
            n_latched += 1;
        }
    }
    println!("{n_latched} failed operations");
    assert!(n_latched > 50);
}

/// Short writes are completed.
#[test]
fn a_short_write_is_completed() {
    let steps = script();
    let models = Model::through(&steps);
    for nth in 0.. {
        let fs = MemFs::new();
        let mut wal = create(&fs).unwrap();
        let before = fs.count(Op::Write);
        fs.inject(Op::Write, nth, Fault::Short);
        steps.iter().for_each(|step| take(&mut wal, step).unwrap());
        let (wal, _) = open(&fs.crash(Loss::Everything)).unwrap();
        assert!(models[steps.len()].is(&wal));
        if before + nth >= fs.count(Op::Write) {
            break;
        }
    }
}
