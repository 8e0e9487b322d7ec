//! From the last piece to a complete blob: the whole digest as a running hash, and the commit point (I5). Not here: how
//! pieces come ([`super::partial`]) and go ([`super::read`]).
//!
//! The order of a commit: whole digest, `fdatasync` of the file, sync of the index (so that every proof is durable), rename
//! to the complete name, sync of the folder. After that the blob is complete whatever happens; the record follows lazily.
//!
//! A failed `fdatasync` is never repeated: the kernel may have dropped the pages that it could not write, and then a
//! second call would lie. The blob is discarded.

use std::sync::atomic::Ordering;

use shoal_proto::{ByteRange, Digest, DigestHasher};

use super::Store;
use super::claim::Claim;
use super::error::StoreError;
use super::index::{Durability, IndexOp};
use super::layout::FileName;
use super::read::{file_range, hash_matches};
use super::record::{self, BlobRecord, RecordedState};
use super::shelf::State;

impl Store {
    /// Work that is better done while a blob arrives than at its end: hashes the contiguous prefix as far as it has grown,
    /// from the page cache, and every [`flush_bytes`](super::StoreOptions::flush_bytes) makes what was written durable. To
    /// be called after a piece; returns at once when somebody is at it already.
    pub fn advance(&self, digest: &Digest) -> Result<(), StoreError> {
        let Some(claim) = self.try_claim(digest)? else {
            return Ok(());
        };
        let due = {
            let mut shelf = self.shelf();
            let flush_bytes = self.inner.options.flush_bytes;
            let Some(partial) = shelf.same_blob(digest, claim.incarnation)?.partial_mut() else {
                return Ok(());
            };
            let due = partial.unsynced_bytes >= flush_bytes;
            if due {
                partial.unsynced_bytes = 0;
            }
            due
        };
        if due {
            self.sync_file(&claim)?;
        }
        self.run_digest(&claim)
    }

    /// All pieces are held: checks the whole digest and makes the blob complete. [`StoreError::WrongDigest`]: the pieces
    /// are what their proofs say and still not the blob; it was discarded. [`StoreError::PieceLost`]: the disk has
    /// changed a piece, which is missing now.
    pub fn commit(&self, digest: &Digest) -> Result<(), StoreError> {
        let claim = self.claim(digest)?;
        {
            let mut shelf = self.shelf();
            if shelf.closed {
                return Err(StoreError::Closed);
            }
            let Some(partial) = shelf.same_blob(digest, claim.incarnation)?.partial_mut() else {
                return Ok(());
            };
            if !partial.held.is_full() {
                let missing = partial.held.piece_count().get() - partial.held.count();
                return Err(StoreError::Incomplete {
                    digest: *digest,
                    missing,
                });
            }
        }
        self.run_digest(&claim)?;
        let found = {
            let mut shelf = self.shelf();
            let Some(partial) = shelf.same_blob(digest, claim.incarnation)?.partial_mut() else {
                return Ok(());
            };
            if partial.running.next != partial.held.piece_count().get() {
                return Err(StoreError::Incomplete {
                    digest: *digest,
                    missing: 1,
                }); // lost just now
            }
            partial.running.hasher.clone().finish()
        };
        if found != *digest {
            return Err(self.settle_wrong_digest(&claim));
        }
        self.make_complete(&claim)
    }

    fn make_complete(&self, claim: &Claim) -> Result<(), StoreError> {
        let digest = &claim.digest;
        let (disk, layout) = (&self.inner.disk, &self.inner.layout);
        self.sync_file(claim)?;
        self.inner.index.sync().map_err(|e| self.index_error(e))?;
        let (from, to) = (
            layout.blob(digest, FileName::Partial),
            layout.blob(digest, FileName::Complete),
        );
        let dir = layout.blob_dir(digest);
        let renamed = disk
            .rename(&from, &to)
            .map_err(|e| StoreError::io("rename", &from, e))
            .and_then(|()| {
                disk.sync_dir(&dir)
                    .map_err(|e| StoreError::io("sync", &dir, e))
            });
        if let Err(error) = renamed {
            return Err(self.give_up(claim, error));
        }
        let info = {
            let mut shelf = self.shelf();
            let blob = shelf.same_blob(digest, claim.incarnation)?;
            blob.state = State::Complete;
            blob.info
        };
        let record = BlobRecord {
            state: RecordedState::Complete,
            incarnation: claim.incarnation,
            info,
        };
        let recorded = self.apply(
            vec![IndexOp::Put(record::blob_key(digest), record.encode())],
            Durability::Lazy,
        );
        if let Err(error) = recorded {
            tracing::warn!(digest = %digest.short(), %error, "complete blob not recorded; the next opening does it");
        }
        Ok(())
    }

