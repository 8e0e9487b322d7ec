//! GET and HEAD of a manifest: by digest from this node's store, else from an origin; by tag always from an origin.
//!
//! Holds: a body leaves only when its digest is checked, also by tag; its media type is what upstream said, without
//! parameters, since one wrong type breaks a pull with no way out. What a tag points to comes from an origin's
//! word alone, and outlives it by `stale_if_error`, with a `Warning`. What an origin answers for one caller alone is
//! not kept: the next one is asked about.
//! Not here: negotiation with upstreams, freshness of tags (the origin's).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, WARNING};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use shoal_peer::{Audience, ManifestAnswer, ManifestAsk, pool};
use shoal_proto::Digest;
use shoal_proto::wire::Source;
use tokio::time::{Instant, timeout_at};

use super::Mirror;
use super::accept::Accept;
use super::blob::{etag, insert, refuse};
use super::observe::{FirstFrom, Observation};
use super::reply::{CONTENT_DIGEST, Failure, Fallthrough};
use super::route::{Reference, Target};
use super::whole::is_whole;

/// A manifest as a client asked for it.
#[derive(Debug)]
pub(crate) struct ManifestWish<'a> {
    pub(crate) target: &'a Target,
    pub(crate) reference: Reference,
    pub(crate) source: Source,
    pub(crate) head: bool,
    pub(crate) headers: &'a HeaderMap,
    /// The client keeps to whoever gives it the manifest (`whole`).
    pub(crate) chooses_once: bool,
}

/// A manifest that may be answered: checked, or only its head.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    digest: Digest,
    media_type: String,
    length: u64,
    /// `None`: only the head is known.
    body: Option<Bytes>,
    /// The tag could not be confirmed for this long.
    stale_for: Option<Duration>,
    audience: Audience,
}

/// What the store keeps of a tag: `<digest> <when upstream confirmed it, seconds since the epoch>`.
#[derive(Debug, PartialEq, Eq)]
struct TagRecord {
    digest: Digest,
    confirmed_unix_s: u64,
}

impl Mirror {
    pub(crate) async fn manifest(
        &self,
        wish: ManifestWish<'_>,
        mut seen: Observation,
    ) -> Response<Body> {
        let accept = Accept::from_headers(wish.headers);
        if let Reference::Digest(digest) = wish.reference
            && let Some(found) = self.stored(digest).await
            && accept.covers(&found.media_type)
            && self.may_serve(&found, wish.chooses_once).await
        {
            seen.first_byte(FirstFrom::Cache);
            return answer(&found, wish.head, &mut seen);
        }
        let registry = &wish.target.registry;
        let patience = self.patience(registry, seen.start());
        let asked = self.ask_origin(&wish, &accept, patience.deadline()).await;
        match &asked {
            Ok(_) => self.pulse.answered(registry),
            Err(failure) => {
                self.guarded.learn_from(registry, failure);
                self.pulse
                    .failed(registry, patience, failure, Instant::now());
            }
        }
        match asked {
            Ok(found) => {
                seen.first_byte(FirstFrom::Origin);
                answer(&found, wish.head, &mut seen)
            }
            Err(failure) => match self.last_known(&wish, &failure).await {
                Some(found) => {
                    seen.first_byte(FirstFrom::Cache);
                    answer(&found, wish.head, &mut seen)
                }
                None => refuse(&failure, &mut seen),
            },
        }
    }

    /// Whether a manifest may be answered on this node's own word.
    async fn may_serve(&self, found: &Found, chooses_once: bool) -> bool {
        if !chooses_once {
            return true;
        }
        let (store, body) = (self.handle.store().clone(), found.body.clone());
        pool::run(move || body.is_some_and(|body| is_whole(&store, &body))).await
    }

    async fn stored(&self, digest: Digest) -> Option<Found> {
        let store = self.handle.store().clone();
        let (media_type, body) = pool::run(move || store.manifest(&digest)).await?;
        let length = body.len() as u64;
        Some(Found {
            digest,
            media_type,
            length,
            body: Some(body),
            stale_for: None,
            audience: Audience::Anyone,
        })
    }

