//! Debian's docker-registry as an upstream, with what it was asked read from its access log.
//!
//! What for: a real registry, not ours, on the far side. What not for: faults (`upstream` does those).

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use shoal_proto::Digest;
use tokio::time::{Instant, sleep};

use super::client;
use super::needs::{DOCKER_REGISTRY, SKOPEO};
use super::ports::Ports;
use super::process::{self, Process};
use super::upstream::Asked;

const READY_WITHIN: Duration = Duration::from_secs(20);
const PUSH_WITHIN: Duration = Duration::from_secs(600);

/// A running docker-registry.
#[derive(Debug)]
pub struct DockerRegistry {
    process: Process,
    address: SocketAddr,
    /// How much of the log tells of what came before the part that is looked at.
    mark: usize,
}

impl DockerRegistry {
    /// Starts one on a free port of loopback with its own storage below `folder`.
    pub async fn start(folder: &Path) -> Result<Self> {
        let address = Ports::default().tcp()?;
        let storage = folder.join("storage");
        fs::create_dir_all(&storage)?;
        let config = serde_json::json!({
            "version": "0.1",
            "log": { "level": "warn", "accesslog": { "disabled": false } },
            "storage": { "filesystem": { "rootdirectory": storage } },
            "http": { "addr": address.to_string() },
        });
        // JSON is YAML.
        let file = folder.join("config.yml");
        fs::write(&file, config.to_string())?;
        let args = ["serve".into(), file.into()];
        let program = DOCKER_REGISTRY.path()?;
        let process = Process::start("docker-registry", &program, &args, &[], &folder.join("log"))?;
        let mut registry = Self {
            process,
            address,
            mark: 0,
        };
        registry.wait_ready().await?;
        Ok(registry)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let (http, deadline) = (client::http(), Instant::now() + READY_WITHIN);
        while http
            .get(format!("http://{}/v2/", self.address))
            .send()
            .await
            .is_err()
        {
            if let Some(status) = self.process.ended()? {
                bail!(
                    "docker-registry ended with {status}: {}",
                    self.process.last_lines(5)
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "docker-registry did not answer within {READY_WITHIN:?}: {}",
                    self.process.last_lines(5)
                );
            }
            sleep(Duration::from_millis(30)).await;
        }
        Ok(())
    }

    /// Has skopeo copy an OCI layout's image here; returns its reference.
    pub async fn push(&self, layout: &Path, repository: &str, tag: &str) -> Result<String> {
        let reference = format!("{}/{repository}:{tag}", self.address);
        let from = format!("oci:{}:{tag}", layout.display());
        let to = format!("docker://{reference}");
        let push = [
            "copy",
            "--quiet",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &from,
            &to,
        ];
        process::run(&SKOPEO.path()?, &push, PUSH_WITHIN).await?;
        Ok(reference)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on `asked` tells only of what comes after this.
    pub fn forget(&mut self) -> Result<()> {
        self.mark = self.process.output()?.len();
        Ok(())
    }

    /// What each blob was asked, and under `None` the manifests, since `forget`.
    pub fn asked(&self) -> Result<BTreeMap<Option<Digest>, Asked>> {
        let log = self.process.output()?;
        Ok(count(log.get(self.mark..).unwrap_or_default()))
    }

    pub async fn stop(&mut self) -> Result<()> {
        self.process.stop().await?;
        Ok(())
    }
}

/// Reads lines such as `127.0.0.1 - - [date] "GET /v2/a/blobs/sha256:… HTTP/1.1" 200 349 "" "agent/1"`.
fn count(log: &str) -> BTreeMap<Option<Digest>, Asked> {
    let mut counts = BTreeMap::<Option<Digest>, Asked>::new();
    for line in log.lines() {
        let mut quoted = line.split('"');
        let (Some(_client), Some(request), Some(outcome)) =
            (quoted.next(), quoted.next(), quoted.next())
        else {
            continue;
        };
        let mut words = request.split(' ');
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            continue;
        };
        let path = path.split('?').next().unwrap_or_default();
        let named = if path.contains("/manifests/") {
            None
        } else if let Some((_, digest)) = path.rsplit_once("/blobs/") {
            let Ok(digest) = digest.parse() else { continue };
            Some(digest)
        } else {
            continue;
        };
        let bytes = outcome
            .split_whitespace()
            .nth(1)
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(0);
        let asked = counts.entry(named).or_default();
        match method {
            "GET" => {
                asked.gets += 1;
                asked.bytes += bytes;
            }
            "HEAD" => asked.heads += 1,
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_is_counted_by_blob_and_uploads_are_not() {
        let digest = "sha256:db3e3a497e375bdd03d5cb9526cc95ac6801303bb62a83a50931ab842762afb8";
        let line = |request: &str, bytes| {
            format!(
                "127.0.0.1 - - [24/Nov/2026:00:14:56 +0000] \"{request} HTTP/1.1\" 200 {bytes} \"\" \"x/1\"\n"
            )
        };
        let log = [
            "{\"level\":\"info\",\"msg\":\"response completed\"}\n".to_owned(),
            line("GET /v2/", 2),
            line("HEAD /v2/demo/app/manifests/v1", 349),
            line(&format!("GET /v2/demo/app/blobs/{digest}"), 1000),
            line(&format!("GET /v2/demo/app/blobs/{digest}?ns=x"), 500),
            line(&format!("HEAD /v2/demo/app/blobs/{digest}"), 1500),
            line("PATCH /v2/demo/app/blobs/uploads/4e1c?_state=x", 0),
        ]
        .concat();
        let counts = count(&log);
        assert_eq!(counts.len(), 2, "{counts:?}");
        assert_eq!(
            counts[&None],
            Asked {
                gets: 0,
                heads: 1,
                bytes: 0
            }
        );
        assert_eq!(
            counts[&Some(digest.parse().expect("a digest"))],
            Asked {
                gets: 2,
                heads: 1,
                bytes: 1500
            }
        );
    }
}
