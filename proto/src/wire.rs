//! What is said between processes: versions, and the law of decoding.
//!
//! The law: decoding is total and bounded. A frame's length is capped before it is read; a message that breaks a limit is
//! refused whole; nothing is allocated on the word of a length field. The typed forms here can hold only what has passed,
//! so nobody behind the border asks again. Not here: signatures and memberships, which say whom to believe, and sockets.
//! docs/PROTOCOL.md tells who says what, when.

mod answer;
mod ask;
mod code;
mod frame;
mod list;
mod peer;
mod tracker;

/// The messages as the schema has them, made from `schema/shoal.proto`.
#[expect(
    missing_docs,
    clippy::all,
    reason = "generated; the schema is the documentation"
)]
pub mod schema {
    include!(concat!(env!("OUT_DIR"), "/shoal.v1.rs"));
}

use thiserror::Error;

pub use answer::{Answer, Audience, ManifestAnswer, OpenAnswer, Refusal};
pub use ask::{Ask, ManifestAsk, Secret, Source};
pub use code::{Blame, CloseCode, RefusalCode};
pub use frame::{FrameDecoder, encode_frame};
pub use list::{ListAnswer, ListAsk, Listed};
pub use peer::{Hello, PeerMessage, Welcome};
pub use tracker::{
    Announce, Candidate, Cluster, FromTracker, Handout, Origin, PeerAddress, SwarmAnnounce,
    SwarmState, ToTracker,
};

use crate::{BitfieldError, DigestError, GeometryError, IdError};

/// The version of everything in this module. Another version is another ALPN name; there is no fallback.
pub const PROTOCOL_VERSION: u32 = 1;
/// The name under which QUIC negotiates the protocol.
pub const ALPN: &[u8] = b"shoal/1";

/// Why bytes are not a message. The sender is to blame, and the link is closed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Not the bitfield of the blob.
    #[error(transparent)]
    Bitfield(#[from] BitfieldError),
    /// Not a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A field is absent, too long, or has a value that it may not have.
    #[error("bad field: {0}")]
    Field(&'static str),
    /// An impossible shape.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Names nobody.
    #[error(transparent)]
    Id(#[from] IdError),
    /// No kind that this version knows.
    #[error("message of no known kind")]
    Kind,
    /// Not protobuf.
    #[error("not protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// The frame is longer than this stream may carry.
    #[error("frame of {length} bytes on a stream that carries at most {max}")]
    TooLong {
        /// What the length field says.
        length: usize,
        /// What is allowed.
        max: usize,
    },
}

fn bounded(text: String, max: usize, field: &'static str) -> Result<String, DecodeError> {
    if text.len() > max {
        Err(DecodeError::Field(field))
    } else {
        Ok(text)
    }
}

fn span_to_wire(span: core::time::Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}
