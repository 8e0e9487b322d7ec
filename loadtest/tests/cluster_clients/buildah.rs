//! buildah, which pulls as podman does, into storage of its own.

use shoal_loadtest::cluster::needs::BUILDAH;
use shoal_loadtest::cluster::process;
use shoal_loadtest::cluster::trial::{Trial, downloaded, ready_with};
use shoal_loadtest::workload::Image;

use crate::{MIB, WITHIN, registries_conf};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buildah_pulls_through_a_mirror_of_registries_conf() {
    const TEST: &str = "buildah_pulls_through_a_mirror_of_registries_conf";
    if !ready_with(TEST, &[BUILDAH]) {
        return;
    }
    let image = Image::of_sizes(1, &[MIB, 2 * MIB]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let agent = &trial.cluster.agents[0];
    let registry = trial.upstream.address().to_string();
    let mirror = agent.addresses().bound.to_string();
    let folder = trial.folder.sub("buildah").expect("a folder");
    let conf = registries_conf(&folder, &registry, &mirror, "");
    let policy = folder.join("policy.json");
    std::fs::write(
        &policy,
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    )
    .expect("written");
    let path = |name: &str| folder.join(name).display().to_string();
    let (root, run, conf, policy) = (
        path("root"),
        path("run"),
        conf.display().to_string(),
        policy.display().to_string(),
    );
    let storage = [
        "--root",
        &root,
        "--runroot",
        &run,
        "--storage-driver",
        "vfs",
    ];
    let reference = trial.reference();
    let pull = [
        "--registries-conf",
        &conf,
        "pull",
        "--quiet",
        "--signature-policy",
        &policy,
        &reference,
    ];
    let args = [&storage[..], &pull[..]].concat();
    let program = BUILDAH.path().expect("found");
    let id = process::run(&program, &args, WITHIN).await.expect("pulls");
    assert_eq!(id.trim(), image.config_digest().hex());
    let taken = downloaded(agent).await.expect("answers");
    assert_eq!(taken, image.blob_bytes(), "through the agent");
}
