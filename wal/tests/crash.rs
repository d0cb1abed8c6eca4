//! A machine that loses power at any point of any operation, twice.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics and reports")]

mod common;

use common::{Hands, Model, Random, Step, create, deferred, installed, open, script, take};
use wal::{
    Error, Wal,
    fs::{Fault, Loss, MemFs, Op},
};

/// Goes from wherever the disk is to the end of the script, or to the first error. Returns how many
/// steps are acknowledged, or nothing if not even the creation is.
///
/// `least` steps were acknowledged before; the disk must hold them, and at most one more.
fn run(fs: &MemFs, steps: &[Step], models: &[Model], least: Option<usize>) -> Option<usize> {
    let is_there = Wal::exists(fs, std::path::Path::new(common::DIR)).unwrap();
    let opened = if is_there { open(fs).map(|(wal, _)| wal) } else { create(fs) };
    assert!(is_there || least.is_none(), "an acknowledged log is gone");
    let mut wal = match opened {
        Ok(wal) => wal,
        Err(Error::Io { .. }) => return least,
        Err(error) => panic!("not an I/O error: {error}"),
    };
    let least = least.unwrap_or(0);
    let mut at = (least..=steps.len().min(least + 1))
        .rev()
        .find(|&at| models[at].is(&wal))
        .unwrap_or_else(|| panic!("{wal:?} is neither {least} nor the next: {:#?}", models[least]));
    let mut hands = Hands::default();
    while at < steps.len() {
        if hands.take(&mut wal, &steps[at]).is_err() {
            let is_latched = matches!(wal.release(0), Err(Error::Latched(_)));
            assert_eq!(is_latched, !matches!(steps[at], Step::Prepare), "{:?}", steps[at]);
            return Some(at);
        }
        at += 1;
        assert!(models[at].is(&wal), "step {at}: {wal:?} is not {:#?}", models[at]);
    }
    Some(at)
}

fn count_operations(fs: &MemFs, steps: &[Step], models: &[Model], least: Option<usize>) -> u64 {
    let before = fs.count(Op::Any);
    assert_eq!(run(fs, steps, models, least), Some(steps.len()));
    fs.count(Op::Any) - before
}

/// Whatever point power fails at, and again while that is repaired, nothing acknowledged is lost.
fn try_every_pair_of_crash_points(steps: &[Step]) {
    let models = Model::through(steps);
    let mut random = Random::from_env();
    let n = count_operations(&MemFs::new(), steps, &models, None);
    let mut n_states = 0;
    for first in 0..n {
        let fs = MemFs::new();
        fs.inject(Op::Any, first, Fault::Stop);
        let acknowledged = run(&fs, steps, &models, None);
        let seeds = [(); 4].map(|()| Loss::Some(random.next()));
        for loss in [Loss::Everything, Loss::Nothing].into_iter().chain(seeds) {
            let n = count_operations(&fs.crash(loss), steps, &models, acknowledged);
            for second in 0..n {
                let again = fs.crash(loss);
                again.inject(Op::Any, second, Fault::Stop);
                let acknowledged = run(&again, steps, &models, acknowledged);
                for loss in [Loss::Everything, Loss::Nothing, Loss::Some(random.next())] {
                    run(&again.crash(loss), steps, &models, acknowledged);
                    n_states += 1;
                }
            }
        }
    }
    println!("{n} crash points, {n_states} states after two crashes");
}

/// Saving, rotating and releasing as one caller does them on one thread.
#[test]
fn every_pair_of_crash_points_keeps_what_was_acknowledged() {
    try_every_pair_of_crash_points(&script());
}

/// Each step of a preparation and of a deletion is a crash point, and so is each one between their
/// beginning and their end.
#[test]
fn every_pair_of_crash_points_keeps_what_was_deferred() {
    try_every_pair_of_crash_points(&deferred());
}

/// A marker and its hard state are there together or not at all, and the log goes on behind it.
#[test]
fn every_pair_of_crash_points_keeps_an_installed_snapshot() {
    try_every_pair_of_crash_points(&installed());
}

