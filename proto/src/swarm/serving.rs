//! Requests of others: serve, or refuse at once with a reason, a time and other holders (D5).
//!
//! Not here: the slots themselves (`slots`), whom an origin offers what (`offers`).

use std::time::Duration;

use crate::node::action::Action;
use crate::node::context::Context;
use crate::node::input::RequestId;
use crate::node::peers::PeerIx;
use crate::swarm::slots::{Bid, Upload};
use crate::wire::{Refusal, RefusalCode};
use crate::{Instant, PeerId, PieceIndex, limits};

use super::Swarm;
use super::ledger::Gift;

/// A no without a swarm behind it.
pub(crate) fn refuse(
    request: RequestId,
    code: RefusalCode,
    retry_after: Duration,
    cx: &mut Context,
) {
    let refusal = Refusal {
        retry_after,
        ..Refusal::new(code)
    };
    cx.act(Action::Refuse { request, refusal });
}

impl Swarm {
    /// A peer asks for a piece.
    pub(crate) fn asked(
        &mut self,
        request: RequestId,
        peer: PeerIx,
        index: u32,
        cx: &mut Context,
        now: Instant,
    ) {
        self.join(peer, cx);
        let Some(pieces) = self.pieces.as_ref() else {
            return refuse(request, RefusalCode::NotHeld, limits::RETRY_AFTER_GUESS, cx);
        };
        let Some(piece) = pieces.geometry().piece(index) else {
            cx.culprits.push(peer);
            return refuse(request, RefusalCode::BadRequest, Duration::ZERO, cx);
        };
        if !pieces.held().contains(piece) {
            let refusal = self.refusal(
                RefusalCode::NotHeld,
                limits::NOT_HELD_PAUSE,
                piece,
                peer,
                cx,
            );
            return cx.act(Action::Refuse { request, refusal });
        }
        if cx.is_origin() {
            return self.asked_of_origin(request, peer, piece, cx, now);
        }
        let swarm = self.ix;
        match cx.slots.admit(Bid { peer, swarm }, &cx.peers, now) {
            Ok(()) => self.serve(request, peer, piece, cx, now),
            Err(retry_after) => {
                let refusal = self.refusal(RefusalCode::Busy, retry_after, piece, peer, cx);
                cx.act(Action::Refuse { request, refusal });
            }
        }
    }

    /// An origin has kept a slot for what it offered; everything else must find room beside that.
    fn asked_of_origin(
        &mut self,
        request: RequestId,
        peer: PeerIx,
        piece: PieceIndex,
        cx: &mut Context,
        now: Instant,
    ) {
        let on_time = cx.slots.on_time(now);
        let offered =
            self.ledger.as_ref().map(|ledger| ledger.gift(piece)) == Some(Gift::Offered(peer));
        let full = cx.slots.uploads().len() >= limits::ORIGIN_UPLOADS_MAX;
        let refusal = if offered && !full {
            None
        } else if let Err(pause) = self.permit(piece, peer, cx, now) {
            Some((RefusalCode::Injected, pause))
        } else if full
            || on_time + cx.offered >= limits::OFFERS_MAX
            || cx.slots.keeps_waiting(peer, now)
        {
            Some((
                RefusalCode::Busy,
                cx.slots
                    .next_free(&cx.peers, now)
                    .max(limits::RETRY_AFTER_MIN),
            ))
        } else {
            None
        };
        match refusal {
            None => self.serve(request, peer, piece, cx, now),
            Some((code, retry_after)) => {
                let refusal = self.refusal(code, retry_after, piece, peer, cx);
                cx.act(Action::Refuse { request, refusal });
            }
        }
    }

