//! One question to a peer: a stream of its own, one [`Ask`], one [`Answer`], each under a deadline.
//!
//! Not here: what follows an answer on the stream (see `fetch`), and whom to ask.

use std::time::Duration;

use shoal_link::{AskStream, Link};
use shoal_proto::wire::{Answer, Ask};
use tokio::time::timeout;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The link or the stream broke, or what came was no answer.
    #[error("the stream broke: {0}")]
    Broken(#[from] shoal_link::FrameError),
    /// The link is gone.
    #[error("the link is gone: {0}")]
    Gone(#[from] shoal_link::LinkError),
    /// Nothing came in time.
    #[error("no answer within {}ms", .0.as_millis())]
    TimedOut(Duration),
}

/// Asks, and hands back the stream together with the answer: bytes may follow.
///
/// Cancel safe in the sense that matters here: dropping it resets the stream, and the peer stops sending.
pub(crate) async fn ask(
    link: &Link,
    ask: &Ask,
    deadline: Duration,
) -> Result<(AskStream, Answer), AskError> {
    let answered = async {
        let mut stream = link.open_ask().await?;
        stream.send.write_message(ask).await?;
        stream.send.finish();
        let answer = stream.recv.read_message::<Answer>().await?;
        Ok((stream, answer))
    };
    timeout(deadline, answered)
        .await
        .unwrap_or(Err(AskError::TimedOut(deadline)))
}
