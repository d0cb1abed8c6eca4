//! Who this member is, on disk, before it speaks to anyone.
//!
//! The identity file is the last thing that founding a data directory makes durable: a directory
//! without it was never used and may be begun again. It is written once.
//!
//! ```text
//!   0         8         16        24                  40        48        56
//!   ├─ magic ─┼ version ┼─ node ──┼── incarnation ────┼─cluster─┼─ crc64 ─┤
//! ```
//!
//! All numbers little endian; magic is the eight bytes `raftnode`, the checksum covers the 48
//! bytes before it. A cluster of 0 means: not known yet.

use sha2::{Digest, Sha256};

use crate::membership::Founder;

const MAGIC: &[u8; 8] = b"raftnode";
const VERSION: u64 = 1;

/// A member's name for life. The incarnation is drawn when the data directory is made, so that a
/// member that lost its directory is not mistaken for the one that voted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) node: u64,
    pub(crate) incarnation: u128,
    pub(crate) cluster: u64,
}

impl Identity {
    pub(crate) const LEN: usize = 56;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.node.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.cluster.to_le_bytes());
        let crc = crc64(&bytes[..48]);
        bytes[48..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// # Errors
    ///
    /// Says what the bytes are not.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some((head, rest)) = bytes.split_first_chunk::<{ Self::LEN }>() else {
            return Err(format!("holds {} bytes instead of {}", bytes.len(), Self::LEN));
        };
        if !rest.is_empty() {
            return Err(format!("holds {} bytes instead of {}", bytes.len(), Self::LEN));
        }
        if &head[..8] != MAGIC {
            return Err("does not begin as an identity file does".into());
        }
        let version = word(head, 8);
        if version != VERSION {
            return Err(format!("has format version {version}; this program knows {VERSION}"));
        }
        if word(head, 48) != crc64(&head[..48]) {
            return Err("fails its checksum".into());
        }
        let incarnation = u128::from(word(head, 24)) | (u128::from(word(head, 32)) << 64);
        Ok(Self { node: word(head, 16), incarnation, cluster: word(head, 40) })
    }
}

fn word(bytes: &[u8; Identity::LEN], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

pub(crate) fn crc64(bytes: &[u8]) -> u64 {
    let mut digest = crc64fast::Digest::new();
    digest.write(bytes);
    digest.sum64()
}

/// The id of the cluster that these founders begin under this token: every founder computes the
/// same one without talking to the others. Never zero, which stands for "not known".
pub(crate) fn cluster_id(founders: &[Founder], token: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(b"raftnode cluster 1\n");
    for founder in founders {
        hash.update(format!("{}={}\n", founder.id, founder.url));
    }
    hash.update(b"token=");
    hash.update(token);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_le_bytes(first).max(1)
}

/// Bytes from the operating system's generator.
///
/// # Panics
///
/// When the system has none to give: a member without a nonce of its own could take another's
/// entries for its own.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[cfg(feature = "simulation")]
    if seeded::fill(&mut bytes) {
        return bytes;
    }
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Randomness that a simulation can repeat.
#[cfg(feature = "simulation")]
pub(crate) mod seeded {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// While `run` runs, what this thread draws follows from `seed`.
    pub(crate) fn with<T>(seed: u64, run: impl FnOnce() -> T) -> T {
        // Also when `run` panics: the thread may go on, and must not go on from a seed.
        struct Restore(Option<u64>);
        impl Drop for Restore {
            fn drop(&mut self) {
                STATE.set(self.0);
            }
        }
        let _restore = Restore(STATE.replace(Some(seed)));
        run()
    }

    /// Whether the bytes were filled from a seed.
    pub(super) fn fill(bytes: &mut [u8]) -> bool {
        let Some(mut state) = STATE.get() else { return false };
        for chunk in bytes.chunks_mut(8) {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
        STATE.set(Some(state));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed holds for what runs under it, and no longer, however that ends.
    #[cfg(feature = "simulation")]
    #[test]
    fn a_seed_ends_with_what_it_is_for() {
        let draw = || seeded::with(7, random::<16>);
        assert_eq!(draw(), draw());
        let panics = || seeded::with(7, || panic!("on purpose"));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_ne!(random::<16>(), random::<16>());
        assert_ne!(random::<16>(), draw());
    }

    fn identity() -> Identity {
        Identity { node: 7, incarnation: (9 << 64) | 8, cluster: 0xfeed }
    }

    /// The bytes are a format on disk: they are pinned by a golden file.
    #[test]
    fn identity_bytes_are_pinned() {
        let golden: &[u8] = include_bytes!("golden/identity-v1");
        assert_eq!(identity().encode().as_slice(), golden);
        assert_eq!(Identity::decode(golden), Ok(identity()));
    }

    /// Every flipped bit and every shorter or longer file is refused.
    #[test]
    fn damaged_identity_is_refused() {
        let bytes = identity().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Identity::decode(&bytes[..length]).is_err(), "length {length}");
        }
        assert!(Identity::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    /// Two clusters with the same members are told apart by their token; the id never is zero.
    #[test]
    fn cluster_id_depends_on_members_and_token() {
        let founders = |url: &str| vec![Founder { id: 1, url: url.into() }];
        let ids = [
            cluster_id(&founders("http://a:1"), ""),
            cluster_id(&founders("http://a:1"), "blue"),
            cluster_id(&founders("http://a:2"), ""),
        ];
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
        assert_eq!(ids[0], cluster_id(&founders("http://a:1"), ""));
    }
}
