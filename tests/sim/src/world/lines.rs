//! How streams come to be, carry and break.

use raftnode::sim::Lane;

use super::host::{Process, id_at};
use super::network::{Key, Stream};
use super::params::SECOND;
use super::{Event, World, lanes};
use crate::Violation;
use crate::coverage::Kind;

/// How often timers look, in microseconds.
const TIMERS: u64 = SECOND / 10;

impl World {
    /// Moves what waits in a member's queues onto its streams.
    pub(super) fn pump(&mut self, id: u64) {
        let Some(member) = self.hosts.get(&id).and_then(|host| host.member()) else { return };
        let first = (id, 0, Lane::Bulk);
        let last = (id, u64::MAX, Lane::Control);
        let window = self.params.window;
        let mut taken = Vec::new();
        let mut closed = Vec::new();
        for (key, stream) in self.network.streams.range_mut(first..=last) {
            if stream.number == 0 || stream.bytes >= window {
                continue;
            }
            match member.take(key.1, key.2, stream.number, window - stream.bytes) {
                Some(chunks) if chunks.is_empty() => {}
                Some(chunks) => taken.push((*key, chunks)),
                None => closed.push(*key),
            }
        }
        for key in closed {
            self.close(key);
        }
        for (key, chunks) in taken {
            for chunk in chunks {
                self.carry(key, chunk);
            }
        }
    }

    fn carry(&mut self, key: Key, chunk: bytes::Bytes) {
        let (now, delay) = (self.now, self.delay());
        let is_lost = self.params.loss > 0 && self.chance(self.params.loss);
        let breaks = is_lost && self.chance(self.params.breaks);
        let again = if is_lost { self.draw(20_000, 300_000) } else { 0 };
        if is_lost {
            self.count(Kind::MessageLost);
        }
        let Some(stream) = self.network.streams.get_mut(&key) else { return };
        if stream.breaks_at != u64::MAX {
            return;
        }
        if breaks {
            stream.breaks_at = now + delay;
            let number = stream.number;
            self.plan_in(delay, Event::Break(key, number));
            return;
        }
        let at = (now + delay + again).max(stream.last);
        stream.last = at;
        stream.bytes += chunk.len();
        stream.chunks.push_back((at, now, chunk));
        if !stream.is_planned {
            stream.is_planned = true;
            self.plan(at, Event::Chunk(key));
        }
    }

    /// Chunks arrive, unless the line is cut, or nobody is there.
    pub(super) fn arrive(&mut self, key: Key) -> Result<(), Violation> {
        let (from, to, lane) = key;
        let now = self.now;
        let Some(stream) = self.network.streams.get_mut(&key) else { return Ok(()) };
        stream.is_planned = false;
        let Some((at, sent, _)) = stream.chunks.front() else { return Ok(()) };
        let (mut at, sent) = (*at, *sent);
        let passes = self.network.passes_at(from, to, now);
        let host = self.hosts.get(&to);
        let paused = host.map_or(0, |host| host.paused_until);
        at = at.max(passes).max(paused);
        if passes > now
            && let Some(cause) = self.network.holds(from, to)
        {
            self.coverage.count(cause);
        }
        let Some(stream) = self.network.streams.get_mut(&key) else { return Ok(()) };
        if at > now {
            stream.is_planned = true;
            self.plan(at, Event::Chunk(key));
            return Ok(());
        }
        let host = host.filter(|host| host.life == stream.to_life);
        let Some(member) = host.and_then(|host| host.member()) else {
            // Whoever accepted this stream is gone: its machine says so.
            self.break_stream(key, None);
            return Ok(());
        };
        let mut wrong = None;
        while let Some((at, _, _)) = stream.chunks.front()
            && *at <= now
            && let Some((_, _, chunk)) = stream.chunks.pop_front()
        {
            stream.bytes -= chunk.len();
            if let Err(why) = member.deliver(&stream.hello, chunk) {
                wrong = Some(why);
                break;
            }
        }
        if let Some(why) = wrong {
            let what = format!("{to} breaks a stream from {from}: {why}");
            return super::watch::rule("frames", "members understand each other's frames", what);
        }
        let next = stream.chunks.front().map(|(at, _, _)| *at);
        stream.is_planned = next.is_some();
        let is_over = next.is_none() && stream.number == 0;
        if let Some(next) = next {
            self.plan(next, Event::Chunk(key));
        } else if is_over {
            self.network.streams.remove(&key);
        }
        if lane == Lane::Control
            && let Some(bulk) = self.network.streams.get(&(from, to, Lane::Bulk))
            && bulk.chunks.front().is_some_and(|(_, other, _)| *other < sent)
        {
            self.count(Kind::MessageReordered);
        }
        self.plan_turn(to);
        // There is room on the stream again.
        if !is_over {
            self.pump_if_idle(from);
        }
        Ok(())
    }

