//! The allow-list of upstream registries, their aliases, and docker.io's ways of being written.
//!
//! What a client names as upstream is chosen by whoever wrote the image reference: only hosts on this list are
//! ever passed on, so a request cannot make the cluster ask a host of the client's choosing.
//! Not here: talking to any of them (that is the origin's work).

use std::collections::{BTreeMap, BTreeSet};

use super::name::{NameError, RegistryName, RepositoryName};

const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_API: &str = "registry-1.docker.io";
const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", DOCKER_HUB_API];

/// An upstream registry that this agent passes on, and how clients reach it without us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedRegistry {
    pub name: RegistryName,
    pub plain_http: bool,
}

/// Why the lists in the configuration cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistriesError {
    #[error(
        "`{entry}` is not a registry host: {reason}; write it as in image references, such as docker.io or http://127.0.0.1:5000"
    )]
    Entry { entry: String, reason: NameError },
    #[error("`{0}` is listed twice")]
    Twice(RegistryName),
    #[error("alias `{alias}` points at `{target}`, which is not in `registries`")]
    AliasWithoutTarget {
        alias: RegistryName,
        target: RegistryName,
    },
    #[error("`{0}` is both a registry and an alias")]
    AliasShadows(RegistryName),
}

/// The registries this agent serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registries {
    listed: Vec<AllowedRegistry>,
    aliases: BTreeMap<RegistryName, RegistryName>,
}

impl Registries {
    /// `entries` are hosts, with `http://` in front of those that speak no TLS; loopback hosts do not by default.
    pub fn try_new<'a>(
        entries: impl IntoIterator<Item = &'a str>,
        aliases: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, RegistriesError> {
        let mut listed = Vec::new();
        let mut seen = BTreeSet::new();
        for entry in entries {
            let registry = AllowedRegistry::parse(entry)?;
            if !seen.insert(registry.name.clone()) {
                return Err(RegistriesError::Twice(registry.name));
            }
            listed.push(registry);
        }
        let mut known = Self {
            listed,
            aliases: BTreeMap::new(),
        };
        let hub = parse_name(DOCKER_HUB)?;
        if seen.contains(&hub) {
            for alias in DOCKER_HUB_ALIASES {
                known.aliases.insert(parse_name(alias)?, hub.clone());
            }
        }
        for (alias, target) in aliases {
            let (alias, target) = (parse_name(alias)?, AllowedRegistry::parse(target)?.name);
            if !seen.contains(&target) {
                return Err(RegistriesError::AliasWithoutTarget { alias, target });
            }
            if seen.contains(&alias) {
                return Err(RegistriesError::AliasShadows(alias));
            }
            known.aliases.insert(alias, target);
        }
        Ok(known)
    }

    /// The registry a client means by `asked`, when it is one of ours.
    pub fn resolve(&self, asked: &str) -> Option<RegistryName> {
        let asked: RegistryName = asked.parse().ok()?;
        let name = self.aliases.get(&asked).unwrap_or(&asked);
        self.listed
            .iter()
            .find(|registry| registry.name == *name)
            .map(|registry| registry.name.clone())
    }

    /// The same for the first part of a path. A colon cannot stand in the path of an image reference, so that clients of
    /// c/image write `host_port` for a registry with a port: see [`AllowedRegistry::path_name`].
    pub fn resolve_in_path(&self, first: &str) -> Option<RegistryName> {
        self.resolve(first).or_else(|| {
            let (host, port) = first.rsplit_once('_')?;
            self.resolve(&format!("{host}:{port}"))
        })
    }

    /// All registries, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &AllowedRegistry> {
        self.listed.iter()
    }
}

impl AllowedRegistry {
    fn parse(entry: &str) -> Result<Self, RegistriesError> {
        let (host, plain) = match (
            entry.strip_prefix("http://"),
            entry.strip_prefix("https://"),
        ) {
            (Some(host), _) => (host, Some(true)),
            (_, Some(host)) => (host, Some(false)),
            _ => (entry, None),
        };
        let name = host
            .strip_suffix('/')
            .unwrap_or(host)
            .parse::<RegistryName>()
            .map_err(|reason| RegistriesError::Entry {
                entry: entry.to_owned(),
                reason,
            })?;
        let plain_http = plain.unwrap_or_else(|| name.is_loopback());
        Ok(Self { name, plain_http })
    }

    /// Its name as the first part of a path in image references: `registry.lan_5000` for `registry.lan:5000`.
    pub fn path_name(&self) -> String {
        self.name.as_str().replace(':', "_")
    }

