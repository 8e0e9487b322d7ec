//! One blob's swarm as the tracker sees it: who takes part, in which zone, and who has been named to whom.
//!
//! For: membership at constant cost, and the lists that [`crate::handout`] draws from. Not for: choosing whom to name,
//! time, or anything about a peer beyond its slot in the directory's table.
//!
//! Invariants: an agent stands in exactly one list, that of its zone and state; origins stand in none. An edge is
//! recorded at both ends or at neither, so a member's `neighbours` never names a peer that has left.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use shoal_proto::{BlobInfo, Instant, Role, Zone, limits};

/// A peer's place in the directory's table. Ours, dense, reused: safe as a key of a fast map.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct PeerSlot(pub(crate) u32);

/// How a peer takes part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    /// Still wants pieces.
    Leeching,
    /// Has every piece.
    Seeding,
}

/// One peer's part in one swarm.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) part: Part,
    pub(crate) held: u32,
    /// Order of joining: the oldest member is the one that may have to open the blob at an origin.
    pub(crate) joined: u64,
    /// Agents that know of this one, because one of the two was named to the other.
    pub(crate) neighbours: Vec<PeerSlot>,
    /// Whether an origin has been named to it.
    pub(crate) knows_origin: bool,
    role: Role,
    zone: Zone,
    listed_at: usize,
}

/// The agents of one zone, by what they have.
#[derive(Debug, Default)]
pub(crate) struct ZoneList {
    leeching: Vec<PeerSlot>,
    seeding: Vec<PeerSlot>,
}

impl ZoneList {
    pub(crate) fn of(&self, part: Part) -> &[PeerSlot] {
        match part {
            Part::Leeching => &self.leeching,
            Part::Seeding => &self.seeding,
        }
    }

    fn of_mut(&mut self, part: Part) -> &mut Vec<PeerSlot> {
        match part {
            Part::Leeching => &mut self.leeching,
            Part::Seeding => &mut self.seeding,
        }
    }

    fn is_empty(&self) -> bool {
        self.leeching.is_empty() && self.seeding.is_empty()
    }
}

/// The peers of one blob.
#[derive(Debug, Default)]
pub(crate) struct Swarm {
    /// The blob's shape, when an announcer told it; kept for a while after the last member has left.
    pub(crate) info: Option<BlobInfo>,
    /// Since when nobody takes part.
    pub(crate) empty_since: Option<Instant>,
    /// Whether an expiry of this swarm is armed.
    pub(crate) expiry_armed: bool,
    /// How many members know an origin.
    pub(crate) origin_degree: usize,
    members: FxHashMap<PeerSlot, Member>,
    zones: BTreeMap<Zone, ZoneList>,
    agents: usize,
    seeding: usize,
    joins: u64,
}

impl Swarm {
    /// Lets a peer take part, or changes its part. True when it is new here.
    pub(crate) fn join(
        &mut self,
        slot: PeerSlot,
        role: Role,
        zone: &Zone,
        part: Part,
        held: u32,
    ) -> bool {
        self.empty_since = None;
        if let Some(member) = self.members.get_mut(&slot) {
            member.held = held;
            if member.part != part {
                self.unlist(slot);
                self.list(slot, part);
            }
            return false;
        }
        self.joins += 1;
        self.members.insert(
            slot,
            Member {
                part,
                held,
                joined: self.joins,
                neighbours: Vec::new(),
                knows_origin: false,
                role,
                zone: zone.clone(),
                listed_at: 0,
            },
        );
        self.list(slot, part);
        true
    }

    /// Takes a peer out, with its edges. Answers the neighbours it had; `None` when it took no part.
    pub(crate) fn leave(&mut self, slot: PeerSlot, now: Instant) -> Option<Vec<PeerSlot>> {
        self.members.get(&slot)?;
        let neighbours = self.forget_edges(slot);
        self.unlist(slot);
        let member = self.members.remove(&slot)?;
        self.origin_degree -= usize::from(member.knows_origin);
        if self.members.is_empty() {
            self.empty_since = Some(now);
        }
        Some(neighbours)
    }

