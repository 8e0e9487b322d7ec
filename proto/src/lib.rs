//! The rules of Shoal, pure: who is who, how a blob is cut and proven, and what is said on the wire.
//!
//! Never in here: sockets, files, clocks, tasks, randomness of its own (I2). Time is an argument
//! ([`Instant`], or seconds since the epoch where an expiry is meant), and so are seeds; the same inputs give the
//! same outputs on every machine. Bytes of blobs pass by on the outside: the core sees digests, indexes and
//! peers.
//!
//! The swarm core (`node`, `swarm`) is being written: what a node is told and what it asks for stand in `src/node`, and are
//! not joined to the crate before the state machine between them is whole.
#![warn(missing_docs)]

pub mod limits;
pub mod ring;
pub mod wire;

mod bitfield;
mod digest;
mod geometry;
mod id;
mod membership;
mod proof;
mod time;
mod token;

pub use bitfield::{Bitfield, BitfieldError};
pub use digest::{Digest, DigestAlgorithm, DigestError, DigestHasher};
pub use geometry::{ByteRange, Geometry, GeometryError, PieceCount, PieceIndex};
pub use id::{IdError, PeerId, Role, Zone};
pub use membership::{Membership, MembershipError, SignedMembership, VouchedOrigins};
pub use proof::{
    BlobInfo, OriginKey, PieceHash, PieceHashAlgorithm, PieceHasher, PieceProof, ProofError,
};
pub use time::Instant;
pub use token::{ClusterKey, ClusterPublicKey, JoinToken, TokenError};
