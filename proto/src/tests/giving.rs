//! What an origin gives to whom: laws of the ledger and of its offers, spoken by hand.
//!
//! Not here: whole crowds around an origin (`scenarios`), how a node is spoken to (`bench`).

use super::bench::*;
use crate::wire::{PeerMessage, RefusalCode};
use crate::*;

/// More than few: an origin offers to these each piece once.
const AGENTS: std::ops::Range<u8> = 2..12;

/// An origin that holds so many pieces of its blob, and agents that take part in it.
fn origin(held: u32) -> Bench {
    origin_among(AGENTS, held)
}

fn origin_among(agents: std::ops::Range<u8>, held: u32) -> Bench {
    let mut bench = Bench::new(Role::Origin, 80);
    for n in agents {
        bench.connect(n, Role::Agent);
        let digest = bench.info.digest;
        bench.says(n, PeerMessage::Interest { digest });
    }
    bench.input(Input::Seeded { info: bench.info });
    for index in 0..held {
        ingest(&mut bench, index);
    }
    bench
}

fn ingest(bench: &mut Bench, index: u32) {
    let (digest, piece) = (bench.info.digest, bench.info.geometry.piece(index).unwrap());
    bench.input(Input::Ingested { digest, piece });
}

fn have(bench: &mut Bench, agent: u8, indexes: &[u32]) {
    let message = PeerMessage::Have {
        digest: bench.info.digest,
        indexes: indexes.to_vec(),
        held: u32::try_from(indexes.len()).unwrap(),
    };
    bench.says(agent, message);
}

/// Which pieces each agent was told of.
fn told(actions: &[Action]) -> Vec<(PeerId, Vec<u32>)> {
    let told = |action: &Action| match action {
        Action::Say {
            peer,
            message: PeerMessage::Have { indexes, .. },
        } => Some((*peer, indexes.clone())),
        _ => None,
    };
    actions.iter().filter_map(told).collect()
}

/// What the origin answers to a question: the piece, or why not.
fn ask(bench: &mut Bench, agent: u8, index: u32) -> Result<(), RefusalCode> {
    bench.drain();
    bench.input(Input::Asked {
        request: RequestId(u64::from(agent) << 32 | u64::from(index)),
        peer: peer(agent),
        digest: bench.info.digest,
        index,
    });
    let answer = |action: &Action| match action {
        Action::Serve { .. } => Some(Ok(())),
        Action::Refuse { refusal, .. } => Some(Err(refusal.code)),
        _ => None,
    };
    bench.drain().iter().find_map(answer).expect("an answer")
}

/// It once answered an agent's news with all that it held itself, as agents do; the agents asked it for all of that.
#[test]
fn an_origin_tells_nobody_what_it_holds() {
    let mut bench = origin(40);
    let offers = told(&bench.drain()).len();
    assert!((1..=limits::OFFERS_MAX).contains(&offers));
    for agent in AGENTS {
        have(&mut bench, agent, &[70]);
    }
    assert_eq!(told(&bench.drain()), []);
}

#[test]
fn a_fresh_piece_that_every_agent_holds_does_not_keep_the_next_from_being_offered() {
    let mut bench = origin(0);
    for agent in AGENTS {
        have(&mut bench, agent, &[0]);
    }
    ingest(&mut bench, 0);
    assert_eq!(told(&bench.drain()), []);
    ingest(&mut bench, 1);
    let told = told(&bench.drain());
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1, [1]);
}

/// Two liars say that they hold a piece: it counts as spread.
#[test]
fn the_second_agent_that_asks_for_a_piece_said_to_have_spread_is_given_it() {
    let mut bench = origin(1);
    let first = told(&bench.drain())[0].0;
    let mut agents = AGENTS;
    let first = agents.find(|n| peer(*n) == first).unwrap();
    let mut others = AGENTS.filter(|n| *n != first);
    let (liar, wary, doubter) = (
        others.next().unwrap(),
        others.next().unwrap(),
        others.next().unwrap(),
    );
    assert_eq!(ask(&mut bench, first, 0), Ok(()));
    have(&mut bench, first, &[0]);
    have(&mut bench, liar, &[0]);
    bench.pass(limits::BAN_SPAN);
    assert_eq!(ask(&mut bench, wary, 0), Err(RefusalCode::Injected));
    assert_eq!(
        ask(&mut bench, wary, 0),
        Err(RefusalCode::Injected),
        "one doubter is one"
    );
    assert_eq!(ask(&mut bench, doubter, 0), Ok(()));
}

