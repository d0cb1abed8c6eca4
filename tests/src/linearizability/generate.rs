//! Histories that one copy of the store did produce.
//!
//! Clients ask one thing after the other. Each request that takes effect does so at one moment
//! between its call and its end; the requests are run on a plain map in the order of their moments,
//! and answered by what the map held. Some are refused, and some answers never arrive, of which
//! some requests take effect, be it much later. So the history is linearizable by construction,
//! and whoever says otherwise is wrong.

use std::collections::BTreeMap;

use crate::history::{Action, Answer, End, Op};
use crate::rng::Rng;

/// How large and how confused a history is.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How many operations it has.
    pub n_ops: usize,
    /// Over how many keys.
    pub n_keys: u64,
    /// How many ask at a time.
    pub n_clients: u64,
    /// What an operation takes at most; a client pauses for up to 50 between two.
    pub width: u64,
    /// How many of a hundred never hear of their outcome.
    pub unknown_percent: u64,
    /// How many of a hundred are refused.
    pub refused_percent: u64,
    /// Whether answers say where in the log they stand.
    pub tells_indexes: bool,
}

/// What is asked, before it is known what the store holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Get,
    Put,
    /// On what the key holds, or, where false, on what it may have held.
    Cas(bool),
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Answered,
    Refused,
    UnknownDone,
    UnknownNever,
}

#[derive(Debug, Clone)]
struct Request {
    client: usize,
    key: u64,
    kind: Kind,
    fate: Fate,
    call: u64,
    end: u64,
    /// When it takes effect.
    moment: u64,
    /// Which of the indexes that the key had a wrong condition names.
    guess: u64,
    /// Where in the log it stands if it gets there.
    index: u64,
}

/// Requests and the moments of their effects: what answers they get is decided by running them.
#[derive(Debug, Clone)]
pub struct Run {
    requests: Vec<Request>,
    tells_indexes: bool,
}

/// A key's value and mod index.
type Content = Option<(u64, u64)>;

impl Run {
    /// Draws requests of this shape.
    pub fn random(rng: &mut Rng, shape: &Shape) -> Run {
        let mut clients: Vec<_> = (0..shape.n_clients).map(|_| rng.below(50)).collect();
        // A client that is left without an answer is given up, and another asks in its place.
        let mut names: Vec<_> = (0..clients.len()).collect();
        let mut n_names = clients.len();
        let span = (shape.n_ops as u64 / shape.n_clients + 1) * (shape.width + 50);
        let mut requests = Vec::new();
        for _ in 0..shape.n_ops {
            let who = rng.below(shape.n_clients) as usize;
            let call = clients[who] + 1 + rng.below(50);
            let end = call + 1 + rng.below(shape.width);
            clients[who] = end;
            let fate = match rng.below(100) {
                n if n < shape.refused_percent => Fate::Refused,
                n if n < shape.refused_percent + shape.unknown_percent => match rng.below(2) {
                    0 => Fate::UnknownDone,
                    _ => Fate::UnknownNever,
                },
                _ => Fate::Answered,
            };
            let latest = if fate == Fate::UnknownDone { call + span } else { end };
            requests.push(Request {
                client: names[who],
                key: rng.below(shape.n_keys),
                kind: match rng.below(10) {
                    0..4 => Kind::Get,
                    4..6 => Kind::Put,
                    6..9 => Kind::Cas(rng.below(3) > 0),
                    _ => Kind::Delete,
                },
                fate,
                call,
                end,
                moment: call + rng.below(latest - call + 1),
                guess: rng.draw(),
                index: 1 + rng.below(3),
            });
            if matches!(fate, Fate::UnknownDone | Fate::UnknownNever) {
                (names[who], n_names) = (n_names, n_names + 1);
            }
        }
        // What was drawn is how far apart they are.
        requests.sort_by_key(|request| request.moment);
        let mut index = 1;
        for request in &mut requests {
            index += request.index;
            request.index = index;
        }
        Run { requests, tells_indexes: shape.tells_indexes }
    }

    /// What the clients were told, in the order of their calls.
    pub fn history(&self) -> Vec<Op> {
        self.history_without(None)
    }

