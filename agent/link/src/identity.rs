//! The key that a process is known by, and its file.
//!
//! Not here: what the key may do, which a membership says. The file holds libp2p's protobuf form of an Ed25519 key pair, is
//! readable by its owner alone, and appears whole or not at all.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libp2p_identity::Keypair;
use shoal_proto::{OriginKey, PeerId};
use thiserror::Error;

/// Longer files are not key files.
const FILE_BYTES_MAX: u64 = 4096;

/// A process's key pair. Cheap to clone; its `Debug` shows the public half.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    secret: [u8; 32],
    peer: PeerId,
}

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file cannot be read or made.
    #[error(
        "cannot use the key file {path}: {source}; check that its folder exists and is writable by this user"
    )]
    Io {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} does not hold an Ed25519 key; restore it, or remove it to be given a new name")]
    Malformed {
        /// Which file.
        path: PathBuf,
    },
}

/// Random bytes of the library that TLS uses, for a secret of this process; `None` when the system has none to give.
pub fn random_bytes<const N: usize>() -> Option<[u8; N]> {
    let mut out = [0; N];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut out)
        .ok()?;
    Some(out)
}

impl Identity {
    /// A new key, kept nowhere.
    pub fn generate() -> Option<Self> {
        Self::from_keypair(Keypair::generate_ed25519())
    }

    /// The key in this file; a new one is made and written when there is no file.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::Malformed {
            path: path.to_owned(),
        };
        let failed = |source| IdentityError::Io {
            path: path.to_owned(),
            source,
        };
        match fs::metadata(path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => return Err(malformed()),
            Ok(_) => {
                let bytes = fs::read(path).map_err(failed)?;
                let keypair = Keypair::from_protobuf_encoding(&bytes).map_err(|_| malformed())?;
                return Self::from_keypair(keypair).ok_or_else(malformed);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let keypair = Keypair::generate_ed25519();
        let bytes = keypair.to_protobuf_encoding().map_err(|_| malformed())?;
        write_whole(path, &bytes).map_err(failed)?;
        Self::from_keypair(keypair).ok_or_else(malformed)
    }

    /// Who this is.
    pub fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// The same key, to sign shapes and proofs with. Only an origin's signatures are believed.
    pub fn origin_key(&self) -> OriginKey {
        OriginKey::from_secret(&self.secret)
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    fn from_keypair(keypair: Keypair) -> Option<Self> {
        let ed25519 = keypair.clone().try_into_ed25519().ok()?;
        let secret = ed25519.secret().as_ref().try_into().ok()?;
        Some(Self {
            peer: PeerId::from_key(ed25519.public().to_bytes()),
            keypair,
            secret,
        })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer)
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_a_restart_and_its_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        let first = Identity::load_or_create(&path).unwrap();
        let second = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.peer_id(), second.peer_id());
        assert_eq!(first.origin_key().peer_id(), first.peer_id());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            first.peer_id().to_string(),
            first.keypair().public().to_peer_id().to_string()
        );
    }

    #[test]
    fn file_that_is_not_a_key_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        for content in [&b"rubbish"[..], b"", &[0; 5000]] {
            fs::write(&path, content).unwrap();
            assert!(matches!(
                Identity::load_or_create(&path),
                Err(IdentityError::Malformed { .. })
            ));
            assert_eq!(fs::read(&path).unwrap(), content);
        }
    }

    #[test]
    fn missing_folder_is_named() {
        let error = Identity::load_or_create(Path::new("/nonexistent/identity.key")).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/identity.key"),
            "{error}"
        );
    }
}
