//! The state of the store as bytes: what a snapshot holds after its header.
//!
//! ```text
//!  0         4        8
//!  ├─ magic ─┼ version ┼─ record ─┼─ ... ─┼─ record ─┼─ end ─┤
//!
//!  record, keys ascending                                  end
//!  ├ key len ┼ value len ┼ mod index ┼─ key ─┼─ value ─┤   ├ 0 (u16) ┼─ records ─┤
//!     u16        u32          u64                                         u64
//! ```
//!
//! All numbers little endian; magic is `kvst`, the version is 1. A key has 1 to 4,096 bytes, so
//! that a length of 0 can end the records. Nothing at all is the empty store, which is what a
//! cluster is founded with. There is no checksum: the snapshot around it has one.
//!
//! Refuses whatever [`write()`] would not have written: another version, a key out of order, a
//! count that is wrong, an end that is missing, anything after it. Neither side holds more than a
//! buffer beside the map.

use std::borrow::Borrow;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use crate::command::MAX_KEY_BYTES;
use crate::kvstore::{Key, Table, Value};

/// The keys of a store.
pub type Map = OrdMap<Key, Arc<Value>>;

const MAGIC: [u8; 4] = *b"kvst";
const VERSION: u32 = 1;

/// The largest value that is believed: an entry could not have brought a larger one.
const MAX_STORED_BYTES: u32 = raftnode::MAX_ENTRY_BYTES as u32;

/// What is gathered before it is written, and read ahead. Far above what a system call costs.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes a store.
///
/// # Errors
///
/// What `writer` returns.
pub fn write(map: &Map, table: &Table, writer: impl Write) -> io::Result<()> {
    let _skeleton = table;
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
    writer.write_all(&MAGIC)?;
    writer.write_all(&VERSION.to_le_bytes())?;
    for (key, value) in map {
        let key: &[u8] = key.borrow();
        let key_len = u16::try_from(key.len()).expect("keys are bounded by MAX_KEY_BYTES");
        let value_len = u32::try_from(value.bytes.len()).expect("values fit into an entry");
        writer.write_all(&key_len.to_le_bytes())?;
        writer.write_all(&value_len.to_le_bytes())?;
        writer.write_all(&value.mod_index.to_le_bytes())?;
        writer.write_all(key)?;
        writer.write_all(&value.bytes)?;
    }
    writer.write_all(&0u16.to_le_bytes())?;
    writer.write_all(&(map.len() as u64).to_le_bytes())?;
    writer.flush()
}

/// Reads a store back.
///
/// # Errors
///
/// What `reader` returns, and [`io::ErrorKind::InvalidData`] for bytes that are no store.
pub fn read(reader: impl Read) -> io::Result<(Map, Table)> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let mut map = Map::new();
    if reader.fill_buf()?.is_empty() {
        return Ok((map, Table::default()));
    }
    if array(&mut reader)? != MAGIC {
        return Err(invalid("it does not begin as a store does"));
    }
    let version = u32::from_le_bytes(array(&mut reader)?);
    if version != VERSION {
        let what = format!("it has format version {version}; this program knows {VERSION}");
        return Err(invalid(what));
    }
    let mut last: Vec<u8> = Vec::new();
    let mut bytes = Vec::new();
    loop {
        let key_len = usize::from(u16::from_le_bytes(array(&mut reader)?));
        if key_len == 0 {
            break;
        }
        let value_len = u32::from_le_bytes(array(&mut reader)?);
        let mod_index = u64::from_le_bytes(array(&mut reader)?);
        if key_len > MAX_KEY_BYTES || value_len > MAX_STORED_BYTES {
            let what = format!("it has a key of {key_len} bytes with a value of {value_len}");
            return Err(invalid(what));
        }
        bytes.resize(key_len + value_len as usize, 0);
        reader.read_exact(&mut bytes)?;
        let (key, value) = bytes.split_at(key_len);
        if key <= &last[..] {
            return Err(invalid(format!("key \"{}\" is out of order", key.escape_ascii())));
        }
        last.clear();
        last.extend_from_slice(key);
        let value = Value { bytes: Bytes::copy_from_slice(value), mod_index };
        map.insert(Key::from(key), Arc::new(value));
    }
    let records = u64::from_le_bytes(array(&mut reader)?);
    if records != map.len() as u64 {
        return Err(invalid(format!("it has {} records and says {records}", map.len())));
    }
    if !reader.fill_buf()?.is_empty() {
        return Err(invalid("it goes on after its end"));
    }
    Ok((map, Table::default()))
}

