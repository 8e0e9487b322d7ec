//! Between this origin and a registry: authorities of one's own, certificates of ours, proxies.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::serve::Listener;
use bytes::Bytes;
use http::header;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::{Defaults, UpstreamConfig, UpstreamEntry};
use crate::upstream::scripted::{Scripted, blob, install_provider, noise, patient, registry};
use crate::upstream::{EnvProxies, LOOK_EVERY, Registry, UpstreamError, Upstreams};

use super::download;

/// An authority, and what it signs.
struct Authority {
    certificate: Certificate,
    key: KeyPair,
}

struct Signed {
    certificate: Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, key }
    }

    fn sign(&self, name: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params
            .signed_by(&key, &self.certificate, &self.key)
            .unwrap();
        Signed { certificate, key }
    }

    fn write(&self, path: &Path) {
        std::fs::write(path, self.certificate.pem()).unwrap();
    }
}

impl Signed {
    fn write(&self, certificate: &Path, key: &Path) {
        std::fs::write(certificate, self.certificate.pem()).unwrap();
        std::fs::write(key, self.key.serialize_pem()).unwrap();
    }
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, addr) = self.tcp.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, addr);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A registry with TLS that has one blob; with `clients`, only for those that the authority signed.
async fn serve_tls(signed: &Signed, clients: Option<&Authority>, body: &Bytes) -> Scripted {
    install_provider();
    let config = ServerConfig::builder();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                .build()
                .unwrap();
            config.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signed.key.serialize_der()));
    let config = config
        .with_single_cert(vec![signed.certificate.der().clone()], key)
        .unwrap();
    let listener = TlsListener {
        tcp: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        acceptor: TlsAcceptor::from(Arc::new(config)),
    };
    let sent = body.clone();
    Scripted::serve_on(listener, None, move |seen| blob(seen, &sent))
}

fn entry(scripted: &Scripted) -> UpstreamEntry {
    UpstreamEntry {
        registry: scripted.addr.to_string(),
        ..UpstreamEntry::default()
    }
}

/// The same registry, with its certificates in Docker's folder.
fn with_folder(entry: UpstreamEntry, folder: &Path) -> Registry {
    let defaults = Defaults {
        certs_dir: Some(folder.to_owned()),
        ..Defaults::default()
    };
    let config = UpstreamConfig::new(entry, &defaults).unwrap();
    Registry::new(config, &EnvProxies::default(), patient()).unwrap()
}

