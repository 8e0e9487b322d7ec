//! A blob's bytes from upstream, in order, over as many connections as it takes.
//!
//! For: one download, of a blob or of a part of it, that survives cuts, stalls and expired redirects. Not for: keeping or
//! checking bytes (that is `ingest`), sharing a download (that is `coalesce`), or several parts at once (`parts`).
//!
//! Invariants: bytes come in order and without gap or overlap from the offset asked for; never more than the length
//! that the first response told; a later response that tells another length ends the pull.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use reqwest::Response;
use shoal_proto::{Digest, limits};

use super::Registry;
use super::auth::Standing;
use super::error::UpstreamError;
use super::limit::Backoff;
use super::request::{Call, describe};

/// Resumptions without a byte of progress before it is given up.
const FRUITLESS_MAX: u32 = 5;

/// Which bytes are wanted, of which blob, with which right.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) repository: String,
    pub(crate) digest: Digest,
    pub(crate) standing: Standing,
    pub(crate) from: u64,
    /// Where it ends, when that is not the blob's end.
    pub(crate) until: Option<u64>,
}

impl Stretch {
    fn call(&self) -> Call<'_> {
        Call {
            method: Method::GET,
            repository: &self.repository,
            path: format!("blobs/{}", self.digest),
            accept: "*/*",
            standing: self.standing,
            from: self.from,
            until: self.until,
        }
    }
}

/// A download under way.
#[derive(Debug)]
pub(crate) struct Pull {
    registry: Registry,
    /// What is still to come.
    stretch: Stretch,
    blob_bytes: u64,
    /// The byte behind the last one to hand out.
    end: u64,
    /// Bytes of the present response that come before the next one to hand out.
    skip: u64,
    response: Option<Response>,
    fruitless: u32,
    backoff: Backoff,
}

impl Pull {
    /// Asks for the bytes of a stretch; resolves once the length is known and bytes are coming. A registry that gives no
    /// parts gives the rest of the blob, wherever the stretch ends.
    pub(crate) async fn open(
        registry: Registry,
        mut stretch: Stretch,
    ) -> Result<Self, UpstreamError> {
        let response = registry.call(&stretch.call()).await?;
        let told = told_bytes(&registry, &response, stretch.from)?;
        let Stretch {
            repository,
            digest,
            standing,
            ..
        } = &stretch;
        let blob_bytes = match told {
            Some(told) => told,
            None => match registry.sizes.of(repository, digest) {
                Some(described) => described,
                None => registry.stat_blob(repository, digest, *standing).await?,
            },
        };
        if blob_bytes > limits::BLOB_BYTES_MAX {
            let registry = registry.name().to_owned();
            return Err(UpstreamError::TooLarge {
                registry,
                bytes: blob_bytes,
                limit: limits::BLOB_BYTES_MAX,
            });
        }
        let skip = if response.status() == StatusCode::PARTIAL_CONTENT {
            0
        } else {
            stretch.until = None;
            stretch.from
        };
        let backoff = Backoff::new(registry.timeouts.backoff, registry.timeouts.backoff * 16);
        Ok(Self {
            end: stretch.until.map_or(blob_bytes, |end| end.min(blob_bytes)),
            registry,
            stretch,
            blob_bytes,
            skip,
            response: Some(response),
            fruitless: 0,
            backoff,
        })
    }

