//! From a configuration to an agent that serves, and back: bind all, then start all, then drain.
//!
//! Not for: anything that an agent does while it runs.

mod admission;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal_daemon::admin::{Admin, AdminSection};
use shoal_daemon::bind::BindError;
use shoal_daemon::config::ConfigError;
use shoal_daemon::data_dir::{DataDir, DataDirError};
use shoal_link::{Acceptor, Credentials, Endpoint, EndpointOptions, Identity, IdentityError};
use shoal_peer::store::disk::OsDisk;
use shoal_peer::store::{Store, StoreError, StoreOptions};
use shoal_peer::{Handle, PeerOptions, Seeder};
use shoal_proto::{CallerKey, JoinToken, Role};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::mirror::Mirror;
use crate::mirror::name::RegistryName;
use crate::status;

/// How long answers under way may go on after the shutdown was asked for.
const DRAIN_GRACE: Duration = Duration::from_secs(20);
/// A runtime that does not run for this long is given up: a closed port beats a hung one.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the bound port is unknown: {0}")]
    LocalAddr(io::Error),
    #[error(transparent)]
    Metrics(#[from] shoal_daemon::metrics::MetricsError),
    #[error("the system gives no random bytes")]
    NoRandomness,
    #[error("{0}; stop what uses the port, or set `peers.listen` (SHOAL_PEERS_LISTEN)")]
    Peers(#[from] shoal_link::BindError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Token(#[from] ConfigError),
    #[error("cannot start the watchdog: {0}")]
    Watchdog(io::Error),
}

/// Why the join token cannot be used; a configuration error.
#[derive(Debug, thiserror::Error)]
enum TokenRefusal {
    #[error("cluster.join_token_file {}: {source}; copy `join-token` from the data folder of a tracker or an origin", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cluster.join_token_file {}: not a join token; copy `join-token` from the data folder of a tracker or an origin", path.display())]
    Malformed { path: PathBuf },
}

/// An agent that runs, without its admin port: what a process and a test have in common.
#[derive(Debug)]
pub struct Agent {
    handle: Handle,
    mirror: Arc<Mirror>,
    registry_addr: SocketAddr,
    bound_addrs: Vec<(RegistryName, SocketAddr)>,
    peers_addr: SocketAddr,
    joining: admission::Joining,
}

/// Runs an agent until `shutdown`: binds everything, then serves, then drains.
///
/// # Errors
/// What could not be had at the start.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), AgentError> {
    let metrics = shoal_daemon::metrics::install(env!("CARGO_PKG_VERSION"))?;
    let admin_port = Admin::bind(&AdminSection {
        listen: config.admin_listen,
    })
    .await?;
    let tasks = TaskTracker::new();
    let agent = Agent::start(config, None, &shutdown, &tasks).await?;
    let _watchdog = shoal_daemon::watchdog::start(STALL_LIMIT).map_err(AgentError::Watchdog)?;
    let (mirror, handle) = (Arc::clone(&agent.mirror), agent.handle.clone());
    let listens = Arc::new(agent.listens());
    // Ready without peers and without a tracker: what is on this node is served, and the rest falls through.
    let admin = Admin::new("shoal-agent", env!("CARGO_PKG_VERSION"), metrics).status(move || {
        status::snapshot(Arc::clone(&mirror), handle.clone(), Arc::clone(&listens))
    });
    tasks.spawn(admin.serve(admin_port, shutdown.clone()));
    shoal_daemon::watchdog::say_ready();
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        refused = agent.joining.refusal() => {
            shutdown.cancel();
            Err(AgentError::Token(ConfigError::invalid(None, &refused)))
        }
    };
    shoal_daemon::shutdown::drain(&tasks, DRAIN_GRACE).await;
    if let Err(error) = agent.handle.store().close() {
        tracing::warn!(%error, "the store could not be closed; it is recovered at the next start");
    }
    outcome
}

