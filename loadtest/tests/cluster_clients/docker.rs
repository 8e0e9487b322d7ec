//! dockerd with its classic store: `registry-mirrors` for docker.io alone, without `ns`, so that a port stands for it.

use shoal_loadtest::cluster::config::RegistryEntry;
use shoal_loadtest::cluster::dockerd::Dockerd;
use shoal_loadtest::cluster::needs::DOCKERD;
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, downloaded, printed, ready_with};
use shoal_loadtest::cluster::upstream::Upstream;
use shoal_loadtest::workload::Image;

use crate::MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dockerd_pulls_from_docker_io_through_the_port_that_stands_for_it() {
    const TEST: &str = "dockerd_pulls_from_docker_io_through_the_port_that_stands_for_it";
    if !ready_with(TEST, &[DOCKERD]) {
        return;
    }
    let image = Image::of_sizes(1, &[MIB, 2 * MIB]);
    let short = Image::of_sizes(5, &[MIB]);
    let images = [(REPOSITORY, TAG, &image), ("library/app", TAG, &short)];
    let upstream = Upstream::start(&images).await.expect("starts");
    let entry = RegistryEntry {
        registry: "docker.io".into(),
        ..RegistryEntry::plain(upstream.address())
    };
    let trial = Trial::with(1, upstream, entry, Vec::new())
        .await
        .expect("starts");
    let agent = &trial.cluster.agents[0];
    // dockerd itself refuses a key that it does not know.
    let told = printed(agent, "dockerd").await.expect("prints");
    let folder = trial.folder.sub("d").expect("a folder");
    let mut docker = Dockerd::start(&folder, &told, &[]).await.expect("starts");
    // A short name is made long by dockerd itself.
    for (name, image) in [(REPOSITORY, &image), ("app", &short)] {
        docker.pull(name, TAG).await.expect("pulls");
        let id = docker
            .image_id(&format!("{name}:{TAG}"))
            .await
            .expect("is there");
        assert_eq!(id, image.config_digest().to_string());
    }
    let taken = downloaded(agent).await.expect("answers");
    assert_eq!(taken, image.blob_bytes() + short.blob_bytes());
    docker.stop().await.expect("stops");
}
