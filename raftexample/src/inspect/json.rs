//! A line of JSON for each item. The names of the fields are a contract: they stay.
//!
//! Checksums, clusters and incarnations are hexadecimal text, since they fill the range of their
//! types; keys are percent-encoded, as everywhere in the client port's JSON.

use std::collections::BTreeMap;

use raftnode::inspect::{Content, Damage, Item, Judgement, Kept, Record, Snapshot, Summary, What};
use serde_json::{Value, json};

use super::{name, text, words};

pub(super) fn item(item: &Item<'_>) -> String {
    let value = match item {
        Item::Identity { node, cluster, incarnation } => json!({
            "type": "identity", "node": node, "cluster": word(*cluster),
            "incarnation": long(*incarnation),
        }),
        Item::Pins(pins) => {
            let pins: BTreeMap<_, _> =
                pins.iter().map(|(id, pin)| (id.to_string(), long(*pin))).collect();
            json!({"type": "pins", "pins": pins})
        }
        Item::Tombstone { path, why } => json!({"type": "tombstone", "path": path, "why": why}),
        Item::Segment(segment) => json!({
            "type": "segment", "path": segment.path, "bytes": segment.bytes,
            "cluster": word(segment.cluster), "node": segment.node, "sequence": segment.sequence,
            "base_index": segment.base_index, "base_term": segment.base_term,
        }),
        Item::Record(record) => self::record(record),
        Item::Snapshot(snapshot) => self::snapshot(snapshot),
        Item::Finding(finding) => {
            let mut value = judgement(&finding.judgement);
            value["type"] = json!("finding");
            value["path"] = json!(finding.path);
            value["text"] = json!(finding.judgement.to_string());
            value
        }
        other => json!({"type": "other", "text": format!("{other:?}")}),
    };
    value.to_string()
}

pub(super) fn summary(summary: &Summary) -> String {
    let verdict = if summary.is_sound() { "sound" } else { "corrupt" };
    json!({"type": "summary", "verdict": verdict, "n_sound": summary.n_sound,
        "n_corrupt": summary.n_corrupt, "is_torn": summary.is_torn})
    .to_string()
}

fn record(record: &Record<'_>) -> Value {
    let mut value = match &record.what {
        What::Entry(entry) => {
            let mut value = content(&entry.content);
            value["type"] = json!("entry");
            value["kind"] = json!(name(&entry.content));
            value["index"] = json!(entry.index);
            value["term"] = json!(entry.term);
            value
        }
        What::Marker(marker) => json!({
            "type": "marker", "index": marker.index, "term": marker.term,
            "checksum": word(marker.checksum),
        }),
        What::HardState(state) => json!({
            "type": "hard_state", "term": state.term, "vote": state.vote, "commit": state.commit,
        }),
        What::Seal => json!({"type": "seal"}),
    };
    value["offset"] = json!(record.offset);
    value["frame"] = json!(record.frame);
    value["frame_bytes"] = json!(record.bytes);
    value["frame_kind"] = json!(text::kind(record.kind));
    value
}

fn content(content: &Content<'_>) -> Value {
    match content {
        Content::Command { proposer, data } => json!({
            "proposer": proposer, "bytes": data.len(), "command": words::to_json(data),
        }),
        Content::Member { id, member } => json!({
            "member": id, "role": member.role.name(), "wants": member.wants.name(),
            "url": member.url,
        }),
        Content::Removal { id } => json!({"member": id}),
        Content::Unknown(payload) => {
            json!({"bytes": payload.len(), "prefix": words::hex(payload)})
        }
        Content::Nothing => json!({}),
    }
}

fn snapshot(snapshot: &Snapshot<'_>) -> Value {
    let members = snapshot.book.members.iter();
    let members: Vec<_> = members
        .map(|(id, member)| {
            json!({"id": id, "url": member.url, "role": member.role.name(),
                "wants": member.wants.name(), "incarnation": member.incarnation.map(long)})
        })
        .collect();
    json!({
        "type": "snapshot", "path": snapshot.path, "bytes": snapshot.bytes,
        "state_bytes": snapshot.state_bytes, "cluster": word(snapshot.cluster),
        "index": snapshot.index, "term": snapshot.term, "checksum": word(snapshot.checksum),
        "voters": snapshot.voters, "learners": snapshot.learners, "members": members,
        "removed": snapshot.book.removed,
    })
}

fn judgement(judgement: &Judgement) -> Value {
    match judgement {
        Judgement::Sound(_) => json!({"judgement": "sound"}),
        Judgement::Torn { offset, bytes } => {
            json!({"judgement": "torn", "offset": offset, "bytes": bytes})
        }
        Judgement::Note(_) => json!({"judgement": "note"}),
        Judgement::Corrupt(Damage { offset, first_index, last_index, reason, kept }) => json!({
            "judgement": "corrupt", "offset": offset, "first_index": first_index,
            "last_index": last_index, "reason": reason, "kept": kept.as_ref().map(self::kept),
        }),
    }
}

fn kept(kept: &Kept) -> Value {
    json!({
        "path": kept.path, "offset": kept.offset, "frame": kept.sequence,
        "first_index": kept.first_index, "last_index": kept.last_index,
        "term": kept.hard_state.term, "vote": kept.hard_state.vote,
        "commit": kept.hard_state.commit,
    })
}

fn word(word: u64) -> String {
    format!("{word:016x}")
}

fn long(long: u128) -> String {
    format!("{long:032x}")
}
