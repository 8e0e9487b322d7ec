//! buildah, which pulls as podman does, into storage of its own, told of the agent by what `print podman` says.

use shoal_loadtest::cluster::c_image::CImage;
use shoal_loadtest::cluster::needs::BUILDAH;
use shoal_loadtest::cluster::trial::{Trial, downloaded, printed, ready_with};
use shoal_loadtest::workload::Image;

use crate::MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buildah_pulls_through_the_mirror_of_the_printed_registries_conf() {
    const TEST: &str = "buildah_pulls_through_the_mirror_of_the_printed_registries_conf";
    if !ready_with(TEST, &[BUILDAH]) {
        return;
    }
    let image = Image::of_sizes(1, &[MIB, 2 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let agent = &trial.cluster.agents[0];
    let folder = trial.folder.sub("buildah").expect("a folder");
    let told = printed(agent, "podman").await.expect("prints");
    let place = CImage::new(&folder, &told).expect("written");
    let pulled = place.buildah_pull(&trial.reference()).await;
    let id = pulled.expect("pulls");
    assert_eq!(id, image.config_digest().hex());
    let taken = downloaded(agent).await.expect("answers");
    assert_eq!(taken, image.blob_bytes(), "through the agent");
}
