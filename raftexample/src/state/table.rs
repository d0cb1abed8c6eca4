//! The table of keyed commands as bytes, behind the records of a store.
//!
//! ```text
//!  record, indexes ascending                                                    end
//!  ├ key len ┼─ index ─┼─ term ─┼─ hash ─────┼─ idempotency key ─┼─ response ─┤   ├ 0 (u8) ┼─ records ─┤
//!     u8         u64      u64     32 bytes                                                     u64
//!
//!  response                                   result
//!  ├ 0 = put ┤                                ├ 0 = put ┤
//!  ├ 1 = deleted ┤                            ├ 1 = deleted, it existed ┤
//!  ├ 2 = not found ┤                          ├ 2 = deleted, it did not exist ┤
//!  ├ 3 = cas mismatch ┼─ mod index u64 ─┤     ├ 3 = got nothing ┤
//!  ├ 4 = txn ┼ succeeded u8 ┼ results u8      ├ 4 = got ┼─ mod index u64 ┼─ value len u32 ┼─ value ─┤
//!  │         └─ result ─┼─ ... ┤
//!  ├ 5 = too large ┤
//! ```
//!
//! Index and term are those of the first answer, and the hash that of the command's bytes. A key
//! has 1 to 128 bytes, so that a length of 0 can end the records. That a key was reused is never
//! in the table, nor that a command was ignored.

use std::io::{self, Read, Write};

use bytes::Bytes;

use super::{array, invalid};
use crate::command::{MAX_IDEMPOTENCY_KEY_BYTES, MAX_TXN_OPERATIONS};
use crate::kvstore::{
    Answer, Key, MAX_RESULT_BYTES, Record, Response, Table, TxnAnswer, TxnResult, Value,
};

const PUT: u8 = 0;
const DELETED: u8 = 1;
const NOT_FOUND: u8 = 2;
const CAS_MISMATCH: u8 = 3;
const TXN: u8 = 4;
const TOO_LARGE: u8 = 5;

const RESULT_PUT: u8 = 0;
const RESULT_DELETED: u8 = 1;
const RESULT_ABSENT: u8 = 2;
const RESULT_NOTHING: u8 = 3;
const RESULT_GOT: u8 = 4;

pub(super) fn write(table: &Table, writer: &mut impl Write) -> io::Result<()> {
    for Record { key, hash, answer } in table.iter() {
        let key = key.as_bytes();
        writer.write_all(&[u8::try_from(key.len()).expect("the command's format bounds it")])?;
        writer.write_all(&answer.index.to_le_bytes())?;
        writer.write_all(&answer.term.to_le_bytes())?;
        writer.write_all(hash)?;
        writer.write_all(key)?;
        write_response(&answer.response, writer)?;
    }
    writer.write_all(&[0])?;
    writer.write_all(&(table.len() as u64).to_le_bytes())
}

fn write_response(response: &Response, writer: &mut impl Write) -> io::Result<()> {
    match response {
        Response::Put => writer.write_all(&[PUT]),
        Response::Deleted => writer.write_all(&[DELETED]),
        Response::NotFound => writer.write_all(&[NOT_FOUND]),
        Response::CasMismatch { mod_index } => {
            writer.write_all(&[CAS_MISMATCH])?;
            writer.write_all(&mod_index.to_le_bytes())
        }
        Response::Txn(TxnAnswer { succeeded, results }) => {
            let n_results = u8::try_from(results.len()).expect("the command's format bounds them");
            writer.write_all(&[TXN, u8::from(*succeeded), n_results])?;
            results.iter().try_for_each(|result| write_result(result, writer))
        }
        Response::TooLarge => writer.write_all(&[TOO_LARGE]),
        Response::KeyReused | Response::Ignored => {
            unreachable!("K7: {response:?} is no first answer to a keyed command")
        }
    }
}

fn write_result(result: &TxnResult, writer: &mut impl Write) -> io::Result<()> {
    match result {
        TxnResult::Put => writer.write_all(&[RESULT_PUT]),
        TxnResult::Deleted { existed: true } => writer.write_all(&[RESULT_DELETED]),
        TxnResult::Deleted { existed: false } => writer.write_all(&[RESULT_ABSENT]),
        TxnResult::Got(None) => writer.write_all(&[RESULT_NOTHING]),
        TxnResult::Got(Some(Value { bytes, mod_index })) => {
            let value_len = u32::try_from(bytes.len()).expect("bounded by MAX_RESULT_BYTES");
            writer.write_all(&[RESULT_GOT])?;
            writer.write_all(&mod_index.to_le_bytes())?;
            writer.write_all(&value_len.to_le_bytes())?;
            writer.write_all(bytes)
        }
    }
}

