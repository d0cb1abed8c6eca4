//! The images that a crash can leave of a disk: all of them, or those that a seed draws.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use fuzz::Rng;

use crate::disk::{Change, Contents, Disk, Image, Names, ROOT, SECTOR, Sector, apply, sector};

/// One image among those that a crash can leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The changes of names whose bits are set, and of what they reach the `nth` combination.
    Exact {
        /// A bit for each change, oldest first.
        names: u64,
        /// A number below the product of all versions.
        nth: u64,
    },
    /// Whatever the seed says.
    Drawn(u64),
    /// As `Drawn`, and some of the sectors that no sync covers hold what nobody wrote.
    Garbage(u64),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Exact { names, nth } => write!(f, "n{names}.{nth}"),
            Choice::Drawn(seed) => write!(f, "s{seed}"),
            Choice::Garbage(seed) => write!(f, "g{seed}"),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
        match text.split_at_checked(1) {
            Some(("s", seed)) => Ok(Choice::Drawn(number(seed)?)),
            Some(("g", seed)) => Ok(Choice::Garbage(number(seed)?)),
            Some(("n", both)) => {
                let (names, nth) = both.split_once('.').ok_or("n<names>.<nth> is expected")?;
                Ok(Choice::Exact { names: number(names)?, nth: number(nth)? })
            }
            _ => Err(format!("{text:?} begins with neither n, s nor g")),
        }
    }
}

/// What a choice has built.
pub struct Built {
    /// The image.
    pub image: Image,
    /// The files that hold what nobody wrote.
    pub garbage: Vec<String>,
}

/// A place of which a crash can leave several versions; the first is the durable one.
enum Slot {
    Size { id: u64, n: u64 },
    Sector { id: u64, at: usize, n: u64 },
}

impl Slot {
    fn n(&self) -> u64 {
        match self {
            Slot::Size { n, .. } | Slot::Sector { n, .. } => *n,
        }
    }
}

/// Everything that a crash now could leave.
pub struct Frontier<'a> {
    disk: &'a Disk,
    /// The directory of each change that no sync covers.
    changes: Vec<(u64, &'a Change)>,
}

/// The most changes of names of which all combinations are tried.
const MAX_NAMES: usize = 8;

impl<'a> Frontier<'a> {
    /// Of a disk as it is.
    pub fn new(disk: &'a Disk) -> Self {
        let dirs = disk.dirs.iter();
        let changes = dirs.flat_map(|(id, dir)| dir.pending.iter().map(|change| (*id, change)));
        Self { disk, changes: changes.collect() }
    }

    /// How many images there are, if there are at most `most`.
    pub fn count(&self, most: u64) -> Option<u64> {
        if self.changes.len() > MAX_NAMES {
            return None;
        }
        let mut count = 0_u64;
        for names in 0..1 << self.changes.len() {
            let (_, files) = self.reach(|nth| names >> nth & 1 == 1);
            let images =
                self.slots(&files).iter().try_fold(1_u64, |n, slot| n.checked_mul(slot.n()));
            count = count.checked_add(images?)?;
            if count > most {
                return None;
            }
        }
        Some(count)
    }

    /// All images.
    pub fn each(&self, mut meet: impl FnMut(Choice, Built)) {
        for names in 0..1 << self.changes.len() {
            let (dirs, files) = self.reach(|nth| names >> nth & 1 == 1);
            let slots = self.slots(&files);
            for nth in 0..slots.iter().map(Slot::n).product() {
                let image = self.image(&dirs, &files, &slots, digits(&slots, nth));
                meet(Choice::Exact { names, nth }, Built { image, garbage: Vec::new() });
            }
        }
    }

    /// One image. None when the choice cannot be had here.
    pub fn build(&self, choice: Choice) -> Option<Built> {
        match choice {
            Choice::Exact { names, nth } => {
                let (dirs, files) = self.reach(|nth| names >> nth & 1 == 1);
                let slots = self.slots(&files);
                let image = self.image(&dirs, &files, &slots, digits(&slots, nth));
                Some(Built { image, garbage: Vec::new() })
            }
            Choice::Drawn(seed) => Some(self.draw(&mut Rng::new(seed)).0),
            Choice::Garbage(seed) => {
                let mut rng = Rng::new(seed);
                let (mut built, slots) = self.draw(&mut rng);
                self.spoil(&mut built, &slots, &mut rng).then_some(built)
            }
        }
    }

    fn draw(&self, rng: &mut Rng) -> (Built, Vec<Slot>) {
        let (n, mode) = (self.changes.len() as u64, rng.below(4));
        let cut = rng.below(n + 1);
        let chance = rng.draw();
        let (dirs, files) = self.reach(|nth| match mode {
            0 => true,
            1 => (nth as u64) < cut,
            _ => chance.rotate_left(nth as u32 * 7) & 1 == 1,
        });
        let slots = self.slots(&files);
        let n = slots.len() as u64;
        let (mode, cut) = (rng.below(6), rng.below(n + 1));
        let picked = slots.iter().enumerate().map(|(nth, slot)| {
            let (nth, newest) = (nth as u64, slot.n() - 1);
            let any = rng.below(slot.n());
            match mode {
                0 => newest,
                1 if nth < cut => newest,
                1 => 0,
                2 if nth < cut => 0,
                2 => newest,
                3 if nth == cut => any,
                3 => newest,
                _ => any,
            }
        });
        let picked: Vec<u64> = picked.collect();
        let image = self.image(&dirs, &files, &slots, picked.into_iter());
        (Built { image, garbage: Vec::new() }, slots)
    }

