//! What a measurement prints: a row or a JSON line for each level.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::round::{Operation, Round};

/// One level's result. Its JSON is what scripts read; fields are added, never renamed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) system: String,
    pub(crate) connections: u16,
    /// Committed writes per second in the median round; the percentiles are of the same round. 0
    /// when reads were measured.
    pub(crate) writes_per_second: f64,
    /// Reads per second in the median round; 0 when writes were measured.
    #[serde(default)]
    pub(crate) reads_per_second: f64,
    pub(crate) p50_micros: u64,
    pub(crate) p99_micros: u64,
    /// Always 0: a level with errors is not reported. It is here so that a reader need not know that.
    pub(crate) errors: u64,
    /// Writes or reads per second of every round, in the order they ran.
    pub(crate) rounds: Vec<f64>,
}

impl Line {
    /// The line of a level: its median round by throughput, the lower one of an even number.
    pub(crate) fn of_rounds(
        system: &str,
        operation: Operation,
        connections: u16,
        mut rounds: Vec<Round>,
    ) -> Line {
        let all = rounds.iter().map(|round| round.per_second).collect();
        rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        let median = rounds[(rounds.len() - 1) / 2];
        let (writes_per_second, reads_per_second) = match operation {
            Operation::Put => (median.per_second, 0.0),
            Operation::Get => (0.0, median.per_second),
        };
        Line {
            system: system.to_owned(),
            connections,
            writes_per_second,
            reads_per_second,
            p50_micros: median.p50_micros,
            p99_micros: median.p99_micros,
            errors: 0,
            rounds: all,
        }
    }

    /// Writes the level as one line of JSON.
    pub(crate) fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)?;
        out.flush()
    }

    /// Writes the level as a row under [`write_heading`].
    pub(crate) fn write_row(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "{:>11}  {:>10.0}  {:>7.2} ms  {:>7.2} ms  {:>6}",
            self.connections,
            self.writes_per_second + self.reads_per_second,
            self.p50_micros as f64 / 1000.0,
            self.p99_micros as f64 / 1000.0,
            self.errors,
        )?;
        out.flush()
    }
}

/// Writes the head of the table.
pub(crate) fn write_heading(operation: Operation, out: &mut impl Write) -> io::Result<()> {
    let per_second = match operation {
        Operation::Put => "writes/s",
        Operation::Get => "reads/s",
    };
    writeln!(
        out,
        "{:>11}  {:>10}  {:>10}  {:>10}  {:>6}",
        "connections", per_second, "p50", "p99", "errors"
    )?;
    out.flush()
}
