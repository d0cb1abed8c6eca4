//! Every state in which a crash can leave a disk, opened again by the code that has to.
//!
//! A life of the log or of a whole member runs on a [file system](journal) that records what it
//! does. At each boundary between two of its operations the [images](choice) that a crash could
//! leave are built: all of them where they are few, drawn by a seed where they are many. Each one
//! is opened, judged by what had been acknowledged, written to, and crashed again
//! ([`explore`](mod@explore)).
//!
//! What it refuses to model: sectors that change after they were synced, files that two names
//! share, attributes, and the file system's own structures.

pub mod campaign;
pub mod choice;
pub mod disk;
pub mod explore;
pub mod journal;
pub mod log;
pub mod member;