    fn serve(
        &mut self,
        request: RequestId,
        peer: PeerIx,
        piece: PieceIndex,
        cx: &mut Context,
        now: Instant,
    ) {
        let bytes = self
            .info
            .map_or(0, |info| u64::from(info.geometry.len_of(piece)));
        cx.slots
            .start(request, peer, self.ix, (piece, bytes), &cx.peers, now);
        let second_by = self.second_copy_by(cx, now) + self.four_pieces(cx);
        if let Some(ledger) = self.ledger.as_mut() {
            if ledger.gift(piece) == Gift::Offered(peer)
                && let Some(neighbour) = self.neighbours.get_mut(peer)
            {
                neighbour.offers = neighbour.offers.saturating_sub(1);
                neighbour.declined = 0;
                neighbour.rests_until = None;
            }
            ledger.give(piece, peer, second_by);
            ledger.answered(peer, piece);
        }
        if let Some(neighbour) = self.neighbours.get_mut(peer) {
            neighbour.given += 1;
        }
        cx.act(Action::Serve {
            request,
            digest: self.digest,
            piece,
        });
    }

    /// Origin: whether this piece may go to this agent now; else, when to ask again.
    fn permit(
        &mut self,
        piece: PieceIndex,
        peer: PeerIx,
        cx: &Context,
        now: Instant,
    ) -> Result<(), Duration> {
        let few = self.agents() < limits::FEW_AGENTS && !self.is_seeded();
        let (Some(ledger), Some(pieces)) = (self.ledger.as_mut(), self.pieces.as_ref()) else {
            return Ok(());
        };
        let other_holders = pieces.holders(piece)
            > u16::from(
                self.neighbours
                    .get(peer)
                    .is_some_and(|asker| asker.has(piece)),
            );
        let in_good_hands = match ledger.gift(piece) {
            Gift::Absent | Gift::Fresh => false,
            // On its way: the receiver will announce it soon, or it becomes fresh again.
            Gift::Offered(to) | Gift::Given(to) => to != peer,
            Gift::Spread => {
                other_holders
                    && !ledger.is_plea(peer, piece, now)
                    && !ledger.is_doubted(piece, peer)
            }
        };
        let would_idle = few && cx.slots.uploads().is_empty();
        if !in_good_hands || would_idle {
            return Ok(());
        }
        ledger.refused(peer, piece, now + limits::INJECTED_PAUSE);
        Err(limits::INJECTED_PAUSE)
    }

    fn refusal(
        &self,
        code: RefusalCode,
        retry_after: Duration,
        piece: PieceIndex,
        asker: PeerIx,
        cx: &mut Context,
    ) -> Refusal {
        let count = self.neighbours.len();
        let start = if count == 0 { 0 } else { cx.rng.usize(..count) };
        let mut holders: Vec<PeerId> = Vec::new();
        if let Some(Gift::Given(to)) = self.ledger.as_ref().map(|ledger| ledger.gift(piece))
            && to != asker
        {
            holders.push(cx.peers.get(to).id);
        }
        let others = (0..count)
            .map(|step| self.neighbours.at((start + step) % count))
            .filter(|other| other.peer != asker && !other.is_origin && other.has(piece))
            .map(|other| cx.peers.get(other.peer).id);
        for other in others {
            if holders.len() == limits::REFUSAL_HOLDERS_MAX {
                break;
            }
            if !holders.contains(&other) {
                holders.push(other);
            }
        }
        Refusal {
            retry_after,
            holders,
            ..Refusal::new(code)
        }
    }

    /// An upload of this swarm came to its end.
    pub(crate) fn served(&mut self, upload: &Upload, sent: bool, cx: &mut Context, now: Instant) {
        let by = self.second_copy_by(cx, now);
        if let Some(ledger) = self.ledger.as_mut() {
            if sent {
                ledger.delivered(upload.piece, upload.peer, by);
            } else {
                ledger.broken_off(upload.piece, upload.peer);
            }
        }
        if sent && let Some(neighbour) = self.neighbours.get_mut(upload.peer) {
            neighbour.said_held = neighbour.said_held.saturating_add(1);
        }
        if self.idle_since.is_some() {
            self.idle_since = Some(now);
        }
    }
}
