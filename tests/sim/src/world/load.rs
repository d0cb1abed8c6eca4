//! Who asks: the clients, among the machines.

use super::host::Host;
use super::params::TICK;
use super::{Event, World};
use crate::Violation;
use crate::clients::{Clients, Door};
use crate::coverage::Coverage;

impl World {
    /// The clients look at their answers, and ask.
    pub(super) fn load(&mut self) -> Result<(), Violation> {
        self.plan_in(TICK, Event::Load);
        let tick = self.tick();
        let Self { hosts, clients, coverage, now, .. } = self;
        let doors: Vec<Door<'_>> = hosts.values().filter_map(|host| door(host, *now)).collect();
        let step =
            |clients: &mut Clients, coverage: &mut Coverage| clients.step(tick, &doors, coverage);
        step(clients, coverage)?;
        let asked: Vec<u64> = doors.iter().map(|door| door.member).collect();
        drop(doors);
        asked.into_iter().for_each(|id| self.plan_turn(id));
        Ok(())
    }
}

/// The way into what runs there.
fn door(host: &Host, now: u64) -> Option<Door<'_>> {
    let member = host.member()?;
    Some(Door {
        member: host.id,
        process: host.life,
        now: host.clock(now),
        hindered_until: host.clock(host.hindered_until),
        unapplied_until: host.clock(host.unapplied_until),
        handle: member.handle(),
        store: member.machine().store(),
    })
}
