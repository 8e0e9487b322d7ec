//! The tracker's configuration: the file as written (`RawConfig`), and what the tracker runs with (`Config`).
//!
//! All checks stand in one `TryFrom`, so that `--check-config` and a start refuse the same things. Secrets come by
//! file path and are read at the start, not here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_daemon::config::Span;
use shoal_daemon::telemetry::LogSection;
use shoal_proto::{ClusterPublicKey, Zone};

/// `tracker.toml`, every key with its default.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// This tracker's private key, and the secrets of a development cluster.
    pub data_dir: PathBuf,
    pub tracker: TrackerSection,
    pub admin: AdminSection,
    pub cluster: ClusterSection,
    pub log: LogSection,
}

/// `[tracker]`: what peers connect to.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrackerSection {
    pub listen: SocketAddr,
    /// How often each peer announces.
    pub announce_interval: Span,
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
    /// The cluster's secret key; absent, a development cluster's is made in the data folder.
    pub key_file: Option<PathBuf>,
    /// Tokens by which agents are let in, one a line; absent, one is made in the data folder.
    pub join_token_file: Option<PathBuf>,
    /// Where this tracker stands; may be empty.
    pub zone: String,
    /// Cluster keys to accept beside our own, for the time of a key rotation.
    pub public_keys: Vec<String>,
    /// How long a membership that this process signs is good.
    pub membership_life: Span,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/shoal/tracker"),
            tracker: TrackerSection::default(),
            admin: AdminSection::default(),
            cluster: ClusterSection::default(),
            log: LogSection::default(),
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

impl Default for AdminSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9052)),
        }
    }
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self {
            key_file: None,
            join_token_file: None,
            zone: String::new(),
            public_keys: Vec::new(),
            membership_life: Span::secs(24 * 3600),
        }
    }
}

/// What the tracker runs with: checked, and of the types that cannot be wrong.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub announce_interval: Duration,
    pub admin_listen: SocketAddr,
    pub key_file: Option<PathBuf>,
    pub join_token_file: Option<PathBuf>,
    pub zone: Zone,
    pub public_keys: Vec<ClusterPublicKey>,
    pub membership_life: Duration,
    pub log: LogSection,
}

/// What is wrong with a configuration that parsed, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigRefusal {
    #[error("tracker.announce_interval = {0} is out of bounds; give between 1s and 10m")]
    AnnounceInterval(Span),
    #[error("data_dir = {} is not an absolute path; write it from the root on", .0.display())]
    DataDir(PathBuf),
    #[error("cluster.membership_life = {0} is too short; give at least 5m")]
    MembershipLife(Span),
    #[error(
        "cluster.public_keys: `{0}` is not a cluster key; copy it from the second part of a join token"
    )]
    PublicKey(String),
    #[error("cluster.zone = `{0}` is not a zone; use at most 64 letters, digits and . _ / -")]
    Zone(String),
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigRefusal;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigRefusal> {
        if !raw.data_dir.is_absolute() {
            return Err(ConfigRefusal::DataDir(raw.data_dir));
        }
        let interval = raw.tracker.announce_interval;
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&interval.duration()) {
            return Err(ConfigRefusal::AnnounceInterval(interval));
        }
        if raw.cluster.membership_life.duration() < Duration::from_secs(300) {
            return Err(ConfigRefusal::MembershipLife(raw.cluster.membership_life));
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
            listen: raw.tracker.listen,
            announce_interval: interval.duration(),
            admin_listen: raw.admin.listen,
            key_file: raw.cluster.key_file,
            join_token_file: raw.cluster.join_token_file,
            zone,
            public_keys,
            membership_life: raw.cluster.membership_life.duration(),
            log: raw.log,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tracker.toml");
        std::fs::write(&path, text).unwrap();
        let raw: RawConfig = shoal_daemon::config::load(Some(&path), std::iter::empty())
            .map_err(|error| error.to_string())?;
        Config::try_from(raw).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_a_whole_configuration() {
        let config = check("").unwrap();
        assert_eq!(config.listen, "0.0.0.0:7052".parse().unwrap());
        assert_eq!(config.admin_listen, "127.0.0.1:9052".parse().unwrap());
    }

    #[test]
    fn wrong_values_are_refused_with_what_to_do() {
        let cases = [
            ("data_dir = 'here'", "absolute"),
            ("dat_dir = '/x'", "dat_dir"),
            ("[tracker]\nannounce_interval = '1ms'", "between 1s"),
            ("[cluster]\nzone = 'a b'", "64 letters"),
            ("[cluster]\npublic_keys = ['x']", "join token"),
            ("[cluster]\nmembership_life = '1s'", "5m"),
        ];
        for (text, expected) in cases {
            let error = check(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
