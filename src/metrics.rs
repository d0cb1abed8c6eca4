//! What a node counts and measures, for Prometheus.
//!
//! The loop records as it goes: an atomic add, or a histogram's uncontended lock. Everything that
//! [`Status`] already knows is read from there when somebody scrapes, and costs the loop nothing.
//! Refuses to be a log: no label has a value that the network chooses.
//!
//! Invariants:
//! - M1 Every proposal is counted once, as it is answered, refused at the door or dropped.
//! - M2 Every label's values are listed in this program: ids of members, and constants.

use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelValue, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::channel::{Outcome, Read, Refusal, SAMPLED, Stage, Unknown};
use crate::membership::{ChangeRefusalKind, Changed};
use crate::status::{Role, Shared, Status};

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// A node's counters, histograms and gauges. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    proposals: Family<Labels<2>, Counter>,
    /// The one of `proposals` that is counted all the time.
    applied: Counter,
    reads: Family<Labels<2>, Counter>,
    /// The one of `reads` that is counted all the time.
    reads_ready: Counter,
    changes: Family<Labels<2>, Counter>,
    dropped: Family<Labels<1>, Counter>,
    role_changes: Family<Labels<1>, Counter>,
    leader_changes: Counter,
    stages: Family<Labels<1>, Histogram, fn() -> Histogram>,
    sync: Histogram,
    turn: Histogram,
    tick_late: Histogram,
    snapshot_taken: Histogram,
    snapshot_taken_bytes: Counter,
    snapshot_installed: Histogram,
    snapshot_installed_bytes: Counter,
    snapshots_sent: Family<Labels<1>, Counter>,
}

/// 1 µs to a second: a stage may be next to nothing.
fn brief() -> Histogram {
    Histogram::new(exponential_buckets(1e-6, 2.5, 16))
}

/// 16 µs to half a second: a sync takes 0.1 ms on a good disk and 30 ms on a bad one.
fn short() -> Histogram {
    Histogram::new(exponential_buckets(16e-6, 2.0, 16))
}

/// 1 ms to 17 minutes: a snapshot may be of any size.
fn long() -> Histogram {
    Histogram::new(exponential_buckets(1e-3, 4.0, 11))
}

