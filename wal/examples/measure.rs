//! What the disk and the log cost here.
//!
//! `measure syncs [dir]` times one write and sync of 4 KiB, into space that was only allocated and
//! into space that was filled with zeros before; then the log's own saves. `measure replay [dir]`
//! times the opening of a log of a million entries and shows the most memory the process ever
//! held; a directory in memory spares it the 62,500 syncs of writing that log. `measure rotations
//! [dir]` shows the slowest saves of a log that changes segments and deletes old ones, by itself
//! and then with the help of other threads. `measure memory` writes, releases and deletes 100 MB in
//! batches of 1 KiB without any disk.
#![allow(clippy::print_stdout, reason = "an example reports to its user")]

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use wal::{
    Batch, Doomed, HardState, Marker, Options, Wal,
    fs::{DiskFs, Fs, MemFs},
};

const N_ENTRIES: u64 = 1_000_000;
const BATCH: u64 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let what = args.next().unwrap_or_default();
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("wal-measure-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let result = match what.to_str() {
        Some("syncs") => syncs(&dir),
        Some("replay") => replay(&dir),
        Some("rotations") => rotations(&dir),
        Some("memory") => memory(),
        _ => Err("measure syncs|replay|rotations|memory [dir]".into()),
    };
    std::fs::remove_dir_all(&dir)?;
    result
}

fn syncs(dir: &Path) -> Result<(), Box<dyn Error>> {
    const SIZE: u64 = 64 << 20;
    for round in 0..3 {
        for is_filled in [false, true] {
            let path = dir.join("syncs");
            let file = DiskFs.create_new(&path)?;
            file.allocate(SIZE)?;
            let zeros = vec![0; 1 << 20];
            for at in (0..SIZE).step_by(zeros.len()).filter(|_| is_filled) {
                file.write_all_at(at, &zeros)?;
            }
            file.sync_all()?;
            let block = [7; 4096];
            let mut times = Vec::new();
            for at in (0..SIZE / 32).step_by(block.len()) {
                let start = Instant::now();
                file.write_all_at(at, &block)?;
                file.sync_data()?;
                times.push(start.elapsed());
            }
            times.sort();
            let mean = times.iter().sum::<Duration>() / u32::try_from(times.len())?;
            let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
            let kind = if is_filled { "zero-filled" } else { "allocated" };
            println!("round {round}, {kind:11}: mean {mean:?}, p50 {p50:?}, p99 {p99:?}");
            drop(file);
            DiskFs.remove_file(&path)?;
        }
        saves(&dir.join(format!("saves-{round}")))?;
    }
    Ok(())
}

fn saves(dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut batch = Batch::new();
    let options = Options { cluster: 1, node: 1, ..Options::default() };
    let mut wal = Wal::create(Arc::new(DiskFs), dir, options, &mut batch)?;
    let mut times = Vec::new();
    for index in 1..=512 {
        batch.push_entry(index, 1, false, &[&[7; 3900]]);
        batch.set_hard_state(HardState { term: 1, vote: 0, commit: index });
        let start = Instant::now();
        wal.save(&mut batch)?;
        times.push(start.elapsed());
    }
    times.sort();
    println!("saves of 4 KiB: p50 {:?}, p99 {:?}", times[256], times[506]);
    Ok(())
}

fn replay(dir: &Path) -> Result<(), Box<dyn Error>> {
    let dir = dir.join("wal");
    let fs = Arc::new(DiskFs);
    let options = Options { cluster: 1, node: 1, ..Options::default() };
    let mut batch = Batch::new();
    let mut wal = Wal::create(fs.clone(), &dir, options, &mut batch)?;
    let start = Instant::now();
    for first in (1..=N_ENTRIES).step_by(usize::try_from(BATCH)?) {
        for index in first..first + BATCH {
            batch.push_entry(index, 1 + index / 100_000, false, &[&[1; 128]]);
        }
        let term = 1 + (first + BATCH) / 100_000;
        batch.set_hard_state(HardState { term, vote: 0, commit: first });
        wal.save(&mut batch)?;
    }
    println!("{} segments written in {:?}", wal.n_segments(), start.elapsed());
    drop(wal);
    let before = peak()?;
    let start = Instant::now();
    let (wal, _) = Wal::open(fs, &dir, options, &|| false)?;
    println!("{} entries replayed in {:?}", wal.last_index(), start.elapsed());
    println!("peak memory {before} KiB before, {} KiB after", peak()?);
    let start = Instant::now();
    let mut next = 1;
    while next <= N_ENTRIES {
        next += wal.entries(next, N_ENTRIES + 1, 4 << 20)?.len() as u64;
    }
    println!("read back by 4 MiB in {:?}", start.elapsed());
    let start = Instant::now();
    for index in (1..=N_ENTRIES).step_by(1000) {
        wal.entries(index, index + 1, 0)?;
    }
    println!("one entry read in {:?} on average", start.elapsed() / 1000);
    Ok(())
}

