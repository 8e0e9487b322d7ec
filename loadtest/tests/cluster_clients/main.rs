//! Real clients against a whole cluster: each of Debian's pulls through an agent, by every way of naming the registry that
//! it has, and gets what the registry has.
//!
//! Not here: what happens when something fails (`cluster_fallthrough`); what no client of Debian's does, such as the
//! ranges of containerd 2, which the agent's conformance tests replay. docs/CLIENTS.md lists both.

mod buildah;
mod containerd;
mod docker;
mod skopeo;

use std::time::Duration;

use shoal_loadtest::cluster::trial::{REPOSITORY, TAG};
use shoal_loadtest::cluster::upstream::{Shelf, Upstream};
use shoal_loadtest::workload::{INDEX_MEDIA_TYPE, Image};

const MIB: u64 = 1 << 20;
const WITHIN: Duration = Duration::from_secs(90);

/// An upstream whose one tag is an index, and the image that the index names for this machine.
async fn upstream_with_index(image: &Image) -> Upstream {
    let shelf = Shelf::default()
        .with_image(REPOSITORY, "child", image)
        .with_manifest(REPOSITORY, TAG, INDEX_MEDIA_TYPE, &image.index());
    Upstream::serve(shelf).await.expect("starts")
}
