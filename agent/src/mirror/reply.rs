//! What a client is answered when it gets no bytes: statuses, OCI error bodies, and the headers that all answers carry.
//!
//! Pure: from why to what. 404 means "I cannot", 503 "I am broken"; both send a client to its next host. Never 429,
//! which clients answer with a storm of retries, and never a redirect.
//! Holds: a message is text for people and never carries a credential.

use std::fmt;

use axum::body::Body;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::json;
use shoal_peer::{ManifestError, OpenError};
use shoal_proto::FailReason;
use shoal_proto::limits::LIST_QUERY_BYTES_MAX;
use shoal_proto::wire::{Refusal, RefusalCode};

use super::route::RouteError;

/// Names the agent that answered; `containerd install` looks for it before it points containerd at a port.
pub const AGENT_HEADER: HeaderName = HeaderName::from_static("shoal-agent");
pub(crate) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// The codes of the OCI distribution spec that a read-only mirror needs, and the one that registries use for 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OciCode {
    BlobUnknown,
    DigestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    Unauthorized,
    Unavailable,
    Unsupported,
}

impl OciCode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// Why a client has to go elsewhere; the closed set of the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallthrough {
    BadRequest,
    Broken,
    Cut,
    Denied,
    Late,
    NoOrigin,
    NoSource,
    NotFound,
    NotServed,
    Unavailable,
}

impl Fallthrough {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Broken => "broken",
            Self::Cut => "cut",
            Self::Denied => "denied",
            Self::Late => "late",
            Self::NoOrigin => "no_origin",
            Self::NoSource => "no_source",
            Self::NotFound => "not_found",
            Self::NotServed => "not_served",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What kind of thing was asked for, which decides the code of its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Blob,
    Manifest,
    Repository,
}

impl Kind {
    fn unknown(self) -> OciCode {
        match self {
            Self::Blob => OciCode::BlobUnknown,
            Self::Manifest => OciCode::ManifestUnknown,
            Self::Repository => OciCode::NameUnknown,
        }
    }
}

/// A no, ready to be answered.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) code: OciCode,
    pub(crate) reason: Fallthrough,
    message: String,
    /// Upstream's own words, a header each.
    challenges: Vec<HeaderValue>,
}

impl Failure {
    pub(crate) fn cannot(code: OciCode, reason: Fallthrough, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            code,
            reason,
            message: message.into(),
            challenges: Vec::new(),
        }
    }

    pub(crate) fn broken(reason: Fallthrough, message: impl Into<String>) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self {
            status,
            code: OciCode::Unavailable,
            reason,
            message: message.into(),
            challenges: Vec::new(),
        }
    }

    /// The deadline for the head of an answer passed.
    pub(crate) fn late() -> Self {
        Self::broken(
            Fallthrough::Late,
            "no byte could be had in time; the client's next host may do better",
        )
    }

    /// Something that writes, or a method without a meaning here.
    pub(crate) fn read_only() -> Self {
        let message = "this mirror is read-only: push to the registry itself";
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..Self::cannot(OciCode::Unsupported, Fallthrough::BadRequest, message)
        }
    }

    /// A query that no registry's page token needs.
    pub(crate) fn query_too_long() -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            ..Self::cannot(
                OciCode::Unsupported,
                Fallthrough::BadRequest,
                format!("the query is longer than {LIST_QUERY_BYTES_MAX} bytes"),
            )
        }
    }

    pub(crate) fn of_open(error: &OpenError) -> Self {
        match error {
            OpenError::Failed { reason, .. } => Self::of_reason(reason),
            OpenError::Refused(refusal) => Self::of_refusal(Kind::Blob, refusal),
            OpenError::NoOrigin => Self::broken(Fallthrough::NoOrigin, error.to_string()),
            OpenError::OutOfRange { .. } | OpenError::ShuttingDown | OpenError::Store(_) => {
                Self::broken(Fallthrough::Broken, error.to_string())
            }
        }
    }

    pub(crate) fn of_manifest(error: &ManifestError) -> Self {
        match error {
            ManifestError::NoOrigin => Self::broken(Fallthrough::NoOrigin, error.to_string()),
            ManifestError::Refused(refusal) => Self::of_refusal(Kind::Manifest, refusal),
        }
    }

    pub(crate) fn of_list(error: &ManifestError) -> Self {
        match error {
            ManifestError::NoOrigin => Self::broken(Fallthrough::NoOrigin, error.to_string()),
            ManifestError::Refused(refusal) => Self::of_refusal(Kind::Repository, refusal),
        }
    }

    fn of_reason(reason: &FailReason) -> Self {
        match reason {
            FailReason::NotFound(refusal) | FailReason::Denied(refusal) => {
                Self::of_refusal(Kind::Blob, refusal)
            }
            FailReason::NoSource => Self::broken(
                Fallthrough::NoSource,
                "nobody who has this blob can be reached",
            ),
            FailReason::CommitFailed | FailReason::Poisoned => Self::broken(
                Fallthrough::Broken,
                "the bytes that were had for this blob are not what its digest names",
            ),
            FailReason::StoreFailed => Self::broken(
                Fallthrough::Broken,
                "this node's store cannot take the blob",
            ),
        }
    }

    /// A denial without a challenge looks like an absence: who may not read must not learn what there is.
    fn of_refusal(kind: Kind, refusal: &Refusal) -> Self {
        let detail = |otherwise: &str| {
            if refusal.detail.is_empty() {
                otherwise.to_owned()
            } else {
                refusal.detail.clone()
            }
        };
        match refusal.code {
            RefusalCode::NotFound => Self::cannot(
                kind.unknown(),
                Fallthrough::NotFound,
                detail("the upstream does not have it"),
            ),
            RefusalCode::BadRequest => Self::cannot(
                kind.unknown(),
                Fallthrough::BadRequest,
                detail("not a question for an origin"),
            ),
            RefusalCode::Denied => match challenges_of(refusal) {
                challenges if challenges.is_empty() => Self::cannot(
                    kind.unknown(),
                    Fallthrough::Denied,
                    "not shared by this mirror; ask the upstream",
                ),
                challenges => Self {
                    status: StatusCode::UNAUTHORIZED,
                    challenges,
                    ..Self::cannot(
                        OciCode::Unauthorized,
                        Fallthrough::Denied,
                        "the upstream wants to know who asks",
                    )
                },
            },
            RefusalCode::Busy
            | RefusalCode::Injected
            | RefusalCode::Leaving
            | RefusalCode::NotHeld
            | RefusalCode::Unavailable => Self::broken(
                Fallthrough::Unavailable,
                detail("the origin cannot bring it now"),
            ),
        }
    }

    /// The same to a client that would come back to who is only broken: there is nothing for it here.
    pub(crate) fn for_good(self, kind: Kind) -> Self {
        if self.status != StatusCode::SERVICE_UNAVAILABLE {
            return self;
        }
        Self {
            status: StatusCode::NOT_FOUND,
            code: kind.unknown(),
            ..self
        }
    }

    pub(crate) fn to_response(&self) -> Response<Body> {
        let body = json!({ "errors": [{ "code": self.code.as_str(), "message": format!("shoal: {}", self.message) }] });
        let mut response = json_response(self.status, body.to_string());
        for challenge in &self.challenges {
            response
                .headers_mut()
                .append(WWW_AUTHENTICATE, challenge.clone());
        }
        response
    }
}

