//! The agent's configuration: the file as written (`RawConfig`), and what the agent runs with (`Config`).
//!
//! All checks stand in one `TryFrom`, so that `--check-config` and a start refuse the same things. Secrets come by
//! file path and are read at the start, not here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_daemon::config::{ByteSize, ConfigError, Span};
use shoal_daemon::telemetry::LogSection;
use shoal_proto::{ClusterPublicKey, Zone};

use crate::mirror::name::RegistryName;
use crate::mirror::registries::{Registries, RegistriesError};

/// `agent.toml`, every key with its default.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// Blobs, manifests and this agent's private key.
    pub data_dir: PathBuf,
    /// The upstream registries that are served, as in image references; `http://` before those without TLS.
    pub registries: Vec<String>,
    /// Further names of listed registries.
    pub aliases: BTreeMap<String, String>,
    pub registry: RegistrySection,
    /// Further ports, each bound to one upstream, for clients that cannot name it.
    pub listen: Vec<ListenEntry>,
    pub peers: PeersSection,
    pub admin: AdminSection,
    pub cluster: ClusterSection,
    pub store: StoreSection,
    pub log: LogSection,
}

/// `[registry]`: what clients ask.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySection {
    pub listen: SocketAddr,
    /// How old a tag's last known digest may be while no origin can be asked.
    pub stale_if_error: Span,
}

/// One `[[listen]]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListenEntry {
    pub address: SocketAddr,
    pub registry: String,
}

/// `[peers]`: the exchange of pieces.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeersSection {
    pub listen: SocketAddr,
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
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSection {
    /// `host:port` of each tracker; names are looked up anew at each attempt.
    pub trackers: Vec<String>,
    /// A file that holds the token by which this agent is let in.
    pub join_token_file: Option<PathBuf>,
    /// Where this node stands, for example its availability zone; may be empty.
    pub zone: String,
    /// Cluster keys to accept beside the token's, for the time of a key rotation.
    pub public_keys: Vec<String>,
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

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/shoal/agent"),
            registries: ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io"]
                .map(str::to_owned)
                .into(),
            aliases: BTreeMap::new(),
            registry: RegistrySection::default(),
            listen: Vec::new(),
            peers: PeersSection::default(),
            admin: AdminSection::default(),
            cluster: ClusterSection::default(),
            store: StoreSection::default(),
            log: LogSection::default(),
        }
    }
}

impl Default for RegistrySection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 5050)),
            stale_if_error: Span::secs(24 * 60 * 60),
        }
    }
}

impl Default for PeersSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7050)),
            buffers: ByteSize::mib(64),
        }
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9050)),
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

/// What the agent runs with: checked, and of the types that cannot be wrong.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub registries: Registries,
    pub registry_listen: SocketAddr,
    pub stale_if_error: Duration,
    pub bound_listeners: Vec<BoundListener>,
    pub peers_listen: SocketAddr,
    pub buffer_budget_bytes: usize,
    pub admin_listen: SocketAddr,
    pub trackers: Vec<String>,
    pub join_token_file: Option<PathBuf>,
    pub zone: Zone,
    pub public_keys: Vec<ClusterPublicKey>,
    pub quota_bytes: Option<u64>,
    pub free_floor_bytes: u64,
    pub log: LogSection,
}

/// A registry port that serves one upstream alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundListener {
    pub address: SocketAddr,
    pub registry: RegistryName,
}

/// What is wrong with a configuration that parsed, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigRefusal {
    #[error("peers.buffers = {0} is out of bounds; give between 8MiB and 4GiB")]
    Buffers(ByteSize),
    #[error("data_dir = {} is not an absolute path; write it from the root on", .0.display())]
    DataDir(PathBuf),
    #[error("listen: registry `{0}` is not in `registries`; add it there or name another")]
    ListenRegistry(String),
    #[error("no registries: nothing would be served; list at least one, such as docker.io")]
    NoRegistries,
    #[error("{first} and {second} both listen on {address}; give one of them another port")]
    PortTwice {
        first: &'static str,
        second: &'static str,
        address: SocketAddr,
    },
    #[error(
        "cluster.public_keys: `{0}` is not a cluster key; copy it from the first part of a join token"
    )]
    PublicKey(String),
    #[error("{0}")]
    Registries(#[from] RegistriesError),
    #[error(
        "cluster.trackers: `{0}` is not host:port; write for example shoal-tracker.shoal.svc:7052"
    )]
    Tracker(String),
    #[error(
        "cluster.join_token_file is set and cluster.trackers is empty: nobody could be asked to be let in; list a tracker"
    )]
    TrackersMissing,
    #[error("cluster.zone = `{0}` is not a zone; use at most 64 letters, digits and . _ / -")]
    Zone(String),
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigRefusal;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigRefusal> {
        if !raw.data_dir.is_absolute() {
            return Err(ConfigRefusal::DataDir(raw.data_dir));
        }
        let aliases = raw
            .aliases
            .iter()
            .map(|(alias, target)| (alias.as_str(), target.as_str()));
        let registries = Registries::try_new(raw.registries.iter().map(String::as_str), aliases)?;
        if registries.iter().next().is_none() {
            return Err(ConfigRefusal::NoRegistries);
        }
        let bound_listeners = raw
            .listen
            .into_iter()
            .map(|entry| match registries.resolve(&entry.registry) {
                Some(registry) => Ok(BoundListener {
                    address: entry.address,
                    registry,
                }),
                None => Err(ConfigRefusal::ListenRegistry(entry.registry)),
            })
            .collect::<Result<Vec<_>, _>>()?;
        check_ports(raw.registry.listen, raw.admin.listen, &bound_listeners)?;
        if let Some(bad) = raw
            .cluster
            .trackers
            .iter()
            .find(|tracker| !is_host_port(tracker))
        {
            return Err(ConfigRefusal::Tracker(bad.clone()));
        }
        if raw.cluster.join_token_file.is_some() && raw.cluster.trackers.is_empty() {
            return Err(ConfigRefusal::TrackersMissing);
        }
        let zone = raw
            .cluster
            .zone
            .parse()
            .map_err(|_| ConfigRefusal::Zone(raw.cluster.zone.clone()))?;
        let public_keys = raw
            .cluster
            .public_keys
            .into_iter()
            .map(|text| text.parse().map_err(|_| ConfigRefusal::PublicKey(text)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            data_dir: raw.data_dir,
            registries,
            registry_listen: raw.registry.listen,
            stale_if_error: raw.registry.stale_if_error.duration(),
            bound_listeners,
            peers_listen: raw.peers.listen,
            buffer_budget_bytes: buffer_budget(raw.peers.buffers)?,
            admin_listen: raw.admin.listen,
            trackers: raw.cluster.trackers,
            join_token_file: raw.cluster.join_token_file,
            zone,
            public_keys,
            quota_bytes: raw.store.quota.map(ByteSize::bytes),
            free_floor_bytes: raw.store.free_floor.bytes(),
            log: raw.log,
        })
    }
}

