//! This origin's own `/v2/`: read-only, for anyone who reaches its port.
//!
//! For: pulling through an origin without an agent, and for looking at it with `curl`. Not for: the client matrix that
//! the agent's mirror serves; here there are manifests, and blobs whole or by one range, no more.
//!
//! Invariants: what is not for everybody leaves only for a caller whose own credential its registry accepts; bytes leave only as the reader gives them, verified; `Content-Length` is always told; what fails before
//! the first byte is a status with an OCI error body, what fails later cuts the body short.

mod range;
mod target;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Json, Response};
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use shoal_peer::{BlobReader, Handle, ManifestAsk, OpenError};
use shoal_proto::wire::{Refusal, RefusalCode, Secret, Source};
use shoal_proto::{ByteRange, Digest, limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::range::{Wanted, parse_range};
use self::target::{Kind, Target};
use crate::seeder::UpstreamSeeder;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// A blob's length is known within this, or the answer is 503.
const OPEN_DEADLINE: Duration = Duration::from_secs(25);

/// What the routes need.
#[derive(Clone, Debug)]
pub(crate) struct RegistryServer {
    pub(crate) handle: Handle,
    /// What peers are answered by: a client here may have no more than they.
    pub(crate) seeder: Arc<UpstreamSeeder>,
}

/// Serves until `shutdown`; answers under way are cut then, since their clients know how to go on elsewhere.
pub(crate) async fn serve(
    server: RegistryServer,
    listener: TcpListener,
    shutdown: CancellationToken,
) {
    let app = Router::new().fallback(answer).with_state(server);
    let serving =
        axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        result = serving => if let Err(error) = result {
            tracing::error!(%error, "the registry port is gone");
        },
        () = async { shutdown.cancelled().await; tokio::time::sleep(Duration::from_secs(3)).await } => {}
    }
}

async fn answer(State(server): State<RegistryServer>, request: Request) -> Response {
    let head = request.method() == Method::HEAD;
    let mut response = if head || request.method() == Method::GET {
        match Target::parse(request.uri().path(), request.uri().query()) {
            Some(Target {
                kind: Kind::Root, ..
            }) => Json(json!({})).into_response(),
            Some(target) => server.content(target, head, request.headers()).await,
            None => error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "no such route"),
        }
    } else {
        error(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "this registry is read-only",
        )
    };
    response
        .headers_mut()
        .insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

impl RegistryServer {
    async fn content(&self, target: Target, head: bool, headers: &HeaderMap) -> Response {
        let source = Source {
            registry: target.registry,
            repository: target.repository,
            authorization: headers
                .get(header::AUTHORIZATION)
                .map(HeaderValue::as_bytes)
                .filter(|value| value.len() <= limits::AUTHORIZATION_BYTES_MAX)
                .map(|value| Secret::new(value.to_vec())),
        };
        match target.kind {
            Kind::Blob(digest) => self.blob(digest, source, head, headers).await,
            Kind::Manifest(reference) => self.manifest(reference, source, head, headers).await,
            Kind::Root => Json(json!({})).into_response(),
        }
    }

