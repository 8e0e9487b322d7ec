//! The folder in which a run keeps everything, and which it leaves clean.
//!
//! What for: data folders, configurations, logs, sockets of one run. What not for: anything that outlives the run,
//! unless asked to keep it. Invariant: the path is short enough for a Unix socket below it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A folder of our own under the system's temporary folder.
#[derive(Debug)]
pub struct RunFolder {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl RunFolder {
    /// A fresh one; `purpose` becomes part of its name.
    pub fn create(purpose: &str) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("shoal-{purpose}-"))
            .tempdir()
            .context("cannot make a folder for this run; is TMPDIR writable?")?;
        let path = dir.path().to_owned();
        Ok(Self {
            dir: Some(dir),
            path,
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder below, made when it is not there.
    pub fn sub(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Bytes that are free on the file system below.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Refuses at once when a run that writes `bytes` would fill the disk.
    pub fn need(&self, bytes: u64) -> Result<()> {
        let free = self.free_bytes()?;
        if free < bytes {
            bail!(
                "this run writes up to {} MiB, but {} has {} MiB free; set TMPDIR to a larger disk",
                bytes >> 20,
                self.path.display(),
                free >> 20
            );
        }
        Ok(())
    }

    /// Leaves the folder where it is.
    pub fn keep(&mut self) {
        if let Some(dir) = self.dir.take() {
            let _path = dir.keep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_is_gone_afterwards_unless_it_is_kept() {
        let mut folder = RunFolder::create("test").expect("made");
        let sub = folder.sub("one").expect("made");
        assert!(sub.is_dir());
        folder.need(1).expect("a byte is free");
        assert!(
            folder
                .need(u64::MAX)
                .expect_err("no disk is that large")
                .to_string()
                .contains("TMPDIR")
        );
        folder.keep();
        let path = folder.path().to_owned();
        drop(folder);
        assert!(sub.is_dir(), "kept");
        std::fs::remove_dir_all(path).expect("removed by hand");

        let folder = RunFolder::create("test").expect("made");
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }
}
