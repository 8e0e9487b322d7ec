//! Images from a seed: layers of given sizes whose bytes are computed where they are needed, never held.
//!
//! What for: upstreams and demonstrations that need gigabytes of incompressible layers without gigabytes of memory or a
//! file. What not for: reading images that exist. Invariants: the same description has the same bytes and digests on
//! every machine; any range of a layer can be read in time proportional to the range.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use serde_json::json;
use shoal_proto::{Digest, DigestAlgorithm, DigestHasher};

use crate::tarball::{self, Entry};

/// Noise is drawn in blocks of this many bytes, each from a seed of its own, so that a range costs its own length.
const NOISE_BLOCK_BYTES: u64 = 64 * 1024;
/// How much of a layer is in memory at once while it is hashed or written.
const STEP_BYTES: u64 = 1024 * 1024;

pub const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG_MEDIA_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER_MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// A run of bytes that is known without being held.
#[derive(Debug, Clone)]
pub enum Part {
    /// Bytes as they are.
    Bytes(Bytes),
    /// A file on disk that does not change meanwhile.
    File { path: PathBuf, bytes: u64 },
    /// Incompressible bytes drawn from a seed.
    Noise { seed: u64, bytes: u64 },
}

impl Part {
    /// A part for a file as it is now.
    pub fn file(path: PathBuf) -> Result<Self> {
        let bytes = std::fs::metadata(&path)
            .with_context(|| format!("{}", path.display()))?
            .len();
        Ok(Self::File { path, bytes })
    }

    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { bytes, .. } | Self::Noise { bytes, .. } => *bytes,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` bytes from `offset`; both must lie inside the part.
    #[must_use]
    pub fn read_at(&self, offset: u64, len: u64) -> Vec<u8> {
        assert!(offset + len <= self.len(), "a read outside of its part");
        match self {
            Self::Bytes(bytes) => bytes[to_usize(offset)..to_usize(offset + len)].to_vec(),
            Self::File { path, .. } => {
                let mut buffer = vec![0; to_usize(len)];
                File::open(path)
                    .and_then(|file| file.read_exact_at(&mut buffer, offset))
                    .unwrap_or_else(|error| {
                        panic!("{} changed while it was in use: {error}", path.display())
                    });
                buffer
            }
            Self::Noise { seed, .. } => noise(*seed, offset, len),
        }
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("loadtest runs on 64-bit machines only")
}

fn noise(seed: u64, offset: u64, len: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(to_usize(len));
    let mut block = vec![0u8; to_usize(NOISE_BLOCK_BYTES)];
    let mut at = offset;
    while at < offset + len {
        let index = at / NOISE_BLOCK_BYTES;
        let mixed =
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index.wrapping_mul(0xd1b5_4a32_d192_ed03);
        fastrand::Rng::with_seed(mixed).fill(&mut block);
        let from = at % NOISE_BLOCK_BYTES;
        let until = (from + (offset + len - at)).min(NOISE_BLOCK_BYTES);
        out.extend_from_slice(&block[to_usize(from)..to_usize(until)]);
        at += until - from;
    }
    out
}

/// A layer: parts in order, their length and their digest.
#[derive(Debug, Clone)]
pub struct Layer {
    parts: Vec<Part>,
    len: u64,
    digest: Digest,
}

impl Layer {
    /// Reads all parts once, for the digest.
    #[must_use]
    pub fn new(parts: Vec<Part>) -> Self {
        let len = parts.iter().map(Part::len).sum();
        let mut hasher = DigestHasher::new(DigestAlgorithm::Sha256);
        for part in &parts {
            for_each_step(part, |bytes| hasher.update(bytes));
        }
        Self {
            parts,
            len,
            digest: hasher.finish(),
        }
    }

    /// A layer of exactly `bytes`: a tar archive of one incompressible file, which containerd can unpack.
    ///
    /// `bytes` is a multiple of 512 and at least 2,048.
    #[must_use]
    pub fn of_size(seed: u64, bytes: u64) -> Self {
        let body = Part::Noise {
            seed,
            bytes: bytes - tarball::overhead_of_one_file(),
        };
        let layer = Self::new(tarball::archive(vec![Entry::File {
            path: format!("noise-{seed}"),
            mode: 0o644,
            body,
        }]));
        assert_eq!(layer.len, bytes, "layer sizes are multiples of 512");
        layer
    }

    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// `len` bytes from `offset`; both must lie inside the layer.
    #[must_use]
    pub fn read_at(&self, offset: u64, len: u64) -> Bytes {
        assert!(offset + len <= self.len, "a read outside of its layer");
        let mut out = BytesMut::with_capacity(to_usize(len));
        let (mut start, mut at, end) = (0, offset, offset + len);
        for part in &self.parts {
            let stop = start + part.len();
            if at < stop && at < end {
                let take = stop.min(end) - at;
                out.extend_from_slice(&part.read_at(at - start, take));
                at += take;
            }
            start = stop;
        }
        out.freeze()
    }

    /// All bytes, a step at a time, to `each`; stops at its first error.
    pub fn try_for_each<E>(&self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut at = 0;
        while at < self.len {
            let take = STEP_BYTES.min(self.len - at);
            each(&self.read_at(at, take))?;
            at += take;
        }
        Ok(())
    }
}

fn for_each_step(part: &Part, mut each: impl FnMut(&[u8])) {
    let mut at = 0;
    while at < part.len() {
        let take = STEP_BYTES.min(part.len() - at);
        each(&part.read_at(at, take));
        at += take;
    }
}

/// The SHA-256 of a part in hex, for checks that run inside a container.
#[must_use]
pub fn sha256_hex(part: &Part) -> String {
    let mut hasher = DigestHasher::new(DigestAlgorithm::Sha256);
    for_each_step(part, |bytes| hasher.update(bytes));
    hasher.finish().hex()
}

/// The digest of bytes in memory.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::new(DigestAlgorithm::Sha256);
    hasher.update(bytes);
    hasher.finish()
}

/// A whole image: manifest, configuration, layers.
#[derive(Debug, Clone)]
pub struct Image {
    manifest: Bytes,
    config: Bytes,
    layers: Vec<Layer>,
}

impl Image {
    /// An image that runs `command`; an empty one for images that are only carried.
    #[must_use]
    pub fn new(layers: Vec<Layer>, command: &[&str]) -> Self {
        let digests: Vec<String> = layers
            .iter()
            .map(|layer| layer.digest.to_string())
            .collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Cmd": command, "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let config = Bytes::from(config.to_string());
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| json!({ "mediaType": LAYER_MEDIA_TYPE, "digest": layer.digest.to_string(), "size": layer.len }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_MEDIA_TYPE,
            "config": { "mediaType": CONFIG_MEDIA_TYPE, "digest": digest_of(&config).to_string(), "size": config.len() },
            "layers": descriptors,
        });
        Self {
            manifest: Bytes::from(manifest.to_string()),
            config,
            layers,
        }
    }

    /// An image of layers of these sizes, each from a seed of its own.
    #[must_use]
    pub fn of_sizes(seed: u64, sizes: &[u64]) -> Self {
        let layers = (seed..)
            .zip(sizes)
            .map(|(seed, bytes)| Layer::of_size(seed, *bytes))
            .collect();
        Self::new(layers, &[])
    }

    /// An index that names this image for this machine, and for another machine one that is nowhere.
    #[must_use]
    pub fn index(&self) -> Bytes {
        let elsewhere = digest_of(b"no registry has this manifest");
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX_MEDIA_TYPE,
            "manifests": [{
                "mediaType": MANIFEST_MEDIA_TYPE,
                "digest": self.manifest_digest().to_string(),
                "size": self.manifest.len(),
                "platform": { "architecture": architecture(), "os": "linux" },
            }, {
                "mediaType": MANIFEST_MEDIA_TYPE,
                "digest": elsewhere.to_string(),
                "size": 500,
                "platform": { "architecture": "s390x", "os": "linux" },
            }],
        });
        Bytes::from(index.to_string())
    }

    #[must_use]
    pub fn manifest(&self) -> &Bytes {
        &self.manifest
    }

    #[must_use]
    pub fn manifest_digest(&self) -> Digest {
        digest_of(&self.manifest)
    }

    #[must_use]
    pub fn config(&self) -> &Bytes {
        &self.config
    }

    #[must_use]
    pub fn config_digest(&self) -> Digest {
        digest_of(&self.config)
    }

    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Every blob of the image, the configuration first, as a layer to read from.
    #[must_use]
    pub fn blobs(&self) -> Vec<Layer> {
        let mut blobs = vec![Layer::new(vec![Part::Bytes(self.config.clone())])];
        blobs.extend(self.layers.iter().cloned());
        blobs
    }

    /// Bytes of all blobs together.
    #[must_use]
    pub fn blob_bytes(&self) -> u64 {
        self.config.len() as u64 + self.layers.iter().map(Layer::len).sum::<u64>()
    }
}

/// What OCI calls this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_a_layer_is_the_same_as_that_range_of_the_whole() {
        let layer = Layer::of_size(3, 512 * 500);
        let whole = layer.read_at(0, layer.len());
        for (offset, len) in [
            (0, 1),
            (511, 2),
            (512, 1024),
            (65_535, 2),
            (70_000, 150_000),
            (255_999, 1),
            (0, 0),
        ] {
            let (from, until) = (to_usize(offset), to_usize(offset + len));
            assert_eq!(
                layer.read_at(offset, len),
                whole[from..until],
                "at {offset}, {len} bytes"
            );
        }
        assert_eq!(digest_of(&whole), layer.digest());
    }

    #[test]
    fn the_same_seed_makes_the_same_image_and_another_seed_another_one() {
        let one = Image::of_sizes(1, &[512 * 9, 512 * 300]);
        assert_eq!(
            one.manifest(),
            Image::of_sizes(1, &[512 * 9, 512 * 300]).manifest()
        );
        assert_ne!(
            one.manifest(),
            Image::of_sizes(9, &[512 * 9, 512 * 300]).manifest()
        );
        assert_eq!(one.blob_bytes(), one.config().len() as u64 + 512 * 309);
    }

    #[test]
    fn noise_does_not_repeat_from_block_to_block() {
        let bytes = noise(1, 0, 3 * NOISE_BLOCK_BYTES);
        let blocks: Vec<&[u8]> = bytes.chunks(to_usize(NOISE_BLOCK_BYTES)).collect();
        assert_ne!(blocks[0], blocks[1]);
        assert_ne!(blocks[1], blocks[2]);
    }
}
