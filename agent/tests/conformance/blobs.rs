//! Blobs that are still coming, that stop coming, and that were never there; many at once; odd sizes.

use bytes::Bytes;
use futures_util::future::join_all;
use shoal_proto::DigestAlgorithm;
use shoal_proto::wire::{Refusal, RefusalCode};

use crate::http::{Connection, get, head};
use crate::world::{MIB, NS, World, soon, specimen};

fn of(digest: &dyn std::fmt::Display) -> String {
    format!("/v2/app/blobs/{digest}?{NS}")
}

#[tokio::test]
async fn blobs_of_every_size_around_a_piece_come_whole() {
    let world = World::start().await;
    for (seed, len) in [
        (1, 0),
        (2, 1),
        (3, MIB - 1),
        (4, MIB),
        (5, MIB + 1),
        (6, 3 * MIB + 7),
    ] {
        let bytes = specimen(seed, len);
        let digest = world.upstream.blob(&bytes);
        for round in ["cold", "warm"] {
            let reply = get(world.addr, &of(&digest), &[]).await;
            assert_eq!(reply.status, 200, "{len} {round}");
            assert_eq!(reply.length(), len);
            assert!(reply.body == bytes, "{len} {round}");
            let told = head(world.addr, &of(&digest), &[]).await;
            assert_eq!(reply.stable_headers(), told.stable_headers());
        }
    }
    world.end().await;
}

#[tokio::test]
async fn the_empty_blob_is_whole_also_by_range() {
    let world = World::start().await;
    let digest = world.upstream.blob(&Bytes::new());
    for _ in 0..2 {
        let reply = get(world.addr, &of(&digest), &["Range: bytes=0-"]).await;
        assert_eq!((reply.status, reply.length()), (200, 0));
        assert_eq!(
            get(world.addr, &of(&digest), &["Range: bytes=5-"])
                .await
                .status,
            416
        );
    }
    world.end().await;
}

#[tokio::test]
async fn sha512_blobs_are_served() {
    let world = World::start().await;
    let bytes = specimen(7, MIB + 3);
    let digest = world.upstream.blob_named(DigestAlgorithm::Sha512, &bytes);
    let reply = get(world.addr, &of(&digest), &[]).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body == bytes);
    world.end().await;
}

#[tokio::test]
async fn a_client_reads_the_first_piece_while_the_others_are_still_upstream() {
    let world = World::start().await;
    let bytes = specimen(8, 4 * MIB);
    let digest = world.upstream.blob(&bytes);
    let gate = world.upstream.hold_back();
    let mut client = Connection::open(world.addr).await;
    client.send("GET", &of(&digest), &[], b"").await;
    gate.add_permits(1);
    let reply = client.head().await;
    assert_eq!((reply.status, reply.length()), (200, 4 * MIB));
    assert!(client.body(MIB).await == bytes[..MIB]);
    gate.add_permits(3);
    assert!(client.body(3 * MIB).await == bytes[MIB..]);
    world.end().await;
}

#[tokio::test]
async fn open_ended_ranges_are_given_up_without_harm() {
    let world = World::start().await;
    let bytes = specimen(9, 6 * MIB);
    let digest = world.upstream.blob(&bytes);
    // As containerd 2.x with parallel fetches: `bytes=N-`, a part of it, and the connection closed.
    let fetches = (0..3).map(|nth| {
        let (addr, path, from) = (world.addr, of(&digest), nth * 2 * MIB);
        async move {
            let mut client = Connection::open(addr).await;
            client
                .send("GET", &path, &[&format!("Range: bytes={from}-")], b"")
                .await;
            let reply = client.head().await;
            assert_eq!(reply.status, 206);
            client.body(2 * MIB).await
        }
    });
    let parts = join_all(fetches).await;
    assert!(parts.concat() == bytes);
    world
        .until_status(|status| status.swarms.iter().all(|swarm| swarm.readers == 0))
        .await;
    assert!(get(world.addr, &of(&digest), &[]).await.body == bytes);
    world.end().await;
}

