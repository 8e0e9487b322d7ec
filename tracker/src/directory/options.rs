//! What the directory is told at its start, who speaks to it, and what it answers beside handouts.
//!
//! Not here: any behaviour.

use std::net::SocketAddr;
use std::time::Duration;

use shoal_proto::wire::Handout;
use shoal_proto::{Digest, PeerId, Role, Zone, limits};

/// How the directory behaves. The defaults are what the tracker ships with.
#[derive(Clone, Debug)]
pub struct DirectoryOptions {
    /// Seed of every random choice.
    pub seed: u64,
    /// A peer that has not announced for this long is gone.
    pub peer_expiry: Duration,
    /// How long a blob's shape is remembered after the last member has left.
    pub blob_memory: Duration,
    /// Neighbours that a peer should have in one swarm; in a small swarm this many are named at once.
    pub neighbours: usize,
    /// Named at once in a large swarm. Edges count at both ends, so the average ends up at twice this.
    pub named_at_once: usize,
    /// How many of those named are outside the asker's zone, while there are any.
    pub outside_zone: usize,
    /// To how many members of one swarm an origin is named.
    pub origin_neighbours: usize,
    /// Below this many neighbours, a peer that lost one is told of others unasked.
    pub few_neighbours: usize,
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            peer_expiry: Duration::from_secs(90),
            blob_memory: Duration::from_secs(600),
            neighbours: limits::NEIGHBOURS,
            named_at_once: 12,
            outside_zone: 4,
            origin_neighbours: 2 * limits::NEIGHBOURS,
            few_neighbours: limits::NEIGHBOURS / 3,
        }
    }
}

/// Who speaks, as its connection proves it.
#[derive(Clone, Debug)]
pub struct Announcer {
    /// Its name.
    pub peer: PeerId,
    /// Its zone, from its membership.
    pub zone: Zone,
    /// Where it comes from, with the port on which it accepts peers.
    pub addr: SocketAddr,
    /// Its role, from its membership.
    pub role: Role,
}

/// What came of an announce.
#[derive(Debug, Default)]
pub struct Announced {
    /// Answers to the swarms that asked for peers.
    pub handouts: Vec<Handout>,
    /// Swarms of it that a limit kept out.
    pub refused: u32,
    /// Whether the set or the addresses of live origins changed.
    pub origins_changed: bool,
}

/// Sizes, for status and metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DirectorySizes {
    /// Blobs known, with members or remembered.
    pub swarms: usize,
    /// Peers known.
    pub peers: usize,
    /// Memberships of peers in swarms.
    pub members: usize,
}

/// One swarm, for status.
#[derive(Clone, Copy, Debug)]
pub struct SwarmView {
    /// The blob.
    pub digest: Digest,
    /// Its length, when known.
    pub blob_bytes: Option<u64>,
    /// Agents taking part.
    pub agents: usize,
    /// Agents with every piece.
    pub seeding: usize,
}
