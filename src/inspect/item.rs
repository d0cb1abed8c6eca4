//! What an inspection shows, and what it says of what it showed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{FrameKind, HardState, Kept, Marker, Segment};
use crate::membership::{Book, Member};

/// What is found, in the order in which a start would read it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Item<'a> {
    /// Whose data directory it is.
    Identity {
        /// The member.
        node: u64,
        /// Its cluster; 0 while it is joining one.
        cluster: u64,
        /// Drawn when the directory was made.
        incarnation: u128,
    },
    /// The incarnations under which other members were first met.
    Pins(&'a BTreeMap<u64, u128>),
    /// Why no member starts here again.
    Tombstone {
        /// The file.
        path: &'a Path,
        /// What it says.
        why: &'a str,
    },
    /// A segment of the log begins.
    Segment(Segment<'a>),
    /// A record of the segment that began last.
    Record(Record<'a>),
    /// A snapshot.
    Snapshot(Snapshot<'a>),
    /// What is to be said of a file or directory. There may be several of one.
    Finding(Finding),
}

/// A record of the log, and the frame it is in.
#[derive(Debug)]
pub struct Record<'a> {
    /// Where the frame begins in its segment.
    pub offset: u64,
    /// The frame's size.
    pub bytes: u64,
    /// The frame's number, which grows by one from frame to frame.
    pub frame: u64,
    /// What the frame is for.
    pub kind: FrameKind,
    /// The record.
    pub what: What<'a>,
}

/// What a record says.
#[derive(Debug)]
pub enum What<'a> {
    /// An entry. It replaces what had its index before, and everything behind that.
    Entry(Entry<'a>),
    /// A snapshot of everything through an entry is durable.
    Marker(Marker),
    /// The term, the vote and the commit index.
    HardState(HardState),
    /// The segment ends, and another follows.
    Seal,
}

/// An entry of the log.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its place in the log.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// What it says.
    pub content: Content<'a>,
}

/// What an entry says.
#[derive(Debug)]
pub enum Content<'a> {
    /// Nothing: a leader begins its term, or somebody waits for everything before now.
    Nothing,
    /// A command for the state machine.
    Command {
        /// The member that proposed it; none in an entry without a key.
        proposer: Option<u64>,
        /// The command.
        data: &'a [u8],
    },
    /// A member is added, or changes.
    Member {
        /// Its id.
        id: u64,
        /// What is known of it from then on.
        member: Member,
    },
    /// A member is removed.
    Removal {
        /// Its id.
        id: u64,
    },
    /// Nothing that this program writes.
    Unknown(&'a [u8]),
}

/// What a snapshot's header says. All of the file has been verified.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The file.
    pub path: &'a Path,
    /// Its size.
    pub bytes: u64,
    /// How much of it is the state.
    pub state_bytes: u64,
    /// The cluster.
    pub cluster: u64,
    /// The last entry in it.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// By which a marker in the log names it.
    pub checksum: u64,
    /// The voters as of that entry.
    pub voters: &'a [u64],
    /// The learners as of that entry.
    pub learners: &'a [u64],
    /// The address book as of that entry.
    pub book: &'a Book,
}

/// What is to be said of a file, or of how the files fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file or directory.
    pub path: PathBuf,
    /// What is to be said.
    pub judgement: Judgement,
}

/// What is to be said of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It is what was written. Says what it holds.
    Sound(String),
    /// The log's last batch is incomplete: a crash came before its sync, so it was never
    /// acknowledged. The next start cuts it off.
    Torn {
        /// Where it begins.
        offset: u64,
        /// How far its bytes reach.
        bytes: u64,
    },
    /// Nothing is wrong with it, but there is something to know.
    Note(String),
    /// It is not what was written, or not what belongs here: a member does not start on it.
    Corrupt(Damage),
}

/// What is wrong, where, and what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Damage {
    /// Where the damage begins, in a file that begins well.
    pub offset: Option<u64>,
    /// The first entry that may be lost, if entries are.
    pub first_index: Option<u64>,
    /// The last entry known to lie beyond the damage, if any could be told.
    pub last_index: Option<u64>,
    /// What does not hold.
    pub reason: String,
    /// What is whole in front of the damage, and would be kept if the log ended there.
    pub kept: Option<Kept>,
}

/// How it all ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// How many sound files there are.
    pub n_sound: u64,
    /// How many corrupt ones; none if a member would start on this.
    pub n_corrupt: u64,
    /// Whether the log ends in a batch that will be cut off.
    pub is_torn: bool,
}

impl Summary {
    pub(super) fn count(&mut self, judgement: &Judgement) {
        match judgement {
            Judgement::Sound(_) => self.n_sound += 1,
            Judgement::Torn { .. } => self.is_torn = true,
            Judgement::Note(_) => {}
            Judgement::Corrupt(_) => self.n_corrupt += 1,
        }
    }

    /// Whether nothing is corrupt.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.n_corrupt == 0
    }
}
