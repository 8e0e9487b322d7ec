//! Names that callers send, checked before anything is done with them.
//!
//! For: the grammar of repositories, tags and digests, and Docker Hub's short names. Not for: whether a registry is
//! allowed (that is `upstream`).
//!
//! Invariant: what comes out can stand in a URL's path and in a key of the store as it is.

use oci_spec::distribution::Reference as OciReference;
use shoal_proto::{Digest, limits};

/// A manifest's name inside a repository.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reference {
    Digest(Digest),
    Tag(String),
}

/// A repository of a registry.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Repository {
    pub(crate) registry: String,
    pub(crate) name: String,
}

/// Why a name is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("`{0}` is neither a tag nor a digest")]
    Reference(String),
    #[error("`{0}` is not a repository's name")]
    Repository(String),
}

impl Repository {
    /// Checks a repository's name; short names of Docker Hub are made long.
    pub(crate) fn parse(registry: &str, name: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Repository(shown(name));
        if name.is_empty() || name.len() > limits::REPOSITORY_NAME_BYTES_MAX {
            return Err(wrong());
        }
        let name = if registry == "docker.io" && !name.contains('/') {
            format!("library/{name}")
        } else {
            name.to_owned()
        };
        // The registry is checked elsewhere; a placeholder keeps its grammar out of this.
        let parsed: OciReference = format!("registry.invalid/{name}")
            .parse()
            .map_err(|_| wrong())?;
        if parsed.repository() != name
            || parsed.digest().is_some()
            || parsed.tag() != Some("latest")
        {
            return Err(wrong());
        }
        Ok(Self {
            registry: registry.to_owned(),
            name,
        })
    }
}

impl Reference {
    /// Checks a tag or a digest.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Reference(shown(text));
        if text.contains(':') {
            return text.parse().map(Self::Digest).map_err(|_| wrong());
        }
        let mut bytes = text.bytes();
        let first = bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if first && rest && text.len() <= limits::TAG_BYTES_MAX {
            Ok(Self::Tag(text.to_owned()))
        } else {
            Err(wrong())
        }
    }
}

/// Enough of a wrong name to recognise it.
fn shown(text: &str) -> String {
    text.chars().take(64).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_follow_the_grammar() {
        let cases = [
            ("docker.io", "busybox", Some("library/busybox")),
            ("docker.io", "library/busybox", Some("library/busybox")),
            ("ghcr.io", "a", Some("a")),
            ("ghcr.io", "a/b__c/d-e.f", Some("a/b__c/d-e.f")),
            ("127.0.0.1:5000", "team/app", Some("team/app")),
            ("ghcr.io", "", None),
            ("ghcr.io", "A/b", None),
            ("ghcr.io", "../etc", None),
            ("ghcr.io", "a/../b", None),
            ("ghcr.io", "a//b", None),
            ("ghcr.io", "/a", None),
            ("ghcr.io", "a/", None),
            ("ghcr.io", "a:b", None),
            ("ghcr.io", "a?b", None),
            ("ghcr.io", "a b", None),
            ("ghcr.io", "a@sha256:0000", None),
        ];
        for (registry, name, expected) in cases {
            let parsed = Repository::parse(registry, name)
                .ok()
                .map(|repository| repository.name);
            assert_eq!(parsed.as_deref(), expected, "{registry} {name}");
        }
        assert!(Repository::parse("ghcr.io", &"a/".repeat(200)).is_err());
    }

    #[test]
    fn references_are_tags_or_digests() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            Reference::parse(&digest),
            Ok(Reference::Digest(digest.parse().unwrap()))
        );
        for good in ["latest", "v1.2.3", "_x", "1-2_3.4"] {
            assert_eq!(Reference::parse(good), Ok(Reference::Tag(good.to_owned())));
        }
        for bad in [
            "",
            ".x",
            "-x",
            "a/b",
            "a b",
            "sha256:baddigeststring",
            "é",
            "a%2f",
            &"a".repeat(129),
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_passes_can_leave_its_place(registry in "[a-z.]{1,20}", name in "\\PC{0,60}", tag in "\\PC{0,60}") {
            if let Ok(repository) = Repository::parse(&registry, &name) {
                let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'/' | b'.' | b'_' | b'-');
                proptest::prop_assert!(repository.name.bytes().all(plain));
                proptest::prop_assert!(!repository.name.split('/').any(|part| part.is_empty() || part == "." || part == ".."));
            }
            if let Ok(Reference::Tag(tag)) = Reference::parse(&tag) {
                proptest::prop_assert!(!tag.contains(['/', '?', '#', '%']));
            }
        }
    }
}
