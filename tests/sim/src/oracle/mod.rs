//! The invariants, checked after every step of a member.
