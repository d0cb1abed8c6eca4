//! How a member with an empty data directory becomes one of a cluster that is there already.
//!
//! It asks the members it was told of, one after the other, until one has had it taken in. Asking
//! is idempotent: it names its data directory, so that a second try, after whatever happened to
//! the first, is the same member and not another one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};

use super::COMPLAINT_INTERVAL;
use crate::identity::Identity;
use crate::membership::{
    Asked, Call, ChangeOptions, ChangeRefusal, ChangeRefusalKind, Changed, Founder, Wish,
};
use crate::transport::join::{JoinError, JoinHead, call_url};
use crate::{Config, Error};

/// How long one member may take to have us taken in: a leader's election fits into it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two rounds through the list.
const PAUSE: Duration = Duration::from_millis(200);

/// Registers this member; gives the id of the cluster.
///
/// # Errors
///
/// A definite refusal, or a stop in between.
pub(super) fn register(
    config: &Config,
    identity: &Identity,
    stop: &AtomicBool,
    logger: &Logger,
) -> Result<u64, Error> {
    let Config { id, founders, client_url, .. } = config;
    let own = founders.iter().find(|founder| founder.id == *id).map_or("", |own| &own.url);
    let others: Vec<&Founder> = founders.iter().filter(|other| other.id != *id).collect();
    if own.is_empty() || others.is_empty() {
        return Err(Error::Config(format!(
            "to join, --cluster must name this member's own URL, under id {id}, and at least one \
             member's to ask"
        )));
    }
    let body = request(identity, own);
    let head = JoinHead {
        id: *id,
        incarnation: identity.incarnation,
        peer_url: own.to_owned(),
        client_url: client_url.clone(),
    };
    info!(logger, "joining"; "url" => own, "asking" => others.len());
    let mut complained: Option<Instant> = None;
    loop {
        let mut why = String::new();
        for Founder { id: other, url } in &others {
            if stop.load(Ordering::SeqCst) {
                return Err(Error::Interrupted);
            }
            let deadline = Instant::now() + PATIENCE;
            let answer = call_url(url, &head, body.clone().into(), deadline);
            let answer = match answer {
                Ok(answer) => {
                    let told = judged(*id, &answer.body)?;
                    told.map(|()| (answer.cluster, answer.from))
                }
                Err(JoinError::Refused { status, message }) => Err(refused(*id, status, message)?),
                Err(error) => Err(error.to_string()),
            };
            match answer {
                Ok((cluster, from)) => {
                    info!(logger, "joined"; "cluster" => format!("{cluster:016x}"),
                        "through" => from);
                    return Ok(cluster);
                }
                Err(message) => why = format!("member {other} at {url}: {message}"),
            }
        }
        if complained.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL) {
            complained = Some(Instant::now());
            warn!(logger, "still joining"; "last" => &why);
        }
        sleep(PAUSE);
    }
}

/// What a member that wants to join says.
pub(crate) fn request(identity: &Identity, own_url: &str) -> Vec<u8> {
    let Identity { node: id, incarnation, .. } = *identity;
    let wish = Wish::Join { id, incarnation, url: own_url.to_owned() };
    let options = ChangeOptions::default();
    let patience_ms = u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX);
    Call { asked: Asked::Member(wish), options, patience_ms }.encode()
}

/// Reads what a member answers to one that wants to join: taken in, or why not yet.
///
/// # Errors
///
/// Why it never will be.
pub(crate) fn judged(id: u64, answer: &[u8]) -> Result<Result<(), String>, Error> {
    match Changed::decode(answer) {
        Ok(Changed::Done { .. }) => Ok(Ok(())),
        Ok(Changed::Refused(ChangeRefusal { kind, message })) => end(id, kind, message).map(Err),
        Ok(Changed::Unknown(unknown)) => Ok(Err(unknown.to_string())),
        Err(what) => Ok(Err(format!("its answer {what}"))),
    }
}

/// Reads the refusal of a head: why there is no answer yet.
///
/// # Errors
///
/// Why there never will be.
pub(crate) fn refused(id: u64, status: u16, message: String) -> Result<String, Error> {
    match status {
        410 => end(id, ChangeRefusalKind::Removed, message),
        403 => end(id, ChangeRefusalKind::OtherIncarnation, message),
        // Which refusal it was is said too: another cluster's, or one that is over soon.
        _ => Ok(JoinError::Refused { status, message }.to_string()),
    }
}

fn end(id: u64, kind: ChangeRefusalKind, message: String) -> Result<String, Error> {
    match kind {
        ChangeRefusalKind::Removed => Err(Error::Removed(message)),
        ChangeRefusalKind::OtherIncarnation => Err(Error::Wiped(message)),
        ChangeRefusalKind::Invalid | ChangeRefusalKind::Conflict | ChangeRefusalKind::NotFound => {
            Err(Error::Config(format!("cannot join as member {id}: {message}")))
        }
        _ => Ok(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_final_or_says_which_it_is() {
        let why = || "not here".to_owned();
        assert!(matches!(refused(4, 410, why()), Err(Error::Removed(_))));
        assert!(matches!(refused(4, 403, why()), Err(Error::Wiped(_))));
        assert_eq!(refused(4, 412, why()).unwrap(), "refused with 412: not here");
    }
}
