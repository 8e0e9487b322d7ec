//! Tags and manifests through an origin: asked once, believed when checked, old only when nothing newer can be had.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response as Reply;
use bytes::Bytes;
use http::Method;
use shoal_peer::store::disk::OsDisk;
use shoal_peer::store::{Store, StoreOptions};
use shoal_peer::{ManifestAnswer, ManifestAsk};
use shoal_proto::CallerKey;
use shoal_proto::wire::{Refusal, RefusalCode};
use tokio_util::task::TaskTracker;

use super::{source, within};
use crate::clock::WallClock;
use crate::config::UpstreamConfig;
use crate::manifests::{Freshness, Manifests};
use crate::policy::Policy;
use crate::upstream::scripted::{Scripted, digest_of, impatient, install_provider, status};
use crate::upstream::{Timeouts, Upstreams};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry with one tag that can be moved, and that can be broken.
struct Tagged {
    scripted: Scripted,
    content: Arc<Mutex<Bytes>>,
    broken: Arc<Mutex<Option<u16>>>,
}

impl Tagged {
    async fn new() -> Self {
        let content = Arc::new(Mutex::new(manifest(1)));
        let broken = Arc::new(Mutex::new(None));
        let (shown, state) = (Arc::clone(&content), Arc::clone(&broken));
        let known = Mutex::new(vec![manifest(1)]);
        let scripted = Scripted::serve(move |seen| {
            if let Some(code) = *state.lock().unwrap() {
                return status(code);
            }
            let now = shown.lock().unwrap().clone();
            let mut known = known.lock().unwrap();
            known.push(now.clone());
            let name = seen.path.rsplit('/').next().unwrap_or_default();
            let found = if name == "v1" {
                Some(now)
            } else {
                known
                    .iter()
                    .find(|body| digest_of(body).to_string() == name)
                    .cloned()
            };
            let Some(body) = found else {
                return status(404);
            };
            let reply = Reply::builder()
                .header("content-type", TYPE)
                .header("docker-content-digest", digest_of(&body).to_string())
                .header("content-length", body.len());
            reply
                .body(if seen.method == Method::HEAD {
                    Body::empty()
                } else {
                    Body::from(body)
                })
                .unwrap()
        })
        .await;
        Self {
            scripted,
            content,
            broken,
        }
    }

    fn count(&self, method: &Method) -> usize {
        self.scripted
            .seen()
            .iter()
            .filter(|seen| seen.method == *method)
            .count()
    }
}

/// What answers, with a clock that the test sets.
struct Desk {
    manifests: Manifests,
    now_ms: Arc<AtomicU64>,
    source: shoal_proto::wire::Source,
}

impl Desk {
    fn new(tagged: &Tagged, dir: &std::path::Path) -> Self {
        install_provider();
        let (store, _) = Store::open(StoreOptions::new(dir), Arc::new(OsDisk)).unwrap();
        let config = UpstreamConfig::try_from(tagged.scripted.entry()).unwrap();
        let timeouts = Timeouts {
            header: Duration::from_millis(400),
            ..impatient()
        };
        let upstreams = Arc::new(Upstreams::new(vec![config], false, timeouts));
        let now_ms = Arc::new(AtomicU64::new(1_700_000_000_000));
        let told = Arc::clone(&now_ms);
        let clock = WallClock::new(move || told.load(Ordering::SeqCst));
        let freshness = Freshness {
            fresh_for: Duration::from_secs(30),
            stale_if_error: Duration::from_secs(24 * 3_600),
        };
        let policy = Policy::new(Arc::clone(&upstreams), CallerKey::new([1; 32]));
        let manifests = Manifests::new(
            upstreams,
            policy,
            store,
            freshness,
            clock,
            TaskTracker::new(),
        );
        Self {
            manifests,
            now_ms,
            source: source(&tagged.scripted),
        }
    }

    fn pass(&self, seconds: u64) {
        self.now_ms.fetch_add(seconds * 1_000, Ordering::SeqCst);
    }

    async fn ask(&self, reference: &str) -> Result<ManifestAnswer, Refusal> {
        self.ask_for(reference, &[]).await
    }

    async fn ask_for(&self, reference: &str, accept: &[&str]) -> Result<ManifestAnswer, Refusal> {
        let accept = accept.iter().map(|line| (*line).to_owned()).collect();
        let ask = ManifestAsk {
            source: self.source.clone(),
            reference: reference.to_owned(),
            accept,
            head: false,
        };
        within(self.manifests.answer(&ask)).await
    }
}

