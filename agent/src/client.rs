//! A small HTTP client for this machine's agent: what the commands (`pull`, `preheat`, `status`, `doctor`) ask with.
//!
//! Plain HTTP to one address that the configuration names; it follows no redirect and leaves no other way out.
//! Every wait has a deadline; a body read whole is capped.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// A started agent answers on loopback at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Why a question to the agent was not answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "no agent answers on {address}: {reason}; start it, or check `registry.listen` and `admin.listen`"
    )]
    Unreachable { address: SocketAddr, reason: String },
    #[error(
        "the agent on {address} did not answer {path} within {within:?}; `shoal-agent doctor` looks closer"
    )]
    Late {
        address: SocketAddr,
        path: String,
        within: Duration,
    },
    #[error("the agent on {address} broke off its answer to {path}: {reason}")]
    Broken {
        address: SocketAddr,
        path: String,
        reason: String,
    },
    #[error("`{0}` cannot be put into a request")]
    Path(String),
}

/// Asks one address.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<HttpConnector, Empty<Bytes>>,
    address: SocketAddr,
    within: Duration,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    /// `within` bounds the time to an answer's headers, and between parts of its body.
    pub fn new(address: SocketAddr, within: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        connector.set_nodelay(true);
        Self {
            pool: Pool::builder(TokioExecutor::new()).build(connector),
            address,
            within,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request without a body; resolves when the headers are there.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, AskError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .body(Empty::new())
            .map_err(|_| AskError::Path(path.to_owned()))?;
        request.headers_mut().extend(headers);
        match timeout(self.within, self.pool.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let reason = reason_of(&error);
                Err(AskError::Unreachable {
                    address: self.address,
                    reason,
                })
            }
            Err(_) => Err(self.late(path)),
        }
    }

    /// Reads a whole answer of at most `body_bytes_max` bytes.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body_bytes_max: usize,
    ) -> Result<Answer, AskError> {
        let (parts, body) = self.send(method, path, headers).await?.into_parts();
        let whole = timeout(self.within, Limited::new(body, body_bytes_max).collect());
        let body = match whole.await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(error)) => return Err(self.broken(path, error.to_string())),
            Err(_) => return Err(self.late(path)),
        };
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    /// The next part of a body, or `None` at its end.
    pub async fn next_part(
        &self,
        path: &str,
        body: &mut Incoming,
    ) -> Result<Option<Bytes>, AskError> {
        loop {
            match timeout(self.within, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => {}
                },
                Ok(Some(Err(error))) => return Err(self.broken(path, error.to_string())),
                Err(_) => return Err(self.late(path)),
            }
        }
    }

    fn late(&self, path: &str) -> AskError {
        AskError::Late {
            address: self.address,
            path: path.to_owned(),
            within: self.within,
        }
    }

    fn broken(&self, path: &str, reason: String) -> AskError {
        AskError::Broken {
            address: self.address,
            path: path.to_owned(),
            reason,
        }
    }
}

/// The innermost cause, which names what the system said.
fn reason_of(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
