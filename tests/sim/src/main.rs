//! `simulate`: a campaign of simulated clusters, or one of its seeds again.

fn main() {}
