//! Whom to serve now: upload slots over all swarms, and how long a refused peer should stay away.
//!
//! A slot is a peer's, not a piece's. While one piece is sent, the peer may ask for the next, which waits behind it on
//! the same link: the uplink never waits for a question, however long the round trip. A few peers are served at once,
//! so that there is somebody to serve while one of them has nothing to ask for, or takes less than its share. A slot ends when its peer has nothing under
//! way, or after a number of pieces, when it has to be won anew like by anybody else; so pieces find new ways.
//!
//! More slots exist for those who do not cost the uplink its turn: peers too slow to fill one, and the first piece of
//! another blob.
//!
//! Who is refused comes back by itself after a while. Sooner, when a slot is free, one of those that were refused is told so:
//! the one that is furthest behind, so that all end together. Nothing is kept for it; whoever asks first is served.
//!
//! Not here: which piece is whose turn at an origin (`ledger`).

use std::collections::VecDeque;
use std::time::Duration;

use crate::node::input::RequestId;
use crate::node::peers::{PeerBook, PeerIx, Rate};
use crate::swarm::SwarmIx;
use crate::{Instant, PieceIndex, limits};

/// One piece on its way out, or waiting behind another to the same peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upload {
    pub(crate) request: RequestId,
    pub(crate) peer: PeerIx,
    pub(crate) swarm: SwarmIx,
    pub(crate) piece: PieceIndex,
    pub(crate) bytes: u64,
    since: Instant,
}

/// A peer that is being served.
#[derive(Clone, Copy, Debug)]
struct Slot {
    peer: PeerIx,
    slow: bool,
    /// Pieces that it was granted since it won the slot.
    pieces: u32,
    /// When the last of them had been sent: the one behind it is timed from here.
    sent: Instant,
}

/// What kind of request wants a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bid {
    pub(crate) peer: PeerIx,
    pub(crate) swarm: SwarmIx,
}

/// The uploads of this process, and the slots that they take. A peer has a slot exactly while it has an upload.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    uploads: Vec<Upload>,
    slots: Vec<Slot>,
    usual: Rate,
    refused: u32,
    /// Who was refused and has not been served since, oldest first; a few.
    waiting: VecDeque<(PeerIx, SwarmIx)>,
    /// Who was told of free slots, how often, and has not been served since, oldest first; a few.
    told: VecDeque<(PeerIx, u32)>,
}

impl Slots {
    pub(crate) fn uploads(&self) -> &[Upload] {
        &self.uploads
    }

    /// What one upload usually reaches, bytes per second.
    pub(crate) fn usual_bytes_per_sec(&self) -> Option<f64> {
        self.usual.bytes_per_sec()
    }

    /// Uploads to one peer.
    pub(crate) fn to_peer(&self, peer: PeerIx) -> usize {
        self.uploads
            .iter()
            .filter(|upload| upload.peer == peer)
            .count()
    }

    fn slot_of(&self, peer: PeerIx) -> Option<usize> {
        self.slots.iter().position(|slot| slot.peer == peer)
    }

    fn is_slow(&self, peers: &PeerBook, peer: PeerIx) -> bool {
        match (
            peers.get(peer).upload.bytes_per_sec(),
            self.usual.bytes_per_sec(),
        ) {
            (Some(rate), Some(usual)) => rate < 0.4 * usual,
            _ => false,
        }
    }

    /// A slot whose upload takes far longer than it should no longer counts against others.
    fn is_overdue(&self, slot: &Slot, now: Instant) -> bool {
        let usual = self.usual.bytes_per_sec();
        self.uploads
            .iter()
            .filter(|upload| upload.peer == slot.peer)
            .any(|upload| {
                let expected = usual.map_or(Duration::ZERO, |rate| {
                    Duration::from_secs_f64(4.0 * upload.bytes as f64 / rate)
                });
                now.saturating_duration_since(upload.since) > expected.max(limits::UPLOAD_OVERDUE)
            })
    }

    /// Whether this peer has an upload that takes far longer than it should.
    pub(crate) fn keeps_waiting(&self, peer: PeerIx, now: Instant) -> bool {
        self.slot_of(peer)
            .is_some_and(|at| self.is_overdue(&self.slots[at], now))
    }

    /// Uploads to those that do not.
    pub(crate) fn on_time(&self, now: Instant) -> usize {
        self.slots
            .iter()
            .filter(|slot| !self.is_overdue(slot, now))
            .map(|slot| self.to_peer(slot.peer))
            .sum()
    }

    /// Whether there is a slot for this bid; when not, how long to stay away.
    pub(crate) fn admit(
        &mut self,
        bid: Bid,
        peers: &PeerBook,
        now: Instant,
    ) -> Result<(), Duration> {
        if self.has_room(bid, peers, now) {
            return Ok(());
        }
        self.waiting.retain(|(peer, _)| *peer != bid.peer);
        if self.slot_of(bid.peer).is_none() {
            if self.waiting.len() >= limits::REFUSED_REMEMBERED_MAX {
                self.waiting.pop_front();
            }
            self.waiting.push_back((bid.peer, bid.swarm));
        }
        let wait = self.next_free(peers, now);
        // Each refused peer is sent a little further back, so that they do not all return for one slot.
        let behind = self.refused.min(limits::REFUSED_SPREAD_MAX);
        self.refused = self.refused.saturating_add(1);
        Err(wait
            .mul_f64(1.0 + 0.25 * f64::from(behind))
            .clamp(limits::RETRY_AFTER_MIN, limits::RETRY_AFTER_MAX))
    }

