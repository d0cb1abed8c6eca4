//! A line of text for each item, in columns.

use std::path::Path;

use raftnode::inspect::{Content, Entry, FrameKind, Item, Record, Snapshot, Summary, What};

use super::words;

const COLUMNS: &str = "    OFFSET     FRAME KIND  RECORD          INDEX     TERM";

pub(super) fn item(item: &Item<'_>) -> String {
    match item {
        Item::Identity { node, cluster, incarnation } => {
            format!(
                "identity: member {node}, cluster {cluster:016x}, incarnation {incarnation:032x}"
            )
        }
        Item::Pins(pins) => {
            let pins: Vec<_> = pins.iter().map(|(id, pin)| format!("{id} {pin:032x}")).collect();
            format!("pins: {}", pins.join(", "))
        }
        Item::Tombstone { path, why } => format!("{}: {why}", path.display()),
        Item::Segment(segment) => format!(
            "segment {}: {} bytes of member {}, cluster {:016x}, behind entry {} of term {}: {}\n\
             {COLUMNS}",
            segment.sequence,
            segment.bytes,
            segment.node,
            segment.cluster,
            segment.base_index,
            segment.base_term,
            segment.path.display(),
        ),
        Item::Record(record) => line(record),
        Item::Snapshot(snapshot) => self::snapshot(snapshot),
        Item::Finding(finding) => finding.to_string(),
        other => format!("{other:?}"),
    }
}

pub(super) fn summary(path: &Path, summary: &Summary) -> String {
    format!("{}: {summary}", path.display())
}

fn line(record: &Record<'_>) -> String {
    let (name, index, term, detail) = match &record.what {
        What::Entry(Entry { index, term, content }) => {
            ("entry", index.to_string(), term.to_string(), describe(content))
        }
        What::Marker(marker) => (
            "marker",
            marker.index.to_string(),
            marker.term.to_string(),
            format!("snapshot {:016x}", marker.checksum),
        ),
        What::HardState(state) => (
            "hard state",
            String::new(),
            state.term.to_string(),
            format!("vote {}, commit {}", state.vote, state.commit),
        ),
        What::Seal => ("seal", String::new(), String::new(), "another segment follows".to_owned()),
    };
    let (offset, frame, kind) = (record.offset, record.frame, kind(record.kind));
    format!("{offset:>10} {frame:>9} {kind:<5} {name:<10} {index:>10} {term:>8}  {detail}")
}

/// What a frame is for, in a word.
pub(super) fn kind(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Batch => "batch",
        FrameKind::Head => "head",
        FrameKind::Seal => "seal",
    }
}

fn describe(content: &Content<'_>) -> String {
    match content {
        Content::Nothing => "nothing".to_owned(),
        Content::Command { proposer, data } => {
            let by = proposer.map_or(String::new(), |member| format!(", from member {member}"));
            words::describe(data) + &by
        }
        Content::Member { id, member } => format!(
            "member {id} is a {}, wants to be a {}, at {}",
            member.role.name(),
            member.wants.name(),
            member.url
        ),
        Content::Removal { id } => format!("member {id} is removed"),
        Content::Unknown(payload) => format!("not understood: {}", words::prefix(payload)),
    }
}

fn snapshot(snapshot: &Snapshot<'_>) -> String {
    let mut text = format!(
        "snapshot {:016x}: entry {} of term {}, {} bytes of state in {} bytes, cluster {:016x}: {}",
        snapshot.checksum,
        snapshot.index,
        snapshot.term,
        snapshot.state_bytes,
        snapshot.bytes,
        snapshot.cluster,
        snapshot.path.display(),
    );
    for (id, member) in &snapshot.book.members {
        text += &format!("\n  member {id}: {} at {}", member.role.name(), member.url);
        if member.wants != member.role {
            text += &format!(", wants to be a {}", member.wants.name());
        }
        if let Some(incarnation) = member.incarnation {
            text += &format!(", incarnation {incarnation:032x}");
        }
    }
    if !snapshot.book.removed.is_empty() {
        let removed: Vec<_> = snapshot.book.removed.iter().map(u64::to_string).collect();
        text += &format!("\n  removed: {}", removed.join(", "));
    }
    text
}
