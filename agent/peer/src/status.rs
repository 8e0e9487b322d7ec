//! What a member holds and does, for people and for `/status`. A snapshot, made on request; nothing is decided by it.

use serde::Serialize;

/// One member at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// Our own name.
    pub peer: String,
    /// Agent or origin.
    pub role: String,
    /// Our zone; empty when none is set.
    pub zone: String,
    /// The introducer.
    pub tracker: TrackerStatus,
    /// Live origins.
    pub origins: Vec<OriginStatus>,
    /// Links that stand.
    pub links: Vec<LinkStatus>,
    /// Blobs that are being brought.
    pub swarms: Vec<SwarmStatus>,
    /// Blobs held whole.
    pub complete_blobs: usize,
    /// Blobs held in part.
    pub partial_blobs: usize,
    /// Pieces being fetched now.
    pub transfers: usize,
    /// Pieces being sent now.
    pub uploads: usize,
    /// Bytes of payload in memory.
    pub buffered_bytes: usize,
}

/// How we stand with the tracker.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TrackerStatus {
    /// Whether one answers.
    pub connected: bool,
    /// Which one, as configured.
    pub address: Option<String>,
    /// Whether we have a membership to show.
    pub joined: bool,
}

/// One origin.
#[derive(Clone, Debug, Serialize)]
pub struct OriginStatus {
    /// Who.
    pub peer: String,
    /// Where.
    pub addr: String,
}

/// One link.
#[derive(Clone, Debug, Serialize)]
pub struct LinkStatus {
    /// With whom.
    pub peer: String,
    /// What it is.
    pub role: String,
    /// Where it stands.
    pub zone: String,
    /// Where its packets come from.
    pub addr: String,
    /// Round trip.
    pub rtt_us: u64,
    /// Who dialed.
    pub dialed: bool,
}

/// One blob.
#[derive(Clone, Debug, Serialize)]
pub struct SwarmStatus {
    /// Which.
    pub digest: String,
    /// Its length, once known.
    pub blob_bytes: Option<u64>,
    /// Pieces in all, once known.
    pub pieces: Option<u32>,
    /// Pieces held.
    pub held: u32,
    /// Committed.
    pub complete: bool,
    /// Who reads it here now.
    pub readers: usize,
}
