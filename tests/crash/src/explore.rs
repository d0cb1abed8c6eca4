//! From one life of a program to every state in which a crash could leave its disk, and on from
//! each of them.
//!
//! - E1 Every boundary between two operations is a place where power can fail; what is cut within
//!   an operation is what an image holds of it after it, since nothing of it was synced.
//! - E2 Each image is opened by the production code and judged by what was known before the
//!   crash: what is looked at again is an image with other knowledge, what is counted is an image.
//! - E3 The life after a crash is recorded too, its repairs included, and power fails in it again; so
//!   is the life after the process alone has died, which finds what no sync has covered.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::choice::{Built, Choice, Frontier};
use crate::disk::{Image, Op};
use crate::journal::JournalFs;

/// A program that uses a disk, and what an observer may expect of it.
pub trait Life {
    /// What an observer knows to be on the disk.
    type Known: Clone + Hash;

    /// What is known before the first start.
    fn unborn(&self) -> Self::Known;

    /// Starts on a disk, judges what was found against what is known, and goes on for a while.
    ///
    /// # Errors
    ///
    /// What was found is not what may be there, or cannot be gone on from.
    fn live(&self, start: Start<'_, Self::Known>) -> Result<Lived, String>;
}

/// A start after a crash.
pub struct Start<'a, K> {
    /// The disk.
    pub fs: &'a JournalFs,
    /// What must be on it.
    pub known: K,
    /// The files in which the disk put what nobody wrote.
    pub garbage: &'a [String],
    /// The file of which the disk has lost what a sync had covered.
    pub damaged: Option<&'a str>,
    /// How many steps to go on for.
    pub steps: usize,
    /// How many crashes came before.
    pub nth: usize,
    marks: &'a mut Vec<(usize, K)>,
    saw: &'a mut Sights,
}

/// What was met, and how often: a campaign that never met it has shown nothing of it.
pub type Sights = BTreeMap<&'static str, u64>;

impl<K: Clone> Start<'_, K> {
    /// Says that something worth meeting was met.
    pub fn saw(&mut self, what: &'static str) {
        *self.saw.entry(what).or_default() += 1;
    }

    /// From here on more is known.
    pub fn mark(&mut self, known: K) {
        self.mark_at(self.fs.n_ops(), known);
    }

    /// More is known since so many operations were done.
    pub fn mark_at(&mut self, boundary: usize, known: K) {
        self.marks.push((boundary, known.clone()));
        self.known = known;
    }
}

/// How a life went that broke no promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lived {
    /// Until its end.
    On,
    /// It did not start, and that is right.
    Refused,
}

/// How much of what is possible is looked at, after the nth crash.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many steps the life goes on for.
    pub steps: usize,
    /// At how many boundaries of it power fails, at most.
    pub boundaries: usize,
    /// All images of a boundary are tried when there are at most so many, those included that hold
    /// garbage in any of the sectors that no sync covers.
    pub spoilt: u64,
    /// Otherwise all images without garbage are tried when there are at most so many.
    pub exact: u64,
    /// How many are drawn where there are more.
    pub draws: u64,
    /// How many hold garbage, besides.
    pub garbage: u64,
    /// How many have lost what a sync had covered.
    pub damage: u64,
    /// Of how many boundaries one is also a place where only the process dies; 0: of none.
    pub kills: usize,
}

/// The images that were met, by their hashes.
pub struct Seen {
    shards: Vec<Mutex<HashSet<u128, BuildHasherDefault<Halved>>>>,
    count: AtomicU64,
}

/// The images' hashes are as good as any.
#[derive(Default)]
pub struct Halved(u64);

impl Hasher for Halved {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64 ^ (number >> 64) as u64;
    }
}

impl Default for Seen {
    fn default() -> Self {
        let shards = (0..64).map(|_| Mutex::default()).collect();
        Self { shards, count: AtomicU64::new(0) }
    }
}

impl Seen {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn insert(&self, hash: u128) -> bool {
        let shard = &self.shards[(hash >> 122) as usize];
        let is_new = shard.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
        self.count.fetch_add(u64::from(is_new), Ordering::Relaxed);
        is_new
    }
}

