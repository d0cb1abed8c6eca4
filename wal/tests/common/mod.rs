//! What the tests share: a model of the log, steps on it, and a seeded source of chance.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics and reports")]

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use wal::{
    Batch, Doomed, Entry, Error, HardState, Marker, Opened, Options, Prepared, Wal, fs::MemFs,
};

pub const DIR: &str = "/wal";
pub const OPTIONS: Options = Options { cluster: 0xc1, node: 3, segment_bytes: 4096 };

#[derive(Debug, Clone)]
pub enum Step {
    Save {
        marker: Option<Marker>,
        entries: Vec<Entry>,
        hard_state: Option<HardState>,
    },
    /// Forgets and deletes at once.
    Release(u64),
    /// Forgets; an earlier deletion that was not run yet is dropped.
    Forget(u64),
    /// Deletes what was forgotten last.
    Delete,
    /// Prepares a file if the log wants one.
    Prepare,
    /// Supplies what was prepared.
    Supply,
}

/// What a log must hold, as simply as it can be said.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Model {
    pub base: (u64, u64),
    pub entries: Vec<Entry>,
    pub hard_state: HardState,
    pub marker: Option<Marker>,
    /// How far entries may have been released.
    pub released: u64,
}

impl Model {
    pub fn genesis() -> Self {
        let marker = Marker { index: 1, term: 1, checksum: 0xabc };
        let hard_state = HardState { term: 1, vote: 0, commit: 1 };
        Model { base: (1, 1), hard_state, marker: Some(marker), ..Model::default() }
    }

    pub fn last_index(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let at = usize::try_from(index.checked_sub(self.base.0 + 1)?).unwrap();
        self.entries.get(at).map(|entry| entry.term)
    }

    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Delete | Step::Prepare | Step::Supply => {}
            Step::Release(through) | Step::Forget(through) => {
                self.released = self.released.max(*through)
            }
            Step::Save { marker, entries, hard_state } => {
                if let Some(marker) = marker {
                    if self.term(marker.index) != Some(marker.term) {
                        self.entries.clear();
                        self.base = (marker.index, marker.term);
                    }
                    self.hard_state.commit = self.hard_state.commit.max(marker.index);
                    self.marker = Some(*marker);
                }
                for entry in entries {
                    self.entries.truncate((entry.index - self.base.0 - 1) as usize);
                    self.entries.push(entry.clone());
                }
                self.hard_state = hard_state.unwrap_or(self.hard_state);
            }
        }
    }

    /// Whether the log is this model, but for entries that were released.
    pub fn is(&self, wal: &Wal) -> bool {
        let first = wal.first_index();
        let same = wal.last_index() == self.last_index()
            && wal.hard_state() == self.hard_state
            && wal.marker() == self.marker
            && first > self.base.0
            && first <= self.released.max(self.base.0) + 1
            && wal.term(first - 1) == self.term(first - 1)
            && wal.term(self.last_index() + 1).is_none();
        if !same {
            return false;
        }
        let kept = &self.entries[(first - self.base.0 - 1) as usize..];
        let conf_changes: Vec<u64> =
            kept.iter().filter(|entry| entry.is_conf_change).map(|entry| entry.index).collect();
        kept.iter().all(|entry| wal.term(entry.index) == Some(entry.term))
            && wal.conf_changes(0, u64::MAX).collect::<Vec<_>>() == conf_changes
            && all(wal) == kept
    }
}

pub fn all(wal: &Wal) -> Vec<Entry> {
    match (wal.first_index(), wal.last_index()) {
        (first, last) if first <= last => wal.entries(first, last + 1, u64::MAX).unwrap(),
        _ => Vec::new(),
    }
}

pub fn entry(index: u64, term: u64, length: usize) -> Entry {
    let payload = Bytes::from(vec![(index * 16 + term) as u8 | 1; length]);
    Entry { index, term, is_conf_change: index.is_multiple_of(3), payload }
}

pub fn save(
    marker: Option<(u64, u64)>,
    entries: impl IntoIterator<Item = Entry>,
    hard_state: Option<(u64, u64, u64)>,
) -> Step {
    Step::Save {
        marker: marker.map(|(index, term)| Marker { index, term, checksum: index ^ term }),
        entries: entries.into_iter().collect(),
        hard_state: hard_state.map(|(term, vote, commit)| HardState { term, vote, commit }),
    }
}

