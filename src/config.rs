//! What a node needs to be told, with units, defaults and bounds.
//!
//! Nothing here is read from a global or repaired silently: [`Config::validate`] refuses and
//! explains.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::membership::Founder;

/// Ticks per heartbeat interval. Finer ticks than heartbeats spread elections without slowing
/// heartbeats down.
pub(crate) const HEARTBEAT_TICKS: u32 = 10;

/// The largest encoded command that any configuration may allow, in bytes. The peer protocol's
/// frames (4 MiB) must hold an entry with everything around it.
pub const MAX_ENTRY_BYTES: u64 = (3 << 20) + (8 << 10);

/// Everything a node is told at its start. [`Config::new`] fills in the defaults.
#[derive(Debug, Clone)]
pub struct Config {
    /// This member's id: any number but zero.
    pub id: u64,
    /// Where this member keeps its log, snapshots and identity. Created when missing.
    pub data_dir: PathBuf,
    /// The members a new cluster begins with, this one among them. Only looked at while the data
    /// directory is empty; afterwards the replicated address book rules.
    pub founders: Vec<Founder>,
    /// Tells apart clusters that are founded with the same members.
    pub cluster_token: String,
    /// The address to listen on for peers. Default: the host and port of this member's own URL.
    pub peer_listen: Option<SocketAddr>,
    /// Where clients reach this member, told to the others in every stream's head.
    pub client_url: String,
    /// How often a leader makes itself heard. Default 100 ms; at least 10 ms.
    pub heartbeat_interval: Duration,
    /// Silence after which a follower asks to be elected; the actual wait is drawn between once
    /// and one and a half times this. Default 1 s; at least five heartbeat intervals, at most
    /// 50 s.
    pub election_timeout: Duration,
    /// The largest command, in bytes. Default 1 MiB + 8 KiB; at most [`MAX_ENTRY_BYTES`].
    pub max_entry_bytes: u64,
    /// How many proposals and reads may wait at once. Default 16,384.
    pub max_pending: u64,
    /// How many bytes of proposals may wait at once. Default 16 MiB.
    pub max_pending_bytes: u64,
    /// How long a stopping node waits for what is on its way. Default 5 s.
    pub shutdown_timeout: Duration,
    /// The size of a log segment in bytes. Default 64 MiB; at least 64 KiB.
    pub wal_segment_bytes: u64,
    /// Begin without a cluster and join the one that `founders` lists, instead of founding one.
    /// Only looked at while the data directory is empty.
    pub join: bool,
    /// When snapshots are taken and what is kept after one.
    pub snapshots: SnapshotPolicy,
    /// Keep everything in memory: nothing is written, and a restart is a member that lost its
    /// data directory. For trying things out.
    pub in_memory: bool,
    /// Below this many free bytes on the disk of the data directory, proposals are refused: what is
    /// left is for what keeps the member going. Default 256 MiB: the segment of the log that is
    /// prepared ahead and the one after it, 64 MiB each, and a snapshot of 128 MiB. 0: off.
    pub min_free_bytes: u64,
    /// How the disk fails, for tests: a script for the log's `FaultFs`. Default: it does not.
    #[cfg(feature = "faults")]
    pub faults: Option<String>,
}

/// With so much log a snapshot that is due for bytes waits no longer, unless half the last one's size
/// is more.
const ENOUGH_BYTES: u64 = 256 << 20;

