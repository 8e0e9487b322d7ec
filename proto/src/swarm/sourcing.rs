//! Where a blob comes from when nobody near is known to have it: first the tracker's word, then the origin that
//! owns the digest, then the next origin; and when to give up.
//!
//! The order keeps promise P3: an agent asks an origin to bring a blob only when the tracker named nobody who has it
//! or is getting it, or when those proved useless. Giving up is bounded too (P2): a reader is told within seconds
//! that nobody can be reached, rather than left hanging.
//!
//! Not here: upstream (the origin's), the dial itself (`node::links`).

use std::time::Duration;

use crate::node::action::{Action, FailReason};
use crate::node::context::Context;
use crate::node::input::Candidate;
use crate::node::peers::PeerIx;
use crate::wire::Refusal;
use crate::{BlobInfo, Instant, PeerId, Role, limits, ring};

use super::{Stage, Swarm};

/// Whether an origin is being asked to bring the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Idle,
    /// This origin was asked and has not answered.
    Asked(PeerId),
}

/// The search for somebody who has the blob.
#[derive(Debug)]
pub(crate) struct Sourcing {
    /// When it was first wanted.
    began: Option<Instant>,
    last_progress: Instant,
    /// Do not ask an origin before: a handout, a named holder or a back-off is awaited.
    not_before: Option<Instant>,
    opening: Opening,
    /// Origins that could not bring it, in this round.
    tried: Vec<PeerId>,
    /// Rounds in which every origin was asked in vain.
    rounds: u32,
    starving: bool,
    store_failures: u32,
}

impl Sourcing {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            began: None,
            last_progress: now,
            not_before: None,
            opening: Opening::Idle,
            tried: Vec::new(),
            rounds: 0,
            starving: false,
            store_failures: 0,
        }
    }

    pub(crate) fn progress(&mut self, now: Instant) {
        self.last_progress = now;
        self.starving = false;
        self.store_failures = 0;
    }

    pub(crate) fn since_progress(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_progress)
    }

    /// Pieces are missing and none have come for a while.
    pub(crate) fn is_starving(&self) -> bool {
        self.starving
    }

    pub(crate) fn store_failed(&mut self) {
        self.store_failures += 1;
    }

    pub(crate) fn store_is_broken(&self) -> bool {
        self.store_failures >= limits::STORE_FAILURES_MAX
    }
}

impl Swarm {
    /// A reader wants it.
    pub(crate) fn want(
        &mut self,
        reader: crate::ReaderId,
        range: Option<crate::ByteRange>,
        cx: &mut Context,
        now: Instant,
    ) {
        self.readers.join(reader, range);
        self.idle_since = None;
        self.closed = false;
        if self.sourcing.began.is_some() {
            return;
        }
        self.sourcing.began = Some(now);
        self.sourcing.last_progress = now;
        let wait = if cx.tracker_up {
            limits::HANDOUT_PATIENCE
        } else {
            Duration::ZERO
        };
        self.sourcing.not_before = Some(now + wait);
        self.announcer.hurry(now);
        if !cx.tracker_up {
            self.ask_around(cx);
            self.seek(cx, now);
        }
    }

    /// No tracker tells who takes part: everybody we have a link with is asked.
    pub(crate) fn ask_around(&mut self, cx: &mut Context) {
        let live: Vec<PeerIx> = cx
            .peers
            .iter()
            .filter(|(_, peer)| peer.is_live())
            .map(|(ix, _)| ix)
            .collect();
        for peer in live {
            self.join(peer, cx);
        }
    }

    pub(crate) fn unwant(&mut self, reader: crate::ReaderId, now: Instant) {
        self.readers.leave(reader);
        if self.readers.is_empty() && self.idle_since.is_none() {
            self.idle_since = Some(now);
        }
    }

    pub(crate) fn read_advanced(&mut self, reader: crate::ReaderId, at: u64) {
        self.readers.advance(reader, at);
    }