    /// Puts into one or two sectors that no sync covers what nobody wrote.
    fn spoil(&self, built: &mut Built, slots: &[Slot], rng: &mut Rng) -> bool {
        let sectors: Vec<(u64, usize)> = slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::Sector { id, at, .. } => Some((*id, *at)),
                Slot::Size { .. } => None,
            })
            .filter(|(id, at)| {
                let size = built.image.files.get(id).map_or(0, |file| file.size);
                (*at * SECTOR) as u64 + SECTOR as u64 <= size
            })
            .collect();
        if sectors.is_empty() {
            return false;
        }
        for _ in 0..1 + rng.below(2) {
            let (id, at) = sectors[rng.below(sectors.len() as u64) as usize];
            let file = &self.disk.files[&id];
            let bytes = |sector: Sector| sector.map_or([0; SECTOR], |filled| filled.bytes);
            let mut spoilt = bytes(file.live.get(at));
            match rng.below(3) {
                0 => spoilt = std::array::from_fn(|_| rng.draw() as u8),
                // A sector that the disk did not write whole.
                1 => {
                    let cut = (rng.below(63) as usize + 1) * 8;
                    spoilt[cut..].copy_from_slice(&bytes(file.durable.get(at))[cut..]);
                }
                _ => spoilt[rng.below(SECTOR as u64) as usize] ^= 1 << rng.below(8),
            }
            if let Some(contents) = built.image.files.get_mut(&id) {
                Arc::make_mut(contents).set(at, sector(spoilt));
                built.garbage.extend(paths(&built.image, id));
            }
        }
        true
    }

    /// The directories with the chosen changes, and the files that they reach.
    fn reach(&self, is_chosen: impl Fn(usize) -> bool) -> (BTreeMap<u64, Names>, Vec<u64>) {
        let mut dirs: BTreeMap<u64, Names> = BTreeMap::new();
        for (id, dir) in &self.disk.dirs {
            dirs.insert(*id, dir.durable.clone());
        }
        for (nth, (id, change)) in self.changes.iter().enumerate() {
            if is_chosen(nth)
                && let Some(names) = dirs.get_mut(id)
            {
                apply(names, change);
            }
        }
        let (mut kept, mut files, mut open) = (BTreeMap::new(), Vec::new(), vec![ROOT]);
        while let Some(id) = open.pop() {
            let Some(names) = dirs.remove(&id) else { continue };
            for id in names.values() {
                if self.disk.files.contains_key(id) {
                    files.push(*id);
                } else {
                    open.push(*id);
                }
            }
            kept.insert(id, names);
        }
        // Two names can stand for one file when only the half of a rename by hand has landed.
        files.sort_unstable();
        files.dedup();
        (kept, files)
    }

    fn slots(&self, files: &[u64]) -> Vec<Slot> {
        let mut slots = Vec::new();
        for &id in files {
            let file = &self.disk.files[&id];
            if !file.sizes.is_empty() {
                slots.push(Slot::Size { id, n: 1 + file.sizes.len() as u64 });
            }
            for (at, versions) in &file.sectors {
                slots.push(Slot::Sector { id, at: *at, n: 1 + versions.len() as u64 });
            }
        }
        slots
    }

    fn image(
        &self,
        dirs: &BTreeMap<u64, Names>,
        files: &[u64],
        slots: &[Slot],
        mut picked: impl Iterator<Item = u64>,
    ) -> Image {
        let durable = |id: &u64| (*id, Arc::clone(&self.disk.files[id].durable));
        let mut image = Image { dirs: dirs.clone(), files: files.iter().map(durable).collect() };
        let mut changed: Option<(u64, Contents)> = None;
        for slot in slots {
            let pick = picked.next().unwrap_or_default();
            let (Slot::Size { id, .. } | Slot::Sector { id, .. }) = slot;
            let file = &self.disk.files[id];
            if changed.as_ref().is_none_or(|(open, _)| open != id) {
                finish(&mut image, changed.take());
                changed = Some((*id, (*file.durable).clone()));
            }
            let (Some((_, contents)), Some(version)) = (&mut changed, pick.checked_sub(1)) else {
                continue;
            };
            match slot {
                Slot::Size { .. } => contents.size = file.sizes[version as usize],
                Slot::Sector { at, .. } => {
                    contents.set(*at, file.sectors[at][version as usize].clone());
                }
            }
        }
        finish(&mut image, changed);
        image
    }
}

fn finish(image: &mut Image, changed: Option<(u64, Contents)>) {
    if let Some((id, mut contents)) = changed {
        contents.trim();
        image.files.insert(id, Arc::new(contents));
    }
}

/// The digits of a number whose places have these bases.
fn digits(slots: &[Slot], mut number: u64) -> impl Iterator<Item = u64> {
    slots.iter().map(move |slot| {
        let digit = number % slot.n();
        number /= slot.n();
        digit
    })
}

/// What a file is called.
fn paths(image: &Image, file: u64) -> Vec<String> {
    let names = image.dirs.values().flatten();
    names.filter(|(_, id)| **id == file).map(|(name, _)| name.to_string()).collect()
}
