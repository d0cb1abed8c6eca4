//! A state machine behind one trait, for those who want no channels: commands in, typed responses
//! out.
//!
//! ```no_run
//! use std::io::{self, Read, Write};
//! use raftnode::machine::{self, Command, StateMachine};
//!
//! /// Counts the bytes of all commands.
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     type Response = u64;
//!     type Error = std::convert::Infallible;
//!
//!     fn apply(&mut self, command: Command<'_>) -> Result<u64, Self::Error> {
//!         self.0 += command.data.len() as u64;
//!         Ok(self.0)
//!     }
//!
//!     fn capture(&self) -> impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static {
//!         let count = self.0;
//!         move |state| write!(state, "{count}")
//!     }
//!
//!     fn restore(&mut self, state: &mut dyn Read, _index: u64, _term: u64) -> io::Result<()> {
//!         let mut text = String::new();
//!         state.read_to_string(&mut text)?;
//!         // A cluster that has just been founded has no state.
//!         let count = if text.is_empty() { Ok(0) } else { text.parse() };
//!         self.0 = count.map_err(io::Error::other)?;
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let founders = raftnode::membership::parse_cluster("http://127.0.0.1:9021")?;
//! # let config = raftnode::Config::new(1, founders, "state-1".into());
//! # let logger = slog::Logger::root(slog::Discard, slog::o!());
//! # let stop = std::sync::atomic::AtomicBool::new(false);
//! # let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
//! let (node, channels) = raftnode::Node::start(config, &logger, &stop)?;
//! let (handle, applier) = machine::start(Counter(0), channels)?;
//! let outcome: raftnode::Outcome<u64> = handle.propose("hello".into(), deadline)?.wait();
//! handle.node().shutdown();
//! node.join()?;
//! applier.join()?;
//! # Ok(())
//! # }
//! ```
//!
//! One thread, the applier, owns the machine. It takes what is committed, in batches when it has
//! fallen behind, and never skips an entry: what a machine cannot apply stops the node, since
//! members that disagree about what an entry means would diverge.
//!
//! Invariants:
//! - K1 The machine has applied exactly the commands through its index: each once, in log order.
//! - K2 A command is shown before its index is reported as applied, and before its proposer hears
//!   of it.
//! - K3 A command that cannot be applied, and a state that cannot be restored, stop the node.
//! - K4 After a restore nothing is shown until all that was known to be committed is applied: an
//!   older state helps nobody. A member that runs goes on showing what it showed before the
//!   restore meanwhile, which is never newer.
//! - K5 A captured state holds exactly the commands through the index that its request names.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::resume_unwind;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use wal::defects::{Defect, has};

use crate::{
    Applied, Channels, Commit, CommittedEntry, Entries, Outcome, Pending, Refusal, Restore,
    SnapshotRequest, Unknown,
};

/// How many items of the commit channel are applied before they are shown. More would save little
/// and make the first of them wait.
const MAX_ITEMS_PER_SHOW: usize = 32;

/// A committed command, as the log has it.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// The index of its entry.
    pub index: u64,
    /// The term of its entry.
    pub term: u64,
    /// What was proposed.
    pub data: &'a Bytes,
}

/// What a replicated log amounts to. Everything it does must follow from the commands alone: no
/// clock, no randomness, nothing that differs between members.
pub trait StateMachine: Send + 'static {
    /// What applying a command gives to its proposer.
    type Response: Send + 'static;
    /// Why a command cannot be applied by this program.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Applies the next command. What a command may rightly meet, such as a condition that does
    /// not hold, is a response. An error is for what this program does not understand.
    ///
    /// # Errors
    ///
    /// An error stops the node (K3) before anything of this command is shown.
    fn apply(&mut self, command: Command<'_>) -> Result<Self::Response, Self::Error>;

    /// Everything through `index`, an entry of `term`, is applied, and readers may see it now.
    /// Reports and answers follow (K2). Not every index is shown, and the last one need not be a
    /// command's. For machines whose readers look elsewhere than at the machine itself.
    fn show(&mut self, index: u64, term: u64) {
        let (_, _) = (index, term);
    }

    /// Takes hold of the state as it is now, cheaply: no command is applied meanwhile. What it
    /// gives runs on another thread, takes the time it needs, and writes what
    /// [`restore`](Self::restore) is to read. An error that it returns abandons this snapshot and
    /// is logged.
    fn capture(&self) -> impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static;

    /// Forgets everything and takes the state as of `index`, an entry of `term`. Comes first after
    /// every start, with no bytes at all in a cluster that has just been founded, and again
    /// whenever this member has fallen too far behind the log. What is applied to it is not shown
    /// at once (K4).
    ///
    /// # Errors
    ///
    /// An error stops the node (K3).
    fn restore(&mut self, state: &mut dyn io::Read, index: u64, term: u64) -> io::Result<()>;
}

