//! The first byte does not wait for the last: a cold layer flows through origin and agent while it is still coming.
//!
//! Not here: throughput. The sizes are the promise's own; `SHOAL_TRIAL_SIZE=small` takes an eighth of them.

use std::time::Duration;

use shoal_loadtest::cluster::client::Client;
use shoal_loadtest::cluster::measure::median;
use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, ready, sized};
use shoal_loadtest::workload::Image;
use tokio::time::timeout;

const GIB: u64 = 1 << 30;
/// What the upstream sends, and no more.
const RATE: u64 = 50_000_000;
/// What passing through the cluster may add to the first byte.
const ADDED_MAX: Duration = Duration::from_millis(50);
const LAYERS: usize = 3;
const WITHIN: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_layer_begins_at_most_50_ms_later_than_at_the_upstream_and_flows_while_it_comes() {
    if !ready(
        "a_cold_layer_begins_at_most_50_ms_later_than_at_the_upstream_and_flows_while_it_comes",
    ) {
        return;
    }
    let image = Image::of_sizes(1, &[sized(GIB); LAYERS]);
    let trial = Trial::begin(1, &image).await.expect("starts");
    let through = trial.client(0);
    // containerd asks for the manifest first; the blobs that are measured stay cold.
    let manifest = through.resolve(REPOSITORY, TAG).await.expect("resolves");
    through
        .manifest(REPOSITORY, &manifest)
        .await
        .expect("answers");
    let (mut direct, mut cold) = (Vec::new(), Vec::new());
    for layer in image.layers() {
        trial.upstream.set_rate(Some(RATE));
        let mut blob = Client::new(trial.upstream.address())
            .open(REPOSITORY, &layer.digest(), 0)
            .await
            .expect("opens");
        blob.next().await.expect("reads");
        direct.push(blob.first_byte().expect("came"));
        drop(blob);

        let before = trial.upstream.asked(&layer.digest()).bytes;
        let mut blob = through
            .open(REPOSITORY, &layer.digest(), 0)
            .await
            .expect("opens");
        blob.next().await.expect("reads");
        cold.push(blob.first_byte().expect("came"));
        let read = blob.read_until(layer.len() / 4);
        timeout(WITHIN, read)
            .await
            .expect("in time")
            .expect("flows");
        let left_upstream = trial.upstream.asked(&layer.digest()).bytes - before;
        assert!(
            left_upstream < layer.len(),
            "a quarter was here only after {left_upstream} bytes had left"
        );
        trial.upstream.set_rate(None);
        let rest = blob.read_until(layer.len());
        timeout(WITHIN, rest)
            .await
            .expect("in time")
            .expect("flows");
        blob.finish().expect("whole and right");
    }
    eprintln!("first byte at the upstream {direct:?}, cold at the agent {cold:?}");
    let (direct, cold) = (median(direct), median(cold));
    assert!(
        cold <= direct + ADDED_MAX,
        "upstream {direct:?}, cold at the agent {cold:?}"
    );
}
