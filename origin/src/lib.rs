//! The seeder before upstream: the only process of a cluster that talks to registries, and the one that signs what
//! they send.
//!
//! An origin is a peer whose missing pieces come from upstream. Map: [`upstream`] asks registries; `coalesce` sees to
//! it that each thing is asked once (I7); `ingest` turns a blob's bytes into signed pieces as they arrive; `manifests`
//! answers for tags and manifests; `policy` says who may have what; `seeder` offers both to the peer machinery, `server` to HTTP clients. Credentials
//! of upstreams live here and nowhere else (I8).
//!
//! Not here: to whom pieces go, when, and how (that is `shoal_peer`, the same as in an agent).

pub mod coalesce;
pub mod config;
pub mod upstream;

mod clock;
mod cut;
mod flight;
mod ingest;
mod listings;
mod manifests;
mod names;
mod policy;
mod run;
mod seeder;
mod server;

#[cfg(test)]
mod tests;

pub use run::{Origin, OriginError, run};
