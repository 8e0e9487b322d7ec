//! kill -9, and what it may cost: an agent's unfinished pieces, an origin's unfinished blobs, never a pull.
//!
//! Not here: power loss (the store's own crash tests cut every call).

use std::time::Duration;

use futures_util::future::try_join_all;
use rustix::process::Signal;
use shoal_loadtest::cluster::Member;
use shoal_loadtest::cluster::containerd::{self, Containerd};
use shoal_loadtest::cluster::trial::{
    REPOSITORY, TAG, Trial, downloaded, ready, ready_with, wait_downloaded,
};
use shoal_loadtest::demo::install;
use shoal_loadtest::workload::Image;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
const WITHIN: Duration = Duration::from_secs(120);
/// What may be under way when an agent dies, in pieces of 256 KiB for the layers used here.
const UNDER_WAY_MAX: u64 = 16 * MIB;

fn signal(member: &Member, signal: Signal) {
    let process = member.process().expect("runs");
    process.signal(signal).expect("runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_fails_no_pull_and_keeps_the_pieces_that_it_had_verified() {
    const TEST: &str = "a_killed_agent_fails_no_pull_and_keeps_the_pieces_that_it_had_verified";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let image = Image::of_sizes(1, &[256 * MIB]);
    let mut trial = Trial::begin(1, &image).await.expect("starts");
    trial.upstream.set_rate(Some(60 * MIB));
    let mut node = Containerd::start("node-1", &trial.folder.sub("c1").expect("a folder"))
        .await
        .expect("starts");
    install(&node, &trial.cluster.agents[0])
        .await
        .expect("installs");

    let reference = trial.reference();
    let (pull, agent) = (node.pull(&reference), &mut trial.cluster.agents[0]);
    let kill = async {
        let had = wait_downloaded(agent, 96 * MIB, WITHIN)
            .await
            .expect("the pull goes through the agent");
        agent.kill().await.expect("killed");
        had
    };
    let (pulled, had) = timeout(WITHIN, futures_util::future::join(pull, kill))
        .await
        .expect("in time");
    pulled.expect("containerd falls through to the upstream");
    assert!(had < image.blob_bytes(), "killed in the middle");
    node.stop().await.expect("stops");

    trial.upstream.set_rate(None);
    trial.cluster.agents[0]
        .start_joined()
        .await
        .expect("starts again");
    let pulled = timeout(WITHIN, trial.client(0).pull(REPOSITORY, TAG))
        .await
        .expect("in time")
        .expect("pulls");
    assert_eq!(pulled.bytes(), image.blob_bytes());
    let again = downloaded(&trial.cluster.agents[0]).await.expect("answers");
    assert!(
        again + had <= image.blob_bytes() + UNDER_WAY_MAX,
        "{had} bytes were verified before the kill, and {again} downloaded after it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_blob_outlives_a_killed_agent_and_is_served_without_a_download() {
    if !ready("a_complete_blob_outlives_a_killed_agent_and_is_served_without_a_download") {
        return;
    }
    let image = Image::of_sizes(2, &[20 * MIB]);
    let mut trial = Trial::begin(1, &image).await.expect("starts");
    timeout(WITHIN, trial.client(0).pull(REPOSITORY, TAG))
        .await
        .expect("in time")
        .expect("pulls");
    trial.cluster.agents[0].kill().await.expect("killed");
    trial.cluster.agents[0]
        .start_joined()
        .await
        .expect("starts again");
    timeout(WITHIN, trial.client(0).pull(REPOSITORY, TAG))
        .await
        .expect("in time")
        .expect("pulls");
    assert_eq!(
        downloaded(&trial.cluster.agents[0]).await.expect("answers"),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_finish_among_themselves_when_the_origin_dies_after_each_piece_has_left_it() {
    if !ready("agents_finish_among_themselves_when_the_origin_dies_after_each_piece_has_left_it") {
        return;
    }
    let image = Image::of_sizes(3, &[384 * MIB]);
    let layer = &image.layers()[0];
    let digest = layer.digest();
    let mut trial = Trial::begin(3, &image).await.expect("starts");
    trial.upstream.set_rate(Some(80 * MIB));
    let clients: Vec<_> = (0..3).map(|agent| trial.client(agent)).collect();
    let (origin, agents) = (&mut trial.cluster.origin, &trial.cluster.agents);
    let first = clients[0].blob(REPOSITORY, &digest);
    let later = async {
        wait_downloaded(&agents[0], layer.len() / 4, WITHIN)
            .await
            .expect("flows");
        try_join_all(
            clients[1..]
                .iter()
                .map(|client| client.blob(REPOSITORY, &digest)),
        )
        .await
    };
    // Agents without a shaped link keep up with any upstream: what keeps these two from being done is that they are
    // frozen, once they take part, until the origin is dead.
    let kill = async {
        let mut others = Vec::new();
        for agent in &agents[1..] {
            others.push(wait_downloaded(agent, MIB, WITHIN).await.expect("flows"));
            signal(agent, Signal::STOP);
        }
        wait_downloaded(&agents[0], layer.len(), WITHIN)
            .await
            .expect("flows");
        origin.kill().await.expect("killed");
        for agent in &agents[1..] {
            signal(agent, Signal::CONT);
        }
        others
    };
    let all = futures_util::future::join3(first, later, kill);
    let (first, later, others) = timeout(WITHIN, all).await.expect("in time");
    eprintln!(
        "when they were frozen, the later agents had {others:?} of {} bytes",
        layer.len()
    );
    assert!(
        others.iter().all(|had| *had < layer.len()),
        "the later agents were not done before: {others:?}"
    );
    assert_eq!(first.expect("whole").bytes, layer.len());
    for one in later.expect("the agents finish among themselves") {
        assert_eq!(one.bytes, layer.len());
    }
}
