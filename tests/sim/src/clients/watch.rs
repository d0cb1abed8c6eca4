//! Watchers: one for each member, which reads on where it was when its member comes back.

use std::collections::BTreeMap;

use bytes::Bytes;
use raftexample::watch::{Event, Watched, Watcher};
use raftnode::sim::fingerprint;

use super::Door;
use crate::Violation;
use crate::coverage::{Coverage, Kind};
use crate::oracle::rules;

/// What is known of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// No watcher has come by.
    Nothing,
    /// One was given nothing there.
    NoEvent,
    /// One was given an event with this hash.
    Event(u64),
}

#[derive(Debug)]
struct Watching {
    process: u64,
    watcher: Option<Watcher>,
    /// Everything below it has been given.
    next_index: u64,
}

/// All watchers, and what they were given.
#[derive(Debug, Default)]
pub(super) struct Watches {
    by_member: BTreeMap<u64, Watching>,
    pub(super) events: Events,
}

/// What they were given, by index.
#[derive(Debug, Default)]
pub(super) struct Events {
    known: Vec<Known>,
}

impl Events {
    fn at(&mut self, index: u64) -> &mut Known {
        let place = usize::try_from(index).expect("an index of a simulated log");
        if self.known.len() <= place {
            self.known.resize(place + 1, Known::Nothing);
        }
        &mut self.known[place]
    }

    /// A watcher went from `next` to `until` and was given nothing between.
    pub(super) fn nothing(&mut self, member: u64, next: u64, until: u64) -> Result<(), Violation> {
        for index in next..until {
            let known = self.at(index);
            rules::WATCH_ORDER.holds(!matches!(known, Known::Event(_)), || {
                format!("a watcher of member {member} was not given the event of index {index}")
            })?;
            *known = Known::NoEvent;
        }
        Ok(())
    }

    pub(super) fn event(&mut self, member: u64, index: u64, hash: u64) -> Result<(), Violation> {
        let known = self.at(index);
        let is_same = *known == Known::Nothing || *known == Known::Event(hash);
        rules::WATCH_ORDER.holds(is_same, || {
            format!("a watcher of member {member} was given an event of index {index}; {known:?}")
        })?;
        *known = Known::Event(hash);
        Ok(())
    }
}

impl Watches {
    /// Each watcher reads what there is.
    pub(super) fn look(
        &mut self,
        doors: &[Door<'_>],
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        for door in doors {
            let (process, next_index) = (door.process, 1);
            let watching = (self.by_member.entry(door.member)).or_insert_with(|| Watching {
                process,
                watcher: None,
                next_index,
            });
            if watching.process != process {
                (watching.process, watching.watcher) = (process, None);
            }
            watching.read(door, &mut self.events, coverage)?;
        }
        Ok(())
    }

    /// Whoever came by this index was given an event.
    pub(super) fn has(&self, index: u64) -> Result<(), Violation> {
        let known = usize::try_from(index).ok().and_then(|place| self.events.known.get(place));
        rules::WATCH_ORDER.holds(known != Some(&Known::NoEvent), || {
            format!("index {index} changed a key, and watchers were given no event")
        })
    }
}

impl Watching {
    fn read(
        &mut self,
        door: &Door<'_>,
        events: &mut Events,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        if self.watcher.is_none() {
            let watch = |from| door.store.watch(Some(from), Bytes::new());
            self.watcher = match watch(self.next_index) {
                Ok(watcher) => Some(watcher),
                Err(compacted) => {
                    coverage.count(Kind::WatchGap);
                    self.next_index = compacted.first_index;
                    watch(compacted.first_index).ok()
                }
            };
        }
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        let member = door.member;
        while let Some(watched) = watcher.try_next() {
            match watched {
                Watched::Change(event) => {
                    coverage.count(Kind::WatchEvent);
                    let (index, next) = (event.index, self.next_index);
                    rules::WATCH_ORDER.holds(index >= next, || {
                        format!("a watcher of member {member} was given {index} after {next}")
                    })?;
                    events.nothing(member, next, index)?;
                    events.event(member, index, hash(&event))?;
                    self.next_index = index + 1;
                }
                Watched::Applied(_) => {}
                Watched::Closed => {
                    self.watcher = None;
                    return Ok(());
                }
            }
        }
        let next = watcher.next_index();
        events.nothing(member, self.next_index, next)?;
        self.next_index = self.next_index.max(next);
        Ok(())
    }
}

fn hash(event: &Event) -> u64 {
    let mut bytes = event.term.to_le_bytes().to_vec();
    for changed in &*event.changes {
        bytes.extend(changed.key.as_bytes());
        match &changed.value {
            Some(value) => {
                bytes.extend(value.mod_index.to_le_bytes());
                bytes.extend(&value.bytes);
            }
            None => bytes.extend(b"-"),
        }
    }
    fingerprint(&bytes)
}
