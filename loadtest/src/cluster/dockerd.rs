//! A dockerd of our own: its data, socket and network settings apart from any other on the machine, asked over its API.
//!
//! What for: pulls as dockerd makes them, through `registry-mirrors`. What not for: containers; it has no bridge and leaves
//! the machine's firewall alone. Invariants: it reaches nothing beyond loopback, whatever a pull asks for: everything
//! else goes to a proxy that is not there; what it mounted is unmounted before its folder goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::containerd::unmount_below;
use super::needs::DOCKERD;
use super::process::Process;

const READY_WITHIN: Duration = Duration::from_secs(30);
const ASK_WITHIN: Duration = Duration::from_secs(120);
/// Loopback's discard port, where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:9";

/// A running dockerd.
#[derive(Debug)]
pub struct Dockerd {
    process: Process,
    folder: PathBuf,
}

impl Dockerd {
    /// Starts one with everything below `folder`, a short path. `told` is a piece of its configuration, as
    /// `shoal-agent print dockerd` prints it: dockerd refuses a key that it does not know. `next` are mirrors of
    /// docker.io after those that it names.
    pub async fn start(folder: &Path, told: &str, next: &[&str]) -> Result<Self> {
        let mut config = json!({
            "bridge": "none",
            "data-root": folder.join("root"),
            "exec-root": folder.join("exec"),
            "features": { "buildkit": false },
            "hosts": [format!("unix://{}", folder.join("sock").display())],
            "ip-forward": false,
            "ip-masq": false,
            "iptables": false,
            "pidfile": folder.join("pid"),
            "storage-driver": "vfs",
            "userland-proxy": false,
        });
        let told: serde_json::Map<String, Value> = serde_json::from_str(told)?;
        config.as_object_mut().context("an object")?.extend(told);
        let mirrors = &mut config["registry-mirrors"];
        let mirrors = mirrors.as_array_mut().context("no mirrors")?;
        mirrors.extend(next.iter().map(|mirror| json!(mirror)));
        let file = folder.join("daemon.json");
        fs::write(&file, config.to_string())?;
        let args = ["--config-file".into(), file.into()];
        let env = [
            ("HTTP_PROXY".to_owned(), NOWHERE.to_owned()),
            ("HTTPS_PROXY".to_owned(), NOWHERE.to_owned()),
            ("NO_PROXY".to_owned(), "127.0.0.1".to_owned()),
        ];
        let log = folder.join("log");
        let process = Process::start("dockerd", &DOCKERD.path()?, &args, &env, &log)?;
        let mut docker = Self {
            process,
            folder: folder.to_owned(),
        };
        docker.wait_ready().await?;
        Ok(docker)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while self.ask("GET", "/_ping").await.is_err() {
            if let Some(status) = self.process.ended()? {
                let said = self.process.last_lines(5);
                bail!("dockerd ended with {status}: {said}");
            }
            if Instant::now() > deadline {
                let said = self.process.last_lines(5);
                bail!("dockerd is not ready after {READY_WITHIN:?}: {said}");
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Pulls an image of docker.io.
    pub async fn pull(&self, name: &str, tag: &str) -> Result<()> {
        let said = self
            .ask(
                "POST",
                &format!("/images/create?fromImage={name}&tag={tag}"),
            )
            .await?;
        // It answers 200 first and tells of a failure in what follows.
        ensure!(!said.contains("errorDetail"), "docker pull: {said}");
        Ok(())
    }

    /// The id of an image that is there: the digest of its configuration.
    pub async fn image_id(&self, reference: &str) -> Result<String> {
        let said = self
            .ask("GET", &format!("/images/{reference}/json"))
            .await?;
        let (_, after) = said.split_once("\"Id\":\"").context("no Id")?;
        let (id, _) = after.split_once('"').context("no end of the Id")?;
        Ok(id.to_owned())
    }

    /// One request of HTTP/1.0, whose answer ends with the connection.
    async fn ask(&self, method: &str, path: &str) -> Result<String> {
        let asked = async {
            let mut stream = UnixStream::connect(self.folder.join("sock")).await?;
            let head = format!("{method} {path} HTTP/1.0\r\nHost: docker\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = timeout(ASK_WITHIN, asked).await;
        let answer =
            answer.with_context(|| format!("dockerd: {path} took over {ASK_WITHIN:?}"))??;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        ensure!(head.contains(" 200 "), "dockerd: {path}: {head} {body}");
        Ok(body.to_owned())
    }

    /// Ends dockerd and the containerd that it runs, then what they left mounted.
    pub async fn stop(&mut self) -> Result<()> {
        let ended = self.process.stop().await;
        unmount_below(&self.folder);
        ended.map(|_status| ())
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        unmount_below(&self.folder);
    }
}
