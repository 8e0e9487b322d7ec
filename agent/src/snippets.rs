//! What other container clients must be told, as text for their own configuration files.
//!
//! Pure: from our configuration to theirs. Nothing is written here; their files are the operator's (for containerd, which
//! reads a folder of small files, `hosts` does it).
//! Holds: our mirror is always asked first and the registry itself after it, in each client's own words; every registry
//! is named in the one way that the client in question passes on: containerd's family by a query, c/image by the path,
//! dockerd by nothing at all, so that it needs a port that stands for one registry.

use std::net::SocketAddr;

use serde_json::json;

use crate::config::Config;
use crate::hosts::{self, HostsPlan};
use crate::mirror::registries::AllowedRegistry;

/// The only registry for which dockerd asks mirrors.
const DOCKER_HUB: &str = "docker.io";

/// A client whose configuration we can write down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Client {
    Buildkit,
    Containerd,
    Crio,
    Dockerd,
    K3s,
    Podman,
}

/// A piece of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// Where it goes, and what makes the client read it: words for people.
    pub place: String,
    pub text: String,
}

/// Why there is nothing to write down.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SnippetError {
    #[error(
        "dockerd asks mirrors for docker.io alone, and does not say so: give the agent a port that stands for it, with `[[listen]]` address = \"127.0.0.1:5060\", registry = \"docker.io\""
    )]
    NoPortForHub,
    #[error("dockerd asks mirrors for docker.io alone, which is not in the agent's `registries`")]
    NoHub,
}

/// What `client` must be told to ask this agent.
///
/// # Errors
/// The agent lacks what this client needs.
pub fn snippet(
    client: Client,
    config: &Config,
    plan: &HostsPlan,
) -> Result<Vec<Snippet>, SnippetError> {
    let agent = config.registry_address();
    let one = |place: &str, text: String| {
        vec![Snippet {
            place: place.to_owned(),
            text,
        }]
    };
    let registries = || config.registries.iter();
    Ok(match client {
        Client::Buildkit => one(
            "/etc/buildkit/buildkitd.toml, then restart buildkitd; one that runs in a container reaches the agent only with the host's network",
            buildkit(agent, registries()),
        ),
        Client::Containerd => hosts::texts(plan)
            .into_iter()
            .map(|(path, text)| Snippet {
                place: format!(
                    "{} (`containerd install` merges and removes it)",
                    path.display()
                ),
                text,
            })
            .collect(),
        Client::Crio => one(
            "/etc/containers/registries.conf.d/50-shoal.conf, then `systemctl reload crio`",
            containers(agent, registries()),
        ),
        Client::Dockerd => one(
            "/etc/docker/daemon.json, merged with what is there, then `systemctl reload docker`",
            dockerd(config)?,
        ),
        Client::K3s => one(
            "/etc/rancher/k3s/registries.yaml (or /etc/rancher/rke2), then restart k3s; it writes containerd's files itself, so do not run `containerd install`",
            k3s(agent, registries()),
        ),
        Client::Podman => one(
            "/etc/containers/registries.conf.d/50-shoal.conf, read at each pull",
            containers(agent, registries()),
        ),
    })
}

/// BuildKit appends the registry's name as a query, as containerd does: the mirror has no path.
fn buildkit<'a>(
    agent: SocketAddr,
    registries: impl Iterator<Item = &'a AllowedRegistry>,
) -> String {
    let mut text = String::new();
    for registry in registries {
        text.push_str(&format!(
            "[registry.\"{}\"]\n  mirrors = [\"{agent}\"]\n",
            registry.name
        ));
        if registry.plain_http {
            text.push_str("  http = true\n");
        }
        text.push('\n');
    }
    text.push_str(&format!("[registry.\"{agent}\"]\n  http = true\n"));
    text
}

/// The library behind podman, CRI-O, buildah and skopeo sends no name: the path carries it.
fn containers<'a>(
    agent: SocketAddr,
    registries: impl Iterator<Item = &'a AllowedRegistry>,
) -> String {
    let entry = |registry: &AllowedRegistry| {
        let name = &registry.name;
        let insecure = if registry.plain_http {
            "insecure = true\n"
        } else {
            ""
        };
        format!(
            "[[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n{insecure}\n\
             [[registry.mirror]]\nlocation = \"{agent}/{}\"\ninsecure = true\n",
            registry.path_name()
        )
    };
    let entries: Vec<String> = registries.map(entry).collect();
    entries.join("\n")
}

fn dockerd(config: &Config) -> Result<String, SnippetError> {
    if config.registries.resolve(DOCKER_HUB).is_none() {
        return Err(SnippetError::NoHub);
    }
    let port = config
        .bound_listeners
        .iter()
        .find(|entry| entry.registry.as_str() == DOCKER_HUB)
        .ok_or(SnippetError::NoPortForHub)?;
    let address = crate::config::reachable(port.address);
    let file = json!({ "registry-mirrors": [format!("http://{address}")] });
    Ok(format!("{file:#}\n"))
}

