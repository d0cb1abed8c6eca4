//! A page that said "passed" of what had not would be worse than none.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::campaign::{Campaign, NAMES, Sizes};
use crate::child::{self, Ended, named_seed};
use crate::facts;
use crate::report::{Report, Row};

const LONG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(1);

fn campaign(name: &str) -> Campaign {
    Campaign::new(name, Sizes::FULL).unwrap()
}

/// The commands are what the Makefile and the documentation promise.
#[test]
fn commands_name_their_sizes() {
    let commands: Vec<_> = NAMES.iter().map(|name| campaign(name).to_string()).collect();
    let expected = [
        "make checker HISTORIES=100000",
        "make mutants",
        "make fuzz SECONDS=600",
        "make crash STATES=1000000",
        "make simulate SEEDS=1000 TICKS=10000 MEMBERS=3",
        "make simulate SEEDS=10000 TICKS=10000",
        "make histories MINUTES=60",
    ];
    assert_eq!(commands, expected);
    assert!(Campaign::new("test", Sizes::FULL).is_none());
}

/// `make prove ONLY=mutants` must not become `make mutants ONLY=mutants`, nor one replayed seed or a
/// defect a campaign.
#[test]
fn campaigns_do_not_hear_what_we_were_told() {
    let command = campaign("speed").command(std::path::Path::new("."));
    let arguments: Vec<_> = command.get_args().collect();
    let expected = ["--no-print-directory", "simulate", "SEEDS=1000", "TICKS=10000", "MEMBERS=3"];
    assert_eq!(arguments, expected);
    for variable in
        ["MAKEFLAGS", "ONLY", "SEED", "SEEDS", "MEMBERS", "REPLAY", "RAFTEXAMPLE_DEFECT"]
    {
        let is_removed =
            |(name, value): (&std::ffi::OsStr, Option<_>)| name == variable && value.is_none();
        assert!(command.get_envs().any(is_removed), "{variable}");
    }
}

/// P1: to the letter, enough, nothing found, and ended with 0.
#[test]
fn closing_lines_are_judged() {
    let crash = "crash states: 1000000 distinct, 0 failures";
    let simulated =
        "simulated: 10000 seeds, 100000000 ticks, 5 operations, 612x real time, 0 violations";
    let table: &[(&str, bool, &str, &str)] = &[
        ("crash", true, crash, ""),
        ("crash", false, crash, "it ended with an error"),
        ("crash", true, "crash states: 1000007 distinct, 0 failures", ""),
        (
            "crash",
            true,
            "crash states: 999999 distinct, 0 failures",
            "999999 distinct states, 1000000 are the least",
        ),
        ("crash", true, "crash states: 1000000 distinct, 1 failures", "1 failures instead of 0"),
        ("crash", true, "crash states: 1,000,000 distinct, 0 failures", "no closing line"),
        ("crash", true, "crash states: 1000000 distinct, 0 failures.", "no closing line"),
        ("crash", true, " crash states: 1000000 distinct, 0 failures", "no closing line"),
        ("crash", true, "crash states: -1 distinct, 0 failures", "no closing line"),
        ("crash", true, "crash states:  distinct, 0 failures", "no closing line"),
        ("crash", true, "crash states: 99999999999999999999 distinct, 0 failures", "no closing"),
        ("crash", true, "make: *** No rule to make target 'crash'.  Stop.", "no closing line"),
        ("simulate", true, simulated, ""),
        ("simulate", true, &simulated.replace("612x", "612.5x"), ""),
        ("simulate", true, &simulated.replace("612x", "612.x"), "no closing line"),
        ("simulate", true, &simulated.replace("10000 seeds", "9999 seeds"), "9999 seeds instead"),
        ("simulate", true, &simulated.replace("100000000 t", "99999999 t"), "99999999 ticks"),
        ("simulate", true, &simulated.replace("5 operations", "0 operations"), "0 operations"),
        ("simulate", true, &simulated.replace("0 violations", "2 violations"), "2 violations"),
        ("checker", true, "checker: 100000 histories, 30211 invalid, 0 disagreements", ""),
        ("checker", true, "checker: 100000 histories, 30211 invalid, 3 disagreements", "3 dis"),
        ("checker", true, "checker: 5 histories, 2 invalid, 0 disagreements", "5 histories"),
        ("fuzz", true, "fuzz: 12 targets, 90000 cases, 0 findings", ""),
        ("fuzz", true, "fuzz: 12 targets, 90000 cases, 1 findings", "1 findings"),
        ("fuzz", true, "fuzz: 0 targets, 0 cases, 0 findings", "0 targets"),
        ("mutants", true, "mutants: 65 of 65 killed", ""),
        ("mutants", true, "mutants: 64 of 65 killed", "64 mutants killed instead of 65"),
        ("mutants", true, "mutants: 2 of 2 killed", "2 mutants, 30 are the least"),
        ("histories", true, "histories: 1200000 operations, 400 faults, 0 violations", ""),
        ("histories", true, "histories: 1200000 operations, 0 faults, 0 violations", "0 faults"),
        ("histories", true, "histories: 0 operations, 9 faults, 0 violations", "0 operations"),
        (
            "histories",
            true,
            "histories: 1200000 operations, 9 faults, 1 violations",
            "1 violations",
        ),
    ];
    for (name, ended_well, line, expected) in table {
        let verdict = campaign(name).judge(*ended_well, Some(line), SOON);
        match verdict {
            Ok(()) => assert_eq!(*expected, "", "{line}"),
            Err(why) => assert!(!expected.is_empty() && why.contains(expected), "{line}: {why}"),
        }
    }
    assert_eq!(campaign("crash").judge(true, None, SOON), Err("it said nothing".to_owned()));
    let unsaid = Err("it ended with an error, unsaid".to_owned());
    assert_eq!(campaign("crash").judge(false, None, SOON), unsaid);
}

