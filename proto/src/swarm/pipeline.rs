//! Fetches under way: what is in flight from whom, what came of it, and whom to ask instead (D8).
//!
//! A source whose turn has brought nothing for a few turns, while others brought something, is late: it is no longer one
//! of those that we count on, and another is asked for other pieces. A fetch that takes much longer than fetches do is
//! asked of a second peer, and of one more when that is late too; whoever is first wins, the others are cancelled, and who
//! was late is left alone for a while. What that may cost is bounded: hedges are issued for at most 3 % of the blob.
//!
//! Not here: which piece (`picker`), what a peer's failure costs it beyond its rate (`trust` in the node).

use crate::node::action::Action;
use crate::node::context::Context;
use crate::node::input::{FetchFailure, TransferId};
use crate::node::peers::{Peer, PeerIx};
use crate::wire::{Refusal, RefusalCode};
use crate::{Instant, PeerId, PieceIndex, Role, limits};

use super::picker::may_ask;
use super::{Stage, Swarm};

/// One fetch under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) id: TransferId,
    pub(crate) peer: PeerIx,
    pub(crate) piece: PieceIndex,
    pub(crate) asked: Instant,
    pub(crate) bytes: u64,
    /// Agents that pieces came from when it was asked.
    sources: usize,
    /// A second fetch of a piece that is being fetched already.
    hedge: bool,
    /// Asked of an origin that did not offer it.
    pub(crate) plea: bool,
}

impl Transfer {
    /// Takes it out of what all swarms share.
    pub(crate) fn forget(&self, cx: &mut Context) {
        cx.transfers.remove(&self.id);
        cx.in_flight = cx.in_flight.saturating_sub(1);
        cx.peers.end_fetch(self.peer, self.bytes);
    }
}

impl Swarm {
    pub(super) fn fetch(
        &mut self,
        at: usize,
        piece: PieceIndex,
        hedge: bool,
        cx: &mut Context,
        now: Instant,
    ) {
        let Some(pieces) = self.pieces.as_mut() else {
            return;
        };
        if !hedge {
            pieces.request(piece);
        }
        let neighbour = self.neighbours.at(at);
        let bytes = u64::from(pieces.geometry().len_of(piece));
        let (ix, plea) = (neighbour.peer, neighbour.is_origin && !neighbour.has(piece));
        if plea {
            self.plea = Some(piece);
        }
        let id = cx.new_transfer(self.ix);
        cx.in_flight += 1;
        cx.peers.begin_fetch(ix, bytes, now);
        let peer = cx.peers.get(ix).id;
        let sources = cx.peers.sources();
        self.transfers.push(Transfer {
            id,
            peer: ix,
            piece,
            asked: now,
            bytes,
            sources,
            hedge,
            plea,
        });
        cx.act(Action::Fetch {
            transfer: id,
            peer,
            digest: self.digest,
            piece,
        });
    }

    fn take(&mut self, id: TransferId) -> Option<Transfer> {
        let at = self
            .transfers
            .iter()
            .position(|transfer| transfer.id == id)?;
        Some(self.transfers.remove(at))
    }

    pub(crate) fn fetched(&mut self, id: TransferId, cx: &mut Context, now: Instant) {
        let Some(transfer) = self.take(id) else {
            return;
        };
        let sources = (cx.peers.sources() + transfer.sources).div_ceil(2);
        cx.peers.set_late(transfer.peer, false);
        transfer.forget(cx);
        let peer = cx.peers.get_mut(transfer.peer);
        let turn = now.saturating_duration_since(transfer.asked.max(peer.began));
        peer.download.sample(transfer.bytes, turn);
        peer.began = now;
        peer.last_fetched = now;
        peer.last_useful = now;
        peer.stalls = 0;
        let from_origin = peer.role == Role::Origin;
        let near = peer.zone == cx.options.zone;
        let span = now.saturating_duration_since(transfer.asked);
        cx.pace.fetched(transfer.bytes, span, turn, sources, now);
        if transfer.hedge {
            self.hedged_bytes = self.hedged_bytes.saturating_sub(transfer.bytes / 2);
        }
        self.held(transfer.piece, from_origin || !near, cx, now);
    }

    /// The piece is held: whoever else was asked for it need not send it.
    pub(super) fn cancel_fetches_of(&mut self, piece: PieceIndex, cx: &mut Context, now: Instant) {
        let losers: Vec<Transfer> = self
            .transfers
            .iter()
            .filter(|other| other.piece == piece)
            .copied()
            .collect();
        for loser in losers {
            self.give_up(loser, cx, now);
        }
    }

    /// What is asked of this peer is not needed any more, or not awaited.
    fn give_up(&mut self, transfer: Transfer, cx: &mut Context, now: Instant) {
        self.take(transfer.id);
        let late = cx.peers.get(transfer.peer).late;
        transfer.forget(cx);
        if late {
            // Or it would be asked again at once, and again replaced at the cost of a hedge.
            self.stalled(transfer.peer, cx, now);
        }
        cx.act(Action::CancelFetch {
            transfer: transfer.id,
        });
    }

