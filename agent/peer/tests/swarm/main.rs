//! Members of a swarm over real QUIC on loopback: an origin whose upstream is memory, agents with stores on disk, a
//! tracker that keeps its word, and peers that do not.
//!
//! Not here: decisions (the core's own tests), handshakes (the link's), durability (the store's). Every await is under a
//! deadline; nothing sleeps to synchronise.

mod faults;
mod hostile;
mod introducer;
mod liar;
mod recorder;
mod spread;
mod world;
