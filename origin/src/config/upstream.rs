//! What is said of one registry: `[[upstream]]` as written, and as the origin asks it.
//!
//! Policies: `public` (the default) shares what anybody may read; `shared` uses this origin's own credential for the
//! repositories listed, and so shares those with the whole cluster; `authorize` asks the registry about each caller,
//! with the caller's own credential. docs/SECURITY.md says what each keeps from whom.

mod pattern;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};
use shoal_daemon::config::Span;
use shoal_proto::limits;

pub use self::pattern::RepositoryPattern;
use crate::upstream::Credentials;
use crate::upstream::guard::is_local;

/// One `[[upstream]]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamEntry {
    /// The registry as image references name it: `ghcr.io`, `127.0.0.1:5000`.
    pub registry: String,
    /// Where it is, when that is not `https://` and its name.
    pub url: Option<String>,
    /// Whether it speaks HTTP without TLS; short for a `url` that begins with `http://`.
    pub plain_http: bool,
    /// Whether it may redirect to private addresses; unsaid, only when it has one itself.
    pub private_addresses: Option<bool>,
    /// Who may have its content: `public`, `shared` or `authorize`.
    pub access: AccessKind,
    /// With `authorize`: how long the registry's yes to a caller's credential holds, at most five minutes. A revoked
    /// credential works no longer than that.
    pub verdict_hold: Option<Span>,
    /// With `shared`: the repositories fetched with the credential; `*` stands for anything.
    pub repositories: Vec<String>,
    /// With `shared`: the user.
    pub username: Option<String>,
    /// With `shared`: a file that holds the user's password.
    pub password_file: Option<PathBuf>,
    /// Certificates in PEM form to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Hosts of token servers, other than the registry's own site, that may see the credential.
    pub realm_hosts: Vec<String>,
}

/// The name of a policy.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessKind {
    /// What the registry lets each caller read, asked with the caller's own credential.
    Authorize,
    /// What anybody may read.
    #[default]
    Public,
    /// What this origin may read, of the repositories listed.
    Shared,
}

/// Who may have the content of a registry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Access {
    /// Each caller, what its own credential may read upstream.
    Authorize {
        /// How long the registry's yes to a credential holds.
        hold: Duration,
    },
    /// Everybody in the cluster, what anybody may read upstream.
    Public,
    /// Everybody in the cluster, what the configured user may read, of these repositories.
    Shared {
        /// Which.
        repositories: Vec<RepositoryPattern>,
    },
}

/// A registry as it is asked.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    pub registry: String,
    pub url: Url,
    /// Whether the operator wrote its address down, and so answers for where it is.
    pub written_by_operator: bool,
    /// Whether it stands in the configuration at all.
    pub listed: bool,
    pub private_addresses: bool,
    pub access: Access,
    pub credentials: Option<Credentials>,
    pub ca_file: Option<PathBuf>,
    pub realm_hosts: Vec<String>,
}

/// What is wrong with an `[[upstream]]`, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamRefusal {
    #[error(
        "upstream {registry}: a credential is given, and access is not `shared`; anonymous content needs none, so set access = \"shared\" and list the repositories that the cluster may share"
    )]
    CredentialUnused { registry: String },
    #[error("upstream {registry}: `username` and `password_file` go together; give both or none")]
    CredentialHalf { registry: String },
    #[error(
        "upstream {registry}: verdict_hold = {hold} does not fit: it goes with access = \"authorize\" and is at most 5m, since a revoked credential works for so long"
    )]
    Hold { registry: String, hold: Span },
    #[error(
        "`{registry}` is not a registry's name; write host or host:port, as in image references"
    )]
    Name { registry: String },
    #[error(
        "upstream {registry}: access = \"shared\" needs `username`, `password_file` and `repositories`, for example [\"team/*\"]"
    )]
    SharedWhat { registry: String },
    #[error("upstream {registry} is listed twice; keep one")]
    Twice { registry: String },
    #[error(
        "upstream {registry}: url `{url}` is not http:// or https:// with a host, and without user, query or fragment"
    )]
    Url { registry: String, url: String },
}

impl UpstreamConfig {
    /// A public registry of which only the name is known.
    #[must_use]
    pub fn public(registry: &str) -> Option<Self> {
        if !is_registry_name(registry) {
            return None;
        }
        Some(Self {
            registry: registry.to_owned(),
            url: Url::parse(&format!("https://{}", api_host(registry))).ok()?,
            written_by_operator: false,
            listed: false,
            private_addresses: false,
            access: Access::Public,
            credentials: None,
            ca_file: None,
            realm_hosts: Vec::new(),
        })
    }

