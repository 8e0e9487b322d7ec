//! The admin port: is it alive, is it ready, what has it counted, what is it doing.
//!
//! `/livez` (the runtime answers), `/readyz` and its alias `/healthz` (every named check passes; `?verbose` lists
//! them), `/metrics`, `/status` (JSON) and `/` (the same for people, with no asset from elsewhere).
//!
//! Laws: loopback unless the operator says otherwise; nothing here changes anything; every connection carries one
//! request, has a deadline for its headers and one for the whole, and there are only so many at once, so that no
//! visitor can take the daemon's files or memory. Not here: what the checks look at, what the status says.

mod page;
mod serve;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::bind::{self, BindError};
use crate::metrics::MetricsHandle;

/// A check or the status takes no longer, or the answer is 503.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// `[admin]` of every daemon; each has its own default port.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AdminSection {
    /// Where health, metrics and status are served. Loopback by default: the port knows no passwords.
    pub listen: SocketAddr,
}

/// A future without a name.
type Answer<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;
type Status = Arc<dyn Fn() -> Answer<serde_json::Value> + Send + Sync>;

/// What the admin port of one process serves.
#[derive(Clone)]
pub struct Admin {
    name: &'static str,
    version: &'static str,
    started: Instant,
    metrics: MetricsHandle,
    checks: Vec<(&'static str, Check)>,
    status: Status,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Admin {
    /// The admin port of process `name`, without checks: ready from the start, its status empty.
    #[must_use]
    pub fn new(name: &'static str, version: &'static str, metrics: MetricsHandle) -> Self {
        Self {
            name,
            version,
            started: Instant::now(),
            metrics,
            checks: Vec::new(),
            status: Arc::new(|| {
                Box::pin(async { serde_json::Value::Object(serde_json::Map::new()) })
            }),
        }
    }

    /// Adds a named check: `/readyz` fails while it returns a reason. Called on each request, so it must be quick
    /// and must not block; it reads state that others keep.
    #[must_use]
    pub fn check(
        mut self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push((name, Arc::new(check)));
        self
    }

    /// Sets what `/status` answers under `"status"`; no secret belongs in it.
    #[must_use]
    pub fn status<F>(mut self, status: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = serde_json::Value> + Send + 'static,
    {
        self.status = Arc::new(move || Box::pin(status()));
        self
    }

    /// Opens the port of `[admin] listen`.
    pub async fn bind(section: &AdminSection) -> Result<TcpListener, BindError> {
        bind::tcp("the admin port", "admin.listen", section.listen).await
    }

    /// Serves until `shutdown`; open answers are given a moment to end. Also keeps the metrics from piling up.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let metrics = self.metrics.clone();
        serve::run(listener, self.router(), metrics, shutdown).await;
    }

    fn router(self) -> Router {
        Router::new()
            .route("/", get(index))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/healthz", get(ready))
            .route("/metrics", get(render_metrics))
            .route("/status", get(status))
            .with_state(Arc::new(self))
    }
}

const NO_STORE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

async fn index(State(admin): State<Arc<Admin>>) -> Response {
    ([NO_STORE], Html(page::html(admin.name))).into_response()
}

async fn ready(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    let mut text = String::new();
    let mut failed = false;
    for (name, check) in &admin.checks {
        let outcome = check();
        failed |= outcome.is_err();
        match outcome {
            Ok(()) if verbose => text.push_str(&format!("[+] {name}: ok\n")),
            Ok(()) => {}
            Err(reason) => text.push_str(&format!("[-] {name}: {reason}\n")),
        }
    }
    text.push_str(if failed { "not ready\n" } else { "ok\n" });
    let code = if failed {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    (code, [NO_STORE], text).into_response()
}

async fn render_metrics(State(admin): State<Arc<Admin>>) -> Response {
    let form = (
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    );
    ([form, NO_STORE], admin.metrics.render()).into_response()
}

#[derive(Serialize)]
struct StatusBody<'a> {
    name: &'a str,
    version: &'a str,
    ready: bool,
    /// Since the process began to set itself up.
    uptime_s: u64,
    status: serde_json::Value,
}

async fn status(State(admin): State<Arc<Admin>>) -> Response {
    let Ok(status) = tokio::time::timeout(ANSWER_DEADLINE, (admin.status)()).await else {
        let text = "the status was not had in time\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [NO_STORE], text).into_response();
    };
    let body = StatusBody {
        name: admin.name,
        version: admin.version,
        ready: admin.checks.iter().all(|(_, check)| check().is_ok()),
        uptime_s: admin.started.elapsed().as_secs(),
        status,
    };
    ([NO_STORE], Json(body)).into_response()
}

#[cfg(test)]
mod tests;