/// Found by the simulation: a process died, or its disk failed, while it sealed a segment; the next
/// one found the seal in the cache and went on; and when power failed later, the seal was gone from
/// the middle of the log. Whatever a dead process left in the cache must be durable, or be judged as
/// the disk holds it, before anything is written behind it.
#[test]
fn what_a_dead_process_left_in_the_cache_is_not_built_upon() {
    for steps in [script(), deferred(), installed()] {
        let models = Model::through(&steps);
        let n = count_operations(&MemFs::new(), &steps, &models, None);
        let (mut n_states, mut random) = (0, Random::from_env());
        for fault in [Fault::Stop, Fault::Error(5)] {
            for first in 0..n {
                let died = || {
                    let fs = MemFs::new();
                    fs.inject(Op::Any, first, fault);
                    let acknowledged = run(&fs, &steps, &models, None);
                    // The machine runs on, and so does its cache.
                    fs.mend();
                    (fs, acknowledged)
                };
                let (fs, acknowledged) = died();
                let n = count_operations(&fs, &steps, &models, acknowledged);
                for second in (first % 5..n).step_by(5) {
                    let (fs, acknowledged) = died();
                    fs.inject(Op::Any, second, Fault::Stop);
                    let acknowledged = run(&fs, &steps, &models, acknowledged);
                    for loss in [Loss::Everything, Loss::Some(random.next())] {
                        run(&fs.crash(loss), &steps, &models, acknowledged);
                        n_states += 1;
                    }
                }
            }
        }
        println!("{n} points, {n_states} states after a death and a crash");
    }
}

/// Disks that leave garbage in a sector break an assumption; the log may refuse, but never lie.
#[test]
fn garbage_in_unsynced_sectors_is_refused_or_cut_off() {
    let steps = script();
    let models = Model::through(&steps);
    let mut random = Random::from_env();
    let n = count_operations(&MemFs::new(), &steps, &models, None);
    let (mut opened, mut refused) = (0, 0);
    for stop in 0..n {
        let fs = MemFs::new();
        fs.inject(Op::Any, stop, Fault::Stop);
        let Some(acknowledged) = run(&fs, &steps, &models, None) else { continue };
        for _ in 0..32 {
            match open(&fs.crash(Loss::Garbage(random.next()))) {
                Ok((wal, _)) => {
                    let next = models.get(acknowledged + 1);
                    let held = models[acknowledged].is(&wal) || next.is_some_and(|m| m.is(&wal));
                    assert!(held, "{wal:?} after {acknowledged} steps");
                    opened += 1;
                }
                Err(Error::Corrupt { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(opened > refused && refused > 0);
}

/// After a failed sync the kernel shows what the disk does not hold; opening must not believe it.
#[test]
fn a_batch_whose_sync_failed_is_not_taken_from_the_cache() {
    let steps = script();
    let models = Model::through(&steps);
    let fs = MemFs::new();
    let mut wal = create(&fs).unwrap();
    fs.inject(Op::Sync, 0, Fault::Error(5));
    assert!(take(&mut wal, &steps[0]).is_err());
    drop(wal);
    let (wal, _) = open(&fs).unwrap();
    assert!(models[0].is(&wal), "{wal:?}");
    drop(wal);
    let (wal, _) = open(&fs.crash(Loss::Everything)).unwrap();
    assert!(models[0].is(&wal), "{wal:?}");
}

/// What a dead process had written but not synced must be durable once it has been shown.
#[test]
fn what_open_returns_survives_the_next_crash() {
    let steps = script();
    let models = Model::through(&steps);
    let fs = MemFs::new();
    let mut wal = create(&fs).unwrap();
    fs.inject(Op::Sync, 0, Fault::Stop);
    assert!(take(&mut wal, &steps[0]).is_err());
    // Bytes that were written but not synced, on a machine that did not lose power.
    let live = fs.crash(Loss::Everything);
    let tail = std::path::Path::new(common::DIR).join("0000000000000001-0000000000000002.wal");
    let mut bytes = vec![0; 4096];
    use wal::fs::{Access, Fs};
    fs.open(&tail, Access::Read).unwrap().read_full_at(0, &mut bytes).unwrap();
    live.open(&tail, Access::ReadWrite).unwrap().write_all_at(0, &bytes).unwrap();

    let (wal, _) = open(&live).unwrap();
    assert!(models[1].is(&wal), "{wal:?}");
    drop(wal);
    let (wal, _) = open(&live.crash(Loss::Everything)).unwrap();
    assert!(models[1].is(&wal), "{wal:?}");
}
