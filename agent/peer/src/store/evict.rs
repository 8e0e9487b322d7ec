//! What goes first when room is needed: the blob used least recently, never one that is pinned or claimed. Not here: how
//! much room is needed ([`super::space`]).
//!
//! A blob leaves the shelf first, then its records, then its file: whatever a crash leaves of it, opening settles.

use shoal_proto::Digest;
use shoal_proto::limits::LOW_WATERMARK_PERCENT;

use super::Store;
use super::claim::Claim;
use super::error::StoreError;
use super::index::{Durability, IndexOp};
use super::layout::FileName;
use super::record;
use super::shelf::{Blob, Shelf};

impl Shelf {
    /// Takes out least recently used blobs until `bytes` more fit the quota. When they cannot, nothing is taken.
    pub(super) fn make_room(&mut self, bytes: u64, quota: u64) -> Result<Vec<Blob>, StoreError> {
        let wanted = self.used_bytes.saturating_add(bytes);
        if wanted <= quota {
            return Ok(Vec::new());
        }
        if bytes > quota {
            let why = "the blob alone is larger than the quota; raise `store.quota`";
            return Err(StoreError::NoSpace {
                needed_bytes: bytes,
                why,
            });
        }
        let evictable: u64 = self
            .evictable()
            .map(|blob| blob.info.geometry.blob_bytes())
            .sum();
        if wanted.saturating_sub(evictable) > quota {
            let why = "the quota is taken by blobs in use; raise `store.quota` or retry later";
            return Err(StoreError::NoSpace {
                needed_bytes: bytes,
                why,
            });
        }
        let low = quota - quota / 100 * (100 - LOW_WATERMARK_PERCENT);
        Ok(self.take_oldest(wanted - low))
    }

    /// Takes out least recently used blobs of at least so many bytes, or all that may go.
    pub(super) fn take_oldest(&mut self, bytes: u64) -> Vec<Blob> {
        let mut oldest: Vec<(u64, Digest)> = self
            .evictable()
            .map(|blob| (blob.last_used, blob.info.digest))
            .collect();
        oldest.sort_unstable();
        let mut taken = Vec::new();
        let mut taken_bytes = 0_u64;
        for (_, digest) in oldest {
            if taken_bytes >= bytes {
                break;
            }
            if let Some(blob) = self.remove(&digest) {
                taken_bytes += blob.info.geometry.blob_bytes();
                taken.push(blob);
            }
        }
        taken
    }

    fn evictable(&self) -> impl Iterator<Item = &Blob> {
        self.blobs
            .values()
            .filter(|blob| !blob.claimed && !self.is_pinned(&blob.info.digest))
    }
}

impl Store {
    /// Erases blobs that left the shelf. What fails stays behind as an orphan and is settled at the next opening.
    pub(super) fn erase_all(&self, blobs: Vec<Blob>) -> Vec<Digest> {
        let digests: Vec<_> = blobs.iter().map(|blob| blob.info.digest).collect();
        for blob in blobs {
            if let Err(error) = self.erase(&blob) {
                tracing::warn!(digest = %blob.info.digest.short(), %error, "evicted blob not wholly erased");
            }
        }
        digests
    }

    /// As [`Store::discard`], by whoever has the claim already.
    pub(super) fn discard_claimed(&self, claim: &Claim) -> Result<(), StoreError> {
        let blob = self.shelf().remove(&claim.digest);
        blob.map_or(Ok(()), |blob| self.erase(&blob))
    }

    fn erase(&self, blob: &Blob) -> Result<(), StoreError> {
        let erased = self.erase_traces(blob);
        self.shelf().in_passage.remove(&blob.info.digest);
        self.inner.settled.notify_all();
        erased
    }

