//! `prove`: all campaigns, one after the other, and the page about them.
//!
//! Progress goes to standard error, the table to standard output. Ends with 1 if a campaign that
//! ran has failed.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use prove::campaign::{Campaign, NAMES, Sizes};
use prove::report::{Report, Row};
use prove::{child, facts};

/// Run every campaign, and write what came of them to docs/proof.md, or, when they are small ones,
/// to target/prove/proof.md.
#[derive(Debug, Parser)]
struct Args {
    /// How much of everything, where nothing else is said.
    #[arg(long, value_enum, default_value = "full")]
    size: Size,
    /// Only these; the page keeps what it says of the others.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...", value_parser = NAMES)]
    only: Vec<String>,
    /// Seconds of fuzzing.
    #[arg(long)]
    seconds: Option<u64>,
    /// Simulated clusters.
    #[arg(long)]
    seeds: Option<u64>,
    /// Ticks of 10 ms in each.
    #[arg(long)]
    ticks: Option<u64>,
    /// Distinct crash states.
    #[arg(long)]
    states: Option<u64>,
    /// Histories that three checkers are asked about.
    #[arg(long)]
    histories: Option<u64>,
    /// Minutes of real processes under faults.
    #[arg(long)]
    minutes: Option<u64>,
    /// Another page than that.
    #[arg(long)]
    page: Option<PathBuf>,
}

/// Of the bar.
const WIDTH: f64 = 12.0;
/// Of all that is drawn: what goes on in the next line is not drawn over.
const COLUMNS: usize = 79;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Size {
    Full,
    Small,
}

impl Args {
    fn sizes(&self) -> Sizes {
        let Sizes { seconds, seeds, ticks, states, histories, minutes } = match self.size {
            Size::Full => Sizes::FULL,
            Size::Small => Sizes::SMALL,
        };
        Sizes {
            seconds: self.seconds.unwrap_or(seconds),
            seeds: self.seeds.unwrap_or(seeds),
            ticks: self.ticks.unwrap_or(ticks),
            states: self.states.unwrap_or(states),
            histories: self.histories.unwrap_or(histories),
            minutes: self.minutes.unwrap_or(minutes),
        }
    }
}

impl Args {
    /// What is published is not overwritten by a try.
    fn page(&self) -> PathBuf {
        let default = match self.size {
            Size::Full => facts::PAGE,
            Size::Small => facts::SMALL_PAGE,
        };
        self.page.clone().unwrap_or_else(|| default.into())
    }
}

