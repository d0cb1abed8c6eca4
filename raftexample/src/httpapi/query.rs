//! What a request's query says. Every function takes the whole query and refuses what it does
//! not know: a misspelt `?consistency` must not become another one.

use std::borrow::Cow;

use raftnode::Consistency;
use raftnode::membership::ChangeOptions;

use super::answer::Fault;
use super::route::{Ack, Route, bad_id};
use super::text::{number, percent_decode};
use crate::command::MAX_KEY_BYTES;

/// How many keys a listing has unless the request says.
const DEFAULT_LIMIT: usize = 100;

/// How many keys a listing has at most: when each is as long as can be and all its bytes are
/// encoded, an answer of 12 MiB.
const MAX_LIMIT: usize = 1000;

/// Which state a read is answered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub(super) consistency: Consistency,
    /// What must be applied first; 0 when nothing need be.
    pub(super) min_index: u64,
}

/// No parameter at all.
pub(super) fn none(query: Option<&str>) -> Result<(), Fault> {
    each(query, |_, _| Parameter::Unknown)
}

/// `?ack=none` or `?trace=1`.
pub(super) fn ack(query: Option<&str>) -> Result<Ack, Fault> {
    let mut ack = None;
    each(query, |name, value| take_ack(&mut ack, name, value))?;
    Ok(ack.unwrap_or(Ack::Applied))
}

/// `?trace=1`.
pub(super) fn trace(query: Option<&str>) -> Result<Ack, Fault> {
    let mut ack = None;
    each(query, |name, value| take_trace(&mut ack, name, value))?;
    Ok(ack.unwrap_or(Ack::Applied))
}

/// `?cas=<mod index>` and `?trace=1`.
pub(super) fn cas_and_trace(query: Option<&str>) -> Result<(Option<u64>, Ack), Fault> {
    let (mut cas, mut ack) = (None, None);
    each(query, |name, value| match name {
        "cas" => set_number(&mut cas, value),
        _ => take_trace(&mut ack, name, value),
    })?;
    Ok((cas, ack.unwrap_or(Ack::Applied)))
}

/// All of these.
pub(super) fn cas_and_ack(query: Option<&str>) -> Result<(Option<u64>, Ack), Fault> {
    let (mut cas, mut ack) = (None, None);
    each(query, |name, value| match name {
        "cas" => set_number(&mut cas, value),
        _ => take_ack(&mut ack, name, value),
    })?;
    Ok((cas, ack.unwrap_or(Ack::Applied)))
}

/// `?consistency` and `?min-index`.
pub(super) fn view(query: Option<&str>) -> Result<View, Fault> {
    let mut view = Wishes::default();
    each(query, |name, value| view.take(name, value))?;
    Ok(view.into())
}

/// A listing's window, and a read's parameters.
pub(super) fn list(query: Option<&str>) -> Result<Route<'_>, Fault> {
    let (mut prefix, mut after, mut limit) = (None, None, None);
    let mut view = Wishes::default();
    each(query, |name, value| match name {
        "prefix" => set_key(&mut prefix, value),
        "after" => set_key(&mut after, value),
        "limit" => match number(value).and_then(|limit| usize::try_from(limit).ok()) {
            Some(wanted) if (1..=MAX_LIMIT).contains(&wanted) => set(&mut limit, wanted),
            _ => Parameter::Wrong(format!("the limit is 1 to {MAX_LIMIT}, not {value:?}")),
        },
        _ => view.take(name, value),
    })?;
    let (prefix, limit) = (prefix.unwrap_or_default(), limit.unwrap_or(DEFAULT_LIMIT));
    Ok(Route::List { prefix, after, limit, view: view.into() })
}

/// What is watched, and from where.
pub(super) fn watch(query: Option<&str>) -> Result<Route<'_>, Fault> {
    let (mut prefix, mut from_index) = (None, None);
    each(query, |name, value| match name {
        "prefix" => set_key(&mut prefix, value),
        "from-index" => set_number(&mut from_index, value),
        _ => Parameter::Unknown,
    })?;
    Ok(Route::Watch { prefix: prefix.unwrap_or_default(), from_index })
}