    pub(crate) fn fetch_failed(
        &mut self,
        id: TransferId,
        failure: FetchFailure,
        cx: &mut Context,
        now: Instant,
    ) {
        let Some(transfer) = self.take(id) else {
            return;
        };
        transfer.forget(cx);
        self.release(transfer.piece);
        if transfer.hedge {
            self.hedged_bytes = self.hedged_bytes.saturating_sub(transfer.bytes);
        }
        match failure {
            FetchFailure::BadProof | FetchFailure::Corrupt => cx.culprits.push(transfer.peer),
            FetchFailure::Refused(refusal) => self.refused(&transfer, &refusal, cx, now),
            FetchFailure::StoreFailed => {
                self.sourcing.store_failed();
                if self.sourcing.store_is_broken() {
                    self.fail(crate::node::action::FailReason::StoreFailed, cx);
                } else {
                    cx.peers
                        .get_mut(transfer.peer)
                        .avoid(now + limits::STALL_PAUSE);
                }
            }
            FetchFailure::TimedOut => self.stalled(transfer.peer, cx, now),
            FetchFailure::Lost | FetchFailure::Unvouched => {
                if failure == FetchFailure::Lost {
                    // As likely as not its link is at its end, and every other question would fail as soon.
                    let peer = cx.peers.get_mut(transfer.peer);
                    peer.avoid(now + limits::RETRY_AFTER_GUESS);
                }
                if let Some(neighbour) = self.neighbours.get_mut(transfer.peer) {
                    neighbour.hold_off(transfer.piece, now + limits::STALL_PAUSE, now);
                }
            }
        }
    }

    /// A requested piece that nobody is being asked for any more is missing again.
    pub(super) fn release(&mut self, piece: PieceIndex) {
        if self
            .transfers
            .iter()
            .all(|transfer| transfer.piece != piece)
            && let Some(pieces) = self.pieces.as_mut()
        {
            pieces.release(piece);
        }
    }

    /// A source let a fetch starve: it is asked again later, and seldom.
    fn stalled(&self, peer: PeerIx, cx: &mut Context, now: Instant) {
        let usual = cx.pace.usual_bytes_per_sec().unwrap_or(1e6);
        let at = cx.peers.get_mut(peer);
        at.stalls = at.stalls.saturating_add(1);
        at.download.punish(usual * 0.1);
        at.avoid(now + limits::STALL_PAUSE * (1 << at.stalls.min(5)));
    }

    fn refused(&mut self, transfer: &Transfer, refusal: &Refusal, cx: &mut Context, now: Instant) {
        let wait = refusal
            .retry_after
            .clamp(limits::RETRY_AFTER_MIN, limits::RETRY_AFTER_OBEYED);
        let span = now.saturating_duration_since(transfer.asked);
        let peer = cx.peers.get_mut(transfer.peer);
        peer.time_answer(span);
        match refusal.code {
            RefusalCode::Busy => peer.busy_until = peer.busy_until.max(Some(now + wait)),
            RefusalCode::Unavailable => peer.avoid(now + wait),
            RefusalCode::Leaving => peer.avoid(now + limits::RETRY_AFTER_OBEYED),
            RefusalCode::Injected
            | RefusalCode::NotHeld
            | RefusalCode::NotFound
            | RefusalCode::Denied
            | RefusalCode::BadRequest => {
                let wait = wait.max(limits::RETRY_AFTER_GUESS);
                if let (Some(neighbour), Some(pieces)) =
                    (self.neighbours.get_mut(transfer.peer), self.pieces.as_mut())
                {
                    neighbour.remove(transfer.piece, pieces);
                    neighbour.hold_off(transfer.piece, now + wait, now);
                }
            }
        }
        self.hint(transfer.piece, &refusal.holders, cx, now);
    }

    /// Others are said to hold the piece: neighbours are believed until they say no, strangers are dialed.
    fn hint(&mut self, piece: PieceIndex, holders: &[PeerId], cx: &mut Context, now: Instant) {
        let Some(pieces) = self.pieces.as_mut() else {
            return;
        };
        for holder in holders.iter().take(limits::REFUSAL_HOLDERS_MAX) {
            let Some(ix) = cx.peers.find(holder) else {
                continue;
            };
            if let Some(neighbour) = self.neighbours.get_mut(ix) {
                if !neighbour.is_held_off(piece, now) {
                    neighbour.add(piece, pieces);
                }
            } else if self.candidates.contains(&ix)
                && self.neighbours.len() < 2 * limits::NEIGHBOURS
            {
                cx.dial(ix, None, now);
            }
        }
    }

    /// When a fetch counts as late.
    fn late_at(&self, transfer: &Transfer, cx: &Context) -> Instant {
        let endgame = self
            .pieces
            .as_ref()
            .is_some_and(|pieces| pieces.missing_count() <= limits::ENDGAME_PIECES);
        let patience = match cx.pace.median(transfer.bytes) {
            Some(median) if endgame => median.mul_f64(1.5).max(limits::RETRY_AFTER_MIN),
            _ => cx.pace.hedge_after(transfer.bytes),
        };
        transfer.asked + patience
    }

