//! Private images on the real binaries: the policies `authorize` and `public`, tenants of one cluster, and real clients
//! that answer a challenge or go to the registry with their own secret.
//!
//! Not here: each rule by itself (origin/src/tests/private.rs, agent/tests/conformance/private.rs).

use std::fs;
use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use shoal_loadtest::cluster::c_image::{CImage, check_copied};
use shoal_loadtest::cluster::config::RegistryEntry;
use shoal_loadtest::cluster::containerd::{self, Containerd};
use shoal_loadtest::cluster::needs;
use shoal_loadtest::cluster::trial::{
    REPOSITORY, TAG, Trial, downloaded, printed, ready, ready_with,
};
use shoal_loadtest::cluster::upstream::{CHALLENGE, Upstream};
use shoal_loadtest::demo::install;
use shoal_loadtest::workload::Image;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(60);
const TEAM: &str = "team/app";
const OTHERS: &str = "others/app";
const ONE: &str = "one:canary-of-one-4b1e";
const ONE_BASIC: &str = "Basic b25lOmNhbmFyeS1vZi1vbmUtNGIxZQ==";
const OTHER: &str = "other:canary-of-other-9c2d";
const OTHER_BASIC: &str = "Basic b3RoZXI6Y2FuYXJ5LW9mLW90aGVyLTljMmQ=";

/// A registry where `team/app` is read by one, `others/app` by the other, and `demo/app` by everybody.
struct Images {
    team: Image,
    others: Image,
    open: Image,
}

impl Images {
    fn new() -> Self {
        Self {
            team: Image::of_sizes(71, &[3 << 20]),
            others: Image::of_sizes(72, &[2 << 20]),
            open: Image::of_sizes(73, &[2 << 20]),
        }
    }

    async fn upstream(&self) -> Upstream {
        let upstream = Upstream::start(&[
            (TEAM, TAG, &self.team),
            (OTHERS, TAG, &self.others),
            (REPOSITORY, TAG, &self.open),
        ])
        .await
        .expect("starts");
        upstream.let_in(TEAM, ONE_BASIC);
        upstream.let_in(OTHERS, OTHER_BASIC);
        upstream
    }
}

async fn begin(images: &Images, access: &str) -> Trial {
    let upstream = images.upstream().await;
    let entry = RegistryEntry {
        access: Some(access.into()),
        ..RegistryEntry::plain(upstream.address())
    };
    let env = vec![("SHOAL_LOG".to_owned(), "trace".to_owned())];
    Trial::with(2, upstream, entry, env).await.expect("starts")
}

async fn status(trial: &Trial, agent: usize, path: &str, caller: Option<&str>) -> u16 {
    let client = trial.client(agent);
    let client = match caller {
        Some(caller) => client.with_authorization(caller),
        None => client,
    };
    let asked = timeout(WITHIN, client.ask(Method::GET, path, &[])).await;
    let answer = asked.expect("in time").expect("answers");
    if answer.status().as_u16() == 401 {
        let challenge = answer.headers().get("www-authenticate");
        assert_eq!(challenge.expect("a challenge"), CHALLENGE, "{path}");
    }
    answer.status().as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_of_one_cluster_get_their_own_and_no_secret_is_left_anywhere() {
    if !ready("tenants_of_one_cluster_get_their_own_and_no_secret_is_left_anywhere") {
        return;
    }
    let images = Images::new();
    let trial = begin(&images, "authorize").await;
    let manifest = format!("{TEAM}/manifests/{TAG}");
    for agent in 0..2 {
        // The challenge tells the agent, and a real client, that a credential is wanted.
        assert_eq!(status(&trial, agent, &manifest, None).await, 401);
        let client = trial.client(agent).with_authorization(ONE_BASIC);
        let pulled = timeout(WITHIN, client.pull(TEAM, TAG)).await;
        let pulled = pulled
            .expect("in time")
            .expect("pulls with its own credential");
        assert_eq!(pulled.bytes(), images.team.blob_bytes());
    }
    for (blob, asked) in images
        .team
        .blobs()
        .iter()
        .zip(trial.upstream.asked_of(&images.team))
    {
        assert_eq!(asked.gets, 1, "blob {}", blob.digest().short());
    }
    // Both agents hold it now. Nobody else gets it, by no name.
    let absent = format!("{OTHERS}/blobs/sha256:{}", "0".repeat(64));
    for agent in 0..2 {
        assert_eq!(status(&trial, agent, &absent, Some(OTHER_BASIC)).await, 404);
        for blob in images.team.blobs() {
            for repository in [TEAM, OTHERS, REPOSITORY] {
                let path = format!("{repository}/blobs/{}", blob.digest());
                let other = status(&trial, agent, &path, Some(OTHER_BASIC)).await;
                assert_eq!(other, 404, "{path} at agent {agent}");
            }
            let path = format!("{TEAM}/blobs/{}", blob.digest());
            assert_eq!(status(&trial, agent, &path, None).await, 401);
            assert_eq!(status(&trial, agent, &path, Some(ONE_BASIC)).await, 200);
        }
        let path = format!("{TEAM}/manifests/{}", images.team.manifest_digest());
        assert_eq!(status(&trial, agent, &path, Some(OTHER_BASIC)).await, 404);
    }
    // A repository that everybody may read is still everybody's, and is shared.
    timeout(WITHIN, trial.client(0).pull(REPOSITORY, TAG))
        .await
        .expect("in time")
        .expect("nobody asks who reads it");
    check_no_canary(&trial).await;
}

/// In whatever form they travelled: neither in what is written, nor in what is shown, nor in what is kept.
async fn check_no_canary(trial: &Trial) {
    let canaries = [&ONE[4..], &OTHER[6..], &ONE_BASIC[6..], &OTHER_BASIC[6..]];
    let mut shown = vec![("the logs".to_owned(), trial.logs().expect("readable"))];
    assert!(shown[0].1.len() > 1000, "trace logs say something");
    for member in trial.cluster.members() {
        for path in ["metrics", "status", ""] {
            let page = member.admin(path).await.expect("answers").1;
            shown.push((format!("{} /{path}", member.name()), page));
        }
        for canary in canaries {
            assert!(
                !folder_holds(&member.data(), canary),
                "{canary:?} is in the folder of {}",
                member.name()
            );
        }
    }
    for (place, text) in &shown {
        for canary in canaries {
            assert!(!text.contains(canary), "{canary:?} is in {place}");
        }
    }
}

fn folder_holds(folder: &Path, canary: &str) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            return folder_holds(&path, canary);
        }
        fs::read(&path).is_ok_and(|bytes| {
            let mut windows = bytes.windows(canary.len());
            windows.any(|window| window == canary.as_bytes())
        })
    })
}

