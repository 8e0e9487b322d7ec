//! Whether the port that containerd will be pointed at is really ours.
//!
//! A file written before the agent answers, or while a stranger has its port, breaks every pull on the node; so an
//! answer with our own header comes first.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::time::{Instant, sleep};

use crate::client::{AskError, Client};
use crate::mirror::reply::AGENT_HEADER;

const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(200);
const BODY_BYTES_MAX: usize = 64 << 10;

/// Why containerd must not be pointed at an address.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{0}; --wait gives it time, --force writes the files anyway")]
    Silent(#[from] AskError),
    #[error(
        "{0} is answered by another program, not by a Shoal agent; free the port or set `registry.listen`"
    )]
    Stranger(SocketAddr),
}

/// Asks `/v2/` once; the name the agent answers by.
pub(crate) async fn identify(address: SocketAddr) -> Result<String, ProbeError> {
    let client = Client::new(address, ANSWER_WITHIN);
    let answer = client
        .ask(Method::GET, "/v2/", HeaderMap::new(), BODY_BYTES_MAX)
        .await;
    let answer = match answer {
        Err(AskError::Broken { .. }) => return Err(ProbeError::Stranger(address)),
        answer => answer?,
    };
    match answer
        .headers
        .get(AGENT_HEADER)
        .and_then(|value| value.to_str().ok())
    {
        Some(name) if answer.status.is_success() => Ok(name.to_owned()),
        _ => Err(ProbeError::Stranger(address)),
    }
}

/// Asks until the agent answers or `wait` is over.
pub(crate) async fn await_agent(address: SocketAddr, wait: Duration) -> Result<String, ProbeError> {
    let end = Instant::now() + wait;
    loop {
        match identify(address).await {
            Err(_) if Instant::now() + PAUSE < end => sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
}