    /// When its source counts as late. An origin never does: what it offers nobody else has.
    fn source_late_at(transfer: &Transfer, cx: &Context) -> Option<Instant> {
        let peer = cx.peers.get(transfer.peer);
        if peer.late || peer.role == Role::Origin {
            return None;
        }
        let bytes = peer.coming_bytes();
        let patience = if cx.pace.last_fetched() > peer.began {
            cx.pace.count_on_for(bytes)
        } else {
            // Nothing came from anybody: as likely as not it is we who are late.
            cx.pace.hedge_after(bytes).max(cx.pace.count_on_for(bytes))
        };
        Some(peer.began + patience)
    }

    /// Counts no longer on sources that are late, and asks for late pieces elsewhere.
    pub(super) fn hedge(&mut self, cx: &mut Context, now: Instant) {
        if self.stage != Stage::Leeching || self.transfers.is_empty() {
            return;
        }
        for transfer in &self.transfers {
            if Self::source_late_at(transfer, cx).is_some_and(|at| at <= now) {
                cx.peers.set_late(transfer.peer, true);
            }
        }
        let late: Vec<Transfer> = self
            .transfers
            .iter()
            .filter(|transfer| self.late_at(transfer, cx) <= now)
            .copied()
            .collect();
        for transfer in late {
            // Whoever was asked last may still be in time.
            let asked = || {
                self.transfers
                    .iter()
                    .filter(|other| other.piece == transfer.piece)
            };
            let awaited = asked().any(|other| self.late_at(other, cx) > now);
            if awaited
                || cx.in_flight >= limits::PIECES_IN_FLIGHT_MAX
                || !self.may_hedge(&transfer, cx, now)
            {
                continue;
            }
            let first = asked().min_by_key(|other| (other.asked, other.id)).copied();
            let full = asked().count() >= limits::ASKED_OF_MAX;
            let Some(at) = self.other_source(&transfer, cx, now) else {
                continue;
            };
            if let Some(first) = first.filter(|_| full) {
                self.give_up(first, cx, now);
            }
            self.hedged_bytes += transfer.bytes;
            self.fetch(at, transfer.piece, true, cx, now);
        }
    }

    /// Hedges are bounded by a share of the blob; a source that sends nothing at all is replaced in any case.
    fn may_hedge(&self, transfer: &Transfer, cx: &Context, now: Instant) -> bool {
        let Some(info) = self.info else { return false };
        let budget = (info.geometry.blob_bytes() / 100 * 3).max(2 * transfer.bytes);
        let age = now.saturating_duration_since(transfer.asked);
        let silent = now.saturating_duration_since(cx.peers.get(transfer.peer).last_fetched)
            >= limits::SILENT_AFTER;
        let stalled = age >= limits::SILENT_AFTER
            && silent
            && cx
                .pace
                .median(transfer.bytes)
                .is_some_and(|median| age > median.mul_f64(1.5));
        stalled || self.hedged_bytes + transfer.bytes <= budget
    }

    /// Who should be asked instead: whoever has sent something since the piece was asked for, and should be done first.
    fn other_source(&self, transfer: &Transfer, cx: &Context, now: Instant) -> Option<usize> {
        let usual = cx.pace.usual_bytes_per_sec();
        self.neighbours
            .iter()
            .enumerate()
            .filter(|(_, neighbour)| {
                let asked = |other: &Transfer| {
                    other.piece == transfer.piece && other.peer == neighbour.peer
                };
                !self.transfers.iter().any(asked)
                    && neighbour.has(transfer.piece)
                    && !neighbour.is_held_off(transfer.piece, now)
                    && may_ask(cx.peers.get(neighbour.peer), self.piece_bytes(), now)
            })
            .min_by(|(_, a), (_, b)| {
                let (a, b) = (cx.peers.get(a.peer), cx.peers.get(b.peer));
                let finish = |peer: &Peer| {
                    let rate = peer.download.bytes_per_sec().or(usual).unwrap_or(1e8);
                    (peer.queued_bytes() as f64 + transfer.bytes as f64) / rate
                };
                let silent = |peer: &Peer| peer.last_fetched <= transfer.asked;
                silent(a)
                    .cmp(&silent(b))
                    .then(finish(a).total_cmp(&finish(b)))
            })
            .map(|(at, _)| at)
    }

    /// When to look for late fetches again.
    pub(super) fn next_hedge(&self, cx: &Context, now: Instant) -> Option<Instant> {
        self.transfers
            .iter()
            .flat_map(|transfer| {
                let late = self.late_at(transfer, cx);
                let late = if late <= now {
                    now + limits::HEDGE_AGAIN
                } else {
                    late
                };
                [Some(late), Self::source_late_at(transfer, cx)]
            })
            .flatten()
            .min()
    }
}