    /// Hashes held pieces that follow the prefix hashed so far.
    fn run_digest(&self, claim: &Claim) -> Result<(), StoreError> {
        let digest = &claim.digest;
        let (mut running, losses, geometry) = {
            let mut shelf = self.shelf();
            let blob = shelf.same_blob(digest, claim.incarnation)?;
            let (losses, geometry) = (blob.losses, blob.info.geometry);
            let Some(partial) = blob.partial_mut() else {
                return Ok(());
            };
            (partial.running.clone(), losses, geometry)
        };
        loop {
            let piece = {
                let mut shelf = self.shelf();
                let blob = shelf.same_blob(digest, claim.incarnation)?;
                match geometry.piece(running.next) {
                    Some(piece) if blob.holds(piece) && blob.losses == losses => piece,
                    _ => break,
                }
            };
            let hashed = self.hash_range(claim, geometry.range_of(piece), &mut running.hasher);
            if let Err(error) = hashed {
                tracing::warn!(digest = %digest.short(), piece = piece.get(), %error, "held piece cannot be read");
                self.inner.read_errors.fetch_add(1, Ordering::Relaxed);
                self.lose(digest, claim.incarnation, piece)?;
                return Err(StoreError::PieceLost {
                    digest: *digest,
                    piece: piece.get(),
                });
            }
            running.next += 1;
        }
        let mut shelf = self.shelf();
        let blob = shelf.same_blob(digest, claim.incarnation)?;
        let unchanged = blob.losses == losses;
        if let Some(partial) = blob.partial_mut()
            && unchanged
        {
            partial.running = running;
        }
        Ok(())
    }

    fn hash_range(
        &self,
        claim: &Claim,
        range: ByteRange,
        hasher: &mut DigestHasher,
    ) -> Result<(), StoreError> {
        let file = self.file(&claim.digest, claim.incarnation)?;
        file_range(&*file, range, &mut |bytes| hasher.update(bytes))
            .map_err(|e| self.io("read", &claim.digest, e))
    }

    fn sync_file(&self, claim: &Claim) -> Result<(), StoreError> {
        let file = self.file(&claim.digest, claim.incarnation)?;
        match file.sync() {
            Ok(()) => Ok(()),
            Err(e) => Err(self.give_up(claim, self.io("sync", &claim.digest, e))),
        }
    }

    /// Discards a blob of which it is not known what the disk holds.
    fn give_up(&self, claim: &Claim, error: StoreError) -> StoreError {
        tracing::warn!(digest = %claim.digest.short(), %error, "blob discarded: its bytes may not be durable");
        if let Err(error) = self.discard_claimed(claim) {
            tracing::warn!(digest = %claim.digest.short(), %error, "discarded blob not wholly erased");
        }
        error
    }

