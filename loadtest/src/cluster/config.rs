//! The configuration files of a local cluster's processes.
//!
//! What for: the few keys that a cluster on loopback sets; all others keep their defaults. What not for: checking them
//! (the binaries do, and refuse a key that they do not know).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

/// A registry that the cluster serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegistryEntry {
    /// As in image references: `127.0.0.1:5000`, `docker.io`.
    pub registry: String,
    /// Where the origin finds it, when that is not what the name says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repositories: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

impl RegistryEntry {
    /// A registry on loopback without TLS.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            url: Some(format!("http://{address}")),
            ..Self::named(&address.to_string())
        }
    }

    /// A registry by its name in image references; `http://` in front of it means that it speaks no TLS.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let (registry, url) = match name.strip_prefix("http://") {
            Some(host) => (
                host.trim_end_matches('/'),
                Some(format!("http://{}", host.trim_end_matches('/'))),
            ),
            None => (
                name.trim_start_matches("https://").trim_end_matches('/'),
                None,
            ),
        };
        Self {
            registry: registry.to_owned(),
            url,
            access: None,
            repositories: None,
            username: None,
            password_file: None,
        }
    }

    /// As the agent's list of registries and `containerd install` spell it.
    #[must_use]
    pub fn spelled(&self) -> String {
        match &self.url {
            Some(url) if url.starts_with("http://") => format!("http://{}", self.registry),
            _ => self.registry.clone(),
        }
    }
}

/// The addresses of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub registry: SocketAddr,
    pub peers: SocketAddr,
    pub admin: SocketAddr,
    /// An agent's second registry port, bound to the first upstream, for clients that cannot name one.
    pub bound: SocketAddr,
    /// Of the tracker that an origin embeds.
    pub tracker: SocketAddr,
}

#[derive(Serialize)]
struct Listen {
    listen: SocketAddr,
}

#[derive(Serialize)]
struct ClusterSection<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trackers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    join_token_file: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
}

#[derive(Serialize)]
struct OriginFile<'a> {
    data_dir: &'a Path,
    registry: Listen,
    peers: Listen,
    admin: Listen,
    tracker: Listen,
    cluster: ClusterSection<'a>,
    upstream: &'a [RegistryEntry],
}

#[derive(Serialize)]
struct AgentFile<'a> {
    data_dir: &'a Path,
    registries: Vec<String>,
    registry: Listen,
    peers: Listen,
    admin: Listen,
    cluster: ClusterSection<'a>,
    listen: Vec<BoundListen<'a>>,
}

#[derive(Serialize)]
struct BoundListen<'a> {
    address: SocketAddr,
    registry: &'a str,
}

/// An origin with its tracker inside.
pub fn origin(
    data_dir: &Path,
    addresses: &Addresses,
    upstreams: &[RegistryEntry],
    zone: Option<&str>,
) -> Result<String> {
    Ok(toml::to_string(&OriginFile {
        data_dir,
        registry: Listen {
            listen: addresses.registry,
        },
        peers: Listen {
            listen: addresses.peers,
        },
        admin: Listen {
            listen: addresses.admin,
        },
        tracker: Listen {
            listen: addresses.tracker,
        },
        cluster: ClusterSection {
            trackers: Vec::new(),
            join_token_file: None,
            zone,
        },
        upstream: upstreams,
    })?)
}

/// An agent that joins at `tracker` with the token in `join_token_file`.
pub fn agent(
    data_dir: &Path,
    addresses: &Addresses,
    join_token_file: &Path,
    upstreams: &[RegistryEntry],
    zone: Option<&str>,
) -> Result<String> {
    Ok(toml::to_string(&AgentFile {
        data_dir,
        registries: upstreams.iter().map(RegistryEntry::spelled).collect(),
        registry: Listen {
            listen: addresses.registry,
        },
        peers: Listen {
            listen: addresses.peers,
        },
        admin: Listen {
            listen: addresses.admin,
        },
        cluster: ClusterSection {
            trackers: vec![addresses.tracker.to_string()],
            join_token_file: Some(join_token_file),
            zone,
        },
        listen: upstreams
            .first()
            .map(|first| BoundListen {
                address: addresses.bound,
                registry: &first.registry,
            })
            .into_iter()
            .collect(),
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_keeps_its_name_and_says_whether_it_speaks_tls() {
        let plain = RegistryEntry::named("http://10.0.0.1:5000/");
        assert_eq!(
            (plain.registry.as_str(), plain.spelled().as_str()),
            ("10.0.0.1:5000", "http://10.0.0.1:5000")
        );
        let public = RegistryEntry::named("docker.io");
        assert_eq!(
            (public.url.as_deref(), public.spelled().as_str()),
            (None, "docker.io")
        );
        assert_eq!(RegistryEntry::named("https://ghcr.io").registry, "ghcr.io");
    }
}
