//! Commands as proposers encode them, damaged, and entries of anything.

use ::fuzz::Rng;

use super::*;
use crate::testing::encode;

fn bytes(rng: &mut Rng, max: usize) -> Bytes {
    rng.bytes(max).into()
}

fn key(rng: &mut Rng) -> Bytes {
    let largest = *rng.pick(&[5, 5, 5, MAX_KEY_BYTES]);
    let mut key = rng.bytes(largest);
    key.push(b'k');
    key.truncate(MAX_KEY_BYTES);
    key.into()
}

fn op(rng: &mut Rng) -> Op {
    match rng.below(3) {
        0 => Op::Put { key: key(rng), value: bytes(rng, 100) },
        1 => Op::Delete { key: key(rng) },
        _ => Op::Get { key: key(rng) },
    }
}

fn compare(rng: &mut Rng) -> Compare {
    let test = match rng.below(3) {
        0 => Test::ModIndex(rng.number()),
        1 => Test::Value(bytes(rng, 100)),
        _ => Test::Absent,
    };
    Compare { key: key(rng), test }
}

/// One of the lists of a txn: short, or as long as can be.
fn list<T>(rng: &mut Rng, part: impl Fn(&mut Rng) -> T) -> Vec<T> {
    let n = if rng.chance(1, 40) { MAX_TXN_OPERATIONS } else { rng.at(4) };
    (0..n).map(|_| part(rng)).collect()
}

pub(crate) fn random_txn(rng: &mut Rng) -> Txn {
    Txn { compare: list(rng, compare), then: list(rng, op), otherwise: list(rng, op) }
}

pub(crate) fn random_envelope(rng: &mut Rng) -> Envelope {
    let cas = rng.chance(1, 2).then(|| rng.number());
    let command = match rng.below(4) {
        0 => Command::Put { key: key(rng), value: bytes(rng, 1000), cas },
        1 => Command::Delete { key: key(rng), cas },
        2 => Command::Txn(random_txn(rng)),
        _ => return Envelope { keyed: None, command: Command::Ignorable(0x80 | rng.draw() as u8) },
    };
    let command_bytes = encode(&Envelope { keyed: None, command: command.clone() });
    let keyed = rng.chance(1, 2).then(|| {
        let mut idempotency_key = rng.bytes(MAX_IDEMPOTENCY_KEY_BYTES - 1);
        idempotency_key.push(b'i');
        Keyed { idempotency_key: idempotency_key.into(), command_bytes }
    });
    Envelope { keyed, command }
}

/// What is proposed is what every member applies; what nobody proposed stops a member or is read as
/// the one command that has these bytes.
#[test]
fn fuzz_commands() {
    ::fuzz::run("commands", |rng| {
        let envelope = random_envelope(rng);
        let valid = encode(&envelope);
        assert_eq!(Envelope::decode(&valid).as_ref(), Ok(&envelope));
        let data = if rng.chance(1, 8) {
            rng.bytes(100)
        } else {
            let mut data = valid.to_vec();
            let n = 1 + rng.below(4);
            rng.mutate(&mut data, n);
            data
        };
        let data = Bytes::from(data);
        match Envelope::decode(&data) {
            // What it says beside its operation is for those who know it.
            Ok(Envelope { command: Command::Ignorable(op), keyed: None }) => {
                assert_eq!(data[1], op)
            }
            Ok(envelope) => assert_eq!(encode(&envelope), data, "{envelope:?}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}
