//! Properties over random faults and random inputs. `Crowd` itself asserts that nothing held is asked for, that no
//! peer is asked twice for one piece, and that nothing is served that is not held.

use std::time::Duration;

use proptest::prelude::*;

use super::crowd::{Conduct, Crowd, CrowdOptions};
use crate::wire::{PeerMessage, Refusal, RefusalCode};
use crate::*;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Conduct(usize, Conduct),
    Tracker(bool),
    Slow(usize),
}

fn fault() -> impl Strategy<Value = (u64, Fault)> {
    let conduct = prop_oneof![
        Just(Conduct::Crashed),
        Just(Conduct::Frozen),
        Just(Conduct::Lying)
    ];
    let fault = prop_oneof![
        3 => (0usize..5, conduct).prop_map(|(at, conduct)| Fault::Conduct(at, conduct)),
        1 => any::<bool>().prop_map(Fault::Tracker),
        1 => (0usize..10).prop_map(Fault::Slow),
    ];
    (0u64..4000, fault)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Liveness: once faults stop, every honest node that asked finishes. At least half of the agents stay honest, and
    /// the origin with them; one that was frozen is well again in the end.
    #[test]
    fn every_live_node_that_asked_finishes_once_faults_stop(
        seed in any::<u64>(),
        pieces in 1u64..60,
        zones in 1usize..3,
        faults in prop::collection::vec(fault(), 0..8),
    ) {
        let mut crowd = Crowd::new(CrowdOptions { agents: 10, pieces, seed, zones, ..CrowdOptions::default() });
        crowd.want_all();
        let mut faults = faults;
        faults.sort_by_key(|(at, _)| *at);
        let mut passed = 0;
        for (at, fault) in faults {
            crowd.run_for(Duration::from_millis(at - passed));
            passed = at;
            match fault {
                Fault::Conduct(agent, conduct) => {
                    if crowd.members[1 + agent].conduct == Conduct::Honest {
                        crowd.set_conduct(1 + agent, conduct);
                    }
                }
                Fault::Tracker(up) => crowd.set_tracker(up),
                Fault::Slow(agent) => crowd.links[1 + agent].up /= 5.0,
            }
        }
        crowd.run_for(Duration::from_secs(1));
        crowd.set_tracker(true);
        for at in crowd.agents() {
            if crowd.members[at].conduct == Conduct::Frozen {
                crowd.set_conduct(at, Conduct::Honest);
            }
        }
        let finished = crowd.run(Duration::from_secs(120), Crowd::all_finished);
        let left: Vec<_> = crowd.agents()
            .filter(|at| crowd.members[*at].conduct == Conduct::Honest && crowd.members[*at].finished.is_none())
            .map(|at| (at, crowd.members[at].held.len(), crowd.members[at].failed.clone(), crowd.members[at].node.status()))
            .collect();
        prop_assert!(finished, "unfinished: {left:?}");
    }

    /// Whatever peers and drivers say, in whatever order: no panic, a bounded number of fetches, no fetch of a held piece.
    #[test]
    fn any_sequence_of_inputs_is_survived(seed in any::<u64>(), steps in prop::collection::vec((0u8..20, any::<u32>()), 1..200)) {
        let mut now = Instant::from_nanos(1);
        let role = if seed % 3 == 0 { Role::Origin } else { Role::Agent };
        let uploads_max = if role == Role::Origin { limits::ORIGIN_UPLOADS_MAX } else { limits::UPLOADS_MAX };
        let mut node = Node::new(NodeOptions::new(PeerId::from_key([0; 32]), role, Zone::default(), seed), now);
        let mut wild = Wild { transfers: Vec::new(), requests: Vec::new(), held: Default::default(), next: 0 };
        for (step, word) in steps {
            now += Duration::from_millis(u64::from(word % 700));
            if node.next_timeout().is_some_and(|at| at <= now) {
                node.handle_timeout(now);
            }
            node.handle(wild.input(step, word), now);
            while let Some(action) = node.poll_action() {
                wild.see(&action);
            }
            prop_assert!(node.status().in_flight <= limits::PIECES_IN_FLIGHT_MAX);
            prop_assert!(node.status().uploads <= uploads_max);
        }
    }
}

