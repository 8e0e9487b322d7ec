//! When Shoal is dead, frozen, slow or has nothing: each client still ends with the right image, in bounded time.
//!
//! Not here: pulls that go well (`cluster_clients`), an agent that is killed in the middle of a pull (`cluster_crash`), and
//! the order of cut and refusal, which the agent's conformance tests replay byte for byte.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use shoal_loadtest::cluster::Member;
use shoal_loadtest::cluster::config::RegistryEntry;
use shoal_loadtest::cluster::containerd::{self, Containerd};
use shoal_loadtest::cluster::dockerd::Dockerd;
use shoal_loadtest::cluster::needs::{self, BUILDAH, DOCKERD, SKOPEO};
use shoal_loadtest::cluster::process;
use shoal_loadtest::cluster::trial::{
    REPOSITORY, TAG, Trial, downloaded, ready, ready_with, wait_downloaded,
};
use shoal_loadtest::cluster::upstream::{Fault, Target, Upstream};
use shoal_loadtest::workload::{Image, digest_of};
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
const WITHIN: Duration = Duration::from_secs(120);
/// Where nothing can be had, an agent says so before a person notices.
const NO_SOURCE_WITHIN: Duration = Duration::from_secs(2);
/// Before a client of any version gives headers up.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

fn signal(member: &mut Member, signal: Signal) {
    let pid = member.process_mut().expect("runs").pid();
    kill_process(Pid::from_raw(pid).expect("a process id"), signal).expect("runs");
}

/// A containerd that asks the agent first and the upstream next.
async fn node_before(trial: &Trial) -> Containerd {
    let folder = trial.folder.sub("n").expect("a folder");
    let node = Containerd::start_with_cri("n", &folder)
        .await
        .expect("starts");
    let agent = format!("http://{}", trial.cluster.agents[0].addresses().registry);
    let upstream = trial.upstream.address().to_string();
    node.set_hosts(&upstream, &[&agent], Some(&format!("http://{upstream}")))
        .expect("written");
    node
}

/// The arguments of skopeo or buildah for a mirror that is the agent.
fn mirrored(trial: &Trial) -> String {
    let registry = trial.upstream.address();
    let agent = trial.cluster.agents[0].addresses().bound;
    let file = trial.folder.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"{agent}\"\ninsecure = true\n"
    );
    std::fs::write(&file, text).expect("written");
    file.display().to_string()
}

async fn skopeo_copy(trial: &Trial, reference: &str, to: &Path) -> anyhow::Result<String> {
    let conf = mirrored(trial);
    let (from, to) = (
        format!("docker://{reference}"),
        format!("dir:{}", to.display()),
    );
    let args = ["--registries-conf", &conf, "copy", "--quiet", &from, &to];
    process::run(&SKOPEO.path().expect("found"), &args, WITHIN).await
}

