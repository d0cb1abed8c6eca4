//! A disk with everything that a crash could make of it: what is durable, what the program sees,
//! and each version of a sector, length or name between the two.
//!
//! - K1 What a sync has covered is in every image.
//! - K2 Of a sector that was written since, an image holds the durable version or any later one,
//!   whatever it holds of other sectors; of a length likewise.
//! - K3 Each change of a name in a directory that was not synced since is in an image or not,
//!   whatever else is. A rename is one change.
//!
//! Sectors are shared and carry their hash, so that an image costs what it holds differently.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The unit that a disk writes whole or not at all.
pub const SECTOR: usize = 512;
/// The directory that everything is in.
pub const ROOT: u64 = 0;

/// A sector that holds something; one of zeros is `None` wherever sectors are held.
pub type Sector = Option<Arc<Filled>>;
/// A name in a directory.
pub type Name = Arc<str>;
/// The names in a directory, and what they stand for.
pub type Names = BTreeMap<Name, u64>;

/// The bytes of a sector, and their hash.
#[derive(Debug)]
pub struct Filled {
    /// The bytes, not all zero.
    pub bytes: [u8; SECTOR],
    hash: u128,
}

/// A sector of these bytes.
pub fn sector(bytes: [u8; SECTOR]) -> Sector {
    if bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    let mut hash = 0x6a09_e667_f3bc_c908_bb67_ae85_84ca_a73b;
    for word in bytes.as_chunks::<8>().0 {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    Some(Arc::new(Filled { bytes, hash }))
}

fn is_same(left: &Sector, right: &Sector) -> bool {
    match (left, right) {
        (None, None) => true,
        (Some(left), Some(right)) => Arc::ptr_eq(left, right) || left.hash == right.hash,
        _ => false,
    }
}

/// Folds a word into a hash of two independent halves.
fn mix(hash: u128, word: u64) -> u128 {
    let fold = |half: u64, factor: u64| {
        let product = u128::from(half) * u128::from(factor);
        (product as u64) ^ (product >> 64) as u64
    };
    let low = fold(hash as u64 ^ word ^ 0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93);
    let high = fold(
        (hash >> 64) as u64 ^ word.rotate_left(29) ^ 0x2545_f491_4f6c_dd1d,
        0xa076_1d64_78bd_642f,
    );
    u128::from(low.rotate_left(17)) | (u128::from(high.rotate_left(31)) << 64)
}

fn mix_all(hash: u128, more: u128) -> u128 {
    mix(mix(hash, more as u64), (more >> 64) as u64)
}

/// What a file holds.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// The length in bytes.
    pub size: u64,
    /// From the first on; those behind the last are zeros.
    pub sectors: Vec<Sector>,
}

impl Contents {
    /// Fills `bytes` from `offset` on, and says how far.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> usize {
        let end = self.size.min(offset.saturating_add(bytes.len() as u64));
        let mut at = offset;
        while at < end {
            let within = (at % SECTOR as u64) as usize;
            let length = (SECTOR - within).min((end - at) as usize);
            let target = &mut bytes[(at - offset) as usize..][..length];
            match self.sectors.get((at / SECTOR as u64) as usize) {
                Some(Some(filled)) => target.copy_from_slice(&filled.bytes[within..][..length]),
                _ => target.fill(0),
            }
            at += length as u64;
        }
        at.saturating_sub(offset) as usize
    }

    /// Sets a sector.
    pub fn set(&mut self, at: usize, to: Sector) {
        if self.sectors.len() <= at {
            if to.is_none() {
                return;
            }
            self.sectors.resize(at + 1, None);
        }
        self.sectors[at] = to;
    }

    /// The sector there.
    pub fn get(&self, at: usize) -> Sector {
        self.sectors.get(at).cloned().flatten()
    }

    /// Drops what lies behind the length.
    pub fn trim(&mut self) {
        let whole = (self.size / SECTOR as u64) as usize;
        let within = (self.size % SECTOR as u64) as usize;
        self.sectors.truncate(whole + usize::from(within > 0));
        if within > 0
            && let Some(Some(last)) = self.sectors.get(whole)
            && last.bytes[within..].iter().any(|byte| *byte != 0)
        {
            let mut bytes = last.bytes;
            bytes[within..].fill(0);
            self.sectors[whole] = sector(bytes);
        }
    }

    fn hash(&self) -> u128 {
        let mut hash = mix(1, self.size);
        for (at, sector) in self.sectors.iter().enumerate() {
            if let Some(filled) = sector {
                hash = hash.wrapping_add(mix(filled.hash, at as u64));
            }
        }
        hash
    }
}

