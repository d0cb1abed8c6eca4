//! What is asked for: one operation, or several by weight.

use std::fmt;
use std::str::FromStr;

use rand::SeedableRng;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

use super::round::Failure;

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    /// A committed write.
    Put,
    /// A read that sees every write acknowledged before it.
    Get,
    /// A read of whatever the member has.
    Stale,
    /// A write on condition that nobody else wrote since.
    Cas,
}

/// How often each operation is drawn, in proportion to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mix {
    weights: [u32; Operation::ALL.len()],
}

/// The operations of one connection in turn, the same at each run.
#[derive(Debug)]
pub(crate) struct Draws {
    rng: Xoshiro256PlusPlus,
    weights: WeightedIndex<u32>,
    /// The one operation, when there is nothing to draw.
    only: Option<Operation>,
}

impl Operation {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Operation; 4] =
        [Operation::Put, Operation::Get, Operation::Stale, Operation::Cas];

    /// What it is called in a mix and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Stale => "stale",
            Operation::Cas => "cas",
        }
    }

    /// Whether it goes through the log.
    pub(crate) fn is_write(self) -> bool {
        matches!(self, Operation::Put | Operation::Cas)
    }
}

impl Mix {
    /// Nothing but this.
    pub(crate) fn only(operation: Operation) -> Mix {
        let mut weights = [0; Operation::ALL.len()];
        weights[operation as usize] = 1;
        Mix { weights }
    }

    /// Whether this operation is ever drawn.
    pub(crate) fn has(&self, operation: Operation) -> bool {
        self.weights[operation as usize] > 0
    }

    /// Whether anything reads what must have been written before.
    pub(crate) fn reads(&self) -> bool {
        self.has(Operation::Get) || self.has(Operation::Stale)
    }

    /// The operations that are drawn at all.
    pub(crate) fn operations(&self) -> impl Iterator<Item = Operation> + Clone {
        let mix = *self;
        Operation::ALL.into_iter().filter(move |operation| mix.has(*operation))
    }

    /// One connection's draws.
    pub(crate) fn draws(&self, connection: u16) -> Draws {
        let mut drawn = self.operations();
        let only = drawn.next().filter(|_| drawn.next().is_none());
        Draws {
            rng: Xoshiro256PlusPlus::seed_from_u64(u64::from(connection)),
            weights: WeightedIndex::new(self.weights)
                .expect("a mix has a weight, and their sum fits"),
            only,
        }
    }
}

impl Draws {
    /// The next operation.
    pub(crate) fn draw(&mut self) -> Operation {
        self.only.unwrap_or_else(|| Operation::ALL[self.weights.sample(&mut self.rng)])
    }
}

impl FromStr for Mix {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Mix, Failure> {
        let mut weights = [None; Operation::ALL.len()];
        for part in text.split(',') {
            let (name, weight) = part
                .split_once('=')
                .ok_or_else(|| Failure::new(format!("{part:?} is not <operation>=<weight>")))?;
            let operation = Operation::ALL
                .into_iter()
                .find(|operation| operation.name() == name)
                .ok_or_else(|| {
                Failure::new(format!("there is no operation {name:?}: put, get, stale and cas"))
            })?;
            // So that no sum overflows.
            let weight = weight.parse::<u16>().map_err(|_| {
                Failure::new(format!("the weight of {name} is {weight:?}, not 0 to 65535"))
            })?;
            if weights[operation as usize].replace(weight.into()).is_some() {
                return Err(Failure::new(format!("{name} is given twice")));
            }
        }
        let weights = weights.map(Option::unwrap_or_default);
        if weights == [0; Operation::ALL.len()] {
            return Err(Failure::new("every weight is 0"));
        }
        Ok(Mix { weights })
    }
}

/// As it can be given again.
impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, operation) in self.operations().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{}={}", operation.name(), self.weights[operation as usize])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is measured must be what was asked for.
    #[test]
    fn draws_are_in_proportion() {
        let mix: Mix = "put=10,get=80,stale=0,cas=10".parse().expect("a mix");
        let mut drawn = [0_u32; 4];
        for connection in 0..8 {
            let mut draws = mix.draws(connection);
            (0..10_000).for_each(|_| drawn[draws.draw() as usize] += 1);
        }
        assert_eq!(drawn[Operation::Stale as usize], 0);
        for (operation, percent) in
            [(Operation::Put, 10), (Operation::Get, 80), (Operation::Cas, 10)]
        {
            let share = drawn[operation as usize].abs_diff(800 * percent);
            assert!(share < 800, "{operation:?}: {drawn:?}");
        }
    }

    /// Two runs ask for the same, two connections of one run do not.
    #[test]
    fn draws_repeat_by_connection() {
        let mix: Mix = "put=1,get=1".parse().expect("a mix");
        let draw = |connection| {
            let mut draws = mix.draws(connection);
            (0..64).map(|_| draws.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    /// A typo must not pass for another load.
    #[test]
    fn a_bad_mix_is_named() {
        for (text, named) in [
            ("put", "\"put\" is not"),
            ("", "\"\" is not"),
            ("post=1", "no operation \"post\""),
            ("put=x", "weight of put is \"x\""),
            ("put=-1", "weight of put"),
            ("put=65536", "weight of put"),
            ("put=1,put=1", "put is given twice"),
            ("put=0,get=0", "every weight is 0"),
        ] {
            let refused = text.parse::<Mix>().map(|mix| mix.to_string());
            let refused = refused.expect_err(text).to_string();
            assert!(refused.contains(named), "{text}: {refused}");
        }
    }

    /// It is shown in a result, from where it is given again.
    #[test]
    fn a_mix_is_shown_as_it_is_given() {
        for text in ["put=1", "get=1", "put=10,get=90", "put=1,get=2,stale=3,cas=4"] {
            assert_eq!(text.parse::<Mix>().expect("a mix").to_string(), text);
        }
        assert_eq!(Mix::only(Operation::Get).to_string(), "get=1");
    }
}
