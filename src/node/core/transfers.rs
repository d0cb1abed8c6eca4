//! Leadership, handed over on request.
//!
//! A follower calls the leader, in one hop; the leader asks raft to hand over, and answers with
//! the term in which it did. The member that was asked first then waits until it knows a leader
//! of a later term itself, so that whoever asks it next sees what it was told.
//!
//! raft gives up after an election timeout (thesis 3.10), and goes on leading; so does the wait.
//!
//! Invariants:
//! - T1 `Done` means that this member knows a leader of a later term, and that it is the one
//!   that was asked for; or that the one asked for leads already.

use std::time::Instant;

use super::Core;
use super::changes::{Answer, Ask};
use crate::channel::{TransferRequest, Transferred};
use crate::membership::{Asked, ChangeOptions, ChangeRefusalKind, Changed, refusal};

/// How many hand-overs may be asked for at once. One would be enough; a second person may not
/// know of the first.
const MAX_TRANSFERS: usize = 16;

/// Ticks between a refusal for want of a leader and the next try.
const COOLING_TICKS: u64 = 10;

enum Stage {
    /// No leader is known, or it is not asked before this tick.
    Waiting { not_before: u64 },
    /// The leader has been asked.
    Called { tag: u64 },
    /// A leader of a later term than this one is awaited, until this tick.
    Begun { term: u64, until: u64 },
}

struct Transfer {
    request: TransferRequest,
    stage: Stage,
}

#[derive(Default)]
pub(super) struct Transfers {
    transfers: Vec<Transfer>,
}

impl Transfers {
    pub(super) fn is_empty(&self) -> bool {
        self.transfers.is_empty()
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.refuse_if(|transfer| {
            let why = match transfer.stage {
                Stage::Waiting { .. } => {
                    (ChangeRefusalKind::NoLeader, "no leader was known until the deadline")
                }
                Stage::Called { .. } | Stage::Begun { .. } => {
                    (ChangeRefusalKind::Failed, "no other leader was known until the deadline")
                }
            };
            (transfer.request.deadline <= now).then_some(why)
        });
    }

    /// The node takes no new work.
    pub(super) fn refuse_all(&mut self) {
        let why = (ChangeRefusalKind::ShuttingDown, "the node is shutting down");
        self.refuse_if(|_| Some(why));
    }

    fn refuse_if(
        &mut self,
        mut why: impl FnMut(&Transfer) -> Option<(ChangeRefusalKind, &'static str)>,
    ) {
        for transfer in std::mem::take(&mut self.transfers) {
            match why(&transfer) {
                Some((kind, what)) => refuse(transfer.request, kind, what.to_owned()),
                None => self.transfers.push(transfer),
            }
        }
    }
}

fn refuse(request: TransferRequest, kind: ChangeRefusalKind, message: String) {
    request.answer(Transferred::Refused(refusal(kind, message)));
}

impl Core {
    /// Takes the wish in; [`finish_turn`](Core::finish_turn) moves it on.
    pub(crate) fn transfer(&mut self, request: TransferRequest) {
        if self.transfers.transfers.len() >= MAX_TRANSFERS {
            let message = format!("{MAX_TRANSFERS} hand-overs are waiting already");
            refuse(request, ChangeRefusalKind::Overloaded, message);
            return;
        }
        let stage = Stage::Waiting { not_before: 0 };
        self.transfers.transfers.push(Transfer { request, stage });
    }

    /// Another member was asked for a hand-over, and asks this one, which should lead.
    pub(super) fn transfer_called(&mut self, to: Option<u64>, answer: Answer) {
        let changed = match self.begin_transfer(to) {
            Ok(term) => Changed::Done { index: self.published, term, book: self.book.clone() },
            Err((kind, message)) => Changed::Refused(refusal(kind, message)),
        };
        answer(changed);
    }

