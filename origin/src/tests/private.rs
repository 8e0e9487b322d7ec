//! Private images: a registry that knows its callers, an origin that asks it about each, and what none of them gets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::response::Response as Reply;
use bytes::Bytes;
use http::Method;
use reqwest::Response;
use shoal_daemon::config::Span;
use shoal_proto::Digest;

use super::{Stage, body, within};
use crate::config::UpstreamEntry;
use crate::config::upstream::AccessKind;
use crate::upstream::scripted::{Scripted, Seen, blob, digest_of, noise, status};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const ONE: &str = "Bearer canary-of-one";
const OTHER: &str = "Bearer canary-of-other";
const CHALLENGE: &str =
    "Bearer realm=\"https://auth.test/token?x=1\",service=\"private\",scope=\"repository:x:pull\"";

/// Which caller may read what, and what there is.
#[derive(Default)]
struct Ledger {
    readers: Mutex<BTreeSet<(String, String)>>,
    content: Mutex<BTreeMap<String, Bytes>>,
    /// What everybody is answered, instead.
    broken: AtomicU16,
    /// Only the base of the API tells the challenge, as Google's registries do.
    challenge_at_base: AtomicBool,
}

/// A registry where each repository has its readers.
struct Guarded {
    scripted: Scripted,
    ledger: Arc<Ledger>,
}

impl Guarded {
    async fn new() -> Self {
        let ledger = Arc::new(Ledger::default());
        let shown = Arc::clone(&ledger);
        let scripted = Scripted::serve(move |seen| answer(&shown, seen)).await;
        Self { scripted, ledger }
    }

    /// `team/app` has a manifest with a tag and a blob.
    fn put(&self, repository: &str, manifest: &'static str, layer: &Bytes) -> (Digest, Digest) {
        let mut content = self.ledger.content.lock().unwrap();
        let body = Bytes::from_static(manifest.as_bytes());
        let (digest, layer_digest) = (digest_of(&body), digest_of(layer));
        let at = |rest: String| format!("/v2/{repository}/{rest}");
        content.insert(at("manifests/v1".into()), body.clone());
        content.insert(at(format!("manifests/{digest}")), body);
        content.insert(at(format!("blobs/{layer_digest}")), layer.clone());
        (digest, layer_digest)
    }

    fn let_in(&self, repository: &str, caller: &str) {
        let entry = (repository.to_owned(), caller.to_owned());
        self.ledger.readers.lock().unwrap().insert(entry);
    }

    fn throw_out(&self, repository: &str, caller: &str) {
        let entry = (repository.to_owned(), caller.to_owned());
        self.ledger.readers.lock().unwrap().remove(&entry);
    }

    fn entry(&self) -> UpstreamEntry {
        UpstreamEntry {
            access: AccessKind::Authorize,
            ..self.scripted.entry()
        }
    }

    async fn get(&self, stage: &Stage, path: &str, caller: Option<&str>) -> Response {
        let url = stage.url(&format!("/v2/{path}?ns={}", self.scripted.addr));
        let mut request = stage.client.get(url);
        if let Some(caller) = caller {
            request = request.header("authorization", caller);
        }
        within(request.send()).await.unwrap()
    }
}

fn answer(ledger: &Ledger, seen: &Seen) -> Reply {
    match ledger.broken.load(Ordering::SeqCst) {
        0 => {}
        code => return status(code),
    }
    let Some(caller) = seen.authorization() else {
        if ledger.challenge_at_base.load(Ordering::SeqCst) && seen.path != "/v2/" {
            return status(401);
        }
        return Reply::builder()
            .status(401)
            .header("www-authenticate", CHALLENGE)
            .header("www-authenticate", "Basic realm=\"second\"")
            .body(Body::empty())
            .unwrap();
    };
    let readers = ledger.readers.lock().unwrap().clone();
    let may = readers.iter().any(|(repository, reader)| {
        reader == caller && seen.path.starts_with(&format!("/v2/{repository}/"))
    });
    if !may {
        return status(403);
    }
    let content = ledger.content.lock().unwrap().get(&seen.path).cloned();
    match content {
        None => status(404),
        Some(bytes) if seen.path.contains("/blobs/") => blob(seen, &bytes),
        Some(bytes) => Reply::builder()
            .header("content-type", TYPE)
            .header("docker-content-digest", digest_of(&bytes).to_string())
            .header("content-length", bytes.len())
            .body(match seen.method {
                Method::HEAD => Body::empty(),
                _ => Body::from(bytes),
            })
            .unwrap(),
    }
}