    /// The length of the whole blob.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.blob_bytes
    }

    /// The byte behind the last one that it hands out.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The next bytes; `None` after the last. Resumes by itself where that may help.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        while self.stretch.from < self.end {
            let read = match &mut self.response {
                Some(response) => {
                    match tokio::time::timeout(self.registry.timeouts.idle, response.chunk()).await
                    {
                        Ok(Ok(Some(bytes))) => Ok(bytes),
                        Ok(Ok(None)) => Err("it ended before its length"),
                        Ok(Err(error)) => Err(describe(&error)),
                        Err(_) => Err("it stalled"),
                    }
                }
                None => Err("it is to be resumed"),
            };
            match read {
                Ok(bytes) => {
                    if let Some(bytes) = self.take(bytes) {
                        return Ok(Some(bytes));
                    }
                }
                Err(reason) => self.resume(reason).await?,
            }
        }
        // What a lying upstream sends beyond its length is never read.
        self.response = None;
        Ok(None)
    }

    fn take(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        let _ = bytes.split_to(usize::try_from(skipped).expect("at most the length of a buffer"));
        let left = usize::try_from(self.end - self.stretch.from).unwrap_or(usize::MAX);
        bytes.truncate(left);
        if bytes.is_empty() {
            return None;
        }
        self.stretch.from += bytes.len() as u64;
        self.fruitless = 0;
        self.backoff = Backoff::new(
            self.registry.timeouts.backoff,
            self.registry.timeouts.backoff * 16,
        );
        metrics::counter!("shoal_download_bytes_total", "source" => "upstream")
            .increment(bytes.len() as u64);
        Some(bytes)
    }

    async fn resume(&mut self, reason: &str) -> Result<(), UpstreamError> {
        self.response = None;
        self.fruitless += 1;
        if self.fruitless > FRUITLESS_MAX {
            return Err(self.registry.unavailable(&format!(
                "{reason} {FRUITLESS_MAX} times without a byte of progress"
            )));
        }
        tracing::debug!(
            registry = self.registry.name(),
            at = self.stretch.from,
            reason,
            "resuming a download"
        );
        metrics::counter!("shoal_upstream_retries_total").increment(1);
        if self.fruitless > 1 {
            tokio::time::sleep(self.backoff.pause()).await;
        }
        let response = match self.registry.call(&self.stretch.call()).await {
            Ok(response) => response,
            // Passing trouble is worth the remaining attempts; the pause it asks for is obeyed by the next call.
            Err(error @ UpstreamError::Unavailable { .. }) if self.fruitless < FRUITLESS_MAX => {
                tracing::debug!(registry = self.registry.name(), %error, "cannot resume yet");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let told = told_bytes(&self.registry, &response, self.stretch.from)?;
        if told.is_some_and(|told| told != self.blob_bytes) {
            return Err(self.registry.bad_answer("another length than at first"));
        }
        self.skip = if response.status() == StatusCode::PARTIAL_CONTENT {
            0
        } else {
            self.stretch.from
        };
        self.response = Some(response);
        Ok(())
    }
}

/// The length of the whole blob as a response tells it, with the response checked against what was asked.
fn told_bytes(
    registry: &Registry,
    response: &Response,
    from: u64,
) -> Result<Option<u64>, UpstreamError> {
    let encoding = response.headers().get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(registry.bad_answer("a Content-Encoding that was not asked for"));
    }
    match response.status() {
        StatusCode::OK => Ok(content_length(response)),
        StatusCode::PARTIAL_CONTENT => {
            let range = response
                .headers()
                .get(header::CONTENT_RANGE)
                .and_then(|range| range.to_str().ok());
            match range.and_then(parse_content_range) {
                Some((start, total)) if start == from => Ok(Some(total)),
                _ => Err(registry.bad_answer("a 206 for another range than was asked for")),
            }
        }
        StatusCode::RANGE_NOT_SATISFIABLE => Err(registry.bad_answer("a blob shorter than it was")),
        status => Err(registry.bad_answer(&format!("HTTP {}", status.as_u16()))),
    }
}

/// The length told in the header, which a HEAD tells as well.
pub(crate) fn content_length(response: &Response) -> Option<u64> {
    response
        .headers()
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// `bytes 10-99/100` to `(10, 100)`; a length that is not told is of no use.
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end, total): (u64, u64, u64) = (
        start.trim().parse().ok()?,
        end.trim().parse().ok()?,
        total.trim().parse().ok()?,
    );
    (start <= end && end < total).then_some((start, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_read_strictly() {
        let cases = [
            ("bytes 10-99/100", Some((10, 100))),
            ("bytes 0-0/1", Some((0, 1))),
            ("bytes 10-99/*", None),
            ("bytes */100", None),
            ("bytes 99-10/100", None),
            ("bytes 10-100/100", None),
            ("10-99/100", None),
            ("bytes 18446744073709551616-1/2", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }
}
