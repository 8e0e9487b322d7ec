//! The credential that an operator gave this origin for a registry: where it is kept, and how it is read.
//!
//! For: a user with a password in a file of its own, and Docker's `config.json` in all its forms (as docker, podman
//! and Kubernetes write it). Not for: what is done with a credential (that is `auth`), or whom it may be shown to.
//!
//! Invariants: files are read anew each time a credential is needed, so that a rotated one is taken up without a
//! restart; only what a helper program said is remembered, for a few minutes. Nothing secret is printed, put in an
//! error, or kept longer than it is used; all of it is wiped when dropped.

pub(crate) mod docker;
mod program;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::Instant;
use zeroize::Zeroizing;

use self::docker::{DockerConfig, Holder};
use self::program::ProgramError;

/// No file of credentials is longer; a larger one was named by mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What a helper program said is used this long, unless a registry rejects it.
const HELPED_FOR: Duration = Duration::from_secs(300);
/// Answers of helper programs that are remembered for one registry.
const HELPED_MAX: usize = 64;

/// Where an operator keeps the credential of a registry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Credentials {
    /// A Docker `config.json`, which may hold many, and may name helper programs.
    AuthFile {
        /// Its path.
        path: PathBuf,
    },
    /// One user.
    User {
        /// The user's name.
        username: String,
        /// Where the password is kept.
        password_file: PathBuf,
    },
}

/// A credential in hand.
#[derive(Clone)]
pub(crate) enum Secret {
    /// A refresh token, to be changed for an access token; with the user it goes with, when that was told.
    Identity {
        username: Option<String>,
        token: Zeroizing<String>,
    },
    /// A user and a password.
    Password {
        username: String,
        password: Zeroizing<String>,
    },
    /// A token that the registry itself takes.
    Registry { token: Zeroizing<String> },
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Identity { .. } => "Identity(redacted)",
            Self::Password { .. } => "Password(redacted)",
            Self::Registry { .. } => "Registry(redacted)",
        })
    }
}

impl Secret {
    /// The value of an `Authorization: Basic` header; of a ready-made token there is none.
    pub(crate) fn basic(&self) -> Option<Zeroizing<String>> {
        let (username, password) = match self {
            Self::Identity { username, token } => (username.as_deref().unwrap_or("<token>"), token),
            Self::Password { username, password } => (username.as_str(), password),
            Self::Registry { .. } => return None,
        };
        let pair = Zeroizing::new(format!("{username}:{}", password.as_str()));
        let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
        Some(Zeroizing::new(format!("Basic {}", encoded.as_str())))
    }
}