/// `?to=<id>`.
pub(super) fn to(query: Option<&str>) -> Result<Option<u64>, Fault> {
    let mut to = None;
    each(query, |name, value| match name {
        "to" => set_number(&mut to, value),
        _ => Parameter::Unknown,
    })?;
    if to == Some(0) { Err(bad_id()) } else { Ok(to) }
}

/// `?force` and `?dry_run`, each alone or `=true`.
pub(super) fn options(query: Option<&str>) -> Result<ChangeOptions, Fault> {
    let (mut force, mut dry_run) = (None, None);
    each(query, |name, value| match (name, value) {
        ("force", "" | "true") => set(&mut force, ()),
        ("dry_run", "" | "true") => set(&mut dry_run, ()),
        _ => Parameter::Unknown,
    })?;
    Ok(ChangeOptions { force: force.is_some(), dry_run: dry_run.is_some() })
}

/// A read's parameters while they are collected.
#[derive(Default)]
struct Wishes {
    consistency: Option<Consistency>,
    min_index: Option<u64>,
}

impl Wishes {
    fn take(&mut self, name: &str, value: &str) -> Parameter {
        match (name, value) {
            ("consistency", "linearizable") => {
                set(&mut self.consistency, Consistency::Linearizable)
            }
            ("consistency", "leader") => set(&mut self.consistency, Consistency::Leader),
            ("consistency", "stale") => set(&mut self.consistency, Consistency::Stale),
            ("min-index", _) => set_number(&mut self.min_index, value),
            _ => Parameter::Unknown,
        }
    }
}

impl From<Wishes> for View {
    fn from(Wishes { consistency, min_index }: Wishes) -> Self {
        let consistency = consistency.unwrap_or_default();
        Self { consistency, min_index: min_index.unwrap_or(0) }
    }
}

/// What became of one parameter of a query.
enum Parameter {
    Taken,
    Repeated,
    Unknown,
    /// Known, and what is wrong with its value.
    Wrong(String),
}

fn set<T>(place: &mut Option<T>, value: T) -> Parameter {
    match place.replace(value) {
        None => Parameter::Taken,
        Some(_) => Parameter::Repeated,
    }
}

fn set_number(place: &mut Option<u64>, value: &str) -> Parameter {
    match number(value) {
        Some(number) => set(place, number),
        None => Parameter::Wrong(format!("{value:?} is not a u64 in decimal digits")),
    }
}

/// A key or the beginning of one, which may be empty.
fn set_key<'a>(place: &mut Option<Cow<'a, [u8]>>, value: &'a str) -> Parameter {
    match percent_decode(value) {
        Some(key) if key.len() <= MAX_KEY_BYTES => set(place, key),
        Some(_) => Parameter::Wrong(format!("keys have at most {MAX_KEY_BYTES} bytes")),
        None => Parameter::Wrong("a % is not followed by two hex digits".to_owned()),
    }
}

fn take_ack(place: &mut Option<Ack>, name: &str, value: &str) -> Parameter {
    match (name, value) {
        ("ack", "none") => set_ack(place, Ack::None),
        _ => take_trace(place, name, value),
    }
}

fn take_trace(place: &mut Option<Ack>, name: &str, value: &str) -> Parameter {
    match (name, value) {
        ("trace", "1") => set_ack(place, Ack::Traced),
        _ => Parameter::Unknown,
    }
}

fn set_ack(place: &mut Option<Ack>, ack: Ack) -> Parameter {
    match place.replace(ack) {
        Some(other) if other != ack => {
            Parameter::Wrong("a write that nobody waits for cannot be traced".to_owned())
        }
        other => {
            if other.is_some() {
                Parameter::Repeated
            } else {
                Parameter::Taken
            }
        }
    }
}

fn each<'a>(
    query: Option<&'a str>,
    mut take: impl FnMut(&'a str, &'a str) -> Parameter,
) -> Result<(), Fault> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(()) };
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let message = match take(name, value) {
            Parameter::Taken => continue,
            Parameter::Repeated => format!("the query has {name:?} twice"),
            Parameter::Unknown => {
                format!("the query's {pair:?} is not known for this method and path")
            }
            Parameter::Wrong(what) => format!("the query's {name:?} is wrong: {what}"),
        };
        return Err(Fault::malformed(message));
    }
    Ok(())
}
