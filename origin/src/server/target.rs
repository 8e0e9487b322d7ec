//! A path under `/v2/`, and what it names.
//!
//! Not for: whether the names are good (that is `names`) or allowed (that is `upstream`).

use shoal_proto::Digest;

/// Where short paths without a registry lead.
const REGISTRY_DEFAULT: &str = "docker.io";

/// What a request is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) kind: Kind,
}

/// What of the repository.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Blob(Digest),
    Manifest(String),
    Root,
}

impl Target {
    /// Reads path and query. The registry is told by `ns`, or by a first segment that looks like a host.
    pub(super) fn parse(path: &str, query: Option<&str>) -> Option<Self> {
        let rest = path.strip_prefix("/v2")?;
        if rest.is_empty() || rest == "/" {
            return Some(Self {
                registry: String::new(),
                repository: String::new(),
                kind: Kind::Root,
            });
        }
        let rest = rest.strip_prefix('/')?;
        // Names hold slashes, and may hold these words: the last one counts.
        let (name, last) = rest.rsplit_once('/')?;
        let (name, route) = name.rsplit_once('/')?;
        let kind = match route {
            "blobs" => Kind::Blob(last.parse().ok()?),
            "manifests" => Kind::Manifest(last.to_owned()),
            _ => return None,
        };
        let (registry, repository) = match (namespace(query), name.split_once('/')) {
            (Some(registry), _) => (registry, name),
            (None, Some((host, repository)))
                if host == "localhost" || host.contains(['.', ':']) =>
            {
                (host.to_owned(), repository)
            }
            (None, _) => (REGISTRY_DEFAULT.to_owned(), name),
        };
        Some(Self {
            registry,
            repository: repository.to_owned(),
            kind,
        })
    }
}

fn namespace(query: Option<&str>) -> Option<String> {
    let pair = query?
        .split('&')
        .find_map(|pair| pair.strip_prefix("ns="))?;
    (!pair.is_empty()).then(|| pair.replace("%3A", ":").replace("%3a", ":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_registry_repository_and_content() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let blob = Kind::Blob(digest.parse().unwrap());
        let tag = Kind::Manifest("v1".into());
        let cases = [
            (
                format!("/v2/library/app/blobs/{digest}"),
                None,
                Some(("docker.io", "library/app", blob.clone())),
            ),
            (
                "/v2/library/app/manifests/v1".into(),
                None,
                Some(("docker.io", "library/app", tag.clone())),
            ),
            (
                "/v2/quay.io/a/b/manifests/v1".into(),
                None,
                Some(("quay.io", "a/b", tag.clone())),
            ),
            (
                "/v2/127.0.0.1:5000/a/manifests/v1".into(),
                None,
                Some(("127.0.0.1:5000", "a", tag.clone())),
            ),
            (
                "/v2/a/b/manifests/v1".into(),
                Some("ns=127.0.0.1%3A5000"),
                Some(("127.0.0.1:5000", "a/b", tag.clone())),
            ),
            (
                "/v2/a/manifests/x/manifests/v1".into(),
                Some("x=1&ns=quay.io"),
                Some(("quay.io", "a/manifests/x", tag)),
            ),
            ("/v2/a/blobs/sha256:short".into(), None, None),
            ("/v2/a/tags/list".into(), None, None),
            ("/v2/manifests/v1".into(), None, None),
            ("/v1/_ping".into(), None, None),
            ("/".into(), None, None),
        ];
        for (path, query, expected) in cases {
            let parsed = Target::parse(&path, query);
            let parsed = parsed.as_ref().map(|target| {
                (
                    target.registry.as_str(),
                    target.repository.as_str(),
                    target.kind.clone(),
                )
            });
            assert_eq!(parsed, expected, "{path}");
        }
        for root in ["/v2", "/v2/"] {
            assert_eq!(
                Target::parse(root, None).map(|target| target.kind),
                Some(Kind::Root)
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_panics(path in "/v2/[\\PC]{0,80}", query in proptest::option::of("[\\PC]{0,40}")) {
            Target::parse(&path, query.as_deref());
        }
    }
}