/// The way to a state: for each crash the boundary and what was left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way(pub Vec<(usize, Choice)>);

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crashes: Vec<_> = self.0.iter().map(|(at, choice)| format!("{at}{choice}")).collect();
        f.write_str(&crashes.join("/"))
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let crash = |text: &str| {
            let at = text.find(['n', 's', 'g', 'd', 'k']).ok_or(format!("{text:?} is no crash"))?;
            let boundary = text[..at].parse().map_err(|_| format!("{text:?} has no boundary"))?;
            Ok::<_, String>((boundary, text[at..].parse()?))
        };
        text.split('/')
            .filter(|text| !text.is_empty())
            .map(crash)
            .collect::<Result<_, _>>()
            .map(Way)
    }
}

/// A state that broke a promise.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How to get there.
    pub way: Way,
    /// What was wrong.
    pub what: String,
    /// What was on the disk.
    pub image: String,
}

/// How an exploration went.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// States that were opened, also those that were met before with other knowledge.
    pub opened: u64,
    /// States with garbage that were refused.
    pub refused: u64,
    /// States after two crashes or more.
    pub again: u64,
    /// What was met.
    pub sights: Sights,
    /// Boundaries before the first crash of which not all images were tried, garbage included.
    pub partial: u64,
    /// It ended before everything that was planned was looked at.
    pub is_cut: bool,
    /// What went wrong.
    pub failures: Vec<Failure>,
}

impl Tally {
    /// Whether all that the first crash could leave was tried.
    pub fn is_whole(&self) -> bool {
        !self.is_cut && self.partial == 0
    }
}

/// Goes from the beginning of a life through all of `plans`, one for each crash and one for the
/// first start. Ends early when `is_over` says so, or when three states have failed.
pub fn explore<L: Life>(
    life: &L,
    plans: &[Plan],
    seed: u64,
    seen: &Seen,
    is_over: &dyn Fn() -> bool,
) -> Tally {
    let mut explorer = Explorer {
        life,
        plans,
        seed,
        seen,
        is_over,
        checked: HashSet::default(),
        way: Way::default(),
        tally: Tally::default(),
    };
    let nothing = Built::sound(Image::empty());
    explorer.visit(&nothing, life.unborn());
    explorer.tally
}

/// Goes one way to one state again.
///
/// # Errors
///
/// What was wrong with it, or the way leads nowhere.
pub fn replay<L: Life>(life: &L, plans: &[Plan], way: &Way) -> Result<(Lived, String), Failure> {
    let mut built = Built::sound(Image::empty());
    let mut known = life.unborn();
    for (depth, crash) in way.0.iter().map(Some).chain([None]).enumerate() {
        let saw = &mut Sights::new();
        let steps = plans[depth].steps;
        let (ops, marks, result) = run(life, &built, known.clone(), steps, depth, saw);
        let failure =
            |what: String| Failure { way: way.clone(), what, image: built.image.describe() };
        let Some((boundary, choice)) = crash else {
            return result.map(|lived| (lived, built.image.describe())).map_err(failure);
        };
        if *boundary > ops.len() {
            return Err(failure(format!("there are only {} boundaries", ops.len())));
        }
        let mut disk = built.disk();
        ops[..*boundary].iter().for_each(|op| disk.apply(op));
        known = known_at(&marks, *boundary, known);
        let next = Frontier::new(&disk).build(*choice);
        built = next.ok_or_else(|| failure("no such image".into()))?;
    }
    unreachable!("the last of the chain returns")
}

struct Explorer<'a, L: Life> {
    life: &'a L,
    plans: &'a [Plan],
    seed: u64,
    seen: &'a Seen,
    is_over: &'a dyn Fn() -> bool,
    /// Images and what was known of them.
    checked: HashSet<u128, BuildHasherDefault<Halved>>,
    way: Way,
    tally: Tally,
}

/// Failures of one trace after which no more of it is looked at.
const ENOUGH: usize = 3;