/// P5: at full size a campaign must be as fast as is promised; a try need not.
#[test]
fn promises_are_kept_at_full_size() {
    let full = Sizes::FULL;
    let more = Sizes { seeds: 20_000, states: 2_000_000, ..full };
    let (minutes, seconds) = (|n: u64| Duration::from_secs(60 * n), Duration::from_secs);
    let crash = |n: u64| format!("crash states: {n} distinct, 0 failures");
    let simulated = |seeds: u64, ticks: u64, speed: &str| {
        format!(
            "simulated: {seeds} seeds, {ticks} ticks, 5 operations, {speed}x real time, 0 violations"
        )
    };
    let histories = |n: u64| format!("histories: {n} operations, 9 faults, 0 violations");
    let for_minutes = |minutes| Sizes { minutes, ..full };
    let mutants = || "mutants: 65 of 65 killed".to_owned();
    let is_slow = "499 times real time, 500 are the least";
    let table = [
        ("mutants", full, mutants(), minutes(8), ""),
        ("mutants", full, mutants(), seconds(552), "took 9m 12s, 8m are allowed"),
        ("mutants", Sizes::SMALL, mutants(), minutes(9), "took 9m, 8m are allowed"),
        ("crash", full, crash(1_000_000), minutes(30), ""),
        ("crash", full, crash(1_000_000), seconds(1801), "took 30m 1s, 30m are allowed"),
        ("crash", Sizes::SMALL, crash(5_000), minutes(31), ""),
        ("crash", more, crash(2_000_000), minutes(31), ""),
        ("simulate", full, simulated(10_000, 100_000_000, "500"), SOON, ""),
        ("simulate", full, simulated(10_000, 100_000_000, "499.9"), SOON, is_slow),
        ("simulate", more, simulated(20_000, 200_000_000, "499"), SOON, ""),
        ("simulate", Sizes::SMALL, simulated(20, 40_000, "3"), SOON, ""),
        ("speed", full, simulated(1_000, 10_000_000, "500"), SOON, ""),
        ("speed", full, simulated(1_000, 10_000_000, "499"), SOON, is_slow),
        ("speed", more, simulated(1_000, 10_000_000, "499"), SOON, is_slow),
        ("speed", Sizes::SMALL, simulated(20, 40_000, "3"), SOON, ""),
        ("histories", full, histories(1_000_000), SOON, ""),
        ("histories", full, histories(999_999), SOON, "999999 operations, 1000000 are the least"),
        ("histories", for_minutes(30), histories(500_000), SOON, ""),
        ("histories", for_minutes(30), histories(499_999), SOON, "500000 are the least"),
        ("histories", for_minutes(10), histories(166_665), SOON, "166666 are the least"),
        ("histories", for_minutes(9), histories(1), SOON, ""),
    ];
    for (name, sizes, line, took, expected) in table {
        let verdict = Campaign::new(name, sizes).unwrap().judge(true, Some(&line), took);
        match verdict {
            Ok(()) => assert_eq!(expected, "", "{line}, {took:?}"),
            Err(why) => assert!(!expected.is_empty() && why.contains(expected), "{line}: {why}"),
        }
    }
    for campaign in NAMES.map(campaign) {
        let allowed = campaign.allowed.unwrap_or_default();
        assert!(allowed < campaign.limit, "{campaign} is killed before it is late");
    }
}

