//! Read-only views of a node, for people and for tests. Changes nothing.

use crate::swarm::Swarm;
use crate::{Digest, Geometry};

use super::action::SwarmState;
use super::context::Context;

/// One swarm, seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwarmView {
    /// Which blob.
    pub digest: Digest,
    /// How far we are.
    pub state: SwarmState,
    /// Its cut, once known.
    pub geometry: Option<Geometry>,
    /// Pieces held.
    pub held: u32,
    /// Fetches under way, hedges included.
    pub in_flight: usize,
    /// Peers with a link that take part.
    pub neighbours: usize,
}

/// All swarms together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Swarms we take part in.
    pub swarms: usize,
    /// Links.
    pub links: usize,
    /// Fetches under way.
    pub in_flight: usize,
    /// Uploads under way.
    pub uploads: usize,
    /// Fetches that one more would not speed up.
    pub window: usize,
}

pub(super) fn view(swarm: &Swarm) -> SwarmView {
    SwarmView {
        digest: swarm.digest,
        state: swarm.state(),
        geometry: swarm.info().map(|info| info.geometry),
        held: swarm.held_count(),
        in_flight: swarm.in_flight(),
        neighbours: swarm.neighbour_count(),
    }
}

pub(super) fn status(cx: &Context, swarms: usize) -> NodeStatus {
    NodeStatus {
        swarms,
        links: cx.peers.live(),
        in_flight: cx.in_flight,
        uploads: cx.slots.uploads().len(),
        window: cx.pace.kept(),
    }
}
