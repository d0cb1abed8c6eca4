//! Where a write's time went, as its proposer is told.

use super::*;

/// A script's pause: what was noted before it and what was noted after it are told apart by it.
const PAUSE: Duration = Duration::from_millis(3);

/// Lets time pass, for the stamps are of the real clock.
fn pause() {
    let end = Instant::now() + PAUSE;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Each stage with what it took. T1: together they are no more than the whole.
fn stages(pending: Pending<Outcome>, begun: Instant) -> Vec<(Stage, Duration)> {
    let trace = pending.trace().unwrap();
    assert_eq!(trace.stages(), [], "nothing is said before the answer");
    applied(pending);
    let whole = begun.elapsed();
    let stages = trace.stages();
    let sum: Duration = stages.iter().map(|(_, took)| *took).sum();
    assert!(sum <= whole, "{stages:?} in {whole:?}");
    stages
}

fn names(stages: &[(Stage, Duration)]) -> Vec<Stage> {
    stages.iter().map(|(stage, _)| *stage).collect()
}

fn took(stages: &[(Stage, Duration)], stage: Stage) -> Duration {
    stages.iter().find(|(found, _)| *found == stage).unwrap().1
}

/// On the leader every stage is seen, in order, and time goes to the one in which it passed.
#[test]
fn a_leader_sees_every_stage_of_its_writes() {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    let leader = cluster.elect();
    let begun = Instant::now();
    let pending = cluster.trace(leader, "x");
    let proposed = Instant::now();
    pause();
    cluster.turn(leader, false).unwrap();
    pause();
    cluster.settle();
    pause();
    let least = proposed.elapsed();
    let stages = stages(pending, begun);
    use Stage::{Append, Apply, Queue, Quorum, Reply, Sync};
    assert_eq!(names(&stages), [Queue, Append, Sync, Quorum, Apply, Reply]);
    for stage in [Queue, Quorum, Reply] {
        assert!(took(&stages, stage) >= PAUSE, "{stage:?} of {stages:?}");
    }
    let sum: Duration = stages.iter().map(|(_, took)| *took).sum();
    assert!(sum >= least, "T1: {stages:?} of {least:?}");
}

/// Elsewhere the leader's part cannot be told apart.
#[test]
fn a_follower_sees_what_the_leader_does_as_one_stage() {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    cluster.elect();
    let follower = cluster.follower();
    let begun = Instant::now();
    let pending = cluster.trace(follower, "x");
    cluster.turn(follower, false).unwrap();
    pause();
    cluster.settle();
    cluster.ticks(10);
    let stages = stages(pending, begun);
    assert_eq!(names(&stages), [Stage::Queue, Stage::Forward, Stage::Apply, Stage::Reply]);
    assert!(took(&stages, Stage::Forward) >= PAUSE, "{stages:?}");
}

/// T2: what a leader saved and could not replicate was no stage of the try that was applied.
#[test]
fn another_try_begins_anew() {
    let mut cluster = Cluster::new(&[1, 2, 3], 2);
    let old = cluster.elect();
    cluster.cut.insert(old);
    let begun = Instant::now();
    let pending = cluster.trace(old, "x");
    cluster.settle();
    pause();
    assert_ne!(cluster.elect(), old);
    cluster.cut.clear();
    cluster.ticks(400);
    let stages = stages(pending, begun);
    assert_eq!(names(&stages), [Stage::Queue, Stage::Forward, Stage::Apply, Stage::Reply]);
    assert!(took(&stages, Stage::Queue) >= PAUSE, "{stages:?}");
}

/// Nothing is said of a write that was not applied, and the histograms do not count it.
#[test]
fn a_write_that_is_not_applied_has_no_stages() {
    let mut cluster = Cluster::new(&[1, 2, 3], 3);
    let old = cluster.elect();
    cluster.cut.insert(old);
    let pending = cluster.trace(old, "x");
    let trace = pending.trace().unwrap();
    cluster.ticks(600);
    assert_eq!(pending.wait(), Outcome::Unknown(Unknown::Deadline));
    assert_eq!(trace.stages(), []);
}
