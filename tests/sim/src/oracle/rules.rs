//! The rules that runs are judged by, each in one sentence.

use crate::Violation;

/// A rule: what reports call it, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub statement: &'static str,
}

impl Rule {
    /// It was broken like this.
    #[must_use]
    pub fn broken(&self, what: String) -> Violation {
        Violation { rule: self.name, statement: self.statement, what, tick: None }
    }

    /// It was broken if this is not so.
    pub(crate) fn holds(
        &self,
        holds: bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), Violation> {
        if holds { Ok(()) } else { Err(self.broken(what())) }
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $id:ident = $name:literal, $statement:literal;)*) => {
        $(
            #[doc = $statement]
            pub const $id: Rule = Rule { name: $name, statement: $statement };
        )*

        /// All of them, those of the clients included.
        pub const ALL: &[Rule] = &[$($id,)*];
    };
}

rules! {
    ELECTION_SAFETY = "election safety", "At most one member ever leads in a term.";
    LEADER_KNOWS_ITSELF = "leader knows itself", "A member takes itself for the leader when it leads, and only then.";
    LEADER_APPENDS_ONLY = "leader appends only", "A leader neither overwrites nor removes entries of its log.";
    LEADER_COMPLETENESS = "leader completeness", "Whoever comes to lead has every entry that was committed in an earlier term.";
    LOG_MATCHING = "log matching", "Entries with the same index and term are the same, and follow the same entry.";
    TERMS_RISE = "terms rise along a log", "No entry has a lower term than the one before it, nor a higher one than its member.";
    COMMITTED_STAYS = "committed entries stay", "What is committed at an index is the same entry for every member, for ever, and no log loses it whose member knows of the term in which it was committed.";
    COMMITTED_ON_QUORUM = "committed on a quorum", "When a leader commits an entry, a quorum of the configuration in force has it in its durable log; of both configurations when there are two.";
    COMMITS_OWN_TERM = "commits in its own term", "A leader moves its commit index to an entry of its own term only.";
    STATE_MACHINE_SAFETY = "state machine safety", "Whatever members publish or apply at an index is one entry, whoever does it, whenever, and after whatever crash or snapshot.";
    PUBLISHED_ONCE = "N3 published once", "A process gives each index to its consumer once, in order, none left out; after a restored state only indexes above it follow, and a state is captured at the index it is named after.";
    CURSOR_ORDER = "N1 cursors in order", "snapshot index <= published <= commit index <= last index, and applied <= published.";
    CURSORS_RISE = "cursors rise", "While a process runs its term, commit index, published and applied index and its membership book never go back.";
    ONE_VOTE = "one vote", "A member votes for at most one candidate in a term.";
    PROMISES_KEPT = "N2 promises are durable", "What a member acknowledged or voted in a message is on its disk after every crash.";
    SYNCED_STAYS = "N6 synced entries stay", "What a log has synced is there after every crash, unless a later leader replaced it.";
    DURABLE_RISES = "N7 durable state rises", "Term, vote and commit index never go back on disk.";
    STATES_EQUAL = "N4 states are equal", "The state at an applied index is the same on every member, in every snapshot, and after every restore.";
    BOOKS_EQUAL = "membership books are equal", "The membership at an index is the same on every member.";
    REMOVAL_COMMITTED = "removals are committed", "A member ends as a removed one only once its removal is committed.";
    SNAPSHOT_COMMITTED = "N5 snapshots hold what is committed", "No member's log begins behind an index that nobody has committed.";
    FALLS_BACK = "B5 a spoilt snapshot is survived", "A log begins behind the snapshot before the newest at the latest, if that is kept, and a member whose newest one is spoilt begins with it.";
    SENT_ONCE = "B4 one snapshot at a time", "A member sends each other at most one snapshot at a time.";
    OPENS_AGAIN = "N5 members open again", "A member opens its directory after every crash, unless what it lost is to be refused.";
    NO_PANIC = "no broken assertion", "No rule that a member asserts about itself is broken, and no member ends by itself.";
    SERVES_AGAIN = "liveness", "Once nothing is wrong any more, the members converge and serve within a bound.";
    ANSWERED = "N8 everyone is answered", "Every accepted proposal and every read ends, by its deadline and the time it takes to apply.";
    OUTCOME_TRUE = "N8 outcomes are true", "An applied command is in the log exactly once, at the index that was told; a refused one is nowhere; one with an unknown outcome is there once at most.";
    ONCE_PER_KEY = "K7 once per key", "Every repetition under an idempotency key is given the first application's answer.";
    READS_FRESH = "reads are fresh", "A linearizable read, and a barrier, see everything that was acknowledged before they were asked for.";
    READS_REAL = "reads are real", "What a read sees at an index was written there, to that key, and nothing else was.";
    READS_RISE = "stale reads rise", "While a process runs, the state that it shows never goes back; from its start it shows what its disk knew to be committed, or nothing.";
    ATOMIC = "K6 txns are atomic", "No version of the store holds one part of a txn without the other.";
    WATCH_ORDER = "E2 watch order", "A watcher is given every event from its first index on, once, in order, the same as every other watcher.";
    LINEARIZABLE = "linearizability", "What the clients were told could have come from one copy that does one thing at a time.";
}
