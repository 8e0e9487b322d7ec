//! Lists as they are relayed: pages lead back here, filters and absences are upstream's, and nothing is kept.

use std::sync::atomic::Ordering;

use shoal_proto::wire::{Listed, Refusal, RefusalCode};

use crate::http::{get, head};
use crate::world::{MANIFEST, NS, World, sha256};

fn tags_of(body: &[u8]) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_slice(body).unwrap();
    let tags = list["tags"].as_array().expect("tags");
    tags.iter()
        .map(|tag| tag.as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn each_link_leads_to_the_next_page_by_the_way_the_client_came() {
    let world = World::start().await;
    for tag in ["a", "b", "c", "d", "e"] {
        world.upstream.manifest(tag, MANIFEST, "{}");
    }
    let bound = world.agent.bound_addrs()[0].1;
    for (addr, first, headers) in [
        (world.addr, format!("/v2/app/tags/list?n=2&{NS}"), vec![]),
        (
            world.addr,
            "/v2/registry.test/app/tags/list?n=2".to_owned(),
            vec![],
        ),
        (
            world.addr,
            "/v2/app/tags/list?n=2".to_owned(),
            vec!["OCI-Namespace: registry.test"],
        ),
        (bound, "/v2/app/tags/list?n=2".to_owned(), vec![]),
    ] {
        let (mut next, mut pages) = (Some(first.clone()), Vec::new());
        while let Some(path) = next {
            let reply = get(addr, &path, &headers).await;
            assert_eq!(reply.status, 200, "{path}");
            assert_eq!(reply.header("oci-namespace"), Some("registry.test"));
            pages.push(tags_of(&reply.body));
            next = reply.header("link").map(|link| {
                let (path, rel) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
                assert_eq!(rel, "; rel=\"next\"");
                path.to_owned()
            });
        }
        assert_eq!(
            pages,
            [vec!["a", "b"], vec!["c", "d"], vec!["e"]],
            "{first}"
        );
    }
    let asks = world.upstream.list_asks();
    assert_eq!(
        asks.len(),
        12,
        "each page was asked of upstream, none was kept"
    );
    assert!(
        asks.iter()
            .all(|ask| ask.listed == Listed::Tags && !ask.query.contains("ns="))
    );
    world.end().await;
}

#[tokio::test]
async fn head_of_a_list_tells_the_same_as_get() {
    let world = World::start().await;
    world.upstream.manifest("v1", MANIFEST, "{}");
    world.upstream.manifest("v2", MANIFEST, "{}");
    let subject = sha256(b"x");
    for path in [
        format!("/v2/app/tags/list?n=1&{NS}"),
        format!("/v2/app/referrers/{subject}?artifactType=a%2Fb&{NS}"),
    ] {
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
async fn referrers_are_upstreams_with_its_filter() {
    let world = World::start().await;
    let subject = world.upstream.manifest("v1", MANIFEST, "{}");
    for kind in ["sbom/x", "sig/y"] {
        let body = serde_json::json!({ "artifactType": kind, "subject": { "digest": subject.to_string() } });
        world
            .upstream
            .manifest(kind.split_once('/').unwrap().0, MANIFEST, &body.to_string());
    }
    for (filter, expected, applied) in [
        ("", 2, None),
        ("&artifactType=sig%2Fy", 1, Some("artifactType")),
    ] {
        let reply = get(
            world.addr,
            &format!("/v2/app/referrers/{subject}?{NS}{filter}"),
            &[],
        )
        .await;
        assert_eq!(
            (reply.status, reply.header("oci-filters-applied")),
            (200, applied)
        );
        let index: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), expected);
    }
    world.end().await;
}

/// Then a client looks for the tag that is named after the subject, and finds it here.
#[tokio::test]
async fn an_upstream_without_referrers_is_relayed_as_404_and_the_tag_instead_of_them_is_served() {
    let world = World::start().await;
    world
        .upstream
        .knows_no_referrers
        .store(true, Ordering::SeqCst);
    let subject = world.upstream.manifest("v1", MANIFEST, "{}");
    let reply = get(
        world.addr,
        &format!("/v2/app/referrers/{subject}?{NS}"),
        &[],
    )
    .await;
    assert_eq!(
        (reply.status, reply.oci_code().as_str()),
        (404, "NAME_UNKNOWN")
    );
    let tag = subject.to_string().replace(':', "-");
    world
        .upstream
        .manifest(&tag, crate::world::INDEX, "{\"manifests\":[]}");
    let instead = get(world.addr, &format!("/v2/app/manifests/{tag}?{NS}"), &[]).await;
    assert_eq!(instead.status, 200);
    world.end().await;
}

#[tokio::test]
async fn a_list_that_cannot_be_had_is_404_or_503_and_one_that_may_not_be_asked_for_reaches_nobody()
{
    let world = World::start().await;
    let path = format!("/v2/app/tags/list?{NS}");
    for (code, status) in [
        (RefusalCode::NotFound, 404),
        (RefusalCode::Denied, 404),
        (RefusalCode::Unavailable, 503),
        (RefusalCode::Busy, 503),
    ] {
        world.upstream.refuse(Some(Refusal::new(code)));
        assert_eq!(get(world.addr, &path, &[]).await.status, status, "{code:?}");
    }
    let asked = world.upstream.asked();
    for (path, status) in [
        ("/v2/app/tags/list?ns=quay.io".to_owned(), 404),
        ("/v2/app/tags/list".to_owned(), 404),
        (format!("/v2/APP/tags/list?{NS}"), 400),
        (
            format!("/v2/app/tags/list?{NS}&last={}", "x".repeat(4000)),
            400,
        ),
    ] {
        assert_eq!(get(world.addr, &path, &[]).await.status, status, "{path}");
    }
    assert_eq!(world.upstream.asked(), asked);
    world.end().await;
}

#[tokio::test]
async fn the_list_of_a_guarded_repository_is_for_those_whom_the_upstream_lets_in() {
    let world = World::start().await;
    world.upstream.manifest("v1", MANIFEST, "{}");
    let hold = std::time::Duration::from_secs(60);
    world.upstream.guard(hold, &[("app", "Bearer good")]);
    let path = format!("/v2/app/tags/list?{NS}");
    let anonymous = get(world.addr, &path, &[]).await;
    assert_eq!(anonymous.status, 401);
    assert!(anonymous.header("www-authenticate").is_some());
    for (credential, status) in [("good", 200), ("bad", 404), ("good", 200)] {
        let header = format!("Authorization: Bearer {credential}");
        let reply = get(world.addr, &path, &[&header]).await;
        assert_eq!(reply.status, status, "{credential}");
    }
    world.end().await;
}
