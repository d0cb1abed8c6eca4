//! A checker that passes everything would pass every test that uses it: so it is held against
//! histories whose verdict is known, and against a slow one that tries every order there is.

use super::*;
use crate::history::{Action, Answer};
use crate::rng::Rng;

const LIMIT: Duration = Duration::from_secs(20);

/// `0-9 put 1 = 5`: from call to end, what was asked, what was answered. `0-?` never ended; `= no`
/// was refused.
fn op(line: &str) -> Op {
    let (times, rest) = line.split_once(' ').unwrap();
    let (asked, told) = rest.split_once(" = ").unwrap_or((rest, ""));
    let (call, at) = times.split_once('-').unwrap();
    let number = |word: &str| word.parse::<u64>().unwrap();
    let asked: Vec<_> = asked.split(' ').collect();
    let action = match asked[..] {
        ["get"] => Action::Get,
        ["put", value] => Action::Put { value: number(value) },
        ["cas", value, expected] => {
            Action::Cas { value: number(value), expected: number(expected) }
        }
        ["delete"] => Action::Delete,
        _ => panic!("{line}"),
    };
    let told: Vec<_> = told.split(' ').collect();
    let index = || told.get(1).map(|word| number(word));
    let answer = match (&action, told[0]) {
        (Action::Get, "absent") => Answer::Absent,
        (Action::Get, value) => Answer::Found { value: number(value), mod_index: index() },
        (_, "ok") => Answer::Done { index: index() },
        (_, "mismatch") => Answer::Mismatch { index: index() },
        (_, "missing") => Answer::Missing { index: index() },
        (_, "" | "no") => Answer::Absent,
        _ => panic!("{line}"),
    };
    let end = match (told[0], at) {
        ("no", _) => End::Refused,
        (_, "?") => End::Unknown,
        (_, at) => End::Answered { at: number(at), answer },
    };
    Op { client: 0, member: 0, key: "k".into(), action, call: number(call), end }
}

fn is_linearizable(history: &[Op]) -> bool {
    match check(history, LIMIT) {
        Verdict::Linearizable => true,
        Verdict::Violation(_) => false,
        Verdict::TimedOut { key, n_ops } => panic!("{n_ops} operations on {key} took too long"),
    }
}

