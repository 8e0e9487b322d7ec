//! A blob's body as it leaves: computed a step at a time, at the rate that was set, damaged where it was asked.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::time::Instant;

use super::Inside;
use super::script::Fault;
use crate::workload::Layer;

const STEP_BYTES: u64 = 64 * 1024;
/// Between the last bytes of a body that is cut and the cut.
const REST: Duration = Duration::from_millis(50);

/// How late the sender may be and still keep the rate.
const CATCH_UP: Duration = Duration::from_millis(50);

/// Where a body goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Damage {
    cut_after: Option<u64>,
    flip_at: Option<u64>,
    stall_after: Option<u64>,
}

impl Damage {
    pub(super) fn of(fault: Option<&Fault>) -> Self {
        match fault {
            Some(Fault::CutAfter(bytes)) => Self {
                cut_after: Some(*bytes),
                ..Self::default()
            },
            Some(Fault::FlipAt(offset)) => Self {
                flip_at: Some(*offset),
                ..Self::default()
            },
            Some(Fault::StallAfter(bytes)) => Self {
                stall_after: Some(*bytes),
                ..Self::default()
            },
            Some(Fault::HeadersAfter(_) | Fault::Status(_)) | None => Self::default(),
        }
    }
}

/// A rate for all bodies together; 0 is none.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes_per_sec: AtomicU64,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn set(&self, bytes_per_sec: Option<u64>) {
        self.bytes_per_sec
            .store(bytes_per_sec.unwrap_or(0), Ordering::Relaxed);
    }

    /// When so many bytes will have gone over the line that all bodies share.
    fn reserve(&self, bytes: u64) -> Option<Instant> {
        let rate = self.bytes_per_sec.load(Ordering::Relaxed);
        if rate == 0 {
            return None;
        }
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // A sender that woke late may catch up, or every late timer would make the line slower than it is said to be.
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let from = free_at.filter(|at| *at > earliest).unwrap_or(now);
        let until = from + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        *free_at = Some(until);
        Some(until)
    }
}

pub(super) fn stream(
    inside: &Arc<Inside>,
    layer: Layer,
    range: Range<u64>,
    damage: Damage,
) -> Body {
    let inside = Arc::clone(inside);
    let start = range.start;
    Body::from_stream(stream::try_unfold(start, move |at| {
        let (inside, layer, end) = (Arc::clone(&inside), layer.clone(), range.end);
        async move {
            if at == end {
                return Ok(None);
            }
            let mut take = STEP_BYTES.min(end - at);
            if let Some(limit) = damage.cut_after {
                let left = (start + limit).saturating_sub(at);
                if left == 0 {
                    // What was handed over goes out while the stream rests; an error would throw it away.
                    tokio::time::sleep(REST).await;
                    return Err(std::io::Error::other("cut, as the test asked"));
                }
                take = take.min(left);
            }
            if let Some(limit) = damage.stall_after {
                let left = (start + limit).saturating_sub(at);
                if left == 0 {
                    // Until the other side gives up, which drops this.
                    std::future::pending::<()>().await;
                }
                take = take.min(left);
            }
            if let Some(until) = inside.pace.reserve(take) {
                tokio::time::sleep_until(until).await;
            }
            let bytes = damaged(layer.read_at(at, take), at, damage.flip_at);
            inside.count(layer.digest(), |asked| asked.bytes += take);
            Ok(Some((bytes, at + take)))
        }
    }))
}

fn damaged(bytes: Bytes, at: u64, flip_at: Option<u64>) -> Bytes {
    let inside = flip_at
        .and_then(|flip| usize::try_from(flip.checked_sub(at)?).ok())
        .filter(|i| *i < bytes.len());
    let Some(index) = inside else { return bytes };
    let mut wrong = BytesMut::from(&bytes[..]);
    wrong[index] ^= 1;
    wrong.freeze()
}