/// A driver gone mad.
struct Wild {
    transfers: Vec<(TransferId, Digest, PieceIndex)>,
    requests: Vec<RequestId>,
    held: std::collections::BTreeSet<(Digest, u32)>,
    next: u64,
}

impl Wild {
    fn see(&mut self, action: &Action) {
        match *action {
            Action::Fetch {
                transfer,
                digest,
                piece,
                ..
            } => {
                assert!(
                    !self.held.contains(&(digest, piece.get())),
                    "asked for a piece that is held"
                );
                self.transfers.push((transfer, digest, piece));
            }
            Action::Hold { digest, piece } => assert!(self.held.insert((digest, piece.get()))),
            Action::Serve { request, .. } => self.requests.push(request),
            Action::Failed { digest, .. } | Action::Closed { digest } => {
                self.held.retain(|(held, _)| *held != digest)
            }
            _ => {}
        }
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each thing that can be said"
    )]
    fn input(&mut self, step: u8, word: u32) -> Input {
        let digest = Digest::of(DigestAlgorithm::Sha256, &[u8::try_from(word % 2).unwrap()]);
        let peer = PeerId::from_key([u8::try_from(word % 5).unwrap(); 32]);
        let origin = PeerId::from_key([9; 32]);
        let geometry = Geometry::try_new(9 << 20, 1 << 20).unwrap();
        let info = BlobInfo {
            digest,
            geometry,
            piece_hash: PieceHashAlgorithm::Blake3,
            guard: None,
            origin,
            signature: [0; 64],
        };
        let piece = geometry.piece(word % 9).unwrap();
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 7000));
        let role = if word % 5 == 4 {
            Role::Origin
        } else {
            Role::Agent
        };
        let said = |message| Input::PeerSaid { peer, message };
        let code = [
            RefusalCode::Busy,
            RefusalCode::Injected,
            RefusalCode::NotHeld,
            RefusalCode::Unavailable,
        ][word as usize % 4];
        let transfer = (!self.transfers.is_empty())
            .then(|| self.transfers[word as usize % self.transfers.len()].0);
        match step {
            0 => Input::Wanted {
                digest,
                reader: ReaderId(u64::from(word % 3)),
                range: Some(ByteRange {
                    start: u64::from(word),
                    end: u64::MAX,
                }),
            },
            1 => Input::Unwanted {
                digest,
                reader: ReaderId(u64::from(word % 3)),
            },
            2 | 3 => Input::Connected {
                peer,
                role,
                zone: Zone::default(),
                addr,
            },
            4 => Input::PeerLost { peer },
            5 => said(PeerMessage::Info { info }),
            6 => said(PeerMessage::Holds {
                digest,
                bitfield: Bitfield::full(geometry.piece_count()).encode(),
            }),
            7 => said(PeerMessage::Have {
                digest,
                indexes: vec![word % 10],
                held: word,
            }),
            8 => said(PeerMessage::Interest { digest }),
            9 => said(PeerMessage::Leave { digest }),
            10 => {
                self.next += 1;
                Input::Asked {
                    request: RequestId(self.next),
                    peer,
                    digest,
                    index: word % 10,
                }
            }
            11 => Input::Served {
                request: self.requests.pop().unwrap_or(RequestId(0)),
                sent: word.is_multiple_of(2),
            },
            12 | 13 => transfer.map_or(Input::TrackerUp, |transfer| Input::Fetched { transfer }),
            14 => transfer.map_or(Input::TrackerDown, |transfer| {
                let failure = FetchFailure::Refused(Refusal {
                    holders: vec![peer],
                    ..Refusal::new(code)
                });
                Input::FetchFailed { transfer, failure }
            }),
            15 => Input::Ingested { digest, piece },
            18 => said(PeerMessage::Free { digest }),
            16 => Input::Seeded { info },
            17 => Input::Handed {
                digest,
                info: word.is_multiple_of(2).then_some(info),
                peers: vec![Candidate {
                    peer,
                    addr,
                    zone: Zone::default(),
                    role,
                    held: 3,
                    seeding: false,
                }],
                injected: word.is_multiple_of(3),
            },
            _ => {
                // The store lost all of it: it may be held anew.
                self.held.retain(|(held, _)| *held != digest);
                Input::Evicted { digest }
            }
        }
    }
}
