//! What the members' logs say of a recording: which writes are in there, in which order, and so
//! what came of those whose clients never heard.
//!
//! - K1 An entry counts as committed when a log holds it at or below a commit index that the same
//!   log holds, or below one that its member has told. Members that hold committed entries at the
//!   same index hold the same one, or the logs are refused.
//! - K2 An operation is said to have never happened only when every entry from the first to the
//!   last is there and none of them is its.

mod archive;
mod log;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::archive::Archive;
pub use self::log::MemberLog;
use self::log::{Committed, Said};
pub use self::replay::Replay;
use crate::history::{Action, Answer, End};
use crate::recorder::Recorded;

/// What a cluster is founded with: the snapshot of this index, and no entry up to it.
const GENESIS: u64 = 1;

/// The committed entries of a cluster, from all its members' logs.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<u64, Committed>,
}

/// What became of a recording's open ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Those that are in the log: they took effect, or met no condition, where they stand.
    pub n_found: usize,
    /// Those that are not, and never will be.
    pub n_absent: usize,
    /// Those that nobody can tell.
    pub n_open: usize,
}

impl Resolved {
    /// All of another's as well.
    pub fn add(&mut self, other: Resolved) {
        self.n_found += other.n_found;
        self.n_absent += other.n_absent;
        self.n_open += other.n_open;
    }
}

impl Ledger {
    /// Joins what the members hold.
    ///
    /// # Errors
    ///
    /// Two of them hold different committed entries at one index (K1).
    pub fn join(logs: &[(u64, MemberLog)]) -> Result<Ledger, String> {
        let mut ledger = Ledger::default();
        let mut first_holders: BTreeMap<u64, u64> = BTreeMap::new();
        for (member, log) in logs {
            for (index, entry) in log.committed() {
                let holder = *first_holders.entry(index).or_insert(*member);
                let held = ledger.entries.entry(index).or_insert_with(|| entry.clone());
                if (held.term, held.hash) != (entry.term, entry.hash) {
                    return Err(format!(
                        "member {holder} committed {} at index {index} in term {}, and member \
                         {member} {} in term {}",
                        held.said, held.term, entry.said, entry.term
                    ));
                }
            }
        }
        Ok(ledger)
    }

    /// The indexes that no log holds, up to `last`.
    pub fn missing(&self, last: u64) -> Vec<u64> {
        (GENESIS + 1..=last).filter(|index| !self.entries.contains_key(index)).collect()
    }

    /// How many committed entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the entries amount to, one after the other.
    pub fn replay(&self) -> Replay {
        let mut replay = Replay::default();
        for (&index, entry) in &self.entries {
            if let Said::Write(write) = &entry.said {
                replay.apply(index, write);
            }
        }
        replay
    }
}

/// Closes the open ends of a recording, and compares the others with what the log makes of them.
/// `last` is the last index that was committed, `at` a moment after it was.
///
/// # Errors
///
/// Clients were told something else than the log says: an acknowledged write is not there, or
/// stands elsewhere, or a refused one is there, or one is there twice.
pub fn resolve(
    history: &mut [Recorded],
    ledger: &Ledger,
    last: u64,
    at: u64,
) -> Result<Resolved, String> {
    let (replay, missing) = (ledger.replay(), ledger.missing(last));
    if let Some((number, index)) = replay.repeated() {
        return Err(format!(
            "{number} was sent once and stands in the log twice, at {index} again"
        ));
    }
    let mut resolved = Resolved::default();
    for recorded in history {
        let op = &mut recorded.op;
        // A read leaves nothing behind, and one without an answer has told nothing.
        let Some(number) = recorded.number.filter(|_| op.action != Action::Get) else { continue };
        let found = replay.outcome(number);
        match (op.end, found) {
            (End::Unknown, Some(answer)) => {
                op.end = End::Answered { at, answer };
                resolved.n_found += 1;
            }
            (End::Unknown, None) if missing.is_empty() => {
                op.end = End::Refused;
                resolved.n_absent += 1;
            }
            (End::Unknown, None) => resolved.n_open += 1,
            (End::Refused, Some(answer)) => {
                return Err(format!("refused, and yet in the log as {answer:?}: {op}"));
            }
            (End::Refused, None) => {}
            (End::Answered { answer, .. }, Some(found)) if is_told(answer, found) => {}
            (End::Answered { .. }, Some(found)) => {
                return Err(format!("the log makes {found:?} of this: {op}"));
            }
            (End::Answered { answer, .. }, None) => {
                let is_missing = place(answer).is_none_or(|index| missing.contains(&index));
                if !is_missing || missing.is_empty() {
                    return Err(format!("answered, and not in the log: {op}"));
                }
            }
        }
    }
    Ok(resolved)
}

/// Where in the log an answer says that it stands.
fn place(answer: Answer) -> Option<u64> {
    match answer {
        Answer::Done { index } | Answer::Mismatch { index } | Answer::Missing { index } => index,
        Answer::Found { .. } | Answer::Absent => None,
    }
}

/// Whether a client may be told this of what the log says. An answer need not name the index.
fn is_told(answer: Answer, found: Answer) -> bool {
    let is_same_kind = matches!(
        (answer, found),
        (Answer::Done { .. }, Answer::Done { .. })
            | (Answer::Mismatch { .. }, Answer::Mismatch { .. })
            | (Answer::Missing { .. }, Answer::Missing { .. })
    );
    is_same_kind && place(answer).is_none_or(|index| place(found) == Some(index))
}
