//! Where a case's choices come from, and the damages that they can do.

/// The unit that disks lose, repeat and mistake for another.
const SECTOR: usize = 512;

/// Bytes that mean something to one format or another.
const BYTES: [u8; 16] =
    [0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff, b'%', b'/', b'?', b'&', b'"', b'\\', b'{', b'\n'];

/// Numbers at which lengths and indexes go wrong.
const WORDS: [u64; 14] = [
    0,
    1,
    7,
    255,
    511,
    512,
    513,
    65_535,
    (1 << 20) + 1,
    (1 << 28) + 1,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    i64::MAX as u64,
    u64::MAX,
];

/// SplitMix64, the same on every machine.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
    damages_left: u64,
    n_damages: u64,
}

impl Rng {
    /// The choices of `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng::with_damages(seed, u64::MAX)
    }

    /// The choices of `seed`, of whose damages only the first are done.
    pub(crate) fn with_damages(seed: u64, damages: u64) -> Rng {
        Rng { state: seed, damages_left: damages, n_damages: 0 }
    }

    /// How many damages were asked for so far.
    pub(crate) fn n_damages(&self) -> u64 {
        self.n_damages
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    ///
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// True `n` times of `of`.
    pub fn chance(&mut self, n: u64, of: u64) -> bool {
        self.below(of) < n
    }

    /// A place in something of this length, or 0 in what is empty.
    pub fn at(&mut self, length: usize) -> usize {
        self.below(length.max(1) as u64) as usize
    }

    /// One of `choices`.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.at(choices.len())]
    }

    /// A number: small, large, or next to a border.
    pub fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.draw(),
            1 => self.pick(&WORDS).wrapping_add(self.below(3)).wrapping_sub(1),
            _ => self.below(20),
        }
    }

    /// At most `max` bytes, more often few: chance, one byte repeated, or those that mean something.
    pub fn bytes(&mut self, max: usize) -> Vec<u8> {
        let max = if self.chance(1, 2) { max.min(16) } else { max };
        let length = self.at(max + 1);
        match self.below(4) {
            0 => vec![*self.pick(&BYTES); length],
            1 => (0..length).map(|_| *self.pick(&BYTES)).collect(),
            _ => (0..length).map(|_| self.draw() as u8).collect(),
        }
    }

    /// Asks whether one more damage is to be done. A case that asks before each of its damages can
    /// be repeated with fewer of them.
    pub fn damage(&mut self) -> bool {
        self.n_damages += 1;
        let is_left = self.damages_left > 0;
        self.damages_left = self.damages_left.saturating_sub(1);
        is_left
    }

    /// Does `n` damages to `bytes`: bits flipped, bytes set to what means something, sectors
    /// zeroed, repeated over others, removed, inserted or swapped, ends cut off, and lengths
    /// written over what is there or put in between.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, n: u64) {
        for _ in 0..n {
            if !self.damage() {
                return;
            }
            self.mutate_once(bytes);
        }
    }

    fn mutate_once(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.extend(self.bytes(16));
            return;
        }
        let at = self.at(bytes.len());
        match self.below(14) {
            0..=2 => bytes[at] ^= 1 << self.below(8),
            3 | 4 => bytes[at] = *self.pick(&BYTES),
            5 => bytes.truncate(at),
            6 => {
                let word = self.word();
                let end = bytes.len().min(at + word.len());
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
            7 => {
                let word = self.word();
                bytes.splice(at..at, word);
            }
            8 => {
                let inserted = self.bytes(16);
                bytes.splice(at..at, inserted);
            }
            kind => self.move_sectors(bytes, kind),
        }
    }

    fn move_sectors(&mut self, bytes: &mut Vec<u8>, kind: u64) {
        // What is too short for sectors has shorter parts that can be lost.
        let sector = if bytes.len() >= 2 * SECTOR { SECTOR } else { 1 + self.at(16) };
        let n = bytes.len().div_ceil(sector);
        let mut part = || {
            let from = self.at(n) * sector;
            from..bytes.len().min(from + sector)
        };
        let (from, to) = (part(), part());
        let content = bytes[from.clone()].to_vec();
        match kind {
            9 => bytes[from].fill(0),
            10 => {
                let length = content.len().min(to.len());
                bytes[to.start..][..length].copy_from_slice(&content[..length]);
            }
            11 => drop(bytes.drain(from)),
            12 => drop(bytes.splice(to.start..to.start, content)),
            _ => {
                let length = content.len().min(to.len());
                let other = bytes[to.clone()].to_vec();
                bytes[to.start..][..length].copy_from_slice(&content[..length]);
                bytes[from.start..][..length].copy_from_slice(&other[..length]);
            }
        }
    }

    /// A number as a format might hold it: of four or eight bytes, either end first.
    fn word(&mut self) -> Vec<u8> {
        let number = self.number();
        match self.below(4) {
            0 => number.to_le_bytes().to_vec(),
            1 => number.to_be_bytes().to_vec(),
            2 => (number as u32).to_le_bytes().to_vec(),
            _ => (number as u32).to_be_bytes().to_vec(),
        }
    }
}
