//! Content-addressed store: blobs as files, what is known of them in RocksDB. Synchronous on purpose: callers bring it to
//! the counted blocking [`pool`](crate::pool). Not here: which pieces to get, whose proofs to trust (a proof is checked
//! against its bytes here, its signature before it comes here), and what a client is told.
//!
//! - I1: [`Store::read`] gives bytes of held pieces only; a piece is held once its bytes hashed to its proof.
//! - I4: a held piece becomes missing only with its blob, or when the disk lost it; both are counted or reported.
//! - I5: complete means whole digest checked, file synced, then renamed: the commit point ([`Store::commit`]).
//! - One lock ([`shelf`]), never held across a call to the disk or the index; a lease's own lock is never taken under it.
//!
//! docs/STORAGE.md draws the layout and tells what a crash at any moment leaves.

mod buffers;
mod claim;
mod complete;
pub mod disk;
mod error;
mod evict;
mod facts;
pub mod index;
mod layout;
#[cfg(test)]
mod model;
mod partial;
mod read;
mod record;
mod recover;
mod shelf;
mod space;
#[cfg(test)]
pub(crate) mod specimen;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use shoal_proto::limits::{FLUSH_BYTES, STORE_CLOSE_PATIENCE};
use shoal_proto::{Bitfield, BlobInfo, Digest, PieceIndex, PieceProof};

pub use self::claim::Pin;
pub use self::error::StoreError;
pub use self::partial::PieceWriter;
pub use self::read::Recheck;
pub use self::recover::RecoveryReport;
pub use self::space::Usage;

use self::buffers::Buffers;
use self::disk::{DirLock, Disk};
use self::facts::Facts;
use self::index::{Durability, Index, IndexError, IndexOp, OpenIndex, RocksIndex};
use self::layout::{FileName, Layout};
use self::shelf::{Blob, Shelf, State};

/// Where a store is and how large it may grow.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The data folder; made when absent, its parent must exist.
    pub dir: PathBuf,
    /// Bytes of all blobs together, partial ones at their full length; `None`: the disk alone bounds it.
    pub quota_bytes: Option<u64>,
    /// Bytes that a new blob must leave free on the filesystem.
    pub free_floor_bytes: u64,
    /// Bytes written to a partial blob between two `fdatasync`s of it: less keeps dirty pages few, more costs fewer calls.
    pub flush_bytes: u64,
}

impl StoreOptions {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            quota_bytes: None,
            free_floor_bytes: 0,
            flush_bytes: FLUSH_BYTES,
        }
    }
}

/// What the store holds of a blob.
#[derive(Clone, Debug)]
pub struct StoredBlob {
    pub info: BlobInfo,
    /// All ones when complete.
    pub held: Bitfield,
    pub complete: bool,
}

/// What went wrong on the disk since the store was opened; for counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Held pieces that the disk lost: read errors, short files, bytes that no longer match their proof.
    pub pieces_lost: u64,
    /// Reads that failed or came short.
    pub read_errors: u64,
    /// Blobs whose pieces were sound and whose whole digest was not.
    pub wrong_digests: u64,
}

/// A handle on one opened data folder; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: StoreOptions,
    layout: Layout,
    disk: Arc<dyn Disk>,
    index: Arc<dyn Index>,
    facts: Facts,
    shelf: Mutex<Shelf>,
    buffers: Arc<Buffers>,
    /// Told whenever a claim, a passage or a writer ends.
    settled: Condvar,
    pieces_lost: AtomicU64,
    read_errors: AtomicU64,
    wrong_digests: AtomicU64,
    _lock: Box<dyn DirLock>,
}

impl Store {
    /// Opens the data folder, recovering whatever the last process left: there is no other way of opening.
    pub fn open(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, RecoveryReport), StoreError> {
        Self::open_with(options, disk, &|meta| Ok(Arc::new(RocksIndex::open(meta)?)))
    }

