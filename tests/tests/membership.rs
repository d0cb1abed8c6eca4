//! The membership changes while the cluster runs, and nobody who was acknowledged anything notices.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::cluster::{Cluster, READY_TIMEOUT, id};
use tests::load::{Fill, Load, Outcome, assert_kept, count, read};
use tests::rng::Rng;

const SEED: &str = "MEMBERSHIP_SEED";
/// Snapshots all the time, and hardly any log before them: who comes late needs a snapshot.
const EAGER: [&str; 6] =
    ["--snapshot-count", "20", "--snapshot-catchup-entries", "10", "--snapshot-keep", "1"];
const N_WRITERS: u64 = 4;
const MIN_ACKNOWLEDGED: usize = 1_000;
/// Leadership is handed over at a removal: nobody waits for an election timeout.
const NEW_LEADER_WITHIN: Duration = Duration::from_secs(2);

#[allow(clippy::print_stderr, reason = "the test harness shows it when the test fails")]
fn rng() -> Rng {
    let seed = Rng::seed_from_env(SEED);
    eprintln!("{SEED}={seed}");
    Rng::new(seed)
}

fn addresses(cluster: &Cluster, members: &[usize]) -> Vec<SocketAddr> {
    members.iter().map(|&member| cluster.address(member)).collect()
}

/// Whether the member ever came to its state by a snapshot of another's.
fn assert_installed_snapshot(cluster: &Cluster, member: usize) {
    let n_installed = cluster.metric(member, "raft_snapshot_installed_seconds_count");
    assert!(n_installed.as_ref().is_ok_and(|&n| n > 0.0), "not by snapshot: {n_installed:?}");
}

fn wait_acknowledged(cluster: &Cluster, load: &Load, n: usize) {
    cluster.eventually("writes are acknowledged", READY_TIMEOUT, || match load.n_acknowledged() {
        acknowledged if acknowledged >= n => Ok(()),
        acknowledged => Err(format!("{acknowledged} of {n}")),
    });
}

fn status_members(cluster: &Cluster, member: usize) -> Value {
    let members = cluster.ask(member, "GET", "/_members", "");
    let mut members: Value = serde_json::from_slice(&members.body).expect("members are JSON");
    // What moves by itself is not the membership.
    for member in members["members"].as_array_mut().expect("a list of members") {
        let member = member.as_object_mut().expect("a member is an object");
        member.retain(|name, _| matches!(name.as_str(), "id" | "url" | "role" | "wants"));
    }
    members["members"].take()
}

/// Counterpart of the original's TestAddNewNode, and more: after compaction a member can only join
/// by snapshot. In one step and in the original's two it gets there, serves linearizable reads,
/// and its vote counts: without both new members nothing could be committed in the end.
#[test]
fn members_join_by_snapshot_and_count() {
    let mut cluster = Cluster::start_with(3, &EAGER);
    let fill = Fill { n_keys: 500, value_bytes: 10 };
    fill.write(cluster.address(0), 8);
    cluster.compact(&[0, 1, 2]);

    let one_step = cluster.join();
    let two_steps = cluster.place_joiner();
    let path = format!("/{}", id(two_steps));
    let answer = cluster.ask(1, "POST", &path, &cluster.peer_url(two_steps));
    assert_eq!(answer.status, 204, "POST {path}: {}", answer.text());
    cluster.restart(two_steps);
    cluster.wait_voter(two_steps);
    for member in [one_step, two_steps] {
        assert_installed_snapshot(&cluster, member);
        fill.assert_there(cluster.address(member), 1);
    }
    let expected = status_members(&cluster, 0);
    assert_eq!(expected.as_array().map(Vec::len), Some(5), "{expected}");
    for member in 1..5 {
        assert_eq!(status_members(&cluster, member), expected, "at member {}", id(member));
    }

    cluster.kill(0);
    cluster.kill(1);
    cluster.wait_leader();
    for member in [one_step, two_steps] {
        let put = cluster.ask(member, "PUT", "/after", "all");
        assert_eq!(put.status, 204, "{}", put.text());
        assert_eq!(read(&mut cluster.client(2), "/after").as_deref(), Some("all"));
    }
}

