//! The laws of the directory, on a virtual clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;
use shoal_proto::wire::{Announce, Handout, PeerAddress, SwarmAnnounce, SwarmState};
use shoal_proto::{BlobInfo, Digest, Geometry, Instant, OriginKey, PeerId, Role, limits, ring};

use super::{Announcer, Directory, DirectoryOptions};

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn digest(number: u8) -> Digest {
    Digest::Sha256([number; 32])
}

fn peer(number: u32) -> PeerId {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    PeerId::from_key(key)
}

fn announcer(number: u32, zone: &str, role: Role) -> Announcer {
    let [_, a, b, c] = number.to_be_bytes();
    let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, a, b, c)), 7050);
    Announcer {
        peer: peer(number),
        zone: zone.parse().unwrap(),
        addr,
        role,
    }
}

fn agent(number: u32) -> Announcer {
    announcer(
        number,
        if number.is_multiple_of(2) { "a" } else { "b" },
        Role::Agent,
    )
}

fn part(number: u8, state: SwarmState) -> SwarmAnnounce {
    let held = u32::from(state == SwarmState::Seeding) * 9;
    SwarmAnnounce {
        digest: digest(number),
        state,
        held,
        wants_peers: state == SwarmState::Leeching,
        blob: None,
        stuck: Vec::new(),
    }
}

fn announce(swarms: Vec<SwarmAnnounce>) -> Announce {
    Announce {
        swarms,
        ..Announce::default()
    }
}

fn directory() -> Directory {
    Directory::new(DirectoryOptions::default())
}

/// Announces one swarm and answers its handout, if there was one.
fn say(
    directory: &mut Directory,
    who: &Announcer,
    change: SwarmAnnounce,
    now: Instant,
) -> Option<Handout> {
    let mut announced = directory.handle_announce(who, &announce(vec![change]), now);
    assert!(announced.handouts.len() <= 1);
    announced.handouts.pop()
}

fn leech(directory: &mut Directory, who: &Announcer, now: Instant) -> Handout {
    say(directory, who, part(1, SwarmState::Leeching), now).expect("it asked for peers")
}

fn names(handout: &Handout) -> Vec<PeerId> {
    handout
        .peers
        .iter()
        .map(|candidate| candidate.peer)
        .collect()
}

#[test]
fn newcomer_is_named_those_before_it_and_never_itself() {
    let mut directory = directory();
    for number in 0..10 {
        let handout = leech(&mut directory, &agent(number), at(0));
        let named: BTreeSet<PeerId> = names(&handout).into_iter().collect();
        assert_eq!(named, (0..number).map(peer).collect());
        assert_eq!(handout.injected, number > 0);
    }
}

#[test]
fn lost_and_left_peers_are_named_to_nobody() {
    let mut directory = directory();
    for number in 0..6 {
        leech(&mut directory, &agent(number), at(0));
    }
    directory.peer_lost(peer(0), at(1));
    say(&mut directory, &agent(1), part(1, SwarmState::Left), at(1));
    let named = names(&leech(&mut directory, &agent(9), at(2)));
    assert!(!named.contains(&peer(0)) && !named.contains(&peer(1)));
    assert_eq!(named.len(), 4);
}

#[test]
fn silent_peer_expires_and_a_talking_one_does_not() {
    let mut directory = directory();
    leech(&mut directory, &agent(0), at(0));
    leech(&mut directory, &agent(1), at(0));
    let mut now = at(0);
    for _ in 0..20 {
        now += Duration::from_secs(30);
        directory.handle_announce(&agent(1), &Announce::default(), now);
        if directory.next_timeout().is_some_and(|due| due <= now) {
            directory.handle_timeout(now);
        }
    }
    assert_eq!(directory.sizes().peers, 1);
    assert_eq!(names(&leech(&mut directory, &agent(2), now)), vec![peer(1)]);
}

#[test]
fn full_announce_takes_a_peer_out_of_what_it_does_not_mention() {
    let mut directory = directory();
    let swarms = vec![part(1, SwarmState::Leeching), part(2, SwarmState::Leeching)];
    directory.handle_announce(&agent(0), &announce(swarms), at(0));
    assert_eq!(directory.sizes().members, 2);
    let full = Announce {
        full: true,
        ..announce(vec![part(2, SwarmState::Leeching)])
    };
    directory.handle_announce(&agent(0), &full, at(1));
    assert_eq!(directory.sizes().members, 1);
    assert!(names(&leech(&mut directory, &agent(1), at(2))).is_empty());
}

