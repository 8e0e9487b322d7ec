//! The tracker over real QUIC: who is let in, what they are told, and when.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::net::SocketAddr;
use std::time::Duration;

use shoal_link::{
    Acceptor, Connected, ControlReceiver, Credentials, DialError, Endpoint, EndpointOptions,
    Expect, Identity,
};
use shoal_proto::wire::{
    Announce, Cluster, FromTracker, Handout, PeerMessage, SwarmAnnounce, SwarmState, ToTracker,
};
use shoal_proto::{Digest, JoinToken, Role, Zone};
use shoal_tracker::cluster::{ClusterSecrets, SecretFiles, unix_now};
use shoal_tracker::{Tracker, TrackerOptions};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DEADLINE: Duration = Duration::from_secs(20);

struct Scene {
    tracker: Tracker,
    secrets: ClusterSecrets,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = SecretFiles {
            data_dir: dir.path(),
            key_file: None,
            join_token_file: None,
        };
        let secrets = ClusterSecrets::load_or_create(&files).unwrap();
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let options = TrackerOptions {
            listen: loopback(),
            identity: Identity::generate().unwrap(),
            secrets: secrets.clone(),
            zone: Zone::default(),
            membership_life: Duration::from_secs(3_600),
            public_keys: Vec::new(),
            announce_interval: Duration::from_secs(30),
        };
        let tracker = Tracker::start(options, &shutdown, &tasks).unwrap();
        Self {
            tracker,
            secrets,
            shutdown,
            tasks,
            _dir: dir,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.tracker.local_addr()
    }

    /// A member as it would be after joining.
    async fn member(&self, role: Role) -> Member {
        let stranger = Stranger::knowing(vec![self.secrets.public()]);
        let signed = self.secrets.sign(
            stranger.identity.peer_id(),
            role,
            &Zone::default(),
            unix_now() + 600,
        );
        stranger.shown.set_membership(signed);
        let connected = within(
            stranger
                .endpoint
                .dial(self.addr(), Expect::Role(Role::Tracker)),
        )
        .await
        .unwrap();
        Member::new(stranger, connected)
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.tasks.close();
        within(self.tasks.wait()).await;
    }
}

/// A process that has not joined.
struct Stranger {
    identity: Identity,
    endpoint: Endpoint,
    _acceptor: Acceptor,
    shown: Credentials,
}

impl Stranger {
    fn new() -> Self {
        Self::knowing(Vec::new())
    }

    fn knowing(keys: Vec<shoal_proto::ClusterPublicKey>) -> Self {
        let identity = Identity::generate().unwrap();
        let shown = Credentials::new(keys, None);
        let (endpoint, acceptor) = Endpoint::bind(EndpointOptions::new(
            loopback(),
            identity.clone(),
            shown.clone(),
        ))
        .unwrap();
        Self {
            identity,
            endpoint,
            _acceptor: acceptor,
            shown,
        }
    }
}

struct Member {
    stranger: Stranger,
    link: shoal_link::Link,
    sender: shoal_link::ControlSender,
    receiver: ControlReceiver<FromTracker>,
}

impl Member {
    fn new(stranger: Stranger, connected: Connected) -> Self {
        let Connected {
            link,
            sender,
            receiver,
        } = connected;
        Self {
            stranger,
            link,
            sender,
            receiver: receiver.reads(),
        }
    }

    async fn announce(&mut self, state: SwarmState) {
        let swarm = SwarmAnnounce {
            digest: Digest::Sha256([1; 32]),
            state,
            held: 0,
            wants_peers: state == SwarmState::Leeching,
            blob: None,
            stuck: Vec::new(),
        };
        let announce = Announce {
            full: true,
            swarms: vec![swarm],
            ..Announce::default()
        };
        within(self.sender.send(&ToTracker::Announce(announce)))
            .await
            .unwrap();
    }

    async fn next(&mut self) -> FromTracker {
        within(self.receiver.recv())
            .await
            .unwrap()
            .expect("the tracker goes on talking")
    }

    async fn handout(&mut self) -> Handout {
        loop {
            if let FromTracker::Handout(handout) = self.next().await {
                return handout;
            }
        }
    }

