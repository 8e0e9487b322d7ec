//! Who is served and who is refused, peer by peer.

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

    /// As many peers as are served at once, from the first on.
    fn fill(&mut self) {
        for peer in 0..limits::UPLOAD_SLOTS {
            self.ask(peer).unwrap();
        }
    }

    fn welcome(&self) -> Vec<PeerIx> {
        let welcome = self.slots.welcome(&self.peers, self.now);
        welcome.map(|bid| bid.peer).collect()
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
fn one_peer_too_many_is_refused_at_once_and_each_refused_one_a_little_longer() {
    let mut bench = Bench::new();
    bench.fill();
    let first = bench.ask(3).unwrap_err();
    let mut bench = Bench::new();
    bench.train();
    bench.fill();
    let second = bench.ask(3).unwrap_err();
    let third = bench.ask(4).unwrap_err();
    assert!(first >= limits::RETRY_AFTER_MIN && third > second);
}

#[test]
fn the_next_pieces_wait_behind_the_one_that_is_sent_and_one_more_is_refused() {
    let mut bench = Bench::new();
    let first = bench.ask(0).unwrap();
    for _ in 1..limits::SLOT_DEPTH {
        bench.ask(0).unwrap();
    }
    assert!(bench.ask(0).is_err());
    bench.finish(first, 10);
    bench.ask(0).unwrap();
    for peer in 1..limits::UPLOAD_SLOTS {
        bench.ask(peer).unwrap();
    }
    assert!(
        bench.ask(3).is_err(),
        "so many peers, whatever they asked for"
    );
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
    bench.ask(3).unwrap();
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
    bench.fill();
    bench.ask_in(3, SwarmIx(1)).unwrap();
    assert!(
        bench.ask_in(4, SwarmIx(2)).is_err(),
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
    bench.ask(4).unwrap();
    assert!(bench.ask(5).is_err());
}

#[test]
fn a_frozen_receiver_does_not_hold_its_slot_for_ever() {
    let mut bench = Bench::new();
    bench.fill();
    assert!(bench.ask(3).is_err());
    bench.now = bench.now + limits::UPLOAD_OVERDUE + Duration::from_millis(1);
    bench.ask(3).unwrap();
    assert!(bench.ask(4).is_err(), "the hard limit stands");
}

#[test]
fn a_peer_that_is_gone_frees_its_slot() {
    let mut bench = Bench::new();
    bench.fill();
    bench.ask(0).unwrap();
    let gone = bench.ix[0];
    bench.slots.drop_peer(gone);
    bench.ask(3).unwrap();
    assert!(bench.ask(4).is_err());
}

#[test]
fn whoever_was_refused_is_welcome_once_when_there_is_room() {
    let mut bench = Bench::new();
    let served = bench.ask(0).unwrap();
    for peer in 1..limits::UPLOAD_SLOTS {
        bench.ask(peer).unwrap();
    }
    let (early, late) = (bench.ix[4], bench.ix[3]);
    assert!(bench.ask(4).is_err() && bench.ask(3).is_err() && bench.ask(3).is_err());
    assert_eq!(bench.welcome(), [], "nobody, while there is no slot");
    bench.finish(served, 10);
    assert_eq!(bench.welcome(), [early, late], "oldest first, each once");
    bench.slots.told_free(early);
    assert_eq!(bench.welcome(), [late]);
    bench.ask(3).unwrap();
    bench.slots.drop_peer(late);
    assert_eq!(bench.welcome(), [], "it was served");
}

#[test]
fn only_so_many_refused_are_remembered() {
    let mut bench = Bench::new();
    bench.fill();
    for _ in 0..10 * limits::REFUSED_REMEMBERED_MAX {
        assert!(bench.ask(3).is_err() && bench.ask(4).is_err());
    }
    assert_eq!(bench.slots.waiting.len(), 2);
}
