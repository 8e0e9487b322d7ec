//! What to do: everything a [`Node`](crate::Node) ever asks of its driver, in imperatives.
//!
//! Not here: how. An action names peers, blobs and pieces; bytes, sockets, credentials and retries of a single
//! call are the driver's. An action is done in the order in which it was polled, as far as one peer or one blob
//! is concerned.

use std::net::SocketAddr;

use crate::wire::{CloseCode, PeerMessage, Refusal};
use crate::{BlobInfo, Digest, PeerId, PieceIndex};

use super::input::{RequestId, TransferId};

/// How far a swarm is, in the words of the announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwarmState {
    /// Still wants pieces.
    Leeching,
    /// Takes part no more.
    Left,
    /// Holds every piece.
    Seeding,
}

/// What the tracker is to learn of one swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmChange {
    /// Which blob.
    pub digest: Digest,
    /// How far we are.
    pub state: SwarmState,
    /// Pieces held.
    pub held: u32,
    /// Answer with a handout, please.
    pub wants_peers: bool,
    /// The shape, once known.
    pub info: Option<BlobInfo>,
    /// Neighbours that do not help; at most [`STUCK_PEERS_MAX`](crate::limits::STUCK_PEERS_MAX).
    pub stuck: Vec<PeerId>,
}

/// Why a blob cannot be had. Its readers fail, its swarm is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// All pieces verified and the whole digest is wrong.
    CommitFailed,
    /// Upstream, or our own policy, does not permit it.
    Denied(Refusal),
    /// Nobody who has it can be reached.
    NoSource,
    /// Upstream says there is no such blob.
    NotFound(Refusal),
    /// An origin took it back: its bytes add up to another digest.
    Poisoned,
    /// Our own store cannot take it.
    StoreFailed,
}

/// Everything a node asks for.
#[derive(Clone, Debug)]
pub enum Action {
    /// Tell the tracker. Batched by the driver with other changes that are due.
    Announce {
        /// What changed; everything when `full`.
        swarms: Vec<SwarmChange>,
        /// The tracker may have forgotten us.
        full: bool,
    },
    /// Stop this fetch. No `Fetched` or `FetchFailed` needs to follow; one that was under way is ignored.
    CancelFetch {
        /// Which fetch.
        transfer: TransferId,
    },
    /// The swarm was idle past its grace: forget its source and its readers' state. The store keeps the blob.
    Closed {
        /// Which blob.
        digest: Digest,
    },
    /// Every piece is held: check the whole digest and commit, then `Completed` or `CommitFailed`.
    Commit {
        /// Which blob.
        digest: Digest,
    },
    /// Bring a link up, then `Connected` or `DialFailed`.
    Dial {
        /// Who must answer.
        peer: PeerId,
        /// Where.
        addr: SocketAddr,
    },
    /// The readers of this blob fail. The swarm is gone.
    Failed {
        /// Which blob.
        digest: Digest,
        /// What to tell them.
        reason: FailReason,
    },
    /// Ask a peer for a piece, then `Fetched` or `FetchFailed`.
    Fetch {
        /// The name under which it is answered.
        transfer: TransferId,
        /// Whom to ask.
        peer: PeerId,
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: PieceIndex,
    },
    /// Close the link with this peer. No `PeerLost` needs to follow.
    Hangup {
        /// With whom.
        peer: PeerId,
        /// What to tell it.
        code: CloseCode,
    },
    /// A piece is newly held: wake the readers that wait for it.
    Hold {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: PieceIndex,
    },
    /// The shape of a wanted blob is known for the first time: create the partial, send the headers.
    Learned {
        /// The shape, as it was handed in.
        info: BlobInfo,
    },
    /// Ask an origin to bring the blob from upstream, then `Opened`. The driver knows the source and the
    /// caller's credential; it dials the origin if there is no link.
    Open {
        /// Which blob.
        digest: Digest,
        /// Which origin.
        origin: PeerId,
    },
    /// Answer a request with no.
    Refuse {
        /// Which request.
        request: RequestId,
        /// Why, until when, and who else.
        refusal: Refusal,
    },
    /// Say this on the control stream.
    Say {
        /// To whom.
        peer: PeerId,
        /// What.
        message: PeerMessage,
    },
    /// Answer a request with the piece, then `Served`.
    Serve {
        /// Which request.
        request: RequestId,
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: PieceIndex,
    },
}
