//! `/v2/` paths to what they ask for: which upstream, which repository, which thing.
//!
//! Pure: no header map, no I/O; a test can write every input. Not here: answering.
//! Holds: a `Route` names only registries of the allow-list and names of the grammar; every text that is not such
//! a route becomes a `RouteError` with an OCI code, never a panic and never a 500.
//!
//! The upstream is found in this order: the `ns` query that containerd adds, the `OCI-Namespace` header, the port
//! that a listener was bound to, the first part of the path. Without any of them the request is refused: guessing
//! docker.io would hand out one registry's image under another's name.

use std::borrow::Cow;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use shoal_proto::Digest;

use super::name::{NameError, RegistryName, RepositoryName, Tag};
use super::registries::{Registries, normal_repository};

/// The parts of an HTTP request that decide where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// The `OCI-Namespace` request header.
    pub namespace: Option<&'a str>,
    /// The registry that the listener serves alone.
    pub bound: Option<&'a RegistryName>,
}

/// A repository of an upstream registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub registry: RegistryName,
    pub repository: RepositoryName,
}

/// How a manifest is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    Digest(Digest),
    Tag(Tag),
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Base,
    Blob {
        target: Target,
        digest: Digest,
    },
    Manifest {
        target: Target,
        reference: Reference,
    },
    /// Bring this blob onto the node; ours, below `/shoal/`, not part of the registry protocol.
    Preheat {
        target: Target,
        digest: Digest,
    },
    Referrers {
        target: Target,
        subject: Digest,
    },
    Tags {
        target: Target,
    },
}

/// Why a request leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("`{0}` is not a digest: write sha256:<64 hex digits> or sha512:<128 hex digits>")]
    DigestMalformed(String),
    #[error("digests of the algorithm in `{0}` are not served here")]
    DigestUnsupported(String),
    #[error("`{name}` is not a repository name: {reason}")]
    Name { name: String, reason: NameError },
    #[error(
        "no upstream registry named: add ?ns=<registry>, or ask for /v2/<registry>/<repository>/…"
    )]
    NoRegistry,
    #[error("registry `{0}` is not served here: it is not in the agent's `registries`")]
    NotAllowed(String),
    #[error("`{tag}` is not a tag: {reason}")]
    Tag { tag: String, reason: NameError },
    #[error("no such endpoint")]
    Unknown,
}

impl Route {
    /// Reads a request against the allow-list.
    pub fn parse(asked: Asked<'_>, registries: &Registries) -> Result<Self, RouteError> {
        let path = percent_decode_str(asked.path)
            .decode_utf8()
            .map_err(|_| RouteError::Unknown)?;
        if let Some(rest) = path.strip_prefix("/shoal/preheat/") {
            return match Endpoint::split(rest)? {
                (name, Endpoint::Blob(digest)) => Ok(Self::Preheat {
                    target: find_target(&name, asked, registries)?,
                    digest,
                }),
                _ => Err(RouteError::Unknown),
            };
        }
        match path.strip_prefix("/v2") {
            Some("" | "/") => Ok(Self::Base),
            Some(rest) => {
                let rest = rest.strip_prefix('/').ok_or(RouteError::Unknown)?;
                let (name, endpoint) = Endpoint::split(rest)?;
                let target = find_target(&name, asked, registries)?;
                Ok(match endpoint {
                    Endpoint::Blob(digest) => Self::Blob { target, digest },
                    Endpoint::Manifest(reference) => Self::Manifest { target, reference },
                    Endpoint::Referrers(subject) => Self::Referrers { target, subject },
                    Endpoint::Tags => Self::Tags { target },
                })
            }
            None => Err(RouteError::Unknown),
        }
    }

    /// The upstream that the answer is about.
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Base => None,
            Self::Blob { target, .. }
            | Self::Manifest { target, .. }
            | Self::Preheat { target, .. }
            | Self::Referrers { target, .. }
            | Self::Tags { target } => Some(target),
        }
    }
}

