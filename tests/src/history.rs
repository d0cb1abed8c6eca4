//! What clients asked and what they were told, on one clock.
//!
//! An operation takes effect, if it does, at one moment between its call and its end. What came of
//! it is what its client can know: an answer; a definite refusal, after which it never takes
//! effect; or nothing, after which it may take effect at any later time, or never.
//!
//! Values are numbers that are written once, so that a read tells which write it saw.

use std::collections::BTreeMap;
use std::fmt;

/// One request of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// Who asked.
    pub client: usize,
    /// Which member was asked.
    pub member: usize,
    /// The key that it is about.
    pub key: String,
    /// What was asked.
    pub action: Action,
    /// When it was asked, in nanoseconds since the history began.
    pub call: u64,
    /// What came of it.
    pub end: End,
}

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A linearizable read.
    Get,
    /// An unconditional write.
    Put {
        /// What is written, nowhere else.
        value: u64,
    },
    /// A write on a condition.
    Cas {
        /// What is written, nowhere else.
        value: u64,
        /// The index at which the key was last written; 0 when it must be absent.
        expected: u64,
    },
    /// A removal.
    Delete,
}

/// What came of an operation, as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was answered.
    Answered {
        /// When, in nanoseconds since the history began.
        at: u64,
        /// With what.
        answer: Answer,
    },
    /// It never takes effect.
    Refused,
    /// It takes effect at any time after its call, or never.
    Unknown,
}

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A read found the key.
    Found {
        /// What it holds.
        value: u64,
        /// Where in the log it was written, as far as the answer says.
        mod_index: Option<u64>,
    },
    /// A read did not find the key.
    Absent,
    /// A write or a removal took effect.
    Done {
        /// Where in the log it stands, as far as the answer says.
        index: Option<u64>,
    },
    /// A write did not: its condition was not met.
    Mismatch {
        /// Where in the log it stands, as far as the answer says.
        index: Option<u64>,
    },
    /// A removal found no key.
    Missing {
        /// Where in the log it stands, as far as the answer says.
        index: Option<u64>,
    },
}

impl Op {
    /// When it ended, if its client knows.
    pub fn answered_at(&self) -> Option<u64> {
        match self.end {
            End::Answered { at, .. } => Some(at),
            End::Refused | End::Unknown => None,
        }
    }

    /// What it writes.
    pub fn written(&self) -> Option<u64> {
        match self.action {
            Action::Put { value } | Action::Cas { value, .. } => Some(value),
            Action::Get | Action::Delete => None,
        }
    }

    /// What it saw.
    pub fn seen(&self) -> Option<(u64, Option<u64>)> {
        match self.end {
            End::Answered { answer: Answer::Found { value, mod_index }, .. } => {
                Some((value, mod_index))
            }
            _ => None,
        }
    }
}

/// The operations on each key, in the order of their calls. Keys do not know of each other, so a
/// history is linearizable when it is for each of them (Herlihy and Wing 1990, theorem 1).
pub fn by_key(history: &[Op]) -> BTreeMap<&str, Vec<&Op>> {
    let mut keys: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in history {
        keys.entry(&op.key).or_default().push(op);
    }
    keys.values_mut().for_each(|ops| ops.sort_by_key(|op| op.call));
    keys
}

/// `0.012345..0.013001 s  client 4 at member 2  put 7 -> done at 99`.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |nanos: u64| format!("{:.6}", nanos as f64 / 1e9);
        let end = self.answered_at().map_or_else(|| "?".to_owned(), seconds);
        let asked = match self.action {
            Action::Get => "get".to_owned(),
            Action::Put { value } => format!("put {value}"),
            Action::Cas { value, expected } => format!("put {value} if at {expected}"),
            Action::Delete => "delete".to_owned(),
        };
        let at =
            |index: Option<u64>| index.map_or_else(String::new, |index| format!(" at {index}"));
        let told = match self.end {
            End::Unknown => "unknown".to_owned(),
            End::Refused => "refused".to_owned(),
            End::Answered { answer, .. } => match answer {
                Answer::Found { value, mod_index } => format!("{value}{}", at(mod_index)),
                Answer::Absent => "absent".to_owned(),
                Answer::Done { index } => format!("done{}", at(index)),
                Answer::Mismatch { index } => format!("mismatch{}", at(index)),
                Answer::Missing { index } => format!("missing{}", at(index)),
            },
        };
        let who = format!("client {} at member {}", self.client, self.member + 1);
        write!(f, "{:>10}..{end:<10} s  {who:<22}  {asked} -> {told}", seconds(self.call))
    }
}
