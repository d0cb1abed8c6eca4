//! What this crate's own tests share: randomness that can be repeated, and random commands.

use std::time::SystemTime;

use bytes::{BufMut, Bytes};

use crate::command::{self, Command, Compare, Conditions, Envelope, Keyed, Op, Test, Txn};

/// What fuzz targets choose by. Prints its seed when the test that holds it fails.
pub(crate) struct Rng {
    name: &'static str,
    seed: u64,
    choices: ::fuzz::Rng,
}

impl Rng {
    /// From the seed in the environment variable `name`, else from a fresh one.
    pub(crate) fn from_env(name: &'static str) -> Self {
        let seed = match std::env::var(name) {
            Ok(seed) => seed.parse().unwrap_or_else(|_| panic!("{name}={seed} is not a number")),
            Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        };
        Self { name, seed, choices: ::fuzz::Rng::new(seed) }
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.choices.below(bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of a few keys, so that commands meet.
    pub(crate) fn key(&mut self) -> Bytes {
        const KEYS: [&[u8]; 6] = [b"a", b"a/b", b"a/c", b"\0", b"\xff", &[0xfe; 300]];
        Bytes::from_static(KEYS[self.below(KEYS.len())])
    }

    pub(crate) fn value(&mut self) -> Bytes {
        let length = self.below(4);
        (0..length).map(|_| self.below(3) as u8).collect()
    }

    fn cas(&mut self) -> Option<u64> {
        self.one_in(3).then(|| self.below(12) as u64)
    }

    fn op(&mut self) -> Op {
        match self.below(3) {
            0 => Op::Put { key: self.key(), value: self.value() },
            1 => Op::Delete { key: self.key() },
            _ => Op::Get { key: self.key() },
        }
    }

    fn compare(&mut self) -> Compare {
        let test = match self.below(3) {
            0 => Test::ModIndex(self.below(12) as u64),
            1 => Test::Value(self.value()),
            _ => Test::Absent,
        };
        Compare { key: self.key(), test }
    }

    pub(crate) fn command(&mut self) -> Command {
        match self.below(3) {
            0 => Command::Put { key: self.key(), value: self.value(), cas: self.cas() },
            1 => Command::Delete { key: self.key(), cas: self.cas() },
            _ => {
                let mut lengths = [0; 3];
                lengths.fill_with(|| self.below(4));
                let [compares, thens, elses] = lengths;
                Command::Txn(Txn {
                    compare: (0..compares / 2).map(|_| self.compare()).collect(),
                    then: (0..thens).map(|_| self.op()).collect(),
                    otherwise: (0..elses).map(|_| self.op()).collect(),
                })
            }
        }
    }

    pub(crate) fn envelope(&mut self) -> Envelope {
        let command = self.command();
        let keyed = self.one_in(2).then(|| Keyed {
            idempotency_key: Bytes::from(vec![b'0' + self.below(10) as u8; 1 + self.below(2)]),
            command_bytes: encode(&Envelope { keyed: None, command: command.clone() }),
        });
        Envelope { keyed, command }
    }
}

impl Drop for Rng {
    #[allow(clippy::print_stderr, reason = "whoever repeats the test reads it")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again with {}={}", self.name, self.seed);
        }
    }
}

/// The bytes of a command, by the functions that proposers use.
pub(crate) fn encode(envelope: &Envelope) -> Bytes {
    let idempotency_key = envelope.keyed.as_ref().map(|keyed| &*keyed.idempotency_key);
    match &envelope.command {
        Command::Put { key, value, cas } => {
            let conditions = Conditions { idempotency_key, cas: *cas };
            let mut command = command::begin_put(&conditions, key, value.len());
            command.put_slice(value);
            command.freeze()
        }
        Command::Delete { key, cas } => {
            command::delete(&Conditions { idempotency_key, cas: *cas }, key)
        }
        Command::Txn(txn) => command::txn(idempotency_key, txn).unwrap(),
        Command::Ignorable(op) => Bytes::from(vec![1, *op]),
    }
}
