//! All members, the links between them, and virtual time: the driver's part for every node at once.
//!
//! It does what the real driver does with the same `Node` and the same tracker `Directory`.
//!
//! Not here: what must hold of any run (`check`); bytes. A wrong piece is a flow from a liar, and is found out when it
//! has arrived.
//!
//! Order: an event, or an arrival; then everything that the nodes concerned do about it, to the end.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use shoal_proto::wire::{Announce, PeerMessage, Refusal};
use shoal_proto::{
    BlobInfo, ByteRange, Digest, DigestAlgorithm, Input, Instant, Node, NodeOptions, OriginAddress,
    PieceHashAlgorithm, PieceIndex, ReaderId, RequestId, Role, TransferId, Zone,
};

use super::check::Checker;
use super::desk::Desk;
use super::flows::{Flows, LinkIx};
use super::member::{self, Member, Waiting};
use super::outcome::Tally;
use super::queue::Queue;
use super::samples::Samples;
use super::scenario::{Fault, Nature, Scenario};
use super::trace::Trace;

/// The one reader of each agent.
pub(super) const READER: ReaderId = ReaderId(1);
/// The one origin.
pub(super) const ORIGIN: u32 = 0;

/// A link's number; one that was broken and brought up again has another.
pub(super) type Epoch = u32;

#[derive(Debug)]
pub(super) enum Event {
    AnnounceDue(u32),
    Announced(u32, Box<Announce>),
    Answered(u32, TransferId, Option<Box<Refusal>>),
    Asked {
        at: u32,
        by: u32,
        epoch: Epoch,
        transfer: TransferId,
        piece: PieceIndex,
    },
    DeskDue,
    Fault(Fault),
    Had {
        at: u32,
        from: u32,
        epoch: Epoch,
        indexes: Vec<u32>,
        held: u32,
    },
    Input(u32, Box<Input>),
    Linked(u32, u32, Epoch),
    Said {
        at: u32,
        from: u32,
        epoch: Epoch,
        message: Box<PeerMessage>,
    },
    TimerDue(u32),
    Wants(u32),
    WatchdogDue(u32),
}

/// A piece on its way: for whose fetch, in answer to which request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parcel {
    pub(super) request: RequestId,
    pub(super) transfer: TransferId,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) info: BlobInfo,
    pub(super) now: Instant,
    pub(super) members: Vec<Member>,
    pub(super) flows: Flows<Parcel>,
    pub(super) zone_links: Vec<(LinkIx, LinkIx)>,
    pub(super) events: Queue<Event>,
    pub(super) links: FxHashMap<(u32, u32), Epoch>,
    pub(super) epochs: Epoch,
    /// Requests that a node has not answered: who asks, for which fetch.
    pub(super) requests: FxHashMap<RequestId, (u32, TransferId)>,
    pub(super) next_request: u64,
    pub(super) desk: Desk,
    pub(super) opened: bool,
    pub(super) check: Checker,
    pub(super) tally: Tally,
    pub(super) trace: Trace,
    pub(super) samples: Samples,
    pub(super) backlog: VecDeque<(u32, Input)>,
    /// Agents that are expected to finish and have not.
    pub(super) left: usize,
}

