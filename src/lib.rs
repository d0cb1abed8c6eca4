//! raftnode.
