//! One node and the tests that speak to it by hand: small laws, one input at a time.
//!
//! Not here: how it is spoken to (`bench`).

use std::time::Duration;

use super::bench::*;
use crate::wire::{PeerMessage, Refusal, RefusalCode};
use crate::*;

#[test]
fn new_swarm_asks_the_tracker_first_and_the_origin_only_when_it_names_nobody() {
    let mut bench = Bench::new(Role::Agent, 4);
    bench.input(Input::OriginsChanged {
        origins: vec![OriginAddress {
            peer: peer(9),
            addr: addr(9),
        }],
    });
    bench.want();
    let first = bench.pass(Duration::from_millis(10));
    let asks = |action: &Action| matches!(action, Action::Announce { swarms, .. } if swarms.iter().any(|swarm| swarm.wants_peers));
    assert!(first.iter().any(asks));
    assert!(
        !first
            .iter()
            .any(|action| matches!(action, Action::Open { .. }))
    );
    bench.input(Input::Handed {
        digest: bench.info.digest,
        info: None,
        peers: vec![],
        injected: false,
    });
    let second = bench.pass(Duration::from_millis(10));
    assert!(
        second
            .iter()
            .any(|action| matches!(action, Action::Open { origin, .. } if *origin == peer(9)))
    );
}

#[test]
fn blob_that_others_are_getting_is_not_asked_of_the_origin() {
    let mut bench = Bench::new(Role::Agent, 4);
    bench.input(Input::OriginsChanged {
        origins: vec![OriginAddress {
            peer: peer(9),
            addr: addr(9),
        }],
    });
    bench.want();
    let holder = Candidate {
        peer: peer(2),
        addr: addr(2),
        zone: Zone::default(),
        role: Role::Agent,
        held: 1,
        seeding: false,
    };
    bench.input(Input::Handed {
        digest: bench.info.digest,
        info: None,
        peers: vec![holder],
        injected: true,
    });
    let early = bench.pass(Duration::from_millis(900));
    assert!(
        early
            .iter()
            .any(|action| matches!(action, Action::Dial { peer: to, .. } if *to == peer(2)))
    );
    assert!(
        !early
            .iter()
            .any(|action| matches!(action, Action::Open { .. }))
    );
    let late = bench.pass(Duration::from_millis(200));
    assert!(
        late.iter()
            .any(|action| matches!(action, Action::Open { .. })),
        "the holders proved useless"
    );
}

#[test]
fn nobody_within_two_seconds_fails_the_readers() {
    let mut bench = Bench::new(Role::Agent, 4);
    bench.input(Input::TrackerDown);
    bench.want();
    assert!(
        !bench
            .pass(Duration::from_millis(1900))
            .iter()
            .any(|action| matches!(action, Action::Failed { .. }))
    );
    let failed = |action: &Action| {
        matches!(
            action,
            Action::Failed {
                reason: FailReason::NoSource,
                ..
            }
        )
    };
    assert!(bench.pass(Duration::from_millis(300)).iter().any(failed));
    assert!(bench.node.swarm(&bench.info.digest).is_none());
}

#[test]
fn not_found_at_the_owner_fails_at_once_and_unavailable_asks_the_next() {
    let mut bench = Bench::new(Role::Agent, 4);
    let origins = [8, 9].map(|n| OriginAddress {
        peer: peer(n),
        addr: addr(n),
    });
    bench.input(Input::OriginsChanged {
        origins: origins.to_vec(),
    });
    bench.want();
    bench.input(Input::Handed {
        digest: bench.info.digest,
        info: None,
        peers: vec![],
        injected: false,
    });
    let open = |actions: &[Action]| {
        actions.iter().find_map(|action| match action {
            Action::Open { origin, .. } => Some(*origin),
            _ => None,
        })
    };
    let first = open(&bench.pass(Duration::from_millis(5))).unwrap();
    let unavailable = Err(Refusal::new(RefusalCode::Unavailable));
    bench.input(Input::Opened {
        digest: bench.info.digest,
        origin: first,
        result: unavailable,
    });
    let second = open(&bench.pass(Duration::from_millis(300))).unwrap();
    assert_ne!(first, second);
    let not_found = Err(Refusal::new(RefusalCode::NotFound));
    bench.input(Input::Opened {
        digest: bench.info.digest,
        origin: second,
        result: not_found,
    });
    assert!(bench.drain().iter().any(|action| matches!(
        action,
        Action::Failed {
            reason: FailReason::NotFound(_),
            ..
        }
    )));
}

#[test]
fn refused_peer_is_not_asked_again_before_retry_after() {
    let mut bench = Bench::leeching(8, &[2]);
    bench.holds_all(2);
    let asked = fetches(&bench.drain());
    assert_eq!(asked.len(), limits::PIECES_IN_FLIGHT_PER_PEER);
    for (transfer, _, _) in asked {
        let failure = refusal(RefusalCode::Busy, Duration::from_millis(100));
        bench.input(Input::FetchFailed { transfer, failure });
    }
    assert!(fetches(&bench.pass(Duration::from_millis(99))).is_empty());
    assert!(!fetches(&bench.pass(Duration::from_millis(5))).is_empty());
}

