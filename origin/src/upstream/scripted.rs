//! A registry that does what a test tells it to, over real HTTP on a port of its own.
//!
//! Only for tests. It keeps what it was asked, so that a test can say what must not have been asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::serve::Listener;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, StatusCode, header};
use shoal_proto::{Digest, DigestAlgorithm};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{EnvProxies, Registry, Timeouts};
use crate::config::{UpstreamConfig, UpstreamEntry};

/// One request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    /// How many requests for the same path, by the same method, came before.
    pub(crate) earlier: usize,
}

impl Seen {
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.headers.get(header::AUTHORIZATION)?.to_str().ok()
    }

    /// The first byte asked for.
    pub(crate) fn from(&self) -> Option<usize> {
        self.range()?.0.parse().ok()
    }

    /// The byte behind the last one asked for.
    pub(crate) fn until(&self) -> Option<usize> {
        let last: usize = self.range()?.1.parse().ok()?;
        Some(last + 1)
    }

    fn range(&self) -> Option<(&str, &str)> {
        let range = self.headers.get(header::RANGE)?.to_str().ok()?;
        range.strip_prefix("bytes=")?.split_once('-')
    }
}

/// The registry; gone when dropped.
pub(crate) struct Scripted {
    pub(crate) addr: SocketAddr,
    log: Arc<Mutex<Vec<Seen>>>,
    _task: JoinSet<()>,
}

impl Scripted {
    /// Answers every request with what `script` says.
    pub(crate) async fn serve(script: impl Fn(&Seen) -> Response + Send + Sync + 'static) -> Self {
        Self::serve_gated(None, script).await
    }

    /// The same, but requests for paths that contain the name wait at the gate for a permit.
    pub(crate) async fn serve_gated(
        gate: Option<(&'static str, Arc<Semaphore>)>,
        script: impl Fn(&Seen) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve_on(listener, gate, script)
    }

    /// The same, on a port of the test's own making.
    pub(crate) fn serve_on<L: Listener<Addr = SocketAddr>>(
        listener: L,
        gate: Option<(&'static str, Arc<Semaphore>)>,
        script: impl Fn(&Seen) -> Response + Send + Sync + 'static,
    ) -> Self {
        let addr = listener.local_addr().unwrap();
        let log: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (kept, script) = (Arc::clone(&log), Arc::new(script));
        let app = axum::Router::new().fallback(move |request: Request| {
            let (kept, script, gate) = (Arc::clone(&kept), Arc::clone(&script), gate.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 16).await.unwrap();
                let body = String::from_utf8_lossy(&body).into_owned();
                let seen = {
                    let mut log = kept.lock().unwrap();
                    let (method, path) = (head.method, head.uri.path().to_owned());
                    let earlier = log
                        .iter()
                        .filter(|seen| seen.path == path && seen.method == method)
                        .count();
                    let query = head.uri.query().unwrap_or_default().to_owned();
                    log.push(Seen {
                        method,
                        path,
                        query,
                        headers: head.headers,
                        body,
                        earlier,
                    });
                    log.last().unwrap().clone()
                };
                if let Some((_, gate)) = gate.filter(|(name, _)| seen.path.contains(name)) {
                    gate.acquire().await.unwrap().forget();
                }
                script(&seen)
            }
        });
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            addr,
            log,
            _task: task,
        }
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }

    /// What was asked of paths that contain `part`.
    pub(crate) fn asked(&self, part: &str) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|seen| seen.path.contains(part))
            .collect()
    }

    /// `[[upstream]]` for it.
    pub(crate) fn entry(&self) -> UpstreamEntry {
        UpstreamEntry {
            registry: self.addr.to_string(),
            plain_http: true,
            ..UpstreamEntry::default()
        }
    }

    /// A client for it.
    pub(crate) fn registry(&self) -> Registry {
        registry(self.entry())
    }

    /// A client for it that gives up soon what hangs. A busy machine may hang as well: not for counting requests.
    pub(crate) fn impatient_registry(&self) -> Registry {
        registry_with(self.entry(), impatient())
    }
}

