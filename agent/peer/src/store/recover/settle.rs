//! One recorded blob and its file: what it is from now on. Not here: in which order blobs are settled, and what became of
//! files that nothing speaks of ([`super`]).

use shoal_proto::{Bitfield, PieceProof};

use super::{Files, Noted, Recovery};
use crate::store::disk::DiskFile;
use crate::store::error::StoreError;
use crate::store::index::IndexOp;
use crate::store::layout::FileName;
use crate::store::read::hash_matches;
use crate::store::record::{self, BlobRecord, RecordedState};
use crate::store::shelf::{Partial, State};

impl Recovery<'_> {
    /// What a recorded blob is from now on; `None` when there is nothing left of it.
    pub(super) fn settle(
        &mut self,
        record: &BlobRecord,
        files: Files,
        noted: Option<&Noted>,
    ) -> Result<Option<State>, StoreError> {
        let digest = &record.info.digest;
        if files.complete {
            if files.partial {
                self.remove(digest, FileName::Partial)?;
            }
            return self.settle_complete(record);
        }
        if !files.partial {
            return Ok(None);
        }
        let trusted = match record.state {
            RecordedState::Partial => noted.and_then(|noted| noted.get(digest)).and_then(|value| {
                record::decode_held(value, record.incarnation, &record.info.geometry)
            }),
            RecordedState::Complete => None, // a piece was lost, and the process with it, before that was recorded
        };
        self.settle_partial(record, trusted.as_ref())
    }

    fn settle_complete(&mut self, record: &BlobRecord) -> Result<Option<State>, StoreError> {
        let digest = &record.info.digest;
        let path = self.layout.blob(digest, FileName::Complete);
        let file = self
            .disk
            .open(&path)
            .map_err(|e| StoreError::io("open", &path, e))?;
        let bytes = file.len().map_err(|e| StoreError::io("stat", &path, e))?;
        if bytes != record.info.geometry.blob_bytes() {
            return Ok(None);
        }
        if record.state == RecordedState::Complete {
            return Ok(Some(State::Complete));
        }
        // The commit got as far as the rename, so all proofs are durable, unless the index lost more than it may.
        if self.proofs(record)?.len() == record.info.geometry.pieces().len() {
            self.sync_dir(&self.layout.blob_dir(digest))?; // the rename, perhaps not yet
            self.record(record, RecordedState::Complete);
            return Ok(Some(State::Complete));
        }
        let partial = self.layout.blob(digest, FileName::Partial);
        self.disk
            .rename(&path, &partial)
            .map_err(|e| StoreError::io("rename", &path, e))?;
        self.settle_partial(record, None)
    }

    /// Believes the pieces that a clean stop noted, and of the others those whose bytes match.
    fn settle_partial(
        &mut self,
        record: &BlobRecord,
        trusted: Option<&Bitfield>,
    ) -> Result<Option<State>, StoreError> {
        let geometry = record.info.geometry;
        let path = self.layout.blob(&record.info.digest, FileName::Partial);
        let file = self
            .disk
            .open(&path)
            .map_err(|e| StoreError::io("open", &path, e))?;
        let bytes = file.len().map_err(|e| StoreError::io("stat", &path, e))?;
        let trusted = trusted.filter(|_| bytes == geometry.blob_bytes());
        if bytes > geometry.blob_bytes() {
            return Ok(None);
        }
        let mut held = Bitfield::new(geometry.piece_count());
        let mut hashed_bytes = 0;
        for proof in self.proofs(record)? {
            let sound = match trusted {
                Some(noted) => noted.contains(proof.index),
                None => {
                    hashed_bytes += u64::from(geometry.len_of(proof.index));
                    self.matches(&*file, &proof, record)
                }
            };
            if sound {
                held.set(proof.index);
            } else {
                self.report.pieces_dropped += 1;
                let key =
                    record::proof_key(&record.info.digest, record.incarnation, proof.index.get());
                self.ops.push(IndexOp::Delete(key));
            }
        }
        if record.state != RecordedState::Partial {
            self.record(record, RecordedState::Partial);
        }
        let mut partial = Partial::new(&record.info.digest, held);
        partial.unsynced_bytes = hashed_bytes; // read from the page cache, perhaps
        Ok(Some(State::Partial(partial)))
    }

    fn matches(&mut self, file: &dyn DiskFile, proof: &PieceProof, record: &BlobRecord) -> bool {
        self.report.pieces_hashed += 1;
        let range = record.info.geometry.range_of(proof.index);
        hash_matches(file, range, &proof.hash).unwrap_or(false)
    }

    fn proofs(&self, record: &BlobRecord) -> Result<Vec<PieceProof>, StoreError> {
        let mut proofs = Vec::new();
        let prefix = record::incarnation_prefix(&record.info.digest, record.incarnation);
        self.scan(&prefix, &mut |_, value| {
            proofs.extend(record::decode_proof(value, &record.info.geometry))
        })?;
        Ok(proofs)
    }

    fn record(&mut self, record: &BlobRecord, state: RecordedState) {
        let record = BlobRecord {
            state,
            ..record.clone()
        };
        self.ops.push(IndexOp::Put(
            record::blob_key(&record.info.digest),
            record.encode(),
        ));
    }
}
