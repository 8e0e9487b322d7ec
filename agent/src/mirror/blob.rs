//! GET and HEAD of a blob, whole or by ranges.
//!
//! Holds: the head of an answer leaves only when its first byte is at hand, or not at all, so that everything that can
//! be refused is refused with a status; after it, the only failure is a body cut short. The one exception is a range
//! beside other open answers of its blob (`started`). A length is always told, but nothing at all to a client that may
//! not have the blob (`guarded`).
//! Not here: where the bytes come from (`shoal_peer`).

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use shoal_peer::{BlobReader, OpenError};
use shoal_proto::wire::Source;
use shoal_proto::{ByteRange, Digest};
use tokio::time::{Instant, timeout_at};

use super::Mirror;
use super::multipart::multipart;
use super::name::RegistryName;
use super::observe::{FirstFrom, Observation};
use super::pour::{CutShort, HeldBefore, Opener, Pour, PourError};
use super::pulse::Patience;
use super::range::{self, Selection};
use super::reply::{CONTENT_DIGEST, Failure, Fallthrough, Kind};

/// A blob as a client asked for it.
#[derive(Debug)]
pub(crate) struct BlobAsk<'a> {
    pub(crate) registry: &'a RegistryName,
    pub(crate) digest: Digest,
    pub(crate) source: Source,
    pub(crate) head: bool,
    pub(crate) headers: &'a HeaderMap,
    /// The client keeps to whoever gave it the manifest, and comes back to it while it is only broken.
    pub(crate) chooses_once: bool,
}

impl BlobAsk<'_> {
    /// What the client is told, so that it goes elsewhere and soon.
    fn told(&self, failure: Failure) -> Failure {
        if self.chooses_once {
            failure.for_good(Kind::Blob)
        } else {
            failure
        }
    }
}

/// A blob that can be answered for: what of it, and the reader that has given its first bytes.
struct Prepared {
    selection: Selection,
    blob_bytes: u64,
    reader: Option<(BlobReader, ByteRange, Bytes)>,
}

impl Prepared {
    fn unsatisfiable(blob_bytes: u64) -> Self {
        Self {
            selection: Selection::Unsatisfiable,
            blob_bytes,
            reader: None,
        }
    }

    /// The range that was opened begins behind the blob's end.
    fn out_of_range(wanted: Option<&str>, blob_bytes: u64) -> Result<Self, Failure> {
        match range::select(wanted, blob_bytes) {
            Selection::Unsatisfiable => Ok(Self::unsatisfiable(blob_bytes)),
            // The empty blob, asked for from its start.
            _ if blob_bytes == 0 => Ok(Self {
                selection: Selection::Whole,
                blob_bytes,
                reader: None,
            }),
            _ => Err(Failure::broken(
                Fallthrough::Broken,
                "the blob's length changed while it was opened",
            )),
        }
    }
}

impl Mirror {
    pub(crate) async fn blob(&self, ask: BlobAsk<'_>, mut seen: Observation) -> Response<Body> {
        let held = HeldBefore::new(self.handle.store().lookup(&ask.digest));
        let patience = self.patience(ask.registry, seen.start());
        let failed = |failure: &Failure| {
            self.pulse
                .failed(ask.registry, patience, failure, Instant::now());
        };
        if let Err(failure) = self.admit(&ask, patience).await {
            failed(&failure);
            return refuse(&ask.told(failure), &mut seen);
        }
        if ask.head {
            let asked = self.handle.stat(ask.digest, ask.source.clone());
            let length = timeout_at(patience.deadline(), asked).await;
            let length = length.unwrap_or(Err(OpenError::NoOrigin));
            return match length {
                Ok(length) => {
                    seen.first_byte(if held.blob_bytes().is_some() {
                        FirstFrom::Cache
                    } else {
                        self.pulse.answered(ask.registry);
                        FirstFrom::Origin
                    });
                    seen.complete();
                    let mut response =
                        blob_response(StatusCode::OK, &ask.digest, length, Body::empty());
                    response.headers_mut().insert(CONTENT_TYPE, OCTET_STREAM);
                    response
                }
                Err(error) => {
                    let failure = Failure::of_open(&error);
                    failed(&failure);
                    self.guarded.learn_from(ask.registry, &failure);
                    refuse(&ask.told(failure), &mut seen)
                }
            };
        }
        let wanted = wanted_range(ask.headers, &ask.digest);
        let prepared = timeout_at(patience.deadline(), self.prepare(&ask, &held, wanted)).await;
        match prepared.unwrap_or_else(|_| Err(Failure::late())) {
            Ok(prepared) => match self.admit(&ask, patience).await {
                Ok(()) => self.answer_with(prepared, ask, held, seen),
                Err(failure) => refuse(&ask.told(failure), &mut seen),
            },
            Err(failure) => {
                failed(&failure);
                self.guarded.learn_from(ask.registry, &failure);
                match self.cut_instead(&ask.digest, wanted) {
                    Some(response) => {
                        seen.status(response.status());
                        seen.cut(&failure);
                        response
                    }
                    None => refuse(&ask.told(failure), &mut seen),
                }
            }
        }
    }