/// Every member is replaced while writers write: nothing that was acknowledged is lost, the removed
/// end by themselves, and a later start of one says why it ends and changes nothing.
#[test]
fn all_members_are_replaced_under_load() {
    let mut cluster = Cluster::start_with(3, &EAGER);
    let load = Load::start(N_WRITERS, addresses(&cluster, &[0, 1, 2]), &mut rng());
    wait_acknowledged(&cluster, &load, 1);
    let before = load.n_acknowledged();

    for old in 0..3 {
        let new = cluster.join();
        cluster.remove(old, new);
        load.retarget(addresses(&cluster, &cluster.running()));
        wait_acknowledged(&cluster, &load, before + (old + 1) * MIN_ACKNOWLEDGED.div_ceil(3));
    }
    let writes = load.stop();
    let n_acknowledged = count(&writes, Outcome::Acknowledged) - before;
    assert!(n_acknowledged >= MIN_ACKNOWLEDGED, "only {n_acknowledged} writes acknowledged");
    assert_eq!(cluster.running(), [3, 4, 5]);
    assert_kept(&addresses(&cluster, &[3, 4, 5]), &writes);

    let members = status_members(&cluster, 3);
    for removed in [0, 2, 0] {
        cluster.restart(removed);
        let status = cluster.wait_exit(removed, READY_TIMEOUT);
        let said = cluster.said(removed);
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(said.contains("removed"), "it does not say why: {said}");
    }
    assert_eq!(status_members(&cluster, 3), members);
    let again = cluster.ask(4, "POST", "/1", &cluster.peer_url(0));
    assert_eq!(again.status, 410, "{}", again.text());
}

/// A member that was down while both others were replaced knows only addresses where nobody
/// answers; the new ones know its own, and it catches up, by snapshot.
#[test]
fn a_member_killed_before_the_others_were_replaced_returns() {
    sleep_through_replacement(Cluster::kill, Cluster::restart);
}

/// The same for one that never noticed: it wakes up believing in a cluster that is gone.
#[test]
fn a_member_frozen_while_the_others_were_replaced_returns() {
    sleep_through_replacement(
        |cluster, member| cluster.freeze(member),
        |cluster, member| cluster.thaw(member),
    );
}

fn sleep_through_replacement(
    sleep: impl FnOnce(&mut Cluster, usize),
    wake: impl FnOnce(&mut Cluster, usize),
) {
    let mut cluster = Cluster::start_with(3, &EAGER);
    let sleeper = 2;
    sleep(&mut cluster, sleeper);
    let mut via = 0;
    for old in 0..2 {
        let new = cluster.join();
        cluster.remove(old, new);
        via = new;
    }
    let fill = Fill { n_keys: 500, value_bytes: 10 };
    fill.write(cluster.address(via), 8);
    cluster.compact(&[via, via - 1]);

    wake(&mut cluster, sleeper);
    cluster.wait_ready(sleeper);
    cluster.eventually("it catches up", READY_TIMEOUT, || {
        let behind = |name| Ok::<_, String>(cluster.status(via)?[name].as_u64());
        let (own, other) =
            (cluster.status(sleeper)?["applied_index"].as_u64(), behind("commit_index")?);
        (own >= other).then_some(()).ok_or_else(|| format!("{own:?} of {other:?}"))
    });
    assert_installed_snapshot(&cluster, sleeper);
    fill.assert_there(cluster.address(sleeper), 1);
    cluster.eventually("the returned member knows the members", READY_TIMEOUT, || {
        let (roles, expected) = (cluster.roles(sleeper)?, cluster.roles(via)?);
        (roles == expected).then_some(()).ok_or_else(|| format!("{roles:?}, not {expected:?}"))
    });
    // Its vote counts: of the three one is gone now.
    cluster.kill(via);
    cluster.wait_leader();
    let put = cluster.ask(sleeper, "PUT", "/after", "all");
    assert_eq!(put.status, 204, "{}", put.text());
}

