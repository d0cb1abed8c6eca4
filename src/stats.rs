//! A node's state in the eighteen keys of hashicorp/raft's `Stats()`, every value a string, for
//! whoever has dashboards and scripts that read those.
//!
//! What this node has and that library has not, or the reverse, is said as near as its words
//! allow: a pre-candidate is a `Candidate`, a learner is a `Nonvoter`, and addresses are those of
//! the peer port.

use std::fmt::Write as _;
use std::time::Duration;

use crate::membership::MemberRole;
use crate::snapshot;
use crate::status::{Role, Status};
use crate::transport;

/// The eighteen values, in that library's order of naming them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    values: [(&'static str, String); 18],
}

impl Stats {
    /// The keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// The value of a key, if it is one of the eighteen.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    pub(crate) fn of(status: &Status) -> Self {
        let state = match status.role {
            Role::Follower => "Follower",
            Role::PreCandidate | Role::Candidate => "Candidate",
            Role::Leader => "Leader",
        };
        let last_contact = match status.leader_silence {
            _ if status.role == Role::Leader => "0".to_owned(),
            None => "never".to_owned(),
            Some(silence) => go_duration(silence),
        };
        let protocol = transport::PROTOCOL_VERSION.to_string();
        let snapshots = snapshot::VERSION.to_string();
        let is_voter = |id| status.book.voters().any(|voter| voter == id);
        let others = status.book.voters().filter(|id| *id != status.id).count();
        let n_peers = if is_voter(status.id) { others } else { 0 };
        let number = |number: u64| number.to_string();
        Self {
            values: [
                ("state", state.to_owned()),
                ("term", number(status.term)),
                ("last_log_index", number(status.last_index)),
                ("last_log_term", number(status.last_term)),
                ("commit_index", number(status.commit_index)),
                ("applied_index", number(status.applied_index)),
                ("fsm_pending", number(status.commit_queue_len)),
                ("last_snapshot_index", number(status.snapshot_index)),
                ("last_snapshot_term", number(status.snapshot_term)),
                ("protocol_version", protocol.clone()),
                ("protocol_version_min", protocol.clone()),
                ("protocol_version_max", protocol),
                ("snapshot_version_min", snapshots.clone()),
                ("snapshot_version_max", snapshots),
                ("latest_configuration_index", number(status.book_index)),
                ("latest_configuration", configuration(status)),
                ("num_peers", n_peers.to_string()),
                ("last_contact", last_contact),
            ],
        }
    }
}

/// `[{Suffrage:Voter ID:1 Address:127.0.0.1:12379} ...]`.
fn configuration(status: &Status) -> String {
    let servers = status.book.members.iter().map(|(id, member)| {
        let suffrage = match member.role {
            MemberRole::Voter => "Voter",
            MemberRole::Learner => "Nonvoter",
        };
        let address = member.url.trim_start_matches("http://");
        format!("{{Suffrage:{suffrage} ID:{id} Address:{address}}}")
    });
    format!("[{}]", servers.collect::<Vec<_>>().join(" "))
}

/// A duration as Go prints one: `1h2m3.5s`, `12.345ms`, `850µs`, `0s`.
fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, size) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => ("ns", 1),
        1_000..1_000_000 => ("µs", 1_000),
        1_000_000..1_000_000_000 => ("ms", 1_000_000),
        _ => ("s", 1_000_000_000),
    };
    let mut text = String::new();
    let (minutes, nanos) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
    if minutes >= 60 {
        write!(text, "{}h", minutes / 60).expect("a string takes every write");
    }
    if minutes > 0 {
        write!(text, "{}m", minutes % 60).expect("a string takes every write");
    }
    write!(text, "{}", nanos / size).expect("a string takes every write");
    let width = size.ilog10() as usize;
    let fraction = format!("{:0width$}", nanos % size);
    let fraction = fraction.trim_end_matches('0');
    if size > 1 && !fraction.is_empty() {
        text.push('.');
        text.push_str(fraction);
    }
    text.push_str(unit);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Book, parse_cluster};

    /// Scripts parse these: the keys are that library's, all of them and no more.
    #[test]
    fn the_keys_are_those_that_scripts_know() {
        let keys: Vec<_> = Stats::of(&Status::default()).values.map(|(key, _)| key).into();
        let expected = "state term last_log_index last_log_term commit_index applied_index \
            fsm_pending last_snapshot_index last_snapshot_term protocol_version \
            protocol_version_min protocol_version_max snapshot_version_min snapshot_version_max \
            latest_configuration_index latest_configuration num_peers last_contact";
        assert_eq!(keys, expected.split(' ').collect::<Vec<_>>());
    }

    /// The values' formats, those with a meaning of their own.
    #[test]
    fn the_values_are_written_as_scripts_expect() {
        let mut book = Book::founding(&parse_cluster("1=http://a:1,2=http://b:2").unwrap());
        let status = Status { id: 1, book: book.clone(), ..Status::default() };
        let stats = Stats::of(&status);
        let table = [
            ("state", "Follower"),
            ("num_peers", "1"),
            ("last_contact", "never"),
            (
                "latest_configuration",
                "[{Suffrage:Voter ID:1 Address:a:1} {Suffrage:Voter ID:2 Address:b:2}]",
            ),
        ];
        for (key, value) in table {
            assert_eq!(stats.get(key), Some(value), "{key}");
        }
        assert_eq!(stats.get("nope"), None);

        book.members.get_mut(&1).unwrap().role = MemberRole::Learner;
        let leader_silence = Some(Duration::from_micros(12_345));
        let role = Role::PreCandidate;
        let stats = Stats::of(&Status { book, leader_silence, role, ..status.clone() });
        assert_eq!(stats.get("num_peers"), Some("0"), "it is no voter itself");
        assert_eq!(stats.get("last_contact"), Some("12.345ms"));
        assert_eq!(stats.get("state"), Some("Candidate"));
        let stats = Stats::of(&Status { role: Role::Leader, leader_silence, ..status });
        assert_eq!((stats.get("state"), stats.get("last_contact")), (Some("Leader"), Some("0")));
    }

    /// Go's own way of writing durations.
    #[test]
    fn durations_are_written_as_go_does() {
        let table = [
            (0, "0s"),
            (1, "1ns"),
            (850_000, "850µs"),
            (1_500, "1.5µs"),
            (12_345_000, "12.345ms"),
            (1_000_000_000, "1s"),
            (1_050_000_000, "1.05s"),
            (60_000_000_000, "1m0s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (7_384_000_000_001, "2h3m4.000000001s"),
        ];
        for (nanos, expected) in table {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), expected);
        }
    }
}