    /// Whether it speaks HTTP without TLS.
    #[must_use]
    pub fn plain_http(&self) -> bool {
        self.url.scheme() == "http"
    }
}

/// The registries by name alone, and those with an entry; an entry wins over a bare name.
pub(crate) fn merge(
    names: &[String],
    entries: Vec<UpstreamEntry>,
) -> Result<Vec<UpstreamConfig>, UpstreamRefusal> {
    let mut out: Vec<UpstreamConfig> = Vec::new();
    for entry in entries {
        let config = UpstreamConfig::try_from(entry)?;
        if out.iter().any(|other| other.registry == config.registry) {
            return Err(UpstreamRefusal::Twice {
                registry: config.registry,
            });
        }
        out.push(config);
    }
    for name in names {
        let public = UpstreamConfig::public(name).ok_or_else(|| UpstreamRefusal::Name {
            registry: name.clone(),
        })?;
        if !out.iter().any(|other| other.registry == public.registry) {
            out.push(UpstreamConfig {
                listed: true,
                ..public
            });
        }
    }
    Ok(out)
}

impl TryFrom<UpstreamEntry> for UpstreamConfig {
    type Error = UpstreamRefusal;

    fn try_from(entry: UpstreamEntry) -> Result<Self, UpstreamRefusal> {
        let registry = entry.registry;
        if !is_registry_name(&registry) {
            return Err(UpstreamRefusal::Name { registry });
        }
        let scheme = if entry.plain_http { "http" } else { "https" };
        let url = entry
            .url
            .unwrap_or_else(|| format!("{scheme}://{}", api_host(&registry)));
        let Some(url) = parse_url(&url) else {
            return Err(UpstreamRefusal::Url { registry, url });
        };
        let credentials = match (entry.username, entry.password_file) {
            (Some(username), Some(password_file)) => Some(Credentials {
                username,
                password_file,
            }),
            (None, None) => None,
            _ => return Err(UpstreamRefusal::CredentialHalf { registry }),
        };
        let hold = entry
            .verdict_hold
            .map_or(limits::VERDICT_HOLD_MAX, Span::duration);
        if let Some(span) = entry.verdict_hold
            && (entry.access != AccessKind::Authorize || hold > limits::VERDICT_HOLD_MAX)
        {
            return Err(UpstreamRefusal::Hold {
                registry,
                hold: span,
            });
        }
        let access = match (entry.access, &credentials) {
            (AccessKind::Public, None) => Access::Public,
            (AccessKind::Authorize, None) => Access::Authorize { hold },
            (AccessKind::Authorize | AccessKind::Public, Some(_)) => {
                return Err(UpstreamRefusal::CredentialUnused { registry });
            }
            (AccessKind::Shared, Some(_)) if !entry.repositories.is_empty() => Access::Shared {
                repositories: entry
                    .repositories
                    .into_iter()
                    .map(RepositoryPattern::new)
                    .collect(),
            },
            (AccessKind::Shared, _) => return Err(UpstreamRefusal::SharedWhat { registry }),
        };
        let local = url.host_str().is_some_and(is_local);
        Ok(Self {
            registry,
            url,
            written_by_operator: true,
            listed: true,
            private_addresses: entry.private_addresses.unwrap_or(local),
            access,
            credentials,
            ca_file: entry.ca_file,
            realm_hosts: entry.realm_hosts,
        })
    }
}

fn parse_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

/// The host that answers for a registry's name: Docker Hub's is not the name that references carry.
fn api_host(registry: &str) -> &str {
    if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    }
}

