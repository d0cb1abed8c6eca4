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
