//! The origin's configuration: the file as written (`RawConfig`), and what the origin runs with (`Config`).
//!
//! All checks stand in one `TryFrom`, so that `--check-config` and a start refuse the same things. Passwords come by
//! file path and are read when they are needed, never kept here.

pub mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_daemon::config::{ByteSize, Span};
use shoal_daemon::telemetry::LogSection;
use shoal_proto::wire::PeerAddress;
use shoal_proto::{ClusterPublicKey, Zone};

use crate::upstream::EnvProxies;

pub use self::upstream::{
    Access, Defaults, RepositoryPattern, UpstreamConfig, UpstreamEntry, UpstreamRefusal,
};

/// Registries that are asked without being configured: what anybody may read there is shared.
const REGISTRIES_DEFAULT: [&str; 7] = [
    "docker.io",
    "ghcr.io",
    "quay.io",
    "registry.k8s.io",
    "gcr.io",
    "mcr.microsoft.com",
    "public.ecr.aws",
];

/// `origin.toml`, every key with its default.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// Blobs, manifests and this origin's private keys.
    pub data_dir: PathBuf,
    /// Public registries that are asked anonymously, as in image references.
    pub registries: Vec<String>,
    /// Ask any registry with a public address that an agent names.
    pub allow_any_upstream: bool,
    /// A Docker `config.json` for the registries that are `shared` and name no credential of their own.
    pub auth_file: Option<PathBuf>,
    /// A folder in the form of Docker's `certs.d`, with certificates by registry.
    pub certs_dir: Option<PathBuf>,
    pub registry: ListenSection,
    pub peers: PeersSection,
    pub admin: AdminSection,
    pub cluster: ClusterSection,
    pub tracker: TrackerSection,
    pub store: StoreSection,
    pub pull: PullSection,
    pub log: LogSection,
    /// Registries that need more said about them than their name.
    pub upstream: Vec<UpstreamEntry>,
}

/// `[registry]`: this origin's own `/v2/`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSection {
    pub listen: SocketAddr,
}

/// `[peers]`: the exchange of pieces.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeersSection {
    pub listen: SocketAddr,
    /// Where agents reach this origin, as `ip:port`, when it is not where it comes from.
    pub advertise: Option<SocketAddr>,
    /// Payload that may be in memory at once, over all transfers and readers.
    pub buffers: ByteSize,
}

/// `[admin]`: health, metrics, status.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSection {
    pub listen: SocketAddr,
}

/// `[cluster]`: whom we belong to.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSection {
    /// `host:port` of each tracker; none: this origin runs one itself.
    pub trackers: Vec<String>,
    /// The cluster's secret key; absent, a development cluster's is made in the data folder.
    pub key_file: Option<PathBuf>,
    /// Tokens by which agents are let in, one a line; absent, one is made in the data folder.
    pub join_token_file: Option<PathBuf>,
    /// Where this origin stands; may be empty.
    pub zone: String,
    /// Cluster keys to accept beside our own, for the time of a key rotation.
    pub public_keys: Vec<String>,
    /// How long a membership that this process signs is good.
    pub membership_life: Span,
}

/// `[tracker]`: the tracker that an origin runs when none is configured.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrackerSection {
    pub listen: SocketAddr,
    /// How often each peer announces.
    pub announce_interval: Span,
}

/// `[store]`: the disk.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// Bytes that blobs may take; without it, all but the floor.
    pub quota: Option<ByteSize>,
    /// Bytes that stay free on the disk whatever happens.
    pub free_floor: ByteSize,
}

/// `[pull]`: how upstreams are asked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PullSection {
    /// Blobs brought in at once, over all registries.
    pub downloads: usize,
    /// For a connection to a registry.
    pub connect_timeout: Span,
    /// Until a registry's headers are here, over all redirects and attempts.
    pub header_timeout: Span,
    /// Between two reads of a body.
    pub idle_timeout: Span,
    /// A tag is asked of its registry at most this often.
    pub tag_freshness: Span,
    /// How old a tag's last known digest may be while its registry cannot be asked.
    pub stale_if_error: Span,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/shoal/origin"),
            registries: REGISTRIES_DEFAULT.map(str::to_owned).into(),
            allow_any_upstream: false,
            auth_file: None,
            certs_dir: None,
            registry: ListenSection::default(),
            peers: PeersSection::default(),
            admin: AdminSection::default(),
            cluster: ClusterSection::default(),
            tracker: TrackerSection::default(),
            store: StoreSection::default(),
            pull: PullSection::default(),
            log: LogSection::default(),
            upstream: Vec::new(),
        }
    }
}