fn challenges_of(refusal: &Refusal) -> Vec<HeaderValue> {
    let lines = refusal.challenge.lines();
    lines.filter_map(|line| line.parse().ok()).collect()
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Self {
        let message = error.to_string();
        let bad = |code| Self {
            status: StatusCode::BAD_REQUEST,
            ..Self::cannot(code, Fallthrough::BadRequest, message.clone())
        };
        match error {
            RouteError::DigestMalformed(_) => bad(OciCode::DigestInvalid),
            RouteError::Name { .. } => bad(OciCode::NameInvalid),
            RouteError::DigestUnsupported(_) => {
                Self::cannot(OciCode::DigestInvalid, Fallthrough::NotServed, message)
            }
            RouteError::Tag { .. } => {
                Self::cannot(OciCode::ManifestUnknown, Fallthrough::BadRequest, message)
            }
            RouteError::NoRegistry | RouteError::NotAllowed(_) => {
                Self::cannot(OciCode::NameUnknown, Fallthrough::NotServed, message)
            }
            RouteError::Unknown => {
                Self::cannot(OciCode::Unsupported, Fallthrough::BadRequest, message)
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A small JSON answer, with its exact length also for HEAD.
pub(crate) fn json_response(status: StatusCode, body: String) -> Response<Body> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use shoal_proto::Digest;

    use super::*;

    fn failed(reason: FailReason) -> Failure {
        Failure::of_open(&OpenError::Failed {
            digest: Digest::Sha256([1; 32]),
            reason,
        })
    }

    fn refused(code: RefusalCode) -> Failure {
        Failure::of_open(&OpenError::Refused(Refusal::new(code)))
    }

    #[test]
    fn cannot_is_404_and_broken_is_503_and_nothing_else() {
        for (failure, status) in [
            (refused(RefusalCode::NotFound), 404),
            (refused(RefusalCode::Denied), 404),
            (refused(RefusalCode::BadRequest), 404),
            (refused(RefusalCode::Busy), 503),
            (refused(RefusalCode::Unavailable), 503),
            (refused(RefusalCode::Leaving), 503),
            (
                failed(FailReason::NotFound(Refusal::new(RefusalCode::NotFound))),
                404,
            ),
            (failed(FailReason::NoSource), 503),
            (failed(FailReason::Poisoned), 503),
            (failed(FailReason::StoreFailed), 503),
            (Failure::of_manifest(&ManifestError::NoOrigin), 503),
            (Failure::of_open(&OpenError::ShuttingDown), 503),
            (Failure::late(), 503),
            (Failure::read_only(), 405),
        ] {
            assert_eq!(failure.status.as_u16(), status, "{failure}");
        }
    }

    #[test]
    fn a_denial_with_a_challenge_relays_it_verbatim() {
        let challenge =
            "Bearer realm=\"https://auth.test/token\",service=\"s\",scope=\"repository:a:pull\"";
        let refusal = Refusal {
            challenge: format!("{challenge}\nBasic realm=\"b\""),
            ..Refusal::new(RefusalCode::Denied)
        };
        let response = Failure::of_manifest(&ManifestError::Refused(refusal)).to_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let relayed: Vec<_> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .collect();
        assert_eq!(relayed, [challenge, "Basic realm=\"b\""]);
    }

    #[tokio::test]
    async fn an_error_has_the_body_of_the_spec_and_its_exact_length() {
        let response = refused(RefusalCode::NotFound).to_response();
        let length: usize = response.headers()[CONTENT_LENGTH]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), length);
        let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(parsed["errors"][0]["code"], "BLOB_UNKNOWN");
    }
}
