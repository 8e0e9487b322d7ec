//! What an image is made of, asked of the agent as a container client asks: manifests by tag and digest, checked.
//!
//! Not here: fetching the blobs (`pull`, `preheat`).

use std::collections::BTreeSet;
use std::time::Duration;

use http::header::{ACCEPT, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use shoal_proto::limits::MANIFEST_BYTES_MAX;
use shoal_proto::{Digest, DigestAlgorithm};

use crate::client::{Answer, AskError, Client};
use crate::config::Config;

/// The agent answers within its own deadline, which is shorter.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);
const ERROR_BYTES_SHOWN: usize = 300;
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, \
                        application/vnd.docker.distribution.manifest.v2+json";

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{what}: the agent answers {status}: {detail}")]
    Refused {
        what: String,
        status: StatusCode,
        detail: String,
    },
    #[error(
        "`{text}` is not an image reference: {reason}; write for example docker.io/library/busybox:1.36"
    )]
    Reference { text: String, reason: String },
    #[error("registry {0} is not in the agent's `registries`; add it, or pull from one that is")]
    NotServed(String),
    #[error(
        "{what} is not what its digest names: the agent must never let that through; please report it"
    )]
    WrongDigest { what: String },
    #[error("the manifest of {what} cannot be read: {reason}")]
    Manifest { what: String, reason: String },
    #[error("{image} has no manifest for {platform}; it has {others}")]
    Platform {
        image: String,
        platform: String,
        others: String,
    },
    #[error("`{0}` is not a platform; write for example linux/arm64")]
    PlatformText(String),
}

/// An image as a person names it.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) shown: String,
    registry: String,
    repository: String,
    reference: String,
}

/// A blob of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ImageBlob {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
}

/// Which of an index's manifests are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Platforms {
    All,
    One {
        os: String,
        architecture: String,
        variant: Option<String>,
    },
}

impl Platforms {
    /// `linux/arm64/v8`, or `all`; without words, this machine's.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, ImageError> {
        let here = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let Some(text) = text else {
            return Ok(Self::One {
                os: "linux".to_owned(),
                architecture: here.to_owned(),
                variant: None,
            });
        };
        if text == "all" {
            return Ok(Self::All);
        }
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture, rest @ ..]
                if rest.len() <= 1 && !os.is_empty() && !architecture.is_empty() =>
            {
                Ok(Self::One {
                    os: (*os).to_owned(),
                    architecture: (*architecture).to_owned(),
                    variant: rest.first().map(|variant| (*variant).to_owned()),
                })
            }
            _ => Err(ImageError::PlatformText(text.to_owned())),
        }
    }

    fn wants(&self, child: &Descriptor) -> bool {
        let Self::One {
            os,
            architecture,
            variant,
        } = self
        else {
            return true;
        };
        child.platform().as_ref().is_some_and(|platform| {
            platform.os().to_string() == *os
                && platform.architecture().to_string() == *architecture
                && variant
                    .as_ref()
                    .is_none_or(|variant| platform.variant().as_ref() == Some(variant))
        })
    }
}

impl Image {
    pub(super) fn parse(text: &str, config: &Config) -> Result<Self, ImageError> {
        let parsed: Reference =
            text.parse()
                .map_err(
                    |error: oci_spec::distribution::ParseError| ImageError::Reference {
                        text: text.to_owned(),
                        reason: error.to_string(),
                    },
                )?;
        let registry = config
            .registries
            .resolve(parsed.registry())
            .ok_or_else(|| ImageError::NotServed(parsed.registry().to_owned()))?;
        Ok(Self {
            shown: parsed.to_string(),
            registry: registry.as_str().to_owned(),
            repository: parsed.repository().to_owned(),
            reference: parsed
                .digest()
                .or_else(|| parsed.tag())
                .unwrap_or("latest")
                .to_owned(),
        })
    }

    /// The path of one of the image's blobs, below `root`.
    pub(super) fn blob_path(&self, root: &str, digest: &Digest) -> String {
        format!(
            "{root}/{}/blobs/{digest}?{}",
            self.repository,
            self.namespace()
        )
    }

    /// All blobs of the wanted platforms, each once. An absent child of an index is skipped where all are wanted.
    pub(super) async fn blobs(
        &self,
        client: &Client,
        platforms: &Platforms,
    ) -> Result<Vec<ImageBlob>, ImageError> {
        let (body, is_index) = self.manifest(client, &self.reference).await?;
        let mut blobs = BTreeSet::new();
        if !is_index {
            self.collect(&body, &mut blobs)?;
            return Ok(blobs.into_iter().collect());
        }
        let index =
            ImageIndex::from_reader(body.as_ref()).map_err(|error| self.unreadable(&error))?;
        let wanted: Vec<&Descriptor> = index
            .manifests()
            .iter()
            .filter(|child| platforms.wants(child))
            .collect();
        if wanted.is_empty() {
            return Err(self.no_platform(&index, platforms));
        }
        // Without a word about variants, the first that fits is taken, as container clients do.
        let wanted = if *platforms == Platforms::All {
            wanted
        } else {
            wanted.into_iter().take(1).collect()
        };
        for child in wanted {
            match self.manifest(client, child.digest().as_ref()).await {
                Ok((body, false)) => self.collect(&body, &mut blobs)?,
                Ok((_, true)) => {} // an index in an index: its children are images of their own
                Err(ImageError::Refused { .. }) if *platforms == Platforms::All => {}
                Err(error) => return Err(error),
            }
        }
        Ok(blobs.into_iter().collect())
    }