impl Metrics {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let proposals = Family::<Labels<2>, Counter>::default();
        let reads = Family::<Labels<2>, Counter>::default();
        let inner = Inner {
            shared,
            applied: proposals.get_or_create_owned(&outcome("applied", "")),
            proposals,
            reads_ready: reads.get_or_create_owned(&outcome("ready", "")),
            reads,
            changes: Family::default(),
            dropped: Family::default(),
            role_changes: Family::default(),
            leader_changes: Counter::default(),
            stages: Family::new_with_constructor(brief as fn() -> Histogram),
            sync: short(),
            turn: short(),
            tick_late: short(),
            snapshot_taken: long(),
            snapshot_taken_bytes: Counter::default(),
            snapshot_installed: long(),
            snapshot_installed_bytes: Counter::default(),
            snapshots_sent: Family::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds everything to `registry`, under names that begin with `raft_`.
    pub fn register(&self, registry: &mut Registry) {
        let own = &*self.inner;
        let registry = registry.sub_registry_with_prefix("raft");
        let counters = [
            ("proposals", "Proposals made here, by how they ended", &own.proposals),
            ("reads", "Reads asked here, by how they ended", &own.reads),
            ("membership_changes", "Membership calls made here, by how they ended", &own.changes),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let counters = [
            ("messages_dropped", "Messages that raft was not shown, by reason", &own.dropped),
            ("role_changes", "How often this member took a role", &own.role_changes),
            ("snapshots_sent", "Snapshots sent to other members", &own.snapshots_sent),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let help = "How often this member saw another leader";
        registry.register("leader_changes", help, own.leader_changes.clone());
        let help = format!(
            "Where a write's time goes (one in {SAMPLED} writes asked here, and those traced)"
        );
        registry.register_with_unit("proposal_stage", help, Unit::Seconds, own.stages.clone());
        let times = [
            ("wal_sync", "What making a batch of the log durable took", &own.sync),
            ("turn", "How long the loop worked between two waits", &own.turn),
            ("tick_late", "How late the loop came to a tick", &own.tick_late),
            ("snapshot_taken", "What taking a snapshot took", &own.snapshot_taken),
            ("snapshot_installed", "What installing a snapshot took", &own.snapshot_installed),
        ];
        for (name, help, time) in times {
            registry.register_with_unit(name, help, Unit::Seconds, time.clone());
        }
        let sizes = [
            ("snapshot_taken", "The size of the snapshots taken", &own.snapshot_taken_bytes),
            ("snapshot_installed", "And of those installed", &own.snapshot_installed_bytes),
        ];
        for (name, help, size) in sizes {
            registry.register_with_unit(name, help, Unit::Bytes, size.clone());
        }
        registry.register_collector(Box::new(Scrape { shared: Arc::clone(&own.shared) }));
    }

    pub(crate) fn proposal<R>(&self, ended: &Outcome<R>) {
        let labels = match ended {
            Outcome::Applied { .. } => {
                self.inner.applied.inc();
                return;
            }
            Outcome::Refused(refusal) => outcome("refused", refusal_name(*refusal)),
            Outcome::Unknown(unknown) => outcome("unknown", unknown_name(*unknown)),
        };
        self.inner.proposals.get_or_create(&labels).inc();
    }

    pub(crate) fn read(&self, ended: &Read) {
        match ended {
            Read::Ready { .. } => self.inner.reads_ready.inc(),
            Read::Refused(refusal) => {
                let labels = outcome("refused", refusal_name(*refusal));
                self.inner.reads.get_or_create(&labels).inc()
            }
        };
    }

    pub(crate) fn change(&self, ended: &Changed) {
        let labels = match ended {
            Changed::Done { .. } => outcome("done", ""),
            Changed::Refused(refusal) => outcome("refused", change_refusal_name(refusal.kind)),
            Changed::Unknown(unknown) => outcome("unknown", unknown_name(*unknown)),
        };
        self.inner.changes.get_or_create(&labels).inc();
    }
}

/// What the loop and its helpers record.
impl Metrics {
    /// A traced write was answered as applied.
    pub(crate) fn stages(&self, stages: impl Iterator<Item = (Stage, Duration)>) {
        for (stage, took) in stages {
            let histogram = self.inner.stages.get_or_create(&[("stage", stage.name())]);
            histogram.observe(took.as_secs_f64());
        }
    }

    /// A batch of the log became durable.
    pub(crate) fn sync(&self, took: Duration) {
        self.inner.sync.observe(took.as_secs_f64());
    }

    /// The loop worked this long between two waits.
    pub(crate) fn turn(&self, took: Duration) {
        self.inner.turn.observe(took.as_secs_f64());
    }

    /// A tick was due this long ago.
    pub(crate) fn tick_late(&self, late: Duration) {
        self.inner.tick_late.observe(late.as_secs_f64());
    }

    /// A message was not shown to raft. The reason is one of vet's own constants (M2).
    pub(crate) fn dropped(&self, reason: &'static str) {
        self.inner.dropped.get_or_create(&[("reason", reason)]).inc();
    }

    /// This member has another role than before.
    pub(crate) fn role_changed(&self, role: Role) {
        self.inner.role_changes.get_or_create(&[("role", role.name())]).inc();
    }

    /// Another member leads than the last one that did.
    pub(crate) fn leader_changed(&self) {
        self.inner.leader_changes.inc();
    }

    /// A snapshot of this member's own is durable.
    pub(crate) fn snapshot_taken(&self, took: Duration, bytes: u64) {
        self.inner.snapshot_taken.observe(took.as_secs_f64());
        self.inner.snapshot_taken_bytes.inc_by(bytes);
    }

    /// A snapshot that another member sent is installed.
    pub(crate) fn snapshot_installed(&self, took: Duration, bytes: u64) {
        self.inner.snapshot_installed.observe(took.as_secs_f64());
        self.inner.snapshot_installed_bytes.inc_by(bytes);
    }

    /// Sending a snapshot ended, well or not.
    pub(crate) fn snapshot_sent<T, E>(&self, result: &Result<T, E>) {
        let result = if result.is_ok() { "delivered" } else { "failed" };
        self.inner.snapshots_sent.get_or_create(&[("result", result)]).inc();
    }
}

fn outcome(outcome: &'static str, reason: &'static str) -> Labels<2> {
    [("outcome", outcome), ("reason", reason)]
}

fn refusal_name(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NoLeader => "no_leader",
        Refusal::Overloaded => "overloaded",
        Refusal::LowDisk { .. } => "low_disk",
        Refusal::Superseded => "superseded",
        Refusal::TooLarge => "too_large",
        Refusal::ShuttingDown => "shutting_down",
        Refusal::NotLeader => "not_leader",
        Refusal::Unavailable => "unavailable",
        Refusal::MinIndex => "min_index",
        Refusal::Empty => "empty",
    }
}

fn unknown_name(unknown: Unknown) -> &'static str {
    match unknown {
        Unknown::Deadline => "deadline",
        Unknown::Restored => "restored",
        Unknown::Stopped => "stopped",
    }
}

fn change_refusal_name(kind: ChangeRefusalKind) -> &'static str {
    match kind {
        ChangeRefusalKind::Invalid => "invalid",
        ChangeRefusalKind::NotFound => "not_found",
        ChangeRefusalKind::Pending => "pending",
        ChangeRefusalKind::Unsafe => "unsafe",
        ChangeRefusalKind::Conflict => "conflict",
        ChangeRefusalKind::Removed => "removed",
        ChangeRefusalKind::OtherIncarnation => "other_incarnation",
        ChangeRefusalKind::NoLeader => "no_leader",
        ChangeRefusalKind::Overloaded => "overloaded",
        ChangeRefusalKind::ShuttingDown => "shutting_down",
        ChangeRefusalKind::Failed => "failed",
    }
}

