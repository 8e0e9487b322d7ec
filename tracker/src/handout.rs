//! Whom to name to whom.
//!
//! For: one choice among the members of a swarm. Not for: remembering it (the directory records edges) or origins
//! (the directory adds the owner at the end).
//!
//! The policy: about four in five from the asker's own zone, the rest from outside and never none while outside has
//! somebody; about one in three with every piece, because a fresh peer learns fastest from those and a swarm lives
//! from the others; inside each class those that cost least, where the cost is how many already know the peer,
//! weighed by its measured rate against the average and by what it is sending now. From a large class a few times
//! the wanted number is drawn at random and the cheapest are taken: as even as sorting all, at a constant price.

use fastrand::Rng;

use crate::directory::swarm::{Part, PeerSlot, Swarm};

/// How many are drawn for each one wanted.
const DRAWS_PER_NAME: usize = 4;

/// Of how many named one should be seeding.
const NAMES_PER_SEEDING: usize = 3;

/// What to choose for.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    pub(crate) swarm: &'a Swarm,
    /// The zone of the asker.
    pub(crate) zone: &'a shoal_proto::Zone,
    /// The asker itself, those it knows, those it called stuck.
    pub(crate) excluded: &'a [PeerSlot],
    /// How many to name in all.
    pub(crate) want: usize,
    /// How many of them from outside the zone.
    pub(crate) outside: usize,
}

impl Choice<'_> {
    /// Chooses, cheapest first in each class; fewer than wanted only when there are no more.
    pub(crate) fn choose(&self, cost: impl Fn(PeerSlot) -> u64, rng: &mut Rng) -> Vec<PeerSlot> {
        let inside = |zone: &shoal_proto::Zone| zone == self.zone;
        let (near_leeching, near_seeding) = (
            self.lists(Part::Leeching, inside),
            self.lists(Part::Seeding, inside),
        );
        let far = |zone: &shoal_proto::Zone| zone != self.zone;
        let (far_leeching, far_seeding) = (
            self.lists(Part::Leeching, far),
            self.lists(Part::Seeding, far),
        );

        let mut near = self.mixed(&near_leeching, &near_seeding, &cost, rng);
        let mut far = self.mixed(&far_leeching, &far_seeding, &cost, rng);
        let outside = self
            .outside
            .min(self.want)
            .max(self.want.saturating_sub(near.len()))
            .min(far.len());
        near.truncate(self.want - outside);
        far.truncate(outside);
        near.extend(far);
        near
    }

    fn lists(&self, part: Part, fits: impl Fn(&shoal_proto::Zone) -> bool) -> Vec<&[PeerSlot]> {
        self.swarm
            .zones()
            .filter(|(zone, _)| fits(zone))
            .map(|(_, list)| list.of(part))
            .collect()
    }

    /// Up to `want` of one side, a third of them seeding where that can be had.
    fn mixed(
        &self,
        leeching: &[&[PeerSlot]],
        seeding: &[&[PeerSlot]],
        cost: &impl Fn(PeerSlot) -> u64,
        rng: &mut Rng,
    ) -> Vec<PeerSlot> {
        let leeching = self.cheapest(leeching, cost, rng);
        let seeding = self.cheapest(seeding, cost, rng);
        // Interleaved, so that a truncated list is still a mix: one seeding, two leeching, and so on.
        let mut out = Vec::with_capacity(self.want);
        let (mut leeching, mut seeding) = (leeching.into_iter(), seeding.into_iter());
        while out.len() < self.want {
            let first = if out.len() % NAMES_PER_SEEDING == 0 {
                seeding.next()
            } else {
                leeching.next()
            };
            let Some(next) = first.or_else(|| leeching.next()).or_else(|| seeding.next()) else {
                break;
            };
            out.push(next);
        }
        out
    }

    fn cheapest(
        &self,
        lists: &[&[PeerSlot]],
        cost: &impl Fn(PeerSlot) -> u64,
        rng: &mut Rng,
    ) -> Vec<PeerSlot> {
        let total: usize = lists.iter().map(|list| list.len()).sum();
        let draws = self.want * DRAWS_PER_NAME;
        let mut drawn: Vec<PeerSlot> = if total <= draws + self.excluded.len() {
            lists.concat()
        } else {
            (0..draws).map(|_| nth(lists, rng.usize(..total))).collect()
        };
        drawn.sort_unstable();
        drawn.dedup();
        drawn.retain(|slot| !self.excluded.contains(slot));
        rng.shuffle(&mut drawn);
        drawn.sort_by_cached_key(|slot| cost(*slot));
        drawn.truncate(self.want);
        drawn
    }
}

