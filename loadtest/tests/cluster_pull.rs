//! Pulls through a whole cluster of the real binaries: each blob leaves the upstream once, whoever asks, whenever.
//!
//! Not here: crashes (`cluster_crash.rs`), hostile peers (`cluster_hostile.rs`), figures of time and memory
//! (`cluster_stream.rs`, `cluster_memory.rs`).

use std::time::Duration;

use futures_util::future::try_join_all;
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, ready};
use shoal_loadtest::cluster::upstream::{Fault, Target};
use shoal_loadtest::cluster::{needs, process};
use shoal_loadtest::workload::Image;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
const WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_at_once_cost_the_upstream_one_get_a_blob() {
    if !ready("a_hundred_clients_at_once_cost_the_upstream_one_get_a_blob") {
        return;
    }
    let image = Image::of_sizes(1, &[MIB, 5 * MIB, 12 * MIB]);
    let trial = Trial::begin(4, &image).await.expect("starts");
    let pulls = (0..100).map(|number| {
        let client = trial.client(number % 4);
        async move { client.pull(REPOSITORY, TAG).await }
    });
    let pulled = timeout(WITHIN, try_join_all(pulls))
        .await
        .expect("in time")
        .expect("every client is served");
    for one in &pulled {
        assert_eq!(
            (one.manifest, one.bytes()),
            (image.manifest_digest(), image.blob_bytes())
        );
    }
    for (asked, blob) in trial.upstream.asked_of(&image).iter().zip(image.blobs()) {
        assert_eq!(
            (asked.gets, asked.bytes),
            (1, blob.len()),
            "blob {}",
            blob.digest().short()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_agents_take_their_bytes_from_earlier_ones() {
    if !ready("later_agents_take_their_bytes_from_earlier_ones") {
        return;
    }
    let image = Image::of_sizes(2, &[3 * MIB, 128 * MIB]);
    let trial = Trial::begin(3, &image).await.expect("starts");
    timeout(WITHIN, trial.client(0).pull(REPOSITORY, TAG))
        .await
        .expect("in time")
        .expect("pulls");
    let later = [trial.client(1), trial.client(2)];
    let later = later.iter().map(|client| client.pull(REPOSITORY, TAG));
    timeout(WITHIN, try_join_all(later))
        .await
        .expect("in time")
        .expect("pulls");
    let (mut peers, mut origin) = (0, 0);
    for agent in &trial.cluster.agents[1..] {
        let metrics = agent.metrics().await.expect("answers");
        let of = |source| metrics.count("shoal_download_bytes_total", &[("source", source)]);
        eprintln!(
            "{}: {} bytes from peers, {} from the origin",
            agent.name(),
            of("peer"),
            of("origin")
        );
        (peers, origin) = (peers + of("peer"), origin + of("origin"));
    }
    assert!(
        origin * 10 < peers + origin,
        "{origin} bytes came from the origin, {peers} from peers"
    );
    assert_eq!(peers + origin, 2 * image.blob_bytes(), "and nothing twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_pull_on_the_same_node_asks_nobody_for_blobs() {
    if !ready("a_second_pull_on_the_same_node_asks_nobody_for_blobs") {
        return;
    }
    let image = Image::of_sizes(3, &[9 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let client = trial.client(0);
    for _ in 0..2 {
        timeout(WITHIN, client.pull(REPOSITORY, TAG))
            .await
            .expect("in time")
            .expect("pulls");
    }
    let metrics = trial.cluster.agents[0].metrics().await.expect("answers");
    let of = |source| metrics.count("shoal_download_bytes_total", &[("source", source)]);
    assert_eq!(
        of("peer") + of("origin"),
        image.blob_bytes(),
        "downloaded once"
    );
    assert_eq!(
        of("cache"),
        image.blob_bytes(),
        "and served from disk the second time"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_from_the_upstream_reach_no_client_and_are_counted() {
    if !ready("wrong_bytes_from_the_upstream_reach_no_client_and_are_counted") {
        return;
    }
    let image = Image::of_sizes(4, &[10 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let layer = &image.layers()[0];
    trial
        .upstream
        .will(Target::Blob(layer.digest()), Fault::FlipAt(7 * MIB + 3), 1);
    let client = trial.client(0);
    let spoiled = timeout(WITHIN, client.blob(REPOSITORY, &layer.digest()))
        .await
        .expect("in time");
    let error = format!(
        "{:#}",
        spoiled.expect_err("the upstream's bytes were wrong")
    );
    assert!(
        !error.contains("wrong bytes"),
        "the body must end short, not end wrong: {error}"
    );
    let origin = trial.cluster.origin.metrics().await.expect("answers");
    assert!(
        origin.count("shoal_verify_failures_total", &[]) > 0,
        "{}",
        origin.show("shoal_verify")
    );
    // The upstream has come to its senses, and so does the cluster.
    let asked = async { while client.blob(REPOSITORY, &layer.digest()).await.is_err() {} };
    timeout(WITHIN, asked).await.expect("heals in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_upstream_is_resumed_and_no_client_notices() {
    if !ready("a_cut_upstream_is_resumed_and_no_client_notices") {
        return;
    }
    let image = Image::of_sizes(5, &[20 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let layer = &image.layers()[0];
    trial.upstream.will(
        Target::Blob(layer.digest()),
        Fault::CutAfter(6 * MIB + 17),
        1,
    );
    let client = trial.client(0);
    let pulled = timeout(WITHIN, client.blob(REPOSITORY, &layer.digest()))
        .await
        .expect("in time");
    assert_eq!(pulled.expect("whole and right").bytes, layer.len());
    let asked = trial.upstream.asked(&layer.digest());
    assert_eq!(asked.gets, 2, "the first, and its continuation");
    assert!(
        asked.bytes < layer.len() + MIB,
        "what had come was not asked again: {asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_copies_an_image_through_an_agent() {
    const TEST: &str = "skopeo_copies_an_image_through_an_agent";
    if !ready(TEST) || !needs::met(TEST, needs::programs(&[needs::SKOPEO])) {
        return;
    }
    let image = Image::of_sizes(6, &[2 * MIB, 8 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    // The port that stands for the upstream alone: skopeo cannot say which registry it means.
    let agent = trial.cluster.agents[0].addresses().bound;
    let to = trial.folder.path().join("copied");
    let (from, to_arg) = (
        format!("docker://{agent}/{REPOSITORY}:{TAG}"),
        format!("dir:{}", to.display()),
    );
    let copy = ["copy", "--quiet", "--src-tls-verify=false", &from, &to_arg];
    process::run(&needs::SKOPEO.path().expect("found"), &copy, WITHIN)
        .await
        .expect("copies");
    for blob in image.blobs() {
        let copied = std::fs::metadata(to.join(blob.digest().hex())).expect("every blob is there");
        assert_eq!(copied.len(), blob.len());
    }
    assert!(
        trial
            .upstream
            .asked_of(&image)
            .iter()
            .all(|asked| asked.gets == 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_upstream_does_not_have_is_a_404_at_once() {
    if !ready("what_the_upstream_does_not_have_is_a_404_at_once") {
        return;
    }
    let image = Image::of_sizes(7, &[MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let client = trial.client(0);
    let absent = Image::of_sizes(8, &[MIB]).manifest_digest();
    let paths = [
        format!("{REPOSITORY}/manifests/nothing"),
        format!("{REPOSITORY}/manifests/{absent}"),
        format!("{REPOSITORY}/blobs/{absent}"),
    ];
    for path in &paths {
        let answer = timeout(WITHIN, client.ask(reqwest::Method::GET, path, &[]))
            .await
            .expect("in time");
        assert_eq!(answer.expect("answers").status(), 404, "{path}");
    }
    let elsewhere = trial.cluster.agents[0]
        .client()
        .for_registry("registry.invalid");
    let answer = elsewhere
        .ask(reqwest::Method::GET, &paths[0], &[])
        .await
        .expect("answers");
    assert_eq!(answer.status(), 404, "a registry that is not on the list");
}