    async fn ask_origin(
        &self,
        wish: &ManifestWish<'_>,
        accept: &Accept,
        deadline: Instant,
    ) -> Result<Found, Failure> {
        let mut ask = ManifestAsk {
            source: wish.source.clone(),
            reference: wish.reference.to_string(),
            accept: accept.ranges(),
            head: wish.head,
        };
        let within =
            async |ask: ManifestAsk| match timeout_at(deadline, self.handle.manifest(ask)).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(Failure::of_manifest(&error)),
                Err(_) => Err(Failure::late()),
            };
        let mut answer = within(ask.clone()).await?;
        if ask.head && plain_media_type(&answer.media_type).is_none() {
            // The type has to be read from the body.
            ask.head = false;
            answer = within(ask.clone()).await?;
        }
        let stale_for = answer.stale.then_some(answer.age);
        let age = answer.age;
        let found = check(&wish.reference, answer, ask.head, stale_for)?;
        match found.audience {
            Audience::Anyone => self.remember(wish, &found, age).await,
            // Kept by nobody: the next caller is asked about.
            Audience::Caller { .. } => self.guarded.learn(&wish.target.registry),
        }
        Ok(found)
    }

    /// Keeps a manifest, and what its tag points to. A store that cannot is no reason to refuse an answer.
    async fn remember(&self, wish: &ManifestWish<'_>, found: &Found, age: Duration) {
        let store = self.handle.store().clone();
        let Found {
            digest,
            media_type,
            body,
            stale_for,
            ..
        } = found;
        let (digest, media_type, body) = (*digest, media_type.clone(), body.clone());
        let tag = match &wish.reference {
            Reference::Tag(_) if stale_for.is_none() => Some(tag_key(wish)),
            _ => None,
        };
        let record = TagRecord {
            digest,
            confirmed_unix_s: now_unix_s().saturating_sub(age.as_secs()),
        };
        let kept = pool::run(move || {
            if let Some(body) = body {
                store.put_manifest(&digest, &media_type, &body)?;
            }
            match tag {
                Some(tag) => store.put_tag(&tag, &record.to_text()),
                None => Ok(()),
            }
        });
        if let Err(error) = kept.await {
            tracing::warn!(digest = %digest.short(), %error, "a manifest could not be kept");
        }
    }

    /// What a tag pointed to when an origin last said so; not for who was denied, and not for what does not exist.
    async fn last_known(&self, wish: &ManifestWish<'_>, failure: &Failure) -> Option<Found> {
        let Reference::Tag(_) = wish.reference else {
            return None;
        };
        if failure.status != StatusCode::SERVICE_UNAVAILABLE {
            return None;
        }
        let (store, key) = (self.handle.store().clone(), tag_key(wish));
        let record = TagRecord::parse(&pool::run(move || store.tag(&key)).await?)?;
        let age = Duration::from_secs(now_unix_s().saturating_sub(record.confirmed_unix_s));
        if age > self.stale_if_error {
            return None;
        }
        let found = self.stored(record.digest).await?;
        if !self.may_serve(&found, wish.chooses_once).await {
            return None;
        }
        tracing::info!(target = %wish.target.repository, reference = %wish.reference, age_s = age.as_secs(), "no origin answers: a tag is served as last known");
        Some(Found {
            stale_for: Some(age),
            ..found
        })
    }
}

impl TagRecord {
    fn to_text(&self) -> String {
        format!("{} {}", self.digest, self.confirmed_unix_s)
    }

    fn parse(text: &str) -> Option<Self> {
        let (digest, confirmed) = text.split_once(' ')?;
        Some(Self {
            digest: digest.parse().ok()?,
            confirmed_unix_s: confirmed.parse().ok()?,
        })
    }
}

/// An origin's word held against itself and against what was asked. Nothing unchecked is passed on.
fn check(
    reference: &Reference,
    answer: ManifestAnswer,
    head: bool,
    stale_for: Option<Duration>,
) -> Result<Found, Failure> {
    let named = match reference {
        Reference::Digest(digest) => *digest == answer.digest,
        Reference::Tag(_) => true,
    };
    let whole = head
        || (answer.length == answer.body.len() as u64
            && Digest::of(answer.digest.algorithm(), &answer.body) == answer.digest);
    if !named || !whole {
        metrics::counter!("shoal_verify_failures_total", "where" => "manifest").increment(1);
        tracing::error!(%reference, digest = %answer.digest.short(), "an origin's manifest is not what its digest names");
        return Err(Failure::broken(
            Fallthrough::Broken,
            "the manifest that was had is not what its digest names",
        ));
    }
    let body = (!head).then_some(answer.body);
    let media_type = match (plain_media_type(&answer.media_type), &body) {
        (Some(plain), _) => plain.to_owned(),
        (None, Some(body)) => media_type_of(body).ok_or_else(|| {
            Failure::broken(
                Fallthrough::Broken,
                "upstream did not say what kind of manifest this is",
            )
        })?,
        (None, None) => {
            return Err(Failure::broken(
                Fallthrough::Broken,
                "upstream did not say what kind of manifest this is",
            ));
        }
    };
    Ok(Found {
        digest: answer.digest,
        media_type,
        length: answer.length,
        body,
        stale_for,
        audience: answer.audience,
    })
}

/// A type without its parameters, if it says anything: what registries send for want of a better one does not.
fn plain_media_type(said: &str) -> Option<&str> {
    let plain = said.split(';').next().unwrap_or_default().trim();
    let vague = [
        "",
        "application/octet-stream",
        "application/json",
        "text/plain",
        "binary/octet-stream",
    ];
    let clean = plain.bytes().all(|byte| byte.is_ascii_graphic()) && plain.contains('/');
    (clean && !vague.contains(&plain)).then_some(plain)
}

