//! What becomes of a source that lets us wait, says no, or says that it has a slot; spoken by hand.
//!
//! Not here: whole crowds with such members (`scenarios`), how a node is spoken to (`bench`).

use std::time::Duration;

use super::bench::*;
use crate::wire::{PeerMessage, RefusalCode};
use crate::*;

/// An agent, and peers that hold all of its blob and have sent it enough that their pace is known: 10 ms a piece.
fn trained(holders: &[u8]) -> Bench {
    trained_on(400, holders)
}

fn trained_on(pieces: u64, holders: &[u8]) -> Bench {
    let mut bench = Bench::leeching(pieces, holders);
    for n in holders {
        bench.holds_all(*n);
    }
    let mut asked = fetches(&bench.drain());
    for _ in 0..20 {
        for (transfer, _, _) in std::mem::take(&mut asked) {
            bench.input(Input::Fetched { transfer });
        }
        asked = fetches(&bench.pass(Duration::from_millis(10)));
    }
    for (transfer, _, _) in asked {
        bench.input(Input::Fetched { transfer });
    }
    bench
}

/// Peers answer each question after 10 ms, except those that are frozen. Says how often each was asked, and how many
/// pieces were cancelled.
fn run(bench: &mut Bench, rounds: u32, frozen: &[u8]) -> (Vec<PeerId>, usize) {
    let (mut asked_of, mut cancelled) = (Vec::new(), 0);
    let mut asked = fetches(&bench.drain());
    for _ in 0..rounds {
        for (transfer, from, _) in std::mem::take(&mut asked) {
            asked_of.push(from);
            if !frozen.iter().any(|n| peer(*n) == from) {
                bench.input(Input::Fetched { transfer });
            }
        }
        let actions = bench.pass(Duration::from_millis(10));
        asked = fetches(&actions);
        cancelled += actions
            .iter()
            .filter(|action| matches!(action, Action::CancelFetch { .. }))
            .count();
    }
    for (transfer, from, _) in asked {
        asked_of.push(from);
        if !frozen.iter().any(|n| peer(*n) == from) {
            bench.input(Input::Fetched { transfer });
        }
    }
    (asked_of, cancelled)
}

/// It was asked for the next piece as soon as the last had been had from another, at the cost of a hedge each time, until
/// there were none left.
#[test]
fn a_frozen_source_is_asked_again_seldom() {
    let mut bench = trained(&[2, 3]);
    let (asked_of, cancelled) = run(&mut bench, 500, &[2]);
    let frozen = asked_of.iter().filter(|from| **from == peer(2)).count();
    assert!(frozen >= 1, "it was asked at all");
    assert!(cancelled >= 1, "others took its place");
    assert!(
        frozen <= 3 * limits::PIECES_IN_FLIGHT_PER_PEER,
        "asked {frozen} times in five seconds"
    );
}

/// All sources are late at once when it is the process itself that paused: each was replaced by another that could be in
/// time no more than they.
#[test]
fn sources_that_are_all_silent_are_not_all_replaced() {
    let holders: Vec<u8> = (2..14).collect();
    let mut bench = trained(&holders);
    bench.pass(Duration::from_millis(10));
    let before = bench.node.status().in_flight;
    bench.pass(limits::HEDGE_MIN / 2);
    let after = bench.node.status().in_flight;
    assert!(
        after <= before + limits::PIECES_IN_FLIGHT_PER_PEER,
        "{before} pieces under way, {after} when nothing came"
    );
}

