//! A member that has joined a cluster and follows its leader.

use std::collections::BTreeMap;

use bytes::Bytes;
use fuzz::Rng;
use raftnode::sim::{Peer, Promise, fingerprint};

use super::living::{Living, Settings, write_state};
use super::refused;
use crate::explore::{Life, Lived, Start};

/// An entry of the leader's log.
#[derive(Debug, Clone)]
struct Command {
    /// The term it was proposed in.
    term: u64,
    data: Bytes,
}

/// What a leader, a thread or the clock does to it.
#[derive(Debug, Clone)]
enum Step {
    /// Entries behind this index, in the leader's term, and how far is committed.
    Append { before: u64, commands: Vec<Command>, commit: u64 },
    /// The leader hands over, and its heir asks for the vote in the next term.
    Vote,
    /// A snapshot of everything up to this index, which is beyond the log.
    Install { index: u64 },
    /// Its writer writes what was captured.
    Capture,
    /// Its disk's thread does a chore.
    Chore,
    /// Ends as it should, and is started again.
    Close,
}

/// What it must hold.
#[derive(Debug, Clone)]
struct Model {
    term: u64,
    vote: u64,
    commit: u64,
    /// Everything, from index 1 on, whether it was sent as entries or in a snapshot.
    log: Vec<Command>,
    /// Whether the first snapshot has come.
    is_member: bool,
}

/// What is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Known {
    /// The steps that are behind it.
    at: usize,
    /// Whom its directory belongs to, once it has been started.
    incarnation: Option<u128>,
    /// It has met its leader.
    knows_leader: bool,
}

/// A life of one.
pub struct FollowerLife {
    settings: Settings,
    steps: Vec<Step>,
    models: Vec<Model>,
}

/// The steps for lives after crashes.
const N_LATER: usize = 8;

impl FollowerLife {
    /// The life that a seed gives.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let settings = Settings {
            follows: true,
            slow: false,
            segment_bytes: [2560, 4096, 8192][rng.below(3) as usize],
            snapshot_entries: 2 + rng.below(6),
            keep: 1 + rng.below(2),
            seed,
        };
        let mut models =
            vec![Model { term: 0, vote: 0, commit: 0, log: Vec::new(), is_member: false }];
        let mut steps = Vec::new();
        let n = 4 + rng.below(9) as usize;
        for at in 0..n + N_LATER {
            let mut model = models[at].clone();
            let last = model.log.len() as u64;
            let kind = if at == 0 {
                0
            } else if at >= n {
                15
            } else {
                rng.below(16)
            };
            let step = match kind {
                0 => {
                    // The first snapshot is whatever the leader has; later ones are ahead of the log.
                    model.term = (model.term + rng.below(2)).max(2);
                    if model.term != models[at].term {
                        model.vote = 0;
                    }
                    model.log.truncate(model.commit as usize);
                    let index = last + 1 + rng.below(4);
                    while (model.log.len() as u64) < index {
                        model.log.push(command(&mut rng, model.term));
                    }
                    (model.commit, model.is_member) = (index, true);
                    Step::Install { index }
                }
                1 => {
                    (model.term, model.vote) = (model.term + 1, 2);
                    Step::Vote
                }
                2..6 => Step::Chore,
                6..8 => Step::Capture,
                8 => Step::Close,
                _ => {
                    // A new leader overwrites what nobody committed.
                    let is_new = rng.below(4) == 0;
                    if is_new {
                        (model.term, model.vote) = (model.term + 1, 0);
                    }
                    let before = if is_new {
                        model.commit + rng.below(last - model.commit + 1)
                    } else {
                        last
                    };
                    model.log.truncate(before as usize);
                    let n = rng.below(4);
                    let commands: Vec<_> = (0..n).map(|_| command(&mut rng, model.term)).collect();
                    if !commands.is_empty() || !is_new {
                        model.log.extend(commands.iter().cloned());
                    } else {
                        // Nothing is cut by an append without entries.
                        model.log = models[at].log.clone();
                    }
                    let sent = before + commands.len() as u64;
                    model.commit += rng.below(sent.max(model.commit) - model.commit + 1);
                    Step::Append { before, commands, commit: model.commit }
                }
            };
            steps.push(step);
            models.push(model);
        }
        Self { settings, steps, models }
    }

    /// What it does, for whoever looks at a failure.
    pub fn describe(&self) -> String {
        let lines = self.steps.iter().enumerate().map(|(at, step)| match step {
            Step::Append { before, commands, commit } => {
                let lengths: Vec<_> = commands.iter().map(|c| (c.term, c.data.len())).collect();
                format!("{at}: Append after {before}, (term, bytes) {lengths:?}, commit {commit}")
            }
            other => format!("{at}: {other:?}"),
        });
        format!("{:?}\n{}", self.settings, lines.collect::<Vec<_>>().join("\n"))
    }

    /// What tells the member from the model after so many steps.
    fn differs(&self, at: usize, living: &Living) -> Option<String> {
        let (model, cursors) = (&self.models[at], living.member().cursors());
        let is_alike = cursors.term == model.term
            && cursors.vote == model.vote
            && cursors.last_index == model.log.len() as u64
            && cursors.commit <= model.commit
            && cursors.snapshot_index <= cursors.commit
            && cursors.first_index <= cursors.snapshot_index + 1;
        if !is_alike {
            return Some(format!(
                "term {}, vote {}, commit {}, last {} are expected, found {cursors:?}",
                model.term,
                model.vote,
                model.commit,
                model.log.len()
            ));
        }
        for index in cursors.first_index..=cursors.last_index {
            let expected = &model.log[index as usize - 1];
            if living.member().entry(index) != Some((expected.term, fingerprint(&expected.data))) {
                return Some(format!("entry {index} is another"));
            }
        }
        let applied = model.log.iter().take(cursors.published as usize);
        (!living.state().values().eq(applied.map(|command| &command.data)))
            .then(|| format!("what is applied through {} differs", cursors.published))
    }

    /// Takes a step, unless it is the end, and all that follows from it.
    fn take(
        &self,
        at: usize,
        living: &mut Living,
        leader: &Peer,
        hear: &mut dyn FnMut(usize, &Promise),
    ) -> Result<(), String> {
        let after = &self.models[at + 1];
        let deliver = |living: &Living, chunk: Result<Bytes, raftnode::Error>| {
            let chunk = chunk.map_err(|error| error.to_string())?;
            living.member().deliver(leader.hello(), chunk)
        };
        // Held until the snapshot is taken.
        let mut taking = None;
        match &self.steps[at] {
            Step::Append { before, commands, commit } => {
                let term = (*before as usize)
                    .checked_sub(1)
                    .map_or(0, |nth| self.models[at].log[nth].term);
                let entries = commands.iter().map(|command| (command.term, &command.data));
                deliver(living, leader.append(after.term, (*before, term), entries, *commit))?;
            }
            Step::Vote => deliver(living, leader.ask_vote(after.term, (1 << 40, after.term - 1)))?,
            Step::Install { index } => {
                let state: BTreeMap<u64, Bytes> = (1..)
                    .zip(after.log[..*index as usize].iter().map(|c| c.data.clone()))
                    .collect();
                let at = (*index, after.log[*index as usize - 1].term);
                let sent = leader.snapshot(after.term, at, |file| write_state(&state, file));
                let sent = sent.map_err(|error| error.to_string())?;
                let member = living.member();
                let mut incoming = member.receive_snapshot(leader.hello(), sent.announced())?;
                // In pieces, as they come from a network.
                sent.file.chunks(700).try_for_each(|piece| incoming.write(piece))?;
                taking = Some(incoming.finish(&sent.message)?);
            }
            Step::Capture => living.write_captured(),
            Step::Chore => living.do_chore(),
            Step::Close => {}
        }
        living.settle(hear)?;
        taking.map_or(Ok(()), |mut taking| {
            taking.try_answer().unwrap_or_else(|| Err("nobody says what became of it".into()))
        })
    }
}

