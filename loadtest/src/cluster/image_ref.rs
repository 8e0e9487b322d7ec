//! Image references as people type them, in the full form that containerd wants.
//!
//! What for: `--image busybox`. What not for: checking every rule of the grammar (containerd does).

use anyhow::{Result, bail};

/// `registry/repository:tag` or `registry/repository@digest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef {
    pub registry: String,
    pub repository: String,
    /// With its mark: `:latest`, `@sha256:…`.
    pub reference: String,
    /// `http://` was written in front.
    pub plain_http: bool,
}

impl ImageRef {
    pub fn parse(text: &str) -> Result<Self> {
        let (plain_http, rest) = match text.strip_prefix("http://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("https://").unwrap_or(text)),
        };
        let (registry, path) = match rest.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
                (host, path.to_owned())
            }
            Some(_) => ("docker.io", rest.to_owned()),
            None => ("docker.io", format!("library/{rest}")),
        };
        let (repository, reference) = split_reference(&path);
        let fine = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
        if !(fine(registry) && repository.split('/').all(fine) && reference.len() > 1) {
            bail!("{text:?} is not an image reference; write it as registry/repository:tag");
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            reference,
            plain_http,
        })
    }

    /// The registry as the agent's allow-list spells it.
    #[must_use]
    pub fn registry_spelled(&self) -> String {
        if self.plain_http {
            format!("http://{}", self.registry)
        } else {
            self.registry.clone()
        }
    }
}

fn split_reference(path: &str) -> (String, String) {
    let mark = path.find('@').or_else(|| path.rfind(':'));
    match mark {
        Some(at) => (path[..at].to_owned(), path[at..].to_owned()),
        None => (path.to_owned(), ":latest".to_owned()),
    }
}

impl std::fmt::Display for ImageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_completed_as_every_client_completes_them() {
        for (typed, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("grafana/grafana:11", "docker.io/grafana/grafana:11"),
            ("quay.io/a/b", "quay.io/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("http://10.0.0.1:5000/a/b:v1", "10.0.0.1:5000/a/b:v1"),
            ("ghcr.io/a/b@sha256:00", "ghcr.io/a/b@sha256:00"),
        ] {
            assert_eq!(ImageRef::parse(typed).expect(typed).to_string(), full);
        }
        assert!(
            ImageRef::parse("http://10.0.0.1:5000/a")
                .expect("parses")
                .plain_http
        );
        for wrong in ["", "quay.io/", "quay.io/a:", "quay.io/a b"] {
            assert!(ImageRef::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
