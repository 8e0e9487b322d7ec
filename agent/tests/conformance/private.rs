//! Private images on a node that two tenants share: what the one was let in to is not the other's for being here.

use std::time::Duration;

use crate::http::{Connection, Reply, get, head, request};
use crate::world::{CHALLENGE, MANIFEST, MIB, NS, World, specimen};

const ONE: &str = "Authorization: Bearer canary-of-one";
const OTHER: &str = "Authorization: Bearer canary-of-other";
const HOLD: Duration = Duration::from_secs(300);

fn credential(header: &str) -> &str {
    header.split_once(": ").unwrap().1
}

fn at(repository: &str, kind: &str, reference: &dyn std::fmt::Display) -> String {
    format!("/v2/{repository}/{kind}/{reference}?{NS}")
}

/// What a client can tell one refusal from another by.
fn told(reply: &Reply) -> (u16, Vec<(String, String)>, Vec<u8>) {
    (reply.status, reply.stable_headers(), reply.body.clone())
}

#[tokio::test]
async fn a_caller_is_asked_with_upstreams_own_words_and_then_served() {
    let world = World::start().await;
    world.upstream.guard(HOLD, &[("team/app", credential(ONE))]);
    let bytes = specimen(61, 2 * MIB);
    let digest = world.upstream.blob(&bytes);
    world.upstream.manifest("v1", MANIFEST, "{\"layers\":[]}");
    for path in [
        at("team/app", "manifests", &"v1"),
        at("team/app", "blobs", &digest),
    ] {
        let asked = get(world.addr, &path, &[]).await;
        assert_eq!(
            (asked.status, asked.header("www-authenticate")),
            (401, Some(CHALLENGE))
        );
        assert_eq!(asked.oci_code(), "UNAUTHORIZED");
        let served = get(world.addr, &path, &[ONE]).await;
        assert_eq!(served.status, 200, "{path}");
        assert_eq!(head(world.addr, &path, &[ONE]).await.status, 200);
    }
    let reply = get(world.addr, &at("team/app", "blobs", &digest), &[ONE]).await;
    assert!(reply.body == bytes);
    world.end().await;
}

#[tokio::test]
async fn what_is_here_for_one_tenant_is_not_there_for_the_other() {
    let world = World::start().await;
    world.upstream.guard(
        HOLD,
        &[
            ("team/one", credential(ONE)),
            ("team/other", credential(OTHER)),
        ],
    );
    let bytes = specimen(62, 3 * MIB);
    let digest = world.upstream.blob(&bytes);
    let manifest = world.upstream.manifest("v1", MANIFEST, "{\"layers\":[1]}");
    let nothing = crate::world::sha256(b"nobody made this");
    for path in [
        at("team/one", "manifests", &manifest),
        at("team/one", "blobs", &digest),
    ] {
        get(world.addr, &path, &[]).await;
        assert_eq!(get(world.addr, &path, &[ONE]).await.status, 200);
    }
    let absent = get(world.addr, &at("team/other", "blobs", &nothing), &[ONE]).await;
    assert_eq!(absent.status, 404);
    // The other's credential, no credential, and the right credential for the wrong repository.
    for (repository, caller) in [("team/one", OTHER), ("team/other", ONE)] {
        let path = at(repository, "blobs", &digest);
        for method in ["GET", "HEAD"] {
            let refused = request(world.addr, method, &path, &[caller]).await;
            assert_eq!(refused.status, 404, "{method} {path}");
        }
        assert_eq!(
            told(&get(world.addr, &path, &[caller]).await),
            told(&absent)
        );
        // Nor its length, by a range behind its end, nor a head beside an answer that is open.
        let mut open = Connection::open(world.addr).await;
        let own = at("team/one", "blobs", &digest);
        open.send("GET", &own, &[ONE], b"").await;
        assert_eq!(open.head().await.status, 200);
        for range in [
            "Range: bytes=99999999-",
            "Range: bytes=5-",
            "Range: bytes=-1",
        ] {
            let reply = get(world.addr, &path, &[caller, range]).await;
            assert_eq!(told(&reply), told(&absent), "{range}");
        }
        let path = at(repository, "manifests", &manifest);
        assert_eq!(get(world.addr, &path, &[caller]).await.status, 404);
        let path = format!("/shoal/preheat/{repository}/blobs/{digest}?{NS}");
        assert_eq!(
            request(world.addr, "POST", &path, &[caller]).await.status,
            404
        );
    }
    let anonymous = get(world.addr, &at("team/one", "blobs", &digest), &[]).await;
    assert_eq!(anonymous.status, 401);
    // And through another registry, which nobody guards.
    let elsewhere = format!("/v2/library/app/blobs/{digest}?ns=docker.io");
    assert_eq!(get(world.addr, &elsewhere, &[ONE]).await.status, 404);
    world.end().await;
}