fn rotations(dir: &Path) -> Result<(), Box<dyn Error>> {
    for (round, is_deferred) in [false, true, false, true].into_iter().enumerate() {
        let dir = dir.join(format!("rotations-{round}"));
        let options = Options { cluster: 1, node: 1, ..Options::default() };
        let mut batch = Batch::new();
        let mut wal = Wal::create(Arc::new(DiskFs), &dir, options, &mut batch)?;
        let (files, prepared) = mpsc::channel();
        let mut times = Vec::new();
        thread::scope(|scope| -> wal::Result<()> {
            for index in 1..=16_384 {
                let preparation = if is_deferred { wal.wants_segment() } else { None };
                if let Some(preparation) = preparation {
                    let files = files.clone();
                    scope.spawn(move || preparation.run().map(|file| files.send(file)));
                }
                prepared.try_iter().for_each(|file| wal.supply(file));
                batch.push_entry(index, 1, false, &[&[7; 32 << 10]]);
                batch.set_hard_state(HardState { term: 1, vote: 0, commit: index });
                if index > 1 {
                    batch.set_marker(Marker { index: index - 1, term: 1, checksum: 0 });
                }
                let start = Instant::now();
                wal.save(&mut batch)?;
                match wal.release(wal.release_point(128 << 20))? {
                    Some(doomed) if is_deferred => drop(scope.spawn(|| doomed.delete())),
                    doomed => drop(doomed.map(Doomed::delete).transpose()?),
                }
                times.push(start.elapsed());
            }
            Ok(())
        })?;
        times.sort();
        let slowest = &times[times.len() - 8..];
        println!("deferred {is_deferred}: p50 {:?}, slowest {slowest:?}", times[times.len() / 2]);
        drop(wal);
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

fn memory() -> Result<(), Box<dyn Error>> {
    const N: u64 = 100_000_000 / 1024;
    for (kind, fs) in [("volatile", MemFs::volatile()), ("durable", MemFs::new())] {
        let options = Options { cluster: 1, node: 1, ..Options::default() };
        let before = resident("VmRSS:")?;
        let mut wal =
            Wal::create(Arc::new(fs.clone()), Path::new("/wal"), options, &mut Batch::new())?;
        let mut batch = Batch::new();
        let start = Instant::now();
        for index in 1..=N {
            batch.push_entry(index, 1, false, &[&[7; 1024]]);
            batch.set_hard_state(HardState { term: 1, vote: 0, commit: index });
            wal.save(&mut batch)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let full = resident("VmRSS:")?;
        println!("{kind}: {N} saves of 1 KiB, {:.0} MB/s", 100.0 / seconds);
        println!(
            "{} MB of contents, {} KiB more resident",
            fs.bytes() / 1_000_000,
            full.saturating_sub(before)
        );
        batch.set_marker(Marker { index: N, term: 1, checksum: 0 });
        wal.save(&mut batch)?;
        let start = Instant::now();
        wal.release(N)?.map(Doomed::delete).transpose()?;
        let (elapsed, left) = (start.elapsed(), resident("VmRSS:")?.saturating_sub(before));
        println!("released in {elapsed:?}: {} MB, {left} KiB more", fs.bytes() / 1_000_000);
    }
    Ok(())
}

/// The most memory that was ever resident, in KiB.
fn peak() -> Result<u64, Box<dyn Error>> {
    resident("VmHWM:")
}

/// What the system says of this process' memory, in KiB; 0 where it says nothing.
fn resident(what: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    Ok(line.and_then(|line| line.split_whitespace().next()).map_or(Ok(0), str::parse)?)
}
