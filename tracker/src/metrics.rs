//! What the tracker counts. Labels come from closed sets; no peer and no digest is ever one.

use std::time::Duration;

use crate::directory::DirectorySizes;

pub(crate) fn announced(refused: u32, took: Duration) {
    let result = if refused == 0 { "ok" } else { "refused" };
    metrics::counter!("shoal_tracker_announces_total", "result" => result).increment(1);
    metrics::counter!("shoal_tracker_rejected_total", "reason" => "limit")
        .increment(refused.into());
    metrics::histogram!("shoal_tracker_announce_duration_seconds").record(took);
}

pub(crate) fn handed(peers: usize) {
    metrics::histogram!("shoal_tracker_handout_size")
        .record(u32::try_from(peers).unwrap_or(u32::MAX));
}

/// `reason` is one of a few literals.
pub(crate) fn rejected(reason: &'static str) {
    metrics::counter!("shoal_tracker_rejected_total", "reason" => reason).increment(1);
}

/// A connection that did not become a link; the link layer's reasons are a closed set.
pub(crate) fn refused(reason: &'static str) {
    metrics::counter!("shoal_quic_handshakes_total", "result" => reason).increment(1);
    metrics::counter!("shoal_auth_failures_total", "plane" => "peer").increment(1);
}

pub(crate) fn accepted() {
    metrics::counter!("shoal_quic_handshakes_total", "result" => "ok").increment(1);
}

pub(crate) fn sizes(sizes: DirectorySizes) {
    let gauge = |value: usize| f64::from(u32::try_from(value).unwrap_or(u32::MAX));
    metrics::gauge!("shoal_tracker_swarms").set(gauge(sizes.swarms));
    metrics::gauge!("shoal_tracker_peers").set(gauge(sizes.peers));
    metrics::gauge!("shoal_tracker_memory_entries").set(gauge(sizes.members));
}
