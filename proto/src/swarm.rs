//! One blob: who takes part, what is held, what is asked for, what is served.
//!
//! A swarm is changed only through these methods, each of which gets what all swarms share as a [`Context`]. It
//! never fails halfway: a method leaves the swarm consistent, and what is to be done stands in the action queue.
//! When a swarm is over, it says so by `Stage::Gone`, and the node removes it.
//!
//! Not here: links (`node::links`), the order in which swarms get their turn (`node`).

mod announcer;
mod gossip;
mod ledger;
pub(crate) mod neighbours;
mod offers;
pub(crate) mod pace;
mod picker;
pub(crate) mod pieces;
mod pipeline;
mod readers;
mod serving;
pub(crate) mod slots;
mod sourcing;

use std::time::Duration;

use crate::node::action::{Action, FailReason, SwarmState};
use crate::node::context::Context;
use crate::node::peers::PeerIx;
use crate::wire::{PeerMessage, RefusalCode};
use crate::{Bitfield, BlobInfo, Digest, Instant, PieceIndex, limits};

use self::announcer::Announcer;
use self::ledger::Ledger;
use self::neighbours::Neighbours;
use self::pieces::Pieces;
use self::pipeline::Transfer;
use self::readers::Readers;
use self::sourcing::Sourcing;

pub(crate) use self::serving::refuse;

/// A swarm's number in this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SwarmIx(pub(crate) u32);

/// How far a swarm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Every piece is held; the whole digest is being checked.
    Committing,
    /// Over: the node removes it.
    Gone,
    /// The shape is known and pieces are missing.
    Leeching,
    /// Committed.
    Seeding,
    /// Not even the shape is known.
    Seeking,
}

/// One blob, in one process.
#[derive(Debug)]
pub(crate) struct Swarm {
    pub(crate) ix: SwarmIx,
    pub(crate) digest: Digest,
    pub(crate) stage: Stage,
    info: Option<BlobInfo>,
    pieces: Option<Pieces>,
    neighbours: Neighbours,
    /// Named to us for this swarm; dialed while neighbours are few.
    candidates: Vec<PeerIx>,
    readers: Readers,
    transfers: Vec<Transfer>,
    sourcing: Sourcing,
    /// The piece that an origin was last asked for without having offered it.
    plea: Option<PieceIndex>,
    announcer: Announcer,
    ledger: Option<Ledger>,
    /// Offers of ours that the count over all swarms includes.
    counted_offers: usize,
    /// Told by then, the news that could wait.
    flush_at: Option<Instant>,
    /// The same for origins, which can wait longer.
    origin_flush_at: Option<Instant>,
    /// The same for other zones, which must wait, and how much of our log they may hear of then.
    foreign_flush_at: Option<Instant>,
    foreign_news: usize,
    /// Bytes that were, or may be, fetched twice.
    hedged_bytes: u64,
    /// Nobody reads it since.
    idle_since: Option<Instant>,
    /// The driver was told to forget it.
    closed: bool,
    /// A timer will fire no later than this.
    armed: Option<Instant>,
}

impl Swarm {
    pub(crate) fn new(ix: SwarmIx, digest: Digest, now: Instant) -> Self {
        Self {
            ix,
            digest,
            stage: Stage::Seeking,
            info: None,
            pieces: None,
            neighbours: Neighbours::default(),
            candidates: Vec::new(),
            readers: Readers::default(),
            transfers: Vec::new(),
            sourcing: Sourcing::new(now),
            plea: None,
            announcer: Announcer::new(now),
            ledger: None,
            counted_offers: 0,
            flush_at: None,
            origin_flush_at: None,
            foreign_flush_at: None,
            foreign_news: 0,
            hedged_bytes: 0,
            idle_since: Some(now),
            closed: false,
            armed: None,
        }
    }

    pub(crate) fn info(&self) -> Option<&BlobInfo> {
        self.info.as_ref()
    }

    pub(crate) fn held_count(&self) -> u32 {
        self.pieces.as_ref().map_or(0, Pieces::held_count)
    }

    pub(crate) fn neighbour_count(&self) -> usize {
        self.neighbours.len()
    }

    /// How many pieces a neighbour still lacks at most, by its own words; `None` where it is no neighbour or wants none.
    pub(crate) fn lacks(&self, peer: PeerIx) -> Option<u32> {
        let (neighbour, pieces) = (self.neighbours.get(peer)?, self.pieces.as_ref()?);
        let lacks = pieces.count().saturating_sub(neighbour.held());
        (neighbour.interested && lacks > 0).then_some(lacks)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.transfers.len()
    }

    /// Still wants pieces from others.
    pub(crate) fn is_leeching(&self) -> bool {
        self.stage == Stage::Leeching
    }

