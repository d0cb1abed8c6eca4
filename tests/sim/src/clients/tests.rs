//! Each rule of the clients is broken here, and is the one that finds it.

use std::sync::Arc;

use raftexample::kvstore::{Answer, Key, Response, Value, Version};
use raftnode::Consistency;

use super::asking::{Asking, Ended, What};
use super::judge::{Written, linearizable};
use super::watch::Watches;
use super::{Answers, Clients, Op};
use crate::Violation;
use crate::coverage::Coverage;
use crate::oracle::Oracle;
use crate::oracle::rules::{self, Rule};
use ::tests::history::{Action, Answer as Told, End};

const PUT: What = What::Put { key: 1 };

fn asking(what: What, acknowledged: u64) -> Asking {
    Asking::new(what, 1, 0, None, 1, acknowledged)
}

fn put_at(index: u64) -> Ended {
    let answer = Answer { index, term: 2, response: Response::Put };
    Ended::Written { index, answer }
}

/// One write at this index, which was acknowledged.
fn told(index: u64) -> Answers {
    let mut answers = Answers::default();
    answers.writes(PUT, 1, 0);
    answers.take(&asking(PUT, 0), &put_at(index), None, &mut Coverage::default()).unwrap();
    answers
}

fn take(answers: &mut Answers, what: What, ended: &Ended) -> Result<(), Violation> {
    let asking = asking(what, answers.acknowledged());
    answers.take(&asking, ended, None, &mut Coverage::default())
}

