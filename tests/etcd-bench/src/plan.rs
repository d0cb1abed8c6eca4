//! What is compared: the cases, who takes part in each, and what their figures are worth.

use crate::mix::{Mix, Operation};

/// The connections of the cases that are measured at one level only.
const MANY: u16 = 64;
/// With a MiB each, few enough that nobody is refused: a node takes 16 MiB of writes that wait.
const FEW: u16 = 8;
/// So that filling takes less than measuring.
const MAX_KEYS_READ: u64 = 10_000;
/// So that large values are written over and over instead of filling memory.
pub(crate) const LARGE_BYTES_KEPT: u64 = 64 << 20;
const KIB: usize = 1 << 10;

/// One of the systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Raftexample,
    Etcd,
    Original,
}

/// What a case is about, which is also its place on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Writes,
    Mixed,
    Reads,
    Large,
}

/// What others' figures are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Yardstick {
    Peer(Peer),
    /// A third of what the disk takes, for each member writes everything to it.
    Disk,
}

/// One load, on each of some systems in turn.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) kind: Kind,
    pub(crate) mix: Mix,
    pub(crate) connections: u16,
    pub(crate) value_bytes: usize,
    pub(crate) keys: u64,
    pub(crate) peers: Vec<Peer>,
    pub(crate) yardstick: Yardstick,
}

impl Peer {
    pub(crate) const ALL: [Peer; 3] = [Peer::Raftexample, Peer::Etcd, Peer::Original];

    /// What it is called on the page.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Raftexample => "raftexample",
            Peer::Etcd => "etcd",
            Peer::Original => "Go raftexample",
        }
    }

    /// Whether what it answers under such a load is durable and linearizable; if not, why.
    pub(crate) fn promise(self, mix: &Mix) -> &'static str {
        match self {
            Peer::Raftexample | Peer::Etcd => "yes",
            Peer::Original if mix.has(Operation::Put) => "no: answers before commit; not durable",
            Peer::Original => "no: stale reads",
        }
    }
}

/// Every case, in the order in which they are measured and shown.
pub(crate) fn plan(connections: &[u16], value_bytes: usize, keys: u64) -> Vec<Case> {
    let put = Mix::only(Operation::Put);
    let writes = connections.iter().map(|&connections| Case {
        kind: Kind::Writes,
        mix: put,
        connections,
        value_bytes,
        keys,
        peers: Peer::ALL.to_vec(),
        yardstick: Yardstick::Peer(Peer::Etcd),
    });
    let read = |kind, mix, other| Case {
        kind,
        mix,
        connections: MANY,
        value_bytes,
        keys: keys.min(MAX_KEYS_READ),
        peers: vec![Peer::Raftexample, other],
        yardstick: Yardstick::Peer(other),
    };
    let mixed = "put=10,get=90".parse().expect("it is a mix");
    let large = [(64 * KIB, FEW), (64 * KIB, MANY), (KIB * KIB, FEW)];
    let large = large.map(|(value_bytes, connections)| Case {
        kind: Kind::Large,
        mix: put,
        connections,
        value_bytes,
        keys: LARGE_BYTES_KEPT / value_bytes as u64,
        peers: vec![Peer::Raftexample],
        yardstick: Yardstick::Disk,
    });
    writes
        .chain([
            read(Kind::Mixed, mixed, Peer::Etcd),
            read(Kind::Reads, Mix::only(Operation::Get), Peer::Original),
        ])
        .chain(large)
        .collect()
}