    /// Records that two members know each other. At most [`limits::SWARM_EDGES_MAX`] at each end: past that the
    /// naming is not remembered at all, and may be repeated.
    pub(crate) fn link(&mut self, a: PeerSlot, b: PeerSlot) {
        let room = |slot: PeerSlot, other: PeerSlot| {
            self.members.get(&slot).is_some_and(|member| {
                member.neighbours.len() < limits::SWARM_EDGES_MAX
                    && !member.neighbours.contains(&other)
            })
        };
        if a == b || !room(a, b) || !room(b, a) {
            return;
        }
        for (slot, other) in [(a, b), (b, a)] {
            if let Some(member) = self.members.get_mut(&slot) {
                member.neighbours.push(other);
            }
        }
    }

    /// Forgets that two members know each other.
    pub(crate) fn unlink(&mut self, a: PeerSlot, b: PeerSlot) {
        for (slot, other) in [(a, b), (b, a)] {
            if let Some(member) = self.members.get_mut(&slot) {
                member.neighbours.retain(|known| *known != other);
            }
        }
    }

    /// Forgets all edges of a member, and answers whom it knew.
    pub(crate) fn forget_edges(&mut self, slot: PeerSlot) -> Vec<PeerSlot> {
        let neighbours = self
            .members
            .get_mut(&slot)
            .map(|member| std::mem::take(&mut member.neighbours))
            .unwrap_or_default();
        for other in &neighbours {
            if let Some(member) = self.members.get_mut(other) {
                member.neighbours.retain(|known| *known != slot);
            }
        }
        neighbours
    }

    /// Remembers that an origin has been named to this member.
    pub(crate) fn name_origin(&mut self, slot: PeerSlot) {
        if let Some(member) = self.members.get_mut(&slot)
            && !member.knows_origin
        {
            member.knows_origin = true;
            self.origin_degree += 1;
        }
    }

    pub(crate) fn member(&self, slot: PeerSlot) -> Option<&Member> {
        self.members.get(&slot)
    }

    pub(crate) fn zones(&self) -> impl Iterator<Item = (&Zone, &ZoneList)> {
        self.zones.iter()
    }

    /// Members that are agents.
    pub(crate) fn agents(&self) -> usize {
        self.agents
    }