/// Rows 32 and 44: the file that `containerd install` wrote is used, the challenge is answered by the real client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_containerd_answers_the_relayed_challenge_and_a_stranger_gets_nothing() {
    const TEST: &str =
        "a_real_containerd_answers_the_relayed_challenge_and_a_stranger_gets_nothing";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let images = Images::new();
    let trial = begin(&images, "authorize").await;
    let reference = format!("{}/{TEAM}:{TAG}", trial.upstream.address());
    let mut nodes = Vec::new();
    for (agent, name) in [(0, "c1"), (1, "c2")] {
        let folder = trial.folder.sub(name).expect("a folder");
        let node = Containerd::start(name, &folder).await.expect("starts");
        install(&node, &trial.cluster.agents[agent])
            .await
            .expect("installs");
        nodes.push(node);
    }
    nodes[0]
        .pull_as(&reference, ONE)
        .await
        .expect("pulls through its agent");
    let through = downloaded(&trial.cluster.agents[0]).await.expect("counts");
    assert!(
        through >= images.team.blob_bytes(),
        "{through} bytes came to the agent"
    );

    // Another's credential, and none: neither from the agent nor from the registry; the image is in the cluster.
    nodes[1]
        .pull_as(&reference, OTHER)
        .await
        .expect_err("not its image");
    nodes[1].pull(&reference).await.expect_err("nobody's image");
    nodes[1]
        .pull_as(&reference, ONE)
        .await
        .expect("pulls from its neighbour");
    for (blob, asked) in images
        .team
        .blobs()
        .iter()
        .zip(trial.upstream.asked_of(&images.team))
    {
        assert_eq!(asked.gets, 1, "blob {}", blob.digest().short());
    }
    for node in &mut nodes {
        node.stop().await.expect("stops");
    }
    check_no_canary(&trial).await;
}

/// Row 33: with `public`, a private image is not the cluster's business, and the client gets it with its own secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_public_a_client_fetches_a_private_image_itself_with_its_own_secret() {
    const TEST: &str = "with_public_a_client_fetches_a_private_image_itself_with_its_own_secret";
    if !ready_with(TEST, &containerd::PROGRAMS) {
        return;
    }
    let images = Images::new();
    let trial = begin(&images, "public").await;
    let reference = format!("{}/{TEAM}:{TAG}", trial.upstream.address());
    let folder = trial.folder.sub("c1").expect("a folder");
    let mut node = Containerd::start("c1", &folder).await.expect("starts");
    install(&node, &trial.cluster.agents[0])
        .await
        .expect("installs");
    node.pull_as(&reference, ONE).await.expect("falls through");
    node.stop().await.expect("stops");
    assert_eq!(
        downloaded(&trial.cluster.agents[0]).await.expect("counts"),
        0
    );
    check_no_canary(&trial).await;
}

/// What `print podman` says, given to skopeo: a public image comes through the agent, a private one past it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_print_says_for_podman_makes_skopeo_ask_the_agent_first() {
    const TEST: &str = "what_print_says_for_podman_makes_skopeo_ask_the_agent_first";
    if !ready(TEST) || !needs::met(TEST, needs::programs(&[needs::SKOPEO])) {
        return;
    }
    let images = Images::new();
    let trial = begin(&images, "public").await;
    let agent = &trial.cluster.agents[0];
    let told = printed(agent, "podman").await.expect("prints");
    let folder = trial.folder.sub("c").expect("a folder");
    let place = CImage::new(&folder, &told).expect("written");
    let copy = async |repository: &str, creds: &[&str]| {
        let from = format!("{}/{repository}:{TAG}", trial.upstream.address());
        let name = repository.replace('/', "-");
        place.skopeo_copy(&from, &name, creds).await
    };
    let copied = copy(REPOSITORY, &[]).await;
    check_copied(&copied.expect("copies through the agent"), &images.open).expect("whole");
    assert_eq!(
        downloaded(agent).await.expect("counts"),
        images.open.blob_bytes()
    );
    let copied = copy(TEAM, &["--src-creds", ONE]).await;
    check_copied(&copied.expect("copies past the agent"), &images.team).expect("whole");
    assert_eq!(
        downloaded(agent).await.expect("counts"),
        images.open.blob_bytes()
    );
    copy(OTHERS, &["--src-creds", ONE])
        .await
        .expect_err("not its image");
    check_no_canary(&trial).await;
}
