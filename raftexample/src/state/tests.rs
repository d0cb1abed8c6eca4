use std::time::{Duration, Instant};

use super::*;
use crate::command::{MAX_IDEMPOTENCY_KEY_BYTES, MAX_TXN_OPERATIONS};
use crate::kvstore::{
    Answer, MAX_ONCE_KEYS, MAX_RESULT_BYTES, Record, Response, TxnAnswer, TxnResult,
};

fn map<'a>(records: impl IntoIterator<Item = (&'a [u8], &'a [u8], u64)>) -> Map {
    let record = |(key, value, mod_index): (&[u8], &[u8], u64)| {
        let bytes = Bytes::copy_from_slice(value);
        (Key::from(key), Arc::new(Value { bytes, mod_index }))
    };
    records.into_iter().map(record).collect()
}

fn written(map: &Map) -> Vec<u8> {
    written_with(map, &Table::default())
}

fn written_with(map: &Map, table: &Table) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(map, table, &mut bytes).unwrap();
    bytes
}

fn record(key: &[u8], index: u64, response: Response) -> Record {
    Record { key: Key::from(key), hash: [0xab; 32], answer: Answer { index, term: 2, response } }
}

fn table(records: impl IntoIterator<Item = Record>) -> Table {
    let mut table = Table::default();
    records.into_iter().for_each(|record| table.insert(record));
    table
}

/// One record of each response and each result.
fn full_table() -> Table {
    let value = Value { bytes: Bytes::from_static(b"v"), mod_index: 5 };
    let results = vec![
        TxnResult::Put,
        TxnResult::Deleted { existed: true },
        TxnResult::Deleted { existed: false },
        TxnResult::Got(None),
        TxnResult::Got(Some(value)),
    ];
    table([
        record(b"a", 3, Response::Put),
        record(b"b", 4, Response::Deleted),
        record(b"c", 5, Response::NotFound),
        record(b"d", 6, Response::CasMismatch { mod_index: 5 }),
        record(b"e", 7, Response::Txn(TxnAnswer { succeeded: true, results })),
        record(b"\xff\0", 9, Response::TooLarge),
    ])
}

/// What another version wrote.
const GOLDEN_V1: &[u8] = b"kvst\x01\0\0\0\
    \x01\0\x01\0\0\0\x05\0\0\0\0\0\0\0a1\
    \x02\0\0\0\0\0\x07\0\0\0\0\0\0\0b\xff\
    \0\0\x02\0\0\0\0\0\0\0";

/// Where the table begins.
const TABLE_AT: usize = GOLDEN_V1.len();

fn golden() -> Vec<u8> {
    let hash = [0xab; 32];
    let mut bytes = GOLDEN_V1.to_vec();
    bytes[4] = 2;
    let records: [(&[u8], &[u8], &[u8]); 6] = [
        (b"\x01\x03", b"a", b"\0"),
        (b"\x01\x04", b"b", b"\x01"),
        (b"\x01\x05", b"c", b"\x02"),
        (b"\x01\x06", b"d", b"\x03\x05\0\0\0\0\0\0\0"),
        (b"\x01\x07", b"e", b"\x04\x01\x05\0\x01\x02\x03\x04\x05\0\0\0\0\0\0\0\x01\0\0\0v"),
        (b"\x02\x09", b"\xff\0", b"\x05"),
    ];
    for (begin, key, response) in records {
        let index_and_term = b"\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0";
        bytes.extend([begin, index_and_term, &hash, key, response].concat());
    }
    bytes.extend(b"\0\x06\0\0\0\0\0\0\0");
    bytes
}

fn two_keys() -> Map {
    map([(&b"b\xff"[..], &b""[..], 7), (b"a", b"1", 5)])
}

/// The bytes are in snapshots, on disk and on their way: they are pinned.
#[test]
fn state_bytes_are_pinned() {
    assert_eq!(written_with(&two_keys(), &full_table()), golden());
    let (map, table) = read(&golden()[..]).unwrap();
    assert_eq!(map, two_keys());
    assert!(table.iter().eq(full_table().iter()));
}

