//! Whether steps can be put into an order that explains them.
//!
//! The search of Wing and Gong (1993) as Lowe (2017) improved it. Calls and ends stand in a list
//! by time; whatever is called before the first end that is left may be next. What is put into the
//! order is lifted out of the list, and put back when it leads nowhere. A pair of (what is ordered,
//! the state that gave) that led nowhere is not looked into again.
//!
//! Three rules keep it from trying what cannot help:
//!
//! - S1 A step that must happen, can be next and changes nothing is next: moving it forward takes
//!   nothing from the others.
//! - S2 Nothing goes past what would never be possible after it: a lower index, or a find of the
//!   value that it replaces, since each value is written once.
//! - S3 A step that nobody was told of, and which so need not happen, is tried only where it makes
//!   another possible that was not. A step right after it that is possible without it either
//!   changes nothing, and may as well come before it, or makes the state what it would be without
//!   it, which may then as well not have happened.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use super::register::{Effect, State, Step};

/// At 150 bytes each this bounds the memory of one search; beyond it a search counts as one that
/// takes too long.
const MAX_TRIED: usize = 4 << 20;
/// How many tries pass between looks at the clock.
const LOOK_EVERY: usize = 4 << 10;

/// How a search ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// An order that explains everything, as numbers of steps.
    Order(Vec<usize>),
    /// There is none.
    Nothing,
    /// Nobody knows: it would take too long.
    TimedOut,
}

/// Looks for an order that explains all that ended.
pub(super) fn search(steps: &[Step], initial: State, deadline: Instant) -> Found {
    let mut list = List::new(steps);
    let mut left = Left::new(steps);
    let mut n_unended = steps.iter().filter(|step| step.end.is_some()).count();
    let mut ordered = Bits::new(steps.len());
    let mut tried = HashSet::new();
    let mut n_looks = 0;
    let mut turns = vec![Turn::new(initial, &list, steps)];
    while n_unended > 0 {
        let turn = turns.last_mut().expect("the first turn ends the search");
        n_looks += 1;
        if tried.len() > MAX_TRIED || (n_looks % LOOK_EVERY == 0 && Instant::now() > deadline) {
            return Found::TimedOut;
        }
        let Some(&number) = turn.candidates.get(turn.n_tried) else {
            turns.pop();
            let Some(turn) = turns.last_mut() else { return Found::Nothing };
            let number = turn.candidates[turn.n_tried - 1];
            list.put_back(number);
            left.put_back(&steps[number]);
            ordered.flip(number);
            n_unended += usize::from(steps[number].end.is_some());
            continue;
        };
        turn.n_tried += 1;
        let Some(state) = turn.try_one(number, steps, &left) else { continue };
        ordered.flip(number);
        if !tried.insert((ordered.clone(), state)) {
            ordered.flip(number);
            continue;
        }
        list.lift(number);
        left.lift(&steps[number]);
        n_unended -= usize::from(steps[number].end.is_some());
        turns.push(Turn::new(state, &list, steps));
    }
    let chosen = |turn: &Turn| turn.candidates[turn.n_tried - 1];
    let n_chosen = turns.len() - 1;
    Found::Order(turns[..n_chosen].iter().map(chosen).collect())
}

/// One place in the order, and what can stand there.
struct Turn {
    state: State,
    candidates: Vec<usize>,
    /// The last of them stands there while later turns are looked at.
    n_tried: usize,
}

impl Turn {
    fn new(state: State, list: &List, steps: &[Step]) -> Turn {
        let mut candidates = list.first_calls();
        let changes_nothing = |&&number: &&usize| {
            steps[number].end.is_some() && state.apply(&steps[number]) == Some(state)
        };
        if let Some(&number) = candidates.iter().find(changes_nothing) {
            return Turn { state, candidates: vec![number], n_tried: 0 };
        }
        // What must happen goes first: most of what need not happen did not.
        candidates.sort_by_key(|&number| (steps[number].end.is_none(), !steps[number].is_seen));
        Turn { state, candidates, n_tried: 0 }
    }

