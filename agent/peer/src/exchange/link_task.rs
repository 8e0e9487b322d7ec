//! One task for each link: says what the driver gives it to say, hears what the peer says, takes its questions.
//!
//! Everything signed that a peer says is checked here, so that neither a forger nor a flood of signatures costs the
//! driver a step. The task ends with the link, and its end is the last thing that the driver hears of it.

use std::sync::Arc;

use shoal_link::{Connected, ControlReceiver, ControlSender, FrameError, Link};
use shoal_proto::Role;
use shoal_proto::limits::{ASKS_WAITING_PER_LINK_MAX, SAY_DEADLINE};
use shoal_proto::wire::{CloseCode, PeerMessage};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Exchange;
use super::asked::answer;
use crate::driver::report::{LinkSerial, Report};

/// A link that was dialed or accepted.
pub(crate) type Arrived = Connected;

/// What a link's task is given.
pub(crate) struct LinkTask {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) link: Link,
    pub(crate) serial: LinkSerial,
    pub(crate) sender: ControlSender,
    pub(crate) receiver: ControlReceiver<PeerMessage>,
    /// What the driver says. Closed by the driver when it gives the link up.
    pub(crate) outbox: mpsc::Receiver<PeerMessage>,
    pub(crate) stop: CancellationToken,
}

impl LinkTask {
    /// Runs until the link is gone or the driver goes down.
    pub(crate) async fn run(self) {
        let Self {
            exchange,
            link,
            serial,
            sender,
            receiver,
            outbox,
            stop,
        } = self;
        let code = tokio::select! {
            code = hear(&exchange, &link, serial, receiver) => code,
            code = speak(sender, outbox) => code,
            () = take_questions(&exchange, &link) => CloseCode::Done,
            _ = link.closed() => CloseCode::Done,
            () = stop.cancelled() => CloseCode::Leaving,
        };
        link.close(code);
        let peer = link.peer();
        exchange.report(Report::LinkLost { peer, serial }).await;
    }
}

async fn speak(mut sender: ControlSender, mut outbox: mpsc::Receiver<PeerMessage>) -> CloseCode {
    while let Some(message) = outbox.recv().await {
        match timeout(SAY_DEADLINE, sender.send(&message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return CloseCode::Done,
            Err(_) => return CloseCode::TooSlow,
        }
    }
    CloseCode::Done
}

async fn hear(
    exchange: &Exchange,
    link: &Link,
    serial: LinkSerial,
    mut receiver: ControlReceiver<PeerMessage>,
) -> CloseCode {
    loop {
        let message = match receiver.recv().await {
            Ok(Some(message)) => message,
            Ok(None) => return CloseCode::Done,
            Err(FrameError::Decode(error)) => {
                tracing::warn!(%error, peer = %link.peer().short(), "a peer broke the protocol");
                return CloseCode::Violation;
            }
            Err(_) => return CloseCode::Done,
        };
        if passes(exchange, link, &message) {
            let peer = link.peer();
            exchange
                .report(Report::Said {
                    peer,
                    serial,
                    message,
                })
                .await;
        }
    }
}

/// The border for what peers say. What does not pass is dropped: a shape by an origin that we do not know may be
/// told again after its membership.
fn passes(exchange: &Exchange, link: &Link, message: &PeerMessage) -> bool {
    let peer = link.peer();
    match message {
        PeerMessage::Info { info } => match exchange.trust.check_info(info) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, peer = %peer.short(), "ignored a shape");
                false
            }
        },
        PeerMessage::Vouch { membership } => {
            if let Err(error) = exchange.trust.vouch(membership) {
                tracing::debug!(%error, peer = %peer.short(), "ignored a vouch");
            }
            false
        }
        PeerMessage::Gone { .. } => link.role() == Role::Origin,
        PeerMessage::Free { .. }
        | PeerMessage::Have { .. }
        | PeerMessage::Holds { .. }
        | PeerMessage::Interest { .. }
        | PeerMessage::Leave { .. } => true,
    }
}

async fn take_questions(exchange: &Arc<Exchange>, link: &Link) {
    let places = Arc::new(Semaphore::new(ASKS_WAITING_PER_LINK_MAX));
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            asked = link.accept_ask() => {
                let Ok(stream) = asked else { return };
                let (exchange, link, places) = (Arc::clone(exchange), link.clone(), Arc::clone(&places));
                answers.spawn(async move { answer(&exchange, &link, &places, stream).await });
            }
            Some(_) = answers.join_next() => {}
        }
    }
}
