//! Why a handle says no, by what the caller can do about it. Not here: how a client is answered.

use std::time::Duration;

use shoal_proto::wire::Refusal;
use shoal_proto::{Digest, FailReason};

use crate::store::StoreError;

/// Why a blob could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The swarm was given up.
    #[error("blob {} cannot be had: {reason:?}", digest.short())]
    Failed {
        /// Which blob.
        digest: Digest,
        /// What the core says.
        reason: FailReason,
    },
    /// No origin is known or none could be reached.
    #[error("no origin can be reached; the pull goes to the upstream itself")]
    NoOrigin,
    /// The range lies outside the blob.
    #[error("the range starts at byte {start}, the blob has {blob_bytes}")]
    OutOfRange {
        /// Where it starts.
        start: u64,
        /// How long the blob is.
        blob_bytes: u64,
    },
    /// An origin said no.
    #[error("refused by the origin: {0:?}")]
    Refused(Refusal),
    /// This process is going down.
    #[error("shutting down; ask the next mirror")]
    ShuttingDown,
    /// The store could not be read.
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
}

impl OpenError {
    /// The refusal behind it, where a peer or an upstream stands behind it.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Failed {
                reason: FailReason::Denied(refusal) | FailReason::NotFound(refusal),
                ..
            }
            | Self::Refused(refusal) => Some(refusal),
            Self::Failed { .. }
            | Self::NoOrigin
            | Self::OutOfRange { .. }
            | Self::ShuttingDown
            | Self::Store(_) => None,
        }
    }

    /// When the same question may be asked again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().map(|refusal| refusal.retry_after)
    }
}

/// Why there is no manifest, or no list.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No origin is known or none could be reached.
    #[error("no origin can be reached; the pull goes to the upstream itself")]
    NoOrigin,
    /// An origin said no.
    #[error("refused by the origin: {0:?}")]
    Refused(Refusal),
}

/// Why a blob cannot be seeded.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// This process is going down.
    #[error("shutting down")]
    ShuttingDown,
    /// The store could not take it.
    #[error("the store cannot take the blob: {0}")]
    Store(#[from] StoreError),
}