fn nth(lists: &[&[PeerSlot]], mut at: usize) -> PeerSlot {
    for list in lists {
        if let Some(slot) = list.get(at) {
            return *slot;
        }
        at -= list.len();
    }
    unreachable!("the index was drawn below the sum of the lengths")
}

#[cfg(test)]
mod tests {
    use shoal_proto::{Role, Zone};

    use super::*;

    fn swarm(near: u32, far: u32, seeding_every: u32) -> Swarm {
        let mut swarm = Swarm::default();
        for slot in 0..near + far {
            let zone: Zone = if slot < near { "near" } else { "far" }.parse().unwrap();
            let part = if slot % seeding_every == 0 {
                Part::Seeding
            } else {
                Part::Leeching
            };
            swarm.join(PeerSlot(slot), Role::Agent, &zone, part, 0);
        }
        swarm
    }

    fn choose(swarm: &Swarm, excluded: &[PeerSlot], want: usize, outside: usize) -> Vec<PeerSlot> {
        let zone: Zone = "near".parse().unwrap();
        Choice {
            swarm,
            zone: &zone,
            excluded,
            want,
            outside,
        }
        .choose(|_| 0, &mut Rng::with_seed(7))
    }

    #[test]
    fn zone_quota_is_kept_and_filled_from_the_other_side_when_short() {
        // (near, far, want, outside) -> how many of each are named
        let cases = [
            ((1_000, 1_000, 20, 4), (16, 4)),
            ((1_000, 0, 20, 4), (20, 0)),
            ((0, 1_000, 20, 4), (0, 20)),
            ((5, 1_000, 20, 4), (5, 15)),
            ((1_000, 2, 20, 4), (18, 2)),
            ((3, 3, 20, 4), (3, 3)),
            ((0, 0, 20, 4), (0, 0)),
        ];
        for ((near, far, want, outside), expected) in cases {
            let named = choose(&swarm(near, far, 1_000_000), &[], want, outside);
            let inside = named.iter().filter(|slot| slot.0 < near).count();
            assert_eq!(
                (inside, named.len() - inside),
                expected,
                "near {near} far {far}"
            );
        }
    }

    #[test]
    fn both_complete_and_incomplete_peers_are_named() {
        let swarm = swarm(900, 0, 2);
        let named = choose(&swarm, &[], 12, 0);
        let seeding = named.iter().filter(|slot| slot.0 % 2 == 0).count();
        assert_eq!(seeding, 4);
    }

    #[test]
    fn excluded_peers_are_never_named() {
        let swarm = swarm(30, 0, 1_000_000);
        let excluded: Vec<PeerSlot> = (0..25).map(PeerSlot).collect();
        let mut named = choose(&swarm, &excluded, 20, 4);
        named.sort_unstable();
        assert_eq!(named, (25..30).map(PeerSlot).collect::<Vec<_>>());
    }

    #[test]
    fn the_cheapest_are_taken() {
        let swarm = swarm(60, 0, 1_000_000);
        let zone: Zone = "near".parse().unwrap();
        let choice = Choice {
            swarm: &swarm,
            zone: &zone,
            excluded: &[],
            want: 15,
            outside: 0,
        };
        let mut named = choice.choose(|slot| u64::from(slot.0), &mut Rng::with_seed(1));
        named.sort_unstable();
        assert_eq!(named, (0..15).map(PeerSlot).collect::<Vec<_>>());
    }
}