    async fn manifest(
        &self,
        reference: String,
        source: Source,
        head: bool,
        headers: &HeaderMap,
    ) -> Response {
        let lines = headers
            .get_all(header::ACCEPT)
            .iter()
            .take(limits::ACCEPT_RANGES_MAX);
        let accept = lines
            .filter_map(|line| line.to_str().ok().map(str::to_owned))
            .collect();
        let ask = ManifestAsk {
            source,
            reference,
            accept,
            head,
        };
        let answer = match self.seeder.manifests.answer(&ask).await {
            Ok(answer) => answer,
            Err(refusal) => return refused(&refusal, "MANIFEST_UNKNOWN"),
        };
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, answer.media_type)
            .header(header::CONTENT_LENGTH, answer.length)
            .header(CONTENT_DIGEST, answer.digest.to_string());
        if answer.stale {
            response = response.header(
                header::WARNING,
                "299 - \"upstream cannot be asked; this is the last known answer\"",
            );
        }
        built(response.body(Body::from(answer.body)))
    }

    async fn blob(
        &self,
        digest: Digest,
        source: Source,
        head: bool,
        headers: &HeaderMap,
    ) -> Response {
        let Ok(opened) = tokio::time::timeout(OPEN_DEADLINE, self.open(digest, source, head)).await
        else {
            return error(
                StatusCode::SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                "no answer from upstream in time",
            );
        };
        let (blob_bytes, reader) = match opened {
            Ok(opened) => opened,
            Err(failure) => return failed(&failure),
        };
        let range = headers
            .get(header::RANGE)
            .and_then(|range| range.to_str().ok());
        let wanted = range.map_or(Wanted::All, |range| parse_range(range, blob_bytes));
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::ACCEPT_RANGES, "bytes")
            .header(CONTENT_DIGEST, digest.to_string());
        let range = match wanted {
            Wanted::All => ByteRange {
                start: 0,
                end: blob_bytes,
            },
            Wanted::Part(part) => {
                let told = format!("bytes {}-{}/{blob_bytes}", part.start, part.end - 1);
                response = response
                    .status(StatusCode::PARTIAL_CONTENT)
                    .header(header::CONTENT_RANGE, told);
                part
            }
            Wanted::Nothing => {
                let mut response = error(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "SIZE_INVALID",
                    "the range lies outside the blob",
                );
                if let Ok(told) = HeaderValue::from_str(&format!("bytes */{blob_bytes}")) {
                    response.headers_mut().insert(header::CONTENT_RANGE, told);
                }
                return response;
            }
        };
        response = response.header(header::CONTENT_LENGTH, range.len());
        let body = match reader {
            None => Body::empty(),
            Some(mut reader) => match reader.narrow(range) {
                Ok(()) => self.body_of(reader, range),
                Err(failure) => return failed(&failure),
            },
        };
        built(response.body(body))
    }

    async fn open(
        &self,
        digest: Digest,
        source: Source,
        head: bool,
    ) -> Result<(u64, Option<BlobReader>), OpenError> {
        let guarded = self
            .handle
            .shape(digest)
            .await?
            .is_some_and(|info| info.guard.is_some());
        if guarded || self.seeder.policy.asks_callers(&source.registry) {
            // What is here is not for everybody.
            let answer = self.handle.permit(digest, source.clone()).await?;
            if head {
                return Ok((answer.blob_bytes, None));
            }
        }
        if head {
            return Ok((self.handle.stat(digest, source).await?, None));
        }
        let reader = self.handle.open(digest, source, None).await?;
        Ok((reader.blob_bytes(), Some(reader)))
    }

    /// What is still coming in was cut and signed here on upstream's word alone: the blob's last bytes leave when its
    /// whole digest was checked, so that no client gets to the end of a wrong one.
    fn body_of(&self, reader: BlobReader, range: ByteRange) -> Body {
        let at_the_end = range.end == reader.blob_bytes();
        let parts = stream::unfold(Some(reader), move |reader| async move {
            let mut reader = reader?;
            let read = match reader.next().await? {
                Ok(bytes) if at_the_end && reader.remaining() == 0 => {
                    reader.committed().await.map(|()| bytes)
                }
                read => read,
            };
            match read {
                Ok(bytes) => Some((Ok(bytes), Some(reader))),
                Err(error) => {
                    let digest = reader.info().digest;
                    tracing::warn!(digest = %digest.short(), %error, "an answer was cut short of its length");
                    Some((Err(error), None))
                }
            }
        });
        Body::from_stream(parts)
    }
}

fn failed(failure: &OpenError) -> Response {
    match failure.refusal() {
        Some(refusal) => refused(refusal, "BLOB_UNKNOWN"),
        None => error(
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            &failure.to_string(),
        ),
    }
}

/// A refusal for a client: what it may have elsewhere is not found here, what is broken here is unavailable.
fn refused(refusal: &Refusal, unknown: &'static str) -> Response {
    match refusal.code {
        RefusalCode::Denied if !refusal.challenge.is_empty() => {
            let mut response = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", &refusal.detail);
            for line in refusal.challenge.lines() {
                if let Ok(challenge) = HeaderValue::from_str(line) {
                    let headers = response.headers_mut();
                    headers.append(header::WWW_AUTHENTICATE, challenge);
                }
            }
            response
        }
        RefusalCode::Denied | RefusalCode::NotFound | RefusalCode::NotHeld => {
            error(StatusCode::NOT_FOUND, unknown, &refusal.detail)
        }
        RefusalCode::BadRequest => error(StatusCode::BAD_REQUEST, "NAME_INVALID", &refusal.detail),
        RefusalCode::Busy
        | RefusalCode::Injected
        | RefusalCode::Leaving
        | RefusalCode::Unavailable => error(
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            &refusal.detail,
        ),
    }
}

fn error(status: StatusCode, code: &'static str, message: &str) -> Response {
    (
        status,
        Json(json!({ "errors": [{ "code": code, "message": message }] })),
    )
        .into_response()
}

fn built(response: Result<Response, http::Error>) -> Response {
    response.unwrap_or_else(|_| {
        error(
            StatusCode::BAD_GATEWAY,
            "UNAVAILABLE",
            "upstream's answer cannot be repeated",
        )
    })
}
