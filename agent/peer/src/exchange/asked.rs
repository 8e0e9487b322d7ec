//! What others ask of us: one stream a question. Questions for pieces go to the core; those about blobs and manifests
//! go to the [`Seeder`](crate::Seeder), where there is one.
//!
//! A question that nobody has answered yet holds one of the link's [`ASKS_WAITING_PER_LINK_MAX`](shoal_proto::limits::ASKS_WAITING_PER_LINK_MAX) places; over that,
//! the answer is BUSY at once, and the core never hears of it.

use std::sync::Arc;
use std::time::Duration;

use shoal_link::{AnswerStream, Link};
use shoal_proto::limits::{ASK_READ_DEADLINE, OPEN_DEADLINE, RETRY_AFTER_GUESS};
use shoal_proto::wire::{Answer, Ask, Refusal, RefusalCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Exchange;
use super::serve::{refuse, say};
use crate::driver::report::Report;
use crate::metrics;

/// A stream on which a peer waits for its answer.
#[derive(Debug)]
pub(crate) struct PendingAnswer {
    pub(crate) stream: AnswerStream,
    /// Its place among the link's questions.
    pub(crate) place: OwnedSemaphorePermit,
}

/// Reads one question and sees to its answer.
pub(crate) async fn answer(
    exchange: &Exchange,
    link: &Link,
    places: &Arc<Semaphore>,
    mut stream: AnswerStream,
) {
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        metrics::ask_refused_at_the_limit();
        return refuse(stream, busy()).await;
    };
    let ask = match timeout(ASK_READ_DEADLINE, stream.recv.read_message::<Ask>()).await {
        Ok(Ok(ask)) => ask,
        Ok(Err(error)) => {
            tracing::debug!(%error, peer = %link.peer().short(), "a question cannot be read");
            return refuse(stream, Refusal::new(RefusalCode::BadRequest)).await;
        }
        Err(_) => return refuse(stream, Refusal::new(RefusalCode::BadRequest)).await,
    };
    match ask {
        Ask::Piece { digest, index } => {
            exchange
                .report(Report::Asked {
                    peer: link.peer(),
                    digest,
                    index,
                    answer: PendingAnswer { stream, place },
                })
                .await;
        }
        Ask::List(_) | Ask::Manifest(_) | Ask::Open { .. } => {
            seed(exchange, link, stream, ask).await
        }
    }
}

/// The origin's own half. A caller that gives the stream up is not worked for any longer.
async fn seed(exchange: &Exchange, link: &Link, mut stream: AnswerStream, ask: Ask) {
    let caller = link.peer();
    let Some(seeder) = &exchange.seeder else {
        let refusal =
            Refusal::new(RefusalCode::BadRequest).with_detail("only an origin can do that");
        return refuse(stream, refusal).await;
    };
    let answered = async {
        match ask {
            Ask::Open {
                digest,
                source,
                stat,
            } => seeder
                .open(caller, digest, source, stat)
                .await
                .map(Answer::Open),
            Ask::List(ask) => seeder.list(caller, ask).await.map(Answer::List),
            Ask::Manifest(ask) => seeder.manifest(caller, ask).await.map(Answer::Manifest),
            Ask::Piece { .. } => Err(Refusal::new(RefusalCode::BadRequest)),
        }
    };
    let answer = tokio::select! {
        answered = timeout(OPEN_DEADLINE, answered) => match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(refusal)) => Answer::Refusal(refusal),
            Err(_) => Answer::Refusal(slow()),
        },
        _ = stream.send.taken() => return,
    };
    if let Err(error) = say(&mut stream, &answer).await {
        tracing::debug!(%error, peer = %caller.short(), "an answer was not heard");
    }
}

fn busy() -> Refusal {
    Refusal {
        retry_after: RETRY_AFTER_GUESS,
        ..Refusal::new(RefusalCode::Busy)
    }
}

fn slow() -> Refusal {
    Refusal {
        retry_after: Duration::from_secs(1),
        ..Refusal::new(RefusalCode::Unavailable).with_detail("upstream did not answer in time")
    }
}
