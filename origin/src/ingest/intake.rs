//! The bytes of one blob on their way into the store: hashed, cut, signed, stored, told of.
//!
//! Not for: where they come from, or who waits for them.

use bytes::Bytes;
use shoal_peer::store::{PieceWriter, StoreError, StoredBlob};
use shoal_peer::{Handle, pool};
use shoal_proto::{Bitfield, BlobInfo, PieceIndex, PieceProof};

use super::{IngestError, Inner};
use crate::cut::Cutter;

/// Bytes gathered before they are hashed and handed to the store.
const BATCH_BYTES: usize = 512 << 10;

/// The bytes of one blob on their way into the store.
pub(super) struct Intake<'a> {
    inner: &'a Inner,
    handle: &'a Handle,
    info: BlobInfo,
    /// Pieces that were held before: their bytes pass by.
    held: Option<Bitfield>,
    cutter: Cutter,
    open: Option<Box<Open>>,
    /// A piece that is stored and not yet told of.
    untold: Option<PieceIndex>,
}

/// The piece being written.
struct Open {
    piece: PieceIndex,
    writer: PieceWriter,
    batch: Vec<Bytes>,
    batch_bytes: usize,
}

impl<'a> Intake<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        handle: &'a Handle,
        info: BlobInfo,
        held: Option<&StoredBlob>,
        from: u64,
    ) -> Self {
        let held = held.map(|blob| blob.held.clone());
        Self {
            inner,
            handle,
            info,
            held,
            cutter: Cutter::new(info.geometry, from),
            open: None,
            untold: None,
        }
    }

    pub(super) async fn take(&mut self, bytes: Bytes) -> Result<(), IngestError> {
        self.cutter.push(bytes);
        while let Some(part) = self.cutter.take() {
            if self
                .held
                .as_ref()
                .is_some_and(|held| held.contains(part.piece))
            {
                continue;
            }
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.open(part.piece).await?,
            };
            open.batch_bytes += part.bytes.len();
            open.batch.push(part.bytes);
            if part.ends {
                self.close(open).await?;
            } else if open.batch_bytes >= BATCH_BYTES {
                self.open = Some(pool::run(move || open.write()).await?);
            } else {
                self.open = Some(open);
            }
        }
        Ok(())
    }

    async fn open(&self, piece: PieceIndex) -> Result<Box<Open>, IngestError> {
        let (store, digest) = (self.inner.store.clone(), self.info.digest);
        let writer = pool::run(move || store.writer(&digest, piece)).await?;
        Ok(Box::new(Open {
            piece,
            writer,
            batch: Vec::new(),
            batch_bytes: 0,
        }))
    }

    /// The piece is whole: hashed, signed, stored, and told of; but the blob's last one waits for the whole digest.
    async fn close(&mut self, open: Box<Open>) -> Result<(), IngestError> {
        let (key, info, piece) = (self.inner.key.clone(), self.info, open.piece);
        pool::run(move || {
            let open = open.write()?;
            let proof = PieceProof::sign(&key, &info, piece, open.writer.hash());
            open.writer.finish(&proof)
        })
        .await?;
        let last = piece.get() + 1 == self.info.geometry.piece_count().get();
        if last {
            self.untold = Some(piece);
        } else {
            self.handle.ingested(self.info.digest, piece).await;
        }
        Ok(())
    }

    pub(super) async fn finish(self) -> Result<(), IngestError> {
        let (store, digest) = (self.inner.store.clone(), self.info.digest);
        match pool::run(move || store.commit(&digest)).await {
            Ok(()) => {}
            Err(StoreError::WrongDigest { .. }) => return Err(IngestError::WrongDigest),
            Err(error) => return Err(error.into()),
        }
        if let Some(piece) = self.untold {
            self.handle.ingested(digest, piece).await;
        }
        self.handle.completed(digest).await;
        tracing::info!(digest = %digest.short(), blob_bytes = self.info.geometry.blob_bytes(), "a blob has arrived");
        Ok(())
    }
}

impl Open {
    fn write(mut self: Box<Self>) -> Result<Box<Self>, StoreError> {
        self.writer.write(&self.batch)?;
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(self)
    }
}