async fn is_had(registry: &Registry, body: &Bytes) -> bool {
    match download(registry, body, 0).await {
        Ok(got) => got == *body,
        Err(UpstreamError::Unavailable { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn registry_of_ones_own_authority_is_believed_by_its_certificate() {
    let (body, authority) = (noise(1_000, 80), Authority::new());
    let scripted = serve_tls(&authority.sign("127.0.0.1"), None, &body).await;
    assert!(!is_had(&registry(entry(&scripted)), &body).await);

    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    authority.write(&ca);
    let named = UpstreamEntry {
        ca_file: Some(ca),
        ..entry(&scripted)
    };
    assert!(is_had(&registry(named), &body).await);

    let folder = dir.path().join("certs.d").join(scripted.addr.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    authority.write(&folder.join("ours.crt"));
    let registry = with_folder(entry(&scripted), &dir.path().join("certs.d"));
    assert!(is_had(&registry, &body).await);
}

#[tokio::test]
async fn certificate_of_ours_is_shown_where_it_is_asked_for() {
    let (body, authority) = (noise(1_000, 81), Authority::new());
    let scripted = serve_tls(&authority.sign("127.0.0.1"), Some(&authority), &body).await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(scripted.addr.to_string());
    std::fs::create_dir(&folder).unwrap();
    let path = |name: &str| -> PathBuf { folder.join(name) };
    authority.write(&path("ca.crt"));
    assert!(!is_had(&with_folder(entry(&scripted), dir.path()), &body).await);

    authority
        .sign("origin")
        .write(&path("client.cert"), &path("client.key"));
    assert!(is_had(&with_folder(entry(&scripted), dir.path()), &body).await);
    let named = UpstreamEntry {
        ca_file: Some(path("ca.crt")),
        client_cert_file: Some(path("client.cert")),
        client_key_file: Some(path("client.key")),
        ..entry(&scripted)
    };
    assert!(is_had(&registry(named), &body).await);
}

#[tokio::test]
async fn renewed_certificates_are_taken_up_and_broken_ones_are_not() {
    let (body, authority) = (noise(1_000, 82), Authority::new());
    let scripted = serve_tls(&authority.sign("127.0.0.1"), None, &body).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    Authority::new().write(&ca);
    let named = UpstreamEntry {
        ca_file: Some(ca.clone()),
        ..entry(&scripted)
    };
    let config = UpstreamConfig::try_from(named).unwrap();
    let upstreams = Upstreams::new(vec![config], false, patient());
    let (name, start) = (scripted.addr.to_string(), Instant::now());
    let at = |turn: u32| {
        upstreams
            .registry_at(&name, start + LOOK_EVERY * turn)
            .unwrap()
    };
    assert!(!is_had(&at(0), &body).await);
    authority.write(&ca);
    assert!(is_had(&at(1), &body).await);
    let before = at(2);
    std::fs::write(&ca, "nothing of the kind").unwrap();
    assert!(Arc::ptr_eq(&before, &at(3)));
    assert!(is_had(&at(4), &body).await);
}

#[tokio::test]
async fn files_that_are_no_certificates_are_named() {
    install_provider();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let config = || {
        let entry = UpstreamEntry {
            registry: "a.example".into(),
            ca_file: Some(path.clone()),
            ..UpstreamEntry::default()
        };
        UpstreamConfig::try_from(entry).unwrap()
    };
    let refused = || {
        let made = Registry::new(config(), &EnvProxies::default(), patient());
        made.err().unwrap().to_string()
    };
    assert!(refused().contains("cannot read"), "{}", refused());
    std::fs::write(&path, "canary").unwrap();
    assert!(refused().contains("no PEM certificates"), "{}", refused());
    assert!(!refused().contains("canary"));
}

#[tokio::test]
async fn registry_is_asked_through_its_proxy_without_its_name_being_resolved() {
    let body = noise(1_000, 83);
    let sent = body.clone();
    let proxy = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let through = UpstreamEntry {
        registry: "registry.invalid".into(),
        plain_http: true,
        proxy: Some(format!("http://{}", proxy.addr)),
        ..UpstreamEntry::default()
    };
    assert!(is_had(&registry(through), &body).await);
    assert_eq!(proxy.seen()[0].headers[header::HOST], "registry.invalid");
}

#[tokio::test]
async fn what_no_proxy_names_is_reached_directly() {
    let body = noise(1_000, 84);
    let sent = body.clone();
    let scripted = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let through = |no_proxy: &[&str]| UpstreamEntry {
        proxy: Some(format!("http://{gone}")),
        no_proxy: no_proxy.iter().map(|&text| text.to_owned()).collect(),
        ..scripted.entry()
    };
    assert!(!is_had(&registry(through(&[])), &body).await);
    for except in ["127.0.0.1", "127.0.0.0/8", "*"] {
        assert!(
            is_had(&registry(through(&[except])), &body).await,
            "{except}"
        );
    }
}

/// A proxy that joins whoever asks with one place, whatever place was asked for.
async fn tunnel(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, heads) = (
        listener.local_addr().unwrap(),
        Arc::new(Mutex::new(Vec::new())),
    );
    let (kept, mut tasks) = (Arc::clone(&heads), JoinSet::new());
    tasks.spawn(async move {
        let mut joined = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            kept.lock().unwrap().push(String::from_utf8(head).unwrap());
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut server = TcpStream::connect(to).await.unwrap();
            joined.spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (addr, heads, tasks)
}

#[tokio::test]
async fn proxy_of_the_environment_is_tunnelled_through_with_its_own_credential_alone() {
    let (body, authority) = (noise(1_000, 85), Authority::new());
    let scripted = serve_tls(&authority.sign("registry.invalid"), None, &body).await;
    let (addr, heads, _tunnel) = tunnel(scripted.addr).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    authority.write(&ca);
    let ask = async |no_proxy: &str| {
        let named = UpstreamEntry {
            registry: "registry.invalid".into(),
            ca_file: Some(ca.clone()),
            ..UpstreamEntry::default()
        };
        let variables = [
            ("HTTPS_PROXY", format!("http://user:canary@{addr}")),
            ("no_proxy", no_proxy.to_owned()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        let environment = EnvProxies::from_environment(variables.into_iter());
        let config = UpstreamConfig::try_from(named).unwrap();
        let registry = Registry::new(config, &environment, patient()).unwrap();
        assert!(!format!("{registry:?}").contains("canary"));
        is_had(&registry, &body).await
    };
    assert!(ask("elsewhere.example").await);
    let head = heads.lock().unwrap()[0].to_ascii_lowercase();
    assert!(head.starts_with("connect registry.invalid:443 "), "{head}");
    assert!(
        head.contains("proxy-authorization: basic dxnlcjpjyw5hcnk="),
        "{head}"
    );
    for seen in scripted.seen() {
        assert!(!seen.headers.contains_key(header::PROXY_AUTHORIZATION));
    }
    assert!(
        !ask("registry.invalid").await,
        "no such name is there to be resolved"
    );
    assert_eq!(heads.lock().unwrap().len(), 1);
}
