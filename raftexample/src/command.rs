//! What a proposal says. Commands are replicated and kept: their bytes are a format.
//!
//! ```text
//!  0         1        2            4            4 + key length
//!  ├ version ┼─ op ───┼─ key len ──┼─ key ──────┼─ value ... ┤
//!      1       1=put     u16 LE       1..=4096      the rest
//! ```
//!
//! A command that cannot be read is never skipped: members that disagree about what an entry
//! means would diverge, so a member that does not understand one must stop.

use bytes::{BufMut, Bytes, BytesMut};

/// The longest key in bytes. Fits the length field, and keeps a key within one request line.
pub const MAX_KEY_BYTES: usize = 4096;

/// What a command needs besides its value, at most.
pub const MAX_OVERHEAD_BYTES: usize = HEADER_BYTES + MAX_KEY_BYTES;

const HEADER_BYTES: usize = 4;
const VERSION: u8 = 1;
const PUT: u8 = 1;

/// A change to the store. Its parts share the entry's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Sets a key.
    Put {
        /// The key, 1 to [`MAX_KEY_BYTES`] bytes.
        key: Bytes,
        /// The value, possibly empty.
        value: Bytes,
    },
}

/// Begins a put whose value the caller appends. A request's body is copied here once, from the
/// socket's buffer, and nowhere again until it is in the log.
///
/// # Panics
///
/// When the key is empty or longer than [`MAX_KEY_BYTES`].
#[must_use]
pub fn begin_put(key: &[u8], value_bytes: usize) -> BytesMut {
    assert!((1..=MAX_KEY_BYTES).contains(&key.len()), "a key of {} bytes", key.len());
    let mut command = BytesMut::with_capacity(HEADER_BYTES + key.len() + value_bytes);
    command.put_slice(&[VERSION, PUT]);
    command.put_u16_le(u16::try_from(key.len()).expect("the assertion above bounds it"));
    command.put_slice(key);
    command
}

/// Why a command cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// Shorter than its header says.
    Short,
    /// Another version's bytes.
    Version(u8),
    /// An operation that this version does not have.
    Operation(u8),
    /// A key length outside the bounds.
    KeyLength(u16),
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DecodeError::Short => write!(formatter, "it is cut short"),
            DecodeError::Version(version) => {
                write!(formatter, "it has version {version}; this program knows {VERSION}")
            }
            DecodeError::Operation(op) => {
                write!(formatter, "it asks for operation {op}; this program knows {PUT} (put)")
            }
            DecodeError::KeyLength(length) => {
                write!(formatter, "its key has {length} bytes; keys have 1 to {MAX_KEY_BYTES}")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

impl Command {
    /// Reads a command, whatever the bytes are.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(data: &Bytes) -> Result<Self, DecodeError> {
        let (&[version, op, low, high], rest) =
            data.split_first_chunk::<HEADER_BYTES>().ok_or(DecodeError::Short)?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        if op != PUT {
            return Err(DecodeError::Operation(op));
        }
        let length = u16::from_le_bytes([low, high]);
        let key_bytes = usize::from(length);
        if !(1..=MAX_KEY_BYTES).contains(&key_bytes) {
            return Err(DecodeError::KeyLength(length));
        }
        if rest.len() < key_bytes {
            return Err(DecodeError::Short);
        }
        let value_at = HEADER_BYTES + key_bytes;
        Ok(Command::Put { key: data.slice(HEADER_BYTES..value_at), value: data.slice(value_at..) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: &[u8]) -> Bytes {
        let mut command = begin_put(key, value.len());
        command.put_slice(value);
        command.freeze()
    }

    /// The bytes are in logs: they are pinned.
    #[test]
    fn put_bytes_are_pinned() {
        assert_eq!(put(b"key", b"value")[..], *b"\x01\x01\x03\x00keyvalue");
        assert_eq!(put(&[0xff; 4096], b"")[..5], *b"\x01\x01\x00\x10\xff");
    }

    /// Whatever goes in comes out, empty values and odd bytes included.
    #[test]
    fn commands_come_back_as_they_were() {
        let keys = [&b"k"[..], b"\0", b"a/b", &[0xfe; MAX_KEY_BYTES]];
        let values = [&b""[..], b"v", b"\0\xff", &[7; 70_000]];
        for (key, value) in keys.iter().flat_map(|key| values.map(|value| (*key, value))) {
            let expected = Command::Put {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
            };
            assert_eq!(Command::decode(&put(key, value)), Ok(expected));
        }
    }

    /// Bytes that are no command are named, not guessed at, and never a panic.
    #[test]
    fn what_is_no_command_is_refused() {
        let table: [(&[u8], DecodeError); 8] = [
            (b"", DecodeError::Short),
            (b"\x01\x01\x01", DecodeError::Short),
            (b"\x01\x01\x02\x00k", DecodeError::Short),
            (b"\x00\x01\x01\x00k", DecodeError::Version(0)),
            (b"\x02\x01\x01\x00k", DecodeError::Version(2)),
            (b"\x01\x02\x01\x00k", DecodeError::Operation(2)),
            (b"\x01\x01\x00\x00v", DecodeError::KeyLength(0)),
            (b"\x01\x01\x01\x10", DecodeError::KeyLength(4097)),
        ];
        for (bytes, expected) in table {
            assert_eq!(Command::decode(&Bytes::from_static(bytes)), Err(expected), "{bytes:?}");
        }
    }
}
