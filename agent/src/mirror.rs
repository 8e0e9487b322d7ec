//! The mirror: a read-only registry over HTTP/1.1 for the container clients of this node.
//!
//! What it promises is in docs/CLIENTS.md's words: no unverified byte, an answer or a way out in bounded time, never a
//! compressed body, never 429. Every wait has a limit: the request's head, the answer's head, the next byte from the
//! swarm, the client's patience with our bytes; so has every number: connections, head bytes, ranges.
//! Not here: blobs and manifests themselves (`shoal_peer`), and which registries there are (`registries`).

pub mod accept;
pub mod name;
pub mod range;
pub mod registries;
pub mod reply;
pub mod route;

mod blob;
mod guarded;
mod listing;
mod manifest;
mod multipart;
pub(crate) mod observe;
mod paced;
mod pour;
mod pulse;
mod query;
mod started;
mod whole;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{ALLOW, CONNECTION};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shoal_peer::Handle;
use shoal_proto::CallerKey;
use shoal_proto::limits::{
    HTTP_BUFFER_BYTES, HTTP_CLIENT_STALL_MAX, HTTP_CONNECTIONS_MAX, HTTP_DRAIN_BYTES_MAX,
    HTTP_DRAIN_DEADLINE, HTTP_HEAD_DEADLINE,
};
use shoal_proto::wire::Listed;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use blob::{BlobAsk, insert, refuse};
use guarded::Guarded;
use listing::ListWish;
use manifest::ManifestWish;
use name::RegistryName;
use observe::{Handler, Observation, Recent};
use paced::Paced;
use pulse::{Patience, Pulse};
use query::Query;
use registries::Registries;
use reply::{AGENT_HEADER, API_VERSION, Failure, OCI_NAMESPACE, json_response};
use route::{Asked, Route, Target};
use started::Started;

/// After the system refused a connection for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers container clients from the swarm.
#[derive(Debug)]
pub struct Mirror {
    handle: Handle,
    registries: Registries,
    stale_if_error: Duration,
    identity: HeaderValue,
    /// This agent is its own origin, so that it never has to look for one.
    seeded: bool,
    guarded: Guarded,
    pulse: Arc<Pulse>,
    started: Arc<Started>,
    recent: Arc<Recent>,
    room: Arc<Semaphore>,
}

