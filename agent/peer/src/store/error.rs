//! What can go wrong in the store, by what the caller can do about it. Not here: how a failure is answered on the
//! wire or to a client. A message says what, why and, where a person can help, how to mend it.

use std::io;
use std::path::{Path, PathBuf};

use shoal_proto::Digest;
use thiserror::Error;

use super::index::{IndexError, IndexErrorKind};

/// An answer of the store that is not the one hoped for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// After [`close`](super::Store::close): the process is stopping.
    #[error("the store is closed")]
    Closed,
    /// The bytes of a piece do not hash to what its proof says: whoever sent them is to blame.
    #[error("piece {piece} of {} does not match its proof", .digest.short())]
    Corrupt { digest: Digest, piece: u32 },
    /// The blob is stored with another length or other pieces than are asked for now.
    #[error("blob {} is stored with another shape", .digest.short())]
    GeometryConflict { digest: Digest },
    /// A commit before every piece is held.
    #[error("blob {} lacks {missing} pieces", .digest.short())]
    Incomplete { digest: Digest, missing: u32 },
    /// RocksDB would not.
    #[error("the index of data folder {} failed: {source}; if it does not mend, remove {}/meta and {}/blobs to start empty", .dir.display(), .dir.display(), .dir.display())]
    Index { dir: PathBuf, source: IndexError },
    /// A call of the operating system failed for a reason that has no variant of its own.
    #[error("{op} {}: {source}", .path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Another process has this data folder.
    #[error("data folder {} is in use by another process (it holds {}); stop that process or give this one a `data_dir` of its own", .dir.display(), .lock.display())]
    Locked { dir: PathBuf, lock: PathBuf },
    /// The folder was written by a later release.
    #[error("data folder {} has schema {found}, this program knows {known}; run the newer release or remove the folder", .dir.display())]
    NewerSchema {
        dir: PathBuf,
        found: u32,
        known: u32,
    },
    /// Quota, free-space floor or the disk itself leave no room, also after eviction.
    #[error("no space for {needed_bytes} bytes: {why}")]
    NoSpace {
        needed_bytes: u64,
        why: &'static str,
    },
    /// No such blob here, or no longer.
    #[error("blob {} is not stored", .digest.short())]
    NotFound { digest: Digest },
    /// I1: bytes outside held pieces are not readable.
    #[error("byte {offset} of {} is not held", .digest.short())]
    NotHeld { digest: Digest, offset: u64 },
    /// Beyond the end of the blob, or a piece that its geometry does not have.
    #[error("{at} lies outside blob {}", .digest.short())]
    OutOfRange { digest: Digest, at: u64 },
    /// The disk lost a piece that was held (read error, short file, bit rot); it is missing from now on.
    #[error("piece {piece} of {} was lost by the disk", .digest.short())]
    PieceLost { digest: Digest, piece: u32 },
    /// The filesystem does not take writes.
    #[error("filesystem of {} is read-only; remount it writable or choose another `data_dir`", .path.display())]
    ReadOnly { path: PathBuf },
    /// Another writer of the same piece verified it first and is putting it in place. Nobody is to blame.
    #[error("piece {piece} of {} was finished by another source", .digest.short())]
    Superseded { digest: Digest, piece: u32 },
    /// The data folder cannot be used by this user.
    #[error("data folder {} is not writable: {source}; let the user of this process own it, or choose another `data_dir`", .dir.display())]
    Unwritable { dir: PathBuf, source: io::Error },
    /// Verified pieces that add up to another blob: the origin that signed them is to blame. The blob was discarded.
    #[error("the pieces of {} add up to a blob with another digest; it was discarded", .digest.short())]
    WrongDigest { digest: Digest },
    /// A piece with too few or too many bytes: whoever sent it is to blame.
    #[error("piece {piece} of {} has {got} bytes, not {expected}", .digest.short())]
    WrongLength {
        digest: Digest,
        piece: u32,
        expected: u64,
        got: u64,
    },
}

impl StoreError {
    /// Sorts a failed call by its error number.
    pub(super) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace {
                needed_bytes: 0,
                why: "the disk is full",
            },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly {
                path: path.to_owned(),
            },
            _ => Self::Io {
                op,
                path: path.to_owned(),
                source,
            },
        }
    }

    /// Sorts a failure of the index.
    pub(super) fn index(dir: &Path, source: IndexError) -> Self {
        match source.kind {
            IndexErrorKind::NoSpace => Self::NoSpace {
                needed_bytes: 0,
                why: "the disk is full",
            },
            IndexErrorKind::ReadOnly => Self::ReadOnly {
                path: dir.to_owned(),
            },
            IndexErrorKind::Other => Self::Index {
                dir: dir.to_owned(),
                source,
            },
        }
    }

    /// True when this node's disk is at fault, so that a caller passes bytes through instead of storing them.
    pub fn is_disk_trouble(&self) -> bool {
        matches!(
            self,
            Self::Index { .. } | Self::Io { .. } | Self::NoSpace { .. } | Self::ReadOnly { .. }
        )
    }

    /// True when whoever sent the bytes of a piece is at fault.
    pub fn is_senders_fault(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::WrongLength { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_read_only_disks_are_told_apart_by_error_number() {
        let path = Path::new("/data/blobs");
        let check = |number| StoreError::io("write", path, io::Error::from_raw_os_error(number));
        assert!(matches!(check(28), StoreError::NoSpace { .. })); // ENOSPC
        assert!(matches!(check(122), StoreError::NoSpace { .. })); // EDQUOT
        assert!(matches!(check(30), StoreError::ReadOnly { .. })); // EROFS
        assert!(matches!(check(5), StoreError::Io { .. })); // EIO
        assert!(check(28).is_disk_trouble() && check(5).is_disk_trouble());
    }
}
