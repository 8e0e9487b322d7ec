//! Who gets in and who does not, over real QUIC on loopback.
//!
//! Every await is under a deadline; nothing waits for time to pass but the tests of deadlines themselves, whose deadline is
//! short.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::wire::{CloseCode, PeerMessage};
use shoal_proto::{
    ClusterKey, Digest, JoinToken, Membership, PeerId, Role, SignedMembership, Zone,
};

use crate::*;

mod hostile;
mod streams;

const NOW: u64 = 1_800_000_000;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("a deadline of 20 s")
}

fn cluster() -> ClusterKey {
    ClusterKey::from_secret(&[1; 32])
}

fn member(key: &ClusterKey, peer: PeerId, role: Role) -> SignedMembership {
    let zone = "z1".parse().unwrap();
    key.sign(&Membership {
        peer,
        role,
        zone,
        not_after_unix_s: NOW + 60,
    })
}

fn options(membership: impl FnOnce(PeerId) -> Option<SignedMembership>) -> EndpointOptions {
    let identity = Identity::generate().unwrap();
    let credentials = Credentials::new(vec![cluster().public()], membership(identity.peer_id()));
    let credentials = credentials.with_clock(Arc::new(|| NOW));
    let mut options = EndpointOptions::new(
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        identity,
        credentials,
    );
    options.handshake_deadline = Duration::from_secs(5);
    options
}

fn as_role(role: Role) -> EndpointOptions {
    options(|peer| Some(member(&cluster(), peer, role)))
}

struct Server {
    addr: SocketAddr,
    peer: PeerId,
    acceptor: Acceptor,
    endpoint: Endpoint,
}

fn serve(options: EndpointOptions) -> Server {
    let peer = options.identity.peer_id();
    let (endpoint, acceptor) = Endpoint::bind(options).unwrap();
    Server {
        addr: endpoint.local_addr().unwrap(),
        peer,
        acceptor,
        endpoint,
    }
}

/// Dials `server` and gives what either side saw.
async fn meet(
    dialer: EndpointOptions,
    server: &mut Server,
    expect: Expect,
) -> (Result<Connected, DialError>, Result<Connected, Refused>) {
    let (endpoint, _acceptor) = Endpoint::bind(dialer).unwrap();
    let (dialed, accepted) =
        soon(async { tokio::join!(endpoint.dial(server.addr, expect), server.acceptor.next()) })
            .await;
    (dialed, accepted.unwrap())
}

/// What a refused dialer was told.
fn closed_with(dialed: &Result<Connected, DialError>) -> CloseCode {
    let Err(DialError::Handshake {
        source: HandshakeError::Link(LinkError::Closed(code)),
        ..
    }) = dialed
    else {
        panic!("{dialed:?}");
    };
    *code
}

fn refused(accepted: Result<Connected, Refused>) -> &'static str {
    accepted.map(|_| ()).unwrap_err().reason
}

#[tokio::test]
async fn members_meet_and_know_each_other() {
    let mut server = serve(as_role(Role::Origin));
    let dialer = as_role(Role::Agent);
    let dialer_peer = dialer.identity.peer_id();
    let expect = Expect::PeerAs(server.peer, Role::Origin);
    let (dialed, accepted) = meet(dialer, &mut server, expect).await;
    let (mut dialed, mut accepted) = (dialed.unwrap(), accepted.unwrap());
    assert_eq!(
        (dialed.link.peer(), dialed.link.role()),
        (server.peer, Role::Origin)
    );
    assert_eq!(
        (accepted.link.peer(), accepted.link.role()),
        (dialer_peer, Role::Agent)
    );
    assert_eq!(accepted.link.zone().as_str(), "z1");
    assert_eq!(dialed.link.peer_addr(), Some(server.addr));
    assert!(dialed.link.dialed() && !accepted.link.dialed());

    let said = PeerMessage::Interest {
        digest: Digest::Sha256([7; 32]),
    };
    dialed.sender.send(&said).await.unwrap();
    assert_eq!(
        soon(accepted.receiver.recv()).await.unwrap(),
        Some(said.clone())
    );
    accepted.sender.send(&said).await.unwrap();
    assert_eq!(soon(dialed.receiver.recv()).await.unwrap(), Some(said));
}

#[tokio::test]
async fn wrong_peer_at_the_address_is_not_spoken_to() {
    let mut server = serve(as_role(Role::Agent));
    let stranger = Identity::generate().unwrap().peer_id();
    let (dialed, accepted) = meet(as_role(Role::Agent), &mut server, Expect::Peer(stranger)).await;
    assert!(
        matches!(dialed, Err(DialError::WrongPeer { expected, .. }) if expected == stranger),
        "{dialed:?}"
    );
    assert_eq!(refused(accepted), "lost");
}

