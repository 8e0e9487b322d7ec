//! Memory does not grow with layers: 2 GiB pass through three agents and every process stays small.
//!
//! Not here: speed. `SHOAL_TRIAL_SIZE=small` takes an eighth of the size.

use std::time::Duration;

use futures_util::future::try_join_all;
use shoal_loadtest::cluster::trial::{REPOSITORY, Trial, ready, sized};
use shoal_loadtest::workload::Image;
use tokio::time::timeout;

const LAYER_BYTES: u64 = 2 << 30;
const RESIDENT_MAX: u64 = 150 << 20;
const AGENTS: usize = 3;
const WITHIN: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_process_takes_more_than_150_mib_while_2_gib_pass_through_three_agents() {
    if !ready("no_process_takes_more_than_150_mib_while_2_gib_pass_through_three_agents") {
        return;
    }
    let image = Image::of_sizes(1, &[sized(LAYER_BYTES)]);
    let trial = Trial::begin(AGENTS, &image).await.expect("starts");
    // The layer on disk of the origin and of every agent.
    trial
        .folder
        .need(image.blob_bytes() * 5)
        .expect("enough disk");
    let digest = image.layers()[0].digest();
    let clients: Vec<_> = (0..AGENTS).map(|agent| trial.client(agent)).collect();
    let pulls = clients
        .iter()
        .map(|client| client.blob(REPOSITORY, &digest));
    let pulled = timeout(WITHIN, try_join_all(pulls))
        .await
        .expect("in time")
        .expect("pulls");
    eprintln!(
        "pulled in {:?}",
        pulled.iter().map(|blob| blob.whole).collect::<Vec<_>>()
    );
    for member in trial.cluster.members() {
        let high = member
            .process()
            .and_then(|process| process.memory_high_bytes())
            .expect("readable");
        eprintln!("{}: {} MiB resident at most", member.name(), high >> 20);
        assert!(
            high <= RESIDENT_MAX,
            "{} took {} MiB",
            member.name(),
            high >> 20
        );
    }
}
