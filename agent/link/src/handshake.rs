//! From a TLS connection to a link: who may come in, by type.
//!
//! The acceptor opens the control stream and speaks first, because a TLS client learns that its certificate was refused only
//! after its own handshake has succeeded. Each side goes `AwaitHello` -> `Ready`; nothing else is read from a connection before.
//! A membership counts only if the cluster signed it, its time is not over, and it names the peer that TLS proved. Not here: the
//! deadline, which the caller sets around the whole.

use std::sync::Arc;

use shoal_proto::wire::{CloseCode, Hello, Welcome};
use shoal_proto::{Membership, MembershipError, PeerId, Role, SignedMembership, Zone};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::credentials::{Admit, AdmitError, Credentials};
use crate::framed::{ControlReceiver, ControlSender, FrameError, RecvHalf, SendHalf};
use crate::link::{Connected, Link, LinkError};
use crate::tls::remote_peer;

/// Why a connection did not become a link.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// It asked to be let in, and was not.
    #[error(transparent)]
    Admit(#[from] AdmitError),
    /// What came is no handshake.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Its membership is of another peer.
    #[error("the membership is of another peer")]
    Impostor,
    /// The other side closed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Its membership is refused.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// It shows neither a membership nor, to a tracker, a join secret.
    #[error("no membership was shown")]
    NoMembership,
    /// We have nothing to show.
    #[error("this process has not joined the cluster yet")]
    NotJoined,
    /// As many links as may stand do stand.
    #[error("no room for another link")]
    TooManyLinks,
    /// It took too long.
    #[error("the handshake took too long")]
    TooSlow,
    /// It is a member in another role.
    #[error("expected {expected}, found {found}")]
    WrongRole {
        /// Whom we dialed for.
        expected: Role,
        /// Who answered.
        found: Role,
    },
}

impl HandshakeError {
    /// What the other side is told.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Membership(MembershipError::Expired) => CloseCode::Expired,
            Self::Admit(_)
            | Self::Impostor
            | Self::Membership(_)
            | Self::NoMembership
            | Self::WrongRole { .. } => CloseCode::NotAMember,
            Self::TooManyLinks => CloseCode::TooManyLinks,
            Self::TooSlow => CloseCode::TooSlow,
            Self::NotJoined | Self::Link(_) => CloseCode::Done,
            Self::Frame(_) => CloseCode::Violation,
        }
    }

    /// For labels: a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Admit(_) => "wrong_secret",
            Self::Frame(_) => "malformed",
            Self::Impostor => "impostor",
            Self::Link(_) => "lost",
            Self::Membership(MembershipError::Expired) => "expired",
            Self::Membership(MembershipError::ForeignCluster) => "foreign_cluster",
            Self::Membership(MembershipError::Malformed) => "malformed",
            Self::NoMembership => "no_membership",
            Self::NotJoined => "not_joined",
            Self::TooManyLinks => "too_many_links",
            Self::TooSlow => "too_slow",
            Self::WrongRole { .. } => "wrong_role",
        }
    }
}

/// What a side says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Introduction<'a> {
    pub(crate) credentials: &'a Credentials,
    pub(crate) peer_port: u16,
}

impl Introduction<'_> {
    fn hello(&self) -> Result<Hello, HandshakeError> {
        Ok(Hello {
            membership: Some(
                self.credentials
                    .membership()
                    .ok_or(HandshakeError::NotJoined)?,
            ),
            peer_port: self.peer_port,
            software: concat!("shoal ", env!("CARGO_PKG_VERSION")).to_owned(),
            join_secret: None,
            zone: Zone::default(),
        })
    }

    fn believe(
        &self,
        shown: &SignedMembership,
        proven: PeerId,
    ) -> Result<Membership, HandshakeError> {
        let membership = self.credentials.check(shown)?;
        if membership.peer != proven {
            Err(HandshakeError::Impostor)
        } else {
            Ok(membership)
        }
    }
}

/// The control stream is open; the other side's hello is due.
#[derive(Debug)]
pub(crate) struct AwaitHello {
    connection: quinn::Connection,
    proven: PeerId,
    send: SendHalf,
    recv: RecvHalf,
}

/// The other side's hello was believed.
#[derive(Debug)]
pub(crate) struct Ready {
    at: AwaitHello,
    membership: Membership,
    signed: SignedMembership,
    peer_port: u16,
}