impl<L: Life> Explorer<'_, L> {
    fn visit(&mut self, built: &Built, known: L::Known) {
        let depth = self.way.0.len();
        let plan = self.plans[depth];
        let saw = &mut self.tally.sights;
        look(&built.image, saw);
        let (ops, marks, result) = run(self.life, built, known.clone(), plan.steps, depth, saw);
        self.tally.opened += 1;
        self.tally.again += u64::from(depth > 1);
        match result {
            Ok(Lived::Refused) => {
                self.tally.refused += 1;
                let what =
                    if built.damaged.is_some() { "damage refused" } else { "garbage refused" };
                *self.tally.sights.entry(what).or_default() += 1;
                if ops.iter().any(|op| !matches!(op, Op::Sync { .. } | Op::SyncDir { .. })) {
                    self.fail(built, "what was refused was changed".into());
                }
                return;
            }
            // What is left of a damaged log is no ground to judge others on.
            Ok(Lived::On) if built.damaged.is_some() => return,
            Ok(Lived::On) => {}
            Err(what) => return self.fail(built, what),
        }
        if depth + 1 == self.plans.len() {
            return;
        }
        let stride = ops.len().checked_div(plan.boundaries).unwrap_or(usize::MAX).max(1);
        let phase = if stride > 1 { self.seed as usize % stride } else { 0 };
        let mut disk = built.disk();
        let seed = self.seed;
        for boundary in 0..=ops.len() {
            if let Some(at) = boundary.checked_sub(1) {
                disk.apply(&ops[at]);
            }
            if boundary != ops.len() && boundary % stride != phase {
                continue;
            }
            let known = known_at(&marks, boundary, known.clone());
            let frontier = Frontier::new(&disk);
            let seed = |nth: u64| seed.rotate_left(20) ^ (boundary as u64) << 8 ^ nth;
            let is_exact = frontier.count(plan.exact).is_some();
            let spoilt = (plan.spoilt > 0).then(|| Frontier::spoilt(&disk, seed(0)));
            let spoilt = spoilt.filter(|spoilt| spoilt.count(plan.spoilt).is_some());
            self.tally.partial += u64::from(depth == 0 && spoilt.is_none());
            let all = spoilt.as_ref().or(is_exact.then_some(&frontier));
            if let Some(all) = all {
                all.each(|choice, built| self.meet(boundary, choice, &built, &known));
            }
            let n_draws = if all.is_some() { 0 } else { plan.draws };
            let drawn = (0..n_draws).map(|nth| Choice::Drawn(seed(nth)));
            let garbage = (0..plan.garbage).map(|nth| Choice::Garbage(seed(nth)));
            let damage = (0..plan.damage).map(|nth| Choice::Damage(seed(nth)));
            let is_kill =
                plan.kills > 0 && (boundary + self.seed as usize).is_multiple_of(plan.kills);
            let kill = is_kill.then_some(Choice::Killed);
            for choice in drawn.chain(garbage).chain(damage).chain(kill).collect::<Vec<_>>() {
                if let Some(built) = frontier.build(choice) {
                    self.meet(boundary, choice, &built, &known);
                }
            }
        }
    }

    fn meet(&mut self, boundary: usize, choice: Choice, built: &Built, known: &L::Known) {
        if self.tally.failures.len() >= ENOUGH || (self.is_over)() {
            self.tally.is_cut = true;
            return;
        }
        let hash = built.image.hash();
        let mut knowledge = DefaultHasher::new();
        (known, &built.garbage, &built.damaged, built.disk.is_some()).hash(&mut knowledge);
        if !self.checked.insert(hash ^ u128::from(knowledge.finish()) << 32) {
            return;
        }
        // What a sync has covered no crash takes: such an image is opened too, but not counted.
        if built.damaged.is_none() {
            self.seen.insert(hash);
        }
        self.way.0.push((boundary, choice));
        self.visit(built, known.clone());
        self.way.0.pop();
    }

    fn fail(&mut self, built: &Built, what: String) {
        let (way, image) = (self.way.clone(), built.image.describe());
        self.tally.failures.push(Failure { way, what, image });
    }
}

