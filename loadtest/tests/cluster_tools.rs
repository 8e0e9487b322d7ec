//! The parts around Shoal work by themselves: Debian's registry, skopeo, containerd and runc take and run the image that
//! the demonstration makes. When this fails, a failing demonstration says nothing about Shoal.
//!
//! Not here: Shoal.

use std::time::Duration;

use shoal_loadtest::cluster::containerd::{self, Containerd};
use shoal_loadtest::cluster::folder::RunFolder;
use shoal_loadtest::cluster::registry::DockerRegistry;
use shoal_loadtest::cluster::{needs, process};
use shoal_loadtest::demo::image;
use shoal_loadtest::layout;

const TEST: &str = "the_demonstrations_image_runs_straight_from_debians_registry";

#[tokio::test]
async fn the_demonstrations_image_runs_straight_from_debians_registry() {
    let mut programs = containerd::PROGRAMS.to_vec();
    programs.extend([needs::BUSYBOX, needs::DOCKER_REGISTRY, needs::SKOPEO]);
    if !needs::met(
        TEST,
        needs::root("a real containerd").and_then(|()| needs::programs(&programs)),
    ) {
        return;
    }
    let folder = RunFolder::create("tools").expect("a folder");
    let image = image::make(&needs::BUSYBOX.path().expect("found"), 64).expect("an image");
    let layout_folder = folder.sub("layout").expect("a folder");
    layout::write(&layout_folder, &image, "v1", |_| ()).expect("written");

    let mut registry = DockerRegistry::start(&folder.sub("registry").expect("a folder"))
        .await
        .expect("starts");
    let reference = format!("{}/demo/app:v1", registry.address());
    let (from, to) = (
        format!("oci:{}:v1", layout_folder.display()),
        format!("docker://{reference}"),
    );
    let push = [
        "copy",
        "--quiet",
        "--preserve-digests",
        "--dest-tls-verify=false",
        &from,
        &to,
    ];
    let skopeo = needs::SKOPEO.path().expect("found");
    process::run(&skopeo, &push, Duration::from_secs(60))
        .await
        .expect("skopeo takes the layout");
    registry.forget().expect("readable");

    let mut node = Containerd::start("node-1", &folder.sub("c1").expect("a folder"))
        .await
        .expect("starts");
    node.pull(&reference).await.expect("pulls");
    let printed = node.run(&reference, "one", &[]).await.expect("runs");
    image::check(&printed, "node-1").expect("every byte is right inside the container");
    node.stop().await.expect("stops");

    let asked = registry.asked().expect("readable");
    for blob in image.blobs() {
        let asked = asked.get(&Some(blob.digest())).copied().unwrap_or_default();
        assert_eq!(
            (asked.gets, asked.bytes),
            (1, blob.len()),
            "blob {}",
            blob.digest().short()
        );
    }
    registry.stop().await.expect("stops");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
    assert!(
        !mounts.contains(folder.path().to_str().expect("utf-8")),
        "nothing stays mounted"
    );
}
