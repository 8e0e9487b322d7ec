//! Which blobs are being sent, and where their answers were cut.
//!
//! A client that reads one blob by several ranges at once (containerd from 2.1 on) gives the whole pull up when a
//! later range is answered with an error status, and survives a short body. So while answers of a blob are open, a
//! range that cannot be had is cut once, and refused only when its client comes back to the same place.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use shoal_proto::Digest;
use shoal_proto::limits::CUT_OFFSETS_MAX;

/// All blobs with open answers.
#[derive(Debug, Default)]
pub(crate) struct Started {
    blobs: Mutex<HashMap<Digest, Blob>>,
}

#[derive(Debug)]
struct Blob {
    blob_bytes: u64,
    open: usize,
    cut_at: BTreeSet<u64>,
}

/// One open answer; dropping it ends it.
#[derive(Debug)]
pub(crate) struct OpenAnswer {
    started: Arc<Started>,
    digest: Digest,
}

impl Started {
    pub(crate) fn enter(self: &Arc<Self>, digest: Digest, blob_bytes: u64) -> OpenAnswer {
        self.with(|blobs| {
            let blob = blobs.entry(digest).or_insert_with(|| Blob {
                blob_bytes,
                open: 0,
                cut_at: BTreeSet::new(),
            });
            blob.open += 1;
        });
        OpenAnswer {
            started: Arc::clone(self),
            digest,
        }
    }

    /// A range from `start` cannot be had. `Some(length of the blob)`: cut its answer short; `None`: say so.
    pub(crate) fn cut_instead(&self, digest: &Digest, start: u64) -> Option<u64> {
        self.with(|blobs| {
            let blob = blobs.get_mut(digest)?;
            let first = blob.cut_at.len() < CUT_OFFSETS_MAX && blob.cut_at.insert(start);
            first.then_some(blob.blob_bytes)
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Digest, Blob>) -> T) -> T {
        act(&mut self.blobs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl OpenAnswer {
    /// This answer was cut at `offset`, where its client will come back.
    pub(crate) fn was_cut(&self, offset: u64) {
        let _ = self.started.cut_instead(&self.digest, offset);
    }
}

impl Drop for OpenAnswer {
    fn drop(&mut self) {
        self.started.with(|blobs| {
            if let Some(blob) = blobs.get_mut(&self.digest) {
                blob.open -= 1; // entered once for each answer
                if blob.open == 0 {
                    blobs.remove(&self.digest);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: Digest = Digest::Sha256([7; 32]);

    #[test]
    fn a_blob_that_nobody_reads_is_refused_at_once() {
        assert_eq!(Arc::new(Started::default()).cut_instead(&BLOB, 0), None);
    }

    #[test]
    fn beside_an_open_answer_each_place_is_cut_once() {
        let started = Arc::new(Started::default());
        let open = started.enter(BLOB, 100);
        assert_eq!(started.cut_instead(&BLOB, 40), Some(100));
        assert_eq!(started.cut_instead(&BLOB, 40), None);
        assert_eq!(started.cut_instead(&BLOB, 60), Some(100));
        open.was_cut(80);
        assert_eq!(started.cut_instead(&BLOB, 80), None);
    }

    #[test]
    fn what_was_cut_is_forgotten_with_the_last_open_answer() {
        let started = Arc::new(Started::default());
        let (first, second) = (started.enter(BLOB, 100), started.enter(BLOB, 100));
        assert_eq!(started.cut_instead(&BLOB, 1), Some(100));
        drop(first);
        assert_eq!(started.cut_instead(&BLOB, 1), None);
        drop(second);
        assert!(started.blobs.lock().unwrap().is_empty());
    }

    #[test]
    fn the_places_remembered_are_bounded() {
        let started = Arc::new(Started::default());
        let _open = started.enter(BLOB, 1 << 20);
        let cut = (0..1000)
            .filter(|at| started.cut_instead(&BLOB, *at).is_some())
            .count();
        assert_eq!(cut, CUT_OFFSETS_MAX);
    }
}
