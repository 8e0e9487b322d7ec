//! All swarms of one process as one pure state machine: whom to dial, which piece to ask of whom, whom to serve or
//! refuse, when to announce, whom to ban.
//!
//! Order of calls: [`Node::handle`] for each thing that happens, or [`Node::handle_timeout`] when
//! [`Node::next_timeout`] has come; after each, [`Node::poll_action`] until `None`. Time never runs backwards. The
//! same options and inputs give the same actions (no clock, no randomness but the seed's).
//!
//! What a driver owes its node:
//! - A shape (`BlobInfo`) is handed in only when its signature holds and its signer is a vouched origin.
//! - `Fetched` means verified and stored (I1). Each `Fetch` is answered once, unless it was cancelled; a fetch
//!   whose source sends nothing for [`FETCH_STALLED_AFTER`](crate::limits::FETCH_STALLED_AFTER) fails as `TimedOut`.
//! - Each `Serve` is answered by `Served`, unless the link was lost.
//! - One link with each peer. Where two were dialed across each other, both ends keep the one that the lower PeerId
//!   dialed, and the node hears of `Connected` once, or of `PeerLost` in between. A second `Connected` is harmless: the
//!   peers tell each other everything anew. After `Hangup` no `PeerLost` follows.
//!
//! Not here: what concerns one blob only (`swarm`).

pub(crate) mod action;
mod budget;
pub(crate) mod context;
pub(crate) mod input;
mod links;
pub(crate) mod peers;
mod status;

use std::cmp::Reverse;

use rustc_hash::FxHashMap;

pub use self::action::{Action, FailReason, SwarmChange, SwarmState};
pub use self::input::{
    Candidate, FetchFailure, Input, OriginAddress, ReaderId, RequestId, TransferId,
};
pub use self::status::{NodeStatus, SwarmView};

use self::context::Context;
use crate::swarm::{Stage, Swarm, SwarmIx};
use crate::wire::{PeerMessage, RefusalCode};
use crate::{BlobInfo, Digest, Instant, PeerId, Role, Zone, limits};

/// Who a node is.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Our own name.
    pub me: PeerId,
    /// What we may do.
    pub role: Role,
    /// Where we stand.
    pub zone: Zone,
    /// All random choices follow from it.
    pub seed: u64,
    /// Links at most.
    pub links_max: usize,
}

impl NodeOptions {
    /// The usual limits of the role.
    pub fn new(me: PeerId, role: Role, zone: Zone, seed: u64) -> Self {
        let links_max = match role {
            Role::Agent => limits::LINKS_MAX,
            Role::Origin | Role::Tracker => limits::SERVICE_LINKS_MAX,
        };
        Self {
            me,
            role,
            zone,
            seed,
            links_max,
        }
    }
}

/// The decisions of one process, over all its swarms.
#[derive(Debug)]
pub struct Node {
    cx: Context,
    swarms: FxHashMap<SwarmIx, Swarm>,
    by_digest: FxHashMap<Digest, SwarmIx>,
    next_swarm: u32,
    /// Swarms that want pieces, in the order of opening; the first has the next turn.
    leeching: Vec<SwarmIx>,
    /// Origins: swarms that somebody takes part in; the first has the next turn to offer.
    giving: Vec<SwarmIx>,
    /// Swarms whose timers may have to move, and that may have something to ask for or to offer.
    touched: Vec<SwarmIx>,
    /// How many sources were wanted when somebody was last asked.
    window: usize,
}

impl Node {
    /// A node that knows nobody.
    pub fn new(options: NodeOptions, now: Instant) -> Self {
        Self {
            cx: Context::new(options, now),
            swarms: FxHashMap::default(),
            by_digest: FxHashMap::default(),
            next_swarm: 0,
            leeching: Vec::new(),
            giving: Vec::new(),
            touched: Vec::new(),
            window: 0,
        }
    }

