//! A crash in the middle of a write leaves a batch that nobody was told of.

use std::ops::ControlFlow;
use std::process::Command;
use std::sync::Arc;

use tests::binary;
use tests::cluster::{Cluster, READY_TIMEOUT};
use wal::fs::{Access, DiskFs, Fs};
use wal::inspect::{self, Event, Kept};
use wal::{Batch, Options, Wal};

const SECTOR: u64 = 512;

/// Writes what a crash leaves that comes between a write and its sync: the next batch of a log that
/// is whole, with one of its sectors never written. Returns where it begins.
fn tear(directory: &std::path::Path, lost_sector: u64) -> u64 {
    let mut options = Options::default();
    let report = inspect::log(&DiskFs, directory, &mut |event| {
        if let Event::Segment(segment) = event {
            (options.cluster, options.node) = (segment.cluster, segment.node);
        }
        ControlFlow::Continue(())
    });
    let Kept { path, offset, last_index, hard_state, .. } =
        report.expect("it can be read").kept.expect("it is whole");
    let (mut wal, opened) = Wal::open(Arc::new(DiskFs), directory, options, &|| false)
        .expect("a member that was killed leaves a log that opens");
    assert!(opened.torn.is_none(), "{opened:?}");
    let mut batch = Batch::new();
    batch.push_entry(last_index + 1, hard_state.term, false, &[&[0; 4], &[b'x'; 2000]]);
    wal.save(&mut batch).expect("there is room");
    drop(wal);
    let file = DiskFs.open(&path, Access::ReadWrite).expect("it was just written to");
    file.write_all_at(offset + lost_sector * SECTOR, &[0; SECTOR as usize]).expect("it is there");
    offset
}

/// A follower that is killed while a batch is on its way to the disk says that it cuts it off, and
/// catches up with what the others wrote meanwhile.
#[test]
fn a_torn_last_batch_is_cut_and_its_member_catches_up() {
    let mut cluster = Cluster::start(3);
    let follower = (cluster.wait_leader() + 1) % 3;
    let other = (follower + 1) % 3;
    for (round, lost_sector) in [2, 0, 4].into_iter().enumerate() {
        let put = cluster.ask(other, "PUT", "/before", &round.to_string());
        assert_eq!(put.status, 204, "{}", put.text());
        cluster.kill(follower);
        let put = cluster.ask(other, "PUT", "/meanwhile", &round.to_string());
        assert_eq!(put.status, 204, "{}", put.text());
        let offset = tear(&cluster.data_dir(follower).join("wal"), lost_sector);

        let verified = Command::new(binary::raftexample())
            .args(["wal", "verify"])
            .arg(cluster.data_dir(follower))
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert_eq!(verified.status.code(), Some(0), "{said}");
        assert!(said.contains(&format!("torn at offset {offset}")), "{said}");

        cluster.restart(follower);
        cluster.wait_ready(follower);
        let said = cluster.said(follower);
        assert!(said.contains("cut the torn end of the log"), "{said}");
        assert!(said.contains(&format!("offset: {offset}")), "{said}");
        cluster.eventually("the follower has caught up", READY_TIMEOUT, || {
            let read = cluster.ask(follower, "GET", "/meanwhile?consistency=stale", "");
            if read.text() == round.to_string() { Ok(()) } else { Err(read.text()) }
        });
        let put = cluster.ask(follower, "PUT", "/after", &round.to_string());
        assert_eq!(put.status, 204, "{}", put.text());
        let read = cluster.ask(other, "GET", "/after", "");
        assert_eq!(read.text(), round.to_string());
    }
}