/// When snapshots are taken, and what is kept after one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// A snapshot is due when more entries than this were published since the last one; 0: never
    /// for that reason. Default 10,000.
    pub entries: u64,
    /// A snapshot is due when the entries since the last one weigh more than this, in bytes; 0:
    /// never for that reason. Default 64 MiB.
    pub bytes: u64,
    /// A snapshot that is due also waits until the log since the last one is at least half that
    /// one's size, so that a large state is not written over and over. One that is due for bytes
    /// alone also waits for four times that size or 256 MiB, whichever is less: with large entries
    /// snapshots would otherwise take as much of the disk as the log does. Default true.
    pub proportional: bool,
    /// How many snapshot files are kept. With two or more, all of the log since the one before the
    /// newest is kept too, so that a start that finds the newest spoilt goes on from there; older
    /// ones stay only as long as the log reaches back to them. Default 2; at least 1.
    pub keep: u64,
    /// How many entries before a snapshot stay in the log, for members a little behind. Default
    /// 10,000.
    pub catchup_entries: u64,
    /// How many bytes of log may stay once a snapshot has been taken, whatever the entries say,
    /// unless the one before it needs more. Default 256 MiB.
    pub retain_bytes: u64,
}

impl SnapshotPolicy {
    /// Whether a snapshot is due after so many entries, which weigh so many bytes, since one of
    /// `newest_bytes`.
    pub(crate) fn is_due(&self, n_entries: u64, log_bytes: u64, newest_bytes: u64) -> bool {
        let many = self.entries > 0 && n_entries > self.entries;
        let large = self.bytes > 0 && log_bytes > self.bytes;
        if !self.proportional {
            return many || large;
        }
        let is_worth = log_bytes >= newest_bytes / 2;
        let is_enough = log_bytes >= newest_bytes.saturating_mul(4).min(ENOUGH_BYTES);
        is_worth && (many || large && is_enough)
    }
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self {
            entries: 10_000,
            bytes: 64 << 20,
            proportional: true,
            keep: 2,
            catchup_entries: 10_000,
            retain_bytes: 256 << 20,
        }
    }
}