/// Turns a node's status into gauges whenever somebody looks.
#[derive(Debug)]
struct Scrape {
    shared: Arc<Shared>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let status = self.shared.status();
        let mut gauges = Gauges { encoder: &mut encoder };
        let roles = [Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader];
        let roles = roles.map(|role| (("role", role.name()), u64::from(role == status.role)));
        gauges.each("role", "1 for the role that this member has", None, roles)?;
        let numbers = [
            ("term", "The current term", status.term),
            ("leader_id", "Who leads; 0: nobody is known", status.leader_id),
            ("ready", "1 when this member has caught up", u64::from(status.ready)),
            ("commit_index", "The last index known to be committed", status.commit_index),
            ("published_index", "The last index handed to the store", status.published_index),
            ("applied_index", "The last index that the store has applied", status.applied_index),
            ("first_index", "The first index of the log", status.first_index),
            ("last_index", "The last index of the log", status.last_index),
            ("snapshot_index", "The last index in the newest snapshot", status.snapshot_index),
            ("snapshot_taking", "1 while one is taken", u64::from(status.taking_snapshot)),
            ("requests_pending", "Requests that wait for an answer", status.pending_requests),
        ];
        for (name, help, value) in numbers {
            gauges.one(name, help, None, value)?;
        }
        let sizes = [
            ("snapshot_size", "The newest snapshot's file", status.snapshot_bytes),
            ("requests_pending_size", "Proposals that wait for an answer", status.pending_bytes),
            ("commit_queue_size", "Entries that wait for the store", status.commit_queue_bytes),
        ];
        for (name, help, value) in sizes {
            gauges.one(name, help, Some(&Unit::Bytes), value)?;
        }
        let space = &self.shared.space;
        if let Some(free) = space.free() {
            let help = "What the disk of the data directory has room for";
            gauges.one("disk_free", help, Some(&Unit::Bytes), free)?;
        }
        let help = "1 while writes are refused because the disk is nearly full";
        gauges.one("disk_low", help, None, u64::from(space.shortage().is_some()))?;
        let age = self.shared.last_turn_age().as_secs_f64();
        let help = "The time since the loop last went round";
        gauges.one("last_turn_age", help, Some(&Unit::Seconds), age)?;
        peers(&mut gauges, &status)
    }
}

