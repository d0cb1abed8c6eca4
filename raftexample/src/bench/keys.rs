//! Which keys are asked for, what they are called, and what is stored under them.
//!
//! A value begins with its key, and goes on with bytes that depend on their place: who is given
//! another key's value, or a value with a part missing, sees it without keeping a copy of any.

use bytes::{BufMut, Bytes, BytesMut};
use rand::distr::{Distribution as _, Uniform};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use rand_distr::Zipf;

use super::round::Failure;

/// The skew of YCSB's zipfian keys.
const ZIPF_EXPONENT: f64 = 0.99;
/// What the node takes at most.
const MAX_NAME_BYTES: usize = 4096;

/// Which keys are asked for more than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Distribution {
    /// All alike.
    Uniform,
    /// As in YCSB: the n-th most popular key is asked for in proportion to n^-0.99.
    Zipfian,
}

/// The keys of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeySpace {
    n_keys: u64,
    name_bytes: usize,
    distribution: Distribution,
}

/// A connection's walk over the keys, the same at each run.
#[derive(Debug)]
pub(crate) struct Walk {
    rng: Xoshiro256PlusPlus,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Uniform(Uniform<u64>),
    Zipfian { ranks: Zipf<f64>, stride: u64, n_keys: u64 },
}

/// What is stored under the keys.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    filler: Bytes,
}

impl KeySpace {
    /// Keys `0..n_keys` with names of this length, of which `n_own` more are set apart.
    pub(crate) fn new(
        n_keys: u64,
        n_own: u64,
        name_bytes: usize,
        distribution: Distribution,
    ) -> Result<KeySpace, Failure> {
        let digits = |n: u64| n.saturating_sub(1).max(1).ilog10() as usize + 1;
        let least = 1 + digits(n_keys).max(digits(n_own));
        if name_bytes < least {
            return Err(Failure::new(format!(
                "--key-bytes {name_bytes} cannot tell {} keys apart: it takes {least}",
                n_keys.max(n_own),
            )));
        }
        if name_bytes > MAX_NAME_BYTES {
            return Err(Failure::new(format!(
                "--key-bytes {name_bytes} is more than a key may have: {MAX_NAME_BYTES}"
            )));
        }
        Ok(KeySpace { n_keys, name_bytes, distribution })
    }

    /// How many are shared by all connections.
    pub(crate) fn n_keys(&self) -> u64 {
        self.n_keys
    }

    /// What a key is called: a letter and digits, so that nothing needs to be encoded.
    pub(crate) fn name(&self, key: u64) -> String {
        format!("k{key:0width$}", width = self.name_bytes - 1)
    }

    /// The same behind a slash, made in one piece.
    #[allow(dead_code, reason = "the same load on another store has no paths")]
    pub(crate) fn path(&self, key: u64) -> String {
        format!("/k{key:0width$}", width = self.name_bytes - 1)
    }

    /// What a key is called that one connection alone writes.
    #[allow(dead_code, reason = "the same load on another store has no conditional writes")]
    pub(crate) fn own_name(&self, key: u64) -> String {
        format!("c{key:0width$}", width = self.name_bytes - 1)
    }

    /// One connection's walk.
    pub(crate) fn walk(&self, connection: u16) -> Walk {
        let n_keys = self.n_keys;
        let step = match self.distribution {
            Distribution::Uniform => {
                Step::Uniform(Uniform::new(0, n_keys).expect("there is at least one key"))
            }
            Distribution::Zipfian => Step::Zipfian {
                ranks: Zipf::new(n_keys as f64, ZIPF_EXPONENT)
                    .expect("there is at least one key, and the exponent is positive"),
                stride: stride(n_keys),
                n_keys,
            },
        };
        // Not the numbers that a mix is drawn by, or an operation would have keys of its own.
        let seed = u64::from(connection) | 1 << 32;
        Walk { rng: Xoshiro256PlusPlus::seed_from_u64(seed), step }
    }
}

impl Walk {
    /// The next key.
    pub(crate) fn pick(&mut self) -> u64 {
        match &self.step {
            Step::Uniform(keys) => keys.sample(&mut self.rng),
            Step::Zipfian { ranks, stride, n_keys } => {
                let rank = (ranks.sample(&mut self.rng) as u64).clamp(1, *n_keys) - 1;
                (u128::from(rank) * u128::from(*stride) % u128::from(*n_keys)) as u64
            }
        }
    }
}

/// How far apart keys of neighbouring popularity lie, so that popular ones are not each other's
/// neighbours in a tree. It has no divisor in common with the number of keys: each key has one rank.
fn stride(n_keys: u64) -> u64 {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let begin = ((n_keys as f64 * GOLDEN) as u64).max(1);
    (begin..).find(|&stride| gcd(stride, n_keys) == 1).unwrap_or(1)
}

impl Values {
    /// Values of this length.
    pub(crate) fn new(n_bytes: usize) -> Values {
        // A disk or a line that compresses gains nothing.
        let mut filler = vec![0; n_bytes];
        Xoshiro256PlusPlus::seed_from_u64(0).fill_bytes(&mut filler);
        Values { filler: filler.into() }
    }

    /// The length of each.
    pub(crate) fn n_bytes(&self) -> usize {
        self.filler.len()
    }

    /// What is stored under a key.
    pub(crate) fn of(&self, name: &str) -> Bytes {
        let (name, filler) = self.parts(name);
        let mut value = BytesMut::with_capacity(self.n_bytes());
        value.put_slice(name);
        value.put_slice(filler);
        value.freeze()
    }