/// Why a state machine cannot go on. Both mean that this program is not the one that wrote the
/// log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A committed command that the machine does not understand.
    #[error(
        "cannot apply the command at index {index}, term {term}: {source}; \
         run the version that wrote it"
    )]
    Apply {
        /// Its index.
        index: u64,
        /// Its term.
        term: u64,
        /// What [`StateMachine::apply`] returned.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A snapshot's state that the machine cannot read.
    #[error("cannot restore the snapshot at index {index}: {source}")]
    Restore {
        /// The snapshot's index.
        index: u64,
        /// What [`StateMachine::restore`] returned.
        source: io::Error,
    },
}

/// The way to a state machine's log, for any number of threads.
pub struct Handle<M: StateMachine> {
    node: crate::Handle,
    machine: PhantomData<fn() -> M>,
}

impl<M: StateMachine> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), machine: PhantomData }
    }
}

impl<M: StateMachine> fmt::Debug for Handle<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Handle").field(&self.node).finish()
    }
}

impl<M: StateMachine> Handle<M> {
    pub(crate) fn new(node: crate::Handle) -> Self {
        Self { node, machine: PhantomData }
    }

    /// Offers a command to the log; any member takes it. As [`crate::Handle::propose`], with the
    /// machine's own response.
    ///
    /// # Errors
    ///
    /// Those of [`crate::Handle::propose`].
    pub fn propose(
        &self,
        data: Bytes,
        deadline: Instant,
    ) -> Result<Pending<Outcome<M::Response>>, Refusal> {
        self.node.propose_for(data, deadline)
    }

    /// As [`propose`](Self::propose), and says afterwards where the time went:
    /// [`Pending::trace`].
    ///
    /// # Errors
    ///
    /// Those of [`crate::Handle::propose`].
    pub fn propose_traced(
        &self,
        data: Bytes,
        deadline: Instant,
    ) -> Result<Pending<Outcome<M::Response>>, Refusal> {
        self.node.propose_traced_for(data, deadline)
    }

    /// The node below, for everything but proposals: reads, membership changes, snapshots, status.
    ///
    /// # Panics
    ///
    /// Nothing here, but the applier, when a command that was proposed through the node's own
    /// handle is applied: its proposer waits for bytes, and would be given an `M::Response`.
    #[must_use]
    pub fn node(&self) -> &crate::Handle {
        &self.node
    }
}

/// The thread that owns a state machine.
#[derive(Debug)]
pub struct Applier {
    thread: JoinHandle<Result<(), Error>>,
}