#[test]
fn stuck_neighbours_are_replaced() {
    let mut directory = directory();
    for number in 0..60 {
        leech(&mut directory, &agent(number), at(0));
    }
    let first = leech(&mut directory, &agent(100), at(1));
    let stuck: Vec<PeerId> = names(&first)
        .into_iter()
        .take(limits::STUCK_PEERS_MAX)
        .collect();
    let again = SwarmAnnounce {
        stuck: stuck.clone(),
        ..part(1, SwarmState::Leeching)
    };
    let second = say(&mut directory, &agent(100), again, at(2)).unwrap();
    assert!(!names(&second).is_empty());
    for named in names(&second) {
        assert!(!stuck.contains(&named), "a stuck neighbour was named again");
        assert!(
            !names(&first).contains(&named),
            "nobody new though others are there"
        );
    }
}

#[test]
fn load_is_spread_evenly_over_a_large_swarm() {
    let mut directory = directory();
    let mut named: BTreeMap<PeerId, u32> = BTreeMap::new();
    for number in 0..10_000 {
        for other in names(&leech(
            &mut directory,
            &agent(number),
            at(u64::from(number)),
        )) {
            *named.entry(other).or_default() += 1;
        }
    }
    let most = named.values().max().copied().unwrap_or_default();
    // Each names twelve; nobody carries three times its share.
    assert!(most <= 36, "one peer was named {most} times");
    assert_eq!(directory.sizes().members, 10_000);
}

#[test]
fn quota_outside_the_zone_is_kept() {
    let mut directory = directory();
    for number in 0..200 {
        leech(&mut directory, &agent(number), at(0));
    }
    let handout = leech(&mut directory, &agent(1_000), at(1));
    let outside = handout
        .peers
        .iter()
        .filter(|candidate| candidate.zone.as_str() == "b")
        .count();
    assert!((1..=4).contains(&outside), "{outside} outside");
    assert!(handout.peers.len() - outside >= 8);
}

#[test]
fn slow_peers_are_named_less() {
    let mut directory = directory();
    for number in 0..200 {
        let upload_bytes_per_sec = if number % 10 == 0 {
            1_000_000
        } else {
            100_000_000
        };
        let told = Announce {
            upload_bytes_per_sec,
            ..announce(vec![part(1, SwarmState::Leeching)])
        };
        directory.handle_announce(&announcer(number, "a", Role::Agent), &told, at(0));
    }
    let mut slow = 0;
    let mut all = 0;
    for number in 1_000..1_200 {
        let handout = leech(&mut directory, &announcer(number, "a", Role::Agent), at(1));
        all += handout.peers.len();
        slow += (0..200)
            .step_by(10)
            .filter(|slow| names(&handout).contains(&peer(*slow)))
            .count();
    }
    assert!(
        slow * 50 < all,
        "{slow} of {all} named are slow, as many as they are would be a tenth of the early ones"
    );
}

#[test]
fn only_the_owning_origin_is_named_and_last() {
    let mut directory = directory();
    let origins: Vec<PeerId> = (500..505).map(peer).collect();
    for number in 500..505 {
        assert!(
            directory
                .handle_connected(&announcer(number, "a", Role::Origin), at(0))
                .origins_changed
        );
    }
    leech(&mut directory, &agent(0), at(0));
    let handout = leech(&mut directory, &agent(1), at(0));
    let owner = ring::owners(&digest(1), origins.iter())[0];
    assert_eq!(names(&handout), vec![peer(0), owner]);
    assert_eq!(handout.peers.last().unwrap().role, Role::Origin);
}

#[test]
fn origin_is_named_to_a_bounded_number() {
    let mut directory = directory();
    directory.handle_connected(&announcer(500, "a", Role::Origin), at(0));
    let known: usize = (0..300)
        .filter(|number| names(&leech(&mut directory, &agent(*number), at(0))).contains(&peer(500)))
        .count();
    assert_eq!(known, 2 * limits::NEIGHBOURS);
}

#[test]
fn origins_are_told_apart_from_those_that_left() {
    let mut directory = directory();
    let origin = announcer(500, "a", Role::Origin);
    assert!(directory.handle_connected(&origin, at(0)).origins_changed);
    assert!(!directory.handle_connected(&origin, at(1)).origins_changed);
    let advertise = Some(PeerAddress {
        ip: Some("203.0.113.9".parse().unwrap()),
        port: 9,
    });
    let told = Announce {
        advertise,
        ..Announce::default()
    };
    assert!(
        directory
            .handle_announce(&origin, &told, at(2))
            .origins_changed
    );
    assert_eq!(
        directory.origins().collect::<Vec<_>>(),
        vec![(peer(500), "203.0.113.9:9".parse().unwrap())]
    );
    assert!(directory.peer_lost(peer(500), at(3)));
    assert_eq!(directory.origins().count(), 0);
}

