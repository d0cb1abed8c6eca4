//! Whole transports over loopback sockets, and hand-made peers that misbehave.
