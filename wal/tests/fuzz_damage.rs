//! Valid logs, damaged: they open as what was saved, or are refused.
#![allow(clippy::unwrap_used, reason = "a test panics and reports")]

mod common;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use common::{DIR, Hands, Model, Random, Step, create, entry, open, save, step, take};
use fuzz::Rng;
use wal::{
    Error,
    fs::{Fault, Fs, Loss, MemFs, Op, read_file},
};

const SECTOR: usize = 512;
/// The part of a frame's first sector that tells what frame it is.
const FRAME_HEADER: usize = 56;
const BATCH: u32 = 1;
const HEAD: u32 = 2;
const SEAL: u32 = 3;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A log as it was written.
struct Log {
    files: Files,
    /// What the files held some steps before the end.
    older: Files,
    /// All of them, in their order through all segments.
    frames: Vec<Frame>,
    /// All that was ever saved, the newest last.
    saved: Vec<Model>,
}

/// A frame as its bytes are, by the format's description.
struct Frame {
    path: PathBuf,
    start: usize,
    end: usize,
    kind: u32,
    /// How many of the batches in these files are written behind it.
    n_later_batches: usize,
}

fn files(fs: &MemFs) -> Files {
    let paths = fs.list(Path::new(DIR)).unwrap().into_iter().map(|name| Path::new(DIR).join(name));
    paths.map(|path| (path.clone(), read_file(fs, &path, 1 << 20).unwrap())).collect()
}

fn disk(files: &Files) -> MemFs {
    let fs = MemFs::new();
    fs.create_dir(Path::new(DIR)).unwrap();
    for (path, bytes) in files {
        let file = fs.create_new(path).unwrap();
        file.write_all_at(0, bytes).unwrap();
        file.set_size(bytes.len() as u64).unwrap();
        file.sync_all().unwrap();
    }
    fs.sync_dir(Path::new(DIR)).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    fs
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

fn rest(bytes: &[u8], start: usize) -> &[u8] {
    &bytes[bytes.len().min(start)..]
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

fn frames(files: &Files) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (path, bytes) in files {
        let mut start = SECTOR;
        while bytes.get(start..start + 4).is_some_and(|magic| magic != [0; 4]) {
            let length = FRAME_HEADER + u32_at(bytes, start + 8) as usize;
            let end = start + length.next_multiple_of(SECTOR);
            frames.push((path.clone(), start, end, u32_at(bytes, start + 4)));
            start = end;
        }
    }
    let mut n_later_batches = frames.iter().filter(|frame| frame.3 == BATCH).count();
    let frame = |(path, start, end, kind)| {
        n_later_batches -= usize::from(kind == BATCH);
        Frame { path, start, end, kind, n_later_batches }
    };
    frames.into_iter().map(frame).collect()
}

fn sequence(path: &Path) -> u64 {
    u64::from_str_radix(&path.file_name().unwrap().to_str().unwrap()[..16], 16).unwrap()
}

/// How many batches there ever were: frames are numbered through all segments, each of which begins
/// with one that is no batch.
fn n_batches(files: &Files) -> u64 {
    let is_segment = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "wal");
    let newest = files.keys().rfind(is_segment).unwrap();
    let frame = frames(files).into_iter().rfind(|frame| frame.path == *newest).unwrap();
    let number = &files[newest][frame.start + 24..];
    u64::from_le_bytes(*number.first_chunk().unwrap()) - sequence(newest)
}

/// A life of a log: steps that the rules allow, and crashes of which every torn batch is cut off.
fn log(rng: &mut Rng) -> Log {
    let mut random = Random::new(rng.draw());
    let mut fs = MemFs::new();
    let mut wal = create(&fs).unwrap();
    let mut model = Model::genesis();
    let mut saved = vec![model.clone()];
    let mut hands = Hands::default();
    let n = 1 + rng.below(30);
    let n_behind = rng.below(5);
    let mut older = Files::new();
    for at in 0..n {
        if at + n_behind >= n && older.is_empty() {
            older = files(&fs);
        }
        let step = step(&mut random, &model);
        let mut next = model.clone();
        next.apply(&step);
        if rng.chance(1, 20) {
            fs.inject(Op::Any, rng.below(4), Fault::Stop);
        }
        let is_done = hands.take(&mut wal, &step).is_ok();
        if !is_done {
            hands = Hands::default();
            drop(wal);
            fs = fs.crash(Loss::Some(rng.draw()));
            if rng.chance(1, 2) {
                older = files(&fs);
            }
            wal = open(&fs).unwrap().0;
        }
        // A save that says nothing new leaves a frame all the same.
        let is_saved = matches!(step, Step::Save { .. });
        if is_saved && (is_done || n_batches(&files(&fs)) == saved.len() as u64) {
            saved.push(next.clone());
            model = next;
        } else {
            model.released = next.released;
        }
        assert!(model.is(&wal), "{wal:?} is not {model:#?}");
    }
    drop(wal);
    for old in &mut saved {
        old.released = model.released;
    }
    // What an opening would remove is no part of the log.
    let mut files = files(&fs);
    files.retain(|path, _| path.extension().is_some_and(|extension| extension == "wal"));
    let frames = frames(&files);
    Log { files, older, frames, saved }
}

