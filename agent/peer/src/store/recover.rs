//! Opening, after a crash or not: takes the folder, then makes index and files agree. Not here: repair while running
//! ([`super::read`]).
//!
//! The name of a file decides where it and the index differ, since the rename was the commit point (I5): a complete name
//! is believed when the length is right and every piece has its proof; of a partial file, what the index claims is hashed
//! first, unless the last stop was clean and the claim is one of those noted then. Whatever is neither is removed.

mod settle;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use shoal_proto::Digest;

use super::disk::{DirLock, Disk};
use super::error::StoreError;
use super::index::{Durability, Index, IndexError, IndexOp};
use super::layout::{ALGORITHMS, FileName, Layout, parse_file_name};
use super::record::{self, BlobRecord};
use super::shelf::{Blob, Shelf, State};

/// What opening found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The last process closed the store, or there was none.
    pub clean_stop: bool,
    pub complete_blobs: usize,
    pub partial_blobs: usize,
    /// Pieces of partial blobs that were hashed again.
    pub pieces_hashed: u64,
    /// Claimed pieces that were not there.
    pub pieces_dropped: u64,
    /// Recorded blobs without a usable file.
    pub blobs_dropped: u64,
    /// Files that no record speaks of; removed.
    pub orphan_files: u64,
}

/// A store's state, ready to be used.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) shelf: Shelf,
    pub(super) report: RecoveryReport,
}

/// Makes the folders and keeps every other process out of them.
pub(super) fn take_folder(
    disk: &dyn Disk,
    layout: &Layout,
) -> Result<Box<dyn DirLock>, StoreError> {
    let dir = layout.root();
    let unusable = |source: io::Error| match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly {
            path: dir.to_owned(),
        },
        _ => StoreError::Unwritable {
            dir: dir.to_owned(),
            source,
        },
    };
    disk.create_dir(dir).map_err(unusable)?;
    let lock = disk
        .lock(&layout.lock_file())
        .map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked {
                dir: dir.to_owned(),
                lock: layout.lock_file(),
            },
            _ => unusable(source),
        })?;
    let blobs = layout.blobs();
    let mut made = disk.create_dir(&blobs).map_err(unusable)?;
    made |= disk.create_dir(&layout.quarantine()).map_err(unusable)?;
    made |= disk.create_dir(&layout.meta()).map_err(unusable)?;
    for algorithm in ALGORITHMS {
        made |= disk
            .create_dir(&layout.algorithm_dir(algorithm))
            .map_err(unusable)?;
    }
    if made {
        disk.sync_dir(dir)
            .map_err(|e| StoreError::io("sync", dir, e))?;
        disk.sync_dir(&blobs)
            .map_err(|e| StoreError::io("sync", &blobs, e))?;
    }
    Ok(lock)
}

/// Reads the index and the folders, and settles each blob.
pub(super) fn recover(
    disk: &dyn Disk,
    index: &dyn Index,
    layout: &Layout,
) -> Result<Recovered, StoreError> {
    let mut recovery = Recovery {
        disk,
        index,
        layout,
        report: RecoveryReport::default(),
        ops: Vec::new(),
    };
    let noted = recovery.take_clean_marker()?;
    if noted.is_none() {
        recovery.sync_folders()?;
    }
    let mut files = recovery.files()?;
    let uses = recovery.uses()?;
    let mut shelf = Shelf {
        last_use: uses.values().copied().max().unwrap_or(0),
        ..Shelf::default()
    };
    for (digest, record) in recovery.records()? {
        let file = files.remove(&digest).unwrap_or_default();
        let state = match &record {
            Some(record) => recovery.settle(record, file, noted.as_ref())?,
            None => None,
        };
        let (Some(record), Some(state)) = (record, state) else {
            recovery.drop_blob(&digest, file)?;
            continue;
        };
        match state {
            State::Complete => recovery.report.complete_blobs += 1,
            State::Partial(_) => recovery.report.partial_blobs += 1,
        }
        let last_used = uses.get(&digest).copied().unwrap_or(0);
        shelf.last_incarnation = shelf.last_incarnation.max(record.incarnation);
        shelf.used_bytes += record.info.geometry.blob_bytes();
        shelf.insert(Blob::new(record.info, state, record.incarnation, last_used));
    }
    for (digest, file) in files {
        recovery.remove_files(&digest, file)?;
        recovery.report.orphan_files += 1;
    }
    let unused = uses
        .keys()
        .filter(|digest| !shelf.blobs.contains_key(*digest));
    recovery
        .ops
        .extend(unused.map(|digest| IndexOp::Delete(record::use_key(digest))));
    recovery.apply(Durability::Lazy)?;
    Ok(Recovered {
        shelf,
        report: recovery.report,
    })
}

/// Which of its two names a blob has.
#[derive(Clone, Copy, Debug, Default)]
struct Files {
    complete: bool,
    partial: bool,
}

/// Values written at a clean stop: by blob, the encoded held bitfield.
type Noted = HashMap<Digest, Vec<u8>>;

struct Recovery<'a> {
    disk: &'a dyn Disk,
    index: &'a dyn Index,
    layout: &'a Layout,
    report: RecoveryReport,
    ops: Vec<IndexOp>,
}

