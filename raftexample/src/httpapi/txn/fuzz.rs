//! Bodies that say what a txn is, damaged, and bodies of anything.

use serde_json::{Value as Json, json};

use super::*;
use crate::command::Envelope;
use crate::command::fuzz::random_txn;

const MAX_VALUE_BYTES: u64 = 90;

fn compare_json(Compare { key, test }: &Compare) -> Json {
    let key = text::percent_encode(key);
    match test {
        Test::ModIndex(mod_index) => json!({ "key": key, "mod_index": mod_index }),
        Test::Value(value) => json!({ "value": text::encode_value(value), "key": key }),
        Test::Absent => json!({ "key": key, "absent": true }),
    }
}

fn op_json(op: &Op) -> Json {
    match op {
        Op::Put { key, value } => {
            let (key, value) = (text::percent_encode(key), text::encode_value(value));
            json!({ "op": "put", "key": key, "value": value })
        }
        Op::Delete { key } => json!({ "op": "delete", "key": text::percent_encode(key) }),
        Op::Get { key } => json!({ "op": "get", "key": text::percent_encode(key) }),
    }
}

fn body(Txn { compare, then, otherwise }: &Txn) -> Vec<u8> {
    let ops = |ops: &[Op]| ops.iter().map(op_json).collect::<Json>();
    let compare = compare.iter().map(compare_json).collect::<Json>();
    json!({ "compare": compare, "then": ops(then), "else": ops(otherwise) }).to_string().into()
}

fn is_too_large(txn: &Txn) -> bool {
    let compared = txn.compare.iter().filter_map(|compare| match &compare.test {
        Test::Value(value) => Some(value),
        Test::ModIndex(_) | Test::Absent => None,
    });
    let put = txn.then.iter().chain(&txn.otherwise).filter_map(|op| match op {
        Op::Put { value, .. } => Some(value),
        Op::Delete { .. } | Op::Get { .. } => None,
    });
    compared.chain(put).any(|value| value.len() as u64 > MAX_VALUE_BYTES)
}

/// A txn is what its body says, or is refused as the client's fault; and what is accepted can be
/// proposed and is then read as what was asked for.
#[test]
fn fuzz_txn() {
    let mut n_parsed = 0;
    let report = ::fuzz::run("txn", |rng| {
        let txn = random_txn(rng);
        let valid = body(&txn);
        let parsed = parse(&Bytes::from(valid.clone()), MAX_VALUE_BYTES);
        match parsed {
            Ok(parsed) => assert_eq!(parsed, txn),
            Err(fault) => {
                assert!(is_too_large(&txn), "{}", fault.message());
                assert_eq!(fault.kind().status(), 413);
            }
        }
        let damaged = if rng.chance(1, 8) {
            rng.bytes(200)
        } else {
            let mut damaged = valid;
            let n = 1 + rng.below(3);
            rng.mutate(&mut damaged, n);
            damaged
        };
        match parse(&Bytes::from(damaged), MAX_VALUE_BYTES) {
            Ok(txn) => {
                n_parsed += 1;
                assert!(!is_too_large(&txn));
                assert_eq!(
                    parse(&Bytes::from(body(&txn)), MAX_VALUE_BYTES).ok().as_ref(),
                    Some(&txn)
                );
                let Ok(bytes) = command::txn(None, &txn) else { return };
                let envelope = Envelope { keyed: None, command: command::Command::Txn(txn) };
                assert_eq!(Envelope::decode(&bytes), Ok(envelope));
            }
            Err(fault) => {
                assert!(matches!(fault.kind().status(), 400 | 413));
            }
        }
    });
    assert!(n_parsed > report.cases / 50 || report.cases < 200, "only {n_parsed} were taken");
}