    /// Whether this is what a key's value holds from `offset` on.
    pub(crate) fn holds(&self, name: &str, offset: usize, part: &[u8]) -> bool {
        let (name, filler) = self.parts(name);
        let in_name = name.len().saturating_sub(offset).min(part.len());
        let (of_name, of_filler) = part.split_at(in_name);
        let filler_offset = (offset + in_name).saturating_sub(name.len());
        let here = |from: &[u8], at: usize, part: &[u8]| {
            part.is_empty() || from.get(at..at + part.len()) == Some(part)
        };
        here(name, offset, of_name) && here(filler, filler_offset, of_filler)
    }

    fn parts<'a>(&'a self, name: &'a str) -> (&'a [u8], &'a [u8]) {
        let in_name = name.len().min(self.n_bytes());
        (&name.as_bytes()[..in_name], &self.filler[in_name..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(n_keys: u64, distribution: Distribution) -> KeySpace {
        KeySpace::new(n_keys, 0, 9, distribution).expect("nine bytes tell them apart")
    }

    fn counts(space: KeySpace, n_picks: usize) -> Vec<u32> {
        let mut counts = vec![0; space.n_keys() as usize];
        let mut walk = space.walk(0);
        (0..n_picks).for_each(|_| counts[walk.pick() as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    /// The skew is the one that is promised, not any: ranks 1, 2 and 10, and the sum of the first
    /// hundred, as the definition has them.
    #[test]
    fn zipfian_keys_are_as_skewed_as_ycsbs() {
        let counts = counts(space(1000, Distribution::Zipfian), 200_000);
        let weights: Vec<f64> = (1..=1000).map(|rank| f64::from(rank).powf(-0.99)).collect();
        let sum: f64 = weights.iter().sum();
        for rank in [0, 1, 9] {
            let (share, wanted) = (f64::from(counts[rank]) / 200_000.0, weights[rank] / sum);
            assert!((share / wanted - 1.0).abs() < 0.1, "rank {rank}: {share}, not {wanted}");
        }
        let first: u32 = counts[..100].iter().sum();
        let wanted = weights[..100].iter().sum::<f64>() / sum;
        assert!((f64::from(first) / 200_000.0 - wanted).abs() < 0.01, "{first}, {wanted}");
    }

    /// Uniform is flat.
    #[test]
    fn uniform_keys_are_asked_for_alike() {
        let counts = counts(space(100, Distribution::Uniform), 100_000);
        assert!(counts[0] < 1200 && counts[99] > 800, "{counts:?}");
    }

    /// A key that no rank leads to would never be asked for.
    #[test]
    fn each_key_has_one_rank() {
        for n_keys in [1, 2, 3, 10, 97, 100, 1024, 99_991] {
            let mut seen = vec![false; n_keys as usize];
            for rank in 0..n_keys {
                let key = (u128::from(rank) * u128::from(stride(n_keys))) % u128::from(n_keys);
                assert!(!std::mem::replace(&mut seen[key as usize], true), "{n_keys}: {key}");
            }
        }
    }

    /// Two runs measure the same, and two connections ask for different keys.
    #[test]
    fn walks_repeat_by_connection() {
        for distribution in [Distribution::Uniform, Distribution::Zipfian] {
            let keys = space(100_000, distribution);
            let walk = |connection| {
                let mut walk = keys.walk(connection);
                (0..32).map(|_| walk.pick()).collect::<Vec<_>>()
            };
            assert_eq!(walk(1), walk(1));
            assert_ne!(walk(1), walk(2));
        }
    }

    /// Names that are cut would make two keys one.
    #[test]
    fn names_that_are_too_short_or_too_long_are_refused() {
        let new = |n_keys, n_own, name_bytes| {
            KeySpace::new(n_keys, n_own, name_bytes, Distribution::Uniform)
                .map(|keys| (keys.name(0), keys.own_name(n_own)))
                .map_err(|failure| failure.to_string())
        };
        assert_eq!(new(10, 0, 2), Ok(("k0".to_owned(), "c0".to_owned())));
        assert!(new(11, 0, 2).is_err_and(|text| text.contains("11 keys apart: it takes 3")));
        assert!(new(10, 11, 2).is_err_and(|text| text.contains("it takes 3")));
        assert!(new(10, 0, 4097).is_err_and(|text| text.contains("4096")));
        let keys = space(100, Distribution::Uniform);
        assert_eq!(keys.path(7), format!("/{}", keys.name(7)));
        assert_eq!(new(1, 1, 4096).map(|(name, _)| name.len()), Ok(4096));
    }

    /// Every cut of every short value against the whole, with a wrong byte at every place.
    #[test]
    fn a_value_is_told_from_any_other() {
        for n_bytes in 0..24 {
            let values = Values::new(n_bytes);
            let value = values.of("k00000007");
            assert_eq!(value.len(), n_bytes);
            for cut in 0..=n_bytes {
                assert!(values.holds("k00000007", 0, &value[..cut]));
                assert!(values.holds("k00000007", cut, &value[cut..]));
            }
            for place in 0..n_bytes {
                let mut wrong = value.to_vec();
                wrong[place] ^= 1;
                assert!(!values.holds("k00000007", 0, &wrong), "{n_bytes} bytes, {place}");
                assert!(!values.holds("k00000007", place, &wrong[place..]));
            }
            let longer = [&value[..], b"x"].concat();
            assert!(!values.holds("k00000007", 0, &longer));
            assert_eq!(values.holds("k00000008", 0, &value), n_bytes < 9);
        }
    }
}
