//! How a member ends: which refusals end it, its last words with what to do now, and what it writes
//! down so that no later start goes on.

use std::collections::BTreeMap;
use std::path::Path;

use wal::fs::Fs;

use crate::directory;
use crate::transport::LOST_DATA;
use crate::{Config, Error};

/// Adds to the last words of a member that lost its data what to do about it.
pub(super) fn replacement<'a>(
    error: Error,
    id: u64,
    members: impl Iterator<Item = (u64, &'a str)>,
    client_urls: &BTreeMap<u64, String>,
) -> Error {
    let (what, kind): (_, fn(String) -> Error) = match error {
        Error::LostData(what) => (what, Error::LostData),
        Error::Wiped(what) => (what, Error::Wiped),
        other => return other,
    };
    let others: Vec<String> = members
        .filter(|(member, _)| *member != id)
        .map(|(member, url)| format!("{member}={url}"))
        .collect();
    let mut urls = client_urls.iter().filter(|(member, url)| **member != id && !url.is_empty());
    let any = urls.next().map_or("http://CLIENT-URL-OF-A-MEMBER", |(_, url)| url);
    kind(format!(
        "{what}\nIf member {id} runs elsewhere, leave it alone and choose another --id. If its disk is \
         lost, replace it with these two commands, under an id that was never used:\n  \
         curl -X DELETE {any}/_members/{id}\n  \
         raftexample --join --id NEW --cluster NEW=http://HOST:PORT,{}",
        others.join(",")
    ))
}

/// The same for one that did not get so far as to know the others. A tombstone has its commands.
pub(super) fn with_commands(error: Error, config: &Config) -> Error {
    if !matches!(error, Error::Wiped(_)) {
        return error;
    }
    let members = config.founders.iter().map(|founder| (founder.id, &*founder.url));
    replacement(error, config.id, members, &BTreeMap::new())
}

/// How a peer's refusal ends this member, if it does. That it lost data ends it for good, and so
/// takes a member's word, as it does where raft's messages show it: whoever has a stream open here
/// is dialled, and may answer anything.
pub(super) fn end_by_refusal(status: u16, message: &str, is_member: bool) -> Option<Error> {
    match status {
        410 => Some(Error::Removed(message.to_owned())),
        403 if message.starts_with(LOST_DATA) => {
            is_member.then(|| Error::LostData(message.to_owned()))
        }
        403 => Some(Error::Wiped(message.to_owned())),
        _ => None,
    }
}

/// An end that holds for the next start too is written down. Where that fails, a member that lost
/// data is told so all the same: the next start may find nobody who could prove it.
pub(super) fn buried(fs: &dyn Fs, config: &Config, end: Error) -> Error {
    match (directory::bury(fs, config, &end), end) {
        (Ok(()), end) => end,
        (Err(error), Error::LostData(what)) => Error::LostData(format!(
            "{what}\nThis could not be written down ({error}), and the next start may not find out: \
             do not start this member again"
        )),
        // The node is running: this is no failed start.
        (Err(error), _) => Error::Disk(error.to_string()),
    }
}

/// What to do with a member that holds what its cluster has lost, and how far its log could be
/// closed.
pub(super) fn last_copy(what: &str, data_dir: &Path, closed: Result<(), Error>) -> Error {
    let unclosed = closed.err().map_or_else(String::new, |error| {
        format!(
            ". What is committed here could not be written down ({error}), and the next start may \
             not find out: do not start this member again"
        )
    });
    Error::ClusterLost(format!(
        "this member holds entries the leader lacks; keep {}, stop the others: {what}. Members were \
         started without what they had acknowledged, and led each other. This directory may be the \
         only copy: bring those of the others back before any is started again{unclosed}",
        data_dir.display()
    ))
}
