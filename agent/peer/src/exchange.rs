//! Pieces and questions over links: one connection a pair of peers, one stream a question.
//!
//! [`Exchange`] is what every task that moves bytes shares. Tasks report to the driver and decide nothing; the
//! driver decides nothing about bytes.

pub(crate) mod ask;
pub(crate) mod asked;
pub(crate) mod budget;
pub(crate) mod fetch;
pub(crate) mod link_task;
pub(crate) mod origins;
pub(crate) mod serve;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use shoal_proto::Zone;
use tokio::sync::mpsc;

use crate::driver::report::Report;
use crate::options::Seeder;
use crate::store::Store;
use crate::trust::Trust;
use budget::ByteBudget;

/// What the tasks of one member share.
pub(crate) struct Exchange {
    /// Ours.
    pub(crate) zone: Zone,
    pub(crate) store: Store,
    pub(crate) trust: Arc<Trust>,
    pub(crate) budget: ByteBudget,
    pub(crate) seeder: Option<Arc<dyn Seeder>>,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) reports: mpsc::Sender<Report>,
}

impl Exchange {
    /// Tells the driver. Once the driver is gone there is nobody to tell, and the task ends by itself soon.
    pub(crate) async fn report(&self, report: Report) {
        if self.reports.send(report).await.is_err() {
            tracing::trace!("the driver is gone");
        }
    }
}

/// What we give away, measured for the tracker.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    bytes: AtomicU64,
    now: AtomicU32,
}

impl Uploads {
    pub(crate) fn begin(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes given away since the start.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Pieces being sent now.
    pub(crate) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }
}
