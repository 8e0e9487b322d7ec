//! Docker's `config.json`: which of its credentials is for a repository, or which helper program has it.
//!
//! For: `auths` by host, by URL and (podman) by host and the first parts of a repository, `credHelpers`,
//! `credsStore`, and the older `.dockercfg` without `auths` around it. Not for: reading files or running programs.
//!
//! The longest match wins. A credential that stands in the file wins over a helper, a helper for the registry over
//! the store for all. Everything comes from outside: nothing panics, and no text of the file is repeated.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Secret;

/// What Docker Hub is called where credentials are kept.
const HUB_SERVER: &str = "https://index.docker.io/v1/";
const HUB: &str = "docker.io";

/// A helper program, and what it is to be asked for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Holder {
    /// Behind `docker-credential-`; not checked yet.
    pub(crate) program: String,
    pub(crate) server: String,
}

/// A file as it is read, by place: a host, or a host and the first parts of a repository.
#[derive(Debug, Default)]
pub(crate) struct DockerConfig {
    secrets: BTreeMap<String, Secret>,
    helpers: BTreeMap<String, Holder>,
    store: Option<String>,
}

#[derive(Deserialize)]
struct File {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    #[serde(rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl DockerConfig {
    /// Reads a file.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let file: File = serde_json::from_slice(text).map_err(|_| "it is no JSON of that shape")?;
        let entries = if file.auths.is_none() && file.helpers.is_none() && file.store.is_none() {
            // The form before there was anything but credentials in it.
            serde_json::from_slice(text).unwrap_or_default()
        } else {
            file.auths.unwrap_or_default()
        };
        let mut config = Self {
            store: file.store,
            ..Self::default()
        };
        for (key, entry) in entries {
            if let Some(secret) = entry.and_then(Entry::into_secret) {
                config.secrets.insert(place_of(&key), secret);
            }
        }
        for (key, program) in file.helpers.unwrap_or_default() {
            let place = place_of(&key);
            let server = if place == HUB {
                HUB_SERVER.to_owned()
            } else {
                key
            };
            config.helpers.insert(place, Holder { program, server });
        }
        Ok(config)
    }

    /// The credential that stands in the file for a repository.
    pub(crate) fn take(&mut self, registry: &str, repository: &str) -> Option<Secret> {
        places(registry, repository).find_map(|place| self.secrets.remove(&place))
    }

    /// The helper program that has it.
    pub(crate) fn holder(&self, registry: &str, repository: &str) -> Option<Holder> {
        let named = places(registry, repository).find_map(|place| self.helpers.get(&place));
        named.cloned().or_else(|| {
            let server = match place_of(registry) {
                place if place == HUB => HUB_SERVER.to_owned(),
                place => place,
            };
            let program = self.store.clone()?;
            Some(Holder { program, server })
        })
    }
}

impl Entry {
    fn into_secret(self) -> Option<Secret> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty()).map(Zeroizing::new);
        let password = given(self.password);
        let (username, password) = match given(self.auth).as_deref().and_then(|auth| decode(auth)) {
            Some((username, password)) => (Some(username), Some(password)),
            None => (self.username.filter(|name| !name.is_empty()), password),
        };
        if let Some(token) = given(self.registrytoken) {
            return Some(Secret::Registry { token });
        }
        if let Some(token) = given(self.identitytoken) {
            return Some(Secret::Identity { username, token });
        }
        Some(Secret::Password {
            username: username?,
            password: password?,
        })
    }
}

/// `user:password` in base64, as Docker writes it.
fn decode(auth: &str) -> Option<(String, Zeroizing<String>)> {
    let bytes = Zeroizing::new(STANDARD.decode(auth.trim()).ok()?);
    let (username, password) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    // Some versions of Docker wrote zeros behind it.
    let password = Zeroizing::new(password.trim_end_matches('\0').to_owned());
    (!username.is_empty()).then(|| (username.to_owned(), password))
}

/// The places a repository's credential may stand at, the longest first.
fn places(registry: &str, repository: &str) -> impl Iterator<Item = String> {
    let whole = format!("{}/{repository}", place_of(registry));
    let mut next = Some(whole);
    std::iter::from_fn(move || {
        let place = next.take()?;
        next = place
            .rsplit_once('/')
            .map(|(shorter, _)| shorter.to_owned());
        Some(place)
    })
}