#[tokio::test]
async fn member_of_another_cluster_is_refused() {
    let mut server = serve(as_role(Role::Agent));
    let foreign = options(|peer| {
        Some(member(
            &ClusterKey::from_secret(&[2; 32]),
            peer,
            Role::Agent,
        ))
    });
    let expect = Expect::Peer(server.peer);
    let (dialed, accepted) = meet(foreign, &mut server, expect).await;
    assert_eq!(refused(accepted), "foreign_cluster");
    assert_eq!(closed_with(&dialed), CloseCode::NotAMember);
}

#[tokio::test]
async fn server_of_another_cluster_is_refused_before_anything_is_shown() {
    let mut server = serve(options(|peer| {
        Some(member(
            &ClusterKey::from_secret(&[2; 32]),
            peer,
            Role::Tracker,
        ))
    }));
    let (dialed, accepted) = meet(
        as_role(Role::Agent),
        &mut server,
        Expect::Role(Role::Tracker),
    )
    .await;
    assert!(
        matches!(
            dialed,
            Err(DialError::Handshake {
                source: HandshakeError::Membership(_),
                ..
            })
        ),
        "{dialed:?}"
    );
    assert_eq!(refused(accepted), "lost");
}

#[tokio::test]
async fn expired_membership_is_refused() {
    let mut server = serve(as_role(Role::Agent));
    let expired = options(|peer| {
        Some(cluster().sign(&Membership {
            peer,
            role: Role::Agent,
            zone: Zone::default(),
            not_after_unix_s: NOW,
        }))
    });
    let expect = Expect::Peer(server.peer);
    let (dialed, accepted) = meet(expired, &mut server, expect).await;
    assert_eq!(refused(accepted), "expired");
    assert_eq!(closed_with(&dialed), CloseCode::Expired);
}

#[tokio::test]
async fn membership_of_another_peer_is_refused() {
    let mut server = serve(as_role(Role::Agent));
    let stolen = options(|_| {
        Some(member(
            &cluster(),
            Identity::generate().unwrap().peer_id(),
            Role::Agent,
        ))
    });
    let expect = Expect::Peer(server.peer);
    let (dialed, accepted) = meet(stolen, &mut server, expect).await;
    assert_eq!(refused(accepted), "impostor");
    assert_eq!(closed_with(&dialed), CloseCode::NotAMember);
}

#[tokio::test]
async fn agent_cannot_pass_for_an_origin() {
    let mut server = serve(as_role(Role::Agent));
    let (dialed, accepted) = meet(
        as_role(Role::Agent),
        &mut server,
        Expect::Role(Role::Origin),
    )
    .await;
    let Err(DialError::Handshake {
        source: HandshakeError::WrongRole { expected, found },
        ..
    }) = dialed
    else {
        panic!("{dialed:?}");
    };
    assert_eq!((expected, found), (Role::Origin, Role::Agent));
    assert_eq!(refused(accepted), "lost");
}

#[tokio::test]
async fn link_over_the_limit_is_told_so() {
    let mut server = serve(EndpointOptions {
        links_max: 1,
        ..as_role(Role::Agent)
    });
    let expect = Expect::Peer(server.peer);
    let (first, kept) = meet(as_role(Role::Agent), &mut server, expect).await;
    let (first, kept) = (first.unwrap(), kept.unwrap());
    let (second, accepted) = meet(as_role(Role::Agent), &mut server, expect).await;
    assert_eq!(refused(accepted), "too_many_links");
    assert_eq!(closed_with(&second), CloseCode::TooManyLinks);
    drop((first, kept));
    let (third, accepted) = meet(as_role(Role::Agent), &mut server, expect).await;
    assert!(third.is_ok() && accepted.is_ok(), "{third:?} {accepted:?}");
}

#[tokio::test]
async fn close_code_reaches_the_other_side() {
    let mut server = serve(as_role(Role::Agent));
    let (dialed, accepted) =
        meet(as_role(Role::Agent), &mut server, Expect::Role(Role::Agent)).await;
    let (dialed, accepted) = (dialed.unwrap(), accepted.unwrap());
    accepted.link.close(CloseCode::Banned);
    assert_eq!(
        soon(dialed.link.closed()).await,
        LinkError::Closed(CloseCode::Banned)
    );
    assert_eq!(soon(accepted.link.closed()).await, LinkError::ClosedHere);
}