impl Recovery<'_> {
    /// Checks the schema and learns whether the last stop was clean. From here on it counts as unclean until closed.
    fn take_clean_marker(&mut self) -> Result<Option<Noted>, StoreError> {
        let schema = self
            .index
            .get(record::SCHEMA_KEY)
            .map_err(|e| self.index_error(e))?;
        let clean = match &schema {
            None => true,
            Some(value) => {
                let found = record::decode_schema(value).unwrap_or(u32::MAX);
                if found > record::SCHEMA_VERSION {
                    let known = record::SCHEMA_VERSION;
                    return Err(StoreError::NewerSchema {
                        dir: self.layout.root().to_owned(),
                        found,
                        known,
                    });
                }
                self.index
                    .get(record::CLEAN_KEY)
                    .map_err(|e| self.index_error(e))?
                    .is_some()
            }
        };
        let mut noted = Noted::new();
        self.scan(record::HELD_PREFIX, &mut |key, value| {
            noted.extend(record::digest_of_key(key).map(|digest| (digest, value.to_vec())));
        })?;
        self.ops.push(IndexOp::Put(
            record::SCHEMA_KEY.to_vec(),
            record::encode_schema(record::SCHEMA_VERSION),
        ));
        self.ops.push(IndexOp::Delete(record::CLEAN_KEY.to_vec()));
        self.ops
            .push(IndexOp::DeletePrefix(record::HELD_PREFIX.to_vec()));
        self.apply(Durability::Synced)?;
        self.report.clean_stop = clean;
        Ok(clean.then_some(noted))
    }

    /// Every recorded blob; `None` for a record that cannot be read.
    fn records(&self) -> Result<Vec<(Digest, Option<BlobRecord>)>, StoreError> {
        let mut records = Vec::new();
        self.scan(record::BLOB_PREFIX, &mut |key, value| {
            let Some(digest) = record::digest_of_key(key) else {
                return;
            };
            records.push((
                digest,
                BlobRecord::decode(value).filter(|record| record.info.digest == digest),
            ));
        })?;
        Ok(records)
    }

    fn uses(&self) -> Result<HashMap<Digest, u64>, StoreError> {
        let mut uses = HashMap::new();
        self.scan(record::USE_PREFIX, &mut |key, value| {
            uses.extend(record::digest_of_key(key).zip(record::decode_use(value)));
        })?;
        Ok(uses)
    }

    /// A process that was killed may have made folders that it had no time to sync.
    fn sync_folders(&self) -> Result<(), StoreError> {
        self.sync_dir(self.layout.root())?;
        self.sync_dir(&self.layout.blobs())?;
        ALGORITHMS
            .iter()
            .try_for_each(|algorithm| self.sync_dir(&self.layout.algorithm_dir(*algorithm)))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), StoreError> {
        self.disk
            .sync_dir(dir)
            .map_err(|e| StoreError::io("sync", dir, e))
    }

    fn files(&self) -> Result<HashMap<Digest, Files>, StoreError> {
        let mut files: HashMap<Digest, Files> = HashMap::new();
        for algorithm in ALGORITHMS {
            let dir = self.layout.algorithm_dir(algorithm);
            for shelf in self
                .disk
                .list(&dir)
                .map_err(|e| StoreError::io("list", &dir, e))?
            {
                if !shelf.is_dir {
                    continue;
                }
                let dir = dir.join(&shelf.name);
                for entry in self
                    .disk
                    .list(&dir)
                    .map_err(|e| StoreError::io("list", &dir, e))?
                {
                    match parse_file_name(algorithm, &entry.name) {
                        Some((digest, FileName::Complete)) => {
                            files.entry(digest).or_default().complete = true
                        }
                        Some((digest, FileName::Partial)) => {
                            files.entry(digest).or_default().partial = true
                        }
                        None => {} // not ours
                    }
                }
            }
        }
        Ok(files)
    }

    fn drop_blob(&mut self, digest: &Digest, files: Files) -> Result<(), StoreError> {
        self.report.blobs_dropped += 1;
        self.ops.push(IndexOp::Delete(record::blob_key(digest)));
        self.ops
            .push(IndexOp::DeletePrefix(record::proofs_prefix(digest)));
        self.remove_files(digest, files)
    }

    fn remove_files(&self, digest: &Digest, files: Files) -> Result<(), StoreError> {
        if files.complete {
            self.remove(digest, FileName::Complete)?;
        }
        if files.partial {
            self.remove(digest, FileName::Partial)?;
        }
        Ok(())
    }

    fn remove(&self, digest: &Digest, name: FileName) -> Result<(), StoreError> {
        let path = self.layout.blob(digest, name);
        match self.disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path, e))
            }
            _ => Ok(()),
        }
    }

    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let mut go_on = |key: &[u8], value: &[u8]| {
            visit(key, value);
            ControlFlow::Continue(())
        };
        self.index
            .scan(prefix, &mut go_on)
            .map_err(|e| self.index_error(e))
    }

    fn apply(&mut self, durability: Durability) -> Result<(), StoreError> {
        let ops = std::mem::take(&mut self.ops);
        if ops.is_empty() {
            return Ok(());
        }
        self.index
            .apply(ops, durability)
            .map_err(|e| self.index_error(e))
    }

    fn index_error(&self, error: IndexError) -> StoreError {
        StoreError::index(self.layout.root(), error)
    }
}
