//! What happened: everything a [`Node`](crate::Node) is ever told, in past participles.
//!
//! Not here: bytes. A piece is verified and stored before the core hears of it (I1), and a shape
//! ([`BlobInfo`]) is checked against its signature and its signer's membership by the driver before it is
//! handed in. What the core does check is everything that only it can know: that shapes agree, that bitfields
//! fit the geometry, that a sender may say what it says.

use std::net::SocketAddr;

use crate::wire::{PeerMessage, Refusal};
use crate::{Bitfield, BlobInfo, ByteRange, Digest, PeerId, PieceIndex, Role, Zone};

/// One fetch of one piece by us, from [`Action::Fetch`](crate::Action::Fetch) until
/// [`Input::Fetched`], [`Input::FetchFailed`] or [`Action::CancelFetch`](crate::Action::CancelFetch).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub(crate) u64);

impl TransferId {
    /// The number behind it, for logs.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// One piece asked of us. Made by the driver, unique for the life of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One reader of one blob. Made by the driver, unique for the life of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderId(pub u64);

/// A peer that a tracker names for a swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// Where, already resolved by the driver when the wire said "the host at which you reach me".
    pub addr: SocketAddr,
    /// Its failure and cost domain.
    pub zone: Zone,
    /// Agent or origin.
    pub role: Role,
    /// Pieces it held when it last announced.
    pub held: u32,
    /// It held all of them.
    pub seeding: bool,
}

/// A live origin, as a tracker or the configuration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginAddress {
    /// Who.
    pub peer: PeerId,
    /// Where.
    pub addr: SocketAddr,
}

/// Why a fetch did not bring its piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchFailure {
    /// The proof did not verify although its signer is a vouched origin. The peer is to blame.
    BadProof,
    /// The bytes did not match their proof. The peer is to blame.
    Corrupt,
    /// The link or the stream broke. Nobody is to blame.
    Lost,
    /// The peer said no, and why.
    Refused(Refusal),
    /// Our own store could not take the piece.
    StoreFailed,
    /// No byte came for too long.
    TimedOut,
    /// The proof is by an origin whose membership we do not hold yet. Nobody is to blame.
    Unvouched,
}

/// Everything a node is told.
#[derive(Clone, Debug)]
pub enum Input {
    // ------------------------------------------------------------ readers and the store
    /// A reader wants a blob; opens the swarm if need be.
    Wanted {
        /// Which blob.
        digest: Digest,
        /// Who wants it.
        reader: ReaderId,
        /// The bytes it will read, from `start` on. `None`: the whole blob, with nobody waiting (preheat).
        range: Option<ByteRange>,
    },
    /// A reader has consumed everything below `at`, and will want the bytes from there.
    ReadAdvanced {
        /// Which blob.
        digest: Digest,
        /// Whose cursor.
        reader: ReaderId,
        /// Byte offset of the cursor in the blob.
        at: u64,
    },
    /// A reader went away.
    Unwanted {
        /// Which blob.
        digest: Digest,
        /// Who went.
        reader: ReaderId,
    },
    /// What the store holds of a blob: sent for each blob at start, and before [`Input::Wanted`] whenever the
    /// store knows the blob.
    Loaded {
        /// The blob's shape.
        info: BlobInfo,
        /// The pieces held, each durable or re-hashed.
        held: Bitfield,
        /// The whole digest was checked and the blob committed (I5).
        complete: bool,
    },
    /// Origin only: upstream is being read for this blob; its pieces will come by [`Input::Ingested`].
    Seeded {
        /// The shape, signed by us.
        info: BlobInfo,
    },
    /// Origin only: a piece arrived from upstream, was hashed, signed and stored.
    Ingested {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: PieceIndex,
    },
    /// The store checked the whole digest and committed the blob.
    Completed {
        /// Which blob.
        digest: Digest,
    },
    /// All pieces verified, and yet the whole digest is wrong: an origin signed falsehood. An alarm.
    CommitFailed {
        /// Which blob.
        digest: Digest,
    },
    /// The store gave the blob up, whole or partial; nothing of it is held any more.
    Evicted {
        /// Which blob.
        digest: Digest,
    },
    /// Origin only: upstream's bytes add up to another digest. Pieces were dropped.
    Poisoned {
        /// Which blob.
        digest: Digest,
    },

    // ------------------------------------------------------------ the tracker
    /// A tracker is there (again): it must be told everything.
    TrackerUp,
    /// No tracker answers.
    TrackerDown,
    /// A tracker named peers.
    Handed {
        /// Which blob.
        digest: Digest,
        /// Its shape, when some announcer told it, checked by the driver.
        info: Option<BlobInfo>,
        /// Whom to try.
        peers: Vec<Candidate>,
        /// Somebody besides the origins holds or is getting the blob: no need to ask upstream.
        injected: bool,
    },
    /// The live origins. Their order does not matter: the ring decides who owns a digest.
    OriginsChanged {
        /// All of them.
        origins: Vec<OriginAddress>,
    },

    // ------------------------------------------------------------ links
    /// A link is up and both sides are authenticated; dialed by either.
    Connected {
        /// With whom.
        peer: PeerId,
        /// What it may do, from its checked membership.
        role: Role,
        /// Where it stands, from its checked membership.
        zone: Zone,
        /// Where it can be dialed again.
        addr: SocketAddr,
    },
    /// [`Action::Dial`](crate::Action::Dial) came to nothing.
    DialFailed {
        /// Who could not be reached.
        peer: PeerId,
    },
    /// The link is gone, and every stream on it.
    PeerLost {
        /// With whom.
        peer: PeerId,
    },
    /// A control message came.
    PeerSaid {
        /// From whom.
        peer: PeerId,
        /// What.
        message: PeerMessage,
    },

    // ------------------------------------------------------------ answers to our own requests
    /// The answer to [`Action::Open`](crate::Action::Open).
    Opened {
        /// Which blob.
        digest: Digest,
        /// Who answered.
        origin: PeerId,
        /// The shape it signed, or why not. An unreachable origin is a refusal
        /// [`Unavailable`](crate::wire::RefusalCode::Unavailable) that the driver writes itself.
        result: Result<BlobInfo, Refusal>,
    },
    /// The piece is verified and stored.
    Fetched {
        /// Which fetch.
        transfer: TransferId,
    },
    /// The piece did not come.
    FetchFailed {
        /// Which fetch.
        transfer: TransferId,
        /// Why.
        failure: FetchFailure,
    },

    // ------------------------------------------------------------ requests of others
    /// A peer asks for a piece. Answered by exactly one `Serve` or `Refuse`.
    Asked {
        /// The name under which it is answered.
        request: RequestId,
        /// Who asks.
        peer: PeerId,
        /// Which blob.
        digest: Digest,
        /// Which piece, unchecked.
        index: u32,
    },
    /// A `Serve` came to its end.
    Served {
        /// Which request.
        request: RequestId,
        /// `false`: aborted, by them or by us.
        sent: bool,
    },
}
