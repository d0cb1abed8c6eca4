//! Snapshots, calls, probes and requests to join: what travels on no stream.

use std::collections::BTreeMap;

use bytes::Bytes;
use raftnode::sim::{Answering, Departure, Refused, SnapshotIn, SnapshotOut, Taking};

use super::host::{Process, id_at};
use super::params::SECOND;
use super::{Event, Talk, World};
use crate::Violation;
use crate::coverage::Kind;
use crate::oracle::rules;

/// How long one waits for somebody who does not answer.
const SILENCE: u64 = 2 * SECOND;

/// What is under way between two members.
#[derive(Debug, Default)]
pub(crate) struct Talks {
    transfers: BTreeMap<u64, Transfer>,
    last_transfer: u64,
    /// What members have not answered yet: who is to, in which life.
    answers: Vec<(u64, u64, Answering, Asker)>,
    takings: Vec<(u64, u64, Taking, u64)>,
}

/// Who waits for an answer.
#[derive(Debug)]
enum Asker {
    Member { from: u64, life: u64, tag: u64 },
    Joining { id: u64, life: u64, cluster: u64 },
}

/// A snapshot on its way.
#[derive(Debug)]
struct Transfer {
    from: u64,
    from_life: u64,
    to: u64,
    to_life: u64,
    out: SnapshotOut,
    arriving: Option<SnapshotIn>,
    /// Since when nothing has moved.
    still_since: u64,
}

impl World {
    /// Takes up what a member wants to send on no stream.
    ///
    /// # Errors
    ///
    /// A snapshot for somebody to whom one is on its way.
    pub(super) fn depart(&mut self, id: u64) -> Result<(), Violation> {
        let Some(host) = self.hosts.get(&id) else { return Ok(()) };
        let (life, Some(member)) = (host.life, host.member()) else { return Ok(()) };
        for departure in member.departures() {
            let delay = self.delay();
            match departure {
                Departure::Snapshot(out) => {
                    let talks = &mut self.talks;
                    let pair = (id, life, out.to());
                    let mut under_way = talks.transfers.values();
                    let is_twice = under_way.any(|t| (t.from, t.from_life, t.to) == pair);
                    rules::SENT_ONCE.holds(!is_twice, || {
                        format!("member {id} sends member {} two snapshots at a time", out.to())
                    })?;
                    talks.last_transfer += 1;
                    let transfer = Transfer {
                        from: id,
                        from_life: life,
                        to: out.to(),
                        to_life: 0,
                        out,
                        arriving: None,
                        still_since: self.now,
                    };
                    talks.transfers.insert(talks.last_transfer, transfer);
                    let nth = talks.last_transfer;
                    self.plan_in(delay, Event::Piece(nth));
                }
                Departure::Call { to, tag, body, .. } => {
                    let call = Talk::Call { from: id, life, to, tag, body };
                    self.plan_in(delay, Event::Talk(Box::new(call)));
                }
                Departure::Probe { url, tag } => {
                    let probe = Talk::Probe { from: id, life, url, tag };
                    self.plan_in(2 * delay, Event::Talk(Box::new(probe)));
                }
            }
        }
        Ok(())
    }

    /// Sends the answers that a member has given.
    pub(super) fn answer(&mut self, id: u64) {
        if self.talks.answers.is_empty() && self.talks.takings.is_empty() {
            return;
        }
        let mut given = Vec::new();
        self.talks.answers.retain_mut(|(at, _, answering, asker)| {
            let answer = if *at == id { answering.try_answer() } else { None };
            let Some(answer) = answer else { return true };
            given.push((
                std::mem::replace(asker, Asker::Member { from: 0, life: 0, tag: 0 }),
                answer,
            ));
            false
        });
        let mut taken = Vec::new();
        self.talks.takings.retain_mut(|(at, _, taking, transfer)| {
            let answer = if *at == id { taking.try_answer() } else { None };
            let Some(answer) = answer else { return true };
            taken.push((*transfer, answer));
            false
        });
        for (asker, answer) in given {
            let delay = self.delay();
            let (other, talk) = match asker {
                Asker::Member { from, life, tag } => {
                    let answer =
                        answer.map_err(|()| (true, "the call may be carried out".to_owned()));
                    (from, Talk::CallAnswer { from, life, tag, answer })
                }
                Asker::Joining { id, life, cluster } => {
                    let lost = |()| Refused::by_nobody("the call may be carried out");
                    (id, Talk::JoinAnswer { id, life, cluster, answer: answer.map_err(lost) })
                }
            };
            let at = self.network.passes_at(id, other, self.now + delay);
            self.plan(at, Event::Talk(Box::new(talk)));
        }
        for (transfer, answer) in taken {
            if answer.is_ok() {
                self.count(Kind::SnapshotInstalled);
            }
            self.end_transfer(transfer, answer);
        }
    }

