//! TLS for links: libp2p's certificates, our own verifiers and cipher order.
//!
//! libp2p's own configurations are not used for three reasons: they offer ChaCha20 first, which costs a third more CPU where
//! AES has instructions; they install a key log that an environment variable turns on; and their ALPN is libp2p's. The
//! certificates are: each carries the Ed25519 key and its signature over the TLS key (libp2p specs, tls). Who may come in is not
//! decided here but by the membership that follows.

use std::sync::Arc;

use libp2p_tls::certificate::{P2pCertificate, generate, parse};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use shoal_proto::PeerId;
use shoal_proto::wire::ALPN;
use thiserror::Error;

use crate::Identity;

/// Why no TLS configuration can be made of a key. None of it depends on the other side.
#[derive(Debug, Error)]
#[error("cannot make a certificate: {0}")]
pub struct TlsError(String);

/// The process's certificate and the two configurations around it, made once.
#[derive(Debug)]
pub(crate) struct Tls {
    resolver: Arc<SingleCertAndKey>,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    pub(crate) fn new(identity: &Identity) -> Result<Self, TlsError> {
        let failed = |error: &dyn std::fmt::Display| TlsError(error.to_string());
        let (certificate, key) = generate(identity.keypair()).map_err(|error| failed(&error))?;
        let mut provider = aws_lc_rs::default_provider();
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| failed(&error))?;
        provider.cipher_suites = vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        // `with_single_cert` refuses libp2p's critical extension; a resolver does not look.
        let resolver = Arc::new(CertifiedKey::new(vec![certificate], key).into());
        Ok(Self {
            resolver,
            provider: Arc::new(provider),
        })
    }

    pub(crate) fn server(&self) -> Result<QuicServerConfig, TlsError> {
        QuicServerConfig::try_from(self.server_tls()?).map_err(|error| TlsError(error.to_string()))
    }

    /// Accepts `expected` alone, or anybody whose role the handshake will check.
    pub(crate) fn client(&self, expected: Option<PeerId>) -> Result<QuicClientConfig, TlsError> {
        QuicClientConfig::try_from(self.client_tls(expected)?)
            .map_err(|error| TlsError(error.to_string()))
    }

    /// As [`client`](Self::client), for strangers of tests.
    #[cfg(test)]
    pub(crate) fn client_speaking(
        &self,
        expected: Option<PeerId>,
        protocol: &[u8],
    ) -> Result<QuicClientConfig, TlsError> {
        let mut config = self.client_tls(expected)?;
        config.alpn_protocols = vec![protocol.to_vec()];
        QuicClientConfig::try_from(config).map_err(|error| TlsError(error.to_string()))
    }

    fn server_tls(&self) -> Result<rustls::ServerConfig, TlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError(error.to_string()))?
            .with_client_cert_verifier(Arc::new(Verifier { expected: None }))
            .with_cert_resolver(Arc::clone(&self.resolver) as _);
        config.ignore_client_order = true;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    fn client_tls(&self, expected: Option<PeerId>) -> Result<rustls::ClientConfig, TlsError> {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { expected }))
            .with_client_cert_resolver(Arc::clone(&self.resolver) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_early_data = false;
        Ok(config)
    }
}

/// Who is at the other end of a connection whose TLS handshake is over.
pub(crate) fn remote_peer(connection: &quinn::Connection) -> Option<PeerId> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    peer_of(&parse(chain.first()?).ok()?)
}

fn peer_of(certificate: &P2pCertificate<'_>) -> Option<PeerId> {
    certificate.peer_id().to_string().parse().ok()
}

/// Checks the certificate's own signature, its libp2p extension, and, when dialing, whose it is.
#[derive(Debug)]
struct Verifier {
    expected: Option<PeerId>,
}

const SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
];

impl Verifier {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        if !others.is_empty() {
            return Err(Error::General("exactly one certificate is expected".into()));
        }
        let peer = peer_of(&parse(certificate)?).ok_or(CertificateError::BadEncoding)?;
        match self.expected {
            Some(expected) if expected != peer => {
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(()),
        }
    }

    fn check_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.3 only".into()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate, others)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate, others)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shovels TLS records between two ends until neither has anything to say.
    fn talk(client: &mut rustls::Connection, server: &mut rustls::Connection) {
        let mut wire = Vec::new();
        while client.wants_write() || server.wants_write() {
            carry(client, server, &mut wire);
            carry(server, client, &mut wire);
        }
    }

    fn carry(from: &mut rustls::Connection, to: &mut rustls::Connection, wire: &mut Vec<u8>) {
        wire.clear();
        while from.wants_write() {
            from.write_tls(wire).unwrap();
        }
        let mut unread = &wire[..];
        while !unread.is_empty() {
            to.read_tls(&mut unread).unwrap();
            to.process_new_packets().unwrap();
        }
    }

    #[test]
    fn aes_128_is_what_members_agree_on_whatever_the_client_prefers() {
        let (one, two) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let ours = Tls::new(&one)
            .unwrap()
            .client_tls(Some(two.peer_id()))
            .unwrap();
        let mut libp2ps = libp2p_tls::make_client_config(one.keypair(), None).unwrap();
        libp2ps.alpn_protocols = vec![ALPN.to_vec()];
        for client in [ours, libp2ps] {
            let server = Tls::new(&two).unwrap().server_tls().unwrap();
            let name = ServerName::try_from("shoal").unwrap();
            let mut client = rustls::ClientConnection::new(Arc::new(client), name)
                .unwrap()
                .into();
            let mut server = rustls::ServerConnection::new(Arc::new(server))
                .unwrap()
                .into();
            talk(&mut client, &mut server);
            let suite = client.negotiated_cipher_suite().unwrap().suite();
            assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        }
    }
}