/// What is known of each of the others, by the label `peer`.
fn peers(gauges: &mut Gauges<'_, '_>, status: &Status) -> Result<(), Error> {
    let members = status.book.members.keys().filter(|id| **id != status.id);
    let lag = status.matched.iter().filter(|(id, _)| **id != status.id);
    let lag = lag.map(|(id, matched)| (peer(*id), status.last_index.saturating_sub(*matched)));
    gauges.each("peer_match_lag", "Entries that a member does not have yet", None, lag)?;
    let leads = status.role == Role::Leader;
    let live = members.filter(|_| leads);
    let live = live.map(|id| (peer(*id), u64::from(status.live.contains(id))));
    gauges.each("peer_live", "1 when the leader has heard it lately", None, live)?;
    for (name, transfers) in [("sending", &status.sending), ("receiving", &status.receiving)] {
        let bytes = Some(&Unit::Bytes);
        let moved = transfers.iter().map(|transfer| (peer(transfer.peer), transfer.bytes));
        gauges.each(&format!("snapshot_{name}"), "How much of it has been moved", bytes, moved)?;
        let total = transfers.iter().map(|transfer| (peer(transfer.peer), transfer.total));
        gauges.each(&format!("snapshot_{name}_total"), "How much there is", bytes, total)?;
    }
    let links = || status.links.iter();
    let connected = links().map(|(id, link)| (peer(*id), u64::from(link.connected)));
    gauges.each("peer_connected", "1 while both streams to it are open", None, connected)?;
    let queued = links().map(|(id, link)| (peer(*id), link.queued_bytes));
    gauges.each("peer_queue", "What waits to be sent to it", Some(&Unit::Bytes), queued)?;
    let sent = links().map(|(id, link)| (peer(*id), link.sent_bytes));
    gauges.counters("peer_sent", "What was written to it", Some(&Unit::Bytes), sent)?;
    let lost = links().map(|(id, link)| (peer(*id), link.dropped));
    gauges.counters("peer_dropped", "Frames to it that were dropped unsent", None, lost)
}

fn peer(id: u64) -> (&'static str, u64) {
    ("peer", id)
}

/// Writes families whose values are known only now.
struct Gauges<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Gauges<'_, '_> {
    fn one<V>(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: V) -> Result<(), Error>
    where
        ConstGauge<V>: EncodeMetric,
    {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
    }

