//! What three members promise together, tested on processes, sockets and disks as they are.

use std::time::{Duration, Instant};

use tests::cluster::Cluster;
use tests::http::{Client, path_of};

/// A member is given this long to end: its request timeout, and something for the disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

fn put(client: &mut Client, key: &[u8], value: &[u8]) {
    let answer = client.put(&path_of(key), value).expect("a healthy cluster answers a write");
    assert_eq!(answer.status, 204, "PUT {}: {}", path_of(key), answer.text());
}

fn assert_value(client: &mut Client, key: &[u8], value: &[u8]) {
    let answer = client.get(&path_of(key)).expect("a healthy cluster answers a read");
    assert_eq!(answer.status, 200, "GET {}: {}", path_of(key), answer.text());
    assert_eq!(answer.body, value, "GET {}", path_of(key));
}

/// Any member takes writes and linearizable reads, and no byte of key or value is touched on the way.
#[test]
fn a_value_put_on_any_member_is_read_on_every_member() {
    let cluster = Cluster::start(3);
    let all_bytes: Vec<u8> = (0..=255).collect();
    let large = vec![b'x'; 1 << 20];
    let pairs: [(&[u8], &[u8]); 6] = [
        (b"plain", b"value"),
        (b"empty", b""),
        (b"_under/score//slash", b"line\r\nline\0"),
        (b"../dots/./+ %?#", b"%41+"),
        (&all_bytes, &all_bytes),
        (b"large", &large),
    ];
    for writer in 0..3 {
        for (key, value) in pairs {
            let key = [&[b'0' + writer as u8], key].concat();
            let value = [value, &[b'0' + writer as u8]].concat();
            let value = &value[value.len().saturating_sub(1 << 20)..];
            put(&mut cluster.client(writer), &key, value);
            for reader in 0..3 {
                assert_value(&mut cluster.client(reader), &key, value);
            }
        }
    }
    put(&mut cluster.client(0), b"_x", b"");
    assert_value(&mut cluster.client(2), b"_x", b"");
    let absent = cluster.client(1).get("/absent").expect("a healthy cluster answers a read");
    assert_eq!(absent.status, 404);
}

/// An acknowledged write survives the loss of every process at once.
#[test]
fn everything_acknowledged_is_there_after_all_members_are_killed() {
    let mut cluster = Cluster::start(3);
    let key = |n: usize| format!("key-{n}").into_bytes();
    let value = |n: usize| format!("value {n}").into_bytes();
    let mut clients: Vec<_> = (0..3).map(|member| cluster.client(member)).collect();
    for n in 0..300 {
        put(&mut clients[n % 3], &key(n), &value(n));
    }

    cluster.kill_all();
    cluster.restart_all();

    for member in 0..3 {
        let mut client = cluster.client(member);
        for n in 0..300 {
            assert_value(&mut client, &key(n), &value(n));
        }
    }
    put(&mut cluster.client(0), b"after", b"the restart");
    assert_value(&mut cluster.client(1), b"after", b"the restart");
}

/// Without a quorum nothing is promised and nothing hangs; what is known is still given, if asked so.
#[test]
fn a_minority_answers_stale_reads_only() {
    let timeout = Duration::from_secs(1);
    let mut cluster = Cluster::start_with(3, &["--request-timeout", "1s"]);
    put(&mut cluster.client(0), b"known", b"value");
    let survivor = 2;
    // A linearizable read there makes sure that the survivor has applied it.
    assert_value(&mut cluster.client(survivor), b"known", b"value");

    cluster.kill(0);
    cluster.kill(1);

    let mut client = cluster.client(survivor);
    let stale = client.get("/known?consistency=stale").expect("a stale read needs nobody else");
    assert_eq!((stale.status, stale.text()), (200, "value".to_owned()));

    // The second round finds a member that knows that it has no quorum, the first one may not.
    for _ in 0..3 {
        let begin = Instant::now();
        let read = client.get("/known").expect("a refused read is answered");
        assert_eq!(read.status, 503, "{}", read.text());
        let write = client.put("/unknown", b"value").expect("a refused write is answered");
        assert!(matches!(write.status, 503 | 504), "{}: {}", write.status, write.text());
        // Each within its timeout; what is allowed beyond is for a busy machine.
        let elapsed = begin.elapsed();
        assert!(elapsed < 2 * timeout + Duration::from_secs(2), "answered after {elapsed:?}");
    }
    let stale = client.get("/known?consistency=stale").expect("a stale read needs nobody else");
    assert_eq!((stale.status, stale.text()), (200, "value".to_owned()));

    // With the others back, the cluster goes on.
    cluster.restart_all();
    put(&mut cluster.client(survivor), b"known", b"newer");
    assert_value(&mut cluster.client(0), b"known", b"newer");
}

/// Stopping is not failing: supervisors restart what exits with anything but 0.
#[test]
fn members_told_to_stop_exit_with_0() {
    let mut cluster = Cluster::start(3);
    put(&mut cluster.client(0), b"key", b"value");
    let leader = cluster.eventually("somebody leads", Duration::from_secs(10), || {
        cluster.leader().ok_or_else(|| "nobody leads".to_owned())
    });

    // The leader first, then a member with a quorum behind it, then one without.
    for member in [leader, (leader + 1) % 3, (leader + 2) % 3] {
        let status = cluster.terminate(member, STOP_TIMEOUT);
        assert_eq!(status.code(), Some(0), "member {}: {status}", member + 1);
    }

    cluster.restart_all();
    assert_value(&mut cluster.client(0), b"key", b"value");
}
