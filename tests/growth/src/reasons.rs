//! Why costs grow as they do. No numbers stand here: those are measured.

use crate::cliff::Step;

/// Under each picture.
const TEXTS: [(&str, &str); 17] = [
    (
        "members-rate",
        "One member alone waits for its own disk only, and says nothing to anybody. From three on \
         every\nmember frames, syncs and applies every write, and all of them share the cores: \
         what all can do is\ndivided by their number. A read costs a round to a majority, which \
         all reads that wait share.",
    ),
    (
        "members-p99",
        "One member waits for one sync; more wait for a majority, whose syncs share one disk. \
         Beyond the\nnumber of cores members wait for each other's turns.",
    ),
    (
        "members-processor",
        "A write costs every member its frame, its place in the log and in the store: a line \
         through the\npoints rises with the number of followers. The leader's part, which parses and \
         answers, is there once.\nReads are paid by the leader; followers answer rounds that many \
         reads share.",
    ),
    (
        "keys-rate",
        "A write looks its key up in a tree of high degree: what grows with the keys are its \
         depth, and the\nmisses of the processor's caches, which hold less of the tree. \
         Snapshots grow too, but come less\noften: the log grows to half a snapshot's size first.",
    ),
    (
        "keys-p99",
        "The slowest of a hundred are those beside a snapshot, which every member takes at the same \
         index, on\ncores that are all busy: the more keys, the longer it takes. With snapshots \
         turned off the curve is\nflatter.",
    ),
    (
        "keys-processor",
        "The same lookups, with their misses, on each of the members; and the processor time of \
         the snapshots\nthat fell into the load.",
    ),
    (
        "keys-memory",
        "With few keys it is the log's latest entries, buffers and the program itself that take \
         memory: the\ncurve is flat until the keys take more, and then goes with them. The most \
         under load has the versions\nthat a snapshot being written still holds.",
    ),
    (
        "keys-memory-each",
        "Key, value, the indexes that made and changed it, and the tree around them, with the room \
         that nodes\nleave for growth and the allocator for sizes. What was there with the fewest \
         keys is left out.",
    ),
    (
        "keys-snapshot",
        "A snapshot holds each key with its value and indexes: it goes with the keys.",
    ),
    (
        "keys-time",
        "A small snapshot costs its syncs and names, which are the same for any size; then what \
         is written\ncounts. A restart reads, checks and builds the whole store from it, replays \
         what the log has beyond\nit, and then needs the leader to vouch for its first read.",
    ),
    (
        "bytes-rate",
        "Small values cost what a request costs, whatever is in it. Then each byte costs: it is \
         sent and\nsynced once per member, and all members' logs share one disk.",
    ),
    (
        "bytes-moved",
        "The same in bytes: it rises until the bytes are what is paid for, by the processors that all \
         members\nand the load share, and by the disk, which takes every byte once for each member.",
    ),
    (
        "bytes-p99",
        "A batch of large values takes longer to write and to sync, and who comes meanwhile waits \
         for it.",
    ),
    (
        "bytes-processor",
        "A request's own cost, and then that of its bytes: copied from the socket, summed, \
         written, sent to\neach follower, and copied into each store.",
    ),
    (
        "bytes-processor-each",
        "What a request costs is spread over ever more bytes, until only the bytes count.",
    ),
    (
        "bytes-disk",
        "All that the disk was given while the load ran, by its own count: the log, the zeros that \
         go ahead of\nit, snapshots, and what the file system says of them. Small entries share the \
         blocks that their batch\nbegins and ends in: the more connections, the more entries. From \
         about a batch of blocks on it goes\nwith the bytes.",
    ),
    (
        "bytes-disk-each",
        "The same for each byte: blocks and zeros are spread over ever more of them. What is left \
         for large\nvalues, which no zeros go ahead of, is one byte for the log, and the snapshots.",
    ),
];

/// A step that is known to be a cliff.
struct Reason {
    figure: &'static str,
    series: &'static str,
    /// Steps that begin and end within these.
    from: u64,
    to: u64,
    why: &'static str,
}

const REASONS: [Reason; 0] = [];

/// What stands under a picture.
pub fn of_figure(name: &str) -> &'static str {
    TEXTS.iter().find(|(figure, _)| *figure == name).map_or("", |(_, text)| text)
}

/// The reason of a step, if it is known.
pub fn of_step(figure: &str, series: &str, step: Step) -> Option<&'static str> {
    let fits = |reason: &&Reason| {
        reason.figure == figure
            && reason.series == series
            && reason.from <= step.from
            && step.to <= reason.to
    };
    REASONS.iter().find(fits).map(|reason| reason.why)
}

/// The figures that anything is said of.
pub fn figures() -> impl Iterator<Item = &'static str> {
    TEXTS.iter().map(|(name, _)| *name).chain(REASONS.iter().map(|reason| reason.figure))
}
