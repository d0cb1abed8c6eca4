//! The images that a crash can leave of a disk: all of them, or those that a seed draws.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use fuzz::Rng;

use crate::disk::{
    Change, Contents, Disk, File, Image, Names, ROOT, SECTOR, Sector, apply, sector,
};

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
    /// As `Exact`, where each sector that no sync covers has one more version: what nobody wrote.
    Spoilt {
        /// A bit for each change, oldest first.
        names: u64,
        /// A number below the product of all versions.
        nth: u64,
        /// What nobody wrote.
        seed: u64,
    },
    /// Everything, as it is: only the process has died. What no sync covers is still pending, and
    /// can be lost by the next crash.
    Killed,
    /// As `Drawn`, and a sector that a sync covers has lost what it held, or a bit of it.
    Damage(u64),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Exact { names, nth } => write!(f, "n{names}.{nth}"),
            Choice::Drawn(seed) => write!(f, "s{seed}"),
            Choice::Garbage(seed) => write!(f, "g{seed}"),
            Choice::Spoilt { names, nth, seed } => write!(f, "g{names}.{nth}.{seed}"),
            Choice::Damage(seed) => write!(f, "d{seed}"),
            Choice::Killed => f.write_str("k"),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
        match text.split_at_checked(1) {
            Some(("s", seed)) => Ok(Choice::Drawn(number(seed)?)),
            Some(("g", text)) => match text.split('.').collect::<Vec<_>>()[..] {
                [seed] => Ok(Choice::Garbage(number(seed)?)),
                [names, nth, seed] => Ok(Choice::Spoilt {
                    names: number(names)?,
                    nth: number(nth)?,
                    seed: number(seed)?,
                }),
                _ => Err("g<seed> or g<names>.<nth>.<seed> is expected".into()),
            },
            Some(("k", "")) => Ok(Choice::Killed),
            Some(("d", seed)) => Ok(Choice::Damage(number(seed)?)),
            Some(("n", both)) => {
                let (names, nth) = both.split_once('.').ok_or("n<names>.<nth> is expected")?;
                Ok(Choice::Exact { names: number(names)?, nth: number(nth)? })
            }
            _ => Err(format!("{text:?} begins with none of n, s, g, d and k")),
        }
    }
}

/// What a choice has built.
pub struct Built {
    /// The image.
    pub image: Image,
    /// The files that hold what nobody wrote.
    pub garbage: Vec<String>,
    /// The file that has lost what a sync had covered.
    pub damaged: Option<String>,
    /// What is pending on the disk, if the machine has not lost power.
    pub disk: Option<Disk>,
}

impl Built {
    /// The disk that the next life runs on.
    pub fn disk(&self) -> Disk {
        self.disk.clone().unwrap_or_else(|| Disk::new(&self.image))
    }

    /// An image that an honest disk can leave.
    pub fn sound(image: Image) -> Self {
        Self { image, garbage: Vec::new(), damaged: None, disk: None }
    }
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
    garbage: Option<Garbage>,
}

/// One more version of each sector that no sync covers, by its file and its place: what nobody wrote.
struct Garbage {
    seed: u64,
    sectors: BTreeMap<(u64, usize), Sector>,
}

/// The most changes of names of which all combinations are tried.
const MAX_NAMES: usize = 8;

impl<'a> Frontier<'a> {
    /// Of a disk as it is.
    pub fn new(disk: &'a Disk) -> Self {
        let dirs = disk.dirs.iter();
        let changes = dirs.flat_map(|(id, dir)| dir.pending.iter().map(|change| (*id, change)));
        Self { disk, changes: changes.collect(), garbage: None }
    }

