//! The store against a model that is too simple to be wrong.

use std::collections::BTreeMap;

use bytes::Bytes;
use raftnode::machine::{Command as Entry, StateMachine};

use super::{Answer, KvStore, Response, Store, TxnAnswer, TxnResult, Value};
use crate::command::{Command, Envelope, Op, Test};
use crate::testing::{Rng, encode};
use crate::watch::{Watched, Watcher};

/// What the store is to be: maps that are copied whole.
#[derive(Clone, Default)]
struct Model {
    keys: BTreeMap<Bytes, (Bytes, u64)>,
    once: BTreeMap<Bytes, (Command, Answer)>,
}

impl Model {
    fn apply(&mut self, envelope: &Envelope, index: u64, term: u64) -> Answer {
        let answer = |response| Answer { index, term, response };
        let Some(keyed) = &envelope.keyed else {
            return answer(self.execute(&envelope.command, index));
        };
        if let Some((command, first)) = self.once.get(&keyed.idempotency_key) {
            let same = *command == envelope.command;
            return if same { first.clone() } else { answer(Response::KeyReused) };
        }
        let answer = answer(self.execute(&envelope.command, index));
        let record = (envelope.command.clone(), answer.clone());
        self.once.insert(keyed.idempotency_key.clone(), record);
        answer
    }

    fn mod_index(&self, key: &Bytes) -> u64 {
        self.keys.get(key).map_or(0, |(_, mod_index)| *mod_index)
    }

    fn execute(&mut self, command: &Command, index: u64) -> Response {
        match command {
            Command::Put { key, cas: Some(cas), .. } | Command::Delete { key, cas: Some(cas) }
                if self.mod_index(key) != *cas =>
            {
                Response::CasMismatch { mod_index: self.mod_index(key) }
            }
            Command::Put { key, value, .. } => {
                self.keys.insert(key.clone(), (value.clone(), index));
                Response::Put
            }
            Command::Delete { key, .. } => match self.keys.remove(key) {
                Some(_) => Response::Deleted,
                None => Response::NotFound,
            },
            Command::Txn(txn) => {
                let succeeded = txn.compare.iter().all(|compare| {
                    let found = self.keys.get(&compare.key);
                    match &compare.test {
                        Test::ModIndex(wanted) => self.mod_index(&compare.key) == *wanted,
                        Test::Value(wanted) => found.is_some_and(|(value, _)| value == wanted),
                        Test::Absent => found.is_none(),
                    }
                });
                let ops = if succeeded { &txn.then } else { &txn.otherwise };
                let run = |op: &Op| match op {
                    Op::Put { key, value } => {
                        self.keys.insert(key.clone(), (value.clone(), index));
                        TxnResult::Put
                    }
                    Op::Delete { key } => {
                        TxnResult::Deleted { existed: self.keys.remove(key).is_some() }
                    }
                    Op::Get { key } => {
                        TxnResult::Got(self.keys.get(key).map(|(value, index)| Value {
                            bytes: value.clone(),
                            mod_index: *index,
                        }))
                    }
                };
                Response::Txn(TxnAnswer { succeeded, results: ops.iter().map(run).collect() })
            }
            Command::Ignorable(_) => Response::Ignored,
        }
    }
}

fn all(store: &Store) -> BTreeMap<Bytes, (Bytes, u64)> {
    let one = |(key, value): (&super::Key, &std::sync::Arc<Value>)| {
        (Bytes::copy_from_slice(key.as_bytes()), (value.bytes.clone(), value.mod_index))
    };
    store.load().map.iter().map(one).collect()
}

/// What a watcher makes of the events: the keys as they were when it began, changed by them.
struct Mirror {
    keys: BTreeMap<Bytes, (Bytes, u64)>,
    watcher: Watcher,
}

impl Mirror {
    fn new(store: &Store) -> Self {
        Self { keys: all(store), watcher: store.watch(None, Bytes::new()).unwrap() }
    }

    /// Whether it is still watching. The keep-alive says that there is no more for now.
    fn follow(&mut self, runtime: &tokio::runtime::Runtime) -> bool {
        loop {
            match runtime.block_on(self.watcher.next()) {
                Watched::Applied(_) => return true,
                Watched::Closed => return false,
                Watched::Change(event) => {
                    for changed in &*event.changes {
                        let key = Bytes::copy_from_slice(changed.key.as_bytes());
                        match &changed.value {
                            Some(value) => {
                                assert_eq!(value.mod_index, event.index);
                                self.keys.insert(key, (value.bytes.clone(), event.index));
                            }
                            None => assert!(self.keys.remove(&key).is_some(), "{event:?}"),
                        }
                    }
                }
            }
        }
    }
}

/// K1, K6, K7 and K8, and E2 of the history: random commands, retries among them, end as the model
/// says, with snapshots in between that another machine goes on from. `MODEL_SEED` repeats a run.
#[test]
fn the_store_does_what_the_model_says() {
    let mut rng = Rng::from_env("MODEL_SEED");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for _ in 0..100 {
        let mut model = Model::default();
        let (mut machine, mut store) = KvStore::new();
        machine.restore(&mut std::io::empty(), 1, 1).unwrap();
        machine.show(1, 1);
        let mut mirror = Mirror::new(&store);
        for index in 2..60 {
            let envelope = rng.envelope();
            let expected = model.apply(&envelope, index, 3);
            let data = encode(&envelope);
            let answer = machine.apply(Entry { index, term: 3, data: &data }).unwrap();
            assert_eq!(answer, expected, "{envelope:?} at {index}");
            if rng.one_in(3) {
                machine.show(index, 3);
                assert_eq!(all(&store), model.keys);
                mirror.watcher = mirror.watcher.with_keep_alive(std::time::Duration::ZERO);
                assert!(mirror.follow(&runtime));
                assert_eq!(mirror.keys, model.keys);
            }
            if rng.one_in(10) {
                let mut state = Vec::new();
                machine.capture()(&mut state).unwrap();
                (machine, store) = KvStore::new();
                machine.restore(&mut &state[..], index, 3).unwrap();
                machine.show(index, 3);
                assert_eq!(all(&store), model.keys);
                // Of the old history whatever was shown is left, and no more is to come.
                mirror.follow(&runtime);
                mirror = Mirror::new(&store);
            }
        }
    }
}
