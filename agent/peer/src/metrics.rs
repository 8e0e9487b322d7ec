//! The counters of a member of swarms. Labels come from closed sets only, so that their number is bounded.
//!
//! Not here: what the mirror and the origin count themselves (`source="cache"` and `source="upstream"`), and how
//! the numbers are shown.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use shoal_proto::wire::CloseCode;
use shoal_proto::{FetchFailure, Role};

/// Where a check failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckedAt {
    /// The whole digest of a blob whose pieces were all verified.
    Commit,
    /// A blob's shape, signed wrongly.
    Info,
    /// The bytes of a piece.
    Peer,
    /// A piece's proof, signed wrongly.
    Proof,
    /// A signature by somebody who is no origin that we know.
    Unvouched,
}

impl CheckedAt {
    fn label(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Info => "info",
            Self::Peer => "peer",
            Self::Proof => "proof",
            Self::Unvouched => "unvouched",
        }
    }
}

/// Whom a piece came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) role: Role,
    /// In our own zone.
    pub(crate) near: bool,
}

/// Verified bytes that came from this kind of peer. What crosses zones is counted apart, because networks between them
/// are narrow or paid for.
pub(crate) fn downloaded(from: Sender, bytes: u64, took: Duration) {
    let source = match from.role {
        Role::Origin => "origin",
        Role::Agent | Role::Tracker => "peer",
    };
    let zone = if from.near { "same" } else { "other" };
    counter!("shoal_download_bytes_total", "source" => source).increment(bytes);
    counter!("shoal_peer_bytes_total", "zone" => zone).increment(bytes);
    counter!("shoal_pieces_total", "result" => "ok").increment(1);
    histogram!("shoal_piece_duration_seconds").record(took.as_secs_f64());
}

/// Bytes that came and were thrown away: of a fetch that was withdrawn or broke, or that another was faster than.
pub(crate) fn wasted(bytes: u64) {
    counter!("shoal_wasted_bytes_total").increment(bytes);
}

/// A piece that did not come.
pub(crate) fn piece_failed(failure: &FetchFailure) {
    let result = match failure {
        FetchFailure::BadProof | FetchFailure::Corrupt => "corrupt",
        FetchFailure::Lost => "lost",
        FetchFailure::Refused(_) => "refused",
        FetchFailure::StoreFailed => "store_failed",
        FetchFailure::TimedOut => "timeout",
        FetchFailure::Unvouched => "unvouched",
    };
    counter!("shoal_pieces_total", "result" => result).increment(1);
}

/// A fetch that the core withdrew.
pub(crate) fn piece_cancelled() {
    counter!("shoal_pieces_total", "result" => "cancelled").increment(1);
}

/// Bytes that a peer took from us, acknowledged.
pub(crate) fn uploaded(bytes: u64) {
    counter!("shoal_upload_bytes_total").increment(bytes);
}

/// Something signed or hashed was wrong.
pub(crate) fn verify_failed(at: CheckedAt) {
    counter!("shoal_verify_failures_total", "where" => at.label()).increment(1);
}

/// The core hung up on a peer.
pub(crate) fn hung_up(code: CloseCode) {
    counter!("shoal_hangups_total", "code" => code.name()).increment(1);
    if code == CloseCode::Banned {
        counter!("shoal_peer_bans_total", "reason" => "strikes").increment(1);
    }
}

/// An ask that was refused before the core heard of it.
pub(crate) fn ask_refused_at_the_limit() {
    counter!("shoal_limit_rejections_total", "limit" => "asks_per_link").increment(1);
}

/// An incoming connection that did not become a link.
pub(crate) fn handshake_refused(reason: &'static str) {
    counter!("shoal_handshakes_refused_total", "reason" => reason).increment(1);
}

/// A peer that could not be dialed.
pub(crate) fn dial_failed() {
    counter!("shoal_dials_failed_total").increment(1);
}

/// Whether a tracker answers.
pub(crate) fn tracker_connected(connected: bool) {
    gauge!("shoal_tracker_connected").set(f64::from(u8::from(connected)));
}

/// A message to the tracker went out or did not.
pub(crate) fn announced(sent: bool) {
    let result = if sent { "ok" } else { "lost" };
    counter!("shoal_announces_total", "result" => result).increment(1);
}

/// What a member looks like from afar.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Levels {
    pub(crate) links: usize,
    pub(crate) swarms: usize,
    pub(crate) transfers: usize,
    pub(crate) uploads: usize,
    pub(crate) buffered_bytes: usize,
}

impl Levels {
    pub(crate) fn show(self) {
        gauge!("shoal_links").set(level(self.links));
        gauge!("shoal_swarms").set(level(self.swarms));
        gauge!("shoal_transfers").set(level(self.transfers));
        gauge!("shoal_uploads").set(level(self.uploads));
        gauge!("shoal_buffered_bytes").set(level(self.buffered_bytes));
    }
}

fn level(count: usize) -> f64 {
    u32::try_from(count).map_or_else(|_| f64::from(u32::MAX), f64::from)
}