    /// Agents that have every piece.
    pub(crate) fn seeding(&self) -> usize {
        self.seeding
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether some agent other than `asker` holds a piece, or took part before it and so is getting the blob. The
    /// oldest agent of a swarm in which nobody holds anything is always told `false`: were it told otherwise, two
    /// newcomers could each wait for the other.
    pub(crate) fn injected(&self, asker: PeerSlot) -> bool {
        let before = self
            .members
            .get(&asker)
            .map_or(u64::MAX, |member| member.joined);
        let in_order = |slot: &PeerSlot| {
            *slot != asker
                && self
                    .members
                    .get(slot)
                    .is_some_and(|member| member.held > 0 || member.joined < before)
        };
        self.zones
            .values()
            .any(|list| list.seeding.iter().any(in_order) || list.leeching.iter().any(in_order))
    }

    fn list(&mut self, slot: PeerSlot, part: Part) {
        let Some(member) = self.members.get_mut(&slot) else {
            return;
        };
        member.part = part;
        if member.role != Role::Agent {
            return;
        }
        let list = self
            .zones
            .entry(member.zone.clone())
            .or_default()
            .of_mut(part);
        member.listed_at = list.len();
        list.push(slot);
        self.agents += 1;
        self.seeding += usize::from(part == Part::Seeding);
    }

    fn unlist(&mut self, slot: PeerSlot) {
        let Some(member) = self.members.get(&slot) else {
            return;
        };
        if member.role != Role::Agent {
            return;
        }
        let (zone, part, at) = (member.zone.clone(), member.part, member.listed_at);
        if let Some(zone_list) = self.zones.get_mut(&zone) {
            let list = zone_list.of_mut(part);
            list.swap_remove(at);
            if let Some(moved) = list.get(at).copied()
                && let Some(moved) = self.members.get_mut(&moved)
            {
                moved.listed_at = at;
            }
            if zone_list.is_empty() {
                self.zones.remove(&zone);
            }
        }
        self.agents -= 1;
        self.seeding -= usize::from(part == Part::Seeding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> Zone {
        name.parse().unwrap()
    }

    fn swarm_of(agents: u32) -> Swarm {
        let mut swarm = Swarm::default();
        for slot in 0..agents {
            assert!(swarm.join(PeerSlot(slot), Role::Agent, &zone("a"), Part::Leeching, 0));
        }
        swarm
    }

    #[test]
    fn edge_is_recorded_at_both_ends_and_goes_with_the_peer() {
        let mut swarm = swarm_of(3);
        swarm.link(PeerSlot(0), PeerSlot(1));
        swarm.link(PeerSlot(0), PeerSlot(1));
        swarm.link(PeerSlot(0), PeerSlot(2));
        assert_eq!(
            swarm.member(PeerSlot(0)).unwrap().neighbours,
            vec![PeerSlot(1), PeerSlot(2)]
        );
        assert_eq!(
            swarm.leave(PeerSlot(0), Instant::from_nanos(1)),
            Some(vec![PeerSlot(1), PeerSlot(2)])
        );
        assert!(swarm.member(PeerSlot(1)).unwrap().neighbours.is_empty());
        assert_eq!(swarm.leave(PeerSlot(0), Instant::from_nanos(1)), None);
    }

    #[test]
    fn edges_are_bounded_at_both_ends() {
        let count = u32::try_from(limits::SWARM_EDGES_MAX).unwrap() + 10;
        let mut swarm = swarm_of(count);
        for other in 1..count {
            swarm.link(PeerSlot(0), PeerSlot(other));
        }
        assert_eq!(
            swarm.member(PeerSlot(0)).unwrap().neighbours.len(),
            limits::SWARM_EDGES_MAX
        );
        assert!(
            swarm
                .member(PeerSlot(count - 1))
                .unwrap()
                .neighbours
                .is_empty()
        );
    }

    #[test]
    fn lists_follow_part_and_departure() {
        let mut swarm = swarm_of(4);
        swarm.join(PeerSlot(1), Role::Agent, &zone("a"), Part::Seeding, 9);
        swarm.join(PeerSlot(9), Role::Origin, &zone("a"), Part::Seeding, 9);
        assert_eq!(
            (swarm.agents(), swarm.seeding(), swarm.members.len()),
            (4, 1, 5)
        );
        swarm.leave(PeerSlot(0), Instant::from_nanos(1));
        let mut listed: Vec<PeerSlot> = swarm
            .zones()
            .flat_map(|(_, list)| list.of(Part::Leeching).to_vec())
            .collect();
        listed.sort_unstable();
        assert_eq!(listed, vec![PeerSlot(2), PeerSlot(3)]);
        for slot in [1, 2, 3, 9] {
            swarm.leave(PeerSlot(slot), Instant::from_nanos(2));
        }
        assert!(swarm.is_empty());
        assert_eq!(swarm.zones().count(), 0);
        assert_eq!(swarm.empty_since, Some(Instant::from_nanos(2)));
    }

    #[test]
    fn oldest_agent_is_told_that_nothing_is_injected_until_somebody_holds_a_piece() {
        let mut swarm = swarm_of(2);
        assert!(!swarm.injected(PeerSlot(0)));
        assert!(swarm.injected(PeerSlot(1)));
        swarm.join(PeerSlot(1), Role::Agent, &zone("a"), Part::Leeching, 1);
        assert!(swarm.injected(PeerSlot(0)));
        swarm.leave(PeerSlot(0), Instant::from_nanos(1));
        assert!(
            !swarm.injected(PeerSlot(1)),
            "what it holds itself does not count"
        );
    }
}
