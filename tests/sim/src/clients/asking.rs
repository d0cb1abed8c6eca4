//! One thing that a client wants, until it knows what came of it.

use std::fmt;
use std::time::Instant;

use ::tests::history::{self, Action, End, Op};
use ::tests::rng::Rng;
use bytes::{BufMut, Bytes};
use raftexample::command::{self, Conditions, Txn};
use raftexample::kvstore::{Answer, Response, TxnAnswer, TxnResult};
#[cfg(feature = "defects")]
use raftnode::defects::{Defect, has};
use raftnode::{Consistency, Outcome, Pending, Read, Refusal};

use super::{Door, GRACE, PAIR, TICK, key_name};

/// How often a value is long, and how long at most.
const LONG_EVERY: u64 = 5;
const LONGEST: u64 = 3_000;

/// The number that a value begins with.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.trim_end().parse().ok()
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Get {
        key: u64,
    },
    Put {
        key: u64,
    },
    /// A put on the condition that the key is as this client last heard of it.
    Cas {
        key: u64,
    },
    Delete {
        key: u64,
    },
    /// One value for both keys of [`PAIR`].
    Txn,
    Barrier,
}

impl What {
    pub(super) fn draw(rng: &mut Rng, n_keys: u64) -> Self {
        let key = rng.below(n_keys);
        match rng.below(100) {
            0..40 => What::Get { key },
            40..70 => What::Put { key },
            70..82 => What::Cas { key },
            82..88 => What::Delete { key },
            88..95 => What::Txn,
            _ => What::Barrier,
        }
    }
}

/// How it ended, as far as its client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its entry is at `index`; `answer` is that of the first with its idempotency key.
    Written {
        index: u64,
        answer: Answer,
    },
    /// Somebody said it was, before it was applied anywhere.
    #[cfg(feature = "defects")]
    Appended,
    /// The store may be looked at, and holds at least this.
    Readable {
        index: u64,
    },
    /// The barrier is behind this index.
    Passed {
        index: u64,
    },
    Refused,
    Unknown,
    /// Its client does not wait any longer.
    GaveUp,
}

impl Ended {
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Ended::Unknown | Ended::GaveUp)
    }

    pub(super) fn is_success(&self) -> bool {
        // Whoever takes it for an acknowledgement does not ask again: the history is to tell.
        #[cfg(feature = "defects")]
        if *self == Ended::Appended {
            return true;
        }
        matches!(self, Ended::Written { .. } | Ended::Readable { .. } | Ended::Passed { .. })
    }
}

#[derive(Debug)]
enum Waiting {
    Nothing,
    Write(Pending<Outcome<Answer>>),
    Read(Pending<Read>),
    Barrier(Pending<Outcome<()>>),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) what: What,
    pub(super) value: u64,
    expected: u64,
    key: Option<String>,
    call: u64,
    /// The highest index that was acknowledged, to anybody, when it was first asked.
    pub(super) acknowledged: u64,
    pub(super) member: u64,
    process: u64,
    give_up_at: u64,
    /// On its member's clock.
    deadline: Option<Instant>,
    n_attempts: u32,
    /// An earlier attempt may be applied yet.
    pub(super) may_be_applied: bool,
    pub(super) is_last_wish: bool,
    /// Its place among what was written.
    pub(super) written: Option<usize>,
    waiting: Waiting,
    /// What a read is to see.
    pub(super) consistency: Consistency,
    pub(super) min_index: u64,
    /// What a read saw: value and mod index.
    pub(super) seen: Option<(u64, u64)>,
    /// It was refused for want of room on a disk.
    pub(super) found_low_disk: bool,
}

impl Asking {
    pub(super) fn new(
        what: What,
        value: u64,
        expected: u64,
        key: Option<String>,
        call: u64,
        acknowledged: u64,
    ) -> Self {
        Self {
            what,
            value,
            expected,
            key,
            call,
            acknowledged,
            member: 0,
            process: 0,
            give_up_at: 0,
            deadline: None,
            n_attempts: 0,
            may_be_applied: false,
            is_last_wish: false,
            written: None,
            waiting: Waiting::Nothing,
            consistency: Consistency::Linearizable,
            min_index: 0,
            seen: None,
            found_low_disk: false,
        }
    }

    /// What a read must see.
    pub(super) fn least_index(&self) -> u64 {
        let all = self.consistency == Consistency::Linearizable;
        self.min_index.max(if all { self.acknowledged } else { 0 })
    }

