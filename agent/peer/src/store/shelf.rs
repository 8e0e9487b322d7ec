//! What the store knows of its blobs while it runs: one state for each, behind the store's only lock. Not here: any call to
//! the disk or the index; the lock is never held across one.
//!
//! A blob's life: absent -> partial -> complete -> absent. Complete goes back to partial only when the disk loses a piece
//! (I4). In a partial, a piece is held, leased to one writer in place, or missing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_proto::{Bitfield, BlobInfo, Digest, DigestHasher, PieceIndex};

use super::disk::DiskFile;
use super::error::StoreError;

/// All blobs of a store.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) blobs: HashMap<Digest, Blob>,
    /// Users of a digest, also of one that is not stored yet. A pinned blob is never evicted.
    pub(super) pins: HashMap<Digest, u32>,
    /// Off the shelf while the file is being made or erased; nobody else may begin either until it is done.
    pub(super) in_passage: HashSet<Digest>,
    /// Bytes of all blobs, on the shelf and being made: what the quota bounds.
    pub(super) used_bytes: u64,
    /// The largest `last_used` given: a count, not a time, so that a clock that jumps evicts nothing.
    pub(super) last_use: u64,
    pub(super) last_incarnation: u64,
    pub(super) last_lease: u64,
    /// Piece writers alive; closing waits for them.
    pub(super) writers: u32,
    pub(super) closed: bool,
}

#[derive(Debug)]
pub(super) struct Blob {
    pub(super) info: BlobInfo,
    pub(super) state: State,
    pub(super) incarnation: u64,
    pub(super) last_used: u64,
    /// Someone has the sole right to hash the prefix, rename the file or remove it.
    pub(super) claimed: bool,
    /// Pieces that went from held to missing: a reader that sees it move reads no stale bytes.
    pub(super) losses: u64,
    /// Open while something pins the blob.
    pub(super) file: Option<Arc<dyn DiskFile>>,
}

#[derive(Debug)]
pub(super) enum State {
    Complete,
    Partial(Partial),
}

#[derive(Debug)]
pub(super) struct Partial {
    pub(super) held: Bitfield,
    /// By piece; never of a held piece.
    pub(super) leases: BTreeMap<u32, Arc<Lease>>,
    pub(super) running: RunningDigest,
    /// Written and held since the last `fdatasync` of the file.
    pub(super) unsynced_bytes: u64,
}

/// The right to write a piece in place.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: u64,
    /// Held while bytes go to the file, so that whoever revokes waits for the last of them.
    pub(super) state: Mutex<LeaseState>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseState {
    Revoked,
    Writing,
}

/// The whole blob's hash over the pieces before `next`.
#[derive(Clone, Debug)]
pub(super) struct RunningDigest {
    pub(super) next: u32,
    pub(super) hasher: DigestHasher,
}

impl RunningDigest {
    pub(super) fn new(digest: &Digest) -> Self {
        Self {
            next: 0,
            hasher: DigestHasher::new(digest.algorithm()),
        }
    }
}

impl Lease {
    pub(super) fn lock(&self) -> MutexGuard<'_, LeaseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partial {
    pub(super) fn new(digest: &Digest, held: Bitfield) -> Self {
        Self {
            held,
            leases: BTreeMap::new(),
            running: RunningDigest::new(digest),
            unsynced_bytes: 0,
        }
    }
}

impl Blob {
    pub(super) fn new(info: BlobInfo, state: State, incarnation: u64, last_used: u64) -> Self {
        Self {
            info,
            state,
            incarnation,
            last_used,
            claimed: false,
            losses: 0,
            file: None,
        }
    }

    pub(super) fn holds(&self, piece: PieceIndex) -> bool {
        match &self.state {
            State::Complete => true,
            State::Partial(partial) => partial.held.contains(piece),
        }
    }

    pub(super) fn held(&self) -> Bitfield {
        match &self.state {
            State::Complete => Bitfield::full(self.info.geometry.piece_count()),
            State::Partial(partial) => partial.held.clone(),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    pub(super) fn partial_mut(&mut self) -> Option<&mut Partial> {
        match &mut self.state {
            State::Complete => None,
            State::Partial(partial) => Some(partial),
        }
    }
}

impl Shelf {
    pub(super) fn blob(&self, digest: &Digest) -> Result<&Blob, StoreError> {
        self.blobs
            .get(digest)
            .ok_or(StoreError::NotFound { digest: *digest })
    }

    /// The blob that a caller met before, unless it was removed since.
    pub(super) fn same_blob(
        &mut self,
        digest: &Digest,
        incarnation: u64,
    ) -> Result<&mut Blob, StoreError> {
        self.blobs
            .get_mut(digest)
            .filter(|blob| blob.incarnation == incarnation)
            .ok_or(StoreError::NotFound { digest: *digest })
    }

    pub(super) fn is_pinned(&self, digest: &Digest) -> bool {
        self.pins.contains_key(digest)
    }

    pub(super) fn insert(&mut self, blob: Blob) {
        self.blobs.insert(blob.info.digest, blob);
    }

    /// Takes a blob out, to be erased by the caller, and gives its bytes back to the quota.
    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Blob> {
        let blob = self.blobs.remove(digest)?;
        self.used_bytes = self
            .used_bytes
            .saturating_sub(blob.info.geometry.blob_bytes());
        self.in_passage.insert(*digest);
        Some(blob)
    }

    pub(super) fn next_use(&mut self) -> u64 {
        self.last_use += 1;
        self.last_use
    }

    pub(super) fn next_incarnation(&mut self) -> u64 {
        self.last_incarnation += 1;
        self.last_incarnation
    }

    pub(super) fn new_lease(&mut self) -> Arc<Lease> {
        self.last_lease += 1;
        Arc::new(Lease {
            id: self.last_lease,
            state: Mutex::new(LeaseState::Writing),
        })
    }
}
