//! Bytes in motion: pieces on their way, and the max-min fair share of every link that they pass.
//!
//! A flow passes its sender's uplink, its receiver's downlink, and the links of both zones when it leaves one. Each link
//! has a level: the rate at which it is full when nobody on it gets more. A flow moves at the lowest level on its
//! path, which is the max-min share once all levels agree. When something changes, the levels of the links
//! concerned are found anew, then those of the links that their flows pass, until nothing moves by more than
//! [`TOLERANCE`]: the work follows the change, not the number of flows.
//!
//! Two pieces between one pair are sent one after the other, as QUIC streams of one link without fair interleaving are.
//!
//! Not here: slow start, loss, headers; what a rate is for (`world`).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use rustc_hash::FxHashMap;
use shoal_proto::Instant;

/// A change of a level or a rate that is smaller than this share is no change.
const TOLERANCE: f64 = 0.005;
/// Levels found anew after one event; what is left over waits for the next.
const UPDATES_MAX: usize = 4096;

/// A place where bytes queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkIx(pub(super) u32);

/// One piece on its way, by name. A name is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowId {
    slot: u32,
    stamp: u64,
}

/// Who sends to whom.
pub(super) type Ends = (u32, u32);

#[derive(Debug)]
struct Link {
    bytes_per_sec: f64,
    level: f64,
    flows: Vec<u32>,
    waits: bool,
}

#[derive(Debug)]
struct Flow<T> {
    stamp: u64,
    ends: Ends,
    path: Vec<LinkIx>,
    bytes: f64,
    left: f64,
    rate: f64,
    since: Instant,
    /// Names the rate it has; an arrival foretold at another rate does not count.
    turn: u64,
    tag: T,
}

/// A flow that is over.
#[derive(Debug)]
pub(super) struct Ended<T> {
    pub(super) ends: Ends,
    /// Bytes that were sent.
    pub(super) moved: f64,
    pub(super) tag: T,
}

/// Everything on its way.
#[derive(Debug)]
pub(super) struct Flows<T> {
    links: Vec<Link>,
    flows: Vec<Option<Flow<T>>>,
    free: Vec<u32>,
    /// Flows of one pair, the one that moves in front.
    pairs: FxHashMap<Ends, VecDeque<u32>>,
    arrivals: BinaryHeap<Reverse<(Instant, u32, u64)>>,
    dirty: VecDeque<LinkIx>,
    caps: Vec<f64>,
    stamps: u64,
}

impl<T> Flows<T> {
    pub(super) fn new() -> Self {
        Self {
            links: Vec::new(),
            flows: Vec::new(),
            free: Vec::new(),
            pairs: FxHashMap::default(),
            arrivals: BinaryHeap::new(),
            dirty: VecDeque::new(),
            caps: Vec::new(),
            stamps: 0,
        }
    }

    pub(super) fn add_link(&mut self, bytes_per_sec: f64) -> LinkIx {
        self.links.push(Link {
            bytes_per_sec,
            level: bytes_per_sec,
            flows: Vec::new(),
            waits: false,
        });
        LinkIx(u32::try_from(self.links.len() - 1).expect("a few links for each member"))
    }

    pub(super) fn set_link(&mut self, link: LinkIx, bytes_per_sec: f64, now: Instant) {
        self.links[link.0 as usize].bytes_per_sec = bytes_per_sec;
        self.stir(link);
        self.level_out(now);
    }

    pub(super) fn start(
        &mut self,
        ends: Ends,
        path: Vec<LinkIx>,
        bytes: f64,
        tag: T,
        now: Instant,
    ) -> FlowId {
        self.stamps += 1;
        let stamp = self.stamps;
        let flow = Flow {
            stamp,
            ends,
            path,
            bytes,
            left: bytes,
            rate: 0.0,
            since: now,
            turn: 0,
            tag,
        };
        let slot = if let Some(slot) = self.free.pop() {
            self.flows[slot as usize] = Some(flow);
            slot
        } else {
            self.flows.push(Some(flow));
            u32::try_from(self.flows.len() - 1).expect("a few flows for each member")
        };
        let queue = self.pairs.entry(ends).or_default();
        queue.push_back(slot);
        if queue.len() == 1 {
            self.enter(slot);
            self.level_out(now);
        }
        FlowId { slot, stamp }
    }

