//! What passes through untouched, whatever it is, and how clients that Debian does not have come back for more.

use crate::http::{Connection, get};
use crate::world::{INDEX, MANIFEST, MIB, NS, World, specimen};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SIGNED_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

#[tokio::test]
async fn every_kind_of_manifest_passes_byte_for_byte() {
    let world = World::start().await;
    let layer = |kind: &str| format!("{{ \"layers\" :\n[{{\"mediaType\":\"{kind}\"}}]}}\n");
    for (tag, media_type, body) in [
        ("docker", DOCKER_MANIFEST, layer("application/vnd.docker.image.rootfs.diff.tar.gzip")),
        ("list", DOCKER_LIST, "{\"manifests\" : [ ]}".to_owned()),
        ("signed", SIGNED_SCHEMA_1, "{\"schemaVersion\": 1, \"signatures\": []}".to_owned()),
        ("zstd", MANIFEST, layer("application/vnd.oci.image.layer.v1.tar+zstd")),
        ("encrypted", MANIFEST, layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")),
        ("artifact", MANIFEST, "{\"artifactType\":\"sbom/x\",\"config\":{\"mediaType\":\"application/vnd.oci.empty.v1+json\",\"data\":\"e30=\"},\"layers\":[]}".to_owned()),
        ("index", INDEX, "{\"manifests\":[],\"annotations\":{\"a\":\"é\"}}".to_owned()),
    ] {
        let digest = world.upstream.manifest(tag, media_type, &body);
        for reference in [tag.to_owned(), digest.to_string(), digest.to_string()] {
            let path = format!("/v2/app/manifests/{reference}?{NS}");
            let reply = get(world.addr, &path, &["Accept: */*"]).await;
            assert_eq!((reply.status, reply.header("content-type")), (200, Some(media_type)));
            assert_eq!(reply.body, body.as_bytes(), "{tag}");
            let told = digest.to_string();
            assert_eq!(reply.header("docker-content-digest"), Some(told.as_str()));
        }
    }
    world.end().await;
}

#[tokio::test]
async fn layers_that_are_elsewhere_are_neither_fetched_nor_missed() {
    let world = World::start().await;
    let foreign = crate::world::sha256(b"on the vendor's own server");
    let body = format!(
        "{{\"layers\":[{{\"mediaType\":\"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip\",\"digest\":\"{foreign}\",\"urls\":[\"http://vendor.test/layer\"]}}]}}"
    );
    let manifest = world.upstream.manifest("v1", DOCKER_MANIFEST, &body);
    for reference in ["v1".to_owned(), manifest.to_string()] {
        let path = format!("/v2/app/manifests/{reference}?{NS}");
        let reply = get(world.addr, &path, &[]).await;
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (200, body.as_bytes())
        );
    }
    let asked = world.upstream.manifest_asks().len();
    assert_eq!(
        world.upstream.asked(),
        asked,
        "nobody was asked for the layer"
    );
    // Asked for nevertheless, it is upstream's to have or not.
    let path = format!("/v2/app/blobs/{foreign}?{NS}");
    assert_eq!(get(world.addr, &path, &[]).await.status, 404);
    world.end().await;
}

#[tokio::test]
async fn no_answer_is_ever_compressed() {
    let world = World::start().await;
    let bytes = bytes::Bytes::from(vec![b'a'; 2 * MIB]);
    let digest = world.upstream.blob(&bytes);
    world.upstream.manifest("v1", INDEX, "{\"manifests\":[]}");
    // As containerd 2 sends it; the second round is served from the store.
    let wish = "Accept-Encoding: zstd;q=1.0, gzip;q=0.8, deflate;q=0.5";
    for path in [
        format!("/v2/app/blobs/{digest}?{NS}"),
        format!("/v2/app/blobs/{digest}?{NS}"),
        format!("/v2/app/manifests/v1?{NS}"),
        format!("/v2/app/tags/list?{NS}"),
        format!("/v2/app/manifests/none?{NS}"),
        "/v2/".to_owned(),
    ] {
        let reply = get(world.addr, &path, &[wish]).await;
        assert_eq!(reply.header("content-encoding"), None, "{path}");
        assert_eq!(reply.header("transfer-encoding"), None, "{path}");
        assert_eq!(reply.length(), reply.body.len());
    }
    world.end().await;
}

#[tokio::test]
async fn who_comes_back_gets_the_rest_and_nothing_is_fetched_twice() {
    let world = World::start().await;
    let bytes = specimen(1, 6 * MIB);
    let digest = world.upstream.blob(&bytes);
    // Six pieces may come, and not one more.
    let gate = world.upstream.hold_back();
    gate.add_permits(3);
    let path = format!("/v2/app/blobs/{digest}?{NS}");
    let mut client = Connection::open(world.addr).await;
    client.send("GET", &path, &[], b"").await;
    assert_eq!(client.head().await.status, 200);
    let mut got = client.body(2 * MIB + 17).await;
    drop(client);
    gate.add_permits(3);
    let rest = get(
        world.addr,
        &path,
        &[&format!("Range: bytes={}-", got.len())],
    )
    .await;
    assert_eq!(rest.status, 206);
    let shown = format!("bytes {}-{}/{}", got.len(), bytes.len() - 1, bytes.len());
    assert_eq!(rest.header("content-range"), Some(shown.as_str()));
    got.extend(rest.body);
    assert!(got == bytes);
    assert_eq!(gate.available_permits(), 0, "each piece was taken once");
    world.end().await;
}
