//! Names and folders on disk; drawn in docs/STORAGE.md. Not here: any call to the disk.
//!
//! Invariant: a blob's file has one of two names, and the name says what the file is. `<hex>` is complete, `<hex>.partial`
//! is not; the rename from the second to the first is the commit point (I5).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use shoal_proto::{Digest, DigestAlgorithm};

const PARTIAL_SUFFIX: &str = ".partial";

/// Whether a file's name claims that it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileName {
    Complete,
    Partial,
}

/// Where everything of one store lies.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn meta(&self) -> PathBuf {
        self.root.join("meta")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(super) fn algorithm_dir(&self, algorithm: DigestAlgorithm) -> PathBuf {
        self.blobs().join(algorithm_name(algorithm))
    }

    /// The folder of a blob: one of 256 by its first byte, so that none grows long.
    pub(super) fn blob_dir(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.algorithm_dir(digest.algorithm()).join(&hex[..2])
    }

    pub(super) fn blob(&self, digest: &Digest, name: FileName) -> PathBuf {
        let hex = digest.hex();
        let dir = self.blob_dir(digest);
        match name {
            FileName::Complete => dir.join(hex),
            FileName::Partial => dir.join(hex + PARTIAL_SUFFIX),
        }
    }

    pub(super) fn quarantined(&self, digest: &Digest, piece: u32) -> PathBuf {
        self.quarantine().join(format!("{}.{piece}", digest.hex()))
    }
}

/// The blob that a file in an algorithm's folder belongs to; `None` for a name that is not ours.
pub(super) fn parse_file_name(
    algorithm: DigestAlgorithm,
    name: &OsStr,
) -> Option<(Digest, FileName)> {
    let name = name.to_str()?;
    let (hex, kind) = match name.strip_suffix(PARTIAL_SUFFIX) {
        Some(hex) => (hex, FileName::Partial),
        None => (name, FileName::Complete),
    };
    let digest: Digest = format!("{}:{hex}", algorithm_name(algorithm))
        .parse()
        .ok()?;
    Some((digest, kind))
}

/// The folders under `blobs/`.
pub(super) const ALGORITHMS: [DigestAlgorithm; 2] =
    [DigestAlgorithm::Sha256, DigestAlgorithm::Sha512];

fn algorithm_name(algorithm: DigestAlgorithm) -> &'static str {
    match algorithm {
        DigestAlgorithm::Sha256 => "sha256",
        DigestAlgorithm::Sha512 => "sha512",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_tells_its_blob_and_whether_it_is_whole() {
        let layout = Layout::new(Path::new("/data"));
        for digest in [Digest::Sha256([0xab; 32]), Digest::Sha512([0x01; 64])] {
            for kind in [FileName::Complete, FileName::Partial] {
                let path = layout.blob(&digest, kind);
                let name = path.file_name().expect("a blob's path has a name");
                assert_eq!(
                    parse_file_name(digest.algorithm(), name),
                    Some((digest, kind))
                );
                assert!(path.starts_with(layout.blob_dir(&digest)));
            }
        }
    }

    #[test]
    fn foreign_names_are_nobodys_blob() {
        for name in [
            "",
            "lost+found",
            "abc.partial",
            ".partial",
            "zz",
            &"g".repeat(64),
        ] {
            assert_eq!(
                parse_file_name(DigestAlgorithm::Sha256, OsStr::new(name)),
                None,
                "{name}"
            );
        }
    }
}
