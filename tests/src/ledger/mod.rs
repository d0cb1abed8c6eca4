//! What the members' logs say of a recording: which writes are in there, in which order, and so
//! what came of those whose clients never heard.
//!
//! - K1 An entry counts as committed when a log holds it at or below a commit index that the same
//!   log holds, or below one that its member has told. Members that hold committed entries at the
//!   same index hold the same one, or the logs are refused.
//! - K2 An operation is said to have never happened only when every entry from the first to the
//!   last is there and none of them is its.
//! - K3 Together the logs hold every committed entry, and some of them are in two logs, or the
//!   comparison has failed. One log alone need not hold all: a member that was away or that joins
//!   gets a snapshot in place of entries, and one that was removed hears of no later ones. When each
//!   was away once, no log is whole.

mod archive;
mod log;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

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
    /// Where two logs or more hold one.
    shared: BTreeSet<u64>,
}

/// What became of a recording's writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Those whose answers are what the log makes of them.
    pub n_confirmed: usize,
    /// Those that are in the log: they took effect, or met no condition, where they stand.
    pub n_found: usize,
    /// Those that are not, and never will be.
    pub n_absent: usize,
    /// Those that nobody can tell.
    pub n_open: usize,
}

/// `700 answers confirmed by the log; ...`.
impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Resolved { n_confirmed, n_found, n_absent, n_open } = self;
        write!(
            f,
            "{n_confirmed} answers confirmed by the log; of the outcomes that clients never heard \
             {n_found} took effect, {n_absent} never happened, {n_open} cannot be told"
        )
    }
}

/// How much of the members' logs there was to compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// How many logs there were, those of members that are gone included.
    pub n_logs: usize,
    /// How many of them hold every committed entry, from the first to the last.
    pub n_whole: usize,
    /// How many entries there are altogether; each is in one log at least.
    pub n_entries: usize,
    /// How many of them are in two logs or more, and the same there.
    pub n_shared: usize,
}

impl Compared {
    /// All of another's as well.
    pub fn add(&mut self, other: Compared) {
        self.n_logs += other.n_logs;
        self.n_whole += other.n_whole;
        self.n_entries += other.n_entries;
        self.n_shared += other.n_shared;
    }
}

/// `3 of 5 logs whole, 20000 entries, 19990 in several`.
impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compared { n_logs, n_whole, n_entries, n_shared } = self;
        write!(f, "{n_whole} of {n_logs} logs whole, {n_entries} entries, {n_shared} in several")
    }
}

impl Resolved {
    /// All of another's as well.
    pub fn add(&mut self, other: Resolved) {
        self.n_confirmed += other.n_confirmed;
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
                if holder != *member {
                    ledger.shared.insert(index);
                }
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

    /// Refuses logs that do not hold all that was committed (K3): what the others amount to says
    /// nothing of what clients were told.
    ///
    /// # Errors
    ///
    /// How many entries are missing, and the first of them.
    fn require_all(&self, last: u64) -> Result<(), String> {
        let missing = self.missing(last);
        if let (Some(first), n) = (missing.first(), missing.len()) {
            return Err(format!(
                "no log holds {n} of the entries up to {last}, the first of them {first}: what they \
                 amount to cannot be told"
            ));
        }
        Ok(())
    }

    /// Compares the store, as its keys and where they were put, with what the entries amount to, and
    /// tells how much there was to compare.
    ///
    /// # Errors
    ///
    /// They are different, or the logs do not hold all that was committed (K3).
    pub fn compare(
        &self,
        logs: &[(u64, MemberLog)],
        listed: &[(String, u64)],
        last: u64,
    ) -> Result<Compared, String> {
        self.require_all(last)?;
        let replay = self.replay();
        let key = |(key, (_, mod_index)): (&Bytes, &(Bytes, u64))| {
            (String::from_utf8_lossy(key).into_owned(), *mod_index)
        };
        let replayed: Vec<_> = replay.keys().iter().map(key).collect();
        if replayed != listed {
            return Err(format!("the log makes {replayed:?}, and the store holds {listed:?}"));
        }
        let n_whole = logs.iter().filter(|(_, log)| log.is_whole(last)).count();
        let (n_logs, n_entries, n_shared) = (logs.len(), self.len(), self.shared.len());
        if n_shared == 0 {
            return Err(format!(
                "{n_logs} logs of {n_entries} entries, and none is in two of them"
            ));
        }
        Ok(Compared { n_logs, n_whole, n_entries, n_shared })
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
            (End::Answered { answer, .. }, Some(found)) if is_told(answer, found) => {
                resolved.n_confirmed += 1;
            }
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
