//! A registry of our own with faults: the upstream of the cluster tests.
//!
//! What for: upstreams that count what they are asked, are as slow as told, and break on purpose. What not for: pushes,
//! or being a model of any vendor's registry (the demonstration and one test use Debian's). Invariants: every request
//! is counted before it is answered; bytes are computed from a seed as they leave, so a layer's size costs no memory.

mod body;
mod door;
mod script;
mod shelf;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LINK, RANGE,
    RETRY_AFTER,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use shoal_proto::Digest;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::door::CHALLENGE;
pub use self::script::{Fault, Target};
pub use self::shelf::Shelf;

use self::body::{Damage, Pace};
use self::door::Door;
use self::script::Script;
use crate::workload::Image;

/// Any free port.
const LOOPBACK: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// How often one blob was asked for, and how much of it went out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    pub gets: u64,
    pub heads: u64,
    pub bytes: u64,
}

/// A running registry; it ends when this is dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    inside: Arc<Inside>,
    shutdown: CancellationToken,
}

#[derive(Debug, Default)]
struct Inside {
    shelf: Shelf,
    door: Door,
    asked: Mutex<BTreeMap<Digest, Asked>>,
    /// Method and path of each request, in order.
    requests: Mutex<Vec<String>>,
    script: Script,
    pace: Pace,
}

impl Upstream {
    /// Serves these images, each as `(repository, tag, image)`, on a free port of loopback.
    pub async fn start(images: &[(&str, &str, &Image)]) -> Result<Self> {
        Self::start_with(shelf_of(images), None, LOOPBACK).await
    }

    /// The same at this address.
    pub async fn start_at(address: SocketAddr, images: &[(&str, &str, &Image)]) -> Result<Self> {
        Self::start_with(shelf_of(images), None, address).await
    }

    /// The same, but only to callers that send exactly this `Authorization`.
    pub async fn start_private(
        images: &[(&str, &str, &Image)],
        authorization: &str,
    ) -> Result<Self> {
        Self::start_with(shelf_of(images), Some(authorization.to_owned()), LOOPBACK).await
    }

    /// Serves whatever is on the shelf.
    pub async fn serve(shelf: Shelf) -> Result<Self> {
        Self::start_with(shelf, None, LOOPBACK).await
    }

    async fn start_with(
        shelf: Shelf,
        authorization: Option<String>,
        address: SocketAddr,
    ) -> Result<Self> {
        let mut inside = Inside::default();
        inside.door.everywhere = authorization;
        for (repository, digest) in shelf.owned() {
            inside.door.own(repository, *digest);
        }
        inside.shelf = shelf;
        let inside = Arc::new(inside);
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&inside));
        let ended = shutdown.clone().cancelled_owned();
        TaskTracker::new().spawn(async move {
            let serving = async { axum::serve(listener, router).await };
            // Open bodies are cut, as by a registry that is switched off.
            tokio::select! { _ = serving => (), () = ended => () }
        });
        Ok(Self {
            address,
            inside,
            shutdown,
        })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Limits all bodies together to so many bytes a second, from now on; `None` lifts the limit.
    pub fn set_rate(&self, bytes_per_sec: Option<u64>) {
        self.inside.pace.set(bytes_per_sec);
    }

    /// Does `fault` to the next `times` requests for `target`.
    pub fn will(&self, target: Target, fault: Fault, times: u32) {
        self.inside.script.add(target, fault, times);
    }

    /// From now on, only callers that were let in may read this repository, and no digest of it is another's.
    pub fn let_in(&self, repository: &str, authorization: &str) {
        self.inside.door.let_in(repository, authorization);
    }

    /// What was asked of one blob (or manifest) so far.
    #[must_use]
    pub fn asked(&self, digest: &Digest) -> Asked {
        self.inside.asked().get(digest).copied().unwrap_or_default()
    }

    /// Method and path of every request so far, in order: `GET /v2/demo/app/tags/list`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.inside.requests().clone()
    }

    /// What was asked of every blob of an image, in its order.
    #[must_use]
    pub fn asked_of(&self, image: &Image) -> Vec<Asked> {
        image
            .blobs()
            .iter()
            .map(|blob| self.asked(&blob.digest()))
            .collect()
    }
}

