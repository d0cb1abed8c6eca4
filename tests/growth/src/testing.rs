//! Made-up points, for the tests of what is made of them.

use crate::points::Points;

/// A few points of each axis. One step is a cliff: PUTs from 10,000 keys to 100,000.
pub(crate) fn points() -> Points {
    let facts = [("machine", "a desk"), ("commit", "abc1234"), ("command", "make growth")];
    let facts = facts.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut points = Points { facts: facts.to_vec(), ..Points::default() };
    for (n, puts, gets) in
        [(1, 40_000.0, 60_000.0), (3, 30_000.0, 50_000.0), (5, 20_000.0, 50_000.0)]
    {
        points.add("members-rate", "PUT", n, puts);
        points.add("members-rate", "GET", n, gets);
    }
    for (n, puts) in [(1_000, 30_000.0), (10_000, 29_000.0), (100_000, 9_000.0)] {
        points.add("keys-rate", "PUT", n, puts);
    }
    points.add("bytes-moved", "8 connections", 1, 0.01);
    points.add("bytes-moved", "8 connections", 1 << 20, 120.5);
    points
}