    /// Where clients find this registry when they do not ask us.
    pub fn server_url(&self) -> String {
        let scheme = if self.plain_http { "http" } else { "https" };
        let host = if self.name.as_str() == DOCKER_HUB {
            DOCKER_HUB_API
        } else {
            self.name.as_str()
        };
        format!("{scheme}://{host}")
    }
}

/// The repository as the upstream knows it: docker.io keeps one-word names below `library/`.
pub fn normal_repository(
    registry: &RegistryName,
    repository: &str,
) -> Result<RepositoryName, NameError> {
    if registry.as_str() == DOCKER_HUB && !repository.contains('/') {
        repository.parse::<RepositoryName>()?;
        return format!("library/{repository}").parse();
    }
    repository.parse()
}

fn parse_name(text: &str) -> Result<RegistryName, RegistriesError> {
    text.parse().map_err(|reason| RegistriesError::Entry {
        entry: text.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries() -> Registries {
        Registries::try_new(
            [
                "docker.io",
                "ghcr.io",
                "http://registry.lan:5000",
                "127.0.0.1:5000",
            ],
            [("mirror.lan", "ghcr.io")],
        )
        .unwrap()
    }

    #[test]
    fn only_listed_registries_and_their_aliases_resolve() {
        let cases = [
            ("docker.io", Some("docker.io")),
            ("DOCKER.io", Some("docker.io")),
            ("index.docker.io", Some("docker.io")),
            ("registry-1.docker.io", Some("docker.io")),
            ("mirror.lan", Some("ghcr.io")),
            ("registry.lan:5000", Some("registry.lan:5000")),
            ("registry.lan", None),
            ("quay.io", None),
            ("169.254.169.254", None),
            ("ghcr.io.evil.test", None),
            ("ghcr.io/..", None),
            ("", None),
        ];
        for (asked, expected) in cases {
            assert_eq!(
                registries()
                    .resolve(asked)
                    .as_ref()
                    .map(RegistryName::as_str),
                expected,
                "{asked}"
            );
        }
    }

    #[test]
    fn in_a_path_an_underscore_may_stand_for_the_colon_before_a_port() {
        let known = registries();
        for registry in known.iter() {
            let found = known.resolve_in_path(&registry.path_name());
            assert_eq!(found.as_ref(), Some(&registry.name));
        }
        for other in ["registry.lan_5001", "registry.lan_", "_5000", "ghcr.io_443"] {
            assert_eq!(known.resolve_in_path(other), None, "{other}");
        }
    }

    #[test]
    fn hub_aliases_do_not_resolve_when_the_hub_is_not_listed() {
        let only = Registries::try_new(["ghcr.io"], []).unwrap();
        assert_eq!(only.resolve("registry-1.docker.io"), None);
    }

    #[test]
    fn fallback_servers_are_the_registries_own_addresses() {
        let urls: Vec<String> = registries()
            .iter()
            .map(AllowedRegistry::server_url)
            .collect();
        let expected = [
            "https://registry-1.docker.io",
            "https://ghcr.io",
            "http://registry.lan:5000",
            "http://127.0.0.1:5000",
        ];
        assert_eq!(urls, expected);
        assert!(
            !AllowedRegistry::parse("https://127.0.0.1:5000")
                .unwrap()
                .plain_http
        );
    }

    #[test]
    fn contradictions_in_the_lists_are_refused() {
        let check = |entries: &[&'static str], aliases: &[(&'static str, &'static str)]| {
            Registries::try_new(entries.iter().copied(), aliases.iter().copied()).unwrap_err()
        };
        assert!(matches!(
            check(&["a/b"], &[]),
            RegistriesError::Entry { .. }
        ));
        assert!(matches!(
            check(&["a.io", "http://a.io"], &[]),
            RegistriesError::Twice(_)
        ));
        assert!(matches!(
            check(&["a.io"], &[("b.io", "c.io")]),
            RegistriesError::AliasWithoutTarget { .. }
        ));
        assert!(matches!(
            check(&["a.io", "b.io"], &[("b.io", "a.io")]),
            RegistriesError::AliasShadows(_)
        ));
    }

    #[test]
    fn one_word_names_on_docker_hub_live_below_library() {
        let name = |text: &str| text.parse::<RegistryName>().unwrap();
        assert_eq!(
            normal_repository(&name("docker.io"), "busybox")
                .unwrap()
                .as_str(),
            "library/busybox"
        );
        assert_eq!(
            normal_repository(&name("docker.io"), "a/b")
                .unwrap()
                .as_str(),
            "a/b"
        );
        assert_eq!(
            normal_repository(&name("ghcr.io"), "busybox")
                .unwrap()
                .as_str(),
            "busybox"
        );
        assert!(normal_repository(&name("docker.io"), "").is_err());
    }
}
