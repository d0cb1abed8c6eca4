//! The write side of the store: what each command does.

use std::io;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use raftnode::defects::{Defect, has};
use raftnode::machine::{self, StateMachine};

use super::once::{self, Record};
use super::{
    Answer, Key, MAX_RESULT_BYTES, Response, Shown, Store, Table, TxnAnswer, TxnResult, Value,
    Version,
};
use crate::command::{Command, Compare, DecodeError, Envelope, Keyed, Op, Test, Txn};
use crate::state;
use crate::watch::{self, Changed, Event, Recorder};

/// The state machine. Its readers look at a [`Store`].
#[derive(Debug)]
pub struct KvStore {
    shown: Shown,
    /// What a restore began: nobody sees it before it is complete (K4).
    restored: Option<Version>,
    table: Table,
    recorder: Recorder,
}

/// The version that a command changes, and the index at which it does.
struct Stage<'a> {
    version: &'a mut Version,
    recorder: &'a mut Recorder,
    index: u64,
    term: u64,
}

impl KvStore {
    /// An empty machine, and where it shows its versions.
    #[must_use]
    pub fn new() -> (Self, Store) {
        let (recorder, history) = watch::history();
        let shown = Shown::default();
        let store = Store { shown: shown.clone(), history };
        (Self { shown, restored: None, table: Table::default(), recorder }, store)
    }

    /// Carries the command out, at once as far as readers can tell (K6).
    fn execute(&mut self, command: Command, index: u64, term: u64) -> Response {
        // Before the lock: nobody who reads waits for a large value to be copied.
        let command = command.map_values(kept);
        let Self { shown, restored, recorder, .. } = self;
        let mut guard;
        let version = match restored {
            Some(restored) => restored,
            None => {
                guard = shown.write();
                &mut *guard
            }
        };
        let response = Stage { version, recorder, index, term }.execute(command);
        (version.applied_index, version.term) = (index, term);
        response
    }
}

impl Stage<'_> {
    fn execute(&mut self, command: Command) -> Response {
        match command {
            Command::Put { key, value, cas } => {
                if let Some(mismatch) = self.mismatch(&key, cas) {
                    return mismatch;
                }
                let changed = self.put(&key, value);
                self.record(Arc::new([changed]));
                Response::Put
            }
            Command::Delete { key, cas } => match self.mismatch(&key, cas) {
                Some(mismatch) => mismatch,
                None => match self.delete(&key) {
                    Some(changed) => {
                        self.record(Arc::new([changed]));
                        Response::Deleted
                    }
                    None => Response::NotFound,
                },
            },
            Command::Txn(txn) => self.txn(&txn),
            Command::Ignorable(_) => Response::Ignored,
        }
    }

    /// Compares with the state before, then applies one of the branches, or nothing of it (K6).
    fn txn(&mut self, txn: &Txn) -> Response {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        // One pointer: the map is persistent.
        let before = self.version.map.clone();
        let mut changes = Vec::new();
        let mut results = Vec::with_capacity(ops.len());
        let mut found_bytes = 0;
        for op in ops {
            results.push(match op {
                Op::Put { key, value } => {
                    changes.push(self.put(key, value.clone()));
                    TxnResult::Put
                }
                Op::Delete { key } => {
                    let deleted = self.delete(key);
                    let existed = deleted.is_some();
                    changes.extend(deleted);
                    TxnResult::Deleted { existed }
                }
                Op::Get { key } => {
                    let found = self.version.map.get(&**key).map(|value| Value::clone(value));
                    found_bytes += found.as_ref().map_or(0, |value| value.bytes.len());
                    TxnResult::Got(found)
                }
            });
            if found_bytes > MAX_RESULT_BYTES {
                if !has(Defect::HalfTxn) {
                    self.version.map = before;
                }
                return Response::TooLarge;
            }
        }
        if !changes.is_empty() {
            self.record(changes.into());
        }
        Response::Txn(TxnAnswer { succeeded, results })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let value = self.version.map.get(&*compare.key);
        match &compare.test {
            Test::ModIndex(mod_index) => value.map_or(0, |value| value.mod_index) == *mod_index,
            Test::Value(bytes) => value.is_some_and(|value| value.bytes == bytes),
            Test::Absent => value.is_none(),
        }
    }

    fn mismatch(&self, key: &[u8], cas: Option<u64>) -> Option<Response> {
        let wanted = cas.filter(|_| !has(Defect::IgnoreCas))?;
        let mod_index = self.version.map.get(key).map_or(0, |value| value.mod_index);
        (mod_index != wanted).then_some(Response::CasMismatch { mod_index })
    }

    /// Keeps the value as it is.
    fn put(&mut self, key: &[u8], bytes: Bytes) -> Changed {
        let key = Key::from(key);
        let value = Arc::new(Value { bytes, mod_index: self.index });
        self.version.map.insert(key.clone(), Arc::clone(&value));
        Changed { key, value: Some(value) }
    }

    /// `None`: there was no such key.
    fn delete(&mut self, key: &[u8]) -> Option<Changed> {
        let (key, _) = self.version.map.remove_with_key(key)?;
        Some(Changed { key, value: None })
    }

    fn record(&mut self, changes: Arc<[Changed]>) {
        self.recorder.record(Event { index: self.index, term: self.term, changes });
    }
}

