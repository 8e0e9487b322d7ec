//! One request seen by operators: its metrics, its line in the log, its place in the status.
//!
//! An `Observation` lives as long as the answer, body included, and reports when it is dropped, so that a client that
//! hangs up is counted like any other. Labels come from closed sets; a credential is never here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use serde::Serialize;
use shoal_proto::limits::RECENT_REQUESTS_MAX;
use tokio::time::Instant;

use super::reply::{Failure, Fallthrough};

/// Which part of the mirror answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Handler {
    Base,
    Blob,
    Manifest,
    Other,
    Preheat,
    Referrers,
    Tags,
}

impl Handler {
    fn label(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Blob => "blob",
            Self::Manifest => "manifest",
            Self::Other => "other",
            Self::Preheat => "preheat",
            Self::Referrers => "referrers",
            Self::Tags => "tags",
        }
    }
}

/// Where the first byte of an answer came from, as far as the mirror knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstFrom {
    /// It was on this node before the request.
    Cache,
    /// Another member's word: manifests.
    Origin,
    /// The swarm brought it.
    Peer,
}

impl FirstFrom {
    fn label(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Origin => "origin",
            Self::Peer => "peer",
        }
    }
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The client went away before the end.
    ClientGone,
    Complete,
    /// We broke off.
    Cut,
    Refused,
}

/// One past request, for the status.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RequestRecord {
    pub(crate) ended_unix_ms: u64,
    pub(crate) handler: Handler,
    /// `docker.io/library/busybox`
    pub(crate) repository: String,
    /// A tag or a digest.
    pub(crate) reference: String,
    pub(crate) status: u16,
    pub(crate) outcome: Outcome,
    /// Bytes that this node held before the request.
    pub(crate) cache_bytes: u64,
    /// Bytes that came from others while it ran.
    pub(crate) swarm_bytes: u64,
    pub(crate) first_byte_ms: Option<u64>,
    pub(crate) took_ms: u64,
}

/// The last requests for blobs and manifests, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    records: Mutex<VecDeque<RequestRecord>>,
}

impl Recent {
    pub(crate) fn snapshot(&self) -> Vec<RequestRecord> {
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    fn push(&self, record: RequestRecord) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() == RECENT_REQUESTS_MAX {
            records.pop_front();
        }
        records.push_back(record);
    }
}

/// One request under way.
#[derive(Debug)]
pub(crate) struct Observation {
    recent: Arc<Recent>,
    handler: Handler,
    method: &'static str,
    repository: String,
    reference: String,
    status: StatusCode,
    outcome: Outcome,
    start: Instant,
    first_byte: Option<Duration>,
    cache_bytes: u64,
    swarm_bytes: u64,
    /// Bytes of an answer that is no blob: counted as sent, not by source.
    other_bytes: u64,
}

