//! Rounds with made-up clocks: an instant is where the test puts it.

use super::*;

const WINDOW: Window = Window { warm_up: Duration::from_secs(1), length: Duration::from_secs(10) };

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What HDR histograms round off is one part in a thousand.
fn assert_about(micros: u64, wanted: u64) {
    assert!(micros.abs_diff(wanted) * 500 <= wanted, "{micros} µs, not {wanted}");
}

/// The figures of a known set of latencies, all of them and by operation.
#[test]
fn percentiles_are_those_of_what_was_recorded() {
    let mut recorder = Recorder::start(WINDOW, Pace::Closed);
    let answered = recorder.opens + millis(5000);
    for n in 1..=10_000 {
        let operation = if n <= 9_000 { Operation::Get } else { Operation::Put };
        assert!(recorder.succeeded(operation, answered - Duration::from_micros(n), answered));
    }
    let round = recorder.finish().expect("all went well");
    assert!(round.reached);
    assert_eq!(round.per_second, 1000.0);
    let Latency { p50_micros, p90_micros, p99_micros, p999_micros, max_micros } = round.latency;
    let wanted = [5_000, 9_000, 9_900, 9_990, 10_000];
    for (micros, wanted) in
        [p50_micros, p90_micros, p99_micros, p999_micros, max_micros].into_iter().zip(wanted)
    {
        assert_about(micros, wanted);
    }
    assert_eq!(round.shares.len(), 2);
    let (get, put) = (round.shares[&Operation::Get], round.shares[&Operation::Put]);
    assert_eq!((get.per_second, put.per_second), (900.0, 100.0));
    assert_about(get.latency.p50_micros, 4_500);
    assert_about(get.latency.max_micros, 9_000);
    assert_about(put.latency.p50_micros, 9_500);
    assert!(round.curve.is_sorted(), "{:?}", round.curve);
    let (last, micros) = round.curve[round.curve.len() - 1];
    assert!(last > 0.999 && last < 1.0, "{last}");
    assert!(micros > 9_980);
}

/// A closed loop counts answers in the window alone.
#[test]
fn a_closed_round_counts_what_is_answered_in_the_window() {
    let mut recorder = Recorder::start(WINDOW, Pace::Closed);
    let (opens, closes) = (recorder.opens, recorder.closes);
    assert!(recorder.succeeded(Operation::Put, opens - millis(2), opens - millis(1)));
    assert!(recorder.succeeded(Operation::Put, opens - millis(2), opens));
    assert!(recorder.succeeded(Operation::Put, closes - millis(9), closes - millis(1)));
    assert!(!recorder.succeeded(Operation::Put, closes - millis(1), closes));
    let round = recorder.finish().expect("all went well");
    assert_eq!(round.per_second, 0.2);
    assert_about(round.latency.max_micros, 8_000);
}

/// A server that stalls must be charged for all who meant to ask meanwhile: a closed loop would
/// have one slow request here, and the median says nothing.
#[test]
fn an_open_round_measures_from_the_intended_start() {
    let mut recorder = Recorder::start(WINDOW, Pace::Open { rate: 100, connections: 1 });
    let (opens, closes) = (recorder.opens, recorder.closes);
    // 8 s of answers after 1 ms, then none for 2 s, then all that waited at once, after the end.
    for n in 0..1000 {
        let intended = opens + millis(10 * n);
        let answered = if n < 800 { intended + millis(1) } else { closes + millis(1) };
        recorder.succeeded(Operation::Put, intended, answered);
    }
    let round = recorder.finish().expect("all went well");
    assert!(!round.reached, "a fifth of the requests was late");
    assert_eq!(round.per_second, 80.0);
    assert_about(round.latency.p50_micros, 1_000);
    assert_about(round.latency.p90_micros, 1_000_000);
    assert_about(round.latency.max_micros, 2_001_000);
}

/// The rate is reached with what is under way at the end missing, and not with more.
#[test]
fn a_rate_is_reached_or_not() {
    let round = |n_answers: u64, connections| {
        let mut recorder = Recorder::start(WINDOW, Pace::Open { rate: 1000, connections });
        for n in 0..n_answers {
            let intended = recorder.opens + millis(n);
            recorder.succeeded(Operation::Get, intended, intended);
        }
        recorder.finish().expect("all went well").reached
    };
    assert!(round(10_000, 1));
    assert!(round(9_900, 1));
    assert!(!round(9_899, 1));
    assert!(round(9_800, 200));
    assert!(!round(9_799, 200));
}

/// A round that was given up has a rate, and has not reached what was wanted.
#[test]
fn a_round_that_was_given_up_is_not_reached() {
    let mut recorder = Recorder::start(WINDOW, Pace::Open { rate: 1000, connections: 1 });
    let starts = recorder.starts();
    for n in 0..200 {
        recorder.succeeded(Operation::Put, starts + millis(n), starts + millis(2 * n));
    }
    recorder.give_up(starts + millis(400));
    let round = recorder.finish().expect("no request failed");
    assert!(!round.reached);
    assert_eq!(round.per_second, 500.0);
}

/// B1: one failure, even before the window, and there is no figure.
#[test]
fn one_failure_fails_the_round() {
    let mut recorder = Recorder::start(WINDOW, Pace::Closed);
    let (opens, closes) = (recorder.opens, recorder.closes);
    assert!(recorder.failed(opens - millis(1), || "first".to_owned()));
    assert!(recorder.succeeded(Operation::Put, opens, opens + millis(1)));
    assert!(!recorder.failed(closes, || "second".to_owned()));
    let failure = recorder.finish().expect_err("two requests failed").to_string();
    assert_eq!(failure, "2 of 3 requests failed, first: first");
}

/// Nothing recorded is no figure either.
#[test]
fn a_round_without_answers_fails() {
    let failure = Recorder::start(WINDOW, Pace::Closed).finish().expect_err("nothing came");
    assert!(failure.to_string().contains("within 10s"), "{failure}");
}