    /// Whether the client may have the blob. Asked before it is opened, so that one who may not costs the swarm
    /// nothing, and again when it is open, since only then is it certain whether somebody guards it.
    async fn admit(&self, ask: &BlobAsk<'_>, patience: Patience) -> Result<(), Failure> {
        self.guarded
            .admit(
                &self.handle,
                ask.registry,
                ask.digest,
                &ask.source,
                patience.deadline(),
            )
            .await
    }

    /// Opens what is asked for and waits for its first bytes.
    async fn prepare(
        &self,
        ask: &BlobAsk<'_>,
        held: &HeldBefore,
        wanted: Option<&str>,
    ) -> Result<Prepared, Failure> {
        let given_up = self
            .pulse
            .has_given_up(ask.registry, &ask.digest, Instant::now());
        if given_up && !held.is_complete() {
            return Err(Failure::broken(
                Fallthrough::NoSource,
                "this blob was begun a moment ago, and nobody who has the rest could be reached",
            ));
        }
        let first = match self.length_before(ask, held, wanted).await? {
            Some(blob_bytes) => match range::select(wanted, blob_bytes) {
                Selection::Unsatisfiable => return Ok(Prepared::unsatisfiable(blob_bytes)),
                Selection::Whole => None,
                Selection::One(range) => Some(range),
                Selection::Many(ranges) => ranges.first().copied(),
            },
            None => wanted.and_then(range::hint),
        };
        let opened = self.handle.open(ask.digest, ask.source.clone(), first);
        let reader = match opened.await {
            Ok(reader) => reader,
            Err(OpenError::OutOfRange { blob_bytes, .. }) => {
                return Prepared::out_of_range(wanted, blob_bytes);
            }
            Err(error) => return Err(Failure::of_open(&error)),
        };
        let blob_bytes = reader.blob_bytes();
        let selection = range::select(wanted, blob_bytes);
        let range = match &selection {
            Selection::Whole => Some(ByteRange {
                start: 0,
                end: blob_bytes,
            }),
            Selection::One(range) => Some(*range),
            Selection::Many(ranges) => ranges.first().copied(),
            Selection::Unsatisfiable => None,
        };
        match range {
            Some(range) => first_bytes(reader, range).await.map(|reader| Prepared {
                selection,
                blob_bytes,
                reader,
            }),
            None => Ok(Prepared::unsatisfiable(blob_bytes)),
        }
    }

    /// The blob's length, where what is asked for depends on it; without a range, or with a plain one, opening tells it.
    async fn length_before(
        &self,
        ask: &BlobAsk<'_>,
        held: &HeldBefore,
        wanted: Option<&str>,
    ) -> Result<Option<u64>, Failure> {
        let Some(header) = wanted else {
            return Ok(None);
        };
        if let Some(blob_bytes) = held.blob_bytes() {
            return Ok(Some(blob_bytes));
        }
        if range::hint(header).is_some() {
            return Ok(None);
        }
        let length = self.handle.stat(ask.digest, ask.source.clone()).await;
        length.map(Some).map_err(|error| Failure::of_open(&error))
    }

    fn answer_with(
        &self,
        prepared: Prepared,
        ask: BlobAsk<'_>,
        held: HeldBefore,
        mut seen: Observation,
    ) -> Response<Body> {
        let Prepared {
            selection,
            blob_bytes,
            reader,
        } = prepared;
        let digest = ask.digest;
        let (status, stretches, length, kind, content_range) = match selection {
            Selection::Unsatisfiable => {
                seen.status(StatusCode::RANGE_NOT_SATISFIABLE);
                seen.complete();
                let mut response =
                    blob_response(StatusCode::RANGE_NOT_SATISFIABLE, &digest, 0, Body::empty());
                insert(
                    &mut response,
                    CONTENT_RANGE,
                    &range::unsatisfied_range(blob_bytes),
                );
                return response;
            }
            Selection::Whole => (StatusCode::OK, Vec::new(), blob_bytes, None, None),
            Selection::One(range) => {
                let shown = range::content_range(range, blob_bytes);
                (
                    StatusCode::PARTIAL_CONTENT,
                    Vec::new(),
                    range.end - range.start,
                    None,
                    Some(shown),
                )
            }
            Selection::Many(ranges) => {
                let body = multipart(&digest, &ranges, blob_bytes);
                (
                    StatusCode::PARTIAL_CONTENT,
                    body.stretches,
                    body.bytes,
                    Some(body.content_type),
                    None,
                )
            }
        };
        seen.status(status);
        let several = !stretches.is_empty();
        let opener = Opener {
            handle: self.handle.clone(),
            digest,
            source: ask.source,
        };
        let end = self.cut_short(ask.registry, digest, blob_bytes);
        let mut pour = Pour::new(stretches, opener, held, seen, end);
        if let Some((reader, range, first)) = reader {
            // The text before the first part goes out first: its range is opened again, from what is held now.
            pour = if several {
                pour
            } else {
                pour.with_reader(reader, range, first)
            };
        }
        let mut response = blob_response(status, &digest, length, pour.into_body());
        match kind {
            Some(kind) => insert(&mut response, CONTENT_TYPE, &kind),
            None => drop(response.headers_mut().insert(CONTENT_TYPE, OCTET_STREAM)),
        }
        if let Some(shown) = content_range {
            insert(&mut response, CONTENT_RANGE, &shown);
        }
        response
    }

