//! A peer made of a link and wire messages alone, a member in good standing, that says it holds a blob and then sends
//! something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use shoal_link::{AnswerStream, Connected, Endpoint, Expect, Link, LinkError};
use shoal_proto::wire::{
    Announce, Answer, Ask, CloseCode, PeerMessage, SwarmAnnounce, SwarmState, ToTracker,
};
use shoal_proto::{
    Bitfield, BlobInfo, OriginKey, PieceHash, PieceHasher, PieceIndex, PieceProof, Role,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::world::{World, endpoint_options, soon};

/// What it does instead of what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The true proof, and bytes of which one bit is wrong.
    FlippedBit,
    /// A proof of the bytes it sends, with a signature that the origin never made.
    ForgedProof,
    /// The true proof and the true bytes, and one byte more.
    OneByteMore,
    /// A proof of the bytes it sends, signed by itself.
    OwnProof,
    /// The true proof, half of the true bytes, and then nothing.
    Stall,
}

/// What it knows of the blob, and what it makes of it.
#[derive(Clone)]
pub(crate) struct Story {
    pub(crate) info: BlobInfo,
    pub(crate) blob: Bytes,
    /// The origin's key: stands for the true proofs that the liar once got.
    pub(crate) origin: OriginKey,
    pub(crate) lie: Lie,
}

/// A running liar.
pub(crate) struct Liar {
    /// How the victim closed the link, once it has.
    closed: watch::Receiver<Option<LinkError>>,
    pub(crate) asked: Arc<AtomicU32>,
    stop: CancellationToken,
    endpoint: Endpoint,
    _tracker: Connected,
}

impl Liar {
    /// Tells the tracker that it holds the whole blob, and waits for those who believe it.
    pub(crate) async fn start(world: &World, story: Story) -> Self {
        let (identity, _, options) =
            endpoint_options(&world.key, Role::Agent, ([127, 0, 0, 1], 0).into());
        let (endpoint, mut acceptor) = Endpoint::bind(options).unwrap();
        let dialed = endpoint.dial(world.tracker_addr, Expect::Role(Role::Tracker));
        let mut tracker = soon(dialed).await.unwrap();
        let announce = ToTracker::Announce(Announce {
            full: true,
            swarms: vec![SwarmAnnounce {
                digest: story.info.digest,
                state: SwarmState::Seeding,
                held: story.info.geometry.piece_count().get(),
                wants_peers: false,
                blob: Some(story.info),
                stuck: Vec::new(),
            }],
            ..Announce::default()
        });
        soon(tracker.sender.send(&announce)).await.unwrap();
        let (closed_in, closed) = watch::channel(None);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let asked = Arc::new(AtomicU32::new(0));
        let (counted, own) = (Arc::clone(&asked), identity.origin_key());
        let living = async move {
            while let Some(incoming) = acceptor.next().await {
                let Ok(connected) = incoming else { continue };
                let (story, own) = (story.clone(), own.clone());
                let (counted, closed_in) = (Arc::clone(&counted), closed_in.clone());
                let link = connected.link.clone();
                let (inner, child) = (TaskTracker::new(), CancellationToken::new());
                let talk = talk(connected, story.clone());
                inner.spawn(child.clone().run_until_cancelled_owned(talk));
                let lies = lie_on(link.clone(), story, own, counted);
                inner.spawn(child.clone().run_until_cancelled_owned(lies));
                tasks.spawn(async move {
                    let why = link.closed().await;
                    child.cancel();
                    closed_in.send_replace(Some(why));
                });
            }
        };
        let outer = TaskTracker::new();
        outer.spawn(stop.clone().run_until_cancelled_owned(living));
        Self {
            closed,
            asked,
            stop,
            endpoint,
            _tracker: tracker,
        }
    }

    /// Waits until somebody banned it.
    pub(crate) async fn is_banned(&mut self) {
        let banned = Some(LinkError::Closed(CloseCode::Banned));
        soon(self.closed.wait_for(|why| *why == banned))
            .await
            .unwrap();
    }

    /// Waits until somebody asked it for a piece.
    pub(crate) async fn was_asked(&self) {
        super::world::until(|| async { self.asked.load(Ordering::SeqCst) > 0 }).await;
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        soon(self.endpoint.close(CloseCode::Done)).await;
    }
}

async fn talk(connected: Connected, story: Story) {
    let Connected {
        mut sender,
        mut receiver,
        ..
    } = connected;
    let digest = story.info.digest;
    let holds = PeerMessage::Holds {
        digest,
        bitfield: Bitfield::full(story.info.geometry.piece_count()).encode(),
    };
    while let Ok(Some(message)) = receiver.recv().await {
        if matches!(message, PeerMessage::Interest { .. }) {
            let info = PeerMessage::Info { info: story.info };
            for message in [PeerMessage::Interest { digest }, info, holds.clone()] {
                if sender.send(&message).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn lie_on(link: Link, story: Story, own: OriginKey, asked: Arc<AtomicU32>) {
    let lies = TaskTracker::new();
    while let Ok(mut stream) = link.accept_ask().await {
        let Ok(Ask::Piece { index, .. }) = stream.recv.read_message::<Ask>().await else {
            return;
        };
        asked.fetch_add(1, Ordering::SeqCst);
        let piece = story.info.geometry.piece(index).unwrap();
        lies.spawn(tell(stream, story.clone(), own.clone(), piece));
    }
}

async fn tell(mut stream: AnswerStream, story: Story, own: OriginKey, piece: PieceIndex) {
    let Story {
        info,
        blob,
        origin,
        lie,
    } = story;
    let range = info.geometry.range_of(piece);
    let start = usize::try_from(range.start).unwrap();
    let truth = blob.slice(start..usize::try_from(range.end).unwrap());
    let mut wrong = truth.to_vec();
    wrong[truth.len() / 2] ^= 1;
    let (proof, bytes) = match lie {
        Lie::FlippedBit => (PieceProof::sign(&origin, &info, piece, hash(&truth)), wrong),
        Lie::ForgedProof => {
            let mut proof = PieceProof::sign(&own, &info, piece, hash(&wrong));
            proof.origin = origin.peer_id();
            (proof, wrong)
        }
        Lie::OneByteMore => {
            let mut more = truth.to_vec();
            more.push(0);
            (PieceProof::sign(&origin, &info, piece, hash(&truth)), more)
        }
        Lie::OwnProof => (PieceProof::sign(&own, &info, piece, hash(&wrong)), wrong),
        Lie::Stall => {
            let half = truth[..truth.len() / 2].to_vec();
            (PieceProof::sign(&origin, &info, piece, hash(&truth)), half)
        }
    };
    // A victim that gives the stream up is what is hoped for.
    let _ = stream.send.write_message(&Answer::piece(&proof)).await;
    let _ = stream.send.write_bytes(bytes.into()).await;
    if lie == Lie::Stall {
        stream.send.taken().await;
    } else {
        stream.send.finish();
    }
}

fn hash(bytes: &[u8]) -> PieceHash {
    let mut hasher = PieceHasher::new();
    hasher.update(bytes);
    hasher.finish()
}
