//! What a registry of ours has: tags, manifests of any kind, and blobs that are computed as they leave.

use std::collections::BTreeMap;

use bytes::Bytes;
use shoal_proto::Digest;

use crate::workload::{Image, Layer, MANIFEST_MEDIA_TYPE, digest_of};

/// The content of one registry.
#[derive(Debug, Clone, Default)]
pub struct Shelf {
    tags: BTreeMap<(String, String), Digest>,
    manifests: BTreeMap<Digest, (String, Bytes)>,
    blobs: BTreeMap<Digest, Layer>,
    /// Which repository has what.
    owned: Vec<(String, Digest)>,
}

impl Shelf {
    /// Adds an image and all that it needs.
    #[must_use]
    pub fn with_image(mut self, repository: &str, tag: &str, image: &Image) -> Self {
        for blob in image.blobs() {
            self.owned.push((repository.to_owned(), blob.digest()));
            self.blobs.insert(blob.digest(), blob);
        }
        self.with_manifest(repository, tag, MANIFEST_MEDIA_TYPE, image.manifest())
    }

    /// Adds a manifest alone; what it names may be there or not.
    #[must_use]
    pub fn with_manifest(
        mut self,
        repository: &str,
        tag: &str,
        media_type: &str,
        body: &Bytes,
    ) -> Self {
        let digest = digest_of(body);
        self.tags
            .insert((repository.to_owned(), tag.to_owned()), digest);
        self.manifests
            .insert(digest, (media_type.to_owned(), body.clone()));
        self.owned.push((repository.to_owned(), digest));
        self
    }

    pub(super) fn owned(&self) -> impl Iterator<Item = (&str, &Digest)> {
        let owned = self.owned.iter();
        owned.map(|(repository, digest)| (repository.as_str(), digest))
    }

    pub(super) fn resolve(&self, repository: &str, tag: &str) -> Option<Digest> {
        let key = (repository.to_owned(), tag.to_owned());
        self.tags.get(&key).copied()
    }

    pub(super) fn manifest(&self, digest: &Digest) -> Option<&(String, Bytes)> {
        self.manifests.get(digest)
    }

    pub(super) fn blob(&self, digest: &Digest) -> Option<&Layer> {
        self.blobs.get(digest)
    }

    /// The tags of a repository after `last`, at most `count` of them, and whether there are more.
    pub(super) fn tags(&self, repository: &str, last: &str, count: usize) -> (Vec<&str>, bool) {
        let mut tags: Vec<&str> = self
            .tags
            .keys()
            .filter(|(of, tag)| of == repository && tag.as_str() > last)
            .map(|(_, tag)| tag.as_str())
            .collect();
        let more = tags.len() > count && count > 0;
        tags.truncate(count);
        (tags, more)
    }
}
