//! The page: a table of campaigns, written, and read again to keep the rows of those that did not
//! run this time.

use std::collections::BTreeSet;
use std::fmt;

use crate::campaign::NAMES;

const PASSED: &str = "passed";
const NONE: &str = "–";
const COLUMNS: [&str; 8] = [
    "campaign",
    "command",
    "closing line",
    "first seed",
    "took, with its build",
    "verdict",
    "commit",
    "when (UTC), machine",
];

/// What came of a campaign, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The command that repeats it.
    pub command: String,
    /// Its last word.
    pub closing_line: Option<String>,
    /// What it began with, when it says so.
    pub seed: Option<u64>,
    /// How long it took.
    pub took: String,
    /// What is wrong, if anything.
    pub failure: Option<String>,
    /// Of what it is a proof.
    pub commit: String,
    /// When it ended.
    pub when: String,
    /// On what it ran.
    pub machine: String,
}

/// The rows, in the order of the campaigns.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// What a page says.
    ///
    /// # Errors
    ///
    /// When it is no such page: what it says would be lost by writing it anew.
    pub fn read(page: &str) -> Result<Report, String> {
        let header = header();
        let (_, table) = page.split_once(&header).ok_or("there is no table of campaigns in it")?;
        let machines: Vec<_> =
            table.lines().filter_map(|line| line.split_once(". ")).filter(is_numbered).collect();
        let mut report = Report::default();
        for line in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, command, closing, seed, took, verdict, commit, place] = cells[..] else {
                return Err(format!("a row has {} cells: {line}", cells.len()));
            };
            let (when, number) = place.rsplit_once(", ").ok_or("a row names no machine")?;
            let machine = machines.iter().find(|(known, _)| *known == number);
            let machine = machine.ok_or_else(|| format!("there is no machine {number}"))?.1;
            let told = |cell: &str| (cell != NONE).then(|| cell.trim_matches('`').to_owned());
            report.add(Row {
                name: name.to_owned(),
                command: command.trim_matches('`').to_owned(),
                closing_line: told(closing),
                seed: told(seed).and_then(|seed| seed.parse().ok()),
                took: took.to_owned(),
                failure: (verdict != PASSED)
                    .then(|| verdict.trim_matches('*').trim_start_matches("failed: ").to_owned()),
                commit: commit.to_owned(),
                when: when.to_owned(),
                machine: machine.to_owned(),
            });
        }
        Ok(report)
    }

    /// Takes the place of what was known of that campaign.
    pub fn add(&mut self, row: Row) {
        self.rows.retain(|other| other.name != row.name);
        self.rows.push(row);
        let place = |row: &Row| NAMES.iter().position(|name| *name == row.name);
        self.rows.sort_by_key(|row| place(row).unwrap_or(usize::MAX));
    }

    /// What may be claimed (P2).
    fn claim(&self) -> String {
        let n_passed = self.rows.iter().filter(|row| row.failure.is_none()).count();
        let commits: BTreeSet<_> = self.rows.iter().map(|row| row.commit.as_str()).collect();
        let missing: Vec<_> = NAMES
            .into_iter()
            .filter(|name| self.rows.iter().all(|row| row.name != *name))
            .collect();
        let mut claim = match commits.iter().collect::<Vec<_>>()[..] {
            [] => "Nothing has run.".to_owned(),
            [commit] => {
                format!("{n_passed} of {} campaigns passed at commit {commit}.", NAMES.len())
            }
            _ => format!(
                "{n_passed} of {} campaigns passed, at different commits: what each row shows, it \
                 shows of its own.",
                NAMES.len()
            ),
        };
        if !missing.is_empty() {
            claim += &format!(" Not run: {}.", missing.join(", "));
        }
        if commits.iter().any(|commit| commit.ends_with("(dirty)")) {
            claim += " A dirty tree held changes that no commit has.";
        }
        claim
    }
}

fn is_numbered((number, _): &(&str, &str)) -> bool {
    number.parse::<usize>().is_ok()
}

fn header() -> String {
    format!("| {} |\n|{}", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Proof\n")?;
        writeln!(f, "Written by `make prove`. What each campaign does, and what none of them can")?;
        writeln!(f, "show, is in [testing.md](testing.md).\n")?;
        writeln!(f, "{}\n\n{}", self.claim(), header())?;
        let machines: BTreeSet<_> = self.rows.iter().map(|row| row.machine.as_str()).collect();
        for row in &self.rows {
            let number = machines.iter().take_while(|other| **other < row.machine.as_str()).count();
            let told = |text: &Option<String>| {
                text.as_ref().map_or(NONE.to_owned(), |text| format!("`{}`", cell(text)))
            };
            let seed = row.seed.map_or(NONE.to_owned(), |seed| seed.to_string());
            let verdict = row
                .failure
                .as_ref()
                .map_or(PASSED.to_owned(), |why| format!("**failed: {}**", cell(why)));
            writeln!(
                f,
                "| {} | `{}` | {} | {seed} | {} | {verdict} | {} | {}, {} |",
                row.name,
                row.command,
                told(&row.closing_line),
                row.took,
                row.commit,
                row.when,
                number + 1
            )?;
        }
        writeln!(f, "\nMachines:\n")?;
        for (number, machine) in machines.iter().enumerate() {
            writeln!(f, "{}. {machine}", number + 1)?;
        }
        Ok(())
    }
}

/// Text that is one cell.
fn cell(text: &str) -> String {
    text.replace('|', "/").replace('`', "'").replace('\n', " ")
}
