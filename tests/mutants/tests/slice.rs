//! A few mutants in the fast suite, so that the hunt itself does not rust: those of the log, which
//! is built with its defects in seconds.
#![allow(clippy::unwrap_used, reason = "a test panics")]

use std::path::Path;
use std::time::Duration;

use mutants::build::Built;
use mutants::campaign::Campaign;
use mutants::catalogue::campaigns;
use mutants::hunt::{End, run};
use wal::defects::Defect;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_campaigns_of_the_log_find_its_defects() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let built = Built::of_the_log(workspace).unwrap();
    let slice =
        [Defect::RetrySync, Defect::BelieveCache, Defect::UnverifiedReads, Defect::ForeignLog];
    for defect in slice {
        let campaigns = campaigns(defect);
        let mut tests = campaigns.iter().filter(|one| matches!(one, Campaign::Test(..))).copied();
        let campaign = tests.next().unwrap();
        assert_eq!(run(&built, campaign, None, LIMIT).unwrap().end, End::Passed, "{campaign}");
        let with_defect = run(&built, campaign, Some(defect), LIMIT).unwrap();
        assert!(with_defect.is_good(), "{}: {with_defect:?}", defect.name());
    }
}

/// A test that is gone, or does nothing, must not pass for one that found a defect.
#[test]
fn what_is_no_campaign_finds_nothing() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let built = Built::of_the_log(workspace).unwrap();
    let gone = Campaign::Test("wal/tests/model.rs", "no_such_test");
    let found = run(&built, gone, Some(Defect::SkipSync), LIMIT).unwrap();
    assert!(found.end == End::Absent && !found.is_good(), "{found:?}");
    let unrelated = Campaign::Test("wal/tests/damage.rs", "foreign_segments_are_named_as_such");
    let found = run(&built, unrelated, Some(Defect::RetrySync), LIMIT).unwrap();
    assert!(found.end == End::Passed && !found.is_good(), "{found:?}");
    assert!(run(&built, Campaign::Unit("no-such-package", "x"), None, LIMIT).is_err());
}
