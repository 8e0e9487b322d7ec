//! Whom to serve now: upload slots over all swarms, and how long a refused peer should stay away.
//!
//! Two pieces are sent at once, so that one fills the gap while the next is asked for; more would only make each
//! of them slower, and with it every later copy. Two more slots exist for those who do not cost the uplink its
//! turn: peers too slow to fill one, and pieces of which the swarm has no second copy yet.
//!
//! Not here: which piece is whose turn at an origin (`ledger`).

use std::time::Duration;

use crate::node::input::RequestId;
use crate::node::peers::{PeerBook, PeerIx, Rate};
use crate::swarm::SwarmIx;
use crate::{Instant, PieceIndex, limits};

/// One piece on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upload {
    pub(crate) request: RequestId,
    pub(crate) peer: PeerIx,
    pub(crate) swarm: SwarmIx,
    pub(crate) piece: PieceIndex,
    pub(crate) bytes: u64,
    since: Instant,
    slow: bool,
}

/// What kind of request wants a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bid {
    pub(crate) peer: PeerIx,
    pub(crate) swarm: SwarmIx,
    /// The blob is so small that sharing the uplink would show.
    pub(crate) small_blob: bool,
    /// The swarm has no second copy of the piece.
    pub(crate) scarce: bool,
}

/// The uploads of this process.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    uploads: Vec<Upload>,
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

    fn is_slow(&self, peers: &PeerBook, peer: PeerIx) -> bool {
        match (
            peers.get(peer).upload.bytes_per_sec(),
            self.usual.bytes_per_sec(),
        ) {
            (Some(rate), Some(usual)) => rate < 0.4 * usual,
            _ => false,
        }
    }

    /// An upload that takes far longer than it should no longer holds its slot against others.
    fn is_overdue(&self, upload: &Upload, now: Instant) -> bool {
        let expected = self.usual.bytes_per_sec().map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(4.0 * upload.bytes as f64 / rate)
        });
        now.saturating_duration_since(upload.since) > expected.max(limits::UPLOAD_OVERDUE)
    }

    /// Whether there is a slot for this bid; when not, how long to stay away.
    pub(crate) fn admit(
        &mut self,
        bid: Bid,
        peers: &PeerBook,
        now: Instant,
    ) -> Result<(), Duration> {
        // One blob does not wait for another: its first piece needs no more than a place.
        let own = self
            .uploads
            .iter()
            .filter(|upload| upload.swarm == bid.swarm)
            .count();
        if own == 0 && self.uploads.len() < limits::UPLOAD_SLOTS_MAX {
            return Ok(());
        }
        let target = if bid.small_blob && own == self.uploads.len() {
            limits::UPLOAD_SLOTS_SMALL
        } else {
            limits::UPLOAD_SLOTS
        };
        let on_time = || {
            self.uploads
                .iter()
                .filter(|upload| !self.is_overdue(upload, now))
        };
        let brisk = on_time().filter(|upload| !upload.slow).count();
        let slow = on_time().count() - brisk;
        let room = if self.is_slow(peers, bid.peer) {
            slow == 0 || brisk + slow < target
        } else if bid.scarce {
            brisk < target + 1
        } else {
            brisk < target
        };
        if room && self.uploads.len() < limits::UPLOAD_SLOTS_MAX {
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

    /// When the first slot should be free.
    pub(crate) fn next_free(&self, peers: &PeerBook, now: Instant) -> Duration {
        self.uploads
            .iter()
            .map(|upload| {
                let rate = peers
                    .get(upload.peer)
                    .upload
                    .bytes_per_sec()
                    .or_else(|| self.usual.bytes_per_sec());
                let whole = rate.map_or(limits::RETRY_AFTER_GUESS, |rate| {
                    Duration::from_secs_f64(upload.bytes as f64 / rate)
                });
                whole.saturating_sub(now.saturating_duration_since(upload.since))
            })
            .min()
            .unwrap_or_default()
    }

    /// Takes a slot; only after `admit` said yes.
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
            self.uploads.len() < limits::UPLOAD_SLOTS_MAX,
            "I6: a slot is taken only when admitted"
        );
        let slow = self.is_slow(peers, peer);
        let (piece, bytes) = piece;
        self.uploads.push(Upload {
            request,
            peer,
            swarm,
            piece,
            bytes,
            since: now,
            slow,
        });
    }

    /// The upload came to its end: frees its slot and learns the peer's rate.
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
        if sent {
            let span = now.saturating_duration_since(upload.since);
            let peer = peers.get_mut(upload.peer);
            peer.upload.sample(upload.bytes, span);
            peer.last_useful = now;
            if !upload.slow {
                self.usual.sample(upload.bytes, span);
            }
        }
        Some(upload)
    }

    /// The peer is gone, and its uploads with it.
    pub(crate) fn drop_peer(&mut self, peer: PeerIx) {
        self.uploads.retain(|upload| upload.peer != peer);
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

        fn ask(&mut self, peer: usize, scarce: bool) -> Result<RequestId, Duration> {
            let bid = Bid {
                peer: self.ix[peer],
                swarm: SwarmIx(0),
                small_blob: false,
                scarce,
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
                SwarmIx(0),
                (piece, MIB),
                &self.peers,
                self.now,
            );
            Ok(request)
        }
    }

    #[test]
    fn a_third_request_is_refused_at_once_with_a_retry_after() {
        let mut bench = Bench::new();
        bench.ask(0, false).unwrap();
        bench.ask(1, false).unwrap();
        let first = bench.ask(2, false).unwrap_err();
        let second = bench.ask(3, false).unwrap_err();
        assert!(first >= limits::RETRY_AFTER_MIN && second > first);
        assert!(bench.ask(2, true).is_ok(), "a scarce piece has precedence");
        assert!(bench.ask(3, true).is_err(), "but not without bound");
    }

    #[test]
    fn slow_receivers_do_not_take_the_slots_of_the_brisk() {
        let mut bench = Bench::new();
        for _ in 0..4 {
            let request = bench.ask(0, false).unwrap();
            bench.now += Duration::from_millis(10);
            bench
                .slots
                .finish(request, true, &mut bench.peers, bench.now)
                .unwrap();
        }
        let slow = bench.ask(1, false).unwrap();
        bench.now += Duration::from_millis(100);
        bench
            .slots
            .finish(slow, true, &mut bench.peers, bench.now)
            .unwrap();
        bench.ask(1, false).unwrap();
        bench.ask(2, false).unwrap();
        bench.ask(3, false).unwrap();
        assert!(bench.ask(4, false).is_err());
    }

    #[test]
    fn a_frozen_receiver_does_not_hold_its_slot_for_ever() {
        let mut bench = Bench::new();
        bench.ask(0, false).unwrap();
        bench.ask(0, false).unwrap();
        assert!(bench.ask(1, false).is_err());
        bench.now = bench.now + limits::UPLOAD_OVERDUE + Duration::from_millis(1);
        bench.ask(1, false).unwrap();
        bench.ask(2, false).unwrap();
        assert!(bench.ask(3, false).is_err(), "the hard limit stands");
    }
}
