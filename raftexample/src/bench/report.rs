//! What a measurement prints: a row or a JSON line for each level.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::mix::Operation;
use super::round::{Latency, Round, Share};

/// One level's result. Its JSON is what scripts read; fields are added, never renamed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) system: String,
    pub(crate) connections: u16,
    /// What was asked for, as `--mix` takes it.
    #[serde(default)]
    pub(crate) mix: String,
    /// Requests per second that were wanted; none in a closed loop.
    #[serde(default)]
    pub(crate) rate: Option<u32>,
    /// Whether they came as fast as they were to. If not, the latencies are those of a queue that
    /// grows, and of no other use.
    #[serde(default = "is_reached_by_default")]
    pub(crate) reached: bool,
    /// Committed writes per second in the median round; the percentiles are of the same round. 0
    /// when only reads were measured.
    pub(crate) writes_per_second: f64,
    /// Reads per second in the median round; 0 when only writes were measured.
    #[serde(default)]
    pub(crate) reads_per_second: f64,
    /// Of all requests, from when they were sent, or with a rate from when they were to be.
    #[serde(flatten)]
    pub(crate) latency: Latency,
    /// The same for each operation.
    #[serde(default)]
    pub(crate) operations: BTreeMap<Operation, Share>,
    /// Always 0: a level with errors is not reported. It is here so that a reader need not know that.
    pub(crate) errors: u64,
    /// Requests per second of every round, in the order they ran.
    pub(crate) rounds: Vec<f64>,
}

/// What a line is about.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    pub(crate) system: &'static str,
    pub(crate) connections: u16,
    pub(crate) mix: String,
    pub(crate) rate: Option<u32>,
}

fn is_reached_by_default() -> bool {
    true
}

/// The median round by throughput, the lower one of an even number; with a rate, one that has not
/// reached it if there is any.
pub(crate) fn median(rounds: &[Round]) -> &Round {
    let mut sorted: Vec<_> = rounds.iter().collect();
    sorted.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    let missed = sorted.iter().find(|round| !round.reached);
    missed.copied().unwrap_or(sorted[(sorted.len() - 1) / 2])
}

impl Line {
    /// The line of a level.
    pub(crate) fn of_rounds(level: Level, rounds: &[Round]) -> Line {
        let median = median(rounds);
        let sum = |is_write| {
            let shares = median.shares.iter().filter(|(kind, _)| kind.is_write() == is_write);
            shares.fold(0.0, |sum, (_, share)| sum + share.per_second)
        };
        Line {
            system: level.system.to_owned(),
            connections: level.connections,
            mix: level.mix,
            rate: level.rate,
            reached: median.reached,
            writes_per_second: sum(true),
            reads_per_second: sum(false),
            latency: median.latency,
            operations: median.shares.clone(),
            errors: 0,
            rounds: rounds.iter().map(|round| round.per_second).collect(),
        }
    }

    /// Requests of any kind per second in the reported round.
    pub(crate) fn per_second(&self) -> f64 {
        self.writes_per_second + self.reads_per_second
    }

    /// Writes the level as one line of JSON.
    pub(crate) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)?;
        out.flush()
    }

    /// Writes the level as a row under [`write_heading`], and one for each operation of a mix.
    pub(crate) fn write_row(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{:>11}  {:>10.0}  ", self.connections, self.per_second())?;
        match self.rate {
            Some(rate) if !self.reached => {
                writeln!(out, "not reached: {rate} a second were wanted")?;
            }
            rate => {
                write_latency(out, &self.latency)?;
                match rate {
                    Some(rate) => writeln!(out, "  {:>6}  at {rate} a second", self.errors)?,
                    None => writeln!(out, "  {:>6}", self.errors)?,
                }
            }
        }
        if self.operations.len() > 1 && self.reached {
            for (operation, share) in &self.operations {
                write!(out, "{:>11}  {:>10.0}  ", operation.name(), share.per_second)?;
                write_latency(out, &share.latency)?;
                writeln!(out)?;
            }
        }
        out.flush()
    }
}

fn write_latency(out: &mut impl Write, latency: &Latency) -> io::Result<()> {
    let Latency { p50_micros, p90_micros, p99_micros, p999_micros, max_micros } = *latency;
    for (place, micros) in
        [p50_micros, p90_micros, p99_micros, p999_micros, max_micros].into_iter().enumerate()
    {
        let gap = if place > 0 { "  " } else { "" };
        write!(out, "{gap}{:>7.2} ms", micros as f64 / 1000.0)?;
    }
    Ok(())
}