    /// A tracker named peers.
    pub(crate) fn handed(
        &mut self,
        info: Option<&BlobInfo>,
        peers: &[Candidate],
        injected: bool,
        cx: &mut Context,
        now: Instant,
    ) {
        if self.stage == Stage::Gone {
            return;
        }
        if let Some(info) = info {
            self.learn(info, cx, now);
        }
        let agents = peers
            .iter()
            .filter(|candidate| candidate.role == Role::Agent)
            .count();
        let promising = injected
            || peers
                .iter()
                .any(|candidate| candidate.held > 0 || candidate.seeding);
        for candidate in peers.iter().take(limits::HANDOUT_PEERS_MAX) {
            if candidate.peer == cx.options.me {
                continue;
            }
            let ix = cx
                .peers
                .intern(candidate.peer, candidate.role, &candidate.zone, now);
            cx.peers.get_mut(ix).addr = Some(candidate.addr);
            // A swarm that is well under way needs no further agent at the origin's link.
            if candidate.role == Role::Origin && injected && agents >= limits::NEIGHBOURS {
                continue;
            }
            self.consider(ix, cx);
        }
        self.dial_candidates(cx, now);
        if self.sourcing.opening == Opening::Idle && self.info.is_none() {
            let wait = if promising {
                limits::HOLDERS_PATIENCE
            } else {
                Duration::ZERO
            };
            self.sourcing.not_before = Some(now + wait);
        }
        // What is due now is done now: the first byte waits for it.
        self.seek(cx, now);
    }

    fn consider(&mut self, peer: PeerIx, cx: &mut Context) {
        if cx.peers.get(peer).is_live() {
            self.join(peer, cx);
        }
        if !self.candidates.contains(&peer) && self.candidates.len() < limits::CANDIDATES_MAX {
            self.candidates.push(peer);
            let ix = self.ix;
            let at = cx.peers.get_mut(peer);
            if !at.swarms.contains(&ix) {
                at.swarms.push(ix);
            }
        }
    }

    /// Dials as many as make up a neighbourhood.
    pub(crate) fn dial_candidates(&mut self, cx: &mut Context, now: Instant) {
        if self.stage == Stage::Seeding || cx.is_origin() || !self.is_wanted() {
            return;
        }
        let mut near = self.neighbours.len();
        for candidate in &self.candidates {
            let is_origin = cx.peers.get(*candidate).role == Role::Origin;
            if self.neighbours.get(*candidate).is_some()
                || (near >= limits::NEIGHBOURS && !is_origin)
            {
                continue;
            }
            if cx.dial(*candidate, None, now) {
                near += 1;
            }
        }
    }

    /// An origin answered.
    pub(crate) fn opened(
        &mut self,
        origin: PeerId,
        result: Result<BlobInfo, Refusal>,
        cx: &mut Context,
        now: Instant,
    ) {
        if self.sourcing.opening == Opening::Asked(origin) {
            self.sourcing.opening = Opening::Idle;
        }
        match result {
            Ok(info) => {
                self.sourcing.tried.clear();
                self.sourcing.rounds = 0;
                self.sourcing.not_before = Some(now + limits::REOPEN_PAUSE);
                let addr = cx.origin_addr(&origin);
                let zone = cx.options.zone.clone();
                let ix = cx.peers.intern(origin, Role::Origin, &zone, now);
                if addr.is_some() {
                    cx.peers.get_mut(ix).addr = addr;
                }
                self.consider(ix, cx);
                if !cx.peers.get(ix).is_live() {
                    cx.dial(ix, addr, now);
                }
                self.learn(&info, cx, now);
            }
            Err(refusal) => {
                let hopeful = self.info.is_some()
                    && self.neighbours.iter().any(|neighbour| !neighbour.is_origin);
                if let Some(reason) = Self::final_reason(&refusal).filter(|_| !hopeful) {
                    return self.fail(reason, cx);
                }
                self.sourcing.tried.push(origin);
                self.sourcing.not_before = Some(now);
                if cx
                    .origins
                    .iter()
                    .all(|known| self.sourcing.tried.contains(&known.peer))
                {
                    self.sourcing.tried.clear();
                    let pause = limits::REOPEN_BACKOFF * (1 << self.sourcing.rounds.min(5));
                    self.sourcing.rounds += 1;
                    let pause = refusal
                        .retry_after
                        .min(limits::RETRY_AFTER_MAX)
                        .max(cx.jitter(pause));
                    self.sourcing.not_before = Some(now + pause);
                }
                self.seek(cx, now);
            }
        }
    }

