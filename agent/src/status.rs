//! What this node holds and does, for people and for `shoal-agent status`: the JSON of the admin port.
//!
//! A snapshot made on request. No secret and no credential is in it; digests and repositories are.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::mirror::Mirror;

/// Builds the status from the mirror and the member of swarms behind it.
pub(crate) async fn snapshot(
    mirror: Arc<Mirror>,
    handle: shoal_peer::Handle,
    listens: Arc<Vec<String>>,
) -> Value {
    let peer = handle.status().await;
    let usage = handle.store().usage();
    let requests = mirror.recent().snapshot();
    let sum = |of: fn(&crate::mirror::observe::RequestRecord) -> u64| {
        requests.iter().map(of).sum::<u64>()
    };
    json!({
        "registry": { "listens": &*listens },
        "peer": peer,
        "store": {
            "complete_blobs": usage.complete_blobs,
            "partial_blobs": usage.partial_blobs,
            "used_bytes": usage.used_bytes,
            "quota_bytes": usage.quota_bytes,
            "free_floor_bytes": usage.free_floor_bytes,
            "free_bytes": usage.free_bytes,
        },
        "recent": {
            "cache_bytes": sum(|record| record.cache_bytes),
            "swarm_bytes": sum(|record| record.swarm_bytes),
            "requests": requests,
        },
    })
}