    fn each<L: EncodeLabelValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = ((&'static str, L), u64)>,
    ) -> Result<(), Error> {
        let values = values.into_iter().map(|(label, value)| (label, ConstGauge::new(value)));
        self.family(name, help, unit, values)
    }

    fn counters<L: EncodeLabelValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl Iterator<Item = ((&'static str, L), u64)>,
    ) -> Result<(), Error> {
        let values = values.map(|(label, value)| (label, ConstCounter::new(value)));
        self.family(name, help, unit, values)
    }

    /// A family without a member is left out.
    fn family<L: EncodeLabelValue, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl Iterator<Item = ((&'static str, L), M)>,
    ) -> Result<(), Error> {
        let mut values = values.peekable();
        let Some((_, first)) = values.peek() else { return Ok(()) };
        let kind = first.metric_type();
        let mut family = self.encoder.encode_descriptor(name, help, unit, kind)?;
        for (label, metric) in values {
            metric.encode(family.encode_family(&[label])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::membership::{Book, Founder};
    use crate::testing::{FakeNode, Verdict};
    use crate::{Config, Link, Transfer};

    fn scrape(metrics: &Metrics) -> String {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    fn expect(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no {line:?} in\n{text}");
        }
    }

    /// M1: alerts are made of these. Answered, refused at the door, too large and dropped by the
    /// consumer: each is counted once, under its own name.
    #[test]
    fn proposals_are_counted_once_however_they_end() {
        let (node, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
        let soon = Instant::now() + Duration::from_secs(60);
        let propose = |data: Vec<u8>| channels.handle.propose(data.into(), soon);
        for verdict in [Verdict::Refuse(Refusal::Superseded), Verdict::Lose(Unknown::Deadline)] {
            node.decide(verdict);
            propose(vec![0]).unwrap().wait();
        }
        assert_eq!(propose(vec![0; 4 << 20]).unwrap_err(), Refusal::TooLarge);
        node.decide(Verdict::Commit);
        let pending = [0; 3].map(|_| propose(vec![0]).unwrap());
        for (position, commit) in channels.commits.iter().skip(1).take(3).enumerate() {
            let crate::Commit::Entries(entries) = commit else { panic!("{commit:?}") };
            // The last one is dropped, as a consumer does that has restored.
            let answered = entries.items.into_iter().filter(|_| position < 2);
            answered.for_each(|item| item.answer("".into()));
        }
        pending.into_iter().for_each(|pending| drop(pending.wait()));
        node.decide(Verdict::Refuse(Refusal::NotLeader));
        channels.handle.read(Default::default(), 0, soon).unwrap().wait();
        channels.handle.shutdown();
        assert_eq!(propose(vec![0]).unwrap_err(), Refusal::ShuttingDown);
        let text = scrape(channels.handle.metrics());
        let total = |outcome: &str, reason: &str, count: u64| {
            let line = format!("{{outcome=\"{outcome}\",reason=\"{reason}\"}} {count}");
            expect(&text, &[&format!("raft_proposals_total{line}")]);
        };
        total("applied", "", 2);
        total("refused", "superseded", 1);
        total("refused", "too_large", 1);
        total("refused", "shutting_down", 1);
        total("unknown", "deadline", 1);
        total("unknown", "stopped", 1);
        let read = "raft_reads_total{outcome=\"refused\",reason=\"not_leader\"} 1";
        expect(&text, &[read, "raft_requests_pending 0"]);
    }

    /// Dashboards are built on these names: they are kept.
    #[test]
    fn a_scrape_shows_the_status_and_what_was_recorded() {
        let (node, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
        node.update_status(|status| {
            let founder = |id| Founder { id, url: format!("http://h:{id}") };
            status.book = Book::founding(&[founder(1), founder(2), founder(3)]);
            (status.role, status.term, status.leader_id) = (Role::Leader, 7, 1);
            (status.last_index, status.snapshot_bytes) = (90, 1000);
            status.matched = [(1, 90), (2, 88)].into();
            status.live = [1, 2].into();
            status.sending = vec![Transfer { peer: 3, index: 80, bytes: 10, total: 40 }];
            let link = Link { connected: true, queued_bytes: 5, sent_bytes: 6, dropped: 7 };
            status.links.insert(2, link);
        });
        let metrics = channels.handle.metrics();
        metrics.sync(Duration::from_millis(1));
        metrics.turn(Duration::from_millis(1));
        metrics.tick_late(Duration::from_secs(2));
        metrics.dropped("an append with a gap");
        metrics.role_changed(Role::Leader);
        metrics.leader_changed();
        metrics.snapshot_taken(Duration::from_secs(1), 1000);
        metrics.snapshot_installed(Duration::from_secs(1), 2000);
        metrics.snapshot_sent(&Err::<(), ()>(()));
        expect(
            &scrape(metrics),
            &[
                "raft_term 7",
                "raft_leader_id 1",
                "raft_role{role=\"leader\"} 1",
                "raft_role{role=\"follower\"} 0",
                "raft_last_index 90",
                "raft_snapshot_size_bytes 1000",
                "raft_peer_match_lag{peer=\"2\"} 2",
                "raft_peer_live{peer=\"2\"} 1",
                "raft_peer_live{peer=\"3\"} 0",
                "raft_snapshot_sending_bytes{peer=\"3\"} 10",
                "raft_snapshot_sending_total_bytes{peer=\"3\"} 40",
                "raft_peer_connected{peer=\"2\"} 1",
                "raft_peer_sent_bytes_total{peer=\"2\"} 6",
                "raft_peer_dropped_total{peer=\"2\"} 7",
                "raft_wal_sync_seconds_count 1",
                "raft_turn_seconds_count 1",
                "raft_tick_late_seconds_bucket{le=\"+Inf\"} 1",
                "raft_messages_dropped_total{reason=\"an append with a gap\"} 1",
                "raft_role_changes_total{role=\"leader\"} 1",
                "raft_leader_changes_total 1",
                "raft_snapshot_taken_seconds_count 1",
                "raft_snapshot_taken_bytes_total 1000",
                "raft_snapshot_installed_bytes_total 2000",
                "raft_snapshots_sent_total{result=\"failed\"} 1",
                "# EOF",
            ],
        );
    }
}