impl Config {
    /// The defaults, for member `id` of the cluster that `founders` begin.
    #[must_use]
    pub fn new(id: u64, founders: Vec<Founder>, data_dir: PathBuf) -> Self {
        Self {
            id,
            data_dir,
            founders,
            cluster_token: String::new(),
            peer_listen: None,
            client_url: String::new(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            max_entry_bytes: (1 << 20) + (8 << 10),
            max_pending: 16 << 10,
            max_pending_bytes: 16 << 20,
            shutdown_timeout: Duration::from_secs(5),
            wal_segment_bytes: 64 << 20,
            join: false,
            snapshots: SnapshotPolicy::default(),
            in_memory: false,
            min_free_bytes: 256 << 20,
            #[cfg(feature = "faults")]
            faults: None,
        }
    }

    /// Refuses a configuration that cannot work. Who the members are is not looked at: of a data
    /// directory that has been used, its address book says that.
    ///
    /// # Errors
    ///
    /// Every violated bound, each as a sentence that names the field, its value and the bound.
    pub fn validate(&self) -> Result<(), String> {
        let mut wrong = Vec::new();
        let mut check = |holds: bool, what: String| {
            if !holds {
                wrong.push(what);
            }
        };
        check(self.id != 0, "the id is 0; ids are whole numbers from 1".into());
        check(
            self.heartbeat_interval >= Duration::from_millis(10),
            format!("heartbeat interval {:?} is below 10ms", self.heartbeat_interval),
        );
        check(
            self.election_timeout >= self.heartbeat_interval * 5,
            format!(
                "election timeout {:?} is below five heartbeat intervals of {:?}",
                self.election_timeout, self.heartbeat_interval
            ),
        );
        check(
            self.election_timeout <= Duration::from_secs(50),
            format!("election timeout {:?} is above 50s", self.election_timeout),
        );
        check(
            (1..=MAX_ENTRY_BYTES).contains(&self.max_entry_bytes),
            format!("entries of {} bytes: 1 to {MAX_ENTRY_BYTES} work", self.max_entry_bytes),
        );
        check(self.max_pending > 0, "max_pending is 0: nothing could ever be proposed".into());
        check(
            self.max_pending_bytes >= self.max_entry_bytes,
            "max_pending_bytes is below max_entry_bytes: the largest command would not fit".into(),
        );
        check(
            self.wal_segment_bytes >= 64 << 10,
            format!("log segments of {} bytes are below 64 KiB", self.wal_segment_bytes),
        );
        check(
            self.snapshots.keep > 0,
            "snapshots.keep is 0: a log without a snapshot could not be read again".into(),
        );
        #[cfg(feature = "faults")]
        if let Err(why) = self.fail(std::sync::Arc::new(wal::fs::DiskFs)) {
            wrong.push(why);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// Refuses what cannot begin a data directory: a member that its own cluster does not list
    /// has no URL.
    pub(crate) fn validate_founding(&self) -> Result<(), String> {
        if self.founders.iter().any(|founder| founder.id == self.id) {
            return Ok(());
        }
        let ids = join(self.founders.iter().map(|founder| founder.id));
        Err(format!("id {} is not in the cluster, which has {ids}", self.id))
    }

    /// Has a file system fail as the configuration says.
    #[cfg(feature = "faults")]
    pub(crate) fn fail(
        &self,
        fs: std::sync::Arc<dyn wal::fs::Fs>,
    ) -> Result<std::sync::Arc<dyn wal::fs::Fs>, String> {
        let Some(script) = &self.faults else { return Ok(fs) };
        let faulty = wal::fs::FaultFs::parse(script, fs).map_err(|why| format!("faults: {why}"))?;
        Ok(std::sync::Arc::new(faulty))
    }

    /// One tick of raft's clock.
    pub(crate) fn tick(&self) -> Duration {
        self.heartbeat_interval / HEARTBEAT_TICKS
    }

    /// The election timeout in ticks.
    pub(crate) fn election_ticks(&self) -> usize {
        let ticks = self.election_timeout.as_micros() / self.tick().as_micros().max(1);
        usize::try_from(ticks).unwrap_or(usize::MAX)
    }
}

fn join(ids: impl Iterator<Item = u64>) -> String {
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a snapshot is due by default: what it costs stays in proportion to what the log costs,
    /// and so does what a start has to replay.
    #[test]
    fn a_snapshot_waits_for_log_in_proportion() {
        const MIB: u64 = 1 << 20;
        let default = SnapshotPolicy::default();
        // Entries, their bytes and the newest snapshot's that make the first due one.
        let table = [
            ("many, nothing before", 10_001, 0, 0),
            ("many, half the last", 10_001, 50 * MIB, 100 * MIB),
            ("many and large, half the last", 10_001, 512 * MIB, 1024 * MIB),
            ("large, nothing before", 1, 64 * MIB + 1, 0),
            ("large, a small one before", 10_000, 64 * MIB + 1, 16 * MIB),
            ("large, four times the last", 10_000, 80 * MIB, 20 * MIB),
            ("large, enough", 10_000, 256 * MIB, 100 * MIB),
            ("large, half the last", 10_000, 500 * MIB, 1000 * MIB),
        ];
        for (what, n_entries, log_bytes, newest) in table {
            let is_due = |n_entries, log_bytes| default.is_due(n_entries, log_bytes, newest);
            assert!(is_due(n_entries, log_bytes), "{what}");
            assert!(!is_due(n_entries - 1, log_bytes.min(64 * MIB)), "{what}: less of both");
            assert!(log_bytes == 0 || !is_due(n_entries, log_bytes - 1), "{what}: fewer bytes");
        }
        assert!(default.is_due(10_001, u64::MAX, u64::MAX), "no size overflows");

        let obeyed = SnapshotPolicy { proportional: false, ..default };
        assert!(obeyed.is_due(10_001, 0, 1 << 40) && obeyed.is_due(1, 64 * MIB + 1, 1 << 40));
        let never = SnapshotPolicy { entries: 0, bytes: 0, ..default };
        assert!(!never.is_due(u64::MAX, u64::MAX, 0));
    }
}
