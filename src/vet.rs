//! The wall in front of `RawNode::step`: what raft-rs must never see.
//!
//! raft-rs trusts its transport. Some messages that no correct peer sends make it panic, and a few
//! make it break safety; others prove that somebody has lost what he had acknowledged, which raft
//! itself would heal over or die of. Each is stopped here, by a pure function of the message and a
//! small view of the node. Everything else is raft's business, votes above all: whether a
//! stranger's vote counts is decided by raft and nobody else.
//!
//! What passes costs no allocation; an append is looked at entry by entry, once.
//!
//! Refuses to repair: a message passes as it came or not at all.
//!
//! Invariants:
//! - V1 No message that passes makes raft panic, whatever the state of a correct node.
//! - V2 No message that passes lowers term, vote or commit index, or has raft acknowledge an entry
//!   that is not in its log.
//! - V3 `Fatal` needs a member's word, in our term or a later one, and something that no loss,
//!   delay or reordering of messages can fake: old news is dropped, and so is a stranger's.
//!
//! `rows` shows, message by message, what raft-rs does without the wall.

#[cfg(test)]
mod rows;

use std::collections::BTreeSet;

use raft::CAMPAIGN_TRANSFER;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use wal::defects::{Defect, has};

use crate::key::Key;

/// What has to be known of the node to judge a message.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) id: u64,
    /// Of this life of the process: it is in the contexts of all its reads.
    pub(crate) nonce: u64,
    pub(crate) term: u64,
    pub(crate) commit_index: u64,
    pub(crate) last_index: u64,
    /// 0 for nobody.
    pub(crate) leader_id: u64,
    pub(crate) leads: bool,
    pub(crate) sender: Sender,
    /// Up to where the sender has acknowledged the log to this leader, in this term; 0 for
    /// strangers, whom no leader counts.
    pub(crate) matched: u64,
    /// The term of an entry of the log; none where the log does not reach.
    pub(crate) terms: &'a dyn Fn(u64) -> Option<u64>,
}

/// What the address book says of a message's sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Stranger,
    Learner,
    Voter,
}

/// What is to be done with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop(&'static str),
    Fatal(Loss),
}

/// Who has lost what was acknowledged; the sentence says what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loss {
    /// This member: it must not go on under its id.
    Ours(String),
    /// The cluster: this member holds what its leader does not know.
    Clusters(String),
    /// The sender, which this member leads.
    Senders(String),
}

/// Terms further ahead than this are a forgery or damage: a term moves by one an election.
const MAX_TERM_STEP: u64 = 1 << 20;
/// No log gets here: arithmetic on indexes and terms up to this bound cannot overflow.
const MAX_INDEX: u64 = 1 << 62;
/// A message's context names a read or the reason of a vote: neither is longer, and raft-rs copies
/// and sends back what it is given.
const MAX_CONTEXT_BYTES: usize = 64;
const NO_CONTEXT: Verdict = Verdict::Drop("a read without exactly one context");

/// Judges a message. Never inlined, so that a profile shows what it costs.
#[inline(never)]
pub(crate) fn vet(message: &Message, view: View<'_>) -> Verdict {
    match judge(message, view) {
        Ok(()) => Verdict::Accept,
        Err(verdict) => verdict,
    }
}

