//! What all swarms of a process share: peers, upload slots, pace, origins, random numbers, actions and timers.
//!
//! Not here: the swarms themselves, so that a swarm can be changed while it changes what is shared.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;

use rustc_hash::FxHashMap;

use crate::swarm::SwarmIx;
use crate::swarm::pace::Pace;
use crate::swarm::slots::Slots;
use crate::wire::{CloseCode, PeerMessage};
use crate::{Instant, PeerId, Role};

use super::NodeOptions;
use super::action::Action;
use super::input::{OriginAddress, TransferId};
use super::peers::{LinkState, PeerBook, PeerIx};

/// Shared by all swarms of a [`Node`](super::Node).
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) options: NodeOptions,
    pub(crate) peers: PeerBook,
    pub(crate) slots: Slots,
    pub(crate) pace: Pace,
    pub(crate) origins: Vec<OriginAddress>,
    pub(crate) tracker_up: bool,
    pub(crate) rng: fastrand::Rng,
    /// Which swarm a fetch belongs to.
    pub(crate) transfers: FxHashMap<TransferId, SwarmIx>,
    /// Fetches under way, hedges included.
    pub(crate) in_flight: usize,
    /// Origins: pieces offered and not asked for yet, over all swarms.
    pub(crate) offered: usize,
    /// Peers whose conduct earned a ban in the midst of a swarm's work; the node carries it out.
    pub(crate) culprits: Vec<PeerIx>,
    next_transfer: u64,
    actions: VecDeque<Action>,
    timers: BinaryHeap<Reverse<(Instant, SwarmIx)>>,
}

impl Context {
    pub(crate) fn new(options: NodeOptions, now: Instant) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(options.seed),
            slots: Slots::default(),
            pace: Pace::new(now),
            peers: PeerBook::default(),
            origins: Vec::new(),
            tracker_up: false,
            transfers: FxHashMap::default(),
            in_flight: 0,
            offered: 0,
            culprits: Vec::new(),
            next_transfer: 0,
            actions: VecDeque::new(),
            timers: BinaryHeap::new(),
            options,
        }
    }

    pub(crate) fn is_origin(&self) -> bool {
        self.options.role == Role::Origin
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(crate) fn say(&mut self, peer: PeerIx, message: PeerMessage) {
        let peer = self.peers.get(peer).id;
        self.act(Action::Say { peer, message });
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn new_transfer(&mut self, swarm: SwarmIx) -> TransferId {
        self.next_transfer += 1;
        let transfer = TransferId(self.next_transfer);
        self.transfers.insert(transfer, swarm);
        transfer
    }

    /// Wakes the swarm at `at`. Several wakings of one swarm are harmless.
    pub(crate) fn wake_at(&mut self, at: Instant, swarm: SwarmIx) {
        self.timers.push(Reverse((at, swarm)));
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// The next swarm whose time has come.
    pub(crate) fn pop_timer(&mut self, now: Instant) -> Option<SwarmIx> {
        if self.next_timer()? > now {
            return None;
        }
        self.timers.pop().map(|Reverse((_, swarm))| swarm)
    }

    /// Asks for a link, if the budget, back-off and bans permit it. Says whether one is up or coming.
    pub(crate) fn dial(&mut self, ix: PeerIx, addr: Option<SocketAddr>, now: Instant) -> bool {
        let limit = self.options.links_max;
        let linked = self.peers.linked();
        let peer = self.peers.get_mut(ix);
        if addr.is_some() {
            peer.addr = addr;
        }
        if peer.id == self.options.me || peer.banned_until.is_some_and(|until| now < until) {
            return false;
        }
        match peer.link {
            LinkState::Live | LinkState::Dialing => return true,
            LinkState::BackingOff { until } if now < until => return false,
            LinkState::BackingOff { .. } | LinkState::Known => {}
        }
        let Some(addr) = peer.addr else { return false };
        if linked >= limit {
            return false;
        }
        let peer = peer.id;
        self.peers.set_link(ix, LinkState::Dialing);
        self.act(Action::Dial { peer, addr });
        true
    }

    /// The address at which an origin was announced.
    pub(crate) fn origin_addr(&self, id: &PeerId) -> Option<SocketAddr> {
        self.origins
            .iter()
            .find(|origin| origin.peer == *id)
            .map(|origin| origin.addr)
    }

    /// Closes a link; the node then forgets what was under way on it.
    pub(crate) fn hang_up(&mut self, ix: PeerIx, code: CloseCode) {
        let peer = self.peers.get(ix).id;
        self.peers.set_link(ix, LinkState::Known);
        self.act(Action::Hangup { peer, code });
    }

    /// `span`, give or take a quarter, so that a crowd does not act in step.
    pub(crate) fn jitter(&mut self, span: std::time::Duration) -> std::time::Duration {
        span.mul_f64(0.75 + 0.5 * self.rng.f64())
    }
}