#[test]
fn pieces_under_the_cursor_come_first_and_in_order() {
    let mut bench = Bench::leeching(64, &[2, 3]);
    bench.holds_all(2);
    bench.holds_all(3);
    let mut first: Vec<u32> = fetches(&bench.drain())
        .into_iter()
        .map(|(_, _, piece)| piece)
        .collect();
    first.sort_unstable();
    assert_eq!(first, [0, 1, 2, 3]);
}

#[test]
fn corrupt_piece_bans_its_sender_at_once() {
    let mut bench = Bench::leeching(8, &[2]);
    bench.holds_all(2);
    let (transfer, _, _) = fetches(&bench.drain())[0];
    bench.input(Input::FetchFailed {
        transfer,
        failure: FetchFailure::Corrupt,
    });
    let actions = bench.drain();
    assert!(actions.iter().any(|action| matches!(
        action,
        Action::Hangup {
            code: wire::CloseCode::Banned,
            ..
        }
    )));
    bench.connect(2, Role::Agent);
    assert!(bench.drain().iter().any(|action| matches!(
        action,
        Action::Hangup {
            code: wire::CloseCode::Banned,
            ..
        }
    )));
    bench.now += limits::BAN_SPAN;
    bench.connect(2, Role::Agent);
    assert!(
        !bench
            .drain()
            .iter()
            .any(|action| matches!(action, Action::Hangup { .. })),
        "a ban expires"
    );
}

#[test]
fn unvouched_proof_is_no_offence() {
    let mut bench = Bench::leeching(8, &[2]);
    bench.holds_all(2);
    let (transfer, _, _) = fetches(&bench.drain())[0];
    bench.input(Input::FetchFailed {
        transfer,
        failure: FetchFailure::Unvouched,
    });
    assert!(
        !bench
            .drain()
            .iter()
            .any(|action| matches!(action, Action::Hangup { .. }))
    );
}

#[test]
fn agent_that_says_gone_is_banned_and_an_origin_is_believed() {
    let mut bench = Bench::leeching(8, &[2]);
    bench.connect(9, Role::Origin);
    bench.says(
        2,
        PeerMessage::Gone {
            digest: bench.info.digest,
        },
    );
    let actions = bench.drain();
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Hangup { .. }))
    );
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Failed { .. }))
    );
    bench.says(
        9,
        PeerMessage::Gone {
            digest: bench.info.digest,
        },
    );
    assert!(bench.drain().iter().any(|action| matches!(
        action,
        Action::Failed {
            reason: FailReason::Poisoned,
            ..
        }
    )));
}

#[test]
fn forged_forms_earn_a_ban_and_harm_nothing() {
    let messages = |digest| {
        [
            PeerMessage::Have {
                digest,
                indexes: vec![8],
                held: 1,
            },
            PeerMessage::Holds {
                digest,
                bitfield: bytes::Bytes::from_static(&[0xff; 3]),
            },
            PeerMessage::Holds {
                digest,
                bitfield: bytes::Bytes::from_static(&[0xff, 0xff]),
            },
        ]
    };
    for message in messages(Bench::new(Role::Agent, 8).info.digest) {
        let mut bench = Bench::leeching(8, &[2]);
        bench.says(2, message);
        assert!(
            bench
                .drain()
                .iter()
                .any(|action| matches!(action, Action::Hangup { .. }))
        );
    }
}

#[test]
fn what_was_said_before_the_shape_was_known_is_not_lost() {
    let mut bench = Bench::new(Role::Agent, 8);
    bench.want();
    bench.connect(2, Role::Agent);
    bench.holds_all(2);
    bench.says(2, PeerMessage::Info { info: bench.info });
    assert!(!fetches(&bench.drain()).is_empty());
}

#[test]
fn interest_before_the_swarm_exists_is_remembered() {
    let mut bench = Bench::new(Role::Origin, 8);
    bench.connect(2, Role::Agent);
    bench.says(
        2,
        PeerMessage::Interest {
            digest: bench.info.digest,
        },
    );
    bench.drain();
    bench.input(Input::Seeded { info: bench.info });
    let piece = bench.info.geometry.piece(0).unwrap();
    bench.input(Input::Ingested {
        digest: bench.info.digest,
        piece,
    });
    let offers = |action: &Action| matches!(action, Action::Say { message: PeerMessage::Have { indexes, .. }, .. } if indexes == &[0]);
    assert!(bench.drain().iter().any(offers));
}