impl Observation {
    pub(crate) fn begin(recent: Arc<Recent>, method: &Method) -> Self {
        metrics::gauge!("shoal_http_inflight_requests").increment(1.0);
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            _ => "other",
        };
        Self {
            recent,
            handler: Handler::Other,
            method,
            repository: String::new(),
            reference: String::new(),
            status: StatusCode::OK,
            outcome: Outcome::ClientGone,
            start: Instant::now(),
            first_byte: None,
            cache_bytes: 0,
            swarm_bytes: 0,
            other_bytes: 0,
        }
    }

    pub(crate) fn about(&mut self, handler: Handler, repository: String, reference: String) {
        self.handler = handler;
        self.repository = repository;
        self.reference = reference;
    }

    pub(crate) fn handler(&mut self, handler: Handler) {
        self.handler = handler;
    }

    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    pub(crate) fn status(&mut self, status: StatusCode) {
        self.status = status;
    }

    /// The first byte of the answer's body is on its way, or all of an answer without a body.
    pub(crate) fn first_byte(&mut self, from: FirstFrom) {
        if self.first_byte.is_none() {
            let took = self.start.elapsed();
            self.first_byte = Some(took);
            metrics::histogram!("shoal_http_time_to_first_byte_seconds", "source" => from.label())
                .record(took.as_secs_f64());
        }
    }

    pub(crate) fn sent_held(&mut self, bytes: u64) {
        self.cache_bytes += bytes;
        metrics::counter!("shoal_download_bytes_total", "source" => "cache").increment(bytes);
    }

    pub(crate) fn sent_fetched(&mut self, bytes: u64) {
        self.swarm_bytes += bytes;
    }

    pub(crate) fn sent_other(&mut self, bytes: u64) {
        self.other_bytes += bytes;
    }

    pub(crate) fn complete(&mut self) {
        self.outcome = Outcome::Complete;
    }

    /// The answer is cut short of its length.
    pub(crate) fn cut(&mut self, why: &dyn std::fmt::Display) {
        self.outcome = Outcome::Cut;
        fell_through(Fallthrough::Cut);
        tracing::warn!(
            repository = self.repository,
            reference = self.reference,
            sent = self.cache_bytes + self.swarm_bytes,
            %why,
            "an answer was cut short; its client resumes, here or elsewhere"
        );
    }

    pub(crate) fn refused(&mut self, failure: &Failure) {
        self.status = failure.status;
        self.outcome = Outcome::Refused;
        fell_through(failure.reason);
        tracing::debug!(reason = failure.reason.label(), %failure, "refused");
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let took = self.start.elapsed();
        let handler = self.handler.label();
        let bytes = self.cache_bytes + self.swarm_bytes + self.other_bytes;
        metrics::gauge!("shoal_http_inflight_requests").decrement(1.0);
        metrics::counter!(
            "shoal_http_requests_total",
            "handler" => handler, "method" => self.method, "code" => code_label(self.status)
        )
        .increment(1);
        metrics::histogram!("shoal_http_request_duration_seconds", "handler" => handler)
            .record(took.as_secs_f64());
        metrics::counter!("shoal_http_response_bytes_total", "handler" => handler).increment(bytes);
        if !matches!(
            self.handler,
            Handler::Blob | Handler::Manifest | Handler::Preheat
        ) {
            return;
        }
        tracing::debug!(
            handler,
            method = self.method,
            repository = self.repository,
            reference = self.reference,
            status = self.status.as_u16(),
            outcome = ?self.outcome,
            cache_bytes = self.cache_bytes,
            swarm_bytes = self.swarm_bytes,
            first_byte_ms = self.first_byte.map(millis),
            took_ms = millis(took),
            "request"
        );
        self.recent.push(RequestRecord {
            ended_unix_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, millis),
            handler: self.handler,
            repository: std::mem::take(&mut self.repository),
            reference: std::mem::take(&mut self.reference),
            status: self.status.as_u16(),
            outcome: self.outcome,
            cache_bytes: self.cache_bytes,
            swarm_bytes: self.swarm_bytes,
            first_byte_ms: self.first_byte.map(millis),
            took_ms: millis(took),
        });
    }
}

/// Tells what the metrics of this file mean; once, at the start.
pub(crate) fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!(
        "shoal_http_requests_total",
        "Requests of container clients, by part of the mirror."
    );
    describe_histogram!(
        "shoal_http_request_duration_seconds",
        "From a request to the last byte of its answer."
    );
    describe_histogram!(
        "shoal_http_time_to_first_byte_seconds",
        "From a request to the first byte of its answer."
    );
    describe_gauge!(
        "shoal_http_inflight_requests",
        "Requests that are being answered."
    );
    describe_counter!(
        "shoal_http_response_bytes_total",
        "Bytes of bodies handed to clients."
    );
    describe_counter!(
        "shoal_pull_fallthrough_total",
        "Answers that send a client to its next host, by reason."
    );
    describe_counter!(
        "shoal_download_bytes_total",
        "Bytes by where they came from."
    );
}

fn fell_through(reason: Fallthrough) {
    metrics::counter!("shoal_pull_fallthrough_total", "reason" => reason.label()).increment(1);
}

/// The few statuses that the mirror answers.
fn code_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        206 => "206",
        400 => "400",
        401 => "401",
        404 => "404",
        405 => "405",
        416 => "416",
        503 => "503",
        _ => "other",
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_remembers_the_last_requests_for_content_and_no_more() {
        let recent = Arc::new(Recent::default());
        for at in 0..RECENT_REQUESTS_MAX + 5 {
            let mut seen = Observation::begin(Arc::clone(&recent), &Method::GET);
            seen.about(Handler::Blob, "docker.io/a".to_owned(), at.to_string());
            seen.sent_held(3);
            seen.first_byte(FirstFrom::Cache);
            seen.complete();
        }
        drop(Observation::begin(Arc::clone(&recent), &Method::GET));
        let records = recent.snapshot();
        assert_eq!(records.len(), RECENT_REQUESTS_MAX);
        assert_eq!(records[0].reference, "5");
        assert!(
            records
                .iter()
                .all(|record| record.cache_bytes == 3 && record.outcome == Outcome::Complete)
        );
        assert!(records[0].first_byte_ms.is_some());
    }

    #[test]
    fn an_answer_that_is_dropped_early_counts_as_a_client_that_left() {
        let recent = Arc::new(Recent::default());
        let mut seen = Observation::begin(Arc::clone(&recent), &Method::GET);
        seen.about(Handler::Manifest, "quay.io/a".to_owned(), "v1".to_owned());
        drop(seen);
        assert_eq!(recent.snapshot()[0].outcome, Outcome::ClientGone);
    }
}
