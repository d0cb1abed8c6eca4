//! Which data directory each member was first met with, on disk.
//!
//! A member that lost its data directory has forgotten what it voted for and acknowledged; under
//! its old id it would break raft. Whoever met it before tells it apart by its incarnation, and
//! must still be able to after a restart: hence this file. It is replaced as a whole whenever a
//! pin is added, and pins are never changed or dropped.
//!
//! ```text
//!  0         8         16        24                               24 + 24n
//!  ├─ magic ─┼ version ┼─── n ───┼ n times: id u64, incarnation u128 ┼─ crc64 ─┤
//! ```
//!
//! All numbers little endian, ids ascending; magic is the eight bytes `raftpins`, the checksum
//! covers everything before it. A missing file means: nobody was met yet.

use std::collections::BTreeMap;

use crate::identity::crc64;

/// The file's name in the data directory.
pub(crate) const FILE: &str = "pins";

const MAGIC: &[u8; 8] = b"raftpins";
const VERSION: u64 = 1;
const HEAD_LEN: usize = 24;
const PIN_LEN: usize = 24;

/// Far more members than a cluster ever has: beyond this the file is damaged.
pub(crate) const MAX_PINS: usize = 64 << 10;
pub(crate) const MAX_FILE_BYTES: u64 = (HEAD_LEN + MAX_PINS * PIN_LEN + 8) as u64;

pub(crate) fn encode(pins: &BTreeMap<u64, u128>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_LEN + pins.len() * PIN_LEN + 8);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(pins.len() as u64).to_le_bytes());
    for (id, incarnation) in pins {
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&incarnation.to_le_bytes());
    }
    let crc = crc64(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// # Errors
///
/// Says what the bytes are not.
pub(crate) fn decode(bytes: &[u8]) -> Result<BTreeMap<u64, u128>, String> {
    let Some((sealed, crc)) = bytes.split_last_chunk::<8>() else {
        return Err(format!("holds only {} bytes", bytes.len()));
    };
    let Some((head, pins)) = sealed.split_at_checked(HEAD_LEN) else {
        return Err(format!("holds only {} bytes", bytes.len()));
    };
    let (words, _) = head.as_chunks::<8>();
    if &words[0] != MAGIC {
        return Err("does not begin as a file of pins does".into());
    }
    let version = u64::from_le_bytes(words[1]);
    if version != VERSION {
        return Err(format!("has format version {version}; this program knows {VERSION}"));
    }
    if u64::from_le_bytes(*crc) != crc64(sealed) {
        return Err("fails its checksum".into());
    }
    let (pins, rest) = pins.as_chunks::<PIN_LEN>();
    if u64::from_le_bytes(words[2]) != pins.len() as u64 || !rest.is_empty() {
        return Err("does not hold as many pins as it says".into());
    }
    let pin = |bytes: &[u8; PIN_LEN]| {
        let (words, _) = bytes.as_chunks::<8>();
        let [id, low, high] = [0, 1, 2].map(|nth| u64::from_le_bytes(words[nth]));
        (id, u128::from(low) | (u128::from(high) << 64))
    };
    let pins: Vec<_> = pins.iter().map(pin).collect();
    // Of two pins for one id nobody could tell which is the member's.
    if !pins.is_sorted_by(|(one, _), (next, _)| one < next) {
        return Err("does not hold its pins in the order of their ids, each once".into());
    }
    Ok(pins.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pins() -> BTreeMap<u64, u128> {
        [(2, (9 << 64) | 8), (u64::MAX, 1)].into()
    }

    /// The bytes are a format on disk: they are pinned by a golden file.
    #[test]
    fn pin_bytes_are_pinned() {
        let golden: &[u8] = include_bytes!("golden/pins-v1");
        assert_eq!(encode(&pins()), golden);
        assert_eq!(decode(golden), Ok(pins()));
        assert_eq!(decode(&encode(&BTreeMap::new())), Ok(BTreeMap::new()));
    }

    /// A pin that is read wrong would shut out a healthy member, or let a wiped one vote.
    #[test]
    fn damaged_pins_are_refused() {
        let bytes = encode(&pins());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "length {length}");
        }
        assert!(decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    /// Two pins for one id, or pins in another order, are what this program never writes: the last
    /// one was believed.
    #[test]
    fn pins_out_of_order_are_refused() {
        for ids in [[2, 2], [3, 2]] {
            let mut bytes = encode(&pins());
            bytes.truncate(HEAD_LEN);
            for id in ids {
                bytes.extend(u64::to_le_bytes(id));
                bytes.extend([7; 16]);
            }
            let crc = crc64(&bytes);
            bytes.extend(crc.to_le_bytes());
            assert!(decode(&bytes).unwrap_err().contains("order"), "{ids:?}");
        }
    }
}