    /// As [`open`](Self::open), with another index than RocksDB: for tests that crash it.
    pub fn open_with(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
        open_index: &OpenIndex<'_>,
    ) -> Result<(Self, RecoveryReport), StoreError> {
        let layout = Layout::new(&options.dir);
        let lock = recover::take_folder(&*disk, &layout)?;
        let index = open_index(&layout.meta()).map_err(|e| StoreError::index(&options.dir, e))?;
        let recovered = recover::recover(&*disk, &*index, &layout)?;
        let facts = Facts::load(&*index).map_err(|e| StoreError::index(&options.dir, e))?;
        let inner = Inner {
            options,
            layout,
            disk,
            index,
            facts,
            shelf: Mutex::new(recovered.shelf),
            buffers: Arc::default(),
            settled: Condvar::new(),
            pieces_lost: AtomicU64::new(0),
            read_errors: AtomicU64::new(0),
            wrong_digests: AtomicU64::new(0),
            _lock: lock,
        };
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            recovered.report,
        ))
    }

    /// Makes everything durable and notes that the stop was clean, so that the next opening need not hash. Every later
    /// write is refused. On failure the next opening hashes what partial blobs claim, and nothing is lost.
    pub fn close(&self) -> Result<(), StoreError> {
        let mut shelf = self.shelf();
        shelf.closed = true;
        let (shelf, patience) = self
            .inner
            .settled
            .wait_timeout_while(shelf, STORE_CLOSE_PATIENCE, |shelf| {
                shelf.writers > 0 || !shelf.in_passage.is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        if patience.timed_out() {
            return Ok(());
        }
        let mut unsynced = Vec::new();
        let mut ops = vec![IndexOp::Put(record::CLEAN_KEY.to_vec(), vec![1])];
        for blob in shelf.blobs.values() {
            let State::Partial(partial) = &blob.state else {
                continue;
            };
            let held = record::encode_held(blob.incarnation, &partial.held);
            ops.push(IndexOp::Put(record::held_key(&blob.info.digest), held));
            if partial.unsynced_bytes > 0 {
                unsynced.push((blob.info.digest, blob.incarnation));
            }
        }
        drop(shelf);
        for (digest, incarnation) in unsynced {
            self.file(&digest, incarnation)?
                .sync()
                .map_err(|e| self.io("sync", &digest, e))?;
        }
        self.apply(ops, Durability::Synced)
    }

    /// All blobs, in no order.
    pub fn blobs(&self) -> Vec<StoredBlob> {
        self.shelf().blobs.values().map(stored).collect()
    }

    pub fn lookup(&self, digest: &Digest) -> Option<StoredBlob> {
        self.shelf().blobs.get(digest).map(stored)
    }

    /// The recorded proof of a held piece.
    pub fn proof(&self, digest: &Digest, piece: PieceIndex) -> Result<PieceProof, StoreError> {
        let (incarnation, geometry) = {
            let shelf = self.shelf();
            let blob = shelf.blob(digest)?;
            let geometry = blob.info.geometry;
            if geometry.piece(piece.get()).is_none() {
                return Err(StoreError::OutOfRange {
                    digest: *digest,
                    at: u64::from(piece.get()),
                });
            }
            if !blob.holds(piece) {
                return Err(StoreError::NotHeld {
                    digest: *digest,
                    offset: geometry.range_of(piece).start,
                });
            }
            (blob.incarnation, geometry)
        };
        let key = record::proof_key(digest, incarnation, piece.get());
        let value = self
            .inner
            .index
            .get(&key)
            .map_err(|e| self.index_error(e))?;
        value
            .and_then(|value| record::decode_proof(&value, &geometry))
            .ok_or_else(|| StoreError::NotHeld {
                digest: *digest,
                offset: geometry.range_of(piece).start,
            })
    }

    /// Removes a blob, pinned or not; readers of it get [`StoreError::NotFound`]. Nothing happens when it is not there.
    pub fn discard(&self, digest: &Digest) -> Result<(), StoreError> {
        match self.claim(digest) {
            Ok(claim) => self.discard_claimed(&claim),
            Err(StoreError::NotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub fn faults(&self) -> Faults {
        Faults {
            pieces_lost: self.inner.pieces_lost.load(Ordering::Relaxed),
            read_errors: self.inner.read_errors.load(Ordering::Relaxed),
            wrong_digests: self.inner.wrong_digests.load(Ordering::Relaxed),
        }
    }

    /// The data folder.
    pub fn dir(&self) -> &Path {
        self.inner.layout.root()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // A panic under the lock leaves no half-made change: each change of the shelf is a few assignments.
        self.inner
            .shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, ops: Vec<IndexOp>, durability: Durability) -> Result<(), StoreError> {
        self.inner
            .index
            .apply(ops, durability)
            .map_err(|e| self.index_error(e))
    }

    fn index_error(&self, error: IndexError) -> StoreError {
        StoreError::index(self.dir(), error)
    }

    fn io(&self, op: &'static str, digest: &Digest, error: std::io::Error) -> StoreError {
        StoreError::io(
            op,
            &self.inner.layout.blob(digest, FileName::Partial),
            error,
        )
    }
}

fn stored(blob: &Blob) -> StoredBlob {
    StoredBlob {
        info: blob.info,
        held: blob.held(),
        complete: blob.is_complete(),
    }
}
