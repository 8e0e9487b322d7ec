//! The folder in which a daemon keeps what must outlive it, opened and proven writable before anything starts.
//!
//! Created with mode 0700: it holds the private key that is the process's name. What else lies in it is the
//! business of those who are given its path.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

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
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(fail("create"))?;
        let probe = path.join(".writable");
        File::create(&probe)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::remove_file(&probe))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

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
        std::fs::write(&file, "").unwrap();
        let error = DataDir::open(&file.join("shoal")).unwrap_err().to_string();
        assert!(error.contains("a file is in the way"), "{error}");
        assert!(error.contains(file.to_str().unwrap()), "{error}");
        // /proc is refused to everybody, root included.
        let error = DataDir::open(Path::new("/proc/shoal"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("SHOAL_DATA_DIR"), "{error}");
    }
}
