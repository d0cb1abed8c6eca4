//! Lives of a log: a script of steps, and after each crash whatever of it is left.
//!
//! A log must hold what the acknowledged steps left in it, or that and the one step that was under
//! way, whole: nothing less, and nothing that was never saved. It is read entry by entry.
//!
//! It may be refused in one case only: the disk has put something that nobody wrote into a segment,
//! behind what is synced, which disks are not supposed to do.

mod model;
mod script;

use std::path::Path;
use std::sync::Arc;

use wal::{Batch, Doomed, Error, Options, Prepared, Wal};

use self::model::Model;
use self::script::Step;
use crate::explore::{Life, Lived, Start};

const DIR: &str = "/wal";

/// A log that is written to by a script.
pub struct LogLife {
    options: Options,
    steps: Vec<Step>,
    /// Before the first step, after it, and so on.
    models: Vec<Model>,
    /// The steps of the first life; the others are for lives after crashes.
    n_first: usize,
}

impl LogLife {
    /// One of the short scripts: three steps of every kind in every order.
    pub fn short(nth: u64) -> Self {
        Self::of(2560, |random, model, at| script::short(nth, at, random, model), 3, nth)
    }

    /// How many short scripts there are.
    pub fn n_short() -> u64 {
        script::KINDS.pow(3)
    }

    /// A long life as the seed has it.
    pub fn long(seed: u64) -> Self {
        let segment_bytes = [2048, 2560, 3072, 4096, 8192][(seed % 5) as usize];
        let n_steps = 6 + (seed / 5 % 9) as usize;
        Self::of(segment_bytes, |random, model, _| script::any(random, model), n_steps, seed)
    }

    fn of(
        segment_bytes: u64,
        step: impl Fn(&mut fuzz::Rng, &Model, usize) -> Step,
        n_first: usize,
        seed: u64,
    ) -> Self {
        let options = Options { cluster: 0xc1, node: 3, segment_bytes };
        let mut random = fuzz::Rng::new(seed);
        let mut models = vec![Model::genesis()];
        let mut steps = Vec::new();
        for at in 0..n_first + 8 {
            let before = &models[at];
            let step = if at < n_first {
                step(&mut random, before, at)
            } else {
                script::append(&mut random, before)
            };
            let mut after = before.clone();
            after.apply(&step);
            models.push(after);
            steps.push(step);
        }
        Self { options, steps, models, n_first }
    }

    /// What the script does, for whoever looks at a failure.
    pub fn describe(&self) -> String {
        let lines = self.steps.iter().enumerate();
        lines.map(|(at, step)| format!("{at}: {step}")).collect::<Vec<_>>().join("\n")
    }
}

impl Life for LogLife {
    /// How many steps are acknowledged; none if not even the creation is.
    type Known = Option<usize>;

    fn unborn(&self) -> Option<usize> {
        None
    }

    fn live(&self, mut start: Start<'_, Option<usize>>) -> Result<Lived, String> {
        let fs = Arc::new(start.fs.clone());
        let dir = Path::new(DIR);
        let is_there = Wal::exists(&*fs, dir).map_err(|error| error.to_string())?;
        if !is_there && start.known.is_some() {
            return Err("an acknowledged log is gone".into());
        }
        let opened = if is_there {
            Wal::open(fs, dir, self.options, &|| false).map(|(wal, _)| wal)
        } else {
            Wal::create(fs, dir, self.options, &mut Model::genesis().first_batch())
        };
        let mut wal = match opened {
            Ok(wal) => wal,
            Err(Error::Corrupt { .. }) if may_refuse(start.garbage) => return Ok(Lived::Refused),
            Err(error) => {
                return Err(format!("with {:?} steps acknowledged: {error}", start.known));
            }
        };
        let least = start.known.unwrap_or(0);
        let most = (least + 1).min(self.steps.len());
        // A step that was under way counts from its beginning, which is after its predecessors.
        let found = (least..=most).rev().find(|at| self.models[*at].differs(&wal).is_none());
        let Some(mut at) = found else {
            return Err(format!(
                "after {least} steps {}; found {wal:?}",
                self.models[least].differs(&wal).unwrap_or_default()
            ));
        };
        start.mark(Some(at));
        let end = at.saturating_add(start.steps).min(self.steps.len());
        let end = if start.steps == usize::MAX { self.n_first } else { end };
        let mut hands = Hands::default();
        while at < end {
            hands.take(&mut wal, &self.steps[at]).map_err(|error| format!("step {at}: {error}"))?;
            at += 1;
            start.mark(Some(at));
        }
        match self.models[at].differs(&wal) {
            None => Ok(Lived::On),
            Some(what) => Err(format!("while alive: {what}")),
        }
    }
}

/// Whether the disk did to a segment what disks are not supposed to do.
pub(crate) fn may_refuse(garbage: &[String]) -> bool {
    garbage.iter().any(|name| name.ends_with(".wal"))
}

/// What the log has handed out. A crash empties them.
#[derive(Default)]
struct Hands {
    doomed: Option<Doomed>,
    prepared: Option<Prepared>,
}

impl Hands {
    fn take(&mut self, wal: &mut Wal, step: &Step) -> Result<(), Error> {
        match step {
            Step::Save { marker, entries, hard_state } => {
                let mut batch = Batch::new();
                for entry in entries {
                    let parts = entry.payload.split_at(entry.payload.len() / 2);
                    let parts = [parts.0, parts.1];
                    batch.push_entry(entry.index, entry.term, entry.is_conf_change, &parts);
                }
                marker.iter().for_each(|marker| batch.set_marker(*marker));
                hard_state.iter().for_each(|state| batch.set_hard_state(*state));
                wal.save(&mut batch)?;
            }
            Step::Release(through) => {
                wal.release(*through)?.map(Doomed::delete).transpose()?;
            }
            Step::Forget(through) => self.doomed = wal.release(*through)?,
            Step::Delete => {
                self.doomed.take().map(Doomed::delete).transpose()?;
            }
            Step::Prepare => {
                if let Some(preparation) = wal.wants_segment() {
                    self.prepared = Some(preparation.run()?);
                }
            }
            Step::Supply => self.prepared.take().into_iter().for_each(|file| wal.supply(file)),
        }
        Ok(())
    }
}
