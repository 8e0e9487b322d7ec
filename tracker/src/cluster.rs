//! The cluster's secrets, as trackers and origins hold them: the key that signs memberships, and the tokens that let
//! agents in.
//!
//! For: reading both from files, or making a development cluster's in the data folder; signing and renewing the
//! process's own membership. Not for: agents, which hold a token and never the key.
//!
//! Invariants: a file that is made here is readable by its owner alone; nothing here is ever printed; a token file may
//! hold several tokens, one a line, so that one can be replaced without a moment at which nobody is let in.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shoal_link::Credentials;
use shoal_proto::{
    ClusterKey, ClusterPublicKey, JoinToken, Membership, PeerId, Role, SignedMembership, Zone,
};
use tokio_util::sync::CancellationToken;

/// A key or token file is not longer.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Tokens in one file.
const TOKENS_MAX: usize = 16;

/// What trackers and origins know and agents do not.
#[derive(Clone, Debug)]
pub struct ClusterSecrets {
    key: Arc<ClusterKey>,
    tokens: Arc<Vec<JoinToken>>,
}

/// Where the secrets come from.
#[derive(Clone, Debug)]
pub struct SecretFiles<'a> {
    /// The process's own folder.
    pub data_dir: &'a Path,
    /// The configured key; `None` for a development cluster's.
    pub key_file: Option<&'a Path>,
    /// The configured tokens; `None` for the data folder's.
    pub join_token_file: Option<&'a Path>,
}

/// Why there are no secrets.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file cannot be read or made.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A token of another cluster would let nobody in.
    #[error("a join token in {} is of another cluster than the key; put a token of this cluster there", path.display())]
    ForeignToken {
        /// Which file.
        path: PathBuf,
    },
    /// The file holds no key.
    #[error("{} holds no cluster key; copy it from another tracker or origin of the cluster", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
    /// The file holds no token.
    #[error("{} holds no join token; remove it to have one made, or put one in each line", path.display())]
    NoToken {
        /// Which file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl ClusterSecrets {
    /// Reads the secrets, making those that are not configured and not there yet.
    ///
    /// # Errors
    /// Says which file is wrong and how to mend it.
    pub fn load_or_create(files: &SecretFiles<'_>) -> Result<Self, ClusterError> {
        let key = match files.key_file {
            Some(path) => parse_key(path)?,
            None => {
                let path = files.data_dir.join("cluster.key");
                if exists(&path)? {
                    parse_key(&path)?
                } else {
                    let key = ClusterKey::from_secret(&random_bytes()?);
                    create(&path, &key.to_text())?;
                    tracing::info!(path = %path.display(), "made the key of a new development cluster");
                    key
                }
            }
        };
        let path = files
            .join_token_file
            .map_or_else(|| files.data_dir.join("join-token"), Path::to_owned);
        let tokens = if files.join_token_file.is_some() || exists(&path)? {
            parse_tokens(&path, key.public())?
        } else {
            let token = JoinToken::new(key.public(), random_bytes()?);
            create(&path, &token.to_text())?;
            tracing::info!(path = %path.display(), "made a join token; agents need it as `cluster.join_token_file`");
            vec![token]
        };
        Ok(Self {
            key: Arc::new(key),
            tokens: Arc::new(tokens),
        })
    }

    /// By what everybody knows the cluster.
    #[must_use]
    pub fn public(&self) -> ClusterPublicKey {
        self.key.public()
    }

    /// The token that new agents are given.
    #[must_use]
    pub fn current_token(&self) -> &JoinToken {
        &self.tokens[0]
    }

    /// Whether it is the secret of one of the tokens; takes the same time whichever it is.
    #[must_use]
    pub fn lets_in(&self, secret: &[u8]) -> bool {
        self.tokens
            .iter()
            .fold(false, |found, token| token.secret_matches(secret) | found)
    }

    /// Signs that a peer belongs to the cluster.
    #[must_use]
    pub fn sign(
        &self,
        peer: PeerId,
        role: Role,
        zone: &Zone,
        not_after_unix_s: u64,
    ) -> SignedMembership {
        self.key.sign(&Membership {
            peer,
            role,
            zone: zone.clone(),
            not_after_unix_s,
        })
    }

    /// Credentials of a process that holds the key, and so signs for itself.
    #[must_use]
    pub fn credentials(&self, own: &OwnMembership, accepted: &[ClusterPublicKey]) -> Credentials {
        let mut keys = vec![self.public()];
        keys.extend(accepted.iter().filter(|key| **key != self.public()));
        Credentials::new(keys, Some(self.sign_own(own, unix_now())))
    }

    /// Signs the process's own membership anew at half of its life, for as long as the process lives. Cancel safe.
    pub async fn renew(
        self,
        own: OwnMembership,
        credentials: Credentials,
        shutdown: CancellationToken,
    ) {
        let half = own.life / 2;
        while shutdown
            .run_until_cancelled(tokio::time::sleep(half))
            .await
            .is_some()
        {
            credentials.set_membership(self.sign_own(&own, unix_now()));
            tracing::debug!(role = %own.role, "renewed our own membership");
        }
    }

    fn sign_own(&self, own: &OwnMembership, now_unix_s: u64) -> SignedMembership {
        self.sign(
            own.peer,
            own.role,
            &own.zone,
            now_unix_s + own.life.as_secs(),
        )
    }
}

