//! Deliberate defects, to show that the tests that should find such defects do.
//!
//! All of them are listed here, those of the crates above too. Where one has its place the code
//! asks [`has`], in one line, and without the feature `defects`, which nothing turns on by itself,
//! the answer is `false` at compile time. With it a process has the one that the environment
//! names, if any; a test may choose another for a thread by `with`. Whoever has one breaks his
//! promises.

#[cfg(feature = "defects")]
use std::{cell::Cell, sync::OnceLock};

/// The variable that names the defect of a process.
#[cfg(feature = "defects")]
const VARIABLE: &str = "RAFTEXAMPLE_DEFECT";

macro_rules! defects {
    ($($variant:ident $name:literal $what:literal,)*) => {
        /// What is done wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Defect {
            $(#[doc = concat!("`", $name, "`: ", $what, ".")] $variant,)*
        }

        impl Defect {
            /// All there are.
            pub const ALL: &[Defect] = &[$(Defect::$variant,)*];

            /// What it is chosen by.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Defect::$variant => $name,)* }
            }

            /// What is done wrong, in words.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self { $(Defect::$variant => $what,)* }
            }
        }
    };
}

defects! {
    // The log.
    SkipSync "skip-sync" "a batch is acknowledged without a sync",
    RetrySync "retry-sync" "a sync that failed is tried again, and believed",
    Unlatched "unlatched" "the log goes on after a write or a sync has failed",
    SkipDirSync "skip-dir-sync" "a new segment's name is not made durable",
    SkipSealSync "skip-seal-sync" "a segment is left before its seal is durable",
    NoHeadState "no-head-state" "a new segment does not repeat the hard state",
    PiecemealRelease "piecemeal-release" "old segments are deleted without the rename that decides",
    TruncateOnDamage "truncate-on-damage" "a damaged batch is cut off, with all that follow it",
    KeepTornBytes "keep-torn-bytes" "a torn batch is cut off without being zeroed",
    BelieveCache "believe-cache" "the end of the log is read from the cache and not synced again",
    BelieveSeal "believe-seal" "a seal that a dead process wrote is not synced before it is built upon",
    BelieveNames "believe-names" "names that a dead process gave are not synced before they are built upon",
    BelieveDirectory "believe-directory" "the name of a directory that a dead process made is not synced",
    UnverifiedReads "unverified-reads" "an entry is read from the disk without its checksum",
    ForeignLog "foreign-log" "the log of another cluster is opened",
    NoLock "no-lock" "a directory is opened although another process holds its lock",

    // What raft has on disk.
    DropHardState "drop-hard-state" "term and vote are written only when entries are",
    ForgetChange "forget-change" "that a membership change is committed is synced with what comes later",
    IgnoreSaveError "ignore-save-error" "a failed write of entries is not told",
    EarlySend "early-send" "messages that promise durability leave before the sync",
    EarlyCount "early-count" "a leader counts a batch as its own while another thread still syncs it",
    EarlyDecision "early-decision" "a leader says that a change is committed before its disk knows",
    EarlyVote "early-vote" "the messages of a new leader leave before its own vote is synced",
    HardStateFirst "hard-state-first" "the commit index is synced before the snapshot it commits",
    MarkerFirst "marker-first" "the log vouches for a snapshot before its file has its name",
    NewerConfState "newer-conf-state" "raft starts with the newest configuration, not the snapshot's",

    // Snapshots.
    UnsyncedSnapshot "unsynced-snapshot" "a snapshot's file is given its name before it is synced",
    UnsyncedInstall "unsynced-install" "a received snapshot is installed before it is synced",
    UncheckedSnapshot "unchecked-snapshot" "a snapshot's checksums are not looked at",
    SnapshotAhead "snapshot-ahead" "a snapshot is taken before what it claims to hold is applied",
    ForgetRemoved "forget-removed" "a snapshot lacks the ids that were removed",
    PatchedConfState "patched-conf-state" "a snapshot that lacks its receiver is patched to name it",
    KeepTooFew "keep-too-few" "the newest snapshot is purged with the old ones",
    KeepOrphans "keep-orphans" "snapshot files that the log does not know stay",
    NeverRelease "never-release" "the log is never let go of",
    SendTwice "send-twice" "a snapshot is sent to a member while another is on its way there",
    NoWayBack "no-way-back" "the log is let go of though the snapshot before the newest needs it",
    RepublishRestored "republish-restored" "what an installed snapshot covers is published after it",

    // Publishing and answering.
    SkipMissed "skip-missed" "committed entries for which there was no room are skipped",
    UnboundedBacklog "unbounded-backlog" "what the consumer has not taken may grow without bound",
    LeakRoom "leak-room" "a snapshot that is installed takes room for commits away for good",
    ForgetBacklog "forget-backlog" "the last entry of a backlog is published with the next one only",
    StandWithConsumer "stand-with-consumer" "the clock stands while the consumer does",
    StandWithDisk "stand-with-disk" "the clock waits for a sync for however long that takes",
    ReorderCommits "reorder-commits" "what the commit channel had no room for goes to the end",
    SkipEmptyChange "skip-empty-change" "a membership entry without data is not published",
    FifoAnswers "fifo-answers" "proposals are answered in the order in which they were made",
    AnswerByNumber "answer-by-number" "a proposal is known by its number, whoever made it",
    RefuseTooEarly "refuse-too-early" "a proposal is refused by an entry of its own term",
    DeadlineRefuses "deadline-refuses" "a proposal under way is refused at its deadline",
    AckAtAppend "ack-at-append" "a write is acknowledged when it is accepted",
    LateBarriers "late-barriers" "barriers have no deadline",
    AppliedAhead "applied-ahead" "the applied index is one more than what is applied",
    ShowUnreplayed "show-unreplayed" "a member shows its snapshot before it has applied what it had committed",
    OneExitCode "one-exit-code" "every end has the same exit code",
    ReportEarly "report-early" "an index is reported as applied before it is shown",
    AnswerEarly "answer-early" "a proposer hears of its command before it is shown",
    ApplyTwice "apply-twice" "a command that somebody waits for is applied twice",

    // Reads.
    LocalReads "local-reads" "linearizable reads see what this member has applied",
    LostMinIndex "lost-min-index" "a read does not wait for the index that it is to see",
    LateReads "late-reads" "a confirmed read has no deadline",
    LeaseReads "lease-reads" "a leader answers reads without asking a quorum",
    ReusedContexts "reused-contexts" "rounds of reads share a context, and are believed twice",
    UnappliedReads "unapplied-reads" "a confirmed read does not wait for the state machine",
    EarlyLeaderReads "early-leader-reads" "a leader answers reads before it committed in its term",

    // Membership.
    SelfRemoval "self-removal" "a leader removes itself without handing over",
    NoStepDown "no-step-down" "a leader leads on after its own removal",
    EarlyChange "early-change" "a leader changes the membership before it has committed in its term",
    RepeatChange "repeat-change" "a change whose answer was lost is asked for again, and refused",
    ForgetGate "forget-gate" "removed members are let in until the log is replayed",
    TwoChanges "two-changes" "a membership change is proposed while another is under way",
    BlindPromotion "blind-promotion" "a learner is promoted however far it lags",
    LearnersInQuorum "learners-in-quorum" "live learners count where live voters are asked for",
    IdReturns "id-returns" "the id of a removed member is given away again",
    RemovedMayTalk "removed-may-talk" "a removed member's streams are let in",
    WipedMayTalk "wiped-may-talk" "a member is let in with another data directory",
    ForeignPeer "foreign-peer" "a member of another cluster is let in",
    VolatilePins "volatile-pins" "whom a member has met is not written down",
    HastyFounder "hasty-founder" "a fresh founder votes before it has met the others",
    NoTombstone "no-tombstone" "a member that was removed starts again",

    // The wall in front of raft.
    VetCommit "vet-commit" "a heartbeat may commit what is not in the log",
    VetGap "vet-gap" "an append may have a gap",
    VetTerm "vet-term" "a message may lack its term",
    VetAcknowledgement "vet-acknowledgement" "an acknowledgement may be of what was never sent",
    VetConflict "vet-conflict" "an append may differ from what is committed",

    // The store.
    ForgetRepetitions "forget-repetitions" "a snapshot of the store lacks the table of keyed commands",
    IgnoreCas "ignore-cas" "a conditional write does not look at its condition",
    RestoredModIndex "restored-mod-index" "restored keys have the snapshot's index as mod index",
    ResurrectKeys "resurrect-keys" "a restored state is laid over the old one",
    HalfTxn "half-txn" "a txn that finds too much keeps its first changes",
}

