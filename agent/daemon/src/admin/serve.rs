//! Carrying the admin port's answers: bounded connections, each with one request and two deadlines.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::metrics::{MetricsHandle, UPKEEP_INTERVAL};

/// A probe, a scraper and a few people; more is a mistake or an attack.
pub(super) const CONNECTIONS_MAX: usize = 32;

/// The request's headers arrive within this, or the connection is closed.
pub(super) const HEADERS_DEADLINE: Duration = Duration::from_secs(5);

/// The whole of a connection, also for a reader that takes its answer by drops.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(20);

/// After a failed accept (no free file, mostly), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Open answers may end within this once the daemon shuts down.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

pub(super) async fn run(
    listener: TcpListener,
    router: Router,
    metrics: MetricsHandle,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        // Cancel-safe: accept, tick and join_next lose nothing when another arm wins.
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = upkeep.tick() => metrics.upkeep(),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                        continue; // dropped: closed at once
                    };
                    let router = router.clone();
                    connections.spawn(async move {
                        serve_one(stream, router).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // Whoever is slower is cut off when the set is dropped.
    let _ = tokio::time::timeout(CLOSE_GRACE, all).await;
}

async fn serve_one(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_DEADLINE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A visitor that goes away or is too slow concerns nobody.
    let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
}
