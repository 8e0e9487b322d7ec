//! The body of a blob's answer: verified bytes from readers, in order, between the texts of a multipart body.
//!
//! Holds: exactly the promised length, or an error, on which the connection is cut; a dropped body drops its reader,
//! so that nothing is fetched for a client that left.
//! Not here: which ranges (`range`), and what stands before the body (`blob`).

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use shoal_peer::store::StoredBlob;
use shoal_peer::{BlobReader, Handle, OpenError, ReadError};
use shoal_proto::wire::Source;
use shoal_proto::{ByteRange, Digest, FailReason};
use tokio::time::Instant;

use super::name::RegistryName;
use super::observe::{FirstFrom, Observation};
use super::pulse::Pulse;
use super::started::OpenAnswer;

/// What a body is made of.
#[derive(Debug)]
pub(crate) enum Stretch {
    Range(ByteRange),
    Text(Bytes),
}

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PourError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the reader ended before its range")]
    Short,
}

impl PourError {
    /// Nobody gave the next byte for a long time.
    fn is_for_want_of_sources(&self) -> bool {
        let no_source = |reason: &FailReason| matches!(reason, FailReason::NoSource);
        match self {
            Self::Open(OpenError::Failed { reason, .. }) => no_source(reason),
            Self::Read(ReadError::Failed { reason, .. }) => no_source(reason),
            Self::Open(OpenError::NoOrigin) | Self::Read(ReadError::Stalled { .. }) => true,
            Self::Open(_) | Self::Read(_) | Self::Short => false,
        }
    }
}

/// How to come by further readers of the same blob.
#[derive(Debug)]
pub(crate) struct Opener {
    pub(crate) handle: Handle,
    pub(crate) digest: Digest,
    pub(crate) source: Source,
}

/// A reader at work, and how much of its range it owes.
#[derive(Debug)]
struct Under {
    reader: BlobReader,
    at: u64,
    end: u64,
}

/// Who must hear that a body was cut short, for when its client comes back.
#[derive(Debug)]
pub(crate) struct CutShort {
    pub(crate) open: OpenAnswer,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) registry: RegistryName,
    pub(crate) digest: Digest,
}

impl CutShort {
    fn tell(&self, error: &PourError, offset: u64) {
        self.open.was_cut(offset);
        if error.is_for_want_of_sources() {
            self.pulse
                .gave_up(&self.registry, self.digest, Instant::now());
        }
    }
}

/// What this node held of a blob when it was asked for it.
#[derive(Debug)]
pub(crate) struct HeldBefore(Option<StoredBlob>);

impl HeldBefore {
    pub(crate) fn new(blob: Option<StoredBlob>) -> Self {
        Self(blob)
    }

    pub(crate) fn blob_bytes(&self) -> Option<u64> {
        self.0.as_ref().map(|blob| blob.info.geometry.blob_bytes())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.0.as_ref().is_some_and(|blob| blob.complete)
    }

    /// Whether the byte at `offset`, and with it its whole piece, was held.
    fn contains(&self, offset: u64) -> bool {
        self.0.as_ref().is_some_and(|blob| {
            blob.complete
                || blob
                    .info
                    .geometry
                    .piece_at(offset)
                    .is_some_and(|piece| blob.held.contains(piece))
        })
    }
}

/// One body under way.
#[derive(Debug)]
pub(crate) struct Pour {
    stretches: VecDeque<Stretch>,
    under: Option<Under>,
    /// Read before the head of the answer went out, so that a failure could still be a status.
    first: Option<Bytes>,
    opener: Opener,
    held: HeldBefore,
    seen: Observation,
    end: CutShort,
}

impl Pour {
    pub(crate) fn new(
        stretches: impl IntoIterator<Item = Stretch>,
        opener: Opener,
        held: HeldBefore,
        seen: Observation,
        end: CutShort,
    ) -> Self {
        Self {
            stretches: stretches.into_iter().collect(),
            under: None,
            first: None,
            opener,
            held,
            seen,
            end,
        }
    }

    /// The reader of the first range, which is open already, and the bytes that it gave.
    pub(crate) fn with_reader(
        mut self,
        reader: BlobReader,
        range: ByteRange,
        first: Bytes,
    ) -> Self {
        self.under = Some(Under {
            reader,
            at: range.start,
            end: range.end,
        });
        self.first = Some(first);
        self
    }

    pub(crate) fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(Some(Box::new(self)), async |pour| {
            let mut pour = pour?;
            match pour.next().await {
                Ok(Some(bytes)) => {
                    // The server asks for no more than the promised length: there is no call after the last byte.
                    if pour.is_done() {
                        pour.seen.complete();
                    }
                    Some((Ok(bytes), Some(pour)))
                }
                Ok(None) => {
                    pour.seen.complete();
                    None
                }
                Err(error) => {
                    let at = pour.under.as_ref().map_or(0, |under| under.at);
                    pour.end.tell(&error, at);
                    pour.seen.cut(&error);
                    Some((Err(error), None))
                }
            }
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, PourError> {
        loop {
            if let Some(mut under) = self.under.take_if(|under| under.at < under.end) {
                let read = match self.first.take() {
                    Some(first) => Ok(first),
                    None => match under.reader.next().await {
                        Some(read) => read.map_err(PourError::Read),
                        None => Err(PourError::Short),
                    },
                };
                let at = under.at;
                let bytes = read.map(|mut bytes| {
                    let owed = usize::try_from(under.end - at).unwrap_or(usize::MAX);
                    bytes.truncate(owed);
                    under.at += bytes.len() as u64;
                    bytes
                });
                self.under = Some(under);
                let bytes = bytes?;
                self.count(at, bytes.len() as u64);
                return Ok(Some(bytes));
            }
            match self.stretches.pop_front() {
                None => return Ok(None),
                Some(Stretch::Text(text)) => {
                    self.seen.sent_other(text.len() as u64);
                    return Ok(Some(text));
                }
                Some(Stretch::Range(range)) => self.open_range(range).await?,
            }
        }
    }

    /// Whether everything was handed out.
    fn is_done(&self) -> bool {
        self.stretches.is_empty()
            && self
                .under
                .as_ref()
                .is_none_or(|under| under.at >= under.end)
    }

    async fn open_range(&mut self, range: ByteRange) -> Result<(), PourError> {
        let Opener {
            handle,
            digest,
            source,
        } = &self.opener;
        let reader = handle.open(*digest, source.clone(), Some(range)).await?;
        self.under = Some(Under {
            reader,
            at: range.start,
            end: range.end,
        });
        Ok(())
    }

    fn count(&mut self, at: u64, bytes: u64) {
        if self.held.contains(at) {
            self.seen.first_byte(FirstFrom::Cache);
            self.seen.sent_held(bytes);
        } else {
            self.seen.first_byte(FirstFrom::Peer);
            self.seen.sent_fetched(bytes);
        }
    }
}