/// A value in memory of its own: a slice would keep the whole buffer that the entry came in.
fn kept(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}

impl StateMachine for KvStore {
    type Response = Answer;
    type Error = DecodeError;

    /// See K3, K6 and K7.
    fn apply(&mut self, entry: machine::Command<'_>) -> Result<Answer, DecodeError> {
        let machine::Command { index, term, data } = entry;
        let Envelope { keyed, command } = Envelope::decode(data)?;
        let Some(Keyed { idempotency_key, command_bytes }) = keyed else {
            return Ok(Answer { index, term, response: self.execute(command, index, term) });
        };
        let hash = once::hash(&command_bytes);
        if let Some(first) = self.table.get(&idempotency_key) {
            let reused = || Answer { index, term, response: Response::KeyReused };
            return Ok(if first.hash == hash { first.answer.clone() } else { reused() });
        }
        let answer = Answer { index, term, response: self.execute(command, index, term) };
        let key = Key::from(&*idempotency_key);
        self.table.insert(Record { key, hash, answer: answer.clone() });
        Ok(answer)
    }

    /// Commands are seen as they are applied, unless they follow a restore: then all at once, now.
    /// K2: first the version, then the history that leads to it.
    fn show(&mut self, index: u64, term: u64) {
        let mut shown = self.shown.write();
        // What it replaces may take its time to go, and nobody is to wait for that.
        let replaced = self.restored.take().map(|restored| mem::replace(&mut *shown, restored));
        (shown.applied_index, shown.term) = (index, term);
        drop(shown);
        drop(replaced);
        self.recorder.show(index);
    }

    /// The clones are pointers: map and table are persistent. Commands that are applied while they
    /// are written copy the nodes they change.
    fn capture(&self) -> impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static {
        let map = match &self.restored {
            Some(restored) => restored.map.clone(),
            None => self.shown.read().map.clone(),
        };
        let mut table = self.table.clone();
        if has(Defect::ForgetRepetitions) {
            table = Table::default();
        }
        move |writer| state::write(&map, &table, writer)
    }

    fn restore(&mut self, state: &mut dyn io::Read, index: u64, term: u64) -> io::Result<()> {
        let (mut map, table) = state::read(state)?;
        if has(Defect::RestoredModIndex) {
            let moved = |value: &Value| Arc::new(Value { mod_index: index, ..value.clone() });
            map = map.iter().map(|(key, value)| (key.clone(), moved(value))).collect();
        }
        if has(Defect::ResurrectKeys) {
            map = map.union(self.shown.read().map.clone());
        }
        self.restored = Some(Version { applied_index: index, term, map });
        self.table = table;
        self.recorder.restore(index);
        Ok(())
    }
}