#[tokio::test]
async fn several_ranges_come_as_parts() {
    let world = World::start().await;
    let bytes = specimen(10, 2 * MIB + 5);
    let digest = world.upstream.blob(&bytes);
    for _ in 0..2 {
        let header = format!("Range: bytes=0-9,{}-{},-5", MIB - 1, MIB);
        let reply = get(world.addr, &of(&digest), &[&header]).await;
        assert_eq!(reply.status, 206);
        assert_eq!(reply.length(), reply.body.len());
        let kind = reply.header("content-type").unwrap();
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap();
        let mut expected = Vec::new();
        for (at, (from, to)) in [(0, 10), (MIB - 1, MIB + 1), (bytes.len() - 5, bytes.len())]
            .into_iter()
            .enumerate()
        {
            let lead = if at == 0 { "" } else { "\r\n" };
            let text = format!(
                "{lead}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {from}-{}/{}\r\n\r\n",
                to - 1,
                bytes.len()
            );
            expected.extend_from_slice(text.as_bytes());
            expected.extend_from_slice(&bytes[from..to]);
        }
        expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(reply.body == expected);
    }
    world.end().await;
}

#[tokio::test]
async fn if_range_with_another_tag_gets_the_whole() {
    let world = World::start().await;
    let bytes = specimen(11, 1000);
    let digest = world.upstream.blob(&bytes);
    let tag = format!("If-Range: \"{digest}\"");
    let right = get(world.addr, &of(&digest), &["Range: bytes=5-", &tag]).await;
    assert_eq!((right.status, right.body.len()), (206, 995));
    let other = get(
        world.addr,
        &of(&digest),
        &["Range: bytes=5-", "If-Range: \"other\""],
    )
    .await;
    assert_eq!((other.status, other.body.len()), (200, 1000));
    world.end().await;
}

#[tokio::test]
async fn a_blob_that_turns_out_wrong_is_cut_short_and_then_refused() {
    let world = World::start().await;
    let bytes = specimen(12, 4 * MIB);
    let digest = world.upstream.blob(&bytes);
    let gate = world.upstream.hold_back();
    gate.add_permits(1);
    let mut client = Connection::open(world.addr).await;
    client.send("GET", &of(&digest), &[], b"").await;
    assert_eq!(client.head().await.status, 200);
    let mut got = client.body(MIB).await;
    world.agent.handle().poisoned(digest).await;
    world
        .upstream
        .refuse(Some(Refusal::new(RefusalCode::Unavailable)));
    got.extend(client.body(3 * MIB).await);
    assert!(
        got.len() < bytes.len() && got == bytes[..got.len()],
        "a short body, and every byte of it right"
    );
    let again = get(
        world.addr,
        &of(&digest),
        &[&format!("Range: bytes={}-", got.len())],
    )
    .await;
    assert_eq!(again.status, 503);
    world.end().await;
}

#[tokio::test]
async fn beside_an_open_answer_a_range_that_fails_is_cut_once_and_then_refused() {
    let world = World::start().await;
    let bytes = specimen(13, 4 * MIB);
    let digest = world.upstream.blob(&bytes);
    let gate = world.upstream.hold_back();
    gate.add_permits(1);
    let mut first = Connection::open(world.addr).await;
    first
        .send("GET", &of(&digest), &["Range: bytes=0-"], b"")
        .await;
    assert_eq!(first.head().await.status, 206);
    assert_eq!(first.body(MIB).await.len(), MIB);
    world
        .upstream
        .refuse(Some(Refusal::new(RefusalCode::Unavailable)));
    let range = format!("Range: bytes={}-", 2 * MIB);
    let mut later = Connection::open(world.addr).await;
    later.send("GET", &of(&digest), &[&range], b"").await;
    let cut = later.head().await;
    assert_eq!((cut.status, cut.length()), (206, 2 * MIB));
    assert!(
        later.body(2 * MIB).await.is_empty(),
        "no byte, and the connection ends"
    );
    assert_eq!(get(world.addr, &of(&digest), &[&range]).await.status, 503);
    world.upstream.refuse(None);
    gate.add_permits(3);
    assert!(
        first.body(3 * MIB).await == bytes[MIB..],
        "the open answer was not disturbed"
    );
    world.end().await;
}

