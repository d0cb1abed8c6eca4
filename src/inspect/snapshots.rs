//! Snapshot files: each verified to its end, and compared with what the log says of them (N5, D3).

use std::path::Path;

use wal::Marker;
use wal::fs::DiskFs;

use super::log::Log;
use super::{Damage, Error, Item, Judgement, Out, Snapshot, names};
use crate::snapshot::{self, Failure, SnapshotFile};

/// What a member that is told to start expects of its snapshots.
pub(super) struct Expected<'a> {
    pub(super) cluster: u64,
    pub(super) log: &'a Log,
}

/// Looks through one snapshot.
pub(super) fn alone(path: &Path, out: &mut Out<'_>) -> Result<Option<SnapshotFile>, Error> {
    match verify(path)? {
        Ok(file) => {
            show(&file, out)?;
            out.sound(path, describe(&file))?;
            Ok(Some(file))
        }
        Err(damage) => {
            out.find(path, Judgement::Corrupt(damage))?;
            Ok(None)
        }
    }
}

/// Looks through all snapshots in a directory.
pub(super) fn run(
    directory: &Path,
    expected: Option<&Expected<'_>>,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let all = names(directory).map_err(Error::unreadable("read", directory))?;
    let names = || all.iter().filter(|name| snapshot::is_snapshot_name(name));
    // Without a log that can be asked, each stands for itself.
    let asked = expected.and_then(|expected| Some((expected, expected.log.sound.as_ref()?)));
    let Some((expected, sound)) = asked else {
        for name in names() {
            let path = directory.join(name);
            if name.ends_with(".tmp") {
                out.note(&path, "incomplete; the next start removes it")?;
            } else {
                alone(&path, out)?;
            }
        }
        return strangers(directory, &all, out);
    };

    let commit = expected.log.kept.as_ref().map_or(0, |kept| kept.hard_state.commit);
    let last_index = expected.log.kept.as_ref().map_or(0, |kept| kept.last_index);
    // The log goes on from a snapshot when it holds the snapshot's last entry, or begins after it.
    let is_usable = |m: &Marker| m.index <= commit && sound.term(m.index) == Some(m.term);
    let mut newest = None;
    for name in names() {
        let path = directory.join(name);
        let is_named = |m: &&Marker| snapshot::file_name(m.term, m.index) == **name;
        let Some(marker) = sound.markers().iter().rev().find(is_named) else {
            let mut why = "no marker in the log names it; the next start removes it".to_owned();
            if !name.ends_with(".tmp") {
                match verify(&path)? {
                    Ok(file) if file.header.index > last_index => {
                        why += &format!(". It is newer than the log, which ends at {last_index}");
                    }
                    Ok(_) => {}
                    Err(damage) => why += &format!(". It is damaged: {damage}"),
                }
            }
            out.note(&path, why)?;
            continue;
        };
        let is_newer = |m: &Marker| m.index > marker.index && is_usable(m);
        if !is_usable(marker) && sound.markers().iter().any(is_newer) {
            out.note(&path, "the log does not go on from it; the next start removes it")?;
            continue;
        }
        let Some(file) = alone(&path, out)? else { continue };
        if file.marker != *marker {
            out.corrupt(&path, "it is not the one that the log names")?;
        } else if file.header.cluster != expected.cluster {
            let (found, wanted) = (file.header.cluster, expected.cluster);
            out.corrupt(&path, format!("it is of cluster {found:016x}, not {wanted:016x}"))?;
        } else if is_usable(marker) {
            newest = newest.max(Some(marker.index));
        }
    }
    for marker in sound.markers().iter().filter(|m| is_usable(m) && Some(m.index) > newest) {
        let name = snapshot::file_name(marker.term, marker.index);
        if !all.contains(&name) && newest.is_some() {
            let why = "missing although the log names it; a start goes on from an older one";
            out.note(&directory.join(name), why)?;
        } else if !all.contains(&name) {
            out.corrupt(&directory.join(name), "missing although the log names it")?;
        }
    }
    let is_void = sound.markers().is_empty() && last_index == 0;
    if newest.is_none() && !is_void {
        let first = expected.log.kept.as_ref().map_or(0, |kept| kept.first_index);
        let reason =
            format!("no snapshot that the log, entries {first} to {last_index}, can go on from");
        out.corrupt(directory, reason)?;
    }
    strangers(directory, &all, out)
}

fn strangers(directory: &Path, all: &[String], out: &mut Out<'_>) -> Result<(), Error> {
    for name in all.iter().filter(|name| !snapshot::is_snapshot_name(name)) {
        let what = match name.ends_with(".broken") {
            true => "set aside by a start that found it damaged",
            false => "not this program's; left alone",
        };
        out.note(&directory.join(name), what)?;
    }
    Ok(())
}

fn verify(path: &Path) -> Result<Result<SnapshotFile, Damage>, Error> {
    match snapshot::verify(&DiskFs, path, &|| false) {
        Ok(file) => Ok(Ok(file)),
        Err(Failure::Disk { operation, path, source }) => {
            Err(Error::Unreadable { operation, path, source })
        }
        Err(Failure::Damaged { offset, what, .. }) => {
            let reason = format!("it {what}");
            Ok(Err(Damage { offset: Some(offset), reason, ..Damage::default() }))
        }
        Err(other) => Ok(Err(Damage { reason: other.to_string(), ..Damage::default() })),
    }
}

fn show(file: &SnapshotFile, out: &mut Out<'_>) -> Result<(), Error> {
    let state_bytes = state_bytes(file)?;
    out.show(Item::Snapshot(Snapshot {
        path: &file.path,
        bytes: file.bytes,
        state_bytes,
        cluster: file.header.cluster,
        index: file.header.index,
        term: file.header.term,
        checksum: file.marker.checksum,
        voters: file.header.conf_state.get_voters(),
        learners: file.header.conf_state.get_learners(),
        book: &file.header.book,
    }))
}

fn state_bytes(file: &SnapshotFile) -> Result<u64, Error> {
    snapshot::state_bytes(&DiskFs, file).map_err(|failure| Error::Unreadable {
        operation: "read",
        path: file.path.clone(),
        source: failure.into(),
    })
}

fn describe(file: &SnapshotFile) -> String {
    let n_members = file.header.book.members.len();
    let members = if n_members == 1 { "1 member".into() } else { format!("{n_members} members") };
    format!("everything through entry {}, {members}, {} bytes", file.header.index, file.bytes)
}