impl Agent {
    /// Binds and starts everything but the admin port, as tasks of `tasks` that end after `shutdown`. With a `seeder`,
    /// the agent is its own origin: for tests of the mirror that need no cluster.
    ///
    /// # Errors
    /// What could not be had.
    pub async fn start(
        config: Config,
        seeder: Option<Arc<dyn Seeder>>,
        shutdown: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Self, AgentError> {
        let token = read_token(config.join_token_file.as_deref())?;
        let data_dir = DataDir::open(&config.data_dir)?;
        let identity = Identity::load_or_create(&data_dir.identity())?;
        let ports = Ports::bind(&config).await?;
        let mut options = peer_options(&config, identity, token);
        let seeded = seeder.is_some();
        options.seeder = seeder;
        let endpoint_options = EndpointOptions::new(
            config.peers_listen,
            options.identity.clone(),
            options.credentials.clone(),
        );
        let endpoint: (Endpoint, Acceptor) = Endpoint::bind(endpoint_options)?;
        let peers_addr = endpoint.0.local_addr().map_err(AgentError::LocalAddr)?;
        let joining = admission::Joining {
            endpoint: endpoint.0.clone(),
            credentials: options.credentials.clone(),
            token: options.join_token.clone(),
            zone: options.zone.clone(),
            trackers: options.trackers.clone(),
        };
        let store = open_store(&config, data_dir.path()).await?;
        let handle = shoal_peer::start(endpoint, store, options, shutdown.clone(), tasks);
        let callers = CallerKey::new(shoal_link::random_bytes().ok_or(AgentError::NoRandomness)?);
        let mirror = Mirror::new(
            handle.clone(),
            config.registries,
            config.stale_if_error,
            callers,
        );
        let mirror = Arc::new(if seeded { mirror.seeded() } else { mirror });
        let Ports {
            registry,
            registry_addr,
            bound,
        } = ports;
        let serve = |listener, bound| {
            let serving =
                Arc::clone(&mirror).serve(listener, bound, shutdown.clone(), tasks.clone());
            tasks.spawn(serving);
        };
        serve(registry, None);
        let mut bound_addrs = Vec::new();
        for (registry, addr, listener) in bound {
            bound_addrs.push((registry.clone(), addr));
            serve(listener, Some(registry));
        }
        tracing::info!(%registry_addr, %peers_addr, peer = %handle.me(), "the agent serves");
        Ok(Self {
            handle,
            mirror,
            registry_addr,
            bound_addrs,
            peers_addr,
            joining,
        })
    }

    /// The member of swarms inside it.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Where clients ask.
    #[must_use]
    pub fn registry_addr(&self) -> SocketAddr {
        self.registry_addr
    }

    /// The ports that stand for one registry each.
    #[must_use]
    pub fn bound_addrs(&self) -> &[(RegistryName, SocketAddr)] {
        &self.bound_addrs
    }

    /// Where peers reach it.
    #[must_use]
    pub fn peers_addr(&self) -> SocketAddr {
        self.peers_addr
    }

    fn listens(&self) -> Vec<String> {
        let bound = self
            .bound_addrs
            .iter()
            .map(|(registry, addr)| format!("{addr} ({registry} alone)"));
        std::iter::once(self.registry_addr.to_string())
            .chain(bound)
            .collect()
    }
}

/// The TCP ports that clients ask, bound.
struct Ports {
    registry: TcpListener,
    registry_addr: SocketAddr,
    bound: Vec<(RegistryName, SocketAddr, TcpListener)>,
}

impl Ports {
    async fn bind(config: &Config) -> Result<Self, AgentError> {
        let registry =
            shoal_daemon::bind::tcp("the registry", "registry.listen", config.registry_listen)
                .await?;
        let registry_addr = registry.local_addr().map_err(AgentError::LocalAddr)?;
        let mut bound = Vec::new();
        for entry in &config.bound_listeners {
            let listener = shoal_daemon::bind::tcp("one registry", "listen", entry.address).await?;
            let addr = listener.local_addr().map_err(AgentError::LocalAddr)?;
            bound.push((entry.registry.clone(), addr, listener));
        }
        Ok(Self {
            registry,
            registry_addr,
            bound,
        })
    }
}

fn peer_options(config: &Config, identity: Identity, token: Option<JoinToken>) -> PeerOptions {
    let mut keys: Vec<_> = token.iter().map(JoinToken::cluster).collect();
    keys.extend(
        config
            .public_keys
            .iter()
            .filter(|key| token.as_ref().is_none_or(|token| token.cluster() != **key)),
    );
    if token.is_none() {
        tracing::warn!(
            "no cluster.join_token_file: this agent serves what it holds and joins no cluster"
        );
    }
    let mut options = PeerOptions::new(
        Role::Agent,
        config.zone.clone(),
        identity,
        Credentials::new(keys, None),
    );
    // Different for each agent and the same after a restart, which is all that is asked of it.
    options.seed = options
        .identity
        .peer_id()
        .as_bytes()
        .iter()
        .fold(0, |seed: u64, byte| seed.rotate_left(7) ^ u64::from(*byte));
    options.join_token = token;
    options.trackers.clone_from(&config.trackers);
    options.buffer_budget_bytes = config.buffer_budget_bytes;
    options
}

fn read_token(path: Option<&Path>) -> Result<Option<JoinToken>, ConfigError> {
    let Some(path) = path else { return Ok(None) };
    let refused = |reason: TokenRefusal| ConfigError::invalid(None, &reason);
    let text = fs::read_to_string(path).map_err(|source| {
        refused(TokenRefusal::Read {
            path: path.to_owned(),
            source,
        })
    })?;
    match text.trim().parse() {
        Ok(token) => Ok(Some(token)),
        Err(_) => Err(refused(TokenRefusal::Malformed {
            path: path.to_owned(),
        })),
    }
}

async fn open_store(config: &Config, dir: &Path) -> Result<Store, AgentError> {
    let mut options = StoreOptions::new(dir);
    options.quota_bytes = config.quota_bytes;
    options.free_floor_bytes = config.free_floor_bytes;
    let (store, report) =
        shoal_peer::pool::run(move || Store::open(options, Arc::new(OsDisk))).await?;
    tracing::info!(?report, "the store is open");
    Ok(store)
}
