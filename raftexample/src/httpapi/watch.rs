//! `GET /_watch`: the commit stream as server-sent events.
//!
//! ```text
//! id: 7                          the index of the entry; resuming goes on behind it
//! event: change                  one per entry that changes a key with the prefix
//! data: {"index":7,"term":2,"changes":[{"op":"put","key":"a","value":"dg==","mod_index":7},
//!        {"op":"delete","key":"b"}]}                                (on one line)
//!
//! id: 9
//! event: keep-alive              at once, and then whenever nothing else was sent for a while
//! data: {"applied_index":9}
//!
//! event: closed                  the last words: "compacted" or "shutting_down"
//! data: {"error":"compacted","message":"..."}
//! ```
//!
//! Invariants:
//! - V1 Whoever resumes behind the last id it has seen misses no change and sees none twice.
//! - V2 A watcher holds one event and [`PIECE_BYTES`] of its text, however slowly it is read.
//! - V3 A watch ends when it falls behind what is kept, when the server stops, and when its client
//!   does not read for as long as a request may take. It has no other deadline.

use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::HeaderName;
use raftnode::{Consistency, MAX_INDEX_AHEAD};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::watch::Receiver;

use super::answer::{self, Answer, ErrorBody, Fault};
use super::kind::Kind;
use super::query::View;
use super::server::Line;
use super::{Api, text};
use crate::kvstore::Store;
use crate::watch::{Event, Watched, Watcher};

/// About how much text is made at a time. Values are encoded as the client takes them: an event
/// may have megabytes, and there may be as many watchers as connections.
const PIECE_BYTES: usize = 64 << 10;

/// How much of a value is encoded at a time. A multiple of three, so that base64 needs no padding
/// but at the end.
const VALUE_BYTES: usize = 24 << 10;

const READ_AGAIN: &str =
    "read the keys, and watch from the index behind the X-Raft-Applied-Index of that";

const STOPPING: &str = "this member is stopping";

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

impl Api {
    /// Where both are said, the header counts: a browser adds it when it connects again to the
    /// URL that it began with.
    pub(super) async fn watch(
        &self,
        prefix: &[u8],
        from_index: Option<u64>,
        headers: &HeaderMap,
        line: &Line,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let from_index = resumed(headers)?.or(from_index);
        // While the log is replayed there is no history to begin in.
        self.reach(View { consistency: Consistency::Stale, min_index: 0 }, line, deadline).await?;
        let applied_index = self.store.applied_index();
        let last_index = self.handle.node().status().last_index.max(applied_index);
        if from_index.is_some_and(|from| from > last_index.saturating_add(MAX_INDEX_AHEAD)) {
            return Err(Fault::malformed(format!(
                "the log ends at index {last_index}; nobody waits for more than {MAX_INDEX_AHEAD} more"
            )));
        }
        let place = line.watch().ok_or_else(|| {
            Fault::new(Kind::Overloaded, "half of the connections that there may be watch already")
        })?;
        let watcher = self.store.watch(from_index, Bytes::copy_from_slice(prefix));
        let watcher = watcher
            .map_err(|compacted| {
                let message = format!("{compacted}; {READ_AGAIN}");
                Fault::new(Kind::Compacted, message)
            })?
            .with_keep_alive(self.watch_keep_alive);
        // Only the watcher knows where it begins: the store may have gone on meanwhile. A client
        // that is told of another place would miss what came in between, or see it twice.
        let seen = watcher.next_index().saturating_sub(1);
        let applied_index = from_index.map_or(seen, |_| applied_index);
        let source =
            Source { watcher, store: self.store.clone(), seen, stop: line.stop(), telling: None };
        let first = keep_alive(seen, applied_index);
        let next: Next = Box::pin(source.next());
        Ok(answer::events(Feed { first: Some(first), next: Some(next), _place: place }))
    }
}

/// Behind which index the client has been already, if it says so.
fn resumed(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let index = value.to_str().ok().and_then(text::number).filter(|_| values.next().is_none());
    let next = index.and_then(|index| index.checked_add(1));
    next.map(Some).ok_or_else(|| {
        Fault::malformed("Last-Event-ID is not the id of an event: one u64 in decimal digits")
    })
}

type Next = Pin<Box<dyn Future<Output = (Bytes, Option<Source>)> + Send>>;

/// The body of a watch.
pub(super) struct Feed {
    /// Says at once that the watch is open.
    first: Option<Bytes>,
    /// `None` after the last words.
    next: Option<Next>,
    /// Among those that watch.
    _place: OwnedSemaphorePermit,
}