/// One name for all the ways to write one: without scheme, API version, end of path, or Docker Hub's other names.
fn place_of(key: &str) -> String {
    let key = key.trim();
    let key = ["https://", "http://"]
        .iter()
        .find_map(|scheme| key.strip_prefix(scheme))
        .unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let host = match host.to_ascii_lowercase() {
        hub if matches!(hub.as_str(), "index.docker.io" | "registry-1.docker.io") => HUB.to_owned(),
        host => host,
    };
    let path = path.trim_matches('/');
    if path.is_empty() || matches!(path, "v1" | "v2") {
        host
    } else {
        format!("{host}/{path}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(secret: Option<Secret>) -> String {
        match secret {
            None => "none".into(),
            Some(Secret::Identity { username, token }) => {
                format!(
                    "identity {} {}",
                    username.unwrap_or_default(),
                    token.as_str()
                )
            }
            Some(Secret::Password { username, password }) => {
                format!("{username}:{}", password.as_str())
            }
            Some(Secret::Registry { token }) => format!("registry {}", token.as_str()),
        }
    }

    #[track_caller]
    fn check(file: &str, registry: &str, repository: &str, expected: &str) {
        let mut config = DockerConfig::parse(file.as_bytes()).unwrap();
        let found = shown(config.take(registry, repository));
        assert_eq!(found, expected, "{registry}/{repository} in {file}");
    }

    #[test]
    fn hosts_are_found_however_they_are_written() {
        // u:p
        for key in [
            "ghcr.io",
            "https://ghcr.io",
            "http://GHCR.io/",
            "https://ghcr.io/v2/",
            "ghcr.io/v1",
        ] {
            let file = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#);
            check(&file, "ghcr.io", "team/app", "u:p");
            check(&file, "quay.io", "team/app", "none");
        }
        for key in [
            "https://index.docker.io/v1/",
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
        ] {
            let file = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#);
            check(&file, "docker.io", "library/busybox", "u:p");
        }
        let port = r#"{"auths":{"reg.example:5000":{"auth":"dTpw"}}}"#;
        check(port, "reg.example:5000", "app", "u:p");
        check(port, "reg.example", "app", "none");
    }

    #[test]
    fn longest_place_wins() {
        let file = r#"{"auths":{
            "quay.io": {"username":"all","password":"1"},
            "quay.io/team": {"username":"team","password":"2"},
            "quay.io/team/app": {"username":"app","password":"3"}}}"#;
        check(file, "quay.io", "team/app", "app:3");
        check(file, "quay.io", "team/app/part", "app:3");
        check(file, "quay.io", "team/other", "team:2");
        check(file, "quay.io", "teamster/app", "all:1");
    }

    #[test]
    fn all_kinds_of_entries_are_read() {
        let cases = [
            (r#"{"auth":"dTpwOng="}"#, "u:p:x"),
            (r#"{"auth":"dTpwAAA="}"#, "u:p"),
            (r#"{"username":"u","password":"p"}"#, "u:p"),
            (r#"{"auth":"","username":"u","password":"p"}"#, "u:p"),
            (r#"{"auth":"dTpw","identitytoken":"t"}"#, "identity u t"),
            (r#"{"identitytoken":"t"}"#, "identity  t"),
            (r#"{"registrytoken":"t"}"#, "registry t"),
            (r#"{"auth":"!"}"#, "none"),
            (r#"{"auth":"dQ=="}"#, "none"),
            (r#"{"email":"x"}"#, "none"),
            ("{}", "none"),
            ("null", "none"),
        ];
        for (entry, expected) in cases {
            check(
                &format!(r#"{{"auths":{{"a.example":{entry}}}}}"#),
                "a.example",
                "app",
                expected,
            );
        }
        // Kubernetes' older secret type has no `auths` around it.
        check(
            r#"{"a.example":{"auth":"dTpw"}}"#,
            "a.example",
            "app",
            "u:p",
        );
    }

    #[test]
    fn helper_of_the_registry_comes_before_the_store_of_all() {
        let file = r#"{"credsStore":"desktop","credHelpers":{"1.dkr.ecr.example":"ecr-login","quay.io/team":"box"}}"#;
        let config = DockerConfig::parse(file.as_bytes()).unwrap();
        let holder = |registry, repository| {
            let holder: Holder = config.holder(registry, repository).unwrap();
            format!("{} {}", holder.program, holder.server)
        };
        assert_eq!(
            holder("1.dkr.ecr.example", "app"),
            "ecr-login 1.dkr.ecr.example"
        );
        assert_eq!(holder("quay.io", "team/app"), "box quay.io/team");
        assert_eq!(holder("quay.io", "other/app"), "desktop quay.io");
        assert_eq!(
            holder("docker.io", "library/x"),
            "desktop https://index.docker.io/v1/"
        );
        assert_eq!(DockerConfig::parse(b"{}").unwrap().holder("a", "b"), None);
    }

    #[test]
    fn what_is_no_config_is_refused_without_a_word_of_it() {
        for file in [
            "",
            "canary",
            "[]",
            r#"{"auths":["canary"]}"#,
            r#"{"auths":{"a":{"auth":7}}}"#,
        ] {
            let why = DockerConfig::parse(file.as_bytes()).unwrap_err();
            assert!(!why.contains("canary"), "{why}");
        }
    }
}
