//! A small ordered map on disk: RocksDB, behind a trait so that crash tests can forget what was not synced. Not here: what
//! keys and values mean ([`super::record`]).
//!
//! Invariant: batches become durable in the order in which they were applied, each whole or not at all, so that a crash
//! leaves a prefix of them; a synced batch, or [`Index::sync`], makes everything before it durable.

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, IteratorMode, LogLevel, Options, ReadOptions,
    WriteBatch, WriteOptions,
};
use shoal_proto::limits::{
    INDEX_BLOCK_CACHE_BYTES, INDEX_OPEN_FILES_MAX, INDEX_WAL_BYTES_MAX, INDEX_WRITE_BUFFER_BYTES,
};
use thiserror::Error;

/// RocksDB's own log, in bytes of each of its two files.
const LOG_FILE_BYTES_MAX: usize = 1 << 20;

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexOp {
    Delete(Vec<u8>),
    /// Every key that begins with these bytes; the last of them is below 255.
    DeletePrefix(Vec<u8>),
    Put(Vec<u8>, Vec<u8>),
}

/// Whether a batch is durable when the call returns, or some time later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Lazy,
    Synced,
}

/// What the caller can do about a failure of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexErrorKind {
    NoSpace,
    Other,
    ReadOnly,
}

/// RocksDB's own words.
#[derive(Clone, Debug, Error)]
#[error("{what}")]
pub struct IndexError {
    pub kind: IndexErrorKind,
    pub what: String,
}

/// Sees one pair, and says whether it wants more.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Opens the index in a folder.
pub type OpenIndex<'a> = dyn Fn(&Path) -> Result<Arc<dyn Index>, IndexError> + 'a;

/// An ordered map from bytes to bytes.
pub trait Index: Debug + Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;
    fn apply(&self, ops: Vec<IndexOp>, durability: Durability) -> Result<(), IndexError>;
    /// All pairs whose key begins with `prefix`, in order of keys, until the visitor breaks.
    fn scan(&self, prefix: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError>;
    /// Makes everything that was applied durable.
    fn sync(&self) -> Result<(), IndexError>;
}

/// RocksDB with little memory, few files and no compression: a few hundred small writes a second.
#[derive(Debug)]
pub struct RocksIndex {
    db: rocksdb::DB,
}

impl RocksIndex {
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(INDEX_BLOCK_CACHE_BYTES));
        table.set_cache_index_and_filter_blocks(true);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(INDEX_WRITE_BUFFER_BYTES);
        options.set_max_write_buffer_number(2);
        options.set_max_background_jobs(2);
        options.set_max_open_files(INDEX_OPEN_FILES_MAX);
        options.set_max_file_opening_threads(1);
        options.set_max_total_wal_size(INDEX_WAL_BYTES_MAX);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(LOG_FILE_BYTES_MAX);
        Ok(Self {
            db: rocksdb::DB::open(&options, dir)?,
        })
    }
}

impl Index for RocksIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.db.get(key)?)
    }

    fn apply(&self, ops: Vec<IndexOp>, durability: Durability) -> Result<(), IndexError> {
        let mut batch = WriteBatch::default();
        for op in ops {
            match op {
                IndexOp::Delete(key) => batch.delete(key),
                IndexOp::DeletePrefix(prefix) => {
                    batch.delete_range(prefix.clone(), prefix_end(prefix))
                }
                IndexOp::Put(key, value) => batch.put(key, value),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        Ok(self.db.write_opt(batch, &options)?)
    }

    fn scan(&self, prefix: &[u8], visit: &mut Visitor<'_>) -> Result<(), IndexError> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(prefix.to_vec()..prefix_end(prefix.to_vec()));
        for pair in self.db.iterator_opt(IteratorMode::Start, options) {
            let (key, value) = pair?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), IndexError> {
        Ok(self.db.flush_wal(true)?)
    }
}

impl From<rocksdb::Error> for IndexError {
    /// RocksDB gives the system's reason as text only.
    fn from(error: rocksdb::Error) -> Self {
        let what = error.into_string();
        let kind = if what.contains("No space left") || what.contains("Disk quota exceeded") {
            IndexErrorKind::NoSpace
        } else if what.contains("Read-only file system") {
            IndexErrorKind::ReadOnly
        } else {
            IndexErrorKind::Other
        };
        Self { kind, what }
    }
}

/// The first key after all that begin with these bytes, of which at least one is below 255.
fn prefix_end(mut prefix: Vec<u8>) -> Vec<u8> {
    while prefix.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = prefix.last_mut() {
        *last += 1;
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(index: &dyn Index, prefix: &[u8]) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        index
            .scan(prefix, &mut |key, _| {
                keys.push(key.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
        keys
    }

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(prefix_end(vec![1, 2]), [1, 3]);
        assert_eq!(prefix_end(vec![1, 255]), [2]);
        assert_eq!(prefix_end(vec![1, 254, 255, 255]), [1, 255]);
    }

    #[test]
    fn what_was_applied_is_found_again_after_opening_anew() {
        let dir = tempfile::tempdir().unwrap();
        let put = |key: &[u8]| IndexOp::Put(key.to_vec(), b"v".to_vec());
        {
            let index = RocksIndex::open(dir.path()).unwrap();
            index
                .apply(
                    vec![
                        put(b"a\xff"),
                        put(b"a\xff\xff"),
                        put(b"b"),
                        put(b"c"),
                        put(b"cc"),
                    ],
                    Durability::Lazy,
                )
                .unwrap();
            assert_eq!(
                keys(&index, b"a\xff"),
                [b"a\xff".to_vec(), b"a\xff\xff".to_vec()]
            );
            index
                .apply(
                    vec![
                        IndexOp::DeletePrefix(b"a\xff".to_vec()),
                        IndexOp::Delete(b"c".to_vec()),
                    ],
                    Durability::Synced,
                )
                .unwrap();
            index.sync().unwrap();
        }
        let index = RocksIndex::open(dir.path()).unwrap();
        assert_eq!(keys(&index, b"a"), Vec::<Vec<u8>>::new());
        assert_eq!(keys(&index, b"c"), [b"cc".to_vec()]);
        assert_eq!(index.get(b"b").unwrap().as_deref(), Some(b"v".as_slice()));
        assert_eq!(index.get(b"c").unwrap(), None);
    }

    #[test]
    fn a_scan_stops_when_its_visitor_has_seen_enough() {
        let dir = tempfile::tempdir().unwrap();
        let index = RocksIndex::open(dir.path()).unwrap();
        let ops = (0..10_u8)
            .map(|i| IndexOp::Put(vec![b'k', i], Vec::new()))
            .collect();
        index.apply(ops, Durability::Lazy).unwrap();
        let mut seen = 0;
        index
            .scan(b"k", &mut |_, _| {
                seen += 1;
                if seen == 3 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .unwrap();
        assert_eq!(seen, 3);
    }
}