/// Every other peer that came was asked for it as well, when nothing else was missing. With a plain limit instead, three
/// dead sources kept everybody from being asked for it until a fetch had starved.
#[test]
fn one_piece_is_asked_of_so_many_peers_at_once_and_then_of_others_in_their_place() {
    let mut bench = Bench::leeching(20, &[2, 3]);
    let mut under_way = std::collections::BTreeMap::<TransferId, u32>::new();
    let (mut fetched, mut asked, mut most) = (0, 0, 0);
    bench.holds_all(2);
    bench.holds_all(3);
    for n in 10..20 {
        for action in bench.pass(limits::SILENT_AFTER) {
            match action {
                Action::Fetch { transfer, .. } if fetched < 16 => {
                    fetched += 1;
                    bench.input(Input::Fetched { transfer });
                }
                Action::Fetch {
                    transfer, piece, ..
                } => {
                    asked += 1;
                    under_way.insert(transfer, piece.get());
                    let same = under_way.values().filter(|other| **other == piece.get());
                    most = most.max(same.count());
                }
                Action::CancelFetch { transfer } => drop(under_way.remove(&transfer)),
                _ => {}
            }
        }
        bench.connect(n, Role::Agent);
        let digest = bench.info.digest;
        bench.says(n, PeerMessage::Interest { digest });
        bench.holds_all(n);
    }
    assert_eq!(most, limits::ASKED_OF_MAX);
    assert!(asked > 4 * limits::ASKED_OF_MAX, "{asked} times");
}

/// What an origin offers nobody else has, and it serves many: it counted as late, was not asked, and offered the piece to
/// somebody else.
#[test]
fn an_origin_that_takes_its_time_is_still_asked_for_what_it_offers() {
    let mut bench = trained_on(4000, &[2, 3, 4]);
    let digest = bench.info.digest;
    bench.connect(9, Role::Origin);
    let offer = |index| PeerMessage::Have {
        digest,
        indexes: vec![index],
        held: 0,
    };
    run(&mut bench, 1, &[]);
    bench.says(9, offer(3998));
    assert_eq!(asked_of_origin(&mut bench), [3998]);
    run(&mut bench, 10, &[9]);
    bench.says(9, offer(3999));
    assert_eq!(asked_of_origin(&mut bench), [3999]);
}

/// The others answer at once.
fn asked_of_origin(bench: &mut Bench) -> Vec<u32> {
    let mut pieces = Vec::new();
    for (transfer, from, piece) in fetches(&bench.drain()) {
        if from == peer(9) {
            pieces.push(piece);
        } else {
            bench.input(Input::Fetched { transfer });
        }
    }
    pieces
}

/// A zone waits for what one of its agents was told of in another. That one asked for it when its sources were fewer than it
/// wanted, a piece time later: 1,000 agents in three zones took five hundredths of the bound more.
#[test]
fn what_nobody_here_has_is_asked_of_another_zone_at_once() {
    let near: Vec<u8> = (20..20 + u8::try_from(limits::FEW_AGENTS).unwrap()).collect();
    let mut bench = Bench::leeching(400, &near);
    let digest = bench.info.digest;
    for n in near {
        let mut holds = Bitfield::new(bench.info.geometry.piece_count());
        for piece in bench.info.geometry.pieces().take(300) {
            holds.set(piece);
        }
        let bitfield = holds.encode();
        bench.says(n, PeerMessage::Holds { digest, bitfield });
    }
    run(&mut bench, 10, &[]);
    assert_ne!(fetches(&bench.drain()), [], "there is enough to ask for");
    bench.input(Input::Connected {
        peer: peer(9),
        role: Role::Agent,
        zone: "elsewhere".parse().unwrap(),
        addr: addr(9),
    });
    let news = |index| PeerMessage::Have {
        digest,
        indexes: vec![index],
        held: 1,
    };
    bench.says(9, news(399));
    let asked = fetches(&bench.drain());
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].1, asked[0].2), (peer(9), 399));
    // Never what is here already.
    bench.says(9, news(0));
    assert_eq!(fetches(&bench.drain()), []);
}