fn command(rng: &mut Rng, term: u64) -> Command {
    let length = 1 + [0, 20, 300, 900][rng.below(4) as usize];
    Command { term, data: (0..length).map(|_| rng.draw() as u8).collect() }
}

impl Life for FollowerLife {
    type Known = Known;

    fn unborn(&self) -> Known {
        Known::default()
    }

    fn live(&self, mut start: Start<'_, Known>) -> Result<Lived, String> {
        let mut known = start.known;
        let settings =
            |n: usize| Settings { seed: self.settings.seed ^ (n as u64) << 40, ..self.settings };
        let mut living = match Living::boot(start.fs, &settings(start.nth)) {
            Err(error) => return refused(&error, start.garbage),
            Ok(living) => living,
        };
        living.wrong_beginning()?;
        if known.incarnation.is_some_and(|known| known != living.incarnation()) {
            return Err("it has another identity".into());
        }
        if known.knows_leader && living.member().pins().is_empty() {
            return Err("it has forgotten whom it met".into());
        }
        known.incarnation = Some(living.incarnation());
        let mut leader = living.meet_leader()?;
        living.settle(&mut |_, _| {})?;
        let least = known.at;
        let most = (least + 1).min(self.steps.len());
        let found = (least..=most).rev().find(|at| self.differs(*at, &living).is_none());
        let Some(at) = found else {
            return Err(format!(
                "after {least} steps: {}",
                self.differs(least, &living).unwrap_or_default()
            ));
        };
        (known.at, known.knows_leader) = (at, true);
        start.mark(known);
        let end = known.at.saturating_add(start.steps).min(self.steps.len());
        let end = if start.steps == usize::MAX { self.steps.len() - N_LATER } else { end };
        while known.at < end {
            // What leaves makes the step known, whatever is still to come of it.
            let at = known.at;
            known.at += 1;
            let last = self.models[known.at].log.len() as u64;
            let mut hear = |synced: usize, promise: &Promise| {
                if promise.index == Some(last) || promise.vote.is_some() {
                    start.mark_at(synced, known);
                }
            };
            self.take(at, &mut living, &leader, &mut hear)
                .map_err(|what| format!("step {at}: {what}"))?;
            if matches!(self.steps[at], Step::Close) {
                living.close().map_err(|error| format!("step {at}: {error}"))?;
                living = Living::boot(start.fs, &settings(100 * (start.nth + 1) + at))
                    .map_err(|error| format!("after a clean end: {error}"))?;
                leader = living.meet_leader()?;
                living.settle(&mut |_, _| {})?;
            }
            if let Some(what) = self.differs(known.at, &living) {
                return Err(format!("after step {at} while alive: {what}"));
            }
            start.mark(known);
        }
        Ok(Lived::On)
    }
}
