//! Which campaigns must find which defect.

use wal::defects::Defect;

use crate::campaign::Campaign::{self, Test, Unit};

/// Whole clusters under every fault, judged after every step.
const CLUSTERS: Campaign = simulate(20);
/// The same for longer: what it takes for rare coincidences.
const MORE_CLUSTERS: Campaign = simulate(45);
/// Random histories of three stepped members.
const CHANCE: Campaign = raftnode("node::scripts::chance::whatever_happens_what_is_told_is_true");
/// A process that died between writing and syncing, and power that fails after its successor began.
const DEAD_PROCESS: Campaign =
    log("wal/tests/crash.rs", "what_a_dead_process_left_in_the_cache_is_not_built_upon");
/// Power failures in the lives of logs and of whole members.
const STATES: Campaign = Campaign::Crash { states: 20_000 };
/// Real processes under faults, their clients' history checked.
const TRIAL: Campaign = Test("tests/tests/defects.rs", "a_trial_is_linearizable");
/// Every message that raft must not see.
const WALL: Campaign = raftnode("vet::rows::the_wall_stops_every_row");
/// Random commands, beside a model of the store.
const MODEL: Campaign = store("kvstore::model::the_store_does_what_the_model_says");

const fn simulate(seeds: u64) -> Campaign {
    Campaign::Simulate { first_seed: 1, seeds, ticks: 3_000 }
}

/// A seed in which the one thing happens that tells.
const fn one_cluster(seed: u64) -> Campaign {
    Campaign::Simulate { first_seed: seed, seeds: 1, ticks: 3_000 }
}

const fn raftnode(test: &'static str) -> Campaign {
    Unit("raftnode", test)
}

const fn store(test: &'static str) -> Campaign {
    Unit("raftexample", test)
}

const fn log(target: &'static str, test: &'static str) -> Campaign {
    Test(target, test)
}