/// Between the end of a link and the word of it, each question failed at once and the next was asked: for ever, where the
/// blob had more pieces than are remembered as refused.
#[test]
fn a_link_that_fails_at_once_is_not_asked_for_piece_after_piece() {
    let mut bench = Bench::leeching(1000, &[2]);
    bench.holds_all(2);
    let mut asked = 0;
    for _ in 0..1000 {
        for (transfer, _, _) in fetches(&bench.drain()) {
            asked += 1;
            let failure = FetchFailure::Lost;
            bench.input(Input::FetchFailed { transfer, failure });
        }
    }
    assert_eq!(asked, limits::PIECES_IN_FLIGHT_PER_PEER);
    assert_ne!(fetches(&bench.pass(limits::STALL_PAUSE)), [], "it is again");
}

/// The one peer that holds anything refuses what it is asked.
fn refused(code: RefusalCode) -> Bench {
    let mut bench = Bench::leeching(80, &[2]);
    bench.holds_all(2);
    for (transfer, _, _) in fetches(&bench.drain()) {
        let failure = refusal(code, Duration::from_secs(2));
        bench.input(Input::FetchFailed { transfer, failure });
    }
    assert_eq!(fetches(&bench.drain()), []);
    bench
}

fn free(bench: &Bench) -> PeerMessage {
    PeerMessage::Free {
        digest: bench.info.digest,
    }
}

#[test]
fn who_had_no_slot_and_says_it_has_one_is_asked_at_once() {
    let mut bench = refused(RefusalCode::Busy);
    bench.says(2, free(&bench));
    assert_ne!(fetches(&bench.drain()), []);
}

#[test]
fn a_free_slot_of_another_blob_is_nothing_to_us() {
    let mut bench = refused(RefusalCode::Busy);
    let digest = Digest::of(DigestAlgorithm::Sha256, b"another");
    bench.says(2, PeerMessage::Free { digest });
    assert_eq!(fetches(&bench.drain()), []);
}

/// The word ended every pause, whatever it was for: a peer that let fetches starve could have itself asked for ever.
#[test]
fn who_lets_us_down_cannot_talk_itself_back() {
    for code in [RefusalCode::Unavailable, RefusalCode::Leaving] {
        let mut bench = refused(code);
        bench.says(2, free(&bench));
        assert_eq!(fetches(&bench.drain()), [], "{code:?}");
    }
    let mut bench = Bench::leeching(80, &[2]);
    bench.holds_all(2);
    for (transfer, _, _) in fetches(&bench.drain()) {
        let failure = FetchFailure::TimedOut;
        bench.input(Input::FetchFailed { transfer, failure });
    }
    bench.says(2, free(&bench));
    assert_eq!(fetches(&bench.drain()), []);
}

/// An agent that gives, with every slot taken and some peers refused.
fn giving(refused: &[u8]) -> Bench {
    let mut bench = Bench::leeching(80, &[]);
    let digest = bench.info.digest;
    bench.input(Input::Loaded {
        info: bench.info,
        held: Bitfield::full(bench.info.geometry.piece_count()),
        complete: true,
    });
    for n in 20..20 + u8::try_from(limits::UPLOAD_SLOTS).unwrap() {
        bench.connect(n, Role::Agent);
        bench.says(n, PeerMessage::Interest { digest });
        ask(&mut bench, n);
    }
    for n in refused {
        bench.connect(*n, Role::Agent);
        bench.says(*n, PeerMessage::Interest { digest });
        ask(&mut bench, *n);
    }
    bench.drain();
    bench
}

fn ask(bench: &mut Bench, n: u8) {
    bench.input(Input::Asked {
        request: RequestId(u64::from(n)),
        peer: peer(n),
        digest: bench.info.digest,
        index: 0,
    });
}

/// One piece was sent: who hears of the slot.
fn hears(bench: &mut Bench, served: u8) -> Option<PeerId> {
    bench.drain();
    bench.input(Input::Served {
        request: RequestId(u64::from(served)),
        sent: true,
    });
    told_free(&bench.drain())
}