impl Feed {
    /// The next piece of text; `None` at the end.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        next.as_mut().poll(context).map(|(piece, source)| {
            self.next = source.map(|source| Box::pin(source.next()) as Next);
            Some(piece)
        })
    }
}

/// Where events come from, and how far they have been told.
struct Source {
    watcher: Watcher,
    store: Store,
    /// Everything through it is told, or was not asked for. See V1.
    seen: u64,
    stop: Receiver<()>,
    /// The event that is being told.
    telling: Option<Telling>,
}

impl Source {
    async fn next(mut self) -> (Bytes, Option<Self>) {
        loop {
            if let Some(piece) = self.telling.as_mut().and_then(Telling::piece) {
                return (piece, Some(self));
            }
            let watched = tokio::select! {
                // Its sender is dropped: either way there is nothing more to wait for.
                _ = self.stop.changed() => {
                    return (closed(Kind::ShuttingDown, STOPPING), None);
                }
                watched = self.watcher.next() => watched,
            };
            match watched {
                Watched::Change(event) => {
                    self.seen = event.index;
                    self.telling = Some(Telling { event, step: Step::Head });
                }
                Watched::Applied(applied_index) => {
                    self.seen = self.seen.max(applied_index);
                    return (keep_alive(self.seen, applied_index), Some(self));
                }
                Watched::Closed => return (self.last_words(), None),
            }
        }
    }

    /// Why there is no more: the history has gone on, or has come to its end.
    fn last_words(&self) -> Bytes {
        match self.store.watch(Some(self.watcher.next_index()), Bytes::new()) {
            Err(compacted) => {
                let message = format!("this watcher is too slow: {compacted}; {READ_AGAIN}");
                closed(Kind::Compacted, &message)
            }
            Ok(_) => closed(Kind::ShuttingDown, STOPPING),
        }
    }
}

/// `seen` is more than what is applied while a watch waits for its beginning.
fn keep_alive(seen: u64, applied_index: u64) -> Bytes {
    format!("id: {seen}\nevent: keep-alive\ndata: {{\"applied_index\":{applied_index}}}\n\n").into()
}

fn closed(kind: Kind, message: &str) -> Bytes {
    let body = serde_json::to_string(&ErrorBody::new(kind, message));
    let body = body.expect("strings are always JSON");
    format!("event: closed\ndata: {body}\n\n").into()
}

/// An event, and how far its text is made.
struct Telling {
    event: Event,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Head,
    /// This change, from its beginning.
    Change(usize),
    /// This change's value, from this byte.
    Value(usize, usize),
    Done,
}

impl Telling {
    /// The next piece of the text; `None` when all of it was made.
    fn piece(&mut self) -> Option<Bytes> {
        let mut text = Vec::new();
        while text.len() < PIECE_BYTES {
            self.step = match self.step {
                Step::Head => {
                    let Event { index, term, .. } = self.event;
                    write(
                        &mut text,
                        format_args!(
                            "id: {index}\nevent: change\ndata: \
                             {{\"index\":{index},\"term\":{term},\"changes\":["
                        ),
                    );
                    Step::Change(0)
                }
                Step::Change(at) => self.change(at, &mut text),
                Step::Value(at, from) => self.value(at, from, &mut text),
                Step::Done => break,
            };
        }
        (!text.is_empty()).then(|| text.into())
    }

    fn change(&self, at: usize, text: &mut Vec<u8>) -> Step {
        let Some(changed) = self.event.changes.get(at) else {
            text.extend(b"]}\n\n");
            return Step::Done;
        };
        let comma = if at == 0 { "" } else { "," };
        let key = text::percent_encode(changed.key.as_bytes());
        if changed.value.is_some() {
            write(text, format_args!("{comma}{{\"op\":\"put\",\"key\":\"{key}\",\"value\":\""));
            return Step::Value(at, 0);
        }
        write(text, format_args!("{comma}{{\"op\":\"delete\",\"key\":\"{key}\"}}"));
        Step::Change(at + 1)
    }

    fn value(&self, at: usize, from: usize, text: &mut Vec<u8>) -> Step {
        let Some(value) = &self.event.changes[at].value else { return Step::Change(at + 1) };
        let through = value.bytes.len().min(from + VALUE_BYTES);
        text.extend(text::encode_value(&value.bytes[from..through]).as_bytes());
        if through < value.bytes.len() {
            return Step::Value(at, through);
        }
        write(text, format_args!("\",\"mod_index\":{}}}", value.mod_index));
        Step::Change(at + 1)
    }
}

fn write(text: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a vector takes every write");
}
