//! The name of a proposal, unique for ever: who proposed it, in which life, and its number.
//!
//! It travels in the entry's context, so that every member can tell whose entry it is applying.
//!
//! ```text
//!  0         8         16         24
//!  ├─ node ──┼─ nonce ─┼─ sequence ┤     u64 each, little endian
//! ```

/// A proposal's name. `nonce` is drawn at every start of the process, so that a restarted node
/// never takes an old entry for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) node: u64,
    pub(crate) nonce: u64,
    pub(crate) sequence: u64,
}

/// One try at a proposal: the same key may be given to leaders of several terms, one after the
/// other, and news of an earlier try must not be taken for news of a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) key: Key,
    /// The term whose leader it was given to.
    pub(crate) term: u64,
}

impl Key {
    pub(crate) const LEN: usize = 24;

    pub(crate) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.node.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// `None` unless the bytes are exactly a key.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let [node, nonce, sequence] = words else { return None };
        rest.is_empty().then(|| Self {
            node: u64::from_le_bytes(*node),
            nonce: u64::from_le_bytes(*nonce),
            sequence: u64::from_le_bytes(*sequence),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    /// The bytes reach disks and other members: they are pinned.
    #[test]
    fn key_bytes_are_pinned() {
        let key = Key { node: 1, nonce: 0x0203, sequence: 4 };
        let mut expected = [0; 24];
        (expected[0], expected[8], expected[9], expected[16]) = (1, 3, 2, 4);
        assert_eq!(key.encode(), expected);
        assert_eq!(Key::decode(&expected), Some(key));
        assert_eq!(Key::decode(&expected[..23]), None);
        assert_eq!(Key::decode(&[0; 25]), None);
    }
}
