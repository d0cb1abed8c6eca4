//! What the tests that print a figure and compare it with a limit share.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fmt, fs, thread};

use rustix::fs::{major, minor};
use rustix::process::Pid;

use crate::binary;
use crate::cluster::Cluster;

/// What `/proc` counts processor time in, whatever the kernel itself does.
const TICKS_PER_SECOND: u64 = 100;
/// What `/proc/diskstats` counts in, whatever the disk itself does.
const SECTOR_BYTES: u64 = 512;
/// Short beside the shortest start of a member.
const SERVES_POLL: Duration = Duration::from_millis(3);

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

/// What the generator printed with `--json` at one level.
///
/// # Panics
///
/// When it could not measure; what it said is shown.
pub fn measured(mut bench: Command) -> serde_json::Value {
    let output = bench.arg("--json").output().expect("the load generator starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

/// A line of `/proc/<pid>/status`, in bytes.
///
/// # Panics
///
/// When there is no such process, or no such line.
pub fn memory(pid: Pid, name: &str) -> u64 {
    let (path, status) = about(pid, "status");
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("{path} has no {name}")) << 10
}

/// From now on `VmHWM` is the peak since now.
///
/// # Panics
///
/// When there is no such process.
pub fn forget_peak(pid: Pid) {
    let path = format!("/proc/{}/clear_refs", pid.as_raw_nonzero());
    fs::write(&path, "5").unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// The processor time that a process has taken, in its own code and in the system's.
///
/// # Panics
///
/// When there is no such process.
pub fn processor_time(pid: Pid) -> Duration {
    let (path, stat) = about(pid, "stat");
    let ticks = ticks(&stat).unwrap_or_else(|| panic!("{path} has no times: {stat}"));
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// The bytes that the disk under a directory has been given, by whomever; none where there is no
/// disk of its own under it. What `/proc/<pid>/io` counts is another thing: whole pages of the cache,
/// of which a disk is given the blocks that were changed.
pub fn written_bytes(directory: &Path) -> Option<u64> {
    let device = fs::metadata(directory).ok()?.dev();
    let disks = fs::read_to_string("/proc/diskstats").ok()?;
    sectors_written(&disks, major(device), minor(device)).map(|sectors| sectors * SECTOR_BYTES)
}

fn sectors_written(disks: &str, major: u32, minor: u32) -> Option<u64> {
    let (major, minor) = (major.to_string(), minor.to_string());
    let mut lines = disks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let fields = lines.find(|fields| fields.get(..2) == Some(&[&major, &minor]))?;
    fields.get(9)?.parse().ok()
}

fn about(pid: Pid, name: &str) -> (String, String) {
    let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    (path, text)
}

/// Fields 14 and 15 of a process's `stat`; the name before them may hold spaces and parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Starts a member that is down; how long from there until a linearizable read of a key that
/// exists is answered.
///
/// # Panics
///
/// When it is not answered within `limit`.
pub fn serves_after(cluster: &mut Cluster, member: usize, path: &str, limit: Duration) -> Duration {
    let begin = Instant::now();
    cluster.restart(member);
    loop {
        let answer = cluster.client(member).get(path);
        if matches!(&answer, Ok(answer) if answer.status == 200) {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < limit, "GET {path}: {answer:?}");
        thread::sleep(SERVES_POLL);
    }
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

    /// The kernel's line of a process whose name is as bad as it can be.
    #[test]
    fn processor_times_are_read() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 25 3 4 20 0 5 0 99 1 2";
        assert_eq!(ticks(stat), Some(175));
        assert_eq!(ticks("7 (a) S 1"), None);
        let this = rustix::process::getpid();
        assert!(memory(this, "VmHWM") > 0 && processor_time(this) < Duration::from_secs(3600));
    }

    /// The kernel's lines of a disk and of a part of it.
    #[test]
    fn disks_are_read() {
        let disks =
            " 254  0 vda 5 0 40 1 7 3 640 2 0 9 3 0 0 0 0\n 254  1 vda1 1 0 8 1 2 0 16 1 0 1 1\n";
        assert_eq!(sectors_written(disks, 254, 0), Some(640));
        assert_eq!(sectors_written(disks, 254, 1), Some(16));
        assert_eq!(sectors_written(disks, 25, 4), None);
    }

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
