//! The folder in which a daemon keeps what must outlive it, opened and proven writable before anything starts.
//!
//! Created with mode 0700: it holds the private key that is the process's name. What else lies in it is the
//! business of those who are given its path.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A folder that exists and can be written.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

/// A folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the data folder {}: {source}; {}", path.display(), self.advice())]
pub struct DataDirError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl DataDirError {
    fn advice(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => {
                "run as the folder's owner, or set `data_dir` (SHOAL_DATA_DIR) to a folder of your own"
            }
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "a file is in the way: set `data_dir` (SHOAL_DATA_DIR) to a folder"
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                "mount it writable, or set `data_dir` (SHOAL_DATA_DIR) to a folder on a writable disk"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "free some space, or set `data_dir` (SHOAL_DATA_DIR) to a folder on another disk"
            }
            _ => "set `data_dir` (SHOAL_DATA_DIR) to a writable folder",
        }
    }
}

impl DataDir {
    /// Creates the folder if it is absent, and writes and removes a file in it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let fail = |action| {
            move |source| DataDirError {
                action,
                path: path.to_path_buf(),
                source,
            }
        };
        create(path).map_err(fail("create"))?;
        let probe = path.join(".writable");
        File::create(&probe)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::remove_file(&probe))
            .map_err(fail("write in"))?;
        Ok(Self {
            path: path.to_path_buf(),
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the process's private key lies.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.path.join("identity.key")
    }
}

fn create(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A user and a group by number, written `65532:65532`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    gid: u32,
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once(':').and_then(|(uid, gid)| {
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            Some(Self { uid, gid })
        });
        numbers.ok_or_else(|| format!("`{text}` is not UID:GID; write for example 65532:65532"))
    }
}

/// Makes `owner` the owner of the folder, which is created if it is absent, and of all in it. Links are not
/// followed. Nothing is touched when the folder is the owner's already.
pub fn give(path: &Path, owner: Owner) -> Result<(), DataDirError> {
    let given = create(path).and_then(|()| give_folder(path, owner));
    given.map_err(|source| DataDirError {
        action: "give away",
        path: path.to_path_buf(),
        source,
    })
}

/// The folder itself last: one that is the owner's already is done, also after a run that was cut short, and need
/// not be readable to whoever runs this.
fn give_folder(folder: &Path, owner: Owner) -> io::Result<()> {
    let known = fs::symlink_metadata(folder)?;
    if (known.uid(), known.gid()) == (owner.uid, owner.gid) {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_folder(&entry.path(), owner)?;
        } else {
            lchown(entry.path(), Some(owner.uid), Some(owner.gid))?;
        }
    }
    lchown(folder, Some(owner.uid), Some(owner.gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{getgid, getuid};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn an_absent_folder_is_made_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/shoal");
        let data = DataDir::open(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(data.identity(), path.join("identity.key"));
        assert_eq!(path.read_dir().unwrap().count(), 0, "the probe is gone");
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_used_says_which_and_how_to_mend_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::open(&file.join("shoal")).unwrap_err().to_string();
        assert!(error.contains("a file is in the way"), "{error}");
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        // /proc is refused to everybody, root included.
        let error = DataDir::open(Path::new("/proc/shoal"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("SHOAL_DATA_DIR"), "{error}");
    }

    #[test]
    fn a_folder_is_given_with_all_in_it_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, outside) = (dir.path().join("shoal"), dir.path().join("outside"));
        fs::write(&outside, "").unwrap();
        fs::create_dir_all(path.join("blobs")).unwrap();
        fs::write(path.join("blobs/one"), "").unwrap();
        symlink(&outside, path.join("link")).unwrap();
        // Only root may give to somebody else; everybody may give to himself.
        let root = getuid().is_root();
        let (uid, gid) = if root {
            (65532, 65532)
        } else {
            (getuid().as_raw(), getgid().as_raw())
        };
        give(&path, Owner { uid, gid }).unwrap();
        for part in ["", "blobs", "blobs/one", "link"] {
            let found = fs::symlink_metadata(path.join(part)).unwrap();
            assert_eq!((found.uid(), found.gid()), (uid, gid), "{part}");
        }
        assert_eq!(fs::metadata(&outside).unwrap().uid(), getuid().as_raw());
        give(&dir.path().join("new"), Owner { uid, gid }).unwrap();
        assert_eq!(fs::metadata(dir.path().join("new")).unwrap().uid(), uid);
    }

    #[test]
    fn an_owner_is_two_numbers() {
        assert_eq!("1:2".parse(), Ok(Owner { uid: 1, gid: 2 }));
        for text in ["", "1", "1:", "nobody:nogroup", "-1:2"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }
}