    fn collect(&self, body: &[u8], blobs: &mut BTreeSet<ImageBlob>) -> Result<(), ImageError> {
        let manifest = ImageManifest::from_reader(body).map_err(|error| self.unreadable(&error))?;
        for part in std::iter::once(manifest.config()).chain(manifest.layers()) {
            let name = part.digest().to_string();
            let digest = name
                .parse()
                .map_err(|_| self.unreadable(&format!("`{name}` is not a digest")))?;
            blobs.insert(ImageBlob {
                digest,
                bytes: part.size(),
            });
        }
        Ok(())
    }

    /// A checked manifest, and whether it is an index.
    async fn manifest(
        &self,
        client: &Client,
        reference: &str,
    ) -> Result<(bytes::Bytes, bool), ImageError> {
        let path = format!(
            "/v2/{}/manifests/{reference}?{}",
            self.repository,
            self.namespace()
        );
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        let answer = client
            .ask(Method::GET, &path, headers, MANIFEST_BYTES_MAX)
            .await?;
        if answer.status != StatusCode::OK {
            return Err(refused(&self.shown, &answer));
        }
        let said = answer
            .headers
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok());
        let named: Option<Digest> = reference.parse().ok().or_else(|| said?.parse().ok());
        let algorithm = named.map_or(DigestAlgorithm::Sha256, |digest| digest.algorithm());
        if named != Some(Digest::of(algorithm, &answer.body)) {
            return Err(ImageError::WrongDigest {
                what: format!("the manifest of {}", self.shown),
            });
        }
        let kind = answer
            .headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let is_index =
            kind.is_some_and(|kind| kind.contains("index") || kind.contains("manifest.list"));
        Ok((answer.body, is_index))
    }

    fn namespace(&self) -> String {
        form_urlencoded::Serializer::new(String::new())
            .append_pair("ns", &self.registry)
            .finish()
    }

    fn unreadable(&self, reason: &dyn std::fmt::Display) -> ImageError {
        ImageError::Manifest {
            what: self.shown.clone(),
            reason: reason.to_string(),
        }
    }

    fn no_platform(&self, index: &ImageIndex, platforms: &Platforms) -> ImageError {
        let show = |child: &Descriptor| {
            let platform = child.platform().as_ref()?;
            Some(format!("{}/{}", platform.os(), platform.architecture()))
        };
        let others: BTreeSet<String> = index.manifests().iter().filter_map(show).collect();
        let platform = match platforms {
            Platforms::All => "any platform".to_owned(),
            Platforms::One {
                os, architecture, ..
            } => format!("{os}/{architecture}"),
        };
        let others = if others.is_empty() {
            "none at all".to_owned()
        } else {
            Vec::from_iter(others).join(", ")
        };
        ImageError::Platform {
            image: self.shown.clone(),
            platform,
            others,
        }
    }
}

/// A client of the agent's registry port.
pub(super) fn registry_client(config: &Config) -> Client {
    Client::new(config.registry_address(), ANSWER_WITHIN)
}

/// A no of the agent, with its own words for people.
pub(super) fn refused(what: &str, answer: &Answer) -> ImageError {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let message = parsed.as_ref().and_then(|body| {
        body.pointer("/errors/0/message")?
            .as_str()
            .map(str::to_owned)
    });
    let detail = message.unwrap_or_else(|| {
        String::from_utf8_lossy(&answer.body)
            .chars()
            .take(ERROR_BYTES_SHOWN)
            .collect()
    });
    ImageError::Refused {
        what: what.to_owned(),
        status: answer.status,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;

    #[test]
    fn references_are_read_as_people_write_them() {
        let config = Config::try_from(RawConfig::default()).unwrap();
        let cases = [
            ("busybox", "docker.io", "library/busybox", "latest"),
            ("busybox:1.36", "docker.io", "library/busybox", "1.36"),
            (
                "docker.io/grafana/grafana:11",
                "docker.io",
                "grafana/grafana",
                "11",
            ),
            ("quay.io/a/b/c:v1", "quay.io", "a/b/c", "v1"),
        ];
        for (text, registry, repository, reference) in cases {
            let image = Image::parse(text, &config).unwrap();
            assert_eq!(
                (
                    image.registry.as_str(),
                    image.repository.as_str(),
                    image.reference.as_str()
                ),
                (registry, repository, reference)
            );
        }
        assert!(matches!(
            Image::parse("evil.test/a", &config),
            Err(ImageError::NotServed(_))
        ));
        assert!(matches!(
            Image::parse("A B", &config),
            Err(ImageError::Reference { .. })
        ));
    }

    #[test]
    fn platforms_are_read_as_people_write_them() {
        assert_eq!(Platforms::parse(Some("all")).unwrap(), Platforms::All);
        let arm = Platforms::parse(Some("linux/arm64/v8")).unwrap();
        assert!(matches!(
            arm,
            Platforms::One {
                variant: Some(_),
                ..
            }
        ));
        for bad in ["linux", "", "linux/", "a/b/c/d"] {
            assert!(Platforms::parse(Some(bad)).is_err(), "{bad}");
        }
        assert!(matches!(
            Platforms::parse(None).unwrap(),
            Platforms::One { .. }
        ));
    }
}
