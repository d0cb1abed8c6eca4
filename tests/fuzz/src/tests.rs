//! The runner finds what is there, and repeats what it found.

use std::{collections::BTreeSet, time::Duration};

use super::{Finding, Rng, Runner};

fn runner(variables: &[(&str, &str)]) -> Runner {
    let variables: Vec<_> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Runner::new("sum", |name| {
        variables.iter().find(|variable| variable.0 == name).map(|variable| variable.1.clone())
    })
}

/// Reads a length that nothing vouches for.
fn broken_parser(bytes: &[u8]) -> Option<&[u8]> {
    let (&length, rest) = bytes.split_first()?;
    Some(&rest[..usize::from(length)])
}

fn case(rng: &mut Rng) {
    let mut bytes = vec![5; 6];
    rng.mutate(&mut bytes, 5);
    broken_parser(&bytes);
}

fn finding() -> Finding {
    runner(&[]).run(case).expect_err("a length that nothing vouches for was found")
}

#[test]
fn a_planted_bug_is_found_and_its_seed_repeats_it() {
    let found = finding();
    let seed = format!("sum:{}", found.seed);
    let again = runner(&[("FUZZ_SEED", &seed)]).run(case).expect_err("the same");
    assert_eq!((again.seed, &again.message), (found.seed, &found.message));
    assert!(found.to_string().contains(&format!("FUZZ_SEED={seed} fails: range end index")));
}

#[test]
fn the_fewest_damages_are_told_and_repeat_it() {
    let found = finding();
    let damages = found.damages.expect("fewer than five suffice");
    let seed = |damages| format!("sum:{}:{damages}", found.seed);
    let again = runner(&[("FUZZ_SEED", &seed(damages))]).run(case);
    assert_eq!(again.expect_err("the same").message, found.message);
    assert!(damages > 0 && runner(&[("FUZZ_SEED", &seed(damages - 1))]).run(case).is_ok());
    assert!(found.to_string().ends_with(&format!("FUZZ_SEED={}", seed(damages))));
}

#[test]
fn one_seed_is_one_case() {
    let mut seen = Vec::new();
    let mut see = |variables: &[(&str, &str)]| {
        let mut cases = Vec::new();
        let report = runner(variables).run(|rng| cases.push(rng.bytes(100))).expect("no bug");
        seen.push(cases);
        report
    };
    assert_eq!((see(&[]).first, see(&[]).first), (1, 1));
    see(&[("FUZZ_SEED", "sum:3")]);
    assert_eq!(see(&[("FUZZ_SEED", "other:3")]).cases, 0);
    let n = seen[0].len().min(seen[1].len());
    assert!(n > 3 && seen[0][..n] == seen[1][..n]);
    assert_eq!(seen[2], [seen[0][2].clone()]);
}

#[test]
fn the_budget_is_respected() {
    assert_eq!(runner(&[]).run(|_| {}).expect("no bug").cases, 2_000);
    let slow = runner(&[]).run(|_| std::thread::sleep(Duration::from_millis(300)));
    assert!((1..=2).contains(&slow.expect("no bug").cases));
    let timed = runner(&[("FUZZ_SECONDS", "0.2")]);
    let report = timed.run(|_| {}).expect("no bug");
    assert!(report.elapsed >= Duration::from_millis(200) && report.cases > 2_000, "{report}");
    let line = report.to_string();
    assert!(line.starts_with(&format!("fuzz sum: {} cases, ", report.cases)), "{line}");
}

#[test]
fn a_long_run_begins_where_it_is_told_to() {
    let mut drawn = Vec::new();
    let told = runner(&[("FUZZ_SECONDS", "0.01"), ("FUZZ_FIRST_SEED", "77")]);
    let report = told.run(|rng| drawn.push(rng.draw())).expect("no bug");
    assert_eq!((report.first, drawn[0]), (77, Rng::new(77).draw()));
    let fresh = || runner(&[("FUZZ_SECONDS", "0")]).run(|_| {}).expect("no bug").first;
    assert_ne!(fresh(), fresh());
}

#[test]
fn variables_that_make_no_sense_are_refused() {
    for (name, value) in [
        ("FUZZ_SEED", "sum"),
        ("FUZZ_SEED", "sum:x"),
        ("FUZZ_SECONDS", "soon"),
        ("FUZZ_SECONDS", "-1"),
        ("FUZZ_FIRST_SEED", "x"),
    ] {
        let refused = std::panic::catch_unwind(|| runner(&[(name, value), ("FUZZ_SECONDS", "1")]));
        assert!(refused.is_err(), "{name}={value}");
    }
}

/// Every damage that is documented happens, to what is longer than a few sectors and to what is
/// shorter than one.
#[test]
fn damages_are_of_every_kind() {
    for length in [40, 5 * 512] {
        let before: Vec<u8> = (0..length).map(|n: usize| (n / 64 + n) as u8 | 1).collect();
        let mut lengths = BTreeSet::new();
        let (mut n_zeroed, mut n_moved) = (0, 0);
        let mut rng = Rng::new(7);
        for _ in 0..2_000 {
            let mut after = before.clone();
            rng.mutate(&mut after, 1);
            lengths.insert(after.len());
            let n_changed = before.iter().zip(&after).filter(|(old, new)| old != new).count();
            let is_zeroed = after.contains(&0) && n_changed > 1;
            n_zeroed += usize::from(is_zeroed && after.len() == length);
            n_moved += usize::from(n_changed > 8 && !is_zeroed && after.len() == length);
        }
        assert!(n_zeroed > 20 && n_moved > 20, "{length}: {n_zeroed} zeroed, {n_moved} moved");
        assert!(lengths.first() < Some(&(length / 8)) && lengths.last() > Some(&(length + 7)));
    }
}
