//! Verified bytes of one blob, in order, while later pieces still land.
//!
//! A reader reads from the store and from nowhere else, so every byte it yields lies in a held piece (I1). Between
//! two reads it holds nothing; the bytes it hands out hold a loan on the node's read budget until the client's
//! socket has taken them. When the budget is spent, a reader goes on in small steps rather than wait.
//!
//! Not here: where pieces come from. A reader tells where it stands (see `cursor`) and is woken when something
//! landed (see `view`).

use std::time::Duration;

use bytes::Bytes;
use shoal_proto::limits::{READ_BYTES_MAX, READ_FLOOR_BYTES, READER_STALL_MAX};
use shoal_proto::{BlobInfo, ByteRange, Digest, FailReason};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::cursor::Seat;
use crate::driver::report::Command;
use crate::exchange::budget::{ByteBudget, tie};
use crate::handle::OpenError;
use crate::step;
use crate::store::{Pin, Store, StoreError};
use crate::view::{BlobView, Phase};

/// Why a reader ends before its range does. The response must be cut short of its length.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The swarm was given up.
    #[error("blob {} cannot be had any more: {reason:?}", digest.short())]
    Failed {
        /// Which blob.
        digest: Digest,
        /// What the core says.
        reason: FailReason,
    },
    /// This process is going down.
    #[error("shutting down")]
    ShuttingDown,
    /// Nothing landed where the reader stands for too long.
    #[error("no byte for {}s at offset {at}", waited.as_secs())]
    Stalled {
        /// Where the reader stood.
        at: u64,
        /// How long it stood there.
        waited: Duration,
    },
    /// Every byte is there, and the whole was not committed in time. Its digest may be right or wrong.
    #[error(
        "blob {} was not committed within {}s of its last byte: look at the disk of the store",
        digest.short(),
        waited.as_secs()
    )]
    Uncommitted {
        /// Which blob.
        digest: Digest,
        /// For how long.
        waited: Duration,
    },
    /// The store could not be read, or lost what it held.
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
}

/// Reads one blob, or one range of it, once, from front to end.
#[derive(Debug)]
pub struct BlobReader {
    store: Store,
    /// Keeps the blob from being evicted while it is read.
    _pin: Pin,
    info: BlobInfo,
    at: u64,
    end: u64,
    /// Present while the blob is arriving.
    follow: Option<(Seat, watch::Receiver<BlobView>)>,
    budget: ByteBudget,
    /// Where a piece that the disk has lost is told of, so that it is brought again.
    complaints: mpsc::Sender<Command>,
    broken: bool,
}

impl BlobReader {
    pub(crate) fn complete(
        store: Store,
        pin: Pin,
        info: BlobInfo,
        budget: ByteBudget,
        complaints: mpsc::Sender<Command>,
    ) -> Self {
        let end = info.geometry.blob_bytes();
        Self {
            store,
            _pin: pin,
            info,
            at: 0,
            end,
            follow: None,
            budget,
            complaints,
            broken: false,
        }
    }

    /// Follows a blob that is still arriving.
    pub(crate) fn following(mut self, seat: Seat, view: watch::Receiver<BlobView>) -> Self {
        self.follow = Some((seat, view));
        self
    }