/// The type that a manifest gives itself, or that its form shows.
fn media_type_of(body: &[u8]) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_slice(body).ok()?;
    if let Some(said) = manifest
        .get("mediaType")
        .and_then(serde_json::Value::as_str)
    {
        return plain_media_type(said).map(str::to_owned);
    }
    let has = |key: &str| manifest.get(key).is_some();
    let shape = if has("manifests") {
        "application/vnd.oci.image.index.v1+json"
    } else if has("layers") && has("config") {
        "application/vnd.oci.image.manifest.v1+json"
    } else {
        return None;
    };
    Some(shape.to_owned())
}

fn answer(found: &Found, head: bool, seen: &mut Observation) -> Response<Body> {
    let body = found
        .body
        .clone()
        .filter(|_| !head)
        .map_or_else(Body::empty, |body| {
            seen.sent_other(body.len() as u64);
            Body::from(body)
        });
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(found.length));
    insert(&mut response, CONTENT_TYPE, &found.media_type);
    insert(&mut response, CONTENT_DIGEST, &found.digest.to_string());
    insert(&mut response, ETAG, &etag(&found.digest));
    if let Some(age) = found.stale_for {
        let text = format!(
            "299 - \"upstream cannot be asked; the tag was last confirmed {} s ago\"",
            age.as_secs()
        );
        insert(&mut response, WARNING, &text);
    }
    seen.complete();
    response
}

fn tag_key(wish: &ManifestWish<'_>) -> String {
    format!(
        "{}/{}:{}",
        wish.target.registry, wish.target.repository, wish.reference
    )
}

fn now_unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use shoal_proto::DigestAlgorithm;

    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn answered(body: &'static [u8], media_type: &str) -> ManifestAnswer {
        ManifestAnswer {
            digest: Digest::of(DigestAlgorithm::Sha256, body),
            media_type: media_type.to_owned(),
            length: body.len() as u64,
            body: Bytes::from_static(body),
            age: Duration::ZERO,
            stale: false,
            audience: Audience::Anyone,
        }
    }

    fn tag() -> Reference {
        "v1".parse().unwrap()
    }

    #[test]
    fn a_body_that_is_not_what_its_digest_names_is_never_passed_on() {
        let good = answered(b"{}", INDEX);
        assert!(check(&tag(), good.clone(), false, None).is_ok());
        let forged = ManifestAnswer {
            body: Bytes::from_static(b"[]"),
            ..good.clone()
        };
        assert!(check(&tag(), forged, false, None).is_err());
        let longer = ManifestAnswer {
            length: 3,
            ..good.clone()
        };
        assert!(check(&tag(), longer, false, None).is_err());
        let other = Reference::Digest(Digest::Sha256([1; 32]));
        assert!(check(&other, good.clone(), false, None).is_err());
        assert!(
            check(
                &other,
                ManifestAnswer {
                    body: Bytes::new(),
                    ..good.clone()
                },
                true,
                None
            )
            .is_err()
        );
        assert!(check(&Reference::Digest(good.digest), good, false, None).is_ok());
    }

    #[test]
    fn a_media_type_is_upstreams_without_parameters_or_the_bodys_own() {
        let typed: &[u8] =
            br#"{"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}"#;
        let index: &[u8] = br#"{"manifests":[]}"#;
        let manifest: &[u8] = br#"{"config":{},"layers":[]}"#;
        let cases: [(&'static [u8], &str, Option<&str>); 7] = [
            (b"{}", INDEX, Some(INDEX)),
            (
                b"{}",
                "application/vnd.oci.image.index.v1+json; charset=utf-8",
                Some(INDEX),
            ),
            (
                typed,
                "application/json",
                Some("application/vnd.docker.distribution.manifest.v2+json"),
            ),
            (index, "", Some(INDEX)),
            (
                manifest,
                "application/octet-stream",
                Some("application/vnd.oci.image.manifest.v1+json"),
            ),
            (b"{}", "text/plain", None),
            (b"not json", "", None),
        ];
        for (body, said, expected) in cases {
            let found = check(&tag(), answered(body, said), false, None).ok();
            assert_eq!(
                found.map(|found| found.media_type).as_deref(),
                expected,
                "{said}"
            );
        }
    }

    #[test]
    fn a_tag_record_comes_back() {
        let record = TagRecord {
            digest: Digest::Sha512([3; 64]),
            confirmed_unix_s: 1_700_000_000,
        };
        assert_eq!(TagRecord::parse(&record.to_text()), Some(record));
        for bad in ["", "x", "sha256:zz 3", "sha256:00"] {
            assert_eq!(TagRecord::parse(bad), None, "{bad}");
        }
    }
}
