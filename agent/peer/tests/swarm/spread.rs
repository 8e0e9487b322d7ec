//! Blobs on their way: from upstream to the origin, to the first agent, to the next, and to readers on each.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::join_all;
use shoal_peer::{ListAsk, ManifestAsk, ManifestError, OpenError};
use shoal_proto::wire::{Listed, RefusalCode};
use shoal_proto::{ByteRange, Digest, FailReason};

use super::world::{MIB, Upstream, World, digest_of, read_all, soon, source, specimen, until};

const FROM_PEERS: &str = "shoal_download_bytes_total{source=peer}";
const FROM_ORIGINS: &str = "shoal_download_bytes_total{source=origin}";

#[tokio::test(flavor = "multi_thread")]
async fn second_agent_gets_nine_tenths_from_the_first() {
    let world = World::new().await;
    let blob = specimen(1, 24 * MIB);
    let digest = digest_of(&blob);
    let (origin, upstream) = world.origin(Upstream::of([blob.clone()]));
    let (a, b) = (world.agent(), world.agent());
    a.knows_an_origin().await;
    assert_eq!(a.pull(digest).await, blob);
    a.completes(&digest).await;
    let (peers, origins) = (world.counts.get(FROM_PEERS), world.counts.get(FROM_ORIGINS));
    b.knows_an_origin().await;
    assert_eq!(b.pull(digest).await, blob);
    b.completes(&digest).await;
    let peers = world.counts.get(FROM_PEERS) - peers;
    let origins = world.counts.get(FROM_ORIGINS) - origins;
    assert!(
        peers * 10 > (peers + origins) * 9,
        "{peers} from peers, {origins} from the origin"
    );
    assert_eq!(upstream.fetched.load(Ordering::SeqCst), 1);
    for member in [b, a, origin] {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_of_every_length_arrives_whole() {
    let world = World::new().await;
    // Nothing; a byte; around one piece; a short last piece; many pieces.
    let lengths = [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 17, 9 * MIB];
    let blobs: Vec<Bytes> = (0..)
        .zip(lengths)
        .map(|(n, len)| specimen(n, len))
        .collect();
    let (origin, _upstream) = world.origin(Upstream::of(blobs.clone()));
    let agent = world.agent();
    agent.knows_an_origin().await;
    for blob in blobs {
        let digest = digest_of(&blob);
        let mut reader = agent.open(digest).await;
        assert_eq!(reader.blob_bytes(), blob.len() as u64);
        assert_eq!(soon(read_all(&mut reader)).await.unwrap(), blob);
        drop(reader);
        agent.completes(&digest).await;
        assert_eq!(agent.pull(digest).await, blob, "again, from the store");
    }
    agent.stop().await;
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_bytes_reach_the_reader_while_the_seeder_has_only_part() {
    let world = World::new().await;
    let blob = specimen(2, 12 * MIB);
    let digest = digest_of(&blob);
    let (origin, upstream) = world.origin(Upstream::gated([blob.clone()], 3));
    let agent = world.agent();
    agent.knows_an_origin().await;
    let mut reader = agent.open(digest).await;
    let mut read = Vec::new();
    while read.len() < 3 * MIB {
        read.extend_from_slice(&soon(reader.next()).await.unwrap().unwrap());
    }
    assert_eq!(origin.holds(&digest), 3, "the gate is shut");
    assert_eq!(read[..], blob[..3 * MIB]);
    upstream.let_through(9);
    read.extend_from_slice(&soon(read_all(&mut reader)).await.unwrap());
    assert_eq!(read[..], blob[..]);
    agent.stop().await;
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn range_is_read_exactly_and_before_what_precedes_it_need_arrive() {
    let world = World::new().await;
    let blob = specimen(3, 8 * MIB);
    let digest = digest_of(&blob);
    let (origin, _upstream) = world.origin(Upstream::of([blob.clone()]));
    let agent = world.agent();
    agent.knows_an_origin().await;
    let (start, end) = (5 * MIB - 3, 6 * MIB + 9);
    let range = ByteRange {
        start: start as u64,
        end: end as u64,
    };
    let opened = agent.handle.open(digest, source(), Some(range));
    let mut reader = soon(opened).await.unwrap();
    assert_eq!(reader.remaining(), range.len());
    assert_eq!(
        soon(read_all(&mut reader)).await.unwrap(),
        blob.slice(start..end)
    );
    let outside = ByteRange {
        start: blob.len() as u64,
        end: u64::MAX,
    };
    let opened = soon(agent.handle.open(digest, source(), Some(outside))).await;
    assert!(
        matches!(opened, Err(OpenError::OutOfRange { .. })),
        "{opened:?}"
    );
    agent.stop().await;
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_is_asked_once_however_many_ask() {
    let world = World::new().await;
    let blob = specimen(4, 10 * MIB);
    let digest = digest_of(&blob);
    let (origin, upstream) = world.origin(Upstream::of([blob.clone()]));
    let agents = [world.agent(), world.agent(), world.agent()];
    for agent in &agents {
        agent.knows_an_origin().await;
    }
    let pulls = agents.iter().chain(&agents).map(|agent| agent.pull(digest));
    for pulled in join_all(pulls).await {
        assert_eq!(pulled, blob);
    }
    assert_eq!(upstream.fetched.load(Ordering::SeqCst), 1);
    for agent in &agents {
        agent.stop().await;
    }
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stat_tells_the_length_and_starts_no_download() {
    let world = World::new().await;
    let blob = specimen(5, 2 * MIB);
    let digest = digest_of(&blob);
    let (origin, upstream) = world.origin(Upstream::of([blob]));
    let agent = world.agent();
    agent.knows_an_origin().await;
    let length = soon(agent.handle.stat(digest, source())).await.unwrap();
    assert_eq!(length, 2 * MIB as u64);
    assert_eq!(upstream.fetched.load(Ordering::SeqCst), 0);
    agent.stop().await;
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_that_upstream_does_not_have_is_not_found() {
    let world = World::new().await;
    let (origin, _upstream) = world.origin(Upstream::of([]));
    let agent = world.agent();
    agent.knows_an_origin().await;
    let opened = soon(agent.handle.open(Digest::Sha256([9; 32]), source(), None)).await;
    let error = opened.unwrap_err();
    assert!(
        matches!(
            &error,
            OpenError::Failed {
                reason: FailReason::NotFound(_),
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(
        error.refusal().map(|refusal| refusal.code),
        Some(RefusalCode::NotFound)
    );
    agent.stop().await;
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifest_comes_from_the_origin_and_a_verdict_is_final() {
    let world = World::new().await;
    let (origin, _upstream) = world.origin(Upstream::of([]));
    let agent = world.agent();
    let ask = |reference: &str| ManifestAsk {
        source: source(),
        reference: reference.into(),
        accept: Vec::new(),
        head: false,
    };
    let unknown = soon(agent.handle.manifest(ask("v1"))).await;
    if agent.handle.origins().is_empty() {
        assert!(
            matches!(unknown, Err(ManifestError::NoOrigin)),
            "{unknown:?}"
        );
    }
    agent.knows_an_origin().await;
    let answer = soon(agent.handle.manifest(ask("v1"))).await.unwrap();
    assert_eq!(digest_of(&answer.body), answer.digest);
    let missing = soon(agent.handle.manifest(ask("v2"))).await;
    assert!(
        matches!(&missing, Err(ManifestError::Refused(no)) if no.code == RefusalCode::NotFound),
        "{missing:?}"
    );
    agent.stop().await;
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_comes_from_the_origin_as_it_was_asked_for_and_its_no_is_final() {
    let world = World::new().await;
    let (origin, _upstream) = world.origin(Upstream::of([]));
    let agent = world.agent();
    agent.knows_an_origin().await;
    let ask = |listed| ListAsk {
        source: source(),
        listed,
        query: "n=2".into(),
    };
    let page = soon(agent.handle.list(ask(Listed::Tags))).await.unwrap();
    let expected = format!("{} n=2", source().repository);
    assert_eq!(page.body, expected);
    assert_eq!(page.next_query, "last=v1");
    let none = agent.handle.list(ask(Listed::Referrers(digest_of(b"x"))));
    let none = soon(none).await;
    assert!(
        matches!(&none, Err(ManifestError::Refused(no)) if no.code == RefusalCode::NotFound),
        "{none:?}"
    );
    agent.stop().await;
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_refuses_what_only_an_origin_can_do() {
    let world = World::new().await;
    let (a, b) = (world.agent(), world.agent());
    until(|| async { a.handle.tracker_connected() && b.handle.tracker_connected() }).await;
    let addr = b.endpoint.local_addr().unwrap();
    let dialed = a.endpoint.dial(addr, shoal_link::Expect::Peer(b.peer()));
    let connected = soon(dialed).await.unwrap();
    let answer = async {
        let mut stream = connected.link.open_ask().await.unwrap();
        let ask = shoal_proto::wire::Ask::Open {
            digest: Digest::Sha256([1; 32]),
            source: source(),
            stat: false,
        };
        stream.send.write_message(&ask).await.unwrap();
        stream
            .recv
            .read_message::<shoal_proto::wire::Answer>()
            .await
    };
    let answer = soon(answer).await.unwrap();
    assert!(
        matches!(&answer, shoal_proto::wire::Answer::Refusal(no) if no.code == RefusalCode::BadRequest),
        "{answer:?}"
    );
    b.stop().await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preheated_blob_is_complete_before_anybody_reads_it() {
    let world = World::new().await;
    let blob = specimen(6, 5 * MIB);
    let digest = digest_of(&blob);
    let (origin, _upstream) = world.origin(Upstream::of([blob.clone()]));
    let agent = world.agent();
    agent.knows_an_origin().await;
    let info = soon(agent.handle.preheat(digest, source())).await.unwrap();
    assert_eq!(info.geometry.blob_bytes(), blob.len() as u64);
    assert!(agent.is_complete(&digest));
    let mut reader = agent.open(digest).await;
    assert!(reader.was_complete());
    assert_eq!(soon(read_all(&mut reader)).await.unwrap(), blob);
    agent.stop().await;
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_budget_is_kept_and_slow_readers_hold_nobody_up() {
    let world = World::new().await;
    let blob = specimen(8, 40 * MIB);
    let digest = digest_of(&blob);
    let (origin, _upstream) = world.origin(Upstream::of([blob.clone()]));
    let budget = 2 * MIB;
    let agent = world.member(shoal_proto::Role::Agent, |options| {
        options.buffer_budget_bytes = budget;
    });
    agent.knows_an_origin().await;
    // Readers that keep every byte they were given use the budget up and go on in small steps.
    let mut hoard = Vec::new();
    let mut readers = [agent.open(digest).await, agent.open(digest).await];
    for reader in &mut readers {
        for _ in 0..4 {
            hoard.push(soon(reader.next()).await.unwrap().unwrap());
        }
    }
    let pulling = agent.pull(digest);
    let watching = async {
        let mut most = 0;
        while !agent.is_complete(&digest) {
            let status = agent.handle.status().await.unwrap();
            most = most.max(status.buffered_bytes);
        }
        most
    };
    let (pulled, most) = soon(Box::pin(async { tokio::join!(pulling, watching) })).await;
    assert_eq!(pulled, blob);
    assert!(most <= budget, "{most} bytes were in memory");
    drop(hoard);
    agent.stop().await;
    origin.stop().await;
}
