//! Who a member is lies in its data directory: with it a member needs nothing else, without it a
//! member is nobody's.

use std::fs;
use std::time::Duration;

use tests::cluster::{Cluster, READY_TIMEOUT, id};
use tests::load::{Fill, read};

/// A member that may not come back ends at its first contact with another one.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
const LOST: i32 = 5;
/// What a member prints that was never told where clients reach the others.
const UNKNOWN_URL: &str = "http://CLIENT-URL-OF-A-MEMBER";

/// Everything a member needs is in its data directory: id, members and their addresses, those
/// that joined later included. The flags it began with are not needed again.
#[test]
fn data_directories_are_enough_to_restart() {
    let flags = ["--snapshot-count", "100", "--snapshot-catchup-entries", "10"];
    let mut cluster = Cluster::start_with(3, &flags);
    let fill = Fill { n_keys: 500, value_bytes: 10 };
    fill.write(cluster.address(1), 8);
    let joined = cluster.join();
    cluster.remove(0, joined);
    let before = cluster.roles(joined).expect("a ready member answers");

    let members = [1, 2, joined];
    cluster.kill_all();
    members.iter().for_each(|&member| cluster.restart_bare(member));
    for member in members {
        cluster.wait_ready(member);
        assert_eq!(cluster.roles(member), Ok(before.clone()));
        fill.assert_there(cluster.address(member), 10);
        let put = cluster.ask(member, "PUT", "/after", "the restart");
        assert_eq!(put.status, 204, "{}", put.text());
    }
}

/// A member whose data directory was deleted may have acknowledged what is now gone, and voted: the
/// others do not take it back, be it a founder or one that joined. It says which two commands
/// replace it, and these two do.
#[test]
fn wiped_members_are_refused_and_replaced() {
    let mut cluster = Cluster::start(3);
    let joined = cluster.join();
    let put = cluster.ask(0, "PUT", "/key", "value");
    assert_eq!(put.status, 204, "{}", put.text());

    for wiped in [joined, 0] {
        cluster.kill(wiped);
        cluster.wipe(wiped);
        cluster.restart(wiped);
        let status = cluster.wait_exit(wiped, REFUSED_WITHIN);
        let said = cluster.said(wiped);
        assert_eq!(status.code(), Some(LOST), "{said}");

        let commands = Commands::find(&said);
        let path = format!("/_members/{}", id(wiped));
        let url = commands.delete.strip_suffix(&path).unwrap_or_else(|| panic!("{said}"));
        // A member that was refused at its first word knows nobody's client URL.
        let of_url = |&member: &usize| {
            url == UNKNOWN_URL || url == format!("http://{}", cluster.address(member))
        };
        let through = cluster.running().into_iter().find(of_url);
        let through = through.unwrap_or_else(|| panic!("{url} is nobody's: {said}"));
        let answer = cluster.ask(through, "DELETE", &path, "");
        assert_eq!(answer.status, 204, "{}", answer.text());
        let new = cluster.place_joiner_with(&commands.cluster);
        cluster.restart(new);
        cluster.wait_voter(new);
        assert_eq!(read(&mut cluster.client(new), "/key").as_deref(), Some("value"));
    }
    let roles = cluster.roles(1).expect("a ready member answers");
    assert_eq!(roles.into_keys().collect::<Vec<_>>(), [2, 3, 5, 6]);
}

/// What a wiped member tells its operator to type.
struct Commands {
    delete: String,
    cluster: String,
}

impl Commands {
    fn find(said: &str) -> Commands {
        // Its last words; the log has them too, among other things.
        let word_after = |start: &str| {
            let rest = said.rsplit_once(start).unwrap_or_else(|| panic!("no {start:?}: {said}")).1;
            rest.split_whitespace().next().unwrap_or_default().to_owned()
        };
        Commands {
            delete: word_after("curl -X DELETE "),
            cluster: word_after("raftexample --join --id NEW --cluster "),
        }
    }
}

/// `--in-memory` members serve like others and leave nothing behind; so one that is started again
/// is a wiped one, which the others refuse.
#[test]
fn members_in_memory_serve_and_do_not_return() {
    let flags = ["--in-memory", "--snapshot-count", "100", "--snapshot-catchup-entries", "10"];
    let mut cluster = Cluster::start_with(3, &flags);
    let fill = Fill { n_keys: 500, value_bytes: 10 };
    fill.write(cluster.address(0), 8);
    (0..3).for_each(|member| fill.assert_there(cluster.address(member), 10));
    // Snapshots are taken and sent in memory too.
    let joined = cluster.join();
    fill.assert_there(cluster.address(joined), 10);
    for member in 0..4 {
        assert!(!fs::exists(cluster.data_dir(member)).expect("it can be looked for"));
    }

    cluster.kill(0);
    cluster.restart(0);
    let status = cluster.wait_exit(0, REFUSED_WITHIN);
    assert_eq!(status.code(), Some(LOST), "{}", cluster.said(0));
    let put = cluster.ask(1, "PUT", "/after", "all");
    assert_eq!(put.status, 204, "{}", put.text());
    cluster.eventually("the others go on", READY_TIMEOUT, || {
        (read(&mut cluster.client(joined), "/after").as_deref() == Some("all"))
            .then_some(())
            .ok_or_else(|| "not there".to_owned())
    });
}