impl Mirror {
    /// A mirror of these registries; `stale_if_error` bounds the age of a tag while no origin can be asked; `callers`
    /// is the secret under which their credentials are remembered.
    pub fn new(
        handle: Handle,
        registries: Registries,
        stale_if_error: Duration,
        callers: CallerKey,
    ) -> Self {
        observe::describe();
        let identity = format!("{} {}", handle.me(), env!("CARGO_PKG_VERSION"));
        Self {
            handle,
            registries,
            stale_if_error,
            identity: HeaderValue::from_str(&identity)
                .unwrap_or_else(|_| HeaderValue::from_static("unnamed")),
            seeded: false,
            guarded: Guarded::new(callers),
            pulse: Arc::default(),
            started: Arc::default(),
            recent: Arc::default(),
            room: Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX)),
        }
    }

    /// The same for an agent that is its own origin.
    pub fn seeded(mut self) -> Self {
        self.seeded = true;
        self
    }

    /// The last requests, for the status.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Serves one port until `shutdown`; then no new request is taken, and answers under way go on as long as `tasks`
    /// is waited for. `bound`: the one registry that this port stands for.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        bound: Option<RegistryName>,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) {
        loop {
            // Cancel-safe: a connection is accepted or still waiting.
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a client's connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(turn) = Arc::clone(&self.room).try_acquire_owned() else {
                metrics::counter!("shoal_limit_rejections_total", "limit" => "http_connections")
                    .increment(1);
                continue; // closed at once: the client goes to its next host
            };
            let connection = Arc::clone(&self).connection(stream, bound.clone(), shutdown.clone());
            tasks.spawn(async move {
                connection.await;
                drop(turn);
            });
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        bound: Option<RegistryName>,
        shutdown: CancellationToken,
    ) {
        // Without it, the tail of each answer may wait for an acknowledgement; a socket that refuses still works.
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request| {
            let (mirror, bound) = (Arc::clone(&self), bound.clone());
            async move { Ok::<_, Infallible>(mirror.answer(request, bound.as_ref()).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HTTP_HEAD_DEADLINE)
            .max_buf_size(HTTP_BUFFER_BYTES);
        let stream = TokioIo::new(Paced::new(stream, HTTP_CLIENT_STALL_MAX));
        let mut serving = std::pin::pin!(http.serve_connection(stream, service));
        let outcome = tokio::select! {
            outcome = &mut serving => outcome,
            () = shutdown.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = outcome {
            tracing::trace!(%error, "a client's connection ended early");
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        bound: Option<&RegistryName>,
    ) -> Response<Body> {
        let mut seen = Observation::begin(Arc::clone(&self.recent), request.method());
        let (parts, body) = request.into_parts();
        let asked = Asked {
            path: parts.uri.path(),
            query: parts.uri.query(),
            namespace: parts
                .headers
                .get(OCI_NAMESPACE)
                .and_then(|value| value.to_str().ok()),
            bound,
        };
        let route = Route::parse(asked, &self.registries);
        let target = route.as_ref().ok().and_then(Route::target).cloned();
        let head = parts.method == Method::HEAD;
        let mut response = match route {
            Ok(Route::Preheat { target, digest }) if parts.method == Method::POST => {
                seen.about(Handler::Preheat, name_of(&target), digest.to_string());
                let source = self.guarded.source(&target, &parts.headers);
                self.preheat(&target.registry, digest, source, seen).await
            }
            _ if !head && parts.method != Method::GET => read_only(body, &mut seen).await,
            Ok(route) => self.content(route, head, &parts, seen).await,
            Err(error) => refuse(&Failure::from(error), &mut seen),
        };
        let headers = response.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert(AGENT_HEADER, self.identity.clone());
        if let Some(target) = target {
            insert(&mut response, OCI_NAMESPACE, target.registry.as_str());
        }
        response
    }

    /// How long an answer that began to be looked for at `asked` may take.
    fn patience(&self, registry: &RegistryName, asked: Instant) -> Patience {
        let orphan = !self.seeded && self.handle.origins().is_empty();
        self.pulse.patience(registry, orphan, asked)
    }

    async fn content(
        &self,
        route: Route,
        head: bool,
        parts: &Parts,
        mut seen: Observation,
    ) -> Response<Body> {
        let headers = &parts.headers;
        match route {
            Route::Base => {
                seen.handler(Handler::Base);
                seen.complete();
                json_response(StatusCode::OK, "{}".to_owned())
            }
            Route::Blob { target, digest } => {
                seen.about(Handler::Blob, name_of(&target), digest.to_string());
                let source = self.guarded.source(&target, headers);
                self.blob(
                    BlobAsk {
                        registry: &target.registry,
                        digest,
                        source,
                        head,
                        headers,
                        chooses_once: chooses_once(parts),
                    },
                    seen,
                )
                .await
            }
            Route::Manifest { target, reference } => {
                seen.about(Handler::Manifest, name_of(&target), reference.to_string());
                let source = self.guarded.source(&target, headers);
                self.manifest(
                    ManifestWish {
                        target: &target,
                        reference,
                        source,
                        head,
                        headers,
                        chooses_once: chooses_once(parts),
                    },
                    seen,
                )
                .await
            }
            Route::Referrers { target, subject } => {
                seen.about(Handler::Referrers, name_of(&target), subject.to_string());
                self.listed(&target, Listed::Referrers(subject), head, parts, seen)
                    .await
            }
            Route::Tags { target } => {
                seen.about(Handler::Tags, name_of(&target), String::new());
                self.listed(&target, Listed::Tags, head, parts, seen).await
            }
            Route::Preheat { .. } => refuse(&Failure::read_only(), &mut seen),
        }
    }

    async fn listed(
        &self,
        target: &Target,
        listed: Listed,
        head: bool,
        parts: &Parts,
        mut seen: Observation,
    ) -> Response<Body> {
        let Some(query) = Query::parse(parts.uri.query()) else {
            return refuse(&Failure::query_too_long(), &mut seen);
        };
        let wish = ListWish {
            registry: &target.registry,
            source: self.guarded.source(target, &parts.headers),
            listed,
            query,
            path: parts.uri.path(),
            head,
        };
        self.list(wish, seen).await
    }
}

/// Refuses what writes. What the client sends is read, within bounds, so that it gets to see the refusal.
async fn read_only(body: Incoming, seen: &mut Observation) -> Response<Body> {
    let drained = tokio::time::timeout(
        HTTP_DRAIN_DEADLINE,
        Limited::new(body, HTTP_DRAIN_BYTES_MAX).collect(),
    )
    .await;
    let mut response = refuse(&Failure::read_only(), seen);
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    if !matches!(drained, Ok(Ok(_))) {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Only containerd and its kin name the registry, and only they ask their next host for a single blob.
fn chooses_once(parts: &Parts) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    let named = form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == "ns");
    !named && !parts.headers.contains_key(OCI_NAMESPACE)
}

fn name_of(target: &Target) -> String {
    format!("{}/{}", target.registry, target.repository)
}