fn told_free(actions: &[Action]) -> Option<PeerId> {
    actions.iter().find_map(|action| match action {
        Action::Say {
            peer,
            message: PeerMessage::Free { .. },
        } => Some(*peer),
        _ => None,
    })
}

fn says_held(bench: &mut Bench, n: u8, held: u32) {
    let digest = bench.info.digest;
    let indexes = vec![held];
    bench.says(
        n,
        PeerMessage::Have {
            digest,
            indexes,
            held,
        },
    );
}

#[test]
fn of_those_refused_the_one_furthest_behind_hears_of_a_free_slot() {
    let mut bench = giving(&[2, 3, 4]);
    for (n, held) in [(2, 30), (3, 10), (4, 20)] {
        says_held(&mut bench, n, held);
    }
    assert_eq!(hears(&mut bench, 20), Some(peer(3)));
}

#[test]
fn of_equals_the_one_that_waits_longest_hears_of_a_free_slot() {
    let mut bench = giving(&[4, 2, 3]);
    assert_eq!(hears(&mut bench, 20), Some(peer(4)));
}

/// A peer that says it holds nothing, and never comes, heard of every slot.
#[test]
fn who_hears_of_slots_and_never_comes_is_told_after_the_others() {
    let mut bench = giving(&[2, 3]);
    says_held(&mut bench, 3, 10);
    for _ in 0..limits::FREE_UNHEEDED_MAX {
        assert_eq!(
            hears(&mut bench, 20),
            Some(peer(2)),
            "it is furthest behind"
        );
        ask(&mut bench, 20);
        ask(&mut bench, 2);
    }
    assert_eq!(hears(&mut bench, 20), Some(peer(3)));
}

/// The count that a peer tells is only told with pieces that we lack: of one that gets everything from us it said nothing.
#[test]
fn what_we_sent_a_peer_counts_as_held() {
    let mut bench = giving(&[2]);
    for _ in 0..3 {
        bench.input(Input::Served {
            request: RequestId(20),
            sent: true,
        });
        ask(&mut bench, 2);
        bench.input(Input::Served {
            request: RequestId(2),
            sent: true,
        });
        ask(&mut bench, 20);
    }
    bench.connect(3, Role::Agent);
    let digest = bench.info.digest;
    bench.says(3, PeerMessage::Interest { digest });
    ask(&mut bench, 2);
    ask(&mut bench, 3);
    assert_eq!(hears(&mut bench, 21), Some(peer(3)));
}

/// The slot of a peer whose link was lost was told to nobody.
#[test]
fn a_lost_link_frees_its_slot_for_who_was_refused() {
    let mut bench = giving(&[2]);
    bench.drain();
    bench.input(Input::PeerLost { peer: peer(20) });
    assert_eq!(told_free(&bench.drain()), Some(peer(2)));
}

/// A process that was frozen for so long that its links ended looked for sources once, while the pause after a lost link was
/// running, and not again: with the tracker gone too it gave up, although everybody else was there.
#[test]
fn a_lost_source_is_dialed_again_when_its_pause_is_over() {
    let mut bench = Bench::new(Role::Agent, 80);
    bench.want();
    let holder = Candidate {
        peer: peer(2),
        addr: addr(2),
        zone: Zone::default(),
        role: Role::Agent,
        held: 80,
        seeding: true,
    };
    let digest = bench.info.digest;
    bench.input(Input::Handed {
        digest,
        info: Some(bench.info),
        peers: vec![holder],
        injected: true,
    });
    bench.connect(2, Role::Agent);
    bench.input(Input::TrackerDown);
    bench.drain();
    bench.now += 10 * limits::STARVING_AFTER;
    bench.pass(Duration::ZERO);
    bench.input(Input::PeerLost { peer: peer(2) });
    let dials = |action: &Action| matches!(action, Action::Dial { peer: to, .. } if *to == peer(2));
    let later = bench.pass(2 * limits::DIAL_BACKOFF_MIN);
    assert!(later.iter().any(dials));
}
