//! Many nodes, a tracker that knows all of them, and a virtual clock.
//!
//! The crowd plays the driver: it carries out every action of every node as the real one does, and breaks what a
//! test tells it to break. It checks as it goes that no node asks for what it holds or asks one peer twice (I3).
//!
//! Not here: scale and fair shares of links, which are the simulator's.

mod act;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustc_hash::FxHasher;

use super::crowd_flows::{Flows, Link};
use crate::wire::{PeerMessage, Refusal, RefusalCode};
use crate::*;

pub(super) const MIB: u64 = 1 << 20;

/// How a node behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Conduct {
    /// Gone for good.
    Crashed,
    /// Neither hears nor sends.
    Frozen,
    #[default]
    Honest,
    /// Sends wrong bytes.
    Lying,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) node: Node,
    pub(super) id: PeerId,
    pub(super) role: Role,
    pub(super) zone: Zone,
    pub(super) conduct: Conduct,
    pub(super) held: BTreeSet<u32>,
    pub(super) finished: Option<Instant>,
    pub(super) first_byte: Option<Instant>,
    pub(super) failed: Option<FailReason>,
    cursor: u64,
    wants: bool,
    announced: bool,
    fetching: BTreeMap<TransferId, (usize, PieceIndex)>,
}

#[derive(Debug)]
enum Event {
    Answer(usize, TransferId, Option<Refusal>),
    Asked(usize, usize, TransferId, PieceIndex),
    Input(usize, Input),
    Stalled(usize, TransferId),
}

#[derive(Clone, Debug)]
pub(super) struct CrowdOptions {
    pub(super) agents: usize,
    pub(super) origins: usize,
    pub(super) pieces: u64,
    pub(super) bytes_per_sec: f64,
    pub(super) latency: Duration,
    /// Pieces per second from upstream; `None`: the origin holds all from the start.
    pub(super) ingest_per_sec: Option<f64>,
    pub(super) zones: usize,
    pub(super) seed: u64,
}

impl Default for CrowdOptions {
    fn default() -> Self {
        Self {
            agents: 8,
            origins: 1,
            pieces: 100,
            bytes_per_sec: 12.5e6,
            latency: Duration::from_micros(250),
            ingest_per_sec: None,
            zones: 1,
            seed: 1,
        }
    }
}

#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) now: Instant,
    pub(super) members: Vec<Member>,
    pub(super) links: Vec<Link>,
    pub(super) flows: Flows,
    pub(super) info: BlobInfo,
    pub(super) options: CrowdOptions,
    pub(super) origin_bytes: f64,
    pub(super) cross_zone_bytes: f64,
    pub(super) wasted_bytes: f64,
    pub(super) refusals: BTreeMap<&'static str, u64>,
    pub(super) opens: usize,
    pub(super) messages: u64,
    tracker_up: bool,
    linked: BTreeSet<(usize, usize)>,
    requests: BTreeMap<RequestId, (usize, TransferId)>,
    next_request: u64,
    events: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    pending: BTreeMap<usize, Event>,
    next_event: usize,
    ingesting: BTreeSet<usize>,
    trace: u64,
}

