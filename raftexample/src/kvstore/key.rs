//! A key of the store's maps: bytes that are compared, and looked up, fast.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A key of a map. A short one stands in the map's own nodes: looking it up then follows no
/// pointer to memory that is in no cache, which is where the time of a large store goes.
#[derive(Debug, Clone)]
pub enum Key {
    /// Up to [`SHORT`] bytes.
    Short {
        /// How many of `bytes` it has.
        len: u8,
        /// The key, then zeros.
        bytes: [u8; SHORT],
    },
    /// More than that.
    Long(Arc<[u8]>),
}

/// The longest key that needs no memory of its own: with its length and the tag, 24 bytes.
pub const SHORT: usize = 22;

impl Key {
    /// The key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.borrow()
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        match u8::try_from(key.len()) {
            Ok(len) if key.len() <= SHORT => {
                let mut bytes = [0; SHORT];
                bytes[..key.len()].copy_from_slice(key);
                Key::Short { len, bytes }
            }
            _ => Key::Long(key.into()),
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        match self {
            Key::Short { len, bytes } => &bytes[..usize::from(*len)],
            Key::Long(key) => key,
        }
    }
}

// Short and long keys compare as the bytes they stand for, which `Borrow` demands.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// As the borrowed bytes hash, which `Borrow` demands too.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bytes: &[u8] = self.borrow();
        bytes.hash(state);
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let (own, other): (&[u8], &[u8]) = (self.borrow(), other.borrow());
        own.cmp(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key is found as the bytes it stands for, and sorts as they do, whatever its length.
    #[test]
    fn keys_compare_as_bytes() {
        let lengths = [0, 1, SHORT - 1, SHORT, SHORT + 1, 300];
        let keys: Vec<Vec<u8>> = lengths
            .iter()
            .flat_map(|len| [vec![0; *len], vec![1; *len], vec![255; *len]])
            .collect();
        for left in &keys {
            assert_eq!(Borrow::<[u8]>::borrow(&Key::from(&left[..])), &left[..]);
            for right in &keys {
                let ordering = Key::from(&left[..]).cmp(&Key::from(&right[..]));
                assert_eq!(ordering, left.cmp(right));
            }
        }
        assert_eq!(size_of::<Key>(), 24);
    }
}
