//! An upstream that is slow, or stops in the middle: who asks the agent is told in time, or does not notice.

use std::time::Duration;

use reqwest::Method;
use shoal_loadtest::cluster::config::RegistryEntry;
use shoal_loadtest::cluster::containerd;
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, ready, ready_with};
use shoal_loadtest::cluster::upstream::{Fault, Target, Upstream};
use shoal_loadtest::workload::Image;
use tokio::time::timeout;

use crate::{MIB, WITHIN, node_before};

/// Before a client of any version gives headers up.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

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