/// Every kind of step, over several segments of 4 KiB.
pub fn script() -> Vec<Step> {
    vec![
        save(None, [entry(2, 1, 100), entry(3, 1, 900)], Some((1, 2, 1))),
        save(None, [entry(4, 1, 0), entry(5, 1, 600), entry(6, 1, 20)], None),
        save(None, [], Some((2, 0, 3))),
        save(None, [entry(5, 2, 40), entry(6, 2, 700)], Some((2, 3, 4))),
        save(None, [entry(7, 2, 30)], Some((3, 1, 6))),
        save(Some((6, 2)), [], None),
        Step::Release(6),
        save(None, [entry(8, 3, 5000)], None),
        save(None, [entry(8, 3, 300), entry(9, 3, 300)], Some((3, 1, 8))),
        save(Some((20, 3)), [], Some((3, 1, 20))),
        save(None, [entry(21, 3, 1500)], None),
        save(None, [entry(22, 3, 1500)], Some((3, 1, 21))),
        save(Some((21, 3)), [entry(23, 3, 10)], None),
        Step::Release(21),
        save(None, [entry(24, 3, 10)], Some((4, 0, 23))),
    ]
}

/// Rotation into prepared files, in time and too late, and deletions that run late or never.
pub fn deferred() -> Vec<Step> {
    vec![
        Step::Prepare,
        save(None, [entry(2, 1, 1500)], Some((1, 2, 2))),
        Step::Supply,
        save(Some((2, 1)), [entry(3, 1, 1500)], Some((1, 2, 3))),
        Step::Prepare,
        save(None, [entry(4, 1, 2500)], Some((1, 2, 4))),
        Step::Forget(2),
        save(Some((4, 1)), [entry(5, 2, 100)], Some((2, 0, 5))),
        Step::Supply,
        save(None, [entry(6, 2, 3000)], Some((2, 0, 5))),
        Step::Delete,
        Step::Prepare,
        Step::Forget(3),
        Step::Supply,
        save(None, [entry(7, 2, 3000)], Some((2, 0, 7))),
        Step::Forget(4),
        save(Some((7, 2)), [entry(8, 2, 10)], None),
        Step::Delete,
        save(None, [entry(9, 2, 10)], Some((3, 0, 9))),
    ]
}

/// Snapshots from elsewhere: one for an entry that the log holds in another term, with more behind
/// it, and one far ahead of the log.
pub fn installed() -> Vec<Step> {
    vec![
        save(None, [entry(2, 1, 100), entry(3, 1, 900)], Some((1, 2, 3))),
        save(None, [entry(4, 2, 700), entry(5, 2, 700), entry(6, 2, 700)], Some((2, 0, 3))),
        save(Some((5, 3)), [], Some((3, 0, 5))),
        Step::Prepare,
        save(None, [entry(6, 3, 1800)], None),
        Step::Supply,
        save(None, [entry(7, 3, 2500)], Some((3, 1, 6))),
        Step::Forget(5),
        save(Some((30, 4)), [], Some((5, 0, 30))),
        Step::Delete,
        save(None, [entry(31, 5, 10)], Some((5, 2, 30))),
        save(None, [entry(32, 5, 3000)], Some((5, 2, 31))),
        Step::Release(30),
        save(None, [entry(32, 6, 10)], Some((6, 0, 32))),
    ]
}

