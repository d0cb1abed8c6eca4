//! The rule: which steps between neighbouring points are cliffs.
//!
//! A cost that may grow in proportion may be as many times as large as what is varied; one that must
//! not grow, as large as before. A step to more than [`TOLERANCE`] times that is a cliff.

use crate::figures::{Figure, Growth, Meaning};
use crate::points::Series;

/// What noise may add: points of one run on one machine differ by less.
pub const TOLERANCE: f64 = 1.5;

/// From one point to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// What was varied, before.
    pub from: u64,
    /// And after.
    pub to: u64,
    /// How many times as large the cost is.
    pub factor: f64,
    /// How many times as large it may be without a reason.
    pub allowed: f64,
}

impl Step {
    /// Whether the cost has grown by more than it may.
    pub fn is_cliff(&self) -> bool {
        self.factor > self.allowed
    }
}

/// The steps of a line; none of a figure that is not judged.
pub fn steps(figure: &Figure, series: &Series) -> Vec<Step> {
    if figure.meaning == Meaning::Shown {
        return Vec::new();
    }
    let step = |pair: &[(u64, f64)]| {
        let [(from, before), (to, after)] = [pair[0], pair[1]];
        let grown = match figure.growth {
            Growth::InProportion => to as f64 / from as f64,
            Growth::NotAtAll => 1.0,
        };
        let factor = figure.cost(after) / figure.cost(before);
        Step { from, to, factor, allowed: TOLERANCE * grown }
    };
    series.points.windows(2).map(step).collect()
}

/// The step that comes nearest to its limit, or is furthest beyond.
pub fn steepest(steps: &[Step]) -> Option<Step> {
    let nearness = |step: &Step| step.factor / step.allowed;
    steps.iter().copied().max_by(|a, b| nearness(a).total_cmp(&nearness(b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::named;

    fn judge(figure: &str, points: &[(u64, f64)]) -> Vec<bool> {
        let series = Series { name: String::new(), points: points.to_vec() };
        let steps = steps(named(figure).expect("there is one"), &series);
        steps.iter().map(Step::is_cliff).collect()
    }

    /// A rate that is halved costs twice as much.
    #[test]
    fn rates_are_costs_upside_down() {
        // Three times the members may cost 4.5 times as much.
        assert_eq!(judge("members-rate", &[(1, 100.0), (3, 100.0 / 4.4)]), [false]);
        assert_eq!(judge("members-rate", &[(1, 100.0), (3, 100.0 / 4.6)]), [true]);
        // More keys may not.
        assert_eq!(
            judge(
                "keys-rate",
                &[(1_000, 150.0), (10_000, 101.0), (100_000, 67.0), (1_000_000, 90.0)]
            ),
            [false, true, false]
        );
    }

    /// In proportion or not at all; and what is only shown is not judged.
    #[test]
    fn costs_are_held_against_what_is_varied() {
        let points = [(1_000, 1.0), (10_000, 14.9), (100_000, 230.0)];
        assert_eq!(judge("keys-memory", &points), [false, true]);
        assert_eq!(judge("keys-memory-each", &[(1, 1.0), (10, 1.49), (100, 2.3)]), [false, true]);
        assert_eq!(judge("bytes-moved", &points), [false; 0]);
        assert_eq!(judge("keys-memory", &[(1, 1.0)]), [false; 0]);
    }

    /// The one that is shown when none is beyond.
    #[test]
    fn the_steepest_is_the_nearest_to_its_limit() {
        let step = |to, factor, allowed| Step { from: 1, to, factor, allowed };
        let all = [step(2, 2.0, 3.0), step(3, 9.0, 30.0), step(4, 1.4, 1.5)];
        assert_eq!(steepest(&all).map(|step| step.to), Some(4));
        assert_eq!(steepest(&[]), None);
    }
}
