//! Debian's docker-registry as the upstream, with a password: a registry that is not ours, asked as few times as can be.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode, header};
use serde_json::json;
use shoal_daemon::config::Span;

use super::{Stage, body, config, within};
use crate::config::UpstreamEntry;
use crate::config::upstream::AccessKind;
use crate::upstream::scripted::{digest_of, install_provider, noise};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const PASSWORD: &str = "canary-password";
/// That password, as bcrypt at its lowest cost.
const HTPASSWD: &str = "robot:$2b$05$abcdefghijklmnopqrstuuTvmw3qcMpAvEgQGhbFMhqjD3R/evDDW\n";

/// A docker-registry of its own; gone when dropped.
struct DockerRegistry {
    child: Child,
    addr: SocketAddr,
    log: PathBuf,
    client: reqwest::Client,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl DockerRegistry {
    async fn start(dir: &Path) -> Self {
        install_provider();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        let (log, htpasswd) = (dir.join("log"), dir.join("htpasswd"));
        std::fs::write(&htpasswd, HTPASSWD).unwrap();
        // JSON is YAML.
        let config = json!({
            "version": "0.1",
            "log": { "level": "warn" },
            "storage": { "filesystem": { "rootdirectory": dir.join("storage") } },
            "http": { "addr": addr.to_string() },
            "auth": { "htpasswd": { "realm": "real", "path": htpasswd } },
        });
        let file = dir.join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry, from Debian's package of that name");
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .unwrap();
        let registry = Self {
            child,
            addr,
            log,
            client,
        };
        let ready = async {
            while registry
                .client
                .get(registry.url("/v2/"))
                .send()
                .await
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(ready).await;
        registry
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    async fn push_blob(&self, content: &Bytes) {
        let start = self.client.post(self.url("/v2/team/app/blobs/uploads/"));
        let start = within(start.basic_auth("robot", Some(PASSWORD)).send())
            .await
            .unwrap();
        let place = start.headers()[header::LOCATION]
            .to_str()
            .unwrap()
            .to_owned();
        let place = format!("{place}&digest={}", digest_of(content));
        let put = self.client.put(place).basic_auth("robot", Some(PASSWORD));
        let put = within(put.body(content.clone()).send()).await.unwrap();
        assert_eq!(put.status(), StatusCode::CREATED);
    }

    /// An image of these layers, under a tag; answers with its manifest.
    async fn push(&self, tag: &str, layers: &[Bytes]) -> Bytes {
        let configuration = Bytes::from_static(b"{}");
        let describe = |content: &Bytes| {
            json!({
                "mediaType": "application/octet-stream",
                "digest": digest_of(content).to_string(),
                "size": content.len(),
            })
        };
        for content in layers.iter().chain([&configuration]) {
            self.push_blob(content).await;
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": TYPE,
            "config": describe(&configuration),
            "layers": layers.iter().map(describe).collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(manifest.to_string());
        let put = self
            .client
            .put(self.url(&format!("/v2/team/app/manifests/{tag}")));
        let put = put
            .basic_auth("robot", Some(PASSWORD))
            .header("content-type", TYPE);
        let put = within(put.body(manifest.clone()).send()).await.unwrap();
        assert_eq!(put.status(), StatusCode::CREATED);
        manifest
    }

    /// Requests answered with 200 whose path begins so, by whoever is not the test.
    fn asked(&self, method: &Method, path: &str) -> usize {
        self.answered(method, path, StatusCode::OK)
    }

    fn answered(&self, method: &Method, path: &str, status: StatusCode) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        let start = format!("\"{method} /v2/team/app/{path}");
        log.lines()
            .filter(|line| line.contains("shoal-origin/") && line.contains(&start))
            .filter(|line| line.contains(&format!("HTTP/1.1\" {} ", status.as_u16())))
            .count()
    }

    fn entry(&self, dir: &Path) -> UpstreamEntry {
        let password_file = dir.join("password");
        std::fs::write(&password_file, PASSWORD).unwrap();
        UpstreamEntry {
            registry: self.addr.to_string(),
            plain_http: true,
            access: AccessKind::Shared,
            repositories: vec!["team/*".into()],
            username: Some("robot".into()),
            password_file: Some(password_file),
            ..UpstreamEntry::default()
        }
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/team/app/{rest}?ns={}", self.addr)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_clients_of_a_cold_image_cost_one_head_of_its_tag_and_one_get_of_each_part() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(dir.path()).await;
    let layers = [noise(3 << 20, 1), noise(700_001, 2)];
    let manifest = upstream.push("v1", &layers).await;
    let data = tempfile::tempdir().unwrap();
    let stage = Stage::start(data.path(), upstream.entry(dir.path())).await;
    let pulls = (0..100).map(|_| async {
        let tag = stage.get(&upstream.path("manifests/v1")).await;
        assert_eq!(tag.status(), StatusCode::OK);
        assert_eq!(body(tag).await, manifest);
        for layer in &layers {
            let path = upstream.path(&format!("blobs/{}", digest_of(layer)));
            let got = body(stage.get(&path).await).await;
            assert!(got == *layer);
        }
    });
    join_all(pulls).await;
    stage.stop().await;
    let (heads, manifests) = (
        upstream.asked(&Method::HEAD, ""),
        upstream.asked(&Method::GET, "manifests/"),
    );
    assert_eq!((heads, manifests), (1, 1));
    for layer in &layers {
        let path = format!("blobs/{}", digest_of(layer));
        assert_eq!(upstream.asked(&Method::GET, &path), 1, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_tag_is_seen_within_its_time_and_a_stopped_registry_costs_nobody_its_pull() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(dir.path()).await;
    let first = upstream.push("v1", &[noise(1_000, 3)]).await;
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path(), vec![upstream.entry(dir.path())]);
    config.pull.tag_freshness = Span::millis(200);
    config.pull.stale_if_error = Span::secs(3600);
    let stage = Stage::start_as(config).await;
    let path = upstream.path("manifests/v1");
    assert_eq!(body(stage.get(&path).await).await, first);

    let second = upstream.push("v1", &[noise(1_000, 4)]).await;
    let moved = async {
        while body(stage.get(&path).await).await != second {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(moved).await;

    drop(upstream);
    let warned = async {
        loop {
            let answer = stage.get(&path).await;
            assert_eq!(answer.status(), StatusCode::OK);
            let warning = answer.headers().get(header::WARNING).cloned();
            assert_eq!(body(answer).await, second);
            if let Some(warning) = warning {
                return warning;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(within(warned).await.to_str().unwrap().starts_with("299 - "));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_layer_comes_in_parts_from_a_registry_that_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(dir.path()).await;
    // Two parts and a half.
    let layer = noise(40 << 20, 5);
    upstream.push("v1", std::slice::from_ref(&layer)).await;
    let data = tempfile::tempdir().unwrap();
    let entry = UpstreamEntry {
        connections: Some(3),
        ..upstream.entry(dir.path())
    };
    let stage = Stage::start(data.path(), entry).await;
    body(stage.get(&upstream.path("manifests/v1")).await).await;
    let path = format!("blobs/{}", digest_of(&layer));
    let got = body(stage.get(&upstream.path(&path)).await).await;
    assert!(got == layer);
    stage.stop().await;
    let parts = upstream.answered(&Method::GET, &path, StatusCode::PARTIAL_CONTENT);
    assert_eq!((parts, upstream.asked(&Method::GET, &path)), (3, 0));
}
