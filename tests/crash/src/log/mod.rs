//! Lives of a log: a script of steps, and after each crash whatever of it is left.
//!
//! A log must hold what the acknowledged steps left in it, or that and the one step that was under
//! way, whole: nothing less, and nothing that was never saved. It is read entry by entry.
//!
//! It may be refused in two cases only. The disk has put something that nobody wrote into a segment,
//! behind what is synced; or it has lost a sector, or a bit of one, that a sync had covered. Disks
//! are not supposed to do either. In the second case the log may also have lost its newest batch,
//! which looks torn, and nothing else.

mod script;

use std::path::Path;
use std::sync::Arc;

use model::{Hands, Model, Step, steps};
use wal::{Error, Options, Wal};

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
        if seed.is_multiple_of(5) {
            // Small segments, of which several go at once.
            return Self::of(segment_bytes, script::releasing, n_steps.max(7), seed);
        }
        Self::of(segment_bytes, |random, model, _| steps::any(random, model), n_steps, seed)
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
            Wal::open(fs, dir, self.options, &|| false).map(|(wal, opened)| {
                opened.torn.iter().for_each(|_| start.saw("torn batch"));
                opened.sealed.iter().for_each(|_| start.saw("missing seal"));
                wal
            })
        } else {
            Wal::create(fs, dir, self.options, &mut Model::genesis().first_batch())
        };
        let mut wal = match opened {
            Ok(wal) => wal,
            Err(Error::Corrupt { .. }) if may_refuse(start.garbage) => return Ok(Lived::Refused),
            // Any sector that is missed may be that of a name's or a deletion's proof.
            Err(Error::Corrupt { .. } | Error::Foreign { .. } | Error::Missing { .. })
                if start.damaged.is_some() =>
            {
                return Ok(Lived::Refused);
            }
            Err(error) => {
                return Err(format!("with {:?} steps acknowledged: {error}", start.known));
            }
        };
        let least = start.known.unwrap_or(0);
        let most = (least + 1).min(self.steps.len());
        if start.damaged.is_some() {
            // A newest batch that has lost a sector is not told from a torn one; no other can go.
            let saves = |at: &usize| matches!(self.steps[*at], Step::Save { .. });
            let least = (0..least).rev().find(saves).unwrap_or(0);
            let released = self.models[most].released;
            let is_there = (least..=most).any(|at| {
                // What it allowed to be released is gone also when it is lost itself.
                let model = Model { released, ..self.models[at].clone() };
                model.differs(&wal).is_none()
            });
            return if is_there {
                Ok(Lived::On)
            } else {
                Err(format!("damage has cut off more than the last batch: {wal:?}"))
            };
        }
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