/// A step that the rules allow.
pub fn step(random: &mut Random, model: &Model) -> Step {
    let marker = model.marker.unwrap();
    let old = model.hard_state;
    match random.below(18) {
        0 => return Step::Release(marker.index - random.below(3).min(marker.index)),
        12 => return Step::Forget(marker.index - random.below(3).min(marker.index)),
        13 => return Step::Delete,
        14 | 15 => return Step::Prepare,
        16 | 17 => return Step::Supply,
        1 => {
            let index = old.commit;
            let term = model.term(index).unwrap();
            return save(Some((index, term)), [], None);
        }
        2 if random.below(4) == 0 => {
            let index = model.last_index() + 1 + random.below(9);
            return save(Some((index, old.term)), [], Some((old.term, old.vote, index)));
        }
        3 if model.last_index() > old.commit => {
            // A snapshot whose entry the log holds in another term.
            let index = old.commit + 1;
            let term = old.term + 1;
            return save(Some((index, term)), [], Some((term, 0, index)));
        }
        _ => {}
    }
    let term = old.term + u64::from(random.below(5) == 0);
    let first = match random.below(6) {
        0 => old.commit + 1 + random.below(model.last_index() - old.commit + 1),
        _ => model.last_index() + 1,
    };
    let n = random.below(5);
    let lengths = [0, 1, 100, 450, 600, 2000];
    let entries: Vec<_> = (first..first + n)
        .map(|index| {
            // Bits of chance tell an entry from the one it replaces.
            let mut entry = entry(index, term, lengths[random.below(6) as usize]);
            let payload = entry.payload.iter().map(|_| random.next() as u8).collect::<Vec<_>>();
            entry.payload = payload.into();
            entry
        })
        .collect();
    let last = if n == 0 { model.last_index() } else { first + n - 1 };
    let commit = old.commit + random.below(last - old.commit + 1);
    let vote = if term > old.term || old.vote == 0 { random.below(4) } else { old.vote };
    save(None, entries, Some((term, vote, commit)))
}

pub fn create(fs: &MemFs) -> Result<Wal, Error> {
    let genesis = Model::genesis();
    let mut batch = Batch::new();
    batch.set_marker(genesis.marker.unwrap());
    batch.set_hard_state(genesis.hard_state);
    Wal::create(Arc::new(fs.clone()), Path::new(DIR), OPTIONS, &mut batch)
}

pub fn open(fs: &MemFs) -> Result<(Wal, Opened), Error> {
    Wal::open(Arc::new(fs.clone()), Path::new(DIR), OPTIONS, &|| false)
}

/// What the log has handed out. A crash empties them.
#[derive(Default)]
pub struct Hands {
    pub doomed: Option<Doomed>,
    pub prepared: Option<Prepared>,
}

impl Hands {
    pub fn take(&mut self, wal: &mut Wal, step: &Step) -> Result<(), Error> {
        match step {
            Step::Save { .. } => wal.save(&mut batch(step))?,
            Step::Release(through) => {
                wal.release(*through)?.map(Doomed::delete).transpose()?;
            }
            Step::Forget(through) => self.doomed = wal.release(*through)?,
            Step::Delete => {
                self.doomed.take().map(Doomed::delete).transpose()?;
            }
            Step::Prepare => {
                if let Some(preparation) = wal.wants_segment() {
                    self.prepared = Some(preparation.run()?);
                }
            }
            Step::Supply => self.prepared.take().into_iter().for_each(|file| wal.supply(file)),
        }
        Ok(())
    }
}

/// A step that leaves nothing in the hands.
pub fn take(wal: &mut Wal, step: &Step) -> Result<(), Error> {
    Hands::default().take(wal, step)
}

pub fn batch(step: &Step) -> Batch {
    let Step::Save { marker, entries, hard_state } = step else { panic!("{step:?} saves nothing") };
    let mut batch = Batch::new();
    for entry in entries {
        let (left, right) = entry.payload.split_at(entry.payload.len() / 2);
        batch.push_entry(entry.index, entry.term, entry.is_conf_change, &[left, right]);
    }
    marker.iter().for_each(|marker| batch.set_marker(*marker));
    hard_state.iter().for_each(|state| batch.set_hard_state(*state));
    batch
}

/// The models before the first step, after it, after the second, and so on.
pub fn models(steps: &[Step]) -> Vec<Model> {
    let mut model = Model::genesis();
    let mut models = vec![model.clone()];
    for step in steps {
        model.apply(step);
        models.push(model.clone());
    }
    models
}

/// What fuzz targets choose by, with a seed from this crate's own variable.
#[derive(Debug, Clone)]
pub struct Random(fuzz::Rng);

impl Random {
    /// Seeded by the variable `WAL_SEED`, or by the clock; prints the seed for a failing test.
    pub fn from_env() -> Self {
        let seed = std::env::var("WAL_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed = seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.unwrap().as_nanos() as u64
        });
        println!("WAL_SEED={seed}");
        Random::new(seed)
    }

    pub fn new(seed: u64) -> Self {
        Random(fuzz::Rng::new(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.draw()
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }
}