pub(super) fn read(reader: &mut impl Read) -> io::Result<Table> {
    let mut table = Table::default();
    let (mut n_records, mut last_index) = (0, 0);
    loop {
        let [key_len] = array(reader)?;
        let key_len = usize::from(key_len);
        if key_len == 0 {
            break;
        }
        if key_len > MAX_IDEMPOTENCY_KEY_BYTES {
            return Err(invalid(format!("it has an idempotency key of {key_len} bytes")));
        }
        let index = u64::from_le_bytes(array(reader)?);
        let term = u64::from_le_bytes(array(reader)?);
        let hash = array(reader)?;
        let mut key = [0; MAX_IDEMPOTENCY_KEY_BYTES];
        let key = &mut key[..key_len];
        reader.read_exact(key)?;
        if index <= last_index {
            let what = format!("its keyed command of index {index} comes after {last_index}");
            return Err(invalid(what));
        }
        if table.get(key).is_some() {
            let what = format!("it has the idempotency key \"{}\" twice", key.escape_ascii());
            return Err(invalid(what));
        }
        let response = read_response(reader)?;
        table.insert(Record {
            key: Key::from(&*key),
            hash,
            answer: Answer { index, term, response },
        });
        (n_records, last_index) = (n_records + 1, index);
        // What it forgets on the way was never in one that was written.
        if table.len() < n_records {
            return Err(invalid("it has more keyed commands than the table holds"));
        }
    }
    let counted = u64::from_le_bytes(array(reader)?);
    if counted != n_records as u64 {
        let what = format!("it has {n_records} keyed commands and says {counted}");
        return Err(invalid(what));
    }
    Ok(table)
}

fn read_response(reader: &mut impl Read) -> io::Result<Response> {
    let [kind] = array(reader)?;
    match kind {
        PUT => Ok(Response::Put),
        DELETED => Ok(Response::Deleted),
        NOT_FOUND => Ok(Response::NotFound),
        CAS_MISMATCH => Ok(Response::CasMismatch { mod_index: u64::from_le_bytes(array(reader)?) }),
        TXN => {
            let [succeeded, n_results] = array(reader)?;
            if succeeded > 1 || usize::from(n_results) > MAX_TXN_OPERATIONS {
                let what =
                    format!("it has a txn that ended as {succeeded}, with {n_results} results");
                return Err(invalid(what));
            }
            let mut room = MAX_RESULT_BYTES;
            let results =
                (0..n_results).map(|_| read_result(reader, &mut room)).collect::<Result<_, _>>()?;
            Ok(Response::Txn(TxnAnswer { succeeded: succeeded == 1, results }))
        }
        TOO_LARGE => Ok(Response::TooLarge),
        kind => Err(invalid(format!("it has a response of kind {kind}"))),
    }
}

/// `room` is what the values of its txn may still have.
fn read_result(reader: &mut impl Read, room: &mut usize) -> io::Result<TxnResult> {
    let [kind] = array(reader)?;
    match kind {
        RESULT_PUT => Ok(TxnResult::Put),
        RESULT_DELETED => Ok(TxnResult::Deleted { existed: true }),
        RESULT_ABSENT => Ok(TxnResult::Deleted { existed: false }),
        RESULT_NOTHING => Ok(TxnResult::Got(None)),
        RESULT_GOT => {
            let mod_index = u64::from_le_bytes(array(reader)?);
            let value_len = u32::from_le_bytes(array(reader)?) as usize;
            *room = room.checked_sub(value_len).ok_or_else(|| {
                invalid(format!("a txn's results have more than {MAX_RESULT_BYTES} bytes"))
            })?;
            let mut bytes = vec![0; value_len];
            reader.read_exact(&mut bytes)?;
            Ok(TxnResult::Got(Some(Value { bytes: Bytes::from(bytes), mod_index })))
        }
        kind => Err(invalid(format!("it has a txn's result of kind {kind}"))),
    }
}