/// Agents that took pieces and read none of their bytes filled the origin's places: two of them kept it from giving
/// anything to anybody, until each upload was broken off after ten seconds.
#[test]
fn agents_that_do_not_take_their_pieces_keep_none_from_the_others() {
    let (frozen, all) = (2..4, 2..5);
    let mut bench = origin_among(all.clone(), 40);
    let digest = bench.info.digest;
    let (mut asked, mut given) = (0, std::collections::BTreeSet::new());
    let mut asks = Vec::new();
    for _ in 0..500 {
        for (n, index) in std::mem::take(&mut asks) {
            asked += 1;
            let request = RequestId(asked << 8 | u64::from(n));
            bench.input(Input::Asked {
                request,
                peer: peer(n),
                digest,
                index,
            });
        }
        for action in bench.pass(std::time::Duration::from_millis(10)) {
            match action {
                Action::Serve { request, piece, .. } => {
                    let n = u8::try_from(request.0 & 0xff).unwrap();
                    if !frozen.contains(&n) {
                        given.insert(piece.get());
                        bench.input(Input::Served {
                            request,
                            sent: true,
                        });
                        have(&mut bench, n, &[piece.get()]);
                    }
                }
                Action::Say {
                    peer: to,
                    message: PeerMessage::Have { indexes, .. },
                } => {
                    let n = all.clone().find(|n| peer(*n) == to).unwrap();
                    asks.push((n, indexes[0]));
                }
                _ => {}
            }
        }
    }
    assert_eq!(given.len(), 40, "in five seconds");
}

/// An origin among agents of which every other one is abroad.
fn origin_of_two_zones(agents: std::ops::Range<u8>) -> Bench {
    let mut bench = Bench::new(Role::Origin, 80);
    for n in agents {
        let zone: Zone = if n % 2 == 0 {
            Zone::default()
        } else {
            "abroad".parse().unwrap()
        };
        bench.connect_from(zone, n, Role::Agent);
        let digest = bench.info.digest;
        bench.says(n, PeerMessage::Interest { digest });
    }
    bench.input(Input::Seeded { info: bench.info });
    bench
}

/// The offers that were made meanwhile: to which agent, of which piece.
fn offers(bench: &mut Bench, agents: std::ops::Range<u8>) -> Vec<(u8, u32)> {
    let mut offers = Vec::new();
    for (to, pieces) in told(&bench.drain()) {
        let n = agents.clone().find(|n| peer(*n) == to).unwrap();
        offers.extend(pieces.into_iter().map(|piece| (n, piece)));
    }
    offers
}

/// The agent takes what it was offered, and soon another one has it as well. What is offered then comes back.
fn take(bench: &mut Bench, agents: std::ops::Range<u8>, (n, piece): (u8, u32)) -> Vec<(u8, u32)> {
    bench.input(Input::Asked {
        request: RequestId(u64::from(n) << 32 | u64::from(piece)),
        peer: peer(n),
        digest: bench.info.digest,
        index: piece,
    });
    bench.input(Input::Served {
        request: RequestId(u64::from(n) << 32 | u64::from(piece)),
        sent: true,
    });
    let second = agents.clone().find(|other| *other != n).unwrap();
    have(bench, n, &[piece]);
    have(bench, second, &[piece]);
    offers(bench, agents)
}

/// Every other piece was given abroad, and came back from there: three copies for two zones crossed between them.
#[test]
fn an_origin_gives_more_to_its_own_zone() {
    let mut bench = origin_of_two_zones(AGENTS);
    let mut home = 0;
    for index in 0..60 {
        ingest(&mut bench, index);
        for offer in offers(&mut bench, AGENTS) {
            home += u32::from(offer.0 % 2 == 0);
            assert_eq!(take(&mut bench, AGENTS, offer), vec![]);
        }
    }
    assert!((36..=44).contains(&home), "two of three: {home} of 60");
}

/// With as many pieces on their way as there are agents, each had one of them, and who had the fewest on the way was
/// offered the next: half of them abroad.
#[test]
fn an_origin_gives_more_to_its_own_zone_when_all_its_agents_are_busy() {
    let agents = 2..10;
    let mut bench = origin_of_two_zones(agents.clone());
    for index in 0..60 {
        ingest(&mut bench, index);
    }
    let mut waiting = std::collections::VecDeque::from(offers(&mut bench, agents.clone()));
    assert_eq!(waiting.len(), limits::OFFERS_MAX);
    let mut home = 0;
    while let Some(offer) = waiting.pop_front() {
        home += u32::from(offer.0 % 2 == 0);
        waiting.extend(take(&mut bench, agents.clone(), offer));
    }
    assert!((36..=44).contains(&home), "two of three: {home} of 60");
}
