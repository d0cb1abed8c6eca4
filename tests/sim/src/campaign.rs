//! Many seeds, spread over threads, and what is said of them.
