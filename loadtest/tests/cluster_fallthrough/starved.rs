//! An agent that has nobody left to ask: its origin is gone, and no neighbour has what it lacks.

use std::time::Duration;

use futures_util::future::join;
use reqwest::Method;
use shoal_loadtest::cluster::c_image::{CImage, check_copied};
use shoal_loadtest::cluster::needs::{BUILDAH, SKOPEO};
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, printed, ready_with};
use shoal_loadtest::cluster::upstream::{Fault, Target};
use shoal_loadtest::workload::Image;
use tokio::time::timeout;

use crate::{MIB, Scene, can_run, check_all, check_all_after_a_cut, pull_all, wait_begun};

/// Where nothing can be had, an agent says so before a person notices.
const NO_SOURCE_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_source_the_agent_says_so_within_two_seconds_and_every_pull_goes_on() {
    const TEST: &str =
        "without_any_source_the_agent_says_so_within_two_seconds_and_every_pull_goes_on";
    if !can_run(TEST) {
        return;
    }
    let image = Image::of_sizes(40, &[MIB, 2 * MIB]);
    let mut scene = Scene::begin(&image).await;
    let trial = &mut scene.trial;
    trial.cluster.origin.kill().await.expect("killed");
    let client = trial.client(0);
    let layer = image.layers()[0].digest();
    for path in [
        format!("{REPOSITORY}/manifests/{TAG}"),
        format!("{REPOSITORY}/manifests/{}", image.manifest_digest()),
        format!("{REPOSITORY}/blobs/{layer}"),
        format!("{REPOSITORY}/tags/list"),
    ] {
        for method in [Method::HEAD, Method::GET] {
            let asked = client.ask(method.clone(), &path, &[]);
            let answer = timeout(NO_SOURCE_WITHIN, asked)
                .await
                .unwrap_or_else(|_| panic!("{method} {path} took over {NO_SOURCE_WITHIN:?}"))
                .expect("answers");
            assert_eq!(answer.status(), 503, "{method} {path}");
        }
    }
    check_all(pull_all(&scene.pullers, &image).await);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_whose_last_source_dies_is_cut_once_and_each_client_ends_at_its_next_host() {
    const TEST: &str =
        "a_blob_whose_last_source_dies_is_cut_once_and_each_client_ends_at_its_next_host";
    if !can_run(TEST) {
        return;
    }
    let image = Image::of_sizes(45, &[24 * MIB]);
    let layer = &image.layers()[0];
    let mut scene = Scene::begin(&image).await;
    // Every agent gets so much of the layer, and no more.
    let (sent, stall) = (9 * MIB, Fault::StallAfter(9 * MIB));
    let upstream = &scene.trial.upstream;
    upstream.will(Target::Blob(layer.digest()), stall, 1);
    let cluster = &mut scene.trial.cluster;
    let dying = async {
        wait_begun(cluster, 4 * MIB).await;
        cluster.origin.kill().await.expect("killed");
    };
    let (pulled, ()) = join(pull_all(&scene.pullers, &image), dying).await;
    check_all_after_a_cut(pulled, &scene.pullers, &image).await;
    for agent in &scene.trial.cluster.agents {
        let metrics = agent.metrics().await.expect("answers");
        let cuts = metrics.count("shoal_pull_fallthrough_total", &[("reason", "cut")]);
        assert_eq!(cuts, 1, "{}", agent.name());
    }
    let asked = scene.trial.upstream.asked(&layer.digest());
    assert_eq!(asked.gets, 6, "the origin's, and one of each client");
    let whole_for_three = sent + 2 * (layer.len() - sent) + 3 * layer.len();
    assert!(
        asked.bytes < whole_for_three + 4 * MIB,
        "containerd went on where it had been cut: {asked:?}"
    );
    scene.end().await;
}

/// A client of c/image chooses its source with the manifest and keeps to it: whoever serves the manifest must be able
/// to serve the blobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_chooses_its_source_once_is_not_led_into_an_agent_without_sources() {
    const TEST: &str =
        "a_client_that_chooses_its_source_once_is_not_led_into_an_agent_without_sources";
    if !ready_with(TEST, &[BUILDAH, SKOPEO]) {
        return;
    }
    let image = Image::of_sizes(80, &[2 * MIB]);
    let mut trial = Trial::begin(1, &image).await.expect("starts");
    let client = trial.client(0);
    // The agent knows tag and manifest, and has none of the blobs.
    let manifest = client.resolve(REPOSITORY, TAG).await.expect("resolves");
    client.manifest(REPOSITORY, &manifest).await.expect("comes");
    trial.cluster.origin.kill().await.expect("killed");
    let by_digest = format!("{}/{REPOSITORY}@{manifest}", trial.upstream.address());
    let folder = trial.folder.sub("c").expect("a folder");
    let told = printed(&trial.cluster.agents[0], "podman")
        .await
        .expect("prints");
    let place = CImage::new(&folder, &told).expect("written");
    for (name, reference) in [("tag", trial.reference()), ("digest", by_digest)] {
        let copied = place.skopeo_copy(&reference, name, &[]).await;
        let copied = copied.expect("copies from the upstream");
        check_copied(&copied, &image).expect("whole");
        let id = place.buildah_pull(&reference).await.expect("pulls");
        assert_eq!(id, image.config_digest().hex());
    }
    // containerd chooses for each request, and is told what is known.
    let known = client.resolve(REPOSITORY, TAG).await.expect("last known");
    assert_eq!(known, manifest);
}
