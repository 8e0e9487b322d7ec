//! What a file said before we changed it, kept in our own folder, so that it can be put back byte for byte.
//!
//! Holds: the record is durable before the file it tells of is touched, and goes only after the file is restored.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_proto::{DigestAlgorithm, DigestHasher};

use super::disk::{self, Attributes, Disk};

/// The record of one changed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) path: PathBuf,
    /// `None`: there was no file.
    pub(crate) original: Option<String>,
    pub(crate) attributes: Option<Attributes>,
    /// Folders that were made for it, outermost first.
    pub(crate) created_dirs: Vec<PathBuf>,
    pub(crate) agent_url: String,
    /// Texts of ours that may be there: the one in force, and the one before it while it is replaced.
    pub(crate) ours: Vec<String>,
}

/// The folder of records.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    dir: PathBuf,
}

impl Journal {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn load(&self, path: &Path) -> io::Result<Option<Record>> {
        match disk::read(&self.place(path))? {
            Some((bytes, _)) => decode(&bytes).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn save(&self, disk: &impl Disk, record: &Record) -> io::Result<()> {
        disk::create_dirs(disk, &disk::missing_dirs(&self.dir))?;
        let bytes = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
        disk::replace(disk, &self.place(&record.path), &bytes, None)
    }

    pub(crate) fn forget(&self, disk: &impl Disk, path: &Path) -> io::Result<()> {
        disk::remove(disk, &self.place(path))
    }

    /// Every record, in a stable order.
    pub(crate) fn all(&self) -> io::Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                records.push(decode(&fs::read(&path)?)?);
            }
        }
        records.sort_by(|a: &Record, b| a.path.cmp(&b.path));
        Ok(records)
    }

    fn place(&self, path: &Path) -> PathBuf {
        let mut hasher = DigestHasher::new(DigestAlgorithm::Sha256);
        hasher.update(path.as_os_str().as_encoded_bytes());
        self.dir.join(format!("{}.json", hasher.finish().hex()))
    }
}

fn decode(bytes: &[u8]) -> io::Result<Record> {
    serde_json::from_slice(bytes).map_err(io::Error::other)
}
