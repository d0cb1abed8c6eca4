//! A checker that passes everything would pass every test that uses it: so it is held against
//! histories whose verdict is known, here one by one, in `validation` by the thousand.

use super::brute::can_be_ordered;
use super::*;
use crate::history::{Action, Answer};

const LIMIT: Duration = Duration::from_secs(20);

/// `0-9 put 1 = 5`: from call to end, what was asked, what was answered. `0-?` never ended; `= no`
/// was refused.
pub(super) fn op(line: &str) -> Op {
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
            "cas twice on one state beside a pending put",
            false,
            &["0-1 put 1 = ok 5", "2-? put 9", "2-9 cas 2 5 = ok 6", "2-9 cas 3 5 = ok 7"],
        ),
        (
            "cas on what may be the pending put's index",
            true,
            &["0-1 put 1 = ok 5", "2-? put 9", "2-9 cas 2 5 = ok 6", "2-9 cas 3 7 = ok 8"],
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

/// What contradicts is shown without the many that ran beside it, each of which could be doubted
/// without explaining anything.
#[test]
fn a_window_holds_only_what_is_needed() {
    let mut history = vec![op("0-1 put 1 = ok 5"), op("10-90 put 2 = ok 6")];
    history.push(op("20-30 get = 2 6"));
    history.push(op("40-50 get = 1 5"));
    for n in 0..30 {
        history.push(op(&format!("{}-{} get = 2 6", 11 + n, 25 + n)));
        history.push(op(&format!(
            "{}-{} cas {} 900 = mismatch {}",
            12 + n,
            60 + n,
            100 + n,
            7 + n
        )));
    }
    let Verdict::Violation(violation) = check(&history, LIMIT) else { panic!("it is stale") };
    assert_eq!(violation.window.len(), 2, "{violation}");
    assert!(is_linearizable(&history[..3]));
    let alone: Vec<_> = violation.window.iter().chain(&history[..2]).cloned().collect();
    assert!(!is_linearizable(&alone), "{violation}");
}
