//! A member that has joined a cluster and follows its leader.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fuzz::Rng;
use raftnode::seams::{Command, Settings, Stepped, Told, snapshot_file};
use raftnode::sim::fingerprint;

use super::refused;
use crate::explore::{Life, Lived, Start};

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
    fn differs(&self, at: usize, member: &Stepped) -> Option<String> {
        let (model, cursors) = (&self.models[at], member.cursors());
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
            if member.entry(index) != Some((expected.term, fingerprint(&expected.data))) {
                return Some(format!("entry {index} is another"));
            }
        }
        let applied = model.log.iter().take(cursors.published as usize);
        (!member.state().values().eq(applied.map(|command| &command.data)))
            .then(|| format!("what is applied through {} differs", cursors.published))
    }

    fn take(
        &self,
        at: usize,
        member: &mut Stepped,
        told: &mut dyn FnMut(Told),
    ) -> Result<(), String> {
        let after = &self.models[at + 1];
        let result = match &self.steps[at] {
            Step::Append { before, commands, commit } => {
                let term = (*before as usize)
                    .checked_sub(1)
                    .map_or(0, |nth| self.models[at].log[nth].term);
                member.append(after.term, (*before, term), commands, *commit, told)
            }
            Step::Vote => member.ask_vote(after.term, told),
            Step::Install { index } => {
                let state: BTreeMap<u64, Bytes> = (1..)
                    .zip(after.log[..*index as usize].iter().map(|c| c.data.clone()))
                    .collect();
                let at = (*index, after.log[*index as usize - 1].term);
                snapshot_file(at, &state)
                    .and_then(|file| member.install(after.term, at, &file, told))
            }
            Step::Capture => member.write_captured(told).map(|_| ()),
            Step::Chore => member.do_chore(told).map(|_| ()),
            Step::Close => member.close(),
        };
        result.map_err(|error| format!("step {at}: {error}"))
    }
}

fn command(rng: &mut Rng, term: u64) -> Command {
    let length = 1 + [0, 20, 300, 900][rng.below(4) as usize];
    Command { term, data: (0..length).map(|_| rng.draw() as u8).collect() }
}

impl Life for FollowerLife {
    /// Steps that are behind it, and its identity once it has one.
    type Known = (usize, Option<u128>);

    fn unborn(&self) -> Self::Known {
        (0, None)
    }

    fn live(&self, mut start: Start<'_, Self::Known>) -> Result<Lived, String> {
        let (least, incarnation) = start.known;
        let settings =
            |n: usize| Settings { seed: self.settings.seed ^ (n as u64) << 40, ..self.settings };
        let boot = |fs: &_, n| Stepped::boot(Arc::new(Clone::clone(fs)), &settings(n));
        let mut member = match boot(start.fs, start.nth) {
            Err(error) => return refused(&error, start.garbage),
            Ok(member) => member,
        };
        if incarnation.is_some_and(|known| known != member.incarnation()) {
            return Err("it has another identity".into());
        }
        let own = Some(member.incarnation());
        member.turn(&mut |_| {}).map_err(|error| error.to_string())?;
        let most = (least + 1).min(self.steps.len());
        let found = (least..=most).rev().find(|at| self.differs(*at, &member).is_none());
        let Some(mut at) = found else {
            return Err(format!(
                "after {least} steps: {}",
                self.differs(least, &member).unwrap_or_default()
            ));
        };
        start.mark((at, own));
        let end = at.saturating_add(start.steps).min(self.steps.len());
        let end = if start.steps == usize::MAX { self.steps.len() - N_LATER } else { end };
        while at < end {
            // What leaves makes the step known, whatever is still to come of it.
            let after = &self.models[at + 1];
            let last = after.log.len() as u64;
            let mut told = |told| match told {
                Told::Acknowledged(index) if index == last => start.mark((at + 1, own)),
                Told::Voted => start.mark((at + 1, own)),
                Told::Acknowledged(_) | Told::Applied(_) => {}
            };
            self.take(at, &mut member, &mut told)?;
            if matches!(self.steps[at], Step::Close) {
                drop(member);
                let n = 100 * (start.nth + 1) + at;
                member =
                    boot(start.fs, n).map_err(|error| format!("after a clean end: {error}"))?;
                member.turn(&mut |_| {}).map_err(|error| error.to_string())?;
            }
            at += 1;
            if let Some(what) = self.differs(at, &member) {
                return Err(format!("after step {} while alive: {what}", at - 1));
            }
            start.mark((at, own));
        }
        Ok(Lived::On)
    }
}