/// The campaigns that must find a defect, each by itself.
#[must_use]
pub fn campaigns(defect: Defect) -> Vec<Campaign> {
    use Defect::*;
    let script = |test| raftnode(test);
    match defect {
        SkipSync => vec![STATES, CLUSTERS],
        RetrySync => {
            vec![
                CLUSTERS,
                log("wal/tests/crash.rs", "a_batch_whose_sync_failed_is_not_taken_from_the_cache"),
            ]
        }
        Unlatched => vec![log("wal/tests/model.rs", "every_failed_operation_latches")],
        SkipDirSync => vec![STATES, CLUSTERS],
        SkipSealSync => vec![STATES, CLUSTERS],
        NoHeadState => vec![STATES, CLUSTERS],
        PiecemealRelease => vec![STATES],
        TruncateOnDamage => {
            vec![log(
                "wal/tests/damage.rs",
                "every_flipped_byte_is_refused_or_costs_the_last_batch_alone",
            )]
        }
        KeepTornBytes => vec![STATES],
        BelieveCache => {
            vec![CLUSTERS, log("wal/tests/crash.rs", "what_open_returns_survives_the_next_crash")]
        }
        BelieveSeal => vec![STATES, DEAD_PROCESS],
        BelieveNames => vec![STATES, DEAD_PROCESS],
        BelieveDirectory => vec![STATES],
        UnverifiedReads => {
            vec![log("wal/tests/model.rs", "an_entry_that_changed_on_disk_is_not_returned")]
        }
        ForeignLog => vec![log("wal/tests/damage.rs", "foreign_segments_are_named_as_such")],
        NoLock => vec![log("wal/tests/disk.rs", "whole_files_and_locks")],

        DropHardState => vec![CLUSTERS],
        ForgetChange => vec![script("node::scripts::changes::a_crash_forgets_no_removal")],
        IgnoreSaveError => {
            vec![CLUSTERS, script("node::scripts::writes::nothing_is_promised_before_the_sync")]
        }
        EarlySend => vec![
            STATES,
            CLUSTERS,
            script("node::scripts::writes::nothing_is_promised_before_the_sync"),
        ],
        EarlyCount => vec![
            STATES,
            MORE_CLUSTERS,
            script("node::scripts::saves::nothing_is_counted_before_its_own_sync"),
        ],
        EarlyVote => {
            vec![script("node::scripts::changes::a_lone_voter_is_silent_before_its_own_vote")]
        }
        EarlyDecision => vec![script(
            "node::scripts::changes::a_change_is_on_the_leaders_disk_before_others_hear_of_it",
        )],
        HardStateFirst => vec![STATES, CLUSTERS],
        MarkerFirst => vec![
            STATES,
            script("node::scripts::snapshots::a_crash_at_any_step_of_taking_loses_nothing"),
        ],
        NewerConfState => vec![script("node::scripts::changes::a_crash_forgets_no_removal")],

        UnsyncedSnapshot => vec![STATES, CLUSTERS],
        // Power must fail just after a member was sent a snapshot.
        UnsyncedInstall => vec![STATES, simulate(150)],
        UncheckedSnapshot => vec![script("snapshot::tests::truncated_or_flipped_file_is_refused")],
        SnapshotAhead => vec![CLUSTERS, CHANCE],
        ForgetRemoved => {
            vec![MORE_CLUSTERS, script("node::scripts::changes::a_snapshot_knows_who_was_removed")]
        }
        PatchedConfState => {
            vec![CLUSTERS, script("node::scripts::changes::a_new_member_learns_and_then_votes")]
        }
        KeepTooFew => vec![
            STATES,
            MORE_CLUSTERS,
            script("node::scripts::snapshots::the_newest_snapshot_is_never_purged"),
        ],
        KeepOrphans => {
            vec![STATES, script("directory::tests::orphans_are_removed_and_strangers_stay")]
        }
        NeverRelease => vec![script("node::scripts::snapshots::snapshots_let_go_of_the_log")],
        SendTwice => {
            vec![script(
                "node::scripts::snapshots::a_leader_that_leads_again_sends_no_second_snapshot",
            )]
        }
        NoWayBack => vec![
            CLUSTERS,
            script("node::scripts::snapshots::the_log_reaches_back_to_the_snapshot_before"),
        ],
        RepublishRestored => {
            vec![script("node::scripts::snapshots::a_restore_replaces_what_was_not_taken")]
        }

        SkipMissed => {
            vec![script("node::scripts::writes::a_slow_consumer_is_bounded_and_misses_nothing")]
        }
        UnboundedBacklog => {
            vec![script("node::scripts::writes::a_slow_consumer_is_bounded_and_misses_nothing")]
        }
        LeakRoom => vec![one_cluster(151)],
        ForgetBacklog => {
            vec![script("node::scripts::outcomes::a_backlog_is_published_to_its_end")]
        }
        StandWithConsumer => vec![CLUSTERS],
        StandWithDisk => {
            vec![script("node::scripts::saves::a_tick_waits_for_a_sync_for_a_heartbeat_at_most")]
        }
        ReorderCommits => vec![CLUSTERS, CHANCE],
        SkipEmptyChange => vec![script("node::scripts::changes::an_empty_change_does_nothing")],
        FifoAnswers => vec![CLUSTERS, CHANCE],
        AnswerByNumber => vec![CLUSTERS, CHANCE],
        RefuseTooEarly => vec![CLUSTERS, CHANCE],
        DeadlineRefuses => vec![CLUSTERS, CHANCE],
        AckAtAppend => vec![TRIAL],
        LateBarriers => vec![
            CLUSTERS,
            script("node::scripts::outcomes::a_standing_consumer_holds_no_deadline_up"),
        ],
        AppliedAhead => vec![CLUSTERS],
        ShowUnreplayed => {
            vec![CLUSTERS, script("node::scripts::snapshots::a_start_says_what_was_committed")]
        }
        OneExitCode => vec![store("run::tests::each_end_has_its_exit_code")],
        ReportEarly => vec![script("machine::tests::what_is_answered_has_been_shown")],
        AnswerEarly => vec![script("machine::tests::the_answer_waits_for_the_report")],
        ApplyTwice => {
            vec![CLUSTERS, script("machine::tests::a_proposer_is_given_the_machines_own_response")]
        }

        LocalReads => vec![CLUSTERS, CHANCE, TRIAL],
        LostMinIndex => {
            vec![CLUSTERS, script("node::scripts::reads::a_read_waits_for_the_index_that_it_names")]
        }
        LateReads => vec![
            CLUSTERS,
            script("node::scripts::outcomes::a_standing_consumer_holds_no_deadline_up"),
        ],
        // A leader must be cut off and asked before it notices.
        LeaseReads => vec![
            Campaign::Simulate { first_seed: 60, seeds: 20, ticks: 3_000 },
            script("node::scripts::reads::a_question_that_comes_twice_confirms_nothing"),
        ],
        ReusedContexts => vec![
            CLUSTERS,
            script("node::scripts::reads::a_question_that_comes_twice_confirms_nothing"),
            script("node::scripts::reads::an_answer_that_comes_twice_confirms_nothing"),
        ],
        UnappliedReads => vec![
            CLUSTERS,
            script("node::scripts::reads::a_confirmed_read_waits_for_its_own_state_machine"),
        ],
        EarlyLeaderReads => {
            vec![script("node::scripts::leading::a_new_leader_keeps_questions_until_it_can_answer")]
        }

        SelfRemoval => vec![script("membership::judge::tests::the_leader_hands_over_first")],
        NoStepDown => {
            vec![script("node::scripts::changes::a_leader_that_applies_its_own_removal_steps_down")]
        }
        EarlyChange => vec![
            script("node::scripts::changes::a_new_leader_makes_no_change_before_its_first_commit"),
            script("node::scripts::changes::a_new_leader_promotes_nobody_before_its_first_commit"),
        ],
        RepeatChange => {
            vec![script("node::scripts::changes::a_lost_answer_to_a_change_is_unknown")]
        }
        ForgetGate => vec![one_cluster(106)],
        TwoChanges => vec![script("node::scripts::changes::one_change_at_a_time")],
        BlindPromotion => {
            vec![script("node::scripts::changes::a_learner_without_the_log_stays_one")]
        }
        LearnersInQuorum => {
            vec![script("membership::judge::tests::a_quorum_of_live_voters_must_be_left")]
        }
        IdReturns => vec![script("node::scripts::changes::a_restart_knows_the_changed_book")],
        RemovedMayTalk => vec![script("transport::gate::tests::heads_are_judged")],
        WipedMayTalk => vec![script("transport::gate::tests::heads_are_judged")],
        ForeignPeer => vec![script("transport::gate::tests::heads_are_judged")],
        VolatilePins => {
            vec![script("transport::gate::tests::pins_are_durable_before_anyone_is_let_in")]
        }
        HastyFounder => {
            vec![script("node::scripts::changes::a_fresh_founder_waits_for_the_others")]
        }
        NoTombstone => vec![script("node::scripts::losses::a_member_that_lost_data_stays_away")],

        VetCommit | VetGap | VetTerm | VetAcknowledgement | VetConflict => vec![WALL],

        ForgetRepetitions => vec![MODEL],
        IgnoreCas => vec![MODEL],
        RestoredModIndex => vec![MODEL],
        ResurrectKeys => vec![store("kvstore::tests::a_restored_state_knows_what_was_repeated")],
        HalfTxn => vec![store("kvstore::tests::a_txn_that_finds_too_much_changes_nothing")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/testing.md");

    /// What the page calls held is held: each promise and each wall has a defect that breaks it.
    #[test]
    fn every_promise_can_be_broken() {
        let (_, rows) = PAGE.split_once("| what | defects |\n|---|---|\n").unwrap();
        let rows = rows.lines().take_while(|line| line.starts_with('|'));
        let mut held = Vec::new();
        for row in rows {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [what, defects] = cells[..] else { panic!("{row}") };
            for name in defects.split(", ") {
                let is_named = |defect: &&Defect| defect.name() == name.trim_matches('`');
                let defect = Defect::ALL.iter().find(is_named);
                assert!(defect.is_some_and(|defect| !campaigns(*defect).is_empty()), "{name}");
            }
            held.push(what);
        }
        let promises = (1..=8).map(|n| format!("N{n} "));
        let walls = ["the wall before raft", "identity", "the latch"].map(str::to_owned);
        for wanted in promises.chain(walls) {
            assert!(held.iter().any(|what| what.starts_with(&wanted)), "{wanted} is not there");
        }
        assert!(held.iter().filter(|what| what.starts_with("the original: ")).count() > 10);
    }
}