    /// A machine's process is gone: nobody there answers, or waits for one.
    pub(super) fn forget_talks(&mut self, id: u64) {
        let mut lost = Vec::new();
        self.talks.answers.retain_mut(|(at, _, _, asker)| {
            if *at == id {
                lost.push(std::mem::replace(asker, Asker::Member { from: 0, life: 0, tag: 0 }));
            }
            *at != id
        });
        for asker in lost {
            let wait = self.draw(1_000, SILENCE);
            let talk = match asker {
                Asker::Member { from, life, tag } => {
                    let answer = Err((true, "the connection broke".to_owned()));
                    Talk::CallAnswer { from, life, tag, answer }
                }
                Asker::Joining { id, life, cluster } => {
                    let answer = Err(Refused::by_nobody("the connection broke"));
                    Talk::JoinAnswer { id, life, cluster, answer }
                }
            };
            self.plan_in(wait, Event::Talk(Box::new(talk)));
        }
        self.talks.takings.retain(|(at, ..)| *at != id);
        let concerns = |transfer: &Transfer| transfer.from == id || transfer.to == id;
        let transfers = self.talks.transfers.iter().filter(|(_, transfer)| concerns(transfer));
        for nth in transfers.map(|(nth, _)| *nth).collect::<Vec<_>>() {
            self.end_transfer(nth, Err("the connection broke".into()));
        }
    }

    pub(super) fn talk(&mut self, talk: Talk) -> Result<(), Violation> {
        match talk {
            Talk::Call { from, life, to, tag, body } => self.call(from, life, to, tag, body),
            Talk::CallAnswer { from, life, tag, answer } => {
                if let Some(member) = self.living(from, life) {
                    member.call_answered(tag, answer);
                    self.plan_turn(from);
                }
                Ok(())
            }
            Talk::Probe { from, life, url, tag } => {
                let to = id_at(&url).filter(|to| self.answers(from, *to));
                let by = to.and_then(|to| self.hosts.get(&to)?.member());
                if let Some(member) = self.living(from, life) {
                    member.probe_answered(tag, by);
                    self.plan_turn(from);
                }
                Ok(())
            }
            Talk::Join { id, life } => {
                self.ask_to_join(id, life);
                Ok(())
            }
            Talk::JoinAnswer { id, life, cluster, answer } => {
                self.joined(id, life, cluster, answer)
            }
            Talk::SnapshotReport { from, life, to, result } => {
                if let Some(member) = self.living(from, life) {
                    member.snapshot_reported(to, result);
                    self.plan_turn(from);
                }
                Ok(())
            }
        }
    }

    fn living(&self, id: u64, life: u64) -> Option<&raftnode::sim::Member<super::Machine>> {
        self.hosts.get(&id).filter(|host| host.life == life)?.member()
    }

    /// Whether a member would answer another now.
    fn answers(&self, from: u64, to: u64) -> bool {
        let there = self
            .hosts
            .get(&to)
            .is_some_and(|host| host.member().is_some() && !host.is_paused(self.now));
        there && self.network.connects(from, to, self.now)
    }

    fn call(
        &mut self,
        from: u64,
        life: u64,
        to: u64,
        tag: u64,
        body: Bytes,
    ) -> Result<(), Violation> {
        let Some(caller) = self.living(from, life) else { return Ok(()) };
        let not_sent =
            |why: String| Talk::CallAnswer { from, life, tag, answer: Err((false, why)) };
        if !self.answers(from, to) {
            let talk = not_sent("nobody is there".into());
            self.plan_in(SILENCE / 2, Event::Talk(Box::new(talk)));
            return Ok(());
        }
        let hello = caller.hello(to);
        let Some((member, to_life)) =
            self.hosts.get(&to).and_then(|host| Some((host.member()?, host.life)))
        else {
            return Ok(());
        };
        let admitted = member.admit(&hello);
        if member.disk().is_stopped() {
            self.plan_in(1_000, Event::Talk(Box::new(not_sent("it crashed".into()))));
            return self.crashed_in_a_step(to);
        }
        match admitted {
            Ok(_) => {
                let answering = member.called(&hello, body);
                let asker = Asker::Member { from, life, tag };
                self.talks.answers.push((to, to_life, answering, asker));
                self.plan_turn(to);
            }
            Err(refused) => {
                let talk = not_sent(refused.reason().into());
                self.plan_in(1_000, Event::Talk(Box::new(talk)));
            }
        }
        Ok(())
    }

    /// A machine whose member joins asks one of those that it was told of.
    fn ask_to_join(&mut self, id: u64, life: u64) {
        let now = self.now;
        let Some(host) = self.hosts.get(&id).filter(|host| host.life == life) else { return };
        let Process::Joining(join) = &host.process else { return };
        let told: Vec<u64> =
            host.founders.iter().map(|founder| founder.id).filter(|other| *other != id).collect();
        let join = join.clone();
        let again = Event::Talk(Box::new(Talk::Join { id, life }));
        let to = self.pick(&told).filter(|to| self.answers(id, *to));
        let Some(to) = to.filter(|_| now >= self.hosts[&id].paused_until) else {
            return self.plan_in(SECOND / 5, again);
        };
        let Some((member, to_life)) =
            self.hosts.get(&to).and_then(|host| Some((host.member()?, host.life)))
        else {
            return self.plan_in(SECOND / 5, again);
        };
        match member.asked_to_join(&join) {
            Ok((cluster, answering)) => {
                let asker = Asker::Joining { id, life, cluster };
                self.talks.answers.push((to, to_life, answering, asker));
                self.plan_turn(to);
            }
            Err(refused) => {
                let answer = Err(refused);
                let talk = Talk::JoinAnswer { id, life, cluster: 0, answer };
                self.plan_in(1_000, Event::Talk(Box::new(talk)));
            }
        }
    }