/// The faults that the checker is for, one by one, each beside the history that only looks like it.
#[test]
fn known_histories_are_judged_rightly() {
    let table: &[(&str, bool, &[&str])] = &[
        ("nothing", true, &[]),
        ("absent at first", true, &["0-1 get = absent"]),
        ("read of nobody's write", false, &["0-1 get = 7"]),
        ("read after a write", true, &["0-1 put 1 = ok 5", "2-3 get = 1 5"]),
        ("lost write", false, &["0-1 put 1 = ok 5", "2-3 get = absent"]),
        ("read before an end", true, &["0-9 put 1 = ok 5", "2-3 get = 1 5"]),
        ("read before a call", false, &["0-1 get = 1", "2-3 put 1 = ok 5"]),
        ("overlap, not yet", true, &["0-9 put 1 = ok 5", "2-3 get = absent"]),
        ("stale read", false, &["0-1 put 1 = ok 5", "2-3 put 2 = ok 6", "4-5 get = 1 5"]),
        (
            "stale read while the write overlaps",
            true,
            &["0-1 put 1 = ok 5", "2-6 put 2 = ok 6", "4-5 get = 1 5"],
        ),
        (
            "two reads see an overlapping write come and go",
            false,
            &["0-1 put 1 = ok 5", "2-9 put 2 = ok 6", "3-4 get = 2 6", "5-6 get = 1 5"],
        ),
        (
            "the same, when the reads overlap",
            true,
            &["0-1 put 1 = ok 5", "2-9 put 2 = ok 6", "3-6 get = 2 6", "4-5 get = 1 5"],
        ),
        ("pending put, seen", true, &["0-? put 1", "5-6 get = 1 9", "7-8 get = 1 9"]),
        ("pending put, never seen", true, &["0-? put 1", "5-6 get = absent"]),
        (
            "pending put, seen late",
            true,
            &["0-? put 1", "2-3 put 2 = ok 6", "4-5 get = 2 6", "6-7 get = 1 9"],
        ),
        ("pending put, seen and gone", false, &["0-? put 1", "5-6 get = 1 9", "7-8 get = absent"]),
        (
            "pending put, seen twice with another between",
            false,
            &["0-? put 1", "1-2 put 2 = ok 4", "3-4 get = 1", "5-6 get = 2", "7-8 get = 1"],
        ),
        (
            "pending put that a removal found",
            true,
            &["0-? put 1", "2-3 get = absent", "4-5 delete = ok 9", "6-7 get = absent"],
        ),
        ("removal of nothing", false, &["0-1 delete = ok 9"]),
        ("removal that found nothing", false, &["0-1 put 1 = ok 5", "2-3 delete = missing 6"]),
        ("refused put", true, &["0-1 put 1 = no", "2-3 get = absent"]),
        ("read of a refused put", false, &["0-1 put 1 = no", "2-3 get = 1 5"]),
        ("read of a refused put while it ran", false, &["0-9 put 1 = no", "2-3 get = 1 5"]),
        ("cas", true, &["0-1 cas 1 0 = ok 5", "2-3 cas 2 5 = ok 6", "4-5 cas 3 5 = mismatch 7"]),
        (
            "cas twice on one state",
            false,
            &["0-1 put 1 = ok 5", "2-9 cas 2 5 = ok 6", "2-9 cas 3 5 = ok 7"],
        ),
        (
            "cas on a stale state",
            false,
            &["0-1 put 1 = ok 5", "2-3 put 2 = ok 6", "4-5 cas 3 5 = ok 7"],
        ),
        ("cas that should have been", false, &["0-1 put 1 = ok 5", "2-3 cas 2 5 = mismatch 6"]),
        (
            "cas that a pending put spoilt",
            true,
            &["0-1 put 1 = ok 5", "2-? put 2", "3-4 cas 3 5 = mismatch 7", "5-6 get = 2 6"],
        ),
        (
            "cas that a pending put spoilt, and did not",
            false,
            &["0-1 put 1 = ok 5", "2-? put 2", "3-4 cas 3 5 = mismatch 7", "5-6 get = 1 5"],
        ),
        (
            "pending cas, seen although it could not be",
            false,
            &["0-1 put 1 = ok 5", "2-3 put 2 = ok 6", "4-? cas 3 5", "5-6 get = 3 8"],
        ),
        ("pending removal, seen", true, &["0-1 put 1 = ok 5", "2-? delete", "3-4 get = absent"]),
        (
            "pending removal that made room",
            true,
            &["0-1 put 1 = ok 5", "2-? delete", "3-4 cas 2 0 = ok 8"],
        ),
        ("order against the log", false, &["0-1 put 1 = ok 6", "2-3 put 2 = ok 5"]),
        (
            "order against the log, overlapping",
            true,
            &["0-9 put 1 = ok 6", "2-3 put 2 = ok 5", "10-11 get = 1 6"],
        ),
        (
            "the later index wins",
            false,
            &["0-9 put 1 = ok 6", "2-3 put 2 = ok 5", "10-11 get = 2 5"],
        ),
        ("two indexes for one write", false, &["0-? put 1", "2-3 get = 1 5", "4-5 get = 1 6"]),
        ("another index than acknowledged", false, &["0-1 put 1 = ok 5", "2-3 get = 1 6"]),
        ("touching intervals overlap", true, &["0-5 put 1 = ok 5", "5-9 get = absent"]),
    ];
    for (name, valid, lines) in table {
        let history: Vec<_> = lines.iter().map(|line| op(line)).collect();
        assert_eq!(is_linearizable(&history), *valid, "{name}: {lines:?}");
        assert_eq!(can_be_ordered(&history), *valid, "{name}, tried one by one: {lines:?}");
    }
}

/// Keys do not know of each other, and one bad key is found among good ones.
#[test]
fn keys_are_judged_apart() {
    let on = |key: &str, line| Op { key: key.into(), ..op(line) };
    let mut history =
        vec![on("a", "0-1 put 1 = ok 5"), on("b", "2-3 get = absent"), on("a", "4-5 get = 1 5")];
    assert!(is_linearizable(&history));
    history.push(on("b", "6-7 get = 1 5"));
    match check(&history, LIMIT) {
        Verdict::Violation(violation) => assert_eq!(violation.key, "b"),
        other => panic!("{other:?}"),
    }
}

/// Whoever reads a failure must see the few operations that matter, not a thousand that do not.
#[test]
fn a_violation_shows_what_contradicts() {
    let mut history = Vec::new();
    for n in 0..100 {
        history.push(op(&format!("{}-{} put {n} = ok {}", 10 * n, 10 * n + 3, n + 1)));
        history.push(op(&format!("{}-{} get = {n} {}", 10 * n + 4, 10 * n + 6, n + 1)));
    }
    history.push(op("515-517 get = 40 41"));
    history.push(op("511-? put 1000"));
    let Verdict::Violation(violation) = check(&history, LIMIT) else { panic!("it is stale") };
    assert_eq!(violation.offending, op("515-517 get = 40 41"));
    assert_eq!(violation.n_explained, 104);
    assert_eq!(violation.window, [op("514-516 get = 51 52"), op("515-517 get = 40 41")]);
    assert_eq!(violation.writer, Some(op("400-403 put 40 = ok 41")));
    let text = violation.to_string();
    assert!(text.contains("get -> 40 at 41") && text.lines().count() < 30, "{text}");
}