    /// The state as the tracker is told it.
    pub(crate) fn state(&self) -> SwarmState {
        match self.stage {
            Stage::Seeking | Stage::Leeching => SwarmState::Leeching,
            Stage::Committing | Stage::Seeding => SwarmState::Seeding,
            Stage::Gone => SwarmState::Left,
        }
    }

    /// The shape is known, from whoever told it. A shape that disagrees with ours is ignored.
    pub(crate) fn learn(&mut self, info: &BlobInfo, cx: &mut Context, now: Instant) {
        if self.info.is_some() || self.stage == Stage::Gone {
            return;
        }
        self.adopt(info, cx);
        self.stage = Stage::Leeching;
        self.sourcing.progress(now);
        if !cx.is_origin() {
            cx.act(Action::Learned { info: *info });
        }
        self.share_shape(cx);
        self.announcer.hurry(now);
        if self.pieces.as_ref().is_some_and(Pieces::is_complete) {
            self.commit(cx);
        }
    }

    fn adopt(&mut self, info: &BlobInfo, cx: &Context) {
        let mut pieces = Pieces::new(info.geometry);
        for neighbour in self.neighbours.iter_mut() {
            neighbour.settle(info.geometry, &mut pieces);
        }
        if cx.is_origin() {
            self.ledger = Some(Ledger::new(info.geometry.piece_count()));
        }
        self.pieces = Some(pieces);
        self.info = Some(*info);
    }

    /// What the store holds of it.
    pub(crate) fn load(
        &mut self,
        info: &BlobInfo,
        held: &Bitfield,
        complete: bool,
        cx: &mut Context,
        now: Instant,
    ) {
        if self.info.is_none() {
            self.adopt(info, cx);
            self.stage = Stage::Leeching;
        }
        if self.info.is_some_and(|ours| ours.geometry != info.geometry) {
            return;
        }
        for piece in held.iter() {
            if self
                .pieces
                .as_mut()
                .is_some_and(|pieces| pieces.hold(piece))
                && let Some(ledger) = self.ledger.as_mut()
            {
                ledger.arrived(piece);
            }
        }
        if complete {
            self.stage = Stage::Seeding;
        } else if self.stage == Stage::Leeching
            && self.pieces.as_ref().is_some_and(Pieces::is_complete)
        {
            self.commit(cx);
        }
        self.share_shape(cx);
        self.announcer.hurry(now);
    }

    /// A piece is verified and stored, wherever it came from. `brought`: by an origin.
    fn held(&mut self, piece: PieceIndex, brought: bool, cx: &mut Context, now: Instant) {
        let Some(pieces) = self.pieces.as_mut() else {
            return;
        };
        if !pieces.hold(piece) {
            return;
        }
        let (held, count) = (pieces.held_count(), pieces.count());
        self.cancel_fetches_of(piece, cx, now);
        cx.act(Action::Hold {
            digest: self.digest,
            piece,
        });
        self.sourcing.progress(now);
        self.announcer.milestone(held, count, now);
        if let Some(ledger) = self.ledger.as_mut() {
            ledger.arrived(piece);
        }
        self.tell_news(piece, brought, cx, now);
        if held == count && self.stage == Stage::Leeching && !cx.is_origin() {
            self.flush_news(cx);
            self.flush_to_origins(cx);
            self.plan_last_flush_abroad(cx, now);
            self.commit(cx);
        }
    }

    /// Origin: a piece came from upstream.
    pub(crate) fn ingested(&mut self, piece: PieceIndex, cx: &mut Context, now: Instant) {
        let known = self
            .pieces
            .as_ref()
            .and_then(|pieces| pieces.geometry().piece(piece.get()));
        if let Some(piece) = known {
            self.held(piece, false, cx, now);
        }
    }

    fn commit(&mut self, cx: &mut Context) {
        self.stage = Stage::Committing;
        cx.act(Action::Commit {
            digest: self.digest,
        });
    }

    /// The store committed the blob.
    pub(crate) fn completed(&mut self, now: Instant) {
        if self.stage != Stage::Gone {
            self.stage = Stage::Seeding;
            self.idle_since = self.readers.is_empty().then_some(now);
            self.announcer.hurry(now);
        }
    }

    /// The blob cannot be had: readers fail, everybody is told that we leave.
    pub(crate) fn fail(&mut self, reason: FailReason, cx: &mut Context) {
        if self.stage != Stage::Gone {
            cx.act(Action::Failed {
                digest: self.digest,
                reason,
            });
            self.leave(cx);
        }
    }

    /// Takes part no more.
    pub(crate) fn leave(&mut self, cx: &mut Context) {
        if self.stage == Stage::Gone {
            return;
        }
        for transfer in std::mem::take(&mut self.transfers) {
            transfer.forget(cx);
            cx.act(Action::CancelFetch {
                transfer: transfer.id,
            });
        }
        for neighbour in self.neighbours.iter() {
            if neighbour.told_interest || neighbour.interested {
                cx.say(
                    neighbour.peer,
                    PeerMessage::Leave {
                        digest: self.digest,
                    },
                );
            }
        }
        self.stage = Stage::Gone;
        self.announce(false, cx);
    }

