//! Whole origins against scripted registries: real store, real HTTP, real QUIC, on loopback.

mod blobs;
mod cluster;
mod lists;
mod private;
mod real;
mod secrets;
mod tags;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use shoal_daemon::config::ByteSize;
use shoal_daemon::telemetry::LogSection;
use shoal_proto::Digest;
use shoal_proto::wire::Source;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Origin;
use crate::config::{Config, RawConfig, UpstreamEntry};
use crate::upstream::scripted::{Scripted, install_provider};

/// Nothing in here takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// An origin in a folder, until it is stopped.
pub(crate) struct Stage {
    pub(crate) origin: Origin,
    client: reqwest::Client,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Stage {
    pub(crate) async fn start(dir: &Path, upstream: UpstreamEntry) -> Self {
        Self::start_with(dir, vec![upstream]).await
    }

    async fn start_with(dir: &Path, upstream: Vec<UpstreamEntry>) -> Self {
        Self::start_as(config(dir, upstream)).await
    }

    async fn start_as(config: Config) -> Self {
        install_provider();
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let origin = within(Origin::start(config, &shutdown, &tasks))
            .await
            .unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .unwrap();
        Self {
            origin,
            client,
            shutdown,
            tasks,
        }
    }

    async fn get(&self, path: &str) -> Response {
        within(self.client.get(self.url(path)).send())
            .await
            .unwrap()
    }

    async fn get_range(&self, path: &str, range: &str) -> Response {
        let request = self.client.get(self.url(path)).header("range", range);
        within(request.send()).await.unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.origin.registry_addr())
    }

    /// Ends it as a signal would, and waits until nothing of it is left.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        within(self.tasks.wait()).await;
    }
}

fn config(dir: &Path, upstream: Vec<UpstreamEntry>) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut raw = RawConfig {
        data_dir: dir.to_owned(),
        registries: Vec::new(),
        upstream,
        log: LogSection::default(),
        ..RawConfig::default()
    };
    raw.registry.listen = any;
    raw.peers.listen = any;
    raw.admin.listen = any;
    raw.tracker.listen = any;
    raw.store.free_floor = ByteSize::new(0);
    Config::try_from(raw).unwrap()
}

fn source(scripted: &Scripted) -> Source {
    Source {
        registry: scripted.addr.to_string(),
        repository: "team/app".into(),
        authorization: None,
    }
}

fn blob_path(scripted: &Scripted, digest: &Digest) -> String {
    format!("/v2/team/app/blobs/{digest}?ns={}", scripted.addr)
}

async fn body(response: Response) -> Bytes {
    within(response.bytes()).await.unwrap()
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("within the deadline")
}