    fn erase_traces(&self, blob: &Blob) -> Result<(), StoreError> {
        let digest = &blob.info.digest;
        let unrecorded = self.apply(
            vec![
                IndexOp::Delete(record::blob_key(digest)),
                IndexOp::Delete(record::use_key(digest)),
                IndexOp::DeletePrefix(record::proofs_prefix(digest)),
            ],
            Durability::Lazy,
        );
        let mut removed = Ok(());
        // Its name may be either where an earlier rename failed.
        for name in [FileName::Complete, FileName::Partial] {
            let path = self.inner.layout.blob(digest, name);
            match self.inner.disk.remove(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    removed = Err(StoreError::io("remove", &path, e))
                }
                _ => {}
            }
        }
        unrecorded.and(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::specimen::{Bench, Specimen};

    const MIB: u64 = 1 << 20;

    fn blobs<const N: usize>(lengths_mib: [u64; N]) -> [Specimen; N] {
        std::array::from_fn(|i| {
            Specimen::new(&[b'e', u8::try_from(i).unwrap()], lengths_mib[i] * MIB)
        })
    }

    fn stored(store: &Store, blobs: &[Specimen]) -> Vec<bool> {
        blobs
            .iter()
            .map(|blob| store.lookup(&blob.digest()).is_some())
            .collect()
    }

    #[test]
    fn least_recently_used_blobs_go_first_down_to_the_low_watermark() {
        let bench = Bench::with_quota(10 * MIB);
        let store = bench.open();
        let all = blobs([2, 2, 3, 3, 1]);
        for blob in &all[..4] {
            blob.store_all(&store).unwrap();
        }
        store.touch(&all[0].digest());
        // 10 MiB and 1 more, down to 9: the two least recently used are 1 (2 MiB) and then 2.
        assert_eq!(store.create(&all[4].info).unwrap(), [all[1].digest()]);
        assert_eq!(stored(&store, &all), [true, false, true, true, true]);
        assert!(!bench.file_of(&all[1].digest(), "").exists());
        assert_eq!(store.usage().used_bytes, 9 * MIB);
        assert_eq!(store.evict_to_fit(MIB).unwrap(), []);
        assert_eq!(store.evict_to_fit(2 * MIB).unwrap(), [all[2].digest()]);
    }

    #[test]
    fn a_blob_in_use_is_never_evicted_and_nothing_goes_in_vain() {
        let bench = Bench::with_quota(4 * MIB);
        let store = bench.open();
        let all = blobs([2, 2, 3, 2]);
        all[0].store_all(&store).unwrap();
        all[1].store_all(&store).unwrap();
        let pin = store.pin(&all[0].digest());
        assert!(matches!(
            store.create(&all[2].info),
            Err(StoreError::NoSpace { .. })
        ));
        assert_eq!(stored(&store, &all), [true, true, false, false]);
        assert_eq!(store.create(&all[3].info).unwrap(), [all[1].digest()]);
        let writer = store.writer(&all[3].digest(), all[3].piece(0)).unwrap();
        drop(pin);
        assert_eq!(store.evict_to_fit(2 * MIB).unwrap(), [all[0].digest()]);
        assert!(matches!(
            store.evict_to_fit(3 * MIB),
            Err(StoreError::NoSpace { .. })
        ));
        drop(writer);
        assert_eq!(store.evict_to_fit(3 * MIB).unwrap(), [all[3].digest()]); // partial and idle
        assert_eq!(store.usage().used_bytes, 0);
    }

    #[test]
    fn a_blob_larger_than_the_quota_evicts_nothing() {
        let bench = Bench::with_quota(2 * MIB);
        let store = bench.open();
        let all = blobs([1, 3]);
        all[0].store_all(&store).unwrap();
        assert!(matches!(
            store.create(&all[1].info),
            Err(StoreError::NoSpace { .. })
        ));
        assert_eq!(stored(&store, &all), [true, false]);
    }

    #[test]
    fn uses_are_remembered_over_a_restart() {
        let bench = Bench::with_quota(4 * MIB);
        let all = blobs([2, 2, 1]);
        {
            let store = bench.open();
            all[0].store_all(&store).unwrap();
            all[1].store_all(&store).unwrap();
            drop(store.pin(&all[0].digest()));
        }
        let store = bench.open();
        assert_eq!(store.create(&all[2].info).unwrap(), [all[1].digest()]);
    }

    #[test]
    fn the_free_space_floor_is_kept_by_eviction_and_then_by_refusal() {
        let mut bench = Bench::new();
        let all = blobs([2, 1]);
        all[0].store_all(&bench.open()).unwrap();
        bench.options.free_floor_bytes = u64::MAX / 2;
        let store = bench.open();
        assert!(matches!(
            store.create(&all[1].info),
            Err(StoreError::NoSpace { .. })
        ));
        assert_eq!(stored(&store, &all), [false, false]);
        assert_eq!(store.usage().used_bytes, 0);
    }
}
