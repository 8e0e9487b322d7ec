//! Outgoing links, and joining.
//!
//! Not here: when to dial again. Each call is one attempt, with the endpoint's handshake deadline for QUIC and once more for
//! the handshake.

use std::net::SocketAddr;
use std::sync::Arc;

use shoal_proto::wire::CloseCode;
use shoal_proto::{ClusterPublicKey, JoinToken, PeerId, Role, SignedMembership, Zone};
use thiserror::Error;

use crate::credentials::Credentials;
use crate::endpoint::Endpoint;
use crate::handshake::{AwaitHello, HandshakeError, Introduction};
use crate::link::{Connected, LinkError};
use crate::tls::TlsError;

/// Who has to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// This peer, in any role.
    Peer(PeerId),
    /// This peer in this role.
    PeerAs(PeerId, Role),
    /// Anybody in this role: an address from the configuration has no name yet.
    Role(Role),
}

impl Expect {
    fn peer(self) -> Option<PeerId> {
        match self {
            Self::Peer(peer) | Self::PeerAs(peer, _) => Some(peer),
            Self::Role(_) => None,
        }
    }

    fn role(self) -> Option<Role> {
        match self {
            Self::Peer(_) => None,
            Self::PeerAs(_, role) | Self::Role(role) => Some(role),
        }
    }
}

/// Why there is no link.
#[derive(Debug, Error)]
pub enum DialError {
    /// The endpoint is closed, or the address cannot be dialed at all.
    #[error("cannot dial {addr}: {source}")]
    Address {
        /// Which address.
        addr: SocketAddr,
        /// What is wrong with it.
        source: quinn::ConnectError,
    },
    /// Somebody is there, and one of us does not want the other.
    #[error("{addr}: {source}")]
    Handshake {
        /// Which address.
        addr: SocketAddr,
        /// Why.
        source: HandshakeError,
    },
    /// No TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody answers, or not in our version of the protocol.
    #[error("{addr} does not answer as expected: {source}")]
    Unreachable {
        /// Which address.
        addr: SocketAddr,
        /// What QUIC says.
        source: LinkError,
    },
    /// Somebody else answers: the address has passed to another process. Nothing was said to it.
    #[error("another peer than {} answers at {addr}", .expected.short())]
    WrongPeer {
        /// Which address.
        addr: SocketAddr,
        /// Whom we dialed for.
        expected: PeerId,
    },
}

impl Endpoint {
    /// Brings up a link. Connecting and the handshake have a deadline each. Dropping the future gives the attempt up.
    pub async fn dial(&self, addr: SocketAddr, expect: Expect) -> Result<Connected, DialError> {
        let failed = |source| DialError::Handshake { addr, source };
        if self.0.options.credentials.membership().is_none() {
            return Err(failed(HandshakeError::NotJoined));
        }
        let connection = self.connect(addr, expect.peer()).await?;
        let us = self.introduction();
        let handshake = async {
            let ready = AwaitHello::dialing(connection.clone())
                .await?
                .meet(&us, expect.role())
                .await?;
            ready.introduce(&us).await
        };
        let ready = self.in_time(&connection, handshake).await.map_err(failed)?;
        Ok(ready.into_link(None))
    }

    /// Asks a tracker to be let in. The secret goes only to a tracker of the token's cluster.
    pub async fn join(
        &self,
        addr: SocketAddr,
        token: &JoinToken,
        zone: Zone,
    ) -> Result<SignedMembership, DialError> {
        let connection = self.connect(addr, None).await?;
        let credentials = self.believing(token.cluster());
        let us = Introduction {
            credentials: &credentials,
            peer_port: 0,
        };
        let handshake = async {
            let ready = AwaitHello::dialing(connection.clone())
                .await?
                .meet(&us, Some(Role::Tracker))
                .await?;
            let signed = ready.join(&us, token.secret_bytes(), zone).await?;
            match credentials.check(&signed)?.peer == self.0.options.identity.peer_id() {
                true => Ok(signed),
                false => Err(HandshakeError::Impostor),
            }
        };
        self.in_time(&connection, handshake)
            .await
            .map_err(|source| DialError::Handshake { addr, source })
    }

    async fn connect(
        &self,
        addr: SocketAddr,
        peer: Option<PeerId>,
    ) -> Result<quinn::Connection, DialError> {
        let mut config = quinn::ClientConfig::new(Arc::new(self.0.tls.client(peer)?));
        config.transport_config(Arc::clone(&self.0.transport));
        // The name is for SNI only; the verifier goes by the key.
        let connecting = self.0.quinn.connect_with(config, addr, "shoal");
        let connecting = connecting.map_err(|source| DialError::Address { addr, source })?;
        let connected = tokio::time::timeout(self.0.options.handshake_deadline, connecting).await;
        match connected {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(match (peer, &error) {
                (Some(expected), quinn::ConnectionError::TransportError(ours))
                    if ours.code == wrong_peer() =>
                {
                    DialError::WrongPeer { addr, expected }
                }
                _ => DialError::Unreachable {
                    addr,
                    source: error.into(),
                },
            }),
            Err(_) => Err(DialError::Handshake {
                addr,
                source: HandshakeError::TooSlow,
            }),
        }
    }

    async fn in_time<T>(
        &self,
        connection: &quinn::Connection,
        handshake: impl Future<Output = Result<T, HandshakeError>>,
    ) -> Result<T, HandshakeError> {
        let done = tokio::time::timeout(self.0.options.handshake_deadline, handshake).await;
        done.unwrap_or(Err(HandshakeError::TooSlow))
            .map_err(|error| explain(error, connection))
            .inspect_err(|error| {
                let code = error.close_code();
                connection.close(code.number().into(), code.name().as_bytes());
            })
    }

    fn believing(&self, cluster: ClusterPublicKey) -> Credentials {
        let ours = self.0.options.credentials.clone();
        Credentials::new(vec![cluster], None).with_clock(Arc::new(move || ours.now_unix_s()))
    }
}

/// What QUIC calls our own verifier's refusal of a sound certificate of another peer: TLS alert 49, access denied. The same
/// code from the other side comes as another error.
fn wrong_peer() -> quinn::TransportErrorCode {
    quinn::TransportErrorCode::crypto(49)
}

/// A stream that breaks because the other side closed the link tells less than the close itself.
pub(crate) fn explain(error: HandshakeError, connection: &quinn::Connection) -> HandshakeError {
    match (&error, connection.close_reason()) {
        (
            HandshakeError::Frame(_) | HandshakeError::Link(_),
            Some(reason @ quinn::ConnectionError::ApplicationClosed(_)),
        ) => match LinkError::from(reason) {
            LinkError::Closed(CloseCode::Done) => error,
            closed => HandshakeError::Link(closed),
        },
        _ => error,
    }
}