fn version(applied_index: u64, keys: &[(&str, &'static str, u64)]) -> Version {
    let mut version = Version { applied_index, ..Version::default() };
    for (key, value, mod_index) in keys {
        let value = Value { bytes: (*value).into(), mod_index: *mod_index };
        version.map.insert(Key::from(key.as_bytes()), Arc::new(value));
    }
    version
}

/// A command that was proposed so often.
fn written(is_keyed: bool, ends: &[Ended]) -> Written {
    let mut written = Written::new(b"it", is_keyed);
    for ended in ends {
        written.asked();
        written.ended(ended);
    }
    written
}

fn op(action: Action, call: u64, answer: Told) -> Op {
    let end = End::Answered { at: call + 1, answer };
    Op { client: 0, member: 1, key: "k".into(), action, call, end }
}

type Break = fn() -> Result<(), Violation>;

#[rustfmt::skip]
const TABLE: &[(Rule, &str, Break)] = &[
    (rules::READS_FRESH, "a read behind what was acknowledged", || {
        take(&mut told(5), What::Get { key: 1 }, &Ended::Readable { index: 4 })
    }),
    (rules::READS_FRESH, "a stale read behind its lowest index", || {
        let mut read = asking(What::Get { key: 1 }, 5);
        (read.consistency, read.min_index) = (Consistency::Stale, 5);
        told(5).take(&read, &Ended::Readable { index: 4 }, None, &mut Coverage::default())
    }),
    (rules::READS_FRESH, "a barrier before what was acknowledged", || {
        take(&mut told(5), What::Barrier, &Ended::Passed { index: 5 })
    }),
    (rules::READS_RISE, "an older version", || {
        let mut answers = told(5);
        answers.version(1, 1, &version(6, &[("k1", "1", 5)]))?;
        answers.version(1, 2, &version(5, &[("k1", "1", 5)]))?;
        answers.version(1, 1, &version(5, &[("k1", "1", 5)]))
    }),
    (rules::READS_REAL, "a value that nobody wrote", || {
        told(5).version(1, 1, &version(6, &[("k1", "2", 5)]))
    }),
    (rules::READS_REAL, "a value of another key", || {
        told(5).version(1, 1, &version(6, &[("k2", "1", 5)]))
    }),
    (rules::READS_REAL, "a value of the future", || {
        told(5).version(1, 1, &version(4, &[("k1", "1", 5)]))
    }),
    (rules::READS_REAL, "two values of one index", || {
        let mut answers = told(5);
        answers.writes(PUT, 2, 1);
        answers.version(1, 1, &version(6, &[("k1", "1", 5)]))?;
        answers.version(2, 1, &version(6, &[("k1", "2", 5)]))
    }),
    (rules::READS_REAL, "a value that is elsewhere in the log", || {
        let mut answers = told(5);
        answers.version(1, 1, &version(6, &[("k1", "1", 5)]))?;
        answers.judge(|_| vec![6])
    }),
    (rules::ATOMIC, "half a txn", || {
        let mut answers = told(5);
        answers.writes(What::Txn, 2, 1);
        answers.version(1, 1, &version(6, &[("pair/a", "2", 6)]))
    }),
    (rules::ONCE_PER_KEY, "the answer of another command", || {
        let answer = Answer { index: 4, term: 2, response: Response::Put };
        take(&mut told(3), PUT, &Ended::Written { index: 5, answer })
    }),
    (rules::ONCE_PER_KEY, "another command's key", || {
        let answer = Answer { index: 5, term: 2, response: Response::KeyReused };
        take(&mut told(3), PUT, &Ended::Written { index: 5, answer })
    }),
    (rules::ONCE_PER_KEY, "a repetition that was not the first", || {
        written(true, &[Ended::Unknown, put_at(7)]).judge(&[5, 7], &Watches::default())
    }),
    (rules::OUTCOME_TRUE, "applied and not there", || {
        written(false, &[put_at(5)]).judge(&[], &Watches::default())
    }),
    (rules::OUTCOME_TRUE, "applied twice", || {
        written(false, &[put_at(5)]).judge(&[5, 6], &Watches::default())
    }),
    (rules::OUTCOME_TRUE, "applied elsewhere", || {
        written(false, &[put_at(5)]).judge(&[6], &Watches::default())
    }),
    (rules::OUTCOME_TRUE, "refused and there", || {
        written(false, &[Ended::Refused]).judge(&[5], &Watches::default())
    }),
    (rules::OUTCOME_TRUE, "unknown and there twice", || {
        written(false, &[Ended::Unknown]).judge(&[5, 6], &Watches::default())
    }),
    (rules::WATCH_ORDER, "an event that was left out", || {
        let mut watches = Watches::default();
        watches.events.event(1, 5, 9)?;
        watches.events.nothing(2, 4, 6)
    }),
    (rules::WATCH_ORDER, "an event that another was not given", || {
        let mut watches = Watches::default();
        watches.events.nothing(2, 4, 6)?;
        watches.events.event(1, 5, 9)
    }),
    (rules::WATCH_ORDER, "two events of one index", || {
        let mut watches = Watches::default();
        watches.events.event(1, 5, 9)?;
        watches.events.event(2, 5, 8)
    }),
    (rules::WATCH_ORDER, "a change without an event", || {
        let mut watches = Watches::default();
        watches.events.nothing(2, 4, 6)?;
        written(false, &[put_at(5)]).judge(&[5], &watches)
    }),
    (rules::LINEARIZABLE, "a lost write", || {
        linearizable(&[
            op(Action::Put { value: 1 }, 1, Told::Done { index: Some(5) }),
            op(Action::Get, 3, Told::Absent),
        ])
    }),
    (rules::ANSWERED, "nobody answers", || {
        let mut clients = Clients::new(1);
        clients.given_up.push(asking(PUT, 0));
        clients.judge(&Oracle::new())
    }),
];

/// Each rule finds what breaks it, and is the one that does.
#[test]
fn each_rule_finds_what_breaks_it() {
    for (rule, what, break_it) in TABLE {
        let violation = break_it().expect_err(what);
        assert_eq!(violation.rule, rule.name, "{what} was found as {violation}");
    }
}

/// What is allowed must not be found.
#[test]
fn what_is_allowed_is_not_found() {
    let mut answers = told(5);
    answers.writes(What::Txn, 2, 1);
    take(&mut answers, What::Get { key: 1 }, &Ended::Readable { index: 5 }).unwrap();
    take(&mut answers, What::Barrier, &Ended::Passed { index: 6 }).unwrap();
    let mut read = asking(What::Get { key: 1 }, 5);
    (read.consistency, read.min_index) = (Consistency::Stale, 3);
    answers.take(&read, &Ended::Readable { index: 3 }, None, &mut Coverage::default()).unwrap();
    let pair = [("k1", "1", 5), ("pair/a", "2", 7), ("pair/b", "2", 7)];
    answers.version(1, 1, &version(7, &pair)).unwrap();
    answers.version(1, 2, &version(5, &pair[..1])).unwrap();
    answers.judge(|written| [vec![5], vec![7, 9]][written].clone()).unwrap();
    let mut watches = Watches::default();
    for member in 1..=2 {
        watches.events.nothing(member, 1, 5).unwrap();
        watches.events.event(member, 5, 9).unwrap();
    }
    written(false, &[put_at(5)]).judge(&[5], &watches).unwrap();
    written(false, &[Ended::Unknown]).judge(&[6], &watches).unwrap();
    written(false, &[Ended::Refused]).judge(&[], &watches).unwrap();
    let again =
        Ended::Written { index: 8, answer: Answer { index: 5, term: 2, response: Response::Put } };
    written(true, &[Ended::GaveUp, again]).judge(&[5, 8], &watches).unwrap();
    linearizable(&[
        op(Action::Put { value: 1 }, 1, Told::Done { index: Some(5) }),
        op(Action::Get, 3, Told::Found { value: 1, mod_index: Some(5) }),
    ])
    .unwrap();
}