    /// Whether bytes of it are moving.
    pub(super) fn is_moving(&self, flow: FlowId) -> bool {
        self.get(flow).is_some_and(|flow| flow.rate > 0.0)
    }

    fn get(&self, flow: FlowId) -> Option<&Flow<T>> {
        self.flows[flow.slot as usize]
            .as_ref()
            .filter(|found| found.stamp == flow.stamp)
    }

    /// Bytes per second that pass a link.
    pub(super) fn carried(&self, link: LinkIx) -> f64 {
        let flows = self.links[link.0 as usize].flows.iter();
        flows
            .filter_map(|slot| self.flows[*slot as usize].as_ref())
            .map(|flow| flow.rate)
            .sum()
    }

    /// Flows that somebody sends or receives, those that wait among them.
    pub(super) fn of(&self, member: u32) -> Vec<FlowId> {
        let concerned = |flow: &&Flow<T>| flow.ends.0 == member || flow.ends.1 == member;
        (0u32..)
            .zip(&self.flows)
            .filter_map(|(slot, flow)| flow.as_ref().filter(concerned).map(|flow| (slot, flow)))
            .map(|(slot, flow)| FlowId {
                slot,
                stamp: flow.stamp,
            })
            .collect()
    }

    /// Breaks it off.
    pub(super) fn stop(&mut self, flow: FlowId, now: Instant) -> Option<Ended<T>> {
        self.get(flow)?;
        let ended = self.end(flow.slot, now);
        self.level_out(now);
        ended
    }