/// All that a client can tell one answer from another by.
async fn told(response: Response) -> (u16, Vec<String>, Bytes) {
    let status = response.status().as_u16();
    let challenges = response.headers().get_all("www-authenticate");
    let challenges = challenges
        .iter()
        .map(|line| line.to_str().unwrap().to_owned())
        .collect();
    (status, challenges, body(response).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_gets_what_its_own_credential_may_read_and_the_challenge_word_for_word() {
    let registry = Guarded::new().await;
    let layer = noise(3 << 20, 31);
    let (manifest, layer_digest) = registry.put("team/app", "{\"layers\":[1]}", &layer);
    registry.let_in("team/app", ONE);
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), registry.entry()).await;
    let blob_path = format!("team/app/blobs/{layer_digest}");

    for path in ["team/app/manifests/v1", &blob_path] {
        let (status, challenges, _) = told(registry.get(&stage, path, None).await).await;
        assert_eq!(status, 401, "{path}");
        assert_eq!(challenges, [CHALLENGE, "Basic realm=\"second\""]);
    }
    let (status, _, got) = told(
        registry
            .get(&stage, "team/app/manifests/v1", Some(ONE))
            .await,
    )
    .await;
    assert_eq!((status, &got[..]), (200, &b"{\"layers\":[1]}"[..]));
    let (status, _, got) = told(registry.get(&stage, &blob_path, Some(ONE)).await).await;
    assert_eq!((status, got == layer), (200, true));
    // Again, from here: nothing is asked of the registry within the hold.
    let before = registry.scripted.seen().len();
    let by_digest = format!("team/app/manifests/{manifest}");
    for path in ["team/app/manifests/v1", &by_digest, &blob_path] {
        let (status, ..) = told(registry.get(&stage, path, Some(ONE)).await).await;
        assert_eq!(status, 200, "{path}");
    }
    assert_eq!(registry.scripted.seen().len(), before);
    assert_eq!(gets(&registry, "/blobs/"), 1);
    stage.stop().await;
}