/// A leader is removed through itself and through another member: it hands over first, so that
/// another leads at once, and no acknowledged write is lost.
#[test]
fn a_removed_leader_hands_over() {
    let mut cluster = Cluster::start(4);
    let load = Load::start(N_WRITERS, addresses(&cluster, &[0, 1, 2, 3]), &mut rng());
    wait_acknowledged(&cluster, &load, 100);
    for through_itself in [true, false] {
        let leader = cluster.wait_leader();
        let other = *cluster.running().iter().find(|&&m| m != leader).expect("three or more run");
        let through = if through_itself { leader } else { other };
        let begin = Instant::now();
        cluster.remove(leader, through);
        cluster.eventually("another leads", NEW_LEADER_WITHIN, || {
            cluster.leader().ok_or_else(|| "nobody".to_owned())
        });
        let put = cluster.ask(other, "PUT", "/after", "removal");
        assert_eq!(put.status, 204, "{}", put.text());
        let elapsed = begin.elapsed();
        assert!(elapsed < 2 * NEW_LEADER_WITHIN, "writes go on after {elapsed:?}");
        load.retarget(addresses(&cluster, &cluster.running()));
        wait_acknowledged(&cluster, &load, load.n_acknowledged() + 100);
    }
    let writes = load.stop();
    assert_kept(&addresses(&cluster, &cluster.running()), &writes);
}