    /// Takes in what happened.
    #[expect(clippy::too_many_lines, reason = "one arm for each input, each a call")]
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Wanted {
                digest,
                reader,
                range,
            } => {
                let ix = self.ensure(digest, now);
                self.with(ix, |swarm, cx| swarm.want(reader, range, cx, now));
            }
            Input::ReadAdvanced { digest, reader, at } => {
                self.on(&digest, |swarm, _| swarm.read_advanced(reader, at))
            }
            Input::Unwanted { digest, reader } => {
                self.on(&digest, |swarm, _| swarm.unwant(reader, now))
            }
            Input::Loaded {
                info,
                held,
                complete,
            } => {
                let ix = self.ensure(info.digest, now);
                self.with(ix, |swarm, cx| swarm.load(&info, &held, complete, cx, now));
            }
            Input::Seeded { info } => {
                let ix = self.ensure(info.digest, now);
                self.with(ix, |swarm, cx| swarm.learn(&info, cx, now));
            }
            Input::Ingested { digest, piece } => {
                self.on(&digest, |swarm, cx| swarm.ingested(piece, cx, now))
            }
            Input::Completed { digest } => self.on(&digest, |swarm, _| swarm.completed(now)),
            Input::CommitFailed { digest } => self.on(&digest, |swarm, cx| {
                swarm.fail(FailReason::CommitFailed, cx)
            }),
            Input::Evicted { digest } => self.on(&digest, |swarm, cx| swarm.leave(cx)),
            Input::Poisoned { digest } => self.on(&digest, |swarm, cx| swarm.poisoned(cx)),
            Input::TrackerUp => self.tracker_up(now),
            Input::TrackerDown => self.cx.tracker_up = false,
            Input::Handed {
                digest,
                info,
                peers,
                injected,
            } => {
                self.on(&digest, |swarm, cx| {
                    swarm.handed(info.as_ref(), &peers, injected, cx, now)
                });
            }
            Input::OriginsChanged { origins } => self.origins_changed(origins),
            Input::Connected {
                peer,
                role,
                zone,
                addr,
            } => self.connected(peer, role, zone, addr, now),
            Input::DialFailed { peer } => self.dial_failed(&peer, now),
            Input::PeerLost { peer } => self.peer_lost(&peer, now),
            Input::PeerSaid { peer, message } => self.peer_said(&peer, message, now),
            Input::Opened {
                digest,
                origin,
                result,
            } => {
                self.on(&digest, |swarm, cx| swarm.opened(origin, result, cx, now));
            }
            Input::Fetched { transfer } => {
                self.on_transfer(transfer, |swarm, cx| swarm.fetched(transfer, cx, now))
            }
            Input::FetchFailed { transfer, failure } => {
                self.on_transfer(transfer, |swarm, cx| {
                    swarm.fetch_failed(transfer, failure, cx, now)
                });
            }
            Input::Asked {
                request,
                peer,
                digest,
                index,
            } => self.asked(request, &peer, &digest, index, now),
            Input::Served { request, sent } => self.served(request, sent, now),
        }
        self.settle(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.cx.poll_action()
    }

    /// When [`Node::handle_timeout`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.cx.next_timer()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(ix) = self.cx.pop_timer(now) {
            if self
                .swarms
                .get_mut(&ix)
                .is_some_and(|swarm| swarm.woken(now))
            {
                self.with(ix, |swarm, cx| swarm.tick(cx, now));
            }
        }
        self.settle(now);
    }

    fn ensure(&mut self, digest: Digest, now: Instant) -> SwarmIx {
        if let Some(ix) = self.by_digest.get(&digest) {
            return *ix;
        }
        let ix = SwarmIx(self.next_swarm);
        self.next_swarm += 1;
        self.swarms.insert(ix, Swarm::new(ix, digest, now));
        self.by_digest.insert(digest, ix);
        self.leeching.push(ix);
        let early: Vec<_> = self
            .cx
            .peers
            .iter()
            .filter(|(_, peer)| peer.interests.contains(&digest))
            .map(|(peer, _)| peer)
            .collect();
        for peer in early {
            self.cx
                .peers
                .get_mut(peer)
                .interests
                .retain(|named| *named != digest);
            self.with(ix, |swarm, cx| swarm.said_interest(peer, cx));
        }
        ix
    }

    fn with(&mut self, ix: SwarmIx, change: impl FnOnce(&mut Swarm, &mut Context)) {
        if let Some(swarm) = self.swarms.get_mut(&ix) {
            change(swarm, &mut self.cx);
            swarm.count_offers(&mut self.cx);
            self.touched.push(ix);
        }
    }

    fn on(&mut self, digest: &Digest, change: impl FnOnce(&mut Swarm, &mut Context)) {
        if let Some(ix) = self.by_digest.get(digest) {
            self.with(*ix, change);
        }
    }

    fn on_transfer(&mut self, transfer: TransferId, change: impl FnOnce(&mut Swarm, &mut Context)) {
        if let Some(ix) = self.cx.transfers.get(&transfer).copied() {
            self.with(ix, change);
        }
    }

    fn asked(
        &mut self,
        request: RequestId,
        peer: &PeerId,
        digest: &Digest,
        index: u32,
        now: Instant,
    ) {
        let peer = self
            .cx
            .peers
            .find(peer)
            .filter(|ix| self.cx.peers.get(*ix).is_live());
        match (peer, self.by_digest.get(digest).copied()) {
            (Some(peer), Some(ix)) => {
                self.with(ix, |swarm, cx| swarm.asked(request, peer, index, cx, now))
            }
            (_, _) => {
                let pause = limits::NOT_HELD_PAUSE;
                crate::swarm::refuse(request, RefusalCode::NotHeld, pause, &mut self.cx);
            }
        }
    }

    fn served(&mut self, request: RequestId, sent: bool, now: Instant) {
        let Some(upload) = self.cx.slots.finish(request, sent, &mut self.cx.peers, now) else {
            return;
        };
        self.with(upload.swarm, |swarm, cx| {
            swarm.served(&upload, sent, cx, now)
        });
        if self.cx.slots.to_peer(upload.peer) == 0 {
            self.say_free(now);
        }
    }

    /// A slot is free: of those that were refused, the one that is furthest behind hears of it, and of equals the one that
    /// waits longest; before those that heard of slots again and again and came for none.
    fn say_free(&mut self, now: Instant) {
        if self.cx.is_origin() {
            return;
        }
        let slots = &self.cx.slots;
        let swarms = &self.swarms;
        let neediest = self
            .cx
            .slots
            .welcome(&self.cx.peers, now)
            .filter_map(|bid| {
                let swarm = swarms.get(&bid.swarm)?;
                Some((swarm.lacks(bid.peer)?, bid.peer, swarm.digest))
            })
            .min_by_key(|(lacks, peer, _)| (slots.never_comes(*peer), Reverse(*lacks)));
        if let Some((_, peer, digest)) = neediest {
            self.cx.slots.told_free(peer);
            self.cx.say(peer, PeerMessage::Free { digest });
        }
    }

    fn tracker_up(&mut self, now: Instant) {
        self.cx.tracker_up = true;
        let mut swarms: Vec<SwarmIx> = self.swarms.keys().copied().collect();
        swarms.sort_unstable();
        let mut changes = Vec::with_capacity(swarms.len());
        for ix in swarms {
            let Some(swarm) = self.swarms.get_mut(&ix) else {
                continue;
            };
            swarm.tracker_is_up(now);
            changes.push(swarm.change(swarm.wants_peers(&self.cx), &self.cx));
        }
        let mut full = true;
        loop {
            let rest = changes.split_off(changes.len().min(limits::SWARMS_PER_ANNOUNCE_MAX));
            self.cx.act(Action::Announce {
                swarms: changes,
                full,
            });
            if rest.is_empty() {
                break;
            }
            changes = rest;
            full = false;
        }
    }

    /// After each input: bans, swarms that are over, the next requests, timers.
    fn settle(&mut self, now: Instant) {
        self.punish(now);
        if self.touched.is_empty() {
            return;
        }
        let touched = std::mem::take(&mut self.touched);
        for ix in &touched {
            self.bury(*ix);
        }
        self.ask(now);
        self.offer(&touched, now);
        for ix in touched.iter().chain(&std::mem::take(&mut self.touched)) {
            if let Some(swarm) = self.swarms.get_mut(ix) {
                swarm.arm(&mut self.cx, now);
            }
        }
    }

    /// Removes a swarm that is over.
    fn bury(&mut self, ix: SwarmIx) {
        if self
            .swarms
            .get(&ix)
            .is_none_or(|swarm| swarm.stage != Stage::Gone)
        {
            return;
        }
        if let Some(swarm) = self.swarms.remove(&ix) {
            self.by_digest.remove(&swarm.digest);
            self.leeching.retain(|other| *other != ix);
            let members: Vec<_> = self
                .cx
                .peers
                .iter()
                .filter(|(_, peer)| peer.swarms.contains(&ix))
                .map(|(peer, _)| peer)
                .collect();
            for peer in members {
                self.cx
                    .peers
                    .get_mut(peer)
                    .swarms
                    .retain(|other| *other != ix);
            }
        }
    }

    /// Lets the swarms that want pieces ask in turn, until nobody can.
    fn ask(&mut self, now: Instant) {
        let swarms = &self.swarms;
        self.leeching.retain(|ix| {
            swarms
                .get(ix)
                .is_some_and(|swarm| matches!(swarm.stage, Stage::Leeching | Stage::Seeking))
        });
        if self.leeching.is_empty() || self.cx.is_origin() {
            return;
        }
        let given = self.cx.slots.usual_bytes_per_sec();
        let window = self.cx.pace.window(given);
        self.window = window;
        let mut idle = 0;
        while idle < self.leeching.len() && self.cx.in_flight < limits::PIECES_IN_FLIGHT_MAX {
            let ix = self.leeching[0];
            let asked = self
                .swarms
                .get_mut(&ix)
                .is_some_and(|swarm| swarm.ask_one(window, &mut self.cx, now));
            self.leeching.rotate_left(1);
            if asked {
                idle = 0;
                self.touched.push(ix);
            } else {
                idle += 1;
            }
        }
    }

    /// Lets the swarms of an origin offer in turn, as much as the uplink can soon send.
    fn offer(&mut self, touched: &[SwarmIx], now: Instant) {
        if !self.cx.is_origin() {
            return;
        }
        for ix in touched {
            let giving = self.swarms.get(ix).is_some_and(Swarm::is_giving);
            if giving && !self.giving.contains(ix) {
                self.giving.push(*ix);
            }
        }
        let mut idle = 0;
        while idle < self.giving.len()
            && self.cx.offered + self.cx.slots.on_time(now) < limits::OFFERS_MAX
            && self.cx.offered + self.cx.slots.uploads().len() < limits::ORIGIN_UPLOADS_MAX
        {
            let ix = self.giving[0];
            let Some(swarm) = self.swarms.get_mut(&ix).filter(|swarm| swarm.is_giving()) else {
                self.giving.remove(0);
                continue;
            };
            if swarm.offer_one(&mut self.cx, now) {
                swarm.count_offers(&mut self.cx);
                self.touched.push(ix);
                idle = 0;
            } else {
                idle += 1;
            }
            self.giving.rotate_left(1);
        }
    }

    fn origins_changed(&mut self, origins: Vec<OriginAddress>) {
        self.cx.origins = origins;
        self.cx.origins.truncate(limits::ORIGINS_MAX);
        self.cx.origins.sort_unstable_by_key(|origin| origin.peer);
    }

    /// One blob, if we take part in it.
    pub fn swarm(&self, digest: &Digest) -> Option<SwarmView> {
        let swarm = self.swarms.get(self.by_digest.get(digest)?)?;
        Some(status::view(swarm))
    }

    /// All blobs, in the order of opening.
    pub fn swarms(&self) -> Vec<SwarmView> {
        let mut swarms: Vec<&Swarm> = self.swarms.values().collect();
        swarms.sort_unstable_by_key(|swarm| swarm.ix);
        swarms.into_iter().map(status::view).collect()
    }

    /// Figures over all swarms.
    pub fn status(&self) -> NodeStatus {
        status::status(&self.cx, self.swarms.len())
    }

    /// The shape of a blob, if we know it.
    pub fn info(&self, digest: &Digest) -> Option<&BlobInfo> {
        self.swarms.get(self.by_digest.get(digest)?)?.info()
    }
}
