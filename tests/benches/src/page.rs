//! Writes docs/budgets.md of what the benches have just found: `make budgets` runs both.
//!
//! Refuses to write anything when there is nothing new, for a page is of one run.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use std::{env, fs};

use benches::Error;
use prove::facts;
use serde_json::Value;

const PAGE: &str = "docs/budgets.md";

/// What criterion found is of this run if it is no older: all benches take a few minutes.
const RUN: Duration = Duration::from_secs(3_600);

/// One bench's result.
struct Found {
    name: String,
    /// The middle of what its samples took, with the interval that holds it nineteen times in twenty.
    nanoseconds: [f64; 3],
    /// What is done in that time: bytes, or whatever else.
    amount: Option<(f64, &'static str)>,
}

fn main() -> ExitCode {
    match page() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a tool says why it failed")]
fn complain(error: &Error) {
    eprintln!("budgets: {error}");
}

fn page() -> Result<(), Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut all = Vec::new();
    find(&target.join("criterion"), &mut all)?;
    if all.is_empty() {
        return Err("there is nothing that the benches found within the last hour".into());
    }
    all.sort_by(|a, b| natural(&a.name).cmp(&natural(&b.name)));
    let (machine, commit, now) =
        (facts::machine(&root)?, facts::commit(&root, PAGE)?, facts::now());
    let mut page = format!(
        "# Budgets\n\nWritten by `make budgets`: what each step of a write costs by itself. What these \
         are, and what\nthey cannot show, is in [performance.md](performance.md#benches).\n\n\
         Of commit {commit}, at {now} UTC, on {machine}.\n\n\
         Medians of the samples, with the interval that holds them at 95 %.\n\n\
         | bench | median | interval | a second |\n|---|---|---|---|\n"
    );
    for Found { name, nanoseconds: [median, low, high], amount } in all {
        let rate = amount.map_or_else(String::new, |(n, unit)| rate(n / median * 1e9, unit));
        let interval = format!("{} – {}", time(low), time(high));
        writeln!(page, "| `{name}` | {} | {interval} | {rate} |", time(median))?;
    }
    fs::write(root.join(PAGE), page)?;
    Ok(())
}

/// Every new result below a directory.
fn find(directory: &Path, all: &mut Vec<Found>) -> Result<(), Error> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == "new") {
            all.extend(read(&path)?);
        } else if path.is_dir() {
            find(&path, all)?;
        }
    }
    Ok(())
}

/// A result, if it is of this run.
fn read(directory: &Path) -> Result<Option<Found>, Error> {
    let estimates = directory.join("estimates.json");
    let age = SystemTime::now().duration_since(fs::metadata(&estimates)?.modified()?);
    if age.is_ok_and(|age| age > RUN) {
        return Ok(None);
    }
    let bench = json(&directory.join("benchmark.json"))?;
    let median = &json(&estimates)?["median"];
    let interval = &median["confidence_interval"];
    let parts = [&median["point_estimate"], &interval["lower_bound"], &interval["upper_bound"]];
    let mut nanoseconds = [0.0; 3];
    for (place, part) in nanoseconds.iter_mut().zip(parts) {
        *place = part.as_f64().ok_or_else(|| unreadable(&estimates))?;
    }
    let name = bench["full_id"].as_str().ok_or_else(|| unreadable(directory))?.to_owned();
    let throughput = &bench["throughput"];
    let of = |name: &str| throughput[name].as_f64();
    let amount = (of("Bytes").map(|n| (n, "B"))).or_else(|| of("Elements").map(|n| (n, "")));
    Ok(Some(Found { name, nanoseconds, amount }))
}

fn json(path: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn unreadable(path: &Path) -> Error {
    format!("{} is not what criterion 0.8 writes", path.display()).into()
}

/// Orders names as people do: by their numbers, not their digits.
fn natural(name: &str) -> Vec<(u64, &str)> {
    name.split(['/', '-']).map(|part| (part.parse().unwrap_or(0), part)).collect()
}

/// Three digits that count, and their unit.
fn scaled(value: f64, units: &[(&str, f64)]) -> String {
    let fits = units.iter().rev().find(|(_, size)| value >= *size);
    let (unit, size) = fits.or(units.first()).copied().unwrap_or(("", 1.0));
    let value = value / size;
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}

fn time(nanoseconds: f64) -> String {
    scaled(nanoseconds, &[("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)])
}

fn rate(value: f64, unit: &str) -> String {
    let prefixed = scaled(value, &[("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)]);
    if unit.is_empty() {
        return prefixed;
    }
    let gap = if prefixed.contains(' ') { "" } else { " " };
    format!("{prefixed}{gap}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page is read by people.
    #[test]
    fn figures_are_short() {
        let times = [3.0, 999.4, 1_234.0, 45_678.0, 2.5e9].map(time);
        assert_eq!(times, ["3.00 ns", "999 ns", "1.23 µs", "45.7 µs", "2.50 s"]);
        assert_eq!([rate(512e6, "B"), rate(3.2, "B")], ["512 MB", "3.20 B"]);
        assert_eq!([rate(1_500.0, ""), rate(12.0, "")], ["1.50 k", "12.0"]);
        let mut names = ["wal/append/256", "wal/append/16", "a/100-keys/1", "a/9-keys/256"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["a/9-keys/256", "a/100-keys/1", "wal/append/16", "wal/append/256"]);
    }
}