    /// Some reads need not see everything; some are to see at least what somebody was told of.
    pub(super) fn relax(&mut self, rng: &mut Rng) {
        if matches!(self.what, What::Get { .. }) {
            self.consistency = match rng.below(6) {
                0 => Consistency::Stale,
                1 => Consistency::Leader,
                _ => Consistency::Linearizable,
            };
            self.min_index = if rng.below(2) == 0 { self.acknowledged } else { 0 };
        }
    }

    /// The same again, with nobody asked yet.
    pub(super) fn again(&self) -> Self {
        Self { key: self.key.clone(), waiting: Waiting::Nothing, seen: None, ..*self }
    }

    /// What goes into the log.
    pub(super) fn command(&self) -> Option<Bytes> {
        let idempotency_key = self.key.as_ref().map(String::as_bytes);
        let put = |key: u64, cas: Option<u64>| {
            let conditions = Conditions { idempotency_key, cas };
            let value = self.text();
            let mut bytes = command::begin_put(&conditions, key_name(key).as_bytes(), value.len());
            bytes.put_slice(value.as_bytes());
            bytes.freeze()
        };
        match self.what {
            What::Get { .. } | What::Barrier => None,
            What::Put { key } => Some(put(key, None)),
            What::Cas { key } => Some(put(key, Some(self.expected))),
            What::Delete { key } if idempotency_key.is_some() => {
                let conditions = Conditions { idempotency_key, cas: None };
                Some(command::delete(&conditions, key_name(key).as_bytes()))
            }
            What::Delete { key } => {
                // A removal has no value to tell it from another: what it never does has one.
                let (key, value) = (key_name(key).into(), self.value.to_string().into());
                let otherwise = vec![command::Op::Put { key: Bytes::clone(&key), value }];
                let then = vec![command::Op::Delete { key }];
                command::txn(None, &Txn { then, otherwise, ..Txn::default() }).ok()
            }
            What::Txn => {
                let value = Bytes::from(self.text());
                let put = |key: &str| command::Op::Put {
                    key: Bytes::copy_from_slice(key.as_bytes()),
                    value: value.clone(),
                };
                let txn = Txn { then: PAIR.map(put).into(), ..Txn::default() };
                command::txn(idempotency_key, &txn).ok()
            }
        }
    }

    /// Its value as bytes: the number, and now and then so much behind it that a batch of the log
    /// takes some sectors.
    fn text(&self) -> String {
        let width =
            if self.value.is_multiple_of(LONG_EVERY) { self.value * 37 % LONGEST } else { 0 };
        format!("{:<1$}", self.value, usize::try_from(width).expect("a short value"))
    }

