//! What the tests that print a figure and compare it with a limit share.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use crate::binary;
use crate::cluster::Cluster;

/// A number in the environment.
///
/// # Panics
///
/// When the variable is set to something else: a typo must not pass for the default.
pub fn parameter(name: &str, default: u64) -> u64 {
    let parse =
        |text: String| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number"));
    std::env::var(name).map_or(default, parse)
}

/// The load generator at a running cluster.
pub fn bench(cluster: &Cluster, args: &[&str]) -> Command {
    let running = cluster.running().into_iter();
    let targets: Vec<_> =
        running.map(|member| format!("http://{}", cluster.address(member))).collect();
    let mut command = Command::new(binary::raftexample());
    command.arg("bench").args(["--targets", &targets.join(","), "--rounds", "1"]).args(args);
    command
}

/// The bound of the highest bucket of lateness that any member has a tick in.
pub fn latest_tick(cluster: &Cluster) -> f64 {
    let members = 0..cluster.n_members();
    members.map(|member| Histogram::ticks(cluster, member).most()).fold(0.0, f64::max)
}

/// A histogram among a member's metrics: how many observations are within each bound, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Histogram(Vec<(f64, u64)>);

impl Histogram {
    /// How late a member's loop came to its ticks.
    pub fn ticks(cluster: &Cluster, member: usize) -> Histogram {
        let ticks = Histogram::of(cluster, member, "raft_tick_late_seconds", "");
        ticks.expect("the metrics show the lateness of ticks")
    }

    /// The sum of a metric's histograms whose labels contain `label`; none when there is no such
    /// metric yet.
    pub fn of(cluster: &Cluster, member: usize, name: &str, label: &str) -> Option<Histogram> {
        let text = cluster.ask(member, "GET", "/_metrics", "").text();
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for line in text.lines().filter(|line| line.contains(label)) {
            let rest = line.strip_prefix(name).and_then(|rest| rest.strip_prefix("_bucket{"));
            let Some((labels, count)) = rest.and_then(|rest| rest.rsplit_once("} ")) else {
                continue;
            };
            let bound =
                labels.split(',').find_map(|label| label.strip_prefix("le=\"")?.strip_suffix('"'));
            let bound = match bound {
                Some("+Inf") => f64::INFINITY,
                bound => bound?.parse().ok()?,
            };
            let count = count.trim().parse::<u64>().ok()?;
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        (!buckets.is_empty()).then_some(Histogram(buckets))
    }

    /// What was observed since `before`.
    pub fn since(mut self, before: &Histogram) -> Histogram {
        for (bound, count) in &mut self.0 {
            let earlier = before.0.iter().find(|(known, _)| known == bound);
            *count -= earlier.map_or(0, |(_, count)| *count);
        }
        self
    }

    /// How many observations there are.
    pub fn n(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count)
    }

    /// How many are within a bound, or within the next bound below it.
    pub fn n_within(&self, limit: f64) -> u64 {
        let within = self.0.iter().filter(|(bound, _)| *bound <= limit);
        within.map(|(_, count)| *count).max().unwrap_or(0)
    }

    /// The bound of the highest bucket that is not empty; 0 when all are.
    pub fn most(&self) -> f64 {
        self.bound_of(1.0)
    }

    /// The bound that this share of the observations is within; 0 when there are none.
    pub fn bound_of(&self, share: f64) -> f64 {
        if self.n() == 0 {
            return 0.0;
        }
        let rank = (share * self.n() as f64).ceil() as u64;
        self.0.iter().find(|(_, count)| *count >= rank).map_or(0.0, |(bound, _)| *bound)
    }
}

/// The load of the machine beside ours, without which no figure says much.
pub fn machine() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(1).collect::<String>();
    format!("load average {load}")
}

/// Durations that were measured, to be shown and judged by their quantiles.
#[derive(Debug, Clone, Default)]
pub struct Durations(Vec<Duration>);

impl Durations {
    /// The smallest that at least this share of all do not exceed.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    /// The middle one, the upper of two.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    /// How many do not exceed `limit`.
    pub fn n_within(&self, limit: Duration) -> usize {
        self.0.partition_point(|duration| *duration <= limit)
    }

    /// How many there are.
    pub fn n(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<Duration> for Durations {
    fn from_iter<T: IntoIterator<Item = Duration>>(durations: T) -> Durations {
        let mut sorted = Durations::default();
        sorted.extend(durations);
        sorted
    }
}

impl Extend<Duration> for Durations {
    fn extend<T: IntoIterator<Item = Duration>>(&mut self, durations: T) {
        self.0.extend(durations);
        self.0.sort_unstable();
    }
}

impl fmt::Display for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let at = |share| self.quantile(share).as_secs_f64() * 1000.0;
        write!(
            f,
            "{} of them, ms: least {:.1}, p10 {:.1}, median {:.1}, p90 {:.1}, p99 {:.1}, most {:.1}",
            self.n(),
            at(0.0),
            at(0.1),
            self.median().as_secs_f64() * 1000.0,
            at(0.9),
            at(0.99),
            at(1.0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit for 38 of 40 is no limit when the rank is off by one.
    #[test]
    fn quantiles_are_ranks() {
        let mut durations = Durations::from_iter((1..=40).rev().map(Duration::from_secs));
        assert_eq!(durations.quantile(0.95), Duration::from_secs(38));
        assert_eq!(durations.quantile(0.0), Duration::from_secs(1));
        assert_eq!(durations.quantile(1.0), Duration::from_secs(40));
        assert_eq!(durations.median(), Duration::from_secs(21));
        assert_eq!(durations.n_within(Duration::from_secs(38)), 38);
        durations.extend([Duration::ZERO]);
        assert_eq!(durations.quantile(0.0), Duration::ZERO);
    }
}
