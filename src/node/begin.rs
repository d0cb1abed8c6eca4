//! How a member begins: its directory and its address, and what is told to those around the loop
//! before the first turn.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use slog::Logger;
use wal::fs::Fs;

use super::{core, join};
use crate::directory::{self, Directory, Recovered};
use crate::identity::Identity;
use crate::membership::Book;
use crate::status::{Shared, Status};
use crate::transport::{Gate, Settings};
use crate::{Config, Error};

/// Opens the data directory and binds the peer address; also gives this member's own URL. A
/// directory that is empty is filled only once the address is bound; one that has been used says
/// itself which address that is.
pub(super) fn take_place(
    fs: &Arc<dyn Fs>,
    config: &Config,
    mut listener: Option<TcpListener>,
    logger: &Logger,
    stop: &AtomicBool,
) -> Result<(Recovered, TcpListener, String), Error> {
    let directory = Directory::inspect(Arc::clone(fs), config)?;
    let own = config.founders.iter().find(|founder| founder.id == config.id);
    let mut own_url = own.map(|founder| founder.url.clone()).unwrap_or_default();
    if directory.is_empty() && listener.is_none() {
        listener = Some(bind(config, &own_url)?);
    }
    let mut register = |identity: &Identity| join::register(config, identity, stop, logger);
    let recovered = directory.open(config, &mut register, stop, logger)?;
    if let Some(member) = recovered.latest.members.get(&config.id) {
        own_url.clone_from(&member.url);
    }
    let listener = match listener {
        Some(listener) => listener,
        None => bind(config, &own_url)?,
    };
    Ok((recovered, listener, own_url))
}

/// Who may talk to this member, as far as its directory says; told before the first stranger is at
/// the door.
pub(crate) fn open_gate(
    fs: &Arc<dyn Fs>,
    config: &Config,
    recovered: &Recovered,
) -> Result<Arc<Gate>, Error> {
    let Identity { node, incarnation, cluster } = recovered.identity;
    let pins = directory::pins(config);
    let gate = Arc::new(Gate::open(Arc::clone(fs), &pins, node, incarnation, cluster)?);
    introduce(&recovered.latest, &gate);
    Ok(gate)
}

/// What the transport is told.
pub(crate) fn settings(config: &Config, own_url: String) -> Settings {
    Settings {
        peer_url: own_url,
        client_url: config.client_url.clone(),
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        // Everything raft may have under way to one peer, and as much again of forwards.
        bulk_queue_bytes: 2
            * core::MAX_INFLIGHT_MESSAGES as u64
            * config.max_entry_bytes.max(1 << 20),
        max_entry_bytes: config.max_entry_bytes,
    }
}

/// What others may know before the first turn.
pub(crate) fn first_status(config: &Config, recovered: &Recovered) -> Arc<Shared> {
    let status = Status {
        id: config.id,
        cluster_id: recovered.identity.cluster,
        book: recovered.latest.clone(),
        client_urls: [(config.id, config.client_url.clone())].into(),
        // Before the first turn somebody may ask for an index that the log has.
        last_index: recovered.storage.wal().last_index(),
        ..Status::default()
    };
    let shared = Arc::new(Shared::new(status));
    if !config.in_memory {
        shared.space.set_min(config.min_free_bytes);
    }
    shared
}

/// Listens on the configured address, or on the host and port of this member's own URL.
fn bind(config: &Config, own_url: &str) -> Result<TcpListener, Error> {
    if let Some(address) = config.peer_listen {
        let failed = |source| Error::Listen { address: address.to_string(), source };
        return TcpListener::bind(address).map_err(failed);
    }
    if own_url.is_empty() {
        return Err(Error::Config(format!(
            "member {} has joined but has not been sent a snapshot yet: start it with the \
             --cluster that it joined with",
            config.id
        )));
    }
    let address = own_url.trim_start_matches("http://").to_owned();
    TcpListener::bind(&*address).map_err(|source| Error::Listen { address, source })
}

/// Tells the gate who is who.
pub(super) fn introduce(book: &Book, gate: &Gate) {
    let members = book.members.iter().map(|(id, member)| (*id, member.incarnation)).collect();
    gate.set_book(members, book.removed.clone());
}

/// Whom this member is to dial. One that joined and was not sent its first snapshot has no book:
/// it asks those it was told of, who may have removed it meanwhile.
pub(crate) fn peers(book: &Book, config: &Config) -> Vec<(u64, String)> {
    let named = config.founders.iter().map(|founder| (founder.id, founder.url.clone()));
    let members = book.members.iter().map(|(id, member)| (*id, member.url.clone()));
    let all: Vec<_> = if book.members.is_empty() { named.collect() } else { members.collect() };
    all.into_iter().filter(|(id, _)| *id != config.id).collect()
}
