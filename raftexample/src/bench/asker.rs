//! What one connection asks, over and over.

use super::client::{Client, Fault};
use super::keys::Walk;
use super::mix::{Draws, Mix, Operation};

/// Enough that a conditional write seldom follows one to the same key, and few enough to be read
/// before a round begins.
const OWN_KEYS: u64 = 4;

/// One connection's load.
#[derive(Debug)]
pub(crate) struct Asker {
    client: Client,
    draws: Draws,
    walk: Walk,
    /// Keys that nobody else writes, so that a 412 is wrong whatever the others do.
    own: Vec<Own>,
    next_own: usize,
}

/// A key, and the index that last changed it; 0 when there is none.
#[derive(Debug)]
struct Own {
    name: String,
    mod_index: u64,
}

/// How many keys so many connections keep for themselves.
pub(crate) fn n_own_keys(connections: u16) -> u64 {
    u64::from(connections) * OWN_KEYS
}

impl Asker {
    pub(crate) fn new(number: u16, client: Client, mix: &Mix) -> Asker {
        let first = n_own_keys(number);
        let own = if mix.has(Operation::Cas) { first..first + OWN_KEYS } else { 0..0 };
        let own = own.map(|key| Own { name: client.keys.own_name(key), mod_index: 0 }).collect();
        let (draws, walk) = (mix.draws(number), client.keys.walk(number));
        Asker { client, draws, walk, own, next_own: 0 }
    }

    /// Learns what an earlier round or run left in its own keys.
    pub(crate) async fn prepare(&mut self) -> Result<(), Fault> {
        for own in &mut self.own {
            own.mod_index = self.client.mod_index(&own.name).await?;
        }
        Ok(())
    }

    /// Asks once, whatever is next.
    pub(crate) async fn ask(&mut self) -> (Operation, Result<(), Fault>) {
        let operation = self.draws.draw();
        let answered = match operation {
            Operation::Put => self.client.put(self.walk.pick()).await,
            Operation::Get => self.client.get(self.walk.pick(), "").await,
            Operation::Stale => self.client.get(self.walk.pick(), "?consistency=stale").await,
            Operation::Cas => self.cas().await,
        };
        (operation, answered)
    }

    async fn cas(&mut self) -> Result<(), Fault> {
        let own = &mut self.own[self.next_own];
        self.next_own = (self.next_own + 1) % OWN_KEYS as usize;
        own.mod_index = self.client.cas(&own.name, own.mod_index).await?;
        Ok(())
    }
}
