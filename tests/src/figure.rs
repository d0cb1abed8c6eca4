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
    let latest = |member| {
        let text = cluster.ask(member, "GET", "/_metrics", "").text();
        let bucket = |line: &str| -> Option<(f64, u64)> {
            let rest = line.strip_prefix("raft_tick_late_seconds_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.trim().parse().ok()?))
        };
        let buckets: Vec<_> = text.lines().filter_map(bucket).collect();
        let all = buckets.last().expect("the metrics show the lateness of ticks").1;
        buckets.into_iter().find(|(_, count)| *count == all).map_or(0.0, |(bound, _)| bound)
    };
    (0..cluster.n_members()).map(latest).fold(0.0, f64::max)
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
    /// Takes one more.
    pub fn push(&mut self, duration: Duration) {
        let position = self.0.partition_point(|other| *other <= duration);
        self.0.insert(position, duration);
    }

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
        let mut durations = Durations::default();
        durations.extend((1..=40).rev().map(Duration::from_secs));
        assert_eq!(durations.quantile(0.95), Duration::from_secs(38));
        assert_eq!(durations.quantile(0.0), Duration::from_secs(1));
        assert_eq!(durations.quantile(1.0), Duration::from_secs(40));
        assert_eq!(durations.median(), Duration::from_secs(21));
        assert_eq!(durations.n_within(Duration::from_secs(38)), 38);
        durations.push(Duration::ZERO);
        assert_eq!(durations.quantile(0.0), Duration::ZERO);
    }
}