fn shelf_of(images: &[(&str, &str, &Image)]) -> Shelf {
    images
        .iter()
        .fold(Shelf::default(), |shelf, (repository, tag, image)| {
            shelf.with_image(repository, tag, image)
        })
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Inside {
    fn asked(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, digest: Digest, count: impl FnOnce(&mut Asked)) {
        count(self.asked().entry(digest).or_default());
    }
}

/// What a path below `/v2/` names.
#[derive(Debug)]
enum Named<'a> {
    Base,
    Manifest(&'a str, &'a str),
    Blob(&'a str, Digest),
    Tags(&'a str),
}

fn name(path: &str) -> Option<Named<'_>> {
    let rest = path.strip_prefix("/v2")?;
    if matches!(rest, "" | "/") {
        return Some(Named::Base);
    }
    let (rest, last) = rest.strip_prefix('/')?.rsplit_once('/')?;
    if let Some(repository) = rest.strip_suffix("/manifests") {
        return Some(Named::Manifest(repository, last));
    }
    if let (Some(repository), "list") = (rest.strip_suffix("/tags"), last) {
        return Some(Named::Tags(repository));
    }
    let repository = rest.strip_suffix("/blobs")?;
    Some(Named::Blob(repository, last.parse().ok()?))
}

async fn answer(State(inside): State<Arc<Inside>>, request: Request) -> Response {
    let line = format!("{} {}", request.method(), request.uri().path());
    inside.requests().push(line);
    let named = name(request.uri().path());
    let (repository, digest) = match &named {
        Some(Named::Blob(repository, digest)) => (*repository, Some(*digest)),
        Some(Named::Manifest(repository, reference)) => (*repository, reference.parse().ok()),
        Some(Named::Tags(repository)) => (*repository, None),
        Some(Named::Base) | None => ("", None),
    };
    let given = request.headers().get(AUTHORIZATION);
    if let Some(refusal) = inside.door.refuses(repository, digest, given) {
        return refusal;
    }
    let head = request.method() == Method::HEAD;
    match named {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(Named::Base) => StatusCode::OK.into_response(),
        Some(Named::Tags(repository)) => tags(&inside, repository, request.uri().query()),
        Some(Named::Manifest(repository, reference)) => {
            manifest(&inside, repository, reference, head).await
        }
        Some(Named::Blob(_, digest)) => {
            let range = request
                .headers()
                .get(RANGE)
                .and_then(|value| value.to_str().ok());
            blob(&inside, digest, range, head).await
        }
    }
}

/// The repository's tags, as the specification pages them.
fn tags(inside: &Inside, repository: &str, query: Option<&str>) -> Response {
    let of = |key: &str| {
        let pairs = query.unwrap_or_default().split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    };
    let count = of("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let (tags, more) = inside
        .shelf
        .tags(repository, of("last").unwrap_or_default(), count);
    let next = tags
        .last()
        .filter(|_| more)
        .map(|last| format!("</v2/{repository}/tags/list?n={count}&last={last}>; rel=\"next\""));
    let mut response =
        axum::Json(serde_json::json!({ "name": repository, "tags": tags })).into_response();
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&next).ok()) {
        response.headers_mut().insert(LINK, next);
    }
    response
}

async fn manifest(inside: &Inside, repository: &str, reference: &str, head: bool) -> Response {
    let by_tag = || inside.shelf.resolve(repository, reference);
    let Some(digest) = reference.parse().ok().or_else(by_tag) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    count(inside, digest, head);
    if let Some(failure) = misbehave(inside.script.next(&Target::Manifests)).await {
        return failure;
    }
    let Some((media_type, body)) = inside.shelf.manifest(&digest) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (CONTENT_TYPE.as_str(), media_type.clone()),
        (CONTENT_LENGTH.as_str(), body.len().to_string()),
        ("docker-content-digest", digest.to_string()),
    ];
    let body = if head {
        Body::empty()
    } else {
        Body::from(body.clone())
    };
    (headers, body).into_response()
}