    /// Origin: upstream's bytes are another blob.
    pub(crate) fn poisoned(&mut self, cx: &mut Context) {
        for neighbour in self.neighbours.iter() {
            cx.say(
                neighbour.peer,
                PeerMessage::Gone {
                    digest: self.digest,
                },
            );
        }
        self.fail(FailReason::Poisoned, cx);
    }

    /// A link is gone: its pieces, fetches and offers with it.
    pub(crate) fn lost(&mut self, peer: PeerIx, cx: &mut Context) {
        if let Some(mut neighbour) = self.neighbours.remove(peer)
            && let Some(pieces) = self.pieces.as_mut()
        {
            neighbour.withdraw(pieces);
        }
        let mut lost = Vec::new();
        self.transfers.retain(|transfer| {
            let keep = transfer.peer != peer;
            if !keep {
                lost.push(*transfer);
            }
            keep
        });
        for transfer in lost {
            transfer.forget(cx);
            self.release(transfer.piece);
        }
        if let (Some(ledger), Some(pieces)) = (self.ledger.as_mut(), self.pieces.as_ref()) {
            ledger.lost(peer, |piece| pieces.holders(piece) > 0);
        }
    }

    /// Not a candidate any more either.
    pub(crate) fn forget(&mut self, peer: PeerIx) {
        self.candidates.retain(|candidate| *candidate != peer);
    }

    /// Does what is due, and says when to come back.
    pub(crate) fn tick(&mut self, cx: &mut Context, now: Instant) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_news(cx);
        }
        if self.origin_flush_at.is_some_and(|at| at <= now) {
            self.flush_to_origins(cx);
        }
        if self.foreign_flush_at.is_some_and(|at| at <= now) {
            self.flush_abroad(cx, now);
        }
        self.hedge(cx, now);
        self.seek(cx, now);
        self.recall_offers(cx, now);
        self.announce_if_due(cx, now);
        self.close_if_idle(cx, now);
    }

    fn close_if_idle(&mut self, cx: &mut Context, now: Instant) {
        let over = self
            .idle_since
            .is_some_and(|since| since + limits::UNWANTED_GRACE <= now);
        if !over || self.closed || cx.is_origin() {
            return;
        }
        match self.stage {
            Stage::Seeding => {
                self.closed = true;
                cx.act(Action::Closed {
                    digest: self.digest,
                });
            }
            // What was loaded at start and never wanted since has nobody to forget; it stays to be given away.
            Stage::Leeching | Stage::Seeking if self.readers.were_any() => {
                cx.act(Action::Closed {
                    digest: self.digest,
                });
                self.leave(cx);
            }
            Stage::Committing | Stage::Gone | Stage::Leeching | Stage::Seeking => {}
        }
    }

    /// Makes sure that a timer fires when something is due.
    pub(crate) fn arm(&mut self, cx: &mut Context, now: Instant) {
        let idle = (!self.closed && !cx.is_origin())
            .then(|| self.idle_since.map(|since| since + limits::UNWANTED_GRACE))
            .flatten()
            .filter(|at| *at > now);
        let due = [
            self.flush_at,
            self.origin_flush_at,
            self.foreign_flush_at,
            self.next_hedge(cx, now),
            self.next_ask(cx, now),
            self.next_seek(cx, now),
            self.next_recall(cx),
            self.announcer.due(),
            idle,
        ]
        .into_iter()
        .flatten()
        .min();
        let Some(due) = due else { return };
        let due = due.max(now + Duration::from_micros(100));
        if self.armed.is_none_or(|armed| due < armed || armed <= now) {
            self.armed = Some(due);
            cx.wake_at(due, self.ix);
        }
    }

    /// A timer of this swarm fired. Says whether it is one that still counts.
    pub(crate) fn woken(&mut self, now: Instant) -> bool {
        let counts = self.armed.is_some_and(|armed| armed <= now);
        if counts {
            self.armed = None;
        }
        counts
    }

    /// Wants pieces and somebody to wait for them.
    fn is_wanted(&self) -> bool {
        !self.readers.is_empty() || self.idle_since.is_some_and(|_| self.readers.were_any())
    }

    /// Reasons to fail at once, told by an origin.
    fn final_reason(refusal: &crate::wire::Refusal) -> Option<FailReason> {
        match refusal.code {
            RefusalCode::NotFound => Some(FailReason::NotFound(refusal.clone())),
            RefusalCode::Denied => Some(FailReason::Denied(refusal.clone())),
            RefusalCode::Busy
            | RefusalCode::Injected
            | RefusalCode::NotHeld
            | RefusalCode::Unavailable
            | RefusalCode::Leaving
            | RefusalCode::BadRequest => None,
        }
    }
}
