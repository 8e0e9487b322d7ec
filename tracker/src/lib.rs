//! The introducer of peers: who takes part in which swarm, whom to name to whom, who is let in, which origins live.
//!
//! A process of its own ([`run`]) or inside an origin ([`Tracker::start`]). The decisions are in [`directory`], which
//! does no I/O and which the simulator runs as it is; the rest gives it links, time and a door.
//!
//! Not here: blobs, pieces, manifests. A tracker never sees a byte of an image, and everything it knows may be lost at
//! any time (I9): peers tell it again within one announce interval, and go on with each other meanwhile.

pub mod cluster;
pub mod config;
pub mod directory;

mod admit;
mod desk;
mod expiry;
mod handout;
mod metrics;
mod origins;
mod server;

use std::io;
use std::time::Duration;

use shoal_daemon::admin::{Admin, AdminSection};
use shoal_daemon::data_dir::DataDir;
use shoal_link::Identity;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use server::{Tracker, TrackerOptions};

use crate::cluster::{ClusterSecrets, SecretFiles};
use crate::config::Config;

/// How long tasks may take to end.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// A runtime that does not run for this long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// Why a tracker does not run.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// The admin port.
    #[error(transparent)]
    Admin(#[from] shoal_daemon::bind::BindError),
    /// The peers' port.
    #[error("{0}; stop what uses the port, or set `tracker.listen`")]
    Bind(#[from] shoal_link::BindError),
    /// The cluster's secrets.
    #[error(transparent)]
    Cluster(#[from] cluster::ClusterError),
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
    /// The watchdog's thread.
    #[error("cannot start the watchdog: {0}")]
    Watchdog(io::Error),
}

/// Runs a tracker until `shutdown`: binds everything, then serves.
///
/// # Errors
/// What could not be had at the start.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), TrackerError> {
    let metrics = shoal_daemon::metrics::install(env!("CARGO_PKG_VERSION"))?;
    let data_dir = DataDir::open(&config.data_dir)?;
    let admin_port = Admin::bind(&AdminSection {
        listen: config.admin_listen,
    })
    .await?;
    let files = SecretFiles {
        data_dir: data_dir.path(),
        key_file: config.key_file.as_deref(),
        join_token_file: config.join_token_file.as_deref(),
    };
    let secrets = ClusterSecrets::load_or_create(&files)?;
    let options = TrackerOptions {
        listen: config.listen,
        identity: Identity::load_or_create(&data_dir.identity())?,
        secrets,
        zone: config.zone,
        membership_life: config.membership_life,
        public_keys: config.public_keys,
        announce_interval: config.announce_interval,
    };
    let tasks = TaskTracker::new();
    let tracker = Tracker::start(options, &shutdown, &tasks)?;
    let _watchdog = shoal_daemon::watchdog::start(STALL_LIMIT).map_err(TrackerError::Watchdog)?;
    let (ready, status) = (tracker.clone(), tracker);
    let admin = Admin::new("shoal-tracker", env!("CARGO_PKG_VERSION"), metrics)
        .check("peers port", move || {
            if ready.is_running() {
                Ok(())
            } else {
                Err("its tasks have ended".to_owned())
            }
        })
        .status(move || {
            let tracker = status.clone();
            async move { tracker.status().await }
        });
    tasks.spawn(admin.serve(admin_port, shutdown.clone()));
    shoal_daemon::watchdog::say_ready();
    shutdown.cancelled().await;
    shoal_daemon::shutdown::drain(&tasks, DRAIN_GRACE).await;
    Ok(())
}