/// A client as configured.
pub(crate) fn registry(entry: UpstreamEntry) -> Registry {
    registry_with(entry, patient())
}

/// A client as configured, with other deadlines.
pub(crate) fn registry_with(entry: UpstreamEntry, timeouts: Timeouts) -> Registry {
    install_provider();
    let config = UpstreamConfig::try_from(entry).unwrap();
    Registry::new(config, &EnvProxies::default(), timeouts).unwrap()
}

/// What `main` does once for the process.
pub(crate) fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

/// Deadlines that no test runs into, however busy the machine is.
pub(crate) fn patient() -> Timeouts {
    Timeouts {
        connect: Duration::from_secs(30),
        header: Duration::from_secs(30),
        idle: Duration::from_secs(30),
        backoff: Duration::from_millis(2),
    }
}

/// Deadlines that a test can wait for.
pub(crate) fn impatient() -> Timeouts {
    Timeouts {
        connect: Duration::from_secs(2),
        header: Duration::from_millis(1_500),
        idle: Duration::from_millis(300),
        backoff: Duration::from_millis(2),
    }
}

/// A body that no compression and no repetition could stand for.
pub(crate) fn noise(bytes: usize, seed: u64) -> Bytes {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut out = vec![0; bytes];
    rng.fill(&mut out);
    Bytes::from(out)
}

pub(crate) fn digest_of(body: &[u8]) -> Digest {
    Digest::of(DigestAlgorithm::Sha256, body)
}

pub(crate) fn status(status: u16) -> Response {
    Response::builder()
        .status(status)
        .body(Body::empty())
        .unwrap()
}

pub(crate) fn with(status: u16, name: &'static str, value: &str) -> Response {
    Response::builder()
        .status(status)
        .header(name, value)
        .body(Body::empty())
        .unwrap()
}

pub(crate) fn json(body: &str) -> Response {
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap()
}

/// The blob from where it was asked for, as a good registry sends it.
pub(crate) fn blob(seen: &Seen, body: &Bytes) -> Response {
    let end = seen.until().unwrap_or(body.len()).min(body.len());
    let part = body.slice(seen.from().unwrap_or(0)..end);
    ranged(seen, body, Body::from(part))
}

/// The same, but after `sent` bytes the connection breaks.
pub(crate) fn cut_blob(seen: &Seen, body: &Bytes, sent: usize) -> Response {
    let from = seen.from().unwrap_or(0);
    let part = body.slice(from..(from + sent).min(body.len()));
    let cut = async {
        // What was sent before leaves the server only while nothing else is ready.
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        Err(std::io::Error::other("cut"))
    };
    let parts = stream::iter([Ok(part)]).chain(stream::once(cut));
    ranged(seen, body, Body::from_stream(parts))
}

/// The same, but after `sent` bytes nothing comes any more.
pub(crate) fn stalled_blob(seen: &Seen, body: &Bytes, sent: usize) -> Response {
    let from = seen.from().unwrap_or(0);
    let part = body.slice(from..(from + sent).min(body.len()));
    let parts = stream::iter([Ok::<_, std::io::Error>(part)]).chain(stream::pending());
    ranged(seen, body, Body::from_stream(parts))
}

fn ranged(seen: &Seen, body: &Bytes, payload: Body) -> Response {
    let mut response = Response::new(payload);
    let headers = response.headers_mut();
    let length = body.len();
    match seen.from() {
        Some(from) => {
            let end = seen.until().unwrap_or(length).min(length);
            headers.insert(header::CONTENT_LENGTH, (end - from).into());
            headers.insert(
                header::CONTENT_RANGE,
                format!("bytes {from}-{}/{length}", end - 1)
                    .parse()
                    .unwrap(),
            );
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        None => {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
    }
    response
}