/// GETs that were let in.
fn gets(registry: &Guarded, part: &str) -> usize {
    let asked = registry.scripted.asked(part);
    asked
        .iter()
        .filter(|seen| seen.method == Method::GET && seen.authorization().is_some())
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_that_only_the_base_tells_is_relayed_too() {
    let registry = Guarded::new().await;
    let layer = noise(1 << 20, 38);
    let (_, digest) = registry.put("team/app", "{\"layers\":[6]}", &layer);
    registry
        .ledger
        .challenge_at_base
        .store(true, Ordering::SeqCst);
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), registry.entry()).await;
    for path in [
        "team/app/manifests/v1".to_owned(),
        format!("team/app/blobs/{digest}"),
    ] {
        let (status, challenges, _) = told(registry.get(&stage, &path, None).await).await;
        assert_eq!(status, 401, "{path}");
        assert_eq!(challenges, [CHALLENGE, "Basic realm=\"second\""]);
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_of_another_repository_is_as_absent_as_one_that_does_not_exist() {
    let registry = Guarded::new().await;
    let (ours, secret) = (noise(1 << 20, 32), noise(1 << 20, 33));
    let (_, our_layer) = registry.put("team/ours", "{\"layers\":[1]}", &ours);
    let (manifest, layer) = registry.put("team/secret", "{\"layers\":[2]}", &secret);
    registry.let_in("team/ours", ONE);
    registry.let_in("team/secret", OTHER);
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), registry.entry()).await;
    for (repository, digest, caller) in
        [("team/ours", our_layer, ONE), ("team/secret", layer, OTHER)]
    {
        let tag = format!("{repository}/manifests/v1");
        assert_eq!(registry.get(&stage, &tag, Some(caller)).await.status(), 200);
        let path = format!("{repository}/blobs/{digest}");
        let (status, ..) = told(registry.get(&stage, &path, Some(caller)).await).await;
        assert_eq!(status, 200);
    }
    // All of it is held here. What one may not read, by whatever way, looks like what nobody ever made.
    let nothing = digest_of(b"nobody made this");
    for (kind, digest) in [("blobs", layer), ("manifests", manifest)] {
        let absent = registry
            .get(&stage, &format!("team/ours/{kind}/{nothing}"), Some(ONE))
            .await;
        let absent = told(absent).await;
        assert_eq!(absent.0, 404);
        for repository in ["team/ours", "team/secret"] {
            let path = format!("{repository}/{kind}/{digest}");
            let refused = told(registry.get(&stage, &path, Some(ONE)).await).await;
            assert_eq!(refused, absent, "{path}");
        }
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_credential_ends_with_its_hold_and_a_new_one_begins_at_once() {
    let registry = Guarded::new().await;
    let layer = noise(1 << 20, 34);
    let (manifest, digest) = registry.put("team/app", "{\"layers\":[3]}", &layer);
    registry.let_in("team/app", ONE);
    let dir = tempfile::tempdir().unwrap();
    let entry = UpstreamEntry {
        verdict_hold: Some(Span::secs(0)),
        ..registry.entry()
    };
    let stage = Stage::start(dir.path(), entry).await;
    let paths = [
        "team/app/manifests/v1".to_owned(),
        format!("team/app/manifests/{manifest}"),
        format!("team/app/blobs/{digest}"),
    ];
    for path in &paths {
        assert_eq!(registry.get(&stage, path, Some(ONE)).await.status(), 200);
    }
    registry.throw_out("team/app", ONE);
    registry.let_in("team/app", OTHER);
    for path in &paths {
        assert_eq!(registry.get(&stage, path, Some(ONE)).await.status(), 404);
        let (status, ..) = told(registry.get(&stage, path, Some(OTHER)).await).await;
        assert_eq!(status, 200, "{path}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_registry_away_a_yes_holds_and_nobody_else_gets_one() {
    let registry = Guarded::new().await;
    let layer = noise(1 << 20, 35);
    let (_, digest) = registry.put("team/app", "{\"layers\":[4]}", &layer);
    registry.let_in("team/app", ONE);
    registry.let_in("team/app", OTHER);
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), registry.entry()).await;
    let paths = [
        "team/app/manifests/v1".to_owned(),
        format!("team/app/blobs/{digest}"),
    ];
    for path in &paths {
        let (status, ..) = told(registry.get(&stage, path, Some(ONE)).await).await;
        assert_eq!(status, 200, "{path}");
    }
    registry.ledger.broken.store(503, Ordering::SeqCst);
    for path in &paths {
        assert_eq!(registry.get(&stage, path, Some(ONE)).await.status(), 200);
        assert_eq!(registry.get(&stage, path, Some(OTHER)).await.status(), 503);
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_claims_anothers_private_blob_gets_nobody_in() {
    let registry = Guarded::new().await;
    let layer = noise(1 << 20, 36);
    let (_, digest) = registry.put("team/app", "{\"layers\":[5]}", &layer);
    registry.let_in("team/app", ONE);
    let length = layer.len();
    // It has none of the bytes, and says that it has.
    let liar = Scripted::serve(move |seen| match seen.method {
        Method::HEAD => Reply::builder()
            .header("content-length", length)
            .body(Body::empty())
            .unwrap(),
        _ => status(500),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start_with(dir.path(), vec![registry.entry(), liar.entry()]).await;
    let path = format!("team/app/blobs/{digest}");
    let (status, ..) = told(registry.get(&stage, &path, Some(ONE)).await).await;
    assert_eq!(status, 200);
    let elsewhere = format!("/v2/team/app/blobs/{digest}?ns={}", liar.addr);
    assert_eq!(stage.get(&elsewhere).await.status(), 404);
    let head = stage.client.head(stage.url(&elsewhere));
    assert_eq!(within(head.send()).await.unwrap().status(), 404);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_credential_nor_a_private_manifest_is_on_the_origins_disk() {
    let registry = Guarded::new().await;
    let layer = noise(1 << 20, 37);
    let (_, digest) = registry.put("team/app", "{\"layers\":[\"canary-in-manifest\"]}", &layer);
    registry.let_in("team/app", ONE);
    let dir = tempfile::tempdir().unwrap();
    let stage = Stage::start(dir.path(), registry.entry()).await;
    for path in [
        "team/app/manifests/v1".to_owned(),
        format!("team/app/blobs/{digest}"),
    ] {
        let (status, ..) = told(registry.get(&stage, &path, Some(ONE)).await).await;
        assert_eq!(status, 200, "{path}");
    }
    stage.stop().await;
    for canary in ["canary-in-manifest", "canary-of-one"] {
        assert!(!folder_holds(dir.path(), canary), "{canary}");
    }
    assert!(folder_holds(dir.path(), "team") || dir.path().join("blobs").exists());
}

fn folder_holds(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return folder_holds(&path, text);
        }
        let bytes = std::fs::read(&path).unwrap();
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}