fn shell(script: &str, limit: Duration) -> (Ended, Vec<String>, String) {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("logs/it.log");
    let mut heard = Vec::new();
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let ended = child::run(&mut command, limit, &log, &mut |line, _| {
        heard.extend(line.map(str::to_owned));
    });
    (ended.unwrap(), heard, fs::read_to_string(log).unwrap())
}

/// The last line is that of standard output, whatever else is said and when; the first seed counts;
/// a bar that is drawn over itself is heard line by line.
#[test]
fn a_child_is_listened_to() {
    let (ended, heard, log) = shell(
        "echo FIRST_SEED=77 >&2; echo first; printf '[#  ]\\r[## ]\\r' >&2; echo done; \
         echo SEED=8 >&2; echo >&2; echo; exec 1>&-; echo late >&2",
        LONG,
    );
    assert!(ended.is_well && !ended.is_late);
    assert_eq!((ended.closing_line.as_deref(), ended.seed), (Some("done"), Some(77)));
    for line in ["first", "done", "[#  ]", "[## ]", "late"] {
        assert!(heard.iter().any(|heard| heard == line), "{line}: {heard:?}");
        assert!(log.lines().any(|logged| logged == line), "{line}: {log}");
    }
    assert_eq!(heard, ended.tail);
}

/// A child that fails, says nothing, or is not there at all has not passed.
#[test]
fn a_child_that_fails_has_failed() {
    let (ended, ..) = shell("echo 'mutants: 65 of 65 killed'; exit 1", LONG);
    assert!(!ended.is_well);
    let verdict = campaign("mutants").judge(ended.is_well, ended.closing_line.as_deref(), SOON);
    assert_eq!(verdict, Err("it ended with an error".to_owned()));
    let (ended, ..) = shell("true", LONG);
    assert!(ended.is_well && ended.closing_line.is_none());
    let directory = tempfile::tempdir().unwrap();
    let mut nobody = Command::new(directory.path().join("nobody"));
    assert!(child::run(&mut nobody, LONG, &directory.path().join("log"), &mut |_, _| ()).is_err());
}

/// What takes too long is ended with all that it started: whoever holds the pipe open would keep
/// us for ever.
#[test]
fn a_late_child_is_ended_with_its_own() {
    let script = "sh -c 'echo begun; sleep 600; echo never' & wait; echo 'and never this'";
    let (ended, heard, _) = shell(script, Duration::from_millis(300));
    assert!(ended.is_late && !ended.is_well);
    assert!(ended.took < LONG, "{:?}", ended.took);
    assert_eq!(heard, ["begun"]);
}

/// Campaigns say it in their own ways.
#[test]
fn seeds_are_found() {
    let table = [
        ("checker: FIRST_SEED=12", Some(12)),
        ("fuzz: FIRST_SEED=13", Some(13)),
        ("LINEARIZABILITY_SEED=7 again", Some(7)),
        ("again: make crash SEED=x", None),
        ("no seed", None),
    ];
    for (line, seed) in table {
        assert_eq!(named_seed(line), seed, "{line}");
    }
}

fn row(name: &str, commit: &str, machine: &str) -> Row {
    Row {
        name: name.to_owned(),
        command: format!("make {name}"),
        closing_line: Some(format!("{name}: fine")),
        seed: Some(5),
        took: "1h 2m".to_owned(),
        failure: None,
        commit: commit.to_owned(),
        when: "2026-01-02 03:04".to_owned(),
        machine: machine.to_owned(),
    }
}