    pub(super) fn is_keyed(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn is_at(&self, door: &Door<'_>) -> bool {
        (self.member, self.process) == (door.member, door.process)
    }

    /// Asks a member; an answer: it refused at once.
    pub(super) fn ask(&mut self, door: &Door<'_>, tick: u64, patience: u64) -> Option<Ended> {
        (self.member, self.process) = (door.member, door.process);
        self.give_up_at = tick + patience + u64::from(GRACE);
        self.n_attempts += 1;
        let deadline = door.now + TICK * u32::try_from(patience).expect("clients are impatient");
        self.deadline = Some(deadline);
        let asked = match (self.what, self.command()) {
            (_, Some(command)) => door.handle.propose(command, deadline).map(Waiting::Write),
            (What::Barrier, None) => door.handle.node().barrier(deadline).map(Waiting::Barrier),
            (_, None) => {
                let node = door.handle.node();
                node.read(self.consistency, self.min_index, deadline).map(Waiting::Read)
            }
        };
        match asked {
            Ok(waiting) => self.waiting = waiting,
            Err(refusal) => return Some(self.refused(refusal)),
        }
        None
    }

    fn refused(&mut self, refusal: Refusal) -> Ended {
        self.found_low_disk = matches!(refusal, Refusal::LowDisk { .. });
        Ended::Refused
    }

    /// What it was told, if it was.
    pub(super) fn answer(&mut self) -> Option<Ended> {
        Some(match &mut self.waiting {
            Waiting::Nothing => return None,
            #[cfg(feature = "defects")]
            Waiting::Write(_) | Waiting::Barrier(_) if has(Defect::AckAtAppend) => Ended::Appended,
            Waiting::Write(pending) => match pending.try_wait()? {
                Outcome::Applied { index, response, .. } => {
                    Ended::Written { index, answer: response }
                }
                Outcome::Refused(refusal) => self.refused(refusal),
                Outcome::Unknown(_) => Ended::Unknown,
            },
            Waiting::Barrier(pending) => match pending.try_wait()? {
                Outcome::Applied { index, .. } => Ended::Passed { index },
                Outcome::Refused(_) => Ended::Refused,
                Outcome::Unknown(_) => Ended::Unknown,
            },
            Waiting::Read(pending) => match pending.try_wait()? {
                Read::Ready { index } => Ended::Readable { index },
                Read::Refused(_) => Ended::Refused,
            },
        })
    }

    /// What came of it by now. A read that may look does so here, if its member still runs.
    pub(super) fn look(&mut self, door: Option<&Door<'_>>, tick: u64) -> Option<Ended> {
        let ended = match self.answer() {
            None if matches!(self.waiting, Waiting::Nothing) => return None,
            None => return (tick >= self.give_up_at).then_some(Ended::GaveUp),
            Some(ended) => ended,
        };
        self.waiting = Waiting::Nothing;
        match (&ended, self.what, door) {
            (Ended::Readable { .. }, What::Get { key }, Some(door)) => {
                let version = door.store.load();
                let value = version.map.get(key_name(key).as_bytes());
                // What is no number was written by nobody: zero is not either.
                self.seen = value.map(|v| (number(&v.bytes).unwrap_or(0), v.mod_index));
                Some(ended)
            }
            // It died between its answer and its store's.
            (Ended::Readable { .. }, What::Get { .. }, None) => Some(Ended::Refused),
            _ => Some(ended),
        }
    }

    /// Whether its member owes it an answer for longer than it had to wait for anything. Only what is
    /// committed may wait for the consumer.
    pub(super) fn is_overdue(&self, door: &Door<'_>) -> bool {
        let hindered_until = match self.waiting {
            Waiting::Write(_) => door.unapplied_until,
            _ => door.hindered_until,
        };
        let since = self.deadline.map(|deadline| deadline.max(hindered_until));
        self.is_at(door) && since.is_some_and(|since| door.now > since + TICK * GRACE)
    }

    pub(super) fn is_to_ask_again(&self) -> bool {
        matches!(self.waiting, Waiting::Nothing)
    }

    /// A write under an idempotency key may be asked for again whatever came of it.
    pub(super) fn wants_again(&self, ended: &Ended, max_attempts: u32) -> bool {
        let may = self.key.is_some() && self.command().is_some();
        may && self.n_attempts < max_attempts && (ended.is_unknown() || *ended == Ended::Refused)
    }

    /// What is written down of it.
    pub(super) fn op(&self, client: usize, at: u64, ended: &Ended) -> Option<Op> {
        use history::Answer::{Absent, Done, Found, Mismatch, Missing};
        let (key, action) = match self.what {
            What::Get { key } => (key, Action::Get),
            What::Put { key } => (key, Action::Put { value: self.value }),
            What::Cas { key } => (key, Action::Cas { value: self.value, expected: self.expected }),
            What::Delete { key } => (key, Action::Delete),
            What::Txn | What::Barrier => return None,
        };
        if self.consistency != Consistency::Linearizable {
            return None;
        }
        let answered = |answer| End::Answered { at, answer };
        let end = match ended {
            Ended::Written { answer, .. } => {
                let index = Some(answer.index);
                match &answer.response {
                    Response::Txn(TxnAnswer { results, .. }) => match results.first() {
                        Some(TxnResult::Deleted { existed: true }) => answered(Done { index }),
                        _ => answered(Missing { index }),
                    },
                    Response::Put | Response::Deleted => answered(Done { index }),
                    Response::CasMismatch { .. } => answered(Mismatch { index }),
                    Response::NotFound => answered(Missing { index }),
                    // Found out where the answer was taken.
                    _ => return None,
                }
            }
            #[cfg(feature = "defects")]
            Ended::Appended => answered(Done { index: None }),
            Ended::Readable { .. } => answered(match self.seen {
                Some((value, mod_index)) => Found { value, mod_index: Some(mod_index) },
                None => Absent,
            }),
            Ended::Refused if !self.may_be_applied => End::Refused,
            // A read that was not answered saw nothing.
            _ if action == Action::Get => return None,
            _ => End::Unknown,
        };
        let member = usize::try_from(self.member).ok()?;
        Some(Op { client, member, key: key_name(key), action, call: self.call, end })
    }
}

impl fmt::Display for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value, member, process, n_attempts, .. } = self;
        write!(f, "{what:?}, number {value}, attempt {n_attempts} at member {member}/{process}")
    }
}
