//! Who is asked for what: `ns`, path prefixes, ports of one registry; and what is refused without asking anybody.

use crate::http::{Connection, get, head};
use crate::world::{MANIFEST, NS, World};

#[tokio::test]
async fn each_way_of_naming_the_registry_reaches_it() {
    let world = World::start().await;
    world.upstream.manifest("v1", MANIFEST, "{}");
    let bound = world.agent.bound_addrs()[0].1;
    for (addr, path, headers, registry, repository) in [
        (
            world.addr,
            "/v2/a/b/manifests/v1?ns=registry.test",
            vec![],
            "registry.test",
            "a/b",
        ),
        (
            world.addr,
            "/v2/a/manifests/v1",
            vec!["OCI-Namespace: registry.test"],
            "registry.test",
            "a",
        ),
        (
            world.addr,
            "/v2/registry.test/a/b/manifests/v1",
            vec![],
            "registry.test",
            "a/b",
        ),
        (
            world.addr,
            "/v2/busybox/manifests/v1?ns=index.docker.io",
            vec![],
            "docker.io",
            "library/busybox",
        ),
        (bound, "/v2/a/manifests/v1", vec![], "registry.test", "a"),
    ] {
        let reply = head(addr, path, &headers).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("oci-namespace"), Some(registry));
        let asks = world.upstream.manifest_asks();
        let source = &asks.last().unwrap().source;
        assert_eq!(
            (source.registry.as_str(), source.repository.as_str()),
            (registry, repository)
        );
    }
    world.end().await;
}

#[tokio::test]
async fn a_registry_off_the_list_or_not_named_is_404_and_nobody_is_asked() {
    let world = World::start().await;
    world.upstream.manifest("v1", MANIFEST, "{}");
    for path in [
        "/v2/a/manifests/v1?ns=169.254.169.254",
        "/v2/a/manifests/v1?ns=quay.io",
        "/v2/evil.test/a/manifests/v1",
        "/v2/library/a/manifests/v1",
    ] {
        let reply = get(world.addr, path, &[]).await;
        assert_eq!(
            (reply.status, reply.oci_code().as_str()),
            (404, "NAME_UNKNOWN"),
            "{path}"
        );
    }
    assert_eq!(world.upstream.asked(), 0);
    world.end().await;
}

#[tokio::test]
async fn nonsense_is_refused_with_a_code_and_never_500() {
    let world = World::start().await;
    for (path, status) in [
        (format!("/v2/A/manifests/v1?{NS}"), 400),
        (format!("/v2/a/manifests/.v1?{NS}"), 404),
        (format!("/v2/a/blobs/sha256:zz?{NS}"), 400),
        (format!("/v2/a/blobs/sha384:ab?{NS}"), 404),
        ("/v2/_catalog".to_owned(), 404),
        ("/%ff/%00".to_owned(), 404),
        ("/".to_owned(), 404),
    ] {
        let reply = get(world.addr, &path, &[]).await;
        assert_eq!(reply.status, status, "{path}");
        assert!(!reply.oci_code().is_empty());
    }
    assert_eq!(world.upstream.asked(), 0);
    world.end().await;
}

#[tokio::test]
async fn what_writes_is_405_and_the_connection_lives_on() {
    let world = World::start().await;
    let mut connection = Connection::open(world.addr).await;
    for (method, path) in [
        ("POST", format!("/v2/a/blobs/uploads/?{NS}")),
        ("PUT", format!("/v2/a/manifests/v1?{NS}")),
        ("PATCH", format!("/v2/a/blobs/uploads/1?{NS}")),
        ("DELETE", format!("/v2/a/manifests/v1?{NS}")),
    ] {
        connection.send(method, &path, &[], &[7; 100_000]).await;
        let reply = connection.answer(method).await;
        assert_eq!(
            (reply.status, reply.oci_code().as_str()),
            (405, "UNSUPPORTED"),
            "{method}"
        );
        assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    }
    connection.send("GET", "/v2/", &[], b"").await;
    assert_eq!(connection.answer("GET").await.status, 200);
    assert_eq!(world.upstream.asked(), 0);
    world.end().await;
}

#[tokio::test]
async fn the_agent_names_itself_so_that_a_stranger_on_its_port_is_known() {
    let world = World::start().await;
    let reply = get(world.addr, "/v2/", &[]).await;
    let name = reply.header("shoal-agent").unwrap();
    assert!(
        name.starts_with(&world.agent.handle().me().to_string()),
        "{name}"
    );
    world.end().await;
}