#[tokio::test]
async fn endpoint_that_leaves_says_so_on_every_link() {
    let mut server = serve(as_role(Role::Agent));
    let expect = Expect::Peer(server.peer);
    let (first, kept) = meet(as_role(Role::Agent), &mut server, expect).await;
    let (second, kept_too) = meet(as_role(Role::Agent), &mut server, expect).await;
    soon(server.endpoint.close(CloseCode::Leaving)).await;
    for dialed in [first, second] {
        let closed = soon(dialed.unwrap().link.closed()).await;
        assert_eq!(closed, LinkError::Closed(CloseCode::Leaving));
    }
    assert!(soon(server.acceptor.next()).await.is_none());
    drop((kept, kept_too));
}

struct Door {
    token: JoinToken,
    key: ClusterKey,
}

impl Admit for Door {
    fn admit(
        &self,
        peer: PeerId,
        zone: &Zone,
        secret: &[u8],
    ) -> Result<SignedMembership, AdmitError> {
        if !self.token.secret_matches(secret) {
            return Err(AdmitError::WrongSecret);
        }
        let not_after_unix_s = NOW + 60;
        Ok(self.key.sign(&Membership {
            peer,
            role: Role::Agent,
            zone: zone.clone(),
            not_after_unix_s,
        }))
    }
}

async fn try_to_join(server_role: Role, token: JoinToken) -> Result<SignedMembership, DialError> {
    let door = Door {
        token: JoinToken::new(cluster().public(), [9; 32]),
        key: cluster(),
    };
    let mut server = serve(EndpointOptions {
        admit: Some(Arc::new(door)),
        ..as_role(server_role)
    });
    let (newcomer, _acceptor) = Endpoint::bind(options(|_| None)).unwrap();
    let asked = newcomer.join(server.addr, &token, "rack-7".parse().unwrap());
    let joined = tokio::select! {
        joined = soon(asked) => joined,
        accepted = async { loop { let _ = server.acceptor.next().await; } } => accepted,
    };
    let us = newcomer.0.options.identity.peer_id();
    joined.inspect(|signed| {
        let membership = signed.check(&[cluster().public()], NOW).unwrap();
        assert_eq!((membership.peer, membership.role), (us, Role::Agent));
        assert_eq!(membership.zone.as_str(), "rack-7");
    })
}

#[tokio::test]
async fn newcomer_with_the_secret_is_let_in() {
    try_to_join(Role::Tracker, JoinToken::new(cluster().public(), [9; 32]))
        .await
        .unwrap();
}

#[tokio::test]
async fn newcomer_with_a_wrong_secret_is_not() {
    let refused = try_to_join(Role::Tracker, JoinToken::new(cluster().public(), [8; 32])).await;
    let told = LinkError::Closed(CloseCode::NotAMember);
    assert!(
        matches!(&refused, Err(DialError::Handshake { source: HandshakeError::Link(code), .. }) if *code == told),
        "{refused:?}"
    );
}

#[tokio::test]
async fn membership_that_was_set_is_shown_from_then_on() {
    let mut server = serve(as_role(Role::Agent));
    let newcomer = options(|_| None);
    let signed = member(&cluster(), newcomer.identity.peer_id(), Role::Agent);
    newcomer.credentials.set_membership(signed.clone());
    let expect = Expect::Peer(server.peer);
    let (dialed, accepted) = meet(newcomer, &mut server, expect).await;
    assert_eq!(*accepted.unwrap().link.membership(), signed);
    drop(dialed.unwrap());
}

#[tokio::test]
async fn secret_is_shown_to_no_one_but_a_tracker_of_the_cluster() {
    let to_an_agent = try_to_join(Role::Agent, JoinToken::new(cluster().public(), [9; 32])).await;
    assert!(matches!(
        to_an_agent,
        Err(DialError::Handshake {
            source: HandshakeError::WrongRole { .. },
            ..
        })
    ));
    let other = ClusterKey::from_secret(&[2; 32]).public();
    let to_strangers = try_to_join(Role::Tracker, JoinToken::new(other, [9; 32])).await;
    assert!(matches!(
        to_strangers,
        Err(DialError::Handshake {
            source: HandshakeError::Membership(_),
            ..
        })
    ));
}

#[tokio::test]
async fn process_that_has_not_joined_cannot_dial() {
    let server = serve(as_role(Role::Agent));
    let (newcomer, _acceptor) = Endpoint::bind(options(|_| None)).unwrap();
    let dialed = soon(newcomer.dial(server.addr, Expect::Peer(server.peer))).await;
    assert!(matches!(
        dialed,
        Err(DialError::Handshake {
            source: HandshakeError::NotJoined,
            ..
        })
    ));
}