    /// When the first of them arrives.
    pub(super) fn next_arrival(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, slot, turn))) = self.arrivals.peek() {
            let stands = self.flows[*slot as usize]
                .as_ref()
                .is_some_and(|flow| flow.turn == *turn && flow.rate > 0.0);
            if stands {
                return Some(*at);
            }
            self.arrivals.pop();
        }
        None
    }

    /// The next that has arrived by now.
    pub(super) fn pop_arrival(&mut self, now: Instant) -> Option<Ended<T>> {
        if self.next_arrival()? > now {
            return None;
        }
        let Reverse((_, slot, _)) = self.arrivals.pop()?;
        let mut ended = self.end(slot, now)?;
        self.level_out(now);
        // What rounding left over has arrived too.
        ended.moved = ended.moved.ceil();
        Some(ended)
    }

    fn end(&mut self, slot: u32, now: Instant) -> Option<Ended<T>> {
        let mut flow = self.flows[slot as usize].take()?;
        flow.settle(now);
        self.free.push(slot);
        let queue = self.pairs.get_mut(&flow.ends)?;
        let moves = queue.front() == Some(&slot);
        queue.retain(|other| *other != slot);
        let next = queue.front().copied().filter(|_| moves);
        if queue.is_empty() {
            self.pairs.remove(&flow.ends);
        }
        if moves {
            for link in &flow.path {
                self.links[link.0 as usize]
                    .flows
                    .retain(|other| *other != slot);
                self.stir(*link);
            }
        }
        if let Some(next) = next {
            self.enter(next);
        }
        Some(Ended {
            ends: flow.ends,
            moved: flow.bytes - flow.left,
            tag: flow.tag,
        })
    }

    fn enter(&mut self, slot: u32) {
        let Some(flow) = self.flows[slot as usize].as_ref() else {
            return;
        };
        for link in flow.path.clone() {
            self.links[link.0 as usize].flows.push(slot);
            self.stir(link);
        }
    }

    fn stir(&mut self, link: LinkIx) {
        let at = &mut self.links[link.0 as usize];
        if !at.waits {
            at.waits = true;
            self.dirty.push_back(link);
        }
    }

    /// Finds the levels anew, until they agree.
    fn level_out(&mut self, now: Instant) {
        for _ in 0..UPDATES_MAX {
            let Some(link) = self.dirty.pop_front() else {
                return;
            };
            self.links[link.0 as usize].waits = false;
            self.level(link, now);
        }
    }

    fn level(&mut self, link: LinkIx, now: Instant) {
        let mut caps = std::mem::take(&mut self.caps);
        caps.clear();
        let at = &self.links[link.0 as usize];
        caps.extend(at.flows.iter().map(|slot| self.cap_elsewhere(*slot, link)));
        let level = fill(&mut caps, at.bytes_per_sec);
        self.caps = caps;
        let moved = differs(level, at.level);
        if moved {
            self.links[link.0 as usize].level = level;
        }
        let flows = std::mem::take(&mut self.links[link.0 as usize].flows);
        for slot in &flows {
            self.follow(*slot, link, moved, now);
        }
        self.links[link.0 as usize].flows = flows;
    }

    /// What the rest of its path lets a flow have.
    fn cap_elsewhere(&self, slot: u32, link: LinkIx) -> f64 {
        let Some(flow) = self.flows[slot as usize].as_ref() else {
            return 0.0;
        };
        let others = flow.path.iter().filter(|other| **other != link);
        others
            .map(|other| self.links[other.0 as usize].level)
            .fold(f64::INFINITY, f64::min)
    }

    /// Lets a flow move at the lowest level of its path, and the other links of the path notice that `link` moved.
    fn follow(&mut self, slot: u32, link: LinkIx, moved: bool, now: Instant) {
        let Some(flow) = self.flows[slot as usize].as_mut() else {
            return;
        };
        let links = &mut self.links;
        let mut rate = f64::INFINITY;
        for other in &flow.path {
            let at = &mut links[other.0 as usize];
            rate = rate.min(at.level);
            if moved && *other != link && !at.waits {
                at.waits = true;
                self.dirty.push_back(*other);
            }
        }
        if !differs(rate, flow.rate) {
            return;
        }
        flow.settle(now);
        flow.rate = rate;
        self.stamps += 1;
        flow.turn = self.stamps;
        if rate > 0.0 {
            let span = std::time::Duration::from_secs_f64(flow.left / rate);
            let at = now + span + std::time::Duration::from_nanos(1);
            self.arrivals.push(Reverse((at, slot, flow.turn)));
        }
    }
}

impl<T> Flow<T> {
    fn settle(&mut self, now: Instant) {
        let secs = now.saturating_duration_since(self.since).as_secs_f64();
        self.left = (self.left - self.rate * secs).max(0.0);
        self.since = now;
    }
}

fn differs(new: f64, old: f64) -> bool {
    (new - old).abs() > TOLERANCE * old.max(new).max(1.0)
}

