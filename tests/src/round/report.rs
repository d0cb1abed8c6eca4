//! What came of a round, and what is kept of one that failed.

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::history::{Action, Answer, End, Op, by_key};
use crate::ledger::{Compared, Resolved};
use crate::nemesis::Done;
use crate::recorder::Recorded;

/// What clients did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many reads were answered.
    pub n_reads: usize,
    /// How many unconditional writes were done.
    pub n_puts: usize,
    /// How many conditions were met.
    pub n_swaps: usize,
    /// How many were not.
    pub n_mismatches: usize,
    /// How many removals were done, or found nothing.
    pub n_removals: usize,
    /// How many operations were refused, or are known to never have happened.
    pub n_refused: usize,
    /// How many have an unknown outcome.
    pub n_unknown: usize,
}

impl Tally {
    /// Counts a history.
    pub fn of(history: &[Op]) -> Tally {
        let mut tally = Tally::default();
        for op in history {
            let count = match (op.action, op.end) {
                (_, End::Refused) => &mut tally.n_refused,
                (_, End::Unknown) => &mut tally.n_unknown,
                (Action::Get, _) => &mut tally.n_reads,
                (Action::Put { .. }, _) => &mut tally.n_puts,
                (Action::Cas { .. }, End::Answered { answer: Answer::Mismatch { .. }, .. }) => {
                    &mut tally.n_mismatches
                }
                (Action::Cas { .. }, _) => &mut tally.n_swaps,
                (Action::Delete, _) => &mut tally.n_removals,
            };
            *count += 1;
        }
        tally
    }

    /// How many the checker put into an order: those of known outcome that had an effect or saw
    /// one. A refused operation is not among them, nor one that is not known.
    pub fn n_decided(&self) -> usize {
        self.n_reads + self.n_writes()
    }

    /// How many of these went through the log as writes.
    pub fn n_writes(&self) -> usize {
        self.n_puts + self.n_swaps + self.n_mismatches + self.n_removals
    }
}

/// How many operations were answered so soon after the recording began.
pub(super) fn n_answered(history: &[Recorded], within: Duration) -> usize {
    let is_in_time = |at: u64| Duration::from_nanos(at) <= within;
    let ends = history.iter().map(|recorded| recorded.op.answered_at());
    ends.filter(|at| at.is_some_and(is_in_time)).count()
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} reads, {} puts, {} swaps, {} mismatches, {} removals; {} refused, {} unknown",
            self.n_reads,
            self.n_puts,
            self.n_swaps,
            self.n_mismatches,
            self.n_removals,
            self.n_refused,
            self.n_unknown
        )
    }
}

/// What came of a round.
#[derive(Debug, Default)]
pub struct Report {
    /// Everything that should have been otherwise; nothing when all is well.
    pub failures: Vec<String>,
    /// Where what is left of it is, when it failed.
    pub kept: Option<PathBuf>,
    /// What clients did, the open ends closed by the log.
    pub tally: Tally,
    /// How many operations were answered while faults happened. Neither what the log decided later
    /// nor the reads at the end are among them.
    pub n_under_faults: usize,
    /// What the log said of the writes.
    pub resolved: Resolved,
    /// How much of the members' logs was compared with each other and the store.
    pub compared: Compared,
    /// What went wrong on purpose.
    pub done: Done,
    /// The same, to be read.
    pub faults: Vec<String>,
    /// How long clients asked while it did.
    pub lasted: Duration,
    /// How long the check took.
    pub checked_in: Duration,
    /// How many bytes the cuts lost.
    pub n_bytes_lost: u64,
    /// The operations that contradict each other, drawn as a page.
    pub(super) picture: Option<String>,
}

impl Report {
    pub(super) fn note(&mut self, result: Result<(), String>) {
        self.failures.extend(result.err());
    }

    pub(super) fn take<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|why| self.failures.push(why)).ok()
    }

    /// Leaves the members' directories, the history and everything said where they can be looked
    /// at.
    pub(super) fn keep(&mut self, cluster: &mut Cluster, history: &[Op], disk: Option<&Path>) {
        let described = cluster.describe();
        cluster.halt();
        let directory = cluster.keep();
        let mut text = String::new();
        for (key, ops) in by_key(history) {
            for op in ops {
                // Writing to a string cannot fail.
                let _written = writeln!(text, "{key:<8} {op}");
            }
        }
        let files = [
            ("failures.txt", format!("{}\n\n{described}", self.failures.join("\n\n"))),
            ("faults.txt", self.faults.join("\n") + "\n"),
            ("history.txt", text),
        ];
        let picture = self.picture.take().map(|picture| ("timeline.html", picture));
        for (name, text) in files.into_iter().chain(picture) {
            if let Err(error) = fs::write(directory.join(name), text) {
                self.failures.push(format!("{name} cannot be kept: {error}"));
            }
        }
        if let Some(disk) = disk {
            let to = directory.join("small-disk");
            let copied = Command::new("cp").arg("-r").arg(disk).arg(to).status();
            if !copied.is_ok_and(|status| status.success()) {
                self.failures.push(format!("{} cannot be kept", disk.display()));
            }
        }
        self.kept = Some(directory);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; {}; {}; {} faults, {} bytes lost; checked in {:.1?}",
            self.tally,
            self.compared,
            self.resolved,
            self.done.total(),
            self.n_bytes_lost,
            self.checked_in
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is answered later, or never, was not done in that time.
    #[test]
    fn only_answers_in_time_are_counted() {
        let recorded = |end| {
            let (key, action) = ("key".to_owned(), Action::Get);
            let op = Op { client: 0, member: 0, key, action, call: 0, end };
            Recorded { op, number: None }
        };
        let answered = |at| recorded(End::Answered { at, answer: Answer::Absent });
        let history = [
            answered(1_000_000),
            answered(2_000_000),
            answered(2_000_001),
            recorded(End::Refused),
            recorded(End::Unknown),
        ];
        assert_eq!(n_answered(&history, Duration::from_millis(2)), 2);
    }
}
