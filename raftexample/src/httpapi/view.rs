//! What people are shown of a node: `/_status` and `/_members`, in the contract's keys.

use raftnode::membership::Book;
use raftnode::{Role, Status, Transfer};
use serde::Serialize;

#[derive(Serialize)]
struct Leader {
    id: u64,
    url: Option<String>,
}

/// One member. What only a leader knows is null elsewhere.
#[derive(Serialize)]
struct Member {
    id: u64,
    url: String,
    role: &'static str,
    wants: &'static str,
    #[serde(rename = "match")]
    matched: Option<u64>,
    lag: Option<u64>,
    live: Option<bool>,
    incarnation: Option<String>,
}

/// The answer to `GET /_members`, and of a dry run.
#[derive(Serialize)]
pub(super) struct Members {
    members: Vec<Member>,
}

impl Members {
    /// The members of `book`, with what `status` knows of them.
    pub(super) fn new(book: &Book, status: &Status) -> Self {
        let leads = status.role == Role::Leader;
        let members = book.members.iter().map(|(id, member)| {
            let matched = status.matched.get(id).copied().filter(|_| leads);
            Member {
                id: *id,
                url: member.url.clone(),
                role: member.role.name(),
                wants: member.wants.name(),
                matched,
                lag: matched.map(|matched| status.last_index.saturating_sub(matched)),
                live: leads.then(|| status.live.contains(id)),
                incarnation: member.incarnation.map(|incarnation| format!("{incarnation:032x}")),
            }
        });
        Self { members: members.collect() }
    }
}

#[derive(Serialize)]
struct Snapshot {
    index: u64,
    bytes: u64,
    taking: bool,
}

/// How far a snapshot has been moved.
#[derive(Serialize)]
struct Progress {
    index: u64,
    bytes: u64,
    total: u64,
    percent: u64,
}

impl From<&Transfer> for Progress {
    fn from(transfer: &Transfer) -> Self {
        let Transfer { index, bytes, total, .. } = *transfer;
        // Whoever has no size yet has moved nothing of it.
        let percent = u128::from(bytes) * 100 / u128::from(total.max(1));
        Self { index, bytes, total, percent: u64::try_from(percent).unwrap_or(100).min(100) }
    }
}

#[derive(Serialize)]
struct Sending {
    to: u64,
    #[serde(flatten)]
    progress: Progress,
}

#[derive(Serialize)]
struct Receiving {
    from: u64,
    #[serde(flatten)]
    progress: Progress,
}

/// The answer to `GET /_status`.
#[derive(Serialize)]
pub(super) struct Overview {
    id: u64,
    cluster_id: String,
    role: &'static str,
    term: u64,
    leader: Option<Leader>,
    commit_index: u64,
    applied_index: u64,
    last_index: u64,
    snapshot_index: u64,
    #[serde(flatten)]
    members: Members,
    snapshot: Snapshot,
    sending: Vec<Sending>,
    receiving: Vec<Receiving>,
}

impl Overview {
    /// The store may be ahead of what the loop last said of itself. What is applied is committed,
    /// and what is committed is in the log.
    pub(super) fn new(mut status: Status, applied_index: u64) -> Self {
        status.commit_index = status.commit_index.max(applied_index);
        status.last_index = status.last_index.max(status.commit_index);
        let sending = status.sending.iter();
        let sending = sending.map(|sent| Sending { to: sent.peer, progress: Progress::from(sent) });
        let receiving = status.receiving.iter();
        let receiving =
            receiving.map(|got| Receiving { from: got.peer, progress: Progress::from(got) });
        Self {
            id: status.id,
            cluster_id: format!("{:016x}", status.cluster_id),
            role: status.role.name(),
            term: status.term,
            leader: (status.leader_id != 0).then(|| Leader {
                id: status.leader_id,
                url: status.client_urls.get(&status.leader_id).cloned(),
            }),
            commit_index: status.commit_index,
            applied_index,
            last_index: status.last_index,
            snapshot_index: status.snapshot_index,
            members: Members::new(&status.book, &status),
            snapshot: Snapshot {
                index: status.snapshot_index,
                bytes: status.snapshot_bytes,
                taking: status.taking_snapshot,
            },
            sending: sending.collect(),
            receiving: receiving.collect(),
        }
    }
}