    /// The same of a store that answered, and forgot, the request at this place. Places are those
    /// of effects, which are those of indexes.
    pub(super) fn history_without(&self, lost: Option<usize>) -> Vec<Op> {
        let mut keys: BTreeMap<u64, Vec<Content>> = BTreeMap::new();
        let mut history = Vec::new();
        for (place, request) in self.requests.iter().enumerate() {
            let states = keys.entry(request.key).or_insert_with(|| vec![None]);
            let held = *states.last().expect("a key begins with its absence");
            // Each request has an index of its own, so its place will do for a value.
            let value = place as u64 + 1;
            let action = match request.kind {
                Kind::Get => Action::Get,
                Kind::Put => Action::Put { value },
                Kind::Delete => Action::Delete,
                Kind::Cas(is_met) => {
                    let n_states = states.len() as u64;
                    let other = states[(request.guess % n_states) as usize];
                    let on = if is_met { held } else { other };
                    Action::Cas { value, expected: on.map_or(0, |(_, index)| index) }
                }
            };
            let (answer, after) = self.run(action, held, request.index);
            let end = match request.fate {
                Fate::Answered => End::Answered { at: request.end, answer },
                Fate::Refused => End::Refused,
                Fate::UnknownDone | Fate::UnknownNever => End::Unknown,
            };
            let is_done = matches!(request.fate, Fate::Answered | Fate::UnknownDone);
            if is_done && lost != Some(place) && after != held {
                states.push(after);
            }
            history.push(Op {
                client: request.client,
                member: request.client % 3,
                key: format!("k{}", request.key),
                action,
                call: request.call,
                end,
            });
        }
        history.sort_by_key(|op| op.call);
        history
    }

    /// How many requests there are.
    pub(super) fn n_requests(&self) -> usize {
        self.requests.len()
    }

    /// The one thing that the store does at a time.
    fn run(&self, action: Action, held: Content, index: u64) -> (Answer, Content) {
        let told = self.tells_indexes.then_some(index);
        match action {
            Action::Get => {
                let found = |(value, index)| Answer::Found {
                    value,
                    mod_index: self.tells_indexes.then_some(index),
                };
                (held.map_or(Answer::Absent, found), held)
            }
            Action::Put { value } => (Answer::Done { index: told }, Some((value, index))),
            Action::Cas { value, expected } => {
                if held.map_or(0, |(_, index)| index) == expected {
                    (Answer::Done { index: told }, Some((value, index)))
                } else {
                    (Answer::Mismatch { index: told }, held)
                }
            }
            Action::Delete if held.is_none() => (Answer::Missing { index: told }, None),
            Action::Delete => (Answer::Done { index: told }, None),
        }
    }
}

/// A history of at most eight operations that may be valid or not: a valid one in which, three
/// times out of four, some answers were replaced by others that somebody could have got.
pub fn small(rng: &mut Rng) -> Vec<Op> {
    let shape = Shape {
        n_ops: 2 + rng.below(7) as usize,
        n_keys: 1 + rng.below(4) / 3,
        n_clients: 2 + rng.below(3),
        width: [20, 100, 300][rng.below(3) as usize],
        unknown_percent: [0, 20, 40][rng.below(3) as usize],
        refused_percent: 5,
        tells_indexes: rng.below(3) > 0,
    };
    let mut history = Run::random(rng, &shape).history();
    let pool: Vec<_> = history.clone();
    for _ in 0..[0, 1, 1, 2][rng.below(4) as usize] {
        let place = rng.below(history.len() as u64) as usize;
        let other = pool[rng.below(pool.len() as u64) as usize].clone();
        spoil(rng, &mut history[place], &other);
    }
    history
}

/// Replaces what this one was told, or asked on, by something of the other's.
fn spoil(rng: &mut Rng, op: &mut Op, other: &Op) {
    let index = match other.end {
        End::Answered { answer: Answer::Done { index } | Answer::Mismatch { index }, .. } => index,
        End::Answered { answer: Answer::Missing { index }, .. } => index,
        End::Answered { answer: Answer::Found { mod_index, .. }, .. } => mod_index,
        _ => None,
    };
    if let (Action::Cas { expected, .. }, Some(index), 0) = (&mut op.action, index, rng.below(3)) {
        *expected = index;
    }
    let End::Answered { answer, .. } = &mut op.end else { return };
    *answer = match (op.action, *answer) {
        (Action::Get, found) => match other.written().or(other.seen().map(|(value, _)| value)) {
            Some(value) => {
                let own = match found {
                    Answer::Found { mod_index, .. } => mod_index,
                    _ => None,
                };
                let mod_index = [index, own, None][rng.below(3) as usize];
                Answer::Found { value, mod_index }
            }
            None => Answer::Absent,
        },
        (Action::Cas { .. }, Answer::Done { index }) => Answer::Mismatch { index },
        (Action::Cas { .. }, Answer::Mismatch { index }) => Answer::Done { index },
        (Action::Delete, Answer::Done { index }) => Answer::Missing { index },
        (Action::Delete, Answer::Missing { index }) => Answer::Done { index },
        (_, Answer::Done { index: own }) => Answer::Done { index: index.or(own) },
        (_, other) => other,
    };
}