/// A verdict that comes too late is none.
#[test]
fn a_search_without_time_is_no_pass() {
    // Every set of the writes can come before the read, and none explains it.
    let writes = (0..40).map(|n| op(&format!("{n}-{} put {n} = ok", 200 + n)));
    let history: Vec<_> = writes.chain([op("300-301 get = 1000")]).collect();
    assert!(matches!(check(&history, Duration::from_millis(50)), Verdict::TimedOut { .. }));
}

/// Many requests hang while nobody leads: what they may have done must not blow the search up.
#[test]
fn many_pending_operations_are_judged_in_time() {
    for (seen, valid) in [("get = 1 5", true), ("get = 2 6", false)] {
        let mut history = vec![op("0-1 put 1 = ok 5"), op("0-1 put 2 = no")];
        for n in 10..60 {
            history.push(op(&format!("{n}-? put {n}")));
            history.push(op(&format!("{n}-? delete")));
            history.push(op(&format!("{n}-? cas {} 5", 100 + n)));
        }
        (100..200).for_each(|n| history.push(op(&format!("{n}-{} {seen}", n + 5))));
        assert_eq!(is_linearizable(&history), valid, "{seen}");
    }
}

/// Tries every order, with no list, no memory and no shortcut, on a store that is a log.
fn can_be_ordered(history: &[Op]) -> bool {
    let told = |op: &&Op| op.end != End::Refused;
    let can_matter = |op: &&Op| op.action != Action::Get || op.end != End::Unknown;
    let ops: Vec<_> = history.iter().filter(told).filter(can_matter).collect();
    go_on(&ops, &mut vec![false; ops.len()], &mut Vec::new())
}

/// What a write left in the log: where, if known, and what the key held then.
type Written = (Option<u64>, Option<u64>);

fn go_on(ops: &[&Op], done: &mut [bool], log: &mut Vec<Written>) -> bool {
    let left = |number: &usize| !done[*number];
    let open: Vec<_> = (0..ops.len()).filter(left).collect();
    let Some(first_end) = open.iter().filter_map(|&n| ops[n].answered_at()).min() else {
        return true;
    };
    for number in open {
        if ops[number].call > first_end {
            continue;
        }
        let length = log.len();
        if happen(ops, ops[number], log) {
            done[number] = true;
            if go_on(ops, done, log) {
                return true;
            }
            done[number] = false;
        }
        log.truncate(length);
    }
    false
}

/// Whether this can be next, after this log.
fn happen(ops: &[&Op], op: &Op, log: &mut Vec<Written>) -> bool {
    // The key's content is that of the last change; what did not change it holds its value on.
    let value = log.last().and_then(|(_, value)| *value);
    let wrote = |value: u64| ops.iter().find(|op| op.written() == Some(value)).copied();
    let told = |op: &Op| match op.end {
        End::Answered {
            answer: Answer::Done { index } | Answer::Mismatch { index } | Answer::Missing { index },
            ..
        } => index,
        _ => None,
    };
    let seen_at = |value: u64| {
        let reads = ops.iter().filter_map(|op| op.seen());
        reads.filter(|(seen, _)| *seen == value).find_map(|(_, at)| at)
    };
    let index_of = |op: &Op| told(op).or(op.written().and_then(seen_at));
    let mod_index = value.and_then(wrote).and_then(index_of);
    let meets = |expected: u64| match value {
        None => expected == 0,
        Some(_) => expected != 0 && mod_index.is_none_or(|at| at == expected),
    };
    let is_met = |expected: u64| match value {
        None => expected == 0,
        Some(_) => mod_index == Some(expected),
    };
    let after = match (op.action, op.end) {
        (
            Action::Get,
            End::Answered { answer: Answer::Found { value: seen, mod_index: at }, .. },
        ) => {
            let right =
                value == Some(seen) && (at.is_none() || mod_index.is_none() || at == mod_index);
            return right;
        }
        (Action::Get, _) => return value.is_none(),
        (_, End::Answered { answer: Answer::Mismatch { .. }, .. }) => {
            let Action::Cas { expected, .. } = op.action else { return false };
            if is_met(expected) {
                return false;
            }
            value
        }
        (_, End::Answered { answer: Answer::Missing { .. }, .. }) => {
            if value.is_some() {
                return false;
            }
            None
        }
        (Action::Put { value }, _) => Some(value),
        (Action::Cas { value, expected }, _) => {
            if !meets(expected) {
                return false;
            }
            Some(value)
        }
        (Action::Delete, _) => {
            if value.is_none() {
                return false;
            }
            None
        }
    };
    let index = index_of(op);
    let last = log.iter().filter_map(|(index, _)| *index).max();
    log.push((index, after));
    index.is_none() || index > last
}

