//! What a raft message will take in memory, found before anything is decoded or allocated.
//!
//! Protobuf is dense: an entry of nothing takes two bytes on the wire and a hundred in memory, a
//! member's id one and eight, and each field that nobody knows is kept as well. So a message is
//! first walked over: every tag and length is looked at once, at the four depths that a message of
//! raft's has, and no deeper. What no member of this protocol version writes is refused here, and
//! the generated decoder sees the rest only.
//!
//! Invariants:
//! - S1 Walking allocates nothing, recurses into nothing that it does not know, and is linear.
//! - S2 What was walked over takes, once decoded, no more than its own bytes, an `Entry` for each
//!   entry and eight bytes for each id, give or take what a growing vector has to spare.
//! - S3 A message that a member of this version encodes passes: the limits are above whatever
//!   raft's own limits let through.

/// How many of what a message may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) entries: usize,
    /// A snapshot may stand in it, whose configuration may name so many members.
    pub(super) ids: Option<usize>,
}

/// What a message holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) entries: usize,
    /// The bytes of all entries.
    pub(super) entry_bytes: usize,
    ids: usize,
    snapshots: usize,
}

/// Why a message is refused.
pub(super) type Misshapen = &'static str;

/// Walks over the encoding of an `eraftpb.Message`.
pub(super) fn of_message(bytes: &[u8], limits: Limits) -> Result<Shape, Misshapen> {
    let mut shape = Shape::default();
    let mut has_context = false;
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next()? {
        match field {
            // msg_type, to, from, term, log_term, index, commit, reject, reject_hint,
            // request_snapshot, deprecated_priority, commit_term, priority.
            (1..=6 | 8 | 10 | 11 | 13..=16, Value::Number) => {}
            (7, Value::Bytes(entry)) => {
                shape.entries += 1;
                shape.entry_bytes += entry.len();
                if shape.entries > limits.entries {
                    return Err("more entries than any message holds");
                }
                walk_entry(entry)?;
            }
            (9, Value::Bytes(snapshot)) => {
                shape.snapshots += 1;
                let most = limits.ids.ok_or("a snapshot where none belongs")?;
                if shape.snapshots > 1 {
                    return Err("more than one snapshot");
                }
                walk_snapshot(snapshot, &mut shape.ids, most)?;
            }
            (12, Value::Bytes(_)) => once(&mut has_context)?,
            _ => return Err(UNKNOWN),
        }
    }
    Ok(shape)
}

const UNKNOWN: Misshapen = "a field that no member writes";

fn walk_entry(bytes: &[u8]) -> Result<(), Misshapen> {
    let (mut has_data, mut has_context) = (false, false);
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next()? {
        match field {
            // entry_type, term, index, sync_log.
            (1..=3 | 5, Value::Number) => {}
            (4, Value::Bytes(_)) => once(&mut has_data)?,
            (6, Value::Bytes(_)) => once(&mut has_context)?,
            _ => return Err(UNKNOWN),
        }
    }
    Ok(())
}

fn walk_snapshot(bytes: &[u8], ids: &mut usize, most: usize) -> Result<(), Misshapen> {
    let (mut has_data, mut has_metadata, mut has_conf) = (false, false, false);
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Bytes(_)) => once(&mut has_data)?,
            (2, Value::Bytes(metadata)) => {
                once(&mut has_metadata)?;
                let mut fields = Fields { rest: metadata };
                while let Some(field) = fields.next()? {
                    match field {
                        (1, Value::Bytes(conf)) => {
                            once(&mut has_conf)?;
                            walk_conf(conf, ids, most)?;
                        }
                        // index, term.
                        (2 | 3, Value::Number) => {}
                        _ => return Err(UNKNOWN),
                    }
                }
            }
            _ => return Err(UNKNOWN),
        }
    }
    Ok(())
}

fn walk_conf(bytes: &[u8], ids: &mut usize, most: usize) -> Result<(), Misshapen> {
    let mut fields = Fields { rest: bytes };
    while let Some(field) = fields.next()? {
        match field {
            // voters, learners, voters_outgoing, learners_next; auto_leave.
            (1..=4, Value::Number) => *ids += 1,
            (1..=4, Value::Bytes(packed)) => {
                let mut numbers = Fields { rest: packed };
                while !numbers.rest.is_empty() {
                    numbers.varint()?;
                    *ids += 1;
                }
            }
            (5, Value::Number) => {}
            _ => return Err(UNKNOWN),
        }
        if *ids > most {
            return Err("more members than any cluster has");
        }
    }
    Ok(())
}

/// A field that holds bytes is replaced when it comes again, and what it replaced stays alive in
/// what the fields share.
fn once(seen: &mut bool) -> Result<(), Misshapen> {
    if std::mem::replace(seen, true) {
        return Err("a field that stands twice");
    }
    Ok(())
}

