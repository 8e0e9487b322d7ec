//! The few file operations that a change of somebody else's configuration is made of, each durable when it returns.
//!
//! A trait, so that tests can cut the power before or within any of them. Not here: what is written, and where.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Whose a file is, and who may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// One durable step after the other.
pub(crate) trait Disk {
    /// Writes a whole file beside its future place and syncs it.
    fn write(&self, path: &Path, bytes: &[u8], attributes: Option<Attributes>) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// The system's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, path: &Path, bytes: &[u8], attributes: Option<Attributes>) -> io::Result<()> {
        // A leftover of an interrupted run may have other owners or modes: begin anew.
        absent_is_fine(fs::remove_file(path))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)?;
        if let Some(attributes) = attributes {
            let now = file.metadata()?;
            if (now.uid(), now.gid()) != (attributes.uid, attributes.gid) {
                std::os::unix::fs::fchown(&file, Some(attributes.uid), Some(attributes.gid))?;
            }
            file.set_permissions(Permissions::from_mode(attributes.mode))?;
        }
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o755).create(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// What is at `path`, or nothing.
pub(crate) fn read(path: &Path) -> io::Result<Option<(Vec<u8>, Attributes)>> {
    match fs::read(path) {
        Ok(bytes) => {
            let meta = fs::metadata(path)?;
            let attributes = Attributes {
                mode: meta.mode() & 0o7777,
                uid: meta.uid(),
                gid: meta.gid(),
            };
            Ok(Some((bytes, attributes)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts `bytes` at `path` so that whoever looks, at any moment and after any crash, sees the old or the new file.
pub(crate) fn replace(
    disk: &impl Disk,
    path: &Path,
    bytes: &[u8],
    attributes: Option<Attributes>,
) -> io::Result<()> {
    let temporary = temporary_of(path);
    disk.write(&temporary, bytes, attributes)?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(parent_of(path)?)
}

/// Takes a file away, and what an interrupted `replace` left beside it.
pub(crate) fn remove(disk: &impl Disk, path: &Path) -> io::Result<()> {
    absent_is_fine(disk.remove_file(&temporary_of(path)))?;
    absent_is_fine(disk.remove_file(path))?;
    match disk.sync_dir(parent_of(path)?) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The folders on the way to `path` that are missing, outermost first.
pub(crate) fn missing_dirs(path: &Path) -> Vec<std::path::PathBuf> {
    let mut missing: Vec<_> = path
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .map(Path::to_owned)
        .collect();
    missing.reverse();
    missing
}

/// Makes the given folders, outermost first.
pub(crate) fn create_dirs(disk: &impl Disk, dirs: &[std::path::PathBuf]) -> io::Result<()> {
    for dir in dirs {
        match disk.create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done?,
        }
        disk.sync_dir(parent_of(dir)?)?;
    }
    Ok(())
}

/// Takes folders away again, innermost first, unless somebody put something in them.
pub(crate) fn remove_empty_dirs(disk: &impl Disk, dirs: &[std::path::PathBuf]) -> io::Result<()> {
    for dir in dirs.iter().rev() {
        match disk.remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
            done => absent_is_fine(done)?,
        }
    }
    Ok(())
}

pub(crate) fn temporary_of(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.shoal-tmp"))
}

fn parent_of(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::other("a path without a folder above it"))
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
pub(crate) mod faults {
    //! A disk whose power fails at a chosen step: the step, and all after it, do nothing, or half of a write.

    use std::cell::Cell;

    use super::*;

    #[derive(Debug)]
    pub(crate) struct FailingDisk {
        left: Cell<usize>,
    }

    impl FailingDisk {
        pub(crate) fn after(steps: usize) -> Self {
            Self {
                left: Cell::new(steps),
            }
        }

        fn step(&self) -> io::Result<()> {
            match self.left.get().checked_sub(1) {
                Some(left) => {
                    self.left.set(left);
                    Ok(())
                }
                None => Err(io::Error::other("the power failed")),
            }
        }
    }

    impl Disk for FailingDisk {
        fn write(
            &self,
            path: &Path,
            bytes: &[u8],
            attributes: Option<Attributes>,
        ) -> io::Result<()> {
            if let Err(error) = self.step() {
                let _ = fs::write(path, &bytes[..bytes.len() / 2]);
                return Err(error);
            }
            RealDisk.write(path, bytes, attributes)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step()?;
            RealDisk.rename(from, to)
        }

        fn remove_file(&self, path: &Path) -> io::Result<()> {
            self.step()?;
            RealDisk.remove_file(path)
        }

        fn create_dir(&self, path: &Path) -> io::Result<()> {
            self.step()?;
            RealDisk.create_dir(path)
        }

        fn remove_dir(&self, path: &Path) -> io::Result<()> {
            self.step()?;
            RealDisk.remove_dir(path)
        }

        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            self.step()?;
            RealDisk.sync_dir(path)
        }
    }
}