    /// Who is to hear of it when an answer that begins now is cut short.
    fn cut_short(&self, registry: &RegistryName, digest: Digest, blob_bytes: u64) -> CutShort {
        CutShort {
            open: self.started.enter(digest, blob_bytes),
            pulse: Arc::clone(&self.pulse),
            registry: registry.clone(),
            digest,
        }
    }

    /// A head without a body, where a status would end the client's whole pull.
    fn cut_instead(&self, digest: &Digest, wanted: Option<&str>) -> Option<Response<Body>> {
        let hint = wanted.and_then(range::hint).filter(|hint| hint.start > 0)?;
        let blob_bytes = self.started.cut_instead(digest, hint.start)?;
        let Selection::One(range) = range::select(wanted, blob_bytes) else {
            return None;
        };
        let body = Body::from_stream(stream::once(async {
            // Pending once, so that the head is flushed before the connection is cut.
            tokio::task::yield_now().await;
            Err::<Bytes, _>(PourError::Short)
        }));
        let mut response = blob_response(
            StatusCode::PARTIAL_CONTENT,
            digest,
            range.end - range.start,
            body,
        );
        response.headers_mut().insert(CONTENT_TYPE, OCTET_STREAM);
        insert(
            &mut response,
            CONTENT_RANGE,
            &range::content_range(range, blob_bytes),
        );
        Some(response)
    }

    /// Brings a blob onto this node for later; answers when it is whole.
    pub(crate) async fn preheat(
        &self,
        registry: &RegistryName,
        digest: Digest,
        source: Source,
        mut seen: Observation,
    ) -> Response<Body> {
        let patience = self.patience(registry, seen.start());
        let admitted =
            self.guarded
                .admit(&self.handle, registry, digest, &source, patience.deadline());
        if let Err(failure) = admitted.await {
            return refuse(&failure, &mut seen);
        }
        let held = self
            .handle
            .store()
            .lookup(&digest)
            .is_some_and(|blob| blob.complete);
        match self.handle.preheat(digest, source).await {
            Ok(info) => {
                let blob_bytes = info.geometry.blob_bytes();
                seen.first_byte(if held {
                    FirstFrom::Cache
                } else {
                    FirstFrom::Peer
                });
                seen.complete();
                let body = serde_json::json!({ "digest": digest.to_string(), "bytes": blob_bytes, "was_held": held });
                super::reply::json_response(StatusCode::OK, body.to_string())
            }
            Err(error) => {
                let failure = Failure::of_open(&error);
                self.guarded.learn_from(registry, &failure);
                refuse(&failure, &mut seen)
            }
        }
    }
}

const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");

async fn first_bytes(
    mut reader: BlobReader,
    range: ByteRange,
) -> Result<Option<(BlobReader, ByteRange, Bytes)>, Failure> {
    if range.start == range.end {
        return Ok(Some((reader, range, Bytes::new())));
    }
    match reader.next().await {
        Some(Ok(first)) => Ok(Some((reader, range, first))),
        Some(Err(error)) => Err(Failure::broken(Fallthrough::NoSource, error.to_string())),
        None => Err(Failure::broken(
            Fallthrough::Broken,
            "the reader had nothing to read",
        )),
    }
}

/// The one `Range` line, unless `If-Range` names something else than this blob.
fn wanted_range<'a>(headers: &'a HeaderMap, digest: &Digest) -> Option<&'a str> {
    let mut lines = headers.get_all(RANGE).iter();
    let (line, None) = (lines.next()?.to_str().ok()?, lines.next()) else {
        return None;
    };
    match headers.get(IF_RANGE) {
        Some(tag) if tag.as_bytes() != etag(digest).as_bytes() => None,
        _ => Some(line),
    }
}

pub(crate) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn blob_response(status: StatusCode, digest: &Digest, length: u64, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    insert(&mut response, CONTENT_DIGEST, &digest.to_string());
    insert(&mut response, ETAG, &etag(digest));
    response
}

pub(crate) fn insert(response: &mut Response<Body>, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

pub(crate) fn refuse(failure: &Failure, seen: &mut Observation) -> Response<Body> {
    seen.refused(failure);
    failure.to_response()
}