/// A field's value, as far as it has to be known.
enum Value<'a> {
    Number,
    Bytes(&'a [u8]),
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Misshapen> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => {
                self.varint()?;
                Value::Number
            }
            2 => {
                let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let (bytes, rest) =
                    self.rest.split_at_checked(len).ok_or("a field beyond the end")?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            _ => return Err("a group, or another kind of field that no member writes"),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, Misshapen> {
        let mut value = 0;
        for nth in 0..10 {
            let (byte, rest) = self.rest.split_first().ok_or("a number beyond the end")?;
            self.rest = rest;
            if nth == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * nth);
            if *byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits")
    }
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;
    use raft::eraftpb::{Entry, EntryType, Message, MessageType};

    use super::*;

    const LIMITS: Limits = Limits { entries: 3, ids: Some(5) };

    fn full() -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        for number in [
            &mut message.to,
            &mut message.from,
            &mut message.term,
            &mut message.log_term,
            &mut message.index,
            &mut message.commit,
            &mut message.commit_term,
            &mut message.request_snapshot,
            &mut message.reject_hint,
            &mut message.deprecated_priority,
        ] {
            *number = u64::MAX;
        }
        (message.priority, message.reject) = (i64::MIN, true);
        message.context = vec![1; 300].into();
        let mut entry = Entry { term: 1 << 40, index: u64::MAX, ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        (entry.data, entry.context, entry.sync_log) = (vec![2; 200].into(), vec![3].into(), true);
        message.entries = vec![entry, Entry::default(), Entry::default()].into();
        let snapshot = message.mut_snapshot();
        snapshot.data = vec![4; 20].into();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (7, 8);
        let conf = metadata.mut_conf_state();
        (conf.voters, conf.learners) = (vec![1, u64::MAX], vec![3]);
        (conf.voters_outgoing, conf.learners_next, conf.auto_leave) = (vec![4], vec![5], true);
        message
    }

    /// Every field that raft's messages have passes, with its largest value (S3), and so does each
    /// limit exactly.
    #[test]
    fn whatever_members_write_passes() {
        let message = full();
        let bytes = message.write_to_bytes().unwrap();
        let shape = of_message(&bytes, LIMITS).unwrap();
        assert_eq!((shape.entries, shape.ids, shape.snapshots), (3, 5, 1));
        assert_eq!(shape.entry_bytes, message.entries[0].compute_size() as usize);
        for (limits, reason) in [
            (Limits { entries: 2, ..LIMITS }, "more entries"),
            (Limits { ids: Some(4), ..LIMITS }, "more members"),
            (Limits { ids: None, ..LIMITS }, "none belongs"),
        ] {
            assert!(of_message(&bytes, limits).unwrap_err().contains(reason), "{reason}");
        }
        assert_eq!(of_message(&[], LIMITS), Ok(Shape::default()));
    }

    /// Every prefix of a message, and every change of one byte, is either refused or decoded to no
    /// more than was found in it (S2): what one decoder takes for a number, the other does as well.
    #[test]
    fn what_was_found_is_what_is_decoded() {
        let bytes = full().write_to_bytes().unwrap();
        let agree = |bytes: &[u8]| {
            let Ok(shape) = of_message(bytes, LIMITS) else { return false };
            let Ok(message) = Message::parse_from_bytes(bytes) else { return true };
            let conf = message.get_snapshot().get_metadata().get_conf_state();
            let ids = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
            assert_eq!(message.entries.len(), shape.entries, "{bytes:?}");
            assert_eq!(ids.map(|ids| ids.len()).iter().sum::<usize>(), shape.ids, "{bytes:?}");
            assert!(message.unknown_fields.fields.is_none(), "{bytes:?}");
            true
        };
        let passed = (0..bytes.len()).filter(|end| agree(&bytes[..*end])).count();
        assert!(passed > 10, "{passed} prefixes pass");
        let mut passed = 0;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                passed += usize::from(agree(&changed));
            }
        }
        assert!(passed > 1_000, "{passed} changes pass");
    }

    /// What members do not write is refused by name (S1).
    #[test]
    fn what_no_member_writes_is_refused() {
        let nested = |outer: u8, inner: &[u8]| [&[outer, inner.len() as u8], inner].concat();
        let table: [(Vec<u8>, &str); 14] = [
            (vec![0x08], "a number beyond the end"),
            (vec![0x08, 0xff], "a number beyond the end"),
            ([&[0x10][..], &[0xff; 10], &[0]].concat(), "more than 64 bits"),
            ([&[0x10][..], &[0xff; 9], &[2]].concat(), "more than 64 bits"),
            (vec![0x3a, 5, 0], "a field beyond the end"),
            ([&[0x3a][..], &[0xff; 9], &[1]].concat(), "a field beyond the end"),
            (vec![0xa3, 0x06], "a group"),
            (vec![0x0b, 0x0c], "a group"),
            (vec![0xa0, 0x06, 1], "no member writes"),
            (vec![0x00, 1], "no member writes"),
            (nested(0x3a, &[0x22, 0, 0x22, 0]), "stands twice"),
            (vec![0x62, 0, 0x62, 0], "stands twice"),
            (nested(0x4a, &nested(0x12, &nested(0x0a, &[0x0a, 6, 1, 2, 3, 4, 5, 6]))), "members"),
            ([nested(0x4a, &[]), nested(0x4a, &[])].concat(), "more than one snapshot"),
        ];
        for (bytes, reason) in table {
            let refused = of_message(&bytes, LIMITS).unwrap_err();
            assert!(refused.contains(reason), "{bytes:x?} gave {refused:?}");
        }
    }
}