/// Who the process itself is.
#[derive(Clone, Debug)]
pub struct OwnMembership {
    /// Its name.
    pub peer: PeerId,
    /// Tracker or origin.
    pub role: Role,
    /// Where it stands.
    pub zone: Zone,
    /// How long one signature is good.
    pub life: Duration,
}

/// Seconds since the epoch, now.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The system gives none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], ClusterError> {
    shoal_link::random_bytes().ok_or(ClusterError::NoRandomness)
}

fn exists(path: &Path) -> Result<bool, ClusterError> {
    path.try_exists().map_err(|source| ClusterError::File {
        action: "look for",
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<String, ClusterError> {
    let failed = |source| ClusterError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .map_err(failed)?
        .take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}

fn create(path: &Path, text: &str) -> Result<(), ClusterError> {
    let failed = |source| ClusterError::File {
        action: "create",
        path: path.to_owned(),
        source,
    };
    // Under another name first: a crash leaves no half of a secret behind.
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(failed)?;
    file.write_all(format!("{}\n", text.trim_end()).as_bytes())
        .map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&partial, path).map_err(failed)
}

fn parse_key(path: &Path) -> Result<ClusterKey, ClusterError> {
    ClusterKey::parse(read(path)?.trim()).map_err(|_| ClusterError::NoKey {
        path: path.to_owned(),
    })
}

fn parse_tokens(path: &Path, cluster: ClusterPublicKey) -> Result<Vec<JoinToken>, ClusterError> {
    let text = read(path)?;
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tokens: Vec<JoinToken> = lines
        .take(TOKENS_MAX)
        .map(|line| {
            line.parse().map_err(|_| ClusterError::NoToken {
                path: path.to_owned(),
            })
        })
        .collect::<Result<_, _>>()?;
    if tokens.is_empty() {
        return Err(ClusterError::NoToken {
            path: path.to_owned(),
        });
    }
    if tokens.iter().any(|token| token.cluster() != cluster) {
        return Err(ClusterError::ForeignToken {
            path: path.to_owned(),
        });
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn load(
        dir: &Path,
        key_file: Option<&Path>,
        join_token_file: Option<&Path>,
    ) -> Result<ClusterSecrets, ClusterError> {
        ClusterSecrets::load_or_create(&SecretFiles {
            data_dir: dir,
            key_file,
            join_token_file,
        })
    }

    #[test]
    fn development_cluster_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let made = load(dir.path(), None, None).unwrap();
        let again = load(dir.path(), None, None).unwrap();
        assert_eq!(made.public(), again.public());
        assert!(again.lets_in(made.current_token().secret_bytes()));
        for name in ["cluster.key", "join-token"] {
            let mode = std::fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let token: JoinToken = std::fs::read_to_string(dir.path().join("join-token"))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(token.cluster(), made.public());
    }

    #[test]
    fn several_tokens_let_in_while_they_are_being_changed() {
        let dir = tempfile::tempdir().unwrap();
        let first = load(dir.path(), None, None).unwrap();
        let newer = JoinToken::new(first.public(), [9; 32]);
        let file = dir.path().join("tokens");
        std::fs::write(
            &file,
            format!(
                "# new\n{}\n\n{}\n",
                newer.to_text(),
                first.current_token().to_text()
            ),
        )
        .unwrap();
        let both = load(dir.path(), None, Some(&file)).unwrap();
        assert!(
            both.lets_in(newer.secret_bytes())
                && both.lets_in(first.current_token().secret_bytes())
        );
        assert!(!both.lets_in(&[8; 32]) && !both.lets_in(b""));
    }

    #[test]
    fn wrong_files_are_refused_with_their_name() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        load(dir.path(), None, None).unwrap();
        load(other.path(), None, None).unwrap();
        let file = dir.path().join("x");
        let check = |content: &str, expected: &str| {
            std::fs::write(&file, content).unwrap();
            let key = load(other.path(), Some(&file), None)
                .unwrap_err()
                .to_string();
            let token = load(dir.path(), None, Some(&file)).unwrap_err().to_string();
            assert!(key.contains("/x holds no cluster key"), "{key}");
            assert!(token.contains(expected), "{token}");
        };
        check("", "holds no join token");
        check("nonsense", "holds no join token");
        check(
            &std::fs::read_to_string(other.path().join("join-token")).unwrap(),
            "another cluster",
        );
        let missing = load(dir.path(), Some(&dir.path().join("absent")), None)
            .unwrap_err()
            .to_string();
        assert!(
            missing.contains("cannot read") && missing.contains("absent"),
            "{missing}"
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = load(dir.path(), None, None).unwrap();
        let text = secrets.current_token().to_text();
        let secret = text.rsplit('.').next().unwrap();
        assert!(!format!("{secrets:?}").contains(secret));
    }
}