fn pick(rng: &mut Rng, files: &Files) -> Option<PathBuf> {
    files.keys().nth(rng.at(files.len())).cloned()
}

/// The newest two thirds of the time: there is most that can be mistaken.
fn pick_late(rng: &mut Rng, files: &Files) -> Option<PathBuf> {
    if rng.chance(2, 3) { files.keys().last().cloned() } else { pick(rng, files) }
}

/// A sector of a file, more often one that was written.
fn sector(rng: &mut Rng, bytes: &[u8]) -> std::ops::Range<usize> {
    let written = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let end = if rng.chance(4, 5) { written } else { bytes.len() };
    let start = rng.at(end.div_ceil(SECTOR)) * SECTOR;
    start..bytes.len().min(start + SECTOR)
}

/// Does one damage and says which.
fn damage(rng: &mut Rng, files: &mut Files, older: &Files) -> String {
    let (Some(path), Some(other)) = (pick_late(rng, files), pick(rng, files)) else {
        return "nothing is left".to_owned();
    };
    let content = files[&other].clone();
    let bytes = files.get_mut(&path).unwrap();
    let (at, from) = (sector(rng, bytes), sector(rng, &content));
    let copy = |to: &mut [u8], from: &[u8]| {
        let length = to.len().min(from.len());
        to[..length].copy_from_slice(&from[..length]);
    };
    let kind = rng.below(14);
    let said = format!("{kind}: {path:?} {at:?}, {other:?} {from:?}");
    match kind {
        0..=2 if !at.is_empty() => {
            let place = at.start + rng.at(at.len());
            bytes[place] ^= 1 << rng.below(8);
        }
        3..=5 => bytes[at].fill(0),
        6 => copy(&mut bytes[at], &content[from]),
        7 => {
            let swapped = bytes[at.clone()].to_vec();
            copy(&mut bytes[at], &content[from.clone()]);
            copy(&mut files.get_mut(&other).unwrap()[from], &swapped);
        }
        8 => bytes.truncate(if rng.chance(1, 2) { at.start } else { at.start + rng.at(SECTOR) }),
        9 | 10 => {
            if let Some(old) = older.get(&path).filter(|old| old.len() >= at.end) {
                bytes[at.clone()].copy_from_slice(&old[at]);
            }
        }
        11 => drop(files.remove(&other)),
        12 => {
            let swapped = std::mem::replace(bytes, content);
            files.insert(other, swapped);
        }
        _ => {
            // Under a name that is there, or under one of the next segment.
            let sequence = sequence(files.keys().last().unwrap()) + 1;
            let name = format!("{sequence:016x}-{:016x}.wal", rng.below(40));
            let name = if rng.chance(1, 2) { path } else { Path::new(DIR).join(name) };
            files.insert(name, content);
        }
    }
    said
}

impl Log {
    /// The older state that these files may be mistaken for, and nothing else may.
    ///
    /// It takes damage that leaves everything as it was up to a frame, that frame short of a
    /// sector, and no trace of one behind it: no disk tells it from the end of a log. The frame
    /// may then begin as a torn one did that lay there before. The seal before the newest segment
    /// may be gone as well, if nothing is left of that but its head.
    fn mistaken(&self, damaged: &Files) -> Option<&Model> {
        let (newest, bytes) = damaged.last_key_value()?;
        let last_but_one = damaged.keys().nth_back(1);
        let oldest = damaged.keys().next()?;
        let mut frames = self.frames.iter().skip_while(|frame| frame.path < *oldest);
        let mut is_unsealed = false;
        let lost = loop {
            let frame = frames.next()?;
            let held = rest(damaged.get(&frame.path)?, frame.start);
            let written = self.bytes(frame);
            if held.starts_with(written) {
                continue;
            }
            if frame.kind != SEAL || last_but_one != Some(&frame.path) || !is_zero(held) {
                break frame;
            }
            is_unsealed = true;
        };
        if lost.path != *newest || lost.kind == HEAD {
            return None;
        }
        let (held, written) = (rest(bytes, lost.start), self.bytes(lost));
        let beginning = &held[..held.len().min(SECTOR)];
        let is_possible = if is_unsealed {
            lost.start == 2 * SECTOR && is_zero(held)
        } else if beginning.len() < SECTOR || is_zero(beginning) {
            let later = frames.take_while(|frame| frame.path == *newest);
            let later: Vec<_> = later.map(|frame| &self.bytes(frame)[..FRAME_HEADER]).collect();
            let is_later = |sector: &[u8]| later.iter().any(|header| sector.starts_with(header));
            !held.chunks(SECTOR).any(is_later)
        } else {
            // The header of the frame, or of a torn one that lay there before it.
            let header = &beginning[..FRAME_HEADER];
            let torn = self.older.get(newest).map(|old| rest(old, lost.start));
            let is_torn = torn.is_some_and(|torn| torn.starts_with(header))
                && header[24..40] == written[24..40];
            let length = (FRAME_HEADER + u32_at(header, 8) as usize).next_multiple_of(SECTOR);
            let (inside, behind) = held.split_at(held.len().min(length));
            let n_zero = inside.chunks(SECTOR).filter(|sector| is_zero(sector)).count();
            (is_torn || written.starts_with(header))
                && is_zero(behind)
                && (inside.len() < length || n_zero > u32_at(header, 16) as usize)
        };
        let n_lost = lost.n_later_batches + usize::from(lost.kind == BATCH);
        is_possible.then(|| self.saved.iter().nth_back(n_lost)).flatten()
    }

