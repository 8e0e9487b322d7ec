//! The few calls to the filesystem that the store makes, as a trait, so that crash tests can stand in for the disk and
//! remember what was synced. Not here: what the files mean ([`super::layout`]), or in which order they become durable.
//!
//! There is no `sync_file_range` among them: no library gives it without `unsafe`. Write-back is started by an
//! `fdatasync` every few pieces instead ([`super::Store::advance`]).

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: OsString,
    pub is_dir: bool,
}

/// Holds the lock on a data folder until it is dropped.
pub trait DirLock: Debug + Send + Sync {}

/// A filesystem, as far as the store needs one.
pub trait Disk: Debug + Send + Sync {
    /// Makes one folder, readable by its owner only; false when it was there.
    fn create_dir(&self, path: &Path) -> io::Result<bool>;
    /// The names in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// A new, empty file whose space is set aside; what had that name before is gone.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file, for reading and, unless the filesystem is read-only, writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Atomic; durable once the folder is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that an unprivileged process may still write to this folder's filesystem.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Takes the lock file, or [`io::ErrorKind::WouldBlock`] when another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>>;
}

/// An open file; every call carries its own offset, so that many threads can share it.
pub trait DiskFile: Debug + Send + Sync {
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// As many of `len` bytes as there are: fewer only at the end of the file.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes>;
    /// The same, into a buffer of the caller's: how many bytes of it are filled.
    fn read_into(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.read_at(offset, into.len())?;
        into[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
    /// Fills the buffer if that takes no waiting: [`io::ErrorKind::WouldBlock`] when the disk would have to be asked for any
    /// of it, or when the filesystem cannot tell.
    fn read_cached(&self, _offset: u64, _into: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    /// All of the bytes.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// `fdatasync`: what was written is durable when this returns.
    fn sync(&self) -> io::Result<()>;
}

/// The operating system's filesystem.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in dir.read_dir()? {
            let entry = entry?;
            entries.push(DirEntry {
                is_dir: entry.file_type()?.is_dir(),
                name: entry.file_name(),
            });
        }
        Ok(entries)
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        if let Err(e) = set_aside(&file, bytes) {
            drop(file);
            // The half-made file is worth nothing; the first failure is the one to tell.
            let _ = std::fs::remove_file(path);
            return Err(e);
        }
        Ok(Arc::new(OsFile { file }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path)?,
            other => other?,
        };
        Ok(Arc::new(OsFile { file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(OsFile { file })),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

/// `fallocate`, or a sparse file where the filesystem has no such call.
fn set_aside(file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(bytes),
        other => other.map_err(io::Error::from),
    }
}

#[derive(Debug)]
struct OsFile {
    file: File,
}

impl DirLock for OsFile {}

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            match rustix::io::pread(&self.file, spare_capacity(&mut bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // The allocator may round the capacity up, and then pread fills that too.
        bytes.truncate(len);
        Ok(bytes.into())
    }

    fn read_into(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match rustix::io::pread(&self.file, &mut into[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(filled)
    }

    fn read_cached(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < into.len() {
            let (at, rest) = (offset + filled as u64, &mut into[filled..]);
            let slices = &mut [IoSliceMut::new(rest)];
            match rustix::io::preadv2(&self.file, slices, at, ReadWriteFlags::NOWAIT) {
                Ok(0) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_land_where_they_belong_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("f"), 10).unwrap();
        file.write_at(7, b"xyz").unwrap();
        file.write_at(7, b"").unwrap();
        assert_eq!(file.read_at(0, 10).unwrap(), b"\0\0\0\0\0\0\0xyz"[..]);
    }

    #[test]
    fn reading_past_the_end_gives_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("f"), 10).unwrap();
        assert_eq!(file.read_at(8, 100).unwrap().len(), 2);
        assert_eq!(file.read_at(10, 1).unwrap().len(), 0);
        assert_eq!(file.len().unwrap(), 10);
    }

    #[test]
    fn what_was_just_written_is_read_without_waiting_and_what_is_not_there_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("f"), 10).unwrap();
        file.write_at(0, b"0123456789").unwrap();
        let mut into = [0; 4];
        match file.read_cached(3, &mut into) {
            Ok(()) => assert_eq!(&into, b"3456"),
            // A filesystem that cannot tell.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        let error = file.read_cached(8, &mut into).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(file.read_into(8, &mut into).unwrap(), 2);
        assert_eq!(&into[..2], b"89");
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = OsDisk.lock(&path).unwrap();
        assert_eq!(
            OsDisk.lock(&path).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(first);
        OsDisk.lock(&path).unwrap();
    }
}