/// The level at which a link of this capacity is full, when flow `i` takes at most `caps[i]`. With room to spare, what
/// the greediest could have.
fn fill(caps: &mut [f64], capacity: f64) -> f64 {
    caps.sort_unstable_by(f64::total_cmp);
    let mut left = capacity;
    for (at, cap) in caps.iter().enumerate() {
        let share = left / (caps.len() - at) as f64;
        if *cap > share {
            return share;
        }
        left -= cap;
    }
    left + caps.last().copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The textbook: raise all rates together, freeze those whose link is full.
    fn exact(capacity: &[f64], paths: &[Vec<usize>]) -> Vec<f64> {
        let mut rates = vec![0.0; paths.len()];
        let mut frozen = vec![false; paths.len()];
        while frozen.iter().any(|frozen| !frozen) {
            let room = |link: usize| {
                let on = |flow: &usize| paths[*flow].contains(&link);
                let used: f64 = (0..paths.len()).filter(on).map(|flow| rates[flow]).sum();
                let open = (0..paths.len())
                    .filter(on)
                    .filter(|flow| !frozen[*flow])
                    .count();
                (open > 0).then(|| ((capacity[link] - used) / open as f64).max(0.0))
            };
            let rooms: Vec<Option<f64>> = (0..capacity.len()).map(room).collect();
            let step = rooms
                .iter()
                .flatten()
                .copied()
                .fold(f64::INFINITY, f64::min);
            for flow in 0..paths.len() {
                if !frozen[flow] {
                    rates[flow] += step;
                }
            }
            for flow in 0..paths.len() {
                frozen[flow] |= paths[flow]
                    .iter()
                    .any(|link| rooms[*link].is_some_and(|room| room <= step * (1.0 + 1e-9)));
            }
        }
        rates
    }

    proptest! {
        /// Whatever starts and stops in whatever order, every flow moves at its max-min share, to a few per cent.
        #[test]
        fn rates_are_max_min_fair(
            capacity in prop::collection::vec(1.0f64..100.0, 12),
            flows in prop::collection::vec((0usize..6, 6usize..12), 1..40),
            stopped in prop::collection::vec(any::<bool>(), 40),
        ) {
            let now = Instant::from_nanos(1);
            let mut model: Flows<()> = Flows::new();
            let links: Vec<LinkIx> = capacity.iter().map(|rate| model.add_link(rate * 1e6)).collect();
            let mut running = Vec::new();
            for (at, (up, down)) in flows.iter().enumerate() {
                let at = u32::try_from(at).unwrap();
                let id = model.start((at, at), vec![links[*up], links[*down]], 1e9, (), now);
                running.push((id, vec![*up, *down]));
            }
            for at in (0..running.len()).rev() {
                if stopped[at] {
                    model.stop(running.remove(at).0, now).unwrap();
                }
            }
            let paths: Vec<Vec<usize>> = running.iter().map(|(_, path)| path.clone()).collect();
            let megabytes: Vec<f64> = capacity.iter().map(|rate| rate * 1e6).collect();
            for ((id, _), exact) in running.iter().zip(exact(&megabytes, &paths)) {
                let rate = model.get(*id).unwrap().rate;
                prop_assert!((rate - exact).abs() <= 0.05 * exact, "{rate} instead of {exact}");
            }
        }
    }

    #[test]
    fn pieces_of_one_pair_go_one_after_the_other() {
        let mut flows = Flows::new();
        let (up, down) = (flows.add_link(100.0), flows.add_link(100.0));
        let start = Instant::from_nanos(0);
        for tag in ['a', 'b'] {
            flows.start((0, 1), vec![up, down], 100.0, tag, start);
        }
        let first = flows.next_arrival().unwrap();
        assert_eq!(first.as_nanos() / 1_000_000, 1000);
        assert_eq!(flows.pop_arrival(first).unwrap().tag, 'a');
        let second = flows.next_arrival().unwrap();
        assert_eq!(second.as_nanos() / 1_000_000, 2000);
    }

    #[test]
    fn a_broken_off_flow_tells_what_it_moved_and_makes_room() {
        let mut flows = Flows::new();
        let (up, down) = (flows.add_link(100.0), flows.add_link(1000.0));
        let start = Instant::from_nanos(0);
        let first = flows.start((0, 1), vec![up, down], 100.0, 'a', start);
        flows.start((0, 2), vec![up, down], 100.0, 'b', start);
        let later = start + std::time::Duration::from_secs(1);
        let ended = flows.stop(first, later).unwrap();
        assert!((ended.moved - 50.0).abs() < 1.0);
        assert!(
            flows.stop(first, later).is_none(),
            "a name is not used twice"
        );
        let rest = flows
            .next_arrival()
            .unwrap()
            .saturating_duration_since(later);
        assert!((rest.as_secs_f64() - 0.5).abs() < 0.02, "{rest:?}");
    }
}
