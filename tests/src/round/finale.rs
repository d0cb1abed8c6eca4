//! The end of a round: everybody is back, agrees, stops, and is looked at.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use raftnode::inspect::{self, Item, Judgement};
use serde_json::Value;

use crate::cluster::{Cluster, id};
use crate::ledger::{Archive, Compared, Ledger, MemberLog, Resolved, resolve};
use crate::nemesis::targets;
use crate::recorder::Recording;

/// How soon all members are where the leader is once nothing is wrong any more.
const CONVERGES_WITHIN: Duration = Duration::from_secs(30);
/// How soon a member ends that is asked to.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// A leader that is elected meanwhile adds an entry: then snapshots are taken once more.
const MAX_SNAPSHOTS: usize = 10;
/// How many keys a listing gives at most.
const LISTED: usize = 1_000;

/// Ends a cluster in good order and looks at all that is left of it (U1, U2, U3).
pub(super) fn end(
    cluster: &mut Cluster,
    active: &[usize],
    archive: Archive,
    recording: &mut Recording,
) -> Result<(Resolved, Compared), String> {
    let last = converge(cluster, active)?;
    recording.read_all(&targets(cluster, active))?;
    let listed = list(cluster, active[0])?;
    let snapshots = take_snapshots(cluster, active)?;
    for &member in active {
        let status = cluster.terminate(member, ENDS_WITHIN);
        if status.code() != Some(0) {
            return Err(format!("member {} ended with {status}", id(member)));
        }
    }
    compare(&snapshots)?;
    active.iter().try_for_each(|&member| verify(cluster, member))?;

    let mut logs = Vec::new();
    for (member, segments) in archive.stop() {
        let mut log = MemberLog::read(&segments)?;
        if active.iter().any(|&active| id(active) == member) {
            log.committed_to(last);
        }
        logs.push((member, log));
    }
    let ledger = Ledger::join(&logs)?;
    // First, for logs that lack something would accuse answers that are true.
    let compared = ledger.compare(&logs, &listed, last)?;
    let at = recording.now();
    Ok((resolve(&mut recording.history, &ledger, last, at)?, compared))
}

/// Waits until all members have applied the same, and gives its index.
fn converge(cluster: &Cluster, active: &[usize]) -> Result<u64, String> {
    let deadline = Instant::now() + CONVERGES_WITHIN;
    loop {
        match agreed(cluster, active) {
            Ok(index) => return Ok(index),
            Err(why) if Instant::now() > deadline => {
                return Err(format!("not one state within {CONVERGES_WITHIN:?}: {why}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn agreed(cluster: &Cluster, active: &[usize]) -> Result<u64, String> {
    let mut states = Vec::new();
    for &member in active {
        let status = cluster.status(member)?;
        let number = |name: &str| status[name].as_u64().ok_or_else(|| status.to_string());
        let indexes = [number("last_index")?, number("commit_index")?, number("applied_index")?];
        states.push((number("term")?, indexes, status["leader"]["id"].as_u64()));
    }
    let (_, [last, commit, applied], leader) = states[0];
    let is_settled = leader.is_some() && last == commit && commit == applied;
    let is_one = states.windows(2).all(|two| two[0] == two[1]);
    if is_one && is_settled { Ok(last) } else { Err(format!("{states:?}")) }
}

/// All keys, and where they were put.
fn list(cluster: &Cluster, member: usize) -> Result<Vec<(String, u64)>, String> {
    let (mut keys, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/_kv/?limit={LISTED}{after}");
        let answer = cluster.ask(member, "GET", &path, "");
        let answer: Value = serde_json::from_slice(&answer.body)
            .map_err(|error| format!("{path}: {error}: {}", answer.text()))?;
        let key =
            |item: &Value| Some((item["key"].as_str()?.to_owned(), item["mod_index"].as_u64()?));
        keys.extend(answer["keys"].as_array().into_iter().flatten().filter_map(key));
        match answer["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(keys),
        }
    }
}

/// Has every member take a snapshot of the same index: the files.
fn take_snapshots(cluster: &Cluster, active: &[usize]) -> Result<Vec<PathBuf>, String> {
    let mut taken = Vec::new();
    for _ in 0..MAX_SNAPSHOTS {
        taken.clear();
        for &member in active {
            let answer = cluster.ask(member, "POST", "/_snapshot", "");
            let snapshot: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            match (snapshot["term"].as_u64(), snapshot["index"].as_u64()) {
                (Some(term), Some(index)) => taken.push((term, index)),
                _ => return Err(format!("no snapshot at {}: {}", id(member), answer.text())),
            }
        }
        if taken.windows(2).all(|two| two[0] == two[1]) {
            let file = |&member: &usize| {
                let (term, index) = taken[0];
                let name = format!("{term:016x}-{index:016x}.snap");
                cluster.data_dir(member).join("snap").join(name)
            };
            return Ok(active.iter().map(file).collect());
        }
        converge(cluster, active)?;
    }
    Err(format!("no snapshots of one index: {taken:?}"))
}

/// A snapshot is the store, the table of names and the members as of its index: nothing in it is a
/// member's own, so these files are the same to the byte.
fn compare(snapshots: &[PathBuf]) -> Result<(), String> {
    let read =
        |path: &PathBuf| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let first = read(&snapshots[0])?;
    for other in &snapshots[1..] {
        let bytes = read(other)?;
        if bytes != first {
            let at = bytes.iter().zip(&first).position(|(one, other)| one != other);
            return Err(format!(
                "{} and {} are not the same state: {} and {} bytes, different at {at:?}",
                snapshots[0].display(),
                other.display(),
                first.len(),
                bytes.len()
            ));
        }
    }
    Ok(())
}

/// What `raftexample wal verify` says of a member that is down.
fn verify(cluster: &Cluster, member: usize) -> Result<(), String> {
    let path = cluster.data_dir(member);
    let mut corrupt = Vec::new();
    let inspection = inspect::open(&path).map_err(|error| error.to_string())?;
    let run = inspection.run(&mut |item| {
        if let Item::Finding(finding) = item
            && let Judgement::Corrupt(damage) = finding.judgement
        {
            corrupt.push(format!("{}: {}", finding.path.display(), damage.reason));
        }
        ControlFlow::Continue(())
    });
    run.map_err(|error| error.to_string())?;
    if corrupt.is_empty() { Ok(()) } else { Err(corrupt.join("; ")) }
}
