//! What reaches the driver: commands of handles, reports of tasks. One enum each, and nothing else comes in.
//!
//! Both queues are bounded, and only their senders ever wait: the driver itself waits for nobody.

use std::sync::Arc;

use shoal_link::Link;
use shoal_proto::wire::{PeerMessage, Refusal, Source};
use shoal_proto::{
    Bitfield, BlobInfo, ByteRange, Candidate, Digest, FetchFailure, OriginAddress, PeerId,
    PieceIndex, RequestId, TransferId,
};
use tokio::sync::{oneshot, watch};

use crate::cursor::Cursor;
use crate::exchange::asked::PendingAnswer;
use crate::exchange::link_task::Arrived;
use crate::exchange::serve::Ended;
use crate::status::Status;
use crate::store::StoreError;
use crate::view::BlobView;

/// What a handle asks of the driver.
pub(crate) enum Command {
    Completed {
        digest: Digest,
    },
    /// A link with this peer, dialed if there is none.
    Connect {
        peer: PeerId,
        reply: oneshot::Sender<Option<Link>>,
    },
    Evicted {
        digest: Digest,
    },
    Ingested {
        digest: Digest,
        piece: PieceIndex,
    },
    Open {
        digest: Digest,
        source: Source,
        range: Option<ByteRange>,
        /// `None`: nobody reads, bring it all.
        cursor: Option<Arc<Cursor>>,
        reply: oneshot::Sender<watch::Receiver<BlobView>>,
    },
    Poisoned {
        digest: Digest,
    },
    /// The disk lost something of this blob.
    Recheck {
        digest: Digest,
    },
    Seed {
        info: BlobInfo,
        held: Bitfield,
        complete: bool,
    },
    /// The shape of a blob that is being brought.
    Shape {
        digest: Digest,
        reply: oneshot::Sender<Option<BlobInfo>>,
    },
    Status {
        reply: oneshot::Sender<Status>,
    },
}

/// Tells two links with the same peer apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkSerial(pub(crate) u64);

/// What a task has to tell.
pub(crate) enum Report {
    /// A peer asks for a piece.
    Asked {
        peer: PeerId,
        digest: Digest,
        index: u32,
        answer: PendingAnswer,
    },
    Committed {
        digest: Digest,
        result: Result<(), StoreError>,
    },
    Created {
        info: BlobInfo,
        result: Result<Vec<Digest>, StoreError>,
    },
    DialFailed {
        peer: PeerId,
    },
    Fetched {
        transfer: TransferId,
        result: Result<(), FetchFailure>,
    },
    LinkLost {
        peer: PeerId,
        serial: LinkSerial,
    },
    Linked(Box<Arrived>),
    Opened {
        digest: Digest,
        origin: PeerId,
        result: Result<BlobInfo, Refusal>,
    },
    Said {
        peer: PeerId,
        serial: LinkSerial,
        message: PeerMessage,
    },
    Served {
        request: RequestId,
        digest: Digest,
        ended: Ended,
    },
    Tracker(TrackerReport),
}

/// What the tracker client has to tell.
#[expect(
    clippy::large_enum_variant,
    reason = "a handout is what is nearly always reported"
)]
pub(crate) enum TrackerReport {
    Down,
    Handed {
        digest: Digest,
        info: Option<BlobInfo>,
        peers: Vec<Candidate>,
        injected: bool,
    },
    Origins(Vec<OriginAddress>),
    Up {
        tracker: String,
    },
}