impl FromStr for Reference {
    type Err = RouteError;

    /// A digest has a colon, a tag never has.
    fn from_str(text: &str) -> Result<Self, RouteError> {
        if text.contains(':') {
            return parse_digest(text).map(Self::Digest);
        }
        text.parse()
            .map(Self::Tag)
            .map_err(|reason| RouteError::Tag {
                tag: clip(text),
                reason,
            })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Tag(tag) => tag.fmt(f),
        }
    }
}

/// The end of a path, after the repository's name.
enum Endpoint {
    Blob(Digest),
    Manifest(Reference),
    Referrers(Digest),
    Tags,
}

impl Endpoint {
    /// Splits from the right: a repository may well be called `a/blobs/b`.
    fn split(rest: &str) -> Result<(Cow<'_, str>, Self), RouteError> {
        let (head, last) = rest.rsplit_once('/').ok_or(RouteError::Unknown)?;
        let (name, kind) = head.rsplit_once('/').ok_or(RouteError::Unknown)?;
        let endpoint = match kind {
            "blobs" => Self::Blob(parse_digest(last)?),
            "manifests" => Self::Manifest(last.parse()?),
            "referrers" => Self::Referrers(parse_digest(last)?),
            "tags" if last == "list" => Self::Tags,
            _ => return Err(RouteError::Unknown),
        };
        Ok((Cow::Borrowed(name), endpoint))
    }
}

fn find_target(
    name: &str,
    asked: Asked<'_>,
    registries: &Registries,
) -> Result<Target, RouteError> {
    let query = asked.query.and_then(|query| {
        form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == "ns")
            .map(|(_, value)| value)
    });
    let named = query
        .or_else(|| asked.namespace.map(Cow::Borrowed))
        .filter(|named| !named.is_empty());
    let (registry, repository) = match (named, asked.bound) {
        (Some(named), _) => (resolve(&named, registries)?, name),
        (None, Some(bound)) => (bound.clone(), name),
        (None, None) => {
            let (first, repository) = name.split_once('/').ok_or(RouteError::NoRegistry)?;
            // A first part that cannot be a host is an ordinary name without a registry.
            match registries.resolve_in_path(first) {
                Some(registry) => (registry, repository),
                None if first.contains(['.', ':']) || first == "localhost" => {
                    return Err(RouteError::NotAllowed(clip(first)));
                }
                None => return Err(RouteError::NoRegistry),
            }
        }
    };
    let repository =
        normal_repository(&registry, repository).map_err(|reason| RouteError::Name {
            name: clip(repository),
            reason,
        })?;
    Ok(Target {
        registry,
        repository,
    })
}

fn resolve(named: &str, registries: &Registries) -> Result<RegistryName, RouteError> {
    registries
        .resolve(named)
        .ok_or_else(|| RouteError::NotAllowed(clip(named)))
}

fn parse_digest(text: &str) -> Result<Digest, RouteError> {
    if let Ok(digest) = text.parse() {
        return Ok(digest);
    }
    let unknown = text.split_once(':').is_some_and(|(algorithm, encoded)| {
        !matches!(algorithm, "sha256" | "sha512") && is_algorithm(algorithm) && is_encoded(encoded)
    });
    Err(if unknown {
        RouteError::DigestUnsupported(clip(text))
    } else {
        RouteError::DigestMalformed(clip(text))
    })
}

