//! Reads between their waiting room, raft, and the consumer's progress.

use std::sync::atomic::Ordering::SeqCst;

use raft::StateRole;
use raft::eraftpb::Message;
use slog::debug;
use wal::defects::{Defect, has};

use super::Core;
use crate::key::Key;
use crate::node::reads;

impl Core {
    /// Another member asks what a leader has committed. See [`Questions`].
    pub(super) fn take_question(&mut self, question: Message) {
        let raft = &self.raw.raft;
        let term = raft.term;
        if !raft.commit_to_current_term() {
            self.questions.hold(term, question);
            return;
        }
        let context = question.entries.first().and_then(|entry| Key::decode(&entry.data));
        let admitted = context.is_some_and(|key| self.questions.admit(term, question.from, key));
        if !admitted && !has(Defect::ReusedContexts) {
            self.count_drop("a read's context that is not new", &question);
            return;
        }
        let before = self.reads_taken();
        let from = question.from;
        if let Err(error) = self.raw.step(question) {
            debug!(self.logger, "raft refused a question"; "from" => from, "error" => %error);
        } else if self.reads_taken() == before {
            self.metrics.dropped("a read that raft dropped");
        }
    }

    /// Grows whenever raft takes a question in, whatever it does with it: it queues one, answers
    /// it at once, or passes it to the leader.
    fn reads_taken(&self) -> usize {
        let raft = &self.raw.raft;
        raft.pending_read_count() + raft.ready_read_count() + raft.msgs.len()
    }

    pub(super) fn advance_reads(&mut self) {
        let raft = &self.raw.raft;
        let view = reads::View {
            leads: raft.state == StateRole::Leader,
            leader_known: raft.leader_id != raft::INVALID_ID,
            leader_id: raft.leader_id,
            term: raft.term,
            commit: raft.raft_log.committed,
            committed_in_term: raft.commit_to_current_term(),
        };
        if view.leads && view.committed_in_term && self.questions.has_held() {
            for question in self.questions.take_held(view.term) {
                self.take_question(question);
            }
        }
        if let Some(context) = self.reads.advance(view, self.ticks) {
            let before = self.reads_taken();
            self.raw.read_index(context.encode().to_vec());
            if self.reads_taken() == before {
                self.reads.round_dropped(self.ticks);
            }
        }
    }

    /// Answers the reads and barriers that the consumer's progress satisfies, and asks to be woken
    /// by it when some are left.
    pub(super) fn check_applied(&mut self) {
        for _ in 0..2 {
            let applied = self.applied.index.load(SeqCst);
            assert!(
                applied <= self.published,
                "N1: the consumer reports {applied} as applied, but was given {}",
                self.published
            );
            self.reads.applied(applied);
            self.proposals.applied(applied);
            if !self.reads.await_applied() && !self.proposals.await_applied() {
                return;
            }
            // Looked at once more, for a report between the load and this store.
            self.applied.awaited.store(true, SeqCst);
        }
    }
}
