//! Blobs that are being written: made at full length, filled piece by piece. Not here: reservation of space
//! ([`super::space`]) and what happens when the last piece is held ([`super::complete`]).
//!
//! A piece is written in place by one writer at a time, the one with its lease. Another writer of the same piece gathers
//! in memory; when it is first to verify, it revokes the lease, waits for the last write under it, and puts its own
//! bytes in place. So nothing unverified is ever written over a held piece.

#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use shoal_proto::limits::WRITE_BATCH_BYTES;
use shoal_proto::{
    BlobInfo, Digest, DigestHasher, Geometry, PieceHash, PieceHasher, PieceIndex, PieceProof,
};

use super::disk::DiskFile;
use super::error::StoreError;
use super::index::{Durability, IndexOp};
use super::layout::FileName;
use super::record::{self, BlobRecord, RecordedState};
use super::shelf::{Blob, Lease, LeaseState, Partial, State};
use super::space::Reservation;
use super::{Pin, Store};

impl Store {
    /// Makes an empty partial blob with all its space set aside, evicting others for it; their digests are the answer. A
    /// blob of the same shape that is there already is left as it is.
    pub fn create(&self, info: &BlobInfo) -> Result<Vec<Digest>, StoreError> {
        let Some((reservation, evicted)) = self.reserve(info)? else {
            return Ok(Vec::new());
        };
        self.make_partial(info, reservation)?;
        Ok(evicted)
    }

    fn make_partial(&self, info: &BlobInfo, reservation: Reservation) -> Result<(), StoreError> {
        let digest = info.digest;
        let (disk, layout) = (&self.inner.disk, &self.inner.layout);
        let dir = layout.blob_dir(&digest);
        if disk
            .create_dir(&dir)
            .map_err(|e| StoreError::io("create", &dir, e))?
        {
            let parent = layout.algorithm_dir(digest.algorithm());
            disk.sync_dir(&parent)
                .map_err(|e| StoreError::io("sync", &parent, e))?;
        }
        let path = layout.blob(&digest, FileName::Partial);
        let file = disk
            .create(&path, info.geometry.blob_bytes())
            .map_err(|e| StoreError::io("create", &path, e))?;
        let (incarnation, last_used) = {
            let mut shelf = self.shelf();
            (shelf.next_incarnation(), shelf.next_use())
        };
        let record = BlobRecord {
            state: RecordedState::Partial,
            incarnation,
            info: *info,
        };
        let recorded = self.apply(
            vec![
                IndexOp::DeletePrefix(record::proofs_prefix(&digest)),
                IndexOp::Put(record::blob_key(&digest), record.encode()),
                IndexOp::Put(record::use_key(&digest), record::encode_use(last_used)),
            ],
            Durability::Lazy,
        );
        if let Err(error) = recorded {
            // The file without a record is an orphan; opening would settle it if this does not.
            let _ = disk.remove(&path);
            return Err(error);
        }
        let held = shoal_proto::Bitfield::new(info.geometry.piece_count());
        let state = State::Partial(Partial::new(&digest, held));
        let mut blob = Blob::new(*info, state, incarnation, last_used);
        if self.shelf().is_pinned(&digest) {
            blob.file = Some(file);
        }
        reservation.fulfil(blob);
        Ok(())
    }

    /// A place for the bytes of a piece. The first writer of a missing piece writes in place; a second gathers in memory;
    /// the bytes of a held piece are checked and go nowhere.
    pub fn writer(&self, digest: &Digest, piece: PieceIndex) -> Result<PieceWriter, StoreError> {
        let pin = self.pin(digest);
        let (incarnation, geometry) = {
            let shelf = self.shelf();
            let blob = shelf.blob(digest)?;
            (blob.incarnation, blob.info.geometry)
        };
        if geometry.piece(piece.get()).is_none() {
            return Err(StoreError::OutOfRange {
                digest: *digest,
                at: u64::from(piece.get()),
            });
        }
        let file = self.file(digest, incarnation)?;
        let mut shelf = self.shelf();
        if shelf.closed {
            return Err(StoreError::Closed);
        }
        let lease = shelf.new_lease();
        let blob = shelf.same_blob(digest, incarnation)?;
        let claimed = blob.claimed;
        let held = blob.holds(piece);
        let mut ahead = None;
        let mut sink = Sink::Nowhere;
        if let Some(partial) = blob.partial_mut()
            && !held
        {
            if !claimed && partial.running.next == piece.get() {
                ahead = Some(partial.running.hasher.clone());
            }
            sink = match partial.leases.entry(piece.get()) {
                Entry::Occupied(_) => Sink::Memory { bytes: Vec::new() },
                Entry::Vacant(vacant) => {
                    vacant.insert(lease.clone());
                    Sink::File {
                        lease,
                        written_bytes: 0,
                    }
                }
            };
        }
        shelf.writers += 1;
        drop(shelf);
        let hasher = PieceHasher::new();
        Ok(PieceWriter {
            store: self.clone(),
            file,
            digest: *digest,
            incarnation,
            geometry,
            piece,
            hasher,
            ahead,
            received_bytes: 0,
            batch: Vec::new(),
            batch_bytes: WRITE_BATCH_BYTES.min(geometry.piece_bytes() as usize),
            sink,
            _pin: pin,
        })
    }
}