fn manifest(number: u32) -> Bytes {
    Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{TYPE}","number":{number}}}"#
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_askers_of_a_tag_cost_one_head_and_one_get() {
    let tagged = Tagged::new().await;
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(&tagged, dir.path());
    for answer in futures_util::future::join_all((0..100).map(|_| desk.ask("v1"))).await {
        let answer = answer.unwrap();
        assert_eq!(
            (answer.digest, &answer.body, answer.stale),
            (digest_of(&manifest(1)), &manifest(1), false)
        );
        assert_eq!(
            (answer.media_type.as_str(), answer.length),
            (TYPE, manifest(1).len() as u64)
        );
    }
    assert_eq!(
        (tagged.count(&Method::HEAD), tagged.count(&Method::GET)),
        (1, 1)
    );
    // While it is fresh, nobody asks; afterwards one HEAD finds it unchanged.
    desk.pass(29);
    assert_eq!(desk.ask("v1").await.unwrap().age, Duration::from_secs(29));
    assert_eq!(tagged.count(&Method::HEAD), 1);
    desk.pass(2);
    assert_eq!(desk.ask("v1").await.unwrap().age, Duration::ZERO);
    assert_eq!(
        (tagged.count(&Method::HEAD), tagged.count(&Method::GET)),
        (2, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_tag_is_seen_within_its_freshness() {
    let tagged = Tagged::new().await;
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(&tagged, dir.path());
    desk.ask("v1").await.unwrap();
    *tagged.content.lock().unwrap() = manifest(2);
    desk.pass(31);
    let answer = desk.ask("v1").await.unwrap();
    assert_eq!((answer.body, answer.stale), (manifest(2), false));
    assert_eq!(
        (tagged.count(&Method::HEAD), tagged.count(&Method::GET)),
        (2, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn last_known_digest_is_given_for_a_bounded_time_and_across_restarts() {
    let tagged = Tagged::new().await;
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(&tagged, dir.path());
    desk.ask("v1").await.unwrap();
    *tagged.broken.lock().unwrap() = Some(503);
    desk.pass(3_600);
    let answer = desk.ask("v1").await.unwrap();
    assert_eq!(
        (answer.body, answer.stale, answer.age),
        (manifest(1), true, Duration::from_secs(3_600))
    );
    let now = desk.now_ms.load(Ordering::SeqCst);
    drop(desk);

    let desk = Desk::new(&tagged, dir.path());
    desk.now_ms.store(now, Ordering::SeqCst);
    assert!(desk.ask("v1").await.unwrap().stale);
    desk.pass(24 * 3_600);
    assert_eq!(
        desk.ask("v1").await.unwrap_err().code,
        RefusalCode::Unavailable
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn denial_and_absence_are_never_answered_with_an_old_copy() {
    for (code, expected) in [
        (404, RefusalCode::NotFound),
        (403, RefusalCode::Denied),
        (401, RefusalCode::Denied),
    ] {
        let tagged = Tagged::new().await;
        let dir = tempfile::tempdir().unwrap();
        let desk = Desk::new(&tagged, dir.path());
        desk.ask("v1").await.unwrap();
        *tagged.broken.lock().unwrap() = Some(code);
        desk.pass(31);
        assert_eq!(desk.ask("v1").await.unwrap_err().code, expected, "{code}");
        // And the answer is held for a moment, whoever asks.
        let before = tagged.scripted.seen().len();
        assert_eq!(desk.ask("v1").await.unwrap_err().code, expected);
        assert_eq!(tagged.scripted.seen().len(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_upstream_is_not_asked_again_and_costs_nobody_its_pull() {
    let tagged = Tagged::new().await;
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(&tagged, dir.path());
    desk.ask("v1").await.unwrap();
    *tagged.broken.lock().unwrap() = Some(429);
    for _ in 0..5 {
        desk.pass(31);
        assert!(desk.ask("v1").await.unwrap().stale);
    }
    assert_eq!(
        tagged.count(&Method::HEAD),
        2,
        "one HEAD before, one that was throttled"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_are_immutable_and_asked_once() {
    let tagged = Tagged::new().await;
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(&tagged, dir.path());
    let digest = digest_of(&manifest(1)).to_string();
    for answer in futures_util::future::join_all((0..50).map(|_| desk.ask(&digest))).await {
        assert_eq!(answer.unwrap().body, manifest(1));
    }
    *tagged.broken.lock().unwrap() = Some(500);
    desk.pass(1_000_000);
    let answer = desk.ask(&digest).await.unwrap();
    assert!(!answer.stale);
    assert_eq!(
        (tagged.count(&Method::HEAD), tagged.count(&Method::GET)),
        (0, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unaccepted_types_and_foreign_registries_are_refused() {
    let tagged = Tagged::new().await;
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::new(&tagged, dir.path());
    let refusal = desk.ask_for("v1", &["application/json"]).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NotFound);
    assert!(
        desk.ask_for("v1", &["application/json", TYPE])
            .await
            .is_ok()
    );
    desk.source.registry = "elsewhere.example".into();
    assert_eq!(desk.ask("v1").await.unwrap_err().code, RefusalCode::Denied);
    desk.source.repository = "../x".into();
    assert_eq!(
        desk.ask("v1").await.unwrap_err().code,
        RefusalCode::BadRequest
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_upstream_does_not_hold_up_those_that_can_have_an_old_answer() {
    let tagged = Tagged::new().await;
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::new(&tagged, dir.path());
    desk.ask("v1").await.unwrap();
    // Nobody listens there any more, and a connection that is still open for a moment brings no answer either.
    *tagged.broken.lock().unwrap() = Some(503);
    drop(tagged);
    desk.pass(31);
    assert!(desk.ask("v1").await.unwrap().stale);
}
