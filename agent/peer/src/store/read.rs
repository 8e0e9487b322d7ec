//! Bytes out of the store, and what happens when the disk has lost some. Not here: order, pace and budget of a reader
//! ([`crate::BlobReader`]).
//!
//! I1: what [`Store::read`] gives lay inside held pieces from before the read until after it. I4: the disk loses a piece by
//! a read error, a short file, or bytes that no longer match; the piece is missing from then on, a complete blob is
//! partial again, and nobody is to blame but the disk.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use shoal_proto::limits::{QUARANTINED_MAX, READ_BYTES_MAX, SERVE_STEP_BYTES};
use shoal_proto::{Bitfield, ByteRange, Digest, PieceHash, PieceHasher, PieceIndex};

use super::Store;
use super::disk::DiskFile;
use super::error::StoreError;
use super::index::{Durability, IndexOp};
use super::layout::FileName;
use super::record::{self, BlobRecord, RecordedState};
use super::shelf::{Blob, Partial, RunningDigest, State};

/// Bytes that are read and hashed at a time when a file is hashed again: they stay in the cache of one core.
const HASH_STEP_BYTES: usize = 256 << 10;

/// What a piece turned out to be when it was hashed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// It did not match its proof and is missing now.
    Lost,
    /// It was not held in the first place.
    NotHeld,
    Sound,
}

impl Store {
    /// Bytes from `offset` on: `len` of them, or fewer where the blob or [`READ_BYTES_MAX`] ends first. All of them must lie
    /// inside held pieces.
    pub fn read(&self, digest: &Digest, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        loop {
            let (incarnation, losses, range) = {
                let shelf = self.shelf();
                let blob = shelf.blob(digest)?;
                (
                    blob.incarnation,
                    blob.losses,
                    held_range(blob, offset, len)?,
                )
            };
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            let file = match self.file(digest, incarnation) {
                Err(StoreError::NotFound { .. }) => {
                    self.discard(digest)?; // both its names are gone: somebody emptied the folder
                    return Err(StoreError::NotFound { digest: *digest });
                }
                other => other?,
            };
            let len = usize::try_from(range.len()).unwrap_or(READ_BYTES_MAX);
            match file.read_at(range.start, len) {
                Ok(bytes) if bytes.len() == len => {
                    if self.shelf().same_blob(digest, incarnation)?.losses == losses {
                        return Ok(bytes);
                    }
                }
                failed => return Err(self.read_failed(digest, incarnation, range, failed)),
            }
        }
    }

    /// As [`read`](Self::read), but only what takes no waiting for the disk, and at most [`SERVE_STEP_BYTES`] of it; `None`
    /// when something would have to be waited for, or went wrong that `read` will tell.
    pub fn read_cached(
        &self,
        digest: &Digest,
        offset: u64,
        len: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        let (incarnation, losses, range, file) = {
            let shelf = self.shelf();
            let blob = shelf.blob(digest)?;
            let range = held_range(blob, offset, len.min(SERVE_STEP_BYTES))?;
            (blob.incarnation, blob.losses, range, blob.file.clone())
        };
        let (Some(file), false) = (file, range.is_empty()) else {
            return Ok(None);
        };
        let len = usize::try_from(range.len()).unwrap_or(SERVE_STEP_BYTES);
        let mut buffer = self.inner.buffers.take(len);
        if file.read_cached(range.start, buffer.as_mut()).is_err() {
            return Ok(None);
        }
        let unchanged = self.shelf().same_blob(digest, incarnation)?.losses == losses;
        Ok(unchanged.then(|| buffer.into_bytes()))
    }

    fn read_failed(
        &self,
        digest: &Digest,
        incarnation: u64,
        range: ByteRange,
        read: io::Result<Bytes>,
    ) -> StoreError {
        self.inner.read_errors.fetch_add(1, Ordering::Relaxed);
        let error = read
            .err()
            .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
        tracing::warn!(digest = %digest.short(), offset = range.start, %error, "held bytes cannot be read");
        let geometry = match self.shelf().same_blob(digest, incarnation) {
            Ok(blob) => blob.info.geometry,
            Err(error) => return error,
        };
        let mut lost = None;
        for piece in geometry.pieces_of(range) {
            if let Err(error) = self.lose(digest, incarnation, piece) {
                return error;
            }
            lost.get_or_insert_with(|| piece.get());
        }
        StoreError::PieceLost {
            digest: *digest,
            piece: lost.unwrap_or_default(),
        }
    }

    /// Hashes a piece again, because somebody complained of it or its turn has come. One that does not match is set aside
    /// for people to look at, and missing from then on.
    pub fn recheck(&self, digest: &Digest, piece: PieceIndex) -> Result<Recheck, StoreError> {
        let proof = match self.proof(digest, piece) {
            Ok(proof) => proof,
            Err(StoreError::NotHeld { .. }) => return Ok(Recheck::NotHeld),
            Err(e) => return Err(e),
        };
        let (incarnation, range) = {
            let shelf = self.shelf();
            let blob = shelf.blob(digest)?;
            (blob.incarnation, blob.info.geometry.range_of(piece))
        };
        let file = self.file(digest, incarnation)?;
        let (mut hasher, mut bytes) = (PieceHasher::new(), Vec::new());
        let read = file_range(&*file, range, &mut |part| {
            hasher.update(part);
            bytes.extend_from_slice(part);
        });
        if read.is_ok() && hasher.finish() == proof.hash {
            return Ok(Recheck::Sound);
        }
        if read.is_err() {
            self.inner.read_errors.fetch_add(1, Ordering::Relaxed);
        }
        self.quarantine(digest, piece, &bytes);
        self.lose(digest, incarnation, piece)?;
        Ok(Recheck::Lost)
    }