    fn pump_if_idle(&mut self, id: u64) {
        let now = self.now;
        if self.hosts.get(&id).is_some_and(|host| now >= host.busy_until && !host.is_paused(now)) {
            self.pump(id);
        }
    }

    /// A stream breaks: what is on it may or may not have arrived, and its sender is told.
    pub(super) fn break_stream(&mut self, key: Key, number: Option<u64>) {
        let (from, to, lane) = key;
        let Some(stream) = self.network.streams.get_mut(&key) else { return };
        if number.is_some_and(|number| number != stream.number) {
            return;
        }
        let number = std::mem::replace(&mut stream.number, 0);
        let n_chunks = stream.chunks.len() as u64;
        let is_doomed = stream.breaks_at != u64::MAX;
        if n_chunks > 0 || is_doomed {
            self.count(Kind::StreamBroken);
        }
        let left = self.rng.below(n_chunks + 1) as usize;
        if let Some(stream) = self.network.streams.get_mut(&key) {
            stream.chunks.truncate(left);
            if !stream.is_planned {
                self.network.streams.remove(&key);
            }
        }
        if number == 0 {
            return;
        }
        if let Some(member) = self.hosts.get(&from).and_then(|host| host.member()) {
            member.broke(to, lane, number);
            self.plan_turn(from);
        }
        self.redial(from);
    }

    /// The sender has closed it: what was under way arrives.
    fn close(&mut self, key: Key) {
        if let Some(stream) = self.network.streams.get_mut(&key) {
            stream.number = 0;
            if !stream.is_planned {
                self.network.streams.remove(&key);
            }
        }
        self.redial(key.0);
    }

