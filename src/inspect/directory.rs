//! A data directory: whose it is, and whether what is in it belongs together.

use std::path::Path;

use wal::fs::{DiskFs, Fs, read_file};

use super::snapshots::{self, Expected};
use super::{Error, Item, Out, log, names};
use crate::directory::{IDENTITY, LOCK, LOST, REMOVED, SNAP, WAL};
use crate::identity::Identity;

/// Files that keep a member from ever starting here again, and say why.
const TOMBSTONES: [&str; 2] = [REMOVED, LOST];
const MAX_TOMBSTONE_BYTES: u64 = 64 << 10;
const MAX_IDENTITY_BYTES: u64 = 4096;

/// Looks through a data directory.
pub(super) fn run(path: &Path, out: &mut Out<'_>) -> Result<(), Error> {
    let names = names(path).map_err(Error::unreadable("read", path))?;
    let has = |name: &str| names.iter().any(|other| other == name);
    // None: there is none. Within: it is damaged, which has been said.
    let identity = has(IDENTITY).then(|| identity(&path.join(IDENTITY), out)).transpose()?;
    if has(crate::pins::FILE) {
        pins(&path.join(crate::pins::FILE), out)?;
    }
    for name in TOMBSTONES.into_iter().filter(|name| has(name)) {
        tombstone(&path.join(name), out)?;
    }
    let cluster = identity.flatten().map_or(0, |identity| identity.cluster);
    let log = if has(WAL) { contents(&path.join(WAL), cluster, out)? } else { None };
    if !has(WAL) && cluster != 0 {
        out.corrupt(&path.join(WAL), "it is missing: the identity file says that it was in use")?;
    }
    if let Some(log) = &log {
        belongs(path, identity, log, out)?;
    }
    let snap = path.join(SNAP);
    match &log {
        Some(log) if has(SNAP) => {
            // Whatever the identity says: that it differs from the log has been said.
            let cluster = log.owner.map_or(cluster, |(cluster, _)| cluster);
            snapshots::run(&snap, Some(&Expected { cluster, log }), out)?;
        }
        None if has(SNAP) => snapshots::run(&snap, None, out)?,
        Some(_) if cluster != 0 => out.corrupt(&snap, "it is missing")?,
        _ => {}
    }
    others(path, &names, out)
}

/// Looks through the log; none if the directory of one that was never begun is empty.
fn contents(path: &Path, cluster: u64, out: &mut Out<'_>) -> Result<Option<log::Log>, Error> {
    let names = names(path).map_err(Error::unreadable("read", path))?;
    let is_begun = names.iter().any(|name| name.ends_with(".wal"));
    if is_begun || cluster != 0 { log::run(path, out).map(Some) } else { Ok(None) }
}

/// Whether the log is that of the member that the identity names.
fn belongs(
    path: &Path,
    identity: Option<Option<Identity>>,
    log: &log::Log,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    match (identity, log.owner) {
        (Some(Some(identity)), Some((cluster, node)))
            if identity.cluster != 0 && (identity.cluster, identity.node) != (cluster, node) =>
        {
            let reason = format!(
                "it is the log of member {node} of cluster {cluster:016x}; the identity file names \
                 member {} of cluster {:016x}",
                identity.node, identity.cluster
            );
            out.corrupt(&path.join(WAL), reason)
        }
        (None, Some(_)) => {
            let is_founding = log.kept.as_ref().is_some_and(|kept| {
                kept.last_index <= 1 && kept.hard_state.term <= 1 && kept.hard_state.vote == 0
            });
            if is_founding {
                out.note(path, "the founding was cut off; the next start begins it again")
            } else {
                let file = path.join(IDENTITY);
                out.corrupt(&file, "it is missing although there is a log; restore it from a copy")
            }
        }
        _ => Ok(()),
    }
}

/// Reads the identity file; none if it is damaged, which has been said then.
pub(super) fn identity(path: &Path, out: &mut Out<'_>) -> Result<Option<Identity>, Error> {
    let bytes = read_file(&DiskFs, path, MAX_IDENTITY_BYTES);
    match Identity::decode(&bytes.map_err(Error::unreadable("read", path))?) {
        Ok(identity) => {
            let Identity { node, incarnation, cluster } = identity;
            out.show(Item::Identity { node, cluster, incarnation })?;
            let of = match cluster {
                0 => "joining a cluster".to_owned(),
                cluster => format!("of cluster {cluster:016x}"),
            };
            out.sound(path, format!("member {node} {of}"))?;
            Ok(Some(identity))
        }
        Err(what) => {
            out.corrupt(path, format!("it {what}"))?;
            Ok(None)
        }
    }
}

/// Reads the file of pins.
pub(super) fn pins(path: &Path, out: &mut Out<'_>) -> Result<(), Error> {
    let bytes = read_file(&DiskFs, path, crate::pins::MAX_FILE_BYTES);
    match crate::pins::decode(&bytes.map_err(Error::unreadable("read", path))?) {
        Ok(pins) => {
            out.show(Item::Pins(&pins))?;
            let n = pins.len();
            out.sound(
                path,
                if n == 1 { "1 other member".into() } else { format!("{n} other members") },
            )
        }
        Err(what) => out.corrupt(path, format!("it {what}")),
    }
}

fn tombstone(path: &Path, out: &mut Out<'_>) -> Result<(), Error> {
    let bytes = read_file(&DiskFs, path, MAX_TOMBSTONE_BYTES);
    let bytes = bytes.map_err(Error::unreadable("read", path))?;
    let why = String::from_utf8_lossy(&bytes);
    out.show(Item::Tombstone { path, why: why.trim() })?;
    out.note(path, format!("no member starts here again: {}", why.trim()))
}

fn others(path: &Path, names: &[String], out: &mut Out<'_>) -> Result<(), Error> {
    let known = [IDENTITY, LOCK, WAL, SNAP, crate::pins::FILE, "lost+found"];
    for name in names.iter().filter(|name| !known.contains(&name.as_str())) {
        if TOMBSTONES.contains(&name.as_str()) {
            continue;
        }
        let what = match name.ends_with(".tmp") {
            true => "left by a crash; it was never in use",
            false => "not known to this program",
        };
        out.note(&path.join(name), what)?;
    }
    let file = path.join(IDENTITY);
    let is_there = DiskFs.exists(&file).map_err(Error::unreadable("look for", &file))?;
    if is_there {
        Ok(())
    } else {
        out.note(path, "no identity file: no member was ever begun here")
    }
}
