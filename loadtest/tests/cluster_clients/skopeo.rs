//! skopeo, whose library is that of podman, CRI-O and buildah: no `ns`, six Accept lines, mirrors by path or by port.

use shoal_loadtest::cluster::c_image::{CImage, check_copied};
use shoal_loadtest::cluster::config::RegistryEntry;
use shoal_loadtest::cluster::needs::{self, SKOPEO};
use shoal_loadtest::cluster::process;
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, downloaded, printed, ready};
use shoal_loadtest::cluster::upstream::{Shelf, Upstream};
use shoal_loadtest::workload::{Image, MANIFEST_MEDIA_TYPE};

use crate::{MIB, WITHIN, upstream_with_index};

/// What the cluster calls the upstream: no reference has a port within its path.
const NAME: &str = "registry.example";

async fn named_trial(upstream: Upstream) -> Trial {
    let entry = RegistryEntry {
        registry: NAME.into(),
        ..RegistryEntry::plain(upstream.address())
    };
    Trial::with(1, upstream, entry, Vec::new())
        .await
        .expect("starts")
}

fn can_run(test: &str) -> bool {
    ready(test) && needs::met(test, needs::programs(&[SKOPEO]))
}

async fn skopeo(args: &[&str]) -> String {
    process::run(&SKOPEO.path().expect("found"), args, WITHIN)
        .await
        .expect("skopeo succeeds")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_copies_through_a_mirror_that_is_named_by_path_for_tags_and_digests() {
    const TEST: &str = "skopeo_copies_through_a_mirror_that_is_named_by_path_for_tags_and_digests";
    if !can_run(TEST) {
        return;
    }
    let image = Image::of_sizes(1, &[MIB, 3 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let agent = &trial.cluster.agents[0];
    let by_tag = trial.reference();
    let by_digest = format!(
        "{}/{REPOSITORY}@{}",
        trial.upstream.address(),
        image.manifest_digest()
    );
    // What `print podman` says, and the same with a line of the operator's own.
    let told = printed(agent, "podman").await.expect("prints");
    let mirror = "[[registry.mirror]]";
    let digests = told.replacen(
        mirror,
        &format!("mirror-by-digest-only = true\n{mirror}"),
        1,
    );
    assert_ne!(digests, told);
    // A tag goes past a mirror that is for digests only.
    for (name, conf, from, through) in [
        ("tag-past", &digests, &by_tag, false),
        ("digest", &digests, &by_digest, true),
        ("tag", &told, &by_tag, true),
    ] {
        let folder = trial.folder.sub(name).expect("a folder");
        let place = CImage::new(&folder, conf).expect("written");
        let (before, asked) = (
            downloaded(agent).await.expect("answers"),
            trial.upstream.requests().len(),
        );
        let copied = place.skopeo_copy(from, "copied", &[]).await;
        check_copied(&copied.expect("copies"), &image).expect("whole");
        let taken = downloaded(agent).await.expect("answers") - before;
        let asked = trial.upstream.requests().split_off(asked);
        match (name, through) {
            ("digest", _) => assert_eq!(taken, image.blob_bytes()),
            // From the agent's disk: upstream hears of the tag alone.
            (_, true) => assert!(
                asked.iter().all(|line| !line.contains("/blobs/")),
                "{asked:?}"
            ),
            (_, false) => assert_eq!(taken, 0),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_gets_the_index_that_the_last_of_its_six_accept_lines_names() {
    const TEST: &str = "skopeo_gets_the_index_that_the_last_of_its_six_accept_lines_names";
    if !can_run(TEST) {
        return;
    }
    let image = Image::of_sizes(10, &[2 * MIB]);
    let upstream = upstream_with_index(&image).await;
    let entry = RegistryEntry::plain(upstream.address());
    let trial = Trial::with(1, upstream, entry, Vec::new())
        .await
        .expect("starts");
    let bound = trial.cluster.agents[0].addresses().bound;
    let from = format!("docker://{bound}/{REPOSITORY}:{TAG}");
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &from]).await;
    assert_eq!(raw.as_bytes(), image.index());
    let to = trial.folder.path().join("copied");
    let to_arg = format!("dir:{}", to.display());
    skopeo(&["copy", "--quiet", "--src-tls-verify=false", &from, &to_arg]).await;
    check_copied(&to, &image).expect("whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_lists_the_tags_of_a_repository_through_the_agent() {
    const TEST: &str = "skopeo_lists_the_tags_of_a_repository_through_the_agent";
    if !can_run(TEST) {
        return;
    }
    let image = Image::of_sizes(20, &[MIB]);
    let tags = ["v1", "v1.1", "v2"];
    let shelf = tags.iter().fold(Shelf::default(), |shelf, tag| {
        shelf.with_manifest(REPOSITORY, tag, MANIFEST_MEDIA_TYPE, image.manifest())
    });
    let upstream = Upstream::serve(shelf).await.expect("starts");
    let trial = named_trial(upstream).await;
    let agent = &trial.cluster.agents[0].addresses();
    for base in [
        agent.bound.to_string(),
        format!("{}/{NAME}", agent.registry),
    ] {
        let repository = format!("docker://{base}/{REPOSITORY}");
        let said = skopeo(&["list-tags", "--tls-verify=false", &repository]).await;
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(said["Tags"], serde_json::json!(tags));
    }
}