#[tokio::test]
async fn an_origin_is_asked_again_when_its_yes_has_run_out_and_not_before() {
    let world = World::start().await;
    let readers = [("team/app", credential(ONE))];
    let digest = world.upstream.blob(&specimen(63, MIB));
    let path = at("team/app", "blobs", &digest);
    let opened = || {
        world
            .upstream
            .opened
            .load(std::sync::atomic::Ordering::SeqCst)
    };

    world.upstream.guard(HOLD, &readers);
    get(world.addr, &path, &[]).await;
    assert_eq!(get(world.addr, &path, &[ONE]).await.status, 200);
    crate::world::soon(async {
        let complete = || {
            let blob = world.agent.handle().store().lookup(&digest);
            blob.is_some_and(|blob| blob.complete)
        };
        while !complete() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let before = opened();
    assert_eq!(get(world.addr, &path, &[ONE]).await.status, 200);
    assert_eq!(opened(), before, "within the hold nobody is asked");

    let other = world.upstream.blob(&specimen(64, MIB));
    let path = at("team/app", "blobs", &other);
    world.upstream.guard(Duration::ZERO, &readers);
    assert_eq!(get(world.addr, &path, &[ONE]).await.status, 200);
    world.upstream.guard(Duration::ZERO, &[]);
    assert_eq!(get(world.addr, &path, &[ONE]).await.status, 404, "revoked");
    world.end().await;
}

#[tokio::test]
async fn a_private_manifest_is_not_kept_and_a_public_one_needs_nobodys_word() {
    let world = World::start().await;
    let public = world
        .upstream
        .manifest("v1", MANIFEST, "{\"layers\":[\"public\"]}");
    let path = at("team/app", "manifests", &public);
    assert_eq!(get(world.addr, &path, &[]).await.status, 200);
    world.upstream.guard(HOLD, &[("team/app", credential(ONE))]);
    let private = world
        .upstream
        .manifest("v2", MANIFEST, "{\"layers\":[\"private\"]}");
    let private_path = at("team/app", "manifests", &private);
    assert_eq!(get(world.addr, &private_path, &[]).await.status, 401);
    assert_eq!(get(world.addr, &private_path, &[ONE]).await.status, 200);
    let store = world.agent.handle().store();
    assert!(store.manifest(&private).is_none() && store.manifest(&public).is_some());
    assert_eq!(get(world.addr, &path, &[]).await.status, 200);
    // With the origin away, the tag of a private image is nobody's either.
    world.upstream.refuse(Some(shoal_proto::wire::Refusal::new(
        shoal_proto::wire::RefusalCode::Unavailable,
    )));
    let tag = at("team/app", "manifests", &"v2");
    assert_eq!(get(world.addr, &tag, &[ONE]).await.status, 503);
    world.end().await;
}

#[tokio::test]
async fn a_credential_is_told_only_where_a_registry_asked_for_one() {
    let world = World::start().await;
    world.upstream.manifest("v1", MANIFEST, "{\"layers\":[]}");
    let path = at("team/app", "manifests", &"v1");
    assert_eq!(get(world.addr, &path, &[ONE]).await.status, 200);
    world.upstream.guard(HOLD, &[("team/app", credential(ONE))]);
    // The first that comes with a credential learns with everybody that there is a challenge.
    assert_eq!(get(world.addr, &path, &[ONE]).await.status, 401);
    assert_eq!(get(world.addr, &path, &[ONE]).await.status, 200);
    let told: Vec<bool> = world
        .upstream
        .manifest_asks()
        .iter()
        .map(|ask| ask.source.authorization.is_some())
        .collect();
    assert_eq!(told, [false, false, true]);
    world.end().await;
}
