//! Brings one piece: ask, check the proof, then bytes from the stream through the hash into the store.
//!
//! The order is the point. The proof is checked before the first byte is taken, so that a liar costs one signature
//! check. Bytes are hashed and written where they arrive, while they are in cache, in batches of the writer's whose room
//! the node-wide budget lends; no piece is gathered. The store says whether the piece holds, and only then the core hears of it.
//!
//! Not here: whom to ask, how many at once, what a failure costs the peer. Dropping the future is how a fetch is
//! cancelled: the stream is stopped, the writer abandoned, the loan given back.

use bytes::Bytes;
use shoal_link::{AskStream, Link};
use shoal_proto::limits::{
    ANSWER_DEADLINE, FETCH_BATCH_BYTES, FETCH_FLOOR_BYTES, FETCH_STALLED_AFTER,
};
use shoal_proto::wire::{Answer, Ask};
use shoal_proto::{BlobInfo, FetchFailure, PieceIndex, PieceProof};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Exchange;
use super::ask::{AskError, ask};
use super::budget::Loan;
use crate::metrics::{self, CheckedAt, Sender};
use crate::pool;
use crate::store::{PieceWriter, StoreError};
use crate::trust::TrustError;
use crate::view::{BlobView, Phase};

/// Parts of a piece that are taken from a link at once: what one batch of datagrams carries.
const FETCH_PARTS: usize = 64;

/// One piece to be brought.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) link: Link,
    pub(crate) info: BlobInfo,
    pub(crate) piece: PieceIndex,
    /// Tells when the store is ready for the blob.
    pub(crate) view: watch::Receiver<BlobView>,
}

/// Brings the piece and stores it, verified.
pub(crate) async fn fetch(exchange: &Exchange, errand: Errand) -> Result<(), FetchFailure> {
    let begun = Instant::now();
    let brought = bring(exchange, errand).await;
    match &brought {
        Ok(Some((sender, bytes))) => metrics::downloaded(*sender, *bytes, begun.elapsed()),
        Ok(None) => {}
        Err(failure) => metrics::piece_failed(failure),
    }
    brought.map(drop)
}

/// `None`: it was held already, no byte was moved.
async fn bring(
    exchange: &Exchange,
    mut errand: Errand,
) -> Result<Option<(Sender, u64)>, FetchFailure> {
    ready(&mut errand.view).await?;
    if holds(exchange, &errand) {
        return Ok(None);
    }
    let loan = exchange
        .budget
        .borrow(FETCH_FLOOR_BYTES)
        .await
        .ok_or(FetchFailure::Lost)?;
    let (stream, proof) = proven(exchange, &errand).await?;
    let digest = errand.info.digest;
    let writer = match exchange.store.writer(&digest, errand.piece) {
        Ok(writer) => writer,
        Err(StoreError::Superseded { .. }) => return Ok(None),
        Err(error) => return Err(store_failed(&error)),
    };
    let mut loan = loan;
    grow(exchange, &mut loan, &errand);
    let mut intake = Intake {
        writer: writer.in_batches_of(loan.bytes()),
        _loan: loan,
        taken: Taken {
            bytes: 0,
            kept: false,
        },
        expected: u64::from(errand.info.geometry.len_of(errand.piece)),
    };
    intake.take_all(stream).await?;
    match pool::in_place(|| intake.writer.finish(&proof)) {
        Ok(()) => {
            intake.taken.kept = true;
            let sender = Sender {
                role: errand.link.role(),
                near: *errand.link.zone() == exchange.zone,
            };
            Ok(Some((sender, intake.expected)))
        }
        Err(StoreError::Superseded { .. }) => Ok(None),
        Err(error) if error.is_senders_fault() => {
            metrics::verify_failed(CheckedAt::Peer);
            tracing::warn!(%error, peer = %errand.link.peer().short(), "refused a corrupt piece");
            Err(FetchFailure::Corrupt)
        }
        Err(error) => Err(store_failed(&error)),
    }
}