#[test]
fn agent_may_not_advertise_another_address() {
    let mut directory = directory();
    let advertise = Some(PeerAddress {
        ip: Some("203.0.113.9".parse().unwrap()),
        port: 9,
    });
    let told = Announce {
        advertise,
        ..announce(vec![part(1, SwarmState::Leeching)])
    };
    directory.handle_announce(&agent(0), &told, at(0));
    let handout = leech(&mut directory, &agent(1), at(0));
    assert_eq!(handout.peers[0].address.ip, Some(agent(0).addr.ip()));
}

#[test]
fn address_beside_the_tracker_is_told_as_the_host_that_is_reached() {
    let local: SocketAddr = "127.0.0.1:7051".parse().unwrap();
    let far: SocketAddr = "10.0.0.1:7050".parse().unwrap();
    assert_eq!(
        super::told_address(local, far),
        PeerAddress {
            ip: None,
            port: 7051
        }
    );
    assert_eq!(super::told_address(local, local).ip, Some(local.ip()));
    assert_eq!(super::told_address(far, local).ip, Some(far.ip()));
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:7051".parse().unwrap();
    assert_eq!(super::told_address(mapped, far).ip, None);
}

#[test]
fn shape_is_believed_from_an_origin_and_from_agents_that_quote_a_live_one() {
    let mut directory = directory();
    let key = OriginKey::from_secret(&[7; 32]);
    let info = BlobInfo::sign(&key, digest(1), Geometry::for_blob(9 << 20).unwrap());
    let quoted = SwarmAnnounce {
        blob: Some(info),
        ..part(1, SwarmState::Leeching)
    };
    assert_eq!(
        say(&mut directory, &agent(0), quoted.clone(), at(0))
            .unwrap()
            .blob,
        None,
        "signed by nobody we know"
    );
    let origin = Announcer {
        peer: key.peer_id(),
        ..announcer(500, "a", Role::Origin)
    };
    directory.handle_connected(&origin, at(1));
    assert_eq!(
        say(&mut directory, &agent(0), quoted, at(2)).unwrap().blob,
        Some(info)
    );
    // It is remembered when all have left, for a while.
    directory.peer_lost(peer(0), at(3));
    assert_eq!(directory.info(&digest(1)), Some(&info));
    directory.handle_timeout(at(3) + Duration::from_secs(1_200));
    assert_eq!(directory.info(&digest(1)), None);
    assert_eq!(directory.sizes().swarms, 0);
}

#[test]
fn seeding_newcomer_is_pushed_to_those_with_few_neighbours() {
    let mut directory = directory();
    leech(&mut directory, &agent(0), at(0));
    assert!(directory.poll_push().is_none());
    say(
        &mut directory,
        &agent(1),
        part(1, SwarmState::Seeding),
        at(1),
    );
    let (to, handout) = directory.poll_push().expect("the lonely peer is told");
    assert_eq!(
        (to, names(&handout), handout.injected),
        (peer(0), vec![peer(1)], true)
    );
    assert!(directory.poll_push().is_none());
}

#[test]
fn peer_that_lost_its_neighbours_is_told_of_others() {
    let mut directory = directory();
    for number in 0..6 {
        leech(&mut directory, &agent(number), at(0));
    }
    // All but two go: those know each other already, and are told so again, with what else there is.
    for number in 0..4 {
        directory.peer_lost(peer(number), at(1));
    }
    let mut told = BTreeSet::new();
    while let Some((to, handout)) = directory.poll_push() {
        assert!(!names(&handout).contains(&to));
        told.insert(to);
    }
    assert!(told.contains(&peer(4)) && told.contains(&peer(5)));
}

#[test]
fn oldest_of_a_swarm_whose_injector_died_is_told_to_open_it() {
    let mut directory = directory();
    leech(&mut directory, &agent(0), at(0));
    assert!(leech(&mut directory, &agent(1), at(0)).injected);
    directory.peer_lost(peer(0), at(1));
    let (to, handout) = directory.poll_push().expect("it has nobody left");
    assert_eq!((to, handout.injected), (peer(1), false));
}