    fn bytes(&self, frame: &Frame) -> &[u8] {
        &self.files[&frame.path][frame.start..frame.end]
    }

    /// What to look at when something else was opened.
    fn other(&self, wal: &wal::Wal, older: Option<&Model>, said: &[String]) -> String {
        use std::fmt::Write;
        let mut text =
            format!("{wal:?} with {:?} is what was never saved, or lost\n", wal.marker());
        let place = |model: &Model| self.saved.iter().position(|saved| saved == model);
        let is = self
            .saved
            .iter()
            .rposition(|model| Model { released: 1 << 60, ..model.clone() }.is(wal));
        writeln!(text, "it is save {is:?} of {}", self.saved.len() - 1).unwrap();
        writeln!(text, "it may be mistaken for {:?}", older.and_then(place)).unwrap();
        for Frame { path, start, end, n_later_batches, .. } in &self.frames {
            writeln!(text, "{path:?} {start}..{end}, {n_later_batches} batches behind it").unwrap();
        }
        said.iter().for_each(|said| writeln!(text, "{said}").unwrap());
        text
    }

    /// What may be missing of a model when leading segments are gone: what its marker covers, as
    /// if it had been released.
    fn as_if_released(&self, damaged: &Files, model: &Model) -> Model {
        let covered = model.marker.map_or(0, |marker| marker.index);
        let is_head_gone = damaged.keys().next() > self.files.keys().next();
        let released = if is_head_gone { model.released.max(covered) } else { model.released };
        Model { released, ..model.clone() }
    }
}

/// The opened log is the newest state, or the one that the damage may be mistaken for; and it goes
/// on from there.
fn judge(log: &Log, damaged: &Files, said: &[String]) -> Option<bool> {
    let fs = disk(damaged);
    let mut wal = match open(&fs) {
        Ok((wal, _)) => wal,
        Err(Error::Corrupt { .. } | Error::Foreign { .. } | Error::Missing { .. }) => {
            assert!(files(&fs) == *damaged, "a log was refused and changed");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let newest = log.as_if_released(damaged, log.saved.last().unwrap());
    let older = log.mistaken(damaged).map(|model| log.as_if_released(damaged, model));
    let mut held = match older {
        _ if newest.is(&wal) => newest,
        Some(older) if older.is(&wal) => older,
        older => panic!("{}", log.other(&wal, older.as_ref(), said)),
    };
    let is_newest = held == *log.saved.last().unwrap();
    let next = save(None, [entry(held.last_index() + 1, held.hard_state.term, 1)], None);
    held.apply(&next);
    take(&mut wal, &next).unwrap();
    drop(wal);
    let (wal, opened) = open(&fs.crash(Loss::Everything)).unwrap();
    assert!(held.is(&wal) && opened.torn.is_none(), "{wal:?}, {opened:?}");
    Some(is_newest)
}

/// Whatever becomes of the files, no entry, hard state or marker is read that was not saved, and
/// none is missed but those whose every trace is gone.
#[test]
fn fuzz_wal_damage() {
    let (mut n_newest, mut n_older, mut n_refused) = (0, 0, 0);
    let report = fuzz::run("wal_damage", |rng| {
        let log = log(rng);
        let mut damaged = log.files.clone();
        let mut said = Vec::new();
        for _ in 0..rng.below(9) {
            if rng.damage() {
                said.push(damage(rng, &mut damaged, &log.older));
            }
        }
        match judge(&log, &damaged, &said) {
            Some(true) => n_newest += 1,
            Some(false) => n_older += 1,
            None => n_refused += 1,
        }
        if damaged == log.files {
            assert_eq!(judge(&log, &damaged, &said), Some(true));
        }
    });
    let n_expected = report.cases / 50;
    let is_all = n_newest >= n_expected && n_older >= n_expected && n_refused >= n_expected;
    assert!(
        is_all || report.cases < 500,
        "{n_newest} newest, {n_older} older, {n_refused} refused"
    );
}
