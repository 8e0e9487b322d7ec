//! Who may do what with a blob's file: a pin keeps it stored and open, a claim is the sole right to hash, rename or remove it.
//! Not here: what is done under them.

use std::io;
use std::mem::replace;
use std::sync::{Arc, PoisonError};

use shoal_proto::Digest;

use super::Store;
use super::disk::DiskFile;
use super::error::StoreError;
use super::index::{Durability, IndexOp};
use super::layout::FileName;
use super::record;

impl Store {
    /// Notes a use, so that the blob is evicted later than those used before.
    pub fn touch(&self, digest: &Digest) {
        let last_used = {
            let mut shelf = self.shelf();
            let newest = shelf.last_use;
            if shelf
                .blobs
                .get(digest)
                .is_none_or(|blob| blob.last_used == newest)
            {
                return;
            }
            let next = shelf.next_use();
            if let Some(blob) = shelf.blobs.get_mut(digest) {
                blob.last_used = next;
            }
            next
        };
        let note = IndexOp::Put(record::use_key(digest), record::encode_use(last_used));
        if let Err(error) = self.apply(vec![note], Durability::Lazy) {
            tracing::debug!(digest = %digest.short(), %error, "use not recorded");
        }
    }

    /// Keeps a blob, stored now or later, from being evicted, and its file open, until the pin is dropped.
    pub fn pin(&self, digest: &Digest) -> Pin {
        *self.shelf().pins.entry(*digest).or_default() += 1;
        self.touch(digest);
        Pin {
            store: self.clone(),
            digest: *digest,
        }
    }

    /// The sole right to hash, rename or remove a blob's file; waits for whoever has it now.
    pub(super) fn claim(&self, digest: &Digest) -> Result<Claim, StoreError> {
        let mut shelf = self
            .inner
            .settled
            .wait_while(self.shelf(), |shelf| {
                shelf.blobs.get(digest).is_some_and(|blob| blob.claimed)
            })
            .unwrap_or_else(PoisonError::into_inner);
        let blob = shelf
            .blobs
            .get_mut(digest)
            .ok_or(StoreError::NotFound { digest: *digest })?;
        blob.claimed = true;
        Ok(Claim {
            store: self.clone(),
            digest: *digest,
            incarnation: blob.incarnation,
        })
    }

    /// As [`claim`](Self::claim), or `None` when somebody has it.
    pub(super) fn try_claim(&self, digest: &Digest) -> Result<Option<Claim>, StoreError> {
        let mut shelf = self.shelf();
        let blob = shelf
            .blobs
            .get_mut(digest)
            .ok_or(StoreError::NotFound { digest: *digest })?;
        if replace(&mut blob.claimed, true) {
            return Ok(None);
        }
        Ok(Some(Claim {
            store: self.clone(),
            digest: *digest,
            incarnation: blob.incarnation,
        }))
    }

    /// The blob's open file. Its name may change while we look, so both are tried, twice.
    pub(super) fn file(
        &self,
        digest: &Digest,
        incarnation: u64,
    ) -> Result<Arc<dyn DiskFile>, StoreError> {
        if let Some(file) = &self.shelf().same_blob(digest, incarnation)?.file {
            return Ok(file.clone());
        }
        let mut names = [FileName::Complete, FileName::Partial]
            .iter()
            .cycle()
            .take(4);
        let file = loop {
            let Some(name) = names.next() else {
                return Err(StoreError::NotFound { digest: *digest });
            };
            let path = self.inner.layout.blob(digest, *name);
            match self.inner.disk.open(&path) {
                Ok(file) => break file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(StoreError::io("open", &path, e)),
            }
        };
        let mut shelf = self.shelf();
        let pinned = shelf.is_pinned(digest);
        let blob = shelf.same_blob(digest, incarnation)?;
        if pinned {
            blob.file = Some(file.clone());
        }
        Ok(file)
    }
}

/// A blob in use; dropping it is the end of the use.
#[derive(Debug)]
pub struct Pin {
    store: Store,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut shelf = self.store.shelf();
        let Some(pins) = shelf.pins.get_mut(&self.digest) else {
            return;
        };
        *pins -= 1;
        if *pins > 0 {
            return;
        }
        shelf.pins.remove(&self.digest);
        let file = shelf
            .blobs
            .get_mut(&self.digest)
            .and_then(|blob| blob.file.take());
        drop(shelf);
        drop(file); // closes it, which is a call to the disk
    }
}

/// See [`Store::claim`].
#[derive(Debug)]
pub(super) struct Claim {
    store: Store,
    pub(super) digest: Digest,
    pub(super) incarnation: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Ok(blob) = self.store.shelf().same_blob(&self.digest, self.incarnation) {
            blob.claimed = false;
        }
        self.store.inner.settled.notify_all();
    }
}