impl Crowd {
    /// Origins first, then agents; all silent until they want something.
    #[expect(
        clippy::too_many_lines,
        reason = "a world is laid out from top to bottom"
    )]
    pub(super) fn new(options: CrowdOptions) -> Self {
        let count = options.origins + options.agents;
        let id = |at: usize| {
            let mut key = [7; 32];
            key[..8].copy_from_slice(&(at as u64 * 0x9E37_79B9 + 1).to_le_bytes());
            PeerId::from_key(key)
        };
        let now = Instant::from_nanos(1);
        let digest = Digest::of(DigestAlgorithm::Sha256, b"crowd");
        let info = BlobInfo {
            digest,
            geometry: Geometry::try_new(options.pieces * MIB, 1 << 20).unwrap(),
            piece_hash: PieceHashAlgorithm::Blake3,
            guard: None,
            origin: id(0),
            signature: [0; 64],
        };
        let members = (0..count)
            .map(|at| {
                let role = if at < options.origins {
                    Role::Origin
                } else {
                    Role::Agent
                };
                let zone: Zone = format!("z{}", at % options.zones).parse().unwrap();
                let seed = options.seed.wrapping_mul(1_000_003) + at as u64;
                Member {
                    node: Node::new(NodeOptions::new(id(at), role, zone.clone(), seed), now),
                    id: id(at),
                    role,
                    zone,
                    conduct: Conduct::Honest,
                    held: BTreeSet::new(),
                    finished: None,
                    first_byte: None,
                    failed: None,
                    cursor: 0,
                    wants: false,
                    announced: false,
                    fetching: BTreeMap::new(),
                }
            })
            .collect();
        let link = Link {
            up: options.bytes_per_sec,
            down: options.bytes_per_sec,
        };
        let mut crowd = Self {
            now,
            members,
            links: vec![link; count],
            flows: Flows::default(),
            info,
            options,
            origin_bytes: 0.0,
            cross_zone_bytes: 0.0,
            wasted_bytes: 0.0,
            refusals: BTreeMap::new(),
            opens: 0,
            messages: 0,
            tracker_up: true,
            linked: BTreeSet::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            events: BinaryHeap::new(),
            pending: BTreeMap::new(),
            next_event: 0,
            ingesting: BTreeSet::new(),
            trace: 0,
        };
        let origins: Vec<_> = (0..crowd.options.origins)
            .map(|at| crowd.address(at))
            .collect();
        for at in 0..count {
            crowd.input(at, Input::TrackerUp);
            crowd.input(
                at,
                Input::OriginsChanged {
                    origins: origins.clone(),
                },
            );
        }
        crowd
    }

    pub(super) fn agents(&self) -> std::ops::Range<usize> {
        self.options.origins..self.members.len()
    }

    pub(super) fn digest(&self) -> Digest {
        self.info.digest
    }

    fn address(&self, at: usize) -> OriginAddress {
        OriginAddress {
            peer: self.members[at].id,
            addr: addr(at),
        }
    }

    pub(super) fn find(&self, id: &PeerId) -> usize {
        self.members
            .iter()
            .position(|member| member.id == *id)
            .unwrap()
    }

    /// An agent wants the whole blob, and reads it in order.
    pub(super) fn want(&mut self, at: usize) {
        self.members[at].wants = true;
        let range = Some(ByteRange {
            start: 0,
            end: u64::MAX,
        });
        self.input(
            at,
            Input::Wanted {
                digest: self.digest(),
                reader: ReaderId(1),
                range,
            },
        );
    }

    pub(super) fn want_all(&mut self) {
        for at in self.agents() {
            self.want(at);
        }
    }

    pub(super) fn set_conduct(&mut self, at: usize, conduct: Conduct) {
        self.members[at].conduct = conduct;
        if conduct == Conduct::Crashed {
            let now = self.now;
            self.flows.advance(now);
            let gone = self.flows.take(|flow| flow.from == at || flow.to == at);
            self.origin_bytes += gone
                .iter()
                .filter(|flow| flow.from == 0)
                .map(|flow| flow.bytes - flow.left)
                .sum::<f64>();
            for other in 0..self.members.len() {
                self.unlink(at, other);
            }
        }
        self.reshare();
    }

    pub(super) fn set_tracker(&mut self, up: bool) {
        self.tracker_up = up;
        for at in 0..self.members.len() {
            self.members[at].announced &= up;
            self.input(
                at,
                if up {
                    Input::TrackerUp
                } else {
                    Input::TrackerDown
                },
            );
        }
    }

    fn unlink(&mut self, a: usize, b: usize) {
        if self.linked.remove(&(a.min(b), a.max(b))) {
            for (at, other) in [(a, b), (b, a)] {
                let peer = self.members[other].id;
                self.later(
                    self.options.latency,
                    Event::Input(at, Input::PeerLost { peer }),
                );
                let lost: Vec<_> = self.members[at]
                    .fetching
                    .iter()
                    .filter(|(_, (from, _))| *from == other)
                    .map(|(id, _)| *id)
                    .collect();
                for transfer in lost {
                    self.members[at].fetching.remove(&transfer);
                }
            }
        }
    }

    fn later(&mut self, after: Duration, event: Event) {
        let at = self.next_event;
        self.next_event += 1;
        self.pending.insert(at, event);
        self.events.push(Reverse((self.now + after, at as u64, at)));
    }

    /// Hands an input to a node, and carries out what it asks for.
    pub(super) fn input(&mut self, at: usize, input: Input) {
        match self.members[at].conduct {
            Conduct::Crashed => return,
            Conduct::Frozen => {
                return self.later(Duration::from_millis(50), Event::Input(at, input));
            }
            Conduct::Honest | Conduct::Lying => {}
        }
        self.members[at].node.handle(input, self.now);
        self.act(at);
    }

    fn act(&mut self, at: usize) {
        while let Some(action) = self.members[at].node.poll_action() {
            let mut hasher = FxHasher::default();
            (self.trace, self.now, at, format!("{action:?}")).hash(&mut hasher);
            self.trace = hasher.finish();
            self.perform(at, action);
        }
        self.reshare();
    }

    /// The hash of everything that was done so far.
    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    fn reshare(&mut self) {
        self.flows.advance(self.now);
        let links: Vec<Link> = self
            .links
            .iter()
            .zip(&self.members)
            .map(|(link, member)| {
                if member.conduct == Conduct::Frozen {
                    Link { up: 0.0, down: 0.0 }
                } else {
                    *link
                }
            })
            .collect();
        self.flows.share(&links);
    }

    /// Does the next thing that happens, if it happens before `until`.
    fn step(&mut self, until: Instant) -> bool {
        let event = self.events.peek().map(|Reverse((at, _, _))| *at);
        let flow = self.flows.next_done();
        let timeout = self
            .members
            .iter()
            .filter(|member| matches!(member.conduct, Conduct::Honest | Conduct::Lying));
        let timeout = timeout
            .filter_map(|member| member.node.next_timeout())
            .min();
        let Some(next) = [event, flow, timeout]
            .into_iter()
            .flatten()
            .min()
            .filter(|at| *at <= until)
        else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        self.flows.advance(self.now);
        for flow in self.flows.take(|flow| flow.left < 1.0) {
            self.arrived(&flow);
        }
        while let Some(Reverse((at, _, key))) = self.events.peek().copied() {
            if at > self.now {
                break;
            }
            self.events.pop();
            let event = self.pending.remove(&key).unwrap();
            self.happen(event);
        }
        for at in 0..self.members.len() {
            let awake = matches!(self.members[at].conduct, Conduct::Honest | Conduct::Lying);
            if awake
                && self.members[at]
                    .node
                    .next_timeout()
                    .is_some_and(|due| due <= self.now)
            {
                self.members[at].node.handle_timeout(self.now);
                self.act(at);
            }
        }
        self.reshare();
        true
    }

    fn arrived(&mut self, flow: &super::crowd_flows::Flow) {
        if self.members[flow.from].role == Role::Origin {
            self.origin_bytes += flow.bytes;
        } else if self.members[flow.from].zone != self.members[flow.to].zone {
            self.cross_zone_bytes += flow.bytes;
        }
        let served = Input::Served {
            request: flow.request,
            sent: true,
        };
        self.later(Duration::ZERO, Event::Input(flow.from, served));
        self.members[flow.to].fetching.remove(&flow.transfer);
        let transfer = flow.transfer;
        let fetched = if self.members[flow.from].conduct == Conduct::Lying {
            Input::FetchFailed {
                transfer,
                failure: FetchFailure::Corrupt,
            }
        } else {
            Input::Fetched { transfer }
        };
        self.later(self.options.latency, Event::Input(flow.to, fetched));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Answer(at, transfer, refusal) => {
                if self.members[at].fetching.remove(&transfer).is_some() {
                    let failure = refusal.map_or(FetchFailure::Lost, FetchFailure::Refused);
                    self.input(at, Input::FetchFailed { transfer, failure });
                }
            }
            Event::Asked(at, by, transfer, piece) => {
                if self.members[at].conduct == Conduct::Frozen || !self.is_linked(at, by) {
                    return;
                }
                self.next_request += 1;
                let request = RequestId(self.next_request);
                self.requests.insert(request, (by, transfer));
                let peer = self.members[by].id;
                self.input(
                    at,
                    Input::Asked {
                        request,
                        peer,
                        digest: self.digest(),
                        index: piece.get(),
                    },
                );
            }
            Event::Input(at, input) => self.input(at, input),
            Event::Stalled(at, transfer) => self.stalled(at, transfer),
        }
    }

    /// What the driver's watchdog does: a fetch whose source sent nothing fails.
    fn stalled(&mut self, at: usize, transfer: TransferId) {
        let Some((from, _)) = self.members[at].fetching.get(&transfer).copied() else {
            return;
        };
        let moving = self
            .flows
            .iter()
            .any(|flow| flow.to == at && flow.transfer == transfer);
        if moving && self.members[from].conduct != Conduct::Frozen {
            return self.later(limits::FETCH_STALLED_AFTER, Event::Stalled(at, transfer));
        }
        self.members[at].fetching.remove(&transfer);
        self.flows
            .take(|flow| flow.to == at && flow.transfer == transfer);
        self.input(
            at,
            Input::FetchFailed {
                transfer,
                failure: FetchFailure::TimedOut,
            },
        );
    }

    /// Runs until `done`, or for `limit`. Says whether it was done.
    pub(super) fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + limit;
        while !done(self) {
            if !self.step(until) {
                return done(self);
            }
        }
        true
    }

    pub(super) fn run_for(&mut self, span: Duration) {
        self.run(span, |_| false);
    }

    /// Everybody who wants the blob and is well has it.
    pub(super) fn all_finished(&self) -> bool {
        self.members
            .iter()
            .filter(|member| member.wants && member.conduct == Conduct::Honest)
            .all(|member| member.finished.is_some())
    }

    /// Seconds until the last one had it.
    pub(super) fn makespan(&self) -> f64 {
        let last = self
            .members
            .iter()
            .filter_map(|member| member.finished)
            .max()
            .unwrap_or(self.now);
        last.saturating_duration_since(Instant::from_nanos(1))
            .as_secs_f64()
    }

    /// The least it can take: pieces plus the logarithm of the agents, in piece times.
    pub(super) fn bound(&self) -> f64 {
        let rounds = self.options.pieces + u64::from(self.options.agents.ilog2());
        rounds as f64 * MIB as f64 / self.options.bytes_per_sec
    }

    pub(super) fn origin_copies(&self) -> f64 {
        self.origin_bytes / (self.options.pieces * MIB) as f64
    }
}

fn addr(at: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(7000 + at).unwrap()))
}

fn name(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::Busy => "busy",
        RefusalCode::Injected => "injected",
        RefusalCode::NotHeld => "not held",
        _ => "other",
    }
}