/// Something that a program did to its disk.
#[derive(Debug, Clone)]
pub enum Op {
    /// A file or a directory got its first name.
    Link {
        /// The directory.
        dir: u64,
        /// The name.
        name: Name,
        /// What it stands for from now on.
        id: u64,
        /// Whether that is a directory.
        is_dir: bool,
    },
    /// A name became another one.
    Rename {
        /// The directory.
        dir: u64,
        /// The name that is gone.
        from: Name,
        /// The name that is there instead, whatever it stood for before.
        to: Name,
        /// What it stands for.
        id: u64,
    },
    /// A name went.
    Unlink {
        /// The directory.
        dir: u64,
        /// The name.
        name: Name,
    },
    /// A directory was synced.
    SyncDir {
        /// The directory.
        dir: u64,
    },
    /// Sectors were written.
    Write {
        /// The file.
        id: u64,
        /// What they hold now.
        sectors: Vec<(usize, Sector)>,
        /// The length of the file, which may have grown.
        size: u64,
    },
    /// The length was changed.
    Resize {
        /// The file.
        id: u64,
        /// The length.
        size: u64,
    },
    /// A file was synced.
    Sync {
        /// The file.
        id: u64,
    },
}

/// A file as the program sees it, and as a crash may leave it.
#[derive(Debug, Clone, Default)]
pub struct File {
    /// As the program sees it.
    pub live: Arc<Contents>,
    /// As the disk holds it at least.
    pub durable: Arc<Contents>,
    /// The versions of each sector since then, oldest first.
    pub sectors: BTreeMap<usize, Vec<Sector>>,
    /// The lengths since then.
    pub sizes: Vec<u64>,
}

/// A change of a name.
#[derive(Debug, Clone)]
pub enum Change {
    /// The name stands for this.
    Link(Name, u64),
    /// The first name became the second.
    Rename(Name, Name, u64),
    /// The name is gone.
    Unlink(Name),
}

/// A directory as the program sees it, and as a crash may leave it.
#[derive(Debug, Clone, Default)]
pub struct Dir {
    /// As the program sees it.
    pub live: Names,
    /// As the disk holds it at least.
    pub durable: Names,
    /// What was done since then.
    pub pending: Vec<Change>,
}

/// What a machine finds on its disk when it starts.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Directories; the root is one.
    pub dirs: BTreeMap<u64, Names>,
    /// Files.
    pub files: BTreeMap<u64, Arc<Contents>>,
}

impl Image {
    /// An empty disk.
    pub fn empty() -> Image {
        Image { dirs: BTreeMap::from([(ROOT, Names::new())]), files: BTreeMap::new() }
    }

    /// Names, lengths and contents, and nothing else.
    pub fn hash(&self) -> u128 {
        self.hash_dir(ROOT, 7)
    }

    fn hash_dir(&self, dir: u64, path: u128) -> u128 {
        let mut hash = path;
        for (name, id) in self.dirs.get(&dir).into_iter().flatten() {
            let path = name.bytes().fold(mix(path, 0x2f), |hash, byte| mix(hash, byte.into()));
            let below = match self.files.get(id) {
                Some(file) => mix_all(path, file.hash()),
                None => self.hash_dir(*id, mix(path, 0xd1)),
            };
            hash = hash.wrapping_add(below);
        }
        hash
    }

    /// A line for each name: for whoever looks at a failure.
    pub fn describe(&self) -> String {
        let mut lines = Vec::new();
        self.describe_dir(ROOT, "", &mut lines);
        lines.join("\n")
    }

