//! Writes an image as an OCI image layout folder, the form in which skopeo takes it.
//!
//! What for: the demonstration's image on its way into a registry. What not for: compressing (layers are plain tar, a
//! media type of its own in the specification). Invariant: one blob is in memory a step at a time.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use shoal_proto::Digest;

use crate::workload::{Image, MANIFEST_MEDIA_TYPE};

/// Writes `image` under `folder` as `tag`; `wrote` hears of each step's bytes.
pub fn write(folder: &Path, image: &Image, tag: &str, mut wrote: impl FnMut(u64)) -> Result<()> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    for blob in image.blobs() {
        let path = blobs.join(blob.digest().hex());
        let mut file = BufWriter::new(File::create(&path)?);
        blob.try_for_each(|bytes| {
            wrote(bytes.len() as u64);
            file.write_all(bytes)
        })
        .and_then(|()| file.flush())
        .with_context(|| format!("cannot write {}", path.display()))?;
    }
    write_small(&blobs, &image.manifest_digest(), image.manifest())?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": MANIFEST_MEDIA_TYPE,
            "digest": image.manifest_digest().to_string(),
            "size": image.manifest().len(),
            "annotations": { "org.opencontainers.image.ref.name": tag },
        }],
    });
    fs::write(folder.join("index.json"), index.to_string())?;
    Ok(())
}

fn write_small(blobs: &Path, digest: &Digest, bytes: &[u8]) -> Result<()> {
    fs::write(blobs.join(digest.hex()), bytes)
        .with_context(|| format!("cannot write blob {digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::digest_of;

    #[test]
    fn every_blob_of_a_layout_is_named_by_its_own_digest() {
        let image = Image::of_sizes(4, &[512 * 5, 512 * 3000]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut written = 0;
        write(folder.path(), &image, "v1", |bytes| written += bytes).expect("writes");
        assert_eq!(written, image.blob_bytes());
        let blobs: Vec<_> = fs::read_dir(folder.path().join("blobs/sha256"))
            .expect("there")
            .collect();
        assert_eq!(blobs.len(), 4, "manifest, configuration, two layers");
        for blob in blobs {
            let blob = blob.expect("readable");
            let digest = digest_of(&fs::read(blob.path()).expect("readable"));
            assert_eq!(blob.file_name().to_str(), Some(digest.hex().as_str()));
        }
    }
}