impl Applier {
    /// Waits until the applier ends: when the node does, or at the first [`Error`], which stops
    /// the node.
    ///
    /// # Errors
    ///
    /// Why the machine could not go on.
    ///
    /// # Panics
    ///
    /// When the machine did, with its own words.
    pub fn join(self) -> Result<(), Error> {
        self.thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// Starts the thread that applies what a node commits to `machine`.
///
/// # Errors
///
/// When the system gives no thread. The channels are dropped then, which stops the node.
pub fn start<M: StateMachine>(machine: M, channels: Channels) -> io::Result<(Handle<M>, Applier)> {
    let Channels { handle, commits, applied } = channels;
    let runner = Runner::new(machine, applied);
    let thread =
        std::thread::Builder::new().name("applier".into()).spawn(move || runner.run(&commits))?;
    Ok((Handle::new(handle), Applier { thread }))
}

/// What the applier's thread does.
pub(crate) struct Runner<M: StateMachine> {
    machine: M,
    applied_index: u64,
    applied_term: u64,
    /// Until this index is applied nothing is shown. See K4.
    replay_through: u64,
    /// Whether the machine is not as it was when it was last shown.
    unseen: bool,
    applied: Applied,
    /// What is applied and nobody has been told of.
    unanswered: Vec<(CommittedEntry, M::Response)>,
}

impl<M: StateMachine> Runner<M> {
    pub(crate) fn new(machine: M, applied: Applied) -> Self {
        Self {
            machine,
            applied_index: 0,
            applied_term: 0,
            replay_through: 0,
            unseen: false,
            applied,
            unanswered: Vec::new(),
        }
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn machine(&self) -> &M {
        &self.machine
    }

    /// Takes what is there, shows it, and answers for it. An applier that falls behind thereby
    /// shows less often, and catches up.
    fn run(mut self, commits: &Receiver<Commit>) -> Result<(), Error> {
        while let Ok(first) = commits.recv() {
            self.take_all(std::iter::once(first).chain(commits.try_iter()))?;
        }
        Ok(())
    }

    /// Takes what is there, up to a bound, and shows it: one turn of the applier.
    pub(crate) fn take_all(&mut self, commits: impl Iterator<Item = Commit>) -> Result<(), Error> {
        for commit in commits.take(MAX_ITEMS_PER_SHOW) {
            self.take(commit)?;
        }
        self.show_unless_replaying();
        Ok(())
    }

    fn take(&mut self, commit: Commit) -> Result<(), Error> {
        match commit {
            Commit::Restore(restore) => self.restore(restore),
            Commit::Entries(entries) => self.apply(entries),
            Commit::Snapshot(request) => {
                self.capture(request);
                Ok(())
            }
        }
    }

    /// What was applied before is shown and answered for while it still can be; what may not be
    /// shown yet (K4) is dropped with the state that held it, and its proposers hear that it is
    /// unknown.
    fn restore(&mut self, restore: Restore) -> Result<(), Error> {
        let Restore { index, term, commit_index, mut state } = restore;
        self.show_unless_replaying();
        for waiter in self.unanswered.drain(..).filter_map(|(entry, _)| entry.waiter) {
            waiter.answer(Outcome::Unknown(Unknown::Restored));
        }
        self.machine
            .restore(&mut state, index, term)
            .map_err(|source| Error::Restore { index, source })?;
        (self.applied_index, self.applied_term) = (index, term);
        (self.replay_through, self.unseen) = (commit_index, true);
        Ok(())
    }

    fn capture(&self, request: SnapshotRequest) {
        assert!(
            (self.applied_index, self.applied_term) == (request.index, request.term),
            "K5: a capture of index {}, term {} at index {}, term {}",
            request.index,
            request.term,
            self.applied_index,
            self.applied_term
        );
        request.capture(self.machine.capture());
    }

    fn apply(&mut self, entries: Entries) -> Result<(), Error> {
        let Entries { last_index, last_term, items, .. } = entries;
        for entry in items {
            let CommittedEntry { index, term, .. } = entry;
            assert!(
                self.applied_index < index && index <= last_index,
                "K1: index {index} after {}, in a range through {last_index}",
                self.applied_index
            );
            self.applied_index = index;
            let command = Command { index, term, data: &entry.data };
            let failed = |source| Error::Apply { index, term, source: Box::new(source) };
            let mut response = self.machine.apply(command).map_err(failed)?;
            if has(Defect::ApplyTwice) && entry.is_awaited() {
                response = self.machine.apply(command).map_err(failed)?;
            }
            if has(Defect::AnswerEarly) {
                entry.respond(response);
            } else if entry.is_awaited() {
                self.unanswered.push((entry, response));
            }
        }
        assert!(
            self.applied_index <= last_index,
            "K1: a range through {last_index} after {}",
            self.applied_index
        );
        (self.applied_index, self.applied_term) = (last_index, last_term);
        if has(Defect::ReportEarly) {
            self.applied.report(last_index);
        }
        self.unseen = true;
        Ok(())
    }

    /// See K4.
    fn show_unless_replaying(&mut self) {
        if self.unseen && self.applied_index >= self.replay_through {
            self.show();
        }
    }

    /// K2: first what readers see, then the report, then the answers.
    fn show(&mut self) {
        self.machine.show(self.applied_index, self.applied_term);
        self.unseen = false;
        self.applied.report(self.applied_index + u64::from(has(Defect::AppliedAhead)));
        let shown = Instant::now();
        for (entry, response) in self.unanswered.drain(..) {
            entry.shown(shown);
            entry.respond(response);
        }
    }
}

#[cfg(test)]
mod tests;
