//! Going down in order: nothing new is begun, what others take from us may come to its end, and then everything that
//! the driver started is over before the store is closed.
//!
//! Bounded by the drain grace for uploads; after that, tasks are stopped. A reader of a blob that is still arriving
//! fails at once: its client goes to the next mirror sooner than we would finish.

use shoal_proto::wire::{CloseCode, Refusal, RefusalCode};
use tokio::time::{Instant, timeout_at};

use super::Driver;
use super::report::Report;
use crate::exchange::serve::refuse;
use crate::pool;

impl Driver {
    pub(super) async fn drain(mut self) {
        tracing::info!(uploads = self.uploads.len(), "draining");
        self.commands.close();
        for (_, transfer) in self.transfers.drain() {
            transfer.task.abort();
        }
        self.blobs.close_all();
        for (_, question) in std::mem::take(&mut self.questions) {
            self.leave(question);
        }
        self.finish_uploads().await;
        self.stop.cancel();
        self.endpoint.close(CloseCode::Leaving).await;
        self.tasks.close();
        self.bury().await;
        let store = self.exchange.store.clone();
        match pool::run(move || store.close()).await {
            Ok(()) => tracing::info!("drained; the store is closed"),
            Err(error) => {
                tracing::warn!(%error, "the store was not closed cleanly; its partial blobs are checked at the next start")
            }
        }
    }

    /// Until the last upload is over or the grace is.
    async fn finish_uploads(&mut self) {
        let deadline = Instant::now() + self.options.drain_grace;
        while !self.uploads.is_empty() {
            match timeout_at(deadline, self.reports.recv()).await {
                Ok(Some(Report::Served { request, .. })) => {
                    self.uploads.remove(&request);
                }
                Ok(Some(Report::Asked { answer, .. })) => self.leave(answer),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }

    /// Waits for every task; what they still report is read so that none of them waits for us.
    async fn bury(&mut self) {
        loop {
            tokio::select! {
                () = self.tasks.wait() => return,
                Some(report) = self.reports.recv() => drop(report),
            }
        }
    }

    fn leave(&self, question: crate::exchange::asked::PendingAnswer) {
        let refusal = Refusal::new(RefusalCode::Leaving);
        self.tasks.spawn(async move {
            let _place = question.place;
            refuse(question.stream, refusal).await;
        });
    }
}