fn is_algorithm(text: &str) -> bool {
    text.split(['+', '.', '_', '-']).all(|part| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

fn is_encoded(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-'))
}

/// What a client wrote, short enough for an error body and a log line.
fn clip(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    text.chars()
        .filter(|char| !char.is_control())
        .take(SHOWN_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA256: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn registries() -> Registries {
        Registries::try_new(
            ["docker.io", "quay.io", "127.0.0.1:5000"],
            [("hub.lan", "docker.io")],
        )
        .unwrap()
    }

    fn parse(path: &str, query: Option<&str>) -> Result<Route, RouteError> {
        Route::parse(
            Asked {
                path,
                query,
                namespace: None,
                bound: None,
            },
            &registries(),
        )
    }

    fn check_target(route: Result<Route, RouteError>, registry: &str, repository: &str) {
        let route = route.unwrap();
        let target = route.target().unwrap();
        assert_eq!(
            (target.registry.as_str(), target.repository.as_str()),
            (registry, repository)
        );
    }

    #[test]
    fn the_base_is_known_with_and_without_its_slash() {
        assert_eq!(parse("/v2/", None), Ok(Route::Base));
        assert_eq!(parse("/v2", None), Ok(Route::Base));
    }

    #[test]
    fn ns_names_the_upstream() {
        check_target(
            parse("/v2/library/app/manifests/v1", Some("ns=docker.io")),
            "docker.io",
            "library/app",
        );
        check_target(
            parse("/v2/a/manifests/v1", Some("ns=127.0.0.1%3A5000")),
            "127.0.0.1:5000",
            "a",
        );
        check_target(
            parse(&format!("/v2/a/b/blobs/{SHA256}"), Some("x=1&ns=hub.lan")),
            "docker.io",
            "a/b",
        );
        let header = Asked {
            path: "/v2/a/tags/list",
            query: None,
            namespace: Some("quay.io"),
            bound: None,
        };
        check_target(Route::parse(header, &registries()), "quay.io", "a");
    }

    #[test]
    fn a_path_prefix_names_the_upstream() {
        check_target(
            parse("/v2/docker.io/busybox/manifests/v1", None),
            "docker.io",
            "library/busybox",
        );
        check_target(
            parse("/v2/127.0.0.1:5000/a/b/manifests/v1", None),
            "127.0.0.1:5000",
            "a/b",
        );
        check_target(
            parse("/v2/127.0.0.1_5000/a/b/manifests/v1", None),
            "127.0.0.1:5000",
            "a/b",
        );
        check_target(
            parse("/v2/hub.lan/library/app/tags/list", None),
            "docker.io",
            "library/app",
        );
    }

    #[test]
    fn a_bound_port_names_the_upstream_unless_ns_does() {
        let hub: RegistryName = "docker.io".parse().unwrap();
        let ask = |path, query| {
            Route::parse(
                Asked {
                    path,
                    query,
                    namespace: None,
                    bound: Some(&hub),
                },
                &registries(),
            )
        };
        check_target(
            ask("/v2/library/app/manifests/v1", None),
            "docker.io",
            "library/app",
        );
        check_target(
            ask("/v2/quay.io/app/manifests/v1", None),
            "docker.io",
            "quay.io/app",
        );
        check_target(
            ask("/v2/app/manifests/v1", Some("ns=quay.io")),
            "quay.io",
            "app",
        );
    }

    #[test]
    fn without_a_registry_there_is_no_guess() {
        assert_eq!(
            parse("/v2/library/app/manifests/v1", None),
            Err(RouteError::NoRegistry)
        );
        assert_eq!(
            parse("/v2/app/manifests/v1", Some("ns=")),
            Err(RouteError::NoRegistry)
        );
    }

    #[test]
    fn a_registry_off_the_list_is_refused_however_it_is_named() {
        for (path, query) in [
            ("/v2/a/manifests/v1", Some("ns=169.254.169.254")),
            ("/v2/a/manifests/v1", Some("ns=docker.io@evil.test")),
            ("/v2/evil.test/a/manifests/v1", None),
            ("/v2/localhost/a/manifests/v1", None),
        ] {
            assert!(
                matches!(parse(path, query), Err(RouteError::NotAllowed(_))),
                "{path} {query:?}"
            );
        }
    }

    #[test]
    fn names_with_endpoint_words_split_from_the_right() {
        let ns = Some("ns=quay.io");
        check_target(
            parse(&format!("/v2/a/blobs/b/blobs/{SHA256}"), ns),
            "quay.io",
            "a/blobs/b",
        );
        check_target(
            parse("/v2/manifests/manifests/manifests", ns),
            "quay.io",
            "manifests",
        );
        check_target(parse("/v2/tags/list/tags/list", ns), "quay.io", "tags/list");
    }

    #[test]
    fn bad_names_tags_and_digests_each_have_their_error() {
        let ns = Some("ns=quay.io");
        let error = |path: &str| parse(path, ns).unwrap_err();
        assert!(matches!(
            error("/v2/A/manifests/v1"),
            RouteError::Name { .. }
        ));
        assert!(matches!(
            error("/v2/a/../b/manifests/v1"),
            RouteError::Name { .. }
        ));
        assert!(matches!(
            error("/v2/a/manifests/.v1"),
            RouteError::Tag { .. }
        ));
        assert!(matches!(
            error("/v2/a/manifests/sha256:baddigeststring"),
            RouteError::DigestMalformed(_)
        ));
        assert!(matches!(
            error("/v2/a/blobs/sha256:AB"),
            RouteError::DigestMalformed(_)
        ));
        assert!(matches!(
            error("/v2/a/blobs/nonsense"),
            RouteError::DigestMalformed(_)
        ));
        assert!(matches!(
            error("/v2/a/blobs/sha384:abcd"),
            RouteError::DigestUnsupported(_)
        ));
        assert!(matches!(
            error("/v2/a/referrers/x"),
            RouteError::DigestMalformed(_)
        ));
        for path in [
            "/",
            "",
            "/v1/",
            "/v2x",
            "/v2/_catalog",
            "/v2/a",
            "/v2/a/tags/x",
            "/v2//",
            "/%ff",
            "/shoal/preheat/a/manifests/b",
        ] {
            assert_eq!(error(path), RouteError::Unknown, "{path}");
        }
    }

    #[test]
    fn sha512_is_served() {
        let digest = format!("sha512:{}", "b".repeat(128));
        assert!(matches!(
            parse(&format!("/v2/a/blobs/{digest}"), Some("ns=quay.io")),
            Ok(Route::Blob { .. })
        ));
    }

    #[test]
    fn preheat_takes_blobs_only() {
        let route = parse(
            &format!("/shoal/preheat/a/blobs/{SHA256}"),
            Some("ns=quay.io"),
        );
        assert!(matches!(route, Ok(Route::Preheat { .. })));
    }

    proptest! {
        #[test]
        fn any_request_is_routed_or_refused(path in "(/v2/|/)?.{0,120}", query in prop::option::of(".{0,60}")) {
            if let Ok(route) = parse(&path, query.as_deref()) {
                check_listed(&route)?;
            }
        }

        #[test]
        fn requests_near_the_grammar_reach_only_listed_registries(
            host in "([a-z0-9.:]{0,12}|docker.io|quay.io)",
            parts in prop::collection::vec("[a-z0-9._/:-]{0,12}|blobs|manifests|tags|list", 1..6),
            ns in prop::option::of("[a-z0-9.:]{0,12}|quay.io"),
        ) {
            let query = ns.map(|ns| format!("ns={ns}"));
            if let Ok(route) = parse(&format!("/v2/{host}/{}", parts.join("/")), query.as_deref()) {
                check_listed(&route)?;
            }
        }

        #[test]
        fn a_well_formed_request_is_routed_as_written(name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){1,4}", tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}") {
            let route = parse(&format!("/v2/{name}/manifests/{tag}"), Some("ns=quay.io")).unwrap();
            let Route::Manifest { target, reference } = route else { panic!("not a manifest") };
            prop_assert_eq!(target.repository.as_str(), name);
            prop_assert_eq!(reference.to_string(), tag);
        }
    }

    fn check_listed(route: &Route) -> Result<(), TestCaseError> {
        if let Some(target) = route.target() {
            prop_assert!(
                registries()
                    .iter()
                    .any(|registry| registry.name == target.registry)
            );
            prop_assert!(target.repository.as_str().parse::<RepositoryName>().is_ok());
        }
        Ok(())
    }
}
