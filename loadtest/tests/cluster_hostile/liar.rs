//! A member in good standing, made of a link and wire messages alone, that says it holds a blob and sends something else.
//!
//! Not here: what becomes of it (`main.rs`).

use shoal_link::{
    AnswerStream, Connected, Credentials, Endpoint, EndpointOptions, Expect, Identity,
};
use shoal_loadtest::cluster::Member;
use shoal_loadtest::workload::Layer;
use shoal_proto::wire::{Announce, Answer, Ask, PeerMessage, SwarmAnnounce, SwarmState, ToTracker};
use shoal_proto::{
    Bitfield, BlobInfo, ClusterKey, Geometry, Membership, OriginKey, PieceHash, PieceHasher,
    PieceIndex, PieceProof, Role, SignedMembership, Zone,
};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// What it does instead of what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The true proof, and bytes of which one bit is wrong.
    FlippedBit,
    /// Wrong bytes with a proof of them, under a signature that the origin never made.
    ForgedProof,
    /// Wrong bytes with a proof of them that it signed itself, saying that it is an origin.
    OwnProof,
}

/// The secrets of a cluster under test, read from its origin's folder: they stand for what a liar may have overheard.
pub(crate) struct Secrets {
    pub(crate) key: ClusterKey,
    pub(crate) origin: OriginKey,
}

impl Secrets {
    pub(crate) fn of(origin: &Member) -> Self {
        let key = std::fs::read_to_string(origin.data().join("cluster.key")).expect("readable");
        let identity =
            Identity::load_or_create(&origin.data().join("identity.key")).expect("readable");
        Self {
            key: ClusterKey::parse(&key).expect("a key"),
            origin: identity.origin_key(),
        }
    }

    pub(crate) fn sign(
        &self,
        identity: &Identity,
        role: Role,
        not_after_unix_s: u64,
    ) -> SignedMembership {
        sign(&self.key, identity, role, not_after_unix_s)
    }
}

pub(crate) fn sign(
    key: &ClusterKey,
    identity: &Identity,
    role: Role,
    not_after_unix_s: u64,
) -> SignedMembership {
    key.sign(&Membership {
        peer: identity.peer_id(),
        role,
        zone: Zone::default(),
        not_after_unix_s,
    })
}

/// An endpoint that shows this membership and believes the cluster's.
pub(crate) fn endpoint(
    secrets: &Secrets,
    identity: &Identity,
    shown: SignedMembership,
) -> (Endpoint, shoal_link::Acceptor) {
    let credentials = Credentials::new(vec![secrets.key.public()], Some(shown));
    let options = EndpointOptions::new(([127, 0, 0, 1], 0).into(), identity.clone(), credentials);
    Endpoint::bind(options).expect("a port")
}

/// A running liar; it ends when this is dropped.
pub(crate) struct Liar {
    asked: watch::Receiver<u64>,
    _tracker: Connected,
    _living: DropGuard,
}

#[derive(Clone)]
struct Story {
    lie: Lie,
    layer: Layer,
    info: BlobInfo,
    origin: OriginKey,
    own: OriginKey,
    vouch: SignedMembership,
}