/// Waits until the store has a partial for the blob.
async fn ready(view: &mut watch::Receiver<BlobView>) -> Result<(), FetchFailure> {
    let settled = view.wait_for(|view| view.phase != Phase::Opening).await;
    let phase = settled.map_err(|_| FetchFailure::Lost)?.phase.clone();
    match phase {
        Phase::Arriving(_) | Phase::Complete(_) | Phase::Opening => Ok(()),
        Phase::Closing => Err(FetchFailure::Lost),
        Phase::Failed(_) => Err(FetchFailure::StoreFailed),
    }
}

fn holds(exchange: &Exchange, errand: &Errand) -> bool {
    let stored = exchange.store.lookup(&errand.info.digest);
    stored.is_some_and(|blob| blob.complete || blob.held.contains(errand.piece))
}

/// Asks, and takes no byte before the proof is known to be good.
async fn proven(
    exchange: &Exchange,
    errand: &Errand,
) -> Result<(AskStream, PieceProof), FetchFailure> {
    let question = Ask::Piece {
        digest: errand.info.digest,
        index: errand.piece.get(),
    };
    let answered = ask(&errand.link, &question, ANSWER_DEADLINE).await;
    let (stream, answer) = answered.map_err(|error| match error {
        AskError::Broken(_) | AskError::Gone(_) => FetchFailure::Lost,
        AskError::TimedOut(_) => FetchFailure::TimedOut,
    })?;
    let wire = match answer {
        Answer::Piece(proof) => proof,
        Answer::Refusal(refusal) => return Err(FetchFailure::Refused(refusal)),
        Answer::List(_) | Answer::Manifest(_) | Answer::Open { .. } => {
            return Err(FetchFailure::BadProof);
        }
    };
    let proof = PieceProof::from_wire(&wire, &errand.info.geometry)
        .ok()
        .filter(|proof| proof.index == errand.piece)
        .ok_or_else(|| {
            metrics::verify_failed(CheckedAt::Proof);
            FetchFailure::BadProof
        })?;
    match exchange.trust.check_proof(&proof, &errand.info) {
        Ok(()) => Ok((stream, proof)),
        Err(error) => {
            tracing::warn!(%error, peer = %errand.link.peer().short(), "refused a proof");
            Err(match error {
                TrustError::Forged(_) => FetchFailure::BadProof,
                TrustError::Unvouched(_) => FetchFailure::Unvouched,
            })
        }
    }
}

/// A larger batch costs less CPU, when it can be had without waiting.
fn grow(exchange: &Exchange, loan: &mut Loan, errand: &Errand) {
    let piece = errand.info.geometry.len_of(errand.piece);
    let piece = usize::try_from(piece).unwrap_or(usize::MAX);
    let more = FETCH_BATCH_BYTES.min(piece).saturating_sub(loan.bytes());
    if let Some(more) = exchange.budget.try_borrow(more) {
        loan.merge(more);
    }
}

/// Bytes on their way from the stream to the store.
struct Intake {
    writer: PieceWriter,
    /// The writer's batch.
    _loan: Loan,
    taken: Taken,
    expected: u64,
}

/// Bytes that a fetch took in; those of a fetch that is dropped before its piece is held were for nothing.
struct Taken {
    bytes: u64,
    kept: bool,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.kept && self.bytes > 0 {
            metrics::wasted(self.bytes);
        }
    }
}

impl Intake {
    async fn take_all(&mut self, mut stream: AskStream) -> Result<(), FetchFailure> {
        let mut parts = vec![Bytes::new(); FETCH_PARTS];
        loop {
            let read = stream.recv.read_parts(&mut parts);
            let read = timeout(FETCH_STALLED_AFTER, read).await;
            let Some(count) = read
                .map_err(|_| FetchFailure::TimedOut)?
                .map_err(|_| FetchFailure::Lost)?
            else {
                return Ok(());
            };
            let come = &mut parts[..count];
            self.taken.bytes += come.iter().map(|part| part.len() as u64).sum::<u64>();
            if self.taken.bytes > self.expected {
                metrics::verify_failed(CheckedAt::Peer);
                return Err(FetchFailure::Corrupt);
            }
            pool::in_place(|| self.writer.write(come)).map_err(|error| store_failed(&error))?;
            // What is written is let go of before more is waited for.
            come.fill(Bytes::new());
        }
    }
}

fn store_failed(error: &StoreError) -> FetchFailure {
    tracing::warn!(%error, "a piece could not be stored");
    FetchFailure::StoreFailed
}
