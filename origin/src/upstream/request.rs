//! One request to a registry, up to the response's headers: authorization, redirects, retries, pauses.
//!
//! For: every request of this process that leaves the cluster. Not for: bodies (that is `pull`), or how long a
//! transfer may take.
//!
//! Invariants: an `Authorization` is attached for one host, port and scheme, and to no other; every URL is checked by
//! the guard before it is asked; the whole of it, with token, redirects and retries, ends within the deadline; a URL
//! that a redirect named is never kept, logged or told.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use tokio::time::Instant;

use super::Registry;
use super::auth::{Authorization, Standing, TokenKey};
use super::caller::challenge_of;
use super::error::UpstreamError;
use super::guard::{GuardError, PrivateName, same_origin};
use super::limit::{self, Backoff, Headroom};

/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 10;
/// Attempts for one request where a repetition may help.
const ATTEMPTS_MAX: usize = 4;

/// What is asked of a registry.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) repository: &'a str,
    /// Behind `/v2/<repository>/`: `blobs/sha256:…`, `manifests/…`, `tags/list?n=2`.
    pub(crate) path: String,
    pub(crate) accept: &'static str,
    pub(crate) standing: Standing,
    /// First byte wanted, when not the first of all.
    pub(crate) from: u64,
    /// The byte behind the last one wanted, when that is not the last of all.
    pub(crate) until: Option<u64>,
}

/// How one attempt ended, when not in a response.
enum Attempt {
    Final(UpstreamError),
    /// The way there may have expired: ask the registry again, at once.
    Expired(UpstreamError),
    /// A pause may help.
    Passing(UpstreamError),
}

impl From<UpstreamError> for Attempt {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Unavailable { .. } => Self::Passing(error),
            _ => Self::Final(error),
        }
    }
}

impl Registry {
    /// Asks, and answers with a response of 200, 206 or 416.
    ///
    /// # Errors
    /// After the last attempt, or at once where a repetition cannot help.
    pub(crate) async fn call(&self, call: &Call<'_>) -> Result<Response, UpstreamError> {
        let started = Instant::now();
        if let Some(retry_after) = self.circuit(call.standing).pause(started) {
            return Err(UpstreamError::Throttled {
                registry: self.name().to_owned(),
                retry_after,
            });
        }
        let deadline = started + self.timeouts.header;
        let result = match tokio::time::timeout_at(deadline, self.attempts(call, deadline)).await {
            Ok(result) => result,
            Err(_) => Err(self.unavailable("no answer in time")),
        };
        metrics::histogram!("shoal_upstream_duration_seconds").record(started.elapsed());
        result
    }