fn k3s<'a>(agent: SocketAddr, registries: impl Iterator<Item = &'a AllowedRegistry>) -> String {
    let mut text = String::from("mirrors:\n");
    for registry in registries {
        text.push_str(&format!(
            "  \"{}\":\n    endpoint:\n      - \"http://{agent}\"\n",
            registry.name
        ));
        if registry.plain_http {
            // Without it, k3s falls back to the registry over HTTPS.
            text.push_str(&format!("      - \"{}\"\n", registry.server_url()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use toml::Table;

    use super::*;
    use crate::config::{ListenEntry, RawConfig};
    use crate::hosts::Scope;

    /// `buildkitd.toml`, as far as registries go: `docs/buildkitd.toml.md` of BuildKit.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Buildkitd {
        registry: BTreeMap<String, BuildkitRegistry>,
    }

    /// What we say of the keys `mirrors`, `http`, `insecure`, `ca` and `keypair`.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct BuildkitRegistry {
        #[serde(default)]
        mirrors: Vec<String>,
        #[serde(default)]
        http: bool,
    }

    /// `registries.yaml`, as the page "Private Registry Configuration" of k3s has it: we need nothing of `configs`.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct K3sRegistries {
        mirrors: BTreeMap<String, K3sMirror>,
    }

    /// What we say of the keys `endpoint` and `rewrite`.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct K3sMirror {
        endpoint: Vec<String>,
    }

    fn config(listen: Vec<ListenEntry>) -> Config {
        let raw = RawConfig {
            registries: ["docker.io", "http://registry.lan:5000"]
                .map(str::to_owned)
                .into(),
            listen,
            ..RawConfig::default()
        };
        Config::try_from(raw).unwrap()
    }

    fn text(client: Client) -> String {
        let port = ListenEntry {
            address: ([127, 0, 0, 1], 5060).into(),
            registry: "docker.io".to_owned(),
        };
        let config = config(vec![port]);
        let plan = HostsPlan {
            hosts_dir: "/etc/containerd/certs.d".into(),
            journal_dir: "/j".into(),
            agent: config.registry_address(),
            scope: Scope::each(&config.registries),
        };
        let snippets = snippet(client, &config, &plan).unwrap();
        snippets.into_iter().map(|snippet| snippet.text).collect()
    }

    #[test]
    fn buildkit_knows_every_key_and_asks_the_agent_without_a_path_and_over_plain_http() {
        let parsed: Buildkitd = toml::from_str(&text(Client::Buildkit)).unwrap();
        let of = |name: &str| &parsed.registry[name];
        assert_eq!(parsed.registry.len(), 3);
        assert_eq!(of("docker.io").mirrors, ["127.0.0.1:5050"]);
        assert!(!of("docker.io").http);
        assert_eq!(of("registry.lan:5000").mirrors, ["127.0.0.1:5050"]);
        assert!(of("registry.lan:5000").http);
        assert!(of("127.0.0.1:5050").http && of("127.0.0.1:5050").mirrors.is_empty());
    }

    #[test]
    fn podman_and_crio_carry_the_registry_in_the_path() {
        assert_eq!(text(Client::Podman), text(Client::Crio));
        let parsed: Table = text(Client::Podman).parse().unwrap();
        let hub = &parsed["registry"][0];
        assert_eq!(hub["location"].as_str(), Some("docker.io"));
        assert_eq!(
            hub["mirror"][0]["location"].as_str(),
            Some("127.0.0.1:5050/docker.io")
        );
        assert!(hub.get("insecure").is_none());
        let local = &parsed["registry"][1];
        assert_eq!(local["insecure"].as_bool(), Some(true));
        assert_eq!(
            local["mirror"][0]["location"].as_str(),
            Some("127.0.0.1:5050/registry.lan_5000"),
            "a colon cannot stand in a path"
        );
    }

    #[test]
    fn dockerd_gets_the_port_that_stands_for_docker_hub_or_is_told_to_make_one() {
        let parsed: serde_json::Value = serde_json::from_str(&text(Client::Dockerd)).unwrap();
        assert_eq!(parsed["registry-mirrors"][0], "http://127.0.0.1:5060");
        assert_eq!(
            dockerd(&config(Vec::new())),
            Err(SnippetError::NoPortForHub)
        );
    }

    #[test]
    fn k3s_knows_every_key_and_asks_the_agent_first_and_a_plain_registry_over_plain_http() {
        let parsed: K3sRegistries = serde_saphyr::from_str(&text(Client::K3s)).unwrap();
        let of = |name: &str| &parsed.mirrors[name].endpoint;
        assert_eq!(parsed.mirrors.len(), 2);
        // k3s itself adds the registry over HTTPS at the end.
        assert_eq!(*of("docker.io"), ["http://127.0.0.1:5050"]);
        assert_eq!(
            *of("registry.lan:5000"),
            ["http://127.0.0.1:5050", "http://registry.lan:5000"]
        );
    }

    #[test]
    fn containerds_files_are_those_that_install_writes() {
        let text = text(Client::Containerd);
        assert_eq!(text.matches("[host.\"http://127.0.0.1:5050\"]").count(), 2);
        assert!(text.contains("server = \"https://registry-1.docker.io\""));
    }
}
