//! Whether this node has everything that a manifest names.
//!
//! containerd asks its hosts anew for each blob, and names the registry by `ns`. Clients that cannot name it (docker's,
//! c/image's: podman, CRI-O, skopeo) choose a source with the manifest and keep to it: an agent that answers with a
//! manifest out of its memory, and then has no blob to give, fails a pull that the upstream could have served. Such a
//! client gets a remembered manifest only with all its blobs; otherwise an origin has to vouch for it first.

use serde::Deserialize;
use shoal_peer::store::Store;
use shoal_proto::Digest;

/// What a manifest or an index names, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    blobs: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
    /// Fetched from there, not from a registry.
    #[serde(default)]
    urls: Vec<String>,
}

/// Whether every blob of a manifest is complete in the store; of an index, whether it is so for the children that the
/// store has, of which there must be one: which of them is the client's is not known here. Blocks on the disk.
pub(crate) fn is_whole(store: &Store, manifest: &[u8]) -> bool {
    let Ok(named) = serde_json::from_slice::<Named>(manifest) else {
        return false;
    };
    if named.manifests.is_empty() {
        return has_blobs(store, &named);
    }
    let mut known = 0;
    for child in &named.manifests {
        let Some((_, body)) = digest(child).and_then(|digest| store.manifest(&digest)) else {
            continue;
        };
        known += 1;
        // An index in an index is not looked into: nobody makes them, and they need not end.
        let Ok(named) = serde_json::from_slice::<Named>(&body) else {
            return false;
        };
        if !named.manifests.is_empty() || !has_blobs(store, &named) {
            return false;
        }
    }
    known > 0
}

fn has_blobs(store: &Store, named: &Named) -> bool {
    let blobs = named.config.iter().chain(&named.layers).chain(&named.blobs);
    blobs.filter(|blob| blob.urls.is_empty()).all(|blob| {
        digest(blob)
            .and_then(|digest| store.lookup(&digest))
            .is_some_and(|blob| blob.complete)
    })
}

fn digest(descriptor: &Descriptor) -> Option<Digest> {
    descriptor.digest.parse().ok()
}
