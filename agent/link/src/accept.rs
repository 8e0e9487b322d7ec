//! Incoming links: bounded, and admitted or refused.
//!
//! Not here: what a link is used for. Handshakes run side by side inside [`Acceptor::next`], each under the deadline; one that
//! is refused comes out as a [`Refused`], so that its reason can be counted. Who stops calling `next` stops accepting. When half
//! of the handshakes are under way, a newcomer has to show first that it receives at the address it sends from (QUIC's retry), so
//! that forged addresses cannot hold the rest.

use std::net::SocketAddr;

use shoal_proto::limits::HANDSHAKES_MAX;
use tokio::task::JoinSet;

use crate::dial::explain;
use crate::endpoint::Endpoint;
use crate::handshake::{AwaitHello, HandshakeError};
use crate::link::{Connected, LinkError};

/// A connection that did not become a link, or came only to join.
#[derive(Debug)]
pub struct Refused {
    /// Where it came from.
    pub from: SocketAddr,
    /// Why; a closed set, for labels.
    pub reason: &'static str,
}

/// What came of a connection.
enum Outcome {
    Joined,
    Link(Box<Connected>),
    Refused(Refused),
}

/// Where links come out of an endpoint.
#[derive(Debug)]
pub struct Acceptor {
    endpoint: Endpoint,
    handshakes: JoinSet<Outcome>,
    handshakes_max: usize,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Joined => "Joined",
            Self::Link(_) => "Link",
            Self::Refused(_) => "Refused",
        })
    }
}

impl Acceptor {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            handshakes: JoinSet::new(),
            handshakes_max: HANDSHAKES_MAX,
        }
    }

    #[cfg(test)]
    pub(crate) fn with_handshakes_max(mut self, max: usize) -> Self {
        self.handshakes_max = max;
        self
    }

    /// The next link, or the next refusal; `None` when the endpoint is closed. Cancel safe: handshakes go on at the next call.
    pub async fn next(&mut self) -> Option<Result<Connected, Refused>> {
        loop {
            tokio::select! {
                incoming = self.endpoint.0.quinn.accept() => if let Some(refused) = self.begin(incoming?) {
                    return Some(Err(refused));
                },
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Outcome::Link(connected)) => return Some(Ok(*connected)),
                    Ok(Outcome::Refused(refused)) => return Some(Err(refused)),
                    Ok(Outcome::Joined) | Err(_) => {}
                },
            }
        }
    }

    fn begin(&mut self, incoming: quinn::Incoming) -> Option<Refused> {
        if self.handshakes.len() >= self.handshakes_max {
            let from = incoming.remote_address();
            incoming.refuse();
            return Some(Refused {
                from,
                reason: "busy",
            });
        }
        if self.handshakes.len() >= self.handshakes_max / 2 && !incoming.remote_address_validated()
        {
            // Fails only for an address that is validated.
            let _ = incoming.retry();
            return None;
        }
        let endpoint = self.endpoint.clone();
        self.handshakes.spawn(async move {
            let from = incoming.remote_address();
            let deadline = endpoint.0.options.handshake_deadline;
            let mut connection = None;
            let handshake = shake(&endpoint, incoming, &mut connection);
            let done = tokio::time::timeout(deadline, handshake).await;
            let error = match done.unwrap_or(Err(HandshakeError::TooSlow)) {
                Ok(outcome) => return outcome,
                Err(error) => error,
            };
            let Some(connection) = connection else {
                return Outcome::Refused(Refused {
                    from,
                    reason: error.reason(),
                });
            };
            let error = explain(error, &connection);
            let code = error.close_code();
            connection.close(code.number().into(), code.name().as_bytes());
            tracing::debug!(%from, %error, "refused a connection");
            Outcome::Refused(Refused {
                from,
                reason: error.reason(),
            })
        });
        None
    }
}

async fn shake(
    endpoint: &Endpoint,
    incoming: quinn::Incoming,
    kept: &mut Option<quinn::Connection>,
) -> Result<Outcome, HandshakeError> {
    let connection = incoming.await.map_err(LinkError::from)?;
    *kept = Some(connection.clone());
    let us = endpoint.introduction();
    let admit = endpoint.0.options.admit.as_deref();
    let welcomed = AwaitHello::accepting(connection, &us)
        .await?
        .welcome(&us, &endpoint.0.room, admit)
        .await?;
    Ok(welcomed.map_or(Outcome::Joined, |(ready, place)| {
        Outcome::Link(Box::new(ready.into_link(Some(place))))
    }))
}
