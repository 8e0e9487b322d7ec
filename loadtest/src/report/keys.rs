//! What each figure of a report is: its unit, its meaning, and which way is better.
//!
//! One table for the page, for `compare`, for gates and for `docs/BENCHMARKS.md`, whose table a test holds against it.

use super::Report;

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
    /// Neither: it tells how something went.
    Neither,
    /// A condition: reports that differ in it are not comparable.
    Same,
}

/// The unit that a figure is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    BitsPerSec,
    Bytes,
    /// Times the length of the blob.
    Copies,
    Count,
    CpuSecsPerGib,
    /// Of one: 0.03 is three in a hundred.
    Ratio,
    Secs,
    /// Of two figures.
    Times,
}

impl Unit {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BitsPerSec => "bit/s",
            Self::Bytes => "bytes",
            Self::Copies => "copies",
            Self::Count => "count",
            Self::CpuSecsPerGib => "CPU s/GiB",
            Self::Ratio => "share of 1",
            Self::Secs => "s",
            Self::Times => "×",
        }
    }
}

/// A figure that every report has a key for.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub unit: Unit,
    pub better: Better,
    pub means: &'static str,
    pub of: fn(&Report) -> Option<f64>,
}

macro_rules! keys {
    ($($name:ident: $unit:ident, $better:ident, $of:expr, $means:literal;)*) => {
        &[$(Key {
            name: stringify!($name),
            unit: Unit::$unit,
            better: Better::$better,
            means: $means,
            of: {
                let of: fn(&Report) -> Option<f64> = $of;
                of
            },
        }),*]
    };
}

fn whole(count: impl Into<Option<u64>>) -> Option<f64> {
    count.into().map(|count| count as f64)
}

/// In the order of the file.
pub const KEYS: &[Key] = keys! {
    agents: Count, Same, |r| whole(r.agents), "Agents that want the blob.";
    zones: Count, Same, |r| whole(r.zones), "Zones that they are spread over.";
    blob_bytes: Bytes, Same, |r| whole(r.blob_bytes), "Length of the blob, or of all layers of the image.";
    piece_bytes: Bytes, Same, |r| whole(r.piece_bytes), "Length of a piece; of an image, that of its longest layer.";
    pieces: Count, Same, |r| whole(r.pieces), "Pieces that the blob is cut in.";
    link_bits_per_sec: BitsPerSec, Same, |r| r.link_bits_per_sec, "Rate of every agent's link and of the origin's, each way. Null: not shaped.";
    seed: Count, Neither, |r| whole(r.seed), "Everything that was left to chance follows from it.";
    makespan_s: Secs, Lower, |r| r.makespan_s, "From the first wish until the last agent has the blob, checked.";
    bound_s: Secs, Same, |r| r.bound_s, "The least that any order of sending takes: (pieces + floor(log2 agents)) piece times at the link's rate.";
    makespan_over_bound: Times, Lower, |r| r.makespan_over_bound, "makespan_s over bound_s. 1 is the physical limit.";
    p50_s: Secs, Lower, |r| r.p50_s, "Half of the agents took no longer, each from its own wish.";
    p99_s: Secs, Lower, |r| r.p99_s, "99 of 100 agents took no longer.";
    max_s: Secs, Lower, |r| r.max_s, "The slowest agent.";
    ttfb_p50_s: Secs, Lower, |r| r.ttfb_p50_s, "First byte at the client: half of them waited no longer.";
    ttfb_p99_s: Secs, Lower, |r| r.ttfb_p99_s, "First byte at the client: 99 of 100 waited no longer.";
    origin_copies: Copies, Lower, |r| r.origin_copies, "Bytes that the origin sent to agents, over the blob's length.";
    upstream_copies: Copies, Lower, |r| r.upstream_copies, "Bytes that upstream sent into the cluster, over the blob's length. Null: no upstream took part.";
    cross_zone_copies: Copies, Lower, |r| r.cross_zone_copies, "Bytes that went from one zone into another, over the blob's length.";
    duplicate_ratio: Ratio, Lower, |r| r.duplicate_ratio, "Bytes that arrived and were of no use, over all that arrived.";
    cpu_s_per_gib: CpuSecsPerGib, Lower, |r| r.cpu_s_per_gib, "CPU time of all Shoal processes, per GiB delivered to an agent.";
    rss_max_bytes: Bytes, Lower, |r| whole(r.rss_max_bytes), "Most memory that any one Shoal process held (peak resident set).";
    failed_agents: Count, Lower, |r| whole(r.failed_agents), "Agents that were to have the blob in the end and had not.";
    wrong_bytes: Bytes, Lower, |r| whole(r.wrong_bytes), "Bytes that reached a client and were not the blob's.";
    cpu_busy_ratio: Ratio, Neither, |r| r.cpu_busy_ratio, "Busy share of the machine's cores during the run. Near 1, the run measured the machine and not the links.";
    goodput_bits_per_sec: BitsPerSec, Neither, |r| r.goodput_bits_per_sec, "What one tuned QUIC transfer reached over the same link, in the same run.";
    makespan_over_goodput_bound: Times, Lower, |r| r.makespan_over_goodput_bound, "makespan_s over the bound at goodput_bits_per_sec.";
};