/// Why a credential that is configured is not at hand. Says where to look, never what was found there.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum KeyringError {
    #[error("{} holds no credential for {registry}; add one with `docker login` or `podman login`", path.display())]
    Absent { path: PathBuf, registry: String },
    #[error("{} is not a Docker config.json: {why}", path.display())]
    Malformed { path: PathBuf, why: &'static str },
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("cannot read {}: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
}

/// Reads the credential of one registry when it is needed.
#[derive(Clone)]
pub(crate) struct Keyring {
    registry: String,
    credentials: Credentials,
    /// Where helper programs are looked for, when not on the process's own search path.
    search_path: Option<OsString>,
    /// How long a helper program may take.
    patience: Duration,
    helped: Arc<Mutex<BTreeMap<Holder, (Secret, Instant)>>>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring")
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl Keyring {
    pub(crate) fn new(registry: String, credentials: Credentials) -> Self {
        Self {
            registry,
            credentials,
            search_path: None,
            patience: program::DEADLINE,
            helped: Arc::default(),
        }
    }

    /// The same, with helper programs looked for elsewhere.
    #[cfg(test)]
    fn searching(mut self, path: OsString) -> Self {
        self.search_path = Some(path);
        self
    }

    /// The credential for a repository. `rejected`: the last one was refused, so nothing remembered will do.
    pub(crate) async fn secret(
        &self,
        repository: &str,
        rejected: bool,
    ) -> Result<Secret, KeyringError> {
        let path = match &self.credentials {
            Credentials::User {
                username,
                password_file,
            } => {
                let text = read(password_file).await?;
                let password = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
                let username = username.clone();
                return Ok(Secret::Password { username, password });
            }
            Credentials::AuthFile { path } => path,
        };
        let text = read(path).await?;
        let malformed = |why| KeyringError::Malformed {
            path: path.clone(),
            why,
        };
        let mut config = DockerConfig::parse(text.as_bytes()).map_err(malformed)?;
        let absent = || KeyringError::Absent {
            path: path.clone(),
            registry: self.registry.clone(),
        };
        if let Some(secret) = config.take(&self.registry, repository) {
            return Ok(secret);
        }
        let holder = config
            .holder(&self.registry, repository)
            .ok_or_else(absent)?;
        self.helped(holder, rejected).await?.ok_or_else(absent)
    }

    async fn helped(&self, holder: Holder, rejected: bool) -> Result<Option<Secret>, ProgramError> {
        let known = self
            .book()
            .get(&holder)
            .filter(|(_, until)| !rejected && Instant::now() < *until)
            .map(|(secret, _)| secret.clone());
        if known.is_some() {
            return Ok(known);
        }
        let told = program::ask(&holder, self.search_path.as_deref(), self.patience).await?;
        let mut book = self.book();
        book.remove(&holder);
        if let Some(secret) = &told {
            let now = Instant::now();
            book.retain(|_, (_, until)| now < *until);
            if book.len() < HELPED_MAX {
                book.insert(holder, (secret.clone(), now + HELPED_FOR));
            }
        }
        Ok(told)
    }

    fn book(&self) -> std::sync::MutexGuard<'_, BTreeMap<Holder, (Secret, Instant)>> {
        self.helped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(path: &Path) -> Result<Zeroizing<String>, KeyringError> {
    let unreadable = |why: String| KeyringError::Unreadable {
        path: path.to_owned(),
        why,
    };
    let told = tokio::fs::metadata(path)
        .await
        .map_err(|error| unreadable(error.to_string()))?;
    if told.len() > FILE_BYTES_MAX {
        return Err(unreadable("it is larger than 1 MiB".to_owned()));
    }
    tokio::fs::read_to_string(path)
        .await
        .map(Zeroizing::new)
        .map_err(|error| unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder with a `config.json` and one helper program, `docker-credential-box`.
    struct Home(tempfile::TempDir);

    impl Home {
        fn new(config: &str, program: &str) -> Self {
            let home = Self(tempfile::tempdir().unwrap());
            std::fs::write(home.path("config.json"), config).unwrap();
            let path = home.path("docker-credential-box");
            std::fs::write(&path, format!("#!/bin/sh\n{program}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            home
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn keyring(&self, registry: &str) -> Keyring {
            let path = self.path("config.json");
            Keyring::new(registry.to_owned(), Credentials::AuthFile { path })
                .searching(self.0.path().as_os_str().to_owned())
        }
    }

    const HELPERS: &str =
        r#"{"auths":{"ghcr.io":{}},"credsStore":"box","credHelpers":{"ecr.example":"box"}}"#;

    async fn basic(keyring: &Keyring, rejected: bool) -> String {
        let secret = keyring.secret("team/app", rejected).await.unwrap();
        let basic = secret.basic().unwrap();
        let encoded = basic.strip_prefix("Basic ").unwrap();
        String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn changed_file_is_taken_up() {
        let home = Home::new(
            r#"{"auths":{"a.example":{"username":"u","password":"1"}}}"#,
            "",
        );
        let keyring = home.keyring("a.example");
        assert_eq!(basic(&keyring, false).await, "u:1");
        let changed = r#"{"auths":{"a.example":{"username":"u","password":"2"}}}"#;
        std::fs::write(home.path("config.json"), changed).unwrap();
        assert_eq!(basic(&keyring, false).await, "u:2");
        std::fs::write(home.path("config.json"), "{").unwrap();
        let error = keyring.secret("team/app", false).await.unwrap_err();
        assert!(
            error.to_string().contains("is not a Docker config.json"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn helper_program_is_told_the_registry_and_asked_once() {
        let program = r#"read -r server; echo x >> "$0.calls"; printf '{"Username":"AWS","Secret":"for %s"}' "$server""#;
        let home = Home::new(HELPERS, program);
        let keyring = home.keyring("ecr.example");
        for _ in 0..3 {
            assert_eq!(basic(&keyring, false).await, "AWS:for ecr.example");
        }
        let calls = || std::fs::read_to_string(home.path("docker-credential-box.calls")).unwrap();
        assert_eq!(calls(), "x\n");
        // What a registry rejected is asked for anew.
        assert_eq!(basic(&keyring, true).await, "AWS:for ecr.example");
        assert_eq!(calls(), "x\nx\n");
        // Docker Hub has a name of its own there, and an empty entry stands for the store.
        let hub = home.keyring("docker.io");
        assert_eq!(
            basic(&hub, false).await,
            "AWS:for https://index.docker.io/v1/"
        );
        assert_eq!(
            basic(&home.keyring("ghcr.io"), false).await,
            "AWS:for ghcr.io"
        );
    }

    #[tokio::test]
    async fn identity_token_of_a_helper_is_one() {
        let home = Home::new(
            HELPERS,
            r#"printf '{"Username":"<token>","Secret":"refresh"}'"#,
        );
        let secret = home.keyring("ghcr.io").secret("team/app", false).await;
        assert!(
            matches!(secret, Ok(Secret::Identity { username: None, ref token }) if token.as_str() == "refresh"),
            "{secret:?}"
        );
    }

    #[tokio::test]
    async fn helper_that_fails_floods_or_lies_is_told_without_its_words() {
        let cases = [
            ("echo canary; exit 1", "exit status: 1"),
            (
                "echo canary >&2; echo '{\"Username\":\"canary\"}'",
                "no credential in JSON",
            ),
            (
                "while :; do echo canarycanarycanary; done",
                "more than 64 KiB",
            ),
            (
                "echo 'credentials not found in native keychain'; exit 1",
                "no credential for ghcr.io",
            ),
        ];
        for (program, expected) in cases {
            let home = Home::new(HELPERS, program);
            let error = home.keyring("ghcr.io").secret("team/app", false).await;
            let text = error.unwrap_err().to_string();
            assert!(text.contains(expected), "{program}: {text}");
            assert!(!text.contains("canary"), "{text}");
        }
    }

    #[tokio::test]
    async fn helper_that_hangs_is_given_up_and_killed() {
        let home = Home::new(HELPERS, "echo $$ > \"$0.pid\"; exec /bin/sleep 600");
        let mut keyring = home.keyring("ghcr.io");
        keyring.patience = Duration::from_millis(500);
        let error = keyring.secret("team/app", false).await.unwrap_err();
        assert!(error.to_string().contains("did not answer"), "{error}");
        let pid = std::fs::read_to_string(home.path("docker-credential-box.pid")).unwrap();
        let process = PathBuf::from(format!("/proc/{}/cmdline", pid.trim()));
        let wait = async {
            // A dead one that is not reaped yet has an empty line.
            while std::fs::read(&process).is_ok_and(|line| !line.is_empty()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("it is killed");
    }

    #[tokio::test]
    async fn helper_is_never_more_than_a_name() {
        for name in ["../box", "a/b", "box; rm", "", ".x", "$(x)"] {
            let config = format!(r#"{{"credsStore":{}}}"#, serde_json::Value::from(name));
            let home = Home::new(&config, "");
            let error = home.keyring("ghcr.io").secret("team/app", false).await;
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains("not a credential helper's name"),
                "{name}: {error}"
            );
        }
        let home = Home::new(r#"{"credsStore":"elsewhere"}"#, "");
        let error = home.keyring("ghcr.io").secret("team/app", false).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("docker-credential-elsewhere"), "{error}");
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let secret = Secret::Password {
            username: "canary".into(),
            password: Zeroizing::new("canary".into()),
        };
        assert!(!format!("{secret:?}").contains("canary"));
    }
}