/// `host` or `host:port`, lower case, without anything that could make another URL of it.
fn is_registry_name(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, Some(port)),
        _ => (text, None),
    };
    let host_ok = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(ipv6) => ipv6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')
                })
        }
    };
    let port_ok = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    host_ok && port_ok && text.len() <= limits::REGISTRY_NAME_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(registry: &str) -> UpstreamEntry {
        UpstreamEntry {
            registry: registry.into(),
            ..UpstreamEntry::default()
        }
    }

    #[test]
    fn docker_hub_is_asked_where_its_api_is() {
        let merged = merge(&["docker.io".into(), "quay.io".into()], Vec::new()).unwrap();
        assert_eq!(merged[0].url.as_str(), "https://registry-1.docker.io/");
        assert_eq!(merged[1].url.as_str(), "https://quay.io/");
    }

    #[test]
    fn an_entry_wins_over_a_bare_name_and_may_be_plain() {
        let local = UpstreamEntry {
            url: Some("http://127.0.0.1:5000".into()),
            ..entry("docker.io")
        };
        let merged = merge(&["docker.io".into()], vec![local]).unwrap();
        assert_eq!(merged.len(), 1);
        assert!(merged[0].plain_http() && merged[0].written_by_operator);
        let plain = UpstreamEntry {
            plain_http: true,
            ..entry("10.0.0.1:5000")
        };
        assert_eq!(
            UpstreamConfig::try_from(plain).unwrap().url.as_str(),
            "http://10.0.0.1:5000/"
        );
    }

    #[test]
    fn names_of_registries_are_hosts_with_or_without_a_port() {
        for wrong in [
            "http://x",
            "",
            "a/b",
            "a@b",
            "A.example",
            "host:0",
            "[::x]:1",
        ] {
            assert!(!is_registry_name(wrong), "{wrong}");
            assert!(matches!(
                UpstreamConfig::try_from(entry(wrong)),
                Err(UpstreamRefusal::Name { .. })
            ));
        }
        for good in [
            "ghcr.io",
            "127.0.0.1:5000",
            "[::1]:5000",
            "my-registry.internal",
            "localhost:5000",
        ] {
            assert!(is_registry_name(good), "{good}");
        }
    }

    #[test]
    fn a_yes_holds_for_five_minutes_at_most_and_only_where_callers_are_asked_about() {
        let authorize = UpstreamEntry {
            access: AccessKind::Authorize,
            ..entry("x")
        };
        let hold_of = |verdict_hold| {
            let entry = UpstreamEntry {
                verdict_hold,
                ..authorize.clone()
            };
            UpstreamConfig::try_from(entry).map(|config| config.access)
        };
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (hold, expected) in [
            (None, minutes(5)),
            (Some(Span::secs(0)), minutes(0)),
            (Some(Span::secs(300)), minutes(5)),
        ] {
            assert_eq!(hold_of(hold).unwrap(), Access::Authorize { hold: expected });
        }
        let error = hold_of(Some(Span::secs(301))).unwrap_err().to_string();
        assert!(error.contains("at most 5m"), "{error}");
        let elsewhere = UpstreamEntry {
            verdict_hold: Some(Span::secs(1)),
            ..entry("x")
        };
        assert!(matches!(
            UpstreamConfig::try_from(elsewhere),
            Err(UpstreamRefusal::Hold { .. })
        ));
        let with_our_own = UpstreamEntry {
            username: Some("u".into()),
            password_file: Some(PathBuf::from("/p")),
            ..authorize
        };
        assert!(matches!(
            UpstreamConfig::try_from(with_our_own),
            Err(UpstreamRefusal::CredentialUnused { .. })
        ));
    }

    #[test]
    fn wrong_entries_are_refused() {
        let password_file = Some(PathBuf::from("/p"));
        let cases = [
            (
                UpstreamEntry {
                    url: Some("ftp://x".into()),
                    ..entry("x")
                },
                "url",
            ),
            (
                UpstreamEntry {
                    url: Some("https://u:p@x".into()),
                    ..entry("x")
                },
                "url",
            ),
            (
                UpstreamEntry {
                    username: Some("u".into()),
                    ..entry("x")
                },
                "go together",
            ),
            (
                UpstreamEntry {
                    username: Some("u".into()),
                    password_file: password_file.clone(),
                    ..entry("x")
                },
                "not `shared`",
            ),
            (
                UpstreamEntry {
                    access: AccessKind::Shared,
                    ..entry("x")
                },
                "needs",
            ),
            (
                UpstreamEntry {
                    access: AccessKind::Shared,
                    username: Some("u".into()),
                    password_file,
                    ..entry("x")
                },
                "repositories",
            ),
        ];
        for (entry, expected) in cases {
            let text = format!("{entry:?}");
            let error = UpstreamConfig::try_from(entry)
                .expect_err(&text)
                .to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(matches!(
            merge(&[], vec![entry("a.example"), entry("a.example")]),
            Err(UpstreamRefusal::Twice { .. })
        ));
    }
}
