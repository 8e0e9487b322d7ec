//! Links coming and going, and what is said on them.
//!
//! Not here: whom a swarm wants to know (`swarm::sourcing`), what a message means to it (`swarm::gossip`).

use std::net::SocketAddr;

use crate::wire::{CloseCode, PeerMessage};
use crate::{Digest, Instant, PeerId, Role, Zone, limits};

use super::action::FailReason;
use super::peers::{LinkState, PeerIx};
use super::{Node, budget};

impl Node {
    pub(super) fn connected(
        &mut self,
        peer: PeerId,
        role: Role,
        zone: Zone,
        addr: SocketAddr,
        now: Instant,
    ) {
        let ix = self.cx.peers.intern(peer, role, &zone, now);
        if self.cx.peers.get(ix).is_live() {
            self.drop_link(ix, now);
        }
        let known = self.cx.peers.get_mut(ix);
        known.role = role;
        known.zone = zone;
        known.addr = Some(addr);
        known.dial_failures = 0;
        known.forget_words();
        known.last_useful = now;
        let banned = known.banned_until.is_some_and(|until| now < until);
        self.cx.peers.set_link(ix, LinkState::Live);
        if banned || peer == self.cx.options.me {
            self.cx.hang_up(ix, CloseCode::Banned);
            return;
        }
        if let Some(surplus) = budget::surplus(&self.cx, ix, now) {
            self.cx.hang_up(surplus, CloseCode::TooManyLinks);
            self.drop_link(surplus, now);
            if surplus == ix {
                return;
            }
        }
        let swarms = self.cx.peers.get(ix).swarms.clone();
        for swarm in swarms {
            self.with(swarm, |swarm, cx| swarm.join(ix, cx));
        }
        if !self.cx.tracker_up {
            // Nobody tells us what it takes part in: it is asked about everything that is wanted.
            for swarm in self.leeching.clone() {
                self.with(swarm, |swarm, cx| swarm.join(ix, cx));
            }
        }
    }

    pub(super) fn dial_failed(&mut self, peer: &PeerId, now: Instant) {
        let Some(ix) = self.cx.peers.find(peer) else {
            return;
        };
        if self.cx.peers.get(ix).link != LinkState::Dialing {
            return;
        }
        let failures = self.cx.peers.get(ix).dial_failures;
        let pause = limits::DIAL_BACKOFF_MIN * (1 << failures.min(10));
        let until = now + self.cx.jitter(pause.min(limits::DIAL_BACKOFF_MAX));
        self.cx.peers.get_mut(ix).dial_failures = failures.saturating_add(1);
        self.cx.peers.set_link(ix, LinkState::BackingOff { until });
        for swarm in self.cx.peers.get(ix).swarms.clone() {
            self.with(swarm, |swarm, cx| swarm.dial_candidates(cx, now));
        }
    }

    pub(super) fn peer_lost(&mut self, peer: &PeerId, now: Instant) {
        let Some(ix) = self.cx.peers.find(peer) else {
            return;
        };
        if !self.cx.peers.get(ix).is_live() {
            return;
        }
        let until = now + self.cx.jitter(limits::DIAL_BACKOFF_MIN);
        self.cx.peers.set_link(ix, LinkState::BackingOff { until });
        self.drop_link(ix, now);
    }

    /// What was under way on a link is over. The peer stays a candidate of its swarms.
    fn drop_link(&mut self, ix: PeerIx, now: Instant) {
        let was_served = self.cx.slots.to_peer(ix) > 0;
        self.cx.slots.drop_peer(ix);
        for swarm in self.cx.peers.get(ix).swarms.clone() {
            self.with(swarm, |swarm, cx| {
                swarm.lost(ix, cx);
                swarm.dial_candidates(cx, now);
            });
        }
        self.cx.peers.get_mut(ix).forget_words();
        if was_served {
            self.say_free(now);
        }
    }

    pub(super) fn peer_said(&mut self, peer: &PeerId, message: PeerMessage, now: Instant) {
        let Some(ix) = self
            .cx
            .peers
            .find(peer)
            .filter(|ix| self.cx.peers.get(*ix).is_live())
        else {
            return;
        };
        match message {
            PeerMessage::Interest { digest } => match self.by_digest.get(&digest).copied() {
                Some(swarm) => self.with(swarm, |swarm, cx| swarm.said_interest(ix, cx)),
                None => self.cx.peers.get_mut(ix).remember_interest(digest),
            },
            PeerMessage::Info { info } => {
                self.on(&info.digest.clone(), |swarm, cx| {
                    swarm.said_info(ix, &info, cx, now)
                });
            }
            PeerMessage::Holds { digest, bitfield } => {
                self.on(&digest, |swarm, cx| swarm.said_holds(ix, bitfield, cx));
            }
            PeerMessage::Have {
                digest,
                indexes,
                held,
            } => self.said_have(ix, &digest, &indexes, held),
            PeerMessage::Free { digest } => {
                self.on(&digest, |_, cx| cx.peers.get_mut(ix).said_free(now));
            }
            PeerMessage::Leave { digest } => self.said_leave(ix, &digest),
            PeerMessage::Gone { digest } => {
                if self.cx.peers.get(ix).role == Role::Origin {
                    self.on(&digest, |swarm, cx| {
                        if swarm.is_leeching() {
                            swarm.fail(FailReason::Poisoned, cx);
                        }
                    });
                } else {
                    // Only an origin may say so.
                    self.cx.culprits.push(ix);
                }
            }
            // The driver's: it checks memberships.
            PeerMessage::Vouch { .. } => {}
        }
    }

    /// Most of what is said at all is news of pieces from agents near us that nothing comes from now. While pieces come from
    /// as many as are wanted, it changes neither what can be asked for nor when: it is taken in, and nothing more is looked at.
    fn said_have(&mut self, ix: PeerIx, digest: &Digest, indexes: &[u32], held: u32) {
        let Some(at) = self.by_digest.get(digest).copied() else {
            return;
        };
        let peer = self.cx.peers.get(ix);
        let is_source =
            peer.role == Role::Origin || peer.in_flight() > 0 || peer.zone != self.cx.options.zone;
        let enough = !self.cx.is_origin() && self.cx.peers.sources() >= self.window;
        match self.swarms.get_mut(&at) {
            Some(swarm) if enough && !is_source && swarm.in_flight() > 0 => {
                swarm.said_have(ix, indexes, held, &mut self.cx)
            }
            _ => self.with(at, |swarm, cx| swarm.said_have(ix, indexes, held, cx)),
        }
    }

    fn said_leave(&mut self, ix: PeerIx, digest: &Digest) {
        self.cx
            .peers
            .get_mut(ix)
            .interests
            .retain(|named| named != digest);
        self.on(digest, |swarm, cx| swarm.said_leave(ix, cx));
    }

    /// Bans those whose conduct has earned it: a wrong piece, a wrong proof, a lie about the form of things.
    pub(super) fn punish(&mut self, now: Instant) {
        while let Some(ix) = self.cx.culprits.pop() {
            self.cx.peers.get_mut(ix).banned_until = Some(now + limits::BAN_SPAN);
            if self.cx.peers.get(ix).is_live() {
                self.cx.hang_up(ix, CloseCode::Banned);
                self.drop_link(ix, now);
            }
            for swarm in std::mem::take(&mut self.cx.peers.get_mut(ix).swarms) {
                self.with(swarm, |swarm, _| swarm.forget(ix));
            }
        }
    }
}