#[test]
fn same_inputs_give_the_same_handouts() {
    let run = || {
        let mut directory = directory();
        (0..300)
            .map(|number| names(&leech(&mut directory, &agent(number), at(0))))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn swarms_of_one_peer_are_bounded() {
    let mut directory = directory();
    let mut refused = 0;
    for round in 0u32..40 {
        let swarms = (0u32..1_000).map(|number| {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&(round * 1_000 + number).to_be_bytes());
            SwarmAnnounce {
                digest: Digest::Sha256(hash),
                ..part(1, SwarmState::Seeding)
            }
        });
        refused += directory
            .handle_announce(&agent(0), &announce(swarms.collect()), at(0))
            .refused;
    }
    assert_eq!(directory.sizes().members, limits::SWARMS_PER_PEER_MAX);
    assert_eq!(refused as usize, 40_000 - limits::SWARMS_PER_PEER_MAX);
}

#[derive(Clone, Debug)]
enum Step {
    Announce {
        who: u32,
        swarm: u8,
        seeding: bool,
        full: bool,
        stuck: Option<u32>,
    },
    Leave {
        who: u32,
        swarm: u8,
    },
    Lost {
        who: u32,
    },
    Pass {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0u32..40;
    prop_oneof![
        6 => (who.clone(), 0u8..3, any::<bool>(), prop::bool::weighted(0.1), prop::option::of(0u32..40))
            .prop_map(|(who, swarm, seeding, full, stuck)| Step::Announce { who, swarm, seeding, full, stuck }),
        1 => (who.clone(), 0u8..3).prop_map(|(who, swarm)| Step::Leave { who, swarm }),
        1 => who.prop_map(|who| Step::Lost { who }),
        1 => (1u64..60).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// A handout names only live members (or an origin), nobody twice, not the asker, not whom it called stuck.
fn check(
    handout: &Handout,
    to: PeerId,
    stuck: Option<PeerId>,
    model: &BTreeMap<(u32, u8), bool>,
) -> Result<(), TestCaseError> {
    let named = names(handout);
    prop_assert!(named.len() <= limits::HANDOUT_PEERS_MAX);
    prop_assert_eq!(
        named.iter().collect::<BTreeSet<_>>().len(),
        named.len(),
        "somebody is named twice"
    );
    for candidate in &handout.peers {
        prop_assert!(candidate.peer != to, "the asker itself");
        prop_assert!(Some(candidate.peer) != stuck, "one that it called stuck");
        let member = (0..40)
            .find(|number| peer(*number) == candidate.peer)
            .and_then(|number| {
                (0..3)
                    .find(|swarm| digest(*swarm) == handout.digest)
                    .and_then(|swarm| model.get(&(number, swarm)))
            });
        prop_assert!(
            member == Some(&candidate.seeding),
            "named: {candidate:?}, known: {member:?}"
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_only_live_members_are_named(steps in prop::collection::vec(step(), 1..300)) {
        let mut directory = directory();
        let mut model: BTreeMap<(u32, u8), bool> = BTreeMap::new();
        let mut seen: BTreeMap<u32, Instant> = BTreeMap::new();
        let mut now = at(0);
        for step in steps {
            let mut asked = None;
            let mut handouts = Vec::new();
            match step {
                Step::Announce { who, swarm, seeding, full, stuck } => {
                    let state = if seeding { SwarmState::Seeding } else { SwarmState::Leeching };
                    let stuck = stuck.map(peer).filter(|stuck| *stuck != peer(who));
                    let change = SwarmAnnounce { wants_peers: true, stuck: stuck.into_iter().collect(), ..part(swarm, state) };
                    if full {
                        model.retain(|(other, _), _| *other != who);
                    }
                    model.insert((who, swarm), seeding);
                    seen.insert(who, now);
                    let told = Announce { full, ..announce(vec![change]) };
                    handouts = directory.handle_announce(&agent(who), &told, now).handouts;
                    asked = Some((peer(who), stuck));
                }
                Step::Leave { who, swarm } => {
                    model.remove(&(who, swarm));
                    seen.insert(who, now);
                    directory.handle_announce(&agent(who), &announce(vec![part(swarm, SwarmState::Left)]), now);
                }
                Step::Lost { who } => {
                    model.retain(|(other, _), _| *other != who);
                    seen.remove(&who);
                    directory.peer_lost(peer(who), now);
                }
                Step::Pass { seconds } => {
                    now += Duration::from_secs(seconds);
                    directory.handle_timeout(now);
                    let gone: Vec<u32> = seen.iter().filter(|(_, seen)| **seen + Duration::from_secs(90) <= now).map(|(who, _)| *who).collect();
                    for who in gone {
                        // At most a tick late; from then on it must be gone.
                        directory.handle_timeout(now + Duration::from_millis(500));
                        seen.remove(&who);
                        model.retain(|(other, _), _| *other != who);
                    }
                }
            }
            for handout in &handouts {
                let (to, stuck) = asked.expect("only an announce is answered");
                check(handout, to, stuck, &model)?;
            }
            while directory.poll_push().is_some() {}
            prop_assert!(directory.sizes().members >= model.len());
        }
        prop_assert_eq!(directory.sizes().peers >= seen.len(), true);
    }
}
