//! A link that stands, and the streams on it.
//!
//! Not here: how it came to stand (`dial`, `accept`, `handshake`). A clone is another handle of the same link; the link ends when
//! either side closes it, or after the idle time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_proto::wire::{CloseCode, PeerMessage};
use shoal_proto::{Membership, PeerId, Role, SignedMembership, Zone};
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;

use crate::framed::{ControlReceiver, ControlSender, RecvHalf, SendHalf};

/// Why the link is gone.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LinkError {
    /// The other side closed it, and said why.
    #[error("the peer closed the link: {}", .0.name())]
    Closed(CloseCode),
    /// We closed it.
    #[error("we closed the link")]
    ClosedHere,
    /// It broke.
    #[error("the link broke: {0}")]
    Lost(String),
}

impl From<quinn::ConnectionError> for LinkError {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::LocallyClosed => Self::ClosedHere,
            quinn::ConnectionError::ApplicationClosed(close) => {
                CloseCode::from_number(close.error_code.into_inner())
                    .map_or_else(|| Self::Lost(close.to_string()), Self::Closed)
            }
            other => Self::Lost(other.to_string()),
        }
    }
}

/// A new link with its control stream.
#[derive(Debug)]
pub struct Connected {
    /// The link.
    pub link: Link,
    /// What we say.
    pub sender: ControlSender,
    /// What the other side says.
    pub receiver: ControlReceiver<PeerMessage>,
}

/// An authenticated connection with one other member.
#[derive(Clone, Debug)]
pub struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: quinn::Connection,
    membership: Membership,
    signed: SignedMembership,
    peer_port: u16,
    dialed: bool,
    _room: Option<OwnedSemaphorePermit>,
}

impl Link {
    pub(crate) fn new(
        connection: quinn::Connection,
        membership: Membership,
        signed: SignedMembership,
        peer_port: u16,
        room: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let dialed = connection.side().is_client();
        Self(Arc::new(Inner {
            connection,
            membership,
            signed,
            peer_port,
            dialed,
            _room: room,
        }))
    }

    /// Who is at the other end.
    pub fn peer(&self) -> PeerId {
        self.0.membership.peer
    }

    /// What it may do.
    pub fn role(&self) -> Role {
        self.0.membership.role
    }

    /// Where it stands.
    pub fn zone(&self) -> &Zone {
        &self.0.membership.zone
    }

    /// What proves it, to be passed on.
    pub fn membership(&self) -> &SignedMembership {
        &self.0.signed
    }

    /// Did we dial?
    pub fn dialed(&self) -> bool {
        self.0.dialed
    }

    /// The address that packets come from.
    pub fn remote_addr(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// Where it accepts peers: the address that packets come from with the port it told. `None` when it accepts none.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        (self.0.peer_port != 0).then(|| SocketAddr::new(self.remote_addr().ip(), self.0.peer_port))
    }

    /// The round trip time as it is now.
    pub fn rtt(&self) -> Duration {
        self.0.connection.rtt()
    }

    /// Datagrams that came so far. A live peer acknowledges what it is sent, whatever it then does with it.
    pub fn datagrams_heard(&self) -> u64 {
        self.0.connection.stats().udp_rx.datagrams
    }

    /// A stream for one question. Waits while the other side allows no more streams.
    pub async fn open_ask(&self) -> Result<AskStream, LinkError> {
        let (send, recv) = self.0.connection.open_bi().await?;
        Ok(AskStream {
            send: SendHalf(send),
            recv: RecvHalf(recv),
        })
    }

    /// The next question of the other side. Cancel safe.
    pub async fn accept_ask(&self) -> Result<AnswerStream, LinkError> {
        let (send, recv) = self.0.connection.accept_bi().await?;
        Ok(AnswerStream {
            send: SendHalf(send),
            recv: RecvHalf(recv),
        })
    }

    /// Ends the link for both sides.
    pub fn close(&self, code: CloseCode) {
        self.0
            .connection
            .close(code.number().into(), code.name().as_bytes());
    }

    /// Waits until the link is gone. Cancel safe.
    pub async fn closed(&self) -> LinkError {
        self.0.connection.closed().await.into()
    }
}

/// Our question's stream: send one ask, then read its answer.
#[derive(Debug)]
pub struct AskStream {
    /// To them.
    pub send: SendHalf,
    /// From them.
    pub recv: RecvHalf,
}

/// Their question's stream: read one ask, then send its answer.
#[derive(Debug)]
pub struct AnswerStream {
    /// To them.
    pub send: SendHalf,
    /// From them.
    pub recv: RecvHalf,
}
