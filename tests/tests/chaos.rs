//! No acknowledged write is lost, whoever is killed when.
//!
//! Twelve writers put values under keys of their own on random members while members are killed, every
//! other time the leader, and started again. Each key is written once, so that what must be there
//! afterwards needs no reasoning about order: acknowledged, its value; refused, nothing; unknown,
//! either, but the same on every member.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tests::cluster::Cluster;
use tests::http::{Client, Failure, Response};
use tests::rng::Rng;

const SEED: &str = "CHAOS_SEED";
const N_MEMBERS: usize = 3;
const N_WRITERS: u64 = 12;
const LENGTH: Duration = Duration::from_secs(20);
/// From one kill to the next: 16 of them, with room for an election after every second one.
const KILL_EVERY: Duration = Duration::from_millis(1_250);
/// A killed member stays down this long at least, and up to twice as long.
const DOWN: Duration = Duration::from_millis(250);
/// Between the writes of one writer: every one of them is read from every member afterwards.
const WRITE_EVERY: Duration = Duration::from_millis(5);
/// A member may still be catching up, or electing, when it is first read.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

const MIN_ACKNOWLEDGED: usize = 1_000;
const MIN_KILLS: usize = 12;
const MIN_LEADER_KILLS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Acknowledged,
    Refused,
    Unknown,
}

#[derive(Debug)]
struct Put {
    path: String,
    value: String,
    outcome: Outcome,
}

/// The promise everything else is built for.
#[test]
fn no_acknowledged_write_is_lost_while_members_are_killed() {
    let seed = Rng::seed_from_env(SEED);
    say(&format!("{SEED}={seed}"));
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::start(N_MEMBERS);

    let addresses: Vec<_> = (0..N_MEMBERS).map(|member| cluster.address(member)).collect();
    let (writes, n_kills, n_leader_kills) = thread::scope(|scope| {
        let mut stops = Vec::new();
        let mut writers = Vec::new();
        for number in 0..N_WRITERS {
            // Dropping the sender stops the writer, also when the schedule panics.
            let (stop, stopped) = channel::<()>();
            stops.push(stop);
            let (addresses, rng) = (&addresses, Rng::new(rng.draw()));
            writers.push(scope.spawn(move || write(number, addresses, rng, &stopped)));
        }
        let (n_kills, n_leader_kills) = kill_in_turn(&mut cluster, &mut rng);
        drop(stops);
        let mut writes = Vec::new();
        for writer in writers {
            writes.extend(writer.join().expect("a writer reports, whatever it is answered"));
        }
        (writes, n_kills, n_leader_kills)
    });
    let count = |outcome| writes.iter().filter(|write| write.outcome == outcome).count();
    let n_acknowledged = count(Outcome::Acknowledged);
    say(&format!(
        "{n_acknowledged} acknowledged, {} refused, {} unknown; {n_kills} kills, {n_leader_kills} of a leader",
        count(Outcome::Refused),
        count(Outcome::Unknown),
    ));

    cluster.kill_all();
    cluster.restart_all();

    let found = read_everywhere(&addresses, &writes);
    let mut wrong = Vec::new();
    for (number, write) in writes.iter().enumerate() {
        let values: Vec<_> = found.iter().map(|values| values[number].as_deref()).collect();
        let is_right = |value: &Option<&str>| match (write.outcome, value) {
            (Outcome::Acknowledged, value) => *value == Some(&write.value),
            (Outcome::Refused, value) => value.is_none(),
            (Outcome::Unknown, value) => value.is_none_or(|value| value == write.value),
        };
        if !values.iter().all(is_right) || values.iter().any(|value| *value != values[0]) {
            wrong.push(format!("{write:?} is {values:?}"));
        }
    }
    let shown = wrong.len().min(10);
    assert!(wrong.is_empty(), "{} wrong values:\n{}", wrong.len(), wrong[..shown].join("\n"));

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

/// Puts one new key after the other on random members, until stopped.
fn write(number: u64, addresses: &[SocketAddr], mut rng: Rng, stop: &Receiver<()>) -> Vec<Put> {
    let mut clients: Vec<_> = addresses.iter().map(|&address| Client::new(address)).collect();
    let mut writes = Vec::new();
    while stop.recv_timeout(WRITE_EVERY) == Err(RecvTimeoutError::Timeout) {
        let member = rng.below(addresses.len() as u64) as usize;
        let path = format!("/writer-{number}/{}", writes.len());
        let value = format!("{:016x} by {number} on {member}", rng.draw());
        let outcome = outcome(&clients[member].put(&path, value.as_bytes()));
        writes.push(Put { path, value, outcome });
    }
    writes
}

fn outcome(answer: &Result<Response, Failure>) -> Outcome {
    match answer {
        Ok(answer) => match answer.status {
            204 => Outcome::Acknowledged,
            503 => Outcome::Refused,
            504 => Outcome::Unknown,
            other => panic!("a well-formed write was answered {other}: {}", answer.text()),
        },
        Err(Failure::NotSent(_)) => Outcome::Refused,
        Err(Failure::Unknown(_)) => Outcome::Unknown,
    }
}

/// Every key's value by a linearizable read, for each member.
fn read_everywhere(addresses: &[SocketAddr], writes: &[Put]) -> Vec<Vec<Option<String>>> {
    // As many readers as there were writers: reads that wait together share a round of the quorum.
    let n_readers = N_WRITERS as usize / addresses.len();
    let share = writes.len().div_ceil(n_readers).max(1);
    thread::scope(|scope| {
        let read_member = |&address: &SocketAddr| -> Vec<_> {
            let reader = |share| scope.spawn(move || read_share(address, share));
            writes.chunks(share).map(reader).collect()
        };
        let readers: Vec<_> = addresses.iter().map(read_member).collect();
        let joined = |readers: Vec<thread::ScopedJoinHandle<'_, Vec<_>>>| {
            let values = readers.into_iter().map(|reader| reader.join().expect("all can be read"));
            values.flatten().collect()
        };
        readers.into_iter().map(joined).collect()
    })
}

fn read_share(address: SocketAddr, writes: &[Put]) -> Vec<Option<String>> {
    let mut client = Client::new(address);
    writes.iter().map(|write| read(&mut client, &write.path)).collect()
}

fn read(client: &mut Client, path: &str) -> Option<String> {
    let deadline = Instant::now() + READ_TIMEOUT;
    loop {
        let answer = client.get(path);
        match &answer {
            Ok(answer) if answer.status == 200 => return Some(answer.text()),
            Ok(answer) if answer.status == 404 => return None,
            // The server itself waits inside its deadline, so this repeats without haste.
            _ => assert!(Instant::now() < deadline, "GET {path}: {answer:?}"),
        }
    }
}
