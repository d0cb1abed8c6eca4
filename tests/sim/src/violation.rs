//! What was found to be wrong.

use std::fmt;

/// A rule that a run broke, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// What the rule says.
    pub statement: &'static str,
    /// What was seen instead.
    pub what: String,
    /// The tick at which it was seen, when it was seen during the run.
    pub tick: Option<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)?;
        if let Some(tick) = self.tick {
            write!(f, " (at tick {tick})")?;
        }
        write!(f, "\n  the rule: {}", self.statement)
    }
}

impl std::error::Error for Violation {}
