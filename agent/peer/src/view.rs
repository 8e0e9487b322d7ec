//! What everybody but the driver may know of a blob that is being brought: followed by its readers and its fetches.
//!
//! The driver is the only writer (I10). Which pieces are held is not here: the store knows, and is asked.

use shoal_proto::{BlobInfo, FailReason};
use tokio::sync::watch;

/// How far a blob is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its shape is not known yet, or the store has no partial for it yet.
    Opening,
    /// The store has a partial; pieces land.
    Arriving(BlobInfo),
    /// The driver goes down.
    Closing,
    /// Committed.
    Complete(BlobInfo),
    /// It will not come.
    Failed(FailReason),
}

/// One state of a blob; every piece that lands makes a new one.
#[derive(Clone, Debug)]
pub(crate) struct BlobView {
    pub(crate) phase: Phase,
    /// Counts the pieces that landed since the swarm was opened, so that followers wake.
    pub(crate) landed: u64,
}

/// The driver's end.
#[derive(Debug)]
pub(crate) struct Viewed(watch::Sender<BlobView>);

impl Viewed {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(BlobView {
            phase: Phase::Opening,
            landed: 0,
        }))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<BlobView> {
        self.0.subscribe()
    }

    pub(crate) fn landed(&self) {
        self.0.send_modify(|view| view.landed += 1);
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.0.send_modify(|view| view.phase = phase);
    }

    pub(crate) fn is_opening(&self) -> bool {
        self.0.borrow().phase == Phase::Opening
    }
}
