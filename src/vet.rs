//! The wall in front of `RawNode::step`: what raft-rs must never see.
//!
//! raft-rs trusts its transport. Some messages that no correct peer sends make it panic, and a
//! few make it break safety; each is stopped here, by a pure function of the message and a small
//! view of the node. Everything else is raft's business, votes above all: whether a stranger's
//! vote counts is decided by raft and nobody else.

use std::collections::BTreeSet;

use raft::eraftpb::{EntryType, Message, MessageType};

use crate::key::Key;

/// What has to be known of the node to judge a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) id: u64,
    pub(crate) term: u64,
    pub(crate) last_index: u64,
    pub(crate) leader_id: u64,
    pub(crate) leads: bool,
    /// The sender is in the address book.
    pub(crate) sender_known: bool,
}

/// What is to be done with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop(&'static str),
    /// This member has lost what it acknowledged: the sentence says what.
    Lost(String),
}

/// Terms further ahead than this are a forgery or damage: a term moves by one an election.
const MAX_TERM_STEP: u64 = 1 << 20;
/// No log gets here: arithmetic on indexes up to this bound cannot overflow.
const MAX_INDEX: u64 = 1 << 62;
/// A message's context names a read or the reason of a vote: neither is longer, and raft-rs copies
/// and sends back what it is given.
const MAX_CONTEXT_BYTES: usize = 64;

pub(crate) fn vet(message: &Message, view: View) -> Verdict {
    use MessageType::*;
    let kind = message.get_msg_type();
    let numbers = [message.index, message.commit, message.reject_hint, message.request_snapshot];
    if numbers.iter().any(|number| *number > MAX_INDEX) {
        return Verdict::Drop("an index beyond any log");
    }
    if message.term > view.term.saturating_add(MAX_TERM_STEP) {
        return Verdict::Drop("a term beyond any election");
    }
    if message.context.len() > MAX_CONTEXT_BYTES {
        return Verdict::Drop("a context longer than any name");
    }
    if message.log_term > message.term && kind != MsgReadIndex {
        return Verdict::Drop("a log term above its own term");
    }
    if (message.term == 0) != (kind == MsgReadIndex) {
        return Verdict::Drop("no term where one belongs, or the reverse");
    }
    match kind {
        MsgAppend => vet_append(message, view),
        MsgSnapshot => vet_snapshot(message, view),
        MsgHeartbeat if message.commit > view.last_index => {
            if view.sender_known && message.term >= view.term {
                Verdict::Lost(format!(
                    "member {} leads term {} and knows that this member had acknowledged index \
                     {}, but its log ends at {}",
                    message.from, message.term, message.commit, view.last_index
                ))
            } else {
                Verdict::Drop("a heartbeat that commits what is not here")
            }
        }
        MsgAppendResponse if message.term == view.term && message.index > view.last_index => {
            Verdict::Drop("an acknowledgement of what was never sent")
        }
        MsgAppendResponse if message.request_snapshot != 0 => {
            Verdict::Drop("a wish for a snapshot, which no member has")
        }
        // raft would pass it on to whom it believes to lead, a third time on the wire.
        MsgReadIndex if !view.leads || !view.sender_known => {
            Verdict::Drop("a read of one that does not lead, or from a stranger")
        }
        MsgReadIndexResp if message.from != view.leader_id => {
            Verdict::Drop("a read's index from someone who does not lead")
        }
        MsgReadIndex | MsgReadIndexResp => {
            let context = message.entries.first().map(|entry| &entry.data);
            if message.entries.len() == 1 && context.is_some_and(|c| c.len() == Key::LEN) {
                Verdict::Accept
            } else {
                Verdict::Drop("a read without exactly one context")
            }
        }
        MsgTimeoutNow if message.from != view.leader_id => {
            Verdict::Drop("a hand-over from someone who does not lead")
        }
        MsgHeartbeat
        | MsgAppendResponse
        | MsgHeartbeatResponse
        | MsgRequestVote
        | MsgRequestVoteResponse
        | MsgRequestPreVote
        | MsgRequestPreVoteResponse
        | MsgTimeoutNow => Verdict::Accept,
        MsgHup | MsgBeat | MsgPropose | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum
        | MsgTransferLeader => Verdict::Drop("a kind that no peer sends"),
    }
}