impl Default for ListenSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 5051)),
        }
    }
}

impl Default for PeersSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7051)),
            advertise: None,
            buffers: ByteSize::mib(64),
        }
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9051)),
        }
    }
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self {
            trackers: Vec::new(),
            key_file: None,
            join_token_file: None,
            zone: String::new(),
            public_keys: Vec::new(),
            membership_life: Span::secs(24 * 3600),
        }
    }
}

impl Default for TrackerSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7052)),
            announce_interval: Span::secs(30),
        }
    }
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            quota: None,
            free_floor: ByteSize::gib(2),
        }
    }
}

impl Default for PullSection {
    fn default() -> Self {
        Self {
            downloads: 16,
            connect_timeout: Span::secs(5),
            header_timeout: Span::secs(20),
            idle_timeout: Span::secs(30),
            tag_freshness: Span::secs(30),
            stale_if_error: Span::secs(24 * 3600),
        }
    }
}

/// What the origin runs with: checked, and of the types that cannot be wrong.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub upstreams: Vec<UpstreamConfig>,
    pub allow_any_upstream: bool,
    /// Those of the environment; filled in by `main`, since only it reads the environment.
    pub proxies: EnvProxies,
    pub registry_listen: SocketAddr,
    pub peers_listen: SocketAddr,
    pub advertise: Option<PeerAddress>,
    pub buffer_budget_bytes: usize,
    pub admin_listen: SocketAddr,
    pub trackers: Vec<String>,
    pub key_file: Option<PathBuf>,
    pub join_token_file: Option<PathBuf>,
    pub zone: Zone,
    pub public_keys: Vec<ClusterPublicKey>,
    pub membership_life: Duration,
    pub tracker_listen: SocketAddr,
    pub announce_interval: Duration,
    pub quota_bytes: Option<u64>,
    pub free_floor_bytes: u64,
    pub pull: PullSection,
    pub log: LogSection,
}

