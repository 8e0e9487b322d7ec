//! The socket: one UDP port, on which links are dialed and accepted, with the transport settings that were measured.
//!
//! Not here: who may come in (`handshake`); how much waits in the host's own queue (`socket`). Each setting has its reason
//! beside it; changing one changes memory (windows times links) or CPU per byte, so measure.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use shoal_proto::limits;
use shoal_proto::wire::CloseCode;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::accept::Acceptor;
use crate::credentials::{Admit, Credentials};
use crate::handshake::Introduction;
use crate::identity::Identity;
use crate::socket::ShallowSocket;
use crate::tls::{Tls, TlsError};

/// Above 6,550 bytes a batch of ten segments passes 64 KiB, the kernel refuses it, and the transfer hangs; with 6,500 a
/// byte costs less than half of what it costs at 1,452.
const DATAGRAM_BYTES_MAX: u16 = 6_500;
/// A descheduled receiver loses thousands of packets a GiB with the kernel's default of 208 KiB, none with this.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// What one stream may have under way: a whole piece.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// What one link may have under way; bounds what a peer can make us buffer.
const LINK_WINDOW_BYTES: u32 = 16 << 20;
/// Unacknowledged bytes stay in the cache; enough for 2 Gbit/s at 8 ms.
const SEND_WINDOW_BYTES: u64 = 2 << 20;
/// The start of slow start: what a switch keeps for a port. With 1 MiB the first piece overran a queue of 314 KB at 100
/// Mbit/s, and some links began with two seconds of repair.
const FIRST_WINDOW_BYTES: u64 = 256 << 10;
/// An acknowledgement for so many packets: 7 to 30 % less CPU.
const PACKETS_PER_ACK: u32 = 20;
const ACK_DELAY_MAX: Duration = Duration::from_millis(5);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const IDLE_MAX: Duration = Duration::from_secs(15);

/// What an endpoint is made of.
#[derive(Clone)]
pub struct EndpointOptions {
    /// Where to listen; port 0 for any.
    pub bind: SocketAddr,
    /// The key to be known by.
    pub identity: Identity,
    /// What to show and whom to believe.
    pub credentials: Credentials,
    /// Tell others the port on which we accept peers.
    pub accepts_peers: bool,
    /// Accepted links that may stand at once.
    pub links_max: usize,
    /// From the first packet to a link.
    pub handshake_deadline: Duration,
    /// Lets agents in; trackers have one.
    pub admit: Option<Arc<dyn Admit>>,
}

impl EndpointOptions {
    /// The defaults of a peer.
    pub fn new(bind: SocketAddr, identity: Identity, credentials: Credentials) -> Self {
        Self {
            bind,
            identity,
            credentials,
            accepts_peers: true,
            links_max: limits::LINKS_MAX,
            handshake_deadline: limits::HANDSHAKE_DEADLINE,
            admit: None,
        }
    }
}

impl std::fmt::Debug for EndpointOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointOptions")
            .field("bind", &self.bind)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Why there is no endpoint.
#[derive(Debug, Error)]
pub enum BindError {
    /// The socket.
    #[error("cannot listen on UDP {addr}: {source}")]
    Socket {
        /// Where.
        addr: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// One UDP port and the links on it. A clone is another handle of the same port.
#[derive(Clone, Debug)]
pub struct Endpoint(pub(crate) Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) quinn: quinn::Endpoint,
    pub(crate) tls: Tls,
    pub(crate) transport: Arc<TransportConfig>,
    pub(crate) options: EndpointOptions,
    pub(crate) peer_port: u16,
    pub(crate) room: Arc<Semaphore>,
}

impl Endpoint {
    /// Takes the port. Links come out of the [`Acceptor`] as long as somebody asks it for them.
    pub fn bind(options: EndpointOptions) -> Result<(Self, Acceptor), BindError> {
        let failed = |source| BindError::Socket {
            addr: options.bind,
            source,
        };
        let tls = Tls::new(&options.identity)?;
        let transport = Arc::new(transport());
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls.server()?));
        server.transport_config(Arc::clone(&transport));
        server.max_incoming(limits::HANDSHAKES_MAX);
        let socket = socket(options.bind).map_err(failed)?;
        let mut config = quinn::EndpointConfig::default();
        config
            .max_udp_payload_size(DATAGRAM_BYTES_MAX)
            .map_err(|error| failed(io::Error::other(error)))?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let socket = Arc::new(ShallowSocket::new(socket, &*runtime).map_err(failed)?);
        let quinn =
            quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)
                .map_err(failed)?;
        let bound = quinn.local_addr().map_err(failed)?;
        let peer_port = if options.accepts_peers {
            bound.port()
        } else {
            0
        };
        let room = Arc::new(Semaphore::new(options.links_max));
        let endpoint = Self(Arc::new(Shared {
            quinn,
            tls,
            transport,
            options,
            peer_port,
            room,
        }));
        Ok((endpoint.clone(), Acceptor::new(endpoint)))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.quinn.local_addr()
    }

    /// Closes every link and waits until the other sides were told, or a moment at most.
    pub async fn close(&self, code: CloseCode) {
        self.0
            .quinn
            .close(code.number().into(), code.name().as_bytes());
        let _ = tokio::time::timeout(Duration::from_secs(1), self.0.quinn.wait_idle()).await;
    }

    pub(crate) fn introduction(&self) -> Introduction<'_> {
        Introduction {
            credentials: &self.0.options.credentials,
            peer_port: self.0.peer_port,
        }
    }
}

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_BYTES_MAX);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(PACKETS_PER_ACK.into())
        .max_ack_delay(Some(ACK_DELAY_MAX));
    let mut cubic = quinn::congestion::CubicConfig::default();
    cubic.initial_window(FIRST_WINDOW_BYTES);
    let streams = u32::try_from(limits::ASKS_PER_LINK_MAX).unwrap_or(u32::MAX);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(LINK_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .send_fairness(false)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(cubic))
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE_MAX).ok());
    transport
}

fn socket(bind: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&bind.into())?;
    // The kernel grants what it allows; less of it costs packets, not correctness.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    let granted = socket.recv_buffer_size()?;
    tracing::debug!(%bind, granted, "receive buffer, in bytes");
    Ok(socket.into())
}