impl World {
    pub(super) fn new(scenario: Scenario) -> Self {
        let mut rng = fastrand::Rng::with_seed(scenario.seed);
        let natures = scenario.natures(&mut rng);
        let now = Instant::from_nanos(1);
        let mut flows = Flows::new();
        let zone_links = scenario.zone_link.map_or_else(Vec::new, |rate| {
            let each = || rate.bytes_per_sec();
            (0..scenario.zones)
                .map(|_| (flows.add_link(each()), flows.add_link(each())))
                .collect()
        });
        let mut members = vec![new_member(ORIGIN, Nature::default(), &scenario, &mut flows)];
        for (at, nature) in (1u32..).zip(natures) {
            members.push(new_member(at, nature, &scenario, &mut flows));
        }
        let left = members.iter().filter(|member| member.must_finish()).count();
        let faults = scenario.faults(&mut rng);
        let liars = members.iter().map(|member| member.nature.lies);
        let check = Checker::new(scenario.geometry, liars);
        let mut world = Self {
            info: info(&scenario),
            now,
            members,
            flows,
            zone_links,
            events: Queue::new(),
            links: FxHashMap::default(),
            epochs: 0,
            requests: FxHashMap::default(),
            next_request: 0,
            desk: Desk::new(scenario.seed, now),
            opened: false,
            check,
            tally: Tally::default(),
            trace: Trace::new(scenario.seed),
            samples: Samples::new(&scenario, now),
            backlog: VecDeque::new(),
            left,
            scenario,
        };
        for (after, fault) in faults {
            world.events.push(now + after, Event::Fault(fault));
        }
        world.greet(&mut rng);
        world
    }

    /// Everybody knows the tracker and the origin; agents begin to want the blob.
    fn greet(&mut self, rng: &mut fastrand::Rng) {
        let origins = vec![OriginAddress {
            peer: member::name(ORIGIN),
            addr: member::address(ORIGIN),
        }];
        self.desk_meets(ORIGIN);
        for at in 0..self.count() {
            self.input(at, Input::TrackerUp);
            let origins = origins.clone();
            self.input(at, Input::OriginsChanged { origins });
        }
        for at in 1..self.count() {
            let after = self.scenario.stagger.mul_f64(rng.f64());
            self.events.push(self.now + after, Event::Wants(at));
        }
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.members.len()).expect("members are numbered in u32")
    }

    pub(super) fn member(&mut self, at: u32) -> &mut Member {
        &mut self.members[at as usize]
    }

    /// Runs until everybody has the blob, or it has taken too long. Calls `watch` now and then.
    pub(super) fn run(&mut self, mut watch: impl FnMut(&Self)) {
        let until = self.now + self.scenario.limit();
        let mut steps = 0u64;
        while self.left > 0 && self.step(until) {
            steps += 1;
            if steps.is_multiple_of(65_536) {
                watch(self);
            }
        }
        self.tally.steps = steps;
    }

    fn step(&mut self, until: Instant) -> bool {
        let arrival = self.flows.next_arrival();
        let event = self.events.next_at();
        let Some(next) = arrival
            .into_iter()
            .chain(event)
            .min()
            .filter(|at| *at <= until)
        else {
            return false;
        };
        self.look_until(next);
        self.now = self.now.max(next);
        if arrival.is_some_and(|at| at <= next) {
            if let Some(ended) = self.flows.pop_arrival(self.now) {
                self.arrived(&ended);
            }
        } else if let Some(event) = self.events.pop() {
            self.happen(event);
        }
        true
    }

    /// Hands an input to a node, and carries out what it asks for, and what follows from that.
    pub(super) fn input(&mut self, at: u32, input: Input) {
        self.backlog.push_back((at, input));
        while let Some((at, input)) = self.backlog.pop_front() {
            if self.members[at as usize].crashed {
                continue;
            }
            let now = self.now;
            self.check.hears(at, &input);
            self.member(at).node.handle(input, now);
            self.follow(at);
        }
    }

    /// Does what the node asks for, and sees to its timer.
    pub(super) fn follow(&mut self, at: u32) {
        while let Some(action) = self.member(at).node.poll_action() {
            self.perform(at, action);
        }
        let (now, member) = (self.now, &mut self.members[at as usize]);
        if let Some(due) = member.node.next_timeout().map(|due| due.max(now))
            && member.timer.is_none_or(|armed| due < armed)
        {
            member.timer = Some(due);
            self.events.push(due, Event::TimerDue(at));
        }
    }

    /// When a message of so many bytes, said now, is dealt with: it has to cross the link, and to wait for its turn.
    pub(super) fn arrival_of(&mut self, from: u32, at: u32, bytes: usize) -> Instant {
        let rate = self.members[from as usize].bytes_per_sec;
        let sent = self.now
            + self.scenario.rtt / 2
            + std::time::Duration::from_secs_f64(bytes as f64 / rate);
        self.tally.control_bytes += bytes as u64;
        self.tally.messages += 1;
        let cost = self.scenario.message_cost;
        let member = self.member(at);
        member.busy = sent.max(member.busy) + cost;
        member.busy
    }

    pub(super) fn epoch(&self, a: u32, b: u32) -> Option<Epoch> {
        self.links.get(&(a.min(b), a.max(b))).copied()
    }

    /// A link between two comes up, unless there is one.
    pub(super) fn link(&mut self, a: u32, b: u32) {
        if self.epoch(a, b).is_some() {
            return;
        }
        self.epochs += 1;
        self.links.insert((a.min(b), a.max(b)), self.epochs);
        let at = self.now + self.scenario.link_setup();
        self.events.push(at, Event::Linked(a, b, self.epochs));
    }

    /// The path of a piece.
    pub(super) fn path(&self, from: u32, to: u32) -> Vec<LinkIx> {
        let (sender, receiver) = (&self.members[from as usize], &self.members[to as usize]);
        let mut path = vec![sender.up, receiver.down];
        if sender.zone != receiver.zone && !self.zone_links.is_empty() {
            path.push(self.zone_links[sender.zone].0);
            path.push(self.zone_links[receiver.zone].1);
        }
        path
    }

    /// An agent wants the whole blob, and reads it in order.
    pub(super) fn want(&mut self, at: u32) {
        let now = self.now;
        self.member(at).wanted_at = Some(now);
        let range = ByteRange {
            start: 0,
            end: self.info.geometry.blob_bytes(),
        };
        let digest = self.info.digest;
        self.input(
            at,
            Input::Wanted {
                digest,
                reader: READER,
                range: Some(range),
            },
        );
    }
}