    fn has_room(&self, bid: Bid, peers: &PeerBook, now: Instant) -> bool {
        if self.uploads.len() >= limits::UPLOADS_MAX {
            return false;
        }
        // One blob does not wait for another: its first piece needs no more than a place.
        let is_first = self.uploads.iter().all(|upload| upload.swarm != bid.swarm);
        if let Some(at) = self.slot_of(bid.peer) {
            let depth = self.to_peer(bid.peer);
            return is_first && depth < limits::PIECES_IN_FLIGHT_PER_ORIGIN_MAX
                || depth < limits::SLOT_DEPTH && self.slots[at].pieces < limits::SLOT_PIECES;
        }
        if self.slots.len() >= limits::UPLOAD_SLOTS_MAX {
            return false;
        }
        let on_time = || self.slots.iter().filter(|slot| !self.is_overdue(slot, now));
        let brisk = on_time().filter(|slot| !slot.slow).count();
        let slow = on_time().count() - brisk;
        if is_first {
            true
        } else if self.is_slow(peers, bid.peer) {
            slow == 0 || brisk + slow < limits::UPLOAD_SLOTS
        } else {
            brisk < limits::UPLOAD_SLOTS
        }
    }

    /// When the first piece should be through.
    pub(crate) fn next_free(&self, peers: &PeerBook, now: Instant) -> Duration {
        self.uploads
            .iter()
            .map(|upload| {
                let rate = peers
                    .get(upload.peer)
                    .upload
                    .bytes_per_sec()
                    .or_else(|| self.usual.bytes_per_sec());
                let whole = rate.map_or(Duration::ZERO, |rate| {
                    Duration::from_secs_f64(upload.bytes as f64 / rate)
                });
                whole.saturating_sub(now.saturating_duration_since(upload.since))
            })
            .min()
            .unwrap_or_default()
    }

    /// Serves a piece; only after `admit` said yes.
    pub(crate) fn start(
        &mut self,
        request: RequestId,
        peer: PeerIx,
        swarm: SwarmIx,
        piece: (PieceIndex, u64),
        peers: &PeerBook,
        now: Instant,
    ) {
        debug_assert!(
            self.uploads.len() < limits::UPLOADS_MAX.max(limits::ORIGIN_UPLOADS_MAX),
            "I6: a piece is served only when admitted"
        );
        self.waiting.retain(|(other, _)| *other != peer);
        self.told.retain(|(told, _)| *told != peer);
        let slow = self.is_slow(peers, peer);
        if let Some(at) = self.slot_of(peer) {
            let slot = &mut self.slots[at];
            slot.pieces = slot.pieces.saturating_add(1);
            slot.slow = slow;
        } else {
            self.slots.push(Slot {
                peer,
                slow,
                pieces: 1,
                sent: now,
            });
        }
        let (piece, bytes) = piece;
        self.uploads.push(Upload {
            request,
            peer,
            swarm,
            piece,
            bytes,
            since: now,
        });
    }

    /// The upload came to its end: learns the peer's rate, and frees the slot when nothing else is under way in it.
    pub(crate) fn finish(
        &mut self,
        request: RequestId,
        sent: bool,
        peers: &mut PeerBook,
        now: Instant,
    ) -> Option<Upload> {
        let at = self
            .uploads
            .iter()
            .position(|upload| upload.request == request)?;
        let upload = self.uploads.swap_remove(at);
        self.refused = 0;
        let slot = self.slot_of(upload.peer)?;
        if sent {
            let began = upload.since.max(self.slots[slot].sent);
            let span = now.saturating_duration_since(began);
            self.slots[slot].sent = now;
            let peer = peers.get_mut(upload.peer);
            peer.upload.sample(upload.bytes, span);
            peer.last_useful = now;
            if !self.slots[slot].slow {
                self.usual.sample(upload.bytes, span);
            }
        }
        if self.to_peer(upload.peer) == 0 {
            self.slots.swap_remove(slot);
        }
        Some(upload)
    }

    /// Refused peers that would have a slot if they asked now, oldest first.
    pub(crate) fn welcome<'a>(
        &'a self,
        peers: &'a PeerBook,
        now: Instant,
    ) -> impl Iterator<Item = Bid> + 'a {
        self.waiting
            .iter()
            .map(|(peer, swarm)| Bid {
                peer: *peer,
                swarm: *swarm,
            })
            .filter(move |bid| self.has_room(*bid, peers, now))
    }

    /// It was told that there is a slot: it is told no more unless it is refused again.
    pub(crate) fn told_free(&mut self, peer: PeerIx) {
        self.waiting.retain(|(waiting, _)| *waiting != peer);
        if let Some((_, times)) = self.told.iter_mut().find(|(told, _)| *told == peer) {
            *times = times.saturating_add(1);
            return;
        }
        if self.told.len() >= limits::REFUSED_REMEMBERED_MAX {
            self.told.pop_front();
        }
        self.told.push_back((peer, 1));
    }

    /// Whether it was told of slots again and again, and came for none.
    pub(crate) fn never_comes(&self, peer: PeerIx) -> bool {
        self.told
            .iter()
            .any(|(told, times)| *told == peer && *times >= limits::FREE_UNHEEDED_MAX)
    }

    /// The peer is gone, and its uploads with it.
    pub(crate) fn drop_peer(&mut self, peer: PeerIx) {
        self.uploads.retain(|upload| upload.peer != peer);
        self.slots.retain(|slot| slot.peer != peer);
        self.waiting.retain(|(waiting, _)| *waiting != peer);
        self.told.retain(|(told, _)| *told != peer);
        self.refused = 0;
    }
}

#[cfg(test)]
mod tests;
