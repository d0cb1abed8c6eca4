//! No acknowledged write is lost, whoever is killed when.
//!
//! Twelve writers put values under keys of their own on random members while members are killed, every
//! other time the leader, and started again.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tests::cluster::Cluster;
use tests::load::{Load, Outcome, assert_kept, count};
use tests::rng::Rng;

const SEED: &str = "CHAOS_SEED";
const N_MEMBERS: usize = 3;
const N_WRITERS: u64 = 12;
const LENGTH: Duration = Duration::from_secs(20);
/// From one kill to the next: 16 of them, with room for an election after every second one.
const KILL_EVERY: Duration = Duration::from_millis(1_250);
/// A killed member stays down this long at least, and up to twice as long.
const DOWN: Duration = Duration::from_millis(250);

const MIN_ACKNOWLEDGED: usize = 1_000;
const MIN_KILLS: usize = 12;
const MIN_LEADER_KILLS: usize = 3;

/// The promise everything else is built for.
#[test]
fn no_acknowledged_write_is_lost_while_members_are_killed() {
    let seed = Rng::seed_from_env(SEED);
    say(&format!("{SEED}={seed}"));
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::start(N_MEMBERS);

    let addresses: Vec<_> = (0..N_MEMBERS).map(|member| cluster.address(member)).collect();
    let load = Load::start(N_WRITERS, addresses.clone(), &mut rng);
    let (n_kills, n_leader_kills) = kill_in_turn(&mut cluster, &mut rng);
    let writes = load.stop();
    let n_acknowledged = count(&writes, Outcome::Acknowledged);
    say(&format!(
        "{n_acknowledged} acknowledged, {} refused, {} unknown; {n_kills} kills, {n_leader_kills} of a leader",
        count(&writes, Outcome::Refused),
        count(&writes, Outcome::Unknown),
    ));

    cluster.kill_all();
    cluster.restart_all();
    assert_kept(&addresses, &writes);

    // A test that could not write or kill has proved nothing.
    assert!(n_acknowledged >= MIN_ACKNOWLEDGED, "only {n_acknowledged} writes acknowledged");
    assert!(n_kills >= MIN_KILLS, "only {n_kills} kills");
    assert!(n_leader_kills >= MIN_LEADER_KILLS, "only {n_leader_kills} kills of a leader");
}

/// Past the test harness's capture: the seed of a run that is killed must be in the output.
fn say(line: &str) {
    writeln!(std::io::stderr(), "chaos: {line}").expect("standard error is open in a test");
}

/// Kills and restarts for the whole length; the number of kills, and of those that hit a leader.
fn kill_in_turn(cluster: &mut Cluster, rng: &mut Rng) -> (usize, usize) {
    // Nobody sends: waiting for a message is how this thread keeps to its schedule.
    let (_never, pause) = channel::<()>();
    let wait_until = |moment: Instant| {
        let left = moment.saturating_duration_since(Instant::now());
        assert_eq!(pause.recv_timeout(left), Err(RecvTimeoutError::Timeout));
    };
    let (mut n_kills, mut n_leader_kills, mut turn) = (0, 0, 0);
    let begin = Instant::now();
    let end = begin + LENGTH;
    let mut next = begin + KILL_EVERY;
    while next < end {
        wait_until(next);
        (0..N_MEMBERS).for_each(|member| cluster.assert_running(member));
        let leader = cluster.leader();
        let victim = match leader {
            Some(leader) if n_kills % 2 == 0 => leader,
            _ => {
                turn = (turn + 1) % N_MEMBERS;
                turn
            }
        };
        cluster.kill(victim);
        n_kills += 1;
        n_leader_kills += usize::from(leader == Some(victim));
        wait_until(
            Instant::now() + DOWN + Duration::from_millis(rng.below(DOWN.as_millis() as u64)),
        );
        cluster.restart(victim);
        next = (next + KILL_EVERY).max(Instant::now());
    }
    wait_until(end);
    (n_kills, n_leader_kills)
}
