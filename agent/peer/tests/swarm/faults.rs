//! Members that go away, in order or not, and trackers that are not there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_peer::ReadError;
use shoal_peer::store::disk::OsDisk;
use shoal_peer::store::{Store, StoreOptions};
use shoal_proto::JoinToken;

use super::introducer::Introducer;
use super::world::{MIB, Upstream, World, digest_of, read_all, soon, source, specimen, until};

#[tokio::test(flavor = "multi_thread")]
async fn other_source_takes_over_when_one_is_killed_midway() {
    let world = World::new().await;
    let blob = specimen(11, 32 * MIB);
    let digest = digest_of(&blob);
    let (origin, _upstream) = world.origin(Upstream::of([blob.clone()]));
    let (a, b, c) = (world.agent(), world.agent(), world.agent());
    for agent in [&a, &b, &c] {
        agent.knows_an_origin().await;
    }
    for seeder in [&a, &b] {
        assert_eq!(seeder.pull(digest).await, blob);
        seeder.completes(&digest).await;
    }
    let mut reader = c.open(digest).await;
    let first = soon(reader.next()).await.unwrap().unwrap();
    a.kill().await;
    let rest = soon(read_all(&mut reader)).await.unwrap();
    assert_eq!([first, rest].concat(), blob);
    for member in [c, b, a, origin] {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_finish_among_themselves_once_each_piece_has_left_the_origin() {
    let world = World::new().await;
    let blob = specimen(12, 24 * MIB);
    let digest = digest_of(&blob);
    let pieces = 24;
    let (origin, upstream) = world.origin(Upstream::gated([blob.clone()], pieces - 1));
    let agents = [world.agent(), world.agent(), world.agent()];
    for agent in &agents {
        agent.knows_an_origin().await;
    }
    let opened = agents.iter().map(|agent| agent.open(digest));
    let mut readers = futures_util::future::join_all(opened).await;
    let out = || {
        let held = agents
            .iter()
            .filter_map(|agent| agent.handle.store().lookup(&digest));
        let mut union = std::collections::BTreeSet::new();
        held.for_each(|blob| union.extend(blob.held.iter()));
        union.len()
    };
    until(|| async { out() == pieces - 1 }).await;
    upstream.let_through(1);
    until(|| async { out() == pieces }).await;
    origin.kill().await;
    for reader in &mut readers {
        assert_eq!(soon(read_all(reader)).await.unwrap(), blob);
    }
    for agent in &agents {
        agent.completes(&digest).await;
        agent.stop().await;
    }
    origin.stop().await;
}

fn tasks_alive() -> usize {
    let runtime = tokio::runtime::Handle::current();
    runtime.metrics().num_alive_tasks()
}

/// What is left when tasks that come and go have gone.
async fn fewest_tasks() -> usize {
    let mut fewest = tasks_alive();
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
        fewest = fewest.min(tasks_alive());
    }
    fewest
}

#[tokio::test(flavor = "multi_thread")]
async fn drained_member_leaves_no_task_and_a_store_that_was_closed_cleanly() {
    let world = World::new().await;
    let blob = specimen(13, 16 * MIB);
    let digest = digest_of(&blob);
    let (origin, _upstream) = world.origin(Upstream::gated([blob], 5));
    // All that stays is there before the agent is: the origin's link to the tracker, and its intake at the gate.
    until(|| async { origin.handle.tracker_connected() }).await;
    drop(origin.open(digest).await);
    until(|| async { origin.holds(&digest) == 5 }).await;
    let before = fewest_tasks().await;
    let agent = world.agent();
    agent.knows_an_origin().await;
    let mut reader = agent.open(digest).await;
    let first = soon(reader.next()).await.unwrap().unwrap();
    assert!(!first.is_empty());
    until(|| async { agent.holds(&digest) == 5 }).await;
    agent.shutdown.cancel();
    let cut = soon(async {
        loop {
            match reader.next().await {
                Some(Ok(_)) => {}
                other => return other,
            }
        }
    });
    let cut = cut.await;
    assert!(matches!(cut, Some(Err(ReadError::ShuttingDown))), "{cut:?}");
    assert!(
        soon(reader.next()).await.is_none(),
        "nothing follows an error"
    );
    drop(reader);
    agent.stop().await;
    assert!(
        soon(agent.handle.open(digest, source(), None))
            .await
            .is_err()
    );
    let super::world::Member {
        handle,
        dir,
        endpoint,
        ..
    } = agent;
    drop((handle, endpoint));
    // The other ends of its links, in the same process, end when they hear that it left.
    until(|| async { tasks_alive() <= before }).await;
    let (store, report) = Store::open(StoreOptions::new(dir.path()), Arc::new(OsDisk)).unwrap();
    assert!(report.clean_stop, "{report:?}");
    assert_eq!(store.lookup(&digest).unwrap().held.count(), 5);
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_under_way_is_finished_before_a_member_goes() {
    let world = World::new().await;
    let blob = specimen(14, 8 * MIB);
    let digest = digest_of(&blob);
    let (origin, _upstream) = world.origin(Upstream::of([blob.clone()]));
    let (a, b) = (world.agent(), world.agent());
    for agent in [&a, &b] {
        agent.knows_an_origin().await;
    }
    assert_eq!(a.pull(digest).await, blob);
    a.completes(&digest).await;
    let mut reader = b.open(digest).await;
    let first = soon(reader.next()).await.unwrap().unwrap();
    let failures = world.counts.get("shoal_verify_failures_total{where=peer}");
    a.stop().await;
    let rest = soon(read_all(&mut reader)).await.unwrap();
    assert_eq!([first, rest].concat(), blob);
    let now = world.counts.get("shoal_verify_failures_total{where=peer}");
    assert_eq!(now, failures, "a cut upload was taken for a lie");
    b.stop().await;
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn member_without_a_tracker_lives_on_and_finds_it_when_it_comes() {
    let mut world = World::new().await;
    let addr = world.tracker_addr;
    soon(world.tracker.take().unwrap().stop()).await;
    let agent = world.agent();
    let status = soon(agent.handle.status()).await.unwrap();
    assert!(!status.tracker.connected);
    assert!(!agent.handle.tracker_connected());
    let tracker = Introducer::start_at(&world.key, &world.token, addr);
    until(|| async { agent.handle.tracker_connected() }).await;
    let status = soon(agent.handle.status()).await.unwrap();
    assert_eq!(
        status.tracker.address.as_deref(),
        Some(addr.to_string().as_str())
    );
    agent.stop().await;
    soon(tracker.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn member_goes_on_to_the_next_tracker_when_one_dies() {
    let mut world = World::new().await;
    let second = Introducer::start(&world.key, &world.token);
    let trackers = vec![world.tracker_addr.to_string(), second.addr.to_string()];
    let agent = world.member(shoal_proto::Role::Agent, |options| {
        options.trackers = trackers
    });
    until(|| async { agent.handle.tracker_connected() }).await;
    soon(world.tracker.take().unwrap().stop()).await;
    let name = second.addr.to_string();
    until(|| async {
        let status = agent.handle.status().await.unwrap();
        status.tracker.address.as_deref() == Some(name.as_str())
    })
    .await;
    agent.stop().await;
    soon(second.stop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_with_the_token_joins_and_exchanges() {
    let world = World::new().await;
    let blob = specimen(15, 3 * MIB);
    let digest = digest_of(&blob);
    let (origin, _upstream) = world.origin(Upstream::of([blob.clone()]));
    let stranger = world.stranger(world.token.clone());
    stranger.knows_an_origin().await;
    assert!(soon(stranger.handle.status()).await.unwrap().tracker.joined);
    assert_eq!(stranger.pull(digest).await, blob);
    stranger.stop().await;
    origin.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stranger_with_the_wrong_token_stays_outside_and_alive() {
    let world = World::new().await;
    let stranger = world.stranger(JoinToken::new(world.key.public(), [9; 32]));
    let knocked = tokio::time::timeout(Duration::from_secs(2), async {
        until(|| async { stranger.handle.tracker_connected() }).await;
    });
    assert!(knocked.await.is_err(), "let in with the wrong token");
    let status = soon(stranger.handle.status()).await.unwrap();
    assert!(!status.tracker.joined && !status.tracker.connected);
    stranger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_that_leaves_withdraws_its_wish() {
    let world = World::new().await;
    let blob: Bytes = specimen(16, 6 * MIB);
    let digest = digest_of(&blob);
    let (origin, upstream) = world.origin(Upstream::gated([blob.clone()], 1));
    let agent = world.agent();
    agent.knows_an_origin().await;
    let reader = agent.open(digest).await;
    let readers = || async {
        let status = agent.handle.status().await.unwrap();
        status
            .swarms
            .iter()
            .map(|swarm| swarm.readers)
            .sum::<usize>()
    };
    assert_eq!(soon(readers()).await, 1);
    drop(reader);
    until(|| async { readers().await == 0 }).await;
    upstream.let_through(5);
    assert_eq!(agent.pull(digest).await, blob);
    agent.stop().await;
    origin.stop().await;
}