    /// Of a disk that may also have put, into any sector that no sync covers, what the seed gives.
    pub fn spoilt(disk: &'a Disk, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut sectors = BTreeMap::new();
        for (id, file) in &disk.files {
            for at in file.sectors.keys() {
                sectors.insert((*id, *at), nobodys(file, *at, &mut rng));
            }
        }
        let garbage = (!sectors.is_empty()).then_some(Garbage { seed, sectors });
        Self { garbage, ..Self::new(disk) }
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
                let choice = match &self.garbage {
                    None => Choice::Exact { names, nth },
                    Some(garbage) => Choice::Spoilt { names, nth, seed: garbage.seed },
                };
                meet(choice, self.image(&dirs, &files, &slots, digits(&slots, nth)));
            }
        }
    }

    /// One image. None when the choice cannot be had here.
    pub fn build(&self, choice: Choice) -> Option<Built> {
        match choice {
            Choice::Exact { names, nth } => Some(self.exact(names, nth)),
            Choice::Spoilt { names, nth, seed } => {
                Some(Self::spoilt(self.disk, seed).exact(names, nth))
            }
            Choice::Drawn(seed) => Some(self.draw(&mut Rng::new(seed)).0),
            Choice::Garbage(seed) => {
                let mut rng = Rng::new(seed);
                let (mut built, slots) = self.draw(&mut rng);
                self.spoil(&mut built, &slots, &mut rng).then_some(built)
            }
            Choice::Killed => {
                let (dirs, files) = self.reach(|_| true);
                let slots = self.slots(&files);
                let built =
                    self.image(&dirs, &files, &slots, slots.iter().map(|slot| slot.n() - 1));
                Some(Built { disk: Some(self.disk.clone()), ..built })
            }
            Choice::Damage(seed) => {
                let mut rng = Rng::new(seed);
                let (mut built, _) = self.draw(&mut rng);
                self.damage(&mut built, &mut rng).then_some(built)
            }
        }
    }

    fn exact(&self, names: u64, nth: u64) -> Built {
        let (dirs, files) = self.reach(|nth| names >> nth & 1 == 1);
        let slots = self.slots(&files);
        self.image(&dirs, &files, &slots, digits(&slots, nth))
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
        (self.image(&dirs, &files, &slots, picked.into_iter()), slots)
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
            let spoilt = nobodys(&self.disk.files[&id], at, rng);
            if let Some(contents) = built.image.files.get_mut(&id) {
                Arc::make_mut(contents).set(at, spoilt);
                built.garbage.extend(paths(&built.image, id));
            }
        }
        true
    }

    /// Takes from a segment a sector, or a bit of it, that the disk had promised to keep.
    fn damage(&self, built: &mut Built, rng: &mut Rng) -> bool {
        let sectors: Vec<(u64, usize)> = built
            .image
            .files
            .keys()
            .flat_map(|id| {
                let file = &self.disk.files[id];
                let is_held = move |at: &usize| {
                    file.durable.get(*at).is_some() && !file.sectors.contains_key(at)
                };
                (0..file.durable.sectors.len()).filter(is_held).map(|at| (*id, at))
            })
            .collect();
        if sectors.is_empty() {
            return false;
        }
        let (id, at) = sectors[rng.below(sectors.len() as u64) as usize];
        let name = paths(&built.image, id).pop().filter(|name| name.ends_with(".wal"));
        let (Some(contents), Some(name)) = (built.image.files.get_mut(&id), name) else {
            return false;
        };
        let mut bytes = contents.get(at).map_or([0; SECTOR], |filled| filled.bytes);
        if rng.below(2) == 0 {
            bytes = [0; SECTOR];
        } else {
            bytes[rng.below(SECTOR as u64) as usize] ^= 1 << rng.below(8);
        }
        Arc::make_mut(contents).set(at, sector(bytes));
        built.damaged = Some(name);
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
                let n = 1 + versions.len() as u64 + u64::from(self.garbage.is_some());
                slots.push(Slot::Sector { id, at: *at, n });
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
    ) -> Built {
        let durable = |id: &u64| (*id, Arc::clone(&self.disk.files[id].durable));
        let mut image = Image { dirs: dirs.clone(), files: files.iter().map(durable).collect() };
        let mut changed: Option<(u64, Contents)> = None;
        let mut spoilt = Vec::new();
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
                    let written = file.sectors[at].get(version as usize);
                    let garbage = self.garbage.as_ref().and_then(|g| g.sectors.get(&(*id, *at)));
                    // The length was picked before: what lies behind it is not there.
                    if written.is_none() && ((*at * SECTOR) as u64) < contents.size {
                        spoilt.push(*id);
                    }
                    contents.set(*at, written.or(garbage).cloned().flatten());
                }
            }
        }
        finish(&mut image, changed);
        spoilt.dedup();
        let garbage = spoilt.iter().flat_map(|id| paths(&image, *id)).collect();
        Built { garbage, ..Built::sound(image) }
    }
}

fn finish(image: &mut Image, changed: Option<(u64, Contents)>) {
    if let Some((id, mut contents)) = changed {
        contents.trim();
        image.files.insert(id, Arc::new(contents));
    }
}

