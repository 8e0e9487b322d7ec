//! Manifests: what is remembered, for how long, what is checked, and whose words count.

use std::sync::atomic::Ordering;

use shoal_daemon::config::Span;
use shoal_proto::wire::{Refusal, RefusalCode};

use crate::http::{get, head};
use crate::world::{INDEX, MANIFEST, NS, World};

fn by(reference: &dyn std::fmt::Display) -> String {
    format!("/v2/app/manifests/{reference}?{NS}")
}

#[tokio::test]
async fn head_tells_the_same_as_get() {
    let world = World::start().await;
    let digest = world.upstream.manifest("v1", INDEX, "{\"manifests\":[]}");
    for path in [by(&"v1"), by(&digest), "/v2/".to_owned()] {
        let (one, other) = (
            get(world.addr, &path, &[]).await,
            head(world.addr, &path, &[]).await,
        );
        assert_eq!(one.status, 200);
        assert_eq!(one.stable_headers(), other.stable_headers(), "{path}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_manifest_once_had_by_digest_is_not_asked_for_again() {
    let world = World::start().await;
    let digest = world.upstream.manifest("v1", MANIFEST, "{\"layers\":[]}");
    for _ in 0..3 {
        let reply = get(world.addr, &by(&digest), &["Accept: */*"]).await;
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (200, b"{\"layers\":[]}".as_slice())
        );
        assert_eq!(reply.header("content-type"), Some(MANIFEST));
    }
    assert_eq!(world.upstream.manifest_asks().len(), 1);
    world.end().await;
}

#[tokio::test]
async fn every_accept_line_reaches_the_origin() {
    let world = World::start().await;
    world.upstream.manifest("v1", INDEX, "{\"manifests\":[]}");
    let lines = [
        "Accept: a/1",
        "Accept: a/2, a/3;q=0.5",
        "Accept: a/4",
        "Accept: a/5",
        "Accept: a/6",
    ];
    assert_eq!(get(world.addr, &by(&"v1"), &lines).await.status, 200);
    let asks = world.upstream.manifest_asks();
    assert_eq!(
        asks[0].accept,
        ["a/1", "a/2", "a/3;q=0.5", "a/4", "a/5", "a/6"]
    );
    world.end().await;
}

#[tokio::test]
async fn a_range_on_a_manifest_gets_the_whole_and_compression_is_never_applied() {
    let world = World::start().await;
    let digest = world.upstream.manifest("v1", INDEX, "{\"manifests\":[]}");
    let headers = [
        "Range: bytes=0-",
        "Accept-Encoding: zstd;q=1.0, gzip;q=0.8, deflate;q=0.5",
    ];
    for path in [by(&"v1"), by(&digest)] {
        let reply = get(world.addr, &path, &headers).await;
        assert_eq!((reply.status, reply.body.len()), (200, 16));
        assert_eq!(reply.header("content-encoding"), None);
    }
    world.end().await;
}

#[tokio::test]
async fn a_vague_media_type_is_read_from_the_body_also_for_head() {
    let world = World::start().await;
    world
        .upstream
        .manifest("v1", "application/octet-stream", "{\"manifests\":[]}");
    world.upstream.manifest(
        "v2",
        "application/vnd.oci.image.index.v1+json; charset=utf-8",
        "{}",
    );
    for tag in ["v1", "v2"] {
        assert_eq!(
            head(world.addr, &by(&tag), &[])
                .await
                .header("content-type"),
            Some(INDEX)
        );
        assert_eq!(
            get(world.addr, &by(&tag), &[]).await.header("content-type"),
            Some(INDEX)
        );
    }
    world.end().await;
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_digest_names_is_never_served() {
    let world = World::start().await;
    let digest = world.upstream.manifest("v1", INDEX, "{\"manifests\":[]}");
    world.upstream.forge.store(true, Ordering::SeqCst);
    for path in [by(&"v1"), by(&digest)] {
        let reply = get(world.addr, &path, &[]).await;
        assert_eq!(
            (reply.status, reply.oci_code().as_str()),
            (503, "UNAVAILABLE")
        );
    }
    world.end().await;
}

#[tokio::test]
async fn while_no_origin_answers_a_tag_is_served_as_last_known_and_says_so() {
    let world = World::start().await;
    let digest = world.upstream.manifest("v1", INDEX, "{\"manifests\":[]}");
    assert_eq!(
        get(world.addr, &by(&"v1"), &[]).await.header("warning"),
        None
    );
    world
        .upstream
        .refuse(Some(Refusal::new(RefusalCode::Unavailable)));
    for method in ["GET", "HEAD"] {
        let reply = crate::http::request(world.addr, method, &by(&"v1"), &[]).await;
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.header("docker-content-digest"),
            Some(digest.to_string().as_str())
        );
        assert!(reply.header("warning").unwrap().starts_with("299 - \""));
    }
    assert_eq!(get(world.addr, &by(&"never-seen"), &[]).await.status, 503);
    world.end().await;
}

#[tokio::test]
async fn a_stale_tag_is_not_for_those_who_are_denied_nor_for_what_is_gone() {
    let world = World::start().await;
    world.upstream.manifest("v1", INDEX, "{\"manifests\":[]}");
    assert_eq!(get(world.addr, &by(&"v1"), &[]).await.status, 200);
    for code in [RefusalCode::Denied, RefusalCode::NotFound] {
        world.upstream.refuse(Some(Refusal::new(code)));
        assert_eq!(
            get(world.addr, &by(&"v1"), &[]).await.status,
            404,
            "{code:?}"
        );
    }
    world.end().await;
}

#[tokio::test]
async fn a_tag_is_not_served_past_its_time() {
    let world = World::start_with(|raw| raw.registry.stale_if_error = Span::secs(0)).await;
    world.upstream.manifest("v1", INDEX, "{\"manifests\":[]}");
    assert_eq!(get(world.addr, &by(&"v1"), &[]).await.status, 200);
    world
        .upstream
        .refuse(Some(Refusal::new(RefusalCode::Unavailable)));
    // Ages are whole seconds: within the second in which it was confirmed, the tag's age is none.
    let reply = crate::world::soon(async {
        loop {
            let reply = get(world.addr, &by(&"v1"), &[]).await;
            if reply.status != 200 {
                return reply;
            }
        }
    });
    assert_eq!(reply.await.status, 503);
    world.end().await;
}

#[tokio::test]
async fn a_challenge_of_the_upstream_is_relayed_and_the_callers_credential_goes_to_the_origin() {
    let world = World::start().await;
    world.upstream.manifest("v1", INDEX, "{\"manifests\":[]}");
    let challenge = "Bearer realm=\"https://auth.test/token\",service=\"registry.test\"";
    let denied = Refusal {
        challenge: challenge.to_owned(),
        ..Refusal::new(RefusalCode::Denied)
    };
    world.upstream.refuse(Some(denied));
    let reply = get(world.addr, &by(&"v1"), &["Authorization: Bearer canary"]).await;
    assert_eq!(
        (reply.status, reply.oci_code().as_str()),
        (401, "UNAUTHORIZED")
    );
    assert_eq!(reply.header("www-authenticate"), Some(challenge));
    assert!(!String::from_utf8_lossy(&reply.body).contains("canary"));
    // Only now is it known that this registry wants one.
    get(world.addr, &by(&"v1"), &["Authorization: Bearer canary"]).await;
    let asks = world.upstream.manifest_asks();
    assert_eq!(asks[0].source.authorization, None);
    let told = asks[1]
        .source
        .authorization
        .as_ref()
        .map(|secret| secret.expose().to_vec());
    assert_eq!(told.as_deref(), Some(b"Bearer canary".as_slice()));
    world.end().await;
}

/// Clients that cannot say `ns` take all blobs from whoever gave them the manifest.
#[tokio::test]
async fn who_keeps_to_one_source_gets_a_remembered_manifest_only_with_all_its_blobs() {
    let world = World::start().await;
    let blob = world.upstream.blob(&crate::world::specimen(1, 1000));
    let body = format!(
        "{{\"layers\":[{{\"digest\":\"{blob}\"}},{{\"digest\":\"{blob}\",\"urls\":[\"http://elsewhere.test/\"]}}]}}"
    );
    let manifest = world.upstream.manifest("child", MANIFEST, &body);
    let index = format!(
        "{{\"manifests\":[{{\"digest\":\"{manifest}\"}},{{\"digest\":\"{}\"}}]}}",
        crate::world::sha256(b"sparse")
    );
    let index = world.upstream.manifest("v1", INDEX, &index);
    let references = ["v1".to_owned(), index.to_string(), manifest.to_string()];
    for reference in &references {
        assert_eq!(get(world.addr, &by(reference), &[]).await.status, 200);
    }
    let away = || {
        world
            .upstream
            .refuse(Some(Refusal::new(RefusalCode::Unavailable)))
    };
    for (whole, status) in [(false, 503), (true, 200)] {
        if whole {
            world.upstream.refuse(None);
            let path = format!("/v2/app/blobs/{blob}?{NS}");
            assert_eq!(get(world.addr, &path, &[]).await.status, 200);
            world
                .until_status(|_| {
                    world
                        .agent
                        .handle()
                        .store()
                        .lookup(&blob)
                        .is_some_and(|blob| blob.complete)
                })
                .await;
        }
        away();
        for reference in &references {
            let path = format!("/v2/registry.test/app/manifests/{reference}");
            assert_eq!(get(world.addr, &path, &[]).await.status, status, "{path}");
            assert_eq!(
                get(world.addr, &by(reference), &[]).await.status,
                200,
                "asks for each blob anew"
            );
        }
    }
    world.end().await;
}
