//! An agent that is not there.

use shoal_loadtest::workload::Image;

use crate::{MIB, Scene, can_run, check_all, pull_all};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_agent_stopped_every_client_takes_the_upstream() {
    if !can_run("with_the_agent_stopped_every_client_takes_the_upstream") {
        return;
    }
    let image = Image::of_sizes(1, &[MIB, 2 * MIB]);
    let mut scene = Scene::begin(&image).await;
    for agent in &mut scene.trial.cluster.agents {
        agent.stop().await.expect("stops");
    }
    check_all(pull_all(&scene.pullers, &image).await);
    scene.end().await;
}