async fn blob(inside: &Arc<Inside>, digest: Digest, range: Option<&str>, head: bool) -> Response {
    count(inside, digest, head);
    let fault = if head {
        None
    } else {
        inside.script.next(&Target::Blob(digest))
    };
    let damage = Damage::of(fault.as_ref());
    if let Some(failure) = misbehave(fault).await {
        return failure;
    }
    let Some(layer) = inside.shelf.blob(&digest) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Some((start, end)) = range.map_or(Some((0, layer.len())), |range| {
        parse_range(range, layer.len())
    }) else {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    };
    let body = if head {
        Body::empty()
    } else {
        body::stream(inside, layer.clone(), start..end, damage)
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(digest) = HeaderValue::from_str(&digest.to_string()) {
        headers.insert("docker-content-digest", digest);
    }
    if range.is_some() {
        let text = format!("bytes {start}-{}/{}", end.saturating_sub(1), layer.len());
        headers.insert(
            CONTENT_RANGE,
            HeaderValue::from_str(&text).expect("digits and punctuation"),
        );
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

fn count(inside: &Inside, digest: Digest, head: bool) {
    inside.count(digest, |asked| {
        if head {
            asked.heads += 1
        } else {
            asked.gets += 1
        }
    });
}

/// The answer that a fault makes instead of the right one, after the wait that it asks for.
async fn misbehave(fault: Option<Fault>) -> Option<Response> {
    match fault? {
        Fault::Status(code) => {
            let code = StatusCode::from_u16(code).expect("a test names a status that exists");
            let mut response = code.into_response();
            if code == StatusCode::TOO_MANY_REQUESTS {
                response
                    .headers_mut()
                    .insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Some(response)
        }
        Fault::HeadersAfter(wait) => {
            tokio::time::sleep(wait).await;
            None
        }
        Fault::CutAfter(_) | Fault::FlipAt(_) | Fault::StallAfter(_) => None,
    }
}

fn parse_range(range: &str, len: u64) -> Option<(u64, u64)> {
    let (from, until) = range.strip_prefix("bytes=")?.split_once('-')?;
    let from: u64 = from.parse().ok()?;
    let end = if until.is_empty() {
        len
    } else {
        until.parse::<u64>().ok()?.checked_add(1)?.min(len)
    };
    (from < end).then_some((from, end))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::client::Client;

    async fn small() -> (Image, Upstream, Client) {
        let image = Image::of_sizes(1, &[512 * 200, 512 * 4000]);
        let upstream = Upstream::start(&[("demo/app", "v1", &image)])
            .await
            .expect("starts");
        let client = Client::new(upstream.address());
        (image, upstream, client)
    }

    #[tokio::test]
    async fn a_pull_gets_each_blob_once_and_every_byte_is_counted() {
        let (image, upstream, client) = small().await;
        let pulled = client.pull("demo/app", "v1").await.expect("pulls");
        assert_eq!(pulled.bytes(), image.blob_bytes());
        for (asked, blob) in upstream.asked_of(&image).iter().zip(image.blobs()) {
            assert_eq!(
                *asked,
                Asked {
                    gets: 1,
                    heads: 0,
                    bytes: blob.len()
                }
            );
        }
    }

    #[tokio::test]
    async fn faults_come_in_the_order_in_which_they_were_asked_for_and_then_stop() {
        let (image, upstream, client) = small().await;
        let digest = image.layers()[1].digest();
        upstream.will(Target::Blob(digest), Fault::Status(503), 1);
        upstream.will(Target::Blob(digest), Fault::CutAfter(100_000), 1);
        upstream.will(Target::Blob(digest), Fault::FlipAt(1000), 1);
        let error = |result: Result<_>| format!("{:#}", result.expect_err("a fault"));
        assert!(error(client.blob("demo/app", &digest).await).contains("503"));
        assert!(error(client.blob("demo/app", &digest).await).contains("cut after 100000"));
        assert!(error(client.blob("demo/app", &digest).await).contains("wrong bytes"));
        client
            .blob("demo/app", &digest)
            .await
            .expect("faultless again");
    }

    #[tokio::test]
    async fn a_range_begins_where_it_was_asked_to() {
        let (image, _upstream, client) = small().await;
        let layer = &image.layers()[1];
        let mut blob = client
            .open("demo/app", &layer.digest(), 70_001)
            .await
            .expect("opens");
        assert_eq!(blob.length(), layer.len() - 70_001);
        let mut body = Vec::new();
        while let Some(bytes) = blob.next().await.expect("reads") {
            body.extend_from_slice(&bytes);
        }
        assert!(body == layer.read_at(70_001, layer.len() - 70_001));
    }

    #[tokio::test]
    async fn a_private_registry_lets_in_nobody_else() {
        let image = Image::of_sizes(1, &[512 * 9]);
        let upstream = Upstream::start_private(&[("app", "v1", &image)], "Basic c2VjcmV0")
            .await
            .expect("starts");
        let client = Client::new(upstream.address());
        assert!(client.pull("app", "v1").await.is_err());
        client
            .with_authorization("Basic c2VjcmV0")
            .pull("app", "v1")
            .await
            .expect("pulls");
    }

    #[tokio::test]
    async fn a_rate_holds_over_all_bodies_together() {
        let (image, upstream, client) = small().await;
        upstream.set_rate(Some(4 << 20));
        let pulled = client.pull("demo/app", "v1").await.expect("pulls");
        // 2.1 MB at 4 MiB/s; only the lower bound is certain on a busy machine.
        assert!(
            pulled.whole > Duration::from_millis(450),
            "{:?}",
            pulled.whole
        );
        assert_eq!(pulled.bytes(), image.blob_bytes());
    }
}
