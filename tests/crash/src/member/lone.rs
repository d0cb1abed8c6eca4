//! A member that is a cluster of its own.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use fuzz::Rng;
use raftnode::sim::Lane;
use raftnode::{Error, Outcome};

use super::living::{Living, Settings};
use super::refused;
use crate::explore::{Life, Lived, Start};

/// Something that a member does.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Writes commands of these lengths in one batch.
    Write([u16; 3]),
    /// Wants a snapshot.
    Wish,
    /// Its writer writes what was captured.
    Capture,
    /// Its disk's thread does a chore.
    Chore,
    /// Ends as it should, and is started again.
    Close,
    /// Meets another member.
    Pin,
    /// Is removed.
    Bury,
}

/// A life of one.
pub struct LoneLife {
    settings: Settings,
    steps: Vec<Step>,
    seed: u64,
}

/// What is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Known {
    /// The steps that are behind it.
    at: usize,
    /// Whom its directory belongs to, once it has been started.
    incarnation: Option<u128>,
    /// The commands that were said to be applied.
    applied: usize,
    /// Those that could be, because they were proposed.
    proposed: usize,
    pins: u64,
    /// A tombstone is being written.
    dies: bool,
    is_buried: bool,
}

impl LoneLife {
    /// The life that a seed gives.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let settings = Settings {
            follows: false,
            // Every second of them or so: a campaign has one at every third seed.
            slow: seed / 4 % 2 == 1,
            segment_bytes: [2560, 4096, 8192][rng.below(3) as usize],
            snapshot_entries: 2 + rng.below(6),
            keep: 1 + rng.below(2),
            seed,
        };
        let n = 5 + rng.below(10);
        let steps = (0..n + 8).map(|at| match rng.below(16) {
            // Later lives find work as well.
            _ if at >= n => Step::Write([40, 0, 0]),
            // Few campaigns are so small that they have none of these.
            _ if at + 1 == n && seed.is_multiple_of(7) => Step::Bury,
            0..5 => Step::Write([0; 3].map(|_| [0, 20, 300, 900][rng.below(4) as usize])),
            5 => Step::Wish,
            6..9 => Step::Capture,
            9..13 => Step::Chore,
            13 => Step::Close,
            14 => Step::Pin,
            _ if at + 1 == n => Step::Bury,
            _ => Step::Write([30, 0, 0]),
        });
        Self { settings, steps: steps.collect(), seed }
    }

    /// A command, the same each time it is tried.
    fn command(&self, nth: usize, length: u16) -> Bytes {
        let mut rng = Rng::new(self.seed ^ (nth as u64) << 32);
        let head = (nth as u64).to_le_bytes();
        head.into_iter().chain((0..length).map(|_| rng.draw() as u8)).collect()
    }

    fn n_first(&self) -> usize {
        self.steps.len() - 8
    }

    /// What it does, for whoever looks at a failure.
    pub fn describe(&self) -> String {
        format!("{self}")
    }
}

impl fmt::Display for LoneLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.settings)?;
        (0..).zip(&self.steps).try_for_each(|(at, step): (usize, _)| writeln!(f, "{at}: {step:?}"))
    }
}

/// Which command it is, if it is one whole.
fn number(life: &LoneLife, data: &Bytes) -> Option<usize> {
    let nth = usize::try_from(u64::from_le_bytes(*data.first_chunk()?)).ok()?;
    let length = u16::try_from(data.len() - 8).ok()?;
    (life.command(nth, length) == *data).then_some(nth)
}

impl Life for LoneLife {
    type Known = Known;

    fn unborn(&self) -> Known {
        Known::default()
    }

