//! What a comparison must come to, if it is told so.

use std::fmt;

use crate::figure::{Outcome, Spread};
use crate::plan::{Kind, Peer};
use crate::round::Failure;

/// The level at which p99 is held against etcd's.
const P99_CONNECTIONS: u16 = 64;

/// Ratios of medians; a system that is absent breaks none.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Limits {
    /// Fail when a level's writes are below its number here, times etcd's, in the order of
    /// `--connections`.
    #[arg(long, value_delimiter = ',', value_name = "RATIO,...", requires = "against")]
    at_least: Vec<f64>,
    /// Fail when the p99 of writes at 64 connections is above this, times etcd's.
    #[arg(long, value_name = "RATIO", requires = "against")]
    p99_at_most: Option<f64>,
    /// Fail when writes and reads, 10 to 90, are below this, times etcd's.
    #[arg(long, value_name = "RATIO", requires = "against")]
    mix_at_least: Option<f64>,
    /// Fail when linearizable reads are below this, times the Go original's stale ones.
    #[arg(long, value_name = "RATIO", requires = "against")]
    reads_at_least: Option<f64>,
    /// Fail when large values are below this, times a third of what fio writes.
    #[arg(long, value_name = "RATIO", requires = "against")]
    disk_at_least: Option<f64>,
}

/// What a ratio must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A ratio beside its limit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Judged {
    pub(crate) name: String,
    pub(crate) yardstick: &'static str,
    pub(crate) ratio: Spread,
    pub(crate) bound: Bound,
}

impl Limits {
    /// Whether they fit the levels.
    pub(crate) fn check(&self, connections: &[u16]) -> Result<(), Failure> {
        if self.at_least.is_empty() || self.at_least.len() == connections.len() {
            return Ok(());
        }
        Err(Failure::new("--at-least needs a ratio for each level of --connections"))
    }

    /// Each limit that was given, of what was measured against something.
    pub(crate) fn judged(&self, outcomes: &[Outcome]) -> Vec<Judged> {
        let mut judged = Vec::new();
        let mut levels = self.at_least.iter().copied();
        for outcome in outcomes {
            let least = match outcome.case.kind {
                Kind::Writes => levels.next(),
                Kind::Mixed => self.mix_at_least,
                Kind::Reads => self.reads_at_least,
                Kind::Large => self.disk_at_least,
            };
            if let (Some(ratio), Some(least)) = (outcome.ratio(Peer::Raftexample), least) {
                let (name, bound) = (outcome.name(), Bound::AtLeast(least));
                judged.push(Judged { name, yardstick: outcome.yardstick(), ratio, bound });
            }
            let is_p99 =
                outcome.case.kind == Kind::Writes && outcome.case.connections == P99_CONNECTIONS;
            if let (true, Some(ratio), Some(most)) =
                (is_p99, outcome.p99_ratio(Peer::Raftexample), self.p99_at_most)
            {
                let (name, bound) = (format!("p99 of {}", outcome.name()), Bound::AtMost(most));
                judged.push(Judged { name, yardstick: outcome.yardstick(), ratio, bound });
            }
        }
        judged
    }

    /// What is not as it must be.
    pub(crate) fn missed(&self, outcomes: &[Outcome]) -> Vec<String> {
        let missed = self.judged(outcomes).into_iter().filter(|judged| !judged.is_met());
        missed
            .map(|Judged { name, ratio, bound, .. }| format!("{name}: {ratio}, {bound} wanted"))
            .collect()
    }
}

impl Judged {
    /// Whether the median keeps the limit.
    pub(crate) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(least) => self.ratio.median >= least,
            Bound::AtMost(most) => self.ratio.median <= most,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::AtLeast(least) => write!(f, "at least {least}"),
            Bound::AtMost(most) => write!(f, "at most {most}"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::page::tests::outcomes;

    pub(crate) fn limits() -> Limits {
        // What the made-up rounds come to, exactly.
        Limits {
            at_least: vec![3.0, 3.0],
            p99_at_most: Some(0.4),
            mix_at_least: Some(3.0),
            reads_at_least: Some(0.5),
            disk_at_least: Some(0.59),
        }
    }

    /// Each limit is held against its own figure, and what just reaches it is enough.
    #[test]
    fn each_limit_is_checked() {
        let outcomes = outcomes(&[], true);
        assert_eq!(limits().missed(&outcomes), Vec::<String>::new());
        let raised: [(Limits, &[&str]); 6] = [
            (Limits { at_least: vec![3.1, 3.0], ..limits() }, &["writes at 1 connections: 3.00"]),
            (Limits { at_least: vec![3.0, 3.1], ..limits() }, &["writes at 64 connections: 3.00"]),
            (Limits { p99_at_most: Some(0.39), ..limits() }, &["p99 of writes at 64"]),
            (Limits { mix_at_least: Some(3.1), ..limits() }, &["put=10,get=90 at 64"]),
            (Limits { reads_at_least: Some(0.6), ..limits() }, &["reads at 64"]),
            (
                Limits { disk_at_least: Some(0.61), ..limits() },
                &["64 KiB values at 8", "64 KiB values at 64", "1024 KiB values at 8"],
            ),
        ];
        for (limits, names) in raised {
            let missed = limits.missed(&outcomes);
            for name in names {
                assert!(missed.iter().any(|text| text.starts_with(name)), "{name}: {missed:?}");
            }
            assert_eq!(missed.len(), names.len(), "{missed:?}");
        }
    }

    /// Against nobody, nothing can be missed.
    #[test]
    fn who_is_absent_breaks_no_limit() {
        let outcomes = outcomes(&[Peer::Etcd, Peer::Original], false);
        let missed = Limits { disk_at_least: Some(9.0), ..limits() }.missed(&outcomes);
        assert_eq!(missed, Vec::<String>::new());
    }

    /// A ratio without a level would be checked against the wrong one.
    #[test]
    fn limits_fit_their_levels() {
        assert!(limits().check(&[1, 16]).is_ok());
        assert!(limits().check(&[1]).is_err());
        assert!(Limits::default().check(&[1]).is_ok());
    }
}
