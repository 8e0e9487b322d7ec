//! Gives one piece: proof, then bytes from the store, in steps that stay in cache.
//!
//! Runs only after the core granted a slot; a refused peer costs no disk. The step is small and the link's send window
//! is small, so an upload holds little memory however slow its taker. A taker that does not move for
//! [`UPLOAD_STALLED_AFTER`] loses its slot. An upload that does not come to its end resets the stream: an end that
//! comes early would look to the taker like a piece of the wrong length, for which the sender is to blame.

use bytes::Bytes;
use shoal_link::{AnswerStream, FrameError};
use shoal_proto::limits::{SERVE_STEP_BYTES, UPLOAD_STALLED_AFTER};
use shoal_proto::wire::{Answer, Refusal, RefusalCode};
use shoal_proto::{Digest, PieceIndex, PieceProof};
use tokio::time::timeout;

use super::Exchange;
use crate::metrics;
use crate::pool;
use crate::step;
use crate::store::{Store, StoreError};

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By them, by us, or by the network.
    Aborted,
    /// The store does not hold what the core believed it holds.
    Lost,
    Sent,
}

/// Why an upload came to nothing.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the taker went away: {0}")]
    Gone(#[from] FrameError),
    #[error("the taker did not move for {}s", UPLOAD_STALLED_AFTER.as_secs())]
    Stalled,
    #[error("the taker gave the stream up")]
    Stopped,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A stream on which nothing but a whole answer counts.
struct Upload {
    stream: AnswerStream,
    whole: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.whole {
            self.stream.send.abort();
        }
    }
}

/// Sends a piece that the core granted, until the peer acknowledged its last byte. Dropping it resets the stream.
pub(crate) async fn serve(
    exchange: &Exchange,
    stream: AnswerStream,
    digest: Digest,
    piece: PieceIndex,
) -> Ended {
    let mut upload = Upload {
        stream,
        whole: false,
    };
    let _pin = exchange.store.pin(&digest);
    // The first bytes are read before the answer is given: what cannot be read can still be refused.
    let first = match First::read(&exchange.store, digest, piece).await {
        Ok(first) => first,
        Err(error) => {
            tracing::warn!(%error, digest = %digest.short(), piece = piece.get(), "a granted piece cannot be read");
            let refusal = Answer::Refusal(Refusal::new(RefusalCode::NotHeld));
            upload.whole = say(&mut upload.stream, &refusal).await.is_ok();
            return Ended::Lost;
        }
    };
    match send(&exchange.store, &mut upload, digest, first).await {
        Ok(bytes) => {
            metrics::uploaded(bytes);
            exchange.uploads.count(bytes);
            Ended::Sent
        }
        Err(error) => {
            tracing::debug!(%error, digest = %digest.short(), piece = piece.get(), "upload aborted");
            match error {
                ServeError::Store(_) => Ended::Lost,
                ServeError::Gone(_) | ServeError::Stalled | ServeError::Stopped => Ended::Aborted,
            }
        }
    }
}

/// Says no. Nothing depends on whether it is heard.
pub(crate) async fn refuse(mut stream: AnswerStream, refusal: Refusal) {
    if let Err(error) = say(&mut stream, &Answer::Refusal(refusal)).await {
        tracing::trace!(%error, "a refusal was not heard");
    }
}

/// Sends an answer that nothing follows.
pub(crate) async fn say(stream: &mut AnswerStream, answer: &Answer) -> Result<(), FrameError> {
    let written = timeout(UPLOAD_STALLED_AFTER, stream.send.write_message(answer)).await;
    written.unwrap_or(Err(FrameError::Ended))?;
    stream.send.finish();
    Ok(())
}

/// What an upload begins with.
struct First {
    proof: PieceProof,
    at: u64,
    end: u64,
    step: Bytes,
}

impl First {
    async fn read(store: &Store, digest: Digest, piece: PieceIndex) -> Result<Self, StoreError> {
        let store = store.clone();
        pool::run(move || {
            let proof = store.proof(&digest, piece)?;
            let blob = store
                .lookup(&digest)
                .ok_or(StoreError::NotFound { digest })?;
            let range = blob.info.geometry.range_of(piece);
            let step = store.read(&digest, range.start, step_bytes(range.start, range.end))?;
            Ok(Self {
                proof,
                at: range.start,
                end: range.end,
                step,
            })
        })
        .await
    }
}

async fn send(
    store: &Store,
    upload: &mut Upload,
    digest: Digest,
    first: First,
) -> Result<u64, ServeError> {
    let First {
        proof,
        mut at,
        end,
        mut step,
    } = first;
    let start = at;
    let sender = &mut upload.stream.send;
    moving(sender.write_message(&Answer::piece(&proof))).await?;
    loop {
        at += step.len() as u64;
        moving(sender.write_bytes(step)).await?;
        if at >= end {
            break;
        }
        step = step::read(store, digest, at, step_bytes(at, end)).await?;
    }
    sender.finish();
    upload.whole = true;
    let taken = timeout(UPLOAD_STALLED_AFTER, upload.stream.send.taken()).await;
    match taken {
        Ok(true) => Ok(end - start),
        Ok(false) => Err(ServeError::Stopped),
        Err(_) => Err(ServeError::Stalled),
    }
}

fn step_bytes(at: u64, end: u64) -> usize {
    usize::try_from(end - at)
        .unwrap_or(usize::MAX)
        .min(SERVE_STEP_BYTES)
}

async fn moving(step: impl Future<Output = Result<(), FrameError>>) -> Result<(), ServeError> {
    match timeout(UPLOAD_STALLED_AFTER, step).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(ServeError::Stalled),
    }
}
