//! Pages of made-up rounds, to the letter where figures stand.

use std::collections::BTreeMap;

use super::*;
use crate::limits::Bound;
use crate::limits::tests::limits;
use crate::mix::Operation;
use crate::plan::plan;
use crate::report::Level;
use crate::round::{Latency, Round, Share};

fn line(peer: Peer, outcome: &Outcome, per_second: f64, p99_micros: u64) -> Line {
    let latency = Latency {
        p50_micros: p99_micros / 4,
        p90_micros: p99_micros / 2,
        p99_micros,
        p999_micros: p99_micros * 2,
        max_micros: p99_micros * 3,
    };
    let share = Share { per_second, latency };
    let shares = BTreeMap::from([(Operation::Put, share)]);
    let round = Round { per_second, latency, shares, curve: Vec::new(), reached: true };
    let (connections, mix) = (outcome.case.connections, outcome.case.mix.to_string());
    Line::of_rounds(Level { system: peer.name(), connections, mix, rate: None }, &[round])
}

/// Three rounds of each case: ours three times as fast as etcd, the original twice as fast as us.
pub(crate) fn outcomes(absent: &[Peer], has_disk: bool) -> Vec<Outcome> {
    let outcomes = plan(&[1, 64], 128, 100_000).into_iter().map(|case| {
        let mut outcome = Outcome { case, runs: Vec::new(), disk: Vec::new() };
        for peer in outcome.case.peers.clone() {
            let (factor, p99_micros) = match peer {
                Peer::Raftexample => (3.0, 2_000),
                Peer::Etcd => (1.0, 5_000),
                Peer::Original => (6.0, 1_000),
            };
            let rounds = [100.0, 110.0, 90.0]
                .map(|per_second| line(peer, &outcome, factor * per_second, p99_micros));
            let rounds = if absent.contains(&peer) { Vec::new() } else { rounds.to_vec() };
            outcome.runs.push((peer, rounds));
        }
        if outcome.case.yardstick == Yardstick::Disk && has_disk {
            // 300 values of 64 KiB a second are 19.66 MB/s, a fifth of this.
            outcome.disk = vec![1_500.0 * outcome.case.value_bytes as f64; 3];
        }
        outcome
    });
    outcomes.collect()
}

fn page(absent: &[Peer], has_disk: bool) -> Page {
    let version = |peer: &Peer| match absent.contains(peer) {
        true => Err("not installed".to_owned()),
        false => Ok("1.0".to_owned()),
    };
    Page {
        command: "make bench-compare ROUNDS=3".to_owned(),
        commit: "abc1234".to_owned(),
        date: "2026-01-02".to_owned(),
        facts: vec![("cores", "2".to_owned())],
        systems: Peer::ALL.iter().map(|peer| (peer.name(), version(peer))).collect(),
        rounds: 3,
        seconds: 5,
        warm_up_ms: 500,
        picture: "benchmarks.svg".to_owned(),
        outcomes: outcomes(absent, has_disk),
        judged: limits().judged(&outcomes(absent, has_disk)),
    }
}

fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "no {line:?} in\n{text}");
    }
}

/// Every figure is where it belongs, and what is not durable or linearizable is labelled so.
#[test]
fn a_page_shows_ratios_and_promises() {
    let text = page(&[], true).text();
    assert!(
        text.contains("`make bench-compare ROUNDS=3` at commit abc1234 on 2026-01-02"),
        "{text}"
    );
    assert!(text.contains("- 3 round(s) of 5 s after 500 ms of warm-up."), "{text}");
    assert_has(
        &text,
        &[
            "| cores | 2 |",
            "| etcd | 1.0 |",
            "| 64 | raftexample | 300 (270–330) | 3.00 (3.00–3.00) | 0.50 ms | 2.00 ms | 0.40 \
             (0.40–0.40) | yes |",
            "| 64 | etcd | 100 (90–110) | 1 | 1.25 ms | 5.00 ms | 1 | yes |",
            "| 1 | Go raftexample | 600 (540–660) | 6.00 (6.00–6.00) | 0.25 ms | 1.00 ms | 0.20 \
             (0.20–0.20) | no: answers before commit; not durable |",
            // Its reads are the yardstick of ours.
            "| 64 | raftexample | 300 (270–330) | 0.50 (0.50–0.50) | 0.50 ms | 2.00 ms | 2.00 \
             (2.00–2.00) | yes |",
            "| 64 | Go raftexample | 600 (540–660) | 1 | 0.25 ms | 1.00 ms | 1 | no: stale reads |",
            "| 64 KiB | 8 | raftexample | 20 (18–22) | 33 (33–33) | 0.60 (0.54–0.66) | 2.00 ms | yes \
             |",
            "| 64 KiB | 64 | raftexample | 20 (18–22) | 33 (33–33) | 0.60 (0.54–0.66) | 2.00 ms | yes \
             |",
            "![Latency and throughput of writes](benchmarks.svg)",
        ],
    );
    assert_eq!(text.matches("\n## ").count(), 8, "{text}");
    // Every row has as many cells as its table's heading.
    for table in text.split("\n\n").filter(|part| part.starts_with('|')) {
        let mut cells = table.lines().map(|row| row.matches('|').count());
        let head = cells.next();
        assert!(cells.all(|n| Some(n) == head), "{table}");
    }
}

/// Each number stands beside its limit, and one that is missed is as easy to see as the others.
#[test]
fn a_page_shows_what_was_wanted() {
    let mut page = page(&[], true);
    page.judged[0].bound = Bound::AtLeast(3.1);
    let text = page.text();
    assert!(text.contains("7 of 8 are met"), "{text}");
    assert_has(
        &text,
        &[
            "| writes at 1 connections | etcd | at least 3.1 | 3.00 (3.00–3.00) | **no** |",
            "| p99 of writes at 64 connections | etcd | at most 0.4 | 0.40 (0.40–0.40) | yes |",
            "| reads at 64 connections | Go raftexample | at least 0.5 | 0.50 (0.50–0.50) | yes |",
            "| 64 KiB values at 8 connections | a third of fio | at least 0.59 | 0.60 (0.54–0.66) | \
             yes |",
        ],
    );
    page.judged.clear();
    assert!(!page.text().contains("## Limits"));
}

/// Whoever is not installed is said to be absent, and has no row; nobody is compared with it.
#[test]
fn absent_systems_are_named() {
    let text = page(&[Peer::Etcd, Peer::Original], false).text();
    assert_has(
        &text,
        &[
            "| etcd | absent: not installed |",
            "| Go raftexample | absent: not installed |",
            "| 64 | raftexample | 300 (270–330) | – | 0.50 ms | 2.00 ms | – | yes |",
            "| 64 KiB | 8 | raftexample | 20 (18–22) | – | – | 2.00 ms | yes |",
        ],
    );
    assert!(!text.contains("| 64 | etcd"), "{text}");
    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
}

/// The picture has a line for each system that took part.
#[test]
fn the_picture_has_all_systems() {
    let svg = page(&[], true).picture().expect("it can be drawn");
    for text in ["raftexample, 64 connections", "etcd, 64 connections", "Go raftexample"] {
        assert!(svg.contains(text), "no {text:?}");
    }
    let svg = page(&[Peer::Etcd], true).picture().expect("it can be drawn");
    assert!(!svg.contains("etcd"), "{svg}");
}
