//! What fails when, as text.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use rustix::io::Errno;

use crate::fs::Fs;

/// What a rule can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
    Sync,
    SyncDir,
    Allocate,
    Create,
    Rename,
    Remove,
}

const OPERATIONS: [(&str, Operation); 8] = [
    ("read", Operation::Read),
    ("write", Operation::Write),
    ("sync", Operation::Sync),
    ("syncdir", Operation::SyncDir),
    ("allocate", Operation::Allocate),
    ("create", Operation::Create),
    ("rename", Operation::Rename),
    ("remove", Operation::Remove),
];

const ERRORS: [(&str, Errno); 4] = [
    ("EIO", Errno::IO),
    ("ENOSPC", Errno::NOSPC),
    ("EDQUOT", Errno::DQUOT),
    ("EROFS", Errno::ROFS),
];

/// What happens to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Fail(Errno),
    /// A sync that fails and takes back what was written since the last one.
    Revert(Errno),
    Short,
    Slow(Duration),
}

impl Effect {
    pub(super) fn error(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.raw_os_error())
    }
}

#[derive(Debug)]
pub(super) struct Script {
    rules: Vec<Rule>,
    /// What must be there before anything is counted, and whether it was seen.
    begins: Option<(PathBuf, AtomicBool)>,
}

#[derive(Debug)]
struct Rule {
    operation: Operation,
    /// Empty: everywhere.
    place: String,
    first: u64,
    last: u64,
    effect: Effect,
    /// How many operations have matched so far.
    matched: AtomicU64,
}

impl Script {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut rules, mut begins) = (Vec::new(), None);
        for rule in text.split(';').map(str::trim).filter(|rule| !rule.is_empty()) {
            match rule.strip_prefix("after:") {
                Some(path) => begins = Some((path.into(), AtomicBool::new(false))),
                None => rules.push(Rule::parse(rule).map_err(|why| format!("{rule:?}: {why}"))?),
            }
        }
        Ok(Self { rules, begins })
    }

    /// Whether operations count already.
    pub(super) fn is_begun(&self, fs: &dyn Fs) -> io::Result<bool> {
        let Some((path, is_begun)) = &self.begins else { return Ok(true) };
        if !is_begun.load(Ordering::Relaxed) && fs.exists(path)? {
            is_begun.store(true, Ordering::Relaxed);
        }
        Ok(is_begun.load(Ordering::Relaxed))
    }

    /// Counts an operation, and tells what becomes of it: the first rule that hits decides.
    pub(super) fn judge(&self, operation: Operation, path: &Path) -> Option<Effect> {
        let matching = self.rules.iter().filter(|rule| rule.matches(operation, path));
        // Every rule counts for itself, whoever decides.
        matching.fold(None, |decided, rule| {
            let nth = rule.matched.fetch_add(1, Ordering::Relaxed) + 1;
            decided.or((rule.first..=rule.last).contains(&nth).then_some(rule.effect))
        })
    }

    /// Whether what is written must be remembered.
    pub(super) fn reverts(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.effect, Effect::Revert(_)))
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        let form = "a rule is operation:place:nth=what, like sync:wal:3=EIO or write:*:5..=ENOSPC";
        let (which, what) = text.split_once('=').ok_or(form)?;
        let (which, what) = match which.strip_suffix("..") {
            // `5..=EIO` has its `=` behind the dots, as a range of Rust has.
            Some(which) => ((which, true), what),
            None => ((which, false), what),
        };
        let (which, goes_on) = which;
        let mut parts = which.split(':');
        let (Some(operation), Some(place), Some(nth), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form.into());
        };
        let operation = named(operation, "operation", &OPERATIONS)?;
        let first = nth.parse().ok().filter(|nth| *nth > 0);
        let first = first.ok_or_else(|| {
            format!("{nth:?} is not which one: write 3 for the third, 3.. for all from there on")
        })?;
        if place.is_empty() {
            return Err("no place: write * for everywhere, or how the path ends".into());
        }
        Ok(Self {
            operation,
            place: if place == "*" { String::new() } else { place.to_owned() },
            first,
            last: if goes_on { u64::MAX } else { first },
            effect: effect(operation, what)?,
            matched: AtomicU64::new(0),
        })
    }

    fn matches(&self, operation: Operation, path: &Path) -> bool {
        let is_in = || crate::fs::parent(path).file_name().is_some_and(|name| *name == *self.place);
        let ends = || path.as_os_str().to_string_lossy().ends_with(&self.place);
        self.operation == operation && (ends() || is_in())
    }
}

fn effect(operation: Operation, text: &str) -> Result<Effect, String> {
    match text.split_once([':', ',']) {
        None if text == "short" && operation == Operation::Write => Ok(Effect::Short),
        None if text == "short" => Err("only a write can be short".into()),
        Some(("slow", time)) => duration(time).map(Effect::Slow),
        Some((errno, "reverted")) if operation == Operation::Sync => {
            named(errno, "error", &ERRORS).map(Effect::Revert)
        }
        Some((_, "reverted")) => Err("only a sync can take back what was written".into()),
        None => named(text, "error", &ERRORS).map(Effect::Fail),
        Some(_) => Err(format!(
            "{text:?} is nothing that can happen: EIO, EIO,reverted, short or slow:5s can"
        )),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write 5s or 200ms");
    let number = |digits: &str| digits.parse().map_err(|_| wrong());
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => number(digits).map(Duration::from_millis),
        (None, Some(digits)) => number(digits).map(Duration::from_secs),
        (None, None) => Err(wrong()),
    }
}

fn named<T: Copy>(name: &str, what: &str, table: &[(&str, T)]) -> Result<T, String> {
    let found = table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<_> = table.iter().map(|(known, _)| *known).collect();
        format!("{name:?} is not the name of an {what}; there are {}", names.join(", "))
    })
}
