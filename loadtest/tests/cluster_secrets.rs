//! Canaries: secrets that go in, and are looked for in everything that comes out.
//!
//! Not here: what is on the wire (all of it is encrypted, link's own tests).

use std::fs;
use std::path::Path;
use std::time::Duration;

use shoal_loadtest::cluster::config::RegistryEntry;
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, ready};
use shoal_loadtest::cluster::upstream::Upstream;
use shoal_loadtest::workload::Image;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(60);
const PASSWORD: &str = "canary-password-5d1c";
/// `robot:canary-password-5d1c`.
const BASIC: &str = "Basic cm9ib3Q6Y2FuYXJ5LXBhc3N3b3JkLTVkMWM=";
const CLIENTS_OWN: &str = "Bearer canary-of-the-client-77aa";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_a_log_a_metric_a_status_or_another_processs_folder() {
    if !ready("no_secret_is_in_a_log_a_metric_a_status_or_another_processs_folder") {
        return;
    }
    let image = Image::of_sizes(1, &[3 << 20]);
    let upstream = Upstream::start_private(&[(REPOSITORY, TAG, &image)], BASIC)
        .await
        .expect("starts");
    let password = tempfile::NamedTempFile::new().expect("a file");
    fs::write(password.path(), PASSWORD).expect("written");
    let entry = RegistryEntry {
        access: Some("shared".into()),
        repositories: Some(vec!["demo/*".into()]),
        username: Some("robot".into()),
        password_file: Some(password.path().to_owned()),
        ..RegistryEntry::plain(upstream.address())
    };
    // Everything that a log can say.
    let env = vec![("SHOAL_LOG".to_owned(), "trace".to_owned())];
    let trial = Trial::with(2, upstream, entry, env).await.expect("starts");
    for agent in 0..2 {
        let client = trial.client(agent).with_authorization(CLIENTS_OWN);
        timeout(WITHIN, client.pull(REPOSITORY, TAG))
            .await
            .expect("in time")
            .expect("pulls with the origin's credential");
    }

    let token = fs::read_to_string(trial.cluster.join_token()).expect("readable");
    let token = token
        .trim()
        .rsplit('.')
        .next()
        .expect("has a secret")
        .to_owned();
    let key = fs::read_to_string(trial.cluster.origin.data().join("cluster.key"))
        .expect("readable")
        .trim()
        .to_owned();
    let canaries = [
        PASSWORD,
        &BASIC[6..],
        &CLIENTS_OWN[7..],
        token.as_str(),
        key.as_str(),
    ];
    let mut shown = vec![("logs".to_owned(), trial.logs().expect("readable"))];
    for member in trial.cluster.members() {
        for path in ["metrics", "status", ""] {
            shown.push((
                format!("{} /{path}", member.name()),
                member.admin(path).await.expect("answers").1,
            ));
        }
    }
    for (place, text) in &shown {
        for canary in canaries {
            assert!(!text.contains(canary), "{canary:?} is in {place}");
        }
    }
    assert!(
        trial.logs().expect("readable").len() > 1000,
        "trace logs say something"
    );
    for agent in &trial.cluster.agents {
        for canary in canaries {
            assert!(
                !folder_contains(&agent.data(), canary),
                "{canary:?} is in the folder of {}",
                agent.name()
            );
        }
    }
    for canary in &canaries[..3] {
        assert!(
            !folder_contains(&trial.cluster.origin.data(), canary),
            "{canary:?} is in the origin's folder"
        );
    }
}

fn folder_contains(folder: &Path, canary: &str) -> bool {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return folder_contains(&path, canary);
            }
            fs::read(&path).is_ok_and(|bytes| {
                bytes
                    .windows(canary.len())
                    .any(|window| window == canary.as_bytes())
            })
        })
}