/// What a crash is to leave now and then, by how it is named.
const REMAINS: [(&str, &str); 6] = [
    (".wal.tmp", "unfinished segment"),
    (".wal.released", "unfinished deletion"),
    (".tmp", "unfinished file"),
    (".snap", "snapshot"),
    ("pins", "pins"),
    ("removed", "tombstone"),
];

fn look(image: &Image, saw: &mut Sights) {
    for name in image.dirs.values().flat_map(|names| names.keys()) {
        if let Some((_, what)) = REMAINS.iter().find(|(end, _)| name.ends_with(end)) {
            *saw.entry(what).or_default() += 1;
        }
    }
}

type Marks<K> = Vec<(usize, K)>;

fn run<L: Life>(
    life: &L,
    built: &Built,
    known: L::Known,
    steps: usize,
    nth: usize,
    saw: &mut Sights,
) -> (Vec<Op>, Marks<L::Known>, Result<Lived, String>) {
    let fs = JournalFs::new(built.disk());
    let mut marks = Vec::new();
    let damaged = built.damaged.as_deref();
    let garbage = &built.garbage;
    let start = Start { fs: &fs, known, garbage, damaged, steps, nth, marks: &mut marks, saw };
    let result = catch_unwind(AssertUnwindSafe(|| life.live(start)));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("without words")))
    });
    (fs.take_ops(), marks, result)
}

/// What was known when so many operations were done.
fn known_at<K: Clone>(marks: &Marks<K>, boundary: usize, before: K) -> K {
    let last = marks.iter().rev().find(|(at, _)| *at <= boundary);
    last.map_or(before, |(_, known)| known.clone())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wal::fs::Fs as _;

    use super::*;

    /// Writes two sectors, syncs neither, and says what it finds at its next start.
    struct Two;

    impl Life for Two {
        type Known = ();

        fn unborn(&self) {}

        fn live(&self, mut start: Start<'_, ()>) -> Result<Lived, String> {
            if start.nth > 0 {
                let is_spoilt = !start.garbage.is_empty();
                start.saw(if is_spoilt { "garbage" } else { "none" });
                return Ok(Lived::On);
            }
            let said = |error: std::io::Error| error.to_string();
            let file = start.fs.create_new(Path::new("/a.wal")).map_err(said)?;
            start.fs.sync_dir(Path::new("/")).map_err(said)?;
            file.write_at(0, &[1; 1024]).map_err(said)?;
            Ok(Lived::On)
        }
    }

    fn tally(spoilt: u64, exact: u64, is_over: &dyn Fn() -> bool) -> Tally {
        let none = Plan {
            steps: 0,
            boundaries: usize::MAX,
            spoilt,
            exact,
            draws: 0,
            garbage: 0,
            damage: 0,
            kills: 0,
        };
        explore(&Two, &[none, none], 1, &Seen::default(), is_over)
    }

    /// All with garbage where that is little enough, else all without it, else none but the drawn.
    #[test]
    fn a_boundary_is_enumerated_as_far_as_it_is_allowed() {
        let sights = |tally: &Tally| {
            ["garbage", "none"].map(|what| tally.sights.get(what).copied().unwrap_or_default())
        };
        // Two lengths; of the longer one both sectors are old, new or spoilt. And before the write
        // an empty disk, and an empty file.
        let whole = tally(18, 8, &|| false);
        assert_eq!((sights(&whole), whole.is_whole()), ([5, 6], true));
        let exact = tally(17, 8, &|| false);
        assert_eq!((sights(&exact), exact.is_whole(), exact.partial), ([0, 6], false, 1));
        let drawn = tally(17, 7, &|| false);
        assert_eq!((sights(&drawn), drawn.is_whole(), drawn.partial), ([0, 2], false, 1));
    }

    /// What was cut off is not said to be whole.
    #[test]
    fn an_exploration_that_ended_early_is_not_whole() {
        let n_asked = std::cell::Cell::new(0);
        let is_over = || n_asked.replace(n_asked.get() + 1) >= 5;
        let cut = tally(18, 8, &is_over);
        assert!(cut.is_cut && !cut.is_whole() && cut.partial == 0);
    }
}
