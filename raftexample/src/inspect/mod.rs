//! `raftexample wal`: what a member keeps on disk, shown or checked while it is down.
//!
//! The library looks and judges ([`raftnode::inspect`]); here it is printed, with the commands in
//! the log in words. Nothing is written but standard output.
//!
//! 1. X1: the exit code is 0 if a member would start on it as far as the disk is concerned, 3 if
//!    something is corrupt, 1 if it cannot be looked at. `verify` ends with it even when nobody
//!    reads what it prints, or when that cannot be written.
//! 2. X2: what cannot be written is said on standard error, unless its reader has left; a dump
//!    ends with 1 then. Half a dump on a full disk is not taken for a whole one.

mod json;
mod text;
mod words;

use std::io::{self, BufWriter, ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use raftnode::inspect::{self, Content, Inspection, Item, What};

/// Something is corrupt.
const CORRUPT: u8 = 3;

/// What is to be done with which path.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print every record and snapshot, one line each, then what is to be said of each file.
    Dump(Dump),
    /// Read everything and print what is to be said of each file, and a last line for all.
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Dump {
    #[command(flatten)]
    target: Target,
    /// Leave out entries before this one.
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from_index: u64,
    /// Leave out entries after this one.
    #[arg(long, value_name = "INDEX", default_value_t = u64::MAX, hide_default_value = true)]
    to_index: u64,
}

#[derive(Debug, clap::Args)]
struct Verify {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// A data directory, its `wal` or `snap`, or a file of these.
    #[arg(value_name = "DIR-OR-FILE")]
    path: PathBuf,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Shows or checks; the reason of a failure is on standard error.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    let (target, shows) = match args.action {
        Action::Dump(dump) => (dump.target, Some(dump.from_index..=dump.to_index)),
        Action::Verify(verify) => (verify.target, None),
    };
    let mut printer = Printer {
        out: BufWriter::new(io::stdout().lock()),
        form: if target.json { Form::Json } else { Form::Text },
        failure: None,
    };
    let is_dump = shows.is_some();
    let inspected = inspect::open(&target.path).and_then(|inspection| {
        let summary = look(&inspection, shows, &mut printer)?;
        let total = match printer.form {
            Form::Json => json::summary(&summary),
            Form::Text => text::summary(&target.path, &summary),
        };
        printer.line(&total);
        printer.flush();
        Ok(summary)
    });
    // Whoever reads has seen enough.
    let failure = printer.failure.filter(|error| error.kind() != ErrorKind::BrokenPipe);
    if let Some(error) = &failure {
        complain(&format!("cannot write standard output: {error}"));
    }
    match inspected {
        Ok(_) | Err(inspect::Error::BrokenOff) if is_dump && failure.is_some() => ExitCode::FAILURE,
        Ok(summary) if summary.is_sound() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(CORRUPT),
        Err(inspect::Error::BrokenOff) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn complain(what: &str) {
    // Nobody is left to tell when standard error is closed.
    writeln!(io::stderr().lock(), "raftexample: {what}").ok();
}

/// Which entries a dump shows; without one only findings are printed.
type Shows = Option<std::ops::RangeInclusive<u64>>;

fn look<W: Write>(
    inspection: &Inspection,
    shows: Shows,
    printer: &mut Printer<W>,
) -> Result<inspect::Summary, inspect::Error> {
    let summary = inspection.run(&mut |item| {
        if is_shown(&item, &shows) {
            let line = match printer.form {
                Form::Json => json::item(&item),
                Form::Text => text::item(&item),
            };
            printer.line(&line);
        }
        let is_over = shows.is_some() && printer.failure.is_some();
        if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    // What was understood before something could not be read is printed all the same.
    printer.flush();
    summary
}

fn is_shown(item: &Item<'_>, shows: &Shows) -> bool {
    match (item, shows) {
        (Item::Finding(_), _) => true,
        (_, None) => false,
        (Item::Record(record), Some(indexes)) => match &record.what {
            What::Entry(entry) => indexes.contains(&entry.index),
            What::Marker(_) | What::HardState(_) | What::Seal => true,
        },
        (_, Some(_)) => true,
    }
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Json,
}

/// Standard output, until it cannot be written.
struct Printer<W> {
    out: W,
    form: Form,
    failure: Option<io::Error>,
}

impl<W: Write> Printer<W> {
    fn line(&mut self, line: &str) {
        if self.failure.is_none() {
            self.failure = writeln!(self.out, "{line}").err();
        }
    }

    fn flush(&mut self) {
        if self.failure.is_none() {
            self.failure = self.out.flush().err();
        }
    }
}

/// How an entry's content is called.
fn name(content: &Content<'_>) -> &'static str {
    match content {
        Content::Nothing => "nothing",
        Content::Command { .. } => "command",
        Content::Member { .. } => "member",
        Content::Removal { .. } => "removal",
        Content::Unknown(_) => "unknown",
    }
}
