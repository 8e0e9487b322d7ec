//! The pull half of the OCI distribution conformance suite, in its order and under its names.
//!
//! Not here: what is ours beside it, such as an upstream without the referrers API (`lists`).

use shoal_proto::Digest;

use crate::http::{get, head};
use crate::world::{INDEX, MANIFEST, NS, World, sha256, specimen};

/// The suite's two Accept lines.
const ACCEPTS: [&str; 2] = [
    "Accept: application/vnd.oci.image.index.v1+json",
    "Accept: application/vnd.oci.image.manifest.v1+json",
];

struct Image {
    index: Digest,
    manifest: Digest,
    blob: Digest,
    bytes: bytes::Bytes,
}

fn publish(world: &World) -> Image {
    let bytes = specimen(1, 300_000);
    let blob = world.upstream.blob(&bytes);
    let manifest = world.upstream.manifest(
        "child",
        MANIFEST,
        &format!("{{\"schemaVersion\":2,\"layers\":[{{\"digest\":\"{blob}\"}}]}}"),
    );
    let index = world.upstream.manifest(
        "v1",
        INDEX,
        &format!("{{\"schemaVersion\":2,\"manifests\":[{{\"digest\":\"{manifest}\"}}]}}"),
    );
    Image {
        index,
        manifest,
        blob,
        bytes,
    }
}

#[tokio::test]
async fn api_version_check() {
    let world = World::start().await;
    for path in ["/v2/", "/v2"] {
        let reply = get(world.addr, path, &[]).await;
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.header("docker-distribution-api-version"),
            Some("registry/2.0")
        );
    }
    world.end().await;
}

#[tokio::test]
async fn tag_listing() {
    let world = World::start().await;
    publish(&world);
    for (query, tags) in [
        ("", vec!["child", "v1"]),
        ("&n=0", vec![]),
        ("&n=1", vec!["child"]),
        ("&last=child", vec!["v1"]),
        ("&last=v1", vec![]),
    ] {
        let reply = get(world.addr, &format!("/v2/app/tags/list?{NS}{query}"), &[]).await;
        assert_eq!(reply.status, 200, "{query}");
        let list: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(
            (&list["name"], &list["tags"]),
            (&"app".into(), &tags.into()),
            "{query}"
        );
    }
    world.end().await;
}

#[tokio::test]
async fn referrers_of_a_random_digest() {
    let world = World::start().await;
    let random = sha256(b"nobody refers to this");
    let reply = get(world.addr, &format!("/v2/app/referrers/{random}?{NS}"), &[]).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some(INDEX));
    let index: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(
        (
            &index["schemaVersion"],
            &index["mediaType"],
            &index["manifests"]
        ),
        (&2.into(), &INDEX.into(), &serde_json::json!([]))
    );
    let bad = get(
        world.addr,
        &format!("/v2/app/referrers/sha256:bad?{NS}"),
        &[],
    )
    .await;
    assert_eq!(
        (bad.status, bad.oci_code().as_str()),
        (400, "DIGEST_INVALID")
    );
    world.end().await;
}

#[tokio::test]
async fn manifest_head_by_tag_and_by_digest() {
    let world = World::start().await;
    let image = publish(&world);
    for (reference, digest, kind) in [
        ("v1".to_owned(), image.index, INDEX),
        (image.index.to_string(), image.index, INDEX),
        (image.manifest.to_string(), image.manifest, MANIFEST),
    ] {
        let reply = head(
            world.addr,
            &format!("/v2/app/manifests/{reference}?{NS}"),
            &ACCEPTS,
        )
        .await;
        assert_eq!(reply.status, 200, "{reference}");
        assert_eq!(reply.header("content-type"), Some(kind));
        assert_eq!(
            reply.header("docker-content-digest"),
            Some(digest.to_string().as_str())
        );
        assert!(reply.length() > 0);
    }
    world.end().await;
}

#[tokio::test]
async fn manifest_get_by_tag_and_by_digest() {
    let world = World::start().await;
    let image = publish(&world);
    for (reference, digest) in [
        ("v1".to_owned(), image.index),
        (image.index.to_string(), image.index),
        (image.manifest.to_string(), image.manifest),
    ] {
        let reply = get(
            world.addr,
            &format!("/v2/app/manifests/{reference}?{NS}"),
            &ACCEPTS,
        )
        .await;
        assert_eq!(reply.status, 200, "{reference}");
        assert_eq!(sha256(&reply.body), digest);
        assert_eq!(reply.length(), reply.body.len());
    }
    world.end().await;
}

