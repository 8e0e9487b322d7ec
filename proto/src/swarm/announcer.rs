//! When to tell the tracker of this swarm: at once on opening, on learning the shape and on completion; at
//! milestones; while neighbours are few; and at every interval, with jitter, because a tracker forgets.
//!
//! Not here: batching of announces into messages, which is the driver's.

use std::time::Duration;

use crate::node::action::{Action, SwarmChange};
use crate::node::context::Context;
use crate::{Instant, limits};

use super::{Stage, Swarm};

/// When a swarm is announced next.
#[derive(Debug)]
pub(crate) struct Announcer {
    next: Option<Instant>,
    /// The tracker was last asked for peers then.
    asked: Option<Instant>,
    /// How long until it is asked again, doubling.
    pause: Duration,
    /// Held pieces at which the tracker hears of us next.
    milestone: u32,
}

impl Announcer {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next: Some(now),
            asked: None,
            pause: limits::MORE_PEERS_PAUSE_MIN,
            milestone: 1,
        }
    }

    /// Something the tracker should know has happened.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.next = Some(self.next.map_or(now, |next| next.min(now)));
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// One piece; then 5, 25, 50 %.
    pub(crate) fn milestone(&mut self, held: u32, count: u32, now: Instant) {
        if held < self.milestone {
            return;
        }
        let steps = [count / 20, count / 4, count / 2, u32::MAX];
        self.milestone = steps
            .into_iter()
            .find(|step| *step > held)
            .unwrap_or(u32::MAX);
        self.hurry(now);
    }
}

impl Swarm {
    /// What the tracker is told.
    pub(crate) fn change(&self, wants_peers: bool, cx: &Context) -> SwarmChange {
        let stuck = if wants_peers && self.stage == Stage::Leeching {
            let useless = |peer: &&super::neighbours::Neighbour| {
                !peer.is_origin && cx.peers.get(peer.peer).stalls > 0
            };
            let peers = self
                .neighbours
                .iter()
                .filter(useless)
                .take(limits::STUCK_PEERS_MAX);
            peers
                .map(|neighbour| cx.peers.get(neighbour.peer).id)
                .collect()
        } else {
            Vec::new()
        };
        SwarmChange {
            digest: self.digest,
            state: self.state(),
            held: self.held_count(),
            wants_peers,
            info: self.info,
            stuck,
        }
    }

    pub(crate) fn announce(&self, wants_peers: bool, cx: &mut Context) {
        if cx.tracker_up {
            let swarms = vec![self.change(wants_peers, cx)];
            cx.act(Action::Announce {
                swarms,
                full: false,
            });
        }
    }

    /// More neighbours would help.
    pub(crate) fn wants_peers(&self, cx: &Context) -> bool {
        !cx.is_origin()
            && matches!(self.stage, Stage::Seeking | Stage::Leeching)
            && self.is_wanted()
            && (self.neighbours.len() < limits::NEIGHBOURS / 2 || self.sourcing.is_starving())
    }

    pub(super) fn announce_if_due(&mut self, cx: &mut Context, now: Instant) {
        if self.stage == Stage::Gone || self.announcer.next.is_none_or(|at| at > now) {
            return;
        }
        let wants = self.wants_peers(cx)
            && self
                .announcer
                .asked
                .is_none_or(|at| now >= at + self.announcer.pause);
        if wants {
            if self.announcer.asked.is_some() {
                self.announcer.pause = (self.announcer.pause * 2).min(limits::ANNOUNCE_INTERVAL);
            }
            self.announcer.asked = Some(now);
        }
        self.announce(wants, cx);
        let interval = match self.stage {
            Stage::Seeking | Stage::Leeching if self.wants_peers(cx) => self.announcer.pause,
            Stage::Seeking | Stage::Leeching => limits::ANNOUNCE_INTERVAL,
            Stage::Committing | Stage::Gone | Stage::Seeding => limits::ANNOUNCE_INTERVAL_SEEDING,
        };
        self.announcer.next = Some(now + cx.jitter(interval));
    }

    /// The tracker is new to us, or we to it.
    pub(crate) fn tracker_is_up(&mut self, now: Instant) {
        self.announcer.pause = limits::MORE_PEERS_PAUSE_MIN;
        self.announcer.asked = Some(now);
    }
}
