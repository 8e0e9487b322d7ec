//! What is said of one registry: `[[upstream]]` as written, and as the origin asks it.
//!
//! Policies: `public` (the default) shares what anybody may read; `shared` uses this origin's own credential for the
//! repositories listed, and so shares those with the whole cluster; `authorize` asks the registry about each caller,
//! with the caller's own credential. docs/SECURITY.md says what each keeps from whom.

mod entry;
mod pattern;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use shoal_daemon::config::Span;
use shoal_proto::limits;

pub use self::entry::{AccessKind, Defaults, UpstreamEntry};
pub use self::pattern::RepositoryPattern;
use crate::upstream::Credentials;
use crate::upstream::guard::is_local;
use crate::upstream::proxy::ProxyChoice;

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
    /// A certificate to show, and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    pub certs_dir: Option<PathBuf>,
    pub proxy: ProxyChoice,
    /// For one large blob.
    pub connections: usize,
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
        "upstream {registry}: a credential is either `username` and `password_file` or an `auth_file`; give one of them"
    )]
    CredentialTwice { registry: String },
    #[error(
        "upstream {registry}: `client_cert_file` and `client_key_file` go together; give both or none"
    )]
    CertificateHalf { registry: String },
    #[error(
        "upstream {registry}: connections = {connections} is out of bounds; give between 1 and 6 for one large blob"
    )]
    Connections {
        registry: String,
        connections: usize,
    },
    #[error(
        "upstream {registry}: verdict_hold = {hold} does not fit: it goes with access = \"authorize\" and is at most 5m, since a revoked credential works for so long"
    )]
    Hold { registry: String, hold: Span },
    #[error(
        "`{registry}` is not a registry's name; write host or host:port, as in image references"
    )]
    Name { registry: String },
    #[error(
        "upstream {registry}: proxy `{proxy}` is neither none nor the address of an http or https proxy; write for example http://proxy.example:3128"
    )]
    Proxy { registry: String, proxy: String },
    #[error(
        "upstream {registry}: `no_proxy` is for a `proxy` of its own; set NO_PROXY in the environment instead"
    )]
    ProxyUnused { registry: String },
    #[error(
        "upstream {registry}: access = \"shared\" needs `repositories`, for example [\"team/*\"], and a credential: `username` and `password_file`, or `auth_file` here or for all registries"
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
            client_certificate: None,
            certs_dir: None,
            proxy: ProxyChoice::default(),
            connections: 1,
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
    defaults: &Defaults,
) -> Result<Vec<UpstreamConfig>, UpstreamRefusal> {
    let mut out: Vec<UpstreamConfig> = Vec::new();
    for entry in entries {
        let config = UpstreamConfig::new(entry, defaults)?;
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
                certs_dir: defaults.certs_dir.clone(),
                ..public
            });
        }
    }
    Ok(out)
}

impl UpstreamConfig {
    /// A registry with an entry of its own.
    ///
    /// # Errors
    /// Says what is wrong with the entry.
    pub fn new(entry: UpstreamEntry, defaults: &Defaults) -> Result<Self, UpstreamRefusal> {
        if !is_registry_name(&entry.registry) {
            let registry = entry.registry;
            return Err(UpstreamRefusal::Name { registry });
        }
        let scheme = if entry.plain_http { "http" } else { "https" };
        let url = entry
            .url
            .clone()
            .unwrap_or_else(|| format!("{scheme}://{}", api_host(&entry.registry)));
        let Some(url) = parse_url(&url) else {
            let registry = entry.registry;
            let url = without_user(&url);
            return Err(UpstreamRefusal::Url { registry, url });
        };
        let own = entry.credentials()?;
        entry.hold()?;
        let access = entry.access(own.is_some(), defaults)?;
        let credentials = match (&access, own, &defaults.auth_file) {
            (Access::Authorize { .. } | Access::Public, ..) => None,
            (Access::Shared { .. }, None, Some(path)) => {
                Some(Credentials::AuthFile { path: path.clone() })
            }
            (Access::Shared { .. }, own, _) => own,
        };
        let client_certificate = entry.client_certificate()?;
        let proxy = entry.proxy()?;
        let connections = entry.connections()?;
        let local = url.host_str().is_some_and(is_local);
        Ok(Self {
            registry: entry.registry,
            url,
            written_by_operator: true,
            listed: true,
            private_addresses: entry.private_addresses.unwrap_or(local),
            access,
            credentials,
            ca_file: entry.ca_file,
            client_certificate,
            certs_dir: defaults.certs_dir.clone(),
            proxy,
            connections,
            realm_hosts: entry.realm_hosts,
        })
    }
}