    /// The state after this candidate, unless it is of no use here.
    fn try_one(&self, number: usize, steps: &[Step], left: &Left) -> Option<State> {
        let step = &steps[number];
        let state = self.state.apply(step)?;
        if left.forbids(step, self.state, state) {
            return None;
        }
        let enables = |&other: &usize| {
            other != number
                && self.state.apply(&steps[other]).is_none()
                && state.apply(&steps[other]).is_some()
        };
        (step.is_seen || self.candidates.iter().any(enables)).then_some(state)
    }
}

/// What must still happen, and would be impossible later (S2).
struct Left {
    indexes: BTreeSet<u64>,
    n_finds: HashMap<u64, usize>,
}

impl Left {
    fn new(steps: &[Step]) -> Left {
        let mut left = Left { indexes: BTreeSet::new(), n_finds: HashMap::new() };
        steps.iter().for_each(|step| left.put_back(step));
        left
    }

    fn put_back(&mut self, step: &Step) {
        // What has an index and no end was found by somebody.
        self.indexes.extend(step.index);
        if let Effect::Find(value, _) = step.effect {
            *self.n_finds.entry(value).or_default() += 1;
        }
    }

    fn lift(&mut self, step: &Step) {
        if let Some(index) = step.index {
            self.indexes.remove(&index);
        }
        if let Effect::Find(value, _) = step.effect
            && let Some(n) = self.n_finds.get_mut(&value)
        {
            *n -= 1;
        }
    }

    fn forbids(&self, step: &Step, before: State, after: State) -> bool {
        let passes = step.index.is_some() && self.indexes.first() < step.index.as_ref();
        let replaced = before.value().filter(|value| after.value() != Some(*value));
        passes || replaced.is_some_and(|value| self.n_finds.get(&value).is_some_and(|n| *n > 0))
    }
}

/// Calls and ends by time, doubly linked; lifted ones keep their links for being put back.
struct List {
    next: Vec<usize>,
    previous: Vec<usize>,
    has_end: Vec<bool>,
}

/// Before the first and after the last.
const EDGE: usize = 0;

const fn call(number: usize) -> usize {
    1 + 2 * number
}

const fn end(number: usize) -> usize {
    2 + 2 * number
}

impl List {
    fn new(steps: &[Step]) -> List {
        let mut events = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            // At the same nanosecond nobody knows which came first: calls do, and so overlap.
            events.push((step.call, false, call(number)));
            events.extend(step.end.map(|at| (at, true, end(number))));
        }
        events.sort_unstable();
        let n = 2 * steps.len() + 1;
        let has_end = steps.iter().map(|step| step.end.is_some()).collect();
        let mut list = List { next: vec![EDGE; n], previous: vec![EDGE; n], has_end };
        let mut last = EDGE;
        for (_, _, node) in events {
            (list.next[last], list.previous[node]) = (node, last);
            last = node;
        }
        (list.next[last], list.previous[EDGE]) = (EDGE, last);
        list
    }

    /// What is called before anything that is left ends.
    fn first_calls(&self) -> Vec<usize> {
        let mut calls = Vec::new();
        let mut node = self.next[EDGE];
        while node != EDGE && node % 2 == 1 {
            calls.push(node / 2);
            node = self.next[node];
        }
        calls
    }

    fn lift(&mut self, number: usize) {
        self.unlink(call(number));
        if self.has_end[number] {
            self.unlink(end(number));
        }
    }

    fn put_back(&mut self, number: usize) {
        if self.has_end[number] {
            self.link(end(number));
        }
        self.link(call(number));
    }

    fn unlink(&mut self, node: usize) {
        let (previous, next) = (self.previous[node], self.next[node]);
        (self.next[previous], self.previous[next]) = (next, previous);
    }

    fn link(&mut self, node: usize) {
        let (previous, next) = (self.previous[node], self.next[node]);
        (self.next[previous], self.previous[next]) = (node, node);
    }
}

/// A set of numbers.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Box<[u64]>);

impl Bits {
    fn new(n: usize) -> Bits {
        Bits(vec![0; n.div_ceil(64)].into())
    }

    fn flip(&mut self, number: usize) {
        self.0[number / 64] ^= 1 << (number % 64);
    }
}
