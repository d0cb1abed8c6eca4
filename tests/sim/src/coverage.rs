//! What a campaign has exercised: a fault that never happened was not survived.
//!
//! Whoever makes something happen counts it here, once, when it has happened and not when it was
//! tried. A campaign that is large enough for everything to happen fails without it, and names it.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! kinds {
    ($($kind:ident = $name:literal,)*) => {
        /// What can happen in a run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each has its name beside it")]
        pub enum Kind {
            $($kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            /// As reports call it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    LeaderChange = "leader change",
    LeaderTransfer = "leadership handed over on request",
    MessageLost = "chunk lost on its way and sent again",
    MessageReordered = "message overtaken on another lane",
    StreamBroken = "stream broken with frames in flight",
    Partition = "symmetric partition",
    OneWayPartition = "one-way partition",
    Clog = "clogged link",
    Pause = "member paused",
    Drift = "clock that goes wrong",
    Crash = "member crashed between two turns",
    CrashMidTurn = "member crashed in the middle of a turn",
    DoubleCrash = "member crashed again while it recovered",
    Kill = "process killed, and its machine goes on",
    CleanStop = "member stopped cleanly",
    UnsyncedLost = "un-synced work lost in a crash",
    SectorsTorn = "write torn between sectors in a crash",
    RenameLost = "rename lost in a crash",
    NamesReordered = "name kept in a crash without an older one",
    TornTail = "torn tail cut at opening",
    SyncError = "sync failed",
    SyncReverted = "sync failed and took back what it was to cover",
    OtherError = "another operation of a disk failed",
    FullDisk = "no room for a write",
    LowDisk = "write refused before the disk is full",
    SlowDisk = "disk slow",
    SavedElsewhere = "batch synced while its leader went on",
    WipedMember = "member wiped",
    RefusedStart = "start refused",
    SnapshotTaken = "snapshot taken",
    SnapshotInstalled = "snapshot installed from a leader",
    SnapshotBroken = "snapshot transfer broken midway",
    SnapshotSpoilt = "start from an older snapshot, the newest being spoilt",
    LogCompacted = "log compacted",
    MemberAdded = "member added",
    MemberPromoted = "learner promoted",
    MemberDemoted = "voter demoted",
    MemberRemoved = "member removed",
    ConsumerStalled = "consumer stalled",
    OutcomeApplied = "proposal applied",
    OutcomeRefused = "proposal refused",
    OutcomeUnknown = "proposal with an unknown outcome",
    Retry = "retry under an idempotency key answered as the first",
    CasMismatch = "condition not met",
    LinearizableRead = "linearizable read",
    LeaderRead = "read of a leader",
    StaleRead = "stale read",
    Barrier = "barrier",
    WatchEvent = "watch event",
    WatchGap = "watch that was told to begin again",
}

/// How often each has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    counts: Box<[u64]>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { counts: vec![0; Kind::ALL.len()].into() }
    }
}

impl Coverage {
    /// It has happened.
    pub fn count(&mut self, kind: Kind) {
        self.add(kind, 1);
    }

    /// It has happened so many times.
    pub fn add(&mut self, kind: Kind, times: u64) {
        self.counts[kind as usize] += times;
    }

    /// How often it has happened.
    #[must_use]
    pub fn of(&self, kind: Kind) -> u64 {
        self.counts[kind as usize]
    }

    /// What happened elsewhere happened.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, more)| *sum += more);
    }

    /// What never happened.
    pub fn missing(&self) -> impl Iterator<Item = Kind> + '_ {
        Kind::ALL.iter().copied().filter(|kind| self.of(*kind) == 0)
    }

    /// By name.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<&'static str, u64> {
        Kind::ALL.iter().map(|kind| (kind.name(), self.of(*kind))).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in Kind::ALL {
            let never = if self.of(*kind) == 0 { "  <- never" } else { "" };
            writeln!(f, "{:>12}  {}{never}", self.of(*kind), kind.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A campaign must not pass for one that exercised what it left out.
    #[test]
    fn what_never_happened_is_named() {
        let mut coverage = Coverage::default();
        for kind in Kind::ALL {
            assert!(coverage.missing().any(|missing| missing == *kind));
            let mut other = Coverage::default();
            other.add(*kind, 2);
            coverage.merge(&other);
            assert_eq!(coverage.of(*kind), 2, "{}", kind.name());
        }
        assert_eq!(coverage.missing().count(), 0);
        assert_eq!(coverage.by_name().len(), Kind::ALL.len(), "two have one name");
    }
}