impl Liar {
    /// Tells the tracker that it holds the whole blob, and waits for those who believe it.
    pub(crate) async fn start(origin: &Member, layer: &Layer, lie: Lie) -> Self {
        let secrets = Secrets::of(origin);
        let identity = Identity::generate().expect("a key");
        let shown = secrets.sign(&identity, Role::Agent, u64::MAX / 2);
        let (endpoint, mut acceptor) = endpoint(&secrets, &identity, shown.clone());
        let dialed = endpoint
            .dial(origin.addresses().tracker, Expect::Role(Role::Tracker))
            .await;
        let mut tracker = dialed.expect("a member in good standing is let in");
        let geometry = Geometry::for_blob(layer.len()).expect("a size that a blob can have");
        let info = BlobInfo::sign(&secrets.origin, layer.digest(), geometry);
        let own = identity.origin_key();
        let story = Story {
            lie,
            layer: layer.clone(),
            info,
            origin: secrets.origin,
            own,
            vouch: shown,
        };
        tracker
            .sender
            .send(&announce(&info))
            .await
            .expect("the tracker listens");
        let (count, asked) = watch::channel(0);
        let living = CancellationToken::new();
        let tasks = TaskTracker::new();
        let within = tasks.clone();
        tasks.spawn(living.clone().run_until_cancelled_owned(async move {
            // Held so that the port stays open.
            let _endpoint = endpoint;
            while let Some(incoming) = acceptor.next().await {
                if let Ok(connected) = incoming {
                    within.spawn(lie_to(connected, story.clone(), count.clone()));
                }
            }
        }));
        Self {
            asked,
            _tracker: tracker,
            _living: living.drop_guard(),
        }
    }

    /// Waits until somebody asked it for a piece.
    pub(crate) async fn was_asked(&mut self) {
        self.asked
            .wait_for(|asked| *asked > 0)
            .await
            .expect("it lives");
    }
}

fn announce(info: &BlobInfo) -> ToTracker {
    let swarm = SwarmAnnounce {
        digest: info.digest,
        state: SwarmState::Seeding,
        held: info.geometry.piece_count().get(),
        wants_peers: false,
        blob: Some(*info),
        stuck: Vec::new(),
    };
    ToTracker::Announce(Announce {
        full: true,
        swarms: vec![swarm],
        ..Announce::default()
    })
}

async fn lie_to(connected: Connected, story: Story, count: watch::Sender<u64>) {
    let Connected {
        link,
        mut sender,
        mut receiver,
        ..
    } = connected;
    let (digest, pieces) = (story.info.digest, story.info.geometry.piece_count());
    let claims = [
        PeerMessage::Vouch {
            membership: story.vouch.clone(),
        },
        PeerMessage::Interest { digest },
        PeerMessage::Info { info: story.info },
        PeerMessage::Holds {
            digest,
            bitfield: Bitfield::full(pieces).encode(),
        },
    ];
    let talk = async {
        while let Ok(Some(message)) = receiver.recv().await {
            if matches!(message, PeerMessage::Interest { .. }) {
                for claim in &claims {
                    if sender.send(claim).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let answer = async {
        while let Ok(mut stream) = link.accept_ask().await {
            let Ok(Ask::Piece { index, .. }) = stream.recv.read_message::<Ask>().await else {
                return;
            };
            count.send_modify(|asked| *asked += 1);
            let piece = story
                .info
                .geometry
                .piece(index)
                .expect("the victim asks for pieces that are");
            tell(stream, &story, piece).await;
        }
    };
    futures_util::future::join(talk, answer).await;
}

async fn tell(mut stream: AnswerStream, story: &Story, piece: PieceIndex) {
    let range = story.info.geometry.range_of(piece);
    let truth = story.layer.read_at(range.start, range.end - range.start);
    let mut wrong = truth.to_vec();
    wrong[truth.len() / 2] ^= 1;
    let proof = match story.lie {
        Lie::FlippedBit => PieceProof::sign(&story.origin, &story.info, piece, hash(&truth)),
        Lie::ForgedProof => {
            let mut proof = PieceProof::sign(&story.own, &story.info, piece, hash(&wrong));
            proof.origin = story.origin.peer_id();
            proof
        }
        Lie::OwnProof => PieceProof::sign(&story.own, &story.info, piece, hash(&wrong)),
    };
    // A victim that gives the stream up is what is hoped for.
    let _given_up = stream.send.write_message(&Answer::piece(&proof)).await;
    let _given_up = stream.send.write_bytes(wrong.into()).await;
    stream.send.finish();
}

fn hash(bytes: &[u8]) -> PieceHash {
    let mut hasher = PieceHasher::new();
    hasher.update(bytes);
    hasher.finish()
}
