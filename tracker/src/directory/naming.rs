//! The directory's other half: naming peers to peers, asked or unasked, and remembering that it was done.
//!
//! Not here: whom to choose among many (that is [`crate::handout`]), or who takes part (that is the directory proper).

use std::net::SocketAddr;

use shoal_proto::wire::{Candidate, Handout, PeerAddress};
use shoal_proto::{Digest, limits, ring};

use super::Directory;
use super::swarm::{Part, PeerSlot};
use crate::handout::Choice;

/// Seeding newcomers are told to at most this many peers that have few neighbours.
const PUSHES_PER_NEWCOMER_MAX: usize = 8;

impl Directory {
    /// A seeding newcomer that asked for nobody is told to those that have few neighbours.
    pub(super) fn push_newcomer(&mut self, slot: PeerSlot, digest: Digest) {
        let chosen = self.choose(slot, digest, &[], PUSHES_PER_NEWCOMER_MAX);
        for other in chosen {
            let Some(swarm) = self.swarms.get_mut(&digest) else {
                return;
            };
            let poor = swarm.member(other).is_some_and(|member| {
                member.part == Part::Leeching && member.neighbours.len() < self.options.neighbours
            });
            if poor {
                swarm.link(slot, other);
                let handout = self.compose(other, digest, &[slot]);
                self.push(other, handout);
            }
        }
    }

    /// A leeching peer that lost a neighbour and has few left is told of others.
    pub(super) fn push_replacement(&mut self, slot: PeerSlot, digest: Digest) {
        let poor = self
            .swarms
            .get(&digest)
            .and_then(|swarm| swarm.member(slot))
            .is_some_and(|member| {
                member.part == Part::Leeching
                    && member.neighbours.len() < self.options.few_neighbours
            });
        if poor && let Some(handout) = self.handout(slot, digest, &[]) {
            self.push(slot, Some(handout));
        }
    }

    pub(super) fn push(&mut self, slot: PeerSlot, handout: Option<Handout>) {
        if self.pushes.len() < limits::PUSHES_WAITING_MAX
            && let (Some(entry), Some(handout)) = (self.peers.get(slot), handout)
        {
            self.pushes.push_back((entry.id, handout));
        }
    }

    /// Names peers to `slot`, and records that they know each other now.
    pub(super) fn handout(
        &mut self,
        slot: PeerSlot,
        digest: Digest,
        stuck: &[PeerSlot],
    ) -> Option<Handout> {
        let swarm = self.swarms.get(&digest)?;
        let known = swarm.member(slot)?.neighbours.len();
        let small = swarm.agents() <= 2 * self.options.neighbours;
        let at_once = if small {
            self.options.neighbours
        } else {
            self.options.named_at_once
        };
        // One that has its share and still asks does so because they do not serve it: a few more, always.
        let want = self
            .options
            .neighbours
            .saturating_sub(known)
            .clamp(self.options.outside_zone.max(1), at_once);
        let mut chosen = self.choose(slot, digest, stuck, want);
        let swarm = self.swarms.get_mut(&digest)?;
        for other in &chosen {
            swarm.link(slot, *other);
        }
        if chosen.len() < want {
            // Nobody new: repeat those it was told before, in case they were lost on the way.
            let again = swarm
                .member(slot)?
                .neighbours
                .iter()
                .filter(|other| !stuck.contains(other) && !chosen.contains(other));
            let again: Vec<PeerSlot> = again.copied().take(want - chosen.len()).collect();
            chosen.extend(again);
        }
        self.compose(slot, digest, &chosen)
    }

    pub(super) fn choose(
        &mut self,
        slot: PeerSlot,
        digest: Digest,
        stuck: &[PeerSlot],
        want: usize,
    ) -> Vec<PeerSlot> {
        let (Some(swarm), Some(entry)) = (self.swarms.get(&digest), self.peers.get(slot)) else {
            return Vec::new();
        };
        let mut excluded = vec![slot];
        excluded.extend_from_slice(stuck);
        excluded.extend(
            swarm
                .member(slot)
                .into_iter()
                .flat_map(|member| member.neighbours.iter().copied()),
        );
        let outside =
            self.options.outside_zone * want.div_ceil(self.options.neighbours.max(1)).max(1);
        let outside = outside.min(want.div_ceil(4)).max(1);
        let choice = Choice {
            swarm,
            zone: &entry.zone,
            excluded: &excluded,
            want,
            outside,
        };
        let peers = &self.peers;
        choice.choose(
            |other| {
                peers.cost(
                    other,
                    swarm
                        .member(other)
                        .map_or(0, |member| member.neighbours.len()),
                )
            },
            &mut self.rng,
        )
    }

    /// The message, with the owning origin at its end while few members know one.
    pub(super) fn compose(
        &mut self,
        slot: PeerSlot,
        digest: Digest,
        named: &[PeerSlot],
    ) -> Option<Handout> {
        let listener = self.peers.get(slot)?.addr;
        let injected = self.swarms.get(&digest)?.injected(slot);
        let mut peers: Vec<Candidate> = named
            .iter()
            .take(limits::HANDOUT_PEERS_MAX - 1)
            .filter_map(|other| self.candidate(*other, digest, listener))
            .collect();
        if let Some(owner) = ring::owners(&digest, self.origins.keys()).first()
            && let Some(origin) = self.origins.get(owner).copied()
            && origin != slot
        {
            let swarm = self.swarms.get_mut(&digest)?;
            let knows = swarm.member(slot).is_some_and(|member| member.knows_origin);
            if knows || !injected || swarm.origin_degree < self.options.origin_neighbours {
                swarm.name_origin(slot);
                peers.extend(self.candidate(origin, digest, listener));
            }
        }
        let info = self.swarms.get(&digest)?.info;
        Some(Handout {
            digest,
            blob: info,
            peers,
            injected,
        })
    }

    pub(super) fn candidate(
        &self,
        other: PeerSlot,
        digest: Digest,
        listener: SocketAddr,
    ) -> Option<Candidate> {
        let entry = self.peers.get(other)?;
        let member = self.swarms.get(&digest)?.member(other);
        Some(Candidate {
            peer: entry.id,
            address: told_address(entry.addr, listener),
            zone: entry.zone.clone(),
            role: entry.role,
            held: member.map_or(0, |member| member.held),
            seeding: member.is_some_and(|member| member.part == Part::Seeding),
        })
    }
}

/// The address of one peer as another is told it. A peer that reaches the tracker over loopback runs beside it; for
/// anyone from elsewhere it is "the host at which you reach me".
#[must_use]
pub fn told_address(addr: SocketAddr, listener: SocketAddr) -> PeerAddress {
    let ip = addr.ip().to_canonical();
    let beside = ip.is_loopback() && !listener.ip().to_canonical().is_loopback();
    PeerAddress {
        ip: (!beside).then_some(ip),
        port: addr.port(),
    }
}