/// A sector that the disk has filled by itself, has not written whole, or of which it turned a bit.
fn nobodys(file: &File, at: usize, rng: &mut Rng) -> Sector {
    let bytes = |sector: Sector| sector.map_or([0; SECTOR], |filled| filled.bytes);
    let (old, new) = (bytes(file.durable.get(at)), bytes(file.live.get(at)));
    let mut spoilt = new;
    match rng.below(3) {
        0 => spoilt = std::array::from_fn(|_| rng.draw() as u8),
        1 => {
            let cut = (rng.below(63) as usize + 1) * 8;
            spoilt[cut..].copy_from_slice(&old[cut..]);
        }
        _ => {}
    }
    // What is the same on either side of the cut was written after all.
    if spoilt == new || spoilt == old {
        spoilt[rng.below(SECTOR as u64) as usize] ^= 1 << rng.below(8);
    }
    sector(spoilt)
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::disk::Op;

    /// A file whose name is durable, and of which these sectors were written and not synced, twice
    /// each; it was empty before.
    fn disk(sectors: std::ops::Range<usize>) -> Disk {
        let mut disk = Disk::new(&Image::empty());
        disk.apply(&Op::Link { dir: ROOT, name: "a.wal".into(), id: 1, is_dir: false });
        disk.apply(&Op::SyncDir { dir: ROOT });
        for byte in [1, 2] {
            for at in sectors.clone() {
                let size = ((at + 1) * SECTOR) as u64;
                let sectors = vec![(at, sector([byte; SECTOR]))];
                let size = disk.files[&1].live.size.max(size);
                disk.apply(&Op::Write { id: 1, sectors, size });
            }
        }
        disk
    }

    fn all(frontier: &Frontier<'_>) -> Vec<(Choice, Built)> {
        let mut all = Vec::new();
        frontier.each(|choice, built| all.push((choice, built)));
        all
    }

    fn hashes<'a>(all: impl IntoIterator<Item = &'a (Choice, Built)>) -> HashSet<u128> {
        all.into_iter().map(|(_, built)| built.image.hash()).collect()
    }

    /// A failure is found again by its name, whichever way its image was made.
    #[test]
    fn a_choice_is_what_its_name_says() {
        for (choice, name) in [
            (Choice::Exact { names: 3, nth: 5 }, "n3.5"),
            (Choice::Drawn(7), "s7"),
            (Choice::Garbage(7), "g7"),
            (Choice::Spoilt { names: 3, nth: 5, seed: 7 }, "g3.5.7"),
            (Choice::Damage(7), "d7"),
            (Choice::Killed, "k"),
        ] {
            assert_eq!(choice.to_string(), name);
            assert_eq!(name.parse(), Ok(choice));
        }
        for name in ["", "7", "g", "g3.5", "g3.5.", "g3.5.7.9", "n3", "k1", "x7"] {
            assert!(name.parse::<Choice>().is_err(), "{name:?}");
        }
    }

    /// Each sector has its garbage beside its versions, in every combination; without it the images
    /// are those of a disk that does no such thing.
    #[test]
    fn garbage_is_one_more_version_of_each_sector() {
        let disk = disk(0..2);
        // Three lengths, and of each sector three versions.
        let sound = all(&Frontier::new(&disk));
        assert_eq!((sound.len(), Frontier::new(&disk).count(27)), (27, Some(27)));
        let frontier = Frontier::spoilt(&disk, 9);
        let both = all(&frontier);
        assert_eq!((both.len(), frontier.count(48), frontier.count(47)), (48, Some(48), None));
        let (spoilt, clean): (Vec<_>, Vec<_>) =
            both.into_iter().partition(|(_, built)| !built.garbage.is_empty());
        assert_eq!(hashes(&clean), hashes(&sound));
        assert!(hashes(&spoilt).is_disjoint(&hashes(&sound)));
        // Of one sector its garbage; of two that of the first, of the second, and of both.
        assert_eq!(hashes(&spoilt).len(), 1 + 3 + 3 + 1);
        assert!(spoilt.iter().all(|(_, built)| built.garbage == ["a.wal"]));
    }

    /// Whoever builds a choice by its name gets the image that was met, and judges it alike.
    #[test]
    fn every_spoilt_image_is_built_again_by_its_name() {
        let disk = disk(0..2);
        let mut names = HashSet::new();
        for (choice, built) in all(&Frontier::spoilt(&disk, 9)) {
            let again = Frontier::new(&disk).build(choice).unwrap();
            assert_eq!(again.image.hash(), built.image.hash(), "{choice}");
            assert_eq!(again.garbage, built.garbage, "{choice}");
            assert!(names.insert(choice.to_string()), "{choice}");
        }
    }

    /// What is the same as a version that was written is no garbage, and is not excused as such.
    #[test]
    fn garbage_is_what_nobody_wrote() {
        // Wherever behind its first word it is cut, it is whole.
        let mut bytes = [0; SECTOR];
        bytes[..8].fill(2);
        let contents = Contents { size: SECTOR as u64, sectors: vec![sector(bytes)] };
        let file = File { live: Arc::new(contents), ..File::default() };
        for seed in 0..500 {
            let spoilt = nobodys(&file, 0, &mut Rng::new(seed)).map(|filled| filled.bytes);
            assert!(![None, Some(bytes)].contains(&spoilt), "{seed}");
        }
    }
}
