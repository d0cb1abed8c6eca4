//! The page of a comparison: method, machine, systems, tables, and a picture beside it.

use std::fmt::Write;

use crate::disk;
use crate::figure::{Outcome, Spread};
use crate::limits::Judged;
use crate::plan::{Kind, LARGE_BYTES_KEPT, Peer, Yardstick};
use crate::plot::{self, Series};
use crate::report::Line;
use crate::round::Failure;

/// The level whose latencies are drawn.
const DRAWN_CONNECTIONS: u16 = 64;
const ABSENT: &str = "–";

/// Everything that is on the page.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) command: String,
    pub(crate) commit: String,
    pub(crate) date: String,
    pub(crate) facts: Vec<(&'static str, String)>,
    /// What each is called, and its version or why it did not take part.
    pub(crate) systems: Vec<(&'static str, Result<String, String>)>,
    pub(crate) rounds: u32,
    pub(crate) seconds: u64,
    pub(crate) warm_up_ms: u64,
    /// The name of the picture's file.
    pub(crate) picture: String,
    pub(crate) outcomes: Vec<Outcome>,
    /// What was wanted, and whether it is so.
    pub(crate) judged: Vec<Judged>,
}

impl Page {
    /// The page's text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a string can be written");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# Benchmarks\n")?;
        writeln!(
            out,
            "Written by `{}` at commit {} on {}; not by hand. Figures of other machines differ, and \
             those of one machine drift by tens of percent within minutes: the ratios are what \
             holds.\n",
            self.command, self.commit, self.date
        )?;
        self.write_method(out)?;
        writeln!(out, "## Machine\n\n| | |\n|---|---|")?;
        self.facts.iter().try_for_each(|(name, value)| writeln!(out, "| {name} | {value} |"))?;
        writeln!(
            out,
            "\nMembers and load share it.\n\n## Systems\n\n| system | version |\n|---|---|"
        )?;
        for (name, version) in &self.systems {
            match version {
                Ok(version) => writeln!(out, "| {name} | {version} |")?,
                Err(reason) => writeln!(out, "| {name} | absent: {reason} |")?,
            }
        }
        self.write_limits(out)?;
        for (kind, title) in [
            (Kind::Writes, "Committed writes"),
            (Kind::Mixed, "Writes and reads, 10 to 90"),
            (Kind::Reads, "Reads"),
        ] {
            writeln!(out, "\n## {title}\n")?;
            if kind == Kind::Writes {
                writeln!(out, "![Latency and throughput of writes]({})\n", self.picture)?;
            }
            self.write_table(out, kind)?;
        }
        writeln!(out, "\n## Large values\n")?;
        self.write_large(out)
    }

    /// Nothing where no limit was given.
    fn write_limits(&self, out: &mut String) -> std::fmt::Result {
        if self.judged.is_empty() {
            return Ok(());
        }
        let n_met = self.judged.iter().filter(|judged| judged.is_met()).count();
        writeln!(
            out,
            "\n## Limits\n\n{n_met} of {} are met; one that is not fails the run.\n\n\
             | figure | times | wanted | seen (least–most) | met |\n|---|---|---|---|---|",
            self.judged.len()
        )?;
        for judged in &self.judged {
            let Judged { name, yardstick, ratio, bound } = judged;
            let met = if judged.is_met() { "yes" } else { "**no**" };
            writeln!(out, "| {name} | {yardstick} | {bound} | {ratio} | {met} |")?;
        }
        Ok(())
    }

    fn write_method(&self, out: &mut String) -> std::fmt::Result {
        let Page { rounds, seconds, warm_up_ms, .. } = self;
        let bytes = self.outcomes.first().map_or(0, |outcome| outcome.case.value_bytes);
        writeln!(
            out,
            "## Method\n\n\
             - Three members of one system at a time, on the loopback interface, each with a data \
             directory on the same disk, with default settings: raftexample and etcd sync every \
             write. Each measurement has a fresh cluster.\n\
             - A closed loop: each connection has one request under way and sends the next when the \
             answer is there. Requests go to the leader. raftexample and the Go original are asked \
             over HTTP/1.1, etcd over gRPC, one channel a connection, by one thread each and with the \
             same keys: 9 bytes, uniformly drawn. Values have {bytes} bytes where nothing else is \
             said.\n\
             - {rounds} round(s) of {seconds} s after {warm_up_ms} ms of warm-up. The systems take turns \
             within each round, so that what drifts drifts for all of them. Figures are medians of \
             the rounds, latencies those of the median round; a ratio is that of the medians, and in \
             brackets the least and the most that one turn came to.\n\
             - Every answer is checked, values too; one that is wrong or refused, and there is no \
             figure. The Go original's writes are an exception: what it answers before it commits \
             nobody can check.\n\
             - Large values are held against `fio {}` in the same directory, in turns as well, \
             divided by three: every member writes everything. They are written over and over, to \
             keys that hold {} MiB, as fio writes its file.\n",
            disk::FLAGS.join(" "),
            LARGE_BYTES_KEPT >> 20
        )
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(move |outcome| outcome.case.kind == kind)
    }

    fn write_table(&self, out: &mut String, kind: Kind) -> std::fmt::Result {
        let yardstick = self.of_kind(kind).find_map(|outcome| match outcome.case.yardstick {
            Yardstick::Peer(peer) => Some(peer.name()),
            Yardstick::Disk => None,
        });
        let yardstick = yardstick.unwrap_or(ABSENT);
        writeln!(
            out,
            "| connections | system | per second (least–most) | times {yardstick} | p50 | p99 | p99, \
             times {yardstick}'s | durable and linearizable |\n|--:|---|--:|--:|--:|--:|--:|---|"
        )?;
        for outcome in self.of_kind(kind) {
            for &peer in &outcome.case.peers {
                let Some(line) = outcome.median_line(peer) else { continue };
                let per_second = Spread::of(&outcome.per_second(peer))
                    .map_or(ABSENT.to_owned(), |Spread { median, least, most }| {
                        format!("{median:.0} ({least:.0}–{most:.0})")
                    });
                let is_yardstick = outcome.case.yardstick == Yardstick::Peer(peer);
                let shown = |ratio: Option<Spread>| match ratio {
                    Some(_) if is_yardstick => "1".to_owned(),
                    Some(ratio) => ratio.to_string(),
                    None => ABSENT.to_owned(),
                };
                writeln!(
                    out,
                    "| {} | {} | {per_second} | {} | {} | {} | {} | {} |",
                    outcome.case.connections,
                    peer.name(),
                    shown(outcome.ratio(peer)),
                    millis(line.latency.p50_micros),
                    millis(line.latency.p99_micros),
                    shown(outcome.p99_ratio(peer)),
                    peer.promise(&outcome.case.mix),
                )?;
            }
        }
        Ok(())
    }

    fn write_large(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "| value | connections | system | MB/s (least–most) | a third of fio's MB/s | times that \
             | p99 | durable and linearizable |\n|--:|--:|---|--:|--:|--:|--:|---|"
        )?;
        for outcome in self.of_kind(Kind::Large) {
            let thirds: Vec<_> = outcome.disk.iter().map(|bytes| bytes / 3.0).collect();
            for &peer in &outcome.case.peers {
                let Some(line) = outcome.median_line(peer) else { continue };
                writeln!(
                    out,
                    "| {} KiB | {} | {} | {} | {} | {} | {} | {} |",
                    outcome.case.value_bytes >> 10,
                    outcome.case.connections,
                    peer.name(),
                    megabytes(&outcome.bytes_per_second(peer)),
                    megabytes(&thirds),
                    outcome.ratio(peer).map_or(ABSENT.to_owned(), |ratio| ratio.to_string()),
                    millis(line.latency.p99_micros),
                    peer.promise(&outcome.case.mix),
                )?;
            }
        }
        Ok(())
    }

    /// The picture: latencies of writes at one level, throughput at all.
    pub(crate) fn picture(&self) -> Result<String, Failure> {
        let (mut latencies, mut throughput) = (Vec::new(), Vec::new());
        for peer in Peer::ALL {
            let mut points = Vec::new();
            for outcome in self.of_kind(Kind::Writes) {
                let connections = outcome.case.connections;
                let Some(line) = outcome.median_line(peer) else { continue };
                let Some(per_second) = Spread::of(&outcome.per_second(peer)) else { continue };
                points.push((connections.into(), per_second.median));
                if connections == DRAWN_CONNECTIONS {
                    let name = format!("{}, {connections} connections", peer.name());
                    latencies.push(Series { name, points: curve(line) });
                }
            }
            if !points.is_empty() {
                throughput.push(Series { name: peer.name().to_owned(), points });
            }
        }
        plot::svg(&latencies, &throughput)
    }
}

fn curve(line: &Line) -> Vec<(f64, f64)> {
    let latency = &line.latency;
    let points = [
        (0.5, latency.p50_micros),
        (0.9, latency.p90_micros),
        (0.99, latency.p99_micros),
        (0.999, latency.p999_micros),
    ];
    points.map(|(quantile, micros)| (quantile, micros as f64 / 1000.0)).to_vec()
}

fn millis(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1000.0)
}

fn megabytes(bytes: &[f64]) -> String {
    match Spread::of(bytes) {
        Some(Spread { median, least, most }) => {
            format!("{:.0} ({:.0}–{:.0})", median / 1e6, least / 1e6, most / 1e6)
        }
        None => ABSENT.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