impl Config {
    /// Where a client on this machine reaches the registry port.
    pub fn registry_address(&self) -> SocketAddr {
        reachable(self.registry_listen)
    }

    /// Where a client on this machine reaches the admin port.
    pub fn admin_address(&self) -> SocketAddr {
        reachable(self.admin_listen)
    }
}

/// Reads and checks a file, and the environment, as a start does.
pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    let raw: RawConfig =
        shoal_daemon::config::load(path, shoal_daemon::config::process_environment())?;
    Config::try_from(raw).map_err(|reason| ConfigError::invalid(path, &reason))
}

fn buffer_budget(size: ByteSize) -> Result<usize, ConfigRefusal> {
    let inside = (ByteSize::mib(8)..=ByteSize::gib(4)).contains(&size);
    usize::try_from(size.bytes())
        .ok()
        .filter(|_| inside)
        .ok_or(ConfigRefusal::Buffers(size))
}

fn check_ports(
    registry: SocketAddr,
    admin: SocketAddr,
    bound: &[BoundListener],
) -> Result<(), ConfigRefusal> {
    let mut all = vec![("registry.listen", registry), ("admin.listen", admin)];
    all.extend(
        bound
            .iter()
            .map(|listener| ("listen.address", listener.address)),
    );
    for (at, (second, address)) in all.iter().enumerate() {
        if let Some((first, _)) = all[..at]
            .iter()
            .find(|(_, other)| address.port() != 0 && other == address)
        {
            return Err(ConfigRefusal::PortTwice {
                first,
                second,
                address: *address,
            });
        }
    }
    Ok(())
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut RawConfig)) -> Result<Config, ConfigRefusal> {
        let mut raw = RawConfig::default();
        change(&mut raw);
        Config::try_from(raw)
    }

    #[test]
    fn the_defaults_are_the_documented_ports() {
        let config = check(|_| {}).unwrap();
        assert_eq!(config.registry_listen.to_string(), "127.0.0.1:5050");
        assert_eq!(config.peers_listen.to_string(), "0.0.0.0:7050");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:9050");
    }

    #[test]
    fn each_mistake_is_refused_with_its_key_and_a_remedy() {
        type Change = fn(&mut RawConfig);
        let cases: &[(Change, &str)] = &[
            (|raw| raw.data_dir = "relative".into(), "data_dir"),
            (|raw| raw.registries.clear(), "registries"),
            (|raw| raw.registries.push("docker.io".into()), "twice"),
            (|raw| raw.peers.buffers = ByteSize::mib(1), "peers.buffers"),
            (
                |raw| raw.cluster.trackers = vec!["tracker".into()],
                "cluster.trackers",
            ),
            (
                |raw| raw.cluster.trackers = vec![":7052".into()],
                "cluster.trackers",
            ),
            (
                |raw| raw.cluster.join_token_file = Some("/token".into()),
                "list a tracker",
            ),
            (|raw| raw.cluster.zone = "a zone".into(), "cluster.zone"),
            (
                |raw| raw.cluster.public_keys = vec!["x".into()],
                "cluster.public_keys",
            ),
            (|raw| raw.admin.listen = raw.registry.listen, "another port"),
            (
                |raw| {
                    let address = SocketAddr::from(([127, 0, 0, 1], 5060));
                    raw.listen = vec![ListenEntry {
                        address,
                        registry: "evil.test".into(),
                    }];
                },
                "evil.test",
            ),
        ];
        for (change, part) in cases {
            let text = check(change).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn port_zero_may_be_given_more_than_once() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        check(|raw| {
            raw.registry.listen = any;
            raw.admin.listen = any;
        })
        .unwrap();
    }

    #[test]
    fn an_agent_that_listens_everywhere_is_reached_on_loopback() {
        let config =
            check(|raw| raw.registry.listen = SocketAddr::from(([0, 0, 0, 0], 5050))).unwrap();
        assert_eq!(config.registry_address().to_string(), "127.0.0.1:5050");
    }

    #[test]
    fn what_is_printed_parses_back() {
        let text = shoal_daemon::config::render(&RawConfig::default()).unwrap();
        let raw: RawConfig = toml::from_str(&text).unwrap();
        assert_eq!(shoal_daemon::config::render(&raw).unwrap(), text);
        assert!(toml::from_str::<RawConfig>("registry_ = 1").is_err());
    }
}