    fn describe_dir(&self, dir: u64, path: &str, lines: &mut Vec<String>) {
        for (name, id) in self.dirs.get(&dir).into_iter().flatten() {
            let path = format!("{path}/{name}");
            if let Some(file) = self.files.get(id) {
                let n_sectors = file.size.div_ceil(SECTOR as u64) as usize;
                let map: String = (0..n_sectors)
                    .map(|at| match file.get(at) {
                        None => "  ----".to_owned(),
                        Some(filled) => format!("  {:04x}", filled.hash as u16),
                    })
                    .collect();
                lines.push(format!("{path} {} bytes, sectors{map}", file.size));
            } else {
                lines.push(format!("{path}/"));
                self.describe_dir(*id, &path, lines);
            }
        }
    }
}

/// A disk that is being used.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Directories.
    pub dirs: BTreeMap<u64, Dir>,
    /// Files, those without a name too.
    pub files: BTreeMap<u64, File>,
}

impl Disk {
    /// As a machine finds it: everything that is there is durable.
    pub fn new(image: &Image) -> Disk {
        let dir = |names: &Names| Dir {
            live: names.clone(),
            durable: names.clone(),
            pending: Vec::new(),
        };
        let file = |contents: &Arc<Contents>| File {
            live: Arc::clone(contents),
            durable: Arc::clone(contents),
            ..File::default()
        };
        Disk {
            dirs: image.dirs.iter().map(|(id, names)| (*id, dir(names))).collect(),
            files: image.files.iter().map(|(id, contents)| (*id, file(contents))).collect(),
        }
    }

    /// A number that nothing has.
    pub fn next_id(&self) -> u64 {
        let last = |id: Option<&u64>| id.copied().unwrap_or(ROOT);
        last(self.dirs.keys().next_back()).max(last(self.files.keys().next_back())) + 1
    }

    /// Does what an operation did.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Link { dir, name, id, is_dir } => {
                if *is_dir {
                    self.dirs.insert(*id, Dir::default());
                } else {
                    self.files.insert(*id, File::default());
                }
                self.change(*dir, Change::Link(name.clone(), *id));
            }
            Op::Rename { dir, from, to, id } => {
                self.change(*dir, Change::Rename(from.clone(), to.clone(), *id));
            }
            Op::Unlink { dir, name } => self.change(*dir, Change::Unlink(name.clone())),
            Op::SyncDir { dir } => {
                if let Some(dir) = self.dirs.get_mut(dir) {
                    dir.durable.clone_from(&dir.live);
                    dir.pending.clear();
                }
            }
            Op::Write { id, sectors, size } => {
                let Some(file) = self.files.get_mut(id) else { return };
                let live = Arc::make_mut(&mut file.live);
                for (at, new) in sectors {
                    let old = live.get(*at);
                    if !is_same(&old, new) {
                        live.set(*at, new.clone());
                        file.sectors.entry(*at).or_default().push(new.clone());
                    }
                }
                file.resize(*size);
            }
            Op::Resize { id, size } => {
                let Some(file) = self.files.get_mut(id) else { return };
                file.resize(*size);
            }
            Op::Sync { id } => {
                let Some(file) = self.files.get_mut(id) else { return };
                file.durable = Arc::clone(&file.live);
                file.sectors.clear();
                file.sizes.clear();
            }
        }
    }

    fn change(&mut self, dir: u64, change: Change) {
        if let Some(dir) = self.dirs.get_mut(&dir) {
            apply(&mut dir.live, &change);
            dir.pending.push(change);
        }
    }
}

impl File {
    fn resize(&mut self, size: u64) {
        if size == self.live.size {
            return;
        }
        let live = Arc::make_mut(&mut self.live);
        if size < live.size {
            let kept = size.div_ceil(SECTOR as u64) as usize;
            for at in kept..live.sectors.len() {
                if live.get(at).is_some() {
                    self.sectors.entry(at).or_default().push(None);
                }
            }
        }
        live.size = size;
        live.trim();
        self.sizes.push(size);
    }
}

/// Does to names what a change says.
pub fn apply(names: &mut Names, change: &Change) {
    match change {
        Change::Link(name, id) => {
            names.insert(name.clone(), *id);
        }
        Change::Rename(from, to, id) => {
            names.remove(from);
            names.insert(to.clone(), *id);
        }
        Change::Unlink(name) => {
            names.remove(name);
        }
    }
}
