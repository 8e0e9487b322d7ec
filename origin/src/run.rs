//! From a configuration to an origin that serves, and back: bind all, then start all, then drain.
//!
//! Not for: anything that an origin does while it runs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shoal_daemon::admin::{Admin, AdminSection};
use shoal_daemon::data_dir::DataDir;
use shoal_link::{Acceptor, Endpoint, EndpointOptions, Identity};
use shoal_peer::store::disk::OsDisk;
use shoal_peer::store::{Store, StoreError, StoreOptions};
use shoal_peer::{Handle, PeerOptions};
use shoal_proto::{CallerKey, Role, limits};
use shoal_tracker::cluster::{
    ClusterError, ClusterSecrets, OwnMembership, SecretFiles, random_bytes,
};
use shoal_tracker::{Tracker, TrackerError, TrackerOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::WallClock;
use crate::config::Config;
use crate::ingest::Ingest;
use crate::listings::Listings;
use crate::manifests::{Freshness, Manifests};
use crate::policy::Policy;
use crate::seeder::UpstreamSeeder;
use crate::server::{self, RegistryServer};
use crate::upstream::{Timeouts, Upstreams};

/// How long tasks may take to end.
const DRAIN_GRACE: Duration = Duration::from_secs(15);
/// A runtime that does not run for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Why an origin does not run.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// A port for HTTP.
    #[error(transparent)]
    Bind(#[from] shoal_daemon::bind::BindError),
    /// The cluster's secrets.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The data folder.
    #[error(transparent)]
    DataDir(#[from] shoal_daemon::data_dir::DataDirError),
    /// The key.
    #[error(transparent)]
    Identity(#[from] shoal_link::IdentityError),
    /// The system does not say which port was bound.
    #[error("the bound port is unknown: {0}")]
    LocalAddr(io::Error),
    /// The metrics.
    #[error(transparent)]
    Metrics(#[from] shoal_daemon::metrics::MetricsError),
    /// The peers' port.
    #[error("{0}; stop what uses the port, or set `peers.listen`")]
    Peers(#[from] shoal_link::BindError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The embedded tracker.
    #[error(transparent)]
    Tracker(#[from] TrackerError),
    /// The watchdog's thread.
    #[error("cannot start the watchdog: {0}")]
    Watchdog(io::Error),
}

/// An origin that runs, without its admin port: what a process and a test have in common.
#[derive(Clone, Debug)]
pub struct Origin {
    handle: Handle,
    pub(crate) ingest: Ingest,
    tracker: Option<Tracker>,
    secrets: ClusterSecrets,
    registry_addr: SocketAddr,
    peers_addr: SocketAddr,
    upstreams: Arc<Upstreams>,
}

/// Runs an origin until `shutdown`: binds everything, then serves.
///
/// # Errors
/// What could not be had at the start.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), OriginError> {
    let metrics = shoal_daemon::metrics::install(env!("CARGO_PKG_VERSION"))?;
    let admin_port = Admin::bind(&AdminSection {
        listen: config.admin_listen,
    })
    .await?;
    let tasks = TaskTracker::new();
    let origin = Origin::start(config, &shutdown, &tasks).await?;
    let _watchdog = shoal_daemon::watchdog::start(STALL_LIMIT).map_err(OriginError::Watchdog)?;
    let (tracker, status) = (origin.tracker.clone(), origin);
    let admin = Admin::new("shoal-origin", env!("CARGO_PKG_VERSION"), metrics)
        .check("embedded tracker", move || match &tracker {
            Some(tracker) if !tracker.is_running() => Err("its tasks have ended".to_owned()),
            _ => Ok(()),
        })
        .status(move || {
            let origin = status.clone();
            async move { origin.status().await }
        });
    tasks.spawn(admin.serve(admin_port, shutdown.clone()));
    shoal_daemon::watchdog::say_ready();
    shutdown.cancelled().await;
    shoal_daemon::shutdown::drain(&tasks, DRAIN_GRACE).await;
    Ok(())
}

impl Origin {
    /// Binds and starts everything but the admin port, as tasks of `tasks` that end after `shutdown`.
    ///
    /// # Errors
    /// What could not be had.
    pub async fn start(
        config: Config,
        shutdown: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, OriginError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let identity = Identity::load_or_create(&data_dir.identity())?;
        let files = SecretFiles {
            data_dir: data_dir.path(),
            key_file: config.key_file.as_deref(),
            join_token_file: config.join_token_file.as_deref(),
        };
        let secrets = ClusterSecrets::load_or_create(&files)?;
        let listener =
            shoal_daemon::bind::tcp("the registry", "registry.listen", config.registry_listen)
                .await?;
        let registry_addr = listener.local_addr().map_err(OriginError::LocalAddr)?;
        let tracker = match config.trackers.is_empty() {
            true => Some(embedded_tracker(
                &config,
                &secrets,
                data_dir.path(),
                shutdown,
                tasks,
            )?),
            false => None,
        };
        let mut options = peer_options(&config, identity.clone(), &secrets)?;
        if let Some(tracker) = &tracker {
            options.trackers = vec![beside(tracker.local_addr()).to_string()];
        }
        let endpoint = bind_peers(&config, &options)?;
        let peers_addr = endpoint.0.local_addr().map_err(OriginError::LocalAddr)?;
        let store = open_store(&config, data_dir.path()).await?;

        let own = own_membership(&config, &identity);
        tasks.spawn(
            secrets
                .clone()
                .renew(own, options.credentials.clone(), shutdown.clone()),
        );
        let upstreams = Upstreams::new(
            config.upstreams.clone(),
            config.allow_any_upstream,
            timeouts(&config),
        );
        let upstreams = Arc::new(upstreams.through(config.proxies.clone()));
        let callers = CallerKey::new(random_bytes()?);
        let seeder = Arc::new(seeding(
            &config, &upstreams, callers, &store, &identity, tasks, shutdown,
        ));
        let ingest = seeder.ingest.clone();
        options.seeder = Some(Arc::<UpstreamSeeder>::clone(&seeder));
        let handle = shoal_peer::start(endpoint, store, options, shutdown.clone(), tasks);
        ingest.attach(handle.clone());
        start_registry(
            RegistryServer {
                handle: handle.clone(),
                seeder,
            },
            listener,
            shutdown,
            tasks,
        );
        tracing::info!(%registry_addr, %peers_addr, peer = %handle.me(), "the origin serves");
        Ok(Self {
            handle,
            ingest,
            tracker,
            secrets,
            registry_addr,
            peers_addr,
            upstreams,
        })
    }

    /// The member of swarms inside it.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The cluster's secrets, with which others can be let in.
    #[must_use]
    pub fn secrets(&self) -> &ClusterSecrets {
        &self.secrets
    }

    /// Where its `/v2/` is.
    #[must_use]
    pub fn registry_addr(&self) -> SocketAddr {
        self.registry_addr
    }

    /// Where peers reach it.
    #[must_use]
    pub fn peers_addr(&self) -> SocketAddr {
        self.peers_addr
    }

    /// Where the tracker inside it is, when it has one.
    #[must_use]
    pub fn tracker_addr(&self) -> Option<SocketAddr> {
        self.tracker.as_ref().map(Tracker::local_addr)
    }

    pub(crate) async fn status(&self) -> serde_json::Value {
        let peer = self.handle.status().await;
        let tracker = match &self.tracker {
            Some(tracker) => Some(tracker.status().await),
            None => None,
        };
        json!({
            "cluster": self.secrets.public().to_string(),
            "downloads": self.ingest.running(),
            "peer": peer,
            "registries": self.upstreams.listed().collect::<Vec<_>>(),
            "tracker": tracker,
        })
    }
}

fn start_registry(
    server: RegistryServer,
    listener: TcpListener,
    shutdown: &CancellationToken,
    tasks: &TaskTracker,
) {
    tasks.spawn(server::serve(server, listener, shutdown.clone()));
}

fn seeding(
    config: &Config,
    upstreams: &Arc<Upstreams>,
    callers: CallerKey,
    store: &Store,
    identity: &Identity,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> UpstreamSeeder {
    let policy = Policy::new(Arc::clone(upstreams), callers);
    let ingest = Ingest::new(
        Arc::clone(upstreams),
        policy.clone(),
        store.clone(),
        identity.origin_key(),
        config.pull.downloads,
        tasks.clone(),
        shutdown.clone(),
    );
    let freshness = Freshness {
        fresh_for: config.pull.tag_freshness.duration(),
        stale_if_error: config.pull.stale_if_error.duration(),
    };
    let manifests = Manifests::new(
        Arc::clone(upstreams),
        policy.clone(),
        store.clone(),
        freshness,
        WallClock::default(),
        tasks.clone(),
    );
    let listings = Listings::new(policy.clone(), tasks.clone());
    UpstreamSeeder {
        policy,
        ingest,
        listings,
        manifests,
    }
}

fn own_membership(config: &Config, identity: &Identity) -> OwnMembership {
    OwnMembership {
        peer: identity.peer_id(),
        role: Role::Origin,
        zone: config.zone.clone(),
        life: config.membership_life,
    }
}

fn peer_options(
    config: &Config,
    identity: Identity,
    secrets: &ClusterSecrets,
) -> Result<PeerOptions, OriginError> {
    let credentials = secrets.credentials(&own_membership(config, &identity), &config.public_keys);
    let mut options = PeerOptions::new(Role::Origin, config.zone.clone(), identity, credentials);
    options.trackers.clone_from(&config.trackers);
    options.advertise = config.advertise;
    options.buffer_budget_bytes = config.buffer_budget_bytes;
    options.seed = u64::from_le_bytes(random_bytes()?);
    Ok(options)
}

fn bind_peers(config: &Config, options: &PeerOptions) -> Result<(Endpoint, Acceptor), OriginError> {
    let mut endpoint = EndpointOptions::new(
        config.peers_listen,
        options.identity.clone(),
        options.credentials.clone(),
    );
    endpoint.links_max = limits::SERVICE_LINKS_MAX;
    Ok(Endpoint::bind(endpoint)?)
}

async fn open_store(config: &Config, dir: &Path) -> Result<Store, OriginError> {
    let mut options = StoreOptions::new(dir);
    options.quota_bytes = config.quota_bytes;
    options.free_floor_bytes = config.free_floor_bytes;
    let (store, report) =
        shoal_peer::pool::run(move || Store::open(options, Arc::new(OsDisk))).await?;
    tracing::info!(?report, "the store is open");
    Ok(store)
}

/// The tracker that a cluster without one of its own has inside its origin; another member, with another key.
fn embedded_tracker(
    config: &Config,
    secrets: &ClusterSecrets,
    dir: &Path,
    shutdown: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<Tracker, OriginError> {
    let options = TrackerOptions {
        listen: config.tracker_listen,
        identity: Identity::load_or_create(&dir.join("tracker-identity.key"))?,
        secrets: secrets.clone(),
        zone: config.zone.clone(),
        membership_life: config.membership_life,
        public_keys: config.public_keys.clone(),
        announce_interval: config.announce_interval,
    };
    Ok(Tracker::start(options, shutdown, tasks)?)
}

/// Where a process beside it reaches a port that may listen on all addresses.
fn beside(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port()))
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::from((Ipv6Addr::LOCALHOST, addr.port()))
        }
        _ => addr,
    }
}

fn timeouts(config: &Config) -> Timeouts {
    Timeouts {
        connect: config.pull.connect_timeout.duration(),
        header: config.pull.header_timeout.duration(),
        idle: config.pull.idle_timeout.duration(),
        ..Timeouts::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_on_all_addresses_is_reached_over_loopback() {
        let cases = [
            ("0.0.0.0:7", "127.0.0.1:7"),
            ("[::]:7", "[::1]:7"),
            ("10.0.0.1:7", "10.0.0.1:7"),
        ];
        for (bound, expected) in cases {
            assert_eq!(beside(bound.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