    async fn cluster(&mut self) -> Cluster {
        loop {
            if let FromTracker::Cluster(cluster) = self.next().await {
                return cluster;
            }
        }
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("within the deadline")
}

#[tokio::test]
async fn token_lets_an_agent_in_and_only_as_an_agent() {
    let scene = Scene::new();
    let stranger = Stranger::knowing(vec![scene.secrets.public()]);
    let zone: Zone = "rack-7".parse().unwrap();
    let signed = within(stranger.endpoint.join(
        scene.addr(),
        scene.secrets.current_token(),
        zone.clone(),
    ))
    .await
    .unwrap();
    let membership = signed.check(&[scene.secrets.public()], unix_now()).unwrap();
    assert_eq!(
        (membership.peer, membership.role, membership.zone),
        (stranger.identity.peer_id(), Role::Agent, zone)
    );
    assert!(membership.not_after_unix_s <= unix_now() + 3_600);
    stranger.shown.set_membership(signed);
    let connected = within(
        stranger
            .endpoint
            .dial(scene.addr(), Expect::Role(Role::Tracker)),
    )
    .await
    .unwrap();
    let mut member = Member::new(stranger, connected);
    assert!(member.cluster().await.origins.is_empty());
    scene.end().await;
}

#[tokio::test]
async fn wrong_and_foreign_tokens_are_refused() {
    let (scene, other) = (Scene::new(), Scene::new());
    let stranger = Stranger::new();
    let wrong = JoinToken::new(scene.secrets.public(), [7; 32]);
    for token in [&wrong, other.secrets.current_token()] {
        let refused = within(stranger.endpoint.join(scene.addr(), token, Zone::default())).await;
        assert!(
            matches!(refused, Err(DialError::Handshake { .. })),
            "{refused:?}"
        );
    }
    scene.end().await;
    other.end().await;
}

#[tokio::test]
async fn member_of_another_cluster_is_refused() {
    let (scene, other) = (Scene::new(), Scene::new());
    // It believes this cluster's tracker, and shows a membership of its own cluster.
    let stranger = Stranger::knowing(vec![scene.secrets.public(), other.secrets.public()]);
    let signed = other.secrets.sign(
        stranger.identity.peer_id(),
        Role::Agent,
        &Zone::default(),
        unix_now() + 600,
    );
    stranger.shown.set_membership(signed);
    let dialed = within(
        stranger
            .endpoint
            .dial(scene.addr(), Expect::Role(Role::Tracker)),
    )
    .await;
    match dialed {
        Err(_) => {}
        // It may learn of the refusal only when it listens.
        Ok(connected) => {
            let mut member = Member::new(stranger, connected);
            assert!(!matches!(within(member.receiver.recv()).await, Ok(Some(_))));
        }
    }
    assert_eq!(scene.tracker.status().await["counts"]["peers"], 0);
    scene.end().await;
    other.end().await;
}

#[tokio::test]
async fn peers_are_introduced_by_the_address_they_come_from() {
    let scene = Scene::new();
    let (mut first, mut second) = (
        scene.member(Role::Agent).await,
        scene.member(Role::Agent).await,
    );
    first.announce(SwarmState::Leeching).await;
    assert!(first.handout().await.peers.is_empty());
    second.announce(SwarmState::Leeching).await;
    let handout = second.handout().await;
    assert_eq!(handout.peers.len(), 1);
    assert_eq!(handout.peers[0].peer, first.stranger.identity.peer_id());
    let told = handout.peers[0]
        .address
        .resolve("192.0.2.1".parse().unwrap());
    assert_eq!(told, first.stranger.endpoint.local_addr().unwrap());
    assert!(handout.injected);
    scene.end().await;
}

#[tokio::test]
async fn loss_of_a_neighbour_is_told_unasked() {
    let scene = Scene::new();
    let (mut first, mut second) = (
        scene.member(Role::Agent).await,
        scene.member(Role::Agent).await,
    );
    first.announce(SwarmState::Leeching).await;
    first.handout().await;
    second.announce(SwarmState::Leeching).await;
    assert!(second.handout().await.injected);
    first.link.close(shoal_proto::wire::CloseCode::Leaving);
    let pushed = second.handout().await;
    assert!(
        !pushed.injected,
        "it is alone now, and has to see to the blob itself"
    );
    scene.end().await;
}

#[tokio::test]
async fn everybody_is_told_when_an_origin_comes_and_goes() {
    let scene = Scene::new();
    let mut agent = scene.member(Role::Agent).await;
    assert!(agent.cluster().await.origins.is_empty());
    let origin = scene.member(Role::Origin).await;
    let told = agent.cluster().await;
    assert_eq!(told.origins.len(), 1);
    let membership = told.origins[0]
        .membership
        .check(&[scene.secrets.public()], unix_now())
        .unwrap();
    assert_eq!(
        (membership.peer, membership.role),
        (origin.stranger.identity.peer_id(), Role::Origin)
    );
    origin.link.close(shoal_proto::wire::CloseCode::Leaving);
    assert!(agent.cluster().await.origins.is_empty());
    scene.end().await;
}

#[tokio::test]
async fn newer_link_of_a_peer_replaces_the_older() {
    let scene = Scene::new();
    let mut older = scene.member(Role::Agent).await;
    older.announce(SwarmState::Seeding).await;
    older.cluster().await;
    let newer = within(
        older
            .stranger
            .endpoint
            .dial(scene.addr(), Expect::Role(Role::Tracker)),
    )
    .await
    .unwrap();
    let mut newer = newer.receiver.reads::<FromTracker>();
    assert!(matches!(
        within(newer.recv()).await,
        Ok(Some(FromTracker::Cluster(_)))
    ));
    within(older.link.closed()).await;
    assert_eq!(scene.tracker.status().await["counts"]["links"], 1);
    scene.end().await;
}

#[tokio::test]
async fn nonsense_ends_the_link_and_nothing_else() {
    let scene = Scene::new();
    let mut liar = scene.member(Role::Agent).await;
    let mut honest = scene.member(Role::Agent).await;
    // Messages of another conversation. No kind of the first is known to a tracker, which might be of the next release.
    let digest = Digest::Sha256([1; 32]);
    let unknown = PeerMessage::Free { digest };
    liar.sender.send(&unknown).await.unwrap();
    liar.announce(SwarmState::Leeching).await;
    assert!(liar.handout().await.peers.is_empty());
    // The second has the number of an announce, and cannot be read as one.
    let nonsense = PeerMessage::Interest { digest };
    let _ = liar.sender.send(&nonsense).await;
    within(liar.link.closed()).await;
    honest.announce(SwarmState::Leeching).await;
    assert!(honest.handout().await.peers.is_empty());
    scene.end().await;
}