impl AwaitHello {
    /// As the acceptor: opens the control stream and says who we are.
    pub(crate) async fn accepting(
        connection: quinn::Connection,
        us: &Introduction<'_>,
    ) -> Result<Self, HandshakeError> {
        let hello = us.hello()?;
        let (send, recv) = connection.open_bi().await.map_err(LinkError::from)?;
        let mut at = Self::new(connection, send, recv)?;
        at.send.write_message(&hello).await?;
        Ok(at)
    }

    /// As the dialer: takes the control stream.
    pub(crate) async fn dialing(connection: quinn::Connection) -> Result<Self, HandshakeError> {
        let (send, recv) = connection.accept_bi().await.map_err(LinkError::from)?;
        Self::new(connection, send, recv)
    }

    fn new(
        connection: quinn::Connection,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    ) -> Result<Self, HandshakeError> {
        let proven = remote_peer(&connection).ok_or(HandshakeError::Impostor)?;
        Ok(Self {
            connection,
            proven,
            send: SendHalf(send),
            recv: RecvHalf(recv),
        })
    }

    /// As the dialer: believes the acceptor's hello, if it is in the role it was dialed for.
    pub(crate) async fn meet(
        mut self,
        us: &Introduction<'_>,
        role: Option<Role>,
    ) -> Result<Ready, HandshakeError> {
        let hello: Hello = self.recv.read_message().await?;
        let signed = hello.membership.ok_or(HandshakeError::NoMembership)?;
        let membership = us.believe(&signed, self.proven)?;
        match role {
            Some(expected) if expected != membership.role => Err(HandshakeError::WrongRole {
                expected,
                found: membership.role,
            }),
            _ => Ok(Ready {
                at: self,
                membership,
                signed,
                peer_port: hello.peer_port,
            }),
        }
    }

    /// As the acceptor: believes the dialer's hello; `None` when it only came to join and has been served. A member takes its
    /// place among the links before it is welcomed, so that one for whom there is no room never takes itself for a link.
    pub(crate) async fn welcome(
        mut self,
        us: &Introduction<'_>,
        room: &Arc<Semaphore>,
        admit: Option<&dyn Admit>,
    ) -> Result<Option<(Ready, OwnedSemaphorePermit)>, HandshakeError> {
        let hello: Hello = self.recv.read_message().await?;
        if let Some(signed) = hello.membership {
            let membership = us.believe(&signed, self.proven)?;
            let place = Arc::clone(room).try_acquire_owned();
            let place = place.map_err(|_| HandshakeError::TooManyLinks)?;
            self.send.write_message(&Welcome::default()).await?;
            let ready = Ready {
                at: self,
                membership,
                signed,
                peer_port: hello.peer_port,
            };
            return Ok(Some((ready, place)));
        }
        let (Some(secret), Some(admit)) = (hello.join_secret, admit) else {
            return Err(HandshakeError::NoMembership);
        };
        let membership = admit.admit(self.proven, &hello.zone, secret.expose())?;
        self.send
            .write_message(&Welcome {
                membership: Some(membership),
            })
            .await?;
        self.send.finish();
        // The dialer closes when it has read the welcome; closing first could overtake it.
        self.connection.closed().await;
        Ok(None)
    }
}

impl Ready {
    /// As the dialer: says who we are and waits to be welcomed.
    pub(crate) async fn introduce(mut self, us: &Introduction<'_>) -> Result<Self, HandshakeError> {
        self.at.send.write_message(&us.hello()?).await?;
        let _: Welcome = self.at.recv.read_message().await?;
        Ok(self)
    }

    /// As the dialer: shows the join secret, to a tracker that was just believed, and takes the membership.
    pub(crate) async fn join(
        mut self,
        us: &Introduction<'_>,
        secret: &[u8],
        zone: Zone,
    ) -> Result<SignedMembership, HandshakeError> {
        let hello = Hello {
            membership: None,
            peer_port: us.peer_port,
            software: concat!("shoal ", env!("CARGO_PKG_VERSION")).to_owned(),
            join_secret: Some(shoal_proto::wire::Secret::new(secret.to_vec())),
            zone,
        };
        self.at.send.write_message(&hello).await?;
        let welcome: Welcome = self.at.recv.read_message().await?;
        self.at
            .connection
            .close(CloseCode::Done.number().into(), b"joined");
        welcome.membership.ok_or(HandshakeError::NoMembership)
    }

    pub(crate) fn into_link(self, room: Option<OwnedSemaphorePermit>) -> Connected {
        let Self {
            at,
            membership,
            signed,
            peer_port,
        } = self;
        Connected {
            link: Link::new(at.connection, membership, signed, peer_port, room),
            sender: ControlSender(at.send),
            receiver: ControlReceiver::new(at.recv),
        }
    }
}