/// The page as a whole, to be looked at.
#[test]
fn a_page_is_rendered() {
    let mut report = Report::default();
    for name in NAMES {
        report.add(row(name, "abc1234", "2 cores"));
    }
    let mut failed = row("fuzz", "abc1234", "2 cores");
    (failed.closing_line, failed.seed) = (None, None);
    failed.failure = Some("it said | nothing".to_owned());
    report.add(failed);
    let expected = "\
# Proof

Written by `make prove`. What each campaign does, and what none of them can
show, is in [testing.md](testing.md).

6 of 7 campaigns passed at commit abc1234.

| campaign | command | closing line | first seed | took, with its build | verdict | commit | when (UTC), machine |
|---|---|---|---|---|---|---|---|
| checker | `make checker` | `checker: fine` | 5 | 1h 2m | passed | abc1234 | 2026-01-02 03:04, 1 |
| mutants | `make mutants` | `mutants: fine` | 5 | 1h 2m | passed | abc1234 | 2026-01-02 03:04, 1 |
| fuzz | `make fuzz` | – | – | 1h 2m | **failed: it said / nothing** | abc1234 | 2026-01-02 03:04, 1 |
| crash | `make crash` | `crash: fine` | 5 | 1h 2m | passed | abc1234 | 2026-01-02 03:04, 1 |
| speed | `make speed` | `speed: fine` | 5 | 1h 2m | passed | abc1234 | 2026-01-02 03:04, 1 |
| simulate | `make simulate` | `simulate: fine` | 5 | 1h 2m | passed | abc1234 | 2026-01-02 03:04, 1 |
| histories | `make histories` | `histories: fine` | 5 | 1h 2m | passed | abc1234 | 2026-01-02 03:04, 1 |

Machines:

1. 2 cores
";
    assert_eq!(report.to_string(), expected);
}

/// P2: what did not run is kept as it was, and never counted to another commit.
#[test]
fn rows_are_merged() {
    let mut report = Report::default();
    report.add(row("simulate", "aaa", "2 cores, rustc 1. 2"));
    report.add(row("crash", "aaa", "2 cores, rustc 1. 2"));
    assert!(
        report.to_string().contains("2 of 7 campaigns passed at commit aaa. Not run: checker,")
    );

    let mut later = Report::read(&report.to_string()).unwrap();
    assert_eq!(later, report);
    let mut again = row("crash", "bbb (dirty)", "1 core");
    again.failure = Some("7 failures instead of 0".to_owned());
    later.add(again.clone());
    let page = later.to_string();
    assert!(page.contains("1 of 7 campaigns passed, at different commits"), "{page}");
    assert!(page.contains("A dirty tree held changes"), "{page}");
    assert!(page.contains("1. 1 core\n2. 2 cores, rustc 1. 2\n"), "{page}");
    assert_eq!(Report::read(&page).unwrap(), later);
    assert!(page.contains("**failed: 7 failures instead of 0**"), "{page}");

    let mut all = Report::default();
    [again, row("simulate", "aaa", "2 cores, rustc 1. 2")].into_iter().for_each(|row| all.add(row));
    assert_eq!(all, later);
}

/// What cannot be read is not overwritten.
#[test]
fn another_page_is_refused() {
    let page = Report::default().to_string();
    assert_eq!(Report::read(&page), Ok(Report::default()));
    for other in ["", "# Proof\n", &page.replace("closing line", "last line")] {
        assert!(Report::read(other).is_err(), "{other}");
    }
    let mut report = Report::default();
    report.add(row("crash", "aaa", "2 cores"));
    let page = report.to_string();
    assert!(Report::read(&page.replace(" | aaa | ", " | ")).is_err());
    assert!(Report::read(&page.replace("1. 2 cores", "")).is_err());
}

fn git(directory: &std::path::Path, arguments: &[&str]) {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]);
    assert!(git.args(arguments).current_dir(directory).output().unwrap().status.success());
}

/// The page is written after what it proves: committing it changes nothing of that.
#[test]
fn the_page_is_no_change() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir(root.join("docs")).unwrap();
    let commit = |what: &str| {
        fs::write(root.join(what), "1").unwrap();
        git(root, &["add", "-A"]);
        git(root, &["commit", "-qm", "x"]);
        facts::commit(root, facts::PAGE).unwrap()
    };
    git(root, &["init", "-q"]);
    let first = commit("code");
    assert!(first.len() >= 7 && first.chars().all(|c| c.is_ascii_hexdigit()), "{first}");
    fs::write(root.join(facts::PAGE), "2").unwrap();
    assert_eq!(facts::commit(root, facts::PAGE).unwrap(), first);
    assert_eq!(commit(facts::PAGE), first);
    fs::write(root.join("code"), "2").unwrap();
    assert_eq!(facts::commit(root, facts::PAGE).unwrap(), format!("{first} (dirty)"));
    assert_ne!(commit("more"), first);
}

/// P3: the kind of the machine, and nothing of its places.
#[test]
fn facts_name_no_place() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let machine = facts::machine(root).unwrap();
    assert!(machine.contains(" cores") && machine.contains("rustc "), "{machine}");
    assert!(!machine.contains("/home") && !machine.contains("/tmp"), "{machine}");
    let now = facts::now();
    assert!(now.len() == 16 && now.starts_with("20"), "{now}");
    assert_eq!(facts::duration(Duration::from_millis(3_723_900)), "1h 2m 3s");
}
