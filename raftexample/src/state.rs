//! The state of the store as bytes: what a snapshot holds after its header.
//!
//! ```text
//!  0         4        8
//!  ├─ magic ─┼ version ┼─ record ─┼─ ... ─┼─ record ─┼─ end ─┼─ table ─┤
//!
//!  record, keys ascending                                  end
//!  ├ key len ┼ value len ┼ mod index ┼─ key ─┼─ value ─┤   ├ 0 (u16) ┼─ records ─┤
//!     u16        u32          u64                                         u64
//! ```
//!
//! All numbers little endian; magic is `kvst`, the version is 2. A key has 1 to 4,096 bytes, so
//! that a length of 0 can end the records. The table of keyed commands follows them (`table.rs`).
//! Version 1, which is still read, has none and ends with its records. Nothing at all is the empty
//! store, which is what a cluster is founded with. There is no checksum: the snapshot around it
//! has one.
//!
//! Refuses whatever [`write()`] would not have written: another version, a key out of order, a
//! count that is wrong, an end that is missing, anything after it. Neither side holds more than a
//! buffer beside what it writes or has read.

use std::borrow::Borrow;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use crate::command::MAX_KEY_BYTES;
use crate::kvstore::{Key, Table, Value};

mod table;

/// The keys of a store.
pub type Map = OrdMap<Key, Arc<Value>>;

const MAGIC: [u8; 4] = *b"kvst";
const VERSION: u32 = 2;

/// The version without a table.
const VERSION_WITHOUT_TABLE: u32 = 1;

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
    table::write(table, &mut writer)?;
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
    if !(VERSION_WITHOUT_TABLE..=VERSION).contains(&version) {
        let what = format!("it has format version {version}; this program knows 1 to {VERSION}");
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
    let table = if version == VERSION { table::read(&mut reader)? } else { Table::default() };
    if !reader.fill_buf()?.is_empty() {
        return Err(invalid("it goes on after its end"));
    }
    Ok((map, table))
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
mod fuzz;
#[cfg(test)]
mod tests;