fn info(scenario: &Scenario) -> BlobInfo {
    BlobInfo {
        digest: Digest::of(DigestAlgorithm::Sha256, b"simulated"),
        geometry: scenario.geometry,
        guard: None,
        piece_hash: PieceHashAlgorithm::Blake3,
        origin: member::name(ORIGIN),
        // Nobody in here checks signatures: that is the driver's, and every driver is us.
        signature: [0; 64],
    }
}

fn new_member(at: u32, nature: Nature, scenario: &Scenario, flows: &mut Flows<Parcel>) -> Member {
    let role = if at == ORIGIN {
        Role::Origin
    } else {
        Role::Agent
    };
    let slowness = if nature.slow { scenario.slow_by } else { 1.0 };
    let bytes_per_sec = scenario.link.bytes_per_sec() / slowness;
    let zone = at as usize % scenario.zones;
    let zone_name: Zone = format!("zone-{zone}")
        .parse()
        .expect("letters, a dash and digits");
    let seed = scenario
        .seed
        .wrapping_mul(0x9E37_79B9)
        .wrapping_add(u64::from(at));
    let start = Instant::from_nanos(1);
    let options = NodeOptions::new(member::name(at), role, zone_name.clone(), seed);
    Member {
        node: Node::new(options, start),
        id: member::name(at),
        role,
        zone,
        zone_name,
        nature,
        crashed: false,
        up: flows.add_link(bytes_per_sec),
        down: flows.add_link(bytes_per_sec),
        bytes_per_sec,
        fetches: Vec::new(),
        held: vec![false; scenario.geometry.piece_count().get() as usize],
        held_count: 0,
        cursor: 0,
        wanted_at: None,
        first_byte: None,
        finished: None,
        failed: None,
        busy: start,
        timer: None,
        watchdog: None,
        announce_at: None,
        waiting: Waiting::default(),
    }
}
