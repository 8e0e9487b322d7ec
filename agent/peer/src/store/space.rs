//! Room on the disk: quota, free-space floor, and reservations, so that a download that cannot end is not begun. Not
//! here: which blobs go to make room ([`super::evict`]).
//!
//! Invariant: `used_bytes` of the shelf is the sum of the full lengths of all blobs, stored and being made; it passes
//! the quota only by what was stored before the quota was lowered.

use std::sync::PoisonError;

use shoal_proto::{BlobInfo, Digest};

use super::Store;
use super::error::StoreError;
use super::shelf::Blob;

/// What the store takes and may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Complete blobs.
    pub complete_blobs: usize,
    /// Blobs that lack pieces.
    pub partial_blobs: usize,
    /// Full lengths of all blobs; partial ones have their space set aside.
    pub used_bytes: u64,
    pub quota_bytes: Option<u64>,
    pub free_floor_bytes: u64,
    /// Left on the filesystem; `None` when it would not say.
    pub free_bytes: Option<u64>,
}

/// Quota taken for a blob that is being made; given back when it is dropped unfulfilled.
#[derive(Debug)]
pub(super) struct Reservation {
    store: Store,
    digest: Digest,
    bytes: u64,
    fulfilled: bool,
}

impl Reservation {
    /// The blob is there: its bytes count as its own from now on.
    pub(super) fn fulfil(mut self, blob: Blob) {
        self.store.shelf().insert(blob);
        self.fulfilled = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut shelf = self.store.shelf();
        shelf.in_passage.remove(&self.digest);
        if !self.fulfilled {
            shelf.used_bytes = shelf.used_bytes.saturating_sub(self.bytes);
        }
        drop(shelf);
        self.store.inner.settled.notify_all();
    }
}

impl Store {
    pub fn usage(&self) -> Usage {
        let free_bytes = self.inner.disk.free_bytes(self.dir()).ok();
        let shelf = self.shelf();
        let complete_blobs = shelf
            .blobs
            .values()
            .filter(|blob| blob.is_complete())
            .count();
        Usage {
            complete_blobs,
            partial_blobs: shelf.blobs.len() - complete_blobs,
            used_bytes: shelf.used_bytes,
            quota_bytes: self.inner.options.quota_bytes,
            free_floor_bytes: self.inner.options.free_floor_bytes,
            free_bytes,
        }
    }

    /// Takes room for a blob, evicting others; `None` when the blob is there already. Also the digests that were evicted.
    pub(super) fn reserve(
        &self,
        info: &BlobInfo,
    ) -> Result<Option<(Reservation, Vec<Digest>)>, StoreError> {
        let digest = info.digest;
        let bytes = info.geometry.blob_bytes();
        let mut shelf = self
            .inner
            .settled
            .wait_while(self.shelf(), |shelf| shelf.in_passage.contains(&digest))
            .unwrap_or_else(PoisonError::into_inner);
        if shelf.closed {
            return Err(StoreError::Closed);
        }
        if let Some(blob) = shelf.blobs.get(&digest) {
            if blob.info.geometry == info.geometry {
                return Ok(None);
            }
            return Err(StoreError::GeometryConflict { digest });
        }
        let victims = match self.inner.options.quota_bytes {
            Some(quota) => shelf.make_room(bytes, quota)?,
            None => Vec::new(),
        };
        shelf.used_bytes += bytes;
        shelf.in_passage.insert(digest);
        drop(shelf);
        let reservation = Reservation {
            store: self.clone(),
            digest,
            bytes,
            fulfilled: false,
        };
        let mut evicted = self.erase_all(victims);
        evicted.extend(self.free_disk(bytes)?);
        Ok(Some((reservation, evicted)))
    }

    /// Evicts until a blob of this length would fit quota and disk; what went is the answer.
    pub fn evict_to_fit(&self, bytes: u64) -> Result<Vec<Digest>, StoreError> {
        let victims = match self.inner.options.quota_bytes {
            Some(quota) => self.shelf().make_room(bytes, quota)?,
            None => Vec::new(),
        };
        let mut evicted = self.erase_all(victims);
        evicted.extend(self.free_disk(bytes)?);
        Ok(evicted)
    }

    /// Evicts until the filesystem has these bytes and the floor free.
    fn free_disk(&self, bytes: u64) -> Result<Vec<Digest>, StoreError> {
        let wanted = bytes.saturating_add(self.inner.options.free_floor_bytes);
        let mut evicted = Vec::new();
        loop {
            let free = self
                .inner
                .disk
                .free_bytes(self.dir())
                .map_err(|e| StoreError::io("statvfs", self.dir(), e))?;
            if free >= wanted {
                return Ok(evicted);
            }
            let victims = self.shelf().take_oldest(wanted - free);
            if victims.is_empty() {
                let why = "the free-space floor of the disk would be crossed, and nothing is left to evict";
                return Err(StoreError::NoSpace {
                    needed_bytes: bytes,
                    why,
                });
            }
            evicted.extend(self.erase_all(victims));
        }
    }
}