/// One piece on its way to the disk; dropping it unfinished leaves the piece missing.
#[derive(Debug)]
pub struct PieceWriter {
    store: Store,
    file: Arc<dyn DiskFile>,
    digest: Digest,
    incarnation: u64,
    geometry: Geometry,
    piece: PieceIndex,
    hasher: PieceHasher,
    /// The whole blob's hash up to and with what was written, when the piece is the next of the contiguous prefix.
    ahead: Option<DigestHasher>,
    received_bytes: u64,
    /// Received, and neither hashed nor written.
    batch: Vec<u8>,
    batch_bytes: usize,
    sink: Sink,
    _pin: Pin,
}

#[derive(Debug)]
enum Sink {
    /// The whole piece in memory: at most one piece length.
    Memory { bytes: Vec<u8> },
    File {
        lease: Arc<Lease>,
        written_bytes: u64,
    },
    /// The piece was held from the start, or the lease was revoked: another writer verified it first.
    Nowhere,
}

impl PieceWriter {
    /// Hashes and writes so many bytes at a time, instead of [`WRITE_BATCH_BYTES`]: what the writer holds in memory.
    #[must_use]
    pub fn in_batches_of(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes.max(1);
        self
    }

    /// Takes the next bytes of the piece; a batch of them is hashed and written at once. More bytes than the piece has are
    /// refused before they are kept.
    ///
    /// Bytes come in packets, and BLAKE3 is three times as fast over a stretch as over packets; the copy is in cache.
    pub fn write(&mut self, parts: &[Bytes]) -> Result<(), StoreError> {
        for part in parts {
            let received = self.received_bytes + part.len() as u64;
            if received > self.piece_bytes() {
                return Err(self.wrong_length(received));
            }
            self.received_bytes = received;
            self.take(part)?;
        }
        if self.received_bytes == self.piece_bytes() {
            self.flush()?;
        }
        Ok(())
    }

    fn take(&mut self, mut part: &[u8]) -> Result<(), StoreError> {
        while !part.is_empty() {
            if self.batch.is_empty() && part.len() >= self.batch_bytes {
                return self.put(part);
            }
            self.batch
                .reserve_exact(self.batch_bytes - self.batch.len());
            let (now, later) = part.split_at(part.len().min(self.batch_bytes - self.batch.len()));
            self.batch.extend_from_slice(now);
            if self.batch.len() == self.batch_bytes {
                self.flush()?;
            }
            part = later;
        }
        Ok(())
    }

    /// The hash of what was written so far: what an origin signs for bytes that no proof covers yet.
    pub fn hash(&self) -> PieceHash {
        if self.batch.is_empty() {
            return self.hasher.finish();
        }
        let mut hasher = self.hasher.clone();
        hasher.update(&self.batch);
        hasher.finish()
    }

    /// Checks the piece against its proof, whose signature the caller has checked, and from then on it is held. An error
    /// leaves it as it was.
    pub fn finish(mut self, proof: &PieceProof) -> Result<(), StoreError> {
        if self.received_bytes != self.piece_bytes() {
            return Err(self.wrong_length(self.received_bytes));
        }
        self.flush()?;
        let hash = self.hasher.finish();
        if proof.index != self.piece || proof.hash != hash {
            return Err(StoreError::Corrupt {
                digest: self.digest,
                piece: self.piece.get(),
            });
        }
        if let Sink::Memory { bytes } = &mut self.sink {
            let gathered = std::mem::take(bytes);
            if !self.seize()? {
                return Ok(()); // held already
            }
            self.place(&gathered)?;
        }
        let key = record::proof_key(&self.digest, self.incarnation, self.piece.get());
        self.store.apply(
            vec![IndexOp::Put(key, record::encode_proof(proof))],
            Durability::Lazy,
        )?;
        self.hold()
    }