impl TryFrom<UpstreamEntry> for UpstreamConfig {
    type Error = UpstreamRefusal;

    fn try_from(entry: UpstreamEntry) -> Result<Self, UpstreamRefusal> {
        Self::new(entry, &Defaults::default())
    }
}

/// What may be repeated of a URL that somebody wrote a password into.
fn without_user(url: &str) -> String {
    url.rsplit('@').next().unwrap_or_default().to_owned()
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
        let merged = merge(
            &["docker.io".into(), "quay.io".into()],
            Vec::new(),
            &Defaults::default(),
        )
        .unwrap();
        assert_eq!(merged[0].url.as_str(), "https://registry-1.docker.io/");
        assert_eq!(merged[1].url.as_str(), "https://quay.io/");
    }

    #[test]
    fn an_entry_wins_over_a_bare_name_and_may_be_plain() {
        let local = UpstreamEntry {
            url: Some("http://127.0.0.1:5000".into()),
            ..entry("docker.io")
        };
        let merged = merge(&["docker.io".into()], vec![local], &Defaults::default()).unwrap();
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
    fn what_is_said_of_all_registries_holds_where_nothing_else_is_said() {
        let defaults = Defaults {
            auth_file: Some("/all.json".into()),
            certs_dir: Some("/certs.d".into()),
        };
        let shared = |auth_file: Option<&str>| UpstreamEntry {
            access: AccessKind::Shared,
            repositories: vec!["team/*".into()],
            auth_file: auth_file.map(Into::into),
            ..entry("ghcr.io")
        };
        for (own, expected) in [(None, "/all.json"), (Some("/own.json"), "/own.json")] {
            let merged = merge(&["quay.io".into()], vec![shared(own)], &defaults).unwrap();
            let path = PathBuf::from(expected);
            assert_eq!(merged[0].credentials, Some(Credentials::AuthFile { path }));
            // A registry that is public sees no credential, whatever the file holds.
            assert_eq!(merged[1].credentials, None);
            assert!(
                merged
                    .iter()
                    .all(|config| config.certs_dir == defaults.certs_dir)
            );
        }
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
        let cases = [
            (r#""url":"ftp://x""#, "url"),
            (r#""url":"https://u:canary@x""#, "url"),
            (r#""username":"u""#, "go together"),
            (r#""username":"u","password_file":"/p""#, "not `shared`"),
            (r#""access":"shared""#, "needs"),
            (
                r#""access":"shared","username":"u","password_file":"/p""#,
                "repositories",
            ),
            (
                r#""username":"u","password_file":"/p","auth_file":"/a""#,
                "give one of them",
            ),
            (r#""client_key_file":"/k""#, "go together"),
            (r#""connections":0"#, "between 1 and 6"),
            (r#""connections":7"#, "between 1 and 6"),
            (r#""proxy":"socks5://p""#, "http or https proxy"),
            (r#""proxy":"http://u:canary@p""#, "proxy `p` is neither"),
            (r#""no_proxy":["a"]"#, "NO_PROXY"),
        ];
        for (keys, expected) in cases {
            let text = format!(r#"{{"registry":"x.example",{keys}}}"#);
            let entry: UpstreamEntry = serde_json::from_str(&text).unwrap();
            let error = UpstreamConfig::try_from(entry).expect_err(&text);
            let error = error.to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
        assert!(matches!(
            merge(
                &[],
                vec![entry("a.example"), entry("a.example")],
                &Defaults::default()
            ),
            Err(UpstreamRefusal::Twice { .. })
        ));
    }
}
