//! Who gets in and who does not, over real QUIC on loopback.
//!
//! Every await is under a deadline; nothing waits for time to pass but the tests of deadlines themselves, whose deadline is
//! short.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::wire::{Answer, Ask, CloseCode, PeerMessage, Refusal, RefusalCode};
use shoal_proto::{
    ClusterKey, Digest, JoinToken, Membership, PeerId, Role, SignedMembership, Zone,
};

use crate::*;

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
    _endpoint: Endpoint,
}

fn serve(options: EndpointOptions) -> Server {
    let peer = options.identity.peer_id();
    let (endpoint, acceptor) = Endpoint::bind(options).unwrap();
    Server {
        addr: endpoint.local_addr().unwrap(),
        peer,
        acceptor,
        _endpoint: endpoint,
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
async fn questions_are_answered_on_their_own_stream() {
    let mut server = serve(as_role(Role::Agent));
    let (dialed, accepted) =
        meet(as_role(Role::Agent), &mut server, Expect::Role(Role::Agent)).await;
    let (dialed, accepted) = (dialed.unwrap(), accepted.unwrap());
    let question = Ask::Piece {
        digest: Digest::Sha256([7; 32]),
        index: 3,
    };
    let answer = Answer::Refusal(Refusal::new(RefusalCode::Busy));
    let asking = async {
        let mut stream = dialed.link.open_ask().await.unwrap();
        stream.send.write_message(&question).await.unwrap();
        stream.send.finish();
        let answer: Answer = stream.recv.read_message().await.unwrap();
        (answer, stream.recv.read_bytes(9).await.unwrap())
    };
    let answering = async {
        let mut stream = accepted.link.accept_ask().await.unwrap();
        assert_eq!(stream.recv.read_message::<Ask>().await.unwrap(), question);
        stream.send.write_message(&answer).await.unwrap();
        stream
            .send
            .write_bytes(bytes::Bytes::from_static(b"piece"))
            .await
            .unwrap();
        stream.send.finish();
        stream.send.taken().await
    };
    let ((got, bytes), taken) = soon(async { tokio::join!(asking, answering) }).await;
    assert_eq!(got, answer);
    assert_eq!(bytes.as_deref(), Some(&b"piece"[..]));
    assert!(taken);
}

#[tokio::test]
async fn wrong_peer_at_the_address_is_not_spoken_to() {
    let mut server = serve(as_role(Role::Agent));
    let stranger = Identity::generate().unwrap().peer_id();
    let (dialed, accepted) = meet(as_role(Role::Agent), &mut server, Expect::Peer(stranger)).await;
    assert!(
        matches!(dialed, Err(DialError::Unreachable { .. })),
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
    let Err(DialError::Handshake {
        source: HandshakeError::Link(LinkError::Closed(code)),
        ..
    }) = dialed
    else {
        panic!("{dialed:?}");
    };
    assert_eq!(code, CloseCode::NotAMember);
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
    assert!(dialed.is_err());
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
    assert!(dialed.is_err());
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
    if let Ok(second) = second {
        assert_eq!(
            soon(second.link.closed()).await,
            LinkError::Closed(CloseCode::TooManyLinks)
        );
    }
    drop((first, kept));
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

/// A peer that gets through TLS and then misbehaves.
async fn raw_dial(server: SocketAddr) -> (quinn::Endpoint, quinn::Connection) {
    let tls = tls::Tls::new(&Identity::generate().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls.client(None).unwrap()));
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let connection = endpoint
        .connect_with(config, server, "x")
        .unwrap()
        .await
        .unwrap();
    (endpoint, connection)
}

#[tokio::test]
async fn silent_connection_is_dropped_at_the_deadline() {
    let mut server = serve(EndpointOptions {
        handshake_deadline: Duration::from_millis(300),
        ..as_role(Role::Agent)
    });
    let (_raw, accepted) =
        soon(async { tokio::join!(raw_dial(server.addr), server.acceptor.next()) }).await;
    assert_eq!(refused(accepted.unwrap()), "too_slow");
}

#[tokio::test]
async fn oversized_first_frame_is_refused_unread() {
    let mut server = serve(as_role(Role::Agent));
    let addr = server.addr;
    let dialing = async {
        let (endpoint, connection) = raw_dial(addr).await;
        let (mut send, recv) = connection.accept_bi().await.unwrap();
        send.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        (endpoint, connection, send, recv)
    };
    let (raw, accepted) = soon(async { tokio::join!(dialing, server.acceptor.next()) }).await;
    assert_eq!(refused(accepted.unwrap()), "malformed");
    let closed = soon(raw.1.closed()).await;
    assert_eq!(
        LinkError::from(closed),
        LinkError::Closed(CloseCode::Violation)
    );
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
    assert!(
        matches!(refused, Err(DialError::Handshake { .. })),
        "{refused:?}"
    );
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