    /// A held piece becomes missing, on disk too; a complete blob partial. Nothing happens to a missing piece.
    pub(super) fn lose(
        &self,
        digest: &Digest,
        incarnation: u64,
        piece: PieceIndex,
    ) -> Result<(), StoreError> {
        let lost = IndexOp::Delete(record::proof_key(digest, incarnation, piece.get()));
        {
            let mut shelf = self.shelf();
            let blob = shelf.same_blob(digest, incarnation)?;
            if !blob.is_complete() {
                if blob.lose(piece) {
                    self.inner.pieces_lost.fetch_add(1, Ordering::Relaxed);
                    drop(shelf);
                    return self.apply(vec![lost], Durability::Lazy);
                }
                return Ok(());
            }
        }
        let claim = self.claim(digest)?; // its file is about to be renamed
        let (info, was_complete) = {
            let mut shelf = self.shelf();
            let blob = shelf.same_blob(digest, incarnation)?;
            let was_complete = blob.is_complete();
            blob.reopen();
            if !blob.lose(piece) {
                return Ok(());
            }
            (blob.info, was_complete)
        };
        self.inner.pieces_lost.fetch_add(1, Ordering::Relaxed);
        if !was_complete {
            return self.apply(vec![lost], Durability::Lazy);
        }
        let layout = &self.inner.layout;
        let (from, to) = (
            layout.blob(digest, FileName::Complete),
            layout.blob(digest, FileName::Partial),
        );
        let dir = layout.blob_dir(digest);
        self.inner
            .disk
            .rename(&from, &to)
            .map_err(|e| StoreError::io("rename", &from, e))?;
        self.inner
            .disk
            .sync_dir(&dir)
            .map_err(|e| StoreError::io("sync", &dir, e))?;
        let record = BlobRecord {
            state: RecordedState::Partial,
            incarnation,
            info,
        };
        let reopened = IndexOp::Put(record::blob_key(digest), record.encode());
        self.apply(vec![reopened, lost], Durability::Synced)?;
        drop(claim);
        Ok(())
    }

    /// Keeps the bytes for a person to look at, as far as there is room for that.
    fn quarantine(&self, digest: &Digest, piece: PieceIndex, bytes: &[u8]) {
        let (disk, layout) = (&self.inner.disk, &self.inner.layout);
        let kept = disk.list(&layout.quarantine()).and_then(|there| {
            if there.len() >= QUARANTINED_MAX {
                return Ok(());
            }
            let file = disk.create(&layout.quarantined(digest, piece.get()), 0)?;
            file.write_at(0, bytes)
        });
        tracing::warn!(digest = %digest.short(), piece = piece.get(), ?kept, "piece no longer matches its proof");
    }
}

impl Blob {
    /// Complete becomes partial, with every piece held still.
    fn reopen(&mut self) {
        if self.is_complete() {
            let held = Bitfield::full(self.info.geometry.piece_count());
            self.state = State::Partial(Partial::new(&self.info.digest, held));
        }
    }

    /// False when the piece was not held.
    fn lose(&mut self, piece: PieceIndex) -> bool {
        let digest = self.info.digest;
        let Some(partial) = self.partial_mut() else {
            return false;
        };
        if !partial.held.clear(piece) {
            return false;
        }
        if partial.running.next > piece.get() {
            partial.running = RunningDigest::new(&digest);
        }
        self.losses += 1;
        true
    }
}

/// The bytes asked for, cut where the blob ends, if all of them are held.
fn held_range(blob: &Blob, offset: u64, len: usize) -> Result<ByteRange, StoreError> {
    let digest = blob.info.digest;
    let geometry = blob.info.geometry;
    if offset > geometry.blob_bytes() {
        return Err(StoreError::OutOfRange { digest, at: offset });
    }
    let end = offset
        .saturating_add(len.min(READ_BYTES_MAX) as u64)
        .min(geometry.blob_bytes());
    let range = ByteRange { start: offset, end };
    match geometry.pieces_of(range).find(|piece| !blob.holds(*piece)) {
        None => Ok(range),
        Some(piece) => Err(StoreError::NotHeld {
            digest,
            offset: geometry.range_of(piece).start.max(offset),
        }),
    }
}

/// Reads a range in steps that stay in cache, through one buffer; a file that ends before it is an error.
pub(super) fn file_range(
    file: &dyn DiskFile,
    range: ByteRange,
    take: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    let step_of = |left: u64| {
        usize::try_from(left)
            .unwrap_or(HASH_STEP_BYTES)
            .min(HASH_STEP_BYTES)
    };
    let mut buffer = vec![0; step_of(range.len())];
    let mut at = range.start;
    while at < range.end {
        let step = &mut buffer[..step_of(range.end - at)];
        if file.read_into(at, step)? < step.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += step.len() as u64;
        take(step);
    }
    Ok(())
}

/// Whether a range of a file has this hash.
pub(super) fn hash_matches(
    file: &dyn DiskFile,
    range: ByteRange,
    hash: &PieceHash,
) -> io::Result<bool> {
    let mut hasher = PieceHasher::new();
    file_range(file, range, &mut |bytes| hasher.update(bytes))?;
    Ok(hasher.finish() == *hash)
}
