//! Members of a swarm over real QUIC on loopback: an origin whose upstream is memory, agents with stores on disk, a
//! tracker that keeps its word, and peers that do not.
//!
//! Not here: decisions (the core's own tests), handshakes (the link's), durability (the store's). Every await is under a
//! deadline; nothing sleeps to synchronise.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod faults;
mod hostile;
mod introducer;
mod liar;
mod recorder;
mod spread;
mod world;
