//! raftexample.
fn main() {}
