//! What the tests share: scripts of steps, steps by chance, and a seeded source of it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics and reports")]

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use model::steps;
pub use model::{Hands, Model, Step};
use wal::{Entry, Error, HardState, Marker, Opened, Options, Wal, fs::MemFs};

pub const DIR: &str = "/wal";
pub const OPTIONS: Options = Options { cluster: 0xc1, node: 3, segment_bytes: 4096 };

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
    steps::any(&mut random.0, model)
}

pub fn create(fs: &MemFs) -> Result<Wal, Error> {
    let mut batch = Model::genesis().first_batch();
    Wal::create(Arc::new(fs.clone()), Path::new(DIR), OPTIONS, &mut batch)
}

pub fn open(fs: &MemFs) -> Result<(Wal, Opened), Error> {
    Wal::open(Arc::new(fs.clone()), Path::new(DIR), OPTIONS, &|| false)
}

/// A step that leaves nothing in the hands.
pub fn take(wal: &mut Wal, step: &Step) -> Result<(), Error> {
    Hands::default().take(wal, step)
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