fn vet_append(message: &Message, view: View) -> Verdict {
    if (message.index == 0) != (message.log_term == 0) {
        return Verdict::Drop("an append that continues nothing");
    }
    if message.index > view.last_index && message.log_term == 0 {
        return Verdict::Drop("an append beyond the log without its term");
    }
    let mut last_term = message.log_term;
    for (offset, entry) in (1..).zip(message.entries.iter()) {
        if entry.index != message.index + offset {
            return Verdict::Drop("an append with a gap");
        }
        if entry.term < last_term || entry.term > message.term {
            return Verdict::Drop("an append whose terms fall");
        }
        if entry.context.len() > Key::LEN {
            return Verdict::Drop("an entry whose context is no key");
        }
        if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
            return Verdict::Drop("a membership change of a kind that is never proposed");
        }
        last_term = entry.term;
    }
    Verdict::Accept
}

/// raft takes a snapshot's configuration as it is, and panics when it makes no sense
/// (raft.rs:2632).
fn vet_snapshot(message: &Message, view: View) -> Verdict {
    let metadata = message.get_snapshot().get_metadata();
    let conf = metadata.get_conf_state();
    if metadata.index == 0 || metadata.index > MAX_INDEX {
        return Verdict::Drop("a snapshot of no index");
    }
    if metadata.term == 0 || metadata.term > message.term {
        return Verdict::Drop("a snapshot whose term is not of its time");
    }
    let members: Vec<u64> = conf.voters.iter().chain(&conf.learners).copied().collect();
    let distinct: BTreeSet<u64> = members.iter().copied().collect();
    let is_simple =
        conf.voters_outgoing.is_empty() && conf.learners_next.is_empty() && !conf.auto_leave;
    if conf.voters.is_empty()
        || distinct.len() != members.len()
        || distinct.contains(&0)
        || !is_simple
    {
        return Verdict::Drop("a snapshot whose configuration makes no sense");
    }
    if !distinct.contains(&view.id) {
        return Verdict::Drop("a snapshot without this member");
    }
    Verdict::Accept
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::{Entry, SnapshotMetadata};

    const VIEW: View =
        View { id: 1, term: 5, last_index: 10, leader_id: 2, leads: false, sender_known: true };

    fn message(kind: MessageType, change: impl FnOnce(&mut Message)) -> Message {
        let mut message = Message { from: 2, to: 1, term: 5, ..Message::default() };
        message.set_msg_type(kind);
        change(&mut message);
        message
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn snapshot(change: impl FnOnce(&mut SnapshotMetadata)) -> Message {
        message(MessageType::MsgSnapshot, |m| {
            let metadata = m.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (20, 5);
            metadata.mut_conf_state().voters = vec![2, 3];
            metadata.mut_conf_state().learners = vec![1];
            change(metadata);
        })
    }

    /// What correct peers send passes.
    #[test]
    fn correct_messages_pass() {
        let append = message(MessageType::MsgAppend, |m| {
            (m.index, m.log_term, m.commit) = (10, 4, 99);
            m.set_entries(vec![entry(11, 4), entry(12, 5)].into());
        });
        assert_eq!(vet(&append, VIEW), Verdict::Accept);
        let heartbeat = message(MessageType::MsgHeartbeat, |m| m.commit = 10);
        assert_eq!(vet(&heartbeat, VIEW), Verdict::Accept);
        assert_eq!(vet(&snapshot(|_| ()), VIEW), Verdict::Accept);
        let vote = message(MessageType::MsgRequestVote, |m| m.term = 6);
        assert_eq!(vet(&vote, View { sender_known: false, ..VIEW }), Verdict::Accept);
    }

    /// Questions go to a leader, from its members, and their answers come from it: raft-rs would
    /// pass a stray one on, and believe any answer.
    #[test]
    fn reads_are_between_a_leader_and_its_members() {
        let context = Entry { data: vec![0; Key::LEN].into(), ..Entry::default() };
        let carrying = |kind, from| {
            message(kind, |m| {
                m.from = from;
                m.set_entries(vec![context.clone()].into());
                if kind == MessageType::MsgReadIndex {
                    m.term = 0;
                }
            })
        };
        let question = carrying(MessageType::MsgReadIndex, 3);
        let leading = View { leads: true, leader_id: 1, ..VIEW };
        assert_eq!(vet(&question, leading), Verdict::Accept);
        let stranger = View { sender_known: false, ..leading };
        for view in [VIEW, stranger] {
            assert!(matches!(vet(&question, view), Verdict::Drop(_)), "{view:?}");
        }
        assert_eq!(vet(&carrying(MessageType::MsgReadIndexResp, 2), VIEW), Verdict::Accept);
        let forged = vet(&carrying(MessageType::MsgReadIndexResp, 3), VIEW);
        assert!(matches!(forged, Verdict::Drop(_)));
    }

    /// Each of these makes raft-rs panic, or acknowledge what it does not have.
    #[test]
    fn poison_is_dropped() {
        use MessageType::*;
        let poison = [
            message(MsgAppend, |m| (m.index, m.log_term) = (20, 0)),
            message(MsgAppend, |m| {
                (m.index, m.log_term) = (10, 4);
                m.set_entries(vec![entry(0, 4)].into());
            }),
            message(MsgAppend, |m| {
                (m.index, m.log_term) = (10, 4);
                m.set_entries(vec![entry(11, 4), entry(13, 4)].into());
            }),
            message(MsgAppend, |m| (m.index, m.log_term) = (u64::MAX, 4)),
            message(MsgAppend, |m| m.term = 0),
            message(MsgRequestVote, |m| m.term = u64::MAX),
            message(MsgRequestVote, |m| m.term = 0),
            message(MsgPropose, |_| ()),
            message(MsgTransferLeader, |_| ()),
            message(MsgReadIndex, |m| m.term = 0),
            message(MsgHeartbeat, |m| m.context = vec![0; 65].into()),
            message(MsgReadIndexResp, |m| m.index = 11),
            message(MsgAppendResponse, |m| m.index = 11),
            message(MsgAppendResponse, |m| m.request_snapshot = 5),
            message(MsgTimeoutNow, |m| m.from = 3),
            snapshot(|s| s.index = 0),
            snapshot(|s| s.index = u64::MAX),
            snapshot(|s| s.term = 0),
            snapshot(|s| s.term = 6),
            snapshot(|s| s.mut_conf_state().voters.clear()),
            snapshot(|s| s.mut_conf_state().voters.push(0)),
            snapshot(|s| s.mut_conf_state().learners.push(3)),
            snapshot(|s| s.mut_conf_state().learners.clear()),
            snapshot(|s| s.mut_conf_state().learners_next.push(2)),
            snapshot(|s| s.mut_conf_state().auto_leave = true),
        ];
        for message in poison {
            let verdict = vet(&message, VIEW);
            assert!(matches!(verdict, Verdict::Drop(_)), "{message:?} gave {verdict:?}");
        }
    }

    /// A leader never commits beyond what we acknowledged: if we do not have it, we lost it.
    #[test]
    fn lost_acknowledged_data_is_told_apart() {
        let heartbeat = message(MessageType::MsgHeartbeat, |m| m.commit = 11);
        assert!(matches!(vet(&heartbeat, VIEW), Verdict::Lost(_)));
        let stranger = View { sender_known: false, ..VIEW };
        assert!(matches!(vet(&heartbeat, stranger), Verdict::Drop(_)));
    }
}
