//! The rules of Shoal, pure: who is who, how a blob is cut and proven, what is said on the wire, and what one
//! process does about all the swarms it takes part in.
//!
//! Never in here: sockets, files, clocks, tasks, randomness of its own (I2). Time is an argument
//! ([`Instant`], or seconds since the epoch where an expiry is meant), and so are seeds; the same inputs give the
//! same outputs on every machine. Bytes of blobs pass by on the outside: the core sees digests, indexes and
//! peers.
//!
//! A shell drives a [`Node`] in this order, after each thing that happens: [`Node::handle`], then
//! [`Node::poll_action`] until `None`, then wait for the next event or for [`Node::next_timeout`].
#![warn(missing_docs)]

pub mod limits;
pub mod ring;
pub mod wire;

mod bitfield;
mod digest;
mod geometry;
mod guard;
mod id;
mod membership;
mod node;
mod proof;
mod swarm;
mod time;
mod token;
mod verdicts;

#[cfg(test)]
mod tests;

pub use bitfield::{Bitfield, BitfieldError};
pub use digest::{Digest, DigestAlgorithm, DigestError, DigestHasher};
pub use geometry::{ByteRange, Geometry, GeometryError, PieceCount, PieceIndex};
pub use guard::{CallerId, CallerKey, Guard};
pub use id::{IdError, PeerId, Role, Zone};
pub use membership::{Membership, MembershipError, SignedMembership, VouchedOrigins};
pub use node::{
    Action, Candidate, FailReason, FetchFailure, Input, Node, NodeOptions, NodeStatus,
    OriginAddress, ReaderId, RequestId, SwarmChange, SwarmState, SwarmView, TransferId,
};
pub use proof::{
    BlobInfo, OriginKey, PieceHash, PieceHashAlgorithm, PieceHasher, PieceProof, ProofError,
};
pub use time::Instant;
pub use token::{ClusterKey, ClusterPublicKey, JoinToken, TokenError};
pub use verdicts::Verdicts;
