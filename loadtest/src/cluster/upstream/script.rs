//! What a registry will do wrong, and to whom.
//!
//! What for: faults that happen so many times and then stop, in the order in which a test asked for them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shoal_proto::Digest;

/// Which requests a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// GETs of this blob.
    Blob(Digest),
    /// GETs of any blob.
    Blobs,
    /// Requests for any manifest, by tag or digest.
    Manifests,
}

/// One way to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    CutAfter(u64),
    /// One bit of the byte at this offset of the blob is wrong.
    FlipAt(u64),
    /// The headers come late.
    HeadersAfter(Duration),
    /// Nothing comes any more after so many bytes of the body, and the connection stays.
    StallAfter(u64),
    /// This status and no body; 429 with `Retry-After: 1`.
    Status(u16),
}

#[derive(Debug, Default)]
pub(super) struct Script {
    coming: Mutex<Vec<(Target, Fault, u32)>>,
}

impl Script {
    pub(super) fn add(&self, target: Target, fault: Fault, times: u32) {
        self.coming
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((target, fault, times));
    }

    /// The fault for this request, if one is due.
    pub(super) fn next(&self, request: &Target) -> Option<Fault> {
        let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        let meant = |target: &Target| {
            target == request || (*target == Target::Blobs && matches!(request, Target::Blob(_)))
        };
        let due = coming
            .iter_mut()
            .find(|(target, _, times)| *times > 0 && meant(target))?;
        due.2 -= 1;
        Some(due.1)
    }
}