    async fn attempts(
        &self,
        call: &Call<'_>,
        deadline: Instant,
    ) -> Result<Response, UpstreamError> {
        let mut backoff = Backoff::new(self.timeouts.backoff, self.timeouts.backoff * 8);
        let mut expired = false;
        for attempt in 1.. {
            let error = match self.attempt(call).await {
                Ok(response) => return Ok(response),
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Expired(error)) if expired => return Err(error),
                Err(Attempt::Expired(error)) => {
                    expired = true;
                    error
                }
                Err(Attempt::Passing(error)) => {
                    let pause = backoff.pause();
                    if attempt >= ATTEMPTS_MAX || Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                    error
                }
            };
            metrics::counter!("shoal_upstream_retries_total").increment(1);
            tracing::debug!(registry = self.name(), attempt, %error, "asking again");
        }
        Err(self.unavailable("no attempt was made"))
    }

    async fn attempt(&self, call: &Call<'_>) -> Result<Response, Attempt> {
        let mut url = self.url_of(call)?;
        let mut challenged = false;
        let mut redirects = 0;
        loop {
            let home = same_origin(&url, &self.base);
            let key = self.token_key(&url, home, call);
            let caller = self.caller.as_ref().filter(|_| home);
            let authorization = match caller {
                Some(caller) => caller.authorization(),
                None => {
                    let ready = self.auth.ready(&key).await;
                    ready.map_err(|error| self.heeded(call, error))?
                }
            };
            let response = self.send(call, url.clone(), authorization.as_ref()).await?;
            // A caller's own limit is its own business, and a redirect's target has another one.
            if home
                && self.caller.is_none()
                && let Some(headroom) = Headroom::told(response.headers())
            {
                headroom.show(self.label(), call.standing);
            }
            if home
                && caller.is_none()
                && authorization.is_none()
                && !response.status().is_client_error()
            {
                self.auth.wants_nothing(&key.place);
            }
            match response.status() {
                StatusCode::OK
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::RANGE_NOT_SATISFIABLE => return Ok(response),
                // The caller's to answer, not ours.
                StatusCode::UNAUTHORIZED if caller.is_some() => {
                    let told = self.challenges(home, response).await?;
                    return Err(Attempt::Final(challenged_by(self.name(), &told)));
                }
                StatusCode::UNAUTHORIZED if !challenged => {
                    // A second refusal of a fresh answer is final.
                    challenged = true;
                    let told = self.challenges(home, response).await?;
                    self.auth
                        .answer(&key, &url, home, authorization.as_ref(), &told)
                        .await
                        .map_err(|error| self.heeded(call, error))?;
                }
                status if status.is_redirection() => {
                    redirects += 1;
                    if redirects > REDIRECTS_MAX {
                        return Err(Attempt::Final(self.bad_answer("more than 10 redirects")));
                    }
                    url = self.redirected(&url, &response)?;
                    challenged = false;
                }
                status => return Err(self.failure(call, status, home, &response)),
            }
        }
    }

    /// The headers that say what is wanted: those of the 401, or, where that says nothing (Google's registries), those
    /// of the registry's `/v2/`.
    async fn challenges(&self, home: bool, response: Response) -> Result<HeaderMap, UpstreamError> {
        if home && !response.headers().contains_key(header::WWW_AUTHENTICATE) {
            return self.ping().await;
        }
        Ok(response.headers().clone())
    }

    /// The headers of the registry's `/v2/`, asked for without any authorization.
    pub(super) async fn ping(&self) -> Result<HeaderMap, UpstreamError> {
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/v2/"));
        self.check(&url)?;
        let sent = self.client.get(url).send();
        let sent = tokio::time::timeout(self.timeouts.header, sent).await;
        let result = sent.map_err(|_| self.unavailable("no answer in time"))?;
        self.count(result.as_ref().map(Response::status).ok());
        let response = result.map_err(|error| self.transport_error(&error))?;
        Ok(response.headers().clone())
    }

    /// An error of a token server, with the pause kept that it asked for.
    fn heeded(&self, call: &Call<'_>, error: UpstreamError) -> UpstreamError {
        if let UpstreamError::Throttled { retry_after, .. } = &error {
            self.trip(call.standing, *retry_after);
        }
        error
    }

    fn trip(&self, standing: Standing, pause: Duration) {
        self.circuit(standing).trip(pause, Instant::now());
        tracing::warn!(
            registry = self.name(),
            ?standing,
            ?pause,
            "upstream limits our rate"
        );
    }

    fn count(&self, status: Option<StatusCode>) {
        let code = status.map_or_else(|| "error".to_owned(), |status| status.as_u16().to_string());
        metrics::counter!("shoal_upstream_requests_total", "registry" => self.label(), "code" => code).increment(1);
    }

    async fn send(
        &self,
        call: &Call<'_>,
        url: Url,
        authorization: Option<&Authorization>,
    ) -> Result<Response, UpstreamError> {
        let mut request = self
            .client
            .request(call.method.clone(), url)
            .header(header::ACCEPT, HeaderValue::from_static(call.accept))
            .header(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static("identity"),
            );
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization.header.clone());
        }
        match call.until {
            Some(until) => {
                let range = format!("bytes={}-{}", call.from, until.saturating_sub(1));
                request = request.header(header::RANGE, range);
            }
            None if call.from > 0 => {
                request = request.header(header::RANGE, format!("bytes={}-", call.from));
            }
            None => {}
        }
        let result = request.send().await;
        self.count(result.as_ref().map(Response::status).ok());
        result.map_err(|error| self.transport_error(&error))
    }

    fn url_of(&self, call: &Call<'_>) -> Result<Url, UpstreamError> {
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        let (path, query) = match call.path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (call.path.as_str(), None),
        };
        url.set_path(&format!("{base}/v2/{}/{path}", call.repository));
        url.set_query(query);
        self.check(&url)?;
        Ok(url)
    }

    fn token_key(&self, url: &Url, home: bool, call: &Call<'_>) -> TokenKey {
        TokenKey {
            place: url.origin().ascii_serialization(),
            standing: if home {
                call.standing
            } else {
                Standing::Anonymous
            },
            repository: call.repository.to_owned(),
        }
    }

    fn redirected(&self, from: &Url, response: &Response) -> Result<Url, UpstreamError> {
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|location| location.to_str().ok());
        let location = location.ok_or_else(|| self.bad_answer("a redirect to nowhere"))?;
        let mut url = from
            .join(location)
            .map_err(|_| self.bad_answer("a redirect to something that is no URL"))?;
        url.set_fragment(None);
        self.check(&url)?;
        Ok(url)
    }

    fn check(&self, url: &Url) -> Result<(), UpstreamError> {
        self.guard.check(url).map_err(|error| match error {
            GuardError::Private => UpstreamError::ForbiddenAddress {
                registry: self.name().to_owned(),
                host: url.host_str().unwrap_or_default().to_owned(),
            },
            GuardError::Malformed | GuardError::PlainHttp => {
                self.bad_answer(&format!("it leads to an address that is {error}"))
            }
        })
    }

    fn failure(
        &self,
        call: &Call<'_>,
        status: StatusCode,
        home: bool,
        response: &Response,
    ) -> Attempt {
        let registry = self.name().to_owned();
        let pause = limit::retry_after(response.headers(), SystemTime::now());
        match status {
            StatusCode::TOO_MANY_REQUESTS => {
                let retry_after = pause.unwrap_or(limit::PAUSE_DEFAULT);
                self.trip(call.standing, retry_after);
                Attempt::Final(UpstreamError::Throttled {
                    registry,
                    retry_after,
                })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if home => {
                Attempt::Final(UpstreamError::Denied {
                    registry,
                    status: status.as_u16(),
                })
            }
            // The signed URL has run out: only the registry can give another.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST if !home => {
                Attempt::Expired(self.unavailable(&format!(
                    "the place it redirects to answers HTTP {}",
                    status.as_u16()
                )))
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Attempt::Final(UpstreamError::NotFound { registry })
            }
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                if let Some(retry_after) =
                    pause.filter(|_| status == StatusCode::SERVICE_UNAVAILABLE)
                {
                    self.trip(call.standing, retry_after);
                }
                Attempt::Passing(self.unavailable(&format!("HTTP {}", status.as_u16())))
            }
            status => Attempt::Final(self.bad_answer(&format!("HTTP {}", status.as_u16()))),
        }
    }

    fn transport_error(&self, error: &reqwest::Error) -> UpstreamError {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(cause) = source {
            if let Some(private) = cause.downcast_ref::<PrivateName>() {
                return UpstreamError::ForbiddenAddress {
                    registry: self.name().to_owned(),
                    host: private.0.clone(),
                };
            }
            source = cause.source();
        }
        self.unavailable(describe(error))
    }
}

/// A 401 to a caller's credential, with all that the registry said to it.
fn challenged_by(registry: &str, headers: &HeaderMap) -> UpstreamError {
    let registry = registry.to_owned();
    match challenge_of(headers) {
        Some(challenge) => UpstreamError::Challenged {
            registry,
            challenge,
        },
        None => UpstreamError::Denied {
            registry,
            status: StatusCode::UNAUTHORIZED.as_u16(),
        },
    }
}

/// What happened, without the URL that it happened to.
pub(crate) fn describe(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "it cannot be reached (address, network or TLS)"
    } else if error.is_body() || error.is_decode() {
        "it broke off"
    } else {
        "the connection failed"
    }
}

/// The pauses and deadlines that hold for one registry.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// Until the headers of the final response, over all redirects and attempts. Below the 30 s after which a client
    /// gives a mirror up.
    pub header: Duration,
    /// Between two reads of a body.
    pub idle: Duration,
    /// First pause between attempts.
    pub backoff: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            header: Duration::from_secs(20),
            idle: Duration::from_secs(30),
            backoff: Duration::from_millis(250),
        }
    }
}
