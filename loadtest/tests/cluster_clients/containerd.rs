//! containerd, through `ctr` and through the CRI as a kubelet asks it.

use shoal_loadtest::cluster::config::RegistryEntry;
use shoal_loadtest::cluster::containerd::{self, Containerd};
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, ready_with};
use shoal_loadtest::cluster::upstream::{Asked, Upstream};
use shoal_loadtest::demo::install;
use shoal_loadtest::workload::{Image, digest_of};
use tokio::time::timeout;

use crate::{MIB, WITHIN, upstream_with_index};

/// A containerd for which the agent is the only host there is.
async fn node_behind(trial: &Trial, name: &str) -> Containerd {
    let folder = trial.folder.sub(name).expect("a folder");
    let node = Containerd::start_with_cri(name, &folder)
        .await
        .expect("starts");
    let agent = format!("http://{}", trial.cluster.agents[0].addresses().registry);
    node.set_hosts(
        &trial.upstream.address().to_string(),
        &[&agent],
        Some(&agent),
    )
    .expect("written");
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctr_pulls_thirteen_blobs_through_the_agent_alone_and_each_thing_is_asked_for_once() {
    const TEST: &str =
        "ctr_pulls_thirteen_blobs_through_the_agent_alone_and_each_thing_is_asked_for_once";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let image = Image::of_sizes(1, &[MIB; 12]);
    let upstream = upstream_with_index(&image).await;
    let entry = RegistryEntry::plain(upstream.address());
    let trial = Trial::with(1, upstream, entry, Vec::new())
        .await
        .expect("starts");
    let mut node = node_behind(&trial, "n").await;
    timeout(WITHIN, node.pull(&trial.reference()))
        .await
        .expect("in time")
        .expect("pulls");
    let once = |asked: Asked, heads| (asked.gets, asked.heads) == (1, heads);
    let index = trial.upstream.asked(&digest_of(&image.index()));
    assert!(once(index, 1), "one HEAD of the tag, one GET: {index:?}");
    let manifest = trial.upstream.asked(&image.manifest_digest());
    assert!(once(manifest, 0), "{manifest:?}");
    for asked in trial.upstream.asked_of(&image) {
        assert!(once(asked, 0), "{asked:?}");
    }
    node.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cri_pulls_by_digest_without_asking_for_a_tag_and_a_second_node_asks_no_upstream() {
    const TEST: &str =
        "the_cri_pulls_by_digest_without_asking_for_a_tag_and_a_second_node_asks_no_upstream";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let image = Image::of_sizes(20, &[MIB, 5 * MIB]);
    let upstream = upstream_with_index(&image).await;
    let entry = RegistryEntry::plain(upstream.address());
    let trial = Trial::with(1, upstream, entry, Vec::new())
        .await
        .expect("starts");
    let index = digest_of(&image.index());
    let name = format!("{}/{REPOSITORY}", trial.upstream.address());
    let mut before = Vec::new();
    for (node, reference) in [
        ("a", format!("{name}@{index}")),
        ("b", format!("{name}:{TAG}@{index}")),
    ] {
        let mut node = node_behind(&trial, node).await;
        let id = node.cri_pull(&reference, None).await.expect("pulls");
        assert_eq!(id, image.config_digest().to_string());
        node.stop().await.expect("stops");
        let asked = trial.upstream.requests();
        let by_tag = format!("/manifests/{TAG}");
        assert!(
            asked.iter().all(|line| !line.ends_with(&by_tag)),
            "{asked:?}"
        );
        if !before.is_empty() {
            assert_eq!(asked, before, "what was pulled once is asked for no more");
        }
        before = asked;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ns_leads_each_pull_of_one_default_host_to_its_own_registry() {
    const TEST: &str = "ns_leads_each_pull_of_one_default_host_to_its_own_registry";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let images = [Image::of_sizes(30, &[MIB]), Image::of_sizes(40, &[2 * MIB])];
    let one = Upstream::start(&[(REPOSITORY, TAG, &images[0])])
        .await
        .expect("starts");
    let other = Upstream::start(&[(REPOSITORY, TAG, &images[1])])
        .await
        .expect("starts");
    let addresses = [one.address(), other.address()];
    let entries = addresses.map(RegistryEntry::plain).to_vec();
    let trial = Trial::with_all(1, one, entries, Vec::new())
        .await
        .expect("starts");
    let folder = trial.folder.sub("n").expect("a folder");
    let mut node = Containerd::start_with_cri("n", &folder)
        .await
        .expect("starts");
    let agent = format!("http://{}", trial.cluster.agents[0].addresses().registry);
    // Without `server`, so that no registry's name is in the file.
    node.set_hosts("_default", &[&agent], None)
        .expect("written");
    for (address, image) in addresses.iter().zip(&images) {
        let reference = format!("{address}/{REPOSITORY}:{TAG}");
        let id = node.cri_pull(&reference, None).await.expect("pulls");
        assert_eq!(id, image.config_digest().to_string());
    }
    // The agent did it, not the registries themselves.
    let metrics = trial.cluster.agents[0].metrics().await.expect("answers");
    let taken: u64 = ["peer", "origin"]
        .iter()
        .map(|source| metrics.count("shoal_download_bytes_total", &[("source", source)]))
        .sum();
    assert_eq!(taken, images[0].blob_bytes() + images[1].blob_bytes());
    node.stop().await.expect("stops");
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_tag_or_digest_is_an_error_that_names_the_image() {
    const TEST: &str = "an_absent_tag_or_digest_is_an_error_that_names_the_image";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let image = Image::of_sizes(50, &[MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let mut node = node_behind(&trial, "n").await;
    let absent = digest_of(b"nobody has this");
    for reference in [
        format!("{}/{REPOSITORY}:none", trial.upstream.address()),
        format!("{}/{REPOSITORY}@{absent}", trial.upstream.address()),
    ] {
        let pulled = timeout(WITHIN, node.pull(&reference))
            .await
            .expect("in time");
        let error = format!("{:#}", pulled.expect_err("it is nowhere"));
        assert!(
            error.contains(&reference) && error.contains("not found"),
            "{error}"
        );
        let error = node.cri_pull(&reference, None).await.expect_err("nowhere");
        let error = format!("{error:#}");
        assert!(error.contains("gRPC status 5"), "{error}");
        assert!(error.contains(&reference), "{error}");
    }
    node.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_generated_hosts_toml_leads_containerd_through_the_agent() {
    const TEST: &str = "the_generated_hosts_toml_leads_containerd_through_the_agent";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let image = Image::of_sizes(60, &[3 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let folder = trial.folder.sub("n").expect("a folder");
    let mut node = Containerd::start_with_cri("n", &folder)
        .await
        .expect("starts");
    install(&node, &trial.cluster.agents[0])
        .await
        .expect("installs");
    node.cri_pull(&trial.reference(), None)
        .await
        .expect("pulls");
    let metrics = trial.cluster.agents[0].metrics().await.expect("answers");
    let taken = metrics.count("shoal_download_bytes_total", &[("source", "origin")]);
    assert_eq!(taken, image.blob_bytes(), "the mirror was used");
    node.stop().await.expect("stops");
}
