//! The mirror as clients meet it, over HTTP, against a real agent: the pull half of the OCI distribution suite, and the
//! promises of the ten rules.
//!
//! Not here: agents among each other, upstream registries, and real clients; those are cluster tests.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, in its helpers too"
)]

mod blobs;
mod http;
mod lists;
mod manifests;
mod private;
mod routing;
mod suite;
mod surface;
mod world;