fn judge(message: &Message, view: View<'_>) -> Result<(), Verdict> {
    use MessageType::*;
    let kind = message.get_msg_type();
    check(message.to == view.id, "meant for another member")?;
    check(message.from != 0 && message.from != view.id, "from nobody, or from this member")?;
    let numbers = [message.index, message.commit, message.reject_hint, message.request_snapshot];
    check(numbers.iter().all(|number| *number <= MAX_INDEX), "an index beyond any log")?;
    // One that joins has heard of no term yet.
    let highest = if view.term == 0 { MAX_INDEX } else { view.term.saturating_add(MAX_TERM_STEP) };
    check(message.term <= highest, "a term beyond any election")?;
    check(message.context.len() <= MAX_CONTEXT_BYTES, "a context longer than any name")?;
    check(
        (message.term == 0) == (kind == MsgReadIndex) || has(Defect::VetTerm),
        "no term where one belongs, or the reverse",
    )?;
    check(
        message.log_term <= message.term || kind == MsgReadIndex,
        "a log term above its own term",
    )?;
    match kind {
        MsgAppend | MsgHeartbeat | MsgSnapshot => {
            check(speaks_as_leader(message, view), "a second leader of this term")?;
            match kind {
                MsgAppend => judge_append(message, view),
                MsgSnapshot => judge_snapshot(message, view),
                _ => judge_heartbeat(message, view),
            }
        }
        MsgAppendResponse => judge_append_response(message, view),
        // raft would pass it on to whom it believes to lead, a third time on the wire.
        MsgReadIndex => {
            let asked = view.leads && view.sender != Sender::Stranger;
            check(asked, "a read of one that does not lead, or from a stranger")?;
            context_of_read(message).map(|_| ()).ok_or(NO_CONTEXT)
        }
        MsgReadIndexResp => {
            let answers = message.from == view.leader_id && message.term == view.term;
            check(answers, "a read's index from someone who does not lead")?;
            let context = context_of_read(message).ok_or(NO_CONTEXT)?;
            let is_ours = context.node == view.id && context.nonce == view.nonce;
            check(is_ours, "a read's index that this process did not ask for")
        }
        MsgTimeoutNow => {
            let leads = message.from == view.leader_id && message.term == view.term;
            check(leads, "a hand-over from someone who does not lead")
        }
        MsgRequestVote | MsgRequestPreVote => match &*message.context {
            b"" => Ok(()),
            // Voters grant it although they hear a leader: it is that leader's own wish.
            CAMPAIGN_TRANSFER if kind == MsgRequestVote && view.sender == Sender::Voter => Ok(()),
            CAMPAIGN_TRANSFER => drop("a hand-over to someone who may not lead"),
            _ => drop("a vote with an unknown reason"),
        },
        MsgHeartbeatResponse | MsgRequestVoteResponse | MsgRequestPreVoteResponse => Ok(()),
        MsgHup | MsgBeat | MsgPropose | MsgUnreachable | MsgSnapStatus | MsgCheckQuorum
        | MsgTransferLeader => drop("a kind that no peer sends"),
    }
}

fn drop(reason: &'static str) -> Result<(), Verdict> {
    Err(Verdict::Drop(reason))
}

fn check(holds: bool, reason: &'static str) -> Result<(), Verdict> {
    if holds { Ok(()) } else { drop(reason) }
}

/// A term has one leader. Whether it is the sender shows when another is known.
fn speaks_as_leader(message: &Message, view: View<'_>) -> bool {
    message.term != view.term || view.leader_id == 0 || message.from == view.leader_id
}

/// The sender's word can prove a loss (V3).
fn is_witness(message: &Message, view: View<'_>) -> bool {
    view.sender != Sender::Stranger && message.term >= view.term
}

/// A leader tells a member to commit what that member has acknowledged to it, and no more.
fn judge_heartbeat(message: &Message, view: View<'_>) -> Result<(), Verdict> {
    if message.commit <= view.last_index || has(Defect::VetCommit) {
        return Ok(());
    }
    check(is_witness(message, view), "a heartbeat that commits what is not here")?;
    Err(Verdict::Fatal(Loss::Ours(format!(
        "member {} leads term {} and knows that this member had acknowledged index {}, but its \
         log ends at {}",
        message.from, message.term, message.commit, view.last_index
    ))))
}

fn judge_append(message: &Message, view: View<'_>) -> Result<(), Verdict> {
    check((message.index == 0) == (message.log_term == 0), "an append that continues nothing")?;
    let mut last_term = message.log_term;
    for (offset, entry) in (1..).zip(message.entries.iter()) {
        let follows = entry.index == message.index + offset || has(Defect::VetGap);
        check(follows, "an append with a gap")?;
        check(
            entry.term >= last_term.max(1) && entry.term <= message.term,
            "an append whose terms fall",
        )?;
        check(entry.context.len() <= Key::LEN, "an entry whose context is no key")?;
        check(
            entry.get_entry_type() != EntryType::EntryConfChangeV2,
            "a membership change of a kind that is never proposed",
        )?;
        last_term = entry.term;
    }
    judge_overlap(message, view)
}