    /// What the leader said to a call. False: it was none of these.
    pub(super) fn transfer_answered(&mut self, tag: u64, changed: &Changed) -> bool {
        let transfers = &mut self.transfers.transfers;
        let called = |transfer: &Transfer| matches!(transfer.stage, Stage::Called { tag: own } if own == tag);
        let Some(at) = transfers.iter().position(called) else { return false };
        match changed {
            Changed::Done { term, .. } => {
                let until = self.ticks + 2 * self.election_ticks;
                transfers[at].stage = Stage::Begun { term: *term, until };
            }
            Changed::Refused(refusal) if refusal.kind == ChangeRefusalKind::NoLeader => {
                transfers[at].stage = Stage::Waiting { not_before: self.ticks + COOLING_TICKS };
            }
            Changed::Refused(refusal) => {
                let transfer = transfers.remove(at);
                transfer.request.answer(Transferred::Refused(refusal.clone()));
            }
            // The call was lost; the hand-over may have begun all the same, and shows if it did.
            Changed::Unknown(_) => {
                let (term, until) = (self.raw.raft.term, self.ticks + self.election_ticks);
                transfers[at].stage = Stage::Begun { term, until };
            }
        }
        true
    }

    /// Moves the hand-overs that wait.
    pub(super) fn dispatch_transfers(&mut self) {
        let (leader_id, term) = (self.leader_id(), self.raw.raft.term);
        for Transfer { request, stage } in std::mem::take(&mut self.transfers.transfers) {
            let is_known = leader_id != raft::INVALID_ID;
            let stage = match stage {
                _ if is_known && request.to == Some(leader_id) => {
                    request.answer(Transferred::Done { leader_id, term });
                    continue;
                }
                Stage::Begun { term: before, .. } if is_known && term > before => {
                    match request.to.filter(|to| *to != leader_id) {
                        None => request.answer(Transferred::Done { leader_id, term }),
                        Some(to) => {
                            let message = format!("member {leader_id} leads now, and not {to}");
                            refuse(request, ChangeRefusalKind::Failed, message);
                        }
                    }
                    continue;
                }
                Stage::Begun { until, .. } if self.ticks >= until => {
                    let message = "nobody took leadership over within an election timeout";
                    refuse(request, ChangeRefusalKind::Failed, message.to_owned());
                    continue;
                }
                Stage::Waiting { not_before } if is_known && not_before <= self.ticks => {
                    if self.leads() {
                        match self.begin_transfer(request.to) {
                            Ok(term) => {
                                let until = self.ticks + self.election_ticks;
                                Stage::Begun { term, until }
                            }
                            Err((kind, message)) => {
                                refuse(request, kind, message);
                                continue;
                            }
                        }
                    } else {
                        let tag = self.changes.next_tag();
                        let asked = Asked::Leader { to: request.to };
                        let (options, deadline) = (ChangeOptions::default(), request.deadline);
                        let ask = Ask::Call { to: leader_id, tag, asked, options, deadline };
                        self.changes.ask(ask);
                        Stage::Called { tag }
                    }
                }
                stage => stage,
            };
            self.transfers.transfers.push(Transfer { request, stage });
        }
    }

    /// Asks raft to hand leadership over; gives the term in which it did.
    fn begin_transfer(&mut self, to: Option<u64>) -> Result<u64, (ChangeRefusalKind, String)> {
        let term = self.raw.raft.term;
        if !self.leads() {
            let message = format!("member {} does not lead", self.id);
            return Err((ChangeRefusalKind::NoLeader, message));
        }
        if let Some(to) = to {
            if self.book.removed.contains(&to) {
                return Err((ChangeRefusalKind::Removed, format!("member {to} was removed")));
            }
            if !self.book.members.contains_key(&to) {
                return Err((ChangeRefusalKind::NotFound, format!("there is no member {to}")));
            }
            if !self.book.voters().any(|voter| voter == to) {
                let message = format!("member {to} is a learner; only voters can lead");
                return Err((ChangeRefusalKind::Conflict, message));
            }
            if to == self.id {
                // The asker did not know: any leader from this term on is the one it wants.
                return Ok(term - 1);
            }
        }
        if self.hand_over(to).is_some() {
            return Ok(term);
        }
        let message = match to {
            Some(to) => format!("member {to} has not been heard of within an election timeout"),
            None => "no other voter has been heard of within an election timeout".to_owned(),
        };
        Err((ChangeRefusalKind::Failed, message))
    }
}