    fn live(&self, mut start: Start<'_, Known>) -> Result<Lived, String> {
        let mut known = start.known;
        let settings = Settings { seed: self.seed ^ (start.nth as u64) << 40, ..self.settings };
        let mut living = match Living::boot(start.fs, &settings) {
            Err(Error::Removed(_)) if known.dies => return Ok(Lived::On),
            Err(error) => return refused(&error, start.garbage),
            Ok(_) if known.is_buried => return Err("a removed member runs again".into()),
            Ok(living) => living,
        };
        living.wrong_beginning()?;
        if known.incarnation.is_some_and(|known| known != living.incarnation()) {
            return Err("it has another identity".into());
        }
        let pins = living.member().pins().len() as u64;
        if pins != known.pins && pins != known.pins + 1 {
            return Err(format!("{pins} pins, {} were written", known.pins));
        }
        (known.incarnation, known.pins, known.dies) = (Some(living.incarnation()), pins, false);
        living.settle(&mut |_, _| {})?;
        self.check(&living, &known)?;
        let applied = living.state().len();
        // What was on its way and is there now is there for good; the rest is tried again.
        (known.applied, known.proposed) = (applied, applied);
        start.mark(known);
        let end = known.at.saturating_add(start.steps).min(self.steps.len());
        let end = if start.steps == usize::MAX { self.n_first() } else { end };
        while known.at < end {
            let step = self.steps[known.at];
            match step {
                Step::Write(lengths) => {
                    let more = lengths[1..].iter().filter(|length| **length > 0);
                    let lengths = lengths[..1].iter().chain(more);
                    let commands = (known.proposed..).zip(lengths);
                    let commands: Vec<_> =
                        commands.map(|(nth, length)| self.command(nth, *length)).collect();
                    known.proposed += commands.len();
                    start.mark(known);
                    self.write(&mut living, commands, &mut || {
                        known.applied += 1;
                        start.mark(known);
                    })?;
                    if known.applied != known.proposed {
                        return Err(format!(
                            "of {} only {} are applied",
                            known.proposed, known.applied
                        ));
                    }
                }
                Step::Wish => {
                    // Nobody waits for it.
                    drop(living.member().handle().node().snapshot(living.deadline()));
                }
                Step::Capture => living.write_captured(),
                Step::Chore => living.do_chore(),
                Step::Close => {
                    living.close().map_err(|error| error.to_string())?;
                    let settings =
                        Settings { seed: settings.seed ^ (known.at as u64 + 1) << 50, ..settings };
                    living = Living::boot(start.fs, &settings)
                        .map_err(|error| format!("after a clean end: {error}"))?;
                }
                Step::Pin => {
                    living.meet(2 + known.pins)?;
                    known.pins += 1;
                    start.mark(known);
                }
                Step::Bury => {
                    let peer = living.meet(2 + known.pins)?;
                    (known.pins, known.dies) = (known.pins + 1, true);
                    start.mark(known);
                    let refusal = peer.refusal_of_removed();
                    if living.member().opened(peer.hello().from(), Lane::Bulk, Err(refusal)).is_ok()
                    {
                        return Err("it hears that it was removed, and goes on".into());
                    }
                    match living.end() {
                        Err(Error::Removed(_)) => {}
                        end => return Err(format!("it was removed, and ended: {end:?}")),
                    }
                    known.is_buried = true;
                    start.mark(known);
                    return Ok(Lived::On);
                }
            }
            living.settle(&mut |_, _| {})?;
            known.at += 1;
            start.mark(known);
        }
        self.check(&living, &known)?;
        Ok(Lived::On)
    }
}

impl LoneLife {
    /// Has commands written in one batch; `hear` is told of each that is answered.
    fn write(
        &self,
        living: &mut Living,
        commands: Vec<Bytes>,
        hear: &mut dyn FnMut(),
    ) -> Result<(), String> {
        let (handle, deadline) = (living.member().handle(), living.deadline());
        let offered = commands.into_iter().map(|data| handle.propose(data, deadline));
        let offered: Result<VecDeque<_>, _> = offered.collect();
        let mut waiting = offered.map_err(|refusal| refusal.to_string())?;
        // One turn to commit them, or one to write and one to commit, after one that ends what is
        // under way; and one to spare.
        for _ in 0..4 {
            living.turn(&mut |_, _| {})?;
            while let Some(outcome) = waiting.front_mut().and_then(|first| first.try_wait()) {
                let Outcome::Applied { .. } = outcome else {
                    return Err(format!("a command's outcome is {outcome:?}"));
                };
                waiting.pop_front();
                hear();
            }
            // Whoever was answered by now was not answered because of it.
            living.sync();
        }
        Ok(())
    }

    /// The state is every command that was acknowledged, in order, and then some of those that were
    /// on their way.
    fn check(&self, living: &Living, known: &Known) -> Result<(), String> {
        let found: Option<Vec<_>> =
            living.state().values().map(|data| number(self, data)).collect();
        let Some(found) = found else { return Err("it holds what was never proposed".into()) };
        let n = found.len();
        if !found.iter().copied().eq(0..n) {
            return Err(format!("it holds commands {found:?}"));
        }
        if n < known.applied || n > known.proposed {
            return Err(format!(
                "it holds {n} commands, {} were acknowledged and {} proposed; {:?}",
                known.applied,
                known.proposed,
                living.member().cursors()
            ));
        }
        Ok(())
    }
}