/// Writes the head of the table.
pub(crate) fn write_heading(
    operations: impl Iterator<Item = Operation> + Clone,
    out: &mut impl Write,
) -> io::Result<()> {
    let per_second = if operations.clone().all(Operation::is_write) {
        "writes/s"
    } else if operations.clone().any(Operation::is_write) {
        "requests/s"
    } else {
        "reads/s"
    };
    writeln!(
        out,
        "{:>11}  {per_second:>10}  {:>10}  {:>10}  {:>10}  {:>10}  {:>10}  {:>6}",
        "connections", "p50", "p90", "p99", "p99.9", "max", "errors"
    )?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(puts: f64, gets: f64, reached: bool) -> Round {
        let latency = Latency {
            p50_micros: 610,
            p90_micros: 900,
            p99_micros: 1_800,
            p999_micros: 4_000,
            max_micros: 9_000,
        };
        let share = |per_second| Share { per_second, latency };
        let shares = [(Operation::Put, share(puts)), (Operation::Get, share(gets))];
        let shares = shares.into_iter().filter(|(_, share)| share.per_second > 0.0).collect();
        Round { per_second: puts + gets, latency, shares, curve: Vec::new(), reached }
    }

    fn line(rate: Option<u32>, rounds: &[Round]) -> Line {
        let level = Level { system: "raftexample", connections: 16, mix: "put=1".to_owned(), rate };
        Line::of_rounds(level, rounds)
    }

    /// Scripts read these names; the ones that were there first must not change.
    #[test]
    fn json_has_the_fields_that_scripts_read() {
        let line = line(None, &[round(100.0, 900.0, true)]);
        let mut json = Vec::new();
        line.write_json(&mut json).expect("memory can be written");
        let value: serde_json::Value = serde_json::from_slice(&json).expect("it is JSON");
        for (name, wanted) in [
            ("connections", 16.0),
            ("writes_per_second", 100.0),
            ("reads_per_second", 900.0),
            ("p50_micros", 610.0),
            ("p90_micros", 900.0),
            ("p99_micros", 1_800.0),
            ("p999_micros", 4_000.0),
            ("max_micros", 9_000.0),
            ("errors", 0.0),
        ] {
            assert_eq!(value[name].as_f64(), Some(wanted), "{name}");
        }
        assert_eq!(value["system"], "raftexample");
        assert_eq!(value["rounds"].as_array().map(Vec::len), Some(1));
        assert_eq!(value["operations"]["get"]["per_second"], 900.0);
        assert_eq!(value["operations"]["put"]["p99_micros"], 1_800);
        let again: Line = serde_json::from_slice(&json).expect("it is a line");
        assert_eq!(again.latency, line.latency);
        assert_eq!(again.operations, line.operations);
    }

    /// A line of an older version is read too.
    #[test]
    fn a_line_without_the_newer_fields_is_read() {
        let old = r#"{"system":"etcd","connections":1,"writes_per_second":9.5,"p50_micros":1,
            "p99_micros":2,"errors":0,"rounds":[9.5]}"#;
        let line: Line = serde_json::from_str(old).expect("it is a line");
        assert!(line.reached);
        assert_eq!((line.latency.p99_micros, line.latency.p999_micros), (2, 0));
        assert_eq!(line.per_second(), 9.5);
    }

    /// The median is reported, and every round is there to see its spread.
    #[test]
    fn the_median_round_is_reported() {
        let line = line(None, &[3.0, 1.0, 4.0, 2.0].map(|puts| round(puts, 0.0, true)));
        assert_eq!(line.writes_per_second, 2.0);
        assert_eq!(line.rounds, [3.0, 1.0, 4.0, 2.0]);
    }

    /// One round that fell behind is not hidden by two that did not.
    #[test]
    fn a_rate_that_one_round_missed_is_not_reached() {
        let rounds = [round(9.0, 0.0, true), round(5.0, 0.0, false), round(9.0, 0.0, true)];
        let line = line(Some(9), &rounds);
        assert!(!line.reached);
        let mut row = Vec::new();
        line.write_row(&mut row).expect("memory can be written");
        let row = String::from_utf8(row).expect("it is text");
        assert_eq!(row, "         16           5  not reached: 9 a second were wanted\n");
    }

    /// What is read by people, to the letter.
    #[test]
    fn a_mix_has_a_row_for_each_operation() {
        let mut table = Vec::new();
        let operations = [Operation::Put, Operation::Get];
        write_heading(operations.into_iter(), &mut table).expect("memory can be written");
        let line = line(None, &[round(100.0, 900.0, true)]);
        line.write_row(&mut table).expect("memory can be written");
        let latencies = "     0.61 ms     0.90 ms     1.80 ms     4.00 ms     9.00 ms";
        let head = "       p50         p90         p99       p99.9         max  errors";
        let wanted = format!(
            "connections  requests/s  {head}\n         16        1000{latencies}       0\n        \
             put         100{latencies}\n        get         900{latencies}\n"
        );
        assert_eq!(String::from_utf8(table).expect("it is text"), wanted);
    }
}
