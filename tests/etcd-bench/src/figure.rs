//! Medians and ratios of what was measured in turns.

use std::fmt;

use crate::plan::{Case, Kind, Peer, Yardstick};
use crate::report::Line;

const N_MEMBERS: f64 = 3.0;

/// What a case came to: round after round of each system that is there, and of the disk.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) case: Case,
    pub(crate) runs: Vec<(Peer, Vec<Line>)>,
    /// Bytes per second, where the disk is the yardstick.
    pub(crate) disk: Vec<f64>,
}

/// A median of several rounds, and the least and most of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of figures; none of no figures.
    pub(crate) fn of(figures: &[f64]) -> Option<Spread> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        Some(Spread { median: sorted[(sorted.len() - 1) / 2], least, most })
    }

    /// The ratio of two medians, and the least and most that one turn came to.
    pub(crate) fn ratio(of: &[f64], to: &[f64]) -> Option<Spread> {
        let turns: Vec<_> = of.iter().zip(to).map(|(of, to)| of / to).collect();
        let turns = Spread::of(&turns)?;
        let median = Spread::of(of)?.median / Spread::of(to)?.median;
        // A ratio of medians is not always between those of the turns.
        Some(Spread { median, least: turns.least.min(median), most: turns.most.max(median) })
    }
}

/// As a ratio is shown.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.least, self.most)
    }
}

impl Outcome {
    fn lines(&self, peer: Peer) -> Option<&[Line]> {
        let run = self.runs.iter().find(|(who, lines)| *who == peer && !lines.is_empty());
        run.map(|(_, lines)| &lines[..])
    }

    /// Requests per second in every round; none of a system that is absent.
    pub(crate) fn per_second(&self, peer: Peer) -> Vec<f64> {
        self.lines(peer).unwrap_or_default().iter().map(Line::per_second).collect()
    }

    /// What latency a system had in every round.
    pub(crate) fn micros(&self, peer: Peer, of: fn(&Line) -> u64) -> Vec<f64> {
        let lines = self.lines(peer).unwrap_or_default();
        lines.iter().map(|line| of(line) as f64).collect()
    }

    /// Bytes per second of values, in every round.
    pub(crate) fn bytes_per_second(&self, peer: Peer) -> Vec<f64> {
        let value_bytes = self.case.value_bytes as f64;
        self.per_second(peer).into_iter().map(|per_second| per_second * value_bytes).collect()
    }

    /// The round with the median throughput.
    pub(crate) fn median_line(&self, peer: Peer) -> Option<&Line> {
        let mut lines: Vec<_> = self.lines(peer)?.iter().collect();
        lines.sort_by(|a, b| a.per_second().total_cmp(&b.per_second()));
        Some(lines[(lines.len() - 1) / 2])
    }

    /// A system's throughput, divided by the yardstick's.
    pub(crate) fn ratio(&self, peer: Peer) -> Option<Spread> {
        match self.case.yardstick {
            Yardstick::Peer(yardstick) => {
                Spread::ratio(&self.per_second(peer), &self.per_second(yardstick))
            }
            Yardstick::Disk => {
                let each: Vec<_> = self.disk.iter().map(|bytes| bytes / N_MEMBERS).collect();
                Spread::ratio(&self.bytes_per_second(peer), &each)
            }
        }
    }

    /// A system's p99, divided by the yardstick's.
    pub(crate) fn p99_ratio(&self, peer: Peer) -> Option<Spread> {
        let Yardstick::Peer(yardstick) = self.case.yardstick else { return None };
        let p99 = |peer| self.micros(peer, |line| line.latency.p99_micros);
        Spread::ratio(&p99(peer), &p99(yardstick))
    }

    /// What its ratios are times of.
    pub(crate) fn yardstick(&self) -> &'static str {
        match self.case.yardstick {
            Yardstick::Peer(peer) => peer.name(),
            Yardstick::Disk => "a third of fio",
        }
    }

    /// In a few words.
    pub(crate) fn name(&self) -> String {
        let connections = self.case.connections;
        match self.case.kind {
            Kind::Writes => format!("writes at {connections} connections"),
            Kind::Mixed => format!("{} at {connections} connections", self.case.mix),
            Kind::Reads => format!("reads at {connections} connections"),
            Kind::Large => {
                format!("{} KiB values at {connections} connections", self.case.value_bytes >> 10)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A known set, of an odd and of an even number.
    #[test]
    fn a_spread_is_the_median_and_the_ends() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(
            Spread::of(&[3.0, 1.0, 2.0]),
            Some(Spread { median: 2.0, least: 1.0, most: 3.0 })
        );
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median), Some(2.0));
    }

    /// The ratio is that of the medians; each turn is held against its own neighbour, since a machine
    /// drifts from turn to turn.
    #[test]
    fn a_ratio_is_taken_turn_by_turn() {
        let ratio = Spread::ratio(&[200.0, 330.0, 440.0], &[100.0, 110.0, 200.0]);
        assert_eq!(ratio, Some(Spread { median: 3.0, least: 2.0, most: 3.0 }));
        assert_eq!(ratio.map(|ratio| ratio.to_string()).as_deref(), Some("3.00 (2.00–3.00)"));
        assert_eq!(Spread::ratio(&[1.0], &[]), None);
        // Turns of 10 and 0.1, medians of 1 and 1.
        let wide = Spread::ratio(&[10.0, 1.0], &[1.0, 10.0]);
        assert_eq!(wide, Some(Spread { median: 1.0, least: 0.1, most: 10.0 }));
    }
}
