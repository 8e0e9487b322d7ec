//! Docker's credential helpers: a program `docker-credential-NAME get`, the server on its input, JSON on its output.
//!
//! Not for: which helper has what (that is `docker`), or remembering what it said (that is `keyring`).
//!
//! Invariants: the name is a bare file name and the program is started without a shell; it is given one line and
//! nothing else of ours; what it writes is capped, what it writes to its error stream is not read, and it is killed
//! at its deadline or when nobody waits for it. No word of it is repeated.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::Secret;
use super::docker::Holder;

/// A helper that takes longer is killed: whoever asks this origin has a deadline too.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer of a helper.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Longest name of a helper.
const NAME_BYTES_MAX: usize = 64;

/// Why a helper gave no credential.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("docker-credential-{0} failed ({1}); run it by hand with `get` to see why")]
    Failed(String, String),
    #[error("docker-credential-{0} gave no credential in JSON")]
    Malformed(String),
    #[error("`{0}` is not a credential helper's name; use letters, digits, . _ and -")]
    Name(String),
    #[error(
        "docker-credential-{0} cannot be started ({1}); install it on this origin's search path"
    )]
    Start(String, String),
    #[error("docker-credential-{0} did not answer in time")]
    TimedOut(String),
    #[error("docker-credential-{0} answered more than 64 KiB")]
    TooLong(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper; `None` when it has no such credential. Its `PATH` is replaced where one is given.
pub(super) async fn ask(
    holder: &Holder,
    path: Option<&OsStr>,
    patience: Duration,
) -> Result<Option<Secret>, ProgramError> {
    let name = checked(&holder.program)?;
    let mut command = Command::new(format!("docker-credential-{name}"));
    command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut child = command
        .spawn()
        .map_err(|error| ProgramError::Start(name.to_owned(), error.kind().to_string()))?;
    let talk = converse(&mut child, name, &holder.server);
    let talked = tokio::time::timeout(patience, talk).await;
    let (status, answer) = talked.map_err(|_| ProgramError::TimedOut(name.to_owned()))??;
    read(name, status, &answer)
}

fn checked(name: &str) -> Result<&str, ProgramError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let good = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(plain);
    if good {
        return Ok(name);
    }
    let shown = name
        .chars()
        .filter(|c| !c.is_control())
        .take(NAME_BYTES_MAX);
    Err(ProgramError::Name(shown.collect()))
}

async fn converse(
    child: &mut Child,
    name: &str,
    server: &str,
) -> Result<(ExitStatus, Zeroizing<Vec<u8>>), ProgramError> {
    let failed =
        |error: std::io::Error| ProgramError::Failed(name.to_owned(), error.kind().to_string());
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it has ended, or will answer all the same.
        let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
    }
    let mut answer = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX + 1));
    if let Some(stdout) = child.stdout.take() {
        let mut capped = stdout.take(ANSWER_BYTES_MAX as u64 + 1);
        capped.read_to_end(&mut answer).await.map_err(failed)?;
    }
    if answer.len() > ANSWER_BYTES_MAX {
        return Err(ProgramError::TooLong(name.to_owned()));
    }
    Ok((child.wait().await.map_err(failed)?, answer))
}

fn read(name: &str, status: ExitStatus, answer: &[u8]) -> Result<Option<Secret>, ProgramError> {
    if !status.success() {
        // The one failure that the protocol has words for.
        let absent = b"credentials not found".as_slice();
        if answer.windows(absent.len()).any(|words| words == absent) {
            return Ok(None);
        }
        return Err(ProgramError::Failed(name.to_owned(), status.to_string()));
    }
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|_| ProgramError::Malformed(name.to_owned()))?;
    let secret = Zeroizing::new(answer.secret);
    if secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(match answer.username {
        token if token == "<token>" => Secret::Identity {
            username: None,
            token: secret,
        },
        username => Secret::Password {
            username,
            password: secret,
        },
    }))
}