/// Every wrong call is answered 4xx with a reason in JSON, and the membership stays what it was.
#[test]
fn wrong_changes_are_refused_with_a_reason() {
    let mut cluster = Cluster::start(3);
    let stranger = Cluster::start(1);
    let nobody = Cluster::place(3, &[]);
    let (free, other_free) = (nobody.peer_url(0), nobody.peer_url(1));
    // An id that was removed, of a member that never ran: nobody answers at its URL, which is
    // accepted.
    for (method, path, body) in [("POST", "/5", &*free), ("DELETE", "/5", ""), ("DELETE", "/5", "")]
    {
        let answer = cluster.ask(1, method, path, body);
        assert_eq!(answer.status, 204, "{method} {path}: {}", answer.text());
    }

    let add = |id: u64, url: &str| json!({"id": id, "url": url, "role": "voter"}).to_string();
    let move_to = |url: &str| json!({ "url": url }).to_string();
    let used = cluster.peer_url(1);
    let client_port = format!("http://{}", cluster.address(1));
    let foreign = stranger.peer_url(0);
    let foreign_client = format!("http://{}", stranger.address(0));
    let with_path = format!("{free}/path");
    let table: Vec<(&str, &str, String, u16, &str)> = vec![
        ("POST", "/0", free.clone(), 400, "malformed"),
        ("POST", "/x", free.clone(), 400, "malformed"),
        ("POST", "/-4", free.clone(), 400, "malformed"),
        ("POST", "/18446744073709551616", free.clone(), 400, "malformed"),
        ("POST", "/4", String::new(), 400, "malformed"),
        ("POST", "/4", "127.0.0.1:4".into(), 400, "malformed"),
        ("POST", "/4", "ftp://127.0.0.1:4".into(), 400, "malformed"),
        ("POST", "/4", with_path, 400, "malformed"),
        ("POST", "/4", "http://127.0.0.1:0".into(), 400, "malformed"),
        ("POST", "/4?force=perhaps", free.clone(), 400, "malformed"),
        ("POST", "/4", used.clone(), 409, "conflict"),
        ("POST", "/4", client_port.clone(), 409, "conflict"),
        ("POST", "/4", foreign.clone(), 409, "conflict"),
        ("POST", "/4", foreign_client, 409, "conflict"),
        ("POST", "/2", free.clone(), 409, "conflict"),
        ("POST", "/5", free.clone(), 410, "removed"),
        ("POST", "/_members", String::new(), 400, "malformed"),
        ("POST", "/_members", "{}".into(), 400, "malformed"),
        ("POST", "/_members", json!({"id": 4}).to_string(), 400, "malformed"),
        ("POST", "/_members", add(0, &free), 400, "malformed"),
        ("POST", "/_members", add(4, "nonsense"), 400, "malformed"),
        ("POST", "/_members", add(4, &free).replace("voter", "king"), 400, "malformed"),
        ("POST", "/_members", add(2, &free), 409, "conflict"),
        ("POST", "/_members", add(4, &foreign), 409, "conflict"),
        ("POST", "/_members", add(5, &free), 410, "removed"),
        ("PATCH", "/_members/9", move_to(&free), 404, "not_found"),
        ("PATCH", "/_members/2", "{}".into(), 400, "malformed"),
        ("PATCH", "/_members/2", move_to("nonsense"), 400, "malformed"),
        ("PATCH", "/_members/2", move_to(&cluster.peer_url(0)), 409, "conflict"),
        ("PATCH", "/_members/2", move_to(&client_port), 409, "conflict"),
        ("PATCH", "/_members/5", move_to(&free), 410, "removed"),
        ("DELETE", "/9", String::new(), 404, "not_found"),
        ("DELETE", "/_members/9", String::new(), 404, "not_found"),
        ("DELETE", "/_members/0", String::new(), 400, "malformed"),
        ("DELETE", "/x", String::new(), 400, "malformed"),
    ];
    // Who was not asked to remove 5 may hear of it later.
    let before = status_members(&cluster, 1);
    for member in [0, 2] {
        cluster.eventually("it knows of the removal", READY_TIMEOUT, || {
            let shown = status_members(&cluster, member);
            if shown == before { Ok(()) } else { Err(format!("{member} shows {shown}")) }
        });
    }
    for (number, (method, path, body, status, kind)) in table.iter().enumerate() {
        // The leader and both others, in turns.
        refused(&cluster, number % 3, method, path, body, (*status, kind));
        let after = status_members(&cluster, number % 3);
        assert_eq!(after, before, "{method} {path} {body} changed the membership");
    }

    // What would be, without making it so.
    let dry = cluster.ask(0, "POST", "/_members?dry_run", &add(4, &free));
    assert_eq!((dry.status, shown_ids(&dry.body)), (200, vec![1, 2, 3, 4]), "{}", dry.text());
    let dry = cluster.ask(1, "DELETE", "/_members/3?dry_run", "");
    assert_eq!((dry.status, shown_ids(&dry.body)), (200, vec![1, 2]), "{}", dry.text());
    assert_eq!(status_members(&cluster, 2), before);

    // A learner stays one, moves to where nobody answers, and goes.
    let learner = add(4, &free).replace("voter", "learner");
    for (method, path, body) in [
        ("POST", "/_members", &*learner),
        ("PATCH", "/_members/4", &*move_to(&other_free)),
        ("PATCH", "/_members/4", r#"{"role":"voter"}"#),
        ("PATCH", "/_members/4", r#"{"role":"learner"}"#),
    ] {
        let answer = cluster.ask(2, method, path, body);
        assert_eq!(answer.status, 204, "{method} {path} {body}: {}", answer.text());
    }
    let members = status_members(&cluster, cluster.wait_leader());
    let expected = json!({"id": 4, "url": other_free, "role": "learner", "wants": "learner"});
    assert_eq!(members[3], expected);
    let answer = cluster.ask(0, "DELETE", "/4", "");
    assert_eq!(answer.status, 204, "{}", answer.text());

    // With one of three down, removing another would leave no quorum of live voters.
    cluster.kill(2);
    let leader = cluster.wait_leader();
    let before = status_members(&cluster, leader);
    let follower = 1 - leader;
    let path = format!("/_members/{}", id(follower));
    cluster.eventually("the leader misses the one that is down", READY_TIMEOUT, || {
        let members = cluster.ask(leader, "GET", "/_members", "").text();
        let members: Value = serde_json::from_str(&members).map_err(|error| error.to_string())?;
        (members["members"][2]["live"] == false).then_some(()).ok_or_else(|| members.to_string())
    });
    refused(&cluster, follower, "DELETE", &path, "", (409, "unsafe_change"));
    refused(&cluster, leader, "DELETE", &format!("{path}?dry_run"), "", (409, "unsafe_change"));
    assert_eq!(status_members(&cluster, leader), before);
    let answer = cluster.ask(leader, "DELETE", &format!("{path}?dry_run&force"), "");
    assert_eq!((answer.status, shown_ids(&answer.body)), (200, vec![id(leader), 3]));
    // Forced, it is made: the two that are members still commit it.
    let answer = cluster.ask(leader, "DELETE", &format!("{path}?force"), "");
    assert_eq!(answer.status, 204, "{}", answer.text());
}

fn shown_ids(body: &[u8]) -> Vec<u64> {
    let shown: Value = serde_json::from_slice(body).unwrap_or_default();
    let members = shown["members"].as_array().cloned().unwrap_or_default();
    members.iter().filter_map(|member| member["id"].as_u64()).collect()
}

fn refused(
    cluster: &Cluster,
    member: usize,
    method: &str,
    path: &str,
    body: &str,
    (status, kind): (u16, &str),
) {
    let answer = cluster.ask(member, method, path, body);
    let what = format!("{method} {path} {body}: {} {}", answer.status, answer.text());
    let reason: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    assert_eq!((answer.status, reason["error"].as_str()), (status, Some(kind)), "{what}");
    assert!(reason["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
}

/// While a change hangs, for want of a quorum, another one is refused; and the first one's answer
/// is true: unknown, until there is a quorum again.
#[test]
fn a_change_during_a_change_is_refused() {
    // Long enough to ask before the leader finds out that it is alone. A change that is refused has
    // waited for an election timeout, which a loaded machine stretches: requests have far longer.
    let cluster = Cluster::start_with(3, &["--election-timeout", "3s", "--request-timeout", "8s"]);
    // A leader looks for its quorum once in an election timeout. A new one begins to count now, an old
    // one could find out as early as another change is refused.
    cluster.eventually("leadership is handed over", READY_TIMEOUT, || {
        let answer = cluster.ask(cluster.wait_leader(), "POST", "/_leader", "");
        if answer.status == 204 { Ok(()) } else { Err(answer.text()) }
    });
    let leader = cluster.wait_leader();
    // It makes no change before it has committed something itself.
    let put = cluster.ask(leader, "PUT", "/before", "all");
    assert_eq!(put.status, 204, "{}", put.text());
    let nobody = Cluster::place(2, &[]);
    for follower in (0..3).filter(|&member| member != leader) {
        cluster.freeze(follower);
    }
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| cluster.ask(leader, "POST", "/4", &nobody.peer_url(0)));
        cluster.eventually("another change is refused", Duration::from_secs(2), || {
            let answer = cluster.ask(leader, "POST", "/5?dry_run", &nobody.peer_url(1));
            let pending = answer.status == 409 && answer.text().contains("pending_change");
            pending.then_some(()).ok_or_else(|| format!("{} {}", answer.status, answer.text()))
        });
        first.join().expect("it is answered")
    });
    assert_eq!(first.status, 504, "{}", first.text());
    (0..3).filter(|&member| member != leader).for_each(|follower| cluster.thaw(follower));
    cluster.wait_all_ready();
    let put = cluster.ask(leader, "PUT", "/after", "all");
    assert_eq!(put.status, 204, "{}", put.text());
    // It was made or it was not: all agree.
    cluster.eventually("all know the same members", READY_TIMEOUT, || {
        let all: Vec<_> = (0..3).map(|member| cluster.roles(member)).collect::<Result<_, _>>()?;
        all.windows(2).all(|two| two[0] == two[1]).then_some(()).ok_or_else(|| format!("{all:?}"))
    });
}
