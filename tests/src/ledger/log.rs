//! One member's log, read back from its segments.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use raftexample::command::{Command, Envelope, Op, Test, Txn};
use raftnode::inspect::{self, Content, Entry, Item, Record, What};

use super::{GENESIS, archive};

/// An entry, as far as it can be compared and counts for the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) term: u64,
    /// Of all that it says.
    pub(super) hash: u64,
    pub(super) said: Said,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    Write(Write),
    Membership,
}

/// A command of a recording's client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) key: Bytes,
    /// Its idempotency key.
    pub(super) name: Option<Bytes>,
    /// What it puts; a removal puts nothing.
    pub(super) value: Option<Bytes>,
    /// The index at which the key must have been put last.
    pub(super) expected: Option<u64>,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Said::Nothing => write!(f, "nothing"),
            Said::Membership => write!(f, "a membership change"),
            Said::Write(Write { key, value, .. }) => match value {
                Some(value) => write!(f, "{key:?} = {value:?}"),
                None => write!(f, "no {key:?}"),
            },
        }
    }
}

/// What a member's log held.
#[derive(Debug, Default)]
pub struct MemberLog {
    entries: BTreeMap<u64, Committed>,
    commit: u64,
    /// Index and term of the last one.
    marker: Option<(u64, u64)>,
}

impl MemberLog {
    /// Reads segments, in the order of their names.
    ///
    /// # Errors
    ///
    /// One cannot be read, or says something that no client of a recording asked for.
    pub fn read(segments: &Path) -> Result<MemberLog, String> {
        let mut log = MemberLog::default();
        let unreadable = |error| format!("{}: {error}", segments.display());
        for path in archive::segments(segments).map_err(unreadable)? {
            let mut refused = None;
            let inspection = inspect::open(&path).map_err(|error| error.to_string())?;
            let run = inspection.run(&mut |item| match log.take(&item) {
                Ok(()) => ControlFlow::Continue(()),
                Err(why) => {
                    refused = Some(format!("{}: {why}", path.display()));
                    ControlFlow::Break(())
                }
            });
            match (refused, run) {
                (Some(why), _) => return Err(why),
                (None, Err(error)) => return Err(error.to_string()),
                (None, Ok(_)) => {}
            }
        }
        Ok(log)
    }

    /// The commit index that the member has told is at least this.
    pub fn committed_to(&mut self, commit: u64) {
        self.commit = self.commit.max(commit);
    }

    /// Whether the log holds nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn committed(&self) -> impl Iterator<Item = (u64, &Committed)> {
        self.entries.range(..=self.commit).map(|(index, entry)| (*index, entry))
    }

    /// Whether it holds every entry up to `last` as committed.
    pub(super) fn is_whole(&self, last: u64) -> bool {
        let n_whole = last.saturating_sub(GENESIS);
        self.committed().filter(|(index, _)| *index <= last).count() as u64 == n_whole
    }

    fn take(&mut self, item: &Item<'_>) -> Result<(), String> {
        let Item::Record(Record { what, .. }) = item else { return Ok(()) };
        match what {
            What::Entry(entry) => {
                // It replaces what had its index, and everything behind that.
                self.entries.split_off(&entry.index);
                self.entries.insert(entry.index, committed(entry)?);
            }
            What::Marker(marker) => {
                // One that the log does not go on from was another member's, and ends the log:
                // what had not been committed until then may never be. Every segment begins with
                // the one that was the last before it.
                let is_new = self.marker.replace((marker.index, marker.term))
                    != Some((marker.index, marker.term));
                let own = self.entries.get(&marker.index).map(|entry| entry.term);
                if is_new && own != Some(marker.term) {
                    self.entries.split_off(&(self.commit + 1));
                }
            }
            What::HardState(state) => self.commit = self.commit.max(state.commit),
            What::Seal => {}
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn of(entries: Vec<(u64, Committed)>, commit: u64) -> MemberLog {
        MemberLog { entries: entries.into_iter().collect(), commit, marker: None }
    }
}

fn committed(entry: &Entry<'_>) -> Result<Committed, String> {
    let mut hasher = DefaultHasher::new();
    let said = match &entry.content {
        Content::Nothing => Said::Nothing,
        Content::Command { proposer, data } => {
            (proposer, data).hash(&mut hasher);
            let envelope = Envelope::decode(&Bytes::copy_from_slice(data));
            let envelope = envelope.map_err(|error| format!("entry {}: {error}", entry.index))?;
            match write(&envelope) {
                Some(write) => Said::Write(write),
                None => Said::Nothing,
            }
        }
        Content::Member { id, member } => {
            format!("{id} {member:?}").hash(&mut hasher);
            Said::Membership
        }
        Content::Removal { id } => {
            id.hash(&mut hasher);
            Said::Membership
        }
        Content::Unknown(payload) => {
            return Err(format!("entry {} has {} unknown bytes", entry.index, payload.len()));
        }
    };
    Ok(Committed { term: entry.term, hash: hasher.finish(), said })
}

/// The write that a command is; none when it only reads. Transactions of a recording put one key,
/// on one condition or none.
fn write(envelope: &Envelope) -> Option<Write> {
    let name = envelope.keyed.as_ref().map(|keyed| keyed.idempotency_key.clone());
    let (key, value, expected) = match &envelope.command {
        Command::Put { key, value, cas } => (key, Some(value.clone()), *cas),
        Command::Delete { key, cas } => (key, None, *cas),
        Command::Txn(Txn { compare, then, .. }) => {
            let value = then.iter().find_map(|op| match op {
                Op::Put { value, .. } => Some(value.clone()),
                Op::Delete { .. } | Op::Get { .. } => None,
            });
            let (Op::Put { key, .. } | Op::Delete { key } | Op::Get { key }) = then.first()?;
            let expected = compare.iter().find_map(|compare| match compare.test {
                Test::ModIndex(index) => Some(index),
                Test::Absent => Some(0),
                Test::Value(_) => None,
            });
            (key, Some(value?), expected)
        }
        Command::Ignorable(_) => return None,
    };
    Some(Write { key: key.clone(), name, value, expected })
}