/// Every leader has every committed entry (section 3.6.3 of the thesis): one that has others in
/// their place was elected by members that had lost them.
fn judge_overlap(message: &Message, view: View<'_>) -> Result<(), Verdict> {
    let committed = message.index..=view.commit_index;
    if committed.is_empty() || message.term < view.term || has(Defect::VetConflict) {
        return Ok(());
    }
    let before = (message.index, message.log_term);
    let entries = message.entries.iter().map(|entry: &Entry| (entry.index, entry.term));
    let differs = |(index, term): &(u64, u64)| {
        *index > 0 && (view.terms)(*index).is_some_and(|ours| ours != *term)
    };
    let mut overlap =
        std::iter::once(before).chain(entries).take_while(|(index, _)| committed.contains(index));
    overlap.find(differs).map_or(Ok(()), |entry| conflict(message, view, entry))
}

/// The leader has another entry where ours is committed.
fn conflict(message: &Message, view: View<'_>, (index, term): (u64, u64)) -> Result<(), Verdict> {
    check(is_witness(message, view), "an entry that differs from a committed one")?;
    let ours = (view.terms)(index).unwrap_or_default();
    Err(Verdict::Fatal(Loss::Clusters(format!(
        "member {} leads term {} with an entry of term {term} at index {index}, where one of term \
         {ours} is committed here (up to index {})",
        message.from, message.term, view.commit_index
    ))))
}

/// raft takes a snapshot's configuration as it is, and panics when it makes no sense
/// (raft.rs:2632).
fn judge_snapshot(message: &Message, view: View<'_>) -> Result<(), Verdict> {
    let metadata = message.get_snapshot().get_metadata();
    check((1..=MAX_INDEX).contains(&metadata.index), "a snapshot of no index")?;
    check((1..=message.term).contains(&metadata.term), "a snapshot whose term is not of its time")?;
    let conf = metadata.get_conf_state();
    let members = || conf.voters.iter().chain(&conf.learners).copied();
    let distinct: BTreeSet<u64> = members().collect();
    let is_simple =
        conf.voters_outgoing.is_empty() && conf.learners_next.is_empty() && !conf.auto_leave;
    let is_sound = !conf.voters.is_empty()
        && distinct.len() == members().count()
        && !distinct.contains(&0)
        && is_simple;
    check(is_sound, "a snapshot whose configuration makes no sense")?;
    check(distinct.contains(&view.id), "a snapshot without this member")?;
    let (index, term) = (metadata.index, metadata.term);
    let is_known = index <= view.commit_index && message.term >= view.term;
    match (view.terms)(index) {
        Some(ours) if is_known && ours != term => conflict(message, view, (index, term)),
        _ => Ok(()),
    }
}

fn judge_append_response(message: &Message, view: View<'_>) -> Result<(), Verdict> {
    check(message.request_snapshot == 0, "a wish for a snapshot, which no member has")?;
    if !view.leads || message.term != view.term {
        return Ok(());
    }
    if !message.reject {
        let was_sent = message.index <= view.last_index || has(Defect::VetAcknowledgement);
        return check(was_sent, "an acknowledgement of what was never sent");
    }
    // Its log agrees with ours up to what it has acknowledged, so the place that it proposes to
    // go on from is never before that. Answers keep their order, so it said so after it
    // acknowledged.
    if message.reject_hint >= view.matched {
        return Ok(());
    }
    Err(Verdict::Fatal(Loss::Senders(format!(
        "member {} had acknowledged index {} to the leader of term {}, member {}, and does not \
         know it any more: its log agrees up to {} only",
        message.from, view.matched, view.term, view.id, message.reject_hint
    ))))
}

/// The one context of a question, or of its answer.
fn context_of_read(message: &Message) -> Option<Key> {
    let mut entries = message.entries.iter();
    entries.next().filter(|_| entries.next().is_none()).and_then(|entry| Key::decode(&entry.data))
}
