//! Deliberate defects, to show that the tests that should find such defects do.
//!
//! For tests only: this module exists in the crate's own tests and with the feature `defects`,
//! which nothing turns on by itself. Even then a node has no defect unless its configuration names
//! one. A node that has one breaks its promises.

use std::str::FromStr;

/// What a node does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// `local-reads`: linearizable reads see what this member has applied; nobody is asked.
    LocalReads,
    /// `ack-at-append`: a proposal ends with [`crate::Unknown::Appended`] when it is given to
    /// raft or to the leader. Whoever takes that for an acknowledgement acknowledges too early.
    AckAtAppend,
    /// `reused-contexts`: all rounds of reads have the same context, and a leader takes a context
    /// as often as it comes.
    ReusedContexts,
}

impl Defect {
    const ALL: [(&'static str, Defect); 3] = [
        ("local-reads", Defect::LocalReads),
        ("ack-at-append", Defect::AckAtAppend),
        ("reused-contexts", Defect::ReusedContexts),
    ];
}

impl FromStr for Defect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, defect)| *defect).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            format!("{text:?} is not the name of a defect; there are {names}")
        })
    }
}