    /// A machine's process is gone. Whoever dials it hears so now, or notices later.
    pub(super) fn hang_up(&mut self, id: u64, is_told: bool) {
        self.dialling.retain(|(from, ..)| *from != id);
        let others: Vec<u64> = self.hosts.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            for key in lanes(id, other) {
                let Some(stream) = self.network.streams.get_mut(&key) else { continue };
                if key.0 == id {
                    // Its system may still send what it was given.
                    let (is_planned, n_chunks) = (stream.is_planned, stream.chunks.len() as u64);
                    stream.number = 0;
                    let left = self.rng.below(n_chunks + 1) as usize;
                    if let Some(stream) = self.network.streams.get_mut(&key) {
                        stream.chunks.truncate(left);
                    }
                    if !is_planned {
                        self.network.streams.remove(&key);
                    }
                } else if is_told {
                    stream.chunks.clear();
                    self.break_stream(key, None);
                }
            }
        }
    }

    /// Has a member dial everybody whom it has no stream to.
    pub(super) fn redial(&mut self, id: u64) {
        let Some(host) = self.hosts.get(&id) else { return };
        let (life, Some(member)) = (host.life, host.member()) else { return };
        for (to, _) in member.dialled() {
            for lane in Lane::ALL {
                let key = (id, to, lane);
                let is_open = self.network.streams.get(&key).is_some_and(|s| s.number != 0);
                if !is_open && self.dialling.insert(key) {
                    let wait = self.draw(10_000, 20_000);
                    self.plan_in(wait, Event::Dial(key, life));
                }
            }
        }
    }

    pub(super) fn dial(&mut self, key: Key, life: u64) -> Result<(), Violation> {
        let (from, to, lane) = key;
        let now = self.now;
        let Some(host) = self.hosts.get(&from).filter(|host| host.life == life) else {
            return Ok(());
        };
        let Some(member) = host.member() else { return Ok(()) };
        let dialled = member.dialled();
        let at = dialled.iter().find(|(id, _)| *id == to).and_then(|(_, url)| id_at(url));
        let is_open = self.network.streams.get(&key).is_some_and(|stream| stream.number != 0);
        if at.is_none() || is_open {
            self.dialling.remove(&key);
            return Ok(());
        }
        let is_paused = host.is_paused(now);
        let target = at.and_then(|at| self.hosts.get(&at)).filter(|target| {
            !is_paused && !target.is_paused(now) && self.network.connects(from, target.id, now)
        });
        let mut is_dialled = false;
        if let Some((peer, to_life)) = target.and_then(|t| Some((t.member()?, t.life))) {
            let hello = member.hello(to);
            let answer = peer.admit(&hello);
            if peer.disk().is_stopped() {
                self.plan_in(SECOND / 10, Event::Dial(key, life));
                return self.crashed_in_a_step(to);
            }
            if answer.is_ok() {
                peer.accepted(&hello);
            }
            let opened = member.opened(to, lane, answer);
            if member.disk().is_stopped() {
                return self.crashed_in_a_step(from);
            }
            if let Ok(number) = opened {
                is_dialled = true;
                let mut stream = Stream::new(number, hello, to_life, now);
                if let Some(old) = self.network.streams.remove(&key) {
                    stream.is_planned = old.is_planned;
                }
                self.network.streams.insert(key, stream);
                self.dialling.remove(&key);
                self.redial(to);
            }
            self.plan_turn(to);
            self.plan_turn(from);
        }
        if !is_dialled {
            let wait = self.draw(20_000, SECOND / 2);
            self.plan_in(wait, Event::Dial(key, life));
        }
        Ok(())
    }

    /// A member knows other members: streams of those whom it does not admit any more end.
    pub(super) fn book_changed(&mut self, id: u64) {
        let Some(member) = self.hosts.get(&id).and_then(|host| host.member()) else { return };
        member.turn_away();
        let turned = self.network.streams.iter().filter(|((_, to, _), stream)| {
            *to == id && stream.number != 0 && !member.still_admits(&stream.hello)
        });
        for key in turned.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.break_stream(key, None);
        }
        self.redial(id);
    }

    /// What timers do.
    pub(super) fn timers(&mut self) -> Result<(), Violation> {
        let now = self.now;
        let hosts = &self.hosts;
        let speaks = |id: u64| {
            hosts
                .get(&id)
                .is_some_and(|host| matches!(host.process, Process::Up(_)) && !host.is_paused(now))
        };
        for key in self.network.given_up(now, &speaks) {
            self.break_stream(key, None);
        }
        if now % SECOND < TIMERS {
            for id in self.up() {
                let streams = &self.network.streams;
                let is_open = |from: u64| {
                    let open = |lane| streams.get(&(from, id, lane)).is_some_and(|s| s.number != 0);
                    Lane::ALL.into_iter().any(open)
                };
                let Some(host) = self.hosts.get_mut(&id) else { continue };
                if let Some(member) = host.member_mut() {
                    member.see_guests_off(&is_open);
                    member.look_at_disk();
                }
            }
        }
        self.plan_in(TIMERS, Event::Timers);
        Ok(())
    }
}
