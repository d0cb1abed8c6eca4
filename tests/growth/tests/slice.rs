//! The whole program at its smallest, in the fast suite: some ten seconds.
#![allow(clippy::unwrap_used, reason = "a test panics")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use growth::points::Points;

fn growth(page: &Path, args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_growth");
    Command::new(program).arg("--page").arg(page).args(args).output().unwrap()
}

/// Real members are measured, and all there is to see of them is written: the page, its pictures,
/// and the points, of which the same page is written again.
#[test]
fn a_small_page_is_written_whole() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("one-page.md");
    let small = ["--keys", "1000", "--bytes", "16", "--members", "1,3", "--seconds", "1"];
    let output = growth(&page, &small);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // A busy machine may have a cliff where there is none; then the page says so.
    assert!(said.starts_with("growth: ") && said.contains(" unexplained; took "), "{output:?}");

    let text = fs::read_to_string(&page).unwrap();
    let points = Points::read(&fs::read_to_string(page.with_extension("csv")).unwrap()).unwrap();
    // All but the memory for each of many keys, and where no disk can be told apart its bytes.
    assert!([14, 16].contains(&points.figures().count()), "{points}");
    for figure in points.figures() {
        let picture = format!("one-page-{}.svg", figure.name);
        assert!(text.contains(&picture), "no {picture} in {text}");
        let svg = fs::read_to_string(directory.path().join(&picture)).unwrap();
        let n_points: usize = points.of(figure).iter().map(|series| series.points.len()).sum();
        assert_eq!(svg.matches("<circle").count(), n_points, "{picture}");
    }
    assert!(text.contains("`make growth KEYS=1000 BYTES=16 MEMBERS=1,3 SECONDS=1`"), "{text}");

    let again = directory.path().join("other-page.md");
    let from = page.with_extension("csv");
    growth(&again, &["--from", from.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&again).unwrap(), text.replace("one-page", "other-page"));
}

/// G2: a cliff that nobody can explain fails the run, and nothing else does.
#[test]
fn an_unexplained_cliff_fails() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("page.md");
    let points = directory.path().join("points.csv");
    let from = points.to_str().unwrap();
    for (rate, passes) in [("900.0", true), ("1.0", false)] {
        let head = "figure,series,x,value\n";
        let text = format!("{head}keys-rate,PUT,1000,1000\nkeys-rate,PUT,10000,{rate}\n");
        fs::write(&points, text).unwrap();
        let output = growth(&page, &["--from", from]);
        assert_eq!(output.status.success(), passes, "{output:?}");
        assert_eq!(fs::read_to_string(&page).unwrap().contains("**unexplained**"), !passes);
    }
}
