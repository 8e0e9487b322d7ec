//! A search for what must not be found: credentials, tokens and signed addresses, in everything that leaves memory.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::response::Response as Reply;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, header};
use tracing_subscriber::fmt::MakeWriter;

use super::{Stage, blob_path, within};
use crate::config::UpstreamEntry;
use crate::config::upstream::AccessKind;
use crate::upstream::scripted::{Scripted, blob, digest_of, json, noise, status, with};

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","x":"found where it is kept"}"#;

/// All that was logged.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<u8>>>);

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Ear {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What a registry knows of its users, under one name each.
fn secrets() -> Vec<(&'static str, String)> {
    vec![
        ("password", "canary-password".to_owned()),
        ("Basic", STANDARD.encode("robot:canary-password")),
        ("token", "canary-token".to_owned()),
        ("signature", "canary-signature".to_owned()),
        ("identity token", "canary-identity".to_owned()),
    ]
}

fn finds(place: &[u8], text: &str) -> bool {
    place
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[track_caller]
fn none_in(place: &str, bytes: &[u8]) {
    for (name, secret) in secrets() {
        if finds(bytes, &secret) {
            let text = String::from_utf8_lossy(bytes);
            let line = text.lines().find(|line| line.contains(&secret));
            panic!("the {name} is in {place}: {line:?}");
        }
    }
}

fn files_below(folder: &Path, out: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, out);
        } else {
            out.push(std::fs::read(path).unwrap());
        }
    }
}

/// A registry with a token server and a content network, in which everything that is secret is a canary.
async fn serve(layer: &Bytes, cdn: &Scripted) -> Scripted {
    let target = format!("http://{}/blob?sig=canary-signature", cdn.addr);
    let (robot, digest) = (
        format!("Basic {}", secrets()[1].1),
        digest_of(layer).to_string(),
    );
    Scripted::serve(move |seen| {
        let host = seen.headers[header::HOST].to_str().unwrap();
        let token = json(r#"{"token":"canary-token","refresh_token":"canary-identity"}"#);
        match (seen.path.as_str(), seen.authorization()) {
            ("/token", Some(given)) if given == robot => token,
            ("/token", _) if seen.method == Method::POST => token,
            ("/token", _) => status(401),
            (path, Some("Bearer canary-token")) if path.contains(&digest) => {
                with(307, "location", &target)
            }
            (path, Some("Bearer canary-token")) if path.contains("/blobs/") => with(
                307,
                "location",
                "http://127.0.0.1:1/gone?sig=canary-signature",
            ),
            (path, Some("Bearer canary-token")) if path.contains("/manifests/v1") => {
                Reply::builder()
                    .header("content-type", "application/vnd.oci.image.manifest.v1+json")
                    .header(
                        "docker-content-digest",
                        digest_of(MANIFEST.as_bytes()).to_string(),
                    )
                    .header("content-length", MANIFEST.len())
                    .body(if seen.method == Method::HEAD {
                        Body::empty()
                    } else {
                        Body::from(MANIFEST)
                    })
                    .unwrap()
            }
            (path, Some("Bearer canary-token")) if path.contains("/manifests/sha256:") => {
                Reply::new(Body::from(MANIFEST))
            }
            (_, Some("Bearer canary-token")) => status(403),
            _ => with(
                401,
                "www-authenticate",
                &format!("Bearer realm=\"http://{host}/token\",service=\"s\""),
            ),
        }
    })
    .await
}

/// Asks an origin for all there is and is not; answers with all that it said.
async fn hear(stage: &Stage, scripted: &Scripted, layer: &Bytes) -> Vec<u8> {
    let mut heard = Vec::new();
    for path in [
        format!("/v2/team/app/manifests/v1?ns={}", scripted.addr),
        format!("/v2/team/app/manifests/v2?ns={}", scripted.addr),
        blob_path(scripted, &digest_of(layer)),
        blob_path(scripted, &digest_of(b"absent")),
    ] {
        let answer = stage.get(&path).await;
        heard.extend(format!("{answer:?}").into_bytes());
        heard.extend(within(answer.bytes()).await.unwrap());
    }
    heard.extend(stage.origin.status().await.to_string().into_bytes());
    heard.extend(format!("{:?}", stage.origin).into_bytes());
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_logs_metrics_answers_status_or_on_disk() {
    let ear = Ear::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(ear.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber)
        .expect("no other test of this process listens");
    let metrics = shoal_daemon::metrics::install("test").unwrap();

    let layer = noise(300_000, 90);
    let sent = layer.clone();
    let cdn = Scripted::serve(move |seen| blob(seen, &sent)).await;
    let scripted = serve(&layer, &cdn).await;
    let files = tempfile::tempdir().unwrap();
    let entries = [
        r#"{"auth":"cm9ib3Q6Y2FuYXJ5LXBhc3N3b3Jk"}"#,
        r#"{"identitytoken":"canary-identity"}"#,
        r#"{"registrytoken":"canary-token"}"#,
        r#"{"auth":"cm9ib3Q6Y2FuYXJ5LXBhc3N3b3Jk", "canary-password"}"#,
    ];
    for (number, entry) in entries.into_iter().enumerate() {
        let path = files.path().join("config.json");
        let config = format!(r#"{{"auths":{{"{}":{entry}}}}}"#, scripted.addr);
        std::fs::write(&path, config).unwrap();
        let upstream = UpstreamEntry {
            access: AccessKind::Shared,
            repositories: vec!["*".into()],
            auth_file: Some(path),
            ..scripted.entry()
        };
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::start(dir.path(), upstream).await;
        let heard = hear(&stage, &scripted, &layer).await;
        stage.stop().await;
        none_in("what it says", &heard);
        let mut kept = Vec::new();
        files_below(dir.path(), &mut kept);
        kept.iter()
            .for_each(|file| none_in("the data folder", file));
        // What is there is found, so the search is one; the last file is no config.json.
        let known = "found where it is kept";
        assert_eq!(finds(&heard, known), number < 3);
        assert_eq!(kept.iter().any(|file| finds(file, known)), number < 3);
    }
    let logs = ear.0.lock().unwrap().clone();
    none_in("the logs", &logs);
    assert!(finds(&logs, "hyper_util"), "others' lines are searched too");
    assert!(finds(&logs, "is not a Docker config.json"));
    let told = metrics.render();
    none_in("the metrics", told.as_bytes());
    let of = format!(r#"{{registry="{}",code="307"}}"#, scripted.addr);
    let count = format!("shoal_upstream_requests_total{of}");
    assert!(told.contains(&count), "{told}");
}
