//! One logger for the process, on standard error.
//!
//! Records are written by a thread of their own. When it cannot keep up, because standard error
//! is a pipe that nobody reads, records are dropped and their number is logged: a node must not
//! miss its heartbeats for the sake of its log.

use std::io;
use std::sync::Mutex;

use slog::{Drain, Logger, OwnedKVList, Record, o};

/// How many records may wait to be written: a second of debug logging at its busiest.
const QUEUE_RECORDS: usize = 4096;

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// Only what the node cannot do.
    Error,
    /// What someone could act on.
    Warn,
    /// Role changes, membership, files.
    Info,
    /// Single messages too.
    Debug,
    /// As debug; releases are built without anything finer.
    Trace,
}

impl Level {
    /// The name as in the flag.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }

    fn slog(self) -> slog::Level {
        match self {
            Level::Error => slog::Level::Error,
            Level::Warn => slog::Level::Warning,
            Level::Info => slog::Level::Info,
            Level::Debug => slog::Level::Debug,
            Level::Trace => slog::Level::Trace,
        }
    }
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line for people, coloured on a terminal.
    Term,
    /// A JSON object a line.
    Json,
}

impl Format {
    /// The name as in the flag.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Term => "term",
            Format::Json => "json",
        }
    }
}

/// The process's logger. Whatever was logged is written when the guard is dropped.
#[must_use]
pub fn start(level: Level, format: Format) -> (Logger, slog_async::AsyncGuard) {
    let (drain, guard) = slog_async::Async::new(Sink::new(format).ignore_res())
        .chan_size(QUEUE_RECORDS)
        .overflow_strategy(slog_async::OverflowStrategy::DropAndReport)
        .thread_name("logger".into())
        .build_with_guard();
    let drain = slog::LevelFilter::new(drain.fuse(), level.slog()).fuse();
    (Logger::root(drain, o!()), guard)
}

/// A logger that has written when it returns: for last words.
#[must_use]
pub fn last_words(format: Format) -> Logger {
    Logger::root(Mutex::new(Sink::new(format).ignore_res()).fuse(), o!())
}

/// Where records are written. A record that cannot be written has nowhere else to go: its error
/// is ignored.
enum Sink {
    Term(Box<slog_term::FullFormat<slog_term::TermDecorator>>),
    Json(Box<slog_json::Json<io::Stderr>>),
}

impl Sink {
    fn new(format: Format) -> Self {
        match format {
            Format::Term => {
                let decorator = slog_term::TermDecorator::new().stderr().build();
                let format = slog_term::FullFormat::new(decorator).use_utc_timestamp();
                Sink::Term(Box::new(format.build()))
            }
            Format::Json => Sink::Json(Box::new(slog_json::Json::default(io::stderr()))),
        }
    }
}

impl Drain for Sink {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
        match self {
            Sink::Term(drain) => drain.log(record, values),
            Sink::Json(drain) => drain.log(record, values),
        }
    }
}