async fn buildah_pull(trial: &Trial) -> String {
    let conf = mirrored(trial);
    let folder = trial.folder.sub("buildah").expect("a folder");
    let policy = folder.join("policy.json");
    std::fs::write(
        &policy,
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    )
    .expect("written");
    let path = |name: &str| folder.join(name).display().to_string();
    let (root, run, policy) = (path("root"), path("run"), path("policy.json"));
    let reference = trial.reference();
    let args = [
        "--root",
        &root,
        "--runroot",
        &run,
        "--storage-driver",
        "vfs",
        "--registries-conf",
        &conf,
        "pull",
        "--quiet",
        "--signature-policy",
        &policy,
        &reference,
    ];
    let program = BUILDAH.path().expect("found");
    process::run(&program, &args, WITHIN).await.expect("pulls")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_agent_stopped_every_client_takes_the_upstream() {
    const TEST: &str = "with_the_agent_stopped_every_client_takes_the_upstream";
    let mut programs = containerd::PROGRAMS.to_vec();
    programs.extend([BUILDAH, SKOPEO]);
    if !ready_with(TEST, &programs) {
        return;
    }
    let image = Image::of_sizes(1, &[MIB, 2 * MIB]);
    let mut trial = Trial::begin(1, &image).await.expect("starts");
    trial.cluster.agents[0].stop().await.expect("stops");
    let mut node = node_before(&trial).await;
    let reference = trial.reference();
    timeout(WITHIN, node.pull(&reference))
        .await
        .expect("in time")
        .expect("ctr pulls");
    node.stop().await.expect("stops");
    let to = trial.folder.path().join("copied");
    skopeo_copy(&trial, &reference, &to).await.expect("copies");
    for blob in image.blobs() {
        let copied = std::fs::read(to.join(blob.digest().hex())).expect("every blob");
        assert_eq!(digest_of(&copied), blob.digest());
    }
    let id = buildah_pull(&trial).await;
    assert_eq!(id.trim(), image.config_digest().hex());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_agent_stopped_dockerd_takes_its_next_mirror() {
    const TEST: &str = "with_the_agent_stopped_dockerd_takes_its_next_mirror";
    if !ready_with(TEST, &[DOCKERD]) {
        return;
    }
    let image = Image::of_sizes(10, &[MIB]);
    let upstream = Upstream::start(&[(REPOSITORY, TAG, &image)])
        .await
        .expect("starts");
    let entry = RegistryEntry {
        registry: "docker.io".into(),
        ..RegistryEntry::plain(upstream.address())
    };
    let mut trial = Trial::with(1, upstream, entry, Vec::new())
        .await
        .expect("starts");
    let agent = format!("http://{}", trial.cluster.agents[0].addresses().bound);
    let next = format!("http://{}", trial.upstream.address());
    trial.cluster.agents[0].stop().await.expect("stops");
    let folder = trial.folder.sub("d").expect("a folder");
    let mut docker = Dockerd::start(&folder, &[&agent, &next])
        .await
        .expect("starts");
    docker.pull(REPOSITORY, TAG).await.expect("pulls");
    let id = docker
        .image_id(&format!("{REPOSITORY}:{TAG}"))
        .await
        .expect("is there");
    assert_eq!(id, image.config_digest().to_string());
    docker.stop().await.expect("stops");
}

/// containerd 1.6 waits for headers without a limit, and a process that is stopped cannot help itself: what ends it is
/// systemd's watchdog or the kubelet's liveness probe. The test does what they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_that_its_supervisor_ends_costs_the_pull_nothing_else() {
    const TEST: &str = "a_frozen_agent_that_its_supervisor_ends_costs_the_pull_nothing_else";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let image = Image::of_sizes(20, &[96 * MIB]);
    let mut trial = Trial::begin(1, &image).await.expect("starts");
    trial.upstream.set_rate(Some(40 * MIB));
    let mut node = node_before(&trial).await;
    let reference = trial.reference();
    let agent = &mut trial.cluster.agents[0];
    let freeze = async {
        wait_downloaded(agent, 16 * MIB, WITHIN)
            .await
            .expect("flows");
        signal(agent, Signal::STOP);
        let admin = format!("http://{}/livez", agent.addresses().admin);
        let probe = shoal_loadtest::cluster::client::http()
            .get(admin)
            .timeout(Duration::from_secs(1));
        probe.send().await.expect_err("it does not live");
        agent.kill().await.expect("killed");
    };
    let (pulled, ()) = timeout(WITHIN, join(node.pull(&reference), freeze))
        .await
        .expect("in time");
    pulled.expect("the rest comes from the upstream");
    node.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_was_frozen_and_goes_on_finishes_what_it_had_begun() {
    const TEST: &str = "an_agent_that_was_frozen_and_goes_on_finishes_what_it_had_begun";
    if !ready(TEST) {
        return;
    }
    let image = Image::of_sizes(30, &[64 * MIB]);
    let mut trial = Trial::begin(1, &image).await.expect("starts");
    trial.upstream.set_rate(Some(40 * MIB));
    let client = trial.client(0);
    let agent = &mut trial.cluster.agents[0];
    let freeze = async {
        wait_downloaded(agent, 8 * MIB, WITHIN)
            .await
            .expect("flows");
        signal(agent, Signal::STOP);
        let admin = format!("http://{}/livez", agent.addresses().admin);
        let probe = shoal_loadtest::cluster::client::http()
            .get(admin)
            .timeout(Duration::from_secs(1));
        probe.send().await.expect_err("it does not live");
        signal(agent, Signal::CONT);
    };
    let (pulled, ()) = timeout(WITHIN, join(client.pull(REPOSITORY, TAG), freeze))
        .await
        .expect("in time");
    assert_eq!(pulled.expect("whole").bytes(), image.blob_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_source_the_agent_says_so_within_two_seconds_and_the_pull_goes_on() {
    const TEST: &str =
        "without_any_source_the_agent_says_so_within_two_seconds_and_the_pull_goes_on";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let image = Image::of_sizes(40, &[MIB, 2 * MIB]);
    let mut trial = Trial::begin(1, &image).await.expect("starts");
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
    let mut node = node_before(&trial).await;
    timeout(WITHIN, node.pull(&trial.reference()))
        .await
        .expect("in time")
        .expect("ctr pulls from the upstream");
    node.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_whose_last_source_dies_is_cut_once_and_the_client_ends_at_its_next_host() {
    const TEST: &str =
        "a_blob_whose_last_source_dies_is_cut_once_and_the_client_ends_at_its_next_host";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let image = Image::of_sizes(50, &[128 * MIB]);
    let mut trial = Trial::begin(1, &image).await.expect("starts");
    trial.upstream.set_rate(Some(40 * MIB));
    let mut node = node_before(&trial).await;
    let reference = trial.reference();
    let (agents, origin) = (&trial.cluster.agents, &mut trial.cluster.origin);
    let upstream = &trial.upstream;
    let die = async {
        wait_downloaded(&agents[0], 32 * MIB, WITHIN)
            .await
            .expect("flows");
        origin.kill().await.expect("killed");
        upstream.set_rate(None);
    };
    let (pulled, ()) = timeout(WITHIN, join(node.cri_pull(&reference, None), die))
        .await
        .expect("in time");
    let id = pulled.expect("the rest comes from the upstream");
    assert_eq!(id, image.config_digest().to_string());
    let had = downloaded(&trial.cluster.agents[0]).await.expect("answers");
    assert!(
        had < image.blob_bytes(),
        "the agent could not finish: {had}"
    );
    let asked = trial.upstream.asked(&image.layers()[0].digest());
    eprintln!(
        "of {} bytes the agent had {had}; upstream sent {asked:?}",
        image.blob_bytes()
    );
    assert_eq!(asked.gets, 2, "the origin's, and containerd's continuation");
    assert!(
        asked.bytes < 2 * image.layers()[0].len() - 16 * MIB,
        "containerd went on where it had been cut"
    );
    node.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_slow_to_answer_is_a_503_before_any_client_gives_up() {
    const TEST: &str = "an_upstream_slow_to_answer_is_a_503_before_any_client_gives_up";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let image = Image::of_sizes(60, &[MIB, MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let late = Fault::HeadersAfter(Duration::from_secs(40));
    let (slow, fine) = (image.layers()[0].digest(), image.layers()[1].digest());
    trial.upstream.will(Target::Blob(slow), late, 1);
    let path = format!("{REPOSITORY}/blobs/{slow}");
    let client = trial.client(0);
    let answer = timeout(ANSWER_WITHIN, client.ask(Method::GET, &path, &[]))
        .await
        .expect("before the client gives up")
        .expect("answers");
    assert_eq!(answer.status(), 503);
    // The slowness was this blob's, and it is over: nothing is held against the registry.
    client.blob(REPOSITORY, &fine).await.expect("comes");
    let mut node = node_before(&trial).await;
    timeout(WITHIN, node.pull(&trial.reference()))
        .await
        .expect("in time")
        .expect("pulls");
    node.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_stops_in_the_middle_of_a_blob_is_asked_again_and_no_client_notices() {
    const TEST: &str =
        "an_upstream_that_stops_in_the_middle_of_a_blob_is_asked_again_and_no_client_notices";
    if !ready(TEST) {
        return;
    }
    let image = Image::of_sizes(70, &[24 * MIB]);
    let upstream = Upstream::start(&[(REPOSITORY, TAG, &image)])
        .await
        .expect("starts");
    let entry = RegistryEntry::plain(upstream.address());
    let env = vec![("SHOAL_PULL_IDLE_TIMEOUT".to_owned(), "2s".to_owned())];
    let trial = Trial::with(1, upstream, entry, env).await.expect("starts");
    let layer = &image.layers()[0];
    let stall = Fault::StallAfter(9 * MIB + 5);
    trial.upstream.will(Target::Blob(layer.digest()), stall, 1);
    let pulled = timeout(WITHIN, trial.client(0).blob(REPOSITORY, &layer.digest()))
        .await
        .expect("in time")
        .expect("whole and right");
    assert_eq!(pulled.bytes, layer.len());
    let asked = trial.upstream.asked(&layer.digest());
    assert_eq!(asked.gets, 2, "the one that stopped, and its continuation");
    assert!(asked.bytes < layer.len() + MIB, "{asked:?}");
}

/// A client of c/image chooses its source with the manifest and keeps to it: whoever serves the manifest must be able
/// to serve the blobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_chooses_its_source_once_is_not_led_into_an_agent_without_sources() {
    const TEST: &str =
        "a_client_that_chooses_its_source_once_is_not_led_into_an_agent_without_sources";
    if !ready(TEST) || !needs::met(TEST, needs::programs(&[SKOPEO])) {
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
    for (name, reference) in [("tag", trial.reference()), ("digest", by_digest)] {
        let to = trial.folder.path().join(name);
        skopeo_copy(&trial, &reference, &to)
            .await
            .expect("copies from the upstream");
    }
    // containerd chooses for each request, and is told what is known.
    let known = client.resolve(REPOSITORY, TAG).await.expect("last known");
    assert_eq!(known, manifest);
}
