//! A client that asks as containerd does: HEAD of the tag, GET of the manifest by digest, then all blobs at once.
//!
//! What for: measuring and checking what a node's container runtime would see, without root. What not for: replacing the
//! tests with the real containerd. Invariant: what it returns was checked against its digest while it streamed.

use std::sync::Once;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RANGE};
use reqwest::{Method, Response, StatusCode};
use shoal_proto::{Digest, DigestHasher};

use crate::workload::digest_of;

/// containerd 1.6's own list, in its order.
const MANIFEST_ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, */*";

/// One registry (an agent, an origin, an upstream) as a client sees it.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    namespace: Option<String>,
    authorization: Option<String>,
}

/// What became of one blob.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    pub digest: Digest,
    pub bytes: u64,
    /// From the request to the first byte of the body.
    pub first_byte: Duration,
    pub whole: Duration,
}

/// What became of one image.
#[derive(Debug, Clone)]
pub struct Pulled {
    pub manifest: Digest,
    pub blobs: Vec<Received>,
    pub whole: Duration,
}

impl Pulled {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.bytes).sum()
    }
}

impl Client {
    /// A client of the registry at `http://{address}`.
    #[must_use]
    pub fn new(address: impl std::fmt::Display) -> Self {
        Self {
            http: http(),
            base: format!("http://{address}"),
            namespace: None,
            authorization: None,
        }
    }

    /// Names the registry that is meant, as containerd does towards a mirror (`?ns=`).
    #[must_use]
    pub fn for_registry(mut self, registry: impl std::fmt::Display) -> Self {
        self.namespace = Some(registry.to_string());
        self
    }

    #[must_use]
    pub fn with_authorization(mut self, value: &str) -> Self {
        self.authorization = Some(value.to_owned());
        self
    }

    /// Any request below `/v2/`, with its answer as it came.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response> {
        self.request(method, &format!("v2/{path}"), headers).await
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response> {
        let mut url = format!("{}/{path}", self.base);
        if let Some(registry) = &self.namespace {
            url = format!("{url}?ns={}", registry.replace(':', "%3A"));
        }
        let mut request = self.http.request(method, &url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request
            .send()
            .await
            .with_context(|| format!("no answer from {url}"))
    }

    /// The digest that a tag stands for.
    pub async fn resolve(&self, repository: &str, tag: &str) -> Result<Digest> {
        let path = format!("{repository}/manifests/{tag}");
        let answer = self
            .ask(Method::HEAD, &path, &[(ACCEPT.as_str(), MANIFEST_ACCEPT)])
            .await?;
        ensure!(
            answer.status() == StatusCode::OK,
            "HEAD {path}: {}",
            answer.status()
        );
        let header = answer
            .headers()
            .get("docker-content-digest")
            .context("no Docker-Content-Digest")?;
        Ok(header.to_str()?.parse()?)
    }

    /// A manifest by digest, checked.
    pub async fn manifest(&self, repository: &str, digest: &Digest) -> Result<Bytes> {
        let path = format!("{repository}/manifests/{digest}");
        let answer = self
            .ask(Method::GET, &path, &[(ACCEPT.as_str(), MANIFEST_ACCEPT)])
            .await?;
        ensure!(
            answer.status() == StatusCode::OK,
            "GET {path}: {}",
            answer.status()
        );
        ensure!(
            answer.headers().contains_key(CONTENT_TYPE),
            "a manifest without Content-Type"
        );
        let body = answer.bytes().await?;
        ensure!(
            digest_of(&body) == *digest,
            "the manifest at {path} is not {digest}"
        );
        Ok(body)
    }

    /// Opens a blob; the caller reads as much of it as it likes.
    pub async fn open(&self, repository: &str, digest: &Digest, from: u64) -> Result<OpenBlob> {
        let path = format!("{repository}/blobs/{digest}");
        let started = Instant::now();
        let range = format!("bytes={from}-");
        let headers: &[(&str, &str)] = if from > 0 {
            &[(RANGE.as_str(), &range)]
        } else {
            &[]
        };
        let answer = self.ask(Method::GET, &path, headers).await?;
        let expected = if from > 0 {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        };
        ensure!(
            answer.status() == expected,
            "GET {path}: {}",
            answer.status()
        );
        let length = answer
            .headers()
            .get(CONTENT_LENGTH)
            .context("a blob without Content-Length")?;
        let length = length.to_str()?.parse()?;
        let hasher = DigestHasher::new(digest.algorithm());
        let digest = *digest;
        Ok(OpenBlob {
            answer,
            digest,
            hasher,
            length,
            read: 0,
            started,
            first_byte: None,
        })
    }

    /// A whole blob, checked while it streams; nothing of it is kept.
    pub async fn blob(&self, repository: &str, digest: &Digest) -> Result<Received> {
        let mut blob = self.open(repository, digest, 0).await?;
        while blob.next().await?.is_some() {}
        blob.finish()
    }

    /// Tells an agent to fetch a blob, and waits until it has it.
    pub async fn preheat(&self, repository: &str, digest: &Digest) -> Result<StatusCode> {
        let path = format!("shoal/preheat/{repository}/blobs/{digest}");
        let answer = self.request(Method::POST, &path, &[]).await?;
        let status = answer.status();
        // Read to its end, so that the connection can be used again.
        answer.bytes().await?;
        Ok(status)
    }

    /// A whole image as containerd pulls it: tag, manifest, then every blob at once.
    pub async fn pull(&self, repository: &str, tag: &str) -> Result<Pulled> {
        let started = Instant::now();
        let manifest = self.resolve(repository, tag).await?;
        let body = self.manifest(repository, &manifest).await?;
        let digests = blobs_of(&body)?;
        let blobs =
            try_join_all(digests.iter().map(|digest| self.blob(repository, digest))).await?;
        Ok(Pulled {
            manifest,
            blobs,
            whole: started.elapsed(),
        })
    }
}

/// What must never happen: a body that was whole and was not what it was asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongBytes {
    pub digest: Digest,
    pub bytes: u64,
}

impl std::fmt::Display for WrongBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "wrong bytes for {}", self.digest)
    }
}

impl std::error::Error for WrongBytes {}

/// A blob whose body is being read.
#[derive(Debug)]
pub struct OpenBlob {
    answer: Response,
    digest: Digest,
    hasher: DigestHasher,
    length: u64,
    read: u64,
    started: Instant,
    first_byte: Option<Duration>,
}

impl OpenBlob {
    /// The next bytes, or `None` at the end; an error when the body was cut short.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.answer.chunk().await.with_context(|| {
            format!(
                "{} was cut after {} of {} bytes",
                self.digest.short(),
                self.read,
                self.length
            )
        })?;
        if let Some(bytes) = &chunk {
            self.first_byte
                .get_or_insert_with(|| self.started.elapsed());
            self.hasher.update(bytes);
            self.read += bytes.len() as u64;
        }
        Ok(chunk)
    }

    /// Reads on until `bytes` have come in all, or the end.
    pub async fn read_until(&mut self, bytes: u64) -> Result<()> {
        while self.read < bytes && self.next().await?.is_some() {}
        Ok(())
    }

    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    #[must_use]
    pub fn read(&self) -> u64 {
        self.read
    }

    #[must_use]
    pub fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    /// Checks what was read, which must be the whole blob.
    pub fn finish(self) -> Result<Received> {
        if self.read != self.length {
            bail!(
                "{} of {} bytes of {}",
                self.read,
                self.length,
                self.digest.short()
            );
        }
        if self.hasher.finish() != self.digest {
            let (digest, bytes) = (self.digest, self.read);
            return Err(WrongBytes { digest, bytes }.into());
        }
        let whole = self.started.elapsed();
        Ok(Received {
            digest: self.digest,
            bytes: self.read,
            first_byte: self.first_byte.unwrap_or(whole),
            whole,
        })
    }
}

/// The blobs that an image manifest names, the configuration first.
pub fn blobs_of(manifest: &[u8]) -> Result<Vec<Digest>> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest)?;
    let layers = manifest["layers"]
        .as_array()
        .context("not an image manifest")?;
    let descriptors = std::iter::once(&manifest["config"]).chain(layers);
    descriptors
        .map(|blob| {
            Ok(blob["digest"]
                .as_str()
                .context("a descriptor without digest")?
                .parse()?)
        })
        .collect()
}

/// A plain HTTP/1.1 client that goes to loopback directly, whatever proxy the environment names.
#[must_use]
pub fn http() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Another library of the process may have installed one; any will do for a client that never speaks TLS.
        let _installed_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
    reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .build()
        .expect("a client without certificates or proxies has nothing that can be wrong")
}
