//! Strangers that get as far as UDP or TLS and then misbehave, and more of them than there is room for.

use super::*;

/// What a stranger dials with: sound TLS, and whatever name for the protocol.
fn stranger(protocol: &[u8]) -> (quinn::Endpoint, quinn::ClientConfig) {
    let tls = tls::Tls::new(&Identity::generate().unwrap()).unwrap();
    let config = tls.client_speaking(None, protocol).unwrap();
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    (endpoint, quinn::ClientConfig::new(Arc::new(config)))
}

async fn raw_dial(server: SocketAddr) -> (quinn::Endpoint, quinn::Connection) {
    let (endpoint, config) = stranger(shoal_proto::wire::ALPN);
    let connecting = endpoint.connect_with(config, server, "x").unwrap();
    let connection = connecting.await.unwrap();
    (endpoint, connection)
}

fn impatient() -> EndpointOptions {
    EndpointOptions {
        handshake_deadline: Duration::from_secs(1),
        ..as_role(Role::Agent)
    }
}

#[tokio::test]
async fn silent_connection_is_dropped_at_the_deadline() {
    let mut server = serve(impatient());
    let (raw, accepted) =
        soon(async { tokio::join!(raw_dial(server.addr), server.acceptor.next()) }).await;
    assert_eq!(refused(accepted.unwrap()), "too_slow");
    let told = LinkError::from(soon(raw.1.closed()).await);
    assert_eq!(told, LinkError::Closed(CloseCode::TooSlow));
}

#[tokio::test]
async fn server_that_says_nothing_is_given_up_at_the_deadline() {
    let silent = serve(as_role(Role::Agent));
    let (endpoint, _acceptor) = Endpoint::bind(impatient()).unwrap();
    // Nobody asks the server's acceptor for links: the packets arrive and nothing comes back.
    let dialed = soon(endpoint.dial(silent.addr, Expect::Peer(silent.peer))).await;
    let Err(DialError::Handshake {
        source: HandshakeError::TooSlow,
        ..
    }) = dialed
    else {
        panic!("{dialed:?}");
    };
}

#[tokio::test]
async fn oversized_first_frame_is_refused_unread() {
    let mut server = serve(as_role(Role::Agent));
    let addr = server.addr;
    let dialing = async {
        let (endpoint, connection) = raw_dial(addr).await;
        let (mut send, recv) = connection.accept_bi().await.unwrap();
        send.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        (endpoint, connection, send, recv)
    };
    let (raw, accepted) = soon(async { tokio::join!(dialing, server.acceptor.next()) }).await;
    assert_eq!(refused(accepted.unwrap()), "malformed");
    let told = LinkError::from(soon(raw.1.closed()).await);
    assert_eq!(told, LinkError::Closed(CloseCode::Violation));
}

#[tokio::test]
async fn another_version_of_the_protocol_is_refused_by_name() {
    let mut server = serve(as_role(Role::Agent));
    let (endpoint, config) = stranger(b"shoal/2");
    let connecting = endpoint.connect_with(config, server.addr, "x").unwrap();
    let (dialed, accepted) = soon(async { tokio::join!(connecting, server.acceptor.next()) }).await;
    assert!(dialed.is_err());
    assert_eq!(refused(accepted.unwrap()), "lost");
}

#[tokio::test]
async fn dialer_over_the_limit_of_handshakes_is_refused_at_once_and_counted() {
    let mut server = serve(as_role(Role::Agent));
    server.acceptor = server.acceptor.with_handshakes_max(1);
    let (dialer, _acceptor) = Endpoint::bind(as_role(Role::Agent)).unwrap();
    let expect = Expect::Peer(server.peer);
    // Even the first has to show its address: half of one is none.
    let dialing = async {
        let silent = raw_dial(server.addr).await;
        (dialer.dial(server.addr, expect).await, silent)
    };
    let ((dialed, _silent), accepted) =
        soon(async { tokio::join!(dialing, server.acceptor.next()) }).await;
    assert_eq!(refused(accepted.unwrap()), "busy");
    assert!(
        matches!(dialed, Err(DialError::Unreachable { .. })),
        "{dialed:?}"
    );
}

#[tokio::test]
async fn member_gets_in_while_strangers_hold_half_of_the_handshakes() {
    let mut server = serve(as_role(Role::Agent));
    server.acceptor = server.acceptor.with_handshakes_max(2);
    let (dialer, _acceptor) = Endpoint::bind(as_role(Role::Agent)).unwrap();
    let expect = Expect::Peer(server.peer);
    let dialing = async {
        let silent = raw_dial(server.addr).await;
        (dialer.dial(server.addr, expect).await, silent)
    };
    let ((dialed, _silent), accepted) =
        soon(async { tokio::join!(dialing, server.acceptor.next()) }).await;
    assert_eq!(
        accepted.unwrap().unwrap().link.peer(),
        dialer.0.options.identity.peer_id()
    );
    assert_eq!(dialed.unwrap().link.peer(), server.peer);
}