#[test]
fn origin_offers_a_fresh_piece_to_one_agent_only() {
    let mut bench = Bench::new(Role::Origin, 80);
    for n in 2..12 {
        bench.connect(n, Role::Agent);
        bench.says(
            n,
            PeerMessage::Interest {
                digest: bench.info.digest,
            },
        );
    }
    bench.input(Input::Seeded { info: bench.info });
    bench.drain();
    let piece = bench.info.geometry.piece(0).unwrap();
    bench.input(Input::Ingested {
        digest: bench.info.digest,
        piece,
    });
    let offers = |action: &Action| match action {
        Action::Say {
            peer,
            message: PeerMessage::Have { .. },
        } => Some(*peer),
        _ => None,
    };
    let offered: Vec<PeerId> = bench.drain().iter().filter_map(offers).collect();
    assert_eq!(offered.len(), 1);
    let other = (2..12)
        .map(peer)
        .find(|other| *other != offered[0])
        .unwrap();
    let ask = |request, peer, bench: &Bench| Input::Asked {
        request: RequestId(request),
        peer,
        digest: bench.info.digest,
        index: 0,
    };
    bench.input(ask(1, offered[0], &bench));
    assert!(
        bench
            .drain()
            .iter()
            .any(|action| matches!(action, Action::Serve { .. }))
    );
    bench.input(ask(2, other, &bench));
    let named = |action: &Action| match action {
        Action::Refuse { refusal, .. } if refusal.code == RefusalCode::Injected => {
            Some(refusal.holders.clone())
        }
        _ => None,
    };
    assert_eq!(bench.drain().iter().find_map(named), Some(vec![offered[0]]));
}

#[test]
fn empty_blob_is_committed_without_a_piece() {
    let mut bench = Bench::new(Role::Agent, 0);
    bench.want();
    bench.input(Input::Handed {
        digest: bench.info.digest,
        info: Some(bench.info),
        peers: vec![],
        injected: true,
    });
    assert!(
        bench
            .drain()
            .iter()
            .any(|action| matches!(action, Action::Commit { .. }))
    );
}

#[test]
fn blob_that_nobody_reads_is_closed_after_its_grace() {
    let mut bench = Bench::leeching(8, &[2]);
    bench.input(Input::Unwanted {
        digest: bench.info.digest,
        reader: ReaderId(1),
    });
    assert!(
        !bench
            .pass(limits::UNWANTED_GRACE / 2)
            .iter()
            .any(|action| matches!(action, Action::Closed { .. }))
    );
    let actions = bench.pass(limits::UNWANTED_GRACE);
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Closed { .. }))
    );
    let left = |action: &Action| {
        matches!(
            action,
            Action::Say {
                message: PeerMessage::Leave { .. },
                ..
            }
        )
    };
    assert!(actions.iter().any(left));
}

#[test]
fn over_budget_the_least_recently_useful_link_goes_first() {
    let mut bench = Bench::new(Role::Agent, 8);
    let mut bytes = [5; 32];
    for n in 0..=limits::LINKS_MAX {
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        let peer = PeerId::from_key(bytes);
        bench.now += Duration::from_millis(100);
        bench.input(Input::Connected {
            peer,
            role: Role::Agent,
            zone: Zone::default(),
            addr: addr(2),
        });
    }
    bytes[..8].copy_from_slice(&0u64.to_le_bytes());
    let first = PeerId::from_key(bytes);
    assert!(
        bench
            .drain()
            .iter()
            .any(|action| matches!(action, Action::Hangup { peer, .. } if *peer == first))
    );
    assert_eq!(bench.node.status().links, limits::LINKS_MAX);
}

#[test]
fn tracker_that_comes_back_is_told_everything() {
    let mut bench = Bench::leeching(8, &[2]);
    bench.input(Input::TrackerDown);
    bench.input(Input::TrackerUp);
    let full = |action: &Action| matches!(action, Action::Announce { full: true, swarms } if swarms.len() == 1);
    assert!(bench.drain().iter().any(full));
}

#[test]
fn late_fetch_is_hedged_and_the_loser_cancelled() {
    let mut bench = Bench::leeching(100, &[2, 3]);
    bench.holds_all(2);
    let stuck = fetches(&bench.drain());
    bench.holds_all(3);
    let mut hedge = None;
    let mut asked = fetches(&bench.drain());
    // Peer 3 answers each question within 10 ms; peer 2 never does.
    for _ in 0..300 {
        for (transfer, from, piece) in std::mem::take(&mut asked) {
            if stuck.iter().any(|(_, _, other)| *other == piece) {
                hedge = Some((transfer, piece));
            } else if from == peer(3) {
                bench.input(Input::Fetched { transfer });
            }
        }
        if hedge.is_some() {
            break;
        }
        asked = fetches(&bench.pass(Duration::from_millis(10)));
    }
    let (transfer, piece) = hedge.expect("a source that sends nothing is replaced within 2 s");
    bench.input(Input::Fetched { transfer });
    let loser = stuck
        .iter()
        .find(|(_, _, other)| *other == piece)
        .unwrap()
        .0;
    assert!(
        bench
            .drain()
            .iter()
            .any(|action| matches!(action, Action::CancelFetch { transfer } if *transfer == loser))
    );
}