    /// Tells a disk that changed pieces from an origin that signed wrong ones.
    fn settle_wrong_digest(&self, claim: &Claim) -> StoreError {
        let digest = &claim.digest;
        let mut first_lost = None;
        let geometry = match self.shelf().same_blob(digest, claim.incarnation) {
            Ok(blob) => blob.info.geometry,
            Err(error) => return error,
        };
        for piece in geometry.pieces() {
            let sound = self.proof(digest, piece).ok().is_some_and(|proof| {
                self.file(digest, claim.incarnation).is_ok_and(|file| {
                    hash_matches(&*file, geometry.range_of(piece), &proof.hash).unwrap_or(false)
                })
            });
            if !sound && self.lose(digest, claim.incarnation, piece).is_ok() {
                first_lost.get_or_insert_with(|| piece.get());
            }
        }
        if let Some(piece) = first_lost {
            return StoreError::PieceLost {
                digest: *digest,
                piece,
            };
        }
        self.inner.wrong_digests.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.discard_claimed(claim) {
            tracing::warn!(digest = %digest.short(), %error, "wrong blob not wholly erased");
        }
        StoreError::WrongDigest { digest: *digest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::specimen::{Bench, Specimen, WatchedDisk};

    #[test]
    fn pieces_in_order_are_committed_without_reading_any_again() {
        let (bench, disk) = (Bench::new(), WatchedDisk::default());
        let store = bench.open_on(&disk);
        Specimen::new(b"in order", (5 << 20) + 3)
            .store_all(&store)
            .unwrap();
        assert_eq!(disk.read_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_was_hashed_on_the_way_is_not_read_again_at_the_end() {
        let (bench, disk) = (Bench::new(), WatchedDisk::default());
        let store = bench.open_on(&disk);
        let blob = Specimen::new(b"reversed", (4 << 20) + 3);
        store.create(&blob.info).unwrap();
        for piece in (0..blob.pieces()).rev() {
            blob.store_piece(&store, piece).unwrap();
            store.advance(&blob.digest()).unwrap();
        }
        let read = disk.read_bytes.load(Ordering::Relaxed);
        assert_eq!(
            read,
            (3 << 20) + 3,
            "all but the first piece, which came last"
        );
        store.commit(&blob.digest()).unwrap();
        assert_eq!(disk.read_bytes.load(Ordering::Relaxed), read);
    }

    #[test]
    fn a_blob_that_lacks_pieces_is_not_committed() {
        let bench = Bench::new();
        let store = bench.open();
        let blob = Specimen::new(b"lacking", 3 << 20);
        store.create(&blob.info).unwrap();
        blob.store_piece(&store, 1).unwrap();
        assert!(matches!(
            store.commit(&blob.digest()),
            Err(StoreError::Incomplete { missing: 2, .. })
        ));
        assert!(matches!(
            store.commit(&Digest::Sha256([0; 32])),
            Err(StoreError::NotFound { .. })
        ));
        blob.store_piece(&store, 0).unwrap();
        blob.store_piece(&store, 2).unwrap();
        store.commit(&blob.digest()).unwrap();
        store.commit(&blob.digest()).unwrap(); // twice is as good as once
        store.advance(&blob.digest()).unwrap();
    }

    #[test]
    fn sound_pieces_of_a_wrong_blob_are_discarded_and_the_origin_is_to_blame() {
        let bench = Bench::new();
        let store = bench.open();
        let blob = Specimen::new(b"lie", (1 << 20) + 1).misnamed();
        assert!(matches!(
            blob.store_all(&store),
            Err(StoreError::WrongDigest { .. })
        ));
        assert!(store.lookup(&blob.digest()).is_none());
        assert!(!bench.file_of(&blob.digest(), ".partial").exists());
        assert_eq!(
            (store.faults().wrong_digests, store.faults().pieces_lost),
            (1, 0)
        );
        assert_eq!(store.usage().used_bytes, 0);
    }

    #[test]
    fn a_piece_that_the_disk_changed_before_the_commit_is_missing_and_the_rest_kept() {
        let bench = Bench::new();
        let store = bench.open();
        let blob = Specimen::new(b"rot", 3 << 20);
        store.create(&blob.info).unwrap();
        for piece in [2, 1, 0] {
            blob.store_piece(&store, piece).unwrap();
        }
        bench.flip(&bench.file_of(&blob.digest(), ".partial"), (1 << 20) + 77);
        let error = store.commit(&blob.digest()).unwrap_err();
        assert!(
            matches!(error, StoreError::PieceLost { piece: 1, .. }),
            "{error}"
        );
        let missing: Vec<u32> = store
            .lookup(&blob.digest())
            .unwrap()
            .held
            .iter_missing()
            .map(|piece| piece.get())
            .collect();
        assert_eq!(missing, [1]);
        blob.store_piece(&store, 1).unwrap();
        store.commit(&blob.digest()).unwrap();
        assert!(blob.read_all(&store).unwrap() == blob.bytes);
    }
}