    #[expect(
        clippy::result_large_err,
        reason = "an open that fails is rare, and its reason is read at once"
    )]
    pub(crate) fn narrowed(mut self, range: Option<ByteRange>) -> Result<Self, OpenError> {
        if let Some(range) = range {
            self.narrow(range)?;
        }
        Ok(self)
    }

    /// Reads this range only; an end behind the blob's end is cut to it. To be called before the first byte was
    /// read, where the range could not be known before the length was.
    #[expect(
        clippy::result_large_err,
        reason = "an open that fails is rare, and its reason is read at once"
    )]
    pub fn narrow(&mut self, range: ByteRange) -> Result<(), OpenError> {
        let blob_bytes = self.info.geometry.blob_bytes();
        let end = range.end.min(blob_bytes);
        if range.start > end || (range.start == blob_bytes && blob_bytes > 0) {
            return Err(OpenError::OutOfRange {
                start: range.start,
                blob_bytes,
            });
        }
        self.at = range.start;
        self.end = end;
        self.tell_cursor();
        Ok(())
    }

    /// The blob's shape.
    pub fn info(&self) -> &BlobInfo {
        &self.info
    }

    /// The length of the whole blob, whatever range is read.
    pub fn blob_bytes(&self) -> u64 {
        self.info.geometry.blob_bytes()
    }

    /// Bytes that are still to come.
    pub fn remaining(&self) -> u64 {
        self.end - self.at
    }

    /// Resolves when the blob was found to be what its digest names and is committed; it may have been when it was opened.
    /// Fails when it will not be, or is not in [`READER_STALL_MAX`].
    ///
    /// Cancel safe.
    pub async fn committed(&mut self) -> Result<(), ReadError> {
        let digest = self.info.digest;
        let Some((_, view)) = &mut self.follow else {
            return Ok(());
        };
        let over = view.wait_for(|view| match view.phase {
            Phase::Complete(_) | Phase::Failed(_) | Phase::Closing => true,
            Phase::Arriving(_) | Phase::Opening => false,
        });
        match timeout(READER_STALL_MAX, over).await {
            Err(_) => Err(ReadError::Uncommitted {
                digest,
                waited: READER_STALL_MAX,
            }),
            Ok(Err(_)) => Err(ReadError::ShuttingDown),
            Ok(Ok(view)) => match view.phase.clone() {
                Phase::Failed(reason) => Err(ReadError::Failed { digest, reason }),
                Phase::Complete(_) => Ok(()),
                Phase::Closing | Phase::Arriving(_) | Phase::Opening => {
                    Err(ReadError::ShuttingDown)
                }
            },
        }
    }

    /// Whether the blob was complete when it was opened: then every byte comes from this node's own store.
    pub fn was_complete(&self) -> bool {
        self.follow.is_none()
    }

    /// The next bytes, at most [`READ_BYTES_MAX`]; `None` at the end of the range. After an error, always `None`.
    ///
    /// Cancel safe: a dropped call has consumed nothing.
    pub async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        if self.broken || self.at >= self.end {
            return None;
        }
        let read = self.read_on().await;
        match &read {
            Ok(bytes) => {
                self.at += bytes.len() as u64;
                self.tell_cursor();
            }
            Err(_) => self.broken = true,
        }
        Some(read)
    }

    async fn read_on(&mut self) -> Result<Bytes, ReadError> {
        loop {
            // The view is marked as seen before the store is asked: a piece that lands in between wakes us again.
            let phase = self
                .follow
                .as_mut()
                .map(|(_, view)| view.borrow_and_update().phase.clone());
            match self.read_held().await {
                Ok(bytes) => return Ok(bytes),
                Err(StoreError::NotHeld { .. }) if phase.is_some() => {}
                Err(error @ StoreError::PieceLost { .. }) => {
                    let digest = self.info.digest;
                    let told = self.complaints.try_send(Command::Recheck { digest });
                    if phase.is_none() || told.is_err() {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
            match phase {
                Some(Phase::Failed(reason)) => {
                    let digest = self.info.digest;
                    return Err(ReadError::Failed { digest, reason });
                }
                Some(Phase::Closing) => return Err(ReadError::ShuttingDown),
                Some(Phase::Arriving(_) | Phase::Complete(_) | Phase::Opening) | None => {}
            }
            self.wait_for_more().await?;
        }
    }

    async fn wait_for_more(&mut self) -> Result<(), ReadError> {
        let Some((_, view)) = &mut self.follow else {
            return Err(ReadError::ShuttingDown);
        };
        match timeout(READER_STALL_MAX, view.changed()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ReadError::ShuttingDown),
            Err(_) => Err(ReadError::Stalled {
                at: self.at,
                waited: READER_STALL_MAX,
            }),
        }
    }

    /// Reads to the end of the piece at most, since the next one may not be held.
    async fn read_held(&self) -> Result<Bytes, StoreError> {
        let geometry = self.info.geometry;
        let piece_end = geometry
            .piece_at(self.at)
            .map_or(self.end, |piece| geometry.range_of(piece).end);
        let left = usize::try_from(piece_end.min(self.end) - self.at).unwrap_or(usize::MAX);
        let loan = self.budget.try_borrow(left.min(READ_BYTES_MAX));
        let len = loan
            .as_ref()
            .map_or_else(|| left.min(READ_FLOOR_BYTES), |loan| loan.bytes());
        let bytes = step::read(&self.store, self.info.digest, self.at, len).await?;
        Ok(match loan {
            Some(mut loan) => {
                loan.cut_to(bytes.len());
                tie(bytes, loan)
            }
            None => bytes,
        })
    }

    fn tell_cursor(&self) {
        if let Some((seat, _)) = &self.follow {
            seat.advance(self.at, u64::from(self.info.geometry.piece_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;
    use crate::store::specimen::{Bench, Specimen};
    use crate::view::Viewed;

    /// A reader of a blob of which every byte is held and nothing is committed, and the driver's end of what it sees.
    fn reader(store: &Store, specimen: &Specimen) -> (BlobReader, Viewed) {
        store.create(&specimen.info).unwrap();
        let viewed = Viewed::new();
        viewed.enter(Phase::Arriving(specimen.info));
        let (complaints, _) = mpsc::channel(1);
        let pin = store.pin(&specimen.digest());
        let budget = ByteBudget::new(READ_BYTES_MAX);
        let reader = BlobReader::complete(store.clone(), pin, specimen.info, budget, complaints);
        let seat = Seat::new(Arc::new(Notify::new()));
        (reader.following(seat, viewed.subscribe()), viewed)
    }

    /// It was looked for every 5 ms, and a blob that was discarded in between could not be told from one that is late.
    #[tokio::test]
    async fn the_end_of_a_blob_is_told_as_it_came() {
        let (bench, specimen) = (Bench::new(), Specimen::new(b"committed", 5));
        let store = bench.open();
        let (mut reader, viewed) = reader(&store, &specimen);
        viewed.enter(Phase::Complete(specimen.info));
        reader.committed().await.unwrap();

        viewed.enter(Phase::Failed(FailReason::Poisoned));
        let failed = reader.committed().await;
        assert!(
            matches!(
                failed,
                Err(ReadError::Failed {
                    reason: FailReason::Poisoned,
                    ..
                })
            ),
            "{failed:?}"
        );

        viewed.enter(Phase::Arriving(specimen.info));
        drop(viewed);
        let ended = reader.committed().await;
        assert!(matches!(ended, Err(ReadError::ShuttingDown)), "{ended:?}");
    }
}