fn array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut array = [0; N];
    reader.read_exact(&mut array)?;
    Ok(array)
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn map<'a>(records: impl IntoIterator<Item = (&'a [u8], &'a [u8], u64)>) -> Map {
        let record = |(key, value, mod_index): (&[u8], &[u8], u64)| {
            let bytes = Bytes::copy_from_slice(value);
            (Key::from(key), Arc::new(Value { bytes, mod_index }))
        };
        records.into_iter().map(record).collect()
    }

    fn written(map: &Map) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(map, &Table::default(), &mut bytes).unwrap();
        bytes
    }

    const GOLDEN: &[u8] = b"kvst\x01\0\0\0\
        \x01\0\x01\0\0\0\x05\0\0\0\0\0\0\0a1\
        \x02\0\0\0\0\0\x07\0\0\0\0\0\0\0b\xff\
        \0\0\x02\0\0\0\0\0\0\0";

    /// The bytes are in snapshots, on disk and on their way: they are pinned.
    #[test]
    fn state_bytes_are_pinned() {
        let map = map([(&b"b\xff"[..], &b""[..], 7), (b"a", b"1", 5)]);
        assert_eq!(written(&map), GOLDEN);
        assert_eq!(read(GOLDEN).unwrap().0, map);
    }

    /// Whatever a store can hold comes back: long keys, odd bytes, the largest value, nothing.
    #[test]
    fn state_comes_back_as_it_was() {
        let long = [0xfe; MAX_KEY_BYTES];
        let large = vec![7; MAX_STORED_BYTES as usize];
        let full = map([
            (&b"\0"[..], &b""[..], 1),
            (&long[..MAX_KEY_BYTES - 1], &large, u64::MAX),
            (&long, b"\0\xff", 2),
        ]);
        for map in [Map::new(), full] {
            assert_eq!(read(&written(&map)[..]).unwrap().0, map);
        }
        assert_eq!(read(io::empty()).unwrap().0, Map::new());
    }

    /// A snapshot that was cut must not become a smaller store.
    #[test]
    fn every_truncation_is_refused() {
        for length in 1..GOLDEN.len() {
            let error = read(&GOLDEN[..length]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        }
    }

    /// Bytes that this program would not have written are somebody else's, and named.
    #[test]
    fn what_is_no_state_is_refused() {
        let with = |at: usize, byte: u8| {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] = byte;
            bytes
        };
        let table = [
            (with(0, b'K'), "does not begin"),
            (with(4, 2), "version 2"),
            (with(9, 0x20), "a key of 8193 bytes"),
            (with(13, 0xff), "with a value of"),
            (with(22, b'c'), "\"b\\xff\" is out of order"),
            (with(38, b'A'), "\"A\\xff\" is out of order"),
            (with(42, 3), "has 2 records and says 3"),
            ([GOLDEN, b"\0"].concat(), "goes on"),
            ([&GOLDEN[..24], &GOLDEN[8..]].concat(), "\"a\" is out of order"),
        ];
        for (bytes, expected) in table {
            let error = read(&bytes[..]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{expected}");
            assert!(error.to_string().contains(expected), "{expected}: {error}");
        }
    }

    fn resident_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What this thread has computed so far: a machine that is shared does not show in it.
    fn computed() -> Duration {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
    }

    /// Prints what a snapshot costs: the capture on the applier, the rest on other threads. Run
    /// it with `cargo test --release -p raftexample measure_state -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures"]
    #[allow(clippy::print_stderr, reason = "a measurement is read by people")]
    fn measure_state() {
        for keys in [300_000u64, 1_000_000] {
            let before = resident_kib();
            let value = [7u8; 128];
            let records: Vec<_> = (0..keys).map(|n| format!("key-{n:012}")).collect();
            let built = map(records.iter().map(|key| (key.as_bytes(), &value[..], 1)));
            let filled = resident_kib();
            let start = Instant::now();
            let mut clone = built.clone();
            let capture = start.elapsed();
            let cloned = resident_kib();
            let start = computed();
            let bytes = written(&built);
            let write = computed() - start;
            let start = computed();
            let (restored, _) = read(&bytes[..]).unwrap();
            let read = computed() - start;
            assert_eq!(restored.len() as u64, keys);
            let unshared = resident_kib();
            for key in records.iter().step_by(10) {
                let value = Value { bytes: Bytes::copy_from_slice(&value), mod_index: 2 };
                clone.insert(Key::from(key.as_bytes()), Arc::new(value));
            }
            let changed = resident_kib();
            eprintln!(
                "{keys} keys: map {} KiB; capture {capture:?}, {} KiB; {} bytes written in \
                 {write:?}, read in {read:?}; a tenth rewritten beside the capture: {} KiB",
                filled - before,
                cloned - filled,
                bytes.len(),
                changed - unshared,
            );
        }
    }
}
