//! skopeo and buildah: the library of podman and CRI-O, told of mirrors by a `registries.conf`.
//!
//! What for: pulls as that library makes them, from a registry that has a mirror. What not for: containers. Invariant:
//! nothing of the machine's own configuration, policy or storage is read or written.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::needs::{BUILDAH, SKOPEO};
use super::process;
use crate::workload::{Image, digest_of};

const PULL_WITHIN: Duration = Duration::from_secs(120);
const POLICY: &str = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;

/// A place to pull to, and the `registries.conf` that says from where.
#[derive(Debug)]
pub struct CImage {
    folder: PathBuf,
    conf: PathBuf,
}

impl CImage {
    /// Everything below `folder`; `conf` is what `shoal-agent print podman` prints, or the like.
    pub fn new(folder: &Path, conf: &str) -> Result<Self> {
        let (folder, file) = (folder.to_owned(), folder.join("registries.conf"));
        fs::write(&file, conf)?;
        fs::write(folder.join("policy.json"), POLICY)?;
        Ok(Self { folder, conf: file })
    }

    /// `skopeo copy` to the folder `name` below ours; returns it.
    pub async fn skopeo_copy(&self, reference: &str, name: &str, more: &[&str]) -> Result<PathBuf> {
        let to = self.folder.join(name);
        let (from, target) = (format!("docker://{reference}"), in_text("dir:", &to)?);
        let conf = in_text("", &self.conf)?;
        let mut args = vec!["--registries-conf", &conf, "--insecure-policy"];
        args.extend(["copy", "--quiet"]);
        args.extend(more);
        args.extend([from.as_str(), target.as_str()]);
        process::run(&SKOPEO.path()?, &args, PULL_WITHIN).await?;
        Ok(to)
    }

    /// `buildah pull`; returns the image's id, which is its configuration's digest in hexadecimal.
    pub async fn buildah_pull(&self, reference: &str) -> Result<String> {
        let path = |name: &str| in_text("", &self.folder.join(name));
        let (root, run, policy) = (path("root")?, path("run")?, path("policy.json")?);
        let conf = in_text("", &self.conf)?;
        let storage = ["--root", &root, "--runroot", &run];
        let driver = ["--storage-driver", "vfs", "--registries-conf", &conf];
        let pull = ["pull", "--quiet", "--signature-policy", &policy, reference];
        let args = [&storage[..], &driver, &pull].concat();
        let said = process::run(&BUILDAH.path()?, &args, PULL_WITHIN).await?;
        Ok(said.trim().to_owned())
    }
}

fn in_text(before: &str, path: &Path) -> Result<String> {
    let path = path.to_str().context("a path that is not UTF-8")?;
    Ok(format!("{before}{path}"))
}

/// Whether a folder that skopeo wrote holds every blob of an image, as it should be.
pub fn check_copied(folder: &Path, image: &Image) -> Result<()> {
    for blob in image.blobs() {
        let file = folder.join(blob.digest().hex());
        let copied = fs::read(&file).with_context(|| format!("{}", file.display()))?;
        ensure!(
            digest_of(&copied) == blob.digest(),
            "{} holds something else",
            file.display()
        );
    }
    Ok(())
}