fn main() -> ExitCode {
    match prove(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("prove: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn prove(args: &Args) -> io::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = root.join(args.page());
    let mut report = if args.only.is_empty() { Report::default() } else { known(&page)? };
    let chosen = NAMES
        .into_iter()
        .filter(|name| args.only.is_empty() || args.only.iter().any(|only| only == name));
    let campaigns: Vec<_> = chosen.filter_map(|name| Campaign::new(name, args.sizes())).collect();
    let machine = facts::machine(&root)?;
    if let Some(directory) = page.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut all_passed = true;
    for (place, campaign) in campaigns.iter().enumerate() {
        // Asked each time: hours are long enough for another commit.
        let commit = facts::commit(&root, facts::PAGE)?;
        let progress = Progress::new(place, campaigns.len(), campaign);
        let row = run(campaign, &root, commit, &machine, progress)?;
        all_passed &= row.failure.is_none();
        if place > 0 || !args.only.is_empty() {
            // Another may have run other campaigns meanwhile.
            report = known(&page)?;
        }
        report.add(row);
        // What is known is written: the next may take hours, and be interrupted.
        fs::write(&page, report.to_string())?;
    }
    write!(io::stdout(), "{report}")?;
    Ok(all_passed)
}

/// What the page says, if there is one.
fn known(page: &Path) -> io::Result<Report> {
    match fs::read_to_string(page) {
        Ok(text) => Report::read(&text)
            .map_err(|why| io::Error::other(format!("{}: {why}", page.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Report::default()),
        Err(error) => Err(error),
    }
}

fn run(
    campaign: &Campaign,
    root: &Path,
    commit: String,
    machine: &str,
    mut progress: Progress,
) -> io::Result<Row> {
    say(&format!("prove: {campaign}"));
    let mut make = campaign.command(root);
    let log = root.join("target/prove").join(format!("{}.log", campaign.name));
    let ended = child::run(&mut make, campaign.limit, &log, &mut |line, elapsed| {
        progress.tell(line, elapsed);
    })?;
    progress.end();
    let failure = if ended.is_late {
        Some(format!("it was ended after {}", facts::duration(campaign.limit)))
    } else {
        campaign.judge(ended.is_well, ended.closing_line.as_deref(), ended.took).err()
    };
    match &failure {
        None => say(&format!("prove: {} passed in {}", campaign.name, facts::duration(ended.took))),
        Some(why) => {
            // A bar has hidden what was said.
            if io::stderr().is_terminal() {
                ended.tail.iter().for_each(|line| say(line));
            }
            let name = campaign.name;
            say(&format!("prove: {name} FAILED: {why}; all it said is in target/prove/{name}.log"));
        }
    }
    Ok(Row {
        name: campaign.name.to_owned(),
        command: campaign.to_string(),
        closing_line: ended.closing_line,
        seed: ended.seed,
        took: facts::duration(ended.took),
        failure,
        commit,
        when: facts::now(),
        machine: machine.to_owned(),
    })
}

/// A bar on a terminal, every line elsewhere: a campaign that is not on a terminal says one every
/// ten seconds or so.
struct Progress {
    is_terminal: bool,
    place: usize,
    n: usize,
    name: &'static str,
    expected: Duration,
    last: String,
}

impl Progress {
    fn new(place: usize, n: usize, campaign: &Campaign) -> Progress {
        let Campaign { name, expected, .. } = *campaign;
        let is_terminal = io::stderr().is_terminal();
        Progress { is_terminal, place, n, name, expected, last: String::new() }
    }

    fn tell(&mut self, line: Option<&str>, elapsed: Duration) {
        if !self.is_terminal {
            if let Some(line) = line {
                say(&format!("{}: {line}", self.name));
            }
            return;
        }
        if let Some(line) = line {
            self.last = line.to_owned();
        }
        draw(&format!("\r\x1b[K{}", self.bar(elapsed)));
    }

    /// How far this campaign is by the time that it should take, and what it said last.
    fn bar(&self, elapsed: Duration) -> String {
        let share = elapsed.as_secs_f64() / self.expected.as_secs_f64().max(1.0);
        let bar = "#".repeat((share * WIDTH).min(WIDTH) as usize);
        let width = WIDTH as usize;
        let Progress { place, n, name, last, .. } = self;
        let (elapsed, expected) = (facts::duration(elapsed), facts::duration(self.expected));
        let place = place + 1;
        let line =
            format!("[{bar:.<width$}] {place}/{n} {name} {elapsed} of about {expected}  {last}");
        line.chars().take(COLUMNS).collect()
    }

    fn end(&self) {
        if self.is_terminal {
            draw("\r\x1b[K");
        }
    }
}

#[expect(clippy::print_stderr, reason = "progress is what a person reads")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stderr, reason = "a bar that is drawn over itself")]
fn draw(text: &str) {
    eprint!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bar moves with the time, and no further than its end.
    #[test]
    fn a_bar_shows_how_far_a_campaign_is() {
        let campaign = Campaign::new("histories", Sizes { minutes: 1, ..Sizes::FULL }).unwrap();
        let mut progress = Progress::new(6, 7, &campaign);
        progress.last = "5 faults".to_owned();
        let bar = |seconds| progress.bar(Duration::from_secs(seconds));
        assert_eq!(bar(0), "[............] 7/7 histories 0s of about 2m  5 faults");
        assert_eq!(bar(61), "[######......] 7/7 histories 1m 1s of about 2m  5 faults");
        assert_eq!(bar(600), "[############] 7/7 histories 10m of about 2m  5 faults");
        progress.last = "–".repeat(100);
        assert_eq!(progress.bar(Duration::ZERO).chars().count(), 79);
    }

    /// P4: small campaigns are not written where full ones are.
    #[test]
    fn a_try_has_a_page_of_its_own() {
        let page = |arguments: &[&str]| Args::parse_from([&["prove"], arguments].concat()).page();
        assert_eq!(page(&[]), Path::new("docs/proof.md"));
        assert_eq!(page(&["--only", "crash"]), Path::new("docs/proof.md"));
        assert_eq!(page(&["--size", "small"]), Path::new("target/prove/proof.md"));
        assert_eq!(page(&["--size", "small", "--page", "a.md"]), Path::new("a.md"));
    }
}
