//! Manifests and tags at upstream: HEAD for a tag's digest, GET for a body that is checked before it is believed.
//!
//! Not for: freshness, storing, or what a client accepts (that is `crate::manifests`).

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, header};
use reqwest::Response;
use shoal_proto::{Digest, DigestAlgorithm, DigestHasher, limits};

use super::Registry;
use super::error::UpstreamError;
use super::pull::content_length;
use super::request::{Call, describe};

/// Everything a registry may hold under `manifests/`; what it is, is told by the answer.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*;q=0.5";

/// Of what a registry calls a manifest when it does not know better.
const VAGUE_TYPES: [&str; 5] = [
    "",
    "application/octet-stream",
    "application/json",
    "text/plain",
    "binary/octet-stream",
];

/// A body whose digest is checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FetchedManifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) body: Bytes,
}

impl Registry {
    /// The digest that a tag names now; `None` when upstream does not tell it on HEAD.
    pub(crate) async fn resolve(
        &self,
        repository: &str,
        tag: &str,
    ) -> Result<Option<Digest>, UpstreamError> {
        match self
            .call(&self.manifest_call(Method::HEAD, repository, tag))
            .await
        {
            Ok(response) => Ok(told_digest(&response)),
            // Some registries do not answer HEAD at all.
            Err(UpstreamError::BadAnswer { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A manifest by tag or digest, its body checked against `expected` and against what upstream calls it.
    pub(crate) async fn manifest(
        &self,
        repository: &str,
        reference: &str,
        expected: Option<Digest>,
    ) -> Result<FetchedManifest, UpstreamError> {
        let mut response = self
            .call(&self.manifest_call(Method::GET, repository, reference))
            .await?;
        if response.status() != StatusCode::OK {
            return Err(self.bad_answer("a part of a manifest"));
        }
        let told = told_digest(&response);
        let media_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let media_type = media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let body = self.read_body(&mut response).await?;
        let wanted = expected.or(told);
        let algorithm = wanted.map_or(DigestAlgorithm::Sha256, |digest| digest.algorithm());
        let mut hasher = DigestHasher::new(algorithm);
        hasher.update(&body);
        let digest = hasher.finish();
        if wanted.is_some_and(|wanted| wanted != digest) {
            metrics::counter!("shoal_verify_failures_total", "where" => "upstream").increment(1);
            tracing::error!(
                registry = self.name(),
                repository,
                reference,
                "upstream sent a manifest of another digest"
            );
            return Err(UpstreamError::WrongDigest {
                registry: self.name().to_owned(),
            });
        }
        let media_type = media_type_of(&media_type, &body);
        Ok(FetchedManifest {
            digest,
            media_type,
            body,
        })
    }

    fn manifest_call<'a>(&self, method: Method, repository: &'a str, reference: &str) -> Call<'a> {
        let standing = self.standing(repository);
        Call {
            method,
            repository,
            path: format!("manifests/{reference}"),
            accept: ACCEPT,
            standing,
            from: 0,
            until: None,
        }
    }

    pub(super) async fn read_body(&self, response: &mut Response) -> Result<Bytes, UpstreamError> {
        let limit = limits::MANIFEST_BYTES_MAX as u64;
        let too_large = |bytes| UpstreamError::TooLarge {
            registry: self.name().to_owned(),
            bytes,
            limit,
        };
        let told = content_length(response);
        if let Some(told) = told.filter(|told| *told > limit) {
            return Err(too_large(told));
        }
        let mut body = BytesMut::new();
        let read = async {
            while let Some(bytes) = response
                .chunk()
                .await
                .map_err(|error| self.unavailable(describe(&error)))?
            {
                if (body.len() + bytes.len()) as u64 > limit {
                    return Err(too_large((body.len() + bytes.len()) as u64));
                }
                metrics::counter!("shoal_download_bytes_total", "source" => "upstream")
                    .increment(bytes.len() as u64);
                body.extend_from_slice(&bytes);
            }
            Ok(())
        };
        tokio::time::timeout(self.timeouts.header, read)
            .await
            .map_err(|_| self.unavailable("its body stalled"))??;
        if told.is_some_and(|told| told != body.len() as u64) {
            return Err(self.unavailable("its body broke off"));
        }
        Ok(body.freeze())
    }
}

fn told_digest(response: &Response) -> Option<Digest> {
    response
        .headers()
        .get("docker-content-digest")?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// What upstream calls it; where that says nothing, what the body says of itself.
fn media_type_of(told: &str, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Shape {
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let printable = |text: &String| {
        !text.is_empty()
            && text.len() <= limits::MEDIA_TYPE_BYTES_MAX
            && text.bytes().all(|b| b.is_ascii_graphic())
    };
    if !VAGUE_TYPES.contains(&told) && printable(&told.to_owned()) {
        return told.to_owned();
    }
    match serde_json::from_slice::<Shape>(body) {
        Ok(Shape {
            media_type: Some(media_type),
            ..
        }) if printable(&media_type) => media_type,
        Ok(Shape {
            manifests: Some(_), ..
        }) => "application/vnd.oci.image.index.v1+json".to_owned(),
        Ok(Shape {
            layers: Some(_), ..
        }) => "application/vnd.oci.image.manifest.v1+json".to_owned(),
        Ok(_) | Err(_) if told.is_empty() => "application/octet-stream".to_owned(),
        Ok(_) | Err(_) => told.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vague_types_are_replaced_by_what_the_body_says() {
        let oci = "application/vnd.oci.image.manifest.v1+json";
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        let cases: [(&str, &str, &str); 8] = [
            (docker, "{}", docker),
            (
                "application/octet-stream",
                r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#,
                oci,
            ),
            ("", r#"{"layers":[]}"#, oci),
            (
                "application/json",
                r#"{"manifests":[]}"#,
                "application/vnd.oci.image.index.v1+json",
            ),
            ("", "not json", "application/octet-stream"),
            ("text/plain", "{}", "text/plain"),
            ("", r#"{"mediaType":"a\nb","layers":[]}"#, oci),
            ("", "[]", "application/octet-stream"),
        ];
        for (told, body, expected) in cases {
            assert_eq!(
                media_type_of(told, body.as_bytes()),
                expected,
                "{told} {body}"
            );
        }
    }
}