#[tokio::test]
async fn manifest_missing() {
    let world = World::start().await;
    publish(&world);
    let random = sha256(b"no such manifest");
    for reference in ["missing".to_owned(), random.to_string()] {
        for method in ["GET", "HEAD"] {
            let path = format!("/v2/app/manifests/{reference}?{NS}");
            let reply = crate::http::request(world.addr, method, &path, &ACCEPTS).await;
            assert_eq!(reply.status, 404, "{method} {reference}");
            if method == "GET" {
                assert_eq!(reply.oci_code(), "MANIFEST_UNKNOWN");
            }
        }
    }
    world.end().await;
}

#[tokio::test]
async fn manifest_bad_digest() {
    let world = World::start().await;
    let reply = get(
        world.addr,
        &format!("/v2/app/manifests/sha256:baddigeststring?{NS}"),
        &ACCEPTS,
    )
    .await;
    assert_eq!(
        (reply.status, reply.oci_code().as_str()),
        (400, "DIGEST_INVALID")
    );
    assert_eq!(world.upstream.asked(), 0);
    world.end().await;
}

#[tokio::test]
async fn blob_head() {
    let world = World::start().await;
    let image = publish(&world);
    let reply = head(
        world.addr,
        &format!("/v2/app/blobs/{}?{NS}", image.blob),
        &[],
    )
    .await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.length(), image.bytes.len());
    assert_eq!(
        reply.header("docker-content-digest"),
        Some(image.blob.to_string().as_str())
    );
    assert!(
        world.agent.handle().store().lookup(&image.blob).is_none(),
        "a HEAD starts no download"
    );
    world.end().await;
}

#[tokio::test]
async fn blob_get() {
    let world = World::start().await;
    let image = publish(&world);
    let reply = get(
        world.addr,
        &format!("/v2/app/blobs/{}?{NS}", image.blob),
        &[],
    )
    .await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, image.bytes);
    assert_eq!(reply.length(), image.bytes.len());
    assert_eq!(
        reply.header("content-type"),
        Some("application/octet-stream")
    );
    assert_eq!(reply.header("accept-ranges"), Some("bytes"));
    world.end().await;
}

#[tokio::test]
async fn blob_missing() {
    let world = World::start().await;
    let random = sha256(b"no such blob");
    let path = format!("/v2/app/blobs/{random}?{NS}");
    let reply = get(world.addr, &path, &[]).await;
    assert_eq!(
        (reply.status, reply.oci_code().as_str()),
        (404, "BLOB_UNKNOWN")
    );
    assert_eq!(head(world.addr, &path, &[]).await.status, 404);
    let ranged = get(world.addr, &path, &["Range: bytes=-5"]).await;
    assert_eq!(ranged.status, 404);
    world.end().await;
}

#[tokio::test]
async fn blob_ranges() {
    let world = World::start().await;
    let image = publish(&world);
    let (all, len) = (&image.bytes, image.bytes.len());
    let path = format!("/v2/app/blobs/{}?{NS}", image.blob);
    // Twice: while the blob comes, and from the store.
    for _ in 0..2 {
        for (range, from, to) in [
            ("bytes=500-1499", 500, 1500),
            ("bytes=500-", 500, len),
            ("bytes=-500", len - 500, len),
            ("bytes=299000-500000", 299_000, len),
        ] {
            let reply = get(world.addr, &path, &[&format!("Range: {range}")]).await;
            assert_eq!(reply.status, 206, "{range}");
            assert_eq!(reply.body, all[from..to], "{range}");
            let shown = format!("bytes {from}-{}/{len}", to - 1);
            assert_eq!(reply.header("content-range"), Some(shown.as_str()));
        }
        for range in ["bytes=500-0", "bytes=300000-", "bytes=999999-1000000"] {
            let reply = get(world.addr, &path, &[&format!("Range: {range}")]).await;
            assert_eq!(reply.status, 416, "{range}");
            assert_eq!(
                reply.header("content-range"),
                Some(format!("bytes */{len}").as_str())
            );
            assert_eq!(reply.length(), 0);
        }
    }
    world.end().await;
}
