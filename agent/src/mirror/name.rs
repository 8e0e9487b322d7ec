//! Names as the OCI distribution spec writes them: repositories, tags, and the hosts of upstream registries.
//!
//! Pure text rules. Not here: which registries may be asked (`registries`), what a path means (`route`).
//! Holds: a value of these types matches its grammar and its length limit, so it may go into a path, a file name
//! below a directory of ours, or a header without further thought.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use shoal_proto::limits::{REGISTRY_NAME_BYTES_MAX, REPOSITORY_NAME_BYTES_MAX, TAG_BYTES_MAX};

/// Why a text is not the name it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("empty")]
    Empty,
    #[error("longer than {0} bytes")]
    TooLong(usize),
    #[error("not of the form the OCI distribution spec allows")]
    Malformed,
}

/// A repository below a registry: `library/busybox`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RepositoryName(Arc<str>);

/// A tag: `v1.2`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag(Arc<str>);

/// The host of an upstream registry as image references write it, lower case: `docker.io`, `127.0.0.1:5000`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryName(Arc<str>);

impl RepositoryName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RegistryName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the host is this machine, where clients speak plain HTTP without being told to.
    pub fn is_loopback(&self) -> bool {
        let host = self
            .0
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next());
        let host = host.unwrap_or_else(|| self.0.split(':').next().unwrap_or_default());
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        within(text, REPOSITORY_NAME_BYTES_MAX)?;
        if text.split('/').all(is_path_component) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Malformed)
        }
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        within(text, TAG_BYTES_MAX)?;
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let first = text.as_bytes()[0]; // not empty: checked above
        let rest = &text.as_bytes()[1..];
        let good = word(first)
            && rest
                .iter()
                .all(|byte| word(*byte) || matches!(byte, b'.' | b'-'));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Malformed)
        }
    }
}

impl FromStr for RegistryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        within(text, REGISTRY_NAME_BYTES_MAX)?;
        let lower = text.to_ascii_lowercase();
        let (host, port) = match lower
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((ip, rest)) => {
                ip.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| NameError::Malformed)?;
                (
                    None,
                    rest.strip_prefix(':')
                        .or_else(|| (!rest.is_empty()).then_some("")),
                )
            }
            None => match lower.split_once(':') {
                Some((host, port)) => (Some(host), Some(port)),
                None => (Some(lower.as_str()), None),
            },
        };
        if host.is_some_and(|host| !is_host(host)) {
            return Err(NameError::Malformed);
        }
        if port.is_some_and(|port| {
            !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err()
        }) {
            return Err(NameError::Malformed);
        }
        Ok(Self(lower.into()))
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn within(text: &str, max: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        length if length > max => Err(NameError::TooLong(max)),
        _ => Ok(()),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let letters = rest.iter().take_while(|byte| word(byte)).count();
        if letters == 0 {
            return false;
        }
        rest = &rest[letters..];
        let separators = rest.iter().take_while(|byte| !word(byte)).count();
        match &rest[..separators] {
            b"" => return true, // all of the text was letters and single separators between them
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|byte| *byte == b'-') => {}
            _ => return false,
        }
        rest = &rest[separators..];
    }
}

fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repository_names_follow_the_grammar() {
        for good in [
            "a",
            "library/busybox",
            "a.b/c_d/e__f/g-h/i---j",
            "0/1/2",
            "a1/b2.c3",
        ] {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a.-b", ".a", "a.", "-a", "a b",
            "a/../b", "é",
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
        assert!(
            "a".repeat(REPOSITORY_NAME_BYTES_MAX)
                .parse::<RepositoryName>()
                .is_ok()
        );
        assert!(
            "a".repeat(REPOSITORY_NAME_BYTES_MAX + 1)
                .parse::<RepositoryName>()
                .is_err()
        );
    }

    #[test]
    fn tags_follow_the_grammar() {
        for good in ["v1", "_", "latest", "1.2-3_4", "A", "sha256-abc"] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a b", "a:b", "a/b", "ä"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
        assert!("a".repeat(128).parse::<Tag>().is_ok());
        assert!("a".repeat(129).parse::<Tag>().is_err());
    }

    #[test]
    fn registry_names_are_hosts_with_an_optional_port() {
        for good in [
            "docker.io",
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
            "[::1]",
            "GHCR.io",
        ] {
            assert!(good.parse::<RegistryName>().is_ok(), "{good}");
        }
        for bad in [
            "", "a/b", "http://a", "a:", "a:b", "a:99999", "a@b", "-a", "a..b", "[::1", "[zz]:1",
            "[::1]5", "a:+1",
        ] {
            assert!(bad.parse::<RegistryName>().is_err(), "{bad}");
        }
        assert_eq!(
            "GHCR.io".parse::<RegistryName>().unwrap().as_str(),
            "ghcr.io"
        );
    }

    #[test]
    fn loopback_hosts_are_known() {
        for (name, loopback) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:80", true),
            ("docker.io", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(
                name.parse::<RegistryName>().unwrap().is_loopback(),
                loopback,
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in ".{0,300}") {
            let _ = text.parse::<RepositoryName>();
            let _ = text.parse::<Tag>();
            let _ = text.parse::<RegistryName>();
        }

        #[test]
        fn every_name_of_the_grammar_parses(
            name in "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}(/[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,3}){0,3}"
        ) {
            prop_assert!(name.parse::<RepositoryName>().is_ok());
        }

        #[test]
        fn what_parses_has_no_way_out_of_a_directory(text in "[a-z./_:-]{0,40}") {
            if let Ok(name) = text.parse::<RepositoryName>() {
                prop_assert!(name.as_str().split('/').all(|part| !part.is_empty() && part != ".." && part != "."));
            }
            if let Ok(name) = text.parse::<RegistryName>() {
                prop_assert!(!name.as_str().contains('/') && !name.as_str().contains(".."));
            }
        }
    }
}
