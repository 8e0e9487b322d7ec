//! The introducer of peers.
pub mod directory;
mod expiry;
mod handout;
