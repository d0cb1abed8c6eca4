//! Stores as they were written, damaged, and snapshots of anything.

use ::fuzz::Rng;
use raftnode::machine::{self, StateMachine};

use super::*;
use crate::command::fuzz::random_envelope;
use crate::kvstore::KvStore;
use crate::testing::encode;

/// What a store holds after commands that chance proposed.
fn written(rng: &mut Rng) -> Vec<u8> {
    let (mut store, _) = KvStore::new();
    for index in 1..=rng.below(12) {
        let data = encode(&random_envelope(rng));
        let command = machine::Command { index, term: 1 + index / 4, data: &data };
        store.apply(command).expect("a member applies what it has encoded");
    }
    let mut bytes = Vec::new();
    store.capture()(&mut bytes).expect("memory takes it");
    bytes
}

fn again(bytes: &[u8]) -> Option<Vec<u8>> {
    let (map, table) = read(bytes).ok()?;
    let mut again = Vec::new();
    write(&map, &table, &mut again).expect("memory takes it");
    Some(again)
}

/// A store comes back as it was; whatever else is believed is what `write` would have written.
#[test]
fn fuzz_state() {
    let mut n_read = 0;
    let report = ::fuzz::run("state", |rng| {
        let valid = written(rng);
        assert_eq!(again(&valid).as_ref(), Some(&valid));
        let mut bytes = if rng.chance(1, 8) { rng.bytes(300) } else { valid };
        let n = 1 + rng.below(3);
        rng.mutate(&mut bytes, n);
        let Some(written) = again(&bytes) else { return };
        n_read += 1;
        let is_current = bytes.get(4..8) == Some(&VERSION.to_le_bytes()[..]);
        assert!(!is_current || written == bytes, "{bytes:?} is read as {written:?}");
        assert_eq!(again(&written).as_ref(), Some(&written));
    });
    assert!(n_read > report.cases / 50 || report.cases < 200, "only {n_read} were read");
}