    fn joined(
        &mut self,
        id: u64,
        life: u64,
        cluster: u64,
        answer: Result<Bytes, Refused>,
    ) -> Result<(), Violation> {
        let Some(host) = self.hosts.get(&id).filter(|host| host.life == life) else {
            return Ok(());
        };
        let Process::Joining(join) = &host.process else { return Ok(()) };
        match join.read(answer) {
            Ok(Ok(())) => {
                self.say(|| format!("{id} was taken in"));
                self.boot(id, Some(Ok(cluster)))
            }
            Ok(Err(why)) => {
                self.say(|| format!("{id} is not taken in yet: {why}"));
                self.plan_in(SECOND / 5, Event::Talk(Box::new(Talk::Join { id, life })));
                Ok(())
            }
            Err(end) => self.boot(id, Some(Err(end))),
        }
    }

    /// A snapshot's next piece, its first word or its last.
    pub(super) fn piece(&mut self, nth: u64) -> Result<(), Violation> {
        let now = self.now;
        let breaks = !self.is_calm && self.chance(15);
        let Some(transfer) = self.talks.transfers.get(&nth) else { return Ok(()) };
        let (from, to) = (transfer.from, transfer.to);
        if !self.answers(from, to) || self.hosts[&from].is_paused(now) {
            if now - transfer.still_since > SILENCE {
                self.end_transfer(nth, Err("nothing moved".into()));
            } else {
                self.plan_in(SECOND / 10, Event::Piece(nth));
            }
            return Ok(());
        }
        if breaks {
            if transfer.arriving.is_some() {
                self.count(Kind::SnapshotBroken);
            }
            self.end_transfer(nth, Err("the connection broke".into()));
            return Ok(());
        }
        let moved = self.move_piece(nth);
        for id in [from, to] {
            if self.hosts.get(&id).is_some_and(|host| host.disk.is_stopped()) {
                return self.crashed_in_a_step(id);
            }
        }
        match moved {
            Ok(true) => {
                let delay = self.delay();
                self.plan_in(delay, Event::Piece(nth));
            }
            Ok(false) => self.plan_turn(to),
            Err(why) => self.end_transfer(nth, Err(why)),
        }
        Ok(())
    }

    /// Whether more follows.
    fn move_piece(&mut self, nth: u64) -> Result<bool, String> {
        let (now, most) = (self.now, self.params.piece);
        let gone = || "it is gone".to_owned();
        let transfer = self.talks.transfers.get_mut(&nth).ok_or_else(gone)?;
        transfer.still_since = now;
        let (from, to) = (transfer.from, transfer.to);
        let receiver = self.hosts.get(&to).ok_or_else(gone)?;
        let (to_life, member) = (receiver.life, receiver.member().ok_or_else(gone)?);
        let Some(arriving) = &mut transfer.arriving else {
            let sender = self.hosts.get(&from).and_then(|host| host.member()).ok_or_else(gone)?;
            let hello = sender.hello(to);
            member.admit(&hello).map_err(|refused| refused.reason().to_owned())?;
            let arriving = member.receive_snapshot(&hello, transfer.out.announced())?;
            (transfer.arriving, transfer.to_life) = (Some(arriving), to_life);
            return Ok(true);
        };
        if transfer.to_life != to_life {
            return Err(gone());
        }
        let piece = transfer.out.read(most)?;
        if !piece.is_empty() {
            return arriving.write(&piece).map(|()| true);
        }
        let message = transfer.out.message();
        let arriving = transfer.arriving.take().ok_or_else(gone)?;
        let taking = arriving.finish(&message)?;
        self.talks.takings.push((to, to_life, taking, nth));
        Ok(false)
    }

    fn end_transfer(&mut self, nth: u64, result: Result<(), String>) {
        let Some(transfer) = self.talks.transfers.remove(&nth) else { return };
        // What the node has been given it may still take.
        let Transfer { from, from_life: life, to, arriving, .. } = transfer;
        drop(arriving);
        // The last word may get lost.
        let is_lost = result.is_ok() && !self.is_calm && self.chance(50);
        let result = if is_lost { Err("no answer".into()) } else { result };
        self.say(|| format!("a snapshot from {from} to {to}: {result:?}"));
        let delay = self.delay();
        let report = Talk::SnapshotReport { from, life, to, result };
        self.plan_in(delay, Event::Talk(Box::new(report)));
    }
}