/// How a random history is spoilt.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    StaleRead,
    LostWrite,
    CasTwice,
    RefusedThough,
}

/// A random sequential run, each operation's interval then widened around its moment, and some of
/// them left without an answer. `None` when the run had no place for the fault.
fn random(rng: &mut Rng, n: u64, width: u64, fault: Fault) -> Option<Vec<Op>> {
    let mut history = Vec::new();
    let (mut states, mut index) = (vec![None::<(u64, u64)>], 0);
    let spoil_at = n / 3 + rng.below(n / 2 + 1);
    let mut spoilt = fault == Fault::None;
    for number in 0..n {
        let moment = 100 * (number + 1);
        let mut state = *states.last().unwrap();
        let spoils = !spoilt && number >= spoil_at;
        index += 1 + rng.below(3);
        let value = number + 1;
        let (action, answer, becomes) = match rng.below(10) {
            0..4 => {
                if spoils && fault == Fault::StaleRead {
                    let old = states[rng.below(states.len() as u64) as usize];
                    spoilt = old != state;
                    state = old;
                }
                let found = |(value, at)| Answer::Found { value, mod_index: Some(at) };
                (Action::Get, state.map_or(Answer::Absent, found), None)
            }
            4..6 => (
                Action::Put { value },
                Answer::Done { index: Some(index) },
                Some(Some((value, index))),
            ),
            6..9 => {
                let old = states[rng.below(states.len() as u64) as usize];
                let mut guess = if rng.below(3) == 0 { old } else { state };
                if spoils && fault == Fault::CasTwice {
                    guess = old;
                    spoilt = old != state;
                    state = old;
                }
                let expected = guess.map_or(0, |(_, at)| at);
                let action = Action::Cas { value, expected };
                let index = Some(index);
                match guess == state {
                    true => {
                        (action, Answer::Done { index }, Some(index.map(|index| (value, index))))
                    }
                    false => (action, Answer::Mismatch { index }, None),
                }
            }
            _ => match state {
                Some(_) => (Action::Delete, Answer::Done { index: Some(index) }, Some(None)),
                None => (Action::Delete, Answer::Missing { index: Some(index) }, None),
            },
        };
        let at = moment + rng.below(width) + 1;
        let (mut end, mut becomes) = (End::Answered { at, answer }, becomes);
        match (rng.below(8), spoils, fault, becomes) {
            (_, true, Fault::LostWrite, Some(_)) => (becomes, spoilt) = (None, true),
            (_, true, Fault::RefusedThough, Some(Some(_))) => (end, spoilt) = (End::Refused, true),
            (0, ..) => end = End::Unknown,
            (1, _, _, Some(_)) => (end, becomes) = (End::Unknown, None),
            (2, _, _, Some(_)) => (end, becomes) = (End::Refused, None),
            _ => {}
        }
        states.extend(becomes);
        let call = moment - rng.below(width.min(moment));
        history.push(Op { client: 0, member: 0, key: "k".into(), action, call, end });
    }
    spoilt.then_some(history)
}

/// Fixed, so that the counts below are facts; another one can be given.
fn rng() -> Rng {
    let name = "CHECKER_SEED";
    Rng::new(if std::env::var_os(name).is_some() { Rng::seed_from_env(name) } else { 4 })
}

/// Whatever one copy could have done is passed, however long and however concurrent.
#[test]
fn valid_histories_pass() {
    let mut rng = rng();
    for round in 0..2_000 {
        let width = [1, 150, 500, 1_500][round % 4];
        let history = random(&mut rng, 60, width, Fault::None).unwrap();
        assert!(is_linearizable(&history), "round {round}, width {width}: {history:#?}");
    }
}

/// On small histories, good and spoilt, the search agrees with trying every order. A spoilt one
/// may by chance be explained after all; most must not be.
#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut rng = rng();
    let faults =
        [Fault::None, Fault::StaleRead, Fault::LostWrite, Fault::CasTwice, Fault::RefusedThough];
    for fault in faults {
        let (mut n_judged, mut n_violations) = (0, 0);
        while n_judged < 1_500 {
            let width = 1 + rng.below(400);
            let Some(history) = random(&mut rng, 9, width, fault) else { continue };
            let valid = can_be_ordered(&history);
            assert_eq!(is_linearizable(&history), valid, "{fault:?}: {history:#?}");
            n_judged += 1;
            n_violations += usize::from(!valid);
        }
        match fault {
            Fault::None => assert_eq!(n_violations, 0),
            // A lost write, or a refused one, is seen only if somebody looks before the next.
            Fault::LostWrite | Fault::RefusedThough => {
                assert!(n_violations > 300, "{fault:?}: {n_violations}")
            }
            Fault::StaleRead | Fault::CasTwice => {
                assert!(n_violations > 600, "{fault:?}: {n_violations}")
            }
        }
    }
}