    /// For gathered, verified bytes: takes the place of another writer, revoking its lease. False when the piece is held.
    fn seize(&mut self) -> Result<bool, StoreError> {
        let index = self.piece.get();
        let mut revoked = None;
        loop {
            let other = {
                let mut shelf = self.store.shelf();
                let lease = shelf.new_lease();
                let blob = shelf.same_blob(&self.digest, self.incarnation)?;
                let Some(partial) = blob.partial_mut() else {
                    return Ok(false);
                };
                if partial.held.contains(self.piece) {
                    return Ok(false);
                }
                match partial.leases.get(&index) {
                    Some(other) if revoked != Some(other.id) => other.clone(),
                    _ => {
                        partial.leases.insert(index, lease.clone());
                        self.sink = Sink::File {
                            lease,
                            written_bytes: 0,
                        };
                        return Ok(true);
                    }
                }
            };
            *other.lock() = LeaseState::Revoked; // waits for a write under way
            revoked = Some(other.id);
        }
    }

    /// The batch so far is hashed and written.
    fn flush(&mut self) -> Result<(), StoreError> {
        let mut batch = std::mem::take(&mut self.batch);
        let put = self.put(&batch);
        batch.clear();
        self.batch = batch;
        put
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.hasher.update(bytes);
        if let Some(ahead) = &mut self.ahead {
            ahead.update(bytes);
        }
        self.place(bytes)
    }

    /// Keeps bytes where this writer keeps them; in the file only while it has the lease.
    fn place(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let start = self.geometry.range_of(self.piece).start;
        let (lease, written_bytes) = match &mut self.sink {
            Sink::Memory { bytes: gathered } => {
                gathered.extend_from_slice(bytes);
                return Ok(());
            }
            Sink::File {
                lease,
                written_bytes,
            } => (lease, written_bytes),
            Sink::Nowhere => return Ok(()),
        };
        let state = lease.lock();
        if *state == LeaseState::Revoked {
            drop(state);
            self.sink = Sink::Nowhere;
            return Ok(());
        }
        let written = self.file.write_at(start + *written_bytes, bytes);
        drop(state);
        *written_bytes += bytes.len() as u64;
        written.map_err(|e| self.store.io("write", &self.digest, e))
    }

    /// The piece is written and its proof recorded: now it is held, unless someone else got so far first.
    fn hold(&mut self) -> Result<(), StoreError> {
        let index = self.piece.get();
        let mut shelf = self.store.shelf();
        let blob = shelf.same_blob(&self.digest, self.incarnation)?;
        let claimed = blob.claimed;
        let Some(partial) = blob.partial_mut() else {
            return Ok(());
        };
        if partial.held.contains(self.piece) {
            return Ok(());
        }
        let mine = matches!(&self.sink, Sink::File { lease, .. }
            if partial.leases.get(&index).is_some_and(|current| current.id == lease.id));
        if !mine {
            return Err(StoreError::Superseded {
                digest: self.digest,
                piece: index,
            });
        }
        partial.leases.remove(&index);
        partial.held.set(self.piece);
        partial.unsynced_bytes += self.received_bytes;
        if let Some(hasher) = self.ahead.take()
            && !claimed
            && partial.running.next == index
        {
            partial.running.hasher = hasher;
            partial.running.next += 1;
        }
        Ok(())
    }

    fn piece_bytes(&self) -> u64 {
        u64::from(self.geometry.len_of(self.piece))
    }

    fn wrong_length(&self, got: u64) -> StoreError {
        StoreError::WrongLength {
            digest: self.digest,
            piece: self.piece.get(),
            expected: self.piece_bytes(),
            got,
        }
    }
}

impl Drop for PieceWriter {
    fn drop(&mut self) {
        let index = self.piece.get();
        let mut shelf = self.store.shelf();
        shelf.writers -= 1;
        if let Sink::File { lease, .. } = &self.sink
            && let Ok(blob) = shelf.same_blob(&self.digest, self.incarnation)
            && let Some(partial) = blob.partial_mut()
            && partial
                .leases
                .get(&index)
                .is_some_and(|current| current.id == lease.id)
        {
            partial.leases.remove(&index);
        }
        drop(shelf);
        self.store.inner.settled.notify_all();
    }
}