#[tokio::test]
async fn each_refusal_of_an_origin_becomes_404_or_503() {
    let world = World::start().await;
    let digest = world.upstream.blob(&specimen(14, 100));
    for (code, status) in [
        (RefusalCode::NotFound, 404),
        (RefusalCode::Denied, 404),
        (RefusalCode::Busy, 503),
        (RefusalCode::Unavailable, 503),
        (RefusalCode::Leaving, 503),
    ] {
        world.upstream.refuse(Some(Refusal::new(code)));
        assert_eq!(
            get(world.addr, &of(&digest), &[]).await.status,
            status,
            "{code:?}"
        );
        assert_eq!(
            head(world.addr, &of(&digest), &[]).await.status,
            status,
            "{code:?}"
        );
    }
    world.upstream.refuse(None);
    assert_eq!(get(world.addr, &of(&digest), &[]).await.status, 200);
    world.end().await;
}

/// dockerd comes back to a mirror that is broken, five times and later each time, and leaves one that does not have a blob.
#[tokio::test]
async fn a_blob_that_cannot_be_had_is_404_to_a_client_that_keeps_to_one_source() {
    let world = World::start().await;
    let digest = world.upstream.blob(&specimen(15, 100));
    let bound = world.agent.bound_addrs()[0].1;
    world
        .upstream
        .refuse(Some(Refusal::new(RefusalCode::Unavailable)));
    for (addr, path) in [
        (bound, format!("/v2/app/blobs/{digest}")),
        (world.addr, format!("/v2/registry.test/app/blobs/{digest}")),
    ] {
        let reply = get(addr, &path, &["Range: bytes=7-"]).await;
        assert_eq!(
            (reply.status, reply.oci_code().as_str()),
            (404, "BLOB_UNKNOWN"),
            "{path}"
        );
        assert_eq!(head(addr, &path, &[]).await.status, 404, "{path}");
    }
    assert_eq!(get(world.addr, &of(&digest), &[]).await.status, 503);
    world.end().await;
}

#[tokio::test]
async fn thirteen_blobs_on_thirteen_connections_come_together() {
    let world = World::start().await;
    let blobs: Vec<Bytes> = (0..13).map(|seed| specimen(100 + seed, MIB / 2)).collect();
    let pulls = blobs.iter().map(|bytes| {
        let (addr, path) = (world.addr, of(&world.upstream.blob(bytes)));
        async move { get(addr, &path, &[]).await.body == *bytes }
    });
    assert!(join_all(pulls).await.into_iter().all(|right| right));
    // A client has its last byte before the blob is committed.
    let store = world.agent.handle().store().clone();
    soon(async {
        while store.usage().complete_blobs < 13 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_reader_with_it() {
    let world = World::start().await;
    let digest = world.upstream.blob(&specimen(15, 4 * MIB));
    let gate = world.upstream.hold_back();
    gate.add_permits(1);
    let mut client = Connection::open(world.addr).await;
    client.send("GET", &of(&digest), &[], b"").await;
    assert_eq!(client.body(1000).await.len(), 1000);
    world
        .until_status(|status| status.swarms.iter().any(|swarm| swarm.readers == 1))
        .await;
    drop(client);
    world
        .until_status(|status| status.swarms.iter().all(|swarm| swarm.readers == 0))
        .await;
    gate.add_permits(3);
    world.end().await;
}

#[tokio::test]
async fn preheat_brings_a_blob_and_sends_nothing_of_it() {
    let world = World::start().await;
    let digest = world.upstream.blob(&specimen(16, MIB + 1));
    for was_held in ["false", "true"] {
        let path = format!("/shoal/preheat/app/blobs/{digest}?{NS}");
        let reply = crate::http::request(world.addr, "POST", &path, &[]).await;
        assert_eq!(reply.status, 200);
        let said = String::from_utf8(reply.body).unwrap();
        assert!(said.contains(&format!("\"was_held\":{was_held}")), "{said}");
    }
    assert!(
        world
            .agent
            .handle()
            .store()
            .lookup(&digest)
            .unwrap()
            .complete
    );
    world.end().await;
}
