//! Whom to serve now: upload slots over all swarms, and how long a refused peer should stay away.
//!
//! A slot is a peer's, not a piece's. While one piece is sent, the peer may ask for the next, which waits behind it on
//! the same link: the uplink never waits for a question, however long the round trip. Two peers are served at once, so
//! that there is somebody to serve while one of them has nothing to ask for. A slot ends when its peer has nothing under
//! way, or after a number of pieces, when it has to be won anew like by anybody else; so pieces find new ways.
//!
//! More slots exist for those who do not cost the uplink its turn: peers too slow to fill one, and the first piece of
//! another blob.
//!
//! Not here: which piece is whose turn at an origin (`ledger`).

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
            self.uploads.len() < limits::UPLOADS_MAX,
            "I6: a piece is served only when admitted"
        );
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

    /// The peer is gone, and its uploads with it.
    pub(crate) fn drop_peer(&mut self, peer: PeerIx) {
        self.uploads.retain(|upload| upload.peer != peer);
        self.slots.retain(|slot| slot.peer != peer);
        self.refused = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Geometry, PeerId, Role, Zone};

    const MIB: u64 = 1 << 20;

    struct Bench {
        slots: Slots,
        peers: PeerBook,
        ix: Vec<PeerIx>,
        now: Instant,
        next: u64,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::from_nanos(1_000_000_000);
            let mut peers = PeerBook::default();
            let ix = (1..=8)
                .map(|n| {
                    peers.intern(
                        PeerId::from_bytes(&[n; 32]).unwrap(),
                        Role::Agent,
                        &Zone::default(),
                        now,
                    )
                })
                .collect();
            Self {
                slots: Slots::default(),
                peers,
                ix,
                now,
                next: 0,
            }
        }

        fn ask(&mut self, peer: usize) -> Result<RequestId, Duration> {
            self.ask_in(peer, SwarmIx(0))
        }

        fn ask_in(&mut self, peer: usize, swarm: SwarmIx) -> Result<RequestId, Duration> {
            let bid = Bid {
                peer: self.ix[peer],
                swarm,
            };
            self.slots.admit(bid, &self.peers, self.now)?;
            self.next += 1;
            let piece = Geometry::try_new(100 * MIB, 1 << 20)
                .unwrap()
                .piece(0)
                .unwrap();
            let request = RequestId(self.next);
            self.slots.start(
                request,
                self.ix[peer],
                swarm,
                (piece, MIB),
                &self.peers,
                self.now,
            );
            Ok(request)
        }
    }

    impl Bench {
        fn finish(&mut self, request: RequestId, after_ms: u64) {
            self.now += Duration::from_millis(after_ms);
            self.slots
                .finish(request, true, &mut self.peers, self.now)
                .unwrap();
        }

        /// Lets it learn what is usual: 10 ms a piece. Nothing is under way afterwards.
        fn train(&mut self) {
            let requests: Vec<_> = self.slots.uploads().iter().map(|u| u.request).collect();
            for request in requests {
                self.finish(request, 10);
            }
            for _ in 0..4 {
                let request = self.ask(0).unwrap();
                self.finish(request, 10);
            }
        }
    }

    #[test]
    fn a_third_peer_is_refused_at_once_and_each_refused_one_a_little_longer() {
        let mut bench = Bench::new();
        bench.ask(0).unwrap();
        bench.ask(1).unwrap();
        let first = bench.ask(2).unwrap_err();
        bench.train();
        bench.ask(0).unwrap();
        bench.ask(1).unwrap();
        let second = bench.ask(2).unwrap_err();
        let third = bench.ask(3).unwrap_err();
        assert!(first >= limits::RETRY_AFTER_MIN && third > second);
    }

    #[test]
    fn the_next_piece_waits_behind_the_one_that_is_sent_and_a_third_is_refused() {
        let mut bench = Bench::new();
        let first = bench.ask(0).unwrap();
        bench.ask(0).unwrap();
        assert!(bench.ask(0).is_err());
        bench.finish(first, 10);
        bench.ask(0).unwrap();
        bench.ask(1).unwrap();
        assert!(bench.ask(2).is_err(), "two peers, whatever they asked for");
    }

    #[test]
    fn a_slot_has_to_be_won_anew_after_its_pieces() {
        let mut bench = Bench::new();
        let mut last = bench.ask(0).unwrap();
        for _ in 1..limits::SLOT_PIECES {
            let next = bench.ask(0).unwrap();
            bench.finish(last, 10);
            last = next;
        }
        assert!(bench.ask(0).is_err(), "no more behind the last one");
        bench.ask(1).unwrap();
        bench.finish(last, 10);
        bench.ask(2).unwrap();
        assert!(bench.ask(0).is_err(), "others were first");
    }

    #[test]
    fn what_waited_behind_another_piece_is_timed_from_its_own_turn() {
        let mut bench = Bench::new();
        let (first, second) = (bench.ask(0).unwrap(), bench.ask(0).unwrap());
        bench.finish(first, 100);
        bench.finish(second, 100);
        let rate = bench.slots.usual_bytes_per_sec().unwrap() / (10.0 * MIB as f64);
        assert!((0.99..1.01).contains(&rate), "{rate}");
    }

    #[test]
    fn the_first_piece_of_another_blob_needs_only_a_place() {
        let mut bench = Bench::new();
        bench.ask(0).unwrap();
        bench.ask(1).unwrap();
        bench.ask_in(2, SwarmIx(1)).unwrap();
        assert!(bench.ask_in(3, SwarmIx(1)).is_err());
        bench.ask_in(3, SwarmIx(2)).unwrap();
        assert!(
            bench.ask_in(4, SwarmIx(3)).is_err(),
            "the hard limit stands"
        );
    }

    #[test]
    fn slow_receivers_do_not_take_the_slots_of_the_brisk() {
        let mut bench = Bench::new();
        bench.train();
        let slow = bench.ask(1).unwrap();
        bench.finish(slow, 100);
        bench.ask(1).unwrap();
        bench.ask(2).unwrap();
        bench.ask(3).unwrap();
        assert!(bench.ask(4).is_err());
    }

    #[test]
    fn a_frozen_receiver_does_not_hold_its_slot_for_ever() {
        let mut bench = Bench::new();
        bench.ask(0).unwrap();
        bench.ask(1).unwrap();
        assert!(bench.ask(2).is_err());
        bench.now = bench.now + limits::UPLOAD_OVERDUE + Duration::from_millis(1);
        bench.ask(2).unwrap();
        bench.ask(3).unwrap();
        assert!(bench.ask(4).is_err(), "the hard limit stands");
    }

    #[test]
    fn a_peer_that_is_gone_frees_its_slot() {
        let mut bench = Bench::new();
        bench.ask(0).unwrap();
        bench.ask(0).unwrap();
        bench.ask(1).unwrap();
        let gone = bench.ix[0];
        bench.slots.drop_peer(gone);
        bench.ask(2).unwrap();
        assert!(bench.ask(3).is_err());
    }
}