/// What is wrong with a configuration that parsed, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigRefusal {
    #[error("peers.buffers = {0} is out of bounds; give between 8MiB and 4GiB")]
    Buffers(ByteSize),
    #[error("data_dir = {} is not an absolute path; write it from the root on", .0.display())]
    DataDir(PathBuf),
    #[error("pull.downloads = {0} is out of bounds; give between 1 and 256")]
    Downloads(usize),
    #[error(
        "pull.header_timeout = {0} is too long: clients give a mirror up after 30s; give at most 20s"
    )]
    HeaderTimeout(Span),
    #[error("cluster.membership_life = {0} is too short; give at least 5m")]
    MembershipLife(Span),
    #[error(
        "no registries and no [[upstream]]: nothing could be fetched; list at least one, such as docker.io"
    )]
    NoUpstream,
    #[error(
        "cluster.public_keys: `{0}` is not a cluster key; copy it from the second part of a join token"
    )]
    PublicKey(String),
    #[error(
        "cluster.trackers: `{0}` is not host:port; write for example shoal-tracker.shoal.svc:7052"
    )]
    Tracker(String),
    #[error(transparent)]
    Upstream(#[from] UpstreamRefusal),
    #[error("cluster.zone = `{0}` is not a zone; use at most 64 letters, digits and . _ / -")]
    Zone(String),
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigRefusal;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigRefusal> {
        if !raw.data_dir.is_absolute() {
            return Err(ConfigRefusal::DataDir(raw.data_dir));
        }
        if !(1..=256).contains(&raw.pull.downloads) {
            return Err(ConfigRefusal::Downloads(raw.pull.downloads));
        }
        if raw.pull.header_timeout.duration() > Duration::from_secs(20) {
            return Err(ConfigRefusal::HeaderTimeout(raw.pull.header_timeout));
        }
        if raw.cluster.membership_life.duration() < Duration::from_secs(300) {
            return Err(ConfigRefusal::MembershipLife(raw.cluster.membership_life));
        }
        if let Some(bad) = raw
            .cluster
            .trackers
            .iter()
            .find(|tracker| !is_host_port(tracker))
        {
            return Err(ConfigRefusal::Tracker(bad.clone()));
        }
        let defaults = Defaults {
            auth_file: raw.auth_file,
            certs_dir: raw.certs_dir,
        };
        let upstreams = upstream::merge(&raw.registries, raw.upstream, &defaults)?;
        if upstreams.is_empty() && !raw.allow_any_upstream {
            return Err(ConfigRefusal::NoUpstream);
        }
        let zone = raw
            .cluster
            .zone
            .parse()
            .map_err(|_| ConfigRefusal::Zone(raw.cluster.zone.clone()))?;
        let keys = raw.cluster.public_keys.into_iter();
        let public_keys = keys
            .map(|text| text.parse().map_err(|_| ConfigRefusal::PublicKey(text)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            data_dir: raw.data_dir,
            upstreams,
            allow_any_upstream: raw.allow_any_upstream,
            proxies: EnvProxies::default(),
            registry_listen: raw.registry.listen,
            peers_listen: raw.peers.listen,
            advertise: raw.peers.advertise.map(|addr| PeerAddress {
                ip: Some(addr.ip()),
                port: addr.port(),
            }),
            buffer_budget_bytes: buffer_budget(raw.peers.buffers)?,
            admin_listen: raw.admin.listen,
            trackers: raw.cluster.trackers,
            key_file: raw.cluster.key_file,
            join_token_file: raw.cluster.join_token_file,
            zone,
            public_keys,
            membership_life: raw.cluster.membership_life.duration(),
            tracker_listen: raw.tracker.listen,
            announce_interval: raw.tracker.announce_interval.duration(),
            quota_bytes: raw.store.quota.map(ByteSize::bytes),
            free_floor_bytes: raw.store.free_floor.bytes(),
            pull: raw.pull,
            log: raw.log,
        })
    }
}

fn buffer_budget(size: ByteSize) -> Result<usize, ConfigRefusal> {
    let bounds = ByteSize::mib(8).bytes()..=ByteSize::gib(4).bytes();
    let budget = usize::try_from(size.bytes())
        .ok()
        .filter(|_| bounds.contains(&size.bytes()));
    budget.ok_or(ConfigRefusal::Buffers(size))
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("origin.toml");
        std::fs::write(&path, text).unwrap();
        let raw: RawConfig = shoal_daemon::config::load(Some(&path), std::iter::empty())
            .map_err(|error| error.to_string())?;
        Config::try_from(raw).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_a_whole_configuration() {
        let config = check("").unwrap();
        assert_eq!(config.registry_listen, "127.0.0.1:5051".parse().unwrap());
        assert_eq!(config.peers_listen, "0.0.0.0:7051".parse().unwrap());
        assert_eq!(config.tracker_listen, "0.0.0.0:7052".parse().unwrap());
        assert!(
            config
                .upstreams
                .iter()
                .any(|upstream| upstream.registry == "docker.io")
        );
        assert!(
            config
                .upstreams
                .iter()
                .all(|upstream| !upstream.plain_http() && !upstream.private_addresses)
        );
    }

    #[test]
    fn wrong_values_are_refused_with_what_to_do() {
        let cases = [
            ("data_dir = 'here'", "absolute"),
            ("dat_dir = '/x'", "dat_dir"),
            ("registries = []", "docker.io"),
            ("[pull]\ndownloads = 0", "between 1 and 256"),
            ("[pull]\nheader_timeout = '60s'", "at most 20s"),
            ("[peers]\nbuffers = '1KiB'", "between 8MiB"),
            ("[cluster]\ntrackers = ['nowhere']", "host:port"),
            ("[cluster]\nzone = 'a b'", "64 letters"),
            ("[cluster]\npublic_keys = ['x']", "join token"),
            ("[cluster]\nmembership_life = '1s'", "5m"),
            (
                "[[upstream]]\nregistry = 'a.example'\nregistri = 'x'",
                "registri",
            ),
        ];
        for (text, expected) in cases {
            let error = check(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
