use super::*;
use crate::testing::{Rng, encode};

fn put_with(conditions: &Conditions<'_>, key: &[u8], value: &[u8]) -> Bytes {
    let mut command = begin_put(conditions, key, value.len());
    command.put_slice(value);
    command.freeze()
}

fn put(key: &[u8], value: &[u8]) -> Bytes {
    put_with(&Conditions::default(), key, value)
}

fn bytes(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn plain(command: Command) -> Envelope {
    Envelope { keyed: None, command }
}

/// One of each compare, then and else.
fn full_txn() -> Txn {
    let compare = |key: &[u8], test| Compare { key: bytes(key), test };
    Txn {
        compare: vec![
            compare(b"m", Test::ModIndex(7)),
            compare(b"v", Test::Value(bytes(b"value"))),
            compare(b"a", Test::Absent),
        ],
        then: vec![
            Op::Put { key: bytes(b"key"), value: bytes(b"v") },
            Op::Delete { key: bytes(b"d") },
        ],
        otherwise: vec![Op::Get { key: bytes(b"g") }],
    }
}

const TXN_GOLDEN: &[u8] = b"\x01\x05\x03\x02\x01\
    \x01\x01\0\x07\0\0\0\0\0\0\0m\
    \x02\x01\0\x05\0\0\0vvalue\
    \x03\x01\0a\
    \x01\x03\0\x01\0\0\0keyv\
    \x02\x01\0d\
    \x03\x01\0g";

/// The bytes are in logs: they are pinned. The first is that of the first release.
#[test]
fn command_bytes_are_pinned() {
    let cas = Conditions { cas: Some(0x0102), idempotency_key: None };
    let keyed = Conditions { cas: None, idempotency_key: Some(b"id") };
    let both = Conditions { cas: Some(9), idempotency_key: Some(b"id") };
    let table: [(Bytes, &[u8]); 9] = [
        (put(b"key", b"value"), b"\x01\x01\x03\x00keyvalue"),
        (put(&[0xff; 4096], b"").slice(..5), b"\x01\x01\x00\x10\xff"),
        (put_with(&cas, b"k", b"v"), b"\x01\x02\x01\0\x02\x01\0\0\0\0\0\0kv"),
        (delete(&Conditions::default(), b"key"), b"\x01\x03\x03\0key"),
        (delete(&cas, b"k"), b"\x01\x04\x01\0\x02\x01\0\0\0\0\0\0k"),
        (txn(None, &full_txn()).unwrap(), TXN_GOLDEN),
        (put_with(&keyed, b"k", b"v"), b"\x01\x06\x02id\x01\x01\x01\0kv"),
        (delete(&both, b"k"), b"\x01\x06\x02id\x01\x04\x01\0\x09\0\0\0\0\0\0\0k"),
        (txn(Some(b"id"), &Txn::default()).unwrap(), b"\x01\x06\x02id\x01\x05\0\0\0"),
    ];
    for (encoded, expected) in table {
        assert_eq!(encoded[..], *expected, "{encoded:?}");
    }
}

/// Whatever goes in comes out, empty values and odd bytes included.
#[test]
fn puts_come_back_as_they_were() {
    let keys = [&b"k"[..], b"\0", b"a/b", &[0xfe; MAX_KEY_BYTES]];
    let values = [&b""[..], b"v", b"\0\xff", &[7; 70_000]];
    for (key, value) in keys.iter().flat_map(|key| values.map(|value| (*key, value))) {
        let expected = Command::Put { key: bytes(key), value: bytes(value), cas: None };
        assert_eq!(Envelope::decode(&put(key, value)), Ok(plain(expected)));
    }
}

/// A retry is recognised by the bytes of the command alone, whatever its name.
#[test]
fn an_envelope_gives_the_bytes_of_its_command() {
    let conditions = |idempotency_key| Conditions { idempotency_key, cas: Some(3) };
    let inner = put_with(&conditions(None), b"k", b"v");
    let outer = put_with(&conditions(Some(&[0xff; MAX_IDEMPOTENCY_KEY_BYTES])), b"k", b"v");
    let expected = Envelope {
        keyed: Some(Keyed { idempotency_key: bytes(&[0xff; 128]), command_bytes: inner.clone() }),
        ..Envelope::decode(&inner).unwrap()
    };
    assert_eq!(Envelope::decode(&outer), Ok(expected));
}

/// Bytes that are no command are named, not guessed at, and never a panic.
#[test]
fn what_is_no_command_is_refused() {
    let table: [(&[u8], DecodeError); 27] = [
        (b"", DecodeError::Short),
        (b"\x01\x01\x01", DecodeError::Short),
        (b"\x01\x01\x02\x00k", DecodeError::Short),
        (b"\x00\x01\x01\x00k", DecodeError::Version(0)),
        (b"\x02\x01\x01\x00k", DecodeError::Version(2)),
        (b"\x02\x81\x01\x00k", DecodeError::Version(2)),
        (b"\x01\x00\x01\x00k", DecodeError::Operation(0)),
        (b"\x01\x07\x01\x00k", DecodeError::Operation(7)),
        (b"\x01\x7f", DecodeError::Operation(127)),
        (b"\x01\x01\x00\x00v", DecodeError::KeyLength(0)),
        (b"\x01\x01\x01\x10", DecodeError::KeyLength(4097)),
        (b"\x01\x02\x00\x00v", DecodeError::KeyLength(0)),
        (b"\x01\x02\x01\x00\0\0\0\0\0\0\0", DecodeError::Short),
        (b"\x01\x03\x00\x00", DecodeError::KeyLength(0)),
        (b"\x01\x03\x01\x00kk", DecodeError::Long(1)),
        (b"\x01\x04\x01\x00\0\0\0\0\0\0\0\0kkk", DecodeError::Long(2)),
        (b"\x01\x05\x81\0\0", DecodeError::Parts(129)),
        (b"\x01\x05\0\x81\0", DecodeError::Parts(129)),
        (b"\x01\x05\0\0\xff", DecodeError::Parts(255)),
        (b"\x01\x05\x01\0\0\x04\x01\0k", DecodeError::Compare(4)),
        (b"\x01\x05\0\x01\0\x00\x01\0k", DecodeError::Part(0)),
        (b"\x01\x05\0\0\x01\x03\x00\0k", DecodeError::KeyLength(0)),
        (b"\x01\x05\0\0\x01\x01\x01\0\xff\xff\xff\xffk", DecodeError::Short),
        (b"\x01\x06\0\x01\x01\x01\0k", DecodeError::IdempotencyKeyLength(0)),
        (b"\x01\x06\x81", DecodeError::IdempotencyKeyLength(129)),
        (b"\x01\x06\x01i\x01\x06\x01i\x01\x01\x01\0k", DecodeError::Envelope(6)),
        (b"\x01\x06\x01i\x01\x80", DecodeError::Envelope(128)),
    ];
    for (bytes, expected) in table {
        let decoded = Envelope::decode(&Bytes::from_static(bytes));
        assert_eq!(decoded, Err(expected), "{bytes:?}");
        assert!(!expected.to_string().is_empty());
    }
}

/// What may be passed over says so by its operation alone, and nothing else does.
#[test]
fn only_ignorable_operations_are_passed_over() {
    for op in 0..=u8::MAX {
        let decoded = Envelope::decode(&bytes(&[1, op, 0xff, 0xff]));
        let ignored = decoded == Ok(plain(Command::Ignorable(op)));
        assert_eq!(ignored, op & IGNORABLE != 0, "{op}: {decoded:?}");
    }
}

/// A command that was cut is never another one, except a put, whose value has no length of its own.
#[test]
fn every_truncation_is_named() {
    let both = Conditions { cas: Some(9), idempotency_key: Some(b"id") };
    let commands = [
        (delete(&Conditions::default(), b"key"), 0),
        (delete(&both, b"key"), 0),
        (txn(Some(b"id"), &full_txn()).unwrap(), 0),
        (put_with(&both, b"key", b"value"), b"value".len()),
    ];
    for (command, value_bytes) in commands {
        for length in 0..command.len() - value_bytes {
            let decoded = Envelope::decode(&command.slice(..length));
            assert_eq!(decoded, Err(DecodeError::Short), "{length} of {command:?}");
        }
    }
}

/// An entry that no member would take is refused before it is proposed; the largest one is not.
#[test]
fn a_txn_fits_an_entry() {
    let with = |value_bytes: usize| {
        let value = vec![7; value_bytes].into();
        Txn { then: vec![Op::Put { key: bytes(b"k"), value }], ..Txn::default() }
    };
    let largest = MAX_ENTRY_BYTES as usize - 5 - 8;
    let encoded = txn(None, &with(largest)).unwrap();
    assert_eq!(encoded.len() as u64, MAX_ENTRY_BYTES);
    assert_eq!(Envelope::decode(&encoded), Ok(plain(Command::Txn(with(largest)))));
    let refused = txn(None, &with(largest + 1));
    assert_eq!(refused, Err(TooLarge { bytes: MAX_ENTRY_BYTES + 1 }));
}

/// Neither do random commands change on their way, nor do random bytes end in a panic; and what
/// is read from damaged bytes is written as the same bytes, so that nothing has two meanings.
/// `COMMAND_SEED` repeats a run.
#[test]
fn random_commands_come_back_as_they_were() {
    let mut rng = Rng::from_env("COMMAND_SEED");
    for _ in 0..2_000 {
        let envelope = rng.envelope();
        let encoded = encode(&envelope);
        assert_eq!(Envelope::decode(&encoded), Ok(envelope), "{encoded:?}");
        let mut damaged = encoded.to_vec();
        let at = rng.below(damaged.len());
        damaged[at] ^= 1 << rng.below(8);
        let damaged = Bytes::from(damaged);
        if let Ok(read) = Envelope::decode(&damaged)
            && !matches!(read.command, Command::Ignorable(_))
        {
            assert_eq!(encode(&read), damaged);
        }
    }
}