/// A member that is given another program can read what the one before it left.
#[test]
fn version_1_is_read() {
    let (map, table) = read(GOLDEN_V1).unwrap();
    assert_eq!(map, two_keys());
    assert!(table.is_empty());
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

/// As for the map: the longest key, the most bytes, the most results.
#[test]
fn the_table_comes_back_as_it_was() {
    let bytes = Bytes::from(vec![7; MAX_RESULT_BYTES]);
    let mut results = vec![TxnResult::Got(Some(Value { bytes, mod_index: u64::MAX }))];
    results.resize(MAX_TXN_OPERATIONS, TxnResult::Put);
    let answer = TxnAnswer { succeeded: false, results };
    let full = table([
        record(&[0xfe; MAX_IDEMPOTENCY_KEY_BYTES], 1, Response::Txn(answer)),
        record(b"\0", u64::MAX, Response::CasMismatch { mod_index: 0 }),
    ]);
    let (map, read) = read(&written_with(&Map::new(), &full)[..]).unwrap();
    assert!(map.is_empty() && read.iter().eq(full.iter()));
}

/// A snapshot that was cut must not become a smaller store.
#[test]
fn every_truncation_is_refused() {
    for full in [&golden()[..], GOLDEN_V1] {
        for length in 1..full.len() {
            let error = read(&full[..length]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        }
    }
}

/// Bytes that this program would not have written are somebody else's, and named.
#[test]
fn what_is_no_state_is_refused() {
    let golden = golden();
    let with = |at: usize, byte: u8| {
        let mut bytes = golden.clone();
        bytes[at] = byte;
        bytes
    };
    let in_table = |at: usize, byte: u8| with(TABLE_AT + at, byte);
    let record_bytes = 1 + 8 + 8 + 32 + 1 + 1;
    let txn_at = 3 * record_bytes + record_bytes + 8;
    let table = [
        (with(0, b'K'), "does not begin"),
        (with(4, 3), "version 3"),
        (with(4, 0), "version 0"),
        (with(4, 1), "goes on"),
        (with(9, 0x20), "a key of 8193 bytes"),
        (with(13, 0xff), "with a value of"),
        (with(22, b'c'), "\"b\\xff\" is out of order"),
        (with(38, b'A'), "\"A\\xff\" is out of order"),
        (with(42, 3), "has 2 records and says 3"),
        ([&golden[..], b"\0"].concat(), "goes on"),
        ([GOLDEN_V1, b"\0"].concat(), "goes on"),
        ([&golden[..24], &golden[8..]].concat(), "\"a\" is out of order"),
        (in_table(0, 129), "an idempotency key of 129 bytes"),
        (in_table(1, 0), "of index 0 comes after 0"),
        (in_table(record_bytes + 1, 3), "of index 3 comes after 3"),
        (in_table(record_bytes - 2, b'b'), "\"b\" twice"),
        (in_table(record_bytes - 1, 6), "a response of kind 6"),
        (in_table(txn_at + record_bytes, 2), "ended as 2, with 5 results"),
        (in_table(txn_at + record_bytes + 1, 129), "ended as 1, with 129 results"),
        (in_table(txn_at + record_bytes + 2, 5), "a txn's result of kind 5"),
        (in_table(txn_at + record_bytes + 17, 0xff), "more than 3145728 bytes"),
        (with(golden.len() - 8, 7), "has 6 keyed commands and says 7"),
    ];
    for (bytes, expected) in table {
        let error = read(&bytes[..]).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{expected}");
    }
}

/// More than the table holds was never written, and must not be forgotten silently.
#[test]
fn a_table_that_is_too_long_is_refused() {
    let key = |n: u64| n.to_be_bytes();
    let mut bytes = written(&Map::new());
    bytes.truncate(bytes.len() - 9);
    let empty = bytes.len();
    for n in 1..=MAX_ONCE_KEYS as u64 + 1 {
        let one = written_with(&Map::new(), &table([record(&key(n), n, Response::Put)]));
        bytes.extend(&one[empty..one.len() - 9]);
    }
    let error = read(&bytes[..]).unwrap_err();
    assert!(error.to_string().contains("more keyed commands"), "{error}");
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