    /// Looks whether a source must be found, or the search given up.
    pub(super) fn seek(&mut self, cx: &mut Context, now: Instant) {
        let Some(began) = self.sourcing.began else {
            return;
        };
        if !matches!(self.stage, Stage::Seeking | Stage::Leeching) || self.readers.is_empty() {
            return;
        }
        let quiet = self.sourcing.since_progress(now);
        if self.info.is_some()
            && quiet >= limits::STARVING_AFTER
            && !self.sourcing.starving
            && !cx.is_origin()
        {
            self.sourcing.starving = true;
            self.announcer.hurry(now);
            if !cx.tracker_up {
                self.ask_around(cx);
            }
        }
        if self.sourcing.starving {
            // Again and again: the pause after a lost link or a failed dial may have been over since the last look.
            self.dial_candidates(cx, now);
        }
        if self.must_open(cx, now) {
            self.open_next(cx);
        }
        let asked = self.sourcing.opening != Opening::Idle;
        let waited = now.saturating_duration_since(began);
        let tried_all = self.sourcing.rounds > 0 || cx.origins.is_empty() || cx.is_origin();
        if self.info.is_none() && !asked && tried_all && waited >= limits::NO_SOURCE_AFTER {
            return self.fail(FailReason::NoSource, cx);
        }
        if self.info.is_some() && !cx.is_origin() && quiet >= limits::NO_PROGRESS_MAX && !asked {
            self.fail(FailReason::NoSource, cx);
        }
    }

    fn must_open(&self, cx: &Context, now: Instant) -> bool {
        let hungry = self.info.is_none()
            || (self.sourcing.starving && self.transfers.iter().all(|transfer| transfer.plea));
        hungry
            && !cx.is_origin()
            && self.sourcing.opening == Opening::Idle
            && self.sourcing.not_before.is_none_or(|at| at <= now)
    }

    /// Asks the next origin in the order of the ring.
    fn open_next(&mut self, cx: &mut Context) {
        let owners = ring::owners(&self.digest, cx.origins.iter().map(|origin| &origin.peer));
        let Some(owner) = owners
            .into_iter()
            .find(|owner| !self.sourcing.tried.contains(owner))
        else {
            return;
        };
        self.sourcing.opening = Opening::Asked(owner);
        cx.act(Action::Open {
            digest: self.digest,
            origin: owner,
        });
    }

    pub(super) fn next_seek(&self, cx: &Context, now: Instant) -> Option<Instant> {
        let began = self.sourcing.began?;
        if !matches!(self.stage, Stage::Seeking | Stage::Leeching) || self.readers.is_empty() {
            return None;
        }
        let again = now + limits::SEEK_AGAIN;
        let later = |at: Instant| if at <= now { again } else { at };
        let mut due = if self.info.is_none() {
            later(began + limits::NO_SOURCE_AFTER)
        } else if self.sourcing.starving {
            later(self.sourcing.last_progress + limits::NO_PROGRESS_MAX).min(again)
        } else {
            later(self.sourcing.last_progress + limits::STARVING_AFTER)
        };
        let open_at = self.sourcing.not_before.unwrap_or(now);
        if self.sourcing.opening == Opening::Idle
            && !cx.is_origin()
            && (self.info.is_none() || self.sourcing.starving)
        {
            due = due.min(later(open_at));
        }
        Some(due)
    }
}
