//! `growth`: measures every cost by members, keys and bytes, or takes the points of an earlier run,
//! and writes the page, its pictures and the file of all points.
//!
//! Progress goes to standard error, the closing line to standard output. Ends with 1 when a step
//! beyond the rule has no reason.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use growth::measure::{self, Sizes};
use growth::points::Points;
use growth::{page, plot};
use prove::facts;

/// The page's own files, whose changes are no changes of what is measured.
const FILES: &str = "docs/growth*";

/// Draw every cost by members, keys and the bytes of a value.
#[derive(Debug, Parser)]
struct Args {
    /// The most keys: powers of ten from 1,000 up to this.
    #[arg(long, default_value_t = 10_000_000)]
    keys: u64,
    /// The most bytes in a value.
    #[arg(long, default_value_t = 1 << 20)]
    bytes: usize,
    /// Numbers of members, growing.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,3,5,7",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    members: Vec<u16>,
    /// Length of each load.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The page; pictures and points go beside it.
    #[arg(long, value_name = "FILE", default_value = "docs/growth.md")]
    page: PathBuf,
    /// Write the page of these points again, instead of measuring.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tell(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Whether every cliff has its reason.
fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    let begin = Instant::now();
    let points = match &args.from {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| about(path, &error))?;
            Points::read(&text).map_err(|error| about(path, &error))?
        }
        None => {
            check_writable(&args.page)?;
            measured(args)?
        }
    };
    write(&points, &args.page)?;
    let took = facts::duration(begin.elapsed());
    writeln!(io::stdout(), "{}; took {took}", page::closing(&points))?;
    Ok(page::cliffs(&points).iter().all(|cliff| cliff.reason.is_some()))
}

fn measured(args: &Args) -> Result<Points, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let seconds = args.seconds.to_string();
    let members: Vec<_> = args.members.iter().map(u16::to_string).collect();
    let command = format!(
        "make growth KEYS={} BYTES={} MEMBERS={} SECONDS={seconds}",
        args.keys,
        args.bytes,
        members.join(",")
    );
    let facts = [
        ("command", command),
        ("commit", facts::commit(&root, FILES)?),
        ("machine", facts::machine(&root)?),
        ("file system", facts::file_system(&std::env::temp_dir())?),
        ("seconds", seconds),
        ("when", facts::now()),
    ];
    let sizes = Sizes {
        members: args.members.iter().map(|&n| n.into()).collect(),
        keys: args.keys,
        bytes: args.bytes,
        seconds: args.seconds,
    };
    let begin = Instant::now();
    let told = |what: &str| tell(&format!("{what}, after {:.0?}", begin.elapsed()));
    let mut points = measure::all(&sizes, &told);
    points.facts = facts.map(|(name, value)| (name.to_owned(), value)).to_vec();
    Ok(points)
}

/// Before minutes of load and not after them.
fn check_writable(page: &Path) -> Result<(), Box<dyn Error>> {
    let directory = page.parent().filter(|path| !path.as_os_str().is_empty());
    let probe = directory.unwrap_or(Path::new(".")).join(".growth");
    fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)).map_err(|e| about(page, &e))
}

fn write(points: &Points, page: &Path) -> Result<(), Box<dyn Error>> {
    let stem = page.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let put =
        |path: &Path, text: String| fs::write(path, text).map_err(|error| about(path, &error));
    for figure in points.figures() {
        let picture = page.with_file_name(format!("{stem}-{}.svg", figure.name));
        put(&picture, plot::svg(figure, points.of(figure))?)?;
    }
    put(&page.with_extension("csv"), points.to_string())?;
    put(page, page::text(points, &stem))?;
    Ok(())
}

fn about(path: &Path, error: &dyn std::fmt::Display) -> Box<dyn Error> {
    format!("{}: {error}", path.display()).into()
}

#[expect(clippy::print_stderr, reason = "a tool says how far it is and why it failed")]
fn tell(what: &str) {
    eprintln!("growth: {what}");
}
