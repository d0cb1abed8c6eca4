//! A member that is a cluster of its own.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use fuzz::Rng;
use raftnode::Error;
use raftnode::seams::{Settings, Stepped, Told};

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
            segment_bytes: [2560, 4096, 8192][rng.below(3) as usize],
            snapshot_entries: 2 + rng.below(6),
            keep: 1 + rng.below(2),
            seed,
        };
        let n = 5 + rng.below(10);
        let steps = (0..n + 8).map(|at| match rng.below(16) {
            // Later lives find work as well.
            _ if at >= n => Step::Write([40, 0, 0]),
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
        let boot = || Stepped::boot(Arc::new(start.fs.clone()), &settings);
        let mut member = match boot() {
            Err(Error::Removed(_)) if known.dies => return Ok(Lived::On),
            Err(error) => return refused(&error, start.garbage),
            Ok(_) if known.is_buried => return Err("a removed member runs again".into()),
            Ok(member) => member,
        };
        if known.incarnation.is_some_and(|known| known != member.incarnation()) {
            return Err("it has another identity".into());
        }
        let pins = member.n_pins();
        if pins != known.pins && pins != known.pins + 1 {
            return Err(format!("{pins} pins, {} were written", known.pins));
        }
        (known.incarnation, known.pins, known.dies) = (Some(member.incarnation()), pins, false);
        let mut applied = 0;
        member.turn(&mut |told| note(told, &mut applied)).map_err(|error| error.to_string())?;
        self.check(&member, &known)?;
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
                    let mut told = |told| {
                        note(told, &mut known.applied);
                        start.mark(known);
                    };
                    member.write(&commands, &mut told).map_err(|error| error.to_string())?;
                    if known.applied != known.proposed {
                        return Err(format!(
                            "of {} only {} are applied",
                            known.proposed, known.applied
                        ));
                    }
                }
                Step::Wish => {
                    member.wish_snapshot(&mut |_| {}).map_err(|error| error.to_string())?
                }
                Step::Capture => {
                    member.write_captured(&mut |_| {}).map_err(|error| error.to_string())?;
                }
                Step::Chore => {
                    member.do_chore(&mut |_| {}).map_err(|error| error.to_string())?;
                }
                Step::Close => {
                    member.close().map_err(|error| error.to_string())?;
                    drop(member);
                    let settings =
                        Settings { seed: settings.seed ^ (known.at as u64 + 1) << 50, ..settings };
                    member = Stepped::boot(Arc::new(start.fs.clone()), &settings)
                        .map_err(|error| format!("after a clean end: {error}"))?;
                    member.turn(&mut |_| {}).map_err(|error| error.to_string())?;
                }
                Step::Pin => {
                    member.pin(known.pins + 1).map_err(|error| error.to_string())?;
                    known.pins += 1;
                }
                Step::Bury => {
                    known.dies = true;
                    start.mark(known);
                    member.bury().map_err(|error| error.to_string())?;
                    known.is_buried = true;
                    start.mark(known);
                    return Ok(Lived::On);
                }
            }
            known.at += 1;
            start.mark(known);
        }
        self.check(&member, &known)?;
        Ok(Lived::On)
    }
}

fn note(told: Told, applied: &mut usize) {
    if let Told::Applied(n) = told {
        *applied = n;
    }
}

impl LoneLife {
    /// The state is every command that was acknowledged, in order, and then some of those that were
    /// on their way.
    fn check(&self, member: &Stepped, known: &Known) -> Result<(), String> {
        let found: Option<Vec<_>> =
            member.state().values().map(|data| number(self, data)).collect();
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
                member.cursors()
            ));
        }
        Ok(())
    }
}