/// Whether this process has the defect.
#[cfg(not(feature = "defects"))]
#[inline(always)]
pub const fn has(_: Defect) -> bool {
    false
}

/// Whether this thread has the defect.
#[cfg(feature = "defects")]
#[inline]
pub fn has(defect: Defect) -> bool {
    CHOSEN.get() == Some(defect)
}

#[cfg(feature = "defects")]
thread_local! {
    static CHOSEN: Cell<Option<Defect>> =
        Cell::new(from_environment().unwrap_or_else(|what| panic!("{what}")));
}

/// The defect that the environment names for this process.
///
/// # Errors
///
/// Names what it could be, if it is none.
#[cfg(feature = "defects")]
pub fn from_environment() -> Result<Option<Defect>, String> {
    static NAMED: OnceLock<Result<Option<Defect>, String>> = OnceLock::new();
    let read = || {
        let name = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty());
        name.map(|name| name.parse()).transpose()
    };
    NAMED.get_or_init(read).clone()
}

/// Runs something with another defect, or none, on this thread.
#[cfg(feature = "defects")]
pub fn with<T>(defect: Option<Defect>, run: impl FnOnce() -> T) -> T {
    struct Restore(Option<Defect>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHOSEN.set(self.0);
        }
    }
    let _restore = Restore(CHOSEN.replace(defect));
    run()
}

#[cfg(feature = "defects")]
impl std::str::FromStr for Defect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|defect| defect.name() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|defect| defect.name()).collect();
            let names = names.join(", ");
            format!("{VARIABLE}: {text:?} is not the name of a defect; there are {names}")
        })
    }
}

#[cfg(all(test, feature = "defects"))]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_read_back() {
        for (at, defect) in Defect::ALL.iter().enumerate() {
            assert_eq!(defect.name().parse(), Ok(*defect));
            assert!(Defect::ALL[..at].iter().all(|other| other.name() != defect.name()));
        }
        let error = "no-such-defect".parse::<Defect>().unwrap_err();
        assert!(error.contains("no-such-defect") && error.contains("skip-sync"), "{error}");
    }

    /// A choice holds for its thread, and ends with what was run, panic or not.
    #[test]
    fn a_choice_is_a_threads_and_ends() {
        with(Some(Defect::SkipSync), || {
            assert!(has(Defect::SkipSync) && !has(Defect::RetrySync));
            std::thread::spawn(|| assert!(!has(Defect::SkipSync))).join().expect("no panic");
            with(None, || assert!(!has(Defect::SkipSync)));
            assert!(has(Defect::SkipSync));
        });
        assert!(!has(Defect::SkipSync));
    }
}
