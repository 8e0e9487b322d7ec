//! When Shoal is dead, frozen, slow or has nothing: each client still ends with the right image, in bounded time.
//!
//! Each of Debian's clients has a node of its own here, with an agent and with the configuration that the agent's own
//! commands give it, and all of them pull at once. Not here: pulls that go well (`cluster_clients`), an agent that is
//! killed in the middle of a pull (`cluster_crash`), and the order of cut and refusal, which the agent's conformance tests
//! replay byte for byte.

mod frozen;
mod slow;
mod starved;
mod stopped;

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::{join_all, try_join_all};
use shoal_loadtest::cluster::Cluster;
use shoal_loadtest::cluster::containerd::Containerd;
use shoal_loadtest::cluster::puller::{Kind, Puller, entries};
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, ready_with, wait_downloaded};
use shoal_loadtest::cluster::upstream::Upstream;
use shoal_loadtest::demo::install;
use shoal_loadtest::workload::Image;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
const WITHIN: Duration = Duration::from_secs(120);

/// A node for each client: the agent and the client of one have the same place in their lists.
struct Scene {
    trial: Trial,
    pullers: Vec<Puller>,
}

impl Scene {
    async fn begin(image: &Image) -> Self {
        let upstream = Upstream::start(&[(REPOSITORY, TAG, image)])
            .await
            .expect("starts");
        let address = upstream.address();
        let trial = Trial::with_all(Kind::ALL.len(), upstream, entries(address), Vec::new())
            .await
            .expect("starts");
        let nodes = Kind::ALL.iter().zip(&trial.cluster.agents);
        let starting = nodes.enumerate().map(|(index, (kind, agent))| {
            let folder = trial.folder.path().join(format!("n{index}"));
            async move { Puller::start(*kind, &folder, agent, address).await }
        });
        let pullers = try_join_all(starting).await.expect("every client starts");
        Self { trial, pullers }
    }

    async fn end(mut self) {
        for puller in &mut self.pullers {
            puller.stop().await.expect("stops");
        }
    }
}

fn can_run(test: &str) -> bool {
    ready_with(test, &Kind::programs())
}

/// All clients at once; what became of each, in time.
async fn pull_all(pullers: &[Puller], image: &Image) -> Vec<(Kind, Result<()>)> {
    let pulls = pullers.iter().map(|puller| async move {
        let started = Instant::now();
        let pulled = timeout(WITHIN, puller.pull(image)).await;
        let pulled = pulled.unwrap_or_else(|_| panic!("{:?}: not in time", puller.kind()));
        eprintln!(
            "{:?}: {pulled:?} after {:?}",
            puller.kind(),
            started.elapsed()
        );
        (puller.kind(), pulled)
    });
    join_all(pulls).await
}

/// Every client has the image.
#[track_caller]
fn check_all(outcomes: Vec<(Kind, Result<()>)>) {
    for (kind, pulled) in outcomes {
        pulled.unwrap_or_else(|error| panic!("{kind:?}: {error:#}"));
    }
}

/// What becomes of a pull whose answer was cut short in the middle of a blob: who asks its hosts anew for each request has
/// the image. The library of skopeo and buildah, as Debian 12 has it, neither resumes a blob nor changes its source within
/// an image: it says so at once, and the next attempt has the image.
async fn check_all_after_a_cut(
    outcomes: Vec<(Kind, Result<()>)>,
    pullers: &[Puller],
    image: &Image,
) {
    let (mut again, mut done) = (Vec::new(), Vec::new());
    for (puller, (kind, pulled)) in pullers.iter().zip(outcomes) {
        if matches!(kind, Kind::Buildah | Kind::Skopeo) {
            let error = format!("{:#}", pulled.expect_err("it cannot go on"));
            assert!(error.contains("unexpected EOF"), "{kind:?}: {error}");
            again.push(timeout(WITHIN, puller.pull(image)));
        } else {
            done.push((kind, pulled));
        }
    }
    check_all(done);
    for pulled in join_all(again).await {
        pulled.expect("in time").expect("a new attempt succeeds");
    }
}

/// Waits until each agent has so much of the image: its client has begun to read then.
async fn wait_begun(cluster: &Cluster, bytes: u64) {
    let waits = cluster
        .agents
        .iter()
        .map(|agent| wait_downloaded(agent, bytes, WITHIN));
    try_join_all(waits).await.expect("flows everywhere");
}

/// A containerd that asks the trial's first agent first and the upstream next.
async fn node_before(trial: &Trial) -> Containerd {
    let folder = trial.folder.sub("n").expect("a folder");
    let node = Containerd::start_with_cri("n", &folder)
        .await
        .expect("starts");
    install(&node, &trial.cluster.agents[0])
        .await
        .expect("installs");
    node
}
